"""The mq-deadline elevator: ``block/mq-deadline.c``, v5.4 (A.6).

Per direction a list sorted by sector and a FIFO with expiry.  A batch of up to ``fifo_batch``
requests goes on in sector order; reads are preferred until writes have starved twice.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from emulator.types import READ, WRITE

if TYPE_CHECKING:
    from emulator.kernel.request import Request

READ_EXPIRE_NS = 500_000_000
WRITE_EXPIRE_NS = 5_000_000_000
WRITES_STARVED = 2
FIFO_BATCH = 16


class DeadlineQueue:
    """The elevator's queue of one disk."""

    __slots__ = ("batching", "fifo", "next_key", "sequence", "sorted", "starved")

    def __init__(self) -> None:
        self.fifo: list[list[tuple[int, int]]] = [[], []]  # (deadline, sequence)
        self.sorted: list[list[tuple[int, int, Request]]] = [[], []]  # (sector, sequence, request)
        self.next_key: list[tuple[int, int] | None] = [None, None]
        self.batching = 0
        self.starved = 0
        self.sequence = 0

    def has_work(self) -> bool:
        """Whether a request waits."""
        return bool(self.fifo[READ] or self.fifo[WRITE])

    def oldest_sectors(self) -> int:
        """Return the size of the request that has waited longest, of a write if there is one."""
        direction = WRITE if self.fifo[WRITE] else READ
        sequence = self.fifo[direction][0][1]
        return next(rq.nr_sector for _, number, rq in self.sorted[direction] if number == sequence)

    def insert(self, rq: Request, now_ns: int) -> None:
        """Put a request into its direction's list and FIFO."""
        self.sequence += 1
        expire = READ_EXPIRE_NS if rq.rw == READ else WRITE_EXPIRE_NS
        self.fifo[rq.rw].append((now_ns + expire, self.sequence))
        insort(self.sorted[rq.rw], (rq.sector, self.sequence, rq))

    def drain(self) -> list[Request]:
        """Remove all requests and return them in the order in which they came."""
        entries = [entry for direction in self.sorted for entry in direction]
        self.fifo = [[], []]
        self.sorted = [[], []]
        self.next_key = [None, None]
        return [rq for _, _, rq in sorted(entries, key=lambda entry: entry[1])]

    def dispatch(self, now_ns: int) -> Request | None:
        """Choose and remove the next request (A.6, steps 2-7); None if there is none."""
        for direction in (WRITE, READ):
            key = self.next_key[direction]
            if key is not None and self.batching < FIFO_BATCH:
                return self._take(direction, self._index(direction, key))
        direction = self._direction()
        if direction < 0:
            return None
        deadline, sequence = self.fifo[direction][0]
        key = self.next_key[direction]
        if deadline <= now_ns or key is None:
            index = next(
                i for i, entry in enumerate(self.sorted[direction]) if entry[1] == sequence
            )
        else:
            index = self._index(direction, key)
        self.batching = 0
        return self._take(direction, index)

    def _direction(self) -> int:
        if self.fifo[READ]:
            if self.fifo[WRITE]:
                starved = self.starved
                self.starved += 1
                if starved >= WRITES_STARVED:
                    self.starved = 0
                    return WRITE
            return READ
        if self.fifo[WRITE]:
            self.starved = 0
            return WRITE
        return -1

    def _index(self, direction: int, key: tuple[int, int]) -> int:
        return bisect_left(self.sorted[direction], key)  # which is there, with its request behind

    def _take(self, direction: int, index: int) -> Request:
        # Remove the request, remember the one that follows it by sector.
        self.batching += 1
        entries = self.sorted[direction]
        _sector, sequence, rq = entries.pop(index)
        fifo = self.fifo[direction]
        position = 0  # mostly
        while fifo[position][1] != sequence:
            position += 1
        del fifo[position]
        self.next_key = [None, None]
        if index < len(entries):
            self.next_key[direction] = entries[index][:2]
        return rq
