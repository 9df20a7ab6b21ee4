"""A small machine for the tests of the kernel room, built in this process.

:class:`Box` is a whole machine: CPUs, balancer and disks in an inline engine, each CPU with a ring
in memory.  Every cost is 0 unless given, so that a test states its own arithmetic.  A task runs a
:class:`Script`, a generator of operations that is sent what each returned.  :func:`lone_cpu` is one
CPU whose view of the others a test writes by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, fields
from typing import Any

from emulator.balance.balancer import Balancer
from emulator.completion import CompletionSpec
from emulator.device.disk import Disk
from emulator.engine.board import HistoryBoard
from emulator.engine.inline import InlineBox
from emulator.engine.node import Node
from emulator.kernel import (
    fair,
    frames,
    kthread,
    workqueue,
    wq_pool,
)
from emulator.kernel.cpu import Cpu
from emulator.kernel.process import TaskRun
from emulator.kernel.sched import Task
from emulator.kernel.shared import Shared
from emulator.kernel.wq_table import shared_node
from emulator.messages import COMMAND
from emulator.rules import FEATURES, Rules
from emulator.trace.memory import MemoryRing, NullRing
from emulator.tracepoints import TASK_INTERRUPTIBLE, TASK_RUNNING, TRACEPOINTS
from emulator.types import (
    BAL_ACTIVE_MASK,
    BAL_COLUMNS,
    BAL_HEADER,
    BAL_NEXT_BALANCE,
    BAL_NOHZ_NEXT_BALANCE,
    BAL_NR_IDLE_SCAN,
    COORDINATOR,
    NEVER,
    OP_EXIT,
    RQ_FACTS,
    RQ_FLAGS,
    RQ_H_NR_RUNNING,
    RQ_IDLE_CORES,
    RQ_LAST_UPDATE_TIME,
    RQ_LOAD_AVG,
    RQ_NR_RUNNING,
    RQ_OVERLOAD_NS,
    RQ_RUNNABLE_AVG,
    RQ_UTIL_AVG,
    RQF_ACTIVE,
    RQF_IDLE,
    RQF_ONLINE,
    Books,
    BoxSpec,
    Costs,
    DiskSpec,
    FilesystemSpec,
    KernelSpec,
    Latencies,
    MachineSpec,
    Op,
    WorkloadSpec,
    WorkqueueSpec,
)
from emulator.workload.ended import EndedProgram

US = 1_000
MS = 1_000_000

#: Woken tasks preempt nobody, and a CPU that goes idle looks for nothing elsewhere.
QUIET = {
    "kernel.sched_wakeup_granularity_ns": 1_000_000_000,
    "kernel.sched_migration_cost_ns": 1_000_000_000,
}
#: What a script is: a generator of operations; ``yield`` returns what the operation returned.
Steps = Generator[Op, Any, None]
#: One record as tests read it: time, event, arguments by name.
Event = tuple[int, str, dict[str, Any]]


class Script:
    """A program whose steps are a generator; it stays in this process when its task moves."""

    name = "script"
    aio_events = 128
    made: dict[int, Script] = {}  # noqa: RUF012 - a generator is not plain data, so it is kept here

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.calls: list[tuple[int, Any]] = []  #: (time, result) of every call of next()
        self.made[id(self)] = self

    def next(self, now_ns: int, result: Any) -> Op:
        """Send the generator what the last operation returned, and return its next one."""
        self.calls.append((now_ns, result))
        try:
            return self.steps.send(result if len(self.calls) > 1 else None)
        except StopIteration:
            return (OP_EXIT,)

    def quiet_ns(self, ring_events: int) -> int:
        """Promise nothing."""
        return 0

    def measure_in(self, books: Books | None) -> None:
        """Measure nothing."""

    def pack(self) -> list[Any]:
        """Return the key of this very object."""
        return [self.name, id(self)]


@dataclass
class Job:
    """One task of a box: what it runs, where it starts, what it may touch."""

    steps: Callable[[], Steps]
    name: str = "task"
    cpu: int = 0
    mask: int = 0  #: 0: all CPUs
    nice: int = 0
    start_ns: int = 0
    disk: str = ""  #: its file (number 0, 1 … by position) is on this mount
    kthread: bool = False
    policy: str = "normal"
    rt_priority: int = 0  #: of fifo and rr; such a task may use its ``cpu`` alone
    reads: tuple[int, ...] = ()  #: pipes
    writes: tuple[int, ...] = ()
    file: dict[str, Any] = field(default_factory=dict)  #: size, layout, eof, open_sync of its file
    script: Script | None = field(default=None, init=False)


def costs(**given: int) -> Costs:
    """Return costs that are 0 where nothing is given; messages take the least time, 1 ns."""
    numbers: dict[str, Any] = {one.name: 0 for one in fields(Costs) if one.type == "int"}
    numbers |= dict.fromkeys(("coherence_ns", "request_ns"), 1)
    assert given.keys() <= numbers.keys(), f"unknown costs {given.keys() - numbers.keys()}"
    return Costs(**(numbers | given))


def machine(
    nr_cpus: int, *, hz: int = 1000, llc: int = 0, core: int = 1, node: int = 0
) -> MachineSpec:
    """Return a machine with groups of so many CPUs per LLC (0: one, -1: none), core and node."""

    def masks(size: int) -> tuple[int, ...]:
        return tuple(((1 << size) - 1) << c // size * size for c in range(nr_cpus))

    nodes = nr_cpus // (node or nr_cpus)
    return MachineSpec(
        nr_cpus=nr_cpus,
        hz=hz,
        core=masks(core),
        llc=(0,) * nr_cpus if llc < 0 else masks(llc or nr_cpus),
        die=masks(node or nr_cpus),
        node=masks(node or nr_cpus),
        node_distance=tuple(
            tuple(10 if i == j else 20 for j in range(nodes)) for i in range(nodes)
        ),
    )


def scsi_debug(
    ndelay: int, *, depth: int = 192, scheduler: str = "mq-deadline", rq_affinity: int = 1
) -> DiskSpec:
    """Return a scsi_debug disk, by default as the thread's: one queue, mq-deadline."""
    params = {"ndelay": ndelay, "submit_queues": 1, "max_queue": depth}
    return DiskSpec(
        "sda",
        "scsi_debug",
        params,
        scheduler,
        rq_affinity,
        2 * depth if scheduler != "none" else depth,
    )


def null_blk(
    irqmode: int, *, submit_queues: int = 1, rq_affinity: int = 1, completion_nsec: int = 10_000
) -> DiskSpec:
    """Return a null_blk disk without an elevator."""
    params = {
        "irqmode": irqmode,
        "submit_queues": submit_queues,
        "hw_queue_depth": 64,
        "completion_nsec": completion_nsec,
    }
    return DiskSpec("sda", "null_blk", params, "none", rq_affinity, 64)


def box_spec(
    spec: MachineSpec,
    charges: Costs,
    jobs: list[Job],
    disk: DiskSpec | None = None,
    block_size: int = 4096,
    sysctls: dict[str, int] | None = None,
    features: dict[str, bool] | None = None,
    rcu_callbacks: bool = False,
    rcu_needs_cpu: bool = False,
    rules: Rules = Rules(),
    version: str = "5.4",
    completion: CompletionSpec | None = None,
    wq: WorkqueueSpec = WorkqueueSpec(),
    threadirqs: bool = False,
) -> BoxSpec:
    """Return the box of these parts; mounts are ``/xfs`` and ``/raw``, both on the one disk."""
    mounts = () if disk is None else (("/xfs", "xfs", block_size), ("/raw", "none", 512))
    everyone = (1 << spec.nr_cpus) - 1
    workloads = tuple(
        WorkloadSpec(
            name=job.name,
            program="script",
            params=params_of(job, index),
            count=1,
            nice=job.nice,
            cpus_allowed=job.mask or (1 << job.cpu if job.rt_priority else everyone),
            start_ns=job.start_ns,
            start_cpu=job.cpu,
            figure=False,
            kthread=job.kthread,
            policy=job.policy,
            rt_priority=job.rt_priority,
        )
        for index, job in enumerate(jobs)
    )
    return BoxSpec(
        name="test",
        seed=1,
        duration_ns=NEVER,
        warmup_ns=0,
        machine=spec,
        kernel=KernelSpec(
            version,
            FEATURES[version] | (features or {}),
            sysctls or {},
            rules=rules,
            rcu_callbacks=rcu_callbacks,
            rcu_needs_cpu=rcu_needs_cpu,
            completion=completion or CompletionSpec(),
            workqueue=wq,
            threadirqs=threadirqs,
        ),
        costs=charges,
        disks=() if disk is None else (disk,),
        filesystems=tuple(FilesystemSpec(name, kind, "sda", size) for name, kind, size in mounts),
        workloads=workloads,
    )


def params_of(job: Job, index: int) -> dict[str, Any]:
    """Return what the kernel reads of a workload's parameters: its file, its pipes."""
    pipes = {"reads": job.reads, "writes": job.writes}
    params: dict[str, Any] = {name: list(ends) for name, ends in pipes.items() if ends}
    return params | ({"filesystem": job.disk, "file": index, **job.file} if job.disk else {})


class Scripts:
    """The programs of a box of scripts."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs = jobs

    def unpack(self, data: list[Any]) -> Script:
        """Return the script that was packed."""
        return Script.made[data[1]]

    def unpack_books(self, data: list[Any]) -> Books:
        """Refuse: scripts keep none."""
        raise AssertionError(data)

    def make(self, workload: int) -> Script:
        """Start a job's script."""
        job = self.jobs[workload]
        job.script = Script(job.steps())
        return job.script

    def make_bound(self, workload: int, cpu: int) -> Script:
        """Refuse: these boxes have no task that goes where another one is."""
        raise AssertionError(workload, cpu)

    def load(self, percent: int, now_ns: int) -> Script:
        """Refuse: these boxes have no ``cpu load``."""
        raise AssertionError(percent, now_ns)

    def know(self, spec: BoxSpec) -> None:
        """Refuse: these boxes get no more workloads."""
        raise AssertionError(spec)

    def ended(self, program: Any) -> Any:
        """Return a script that exits at once."""
        return EndedProgram(program)


class Box:
    """A machine that runs, and what its rings say."""

    def __init__(
        self,
        *jobs: Job,
        nr_cpus: int = 1,
        hz: int = 1000,
        llc: int = 0,
        core: int = 1,
        node: int = 0,
        charges: Costs | None = None,
        disk: DiskSpec | None = None,
        block_size: int = 4096,
        sysctls: dict[str, int] | None = None,
        features: dict[str, bool] | None = None,
        rcu_callbacks: bool = False,
        rcu_needs_cpu: bool = False,
        rules: Rules = Rules(),
        version: str = "5.4",
        topology: MachineSpec | None = None,
        completion: CompletionSpec | None = None,
        wq: WorkqueueSpec = WorkqueueSpec(),
        threadirqs: bool = False,
    ) -> None:
        topology = topology or machine(nr_cpus, hz=hz, llc=llc, core=core, node=node)
        nr_cpus = topology.nr_cpus
        self.jobs = list(jobs)
        self.spec = box_spec(
            topology,
            charges or costs(),
            self.jobs,
            disk,
            block_size,
            sysctls,
            features,
            rcu_callbacks,
            rcu_needs_cpu,
            rules,
            version,
            completion,
            wq,
            threadirqs,
        )
        shared = [Shared(self.spec)] if shared_node(self.spec) >= 0 else []
        nr_nodes = nr_cpus + 1 + len(self.spec.disks) + len(shared)
        board = HistoryBoard(nr_nodes)
        self.rings = [MemoryRing(f"cpu{c}", c) for c in range(nr_cpus)]
        self.cpus = [
            Cpu(self.spec, c, board, self.rings[c], Scripts(self.jobs)) for c in range(nr_cpus)
        ]
        self.balancer = Balancer(self.spec, board, NullRing("coordinator", nr_cpus))
        disks = [
            Disk(self.spec, i, NullRing("disk", nr_cpus + 1)) for i in range(len(self.spec.disks))
        ]
        for index, job in enumerate(self.jobs):
            words = ["spawn", index, self.pid(index)]
            self.cpus[job.cpu].deliver(
                (job.start_ns, COORDINATOR, index, job.cpu, COMMAND, (words,))
            )
        charged = self.spec.costs
        latencies = Latencies(
            cpu_ns=min(charged.ttwu_activate_ns, charged.ipi_ns),
            device_ns=charged.coherence_ns,
            balancer_ns=charged.request_ns,
            coherence_ns=charged.coherence_ns,
        )
        nodes: list[Node] = [*self.cpus, self.balancer, *disks, *shared]
        self.engine = InlineBox(nodes, nr_cpus, [board], latencies)
        self.shared = shared[0] if shared else None

    @staticmethod
    def pid(index: int) -> int:
        """Return the pid of a job's task."""
        return kthread.FIRST_USER_PID + 100 * index

    def run(self, until_ns: int) -> Box:
        """Run every event before ``until_ns``, audit the books, and return the box."""
        for position, node in enumerate(self.engine._nodes):
            self.engine._collect(node)
            self.engine._times[position] = node.next_event_ns()  # a test may have changed it
        self.engine.run(until_ns)
        self.engine.check()
        return self

    def command(self, at_ns: int, cpu: int, *words: Any) -> None:
        """Post a command to a CPU."""
        sequence = 1000 + at_ns
        self.engine.post((at_ns, COORDINATOR, sequence, cpu, COMMAND, (list(words),)))

    def task(self, index: int = 0) -> Task:
        """Return a job's task, wherever it is."""
        return next(c.tasks[self.pid(index)] for c in self.cpus if self.pid(index) in c.tasks)

    def script(self, index: int = 0) -> Script:
        """Return a job's script."""
        script = self.jobs[index].script
        assert script is not None
        return script

    def events(self, *names: str, cpu: int | None = None, since_ns: int = 0) -> list[Event]:
        """Return the records of these events (all if none is named) in order of time."""
        found: list[tuple[int, int, int, Event]] = []
        for number, ring in enumerate(self.rings):
            if cpu is not None and number != cpu:
                continue
            for position, record in enumerate(ring.records):
                event = read_record(ring, record)
                if record[0] >= since_ns and (not names or event[1] in names):
                    found.append((record[0], number, position, event))
        found.sort(key=lambda one: one[:3])
        return [(t, name, args | {"on": number}) for t, number, _, (_, name, args) in found]

    def times(self, name: str, cpu: int | None = None, **args: Any) -> list[int]:
        """Return the times of an event with these arguments."""
        return [
            event[0]
            for event in self.events(name, cpu=cpu)
            if all(event[2][key] == value for key, value in args.items())
        ]

    def switches(self, cpu: int = 0) -> list[tuple[int, str, str]]:
        """Return (time, previous, next) by comm of every switch of a CPU."""
        return [
            (t, self.comm(args["prev"]), self.comm(args["next"]))
            for t, _, args in self.events("sched_switch", cpu=cpu)
        ]

    def comm(self, pid: int) -> str:
        """Return the name of a task, ``idle`` for pid 0."""
        if pid == 0:
            return "idle"
        for ring in self.rings:
            comm = ring.names.comms.get(pid)
            if comm is not None:
                return str(comm)
        raise AssertionError(f"nobody knows pid {pid}")


def read_record(ring: MemoryRing, record: tuple[int, ...]) -> Event:
    """Return one record with its arguments by name; interned names as text."""
    point = TRACEPOINTS[record[1]]
    args: dict[str, Any] = {"flags": record[2], "current": record[4]}
    for (name, kind), value in zip(point.fields, record[6:], strict=False):
        args[name] = ring.names.names[value] if kind == "str" else value
    return (record[0], point.name, args)


# -- One CPU alone ------------------------------------------------------------------------------


class FixedBoard:
    """A board on which a test writes what the others look like."""

    def __init__(self, nr_cpus: int) -> None:
        self.facts: list[tuple[int, ...]] = [facts() for _ in range(nr_cpus)]
        self.facts.append(balancer_facts(nr_cpus))

    def publish(self, node: int, time_ns: int, facts: tuple[int, ...]) -> None:
        """Keep the newest facts of a node."""
        del time_ns
        self.facts[node] = facts

    def read(self, node: int, as_of_ns: int) -> tuple[int, ...]:
        """Return the newest facts, whatever their age."""
        del as_of_ns
        return self.facts[node]


def facts(
    nr_running: int = 0,
    *,
    flags: int | None = None,
    runnable_load: int = 0,
    load: int = 0,
    util: int = 0,
    idle_since: int = 0,
    idle_cores: int = 0,
) -> tuple[int, ...]:
    """Return the facts of a runqueue, by default of an idle, active CPU."""
    if flags is None:
        flags = RQF_ONLINE | RQF_ACTIVE | (0 if nr_running else RQF_IDLE)
    found = [0] * RQ_FACTS
    found[RQ_FLAGS] = flags
    found[RQ_NR_RUNNING] = found[RQ_H_NR_RUNNING] = nr_running
    found[RQ_RUNNABLE_AVG] = runnable_load
    found[RQ_LOAD_AVG] = load
    found[RQ_UTIL_AVG] = util
    found[RQ_LAST_UPDATE_TIME] = idle_since
    found[RQ_OVERLOAD_NS] = -1
    found[RQ_IDLE_CORES] = idle_cores
    return tuple(found)


def balancer_facts(
    nr_cpus: int,
    nohz_mask: int = 0,
    nohz_next: int = NEVER,
    has_blocked: int = 0,
    next_blocked: int = 0,
    next_balance: int = NEVER,
    nr_idle_scan: int = NEVER,
    needs_update: int = 0,
) -> tuple[int, ...]:
    """Return what the balancer publishes, by default that nothing is due."""
    header = [NEVER, nohz_mask, nohz_next, has_blocked, next_blocked]
    header += [(1 << nr_cpus) - 1, needs_update]
    assert len(header) == BAL_HEADER
    assert header[BAL_NOHZ_NEXT_BALANCE] == nohz_next
    assert header[BAL_ACTIVE_MASK] == (1 << nr_cpus) - 1
    columns = [NEVER] * BAL_COLUMNS
    columns[BAL_NEXT_BALANCE] = next_balance
    columns[BAL_NR_IDLE_SCAN] = nr_idle_scan
    return (*header, *(item for item in columns for _ in range(nr_cpus)))


def lone_cpu(
    cpu: int = 0,
    nr_cpus: int = 1,
    *,
    hz: int = 1000,
    llc: int = 0,
    core: int = 1,
    node: int = 0,
    charges: Costs | None = None,
    disk: DiskSpec | None = None,
    features: dict[str, bool] | None = None,
    rules: Rules = Rules(),
    version: str = "5.4",
    topology: MachineSpec | None = None,
) -> tuple[Cpu, FixedBoard, MemoryRing]:
    """Return one CPU of a machine, the board it reads, and its ring."""
    topology = topology or machine(nr_cpus, hz=hz, llc=llc, core=core, node=node)
    spec = box_spec(
        topology, charges or costs(), [], disk, features=features, rules=rules, version=version
    )
    board = FixedBoard(topology.nr_cpus)
    ring = MemoryRing(f"cpu{cpu}", cpu)
    return Cpu(spec, cpu, board, ring, Scripts([])), board, ring


def sleeping_task(cpu: Cpu, pid: int = 500, mask: int = 0, prev: int | None = None) -> Task:
    """Create a task that this CPU owns, asleep, whose previous CPU is ``prev``."""
    everyone = mask or (1 << cpu.nr_cpus) - 1
    p = kthread.new_task(cpu, pid, f"task{pid}", 0, everyone, TaskRun(None, 0))
    p.state = TASK_INTERRUPTIBLE
    if prev is not None:
        p.cpu = p.wake_cpu = p.recent_used_cpu = prev
    return p


def run_task(cpu: Cpu, p: Task) -> None:
    """Make a task the current one of its CPU, as if it had been switched to."""
    p.state = TASK_RUNNING
    fair.enqueue_task_fair(cpu.rq, p, 0)
    following = fair.pick_next_task_fair(cpu.rq, cpu.rq.curr)
    assert following is p
    cpu.rq.curr.on_cpu = 0
    p.on_cpu = 1
    cpu.rq.curr = p


def script_work(cpu: Cpu, wq_id: int, steps: list[tuple[int, int]]) -> int:
    """Queue a work item that burns and sleeps as ``steps`` say; return its id."""
    cpu.now = max(cpu.now, cpu.reached_ns)
    work = cpu.work_id()
    items = [list(step) for step in steps]
    if workqueue.queue_work(cpu, wq_id, wq_pool.FN_SCRIPT, items, work):
        workqueue.wake_up_worker(cpu, cpu.pools[cpu.workqueues[wq_id].pool])
    cpu.irqs.append((frames.IRQ_IPI, None, 0))  # its return looks at need_resched
    return work
