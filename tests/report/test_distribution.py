"""Tests of distributions and histograms in the oracle's shape."""

from hypothesis import given
from hypothesis import strategies as st

from emulator.report.distribution import (
    distribution_of_summary,
    distribution_us,
    histogram_us,
    percentile,
)


def test_a_distribution_is_in_us_and_its_percentiles_occurred() -> None:
    assert distribution_us(n * 1000 for n in range(100, 0, -1)) == {
        "n": 100,
        "mean": 50.5,
        "p10": 11.0,
        "p50": 51.0,
        "p90": 91.0,
        "p99": 100.0,
        "max": 100.0,
    }


def test_of_nothing_there_is_no_mean() -> None:
    nothing = distribution_us([])
    assert nothing["n"] == 0
    assert set(nothing.values()) == {0, None}


def test_a_summary_in_ns_becomes_a_distribution() -> None:
    summary = {"n": 2, "mean": 1500.0, "p10": 1, "p50": 2000, "p90": 3, "p99": 4, "max": 5000}
    distribution = distribution_of_summary({**summary, "stddev": 1.0})
    assert distribution == {
        "n": 2,
        "mean": 1.5,
        "p10": 0.0,
        "p50": 2.0,
        "p90": 0.0,
        "p99": 0.0,
        "max": 5.0,
    }
    assert distribution_of_summary({"n": 0}) == distribution_us([])


def test_histogram_buckets_are_the_oracles() -> None:
    values = [500, 1000, 1999, 4000, 7999, 8000, 2_048_000, 4_095_999, 4_096_000]
    assert histogram_us(values) == {
        "0-1us": 1,
        "1-2us": 2,
        "4-8us": 2,
        "8-16us": 1,
        "2048-4096us": 2,
        "4096-8192us": 1,
    }


@given(st.lists(st.integers(0, 10**10), min_size=1))
def test_percentiles_rise_and_a_histogram_counts_every_value(values: list[int]) -> None:
    ordered = sorted(values)
    found = [percentile(ordered, percent) for percent in (0, 10, 50, 90, 99, 100)]
    assert found == sorted(found)
    assert found[0] == ordered[0]
    assert found[-1] == ordered[-1]
    assert sum(histogram_us(values).values()) == len(values)
