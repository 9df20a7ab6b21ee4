"""Flushes of a device's volatile cache: ``block/blk-flush.c``, v5.4 (A.4, G.7).

Theory of operation
-------------------
A write may ask that the cache be flushed first (PREFLUSH), and that it is itself on stable storage when
it ends (FUA).  A device without a volatile cache is sent the plain write, and an empty flush ends at
once.  Otherwise such a request bypasses plug and elevator.  If the device has FUA and there is nothing to
flush first, kblockd dispatches it.  Any other is a *sequence*, flush, data, flush, as far as asked for:
each step is dispatched by kblockd (``blk_mq_requeue_work()``), and its end queues the next.  The request
keeps its tag all the while, its scheduler tag if there is an elevator; a step that fails ends it.

Departures from the kernel: a flush serves the one request that asked for it, where those that wait
together share one; data steps do not hold a flush back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.kernel import blk_mq, blk_mq_tag, workqueue, wq_pool
from emulator.kernel.request import (
    FLUSH,
    REQ_DATA,
    REQ_FLUSHING,
    REQ_POSTFLUSH,
    REQ_PREFLUSH,
    Request,
)
from emulator.kernel.wq_table import WQ_KBLOCKD
from emulator.kernel.xfs_file import IOMAP_DIO_WRITE_FUA
from emulator.types import WRITE

if TYPE_CHECKING:
    from emulator.kernel.blk_queue import BlockQueue
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task


def insert_flush(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """``blk_insert_flush()`` of a request that flushes or has FUA, of a device with a cache."""
    if rq.dio & IOMAP_DIO_WRITE_FUA and not q.fua:
        rq.dio |= REQ_POSTFLUSH
    if not rq.dio & (REQ_PREFLUSH | REQ_POSTFLUSH):
        q.busy.append(rq)
        blk_mq.run_hw_queue_async(cpu, q)
        return
    if rq.nr_sector:
        rq.dio |= REQ_DATA
    queue_step(cpu, rq)


def queue_step(cpu: Cpu, rq: Request) -> None:
    """``blk_flush_queue_rq()``: kblockd issues the next step."""
    item = wq_pool.FN_REQUEUE
    if workqueue.queue_work(cpu, WQ_KBLOCKD, item, rq, cpu.work_id()):
        workqueue.wake_up_worker(cpu, cpu.pools[1])


def requeue_work(cpu: Cpu, item: list[Any]) -> None:
    """``blk_mq_requeue_work()``: the next step goes first; the rest of the item is a run of the queue."""
    rq = item[3]
    item[1], item[3] = wq_pool.FN_RUN_QUEUE, rq.queue
    for step in (REQ_PREFLUSH, REQ_DATA, REQ_POSTFLUSH):
        if rq.dio & step:
            rq.dio &= ~step
            if step != REQ_DATA:
                rq.dio |= REQ_FLUSHING
            break
    cpu.queues[rq.queue].busy.insert(0, rq)
    blk_mq.dispatch_loop(cpu, [rq.queue, "work"])


def step_ended(cpu: Cpu, rq: Request) -> bool:
    """``blk_flush_complete_seq()``: whether a further step follows; it is queued then."""
    rq.dio &= ~REQ_FLUSHING
    if rq.error:
        rq.dio &= ~(REQ_PREFLUSH | REQ_DATA | REQ_POSTFLUSH)
    if not rq.dio & (REQ_PREFLUSH | REQ_DATA | REQ_POSTFLUSH):
        return False
    q = cpu.queues[rq.queue]
    if q.elevator is not None:
        blk_mq_tag.put_driver_tag(cpu, q, rq, freed=False)
    if cpu.node_id not in (rq.ctx_cpu, rq.tag_cpu) or rq.ctx_cpu != rq.tag_cpu:
        cpu.adopted = True  # its tags will be given back
    queue_step(cpu, rq)
    return True


def submit_flush(cpu: Cpu, p: Task, rq: Request, kind: int, arg: Any) -> None:
    """Submit a request that begins with a flush and for whose end the task waits in a frame."""
    rq.dio |= REQ_PREFLUSH
    p.run.iocbs[-1] = [1, 0, rq.nr_sector * 512, 1, 0]
    cpu.start(kind, 0, arg)
    insert_flush(cpu, cpu.queues[rq.queue], rq)


def blkdev_issue_flush(
    cpu: Cpu, p: Task, file: int, kind: int, arg: list[Any], again: list[Any]
) -> None:
    """Send an empty flush; the frame given goes on with ``arg``, or ``again`` if there was no tag."""
    disk = cpu.files[file].disk
    if not got_tag(cpu, p, disk, kind, again):
        return
    rq = blk_mq.new_request(cpu, p, disk, WRITE, 0, 0)
    rq.what = FLUSH
    rq.file = file
    submit_flush(cpu, p, rq, kind, arg)


def got_tag(cpu: Cpu, p: Task, disk: int, kind: int, again: list[Any]) -> bool:
    """Take a tag; if there is none, wait for one and try again in the frame given."""
    q = cpu.queues[disk]
    if blk_mq_tag.get_tag(cpu, q):
        return True
    if blk_mq.runs_here(cpu, disk):
        blk_mq.dispatch_loop(cpu, [disk, "frame", kind, again])  # that may free some
    else:
        blk_mq_tag.wait_for_tag(cpu, q, p, kind, again)
    return False
