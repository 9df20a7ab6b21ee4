"""Softirqs and ksoftirqd: ``kernel/softirq.c``, v5.4 and later.

Theory of operation
-------------------
Ten pending bits.  A round (:func:`start_round`) takes the whole mask and runs the handlers in
ascending order, interruptible; bits raised meanwhile make another pass, until the limits of
``__do_softirq()`` are reached: 2 ms in jiffies, ten passes, or a pending reschedule.  What is left
then is ksoftirqd's, an ordinary fair thread; while that is runnable, interrupt exits leave all
softirqs to it, up to 6.4 (``rules.softirq_inline``).  With ``threadirqs`` they always do.

Departures from the kernel: only the vectors that something here raises have handlers (TIMER, BLOCK,
SCHED, RCU); the others are never raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import blk_softirq, core, frames, hrtimer, irqtime, newidle, rcu, tick
from emulator.kernel.process import WAIT_WORK
from emulator.types import (
    BALANCE_NOHZ,
    BALANCE_PERIODIC,
    CPU_IDLE,
    CPU_NOT_IDLE,
    NOHZ_KICK_MASK,
    NOHZ_NEED_RESCHED,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

TIMER = 1
BLOCK = 4
SCHED = 7
RCU = 9

MAX_SOFTIRQ_RESTART = 10
MAX_SOFTIRQ_TIME_NS = 2_000_000


def raise_softirq(cpu: Cpu, vec: int, tick: int = tp.TICK_NONE) -> None:
    """Set a pending bit (interrupts are off); outside of interrupts ksoftirqd is woken for it.

    A tick says what it interrupted, TICK_* of :mod:`emulator.tracepoints`.
    """
    cpu.emit(tp.SOFTIRQ_RAISE, vec, tick)
    cpu.softirq_pending |= 1 << vec
    if cpu.level == frames.LEVEL_TASK and not cpu.in_softirq and not bh_disabled(cpu):
        wakeup_softirqd(cpu)


def may_run_inline(cpu: Cpu) -> bool:
    """Whether interrupt exit serves softirqs itself.

    Up to 6.4 not while ksoftirqd's state is running; from 6.5 on always.
    """
    return cpu.ksoftirqd.state != tp.TASK_RUNNING or cpu.rq.rules.softirq_inline


def bh_disabled(cpu: Cpu) -> bool:
    """Whether bottom halves are disabled in the task below: it serves what is raised when it enables them."""
    return (cpu.stack[0][0] if cpu.stack else cpu.f_kind) in frames.BH_DISABLED


def leave_to_ksoftirqd(cpu: Cpu) -> None:
    """``invoke_softirq()`` with ``threadirqs``: ksoftirqd is woken, or whoever has them disabled sees to it."""
    cpu.start(frames.IRQ_EXITED, 0)
    if not bh_disabled(cpu):
        wakeup_softirqd(cpu)
    if cpu.f_kind == frames.IRQ_EXITED:
        hrtimer.irq_return(cpu)


def wakeup_softirqd(cpu: Cpu) -> None:
    """Wake ksoftirqd unless its state is running already."""
    if cpu.ksoftirqd.state != tp.TASK_RUNNING:
        core.wake_up(cpu, cpu.ksoftirqd)


def start_round(cpu: Cpu) -> None:
    """``__do_softirq()``, in place of the frame on top (an interrupt's, or pushed by the caller).

    The mask is taken before interrupts are on: what one of them raises waits for the next pass.
    """
    if cpu.irqtime:
        irqtime.account(cpu)
    cpu.in_softirq = True
    take_pending(cpu)
    cpu.level = frames.LEVEL_SOFTIRQ
    cpu.irqs_on = True
    limit = -(-MAX_SOFTIRQ_TIME_NS * cpu.hz // 1_000_000_000)
    cpu.sirq_end = cpu.jiffies() + limit
    cpu.sirq_left = MAX_SOFTIRQ_RESTART
    cpu.start(frames.SOFTIRQ_ENTRY, cpu.costs.softirq_ns)


def take_pending(cpu: Cpu) -> None:
    """Take and clear the whole mask."""
    cpu.sirq_mask = cpu.softirq_pending
    cpu.softirq_pending = 0


def pass_begin(cpu: Cpu, _arg: object) -> None:
    """The way into the round is over: run the lowest vector."""
    next_vector(cpu)


def next_vector(cpu: Cpu) -> None:
    """Start the handler of the lowest vector still to run in this pass."""
    mask = cpu.sirq_mask
    if not mask:
        pass_end(cpu)
        return
    low = mask & -mask
    cpu.sirq_mask = mask ^ low
    vec = low.bit_length() - 1
    cpu.emit(tp.SOFTIRQ_ENTRY, vec)
    if vec == BLOCK:
        blk_softirq.blk_done_softirq(cpu)
    elif vec == TIMER:
        cpu.start(frames.SOFTIRQ_TIMER, 0)
        tick.process_wheel(cpu)
    elif vec == SCHED:
        run_rebalance_domains(cpu)
    elif vec == RCU:
        rcu.rcu_core(cpu)
    else:
        vector_done(cpu, vec)


def vector_done(cpu: Cpu, vec: int) -> None:
    """A handler has returned."""
    cpu.emit(tp.SOFTIRQ_EXIT, vec)
    next_vector(cpu)


def timer_done(cpu: Cpu, _arg: object) -> None:
    """The end of run_timer_softirq(), after the wakeups it made."""
    vector_done(cpu, TIMER)


def pass_end(cpu: Cpu) -> None:
    """All vectors of the mask have run: another pass, ksoftirqd, or the end of the round."""
    if cpu.softirq_pending:
        cpu.sirq_left -= 1
        if cpu.jiffies() < cpu.sirq_end and not cpu.rq.need_resched and cpu.sirq_left > 0:
            take_pending(cpu)
            next_vector(cpu)
            return
        cpu.start(frames.SOFTIRQ_DONE, 0)
        cpu.irqs_on = False
        wakeup_softirqd(cpu)
        return
    round_done(cpu, None)


def round_done(cpu: Cpu, _arg: object) -> None:
    """Leave the round; bits that came after the last test are served before anything else.

    What a limit of the round left is ksoftirqd's, which has been woken for it, in every version.
    """
    if cpu.irqtime:
        irqtime.account(cpu)
    cpu.in_softirq = False
    left = cpu.softirq_pending and cpu.ksoftirqd.state != tp.TASK_RUNNING
    if left and not cpu.threadirqs:
        start_round(cpu)
        return
    hrtimer.irq_return(cpu)


# -- ksoftirqd ----------------------------------------------------------------------------------


def run_ksoftirqd(cpu: Cpu, _arg: object) -> None:
    """ksoftirqd between rounds: serve what is pending, give way, or sleep."""
    p = cpu.rq.curr
    if cpu.rq.need_resched:
        p.run.kind = frames.KSOFTIRQD
        p.run.left = 0
        p.run.arg = None
        core.schedule(cpu)
    elif cpu.softirq_pending:
        cpu.start(frames.KSOFTIRQD, 0)
        cpu.push(frames.SOFTIRQ_ENTRY, 0, None, frames.LEVEL_SOFTIRQ, True)
        start_round(cpu)
    else:
        p.run.wait = WAIT_WORK
        core.block(cpu, p, tp.TASK_INTERRUPTIBLE, frames.KSOFTIRQD, 0)


# -- SCHED --------------------------------------------------------------------------------------


def run_rebalance_domains(cpu: Cpu) -> None:
    """The SCHED vector (D.3): a kick is answered for all idle CPUs, else this CPU balances itself."""
    rq = cpu.rq
    kind, value = BALANCE_PERIODIC, CPU_IDLE if rq.idle_balance else CPU_NOT_IDLE
    flags = cpu.nohz_flags & NOHZ_KICK_MASK
    if flags:
        cpu.nohz_flags ^= flags
        if rq.idle_balance:
            kind, value = BALANCE_NOHZ, flags
            if rq.need_resched:
                value |= NOHZ_NEED_RESCHED
    # Only a pass that is due takes a pass's time; the balancer says which are.
    cost_ns = 0 if kind == BALANCE_NOHZ else cpu.costs.nohz_cpu_ns
    cpu.start(frames.SOFTIRQ_SCHED, cost_ns, [kind, value])


def ask_balancer(cpu: Cpu, arg: list[int]) -> None:
    """Ask the balancer, who lets this CPU spend the time of each pass that is due."""
    kind, value = arg
    cpu.balance_asked = kind
    cause = cpu.kick_cause if kind == BALANCE_NOHZ else 0
    cpu.wait(frames.SOFTIRQ_SCHED_WAIT)
    cpu.send(
        cpu.bal_node,
        messages.BALANCE,
        (kind, value, cpu.rq.avg_idle, cause),
        cpu.now + cpu.costs.request_ns,
        newidle.balancer_reply_ns(cpu),
    )


def balance_paid(cpu: Cpu, _arg: object) -> None:
    """The time of a further pass or visit is over: the balancer goes on, on the state of now."""
    cpu.wait(frames.SOFTIRQ_SCHED_WAIT)
    newidle.send_paid(cpu)


def sched_done(cpu: Cpu, _arg: object) -> None:
    """The balancer's answer came while the softirq was interrupted: return now."""
    vector_done(cpu, SCHED)
