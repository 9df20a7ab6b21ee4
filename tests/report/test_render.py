"""Tests of the result on the terminal: it answers the question, briefly, and plainly in a pipe."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from emulator.report.figures import RunData, figures
from emulator.report.render import (
    commands_line,
    completion_line,
    cpu_lines,
    render,
    render_comparisons,
    story,
    verdict,
)
from emulator.report.results import build_results, check_expectations
from emulator.report.validate import compare_case, real_case
from emulator.report.words import NO_BREAK, duration
from emulator.tracepoints import MIGRATE_ACTIVE
from tests.report.rings import FIO, cycles_of_512, migrate, new_rings, readers_of


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Return the results of a run of 512-byte cycles."""
    rings, end = cycles_of_512(200)
    books = {8: {"balance": {"idle": {"calls": 12_345, "failed": 9, "active_kicked": 3}}}}
    found = figures(RunData(readers_of(rings), 0, end, books=books))
    checks = check_expectations(found, [{"figure": "iops", "min": 99_999}])
    return build_results(found, checks, "xfs-aio-512", 7, {})


def printed(results: dict[str, Any], width: int = 100) -> str:
    """Return what is printed into a pipe."""
    file = io.StringIO()
    render(results, Console(file=file, width=width))
    return file.getvalue()


def test_the_result_says_how_often_and_why(results: dict[str, Any]) -> None:
    text = printed(results)
    assert "fio/288 was migrated 12,871.7 times per second, 1,000.0 per 1000 IOs" in text
    assert "placed on another CPU when it was woken: the waking kworker sat on its last CPU" in text
    assert "12,872 IOPS · 1.0 works per kworker run · no IO completed without a kworker" in text
    assert "check iops: expected min 99999, got 12871.7: FAILED" in text
    assert "FAILED: 1 of 1 check does not hold" in text
    assert "12,345" in text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_result_is_short_and_plain_in_a_pipe(results: dict[str, Any], width: int) -> None:
    text = printed(results, width)
    assert len(text.splitlines()) <= 40
    assert "\x1b" not in text
    # A table's row does not shrink below what its figures need.
    assert max(map(len, text.splitlines())) <= max(width, 79)


def test_what_a_narrow_terminal_wraps_goes_on_below_its_text(results: dict[str, Any]) -> None:
    lines = printed(results, 80).splitlines()
    cause = next(index for index, line in enumerate(lines) if "placed on another CPU" in line)
    assert lines[cause].startswith("  12,871.7/s  placed on another CPU when it was woken:")
    assert lines[cause + 1] == "              its last CPU"
    assert "p10" not in "".join(lines)
    assert "p10" in printed(results, 100)


def test_active_balance_blames_a_kworker_only_if_works_waited() -> None:
    rings, end = cycles_of_512(100)
    migrate(rings[0], end + 1, 0, 0, 1, MIGRATE_ACTIVE)
    found = figures(RunData(readers_of(rings), 0, end + 2))
    assert _pushed(found).endswith(
        "pushed away by active balance: what waited behind it could not be moved"
    )
    found["queue_to_start_us"] = {**found["queue_to_start_us"], "p50": 4270.0}
    assert _pushed(found).endswith(
        "pushed away by active balance: the kworker bound to its CPU waited behind it (works "
        "4.27 ms, median) and could not be moved, so the submitter was"
    )


def _pushed(found: dict[str, Any]) -> str:
    return next(line for line in story(found) if "pushed away by active balance:" in line)


def test_the_verdict_says_what_held_and_what_did_not(results: dict[str, Any]) -> None:
    quiet = {**results["figures"], "bugs": [], "warnings": []}
    ok, unknown = {"ok": True}, {"ok": None}
    engine = {"reached_ns": 1_640_000_000, "wall_s": 0.5, "name": "inline"}

    def of(valid: bool | None, checks: list[dict[str, Any]], **more: Any) -> str:
        return verdict({"valid": valid, "checks": checks, "figures": quiet, **more}).plain

    assert of(True, []) == "passed"
    assert of(True, [ok]) == "passed: 1 check holds"
    assert of(True, [ok, ok]) == "passed: 2 checks hold"
    assert of(False, [ok, {"ok": False}]) == "FAILED: 1 of 2 checks does not hold"
    assert of(False, [], error="a traceback") == "FAILED: the run broke off with an error"
    assert of(None, [], error="killed") == "no verdict: the run broke off with an error"
    interrupted = of(None, [], interrupted=True, complete=False, engine=engine)
    assert interrupted == "no verdict: interrupted at 1.64 s"
    assert of(None, [unknown]).startswith("no verdict: a check names a figure")
    quiet["bugs"] = ["BUG: a", "BUG: b"]
    assert of(False, [ok]) == "FAILED: 2 bugs"


def test_commands_are_told_with_their_time_and_odd_answers() -> None:
    commands = [
        {"at_ns": 400_000_000, "do": "cpu offline 3", "answer": "done"},
        {"at_ns": 1_500_000_000, "do": "cpu offline 3", "answer": "refused: CPU 3 is offline"},
    ]
    assert commands_line(commands).replace(NO_BREAK, " ") == (
        "commands: 0.4 s cpu offline 3 · 1.5 s cpu offline 3 (refused: CPU 3 is offline)"
    )
    assert commands_line(commands * 20).endswith("· and 24 more")


def test_the_last_line_says_where_the_results_are(results: dict[str, Any]) -> None:
    engine = {"reached_ns": 1_200_000_000, "wall_s": 0.9004, "name": "inline"}
    file = io.StringIO()
    render({**results, "engine": engine}, Console(file=file, width=100), Path("runs/toy/now"))
    assert file.getvalue().splitlines()[-1] == (
        "results.json, cpuN.log and the rest are in runs/toy/now (1.2 s emulated in 0.9 s, inline)"
    )


def test_a_submitter_that_stays_is_said_to_stay() -> None:
    found = figures(RunData(readers_of(new_rings(1)), 0, 1_000_000_000, (FIO,)))
    assert list(story(found)) == ["fio/288 was never migrated"]
    rings, _ = cycles_of_512(1)
    found = figures(RunData(readers_of(rings), 0, 1_000_000_000, (FIO,)))
    assert next(story(found)) == (
        "fio/288 was hardly ever (1.0/s) migrated: kworkers ran 4.96 µs (median) after they were "
        "woken, 1.0 works each"
    )


def test_several_submitters_get_a_line_each() -> None:
    found = figures(RunData(readers_of(new_rings(1)), 0, 1_000, (FIO, 7)))
    lines = list(story(found))
    assert lines[0] == "2 submitters were never migrated"
    assert [line.split(":")[0] for line in lines[1:]] == ["  kworker/0", "  fio/288"]


def test_an_empty_run_renders() -> None:
    found = figures(RunData(readers_of(new_rings(2)), 0, 1))
    text = printed(build_results(found, [], "empty", 1, {}, complete=False))
    assert "no verdict: the run ended early" in text
    assert "no submitter completed an IO in this time" in text


@pytest.mark.parametrize(("cpus", "lines"), [(4, 1), (8, 2), (24, 6), (64, 8)])
def test_cpu_use_of_any_box_takes_few_lines(cpus: int, lines: int) -> None:
    found = list(cpu_lines({str(cpu): 0.5 for cpu in range(cpus)}, bars=True, width=80))
    assert len(found) == lines
    assert max(map(len, found)) <= 80


def test_bars_show_use() -> None:
    assert list(cpu_lines({"0": 0.0, "1": 0.5, "2": 1.0}, bars=False, width=100)) == [
        "CPU   0 ............   0%   1 ######......  50%   2 ############ 100%"
    ]


def test_durations_have_three_digits_in_a_fitting_unit() -> None:
    assert [duration(us) for us in (0.5, 6.34, 3195.68, 1_500_000.0)] == [
        "0.5 µs",
        "6.34 µs",
        "3.2 ms",
        "1.5 s",
    ]


def test_comparisons_are_a_table_with_a_verdict_each() -> None:
    figures_ = {
        "iops": {"real": 15_234.2, "tolerance": "iops"},
        "queue_to_start_us.p50": {"real": 6.9, "tolerance": "median", "calibrated": True},
    }
    case = real_case("W30", {"window_s": 30, "figures": figures_})
    file = io.StringIO()
    render_comparisons(compare_case(case, [{"iops": 15_300.0}]), Console(file=file, width=120))
    lines = file.getvalue().splitlines()
    assert " ".join(lines[1].split()) == (
        "W30 iops 15,234 15,300 15,300 – 15,300 1.00 predicted ok"
    )
    assert lines[2].split() == ["W30", "queue_to_start_us.p50", "6.9", "calibrated", "unknown"]
    assert lines[3] == "1 ok, 0 miss, 1 unknown, 0 info"


def test_where_ios_were_completed_is_said_if_it_is_not_as_ever() -> None:
    found = {
        "total": 1000,
        "local_fraction": 0.25,
        "remote_llc_fraction": 0.75,
        "remote_other_fraction": 0.0,
        "cache_refill_us": 600.0,
        "idle_wakeups_per_s": 1234.5,
        "decisions": {"not_saturated": 250, "idle": 750},
        "decision_ns": 151.2,
    }
    assert completion_line({"completions": found}) == (
        "25% completed on the submitter's CPU · 75% on another of its cache, for 600 µs of cache "
        "misses · 1,234 idle CPUs woken/s · policy: 75% idle, 25% not saturated, 151 ns each"
    )
    ever = {**found, "local_fraction": 1.0, "remote_llc_fraction": 0.0, "decisions": {}}
    assert completion_line({"completions": ever}) == ""
    assert completion_line({}) == ""
