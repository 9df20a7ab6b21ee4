"""Direct IO through iomap and XFS: ``fs/iomap/direct-io.c``, ``fs/xfs/xfs_file.c``, v5.4.

Theory of operation
-------------------
A direct write holds the inode's IO lock shared if it is aligned to file system blocks.  One that is
not takes the lock alone, waits until no direct IO of the inode is in flight, submits, and waits
again for its own: ``io_submit()`` sleeps, and it is the completion *worker* that wakes it (D.6).
From v5.5 on the end of the bio wakes it, without a worker (``rules.xfs_unaligned_wait``); from v5.12
on a sub-block overwrite is not serialised at all (``rules.xfs_unaligned_overwrite``).

When the last bio of a dio ends, a synchronous waiter is woken, a read is completed on the spot, and
an asynchronous write queues ``iomap_dio_complete_work()`` on the CPU where it ended (D.2).  The
work decrements the inode's count of direct IOs, wakes who waits for it, and completes the iocb.

Departures from the kernel: one bio per IO (up to 1 MiB); a raw block device completes
asynchronous writes in the softirq, as the block device's own direct IO does; a worker pays for waking
a submitter of another CPU only if that CPU is idle.

What a write finds in its file, and so what its end has to do, is :mod:`xfs_file`'s to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    aio,
    core,
    dio_completion,
    frames,
    io_uring,
    workqueue,
    wq_functions,
    wq_pool,
    wq_table,
    wq_worker,
    xfs_file,
)
from emulator.kernel.process import WAIT_DIO, WAIT_RW
from emulator.kernel.sched import PF_WQ_WORKER
from emulator.kernel.xfs_file import IOMAP_DIO_URING, IOMAP_DIO_WAIT, NOT_PURE, FileFacts, unaligned
from emulator.types import READ, RQ_FLAGS, RQF_IDLE

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.request import Request
    from emulator.kernel.sched import Task


def dio_bio_end_io(cpu: Cpu, rq: Request) -> bool:
    """``iomap_dio_bio_end_io()`` of an asynchronous IO; return whether a worker is to be woken."""
    if submitter_holds(cpu, rq):
        state = cpu.rq.curr.run.iocbs[rq.iocb]
        state[2], state[3] = rq.error or state[2], 0
        return False
    facts = cpu.files[rq.file]
    if rq.dio & IOMAP_DIO_URING and io_uring.caller_completes(cpu, rq, facts.fs):
        io_uring.dio_deferred(cpu, rq)
        return False
    if rq.rw == READ or facts.fs == "none" or waits_for_itself(cpu, facts, rq):
        dio_complete(cpu, rq)
        return False
    if cpu.rq.rules.dio_overwrite_inline and not (rq.error or rq.dio & NOT_PURE):
        # It maps to written blocks, and neither size nor log changes.
        dio_completion.complete_inline(cpu, rq)
        return False
    if cpu.completion is not None:
        return dio_completion.queue_write(cpu, cpu.completion, rq)
    return workqueue.queue_work(cpu, wq_table.WQ_DIO, wq_pool.FN_DIO_COMPLETE, rq, cpu.work_id())


def waits_for_itself(cpu: Cpu, facts: FileFacts, rq: Request) -> bool:
    """Whether the submitter waits for this very dio: the end of its bio wakes it."""
    rules = cpu.rq.rules
    if rq.dio & IOMAP_DIO_WAIT:
        return rules.xfs_unaligned_wait or rules.xfs_unaligned_overwrite
    if not rules.xfs_unaligned_wait:
        return False
    return unaligned(facts, rq.sector * 512 - facts.start, rq.nr_sector * 512)


def submitter_holds(cpu: Cpu, rq: Request) -> bool:
    """Whether the bio ends inside ``queue_rq()``, before ``iomap_dio_rw()`` drops its reference."""
    return (
        cpu.f_kind == frames.DISPATCHED
        and cpu.f_arg[1] == "iocb"
        and rq.pid == cpu.rq.curr.pid
        and rq.iocb == cpu.rq.curr.run.iocb_seq
    )


def ended_early(p: Task) -> bool:
    """Whether the bio of the submitter's last iocb has ended while it held its reference."""
    state = p.run.iocbs.get(p.run.iocb_seq)
    return state is not None and state[0] == 2 and not state[3]


def dio_put(cpu: Cpu, p: Task, file: int) -> None:
    """``iomap_dio_rw()`` drops its reference; the submitter completes a dio that has ended."""
    if ended_early(p):
        state = p.run.iocbs[p.run.iocb_seq]
        inode_dio_end(cpu, p, file)
        if p.run.inode_io:
            xfs_file.write_end(cpu, p, p.run.iocb_seq, state[2] < 0)
        aio.iocb_put(cpu, p, p.run.iocb_seq, 0, aio.BY_ENDIO)


def dio_complete_work(cpu: Cpu, rq: Request) -> None:
    """``iomap_dio_complete_work()``'s effect, in a worker; its tail follows."""
    owner = cpu.tasks.get(rq.pid)
    if owner is None:
        cpu.start(frames.WORK_TAIL, cpu.costs.dio_tail_ns + remote_wakeup_ns(cpu, rq))
        send_dio_done(cpu, rq)
        return
    if owner.run.inode_io:
        xfs_file.write_end(cpu, owner, rq.iocb, rq.error)
    if inode_dio_end(cpu, owner, rq.file):
        # The submitter is woken before the completion's reference of the iocb is dropped.
        cpu.start(frames.WORK_TAIL, cpu.costs.dio_tail_ns, 1)
        core.wake_up(cpu, owner, cpu.rq.rules.completion_sync_hint)
        return
    cpu.start(frames.WORK_TAIL, cpu.costs.dio_tail_ns)
    ended_here(cpu, owner, rq)
    sync = cpu.rq.rules.completion_sync_hint
    aio.iocb_put(cpu, owner, rq.iocb, rq.error, aio.BY_WORKER, sync=sync)


def remote_wakeup_ns(cpu: Cpu, rq: Request) -> int:
    """Return what a worker spends on waking a submitter that sleeps on another CPU.

    It chooses the CPU and enqueues there itself; only that a CPU is idle tells here that the
    submitter sleeps.
    """
    home = home_of(cpu, rq)
    if home < 0 or not cpu.view(home)[RQ_FLAGS] & RQF_IDLE:
        return 0
    return cpu.costs.select_task_rq_ns + cpu.costs.ttwu_activate_ns


def home_of(cpu: Cpu, rq: Request) -> int:
    """Return the CPU on which the submitter of an IO is as far as this one knows, -1: this one."""
    if rq.pid in cpu.tasks:
        return -1
    moves, target = cpu.forward.get(rq.pid, (-1, -1))
    return rq.home if moves <= rq.moves else target


def completes_elsewhere(cpu: Cpu) -> bool:
    """Whether the work on top completes an IO of another CPU, whose state it then asks."""
    item = wq_functions.current_item(cpu, cpu.rq.curr)
    return item[1] == wq_pool.FN_DIO_COMPLETE and item[3].pid not in cpu.tasks


def dio_complete(cpu: Cpu, rq: Request) -> None:
    """Complete an asynchronous IO where its bio ended, without a worker."""
    owner = cpu.tasks.get(rq.pid)
    if owner is None:
        send_dio_done(cpu, rq)
        return
    if owner.run.inode_io and not rq.dio & IOMAP_DIO_WAIT:
        xfs_file.write_end(cpu, owner, rq.iocb, rq.error)
    if inode_dio_end(cpu, owner, rq.file):
        core.wake_up(cpu, owner)
    ended_here(cpu, owner, rq)
    aio.iocb_put(cpu, owner, rq.iocb, rq.error, aio.BY_ENDIO)


def dio_tail_end(cpu: Cpu, pending: int | None) -> None:
    """The end of a work item; drop the iocb's reference if that was still to be done."""
    if pending:
        p = cpu.rq.curr
        rq = wq_functions.current_item(cpu, p)[3]
        owner = cpu.tasks.get(rq.pid)
        if owner is None:
            send_dio_done(cpu, rq, only_iocb=True)
        else:
            ended_here(cpu, owner, rq)
            sync = cpu.rq.rules.completion_sync_hint
            aio.iocb_put(cpu, owner, rq.iocb, rq.error, aio.BY_WORKER, sync=sync)
    wq_worker.work_end(cpu, None)


def inode_dio_end(cpu: Cpu, owner: Task, file: int) -> bool:
    """``inode_dio_end()``: one direct IO less; return whether the owner sleeps for the last one.

    Those that are left to the owner itself it does not wait for: it completes them when it wakes.
    """
    count = owner.run.dio_count[file] - 1
    assert count >= 0, cpu.story(f"direct IOs of file {file} end twice")
    owner.run.dio_count[file] = count
    run = owner.run
    return run.wait == WAIT_DIO and run.wait_arg == file and aio.waits_for_left(owner)


def ended_here(cpu: Cpu, owner: Task, rq: Request) -> None:
    """Where its owner is, an IO ends of which it had expected to get mail: one of them moved."""
    if rq.moves != owner.moves or rq.remote:
        owner.run.remote_ios -= 1
        assert owner.run.remote_ios >= 0, cpu.story(f"an IO of {owner.comm}/{owner.pid} ends twice")


#: In the mail's ``sync``: the submitter is to complete the dio.
DEFERRED = 2


def send_dio_done(cpu: Cpu, rq: Request, only_iocb: bool = False, deferred: bool = False) -> None:
    """Tell the CPU that the owner went to: mail, forwarded if it has moved on.

    The owner may never have been here since it submitted, if this CPU took the request over from one
    that died: then the way begins there.
    """
    moves, target = way_to_owner(cpu, rq)
    cpu.send_mail(
        target,
        messages.DIO_DONE,
        (
            rq.pid,
            moves,
            -1 if only_iocb else rq.file,
            rq.iocb,
            rq.error,
            cpu.node_id,
            cpu.rq.curr.pid,
            cpu.cause,
            DEFERRED if deferred else worker_hints(cpu),
        ),
    )


def way_to_owner(cpu: Cpu, rq: Request) -> tuple[int, int]:
    """Return the residence and the CPU to which mail of an IO goes, whose owner is not here."""
    moves, target = cpu.forward.get(rq.pid, (-1, -1))
    if moves <= rq.moves:
        return rq.moves, rq.home
    if rq.remote or moves - 1 != rq.moves:
        cpu.unexpect(rq.pid)
    return moves, target


def worker_hints(cpu: Cpu) -> int:
    """Whether a worker completes an IO here, and says that it will sleep soon (F20): 0 or 1."""
    in_worker = cpu.level == frames.LEVEL_TASK and cpu.rq.curr.flags & PF_WQ_WORKER
    return int(bool(in_worker) and cpu.rq.rules.completion_sync_hint)


def dio_done_mail(cpu: Cpu, owner: Task, args: tuple[int, ...]) -> None:
    """An IO of a task that had moved here is complete; wake it on behalf of who completed it."""
    _pid, _moves, file, iocb, error, waker_cpu, waker_pid, cause, sync = args
    cpu.cause = cause
    if sync == DEFERRED:
        if owner.run.uring is None:
            aio.add_dio(cpu, owner, file, iocb, (waker_cpu, waker_pid))
        else:
            io_uring.add_dio(cpu, owner, file, iocb, error, (waker_cpu, waker_pid))
        return
    if file >= 0 and owner.run.inode_io:
        xfs_file.write_end(cpu, owner, iocb, error)
    if file >= 0 and inode_dio_end(cpu, owner, file):
        core.try_to_wake_up(cpu, owner, bool(sync), (waker_cpu, waker_pid))
    if owner.pid in cpu.tasks:
        aio.iocb_put(cpu, owner, iocb, error, aio.BY_WORKER, (waker_cpu, waker_pid), bool(sync))
    else:
        moves, target = cpu.forward[owner.pid]
        cpu.send_mail(
            target,
            messages.DIO_DONE,
            (owner.pid, moves, -1, iocb, error, waker_cpu, waker_pid, cause, sync),
        )


def dio_wake_waiter(cpu: Cpu, rq: Request) -> None:
    """The end of a synchronous IO: its submitter, asleep on this CPU or elsewhere, is woken."""
    owner = cpu.tasks.get(rq.pid)
    if owner is None:
        send_dio_done(cpu, rq)
        return
    ended_here(cpu, owner, rq)
    sync_done(cpu, owner, None)


def sync_done(cpu: Cpu, owner: Task, waker: tuple[int, int] | None) -> None:
    """``pread()``/``pwrite()`` may go on."""
    run = owner.run
    run.iocbs.pop(-1)
    if run.wait == WAIT_RW and owner.state != tp.TASK_RUNNING:
        if waker is None:
            core.wake_up(cpu, owner)
        else:
            core.try_to_wake_up(cpu, owner, waker=waker)


# -- Buffered writeback (E.4) -------------------------------------------------------------------


def writeback_end_bio(cpu: Cpu, rq: Request) -> bool:
    """``xfs_end_bio()`` of appended or unwritten pages: their ioend is queued on ``xfs-conv``."""
    if cpu.completion is not None:
        wq, function = wq_table.WQ_XFS_CONV, wq_pool.FN_XFS_END_IO
        return dio_completion.queue(cpu, cpu.completion, wq, function, rq)
    return workqueue.queue_work(cpu, wq_table.WQ_XFS_CONV, wq_pool.FN_XFS_END_IO, rq, cpu.work_id())


def writeback_end_work(cpu: Cpu, rq: Request) -> None:
    """``xfs_end_io()``: the pages are clean."""
    cpu.count("writeback_pages", rq.nr_sector >> 3)
    cpu.start(frames.WORK_TAIL, cpu.costs.dio_tail_ns)
