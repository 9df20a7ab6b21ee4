"""The box as processes: the same traces, whatever the host does; and no process left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil
import pytest

from emulator.agents import host
from emulator.agents.link import Link, LinkError, ask
from emulator.agents.supervisor import CONTROL, Supervisor, run_processes
from emulator.engine.board import HistoryBoard
from emulator.engine.inline import RunOutcome, run_inline
from emulator.engine.plan import Command, Plan
from emulator.engine.toys import LATENCIES, TICK_NS, Toy, ToyBalancer, build_node

pytestmark = [pytest.mark.box, pytest.mark.timeout(60)]

#: A run that no test waits for to its end.
FOREVER_NS = 1 << 50


def toy_plan(
    busy: list[int],
    until_ns: int,
    *,
    run_dir: Path | None = None,
    host_cpus: tuple[int, ...] = (),
    commands: tuple[Command, ...] = (),
) -> Plan:
    spec = {"nr_cpus": len(busy), "nr_nodes": len(busy) + 2, "seed": 5, "busy": busy}
    return Plan(
        len(busy),
        ("sda",),
        until_ns,
        LATENCIES,
        "emulator.engine.toys:build_node",
        spec,
        str(run_dir or ""),
        host_cpus,
        commands,
    )


class Disturbed:
    """A run whose processes something happens to, in a thread, once it is under way."""

    def __init__(self, plan: Plan, act: Callable[["Disturbed"], None]) -> None:
        self.supervisor = Supervisor(plan, self.on_progress)
        self.pids: dict[str, int] = {}
        self.stop = False
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(act,))
        self._started = False

    def on_progress(self, now_ns: int, waiting_for: str = "") -> bool:
        if now_ns > 0 and not self._started:
            self._started = True
            self.pids = self.supervisor.pids()
            self._thread.start()
        return not self.stop

    def outcome(self) -> RunOutcome:
        try:
            outcome = self.supervisor.run()
        finally:
            self.supervisor.close()
        if self._started:
            self._thread.join()
        if self.failure is not None:
            raise self.failure
        return outcome

    def _run(self, act: Callable[["Disturbed"], None]) -> None:
        try:
            act(self)
        except BaseException as failure:
            self.failure = failure
            self.stop = True


def assert_all_gone(pids: dict[str, int]) -> None:
    assert pids
    assert [name for name, pid in pids.items() if psutil.pid_exists(pid)] == []


def control_address(run_dir: Path) -> str:
    return (run_dir / CONTROL).read_text().strip()


def test_processes_leave_the_traces_of_the_inline_engine() -> None:
    plan = toy_plan([2, 1, 0, 2], 8 * TICK_NS)
    outcome = run_processes(plan)
    assert (outcome.status, outcome.error) == (0, "")
    assert outcome.books == run_inline(plan).books
    assert outcome.windows > 100
    assert outcome.reached_ns == 8 * TICK_NS
    agents = {"emucpu/0", "emucpu/1", "emucpu/2", "emucpu/3", "emudev/sda", "emucoord"}
    assert outcome.agents.keys() == agents
    assert all(facts["cpu_s"] > 0 for facts in outcome.agents.values())


def test_one_host_cpu_and_two_give_the_same() -> None:
    usable = host.host_cpus()
    one = run_processes(toy_plan([2, 2], 3 * TICK_NS, host_cpus=usable[:1]))
    two = run_processes(toy_plan([2, 2], 3 * TICK_NS, host_cpus=usable[:2]))
    assert one.status == two.status == 0
    assert one.books == two.books
    assert one.agents["emucpu/1"]["host_cpus"] == [usable[0]]
    assert two.agents["emucpu/1"]["host_cpus"] == [usable[:2][-1]]


def test_agents_are_named_for_the_tools_of_the_host() -> None:
    names: dict[str, str] = {}

    def look(run: Disturbed) -> None:
        names.update({name: psutil.Process(pid).name() for name, pid in run.pids.items()})
        run.stop = True

    outcome = Disturbed(toy_plan([2, 2], FOREVER_NS), look).outcome()
    assert outcome.status == 0
    assert names == {name: name for name in names}
    assert set(names) == {"emucpu/0", "emucpu/1", "emudev/sda", "emucoord"}


def test_a_stranger_kills_an_agent_and_the_run_ends_at_once() -> None:
    def kill(run: Disturbed) -> None:
        os.kill(run.pids["emucpu/1"], signal.SIGKILL)

    run = Disturbed(toy_plan([2, 2, 1], FOREVER_NS), kill)
    outcome = run.outcome()
    assert outcome.status == 2
    assert "emucpu/1" in outcome.error
    assert "SIGKILL" in outcome.error
    assert_all_gone(run.pids)


class Killer(ToyBalancer):
    """A balancer that kills the agent of CPU 1 while nothing is asked of it: the next send fails."""

    def advance(self, bound_ns: int, horizon_ns: int) -> None:
        """Kill once, and give the connection time to be lost."""
        super().advance(bound_ns, horizon_ns)
        siblings = psutil.Process(os.getppid()).children()
        agents = {agent.name(): agent for agent in siblings}
        victim = agents.get("emucpu/1")
        if victim is not None and bound_ns > TICK_NS:
            while victim.status() != psutil.STATUS_SLEEPING:
                time.sleep(0.001)
            victim.kill()
            psutil.wait_procs([victim], timeout=20)
            time.sleep(0.1)


def build_with_killer(
    node_id: int, spec_plain: dict[str, Any], run_dir: str, board: HistoryBoard
) -> Toy:
    nr_cpus, nr_nodes, seed = (spec_plain[name] for name in ("nr_cpus", "nr_nodes", "seed"))
    if node_id == nr_cpus:
        return Killer(node_id, nr_cpus, nr_nodes, seed, board)
    return build_node(node_id, spec_plain, run_dir, board)


def test_a_lost_connection_is_told_as_the_death_that_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy host the coordinator's news of the send that failed may come first.
    wait = Link.wait

    def late(link: Link, sentinels: Iterable[int], timeout_ms: int) -> list[int]:
        fired = wait(link, sentinels, timeout_ms)
        if fired:
            time.sleep(0.5)
        return fired

    monkeypatch.setattr(Link, "wait", late)
    plan = replace(
        toy_plan([2, 2, 1], FOREVER_NS), factory="tests.agents.test_processes:build_with_killer"
    )
    outcome = run_processes(plan)
    assert outcome.status == 2
    assert "emucpu/1" in outcome.error
    assert "SIGKILL" in outcome.error
    assert outcome.windows > 0  # it is the coordinator's own account, but for the reason


@pytest.mark.parametrize("victim", ["emucoord", "emudev/sda"])
def test_any_agents_death_ends_the_run(victim: str) -> None:
    def kill(run: Disturbed) -> None:
        os.kill(run.pids[victim], signal.SIGKILL)

    run = Disturbed(toy_plan([2, 1], FOREVER_NS), kill)
    outcome = run.outcome()
    assert outcome.status == 2
    assert victim in outcome.error
    assert_all_gone(run.pids)


def test_a_killed_supervisor_takes_its_agents_with_it(tmp_path: Path) -> None:
    code = (
        "from tests.agents.test_processes import toy_plan, FOREVER_NS, Supervisor\n"
        "def tell(now_ns, waiting_for=''):\n"
        "    if now_ns:\n"
        "        print(*supervisor.pids().values(), flush=True)\n"
        "    return True\n"
        "supervisor = Supervisor(toy_plan([2, 1], FOREVER_NS), tell)\n"
        "supervisor.run()\n"
    )
    environment = dict(os.environ, XDG_RUNTIME_DIR=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=PIPE, env=environment) as process:
        assert process.stdout is not None
        agents = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        process.kill()
        assert len(agents) == 4
        _, alive = psutil.wait_procs(agents, timeout=20)
        assert alive == []
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_agent_is_not_dead() -> None:
    waited: list[str] = []

    class Stopped(Disturbed):
        def on_progress(self, now_ns: int, waiting_for: str = "") -> bool:
            waited.append(waiting_for)
            return super().on_progress(now_ns, waiting_for)

    def stop_and_go(run: Disturbed) -> None:
        os.kill(run.pids["emucpu/1"], signal.SIGSTOP)
        waited.clear()
        deadline = time.monotonic() + 20
        while "emucpu/1" not in waited[-1:] and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(run.pids["emucpu/1"], signal.SIGCONT)

    plan = toy_plan([2, 2], 70 * TICK_NS)
    outcome = Stopped(plan, stop_and_go).outcome()
    assert outcome.status == 0
    assert "emucpu/1" in waited
    assert outcome.books == run_inline(plan).books


def test_an_agents_own_exception_is_the_last_it_says_and_status_1() -> None:
    plan = toy_plan([2, 2], TICK_NS, commands=((40_000, 1, ["cpu", "fail", 1]),))
    outcome = run_processes(plan)
    assert outcome.status == 1
    assert "emucpu/1" in outcome.error
    assert "told to fail" in outcome.error


def test_a_node_that_cannot_be_built_is_said_so() -> None:
    plan = toy_plan([2, 2], TICK_NS)
    plan.spec_plain["busy"] = [2]
    outcome = run_processes(plan)
    assert outcome.status == 1
    assert "IndexError" in outcome.error


def test_a_run_can_be_stopped_and_has_its_books() -> None:
    def stop(run: Disturbed) -> None:
        run.stop = True

    run = Disturbed(toy_plan([2, 1], FOREVER_NS), stop)
    outcome = run.outcome()
    assert outcome.status == 0
    assert 0 < outcome.reached_ns < FOREVER_NS
    assert outcome.books == run_inline(toy_plan([2, 1], outcome.reached_ns)).books
    assert_all_gone(run.pids)


def test_live_commands_are_answered_recorded_and_can_be_replayed(tmp_path: Path) -> None:
    answers: list[str] = []

    def command(run: Disturbed) -> None:
        address = control_address(tmp_path)
        lines = ("cpu load 0", "cpu load 1", "cup load")
        answers.extend(ask(address, line.split(), 20_000) for line in lines)
        run.stop = True

    outcome = Disturbed(toy_plan([2, 1], FOREVER_NS, run_dir=tmp_path), command).outcome()
    assert outcome.status == 0, outcome.error
    assert answers[:2] == ["ok", "ok"]
    assert answers[2].startswith("error: 'cup load' is not a command")
    assert [words for _, words, _ in outcome.commands] == [
        ["cpu", "load", "0"],
        ["cpu", "load", "1"],
    ]
    assert not (tmp_path / CONTROL).exists()
    again = tuple((at_ns, int(words[2]), words) for at_ns, words, _ in outcome.commands)
    replay = run_inline(toy_plan([2, 1], outcome.reached_ns, commands=again))
    assert replay.books == outcome.books
    assert replay.commands == outcome.commands


def test_a_box_that_stands_still_is_stepped_and_commanded_and_stays_the_same(
    tmp_path: Path,
) -> None:
    answers: list[str] = []

    def command(run: Disturbed) -> None:
        address = control_address(tmp_path)
        lines = ("status", "step 300us", "cpu load 1", "step to 1ms", "step until it", "status")
        answers.extend(ask(address, line.split(), 20_000) for line in lines)
        run.stop = True

    class Standing(Disturbed):
        def on_progress(self, now_ns: int, waiting_for: str = "") -> bool:
            return super().on_progress(now_ns + 1 if waiting_for == "ctl continue" else 0)

    plan = replace(toy_plan([2, 1], FOREVER_NS, run_dir=tmp_path), paused=True)
    run = Standing(plan, command)
    outcome = run.outcome()
    assert outcome.status == 0, outcome.error
    assert answers[0].startswith("stands still at 0.000000000 s of ")
    assert answers[1:5] == [
        "stands still at 0.000300000 s",
        "takes effect at 0.000300001 s, when the box goes on",
        "stands still at 0.001000000 s",
        "error: this box records nothing that could be waited for",
    ]
    assert "commands: 1\n  0.000300001 s  cpu load 1: ok" in answers[5]
    # Its end was asked for while it stood still.
    assert outcome.reached_ns == 1_000_001
    assert outcome.commands == [(300_001, ["cpu", "load", "1"], "ok")]
    replay = run_inline(
        toy_plan([2, 1], outcome.reached_ns, commands=((300_001, 1, ["cpu", "load", "1"]),))
    )
    assert replay.books == outcome.books
    assert_all_gone(run.pids)


def test_a_commanded_kill_kills_the_process_and_the_box_goes_on() -> None:
    commands: tuple[Command, ...] = ((2 * TICK_NS, 1, ["cpu", "kill", 1]),)
    plan = toy_plan([2, 2, 1], 60 * TICK_NS, commands=commands)
    gone: list[bool] = []
    supervisor = Supervisor(plan, None)
    try:
        outcome = supervisor.run()
        pid = supervisor.pids()["emucpu/1"]
        gone.append(not psutil.pid_exists(pid))
    finally:
        supervisor.close()
    assert outcome.status == 0, outcome.error
    assert gone == [True]
    assert outcome.books == run_inline(plan).books
    assert "emucpu/1" not in outcome.agents


def test_asking_a_box_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="no answer"):
        ask(f"ipc://{tmp_path}/x", ["cpu", "load", "0"], 50)


def test_two_builds_that_disagree_refuse_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulator.wire.PROTOCOL", 999)
    outcome = run_processes(toy_plan([2], TICK_NS))
    assert outcome.status == 2
    assert "protocol" in outcome.error
