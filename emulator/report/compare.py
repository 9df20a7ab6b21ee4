"""Runs side by side: which figures differ by more than noise, and where along an axis they flip.

Theory of operation
-------------------
A :class:`Column` is one variant of a box: what was set for it, and the figures of its runs, one per
seed.  A figure of a column is the median over its runs.  It *differs* from the first column's if
the difference is more than noise: 5 %, or what a count of that size scatters, whichever is more;
and, where there are several seeds, if the two ranges do not overlap.  Of several boxes each has a
first column of its own.

Along an axis of numbers the step between two neighbours at which a figure changes by the largest
ratio is where it *flips*, if that ratio is two or more.  Figures below a floor count as the floor,
so that 0.2 and 1 migration per second are the same.

Along an axis of words, figures of which people want more, or less, have a *best*: the columns which
no other one beats by more than noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from statistics import median
from typing import Any

from emulator.report.figures import Figures, lookup

#: The figures that are compared if none are named.
FIGURES = (
    "iops",
    "migrations_per_s",
    "migrations_by_cause.active_balance",
    "migrations_by_cause.wakeup",
    "migrations_by_cause.pull",
    "switches_per_s",
    "works_per_kworker_run",
    "queue_to_start_us.p50",
    "queue_to_start_us.p99",
    "kworker_wake_to_run_us.p50",
    "residence_us.mean",
    "clat_us.p99",
    "cpus_touched",
)

#: Counts of a window, which are compared as rates.
CAUSES = "migrations_by_cause."

#: The number of CPUs that were busy for at least this share of the time.
CPUS_TOUCHED = "cpus_touched"
TOUCHED_MIN = 0.01

NOISE = 0.05

#: Figures whose flips are told, and below what they are as good as nothing.
FLIPPING = {
    "migrations_per_s": 3.0,
    "switches_per_s": 100.0,
    "queue_to_start_us.p50": 10.0,
    "works_per_kworker_run": 1.0,
    "iops": 100.0,
}
FLIP_RATIO = 2.0

#: Figures of which more is better, and those of which less is.
MORE = frozenset({"iops", "completions.local_fraction"})
LESS = frozenset(
    {
        "clat_us.mean",
        "clat_us.p50",
        "clat_us.p99",
        "completions.cache_refill_us",
        "completions.idle_wakeups_per_s",
        "completions.ipis_per_s",
        "cpus_touched",
        "migrations_per_s",
        "queue_to_start_us.p50",
        "queue_to_start_us.p99",
        "slat_us.p99",
        "switches_per_s",
    }
)

#: The key of the axis whose words are boxes.
BOX = "box"


@dataclass(frozen=True, slots=True)
class Axis:
    """One key that is varied: its values as people wrote them, and as numbers if they are all."""

    key: str
    words: tuple[str, ...]
    numbers: tuple[float, ...] | None = None

    @property
    def short(self) -> str:
        """Return the key without what is the same for all of its kind."""
        name = self.key.removeprefix("kernel.sysctl.")
        if name == self.key:
            return name.rpartition(".")[2]
        return name.removeprefix("kernel.sched_").removesuffix("_ns").replace("_", " ")


@dataclass(frozen=True, slots=True)
class Column:
    """One variant: the words of its axes, and its runs' figures."""

    words: tuple[str, ...]
    runs: tuple[Figures, ...]
    places: tuple[str, ...] = ()  #: the runs' directories

    @property
    def loops(self) -> list[Mapping[str, Any]]:
        """Return the loops of the first run."""
        return list(self.runs[0].get("loops", ()))


@dataclass(frozen=True, slots=True)
class Value:
    """A figure of a column: the median over its runs, and their range."""

    median: float
    low: float
    high: float
    slack: float = 0.0  #: what a count of this size scatters


@dataclass(frozen=True, slots=True)
class Flip:
    """Where a figure changes most along an axis, everything else being as ``fixed`` says."""

    figure: str
    axis: Axis
    fixed: tuple[str, ...]
    before: str
    after: str
    value_before: float
    value_after: float

    @property
    def ratio(self) -> float:
        """Return by how much it changes, at least 1."""
        floor = FLIPPING.get(self.figure, 1.0)
        low, high = sorted((max(self.value_before, floor), max(self.value_after, floor)))
        return high / low


@dataclass(frozen=True, slots=True)
class Best:
    """Who has the best of a figure along an axis of words, everything else being as ``fixed``."""

    figure: str
    fixed: tuple[str, ...]
    words: tuple[str, ...]  #: on the axis, in its order
    others: tuple[str, ...]  #: those that are beaten
    low: float  #: the range of the best ones
    high: float


@dataclass(slots=True)
class Comparison:
    """Columns side by side, for these figures."""

    title: str
    columns: list[Column]
    axes: list[Axis] = field(default_factory=list)
    figures: tuple[str, ...] = FIGURES

    def label(self, column: Column) -> str:
        """Return what tells a column from the others."""
        varied = [
            word for axis, word in zip(self.axes, column.words, strict=False) if len(axis.words) > 1
        ]
        return " · ".join(varied or column.words)

    def value(self, column: Column, path: str) -> Value | None:
        """Return a figure of a column, or None where no run has it."""
        values = [one for run in column.runs if (one := figure_of(run, path)) is not None]
        if not values:
            return None
        middle = float(median(values))
        return Value(middle, min(values), max(values), _slack(column.runs[0], path, middle))

    def base(self, column: Column) -> Column:
        """Return the column that a column is compared with: the first, of its own box."""
        if self.axes and self.axes[0].key == BOX:
            return next(one for one in self.columns if one.words[0] == column.words[0])
        return self.columns[0]

    def differs(self, column: Column, path: str) -> bool:
        """Whether a figure of a column differs from its base's by more than noise."""
        return _differ(self.value(column, path), self.value(self.base(column), path))

    def best(self) -> list[Best]:
        """Return who is best at what, if a comparison is along words: per setting, per figure."""
        number = self.contest()
        if number < 0:
            return []
        groups: dict[tuple[str, ...], list[Column]] = {}
        for column in self.columns:
            fixed = column.words[:number] + column.words[number + 1 :]
            groups.setdefault(fixed, []).append(column)
        return [
            best
            for fixed, group in groups.items()
            for path in self.figures
            if (best := self._best(number, fixed, group, path)) is not None
        ]

    def contest(self) -> int:
        """Return the axis of words along which there may be a best one, or -1."""
        if self.swept() >= 0:
            return -1
        contests = [
            number
            for number, axis in enumerate(self.axes)
            if axis.key != BOX and len(axis.words) > 2
        ]
        return contests[-1] if contests else -1

    def _best(
        self, number: int, fixed: tuple[str, ...], group: list[Column], path: str
    ) -> Best | None:
        sign = -1 if path in LESS else int(path in MORE)
        found = [(one.words[number], value) for one in group if (value := self.value(one, path))]
        if not sign or not found:
            return None
        top = max((value for _word, value in found), key=lambda value: sign * value.median)
        alike = [(word, value) for word, value in found if not _differ(value, top)]
        words = tuple(word for word, _value in alike)
        others = tuple(word for word, _value in found if word not in words)
        medians = [value.median for _word, value in alike]
        return Best(path, fixed, words, others, min(medians), max(medians))

    def flips(self) -> list[Flip]:
        """Return where figures flip along the swept axis, per setting of the others, per figure."""
        return [
            flip
            for indices in self.sweeps()
            for path in FLIPPING
            if (flip := self._flip(self.swept(), indices, path)) is not None
        ]

    def swept(self) -> int:
        """Return which axis is swept: of those of numbers the one with most values, or -1."""
        candidates = [
            (-len(axis.words), number)
            for number, axis in enumerate(self.axes)
            if axis.numbers is not None and len(axis.words) > 1
        ]
        return min(candidates)[1] if candidates else -1

    def fixed(self, column: Column) -> tuple[str, ...]:
        """Return the words of a column on the axes that are not swept."""
        number = self.swept()
        return column.words if number < 0 else column.words[:number] + column.words[number + 1 :]

    def other_axes(self) -> list[Axis]:
        """Return the axes that are not swept."""
        return [axis for number, axis in enumerate(self.axes) if number != self.swept()]

    def groups(self) -> list[tuple[tuple[str, ...], list[Column]]]:
        """Return the sweeps: what is fixed, and the columns in the order of the swept axis."""
        sweeps = [[self.columns[index] for index in sweep] for sweep in self.sweeps()]
        return [(self.fixed(sweep[0]), sweep) for sweep in sweeps]

    def sweeps(self) -> list[list[int]]:
        """Return the columns that differ in the swept axis alone, each group in its order."""
        number = self.swept()
        if number < 0:
            return []
        groups: dict[tuple[str, ...], list[int]] = {}
        for index, column in enumerate(self.columns):
            groups.setdefault(self.fixed(column), []).append(index)
        axis = self.axes[number]
        assert axis.numbers is not None
        order = dict(zip(axis.words, axis.numbers, strict=True))
        return [
            sorted(group, key=lambda index: order[self.columns[index].words[number]])
            for group in groups.values()
        ]

    def _flip(self, number: int, indices: Sequence[int], path: str) -> Flip | None:
        largest: Flip | None = None
        for before, after in pairwise(indices):
            left, right = self.columns[before], self.columns[after]
            low, high = self.value(left, path), self.value(right, path)
            if low is None or high is None:
                continue
            words = left.words[number], right.words[number]
            flip = Flip(path, self.axes[number], self.fixed(left), *words, low.median, high.median)
            if largest is None or flip.ratio > largest.ratio:
                largest = flip
        return largest if largest is not None and largest.ratio >= FLIP_RATIO else None


# Whether two values are further apart than noise.
def _differ(one: Value | None, other: Value | None) -> bool:
    if one is None or other is None:
        return one is not other
    larger = max(abs(one.median), abs(other.median))
    apart = one.low > other.high or one.high < other.low
    distance = abs(one.median - other.median)
    return apart and distance > max(NOISE * larger, one.slack, other.slack)


def figure_of(run: Figures, path: str) -> float | None:
    """Return a figure of a run as a number; counts of migrations by cause per second."""
    if path == CPUS_TOUCHED:
        shares = run.get("cpu_utilisation")
        return None if shares is None else sum(use >= TOUCHED_MIN for use in shares.values())
    value = lookup(run, path)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value / run["window_s"] if path.startswith(CAUSES) else value)


def figure_name(path: str) -> str:
    """Return how a figure is called in a table."""
    return f"{path.removeprefix(CAUSES)} moves/s" if path.startswith(CAUSES) else path


def as_plain(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data, for programs."""
    keys = [axis.key for axis in comparison.axes]
    return {
        "title": comparison.title,
        "axes": [{"key": axis.key, "values": list(axis.words)} for axis in comparison.axes],
        "columns": [
            {
                "label": comparison.label(column),
                "set": dict(zip(keys, column.words, strict=False)) if keys else {},
                "runs": list(column.places),
                "figures": {path: _plain(comparison, column, path) for path in comparison.figures},
                "loops": [dict(loop) for loop in column.loops],
            }
            for column in comparison.columns
        ],
        "flips": [
            {
                "figure": flip.figure,
                "axis": flip.axis.key,
                "others": list(flip.fixed),
                "between": [flip.before, flip.after],
                "values": [flip.value_before, flip.value_after],
            }
            for flip in comparison.flips()
        ],
        "best": [
            {
                "figure": best.figure,
                "others": list(best.fixed),
                "words": list(best.words),
                "values": [best.low, best.high],
            }
            for best in comparison.best()
        ],
    }


def _plain(comparison: Comparison, column: Column, path: str) -> dict[str, Any] | None:
    value = comparison.value(column, path)
    if value is None:
        return None
    first = comparison.value(comparison.base(column), path)
    ratio = value.median / first.median if first is not None and first.median else None
    return {
        "median": value.median,
        "low": value.low,
        "high": value.high,
        "ratio": ratio,
        "differs": comparison.differs(column, path),
    }


# What happens n times happens n ± 3·√n times, as in :mod:`emulator.report.validate`.
def _slack(run: Figures, path: str, value: float) -> float:
    if not (path.endswith("migrations_per_s") or path.startswith(CAUSES)):
        return 0.0
    window_s = float(run["window_s"])
    return (3 * sqrt(max(value, 0.0) * window_s) + 2) / window_s
