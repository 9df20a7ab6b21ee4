"""The threads that execute works: ``worker_thread()`` and what it calls, ``kernel/workqueue.c``, v5.4.

Theory of operation
-------------------
A bound worker that is woken leaves the idle list, creates another worker if it was the last idle one,
and takes item after item as long as it is the only one running (F.5, F.7).  After each it looks whether
it should give way (``cond_resched()``).  A worker of a pool of no CPU asks for each item
(:mod:`wq_unbound`); what it does with one is the same.

Workers of which too many idle end after a while (:mod:`wq_idle`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import (
    core,
    frames,
    kthread,
    workqueue,
    wq_flush,
    wq_functions,
    wq_idle,
    wq_rescuer,
    wq_unbound,
)
from emulator.kernel.process import WAIT_WORK
from emulator.kernel.sched import Task
from emulator.kernel.wq_pool import (
    WORKER_CPU_INTENSIVE,
    WORKER_IDLE,
    WORKER_NOT_RUNNING,
    WORKER_PREP,
    WORKER_REBOUND,
    WORKER_RESCUER,
    WorkerPool,
    is_unbound,
    keep_working,
    need_more_worker,
    need_to_create_worker,
    pool_of,
    pwq_dec_nr_in_flight,
    wants_next,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def create_worker(cpu: Cpu, pool: WorkerPool, index: int, pid: int) -> Task:
    """Create a worker of a pool, idle and asleep."""
    name = f"kworker/{pool.cpu}:{wq_idle.new_id(pool)}{'H' if pool.nice < 0 else ''}"
    nice = pool.nice or cpu.rq.rules.kworker_nice
    p = kthread.new_bound_worker(cpu, pid, name, nice, index)
    pool.workers[pid] = WORKER_IDLE | WORKER_PREP
    p.run.wait_since = cpu.now
    pool.idle.append(pid)
    return p


def worker_start(cpu: Cpu, _arg: object) -> None:
    """``worker_thread()`` after a wakeup: leave idle, take the first item, or sleep again."""
    p = cpu.rq.curr
    if is_unbound(p):
        wq_unbound.fetch(cpu, p, starts=True)
        return
    pool = pool_of(cpu, p)
    if p.pid not in pool.workers:
        wq_idle.die(cpu, p)
        return
    if pool.workers[p.pid] & WORKER_RESCUER:
        rescuer_thread(cpu, p, pool)
        return
    if pool.workers[p.pid] & WORKER_IDLE:
        pool.workers[p.pid] &= ~WORKER_IDLE
        pool.idle.remove(p.pid)
    if not need_more_worker(pool):
        worker_enter_idle(cpu, p)
        return
    if not pool.idle and not pool.manager:
        pool.manager = p.pid
        if need_to_create_worker(pool):
            wq_rescuer.maybe_create_worker(cpu, p)
            return
        pool.manager = 0
    worker_work(cpu, p, pool)


def worker_created(cpu: Cpu, arg: Any) -> None:
    """``maybe_create_worker()`` has made an idle worker: go on."""
    p = cpu.rq.curr
    if is_unbound(p):
        wq_unbound.worker_created(cpu, p, arg)
        return
    pool = pool_of(cpu, p)
    if pool.manager == p.pid:
        if wq_rescuer.to_be_tried_again(cpu, p, pool, arg):
            return
        new = create_worker(cpu, pool, p.run.worker, kthread.late_pid(cpu))
        pool.manager = 0
        wq_rescuer.cancel_mayday(cpu, pool)
        cpu.start(frames.WORKER_CREATE, 0)
        core.wake_up(cpu, new)  # a new worker looks for itself whether it is needed
        return
    go_on(cpu, p, pool)


def go_on(cpu: Cpu, p: Task, pool: WorkerPool) -> None:
    """After the manager's part: work, if there still is any for this worker."""
    if need_more_worker(pool):
        worker_work(cpu, p, pool)
    else:
        worker_enter_idle(cpu, p)


def worker_work(cpu: Cpu, p: Task, pool: WorkerPool) -> None:
    """Clear PREP and REBOUND: the worker counts as running from here; start its first item."""
    pool.workers[p.pid] &= ~(WORKER_PREP | WORKER_REBOUND)
    if not pool.workers[p.pid] & WORKER_NOT_RUNNING:
        pool.nr_running += 1
    process_one_work(cpu, p, pool)


def process_one_work(cpu: Cpu, p: Task, pool: WorkerPool) -> None:
    """Take the first item and start its function."""
    execute(cpu, p, pool, pool.worklist.pop(0))


def execute(cpu: Cpu, p: Task, pool: WorkerPool, item: list[Any]) -> None:
    """Start the function of an item that has been taken from the list."""
    pool.watchdog_ns = cpu.now
    pool.executing[p.pid] = item
    p.run.work_at = p.sum_exec_runtime
    if cpu.workqueues[item[2]].cpu_intensive:
        if not pool.workers[p.pid] & WORKER_NOT_RUNNING:
            pool.nr_running -= 1
        pool.workers[p.pid] |= WORKER_CPU_INTENSIVE
    wq_functions.start_function(cpu, p, item)
    if need_more_worker(pool) and workqueue.first_idle_sleeps(cpu, pool):
        workqueue.wake_up_worker(cpu, pool)


def work_end(cpu: Cpu, _arg: object) -> None:
    """The item's function has returned: ``cond_resched()``, bookkeeping, the next item."""
    p = cpu.rq.curr
    cpu.emit(tp.WORKQUEUE_EXECUTE_END, wq_functions.current_item(cpu, p)[0])
    cpu.cause = 0
    if cpu.rq.need_resched:
        preempted_between_items(cpu, p)
    else:
        after_cond_resched(cpu, None)


def after_cond_resched(cpu: Cpu, _arg: object) -> None:
    """Bookkeeping of the item that is over; then the next one, or the way to sleep."""
    p = cpu.rq.curr
    if is_unbound(p):
        cpu.works[1] += 1
        wq_unbound.fetch(cpu, p)
        return
    pool = pool_of(cpu, p)
    work: int = pool.executing[p.pid][0]
    work_done(cpu, p, pool)
    if wants_next(pool, p):
        cpu.start(frames.WORK_NEXT, cpu.costs.work_next_ns)
    else:
        worker_enter_idle(cpu, p)
    if cpu.flushers:
        wq_flush.work_ended(cpu, work)


def work_done(cpu: Cpu, p: Task, pool: WorkerPool) -> None:
    """The item leaves the books: the worker counts as running again, a delayed item may follow."""
    item = pool.executing.pop(p.pid)
    cpu.works[1] += 1
    if pool.workers[p.pid] & WORKER_CPU_INTENSIVE:
        pool.workers[p.pid] &= ~WORKER_CPU_INTENSIVE
        if not pool.workers[p.pid] & WORKER_NOT_RUNNING:
            pool.nr_running += 1
    pwq_dec_nr_in_flight(cpu, pool, item[2])


def preempted_between_items(cpu: Cpu, p: Task) -> None:
    """``cond_resched()`` after an item gave way; the worker goes on with the next one."""
    p.run.kind = frames.WORK_RESCHED
    p.run.left = 0
    p.run.arg = None
    core.schedule(cpu)


def work_next(cpu: Cpu, _arg: object) -> None:
    """Between two items: the next one, if there still is one for this worker."""
    p = cpu.rq.curr
    if is_unbound(p):
        wq_unbound.fetch(cpu, p)
        return
    pool = pool_of(cpu, p)
    if pool.workers[p.pid] & WORKER_RESCUER:
        rescuer_thread(cpu, p, pool)
    elif keep_working(pool):
        process_one_work(cpu, p, pool)
    else:
        worker_enter_idle(cpu, p)


def rescuer_thread(cpu: Cpu, p: Task, pool: WorkerPool) -> None:
    """``rescuer_thread()``: execute the next item of its own queue, or sleep.

    On its way to sleep it wakes a regular worker if one is wanted.
    """
    item = wq_rescuer.take_item(p, pool)
    if item is not None:
        execute(cpu, p, pool, item)
        return
    sleep_until_work(cpu, p)
    if need_more_worker(pool):
        workqueue.wake_up_worker(cpu, pool)


def worker_enter_idle(cpu: Cpu, p: Task) -> None:
    """Nothing to do: idle from here on, so that an item queued now wakes this worker again."""
    pool = pool_of(cpu, p)
    flags = pool.workers[p.pid]
    if not flags & WORKER_NOT_RUNNING:
        pool.nr_running -= 1
    pool.workers[p.pid] = flags | WORKER_PREP | WORKER_IDLE
    pool.idle.append(p.pid)
    if len(pool.idle) > 1:
        wq_idle.start_idle_timer(cpu, pool)
    sleep_until_work(cpu, p)


def sleep_until_work(cpu: Cpu, p: Task) -> None:
    """``schedule()`` in TASK_IDLE: it goes on at the start of the worker's loop."""
    run = p.run
    run.wait = WAIT_WORK
    run.wait_since = cpu.now
    run.kind = frames.WORKER_START
    run.left = cpu.costs.worker_start_ns
    run.arg = None
    p.state = tp.TASK_IDLE
    cpu.start(frames.WORKER_SLEEP, cpu.costs.worker_sleep_ns)


def worker_sleep(cpu: Cpu, _arg: object) -> None:
    """The end of the way to sleep: schedule(), which keeps a worker that was woken meanwhile."""
    core.schedule(cpu)
