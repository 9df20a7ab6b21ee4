"""The tick: ``tick_sched_timer()``, ``scheduler_tick()``, ``trigger_load_balance()``.

Theory of operation
-------------------
Every CPU whose tick runs is interrupted at the same multiples of the tick period.  Inside one tick:
TIMER is raised, whether a timer of the wheel is due or not (``base->clk`` is never ahead of
jiffies; only from v5.9 on does the tick know the next expiry), RCU if callbacks wait (:mod:`rcu`),
the current task's class gets its tick, then a balance pass that is due raises SCHED, and a busy CPU
considers kicking an idle one (:func:`nohz_balancer_kick`).  The softirqs run at the end of the
interrupt, the reschedule that the tick asked for after them.  So at HZ 250 every tick that lands
inside a softirq round leaves ksoftirqd something to do.  An idle CPU without a tick that is
interrupted for a timer of the wheel does all of this too, so it looks whether a balance pass is
due; only no next tick follows.

Departures from the kernel: the whole work of the tick takes effect at its end, ``tick_ns`` after
the grid point; timekeeping costs nothing extra.

``jiffies`` is what the clock says.  The kernel's is written by one CPU, the holder of
``tick_do_timer_cpu`` (whoever ticks takes it over when the holder's tick stops), and by a CPU without
a tick when an interrupt wakes it.  Of CPUs that run in parallel and tick together nobody can tell: the
holder writes at the beginning of its interrupt, all read at the end of theirs.  Where CPUs take
turns one may: whose turn comes before the holder's reads the jiffy of before, so a pass or a kick
that has just become due waits for its next tick.  It is not modelled: every tick, and every pass of
the balancer, would read the holder's state at zero age, which ends all windows at every tick of
any CPU, and no box whose CPUs run in parallel would decide differently for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    completion_rescue,
    fair,
    frames,
    hrtimer,
    idle,
    pelt,
    rcu,
    rt,
    softirq,
    wq_idle,
    wq_watch,
)
from emulator.kernel.sched import FAIR_CLASS, PF_WQ_WORKER, RT_CLASS
from emulator.types import (
    BAL_ACTIVE_MASK,
    BAL_HAS_BLOCKED,
    BAL_HEADER,
    BAL_NEEDS_UPDATE,
    BAL_NEXT_BALANCE,
    BAL_NEXT_BLOCKED,
    BAL_NOHZ_MASK,
    BAL_NOHZ_NEXT_BALANCE,
    NEVER,
    NOHZ_BALANCE_KICK,
    NOHZ_EXIT,
    NOHZ_KICKED,
    NOHZ_KICKED_FULL,
    NOHZ_NEXT_KICK,
    NOHZ_STATS_KICK,
    for_each_cpu,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def tick_sched_timer(cpu: Cpu, _arg: object) -> None:
    """The end of one tick interrupt's work."""
    cpu.cause = 0  # time alone leads to what a tick does
    if not cpu.tick_stopped:
        idle.start_tick(cpu)
    softirq.raise_softirq(cpu, softirq.TIMER, tick_context(cpu))  # run_local_timers()
    rcu.rcu_sched_clock_irq(cpu)
    cpu.start(frames.IRQ_DONE, 0)
    scheduler_tick(cpu)
    if cpu.steal is not None:
        cpu.steal.steal_account_process_time()
    if cpu.wq_watchdog and cpu.jiffies() >= cpu.wq_watch_at:
        wq_watch.wq_watchdog(cpu)
    if cpu.completion is not None and cpu.completion.rescues and cpu.pools[0].worklist:
        completion_rescue.rescue(cpu, cpu.completion)
    if cpu.f_kind == frames.IRQ_DONE:
        hrtimer.interrupt_end(cpu)


def tick_context(cpu: Cpu) -> int:
    """What ``account_process_tick()`` charges this tick to: TICK_*, by the frame interrupted."""
    kind, _left, _arg, level, _irqs_on = cpu.stack[-1]
    if level != frames.LEVEL_TASK:
        return tp.TICK_SOFTIRQ
    if cpu.rq.curr is cpu.rq.idle:
        return tp.TICK_IDLE
    return tp.TICK_USER if kind == frames.USER else tp.TICK_SYSTEM


def scheduler_tick(cpu: Cpu) -> None:
    """``scheduler_tick()``: the class's tick, then balancing."""
    rq = cpu.rq
    curr = rq.curr
    fair.update_rq_clock(rq, cpu.now)
    if rq.avg_rt.util_sum:
        pelt.update_rt_rq_load_avg(rq, curr.sched_class == RT_CLASS)
        rq.cpu_capacity = pelt.scale_rt_capacity(rq)
    elif cpu.irqtime:
        rq.cpu_capacity = pelt.scale_rt_capacity(rq)
    if curr is not rq.idle and curr.sched_class == FAIR_CLASS and curr.on_rq:
        why = rq.fair.task_tick(rq, curr)
        if why >= 0:
            cpu.emit(
                tp.BOX_CHECK_PREEMPT,
                rq.cfs.tree[0][2].pid if rq.cfs.tree else 0,
                curr.pid,
                rq.preempt_vdiff,
                rq.preempt_gran,
                why,
            )
    elif curr.sched_class == RT_CLASS and curr.on_rq:
        tick_rt(cpu)
    if rq.rules.wq_cpu_intensive_auto and curr.flags & PF_WQ_WORKER:
        wq_watch.wq_worker_tick(cpu, curr)
    cpu.publish()
    rq.idle_balance = curr is rq.idle and rq.nr_running == 0
    trigger_load_balance(cpu)


def tick_rt(cpu: Cpu) -> None:
    """The tick of a real-time task: of SCHED_RR the next one in line may be due."""
    rq = cpu.rq
    curr = rq.curr
    why = rt.task_tick_rt(rq, curr)
    if why >= 0:
        head = rq.rt.queue[0].pid
        vdiff, gran = rq.preempt_vdiff, rq.preempt_gran
        cpu.emit(tp.BOX_CHECK_PREEMPT, head, curr.pid, vdiff, gran, why)


def trigger_load_balance(cpu: Cpu) -> None:
    """Raise SCHED if a pass of this CPU is due; then see about the idle CPUs."""
    if not cpu.active:
        return
    facts = cpu.view(cpu.bal_node)
    jiffies = cpu.jiffies()
    if jiffies >= next_balance(cpu, facts):
        softirq.raise_softirq(cpu, softirq.SCHED)
    nohz_balancer_kick(cpu, facts, jiffies)


def next_balance(cpu: Cpu, facts: tuple[int, ...]) -> int:
    """Return ``rq->next_balance`` in jiffies as the balancer last set it; NEVER without domains."""
    if cpu.nr_cpus == 1 or not facts[BAL_ACTIVE_MASK] >> cpu.node_id & 1:
        return NEVER
    return facts[BAL_HEADER + BAL_NEXT_BALANCE * cpu.nr_cpus + cpu.node_id]


def nohz_balancer_kick(cpu: Cpu, facts: tuple[int, ...], jiffies: int) -> None:
    """Kick an idle CPU to balance for the idle ones, if this CPU has too much to do (D.4)."""
    rq = cpu.rq
    if rq.idle_balance:
        return
    if cpu.in_nohz_mask:
        nohz_balance_exit_idle(cpu)
    mask = facts[BAL_NOHZ_MASK] & ~(1 << cpu.node_id)
    if not mask:
        return
    flags = 0
    why = tp.NOHZ_WHY_BLOCKED
    if facts[BAL_HAS_BLOCKED] and jiffies > facts[BAL_NEXT_BLOCKED]:
        flags = NOHZ_STATS_KICK
    if jiffies >= facts[BAL_NOHZ_NEXT_BALANCE]:
        needed = nohz_kick_needed(cpu, facts)
        if needed:
            why = needed
            flags = NOHZ_STATS_KICK | NOHZ_BALANCE_KICK
    if rq.rules.nohz_next_kick and facts[BAL_NEEDS_UPDATE]:
        flags |= NOHZ_NEXT_KICK
    if flags:
        kick_ilb(cpu, flags, mask, why)


def nohz_kick_needed(cpu: Cpu, facts: tuple[int, ...]) -> int:
    """The conditions of a full kick, in the kernel's order (symmetric machines): NOHZ_WHY_* or 0."""
    rq = cpu.rq
    if rq.nr_running >= 2:
        return tp.NOHZ_WHY_NR_RUNNING
    if rq.cfs.nr_running >= 1 and rq.cpu_capacity * lowest_imbalance_pct(cpu) < 1024 * 100:
        return tp.NOHZ_WHY_CAPACITY
    busy = cpu.llc_mask & facts[BAL_ACTIVE_MASK] & ~facts[BAL_NOHZ_MASK]
    if cpu.llc_mask and (busy | 1 << cpu.node_id).bit_count() > 1:
        return tp.NOHZ_WHY_LLC_BUSY
    return 0


def lowest_imbalance_pct(cpu: Cpu) -> int:
    """Return ``imbalance_pct`` of this CPU's lowest domain: SMT, MC or the package (D.1)."""
    if cpu.spec.machine.core[cpu.node_id].bit_count() > 1:
        return 110
    shares_cache = cpu.llc_mask.bit_count() > 1
    return 117 if shares_cache or cpu.rq.rules.lb_imbalance_pct_117 else 125


def nohz_balance_exit_idle(cpu: Cpu) -> None:
    """Leave ``nohz.idle_cpus_mask`` at the first busy tick."""
    cpu.in_nohz_mask = False
    cpu.send_mail(cpu.bal_node, messages.NOHZ_UPDATE, (NOHZ_EXIT, cpu.now))
    cpu.publish()


def kick_ilb(cpu: Cpu, flags: int, mask: int, why: int = tp.NOHZ_WHY_BLOCKED) -> None:
    """``kick_ilb()``: push the next kick one jiffy away, interrupt the first idle CPU of the mask."""
    if not cpu.rq.rules.nohz_kick_resets:
        cpu.send_mail(cpu.bal_node, messages.NOHZ_UPDATE, (NOHZ_KICKED, cpu.now))
    elif flags & NOHZ_BALANCE_KICK:
        cpu.send_mail(cpu.bal_node, messages.NOHZ_UPDATE, (NOHZ_KICKED_FULL, cpu.now))
    for ilb in for_each_cpu(mask):
        if cpu.idle_cpu(ilb):
            cause = cpu.emit(tp.BOX_NOHZ_KICK, ilb, cpu.rq.nr_running, why, flags)
            cpu.send(
                ilb,
                messages.NOHZ_KICK,
                (flags, cause),
                cpu.now + cpu.costs.ipi_ns,
                cpu.costs.hardirq_ns + cpu.costs.softirq_ns + cpu.costs.balance_pass_ns,
            )
            return


def process_wheel(cpu: Cpu) -> None:
    """``run_timer_softirq()``: run the wheel's expired timers."""
    jiffies = cpu.jiffies()
    while cpu.jiffy_timers and cpu.jiffy_timers[0][0] <= jiffies:
        _expiry, _seq, kind, arg = cpu.jiffy_timers.pop(0)
        hrtimer.run_jiffy_timer(cpu, kind, arg)
    if jiffies >= cpu.wq_cull_at:
        wq_idle.idle_worker_timeout(cpu)
    if cpu.tick_stopped:
        idle.arm_next_wheel_timer(cpu)
