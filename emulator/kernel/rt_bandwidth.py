"""The periods of real-time throttling: ``sched_rt_period_timer()`` of ``kernel/sched/rt.c``, v5.4.

While a CPU has real-time tasks, or time of theirs that is not given back yet, a timer gives back one
runtime per period, and lets the class run again when it has time left.

Departure from the kernel: each CPU has a period timer of its own, which begins with the first task
queued; the kernel has one for all, on the CPU that started it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.kernel import core, fair, hrtimer, rt

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def start_rt_bandwidth(cpu: Cpu) -> None:
    """Arm the period's timer if it is not."""
    tun = cpu.rq.tun
    if not cpu.rq.rt.period_active and tun.rt_runtime_us >= 0:
        cpu.rq.rt.period_active = True
        cpu.add_timer(cpu.now + tun.rt_period_us * 1000, hrtimer.TIMER_RT_PERIOD)


def sched_rt_period_timer(cpu: Cpu) -> None:
    """A period is over: give back its runtime."""
    rq = cpu.rq
    own = rq.rt
    fair.update_rq_clock(rq, cpu.now)
    own.period_active = False
    own.rt_time -= min(own.rt_time, max(rq.tun.rt_runtime_us, 0) * 1000)
    if own.rt_throttled and (rq.tun.rt_runtime_us < 0 or own.rt_time < rq.tun.rt_runtime_us * 1000):
        rt.unthrottle(rq)
        if own.queue:
            core.resched_curr(cpu)
        cpu.publish()
    if own.queue or own.rt_time:
        start_rt_bandwidth(cpu)


def rq_offline_rt(cpu: Cpu) -> None:
    """The CPU goes down: its time starts anew, and nobody is throttled (``__disable_runtime()``)."""
    if cpu.rq.rt.rt_throttled:
        rt.unthrottle(cpu.rq)
    cpu.rq.rt.rt_time = 0
