"""The source's half of a balance pass: ``detach_tasks()`` and friends of ``fair.c``.

The balancer decides on what runqueues publish; what can really be moved is decided here, on the
live queue, with the ``lb_env`` that it sent (a plain list, ``ENV_*`` in :mod:`emulator.types`).
What the imbalance counts, and which task is too much, depends on its migration type (D.8).

Departures from the kernel: the destination's ``nr_running`` in ``task_hot()`` is the balancer's
view of it; NUMA locality is not tested (no fault statistics).  A delayed task (v6.12) takes the timer
that is to wake it along; one that waits for a driver tag, or that is just being woken, is passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import core, fair, frames, hrtimer, util_est, wq_hotplug
from emulator.kernel.process import MAIL_WAITS, WAIT_TAG, unpack_task
from emulator.kernel.sched import (
    ENQUEUE_MIGRATED,
    KTHREAD_IS_PER_CPU,
    PF_WQ_WORKER,
    TASK_WAKING,
    Task,
    is_per_cpu_kthread,
)
from emulator.types import (
    CPU_NEWLY_IDLE,
    CPU_NOT_IDLE,
    ENV_CACHE_NICE_TRIES,
    ENV_CAUSE,
    ENV_CPUS,
    ENV_CURR_ALLOWED,
    ENV_DST_CPU,
    ENV_DST_GRPMASK,
    ENV_DST_NR_RUNNING,
    ENV_FLAGS,
    ENV_HOT_GAINED,
    ENV_IDLE,
    ENV_IMBALANCE,
    ENV_LOOP,
    ENV_LOOP_BREAK,
    ENV_LOOP_MAX,
    ENV_MIGRATION_TYPE,
    ENV_NEW_DST_CPU,
    ENV_NR_BALANCE_FAILED,
    ENV_OTHERS_BOUND,
    ENV_SMT,
    ENV_THIS_CPU,
    ENV_WHY,
    LBF_ACTIVE_LB,
    LBF_ALL_PINNED,
    LBF_DST_PINNED,
    LBF_NEED_BREAK,
    LBF_SOME_PINNED,
    MIGRATION_LOAD,
    MIGRATION_UTIL,
    Message,
    cpumask_first,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

SCHED_NR_MIGRATE_BREAK = 32
#: A load is shifted right by so many failures at most: no further than its word is wide.
SHIFT_MAX = 63


def can_migrate_task(cpu: Cpu, p: Task, env: list[Any]) -> bool:
    """Whether a queued task may go to ``dst_cpu``; sets the env's pinned flags (D.8)."""
    rules = cpu.rq.rules
    if rules.lb_skip_per_cpu_kthread and p.kthread_flags & KTHREAD_IS_PER_CPU:
        return False
    dst = env[ENV_DST_CPU]
    if p.sched_delayed and held_here(cpu, p):
        return False
    if not p.cpus_mask >> dst & 1:
        env[ENV_FLAGS] |= LBF_SOME_PINNED
        if env[ENV_IDLE] == CPU_NEWLY_IDLE or env[ENV_FLAGS] & (LBF_DST_PINNED | LBF_ACTIVE_LB):
            return False
        other = env[ENV_DST_GRPMASK] & env[ENV_CPUS] & p.cpus_mask
        if other:
            env[ENV_FLAGS] |= LBF_DST_PINNED
            env[ENV_NEW_DST_CPU] = cpumask_first(other)
        return False
    env[ENV_FLAGS] &= ~LBF_ALL_PINNED
    if p.on_cpu:
        cpu.count("nr_failed_migrations_running")
        return False
    if env[ENV_FLAGS] & LBF_ACTIVE_LB:
        return True
    smt = bool(env[ENV_SMT])
    if fair.task_hot(cpu.rq, p, cpu.rq.clock_task, env[ENV_DST_NR_RUNNING], smt):
        if env[ENV_NR_BALANCE_FAILED] <= env[ENV_CACHE_NICE_TRIES]:
            cpu.count("nr_failed_migrations_hot")
            return False
        env[ENV_HOT_GAINED] += 1
    return True


def held_here(cpu: Cpu, p: Task) -> bool:
    """Whether a delayed task's wakeup is this CPU's to make, or under way: then it stays."""
    if p.state == TASK_WAKING or p.run.wait == WAIT_TAG:
        return True
    if any(pid == p.pid for pid, _sync in cpu.wakeups):
        return True
    executed = [(cpu.f_kind, cpu.f_arg), *((frame[0], frame[2]) for frame in cpu.stack)]
    ends = [hrtimer.TIMER_SLEEP, [p.pid, p.run.wait_since]]
    return any(kind == frames.IRQ_HRTIMER and arg == ends for kind, arg in executed)


def detach_tasks(cpu: Cpu, env: list[Any]) -> list[Task]:
    """Take tasks off this queue until the imbalance is gone; return them in order of detachment."""
    detached: list[Task] = []
    if env[ENV_IMBALANCE] <= 0:
        return detached
    if cpu.rq.rules.lb_all_pinned_alone and cpu.rq.nr_running <= 1:
        env[ENV_FLAGS] &= ~LBF_ALL_PINNED  # others have emptied the queue: no task was looked at
        return detached
    queue = cpu.rq.cfs.cfs_tasks
    while queue:
        if env[ENV_IDLE] != CPU_NOT_IDLE and cpu.rq.nr_running <= 1:
            break
        p = queue[-1]
        env[ENV_LOOP] += 1
        if env[ENV_LOOP] > env[ENV_LOOP_MAX]:
            break
        if env[ENV_LOOP] > env[ENV_LOOP_BREAK]:
            env[ENV_LOOP_BREAK] += SCHED_NR_MIGRATE_BREAK
            env[ENV_FLAGS] |= LBF_NEED_BREAK
            break
        amount = task_amount(cpu, p, env) if can_migrate_task(cpu, p, env) else -1
        if amount < 0:
            queue.insert(0, queue.pop())
            continue
        detach_task(cpu, p, env)
        detached.append(p)
        env[ENV_IMBALANCE] -= amount
        if env[ENV_IMBALANCE] <= 0:
            break
    return detached


def task_amount(cpu: Cpu, p: Task, env: list[Any]) -> int:
    """How much of the imbalance a task is, in the unit of the migration type; -1: too much of it."""
    rules = cpu.rq.rules
    kind = env[ENV_MIGRATION_TYPE]
    failed = env[ENV_NR_BALANCE_FAILED]
    if kind == MIGRATION_LOAD:
        load = fair.task_h_load(p, cpu.rq, cpu.jiffies())
        if rules.lb_load_shift:
            load = max(load, 1)
            too_much = load >> min(failed, SHIFT_MAX) > env[ENV_IMBALANCE]
        else:
            too_much = load // 2 > env[ENV_IMBALANCE]
            if too_much and rules.lb_group_types:
                too_much = failed <= env[ENV_CACHE_NICE_TRIES]
        return -1 if too_much else load
    if kind == MIGRATION_UTIL:
        util = util_est.task_util_est(cpu.rq, p)
        shift = min(failed, SHIFT_MAX) if rules.lb_util_shift else 0
        return -1 if util >> shift > env[ENV_IMBALANCE] else util
    return 1


def others_bound(cpu: Cpu) -> bool:
    """Whether somebody waits behind the current task, and only per-CPU kthreads do (F18)."""
    others = [p for p in cpu.rq.cfs.cfs_tasks if p is not cpu.rq.curr]
    return bool(others) and all(is_per_cpu_kthread(p) for p in others)


def detach_one_task(cpu: Cpu, env: list[Any]) -> tuple[Task, int] | None:
    """The first task from the tail that may go; returns it and whether it was cache hot."""
    for p in reversed(cpu.rq.cfs.cfs_tasks):
        hot = env[ENV_HOT_GAINED]
        if can_migrate_task(cpu, p, env):
            detach_task(cpu, p, env)
            return p, env[ENV_HOT_GAINED] - hot
    return None


def detach_task(cpu: Cpu, p: Task, env: list[Any]) -> None:
    """``detach_task()``: off the queue, to the other CPU."""
    before = cpu.rq.nr_running
    cpu.rq.fair.dequeue_task(cpu.rq, p, 0)
    assert cpu.rq.nr_running == before - 1, cpu.story("nr_running did not fall by one")
    saved = cpu.cause
    cpu.cause = env[ENV_CAUSE]
    core.set_task_cpu(cpu, p, env[ENV_DST_CPU], env[ENV_WHY])
    cpu.cause = saved


def handle_detach(cpu: Cpu, message: Message) -> None:
    """Answer the balancer's DETACH in the same instant."""
    env = list(message[5][0])
    fair.update_rq_clock(cpu.rq, cpu.now)
    curr = cpu.rq.curr
    asked = cpu.rq.need_resched
    env[ENV_CURR_ALLOWED] = int(bool(curr.cpus_mask >> env[ENV_THIS_CPU] & 1))
    if cpu.rq.rules.no_push_for_kthreads:
        env[ENV_OTHERS_BOUND] = int(others_bound(cpu))
    tasks: list[list[Any]] = []
    for p in detach_tasks(cpu, env):
        cpu.depart(p, env[ENV_DST_CPU], cpu.now + cpu.costs.coherence_ns)
        tasks.append([p.pid, p])
    if tasks:
        cpu.publish()
    core.smp_send_reschedule_here(cpu, asked)  # charging curr may have made it give way
    cpu.send(
        cpu.bal_node,
        messages.DETACHED,
        (env, tasks, cpu.own_facts()),
        cpu.now,
        0,
    )


def handle_attach(cpu: Cpu, message: Message) -> None:
    """``attach_tasks()``: the balancer's tasks arrive on this queue."""
    tasks, why, cause = message[5]
    asked = cpu.rq.need_resched
    fair.update_rq_clock(cpu.rq, cpu.now)
    for _pid, data in tasks:
        p = unpack_task(data, cpu.make_program)
        cpu.cause = p.run.cause or cause
        arrive(cpu, p)
        core.activate_task(cpu, p, ENQUEUE_MIGRATED)
        core.check_preempt_curr(cpu, p, 0)
    assert why in tp.MIGRATE_CAUSES
    cpu.publish()
    if cpu.balance_asked < 0:  # who balances for itself sees the flag when it is done
        core.smp_send_reschedule_here(cpu, asked)


def arrive(cpu: Cpu, p: Task) -> None:
    """Take over a task that came in a message."""
    assert p.pid not in cpu.tasks, cpu.story(f"{p.comm}/{p.pid} arrives twice")
    cpu.tasks[p.pid] = p
    cpu.forward.pop(p.pid, None)
    cpu.expect.pop(p.pid, None)  # whatever is still to come is the task's own remote_ios now
    cpu.keep_books(p)
    cpu.sink.comm(p.pid, p.comm)
    if p.flags & PF_WQ_WORKER:
        wq_hotplug.worker_arrives(cpu, p)
    if p.sched_delayed:
        hrtimer.give_sleep_timer(cpu, p)
        if p.run.wait in MAIL_WAITS and p.run.remote_ios:
            cpu.mail_sleepers[p.pid] = 1
