"""System call entry and return, and what a program may ask for.

A program is a state machine (:mod:`emulator.types`); its next operation is fetched when the previous
one has returned to user space.  A pending reschedule is acted on there, before user code runs.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOENT
from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import (
    aio,
    buffered,
    core,
    eventfd,
    frames,
    fsync,
    hrtimer,
    io_uring,
    kthread,
    migration,
    pipe,
    rcu,
    stop_machine,
    workqueue,
    wq_delayed,
    wq_pool,
)
from emulator.kernel.process import WAIT_TIMER
from emulator.kernel.wq_table import WQ_NAMES
from emulator.types import (
    NEVER,
    OP_BURN,
    OP_CANCEL_WORK,
    OP_EVENTFD_READ,
    OP_EXEC,
    OP_EXIT,
    OP_FLUSH_WORKQUEUE,
    OP_FSYNC,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_IOPRIO_SET,
    OP_PIPE_POLL,
    OP_PIPE_READ,
    OP_PIPE_WRITE,
    OP_QUEUE_WORK,
    OP_RCU_FQS,
    OP_RCU_GP_INIT,
    OP_RUN,
    OP_RW,
    OP_SETAFFINITY,
    OP_SLEEP,
    OP_SLEEP_JIFFIES,
    OP_STAT,
    OP_SYNC,
    OP_URING_ENTER,
    OP_URING_REAP,
    OP_WRITE,
    OP_WRITEBACK,
    OP_YIELD,
    Op,
    cpumask_first,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task


def return_to_user(cpu: Cpu, result: Any) -> None:
    """``exit_to_usermode_loop()``: give way if asked to, else run on in user space."""
    if cpu.rq.need_resched:
        run = cpu.rq.curr.run
        run.kind = frames.RET_USER
        run.left = 0
        run.arg = result
        core.schedule(cpu)
    elif cpu.rq.curr.run.uring is not None and cpu.rq.curr.run.uring.works:
        io_uring.run_task_work(cpu, cpu.rq.curr, [frames.RET_USER, 0, result])
    else:
        next_operation(cpu, result)


def next_operation(cpu: Cpu, result: Any) -> None:
    """Ask the program what comes next and start it."""
    p = cpu.rq.curr
    cpu.cause = 0
    op = p.run.program.next(cpu.now, result)
    code = op[0]
    if code == OP_RUN:
        cpu.start(frames.USER, op[1] + p.run.refill_ns)
        p.run.refill_ns = 0
    elif code == OP_IO_SUBMIT:
        aio.sys_io_submit(cpu, p, op[1], len(op) > 2 and op[2])
    elif code == OP_IO_GETEVENTS:
        aio.sys_io_getevents(cpu, op[1], op[2])
    elif code == OP_SLEEP:
        cpu.start(frames.NANOSLEEP, cpu.costs.nanosleep_ns, op[1])
    elif code == OP_SLEEP_JIFFIES:
        cpu.start(frames.NANOSLEEP, cpu.costs.nanosleep_ns, -op[1])
    elif code == OP_BURN:
        cpu.start(frames.USER, op[1] + p.run.refill_ns, frames.BURNING)
        p.run.refill_ns = 0
    elif code == OP_PIPE_READ:
        pipe.sys_read(cpu, [op[1]])
    elif code == OP_PIPE_WRITE:
        pipe.sys_write(cpu, op[1], op[2])
    elif code == OP_SETAFFINITY:
        cpu.start(frames.SETAFFINITY, cpu.costs.syscall_ns, op[1])
    elif code == OP_RW:
        aio.sys_rw(cpu, p, op[1], op[2], op[3], op[4], len(op) > 5 and op[5])
    elif code == OP_WRITEBACK:
        aio.sys_writeback(cpu, p, op[1], op[2], op[3])
    elif code == OP_YIELD:
        core.yield_task(cpu)
        p.run.kind = frames.RET_USER
        p.run.left = cpu.costs.syscall_ns
        p.run.arg = 0
        core.schedule(cpu)
    elif code == OP_EXEC:
        cpu.start(frames.EXEC, cpu.costs.syscall_ns + cpu.costs.select_task_rq_ns)
    elif code == OP_RCU_FQS:
        cpu.start(frames.RCU_FQS, 0, op[1])
    elif code == OP_RCU_GP_INIT:
        rcu.rcu_gp_init(cpu, p, op[1])
        next_operation(cpu, 0)
    else:
        assert code in SYSTEM_CALLS, cpu.story(f"{p.comm}/{p.pid} asks for operation {op!r}")
        SYSTEM_CALLS[code](cpu, p, op)


def sys_exit(cpu: Cpu, _p: Task, _op: Op) -> None:
    """``exit()``."""
    kthread.do_exit(cpu, None)


def sys_uring_enter(cpu: Cpu, p: Task, op: Op) -> None:
    """``io_uring_enter()``."""
    io_uring.sys_enter(cpu, p, op[1], len(op) > 2 and op[2])


def sys_uring_reap(cpu: Cpu, p: Task, op: Op) -> None:
    """User space takes completions, or enters to wait for them."""
    io_uring.sys_reap(cpu, p, op[1], op[2])


def sys_write(cpu: Cpu, p: Task, op: Op) -> None:
    """``write()`` of a file that is not open with O_DIRECT."""
    buffered.sys_write(cpu, p, op[1], op[2], op[3])


def sys_eventfd_read(cpu: Cpu, _p: Task, _op: Op) -> None:
    """``read()`` of an eventfd."""
    eventfd.sys_read(cpu)


def sys_ioprio_set(cpu: Cpu, p: Task, op: Op) -> None:
    """``ioprio_set()`` of the task itself: requests that it makes from now on have that priority."""
    p.run.ioprio = op[1]
    cpu.start(frames.RET_USER, cpu.costs.syscall_ns, 0)


def sys_stat(cpu: Cpu, _p: Task, _op: Op) -> None:
    """``stat()`` of a name that is not there, on a RAM file system.

    Such a one keeps no negative dentries (``always_delete_dentry()`` of ``fs/libfs.c``): the one made for
    the look-up is freed after a grace period.
    """
    rcu.call_rcu(cpu)
    cpu.start(frames.RET_USER, cpu.costs.syscall_ns, -ENOENT)


def sys_sync(cpu: Cpu, p: Task, _op: Op) -> None:
    """``sync()``."""
    buffered.sys_sync(cpu, p)


def sys_fsync(cpu: Cpu, p: Task, op: Op) -> None:
    """``fsync()`` and ``fdatasync()``."""
    fsync.sys_fsync(cpu, p, op[1])


def queue_works(cpu: Cpu, _p: Task, op: Op) -> None:
    """``queue_work()`` of a module's own items; this is no system call, but a kthread's function."""
    cpu.start(frames.QUEUE_WORKS, cpu.costs.queue_work_ns, op[1])


def queue_next_work(cpu: Cpu, works: list[Any]) -> None:
    """Queue one item; the next one follows when whom it wakes is woken."""
    if not works:
        return_to_user(cpu, 0)
        return
    (queue, number, steps, *how), *rest = works
    cpu.start(frames.QUEUE_WORKS, cpu.costs.queue_work_ns if rest else 0, rest)
    wq_id = WQ_NAMES.index(queue)
    item = [f"{cpu.rq.curr.comm}.w{number}", cpu.now, steps]
    delay_ns, node = how or (0, -1)
    if delay_ns:
        wq_delayed.queue_delayed_work(cpu, wq_id, item, delay_ns)
    elif node >= 0 and cpu.workqueues[wq_id].unbound:
        wq_delayed.queue_work_node(cpu, wq_id, item, node)
    else:
        queue_module_work(cpu, wq_id, item)


def queue_module_work(cpu: Cpu, wq_id: int, item: list[Any]) -> None:
    """Queue a module's item here, over the frame that goes on afterwards."""
    if workqueue.queue_work(cpu, wq_id, wq_pool.FN_MODULE, item, cpu.work_id()):
        workqueue.wake_up_worker(cpu, cpu.pools[cpu.workqueues[wq_id].pool])


def flush_workqueue(cpu: Cpu, _p: Task, op: Op) -> None:
    """``flush_workqueue()`` of a module."""
    cpu.start(frames.FLUSH_WORKS, cpu.costs.queue_work_ns, op[1])


def cancel_work_sync(cpu: Cpu, _p: Task, op: Op) -> None:
    """``cancel_work_sync()`` of a module's item."""
    cpu.start(frames.CANCEL_WORK, cpu.costs.queue_work_ns, op[1])


def sys_pipe_poll(cpu: Cpu, _p: Task, op: Op) -> None:
    """``read()`` of whichever of several pipes has something first."""
    pipe.sys_read(cpu, op[1])


#: Further system calls, by operation: what starts each.
SYSTEM_CALLS: dict[int, Callable[[Cpu, Task, Op], None]] = {
    OP_EVENTFD_READ: sys_eventfd_read,
    OP_EXIT: sys_exit,
    OP_FSYNC: sys_fsync,
    OP_IOPRIO_SET: sys_ioprio_set,
    OP_QUEUE_WORK: queue_works,
    OP_FLUSH_WORKQUEUE: flush_workqueue,
    OP_CANCEL_WORK: cancel_work_sync,
    OP_URING_ENTER: sys_uring_enter,
    OP_URING_REAP: sys_uring_reap,
    OP_PIPE_POLL: sys_pipe_poll,
    OP_STAT: sys_stat,
    OP_SYNC: sys_sync,
    OP_WRITE: sys_write,
}


def rcu_fqs_end(cpu: Cpu, gp_seq: int) -> None:
    """``rcu_sched`` has looked; its program goes on with what it has seen."""
    next_operation(cpu, int(rcu.rcu_gp_fqs(cpu, gp_seq)))


def user_end(cpu: Cpu, _arg: object) -> None:
    """A stretch of user code is over: its program's next system call starts."""
    next_operation(cpu, None)


def ret_user(cpu: Cpu, result: Any) -> None:
    """Back on the CPU after giving way at the return to user space."""
    return_to_user(cpu, result)


def nanosleep(cpu: Cpu, until_ns: int) -> None:
    """``clock_nanosleep()`` or ``schedule_timeout()`` (negative: jiffies) up to the switch."""
    p = cpu.rq.curr
    if until_ns >= 0:
        if until_ns <= cpu.now:
            return_to_user(cpu, 0)
        elif until_ns >= NEVER:
            p.run.wait = WAIT_TIMER
            core.block(cpu, p, tp.TASK_INTERRUPTIBLE, frames.RET_USER, cpu.costs.syscall_ns, 0)
        else:
            core.sleep_on_timer(
                cpu, p, until_ns, tp.TASK_INTERRUPTIBLE, frames.RET_USER, cpu.costs.syscall_ns, 0
            )
        return
    p.run.wait = WAIT_TIMER
    state = tp.TASK_IDLE if p.flags & 0x200000 else tp.TASK_INTERRUPTIBLE
    since = cpu.now
    hrtimer.add_jiffy_timer(cpu, cpu.jiffies() - until_ns, hrtimer.WHEEL_SLEEP, [p.pid, since])
    core.block(cpu, p, state, frames.RET_USER, cpu.costs.syscall_ns, 0)


def setaffinity(cpu: Cpu, mask: int) -> None:
    """``__set_cpus_allowed_ptr()`` of the current task: where it must leave, the stopper moves it."""
    p = cpu.rq.curr
    p.cpus_mask = mask
    p.nr_cpus_allowed = mask.bit_count()
    if mask >> cpu.node_id & 1:
        return_to_user(cpu, 0)
        return
    p.run.kind = frames.RET_USER
    p.run.left = 0
    p.run.arg = 0
    target = cpumask_first(mask)  # the stopper looks whether it is active
    work = [migration.MIGRATION_CPU_STOP, [p.pid, target, tp.MIGRATE_AFFINITY], cpu.cause]
    stop_machine.queue_stop_work(cpu, work)
    core.schedule(cpu)  # stop_one_cpu() gives way to the stopper of its own CPU at once
