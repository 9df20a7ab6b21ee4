"""EEVDF: the worked examples of the spec, in both versions where they differ, and what lies between.

A case is driven as the CPU drives the class: the clock, then the enqueue and the preemption test, a
tick, or ``schedule()``.
"""

from __future__ import annotations

from typing import Any

import pytest

from emulator.kernel import eevdf, fair
from emulator.kernel.eevdf_tree import PICK_FAILED, enqueue_entity, sums, truncdiv
from emulator.kernel.sched import (
    DEQUEUE_DELAYED,
    DEQUEUE_SLEEP,
    DEQUEUE_SPECIAL,
    ENQUEUE_DELAYED,
    ENQUEUE_INITIAL,
    ENQUEUE_MIGRATED,
    ENQUEUE_WAKEUP,
    RQCF_REQ_SKIP,
    SCHED_BATCH,
    SCHED_IDLE,
    WF_FORK,
    Rq,
    Task,
)
from emulator.rules import FEATURES, rules_of
from emulator.tracepoints import (
    PREEMPT_DEADLINE,
    PREEMPT_IDLE_POLICY,
    PREEMPT_INELIGIBLE,
    PREEMPT_LATER_DEADLINE,
    PREEMPT_NOT_ELIGIBLE,
    PREEMPT_PICKED,
    PREEMPT_PROTECTED,
    PREEMPT_SHORT_SLICE,
    TASK_INTERRUPTIBLE,
    TASK_RUNNING,
)
from emulator.types import KernelSpec

MS = 1_000_000
BOTH = pytest.mark.parametrize("version", ["6.6", "6.12"])

#: What the class said of itself: (why, vdiff, gran, pid of who would run next).
Said = list[tuple[int, int, int, int]]


def make_rq(version: str, nr_online: int = 8, cpu: int = 0, **features: bool) -> Rq:
    kernel = KernelSpec(version, FEATURES[version] | features, {})
    rq = Rq(cpu, fair.tunables(kernel, nr_online), eevdf.EEVDF_SCHED_CLASS, rules_of(version))
    rq.tick_ns = MS
    rq.cfs.min_vruntime = 0
    return rq


def make_task(pid: int, nice: int = 0, policy: int = 0, slice_ns: int = 0) -> Task:
    p = Task(pid, f"task{pid}", nice)
    p.policy = policy
    fair.set_load_weight(p)
    fair.init_entity_runnable_average(p)
    eevdf.setparam_fair(p, slice_ns)
    return p


def attach(rq: Rq, p: Task) -> Task:
    """Give a task the state of one that is asleep here."""
    fair.post_init_entity_util_avg(rq, p)
    p.state = TASK_INTERRUPTIBLE
    return p


def place(rq: Rq, p: Task, vruntime: int, deadline: int) -> Task:
    """Put a task into the timeline at this place."""
    attach(rq, p)
    p.state = TASK_RUNNING
    eevdf.enqueue_task_eevdf(rq, p, 0)
    p_order = next(index for index, entry in enumerate(rq.cfs.tree) if entry[2] is p)
    del rq.cfs.tree[p_order]
    weight = p.weight >> 10
    rq.cfs.avg_vruntime -= (p.vruntime - rq.cfs.min_vruntime) * weight
    rq.cfs.avg_load -= weight
    p.vruntime, p.deadline = vruntime, deadline
    enqueue_entity(rq.cfs, p)
    return p


def switch(rq: Rq) -> Task:
    """``schedule()`` of a task that is still runnable, or of the idle task."""
    rq.need_resched = False
    following = eevdf.pick_next_task_eevdf(rq, rq.curr)
    assert following is not None
    rq.curr = following
    return following


def block(rq: Rq, flags: int = 0) -> Task:
    """``schedule()`` of a task that sleeps: pick another, or go idle; returns who sleeps."""
    prev = rq.curr
    prev.state = TASK_INTERRUPTIBLE
    eevdf.dequeue_task_eevdf(rq, prev, DEQUEUE_SLEEP | flags)
    rq.need_resched = False
    following = eevdf.pick_next_task_eevdf(rq, prev)
    if following is None:
        eevdf.put_prev_task_eevdf(rq, prev)
        following = rq.idle
    rq.curr = following
    return prev


def clock(rq: Rq, now_ns: int) -> None:
    fair.update_rq_clock(rq, now_ns)


def tick(rq: Rq, now_ns: int) -> bool:
    """Return whether the tick asks the running task to give way."""
    clock(rq, now_ns)
    assert eevdf.task_tick_eevdf(rq, rq.curr) == fair.NO_PREEMPT
    return rq.need_resched


def wake(rq: Rq, p: Task, now_ns: int) -> int:
    """Wake a task that is off the queue; return what the preemption test says."""
    clock(rq, now_ns)
    eevdf.enqueue_task_eevdf(rq, p, ENQUEUE_WAKEUP)
    p.state = TASK_RUNNING
    return eevdf.check_preempt_wakeup_eevdf(rq, p, 0)


def wake_delayed(rq: Rq, p: Task, now_ns: int) -> int:
    clock(rq, now_ns)
    eevdf.enqueue_task_eevdf(rq, p, ENQUEUE_DELAYED)
    p.state = TASK_RUNNING
    return eevdf.check_preempt_wakeup_eevdf(rq, p, 0)


def hog(rq: Rq, pid: int = 1, **given: Any) -> Task:
    """Start a task that has the CPU to itself at vruntime 0."""
    t = place(rq, make_task(pid, **given), 0, 3 * MS)
    assert switch(rq) is t
    return t


def listen(rq: Rq) -> Said:
    said: Said = []

    def on_preempt(p: Task, _curr: Task, vdiff: int, gran: int, why: int) -> None:
        said.append((why, vdiff, gran, p.pid))

    rq.on_preempt = on_preempt
    return said


# -- E.9 -------------------------------------------------------------------------------------------


@BOTH
def test_example_E_9_1_virtual_time_and_pick(version: str) -> None:
    rq = make_rq(version)
    rq.cfs.min_vruntime = 1 * MS
    a = place(rq, make_task(1), 1 * MS, 4 * MS)
    b = place(rq, make_task(2), 4 * MS, 7 * MS)
    c = place(rq, make_task(3, nice=5), 2_500_000, 2_500_000 + 9_170_149)
    assert fair.calc_delta_fair(3 * MS, c) == 9_170_149
    assert sums(rq.cfs) == (3_574_500_000, 2383)
    assert eevdf.avg_vruntime(rq.cfs) == 2_500_000
    eligible = [p for p in (a, b, c) if eevdf.entity_eligible(rq.cfs, p)]
    assert eligible == [a, c], "no lag is eligible, a negative one is not"
    assert eevdf.pick_eevdf(rq) is a


def lone_hog(version: str) -> tuple[Rq, Task, Task, Said]:
    """T alone from 0 to 10 ms with a tick every ms; then K wakes with vlag 0."""
    rq = make_rq(version)
    t = hog(rq)
    k = attach(rq, make_task(2))
    said = listen(rq)
    for ms in range(1, 11):
        assert not tick(rq, ms * MS)
    assert (t.vruntime, t.deadline, t.vlag) == (10 * MS, 12 * MS, 3 * MS)
    assert wake(rq, k, 10 * MS) == PREEMPT_LATER_DEADLINE
    assert (k.vruntime, k.deadline) == (10 * MS, 13 * MS)
    assert (rq.preempt_vdiff, rq.preempt_gran) == (-1 * MS, 0)
    assert said == []
    return rq, t, k, said


def test_example_E_9_2_hog_alone_then_a_wakeup_v6_6() -> None:
    rq, t, k, said = lone_hog("6.6")
    assert not tick(rq, 11 * MS)
    assert eevdf.avg_vruntime(rq.cfs) == 10_500_000
    assert not eevdf.entity_eligible(rq.cfs, t)
    assert tick(rq, 12 * MS)
    assert said == [(PREEMPT_DEADLINE, 0, -1 * MS, k.pid)]
    assert switch(rq) is k


def test_example_E_9_2_hog_alone_then_a_wakeup_v6_12() -> None:
    rq, t, k, said = lone_hog("6.12")
    assert tick(rq, 11 * MS)
    assert said == [(PREEMPT_INELIGIBLE, t.deadline - k.deadline, -500_000, k.pid)]
    assert switch(rq) is k


@pytest.mark.parametrize(("version", "wins"), [("6.6", "T"), ("6.12", "K")])
def test_example_E_9_2_tie_after_one_coarse_update(version: str, wins: str) -> None:
    rq = make_rq(version)
    t = hog(rq)
    k = attach(rq, make_task(2))
    why = wake(rq, k, 10 * MS)
    assert t.deadline == k.deadline == 13 * MS
    assert why == (PREEMPT_LATER_DEADLINE if wins == "T" else PREEMPT_PICKED)
    assert rq.need_resched is (wins == "K")


@BOTH
def test_example_E_9_3_a_wakeup_waits_for_the_deadline(version: str) -> None:
    rq = make_rq(version)
    t = hog(rq)
    k = attach(rq, make_task(2))
    assert wake(rq, k, 1 * MS) == PREEMPT_LATER_DEADLINE
    assert (k.vruntime, k.deadline, t.deadline) == (1 * MS, 4 * MS, 3 * MS)
    assert not tick(rq, 2 * MS)
    assert eevdf.avg_vruntime(rq.cfs) == 1_500_000
    assert not eevdf.entity_eligible(rq.cfs, t)
    assert eevdf.pick_eevdf(rq) is k, "but nobody asks"
    assert tick(rq, 3 * MS)
    assert switch(rq) is k


@BOTH
def test_example_E_9_4_lag_on_waking(version: str) -> None:
    rq = make_rq(version)
    t = hog(rq)
    k = attach(rq, make_task(2))
    k.vlag = 500_000
    assert wake(rq, k, 1 * MS) == PREEMPT_PICKED
    assert (k.vruntime, k.deadline) == (0, 3 * MS)
    assert eevdf.avg_vruntime(rq.cfs) == 500_000
    assert not eevdf.entity_eligible(rq.cfs, t)
    assert (rq.preempt_vdiff, rq.preempt_gran) == (0, 500_000)
    assert switch(rq) is k


@BOTH
def test_example_E_9_4_debt_on_waking(version: str) -> None:
    rq = make_rq(version)
    t = hog(rq)
    k = attach(rq, make_task(2))
    k.vlag = -700_000
    assert wake(rq, k, 1 * MS) == PREEMPT_NOT_ELIGIBLE
    assert k.vruntime == 2_400_000
    assert eevdf.avg_vruntime(rq.cfs) == 1_700_000
    assert rq.preempt_gran == -700_000
    assert eevdf.pick_eevdf(rq) is t


@BOTH
def test_example_E_9_5_weighted_placement(version: str) -> None:
    rq = make_rq(version)
    for pid in (1, 2):
        place(rq, make_task(pid), 0, 3 * MS)
    heavy = attach(rq, make_task(3, nice=-5))
    heavy.vlag = 300_000
    eevdf.enqueue_task_eevdf(rq, heavy, ENQUEUE_WAKEUP)
    assert heavy.vruntime == -757_177
    assert eevdf.avg_vruntime(rq.cfs) == -457_178
    assert eevdf.entity_lag(rq, heavy) == 299_999
    assert fair.calc_delta_fair(3 * MS, heavy) == 984_299
    assert heavy.deadline == 227_122


@pytest.mark.parametrize(("nice", "limit"), [(0, 6 * MS), (5, 18_340_298), (-5, 1_968_599)])
@BOTH
def test_example_E_9_6_lag_limit(version: str, nice: int, limit: int) -> None:
    rq = make_rq(version)
    rq.tick_ns = 4 * MS
    p = place(rq, make_task(1, nice), 0, 3 * MS)
    other = place(rq, make_task(2), 10**9, 10**9 + 3 * MS)
    assert eevdf.lag_limit(rq, p) == limit
    assert eevdf.entity_lag(rq, p) == limit
    assert eevdf.entity_lag(rq, other) == -6 * MS
    assert eevdf.entity_lag(rq, p, clamped=False) > limit


def test_lag_limit_is_at_least_a_tick() -> None:
    rq = make_rq("6.12", nr_online=1)
    rq.tick_ns = 10 * MS
    p = place(rq, make_task(1), 0, MS)
    assert p.slice == 750_000
    assert eevdf.lag_limit(rq, p) == 10 * MS


@pytest.mark.parametrize(("version", "waits_ms"), [("6.6", 6), ("6.12", 5)])
def test_example_E_9_7_a_debt_of_2_ms(version: str, waits_ms: int) -> None:
    rq = make_rq(version)
    said = listen(rq)
    t = hog(rq)
    k = attach(rq, make_task(2))
    k.vlag = -2 * MS
    assert wake(rq, k, 0) == PREEMPT_NOT_ELIGIBLE
    assert (k.vruntime, k.deadline) == (4 * MS, 7 * MS)
    ran: dict[int, Task] = {}
    for ms in range(1, waits_ms + 1):
        if tick(rq, ms * MS):
            ran[ms] = switch(rq)
    assert ran == {3: t, waits_ms: k}
    assert t.deadline == (9 * MS if version == "6.6" else 6 * MS)
    assert [why for why, *_ in said] == [
        PREEMPT_DEADLINE,
        PREEMPT_DEADLINE if version == "6.6" else PREEMPT_INELIGIBLE,
    ]
    assert said[0][1:] == (0, 500_000, t.pid), "asked, and picked again: T is eligible, K is not"


@pytest.mark.parametrize(("version", "deadline"), [("6.6", 5 * MS), ("6.12", 3_500_000)])
def test_example_E_9_8_fork(version: str, deadline: int) -> None:
    rq = make_rq(version)
    t = hog(rq)
    clock(rq, 2 * MS)
    child = make_task(2)
    eevdf.task_fork_eevdf(rq, t, child)
    fair.post_init_entity_util_avg(rq, child)
    eevdf.enqueue_task_eevdf(rq, child, ENQUEUE_INITIAL)
    assert (t.vruntime, t.deadline) == (2 * MS, 3 * MS)
    assert (child.vruntime, child.deadline) == (2 * MS, deadline)


@BOTH
def test_example_E_9_8_yield(version: str) -> None:
    rq = make_rq(version)
    t = hog(rq)
    other = place(rq, make_task(2), 0, 3 * MS)
    clock(rq, 500_000)
    eevdf.yield_task_eevdf(rq)
    assert (t.vruntime, t.deadline) == (500_000, 6 * MS)
    assert rq.skip_clock_update & RQCF_REQ_SKIP
    assert eevdf.avg_vruntime(rq.cfs) == 250_000
    assert switch(rq) is other


def test_yield_of_a_task_alone_does_nothing() -> None:
    rq = make_rq("6.12")
    t = hog(rq)
    clock(rq, 500_000)
    eevdf.yield_task_eevdf(rq)
    assert (t.vruntime, t.deadline, rq.skip_clock_update) == (0, 3 * MS, 0)


def test_example_E_9_9_preempt_short() -> None:
    rq = make_rq("6.12")
    t = hog(rq)
    k = attach(rq, make_task(2, slice_ns=500_000))
    assert wake(rq, k, 1 * MS) == PREEMPT_SHORT_SLICE
    assert (k.vruntime, k.deadline) == (1 * MS, 1_500_000)
    assert t.vlag == t.deadline + 1, "the protection is gone"
    assert rq.need_resched
    assert switch(rq) is k


def test_example_E_9_9_without_the_feature_the_protection_holds() -> None:
    rq = make_rq("6.12", PREEMPT_SHORT=False)
    t = hog(rq)
    k = attach(rq, make_task(2, slice_ns=500_000))
    assert wake(rq, k, 1 * MS) == PREEMPT_PROTECTED
    assert (rq.preempt_vdiff, rq.preempt_gran) == (1_500_000, 0)
    assert t.vlag == t.deadline
    assert not rq.need_resched


@BOTH
def test_example_E_9_10_virtual_time_rounds_down(version: str) -> None:
    rq = make_rq(version)
    rq.cfs.min_vruntime = 5
    place(rq, make_task(1), 5, 100)
    place(rq, make_task(2), -2, 100)
    assert sums(rq.cfs) == (-7168, 2048)
    assert eevdf.avg_vruntime(rq.cfs) == 1
    assert [truncdiv(-7, 2), truncdiv(7, 2), truncdiv(-8, 2)] == [-3, 3, -4]


# -- E.4, E.5 --------------------------------------------------------------------------------------


@BOTH
def test_a_task_that_is_picked_again_is_not_protected_again(version: str) -> None:
    rq = make_rq(version)
    t = hog(rq)
    for ms in range(1, 4):
        tick(rq, ms * MS)
    assert switch(rq) is t
    assert (t.vlag, t.deadline) == (3 * MS, 6 * MS)
    eevdf.put_prev_task_eevdf(rq, t)
    eevdf.set_next_task_eevdf(rq, t)
    assert t.vlag == t.deadline == 6 * MS


@BOTH
def test_run_to_parity_keeps_a_protected_task_that_is_eligible(version: str) -> None:
    for parity in (True, False):
        rq = make_rq(version, RUN_TO_PARITY=parity)
        t = hog(rq)
        early = place(rq, make_task(2), 0, 2 * MS)
        assert eevdf.pick_eevdf(rq) is (t if parity else early)


@pytest.mark.parametrize(("version", "first"), [("6.6", "leftmost"), ("6.12", "inserted first")])
def test_equal_deadlines_in_the_timeline(version: str, first: str) -> None:
    rq = make_rq(version)
    place(rq, make_task(1), 10, 100)
    place(rq, make_task(2), 0, 100)
    place(rq, make_task(3), 50, 200)
    assert eevdf.pick_eevdf(rq).pid == (2 if first == "leftmost" else 1)


def test_a_lone_entity_is_picked_without_looking() -> None:
    rq = make_rq("6.12")
    p = place(rq, make_task(1), 0, MS)
    rq.cfs.avg_vruntime = -1  # as if it were not eligible
    assert eevdf.pick_eevdf(rq) is p


def test_nobody_eligible_falls_back_to_the_leftmost_and_says_so() -> None:
    rq = make_rq("6.6")
    warned: list[str] = []
    rq.on_warn = warned.append
    place(rq, make_task(1), 20, 30)
    left = place(rq, make_task(2), 10, 40)
    assert eevdf.pick_eevdf(rq).pid == 2
    assert warned == []
    rq.cfs.avg_vruntime = -1
    assert eevdf.pick_eevdf(rq) is left
    assert warned == [PICK_FAILED]


def test_a_deadline_that_passes_alone_asks_nobody_to_give_way() -> None:
    for version in ("6.6", "6.12"):
        rq = make_rq(version)
        said = listen(rq)
        hog(rq)
        assert not tick(rq, 4 * MS)
        assert said == []


def test_a_deadline_that_passes_in_a_wakeup_is_told_once() -> None:
    rq = make_rq("6.6")
    said = listen(rq)
    t = hog(rq)
    k, m = attach(rq, make_task(2)), attach(rq, make_task(3))
    wake(rq, k, 1 * MS)
    assert wake(rq, m, 4 * MS) == fair.NO_PREEMPT
    # The enqueue charged T: three ms ahead of K, so T has 1.5 ms more than its share.
    assert said == [(PREEMPT_DEADLINE, 1 * MS, -1_500_000, k.pid)]
    assert rq.need_resched
    assert t.deadline == 7 * MS


def test_next_buddy_is_picked_while_it_is_eligible() -> None:
    rq = make_rq("6.6", NEXT_BUDDY=True)
    hog(rq)
    early = place(rq, make_task(2), 0, 1 * MS)
    late = place(rq, make_task(3), 0, 9 * MS)
    assert eevdf.yield_to_task_eevdf(rq, late)
    assert switch(rq) is late
    assert rq.cfs.next is None
    assert early.on_rq
    rq = make_rq("6.6")
    hog(rq)
    early, late = place(rq, make_task(2), 0, 1 * MS), place(rq, make_task(3), 0, 9 * MS)
    assert eevdf.yield_to_task_eevdf(rq, late)
    assert switch(rq) is early, "the feature is off"


# -- E.6 -------------------------------------------------------------------------------------------


@BOTH
def test_idle_policy_and_batch_at_a_wakeup(version: str) -> None:
    rq = make_rq(version)
    hog(rq, policy=SCHED_IDLE)
    k = attach(rq, make_task(2))
    assert wake(rq, k, 1 * MS) == PREEMPT_IDLE_POLICY
    for policy in (SCHED_IDLE, SCHED_BATCH):
        rq = make_rq(version)
        hog(rq)
        k = attach(rq, make_task(2, policy=policy))
        k.vlag = 5 * MS
        assert wake(rq, k, 1 * MS) == fair.NO_PREEMPT
        assert not rq.need_resched


@BOTH
def test_no_second_test_while_a_reschedule_is_due(version: str) -> None:
    rq = make_rq(version)
    hog(rq)
    k = attach(rq, make_task(2))
    k.vlag = 5 * MS
    rq.need_resched = True
    assert wake(rq, k, 1 * MS) == fair.NO_PREEMPT
    assert eevdf.check_preempt_wakeup_eevdf(rq, rq.curr, WF_FORK) == fair.NO_PREEMPT


def test_a_shorter_slice_that_is_not_eligible_leaves_the_protection() -> None:
    rq = make_rq("6.12")
    t = hog(rq)
    k = attach(rq, make_task(2, slice_ns=500_000))
    k.vlag = -100_000
    assert wake(rq, k, 1 * MS) == PREEMPT_NOT_ELIGIBLE
    assert t.vlag == t.deadline


def test_a_shorter_slice_takes_the_protection_even_if_another_task_is_picked() -> None:
    rq = make_rq("6.12")
    t = hog(rq)
    first = place(rq, make_task(3), 0, 1_000_100)
    k = attach(rq, make_task(2, slice_ns=2_999_000))
    assert wake(rq, k, 1_000) == PREEMPT_LATER_DEADLINE
    assert k.deadline < t.deadline
    assert t.vlag == t.deadline + 1
    assert eevdf.pick_eevdf(rq) is first


@pytest.mark.parametrize(
    ("asked", "custom", "got"),
    [(0, 0, 3 * MS), (50_000, 1, 100_000), (500_000, 1, 500_000), (10**9, 1, 100 * MS)],
)
def test_custom_slices_are_clamped(asked: int, custom: int, got: int) -> None:
    rq = make_rq("6.12")
    p = attach(rq, make_task(1, slice_ns=asked))
    eevdf.enqueue_task_eevdf(rq, p, ENQUEUE_WAKEUP)
    assert (p.custom_slice, p.slice) == (custom, got)
    assert p.deadline == p.vruntime + got
    eevdf.setparam_fair(p, 0)
    assert switch(rq) is p
    tick(rq, 200 * MS)
    assert p.deadline == p.vruntime + 3 * MS


# -- E.3 -------------------------------------------------------------------------------------------


@BOTH
def test_a_moved_task_keeps_its_relative_deadline_since_v6_12(version: str) -> None:
    source, target = make_rq(version, cpu=0), make_rq(version, cpu=1)
    target.cfs.min_vruntime = 500 * MS
    hog(source)
    p = place(source, make_task(2), 1 * MS, 2 * MS)
    resident = place(target, make_task(3), 500 * MS, 503 * MS)
    clock(source, 1 * MS)
    eevdf.dequeue_task_eevdf(source, p, 0)
    assert p.vlag == 0
    eevdf.migrate_task_rq_eevdf(source, p, False)
    p.exec_start = 7
    eevdf.enqueue_task_eevdf(target, p, ENQUEUE_MIGRATED)
    assert (p.vruntime, p.exec_start, p.rel_deadline) == (500 * MS, 0, 0)
    assert p.deadline == 500 * MS + (3 * MS if version == "6.6" else 1 * MS)
    assert eevdf.pick_eevdf(target) is (resident if version == "6.6" else p)


@BOTH
def test_a_task_that_slept_gets_a_new_deadline(version: str) -> None:
    rq = make_rq(version)
    p = hog(rq)
    clock(rq, 2 * MS)
    block(rq)
    assert (p.on_rq, p.vlag, p.rel_deadline) == (0, 0, 0)
    wake(rq, p, 9 * MS)
    assert (p.vruntime, p.deadline) == (2 * MS, 5 * MS), "an empty queue: V is min_vruntime"


def test_without_place_lag_everybody_starts_at_v() -> None:
    rq = make_rq("6.12", PLACE_LAG=False)
    hog(rq)
    k = attach(rq, make_task(2))
    k.vlag = 5 * MS
    wake(rq, k, 1 * MS)
    assert k.vruntime == 1 * MS


@BOTH
def test_the_running_task_is_placed_before_it_is_charged(version: str) -> None:
    # Taken out and put back while it runs, as a change of its policy does.
    rq = make_rq(version)
    t = hog(rq)
    place(rq, make_task(2), 0, 3 * MS)
    clock(rq, 1 * MS)
    eevdf.dequeue_task_eevdf(rq, t, 0)
    assert t.vlag == -500_000
    eevdf.enqueue_task_eevdf(rq, t, 0)
    assert t.vruntime == 1 * MS
    assert t.on_rq
    assert [p.pid for _, _, p in rq.cfs.tree] == [2]


# -- E.7 -------------------------------------------------------------------------------------------


def sleep_in_debt(**features: bool) -> tuple[Rq, Task, Task]:
    """T runs 2 ms beside K and goes to sleep: 1 ms more than its share."""
    rq = make_rq("6.12", **features)
    t = hog(rq)
    k = place(rq, make_task(2), 0, 3 * MS)
    clock(rq, 2 * MS)
    block(rq)
    assert rq.curr is k
    return rq, t, k


def test_a_sleeper_in_debt_stays_queued() -> None:
    rq, t, _k = sleep_in_debt()
    assert (t.sched_delayed, t.on_rq, t.vruntime) == (1, 1, 2 * MS)
    assert (rq.nr_running, rq.cfs.nr_running) == (2, 2)
    assert rq.cfs.load_weight == 2 << 20
    assert t in rq.cfs.cfs_tasks
    assert [p for _, _, p in rq.cfs.tree] == [t]


def test_a_sleeper_in_debt_is_taken_off_without_the_feature_and_in_6_6() -> None:
    rq, t, _k = sleep_in_debt(DELAY_DEQUEUE=False)
    assert (t.sched_delayed, t.on_rq, t.vlag, rq.nr_running) == (0, 0, -1 * MS, 1)
    rq = make_rq("6.6")
    t = hog(rq)
    place(rq, make_task(2), 0, 3 * MS)
    clock(rq, 2 * MS)
    block(rq)
    assert (t.sched_delayed, t.on_rq, t.vlag) == (0, 0, -1 * MS)


def test_an_exiting_or_parked_task_is_never_delayed() -> None:
    rq = make_rq("6.12")
    t = hog(rq)
    place(rq, make_task(2), 0, 3 * MS)
    clock(rq, 2 * MS)
    block(rq, DEQUEUE_SPECIAL)
    assert (t.sched_delayed, t.on_rq, rq.nr_running) == (0, 0, 1)


def test_an_eligible_sleeper_leaves_at_once() -> None:
    rq = make_rq("6.12")
    t = hog(rq)
    place(rq, make_task(2), 4 * MS, 7 * MS)
    clock(rq, 1 * MS)
    block(rq)
    assert (t.on_rq, t.vlag) == (0, 1_500_000)


def test_the_pick_lets_a_delayed_task_go() -> None:
    rq, t, k = sleep_in_debt()
    # K has had its slice at 5 ms (v 3 ms), and T, at 2 ms, is eligible again.
    assert tick(rq, 5 * MS)
    assert eevdf.pick_eevdf(rq) is t
    assert switch(rq) is k
    assert (t.on_rq, t.sched_delayed, rq.nr_running, rq.cfs.nr_running) == (0, 0, 1, 1)
    assert t.vlag == 0, "DELAY_ZERO: what it waited for too long is not credited"


def test_without_delay_zero_the_lag_stays() -> None:
    rq, t, k = sleep_in_debt(DELAY_ZERO=False)
    tick(rq, 5 * MS)
    assert switch(rq) is k
    assert t.vlag == 500_000


def test_the_last_ones_are_delayed_and_the_cpu_goes_idle() -> None:
    rq, t, k = sleep_in_debt()
    clock(rq, 3 * MS)
    assert t.vruntime == 2 * MS
    block(rq)
    # K leaves eligible; T is alone then, picked, and goes too.
    assert rq.curr is rq.idle
    assert (rq.nr_running, rq.cfs.nr_running, rq.cfs.avg_load) == (0, 0, 0)
    assert (t.on_rq, k.on_rq, t.sched_delayed) == (0, 0, 0)


def test_a_delayed_task_that_runs_alone_is_let_go_while_it_is_current() -> None:
    rq = make_rq("6.12")
    t = hog(rq)
    k = place(rq, make_task(2), 0, 3 * MS)
    clock(rq, 2 * MS)
    t.state = TASK_INTERRUPTIBLE
    eevdf.dequeue_task_eevdf(rq, t, DEQUEUE_SLEEP)
    assert (t.sched_delayed, rq.cfs.curr) == (1, t)
    eevdf.dequeue_task_eevdf(rq, k, 0)  # the balancer takes the other one meanwhile
    assert eevdf.pick_next_task_eevdf(rq, t) is None
    assert (t.on_rq, t.sched_delayed, rq.nr_running) == (0, 0, 0)


def test_a_delayed_task_wakes_in_place_with_its_debt() -> None:
    rq, t, _k = sleep_in_debt()
    assert wake_delayed(rq, t, 2_500_000) == PREEMPT_NOT_ELIGIBLE
    assert (t.sched_delayed, t.on_rq, t.vruntime, t.deadline) == (0, 1, 2 * MS, 3 * MS)
    assert rq.nr_running == 2


def test_a_delayed_task_that_waited_too_long_is_placed_anew() -> None:
    rq, t, k = sleep_in_debt()
    tick(rq, 5_500_000)
    assert (k.vruntime, eevdf.avg_vruntime(rq.cfs)) == (3_500_000, 2_750_000)
    rq.need_resched = False
    wake_delayed(rq, t, 5_500_000)
    # Placed without itself in the queue: V is K's vruntime then.
    assert (t.vlag, t.vruntime, t.deadline) == (0, 3_500_000, 6_500_000)
    assert (t.sched_delayed, rq.cfs.nr_running) == (0, 2)
    assert [p for _, _, p in rq.cfs.tree] == [t]


def test_a_delayed_task_that_waited_too_long_stays_without_delay_zero() -> None:
    rq, t, _k = sleep_in_debt(DELAY_ZERO=False)
    tick(rq, 5_500_000)
    wake_delayed(rq, t, 5_500_000)
    assert (t.vruntime, t.deadline, t.sched_delayed) == (2 * MS, 3 * MS, 0)


def test_a_delayed_task_that_is_moved_stays_delayed() -> None:
    rq, t, _k = sleep_in_debt()
    target = make_rq("6.12", cpu=1)
    place(target, make_task(9), 0, 3 * MS)
    clock(rq, 2_200_000)
    eevdf.dequeue_task_eevdf(rq, t, 0)
    assert (t.on_rq, t.sched_delayed, t.vlag) == (0, 1, -900_000)
    eevdf.migrate_task_rq_eevdf(rq, t, False)
    eevdf.enqueue_task_eevdf(target, t, ENQUEUE_MIGRATED)
    assert (t.on_rq, t.sched_delayed, target.nr_running) == (1, 1, 2)
    assert eevdf.entity_lag(target, t) == -900_000
    eevdf.dequeue_task_eevdf(target, t, DEQUEUE_SLEEP | DEQUEUE_DELAYED)
    assert (t.on_rq, t.sched_delayed, target.nr_running) == (0, 0, 1)


def test_estimated_utilisation_leaves_when_the_task_sleeps_and_returns_when_it_wakes() -> None:
    rq, t, _k = sleep_in_debt()
    with_k = rq.cfs.avg.util_est_enqueued
    wake_delayed(rq, t, 2_500_000)
    with_both = rq.cfs.avg.util_est_enqueued
    assert with_both > with_k
    rq2, t2, _k2 = sleep_in_debt()
    eevdf.dequeue_task_eevdf(rq2, t2, 0)
    assert rq2.cfs.avg.util_est_enqueued == with_k, "moved asleep: it had left already"


def test_load_goes_on_counting_while_delayed() -> None:
    rq, t, _k = sleep_in_debt()
    load_sum, util_sum = t.avg.load_sum, t.avg.util_sum
    wake_delayed(rq, t, 2_050_000)  # no period of 1024 units ends before
    assert t.avg.load_sum == load_sum + (50_000 >> 10)
    assert t.avg.util_sum == util_sum


# -- E.8 -------------------------------------------------------------------------------------------


@BOTH
def test_renicing_keeps_the_weighted_lag_and_v(version: str) -> None:
    rq = make_rq(version)
    hog(rq)
    p = place(rq, make_task(2), 2 * MS, 5 * MS)
    average = eevdf.avg_vruntime(rq.cfs)
    assert average == 1 * MS
    eevdf.set_user_nice(rq, p, -5)
    assert p.vruntime == average + truncdiv(1 * MS * 1024, 3121)
    assert p.deadline == average + truncdiv(4 * MS * 1024, 3121)
    assert abs(eevdf.avg_vruntime(rq.cfs) - average) <= 1
    assert (p.nice, p.prio, p.weight >> 10) == (-5, 115, 3121)
    assert rq.cfs.load_weight == (1024 + 3121) << 10


@pytest.mark.parametrize(("version", "lag_ms"), [("6.6", 50), ("6.12", 6)])
def test_renicing_clamps_the_lag_since_6_12(version: str, lag_ms: int) -> None:
    rq = make_rq(version)
    hog(rq)
    p = place(rq, make_task(2), 100 * MS, 103 * MS)
    average = eevdf.avg_vruntime(rq.cfs)
    assert average == 50 * MS
    eevdf.set_user_nice(rq, p, 5)
    assert p.vruntime == average + truncdiv(lag_ms * MS * 1024, 335)


def test_renicing_at_no_lag_leaves_the_place() -> None:
    rq = make_rq("6.6")
    hog(rq)
    p = place(rq, make_task(2), 0, 3 * MS)
    eevdf.set_user_nice(rq, p, 5)
    assert (p.vruntime, p.deadline) == (0, truncdiv(3 * MS * 1024, 335))


@BOTH
def test_renicing_a_sleeper_scales_its_lag(version: str) -> None:
    rq = make_rq(version)
    p = attach(rq, make_task(1))
    p.vlag = -3_000_001
    eevdf.set_user_nice(rq, p, 5)
    assert p.vlag == truncdiv(-3_000_001 * 1024, 335)
    assert not p.on_rq


@BOTH
def test_renicing_the_running_task_protects_it_anew_and_asks_it_to_give_way(version: str) -> None:
    rq = make_rq(version)
    t = hog(rq)
    place(rq, make_task(2), 0, 3 * MS)
    clock(rq, 1 * MS)
    eevdf.set_user_nice(rq, t, 5)
    assert rq.cfs.curr is t
    assert t.vlag == t.deadline
    assert rq.need_resched
    rq.need_resched = False
    eevdf.set_user_nice(rq, t, 0)
    assert not rq.need_resched, "more important now"


def test_renicing_a_waiting_task_tests_it_against_the_running_one() -> None:
    rq = make_rq("6.12")
    hog(rq)
    p = place(rq, make_task(2, nice=5), -1 * MS, 8 * MS)
    assert eevdf.pick_eevdf(rq) is p
    eevdf.set_user_nice(rq, p, -5)
    assert rq.need_resched


# -- E.1 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus", "base_slice"), [(1, 750_000), (2, 1_500_000), (4, 2_250_000), (8, 3 * MS)]
)
def test_the_base_slice_scales_with_the_cpus(cpus: int, base_slice: int) -> None:
    rq = make_rq("6.6", nr_online=cpus)
    assert rq.tun.sysctl_base_slice == base_slice


def test_a_written_base_slice_is_lost_at_the_next_hotplug() -> None:
    tun = make_rq("6.6").tun
    fair.sched_proc_update_handler(tun, "kernel.sched_base_slice_ns", 5 * MS)
    assert (tun.sysctl_base_slice, tun.normalized_base_slice) == (5 * MS, 750_000)
    fair.update_sysctl(tun, 4)
    assert tun.sysctl_base_slice == 2_250_000
    with pytest.raises(ValueError, match="sched_base_slice_ns"):
        fair.sched_proc_update_handler(tun, "kernel.sched_base_slice_ns", 99_999)


def test_features_of_the_two_versions() -> None:
    new = ("place_rel_deadline", "preempt_short", "delay_dequeue", "delay_zero")
    both = ("place_lag", "place_deadline_initial", "run_to_parity")
    old, late = make_rq("6.6").tun, make_rq("6.12").tun
    assert all(getattr(tun, name) for tun in (old, late) for name in both)
    assert [getattr(old, name) for name in new] == [False] * 4
    assert [getattr(late, name) for name in new] == [True] * 4
