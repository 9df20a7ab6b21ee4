"""Hard interrupts: entry, the timer interrupt, exit; ``hrtimer.c`` and ``irq_enter/irq_exit``, v5.4.

Theory of operation
-------------------
An interrupt pushes a frame with interrupts off.  The timer interrupt runs every expired timer, one
frame each: the tick, drivers' per-request timers (whose expiry comes as a message, IRQ_DEVICE), and
sleepers.  IPIs and devices' vectors are one frame each.  Of several interrupts that are due the one with the highest vector is
taken first: an IPI before the timer.  The timer interrupt ends by programming the CPU's one timer for
what is due next, before anything else runs.  At the end of the outermost one
pending softirqs run, unless a round is already being served below or ksoftirqd is runnable; then the
interrupted frame goes on, or, where it may be preempted, a pending reschedule is acted on.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import (
    blk_mq,
    blk_poll,
    blk_timeout,
    buffered,
    core,
    cpuhp,
    driver,
    frames,
    idle,
    io_uring,
    irq_thread,
    irqtime,
    might_sleep,
    rt_bandwidth,
    smp,
    softirq,
    syscall,
    wq_rescuer,
)
from emulator.types import NEVER

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.percpu import PerCpu
    from emulator.kernel.sched import Task

LOCAL_TIMER_VECTOR = 236

# Kinds of hrtimers besides IRQ_IPI, which is its own frame kind; the tick is kept apart.
TIMER_REQUEST = 1  # a driver's per-request timer: arg = cookie
TIMER_SLEEP = 2  # clock_nanosleep(): arg = [pid, residence]
TIMER_RT_PERIOD = 3  # a period of real-time throttling is over

# Kinds of timers of the wheel.
WHEEL_SLEEP = 1  # schedule_timeout(): arg = [pid, residence]
WHEEL_WRITEBACK = 8  # the delayed work of a disk's flusher: arg = index of the disk
WHEEL_DRAIN = 3  # msleep() of a CPU that goes down
WHEEL_DELAYED_WORK = 31  # delayed_work_timer_fn(): arg = [queue, argument of the item]
WHEEL_MAYDAY = 30  # pool_mayday_timeout(): arg = index of the pool
WHEEL_RUN_QUEUE = 2  # blk_mq_delay_run_hw_queue(): arg = queue index


def take_interrupt(cpu: Cpu) -> None:
    """Start the handling of the interrupt that is due: an IPI, the timer's, or a device's."""
    if cpu.irqtime:
        irqtime.account(cpu)
    hardirq_ns = cpu.costs.hardirq_ns
    ipi = pending_ipi(cpu)
    if ipi is not None:
        arg, ns = ipi
        cpu.push(frames.IRQ_IPI, hardirq_ns + ns, arg, frames.LEVEL_HARDIRQ, False)
        return
    kind, arg, ns = next_expired(cpu) or cpu.irqs.pop(0)
    if kind != frames.IRQ_TICK:
        ns += hardirq_ns
    cpu.push(kind, ns, arg, frames.LEVEL_HARDIRQ, False)


def pending_ipi(cpu: Cpu) -> tuple[Any, int] | None:
    """Take out the IPI that came first, if one is due: what it is for, and its handler's time."""
    for position, (kind, arg, ns) in enumerate(cpu.irqs):
        if kind == frames.IRQ_IPI:
            del cpu.irqs[position]
            return arg, ns
    if not cpu.ipis:
        return None
    first = min(timer for timer in cpu.timers if timer[2] == frames.IRQ_IPI)
    if first[0] > cpu.now:
        return None
    cpu.timers.remove(first)
    heapq.heapify(cpu.timers)
    cpu.ipis -= 1
    return first[3], cpu.costs.ipi_handler_ns


def next_expired(cpu: Cpu) -> tuple[int, Any, int] | None:
    """Take out the next of the expired timers: the frame that handles it, its argument and time.

    The tick comes first: jiffies go on before anything that the interrupt leads to looks at them.
    """
    if cpu.tick_at <= cpu.now:
        cpu.tick_at = NEVER
        return frames.IRQ_TICK, None, cpu.costs.tick_ns
    if cpu.irqs and cpu.irqs[0][0] == frames.IRQ_DEVICE:
        return cpu.irqs.pop(0)
    timers = cpu.timers
    if timers and timers[0][0] <= cpu.now and timers[0][2] != frames.IRQ_IPI:
        _expiry, _seq, kind, arg = heapq.heappop(timers)
        return frames.IRQ_HRTIMER, [kind, arg], cpu.costs.hrtimer_ns
    return None


def hrtimer_end(cpu: Cpu, what: list[Any]) -> None:
    """One expired timer's function runs; the interrupt goes on after the wakeups it made."""
    kind, arg = what
    cpu.start(frames.IRQ_DONE, 0)
    if kind == TIMER_REQUEST:
        driver.request_timer(cpu, arg)
    elif kind == TIMER_RT_PERIOD:
        rt_bandwidth.sched_rt_period_timer(cpu)
    else:
        wake_sleeper(cpu, arg)
    if cpu.f_kind == frames.IRQ_DONE:
        interrupt_end(cpu)


def interrupt_done(cpu: Cpu, kind: int | None) -> None:
    """The end of an interrupt that had to wake somebody first; no kind: the timer's."""
    if kind is None:
        interrupt_end(cpu)
    else:
        irq_exit(cpu)


def wake_sleeper(cpu: Cpu, arg: list[int]) -> None:
    """Wake the task whose sleep is over, if it still sleeps that sleep."""
    pid, since = arg
    p = cpu.tasks.get(pid)
    if p is not None and p.run.wait_since == since and p.state != tp.TASK_RUNNING:
        cpu.cause = 0  # its own timer wakes it, nobody else
        core.wake_up(cpu, p)


def take_sleep_timer(cpu: PerCpu, p: Task) -> None:
    """Take the timer that would end a delayed task's sleep along with it to another CPU.

    In the kernel it stays, and its interrupt wakes the task from here.
    """
    since = p.run.wait_since
    sleep = [p.pid, since]
    for timer in cpu.timers:
        if timer[2] == TIMER_SLEEP and timer[3] == sleep:
            p.run.timer = [timer[0], 0]
            cpu.timers.remove(timer)
            heapq.heapify(cpu.timers)
            return
    for wheel in cpu.jiffy_timers:
        if wheel[2] == WHEEL_SLEEP and wheel[3] == sleep:
            p.run.timer = [0, wheel[0]]
            cpu.jiffy_timers.remove(wheel)
            return


def give_sleep_timer(cpu: Cpu, p: Task) -> None:
    """Arm the timer that came along with a delayed task."""
    if not p.run.timer:
        return
    expiry_ns, jiffy = p.run.timer
    p.run.timer = []
    sleep = [p.pid, p.run.wait_since]
    if jiffy:
        add_jiffy_timer(cpu, jiffy, WHEEL_SLEEP, sleep)
    else:
        cpu.add_timer(max(expiry_ns, cpu.now), TIMER_SLEEP, sleep)


def run_jiffy_timer(cpu: Cpu, kind: int, arg: Any) -> None:
    """Run one expired timer of the wheel."""
    if kind == WHEEL_SLEEP:
        wake_sleeper(cpu, arg)
    elif kind == WHEEL_MAYDAY:
        wq_rescuer.pool_mayday_timeout(cpu, arg)
    elif kind == WHEEL_DELAYED_WORK:
        syscall.queue_module_work(cpu, *arg)
    elif kind == WHEEL_WRITEBACK:
        buffered.delayed_work_timer_fn(cpu, arg)
    elif kind == WHEEL_DRAIN:
        cpuhp.drain_on(cpu)
    else:
        blk_mq.delayed_run(cpu, arg)


def add_jiffy_timer(cpu: Cpu, jiffy: int, kind: int, arg: Any) -> None:
    """Put a timer on the wheel, to run in the tick of the given jiffy."""
    cpu.timer_seq += 1
    cpu.jiffy_timers.append((jiffy, cpu.timer_seq, kind, arg))
    cpu.jiffy_timers.sort(key=lambda timer: timer[:2])
    if cpu.tick_stopped:
        idle.arm_next_wheel_timer(cpu)


def interrupt_end(cpu: Cpu) -> None:
    """The end of one timer's work: further expired timers, or the timer is programmed anew."""
    expired = next_expired(cpu)
    if expired is not None:
        kind, arg, ns = expired
        cpu.start(kind, ns, arg)
        return
    cpu.program_event()
    irq_exit(cpu)


def irq_exit(cpu: Cpu) -> None:
    """``irq_exit()``: serve pending softirqs if this was the outermost interrupt, then return."""
    if cpu.softirq_pending and not cpu.in_softirq:
        if cpu.threadirqs:
            softirq.leave_to_ksoftirqd(cpu)
            return
        if softirq.may_run_inline(cpu):
            softirq.start_round(cpu)
            return
    irq_return(cpu)


def irq_exited(cpu: Cpu, _arg: object) -> None:
    """The end of an interrupt whose exit has woken ksoftirqd."""
    irq_return(cpu)


def irq_return(cpu: Cpu) -> None:
    """Return to what was interrupted; reschedule there if it may be preempted."""
    if cpu.irqtime:
        irqtime.account(cpu)
    cpu.pop()
    if cpu.stack:
        return
    if cpu.f_kind == frames.HALT:
        idle.interrupted(cpu)
    elif cpu.f_kind == frames.USER:
        if cpu.rq.need_resched:
            core.preempt_schedule_irq(cpu)
        elif cpu.rq.curr.run.uring is not None:
            io_uring.interrupted(cpu)
    elif cpu.f_kind == frames.POLL_SPIN:
        blk_poll.spin_interrupted(cpu)
    elif cpu.rq.need_resched and cpu.f_kind in might_sleep.STRETCHES:
        might_sleep.go_to_point(cpu)


def ipi_end(cpu: Cpu, arg: Any) -> None:
    """The end of an IPI's handler; it programs no timer."""
    cpu.start(frames.IRQ_DONE, 0, frames.IRQ_IPI)
    smp.handle_ipi(cpu, arg)
    if cpu.f_kind == frames.IRQ_DONE:
        irq_exit(cpu)


def device_end(cpu: Cpu, arg: Any) -> None:
    """The end of a device interrupt's handler."""
    cpu.start(frames.IRQ_DONE, 0)
    driver.device_interrupt(cpu, arg)
    if cpu.f_kind == frames.IRQ_DONE:
        interrupt_end(cpu)


def vector_end(cpu: Cpu, arg: Any) -> None:
    """The end of the handler of a device's vector; it programs no timer."""
    cpu.start(frames.IRQ_DONE, 0, frames.IRQ_VECTOR)
    index, vector, entries, polled = arg
    if driver.threaded(cpu, index, polled):
        irq_thread.irq_wake_thread(cpu, index, vector, entries)
    else:
        driver.vector_interrupt(cpu, arg)
    if cpu.f_kind == frames.IRQ_DONE:
        irq_exit(cpu)


def queue_end(cpu: Cpu, arg: list[int]) -> None:
    """A hardware queue is run, or its timer's work is queued: [queue, whether it is the timer]."""
    index, timer = arg
    cpu.start(frames.IRQ_DONE, 0, frames.IRQ_QUEUE)
    if timer:
        blk_timeout.timer_expired(cpu, index)
    else:
        blk_mq.run_hw_queue_async(cpu, cpu.queues[index])
    if cpu.f_kind == frames.IRQ_DONE:
        irq_exit(cpu)
