"""A Hypothesis state machine of two fair runqueues: whatever happens, the books are right.

It runs under the rules of every version that has CFS, and under each proposal that changes it.
"""

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

from emulator.kernel import fair, pelt, util_est
from emulator.kernel.fair_entity import entity_is_long_sleeper
from emulator.kernel.sched import (
    DEQUEUE_SLEEP,
    ENQUEUE_MIGRATED,
    ENQUEUE_WAKEUP,
    PF_KTHREAD,
    SCHED_BATCH,
    SCHED_IDLE,
    SCHED_NORMAL,
    CfsRq,
    Rq,
    Task,
)
from emulator.rules import FEATURES, Rules, changed, policy_switches, rules_of
from emulator.tracepoints import PREEMPT_IDLE_POLICY, PREEMPT_KTHREAD_NVCSW
from emulator.types import KernelSpec

CPUS = st.integers(0, 1)
PICK = st.integers(0, 99)
INTERVALS = st.one_of(st.integers(0, 5_000), st.integers(0, 5_000_000), st.integers(0, 10**10))
TASKS_MAX = 7


def rule_sets() -> dict[str, tuple[str, Rules]]:
    """Return what the machine runs under: a version's features and the rules, by name."""
    sets = {version: (version, rules_of(version)) for version in ("5.4", "5.10", "5.15", "6.1")}
    for policy in (
        "preempt-kthread-nvcsw",
        "preempt-kthread",
        "kthread-gran-min",
        "next-buddy-kthread",
        "next-buddy-kthread-half",
    ):
        sets[policy] = ("5.4", changed(Rules(), policy_switches(policy)))
    late = {"slice_latency_cap": 1, "place_long_sleeper": 1, "exec_start_at_enqueue": 1}
    sets["6.3"] = ("6.1", changed(rules_of("6.1"), late))
    return sets


RULE_SETS = rule_sets()


class FairMachine(RuleBasedStateMachine):
    """Two CPUs whose tasks are woken, blocked, moved, reniced and ended at random."""

    rule_set = "5.4"

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        version, self.kernel_rules = RULE_SETS[self.rule_set]
        kernel = KernelSpec(version, FEATURES[version], {}, rules=self.kernel_rules)
        tun = fair.tunables(kernel, 2)
        self.rqs = [Rq(cpu, tun, fair.FAIR_SCHED_CLASS, self.kernel_rules) for cpu in range(2)]
        self.queued: dict[int, Task] = {}
        self.asleep: dict[int, Task] = {}
        self.charged: dict[int, int] = {}
        self.last_pid = 0
        self.rounded_away = 0  # by how much averages may differ from their sum
        self.min_vruntimes = [rq.cfs.min_vruntime for rq in self.rqs]
        for rq in self.rqs:
            rq.on_runtime = self.on_runtime

    def on_runtime(self, p: Task, delta_ns: int) -> None:
        assert delta_ns > 0
        self.charged[p.pid] += delta_ns

    @initialize()
    def first_tasks(self) -> None:
        self.fork(0, 0, SCHED_NORMAL, False)
        self.fork(0, 0, SCHED_NORMAL, True)
        self.fork(1, 0, SCHED_NORMAL, False)

    def clock(self, cpu: int) -> Rq:
        rq = self.rqs[cpu]
        fair.update_rq_clock(rq, self.now)
        return rq

    def check_preempt(self, rq: Rq, p: Task) -> None:
        if rq.curr is rq.idle:
            fair.resched_curr(rq)
            return
        why = fair.check_preempt_wakeup(rq, p, 0)
        behind = (fair.NO_PREEMPT, PREEMPT_IDLE_POLICY, PREEMPT_KTHREAD_NVCSW)
        assert why in behind or rq.preempt_vdiff > 0

    @rule(ns=INTERVALS)
    def time_passes(self, ns: int) -> None:
        self.now += ns

    @precondition(lambda self: len(self.queued) + len(self.asleep) < TASKS_MAX)
    @rule(
        cpu=CPUS,
        nice=st.integers(-20, 19),
        policy=st.sampled_from([SCHED_NORMAL, SCHED_NORMAL, SCHED_BATCH, SCHED_IDLE]),
        kthread=st.booleans(),
    )
    def fork(self, cpu: int, nice: int, policy: int, kthread: bool) -> None:
        rq = self.clock(cpu)
        self.last_pid += 1
        p = Task(self.last_pid, f"task{self.last_pid}", nice)
        p.policy = policy
        p.cpu = cpu
        p.nr_cpus_allowed = 2
        if kthread:
            p.flags, p.nr_cpus_allowed = PF_KTHREAD, 1
        fair.set_load_weight(p)
        fair.init_entity_runnable_average(p)
        self.charged[p.pid] = 0
        fair.task_fork_fair(rq, rq.cfs.curr, p)
        fair.post_init_entity_util_avg(rq, p)
        fair.enqueue_task_fair(rq, p, 0)
        self.queued[p.pid] = p
        self.check_preempt(rq, p)

    @precondition(lambda self: self.asleep)
    @rule(pick=PICK, cpu=CPUS)
    def wake(self, pick: int, cpu: int) -> None:
        pids = sorted(self.asleep)
        p = self.asleep.pop(pids[pick % len(pids)])
        flags = ENQUEUE_WAKEUP
        if p.nr_cpus_allowed == 1:
            cpu = p.cpu
        if p.cpu != cpu:
            fair.migrate_task_rq_fair(self.rqs[p.cpu], p, True)
            flags |= ENQUEUE_MIGRATED
            p.cpu = cpu
        rq = self.clock(cpu)
        slept_at = p.vruntime
        long_sleeper = self.kernel_rules.place_long_sleeper and entity_is_long_sleeper(rq, p)
        fair.enqueue_task_fair(rq, p, flags)
        if not flags & ENQUEUE_MIGRATED and not long_sleeper:
            assert p.vruntime >= slept_at
        assert p.vruntime >= rq.cfs.min_vruntime - rq.tun.latency // 2
        self.queued[p.pid] = p
        self.check_preempt(rq, p)

    def switch(self, rq: Rq) -> None:
        """Let the fair class pick, then the idle class."""
        prev = rq.curr
        was_current = rq.cfs.curr
        following = fair.pick_next_task_fair(rq, prev)
        if following is None:
            if was_current is not None:
                fair.put_prev_task_fair(rq, prev)
            following = rq.idle
        else:
            assert rq.cfs.curr is following
            assert rq.cfs.cfs_tasks[0] is following
        rq.curr = following
        rq.need_resched = False
        rq.skip_clock_update = 0

    @rule(cpu=CPUS)
    def preempt(self, cpu: int) -> None:
        rq = self.rqs[cpu]
        rq.skip_clock_update <<= 1
        self.clock(cpu)
        rq.curr.nivcsw += 1
        self.switch(rq)

    @rule(cpu=CPUS)
    def class_walk(self, cpu: int) -> None:
        rq = self.clock(cpu)
        if rq.cfs.curr is not None:
            fair.put_prev_task_fair(rq, rq.cfs.curr)
            following = fair.pick_next_task_fair(rq, None)
            assert following is not None
            assert following.prev_sum_exec_runtime == following.sum_exec_runtime
            rq.curr = following

    @rule(cpu=CPUS)
    def block(self, cpu: int) -> None:
        rq = self.clock(cpu)
        p = rq.cfs.curr
        if p is not None:
            fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
            p.nvcsw += 1
            self.asleep[p.pid] = self.queued.pop(p.pid)
            self.switch(rq)

    @rule(cpu=CPUS)
    def end(self, cpu: int) -> None:
        rq = self.clock(cpu)
        p = rq.cfs.curr
        if p is not None:
            fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
            del self.queued[p.pid]
            self.switch(rq)
            fair.task_dead_fair(rq, p)

    @rule(cpu=CPUS)
    def tick(self, cpu: int) -> None:
        rq = self.clock(cpu)
        if rq.cfs.curr is not None:
            before = rq.need_resched
            why = fair.task_tick_fair(rq, rq.cfs.curr)
            assert rq.need_resched == (before or why >= 0)

    @rule(cpu=CPUS)
    def sched_yield(self, cpu: int) -> None:
        rq = self.clock(cpu)
        if rq.cfs.curr is not None:
            fair.yield_task_fair(rq)

    @rule(pick=PICK, nice=st.integers(-20, 19))
    def renice(self, pick: int, nice: int) -> None:
        tasks = {**self.queued, **self.asleep}
        if tasks:
            p = tasks[sorted(tasks)[pick % len(tasks)]]
            before = p.weight
            fair.set_user_nice(self.clock(p.cpu), p, nice)
            if not p.on_rq:
                # As in the kernel a sleeper gets its new weight without having been aged, so its
                # part of the runqueue's sums is exchanged for one of another age.
                self.rounded_away += abs(p.weight - before) >> 10

    @rule(cpu=CPUS)
    def balance(self, cpu: int) -> None:
        source, target = self.clock(cpu), self.clock(1 - cpu)
        if not source.cfs.cfs_tasks:
            return
        p = source.cfs.cfs_tasks[-1]
        if p is source.cfs.curr or p.nr_cpus_allowed == 1:
            return
        lead = p.vruntime - source.cfs.min_vruntime
        fair.dequeue_task_fair(source, p, 0)
        fair.migrate_task_rq_fair(source, p, False)
        p.cpu = target.cpu
        fair.enqueue_task_fair(target, p, ENQUEUE_MIGRATED)
        assert p.exec_start == 0
        # min_vruntime of the source may have moved on while the task was still counted.
        assert p.vruntime - target.cfs.min_vruntime <= max(lead, lead + source.tun.latency)
        self.check_preempt(target, p)

    @rule(cpu=CPUS)
    def age(self, cpu: int) -> None:
        fair.update_blocked_averages(self.clock(cpu))

    @rule(cpu=CPUS)
    def averages_add_up(self, cpu: int) -> None:
        """Age a copy of everything to now: a runqueue's averages are its tasks' together."""
        rq, tasks = self.copy(cpu)
        fair.update_rq_clock(rq, self.now)
        fair.update_blocked_averages(rq)
        for p in tasks.values():
            pelt.update_load_avg_se(p, rq.clock_task, rq.cfs.curr is p)
        avg = rq.cfs.avg
        averages = [p.avg for p in tasks.values()]
        queued = [p.avg.load_avg for p in tasks.values() if p.on_rq]
        runnable = [one.runnable_avg for one in averages] if rq.cfs.counts_tasks else queued
        assert abs(avg.load_avg - sum(one.load_avg for one in averages)) <= self.rounded_away
        assert abs(avg.runnable_avg - sum(runnable)) <= self.rounded_away
        assert abs(avg.util_avg - sum(one.util_avg for one in averages)) <= self.rounded_away

    def copy(self, cpu: int) -> tuple[Rq, dict[int, Task]]:
        """Return a CPU's runqueue and tasks, built anew from what they pack."""
        old = self.rqs[cpu]
        packed = old.pack()
        tasks: dict[int, Task] = {}
        for p in (*self.queued.values(), *self.asleep.values()):
            if p.cpu == cpu:
                tasks[p.pid] = Task(p.pid, p.comm)
                tasks[p.pid].unpack_se(p.pack_se())
        fresh = Rq(cpu, old.tun, fair.FAIR_SCHED_CLASS, self.kernel_rules)
        fresh.unpack(packed, tasks)
        assert fresh.pack() == packed
        return fresh, tasks

    @rule(cpu=CPUS)
    def snapshot(self, cpu: int) -> None:
        """Go on with a CPU that has been packed and built anew."""
        fresh, tasks = self.copy(cpu)
        fresh.on_runtime = self.on_runtime
        self.rqs[cpu] = fresh
        for pid, p in tasks.items():
            (self.queued if pid in self.queued else self.asleep)[pid] = p

    @invariant()
    def count_roundings(self) -> None:
        """Each step truncates a few sums and averages of each task and of its runqueues.

        One unit of a task's load sum is its weight / 46718 of load.
        """
        tasks = (*self.queued.values(), *self.asleep.values())
        self.rounded_away += 4 * sum(1 + (p.weight >> 10) // 46718 for p in tasks)

    @invariant()
    def no_task_is_lost(self) -> None:
        here = [p for rq in self.rqs for p in members(rq.cfs)]
        assert sorted(p.pid for p in here) == sorted(self.queued)
        assert all(p.on_rq for p in here)
        assert all(not p.on_rq for p in self.asleep.values())
        assert all(p is self.queued[p.pid] for p in here)

    @invariant()
    def counts_are_exact(self) -> None:
        for rq in self.rqs:
            cfs = rq.cfs
            tasks = members(cfs)
            assert rq.nr_running == cfs.nr_running == len(tasks)
            assert cfs.idle_h_nr_running == sum(p.policy == SCHED_IDLE for p in tasks)
            assert cfs.load_weight == sum(p.weight for p in tasks)
            assert cfs.avg.util_est_enqueued == sum(
                util_est.task_util_est_raw(rq, p) for p in tasks
            )
            assert {p.pid for p in cfs.cfs_tasks} == {p.pid for p in tasks}
            assert len(cfs.cfs_tasks) == len(tasks)
            assert all(p.cpu == rq.cpu for p in tasks)

    @invariant()
    def timeline_is_in_order(self) -> None:
        for rq in self.rqs:
            keys = [(vruntime, order) for vruntime, order, _ in rq.cfs.tree]
            assert keys == sorted(set(keys))
            assert all(key == (p.vruntime, p.tree_order) for key, p in zip_tree(rq.cfs))
            assert rq.cfs.curr not in [p for _, _, p in rq.cfs.tree]
            assert (rq.cfs.curr or rq.idle) is rq.curr

    @invariant()
    def min_vruntime_never_falls(self) -> None:
        for cpu, rq in enumerate(self.rqs):
            assert rq.cfs.min_vruntime >= self.min_vruntimes[cpu]
            self.min_vruntimes[cpu] = rq.cfs.min_vruntime

    @invariant()
    def averages_are_in_bounds(self) -> None:
        for rq in self.rqs:
            avg = rq.cfs.avg
            assert min(avg.pack()[1:]) >= 0
            assert 0 <= avg.period_contrib < 1024
            assert 0 <= fair.cpu_util(rq) <= 1024
            assert fair.cpu_runnable_load(rq) >= 0
            if not rq.cfs.nr_running:
                assert rq.cfs.load_weight == 0
        for p in (*self.queued.values(), *self.asleep.values()):
            assert p.avg.last_update_time != 0
            assert p.avg.load_avg <= p.weight >> 10
            assert 0 <= p.avg.util_avg <= 1024
            assert p.avg.util_avg <= p.avg.runnable_avg + 1, "it ran only while it was queued"
            assert p.avg.runnable_avg <= 1024

    @invariant()
    def buddies_are_queued(self) -> None:
        for rq in self.rqs:
            for buddy in (rq.cfs.next, rq.cfs.last, rq.cfs.skip):
                assert buddy is None or (buddy.on_rq and buddy.cpu == rq.cpu)

    @invariant()
    def run_time_is_accounted(self) -> None:
        for p in (*self.queued.values(), *self.asleep.values()):
            assert p.sum_exec_runtime == self.charged[p.pid]
        assert sum(self.charged.values()) <= 2 * self.now


def members(cfs: CfsRq) -> list[Task]:
    """The tasks of a queue as the timeline and ``curr`` say."""
    tasks = [p for _, _, p in cfs.tree]
    if cfs.curr is not None:
        tasks.append(cfs.curr)
    return tasks


def zip_tree(cfs: CfsRq) -> list[tuple[tuple[int, int], Task]]:
    return [((vruntime, order), p) for vruntime, order, p in cfs.tree]


@pytest.mark.parametrize("name", RULE_SETS)
def test_fair_machine(name: str) -> None:
    """Whatever the rules, the books are right."""
    machine = type(f"FairMachine_{name}", (FairMachine,), {"rule_set": name})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=30, stateful_step_count=40, deadline=None)
    )
