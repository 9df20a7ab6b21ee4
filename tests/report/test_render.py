"""Tests of the result on the terminal: it answers the question, briefly, and plainly in a pipe."""

import io
from typing import Any

import pytest
from rich.console import Console

from emulator.report.figures import RunData, figures
from emulator.report.render import cpu_lines, duration, render, render_comparisons, story
from emulator.report.results import build_results, check_expectations
from emulator.report.validate import compare_case, real_case
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
    assert "12,872 IOPS · 1.0 works per kworker run · 0.00% completed inline" in text
    assert "check iops: min 99999; it is 12871.7: FAILED" in text
    assert "12,345" in text


def test_the_result_is_short_and_plain_in_a_pipe(results: dict[str, Any]) -> None:
    text = printed(results)
    assert len(text.splitlines()) <= 40
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_active_balance_names_what_waited(results: dict[str, Any]) -> None:
    rings, end = cycles_of_512(100)
    migrate(rings[0], end + 1, 0, 0, 1, MIGRATE_ACTIVE)
    lines = list(story(figures(RunData(readers_of(rings), 0, end + 2))))
    assert lines[-1].endswith(
        "pushed away by active balance: the bound kworker's works waited 6.78 µs (p50) behind it"
    )


def test_a_submitter_that_stays_is_said_to_stay() -> None:
    found = figures(RunData(readers_of(new_rings(1)), 0, 1_000_000_000, (FIO,)))
    assert list(story(found)) == ["fio/288 was never migrated"]
    rings, _ = cycles_of_512(1)
    found = figures(RunData(readers_of(rings), 0, 1_000_000_000, (FIO,)))
    assert next(story(found)) == (
        "fio/288 was hardly ever (1.0/s) migrated: kworkers ran 4.96 µs (p50) after they were "
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
    assert "verdict unknown (the run ended early)" in text
    assert "0 submitters were never migrated" in text


@pytest.mark.parametrize(("cpus", "lines"), [(4, 1), (8, 2), (24, 6), (64, 8)])
def test_cpu_use_of_any_box_takes_few_lines(cpus: int, lines: int) -> None:
    found = list(cpu_lines({str(cpu): 0.5 for cpu in range(cpus)}, bars=True))
    assert len(found) == lines
    assert max(map(len, found)) <= 100


def test_bars_show_use() -> None:
    assert list(cpu_lines({"0": 0.0, "1": 0.5, "2": 1.0}, bars=False)) == [
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
