"""The real-time class: who runs, what it takes from fair tasks, and when it is throttled."""

from __future__ import annotations

import pytest

from emulator.engine.board import HistoryBoard
from emulator.kernel import fair, pelt, rt
from emulator.kernel.cpu import Cpu
from emulator.kernel.sched import FAIR_CLASS, RT_CLASS, Rq, Task
from emulator.rules import rules_of
from emulator.types import NEVER, OP_RUN, OP_SLEEP, OP_YIELD
from tests.kernel.box import MS, US, Box, Job, Scripts, Steps, costs
from tests.kernel.fairqueue import version_rq


def hog() -> Steps:
    """Burn CPU for ever."""
    while True:
        yield (OP_RUN, NEVER >> 1)


def burn(ns: int, times: int = 1, sleep_ns: int = 0) -> Steps:
    """Burn so much, sleep, and so on."""
    for _ in range(times):
        yield (OP_RUN, ns)
        if sleep_ns:
            yield (OP_SLEEP, sleep_ns)


def real(name: str, ns: int, priority: int, start_ns: int) -> Job:
    """Return a real-time task on CPU 0 that burns so much once."""
    return Job(lambda: burn(ns), name, start_ns=start_ns, policy="fifo", rt_priority=priority)


# -- Who runs ---------------------------------------------------------------------------------------


def test_a_fifo_task_preempts_a_fair_one_at_once_and_keeps_the_cpu() -> None:
    box = Box(Job(hog, "hog"), real("rt", 30 * MS, 50, 10 * MS + 7))
    box.run(60 * MS)
    switches = [one for one in box.switches() if one[0] >= 10 * MS]
    assert switches[:2] == [(10 * MS + 7, "hog", "rt"), (40 * MS + 7, "rt", "hog")]
    (switch, *_) = box.events("sched_switch", since_ns=10 * MS)
    assert (switch[2]["prev_prio"], switch[2]["next_prio"]) == (120, 49)
    why = box.events("box_check_preempt", since_ns=10 * MS)[0][2]
    assert (why["why"], why["vdiff"], why["gran"]) == (4, 0, 0)  # class


def test_higher_priorities_go_first_and_equal_ones_in_turn() -> None:
    """10 runs, 20 takes the CPU; a second 20 and a 15 wait; then 20, 15 and 10 in that order."""
    box = Box(
        real("low", 20 * MS, 10, 1 * MS),
        real("first", 10 * MS, 20, 5 * MS),
        real("second", 10 * MS, 20, 6 * MS),
        real("middle", 10 * MS, 15, 7 * MS),
    ).run(80 * MS)
    assert [one[2] for one in box.switches()] == ["low", "first", "second", "middle", "low", "idle"]
    assert [one[0] // MS for one in box.switches()] == [1, 5, 15, 25, 35, 51]


def test_fifo_tasks_of_one_priority_do_not_take_turns_and_yield_to_each_other() -> None:
    def polite() -> Steps:
        yield (OP_RUN, 10 * MS)
        yield (OP_YIELD,)
        yield (OP_RUN, 10 * MS)

    box = Box(
        Job(polite, "one", policy="fifo", rt_priority=1),
        Job(polite, "two", policy="fifo", rt_priority=1),
    ).run(60 * MS)
    runs = [(t // MS, following) for t, _, following in box.switches()]
    assert runs == [(0, "one"), (10, "two"), (20, "one"), (30, "two"), (40, "idle")]


def test_rr_tasks_take_turns_by_their_slice() -> None:
    """A slice of 5 ms, HZ 1000: five ticks, then the other one."""
    box = Box(
        Job(hog, "one", policy="rr", rt_priority=1),
        Job(hog, "two", policy="rr", rt_priority=1),
        Job(hog, "low"),
        sysctls={"kernel.sched_rr_timeslice_ms": 5},
    ).run(26 * MS)
    runs = [(t // MS, following) for t, _, following in box.switches()]
    assert runs == [(0, "one"), (5, "two"), (10, "one"), (15, "two"), (20, "one"), (25, "two")]


def test_a_lone_rr_task_goes_on() -> None:
    box = Box(
        Job(hog, "one", policy="rr", rt_priority=1), sysctls={"kernel.sched_rr_timeslice_ms": 5}
    ).run(50 * MS)
    assert [one[2] for one in box.switches()] == ["one"]


def test_the_stopper_comes_before_real_time_tasks() -> None:
    box = Box(
        Job(hog, "rt", policy="fifo", rt_priority=99), nr_cpus=2, charges=costs(stopper_ns=US)
    )
    box.run(3 * MS)
    box.command(5 * MS, 0, "task", "affine", "rt", "1")
    box.run(10 * MS)
    assert (5 * MS, "rt", "migration/0") in box.switches(0)
    assert box.task().cpu == 1


def test_a_real_time_task_is_not_given_several_cpus() -> None:
    box = Box(Job(hog, "rt", policy="fifo", rt_priority=9), nr_cpus=2).run(3 * MS)
    box.command(5 * MS, 0, "task", "affine", "rt", "0-1")
    box.run(10 * MS)
    assert box.task().cpus_mask == 1


@pytest.mark.parametrize("version", ["5.4", "5.15"])
def test_one_whose_cpu_goes_offline_runs_elsewhere_and_stays_there(version: str) -> None:
    def often() -> Steps:
        yield from burn(1 * MS, 100, 1 * MS)

    job = Job(often, "rt", cpu=1, policy="fifo", rt_priority=9)
    box = Box(job, nr_cpus=3, version=version, rules=rules_of(version)).run(4 * MS + 500 * US)
    box.command(4 * MS + 500 * US, 1, "cpu", "offline", 1)
    box.run(40 * MS)
    assert box.task().cpu == 0
    assert box.task().affinity_broken
    assert {args["dest_cpu"] for _, _, args in box.events("sched_migrate_task")} == {0}


# -- Time and throttling ------------------------------------------------------------------------------

TENTH = {"kernel.sched_rt_period_us": 100_000, "kernel.sched_rt_runtime_us": 90_000}


def test_a_real_time_hog_leaves_a_part_of_each_period() -> None:
    """90 of 100 ms: throttled at the first tick beyond, back when the period is over."""
    box = Box(Job(hog, "rt", policy="fifo", rt_priority=50), Job(hog, "fair"), sysctls=TENTH).run(
        300 * MS
    )
    runs = [(t, following) for t, _, following in box.switches()]
    assert runs[0] == (0, "rt")
    assert runs[1:5] == [
        (91 * MS, "fair"),
        (100 * MS, "rt"),
        (190 * MS, "fair"),
        (200 * MS, "rt"),
    ]
    lines = box.events("printk")
    assert len(lines) == 1
    assert box.cpus[0].counters["rt_throttled"] == 3


def test_what_is_run_too_long_is_missing_in_the_next_period() -> None:
    rq = version_rq("5.15")
    p = queued(rq)
    rq.curr = p
    rt.set_next_task_rt(rq, p)
    fair.update_rq_clock(rq, 960 * MS)
    rt.update_curr_rt(rq)
    assert rq.rt.rt_throttled
    assert rq.need_resched
    assert (rq.rt.rt_time, rq.nr_running) == (960 * MS, 0)


@pytest.mark.parametrize(
    ("features", "nr_cpus", "throttled"), [(True, 2, False), (True, 1, True), (False, 2, True)]
)
def test_runtime_share_lends_a_cpu_the_whole_period(
    features: bool, nr_cpus: int, throttled: bool
) -> None:
    """Up to v5.9 the other CPUs lend what they do not use; a single CPU has nobody to ask."""
    box = Box(
        Job(hog, "rt", policy="fifo", rt_priority=50),
        Job(hog, "fair", mask=1),
        nr_cpus=nr_cpus,
        sysctls=TENTH,
        features={"RT_RUNTIME_SHARE": features},
    ).run(150 * MS)
    assert ("rt_throttled" in box.cpus[0].counters) is throttled


def test_no_limit_is_no_limit() -> None:
    box = Box(
        Job(hog, "rt", policy="fifo", rt_priority=50),
        Job(hog, "fair"),
        sysctls={"kernel.sched_rt_runtime_us": -1},
    ).run(1200 * MS)
    assert [one[2] for one in box.switches()] == ["rt"]


def test_runtime_may_not_exceed_the_period() -> None:
    tun = version_rq("5.4").tun
    with pytest.raises(ValueError, match="more than sched_rt_period_us"):
        fair.sched_proc_update_handler(tun, "kernel.sched_rt_runtime_us", 1_000_001)
    fair.sched_proc_update_handler(tun, "kernel.sched_rt_period_us", 950_000)
    with pytest.raises(ValueError, match="more than sched_rt_period_us"):
        fair.sched_proc_update_handler(tun, "kernel.sched_rt_period_us", 949_999)


def queued(rq: Rq, rt_priority: int = 50) -> Task:
    """Return a queued task of the class."""
    p = Task(1, "rt")
    rt.set_rt_policy(rq, p, rt_priority)
    assert (p.sched_class, p.prio) == (RT_CLASS, 99 - rt_priority)
    rt.enqueue_task_rt(rq, p, 0)
    return p


# -- What fair tasks lose -----------------------------------------------------------------------------


def test_real_time_is_missing_from_the_capacity() -> None:
    """B.6: 1024 less avg_rt; 64 ms of running are 751 (B.7 example 3), 32 ms later half of it."""
    rq = version_rq("5.15")
    p = queued(rq)
    rt.set_next_task_rt(rq, p)
    rq.curr = p
    for ms in range(1, 65):
        fair.update_rq_clock(rq, ms * MS)
        rt.task_tick_rt(rq, p)
    assert abs(rq.avg_rt.util_avg - 751) <= 2
    assert pelt.scale_rt_capacity(rq) == 1024 - rq.avg_rt.util_avg
    before = rq.avg_rt.util_avg
    rt.put_prev_task_rt(rq, p)
    rq.curr = rq.idle
    fair.update_rq_clock(rq, 97 * MS)
    pelt.update_blocked_averages(rq)
    assert abs(rq.avg_rt.util_avg - before / 2) <= before // 50


def test_capacity_with_interrupts_and_real_time_is_at_least_one() -> None:
    """B.6: (1024 - used) x (1024 - irq) / 1024."""
    rq = version_rq("5.15")
    rq.avg_rt.util_avg, rq.avg_irq.util_avg = 256, 512
    assert pelt.scale_rt_capacity(rq) == 768 * 512 // 1024
    rq.avg_rt.util_avg = 1024
    assert pelt.scale_rt_capacity(rq) == 1


def test_a_preempted_fair_task_keeps_its_place() -> None:
    """What the real-time task runs is not charged to anybody's vruntime."""
    box = Box(Job(hog, "hog"), real("rt", 30 * MS, 50, 10 * MS)).run(60 * MS)
    p = box.task(0)
    assert p.sched_class == FAIR_CLASS
    fair.update_rq_clock(box.cpus[0].rq, 60 * MS)
    fair.update_curr(box.cpus[0].rq)
    assert p.sum_exec_runtime == 30 * MS


def test_a_cpu_is_packed_with_its_real_time_tasks() -> None:
    box = Box(
        Job(hog, "one", policy="rr", rt_priority=9),
        Job(hog, "two", policy="rr", rt_priority=9),
        sysctls=TENTH,
    ).run(95 * MS)
    cpu = box.cpus[0]
    state = cpu.snapshot()
    other = Cpu(cpu.spec, 0, HistoryBoard(2), cpu.sink, Scripts(box.jobs))
    other.restore(state)
    assert other.snapshot() == state
    assert other.rq.rt.rt_throttled
    assert [p.comm for p in other.rq.rt.queue] == [p.comm for p in cpu.rq.rt.queue]
