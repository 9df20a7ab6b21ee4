"""The books of a program that counts a few things and keeps a few distributions, by name.

A task has one on every CPU that it has run on; results merge them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from emulator.types import Books
from emulator.workload.latency import LatencyStat


class Tally:
    """Named counters and latencies of one program on one CPU."""

    __slots__ = ("counts", "program", "stats")

    def __init__(self, program: str, counts: Iterable[str], stats: Iterable[str] = ()) -> None:
        self.program = program
        self.counts = dict.fromkeys(counts, 0)
        self.stats = {name: LatencyStat() for name in stats}

    def merge(self, other: Tally) -> None:
        """Count what the tally of the same program on another CPU has counted too."""
        for name, count in other.counts.items():
            self.counts[name] += count
        for name, stat in other.stats.items():
            self.stats[name].merge(stat)

    def books(self) -> dict[str, Any]:
        """Return summaries of the latencies, and the counters."""
        return {name: stat.summary() for name, stat in self.stats.items()} | self.counts

    def pack(self) -> list[Any]:
        """Return the tally as plain data."""
        stats = {name: stat.pack() for name, stat in self.stats.items()}
        return [self.program, dict(self.counts), stats]

    @classmethod
    def unpack(cls, data: list[Any]) -> Tally:
        """Rebuild what :meth:`pack` returned."""
        program, counts, stats = data
        tally = cls(program, ())
        tally.counts = dict(counts)
        tally.stats = {name: LatencyStat.unpack(stat) for name, stat in stats.items()}
        return tally


class Tallied:
    """A program that keeps a tally, and that may sleep or make itself felt at any step."""

    name: str
    #: What it counts, and which times it keeps.
    counts: ClassVar[tuple[str, ...]]
    times: ClassVar[tuple[str, ...]] = ()

    __slots__ = ("tally",)

    def __init__(self) -> None:
        self.tally = Tally(self.name, self.counts, self.times)

    def quiet_ns(self, ring_events: int) -> int:
        """Return 0: after the step in progress it may sleep, wait or wake somebody."""
        return 0

    def measure_in(self, books: Books | None) -> Books:
        """Count in ``books`` from now on, or in new ones; return them."""
        assert books is None or isinstance(books, Tally)
        self.tally = books or Tally(self.name, self.counts, self.times)
        return self.tally

    def books(self) -> dict[str, Any]:
        """Return the counts, and summaries of the times in ns."""
        return self.tally.books()
