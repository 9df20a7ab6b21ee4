"""Without an elevator, where requests wait and which is next: ``block/blk-mq-sched.c``, v5.4 to v6.12.

Theory of operation
-------------------
What leaves a plug is issued to the driver directly, one after the other (``q.direct``), past every
list.  Only if the hardware queue was busy of late, or the submitter is about to sleep, is it inserted
into the list of its ctx (``q.ctx_list``), and the queue is run.  Whether it was busy is
``dispatch_busy``, an average of integers over what the driver answered: 2 after the first refusal, 9
at most, 0 again after eight that it took.  The request that the driver refuses goes to ``q.busy``
(``hctx->dispatch``), those behind it to their ctx.

A run of the queue takes what was refused first.  Then, while ``dispatch_busy``, one request of each
ctx in turn, going on where it left off; otherwise all of them, ctx by ctx.

From 5.14 on a queue with an elevator keeps the average too (``rules.dispatch_busy_sched``), and from 5.16
on a plug of one queue is issued directly however busy it is (``rules.plug_issue_direct``).

Departures from the kernel: each CPU keeps the average of what it issued itself, and the lists of what
it inserted itself: of a hardware queue of several CPUs they are one each.  With an elevator the average
decides nothing, as requests leave it one by one anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import tracepoints as tp
from emulator.kernel import blk_mq
from emulator.kernel.blk_queue import FROM_SCHEDULE, PLUG_FULL, BlockQueue
from emulator.kernel.request import Request

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

BLK_MQ_DISPATCH_BUSY_EWMA_WEIGHT = 8
BLK_MQ_DISPATCH_BUSY_EWMA_FACTOR = 4


def update_dispatch_busy(cpu: Cpu, q: BlockQueue, busy: bool) -> None:
    """``blk_mq_update_dispatch_busy()``: the driver refused a request, or took what it was given."""
    if q.averages:
        ewma = q.dispatch_busy * (BLK_MQ_DISPATCH_BUSY_EWMA_WEIGHT - 1)
        if busy:
            ewma += 1 << BLK_MQ_DISPATCH_BUSY_EWMA_FACTOR
        ewma //= BLK_MQ_DISPATCH_BUSY_EWMA_WEIGHT
        if ewma != q.dispatch_busy:
            q.dispatch_busy = ewma
            cpu.emit(tp.BOX_DISPATCH_BUSY, cpu.dev_numbers[q.index], q.hctx, ewma)


def insert_requests(cpu: Cpu, q: BlockQueue, rq: Request, how: int) -> None:
    """``blk_mq_sched_insert_requests()`` of one out of a plug: to be issued directly, or inserted."""
    if how == FROM_SCHEDULE or (q.dispatch_busy and not issues_directly(cpu, q, how)):
        insert(cpu, q, rq)
    elif q.direct is None:
        q.direct = [rq]
    else:
        q.direct.append(rq)


def issues_directly(cpu: Cpu, q: BlockQueue, how: int) -> bool:
    """Whether a plug goes to the driver past a queue that was busy; what a limited one lets go of does."""
    return cpu.rq.rules.plug_issue_direct or (how == PLUG_FULL and q.plug_max == 1)


def insert(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """``blk_mq_insert_requests()``: a request waits in the list of its ctx."""
    blk_mq.trace_request(cpu, tp.BLOCK_RQ_INSERT, rq)
    q.ctx_list.append(rq)


def direct_refused(cpu: Cpu, q: BlockQueue) -> None:
    """``blk_mq_try_issue_list_directly()`` whose driver is busy: the queue is to be run instead."""
    assert q.direct
    first, *behind = q.direct
    q.direct = None
    refused(cpu, q, first)
    q.busy.append(first)
    for rq in behind:
        insert(cpu, q, rq)


def dequeue(q: BlockQueue) -> Request:
    """Take the next request of a run of the queue (``blk_mq_sched_dispatch_requests()``)."""
    return q.busy.pop(0) if q.busy else dequeue_fresh(q)


def dequeue_fresh(q: BlockQueue) -> Request:
    """Take the next request that the driver has not seen: ctx by ctx, or of each ctx in turn."""
    if not q.dispatch_busy:
        # blk_mq_flush_busy_ctxs()
        first = min(range(len(q.ctx_list)), key=lambda index: q.ctx_list[index].ctx_cpu)
        return q.ctx_list.pop(first)
    return dequeue_from_ctx(q)


def dequeue_from_ctx(q: BlockQueue) -> Request:
    """``blk_mq_dequeue_from_ctx()``: the first of the ctx whose turn it is, or of the next with any."""
    waiting = [rq.ctx_cpu for rq in q.ctx_list]
    ctx = min(waiting, key=lambda cpu: (cpu < q.dispatch_from, cpu))
    q.dispatch_from = ctx + 1
    return q.ctx_list.pop(waiting.index(ctx))


def taken(cpu: Cpu, q: BlockQueue) -> None:
    """The driver has taken a request: of what it had refused the last one counts, of others each."""
    if q.direct is not None or not q.busy:
        update_dispatch_busy(cpu, q, False)


def refused(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """The driver was busy and gives the request back (``__blk_mq_requeue_request()``)."""
    cpu.count("blk_sts_resource")
    cause, cpu.cause = cpu.cause, rq.cause or cpu.cause
    dev, letters, sector, nr_sector = blk_mq.described(cpu, rq)
    cpu.emit(tp.BLOCK_RQ_REQUEUE, dev, letters, sector, nr_sector, 0)
    cpu.cause = cause
    update_dispatch_busy(cpu, q, True)


def run_refused(cpu: Cpu, q: BlockQueue) -> bool:
    """A run of the queue is refused its next request; return whether that was refused before.

    Of fresh requests all that the run has taken are leftovers: one, or every ctx's.
    """
    again = bool(q.busy)
    if q.elevator is not None and not again:
        rq = q.elevator.dispatch(cpu.now)
        assert rq is not None, cpu.story(f"{q.name}: nothing to dispatch")
        q.busy.append(rq)
    elif not again:
        nr = 1 if q.dispatch_busy else len(q.ctx_list)
        q.busy = [dequeue_fresh(q) for _ in range(nr)]
    refused(cpu, q, q.busy[0])
    return again
