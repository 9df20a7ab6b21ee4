"""Reading and commanding a run from another terminal."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from emulator import attach, engines
from emulator.attach import (
    AttachError,
    LogRequest,
    WhyRequest,
    log_lines,
    send_command,
    why_lines,
)
from emulator.engine.inline import RunOutcome
from emulator.rundir import RUN, RunDirectory, RunDirError, create_run_directory
from emulator.trace.ring import Ring
from emulator.tracepoints import BOX_AIO_COMPLETE, CPU_IDLE, MIGRATE_HOTPLUG, SCHED_MIGRATE_TASK
from emulator.types import NSEC_PER_MSEC
from tests.toybox import PARTS, toy_box


def _run(runs: Path) -> RunDirectory:
    directory = create_run_directory("toy", datetime(2026, 1, 1, tzinfo=UTC), runs)
    directory.write_json(RUN, {"nr_cpus": 2})
    return directory


def _ring(directory: RunDirectory) -> Ring:
    ring = Ring(directory.cpu_ring(1), "cpu1", 1)
    for millisecond in range(1, 5):
        ring.emit(millisecond * NSEC_PER_MSEC, CPU_IDLE, 0, 0, 0, 1, 1)
        ring.emit(millisecond * NSEC_PER_MSEC, BOX_AIO_COMPLETE, 0, 7, 0, 7, 1, 2, 0)
    return ring


def _body(lines: Iterator[str]) -> list[str]:
    return [line.split("] ")[1].split(":")[0].strip() for line in list(lines)[1:]]


def test_a_log_begins_with_the_number_of_cpus(tmp_path: Path) -> None:
    _ring(_run(tmp_path)).close()
    lines = list(log_lines(LogRequest("toy", 1), tmp_path))
    assert lines[0] == "cpus=2"
    assert len(lines) == 9
    assert lines[1] == "          <idle>-0     [001]     0.001000: cpu_idle: state=1 cpu_id=1"


def test_a_log_can_be_cut_by_event_and_time(tmp_path: Path) -> None:
    _ring(_run(tmp_path)).close()
    request = LogRequest("latest", 1, ("cpu_idle",), 2 * NSEC_PER_MSEC, 4 * NSEC_PER_MSEC)
    assert _body(log_lines(request, tmp_path)) == ["0.002000", "0.003000"]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (LogRequest("toy", 2), "has the CPUs 0-1, not 2"),
        (LogRequest("toy", 1, ("sched_swich",)), "sched_swich"),
        (LogRequest("toy", 0), r"cpu0\.ring"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, request_: LogRequest, text: str) -> None:
    _ring(_run(tmp_path)).close()
    with pytest.raises(AttachError, match=text):
        list(log_lines(request_, tmp_path))


def test_following_a_run_that_is_over_is_reading_it(tmp_path: Path) -> None:
    _ring(_run(tmp_path)).close()
    assert len(list(log_lines(LogRequest("toy", 1, follow=True), tmp_path))) == 9


def test_a_live_run_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = _run(tmp_path)
    ring = _ring(directory)
    directory.hold()

    # Where the follower would sleep, the run writes one more record and then ends.
    def go_on(_seconds: float) -> None:
        if directory.is_running():
            ring.emit(9 * NSEC_PER_MSEC, CPU_IDLE, 0, 0, 0, 1, 1)
            directory.release()

    monkeypatch.setattr("time.sleep", go_on)
    bodies = _body(log_lines(LogRequest("toy", 1, follow=True), tmp_path))
    assert bodies[-1] == "0.009000"
    assert len(bodies) == 9


def test_a_run_that_is_over_takes_no_command(tmp_path: Path) -> None:
    _run(tmp_path)
    with pytest.raises(RunDirError, match="takes no commands"):
        send_command("toy", ("cpu", "offline", "1"), tmp_path)


def test_a_run_that_died_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = _run(tmp_path)
    (directory.path / "control").write_text(f"ipc://{tmp_path}/nobody\n")
    monkeypatch.setattr(attach, "ANSWER_TIMEOUT_MS", 50)
    directory.hold()
    try:
        with pytest.raises(AttachError, match="does not answer"):
            send_command("toy", ("cpu", "offline", "1"), tmp_path)
    finally:
        directory.release()
    with pytest.raises(RunDirError, match="the run ended without saying so"):
        send_command("toy", ("cpu", "offline", "1"), tmp_path)


@contextmanager
def _running(directory: RunDirectory) -> Iterator[list[RunOutcome]]:
    # A toy box of processes in a thread, until the event of the first command is set.
    up, stop = threading.Event(), threading.Event()

    def on_progress(now_ns: int, waiting_for: str = "") -> bool:
        up.set()
        return not stop.is_set()

    outcomes: list[RunOutcome] = []
    spec = toy_box(duration_ms=10_000_000).resolve()
    job = engines.Job(spec, directory.path, on_progress, parts=PARTS)
    thread = threading.Thread(target=lambda: outcomes.append(engines.run("processes", job)))
    thread.start()
    directory.hold()
    try:
        assert up.wait(20)
        yield outcomes
    finally:
        stop.set()
        thread.join(20)
        directory.release()
    assert not thread.is_alive()


@pytest.mark.box
@pytest.mark.timeout(60)
def test_a_running_box_answers_a_command_and_records_it(tmp_path: Path) -> None:
    directory = _run(tmp_path)
    with _running(directory) as outcomes:
        answer = "error: the box takes no commands now"
        while "no commands now" in answer:  # until every agent has said hello
            answer = send_command("toy", ("cpu", "nod", "1"), tmp_path)
        assert answer == "as you say"
    assert outcomes[0].status == 0
    assert [words for _at_ns, words, _answer in outcomes[0].commands] == [["cpu", "nod", "1"]]
    assert not (directory.path / "control").exists()


# -- Why ----------------------------------------------------------------------------------------


def _moved(runs: Path) -> RunDirectory:
    directory = _run(runs)
    ring = Ring(directory.cpu_ring(1), "cpu1", 1)
    ring.comm(7, "fio")
    for millisecond in (1, 2):
        time_ns = millisecond * NSEC_PER_MSEC
        ring.emit(time_ns, SCHED_MIGRATE_TASK, 0, 0, 0, 7, 120, 1, millisecond, MIGRATE_HOTPLUG)
    ring.close()
    return directory


def test_why_finds_a_task_by_its_name_or_pid(tmp_path: Path) -> None:
    _moved(tmp_path)
    for request in (WhyRequest("toy", 7), WhyRequest("latest", task="fio")):
        lines = list(why_lines(request, tmp_path, 80))
        assert lines[0] == "fio/7 was moved from CPU 1 to CPU 2 at 0.002000 s: its CPU went away."
        assert lines[2] == "   0.002000 s  CPU 1      fio/7 left CPU 1 for CPU 2".removeprefix("  ")
    before = list(why_lines(WhyRequest("toy", 7, at_ns=NSEC_PER_MSEC), tmp_path, 80))
    assert before[0].startswith("fio/7 was moved from CPU 1 to CPU 1 at 0.001000 s")


@pytest.mark.parametrize("stands", [True, False])
def test_why_of_a_run_that_goes_on_leaves_out_what_may_be_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stands: bool
) -> None:
    directory = _moved(tmp_path)

    def write_on(_seconds: float) -> None:
        # While the reader looks away: a third move, whose record may not be whole yet.
        if not stands:
            ring = Ring.reopen(directory.cpu_ring(1), "cpu1", 1)
            ring.emit(3 * NSEC_PER_MSEC, SCHED_MIGRATE_TASK, 0, 0, 0, 7, 120, 2, 3, 0)
            ring.close()

    monkeypatch.setattr(time, "sleep", write_on)
    directory.hold()
    try:
        lines = list(why_lines(WhyRequest("toy", 7), tmp_path, 80))
    finally:
        directory.release()
    assert lines[0].startswith("fio/7 was moved from CPU 1 to CPU 2 at 0.002000 s")


def test_why_refuses_what_it_cannot_explain(tmp_path: Path) -> None:
    with pytest.raises(RunDirError):
        list(why_lines(WhyRequest("toy", 7), tmp_path, 80))
    directory = _moved(tmp_path)
    with pytest.raises(AttachError, match=r"no task has the pid 8; there are tasks called fio$"):
        list(why_lines(WhyRequest("toy", 8), tmp_path, 80))
    with pytest.raises(AttachError, match="no task is called 'dd'"):
        list(why_lines(WhyRequest("toy", task="dd"), tmp_path, 80))
    directory.cpu_ring(1).write_bytes(b"no ring")
    with pytest.raises(AttachError, match="not a ring"):
        list(why_lines(WhyRequest("toy", 7), tmp_path, 80))


def test_logs_have_the_text_of_the_runs_kernel(tmp_path: Path) -> None:
    directory = _run(tmp_path)
    directory.write_json(RUN, {"nr_cpus": 2, "rules": ["trace_pid_wide", "trace_migrate_disable"]})
    _ring(directory).close()
    lines = list(log_lines(LogRequest("toy", 1), tmp_path))
    assert lines[:2] == [
        "cpus=2",
        "          <idle>-0       [001]     0.001000: cpu_idle: state=1 cpu_id=1",
    ]
    flags = list(log_lines(LogRequest("toy", 1, flags=True), tmp_path))
    assert flags[2] == "# entries-in-buffer/entries-written: 8/8   #P:2"
    assert flags[-2:][0].split("] ")[1].startswith(".....     0.004000: cpu_idle")
