"""Transactions and the log: ``fs/xfs/xfs_trans.c``, ``xfs_log.c``, ``xfs_log_cil.c``, v5.4.

Theory of operation
-------------------
A **transaction** costs CPU time, lognormal around ``transaction_ns``, and first reserves space in the
log: with a probability of ``log_stall_ppm`` there is none, and whoever reserves sleeps for
``log_stall_ns``, until metadata writeback has moved the log's tail.  A worker that sleeps so lets its
pool wake another one.  Both are drawn from a generator of the CPU where the transaction runs.

What is committed waits in memory (the CIL).  To **force the log** (:func:`force`) is:

1. the *push*: a work item on ``xfs-cil/<dev>`` formats the changes and wakes who waits for it;
2. who forces writes the log buffer, ahead of all other IO, with PREFLUSH and FUA, and sleeps;
3. the *end* of that write is a work item on ``xfs-log/<dev>``, bound and HIGHPRI, on the CPU where
   the write completed; it unpins the changes and wakes who sleeps (chain C11).

Departures from the kernel: every file has a checkpoint of its own, so that two tasks that force at
once write two log buffers instead of sharing one; the push never waits for a log buffer; nothing but
``fsync()`` and its like forces, and the log's space is not counted.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import (
    blk_flush,
    blk_mq,
    core,
    frames,
    iomap,
    workqueue,
    wq_pool,
)
from emulator.kernel.blk_queue import FROM_SCHEDULE
from emulator.kernel.process import WAIT_RW
from emulator.kernel.request import LOG_FORCE, LOG_WRITE, Request
from emulator.kernel.wq_table import WQ_XFS_CIL, WQ_XFS_LOG
from emulator.kernel.xfs_file import IOMAP_DIO_WRITE_FUA
from emulator.seeds import seed_stream, splitmix64
from emulator.types import WRITE

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task
    from emulator.kernel.xfs_file import FileFacts
    from emulator.types import BoxSpec

#: What one log write carries: a checkpoint of a few inodes.
LOG_BYTES = 4096
#: Random bits that choose one of the equally likely durations of a transaction.
TRANSACTION_BITS = 8
#: The stream of the run's seed that transactions draw from.
TRANSACTION_STREAM = 0x7472616E73
MILLION = 1_000_000


class XfsLog:
    """One CPU's share in transactions: its generator, and how long they take."""

    __slots__ = ("durations", "start", "state", "used")

    def __init__(self, spec: BoxSpec, cpu: int, files: dict[int, FileFacts]) -> None:
        self.state = seed_stream(spec.seed, TRANSACTION_STREAM, cpu)
        self.durations = durations(spec.costs.transaction_ns, spec.costs.transaction_spread_percent)
        #: whether a write or a sync of the box may need more than blocks overwritten
        self.used = any(not facts.plain for facts in files.values()) or any(
            disk.params.get("flush_ns", 0) for disk in spec.disks
        )
        #: disk -> the first byte of the log there: behind the files
        self.start = [0] * len(spec.disks)
        for facts in files.values():
            self.start[facts.disk] = max(self.start[facts.disk], facts.start + facts.size)

    def draw(self) -> int:
        """Return 64 random bits."""
        self.state, bits = splitmix64(self.state)
        return bits


def durations(median_ns: int, spread_percent: int) -> tuple[int, ...]:
    """Return equally likely durations of a lognormal distribution, shortest first."""
    number = 1 << TRANSACTION_BITS
    normal = NormalDist()
    return tuple(
        round(median_ns * math.exp(spread_percent / 100 * normal.inv_cdf((index + 0.5) / number)))
        for index in range(number)
    )


def transaction(cpu: Cpu, p: Task, kind: int, further_ns: int, arg: Any = None) -> None:
    """Let the current task do a transaction, and ``further_ns`` more, in a frame of this kind.

    If there is no space in the log it sleeps first.
    """
    log = cpu.xfs_log
    bits = log.draw()
    ns = log.durations[bits & (1 << TRANSACTION_BITS) - 1] + further_ns
    if (bits >> 32) * MILLION >> 32 < cpu.costs.log_stall_ppm:
        cpu.count("log_stalls")
        until_ns = cpu.now + cpu.costs.log_stall_ns
        queues = {rq.queue: None for rq in p.run.plug}
        blk_mq.flush_plug(cpu, p, FROM_SCHEDULE)
        core.sleep_on_timer(cpu, p, until_ns, tp.TASK_UNINTERRUPTIBLE, kind, ns, arg)
        for queue in queues:
            blk_mq.run_hw_queue_async(cpu, cpu.queues[queue])
    else:
        cpu.start(kind, ns, arg)


# -- Forcing ------------------------------------------------------------------------------------


def push(cpu: Cpu, p: Task, file: int, kind: int, arg: Any) -> None:
    """``xlog_cil_push_now()``: queue the push, unbound; the frame given goes on, and sleeps for it."""
    rq = Request()
    rq.what = LOG_FORCE
    rq.pid, rq.moves, rq.home = p.pid, p.moves, cpu.node_id
    rq.file = file
    p.run.iocbs[-1] = [1, 0, 0, 1, 0]
    cpu.start(kind, 0, arg)
    workqueue.queue_work(cpu, WQ_XFS_CIL, wq_pool.FN_CIL_PUSH, rq, cpu.work_id())


def cil_push_work(cpu: Cpu, rq: Request) -> None:
    """``xlog_cil_push_work()``'s effect: the checkpoint is formatted, who waits for it is woken."""
    cpu.count("cil_pushes")
    cpu.start(frames.WORK_TAIL, cpu.costs.dio_tail_ns)
    iomap.dio_wake_waiter(cpu, rq)


def write_log(cpu: Cpu, p: Task, file: int, kind: int, arg: list[Any], again: list[Any]) -> None:
    """``xlog_sync()``: write the log buffer, with PREFLUSH and FUA.

    The frame given goes on with ``arg`` when that is done, with ``again`` if there was no tag.
    """
    facts = cpu.files[file]
    q = cpu.queues[facts.disk]
    if not blk_flush.got_tag(cpu, p, facts.disk, kind, again):
        return
    rq = blk_mq.new_request(cpu, p, facts.disk, WRITE, cpu.xfs_log.start[facts.disk], LOG_BYTES)
    rq.what = LOG_WRITE
    rq.file = file
    if q.write_cache:
        rq.dio = IOMAP_DIO_WRITE_FUA
        blk_flush.submit_flush(cpu, p, rq, kind, arg)
        return
    p.run.iocbs[-1] = [1, 0, LOG_BYTES, 1, 0]
    p.run.plug.append(rq)
    blk_mq.flush_plug(cpu, p)
    blk_mq.dispatch_loop(cpu, [facts.disk, "frame", kind, arg])


def log_bio_end(cpu: Cpu, rq: Request) -> None:
    """``xlog_bio_end_io()``: the rest is work of ``xfs-log``, on this CPU."""
    if workqueue.queue_work(cpu, WQ_XFS_LOG, wq_pool.FN_XLOG_IOEND, rq, cpu.work_id()):
        workqueue.wake_up_worker(cpu, cpu.pools[1])


def log_ioend_work(cpu: Cpu, rq: Request) -> None:
    """``xlog_ioend_work()``'s effect: the changes are on stable storage, who forced is woken."""
    cpu.start(frames.WORK_TAIL, cpu.costs.dio_tail_ns)
    iomap.dio_wake_waiter(cpu, rq)


def io_wait(cpu: Cpu, p: Task, kind: int, arg: Any) -> None:
    """Sleep until what was started for the task has ended; look again in the frame given."""
    p.run.wait = WAIT_RW
    core.block(cpu, p, tp.TASK_UNINTERRUPTIBLE, kind, 0, arg)
