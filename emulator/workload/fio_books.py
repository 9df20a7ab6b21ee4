"""What one fio job has measured: its IOs, their latencies and depths, as fio reports them.

Theory of operation
-------------------
``slat`` runs from handing a unit to the engine until io_submit() has returned, ``clat`` from there
until the unit is reaped, ``lat`` is both.  Depths, submit and reap sizes are counted in fio's seven
classes.  Samples before ``stats_from_ns`` are left out, so that a warm-up does not count; totals
count everything.  A job has one such book on every CPU that it has run on; results merge them.
"""

from __future__ import annotations

from operator import add
from typing import Any

from emulator.types import READ
from emulator.workload.latency import LatencyStat

FIO = "fio"  #: the program's name

DEPTH_NAMES = ("1", "2", "4", "8", "16", "32", ">=64")
BATCH_NAMES = ("0", "4", "8", "16", "32", "64", ">=64")


def depth_class(depth: int) -> int:
    """Return fio's class of a queue depth: 1, 2-3, 4-7 … 64 and more."""
    return min(depth.bit_length(), 7) - 1


def batch_class(count: int) -> int:
    """Return fio's class of the size of one submit or reap: 0, 1-4, 5-8 … above 64."""
    if count <= 4:
        return 1 if count else 0
    return min((count - 1).bit_length() - 1, 6)


class Direction:
    """The latencies of one direction."""

    __slots__ = ("clat", "lat", "slat")

    def __init__(self) -> None:
        self.slat = LatencyStat()
        self.clat = LatencyStat()
        self.lat = LatencyStat()

    def settle(self) -> None:
        """Count the samples that wait."""
        self.slat.settle()
        self.clat.settle()
        self.lat.settle()

    def merge(self, other: Direction) -> None:
        """Count what another book has counted too."""
        self.slat.merge(other.slat)
        self.clat.merge(other.clat)
        self.lat.merge(other.lat)

    def books(self, bs: int) -> dict[str, Any]:
        """Return IOs, bytes and the three distributions in ns."""
        self.settle()
        return {
            "ios": self.lat.count,
            "bytes": self.lat.count * bs,
            "slat_ns": self.slat.summary(),
            "clat_ns": self.clat.summary(),
            "lat_ns": self.lat.summary(),
        }

    def pack(self) -> list[Any]:
        """Return the three distributions as plain data."""
        return [self.slat.pack(), self.clat.pack(), self.lat.pack()]

    @classmethod
    def unpack(cls, data: list[Any]) -> Direction:
        """Rebuild what :meth:`pack` returned."""
        direction = cls()
        direction.slat, direction.clat, direction.lat = map(LatencyStat.unpack, data)
        return direction


class FioBooks:
    """Counters and distributions of one job on one CPU."""

    __slots__ = (
        "bs",
        "completed",
        "depths",
        "eagain",
        "error",
        "passes",
        "read",
        "reaps",
        "submits",
        "submitted",
        "write",
    )

    def __init__(self, bs: int) -> None:
        self.bs = bs
        self.read = Direction()
        self.write = Direction()
        self.depths = [0] * len(DEPTH_NAMES)  # IOs by the depth at which they were submitted
        self.submits = [0] * len(BATCH_NAMES)  # calls of io_submit() by size
        self.reaps = [0] * len(BATCH_NAMES)  # calls of io_getevents() by size
        self.submitted = 0
        self.completed = 0
        self.passes = 0  # over the whole file, verify passes included
        self.eagain = 0
        self.error = 0  # the first negative or short result, else 0

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
        self.depths = list(map(add, self.depths, other.depths))
        self.submits = list(map(add, self.submits, other.submits))
        self.reaps = list(map(add, self.reaps, other.reaps))
        self.read.merge(other.read)
        self.write.merge(other.write)

    def books(self) -> dict[str, Any]:
        """Return everything as fio's JSON names it, latencies in ns."""
        return {
            "submitted": self.submitted,
            "completed": self.completed,
            "passes": self.passes,
            "eagain": self.eagain,
            "error": self.error,
            "read": self.read.books(self.bs),
            "write": self.write.books(self.bs),
            "iodepth_level": dict(zip(DEPTH_NAMES, self.depths, strict=True)),
            "iodepth_submit": dict(zip(BATCH_NAMES, self.submits, strict=True)),
            "iodepth_complete": dict(zip(BATCH_NAMES, self.reaps, strict=True)),
        }

    def pack(self) -> list[Any]:
        """Return the books as plain data."""
        counts = [self.bs, self.submitted, self.completed, self.passes, self.eagain, self.error]
        maps = [list(self.depths), list(self.submits), list(self.reaps)]
        return [FIO, counts, maps, self.read.pack(), self.write.pack()]

    @classmethod
    def unpack(cls, data: list[Any]) -> FioBooks:
        """Rebuild what :meth:`pack` returned."""
        _, counts, maps, read, write = data
        books = cls(counts[0])
        books.submitted, books.completed, books.passes, books.eagain, books.error = counts[1:]
        books.depths, books.submits, books.reaps = (list(counted) for counted in maps)
        books.read = Direction.unpack(read)
        books.write = Direction.unpack(write)
        return books
