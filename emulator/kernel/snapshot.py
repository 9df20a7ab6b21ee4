"""A CPU's whole state as plain data, its exact inverse, and its books."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.kernel import command, fields, holdings, late_work, mq_deadline, wq_hotplug
from emulator.kernel.dio_completion import DioCompletion
from emulator.kernel.irq_thread import IrqThread
from emulator.kernel.process import plain, unpack_task
from emulator.kernel.request import Request
from emulator.kernel.sched import Task
from emulator.kernel.wq_pool import WorkerPool
from emulator.messages import message_from_list
from emulator.topology import DomainMap

if TYPE_CHECKING:
    from emulator.kernel.blk_queue import BlockQueue
    from emulator.kernel.cpu import Cpu

#: Fields of a Cpu that are plain numbers (or plain lists of them) and are copied as they are.
PLAIN = (
    "now",
    "reached_ns",
    "f_kind",
    "f_end",
    "f_arg",
    "level",
    "irqs_on",
    "cause",
    "wants_view",
    "stalled",
    "stalled_at",
    "seq",
    "waking",
    "pid_seq",
    "load_pid",
    "scan_cost",
    "online",
    "active",
    "killed",
    "adopter",
    "going_down",
    "adopted",
    "exited",
    "timer_seq",
    "tick_at",
    "irq_start_ns",
    "ipis",
    "tick_stopped",
    "nohz_told",
    "in_nohz_mask",
    "nohz_flags",
    "kick_cause",
    "softirq_pending",
    "in_softirq",
    "sirq_mask",
    "sirq_end",
    "sirq_left",
    "balance_asked",
    "busy_pass",
    "stop_works",
    "work_seq",
    "works",
    "flushers",
    "io_seq",
    "ended",
    "timer_watch_ns",
    "published_nr",
    "wake_list",
    "delayed_wakes",
    "idle_cores",
    "pushing",
    "draining",
    "completed",
    "wq_ticket",
    "wq_rr_cpu",
    "wq_watch_at",
    "wq_cull_at",
    "create_failed",
    "printed",
    "printed_since",
)


def pack(cpu: Cpu) -> list[Any]:
    """Return everything a CPU is, in the order that :func:`unpack` takes it."""
    idle = cpu.rq.idle
    return [
        fields.values(cpu, PLAIN),
        [list(frame) for frame in cpu.stack],
        [plain(box) for box in (cpu.inbox, cpu.mail, cpu.outbox, cpu.deferred)],
        [[pid, moves, target] for pid, (moves, target) in cpu.forward.items()],
        [[pid, nr] for pid, nr in cpu.expect.items()],
        [[pid, [list(m) for m in box]] for pid, box in cpu.held.items()],
        list(cpu.mail_sleepers),
        [list(wakeup) for wakeup in cpu.wakeups],
        [p.pack() for p in (idle, *cpu.tasks.values())],
        cpu.rq.pack(),
        [[pid, books.pack()] for pid, books in cpu.books_kept.items()],
        [list(timer) for timer in cpu.timers],
        [list(timer) for timer in cpu.jiffy_timers],
        [list(irq) for irq in cpu.irqs],
        [[rq.pack() for rq in box] for box in (cpu.sirq_block, cpu.done_list, cpu.call_done)],
        [pool.pack() for pool in cpu.pools],
        [pack_queue(q) for q in cpu.queues],
        [rq.pack() for rq in cpu.inflight.values()],
        [[name, value] for name, value in cpu.counters.items()],
        cpu.ksoftirqd.pid,
        cpu.rq.tun.pack(),
        [[pid, arrival_ns] for pid, arrival_ns in cpu.arrivals.items()],
        [[cookie, other] for cookie, other in cpu.handed.items()],
        cpu.rcu.pack(),
        cpu.domains.active_mask,
        [[pipe, nr] for pipe, nr in cpu.piped.items()],
        None if cpu.completion is None else cpu.completion.pack(),
        [None if one is None else one.pack() for one in (cpu.psi, cpu.sched_info, cpu.steal)],
        cpu.xfs_log.state,
        None if cpu.backing is None else cpu.backing.pack(),
        [[irq, *thread.pack()] for irq, thread in cpu.irq_threads.items()],
        None if cpu.asked is None else cpu.asked.pack(),
        list(cpu.added),
        list(cpu.policies),
    ]


def unpack(cpu: Cpu, data: list[Any]) -> None:
    """Make a CPU what :func:`pack` described; its containers keep their identity."""
    assert cpu.added == data[32][: len(cpu.added)]
    for text in data[32][len(cpu.added) :]:
        late_work.grow(cpu, text)
    cpu.rq.use_rules(cpu.spec.kernel.rules)
    cpu.policies.clear()
    for word in data[33]:
        command.policy(cpu, word)
    fields.assign(cpu, PLAIN, data[0])
    cpu.stack[:] = [tuple(frame) for frame in data[1]]
    for box, messages in zip((cpu.inbox, cpu.mail, cpu.outbox, cpu.deferred), data[2], strict=True):
        box[:] = [message_from_list(m) for m in messages]
    cpu.forward = {pid: (moves, target) for pid, moves, target in data[3]}
    cpu.expect = dict(data[4])
    cpu.held = {pid: [message_from_list(m) for m in box] for pid, box in data[5]}
    cpu.mail_sleepers = dict.fromkeys(data[6], 1)
    cpu.wakeups[:] = [(pid, bool(sync)) for pid, sync in data[7]]
    tasks = [unpack_task(item, cpu.make_program) for item in data[8]]
    by_pid: dict[int, Task] = {p.pid: p for p in tasks}
    cpu.tasks = {p.pid: p for p in tasks[1:]}
    cpu.rq.unpack(data[9], by_pid)
    cpu.rq.idle.run = tasks[0].run
    cpu.rq.on_runtime = cpu.runtime_hook()
    cpu.books_kept = {pid: cpu.programs.unpack_books(books) for pid, books in data[10]}
    for p in cpu.tasks.values():
        cpu.keep_books(p)
    cpu.timers[:] = [tuple(timer) for timer in data[11]]
    cpu.jiffy_timers[:] = [tuple(timer) for timer in data[12]]
    cpu.irqs[:] = [tuple(irq) for irq in data[13]]
    cpu.sirq_block, cpu.done_list, cpu.call_done = (
        [Request.unpack(rq) for rq in box] for box in data[14]
    )
    cpu.pools = [WorkerPool.unpack(pool) for pool in data[15]]
    for q, item in zip(cpu.queues, data[16], strict=True):
        unpack_queue(q, item)
    requests = [Request.unpack(rq) for rq in data[17]]
    cpu.edge = 0
    cpu.inflight = {rq.cookie: rq for rq in requests}
    cpu.counters = dict(data[18])
    cpu.ksoftirqd = by_pid[data[19]]
    cpu.rq.tun.unpack(data[20])
    cpu.arrivals = dict(data[21])
    cpu.handed = dict(data[22])
    cpu.rcu.unpack(data[23])
    cpu.domains = DomainMap(cpu.spec.machine, cpu.rq.rules, data[24])
    cpu.piped = dict(data[25])
    cpu.completion = None if data[26] is None else DioCompletion.unpack(data[26])
    for one, state in zip((cpu.psi, cpu.sched_info, cpu.steal), data[27], strict=True):
        if one is not None:
            one.unpack(state)
    cpu.xfs_log.state = data[28]
    if cpu.backing is not None:
        cpu.backing.unpack(data[29])
    cpu.irq_threads = {irq: IrqThread(*thread) for irq, *thread in data[30]}
    cpu.asked = None
    if data[31] is not None:
        cpu.asked = wq_hotplug.asked_pools(cpu)
        cpu.asked.unpack(data[31])


def pack_queue(q: BlockQueue) -> list[Any]:
    """Return the changing part of a block queue."""
    return [
        None if q.elevator is None else pack_elevator(q.elevator),
        q.service_ns,
        q.announced,
        q.allocated,
        q.lease,
        q.tag_asked,
        [rq.pack() for rq in q.busy],
        q.run_queued,
        q.doorbells,
        q.rings,
        q.sbq.pack(),
        [q.tag_mode, q.restart, q.tag_again, list(q.woken_early)],
        q.rq_affinity,
        q.schedule_asked,
        q.ring_at,
        q.stat.pack(),
        q.carries,
        q.busy_until,
        q.inactive,
        q.delayed,
        q.poll_stats.pack(),
        None if q.issuing is None else q.issuing.pack(),
        [rq.pack() for rq in q.ctx_list],
        None if q.direct is None else [rq.pack() for rq in q.direct],
        q.dispatch_busy,
        q.dispatch_from,
        q.next_cpu,
        q.next_cpu_batch,
    ]


def unpack_queue(q: BlockQueue, data: list[Any]) -> None:
    """Take over what :func:`pack_queue` returned."""
    if data[0] is not None:
        q.elevator = unpack_elevator(data[0])
    q.service_ns, q.announced, q.allocated, q.lease, q.tag_asked = data[1:6]
    q.busy = [Request.unpack(rq) for rq in data[6]]
    q.run_queued, q.doorbells, q.rings = data[7:10]
    q.sbq.unpack(data[10])
    q.tag_mode, q.restart, q.tag_again, q.woken_early = data[11]
    q.rq_affinity, q.schedule_asked, q.ring_at = data[12:15]
    q.stat.unpack(data[15])
    q.carries, q.busy_until, q.inactive, q.delayed = data[16:20]
    q.poll_stats.unpack(data[20])
    q.issuing = None if data[21] is None else Request.unpack(data[21])
    q.ctx_list = [Request.unpack(rq) for rq in data[22]]
    q.direct = None if data[23] is None else [Request.unpack(rq) for rq in data[23]]
    q.dispatch_busy, q.dispatch_from, q.next_cpu, q.next_cpu_batch = data[24:28]


def pack_elevator(queue: mq_deadline.DeadlineQueue) -> list[Any]:
    """Return an elevator as plain data."""
    return [
        [[list(entry) for entry in fifo] for fifo in queue.fifo],
        [[[s, n, rq.pack()] for s, n, rq in entries] for entries in queue.sorted],
        [None if key is None else list(key) for key in queue.next_key],
        queue.batching,
        queue.starved,
        queue.sequence,
        queue.last_dir,
        queue.per_prio,
        queue.aging,
    ]


def unpack_elevator(data: list[Any]) -> mq_deadline.DeadlineQueue:
    """Rebuild what :func:`pack_elevator` returned."""
    queue = mq_deadline.DeadlineQueue(data[7], data[8])
    queue.fifo = [[(d, n) for d, n in fifo] for fifo in data[0]]
    queue.sorted = [[(s, n, Request.unpack(rq)) for s, n, rq in entries] for entries in data[1]]
    queue.next_key = [None if key is None else (key[0], key[1]) for key in data[2]]
    queue.batching, queue.starved, queue.sequence, queue.last_dir = data[3:7]
    return queue


def books(cpu: Cpu) -> dict[str, Any]:
    """Return what a CPU owns (for the conservation check) and its counters (for the results)."""
    return {
        **holdings.holdings(cpu),
        "programs": {pid: books.pack() for pid, books in cpu.books_kept.items()},
        "figure_pids": sorted(p.pid for p in cpu.tasks.values() if p.figure),
        "online": cpu.online,
        "nr_switches": cpu.rq.nr_switches,
        "completed": list(cpu.completed),
        "counters": dict(cpu.counters),
        "disk_stats": [q.stat.pack() for q in cpu.queues],
        "comms": {p.pid: p.comm for p in cpu.tasks.values()},
    }
