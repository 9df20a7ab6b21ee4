"""One entity under EEVDF: placement, deadline, enqueue and dequeue, delayed or not (``fair.c``).

Theory of operation
-------------------
A task keeps its *lag* (:mod:`emulator.kernel.eevdf_tree`) while it sleeps or moves, and no vruntime:
:func:`place_entity` puts it back at that distance from V, farther by as much as its own coming shifts
V.  With its place it gets a *deadline*, one slice of its own virtual time later; a task that is moved
(v6.12) brings along how far its deadline was.  As it runs, its vruntime passes its deadline
(:func:`update_curr`): it gets the next one, and has to give way if there are others.

A task that goes to sleep after having had more than its share would lose its debt if it slept long
enough.  v6.12 leaves it in the queue (*delayed dequeue*): it is counted and competes on, asleep, until
V has caught up and the pick comes upon it (:func:`dequeue_task_eevdf` with DELAYED), or until it is
woken where it is (:func:`requeue_delayed_entity`).

What is the same as in CFS is in :mod:`emulator.kernel.fair_entity`, :mod:`~emulator.kernel.fair_weight`
and :mod:`~emulator.kernel.pelt`, and is used from there.

Departures from the kernel: those of ``eevdf_tree.py`` and ``fair_entity.py``.
"""

from __future__ import annotations

from emulator.kernel.eevdf_tree import (
    avg_vruntime,
    dequeue_entity,
    enqueue_entity,
    entity_eligible,
    entity_lag,
    pick_eevdf,
    truncdiv,
    update_min_vruntime,
)
from emulator.kernel.fair_entity import account_entity_dequeue, account_entity_enqueue
from emulator.kernel.fair_weight import calc_delta, calc_delta_fair
from emulator.kernel.pelt import (
    attach_entity_load_avg,
    update_cfs_rq_load_avg,
    update_load_avg_se,
)
from emulator.kernel.sched import (
    DEQUEUE_DELAYED,
    DEQUEUE_MOVE,
    DEQUEUE_SAVE,
    DEQUEUE_SLEEP,
    DEQUEUE_SPECIAL,
    ENQUEUE_DELAYED,
    ENQUEUE_INITIAL,
    ENQUEUE_MIGRATED,
    NICE_0_LOAD,
    CfsRq,
    Rq,
    Task,
)
from emulator.kernel.util_est import util_est_dequeue, util_est_enqueue
from emulator.tracepoints import PREEMPT_DEADLINE, PREEMPT_INELIGIBLE, TASK_RUNNING

#: What a task may ask for as its slice, ns.
CUSTOM_SLICE_MIN = 100_000
CUSTOM_SLICE_MAX = 100_000_000


# -- Running ---------------------------------------------------------------------------------------


def update_curr(rq: Rq) -> None:
    """Charge the running task; ask it to give way if its deadline has passed (``update_curr()``).

    v6.12 (PREEMPT_SHORT) asks an unprotected task that is not eligible any more, too.  Either is told
    to ``rq.on_preempt``, unless the task is on its way to sleep.
    """
    cfs = rq.cfs
    curr = cfs.curr
    if curr is None:
        return
    now = rq.clock_task
    delta = now - curr.exec_start
    if delta <= 0:
        return
    curr.exec_start = now
    curr.sum_exec_runtime += delta
    if curr.weight == NICE_0_LOAD:
        curr.vruntime += delta
    else:
        curr.vruntime += calc_delta(delta, NICE_0_LOAD, curr.inv_weight)
    overrun = curr.vruntime - curr.deadline
    if overrun >= 0:
        update_deadline(rq, curr)
    update_min_vruntime(cfs)
    if rq.on_runtime is not None:
        rq.on_runtime(curr, delta)
    if cfs.nr_running > 1:
        if overrun >= 0:
            _resched_curr(rq, curr, PREEMPT_DEADLINE, overrun)
        elif did_preempt_short(rq, curr):
            _resched_curr(rq, curr, PREEMPT_INELIGIBLE, 0)


def update_deadline(rq: Rq, p: Task) -> None:
    """Give a task whose deadline has passed the next one (``update_deadline()``)."""
    if not p.custom_slice:
        p.slice = rq.tun.sysctl_base_slice
    p.deadline = p.vruntime + calc_delta_fair(p.slice, p)


def did_preempt_short(rq: Rq, curr: Task) -> bool:
    """Return whether the running task lost its protection and is not eligible (v6.12)."""
    return rq.tun.preempt_short and curr.vlag != curr.deadline and not entity_eligible(rq.cfs, curr)


def _resched_curr(rq: Rq, curr: Task, why: int, overrun: int) -> None:
    cfs = rq.cfs
    if cfs.next is curr:
        cfs.next = None
    if rq.need_resched:
        return
    rq.need_resched = True
    if rq.on_preempt is None or not curr.on_rq or curr.state != TASK_RUNNING:
        return
    p = pick_eevdf(rq)
    vdiff = overrun if why == PREEMPT_DEADLINE else curr.deadline - p.deadline
    rq.on_preempt(p, curr, vdiff, entity_lag(rq, curr, clamped=False), why)


# -- Placement -------------------------------------------------------------------------------------


def place_entity(rq: Rq, p: Task, flags: int) -> None:
    """Place a task that joins the queue by its lag, and set its deadline (``place_entity()``)."""
    cfs = rq.cfs
    tun = rq.tun
    if not p.custom_slice:
        p.slice = tun.sysctl_base_slice
    lag = 0
    if tun.place_lag and cfs.nr_running:
        # Its own weight will pull V towards it, by just so much less is it ahead or behind then.
        load = cfs.avg_load
        curr = cfs.curr
        if curr is not None and curr.on_rq:
            load += curr.weight >> 10
        lag = truncdiv(p.vlag * (load + (p.weight >> 10)), load or 1)
    p.vruntime = avg_vruntime(cfs) - lag
    if p.rel_deadline:
        p.deadline += p.vruntime
        p.rel_deadline = 0
        return
    vslice = calc_delta_fair(p.slice, p)
    if flags & ENQUEUE_INITIAL and tun.place_deadline_initial:
        vslice //= 2
    p.deadline = p.vruntime + vslice


def setparam_fair(p: Task, runtime_ns: int) -> None:
    """Give a task a slice of its own; 0: the base slice again (``__setparam_fair()``, v6.12).

    What is asked for is clamped to 0.1…100 ms.  It holds from the next placement or deadline on.
    """
    p.custom_slice = int(runtime_ns != 0)
    if runtime_ns:
        p.slice = max(CUSTOM_SLICE_MIN, min(runtime_ns, CUSTOM_SLICE_MAX))


# -- Enqueue and dequeue ---------------------------------------------------------------------------


def enqueue_task_eevdf(rq: Rq, p: Task, flags: int) -> None:
    """Make a task runnable on this CPU (``enqueue_task_fair()``, ``enqueue_entity()``).

    With DELAYED: wake a task that is asleep but still queued.  A delayed task that has been moved is
    enqueued like any other and stays delayed.
    """
    if flags & ENQUEUE_DELAYED:
        if rq.tun.util_est:
            util_est_enqueue(rq, p)
        requeue_delayed_entity(rq, p)
        return
    cfs = rq.cfs
    is_curr = cfs.curr is p
    assert not p.on_rq, f"{p.comm}/{p.pid} is queued already"
    if rq.tun.util_est and not p.sched_delayed:
        util_est_enqueue(rq, p)
    if rq.rules.eevdf_fork_twice:
        flags &= ~ENQUEUE_INITIAL
    if is_curr:
        place_entity(rq, p, flags)
    update_curr(rq)
    # The past interval ages as blocked: the task does not count as queued yet.
    if p.avg.last_update_time:
        update_load_avg_se(p, rq.clock_task, is_curr)
        update_cfs_rq_load_avg(cfs, rq.clock_task)
    else:
        update_cfs_rq_load_avg(cfs, rq.clock_task)
        attach_entity_load_avg(cfs, p)
    if not is_curr:
        place_entity(rq, p, flags)
    account_entity_enqueue(cfs, p)
    if flags & ENQUEUE_MIGRATED and rq.rules.exec_start_at_enqueue:
        p.exec_start = 0  # a task that has moved cannot be cache hot
    if not is_curr:
        enqueue_entity(cfs, p)
    p.on_rq = 1
    rq.nr_running += 1


def dequeue_task_eevdf(rq: Rq, p: Task, flags: int) -> None:
    """Take a task off this CPU's queue (``dequeue_task_fair()``, ``dequeue_entity()``).

    With SLEEP a task that is not eligible stays, delayed (DELAY_DEQUEUE), unless its state allows no
    spurious wakeup (SPECIAL); SLEEP | DELAYED takes such a one off.
    """
    cfs = rq.cfs
    is_curr = cfs.curr is p
    was_delayed = p.sched_delayed
    sleep = bool(flags & DEQUEUE_SLEEP)
    assert p.on_rq, f"{p.comm}/{p.pid} is not queued"
    update_curr(rq)
    if flags & DEQUEUE_DELAYED:
        assert was_delayed, f"{p.comm}/{p.pid} is not delayed"
    elif sleep:
        assert not was_delayed, f"{p.comm}/{p.pid} sleeps already"
        if rq.tun.delay_dequeue and not flags & DEQUEUE_SPECIAL and not entity_eligible(cfs, p):
            _delay(rq, p, is_curr)
            return
    _update_load_avg(rq, p, is_curr)
    if cfs.next is p:
        cfs.next = None
    p.vlag = entity_lag(rq, p)
    if rq.tun.place_rel_deadline and not sleep:
        p.deadline -= p.vruntime
        p.rel_deadline = 1
    if not is_curr:
        dequeue_entity(cfs, p)
    p.on_rq = 0
    account_entity_dequeue(cfs, p)
    if flags & (DEQUEUE_SAVE | DEQUEUE_MOVE) != DEQUEUE_SAVE:
        update_min_vruntime(cfs)
    if flags & DEQUEUE_DELAYED:
        p.sched_delayed = 0
        if rq.tun.delay_zero and p.vlag > 0:
            p.vlag = 0  # it has slept off its debt, and gains nothing by it
    rq.nr_running -= 1
    if rq.tun.util_est and not was_delayed:
        util_est_dequeue(rq, p, sleep)


def _delay(rq: Rq, p: Task, is_curr: bool) -> None:
    # It stays queued and goes on counting as such; only its utilisation is no longer expected.
    cfs = rq.cfs
    if cfs.next is p:
        cfs.next = None
    _update_load_avg(rq, p, is_curr)
    p.sched_delayed = 1
    if rq.tun.util_est:
        util_est_dequeue(rq, p, True)


def requeue_delayed_entity(rq: Rq, p: Task) -> None:
    """Wake a delayed task where it is (``requeue_delayed_entity()``, v6.12).

    With DELAY_ZERO one that has slept off its debt, and more, is placed anew, at V.
    """
    cfs = rq.cfs
    assert p.sched_delayed, f"{p.comm}/{p.pid} is not delayed"
    assert p.on_rq, f"{p.comm}/{p.pid} is delayed, but not queued"
    assert cfs.curr is not p, f"{p.comm}/{p.pid} runs in its sleep"
    if rq.tun.delay_zero:
        p.vlag = entity_lag(rq, p)
        if p.vlag > 0:
            cfs.nr_running -= 1
            dequeue_entity(cfs, p)
            p.vlag = 0
            place_entity(rq, p, 0)
            enqueue_entity(cfs, p)
            cfs.nr_running += 1
    _update_load_avg(rq, p, False)
    p.sched_delayed = 0


def _update_load_avg(rq: Rq, p: Task, is_curr: bool) -> None:
    update_load_avg_se(p, rq.clock_task, is_curr)
    update_cfs_rq_load_avg(rq.cfs, rq.clock_task)


# -- Next buddy ------------------------------------------------------------------------------------


def clear_buddies(cfs: CfsRq, p: Task) -> None:
    """Forget that a task is the next buddy (``clear_buddies()``)."""
    if cfs.next is p:
        cfs.next = None
