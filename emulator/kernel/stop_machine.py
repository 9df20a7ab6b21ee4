"""The stopper and the stop class: ``kernel/stop_machine.c``, ``kernel/sched/stop_task.c``, v5.4.

``migration/N`` runs stop works in order and sleeps between them.  Its class preempts everything
and nothing preempts it.  Its works are the push of an active balance
(:func:`active_load_balance_cpu_stop`, D.9) and taking the CPU down (:mod:`cpuhp`).

A task that binds itself elsewhere is moved by the stopper too (:func:`migration_cpu_stop`).

Departures from the kernel: the CPU that queues a stop work is the balancer's asker; the wakeup of
the stopper takes effect here at the message's stamp, and costs this CPU one reschedule IPI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import core, cpuhp, fair, frames, load_balance, placement
from emulator.kernel.process import WAIT_WORK
from emulator.kernel.sched import TASK_WAKING, Task
from emulator.types import (
    ENV_CAUSE,
    ENV_DST_CPU,
    ENV_WHY,
    STOP_ABORTED,
    STOP_FAILED,
    STOP_PUSHED,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: Instead of the CPU to push to: a task moves itself.
MIGRATE_ITSELF = -2


def enqueue_task_stop(cpu: Cpu, p: Task) -> None:
    """``enqueue_task_stop()``."""
    cpu.rq.stop_queued = 1
    cpu.rq.nr_running += 1
    p.on_rq = 1


def dequeue_task_stop(cpu: Cpu, p: Task) -> None:
    """``dequeue_task_stop()``."""
    cpu.rq.stop_queued = 0
    cpu.rq.nr_running -= 1
    p.on_rq = 0


def stop_this_task(cpu: Cpu, p: Task) -> None:
    """``stop_one_cpu(migration_cpu_stop)`` of the current task."""
    stop_one_cpu_nowait(cpu, (MIGRATE_ITSELF, [p.pid], cpu.cause))


def stop_one_cpu_nowait(cpu: Cpu, args: tuple[Any, ...]) -> None:
    """Queue a stop work that another CPU asked for, and wake the stopper."""
    push_cpu, env, cause = args
    cpu.stop_works.append([push_cpu, env, cause])
    p = cpu.rq.stop
    assert p is not None
    if p.state != tp.TASK_RUNNING:
        p.run.cause = cause
        p.state = TASK_WAKING
        asked = cpu.rq.need_resched
        core.ttwu_do_activate(cpu, p, 0)
        core.smp_send_reschedule_here(cpu, asked)


def cpu_stopper_thread(cpu: Cpu, _arg: object) -> None:
    """The stopper has the CPU: start the first work, or sleep."""
    p = cpu.rq.curr
    if cpu.stop_works:
        cpu.start(frames.STOPPER_WORK, cpu.costs.stopper_ns)
        return
    p.run.wait = WAIT_WORK
    core.block(cpu, p, tp.TASK_INTERRUPTIBLE, frames.STOPPER, 0)


def work_end(cpu: Cpu, _arg: object) -> None:
    """The end of one stop work."""
    push_cpu, env, cause = cpu.stop_works.pop(0)
    cpu.cause = cause
    if push_cpu == cpuhp.TAKE_CPU_DOWN:
        cpuhp.take_cpu_down(cpu)
        cpu_stopper_thread(cpu, None)
        return
    if push_cpu == MIGRATE_ITSELF:
        migration_cpu_stop(cpu, env[0])
        cpu.start(frames.STOPPER_TAIL, cpu.costs.stopper_tail_ns)
        return
    result, hot = active_load_balance_cpu_stop(cpu, push_cpu, env)
    cpu.send(
        cpu.bal_node,
        messages.STOPPED,
        (push_cpu, result, hot),
        cpu.now + cpu.costs.request_ns,
        cpu.costs.coherence_ns,
    )
    cpu.start(frames.STOPPER_TAIL, cpu.costs.stopper_tail_ns)


def migration_cpu_stop(cpu: Cpu, pid: int) -> None:
    """``migration_cpu_stop()``: move a queued task to the CPU that it has bound itself to."""
    p = cpu.tasks.get(pid)
    if p is None or not p.on_rq or p.cpus_mask >> cpu.node_id & 1:
        return
    fair.update_rq_clock(cpu.rq, cpu.now)
    target = p.cpus_mask.bit_length() - 1
    if not placement.is_cpu_allowed(cpu, p, target):
        target = placement.select_fallback_rq(cpu, p, cpu.node_id)
        if target == cpu.node_id:
            return
    cpu.rq.fair.dequeue_task(cpu.rq, p, 0)
    core.set_task_cpu(cpu, p, target, tp.MIGRATE_AFFINITY)
    core.send_task(cpu, p, target, cpu.now + cpu.costs.stopper_tail_ns, 0, cpu.node_id)
    cpu.publish()


def active_load_balance_cpu_stop(cpu: Cpu, push_cpu: int, env: list[Any]) -> tuple[int, int]:
    """Push one task to the CPU that asked for it; return (STOP_*, whether it was cache hot)."""
    rq = cpu.rq
    fair.update_rq_clock(rq, cpu.now)
    if not cpu.active or rq.nr_running <= 1:
        return STOP_ABORTED, 0
    env[ENV_DST_CPU] = push_cpu
    env[ENV_CAUSE] = cpu.cause
    env[ENV_WHY] = tp.MIGRATE_ACTIVE
    found = load_balance.detach_one_task(cpu, env)
    if found is None:
        return STOP_FAILED, 0
    p, hot = found
    core.send_task(cpu, p, push_cpu, cpu.now + cpu.costs.stopper_tail_ns, 0, cpu.node_id)
    cpu.publish()
    return STOP_PUSHED, hot
