"""Works that are queued later or for a node: ``queue_delayed_work()``, ``queue_work_node()``, v5.4 (F.4).

Theory of operation
-------------------
A delayed work is a timer of the wheel on the CPU that asks for it, and is queued where that expires, as
an item is that is queued there; without a delay it is queued at once.  Neither a flush nor a drain knows of
it before; :func:`cancel_delayed_work` takes it back.

For a node an item of an unbound queue goes to the pool of this CPU if that is one of the node's, else to
that of the node's first online CPU.  A node that is not there is none.

Departures from the kernel: that a bound queue is given a node is not warned of, and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.kernel import hrtimer, wq_pool, wq_unbound
from emulator.types import cpumask_first

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def queue_delayed_work(cpu: Cpu, wq_id: int, arg: list[Any], delay_ns: int) -> None:
    """``queue_delayed_work()`` of a module's item: its timer, in whole jiffies, is on this CPU."""
    expires = cpu.jiffies() + -(-delay_ns // cpu.tick_ns)
    hrtimer.add_jiffy_timer(cpu, expires, hrtimer.WHEEL_DELAYED_WORK, [wq_id, arg])


def cancel_delayed_work(cpu: Cpu, name: str) -> bool:
    """``cancel_delayed_work()``: whether a module's item had a timer here, which is gone then."""
    for timer in cpu.jiffy_timers:
        if timer[2] == hrtimer.WHEEL_DELAYED_WORK and timer[3][1][0] == name:
            cpu.jiffy_timers.remove(timer)
            return True
    return False


def queue_work_node(cpu: Cpu, wq_id: int, arg: list[Any], node: int) -> None:
    """``queue_work_node()`` of a module's item on an unbound queue."""
    cpu.works[0] += 1
    here = select_numa_node_cpu(cpu, node)
    wq_unbound.queue_work(cpu, [cpu.work_id(), wq_pool.FN_MODULE, wq_id, arg, 0], here)


def select_numa_node_cpu(cpu: Cpu, node: int) -> int:
    """``workqueue_select_cpu_near()``: a CPU of the node, -1: whichever queueing would choose."""
    nodes = sorted(set(cpu.spec.machine.node), key=cpumask_first)
    if len(nodes) < 2 or not 0 <= node < len(nodes):
        return -1
    mask = nodes[node]
    if mask >> cpu.node_id & 1:
        return cpu.node_id
    online = mask & cpu.domains.active_mask
    return cpumask_first(online) if online else -1
