"""Two EEVDF runqueues at random: the books are right; shares are fair and short slices are soon.

The state machine knows nothing of how the class works.  It recomputes from the tasks what the class
keeps in sums, and holds what the theory says of any history.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emulator.kernel import eevdf, fair, util_est
from emulator.kernel.sched import (
    DEQUEUE_DELAYED,
    DEQUEUE_SLEEP,
    DEQUEUE_SPECIAL,
    ENQUEUE_DELAYED,
    ENQUEUE_INITIAL,
    ENQUEUE_MIGRATED,
    ENQUEUE_WAKEUP,
    SCHED_BATCH,
    SCHED_IDLE,
    SCHED_NORMAL,
    CfsRq,
    Rq,
    Task,
)
from emulator.rules import FEATURES, rules_of
from emulator.tracepoints import PREEMPT_REFUSALS, TASK_INTERRUPTIBLE, TASK_RUNNING
from emulator.types import KernelSpec

CPUS = st.integers(0, 1)
PICK = st.integers(0, 99)
INTERVALS = st.one_of(st.integers(0, 5_000), st.integers(0, 5_000_000), st.integers(0, 10**9))
TASKS_MAX = 7
MS = 1_000_000


def make_rq(version: str, cpu: int) -> Rq:
    tun = fair.tunables(KernelSpec(version, FEATURES[version], {}), 8)
    return Rq(cpu, tun, eevdf.EEVDF_SCHED_CLASS, rules_of(version))


class EevdfMachine(RuleBasedStateMachine):
    """Two CPUs whose tasks are woken, blocked, moved, reniced and ended at random."""

    version = "6.12"

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.rqs = [make_rq(self.version, cpu) for cpu in range(2)]
        self.tasks: dict[int, Task] = {}
        self.charged: dict[int, int] = {}
        self.warned: list[str] = []
        self.last_pid = 0
        self.min_vruntimes = [rq.cfs.min_vruntime for rq in self.rqs]
        for rq in self.rqs:
            self.hook(rq)

    def hook(self, rq: Rq) -> None:
        rq.on_runtime = self.on_runtime
        rq.on_warn = self.warned.append
        rq.on_preempt = self.on_preempt

    def on_runtime(self, p: Task, delta_ns: int) -> None:
        assert delta_ns > 0
        self.charged[p.pid] += delta_ns

    def on_preempt(self, p: Task, curr: Task, _vdiff: int, _gran: int, _why: int) -> None:
        assert p.on_rq
        assert curr.on_rq
        assert self.rqs[curr.cpu].need_resched

    def clock(self, cpu: int) -> Rq:
        rq = self.rqs[cpu]
        fair.update_rq_clock(rq, self.now)
        return rq

    def some(self, pick: int, delayed: bool = False, asleep: bool = False) -> Task | None:
        """A task that is delayed, or asleep and off the queue, or (neither) any."""
        pids = sorted(
            pid
            for pid, p in self.tasks.items()
            if (p.sched_delayed if delayed else not p.on_rq if asleep else True)
        )
        return self.tasks[pids[pick % len(pids)]] if pids else None

    def check_preempt(self, rq: Rq, p: Task) -> None:
        if rq.curr is rq.idle:
            fair.resched_curr(rq)
            return
        before = rq.need_resched
        why = eevdf.check_preempt_wakeup_eevdf(rq, p, 0)
        if before:
            assert why == fair.NO_PREEMPT
        elif why in PREEMPT_REFUSALS:
            assert not rq.need_resched
        elif why >= 0:
            assert rq.need_resched

    @initialize()
    def first_tasks(self) -> None:
        for cpu in (0, 0, 1):
            self.fork(cpu, 0, SCHED_NORMAL, 0)

    @rule(ns=INTERVALS)
    def time_passes(self, ns: int) -> None:
        self.now += ns

    @precondition(lambda self: len(self.tasks) < TASKS_MAX)
    @rule(
        cpu=CPUS,
        nice=st.integers(-20, 19),
        policy=st.sampled_from([SCHED_NORMAL, SCHED_NORMAL, SCHED_BATCH, SCHED_IDLE]),
        slice_ns=st.sampled_from([0, 0, 100_000, 500_000, 20 * MS]),
    )
    def fork(self, cpu: int, nice: int, policy: int, slice_ns: int) -> None:
        rq = self.clock(cpu)
        self.last_pid += 1
        p = Task(self.last_pid, f"task{self.last_pid}", nice)
        p.policy = policy
        p.cpu = cpu
        fair.set_load_weight(p)
        fair.init_entity_runnable_average(p)
        if rq.rules.custom_slice:
            eevdf.setparam_fair(p, slice_ns)
        self.charged[p.pid] = 0
        eevdf.task_fork_eevdf(rq, rq.cfs.curr, p)
        fair.post_init_entity_util_avg(rq, p)
        eevdf.enqueue_task_eevdf(rq, p, ENQUEUE_INITIAL)
        self.tasks[p.pid] = p
        assert abs(eevdf.entity_lag(rq, p, clamped=False)) <= 1
        self.check_preempt(rq, p)

    def placed(self, rq: Rq, p: Task, vlag: int, alone: bool) -> None:
        """A task has been placed: its lag is what it brought, and within its limit."""
        lag = eevdf.entity_lag(rq, p, clamped=False)
        assert abs(lag - (0 if alone else vlag)) <= 2, "rounded twice"
        assert abs(lag) <= eevdf.lag_limit(rq, p) + 2

    @rule(pick=PICK, cpu=CPUS)
    def wake(self, pick: int, cpu: int) -> None:
        p = self.some(pick, asleep=True)
        if p is None:
            return
        flags = ENQUEUE_WAKEUP
        if p.cpu != cpu:
            eevdf.migrate_task_rq_eevdf(self.rqs[p.cpu], p, True)
            flags |= ENQUEUE_MIGRATED
            p.cpu = cpu
        rq = self.clock(cpu)
        vlag, alone = p.vlag, not rq.cfs.nr_running
        eevdf.enqueue_task_eevdf(rq, p, flags)
        p.state = TASK_RUNNING
        self.placed(rq, p, vlag, alone)
        self.check_preempt(rq, p)

    @rule(pick=PICK)
    def wake_delayed(self, pick: int) -> None:
        p = self.some(pick, delayed=True)
        if p is None:
            return
        rq = self.clock(p.cpu)
        where = p.vruntime
        owed = eevdf.entity_lag(rq, p)
        eevdf.enqueue_task_eevdf(rq, p, ENQUEUE_DELAYED)
        p.state = TASK_RUNNING
        assert not p.sched_delayed
        if owed <= 0:
            assert p.vruntime == where
        else:
            # One whose debt is over gains nothing by having waited.
            assert p.vruntime > where
            assert abs(eevdf.entity_lag(rq, p)) <= 2
        self.check_preempt(rq, p)

    def switch(self, rq: Rq) -> None:
        """Let the fair class pick, then the idle class."""
        prev = rq.curr
        was_current = rq.cfs.curr
        following = eevdf.pick_next_task_eevdf(rq, prev)
        if following is None:
            assert not rq.cfs.nr_running
            if was_current is not None:
                eevdf.put_prev_task_eevdf(rq, prev)
            following = rq.idle
        else:
            assert rq.cfs.curr is following
            assert rq.cfs.cfs_tasks[0] is following
            assert not following.sched_delayed
            assert eevdf.entity_eligible(rq.cfs, following)
            if following is not prev:
                assert following.vlag == following.deadline, "it is protected"
        rq.curr = following
        rq.need_resched = False
        rq.skip_clock_update = 0

    @rule(cpu=CPUS)
    def preempt(self, cpu: int) -> None:
        rq = self.rqs[cpu]
        rq.skip_clock_update <<= 1
        self.clock(cpu)
        self.switch(rq)

    @rule(cpu=CPUS)
    def class_walk(self, cpu: int) -> None:
        rq = self.clock(cpu)
        if rq.cfs.curr is not None:
            eevdf.put_prev_task_eevdf(rq, rq.cfs.curr)
            following = eevdf.pick_next_task_eevdf(rq, None)
            assert following is not None
            assert following.prev_sum_exec_runtime == following.sum_exec_runtime
            rq.curr = following

    @rule(cpu=CPUS)
    def block(self, cpu: int) -> None:
        rq = self.clock(cpu)
        p = rq.cfs.curr
        if p is not None:
            p.state = TASK_INTERRUPTIBLE
            eevdf.update_curr(rq)
            in_debt = not eevdf.entity_eligible(rq.cfs, p)
            before = rq.nr_running
            eevdf.dequeue_task_eevdf(rq, p, DEQUEUE_SLEEP)
            assert p.sched_delayed == p.on_rq == int(in_debt and rq.tun.delay_dequeue)
            assert rq.nr_running == before - (not p.on_rq)
            self.switch(rq)

    @rule(cpu=CPUS)
    def end(self, cpu: int) -> None:
        rq = self.clock(cpu)
        p = rq.cfs.curr
        if p is not None:
            p.state = TASK_INTERRUPTIBLE
            eevdf.dequeue_task_eevdf(rq, p, DEQUEUE_SLEEP | DEQUEUE_SPECIAL)
            assert not p.on_rq
            self.switch(rq)
            fair.task_dead_fair(rq, p)
            del self.tasks[p.pid]

    @rule(cpu=CPUS)
    def tick(self, cpu: int) -> None:
        rq = self.clock(cpu)
        p = rq.cfs.curr
        if p is not None:
            deadline, was_alone, asked = p.deadline, rq.cfs.nr_running == 1, rq.need_resched
            had = p.sum_exec_runtime
            assert eevdf.task_tick_eevdf(rq, p) == fair.NO_PREEMPT
            if p.sum_exec_runtime > had:  # renicing may have rounded the two to one
                assert p.vruntime < p.deadline
            if p.deadline != deadline and not was_alone:
                assert rq.need_resched
            if was_alone:
                assert rq.need_resched == asked

    @rule(cpu=CPUS)
    def sched_yield(self, cpu: int) -> None:
        rq = self.clock(cpu)
        if rq.cfs.curr is not None:
            eevdf.yield_task_eevdf(rq)

    @rule(pick=PICK, nice=st.integers(-20, 19))
    def renice(self, pick: int, nice: int) -> None:
        p = self.some(pick)
        if p is not None:
            rq = self.clock(p.cpu)
            eevdf.update_curr(rq)
            cfs = rq.cfs
            before, old = eevdf.avg_vruntime(cfs), p.weight
            clamped = bool(p.on_rq) and eevdf.entity_lag(rq, p) != eevdf.entity_lag(rq, p, False)
            eevdf.set_user_nice(rq, p, nice)
            if cfs.nr_running and not (clamped and rq.rules.eevdf_reweight_clamped):
                # V was rounded by up to a ns, which counted with the old weight, and so was the lag,
                # with the new one.
                load = sum(one.weight for one in members(cfs))
                bound = 1 + (old + p.weight) // load + 1
                assert abs(eevdf.avg_vruntime(cfs) - before) <= bound

    @rule(cpu=CPUS)
    def balance(self, cpu: int) -> None:
        source, target = self.clock(cpu), self.clock(1 - cpu)
        if not source.cfs.cfs_tasks:
            return
        p = source.cfs.cfs_tasks[-1]
        if p is source.cfs.curr:
            return
        delayed = p.sched_delayed
        deadline = p.deadline - p.vruntime
        eevdf.dequeue_task_eevdf(source, p, 0)
        eevdf.migrate_task_rq_eevdf(source, p, False)
        p.cpu = target.cpu
        vlag, alone = p.vlag, not target.cfs.nr_running
        eevdf.enqueue_task_eevdf(target, p, ENQUEUE_MIGRATED)
        self.placed(target, p, vlag, alone)
        assert p.exec_start == 0
        assert p.sched_delayed == delayed
        if target.tun.place_rel_deadline:
            assert p.deadline - p.vruntime == deadline
        self.check_preempt(target, p)

    @rule(pick=PICK)
    def park(self, pick: int) -> None:
        """A delayed task leaves at once, as where its CPU goes offline."""
        p = self.some(pick, delayed=True)
        if p is not None:
            rq = self.clock(p.cpu)
            eevdf.dequeue_task_eevdf(rq, p, DEQUEUE_SLEEP | DEQUEUE_DELAYED)
            assert not p.on_rq
            assert not p.sched_delayed
            assert p.vlag <= 0

    @rule(cpu=CPUS)
    def age(self, cpu: int) -> None:
        fair.update_blocked_averages(self.clock(cpu))

    @rule(cpu=CPUS)
    def snapshot(self, cpu: int) -> None:
        """Go on with a CPU that has been packed and built anew."""
        old = self.rqs[cpu]
        packed = old.pack()
        tasks: dict[int, Task] = {}
        for p in self.tasks.values():
            if p.cpu == cpu:
                tasks[p.pid] = Task(p.pid, p.comm)
                tasks[p.pid].unpack_se(p.pack_se())
        fresh = Rq(cpu, old.tun, old.fair, old.rules)
        fresh.unpack(packed, tasks)
        self.hook(fresh)
        assert fresh.pack() == packed
        self.rqs[cpu] = fresh
        self.tasks |= tasks

    @invariant()
    def no_task_is_lost(self) -> None:
        here = [p for rq in self.rqs for p in members(rq.cfs)]
        assert sorted(p.pid for p in here) == sorted(
            pid for pid, p in self.tasks.items() if p.on_rq
        )
        assert all(p is self.tasks[p.pid] for p in here)
        for p in self.tasks.values():
            assert p.state == (TASK_RUNNING if p.on_rq and not p.sched_delayed else 1)

    @invariant()
    def counts_are_exact(self) -> None:
        for rq in self.rqs:
            cfs = rq.cfs
            tasks = members(cfs)
            assert rq.nr_running == cfs.nr_running == len(tasks)
            assert cfs.idle_h_nr_running == sum(p.policy == SCHED_IDLE for p in tasks)
            assert cfs.load_weight == sum(p.weight for p in tasks)
            assert {p.pid for p in cfs.cfs_tasks} == {p.pid for p in tasks}
            assert len(cfs.cfs_tasks) == len(tasks)
            assert all(p.cpu == rq.cpu for p in tasks)
            awake = [p for p in tasks if not p.sched_delayed]
            assert cfs.avg.util_est_enqueued == sum(
                util_est.task_util_est_raw(rq, p) for p in awake
            )

    @invariant()
    def sums_are_those_of_the_timeline(self) -> None:
        for rq in self.rqs:
            cfs = rq.cfs
            queued = [p for _, _, p in cfs.tree]
            assert cfs.avg_load == sum(p.weight >> 10 for p in queued)
            assert cfs.avg_vruntime == sum(
                (p.vruntime - cfs.min_vruntime) * (p.weight >> 10) for p in queued
            )

    @invariant()
    def weighted_lags_add_up_to_nothing(self) -> None:
        for rq in self.rqs:
            tasks = members(rq.cfs)
            load = sum(p.weight >> 10 for p in tasks)
            average = eevdf.avg_vruntime(rq.cfs)
            lags = sum((average - p.vruntime) * (p.weight >> 10) for p in tasks)
            assert -max(load, 1) < lags <= 0, "V is rounded down"

    @invariant()
    def somebody_is_eligible(self) -> None:
        for rq in self.rqs:
            tasks = members(rq.cfs)
            if tasks:
                least = min(tasks, key=lambda p: p.vruntime)
                assert eevdf.entity_eligible(rq.cfs, least)
                assert eevdf.entity_eligible(rq.cfs, eevdf.pick_eevdf(rq))
        assert self.warned == []

    @invariant()
    def timeline_is_in_order(self) -> None:
        for rq in self.rqs:
            keys = [(vruntime, order) for vruntime, order, _ in rq.cfs.tree]
            assert keys == sorted(set(keys))
            assert all(
                entry[:2] == (entry[2].vruntime, entry[2].tree_order) for entry in rq.cfs.tree
            )
            assert rq.cfs.curr not in [p for _, _, p in rq.cfs.tree]
            assert (rq.cfs.curr or rq.idle) is rq.curr
            assert rq.cfs.curr is None or not rq.cfs.curr.sched_delayed

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
            assert 0 <= fair.cpu_util(rq) <= 1024
        for p in self.tasks.values():
            assert p.avg.last_update_time != 0
            assert p.avg.load_avg <= p.weight >> 10
            assert 0 <= p.avg.util_avg <= 1024

    @invariant()
    def run_time_is_accounted(self) -> None:
        for p in self.tasks.values():
            assert p.sum_exec_runtime == self.charged[p.pid]
        assert sum(self.charged.values()) <= 2 * self.now


class EevdfMachine66(EevdfMachine):
    """The same under v6.6: nobody is delayed, deadlines are new at every placement."""

    version = "6.6"


def members(cfs: CfsRq) -> list[Task]:
    """The tasks of a queue as the timeline and ``curr`` say."""
    tasks = [p for _, _, p in cfs.tree]
    if cfs.curr is not None:
        tasks.append(cfs.curr)
    return tasks


for machine in (EevdfMachine, EevdfMachine66):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEevdfMachine = EevdfMachine.TestCase
TestEevdfMachine66 = EevdfMachine66.TestCase


# -- Fairness and latency --------------------------------------------------------------------------


class OneCpu:
    """A CPU of hogs under a 1 ms tick that reschedules as soon as it is asked to."""

    def __init__(self, version: str, nices: list[int]) -> None:
        self.rq = make_rq(version, 0)
        self.rq.tick_ns = MS
        self.now = 0
        self.hogs = [self.task(nice) for nice in nices]
        for p in self.hogs:
            eevdf.enqueue_task_eevdf(self.rq, p, ENQUEUE_INITIAL)
        self.switch()

    def task(self, nice: int, slice_ns: int = 0) -> Task:
        p = Task(1 + sum(p.pid > 0 for p in getattr(self, "hogs", [])), "hog", nice)
        fair.set_load_weight(p)
        fair.init_entity_runnable_average(p)
        fair.post_init_entity_util_avg(self.rq, p)
        eevdf.setparam_fair(p, slice_ns)
        return p

    def switch(self) -> None:
        following = eevdf.pick_next_task_eevdf(self.rq, self.rq.curr)
        assert following is not None
        self.rq.curr = following
        self.rq.need_resched = False

    def until(self, now_ns: int) -> None:
        """Run up to a time, all ticks before it included."""
        while (self.now // MS + 1) * MS <= now_ns:
            self.now = (self.now // MS + 1) * MS
            fair.update_rq_clock(self.rq, self.now)
            eevdf.task_tick_eevdf(self.rq, self.rq.curr)
            if self.rq.need_resched:
                self.switch()
        self.now = now_ns
        fair.update_rq_clock(self.rq, now_ns)
        eevdf.update_curr(self.rq)
        if self.rq.need_resched:
            self.switch()


@settings(max_examples=60, deadline=None)
@given(
    version=st.sampled_from(["6.6", "6.12"]),
    nices=st.lists(st.integers(-10, 10), min_size=1, max_size=6),
    checks=st.lists(st.integers(1, 400 * MS), min_size=1, max_size=5),
)
def test_shares_are_fair_by_weight_within_a_slice(
    version: str, nices: list[int], checks: list[int]
) -> None:
    """No hog has more than its share by a slice and a tick, nor less by that much.

    More: it is picked only with a share owed to it, and runs out its request, a slice at most; the
    tick that sees it is at most a tick late.  Less: Stoica and Abdel-Wahab's bound for requests of
    that length.
    """
    box = OneCpu(version, nices)
    bound = box.rq.tun.sysctl_base_slice + MS
    weights = [p.weight for p in box.hogs]
    for now in sorted(checks):
        box.until(now)
        for p in box.hogs:
            ideal = now * p.weight / sum(weights)
            assert abs(p.sum_exec_runtime - ideal) <= bound
    assert sum(p.sum_exec_runtime for p in box.hogs) == max(checks)


@settings(max_examples=100, deadline=None)
@given(
    hogs=st.integers(1, 5),
    wake_ns=st.integers(0, 100 * MS),
    slice_ns=st.integers(100_000, 1_500_000),
    vlag=st.integers(0, 1_000_000),
)
def test_a_short_slice_waits_for_no_more_than_the_requests_due_before_it(
    hogs: int, wake_ns: int, slice_ns: int, vlag: int
) -> None:
    """A wakeup that is owed nothing or something waits for the hogs whose deadline is earlier only.

    Each of them may end the request that it is in, which the tick sees up to a tick late; its next
    deadline is a whole slice off, later than the short one.  Whoever else runs gives way at once:
    the shorter slice takes its protection away.
    """
    box = OneCpu("6.12", [0] * hogs)
    box.until(wake_ns)
    rq = box.rq
    k = box.task(0, slice_ns)
    k.pid = 99
    k.vlag = vlag
    eevdf.enqueue_task_eevdf(rq, k, ENQUEUE_WAKEUP)
    before = [p for p in box.hogs if p.deadline <= k.deadline]
    bound = sum(p.deadline - p.vruntime + MS for p in before)
    eevdf.check_preempt_wakeup_eevdf(rq, k, 0)
    if rq.need_resched:
        box.switch()
    while rq.curr is not k:
        box.until((box.now // MS + 1) * MS)
        assert box.now - wake_ns <= bound
    if not before:
        assert box.now == wake_ns
