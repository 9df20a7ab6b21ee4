"""Kill any process at any time: the box goes on, or a later one does, as if nothing had been."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from emulator.agents.recovery import AgentFault, DiedTwiceError, Recovery, signal_name
from emulator.agents.store import CHECKPOINT, COMMANDS, read_checkpoint, write_commands
from emulator.agents.supervisor import run_processes
from emulator.engine.board import HistoryBoard
from emulator.engine.checkpoint import CheckpointError
from emulator.engine.inline import run_inline
from emulator.engine.plan import Command, Plan
from emulator.engine.toys import TICK_NS, Toy, ToyCpu, build_node
from tests.agents.test_processes import FOREVER_NS, Disturbed, assert_all_gone, toy_plan

RESPAWN: tuple[tuple[str, ...], ...] = ((), (), (), ())


def fault(name: str = "emucpu/1") -> AgentFault:
    return AgentFault(name, 1, "SIGKILL", 5, 0, computing=False, noticed_ns=1_000_000)


def surviving(
    busy: list[int],
    until_ns: int,
    *,
    crash: tuple[tuple[str, ...], ...] = RESPAWN,
    run_dir: Path | None = None,
) -> Plan:
    """Return a plan whose agents may be killed: three CPUs and a disk."""
    plan = toy_plan(busy, until_ns, run_dir=run_dir)
    return replace(plan, crash_commands=crash, checkpoint_ns=3 * TICK_NS)


# -- Without processes --------------------------------------------------------------------------


def test_a_node_that_dies_twice_without_getting_further_is_a_bug() -> None:
    recovery = Recovery.of([1])
    recovery.told(1, b"grant")
    recovery.died(1, fault())
    with pytest.raises(DiedTwiceError, match=r"emucpu/1 died twice .* was computing"):
        recovery.died(1, fault())


@pytest.mark.parametrize("progress", ["an answer", "caught up"])
def test_a_node_that_got_further_may_die_again(progress: str) -> None:
    recovery = Recovery.of([1])
    recovery.told(1, b"grant")
    recovery.died(1, fault())
    if progress == "an answer":
        recovery.answered(1, b"reply")
    else:
        recovery.rebuilt(1, 3_500_000)
    recovery.died(1, fault())
    assert len(recovery.faults) == 2


def test_a_fault_says_how_long_recovery_took() -> None:
    recovery = Recovery.of([1])
    recovery.died(1, fault())
    recovery.rebuilt(1, 3_500_000)
    assert recovery.faults[0].plain()["recovered_ms"] == 2.5
    recovery.rebuilt(1, 9_000_000)  # of a resumed run: nobody died
    assert recovery.faults[0].plain()["recovered_ms"] == 2.5


def test_signals_have_names() -> None:
    assert [signal_name(9), signal_name(77)] == ["SIGKILL", "signal 77"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"No such file.*{COMMANDS}"):
        write_commands(str(tmp_path / "gone"), [])
    with pytest.raises(CheckpointError, match="No such file"):
        read_checkpoint(str(tmp_path / CHECKPOINT))


# -- With processes -----------------------------------------------------------------------------


def nothing(_run: Disturbed) -> None:
    """Do nothing in the thread: the progress of the run is what counts."""


class Killing(Disturbed):
    """A run one of whose processes is killed whenever it has got some way further."""

    def __init__(self, plan: Plan, victims: list[str], every_ns: int) -> None:
        super().__init__(plan, nothing)
        self.victims, self.every_ns, self.next_ns = list(victims), every_ns, every_ns
        self.killed: list[int] = []

    def on_progress(self, now_ns: int, waiting_for: str = "") -> bool:
        if self.victims and now_ns >= self.next_ns:
            self.next_ns = now_ns + self.every_ns
            pid = self.supervisor.pids()[self.victims.pop(0)]
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)
        return super().on_progress(now_ns, waiting_for)


pytestmark = [pytest.mark.box, pytest.mark.timeout(60)]


def test_killed_agents_are_replaced_and_nobody_notices() -> None:
    plan = surviving([2, 1, 2], 120 * TICK_NS)
    victims = ["emucpu/1", "emudev/sda", "emucpu/0", "emucpu/0"]
    run = Killing(plan, victims, TICK_NS)
    outcome = run.outcome()
    assert (outcome.status, outcome.error) == (0, "")
    assert [one["agent"] for one in outcome.faults] == victims
    assert all(one["signal"] == "SIGKILL" for one in outcome.faults)
    assert all(one["recovered_ms"] > 0 for one in outcome.faults)
    assert outcome.books == run_inline(plan).books
    assert [pid for pid in run.killed if psutil.pid_exists(pid)] == []


def test_what_the_machine_suffers_is_a_command_that_replays_the_death() -> None:
    crash = ((), ("cpu", "load", "1"), (), ())
    plan = surviving([2, 2, 1], 60 * TICK_NS, crash=crash)
    outcome = Killing(plan, ["emucpu/1"], 21 * TICK_NS).outcome()
    assert outcome.status == 0, outcome.error
    assert [(words, answer) for _, words, answer in outcome.commands] == [
        (["cpu", "load", "1"], "ok")
    ]
    at_ns = outcome.commands[0][0]
    assert outcome.faults[0]["at_ns"] == at_ns
    assert outcome.faults[0]["command"] == "cpu load 1"
    commands: tuple[Command, ...] = ((at_ns, 1, ["cpu", "load", "1"]),)
    assert outcome.books == run_inline(replace(plan, commands=commands)).books


def test_a_run_whose_coordinator_was_killed_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = surviving([2, 1, 2], 150 * TICK_NS, run_dir=tmp_path)
    run = Killing(plan, ["emucpu/1", "emucoord"], 40 * TICK_NS)
    outcome = run.outcome()
    assert outcome.status == 2
    assert f"resume {tmp_path}" in outcome.error
    assert_all_gone(run.pids)
    path = str(tmp_path / CHECKPOINT)
    checkpoint = read_checkpoint(path)
    assert checkpoint.local == [3]
    again = run_processes(replace(plan, resume=path))
    assert (again.status, again.error) == (0, "")
    assert again.books == run_inline(plan).books
    assert again.faults == []


def test_another_builds_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT
    path.write_bytes(b"\x91\x00")
    outcome = run_processes(replace(surviving([2], TICK_NS), resume=str(path)))
    assert outcome.status == 2
    assert "not a checkpoint" in outcome.error


class Suicidal(ToyCpu):
    """A CPU whose process does not outlive the second tick."""

    def fire(self, now_ns: int) -> None:
        """End the process by a signal where that is due."""
        if now_ns > 2 * TICK_NS:
            os.kill(os.getpid(), signal.SIGKILL)
        super().fire(now_ns)


class Unreliable(ToyCpu):
    """A CPU that tells the others which process it is in."""

    def promise(self) -> Any:
        """Promise something else in every process, soundly."""
        promise = super().promise()
        promise.reached_ns -= os.getpid() % 1000 if promise.reached_ns > 1000 else 0
        return promise


def build_suicidal(node_id: int, spec: dict[str, Any], run_dir: str, board: HistoryBoard) -> Toy:
    return _build(Suicidal, node_id, spec, run_dir, board)


def build_unreliable(node_id: int, spec: dict[str, Any], run_dir: str, board: HistoryBoard) -> Toy:
    return _build(Unreliable, node_id, spec, run_dir, board)


def _build(
    kind: Callable[..., ToyCpu],
    node_id: int,
    spec: dict[str, Any],
    run_dir: str,
    board: HistoryBoard,
) -> Toy:
    if node_id != 1:
        return build_node(node_id, spec, run_dir, board)
    make_up = (spec["nr_cpus"], spec["nr_nodes"], spec["seed"])
    return kind(node_id, *make_up, board, spec["busy"][node_id])


def test_a_node_that_kills_its_process_is_a_bug_and_status_1() -> None:
    factory = "tests.agents.test_recovery:build_suicidal"
    outcome = run_processes(replace(surviving([2, 2, 2], FOREVER_NS), factory=factory))
    assert outcome.status == 1
    assert "emucpu/1 died twice at the same instant" in outcome.error
    assert "node 1: reached" in outcome.error  # its story
    assert len(outcome.faults) == 2


def test_a_node_that_does_not_do_the_same_again_is_a_bug_and_status_1() -> None:
    factory = "tests.agents.test_recovery:build_unreliable"
    plan = replace(surviving([2, 2, 2], FOREVER_NS), factory=factory, checkpoint_ns=FOREVER_NS)
    outcome = Killing(plan, ["emucpu/1"], 20 * TICK_NS).outcome()
    assert outcome.status == 1
    assert "was made again and answers otherwise than it did" in outcome.error


def test_a_death_is_noticed_at_once_and_nothing_is_left_running() -> None:
    plan = surviving([2, 2, 2], FOREVER_NS)
    killed_ns: list[int] = []

    def kill(run: Disturbed) -> None:
        os.kill(run.pids["emucpu/2"], signal.SIGKILL)
        killed_ns.append(time.monotonic_ns())
        deadline = time.monotonic() + 20
        while run.supervisor.pids()["emucpu/2"] == run.pids["emucpu/2"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        run.stop = True

    run = Disturbed(plan, kill)
    outcome = run.outcome()
    assert outcome.status == 0
    assert outcome.faults[0]["noticed_ns"] - killed_ns[0] < 10_000_000_000
    assert_all_gone(run.pids)
    assert not psutil.pid_exists(outcome.faults[0]["pid"])
