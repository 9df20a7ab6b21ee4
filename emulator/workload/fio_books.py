"""What one fio job has measured: its IOs, their latencies and depths, as fio reports them.

Theory of operation
-------------------
``slat`` runs from handing a unit to the engine until io_submit() has returned, ``clat`` from there
until the unit is reaped, ``lat`` is both.  Depths, submit and reap sizes are counted in fio's seven
classes.  Samples before ``stats_from_ns`` are left out, so that a warm-up does not count; totals
count everything.  A job has one such book on every CPU that it has run on; results merge them.

:meth:`FioBooks.books` is the structure that outputs are rendered from.  All times are ns::

    submitted, completed        IOs of the whole run, the warm-up included
    passes, eagain, error       passes over the file; refused io_submit() calls; the first error
    begin_ns, end_ns            emulated time of the first moment that counts and of the last event
    runtime_ns                  the time between them
    read, write                 one direction each:
        ios, bytes              that count, completed within runtime_ns
        short_ios, drop_ios     of them, those that moved less than they should, or nothing
        iops, bw_bytes          per second of runtime_ns
        slat_ns, clat_ns, lat_ns
                                {n: 0}, or n, mean, stddev, min, max, p10 p50 p90 p99, and
                                percentile {"99.000000": ns}, of the job's percentile_list
        clat_bins, lat_bins     {ns: IOs}: fio's bins by their middles (``bins`` of its json+)
        latency                 {ns, us, ms: {"2": IOs …}}: clat in fio's latency_* classes
        samples                 [[IOs, ns] …]: of each whole 500 ms (fio's bwavgtime), in order
        bw_*, iops_*            min, max, mean, dev (stddev) and samples of these; bw in KiB/s
    sync                        ios and lat_ns of fsync() and fdatasync()
    iodepth_level, iodepth_submit, iodepth_complete
                                IOs by depth; calls by size

A job that writes logs (``write_bw_log`` and others) keeps each IO besides, in :attr:`Direction.log`.

A rendering that wants more than numbers (several jobs as one group) unpacks the books themselves
(``workload.unpack_books``), merges them, and asks that one; everything in them merges exactly.
"""

from __future__ import annotations

from operator import add
from typing import Any

from emulator.types import NEVER, NSEC_PER_MSEC, NSEC_PER_SEC, READ
from emulator.workload.latency import PERCENTILES, LatencyStat, plat_idx_to_val

FIO = "fio"  #: the program's name

DEPTH_NAMES = ("1", "2", "4", "8", "16", "32", ">=64")
BATCH_NAMES = ("0", "4", "8", "16", "32", "64", ">=64")

#: fio's default ``bwavgtime`` and ``iopsavgtime``.
SAMPLE_NS = 500 * NSEC_PER_MSEC


def depth_class(depth: int) -> int:
    """Return fio's class of a queue depth: 1, 2-3, 4-7 … 64 and more."""
    return min(depth.bit_length(), 7) - 1


def batch_class(count: int) -> int:
    """Return fio's class of the size of one submit or reap: 0, 1-4, 5-8 … above 64."""
    if count <= 4:
        return 1 if count else 0
    return min((count - 1).bit_length() - 1, 6)


def spread(values: list[float]) -> dict[str, Any]:
    """Return min, max, mean, sample deviation and number of some values; zeros if there is none."""
    if not values:
        return {"min": 0, "max": 0, "mean": 0.0, "dev": 0.0, "samples": 0}
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    deviation = (squares / (len(values) - 1)) ** 0.5 if len(values) > 1 else 0.0
    return {
        "min": min(values),
        "max": max(values),
        "mean": mean,
        "dev": deviation,
        "samples": len(values),
    }


class Direction:
    """The IOs of one direction: latencies, and how many ended in each half second."""

    __slots__ = (
        "bs",
        "byte_samples",
        "bytes",
        "bytes_counted",
        "clat",
        "counted",
        "drops",
        "lat",
        "log",
        "samples",
        "shorts",
        "sized",
        "slat",
        "turn_ns",
    )

    def __init__(self, bs: int, logs: bool = False, sized: bool = False) -> None:
        self.bs = bs
        #: Of blocks of several sizes: bytes in all, and as ``samples``.
        self.sized = sized
        self.bytes = self.bytes_counted = 0
        self.byte_samples: dict[int, int] = {}
        #: (end, lat, clat) of each IO, one after the other; None: the job writes no logs
        self.log: list[int] | None = [] if logs else None
        self.slat = LatencyStat()
        self.clat = LatencyStat(classes=True)
        self.lat = LatencyStat()
        self.shorts = 0
        self.drops = 0
        self.samples: dict[int, int] = {}  #: half second since boot -> IOs
        self.turn_ns = 0  #: end of the half second being counted
        self.counted = 0  #: IOs that are in ``samples``

    def settle(self) -> None:
        """Count the samples that wait."""
        self.slat.settle()
        self.clat.settle()
        self.lat.settle()

    def note(self, now_ns: int, count: int) -> None:
        """Log the IOs that have just been counted."""
        assert self.log is not None
        for lat, clat in zip(self.lat.fresh[-count:], self.clat.fresh[-count:], strict=True):
            self.log += (now_ns, lat, clat)

    def turn(self, now_ns: int) -> None:
        """End the half second being counted, and begin the one of ``now_ns``."""
        self._count()
        self.turn_ns = (now_ns // SAMPLE_NS + 1) * SAMPLE_NS

    def _count(self) -> None:
        ios = self.lat.count + len(self.lat.fresh) - self.counted
        if ios:
            index = self.turn_ns // SAMPLE_NS - 1
            self.samples[index] = self.samples.get(index, 0) + ios
            self.counted += ios
            if self.sized:
                moved = self.bytes - self.bytes_counted
                self.byte_samples[index] = self.byte_samples.get(index, 0) + moved
                self.bytes_counted = self.bytes

    def merge(self, other: Direction) -> None:
        """Count what another book has counted too."""
        self._count()
        other._count()
        self.slat.merge(other.slat)
        self.clat.merge(other.clat)
        self.lat.merge(other.lat)
        self.shorts += other.shorts
        self.drops += other.drops
        for index, ios in other.samples.items():
            self.samples[index] = self.samples.get(index, 0) + ios
        self.counted += other.counted
        for index, moved in other.byte_samples.items():
            self.byte_samples[index] = self.byte_samples.get(index, 0) + moved
        self.bytes += other.bytes
        self.bytes_counted += other.bytes_counted
        if self.log is not None and other.log is not None:
            self.log += other.log

    def books(
        self, begin_ns: int, end_ns: int, percentiles: tuple[float, ...] = PERCENTILES
    ) -> dict[str, Any]:
        """Return everything about the direction; see the head of this file."""
        self.settle()
        self._count()
        runtime_ns = end_ns - begin_ns
        first, last = -(-begin_ns // SAMPLE_NS), end_ns // SAMPLE_NS
        indices = range(first, last) if self.lat.count else range(0)
        samples = [self.samples.get(index, 0) for index in indices]
        moved = [ios * self.bs for ios in samples]
        if self.sized:
            moved = [self.byte_samples.get(index, 0) for index in indices]
        total = self.bytes if self.sized else self.lat.count * self.bs
        per_s = [ios * NSEC_PER_SEC / SAMPLE_NS for ios in samples]
        per_run = NSEC_PER_SEC / runtime_ns if runtime_ns > 0 else 0.0
        bandwidths = spread([one * NSEC_PER_SEC / SAMPLE_NS / 1024 for one in moved])
        return {
            "ios": self.lat.count,
            "bytes": total,
            "short_ios": self.shorts,
            "drop_ios": self.drops,
            "iops": self.lat.count * per_run,
            "bw_bytes": total * per_run,
            "slat_ns": self.slat.summary(percentiles),
            "clat_ns": self.clat.summary(percentiles),
            "lat_ns": self.lat.summary(percentiles),
            "clat_bins": histogram(self.clat),
            "lat_bins": histogram(self.lat),
            "latency": self.clat.latency_classes(),
            "samples": [[ios, SAMPLE_NS] for ios in samples],
            **{f"bw_{name}": value for name, value in bandwidths.items()},
            **{f"iops_{name}": value for name, value in spread(per_s).items()},
        }

    def pack(self) -> list[Any]:
        """Return everything as plain data."""
        self._count()
        counts = [self.bs, self.shorts, self.drops, self.turn_ns, self.counted]
        counts += [self.sized, self.bytes, self.bytes_counted]
        samples = [list(self.samples), list(self.samples.values())]
        samples += [list(self.byte_samples), list(self.byte_samples.values())]
        log = None if self.log is None else list(self.log)
        return [counts, samples, log, self.slat.pack(), self.clat.pack(), self.lat.pack()]

    @classmethod
    def unpack(cls, data: list[Any]) -> Direction:
        """Rebuild what :meth:`pack` returned."""
        counts, samples, log, *stats = data
        direction = cls(counts[0], sized=counts[5])
        direction.log = None if log is None else list(log)
        direction.shorts, direction.drops, direction.turn_ns, direction.counted = counts[1:5]
        direction.bytes, direction.bytes_counted = counts[6:]
        direction.samples = dict(zip(*samples[:2], strict=True))
        direction.byte_samples = dict(zip(*samples[2:], strict=True))
        direction.slat, direction.clat, direction.lat = map(LatencyStat.unpack, stats)
        return direction


def histogram(stat: LatencyStat) -> dict[int, int]:
    """Return how many values lie in each bin, by the middle of the bin in ns, ascending."""
    stat.settle()
    return {plat_idx_to_val(index): stat.bins[index] for index in sorted(stat.bins)}


class FioBooks:
    """Counters and distributions of one job on one CPU."""

    __slots__ = (
        "begin_ns",
        "completed",
        "depths",
        "eagain",
        "end_ns",
        "error",
        "passes",
        "percentiles",
        "read",
        "reaps",
        "submits",
        "submitted",
        "sync",
        "write",
    )

    def __init__(
        self,
        bs: int,
        write_bs: int = 0,
        percentiles: tuple[float, ...] = PERCENTILES,
        logs: bool = False,
        sized: bool = False,
    ) -> None:
        self.read = Direction(bs, logs, sized)
        self.write = Direction(write_bs or bs, logs, sized)
        self.sync = LatencyStat()
        self.percentiles = percentiles
        self.depths = [0] * len(DEPTH_NAMES)  # IOs by the depth at which they were submitted
        self.submits = [0] * len(BATCH_NAMES)  # calls of io_submit() by size
        self.reaps = [0] * len(BATCH_NAMES)  # calls of io_getevents() by size
        self.submitted = 0
        self.completed = 0
        self.passes = 0  # over the whole file, verify passes included
        self.eagain = 0
        self.error = 0  # the first negative or short result, else 0
        self.begin_ns = NEVER  # of what counts; known once the job has begun
        self.end_ns = 0  # the last reap

    def direction(self, rw: int) -> Direction:
        """Return the latencies of READ or WRITE."""
        return self.read if rw == READ else self.write

    def merge(self, other: FioBooks) -> None:
        """Count what the books of the same job on another CPU have counted too."""
        self.submitted += other.submitted
        self.completed += other.completed
        self.passes += other.passes
        self.eagain += other.eagain
        self.error = self.error or other.error  # a job notes no error but its first
        self.begin_ns = min(self.begin_ns, other.begin_ns)
        self.end_ns = max(self.end_ns, other.end_ns)
        self.depths = list(map(add, self.depths, other.depths))
        self.submits = list(map(add, self.submits, other.submits))
        self.reaps = list(map(add, self.reaps, other.reaps))
        self.read.merge(other.read)
        self.write.merge(other.write)
        self.sync.merge(other.sync)

    def books(self) -> dict[str, Any]:
        """Return everything as fio's JSON names it; see the head of this file."""
        begin_ns = self.begin_ns if self.begin_ns <= self.end_ns else self.end_ns
        return {
            "submitted": self.submitted,
            "completed": self.completed,
            "passes": self.passes,
            "eagain": self.eagain,
            "error": self.error,
            "begin_ns": begin_ns,
            "end_ns": self.end_ns,
            "runtime_ns": self.end_ns - begin_ns,
            "read": self.read.books(begin_ns, self.end_ns, self.percentiles),
            "write": self.write.books(begin_ns, self.end_ns, self.percentiles),
            "sync": {"ios": self.syncs(), "lat_ns": self.sync.summary(self.percentiles)},
            "iodepth_level": dict(zip(DEPTH_NAMES, self.depths, strict=True)),
            "iodepth_submit": dict(zip(BATCH_NAMES, self.submits, strict=True)),
            "iodepth_complete": dict(zip(BATCH_NAMES, self.reaps, strict=True)),
        }

    def syncs(self) -> int:
        """Return how many fsync() and fdatasync() calls count."""
        self.sync.settle()
        return self.sync.count

    def pack(self) -> list[Any]:
        """Return the books as plain data."""
        counts = [self.submitted, self.completed, self.passes, self.eagain, self.error]
        counts += [self.begin_ns, self.end_ns]
        maps = [list(self.depths), list(self.submits), list(self.reaps)]
        both = [self.read.pack(), self.write.pack()]
        return [FIO, counts, maps, *both, self.sync.pack(), list(self.percentiles)]

    @classmethod
    def unpack(cls, data: list[Any]) -> FioBooks:
        """Rebuild what :meth:`pack` returned."""
        _, counts, maps, read, write, sync, percentiles = data
        books = cls(1, 1, tuple(percentiles))
        books.submitted, books.completed, books.passes, books.eagain, books.error = counts[:5]
        books.begin_ns, books.end_ns = counts[5:]
        books.depths, books.submits, books.reaps = (list(counted) for counted in maps)
        books.read = Direction.unpack(read)
        books.write = Direction.unpack(write)
        books.sync = LatencyStat.unpack(sync)
        return books
