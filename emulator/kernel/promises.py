"""What a CPU promises: how long it will leave the others alone.

Theory of operation
-------------------
Every promise is a lower bound, from the state now, on what this CPU does *if it receives nothing*.
What can reach another node comes from few places: the placement of a movable task, a tick that may
kick an idle CPU, a reschedule that may go idle and ask the balancer, an interrupt that steers a
request elsewhere.  While none of them is near, the promise reaches further than the next event; that
is what makes windows long.  Each function below bounds one of these places; what it cannot bound it
answers with the next event.

A bound may count on a cost only if nothing can make the way shorter; interrupts only lengthen it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import messages
from emulator.kernel import blk_mq_hctx, frames, hrtimer, softirq
from emulator.kernel.process import MAIL_WAITS, WAIT_TAG
from emulator.kernel.sched import PF_WQ_WORKER, Task
from emulator.kernel.wq_table import UNBOUND_BASE
from emulator.tags import SHARED
from emulator.types import NEVER, SCHEDULE_REQUESTS, Costs, Promise

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: Frames at whose end something may be sent at once.
SENDING = frozenset(
    (
        frames.SCHEDULE,
        frames.NEWIDLE,
        frames.NEWIDLE_DONE,
        frames.NEWIDLE_PAY,
        frames.TTWU_SELECT,
        frames.IRQ_TICK,
        frames.IRQ_IPI,
        frames.IRQ_HRTIMER,
        frames.SOFTIRQ_TIMER,
        frames.SOFTIRQ_SCHED,
        frames.SOFTIRQ_SCHED_PAY,
        frames.SOFTIRQ_RCU,
        frames.STOPPER,
        frames.STOPPER_TAIL,
        frames.STOPPER_WORK,
        frames.GET_TAG,
        frames.TAG_ANSWERED,
        frames.RW_PREP,
        frames.RW_EXIT,
        frames.NANOSLEEP,
        frames.KSOFTIRQD,
        frames.WORKER_CREATE,
        frames.EXEC,
        frames.PIPE_READ,
        frames.PIPE_WRITE,
        frames.PIPE_WRITTEN,
        frames.PIPE_SELECT,
        frames.SETAFFINITY,
        frames.WQ_ANSWER,
        frames.WQ_SELECT,
        frames.IRQ_VECTOR,
        frames.IRQ_THREAD,
        frames.IRQ_THREAD_FN,
        frames.IRQ_THREAD_BH,
        frames.IRQ_QUEUE,
        frames.POLL_LOOK,
        frames.POLL_SPIN,
        frames.POLL_END,
        frames.POLL_ENDED,
    )
)
#: Frames of a submitter's system calls: what comes after them is its program's to bound.
SUBMITTING = frozenset(
    (
        frames.USER,
        frames.RET_USER,
        frames.SUBMIT_PREP,
        frames.DISPATCH,
        frames.DISPATCHED,
        frames.SUBMIT_EXIT,
        frames.GETEVENTS,
    )
)
#: Those of them that no io_submit() is under way in.
PREPARING = frozenset((frames.USER, frames.RET_USER, frames.GETEVENTS))
#: Frames of a worker: how many items it has bounds when it sleeps.
WORKING = frozenset((frames.WORK_BODY, frames.WORK_TAIL, frames.WORK_NEXT, frames.WORKER_START))
#: Messages to come that make no other CPU nor the balancer feel anything by themselves.
QUIET_MESSAGES = frozenset((messages.COMPLETION, messages.RING_DOORBELLS, messages.SCHEDULE))
#: Messages to come that may be answered to a device at once.
DEVICE_ANSWERS = frozenset(
    (messages.TAG_RECALL, messages.TAG_GRANT, messages.TAG_FREED, messages.TAG_WAKE)
)
#: Frames on the way to the halt.
IDLING = frozenset((frames.HALT, frames.IDLE_ENTRY))


def promise(cpu: Cpu) -> Promise:
    """Return the promise of a CPU."""
    soonest = cpu.next_event_ns()
    to_cpu = to_balancer = soonest
    mail = mail_ns(cpu, soonest)
    if soonest < NEVER and not cpu.modules and quiet_frames(cpu):
        to_cpu, to_balancer = soonest_sends(cpu, soonest)
    to_device = device_sends(cpu, soonest)
    send_ns = [to_cpu, to_device, to_balancer]
    return Promise(cpu.reached_ns, soonest, send_ns, mail, cpu.wants_view, halted=halted(cpu))


def halted(cpu: Cpu) -> bool:
    """Whether the CPU halts, and all that it has to do by itself is to ring doorbells."""
    if cpu.f_kind != frames.HALT or cpu.irqs or cpu.timers or cpu.tick_at < NEVER:
        return False
    return all(message[4] == messages.RING_DOORBELLS for message in cpu.inbox)


def quiet_frames(cpu: Cpu) -> bool:
    """Whether nothing that is being executed now sends by itself."""
    if cpu.buffered or cpu.waking or cpu.stop_works or cpu.deferred or cpu.asked is not None:
        return False
    pending = cpu.softirq_pending | cpu.sirq_mask
    if pending >> softirq.RCU & 1 and cpu.rcu.driven:
        return False
    if pending >> softirq.SCHED & 1 or (pending >> softirq.TIMER & 1 and cpu.jiffy_timers):
        return False
    if pending >> softirq.TIMER & 1 and cpu.jiffies() >= cpu.wq_cull_at:
        return False
    if cpu.f_kind in SENDING:
        return False
    return all(frame[0] not in SENDING for frame in cpu.stack)


def soonest_sends(cpu: Cpu, soonest: int) -> tuple[int, int]:
    """Return the earliest sends to another CPU and to the balancer."""
    costs = cpu.costs
    to_cpu = to_balancer = NEVER
    if cpu.tick_at < NEVER:
        to_cpu = cpu.tick_at + costs.tick_ns
        to_balancer = to_cpu + costs.softirq_ns + (0 if cpu.nohz_flags else costs.nohz_cpu_ns)
    if cpu.timers:
        # A sleeper is woken: placed, or switched to here.  An interrupt that is under way may serve it.
        soonest_timer = min(timer_sends(cpu) + costs.hrtimer_ns, NEVER)
        to_cpu = min(to_cpu, soonest_timer)
        to_balancer = min(to_balancer, soonest_timer)
    for message in cpu.inbox:
        if message[4] not in QUIET_MESSAGES:
            to_cpu = min(to_cpu, message[0])
            to_balancer = min(to_balancer, message[0])
    if cpu.completion is not None and cpu.completion.remote:
        to_cpu = min(to_cpu, works_leave(cpu, soonest))
    if any(q.hctx_mask and blk_mq_hctx.may_leave(q, soonest) for q in cpu.queues):
        to_cpu = min(to_cpu, soonest)
    completes = completion_sends(cpu, soonest)
    blocks = blocks_ns(cpu, soonest)
    to_cpu = min(to_cpu, completes, blocks)
    to_balancer = min(to_balancer, completes, blocks)
    return max(to_cpu, soonest), max(to_balancer, soonest)


def device_sends(cpu: Cpu, soonest: int) -> int:
    """Return the earliest send to a device: how many requests can do without one, and their time."""
    if soonest >= NEVER or not cpu.queues or cpu.shared_node >= 0:
        return soonest
    if not cpu.online or cpu.going_down or cpu.flushes or returns_tags(cpu):
        return soonest
    if any(p.run.wait == WAIT_TAG for p in cpu.tasks.values()):
        return soonest  # whoever is woken takes its tag without any more work
    if any(message[4] in DEVICE_ANSWERS for message in cpu.inbox):
        return soonest
    least = NEVER
    costs = cpu.costs
    for q in cpu.queues:
        if q.carries or q.tag_mode == SHARED or q.restart:
            return soonest
        # Tags are taken at dispatch with an elevator, at submission without.
        step_ns = q.dispatch_ns
        if q.elevator is None:
            step_ns = min(costs.io_submit_ns, costs.io_submit_more_ns)
        lease = max(q.lease, 3) if q.tag_asked else q.lease
        least = min(least, (lease - 2) * step_ns)
        if not q.asks or q.announced >= NEVER:
            continue
        left = q.announced if q.schedule_asked else q.announced - SCHEDULE_REQUESTS // 2 - 1
        least = min(least, left * q.dispatch_ns)
    return soonest + max(least, 0) if least < NEVER else NEVER


def returns_tags(cpu: Cpu) -> bool:
    """Whether an IO that another CPU submitted may end here: its tags go back to that, or the device."""
    here = cpu.node_id
    under_way = (cpu.sirq_block, cpu.done_list, cpu.call_done)
    if any(rq.tag_cpu != here or rq.ctx_cpu != here for box in under_way for rq in box):
        return True
    if not cpu.adopted:
        return False
    foreign = any(rq.tag_cpu != here or rq.ctx_cpu != here for rq in cpu.inflight.values())
    return foreign or any(q.has_work() for q in cpu.queues)


def timer_sends(cpu: Cpu) -> int:
    """Return the earliest hrtimer: it may wake a task that is then placed."""
    return min(
        (timer[0] for timer in cpu.timers if timer[2] != hrtimer.TIMER_REQUEST), default=NEVER
    )


def completion_sends(cpu: Cpu, soonest: int) -> int:
    """Return when the completion of an IO may make this CPU send.

    An IO that nobody here waits for only queues work for a bound worker; on an idle CPU that worker
    runs, and the CPU then goes idle again.
    """
    under_way = completes_now(cpu)
    waited_for = False
    for p in cpu.tasks.values():
        if p.run.wait in MAIL_WAITS or p.run.wait == WAIT_TAG:
            waited_for = True
            break
    steered = any(q.rq_affinity != 1 or q.carries for q in cpu.queues) or not cpu.llc_mask
    idling = cpu.rq.curr is cpu.rq.idle
    working = bool(cpu.pools[0].worklist or cpu.pools[1].worklist or cpu.pools[0].executing)
    if waited_for and (working or under_way):
        return soonest
    if not (waited_for or steered or idling or returns_tags(cpu)):
        return NEVER
    if under_way or returns_tags(cpu):
        return soonest
    first = min((m[0] for m in cpu.inbox if m[4] == messages.COMPLETION), default=NEVER)
    return first + cpu.costs.hrtimer_ns if first < NEVER else NEVER


def completes_now(cpu: Cpu) -> bool:
    """Whether the completion of an IO is under way here."""
    return bool(
        cpu.irqs
        or cpu.done_list
        or cpu.sirq_block
        or cpu.call_done
        or cpu.softirq_pending
        or any(thread.entries for thread in cpu.irq_threads.values())
        or cpu.f_kind == frames.IRQ_DEVICE
        or any(frame[0] == frames.IRQ_DEVICE for frame in cpu.stack)
    )


def works_leave(cpu: Cpu, soonest: int) -> int:
    """Return when a completion policy may send a work to another CPU's pool.

    A request that is not with the device yet is there at ``soonest`` at the earliest, and takes its
    time.
    """
    if completes_now(cpu):
        return soonest
    service_ns = min((q.service_ns for q in cpu.queues), default=0)
    if not service_ns or cpu.handed or cpu.adopted:
        return soonest
    first = min((m[0] for m in cpu.inbox if m[4] == messages.COMPLETION), default=NEVER)
    timers = min((t[0] for t in cpu.timers if t[2] == hrtimer.TIMER_REQUEST), default=NEVER)
    return min(first, timers, soonest + service_ns) + cpu.costs.hardirq_ns


def blocks_ns(cpu: Cpu, soonest: int) -> int:
    """Return the earliest time at which the current task may block, exit or wake somebody."""
    rq = cpu.rq
    curr = rq.curr
    kind = cpu.stack[0][0] if cpu.stack else cpu.f_kind
    if curr is rq.idle:
        return NEVER if kind in IDLING and not rq.need_resched else soonest
    if rq.need_resched:
        return soonest
    if curr.flags & PF_WQ_WORKER:
        return worker_sleeps_ns(cpu, kind, soonest)
    if curr.run.program is None or kind not in SUBMITTING:
        return soonest
    return submitter_blocks_ns(cpu, curr, kind, soonest)


def worker_sleeps_ns(cpu: Cpu, kind: int, soonest: int) -> int:
    """Return when a worker may go to sleep: it has its items to work off first.

    Whom the items wake is :func:`completion_sends`'s to say.
    """
    if kind not in WORKING or cpu.modules or cpu.rq.curr.run.worker >= UNBOUND_BASE:
        return soonest
    if cpu.xfs_log.used or cpu.rq.curr.run.worker == 1:
        return (
            soonest  # transactions and syncs sleep; kblockd's and the log's items wake and dispatch
        )
    costs = cpu.costs
    items = len(cpu.pools[cpu.rq.curr.run.worker].worklist)
    each = costs.dio_complete_ns + costs.dio_tail_ns
    return max(soonest, cpu.now + items * each) + costs.worker_sleep_ns


def submitter_blocks_ns(cpu: Cpu, p: Task, kind: int, soonest: int) -> int:
    """Return when a program that does AIO, or only computes, may block."""
    run = p.run
    assert run.program is not None
    if cpu.xfs_log.used or run.uring is not None:
        return soonest  # transactions may wait for space in the log
    if cpu.expect or any(q.lease < 4 or not q.announced for q in cpu.queues):
        return soonest
    ctx = run.ctx
    events = len(ctx.ring) if ctx is not None else 0
    if kind == frames.GETEVENTS:
        argument = cpu.stack[0][2] if cpu.stack else cpu.f_arg
        if events < argument[1]:
            return soonest
        events -= argument[1]
    zeroes = any(
        file in run.dio_count and facts.serialises and facts.block_size > 512
        for file, facts in cpu.files.items()
    )
    if zeroes and run.submit and unaligned_submit(cpu, p):
        return soonest
    if kind in PREPARING and (run.unaligned or (ctx is not None and not run.dio_count)):
        # Its next io_submit() may wait, as the last one did, or nobody knows yet.
        return soonest + cpu.costs.io_submit_ns
    quiet: int = run.program.quiet_ns(events)
    return max(soonest, cpu.now + quiet)


def unaligned_submit(cpu: Cpu, p: Task) -> bool:
    """Whether the io_submit() under way has a write that waits for the inode's IO."""
    return any(
        cpu.files[file].serialises and (offset | length) % cpu.files[file].block_size
        for _data, _rw, file, offset, length in p.run.submit[0]
    )


def mail_ns(cpu: Cpu, soonest: int) -> int:
    """Return the earliest time at which mail could make this CPU send."""
    if cpu.mail_sleepers or cpu.expect:
        return cpu.reached_ns
    for p in cpu.tasks.values():
        if p.run.remote_ios:
            if p is cpu.rq.curr and quiet_frames(cpu):
                return max(soonest, blocks_ns(cpu, soonest))
            return soonest
    return NEVER


def wake_reply_ns(costs: Costs) -> tuple[int, int]:
    """Return how soon a task enqueued elsewhere can make itself felt: on a CPU at work, asleep.

    At work it must be switched to and block again; asleep an IPI and the idle exit come first, and
    the tick that the exit restarts may come before the switch.
    """
    interrupt_ns = costs.ipi_ns + costs.hardirq_ns + costs.ipi_handler_ns
    at_work = min(costs.ipi_ns, costs.context_switch_ns)
    return at_work, interrupt_ns + min(costs.idle_exit_ns + costs.context_switch_ns, costs.tick_ns)
