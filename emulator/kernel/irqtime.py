"""Time in interrupts that is no task's: ``irqtime_account_irq()``, ``kernel/sched/cputime.c``, v5.4.

Theory of operation
-------------------
With CONFIG_IRQ_TIME_ACCOUNTING (``machine.irq_time_accounting``) a CPU reads the clock wherever an interrupt or a
round of softirqs begins or ends.  What has passed since the last time belongs to the context that is left:
a hard interrupt's or a softirq's is added up in ``rq.irq_time``, a task's is not, and ksoftirqd's
softirqs are its own.  ``update_rq_clock()`` leaves that time out of ``clock_task``, by which tasks are charged, and makes
the average ``avg_irq`` of it.

Departures from the kernel: ``/proc/stat`` still says what the ticks met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.kernel import frames

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def account(cpu: Cpu) -> None:
    """``irqtime_account_irq()``: the context that the CPU is in begins, ends or is interrupted."""
    delta = cpu.now - cpu.irq_start_ns
    cpu.irq_start_ns = cpu.now
    in_hardirq = cpu.level == frames.LEVEL_HARDIRQ
    in_softirq = cpu.in_softirq and cpu.level == frames.LEVEL_SOFTIRQ
    if in_hardirq or (in_softirq and cpu.rq.curr is not cpu.ksoftirqd):
        cpu.rq.irq_time += delta
