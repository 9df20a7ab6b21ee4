"""Bound workqueues with concurrency management: ``kernel/workqueue.c``, v5.4.

Which workqueues there are is :mod:`wq_table`'s; unbound ones go from :func:`queue_work` to
:mod:`wq_unbound`, and share what a worker does with an item.

Theory of operation
-------------------
Every CPU has two pools of workers, nice 0 and nice -20, each with one list of work items that all
bound workqueues share.  At most one worker of a pool *runs*; another is woken only when the running
one blocks, or when it executes an item of a CPU_INTENSIVE queue.  Queueing an item wakes the first
idle worker if none runs; until that worker has executed its first instructions it still counts as
idle, so further items only lengthen the list.

Items beyond a queue's ``max_active`` wait in its per-pool delayed list.  A worker looks after every
item whether it should give way (``cond_resched()``).

Departures from the kernel: the idle timer does not reap workers within a run; every queueing is of a
work of its own, so that none is pending already or still executes elsewhere.
The items of a pool whose CPU has gone join the pool of the CPU that took over (:mod:`cpuhp`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import (
    blk_flush,
    blk_mq,
    blk_timeout,
    buffered,
    core,
    dio_completion,
    frames,
    fsync,
    iomap,
    kthread,
    wq_flush,
    wq_rescuer,
    wq_unbound,
    xfs_aops,
    xfs_file,
    xfs_log,
)
from emulator.kernel.process import WAIT_WORK
from emulator.kernel.request import Request
from emulator.kernel.sched import KTHREAD_IS_PER_CPU, PF_WQ_WORKER, TASK_WAKING, Task
from emulator.kernel.wq_table import (
    UNBOUND_BASE,
    WQ_DIO,
    WQ_EVENTS,
    WQ_EVENTS_UNBOUND,
    WQ_INTENSIVE,
    WQ_KBLOCKD,
    WQ_WRITEBACK,
    WQ_XFS_CONV,
    Workqueue,
    workqueues,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.percpu import PerCpu

#: Of the table, under this module's name for those that queue.
__all__ = [
    "WQ_DIO",
    "WQ_EVENTS",
    "WQ_EVENTS_UNBOUND",
    "WQ_INTENSIVE",
    "WQ_KBLOCKD",
    "WQ_WRITEBACK",
    "WQ_XFS_CONV",
    "Workqueue",
    "workqueues",
]

#: WORK_CPU_UNBOUND as traces show it: the compile-time NR_CPUS of the emulated kernel.
WORK_CPU_UNBOUND = 8192

#: States in which a wakeup of a worker does nothing; WAKING: its wakeup is delayed (F19).
AWAKE = (tp.TASK_RUNNING, TASK_WAKING)

# worker.flags
WORKER_IDLE = 4
WORKER_PREP = 8
WORKER_CPU_INTENSIVE = 64
WORKER_UNBOUND = 128
WORKER_RESCUER = 1 << 10  # in the kernel a pointer of the worker
WORKER_NOT_RUNNING = WORKER_PREP | WORKER_CPU_INTENSIVE | WORKER_UNBOUND

# Work functions.
FN_DIO_COMPLETE = 1
FN_RUN_QUEUE = 2
FN_XFS_END_IO = 3
FN_SCRIPT = 4  # a list of (burn ns, sleep ns): the documentation's timelines, tests
FN_TIMEOUT = 5  # the argument is the queue
FN_MODULE = 6  # [name, when it was queued, such a list]: an item of the program `works`
FN_CIL_PUSH = 10
FN_XLOG_IOEND = 11
FN_REQUEUE = 12
FN_WB_WORKFN = 20
FN_XFS_IOENDS = 21  # [file, [ioend...]]: the ioends of an inode
#: Functions whose argument is a request, and those of them for which a task waits.
REQUEST_FUNCTIONS = (FN_DIO_COMPLETE, FN_XFS_END_IO, FN_CIL_PUSH, FN_XLOG_IOEND, FN_REQUEUE)
WAITED_FUNCTIONS = (FN_DIO_COMPLETE, FN_CIL_PUSH, FN_XLOG_IOEND)
FUNCTIONS = {
    FN_DIO_COMPLETE: "iomap_dio_complete_work",
    FN_RUN_QUEUE: "blk_mq_run_work_fn",
    FN_XFS_END_IO: "xfs_end_io",
    FN_SCRIPT: "script_work",
    FN_TIMEOUT: "blk_mq_timeout_work",
    FN_MODULE: "module_work",
    FN_CIL_PUSH: "xlog_cil_push_work",
    FN_XLOG_IOEND: "xlog_ioend_work",
    FN_REQUEUE: "blk_mq_requeue_work",
    FN_WB_WORKFN: "wb_workfn",
    FN_XFS_IOENDS: "xfs_end_io",
}


class WorkerPool:
    """``struct worker_pool``: one list of items and the workers that serve it."""

    __slots__ = (
        "active",
        "cpu",
        "delayed",
        "disassociated",
        "executing",
        "idle",
        "manager",
        "next_id",
        "nice",
        "nr_running",
        "rescuers",
        "watchdog_ns",
        "workers",
        "worklist",
    )

    def __init__(self, cpu: int, nice: int) -> None:
        self.cpu = cpu
        self.nice = nice
        #: Items: [work id, function, workqueue, argument, cause], first in first out.
        self.worklist: list[list[Any]] = []
        self.nr_running = 0
        self.idle: list[int] = []  # pids; the last one is the first idle worker
        self.workers: dict[int, int] = {}  # pid -> flags
        self.executing: dict[int, list[Any]] = {}  # pid -> item
        self.active: dict[int, int] = {}  # workqueue -> nr_active of its pwq here
        self.delayed: dict[int, list[list[Any]]] = {}
        self.manager = 0  # pid of the worker that creates workers, 0: none
        self.rescuers: dict[int, int] = {}  # workqueue -> pid of its rescuer here
        self.next_id = 0
        self.disassociated = False
        #: watchdog_ts, but in ns: when the list last got its first item, or lost one
        self.watchdog_ns = 0

    def pack(self) -> list[Any]:
        """Return the pool as plain data."""
        return [
            self.cpu,
            self.nice,
            [pack_item(item) for item in self.worklist],
            self.nr_running,
            self.idle,
            [[pid, flags] for pid, flags in self.workers.items()],
            [[pid, pack_item(item)] for pid, item in self.executing.items()],
            [[wq, nr] for wq, nr in self.active.items()],
            [[wq, [pack_item(item) for item in items]] for wq, items in self.delayed.items()],
            self.manager,
            self.next_id,
            self.disassociated,
            self.watchdog_ns,
            [[wq, pid] for wq, pid in self.rescuers.items()],
        ]

    @classmethod
    def unpack(cls, data: list[Any]) -> WorkerPool:
        """Rebuild what :meth:`pack` returned."""
        pool = cls(data[0], data[1])
        pool.worklist = [unpack_item(item) for item in data[2]]
        pool.nr_running, pool.idle = data[3], list(data[4])
        pool.workers = dict(data[5])
        pool.executing = {pid: unpack_item(item) for pid, item in data[6]}
        pool.active = dict(data[7])
        pool.delayed = {wq: [unpack_item(item) for item in items] for wq, items in data[8]}
        pool.manager, pool.next_id, pool.disassociated, pool.watchdog_ns = data[9:13]
        pool.rescuers = dict(data[13])
        return pool


# -- Policy (F.3) -------------------------------------------------------------------------------


def need_more_worker(pool: WorkerPool) -> bool:
    """Items wait and no worker runs."""
    return bool(pool.worklist) and pool.nr_running == 0


def keep_working(pool: WorkerPool) -> bool:
    """Items wait and no other worker runs."""
    return bool(pool.worklist) and pool.nr_running <= 1


def need_to_create_worker(pool: WorkerPool) -> bool:
    """A worker is needed and none is idle."""
    return need_more_worker(pool) and not pool.idle


def too_many_workers(nr_workers: int, nr_idle: int, managing: bool = False) -> bool:
    """Whether idle workers should be reaped."""
    nr_idle += managing
    return nr_idle > 2 and (nr_idle - 2) * 4 >= nr_workers - nr_idle


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


# -- The worker thread (F.5) --------------------------------------------------------------------


def is_unbound(p: Task) -> bool:
    """Whether a worker serves a pool of no CPU."""
    return bool(p.run.worker >= UNBOUND_BASE)


def pool_of(cpu: Cpu, p: Task) -> WorkerPool:
    """Return the pool of this CPU that a bound worker serves."""
    index: int = p.run.worker
    return cpu.pools[index]


def create_worker(cpu: Cpu, pool: WorkerPool, index: int, pid: int) -> Task:
    """Create a worker of a pool, idle and asleep."""
    name = f"kworker/{pool.cpu}:{pool.next_id}{'H' if pool.nice < 0 else ''}"
    pool.next_id += 1
    nice = pool.nice or cpu.rq.rules.kworker_nice
    p = kthread.new_kthread(cpu, pid, name, nice, frames.WORKER_START)
    p.flags |= PF_WQ_WORKER
    if cpu.rq.rules.kworker_per_cpu:
        p.kthread_flags = KTHREAD_IS_PER_CPU
    p.state = tp.TASK_IDLE
    p.run.left = cpu.costs.worker_start_ns
    p.run.worker = index
    pool.workers[pid] = WORKER_IDLE | WORKER_PREP
    pool.idle.append(pid)
    return p


def worker_start(cpu: Cpu, _arg: object) -> None:
    """``worker_thread()`` after a wakeup: leave idle, take the first item, or sleep again."""
    p = cpu.rq.curr
    if is_unbound(p):
        wq_unbound.fetch(cpu, p, starts=True)
        return
    pool = pool_of(cpu, p)
    if pool.workers[p.pid] & WORKER_RESCUER:
        wq_rescuer.rescuer_thread(cpu, p, pool)
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
        new = create_worker(cpu, pool, p.run.worker, kthread.late_pid(cpu))
        pool.manager = 0
        wq_rescuer.cancel_mayday(cpu, pool)
        cpu.start(frames.WORKER_CREATE, 0)
        core.wake_up(cpu, new)  # a new worker looks for itself whether it is needed
        return
    if need_more_worker(pool):
        worker_work(cpu, p, pool)
    else:
        worker_enter_idle(cpu, p)


def worker_work(cpu: Cpu, p: Task, pool: WorkerPool) -> None:
    """Clear PREP: the worker counts as running from here; start its first item."""
    pool.workers[p.pid] &= ~WORKER_PREP
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
    start_function(cpu, p, item)
    if need_more_worker(pool) and first_idle_sleeps(cpu, pool):
        wake_up_worker(cpu, pool)


def start_function(cpu: Cpu, p: Task, item: list[Any]) -> None:
    """Call an item's function: start its first frame."""
    work, function, _wq_id, arg, cause = item
    cpu.cause = cause
    p.run.cause = cpu.emit(tp.WORKQUEUE_EXECUTE_START, work, cpu.names[FUNCTIONS[function]])
    cpu.cause = p.run.cause
    if function == FN_DIO_COMPLETE:
        refill_ns = dio_completion.note(cpu, arg)
        if arg.dio & xfs_file.TRANSACTION and not arg.error:
            xfs_log.transaction(cpu, p, frames.WORK_BODY, cpu.costs.dio_complete_ns + refill_ns)
        else:
            cpu.start(frames.WORK_BODY, cpu.costs.dio_complete_ns + refill_ns)
    elif function == FN_RUN_QUEUE:
        blk_mq.run_work_fn(cpu, arg)
    elif function == FN_XFS_END_IO:
        refill_ns = dio_completion.note(cpu, arg)
        cpu.start(frames.WORK_BODY, cpu.costs.dio_complete_ns + refill_ns)
    elif function == FN_TIMEOUT:
        cpu.start(frames.WORK_BODY, cpu.costs.dispatch_ns)
    elif function == FN_MODULE:
        cpu.start(frames.WORK_BODY, arg[2][0][0])
    elif function == FN_CIL_PUSH:
        cpu.start(frames.WORK_BODY, cpu.costs.cil_push_ns)
    elif function == FN_XLOG_IOEND:
        cpu.start(frames.WORK_BODY, cpu.costs.xlog_ioend_ns)
    elif function == FN_REQUEUE:
        blk_flush.requeue_work(cpu, item)
    elif function == FN_XFS_IOENDS:
        xfs_aops.xfs_end_io(cpu, arg)
    elif function == FN_WB_WORKFN:
        buffered.wb_workfn(cpu, arg)
    else:
        cpu.start(frames.WORK_BODY, arg[0][0])


def current_item(cpu: Cpu, p: Task) -> list[Any]:
    """Return the item that a worker executes."""
    if is_unbound(p):
        return unpack_item(p.run.item)
    return pool_of(cpu, p).executing[p.pid]


def work_body(cpu: Cpu, _arg: object) -> None:
    """The item has reached its effect: apply it; what follows is its tail."""
    p = cpu.rq.curr
    item = current_item(cpu, p)
    function, arg = item[1], item[3]
    cpu.cause = p.run.cause  # an interrupt may have come in between
    if function == FN_DIO_COMPLETE:
        if arg.dio & xfs_file.IOMAP_DIO_NEED_SYNC and not arg.error:
            arg.dio &= ~xfs_file.IOMAP_DIO_NEED_SYNC
            if is_unbound(p):
                p.run.item = pack_item(item)
            forced = bool(arg.dio & xfs_file.IOMAP_DIO_DIRTY)
            fsync.generic_write_sync(cpu, arg.file, forced, "work")
        else:
            iomap.dio_complete_work(cpu, arg)
    elif function == FN_XFS_END_IO:
        iomap.writeback_end_work(cpu, arg)
    elif function == FN_TIMEOUT:
        blk_timeout.timeout_work(cpu, arg)
    elif function == FN_MODULE:
        module_step(cpu, p, arg)
    elif function == FN_CIL_PUSH:
        xfs_log.cil_push_work(cpu, arg)
    elif function == FN_XLOG_IOEND:
        xfs_log.log_ioend_work(cpu, arg)
    elif function == FN_XFS_IOENDS:
        xfs_aops.xfs_end_ioend(cpu, arg)
    else:
        script_step(cpu, p, arg)


def module_step(cpu: Cpu, p: Task, arg: list[Any]) -> None:
    """One stretch of a module's item is over; with the last one, how long it took is counted."""
    name, queued_ns, steps = arg
    if len(steps) == 1 and not steps[0][1]:
        cpu.count(f"item.{name}.n")
        cpu.count(f"item.{name}.ns", cpu.now - queued_ns)
    elif len(steps) == 1:
        steps.append([0, 0])  # back from its last sleep it is done
    script_step(cpu, p, steps)


def script_step(cpu: Cpu, p: Task, arg: list[list[int]]) -> None:
    """A scripted item has burned one stretch: sleep as long as it says, or end."""
    _burn, sleep_ns = arg.pop(0)
    if not sleep_ns and not arg:
        work_end(cpu, None)
        return
    from_burn = arg[0][0] if arg else 0
    kind = frames.WORK_BODY if arg else frames.WORK_TAIL
    core.sleep_on_timer(cpu, p, cpu.now + sleep_ns, tp.TASK_UNINTERRUPTIBLE, kind, from_burn)


def work_end(cpu: Cpu, _arg: object) -> None:
    """The item's function has returned: ``cond_resched()``, bookkeeping, the next item."""
    p = cpu.rq.curr
    cpu.emit(tp.WORKQUEUE_EXECUTE_END, current_item(cpu, p)[0])
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


def pwq_dec_nr_in_flight(cpu: Cpu, pool: WorkerPool, wq_id: int) -> None:
    """One active item less; the first delayed one takes its place."""
    delayed = pool.delayed.get(wq_id)
    if delayed:
        item = delayed.pop(0)
        cpu.emit(tp.WORKQUEUE_ACTIVATE_WORK, item[0])
        pool.worklist.append(item)
    else:
        pool.active[wq_id] -= 1


def work_next(cpu: Cpu, _arg: object) -> None:
    """Between two items: the next one, if there still is one for this worker."""
    p = cpu.rq.curr
    pool = pool_of(cpu, p)
    if pool.workers[p.pid] & WORKER_RESCUER:
        wq_rescuer.rescuer_thread(cpu, p, pool)
    elif keep_working(pool):
        process_one_work(cpu, p, pool)
    else:
        worker_enter_idle(cpu, p)


def wants_next(pool: WorkerPool, p: Task) -> bool:
    """Whether a worker that has ended an item looks for another one; a rescuer always does."""
    return keep_working(pool) or bool(pool.workers[p.pid] & WORKER_RESCUER)


def worker_enter_idle(cpu: Cpu, p: Task) -> None:
    """Nothing to do: idle from here on, so that an item queued now wakes this worker again."""
    pool = pool_of(cpu, p)
    flags = pool.workers[p.pid]
    if not flags & WORKER_NOT_RUNNING:
        pool.nr_running -= 1
    pool.workers[p.pid] = flags | WORKER_PREP | WORKER_IDLE
    pool.idle.append(p.pid)
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


# -- Hotplug (F.11) -----------------------------------------------------------------------------


def park_worker(cpu: Cpu, p: Task) -> None:
    """A queued worker of a dying CPU goes back to sleep, idle: others will do its work."""
    pool = pool_of(cpu, p)
    if p.run.kind == frames.WORK_RESCHED:
        work_done(cpu, p, pool)
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


def carries_request(function: int) -> bool:
    """Whether the argument of a work function is a request that a task may wait for."""
    return function in WAITED_FUNCTIONS


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


def pack_item(item: list[Any]) -> list[Any]:
    """Return a work item as plain data."""
    work, function, wq_id, arg, cause = item
    if function in REQUEST_FUNCTIONS:
        arg = arg.pack()
    return [work, function, wq_id, arg, cause]


def unpack_item(data: list[Any]) -> list[Any]:
    """Rebuild what :func:`pack_item` returned."""
    work, function, wq_id, arg, cause = data
    if function in REQUEST_FUNCTIONS:
        arg = Request.unpack(arg)
    return [work, function, wq_id, arg, cause]
