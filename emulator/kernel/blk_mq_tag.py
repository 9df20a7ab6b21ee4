"""Tags of requests: ``block/blk-mq-tag.c`` and ``lib/sbitmap.c``, v5.4.

Theory of operation
-------------------
Tags come in leases from the device, which owns them; a submitter that finds none sleeps in one of
eight wait queues and is woken after ``wake_batch`` frees (A.3).

Departures from the kernel: scheduler tags are counted per CPU, and a lease never returns to the
device, so that a CPU may run short of tags while others hold some.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import messages
from emulator.kernel import blk_mq, core
from emulator.kernel.blk_queue import SBQ_WAIT_QUEUES, BlockQueue, wake_batch

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task


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
    if owner == cpu.node_id:
        q.lease += 1
    else:
        return_tags(cpu, q, 1, owner)
    if q.elevator is not None:
        q.sched_tags = max(0, q.sched_tags - 1)
    if q.tag_asked and q.lease > 2:
        q.tag_asked = False
    wake_tag_waiter(cpu, q)


def wait_for_tag(q: BlockQueue, p: Task) -> None:
    """Join the next wait queue, exclusively; sleep follows (A.3, steps 2-5)."""
    q.waiters[q.wait_index].append(p.pid)
    q.wait_index = (q.wait_index + 1) % SBQ_WAIT_QUEUES


def wake_tag_waiter(cpu: Cpu, q: BlockQueue) -> None:
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
        if p is not None:
            core.wake_up(cpu, p)
    del q.waiters[index][:batch]
