"""The real-time scheduling class: ``kernel/sched/rt.c``, v5.4 (SCHED_FIFO and SCHED_RR).

Theory of operation
-------------------
The queued task of the highest priority runs, and goes on until it sleeps, yields, or one of a higher
priority wakes.  Of equal ones the first in line runs; a SCHED_RR task goes to the end of the line when
it has used up its slice.  Any task of this class comes before all fair ones.

So that a real-time task that never sleeps leaves something to the others, the class may run only
``sched_rt_runtime_us`` of each ``sched_rt_period_us``: what it has run is added up
(:func:`update_curr_rt`), and beyond the limit the whole class is *throttled* until a period gives
time back (:mod:`emulator.kernel.rt_bandwidth`).

The time that the class runs is tracked by PELT (``rq.avg_rt``): it is missing from the CPU's capacity
for fair tasks (``scale_rt_capacity()``).

Departures from the kernel
--------------------------
* A real-time task is allowed one CPU (box files and commands refuse others), so there is no pushing and no
  pulling.  One whose CPU has gone offline may run anywhere; it stays where it then is.
* With RT_RUNTIME_SHARE (default up to v5.9) a CPU that has used up its time borrows from the others
  until it has the whole period: here it has that at once, on a machine with several CPUs.
* v6.12 has a deadline server for fair tasks instead of throttling; it is throttled here as before.
* No groups, no priority inheritance, no RLIMIT_RTTIME.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import attrgetter

from emulator.kernel.fair_entity import resched_curr, rq_clock_skip_update
from emulator.kernel.pelt import update_rt_rq_load_avg
from emulator.kernel.sched import (
    ENQUEUE_HEAD,
    NO_PREEMPT,
    RT_CLASS,
    SCHED_RR,
    Rq,
    SchedClass,
    Task,
)
from emulator.tracepoints import PREEMPT_RT_PRIO, PREEMPT_TICK_SLICE

MAX_RT_PRIO = 100
_PRIO = attrgetter("prio")


def set_rt_policy(rq: Rq, p: Task, rt_priority: int) -> None:
    """Make a task that is on no queue a real-time one (``__setscheduler()``); its policy is set already."""
    p.sched_class = RT_CLASS
    p.prio = MAX_RT_PRIO - 1 - rt_priority
    p.time_slice = rr_timeslice(rq)


def rr_timeslice(rq: Rq) -> int:
    """Return the slice of a SCHED_RR task in ticks (``sched_rr_timeslice``)."""
    return max(1, rq.tun.rr_timeslice_ms * 1_000_000 // rq.tick_ns)


# -- Time and throttling ---------------------------------------------------------------------------


def update_curr_rt(rq: Rq) -> None:
    """Charge the running real-time task, and throttle the class if that was too much."""
    curr = rq.curr
    if curr.sched_class != RT_CLASS:
        return
    delta = rq.clock_task - curr.exec_start
    if delta <= 0:
        return
    curr.exec_start = rq.clock_task
    curr.sum_exec_runtime += delta
    if rq.tun.rt_runtime_us < 0:
        return
    rq.rt.rt_time += delta
    if sched_rt_runtime_exceeded(rq):
        resched_curr(rq)


def sched_rt_runtime_exceeded(rq: Rq) -> bool:
    """Throttle the class if it has run longer than it may in a period; return whether it is."""
    rt = rq.rt
    tun = rq.tun
    if rt.rt_throttled:
        return True
    if tun.rt_runtime_us >= tun.rt_period_us or (tun.rt_runtime_share and tun.nr_online > 1):
        return False
    if rt.rt_time <= tun.rt_runtime_us * 1000:
        return False
    rt.rt_throttled = True
    rq.nr_running -= len(rt.queue)  # dequeue_top_rt_rq()
    if rq.on_throttle is not None:
        rq.on_throttle()
    return True


def unthrottle(rq: Rq) -> None:
    """Let the class run again (``enqueue_top_rt_rq()``)."""
    rq.rt.rt_throttled = False
    rq.nr_running += len(rq.rt.queue)


# -- The class -------------------------------------------------------------------------------------


def enqueue_task_rt(rq: Rq, p: Task, flags: int) -> None:
    """Put a task at the end of the line of its priority, with HEAD at its beginning."""
    assert not p.on_rq, f"{p.comm}/{p.pid} is queued already"
    queue = rq.rt.queue
    place = bisect_left if flags & ENQUEUE_HEAD else bisect_right
    queue.insert(place(queue, p.prio, key=_PRIO), p)
    p.on_rq = 1
    if not rq.rt.rt_throttled:
        rq.nr_running += 1


def dequeue_task_rt(rq: Rq, p: Task, _flags: int) -> None:
    """Take a task off the queue, its time charged."""
    assert p.on_rq, f"{p.comm}/{p.pid} is not queued"
    update_curr_rt(rq)
    rq.rt.queue.remove(p)
    p.on_rq = 0
    if not rq.rt.rt_throttled:
        rq.nr_running -= 1


def requeue_task_rt(rq: Rq, p: Task) -> None:
    """Put a queued task at the end of the line of its priority."""
    queue = rq.rt.queue
    queue.remove(p)
    queue.insert(bisect_right(queue, p.prio, key=_PRIO), p)


def check_preempt_curr_rt(rq: Rq, p: Task, _flags: int) -> int:
    """Preempt the running real-time task if ``p`` has a higher priority, a lower number."""
    rq.preempt_vdiff = rq.preempt_gran = 0
    if p.prio >= rq.curr.prio:
        return NO_PREEMPT
    resched_curr(rq)
    return PREEMPT_RT_PRIO


def pick_next_task_rt(rq: Rq, _prev: Task | None) -> Task | None:
    """Return the task to run, made current, or None; the caller has put the previous one."""
    if not rq.rt.runnable():
        return None
    p = rq.rt.queue[0]
    set_next_task_rt(rq, p)
    return p


def put_prev_task_rt(rq: Rq, _prev: Task) -> None:
    """A real-time task stops being current; if it is still queued it keeps its place."""
    update_curr_rt(rq)
    update_rt_rq_load_avg(rq, True)


def set_next_task_rt(rq: Rq, p: Task) -> None:
    """A real-time task becomes current."""
    p.exec_start = rq.clock_task
    p.prev_sum_exec_runtime = p.sum_exec_runtime
    if rq.curr.sched_class != RT_CLASS:
        update_rt_rq_load_avg(rq, False)


def task_tick_rt(rq: Rq, p: Task) -> int:
    """Do the tick of a running task; a SCHED_RR one whose slice is used up goes to the end."""
    update_curr_rt(rq)
    update_rt_rq_load_avg(rq, True)
    if p.policy != SCHED_RR:
        return NO_PREEMPT
    p.time_slice -= 1
    if p.time_slice > 0:
        return NO_PREEMPT
    p.time_slice = rr_timeslice(rq)
    queue = rq.rt.queue
    line = bisect_right(queue, p.prio, key=_PRIO) - bisect_left(queue, p.prio, key=_PRIO)
    if line == 1 or rq.rt.rt_throttled:
        return NO_PREEMPT
    requeue_task_rt(rq, p)
    resched_curr(rq)
    rq.preempt_vdiff = p.sum_exec_runtime - p.prev_sum_exec_runtime
    rq.preempt_gran = p.time_slice * rq.tick_ns
    return PREEMPT_TICK_SLICE


def yield_task_rt(rq: Rq) -> None:
    """Let others of the same priority go first."""
    requeue_task_rt(rq, rq.curr)
    rq_clock_skip_update(rq)


def _yield_to(_rq: Rq, _p: Task) -> bool:
    return False  # the class has no yield_to_task


def _nothing(*_arguments: object) -> None:
    # Forks, nice levels, migrations and deaths leave nothing to do: no vruntime, no load.
    return


#: ``rt_sched_class``.
RT_SCHED_CLASS = SchedClass(
    enqueue_task=enqueue_task_rt,
    dequeue_task=dequeue_task_rt,
    check_preempt=check_preempt_curr_rt,
    pick_next_task=pick_next_task_rt,
    put_prev_task=put_prev_task_rt,
    set_next_task=set_next_task_rt,
    task_tick=task_tick_rt,
    yield_task=yield_task_rt,
    yield_to_task=_yield_to,
    task_fork=_nothing,
    set_user_nice=_nothing,
    migrate_task_rq=_nothing,
    task_dead=_nothing,
    update_curr=update_curr_rt,
)


def class_of(rq: Rq, p: Task) -> SchedClass:
    """Return the class of a fair or real-time task."""
    return RT_SCHED_CLASS if p.sched_class == RT_CLASS else rq.fair
