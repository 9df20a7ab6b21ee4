"""One emulated CPU: the node that owns a runqueue, its interrupts, its workers and its IO.

Theory of operation
-------------------
The CPU is a state machine over frames (:mod:`emulator.kernel.frames`).  At every step the earliest
of three things happens:

* a **message** takes effect: what another CPU does to this runqueue under its lock (a wakeup's
  enqueue, the balancer's detach and attach), whatever this CPU is executing, or an interrupt that
  it raises, which then waits until interrupts are on;
* a **hard interrupt** starts: an expired timer, an IPI, a device;
* the **frame** on top ends, and its handler runs.

At one instant messages come first, then hard interrupts, then the frame.  The mechanisms
themselves are in the files named after the kernel's; they are functions of a :class:`Cpu`, and
:data:`~emulator.kernel.frame_ends.ENDS` says which of them ends which frame.

Departures from the kernel: another CPU's operation on this runqueue takes effect at its stamp even
while this CPU would hold the lock (the lock's wait is not modelled); ``jiffies`` is the number of
whole ticks since boot for every CPU, not what the time-keeping CPU last wrote.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    aio,
    buffered,
    dio_completion,
    driver,
    eevdf,
    fair,
    frames,
    hrtimer,
    idle,
    io_uring,
    kthread,
    mail,
    pipe,
    promises,
    psi,
    rcu,
    snapshot,
    workqueue,
    wq_flush,
    wq_table,
    xfs_file,
    xfs_log,
)
from emulator.kernel.blk_queue import BlockQueue, irq_names
from emulator.kernel.frame_ends import ENDS
from emulator.kernel.fs_writeback import Backing
from emulator.kernel.process import WAIT_NAMES, TaskRun
from emulator.kernel.request import Request
from emulator.kernel.sched import Rq, Task
from emulator.kernel.workqueue import WorkerPool
from emulator.messages import COMPLETION
from emulator.topology import DomainMap
from emulator.types import (
    COORDINATOR,
    NEVER,
    RQF_ACTIVE,
    RQF_IDLE,
    RQF_KWORKER_ASLEEP,
    RQF_NOHZ,
    RQF_ONLINE,
    RQF_SCHED_IDLE,
    RQF_TTWU_PENDING,
    Board,
    Books,
    BoxSpec,
    Message,
    Program,
    Promise,
    TraceSink,
)


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


class Names(dict[str, int]):
    """The ids of the names in this CPU's ring; a name is interned when it is first asked for."""

    __slots__ = ("sink",)

    def __init__(self, sink: TraceSink, names: Iterable[str]) -> None:
        super().__init__({name: sink.intern(name) for name in names})
        self.sink = sink

    def __missing__(self, name: str) -> int:
        number = self[name] = self.sink.intern(name)
        return number


class Cpu:
    """The CPU node; implements ``engine.node.Node``."""

    __slots__ = (
        "active",
        "adopted",
        "adopter",
        "arrivals",
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
        "irqs",
        "irqs_on",
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
        "stop_works",
        "tasks",
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
        "wq_rr_cpu",
        "wq_ticket",
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
        self.workqueues = workqueue.workqueues(spec)
        #: The node of the objects of no CPU, -1: none; unbound pools, and which one each CPU's are.
        self.shared_node = wq_table.shared_node(spec)
        self.unbound_pools, self.pods = wq_table.unbound_pools(spec, self.workqueues)
        self.wq_watchdog = spec.kernel.workqueue.watchdog_ns // self.tick_ns  # in jiffies
        self.wq_ticket = 0  # questions asked there
        self.wq_rr_cpu = -1  # wq_rr_cpu_last
        self.names = Names(sink, traced_names(self.workqueues, spec))
        self.dev_numbers = [8 << 20 | 16 * index for index in range(len(spec.disks))]
        self.files = xfs_file.file_table(spec)
        self.xfs_log = xfs_log.XfsLog(spec, cpu, self.files)
        # Time and execution.
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
        self.wake_reply_ns = promises.wake_reply_ns(spec.costs)
        self.wants_view = False
        self.edge = 0  # no message, timer or tick is earlier; 0: look
        self.stalled = False
        self.stalled_at = 0
        #: On machines that take turns, while this CPU has the host: an earlier timer gives it up.
        self.timer_watch_ns = -1
        # Messages.
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
        # Tasks.
        tun = fair.tunables(spec.kernel, machine.nr_cpus)
        rules = spec.kernel.rules
        fair_class = eevdf.EEVDF_SCHED_CLASS if rules.eevdf else fair.FAIR_SCHED_CLASS
        self.rq = Rq(cpu, tun, fair_class, rules)
        self.rq.tick_ns = self.tick_ns
        self.rq.idle.run = TaskRun(None, frames.IDLE_ENTRY)
        self.rq.on_runtime = self.runtime_hook()
        if self.enabled[tp.BOX_CHECK_PREEMPT]:
            self.rq.on_preempt = self.trace_preempt
        self.rq.on_warn = self.warn
        self.published_nr = 0  # nr_running as last told to the others
        self.tasks: dict[int, Task] = {}
        #: By pid, what the programs of tasks have measured here; it stays when the task leaves.
        self.books_kept: dict[int, Books] = {}
        self.exited: list[int] = []
        self.waking = False
        self.ttwu_queue = spec.kernel.features.get("TTWU_QUEUE", True)
        #: wakeups that this CPU is to finish: [pid, ENQUEUE_* flags], in order of arrival
        self.wake_list: list[list[int]] = []
        self.wakeups: list[tuple[int, bool]] = []
        self.delayed_wakes: list[int] = []  # pids of kthreads that wake at the next schedule()
        self.pid_seq = 0
        self.load_pid = 0
        #: The box's pipes, and of each what was written here less what was read here.
        self.pipes = pipe.pipe_table(spec, kthread.FIRST_USER_PID)
        self.piped: dict[int, int] = {}
        self.scan_cost = 0  # sd_llc->avg_scan_cost of this CPU
        # Hotplug.
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
        self.modules = any(w.program == "works" for w in spec.workloads)
        self.adopted = False  # it has been given requests that other CPUs allocated
        #: Somebody writes through the page cache; what is dirty, at the CPU that keeps it.
        self.buffered = spec.writes_buffered
        self.backing: Backing | None = None
        if self.buffered and cpu == buffered.KEEPER:
            self.backing = buffered.new_backing(spec, self.files)
        self.flushes = self.buffered or any(w.program == "flusher" for w in spec.workloads)
        # Timers: (expiry, seq, kind, arg) in a heap; jiffy timers: (jiffy, seq, kind, arg), sorted.
        self.timers: list[tuple[int, int, int, Any]] = []
        self.timer_seq = 0
        self.jiffy_timers: list[tuple[int, int, int, Any]] = []
        self.irqs: list[tuple[int, Any, int]] = []
        self.ipis = 0  # reschedule IPIs on their way, among the timers
        self.tick_at = NEVER  # when the tick (or, with it stopped, the wheel) interrupts next
        self.tick_stopped = False
        self.nohz_told = 0
        self.in_nohz_mask = False
        self.rcu = rcu.RcuData(spec)
        self.nohz_flags = 0
        self.kick_cause = 0
        # Softirqs.
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
        # Workers and block queues.
        self.pools = [WorkerPool(cpu, 0), WorkerPool(cpu, -20)]
        self.work_seq = 0
        self.works = [0, 0]  # work items queued here, and ended here
        self.completion = dio_completion.policy_of(spec.kernel.completion)
        #: after the warm-up, completions of IOs of this CPU, of its cache, of others; ns for lines
        self.completed = [0, 0, 0, 0]
        asks_psi = any(signal == "psi" for signal, _limit in spec.kernel.completion.signals)
        self.psi = psi.Psi() if asks_psi else None
        self.queues = [BlockQueue(spec, index, cpu) for index in range(len(spec.disks))]
        self.inflight: dict[int, Request] = {}
        self.io_seq = 0  # requests made
        self.ended = 0  # requests freed
        self.printed = 0  # lines about failed requests since then
        self.printed_since = 0
        self.counters: dict[str, int] = {}
        kthread.boot(self)
        idle.boot(self)
        self.publish()

    # -- The node protocol ----------------------------------------------------------------------

    def next_event_ns(self) -> int:
        """Return the time of the next message, interrupt or frame end, or NEVER."""
        t = self.inbox[0][0] if self.inbox else NEVER
        if self.mail and self.mail[0][0] < t and (self.mail_sleepers or self.expect):
            t = self.mail[0][0]
        if not self.stalled:
            if self.f_end < t:
                t = self.f_end
            if self.irqs_on:
                if self.irqs:
                    return min(t, self.now)
                if self.timers and self.timers[0][0] < t:
                    t = self.timers[0][0]
                if self.tick_at < t:
                    t = self.tick_at
        return t if t > self.now else self.now if t < NEVER else NEVER

    def deliver(self, message: Message) -> None:
        """Put a message into the inbox or, if it is mail, into the mailbox."""
        if messages.is_passive(message[4]):
            heapq.heappush(self.mail, message)
            return
        assert message[0] >= self.now or self.stalled, self.story(f"message {message} in the past")
        heapq.heappush(self.inbox, message)
        if message[0] < self.edge:
            self.edge = message[0]

    def advance(self, bound_ns: int, horizon_ns: int) -> None:
        """Process every event < ``bound_ns``, stopping before a read at or after ``horizon_ns``."""
        self.limit = bound_ns
        self.horizon = horizon_ns
        self.wants_view = False
        stop = self.run()
        if stop > self.reached_ns:
            self.reached_ns = stop

    def run(self) -> int:  # noqa: C901 - the one hot loop: what is not called costs nothing
        """Process events until a limit; return the time before which all are processed."""
        handlers = ENDS
        reads = frames.READS
        inbox, mailbox, timers = self.inbox, self.mail, self.timers
        while True:
            t = self.f_end
            if t < self.edge and not (
                self.irqs or self.mail_sleepers or self.expect or self.stalled
            ):
                # Nothing but the frame on top can be next.
                if t >= self.limit:
                    return self.limit
                kind = self.f_kind
                if t >= self.horizon and kind in reads and self.reads_now(kind):
                    self.wants_view = True
                    return t
                self.now = t
                handlers[kind](self, self.f_arg)
                continue
            what = 0
            if self.stalled:
                t = NEVER
            elif self.irqs_on:
                if self.irqs:
                    t = self.now
                    what = 1
                else:
                    if timers and timers[0][0] <= t:
                        t = timers[0][0]
                        what = 1
                    if self.tick_at <= t:
                        t = self.tick_at
                        what = 1
            if inbox and inbox[0][0] <= t:
                t = inbox[0][0]
                what = 2
            if self.mail_sleepers or self.expect:
                if mailbox and mailbox[0][0] <= t:
                    t = mailbox[0][0]
                    what = 3
                if t >= self.horizon and self.horizon < self.limit:
                    self.wants_view = t < self.limit
                    return self.horizon  # mail of later than that may still come
            if t < self.now:
                t = self.now
            if t >= self.limit:
                return self.limit
            self.find_edge()
            if what == 0:
                kind = self.f_kind
                if t >= self.horizon and kind in reads and self.reads_now(kind):
                    self.wants_view = True
                    return t
                self.now = t
                handlers[kind](self, self.f_arg)
            elif what == 1:
                self.now = t
                hrtimer.take_interrupt(self)
            else:
                if (
                    t >= self.horizon
                    and what == 2
                    and (inbox[0][4] in mail.READING or not self.online)
                ):
                    self.wants_view = True
                    return t
                self.now = t
                mail.handle(self, heapq.heappop(mailbox if what == 3 else inbox))
                self.edge = 0

    def find_edge(self) -> None:
        """Find the earliest message, timer or tick: before it only frames end."""
        edge = self.tick_at
        if self.inbox and self.inbox[0][0] < edge:
            edge = self.inbox[0][0]
        if self.timers and self.timers[0][0] < edge:
            edge = self.timers[0][0]
        self.edge = edge

    def reads_now(self, kind: int) -> bool:
        """Whether the end of the frame on top will look at other nodes' publications or at mail."""
        if kind in frames.COMPLETING:
            return self.completion is not None and self.completion.remote
        if kind == frames.GETEVENTS:
            return aio.needs_mail(self)
        if kind == frames.URING_REAP:
            return io_uring.needs_mail(self)
        if kind == frames.SOFTIRQ_RCU:
            return self.rcu.driven
        if kind == frames.IRQ_VECTOR:
            leaves = self.completion is not None and self.completion.remote
            return leaves or driver.vector_reads(self, self.f_arg)
        if kind == frames.STOPPER_WORK:
            return bool(self.stop_works[0][0] < 0)  # no push: another CPU is looked for
        if kind in frames.SWITCHES:
            return bool(self.smt_siblings) and self.rq.nr_running <= 1
        return True

    # -- Frames ---------------------------------------------------------------------------------

    def start(self, kind: int, ns: int, arg: Any = None) -> None:
        """Start the next frame of the same context."""
        self.f_kind = kind
        self.f_end = self.now + ns
        self.f_arg = arg

    def wait(self, kind: int, arg: Any = None) -> None:
        """Start a frame that only a message or an interrupt ends."""
        self.f_kind = kind
        self.f_end = NEVER
        self.f_arg = arg

    def answered(self, waiting: int, kind: int, arg: Any, left: int = 0) -> None:
        """What a frame waited for has come: it goes on as ``kind``, now or when it is on top."""
        if self.f_kind == waiting:
            self.f_kind = kind
            self.f_arg = arg
            self.f_end = left if self.stalled else self.now + left
            return
        for index, frame in enumerate(self.stack):
            if frame[0] == waiting:
                self.stack[index] = (kind, left, arg, frame[3], frame[4])
                return
        raise AssertionError(self.story(f"an answer that no frame of kind {waiting} waits for"))

    def push(self, kind: int, ns: int, arg: Any, level: int, irqs_on: bool) -> None:
        """Interrupt or call: put a frame over what runs."""
        left = self.f_end - self.now if self.f_end < NEVER else NEVER
        self.stack.append((self.f_kind, left, self.f_arg, self.level, self.irqs_on))
        self.f_kind = kind
        self.f_end = self.now + ns
        self.f_arg = arg
        self.level = level
        self.irqs_on = irqs_on

    def pop(self) -> None:
        """Return to the frame below, which goes on with the time it had left."""
        kind, left, arg, self.level, self.irqs_on = self.stack.pop()
        self.f_kind = kind
        self.f_end = self.now + left if left < NEVER else NEVER
        self.f_arg = arg

    def halt(self) -> None:
        """Halt; on a machine that takes turns that gives the host up."""
        self.wait(frames.HALT)
        if self.timer_watch_ns >= 0:
            self.limit = 0

    def stall(self, now_ns: int) -> None:
        """Take the host away: nothing of this CPU's own goes on (machines that take turns)."""
        assert not self.stalled
        self.stalled = True
        self.stalled_at = now_ns
        if self.f_end < NEVER:
            self.f_end -= now_ns  # the time left, until resume()

    def resume(self, now_ns: int) -> None:
        """Give the host back: what ran goes on with the time it had left."""
        assert self.stalled
        self.stalled = False
        self.burnt(now_ns - self.stalled_at)
        if self.f_end < NEVER:
            self.f_end = max(self.f_end, 0) + now_ns
        if now_ns > self.now:
            self.now = now_ns

    def burnt(self, ns: int) -> None:
        """A task that watches its CPU clock notices that it went on without the host."""
        if not self.stack:
            if self.f_kind == frames.USER and self.f_arg == frames.BURNING:
                self.f_end -= ns
            return
        kind, left, arg, level, irqs_on = self.stack[0]
        if kind == frames.USER and arg == frames.BURNING:
            self.stack[0] = (kind, max(0, left - ns), arg, level, irqs_on)

    def is_halted(self) -> bool:
        """Whether the CPU sits in the idle loop's halt with nothing to do and no IPI on its way."""
        if self.f_kind != frames.HALT or self.irqs or self.ipis:
            return False
        return not (self.inbox and any(message[4] in mail.INTERRUPTING for message in self.inbox))

    def next_timer_ns(self) -> int:
        """Return for when the CPU's timer is programmed, announced completions included, or NEVER.

        From when it fires until the end of its interrupt it is programmed for nothing.
        """
        if self.level == frames.LEVEL_HARDIRQ and (
            self.f_kind in frames.CLOCK_EVENTS
            or any(frame[0] in frames.CLOCK_EVENTS for frame in self.stack)
        ):
            return NEVER
        if self.irqs and any(irq[0] == frames.IRQ_DEVICE for irq in self.irqs):
            return NEVER
        return self._earliest_timer_ns()

    def _earliest_timer_ns(self) -> int:
        earliest = self.tick_at
        for timer in self.timers:
            if timer[0] < earliest and timer[2] != frames.IRQ_IPI:
                earliest = timer[0]
        for message in self.inbox:
            if message[0] < earliest and message[4] == COMPLETION:
                earliest = message[0]
        return earliest

    # -- Timers and messages --------------------------------------------------------------------

    def add_timer(self, expiry_ns: int, kind: int, arg: Any = None) -> None:
        """Arm an hrtimer of this CPU."""
        self.timer_seq += 1
        heapq.heappush(self.timers, (expiry_ns, self.timer_seq, kind, arg))
        self.timer_armed(expiry_ns)

    def program_event(self) -> None:
        """``tick_program_event()``: the timer interrupt ends, the timer is set for what is next."""
        if self.timer_watch_ns >= 0:
            expiry_ns = self._earliest_timer_ns()
            if expiry_ns > self.now:
                self.timer_armed(expiry_ns)

    def timer_armed(self, expiry_ns: int) -> None:
        """Note a new timer; on a machine that takes turns, give the host up for an earlier one."""
        if expiry_ns < self.edge:
            self.edge = expiry_ns
        if expiry_ns < self.timer_watch_ns:
            self.limit = 0

    def send(
        self, target: int, op: int, args: tuple[Any, ...], effect_ns: int, reply_min_ns: int
    ) -> None:
        """Hand out a message; ``reply_min_ns`` bounds how soon its effect can come back here."""
        assert target != self.node_id, self.story(f"a message of op {op} to itself")
        self.seq += 1
        self.outbox.append((effect_ns, self.node_id, self.seq, target, op, args))
        if effect_ns + reply_min_ns < self.limit:
            self.limit = effect_ns + reply_min_ns
        if effect_ns + self.costs.coherence_ns < self.horizon:
            self.horizon = effect_ns + self.costs.coherence_ns

    def send_mail(self, target: int, op: int, args: tuple[Any, ...], at_ns: int = 0) -> None:
        """Hand out passive mail: it takes effect one coherence latency from now (or ``at_ns``)."""
        self.seq += 1
        effect_ns = max(self.now, at_ns) + self.costs.coherence_ns
        self.outbox.append((effect_ns, self.node_id, self.seq, target, op, args))
        if target > self.bal_node:
            return  # a device answers mail with nothing that a CPU looks at
        if effect_ns + self.costs.coherence_ns < self.horizon:
            self.horizon = effect_ns + self.costs.coherence_ns
        if target < self.bal_node:
            # It may wake a sleeper there, who may be placed here.
            soonest = max(effect_ns, self.mail_safe_ns) + self.costs.ttwu_activate_ns
            if soonest < self.limit:
                self.limit = soonest

    def answer(self, words: list[Any], answer: str, place: int = -1) -> None:
        """Tell the coordinator how a command went, in the place of the node that passed it on."""
        self.seq += 1
        args = (words, answer, place)
        self.outbox.append(
            (self.now, self.node_id, self.seq, COORDINATOR, messages.COMMAND_DONE, args)
        )

    def keep_books(self, p: Task) -> None:
        """Let a task's program measure here from now on, in the books that it left if it was here."""
        program = p.run.program
        if program is not None:
            books = program.measure_in(self.books_kept.get(p.pid))
            if books is not None:
                self.books_kept[p.pid] = books

    def depart(self, p: Task, target: int, arrival_ns: int) -> None:
        """A task leaves: its mail follows it, and what is still to come here is sent on."""
        assert not p.on_rq, self.story(f"{p.comm}/{p.pid} leaves while it is queued")
        run = p.run
        remote = run.remote_ios
        if remote:
            self.expect[p.pid] = self.expect.get(p.pid, 0) + remote
        run.remote_ios = run.outstanding()
        p.moves += 1
        self.forward[p.pid] = (p.moves, target)
        self.arrivals[p.pid] = arrival_ns
        del self.tasks[p.pid]
        self.mail_sleepers.pop(p.pid, None)
        if p.sched_delayed:
            hrtimer.take_sleep_timer(self, p)

    def unexpect(self, pid: int) -> None:
        """One IO of a task that left has ended as far as this CPU is concerned."""
        left = self.expect.get(pid, 0) - 1
        if left > 0:
            self.expect[pid] = left
        else:
            self.expect.pop(pid, None)

    # -- Trace, counters, publications ----------------------------------------------------------

    def emit(self, event: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0) -> int:
        """Record an event of now, caused by ``self.cause``; return its global position."""
        if not self.enabled[event]:
            return self.cause
        rq = self.rq
        flags = 0 if self.irqs_on else 1
        if rq.need_resched:
            flags |= 2
        if self.level:
            flags |= 4 if self.level == 2 else 8
        return self.ring_base + self.sink.emit(
            self.now, event, flags, rq.curr.pid, self.cause, a, b, c, d, e
        )

    def count(self, name: str, nr: int = 1) -> None:
        """Add to a counter that goes into the results."""
        self.counters[name] = self.counters.get(name, 0) + nr

    def publish(self) -> None:
        """Tell the other nodes what this runqueue looks like from now on."""
        rq = self.rq
        cfs = rq.cfs
        avg = cfs.avg
        self.published_nr = rq.nr_running
        flags = 0
        if self.online:
            flags = RQF_ONLINE
            if self.active:
                flags |= RQF_ACTIVE
            if rq.nr_running == 0:
                if rq.curr is rq.idle and not self.wake_list:
                    flags |= RQF_IDLE
            elif rq.nr_running == cfs.idle_h_nr_running:
                flags |= RQF_SCHED_IDLE
            if self.in_nohz_mask:
                flags |= RQF_NOHZ
            if self.wake_list:
                flags |= RQF_TTWU_PENDING
            if self.completion is not None and workqueue.wants_waking(self, self.pools[0]):
                flags |= RQF_KWORKER_ASLEEP
        if self.psi is not None:
            self.psi.change(self.now, rq.nr_running)
        self.board.publish(
            self.node_id,
            self.now,
            (
                flags,
                rq.nr_running,
                cfs.nr_running,
                avg.runnable_avg,
                avg.load_avg,
                avg.util_avg,
                avg.util_est_enqueued,
                avg.last_update_time,
                avg.load_sum,
                avg.runnable_sum,
                avg.util_sum,
                avg.period_contrib,
                cfs.load_weight,
                rq.overload_ns,
                self.rcu.gp_seq,
                self.rcu.gp_left,
                self.rcu.reported,
                self.idle_cores,
                rq.cpu_capacity,
            ),
        )

    def own_facts(self) -> tuple[int, ...]:
        """Publish and return this runqueue's facts of now."""
        self.publish()
        return self.board.read(self.node_id, self.now)

    def view(self, cpu: int) -> tuple[int, ...]:
        """Return another CPU's facts as this CPU can know them now."""
        return self.board.read(cpu, self.now - self.costs.coherence_ns)

    def idle_cpu(self, cpu: int) -> bool:
        """``available_idle_cpu()``: of this CPU exactly, of another as of the coherence latency."""
        if cpu == self.node_id:
            rq = self.rq
            return rq.curr is rq.idle and rq.nr_running == 0 and not self.wake_list
        return bool(self.view(cpu)[0] & RQF_IDLE)

    def cpu_online(self, cpu: int) -> bool:
        """``cpu_online()`` of another CPU, as this one can know it."""
        return bool(self.view(cpu)[0] & RQF_ONLINE)

    def jiffies(self) -> int:
        """Return the number of whole ticks since boot."""
        return self.now // self.tick_ns

    def work_id(self) -> int:
        """Return the identity of a new work item, unique in the box."""
        self.work_seq += 1
        return self.node_id << 40 | self.work_seq

    def runtime_hook(self) -> Callable[[Task, int], None] | None:
        """Return what update_curr() calls, or None if nobody records it."""
        return self.trace_runtime if self.enabled[tp.SCHED_STAT_RUNTIME] else None

    def trace_runtime(self, p: Task, delta_ns: int) -> None:
        """Record ``sched_stat_runtime`` (called by update_curr)."""
        self.emit(tp.SCHED_STAT_RUNTIME, p.pid, delta_ns, p.vruntime)

    def trace_preempt(self, p: Task, curr: Task, vdiff: int, gran: int, why: int) -> None:
        """Record ``box_check_preempt`` (called by update_curr of EEVDF)."""
        self.emit(tp.BOX_CHECK_PREEMPT, p.pid, curr.pid, vdiff, gran, why)

    def warn(self, text: str) -> None:
        """Record what the kernel would warn of; a run with such a record fails."""
        self.emit(tp.BOX_WARN, self.sink.intern(text))

    def story(self, what: str) -> str:
        """Return what a failed assertion prints: the fault, this CPU's state, its last events."""
        rq = self.rq
        lines = [
            f"BUG on CPU {self.node_id} at {self.now} ns: {what}",
            f"  frame {self.f_kind} until {self.f_end}, level {self.level}, stack {self.stack}",
            f"  curr {rq.curr.comm}/{rq.curr.pid} nr_running {rq.nr_running}",
        ]
        for pid, p in self.tasks.items():
            lines.append(
                f"  task {p.comm}/{pid} state {p.state} on_rq {p.on_rq} on_cpu {p.on_cpu} "
                f"wait {WAIT_NAMES[p.run.wait]} vruntime {p.vruntime} deadline {p.deadline} "
                f"delayed {p.sched_delayed} moves {p.moves}"
            )
        return "\n".join(lines)

    # -- Promises, books, snapshots ---------------------------------------------------------------

    def promise(self) -> Promise:
        """Return what this node promises if it receives nothing more."""
        return promises.promise(self)

    def books(self) -> dict[str, Any]:
        """Return what this CPU owns and what it counted."""
        return snapshot.books(self)

    def snapshot(self) -> list[Any]:
        """Return the whole state as plain data."""
        return snapshot.pack(self)

    def restore(self, state: list[Any]) -> None:
        """Take over a state that :meth:`snapshot` returned."""
        snapshot.unpack(self, state)


def traced_names(workqueues: dict[int, workqueue.Workqueue], spec: BoxSpec) -> list[str]:
    """Return every name that this CPU's records intern, in a fixed order."""
    return [
        *(wq.name for wq in workqueues.values()),
        *(name for number, name in workqueue.FUNCTIONS.items() if number <= workqueue.FN_SCRIPT),
        *driver.TIMER_FUNCTIONS.values(),
        "WS",
        "R",
        *(name for disk in spec.disks for name in irq_names(disk)),
        "WSM",
        "FF",
        "WFS",
        "WFSM",
    ]
