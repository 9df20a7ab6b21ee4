"""A worker pool, and the works on it: ``struct worker_pool``, ``struct work_struct``, v5.4.

Everything here is data and what can be said of it alone: which functions works have, what a pool
counts, when it needs a worker (F.3).  What is done with it is in :mod:`workqueue` (queueing),
:mod:`wq_worker` (the threads) and :mod:`wq_functions` (what works do).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel.request import Request
from emulator.kernel.sched import TASK_WAKING, Task
from emulator.kernel.wq_table import UNBOUND_BASE
from emulator.types import NEVER, Costs

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: WORK_CPU_UNBOUND as traces show it: the compile-time NR_CPUS of the emulated kernel.
WORK_CPU_UNBOUND = 8192

#: States in which a wakeup of a worker does nothing; WAKING: its wakeup is delayed (F19).
AWAKE = (tp.TASK_RUNNING, TASK_WAKING)

# worker.flags
WORKER_IDLE = 4
WORKER_PREP = 8
WORKER_CPU_INTENSIVE = 64
WORKER_UNBOUND = 128
WORKER_REBOUND = 256
WORKER_RESCUER = 1 << 10  # in the kernel a pointer of the worker
WORKER_NOT_RUNNING = WORKER_PREP | WORKER_CPU_INTENSIVE | WORKER_UNBOUND | WORKER_REBOUND

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

# What a worker is to do after a fetch: WQ_WORK what.
FETCHED_NOTHING = 0
FETCHED_ITEM = 1
FETCHED_CREATE = 2
FETCHED_HOME = 3  # its pool is bound to a CPU again, to which it has to go

#: A wakeup to be made: [pid, residence, CPU, since, facts, CPU to go to or -1, cause].
Wake = list[Any]


class WorkerPool:
    """``struct worker_pool``: one list of items and the workers that serve it."""

    __slots__ = (
        "active",
        "away",
        "cpu",
        "cull_at",
        "delayed",
        "disassociated",
        "executing",
        "free_ids",
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
        self.free_ids: list[int] = []  # below it, of workers that have ended; sorted
        self.cull_at = NEVER  # the jiffy of the idle timer (wq_idle)
        self.disassociated = False
        #: Workers that have not come back to this CPU since it is online again: pid -> [where it asked
        #: last, its residence then, queue, work and function of its item or -1, 0 and 0].
        self.away: dict[int, list[int]] = {}
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
            [[pid, one] for pid, one in self.away.items()],
            self.free_ids,
            self.cull_at,
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
        pool.away = dict(data[14])
        pool.free_ids, pool.cull_at = list(data[15]), data[16]
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


def too_many_in(pool: WorkerPool) -> bool:
    """Whether too many workers of a pool idle; rescuers are not counted."""
    nr_workers = len(pool.workers) - len(pool.rescuers)
    return too_many_workers(nr_workers, len(pool.idle), pool.manager != 0)


def wants_next(pool: WorkerPool, p: Task) -> bool:
    """Whether a worker that has ended an item looks for another one; a rescuer always does."""
    return keep_working(pool) or bool(pool.workers[p.pid] & WORKER_RESCUER)


# -- Items --------------------------------------------------------------------------------------


def carries_request(function: int) -> bool:
    """Whether the argument of a work function is a request that a task may wait for."""
    return function in WAITED_FUNCTIONS


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


def pwq_dec_nr_in_flight(cpu: Cpu, pool: WorkerPool, wq_id: int) -> None:
    """One active item less; the first delayed one takes its place."""
    delayed = pool.delayed.get(wq_id)
    if delayed:
        item = delayed.pop(0)
        cpu.emit(tp.WORKQUEUE_ACTIVATE_WORK, item[0])
        pool.worklist.append(item)
    else:
        pool.active[wq_id] -= 1


# -- Workers ------------------------------------------------------------------------------------


def is_unbound(p: Task) -> bool:
    """Whether a worker serves a pool of no CPU."""
    return bool(p.run.worker >= UNBOUND_BASE)


def pool_of(cpu: Cpu, p: Task) -> WorkerPool:
    """Return the pool of this CPU that a bound worker serves."""
    index: int = p.run.worker
    return cpu.pools[index]


# -- Pools that are asked ------------------------------------------------------------------------


def answer_ns(costs: Costs) -> int:
    """Return how soon the shared-state node's answer takes effect (build.latencies)."""
    return max(costs.coherence_ns, min(costs.ttwu_activate_ns, costs.ipi_ns))
