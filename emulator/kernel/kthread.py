"""Tasks and their birth: ``kernel/kthread.c``, ``kernel/smpboot.c``, ``kernel/fork.c``, v5.4.

Every CPU has its stopper (``migration/N``), ``ksoftirqd/N`` and two workers in each of its two
pools, as a machine has that has been up for a while: the first use creates none.  Their pids are
fixed by the CPU's number, so that two runs name them alike; tasks of the box's workloads start at
:data:`FIRST_USER_PID`; workers created later are numbered per CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import (
    affinity,
    core,
    eevdf,
    fair,
    frames,
    pipe,
    placement,
    rt,
    wq_table,
    wq_unbound,
    wq_worker,
)
from emulator.kernel.process import WAIT_WORK, Kioctx, TaskRun
from emulator.kernel.sched import (
    DEQUEUE_DELAYED,
    DEQUEUE_SLEEP,
    DEQUEUE_SPECIAL,
    ENQUEUE_INITIAL,
    KTHREAD_IS_PER_CPU,
    PF_KTHREAD,
    PF_NO_SETAFFINITY,
    PF_WQ_WORKER,
    SCHED_NORMAL,
    STOP_CLASS,
    WF_FORK,
    Task,
)
from emulator.types import Program

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

FIRST_BOOT_PID = 12
PIDS_PER_CPU = 6
FIRST_USER_PID = 10_000
FIRST_LATE_PID = 100_000
LATE_PIDS_PER_CPU = 10_000


def stopper_pid(cpu: int) -> int:
    """Return the pid of ``migration/N``."""
    return FIRST_BOOT_PID + PIDS_PER_CPU * cpu


def boot(cpu: Cpu) -> None:
    """Create this CPU's own threads, asleep."""
    cpu.sink.comm(0, f"swapper/{cpu.node_id}")
    base = stopper_pid(cpu.node_id)
    stopper = new_kthread(cpu, base, f"migration/{cpu.node_id}", 0, frames.STOPPER)
    stopper.sched_class = STOP_CLASS
    stopper.prio = 0
    stopper.kthread_flags = KTHREAD_IS_PER_CPU
    cpu.rq.stop = stopper
    ksoftirqd = new_kthread(cpu, base + 1, f"ksoftirqd/{cpu.node_id}", 0, frames.KSOFTIRQD)
    ksoftirqd.kthread_flags = KTHREAD_IS_PER_CPU
    cpu.ksoftirqd = ksoftirqd
    for pid in range(base + 2, base + PIDS_PER_CPU):
        index = pid % 2
        wq_worker.create_worker(cpu, cpu.pools[index], index, pid)
    for pid, index, number, home in wq_table.boot_workers(cpu.unbound_pools, cpu.pods):
        if home == cpu.node_id:
            wq_unbound.create_worker(cpu, cpu.unbound_pools[index], pid, number)


def new_kthread(cpu: Cpu, pid: int, comm: str, nice: int, kind: int) -> Task:
    """Create a kernel thread bound to this CPU, asleep at the start of the given frame."""
    p = new_task(cpu, pid, comm, nice, 1 << cpu.node_id, TaskRun(None, kind))
    p.flags = PF_KTHREAD | PF_NO_SETAFFINITY
    p.state = tp.TASK_INTERRUPTIBLE
    p.run.wait = WAIT_WORK
    return p


def new_bound_worker(cpu: Cpu, pid: int, comm: str, nice: int, index: int) -> Task:
    """Create a thread that serves one of this CPU's two pools, asleep until it is woken."""
    p = new_kthread(cpu, pid, comm, nice, frames.WORKER_START)
    p.flags |= PF_WQ_WORKER
    if cpu.rq.rules.kworker_per_cpu:
        p.kthread_flags = KTHREAD_IS_PER_CPU
    p.state = tp.TASK_IDLE
    p.run.left = cpu.costs.worker_start_ns
    p.run.worker = index
    return p


def new_task(
    cpu: Cpu,
    pid: int,
    comm: str,
    nice: int,
    mask: int,
    run: TaskRun,
    policy: int = SCHED_NORMAL,
) -> Task:
    """Create a task that this CPU owns and that is on no queue."""
    p = Task(pid, comm[:15], nice)
    p.policy = policy
    fair.set_load_weight(p)
    fair.init_entity_runnable_average(p)
    p.cpus_mask = mask
    p.nr_cpus_allowed = mask.bit_count()
    p.cpu = p.wake_cpu = p.recent_used_cpu = cpu.node_id
    p.vruntime = cpu.rq.cfs.min_vruntime
    p.run = run
    assert pid not in cpu.tasks, cpu.story(f"pid {pid} exists")
    cpu.tasks[pid] = p
    cpu.sink.comm(pid, p.comm)
    return p


def park(cpu: Cpu, p: Task) -> None:
    """Take a per-CPU thread off the queue and leave it asleep."""
    if p.on_rq:
        how = DEQUEUE_DELAYED if p.sched_delayed else DEQUEUE_SPECIAL
        cpu.rq.fair.dequeue_task(cpu.rq, p, DEQUEUE_SLEEP | how)
    p.state = tp.TASK_INTERRUPTIBLE


def late_pid(cpu: Cpu) -> int:
    """Return a pid for a task created while the box runs."""
    cpu.pid_seq += 1
    return FIRST_LATE_PID + LATE_PIDS_PER_CPU * cpu.node_id + cpu.pid_seq


def fork(
    cpu: Cpu,
    pid: int,
    comm: str,
    nice: int,
    mask: int,
    program: Program,
    kthread: bool,
    figure: bool,
    target: int,
    policy: int = SCHED_NORMAL,
    slice_ns: int = 0,
    rt_priority: int = 0,
) -> Task:
    """``wake_up_new_task()``: a task of a workload starts, here or where the fork placement says.

    ``target`` names the CPU, or is -1 for ``select_task_rq_fair()`` with the fork flag; ``slice_ns`` is
    what the task asks for as its slice (EEVDF), 0 for nothing; ``rt_priority`` is a real-time one's.
    """
    p = new_task(cpu, pid, comm, nice, mask, TaskRun(program, frames.RET_USER), policy)
    if kthread:
        p.flags |= PF_KTHREAD
    if program.aio_events:
        p.run.ctx = Kioctx(program.aio_events, cpu.nr_cpus)  # io_setup()
    if cpu.pipes:
        pipe.open_pipes(cpu, p)
    p.figure = int(figure)
    eevdf.setparam_fair(p, slice_ns)
    rq = cpu.rq
    fair.update_rq_clock(rq, cpu.now)
    parent = rq.curr
    if parent is not rq.idle:
        placement.copy_wakees(parent, p)
    if rt_priority:
        rt.set_rt_policy(rq, p, rt_priority)
        target = mask.bit_length() - 1
    else:
        rq.fair.task_fork(rq, parent if parent is not rq.idle else None, p)
    chosen = target if target >= 0 else placement.select_task_rq_fork(cpu, p)
    if not affinity.is_cpu_allowed(cpu, p, chosen):
        chosen = affinity.select_fallback_rq(cpu, p, cpu.node_id)
    p.cpu = p.wake_cpu = chosen
    p.state = tp.TASK_RUNNING
    if chosen == cpu.node_id:
        cpu.keep_books(p)
        asked = rq.need_resched
        start_new_task(cpu, p)
        core.smp_send_reschedule_here(cpu, asked)
    else:
        core.send_task(cpu, p, chosen, cpu.now + cpu.costs.ttwu_activate_ns, WF_FORK, cpu.node_id)
    return p


def start_new_task(cpu: Cpu, p: Task) -> None:
    """The new task reaches its first queue."""
    fair.post_init_entity_util_avg(cpu.rq, p)
    core.activate_task(cpu, p, ENQUEUE_INITIAL)
    cpu.emit(tp.SCHED_WAKEUP_NEW, p.pid, p.prio, cpu.node_id)
    core.check_preempt_curr(cpu, p, WF_FORK)
    cpu.publish()


def do_exit(cpu: Cpu, _arg: Any) -> None:
    """``do_exit()``: the current task is gone at the switch."""
    p = cpu.rq.curr
    assert not p.run.outstanding(), cpu.story(f"{p.comm}/{p.pid} exits before its IOs have ended")
    cpu.emit(tp.SCHED_PROCESS_EXIT, p.pid, p.prio)
    cpu.exited.append(p.pid)
    pipe.close_pipes(cpu, p)
    p.state = tp.TASK_DEAD
    core.schedule(cpu)
