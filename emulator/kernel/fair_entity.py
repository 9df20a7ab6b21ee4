"""One fair entity on its runqueue: vruntime, timeline, enqueue and dequeue (``fair.c``, to v6.5).

Theory of operation
-------------------
Each task has a *vruntime*: the time it has run, divided by its weight.  The timeline (``cfs.tree``)
holds the runnable tasks in the order of vruntime, equal ones first in, first out.  The running task
(``cfs.curr``) is queued but not in the timeline.

``cfs.min_vruntime`` follows the least vruntime of the queue and never falls.  A waking task is
placed against it (:func:`place_entity`: a little to the left, so that sleepers run soon, but not so
far that they could catch up a long sleep), and a vruntime is relative to it while a task moves
between CPUs.

These functions are on the path of every wakeup and switch, so they are written flat.

Departures from the kernel
--------------------------
* One flat queue per CPU: no groups, no bandwidth control, no throttling.
* vruntimes are unbounded ints that start at -(1 << 20) and are compared as such; the kernel's wrap
  at 2**64 and are compared by their signed difference.  No run is long enough to tell the two
  apart.  Traces print ``vruntime & U64``.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from emulator.kernel.fair_weight import calc_delta, sched_vslice
from emulator.kernel.pelt import (
    attach_entity_load_avg,
    dequeue_runnable_load_avg,
    enqueue_runnable_load_avg,
    update_cfs_rq_load_avg,
    update_irq_load_avg,
    update_load_avg_se,
)
from emulator.kernel.sched import (
    DEQUEUE_MOVE,
    DEQUEUE_SAVE,
    DEQUEUE_SLEEP,
    ENQUEUE_MIGRATED,
    ENQUEUE_WAKEUP,
    NICE_0_LOAD,
    RQCF_ACT_SKIP,
    RQCF_REQ_SKIP,
    SCHED_IDLE,
    CfsRq,
    Rq,
    Task,
)
from emulator.kernel.util_est import util_est_dequeue, util_est_enqueue

#: A sleep of so many ns, about 104 days, could make vruntimes compare wrongly (v6.3).
LONG_SLEEP_NS = (1 << 63) // 1024

# -- Clock -----------------------------------------------------------------------------------------


def update_rq_clock(rq: Rq, now_ns: int) -> None:
    """Bring a runqueue's clocks up to ``now_ns``, unless a skip is active (``update_rq_clock()``).

    ``__schedule()`` makes a requested skip active: ``rq.skip_clock_update <<= 1`` before its
    update, 0 after the pick.  Any other update ignores the request.
    """
    if rq.skip_clock_update & RQCF_ACT_SKIP:
        return
    delta = now_ns - rq.clock
    if delta <= 0:
        return
    rq.clock = now_ns
    if rq.irq_time != rq.prev_irq_time:
        irq_ns = min(rq.irq_time - rq.prev_irq_time, delta)
        rq.prev_irq_time += irq_ns
        rq.clock_task += delta - irq_ns
        update_irq_load_avg(rq, irq_ns)
        return
    rq.clock_task += delta


def rq_clock_skip_update(rq: Rq) -> None:
    """Ask the next ``__schedule()`` to go by the clock as it is (``rq_clock_skip_update()``)."""
    rq.skip_clock_update |= RQCF_REQ_SKIP


def resched_curr(rq: Rq) -> None:
    """Ask the running task to call ``schedule()`` (``resched_curr()``, the flag only)."""
    rq.need_resched = True


# -- vruntime --------------------------------------------------------------------------------------


def update_curr(rq: Rq) -> None:
    """Charge the running fair task for the time since it was last charged (``update_curr()``)."""
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
    update_min_vruntime(cfs)
    if rq.on_runtime is not None:
        rq.on_runtime(curr, delta)


def update_min_vruntime(cfs: CfsRq) -> None:
    """Let min_vruntime follow the least vruntime of the queue (``update_min_vruntime()``)."""
    curr = cfs.curr
    tree = cfs.tree
    if curr is not None and curr.on_rq:
        vruntime = curr.vruntime
        if tree and tree[0][0] < vruntime:
            vruntime = tree[0][0]
    elif tree:
        vruntime = tree[0][0]
    else:
        return
    if vruntime > cfs.min_vruntime:
        cfs.min_vruntime = vruntime


def place_entity(rq: Rq, p: Task, initial: bool) -> None:
    """Place a new or waking task, never to the left of where it was (``place_entity()``).

    An idle-policy sleeper's credit may be by ``rules.place_idle_min_gran``; one that has slept for
    months may be placed to its left (``rules.place_long_sleeper``).
    """
    tun = rq.tun
    vruntime = rq.cfs.min_vruntime
    if initial:
        if tun.start_debit:
            vruntime += sched_vslice(rq, p)
    else:
        credit = tun.latency
        if p.policy == SCHED_IDLE and rq.rules.place_idle_min_gran:
            credit = tun.min_granularity
        vruntime -= credit >> 1 if tun.gentle_fair_sleepers else credit
    if vruntime > p.vruntime or (rq.rules.place_long_sleeper and entity_is_long_sleeper(rq, p)):
        p.vruntime = vruntime


def entity_is_long_sleeper(rq: Rq, p: Task) -> bool:
    """Return whether a task last ran so long ago that its vruntime may have been overtaken.

    Counterpart: ``entity_is_long_sleeper()``, v6.3.
    """
    return bool(p.exec_start) and rq.clock_task - p.exec_start > LONG_SLEEP_NS


# -- Timeline --------------------------------------------------------------------------------------


def enqueue_entity_tree(cfs: CfsRq, p: Task) -> None:
    """Put a task into the timeline, to the right of its equals (``__enqueue_entity()``)."""
    order = cfs.tree_order + 1
    cfs.tree_order = order
    p.tree_order = order
    insort(cfs.tree, (p.vruntime, order, p))


def dequeue_entity_tree(cfs: CfsRq, p: Task) -> None:
    """Take a task out of the timeline (``__dequeue_entity()``)."""
    tree = cfs.tree
    index = 0
    if tree[0][2] is not p:
        # A two-tuple sorts just before the entry that starts with it.
        index = bisect_left(tree, (p.vruntime, p.tree_order))
    assert tree[index][2] is p, f"{p.comm}/{p.pid} is not where its vruntime says"
    del tree[index]


# -- Enqueue and dequeue ---------------------------------------------------------------------------


def enqueue_task_fair(rq: Rq, p: Task, flags: int) -> None:
    """Make a task runnable on this CPU (``enqueue_task_fair()``, ``enqueue_entity()``).

    The clock is up to date.  ``p.vruntime`` is relative to min_vruntime, unless the task wakes on
    the CPU on which it slept (WAKEUP without MIGRATED).
    """
    cfs = rq.cfs
    own = p.avg
    is_curr = cfs.curr is p
    assert not p.on_rq, f"{p.comm}/{p.pid} is queued already"
    if rq.tun.util_est:
        util_est_enqueue(rq, p)
    if not flags & ENQUEUE_WAKEUP or flags & ENQUEUE_MIGRATED:
        if is_curr:
            p.vruntime += cfs.min_vruntime
            update_curr(rq)
        else:
            update_curr(rq)
            p.vruntime += cfs.min_vruntime
    else:
        update_curr(rq)
    # The past interval ages as blocked: the task does not count as queued yet.
    if own.last_update_time:
        update_load_avg_se(p, rq.clock_task, is_curr)
        update_cfs_rq_load_avg(cfs, rq.clock_task)
    else:
        update_cfs_rq_load_avg(cfs, rq.clock_task)
        attach_entity_load_avg(cfs, p)
    enqueue_runnable_load_avg(cfs, p)
    account_entity_enqueue(cfs, p)
    if flags & ENQUEUE_WAKEUP:
        place_entity(rq, p, False)
    if flags & ENQUEUE_MIGRATED and rq.rules.exec_start_at_enqueue:
        p.exec_start = 0  # it cannot be cache hot
    if not is_curr:
        enqueue_entity_tree(cfs, p)
    p.on_rq = 1
    rq.nr_running += 1


def account_entity_enqueue(cfs: CfsRq, p: Task) -> None:
    """Count a task in: weight, numbers, head of cfs_tasks (``account_entity_enqueue()``)."""
    cfs.load_weight += p.weight
    cfs.load_inv = 0
    cfs.nr_running += 1
    if p.policy == SCHED_IDLE:
        cfs.idle_h_nr_running += 1
    cfs.cfs_tasks.insert(0, p)


def account_entity_dequeue(cfs: CfsRq, p: Task) -> None:
    """Count a task out (``account_entity_dequeue()``)."""
    cfs.load_weight -= p.weight
    cfs.load_inv = 0
    cfs.nr_running -= 1
    if p.policy == SCHED_IDLE:
        cfs.idle_h_nr_running -= 1
    cfs.cfs_tasks.remove(p)


def move_to_head(cfs: CfsRq, p: Task) -> None:
    """Note that a task has been picked: the balancer takes from the tail, the least recent first."""
    tasks = cfs.cfs_tasks
    if tasks[0] is not p:
        tasks.remove(p)
        tasks.insert(0, p)


def dequeue_task_fair(rq: Rq, p: Task, flags: int) -> None:
    """Take a task off this CPU's queue (``dequeue_task_fair()``, ``dequeue_entity()``).

    With SLEEP its vruntime stays absolute, otherwise it becomes relative to min_vruntime.
    """
    cfs = rq.cfs
    is_curr = cfs.curr is p
    assert p.on_rq, f"{p.comm}/{p.pid} is not queued"
    update_curr(rq)
    update_load_avg_se(p, rq.clock_task, is_curr)
    update_cfs_rq_load_avg(cfs, rq.clock_task)
    dequeue_runnable_load_avg(cfs, p)
    clear_buddies(cfs, p)
    if not is_curr:
        dequeue_entity_tree(cfs, p)
    p.on_rq = 0
    account_entity_dequeue(cfs, p)
    if not flags & DEQUEUE_SLEEP:
        p.vruntime -= cfs.min_vruntime
    if flags & (DEQUEUE_SAVE | DEQUEUE_MOVE) != DEQUEUE_SAVE:
        update_min_vruntime(cfs)
    rq.nr_running -= 1
    if rq.tun.util_est:
        util_est_dequeue(rq, p, bool(flags & DEQUEUE_SLEEP))


# -- Buddies ---------------------------------------------------------------------------------------


def clear_buddies(cfs: CfsRq, p: Task) -> None:
    """Forget whatever marks a task as a buddy (``clear_buddies()``)."""
    if cfs.next is p:
        cfs.next = None
    if cfs.last is p:
        cfs.last = None
    if cfs.skip is p:
        cfs.skip = None


def set_next_buddy(cfs: CfsRq, p: Task) -> None:
    """Prefer a task at the next pick (``set_next_buddy()``); idle policy is never preferred."""
    if p.policy != SCHED_IDLE and p.on_rq:
        cfs.next = p


def set_last_buddy(cfs: CfsRq, p: Task) -> None:
    """Prefer the preempted task after its preemptor (``set_last_buddy()``)."""
    if p.policy != SCHED_IDLE and p.on_rq:
        cfs.last = p
