"""Distributions and histograms in the shape in which every result states them.

A distribution is ``{n, mean, p10, p50, p90, p99, max}`` in microseconds; percentiles are values
that occurred (nearest rank), as the oracle's are.  A histogram counts powers of two of
microseconds under names such as ``4-8us``.
"""

from collections.abc import Iterable, Sequence
from typing import Any

PERCENTILES = (("p10", 10), ("p50", 50), ("p90", 90), ("p99", 99))

Distribution = dict[str, float | int | None]


def distribution_us(values_ns: Iterable[int]) -> Distribution:
    """Return the distribution of ``values_ns``, in us; of nothing, n 0 and None for the rest."""
    ordered = sorted(values_ns)
    count = len(ordered)
    if not count:
        return {"n": 0, "mean": None, **{name: None for name, _ in PERCENTILES}, "max": None}
    result: Distribution = {"n": count, "mean": microseconds(sum(ordered) / count)}
    for name, percent in PERCENTILES:
        result[name] = microseconds(percentile(ordered, percent))
    result["max"] = microseconds(ordered[-1])
    return result


def distribution_of_summary(summary: dict[str, Any]) -> Distribution:
    """Return the distribution that a program kept itself, as ``{n, mean, p10, … max}`` in ns."""
    if not summary.get("n"):
        return distribution_us(())
    names = ("mean", *(name for name, _ in PERCENTILES), "max")
    return {"n": summary["n"], **{name: microseconds(summary[name]) for name in names}}


def percentile(ordered: Sequence[int], percent: int) -> int:
    """Return the value of a sorted sequence below which ``percent`` % of it lies."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def histogram_us(values_ns: Iterable[int]) -> dict[str, int]:
    """Return counts by power of two of microseconds, ascending; below one: ``0-1us``."""
    counts: dict[int, int] = {}
    for value in values_ns:
        bits = (value // 1000).bit_length()
        counts[bits] = counts.get(bits, 0) + 1
    return {bucket_name(bits): counts[bits] for bits in sorted(counts)}


def bucket_name(bits: int) -> str:
    """Return the name of the bucket of values whose microseconds have ``bits`` bits."""
    return f"{1 << bits >> 1}-{1 << bits}us"


def microseconds(value_ns: float) -> float:
    """Return nanoseconds as microseconds, rounded to the hundredth."""
    return round(value_ns / 1000, 2)
