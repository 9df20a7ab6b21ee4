"""Messages from other nodes: what each does here when it takes effect.

Mail for a task (an IO of it is complete) goes to the CPU where its sender believes it to be, stamped
with the residence believed in.  Here it finds the task, or finds that it has left (it is forwarded
along the way that the task took), or that it has not arrived yet (it waits, and is delivered right
after the task).  While the task runs, its mail stays in the mailbox until something looks: the ring
is read by ``io_getevents()``, the inode's count by an unaligned write.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator import messages
from emulator.kernel import (
    blk_mq,
    command,
    core,
    cpuhp,
    fair,
    frames,
    iomap,
    kthread,
    load_balance,
    placement,
    smp,
    stop_machine,
)
from emulator.kernel.request import Request
from emulator.kernel.process import unpack_task
from emulator.kernel.sched import ENQUEUE_MIGRATED, ENQUEUE_WAKEUP, WF_FORK
from emulator.types import BALANCE_NEWIDLE, BALANCE_PERIODIC, Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: Messages whose handling may read what other nodes published.
READING = frozenset((messages.DIO_DONE, messages.COMMAND, messages.ADOPT))

#: Messages that are interrupts: whoever is sent one has something to execute.
INTERRUPTING = frozenset((messages.NOHZ_KICK, messages.CALL_COMPLETE))


def handle(cpu: Cpu, message: Message) -> None:
    """Let a message take effect now."""
    op = message[4]
    args = message[5]
    if not cpu.online and cpuhp.ghost(cpu, message):
        return
    if op == messages.COMPLETION:
        if cpu.handed and args[0] in cpu.handed:
            del cpu.handed[args[0]]  # this CPU was offline meanwhile: its heir has completed it
            return
        cpu.irqs.append((frames.IRQ_DEVICE, [args[0], args[1]], cpu.costs.hrtimer_ns))
    elif op == messages.ACTIVATE:
        handle_activate(cpu, args)
    elif op == messages.DIO_DONE:
        handle_dio_done(cpu, message)
    elif op == messages.DETACH:
        load_balance.handle_detach(cpu, message)
    elif op == messages.ATTACH:
        load_balance.handle_attach(cpu, message)
        for _pid, _data in args[0]:
            deliver_held(cpu, _pid)
    elif op == messages.BALANCE_DONE:
        handle_balance_done(cpu, args)
    elif op == messages.BALANCE_PAY:
        handle_balance_pay(cpu, args[0])
    elif op == messages.NOHZ_KICK:
        handle_nohz_kick(cpu, args)
    elif op == messages.STOP:
        stop_machine.stop_one_cpu_nowait(cpu, args)
    elif op == messages.CALL_COMPLETE:
        handle_call(cpu, args)
    elif op == messages.TAG_GRANT:
        blk_mq.tags_granted(cpu, args[0], args[1])
    elif op == messages.SCHEDULE:
        blk_mq.schedule_renewed(cpu, args[0], args[1], args[2])
    elif op == messages.RING_DOORBELLS:
        blk_mq.ring_doorbells(cpu, cpu.queues[args[0]])
    elif op == messages.PUBLISH_DOMAINS:
        cpuhp.domains_rebuilt(cpu, args[0])
    elif op == messages.ADOPT:
        cpuhp.adopt(cpu, args[0], args[1])
    else:
        assert op == messages.COMMAND, cpu.story(f"unknown message {message}")
        command.handle(cpu, args)


def drain(cpu: Cpu) -> None:
    """Take all mail that has arrived by now out of the mailbox."""
    while cpu.mail and cpu.mail[0][0] <= cpu.now:
        handle(cpu, heapq.heappop(cpu.mail))


def handle_dio_done(cpu: Cpu, message: Message) -> None:
    """An IO is complete whose task is, was, or will be here."""
    args = message[5]
    pid, moves = args[0], args[1]
    owner = cpu.tasks.get(pid)
    if owner is not None:
        if owner.on_cpu and not owner.on_rq:
            cpu.deferred.append(message)  # its waker would spin until the switch is over
            return
        owner.run.remote_ios -= 1
        assert owner.run.remote_ios >= 0, cpu.story(f"unexpected mail {message}")
        if args[3] < 0:
            iomap.sync_done(cpu, owner, (args[5], args[6]))
        else:
            iomap.dio_done_mail(cpu, owner, args)
        return
    where = cpu.forward.get(pid)
    if where is not None and where[0] > moves:
        cpu.unexpect(pid)
        cpu.send_mail(where[1], messages.DIO_DONE, (pid, where[0], *args[2:]), message[0])
    else:
        cpu.held.setdefault(pid, []).append(message)


def deliver_held(cpu: Cpu, pid: int) -> None:
    """Deliver what waited for a task that has just arrived."""
    for message in cpu.held.pop(pid, ()):
        handle(cpu, message)


def handle_activate(cpu: Cpu, args: tuple[Any, ...]) -> None:
    """A task woken, pushed or started elsewhere is put on this queue by who did it."""
    pid, data, wake_flags, waker_cpu, cause = args
    p = unpack_task(data, cpu.make_program)
    load_balance.arrive(cpu, p)
    cpu.cause = cause
    if not (cpu.online and p.cpus_mask >> cpu.node_id & 1):
        cpuhp.redirect(cpu, p, wake_flags)
        return
    asked = cpu.rq.need_resched
    if wake_flags & WF_FORK:
        fair.update_rq_clock(cpu.rq, cpu.now)
        kthread.start_new_task(cpu, p)
    elif p.state == tp.TASK_RUNNING:
        fair.update_rq_clock(cpu.rq, cpu.now)
        core.activate_task(cpu, p, ENQUEUE_MIGRATED)
        core.check_preempt_curr(cpu, p, 0)
        cpu.publish()
    elif cpu.ttwu_queue and not placement.shares_cache(cpu, waker_cpu, cpu.node_id):
        smp.ttwu_queue_remote(cpu, p)
    else:
        core.ttwu_do_activate(cpu, p, ENQUEUE_WAKEUP | ENQUEUE_MIGRATED)
    core.smp_send_reschedule_here(cpu, asked)
    deliver_held(cpu, pid)


def handle_nohz_kick(cpu: Cpu, args: tuple[Any, ...]) -> None:
    """The kick's IPI has arrived; a kick that is pending already needs no second one."""
    flags, cause = args
    pending = cpu.nohz_flags
    cpu.nohz_flags |= flags
    cpu.kick_cause = cause
    if not pending:
        cpu.irqs.append((frames.IRQ_IPI, "kick", cpu.costs.ipi_handler_ns))


def handle_call(cpu: Cpu, args: tuple[Any, ...]) -> None:
    """A finished request was steered here: one IPI unless the call queue holds another already."""
    rq = Request.unpack(args[0])
    rq.cause = args[1]
    cpu.call_done.append(rq)
    if len(cpu.call_done) == 1:
        cpu.irqs.append((frames.IRQ_IPI, "call", cpu.costs.ipi_handler_ns))


def handle_balance_pay(cpu: Cpu, cost_ns: int) -> None:
    """The balancer goes on after this CPU has spent the time of a further pass."""
    if cpu.balance_asked == BALANCE_NEWIDLE:
        cpu.answered(frames.NEWIDLE_WAIT, frames.NEWIDLE_PAY, None, cost_ns)
    else:
        cpu.answered(frames.SOFTIRQ_SCHED_WAIT, frames.SOFTIRQ_SCHED_PAY, None, cost_ns)


def handle_balance_done(cpu: Cpu, args: tuple[Any, ...]) -> None:
    """The balancer has finished what this CPU asked for: the softirq or the switch goes on."""
    kind, pulled = args[0], args[1]
    cpu.balance_asked = -1
    for target in args[3] if len(args) > 3 else ():
        cpu.emit(tp.SCHED_WAKING, kthread.stopper_pid(target), 0, target)
    if kind == BALANCE_NEWIDLE:
        cpu.answered(frames.NEWIDLE_WAIT, frames.NEWIDLE_DONE, bool(pulled))
        return
    cpu.busy_pass |= kind == BALANCE_PERIODIC
    cpu.answered(frames.SOFTIRQ_SCHED_WAIT, frames.SOFTIRQ_SCHED_DONE, None)
