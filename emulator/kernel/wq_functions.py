"""What works do: the functions of ``kernel/workqueue.c``'s callers, by number.

Theory of operation
-------------------
A function has a start, which sets the worker's first frame, and an effect, at the end of that frame;
what follows is its tail.  Each is one row in :func:`start_function` and :func:`work_body`; the
functions themselves are in the files named after the kernel's.
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
    wq_worker,
    xfs_aops,
    xfs_file,
    xfs_log,
)
from emulator.kernel.sched import Task
from emulator.kernel.wq_pool import (
    FN_CIL_PUSH,
    FN_DIO_COMPLETE,
    FN_MODULE,
    FN_REQUEUE,
    FN_RUN_QUEUE,
    FN_TIMEOUT,
    FN_WB_WORKFN,
    FN_XFS_END_IO,
    FN_XFS_IOENDS,
    FN_XLOG_IOEND,
    FUNCTIONS,
    is_unbound,
    pack_item,
    pool_of,
    unpack_item,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


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
        if is_unbound(p):
            p.run.item = pack_item(item)  # what it carried is in the queue
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
        wq_worker.work_end(cpu, None)
        return
    from_burn = arg[0][0] if arg else 0
    kind = frames.WORK_BODY if arg else frames.WORK_TAIL
    core.sleep_on_timer(cpu, p, cpu.now + sleep_ns, tp.TASK_UNINTERRUPTIBLE, kind, from_burn)
