"""Which CPU runs a hardware queue that its submitter does not run: ``block/blk-mq.c``, v5.4.

Theory of operation
-------------------
Where a queue is not run at once ``run_work`` is queued on kblockd.  With one hardware queue that is the
pool of the CPU that asks.  Of several, each is run by the CPUs that submit to it, in turn: the next one
that is online after every eighth run (``next_cpu``, ``next_cpu_batch``); if none of them is online, again by
whoever asks.

What waits is kept by the CPU that inserted it, so it goes to the CPU that is to run it, with the work:
it is that one's from then on, and its driver tags are given back from there.

Departures from the kernel: each CPU of a hardware queue counts its own runs, and a run takes what was
inserted by the CPU that asked for it (and what the running CPU has itself), not what further CPUs have;
what comes while such a work is pending is not taken along, but has a run of its own.  A run that is
delayed waits on the CPU that asked, and its CPU is chosen when it is due.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import dio_completion, smp, workqueue, wq_hotplug, wq_pool
from emulator.kernel.request import PAGES, WB_PAGES, Request
from emulator.kernel.wq_table import WQ_KBLOCKD
from emulator.types import Message, cpumask_first

if TYPE_CHECKING:
    from emulator.kernel.blk_queue import BlockQueue
    from emulator.kernel.cpu import Cpu

BLK_MQ_CPU_WORK_BATCH = 8


def blk_mq_hctx_next_cpu(q: BlockQueue, online: int, here: int) -> int:
    """Return the CPU that is to run this CPU's hardware queue: of its mask in turn, or this one."""
    if not q.hctx_mask:
        return here
    usable = q.hctx_mask & online
    q.next_cpu_batch -= 1
    if not usable:
        q.next_cpu_batch = 1  # chosen anew as soon as one of them is back
        return here
    if q.next_cpu_batch <= 0 or not usable >> q.next_cpu & 1:
        behind = usable >> (q.next_cpu + 1) << (q.next_cpu + 1)
        q.next_cpu = cpumask_first(behind or usable)
        q.next_cpu_batch = BLK_MQ_CPU_WORK_BATCH
    return q.next_cpu


def may_leave(q: BlockQueue, now_ns: int) -> bool:
    """Whether a run of the queue by another CPU may come of what is under way (for promises)."""
    if not q.hctx_mask:
        return False
    waits = q.has_work() or q.direct is not None or q.restart or q.delayed
    return waits or q.busy_until > now_ns or q.elevator is not None or q.write_cache or q.blocking


# -- To another CPU -------------------------------------------------------------------------------


def run_elsewhere(
    cpu: Cpu, q: BlockQueue, target: int, waker: tuple[int, int] | None = None
) -> None:
    """``kblockd_mod_delayed_work_on()`` of another CPU's pool: pay, and send it what waits here."""
    costs = cpu.costs
    cpu.works[0] += 1
    work = cpu.work_id()
    cause = cpu.emit(
        tp.WORKQUEUE_QUEUE_WORK,
        work,
        cpu.names[wq_pool.FUNCTIONS[wq_pool.FN_RUN_QUEUE]],
        cpu.names[cpu.workqueues[WQ_KBLOCKD].name],
        target,
        target,
    )
    ns = costs.queue_work_ns + costs.coherence_ns  # its pool's lock and list
    soonest_ns = min(costs.ipi_ns, costs.ttwu_activate_ns)
    cpu.send(
        target,
        messages.RUN_HW_QUEUE,
        ([q.index, *take_waiting(cpu, q)], work, *(waker or (cpu.node_id, cpu.rq.curr.pid)), cause),
        cpu.now + max(ns, costs.ipi_ns, costs.ttwu_activate_ns),
        min(soonest_ns, costs.coherence_ns),
    )
    cpu.count("runs_queued_elsewhere")
    if waker is None:
        dio_completion.charge(cpu, ns)


def take_waiting(cpu: Cpu, q: BlockQueue) -> list[list[Any]]:
    """Take what waits in the queue here: leftovers, those of the ctxs, and the elevator's."""
    fresh = q.elevator.drain() if q.elevator is not None else []
    parts = [q.busy, q.ctx_list, fresh]
    q.busy, q.ctx_list = [], []
    for rq in (rq for part in parts for rq in part):
        if rq.what not in (PAGES, WB_PAGES) and not rq.remote:
            dio_completion.send_away(cpu, rq)
    return [[rq.pack() for rq in part] for part in parts]


def requests_in(message: Message) -> list[Request]:
    """Return the requests that such a message carries."""
    _index, *parts = message[5][0]
    return [Request.unpack(data) for part in parts for data in part]


def item_in(message: Message) -> list[Any]:
    """Return the work that such a message queues."""
    state, work, _cpu, _pid, cause = message[5]
    return [work, wq_pool.FN_RUN_QUEUE, WQ_KBLOCKD, state[0], cause]


def run_hw_queue_here(cpu: Cpu, message: Message) -> None:
    """Another CPU has this one run a hardware queue: what waited there does here, a worker is woken."""
    state, _work, waker_cpu, waker_pid, cause = message[5]
    index, busy, ctx_list, fresh = state
    pool = cpu.pools[1]
    worker = cpu.tasks[pool.idle[-1]] if pool.idle else None
    if smp.waker_spins(cpu, worker, waker_cpu):
        cpu.deferred.append(message)
        return
    q = cpu.queues[index]
    cpu.adopted = True
    cpu.cause = cause
    q.busy += [Request.unpack(data) for data in busy]
    q.ctx_list += [Request.unpack(data) for data in ctx_list]
    for data in fresh:
        assert q.elevator is not None, cpu.story(f"{q.name}: an elevator elsewhere only")
        q.elevator.insert(Request.unpack(data), cpu.now)
    if q.run_queued:
        cpu.works[0] -= 1  # the work that is pending runs these too
        return
    q.run_queued = True
    item = item_in(message)
    if pool.disassociated:
        wq_hotplug.queue_work_here(cpu, item, (waker_cpu, waker_pid))
    elif workqueue.insert_work(cpu, pool, item):
        workqueue.wake_up_worker(cpu, pool, (waker_cpu, waker_pid))
