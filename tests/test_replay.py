"""A run that was commanded by hand, made again: the rings are the same in every engine, or it is said."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

import pytest

from emulator.apart import environment
from emulator.cli import main
from emulator.replay import ReplayError, ReplayRequest, read_run, replay
from emulator.rundir import CONTROL, RunDirectory

pytestmark = [pytest.mark.box, pytest.mark.timeout(120)]

BOX = ("xfs-aio-4k-tuned", "--for", "150ms", "--set", "warmup=20ms")
SMPBOX = (sys.executable, "-c", "from emulator.cli import main; main()")
DEADLINE_S = 60

#: What is added to it: tasks, an fio job with a file of its own, a pair with pipes.
LATE = """
workloads:
  - {program: hog, name: burner, count: 2, nice: 5, start: 1ms}
  - {fio: own.fio}
  - {program: pingpong, params: {rounds: 1000}}
"""
JOB = "[own]\nrw=randwrite\nbs=512\nsize=1m\noverwrite=1\nioengine=libaio\ndirect=1\niodepth=4\ndirectory=/mnt\n"


def _call(words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SMPBOX, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=60,
    )


@contextmanager
def _standing(out: Path) -> Iterator[subprocess.Popen[str]]:
    """A box of processes that stands still at 0, in a process of its own."""
    words = [*SMPBOX, "run", *BOX, "--paused", "--no-logs", "--out", str(out)]
    deadline = time.monotonic() + DEADLINE_S
    with subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, env=environment()
    ) as process:
        try:
            while not (out / CONTROL).exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def _tell(out: Path, line: str) -> str:
    """Give a command from another process, again while the box is not up yet."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        done = _call(("ctl", str(out), *line.split()))
        if "about to start" not in done.stderr or time.monotonic() > deadline:
            return done.stdout + done.stderr


@pytest.fixture(scope="module")
def commanded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a box that was commanded by hand, standing still and running."""
    out = tmp_path_factory.mktemp("commanded") / "run"
    late = out.parent / "late.yaml"
    late.write_text(LATE)
    (out.parent / "own.fio").write_text(JOB)
    with _standing(out) as process:
        assert _tell(out, "step 30ms") == "stands still at 0.030000000 s\n"
        due = "takes effect at 0.030000001 s, when the box goes on\n"
        assert _tell(out, "cpu load 2 --percent 60") == due
        assert _tell(out, "cpu load 2 --percent 30") == due
        assert _tell(out, "cpu load 2 --percent 60") == due
        assert _tell(out, f"workload add {late}") == due
        assert _tell(out, "cpu offline of:fio") == due
        stands = _tell(out, "step until offline")
        assert stands.startswith("stands still at 0.03")
        assert "cpuhp_enter" in stands
        status = _tell(out, "status")
        assert "cpu offline of:fio: under way" in status
        assert ": offline\n" in status
        assert "fio-10000 waits to run" in status
        assert _tell(out, "step 1ms").startswith("stands still at 0.03")
        assert "cpu offline of:fio: done on CPU" in _tell(out, "status")
        assert "\n" in _call(("cat", str(out), "/proc/schedstat")).stdout
        assert _tell(out, "step until next tuesday").startswith("error: 'next tuesday' is no event")
        assert _tell(out, "renice burner 21").startswith("error: '21' is no nice level")
        assert _tell(out, "taskset wastrel 1").startswith("error: no task is called 'wastrel'")
        for line in ("renice 10101 -5", "taskset burner 4-5", "renice 4711 1", "cpu kill 6"):
            assert _tell(out, line).startswith("takes effect at 0.03")
        assert _tell(out, "step 30ms").startswith("stands still at 0.06")
        status = _tell(out, "status")
        assert "  0.030000001 s  workload add burner,fio,ping,pong: added " in status
        assert "added burner-10100, burner-10101" in status
        assert "fio-10200" in status
        assert "renice 10101 -5: done on CPU " in status
        assert "renice 4711 1: refused: there is no such task now" in status
        assert "cpu kill 6: done" in status
        assert _tell(out, "workload stop burner").startswith("takes effect at 0.06")
        assert _tell(out, "continue").startswith("goes on from 0.06")
        assert _tell(out, "completion unless-saturated:psi").startswith(
            "error: the signal psi reads"
        )
        assert _tell(out, "completion wq-cache-bound:2") == "done\n"
        assert _tell(out, "chrt fio fifo 3").startswith("refused: fio may run on ")
        assert _tell(out, "chrt fio batch").startswith("done on CPU ")
        _tell(out, "cpu load 3 --percent 50")
        assert process.wait(DEADLINE_S) in (0, 1)  # whatever became of what the box expects
    return out


@pytest.mark.parametrize("engine", ["inline", "processes"])
def test_a_run_commanded_by_hand_is_the_same_again_in_every_engine(
    commanded: Path, tmp_path: Path, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request = ReplayRequest(str(commanded), engine, strict=False, out=tmp_path, quiet=True)
    assert replay(request, tmp_path) == 0
    assert "10 rings, " in (said := capsys.readouterr().out)
    assert said.endswith(" records: identical, byte for byte\n")
    # What the commands came to is the same too.
    assert (tmp_path / "commands.yaml").read_text() == (commanded / "commands.yaml").read_text()


def test_a_command_a_nanosecond_later_is_another_run(
    commanded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    copytree(commanded, other)
    commands = (other / "commands.yaml").read_text().replace("30000001ns", "30000002ns", 1)
    (other / "commands.yaml").write_text(commands)
    out = tmp_path / "again"
    out.mkdir()
    assert replay(ReplayRequest(str(other), "inline", False, out, quiet=True), tmp_path) == 1
    said = capsys.readouterr().out
    assert "cpu2.ring differs from record" in said
    assert "now: " in said
    (other / "commands.yaml").write_text('- {"at": "1ms", "do": "cpu dance 1"}\n')
    with pytest.raises(ReplayError, match="no command 'cpu dance'"):
        replay(ReplayRequest(str(other), "inline", False, tmp_path, quiet=True), tmp_path)


def test_ctrl_c_ends_a_box_that_stands_still_and_its_run_can_be_made_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with _standing(out) as process:
        assert _tell(out, "step 5ms") == "stands still at 0.005000000 s\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 2
    results = json.loads((out / "results.json").read_text())
    assert results["interrupted"]
    assert results["engine"]["reached_ns"] == 5_000_001
    assert not (out / CONTROL).exists()
    again = tmp_path / "again"
    again.mkdir()
    assert replay(ReplayRequest(str(out), "inline", True, again, quiet=True), tmp_path) == 0


def test_a_run_of_another_build_is_refused(commanded: Path, tmp_path: Path) -> None:
    copytree(commanded, tmp_path / "old")
    directory = RunDirectory(tmp_path / "old")
    facts = directory.read_json("run.json")
    facts["versions"]["wire"] = "0123"
    directory.write_json("run.json", facts)
    with pytest.raises(ReplayError, match="was made by another build"):
        read_run(directory)


def test_no_such_run_is_status_2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["smpbox", "replay", "latest"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
