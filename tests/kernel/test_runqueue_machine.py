"""A Hypothesis state machine of whole runqueues: random programs, hotplug and affinities, any version.

Every CPU is the real one, with stop, fair and idle class, interrupts and balancer; whatever happens,
each runqueue counts exactly what it holds.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from emulator.kernel.cpu import Cpu
from emulator.kernel.sched import FAIR_CLASS, RT_CLASS, Task
from emulator.rules import POLICIES, VERSIONS, changed, policy_switches, rules_of
from emulator.types import (
    OP_EXEC,
    OP_RUN,
    OP_SLEEP,
    OP_SLEEP_JIFFIES,
    OP_YIELD,
    RQ_FLAGS,
    RQ_H_NR_RUNNING,
    RQ_NR_RUNNING,
    RQF_ACTIVE,
    cpulist_format,
)
from tests.kernel.box import MS, US, Box, Job, Steps, costs, machine

CHARGES = costs(
    coherence_ns=100,
    request_ns=500,
    ttwu_ns=600,
    select_task_rq_ns=400,
    ttwu_activate_ns=500,
    context_switch_ns=1_500,
    ipi_ns=700,
    ipi_handler_ns=300,
    hardirq_ns=700,
    hrtimer_ns=1_000,
    tick_ns=1_000,
    softirq_ns=200,
    idle_exit_ns=1_000,
    idle_entry_ns=1_000,
    balance_pass_ns=2_000,
    nohz_cpu_ns=1_000,
    stopper_ns=1_500,
    stopper_tail_ns=1_500,
    newidle_ns=200,
    nanosleep_ns=600,
    syscall_ns=200,
)
TIMES = st.one_of(st.integers(1, 200 * US), st.integers(1, 20 * MS))
OPS = st.one_of(
    st.tuples(st.just(OP_RUN), TIMES),
    st.tuples(st.just(OP_SLEEP), TIMES),
    st.tuples(st.just(OP_SLEEP_JIFFIES), st.integers(1, 5)),
    st.tuples(st.just(OP_YIELD)),
    st.tuples(st.just(OP_EXEC)),
)
#: (operations, nice, policy, mask of allowed CPUs, start)
TASKS = st.tuples(
    st.lists(OPS, min_size=1, max_size=6),
    st.integers(-20, 19),
    st.sampled_from(("normal", "normal", "normal", "batch", "idle")),
    st.integers(1, 15),
    st.integers(0, 30 * MS),
)
#: (CPUs, CPUs per LLC, per core, per node)
SHAPES = st.sampled_from(
    ((1, 0, 1, 0), (2, 0, 1, 0), (4, 0, 1, 0), (4, 0, 2, 0), (4, -1, 1, 0), (4, 2, 1, 2))
)
CPU = st.integers(0, 3)


class RunqueueMachine(RuleBasedStateMachine):
    """A small machine whose tasks do random things, and to which random things are done."""

    @initialize(
        shape=SHAPES,
        hz=st.sampled_from((250, 1000)),
        version=st.sampled_from(VERSIONS),
        policy=st.sampled_from(("", *POLICIES)),
        tasks=st.lists(TASKS, min_size=1, max_size=6),
    )
    def build(
        self,
        shape: tuple[int, int, int, int],
        hz: int,
        version: str,
        policy: str,
        tasks: list[tuple[list[tuple[int, ...]], int, str, int, int]],
    ) -> None:
        """Build the box; every task starts on the first CPU that it may use."""
        rules = changed(rules_of(version), policy_switches(policy) if policy else {})
        nr_cpus, llc, core, node = shape
        topology = machine(nr_cpus, hz=hz, llc=llc, core=core, node=node)
        everyone = (1 << nr_cpus) - 1
        jobs = []
        for number, (ops, nice, sched, wanted, start_ns) in enumerate(tasks):
            mask = wanted & everyone or everyone
            cpu = (mask & -mask).bit_length() - 1
            jobs.append(
                Job(
                    lambda ops=ops: self.steps(ops),  # type: ignore[misc]
                    name=f"t{number}",
                    cpu=cpu,
                    mask=mask,
                    nice=nice,
                    policy=sched,
                    start_ns=start_ns,
                )
            )
        self.now = 0
        self.box = Box(*jobs, charges=CHARGES, rules=rules, version=version, topology=topology)
        self.least = [cpu.rq.cfs.min_vruntime for cpu in self.box.cpus]

    def steps(self, ops: list[tuple[int, ...]]) -> Steps:
        """Do the operations over and over; a sleep's time counts from now."""
        while True:
            for op in ops:
                if op[0] == OP_SLEEP:
                    yield (OP_SLEEP, self.now + op[1])
                else:
                    yield op
            yield (OP_RUN, 5 * US)  # time goes by, whatever the operations are

    @rule(ns=st.one_of(st.integers(1, 100 * US), st.integers(1, 30 * MS)))
    def time_passes(self, ns: int) -> None:
        """Run the box for a while."""
        self.now += ns
        self.box.run(self.now)

    @rule(where=CPU)
    def offline(self, where: int) -> None:
        """A CPU goes down, or not, if it is down already."""
        self.hotplug("offline", where)

    @rule(where=CPU)
    def online(self, where: int) -> None:
        """And comes back."""
        self.hotplug("online", where)

    @rule(task=st.integers(0, 5), mask=st.integers(1, 15))
    def affine(self, task: int, mask: int) -> None:
        """A task's affinity changes, wherever it is."""
        everyone = (1 << len(self.box.cpus)) - 1
        name = f"t{task % len(self.box.jobs)}"
        words = ("task", "affine", name, cpulist_format(mask & everyone or everyone))
        self.now += 1
        for cpu in self.box.cpus:
            self.box.command(self.now, cpu.node_id, *words)
        self.time_passes(2 * MS)

    @rule(
        task=st.integers(0, 5),
        cpu=CPU,
        policy=st.sampled_from(
            (("fifo", "1"), ("fifo", "7"), ("rr", "7"), ("normal",), ("batch",), ("idle",))
        ),
    )
    def chrt(self, task: int, cpu: int, policy: tuple[str, ...]) -> None:
        """A task changes its policy, wherever it is; one that is to be real-time is bound before."""
        name = f"t{task % len(self.box.jobs)}"
        lines = [("chrt", name, *policy)]
        if len(policy) > 1:
            lines.insert(0, ("taskset", name, str(cpu % len(self.box.cpus))))
        for words in lines:
            self.now += 20 * US
            for one in self.box.cpus:
                self.box.command(self.now, one.node_id, *words)
        self.time_passes(2 * MS)

    def hotplug(self, verb: str, where: int) -> None:
        """Give one of the CPUs but the first a command, and time to carry it out."""
        if len(self.box.cpus) > 1:
            target = 1 + where % (len(self.box.cpus) - 1)
            self.now += 1
            self.box.command(self.now, target, "cpu", verb, str(target))
        self.time_passes(MS)

    @invariant()
    def every_queue_counts_what_it_holds(self) -> None:
        """Numbers, weights and lists agree, and nobody is where it may not be."""
        if not hasattr(self, "box"):
            return
        for cpu in self.box.cpus:
            rq, cfs = cpu.rq, cpu.rq.cfs
            held = members(cpu)
            real = [] if rq.rt.rt_throttled else rq.rt.queue
            assert rq.nr_running == len(held) + len(real) + rq.stop_queued
            assert [p.prio for p in rq.rt.queue] == sorted(p.prio for p in rq.rt.queue)
            assert all(p.sched_class == RT_CLASS and p.on_rq for p in rq.rt.queue)
            assert cfs.nr_running == len(held)
            assert cfs.load_weight == sum(p.weight for p in held)
            assert sorted(p.pid for p in held) == sorted(p.pid for p in cfs.cfs_tasks)
            for p in (*held, *rq.rt.queue):
                assert cpu.tasks[p.pid] is p
                assert p.cpu == cpu.node_id
                assert p.on_rq
                assert p.cpus_mask >> cpu.node_id & 1 or p.affinity_broken or cpu.rq.curr is p
            if not cpu.online:
                assert not held
                assert not rq.rt.queue

    @invariant()
    def min_vruntime_never_falls(self) -> None:
        """On no queue, in no version."""
        if not hasattr(self, "box"):
            return
        for number, cpu in enumerate(self.box.cpus):
            assert cpu.rq.cfs.min_vruntime >= self.least[number]
            self.least[number] = cpu.rq.cfs.min_vruntime

    @invariant()
    def what_is_published_is_so(self) -> None:
        """The others see numbers that this queue has, or has just had inside one decision."""
        if not hasattr(self, "box"):
            return
        for cpu in self.box.cpus:
            facts = cpu.board.read(cpu.node_id, self.now)
            assert bool(facts[RQ_FLAGS] & RQF_ACTIVE) == (cpu.active and cpu.online)
            assert facts[RQ_NR_RUNNING] >= facts[RQ_H_NR_RUNNING] >= 0


def members(cpu: Cpu) -> list[Task]:
    """Return the tasks that a CPU's fair class holds: those in the timeline, and the current one."""
    held = [p for *_key, p in cpu.rq.cfs.tree]
    curr = cpu.rq.cfs.curr
    if curr is not None and curr.on_rq and curr.sched_class == FAIR_CLASS:
        held.append(curr)
    return held


TestRunqueueMachine = RunqueueMachine.TestCase
TestRunqueueMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
