"""The driver below the block layer: ``scsi_debug.c`` and ``null_blk_main.c``, v5.4.

Theory of operation
-------------------
:func:`queue_rq` starts a request's timer at the device and :func:`device_interrupt` is that timer's
expiry.  For a stretch of requests the device has announced how long each will take (a *schedule*):
their completion interrupts are put into this CPU's inbox right away.  When half of the stretch is
used the next one is asked for.  Without a schedule each request is asked: a DOORBELL, and the
COMPLETION comes back.  Either way the doorbells are noted for the device's log and go there as
mail, at the latest at the end of the period of :data:`~emulator.types.DOORBELL_PERIOD_NS` in which
they rang.  A service too short for a question and its answer is never asked for.

A device whose interrupts have a CPU of their own, or that was struck by a fault, announces nothing:
the request itself goes to it (:func:`send_request`) and comes back with the interrupt of its vector
(:func:`vector_interrupt`), to whichever CPU that is; with ``threadirqs`` its thread takes it
(:mod:`irq_thread`).  The interrupts of each vector are counted here
as ``irq:NAME``, NAME as in ``/proc/interrupts``.

Departures from the kernel: an interrupt takes the completions posted until it was raised, and those
of a second one that comes before its handler has begun.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.irq_affinity import irq_number
from emulator.kernel import blk_mq, blk_poll, blk_softirq, dio_completion, frames
from emulator.kernel.blk_queue import BlockQueue
from emulator.kernel.request import PAGES, REQ_FLUSHING, REQ_HIPRI, WB_PAGES, Request
from emulator.types import DOORBELL_PERIOD_NS, NEVER, SCHEDULE_REQUESTS, Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

DOORBELL_BATCH = 256

TIMER_FUNCTIONS = {
    "scsi_debug": "sdebug_q_cmd_hrt_complete",
    "null_blk": "null_cmd_timer_expired",
}


def queue_rq(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """The driver takes the request: its timer starts, or it ends at once."""
    blk_mq.trace_request(cpu, tp.BLOCK_RQ_ISSUE, rq)
    if rq.dio & REQ_HIPRI and q.driver == "null_blk":
        blk_poll.posted(cpu, rq)  # its poll_list: whoever looks finds it done
        return
    if q.carries:
        send_request(cpu, q, rq)
        return
    cpu.inflight[rq.cookie] = rq
    rq.done_ns = cpu.now + q.service_ns
    if rq.dio & REQ_FLUSHING:
        rq.done_ns = cpu.now + max(q.service_ns, q.flush_ns)
    note_doorbell(cpu, q, rq)
    if not q.service_ns:
        complete_inline(cpu, q, rq)
    elif q.announced or not q.asks:
        complete_by_schedule(cpu, q, rq)
    else:
        cpu.send(
            cpu.device_nodes[q.index],
            messages.DOORBELL,
            (rq.cookie, rq.done_ns),
            cpu.now + cpu.costs.coherence_ns,
            # The completion, or a schedule if one may be announced again.
            min(q.service_ns - cpu.costs.coherence_ns, cpu.costs.coherence_ns),
        )


def complete_by_schedule(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """The completion is known now: it takes the very place its message would."""
    heapq.heappush(cpu.inbox, announced_completion(cpu, rq.done_ns, rq, 0))
    cpu.timer_armed(rq.done_ns)
    if q.asks and q.announced < NEVER:
        q.announced -= 1
        if q.announced <= SCHEDULE_REQUESTS // 2 and not q.schedule_asked:
            ask_for_schedule(cpu, q)


def complete_inline(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """A driver without a timer: the request is finished inside ``queue_rq()``, or completed there."""
    if q.ends_inline:
        del cpu.inflight[rq.cookie]
        blk_mq.end_request(cpu, rq)
    else:
        blk_softirq.blk_mq_complete_request(cpu, rq)


def device_interrupt(cpu: Cpu, arg: list[int]) -> None:
    """The driver's completion function, in its interrupt (or per-request timer) on this CPU."""
    cookie, status = arg
    rq = cpu.inflight.get(cookie)
    assert rq is not None, cpu.story(f"request {cookie:#x} completes twice")
    rq.error = status
    timer_expired(cpu, cpu.queues[rq.queue], rq)


# -- Devices that are given each request ----------------------------------------------------------


def send_request(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """Give the device the request; where it will end its owner need not be, so that expects mail."""
    mailed = rq.what not in (PAGES, WB_PAGES)
    if mailed and not rq.remote:
        dio_completion.send_away(cpu, rq)
    told = (rq.pid, rq.iocb) if mailed else (0, rq.nr_sector >> 3 if rq.what == WB_PAGES else 0)
    polls = int(bool(rq.dio & REQ_HIPRI))
    cpu.send(
        cpu.device_nodes[q.index],
        messages.REQUEST,
        (rq.pack(), cpu.now, rq.cookie, rq.ctx_cpu, rq.rw, *blk_mq.extent(rq), *told, polls),
        cpu.now + cpu.costs.coherence_ns,
        cpu.costs.coherence_ns,
    )


def vector_raised(cpu: Cpu, index: int, vector: int, entries: list[list[Any]], polled: int) -> None:
    """A device raises its vector here; one that is pending already takes the entries along."""
    for irq in cpu.irqs:
        if irq[0] == frames.IRQ_VECTOR and irq[1][:2] == [index, vector] and not polled:
            irq[1][2].extend(entries)
            return
    ns = 0 if threaded(cpu, index, polled) else handler_ns(cpu, index, len(entries))
    cpu.irqs.append((frames.IRQ_VECTOR, [index, vector, entries, polled], ns))


def threaded(cpu: Cpu, index: int, polled: int) -> bool:
    """Whether the handler of a disk's vector runs in a thread; a driver that polls runs it itself."""
    return cpu.threadirqs and cpu.queues[index].vectored and not polled


def handler_ns(cpu: Cpu, index: int, nr: int) -> int:
    """Return how long the handler takes for so many completions."""
    q = cpu.queues[index]
    costs = cpu.costs
    ns = costs.hrtimer_ns
    if q.vectored and q.nr_hw_queues > 1:
        # Requests are ended in the interrupt.
        each = costs.blk_start_request_ns + costs.blk_end_request_ns + costs.blk_done_request_ns
        ns += each * nr
    return ns


def vector_reads(cpu: Cpu, arg: list[Any]) -> bool:
    """Whether a handler may steer a request to another CPU, which must be online then."""
    q = cpu.queues[arg[0]]
    if q.rq_affinity == 0 or blk_softirq.stays_threaded(cpu):
        return False
    here = cpu.node_id
    # A request's place in its packed form is its class's: its ctx is the fourth.
    ctxs = [entry[0][3] for entry in arg[2] if entry[0][3] != here]
    return any(q.rq_affinity == 2 or not cpu.llc_mask >> ctx & 1 for ctx in ctxs)


def vector_interrupt(cpu: Cpu, arg: list[Any]) -> None:
    """The handler of a device's vector: every completion of its queue is steered to where it ends."""
    index, vector, entries, polled = arg
    raised = cpu.queues[index].vectored and not polled
    if raised:
        handler_entry(cpu, index, vector)
    complete_entries(cpu, index, entries)
    if raised:
        cpu.emit(tp.IRQ_HANDLER_EXIT, irq_number(index, vector))


def handler_entry(cpu: Cpu, index: int, vector: int) -> None:
    """A vector's interrupt is handled: count and record it."""
    name = cpu.queues[index].irq_names[vector]
    cpu.count(f"irq:{name}")
    cpu.emit(tp.IRQ_HANDLER_ENTRY, irq_number(index, vector), cpu.names[name])


def complete_entries(cpu: Cpu, index: int, entries: list[list[Any]]) -> None:
    """Steer every completion of a queue to where it ends."""
    q = cpu.queues[index]
    for data, status in entries:
        rq = Request.unpack(data)
        rq.error = status
        if not q.vectored:
            timer_expired(cpu, q, rq)
            continue
        cpu.cause = rq.cause
        blk_softirq.blk_mq_complete_request(cpu, rq)


def timer_expired(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """The per-request timer of a driver without vectors."""
    cpu.cause = rq.cause
    name = cpu.names[TIMER_FUNCTIONS[q.driver]]
    cpu.cause = cpu.emit(tp.HRTIMER_EXPIRE_ENTRY, rq.cookie, name, cpu.now)
    if q.driver == "null_blk":
        cpu.inflight.pop(rq.cookie, None)
        blk_mq.end_request(cpu, rq)  # no steering, no softirq: null_blk ends it in the timer
    else:
        blk_softirq.blk_mq_complete_request(cpu, rq)


# -- Timers ---------------------------------------------------------------------------------------


def request_timer(cpu: Cpu, cookie: int) -> None:
    """A per-request timer kept as an hrtimer (moved here by hotplug) expired."""
    device_interrupt(cpu, [cookie, 0])


def announced_completion(cpu: Cpu, done_ns: int, rq: Request, status: int) -> Message:
    """Return a completion that this CPU knows of ahead; its cookie is its sequence number."""
    device = cpu.device_nodes[rq.queue]
    args = (rq.cookie, status, 1)
    return (done_ns, device, rq.cookie, cpu.node_id, messages.COMPLETION, args)


def ask_for_schedule(cpu: Cpu, q: BlockQueue) -> None:
    """Half of the schedule is used: show the device all doorbells so far and ask for more."""
    q.schedule_asked = True
    ring_doorbells(cpu, q)
    cpu.send(
        cpu.device_nodes[q.index],
        messages.SCHEDULE_REQUEST,
        (q.rings,),
        cpu.now + max(cpu.costs.request_ns, cpu.costs.coherence_ns),
        cpu.costs.coherence_ns,
    )


def schedule_renewed(cpu: Cpu, index: int, service_ns: int, count: int) -> None:
    """The device announces the service time of ``count`` more requests; of none: they are asked."""
    q = cpu.queues[index]
    q.service_ns = service_ns
    q.announced += count
    q.schedule_asked = count == 0


def note_doorbell(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """Note a doorbell for the device's log."""
    q.rings += 1
    q.doorbells.append([cpu.now, rq.cookie, *blk_mq.extent(rq), rq.rw, rq.done_ns])
    if cpu.now >= q.ring_at:
        # A note to itself: whatever this CPU does then, the period's doorbells leave.
        q.ring_at = (cpu.now // DOORBELL_PERIOD_NS + 1) * DOORBELL_PERIOD_NS
        note = (q.ring_at, cpu.node_id, q.rings, cpu.node_id, messages.RING_DOORBELLS, (q.index,))
        heapq.heappush(cpu.inbox, note)
        cpu.edge = min(cpu.edge, q.ring_at)
    if len(q.doorbells) >= DOORBELL_BATCH:
        ring_doorbells(cpu, q)


def ring_doorbells(cpu: Cpu, q: BlockQueue) -> None:
    """Send the device what was rung, for its log."""
    if q.doorbells:
        cpu.send_mail(cpu.device_nodes[q.index], messages.DOORBELLS, (q.doorbells,))
        q.doorbells = []
