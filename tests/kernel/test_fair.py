"""The fair class: the worked examples of the spec and the rules between them."""

from __future__ import annotations

import msgpack
import pytest

from emulator.kernel import fair
from emulator.kernel.fair_weight import SCHED_PRIO_TO_WEIGHT, SCHED_PRIO_TO_WMULT, update_inv_weight
from emulator.kernel.sched import (
    DEQUEUE_SAVE,
    DEQUEUE_SLEEP,
    ENQUEUE_MIGRATED,
    ENQUEUE_WAKEUP,
    RQCF_REQ_SKIP,
    SCHED_BATCH,
    SCHED_IDLE,
    WF_FORK,
    Rq,
    Task,
    Tunables,
)
from emulator.tracepoints import (
    PREEMPT_IDLE_POLICY,
    PREEMPT_NO_GRANULARITY,
    PREEMPT_TICK_SLICE,
    PREEMPT_TICK_VRUNTIME,
    PREEMPT_WAKEUP,
)

MS = 1_000_000


def make_rq(nr_online: int = 8, cpu: int = 0) -> Rq:
    tun = Tunables()
    fair.update_sysctl(tun, nr_online)
    return Rq(cpu, tun, fair.FAIR_SCHED_CLASS)


def tune(tun: Tunables) -> None:
    """The thread's tuning."""
    fair.sched_proc_update_handler(tun, "kernel.sched_min_granularity_ns", 10 * MS)
    fair.sched_proc_update_handler(tun, "kernel.sched_wakeup_granularity_ns", 15 * MS)


def make_task(pid: int, nice: int = 0, policy: int = 0) -> Task:
    p = Task(pid, f"task{pid}", nice)
    p.policy = policy
    fair.set_load_weight(p)
    fair.init_entity_runnable_average(p)
    return p


def queue(rq: Rq, *tasks: Task) -> None:
    """Start tasks on a runqueue."""
    for p in tasks:
        fair.post_init_entity_util_avg(rq, p)
        fair.enqueue_task_fair(rq, p, 0)


def queue_nices(rq: Rq, *nices: int) -> list[Task]:
    tasks = [make_task(pid, nice) for pid, nice in enumerate(nices, 1)]
    queue(rq, *tasks)
    return tasks


def switch(rq: Rq) -> Task:
    """``schedule()`` of a task that is still runnable, or of the idle task."""
    rq.need_resched = False
    following = fair.pick_next_task_fair(rq, rq.curr)
    assert following is not None
    rq.curr = following
    return following


def block(rq: Rq) -> None:
    """``schedule()`` of a task that sleeps: pick another, or go idle."""
    prev = rq.curr
    fair.dequeue_task_fair(rq, prev, DEQUEUE_SLEEP)
    rq.need_resched = False
    following = fair.pick_next_task_fair(rq, prev)
    if following is None:
        fair.put_prev_task_fair(rq, prev)
        following = rq.idle
    rq.curr = following


def running(rq: Rq, p: Task, vruntime: int) -> None:
    """Make ``p`` the only task, running, with ``vruntime`` as min_vruntime too."""
    queue(rq, p)
    switch(rq)
    assert rq.curr is p
    p.vruntime = vruntime
    rq.cfs.min_vruntime = vruntime


def asleep(rq: Rq, p: Task, vruntime: int) -> None:
    """Give a task the state of one that went to sleep here with this vruntime."""
    fair.post_init_entity_util_avg(rq, p)
    p.vruntime = vruntime


def wake(rq: Rq, p: Task, now_ns: int) -> int:
    fair.update_rq_clock(rq, now_ns)
    fair.enqueue_task_fair(rq, p, ENQUEUE_WAKEUP)
    return fair.check_preempt_wakeup(rq, p, 0)


def tick(rq: Rq, now_ns: int) -> int:
    fair.update_rq_clock(rq, now_ns)
    return fair.task_tick_fair(rq, rq.curr)


# -- A.1 to A.4 ------------------------------------------------------------------------------------


def test_example_A_1_inverses_differ_from_the_table_where_the_spec_says() -> None:
    odd = {
        nice
        for nice in range(-20, 20)
        if update_inv_weight(SCHED_PRIO_TO_WEIGHT[nice + 20] << 10)
        != SCHED_PRIO_TO_WMULT[nice + 20]
    }
    assert odd == {-18, -17, -8, -7, -4, -2, -1, 0, 1, 2, 4, 5, 6, 12}


def test_inverse_of_extreme_weights() -> None:
    assert update_inv_weight(0) == 0xFFFFFFFF
    assert update_inv_weight(0xFFFFFFFF << 10) == 1


@pytest.mark.parametrize(
    ("nice", "expected"),
    [
        (-20, 11_536),
        (-10, 107_247),
        (-5, 328_099),
        (-1, 801_879),
        (0, 1_000_000),
        (1, 1_248_780),
        (5, 3_056_716),
        (10, 9_309_090),
        (19, 68_266_666),
    ],
)
def test_example_A_13_1_calc_delta_fair(nice: int, expected: int) -> None:
    assert fair.calc_delta_fair(MS, make_task(1, nice)) == expected


def test_example_A_13_1_calc_delta_fair_idle_policy() -> None:
    assert fair.calc_delta_fair(MS, make_task(1, 0, SCHED_IDLE)) == 341_333_333


@pytest.mark.parametrize(
    ("nices", "period", "first", "last"),
    [
        ((0, 0), 24, 11_999_994, 11_999_994),
        ((0, 0, 0), 24, 7_999_998, 7_999_998),
        ((0, 0, 0, 0), 24, 5_999_994, 5_999_994),
        ((0,) * 8, 24, 2_999_994, 2_999_994),
        ((0,) * 9, 27, 2_999_994, 2_999_994),
        ((0, 0, -5), 24, 4_754_493, 14_490_991),
        ((0, 5), 24, 18_083_885, 5_916_114),
        ((0, 19), 24, 23_653_512, 346_487),
        ((0, -20), 24, 273_719, 23_726_212),
    ],
)
def test_example_A_13_2_slices(nices: tuple[int, ...], period: int, first: int, last: int) -> None:
    rq = make_rq()
    tasks = queue_nices(rq, *nices)
    assert fair.sched_slice(rq, tasks[0]) == first
    assert fair.sched_slice(rq, tasks[-1]) == last
    used = max(24 * MS, len(nices) * 3 * MS)
    assert used == period * MS


@pytest.mark.parametrize(
    ("nices", "first", "last"),
    [
        ((0, 0), 11_999_994, 11_999_994),
        ((0, 0, -5), 4_754_493, 4_754_493),
        ((0, 5), 18_083_885, 18_083_882),
    ],
)
def test_example_A_13_2_vslices(nices: tuple[int, ...], first: int, last: int) -> None:
    rq = make_rq()
    tasks = queue_nices(rq, *nices)
    assert fair.sched_vslice(rq, tasks[0]) == first
    assert fair.sched_vslice(rq, tasks[-1]) == last


def test_example_A_13_2_four_cpus() -> None:
    rq = make_rq(4)
    assert fair.sched_slice(rq, queue_nices(rq, 0, 0)[0]) == 8_999_995


# -- A.5 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slept_at", "placed"), [(70_000_000, 88_000_000), (95_000_000, 95_000_000)]
)
def test_example_A_13_3_wake_placement(slept_at: int, placed: int) -> None:
    rq = make_rq()
    rq.cfs.min_vruntime = 100_000_000
    p = make_task(1)
    asleep(rq, p, slept_at)
    fair.enqueue_task_fair(rq, p, ENQUEUE_WAKEUP)
    assert p.vruntime == placed


def test_wake_placement_without_gentle_sleepers() -> None:
    rq = make_rq()
    rq.tun.gentle_fair_sleepers = False
    rq.cfs.min_vruntime = 100_000_000
    p = make_task(1)
    asleep(rq, p, 70_000_000)
    fair.enqueue_task_fair(rq, p, ENQUEUE_WAKEUP)
    assert p.vruntime == 76_000_000


def test_example_A_13_3_fork() -> None:
    rq, other = make_rq(cpu=0), make_rq(cpu=1)
    parent, child = make_task(1), make_task(2)
    running(rq, parent, 100_000_000)
    fair.task_fork_fair(rq, parent, child)
    assert child.vruntime == 11_999_994
    other.cfs.min_vruntime = 500_000_000
    queue(other, child)
    assert child.vruntime == 511_999_994


def test_fork_with_child_runs_first_swaps_the_two() -> None:
    rq = make_rq()
    rq.tun.child_runs_first = 1
    parent, child = make_task(1), make_task(2)
    running(rq, parent, 100_000_000)
    fair.task_fork_fair(rq, parent, child)
    assert (child.vruntime, parent.vruntime) == (0, 111_999_994)
    assert rq.need_resched


def test_fork_by_nobody_starts_at_the_queue_s_vruntime() -> None:
    rq = make_rq()
    rq.cfs.min_vruntime = 50_000_000
    child = make_task(1)
    rq.tun.start_debit = False
    fair.task_fork_fair(rq, None, child)
    assert child.vruntime == 0


def test_example_A_13_7_normalisation() -> None:
    source, target = make_rq(cpu=0), make_rq(cpu=1)
    t, k = make_task(1), make_task(2)
    running(source, t, 1_010_000_000)
    source.cfs.min_vruntime = 1_003_200_000
    asleep(source, k, 991_200_000)
    fair.enqueue_task_fair(source, k, ENQUEUE_WAKEUP)
    source.cfs.next = k
    assert switch(source) is k
    fair.dequeue_task_fair(source, t, 0)
    assert t.vruntime == 6_800_000
    assert source.cfs.min_vruntime == 1_003_200_000
    fair.migrate_task_rq_fair(source, t, False)
    target.cfs.min_vruntime = 500_000_000
    fair.enqueue_task_fair(target, t, 0)
    assert t.vruntime == 506_800_000


def test_wakeup_migration_normalises_with_the_old_queue_s_min_vruntime() -> None:
    old, new = make_rq(cpu=0), make_rq(cpu=1)
    p = make_task(1)
    asleep(old, p, 95_000_000)
    old.cfs.min_vruntime = 100_000_000
    new.cfs.min_vruntime = 500_000_000
    fair.migrate_task_rq_fair(old, p, True)
    assert p.vruntime == -5_000_000
    fair.enqueue_task_fair(new, p, ENQUEUE_WAKEUP | ENQUEUE_MIGRATED)
    assert p.vruntime == 495_000_000


def test_update_curr_reports_the_runtime() -> None:
    rq = make_rq()
    p = make_task(1, nice=5)
    running(rq, p, 0)
    told: list[tuple[int, int, int]] = []
    rq.on_runtime = lambda task, delta: told.append((task.pid, delta, task.vruntime))
    fair.update_rq_clock(rq, MS)
    fair.update_curr(rq)
    fair.update_curr(rq)
    assert told == [(1, MS, 3_056_716)]
    assert rq.cfs.min_vruntime == 3_056_716
    assert p.sum_exec_runtime == MS


def test_dequeue_with_save_leaves_min_vruntime() -> None:
    rq = make_rq()
    first, second = queue_nices(rq, 0, 0)
    first.vruntime, second.vruntime = 10 * MS, 20 * MS
    rq.cfs.tree = [(p.vruntime, p.tree_order, p) for p in (first, second)]
    rq.cfs.min_vruntime = 5 * MS
    fair.dequeue_task_fair(rq, first, DEQUEUE_SAVE)
    assert rq.cfs.min_vruntime == 5 * MS
    fair.enqueue_task_fair(rq, first, 0)
    fair.dequeue_task_fair(rq, first, 0)
    assert rq.cfs.min_vruntime == 20 * MS


def test_equal_vruntimes_run_first_in_first_out() -> None:
    rq = make_rq()
    tasks = queue_nices(rq, 0, 0, 0)
    assert [p for _, _, p in rq.cfs.tree] == tasks
    assert switch(rq) is tasks[0]
    # It has not run, so it goes back behind its equals.
    fair.put_prev_task_fair(rq, tasks[0])
    rq.curr = rq.idle
    assert switch(rq) is tasks[1]


def test_cfs_tasks_enqueue_and_pick_move_to_the_head() -> None:
    rq = make_rq()
    a, b, c = queue_nices(rq, 0, 0, 0)
    assert rq.cfs.cfs_tasks == [c, b, a]
    switch(rq)
    assert rq.cfs.cfs_tasks == [a, c, b], "the tail is the least recently picked"


# -- A.7 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wakeup_gran", "nice", "gran", "answer"),
    [
        (4, 0, 4_000_000, 1),
        (4, -5, 1_312_399, 1),
        (4, 5, 12_226_865, 0),
        (15, 0, 15_000_000, 0),
        (15, -5, 4_921_499, 1),
        (15, -20, 173_048, 1),
    ],
)
def test_example_A_13_4_wakeup_preemption(
    wakeup_gran: int, nice: int, gran: int, answer: int
) -> None:
    rq = make_rq()
    rq.tun.wakeup_granularity = wakeup_gran * MS
    curr, wakee = make_task(1), make_task(2, nice)
    running(rq, curr, 100_000_000)
    asleep(rq, wakee, 0)
    why = wake(rq, wakee, 0)
    assert wakee.vruntime == 88_000_000
    assert (rq.preempt_vdiff, rq.preempt_gran) == (12_000_000, gran)
    assert why == (PREEMPT_WAKEUP if answer else PREEMPT_NO_GRANULARITY)
    assert rq.need_resched is (answer == 1)
    assert fair.wakeup_preempt_entity(rq, curr, wakee) == answer
    assert fair.wakeup_preempt_entity(rq, wakee, curr) == -1


def thread_case(nr_online: int = 8, tuned: bool = True) -> tuple[Rq, Task, Task]:
    """A hog T picked at 0 with vruntime 1e9, and a kworker K long asleep on the same CPU."""
    rq = make_rq(nr_online)
    if tuned:
        tune(rq.tun)
    t, k = make_task(1), make_task(2)
    asleep(rq, k, 900_000_000)
    running(rq, t, 1_000_000_000)
    return rq, t, k


@pytest.mark.parametrize(("tick_ms", "fires_at"), [(1, 10), (4, 12)])
def test_example_A_13_5_thread_tuned(tick_ms: int, fires_at: int) -> None:
    rq, t, k = thread_case()
    assert rq.tun.nr_latency == 3
    answers: dict[int, int] = {}
    for ms in range(1, fires_at + 1):
        if ms == 4:
            assert wake(rq, k, 3_200_000) == PREEMPT_NO_GRANULARITY
            assert (rq.cfs.min_vruntime, k.vruntime) == (1_003_200_000, 991_200_000)
        if ms % tick_ms == 0:
            answers[ms] = tick(rq, ms * MS)
    last = answers.pop(fires_at)
    assert set(answers.values()) == {fair.NO_PREEMPT}
    assert last == (PREEMPT_TICK_VRUNTIME if tick_ms == 1 else PREEMPT_TICK_SLICE)
    if tick_ms == 1:
        assert (rq.preempt_vdiff, rq.preempt_gran) == (18_800_000, 11_999_994)
    assert rq.need_resched
    assert switch(rq) is k
    assert t.vruntime == 1_000_000_000 + fires_at * MS


def test_example_A_13_5_window_starts_at_the_switch() -> None:
    rq, _t, k = thread_case()
    for ms in range(1, 21):
        tick(rq, ms * MS)
    assert wake(rq, k, 20_100_000) == PREEMPT_NO_GRANULARITY
    assert tick(rq, 21 * MS) == PREEMPT_TICK_SLICE, "T has had its window alone"


def test_example_A_13_6_thread_default() -> None:
    rq, _t, k = thread_case(tuned=False)
    assert wake(rq, k, 3_200_000) == PREEMPT_WAKEUP
    assert (rq.cfs.next, rq.cfs.last) == (k, None)
    assert switch(rq) is k
    assert rq.cfs.next is None


@pytest.mark.parametrize(("gran_ms", "preempts"), [(3, True), (6, True), (15, False), (30, False)])
def test_example_A_13_6_four_cpus_credit_is_9_ms(gran_ms: int, preempts: bool) -> None:
    rq, _t, k = thread_case(4, tuned=False)
    rq.tun.wakeup_granularity = gran_ms * MS
    assert (wake(rq, k, 3_200_000) == PREEMPT_WAKEUP) is preempts
    assert rq.preempt_vdiff == 9 * MS


def test_example_A_13_6_four_cpus_tuned_ticks() -> None:
    rq, t, k = thread_case(4)
    assert rq.tun.nr_latency == 2
    wake(rq, k, 100_000)
    assert fair.sched_slice(rq, t) == 8_999_995
    assert [tick(rq, ms * MS) for ms in (4, 8)] == [fair.NO_PREEMPT] * 2
    assert tick(rq, 12 * MS) == PREEMPT_TICK_SLICE


@pytest.mark.parametrize(("after_ms", "preempts"), [(5.9, False), (6.1, True)])
def test_example_A_13_6_second_sleeper(after_ms: float, preempts: bool) -> None:
    rq, t, k = thread_case(4)
    m = make_task(3)
    asleep(rq, m, 900_000_000)
    wake(rq, k, 1 * MS)
    behind = rq.cfs.min_vruntime
    assert (wake(rq, m, MS + int(after_ms * MS)) == PREEMPT_WAKEUP) is preempts
    assert rq.cfs.min_vruntime == behind, "it stands still while K waits"
    assert rq.preempt_vdiff == 9 * MS + int(after_ms * MS)
    if preempts:
        assert switch(rq) is m
        block(rq)
        assert rq.curr is k
        assert t.on_rq


def test_wakeup_of_equal_or_behind_compares_but_says_no() -> None:
    rq = make_rq()
    curr, p = make_task(1), make_task(2)
    running(rq, curr, 100_000_000)
    asleep(rq, p, 105_000_000)
    assert wake(rq, p, 0) == fair.NO_PREEMPT
    assert (rq.preempt_vdiff, rq.preempt_gran) == (-5_000_000, 4_000_000)


def test_exactly_the_granularity_ahead_does_not_preempt() -> None:
    rq, _t, k = thread_case(tuned=False)
    rq.tun.wakeup_granularity = 12 * MS
    assert wake(rq, k, 3_200_000) == PREEMPT_NO_GRANULARITY
    assert rq.preempt_vdiff == rq.preempt_gran == 12 * MS


def test_no_second_test_while_a_reschedule_is_due() -> None:
    rq, _t, k = thread_case(tuned=False)
    rq.need_resched = True
    assert wake(rq, k, 3_200_000) == fair.NO_PREEMPT
    assert rq.cfs.next is None


def test_batch_and_idle_policy_wakees_do_not_preempt() -> None:
    for policy in (SCHED_BATCH, SCHED_IDLE):
        rq, _t, k = thread_case(tuned=False)
        k.policy = policy
        assert wake(rq, k, 3_200_000) == fair.NO_PREEMPT
        assert not rq.need_resched


def test_idle_policy_is_preempted_at_once() -> None:
    rq = make_rq()
    curr, p = make_task(1, policy=SCHED_IDLE), make_task(2, nice=19)
    running(rq, curr, 0)
    asleep(rq, p, 0)
    assert fair.sched_idle_cpu(rq)
    assert wake(rq, p, 0) == PREEMPT_IDLE_POLICY
    assert not fair.sched_idle_cpu(rq)
    assert rq.need_resched
    assert rq.cfs.idle_h_nr_running == 1


def test_wakeup_preemption_off() -> None:
    rq, _t, k = thread_case(tuned=False)
    fair.sched_feat_set(rq.tun, "WAKEUP_PREEMPTION", False)
    assert wake(rq, k, 3_200_000) == fair.NO_PREEMPT


def test_crowded_queue_marks_the_preempted_task_as_last_buddy() -> None:
    rq = make_rq()
    tasks = queue_nices(rq, *(0,) * 7)
    t = switch(rq)
    k = make_task(9)
    asleep(rq, k, -100 * MS)
    assert wake(rq, k, MS) == PREEMPT_WAKEUP
    assert (rq.cfs.next, rq.cfs.last) == (k, t)
    assert switch(rq) is k
    assert fair.task_hot(rq, t, 10 * MS, 1), "buddies count as cache hot"
    assert not fair.task_hot(rq, t, 10 * MS, 0)
    # T goes on although others are owed a little more.
    assert rq.cfs.tree[0][2] is not t
    block(rq)
    assert rq.curr is t
    assert len(tasks) == rq.cfs.nr_running


def test_next_buddy_feature_marks_a_wakee_that_does_not_preempt() -> None:
    rq, _t, k = thread_case()
    fair.sched_feat_set(rq.tun, "NEXT_BUDDY", True)
    rq.tun.nr_latency = 2
    fair.enqueue_task_fair(rq, k, ENQUEUE_WAKEUP)
    assert fair.check_preempt_wakeup(rq, k, WF_FORK) == PREEMPT_NO_GRANULARITY
    assert rq.cfs.next is None
    assert fair.check_preempt_wakeup(rq, k, 0) == PREEMPT_NO_GRANULARITY
    assert rq.cfs.next is k


# -- A.6, A.8 --------------------------------------------------------------------------------------


def test_picking_the_same_task_does_not_restart_its_window() -> None:
    rq, t, _k = thread_case()
    fair.update_rq_clock(rq, 5 * MS)
    assert switch(rq) is t
    assert t.sum_exec_runtime - t.prev_sum_exec_runtime == 5 * MS


def test_the_class_walk_restarts_the_window_even_of_the_same_task() -> None:
    rq, t, _k = thread_case()
    fair.update_rq_clock(rq, 5 * MS)
    fair.put_prev_task_fair(rq, t)
    assert rq.cfs.curr is None
    assert fair.pick_next_task_fair(rq, None) is t
    assert t.sum_exec_runtime == t.prev_sum_exec_runtime == 5 * MS


def test_next_buddy_wins_over_last_buddy() -> None:
    rq = make_rq()
    a, b, c = queue_nices(rq, 0, 0, 0)
    rq.cfs.next, rq.cfs.last = c, b
    assert switch(rq) is c
    assert rq.cfs.last is b
    assert a.on_rq


def test_a_buddy_too_far_from_the_leftmost_is_passed_over() -> None:
    rq = make_rq()
    a, b = queue_nices(rq, 0, 0)
    fair.dequeue_task_fair(rq, b, DEQUEUE_SLEEP)
    b.vruntime = a.vruntime + 4 * MS + 1
    rq.cfs.min_vruntime = a.vruntime
    fair.enqueue_task_fair(rq, b, ENQUEUE_WAKEUP)
    rq.cfs.next = b
    assert switch(rq) is a
    assert rq.cfs.next is b, "it is not cleared by another's pick"


def test_slice_expiry_clears_the_buddies_of_curr() -> None:
    rq, t, k = thread_case()
    wake(rq, k, MS)
    fair.set_next_buddy(rq.cfs, t)
    assert tick(rq, 13 * MS) == PREEMPT_TICK_SLICE
    assert rq.cfs.next is None
    assert switch(rq) is k


def test_a_lone_task_has_no_tick_test() -> None:
    rq, _t, _k = thread_case()
    assert tick(rq, 500 * MS) == fair.NO_PREEMPT


def test_empty_queue_gives_none_and_leaves_prev_to_the_caller() -> None:
    rq, t, _k = thread_case()
    fair.update_rq_clock(rq, MS)
    fair.dequeue_task_fair(rq, t, DEQUEUE_SLEEP)
    assert fair.pick_next_task_fair(rq, t) is None
    # It is still current, so this does not fail.
    fair.put_prev_task_fair(rq, t)
    assert rq.cfs.curr is None
    assert rq.cfs.tree == []


# -- A.9 -------------------------------------------------------------------------------------------


def test_yield_skips_only_within_the_granularity() -> None:
    for distance, yields in ((4 * MS, True), (4 * MS + 1, False)):
        rq, t, k = thread_case(tuned=False)
        k.vruntime = t.vruntime + distance
        fair.enqueue_task_fair(rq, k, ENQUEUE_WAKEUP)
        fair.yield_task_fair(rq)
        assert rq.cfs.skip is t
        assert rq.skip_clock_update == RQCF_REQ_SKIP
        assert switch(rq) is (k if yields else t)
        assert t.vruntime == 1_000_000_000


def test_yield_of_a_lone_task_does_nothing() -> None:
    rq, _t, _k = thread_case()
    fair.yield_task_fair(rq)
    assert rq.cfs.skip is None
    assert rq.skip_clock_update == 0


def test_yield_to_prefers_the_named_task() -> None:
    rq = make_rq()
    a, b, c = queue_nices(rq, 0, 0, 0)
    assert switch(rq) is a
    assert fair.yield_to_task_fair(rq, c)
    assert switch(rq) is c
    fair.dequeue_task_fair(rq, b, DEQUEUE_SLEEP)
    assert not fair.yield_to_task_fair(rq, b)


def test_renice_keeps_the_place_and_rescales_the_load() -> None:
    rq = make_rq()
    a, b = queue_nices(rq, 0, 0)
    switch(rq)
    assert rq.curr is a
    place = b.vruntime
    fair.set_user_nice(rq, b, 5)
    assert (b.nice, b.prio, b.vruntime, b.weight) == (5, 125, place, 335 << 10)
    assert not rq.need_resched, "it waits and became less important"
    assert rq.cfs.load_weight == (1024 + 335) << 10
    assert b.avg.load_avg == 335
    assert rq.cfs.avg.runnable_avg == 1024 + 335
    fair.set_user_nice(rq, b, -5)
    assert rq.need_resched


def test_renice_of_the_running_task_restarts_its_window() -> None:
    rq, t, _k = thread_case()
    fair.update_rq_clock(rq, 5 * MS)
    fair.set_user_nice(rq, t, 1)
    assert rq.cfs.curr is t
    assert t.prev_sum_exec_runtime == t.sum_exec_runtime == 5 * MS
    assert rq.need_resched
    assert rq.cfs.tree == []
    fair.set_user_nice(rq, t, 40)
    assert t.nice == 1


def test_reweight_of_a_queued_task_keeps_the_books() -> None:
    rq = make_rq()
    a, b = queue_nices(rq, 0, 0)
    fair.reweight_task(rq, b, 10)
    assert rq.cfs.load_weight == a.weight + b.weight
    assert rq.cfs.avg.runnable_avg == 1024 + 110


# -- A.11 ------------------------------------------------------------------------------------------


def test_task_hot() -> None:
    rq, t, _k = thread_case()
    t.exec_start = 10 * MS
    assert fair.task_hot(rq, t, 10 * MS + 499_999, 0)
    assert not fair.task_hot(rq, t, 10 * MS + 500_000, 0)
    rq.tun.migration_cost = 0
    assert not fair.task_hot(rq, t, 10 * MS, 0)
    rq.tun.migration_cost = -1
    assert fair.task_hot(rq, t, 900 * MS, 0)
    t.policy = SCHED_IDLE
    assert not fair.task_hot(rq, t, 10 * MS, 0)


# -- Class changes, clock, packing -----------------------------------------------------------------


def test_a_sleeper_that_leaves_the_class_takes_no_credit_along() -> None:
    rq = make_rq()
    p = make_task(1)
    asleep(rq, p, 0)
    rq.cfs.min_vruntime = 100_000_000
    fair.detach_task_cfs_rq(rq, p, normalized=False)
    assert p.vruntime == -12_000_000
    assert rq.cfs.avg.load_avg == 0
    fair.attach_task_cfs_rq(rq, p, normalized=False)
    assert p.vruntime == 88_000_000
    assert rq.cfs.avg.load_avg == 1024


def test_a_requested_skip_holds_for_one_schedule_only() -> None:
    rq = make_rq()
    fair.update_rq_clock(rq, 100)
    fair.rq_clock_skip_update(rq)
    fair.update_rq_clock(rq, 200)
    assert rq.clock == 200, "a tick in between is not skipped"
    rq.skip_clock_update <<= 1
    fair.update_rq_clock(rq, 300)
    assert rq.clock == 200
    rq.skip_clock_update = 0
    fair.update_rq_clock(rq, 400)
    assert (rq.clock, rq.clock_task) == (400, 400)
    fair.update_rq_clock(rq, 300)
    assert rq.clock == 400


def test_pack_is_exact() -> None:
    rq, t, k = thread_case()
    wake(rq, k, 3_200_000)
    tick(rq, 4 * MS)
    rq.cfs.last = t
    packed = rq.pack()
    tasks_packed = [p.pack_se() for p in (t, k)]
    wire = msgpack.unpackb(msgpack.packb([packed, tasks_packed]))
    tasks = {data[0]: Task(data[0], data[1]) for data in wire[1]}
    for data in wire[1]:
        tasks[data[0]].unpack_se(data)
    twin = make_rq()
    twin.unpack(wire[0], tasks)
    assert twin.pack() == packed
    assert [tasks[p.pid].pack_se() for p in (t, k)] == tasks_packed
    assert twin.curr is tasks[1]
    assert twin.cfs.tree[0][2] is tasks[2]
    twin.tun.unpack(rq.tun.pack())
    for queue_ in (rq, twin):
        tick(queue_, 10 * MS)
        switch(queue_)
    assert twin.pack() == rq.pack()


def test_pack_of_an_idle_queue() -> None:
    rq = make_rq(cpu=3)
    twin = make_rq(cpu=0)
    twin.unpack(msgpack.unpackb(msgpack.packb(rq.pack())), {})
    assert twin.curr is twin.idle
    assert twin.idle.comm == "swapper/3"
    assert twin.pack() == rq.pack()
