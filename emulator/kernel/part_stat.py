"""What a disk's statistics count: ``blk_account_io_start()``, ``blk_account_io_done()``, v5.4 (A.10).

Theory of operation
-------------------
Each CPU counts in its own :class:`PartStat` per disk, as in the kernel: a request's start where it
is allocated, its end where it is freed.  ``/proc/diskstats`` is the sum over the CPUs,
:func:`disk_stats`.  Latency runs from the allocation to the end; the time waited for a tag is not in
it.

``io_ticks`` is not here: the kernel keeps one stamp per disk for it, and no CPU knows the others' starts and
ends.  It is counted from the rings, which hold all of them in order (:mod:`emulator.report.procfs.disks`), so that
no node need keep what grows with the time emulated.

Departures from the kernel: discards do not exist, nothing is merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
        "sectors",
        "started",
        "tick_ns",
    )

    def __init__(self, tick_ns: int) -> None:
        """Count nothing yet."""
        self.tick_ns = tick_ns
        self.started = [0, 0]  # requests allocated
        self.ios = [0, 0]  # requests ended
        self.merges = [0, 0]
        self.sectors = [0, 0]
        self.nsecs = [0, 0]  # from the allocation to the end, summed
        self.in_queue = 0  # the same in jiffies, each request's rounded down (up to 5.6)

    def account_io_start(self, rw: int) -> None:
        """Count a request that is allocated."""
        self.started[rw] += 1

    def account_io_done(self, rw: int, nr_sector: int, start_ns: int, now_ns: int) -> None:
        """Count a request, allocated at ``start_ns``, that ends now."""
        self.ios[rw] += 1
        self.sectors[rw] += nr_sector
        self.nsecs[rw] += now_ns - start_ns
        self.in_queue += (now_ns - start_ns) // self.tick_ns

    def balance(self) -> int:
        """Return how many more requests have started here than ended; negative where they end."""
        return self.started[READ] + self.started[WRITE] - self.ios[READ] - self.ios[WRITE]

    def pack(self) -> list[Any]:
        """Return everything as plain data, for snapshots and books."""
        pairs = (self.started, self.ios, self.merges, self.sectors, self.nsecs)
        return [*(list(pair) for pair in pairs), self.in_queue]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.started, self.ios, self.merges, self.sectors, self.nsecs = (
            list(pair) for pair in data[:5]
        )
        self.in_queue = data[5]


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
        time_in_queue=in_queue_ns // 1_000_000,
    )
