"""A CPU that becomes idle first looks for a task elsewhere: ``newidle_balance()`` of ``kernel/sched/fair.c``, v5.4.

The previous task is still the current one meanwhile; the balancer makes the passes, the CPU pays for
them (D.10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import messages
from emulator.kernel import core, fair, frames
from emulator.types import (
    BAL_HAS_BLOCKED,
    BAL_HEADER,
    BAL_NEWIDLE_COST,
    BAL_NEXT_BLOCKED,
    BAL_OVERLOAD_NS,
    BALANCE_NEWIDLE,
    BALANCE_NOHZ,
    CPU_NEWLY_IDLE,
    NOHZ_NEWIDLE,
    NOHZ_NEWIDLE_STATS,
    NOHZ_NEWILB_KICK,
    RQ_OVERLOAD_NS,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def newidle_balance(cpu: Cpu) -> bool:
    """Whether a newidle balance holds the switch up (D.10): the previous task is still ``curr``."""
    rq = cpu.rq
    if rq.rules.newidle_pending and cpu.wake_list:
        return False
    rq.idle_stamp = rq.clock
    if not cpu.active:
        return False
    if rq.rules.newidle_domain_cost:
        cpu.start(frames.NEWIDLE, 0, "cost")  # what a pass costs here is the balancer's to know
        return True
    if rq.avg_idle < rq.tun.migration_cost:
        newidle_skipped(cpu)
        return False
    newidle_look(cpu)
    return True


def newidle_look(cpu: Cpu) -> None:
    """There may be time for a pass: spend what it takes to see whether anybody has two tasks."""
    cpu.publish()  # passes, its own too, see the queue without the task that blocked
    cpu.start(frames.NEWIDLE, cpu.costs.newidle_ns)


def newidle_skipped(cpu: Cpu) -> None:
    """The early return: the next periodic pass is due no later than an idle CPU's would be.

    Only a busy pass can have put it further away, so only the first early return after one is told.
    """
    if not cpu.busy_pass:
        return
    cpu.busy_pass = False
    cpu.send_mail(cpu.bal_node, messages.NOHZ_UPDATE, (NOHZ_NEWIDLE, cpu.now))


def newidle_end(cpu: Cpu, arg: object) -> None:
    """Look at ``rd.overload``: ask the balancer, or go idle."""
    if arg == "cost":
        facts = cpu.view(cpu.bal_node)
        if cpu.rq.avg_idle < facts[BAL_HEADER + BAL_NEWIDLE_COST * cpu.nr_cpus + cpu.node_id]:
            newidle_skipped(cpu)
            newidle_finished(cpu, False)
        else:
            newidle_look(cpu)
        return
    if arg == "pass":
        cpu.balance_asked = BALANCE_NEWIDLE
        cpu.wait(frames.NEWIDLE_WAIT)
        cpu.send(
            cpu.bal_node,
            messages.BALANCE,
            (BALANCE_NEWIDLE, CPU_NEWLY_IDLE, cpu.rq.avg_idle, cpu.cause),
            cpu.now + cpu.costs.request_ns,
            cpu.costs.coherence_ns,
        )
        return
    if overloaded(cpu):
        cpu.start(frames.NEWIDLE, cpu.costs.balance_pass_ns, "pass")
        return
    newidle_skipped(cpu)
    if not cpu.rq.rules.newidle_blocked_later:
        nohz_newidle_balance(cpu)
    newidle_finished(cpu, False)


def nohz_newidle_balance(cpu: Cpu) -> None:
    """Age the other idle CPUs' blocked load on the way into idle (≤ 5.11)."""
    if cpu.rq.avg_idle < cpu.rq.tun.migration_cost:
        return
    facts = cpu.view(cpu.bal_node)
    if facts[BAL_HAS_BLOCKED] and cpu.jiffies() >= facts[BAL_NEXT_BLOCKED]:
        cpu.send_mail(cpu.bal_node, messages.NOHZ_UPDATE, (NOHZ_NEWIDLE_STATS, cpu.now))


def newidle_paid(cpu: Cpu, _arg: object) -> None:
    """The time of a further pass is over."""
    cpu.wait(frames.NEWIDLE_WAIT)
    send_paid(cpu)


def send_paid(cpu: Cpu) -> None:
    """Tell the balancer that the time it asked for is over, and whether something came up."""
    cpu.send(
        cpu.bal_node,
        messages.BALANCE_PAID,
        (int(cpu.rq.need_resched),),
        cpu.now + cpu.costs.request_ns,
        balancer_reply_ns(cpu),
    )


def balancer_reply_ns(cpu: Cpu) -> int:
    """Return how soon the balancer can turn to this CPU once it has what this CPU sends.

    A pass that this CPU makes for another one may find it the busiest, and ask it within the instant.
    """
    return 0 if cpu.balance_asked == BALANCE_NOHZ else cpu.costs.coherence_ns


def newidle_finished(cpu: Cpu, pulled: object) -> None:
    """The newidle balance is over: pick again, tasks may have come."""
    rq = cpu.rq
    fair.update_rq_clock(rq, cpu.now)
    if rq.cfs.nr_running or rq.stop_queued or rq.rt.runnable():
        rq.idle_stamp = 0
        core.pick_next_task(cpu, rq.curr)
        return
    if rq.rules.newidle_blocked_later and not pulled and rq.avg_idle >= rq.tun.migration_cost:
        cpu.nohz_flags |= NOHZ_NEWILB_KICK  # the idle loop ages blocked load
    core.pick_idle(cpu, rq.curr)


def overloaded(cpu: Cpu) -> bool:
    """``rd.overload`` as this CPU can know it: some CPU has had two tasks since the last clean pass."""
    since = cpu.view(cpu.bal_node)[BAL_OVERLOAD_NS]
    for other in range(cpu.nr_cpus):
        if other != cpu.node_id and cpu.view(other)[RQ_OVERLOAD_NS] >= since:
            return True
    return cpu.rq.overload_ns >= since
