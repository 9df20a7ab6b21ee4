"""Inter-processor interrupts: ``kernel/smp.c``, ``scheduler_ipi()``, v5.4.

The reschedule IPI carries no data: it makes the CPU look at ``need_resched`` when it returns, and
at a pending kick of the idle load balancer.  The call-function IPI drains this CPU's queue of
finished requests that other CPUs steered here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import blk_softirq, core, cpuhp, frames, softirq
from emulator.kernel.sched import ENQUEUE_MIGRATED, ENQUEUE_WAKEUP
from emulator.types import NOHZ_KICK_MASK

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task

RESCHEDULE_VECTOR = 253
CALL_FUNCTION_SINGLE_VECTOR = 251


def ttwu_queue_remote(cpu: Cpu, p: Task) -> None:
    """A CPU that shares no cache woke a task here: onto the wake list; the first entry costs an IPI.

    The task is neither queued nor counted yet, but this CPU is not idle any more.
    """
    cpu.wake_list.append(p.pid)
    if len(cpu.wake_list) == 1:
        cpu.irqs.append((frames.IRQ_IPI, "wake", cpu.costs.ipi_handler_ns))
    cpu.publish()


def sched_ttwu_pending(cpu: Cpu) -> None:
    """Activate what is on the wake list, the newest first (up to v5.7)."""
    while cpu.wake_list:
        p = cpu.tasks[cpu.wake_list.pop()]
        cpu.cause = p.run.cause
        core.ttwu_do_activate(cpu, p, ENQUEUE_WAKEUP | ENQUEUE_MIGRATED)


def handle_ipi(cpu: Cpu, arg: Any) -> None:
    """The handler's work: ``arg`` is "kick", "call", "adopt" (a CPU died), or None."""
    if arg == "call":
        cpu.emit(tp.CALL_FUNCTION_SINGLE_ENTRY, CALL_FUNCTION_SINGLE_VECTOR)
        blk_softirq.flush_call_queue(cpu)
        return
    if arg == "adopt":
        cpu.emit(tp.CALL_FUNCTION_SINGLE_ENTRY, CALL_FUNCTION_SINGLE_VECTOR)
        cpuhp.adopted(cpu)
        return
    cpu.emit(tp.RESCHEDULE_ENTRY, RESCHEDULE_VECTOR)
    sched_ttwu_pending(cpu)
    if arg == "kick" and cpu.nohz_flags & NOHZ_KICK_MASK:
        rq = cpu.rq
        if rq.curr is rq.idle and rq.nr_running == 0 and not rq.need_resched and cpu.active:
            rq.idle_balance = True
            softirq.raise_softirq(cpu, softirq.SCHED)
        else:
            cpu.nohz_flags &= ~NOHZ_KICK_MASK  # a flag left set would silence every later kick
