"""Bound workqueues with concurrency management: ``kernel/workqueue.c``, v5.4.

Which workqueues there are is :mod:`wq_table`'s; unbound ones go from :func:`queue_work` to
:mod:`wq_unbound`, and share what a worker does with an item.

Theory of operation
-------------------
Every CPU has two pools of workers, nice 0 and nice -20 (:mod:`wq_pool`), each with one list of work
items that all bound workqueues share.  At most one worker of a pool *runs*; another is woken only when
the running one blocks, or when it executes an item of a CPU_INTENSIVE queue.  Queueing an item wakes
the first idle worker if none runs; until that worker has executed its first instructions it still
counts as idle, so further items only lengthen the list.  What the workers do is :mod:`wq_worker`'s.

Items beyond a queue's ``max_active`` wait in its per-pool delayed list.

Departures from the kernel: every queueing is of a work of its own, so that none is pending already or
still executes elsewhere (F.5 and its example W3 have no counterpart here); there are no BH workqueues
(6.9), which nothing that is modelled would use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import core, wq_unbound
from emulator.kernel.sched import Task
from emulator.kernel.wq_pool import (
    AWAKE,
    FUNCTIONS,
    WORK_CPU_UNBOUND,
    WORKER_NOT_RUNNING,
    WorkerPool,
    is_unbound,
    pool_of,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.percpu import PerCpu


# -- Queueing (F.4) -----------------------------------------------------------------------------


def queue_work(cpu: Cpu, wq_id: int, function: int, arg: Any, work: int) -> bool:
    """Queue an item on this CPU's pool, or its pod's; return whether a worker should be woken for it.

    The caller charges the wakeup (it may be in a softirq) and calls :func:`wake_up_worker`.  It has
    set the frame that goes on afterwards: for an unbound queue another is over it when this returns,
    in which the CPU waits for the pool, and wakes whom it must (:mod:`wq_unbound`).
    """
    wq = cpu.workqueues[wq_id]
    item = [work, function, wq_id, arg, 0]
    cpu.works[0] += 1
    if wq.unbound:
        wq_unbound.queue_work(cpu, item)
        return False
    item[4] = cpu.emit(
        tp.WORKQUEUE_QUEUE_WORK,
        work,
        cpu.names[FUNCTIONS[function]],
        cpu.names[wq.name],
        WORK_CPU_UNBOUND,
        cpu.node_id,
    )
    if cpu.asked is not None:
        wq_unbound.queue_disassociated(cpu, wq.pool, item)
        return False
    return insert_work(cpu, cpu.pools[wq.pool], item)


def insert_work(cpu: Cpu, pool: WorkerPool, item: list[Any]) -> bool:
    """Append an item to this pool's list, or to the delayed ones; return whether to wake a worker."""
    wq_id: int = item[2]
    active = pool.active.get(wq_id, 0)
    if active >= cpu.workqueues[wq_id].max_active:
        pool.delayed.setdefault(wq_id, []).append(item)
        return False
    cpu.emit(tp.WORKQUEUE_ACTIVATE_WORK, item[0])
    pool.active[wq_id] = active + 1
    if not pool.worklist:
        pool.watchdog_ns = cpu.now
    pool.worklist.append(item)
    return pool.nr_running == 0 and first_idle_sleeps(cpu, pool)


def wants_waking(cpu: PerCpu, pool: WorkerPool) -> bool:
    """Whether queueing an item on a pool would wake a worker."""
    return pool.nr_running == 0 and first_idle_sleeps(cpu, pool)


def first_idle_sleeps(cpu: PerCpu, pool: WorkerPool) -> bool:
    """Whether waking the first idle worker would do anything."""
    return bool(pool.idle) and cpu.tasks[pool.idle[-1]].state not in AWAKE


def wake_up_worker(cpu: Cpu, pool: WorkerPool, waker: tuple[int, int] | None = None) -> None:
    """Wake the first idle worker; nothing happens if it is runnable already.

    ``waker`` is (CPU, pid) if the work was queued from another CPU.
    """
    if pool.idle:
        p = cpu.tasks[pool.idle[-1]]
        if p.state not in AWAKE:
            if pool.worklist:
                cpu.cause = pool.worklist[0][4]  # the work that it is wanted for
            if waker is None:
                core.wake_up(cpu, p)
            else:
                core.try_to_wake_up(cpu, p, waker=waker)


# -- Scheduler hooks ----------------------------------------------------------------------------


def wq_worker_sleeping(cpu: Cpu, p: Task) -> None:
    """A worker is about to block: if it was the only one running, another is woken for the rest."""
    if is_unbound(p):
        return  # never counted: WORKER_UNBOUND
    pool = pool_of(cpu, p)
    if pool.workers[p.pid] & WORKER_NOT_RUNNING:
        return
    pool.nr_running -= 1
    p.run.submit = [1]  # worker->sleeping
    if pool.worklist and pool.nr_running == 0:
        wake_up_worker(cpu, pool)


def wq_worker_running(cpu: Cpu, p: Task) -> None:
    """A worker that had blocked inside an item runs again."""
    if p.run.submit:
        p.run.submit = []
        p.run.work_at = p.sum_exec_runtime
        pool = pool_of(cpu, p)
        if not pool.workers[p.pid] & WORKER_NOT_RUNNING:
            pool.nr_running += 1
