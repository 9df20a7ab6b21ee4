"""The fair class as EEVDF: ``kernel/sched/fair.c``, v6.6 and v6.12, balancing left out.

Theory of operation
-------------------
Earliest eligible virtual deadline first: of the tasks that have not had more than their share, the
one whose slice is due first runs (:mod:`emulator.kernel.eevdf_tree`).  Who runs is decided where the
running task's time is charged (:func:`~emulator.kernel.eevdf_entity.update_curr`: its deadline has
passed), when somebody wakes (:func:`check_preempt_wakeup_eevdf`), and in ``schedule()``
(:func:`pick_next_task_eevdf`).  The tick only charges.

*Protection* (RUN_TO_PARITY): a task that is switched to keeps a copy of its deadline in ``vlag``,
which nothing else needs while it runs.  As long as the two agree it is not preempted while it is
eligible.  They agree until its deadline moves on, or until a task with a shorter slice takes the
protection away (PREEMPT_SHORT).

Which rule came when: ``eevdf_fork_twice``, ``eevdf_pick_alone``, ``eevdf_tie_to_tree``,
``eevdf_reweight_clamped`` and ``custom_slice`` of :mod:`emulator.rules`; the rest are sched features.

Departures from the kernel
--------------------------
* Those of ``eevdf_tree.py``, ``eevdf_entity.py`` and ``fair.py``.
* A queued task is reniced in its place, by the formula of ``reweight_eevdf()`` (E.8).  The kernel's
  ``set_user_nice()`` takes it out first, so that its clamped lag is scaled and it is placed again:
  the same place but for the rounding, with a whole slice as its deadline in v6.6, and the old distance
  in v6.12.
* WAKEUP_PREEMPTION off leaves the preemption of idle-policy tasks on, as v6.6 does; v6.12 does not.
"""

from __future__ import annotations

from emulator.kernel.eevdf_entity import (
    clear_buddies,
    dequeue_task_eevdf,
    enqueue_task_eevdf,
    place_entity,
    setparam_fair,
    update_curr,
)
from emulator.kernel.eevdf_tree import (
    avg_vruntime,
    dequeue_entity,
    enqueue_entity,
    entity_eligible,
    entity_lag,
    lag_limit,
    pick_eevdf,
    truncdiv,
    update_min_vruntime,
)
from emulator.kernel.fair import NO_PREEMPT, task_dead_fair
from emulator.kernel.fair_entity import (
    move_to_head,
    resched_curr,
    rq_clock_skip_update,
    set_next_buddy,
)
from emulator.kernel.fair_weight import calc_delta_fair, set_load_weight
from emulator.kernel.pelt import (
    DIVIDER,
    dequeue_load_avg,
    detach_entity_cfs_rq,
    enqueue_load_avg,
    init_entity_runnable_average,
    remove_entity_load_avg,
    update_cfs_rq_load_avg,
    update_load_avg_se,
)
from emulator.kernel.sched import (
    DEQUEUE_DELAYED,
    DEQUEUE_SLEEP,
    ENQUEUE_INITIAL,
    FAIR_CLASS,
    SCHED_IDLE,
    SCHED_NORMAL,
    WF_FORK,
    Rq,
    SchedClass,
    Task,
)
from emulator.tracepoints import (
    PREEMPT_IDLE_POLICY,
    PREEMPT_LATER_DEADLINE,
    PREEMPT_NOT_ELIGIBLE,
    PREEMPT_PICKED,
    PREEMPT_PROTECTED,
    PREEMPT_SHORT_SLICE,
)

__all__ = [
    "EEVDF_SCHED_CLASS",
    "avg_vruntime",
    "check_preempt_wakeup_eevdf",
    "dequeue_task_eevdf",
    "enqueue_task_eevdf",
    "entity_eligible",
    "entity_lag",
    "lag_limit",
    "migrate_task_rq_eevdf",
    "pick_eevdf",
    "pick_next_task_eevdf",
    "place_entity",
    "put_prev_task_eevdf",
    "reweight_task",
    "set_next_task_eevdf",
    "set_user_nice",
    "setparam_fair",
    "task_fork_eevdf",
    "task_tick_eevdf",
    "update_curr",
    "yield_task_eevdf",
    "yield_to_task_eevdf",
]

# -- Preemption ------------------------------------------------------------------------------------


def check_preempt_wakeup_eevdf(rq: Rq, p: Task, wake_flags: int) -> int:
    """Preempt the running task if ``p``, just queued, is who would be picked now.

    Return PREEMPT_PICKED, PREEMPT_SHORT_SLICE or PREEMPT_IDLE_POLICY with the reschedule requested;
    why not, if it came to comparing (PREEMPT_PROTECTED, PREEMPT_LATER_DEADLINE,
    PREEMPT_NOT_ELIGIBLE); else NO_PREEMPT, also if charging the running task already made it give
    way (``check_preempt_wakeup_fair()``).  ``rq.preempt_vdiff`` is by how much the deadline of ``p``
    is the earlier one, ``rq.preempt_gran`` is its lag; ns of virtual time.
    """
    curr = rq.curr
    cfs = rq.cfs
    tun = rq.tun
    rq.preempt_vdiff = 0
    rq.preempt_gran = 0
    if p is curr:
        return NO_PREEMPT
    if tun.next_buddy and not wake_flags & WF_FORK and not p.sched_delayed:
        set_next_buddy(cfs, p)
    asked = rq.need_resched
    if asked:
        return NO_PREEMPT
    if curr.policy == SCHED_IDLE and p.policy != SCHED_IDLE:
        resched_curr(rq)
        return PREEMPT_IDLE_POLICY
    if p.policy != SCHED_NORMAL or not tun.wakeup_preemption:
        return NO_PREEMPT
    update_curr(rq)
    if rq.need_resched:
        return NO_PREEMPT
    rq.preempt_vdiff = curr.deadline - p.deadline
    rq.preempt_gran = entity_lag(rq, p, clamped=False)
    short = curr.vlag == curr.deadline and do_preempt_short(rq, p, curr)
    if short:
        curr.vlag = curr.deadline + 1  # whoever is picked now, the protection is gone
    picked = pick_eevdf(rq)
    if picked is p:
        resched_curr(rq)
        return PREEMPT_SHORT_SLICE if short else PREEMPT_PICKED
    return _refusal(rq, p, curr, picked)


def do_preempt_short(rq: Rq, p: Task, curr: Task) -> bool:
    """Return whether a shorter slice overrides the running task's protection (v6.12)."""
    cfs = rq.cfs
    if not rq.tun.preempt_short or p.slice >= curr.slice or not entity_eligible(cfs, p):
        return False
    return p.deadline < curr.deadline or not entity_eligible(cfs, curr)


def _refusal(rq: Rq, p: Task, curr: Task, picked: Task) -> int:
    if not entity_eligible(rq.cfs, p):
        return PREEMPT_NOT_ELIGIBLE
    protected = picked is curr and rq.tun.run_to_parity and curr.vlag == curr.deadline
    ahead = rq.preempt_vdiff > 0 or (rq.preempt_vdiff == 0 and rq.rules.eevdf_tie_to_tree)
    return PREEMPT_PROTECTED if protected and ahead else PREEMPT_LATER_DEADLINE


def task_tick_eevdf(rq: Rq, p: Task) -> int:
    """Do the tick of a running task: charge it (``task_tick_fair()``, ``entity_tick()``).

    Return NO_PREEMPT always: if it has to give way, :func:`update_curr` has said so.
    """
    cfs = rq.cfs
    assert cfs.curr is p
    update_curr(rq)
    update_load_avg_se(p, rq.clock_task, True)
    update_cfs_rq_load_avg(cfs, rq.clock_task)
    return NO_PREEMPT


# -- Picking ---------------------------------------------------------------------------------------


def pick_next_entity(rq: Rq) -> Task:
    """Return who should run next: an eligible next buddy (NEXT_BUDDY), or :func:`pick_eevdf`."""
    cfs = rq.cfs
    if rq.tun.next_buddy and cfs.next is not None and entity_eligible(cfs, cfs.next):
        assert not cfs.next.sched_delayed, "the next buddy sleeps"
        return cfs.next
    return pick_eevdf(rq)


def put_prev_entity(rq: Rq, prev: Task) -> None:
    """Put the running task back into the timeline if still queued (``put_prev_entity()``)."""
    cfs = rq.cfs
    assert cfs.curr is prev, f"{prev.comm}/{prev.pid} is not running"
    if prev.on_rq:
        update_curr(rq)
        enqueue_entity(cfs, prev)
        update_load_avg_se(prev, rq.clock_task, True)
        update_cfs_rq_load_avg(cfs, rq.clock_task)
    cfs.curr = None


def set_next_entity(rq: Rq, p: Task) -> None:
    """Take a task out of the timeline to run, protected (``set_next_entity()``)."""
    cfs = rq.cfs
    assert cfs.curr is None, "two tasks running"
    clear_buddies(cfs, p)
    if p.on_rq:
        dequeue_entity(cfs, p)
        update_load_avg_se(p, rq.clock_task, False)
        update_cfs_rq_load_avg(cfs, rq.clock_task)
        p.vlag = p.deadline
    p.exec_start = rq.clock_task
    cfs.curr = p
    p.prev_sum_exec_runtime = p.sum_exec_runtime


def pick_next_task_eevdf(rq: Rq, prev: Task | None) -> Task | None:
    """Return the fair task to run, made current, or None if there is none.

    ``prev`` is as for :func:`emulator.kernel.fair.pick_next_task_fair`.  A delayed task that is
    picked leaves the queue, and the pick is made again, so that None may be the answer of a queue
    that had tasks (``pick_task_fair()``, ``pick_next_task_fair()``).
    """
    cfs = rq.cfs
    while cfs.nr_running:
        curr = cfs.curr
        if curr is not None and curr.on_rq:
            update_curr(rq)
        p = pick_next_entity(rq)
        if p.sched_delayed:
            dequeue_task_eevdf(rq, p, DEQUEUE_SLEEP | DEQUEUE_DELAYED)
            continue
        if prev is None or prev.sched_class != FAIR_CLASS:
            set_next_entity(rq, p)
        elif p is not prev:
            put_prev_entity(rq, prev)
            set_next_entity(rq, p)
        move_to_head(cfs, p)
        return p
    return None


def put_prev_task_eevdf(rq: Rq, prev: Task) -> None:
    """Put a fair task that stops being current (``put_prev_task_fair()``)."""
    put_prev_entity(rq, prev)


def set_next_task_eevdf(rq: Rq, p: Task) -> None:
    """Make a task current again after a change of it (``set_next_task_fair()``)."""
    if p.on_rq:
        move_to_head(rq.cfs, p)
    set_next_entity(rq, p)


# -- Yield, fork, renice ---------------------------------------------------------------------------


def yield_task_eevdf(rq: Rq) -> None:
    """Put the running task's deadline off by a slice, clock updated (``yield_task_fair()``)."""
    curr = rq.curr
    if rq.nr_running == 1:
        return
    clear_buddies(rq.cfs, curr)
    update_curr(rq)
    rq_clock_skip_update(rq)
    curr.deadline += calc_delta_fair(curr.slice, curr)


def yield_to_task_eevdf(rq: Rq, p: Task) -> bool:
    """Yield in favour of a runnable task; return whether it was one (``yield_to_task_fair()``)."""
    if not p.on_rq or p.sched_delayed:
        return False
    set_next_buddy(rq.cfs, p)
    yield_task_eevdf(rq)
    return True


def task_fork_eevdf(rq: Rq, parent: Task | None, child: Task) -> None:
    """Place a new task on its parent's CPU, clock updated (``task_fork_fair()``, v6.6).

    It is placed once more when it is enqueued; v6.12 (``eevdf_fork_twice`` off) only then.
    """
    del parent
    if rq.rules.eevdf_fork_twice:
        update_curr(rq)
        place_entity(rq, child, ENQUEUE_INITIAL)


def reweight_task(rq: Rq, p: Task, nice: int) -> None:
    """Give a task that is not current the weight of another nice level (``reweight_entity()``).

    Its weighted lag stays what it was, so the lag is scaled by the weights, and how far its deadline
    is from V too.  v6.12 keeps the lag within its limit first (``eevdf_reweight_clamped``).
    """
    cfs = rq.cfs
    assert cfs.curr is not p, f"{p.comm}/{p.pid} is current"
    if not p.avg.last_update_time:
        p.nice = nice
        set_load_weight(p)
        init_entity_runnable_average(p)
        return
    old = p.weight
    average = limit = 0
    if p.on_rq:
        update_curr(rq)
        average = avg_vruntime(cfs)
        limit = lag_limit(rq, p)
        dequeue_entity(cfs, p)
        cfs.load_weight -= old
        cfs.load_inv = 0
    dequeue_load_avg(cfs, p)
    p.nice = nice
    set_load_weight(p)
    avg = p.avg
    avg.load_avg = (p.weight >> 10) * avg.load_sum // (DIVIDER + avg.period_contrib)
    enqueue_load_avg(cfs, p)
    if not p.on_rq:
        p.vlag = truncdiv(p.vlag * old, p.weight)
        return
    vlag = average - p.vruntime
    if rq.rules.eevdf_reweight_clamped:
        vlag = max(-limit, min(vlag, limit))
    if average != p.vruntime:
        p.vruntime = average - truncdiv(vlag * old, p.weight)
    p.deadline = average + truncdiv((p.deadline - average) * old, p.weight)
    cfs.load_weight += p.weight
    enqueue_entity(cfs, p)
    update_min_vruntime(cfs)


def set_user_nice(rq: Rq, p: Task, nice: int) -> None:
    """Renice a task wherever it stands, clock updated (``set_user_nice()``, ``prio_changed_fair()``).

    One that runs is protected anew, and gives way if it has become less important; one that waits
    is tested against the running one.
    """
    if p.nice == nice or not -20 <= nice <= 19:
        return
    running = rq.curr is p
    if running:
        put_prev_task_eevdf(rq, p)
    if p.policy == SCHED_IDLE:
        p.nice = nice
    else:
        reweight_task(rq, p, nice)
    less_important = 120 + nice > p.prio
    p.prio = 120 + nice
    if running:
        set_next_task_eevdf(rq, p)
    if not p.on_rq or p.sched_delayed or rq.cfs.nr_running == 1:
        return
    if running:
        if less_important:
            resched_curr(rq)
    elif rq.curr.sched_class == FAIR_CLASS:
        check_preempt_wakeup_eevdf(rq, p, 0)


# -- Leaving and joining a CPU ---------------------------------------------------------------------


def migrate_task_rq_eevdf(old_rq: Rq, p: Task, waking: bool) -> None:
    """Take a task that is not queued off the books of its old CPU (``migrate_task_rq_fair()``).

    Its lag and, if it was queued, its relative deadline go with it.  ``waking``: as for CFS.
    """
    assert not p.on_rq, f"{p.comm}/{p.pid} is still queued"
    if waking:
        remove_entity_load_avg(old_rq.cfs, p)
    else:
        detach_entity_cfs_rq(old_rq, p)
    p.avg.last_update_time = 0
    if not old_rq.rules.exec_start_at_enqueue:
        p.exec_start = 0  # a task that has moved cannot be cache hot


#: ``fair_sched_class`` from v6.6 on: EEVDF.
EEVDF_SCHED_CLASS = SchedClass(
    enqueue_task=enqueue_task_eevdf,
    dequeue_task=dequeue_task_eevdf,
    check_preempt=check_preempt_wakeup_eevdf,
    pick_next_task=pick_next_task_eevdf,
    put_prev_task=put_prev_task_eevdf,
    set_next_task=set_next_task_eevdf,
    task_tick=task_tick_eevdf,
    yield_task=yield_task_eevdf,
    yield_to_task=yield_to_task_eevdf,
    task_fork=task_fork_eevdf,
    set_user_nice=set_user_nice,
    migrate_task_rq=migrate_task_rq_eevdf,
    task_dead=task_dead_fair,
    update_curr=update_curr,
)
