"""Pools that are asked: whose lists are with one node, and whose workers run on any CPU.

Theory of operation
-------------------
In the kernel a pool is memory that every CPU reaches under ``pool->lock``.  A CPU's own pools are
reached by that CPU alone nearly always; here it owns them (:mod:`wq_pool`).  The pools of no CPU belong to the
shared-state node (:mod:`shared`), those of a CPU that goes down to that CPU's node
(:mod:`wq_hotplug`).  Whoever queues there or works for them asks (:mod:`wq_unbound`).  Each question is
what a CPU does while it holds the lock, so it is answered at once and completely, one after the other
in the order of the questions' stamps:

* :meth:`AskedPools.queue`: an item is queued; the answer says whether it is active and which worker to
  wake;
* :meth:`AskedPools.fetch`: a worker asks what comes next; the answer is an item, a worker to create, or
  nothing: then the worker is idle from this instant on.

Such a pool never counts running workers (``WORKER_UNBOUND``), so it needs one more whenever its list
is not empty: each worker that takes an item wakes the next idle one, up to ``max_active`` of the queue.
A worker that starts and was the last idle one creates another first (F.7).

An idle worker is known by what it left with its last fetch: where it sleeps, since when, and all that
``select_task_rq()`` asks of a sleeper.  Waking it is the asker's to do; until its next fetch it is
idle, and woken only once.

Items that are delayed by ``max_active`` become active in the order in which they came; where parts of a
queue share it (6.9), the parts take turns.

Departures from the kernel: creating a worker cannot fail, so nobody calls for rescuers; idle workers
do not end (:mod:`wq_idle`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from emulator.kernel.sched import Task
from emulator.kernel.wq_pool import FETCHED_CREATE, FETCHED_ITEM, FETCHED_NOTHING, Wake
from emulator.kernel.wq_table import UnboundPool
from emulator.types import for_each_cpu

#: An item as it travels: [work, function, queue, packed argument, cause].
Item = list[Any]

#: What ``nr_active`` is counted for: (queue, pool or CPU or node).
Key = tuple[int, int]


def as_key(data: list[int]) -> Key:
    """Rebuild a key from its list."""
    return (data[0], data[1])


class Limits(Protocol):
    """How many items may be active (F.8)."""

    def key(self, wq_id: int, index: int, cpu: int) -> Key:
        """Return what an item's ``nr_active`` is counted for."""
        ...

    def max_active(self, key: Key) -> int:
        """Return how many items of a key may be active."""
        ...

    def pwq(self, index: int, cpu: int) -> int:
        """Return which of the parts of a key an item is of: those that wait take turns (6.9)."""
        ...


class Idler:
    """An idle worker, as its last fetch left it; ``woken``: somebody has been told to wake it."""

    __slots__ = ("cpu", "moves", "pid", "se", "since", "woken")

    def __init__(self, pid: int, cpu: int, moves: int, since: int, se: list[Any]) -> None:
        self.pid = pid
        self.cpu = cpu
        self.moves = moves
        self.since = since
        self.se = se
        self.woken = False

    def pack(self) -> list[Any]:
        """Return the worker as plain data."""
        return [self.pid, self.cpu, self.moves, self.since, self.se, self.woken]

    @classmethod
    def unpack(cls, data: list[Any]) -> Idler:
        """Rebuild what :meth:`pack` returned."""
        idler = cls(*data[:5])
        idler.woken = data[5]
        return idler


class Pool:
    """``struct worker_pool`` of a pool that is asked."""

    __slots__ = (
        "creating",
        "executing",
        "facts",
        "idle",
        "manager",
        "next_id",
        "nr_workers",
        "places",
        "rotor",
        "watchdog_ns",
        "worklist",
        "works",
    )

    def __init__(self, facts: UnboundPool) -> None:
        self.facts = facts
        #: [key of its nr_active, item], first in first out.
        self.worklist: list[tuple[Key, Item]] = []
        self.idle: list[Idler] = []  # the last one is the first idle worker
        self.executing: dict[int, Key] = {}  # pid -> key of its item
        self.works: dict[int, tuple[int, int]] = {}  # pid -> work and function of its item
        self.manager = 0  # pid of the worker that creates one, 0: none
        self.creating = 0  # pid of that one
        self.nr_workers = 0
        self.next_id = 0
        self.watchdog_ns = 0  # when the list last got its first item, or lost one
        self.rotor = -1  # the last CPU to which a worker was brought back
        #: pid -> (CPU, residence) from which a worker asked last
        self.places: dict[int, tuple[int, int]] = {}

    def pack(self) -> list[Any]:
        """Return what changes as plain data."""
        return [
            [[list(key), item] for key, item in self.worklist],
            [idler.pack() for idler in self.idle],
            [[pid, list(key)] for pid, key in self.executing.items()],
            self.manager,
            self.creating,
            self.nr_workers,
            self.next_id,
            self.rotor,
            [[pid, list(work)] for pid, work in self.works.items()],
            [[pid, list(place)] for pid, place in self.places.items()],
            self.watchdog_ns,
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.worklist = [(as_key(key), item) for key, item in data[0]]
        self.idle = [Idler.unpack(one) for one in data[1]]
        self.executing = {pid: as_key(key) for pid, key in data[2]}
        self.manager, self.creating, self.nr_workers, self.next_id, self.rotor = data[3:8]
        self.works = {pid: (work[0], work[1]) for pid, work in data[8]}
        self.places = {pid: (place[0], place[1]) for pid, place in data[9]}
        self.watchdog_ns = data[10]

    def append(self, now_ns: int, key: Key, item: Item) -> None:
        """Put an active item on the list."""
        if not self.worklist:
            self.watchdog_ns = now_ns
        self.worklist.append((key, item))


class AskedPools:
    """The pools that one node answers for."""

    __slots__ = (
        "active",
        "delayed",
        "fetched",
        "limits",
        "new_pid",
        "pending_pwqs",
        "pools",
        "queued",
        "repatriated",
    )

    def __init__(
        self, facts: list[UnboundPool], limits: Limits, new_pid: Callable[[], int]
    ) -> None:
        self.pools = {one.index: Pool(one) for one in facts}
        self.limits = limits
        self.new_pid = new_pid
        self.active: dict[Key, int] = {}
        #: [index of the pool, pwq, item]; and whose turn is next when one becomes active
        self.delayed: dict[Key, list[tuple[int, int, Item]]] = {}
        self.pending_pwqs: dict[Key, list[int]] = {}
        self.queued = self.fetched = self.repatriated = 0

    # -- Questions -------------------------------------------------------------------------------

    def queue(self, now_ns: int, index: int, cpu: int, item: Item) -> tuple[bool, list[Wake]]:
        """``__queue_work()``: onto the pool's list, or the delayed one beyond ``max_active``.

        Return whether the item is active, and whom to wake.
        """
        self.queued += 1
        key = self.limits.key(item[2], index, cpu)
        active = self.active.get(key, 0)
        if active >= self.limits.max_active(key):
            self.delay(key, index, self.limits.pwq(index, cpu), item)
            return False, []
        self.active[key] = active + 1
        pool = self.pools[index]
        pool.append(now_ns, key, item)
        return True, self.kick_pool(pool)

    def delay(self, key: Key, index: int, pwq: int, item: Item) -> None:
        """Let an item wait until fewer are active; the pwq that it is of waits for its turn."""
        self.delayed.setdefault(key, []).append((index, pwq, item))
        turns = self.pending_pwqs.setdefault(key, [])
        if pwq not in turns:
            turns.append(pwq)

    def next_delayed(self, key: Key) -> tuple[int, Item]:
        """``node_activate_pending_pwq()``: the first item of the pwq whose turn it is."""
        turns, delayed = self.pending_pwqs[key], self.delayed[key]
        pwq = turns.pop(0)
        position = next(n for n, (_index, whose, _item) in enumerate(delayed) if whose == pwq)
        index, _pwq, item = delayed.pop(position)
        if any(whose == pwq for _index, whose, _item in delayed):
            turns.append(pwq)
        return index, item

    def fetch(
        self, now_ns: int, pool: Pool, starts: int, idler: Idler
    ) -> tuple[int, list[Any], list[Wake]]:
        """``worker_thread()`` under the pool's lock: what the worker that asks does next.

        Its last item is over (:meth:`work_done`).  Return what, with what, and whom to wake.
        """
        pid = idler.pid
        pool.places[pid] = (idler.cpu, idler.moves)
        pool.idle = [one for one in pool.idle if one.pid != pid]
        self.note_creation(pool, pid)
        if not pool.worklist:
            pool.idle.append(idler)
            return FETCHED_NOTHING, [], []
        if starts and not pool.idle and not pool.manager:
            return FETCHED_CREATE, self.manage_workers(pool, pid), []
        self.fetched += 1
        pool.executing[pid], given = pool.worklist.pop(0)
        pool.works[pid] = (given[0], given[1])
        pool.watchdog_ns = now_ns
        return FETCHED_ITEM, given, self.kick_pool(pool)

    def work_done(self, now_ns: int, pool: Pool, pid: int) -> tuple[int, list[int], list[Wake]]:
        """The item that a worker had is over: a delayed one may take its place.

        Return its work or 0, the works that became active, and the wakeups that follow in other pools.
        """
        key = pool.executing.pop(pid, None)
        if key is None:
            return 0, [], []
        ended = pool.works.pop(pid)[0]
        if not self.delayed.get(key) or self.active[key] > self.limits.max_active(key):
            self.active[key] -= 1
            return ended, [], []
        index, item = self.next_delayed(key)
        other = self.pools[index]
        other.append(now_ns, key, item)
        return ended, [item[0]], self.kick_pool(other) if other is not pool else []

    def note_creation(self, pool: Pool, pid: int) -> None:
        """A manager has made its worker, which is on its way; or that one is here already."""
        if pool.creating == pid:
            pool.creating = 0
        if pool.manager != pid:
            return
        pool.manager = 0
        if pool.creating:
            idler = Idler(pool.creating, -1, 0, 0, [])
            idler.woken = True
            pool.idle.append(idler)
            pool.creating = 0

    def manage_workers(self, pool: Pool, pid: int) -> list[int]:
        """``manage_workers()``: the worker makes another one; return its pid and number."""
        pool.manager = pid
        pool.creating = self.new_pid()
        pool.nr_workers += 1
        pool.next_id += 1
        return [pool.creating, pool.next_id - 1]

    def kick_pool(self, pool: Pool) -> list[Wake]:
        """``kick_pool()``: the first idle worker is to be woken, unless it has been already."""
        if not pool.worklist or not pool.idle or pool.idle[-1].woken:
            return []
        idler = pool.idle[-1]
        idler.woken = True
        cause = pool.worklist[0][1][4]
        wake_cpu = self.repatriate(pool, idler)
        return [[idler.pid, idler.moves, idler.cpu, idler.since, idler.se, wake_cpu, cause]]

    def repatriate(self, pool: Pool, idler: Idler) -> int:
        """Return to which CPU of the pod a worker is brought back, -1: it is inside (6.6)."""
        facts = pool.facts
        if not facts.repatriates:
            return -1
        worker = Task.__new__(Task)
        worker.unpack_se(idler.se)
        if facts.pod >> worker.wake_cpu & 1:
            return -1
        self.repatriated += 1
        cpus = list(for_each_cpu(facts.pod))
        pool.rotor = next((cpu for cpu in cpus if cpu > pool.rotor), cpus[0])
        return pool.rotor

    # -- What there is ---------------------------------------------------------------------------

    def waiting(self) -> Iterator[Item]:
        """Yield the items that no worker has yet."""
        for pool in self.pools.values():
            yield from (item for _key, item in pool.worklist)
        for items in self.delayed.values():
            yield from (item for _index, _pwq, item in items)

    def works_of(self, wq_id: int) -> list[int]:
        """Return the works of a queue that have not ended (F.9)."""
        works = [item[0] for item in self.waiting() if item[2] == wq_id]
        for pool in self.pools.values():
            works += [pool.works[pid][0] for pid, key in pool.executing.items() if key[0] == wq_id]
        return works

    def pack(self) -> list[Any]:
        """Return what changes as plain data."""
        return [
            [[index, pool.pack()] for index, pool in self.pools.items()],
            [[list(key), nr] for key, nr in self.active.items()],
            [[list(key), [list(one) for one in items]] for key, items in self.delayed.items()],
            [self.queued, self.fetched, self.repatriated],
            [[list(key), pwqs] for key, pwqs in self.pending_pwqs.items()],
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        for index, pool in data[0]:
            self.pools[index].unpack(pool)
        self.active = {as_key(key): nr for key, nr in data[1]}
        self.delayed = {
            as_key(key): [(index, pwq, item) for index, pwq, item in items]
            for key, items in data[2]
        }
        self.queued, self.fetched, self.repatriated = data[3]
        self.pending_pwqs = {as_key(key): list(pwqs) for key, pwqs in data[4]}
