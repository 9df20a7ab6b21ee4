"""What a CPU that goes offline leaves behind, and who takes it over: the dead callbacks, v5.4.

The steps around this, and what departs from the kernel, are :mod:`cpuhp`'s.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    affinity,
    blk_mq,
    blk_mq_tag,
    core,
    cpuhp,
    driver,
    frames,
    holdings,
    hrtimer,
    irq_thread,
    load_balance,
    mail,
    softirq,
    wq_hotplug,
)
from emulator.kernel.process import MAIL_WAITS, unpack_task
from emulator.kernel.request import Request
from emulator.kernel.sched import Task
from emulator.tags import FREED, LEASED
from emulator.types import STOP_ABORTED, Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: Messages to a CPU that is offline that its heir acts on in its place.
PASSED_ON = (
    *(messages.ADOPT, messages.INTERRUPT, messages.DRIVER_EVENT, messages.TIMEOUT),
    messages.RUN_HW_QUEUE,
)


# -- Leaving ----------------------------------------------------------------------------------------


def hand_over(cpu: Cpu) -> None:
    """Give the heir everything that is left: sleepers, timers, requests, work, finished requests."""
    target = cpuhp.heir(cpu)
    assert target >= 0, cpu.story("the last CPU dies")
    cpu.adopter = target
    effect_ns = cpu.now + cpu.costs.ipi_ns
    sleepers = [p for p in cpu.tasks.values() if not cpuhp.is_own_thread(cpu, p)]
    for p in sleepers:
        cpu.rq.fair.migrate_task_rq(cpu.rq, p, True)
        cpu.depart(p, target, effect_ns)
    for rq, _tagged in holdings.all_requests(cpu):
        readdress(cpu, rq)
    completions = take_completions(cpu)
    for irq in cpu.irqs:
        if irq[0] == frames.IRQ_VECTOR:
            pass_on(cpu, target, messages.INTERRUPT, tuple(irq[1]))
    for interrupt in irq_thread.take_unhandled(cpu):
        pass_on(cpu, target, messages.INTERRUPT, interrupt)
    wq_hotplug.park_rescuers(cpu)
    done = [*cpu.done_list, *cpu.call_done]
    queues = [take_queue(cpu, index, target) for index in range(len(cpu.queues))]
    state = [
        cpu.node_id,
        completions,
        [rq.pack() for rq in cpu.inflight.values()],
        [[t[0], t[2], t[3]] for t in sorted(cpu.timers, key=lambda t: t[:2]) if outlives(cpu, t)],
        [[t[0], t[2], t[3]] for t in cpu.jiffy_timers],
        [rq.pack() for rq in done],
        queues,
    ]
    forget(cpu)
    tasks = [[p.pid, p] for p in sleepers]
    cpu.send(target, messages.ADOPT, (tasks, state), effect_ns, cpuhp.reply_ns(cpu))


def forget(cpu: Cpu) -> None:
    """Nothing of what was handed over is left here."""
    for box in (cpu.inflight, cpu.timers, cpu.jiffy_timers, cpu.done_list, cpu.call_done, cpu.irqs):
        box.clear()
    cpu.rq.rt.period_active = False  # its timer is gone
    cpu.ipis = 0
    cpu.softirq_pending = 0
    cpu.nohz_flags = 0


def outlives(cpu: Cpu, timer: tuple[int, int, int, Any]) -> bool:
    """Whether a timer is of use to the heir: an IPI to this CPU or a sleep of its threads is not."""
    kind, arg = timer[2], timer[3]
    return kind == hrtimer.TIMER_REQUEST or (
        kind == hrtimer.TIMER_SLEEP and arg[0] not in cpu.tasks
    )


def take_completions(cpu: Cpu) -> list[list[int]]:
    """Take the completions to come, whose timers move with the dead CPU's, and those that wait.

    What the device sends for a request that it was asked about is then of no use here.
    """
    announced = [m for m in cpu.inbox if m[4] == messages.COMPLETION and len(m[5]) > 2]
    cpu.inbox[:] = sorted(m for m in cpu.inbox if m not in announced)
    known = {message[5][0] for message in announced}
    pending = {irq[1][0]: irq[1][1] for irq in cpu.irqs if irq[0] == frames.IRQ_DEVICE}
    completions: list[list[int]] = []
    for cookie, rq in cpu.inflight.items():
        done_ns = cpu.now if cookie in pending else rq.done_ns
        completions.append([done_ns, cookie, pending.get(cookie, 0)])
        if cookie not in known and cookie not in pending:
            cpu.handed[cookie] = cpu.adopter
    return completions


def take_queue(cpu: Cpu, index: int, target: int) -> list[Any]:
    """Take what this CPU has of a disk's queue; its free tags go back to the device."""
    q = cpu.queues[index]
    driver.ring_doorbells(cpu, q)
    busy = q.waiting()
    q.busy, q.ctx_list = [], []
    q.issuing = q.direct = None
    waiting = q.elevator.drain() if q.elevator is not None else []
    moved = 0
    if q.elevator is not None:
        for rq in (*busy, *waiting):
            if rq.ctx_cpu == cpu.node_id:
                rq.ctx_cpu = target  # its scheduler tag with it
                moved += 1
    blk_mq_tag.return_tags(cpu, q, q.lease, cpu.node_id)
    cpuhp.tell_device(cpu, q, 0)
    state = [
        [rq.pack() for rq in busy],
        [rq.pack() for rq in waiting],
        moved,
        q.sbq.take(),
    ]
    q.allocated -= moved
    q.lease = 0
    q.tag_mode = LEASED
    q.tag_asked = q.run_queued = q.restart = q.delayed = False
    return state


def readdress(cpu: Cpu, rq: Request) -> None:
    """Let the end of a request be told where its owner went from here, not to this dead CPU."""
    moves, target = cpu.forward.get(rq.pid, (-1, -1))
    if moves > rq.moves:
        rq.home = target


# -- The ghost --------------------------------------------------------------------------------------


def ghost(cpu: Cpu, message: Message) -> bool:
    """Send on what came for a CPU that is offline; False: it is handled as if it were online."""
    op, args = message[4], message[5]
    if op == messages.ATTACH:
        for _pid, data in args[0]:
            p = unpack_task(data, cpu.make_program)
            load_balance.arrive(cpu, p)
            redirect(cpu, p, 0)
    elif op == messages.CALL_COMPLETE:
        rq = Request.unpack(args[0])
        readdress(cpu, rq)
        pass_on(cpu, cpu.adopter, op, (rq.pack(), *args[1:]))
    elif op in PASSED_ON:
        pass_on(cpu, cpu.adopter, op, args)
    elif op == messages.TAG_GRANT:
        blk_mq_tag.return_tags(cpu, cpu.queues[args[0]], args[1], cpu.node_id)
    elif op == messages.TAG_FREED:
        index, _waker_pid, _cause, nr, request = args
        cpu.queues[index].allocated -= request
        if nr:
            blk_mq_tag.return_tags(cpu, cpu.queues[index], nr, cpu.node_id, FREED)
    elif op == messages.STOP:
        stop_aborted(cpu, args[0])
    elif op != messages.NOHZ_KICK:
        return False
    return True


def pass_on(cpu: Cpu, target: int, op: int, args: tuple[Any, ...]) -> None:
    """Send a message on to another CPU."""
    cpu.send(target, op, args, cpu.now + cpu.costs.ipi_ns, cpuhp.reply_ns(cpu))


def redirect(cpu: Cpu, p: Task, wake_flags: int) -> None:
    """A task arrives at a CPU that has gone meanwhile: it goes on to where it may run."""
    target = affinity.select_fallback_rq(cpu, p, cpu.node_id)
    p.run.cause = cpu.emit(
        tp.SCHED_MIGRATE_TASK, p.pid, p.prio, cpu.node_id, target, tp.MIGRATE_HOTPLUG
    )
    p.nr_migrations += 1
    p.cpu = p.wake_cpu = target
    core.send_task(cpu, p, target, cpu.now + cpu.costs.ipi_ns, wake_flags, cpu.node_id)
    mail.deliver_held(cpu, p.pid)


def stop_aborted(cpu: Cpu, push_cpu: int) -> None:
    """``cpu_stop_queue_work()`` of a stopper that is parked: the work is not done."""
    cpu.send(
        cpu.bal_node,
        messages.STOPPED,
        (push_cpu, STOP_ABORTED, 0),
        cpu.now + cpu.costs.request_ns,
        cpu.costs.coherence_ns,
    )


# -- Taking over ------------------------------------------------------------------------------------


def adopt(cpu: Cpu, tasks: list[list[Any]], state: list[Any]) -> None:
    """Take over what a dead CPU left (at the CPU that runs the dead callbacks)."""
    dead, completions, requests, timers, wheel, done, queues = state
    cpu.adopted = True
    cpu.emit(tp.PRINTK, cpu.sink.intern(f"smpboot: CPU {dead} is now offline"))
    for data in requests:
        rq = Request.unpack(data)
        cpu.inflight[rq.cookie] = rq
    for done_ns, cookie, status in completions:
        stamp = max(done_ns, cpu.now)
        completion = driver.announced_completion(cpu, stamp, cpu.inflight[cookie], status)
        heapq.heappush(cpu.inbox, completion)
        cpu.timer_armed(stamp)
    for expiry, kind, arg in timers:
        cpu.add_timer(max(expiry, cpu.now), kind, arg)
    for jiffy, kind, arg in wheel:
        hrtimer.add_jiffy_timer(cpu, jiffy, kind, arg)
    cpu.done_list += [Request.unpack(data) for data in done]
    cpu.irqs.append((frames.IRQ_IPI, "adopt", cpu.costs.ipi_handler_ns))
    for _pid, data in tasks:
        adopt_sleeper(cpu, unpack_task(data, cpu.make_program))
    for index, queue in enumerate(queues):
        give_queue(cpu, index, queue)


def adopt_sleeper(cpu: Cpu, p: Task) -> None:
    """Own a sleeping task; where it last ran stays as it was."""
    load_balance.arrive(cpu, p)
    if not cpu.rq.rules.eevdf:
        p.vruntime += cpu.rq.cfs.min_vruntime  # it was made relative when it left
    if p.run.wait in MAIL_WAITS and p.run.remote_ios:
        cpu.mail_sleepers[p.pid] = 1
    mail.deliver_held(cpu, p.pid)


def give_queue(cpu: Cpu, index: int, state: list[Any]) -> None:
    """Take over a dead CPU's part of a disk's queue (``blk_mq_hctx_notify_dead()``)."""
    busy, waiting, allocated, waiters = state
    q = cpu.queues[index]
    q.allocated += allocated
    q.busy += [Request.unpack(data) for data in busy]
    for data in waiting:
        assert q.elevator is not None
        q.elevator.insert(Request.unpack(data), cpu.now)
    blk_mq_tag.adopt_waiters(cpu, q, waiters)


def adopted(cpu: Cpu) -> None:
    """In the interrupt that tells of a dead CPU: start what it left pending."""
    if cpu.done_list:
        softirq.raise_softirq(cpu, softirq.BLOCK)
    for q in cpu.queues:
        blk_mq.run_hw_queue_async(cpu, q)
