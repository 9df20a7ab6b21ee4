"""The mq-deadline elevator: ``block/mq-deadline.c``, v5.4; with IO priorities v5.14 to v6.12 (A.6).

Theory of operation
-------------------
Per direction a list sorted by sector and a FIFO with expiry.  A batch of up to ``fifo_batch``
requests goes on in sector order; reads are preferred until writes have starved twice.

From v5.14 on (``rules.dd_per_prio``) there are such lists for each priority: real-time, best effort,
idle, by the class of the task's ``ioprio``.  A lower one is looked at when the higher ones have nothing;
from v5.16 on (``rules.dd_prio_aging``) what is not real-time and has waited for ``prio_aging_expire``
comes first.  Batches and starvation are counted for all together.

Departures from the kernel: a lower priority does not wait for requests of a higher one that are with
the device already (``dd_queued()`` of v5.16 counts those too).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import TYPE_CHECKING

from emulator.types import READ, WRITE

if TYPE_CHECKING:
    from emulator.kernel.request import Request
    from emulator.rules import Rules

READ_EXPIRE_NS = 500_000_000
WRITE_EXPIRE_NS = 5_000_000_000
EXPIRE_NS = (READ_EXPIRE_NS, WRITE_EXPIRE_NS)
WRITES_STARVED = 2
FIFO_BATCH = 16
PRIO_AGING_EXPIRE_NS = 10_000_000_000

# enum dd_prio.
DD_RT_PRIO = 0
DD_BE_PRIO = 1
DD_IDLE_PRIO = 2
DD_PRIO_COUNT = 3
#: ioprio_class_to_prio[]: none, real-time, best effort, idle.
CLASS_TO_PRIO = (DD_BE_PRIO, DD_RT_PRIO, DD_BE_PRIO, DD_IDLE_PRIO)
IOPRIO_CLASS_SHIFT = 13


class DeadlineQueue:
    """The elevator's queue of one disk.

    Its lists are by ``2 * priority + direction``; without priorities all is best effort.
    """

    __slots__ = (
        "aging",
        "batching",
        "fifo",
        "last_dir",
        "next_key",
        "per_prio",
        "sequence",
        "sorted",
        "starved",
    )

    def __init__(self, per_prio: bool = False, aging: bool = False) -> None:
        self.per_prio = per_prio
        self.aging = aging
        self.clear()
        self.batching = 0
        self.starved = 0
        self.sequence = 0
        self.last_dir = WRITE

    @classmethod
    def of_rules(cls, rules: Rules) -> DeadlineQueue:
        """Build the elevator of a kernel."""
        return cls(rules.dd_per_prio, rules.dd_prio_aging)

    def clear(self) -> None:
        """Forget all requests."""
        lists = range(2 * DD_PRIO_COUNT)
        self.fifo: list[list[tuple[int, int]]] = [[] for _ in lists]  # (deadline, sequence)
        #: (sector, sequence, request)
        self.sorted: list[list[tuple[int, int, Request]]] = [[] for _ in lists]
        self.next_key: list[tuple[int, int] | None] = [None for _ in lists]

    def has_work(self) -> bool:
        """Whether a request waits."""
        fifo = self.fifo
        return bool(fifo[2 * DD_BE_PRIO] or fifo[2 * DD_BE_PRIO + 1]) or self._has_classes()

    def _has_classes(self) -> bool:
        # Whether anything waits that is not best effort.
        rt, rt_writes, _, _, idle, idle_writes = self.fifo
        return bool(rt or rt_writes or idle or idle_writes)

    def prio_of(self, rq: Request) -> int:
        """Return the priority of a request."""
        return CLASS_TO_PRIO[rq.ioprio >> IOPRIO_CLASS_SHIFT] if self.per_prio else DD_BE_PRIO

    def insert(self, rq: Request, now_ns: int) -> None:
        """Put a request into its direction's list and FIFO."""
        self.sequence += 1
        which = 2 * self.prio_of(rq) + rq.rw
        self.fifo[which].append((now_ns + EXPIRE_NS[rq.rw], self.sequence))
        insort(self.sorted[which], (rq.sector, self.sequence, rq), key=lambda entry: entry[:2])

    def drain(self) -> list[Request]:
        """Remove all requests and return them in the order in which they came."""
        entries = [entry for entries in self.sorted for entry in entries]
        self.clear()
        return [rq for _, _, rq in sorted(entries, key=lambda entry: entry[1])]

    def dispatch(self, now_ns: int) -> Request | None:
        """``dd_dispatch_request()``: choose and remove the next request; None if there is none."""
        if not self._has_classes():
            return self._dispatch(DD_BE_PRIO, now_ns, now_ns)
        rq = self._dispatch_aged(now_ns) if self.aging else None
        for prio in range(DD_PRIO_COUNT):
            rq = rq or self._dispatch(prio, now_ns, now_ns)
        return rq

    def _dispatch_aged(self, now_ns: int) -> Request | None:
        # dd_dispatch_prio_aged_requests(): only where two priorities have something.
        waiting = [any(self.fifo[2 * prio : 2 * prio + 2]) for prio in range(DD_PRIO_COUNT)]
        if sum(waiting) < 2:
            return None
        for prio in (DD_BE_PRIO, DD_IDLE_PRIO):
            rq = self._dispatch(prio, now_ns, now_ns - PRIO_AGING_EXPIRE_NS)
            if rq is not None:
                return rq
        return None

    def _dispatch(self, prio: int, now_ns: int, latest_start_ns: int) -> Request | None:
        # __dd_dispatch_request() (A.6, steps 2-7): what came later than ``latest_start_ns`` stays.
        for direction in (self.last_dir,) if self.per_prio else (WRITE, READ):
            which = 2 * prio + direction
            key = self.next_key[which]
            if key is not None and self.batching < FIFO_BATCH:
                return self._take(which, self._index(which, key), latest_start_ns)
        direction = self._direction(prio)
        if direction < 0:
            return None
        which = 2 * prio + direction
        self.last_dir = direction
        deadline, sequence = self.fifo[which][0]
        key = self.next_key[which]
        if deadline <= now_ns or key is None:
            index = next(i for i, entry in enumerate(self.sorted[which]) if entry[1] == sequence)
        else:
            index = self._index(which, key)
        self.batching = 0
        return self._take(which, index, latest_start_ns)

    def _direction(self, prio: int) -> int:
        reads, writes = self.fifo[2 * prio], self.fifo[2 * prio + WRITE]
        if reads:
            if writes:
                starved = self.starved
                self.starved += 1
                if starved >= WRITES_STARVED:
                    self.starved = 0
                    return WRITE
            return READ
        if writes:
            self.starved = 0
            return WRITE
        return -1

    def _index(self, which: int, key: tuple[int, int]) -> int:
        return bisect_right(self.sorted[which], key, key=lambda entry: entry[:2]) - 1

    def _take(self, which: int, index: int, latest_start_ns: int) -> Request | None:
        # Remove the request, remember the one that follows it by sector.
        entries = self.sorted[which]
        sequence = entries[index][1]
        fifo = self.fifo[which]
        place = next(i for i, entry in enumerate(fifo) if entry[1] == sequence)
        if fifo[place][0] - EXPIRE_NS[which % 2] > latest_start_ns:
            return None  # started_after()
        self.batching += 1
        fifo.pop(place)
        rq = entries.pop(index)[2]
        first = which - which % 2
        self.next_key[first : first + 2] = [None, None]
        if index < len(entries):
            self.next_key[which] = entries[index][:2]
        return rq
