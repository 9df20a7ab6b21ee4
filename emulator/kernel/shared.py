"""The shared-state node: it owns the objects of no CPU, the pools of unbound workqueues.

Theory of operation
-------------------
In the kernel an unbound pool is memory that every CPU reaches under ``pool->lock``; here it is this
node's, and CPUs ask (:mod:`wq_unbound`).  Each question is what a CPU does while it holds the lock, so
it is answered at once and completely, one after the other in the order of the questions' stamps:

* ``WQ_QUEUE``: an item is queued; the answer says whether it is active and which worker to wake;
* ``WQ_FETCH``: a worker asks what comes next; the answer is an item, a worker to create, or nothing:
  then the worker is idle from this instant on.

The pool never counts running workers (``WORKER_UNBOUND``), so it needs one more whenever its list is
not empty: each worker that takes an item wakes the next idle one, up to ``max_active`` of the queue.
A worker that starts and was the last idle one creates another first (F.7).

An idle worker is known by what it left with its last fetch: where it sleeps, since when, and all that
``select_task_rq()`` asks of a sleeper.  Waking it is the asker's to do; until its next fetch it is
idle, and woken only once.

``max_active`` counts per queue and pool up to 6.5, per queue and CPU that queues in 6.6, and later per
queue and NUMA node, which has its share of it by CPUs, at least 8 (F.8).

Departures from the kernel: creating a worker cannot fail, so nobody calls for rescuers; idle workers
are not reaped within a run (300 s); items delayed by ``max_active`` become active in the order in which
they came, whatever pool they wait for.
"""

from __future__ import annotations

from typing import Any

from emulator import messages
from emulator.kernel import fair
from emulator.kernel.request import Request
from emulator.kernel.sched import Task
from emulator.kernel.wq_pool import (
    FETCHED_CREATE,
    FETCHED_ITEM,
    FETCHED_NOTHING,
    Wake,
    answer_ns,
    carries_request,
)
from emulator.kernel.wq_table import (
    UnboundPool,
    boot_workers,
    shared_node,
    unbound_pools,
    workqueues,
)
from emulator.kernel.xfs_aops import pages_of_item
from emulator.nodebase import NodeBase
from emulator.types import CLASSES, NEVER, TO_CPU, BoxSpec, Message, Promise, for_each_cpu

#: Pids of workers that are created while the box runs.
FIRST_CREATED_PID = 600_000

#: Of a queue's max_active each NUMA node has at least so much (WQ_DFL_MIN_ACTIVE).
MIN_ACTIVE = 8

#: An item as it travels: [work, function, queue, packed argument, cause].
Item = list[Any]


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
    """``struct worker_pool`` of an unbound pool."""

    __slots__ = (
        "creating",
        "executing",
        "facts",
        "idle",
        "manager",
        "next_id",
        "nr_workers",
        "rotor",
        "worklist",
        "works",
    )

    def __init__(self, facts: UnboundPool) -> None:
        self.facts = facts
        #: [key of its nr_active, item], first in first out.
        self.worklist: list[tuple[Key, Item]] = []
        self.idle: list[Idler] = []  # the last one is the first idle worker
        self.executing: dict[int, Key] = {}  # pid -> key of its item
        self.works: dict[int, int] = {}  # pid -> its item
        self.manager = 0  # pid of the worker that creates one, 0: none
        self.creating = 0  # pid of that one
        self.nr_workers = 0
        self.next_id = 0
        self.rotor = -1  # the last CPU to which a worker was brought back

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
            [[pid, work] for pid, work in self.works.items()],
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.worklist = [(as_key(key), item) for key, item in data[0]]
        self.idle = [Idler.unpack(one) for one in data[1]]
        self.executing = {pid: as_key(key) for pid, key in data[2]}
        self.manager, self.creating, self.nr_workers, self.next_id, self.rotor = data[3:8]
        self.works = dict(data[8])


#: What ``nr_active`` is counted for: (queue, pool or CPU or node).
Key = tuple[int, int]


def as_key(data: list[int]) -> Key:
    """Rebuild a key from its list."""
    return (data[0], data[1])


class Shared(NodeBase):
    """The node."""

    __slots__ = (
        "active",
        "answer_ns",
        "created",
        "delayed",
        "fetched",
        "flushers",
        "machine",
        "pools",
        "queued",
        "repatriated",
        "rules",
        "workqueues",
    )

    def __init__(self, spec: BoxSpec) -> None:
        super().__init__(shared_node(spec), spec.machine.nr_cpus)
        self.machine = spec.machine
        self.rules = spec.kernel.rules
        self.answer_ns = answer_ns(spec.costs)
        self.workqueues = workqueues(spec)
        facts, by_cpu = unbound_pools(spec, self.workqueues)
        self.pools = [Pool(one) for one in facts]
        self.active: dict[Key, int] = {}
        self.delayed: dict[Key, list[tuple[int, Item]]] = {}  # with the index of the pool
        self.flushers: list[list[Any]] = []  # [queue, works meant, pid, moves, CPU, how many]
        self.created = 0  # workers created since the start
        self.queued = self.fetched = self.repatriated = 0
        for pid, index, number, cpu in boot_workers(facts, by_cpu):
            pool = self.pools[index]
            se = boot_facts(spec, pool.facts, pid, number, cpu)
            pool.idle.append(Idler(pid, cpu, 0, 0, se))
            pool.nr_workers += 1
            pool.next_id = number + 1

    # -- Node ------------------------------------------------------------------------------------

    def own_next_ns(self) -> int:
        """Return NEVER: this node only answers."""
        return NEVER

    def fire(self, now_ns: int) -> None:
        """Never called."""
        raise AssertionError(f"the shared-state node has no events of its own, but one at {now_ns}")

    def promise(self) -> Promise:
        """Return what this node promises: it only answers CPUs."""
        soonest = self.next_event_ns()
        send_ns = [NEVER] * CLASSES
        send_ns[TO_CPU] = soonest
        return Promise(self.reached_ns, soonest, send_ns, NEVER, self.wants_view)

    def handle(self, message: Message) -> None:
        """Answer a question."""
        _stamp, source, _seq, _target, op, args = message
        if op == messages.WQ_QUEUE:
            self.queue(source, *args)
        elif op == messages.WQ_FLUSH:
            self.flush(source, *args)
        else:
            assert op == messages.WQ_FETCH, f"the shared-state node got op {op}"
            self.fetch(source, *args)

    def answer(self, source: int, op: int, args: tuple[Any, ...]) -> None:
        """Answer a CPU."""
        self.send(source, op, args, self.clock_ns + self.answer_ns)

    # -- Questions -------------------------------------------------------------------------------

    def queue(self, source: int, ticket: int, index: int, cpu: int, item: Item) -> None:
        """``__queue_work()``: onto the pool's list, or the delayed one beyond ``max_active``."""
        self.queued += 1
        key = self.key(item[2], index, cpu)
        active = self.active.get(key, 0)
        activated = active < self.max_active(key)
        wakes: list[Wake] = []
        if activated:
            self.active[key] = active + 1
            pool = self.pools[index]
            pool.worklist.append((key, item))
            wakes = self.kick_pool(pool)
        else:
            self.delayed.setdefault(key, []).append((index, item))
        self.answer(source, messages.WQ_QUEUED, (ticket, item[0], item[4], int(activated), wakes))

    def fetch(
        self,
        source: int,
        ticket: int,
        index: int,
        pid: int,
        starts: int,
        moves: int,
        since: int,
        se: list[Any],
    ) -> None:
        """``worker_thread()`` under the pool's lock: what the worker that asks does next."""
        pool = self.pools[index]
        activated, wakes = self.work_done(pool, pid)
        pool.idle = [idler for idler in pool.idle if idler.pid != pid]
        self.note_creation(pool, pid)
        what, given = FETCHED_NOTHING, []
        if not pool.worklist:
            pool.idle.append(Idler(pid, source, moves, since, se))
        elif starts and not pool.idle and not pool.manager:
            what, given = FETCHED_CREATE, self.manage_workers(pool, pid)
        else:
            what = FETCHED_ITEM
            self.fetched += 1
            pool.executing[pid], given = pool.worklist.pop(0)
            pool.works[pid] = given[0]
            wakes += self.kick_pool(pool)
        args = (ticket, what, given, starts, activated, wakes)
        self.answer(source, messages.WQ_WORK, args)

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
        pool.creating = FIRST_CREATED_PID + self.created
        self.created += 1
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

    # -- max_active (F.8) ------------------------------------------------------------------------

    def key(self, wq_id: int, index: int, cpu: int) -> Key:
        """Return what an item's ``nr_active`` is counted for."""
        if not self.rules.wq_affinity_scopes or self.workqueues[wq_id].ordered:
            return wq_id, index
        if self.rules.wq_node_nr_active:
            return wq_id, self.machine.node[cpu]
        return wq_id, cpu

    def max_active(self, key: Key) -> int:
        """Return how many items of a key may be active."""
        wq_id, place = key
        wq = self.workqueues[wq_id]
        if not self.rules.wq_node_nr_active or wq.ordered:
            return wq.max_active
        share = -(-wq.max_active * place.bit_count() // self.machine.nr_cpus)
        return max(min(wq.max_active, MIN_ACTIVE), min(share, wq.max_active))

    def work_done(self, pool: Pool, pid: int) -> tuple[list[int], list[Wake]]:
        """The item that a worker had is over: a delayed one may take its place.

        Return the works that became active, and the wakeups that follow in other pools.
        """
        key = pool.executing.pop(pid, None)
        if key is None:
            return [], []
        work = pool.works.pop(pid)
        if self.flushers:
            self.work_ended(work)
        delayed = self.delayed.get(key)
        if not delayed:
            self.active[key] -= 1
            return [], []
        index, item = delayed.pop(0)
        other = self.pools[index]
        other.worklist.append((key, item))
        return [item[0]], self.kick_pool(other) if other is not pool else []

    # -- Flush (F.9) -----------------------------------------------------------------------------

    def flush(self, source: int, pid: int, moves: int, wq_id: int) -> None:
        """``flush_workqueue()``: answer when all items of a queue that are here now have ended."""
        works = [item[0] for pool in self.pools for key, item in pool.worklist if key[0] == wq_id]
        for key, waiting in self.delayed.items():
            if key[0] == wq_id:
                works += [item[0] for _index, item in waiting]
        for pool in self.pools:
            works += [pool.works[one] for one, key in pool.executing.items() if key[0] == wq_id]
        flusher = [wq_id, works, pid, moves, source, len(works)]
        if works:
            self.flushers.append(flusher)
        else:
            self.flushed(flusher)

    def work_ended(self, work: int) -> None:
        """An item has ended: whoever waited for it last is told."""
        for flusher in list(self.flushers):
            if work in flusher[1]:
                flusher[1].remove(work)
                if not flusher[1]:
                    self.flushers.remove(flusher)
                    self.flushed(flusher)

    def flushed(self, flusher: list[Any]) -> None:
        """Tell a flusher that all it meant here has ended."""
        _wq_id, _works, pid, moves, source, nr = flusher
        self.answer(source, messages.WQ_FLUSHED, (pid, moves, nr, source, 0, 0))

    # -- State -----------------------------------------------------------------------------------

    def waiting_items(self) -> list[Item]:
        """Return the items that no worker has yet, those just sent here included."""
        items = [item for pool in self.pools for _key, item in pool.worklist]
        items += [item for waiting in self.delayed.values() for _index, item in waiting]
        return items + [m[5][3] for m in self.inbox if m[4] == messages.WQ_QUEUE]

    def books(self) -> dict[str, Any]:
        """Return the IOs that waiting items carry, and what was counted."""
        carried: list[list[int]] = []
        items = self.waiting_items()
        for item in items:
            if carries_request(item[1]):
                rq = Request.unpack(item[3])
                carried.append([rq.pid, rq.iocb])
        return {
            "carried": sorted(carried),
            "works": [0, 0, len(items)],
            "pages": sum(pages_of_item(item) for item in items),
            "unbound": {
                "queued": self.queued,
                "fetched": self.fetched,
                "created": self.created,
                "repatriated": self.repatriated,
                "workers": [[pool.facts.name_id, pool.nr_workers] for pool in self.pools],
            },
        }

    def snapshot(self) -> list[Any]:
        """Return the whole state."""
        return [
            [self.seq, self.clock_ns, self.read_ns, self.reached_ns, self.wants_view],
            [[list(m) for m in box] for box in (self.outbox, self.inbox, self.mail)],
            [pool.pack() for pool in self.pools],
            [[list(key), nr] for key, nr in self.active.items()],
            [[list(key), [list(one) for one in items]] for key, items in self.delayed.items()],
            self.flushers,
            [self.created, self.queued, self.fetched, self.repatriated],
        ]

    def restore(self, state: list[Any]) -> None:
        """Take over a state that :meth:`snapshot` returned."""
        self.seq, self.clock_ns, self.read_ns, self.reached_ns, self.wants_view = state[0]
        boxes = [[messages.message_from_list(m) for m in box] for box in state[1]]
        self.outbox[:], self.inbox, self.mail = boxes
        for pool, data in zip(self.pools, state[2], strict=True):
            pool.unpack(data)
        self.active = {as_key(key): nr for key, nr in state[3]}
        self.delayed = {
            as_key(key): [(index, item) for index, item in items] for key, items in state[4]
        }
        self.flushers = [list(one) for one in state[5]]
        self.created, self.queued, self.fetched, self.repatriated = state[6]


def boot_facts(spec: BoxSpec, pool: UnboundPool, pid: int, number: int, cpu: int) -> list[Any]:
    """Return what a waker must know of a worker that has slept since the boot."""
    p = Task(pid, f"kworker/u{pool.name_id}:{number}", pool.nice or spec.kernel.rules.kworker_nice)
    fair.set_load_weight(p)
    fair.init_entity_runnable_average(p)
    p.cpus_mask = pool.mask
    p.nr_cpus_allowed = pool.mask.bit_count()
    p.cpu = p.wake_cpu = p.recent_used_cpu = cpu
    return p.pack_se()
