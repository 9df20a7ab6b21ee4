"""The tags of one hardware queue, as the device has them: who holds how many, who waits for one.

Theory of operation
-------------------
What the modes mean is in :mod:`emulator.tags`.  A CPU that runs short *asks ahead* (TAG_REQUEST) and
gets what is free, nothing perhaps.  A CPU that *must* have a tag stands still until it is answered:

1. what is free is granted;
2. else all other CPUs that hold tags are told to give back what they do not use (TAG_RECALL), and
   the question waits for their answers: so it never fails while a tag is free anywhere;
3. if there was nothing, and the asker holds all tags, it is told that it is *alone*: its own frees
   are the only ones there will be;
4. if others hold some, the map becomes *shared*: leases end, waiters come here, and the asker's task
   joins the wait queues (or, where a request waits for a driver tag and nobody sleeps, the CPU is
   noted down for the next one: SCHED_RESTART).

A free at a shared map wakes by the rules of the bitmap: TAG_WAKE to where the waiter sleeps, on
behalf of the CPU that freed.  When nobody waits and half of the tags are free, the map is leased again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emulator import messages
from emulator.tags import ADOPTED, ALONE, LEASED, RECALLED, SHARED, SbitmapQueue, initial_lease

#: Who wakes: CPU, pid, cause.  Nobody, if the CPU itself has asked.
NOBODY = (-1, 0, 0)
#: Sends a CPU an op with these arguments.
Say = Callable[[int, int, tuple[Any, ...]], None]


class TagMap:
    """``struct blk_mq_tags`` of one hardware queue."""

    __slots__ = (
        "again",
        "asks",
        "depth",
        "free",
        "leased",
        "mode",
        "recalls",
        "restarts",
        "say",
        "sbq",
    )

    def __init__(self, say: Say, cpus: list[int], depth: int, global_count: bool) -> None:
        self.say = say
        self.depth = depth
        self.mode = LEASED
        self.leased = dict.fromkeys(cpus, initial_lease(depth, len(cpus)) if cpus else 0)
        self.free = depth - sum(self.leased.values())
        assert self.free >= 0
        self.sbq = SbitmapQueue(depth, global_count)  # who waits: [CPU, pid]
        self.recalls: list[int] = []  # CPUs that have not answered TAG_RECALL
        self.again = False  # they are to be told a second time
        self.asks: list[
            list[int]
        ] = []  # [CPU, tags, pid, whether the others were asked for theirs]
        self.restarts: list[int] = []  # CPUs with requests that lack a driver tag

    def request(self, cpu: int, nr: int, must: bool, pid: int) -> None:
        """A CPU asks for tags; if it must have one, ``pid`` waits for it (0: a request does)."""
        self.settle()
        if must:
            self.asks.append([cpu, nr, pid, 0])
            self.serve()
        else:
            may = self.mode == LEASED and not self.asks
            self.grant(cpu, min(nr, self.free) if may else 0)

    def returned(
        self,
        nr: int,
        owner: int,
        why: int,
        waiters: list[list[Any]],
        restart: bool,
        waker: tuple[int, int, int],
    ) -> None:
        """Tags of ``owner`` come back; ``waker`` is the CPU that sends them, its task, the cause."""
        source = waker[0]
        self.leased[owner] -= nr
        assert self.leased[owner] >= 0, f"CPU {owner} returns {-self.leased[owner]} tags too many"
        self.free += nr
        if waiters:
            self.sbq.join([[[source, pid] for pid in queue] for queue in waiters])
            if self.mode != SHARED:
                self.share()
        if why == RECALLED:
            if restart and source not in self.restarts:
                self.restarts.append(source)
            self.recalls.remove(source)
            if not self.recalls:
                self.recalled(waker)
        elif self.mode == SHARED:
            if not self.recalls:
                self.wake(self.free if why == ADOPTED else max(nr, 1), waker)
        elif not nr:
            self.say(owner, messages.TAG_WAKE, (0, *waker))

    def recalled(self, waker: tuple[int, int, int]) -> None:
        """All answers have come: questions first, then who sleeps."""
        if self.again:
            self.again = False
            self.recall(list(self.leased))
            return
        self.serve()
        if self.mode == SHARED and not self.recalls:
            self.wake(self.free, waker)

    def share(self) -> None:
        """Leases end, and waiters come here, whoever has them."""
        self.mode = SHARED
        if self.recalls:
            self.again = True
        else:
            self.recall(list(self.leased))

    def settle(self) -> None:
        """Lease tags again once nobody waits and half of them are free."""
        waits = self.asks or self.restarts or self.recalls or self.sbq.ws_active > 0
        if self.mode == SHARED and not waits and 2 * self.free >= self.depth:
            self.mode = LEASED

    def serve(self) -> None:
        """Answer those that must have a tag, as far as nobody's answer is awaited."""
        while self.asks and not self.recalls:
            cpu, nr, pid, asked = self.asks.pop(0)
            holders = [other for other, held in self.leased.items() if held and other != cpu]
            if self.free:
                self.grant(cpu, min(nr, self.free) if self.mode == LEASED else 1, must=1)
            elif self.mode == SHARED:
                self.enqueue(cpu, pid)
            elif not holders:
                self.say(cpu, messages.TAG_GRANT, (0, ALONE, 1, *NOBODY))
            else:
                self.asks.insert(0, [cpu, nr, pid, 1])
                if asked:
                    self.share()
                else:
                    self.recall(holders)

    def recall(self, cpus: list[int]) -> None:
        """Tell CPUs to give back what they do not use."""
        self.recalls = list(cpus)
        for cpu in cpus:
            self.say(cpu, messages.TAG_RECALL, (self.mode,))

    def enqueue(self, cpu: int, pid: int) -> None:
        """There is no tag: the task waits in the queues, or the CPU's requests for the next one."""
        if pid:
            self.sbq.wait([cpu, pid])
        elif cpu not in self.restarts:
            self.restarts.append(cpu)
        self.say(cpu, messages.TAG_GRANT, (0, SHARED, 1, *NOBODY))

    def wake(self, nr: int, waker: tuple[int, int, int]) -> None:
        """So many tags were freed: requests that wait get one, sleepers are woken."""
        for _ in range(nr):
            if self.restarts and self.free:
                self.grant(self.restarts.pop(0), 1, waker=waker)
                continue
            for cpu, pid in self.sbq.free():
                self.say(cpu, messages.TAG_WAKE, (pid, *waker))

    def grant(self, cpu: int, nr: int, must: int = 0, waker: tuple[int, int, int] = NOBODY) -> None:
        """Lease tags to a CPU."""
        assert 0 <= nr <= self.free
        self.free -= nr
        self.leased[cpu] += nr
        self.say(cpu, messages.TAG_GRANT, (nr, self.mode, must, *waker))

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        asks = [list(ask) for ask in self.asks]
        state = [self.mode, self.free, list(self.recalls), self.again, asks, list(self.restarts)]
        return [*state, [*self.leased.items()], self.sbq.pack()]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.mode, self.free, self.recalls, self.again, self.asks, self.restarts = data[:6]
        leased, sbq = data[6:]
        self.leased = {cpu: nr for cpu, nr in leased}  # noqa: C416 - pairs come back as lists
        self.sbq.unpack(sbq)
