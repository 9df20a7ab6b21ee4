"""The machine's box through the command line: faults, commands from outside, and the end of a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from emulator.rundir import BOX, COMMANDS, RESULTS
from emulator.trace.layout import HEAD_BYTES

CHECKOUT = Path(__file__).parents[2]
HOTPLUG = CHECKOUT / "config" / "boxes" / "hotplug-and-load.yaml"

pytestmark = [pytest.mark.box, pytest.mark.timeout(90)]


def launch(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the launcher to its end."""
    command = [sys.executable, str(CHECKOUT / "launch.py"), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=80, cwd=CHECKOUT
    )


@contextmanager
def running(out: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a run as the leader of a terminal's group would be, and see it gone at the end."""
    command = [sys.executable, str(CHECKOUT / "launch.py"), "run", *words, "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--no-logs"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Any, seconds: float = 30) -> Any:
    """Wait until a condition is true and return what it is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)
    return found


def agents_of(process: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """Return the agents of a run by name."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            found[child.name()] = child
        except psutil.NoSuchProcess:
            continue
    return found


def up(process: subprocess.Popen[str], out: Path) -> dict[str, psutil.Process]:
    """Wait until the box runs and return its agents."""
    wait_for(lambda: (out / "control").exists() and process.poll() is None)
    wait_for(lambda: has_begun(out))
    return agents_of(process)


def has_begun(out: Path) -> bool:
    """Whether the first record of CPU 0's ring is written."""
    ring = out / "cpu0.ring"
    return ring.exists() and any(ring.read_bytes()[HEAD_BYTES : HEAD_BYTES + 64])


def assert_all_gone(agents: dict[str, psutil.Process]) -> None:
    """Every process of the run is gone."""
    assert len(agents) >= 10
    _, alive = psutil.wait_procs(list(agents.values()), timeout=10)
    assert alive == []


def rings(directory: Path) -> dict[str, bytes]:
    """Return the rings of a run."""
    return {file.name: file.read_bytes() for file in sorted(directory.glob("*.ring"))}


def same_rings(one: Path, other: Path) -> list[str]:
    """Return the names of the rings that differ."""
    left, right = rings(one), rings(other)
    assert left.keys() == right.keys()
    assert len(left) == 10
    return [name for name in left if left[name] != right[name]]


# -- Engines ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_box_that_changes_under_its_load_leaves_the_same_rings_in_every_engine(
    tmp_path: Path,
) -> None:
    events = yaml.safe_load(HOTPLUG.read_text(encoding="utf-8"))["events"]
    box = {"description": "changing", "like": str(HOTPLUG), "events": events}
    box["events"] += [
        {"at": "450ms", "do": "cpu offline of:fio"},
        {"at": "1300ms", "do": "cpu kill of:fio"},
        {"at": "1700ms", "do": "cpu load of:fio --percent 40"},
    ]
    file = tmp_path / "changing.yaml"
    file.write_text(yaml.safe_dump(box), encoding="utf-8")
    ways = {
        "inline": ("--engine", "inline"),
        "strict": ("--engine", "inline", "--strict"),
        "processes": ("--engine", "processes"),
    }
    for name, words in ways.items():
        done = launch("run", str(file), *words, "--out", str(tmp_path / name), "--no-logs")
        assert done.returncode == 0, done.stdout + done.stderr
    assert same_rings(tmp_path / "inline", tmp_path / "strict") == []
    assert same_rings(tmp_path / "inline", tmp_path / "processes") == []
    record = (tmp_path / "processes" / COMMANDS).read_text(encoding="utf-8")
    assert record == (tmp_path / "inline" / COMMANDS).read_text(encoding="utf-8")
    commands = yaml.safe_load(record)
    assert len(commands) == len(box["events"])
    assert all(one["answer"].startswith(("done", "refused")) for one in commands)
    agents = json.loads((tmp_path / "processes" / RESULTS).read_text())["engine"]["agents"]
    assert "emucpu/5" not in agents  # killed by command


# -- Deaths and the end --------------------------------------------------------------------------


def test_a_strangers_sigkill_ends_the_run_at_once_where_the_box_says_so(tmp_path: Path) -> None:
    out = tmp_path / "run"
    box = ("hotplug-and-load", "--set", "on_crash=abort", "--for", "60s")
    with running(out, *box, "--engine", "processes") as process:
        agents = up(process, out)
        agents["emucpu/3"].kill()
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 2, stdout + stderr
    assert "emucpu/3" in stderr
    assert "was killed by SIGKILL unasked" in stderr
    assert_all_gone(agents)
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    assert results["valid"] is None
    assert "SIGKILL" in results["error"]
    assert not (out / "control").exists()


def again_inline(out: Path, *words: str) -> Path:
    """Run a box again in one process, given the commands of a run as events; return where."""
    commands = yaml.safe_load((out / COMMANDS).read_text(encoding="utf-8"))
    events = json.dumps([{"at": one["at"], "do": one["do"]} for one in commands])
    again = out.with_name(f"{out.name}-again")
    options = ("--engine", "inline", "--no-logs", "--quiet", "--out", str(again))
    done = launch("run", *words, "--set", f"events={events}", *options)
    assert done.returncode in (0, 1), done.stderr
    return again


TUNED = ("xfs-aio-4k-tuned", "--for", "1500ms")


def test_a_cpu_that_a_stranger_kills_goes_offline_as_if_told_to(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(out, *TUNED) as process:
        agents = up(process, out)
        agents["emucpu/3"].kill()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode in (0, 1), stdout + stderr
    assert "emucpu/3 was killed by SIGKILL" in stdout
    (command,) = yaml.safe_load((out / COMMANDS).read_text(encoding="utf-8"))
    assert (command["do"], command["answer"]) == ("cpu offline 3", "done")
    assert rings(out) == rings(again_inline(out, *TUNED))
    assert_all_gone(agents)


def test_processes_that_are_replaced_leave_the_rings_of_a_run_undisturbed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running(out, *TUNED, "--set", "on_crash=respawn") as process:
        agents = up(process, out)
        agents["emucpu/1"].kill()
        agents["emudev/sda"].kill()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    assert sorted(one["agent"] for one in results["faults"]) == ["emucpu/1", "emudev/sda"]
    assert rings(out) == rings(again_inline(out, *TUNED))


def test_a_run_whose_coordinator_is_killed_is_resumed_to_the_end_it_would_have_had(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    with running(out, *TUNED) as process:
        agents = up(process, out)
        assert ctl(out, "cpu", "load", "2", "--percent", "50") == "0 done"
        agents["emucoord"].kill()
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2, stdout + stderr
    assert f"resume {out}" in stderr
    assert_all_gone(agents)
    done = launch("resume", str(out))
    assert done.returncode in (0, 1), done.stderr
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    assert results["complete"] is True
    assert rings(out) == rings(again_inline(out, *TUNED))
    again = launch("resume", str(out))
    assert again.returncode == 2
    assert "has no checkpoint: it is complete" in again.stderr


@pytest.mark.parametrize("engine", ["processes", "inline"])
def test_ctrl_c_ends_a_run_cleanly_with_its_results(tmp_path: Path, engine: str) -> None:
    out = tmp_path / "run"
    with running(out, "hotplug-and-load", "--for", "60s", "--engine", engine) as process:
        if engine == "processes":
            agents = up(process, out)
        else:
            agents = {}
            wait_for(lambda: has_begun(out))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of the group
        stdout, stderr = process.communicate(timeout=30)
    assert "Traceback" not in stderr
    if agents:
        assert_all_gone(agents)
    results = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    assert process.returncode == {True: 0, False: 1, None: 2}[results["valid"]], stdout + stderr
    assert results["interrupted"] is True
    assert "error" not in results
    assert results["engine"]["reached_ns"] > 0


# -- Commands from another terminal ---------------------------------------------------------------


def ctl(out: Path, *words: str) -> str:
    """Give a command to a running box and return the answer, the status of the launcher first."""
    done = launch("ctl", str(out), *words)
    assert "Traceback" not in done.stderr
    return f"{done.returncode} {(done.stdout + done.stderr).strip()}"


def test_commands_by_hand_are_answered_recorded_and_can_be_replayed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tuned = ("xfs-aio-4k-tuned", "--for", "60s", "--engine", "processes")
    with running(out, *tuned) as process:
        agents = up(process, out)
        assert ctl(out, "cpu", "load", "2", "--percent", "80") == "0 done"
        assert ctl(out, "cpu", "offline", "of:fio").startswith("0 done on CPU ")
        killed = ctl(out, "cpu", "kill", "of:fio").removeprefix("0 done on CPU ")
        wait_for(lambda: not agents[f"emucpu/{killed}"].is_running())
        assert ctl(out, "cpu", "online", killed) == f"1 refused: CPU {killed} was killed"
        assert ctl(out, "cpu", "offline", "0").startswith("1 refused: CPU 0 cannot")
        name = "kernel.sched_wakeup_granularity_ns"
        assert ctl(out, "sysctl", f"{name}=4000000") == "0 done"
        refusal = ctl(out, "sysctl", f"{name}=4000000000")
        assert refusal.startswith("2 ")
        assert f"{name}: 4000000000 is outside 0..1000000000 (the kernel says EINVAL)" in refusal
        assert "there is no CPU 9" in ctl(out, "cpu", "offline", "9")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert "Traceback" not in stderr, stdout + stderr
    commands = yaml.safe_load((out / COMMANDS).read_text(encoding="utf-8"))
    assert len(commands) == 6
    reached_ns = json.loads((out / RESULTS).read_text())["engine"]["reached_ns"]
    assert replayed(tmp_path, out, commands, reached_ns) == []


def go_on(now_ns: int, waiting_for: str = "") -> bool:
    """Let a run go on to its end."""
    return True


def replayed(tmp_path: Path, out: Path, commands: list[Any], reached_ns: int) -> list[str]:
    """Run a box inline again with the commands of its record; return the rings that differ."""
    from emulator import engines
    from emulator.config import load_box
    from emulator.types import BoxEvent

    spec = load_box("xfs-aio-4k-tuned").resolve()
    events = tuple(BoxEvent(int(one["at"].removesuffix("ns")), one["do"]) for one in commands)
    spec = type(spec)(
        **{
            **{name: getattr(spec, name) for name in spec.__slots__},
            "duration_ns": reached_ns,
            "events": events,
        }
    )
    again = tmp_path / "again"
    again.mkdir()
    job = engines.Job(spec, again, go_on)
    outcome = engines.run(engines.INLINE, job)
    assert (outcome.status, outcome.error) == (0, "")
    answers = [answer for _, _, answer in outcome.commands]
    assert answers == [one["answer"] for one in commands]
    assert (out / BOX).exists()
    return same_rings(out, again)
