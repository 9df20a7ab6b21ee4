"""Commands of a running box: load, sysctl, and the CPU on which a named task is."""

from __future__ import annotations

from typing import Any

import pytest

from emulator import messages
from emulator.kernel import kthread
from emulator.kernel.cpu import Cpu
from emulator.types import COORDINATOR, OP_RUN, OP_SLEEP
from emulator.workload.load import LoadProgram
from tests.kernel.box import MS, US, Box, Job, Scripts, Steps, costs, sleeping_task

CHARGES = {"ipi_ns": 1500, "ttwu_activate_ns": 500, "stopper_ns": 3000, "context_switch_ns": 1500}


class Loads(Scripts):
    """Programs of a box that also has ``cpu load``."""

    def load(self, percent: int, now_ns: int) -> Any:
        """Return the program of ``cpu load``."""
        del now_ns
        return LoadProgram(percent, 10 * MS)


def hog() -> Steps:
    yield (OP_RUN, 1000 * MS)


def box_of(*jobs: Job, nr_cpus: int = 4) -> Box:
    """Return a box whose CPUs can be loaded."""
    box = Box(*jobs, nr_cpus=nr_cpus, charges=costs(**CHARGES))
    for cpu in box.cpus:
        cpu.programs = Loads(box.jobs)
    return box


def ask_all(box: Box, at_ns: int, *words: str) -> None:
    """Post a command to every CPU."""
    for cpu in range(len(box.cpus)):
        box.command(at_ns, cpu, *words)


def answers(box: Box) -> list[tuple[int, str, int]]:
    """Return (who answers, what, in whose place) of every answer that says something."""
    done = [m for m in box.engine.answers if m[4] == messages.COMMAND_DONE]
    return [(m[1], m[5][1], m[5][2]) for m in done if m[5][1]]


# -- load ---------------------------------------------------------------------------------------


def busy_ns(box: Box, cpu: int, pid: int) -> int:
    """Return how long a task has run on a CPU."""
    p = box.cpus[cpu].tasks[pid]
    return int(p.sum_exec_runtime)


def test_a_load_runs_its_percentage_of_every_period_until_it_is_removed() -> None:
    box = box_of()
    box.command(MS, 2, "cpu", "load", "2", "--percent", "30")
    box.run(100 * MS)
    pid = box.cpus[2].load_pid
    assert box.comm(pid) == "load/2"
    assert 29 * MS < busy_ns(box, 2, pid) < 31 * MS
    box.command(100 * MS, 2, "cpu", "load", "2", "--percent", "60")
    box.run(201 * MS)
    assert 87 * MS < busy_ns(box, 2, pid) < 93 * MS
    box.command(201 * MS, 2, "cpu", "load", "2", "--percent", "0")
    box.run(300 * MS)
    assert pid in box.cpus[2].exited
    box.command(300 * MS, 2, "cpu", "load", "2", "--percent", "0")
    box.command(301 * MS, 2, "cpu", "load", "2", "--percent", "10")
    box.run(330 * MS)
    assert box.cpus[2].load_pid == pid + 1
    assert [answer for _, answer, _ in answers(box)] == [
        *["done"] * 3,
        "nothing to remove: there is no load on this CPU",
        "done",
    ]


def test_a_load_that_lost_its_cpu_is_ended_where_it_went() -> None:
    box = box_of()
    box.command(MS, 2, "cpu", "load", "2", "--percent", "90")
    box.command(5 * MS, 2, "cpu", "offline", "2")
    box.command(20 * MS, 2, "cpu", "online", "2")
    box.run(30 * MS)
    pid = box.cpus[2].load_pid
    (home,) = [cpu for cpu in box.cpus if pid in cpu.tasks]
    assert home.node_id != 2
    box.command(30 * MS, 2, "cpu", "load", "2", "--percent", "50")
    box.run(60 * MS)
    assert any(pid in cpu.exited for cpu in box.cpus)
    assert box.comm(box.cpus[2].load_pid) == "load/2"
    assert box.cpus[2].load_pid in box.cpus[2].tasks


# -- sysctl -------------------------------------------------------------------------------------


def test_a_sysctl_is_written_or_refused() -> None:
    box = box_of()
    box.command(MS, 1, "sysctl", "kernel.sched_wakeup_granularity_ns=4000000")
    box.command(2 * MS, 1, "sysctl", "kernel.sched_wakeup_granularity_ns=4000000000")
    box.command(3 * MS, 1, "sysctl", "kernel.sched_latency_ms=1")
    box.run(4 * MS)
    assert box.cpus[1].rq.tun.wakeup_granularity == 4_000_000
    name = "kernel.sched_wakeup_granularity_ns"
    assert [answer for _, answer, _ in answers(box)] == [
        "done",
        f"refused: {name} must be 0 to 1000000000, not 4000000000",
        "refused: kernel.sched_latency_ms is not a scheduler sysctl of this kernel",
    ]


# -- of:NAME ------------------------------------------------------------------------------------


def test_the_cpu_on_which_the_task_is_acts_alone() -> None:
    box = box_of(Job(hog, "hog", cpu=2), Job(hog, "other", cpu=3))
    ask_all(box, MS, "cpu", "offline", "of:hog")
    box.run(3 * MS)
    assert answers(box) == [(2, "done on CPU 2", -1)]
    assert [cpu.online for cpu in box.cpus] == [True, True, False, True]
    assert len([m for m in box.engine.answers if m[4] == messages.COMMAND_DONE]) == 4


def test_of_a_task_on_cpu_0_cpu_1_goes_instead() -> None:
    box = box_of(Job(hog, "hog", cpu=0))
    ask_all(box, MS, "cpu", "kill", "of:hog")
    ask_all(box, 2 * MS, "cpu", "load", "of:hog", "--percent", "10")
    box.run(3 * MS)
    assert answers(box) == [(1, "done on CPU 1", 0), (0, "done on CPU 0", -1)]
    assert box.cpus[1].killed


def test_a_sleeping_task_is_where_it_went_to_sleep() -> None:
    def nap() -> Steps:
        yield (OP_SLEEP, 50 * MS)

    box = box_of(Job(nap, "nap", cpu=3))
    ask_all(box, MS, "cpu", "offline", "of:nap")
    box.run(2 * MS)
    assert answers(box) == [(3, "done on CPU 3", -1)]


def test_nobody_acts_for_a_task_that_is_not_there() -> None:
    def short() -> Steps:
        yield (OP_RUN, 10 * US)

    box = box_of(Job(short, "short", cpu=3))
    ask_all(box, MS, "cpu", "offline", "of:short")
    box.run(2 * MS)
    assert answers(box) == []
    assert all(cpu.online for cpu in box.cpus)


def run_alone(cpu: Cpu, until_ns: int) -> None:
    """Advance one CPU although what it sends limits it."""
    while cpu.reached_ns < until_ns:
        cpu.advance(until_ns, until_ns)


@pytest.mark.parametrize("at_ns", [8 * US, 9 * US])
def test_the_command_follows_a_task_in_a_message(at_ns: int) -> None:
    box = box_of(Job(hog, "hog", cpu=1, start_ns=500 * MS))
    cpu = box.cpus[1]
    cpu.depart(sleeping_task(cpu, box.pid(0)), 3, 9 * US)
    words = ["cpu", "kill", "of:hog"]
    cpu.deliver((at_ns, COORDINATOR, 1, 1, messages.COMMAND, (words,)))
    run_alone(cpu, at_ns + 1)
    (sent,) = [m for m in cpu.outbox if m[3] == 3]
    assert sent[4:] == (messages.COMMAND, (words, 1))
    assert sent[0] == max(9 * US + 1, at_ns + 1500)
    cpu.deliver((30 * US, COORDINATOR, 2, 1, messages.COMMAND, (words,)))
    run_alone(cpu, 31 * US)
    assert cpu.outbox[-1][4:] == (messages.COMMAND_DONE, (words, "", -1))


def test_a_command_that_comes_right_after_the_task_finds_it() -> None:
    box = box_of(Job(hog, "hog", cpu=2))
    box.run(MS)
    # As if CPU 1 had just sent the task to CPU 2.
    args = (["cpu", "offline", "of:hog"], 1)
    box.engine.post((2 * MS, 1, 1, 2, messages.COMMAND, args))
    box.run(3 * MS)
    assert answers(box) == [(2, "done on CPU 2", 1)]
    assert kthread.FIRST_USER_PID in box.cpus[0].tasks


# -- One task, by its name or pid -----------------------------------------------------------------


def test_renice_shifts_the_share_of_two_that_run_on_one_cpu() -> None:
    box = box_of(Job(hog, "one", cpu=1, mask=2), Job(hog, "other", cpu=1, mask=2))
    box.run(200 * MS)
    before = busy_ns(box, 1, box.pid(0))
    assert 80 * MS < before < 120 * MS
    ask_all(box, 200 * MS, "renice", "one", "-10")
    ask_all(box, 200 * MS, "renice", str(box.pid(1)), "5")
    box.run(400 * MS)
    # Weights of 9548 and 335.
    assert busy_ns(box, 1, box.pid(0)) - before > 185 * MS
    p = box.cpus[1].tasks[box.pid(0)]
    assert (p.nice, p.prio) == (-10, 110)
    assert answers(box) == [(1, "done on CPU 1", -1)] * 2


def test_renice_refuses_who_is_no_fair_task_or_has_ended() -> None:
    def short() -> Steps:
        yield (OP_RUN, 10 * US)

    box = box_of(Job(short, "short", cpu=3))
    ask_all(box, MS, "renice", str(kthread.stopper_pid(2)), "1")
    ask_all(box, MS, "renice", "short", "1")
    ask_all(box, MS, "taskset", "short", "1")
    box.run(2 * MS)
    refusals = [answer for _, answer, _ in answers(box)]
    assert refusals[0].startswith("refused: migration/2 is no fair task")
    assert all(answer == "refused: short has ended" for answer in refusals[1:])


def test_taskset_takes_a_pid_and_moves_who_runs() -> None:
    box = box_of(Job(hog, "hog", cpu=2))
    ask_all(box, MS, "taskset", str(box.pid(0)), "1")
    box.run(3 * MS)
    assert box.pid(0) in box.cpus[1].tasks
    assert answers(box) == [(2, "done on CPU 2", -1)]


def test_tasks_that_are_told_to_end_exit_at_their_next_step() -> None:
    def sleeper() -> Steps:
        while True:
            yield (OP_SLEEP, 10 * MS)
            yield (OP_RUN, 100 * US)

    box = box_of(Job(sleeper, "sleeper", cpu=3), Job(hog, "hog", cpu=1))
    ask_all(box, MS, "workload", "stop", "sleeper")
    box.run(9 * MS)
    assert box.cpus[3].exited == []
    box.run(12 * MS)
    assert box.cpus[3].exited == [box.pid(0)]
    assert box.cpus[1].exited == []
    assert answers(box) == [(3, "1 told to end on CPU 3", -1)]


def test_the_end_follows_a_task_in_a_message() -> None:
    box = box_of(Job(hog, "hog", cpu=1, start_ns=500 * MS))
    cpu = box.cpus[1]
    cpu.depart(sleeping_task(cpu, box.pid(0)), 3, 9 * US)
    cpu.deliver((8 * US, COORDINATOR, 1, 1, messages.COMMAND, (["workload", "stop", "hog"],)))
    run_alone(cpu, 8 * US + 1)
    (sent,) = [m for m in cpu.outbox if m[3] == 3]
    assert sent[4:] == (messages.COMMAND, (["end_task", box.pid(0)],))
    assert sent[0] > 9 * US


# -- Policies -------------------------------------------------------------------------------------


def test_a_policy_is_decided_by_from_its_time_on_and_survives_a_move_to_another_process() -> None:
    box = box_of(Job(hog, "hog", cpu=1))
    ask_all(box, MS, "policy", "+preempt-kthread")
    ask_all(box, MS, "policy", "+preempt-kthread")
    box.run(2 * MS)
    cpu = box.cpus[1]
    assert cpu.rq.rules.preempt_kthread_vdiff
    assert cpu.rq.favours_kthreads
    said = [answer for _, answer, _ in answers(box)]
    assert sorted(said) == ["done"] * 4 + ["refused: preempt-kthread is on already"] * 4
    state = cpu.snapshot()
    ask_all(box, 2 * MS, "policy", "-preempt-kthread")
    box.run(3 * MS)
    assert not box.cpus[1].rq.favours_kthreads
    cpu.restore(state)
    assert box.cpus[1].rq.favours_kthreads


def test_a_completion_policy_is_gone_by_from_its_time_on_and_survives_a_move() -> None:
    box = box_of(Job(hog, "hog", cpu=1))
    ask_all(box, MS, "completion", "round-robin:3")
    ask_all(box, 2 * MS, "completion", "round-robin:3")
    box.run(3 * MS)
    said = [answer for _, answer, _ in answers(box)]
    assert sorted(said) == ["done"] * 4 + ["refused: it is round-robin:3 already"] * 4
    cpu = box.cpus[1]
    assert cpu.completion is not None
    cpu.completion.turn, cpu.completion.left = 2, 1
    state = cpu.snapshot()
    ask_all(box, 3 * MS, "completion", "bound")
    box.run(4 * MS)
    assert box.cpus[1].completion is None
    cpu.restore(state)
    assert cpu.snapshot() == state
