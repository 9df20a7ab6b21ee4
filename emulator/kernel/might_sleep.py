"""Where the way into an IO gives the CPU up: ``_cond_resched()`` in ``might_sleep()``, v5.4.

Theory of operation
-------------------
Under ``CONFIG_PREEMPT_VOLUNTARY`` a task inside the kernel is not preempted, but every
``might_sleep()`` that it passes lets a pending reschedule happen.  A direct write passes seven between
the entry of ``io_submit()`` and its request: the allocation of the iocb, the freeze protection of the
file system, the inode's IO lock, the allocation of the dio, the inode's lock for the mapping, the
allocation of the bio, and ``generic_make_request()``.  After that there is none until the return to user space: what the plug
holds is dispatched, whatever happens meanwhile.

Nothing is done while no reschedule is pending: an interrupt that asked for one and returns into such
a stretch cuts it at the next point.

Departures from the kernel: where the points lie is not known, so the stretch is cut into equal parts,
the last point at its end; the other system calls have none here but where they sleep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.kernel import core, frames

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: Calls of ``might_sleep()`` between the entry of ``io_submit()`` and the request.
POINTS = 7
#: The stretches that have them.
STRETCHES = frozenset((frames.SUBMIT_PREP, frames.RW_PREP))


def go_to_point(cpu: Cpu) -> None:
    """Let the stretch on top, with a reschedule pending, end at its next point."""
    left = cpu.f_end - cpu.now
    part = max(1, cpu.costs.io_submit_ns // POINTS)
    rest = min(left // part, POINTS - 1) * part
    cpu.start(frames.SUBMIT_POINT, left - rest, [cpu.f_kind, rest, cpu.f_arg])


def point_reached(cpu: Cpu, arg: list[int]) -> None:
    """``_cond_resched()``: give way; the task goes on with the rest of the stretch."""
    run = cpu.rq.curr.run
    run.kind, run.left, run.arg = arg
    if cpu.rq.need_resched:
        core.schedule(cpu)
    else:
        cpu.start(run.kind, run.left, run.arg)
