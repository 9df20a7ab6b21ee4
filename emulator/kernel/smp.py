"""Inter-processor interrupts and wake lists: ``kernel/smp.c``, ``scheduler_ipi()``, ``ttwu_queue()``.

Theory of operation
-------------------
The reschedule IPI carries no data: it makes the CPU look at ``need_resched`` when it returns, and
at a pending kick of the idle load balancer.  The call-function IPI drains this CPU's queue of
finished requests that other CPUs steered here.

A waker that shares no cache with the CPU it chose does not take that CPU's runqueue lock: it leaves
the task on the *wake list* (:func:`ttwu_queue_remote`), and the CPU activates it itself, in the IPI
that the first entry costs or when it leaves the idle loop.  Meanwhile the task is neither queued nor
counted, but the CPU is not idle any more.  An idle loop that polls needs no IPI.  Later kernels use
the list in more cases (:func:`ttwu_queue_cond`), and from 5.8 on its IPI is a call-function one.

Departures from the kernel: whether the list is used is decided on the target's exact state when the
wakeup takes effect there; ``sched_wake_idle_without_ipi`` is recorded on the CPU that is woken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import blk_softirq, core, cpuhp_handover, frames, idle, softirq
from emulator.types import NOHZ_KICK_MASK

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task

RESCHEDULE_VECTOR = 253
CALL_FUNCTION_SINGLE_VECTOR = 251


# -- Wake lists ---------------------------------------------------------------------------------


def ttwu_queue_cond(cpu: Cpu, waker_cpu: int, on_cpu: bool = False) -> bool:
    """Whether a wakeup on this CPU by another goes through the wake list (C.1 step 7).

    ``on_cpu`` says that the wakee is still leaving this CPU (WF_ON_CPU).
    """
    if not cpu.ttwu_queue:
        return False
    rules = cpu.rq.rules
    if rules.ttwu_queue_idle and not cpu.active:
        return False
    here = cpu.node_id
    if not cpu.domains.share_cache(waker_cpu, here):
        return True
    if waker_cpu == here:
        return False
    if on_cpu and rules.ttwu_queue_on_cpu and cpu.rq.nr_running <= 1:
        return True
    return rules.ttwu_queue_idle and cpu.rq.nr_running == 0


def takes_while_on_cpu(cpu: Cpu, waker_cpu: int) -> bool:
    """Whether a task that still leaves this CPU can be woken without waiting for that (5.8)."""
    return cpu.rq.rules.ttwu_queue_on_cpu and ttwu_queue_cond(cpu, waker_cpu, on_cpu=True)


def waker_spins(cpu: Cpu, p: Task | None, waker_cpu: int) -> bool:
    """Whether another CPU that wakes a task here spins on ``p->on_cpu`` until its switch is over."""
    return (
        p is not None and bool(p.on_cpu) and not p.on_rq and not takes_while_on_cpu(cpu, waker_cpu)
    )


def ttwu_queue_remote(cpu: Cpu, p: Task, flags: int) -> None:
    """Put a task that another CPU woke on this CPU's wake list; ``flags`` are ENQUEUE_*."""
    cpu.wake_list.append([p.pid, flags])
    if len(cpu.wake_list) == 1:
        if idle.polls(cpu):
            idle.wake_polling(cpu)
        else:
            send_ipi_here(cpu, "wake")
    cpu.publish()


def send_ipi_here(cpu: Cpu, arg: Any = None) -> None:
    """Another CPU sends this one an IPI: it arrives ``ipi_ns`` later."""
    cpu.ipis += 1
    cpu.add_timer(cpu.now + cpu.costs.ipi_ns, frames.IRQ_IPI, arg)


def sched_ttwu_pending(cpu: Cpu) -> None:
    """Activate what is on the wake list: the newest first up to 5.7, then the oldest."""
    first = 0 if cpu.rq.rules.wake_list_fifo else -1
    while cpu.wake_list:
        pid, flags = cpu.wake_list.pop(first)
        p = cpu.tasks[pid]
        cpu.cause = p.run.cause
        core.ttwu_do_activate(cpu, p, flags)


# -- IPIs ---------------------------------------------------------------------------------------


def handle_ipi(cpu: Cpu, arg: Any) -> None:
    """The handler's work: ``arg`` is "kick", "call", "wake", "adopt" (a CPU died), or None."""
    if arg == "call":
        cpu.emit(tp.CALL_FUNCTION_SINGLE_ENTRY, CALL_FUNCTION_SINGLE_VECTOR)
        blk_softirq.flush_call_queue(cpu)
        return
    if arg == "adopt":
        cpu.emit(tp.CALL_FUNCTION_SINGLE_ENTRY, CALL_FUNCTION_SINGLE_VECTOR)
        cpuhp_handover.adopted(cpu)
        return
    if arg == "wake" and cpu.rq.rules.ttwu_pending:
        cpu.emit(tp.CALL_FUNCTION_SINGLE_ENTRY, CALL_FUNCTION_SINGLE_VECTOR)
    else:
        cpu.emit(tp.RESCHEDULE_ENTRY, RESCHEDULE_VECTOR)
    sched_ttwu_pending(cpu)
    if arg == "kick" and cpu.nohz_flags & NOHZ_KICK_MASK:
        rq = cpu.rq
        if rq.curr is rq.idle and rq.nr_running == 0 and not rq.need_resched and cpu.active:
            rq.idle_balance = True
            softirq.raise_softirq(cpu, softirq.SCHED)
        else:
            cpu.nohz_flags &= ~NOHZ_KICK_MASK  # a flag left set would silence every later kick
