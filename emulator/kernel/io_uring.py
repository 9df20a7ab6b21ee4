"""io_uring: ``fs/io_uring.c`` of v5.4 to ``io_uring/rw.c`` of v6.12, as far as direct IO needs it (D.2).

Theory of operation
-------------------
``io_uring_enter()`` takes each submission as ``io_submit()`` takes an iocb (:mod:`aio`), without
credits.  A completion becomes an entry of the ring that user space reads without a system call; it
enters the kernel only to wait for more.

Up to v5.14 the entry is written where the IO ends.  From v5.15 on (``rules.uring_task_work``) the end
only leaves *task work* with the submitter, who writes the entry when it next returns to user space: at
the end of an interrupt or of a system call, or woken from its wait.  From v6.6 on
(``rules.dio_caller_comp``, IOCB_DIO_CALLER_COMP) that is also how a direct write is completed if it is
a pure overwrite or was sent with FUA: no worker has to run first (F24).

A ring that is polled (IORING_SETUP_IOPOLL) is :mod:`blk_poll`'s: its submitter waits by looking for
completions itself, and its entries need no task work.

Departures from the kernel: what would make a submission wait (a tag, the inode's lock) makes the
submitter wait, where the kernel hands the submission to an io-wq worker; the ring is as large as it
need be; the IPI that makes a submitter on another CPU look at its task work is neither sent nor charged,
it looks when it next takes completions; task work interrupts no sleep but the wait for completions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import aio, blk_poll, core, dio_completion, frames, iomap, mail, syscall
from emulator.kernel.process import WAIT_RING, Uring
from emulator.kernel.xfs_file import NOT_PURE
from emulator.types import READ

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.request import Request
    from emulator.kernel.sched import Task


# -- System calls -------------------------------------------------------------------------------


def sys_enter(cpu: Cpu, p: Task, sqes: list[Any], iopoll: bool = False) -> None:
    """Start ``io_uring_enter()`` that submits; the first one finds the ring set up."""
    if p.run.uring is None:
        p.run.uring = Uring(iopoll)
    aio.sys_io_submit(cpu, p, sqes)


def sys_reap(cpu: Cpu, p: Task, min_nr: int, nr: int) -> None:
    """Look at the ring in user space: up to ``nr`` entries, or a wait until ``min_nr`` are there."""
    if p.run.uring is None:
        p.run.uring = Uring()
    cpu.start(frames.URING_REAP, cpu.costs.aio_ring_ns, [min_nr, nr, 0])


def uring_of(p: Task) -> Uring:
    """Return the ring of a task that has one."""
    ring: Uring | None = p.run.uring
    assert ring is not None, f"{p.comm}/{p.pid} has no io_uring"
    return ring


def needs_mail(cpu: Cpu) -> bool:
    """Whether what the frame on top takes from the ring depends on mail still to come.

    It does as long as any IO ends elsewhere: its entry may be the next in the ring.
    """
    nr: int = cpu.f_arg[1]
    p = cpu.rq.curr
    return p.run.remote_ios > 0 or len(uring_of(p).cqes) < nr


def reap_end(cpu: Cpu, arg: list[int]) -> None:
    """Take what there is if it is enough, else enter the kernel (``io_cqring_wait()``) and sleep."""
    p = cpu.rq.curr
    ring = uring_of(p)
    min_nr, nr, entered = arg
    if p.run.remote_ios or len(ring.cqes) < nr:
        mail.drain(cpu)
    if ring.works:
        run_task_work(cpu, p, [frames.URING_REAP, 0, arg])
    elif len(ring.cqes) >= min_nr and not (ring.iopoll and must_look(p, arg)):
        taken = ring.cqes[:nr]
        del ring.cqes[:nr]
        syscall.return_to_user(cpu, taken)
    elif not entered:
        ns = cpu.costs.syscall_ns + cpu.costs.io_getevents_ns
        cpu.start(frames.URING_REAP, ns, [min_nr, nr, 1])
    elif ring.iopoll:
        blk_poll.poll(cpu, [blk_poll.REAP, max(min_nr, 1), nr])
    else:
        p.run.wait = WAIT_RING
        p.run.wait_arg = min_nr
        left = cpu.costs.io_wait_ns
        core.block(cpu, p, tp.TASK_INTERRUPTIBLE, frames.URING_REAP, left, arg)


def must_look(p: Task, arg: list[int]) -> bool:
    """Whether fio enters a ring that it polls although it asks for nothing: else it never gets any."""
    return not (arg[0] or uring_of(p).cqes) and bool(p.run.iocbs)


# -- Completion ---------------------------------------------------------------------------------


def caller_completes(cpu: Cpu, rq: Request, fs: str) -> bool:
    """Whether the end of a bio leaves the whole completion to the submitter's task work."""
    rules = cpu.rq.rules
    if not rules.uring_task_work:
        return False
    return rq.rw == READ or fs == "none" or (rules.dio_caller_comp and not rq.dio & NOT_PURE)


def dio_deferred(cpu: Cpu, rq: Request) -> None:
    """``io_complete_rw()`` of a dio that its submitter completes: leave it as task work."""
    owner = cpu.tasks.get(rq.pid)
    if owner is None:
        iomap.send_dio_done(cpu, rq, deferred=True)
        return
    iomap.ended_here(cpu, owner, rq)
    add_dio(cpu, owner, rq.file, rq.iocb, rq.error)


def add_dio(
    cpu: Cpu,
    owner: Task,
    file: int,
    iocb: int,
    error: int,
    waker: tuple[int, int] | None = None,
) -> None:
    """Leave the completion of a dio with its submitter."""
    state = owner.run.iocbs[iocb]
    state[3] = 0
    state[4] = 1
    if error:
        state[2] = error
    ring = uring_of(owner)
    ring.works.append([file, iocb, 0])
    if aio.waits_for_left(owner):
        wake(cpu, owner, waker)
    else:
        notify(cpu, owner, waker)


def complete(
    cpu: Cpu,
    owner: Task,
    data: int,
    res: int,
    inline: int,
    by: int,
    waker: tuple[int, int] | None,
) -> None:
    """``io_complete_rw()``: the IO is over; its entry is written now or by the submitter."""
    ring = uring_of(owner)
    if ring.iopoll:
        post_cqe(cpu, owner, data, res, inline)
        blk_poll.found(cpu, owner)
        return
    if by != aio.BY_SUBMITTER and cpu.rq.rules.uring_task_work:
        ring.works.append([data, res, 1 + inline])
        notify(cpu, owner, waker)
        return
    post_cqe(cpu, owner, data, res, inline)
    if owner.run.wait == WAIT_RING and len(ring.cqes) >= owner.run.wait_arg:
        wake(cpu, owner, waker)


def post_cqe(cpu: Cpu, owner: Task, data: int, res: int, inline: int) -> None:
    """Write one entry."""
    uring_of(owner).cqes.append((data, res))
    cpu.emit(tp.BOX_AIO_COMPLETE, owner.pid, data, res, inline)


def notify(cpu: Cpu, owner: Task, waker: tuple[int, int] | None) -> None:
    """``task_work_add(TWA_SIGNAL)``: a submitter that waits for completions is woken for it."""
    if owner.run.wait == WAIT_RING:
        wake(cpu, owner, waker)


def wake(cpu: Cpu, owner: Task, waker: tuple[int, int] | None) -> None:
    """Wake the submitter if it is asleep."""
    if owner.state == tp.TASK_RUNNING:
        return
    if waker is None:
        core.wake_up(cpu, owner)
    else:
        core.try_to_wake_up(cpu, owner, waker=waker)


# -- Task work ----------------------------------------------------------------------------------


def interrupted(cpu: Cpu) -> None:
    """Back in the user code of a task that has an io_uring: task work comes first."""
    p = cpu.rq.curr
    if uring_of(p).works:
        run_task_work(cpu, p, [cpu.f_kind, cpu.f_end - cpu.now, cpu.f_arg])


def run_task_work(cpu: Cpu, p: Task, after: list[Any]) -> None:
    """``task_work_run()`` on the way to user space: the first work; ``after``: what goes on then."""
    kind = uring_of(p).works[0][2]
    ns = cpu.costs.task_work_ns + (0 if kind else cpu.costs.dio_complete_ns)
    cpu.start(frames.TASK_WORK, ns, after)


def task_work_end(cpu: Cpu, after: list[Any]) -> None:
    """One work is done: the next one, or what it came before."""
    p = cpu.rq.curr
    ring = uring_of(p)
    first, second, kind = ring.works.pop(0)
    if kind:
        post_cqe(cpu, p, first, second, kind - 1)
    else:
        dio_completion.note_own(cpu, 1)
        iomap.inode_dio_end(cpu, p, first)
        _refs, data, res, _outstanding, inline = p.run.iocbs.pop(second)
        post_cqe(cpu, p, data, res, inline)
    kind, left, arg = after
    if ring.works:
        run_task_work(cpu, p, after)
    elif kind == frames.RET_USER:
        syscall.return_to_user(cpu, arg)
    elif kind == frames.USER and cpu.rq.need_resched:
        p.run.kind, p.run.left, p.run.arg = after
        core.schedule(cpu)
    else:
        cpu.start(kind, left, arg)
