"""Requests that take too long, are sent again, or fail: ``block/blk-timeout.c``, v5.4 (G.5, G.6).

Theory of operation
-------------------
The requests of a queue have one timer, which the device's node keeps with the requests
(``device/controller.py``).  When it expires, the CPU on which it was armed queues a work on kblockd;
that work has the driver look at what has expired.  What comes of it is told here: lines for the log,
and requests to be sent again, which go to the front of the hardware queue.

Departures from the kernel: the timer's interrupt and softirq take no time; the log's rate limit is per
CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.faults import STATUS_WORDS, parse_fault
from emulator.kernel import (
    blk_mq_tag,
    frames,
    workqueue,
    wq_pool,
    wq_table,
)
from emulator.kernel.request import Request
from emulator.types import NSEC_PER_SEC, READ

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: DEFAULT_RATELIMIT_INTERVAL and _BURST.
RATELIMIT_NS = 5 * NSEC_PER_SEC
RATELIMIT_BURST = 10

REQ_SYNC_IDLE = 0x8800


def raise_queue(cpu: Cpu, index: int, timer: bool = False) -> None:
    """Interrupt this CPU: it runs a queue's ``run_work``, or the work of its timer."""
    irq = (frames.IRQ_QUEUE, [index, int(timer)], cpu.costs.ipi_handler_ns)
    if irq not in cpu.irqs:
        cpu.irqs.append(irq)


def timer_expired(cpu: Cpu, index: int) -> None:
    """``blk_rq_timed_out_timer()``: the queue's timer has expired here."""
    if workqueue.queue_work(cpu, wq_table.WQ_KBLOCKD, wq_pool.FN_TIMEOUT, index, cpu.work_id()):
        workqueue.wake_up_worker(cpu, cpu.pools[1])


def timeout_work(cpu: Cpu, index: int) -> None:
    """``blk_mq_timeout_work()``: walk the requests, which are with the device."""
    cpu.send(
        cpu.device_nodes[index],
        messages.SCAN,
        (),
        cpu.now + cpu.costs.coherence_ns,
        cpu.costs.coherence_ns,
    )
    cpu.start(frames.WORK_TAIL, cpu.costs.dio_tail_ns)


def driver_event(cpu: Cpu, index: int, requests: list[list[Any]], lines: list[str]) -> None:
    """Log what a driver says; send requests again (``blk_mq_requeue_request()``)."""
    for line in lines:
        cpu.emit(tp.PRINTK, cpu.sink.intern(line))
    q = cpu.queues[index]
    for data in requests:
        rq = Request.unpack(data)
        if q.elevator is not None:
            blk_mq_tag.put_driver_tag(cpu, q, rq, freed=False)  # it takes one anew
        cpu.count("requeued")
        q.busy.append(rq)
    if requests:
        raise_queue(cpu, index)


def struck(cpu: Cpu, words: list[str]) -> str:
    """A fault strikes a disk: from here on the device is given each request; return the answer."""
    fault = parse_fault(words)
    q = next(q for q in cpu.queues if q.name == fault.disk)
    if not q.carries and not q.service_ns:
        return f"refused: {q.name} ends requests inside queue_rq()"
    q.carries = True
    if fault.verb == "busy":
        q.busy_until = cpu.now + fault.ns
    return "done"


def print_req_error(cpu: Cpu, rq: Request) -> None:
    """``print_req_error()``: one line per failed request, ten in five seconds at most."""
    if cpu.now - cpu.printed_since >= RATELIMIT_NS or not cpu.printed_since:
        cpu.printed_since, cpu.printed = cpu.now, 0
    cpu.printed += 1
    if cpu.printed > RATELIMIT_BURST:
        return
    q = cpu.queues[rq.queue]
    what = STATUS_WORDS.get(rq.error, "I/O")
    op, flags = ("0x0:(READ)", 0) if rq.rw == READ else ("0x1:(WRITE)", REQ_SYNC_IDLE)
    cpu.emit(
        tp.PRINTK,
        cpu.sink.intern(
            f"blk_update_request: {what} error, dev {q.name}, sector {rq.sector} "
            f"op {op} flags {flags:#x} phys_seg 1 prio class 0"
        ),
    )
