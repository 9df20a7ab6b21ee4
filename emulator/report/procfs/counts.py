"""What the kernel counts while it runs, counted from the rings: per CPU, per task.

Theory of operation
-------------------
A :class:`Counter` follows the rings of all CPUs and is advanced to an emulated time; what it holds
then is what the kernel's counters would say at that time.  It goes on from where it was, so that
intervals cost what lies in them.  Most counters are numbers of records and taken at C speed; who ran
and who waited is replayed from switches, wakeups and moves of all CPUs, in order of time.

CPU time is told apart as a kernel without precise accounting does it
(``account_process_tick()``): each tick counts whole for what it interrupted; an idle CPU has no ticks
and its idle time is exact.

Idle time is %iowait as in the kernel: whole stretches, if a task that waits for IO slept on the CPU
when the interrupt came that ended them.

Departures: a task of a program that sleeps uninterruptibly waits for IO (``io_schedule()``), although
it may wait for a lock or for the log.  A CPU that idles is idle too while an interrupt that wakes nobody
runs.  Timer interrupts
are ticks, expired timers of the disks, and sleeps that end; two that fall together count twice.
Nothing is known about what is not recorded (``trace.off``).
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from emulator.kernel.kthread import FIRST_USER_PID
from emulator.report.procfs.pressure import Pressure
from emulator.trace.reader import (
    COLUMN_A,
    COLUMN_B,
    COLUMN_C,
    COLUMN_D,
    COLUMN_E,
    COLUMN_TIME,
    Piece,
    RingReader,
)
from emulator.tracepoints import (
    BOX_COMMAND,
    CALL_FUNCTION_SINGLE_ENTRY,
    CPU_IDLE,
    CPUHP_ENTER,
    F_HARDIRQ,
    F_SOFTIRQ,
    HRTIMER_EXPIRE_ENTRY,
    IRQ_HANDLER_ENTRY,
    RESCHEDULE_ENTRY,
    SCHED_MIGRATE_TASK,
    SCHED_STAT_RUNTIME,
    SCHED_SWITCH,
    SCHED_WAKEUP,
    SCHED_WAKEUP_NEW,
    SCHED_WAKING,
    SOFTIRQ_ENTRY,
    SOFTIRQ_NAMES,
    SOFTIRQ_RAISE,
    STATE_LETTERS,
    TASK_DEAD,
    TASK_PREEMPTED,
    TASK_RUNNING,
    TASK_UNINTERRUPTIBLE,
    TICK_CONTEXTS,
    TICK_SOFTIRQ,
    TICK_SYSTEM,
    TICK_USER,
)
from emulator.types import NEVER

#: How much emulated time is replayed at once.
SLICE_NS = 200_000_000

#: The state of cpu_idle when idling ends.
PWR_EVENT_EXIT = 0xFFFFFFFF

#: The hotplug steps at which a CPU is gone on its way down, and there on its way up.
CPUHP_STARTING = 90
CPUHP_ACTIVE = 194

#: calc_load() samples every 5 s and a jiffy, in fixed point.
LOAD_FREQ_JIFFIES = 5
FSHIFT = 11
FIXED_1 = 1 << FSHIFT
EXPONENTS = (1884, 2014, 2037)

_REPLAYED = (
    SCHED_SWITCH,
    SCHED_WAKEUP,
    SCHED_WAKEUP_NEW,
    SCHED_WAKING,
    SCHED_MIGRATE_TASK,
    CPU_IDLE,
)
_COLUMNS = (COLUMN_A, COLUMN_B, COLUMN_C, COLUMN_D, COLUMN_E)


class CpuCounts:
    """The counters of one CPU."""

    __slots__ = (
        "calls",
        "current",
        "delay_ns",
        "hrtimers",
        "idle_ns",
        "idle_since",
        "iowait_ns",
        "irqs",
        "nice_ticks",
        "nr_iowait",
        "online",
        "reschedules",
        "run_ns",
        "slices",
        "softirqs",
        "switches",
        "switches_to_idle",
        "ticks",
        "ttwu",
        "ttwu_local",
    )

    def __init__(self) -> None:
        self.online = True
        self.current = 0  #: pid
        self.switches = 0  #: rq->nr_switches
        self.switches_to_idle = 0
        self.ttwu = 0  #: wakeups made here
        self.ttwu_local = 0  #: of them, of tasks of this CPU
        self.run_ns = 0  #: rq_sched_info: all tasks ran
        self.delay_ns = 0  #: all tasks waited before they ran
        self.slices = 0  #: how often a task began to run
        self.ticks = [0] * len(TICK_CONTEXTS)
        self.nice_ticks = 0  #: of the user ticks, those of niced tasks
        self.idle_ns = 0
        self.idle_since = -1  #: ns, -1: it does not idle
        self.iowait_ns = 0  #: of idle time, that in which somebody waited for IO
        self.nr_iowait = 0  #: tasks that wait for IO and slept here
        self.softirqs = [0] * len(SOFTIRQ_NAMES)
        self.hrtimers = 0
        self.reschedules = 0
        self.calls = 0
        self.irqs: defaultdict[tuple[int, str], int] = defaultdict(int)

    @property
    def timer_interrupts(self) -> int:
        """Return how many local timer interrupts there were."""
        return sum(self.ticks[1:]) + self.hrtimers

    def idle_until(self, now_ns: int) -> int:
        """Return the idle time up to now in which nobody waited for IO, ns."""
        return self.idle_ns + (0 if self.nr_iowait else self._idling(now_ns))

    def iowait_until(self, now_ns: int) -> int:
        """Return the idle time up to now in which somebody waited for IO, ns."""
        return self.iowait_ns + (self._idling(now_ns) if self.nr_iowait else 0)

    def _idling(self, now_ns: int) -> int:
        return now_ns - self.idle_since if self.idle_since >= 0 else 0

    def settle_idle(self, now_ns: int) -> None:
        """Count the idle time up to now (``tick_nohz_stop_idle()``)."""
        self.idle_ns, self.iowait_ns = self.idle_until(now_ns), self.iowait_until(now_ns)
        self.idle_since = now_ns


class TaskCounts:
    """The counters of one task."""

    __slots__ = (
        "cpu",
        "delay_ns",
        "exec_ns",
        "exec_start_ns",
        "iowait_cpu",
        "migrations",
        "nivcsw",
        "nvcsw",
        "prio",
        "queued_since",
        "running_since",
        "sleep_ns",
        "sleeping_since",
        "slices",
        "start_ns",
        "state",
        "ticks",
        "vruntime",
        "wait_max_ns",
        "wakeups",
        "waking_cpu",
    )

    def __init__(self) -> None:
        self.cpu = 0
        self.prio = 120
        self.state = "S"
        self.start_ns = 0
        self.running_since = -1  #: ns, -1: it does not run
        self.queued_since = -1  #: ns, -1: it does not wait on a runqueue
        self.sleeping_since = -1
        self.sleep_ns = 0
        self.exec_start_ns = 0
        self.exec_ns = 0
        self.delay_ns = 0
        self.iowait_cpu = -1  #: where it sleeps and waits for IO
        self.wait_max_ns = 0
        self.slices = 0
        self.nvcsw = 0
        self.nivcsw = 0
        self.migrations = 0
        self.wakeups = 0
        self.waking_cpu = -1  #: where it is just being woken
        self.vruntime: int | None = None
        self.ticks = [0] * len(TICK_CONTEXTS)

    def exec_until(self, now_ns: int) -> int:
        """Return ``sum_exec_runtime``, ns."""
        return self.exec_ns + (now_ns - self.running_since if self.running_since >= 0 else 0)

    def cputime(self, now_ns: int) -> tuple[int, int]:
        """Return user and system time as ``cputime_adjust()`` makes them from ticks, ns."""
        total = self.exec_until(now_ns)
        user, system = self.ticks[TICK_USER], self.ticks[TICK_SYSTEM] + self.ticks[TICK_SOFTIRQ]
        if not system:
            return total, 0  # also of a task that no tick has met
        stime = total * system // (user + system)
        return total - stime, stime

    @property
    def has_begun(self) -> bool:
        """Whether it was ever woken or switched to."""
        return bool(self.slices or self.queued_since >= 0 or self.nvcsw)

    @property
    def is_active(self) -> bool:
        """Whether it counts for the load average: it runs, waits to, or sleeps without a break."""
        return self.running_since >= 0 or self.queued_since >= 0 or self.state == "D"


class Command(NamedTuple):
    """A command that the box was given."""

    time_ns: int
    text: str


class Counter:
    """Counters of a box from its rings, as of ``now_ns``."""

    __slots__ = (
        "_at",
        "_load",
        "_next_load_ns",
        "_period_ns",
        "commands",
        "comms",
        "cpus",
        "forks",
        "now_ns",
        "pressure",
        "readers",
        "tasks",
    )

    def __init__(self, readers: Sequence[RingReader], hz: int = 1000) -> None:
        self.readers = [reader for reader in readers if reader.is_cpu]
        self.now_ns = 0
        self.cpus = [CpuCounts() for _ in self.readers]
        self.tasks: defaultdict[int, TaskCounts] = defaultdict(TaskCounts)
        self.comms: dict[int, str] = {}
        for reader in self.readers:
            self.comms.update(reader.comms)
        self.pressure = Pressure(len(self.readers), hz)
        self.commands: list[Command] = []
        self.forks = 0
        self._at = [reader.first for reader in self.readers]
        self._period_ns = LOAD_FREQ_JIFFIES * 1_000_000_000 + 1_000_000_000 // hz
        self._next_load_ns = self._period_ns
        self._load = [0] * len(EXPONENTS)

    @property
    def lost(self) -> int:
        """Return how many records went with the oldest segments and are not counted."""
        return sum(reader.lost for reader in self.readers)

    @property
    def load_averages(self) -> list[float]:
        """Return the three load averages."""
        return [load / FIXED_1 for load in self._load]

    @property
    def nr_running(self) -> int:
        """Return how many tasks run or wait on a runqueue."""
        return sum(
            task.running_since >= 0 or task.queued_since >= 0 for task in self.tasks.values()
        )

    def advance(self, until_ns: int) -> None:
        """Count all records before ``until_ns``."""
        while self.now_ns < until_ns:
            step_ns = min(until_ns, self.now_ns + SLICE_NS)
            self._advance(step_ns)
            self.now_ns = step_ns

    def _advance(self, until_ns: int) -> None:
        rows: list[tuple[int, ...]] = []
        for cpu, reader in enumerate(self.readers):
            end = reader.position_at(until_ns) if until_ns < NEVER else reader.position
            for piece in reader.pieces(self._at[cpu], end):
                self._count(piece, cpu, reader)
                rows += _rows(piece, cpu)
            self._at[cpu] = max(self._at[cpu], end)
        rows.sort()
        for row in rows:
            self._replay(row)
        while self._next_load_ns < until_ns:
            self._calc_load()

    # -- Numbers of records -----------------------------------------------------------------------

    def _count(self, piece: Piece, cpu: int, reader: RingReader) -> None:
        counts, events = self.cpus[cpu], piece.events
        counts.reschedules += events.count(RESCHEDULE_ENTRY)
        counts.calls += events.count(CALL_FUNCTION_SINGLE_ENTRY)
        counts.hrtimers += events.count(HRTIMER_EXPIRE_ENTRY)
        for vec in piece.gather(COLUMN_A, piece.select((SOFTIRQ_ENTRY,))):
            counts.softirqs[vec] += 1
        self._count_ticks(piece, counts)
        indices = piece.select((IRQ_HANDLER_ENTRY,))
        names = piece.gather(COLUMN_B, indices)
        for irq, name in zip(piece.gather(COLUMN_A, indices), names, strict=True):
            counts.irqs[irq, reader.names[name]] += 1
        for index in piece.select((BOX_COMMAND,)):
            time_ns, name = (piece.gather(column, [index])[0] for column in (COLUMN_TIME, COLUMN_A))
            self.commands.append(Command(time_ns, reader.names[name]))
        self._note_hotplug(piece, counts)
        self._note_runtimes(piece)

    def _count_ticks(self, piece: Piece, counts: CpuCounts) -> None:
        indices = piece.select((SOFTIRQ_RAISE,))
        contexts = piece.gather(COLUMN_B, indices)
        for context, pid in zip(contexts, piece.gather_pids(indices), strict=True):
            if context:
                task = self.tasks[pid]
                task.ticks[context] += 1
                counts.ticks[context] += 1
                counts.nice_ticks += context == TICK_USER and task.prio > 120

    @staticmethod
    def _note_hotplug(piece: Piece, counts: CpuCounts) -> None:
        indices = piece.select((CPUHP_ENTER,))
        steps = piece.gather(COLUMN_C, indices)
        for target, step in zip(piece.gather(COLUMN_B, indices), steps, strict=True):
            if not target and step == CPUHP_STARTING:
                counts.online = False
            elif target and step == CPUHP_ACTIVE:
                counts.online = True

    def _note_runtimes(self, piece: Piece) -> None:
        indices = piece.select((SCHED_STAT_RUNTIME,))
        columns = (COLUMN_TIME, COLUMN_A, COLUMN_C)
        for time_ns, pid, vruntime in zip(
            *(piece.gather(column, indices) for column in columns), strict=True
        ):
            task = self.tasks[pid]
            if time_ns >= task.exec_start_ns:  # a task's records lie in the rings of several CPUs
                task.vruntime, task.exec_start_ns = vruntime, time_ns

    # -- Who ran, who waited ----------------------------------------------------------------------

    def _replay(self, row: tuple[int, ...]) -> None:
        time_ns, cpu, _position, event, flags, pid, *args = row
        while time_ns >= self._next_load_ns:
            self._calc_load()
        if event == SCHED_SWITCH:
            self._switch_out(time_ns, cpu, pid, args[0], args[1])
            self._switch_in(time_ns, cpu, args[2], args[3])
        elif event == SCHED_WAKING:
            # A sleep that ends is a timer interrupt, and nothing but itself led to it.
            self.cpus[cpu].hrtimers += bool(flags & F_HARDIRQ and not flags & F_SOFTIRQ)
            self._waking(time_ns, cpu, pid)
        elif event == CPU_IDLE:
            counts = self.cpus[cpu]
            if counts.idle_since >= 0:
                counts.settle_idle(time_ns)
            counts.idle_since = -1 if pid == PWR_EVENT_EXIT else time_ns
        elif event == SCHED_MIGRATE_TASK:
            self._migrate(time_ns, pid, args[1], args[2])
        else:
            self._wakeup(time_ns, pid, args[0], args[1], event == SCHED_WAKEUP_NEW)

    def _switch_out(self, time_ns: int, cpu: int, pid: int, prio: int, state: int) -> None:
        counts = self.cpus[cpu]
        counts.switches += 1
        if not pid:
            return
        task = self.tasks[pid]
        ran_ns = time_ns - task.running_since if task.running_since >= 0 else 0
        task.exec_ns += ran_ns
        counts.run_ns += ran_ns
        task.running_since = -1
        task.exec_start_ns = max(task.exec_start_ns, time_ns)
        task.prio, task.cpu = prio, cpu
        if state in (TASK_RUNNING, TASK_PREEMPTED):
            task.nivcsw += 1
            task.state, task.queued_since = "R", time_ns
        else:
            task.nvcsw += 1
            task.sleeping_since = time_ns
            waits = 0
            if state == TASK_UNINTERRUPTIBLE and pid >= FIRST_USER_PID:
                task.iowait_cpu = cpu
                counts.nr_iowait += 1
                waits = 1
            task.state = "X" if state == TASK_DEAD else STATE_LETTERS.get(state, "?")
            self.pressure.change(time_ns, cpu, -1, waits)

    def _switch_in(self, time_ns: int, cpu: int, pid: int, prio: int) -> None:
        counts = self.cpus[cpu]
        counts.current = pid
        if not pid:
            counts.switches_to_idle += 1
            return
        task = self.tasks[pid]
        if task.queued_since >= 0:
            self._waited(task, counts, time_ns)
        else:
            self.pressure.change(time_ns, cpu, 1)  # nothing is recorded of its way here
        task.slices += 1
        counts.slices += 1
        task.running_since, task.state, task.cpu, task.prio = time_ns, "R", cpu, prio
        task.exec_start_ns = max(task.exec_start_ns, time_ns)

    @staticmethod
    def _waited(task: TaskCounts, counts: CpuCounts, time_ns: int) -> None:
        waited_ns = time_ns - task.queued_since
        task.delay_ns += waited_ns
        counts.delay_ns += waited_ns
        task.wait_max_ns = max(task.wait_max_ns, waited_ns)
        task.queued_since = -1

    def _migrate(self, time_ns: int, pid: int, orig_cpu: int, dest_cpu: int) -> None:
        task = self.tasks[pid]
        task.migrations += 1
        task.cpu = dest_cpu
        if task.queued_since >= 0:  # what it waited so far is its old CPU's
            self._waited(task, self.cpus[orig_cpu], time_ns)
            task.queued_since = time_ns
            self.pressure.change(time_ns, orig_cpu, -1)
            self.pressure.change(time_ns, dest_cpu, 1)

    def _waking(self, time_ns: int, cpu: int, pid: int) -> None:
        task = self.tasks[pid]
        self.cpus[cpu].ttwu += 1
        task.waking_cpu = cpu
        if task.iowait_cpu >= 0:
            slept_on = self.cpus[task.iowait_cpu]
            if task.iowait_cpu == cpu and slept_on.idle_since >= 0:
                slept_on.settle_idle(time_ns)
            slept_on.nr_iowait -= 1
            self.pressure.change(time_ns, task.iowait_cpu, 0, -1)
            task.iowait_cpu = -1

    def _wakeup(self, time_ns: int, pid: int, prio: int, cpu: int, new: bool) -> None:
        task = self.tasks[pid]
        task.cpu, task.prio = cpu, prio
        if new:
            self.forks += 1
            task.start_ns = time_ns
        else:
            task.wakeups += 1
            if task.waking_cpu == cpu:
                self.cpus[cpu].ttwu_local += 1
        task.waking_cpu = -1
        if task.sleeping_since >= 0:
            task.sleep_ns += time_ns - task.sleeping_since
            task.sleeping_since = -1
        if task.running_since < 0 and task.queued_since < 0:
            task.queued_since, task.state = time_ns, "R"
            self.pressure.change(time_ns, cpu, 1)

    def _calc_load(self) -> None:
        active = sum(task.is_active for task in self.tasks.values()) * FIXED_1
        for index, exponent in enumerate(EXPONENTS):
            load = self._load[index]
            grown = load * exponent + active * (FIXED_1 - exponent)
            self._load[index] = (grown + (FIXED_1 - 1 if active >= load else 0)) // FIXED_1
        self._next_load_ns += self._period_ns


# Columns are read at once; a switch is (…, prev, prev_prio, state, next, next_prio).
def _rows(piece: Piece, cpu: int) -> list[tuple[int, ...]]:
    indices = piece.select(_REPLAYED)
    positions = [piece.start + index for index in indices]
    events = [piece.events[index] for index in indices]
    flags = piece.gather_flags(indices)
    columns = [piece.gather(column, indices) for column in _COLUMNS]
    times = piece.gather(COLUMN_TIME, indices)
    cpus = [cpu] * len(indices)
    return list(zip(times, cpus, positions, events, flags, *columns, strict=True))
