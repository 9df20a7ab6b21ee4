"""The verdict of ``validate``: figures of runs against those of a real kernel.

Theory of operation
-------------------
A case lists real figures, each with the class of its tolerance and whether it was used to
calibrate a cost or is predicted.  Every case runs with several seeds; the median over the seeds is
compared, and the range is stated beside it.  A figure that no run has is unknown, which is neither
a hit nor a miss.

Classes, with the tolerance each stands for:

==========  =======================================================================================
iops        within 5 %
count       n ≥ 50: within 20 %; n < 50: within 3·√n + 2, n being counted over the real window
share       within 12 points of the group's total (gap shares: 10), stated only if real ≥ 5 %
median      within 20 %
p90         within 30 %; also p99
zero        at most 3 per second
per_io      at least 0.99
==========  =======================================================================================

Rates (``…_per_s``) of class *count* are counted over the real window; counts are scaled to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import median
from typing import Any

from emulator.report.figures import Figures, lookup

COUNT_EXACT_MIN = 50
PER_SECOND_MAX = 3.0
PER_IO_MIN = 0.99
SHARE_MIN = 0.05
CAUSE_POINTS = 0.12
GAP_POINTS = 0.10
RELATIVE = {"iops": 0.05, "count": 0.20, "median": 0.20, "p90": 0.30}
CLASSES = (*RELATIVE, "share", "zero", "per_io")

OK = "ok"
MISS = "miss"
UNKNOWN = "unknown"
INFO = "info"  # too small a share to be judged

CAUSES = "migrations_by_cause."
GAP_SHARES = "migration_gap_share."


@dataclass(frozen=True, slots=True)
class RealFigure:
    """One figure of a real kernel, and how near the box must come to it."""

    path: str
    real: float
    tolerance: str  #: one of CLASSES
    calibrated: bool = False


@dataclass(frozen=True, slots=True)
class RealCase:
    """One case of the oracle: its figures, and how many seconds they were counted over."""

    name: str
    window_s: float
    figures: tuple[RealFigure, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the answer; ``emulated``, ``low`` and ``high`` are None where no run has it."""

    case: str
    figure: RealFigure
    emulated: float | None
    low: float | None
    high: float | None
    verdict: str

    @property
    def ratio(self) -> float | None:
        """Return emulated over real, or None where that says nothing."""
        if self.emulated is None or not self.figure.real:
            return None
        return self.emulated / self.figure.real


def real_case(name: str, data: Mapping[str, Any]) -> RealCase:
    """Return a case from plain data; raise ValueError for a class that does not exist.

    ``data`` is ``{window_s, figures: {path: {real, tolerance, calibrated}}}``.
    """
    figures: list[RealFigure] = []
    for path, entry in data["figures"].items():
        tolerance = entry["tolerance"]
        if tolerance not in CLASSES:
            raise ValueError(f"{name}: {path}: no tolerance class {tolerance!r}")
        figures.append(
            RealFigure(path, float(entry["real"]), tolerance, bool(entry.get("calibrated", False)))
        )
    return RealCase(name, float(data["window_s"]), tuple(figures))


def compare_case(case: RealCase, runs: Sequence[Figures]) -> list[Comparison]:
    """Compare every figure of a case with the median over ``runs``, one run per seed."""
    return [_compare(case, figure, runs) for figure in case.figures]


def verdict(comparisons: Sequence[Comparison]) -> bool | None:
    """Return False if any figure misses, else None if any is unknown, else True."""
    verdicts = {comparison.verdict for comparison in comparisons}
    if MISS in verdicts:
        return False
    return None if UNKNOWN in verdicts or not verdicts else True


def _compare(case: RealCase, figure: RealFigure, runs: Sequence[Figures]) -> Comparison:
    values = [value for run in runs if (value := emulated(case, figure, run)) is not None]
    if not values:
        return Comparison(case.name, figure, None, None, None, UNKNOWN)
    middle = float(median(values))
    answer = judge(figure, middle, case.window_s)
    return Comparison(case.name, figure, middle, min(values), max(values), answer)


def emulated(case: RealCase, figure: RealFigure, run: Figures) -> float | None:
    """Return the figure of one run in the units of the real one: shares, or scaled counts."""
    value = lookup(run, figure.path)
    if value is None:
        return None
    if figure.tolerance == "share" and figure.path.startswith(CAUSES):
        total = sum(run["migrations_by_cause"].values())
        return float(value / total) if total else 0.0
    if figure.tolerance in ("count", "zero") and not is_ratio(figure.path):
        return float(value * case.window_s / run["window_s"])
    return float(value)


def judge(figure: RealFigure, value: float, window_s: float) -> str:
    """Return the verdict on one value, by the class of the figure's tolerance."""
    match figure.tolerance:
        case "zero":
            rate = value if is_ratio(figure.path) else value / window_s
            return _ok(rate <= PER_SECOND_MAX)
        case "per_io":
            return _ok(value >= PER_IO_MIN)
        case "share":
            points = GAP_POINTS if figure.path.startswith(GAP_SHARES) else CAUSE_POINTS
            if figure.real < SHARE_MIN:
                return INFO
            return _ok(round(abs(value - figure.real), 6) <= points)
        case "count":
            return _ok(abs(value - figure.real) <= count_slack(figure, window_s))
        case relative:
            return _ok(abs(value - figure.real) <= RELATIVE[relative] * figure.real)


def count_slack(figure: RealFigure, window_s: float) -> float:
    """Return by how much a count, a rate or a ratio of counts may differ from the real one."""
    scale = window_s if figure.path.endswith("_per_s") else 1.0
    count = figure.real * scale
    if count >= COUNT_EXACT_MIN or (is_ratio(figure.path) and scale == 1.0):
        return RELATIVE["count"] * figure.real
    return (3 * sqrt(count) + 2) / scale


def is_ratio(path: str) -> bool:
    """Whether a figure does not grow with the length of a run."""
    if path.startswith((CAUSES, "user_migrations.")) or path.endswith(".n"):
        return False
    return path not in ("migrations", "switches", "ios", "works")


def _ok(hit: bool) -> str:
    return OK if hit else MISS
