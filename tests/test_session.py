"""One run from end to end, with toy nodes: what it leaves, and with which status it ends."""

import dataclasses
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from emulator import engines, session
from emulator.config import Box, Expectation
from emulator.engine.inline import RunOutcome
from emulator.rundir import BOX, COMMANDS, PROGRAMS, RESULTS, RUN, RunDirError, resolve_run
from emulator.session import Request, SessionError, run_box
from emulator.types import NSEC_PER_MSEC, BoxEvent
from tests.toybox import PARTS, toy_box

INLINE = Request("toy", engine="inline", quiet=True, parts=PARTS)


@pytest.fixture(autouse=True)
def _no_box_files(monkeypatch: pytest.MonkeyPatch) -> None:
    _use(monkeypatch, toy_box())


def _use(monkeypatch: pytest.MonkeyPatch, box: Box) -> None:
    def load_box(_path: str, _overrides: Sequence[str], _seed: int, _duration: str) -> Box:
        return box

    monkeypatch.setattr(session, "load_box", load_box)


def _results(runs: Path) -> dict[str, Any]:
    return resolve_run("toy", runs).read_json(RESULTS)


def test_a_run_leaves_everything_in_its_directory(tmp_path: Path) -> None:
    assert run_box(INLINE, tmp_path) == 0
    names = {path.name for path in resolve_run("latest", tmp_path).path.iterdir()}
    rings_and_logs = {f"cpu{cpu}.{kind}" for cpu in (0, 1) for kind in ("ring", "log")}
    assert names == {BOX, RUN, COMMANDS, PROGRAMS, RESULTS, *rings_and_logs}


def test_the_results_tell_what_the_rings_hold(tmp_path: Path) -> None:
    run_box(INLINE, tmp_path)
    results = _results(tmp_path)
    assert results["valid"] is True
    assert results["complete"] is True
    # IOs at 0.1, 0.2 … 19.9 ms; migrations at 1 … 19 ms.
    assert results["figures"]["iops"] == pytest.approx(199 / 0.020)
    assert results["figures"]["migrations"] == 19
    assert results["engine"]["name"] == "inline"
    assert results["engine"]["reached_ns"] == 20 * NSEC_PER_MSEC
    log = resolve_run("toy", tmp_path).cpu_log(0).read_text()
    assert log.startswith("cpus=2\n")
    assert log.count("sched_migrate_task: comm=fio pid=100") == 19


def test_seed_engine_and_versions_are_known_before_the_run(tmp_path: Path) -> None:
    run_box(INLINE, tmp_path)
    facts = resolve_run("toy", tmp_path).read_json(RUN)
    assert (facts["seed"], facts["engine"], facts["nr_cpus"]) == (1, "inline", 2)
    assert {"smpbox", "wire", "python", "pyzmq", "msgpack"} <= facts["versions"].keys()


def test_an_expectation_that_fails_is_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, toy_box(expect=(Expectation("migrations", None, 5, None),)))
    assert run_box(INLINE, tmp_path) == 1
    assert [check["ok"] for check in _results(tmp_path)["checks"]] == [False]


def test_an_expectation_of_an_unknown_figure_is_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, toy_box(expect=(Expectation("no_such_figure", 1, None, None),)))
    assert run_box(INLINE, tmp_path) == 2
    assert _results(tmp_path)["valid"] is None


def test_timed_events_are_carried_out_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, toy_box(events=(BoxEvent(3_000_000, "cpu nod 1"),)))
    assert run_box(INLINE, tmp_path) == 0
    text = (resolve_run("toy", tmp_path).path / COMMANDS).read_text()
    assert json.loads(text.removeprefix("- ")) == {
        "at": "3000000ns",
        "do": "cpu nod 1",
        "answer": "as you say",
    }


def test_an_event_that_no_node_takes_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, toy_box(events=(BoxEvent(3_000_000, "fly to the moon"),)))
    with pytest.raises(SessionError, match="toy: events: 'fly' is not a command"):
        run_box(INLINE, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_fails_ends_the_run_with_status_1_and_its_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _use(monkeypatch, toy_box(events=(BoxEvent(3_000_000, "cpu fail 1"),)))
    assert run_box(INLINE, tmp_path) == 1
    assert "CPU 1 was told to fail" in capsys.readouterr().err
    results = _results(tmp_path)
    assert results["valid"] is False
    assert "CPU 1 was told to fail" in results["error"]


def test_ctrl_c_ends_a_run_with_the_results_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _use(monkeypatch, toy_box(duration_ms=1000))

    def run(engine: str, job: engines.Job) -> RunOutcome:
        def on_progress(now_ns: int, waiting_for: str = "") -> bool:
            os.kill(os.getpid(), signal.SIGINT)
            return job.on_progress(now_ns, waiting_for)

        return engines.ENGINES[engine](dataclasses.replace(job, on_progress=on_progress))

    monkeypatch.setattr(engines, "run", run)
    before = signal.getsignal(signal.SIGINT)
    assert run_box(INLINE, tmp_path) == 2
    results = _results(tmp_path)
    assert results["interrupted"] is True
    assert results["complete"] is False
    assert 0 < results["engine"]["reached_ns"] < 1000 * NSEC_PER_MSEC
    assert results["figures"]["migrations"] > 0
    assert signal.getsignal(signal.SIGINT) is before


def test_out_is_the_run_directory(tmp_path: Path) -> None:
    out = tmp_path / "here"
    assert run_box(dataclasses.replace(INLINE, out=out), tmp_path / "runs") == 0
    assert (out / RESULTS).is_file()
    with pytest.raises(RunDirError, match="not empty"):
        run_box(dataclasses.replace(INLINE, out=out), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_cpus_that_take_turns_are_refused_as_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = toy_box(take_turns=True)
    _use(monkeypatch, box)
    with pytest.raises(SessionError, match="inline alone"):
        run_box(dataclasses.replace(INLINE, engine="processes"), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert session.choose_engine(Request("toy"), box.resolve()) == "inline"


def test_strict_means_inline() -> None:
    spec = toy_box().resolve()
    assert session.choose_engine(Request("toy", strict=True), spec) == "inline"
    assert session.choose_engine(Request("toy"), spec) == "processes"
    with pytest.raises(SessionError, match="strict"):
        session.choose_engine(Request("toy", engine="processes", strict=True), spec)


def test_inline_and_strict_leave_the_same_rings(tmp_path: Path) -> None:
    rings = []
    for strict in (False, True):
        out = tmp_path / str(strict)
        assert run_box(dataclasses.replace(INLINE, strict=strict, out=out), tmp_path) == 0
        rings.append((out / "cpu0.ring").read_bytes())
    assert rings[0] == rings[1]


@pytest.mark.box
@pytest.mark.timeout(60)
def test_processes_leave_the_rings_of_inline_and_say_what_they_cost(tmp_path: Path) -> None:
    rings = []
    for engine in ("inline", "processes"):
        out = tmp_path / engine
        assert run_box(dataclasses.replace(INLINE, engine=engine, out=out), tmp_path) == 0
        rings.append((out / "cpu0.ring").read_bytes())
    assert rings[0] == rings[1]
    facts = json.loads((tmp_path / "processes" / RESULTS).read_text())["engine"]
    assert {"emucpu/0", "emucpu/1", "emucoord"} <= facts["agents"].keys()
    assert facts["wall_s"] >= facts["start_s"] > 0
