"""The benchmark's plan and its arithmetic; the runs themselves are not timed here."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from emulator import bench
from emulator.apart import Errand, Report
from emulator.bench import memory_lines, plan, run_bench, speed_of
from emulator.config import list_boxes

ERRAND = Errand("xfs-aio-512", ("--engine", "processes", "--for", "5s"))
RESULTS: dict[str, Any] = {
    "complete": True,
    "engine": {
        "reached_ns": 5_000_000_000,
        "wall_s": 11.0,
        "start_s": 1.0,
        "windows": 10_000,
        "messages": 20_000,
        "agents": {
            "emucpu/0": {"rss_bytes": 20 << 20},
            "emucpu/1": {"rss_bytes": 30 << 20},
            "emucoord": {"rss_bytes": 99 << 20},
        },
    },
    "figures": {"iops": 10_000.0, "window_s": 4.0, "records": 400_000},
}


def test_the_plan_covers_every_shipped_kind_of_box() -> None:
    errands = [errand for _, table in plan("1s") for errand in table]
    boxes = {name for name, _ in list_boxes()} | {"oracle/W30"}
    assert {errand.box for errand in errands} <= boxes
    sizes = [word for errand in errands for word in errand.options if "machine.cpus" in word]
    assert sorted(set(sizes)) == [f"machine.cpus={cpus}" for cpus in (24, 4, 64, 8)]


def test_speed_is_emulated_time_over_the_time_of_the_run_without_its_start() -> None:
    speed = speed_of(Report(ERRAND, RESULTS))
    assert speed is not None
    assert speed.emulated_s / speed.run_s == 0.5
    assert (speed.iops, speed.records_per_s) == (10_000, 100_000)


@pytest.mark.parametrize("results", [None, {**RESULTS, "complete": False}])
def test_a_run_that_did_not_end_has_no_speed(results: dict[str, Any] | None) -> None:
    assert speed_of(Report(ERRAND, results, "it broke")) is None


def test_memory_is_that_of_the_cpus() -> None:
    assert list(memory_lines([Report(ERRAND, RESULTS)])) == [
        "xfs-aio-512: 2 CPU processes, 25.0 MiB resident each, 30.0 MiB at most"
    ]


@pytest.mark.parametrize(("results", "status"), [(RESULTS, 0), (None, 2)])
def test_the_tables_show_every_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    results: dict[str, Any] | None,
    status: int,
) -> None:
    def run_apart(errands: Sequence[Errand], at_once: int) -> Iterator[Report]:
        assert at_once == 1
        return (Report(errand, results, "it broke") for errand in errands)

    monkeypatch.setattr(bench, "run_apart", run_apart)
    monkeypatch.setattr(bench, "allocations_per_io", lambda _box, iops: iops / 40)
    assert run_bench(quick=True) == status
    shown = capsys.readouterr().out
    assert shown.count("250 allocations per IO") == (3 if status == 0 else 0)
    assert ("0.50x" in shown) == (status == 0)
    assert ("it broke" in shown) == (status == 2)
