"""Files of disks: ``/proc/diskstats`` and what lies below ``/sys/block/DEV``; formats of v5.4."""

from collections.abc import Callable

from emulator.queue_map import poll_map, queue_map
from emulator.report.procfs.disks import STAT_DISCARD, STAT_FLUSH, STAT_READ, STAT_WRITE, DiskCounts
from emulator.report.procfs.view import SD_MAJOR, SD_MINORS, NoFileError, View
from emulator.types import DiskSpec

#: What every elevator that a box can have is called.
SCHEDULERS = ("mq-deadline", "none")


def diskstats(view: View) -> str:
    """Return ``/proc/diskstats``: a line per disk."""
    lines: list[str] = []
    for index, disk in enumerate(view.spec.disks):
        numbers = " ".join(map(str, disk_numbers(view, index)))
        lines.append(f"{SD_MAJOR:4d} {SD_MINORS * index:7d} {disk.name} {numbers}\n")
    return "".join(lines)


def disk_numbers(view: View, index: int) -> list[int]:
    """Return the numbers of a disk, from the reads on: 15, with flushes 17."""
    counts = view.disk_counts(index)
    numbers = _group(counts, STAT_READ) + _group(counts, STAT_WRITE)
    counter = view.disk_counter
    numbers += [sum(counts.in_flight), counter.io_ms(counts), counter.queue_ms(counts)]
    numbers += _group(counts, STAT_DISCARD)
    if view.spec.kernel.rules.diskstats_flush:
        flushes = counts.groups[STAT_FLUSH]
        numbers += [flushes.ios, flushes.ms]
    return numbers


def _group(counts: DiskCounts, group: int) -> list[int]:
    one = counts.groups[group]
    return [one.ios, one.merges, one.sectors, one.ms]


def stat(view: View, disk: str) -> str:
    """Return ``/sys/block/DEV/stat``: the same numbers in columns of eight."""
    return " ".join(f"{number:8d}" for number in disk_numbers(view, view.disk_index(disk))) + "\n"


def inflight(view: View, disk: str) -> str:
    """Return ``/sys/block/DEV/inflight``: reads and writes that the driver has."""
    reads, writes = view.disk_counts(view.disk_index(disk)).in_flight
    return f"{reads:8d} {writes:8d}\n"


def dev(view: View, disk: str) -> str:
    """Return ``/sys/block/DEV/dev``: major and minor number."""
    return f"{SD_MAJOR}:{SD_MINORS * view.disk_index(disk)}\n"


def size(view: View, disk: str) -> str:
    """Return ``/sys/block/DEV/size``, in sectors of 512 bytes."""
    params = _spec(view, disk).params
    mib = params.get("dev_size_mb", 0) or params.get("gb", 0) * 1024
    return f"{mib * 2048}\n"


# -- queue/ -------------------------------------------------------------------------------------


def scheduler(view: View, disk: str) -> str:
    """Return which elevator is in use, among those there are."""
    chosen = _spec(view, disk).scheduler
    return " ".join(f"[{name}]" if name == chosen else name for name in SCHEDULERS) + "\n"


def nr_requests(view: View, disk: str) -> str:
    """Return how many requests the queue holds."""
    return f"{_spec(view, disk).nr_requests}\n"


def rq_affinity(view: View, disk: str) -> str:
    """Return how completions are steered."""
    return f"{_spec(view, disk).rq_affinity}\n"


def rotational(view: View, disk: str) -> str:
    """Return whether the disk turns."""
    return f"{int(_spec(view, disk).driver == 'hdd')}\n"


def logical_block_size(view: View, disk: str) -> str:
    """Return the sector size."""
    return f"{_sector_size(_spec(view, disk))}\n"


def _sector_size(disk: DiskSpec) -> int:
    return disk.params.get("sector_size", disk.params.get("bs", 512))


def _io_poll_delay(poll_nsec: int) -> int:
    return poll_nsec if poll_nsec < 0 else poll_nsec // 1000


#: Further files of ``queue/``.
QUEUE_FILES: dict[str, Callable[[DiskSpec], int | str]] = {
    "add_random": lambda _disk: 0,
    "fua": lambda disk: disk.params.get("fua", 0),
    "hw_sector_size": _sector_size,
    "io_poll": lambda disk: int(disk.params.get("poll_queues", 0) > 0),
    "io_poll_delay": lambda disk: _io_poll_delay(disk.params.get("poll_nsec", -1)),
    "io_timeout": lambda disk: disk.params.get("timeout_ms", 30_000),
    "iostats": lambda _disk: 1,
    "minimum_io_size": _sector_size,
    "optimal_io_size": lambda _disk: 0,
    "physical_block_size": _sector_size,
    "write_cache": lambda disk: (
        "write back" if disk.params.get("write_cache", 0) else "write through"
    ),
}


def queue_file(view: View, disk: str, name: str) -> str:
    """Return a file of ``queue/``."""
    spec = _spec(view, disk)
    if name not in QUEUE_FILES:
        raise NoFileError("no such file")
    return f"{QUEUE_FILES[name](spec)}\n"


# -- mq/N/ --------------------------------------------------------------------------------------


def nr_queues(view: View, disk: str) -> int:
    """Return how many hardware queues a disk has, polled ones included."""
    params = _spec(view, disk).params
    return params.get("submit_queues", 1) + params.get("poll_queues", 0)


def hctx_cpus(view: View, disk: str, hctx: int) -> list[int]:
    """Return the CPUs that submit to a hardware queue; raise NoFileError."""
    count = nr_queues(view, disk)
    if hctx >= count:
        raise NoFileError(f"{disk} has the hardware queues 0-{count - 1}, not {hctx}")
    polled = hctx >= _spec(view, disk).params.get("submit_queues", 1)
    mapped = (poll_map if polled else queue_map)(view.spec, view.disk_index(disk))
    return [cpu for cpu, queue in enumerate(mapped) if queue == hctx]


def cpu_list(view: View, disk: str, hctx: int) -> str:
    """Return ``mq/N/cpu_list``, with a blank after each comma."""
    return ", ".join(map(str, hctx_cpus(view, disk, hctx))) + "\n"


def nr_tags(view: View, disk: str, hctx: int) -> str:
    """Return ``mq/N/nr_tags``: the driver's tags of the queue."""
    hctx_cpus(view, disk, hctx)
    params = _spec(view, disk).params
    return f"{params.get('max_queue', params.get('hw_queue_depth', 64))}\n"


def nr_reserved_tags(view: View, disk: str, hctx: int) -> str:
    """Return ``mq/N/nr_reserved_tags``: none."""
    hctx_cpus(view, disk, hctx)
    return "0\n"


def dispatch_busy(view: View, disk: str, hctx: int) -> str:
    """Return how busy the driver of a hardware queue was of late, as the CPU has it that found it busiest."""
    hctx_cpus(view, disk, hctx)
    averages = view.disk_counts(view.disk_index(disk)).dispatch_busy
    return f"{max((busy for (queue, _), busy in averages.items() if queue == hctx), default=0)}\n"


def hctx_type(view: View, disk: str, hctx: int) -> str:
    """Return what a hardware queue is for."""
    hctx_cpus(view, disk, hctx)
    polled = hctx >= _spec(view, disk).params.get("submit_queues", 1)
    return "poll\n" if polled else "default\n"


def _spec(view: View, disk: str) -> DiskSpec:
    return view.spec.disks[view.disk_index(disk)]
