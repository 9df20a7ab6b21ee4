"""A Hypothesis state machine of workqueues: random items on random queues, CPUs that come and go."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emulator.kernel import wq_unbound
from emulator.kernel.sched import PF_WQ_WORKER
from emulator.kernel.wq_asked import AskedPools
from emulator.kernel.wq_pool import WORKER_NOT_RUNNING, is_unbound
from emulator.kernel.wq_table import ROWS, WQ_NAMES
from emulator.rules import VERSIONS, rules_of
from emulator.types import (
    OP_CANCEL_WORK,
    OP_FLUSH_WORKQUEUE,
    OP_QUEUE_WORK,
    OP_SLEEP,
    WorkqueueSpec,
)
from tests.kernel.box import MS, US, Box, Event, Job, Steps, costs, machine

NR_CPUS = 3
CHARGES = costs(
    coherence_ns=100,
    request_ns=500,
    ttwu_ns=600,
    select_task_rq_ns=400,
    ttwu_activate_ns=500,
    context_switch_ns=1_500,
    ipi_ns=700,
    hardirq_ns=700,
    tick_ns=1_000,
    idle_exit_ns=1_000,
    worker_start_ns=700,
    worker_create_ns=30_000,
    worker_sleep_ns=400,
    work_next_ns=100,
    queue_work_ns=150,
    stopper_ns=1_500,
    newidle_ns=200,
)
#: Bound with and without max_active, CPU_INTENSIVE, of the other pool, unbound, unbound and ordered.
QUEUES = {
    "events": 256,
    "events_long": 2,
    "xfs-sync": 1,
    "cpu_intensive": 256,
    "events_highpri": 3,
    "events_unbound": 2,
    "writeback": 1,
}
CPU = st.integers(0, NR_CPUS - 1)
BURN = st.one_of(st.integers(1, 20 * US), st.integers(1, 4 * MS))
SLEEP = st.one_of(st.just(0), st.integers(1, 3 * MS))
#: What an item does: it runs and sleeps, in turn.
ITEM = st.lists(st.tuples(BURN, SLEEP), min_size=1, max_size=3)


class WorkqueueMachine(RuleBasedStateMachine):
    """A small machine with a module per CPU that queues what it is told to."""

    @initialize(
        version=st.sampled_from(VERSIONS),
        scope=st.sampled_from(("cpu", "cache", "system")),
        strict=st.booleans(),
        thresh_ns=st.sampled_from((0, MS, 10 * MS)),
        idle_ns=st.sampled_from((MS, 20 * MS, 300_000 * MS)),
        failures=st.integers(0, 1),
    )
    def build(
        self,
        version: str,
        scope: str,
        strict: bool,
        thresh_ns: int,
        idle_ns: int,
        failures: int,
    ) -> None:
        """Build the box."""
        self.now = 0
        self.told: list[list[tuple[int, Any]]] = [[] for _ in range(NR_CPUS)]
        self.nr_told = 0
        self.gone = False  # a CPU has been taken down
        wq = WorkqueueSpec(
            unbound=("events_unbound", "writeback"),
            affinity_scope=scope,
            affinity_strict=strict,
            max_active=tuple(QUEUES.items()),
            cpu_intensive_ns=thresh_ns,
            create_failures=failures,
            idle_timeout_ns=idle_ns,
        )
        jobs = [
            Job(lambda cpu=cpu: self.module(cpu), name=f"m{cpu}", cpu=cpu, mask=1 << cpu)  # type: ignore[misc]
            for cpu in range(NR_CPUS)
        ]
        self.box = Box(
            *jobs,
            charges=CHARGES,
            rules=rules_of(version),
            version=version,
            topology=machine(NR_CPUS, llc=0),
            wq=wq,
        )

    def module(self, cpu: int) -> Steps:
        """Do what it is told, act after act, look again soon."""
        while True:
            acts, self.told[cpu] = self.told[cpu], []
            for code, what in acts:
                yield (code, what)
                if code == OP_FLUSH_WORKQUEUE and not self.gone:
                    self.flushed(cpu, what)
            yield (OP_SLEEP, self.now + 100 * US)

    def flushed(self, cpu: int, queue: str) -> None:
        """All that a module had queued before its flush has ended, or been taken back."""
        ended = {e[2]["work"] for e in self.box.events("workqueue_execute_end")}
        queued = self.box.events("workqueue_queue_work", cpu=cpu)
        mine = {e[2]["work"] for e in queued if e[2]["workqueue"].partition("/")[0] == queue}
        assert len(mine - ended) <= self.cancelled()

    def cancelled(self) -> int:
        """Return how many items have been taken back."""
        return sum(
            nr
            for cpu in self.box.cpus
            for name, nr in cpu.counters.items()
            if name.endswith(".cancelled")
        )

    @rule(
        where=CPU,
        queue=st.sampled_from(sorted(QUEUES)),
        items=st.lists(ITEM, min_size=1, max_size=6),
        cancels=st.lists(st.integers(0, 5), max_size=3),
    )
    def queue(
        self, where: int, queue: str, items: list[list[tuple[int, int]]], cancels: list[int]
    ) -> None:
        """Tell a module to queue some items in one go, and to take some of them back if they wait."""
        first = self.nr_told
        works = []
        for steps in items:
            works.append([queue, self.nr_told, [list(step) for step in steps]])
            self.nr_told += 1
        self.told[where].append((OP_QUEUE_WORK, works))
        self.told[where] += [(OP_CANCEL_WORK, first + n) for n in cancels if n < len(items)]

    @rule(where=CPU, queue=st.sampled_from(sorted(QUEUES)))
    def flush(self, where: int, queue: str) -> None:
        """Tell a module to wait for a queue."""
        self.told[where].append((OP_FLUSH_WORKQUEUE, queue))

    @rule(ns=st.one_of(st.integers(1, 200 * US), st.integers(1, 10 * MS)))
    def time_passes(self, ns: int) -> None:
        """Run the box for a while; its books are audited."""
        self.now += ns
        self.box.run(self.now)

    @precondition(lambda self: sum(cpu.active for cpu in self.box.cpus) > 1)
    @rule(
        where=st.integers(1, NR_CPUS - 1),
        queue=st.sampled_from(sorted(QUEUES)),
        items=st.lists(ITEM, max_size=6),
        ns=st.integers(1, 500 * US),
    )
    def offline(self, where: int, queue: str, items: list[list[tuple[int, int]]], ns: int) -> None:
        """A CPU goes down in the middle of some items, or not, if it is down already."""
        if items:
            self.queue(where, queue, items, [])
            self.time_passes(150 * US)
        self.time_passes(ns)
        self.hotplug("offline", where)
        self.gone = True

    @rule(where=st.integers(1, NR_CPUS - 1))
    def online(self, where: int) -> None:
        """A CPU comes back, or not, if it is there already."""
        self.hotplug("online", where)

    def hotplug(self, way: str, where: int) -> None:
        """Post the command, and give it time."""
        self.box.command(self.now, where, "cpu", way, where)
        self.time_passes(5 * MS)

    @invariant()
    def pools_count_what_they_hold(self) -> None:
        """``nr_active`` is the items on the list and with workers, and never more than allowed."""
        for cpu in getattr(self, "box", NO_BOX).cpus:
            for index, pool in enumerate(cpu.pools):
                held = Counter(item[2] for item in (*pool.worklist, *pool.executing.values()))
                held.update(wq_id for _, _, wq_id, *_ in pool.away.values() if wq_id >= 0)
                assert not (pool.workers and cpu.asked), "no workers of its own but rescuers"
                assert not set(pool.away) & set(pool.workers)
                assert held == +Counter(pool.active), (cpu.node_id, index)
                for wq_id, nr in held.items():
                    assert nr <= QUEUES[WQ_NAMES[wq_id]], (cpu.node_id, WQ_NAMES[wq_id])
                    assert nr == QUEUES[WQ_NAMES[wq_id]] or not pool.delayed.get(wq_id)
                running = sum(
                    not flags & WORKER_NOT_RUNNING and not cpu.tasks[pid].run.submit
                    for pid, flags in pool.workers.items()
                )
                assert pool.nr_running == running
                assert set(pool.idle) <= set(pool.workers)
                assert not set(pool.idle) & set(pool.executing)

    @invariant()
    def every_worker_is_known_to_its_pool(self) -> None:
        """A bound worker is its CPU's; one that is not has its pool's CPU offline, or comes home."""
        cpus = getattr(self, "box", NO_BOX).cpus
        for cpu in cpus:
            if cpu.asked is not None:
                self.asked_pools_count_what_they_hold(cpu.asked)
            for pid, p in cpu.tasks.items():
                if not p.flags & PF_WQ_WORKER:
                    continue
                if not is_unbound(p):
                    assert pid in cpu.pools[p.run.worker].workers
                    continue
                facts = wq_unbound.pool_of(cpu, p)
                if facts.home < 0:
                    continue
                home = cpus[facts.home]
                pool = home.pools[facts.nice < 0]
                assert pid not in pool.workers
                there = home.asked.pools[facts.index] if home.asked else None
                assert there is None or pid in there.places or pid == there.creating

    @invariant()
    def unbound_pools_count_what_they_hold(self) -> None:
        """The same of the pools of no CPU."""
        node = getattr(self, "box", NO_BOX).shared
        if node is None:
            return
        self.asked_pools_count_what_they_hold(node.asked)

    def asked_pools_count_what_they_hold(self, asked: AskedPools) -> None:
        """Items on the lists and with workers are what ``nr_active`` says, and never too many."""
        held: Counter[tuple[int, int]] = Counter()
        for pool in asked.pools.values():
            held.update(key for key, _item in pool.worklist)
            held.update(pool.executing.values())
        assert held == +Counter(asked.active)
        for key, nr in held.items():
            assert nr <= asked.limits.max_active(key)
            assert nr == asked.limits.max_active(key) or not asked.delayed.get(key)

    def teardown(self) -> None:
        """In the end every item has been executed once, those of a queue in their order."""
        if not hasattr(self, "box"):
            return
        for _ in range(150):
            self.time_passes(20 * MS)
            if not any(self.told) and works_of(self.box)[0] == works_of(self.box)[1]:
                break
        started = self.box.events("workqueue_execute_start")
        ended = Counter(e[2]["work"] for e in self.box.events("workqueue_execute_end"))
        queued = self.box.events("workqueue_queue_work")
        assert len(queued) == self.nr_told
        assert set(ended.values()) <= {1}
        assert len(queued) - len(ended) == self.cancelled()
        assert ended.keys() <= {e[2]["work"] for e in queued}
        assert ended == Counter(e[2]["work"] for e in started)
        if not self.gone:
            assert_ordered([e for e in queued if e[2]["work"] in ended], started)
        made, done = works_of(self.box)
        assert made == done
        assert not any(cpu.flushers for cpu in self.box.cpus), "somebody waits for ever"


class _NoBox:
    """Nothing is built yet."""

    cpus: tuple[Any, ...] = ()
    shared = None


NO_BOX = _NoBox()


def works_of(box: Box) -> tuple[int, int]:
    """Return how many works were queued, and how many have ended."""
    return sum(cpu.works[0] for cpu in box.cpus), sum(cpu.works[1] for cpu in box.cpus)


def assert_ordered(queued: list[Event], started: list[Event]) -> None:
    """The items that a CPU has on a bound queue start in the order in which they were queued."""
    place = {e[2]["work"]: (e[2]["on"], e[2]["workqueue"]) for e in queued if e[2]["cpu"] >= 0}
    for whose in set(place.values()):
        first = [e[2]["work"] for e in queued if place.get(e[2]["work"]) == whose]
        then = [e[2]["work"] for e in started if place.get(e[2]["work"]) == whose]
        assert then == first, whose


def test_the_queues_of_the_machine_are_there() -> None:
    flags = {name.rstrip("/"): flags for name, flags, _max in ROWS.values()}
    assert set(QUEUES) <= set(flags)


TestWorkqueueMachine = WorkqueueMachine.TestCase
TestWorkqueueMachine.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, print_blob=True
)
