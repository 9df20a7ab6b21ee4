"""A CPU whose class is EEVDF: sleepers that stay queued, wherever the CPU comes upon them."""

from __future__ import annotations

import pytest

from emulator.engine.board import HistoryBoard
from emulator.kernel import frames, hrtimer, load_balance
from emulator.kernel.cpu import Cpu
from emulator.kernel.process import WAIT_RING, WAIT_TAG
from emulator.kernel.sched import TASK_WAKING
from emulator.rules import rules_of
from emulator.tracepoints import (
    PREEMPT_DEADLINE,
    PREEMPT_WHYS,
    TASK_INTERRUPTIBLE,
    TASK_RUNNING,
)
from emulator.types import (
    CPU_IDLE,
    ENV_CACHE_NICE_TRIES,
    ENV_DST_CPU,
    ENV_FIELDS,
    ENV_IDLE,
    ENV_NR_BALANCE_FAILED,
    NEVER,
    OP_RUN,
    OP_SLEEP,
)
from tests.kernel.box import Box, Event, Job, Steps, costs

MS = 1_000_000


def forever() -> Steps:
    """Burn CPU."""
    while True:
        yield (OP_RUN, 1000 * MS)


def once(run_ns: int, until_ns: int) -> Steps:
    """Run, sleep until a time, run on."""
    yield (OP_RUN, run_ns)
    yield (OP_SLEEP, until_ns)
    while True:
        yield (OP_RUN, 100 * MS)


def sleeper_box(until_ns: int = 30 * MS, version: str = "6.12", nr_cpus: int = 2) -> Box:
    """A nice-19 task beside two hogs of CPU 0, which come 0.4 ms before it sleeps: 27 ms in debt.

    CPU 1 has a hog of its own, so it pulls nothing.
    """
    return Box(
        Job(lambda: once(900_000, until_ns), "lazy", nice=19),
        Job(forever, "one", mask=1, start_ns=500_000),
        Job(forever, "two", mask=1, start_ns=500_000),
        Job(forever, "other", cpu=1, mask=2),
        nr_cpus=nr_cpus,
        charges=costs(ttwu_ns=700, ipi_ns=100, ttwu_activate_ns=100, context_switch_ns=1000),
        rules=rules_of(version),
        version=version,
    )


def asleep_but_queued(box: Box) -> int:
    """Run until the first task sleeps; return when that was."""
    for ms in range(1, 30):
        box.run(ms * MS)
        if box.task(0).state == TASK_INTERRUPTIBLE:
            return ms * MS
    raise AssertionError("it never sleeps")


def woken(box: Box) -> list[Event]:
    pid = box.pid(0)
    return [event for event in box.events("sched_wakeup") if event[2]["pid"] == pid]


def test_a_sleeper_in_debt_is_counted_and_its_switch_is_a_sleep() -> None:
    box = sleeper_box()
    asleep_but_queued(box)
    lazy, cpu = box.task(0), box.cpus[0]
    assert (lazy.sched_delayed, lazy.on_rq, lazy.on_cpu, lazy.nvcsw) == (1, 1, 0, 1)
    assert cpu.rq.nr_running == cpu.published_nr == 3
    states = [
        args["prev_state"]
        for _, _, args in box.events("sched_switch", cpu=0)
        if args["prev"] == lazy.pid
    ]
    assert states[-1] == TASK_INTERRUPTIBLE


def test_in_6_6_it_leaves_the_queue() -> None:
    box = sleeper_box(version="6.6")
    asleep_but_queued(box)
    assert (box.task(0).sched_delayed, box.task(0).on_rq) == (0, 0)
    assert box.cpus[0].rq.nr_running == 2


def test_it_wakes_in_place_without_a_choice_of_cpu() -> None:
    box = sleeper_box()
    asleep_but_queued(box)
    places = len(box.times("box_select_task_rq", pid=box.pid(0)))
    box.run(40 * MS)
    ((when, _, args),) = woken(box)
    assert when == box.times("sched_waking", pid=box.pid(0))[0] + 700 == 30 * MS + 700
    assert (args["cpu"], args["on"]) == (0, 0)
    assert len(box.times("box_select_task_rq", pid=box.pid(0))) == places
    assert (box.task(0).state, box.task(0).sched_delayed) == (TASK_RUNNING, 0)


def test_it_is_moved_asleep_and_its_timer_goes_along() -> None:
    box = sleeper_box()
    now = asleep_but_queued(box)
    box.command(now + 100_000, 0, "task", "affine", "lazy", "1")
    box.run(now + MS)
    lazy = box.task(0)
    assert lazy.pid in box.cpus[1].tasks
    assert (lazy.cpu, lazy.on_rq, lazy.sched_delayed, lazy.state) == (1, 1, 1, TASK_INTERRUPTIBLE)
    assert [cpu.rq.nr_running for cpu in box.cpus] == [2, 2]
    assert not box.cpus[0].timers
    assert [timer[3][0] for timer in box.cpus[1].timers] == [lazy.pid]
    box.run(40 * MS)
    ((when, _, args),) = woken(box)
    assert (when, args["on"]) == (30 * MS + 700, 1)
    assert lazy.run.timer == []


def test_it_stays_while_its_timer_interrupt_is_handled() -> None:
    """The timer is off the list and has not woken it yet: nothing would on another CPU."""
    box = sleeper_box()
    asleep_but_queued(box)
    lazy, cpu = box.task(0), box.cpus[0]
    assert not load_balance.held_here(cpu, lazy)
    ends = [hrtimer.TIMER_SLEEP, [lazy.pid, lazy.run.wait_since]]
    cpu.push(frames.IRQ_HRTIMER, 0, ends, frames.LEVEL_HARDIRQ, False)
    assert load_balance.held_here(cpu, lazy)
    cpu.push(frames.TTWU, 0, None, frames.LEVEL_HARDIRQ, False)
    assert load_balance.held_here(cpu, lazy)


def test_a_timer_that_was_due_on_the_way_wakes_it_on_arrival() -> None:
    box = sleeper_box()
    asleep_but_queued(box)
    box.command(30 * MS - 50, 0, "task", "affine", "lazy", "1")  # 100 ns on its way
    box.run(40 * MS)
    ((when, _, args),) = woken(box)
    assert (when, args["on"]) == (30 * MS + 50 + 700, 1)


def test_it_is_handed_over_when_its_cpu_goes_down() -> None:
    box = Box(
        Job(lambda: once(900_000, 30 * MS), "lazy", cpu=1, mask=2, nice=19),
        Job(forever, "one", cpu=1, mask=2, start_ns=500_000),
        nr_cpus=2,
        charges=costs(ipi_ns=100, ttwu_activate_ns=100, context_switch_ns=1000),
        rules=rules_of("6.12"),
        version="6.12",
    )
    now = asleep_but_queued(box)
    assert box.task(0).sched_delayed
    box.command(now + 100_000, 1, "cpu", "offline", 1)
    box.run(now + MS)
    lazy = box.task(0)
    assert lazy.pid in box.cpus[0].tasks
    assert (lazy.sched_delayed, lazy.state) == (0, TASK_INTERRUPTIBLE)
    assert box.cpus[1].rq.nr_running == 0
    box.run(40 * MS)
    ((when, _, args),) = woken(box)
    assert when >= 30 * MS
    assert args["on"] == 0


def test_a_cpu_left_with_sleepers_goes_idle() -> None:
    box = Box(
        Job(lambda: once(900_000, 30 * MS), "lazy", nice=19),
        Job(lambda: once(20 * MS, 50 * MS), "one", start_ns=500_000),
        charges=costs(context_switch_ns=1000),
        rules=rules_of("6.12"),
        version="6.12",
    )
    now = asleep_but_queued(box)
    assert box.task(0).sched_delayed
    assert now < 20 * MS
    box.run(25 * MS)
    rq = box.cpus[0].rq
    assert rq.curr is rq.idle
    assert rq.nr_running == 0
    assert box.cpus[0].idle_cpu(0)
    assert [box.task(index).on_rq for index in (0, 1)] == [0, 0]
    box.run(60 * MS)
    assert len(woken(box)) == 1


def test_an_exit_in_debt_is_no_sleep() -> None:
    box = Box(
        Job(leave, "brief", nice=19),
        Job(forever, "one", start_ns=500_000),
        charges=costs(context_switch_ns=1000),
        rules=rules_of("6.12"),
        version="6.12",
    )
    box.run(30 * MS)
    assert box.times("sched_process_exit")
    assert box.pid(0) not in box.cpus[0].tasks
    assert box.cpus[0].rq.nr_running == 1


def leave() -> Steps:
    yield (OP_RUN, 900_000)


def test_the_running_task_s_deadline_is_recorded() -> None:
    box = Box(
        Job(forever, "one"),
        Job(forever, "two"),
        charges=costs(context_switch_ns=1000),
        rules=rules_of("6.6"),
        version="6.6",
    )
    box.run(20 * MS)
    found = [args for _, _, args in box.events("box_check_preempt")]
    whys = {PREEMPT_WHYS[args["why"]] for args in found}
    assert whys == {"deadline"}
    # One CPU: a slice of 0.75 ms, seen at the 1 ms tick.
    passed = [args for args in found if args["why"] == PREEMPT_DEADLINE]
    assert len(passed) >= 18
    assert all(0 <= args["vdiff"] <= MS - 750_000 for args in passed)
    # Who ran has had half of it too much.
    assert all(args["gran"] <= 0 for args in passed if args["pid"] != args["curr"])


def detach_env() -> list[int]:
    env = [0] * ENV_FIELDS
    env[ENV_DST_CPU] = 1
    env[ENV_IDLE] = CPU_IDLE
    env[ENV_NR_BALANCE_FAILED] = env[ENV_CACHE_NICE_TRIES] + 1
    return env


@pytest.mark.parametrize("held", ["", "tag", "waking", "pending"])
def test_the_balancer_passes_over_who_is_woken_from_here(held: str) -> None:
    box = sleeper_box()
    asleep_but_queued(box)
    lazy, cpu = box.task(0), box.cpus[0]
    if held == "tag":
        lazy.run.wait = WAIT_TAG
    elif held == "waking":
        lazy.state = TASK_WAKING
    elif held == "pending":
        cpu.wakeups.append((lazy.pid, False))
    assert load_balance.can_migrate_task(cpu, lazy, detach_env()) is not bool(held)


def test_one_that_waits_for_a_tag_leaves_the_queue_instead_of_moving() -> None:
    box = sleeper_box()
    now = asleep_but_queued(box)
    lazy, cpu = box.task(0), box.cpus[0]
    lazy.run.wait = WAIT_TAG
    box.command(now + 100_000, 0, "task", "affine", "lazy", "1")
    box.run(now + MS)
    assert lazy.pid in cpu.tasks
    assert (lazy.on_rq, lazy.sched_delayed, lazy.wake_cpu) == (0, 0, 1)
    box.run(40 * MS)
    ((_when, _, args),) = woken(box)
    assert args["on"] == 1, "its wakeup chose by the new mask"


def test_a_sleeper_that_arrives_is_found_by_its_mail() -> None:
    box = sleeper_box(until_ns=NEVER)
    asleep_but_queued(box)
    lazy, (here, there) = box.task(0), box.cpus
    lazy.run.wait = WAIT_RING
    lazy.run.remote_ios = 1
    here.rq.fair.dequeue_task(here.rq, lazy, 0)
    del here.tasks[lazy.pid]
    load_balance.arrive(there, lazy)
    assert lazy.pid in there.mail_sleepers


def test_a_snapshot_keeps_a_delayed_task() -> None:
    box = sleeper_box()
    asleep_but_queued(box)
    cpu = box.cpus[0]
    state = cpu.snapshot()
    other = Cpu(box.spec, 0, HistoryBoard(4), cpu.sink, cpu.programs)
    other.restore(state)
    lazy = other.tasks[box.pid(0)]
    assert (lazy.sched_delayed, lazy.on_rq) == (1, 1)
    assert other.snapshot() == state
