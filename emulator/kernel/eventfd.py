"""The eventfd that finished IOs signal: ``fs/eventfd.c`` and IOCB_FLAG_RESFD of ``fs/aio.c``, v5.4.

Theory of operation
-------------------
An iocb with an eventfd adds one to its count when its event is in the ring, in the context of whoever
completes it: a worker, a softirq, the submitter.  That wakes the task that sleeps in a read of it (or
in ``epoll_wait()``, which comes to the same wakeup), whatever number of events it would like to have:
what 6.8 changed for ``io_getevents()`` does not reach here.  A read returns the count and clears it.

Departures from the kernel: all iocbs of a context signal the eventfd or none does; only the context's
own task reads it; an ``epoll_wait()`` before the read costs nothing extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import tracepoints as tp
from emulator.kernel import aio, core, frames, mail, syscall
from emulator.kernel.process import WAIT_EVENTFD

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task


def sys_read(cpu: Cpu) -> None:
    """Start ``read()`` of the eventfd."""
    cpu.start(frames.EVENTFD_READ, cpu.costs.syscall_ns + cpu.costs.pipe_read_ns)


def eventfd_read(cpu: Cpu, _arg: object) -> None:
    """``eventfd_read()``: return the count, or sleep until there is one."""
    p = cpu.rq.curr
    ctx = aio.io_context(p)
    if p.run.remote_ios:
        mail.drain(cpu)
    if ctx.works and aio.complete_left(cpu, p, frames.EVENTFD_READ, None):
        return
    if ctx.eventfd > 0:
        count, ctx.eventfd = ctx.eventfd, 0
        syscall.return_to_user(cpu, count)
        return
    p.run.wait = WAIT_EVENTFD
    core.block(cpu, p, tp.TASK_INTERRUPTIBLE, frames.EVENTFD_READ, cpu.costs.pipe_read_ns)


def eventfd_signal(cpu: Cpu, owner: Task, waker: tuple[int, int] | None) -> None:
    """``eventfd_signal()`` of one event: who sleeps in a read is woken."""
    aio.io_context(owner).eventfd += 1
    if owner.run.wait != WAIT_EVENTFD or owner.state == tp.TASK_RUNNING:
        return
    if waker is None:
        core.wake_up(cpu, owner)
    else:
        core.try_to_wake_up(cpu, owner, waker=waker)
