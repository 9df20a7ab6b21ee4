"""Threaded interrupts: ``kernel/irq/manage.c``, v5.4 and later (boot option ``threadirqs``).

Theory of operation
-------------------
With ``threadirqs`` the interrupt of a device's vector only wakes a thread, ``irq/N-name``, SCHED_FIFO
50, which runs the driver's handler with bottom halves disabled (:func:`irq_forced_thread_fn`).  What
softirqs that raises run when they are enabled again, in the thread, unless ksoftirqd is runnable.  An
interrupt that comes while the thread is awake makes it run the handler once more.  From v5.12 on
(``rules.threaded_irqs_off``) the handler has interrupts off all the same.

Timers and IPIs are never threaded, so disks whose drivers complete in a timer (scsi_debug, null_blk)
have no threads.  But no interrupt runs softirqs at its exit any more: it wakes ksoftirqd for them
(:mod:`hrtimer`), and those disks' completions, the wheel's timers and balancing wait for that.

A thread runs on the CPU that its vector interrupts.  Vectors are message-signalled, so none is masked
until its thread is done (IRQCHIP_ONESHOT_SAFE).

Departures from the kernel: where a vector is moved to another CPU it has another thread there, which
is made when it first comes; the old one stays behind, asleep.  So a thread is a CPU's own, as
ksoftirqd is, and is not pushed away from a CPU that goes down; what it has not handled is.  A handler
takes what had been posted when its interrupt was raised.  ``use_threaded_interrupts`` of nvme is left
out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.irq_affinity import irq_number
from emulator.kernel import core, driver, frames, kthread, rt, softirq
from emulator.kernel.process import WAIT_WORK
from emulator.kernel.sched import KTHREAD_IS_PER_CPU, SCHED_FIFO, Task
from emulator.types import cpumask_first

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: The pid of a thread made at boot is this and its interrupt's number.
FIRST_IRQ_PID = 3_000
#: MAX_RT_PRIO / 2.
RT_PRIORITY = 50


class IrqThread:
    """``struct irqaction`` with its thread on one CPU: whose it is, and what is to be handled."""

    __slots__ = ("entries", "index", "pid", "vector")

    def __init__(self, pid: int, index: int, vector: int, entries: list[list[Any]]) -> None:
        self.pid = pid
        self.index = index  # of the disk
        self.vector = vector
        self.entries = entries  # IRQTF_RUNTHREAD, and of what: [packed request, status] each

    def pack(self) -> list[Any]:
        """Return it as plain data."""
        return [self.pid, self.index, self.vector, self.entries]


def boot(cpu: Cpu) -> None:
    """Make the threads of the vectors that interrupt this CPU."""
    for index, disk in enumerate(cpu.spec.disks):
        for vector, mask in enumerate(disk.vectors):
            if cpumask_first(mask) == cpu.node_id:
                setup_irq_thread(cpu, index, vector, FIRST_IRQ_PID + irq_number(index, vector))


def setup_irq_thread(cpu: Cpu, index: int, vector: int, pid: int) -> IrqThread:
    """``setup_irq_thread()``: make a vector's thread, asleep."""
    irq = irq_number(index, vector)
    comm = f"irq/{irq}-{cpu.queues[index].irq_names[vector]}"
    p = kthread.new_kthread(cpu, pid, comm, 0, frames.IRQ_THREAD)
    p.run.arg = irq
    p.kthread_flags = KTHREAD_IS_PER_CPU
    p.policy = SCHED_FIFO
    rt.set_rt_policy(cpu.rq, p, RT_PRIORITY)
    thread = cpu.irq_threads[irq] = IrqThread(pid, index, vector, [])
    return thread


def is_irq_thread(cpu: Cpu, p: Task) -> bool:
    """Whether a task is one of this CPU's interrupt threads."""
    return any(thread.pid == p.pid for thread in cpu.irq_threads.values())


# -- The interrupt --------------------------------------------------------------------------------


def irq_wake_thread(cpu: Cpu, index: int, vector: int, entries: list[list[Any]]) -> None:
    """``irq_default_primary_handler()`` and ``__irq_wake_thread()``: leave all to the thread."""
    irq = irq_number(index, vector)
    thread = cpu.irq_threads.get(irq)
    if thread is None:
        thread = setup_irq_thread(cpu, index, vector, kthread.late_pid(cpu))
    driver.handler_entry(cpu, index, vector)
    thread.entries.extend(entries)
    cpu.emit(tp.IRQ_HANDLER_EXIT, irq)
    core.wake_up(cpu, cpu.tasks[thread.pid])


# -- The thread -----------------------------------------------------------------------------------


def irq_thread(cpu: Cpu, irq: int) -> None:
    """``irq_thread()``: run the handler if the interrupt has come (again), or sleep."""
    thread = cpu.irq_threads[irq]
    if not thread.entries:
        p = cpu.rq.curr
        p.run.wait = WAIT_WORK
        core.block(cpu, p, tp.TASK_INTERRUPTIBLE, frames.IRQ_THREAD, 0, irq)
        return
    entries, thread.entries = thread.entries, []
    ns = driver.handler_ns(cpu, thread.index, len(entries))
    cpu.start(frames.IRQ_THREAD_FN, ns, [thread.index, thread.vector, entries])
    cpu.irqs_on = not cpu.rq.rules.threaded_irqs_off


def irq_forced_thread_fn(cpu: Cpu, arg: list[Any]) -> None:
    """``irq_forced_thread_fn()``: the handler, with bottom halves disabled."""
    index, vector, entries = arg
    cpu.start(frames.IRQ_THREAD_BH, 0, irq_number(index, vector))
    driver.complete_entries(cpu, index, entries)
    if cpu.f_kind == frames.IRQ_THREAD_BH:
        local_bh_enable(cpu, cpu.f_arg)


def local_bh_enable(cpu: Cpu, irq: int) -> None:
    """The handler has returned, and whom it woke is awake: softirqs that it raised are served here."""
    cpu.irqs_on = True
    cpu.start(frames.IRQ_THREAD, 0, irq)
    if cpu.softirq_pending and softirq.may_run_inline(cpu):
        cpu.push(frames.SOFTIRQ_ENTRY, 0, None, frames.LEVEL_SOFTIRQ, True)
        softirq.start_round(cpu)
    else:
        irq_thread(cpu, irq)


# -- Going down -----------------------------------------------------------------------------------


def park(cpu: Cpu, p: Task) -> None:
    """The CPU goes down: a thread that was awake sleeps, what it has not handled stays for now."""
    rt.dequeue_task_rt(cpu.rq, p, 0)
    p.state = tp.TASK_INTERRUPTIBLE
    p.run.wait = WAIT_WORK


def take_unhandled(cpu: Cpu) -> list[tuple[Any, ...]]:
    """Take what the threads have not handled, as arguments of INTERRUPT messages."""
    found: list[tuple[Any, ...]] = []
    for thread in cpu.irq_threads.values():
        if thread.entries:
            found.append((thread.index, thread.vector, thread.entries, 0))
            thread.entries = []
    return found
