"""What the CPUs and a device agree on about tags: leases, modes, the wait queues of a bitmap (A.3).

Kernel: ``lib/sbitmap.c``, v5.4 and, with ``rules.sbq_global_count``, v6.2.

A tag map (one per hardware queue) is one bitmap in the kernel, with eight wait queues.  Here the
device has it, and CPUs hold some of its tags on lease, so that they need not ask for each.  How it
is used changes with demand:

* *leased* (:data:`LEASED`): CPUs take from their leases, get back there what they free, and ask for
  more in time;
* *alone* (:data:`ALONE`): one CPU has all tags there are; it waits and wakes by itself;
* *shared* (:data:`SHARED`): more than one CPU wants what there is not.  Leases are recalled, every tag
  is asked for and freed at the device, and the device has the wait queues.
"""

from __future__ import annotations

from typing import Any

SBQ_WAIT_QUEUES = 8
SBQ_WAKE_BATCH = 8

LEASED = 0
ALONE = 1
SHARED = 2

# Why tags come back to the device: TAG_RETURN.
OFFLINE = 0  #: the CPU goes offline, or has no use for them
RECALLED = 1  #: the answer to TAG_RECALL
FREED = 2  #: a request has been freed; or one waiter is to be woken in place of who gave up
ADOPTED = 3  #: none do; waiters of a CPU that went offline are with the sender now


def wake_batch(depth: int) -> int:
    """Return how many frees wake one batch of waiters (A.3)."""
    return min(max(depth // SBQ_WAIT_QUEUES, 1), SBQ_WAKE_BATCH)


def initial_lease(depth: int, nr_cpus: int) -> int:
    """Return the tags a CPU holds at boot: a quarter of all are spread, the device keeps the rest."""
    return depth // (4 * nr_cpus) or int(depth >= 2 * nr_cpus)


class SbitmapQueue:
    """``struct sbitmap_queue`` without its bits: who waits, and when a free wakes whom."""

    __slots__ = (
        "batch",
        "completions",
        "global_count",
        "wait_cnt",
        "wait_index",
        "waiters",
        "wake_index",
        "wakeups",
        "ws_active",
    )

    def __init__(self, depth: int, global_count: bool = False) -> None:
        self.batch = wake_batch(depth)
        self.global_count = global_count
        self.waiters: list[list[Any]] = [[] for _ in range(SBQ_WAIT_QUEUES)]
        self.wait_index = 0  # hctx->wait_index: the queue of the next one who waits
        self.wake_index = 0
        self.wait_cnt = [self.batch] * SBQ_WAIT_QUEUES
        self.completions = 0  # frees while somebody waited (6.2)
        self.wakeups = 0  # how many of them have been answered by a wakeup
        self.ws_active = 0  # how many wait, on all queues

    def wait(self, who: Any) -> None:
        """Join the next wait queue, exclusively."""
        self.waiters[self.wait_index].append(who)
        self.ws_active += 1
        self.wait_index = (self.wait_index + 1) % SBQ_WAIT_QUEUES

    def free(self) -> list[Any]:
        """``sbitmap_queue_wake_up()`` of one freed tag: return whom it wakes."""
        if not self.ws_active:
            return []
        woken = self._free_global() if self.global_count else self._free_by_queue()
        self.ws_active -= len(woken)
        return woken

    def _free_by_queue(self) -> list[Any]:
        # v5.4: the first queue that has waiters counts.
        index = self.wake_index
        while not self.waiters[index]:
            index = (index + 1) % SBQ_WAIT_QUEUES
        self.wake_index = index
        self.wait_cnt[index] -= 1
        if self.wait_cnt[index] > 0:
            return []
        self.wait_cnt[index] = self.batch
        self.wake_index = (index + 1) % SBQ_WAIT_QUEUES
        woken = self.waiters[index][: self.batch]
        del self.waiters[index][: self.batch]
        return woken

    def _free_global(self) -> list[Any]:
        # v6.2: every wake_batch frees wake as many, over the queues.
        self.completions += 1
        if self.completions - self.wakeups < self.batch:
            return []
        self.wakeups += self.batch
        woken: list[Any] = []
        for _ in range(SBQ_WAIT_QUEUES):
            queue = self.waiters[self.wake_index]
            self.wake_index = (self.wake_index + 1) % SBQ_WAIT_QUEUES
            taken = queue[: self.batch - len(woken)]
            del queue[: len(taken)]
            woken += taken
            if len(woken) == self.batch:
                break
        return woken

    def take(self) -> list[list[Any]]:
        """Empty the wait queues, for whoever takes over."""
        waiters, self.waiters = self.waiters, [[] for _ in range(SBQ_WAIT_QUEUES)]
        self.ws_active = 0
        return waiters

    def join(self, waiters: list[list[Any]]) -> None:
        """Take waiters over from others' queues: they are before whoever waits here."""
        for queue, first in zip(self.waiters, waiters, strict=True):
            queue[:0] = first
            self.ws_active += len(first)

    def pack(self) -> list[Any]:
        """Return the state as plain data."""
        return [
            [list(queue) for queue in self.waiters],
            self.wait_index,
            self.wake_index,
            list(self.wait_cnt),
            self.completions,
            self.wakeups,
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        waiters, self.wait_index, self.wake_index, wait_cnt, self.completions, self.wakeups = data
        self.waiters = [list(queue) for queue in waiters]
        self.ws_active = sum(map(len, waiters))
        self.wait_cnt = list(wait_cnt)
