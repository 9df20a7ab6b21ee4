"""A task changes its policy while it lives: ``__sched_setscheduler()`` of ``kernel/sched/core.c``, v5.4.

Theory of operation
-------------------
A task that is queued leaves its queue, one that runs is put; then it is given policy, priority, weight and
class, and goes back.  What a change of class means is the classes' to say: ``switched_from_fair()`` takes
the task off the books of load, ``switched_to_fair()`` puts it on them, and whoever has come to stand
before the running task makes that give way.

A real-time task whose priority falls goes to the head of its new line (``ENQUEUE_HEAD``).  A delayed
task of EEVDF sleeps: it leaves the queue first (6.12).

Departures from the kernel
--------------------------
* Real-time tasks are allowed one CPU (see :mod:`emulator.kernel.rt`), so others are refused.
* A delayed task leaves the queue also where its class stays.
* A task that becomes SCHED_IDLE is reweighted as one that is reniced, in every version; before 6.11 its
  averages followed with the next update.
* Of a running task that becomes a real-time one the class's time counts from then on, in every version
  (``switched_to_rt()``, 5.14).
* Nothing is asked of capabilities, RLIMIT_RTPRIO or bandwidth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import tracepoints as tp
from emulator.kernel import core, eevdf, fair, fair_weight, pelt, rt, rt_bandwidth
from emulator.kernel.sched import (
    DEQUEUE_DELAYED,
    DEQUEUE_MOVE,
    DEQUEUE_SAVE,
    DEQUEUE_SLEEP,
    ENQUEUE_HEAD,
    ENQUEUE_MOVE,
    ENQUEUE_RESTORE,
    FAIR_CLASS,
    RT_CLASS,
    STOP_CLASS,
    Rq,
    Task,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def sched_setscheduler(cpu: Cpu, p: Task, policy: int, rt_priority: int) -> str:
    """Give a task that this CPU owns another policy; ``rt_priority`` 0 means a fair one.

    Return why not, or "".
    """
    if p.sched_class == STOP_CLASS:
        return f"{p.comm} is the stopper, whose class is its own"
    if rt_priority and p.nr_cpus_allowed > 1:
        return (
            f"{p.comm} may run on {p.nr_cpus_allowed} CPUs; a real-time task is allowed one here: "
            f"`taskset {p.pid} CPU` first"
        )
    prio = rt.MAX_RT_PRIO - 1 - rt_priority if rt_priority else 120 + p.nice
    if p.policy == policy and p.prio == prio:
        return ""
    asked = cpu.rq.need_resched
    fair.update_rq_clock(cpu.rq, cpu.now)
    change(cpu, p, policy, rt_priority)
    core.smp_send_reschedule_here(cpu, asked)
    cpu.publish()
    return ""


def change(cpu: Cpu, p: Task, policy: int, rt_priority: int) -> None:
    """Take a task off, change it, put it back, clock updated."""
    rq = cpu.rq
    if p.sched_delayed:
        rq.fair.dequeue_task(rq, p, DEQUEUE_SLEEP | DEQUEUE_DELAYED)
    queued, running = p.on_rq, rq.curr is p
    before, old_class, old_prio = rt.class_of(rq, p), p.sched_class, p.prio
    if queued:
        before.dequeue_task(rq, p, DEQUEUE_SAVE | DEQUEUE_MOVE)
    if running:
        before.put_prev_task(rq, p)
    setscheduler(rq, p, policy, rt_priority)
    after = rt.class_of(rq, p)
    if queued:
        head = ENQUEUE_HEAD if old_prio < p.prio else 0
        after.enqueue_task(rq, p, ENQUEUE_RESTORE | ENQUEUE_MOVE | head)
        if p.sched_class == RT_CLASS:
            rt_bandwidth.start_rt_bandwidth(cpu)
    if running:
        after.set_next_task(rq, p)
    if old_class != p.sched_class:
        if old_class == FAIR_CLASS:
            switched_from_fair(rq, p, bool(queued))
            switched_to_rt(cpu, p)
        else:
            switched_to_fair(cpu, p, bool(queued))
    elif p.sched_class == RT_CLASS and old_prio != p.prio:
        prio_changed_rt(cpu, p)


def setscheduler(rq: Rq, p: Task, policy: int, rt_priority: int) -> None:
    """``__setscheduler()``: policy, weight, priority and class of a task that is on no queue."""
    was_fair = p.sched_class == FAIR_CLASS
    p.policy = policy
    if was_fair:
        reweight = eevdf.reweight_task if rq.rules.eevdf else fair.reweight_task
        reweight(rq, p, p.nice)
    else:
        fair_weight.set_load_weight(p)
    if rt_priority:
        rt.set_rt_policy(rq, p, rt_priority)
    else:
        p.sched_class, p.prio = FAIR_CLASS, 120 + p.nice


# -- check_class_changed() ------------------------------------------------------------------------


def vruntime_normalized(p: Task, queued: bool) -> bool:
    """Whether a task's vruntime is relative already: it was queued, or has never run (v5.4)."""
    return queued or not p.sum_exec_runtime


def switched_from_fair(rq: Rq, p: Task, queued: bool) -> None:
    """A task has left the fair class; one that was never attached has nothing to leave."""
    if not p.avg.last_update_time:
        return
    if rq.rules.eevdf:
        pelt.detach_entity_cfs_rq(rq, p)
    else:
        fair.detach_task_cfs_rq(rq, p, vruntime_normalized(p, queued))


def switched_to_fair(cpu: Cpu, p: Task, queued: bool) -> None:
    """A task has joined the fair class; whoever runs may have to give way."""
    rq = cpu.rq
    if rq.rules.eevdf:
        pelt.attach_entity_cfs_rq(rq, p)
    else:
        fair.attach_task_cfs_rq(rq, p, vruntime_normalized(p, queued))
    if queued and rq.curr is p:
        fair.resched_curr(rq)
    elif queued:
        core.check_preempt_curr(cpu, p, 0)


def switched_to_rt(cpu: Cpu, p: Task) -> None:
    """A task has joined the real-time class."""
    rq = cpu.rq
    if rq.curr is p:
        pelt.update_rt_rq_load_avg(rq, False)
    elif p.on_rq and p.prio < rq.curr.prio and not rq.rt.rt_throttled:
        give_way(cpu, p)


def prio_changed_rt(cpu: Cpu, p: Task) -> None:
    """A real-time task's priority has changed."""
    rq = cpu.rq
    if rq.curr is p:
        if p.on_rq and p.prio > rq.rt.queue[0].prio:
            fair.resched_curr(rq)
    elif p.on_rq and p.prio < rq.curr.prio and not rq.rt.rt_throttled:
        give_way(cpu, p)


def give_way(cpu: Cpu, p: Task) -> None:
    """The running task gives way to a real-time one that is queued."""
    curr = cpu.rq.curr
    why = tp.PREEMPT_RT_PRIO if curr.sched_class == RT_CLASS else tp.PREEMPT_CLASS
    fair.resched_curr(cpu.rq)
    if curr is not cpu.rq.idle:
        cpu.emit(tp.BOX_CHECK_PREEMPT, p.pid, curr.pid, 0, 0, why)
