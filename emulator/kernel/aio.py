"""Asynchronous IO system calls: ``fs/aio.c``, v5.4, and the submission side of direct IO.

Theory of operation
-------------------
``io_submit()`` takes each iocb in turn: a credit, the file system's lock, a request, the plug.  An
iocb starts with two references, the submitter's and the completion's; whoever drops the second one
writes the ring event (C.3).  ``io_getevents()`` takes what is in the ring if that is enough, or
sleeps until it is; up to v6.7 every event wakes it, whatever number it asked for, from v6.8 on
(``rules.aio_wake_min_nr``) the one that completes that number does.

With the completion policy ``caller`` the end of a pure overwrite only leaves the dio in the context
(:func:`add_dio`), as io_uring does from v6.6 on; the submitter completes it in its next
``io_getevents()``, or when ``io_submit()`` would wait for it.

Departures from the kernel: the event of an IO that ended on a CPU which its submitter has left enters
the ring when the submitter next looks, behind those of its own CPU since the last look; the reads under
the ring's mutex cost nothing extra; a submitter's own completions have their effect first and take their
time afterwards; ``RWF_NOWAIT`` and fsync through AIO are not offered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import (
    blk_flush,
    blk_mq,
    blk_mq_tag,
    blk_poll,
    buffered,
    core,
    dio_completion,
    eventfd,
    frames,
    fsync,
    io_uring,
    iomap,
    mail,
    might_sleep,
    syscall,
    xfs_file,
    xfs_log,
)
from emulator.kernel.blk_queue import FROM_SCHEDULE, PLUG_ENDS, PLUG_FULL
from emulator.kernel.process import WAIT_DIO, WAIT_EVENTFD, WAIT_RING, WAIT_RW, Kioctx
from emulator.kernel.request import DIO_SYNC, PAGES
from emulator.types import WRITE

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task

EAGAIN = 11
EINVAL = 22


def io_context(p: Task) -> Kioctx:
    """Return the AIO context of a task that has one."""
    ctx: Kioctx | None = p.run.ctx
    assert ctx is not None, f"{p.comm}/{p.pid} does AIO without io_setup()"
    return ctx


# -- io_submit() --------------------------------------------------------------------------------


def sys_io_submit(cpu: Cpu, p: Task, iocbs: list[Any], resfd: bool = False) -> None:
    """Start ``io_submit()`` of a list of iocbs (data, rw, file, offset, length).

    ``resfd``: with IOCB_FLAG_RESFD.
    """
    if resfd and io_context(p).eventfd < 0:
        io_context(p).eventfd = 0
    p.run.submit = [iocbs, 0, 0]
    costs = cpu.costs
    cpu.start(frames.SUBMIT_PREP, costs.syscall_ns + costs.io_submit_ns)


def submit_prep_end(cpu: Cpu, _arg: object) -> None:
    """One iocb has got as far as its request: credit, lock, request."""
    p = cpu.rq.curr
    iocbs, index, _done = p.run.submit
    data, rw, file, offset, length = iocbs[index]
    if p.run.uring is None and not take_credit(cpu, p):
        p.run.submit[2] = p.run.submit[2] or -EAGAIN
        finish_submit(cpu, p)
        return
    facts = cpu.files[file]
    if (offset | length) % 512:
        complete_now(cpu, p, data, -EINVAL)
        return
    if (
        rw == WRITE
        and p.run.dio_count.get(file, 0)
        and xfs_file.drains(p, facts, file, offset, length)
    ):
        mail.drain(cpu)
        if p.run.dio_count[file]:
            inode_dio_wait(cpu, p, file, frames.SUBMIT_LOCKED, 0)
            return
    map_blocks(cpu, p)


def take_credit(cpu: Cpu, p: Task) -> bool:
    """Take the credit of an event; what has been consumed here by other CPUs' doing counts too."""
    ctx = io_context(p)
    if ctx.get_reqs_available(cpu.node_id):
        return True
    mail.drain(cpu)
    return ctx.get_reqs_available(cpu.node_id)


def map_blocks(cpu: Cpu, p: Task) -> None:
    """A write to a hole allocates its blocks first, in a transaction; then the bio is made."""
    _data, rw, file, offset, length = p.run.submit[0][p.run.submit[1]]
    facts = cpu.files[file]
    if rw == WRITE and xfs_file.needs_blocks(p, facts, file, offset, length):
        xfs_file.allocate(p, facts, file, offset, length)
        xfs_log.transaction(cpu, p, frames.GET_TAG, 0)
    else:
        submit_bio(cpu, None)


def complete_now(cpu: Cpu, p: Task, data: int, res: int) -> None:
    """An iocb that fails before it becomes an IO: its event is written by the submitter."""
    if p.run.uring is None:
        io_context(p).complete(cpu.node_id, data, res)
        cpu.emit(tp.BOX_AIO_COMPLETE, p.pid, data, res, 1)
        if io_context(p).eventfd >= 0:
            eventfd.eventfd_signal(cpu, p, None)
    else:
        io_uring.complete(cpu, p, data, res, 1, BY_SUBMITTER, None)
    next_iocb(cpu, p)


def submit_locked(cpu: Cpu, _arg: object) -> None:
    """Woken from ``inode_dio_wait()`` before an unaligned write: look again, then submit."""
    p = cpu.rq.curr
    file = p.run.submit[0][p.run.submit[1]][2]
    mail.drain(cpu)
    if p.run.dio_count[file]:
        inode_dio_wait(cpu, p, file, frames.SUBMIT_LOCKED, 0)
        return
    map_blocks(cpu, p)


def inode_dio_wait(cpu: Cpu, p: Task, file: int, kind: int, left: int) -> None:
    """Sleep until no direct IO of the inode is in flight; look again in the given frame."""
    if complete_left(cpu, p, kind, None) or blk_poll.wait_any(cpu, p, kind, left):
        return
    p.run.wait = WAIT_DIO
    p.run.wait_arg = file
    sleep_plugged(cpu, p, kind, left)


def sleep_plugged(cpu: Cpu, p: Task, kind: int, left: int, arg: Any = None) -> None:
    """``sched_submit_work()``: flush the plug of a task about to sleep; kblockd runs the queue."""
    queues = {rq.queue: None for rq in p.run.plug}
    blk_mq.flush_plug(cpu, p, FROM_SCHEDULE)
    core.block(cpu, p, tp.TASK_UNINTERRUPTIBLE, kind, left, arg)
    for queue in queues:
        blk_mq.run_hw_queue_async(cpu, cpu.queues[queue])


def submit_bio(cpu: Cpu, _arg: object) -> None:
    """``generic_make_request()`` of the current iocb's bio: a tag, then the plug (A.4)."""
    p = cpu.rq.curr
    run = p.run
    iocbs, index, _done = run.submit
    data, rw, file, offset, length = iocbs[index]
    facts = cpu.files[file]
    q = cpu.queues[facts.disk]
    if blk_mq.plug_full(q, run.plug):
        flush(cpu, p, facts.disk, "prep")
        return
    if run.uring is not None and run.uring.iopoll and blk_poll.fails(cpu, q, facts, rw):
        complete_now(cpu, p, data, -blk_poll.EOPNOTSUPP)
        return
    if not blk_mq_tag.get_tag(cpu, q):
        if blk_mq.runs_here(cpu, facts.disk):
            blk_mq.dispatch_loop(cpu, [facts.disk, "prep"])  # that may free some
        elif not blk_poll.wait_any(cpu, p, frames.GET_TAG, 0):
            blk_mq_tag.wait_for_tag(cpu, q, p, frames.GET_TAG, None)
        return
    run.dio_count[file] = run.dio_count.get(file, 0) + 1
    run.iocb_seq += 1
    run.iocbs[run.iocb_seq] = [2, data, length, 1, 0]
    rq = blk_mq.new_request(cpu, p, facts.disk, rw, facts.start + offset, length)
    rq.file = file
    rq.iocb = run.iocb_seq
    if rw == WRITE and not facts.plain:
        rq.dio = xfs_file.classify(cpu, p, facts, file, rq.iocb, offset, length)
    if run.uring is not None:
        if run.uring.iopoll:
            blk_poll.bio_set_polled(cpu, p, q, facts, rq)
        else:
            rq.dio |= xfs_file.IOMAP_DIO_URING
    if rq.dio & xfs_file.IOMAP_DIO_WRITE_FUA and q.write_cache:
        cpu.start(frames.SUBMIT_DONE, 0)
        blk_flush.insert_flush(cpu, q, rq)  # past the plug
        return
    run.plug.append(rq)
    if len(iocbs) <= 2 or q.bios:
        flush(cpu, p, facts.disk, "iocb")  # iomap_dio_rw()'s own plug ends
    else:
        submitted(cpu, p)  # io_submit()'s plug is around it


def flush(cpu: Cpu, p: Task, queue: int, then: str) -> None:
    """Flush the plug and run the hardware queue inline; ``flushed`` goes on with ``then``."""
    full = then == "prep"
    blk_mq.flush_plug(cpu, p, PLUG_FULL if full else PLUG_ENDS)
    blk_mq.dispatch_loop(cpu, [queue, then])


def flushed(cpu: Cpu, arg: list[Any]) -> None:
    """The plug's requests are with the device."""
    p = cpu.rq.curr
    if arg[1] == "prep":
        submit_bio(cpu, None)
    elif arg[1] == "iocb":
        submitted(cpu, p)
    elif arg[1] == "rw_prep":
        rw_prep_end(cpu, None)
    elif arg[1] == "rw":
        cpu.start(frames.RW_EXIT, cpu.costs.io_submit_exit_ns)
    elif arg[1] == "pages":
        buffered.submit(cpu, arg[2])
    elif arg[1] == "done":
        finish_submit(cpu, p)
    elif arg[1] == "frame":
        cpu.start(arg[2], 0, arg[3])
    else:
        syscall.return_to_user(cpu, 0)


def submitted(cpu: Cpu, p: Task) -> None:
    """The current iocb is on its way: an unaligned write waits for it, others are done with."""
    run = p.run
    iocbs, index, _done = run.submit
    _data, rw, file, offset, length = iocbs[index]
    if run.inode_io and iomap.ended_early(p) and finish_here(cpu, p, run.iocb_seq, "submit"):
        return
    iomap.dio_put(cpu, p, file)
    if rw == WRITE and xfs_file.waits_alone(p, cpu.files[file], file, offset, length):
        p.run.unaligned = True
        cpu.start(frames.DIO_WAITED, cpu.costs.io_submit_exit_ns)
    else:
        iocb_put(cpu, p, p.run.iocb_seq, 0, BY_SUBMITTER)
        next_iocb(cpu, p)


def dio_waited(cpu: Cpu, _arg: object) -> None:
    """``inode_dio_wait()`` of an unaligned write: sleep for its own IO, or it is over."""
    p = cpu.rq.curr
    iocbs, index, _done = p.run.submit
    file = iocbs[index][2]
    mail.drain(cpu)
    if p.run.dio_count[file]:
        inode_dio_wait(cpu, p, file, frames.DIO_WAITED, cpu.costs.io_wait_ns)
        return
    if p.run.inode_io and finish_here(cpu, p, p.run.iocb_seq, "waited"):
        return
    iocb_put(cpu, p, p.run.iocb_seq, 0, BY_SUBMITTER)
    next_iocb(cpu, p)


def submit_done(cpu: Cpu, _arg: object) -> None:
    """The submitter has done what the end of a write asks for, whose bio ended at once."""
    submitted(cpu, cpu.rq.curr)


def finish_here(cpu: Cpu, p: Task, iocb: int, then: str) -> bool:
    """Let the submitter complete a write itself; return whether that takes further frames.

    A transaction comes first, a sync follows; then the inode is changed.
    """
    io = p.run.inode_io.get(iocb)
    if io is None:
        return False
    file, flags, todo = io[0], io[1], io[4]
    if todo & xfs_file.TRANSACTION:
        io[4] = todo & ~xfs_file.TRANSACTION
        xfs_log.transaction(cpu, p, FINISH_FRAMES[then], 0)
        return True
    if todo & xfs_file.IOMAP_DIO_NEED_SYNC:
        io[4] = 0
        fsync.generic_write_sync(cpu, file, bool(flags & xfs_file.IOMAP_DIO_DIRTY), then)
        return True
    xfs_file.write_end(cpu, p, iocb, 0)
    return False


#: Where a submitter that completes a write itself goes on.
FINISH_FRAMES = {
    "submit": frames.SUBMIT_DONE,
    "waited": frames.DIO_WAITED,
    "rw": frames.RW_EXIT,
}


def next_iocb(cpu: Cpu, p: Task) -> None:
    """Count the iocb just submitted; go on with the next, or leave."""
    submit = p.run.submit
    submit[1] += 1
    submit[2] += 1
    if submit[1] < len(submit[0]):
        cpu.start(frames.SUBMIT_PREP, cpu.costs.io_submit_more_ns)
        if cpu.rq.need_resched:
            might_sleep.go_to_point(cpu)
    else:
        finish_submit(cpu, p)


def finish_submit(cpu: Cpu, p: Task) -> None:
    """The plug ends; the last stretch of ``io_submit()``."""
    if p.run.plug:
        flush(cpu, p, p.run.plug[0].queue, "done")
        return
    _data, rw, file, offset, length = p.run.submit[0][-1]
    waited = rw == WRITE and xfs_file.waits_alone(p, cpu.files[file], file, offset, length)
    cpu.start(frames.SUBMIT_EXIT, 0 if waited else cpu.costs.io_submit_exit_ns)


def submit_exit(cpu: Cpu, _arg: object) -> None:
    """``io_submit()`` returns the number submitted."""
    p = cpu.rq.curr
    done = p.run.submit[2]
    nr = len(p.run.submit[0])
    p.run.submit = []
    cpu.emit(tp.BOX_IO_SUBMIT, p.pid, nr, done)
    syscall.return_to_user(cpu, done)


# Who drops a reference of an iocb.
BY_SUBMITTER = 0
BY_WORKER = 1
BY_ENDIO = 2  # where the bio ended: an interrupt, a softirq, or the submitter itself


def iocb_put(
    cpu: Cpu,
    owner: Task,
    iocb: int,
    error: int,
    by: int,
    waker: tuple[int, int] | None = None,
    sync: bool = False,
) -> None:
    """Drop one reference of an iocb; the last one writes its event and wakes the ring's waiter.

    ``sync``: whoever wakes it says that he will sleep soon (WF_SYNC).
    """
    run = owner.run
    state = run.iocbs[iocb]
    state[0] -= 1
    if by != BY_SUBMITTER:
        state[3] = 0
        state[4] = int(by == BY_ENDIO)
        if error:
            state[2] = error
    if state[0]:
        return
    _refs, data, res, _outstanding, inline = run.iocbs.pop(iocb)
    if run.uring is not None:
        io_uring.complete(cpu, owner, data, res, inline, by, waker)
        return
    ctx = io_context(owner)
    ctx.complete(cpu.node_id, data, res)
    cpu.emit(tp.BOX_AIO_COMPLETE, owner.pid, data, res, inline)
    if ctx.eventfd >= 0:
        eventfd.eventfd_signal(cpu, owner, waker)
    if run.wait == WAIT_RING and owner.state != tp.TASK_RUNNING:
        if cpu.rq.rules.aio_wake_min_nr and len(ctx.ring) < run.wait_arg:
            return
        sync = by == BY_WORKER and cpu.rq.rules.completion_sync_hint
        if waker is None:
            core.wake_up(cpu, owner, sync)
        else:
            core.try_to_wake_up(cpu, owner, sync, waker)


# -- io_getevents() -----------------------------------------------------------------------------


def sys_io_getevents(cpu: Cpu, min_nr: int, nr: int) -> None:
    """Start ``io_getevents()``."""
    costs = cpu.costs
    cpu.start(frames.GETEVENTS, costs.syscall_ns + costs.io_getevents_ns, [min_nr, nr])


def needs_mail(cpu: Cpu) -> bool:
    """Whether the result of the ``io_getevents()`` on top depends on mail still to come.

    It does as long as any IO ends elsewhere: its event may be the next in the ring.
    """
    run = cpu.rq.curr.run
    ctx = run.ctx
    return ctx is None or run.remote_ios > 0 or len(ctx.ring) < cpu.f_arg[1]


def getevents_end(cpu: Cpu, arg: list[int]) -> None:
    """``read_events()``: take what there is if it is enough, else sleep for more."""
    p = cpu.rq.curr
    ctx = io_context(p)
    if p.run.remote_ios or len(ctx.ring) < arg[1]:
        mail.drain(cpu)
        if ctx.works and complete_left(cpu, p, frames.GETEVENTS, arg):
            return
    if len(ctx.ring) >= arg[0]:
        taken = ctx.ring[: arg[1]]
        del ctx.ring[: arg[1]]
        syscall.return_to_user(cpu, taken)
        return
    p.run.wait = WAIT_RING
    p.run.wait_arg = arg[0]
    core.block(cpu, p, tp.TASK_INTERRUPTIBLE, frames.GETEVENTS, cpu.costs.io_wait_ns, arg)


# -- Completion by the submitter (P6) -----------------------------------------------------------


def add_dio(
    cpu: Cpu, owner: Task, file: int, iocb: int, waker: tuple[int, int] | None = None
) -> None:
    """Leave a dio that has ended to its submitter, who is woken if it waits for nothing else."""
    run = owner.run
    state = run.iocbs[iocb]
    state[3] = 0
    state[4] = 1
    ctx = io_context(owner)
    ctx.works.append([file, iocb])
    if owner.state == tp.TASK_RUNNING:
        return
    if run.wait == WAIT_RING:
        if cpu.rq.rules.aio_wake_min_nr and len(ctx.ring) + len(ctx.works) < run.wait_arg:
            return
    elif run.wait != WAIT_EVENTFD and not waits_for_left(owner):
        return
    if waker is None:
        core.wake_up(cpu, owner)
    else:
        core.try_to_wake_up(cpu, owner, waker=waker)


def waits_for_left(owner: Task) -> bool:
    """Whether a submitter sleeps in ``inode_dio_wait()`` for no IOs but those left to itself."""
    run = owner.run
    if run.wait != WAIT_DIO or owner.state == tp.TASK_RUNNING:
        return False
    file: int = run.wait_arg
    in_flight: int = run.dio_count[file]
    return in_flight <= sum(work[0] == file for work in left_to(owner))


def left_to(p: Task) -> list[list[int]]:
    """Return the dios that are left to a task: [file, iocb, …] each."""
    run = p.run
    if run.uring is not None:
        return [work for work in run.uring.works if not work[2]]
    return [] if run.ctx is None else run.ctx.works


def complete_left(cpu: Cpu, p: Task, kind: int, arg: Any) -> bool:
    """Let the current task complete what was left to it, then go on in the given frame.

    Returns False if there is nothing.
    """
    works = take_left(p)
    if not works:
        return False
    for file, iocb, *_ in works:
        iomap.inode_dio_end(cpu, p, file)
        iocb_put(cpu, p, iocb, 0, BY_SUBMITTER)
    dio_completion.note_own(cpu, len(works))
    cpu.start(kind, len(works) * (cpu.costs.dio_complete_ns + cpu.costs.dio_tail_ns), arg)
    return True


def take_left(p: Task) -> list[list[int]]:
    """Take the dios that are left to a task."""
    works = left_to(p)
    run = p.run
    if run.uring is not None:
        run.uring.works = [work for work in run.uring.works if work[2]]
    elif run.ctx is not None:
        run.ctx.works = []
    return works


# -- pread() and pwrite() -----------------------------------------------------------------------


def sys_rw(
    cpu: Cpu, p: Task, rw: int, file: int, offset: int, length: int, hipri: bool = False
) -> None:
    """Start a synchronous direct read or write; ``hipri``: with RWF_HIPRI."""
    p.run.submit = [[[int(hipri), rw, file, offset, length]], 0, 0]
    cpu.start(frames.RW_PREP, cpu.costs.syscall_ns + cpu.costs.io_submit_ns)


def rw_prep_end(cpu: Cpu, _arg: object) -> None:
    """The synchronous IO has got as far as its request."""
    p = cpu.rq.curr
    run = p.run
    hipri, rw, file, offset, length = run.submit[0][0]
    facts = cpu.files[file]
    if rw == WRITE and xfs_file.needs_blocks(p, facts, file, offset, length):
        xfs_file.allocate(p, facts, file, offset, length)
        xfs_log.transaction(cpu, p, frames.RW_PREP, 0)
        return
    q = cpu.queues[facts.disk]
    if not blk_mq_tag.get_tag(cpu, q):
        if blk_mq.runs_here(cpu, facts.disk):
            blk_mq.dispatch_loop(cpu, [facts.disk, "rw_prep"])
        else:
            blk_mq_tag.wait_for_tag(cpu, q, p, frames.RW_PREP, None)
        return
    rq = blk_mq.new_request(cpu, p, facts.disk, rw, facts.start + offset, length)
    rq.what = DIO_SYNC
    rq.file = file
    if rw == WRITE and not facts.plain:
        rq.dio = xfs_file.classify(cpu, p, facts, file, -1, offset, length)
    if hipri and q.poll_queues and not cpu.rq.rules.poll_async_only:
        blk_poll.bio_set_polled(cpu, p, q, facts, rq)
    run.iocbs[-1] = [1, 0, length, 1, 0]
    run.submit = []
    if rq.dio & xfs_file.IOMAP_DIO_WRITE_FUA and q.write_cache:
        cpu.start(frames.RW_EXIT, cpu.costs.io_submit_exit_ns)
        blk_flush.insert_flush(cpu, q, rq)
        return
    run.plug.append(rq)
    flush(cpu, p, facts.disk, "rw")


def rw_exit(cpu: Cpu, _arg: object) -> None:
    """``io_schedule()`` until the IO has ended, then return."""
    p = cpu.rq.curr
    if -1 in p.run.iocbs:
        if blk_poll.rw_waits(cpu, p):
            return
        p.run.wait = WAIT_RW
        core.block(cpu, p, tp.TASK_UNINTERRUPTIBLE, frames.RW_EXIT, cpu.costs.syscall_ns)
        return
    if p.run.inode_io and finish_here(cpu, p, -1, "rw"):
        return
    syscall.return_to_user(cpu, 0)


# -- Buffered writeback -------------------------------------------------------------------------


def sys_writeback(cpu: Cpu, p: Task, file: int, offset: int, length: int) -> None:
    """One plugged batch of page writes by a flusher; it does not wait for them."""
    facts = cpu.files[file]
    q = cpu.queues[facts.disk]
    for start in range(offset, offset + length, blk_mq.BLK_PLUG_FLUSH_SIZE):
        if not blk_mq_tag.get_tag(cpu, q):
            blk_mq_tag.ask_for_tags(cpu, q)
            break  # the flusher's next batch takes it up again
        size = min(blk_mq.BLK_PLUG_FLUSH_SIZE, offset + length - start)
        rq = blk_mq.new_request(cpu, p, facts.disk, WRITE, facts.start + start, size)
        rq.what = PAGES
        rq.file = file
        p.run.plug.append(rq)
    flush(cpu, p, facts.disk, "writeback")
