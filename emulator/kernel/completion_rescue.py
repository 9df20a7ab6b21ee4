"""P5: works that wait too long are taken to another CPU, as a rescuer would take them; no kernel does this.

Theory of operation
-------------------
The policy ``rescue`` queues as ``bound`` does.  At each tick the CPU looks at its pool: if works wait and no
worker runs, the signals are asked (:mod:`saturation`; by itself the age of the first work, in jiffies).
If all say that the CPU is saturated and one that shares its cache idles, all works of the pool that
complete IOs go to that CPU's pool.  The worker that was woken for them here finds an empty list.

What stays, whatever the signals say:

* works that are of this CPU: a module's, a hardware queue's run.  Those that complete an IO may run
  anywhere; each is of one dio or ioend, so it never executes twice at once;
* works that somebody flushes: he has been promised an answer from here;
* what ``max_active`` delays.  A work that leaves counts in its queue's ``nr_active`` there, not here, so delayed
  ones become active, for the next tick to look at;
* all works once the CPU goes down: its pool is served from elsewhere in any case (:mod:`wq_hotplug`).

Departures from the kernel: the whole of it.  A flush that begins while works are on their way does not
see them (:mod:`wq_flush`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import dio_completion, wq_pool

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.dio_completion import DioCompletion

#: Functions whose works complete an IO, wherever they run.
MOVABLE = (wq_pool.FN_DIO_COMPLETE, wq_pool.FN_XFS_END_IO)


def rescue(cpu: Cpu, policy: DioCompletion) -> None:
    """The tick: take the works that wait elsewhere if this CPU is saturated, and pay for it."""
    pool = cpu.pools[0]
    if pool.nr_running or cpu.asked is not None:
        return
    items = [item for item in pool.worklist if may_leave(cpu, item)]
    if not items:
        return
    policy.ns = 0
    target, why = dio_completion.unless_saturated(cpu, policy, items[0][3])
    if target == cpu.node_id:
        pid = items[0][3].pid
        cpu.emit(tp.BOX_COMPLETION, items[0][0], pid, target, why, policy.ns)
        ns = policy.ns
    else:
        ns = hand_over(cpu, policy, target, items)
    if ns:
        dio_completion.charge(cpu, ns)


def may_leave(cpu: Cpu, item: list[Any]) -> bool:
    """Whether a work that waits may be executed by another CPU's pool."""
    return item[1] in MOVABLE and not any(item[0] in flusher[1] for flusher in cpu.flushers)


def hand_over(cpu: Cpu, policy: DioCompletion, target: int, items: list[list[Any]]) -> int:
    """Move works to another CPU's pool, one after the other under its lock; return what it takes."""
    pool = cpu.pools[0]
    cause, cost = cpu.cause, policy.ns
    ns = cost + cpu.costs.coherence_ns
    for item in items:
        rq = item[3]
        cpu.cause = cause
        item[4] = cpu.emit(tp.BOX_COMPLETION, item[0], rq.pid, target, tp.COMPLETION_RESCUED, cost)
        cost = 0  # one decision for all
        pool.worklist.remove(item)
        wq_pool.pwq_dec_nr_in_flight(cpu, pool, item[2])
        if item[1] == wq_pool.FN_DIO_COMPLETE:
            dio_completion.send_away(cpu, rq)
        ns = dio_completion.insert_there(cpu, policy, target, item, ns)
    pool.watchdog_ns = cpu.now
    cpu.count("works_rescued", len(items))
    return ns
