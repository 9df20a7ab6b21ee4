"""The multi-queue block layer: ``block/blk-mq.c``, v5.4.

Theory of operation
-------------------
A submitter collects requests under its plug and flushes it to the elevator or straight to the
driver (A.4).  A request remembers the CPU that allocated it, its ``ctx``.  The driver completes it
(:mod:`driver`), the completion is steered (:mod:`blk_softirq`); ending a request ends its bio, and a
direct write queues its completion work on the CPU where that happens.

Departures from the kernel: the elevator's queue is kept per CPU (each CPU dispatches what it
inserted itself, or another CPU of its hardware queue has had it run); an elevator over several hardware queues is run in the
submitter as over one; its requests leave it one by one, also where a run takes all of them first
(from 5.9 on); merging does not happen (the workloads here never submit adjacent requests under one
plug).  Polling is :mod:`blk_poll`'s, what waits without an elevator
:mod:`blk_mq_sched`'s, and who runs a queue that its submitter does not run :mod:`blk_mq_hctx`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import (
    aio,
    blk_flush,
    blk_mq_hctx,
    blk_mq_sched,
    blk_mq_tag,
    blk_timeout,
    dio_completion,
    driver,
    frames,
    hrtimer,
    iomap,
    workqueue,
    wq_pool,
    wq_table,
    xfs_aops,
    xfs_log,
)
from emulator.kernel.blk_queue import PLUG_ENDS, BlockQueue
from emulator.kernel.request import (
    DIO_ASYNC,
    DIO_SYNC,
    FLUSH,
    LOG_WRITE,
    REQ_FLUSHING,
    SEQUENCED,
    WB_PAGES,
    Request,
)
from emulator.kernel.xfs_file import IOMAP_DIO_WRITE_FUA
from emulator.tags import SHARED
from emulator.types import WRITE

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task

BLK_PLUG_FLUSH_SIZE = 128 * 1024
BLK_MQ_RESOURCE_DELAY_MS = 3


def new_request(cpu: Cpu, p: Task, queue: int, rw: int, offset: int, length: int) -> Request:
    """Build the request of one bio; its ctx is this CPU."""
    rq = Request()
    cpu.io_seq += 1
    rq.cookie = cpu.node_id << 40 | cpu.io_seq
    rq.queue = queue
    rq.ctx_cpu = rq.tag_cpu = cpu.node_id
    rq.rw = rw
    rq.sector = offset >> 9
    rq.nr_sector = length >> 9
    rq.pid = p.pid
    rq.moves = p.moves
    rq.ioprio = p.run.ioprio
    rq.home = cpu.node_id
    rq.start_ns = cpu.now
    q = cpu.queues[queue]
    if q.bios:
        cpu.count("bios")
    else:
        q.stat.account_io_start(rw)
    return rq


def plug_full(q: BlockQueue, plug: list[Request]) -> bool:
    """Whether the plug must be flushed before another request goes in (A.4).

    It holds 16 requests, from 5.15 on 32, or 64 of several queues; where the plug is limited one,
    and the next lets it go.
    """
    if len(plug) >= q.plug_max:
        if q.plug_max < 32 or len(plug) >= 64:
            return True
        if all(rq.queue == q.index for rq in plug):
            return True
    return bool(plug) and plug[-1].nr_sector * 512 >= BLK_PLUG_FLUSH_SIZE


def flush_plug(cpu: Cpu, p: Task, how: int = PLUG_ENDS) -> None:
    """Insert the plug's requests, or leave them to be issued directly."""
    for rq in p.run.plug:
        q = cpu.queues[rq.queue]
        if rq.ctx_cpu != cpu.node_id:
            cpu.adopted = True  # the task was moved with its plug
        if q.elevator is not None:
            trace_request(cpu, tp.BLOCK_RQ_INSERT, rq)
            q.elevator.insert(rq, cpu.now)
        else:
            blk_mq_sched.insert_requests(cpu, q, rq, how)
    p.run.plug = []


def dispatch_loop(cpu: Cpu, arg: list[Any]) -> None:
    """Start the next dispatch, or go on with what the flush belonged to."""
    q = cpu.queues[arg[0]]
    if q.direct is not None and issue_directly(cpu, q, arg):
        return
    if q.blocking and arg[1] != "work":
        leave_to_kblockd(cpu, q, arg)
        return
    if q.elevator is not None and q.busy_until <= cpu.now:
        if not q.lease:
            if q.has_work():
                if blk_mq_tag.wait_for_driver_tag(cpu, q, arg):
                    return
                blk_mq_sched.update_dispatch_busy(cpu, q, True)
        elif q.tag_mode == SHARED:
            blk_mq_tag.give_up_lease(cpu, q)
    if dispatch_pending(cpu, arg[0]):
        q.issuing = next_request(cpu, q)
        cpu.start(frames.DISPATCH, q.dispatch_ns + driver_ns(cpu, q, q.issuing), arg)
    elif q.busy_until > cpu.now and q.has_work():
        cpu.start(frames.DISPATCH_OVER, 0, arg)
        device_is_busy(cpu, q)
        if cpu.f_kind == frames.DISPATCH_OVER:
            dispatch_over(cpu, arg)
    else:
        dispatch_over(cpu, arg)


def issue_directly(cpu: Cpu, q: BlockQueue, arg: list[Any]) -> bool:
    """Issue the next of a plug past all lists; return whether that goes on, or is over.

    If the driver is busy, all of them wait now and the queue is to be run.
    """
    if q.direct and q.busy_until > cpu.now:
        blk_mq_sched.direct_refused(cpu, q)
        return False
    if q.direct:
        q.issuing = q.direct.pop(0)
        cpu.start(frames.DISPATCH, q.dispatch_ns + driver_ns(cpu, q, q.issuing), arg)
    else:
        q.direct = None
        dispatch_over(cpu, arg)
    return True


def dispatch_over(cpu: Cpu, arg: list[Any]) -> None:
    """The run of the queue is over: what it belonged to goes on."""
    if arg[1] == "work":
        cpu.start(frames.WORK_TAIL, cpu.costs.dio_tail_ns)
    else:
        aio.flushed(cpu, arg)


def leave_to_kblockd(cpu: Cpu, q: BlockQueue, arg: list[Any]) -> None:
    """``queue_rq()`` may sleep (``BLK_MQ_F_BLOCKING``): the queue is not run in a submitter."""
    cpu.start(frames.DISPATCH_OVER, 0, arg)
    run_hw_queue_async(cpu, q)
    if cpu.f_kind == frames.DISPATCH_OVER:
        dispatch_over(cpu, arg)


def next_request(cpu: Cpu, q: BlockQueue) -> Request:
    """Take the next request out of the queue: leftovers first, then the elevator's choice.

    Who looks for pending requests while the driver has it in hand does not see it any more.
    """
    if q.busy or q.elevator is None:
        return blk_mq_sched.dequeue(q)
    rq = q.elevator.dispatch(cpu.now)
    assert rq is not None, cpu.story(f"{q.name}: nothing to dispatch")
    return rq


def driver_ns(cpu: Cpu, q: BlockQueue, rq: Request) -> int:
    """Return what the driver does inside ``queue_rq()`` with a request, besides taking it."""
    costs = cpu.costs
    spent_ns = 0
    if q.copy_ps_per_byte:
        spent_ns = extent(rq)[1] * 512 * q.copy_ps_per_byte // 1000
    if q.ends_inline:
        spent_ns += costs.blk_end_request_ns + costs.queue_work_ns + costs.blk_done_request_ns
    return spent_ns


def dispatch_pending(cpu: Cpu, queue: int) -> bool:
    """Whether the hardware queue has a request that can go to the driver now."""
    q = cpu.queues[queue]
    if q.busy_until > cpu.now:
        return False  # BLK_STS_RESOURCE: it is run again after a while
    if q.elevator is None:
        return q.has_work()
    # Without a driver tag nothing goes out: SCHED_RESTART, the next free runs the queue again.
    return q.has_work() and q.lease > 0


def device_is_busy(cpu: Cpu, q: BlockQueue) -> None:
    """BLK_STS_RESOURCE: the request is a leftover; the queue is run again, after 3 ms if it was one.

    Until then any request that is freed runs it (SCHED_RESTART).
    """
    if not blk_mq_sched.run_refused(cpu, q):
        run_hw_queue_async(cpu, q)
        return
    q.restart = True
    if not q.delayed:
        q.delayed = True
        due = cpu.jiffies() + blk_mq_tag.msecs_to_jiffies(cpu, BLK_MQ_RESOURCE_DELAY_MS)
        hrtimer.add_jiffy_timer(cpu, due, hrtimer.WHEEL_RUN_QUEUE, q.index)


def runs_here(cpu: Cpu, queue: int) -> bool:
    """Whether a submitter runs the queue itself, and there is something that can go out."""
    q = cpu.queues[queue]
    return not q.blocking and dispatch_pending(cpu, queue)


def dispatch_end(cpu: Cpu, arg: list[Any]) -> None:
    """One request goes to the driver; the flush goes on after the wakeups that made."""
    cpu.start(frames.DISPATCHED, 0, arg)
    dispatch_one(cpu, arg[0])
    if cpu.f_kind == frames.DISPATCHED:
        dispatched(cpu, arg)


def dispatched(cpu: Cpu, arg: list[Any]) -> None:
    """A request is with the driver: the next one, or this run of the queue is over.

    From 5.18 on ``blk_mq_do_dispatch_sched()`` that finds ``need_resched`` at the end of its round
    leaves what may come to kblockd, whether anything waits or not.
    """
    if cpu.rq.need_resched and cpu.rq.rules.dispatch_need_resched:
        q = cpu.queues[arg[0]]
        if q.elevator is not None and not dispatch_pending(cpu, arg[0]):
            cpu.start(frames.DISPATCH_OVER, 0, arg)
            queue_run_work(cpu, q)
            if cpu.f_kind == frames.DISPATCH_OVER:
                dispatch_over(cpu, arg)
            return
    dispatch_loop(cpu, arg)


def dispatch_one(cpu: Cpu, queue: int) -> None:
    """``blk_mq_dispatch_rq_list()`` of one request, which has left the queue."""
    q = cpu.queues[queue]
    rq, q.issuing = q.issuing, None
    if rq is None:
        return  # a CPU that died meanwhile has left it to another one
    if q.elevator is not None and not blk_mq_tag.take_driver_tag(cpu, q):
        q.busy.insert(0, rq)
        return
    if q.elevator is not None:
        rq.tag_cpu = cpu.node_id
    driver.queue_rq(cpu, q, rq)
    if q.dispatch_busy:
        blk_mq_sched.taken(cpu, q)


def run_hw_queue_async(cpu: Cpu, q: BlockQueue, waker: tuple[int, int] | None = None) -> None:
    """``blk_mq_run_hw_queue(async)``: queue ``run_work`` on kblockd, if anything is pending.

    ``waker`` is (CPU, pid) if another CPU has it run.
    """
    if q.has_work():
        queue_run_work(cpu, q, waker)


def queue_run_work(cpu: Cpu, q: BlockQueue, waker: tuple[int, int] | None = None) -> None:
    """``kblockd_mod_delayed_work_on()`` without a delay: ``run_work`` is queued unless it is."""
    if q.run_queued:
        return
    if q.hctx_mask:
        target = blk_mq_hctx.blk_mq_hctx_next_cpu(q, cpu.domains.active_mask, cpu.node_id)
        if target != cpu.node_id:
            blk_mq_hctx.run_elsewhere(cpu, q, target, waker)
            return
    q.run_queued = True
    cpu.work_seq += 1
    if workqueue.queue_work(cpu, wq_table.WQ_KBLOCKD, wq_pool.FN_RUN_QUEUE, q.index, cpu.work_id()):
        if waker is None and cpu.costs.queue_work_ns:
            ns = cpu.costs.queue_work_ns
            cpu.push(frames.QUEUE_RUN, ns, cpu.cause, cpu.level, False)
        else:
            workqueue.wake_up_worker(cpu, cpu.pools[1], waker)


def run_work_queued(cpu: Cpu, cause: int) -> None:
    """The end of ``queue_work()`` of a ``run_work``: a worker of kblockd is woken."""
    cpu.pop()
    cpu.cause = cause
    workqueue.wake_up_worker(cpu, cpu.pools[1])


def delayed_run(cpu: Cpu, index: int) -> None:
    """A delayed run of the queue is due."""
    cpu.queues[index].delayed = False
    run_hw_queue_async(cpu, cpu.queues[index])


def run_work_fn(cpu: Cpu, index: int) -> None:
    """``blk_mq_run_work_fn()`` in a kblockd worker: dispatch until nothing is left."""
    cpu.queues[index].run_queued = False
    dispatch_loop(cpu, [index, "work"])


def end_request(cpu: Cpu, rq: Request) -> None:
    """``blk_mq_end_request()`` outside of the softirq: in a hard interrupt or in the submitter."""
    rq.cause = trace_complete(cpu, rq)
    cpu.cause = rq.cause
    if rq.dio & SEQUENCED and blk_flush.step_ended(cpu, rq):
        return
    if bio_endio(cpu, rq):
        if cpu.completion is not None and cpu.completion.ns:
            dio_completion.charge(cpu, cpu.completion.ns)
        workqueue.wake_up_worker(cpu, cpu.pools[0])
    free_request(cpu, rq)
    scsi_run_queues(cpu, cpu.queues[rq.queue])


def scsi_run_queues(cpu: Cpu, q: BlockQueue) -> None:
    """``scsi_end_request()``: up to 5.9 every command that ends has the hardware queues run."""
    if q.driver == "scsi_debug" and not cpu.rq.rules.scsi_run_queue_busy:
        run_hw_queue_async(cpu, q)


def bio_endio(cpu: Cpu, rq: Request) -> bool:
    """The bio ends (D.2); return whether a worker of the normal pool is to be woken."""
    if rq.what == DIO_ASYNC:
        return iomap.dio_bio_end_io(cpu, rq)
    if rq.what in (DIO_SYNC, FLUSH):
        iomap.dio_wake_waiter(cpu, rq)
        return False
    if rq.what == LOG_WRITE:
        xfs_log.log_bio_end(cpu, rq)
        return False
    if rq.what == WB_PAGES:
        return xfs_aops.xfs_end_bio(cpu, rq)
    return iomap.writeback_end_bio(cpu, rq)


def free_request(cpu: Cpu, rq: Request) -> None:
    """``blk_mq_free_request()``: its tag is free; requests that were held up may go on."""
    q = cpu.queues[rq.queue]
    cpu.ended += 1
    if q.bios:
        cpu.count("bios", -1)
    else:
        q.stat.account_io_done(rq.rw, rq.nr_sector, rq.start_ns, cpu.now)
    blk_mq_tag.free_tags(cpu, q, rq)


def rwbs(cpu: Cpu, rq: Request) -> str:
    """``blk_fill_rwbs()``: what a request does, in letters."""
    if rq.rw != WRITE:
        return "R"
    if rq.dio & REQ_FLUSHING:
        return "FF"
    way = "WF" if rq.dio & IOMAP_DIO_WRITE_FUA and cpu.queues[rq.queue].fua else "W"
    return way + ("S" if rq.what != LOG_WRITE else "SM")


def trace_request(cpu: Cpu, event: int, rq: Request) -> None:
    """Record a request's insert or issue; the record becomes the request's cause.

    There is none of a bio that a driver without requests takes.
    """
    if cpu.queues[rq.queue].bios:
        rq.cause = rq.cause or cpu.cause
        return
    saved = cpu.cause
    if rq.cause:
        cpu.cause = rq.cause
    dev, letters, sector, nr_sector = described(cpu, rq)
    rq.cause = cpu.emit(event, dev, letters, sector, nr_sector, nr_sector * 512)
    cpu.cause = saved


def trace_complete(cpu: Cpu, rq: Request) -> int:
    """Record ``block_rq_complete``; return its position."""
    if cpu.queues[rq.queue].bios:
        return rq.cause
    if rq.error:
        blk_timeout.print_req_error(cpu, rq)
    dev, letters, sector, nr_sector = described(cpu, rq)
    return cpu.emit(tp.BLOCK_RQ_COMPLETE, dev, letters, sector, nr_sector, rq.error)


def described(cpu: Cpu, rq: Request) -> tuple[int, int, int, int]:
    """Return what block events say of a request: device, letters, sector and number of sectors."""
    letters = cpu.names[rwbs(cpu, rq)]
    if rq.dio & REQ_FLUSHING:
        return cpu.dev_numbers[rq.queue], letters, 0, 0
    return cpu.dev_numbers[rq.queue], letters, rq.sector, rq.nr_sector


def extent(rq: Request) -> tuple[int, int]:
    """Return what a request is now for: sector and number of sectors, none of them if it flushes."""
    return (0, 0) if rq.dio & REQ_FLUSHING else (rq.sector, rq.nr_sector)
