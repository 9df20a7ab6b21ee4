"""Tests of the tolerances of ``validate``, and of medians over seeds."""

from typing import Any

import pytest

from emulator.report.validate import (
    INFO,
    MISS,
    OK,
    UNKNOWN,
    RealCase,
    RealFigure,
    compare_case,
    judge,
    real_case,
    verdict,
)


@pytest.mark.parametrize(
    ("path", "real", "tolerance", "value", "answer"),
    [
        ("iops", 15_234, "iops", 15_995, OK),
        ("iops", 15_234, "iops", 16_000, MISS),
        ("migrations_per_s", 157, "count", 188, OK),
        ("migrations_per_s", 157, "count", 189, MISS),
        ("migrations_by_cause.active_balance", 100, "count", 80, OK),
        ("migrations_by_cause.active_balance", 100, "count", 79, MISS),
        # 37 counted: 3·√37 + 2 = 20.2
        ("migrations_by_cause.wakeup", 37, "count", 57, OK),
        ("migrations_by_cause.wakeup", 37, "count", 58, MISS),
        ("migrations_by_cause.wakeup", 1, "count", 6, OK),
        ("works_per_kworker_run", 10, "count", 12, OK),
        ("works_per_kworker_run", 10, "count", 12.1, MISS),
        ("migrations_by_cause.wakeup", 0.25, "share", 0.37, OK),
        ("migrations_by_cause.wakeup", 0.25, "share", 0.38, MISS),
        ("migrations_by_cause.pull", 0.03, "share", 0.5, INFO),
        ("migration_gap_share.2048-4096us", 0.39, "share", 0.29, OK),
        ("migration_gap_share.2048-4096us", 0.39, "share", 0.28, MISS),
        ("queue_to_start_us.p50", 3195, "median", 3834, OK),
        ("queue_to_start_us.p50", 3195, "median", 3835, MISS),
        ("queue_to_start_us.p99", 7842, "p90", 10_194, OK),
        ("queue_to_start_us.p99", 7842, "p90", 10_195, MISS),
        ("migrations_per_s", 1, "zero", 3, OK),
        ("migrations_per_s", 0, "zero", 3.1, MISS),
        ("migrations", 0, "zero", 6, OK),
        ("migrations_per_io", 1, "per_io", 0.99, OK),
        ("migrations_per_io", 1, "per_io", 0.989, MISS),
    ],
)
def test_tolerances_of_targets_section_2(
    path: str, real: float, tolerance: str, value: float, answer: str
) -> None:
    assert judge(RealFigure(path, real, tolerance), value, 2.0) == answer


def test_a_low_rate_is_judged_by_how_many_were_counted() -> None:
    # 10 per second over 4 s are 40 counted: 3·√40 + 2 = 21 of them, 5.2 per second.
    figure = RealFigure("migrations_per_s", 10, "count")
    assert judge(figure, 15.2, 4.0) == OK
    assert judge(figure, 15.3, 4.0) == MISS


def case_of(**figures: tuple[float, str]) -> RealCase:
    """Return a case of 30 s with figures ``name=(real, tolerance)``."""
    entries = {path: {"real": real, "tolerance": word} for path, (real, word) in figures.items()}
    return real_case("W30", {"window_s": 30, "figures": entries})


def run_of(iops: float, active: int, wakeup: int, window_s: float = 30) -> dict[str, Any]:
    """Return the figures of one run."""
    causes = {"active_balance": active, "wakeup": wakeup}
    return {"iops": iops, "migrations_by_cause": causes, "window_s": window_s}


def test_the_median_over_seeds_is_judged_and_the_range_is_kept() -> None:
    runs = [run_of(iops, 1, 1) for iops in (9_000, 15_000, 15_400, 15_500, 99_000)]
    (comparison,) = compare_case(case_of(iops=(15_234, "iops")), runs)
    assert comparison.verdict == OK
    assert (comparison.emulated, comparison.low, comparison.high) == (15_400, 9_000, 99_000)
    assert comparison.ratio == pytest.approx(15_400 / 15_234)


def test_counts_are_scaled_to_the_real_window() -> None:
    case = case_of(**{"migrations_by_cause.active_balance": (3368, "count")})
    (comparison,) = compare_case(case, [run_of(1, 337, 0, window_s=3)])
    assert comparison.emulated == 3370
    assert comparison.verdict == OK


def test_cause_shares_are_of_all_migrations() -> None:
    case = case_of(**{"migrations_by_cause.wakeup": (0.255, "share")})
    (comparison,) = compare_case(case, [run_of(1, 70, 30)])
    assert comparison.emulated == pytest.approx(0.3)
    (nothing,) = compare_case(case, [run_of(1, 0, 0)])
    assert nothing.verdict == MISS


def test_a_figure_that_no_run_has_is_unknown() -> None:
    comparisons = compare_case(case_of(iops=(1, "iops"), nix=(1, "count")), [run_of(1, 1, 1)])
    assert [comparison.verdict for comparison in comparisons] == [OK, UNKNOWN]
    assert comparisons[1].ratio is None
    assert verdict(comparisons) is None
    assert verdict(comparisons[:1]) is True
    assert verdict([]) is None


def test_one_miss_is_a_miss() -> None:
    comparisons = compare_case(case_of(iops=(9, "iops"), nix=(1, "count")), [run_of(1, 1, 1)])
    assert verdict(comparisons) is False


def test_an_unknown_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match="W30: iops: no tolerance class 'roughly'"):
        case_of(iops=(1, "roughly"))
