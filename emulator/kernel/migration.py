"""Moves of a task by the stopper of its own CPU: exec, affinity, a CPU that goes down.

Theory of operation
-------------------
A task that runs cannot be taken off its queue by anybody but the stopper, whose class is above all.
Whoever wants it moved queues a stop work (:data:`MIGRATION_CPU_STOP`, :data:`BALANCE_PUSH`) and lets
the CPU reschedule: the stopper runs at once, finds the task queued and not running, and sends it on.

Models ``sched_exec()``, ``migration_cpu_stop()``, ``__set_cpus_allowed_ptr()``, ``balance_push()`` of
``kernel/sched/core.c``, v5.4 and (balance_push) 5.11.

Departures from the kernel: a new mask's destination is its first active CPU in every version (later
ones spread them); who sets an affinity does not wait for the stopper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import (
    affinity,
    core,
    fair,
    frames,
    load_balance,
    placement,
    rt,
    smp,
    stop_machine,
    syscall,
)
from emulator.kernel.process import WAIT_NONE
from emulator.kernel.sched import (
    DEQUEUE_DELAYED,
    DEQUEUE_SLEEP,
    KTHREAD_IS_PER_CPU,
    PF_KTHREAD,
    PF_NO_SETAFFINITY,
    RT_CLASS,
    STOP_CLASS,
    TASK_WAKING,
    Task,
)
from emulator.types import RQF_ACTIVE, RQF_ONLINE, cpumask_first, for_each_cpu

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

# Stop works, in place of the CPU to push to (cpuhp.TAKE_CPU_DOWN is -1).
MIGRATION_CPU_STOP = -2  # env = [pid, destination, MIGRATE_*]
BALANCE_PUSH = -3  # env = [pid]


# -- exec ---------------------------------------------------------------------------------------


def sched_exec(cpu: Cpu, _arg: object) -> None:
    """``sched_exec()``: a task has no warm cache when it execs, so it goes where it is quietest."""
    p = cpu.rq.curr
    fair.update_rq_clock(cpu.rq, cpu.now)
    destination = placement.select_task_rq_exec(cpu, p)
    if destination == cpu.node_id or not affinity.cpu_flags(cpu, destination) & RQF_ACTIVE:
        syscall.return_to_user(cpu, 0)
        return
    run = p.run
    run.kind, run.left, run.arg = frames.RET_USER, 0, 0
    work = [MIGRATION_CPU_STOP, [p.pid, destination, tp.MIGRATE_EXEC], cpu.cause]
    stop_machine.queue_stop_work(cpu, work)
    core.schedule(cpu)


# -- The stopper's half -------------------------------------------------------------------------


def stop_work(cpu: Cpu, kind: int, env: list[Any]) -> None:
    """Do a stop work of this file; the rest of the stopper's time follows."""
    if kind == MIGRATION_CPU_STOP:
        migration_cpu_stop(cpu, *env)
    else:
        balance_push_cpu_stop(cpu, *env)
    cpu.start(frames.STOPPER_TAIL, cpu.costs.stopper_tail_ns)


def migration_cpu_stop(cpu: Cpu, pid: int, destination: int, why: int) -> None:
    """``migration_cpu_stop()``: move a task if it is still queued here; a sleeper only aims there."""
    if cpu.wake_list:
        smp.sched_ttwu_pending(cpu)  # the task may be on it
    p = cpu.tasks.get(pid)
    if p is None:
        return
    if not p.on_rq:
        p.wake_cpu = destination
        return
    if not affinity.is_cpu_allowed(cpu, p, destination):
        if p.cpus_mask >> cpu.node_id & 1:
            return
        # sched_setaffinity() would have refused a CPU that is down; a task here binds itself unasked.
        destination = affinity.select_fallback_rq(cpu, p, cpu.node_id)
    if destination != cpu.node_id:
        move_queued_task(cpu, p, destination, why, cpu.costs.stopper_tail_ns)


def balance_push_cpu_stop(cpu: Cpu, pid: int) -> None:
    """``__balance_push_cpu_stop()``: send a task away from this CPU, which goes down."""
    p = cpu.tasks.get(pid)
    if p is not None and p.on_rq:
        destination = affinity.select_fallback_rq(cpu, p, cpu.node_id)
        move_queued_task(cpu, p, destination, tp.MIGRATE_HOTPLUG, cpu.costs.stopper_tail_ns)


def move_queued_task(cpu: Cpu, p: Task, destination: int, why: int, way_ns: int) -> None:
    """``move_queued_task()``: off this queue, onto the other after ``way_ns``."""
    rq = cpu.rq
    fair.update_rq_clock(rq, cpu.now)
    if p.sched_delayed and load_balance.held_here(cpu, p):
        # It sleeps, and is woken from here: it leaves the queue, and its wakeup chooses a CPU.
        rq.fair.dequeue_task(rq, p, DEQUEUE_SLEEP | DEQUEUE_DELAYED)
        p.wake_cpu = destination
        cpu.publish()
        return
    rt.class_of(rq, p).dequeue_task(rq, p, 0)
    core.set_task_cpu(cpu, p, destination, why)
    core.send_task(cpu, p, destination, cpu.now + way_ns, 0, cpu.node_id)
    cpu.publish()


# -- Going down (from 5.11) ---------------------------------------------------------------------


def balance_push(cpu: Cpu, p: Task) -> bool:
    """``balance_push()``: a CPU that goes down has switched to a task: have it pushed away.

    Return whether it was a task to push: then the next reschedule is under way.
    """
    if p.sched_class == STOP_CLASS or p.kthread_flags & KTHREAD_IS_PER_CPU:
        return False
    p.run.wait = WAIT_NONE
    stop_machine.queue_stop_work(cpu, [BALANCE_PUSH, [p.pid], cpu.cause])
    core.schedule(cpu)
    return True


# -- Affinity -----------------------------------------------------------------------------------


def set_cpus_allowed_ptr(cpu: Cpu, p: Task, mask: int) -> str:
    """``sched_setaffinity()`` of a task that this CPU owns (F.5); return why not, or "".

    A task that sleeps or may stay only gets the mask.
    """
    if p.flags & PF_NO_SETAFFINITY:
        return f"{p.comm} is bound to its CPU (EINVAL)"
    needed = RQF_ONLINE if p.flags & PF_KTHREAD else RQF_ACTIVE
    valid = [c for c in for_each_cpu(mask) if affinity.cpu_flags(cpu, c) & needed]
    if not valid:
        return "no CPU of the mask is active (EINVAL)"
    if p.sched_class == RT_CLASS and mask.bit_count() > 1:
        return f"{p.comm} is a real-time task: these are allowed one CPU here"
    if p.cpus_mask == mask:
        return ""
    do_set_cpus_allowed(cpu, p, mask, cpumask_first(sum(1 << c for c in valid)))
    return ""


def do_set_cpus_allowed(cpu: Cpu, p: Task, mask: int, destination: int) -> None:
    """``__set_cpus_allowed_ptr()``: give a task a mask; if it may not stay it goes to a CPU of that."""
    p.cpus_mask = mask
    p.nr_cpus_allowed = mask.bit_count()
    p.affinity_broken = 0
    if mask >> p.cpu & 1 or not (p.on_rq or p.state == TASK_WAKING):
        return
    if p.on_cpu or p.state == TASK_WAKING:
        work = [MIGRATION_CPU_STOP, [p.pid, destination, tp.MIGRATE_AFFINITY], cpu.cause]
        asked = cpu.rq.need_resched
        stop_machine.queue_stop_work(cpu, work)
        core.smp_send_reschedule_here(cpu, asked)
    else:
        way_ns = cpu.costs.ttwu_activate_ns
        move_queued_task(cpu, p, destination, tp.MIGRATE_AFFINITY, way_ns)
