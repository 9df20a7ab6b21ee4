"""Workers that cannot be created, and who helps out: ``maybe_create_worker()``, rescuers (F.7).

Theory of operation
-------------------
A worker that is to create another one may have to wait for memory, whose reclaim may wait for the very
items on the pool's list.  So every workqueue that reclaim needs (``WQ_MEM_RECLAIM``) has a rescuer, a
thread that exists from the start.  While a worker is being created a timer of the wheel looks after
10 ms, then every 100 ms: if a worker is still wanting, the rescuer of each such queue with items on the
list is woken.  It executes those, its own queue's alone, at nice -20 and not counted in ``nr_running``.

That creating takes longer than its CPU time is the box's to say (``kernel.workqueue.create_delay``), and
that it fails (``create_failures``): then the manager sleeps for a second, looks whether a worker is still
wanted, and tries again.

Departures from the kernel: a queue has a rescuer per CPU, made when it is called for the first time,
not one that goes from CPU to CPU; it takes its items from the list one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import (
    core,
    frames,
    hrtimer,
    kthread,
    wq_pool,
    wq_worker,
)
from emulator.kernel.process import WAIT_TIMER
from emulator.kernel.sched import Task
from emulator.kernel.wq_table import HIGHPRI_NICE, WQ_MEM_RECLAIM

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.wq_pool import WorkerPool

#: CREATE_COOLDOWN: how long a manager waits after an attempt that failed.
CREATE_COOLDOWN_S = 1
#: Argument of the frame WORKER_CREATE when that wait is over.
AFTER_PAUSE = True


def maybe_create_worker(cpu: Cpu, p: Task) -> None:
    """The manager creates a worker; while that blocks or fails, the pool's mayday timer runs."""
    if cpu.spec.kernel.workqueue.create_delay_ns or fails(cpu):
        first = cpu.jiffies() + max(cpu.hz // 100, 2)
        hrtimer.add_jiffy_timer(cpu, first, hrtimer.WHEEL_MAYDAY, p.run.worker)
    try_to_create(cpu, p)


def try_to_create(cpu: Cpu, p: Task) -> None:
    """One attempt to create a worker, which may block."""
    delay_ns = cpu.spec.kernel.workqueue.create_delay_ns
    create_ns = cpu.costs.worker_create_ns
    if not delay_ns:
        cpu.start(frames.WORKER_CREATE, create_ns)
        return
    until_ns = cpu.now + delay_ns
    core.sleep_on_timer(cpu, p, until_ns, tp.TASK_UNINTERRUPTIBLE, frames.WORKER_CREATE, create_ns)


def fails(cpu: Cpu) -> bool:
    """Whether the next attempt to create a worker here will fail."""
    return cpu.create_failed < cpu.spec.kernel.workqueue.create_failures


def to_be_tried_again(cpu: Cpu, p: Task, pool: WorkerPool, arg: object) -> bool:
    """Whether the manager has to go on creating: the attempt failed, or the pause after it is over."""
    if arg is not AFTER_PAUSE:
        if not fails(cpu):
            return False
        cpu.create_failed += 1
        p.run.wait = WAIT_TIMER
        due = cpu.jiffies() + CREATE_COOLDOWN_S * cpu.hz
        hrtimer.add_jiffy_timer(cpu, due, hrtimer.WHEEL_SLEEP, [p.pid, cpu.now])
        core.block(cpu, p, tp.TASK_INTERRUPTIBLE, frames.WORKER_CREATE, 0, AFTER_PAUSE)
    elif wq_pool.need_to_create_worker(pool):
        try_to_create(cpu, p)
    else:
        pool.manager = 0
        cancel_mayday(cpu, pool)
        wq_worker.go_on(cpu, p, pool)
    return True


def cancel_mayday(cpu: Cpu, pool: WorkerPool) -> None:
    """``del_timer_sync(&pool->mayday_timer)``."""
    index = cpu.pools.index(pool)
    cpu.jiffy_timers[:] = [
        timer for timer in cpu.jiffy_timers if timer[2:] != (hrtimer.WHEEL_MAYDAY, index)
    ]


def pool_mayday_timeout(cpu: Cpu, index: int) -> None:
    """``pool_mayday_timeout()``: call the rescuers of what waits, and look again in 100 ms."""
    pool = cpu.pools[index]
    if wq_pool.need_to_create_worker(pool):
        for wq_id in dict.fromkeys(item[2] for item in pool.worklist):
            if cpu.workqueues[wq_id].flags & WQ_MEM_RECLAIM:
                send_mayday(cpu, pool, index, wq_id)
    again = cpu.jiffies() + cpu.hz // 10
    hrtimer.add_jiffy_timer(cpu, again, hrtimer.WHEEL_MAYDAY, index)


def send_mayday(cpu: Cpu, pool: WorkerPool, index: int, wq_id: int) -> None:
    """``send_mayday()``: wake a queue's rescuer for this pool."""
    if wq_id not in pool.rescuers:
        pool.rescuers[wq_id] = create_rescuer(cpu, pool, index, wq_id)
    cpu.cause = next(item[4] for item in pool.worklist if item[2] == wq_id)
    core.wake_up(cpu, cpu.tasks[pool.rescuers[wq_id]])


def create_rescuer(cpu: Cpu, pool: WorkerPool, index: int, wq_id: int) -> int:
    """``init_rescuer()``; return its pid."""
    name = cpu.workqueues[wq_id].name
    if cpu.rq.rules.wq_rescuer_prefix:
        name = f"kworker/R-{name}"
    pid = kthread.late_pid(cpu)
    kthread.new_bound_worker(cpu, pid, name, HIGHPRI_NICE, index)
    pool.workers[pid] = wq_pool.WORKER_RESCUER | wq_pool.WORKER_PREP
    return pid


def take_item(p: Task, pool: WorkerPool) -> list[Any] | None:
    """Take the next item of a rescuer's own queue off the list, if there is one."""
    wq_id = next(wq_id for wq_id, pid in pool.rescuers.items() if pid == p.pid)
    for position, item in enumerate(pool.worklist):
        if item[2] == wq_id:
            return pool.worklist.pop(position)
    return None
