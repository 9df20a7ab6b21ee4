"""What a CPU promises: how long it will leave the others alone.

Theory of operation
-------------------
Every promise is a lower bound, from the state now, on what this CPU does *if it receives nothing*.
What can reach another node comes from few places: the placement of a movable task, a tick that may
kick an idle CPU, a reschedule that may go idle and ask the balancer, an interrupt that steers a
request elsewhere, a request that must be asked of its device.  While none of them is near, the
promise reaches further than the next event; that is what makes windows long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.types import NEVER, Promise

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def promise(cpu: Cpu) -> Promise:
    """Return the promise of a CPU."""
    soonest = cpu.next_event_ns()
    return Promise(
        cpu.reached_ns,
        soonest,
        [soonest, soonest, soonest],
        mail_ns(cpu, soonest),
        cpu.wants_view,
    )


def mail_ns(cpu: Cpu, soonest: int) -> int:
    """Return the earliest time at which mail could make this CPU send."""
    if cpu.mail_sleepers or cpu.expect:
        return cpu.reached_ns
    for p in cpu.tasks.values():
        if p.run.remote_ios:
            return soonest
    return NEVER
