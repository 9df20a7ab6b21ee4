"""The completely fair scheduling class: ``kernel/sched/fair.c``, v5.4 to v6.5, balancing left out.

Theory of operation
-------------------
The runnable task with the least vruntime is the one that is owed most, so it runs next.  Who runs
is decided at three places: :func:`check_preempt_wakeup` when somebody wakes,
:func:`check_preempt_tick` at the tick, :func:`pick_next_task_fair` in ``schedule()``.  What
vruntime is and how a task enters and leaves the queue is in :mod:`emulator.kernel.fair_entity`,
weights are in :mod:`emulator.kernel.fair_weight`, sysctls in
:mod:`emulator.kernel.fair_tunables`, load in :mod:`emulator.kernel.pelt`; this module offers the
whole class.

Clocks: the caller brings ``rq.clock`` up to date with :func:`update_rq_clock`, where the kernel
does; nothing here asks for the time.  Both preemption tests leave what they compared in
``rq.preempt_vdiff`` and ``rq.preempt_gran``, for the trace.

Departures from the kernel
--------------------------
* Those of ``fair_entity.py`` and ``pelt.py``.
* :func:`resched_curr` sets the flag only; who runs on another CPU sends the IPI himself.
* :func:`pick_next_task_fair` returns None where the kernel's would go on to ``newidle_balance()``;
  the caller does that, asks again, or puts the previous task.
* What a task's ``on_rq`` of ``task_struct`` says (queued, or migrating) is an argument where it
  matters; :class:`~emulator.kernel.sched.Task` has the entity's ``on_rq`` only.
"""

from __future__ import annotations

from emulator.kernel.fair_entity import (
    clear_buddies,
    dequeue_entity_tree,
    dequeue_task_fair,
    enqueue_entity_tree,
    enqueue_task_fair,
    move_to_head,
    place_entity,
    resched_curr,
    rq_clock_skip_update,
    set_last_buddy,
    set_next_buddy,
    update_curr,
    update_min_vruntime,
    update_rq_clock,
)
from emulator.kernel.fair_kthread import kthread_answer, wakeup_gran
from emulator.kernel.fair_tunables import (
    sched_feat_set,
    sched_proc_update_handler,
    tunables,
    update_sysctl,
)
from emulator.kernel.fair_weight import (
    calc_delta,
    calc_delta_fair,
    sched_slice,
    sched_vslice,
    set_load_weight,
)
from emulator.kernel.pelt import (
    DIVIDER,
    attach_entity_cfs_rq,
    cpu_load,
    cpu_runnable_load,
    cpu_util,
    dequeue_load_avg,
    dequeue_runnable_load_avg,
    detach_entity_cfs_rq,
    enqueue_load_avg,
    enqueue_runnable_load_avg,
    init_entity_runnable_average,
    post_init_entity_util_avg,
    remove_entity_load_avg,
    task_h_load,
    update_blocked_averages,
    update_cfs_rq_load_avg,
    update_load_avg_se,
)
from emulator.kernel.sched import (
    DEQUEUE_SAVE,
    ENQUEUE_RESTORE,
    FAIR_CLASS,
    NO_PREEMPT,
    SCHED_BATCH,
    SCHED_IDLE,
    SCHED_NORMAL,
    WF_FORK,
    CfsRq,
    Rq,
    SchedClass,
    Task,
    is_per_cpu_kthread,
)
from emulator.tracepoints import (
    PREEMPT_IDLE_POLICY,
    PREEMPT_KTHREAD_BUDDY,
    PREEMPT_NO_GRANULARITY,
    PREEMPT_TICK_SLICE,
    PREEMPT_TICK_VRUNTIME,
    PREEMPT_WAKEUP,
)

__all__ = [
    "FAIR_SCHED_CLASS",
    "NO_PREEMPT",
    "attach_task_cfs_rq",
    "calc_delta",
    "calc_delta_fair",
    "check_preempt_tick",
    "check_preempt_wakeup",
    "cpu_load",
    "cpu_runnable_load",
    "cpu_util",
    "dequeue_task_fair",
    "detach_task_cfs_rq",
    "enqueue_task_fair",
    "init_entity_runnable_average",
    "migrate_task_rq_fair",
    "pick_next_entity",
    "pick_next_task_fair",
    "place_entity",
    "post_init_entity_util_avg",
    "put_prev_task_fair",
    "resched_curr",
    "reweight_task",
    "rq_clock_skip_update",
    "sched_feat_set",
    "sched_idle_cpu",
    "sched_proc_update_handler",
    "sched_slice",
    "sched_vslice",
    "set_last_buddy",
    "set_load_weight",
    "set_next_buddy",
    "set_next_task_fair",
    "set_user_nice",
    "task_dead_fair",
    "task_fork_fair",
    "task_h_load",
    "task_hot",
    "task_tick_fair",
    "tunables",
    "update_blocked_averages",
    "update_curr",
    "update_min_vruntime",
    "update_rq_clock",
    "update_sysctl",
    "wakeup_preempt_entity",
    "yield_task_fair",
    "yield_to_task_fair",
]


# -- Preemption ------------------------------------------------------------------------------------


def wakeup_preempt_entity(rq: Rq, curr: Task, se: Task) -> int:
    """Return whether ``se`` should run before ``curr``: 1 yes, 0 too little ahead, -1 behind.

    The granularity is scaled by the weight of ``se`` (``wakeup_preempt_entity()``).
    """
    vdiff = curr.vruntime - se.vruntime
    if vdiff <= 0:
        return -1
    return 1 if vdiff > wakeup_gran(rq, se) else 0


def check_preempt_wakeup(rq: Rq, p: Task, wake_flags: int) -> int:
    """Preempt the running fair task if ``p``, just queued, is far enough ahead of it.

    Return PREEMPT_WAKEUP or PREEMPT_IDLE_POLICY with the reschedule requested,
    PREEMPT_NO_GRANULARITY if ``p`` is ahead by too little, or NO_PREEMPT
    (``check_preempt_wakeup()``).  Proposals for per-CPU kthreads have answers of their own
    (:mod:`emulator.kernel.fair_kthread`).  ``rq.preempt_vdiff`` and ``rq.preempt_gran`` say what was
    compared, in ns; both are 0 if it did not come to that.
    """
    curr = rq.curr
    cfs = rq.cfs
    tun = rq.tun
    rq.preempt_vdiff = 0
    rq.preempt_gran = 0
    if p is curr:
        return NO_PREEMPT
    scale = cfs.nr_running >= tun.nr_latency
    if tun.next_buddy and scale and not wake_flags & WF_FORK:
        set_next_buddy(cfs, p)
    if rq.need_resched:
        return NO_PREEMPT
    if curr.policy == SCHED_IDLE and p.policy != SCHED_IDLE:
        _preempt(rq, curr, scale)
        return PREEMPT_IDLE_POLICY
    if p.policy != SCHED_NORMAL or not tun.wakeup_preemption:
        return NO_PREEMPT
    update_curr(rq)
    vdiff = curr.vruntime - p.vruntime
    gran = wakeup_gran(rq, p)
    rq.preempt_vdiff = vdiff
    rq.preempt_gran = gran
    if vdiff > gran:
        why = PREEMPT_WAKEUP
    elif rq.favours_kthreads and is_per_cpu_kthread(p):
        why = kthread_answer(rq, curr, p, vdiff)
    else:
        return NO_PREEMPT if vdiff <= 0 else PREEMPT_NO_GRANULARITY
    if why <= PREEMPT_NO_GRANULARITY:
        return why
    set_next_buddy(cfs, p)
    if why != PREEMPT_KTHREAD_BUDDY:
        _preempt(rq, curr, scale)
    return why


def _preempt(rq: Rq, curr: Task, scale: bool) -> None:
    resched_curr(rq)
    # Only a crowded queue gains by going back to the preempted task, for its warm cache.
    if scale and rq.tun.last_buddy and curr.on_rq and curr is not rq.idle:
        set_last_buddy(rq.cfs, curr)


def check_preempt_tick(rq: Rq, curr: Task) -> int:
    """Preempt the running task if it has had its slice or is far ahead (``check_preempt_tick()``).

    Return PREEMPT_TICK_SLICE, PREEMPT_TICK_VRUNTIME or NO_PREEMPT.  ``rq.preempt_vdiff`` is the
    time run since the pick, or the distance to the leftmost task, whichever decided; ns.  With
    ``rules.kthread_next_buddy`` it is the distance to whom the pick would take.
    """
    cfs = rq.cfs
    rules = rq.rules
    following = cfs.tree[0][2]
    ideal_runtime = sched_slice(rq, curr)
    if rules.slice_latency_cap:
        ideal_runtime = min(ideal_runtime, rq.tun.latency)
    if rules.kthread_next_buddy:
        following = preferred_entity(rq, curr)
        if rules.kthread_half_slice and is_per_cpu_kthread(following):
            ideal_runtime //= 2
    delta_exec = curr.sum_exec_runtime - curr.prev_sum_exec_runtime
    rq.preempt_gran = ideal_runtime
    rq.preempt_vdiff = delta_exec
    if delta_exec > ideal_runtime:
        resched_curr(rq)
        # Otherwise a buddy could win the pick that it was preempted for.
        clear_buddies(cfs, curr)
        return PREEMPT_TICK_SLICE
    if delta_exec < rq.tun.min_granularity:
        return NO_PREEMPT
    rq.preempt_vdiff = curr.vruntime - following.vruntime
    if rq.preempt_vdiff <= ideal_runtime:
        return NO_PREEMPT
    resched_curr(rq)
    return PREEMPT_TICK_VRUNTIME


def task_tick_fair(rq: Rq, p: Task) -> int:
    """Do the tick of a running fair task and return what :func:`check_preempt_tick` says.

    Counterpart: ``task_tick_fair()``, ``entity_tick()``.
    """
    cfs = rq.cfs
    assert cfs.curr is p
    update_curr(rq)
    update_load_avg_se(p, rq.clock_task, True)
    update_cfs_rq_load_avg(cfs, rq.clock_task)
    if cfs.nr_running > 1:
        return check_preempt_tick(rq, p)
    return NO_PREEMPT


# -- Picking ---------------------------------------------------------------------------------------


def pick_next_entity(rq: Rq, curr: Task | None) -> Task:
    """Return who runs next, and forget that it was a buddy (``pick_next_entity()``)."""
    se = preferred_entity(rq, curr)
    clear_buddies(rq.cfs, se)
    return se


def preferred_entity(rq: Rq, curr: Task | None) -> Task:
    """Return who should run next: the leftmost task, or a buddy not far from it.

    ``curr`` is the running task if it is still runnable.  One marked to be skipped is, unless the
    next one is too far; a next buddy wins over a last buddy.  (Since v5.10 the next buddy is asked
    first; who wins is the same.)
    """
    cfs = rq.cfs
    tree = cfs.tree
    left = tree[0][2] if tree else curr
    assert left is not None, "pick from an empty queue"
    if curr is not None and curr.vruntime < left.vruntime:
        left = curr
    se = left
    if cfs.skip is se:
        second = _second_entity(cfs, se, curr)
        if second is not None and wakeup_preempt_entity(rq, second, left) < 1:
            se = second
    if cfs.last is not None and wakeup_preempt_entity(rq, cfs.last, left) < 1:
        se = cfs.last
    if cfs.next is not None and wakeup_preempt_entity(rq, cfs.next, left) < 1:
        se = cfs.next
    return se


def _second_entity(cfs: CfsRq, se: Task, curr: Task | None) -> Task | None:
    # Who runs if se does not: the next in line, curr included.
    tree = cfs.tree
    if se is curr:
        return tree[0][2] if tree else None
    second = tree[1][2] if len(tree) > 1 else None
    if second is None or (curr is not None and curr.vruntime < second.vruntime):
        return curr
    return second


def put_prev_entity(rq: Rq, prev: Task) -> None:
    """Put the running task back into the timeline if still runnable (``put_prev_entity()``)."""
    cfs = rq.cfs
    assert cfs.curr is prev, f"{prev.comm}/{prev.pid} is not running"
    if prev.on_rq:
        update_curr(rq)
        enqueue_entity_tree(cfs, prev)
        update_load_avg_se(prev, rq.clock_task, True)
        update_cfs_rq_load_avg(cfs, rq.clock_task)
    cfs.curr = None


def set_next_entity(rq: Rq, p: Task) -> None:
    """Take a task out of the timeline to run and start its slice window (``set_next_entity()``)."""
    cfs = rq.cfs
    assert cfs.curr is None, "two tasks running"
    if p.on_rq:
        dequeue_entity_tree(cfs, p)
        update_load_avg_se(p, rq.clock_task, False)
        update_cfs_rq_load_avg(cfs, rq.clock_task)
    p.exec_start = rq.clock_task
    cfs.curr = p
    p.prev_sum_exec_runtime = p.sum_exec_runtime


def pick_next_task_fair(rq: Rq, prev: Task | None) -> Task | None:
    """Return the fair task to run, made current, or None if there is none.

    With a fair ``prev`` (the fast path of ``pick_next_task()``) it is put only if another task
    wins; if it wins itself, its slice window goes on.  In the class walk the caller has put the
    previous task and passes None; an idle ``prev`` has nothing to put.  On None a fair ``prev``
    has *not* been put (``pick_next_task_fair()``).
    """
    cfs = rq.cfs
    if not cfs.nr_running:
        return None
    if prev is None or prev.sched_class != FAIR_CLASS:
        p = pick_next_entity(rq, None)
        set_next_entity(rq, p)
    else:
        curr = cfs.curr
        if curr is not None:
            if curr.on_rq:
                update_curr(rq)
            else:
                curr = None
        p = pick_next_entity(rq, curr)
        if p is not prev:
            put_prev_entity(rq, prev)
            set_next_entity(rq, p)
    move_to_head(cfs, p)
    return p


def put_prev_task_fair(rq: Rq, prev: Task) -> None:
    """Put a fair task that stops being current (``put_prev_task_fair()``)."""
    put_prev_entity(rq, prev)


def set_next_task_fair(rq: Rq, p: Task) -> None:
    """Make a task current again after a change of it (``set_next_task_fair()``)."""
    if p.on_rq:
        move_to_head(rq.cfs, p)
    set_next_entity(rq, p)


# -- Yield, fork, renice ---------------------------------------------------------------------------


def yield_task_fair(rq: Rq) -> None:
    """Let the running task be skipped at the next pick, clock updated (``yield_task_fair()``)."""
    curr = rq.curr
    if rq.nr_running == 1:
        return
    clear_buddies(rq.cfs, curr)
    if curr.policy != SCHED_BATCH:
        update_curr(rq)
        rq_clock_skip_update(rq)
    if curr.on_rq:
        rq.cfs.skip = curr


def yield_to_task_fair(rq: Rq, p: Task) -> bool:
    """Yield in favour of a queued task; return whether it was queued (``yield_to_task_fair()``)."""
    if not p.on_rq:
        return False
    set_next_buddy(rq.cfs, p)
    yield_task_fair(rq)
    return True


def task_fork_fair(rq: Rq, parent: Task | None, child: Task) -> None:
    """Place a new task relative to its parent's CPU (``task_fork_fair()``), clock updated.

    A child without a running fair parent starts from its own vruntime.  It ends up relative to
    min_vruntime and is enqueued without WAKEUP, anywhere.
    """
    cfs = rq.cfs
    if cfs.curr is not parent:
        parent = None
    if parent is not None:
        update_curr(rq)
        child.vruntime = parent.vruntime
    place_entity(rq, child, True)
    if parent is not None and rq.tun.child_runs_first and parent.vruntime < child.vruntime:
        parent.vruntime, child.vruntime = child.vruntime, parent.vruntime
        resched_curr(rq)
    child.vruntime -= cfs.min_vruntime


def reweight_task(rq: Rq, p: Task, nice: int) -> None:
    """Give a task the weight of another nice level (``reweight_task()``).

    Its averages follow from the same sums with the new weight; one that was never attached has
    none, and gets its full load as when it was created.
    """
    cfs = rq.cfs
    if not p.avg.last_update_time:
        p.nice = nice
        set_load_weight(p)
        init_entity_runnable_average(p)
        return
    if p.on_rq:
        if cfs.curr is p:
            update_curr(rq)
        cfs.load_weight -= p.weight
        cfs.load_inv = 0
        dequeue_runnable_load_avg(cfs, p)
    dequeue_load_avg(cfs, p)
    p.nice = nice
    set_load_weight(p)
    avg = p.avg
    avg.load_avg = (p.weight >> 10) * avg.load_sum // (DIVIDER + avg.period_contrib)
    enqueue_load_avg(cfs, p)
    if p.on_rq:
        cfs.load_weight += p.weight
        enqueue_runnable_load_avg(cfs, p)


def set_user_nice(rq: Rq, p: Task, nice: int) -> None:
    """Renice a task wherever it stands, clock updated (``set_user_nice()`` of ``core.c``)."""
    if p.nice == nice or not -20 <= nice <= 19:
        return
    queued = p.on_rq
    running = rq.curr is p
    if queued:
        dequeue_task_fair(rq, p, DEQUEUE_SAVE)
    if running:
        put_prev_task_fair(rq, p)
    if p.policy == SCHED_IDLE:
        p.nice = nice
    else:
        reweight_task(rq, p, nice)
    delta = 120 + nice - p.prio
    p.prio = 120 + nice
    if queued:
        enqueue_task_fair(rq, p, ENQUEUE_RESTORE)
        if delta < 0 or (delta > 0 and running):
            resched_curr(rq)
    if running:
        set_next_task_fair(rq, p)


# -- Leaving and joining a CPU ---------------------------------------------------------------------


def migrate_task_rq_fair(old_rq: Rq, p: Task, waking: bool) -> None:
    """Take a task that is not queued off the books of its old CPU (``migrate_task_rq_fair()``).

    ``waking``: a sleeper that wakes elsewhere; its vruntime becomes relative, and its load is
    parked until the old CPU's next update.  Otherwise it has just been dequeued to be moved, and is
    detached at once.
    """
    assert not p.on_rq, f"{p.comm}/{p.pid} is still queued"
    if waking:
        p.vruntime -= old_rq.cfs.min_vruntime
        remove_entity_load_avg(old_rq.cfs, p)
    else:
        detach_entity_cfs_rq(old_rq, p)
    p.avg.last_update_time = 0
    if not old_rq.rules.exec_start_at_enqueue:
        p.exec_start = 0  # it cannot be cache hot


def task_dead_fair(rq: Rq, p: Task) -> None:
    """Take a task that has run its last off the books of its CPU (``task_dead_fair()``)."""
    remove_entity_load_avg(rq.cfs, p)


def detach_task_cfs_rq(rq: Rq, p: Task, normalized: bool) -> None:
    """Take a task that leaves the fair class off the books (``detach_task_cfs_rq()``).

    ``normalized``: its vruntime is relative already, because it was queued, is new or is waking.
    """
    if not normalized:
        # It slept: without this it would take its lead of the sleep along.
        place_entity(rq, p, False)
        p.vruntime -= rq.cfs.min_vruntime
    detach_entity_cfs_rq(rq, p)


def attach_task_cfs_rq(rq: Rq, p: Task, normalized: bool) -> None:
    """Put a task that joins the fair class on the books (``attach_task_cfs_rq()``)."""
    attach_entity_cfs_rq(rq, p)
    if not normalized:
        p.vruntime += rq.cfs.min_vruntime


# -- What the balancer and the placement ask -------------------------------------------------------


def task_hot(rq: Rq, p: Task, now_clock_task: int, dst_nr_running: int, smt: bool = False) -> bool:
    """Return whether a task's cache on its CPU is worth leaving it there (``task_hot()``).

    ``smt``: the balanced domain is that of SMT siblings, who share their caches.
    """
    if smt and rq.rules.smt_never_hot:
        return False
    if p.sched_class != FAIR_CLASS or p.policy == SCHED_IDLE:
        return False
    tun = rq.tun
    if tun.cache_hot_buddy and dst_nr_running and (p is rq.cfs.next or p is rq.cfs.last):
        return True
    if tun.migration_cost == -1:
        return True
    return now_clock_task - p.exec_start < tun.migration_cost


def sched_idle_cpu(rq: Rq) -> bool:
    """Return whether a CPU runs nothing but SCHED_IDLE tasks (``sched_idle_cpu()``)."""
    return rq.nr_running > 0 and rq.nr_running == rq.cfs.idle_h_nr_running


#: ``fair_sched_class`` up to v6.5: CFS.
FAIR_SCHED_CLASS = SchedClass(
    enqueue_task=enqueue_task_fair,
    dequeue_task=dequeue_task_fair,
    check_preempt=check_preempt_wakeup,
    pick_next_task=pick_next_task_fair,
    put_prev_task=put_prev_task_fair,
    set_next_task=set_next_task_fair,
    task_tick=task_tick_fair,
    yield_task=yield_task_fair,
    yield_to_task=yield_to_task_fair,
    task_fork=task_fork_fair,
    set_user_nice=set_user_nice,
    migrate_task_rq=migrate_task_rq_fair,
    task_dead=task_dead_fair,
    update_curr=update_curr,
)
