"""Tags of requests: ``block/blk-mq-tag.c``, v5.4 and later (A.3).

Theory of operation
-------------------
A CPU takes driver tags from its lease and asks the device for more in time (:mod:`emulator.tags`).
If it has none it stands still until the device has answered (the frame ``TAG_ASKED``): then no tag is
free anywhere.  The hardware queue is run in the submitter, and if that helps nobody the task sleeps,
plug flushed: in this CPU's wait queues while all tags are its own (:data:`~emulator.tags.ALONE`), else
in the device's.  Woken, it tries again for the CPU on which it then runs; its tag is not kept for it.
Whoever frees a tag wakes: a request that ended elsewhere gives its tag back to the CPU that took it,
or to the device while the tags are shared.

With an elevator tasks wait for scheduler tags, and a request that lacks a driver tag leaves
SCHED_RESTART behind: the next free, or the device's next grant, runs the queue.

Departures from the kernel: scheduler tags are counted per CPU, that of a request's ctx.  While tags are shared each costs a
question and its answer; a waiter is woken by its own CPU on behalf of the one that freed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import aio, blk_mq, core, frames, smp
from emulator.kernel.blk_queue import BlockQueue
from emulator.kernel.process import WAIT_TAG
from emulator.kernel.request import Request
from emulator.tags import ADOPTED, ALONE, FREED, LEASED, OFFLINE, RECALLED, SHARED
from emulator.types import Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task


# -- Taking ---------------------------------------------------------------------------------------


def get_tag(cpu: Cpu, q: BlockQueue) -> bool:
    """``blk_mq_get_tag()``, the try: a scheduler tag, or a driver tag without an elevator."""
    if q.inactive:
        return False
    if q.elevator is not None:
        if q.allocated >= q.nr_requests:
            return False
    else:
        if q.nr_hw_queues > 1:
            pass_on_wakeup(cpu, q)
        if not take_driver_tag(cpu, q):
            return False
    q.allocated += 1
    return True


def take_driver_tag(cpu: Cpu, q: BlockQueue) -> bool:
    """Take a tag of this CPU's lease; ask the device for more in time."""
    if q.lease == 0:
        return False
    q.lease -= 1
    if q.lease < 2 and q.tag_mode == LEASED:
        ask_for_tags(cpu, q)
    return True


def ask_for_tags(cpu: Cpu, q: BlockQueue) -> None:
    """Ask the device ahead for a larger lease, once at a time."""
    if q.tag_asked or q.tag_mode != LEASED:
        return
    q.tag_asked = True
    cpu.send(
        cpu.device_nodes[q.index],
        messages.TAG_REQUEST,
        (q.lease_step, 0, 0),
        cpu.now + cpu.costs.request_ns,
        cpu.costs.coherence_ns,
    )


def must_have_tag(cpu: Cpu, q: BlockQueue, pid: int, kind: int, arg: Any) -> None:
    """Stand still until the device has given a tag or has none; a frame of ``kind`` goes on then.

    ``pid`` is the task that waits for it, 0 if a request does.
    """
    q.tag_again = [pid, kind, arg, False]
    cpu.wait(frames.TAG_ASKED, q.index)
    cpu.send(
        cpu.device_nodes[q.index],
        messages.TAG_REQUEST,
        (q.lease_step, 1, pid),
        cpu.now + cpu.costs.coherence_ns,
        cpu.costs.coherence_ns,
    )


def tags_granted(cpu: Cpu, message: Message) -> None:
    """The device answers: the lease grows, whoever stands still or was held up goes on."""
    index, nr, mode, must, waker_cpu, waker_pid, cause = message[5]
    q = cpu.queues[index]
    waker = (waker_cpu, waker_pid) if waker_cpu >= 0 else (cpu.node_id, cpu.rq.curr.pid)
    if nr and would_spin(cpu, q, waker[0]):
        cpu.deferred.append(message)
        return
    cpu.cause = cause or cpu.cause
    q.lease += nr
    q.tag_mode = mode
    if must:
        q.tag_again[3] = True
        cpu.answered(frames.TAG_ASKED, frames.TAG_ANSWERED, [index, nr, mode])
        return
    q.tag_asked = nr == 0 and mode == LEASED  # nothing to be had: wait for own frees
    if nr and q.restart and q.elevator is not None:
        q.restart = False
        blk_mq.run_hw_queue_async(cpu, q, waker)
    if mode == SHARED:
        give_up_lease(cpu, q)
    elif q.elevator is None:
        for _ in range(nr):
            wake_tag_waiter(cpu, q, waker)


def tag_answered(cpu: Cpu, arg: list[int]) -> None:
    """Whoever stood still goes on: with a tag, or it waits."""
    index, nr, mode = arg
    q = cpu.queues[index]
    pid, kind, again, _answered = q.tag_again
    if q.lease:
        q.tag_again = []
        cpu.start(kind, 0, again)
    elif nr or (mode == ALONE and q.tag_mode != ALONE):
        # What was granted has been given back, or others want tags meanwhile: ask again.
        must_have_tag(cpu, q, pid, kind, again)
    else:
        q.tag_again = []
        if pid == 0:
            q.restart = True
            cpu.start(kind, 0, again)
            return
        p = cpu.rq.curr
        if mode == ALONE:
            q.sbq.wait(pid)
        sleep_for_tag(cpu, q, p, kind, again)


def give_up_lease(cpu: Cpu, q: BlockQueue) -> None:
    """While tags are shared none stays on lease for which there is no request."""
    if q.lease and not (q.elevator is not None and (q.issuing is not None or q.has_work())):
        return_tags(cpu, q, q.lease, cpu.node_id, FREED)
        q.lease = 0


# -- Waiting --------------------------------------------------------------------------------------


def wait_for_tag(cpu: Cpu, q: BlockQueue, p: Task, kind: int, arg: Any) -> None:
    """Wait for a tag that the try did not find; a frame of ``kind`` tries again (A.3, steps 2-6)."""
    if q.inactive:
        # The CPU goes away: msleep(3), then the queue of the CPU that the task is on (5.8).
        until = cpu.jiffies() + msecs_to_jiffies(cpu, 3) + 1
        cpu.count("inactive_waits")
        core.sleep_on_timer(cpu, p, until * cpu.tick_ns, tp.TASK_UNINTERRUPTIBLE, kind, 0, arg)
    elif q.elevator is None and q.tag_mode != ALONE:
        must_have_tag(cpu, q, p.pid, kind, arg)
    else:
        q.sbq.wait(p.pid)
        sleep_for_tag(cpu, q, p, kind, arg)


def sleep_for_tag(cpu: Cpu, q: BlockQueue, p: Task, kind: int, arg: Any) -> None:
    """``io_schedule()``, unless the wakeup has come already."""
    if p.pid in q.woken_early:
        q.woken_early.remove(p.pid)
        cpu.start(kind, 0, arg)
        return
    p.run.wait = WAIT_TAG
    if q.elevator is None and q.nr_hw_queues > 1:
        p.run.tag_cpu = cpu.node_id
    cpu.count("tag_waits")
    aio.sleep_plugged(cpu, p, kind, 0, arg)


def pass_on_wakeup(cpu: Cpu, q: BlockQueue) -> None:
    """Who was woken for a tag of another hardware queue than this CPU's leaves it to the next waiter."""
    run = cpu.rq.curr.run
    slept_on, run.tag_cpu = run.tag_cpu, -1
    if slept_on >= 0 and q.queue_of[slept_on] != q.hctx:
        return_tags(cpu, q, 0, slept_on, FREED)


def wait_for_driver_tag(cpu: Cpu, q: BlockQueue, arg: list[Any]) -> bool:
    """A request lacks a driver tag; return whether the dispatch stands still for the answer.

    If not, it ends here: the queue is run again when a tag is free (SCHED_RESTART).
    """
    if q.restart or q.tag_mode == ALONE:
        q.restart = True
        return False
    must_have_tag(cpu, q, 0, frames.DISPATCHED, arg)
    return True


def msecs_to_jiffies(cpu: Cpu, ms: int) -> int:
    """Return so many milliseconds in jiffies, rounded up."""
    return -(-ms * cpu.hz // 1000)


# -- Freeing --------------------------------------------------------------------------------------


def free_tags(cpu: Cpu, q: BlockQueue, rq: Request) -> None:
    """``blk_mq_put_tag()`` of all that a request has; a waiter may go on."""
    if rq.ctx_cpu == cpu.node_id:
        request_is_freed(cpu, q)
    elif rq.ctx_cpu != rq.tag_cpu or q.tag_mode == SHARED:
        give_tags(cpu, q, rq.ctx_cpu, 0, 1)
    put_driver_tag(cpu, q, rq)
    if q.restart and q.tag_mode != SHARED:
        q.restart = False
        blk_mq.run_hw_queue_async(cpu, q)


def put_driver_tag(cpu: Cpu, q: BlockQueue, rq: Request, freed: bool = True) -> None:
    """``blk_mq_put_driver_tag()``: the tag goes to whose lease it is of, or is everybody's.

    ``freed``: the request is no more either.
    """
    owner = rq.tag_cpu
    if q.tag_mode == SHARED:
        return_tags(cpu, q, 1, owner, FREED)
    elif owner != cpu.node_id:
        give_tags(cpu, q, owner, 1, int(freed and rq.ctx_cpu == owner))
    else:
        tag_is_free(cpu, q)


def request_is_freed(cpu: Cpu, q: BlockQueue, waker: tuple[int, int] | None = None) -> None:
    """A request that was allocated here is free, and with it its scheduler tag."""
    q.allocated -= 1
    assert q.allocated >= 0, cpu.story(f"{q.name}: a request is freed twice")
    if q.elevator is not None:
        wake_tag_waiter(cpu, q, waker)


def tag_is_free(cpu: Cpu, q: BlockQueue, waker: tuple[int, int] | None = None) -> None:
    """A tag of this CPU's lease is free."""
    q.lease += 1
    if q.tag_asked and q.lease > 2:
        q.tag_asked = False
    if q.elevator is None:
        wake_tag_waiter(cpu, q, waker)


def give_tags(cpu: Cpu, q: BlockQueue, owner: int, driver: int, request: int) -> None:
    """A request was freed here that is another CPU's, or its driver tag is: that CPU is told."""
    cpu.send(
        owner,
        messages.TAG_FREED,
        (q.index, cpu.rq.curr.pid, cpu.cause, driver, request),
        cpu.now + max(cpu.costs.ipi_ns, cpu.costs.ttwu_activate_ns),
        min(cpu.costs.ipi_ns, cpu.costs.ttwu_activate_ns),
    )


def tag_freed(cpu: Cpu, message: Message) -> None:
    """Another CPU freed tags of this one's; it wakes who waits here for one."""
    index, waker_pid, cause, driver, request = message[5]
    q = cpu.queues[index]
    if would_spin(cpu, q, message[1]):
        cpu.deferred.append(message)
        return
    cpu.cause = cause
    waker = (message[1], waker_pid)
    if request:
        request_is_freed(cpu, q, waker)
    if not driver:
        return
    if q.tag_mode == SHARED:
        return_tags(cpu, q, 1, cpu.node_id, FREED)
        return
    tag_is_free(cpu, q, waker)
    if q.restart:
        q.restart = False
        blk_mq.run_hw_queue_async(cpu, q, waker)


def return_tags(cpu: Cpu, q: BlockQueue, nr: int, owner: int, why: int = OFFLINE) -> None:
    """Give the device tags of ``owner``'s lease."""
    if nr or why == FREED:
        send_tags(cpu, q, nr, owner, why, [])


def send_tags(
    cpu: Cpu, q: BlockQueue, nr: int, owner: int, why: int, waiters: list[list[int]]
) -> None:
    """Send the device tags, and who has waited for some here."""
    lacks = q.restart and q.elevator is not None
    cpu.send(
        cpu.device_nodes[q.index],
        messages.TAG_RETURN,
        (nr, owner, why, waiters, lacks, cpu.rq.curr.pid, cpu.cause),
        cpu.now + cpu.costs.coherence_ns,
        cpu.costs.coherence_ns,
    )


def recalled(cpu: Cpu, index: int, mode: int) -> None:
    """Another CPU lacks tags: give back what is not used here; who waits for some waits there."""
    q = cpu.queues[index]
    waiters: list[list[int]] = []
    if q.elevator is None and q.sbq.ws_active:
        waiters = q.sbq.take()
    # Who stands still and has just been given one keeps it.  Who has not been answered keeps none:
    # it is about to be put into the device's wait queues, perhaps, where only sleepers may be.
    kept = min(q.lease, 1 if q.tag_again and q.tag_again[3] else 0)
    nr, q.lease = q.lease - kept, kept
    q.tag_mode = mode
    q.tag_asked = False
    send_tags(cpu, q, nr, cpu.node_id, RECALLED, waiters)


def adopt_waiters(cpu: Cpu, q: BlockQueue, waiters: list[list[int]]) -> None:
    """Tasks that waited on a CPU that died are here now; they wait at the device from now on.

    Scheduler tags are this CPU's own: they try again for one of those.
    """
    if q.elevator is not None:
        for pid in (pid for queue in waiters for pid in queue):
            core.try_to_wake_up(cpu, cpu.tasks[pid], waker=(cpu.node_id, cpu.rq.curr.pid))
    elif any(waiters):
        send_tags(cpu, q, 0, cpu.node_id, ADOPTED, waiters)


# -- Waking ---------------------------------------------------------------------------------------


def wake_tag_waiter(cpu: Cpu, q: BlockQueue, waker: tuple[int, int] | None = None) -> None:
    """``sbitmap_queue_wake_up()`` of one freed tag."""
    if not q.sbq.ws_active:
        return
    for pid in q.sbq.free():
        p = cpu.tasks.get(pid)
        if p is None:
            continue
        if waker is None:
            core.wake_up(cpu, p)
        else:
            core.try_to_wake_up(cpu, p, waker=waker)


def would_spin(cpu: Cpu, q: BlockQueue, waker_cpu: int) -> bool:
    """Whether who may be woken for a tag is being switched out: its waker spins until that is over."""
    pids = [pid for queue in q.sbq.waiters for pid in queue]
    if q.restart:
        pids += cpu.pools[1].idle
    return any(smp.waker_spins(cpu, cpu.tasks.get(pid), waker_cpu) for pid in pids)


def tag_woken(cpu: Cpu, message: Message) -> None:
    """A tag was freed at the device: the task is woken on behalf of who freed it."""
    index, pid, waker_cpu, waker_pid, cause = message[5]
    q = cpu.queues[index]
    if pid == 0:
        wake_tag_waiter(cpu, q, (waker_cpu, waker_pid))
        return
    p = cpu.tasks.get(pid)
    if p is None:
        target = cpu.forward[pid][1]
        effect_ns = cpu.now + max(cpu.costs.ipi_ns, cpu.costs.ttwu_activate_ns)
        reply_ns = min(cpu.costs.ipi_ns, cpu.costs.ttwu_activate_ns)
        cpu.send(target, messages.TAG_WAKE, message[5], effect_ns, reply_ns)
    elif smp.waker_spins(cpu, p, waker_cpu):
        cpu.deferred.append(message)
    elif p.run.wait == WAIT_TAG and p.state != tp.TASK_RUNNING:
        cpu.cause = cause
        core.try_to_wake_up(cpu, p, waker=(waker_cpu, waker_pid))
    else:
        q.woken_early.append(pid)
