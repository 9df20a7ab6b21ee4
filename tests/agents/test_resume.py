"""A run with all that may be told to it while it runs, killed and resumed: the end is that of one undisturbed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emulator.agents.store import read_checkpoint
from emulator.attach import send_command
from emulator.replay import ReplayRequest, replay
from emulator.rundir import CHECKPOINT, COMMANDS, CONTROL, RESULTS
from tests.agents.test_launch import agents_of, assert_all_gone, launch, running, wait_for

pytestmark = [pytest.mark.box, pytest.mark.timeout(180)]

BOX = ("xfs-aio-4k-tuned", "--for", "170ms", "--set", "warmup=20ms", "--set", "checkpoint=10ms")

LATE = """
workloads:
  - {program: hog, name: burner, count: 2, nice: 5, start: 1ms}
  - {fio: own.fio}
  - {program: pingpong, params: {rounds: 2000}}
"""
JOB = "[own]\nrw=randwrite\nbs=512\nsize=1m\noverwrite=1\nioengine=libaio\ndirect=1\niodepth=4\ndirectory=/mnt\n"

#: Told before the checkpoint from which the run goes on, and after it.
BEFORE = (
    *("renice burner 7", "taskset 10200 4", "sysctl kernel.sched_wakeup_granularity_ns=4000000"),
    *("policy +preempt-kthread", "completion round-robin:3", "chrt ping batch", "cpu kill 6"),
    *("cpu load 3 --percent 40", "sysctl kernel.sched_rt_period_us=100000"),
)
AFTER = (
    *("chrt 10200 fifo 3", "policy -preempt-kthread", "completion caller", "renice 10101 -3"),
    *("workload stop burner", "cpu offline 5", "disk sda slow 3 20ms"),
)


def say(out: Path, line: str) -> str:
    """Give a command and return the answer."""
    return send_command(str(out), tuple(line.split()), out.parent)


def step(out: Path) -> float:
    """Go on for a while and stand; return where, in seconds."""
    said = say(out, "step 7ms")
    assert said.startswith("stands still at "), said
    return float(said.split()[3])


def checkpoint_ns(out: Path) -> int:
    """Return the time of the newest checkpoint on disk, -1 if there is none."""
    path = out / CHECKPOINT
    return read_checkpoint(str(path)).at_ns if path.exists() else -1


def tell(out: Path, line: str) -> None:
    """Give a command while the box stands."""
    said = say(out, line)
    assert said.startswith("takes effect at "), said


def test_all_commands_of_a_killed_run_are_in_the_one_that_goes_on(tmp_path: Path) -> None:
    out, late = tmp_path / "run", tmp_path / "late.yaml"
    late.write_text(LATE)
    (tmp_path / "own.fio").write_text(JOB)
    with running(out, *BOX, "--paused") as process:
        wait_for(lambda: (out / CONTROL).exists() and process.poll() is None)
        wait_for(lambda: "about to start" not in say(out, "step 7ms"))
        agents = agents_of(process)
        tell(out, f"workload add {late}")
        step(out)
        for line in BEFORE:
            tell(out, line)
        step(out)
        # It is written about once a second.
        while checkpoint_ns(out) < 30_000_000:
            assert step(out) < 0.15
        kept_ns = checkpoint_ns(out)
        for line in AFTER:
            tell(out, line)
        agents["emucoord"].kill()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2, stdout + stderr
    assert_all_gone(agents)
    told = (out / COMMANDS).read_text(encoding="utf-8")
    done = launch("resume", str(out))
    assert done.returncode in (0, 1), done.stderr
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    assert results["complete"] is True
    assert results["resumed_from_ns"] >= kept_ns
    resumed = (out / COMMANDS).read_text(encoding="utf-8")
    assert resumed.count('"do"') == told.count('"do"') == 1 + len(BEFORE) + len(AFTER)
    assert "no answer" not in resumed
    again = tmp_path / "again"
    again.mkdir()
    assert replay(ReplayRequest(str(out), "inline", False, again, quiet=True), tmp_path) == 0
    assert (again / COMMANDS).read_text(encoding="utf-8") == resumed
