"""The shared-state node: it owns the objects of no CPU, the pools of unbound workqueues.

Theory of operation
-------------------
CPUs ask (:mod:`wq_unbound`), the node answers (:mod:`wq_asked`).  ``max_active`` counts per queue and
pool up to 6.5, per queue and CPU that queues in 6.6, and later per queue and NUMA node of the pool,
which has its share of it by CPUs that are online and that unbound work may use, at least 8; pools that span
nodes count together and may have all of it (F.8).

Departures from the kernel: those of :mod:`wq_asked`.
"""

from __future__ import annotations

from typing import Any

from emulator import messages
from emulator.kernel import fair, wq_state
from emulator.kernel.request import Request
from emulator.kernel.sched import Task
from emulator.kernel.wq_asked import AskedPools, Idler, Item, Key
from emulator.kernel.wq_pool import answer_ns, carries_request
from emulator.kernel.wq_table import (
    UnboundPool,
    Workqueue,
    boot_workers,
    shared_node,
    unbound_cpumask,
    unbound_pools,
    workqueues,
)
from emulator.kernel.xfs_aops import pages_of_item
from emulator.nodebase import NodeBase
from emulator.types import CLASSES, NEVER, TO_CPU, BoxSpec, Message, Promise

#: Pids of workers that are created while the box runs.
FIRST_CREATED_PID = 600_000

#: Of a queue's max_active each NUMA node has at least so much (6.9).
WQ_DFL_MIN_ACTIVE = 8


class UnboundLimits:
    """``max_active`` of unbound queues (F.8)."""

    __slots__ = ("allowed", "online", "pool_node", "rules", "workqueues")

    def __init__(
        self, spec: BoxSpec, table: dict[int, Workqueue], pools: list[UnboundPool]
    ) -> None:
        self.rules = spec.kernel.rules
        self.workqueues = table
        self.allowed = unbound_cpumask(spec)
        self.online = (1 << spec.machine.nr_cpus) - 1
        nodes = sorted(set(spec.machine.node))
        #: by pool: the node that has its whole pod, 0 (NUMA_NO_NODE): none has
        self.pool_node = [
            next((node for node in nodes if not pool.pod & ~node), 0) for pool in pools
        ]

    def key(self, wq_id: int, index: int, cpu: int) -> Key:
        """Return what an item's ``nr_active`` is counted for."""
        if not self.rules.wq_affinity_scopes or self.workqueues[wq_id].ordered:
            return wq_id, index
        if self.rules.wq_node_nr_active:
            return wq_id, self.pool_node[index]
        return wq_id, cpu

    def pwq(self, index: int, cpu: int) -> int:
        """Return which part of a key an item is of: up to 6.5 a pool's, later a CPU's."""
        return cpu if self.rules.wq_affinity_scopes else index

    def max_active(self, key: Key) -> int:
        """Return how many items of a key may be active."""
        wq_id, node = key
        wq = self.workqueues[wq_id]
        if not self.rules.wq_node_nr_active or wq.ordered:
            return wq.max_active
        return self.wq_node_max_active(wq, node)

    def wq_node_max_active(self, wq: Workqueue, node: int) -> int:
        """``wq_update_node_max_active()``: the node's share, by its CPUs that are online (6.9).

        Pools of no node may have all of it; so may each node ``min_active`` when no CPU is left.
        """
        if not node:
            return wq.max_active
        min_active = min(wq.max_active, WQ_DFL_MIN_ACTIVE)
        usable = self.allowed & self.online
        total = usable.bit_count()
        if not total:
            return min_active
        share = -(-wq.max_active * (usable & node).bit_count() // total)
        return max(min_active, min(share, wq.max_active))


class Shared(NodeBase):
    """The node."""

    __slots__ = ("answer_ns", "asked", "created", "flushers", "limits", "spec", "workqueues")

    def __init__(self, spec: BoxSpec) -> None:
        super().__init__(shared_node(spec), spec.machine.nr_cpus)
        self.answer_ns = answer_ns(spec.costs)
        self.workqueues = workqueues(spec)
        facts, by_cpu = unbound_pools(spec, self.workqueues)
        self.limits = UnboundLimits(spec, self.workqueues, facts)
        self.asked = AskedPools(facts, self.limits, self.new_pid)
        self.spec = spec
        self.flushers: list[list[Any]] = []  # [queue, works meant, pid, moves, CPU, how many]
        self.created = 0  # workers created since the start
        for pid, index, number, cpu in boot_workers(facts, by_cpu):
            pool = self.asked.pools[index]
            se = boot_facts(spec, pool.facts, pid, number, cpu)
            pool.idle.append(Idler(pid, cpu, 0, 0, se))
            pool.nr_workers += 1
            pool.next_id = number + 1

    def new_pid(self) -> int:
        """Return the pid of a worker that is to be created."""
        self.created += 1
        return FIRST_CREATED_PID + self.created - 1

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
        elif op == messages.WQ_WATCH:
            self.watch(source)
        elif op == messages.WQ_CPU:
            self.cpu_state(*args)
        else:
            assert op == messages.WQ_FETCH, f"the shared-state node got op {op}"
            self.fetch(source, *args)

    def answer(self, source: int, op: int, args: tuple[Any, ...]) -> None:
        """Answer a CPU."""
        self.send(source, op, args, self.clock_ns + self.answer_ns)

    # -- Questions -------------------------------------------------------------------------------

    def queue(self, source: int, ticket: int, index: int, cpu: int, item: Item) -> None:
        """An item is queued."""
        activated, wakes = self.asked.queue(self.clock_ns, index, cpu, item)
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
        """A worker asks what it does next."""
        pool = self.asked.pools[index]
        ended, activated, wakes = self.asked.work_done(self.clock_ns, pool, pid)
        if ended and self.flushers:
            self.work_ended(ended)
        idler = Idler(pid, source, moves, since, se)
        what, given, more = self.asked.fetch(self.clock_ns, pool, starts, idler)
        args = (ticket, what, given, starts, activated, wakes + more)
        self.answer(source, messages.WQ_WORK, args)

    def watch(self, source: int) -> None:
        """The stall watchdog looks after these pools (F.13); it hears of those that do not get on."""
        kernel = self.spec.kernel
        views = wq_state.asked_pools(self.spec, self.workqueues, self.asked, self.clock_ns)
        refs = kernel.rules.trace_end_function
        lines = wq_state.stalls(views, self.workqueues, kernel.workqueue.watchdog_ns, refs)
        if lines:
            self.answer(source, messages.WQ_STALLED, (lines,))

    def cpu_state(self, cpu: int, online: int) -> None:
        """A CPU goes or comes: the nodes' shares of ``max_active`` are others (6.9)."""
        self.limits.online &= ~(1 << cpu)
        self.limits.online |= online << cpu

    # -- Flush (F.9) -----------------------------------------------------------------------------

    def flush(self, source: int, pid: int, moves: int, wq_id: int) -> None:
        """``flush_workqueue()``: answer when all items of a queue that are here now have ended."""
        works = self.asked.works_of(wq_id)
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
        items = list(self.asked.waiting())
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
                "queued": self.asked.queued,
                "fetched": self.asked.fetched,
                "created": self.created,
                "repatriated": self.asked.repatriated,
                "workers": [
                    [pool.facts.name_id, pool.nr_workers] for pool in self.asked.pools.values()
                ],
            },
        }

    def snapshot(self) -> list[Any]:
        """Return the whole state."""
        return [
            [self.seq, self.clock_ns, self.read_ns, self.reached_ns, self.wants_view],
            [[list(m) for m in box] for box in (self.outbox, self.inbox, self.mail)],
            self.asked.pack(),
            self.flushers,
            self.created,
            self.limits.online,
        ]

    def restore(self, state: list[Any]) -> None:
        """Take over a state that :meth:`snapshot` returned."""
        self.seq, self.clock_ns, self.read_ns, self.reached_ns, self.wants_view = state[0]
        boxes = [[messages.message_from_list(m) for m in box] for box in state[1]]
        self.outbox[:], self.inbox, self.mail = boxes
        self.asked.unpack(state[2])
        self.flushers = [list(one) for one in state[3]]
        self.created = state[4]
        self.limits.online = state[5]


def boot_facts(spec: BoxSpec, pool: UnboundPool, pid: int, number: int, cpu: int) -> list[Any]:
    """Return what a waker must know of a worker that has slept since the boot."""
    p = Task(pid, f"kworker/u{pool.name_id}:{number}", pool.nice or spec.kernel.rules.kworker_nice)
    fair.set_load_weight(p)
    fair.init_entity_runnable_average(p)
    p.cpus_mask = pool.mask
    p.nr_cpus_allowed = pool.mask.bit_count()
    p.cpu = p.wake_cpu = p.recent_used_cpu = cpu
    return p.pack_se()
