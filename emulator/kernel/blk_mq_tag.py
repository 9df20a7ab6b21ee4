"""Tags of requests: ``block/blk-mq-tag.c`` and ``lib/sbitmap.c``, v5.4.

Theory of operation
-------------------
Tags come in leases from the device, which owns them; a submitter that finds none sleeps in one of
eight wait queues and is woken after ``wake_batch`` frees (A.3).

A device with vectors completes requests on CPUs that did not allocate them: their tags go back to the
CPU whose lease they are of (:func:`give_tag`).  Its leases are recalled when another CPU lacks tags.

Departures from the kernel: scheduler tags are counted per CPU, and a lease of a device
without vectors never returns to the device, so that a CPU may run short of tags while others hold some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import messages
from emulator.kernel import blk_mq, blk_timeout, core
from emulator.kernel.blk_queue import SBQ_WAIT_QUEUES, BlockQueue, wake_batch

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task


#: Whose a tag is that was recalled.
NOBODY = -1


def get_tag(cpu: Cpu, q: BlockQueue) -> bool:
    """``blk_mq_get_tag()``, the try: a scheduler tag, or a driver tag without an elevator."""
    if q.elevator is not None:
        if q.sched_tags >= q.nr_requests:
            return False
        q.sched_tags += 1
        return True
    return take_driver_tag(cpu, q)


def take_driver_tag(cpu: Cpu, q: BlockQueue) -> bool:
    """Take a tag of this CPU's lease; ask the device for more in time."""
    if q.lease == 0:
        ask_for_tags(cpu, q)
        return False
    q.lease -= 1
    if q.lease < 2:
        ask_for_tags(cpu, q)
    return True


def ask_for_tags(cpu: Cpu, q: BlockQueue) -> None:
    """Ask the device for a larger lease, once at a time."""
    if q.tag_asked:
        return
    q.tag_asked = True
    q.recalled = False
    cpu.send(
        cpu.device_nodes[q.index],
        messages.TAG_REQUEST,
        (q.lease_step,),
        cpu.now + cpu.costs.request_ns,
        cpu.costs.coherence_ns,
    )


def tags_granted(cpu: Cpu, index: int, nr: int) -> None:
    """The device answers: the lease grows, waiters and held-up requests go on."""
    q = cpu.queues[index]
    q.lease += nr
    q.tag_asked = nr == 0  # nothing to be had: wait for own frees
    if q.vectored:
        if nr and q.busy:
            blk_timeout.raise_queue(cpu, index)
        for _ in range(nr):
            wake_tag_waiter(cpu, q, (cpu.node_id, cpu.rq.curr.pid))
        return
    if nr and q.busy:
        blk_mq.run_hw_queue_async(cpu, q)
    for _ in range(nr):
        wake_tag_waiter(cpu, q)


def return_tags(cpu: Cpu, q: BlockQueue, nr: int, owner: int) -> None:
    """Give the device back tags that ``owner``, which is or was offline, does not use."""
    if nr:
        cpu.send(
            cpu.device_nodes[q.index],
            messages.TAG_RETURN,
            (nr, owner),
            cpu.now + cpu.costs.request_ns,
            cpu.costs.coherence_ns,
        )


def free_tag(cpu: Cpu, q: BlockQueue, owner: int) -> None:
    """``blk_mq_put_tag()`` of a request whose tag is of ``owner``'s lease; a waiter may go on."""
    if owner != cpu.node_id and q.vectored:
        give_tag(cpu, q, owner)
        return
    if owner == cpu.node_id:
        tag_is_free(cpu, q)
    else:
        return_tags(cpu, q, 1, owner)
    if q.elevator is not None:
        q.sched_tags = max(0, q.sched_tags - 1)
    if q.tag_asked and q.lease > 2:
        q.tag_asked = False
    wake_tag_waiter(cpu, q)


def tag_is_free(cpu: Cpu, q: BlockQueue) -> None:
    """A tag of this CPU's lease is free: it stays here unless another CPU lacks one."""
    if q.recalled and q.lease:
        return_tags(cpu, q, 1, NOBODY)
    else:
        q.lease += 1


def give_tag(cpu: Cpu, q: BlockQueue, owner: int) -> None:
    """A request was freed here whose tag is of another CPU's lease: that CPU has it again."""
    cpu.send(
        owner,
        messages.TAG_FREED,
        (q.index, cpu.rq.curr.pid, cpu.cause),
        cpu.now + max(cpu.costs.ipi_ns, cpu.costs.ttwu_activate_ns),
        min(cpu.costs.ipi_ns, cpu.costs.ttwu_activate_ns),
    )


def tag_freed(cpu: Cpu, index: int, waker: tuple[int, int], cause: int) -> None:
    """Another CPU freed a tag of this one's lease; it wakes who waits here for one."""
    q = cpu.queues[index]
    cpu.cause = cause
    tag_is_free(cpu, q)
    if q.elevator is not None:
        q.sched_tags = max(0, q.sched_tags - 1)
    if q.tag_asked and q.lease > 2:
        q.tag_asked = False
    if q.has_work() and not q.run_queued:
        blk_timeout.raise_queue(cpu, index)
    wake_tag_waiter(cpu, q, waker)


def waiting(cpu: Cpu, index: int) -> list[Task]:
    """Return the tasks here that wait for a tag of a queue."""
    pids = [pid for waiters in cpu.queues[index].waiters for pid in waiters]
    return [cpu.tasks[pid] for pid in pids if pid in cpu.tasks]


def recall_tags(cpu: Cpu, index: int) -> None:
    """Another CPU lacks tags: give back what is not used here, now and from now on, but for one."""
    q = cpu.queues[index]
    if q.busy or any(q.waiters):
        return
    q.recalled = True
    if q.lease > 1:
        return_tags(cpu, q, q.lease - 1, NOBODY)
        q.lease = 1


def wait_for_tag(q: BlockQueue, p: Task) -> None:
    """Join the next wait queue, exclusively; sleep follows (A.3, steps 2-5)."""
    q.waiters[q.wait_index].append(p.pid)
    q.wait_index = (q.wait_index + 1) % SBQ_WAIT_QUEUES


def wake_tag_waiter(cpu: Cpu, q: BlockQueue, waker: tuple[int, int] | None = None) -> None:
    """``sbitmap_queue_wake_up()`` of one freed tag: every ``wake_batch`` frees wake a batch."""
    for step in range(SBQ_WAIT_QUEUES):
        index = (q.wake_index + step) % SBQ_WAIT_QUEUES
        if q.waiters[index]:
            break
    else:
        return
    q.wake_index = index
    q.wait_cnt[index] -= 1
    if q.wait_cnt[index] > 0:
        return
    batch = wake_batch(q.nr_requests if q.elevator is not None else q.depth)
    q.wait_cnt[index] = batch
    q.wake_index = (index + 1) % SBQ_WAIT_QUEUES
    for pid in q.waiters[index][:batch]:
        p = cpu.tasks.get(pid)
        if p is None:
            continue
        if waker is None:
            core.wake_up(cpu, p)
        else:
            core.try_to_wake_up(cpu, p, waker=waker)
    del q.waiters[index][:batch]
