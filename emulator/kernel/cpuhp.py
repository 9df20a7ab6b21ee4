"""CPU hotplug and the commands of a running box: ``kernel/cpu.c``, v5.4 (F.4, A.9, F.11).

Theory of operation
-------------------
Going down, the states of :data:`STEPS` are walked from the top.  The first steps run at the
command's time: the CPU is no longer *active*, so nothing new is placed here, and the domains are
rebuilt without it.  The rest runs in the stopper, where no interrupt or softirq is half done: queued
tasks are moved one by one by the kernel's fallback order, then everything that stays behind asleep,
in flight or pending is handed to the lowest CPU still online, as the dead callbacks do.  From then on
this CPU executes nothing; it only sends on what is still addressed to it.

Coming up walks the same table the other way.

Departures from the kernel: the steps take no emulated time of their own; the work items of a dead
CPU's pools join the pools of the CPU that takes over, where the kernel lets the dead pools' unbound
workers run them anywhere; AIO credits are not per CPU here and need no rescue.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator import messages
from emulator.kernel import (
    blk_mq,
    core,
    fair,
    frames,
    hrtimer,
    idle,
    kthread,
    load_balance,
    placement,
    stop_machine,
    workqueue,
)
from emulator.kernel.request import Request
from emulator.kernel.process import WAIT_WORK, pack_task, unpack_task
from emulator.kernel.sched import PF_WQ_WORKER, Task
from emulator.types import NEVER, RQF_ACTIVE

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: Stop work that takes the CPU down, in place of a push.
TAKE_CPU_DOWN = -1

CPUHP_OFFLINE = 0
CPUHP_ONLINE = 195


# -- The steps: (state number, name, teardown, startup) -------------------------------------------


def sched_cpu_deactivate(cpu: Cpu) -> None:
    """Nothing new is placed here; the sched domains are rebuilt without this CPU."""
    cpu.active = False
    cpu.publish()
    tell_balancer(cpu, ["cpu_active", cpu.node_id, 0])


def sched_cpu_activate(cpu: Cpu) -> None:
    """The CPU takes part again."""
    cpu.active = True
    cpu.publish()
    tell_balancer(cpu, ["cpu_active", cpu.node_id, 1])


def workqueue_offline_cpu(cpu: Cpu) -> None:
    """The pools lose their CPU; their items are handed over with the rest."""
    for pool in cpu.pools:
        pool.disassociated = True


def workqueue_online_cpu(cpu: Cpu) -> None:
    """The pools are this CPU's again, their workers bound to it."""
    for pool in cpu.pools:
        pool.disassociated = False


def smpboot_park_threads(cpu: Cpu) -> None:
    """ksoftirqd is parked: off the queue, asleep."""
    kthread.park(cpu, cpu.ksoftirqd)


def smpboot_unpark_threads(cpu: Cpu) -> None:
    """ksoftirqd may be woken again; what was pending is not lost."""
    cpu.ksoftirqd.run.wait = WAIT_WORK


def sched_cpu_dying(cpu: Cpu) -> None:
    """``migrate_tasks()``: move every queued task but the stopper."""
    migrate_tasks(cpu)


def sched_cpu_starting(cpu: Cpu) -> None:
    """The runqueue is online."""
    fair.update_rq_clock(cpu.rq, cpu.now)


def tick_dying(cpu: Cpu) -> None:
    """The tick stops for good."""
    cpu.tick_at = NEVER
    cpu.tick_stopped = False
    cpu.in_nohz_mask = False


def tick_starting(cpu: Cpu) -> None:
    """The tick starts on the common grid."""
    cpu.tick_stopped = False
    idle.start_tick(cpu)


def take_over_dead(cpu: Cpu) -> None:
    """The dead callbacks: another CPU takes what is left here (timers, block, softirq, tasks)."""
    hand_over(cpu)


def nothing(cpu: Cpu) -> None:
    """No work in this direction."""


Step = tuple[int, str, Callable[["Cpu"], None], Callable[["Cpu"], None]]

#: In ascending order; down walks them from the end.  The steps above the line run at the command.
STEPS: tuple[Step, ...] = (
    (20, "blk_softirq_cpu_dead", take_over_dead, nothing),
    (83, "tick_broadcast", tick_dying, tick_starting),
    (90, "sched:starting", sched_cpu_dying, sched_cpu_starting),
    (142, "smpboot/threads:online", smpboot_park_threads, smpboot_unpark_threads),
    (150, "workqueue:online", workqueue_offline_cpu, workqueue_online_cpu),
    (194, "sched:active", sched_cpu_deactivate, sched_cpu_activate),
)
FIRST_AT_COMMAND = 4  # index into STEPS: these and later go down at the command's time


def walk(cpu: Cpu, steps: tuple[Step, ...], down: bool) -> None:
    """Run steps in their order for the direction, recording each."""
    target = CPUHP_OFFLINE if down else CPUHP_ONLINE
    for state, name, teardown, startup in reversed(steps) if down else steps:
        cpu.emit(tp.CPUHP_ENTER, cpu.node_id, target, state, cpu.sink.intern(name))
        (teardown if down else startup)(cpu)
        cpu.emit(tp.CPUHP_EXIT, cpu.node_id, state, state, 0)


# -- Commands -----------------------------------------------------------------------------------


def command(cpu: Cpu, words: list[Any]) -> None:
    """Carry out a command line at its emulated time, and answer the coordinator."""
    cpu.emit(tp.BOX_COMMAND, cpu.sink.intern(" ".join(str(word) for word in words)))
    answer = "done"
    verb = words[1] if words[0] == "cpu" else words[0]
    if verb in ("offline", "kill"):
        answer = cpu_down(cpu)
    elif verb == "online":
        answer = cpu_up(cpu)
    elif verb == "load":
        answer = load(cpu, int(words[-1]))
    elif verb == "sysctl":
        fair.sched_proc_update_handler(cpu.rq.tun, str(words[1]), int(words[2]))
    elif verb == "spawn":
        spawn(cpu, words)
    else:
        raise AssertionError(cpu.story(f"unknown command {words}"))
    if words[0] != "spawn":
        cpu.answer(words, answer)


def cpu_down(cpu: Cpu) -> str:
    """Start to take this CPU down; the last online CPU refuses."""
    if not cpu.online or not cpu.active:
        return "already offline"
    if heir(cpu) < 0:
        return "refused: the last online CPU"
    walk(cpu, STEPS[FIRST_AT_COMMAND:], down=True)
    stop_machine.stop_one_cpu_nowait(cpu, (TAKE_CPU_DOWN, [], cpu.cause))
    return "done"


def take_cpu_down(cpu: Cpu) -> None:
    """The rest of the way down, in the stopper."""
    walk(cpu, STEPS[:FIRST_AT_COMMAND], down=True)
    cpu.online = False
    stopper = cpu.rq.stop
    assert stopper is not None
    stop_machine.dequeue_task_stop(cpu, stopper)
    stopper.state = tp.TASK_INTERRUPTIBLE
    stopper.on_cpu = 0
    stopper.run.kind, stopper.run.left, stopper.run.arg = frames.STOPPER, 0, None
    rq = cpu.rq
    rq.curr = rq.idle
    rq.need_resched = False
    cpu.irqs.clear()
    cpu.irqs_on = False
    cpu.wait(frames.HALT)
    cpu.publish()
    assert rq.nr_running == 0, cpu.story("tasks are left on a dead CPU's queue")


def cpu_up(cpu: Cpu) -> str:
    """Bring this CPU back."""
    if cpu.online:
        return "already online"
    cpu.online = True
    cpu.irqs_on = True
    walk(cpu, STEPS, down=False)
    cpu.rq.clock = cpu.now
    cpu.start(frames.IDLE_ENTRY, cpu.costs.idle_entry_ns)
    return "done"


def heir(cpu: Cpu) -> int:
    """Return the lowest other CPU that is active as far as this CPU knows, or -1."""
    for other in range(cpu.nr_cpus):
        if other != cpu.node_id and placement.cpu_flags(cpu, other) & RQF_ACTIVE:
            return other
    return -1


def tell_balancer(cpu: Cpu, words: list[Any]) -> None:
    """Send the balancer a command of its own."""
    cpu.send(
        cpu.bal_node,
        messages.COMMAND,
        (words,),
        cpu.now + cpu.costs.request_ns,
        cpu.costs.coherence_ns,
    )


def domains_rebuilt(cpu: Cpu, facts: list[Any]) -> None:
    """The balancer rebuilt the domains: the tunables scale with the number of CPUs (A.3)."""
    fair.update_sysctl(cpu.rq.tun, int(facts[0]).bit_count())


# -- Leaving ------------------------------------------------------------------------------------


def migrate_tasks(cpu: Cpu) -> None:
    """Move queued tasks by ``select_fallback_rq()``; idle workers of the pools stay, asleep."""
    rq = cpu.rq
    fair.update_rq_clock(rq, cpu.now)
    while rq.cfs.nr_running:
        p = rq.cfs.tree[0][2]
        if p.flags & PF_WQ_WORKER:
            workqueue.park_worker(cpu, p)
            continue
        target = placement.select_fallback_rq(cpu, p, cpu.node_id)
        fair.dequeue_task_fair(rq, p, 0)
        core.set_task_cpu(cpu, p, target, tp.MIGRATE_HOTPLUG)
        core.send_task(cpu, p, target, cpu.now + cpu.costs.ipi_ns, 0, cpu.node_id)


def hand_over(cpu: Cpu) -> None:
    """Give the heir everything that is left: sleepers, timers, requests, work, finished requests."""
    target = heir(cpu)
    assert target >= 0, cpu.story("the last CPU dies")
    sleepers = []
    for p in [p for p in cpu.tasks.values() if not is_own_thread(cpu, p)]:
        fair.migrate_task_rq_fair(cpu.rq, p, True)
        cpu.depart(p, target)
        sleepers.append(pack_task(p))
    completions = [m for m in cpu.inbox if m[4] == messages.COMPLETION]
    cpu.inbox[:] = sorted(m for m in cpu.inbox if m[4] != messages.COMPLETION)
    timers = [list(t) for t in sorted(cpu.timers) if t[2] in (hrtimer.TIMER_SLEEP, hrtimer.TIMER_REQUEST)]
    pending = [irq[1] for irq in cpu.irqs if irq[0] == frames.IRQ_DEVICE]
    state = [
        sleepers,
        [[m[0], m[1], m[5][0], m[5][1]] for m in completions]
        + [[cpu.now, 0, cookie, status] for cookie, status in pending],
        [rq.pack() for rq in cpu.inflight.values()],
        timers,
        [list(t) for t in cpu.jiffy_timers],
        [rq.pack() for rq in (*cpu.sirq_block, *cpu.done_list, *cpu.call_done)],
        [workqueue.take_items(pool) for pool in cpu.pools],
        [[q.index, q.lease, q.sched_tags, q.take_waiters()] for q in cpu.queues],
        cpu.node_id,
    ]
    cpu.inflight.clear()
    cpu.timers.clear()
    cpu.jiffy_timers.clear()
    cpu.done_list.clear()
    cpu.call_done.clear()
    cpu.softirq_pending = 0
    cpu.nohz_flags = 0
    for q in cpu.queues:
        blk_mq.ring_doorbells(cpu, q)
        q.lease = q.sched_tags = 0
    cpu.adopter = target
    cpu.send(target, messages.ADOPT, (state,), cpu.now + cpu.costs.ipi_ns, cpu.costs.ipi_ns)


def is_own_thread(cpu: Cpu, p: Task) -> bool:
    """Whether a task is one of the CPU's own threads, which stay with it."""
    return p is cpu.rq.stop or p is cpu.ksoftirqd or bool(p.flags & PF_WQ_WORKER)


def redirect(cpu: Cpu, p: Task) -> None:
    """A task arrives at a CPU that has gone meanwhile: it goes on to where it may run."""
    target = placement.select_fallback_rq(cpu, p, cpu.node_id)
    p.run.cause = cpu.emit(
        tp.SCHED_MIGRATE_TASK, p.pid, p.prio, cpu.node_id, target, tp.MIGRATE_HOTPLUG
    )
    p.nr_migrations += 1
    p.cpu = p.wake_cpu = target
    core.send_task(cpu, p, target, cpu.now + cpu.costs.ipi_ns, 0, cpu.node_id)


# -- Taking over --------------------------------------------------------------------------------


def adopt(cpu: Cpu, state: list[Any]) -> None:
    """Take over what a dead CPU left (at the CPU that runs the dead callbacks)."""
    sleepers, completions, requests, timers, wheel, done, items, queues, dead = state
    for data in sleepers:
        p = unpack_task(data, cpu.make_program)
        load_balance.arrive(cpu, p)
        p.vruntime += cpu.rq.cfs.min_vruntime  # it was made relative when it left
        p.avg.last_update_time = 0
    for data in requests:
        rq = Request.unpack(data)
        cpu.inflight[rq.cookie] = rq
    for done_ns, source, cookie, status in completions:
        heapq.heappush(
            cpu.inbox,
            (
                max(done_ns, cpu.now),
                source or cpu.bal_node + 1,
                cookie,
                cpu.node_id,
                messages.COMPLETION,
                (cookie, status),
            ),
        )
    for expiry, _seq, kind, arg in timers:
        cpu.add_timer(max(expiry, cpu.now), kind, arg)
    for jiffy, _seq, kind, arg in wheel:
        hrtimer.add_jiffy_timer(cpu, jiffy, kind, arg)
    for index, lease, sched_tags, waiters in queues:
        q = cpu.queues[index]
        q.lease += lease
        q.sched_tags += sched_tags
        for slot, pids in enumerate(waiters):
            q.waiters[slot].extend(pids)
    for data in done:
        cpu.done_list.append(Request.unpack(data))
    if done:
        cpu.irqs.append((frames.IRQ_IPI, "block", cpu.costs.ipi_handler_ns))
    if any(items):
        for index, taken in enumerate(items):
            workqueue.give_items(cpu, cpu.pools[index], taken)
        cpu.irqs.append((frames.IRQ_IPI, "work", cpu.costs.ipi_handler_ns))
    cpu.emit(tp.PRINTK, cpu.sink.intern(f"CPU {dead} is down"))


# -- Load and start -----------------------------------------------------------------------------


def load(cpu: Cpu, percent: int) -> str:
    """``cpu load N --percent P``: a pinned program that runs P % of every 10 ms; 0 removes it."""
    pid = cpu.load_pid
    p = cpu.tasks.get(pid) if pid else None
    if p is not None:
        p.run.program.set_percent(percent)
        return "done"
    if percent == 0:
        return "no load on this CPU"
    program = cpu.programs.load(percent, cpu.now)
    p = kthread.fork(
        cpu,
        kthread.late_pid(cpu),
        f"load/{cpu.node_id}",
        0,
        1 << cpu.node_id,
        program,
        kthread=False,
        figure=False,
        target=cpu.node_id,
    )
    cpu.load_pid = p.pid
    return "done"


def spawn(cpu: Cpu, words: list[Any]) -> None:
    """Start a task of the box's workloads: words = ["spawn", workload index, pid]."""
    _spawn, index, pid = words
    workload = cpu.spec.workloads[index]
    kthread.fork(
        cpu,
        pid,
        workload.name,
        workload.nice,
        workload.cpus_allowed,
        cpu.programs.make(index),
        workload.kthread,
        workload.figure,
        workload.start_cpu,
    )

