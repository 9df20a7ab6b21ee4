"""A Hypothesis state machine of one runqueue with real-time and fair tasks: the order always holds."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from emulator.kernel import fair, rt
from emulator.kernel.sched import (
    DEQUEUE_SLEEP,
    ENQUEUE_WAKEUP,
    FAIR_CLASS,
    RT_CLASS,
    SCHED_FIFO,
    SCHED_RR,
    Rq,
    Task,
)
from tests.kernel.fairqueue import version_rq

MS = 1_000_000
PICK = st.integers(0, 99)
TASKS_MAX = 8


class RtMachine(RuleBasedStateMachine):
    """One CPU on which tasks of both classes are woken, blocked, preempted and throttled."""

    version = "5.15"

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.rq: Rq = version_rq(self.version)
        self.queued: dict[int, Task] = {}
        self.asleep: dict[int, Task] = {}
        self.last_pid = 0
        self.ran_ns = 0  # of the real-time class, since it began
        self.given_back = 0
        #: pids by when each stood at the end of its line last
        self.lined_up: list[int] = []

    @initialize()
    def first_tasks(self) -> None:
        self.new_fair(0)
        self.new_rt(50, SCHED_FIFO)

    def clock(self) -> Rq:
        fair.update_rq_clock(self.rq, self.now)
        return self.rq

    def line_up(self, pid: int) -> None:
        if pid in self.lined_up:
            self.lined_up.remove(pid)
        self.lined_up.append(pid)

    def queue(self, p: Task, flags: int) -> None:
        rq = self.clock()
        before = rq.nr_running
        rt.class_of(rq, p).enqueue_task(rq, p, flags)
        hidden = p.sched_class == RT_CLASS and rq.rt.rt_throttled
        assert rq.nr_running == before + (not hidden)
        self.queued[p.pid] = p
        self.line_up(p.pid)
        curr = rq.curr
        if curr is rq.idle or p.sched_class < curr.sched_class:
            fair.resched_curr(rq)
        elif p.sched_class == curr.sched_class == RT_CLASS:
            asked = rq.need_resched
            why = rt.check_preempt_curr_rt(rq, p, 0)
            assert (why >= 0) == (p.prio < curr.prio)
            assert rq.need_resched == (asked or why >= 0)

    def new_task(self, nice: int) -> Task:
        self.last_pid += 1
        p = Task(self.last_pid, f"task{self.last_pid}", nice)
        p.nr_cpus_allowed = 1
        fair.set_load_weight(p)
        fair.init_entity_runnable_average(p)
        return p

    @rule(ns=st.one_of(st.integers(0, 3 * MS), st.integers(0, 400 * MS)))
    def time_passes(self, ns: int) -> None:
        self.now += ns

    @precondition(lambda self: len(self.queued) + len(self.asleep) < TASKS_MAX)
    @rule(nice=st.integers(-20, 19))
    def new_fair(self, nice: int) -> None:
        p = self.new_task(nice)
        rq = self.clock()
        fair.task_fork_fair(rq, rq.cfs.curr, p)
        fair.post_init_entity_util_avg(rq, p)
        self.queue(p, 0)

    @precondition(lambda self: len(self.queued) + len(self.asleep) < TASKS_MAX)
    @rule(priority=st.integers(1, 4), policy=st.sampled_from([SCHED_FIFO, SCHED_RR]))
    def new_rt(self, priority: int, policy: int) -> None:
        p = self.new_task(0)
        p.policy = policy
        rt.set_rt_policy(self.rq, p, priority)
        self.queue(p, 0)

    @precondition(lambda self: self.asleep)
    @rule(pick=PICK)
    def wake(self, pick: int) -> None:
        pids = sorted(self.asleep)
        self.queue(self.asleep.pop(pids[pick % len(pids)]), ENQUEUE_WAKEUP)

    def put_prev(self) -> None:
        prev = self.rq.curr
        if prev is not self.rq.idle:
            rt.class_of(self.rq, prev).put_prev_task(self.rq, prev)

    @rule()
    def switch(self) -> None:
        """Let the classes pick in order."""
        rq = self.clock()
        prev = rq.curr
        rt.update_curr_rt(rq)
        if rq.rt.runnable():
            self.put_prev()
            following = rt.pick_next_task_rt(rq, prev)
        elif rq.cfs.nr_running:
            if prev.sched_class == RT_CLASS:
                self.put_prev()
            following = fair.pick_next_task_fair(rq, prev)
        else:
            self.put_prev()
            following = rq.idle
        assert following is not None
        rq.curr = following
        rq.need_resched = False
        rq.skip_clock_update = 0
        if rq.rt.queue and not rq.rt.rt_throttled:
            assert following.prio == min(p.prio for p in rq.rt.queue)
            line = [pid for pid in self.lined_up if self.is_in_line(pid, following.prio)]
            assert following.pid == line[0]

    def is_in_line(self, pid: int, prio: int) -> bool:
        p = self.queued.get(pid)
        return p is not None and p.sched_class == RT_CLASS and p.prio == prio

    @rule()
    def block(self) -> None:
        rq = self.clock()
        p = rq.curr
        if p is not rq.idle:
            rt.class_of(rq, p).dequeue_task(rq, p, DEQUEUE_SLEEP)
            self.asleep[p.pid] = self.queued.pop(p.pid)
            self.switch()

    @rule()
    def tick(self) -> None:
        rq = self.clock()
        p = rq.curr
        if p.sched_class == FAIR_CLASS:
            fair.task_tick_fair(rq, p)
        elif p.sched_class == RT_CLASS:
            left = p.time_slice
            why = rt.task_tick_rt(rq, p)
            if why >= 0:
                assert left == 1
                assert rq.need_resched
                self.line_up(p.pid)
            elif p.policy == SCHED_FIFO:
                assert p.time_slice == left

    @rule()
    def sched_yield(self) -> None:
        rq = self.clock()
        if rq.curr.sched_class == RT_CLASS:
            rt.yield_task_rt(rq)
            self.line_up(rq.curr.pid)

    @rule()
    def period(self) -> None:
        rq = self.clock()
        rt.update_curr_rt(rq)
        rq.rt.rt_time -= min(rq.rt.rt_time, 950 * MS)
        if rq.rt.rt_throttled and rq.rt.rt_time < 950 * MS:
            rt.unthrottle(rq)
            fair.resched_curr(rq)

    @invariant()
    def nr_running_counts_whoever_may_run(self) -> None:
        rq = self.rq
        real = [p for p in self.queued.values() if p.sched_class == RT_CLASS]
        assert sorted(p.pid for p in rq.rt.queue) == sorted(p.pid for p in real)
        counted = 0 if rq.rt.rt_throttled else len(real)
        assert rq.nr_running == rq.cfs.nr_running + counted
        assert [p.prio for p in rq.rt.queue] == sorted(p.prio for p in real)

    @invariant()
    def throttled_beyond_the_runtime_only(self) -> None:
        if self.rq.rt.rt_throttled:
            assert self.rq.need_resched or self.rq.curr.sched_class != RT_CLASS
        else:
            assert self.rq.rt.rt_time <= 950 * MS

    @invariant()
    def a_fair_task_runs_while_the_class_has_nobody_or_is_asked_to_go(self) -> None:
        rq = self.rq
        if rq.curr.sched_class == FAIR_CLASS and rq.rt.runnable():
            assert rq.need_resched
        assert 0 <= rq.avg_rt.util_avg <= 1024


@pytest.mark.parametrize("version", ["5.10", "5.15", "6.1"])
def test_rt_machine(version: str) -> None:
    class Machine(RtMachine):
        pass

    Machine.version = version
    run_state_machine_as_test(
        Machine, settings=settings(max_examples=60, stateful_step_count=50, deadline=None)
    )
