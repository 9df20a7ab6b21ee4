"""The multi-queue block layer: ``block/blk-mq*.c``, ``blk-softirq.c``, ``lib/sbitmap.c``, v5.4.

Theory of operation
-------------------
A submitter collects requests under its plug and flushes it to the elevator or straight to the
driver (A.4).  A request remembers the CPU that allocated it, its ``ctx``.  The driver's completion
arrives on some CPU D and is steered (A.7): with one hardware queue it becomes work of the BLOCK
softirq, on D or, by IPI, on the ctx CPU; with several it is ended in the interrupt.  Ending a
request ends its bio, and a direct write queues its completion work on the CPU where that happens.

Tags come in leases from the device, which owns them; a submitter that finds none sleeps in one of
eight wait queues and is woken after ``wake_batch`` frees (A.3).

For a stretch of requests the device has announced how long each will take (a *schedule*): their
completion interrupts are put into this CPU's inbox right away.  When half of the stretch is used
the next one is asked for.  Without a schedule each request is asked: a DOORBELL, and the COMPLETION
comes back.  Either way the doorbells are noted for the device's log and go there as mail, at the
latest at the end of the period of :data:`~emulator.types.DOORBELL_PERIOD_NS` in which they rang.
A service too short for a question and its answer is never asked for.

Departures from the kernel: the elevator's queue is kept per CPU (each CPU dispatches what it
inserted itself, as it nearly always does); scheduler tags are counted per CPU, and a lease never
returns to the device, so that a CPU may run short of tags while others hold some; an elevator over
several hardware queues is run in the submitter as over one; merging does not happen (the workloads
here never submit adjacent requests under one plug); the queue's ``dispatch_busy`` average, flush
sequencing and polling are left out.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator import messages
from emulator.kernel import aio, core, frames, iomap, mq_deadline, softirq, workqueue
from emulator.kernel.request import DIO_ASYNC, DIO_SYNC, Request
from emulator.types import (
    DOORBELL_PERIOD_NS,
    NEVER,
    SCHEDULE_REQUESTS,
    WRITE,
    BoxSpec,
    Costs,
    DiskSpec,
    Message,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task

BLK_MAX_REQUEST_COUNT = 16
BLK_PLUG_FLUSH_SIZE = 128 * 1024
SBQ_WAIT_QUEUES = 8
DOORBELL_BATCH = 256


def wake_batch(depth: int) -> int:
    """Return how many frees wake one batch of waiters (A.3)."""
    return min(max(depth // SBQ_WAIT_QUEUES, 1), 8)


def blk_mq_map_queues(nr_cpus: int, core_masks: tuple[int, ...], nr_queues: int) -> list[int]:
    """Return the hardware queue of each CPU by the generic map of v5.4 (A.2); all CPUs present."""
    queue_of = [-1] * nr_cpus
    k = 0
    for cpu in range(nr_cpus):
        if k >= nr_queues:
            break
        queue_of[cpu] = k % nr_queues
        k += 1
    for cpu in range(nr_cpus):
        if queue_of[cpu] >= 0:
            continue
        first = (core_masks[cpu] & -core_masks[cpu]).bit_length() - 1
        if k < nr_queues or first == cpu:
            queue_of[cpu] = k % nr_queues
            k += 1
        else:
            queue_of[cpu] = queue_of[first]
    return queue_of


class BlockQueue:
    """What one CPU has of a disk's queue: its ctx, its part of the elevator, its lease of tags."""

    __slots__ = (
        "announced",
        "asks",
        "busy",
        "depth",
        "doorbells",
        "driver",
        "elevator",
        "hctx",
        "index",
        "lease",
        "lease_step",
        "name",
        "nr_hw_queues",
        "nr_requests",
        "params",
        "ring_at",
        "rings",
        "rq_affinity",
        "run_queued",
        "sched_tags",
        "schedule_asked",
        "service_ns",
        "tag_asked",
        "wait_cnt",
        "wait_index",
        "waiters",
        "wake_index",
    )

    def __init__(self, spec: BoxSpec, index: int, cpu: int) -> None:
        disk = spec.disks[index]
        self.index = index
        self.name = disk.name
        self.driver = disk.driver
        self.params = disk.params
        self.nr_hw_queues = disk.params.get("submit_queues", 1)
        machine = spec.machine
        self.hctx = blk_mq_map_queues(machine.nr_cpus, machine.core, self.nr_hw_queues)[cpu]
        self.rq_affinity = disk.rq_affinity
        self.nr_requests = disk.nr_requests
        self.elevator = mq_deadline.DeadlineQueue() if disk.scheduler == "mq-deadline" else None
        self.depth = disk.params.get("max_queue", disk.params.get("hw_queue_depth", 64))
        self.service_ns = service_time(disk.driver, disk.params)
        self.asks = self.service_ns >= question_ns(spec.costs)
        self.announced = initial_schedule(disk, machine.take_turns)  # requests left of it
        self.schedule_asked = False
        self.sched_tags = 0  # requests allocated and not freed here
        nr_tags = self.depth * (self.nr_hw_queues if disk.driver == "null_blk" else 1)
        self.lease = initial_lease(nr_tags, machine.nr_cpus)
        # As many as leave each CPU a share: what one CPU has leased it keeps.
        self.lease_step = max(1, nr_tags // machine.nr_cpus - self.lease)
        self.tag_asked = False
        self.busy: list[Request] = []  # hctx.dispatch: requests that found no driver tag
        self.run_queued = False  # hctx.run_work is pending
        self.doorbells: list[list[int]] = []
        self.rings = 0  # doorbells in all
        self.ring_at = 0  # end of the period in which one was last noted
        self.waiters: list[list[int]] = [[] for _ in range(SBQ_WAIT_QUEUES)]
        self.wait_index = 0
        self.wake_index = 0
        depth = self.nr_requests if self.elevator is not None else self.depth
        self.wait_cnt = [wake_batch(depth)] * SBQ_WAIT_QUEUES

    def take_waiters(self) -> list[list[int]]:
        """Empty the wait queues, for the CPU that takes over."""
        waiters, self.waiters = self.waiters, [[] for _ in range(SBQ_WAIT_QUEUES)]
        return waiters

    def has_work(self) -> bool:
        """Whether anything waits to be dispatched."""
        return bool(self.busy) or (self.elevator is not None and self.elevator.has_work())


def service_time(driver: str, params: dict[str, int]) -> int:
    """Return the driver's fixed service time in ns; 0 completes inside ``queue_rq``."""
    if driver == "scsi_debug":
        return params.get("ndelay", 0)
    irqmode = params.get("irqmode", 1)
    return params.get("completion_nsec", 10_000) if irqmode == 2 else 0


def initial_lease(depth: int, nr_cpus: int) -> int:
    """Return the tags a CPU holds at boot: a quarter of all are spread, the device keeps the rest."""
    return max(1, depth // (4 * nr_cpus))


def initial_schedule(disk: DiskSpec, take_turns: bool) -> int:
    """Return the requests announced at boot.

    CPUs that take turns see each other's timers, so theirs must be known ahead: never asked.
    """
    if take_turns:
        return NEVER
    return SCHEDULE_REQUESTS if disk.schedules else 0


def question_ns(costs: Costs) -> int:
    """Return the least time between a doorbell that asks and the completion that answers it."""
    return costs.coherence_ns + max(costs.coherence_ns, min(costs.ttwu_activate_ns, costs.ipi_ns))


# -- Submission ---------------------------------------------------------------------------------


def new_request(cpu: Cpu, p: Task, queue: int, rw: int, offset: int, length: int) -> Request:
    """Build the request of one bio; its ctx is this CPU."""
    rq = Request()
    cpu.io_seq += 1
    rq.cookie = cpu.node_id << 40 | cpu.io_seq
    rq.queue = queue
    rq.ctx_cpu = cpu.node_id
    rq.rw = rw
    rq.sector = offset >> 9
    rq.nr_sector = length >> 9
    rq.pid = p.pid
    rq.moves = p.moves
    rq.home = cpu.node_id
    return rq


def get_tag(cpu: Cpu, q: BlockQueue) -> bool:
    """``blk_mq_get_tag()``, the try: a scheduler tag, or a driver tag without an elevator."""
    if q.elevator is not None:
        if q.sched_tags >= q.nr_requests:
            return False
        q.sched_tags += 1
        return True
    return take_driver_tag(cpu, q)


def take_driver_tag(cpu: Cpu, q: BlockQueue) -> bool:
    """Take a tag of this CPU's lease; ask the device for more in time."""
    if q.lease == 0:
        ask_for_tags(cpu, q)
        return False
    q.lease -= 1
    if q.lease < 2:
        ask_for_tags(cpu, q)
    return True


def ask_for_tags(cpu: Cpu, q: BlockQueue) -> None:
    """Ask the device for a larger lease, once at a time."""
    if q.tag_asked:
        return
    q.tag_asked = True
    cpu.send(
        cpu.device_nodes[q.index],
        messages.TAG_REQUEST,
        (q.lease_step,),
        cpu.now + cpu.costs.request_ns,
        cpu.costs.coherence_ns,
    )


def tags_granted(cpu: Cpu, index: int, nr: int) -> None:
    """The device answers: the lease grows, waiters and held-up requests go on."""
    q = cpu.queues[index]
    q.lease += nr
    q.tag_asked = nr == 0  # nothing to be had: wait for own frees
    if nr and q.busy:
        run_hw_queue_async(cpu, q)
    for _ in range(nr):
        wake_tag_waiter(cpu, q)


def return_tags(cpu: Cpu, q: BlockQueue, nr: int, owner: int) -> None:
    """Give the device back tags that ``owner``, which is or was offline, does not use."""
    if nr:
        cpu.send(
            cpu.device_nodes[q.index],
            messages.TAG_RETURN,
            (nr, owner),
            cpu.now + cpu.costs.request_ns,
            cpu.costs.coherence_ns,
        )


def wait_for_tag(cpu: Cpu, q: BlockQueue, p: Task) -> None:
    """Join the next wait queue, exclusively; sleep follows (A.3, steps 2-5)."""
    q.waiters[q.wait_index].append(p.pid)
    q.wait_index = (q.wait_index + 1) % SBQ_WAIT_QUEUES


def wake_tag_waiter(cpu: Cpu, q: BlockQueue) -> None:
    """``sbitmap_queue_wake_up()`` of one freed tag: every ``wake_batch`` frees wake a batch."""
    for step in range(SBQ_WAIT_QUEUES):
        index = (q.wake_index + step) % SBQ_WAIT_QUEUES
        if q.waiters[index]:
            break
    else:
        return
    q.wake_index = index
    q.wait_cnt[index] -= 1
    if q.wait_cnt[index] > 0:
        return
    batch = wake_batch(q.nr_requests if q.elevator is not None else q.depth)
    q.wait_cnt[index] = batch
    q.wake_index = (index + 1) % SBQ_WAIT_QUEUES
    for pid in q.waiters[index][:batch]:
        p = cpu.tasks.get(pid)
        if p is not None:
            core.wake_up(cpu, p)
    del q.waiters[index][:batch]


def plug_full(plug: list[Request], nr_hw_queues: int = 1) -> bool:
    """Whether the plug must be flushed before another request goes in.

    With several hardware queues it holds one request; the next one lets it go (A.4).
    """
    if len(plug) >= (BLK_MAX_REQUEST_COUNT if nr_hw_queues == 1 else 1):
        return True
    return bool(plug) and plug[-1].nr_sector * 512 >= BLK_PLUG_FLUSH_SIZE


def flush_plug(cpu: Cpu, p: Task) -> bool:
    """Insert the plug's requests; return whether there is something to dispatch inline."""
    queued = False
    for rq in p.run.plug:
        q = cpu.queues[rq.queue]
        if q.elevator is not None:
            trace_request(cpu, tp.BLOCK_RQ_INSERT, rq)
            q.elevator.insert(rq, cpu.now)
        else:
            q.busy.append(rq)
        queued = True
    p.run.plug = []
    return queued


def trace_request(cpu: Cpu, event: int, rq: Request) -> None:
    """Record a request's insert or issue; the record becomes the request's cause."""
    saved = cpu.cause
    if rq.cause:
        cpu.cause = rq.cause
    rq.cause = cpu.emit(
        event,
        cpu.dev_numbers[rq.queue],
        cpu.names["WS" if rq.rw == WRITE else "R"],
        rq.sector,
        rq.nr_sector,
        rq.nr_sector * 512,
    )
    cpu.cause = saved


def dispatch_pending(cpu: Cpu, queue: int) -> bool:
    """Whether the hardware queue has a request that can go to the driver now."""
    q = cpu.queues[queue]
    if q.elevator is None:
        return bool(q.busy)
    # Without a driver tag nothing goes out: SCHED_RESTART, the next free runs the queue again.
    return q.has_work() and q.lease > 0


def dispatch_one(cpu: Cpu, queue: int) -> None:
    """``blk_mq_dispatch_rq_list()`` of one request: leftovers first, then the elevator's choice."""
    q = cpu.queues[queue]
    if q.busy:
        rq = q.busy.pop(0)
    else:
        assert q.elevator is not None
        chosen = q.elevator.dispatch(cpu.now)
        if chosen is None:
            return
        rq = chosen
    if q.elevator is not None and not take_driver_tag(cpu, q):
        q.busy.insert(0, rq)
        return
    queue_rq(cpu, q, rq)


def queue_rq(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """The driver takes the request: its timer starts, or it ends at once."""
    trace_request(cpu, tp.BLOCK_RQ_ISSUE, rq)
    cpu.inflight[rq.cookie] = rq
    rq.done_ns = cpu.now + q.service_ns
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
            q.service_ns - cpu.costs.coherence_ns,
        )


def complete_by_schedule(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """The completion is known now: it takes the very place its message would."""
    heapq.heappush(cpu.inbox, announced_completion(cpu, rq.done_ns, rq, 0))
    cpu.timer_armed(rq.done_ns)
    if q.asks and q.announced < NEVER:
        q.announced -= 1
        if q.announced <= SCHEDULE_REQUESTS // 2 and not q.schedule_asked:
            ask_for_schedule(cpu, q)


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
    q.doorbells.append([cpu.now, rq.cookie, rq.sector, rq.nr_sector, rq.rw, rq.done_ns])
    if cpu.now >= q.ring_at:
        # A note to itself: whatever this CPU does then, the period's doorbells leave.
        q.ring_at = (cpu.now // DOORBELL_PERIOD_NS + 1) * DOORBELL_PERIOD_NS
        note = (q.ring_at, cpu.node_id, q.rings, cpu.node_id, messages.RING_DOORBELLS, (q.index,))
        heapq.heappush(cpu.inbox, note)
    if len(q.doorbells) >= DOORBELL_BATCH:
        ring_doorbells(cpu, q)


def ring_doorbells(cpu: Cpu, q: BlockQueue) -> None:
    """Send the device what was rung, for its log."""
    if q.doorbells:
        cpu.send_mail(cpu.device_nodes[q.index], messages.DOORBELLS, (q.doorbells,))
        q.doorbells = []


def complete_inline(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """null_blk's irq modes 0 and 1: the request is finished inside ``queue_rq``."""
    if q.params.get("irqmode", 1) == 0:
        del cpu.inflight[rq.cookie]
        end_request(cpu, rq)
    else:
        blk_mq_complete_request(cpu, rq)


def run_hw_queue_async(cpu: Cpu, q: BlockQueue) -> None:
    """``blk_mq_run_hw_queue(async)``: queue ``run_work`` on kblockd, if anything is pending."""
    if q.run_queued or not q.has_work():
        return
    q.run_queued = True
    cpu.work_seq += 1
    if workqueue.queue_work(
        cpu, workqueue.WQ_KBLOCKD, workqueue.FN_RUN_QUEUE, q.index, cpu.work_id()
    ):
        workqueue.wake_up_worker(cpu, cpu.pools[1])


def delayed_run(cpu: Cpu, index: int) -> None:
    """A delayed run of the queue is due."""
    run_hw_queue_async(cpu, cpu.queues[index])


def run_work_fn(cpu: Cpu, index: int) -> None:
    """``blk_mq_run_work_fn()`` in a kblockd worker: dispatch until nothing is left."""
    cpu.queues[index].run_queued = False
    dispatch_loop(cpu, [index, "work"])


def dispatch_loop(cpu: Cpu, arg: list[Any]) -> None:
    """Start the next dispatch, or go on with what the flush belonged to."""
    if dispatch_pending(cpu, arg[0]):
        cpu.start(frames.DISPATCH, cpu.costs.dispatch_ns, arg)
    elif arg[1] == "work":
        cpu.start(frames.WORK_TAIL, cpu.costs.dio_tail_ns)
    else:
        aio.flushed(cpu, arg)


def dispatch_end(cpu: Cpu, arg: list[Any]) -> None:
    """One request goes to the driver; the flush goes on after the wakeups that made."""
    cpu.start(frames.DISPATCHED, 0, arg)
    dispatch_one(cpu, arg[0])
    if cpu.f_kind == frames.DISPATCHED:
        dispatch_loop(cpu, arg)


# -- Completion ---------------------------------------------------------------------------------


def device_interrupt(cpu: Cpu, arg: list[int]) -> None:
    """The driver's completion function, in its interrupt (or per-request timer) on this CPU."""
    cookie, status = arg
    rq = cpu.inflight.get(cookie)
    assert rq is not None, cpu.story(f"request {cookie:#x} completes twice")
    rq.error = status
    q = cpu.queues[rq.queue]
    cpu.cause = rq.cause
    cpu.cause = cpu.emit(
        tp.HRTIMER_EXPIRE_ENTRY, cookie, cpu.names[TIMER_FUNCTIONS[q.driver]], cpu.now
    )
    if q.driver == "null_blk":
        del cpu.inflight[cookie]
        end_request(cpu, rq)  # no steering, no softirq: null_blk ends it in the timer
    else:
        blk_mq_complete_request(cpu, rq)


TIMER_FUNCTIONS = {
    "scsi_debug": "sdebug_q_cmd_hrt_complete",
    "null_blk": "null_cmd_timer_expired",
}


def request_timer(cpu: Cpu, cookie: int) -> None:
    """A per-request timer kept as an hrtimer (moved here by hotplug) expired."""
    device_interrupt(cpu, [cookie, 0])


def steer(
    here: int, ctx_cpu: int, rq_affinity: int, nr_hw_queues: int, share_cache: bool, online: bool
) -> tuple[str, int]:
    """Return (context, CPU) in which a completion that arrived on ``here`` is finished (A.7)."""
    context = "softirq" if nr_hw_queues == 1 else "hardirq"
    if rq_affinity == 0 or ctx_cpu == here or not online:
        return context, here
    if rq_affinity == 1 and share_cache:
        return context, here
    return context, ctx_cpu


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
    )
    del cpu.inflight[rq.cookie]
    if where != here:
        cpu.send(
            where,
            messages.CALL_COMPLETE,
            (rq.pack(), cpu.cause),
            cpu.now + cpu.costs.ipi_ns,
            cpu.costs.hardirq_ns,
        )
    elif context == "hardirq":
        end_request(cpu, rq)
    else:
        add_to_done_list(cpu, rq)


def add_to_done_list(cpu: Cpu, rq: Request) -> None:
    """Append to ``blk_cpu_done``; the first entry raises BLOCK."""
    rq.cause = cpu.cause
    cpu.done_list.append(rq)
    if len(cpu.done_list) == 1:
        softirq.raise_softirq(cpu, softirq.BLOCK)


def flush_call_queue(cpu: Cpu) -> None:
    """The call-function IPI's handler: finish what other CPUs steered here."""
    arrived, cpu.call_done = cpu.call_done, []
    for rq in arrived:
        cpu.cause = rq.cause
        if cpu.queues[rq.queue].nr_hw_queues == 1:
            add_to_done_list(cpu, rq)
        else:
            end_request(cpu, rq)


def blk_done_softirq(cpu: Cpu) -> None:
    """The BLOCK vector: take the whole list, end every request in order, without a budget."""
    cpu.sirq_block = cpu.done_list
    cpu.done_list = []
    if cpu.sirq_block:
        cpu.start(frames.BLOCK_START, cpu.costs.blk_start_request_ns)
    else:
        cpu.start(frames.BLOCK_TAIL, cpu.costs.softirq_tail_ns)


def block_next(cpu: Cpu) -> None:
    """The rest of one request, and the start of the next, or the round's tail."""
    costs = cpu.costs
    if cpu.sirq_block:
        cpu.start(frames.BLOCK_START, costs.blk_done_request_ns + costs.blk_start_request_ns)
    else:
        cpu.start(frames.BLOCK_TAIL, costs.blk_done_request_ns + costs.softirq_tail_ns)


def block_start(cpu: Cpu, _arg: object) -> None:
    """One request of the round has got as far as ``block_rq_complete``."""
    rq = cpu.sirq_block[0]
    cpu.cause = rq.cause
    rq.cause = trace_complete(cpu, rq)
    cpu.start(frames.BLOCK_END, cpu.costs.blk_end_request_ns)


def trace_complete(cpu: Cpu, rq: Request) -> int:
    """Record ``block_rq_complete``; return its position."""
    return cpu.emit(
        tp.BLOCK_RQ_COMPLETE,
        cpu.dev_numbers[rq.queue],
        cpu.names["WS" if rq.rw == WRITE else "R"],
        rq.sector,
        rq.nr_sector,
        rq.error,
    )


def block_end(cpu: Cpu, _arg: object) -> None:
    """One request of the round has reached its bio's end: its work is queued, its tag freed."""
    rq = cpu.sirq_block.pop(0)
    cpu.cause = rq.cause
    q = cpu.queues[rq.queue]
    cpu.start(frames.BLOCK_QUEUED, 0)
    if bio_endio(cpu, rq):
        cpu.start(frames.BLOCK_QUEUE, cpu.costs.queue_work_ns)
    free_request(cpu, rq)
    if q.driver == "scsi_debug":
        run_hw_queue_async(cpu, q)  # scsi_end_request() runs all queues after every command
    if cpu.f_kind == frames.BLOCK_QUEUED:
        block_next(cpu)


def block_queue(cpu: Cpu, _arg: object) -> None:
    """The end of queue_work(): a worker is woken, then the round goes on."""
    cpu.start(frames.BLOCK_QUEUED, 0)
    workqueue.wake_up_worker(cpu, cpu.pools[0])
    if cpu.f_kind == frames.BLOCK_QUEUED:
        block_next(cpu)


def block_queued(cpu: Cpu, _arg: object) -> None:
    """Go on with the round after a wakeup."""
    block_next(cpu)


def block_tail(cpu: Cpu, _arg: object) -> None:
    """The end of the BLOCK vector."""
    softirq.vector_done(cpu, softirq.BLOCK)


def end_request(cpu: Cpu, rq: Request) -> None:
    """``blk_mq_end_request()`` outside of the softirq: in a hard interrupt or in the submitter."""
    rq.cause = trace_complete(cpu, rq)
    cpu.cause = rq.cause
    if bio_endio(cpu, rq):
        workqueue.wake_up_worker(cpu, cpu.pools[0])
    free_request(cpu, rq)


def bio_endio(cpu: Cpu, rq: Request) -> bool:
    """The bio ends (D.2); return whether a worker of the normal pool is to be woken."""
    if rq.what == DIO_ASYNC:
        return iomap.dio_bio_end_io(cpu, rq)
    if rq.what == DIO_SYNC:
        iomap.dio_wake_waiter(cpu, rq)
        return False
    return iomap.writeback_end_bio(cpu, rq)


def free_request(cpu: Cpu, rq: Request) -> None:
    """The tag returns to this CPU's lease; waiters and held-up requests may go on."""
    q = cpu.queues[rq.queue]
    cpu.ended += 1
    if rq.ctx_cpu == cpu.node_id:
        q.lease += 1
    else:
        return_tags(cpu, q, 1, rq.ctx_cpu)
    if q.elevator is not None:
        q.sched_tags = max(0, q.sched_tags - 1)
        if q.busy:
            run_hw_queue_async(cpu, q)
    if q.tag_asked and q.lease > 2:
        q.tag_asked = False
    wake_tag_waiter(cpu, q)
