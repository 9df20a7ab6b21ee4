"""Latency statistics as fio keeps them: bins of fixed relative width, and exact moments.

Theory of operation
-------------------
fio counts latencies in bins: 64 to each power of two, so a percentile is off by less than 1 %.
The numbering is that of fio's ``plat_val_to_idx()`` (spec ``io-and-workqueue.md``, I.4).  Bins are
kept in a dict because a run touches a few hundred of the 1,856.  New values wait in ``fresh`` and
are counted in bulk: appending to a list is all that the hot path pays.  Distributions that several
CPUs kept of one task are merged exactly: everything in them is a count, a sum or an extreme.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import add, mul
from typing import Any

PLAT_BITS = 6
PLAT_VAL = 1 << PLAT_BITS
PLAT_GROUPS_MAX = 29
PLAT_INDEX_MAX = PLAT_GROUPS_MAX * PLAT_VAL - 1

#: fio's default ``percentile_list``.
PERCENTILES = (
    *(1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0),
    *(99.0, 99.5, 99.9, 99.95, 99.99),
)

_STEPS = (2, 4, 10, 20, 50, 100, 250, 500, 750, 1000)
#: The classes of fio's ``latency_ns``, ``latency_us`` and ``latency_ms``: their names, and the first
#: value in ns that is beyond each (``io_u_mark_latency()``); the last class has no end.
LATENCY_CLASSES = (
    *(("ns", f"{step}", step) for step in _STEPS),
    *(("us", f"{step}", step * 1_000) for step in _STEPS),
    *(("ms", f"{step}", step * 1_000_000) for step in (*_STEPS, 2000)),
)
_CLASS_ENDS = tuple(end for _, _, end in LATENCY_CLASSES)

#: Values that may wait in ``fresh`` before they are counted.
FRESH_MAX = 1024

_SPLIT = 62  # msgpack integers end at 64 bits, sums of squares do not


def plat_val_to_idx(value_ns: int) -> int:
    """Return the bin of a latency, as fio's function of that name."""
    if value_ns < 2 * PLAT_VAL:
        return value_ns
    error_bits = value_ns.bit_length() - 1 - PLAT_BITS
    index = ((error_bits + 1) << PLAT_BITS) + ((value_ns >> error_bits) & (PLAT_VAL - 1))
    return min(index, PLAT_INDEX_MAX)


def plat_idx_to_val(index: int) -> int:
    """Return the middle of a bin in ns, as fio's function of that name."""
    if index < 2 * PLAT_VAL:
        return index
    error_bits = (index >> PLAT_BITS) - 1
    base = 1 << (error_bits + PLAT_BITS)
    return base + (index % PLAT_VAL << error_bits) + (1 << error_bits >> 1)


class LatencyStat:
    """One distribution of latencies, ns."""

    __slots__ = ("bins", "classes", "count", "fresh", "max_ns", "min_ns", "squares", "total_ns")

    def __init__(self, *, classes: bool = False) -> None:
        #: Values per class of LATENCY_CLASSES, one more for those beyond all; empty: not kept.
        self.classes = [0] * (len(LATENCY_CLASSES) + 1) if classes else []
        self.fresh: list[int] = []  #: values not yet counted; the hot path appends here
        self.bins: dict[int, int] = {}
        self.count = 0
        self.min_ns = 0
        self.max_ns = 0
        self.total_ns = 0
        self.squares = 0

    def add(self, value_ns: int) -> None:
        """Record one latency."""
        self.fresh.append(value_ns)
        if len(self.fresh) >= FRESH_MAX:
            self.settle()

    def settle(self) -> None:
        """Count the values that wait; statistics are the same whenever it is called."""
        fresh = self.fresh
        if not fresh:
            return
        lowest, highest = min(fresh), max(fresh)
        self.min_ns = min(self.min_ns, lowest) if self.count else lowest
        self.max_ns = max(self.max_ns, highest)
        self.count += len(fresh)
        self.total_ns += sum(fresh)
        self.squares += sum(map(mul, fresh, fresh))
        bins = self.bins
        for index in map(plat_val_to_idx, fresh):
            bins[index] = bins.get(index, 0) + 1
        if self.classes:
            self._classify(sorted(fresh))
        fresh.clear()

    def _classify(self, ordered: list[int]) -> None:
        first = bisect_right(_CLASS_ENDS, ordered[0])
        last = bisect_right(_CLASS_ENDS, ordered[-1])
        below = 0
        for index in range(first, last):
            reached = bisect_right(ordered, _CLASS_ENDS[index] - 1)
            self.classes[index] += reached - below
            below = reached
        self.classes[last] += len(ordered) - below

    def merge(self, other: LatencyStat) -> None:
        """Count what another distribution has counted too."""
        self.settle()
        other.settle()
        if not other.count:
            return
        self.min_ns = min(self.min_ns, other.min_ns) if self.count else other.min_ns
        self.max_ns = max(self.max_ns, other.max_ns)
        self.count += other.count
        self.total_ns += other.total_ns
        self.squares += other.squares
        for index, count in other.bins.items():
            self.bins[index] = self.bins.get(index, 0) + count
        self.classes = list(map(add, self.classes, other.classes))

    def percentiles(self, wanted: tuple[float, ...]) -> list[int]:
        """Return, per wanted percentage (ascending), the middle of the bin that holds it, ns."""
        self.settle()
        found: list[int] = []
        seen = 0
        for index in sorted(self.bins):
            seen += self.bins[index]
            while len(found) < len(wanted) and seen >= wanted[len(found)] / 100.0 * self.count:
                found.append(plat_idx_to_val(index))
        return found

    def latency_classes(self) -> dict[str, dict[str, int]]:
        """Return the values in each class of fio's ``latency_ns``, ``latency_us``, ``latency_ms``."""
        self.settle()
        found: dict[str, dict[str, int]] = {"ns": {}, "us": {}, "ms": {}}
        for (unit, name, _), count in zip(LATENCY_CLASSES, self.classes, strict=False):
            found[unit][name] = count
        found["ms"][">=2000"] = self.classes[-1]
        return found

    def summary(self, percentiles: tuple[float, ...] = PERCENTILES) -> dict[str, Any]:
        """Return n, mean, stddev, min, p10, p50, p90, p99, max and some percentiles, all in ns."""
        self.settle()
        if not self.count:
            return {"n": 0}
        mean = self.total_ns / self.count
        p10, p50, p90, p99 = self.percentiles((10.0, 50.0, 90.0, 99.0))
        return {
            "n": self.count,
            "mean": mean,
            "stddev": self._stddev(),
            "min": self.min_ns,
            "p10": p10,
            "p50": p50,
            "p90": p90,
            "p99": p99,
            "max": self.max_ns,
            "percentile": {
                f"{wanted:f}": value
                for wanted, value in zip(percentiles, self.percentiles(percentiles), strict=True)
            },
        }

    def _stddev(self) -> float:
        # The sample deviation, in exact integers up to the root.
        if self.count < 2:
            return 0.0
        spread = self.squares * self.count - self.total_ns * self.total_ns
        return float((spread / (self.count * (self.count - 1))) ** 0.5)

    def pack(self) -> list[Any]:
        """Return the distribution as plain data."""
        self.settle()
        high, low = divmod(self.squares, 1 << _SPLIT)
        numbers = [self.count, self.min_ns, self.max_ns, self.total_ns, high, low]
        return [numbers, list(self.bins), list(self.bins.values()), list(self.classes)]

    @classmethod
    def unpack(cls, data: list[Any]) -> LatencyStat:
        """Rebuild what :meth:`pack` returned."""
        stat = cls()
        numbers, indices, counts, classes = data
        stat.count, stat.min_ns, stat.max_ns, stat.total_ns, high, low = numbers
        stat.squares = (high << _SPLIT) + low
        stat.bins = dict(zip(indices, counts, strict=True))
        stat.classes = list(classes)
        return stat
