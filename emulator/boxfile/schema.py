"""The schema of a box file: what may be said, with which units, as pydantic models.

:class:`BoxFile` is the whole of it; ``config/box.schema.json`` and ``config/README.md`` are made from
its descriptions.  :func:`check` is how data get to be one.  What no single value shows is checked
beside this file, by the modules that resolve a section.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from emulator.boxfile.costs import COST_NAMES, VERIFY
from emulator.boxfile.problems import Path
from emulator.boxfile.reader import child
from emulator.boxfile.validation import child_at
from emulator.types import NR_CPUS_MAX, cpulist_parse
from emulator.units import DURATION_PATTERN, SIZE_PATTERN, duration_parse, size_parse

CPULIST_PATTERN = r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"

# -- Values ---------------------------------------------------------------------------------------


def _duration(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit: write a duration such as 15ms")
    return duration_parse(value)


def _duration_or_ns(value: object) -> object:
    return duration_parse(value) if isinstance(value, str) else value


def _size(value: object) -> object:
    return size_parse(value) if isinstance(value, str) else value


def _cpulist(value: object) -> int:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str):
        raise ValueError(f"{value!r} is not a list of CPUs such as 0-3,8")
    for number in re.findall(r"[0-9]+", text):
        if int(number) >= NR_CPUS_MAX:
            raise ValueError(f"CPU {number}: there are no more than {NR_CPUS_MAX} CPUs")
    return cpulist_parse(text)


def _cpulist_or_task(value: object) -> int | str:
    if isinstance(value, str) and value.startswith("of:") and len(value) > 3:
        return value
    return _cpulist(value)


def _version(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f'quote the version: "{value}" (YAML reads 5.10 as the number 5.1)')
    return value


_DurationText = Annotated[str, Field(pattern=DURATION_PATTERN, title="duration")]
_SizeText = Annotated[str, Field(pattern=SIZE_PATTERN, title="size")]
_CpuListText = Annotated[str, Field(pattern=CPULIST_PATTERN, title="CPU list")]
_Count = Annotated[int, Field(ge=0)]

Duration = Annotated[int, BeforeValidator(_duration, json_schema_input_type=_DurationText)]
DurationOrNs = Annotated[
    int, Field(ge=0), BeforeValidator(_duration_or_ns, json_schema_input_type=_DurationText | int)
]
Size = Annotated[int, Field(gt=0), BeforeValidator(_size, json_schema_input_type=_SizeText | int)]
CpuList = Annotated[int, BeforeValidator(_cpulist, json_schema_input_type=_CpuListText | _Count)]
_TaskText = Annotated[str, Field(pattern="^of:.+$", title="`of:NAME`")]
CpuListOrTask = Annotated[
    int | str,
    BeforeValidator(_cpulist_or_task, json_schema_input_type=_CpuListText | _TaskText | _Count),
]
Version = Annotated[str, BeforeValidator(_version, json_schema_input_type=str)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# -- The schema -----------------------------------------------------------------------------------


class Smp(_Model):
    """QEMU's ``-smp`` words.  A word left out is 1, except that ``cores`` fills up the CPUs."""

    sockets: int | None = Field(None, ge=1, description="sockets of the machine")
    dies: int | None = Field(None, ge=1, description="dies per socket")
    cores: int | None = Field(None, ge=1, description="cores per die")
    threads: int | None = Field(None, ge=1, description="hardware threads per core")


class Machine(_Model):
    """The machine: CPUs, what they share, and the tick."""

    cpus: int = Field(ge=1, le=NR_CPUS_MAX, description="number of emulated CPUs")
    smp: Smp | None = Field(None, description="how the CPUs are arranged; one socket if left out")
    llc: list[CpuList] | None = Field(
        None,
        description="groups that share a last-level cache; left out: one per die; []: none share",
    )
    clusters: list[CpuList] | None = Field(
        None, description="groups of cores that share an L2 within their LLC; left out: none"
    )
    nodes: list[CpuList] | None = Field(None, description="NUMA nodes; left out: one")
    node_distance: list[list[int]] | None = Field(
        None, description="row per node, 10 on the diagonal; left out: 20 elsewhere"
    )
    hz: Literal[100, 250, 300, 1000] = Field(1000, description="ticks per second")
    memory: Size = Field(
        4 << 30, description="bytes that could be dirty: free memory and file pages"
    )
    host_cpus: CpuList | None = Field(
        None, description="host CPUs that carry the emulated ones, round robin; left out: all"
    )
    take_turns: bool = Field(
        False, description="all CPUs share one host thread, as in QEMU's TCG (inline engine only)"
    )
    turn: Duration = Field(
        0, description="with `take_turns`: a timer that serves nobody expires so often"
    )
    idle: Literal["poll", "halt"] = Field("halt", description="what the idle loop does")
    irq_time_accounting: bool = Field(
        False, description="hard and soft interrupt time is not task time"
    )


class WorkqueueOptions(_Model):
    """How the kernel's workqueues are set up."""

    unbound: list[str] = Field(
        default_factory=list,
        description="workqueues that are made WQ_UNBOUND, by their names without the disk: `[dio]`",
    )
    affinity_scope: Literal["cpu", "smt", "cache", "numa", "system"] | None = Field(
        None,
        description="pods of unbound workqueues, from 6.6 on; left out: cache (to 6.5 always numa)",
    )
    affinity_strict: bool | None = Field(
        None, description="workers may not leave their pod, from 6.6 on (to 6.5 they never may)"
    )
    cpumask: CpuList | None = Field(
        None, description="CPUs for unbound work, `/sys/devices/virtual/workqueue/cpumask`"
    )
    max_active: dict[str, int] = Field(
        default_factory=dict, description="items of a workqueue that may be active, by its name"
    )
    power_efficient: bool = Field(
        False, description="power-efficient workqueues are unbound, `workqueue.power_efficient`"
    )
    cpu_intensive_thresh: Duration | None = Field(
        None,
        description="an item that runs longer counts as CPU_INTENSIVE, from 6.6 on; 0: none does; "
        "left out: 10 ms",
    )
    create_delay: Duration = Field(
        0,
        description="creating a worker of a bound pool blocks so long, as where memory is short, and "
        "rescuers help out",
    )
    watchdog_thresh: Duration = Field(
        30_000_000_000,
        description="a work list that does not move for longer is reported in the log; 0: none is",
    )
    create_failures: int = Field(
        0,
        ge=0,
        le=1000,
        description="on each CPU, so many attempts to create a worker of a bound pool fail first, each "
        "followed by a second of waiting",
    )
    idle_timeout: Duration = Field(
        300_000_000_000,
        ge=1,
        description="a worker of a bound pool that has idled for so long ends if too many idle; a "
        "constant of the kernel (IDLE_WORKER_TIMEOUT)",
    )


class Kernel(_Model):
    """The emulated kernel: a version and every switch on top of it, by kernel names."""

    version: Version = Field(
        "5.4", description="kernel version, quoted: 5.4, 5.6, 5.10, 5.15, 6.1, 6.6 or 6.12"
    )
    preset: str | None = Field(None, description="sysctls by tuned profile name, `config/presets`")
    sysctl: dict[str, int] = Field(
        default_factory=dict, description="sysctls by full name, plain numbers (ns)"
    )
    features: dict[str, bool] | list[str] = Field(
        default_factory=dict, description="sched features: `{WA_BIAS: false}` or `[NO_WA_BIAS]`"
    )
    policies: list[str] = Field(
        default_factory=list, description="remedies of the thread by name, see below"
    )
    rules: dict[str, bool | int] = Field(
        default_factory=dict, description="single rules, whatever version and policies say"
    )
    completion: str = Field(
        "bound",
        description="where a finished direct write's work goes: a completion policy, see below",
    )
    threadirqs: bool = Field(
        False,
        description="boot option: device interrupts are handled in threads `irq/N-name`, SCHED_FIFO "
        "50, and softirqs in those or in ksoftirqd",
    )
    rcu_callbacks: bool = Field(
        False, description="IO leaves RCU callbacks, so the next tick of its CPU raises RCU"
    )
    rcu_needs_cpu: bool = Field(
        False,
        description="a CPU that idles keeps its tick for the callbacks of IO too (`rcu_callbacks`)",
    )
    workqueue: WorkqueueOptions = Field(
        default_factory=lambda: WorkqueueOptions.model_validate({}),
        description="workqueues and their affinity",
    )


def _costs_schema(schema: dict[str, Any]) -> None:
    for name in COST_NAMES:
        per_name = name == VERIFY
        number = {"type": "integer", "minimum": 0}
        mapping = {"type": "object", "additionalProperties": number}
        schema["properties"][name] = mapping if per_name else number
    schema["additionalProperties"] = False


class CostsChoice(BaseModel):
    """What every act costs: a preset of ``config/costs`` and, by name, what differs from it."""

    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, json_schema_extra=_costs_schema
    )

    preset: str = Field("server", description="file name in `config/costs`")


_IO_POLL_DELAY = "microseconds that a poller sleeps before it polls, up to 6.1; -1: it does not; 0: half of the mean"


class _Disk(_Model):
    on_crash: Literal["continue", "reset"] = Field(
        "continue",
        description="when a stranger kills the disk's process: its successor goes on with what was in "
        "flight, or the driver resets the disk, as `disk NAME reset` does",
    )


class ScsiDebug(_Disk):
    """A scsi_debug disk: RAM behind a timer on the submitting CPU; the module's parameter names."""

    driver: Literal["scsi_debug"]
    ndelay: DurationOrNs = Field(0, description="service time; 0: `delay` counts")
    delay: int = Field(1, ge=0, description="service time in jiffies; 0: inside queuecommand()")
    submit_queues: int = Field(1, ge=1, description="hardware queues")
    max_queue: int = Field(192, ge=1, le=192, description="commands in flight per queue")
    dev_size_mb: int = Field(8, ge=1, description="size in MiB")
    sector_size: Literal[512, 4096] = Field(512, description="bytes per sector")
    dix: Literal[0, 1] = Field(0, description="protection information in the host")
    dif: Literal[0, 1, 2, 3] = Field(0, description="protection type")
    opts: int = Field(
        0,
        ge=0,
        description="injections: 2 medium error at sector 0x1234, 4 lost, 16 transport error",
    )
    every_nth: int = Field(0, ge=0, description="with `opts` 4 or 16: every so manieth command")
    flush: Duration = Field(
        0, description="how long a flush of its volatile cache takes; 0: it has none"
    )
    fua: bool = Field(False, description="with such a cache: it can write past it")
    timeout: Duration = Field(30_000_000_000, description="of a request; whole milliseconds")
    scheduler: Literal["mq-deadline", "none"] | None = Field(
        None, description="elevator; left out: mq-deadline with one hardware queue, else none"
    )
    rq_affinity: Literal[0, 1, 2] = Field(1, description="steering of completions, as in sysfs")
    nr_requests: int | None = Field(
        None, ge=1, le=1024, description="requests; left out: what the block layer derives"
    )
    schedules: bool = Field(True, description="announce service times ahead; same results")


class NullBlk(_Disk):
    """A null_blk disk; the module's parameter names."""

    driver: Literal["null_blk"]
    irqmode: Literal[0, 1, 2] = Field(1, description="0 in queue_rq, 1 softirq, 2 timer")
    completion_nsec: DurationOrNs = Field(10_000, description="service time with irqmode 2")
    hw_queue_depth: int = Field(64, ge=1, le=10240, description="tags per hardware queue")
    submit_queues: int = Field(1, ge=1, description="hardware queues")
    queue_mode: Literal[0, 2] = Field(2, description="0: bios, no block layer; 2: multi-queue")
    memory_backed: bool = Field(
        False,
        description="copy data in queue_rq(), which may sleep: an elevator's queue is kblockd's",
    )
    poll_queues: int = Field(
        0, ge=0, description="hardware queues that are polled, from 5.15 on; see `hipri` of fio"
    )
    io_poll_delay: int = Field(-1, ge=-1, le=1_000_000, description=_IO_POLL_DELAY)
    gb: int = Field(250, ge=1, description="size in GiB")
    timeout: Duration = Field(30_000_000_000, description="of a request; whole milliseconds")
    bs: Literal[512, 4096] = Field(512, description="bytes per sector")
    scheduler: Literal["mq-deadline", "none"] | None = Field(
        None, description="elevator; left out: mq-deadline with one hardware queue, else none"
    )
    rq_affinity: Literal[0, 1, 2] = Field(1, description="steering of completions, as in sysfs")
    nr_requests: int | None = Field(
        None, ge=1, le=1024, description="requests; left out: what the block layer derives"
    )
    schedules: bool = Field(True, description="announce service times ahead; same results")


class _VectorDisk(_Disk):
    size_gb: int = Field(256, ge=1, description="size in GiB")
    scheduler: Literal["mq-deadline", "none"] | None = Field(
        None, description="elevator; left out: mq-deadline with one hardware queue, else none"
    )
    rq_affinity: Literal[0, 1, 2] = Field(1, description="steering of completions, as in sysfs")
    nr_requests: int | None = Field(
        None, ge=1, le=1024, description="requests; left out: what the block layer derives"
    )
    timeout: Duration = Field(
        30_000_000_000, description="of a request (`queue/io_timeout`); whole milliseconds"
    )
    reset_time: Duration = Field(100_000_000, description="how long a reset of the device takes")
    flush: Duration = Field(
        0, description="how long a flush of its volatile cache takes; 0: it has none"
    )
    fua: bool = Field(False, description="with such a cache: it can write past it")


class _FlashDisk(_VectorDisk):
    read: Duration | None = Field(
        None, description="median of a 4 KiB read; left out: the preset's"
    )
    write: Duration | None = Field(
        None, description="median of a 4 KiB write; left out: the preset's"
    )
    sigma: float | None = Field(
        None, ge=0, le=2, description="spread of the lognormal; left out: the preset's"
    )
    units: int | None = Field(
        None, ge=1, description="requests served at once; left out: the preset's"
    )


class Nvme(_FlashDisk):
    """An NVMe disk: queues with managed vectors, completions ended in the interrupt; its key is nvme0n1."""

    driver: Literal["nvme"]
    preset: Literal["optane", "p4500", "generic"] = Field(
        "generic", description="latency profile, see `emulator/device/latency.py`"
    )
    vectors: int | None = Field(
        None, ge=1, description="interrupt vectors for IO; left out: one per CPU"
    )
    depth: int = Field(1023, ge=2, le=4095, description="tags per queue")
    poll_queues: int = Field(
        0, ge=0, description="hardware queues that are polled; see `hipri` of fio"
    )
    io_poll_delay: int = Field(-1, ge=-1, le=1_000_000, description=_IO_POLL_DELAY)
    coalesce_threshold: int = Field(
        0, ge=0, le=255, description="feature 08h: completions that wait, less one"
    )
    coalesce_time: Duration = Field(0, description="feature 08h: how long they wait; 0: not at all")


class VirtioBlk(_FlashDisk):
    """A virtio_blk disk: one queue, whose interrupt has one CPU."""

    driver: Literal["virtio_blk"]
    preset: Literal["host", "fast"] = Field(
        "host", description="latency profile, see `emulator/device/latency.py`"
    )
    irq_cpu: int = Field(0, ge=0, description="the CPU that its interrupt comes to")
    depth: int = Field(128, ge=2, le=1024, description="requests in the ring")


class SataSsd(_FlashDisk):
    """A SATA SSD behind AHCI: one queue of 32 commands, whose interrupt has one CPU."""

    driver: Literal["sata_ssd"]
    preset: Literal["generic"] = Field(
        "generic", description="latency profile, see `emulator/device/latency.py`"
    )
    irq_cpu: int = Field(0, ge=0, description="the CPU that its interrupt comes to")
    depth: int = Field(32, ge=2, le=32, description="NCQ commands")


class HardDisk(_VectorDisk):
    """A disk that turns, behind AHCI: seek, rotation, transfer, NCQ; one interrupt with one CPU."""

    driver: Literal["hdd"]
    preset: Literal["7200", "5400"] = Field(
        "7200", description="mechanics, see `emulator/device/hdd.py`"
    )
    irq_cpu: int = Field(0, ge=0, description="the CPU that its interrupt comes to")
    ncq: int = Field(
        32, ge=1, le=32, description="commands that the disk chooses among; 1: in order"
    )


Disk = Annotated[
    ScsiDebug | NullBlk | Nvme | VirtioBlk | SataSsd | HardDisk, Field(discriminator="driver")
]

#: Driver name -> its part of the schema.
DISK_MODELS: dict[str, type[BaseModel]] = {
    "scsi_debug": ScsiDebug,
    "null_blk": NullBlk,
    "nvme": Nvme,
    "virtio_blk": VirtioBlk,
    "sata_ssd": SataSsd,
    "hdd": HardDisk,
}


class Filesystem(_Model):
    """A file system on a disk of its own; its key is the mount point."""

    type: Literal["xfs", "none"] = Field("xfs", description="none: the raw block device")
    disk: str = Field(description="a disk of the box")
    block_size: Size = Field(4096, description="bytes per block")


class Workload(_Model):
    """A fio job file, a task file of rt-app or a built-in program, and who runs it where."""

    fio: str | None = Field(
        None, description="a fio job file, beside the box file or in `config/jobs`"
    )
    rtapp: str | None = Field(
        None, description="a JSON file of rt-app, beside the box file or in `config/jobs`"
    )
    section: str | None = Field(None, description="one job of the file; left out: all")
    env: dict[str, str] = Field(
        default_factory=dict, description="what `${NAME}` stands for in the job file"
    )
    filesystem: str | None = Field(None, description="mount point; needed if there are several")
    program: str | None = Field(None, description="a built-in program, see below")
    params: dict[str, int | str] = Field(default_factory=dict, description="the program's own")
    name: str | None = Field(None, min_length=1, max_length=15, description="comm of the tasks")
    nice: int | None = Field(None, ge=-20, le=19, description="wins over the job file's")
    policy: Literal["normal", "batch", "idle", "fifo", "rr"] = Field(
        "normal",
        description="scheduling policy, as chrt sets it; fifo and rr need a `rt_priority` and one CPU",
    )
    rt_priority: int | None = Field(
        None, ge=1, le=99, description="real-time priority of fifo and rr, 99 is the highest"
    )
    cpus_allowed: CpuListOrTask | None = Field(
        None,
        description="wins over the job file's; `of:NAME`: the CPU on which that task is then "
        "(programs with a `start`)",
    )
    slice: Duration | None = Field(
        None,
        description="slice that its tasks ask for with `sched_setattr()`, 100us to 100ms, from 6.12 "
        "on; left out or 0: the base slice",
    )
    count: int = Field(1, ge=1, le=4096, description="how many of it")
    start: Duration | None = Field(
        None, description="when it starts; left out: the seed says, within 8 ticks of boot"
    )
    start_cpu: int | None = Field(None, ge=0, description="first CPU; left out: fork placement")
    figure: bool | None = Field(
        None, description="counts as a submitter in the figures; left out: fio does"
    )


class Event(_Model):
    """A command at an emulated time."""

    at: Duration = Field(description="when")
    do: str = Field(description="a command line of `ctl`, see below")


class Expect(_Model):
    """What a figure of the result must be: a value, or bounds (inclusive)."""

    figure: str = Field(min_length=1, description="path in results.json, dots between names")
    min: int | float | None = Field(None, description="least value")
    max: int | float | None = Field(None, description="greatest value")
    equals: int | float | None = Field(None, description="the value")


#: Records of a CPU that are kept: two segments of a ring at least, a gigabyte unless a box says otherwise.
RING_BYTES_MIN = 2 << 20
RING_BYTES_DEFAULT = 1 << 30


class Trace(_Model):
    """What is recorded."""

    off: list[str] = Field(default_factory=list, description="events that are not recorded")
    ring: Size = Field(
        RING_BYTES_DEFAULT,
        ge=RING_BYTES_MIN,
        description="bytes of records kept per CPU; beyond it the oldest go, which is counted",
    )


class BoxFile(_Model):
    """A box: one emulated machine, what runs on it, what happens to it, what must come out."""

    description: str = Field(min_length=1, description="one line, shown by `boxes`")
    like: str | None = Field(
        None,
        description="a box that ships, or a file: what is not said here is taken from it, but for "
        "its `description` and `expect`",
    )
    seed: int = Field(
        1,
        ge=0,
        lt=1 << 63,
        description="of what is chance: when each workload without a `start` starts, "
        "within 8 ticks of boot, when each CPU was last balanced, and the order of fio's blocks",
    )
    duration: Duration = Field(description="emulated time of the run")
    warmup: Duration = Field(0, description="figures are taken after this")
    machine: Machine
    kernel: Kernel = Field(default_factory=lambda: Kernel.model_validate({}))
    costs: CostsChoice = Field(default_factory=lambda: CostsChoice.model_validate({}))
    disks: dict[str, Disk] = Field(default_factory=dict, description="disks by name")
    filesystems: dict[str, Filesystem] = Field(
        default_factory=dict, description="file systems by mount point"
    )
    workloads: list[Workload] = Field(min_length=1, description="what runs")
    events: list[Event] = Field(default_factory=list, description="what happens on the way")
    expect: list[Expect] = Field(default_factory=list, description="what must come out")
    trace: Trace = Field(default_factory=lambda: Trace.model_validate({}))
    on_crash: Literal["offline", "respawn", "abort"] = Field(
        "offline",
        description="when a stranger kills a CPU's process (SIGKILL and the like): a new process is made "
        "what it was and the CPU goes offline (CPU 0 cannot, and goes on), or goes on as if nothing had "
        "happened; or the run ends with status 2, also where a disk's process is killed",
    )
    checkpoint: Duration = Field(
        100_000_000,
        gt=0,
        description="emulated time between two checkpoints, from which a killed process is made again and "
        "a killed run resumed",
    )


# -- Checking -------------------------------------------------------------------------------------


def check(data: Any) -> BoxFile | list[dict[str, Any]]:
    """Return a box's data as a checked model, or pydantic's list of what is wrong with them."""
    try:
        return BoxFile.model_validate(data)
    except ValidationError as error:
        return [dict(one) for one in error.errors()]


_MODELS: dict[str, type[BaseModel]] = {
    "machine": Machine,
    "kernel": Kernel,
    "trace": Trace,
    "filesystems": Filesystem,
    "workloads": Workload,
    "events": Event,
    "expect": Expect,
}


def keys_at(path: Path, data: Any) -> list[str]:
    """Return the keys that the mapping at this path of a box may have."""
    if not path:
        return list(BoxFile.model_fields)
    if path == ("machine", "smp"):
        return list(Smp.model_fields)
    if path[0] == "disks":
        driver = child(child_at(data, path), "driver")
        return list(DISK_MODELS.get(str(driver), ScsiDebug).model_fields)
    model = _MODELS.get(str(path[0]))
    return list(model.model_fields) if model else []
