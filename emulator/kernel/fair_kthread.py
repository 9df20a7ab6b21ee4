"""What proposals of the thread do for a per-CPU kthread that wakes under CFS: F13, F14, F16, F17, F19.

Theory of operation
-------------------
A bound kworker that wakes behind a task that only computes is placed half a latency ahead of it.  If
the wakeup granularity is larger than that, it may not preempt, and cannot go elsewhere.  Each
proposal changes one decision about such a thread, and only about one:

* ``kthread_gran_min`` (F16): its wakeup granularity is the min granularity.
* ``preempt_kthread_vdiff`` (F14): it preempts as soon as it is ahead at all, and is next buddy.
* ``preempt_kthread_nvcsw`` (F13): on a queue of two it preempts a movable task that gives way of
  itself less often, whatever their vruntimes, and is next buddy.
* ``kthread_next_buddy`` (F17): if it is ahead but may not preempt, it is next buddy, and the tick
  compares with whom the pick would take.  ``kthread_half_slice``: and halves the slice then.
* ``kthread_delayed_wake`` (F19): if it may not preempt, it stays *waking* on a list of its CPU, and is
  queued when the CPU next calls ``schedule()``.  Until then it is on no queue, so neither the tick
  nor the balancer counts it: a task that never blocks keeps it waiting as long as nothing else
  wakes there.

They are tests of vruntimes, so they have no meaning under EEVDF and do nothing there.

No kernel has any of these.  Where the mails leave something open, the order is: F14, F13, F17, F19;
a thread that a proposal lets preempt is not delayed.
"""

from __future__ import annotations

from emulator.kernel.fair_entity import place_entity, update_curr
from emulator.kernel.fair_weight import calc_delta
from emulator.kernel.sched import (
    FAIR_CLASS,
    NICE_0_LOAD,
    NO_PREEMPT,
    SCHED_IDLE,
    Rq,
    Task,
    is_per_cpu_kthread,
)
from emulator.tracepoints import (
    PREEMPT_KTHREAD_AHEAD,
    PREEMPT_KTHREAD_BUDDY,
    PREEMPT_KTHREAD_NVCSW,
    PREEMPT_NO_GRANULARITY,
)


def wakeup_gran(rq: Rq, p: Task) -> int:
    """Return by how much vruntime ``p`` must be ahead to preempt, ns (``wakeup_gran()``).

    It is scaled by the weight of ``p``.
    """
    gran = rq.tun.wakeup_granularity
    if rq.favours_kthreads and rq.rules.kthread_gran_min and is_per_cpu_kthread(p):
        gran = rq.tun.min_granularity
    if p.weight != NICE_0_LOAD:
        gran = calc_delta(gran, NICE_0_LOAD, p.inv_weight)
    return gran


def kthread_answer(rq: Rq, curr: Task, p: Task, vdiff: int) -> int:
    """Return what is done with a per-CPU kthread that is not a granularity ahead of ``curr``.

    One of PREEMPT_KTHREAD_*, PREEMPT_NO_GRANULARITY or NO_PREEMPT.
    """
    rules = rq.rules
    if rules.preempt_kthread_vdiff and vdiff > 0:
        return PREEMPT_KTHREAD_AHEAD
    if (
        rules.preempt_kthread_nvcsw
        and curr.nr_cpus_allowed > 1
        and rq.cfs.nr_running <= 2
        and p.nvcsw * curr.nivcsw >= p.nivcsw * curr.nvcsw
    ):
        return PREEMPT_KTHREAD_NVCSW
    if vdiff <= 0:
        return NO_PREEMPT
    return PREEMPT_KTHREAD_BUDDY if rules.kthread_next_buddy else PREEMPT_NO_GRANULARITY


def delays_wakeup(rq: Rq, p: Task) -> bool:
    """Whether a waking task is to be queued at the next ``schedule()`` only (F19), clock updated.

    ``rq.preempt_vdiff`` and ``rq.preempt_gran`` then say what was compared, ns.
    """
    curr = rq.curr
    if (
        not rq.rules.kthread_delayed_wake
        or not is_per_cpu_kthread(p)
        or p.sched_class != FAIR_CLASS
        or curr.sched_class != FAIR_CLASS
        or not curr.on_rq
        or curr.policy == SCHED_IDLE
        or rq.need_resched
    ):
        return False
    update_curr(rq)
    own = p.vruntime
    place_entity(rq, p, False)  # where it would be
    vdiff = curr.vruntime - p.vruntime
    p.vruntime = own
    gran = wakeup_gran(rq, p)
    if rq.tun.wakeup_preemption and vdiff > gran:
        return False
    if kthread_answer(rq, curr, p, vdiff) in (PREEMPT_KTHREAD_AHEAD, PREEMPT_KTHREAD_NVCSW):
        return False
    rq.preempt_vdiff = vdiff
    rq.preempt_gran = gran
    return True
