"""What a disk's statistics count: ``blk_account_io_start()``, ``blk_account_io_done()``, v5.4 (A.10).

Theory of operation
-------------------
Each CPU counts in its own :class:`PartStat` per disk, as in the kernel: a request's start where it
is allocated, its end where it is freed.  ``/proc/diskstats`` is the sum over the CPUs,
:func:`disk_stats`.  Latency runs from the allocation to the end; the time waited for a tag is not in
it.

``io_ticks`` is the exception: the kernel keeps one stamp per disk, and the counter grows when a start
or an end finds it to be of another jiffy (by how much depends on the version).  No CPU here knows
the others' starts, so each notes its first touch of every jiffy with how many requests it then had
started more than ended, and :func:`io_ticks` goes through all CPUs' touches in order of time.  Only
the first touch of a jiffy can count, so nothing is lost by that.

Up to 6.9 a touch that follows one of the jiffy before makes the counter grow by one, whatever it is and
whoever makes it: of jiffies in a row only the first is noted, and how many there are.  So what a box under
load keeps does not grow.  From 6.10 on it matters each time whether anything is in flight; then what is kept
grows with the emulated time, by some fifty bytes per jiffy and CPU that had IO in it.

Departures from the kernel: discards do not exist, nothing is merged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any

from emulator.rules import Rules
from emulator.types import READ, WRITE


class PartStat:
    """One CPU's ``struct disk_stats`` of one disk; index 0 of each pair is reads, 1 writes."""

    __slots__ = (
        "in_queue",
        "ios",
        "merges",
        "nsecs",
        "rows",
        "sectors",
        "started",
        "tick_ns",
        "touches",
        "until_ns",
    )

    def __init__(self, tick_ns: int, *, rows: bool = False) -> None:
        """Count nothing yet; ``rows``: of jiffies in a row only the first touch matters."""
        self.tick_ns = tick_ns
        self.rows = rows
        self.started = [0, 0]  # requests allocated
        self.ios = [0, 0]  # requests ended
        self.merges = [0, 0]
        self.sectors = [0, 0]
        self.nsecs = [0, 0]  # from the allocation to the end, summed
        self.in_queue = 0  # the same in jiffies, each request's rounded down (up to 5.6)
        #: flat list of (ns << 1 | whether it is an end, started less ended here before it, for how
        #: many jiffies it stands), in order of time
        self.touches: list[int] = []
        self.until_ns = 0  # end of the jiffy last touched

    def account_io_start(self, rw: int, now_ns: int) -> None:
        """Count a request that is allocated now."""
        if now_ns >= self.until_ns:
            self.touch(now_ns << 1, now_ns)
        self.started[rw] += 1

    def account_io_done(self, rw: int, nr_sector: int, start_ns: int, now_ns: int) -> None:
        """Count a request, allocated at ``start_ns``, that ends now."""
        if now_ns >= self.until_ns:
            self.touch(now_ns << 1 | 1, now_ns)
        self.ios[rw] += 1
        self.sectors[rw] += nr_sector
        self.nsecs[rw] += now_ns - start_ns
        self.in_queue += (now_ns - start_ns) // self.tick_ns

    def touch(self, what: int, now_ns: int) -> None:
        """Note the first start or end of a jiffy."""
        if self.rows and self.touches and now_ns < self.until_ns + self.tick_ns:
            self.touches[-1] += 1
        else:
            self.touches += [what, self.balance(), 1]
        self.until_ns = (now_ns // self.tick_ns + 1) * self.tick_ns

    def balance(self) -> int:
        """Return how many more requests have started here than ended; negative where they end."""
        return self.started[READ] + self.started[WRITE] - self.ios[READ] - self.ios[WRITE]

    def pack(self) -> list[Any]:
        """Return everything as plain data, for snapshots and books."""
        pairs = (self.started, self.ios, self.merges, self.sectors, self.nsecs)
        return [*(list(pair) for pair in pairs), self.in_queue, list(self.touches), self.until_ns]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.started, self.ios, self.merges, self.sectors, self.nsecs = (
            list(pair) for pair in data[:5]
        )
        self.in_queue, touches, self.until_ns = data[5:8]
        self.touches = list(touches)


def part_stat(data: list[Any], tick_ns: int) -> PartStat:
    """Rebuild one CPU's counters from what ``pack()`` returned (``disk_stats`` of its books)."""
    stat = PartStat(tick_ns)
    stat.unpack(data)
    return stat


@dataclass(frozen=True, slots=True)
class DiskStats:
    """The statistics of a disk as ``/proc/diskstats`` has them; times in ms where they have no unit."""

    ios: tuple[int, int]  #: reads and writes completed
    merges: tuple[int, int]
    sectors: tuple[int, int]
    ticks: tuple[int, int]  #: ms from allocation to end, summed, of reads and of writes
    in_flight: int
    io_ticks: int  #: ms during which something was in flight, as the version counts it
    time_in_queue: int  #: ms, weighted: summed over requests


def disk_stats(cpus: Sequence[PartStat], rules: Rules) -> DiskStats:
    """Return a disk's statistics from all CPUs' counters of one instant (``part_stat_read()``)."""
    tick_ns = cpus[0].tick_ns

    def total(name: str) -> tuple[int, int]:
        columns = zip(*(getattr(cpu, name) for cpu in cpus), strict=True)
        reads, writes = (sum(column) for column in columns)
        return reads, writes

    nsecs = total("nsecs")
    ticks = (nsecs[READ] // 1_000_000, nsecs[WRITE] // 1_000_000)
    in_queue_ns = sum(nsecs)
    if not rules.time_in_queue_summed:
        in_queue_ns = sum(cpu.in_queue for cpu in cpus) * tick_ns
    return DiskStats(
        ios=total("ios"),
        merges=total("merges"),
        sectors=total("sectors"),
        ticks=ticks,
        in_flight=sum(cpu.balance() for cpu in cpus),
        io_ticks=io_ticks(cpus, rules) * tick_ns // 1_000_000,
        time_in_queue=in_queue_ns // 1_000_000,
    )


def io_ticks(cpus: Sequence[PartStat], rules: Rules) -> int:
    """``update_io_ticks()`` over all CPUs' touches: return the busy jiffies of the disk (A.10)."""
    tick_ns = cpus[0].tick_ns
    started_more = [touched_balance(cpu, 0) for cpu in cpus]
    position = [0] * len(cpus)
    stamp, ticks = -1, 0
    for what, index in merge(*(touches_of(cpu, index) for index, cpu in enumerate(cpus))):
        now = (what >> 1) // tick_ns
        if now != stamp:
            gap = now - stamp
            if rules.io_ticks_in_flight:
                ticks += gap if what & 1 or sum(started_more) else 0
            else:
                ticks += gap if what & 1 and rules.io_ticks_gap_at_end else 1
            stamp = now
        position[index] += 1
        started_more[index] = touched_balance(cpus[index], position[index])
    return ticks


def touches_of(cpu: PartStat, index: int) -> Iterator[tuple[int, int]]:
    """Yield a CPU's touches in order of time, each with ``index``; one at the start of a jiffy in a row."""
    tick_ns = cpu.tick_ns
    for place in range(0, len(cpu.touches), 3):
        what, _balance, jiffies = cpu.touches[place : place + 3]
        yield what, index
        first = (what >> 1) // tick_ns
        for jiffy in range(first + 1, first + jiffies):
            yield jiffy * tick_ns << 1, index


def touched_balance(cpu: PartStat, position: int) -> int:
    """Return a CPU's balance before its touch of a number, or its last one.

    Where rows are noted as one nobody asks how many are in flight.
    """
    at = 3 * position + 1
    return cpu.touches[at] if at < len(cpu.touches) else cpu.balance()
