"""Messages from other nodes: what each does here when it takes effect.

Theory of operation
-------------------
One row of :data:`HANDLERS` per op, as one of :data:`~emulator.kernel.frame_ends.ENDS` per frame: both
tables name functions of every file, so nothing but :mod:`emulator.kernel.cpu` imports them.  Mail for
tasks is :mod:`emulator.kernel.mail`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    blk_mq_hctx,
    blk_mq_tag,
    blk_poll,
    blk_softirq,
    blk_timeout,
    buffered,
    command,
    core,
    cpuhp,
    cpuhp_handover,
    dio_completion,
    driver,
    fair,
    frames,
    kthread,
    late_work,
    load_balance,
    mail,
    pipe,
    rcu,
    smp,
    stop_machine,
    wq_flush,
    wq_hotplug,
    wq_unbound,
    wq_watch,
)
from emulator.kernel.process import unpack_task
from emulator.kernel.request import Request
from emulator.kernel.sched import ENQUEUE_MIGRATED, ENQUEUE_WAKEUP, WF_FORK
from emulator.types import BALANCE_NEWIDLE, BALANCE_PERIODIC, NOHZ_KICK_MASK, Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: Messages whose handling may read what other nodes published.
READING = frozenset(
    (
        messages.DIO_DONE,
        messages.COMMAND,
        messages.ADOPT,
        messages.RCU_REPORT,
        messages.PIPE_DATA,
        messages.RUN_HW_QUEUE,
        messages.TAG_FREED,
        messages.TAG_GRANT,
        messages.TAG_WAKE,
        messages.WQ_FLUSHED,
        messages.WQ_WAKE,
        messages.WQ_REBIND,
        messages.WB_WAKE,
    )
)


def handle(cpu: Cpu, message: Message) -> None:
    """Let a message take effect now."""
    if not cpu.online and cpuhp_handover.ghost(cpu, message):
        return
    HANDLERS[message[4]](cpu, message)


def handle_activate(cpu: Cpu, message: Message) -> None:
    """A task woken, pushed or started elsewhere is put on this queue by who did it."""
    pid, data, wake_flags, waker_cpu, cause = message[5]
    p = unpack_task(data, cpu.make_program)
    load_balance.arrive(cpu, p)
    cpu.cause = cause
    if not (cpu.online and p.cpus_mask >> cpu.node_id & 1):
        cpuhp_handover.redirect(cpu, p, wake_flags)
        return
    asked = cpu.rq.need_resched
    if wake_flags & WF_FORK:
        fair.update_rq_clock(cpu.rq, cpu.now)
        kthread.start_new_task(cpu, p)
    elif p.state == tp.TASK_RUNNING or p.sched_delayed:
        fair.update_rq_clock(cpu.rq, cpu.now)
        core.activate_task(cpu, p, ENQUEUE_MIGRATED)
        core.check_preempt_curr(cpu, p, 0)
        cpu.publish()
    elif smp.ttwu_queue_cond(cpu, waker_cpu):
        smp.ttwu_queue_remote(cpu, p, ENQUEUE_WAKEUP | ENQUEUE_MIGRATED)
        asked = True  # its own IPI does it
    else:
        core.ttwu_do_activate(cpu, p, ENQUEUE_WAKEUP | ENQUEUE_MIGRATED)
    core.smp_send_reschedule_here(cpu, asked)
    mail.deliver_held(cpu, pid)


def handle_attach(cpu: Cpu, message: Message) -> None:
    """Tasks that a pass moves here, and what was waiting for them."""
    load_balance.handle_attach(cpu, message)
    for pid, _data in message[5][0]:
        mail.deliver_held(cpu, pid)


def handle_detach(cpu: Cpu, message: Message) -> None:
    """A pass found this CPU the busiest: it says what may go, and lets it go."""
    load_balance.handle_detach(cpu, message)


def handle_completion(cpu: Cpu, message: Message) -> None:
    """The device's interrupt for a request that was issued here."""
    cookie, status = message[5][:2]
    if cpu.handed and cookie in cpu.handed:
        del cpu.handed[cookie]  # this CPU was offline meanwhile: its heir has completed it
        return
    cpu.irqs.append((frames.IRQ_DEVICE, [cookie, status], cpu.costs.hrtimer_ns))


def handle_nohz_kick(cpu: Cpu, message: Message) -> None:
    """The kick's IPI has arrived; a kick that is pending already needs no second one."""
    flags, cause = message[5]
    pending = cpu.nohz_flags & NOHZ_KICK_MASK
    cpu.nohz_flags |= flags
    cpu.kick_cause = cause
    if not pending:
        cpu.irqs.append((frames.IRQ_IPI, "kick", cpu.costs.ipi_handler_ns))


def handle_call(cpu: Cpu, message: Message) -> None:
    """A finished request was steered here."""
    data, cause = message[5]
    rq = Request.unpack(data)
    rq.cause = cause
    blk_softirq.steered_here(cpu, rq)


def handle_balance_pay(cpu: Cpu, message: Message) -> None:
    """The balancer goes on after this CPU has spent the time of a further pass."""
    (cost_ns,) = message[5]
    if cpu.balance_asked == BALANCE_NEWIDLE:
        cpu.answered(frames.NEWIDLE_WAIT, frames.NEWIDLE_PAY, None, cost_ns)
    else:
        cpu.answered(frames.SOFTIRQ_SCHED_WAIT, frames.SOFTIRQ_SCHED_PAY, None, cost_ns)


def handle_balance_done(cpu: Cpu, message: Message) -> None:
    """The balancer has finished what this CPU asked for: the softirq or the switch goes on."""
    kind, pulled, facts, kicked = message[5]
    cpu.balance_asked = -1
    cpu.rq.max_idle_balance_cost = facts[2]
    for target in kicked:
        cpu.emit(tp.SCHED_WAKING, kthread.stopper_pid(target), 0, target)
    if kind == BALANCE_NEWIDLE:
        cpu.answered(frames.NEWIDLE_WAIT, frames.NEWIDLE_DONE, bool(pulled))
        return
    cpu.busy_pass |= kind == BALANCE_PERIODIC
    cpu.answered(frames.SOFTIRQ_SCHED_WAIT, frames.SOFTIRQ_SCHED_DONE, None)


def handle_stop(cpu: Cpu, message: Message) -> None:
    """A failed pass has this CPU's stopper push the running task."""
    stop_machine.stop_one_cpu_nowait(cpu, message[5])


def handle_tag_grant(cpu: Cpu, message: Message) -> None:
    """The device leases more tags to this CPU."""
    blk_mq_tag.tags_granted(cpu, message)


def handle_tag_recall(cpu: Cpu, message: Message) -> None:
    """The device wants back what tags are not used here."""
    blk_mq_tag.recalled(cpu, *message[5])


def handle_tag_freed(cpu: Cpu, message: Message) -> None:
    """A request was freed elsewhere whose tag is of this CPU's lease."""
    blk_mq_tag.tag_freed(cpu, message)


def handle_tag_wake(cpu: Cpu, message: Message) -> None:
    """A tag is free, and a task that sleeps here is the next to try."""
    blk_mq_tag.tag_woken(cpu, message)


def handle_schedule(cpu: Cpu, message: Message) -> None:
    """The device announces the service time of more requests."""
    index, service_ns, count = message[5]
    driver.schedule_renewed(cpu, index, service_ns, count)


def handle_interrupt(cpu: Cpu, message: Message) -> None:
    """A device's vector is raised here."""
    index, vector, entries, polled = message[5]
    if polled == messages.POSTED:
        for data, status in entries:
            rq = Request.unpack(data)
            rq.error = status
            blk_poll.posted(cpu, rq)
        return
    driver.vector_raised(cpu, index, vector, list(entries), polled)


def handle_timeout(cpu: Cpu, message: Message) -> None:
    """The timer of a queue's requests has expired."""
    blk_timeout.raise_queue(cpu, message[5][0], timer=True)


def handle_driver_event(cpu: Cpu, message: Message) -> None:
    """A driver has something to say, or requests to be sent again."""
    blk_timeout.driver_event(cpu, *message[5])


def handle_rcu_report(cpu: Cpu, message: Message) -> None:
    """The last CPU has passed a quiescent state."""
    rcu.handle_report(cpu, message)


def handle_pipe_data(cpu: Cpu, message: Message) -> None:
    """What a task elsewhere has written to a pipe."""
    pipe.handle_data(cpu, message)


def handle_pipe_wait(cpu: Cpu, message: Message) -> None:
    """A task elsewhere sleeps until a pipe is written to."""
    pipe.handle_wait(cpu, message)


def handle_queue_work(cpu: Cpu, message: Message) -> None:
    """A work that another CPU queues on this one's pool."""
    dio_completion.queue_work_here(cpu, message)


def handle_ring_doorbells(cpu: Cpu, message: Message) -> None:
    """A period of doorbells is over: they leave for the device's log."""
    (index,) = message[5]
    driver.ring_doorbells(cpu, cpu.queues[index])


def handle_publish_domains(cpu: Cpu, message: Message) -> None:
    """The balancer has built the sched domains anew."""
    cpuhp.domains_rebuilt(cpu, message[5][0])


def handle_adopt(cpu: Cpu, message: Message) -> None:
    """What a CPU that goes down leaves to this one."""
    tasks, state = message[5]
    cpuhp_handover.adopt(cpu, tasks, state)


def handle_command(cpu: Cpu, message: Message) -> None:
    """Somebody at the box wants something of this CPU."""
    verb = message[5][0][0]
    if verb == late_work.WORKLOAD:
        late_work.handle(cpu, list(message[5][0]))
    elif verb == late_work.END_TASK:
        late_work.end_task(cpu, message[5][0][1])
    else:
        command.handle(cpu, message[5])


def handle_wb_ask(cpu: Cpu, message: Message) -> None:
    """Somebody asks the keeper of dirty pages what to write next."""
    buffered.handle_ask(cpu, message)


def handle_wb_end(cpu: Cpu, message: Message) -> None:
    """Pages are clean: the keeper of dirty pages is told."""
    buffered.handle_end(cpu, message)


def handle_wb_runs(cpu: Cpu, message: Message) -> None:
    """The answer: runs of pages to be written."""
    buffered.handle_runs(cpu, message)


def handle_wb_wake(cpu: Cpu, message: Message) -> None:
    """The pages that a task here waits for are clean."""
    buffered.handle_wake(cpu, message)


def handle_wb_write(cpu: Cpu, message: Message) -> None:
    """Somebody has written into the page cache: the keeper of dirty pages is told."""
    buffered.handle_write(cpu, message)


def handle_wb_written(cpu: Cpu, message: Message) -> None:
    """The answer: how a writer goes on."""
    buffered.handle_written(cpu, message)


HANDLERS: dict[int, Callable[[Cpu, Message], None]] = {
    messages.ACTIVATE: handle_activate,
    messages.ADOPT: handle_adopt,
    messages.ATTACH: handle_attach,
    messages.BALANCE_DONE: handle_balance_done,
    messages.BALANCE_PAY: handle_balance_pay,
    messages.CALL_COMPLETE: handle_call,
    messages.COMMAND: handle_command,
    messages.COMPLETION: handle_completion,
    messages.DRIVER_EVENT: handle_driver_event,
    messages.INTERRUPT: handle_interrupt,
    messages.TAG_FREED: handle_tag_freed,
    messages.TAG_RECALL: handle_tag_recall,
    messages.TIMEOUT: handle_timeout,
    messages.DETACH: handle_detach,
    messages.DIO_DONE: mail.handle_dio_done,
    messages.NOHZ_KICK: handle_nohz_kick,
    messages.POLL_ENTRY: blk_poll.handle_entry,
    messages.PIPE_DATA: handle_pipe_data,
    messages.PIPE_WAIT: handle_pipe_wait,
    messages.PUBLISH_DOMAINS: handle_publish_domains,
    messages.QUEUE_WORK: handle_queue_work,
    messages.RCU_REPORT: handle_rcu_report,
    messages.RING_DOORBELLS: handle_ring_doorbells,
    messages.RUN_HW_QUEUE: blk_mq_hctx.run_hw_queue_here,
    messages.SCHEDULE: handle_schedule,
    messages.STOP: handle_stop,
    messages.TAG_GRANT: handle_tag_grant,
    messages.TAG_WAKE: handle_tag_wake,
    messages.WQ_QUEUED: wq_unbound.handle_queued,
    messages.WQ_FLUSH: wq_flush.handle_flush,
    messages.WQ_FLUSHED: wq_flush.handle_flushed,
    messages.WQ_FETCH: wq_hotplug.handle_fetch,
    messages.WQ_REBIND: wq_hotplug.handle_rebind,
    messages.WQ_STALLED: wq_watch.handle_stalled,
    messages.WQ_WATCH: wq_watch.handle_watch,
    messages.WQ_WAKE: wq_unbound.handle_wake,
    messages.WQ_WORK: wq_unbound.handle_work,
    messages.WB_ASK: handle_wb_ask,
    messages.WB_END: handle_wb_end,
    messages.WB_RUNS: handle_wb_runs,
    messages.WB_WAKE: handle_wb_wake,
    messages.WB_WRITE: handle_wb_write,
    messages.WB_WRITTEN: handle_wb_written,
}
