"""Tests of results.json: checks against expectations, and the verdict on a run."""

from typing import Any

import pytest

from emulator.report.results import (
    build_results,
    check_expectations,
    exit_status,
    run_verdict,
)

FIGURES: dict[str, Any] = {
    "iops": 15_234.2,
    "migrations_by_cause": {"wakeup": 40, "periodic": 1, "newidle": 2, "nohz": 3},
    "slat_us": None,
}


@pytest.mark.parametrize(
    ("expectation", "ok"),
    [
        ({"figure": "iops", "min": 15_000}, True),
        ({"figure": "iops", "min": 15_000, "max": 15_100}, False),
        ({"figure": "migrations_by_cause.wakeup", "equals": 40}, True),
        ({"figure": "migrations_by_cause.wakeup", "equals": 41}, False),
        ({"figure": "migrations_by_cause.pull", "max": 6, "min": None}, True),
        ({"figure": "slat_us.p50", "max": 6}, None),
        ({"figure": "nonsense", "max": 6}, None),
    ],
)
def test_an_expectation_holds_fails_or_cannot_be_checked(
    expectation: dict[str, Any], ok: bool | None
) -> None:
    (check,) = check_expectations(FIGURES, [expectation])
    assert check["ok"] is ok
    assert check["figure"] == expectation["figure"]


def test_a_check_says_what_was_expected_and_what_is() -> None:
    (check,) = check_expectations(FIGURES, [{"figure": "iops", "min": 1, "max": 2}])
    assert check == {"figure": "iops", "expected": "min 1, max 2", "value": 15_234.2, "ok": False}


@pytest.mark.parametrize(
    ("figures", "oks", "complete", "valid"),
    [
        ({}, [True, True], True, True),
        ({}, [], True, True),
        ({}, [True, None], True, None),
        ({}, [None, False], True, False),
        ({}, [True], False, None),
        ({"bugs": ["on two queues"]}, [True], True, False),
        ({"warnings": ["late"]}, [True], True, False),
        ({"records_lost": 1}, [True], True, None),
    ],
)
def test_the_verdict(
    figures: dict[str, Any], oks: list[bool | None], complete: bool, valid: bool | None
) -> None:
    checks = [{"figure": "x", "expected": "", "value": 0, "ok": ok} for ok in oks]
    assert run_verdict(figures, checks, complete) is valid
    assert build_results(figures, checks, "box", 1, {}, complete)["valid"] is valid


def test_the_exit_status_is_the_verdicts() -> None:
    assert [exit_status(valid) for valid in (True, False, None)] == [0, 1, 2]
