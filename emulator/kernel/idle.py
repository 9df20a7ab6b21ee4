"""The idle loop and the tick it stops: ``kernel/sched/idle.c``, ``kernel/time/tick-sched.c``, v5.4.

Theory of operation
-------------------
A CPU with nothing to run enters the idle loop, stops its tick if nothing needs it, and halts.  An
interrupt ends the halt; if it made a task runnable, the loop is left: the tick comes back onto the
common grid and a reschedule follows.  A stopped tick puts the CPU into ``nohz.idle_cpus_mask``; it
leaves the mask at its first busy tick, not when it wakes.

With ``idle=poll`` the loop polls ``need_resched`` instead of halting, its tick keeps running, and whoever
sets the flag sends no IPI.

The tick is kept while a softirq is pending, RCU needs the CPU, or the next timer of the wheel is at
most one tick away.

Departures from the kernel: ``nohz.has_blocked`` is set at a CPU's first idle entry after it left the
mask and then every 32 ms, not at every one; ageing the others' blocked load costs a CPU that goes
idle no time; no cpuidle governor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import core, cpuhp, frames, rcu, smp
from emulator.types import NEVER, NOHZ_ENTER, NOHZ_KICK_MASK, NOHZ_NEWIDLE_STATS, NOHZ_NEWILB_KICK

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: A CPU of nohz.idle_cpus_mask that idles again says that it has blocked load only so often.
NOHZ_TELL_NS = 32_000_000

PWR_EVENT_EXIT = 4294967295  # (u32)-1: cpu_idle's state when idling ends


def boot(cpu: Cpu) -> None:
    """Start the CPU in the idle loop, its tick running."""
    cpu.tick_at = cpu.tick_ns
    cpu.start(frames.IDLE_ENTRY, 0)
    cpu.rq.curr.on_cpu = 1


def enter(cpu: Cpu, _arg: object) -> None:
    """The end of the way into idle: halt, unless something came up."""
    if not cpu.online:
        cpuhp.idle_dead(cpu)
        return
    if cpu.rq.need_resched:
        leave(cpu)
        return
    if cpu.nohz_flags & NOHZ_NEWILB_KICK:
        nohz_run_idle_balance(cpu)
    if cpu.spec.machine.idle_polls:
        cpu.emit(tp.CPU_IDLE, 0, cpu.node_id)
    else:
        stop_tick(cpu)
        cpu.emit(tp.CPU_IDLE, 1, cpu.node_id)
    cpu.halt()


def nohz_run_idle_balance(cpu: Cpu) -> None:
    """Age the other idle CPUs' blocked load, as newidle_balance() has left it to do (≥ 5.12)."""
    kicked = cpu.nohz_flags & NOHZ_KICK_MASK
    cpu.nohz_flags &= ~NOHZ_NEWILB_KICK
    if not kicked:
        cpu.send_mail(cpu.bal_node, messages.NOHZ_UPDATE, (NOHZ_NEWIDLE_STATS, cpu.now))


def interrupted(cpu: Cpu) -> None:
    """An interrupt has ended the halt and returns to the idle loop."""
    if cpu.rq.need_resched:
        leave(cpu)
    elif not cpu.spec.machine.idle_polls:
        stop_tick(cpu)


def polls(cpu: Cpu) -> bool:
    """Whether the idle loop polls ``need_resched`` now (``idle=poll``): no IPI is needed to end it."""
    return cpu.spec.machine.idle_polls and cpu.rq.curr is cpu.rq.idle


def wake_polling(cpu: Cpu) -> None:
    """``set_nr_if_polling()``: another CPU sets the flag, the loop sees it at once."""
    cpu.rq.need_resched = True
    cpu.emit(tp.SCHED_WAKE_IDLE_WITHOUT_IPI, cpu.node_id)
    if cpu.f_kind == frames.HALT and not cpu.stack:
        leave(cpu)


def leave(cpu: Cpu) -> None:
    """Leave the idle loop: the tick is restarted, schedule() follows."""
    cpu.emit(tp.CPU_IDLE, PWR_EVENT_EXIT, cpu.node_id)
    restart_tick(cpu)
    cpu.start(frames.IDLE_EXIT, cpu.costs.idle_exit_ns)


def idle_exit_end(cpu: Cpu, _arg: object) -> None:
    """The end of the way out of idle; a wakeup whose IPI has not come yet is taken along."""
    if cpu.wake_list:
        smp.sched_ttwu_pending(cpu)
    core.schedule(cpu)


def stop_tick(cpu: Cpu) -> None:
    """``tick_nohz_stop_tick()``: stop the tick if nothing needs it in the next period."""
    if cpu.tick_stopped or cpu.softirq_pending or not cpu.online:
        return
    if rcu.rcu_needs_cpu(cpu):
        return
    if cpu.jiffy_timers and cpu.jiffy_timers[0][0] <= cpu.jiffies() + 1:
        return
    cpu.tick_at = NEVER
    cpu.tick_stopped = True
    arm_next_wheel_timer(cpu)
    if not cpu.in_nohz_mask or cpu.now - cpu.nohz_told >= NOHZ_TELL_NS:
        cpu.nohz_told = cpu.now
        cpu.send_mail(cpu.bal_node, messages.NOHZ_UPDATE, (NOHZ_ENTER, cpu.now))
    if not cpu.in_nohz_mask:
        cpu.in_nohz_mask = True
        cpu.publish()


def restart_tick(cpu: Cpu) -> None:
    """``tick_nohz_idle_exit()``: the tick goes on at the next point of the common grid."""
    if not cpu.tick_stopped:
        return
    cpu.tick_stopped = False
    start_tick(cpu)


def start_tick(cpu: Cpu) -> None:
    """Arm the tick for the next point of the common grid."""
    cpu.tick_at = (cpu.now // cpu.tick_ns + 1) * cpu.tick_ns
    cpu.timer_armed(cpu.tick_at)


def arm_next_wheel_timer(cpu: Cpu) -> None:
    """With the tick stopped, one timer interrupt is programmed for the next timer of the wheel."""
    cpu.tick_at = cpu.jiffy_timers[0][0] * cpu.tick_ns if cpu.jiffy_timers else NEVER
    cpu.timer_armed(cpu.tick_at)
