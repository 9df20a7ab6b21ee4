"""What the kernel counts of each disk's IO (``/proc/diskstats``), counted from the rings.

Theory of operation
-------------------
A request is accounted when it ends (``blk_account_io_done()``): one IO, its sectors, and the time since
it was made.  A disk's busy time, ``io_ticks``, is touched where a request starts and where it ends,
and grows if the jiffy has changed since: up to 5.6 by one jiffy whatever the gap, then
(``rules.io_ticks_gap_at_end``) by the gap at an end and by one at a start, and in 6.12
(``rules.io_ticks_in_flight``) by the gap also at a start, if requests are in flight.  The weighted
time adds up whole jiffies of each request, from 5.7 on (``rules.time_in_queue_summed``) it is the sum of
the requests' times.

An empty flush is a write of nothing; those before and after a write of the log are part of that one.
What the device is asked for is a flush besides, which only later kernels count
(``rules.diskstats_flush``).

The nodes keep the same counters (:mod:`emulator.kernel.part_stat`) but for ``io_ticks``, for the end of a run only.

Besides, ``dispatch_busy`` of hardware queues, as each CPU last recorded it.

Departures: a request is made where the ring first tells of it, as it is inserted or issued; the
kernel's clock starts a little earlier, where it is allocated.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from emulator.rules import Rules
from emulator.trace.reader import (
    COLUMN_A,
    COLUMN_B,
    COLUMN_C,
    COLUMN_D,
    COLUMN_TIME,
    Piece,
    RingReader,
)
from emulator.tracepoints import (
    BLOCK_RQ_COMPLETE,
    BLOCK_RQ_INSERT,
    BLOCK_RQ_ISSUE,
    BOX_DISPATCH_BUSY,
)
from emulator.types import NEVER, NSEC_PER_MSEC

STAT_READ = 0
STAT_WRITE = 1
STAT_DISCARD = 2
STAT_FLUSH = 3

_GROUPS = {"R": STAT_READ, "W": STAT_WRITE, "D": STAT_DISCARD, "F": STAT_FLUSH}
_EVENTS = (BLOCK_RQ_INSERT, BLOCK_RQ_ISSUE, BLOCK_RQ_COMPLETE)
_COLUMNS = (COLUMN_A, COLUMN_B, COLUMN_C, COLUMN_D)

#: Device, sector, direction: what tells requests in flight from each other.
Key = tuple[int, int, int]


def stat_group(rwbs: str) -> int:
    """Return whether a request counts as read, write, discard or flush."""
    preflush = len(rwbs) > 1 and rwbs[0] == "F"
    return _GROUPS.get(rwbs[1] if preflush else rwbs[:1], STAT_READ)


class Group:
    """Reads, writes, discards or flushes of one disk."""

    __slots__ = ("ios", "merges", "ns", "sectors")

    def __init__(self) -> None:
        self.ios = 0
        self.merges = 0
        self.sectors = 0
        self.ns = 0

    @property
    def ms(self) -> int:
        """Return the time that its requests took, in whole milliseconds."""
        return self.ns // NSEC_PER_MSEC


class DiskCounts:
    """The counters of one disk."""

    __slots__ = (
        "dispatch_busy",
        "groups",
        "in_flight",
        "io_ticks",
        "post_flushes",
        "queue_jiffies",
        "stamp",
        "until_ns",
    )

    def __init__(self) -> None:
        self.groups = [Group() for _ in _GROUPS]
        self.in_flight = [0, 0]  #: issued and not completed: reads, and all others
        self.io_ticks = 0  #: jiffies
        self.stamp = -1  #: jiffy in which io_ticks was last touched
        self.until_ns = 0  #: end of that jiffy
        self.queue_jiffies = 0
        self.dispatch_busy: dict[tuple[int, int], int] = {}  #: by hardware queue and CPU
        self.post_flushes = 0  #: that are still to come after writes that have been counted

    def count(self, rwbs: str, group: int, nr_sector: int, taken_ns: int) -> None:
        """Count a request that has ended; see the head of this file for flushes."""
        counts = self.groups[group]
        counts.ios += 1
        counts.sectors += nr_sector
        counts.ns += taken_ns
        writes = self.groups[STAT_WRITE]
        if group == STAT_FLUSH:
            writes.ns += taken_ns
            writes.ios += not self.post_flushes
            self.post_flushes -= bool(self.post_flushes)
        elif rwbs.endswith("SM") and self.groups[STAT_FLUSH].ios:
            writes.ios -= 1
            self.post_flushes += "F" not in rwbs

    @property
    def total_ns(self) -> int:
        """Return the time that all its requests took."""
        return sum(group.ns for group in self.groups)


class DiskCounter:
    """Counters of a box's disks by device number, as of ``now_ns``."""

    __slots__ = (
        "_at",
        "_inserted",
        "_issued",
        "_kinds",
        "_rules",
        "disks",
        "now_ns",
        "readers",
        "tick_ns",
    )

    def __init__(self, readers: Sequence[RingReader], rules: Rules, hz: int = 1000) -> None:
        self.readers = [reader for reader in readers if reader.is_cpu]
        self.now_ns = 0
        self.disks: defaultdict[int, DiskCounts] = defaultdict(DiskCounts)
        self._rules = rules
        self.tick_ns = 1_000_000_000 // hz
        self._at = [reader.first for reader in self.readers]
        #: by device and letters: the disk, and what a request counts as
        self._kinds: dict[tuple[int, str], tuple[DiskCounts, int]] = {}
        self._inserted: defaultdict[Key, list[int]] = defaultdict(list)
        self._issued: defaultdict[Key, list[int]] = defaultdict(list)

    def advance(self, until_ns: int) -> None:
        """Count all requests before ``until_ns``."""
        rows: list[tuple[Any, ...]] = []
        for cpu, reader in enumerate(self.readers):
            end = reader.position_at(until_ns) if until_ns < NEVER else reader.position
            for piece in reader.pieces(self._at[cpu], end):
                rows += _rows(piece, cpu, reader.names)
                for dev, hctx, busy in _averages(piece):
                    self.disks[dev].dispatch_busy[hctx, cpu] = busy
            self._at[cpu] = max(self._at[cpu], end)
        rows.sort()
        for row in rows:
            self._account(row)
        self.now_ns = max(self.now_ns, until_ns)

    def _account(self, row: tuple[Any, ...]) -> None:
        time_ns, _cpu, _position, event, dev, rwbs, sector, nr_sector = row
        disk, group = self._kinds.get((dev, rwbs)) or self._kind(dev, rwbs)
        key = (dev, sector, group)
        if event == BLOCK_RQ_INSERT:
            self._inserted[key].append(time_ns)
            if time_ns >= disk.until_ns:
                self._touch(disk, time_ns, end=False)
        elif event == BLOCK_RQ_ISSUE:
            begun_ns = _take(self._inserted, key)
            if begun_ns < 0:
                begun_ns = time_ns
                self._touch(disk, time_ns, end=False)
            self._issued[key].append(begun_ns)
            disk.in_flight[group != STAT_READ] += 1
        else:
            begun_ns = _take(self._issued, key)
            if time_ns >= disk.until_ns:
                self._touch(disk, time_ns, end=True)
            if disk.in_flight[group != STAT_READ]:
                disk.in_flight[group != STAT_READ] -= 1
            taken_ns = time_ns - begun_ns if begun_ns >= 0 else 0
            disk.queue_jiffies += taken_ns // self.tick_ns
            disk.count(rwbs, group, nr_sector, taken_ns)

    def _kind(self, dev: int, rwbs: str) -> tuple[DiskCounts, int]:
        kind = self._kinds[dev, rwbs] = (self.disks[dev], stat_group(rwbs))
        return kind

    # update_io_ticks(): only the first that comes in a new jiffy counts.
    def _touch(self, disk: DiskCounts, time_ns: int, end: bool) -> None:
        now = time_ns // self.tick_ns
        if now == disk.stamp:
            return
        rules, gap = self._rules, now - disk.stamp
        if rules.io_ticks_in_flight:
            disk.io_ticks += gap if end or any(disk.in_flight) else 0
        else:
            disk.io_ticks += gap if end and rules.io_ticks_gap_at_end else 1
        disk.stamp = now
        disk.until_ns = (now + 1) * self.tick_ns

    def queue_ms(self, disk: DiskCounts) -> int:
        """Return the weighted time of a disk's requests in ms, as this kernel reckons it."""
        if self._rules.time_in_queue_summed:
            return disk.total_ns // NSEC_PER_MSEC
        return disk.queue_jiffies * self.tick_ns // NSEC_PER_MSEC

    def io_ms(self, disk: DiskCounts) -> int:
        """Return a disk's busy time in ms."""
        return disk.io_ticks * self.tick_ns // NSEC_PER_MSEC


# When the oldest such request was made, -1 if there is none.
def _take(made: defaultdict[Key, list[int]], key: Key) -> int:
    times = made.get(key)
    if not times:
        return -1
    time_ns = times.pop(0)
    if not times:
        del made[key]
    return time_ns


def _averages(piece: Piece) -> Iterator[tuple[int, int, int]]:
    indices = piece.select((BOX_DISPATCH_BUSY,))
    columns = (piece.gather(column, indices) for column in (COLUMN_A, COLUMN_B, COLUMN_C))
    return zip(*columns, strict=True)


def _rows(piece: Piece, cpu: int, names: list[str]) -> list[tuple[Any, ...]]:
    indices = piece.select(_EVENTS)
    positions = [piece.start + index for index in indices]
    events = [piece.events[index] for index in indices]
    devs, rwbs, sectors, nr_sectors = (piece.gather(column, indices) for column in _COLUMNS)
    letters = [names[name] for name in rwbs]
    times = piece.gather(COLUMN_TIME, indices)
    cpus = [cpu] * len(indices)
    columns = (times, cpus, positions, events, devs, letters, sectors, nr_sectors)
    return list(zip(*columns, strict=True))
