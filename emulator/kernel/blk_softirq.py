"""Where a completed request is ended: ``block/blk-softirq.c``, steering of ``blk-mq.c``, v5.4 to 6.12.

Theory of operation
-------------------
The driver's completion arrives on some CPU D and is steered (A.7): with one hardware queue it
becomes work of the BLOCK softirq, on D or, by IPI, on the CPU that allocated the request; with
several it is ended in the interrupt.  The vector takes the whole list, without a budget.

From 5.12 on (``rules.complete_remote_softirq``) whatever goes to another CPU ends there in the BLOCK
softirq: the request is put on that CPU's list, and only the first on an empty list costs an IPI,
whose handler just raises the vector.  From 6.1 on a hardware queue of a single CPU completes where
its interrupt arrives.  With ``threadirqs`` nothing is steered to another CPU from 5.12 on, since its
softirq would have to wait for ksoftirqd.

Departures from the kernel: a request from another CPU is on this one's list when its IPI would
arrive, not from when it was sent; all CPUs have the same capacity, so that 6.12's test of it holds
always.  A SCSI disk never refuses a request for its own budget, so that from 5.10 on
(``rules.scsi_run_queue_busy``) no command that ends runs its queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import messages
from emulator.kernel import blk_flush, blk_mq, frames, softirq, workqueue
from emulator.kernel.request import SEQUENCED, Request
from emulator.rules import Rules

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def blk_mq_complete_request(cpu: Cpu, rq: Request) -> None:
    """Steer a finished request to where it is ended."""
    q = cpu.queues[rq.queue]
    here = cpu.node_id
    ctx = rq.ctx_cpu
    context, where = steer(
        here,
        ctx,
        q.rq_affinity,
        q.nr_hw_queues,
        bool(cpu.llc_mask >> ctx & 1),
        ctx == here or cpu.cpu_online(ctx),
        cpu.rq.rules,
        q.nr_ctx[ctx],
        stays_threaded(cpu),
    )
    cpu.inflight.pop(rq.cookie, None)  # the device had it, if it is given its requests
    if where != here:
        cpu.send(
            where,
            messages.CALL_COMPLETE,
            (rq.pack(), cpu.cause),
            cpu.now + cpu.costs.ipi_ns,
            cpu.costs.hardirq_ns,
        )
    elif context == "hardirq":
        blk_mq.end_request(cpu, rq)
    else:
        add_to_done_list(cpu, rq)


def steer(
    here: int,
    ctx_cpu: int,
    rq_affinity: int,
    nr_hw_queues: int,
    share_cache: bool,
    online: bool,
    rules: Rules = Rules(),
    nr_ctx: int = 0,
    threaded: bool = False,
) -> tuple[str, int]:
    """Return (context, CPU) in which a completion that arrived on ``here`` is finished (A.7).

    ``nr_ctx``: how many CPUs the request's hardware queue serves; ``threaded``: ``threadirqs`` keeps it
    here.
    """
    context = "softirq" if nr_hw_queues == 1 else "hardirq"
    unsteered = rules.complete_single_ctx and nr_ctx == 1
    if unsteered and (ctx_cpu == here or not rules.complete_single_ctx_own):
        return "hardirq", here
    if rq_affinity == 0 or ctx_cpu == here or not online or threaded:
        return context, here
    if rq_affinity == 1 and share_cache:
        return context, here
    return "softirq" if rules.complete_remote_softirq else context, ctx_cpu


def stays_threaded(cpu: Cpu) -> bool:
    """Whether ``threadirqs`` keeps completions on the CPU where they arrive (5.12)."""
    return cpu.threadirqs and cpu.rq.rules.complete_threaded_local


def add_to_done_list(cpu: Cpu, rq: Request) -> None:
    """Append to ``blk_cpu_done``; the first entry raises BLOCK."""
    rq.cause = cpu.cause
    cpu.done_list.append(rq)
    if len(cpu.done_list) == 1:
        softirq.raise_softirq(cpu, softirq.BLOCK)


def steered_here(cpu: Cpu, rq: Request) -> None:
    """A request that another CPU steered here arrives: one IPI unless one is on its way already."""
    # From 5.12 on, blk_cpu_done itself: blk_mq_complete_send_ipi() if it was empty.
    arrived = cpu.done_list if cpu.rq.rules.complete_remote_softirq else cpu.call_done
    arrived.append(rq)
    if len(arrived) == 1:
        cpu.irqs.append((frames.IRQ_IPI, "call", cpu.costs.ipi_handler_ns))


def flush_call_queue(cpu: Cpu) -> None:
    """The call-function IPI's handler: finish what other CPUs steered here."""
    if cpu.rq.rules.complete_remote_softirq:
        if cpu.done_list:
            cpu.cause = cpu.done_list[0].cause
            softirq.raise_softirq(cpu, softirq.BLOCK)
        return
    arrived, cpu.call_done = cpu.call_done, []
    for rq in arrived:
        cpu.cause = rq.cause
        if cpu.queues[rq.queue].nr_hw_queues == 1:
            add_to_done_list(cpu, rq)
        else:
            blk_mq.end_request(cpu, rq)


def blk_done_softirq(cpu: Cpu) -> None:
    """The BLOCK vector: take the whole list, end every request in order, without a budget."""
    cpu.sirq_block = cpu.done_list
    cpu.done_list = []
    if cpu.sirq_block:
        cpu.start(frames.BLOCK_START, cpu.costs.blk_start_request_ns)
    else:
        cpu.start(frames.BLOCK_TAIL, cpu.costs.softirq_tail_ns)


def block_start(cpu: Cpu, _arg: object) -> None:
    """One request of the round has got as far as ``block_rq_complete``."""
    rq = cpu.sirq_block[0]
    cpu.cause = rq.cause
    rq.cause = blk_mq.trace_complete(cpu, rq)
    cpu.start(frames.BLOCK_END, cpu.costs.blk_end_request_ns)


def block_end(cpu: Cpu, _arg: object) -> None:
    """One request of the round has reached its bio's end: its work is queued, its tag freed."""
    rq = cpu.sirq_block.pop(0)
    cpu.cause = rq.cause
    q = cpu.queues[rq.queue]
    cpu.start(frames.BLOCK_QUEUED, 0)
    if not (rq.dio & SEQUENCED and blk_flush.step_ended(cpu, rq)):
        if blk_mq.bio_endio(cpu, rq):
            decision_ns = 0 if cpu.completion is None else cpu.completion.ns
            cpu.start(frames.BLOCK_QUEUE, cpu.costs.queue_work_ns + decision_ns)
        blk_mq.free_request(cpu, rq)
    blk_mq.scsi_run_queues(cpu, q)
    if cpu.f_kind == frames.BLOCK_QUEUED and cpu.f_end == cpu.now:
        block_next(cpu)  # at once, unless the end of pages takes its time


def block_queue(cpu: Cpu, _arg: object) -> None:
    """The end of queue_work(): a worker is woken, then the round goes on."""
    cpu.start(frames.BLOCK_QUEUED, 0)
    workqueue.wake_up_worker(cpu, cpu.pools[0])
    if cpu.f_kind == frames.BLOCK_QUEUED:
        block_next(cpu)


def block_queued(cpu: Cpu, _arg: object) -> None:
    """Go on with the round after a wakeup."""
    block_next(cpu)


def block_next(cpu: Cpu) -> None:
    """The rest of one request, and the start of the next, or the round's tail."""
    costs = cpu.costs
    if cpu.sirq_block:
        cpu.start(frames.BLOCK_START, costs.blk_done_request_ns + costs.blk_start_request_ns)
    else:
        cpu.start(frames.BLOCK_TAIL, costs.blk_done_request_ns + costs.softirq_tail_ns)


def block_tail(cpu: Cpu, _arg: object) -> None:
    """The end of the BLOCK vector."""
    softirq.vector_done(cpu, softirq.BLOCK)
