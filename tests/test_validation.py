"""The command ``validate``: which cases it runs, how, and what its status says."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pytest

from emulator import validation
from emulator.apart import Errand, Report
from emulator.config import find_config_dir, load_costs
from emulator.report.validate import RealCase, real_case
from emulator.validation import (
    CaseError,
    batch_of,
    chosen,
    list_cases,
    load_cases,
    validate_cases,
)

DATA = {"window_s": 1.0, "figures": {"iops": {"real": 1000, "tolerance": "iops"}}}
CASES = {name: real_case(name, DATA) for name in ("W30", "W1-default", "W1-tuned", "W1b-tuned")}


def _names(cases: Sequence[RealCase]) -> list[str]:
    return [case.name for case in cases]


def test_a_word_is_a_case_or_a_batch() -> None:
    assert _names(chosen(CASES, ["W1"])) == ["W1-default", "W1-tuned"]
    assert _names(chosen(CASES, ["W1-tuned", "W1"])) == ["W1-tuned", "W1-default"]
    assert _names(chosen(CASES, [])) == list(CASES)
    with pytest.raises(CaseError, match=r"'W2'; there are W30, W1-default"):
        chosen(CASES, ["W2"])


def test_every_case_that_ships_has_figures_and_a_box() -> None:
    directory = find_config_dir() / "oracle"
    cases = load_cases()
    assert set(cases) == {path.stem for path in directory.glob("*.yaml")} - {"figures"}
    assert all(case.figures and case.window_s > 0 for case in cases.values())


def _run_with(monkeypatch: pytest.MonkeyPatch, iops: dict[str, float]) -> list[Errand]:
    seen: list[Errand] = []

    def run_apart(errands: Sequence[Errand], _at_once: int) -> Iterator[Report]:
        for errand in errands:
            seen.append(errand)
            name = errand.box.removeprefix("oracle/")
            parallel = "machine.take_turns=false" in errand.options
            found = iops.get(f"{name} parallel" if parallel else name)
            figures: dict[str, Any] = {"iops": found, "window_s": 1.0}
            results = None if found is None else {"complete": True, "figures": figures}
            yield Report(errand, results, "it broke" if found is None else "")

    monkeypatch.setattr(validation, "run_apart", run_apart)
    monkeypatch.setattr(validation, "load_cases", lambda: CASES)
    return seen


def test_each_case_runs_once_per_seed_and_inline(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _run_with(monkeypatch, {"W1b-tuned": 1000.0})
    assert validate_cases(["W1b"], 3) == 0
    assert seen == [
        Errand("oracle/W1b-tuned", ("--engine", "inline", "--seed", str(seed)))
        for seed in (1, 2, 3)
    ]


def test_w30_is_also_shown_without_turns_but_not_judged_by_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run_with(monkeypatch, {"W30": 1010.0, "W30 parallel": 2000.0})
    assert validate_cases(["W30"], 1) == 0
    shown = capsys.readouterr().out
    assert "W30 parallel" in shown
    assert "2,000" in shown


def test_a_figure_that_misses_is_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    _run_with(monkeypatch, {"W1-default": 1000.0, "W1-tuned": 1100.0})
    assert validate_cases(["W1"], 1) == 1


def test_a_run_without_results_is_told_and_makes_the_verdict_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run_with(monkeypatch, {})
    assert validate_cases(["W1b"], 1) == 2
    assert "oracle/W1b-tuned: it broke" in capsys.readouterr().err


def test_batches_are_summed_up_and_what_missed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run_with(monkeypatch, {"W1-default": 1000.0, "W1-tuned": 1100.0, "W1b-tuned": 990.0})
    assert validate_cases(["W1", "W1b"], 1) == 1
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "W1 1 1 1 1 0 0" in shown
    assert "W1b 1 0 1 0 0 0" in shown
    assert "all 2 1 2 1 0 0" in shown
    assert "missed: W1-tuned: iops" in shown


def test_json_holds_every_row_and_no_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run_with(monkeypatch, {"W1-default": 1000.0, "W1-tuned": 1100.0})
    assert validate_cases(["W1"], 2, as_json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verdict"], answer["seeds"]) == (False, 2)
    assert answer["cases"]["W1-default"]["verdict"] is True
    assert answer["cases"]["W1-tuned"]["figures"]["iops"] == {
        "real": 1000.0,
        "emulated": 1100.0,
        "low": 1100.0,
        "high": 1100.0,
        "tolerance": "iops",
        "calibrated": False,
        "verdict": "miss",
    }


def test_the_list_names_every_case_under_its_batch(capsys: pytest.CaptureFixture[str]) -> None:
    list_cases(["W1", "D54s2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines.index("W1") < lines.index("D54s2")
    for name in load_cases():
        listed = any(line.split()[:1] == [name] for line in lines)
        assert listed == (batch_of(name) in ("W1", "D54s2")), name


def test_half_speed_costs_are_those_of_icount_times_two() -> None:
    whole, half = asdict(load_costs("icount")), asdict(load_costs("icount-half"))
    verify = whole.pop("verify_ps_per_byte")
    assert half.pop("verify_ps_per_byte") == {name: 2 * cost for name, cost in verify.items()}
    for share in ("transaction_spread_percent", "log_stall_ppm"):
        assert half.pop(share) == whole.pop(share)
    assert half == {name: 2 * cost for name, cost in whole.items()}
