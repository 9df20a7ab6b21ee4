"""All that there is once per CPU: the state of a :class:`~emulator.kernel.cpu.Cpu`, as it is at boot.

What is done with it is in the classes that build on this one: :mod:`record` has what a CPU records,
:mod:`execution` its frames and timers, :mod:`sending` what leaves it, :mod:`publication` what the
others may read of it, :mod:`cpu` the loop over all of that.
"""

from __future__ import annotations

from typing import Any, Protocol

from emulator import tracepoints as tp
from emulator.kernel import (
    buffered,
    dio_completion,
    eevdf,
    fair,
    frames,
    kthread,
    pipe,
    promises,
    psi,
    rcu,
    sched_info,
    wq_flush,
    wq_table,
    xfs_file,
    xfs_log,
)
from emulator.kernel.blk_queue import BlockQueue
from emulator.kernel.fs_writeback import Backing
from emulator.kernel.irq_thread import IrqThread
from emulator.kernel.names import Names, traced_names
from emulator.kernel.process import TaskRun
from emulator.kernel.request import Request
from emulator.kernel.sched import Rq, Task
from emulator.kernel.wq_asked import AskedPools
from emulator.kernel.wq_pool import WorkerPool
from emulator.topology import DomainMap
from emulator.types import NEVER, Board, Books, BoxSpec, Message, Program, TraceSink


class Programs(Protocol):
    """The programs that tasks run, as the builder of the box provides them."""

    def unpack(self, data: list[Any]) -> Program:
        """Rebuild a program from what its ``pack()`` returned."""
        ...

    def unpack_books(self, data: list[Any]) -> Books:
        """Rebuild what a program has measured from what ``Books.pack()`` returned."""
        ...

    def make(self, workload: int) -> Program:
        """Build the program of one of the box's workloads."""
        ...

    def make_bound(self, workload: int, cpu: int) -> Program:
        """Build the program of a workload whose task first binds itself to a CPU."""
        ...

    def load(self, percent: int, now_ns: int) -> Program:
        """Build the program of ``cpu load``."""
        ...

    def know(self, spec: BoxSpec) -> None:
        """Take note that the box has more workloads."""
        ...

    def ended(self, program: Program) -> Program:
        """Return what a task runs from now on whose program is told to end."""
        ...


class PerCpu:
    """The state of one CPU."""

    __slots__ = (
        "active",
        "added",
        "adopted",
        "adopter",
        "arrivals",
        "asked",
        "asleep",
        "backing",
        "bal_node",
        "balance_asked",
        "board",
        "books_kept",
        "buffered",
        "busy_pass",
        "call_done",
        "cause",
        "completed",
        "completion",
        "costs",
        "counters",
        "create_failed",
        "deferred",
        "delayed_wakes",
        "dev_numbers",
        "device_nodes",
        "domains",
        "done_list",
        "draining",
        "edge",
        "enabled",
        "ended",
        "exited",
        "expect",
        "f_arg",
        "f_end",
        "f_kind",
        "files",
        "first_disassociated",
        "flushers",
        "flushes",
        "forward",
        "going_down",
        "handed",
        "held",
        "horizon",
        "hz",
        "idle_cores",
        "in_nohz_mask",
        "in_softirq",
        "inbox",
        "inflight",
        "io_seq",
        "ipis",
        "irq_start_ns",
        "irq_threads",
        "irqs",
        "irqs_on",
        "irqtime",
        "jiffy_timers",
        "kick_cause",
        "killed",
        "ksoftirqd",
        "level",
        "limit",
        "llc_mask",
        "load_pid",
        "mail",
        "mail_safe_ns",
        "mail_sleepers",
        "make_program",
        "modules",
        "names",
        "node_id",
        "nohz_flags",
        "nohz_told",
        "now",
        "nr_cpus",
        "online",
        "outbox",
        "pid_seq",
        "piped",
        "pipes",
        "pods",
        "policies",
        "pools",
        "printed",
        "printed_since",
        "programs",
        "psi",
        "published_nr",
        "pushing",
        "queues",
        "rcu",
        "reached_ns",
        "ring_base",
        "rq",
        "scan_cost",
        "sched_info",
        "seq",
        "shared_node",
        "sink",
        "sirq_block",
        "sirq_end",
        "sirq_left",
        "sirq_mask",
        "smt_siblings",
        "softirq_pending",
        "spec",
        "stack",
        "stalled",
        "stalled_at",
        "steal",
        "stop_works",
        "tasks",
        "threadirqs",
        "tick_at",
        "tick_ns",
        "tick_stopped",
        "timer_seq",
        "timer_watch_ns",
        "timers",
        "ttwu_queue",
        "unbound_pools",
        "wake_list",
        "wake_reply_ns",
        "wakeups",
        "waking",
        "wants_view",
        "work_seq",
        "workqueues",
        "works",
        "wq_cull_at",
        "wq_idle_timeout",
        "wq_rr_cpu",
        "wq_ticket",
        "wq_watch_at",
        "wq_watchdog",
        "xfs_log",
    )

    def __init__(
        self, spec: BoxSpec, cpu: int, board: Board, sink: TraceSink, programs: Programs
    ) -> None:
        machine = spec.machine
        self.spec = spec
        self.node_id = cpu
        self.nr_cpus = machine.nr_cpus
        self.bal_node = machine.nr_cpus
        self.device_nodes = [machine.nr_cpus + 1 + i for i in range(len(spec.disks))]
        self.costs = spec.costs
        self.hz = machine.hz
        self.tick_ns = 1_000_000_000 // machine.hz
        self.llc_mask = machine.llc[cpu]
        self.smt_siblings = machine.core[cpu] & ~(1 << cpu)
        #: the sched domains, for the active CPUs that this one was last told of
        self.domains = DomainMap(machine, spec.kernel.rules, (1 << machine.nr_cpus) - 1)
        self.idle_cores = int(bool(self.smt_siblings))  # RQ_IDLE_CORES: at boot all are idle
        self.board = board
        self.sink = sink
        self.programs = programs
        self.make_program = programs.unpack
        self.ring_base = (cpu << 40) + 1
        off = set(spec.trace_off)
        self.enabled = [False] + [point.name not in off for point in tp.TRACEPOINTS.values()]
        self.workqueues = wq_table.workqueues(spec)
        #: The node of the objects of no CPU, -1: none; unbound pools, and which one each CPU's are.
        self.shared_node = wq_table.shared_node(spec)
        self.unbound_pools, self.pods = wq_table.unbound_pools(spec, self.workqueues)
        #: Behind them, from this index on, the pools of CPUs that are offline.
        self.first_disassociated = len(self.unbound_pools)
        self.unbound_pools += wq_table.disassociated_pools(spec, self.first_disassociated)
        self.wq_watchdog = spec.kernel.workqueue.watchdog_ns // self.tick_ns  # in jiffies
        self.wq_watch_at = self.wq_watchdog
        #: IDLE_WORKER_TIMEOUT in jiffies, and the jiffy in which the first pool's idle timer is due
        self.wq_idle_timeout = -(-spec.kernel.workqueue.idle_timeout_ns // self.tick_ns)
        self.wq_cull_at = NEVER
        self.create_failed = 0  # attempts to create a worker that have failed
        self.wq_ticket = 0  # questions asked there
        self.wq_rr_cpu = -1  # wq_rr_cpu_last
        self.names = Names(sink, traced_names(self.workqueues, spec))
        self.dev_numbers = [8 << 20 | 16 * index for index in range(len(spec.disks))]
        self.files = xfs_file.file_table(spec)
        self.xfs_log = xfs_log.XfsLog(spec, cpu, self.files)
        self.init_execution()
        self.init_messages()
        self.init_tasks()
        self.init_hotplug()
        self.init_timers()
        self.init_softirqs()
        self.init_io()

    def init_execution(self) -> None:
        """Emulated time, the frame on top, and the engine's limits on the window."""
        self.now = 0
        self.reached_ns = 0  # every event earlier than this is processed
        self.f_kind = frames.HALT
        self.f_end = NEVER
        self.f_arg: Any = None
        self.level = frames.LEVEL_TASK
        self.irqs_on = True
        self.stack: list[tuple[int, int, Any, int, bool]] = []
        self.cause = 0
        # The engine's limits on the window, lowered by what is sent.
        self.limit = 0
        self.horizon = 0
        self.mail_safe_ns = 0
        self.asleep = 0
        self.wake_reply_ns = promises.wake_reply_ns(self.spec.costs)
        self.wants_view = False
        self.edge = 0  # no message, timer or tick is earlier; 0: look
        self.stalled = False
        self.stalled_at = 0
        #: On machines that take turns, while this CPU has the host: an earlier timer gives it up.
        self.timer_watch_ns = -1

    def init_messages(self) -> None:
        """What comes, what goes, and what is to find a task that left."""
        self.inbox: list[Message] = []
        self.mail: list[Message] = []
        self.outbox: list[Message] = []
        self.seq = 0
        #: pid -> (residence, CPU it went to), and when it gets there; mail that must still be sent on
        #: for tasks that left; mail for tasks still on their way here; sleepers whose IO may end
        #: elsewhere.
        self.forward: dict[int, tuple[int, int]] = {}
        self.arrivals: dict[int, int] = {}
        self.expect: dict[int, int] = {}
        self.held: dict[int, list[Message]] = {}
        self.mail_sleepers: dict[int, int] = {}
        self.deferred: list[Message] = []

    def init_tasks(self) -> None:
        """The runqueue, the tasks, and what those share that this CPU keeps."""
        tun = fair.tunables(self.spec.kernel, self.nr_cpus)
        rules = self.spec.kernel.rules
        fair_class = eevdf.EEVDF_SCHED_CLASS if rules.eevdf else fair.FAIR_SCHED_CLASS
        self.rq = Rq(self.node_id, tun, fair_class, rules)
        self.rq.tick_ns = self.tick_ns
        self.rq.idle.run = TaskRun(None, frames.IDLE_ENTRY)
        self.published_nr = 0  # nr_running as last told to the others
        self.tasks: dict[int, Task] = {}
        #: By pid, what the programs of tasks have measured here; it stays when the task leaves.
        self.books_kept: dict[int, Books] = {}
        self.exited: list[int] = []
        self.waking = False
        self.ttwu_queue = self.spec.kernel.features.get("TTWU_QUEUE", True)
        #: wakeups that this CPU is to finish: [pid, ENQUEUE_* flags], in order of arrival
        self.wake_list: list[list[int]] = []
        self.wakeups: list[tuple[int, bool]] = []
        self.delayed_wakes: list[int] = []  # pids of kthreads that wake at the next schedule()
        self.pid_seq = 0
        self.load_pid = 0
        self.added: list[str] = []  # workloads that came while the box ran, as text
        self.policies: list[str] = []  # +NAME and -NAME that came while it ran
        #: The box's pipes, and of each what was written here less what was read here.
        self.pipes = pipe.pipe_table(self.spec, kthread.FIRST_USER_PID)
        self.piped: dict[int, int] = {}
        self.scan_cost = 0  # sd_llc->avg_scan_cost of this CPU

    def init_hotplug(self) -> None:
        """Whether the CPU is there, and what it must see to before it goes."""
        self.online = True
        self.active = True
        self.killed = False
        self.draining = False  # the requests of its hardware queues are waited for (5.8)
        self.pushing = False  # balance_push is on: this CPU goes down (5.11)
        self.adopter = -1  # who took over what was here, until this CPU has domains again
        #: requests that were taken over although the device will send their completion here
        self.handed: dict[int, int] = {}
        #: the command that takes this CPU down: [words, in whose place, kill, answer]
        self.going_down: list[Any] = []
        self.flushers: list[wq_flush.Flusher] = []  # who waits for works of this CPU
        self.modules = any(w.program == "works" for w in self.spec.workloads)
        self.adopted = False  # it has been given requests that other CPUs allocated
        #: Somebody writes through the page cache; what is dirty, at the CPU that keeps it.
        self.buffered = self.spec.writes_buffered
        self.backing: Backing | None = None
        if self.buffered and self.node_id == buffered.KEEPER:
            self.backing = buffered.new_backing(self.spec, self.files)
        self.flushes = self.buffered or any(w.program == "flusher" for w in self.spec.workloads)

    def init_timers(self) -> None:
        """Timers, interrupts, the tick and what hangs on it."""
        # Timers: (expiry, seq, kind, arg) in a heap; jiffy timers: (jiffy, seq, kind, arg), sorted.
        self.timers: list[tuple[int, int, int, Any]] = []
        self.timer_seq = 0
        self.jiffy_timers: list[tuple[int, int, int, Any]] = []
        self.irqs: list[tuple[int, Any, int]] = []
        self.threadirqs = self.spec.kernel.threadirqs
        self.irq_threads: dict[int, IrqThread] = {}  # by the number of the interrupt
        self.irqtime = self.spec.machine.irq_time_accounting
        self.irq_start_ns = 0  # with that: up to where time is accounted
        self.ipis = 0  # reschedule IPIs on their way, among the timers
        self.tick_at = NEVER  # when the tick (or, with it stopped, the wheel) interrupts next
        self.tick_stopped = False
        self.nohz_told = 0
        self.in_nohz_mask = False
        self.rcu = rcu.RcuData(self.spec)
        self.nohz_flags = 0
        self.kick_cause = 0

    def init_softirqs(self) -> None:
        """Softirqs, what the balancer asks, the stopper."""
        self.softirq_pending = 0
        self.in_softirq = False
        self.sirq_mask = 0
        self.sirq_end = 0
        self.sirq_left = 0
        self.sirq_block: list[Request] = []
        self.ksoftirqd: Task = self.rq.idle
        self.done_list: list[Request] = []
        self.call_done: list[Request] = []
        # The balancer, the stopper.
        self.balance_asked = -1
        self.busy_pass = True
        self.stop_works: list[list[Any]] = []

    def init_io(self) -> None:
        """Workers, block queues, and the IOs under way."""
        self.pools = [WorkerPool(self.node_id, 0), WorkerPool(self.node_id, -20)]
        self.asked: AskedPools | None = None  # they, from when this CPU goes down
        self.work_seq = 0
        self.works = [0, 0]  # work items queued here, and ended here
        self.completion = dio_completion.policy_of(self.spec.kernel.completion)
        #: after the warm-up, completions of IOs of this CPU, of its cache, of others; ns for lines
        self.completed = [0, 0, 0, 0]
        #: What only a completion policy asks for.
        asked = {signal for signal, _limit in self.spec.kernel.completion.signals}
        self.psi = psi.Psi() if "psi" in asked else None
        self.sched_info = sched_info.SchedInfo() if "run_delay" in asked else None
        self.steal = sched_info.Steal() if "steal" in asked else None
        self.queues = [
            BlockQueue(self.spec, index, self.node_id) for index in range(len(self.spec.disks))
        ]
        self.inflight: dict[int, Request] = {}
        self.io_seq = 0  # requests made
        self.ended = 0  # requests freed
        self.printed = 0  # lines about failed requests since then
        self.printed_since = 0
        self.counters: dict[str, int] = {}
