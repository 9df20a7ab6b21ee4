"""Workqueues and CPU hotplug: what becomes of a dead CPU's pools, ``kernel/workqueue.c`` (F.11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import frames, kthread, wq_rescuer, wq_worker
from emulator.kernel.process import WAIT_WORK
from emulator.kernel.sched import Task
from emulator.kernel.wq_pool import (
    WORKER_IDLE,
    WORKER_NOT_RUNNING,
    WORKER_PREP,
    WORKER_RESCUER,
    WorkerPool,
    pack_item,
    pool_of,
    unpack_item,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def park_worker(cpu: Cpu, p: Task) -> None:
    """A queued worker of a dying CPU goes back to sleep, idle: others will do its work."""
    pool = pool_of(cpu, p)
    if p.run.kind == frames.WORK_RESCHED:
        wq_worker.work_done(cpu, p, pool)
    kthread.park(cpu, p)
    p.state = tp.TASK_IDLE
    if pool.manager == p.pid:
        pool.manager = 0
        wq_rescuer.cancel_mayday(cpu, pool)
    if pool.workers[p.pid] & WORKER_RESCUER:
        pool.workers[p.pid] = WORKER_RESCUER | WORKER_PREP
    else:
        if not pool.workers[p.pid] & WORKER_NOT_RUNNING and not p.run.submit:
            pool.nr_running -= 1
        if not pool.workers[p.pid] & WORKER_IDLE:
            pool.idle.append(p.pid)
        pool.workers[p.pid] = WORKER_IDLE | WORKER_PREP
    p.run.kind, p.run.left, p.run.arg = frames.WORKER_START, cpu.costs.worker_start_ns, None
    p.run.wait = WAIT_WORK
    p.run.submit = []


def take_items(cpu: Cpu, pool: WorkerPool) -> list[list[Any]]:
    """Empty a dying CPU's pool: its items in order, the delayed ones last, for a message.

    First come those inside which a worker sleeps, with what they have not done.
    """
    items = [item for item in pool.executing.values() if item[3]]
    cpu.works[1] += len(pool.executing) - len(items)
    items += [*pool.worklist, *(item for waiting in pool.delayed.values() for item in waiting)]
    for pid in list(pool.executing):
        del pool.executing[pid]
        if -1 in cpu.tasks[pid].run.iocbs:
            cpu.tasks[pid].run.remote_ios += 1  # the sync that it sleeps for will end elsewhere
        park_worker(cpu, cpu.tasks[pid])
    if pool.manager:
        park_worker(cpu, cpu.tasks[pool.manager])  # asleep while a worker is created
    pool.worklist.clear()
    pool.delayed.clear()
    pool.active.clear()
    assert pool.nr_running == 0, cpu.story("a worker runs on a dead CPU")
    return [pack_item(item) for item in items]


def give_items(cpu: Cpu, pool: WorkerPool, items: list[list[Any]]) -> None:
    """Append a dead CPU's items to this pool; :func:`wake_up_worker` follows."""
    for data in items:
        item = unpack_item(data)
        active = pool.active.get(item[2], 0)
        if active >= cpu.workqueues[item[2]].max_active:
            pool.delayed.setdefault(item[2], []).append(item)
            continue
        pool.active[item[2]] = active + 1
        pool.worklist.append(item)
