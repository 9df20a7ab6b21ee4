"""One pass over the rings of a run: the few columns of a few events that figures are made of.

Theory of operation
-------------------
:func:`extract` walks each ring once, piece by piece, inside the window ``[start_ns, end_ns)``.
Per ring it selects the events of a kind at C speed and looks at those alone.  What belongs to one
CPU is finished there: runs between two switches, works that were queued and started on the same
CPU.  What crosses CPUs is kept per pid or per work, and joined afterwards by time: switches in and
out, wakings, migrations, works that started on another CPU.

Edges are those of the oracle: a run is counted from switch to switch inside the window, a work if
it was queued and started inside it.  CPU time is exact, since the first switch in the window says
who ran until then.
"""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from emulator.trace.reader import (
    COLUMN_A,
    COLUMN_B,
    COLUMN_C,
    COLUMN_CAUSE,
    COLUMN_D,
    COLUMN_E,
    COLUMN_TIME,
    Piece,
    RingReader,
)
from emulator.tracepoints import (
    BLOCK_RQ_COMPLETE,
    BOX_AIO_COMPLETE,
    BOX_BUG,
    BOX_COMPLETION,
    BOX_LOAD_BALANCE,
    BOX_WARN,
    CALL_FUNCTION_SINGLE_ENTRY,
    RESCHEDULE_ENTRY,
    SCHED_MIGRATE_TASK,
    SCHED_SWITCH,
    SCHED_WAKING,
    WORKQUEUE_EXECUTE_START,
    WORKQUEUE_QUEUE_WORK,
)

#: Kernel threads that exist once per CPU; figures lump each kind together.
PER_CPU_KTHREADS = ("kworker", "migration", "ksoftirqd", "cpuhp", "rcuc")

#: What a CPU records of an interrupt that another one sent it.
IPI_EVENTS = (RESCHEDULE_ENTRY, CALL_FUNCTION_SINGLE_ENTRY)

#: How many records are looked at in one step when the ring is searched backwards.
BACKWARD_RECORDS = 1 << 14


class Migration:
    """One ``sched_migrate_task`` record; ``current`` is the pid in whose context it was made."""

    __slots__ = ("cause", "current", "dest_cpu", "orig_cpu", "pid", "time_ns", "why")

    def __init__(
        self,
        current: int,
        time_ns: int,
        pid: int,
        orig_cpu: int,
        dest_cpu: int,
        why: int,
        cause: int,
    ) -> None:
        self.current = current
        self.time_ns = time_ns
        self.pid = pid
        self.orig_cpu = orig_cpu
        self.dest_cpu = dest_cpu
        self.why = why
        self.cause = cause


class Works:
    """The works of one function: how often it started, and how long it had waited."""

    __slots__ = ("delays", "started")

    def __init__(self) -> None:
        self.started = 0
        self.delays: list[int] = []


class Extract:
    """What one pass over the rings found.  Times are ns; pid 0 (idle) is left out."""

    __slots__ = (
        "aio",
        "aio_inline",
        "bugs",
        "busy_ns",
        "comms",
        "cpu_ns",
        "decision_ns",
        "decisions",
        "end_ns",
        "idle_wakeups",
        "ins",
        "ipis",
        "lost",
        "migrations",
        "outs",
        "passes",
        "records",
        "rq_completes",
        "runs",
        "start_ns",
        "switches",
        "wakings",
        "warnings",
        "works",
    )

    def __init__(self, start_ns: int, end_ns: int) -> None:
        assert start_ns < end_ns, (start_ns, end_ns)
        self.start_ns = start_ns
        self.end_ns = end_ns
        self.comms: dict[int, str] = {}
        self.records = 0
        self.lost = 0  # records of the window that went with the oldest segments
        self.switches = 0
        self.busy_ns: dict[int, int] = {}  # by CPU
        self.cpu_ns: defaultdict[int, int] = defaultdict(int)  # by pid
        self.runs: defaultdict[int, list[int]] = defaultdict(list)  # by pid, lengths
        self.ins: defaultdict[int, list[int]] = defaultdict(list)  # by pid, times
        self.outs: defaultdict[int, list[int]] = defaultdict(list)
        self.wakings: defaultdict[int, list[int]] = defaultdict(list)
        self.migrations: list[Migration] = []
        self.works: defaultdict[str, Works] = defaultdict(Works)  # by function
        self.rq_completes: defaultdict[int, int] = defaultdict(int)  # by CPU
        self.aio: defaultdict[int, int] = defaultdict(int)  # by pid, completions
        self.aio_inline: defaultdict[int, int] = defaultdict(int)
        self.ipis = 0  # interrupts from other CPUs
        self.idle_wakeups = 0  # switches away from an idle task
        self.decisions: defaultdict[int, int] = defaultdict(int)  # of a completion policy, by why
        self.decision_ns = 0  # what they took
        self.passes: list[tuple[int, int]] = []  # (idle type, result) of balance passes
        self.bugs: list[str] = []
        self.warnings: list[str] = []

    def comm(self, pid: int) -> str:
        """Return the comm of a pid, or ``<...>``."""
        return self.comms.get(pid, "<...>")

    def is_per_cpu_kthread(self, pid: int) -> bool:
        """Return whether a task is one of the kernel threads that exist once per CPU."""
        return self.comm(pid).partition("/")[0] in PER_CPU_KTHREADS

    def kind(self, pid: int) -> str:
        """Return what tasks like this one are called: their comm, or the per-CPU kthread's kind."""
        comm = self.comm(pid) if pid else "swapper"
        head, _slash, where = comm.partition("/")
        if where.startswith("u"):
            return f"{head}/u"  # an unbound worker: no thread of one CPU
        return head if head in PER_CPU_KTHREADS else comm


def extract(readers: Iterable[RingReader], start_ns: int, end_ns: int) -> Extract:
    """Walk the rings once and return what figures need of ``[start_ns, end_ns)``."""
    found = Extract(start_ns, end_ns)
    works = _WorkPairs(found.works)
    for reader in readers:
        found.comms.update(reader.comms)
        start, end = reader.position_at(start_ns), reader.position_at(end_ns)
        if reader.lost and start == reader.first and end > start:
            found.lost += reader.lost
        found.records += end - start
        switches = _Switches(found)
        for piece in reader.pieces(start, end):
            _pass_over(piece, reader, found, switches, works)
        works.end_of_ring()
        if reader.is_cpu:
            switches.end_of_ring(reader, start)
    works.join()
    _sort(found)
    return found


def _pass_over(
    piece: Piece, reader: RingReader, found: Extract, switches: "_Switches", works: "_WorkPairs"
) -> None:
    switches.add(piece)
    works.add(piece, reader.names)
    _add_wakings(piece, found)
    _add_migrations(piece, found)
    _add_completions(piece, reader, found)
    _add_decisions(piece, found)
    for index in piece.select((BOX_LOAD_BALANCE,)):
        idle, result = piece.gather(COLUMN_C, [index])[0], piece.gather(COLUMN_D, [index])[0]
        found.passes.append((idle, result))
    for event, texts in ((BOX_BUG, found.bugs), (BOX_WARN, found.warnings)):
        for name in piece.gather(COLUMN_A, piece.select((event,))):
            texts.append(reader.names[name])


def _add_wakings(piece: Piece, found: Extract) -> None:
    indices = piece.select((SCHED_WAKING,))
    times = piece.gather(COLUMN_TIME, indices)
    for time_ns, pid in zip(times, piece.gather(COLUMN_A, indices), strict=True):
        found.wakings[pid].append(time_ns)


def _add_migrations(piece: Piece, found: Extract) -> None:
    indices = piece.select((SCHED_MIGRATE_TASK,))
    columns = (COLUMN_TIME, COLUMN_A, COLUMN_C, COLUMN_D, COLUMN_E, COLUMN_CAUSE)
    currents = piece.gather_pids(indices)
    rows = zip(currents, *(piece.gather(column, indices) for column in columns), strict=True)
    found.migrations += [Migration(*row) for row in rows]


def _add_completions(piece: Piece, reader: RingReader, found: Extract) -> None:
    if reader.is_cpu:
        found.rq_completes[reader.number] += piece.events.count(BLOCK_RQ_COMPLETE)
    indices = piece.select((BOX_AIO_COMPLETE,))
    inline = piece.gather(COLUMN_D, indices)
    for pid, is_inline in zip(piece.gather(COLUMN_A, indices), inline, strict=True):
        found.aio[pid] += 1
        if is_inline:
            found.aio_inline[pid] += 1


def _add_decisions(piece: Piece, found: Extract) -> None:
    found.ipis += sum(piece.events.count(event) for event in IPI_EVENTS)
    indices = piece.select((BOX_COMPLETION,))
    for why in piece.gather(COLUMN_D, indices):
        found.decisions[why] += 1
    found.decision_ns += sum(piece.gather(COLUMN_E, indices))


# What belongs to several CPUs comes ring by ring; from here on it is in order of time.
def _sort(found: Extract) -> None:
    for table in (found.ins, found.outs, found.wakings):
        for times in table.values():
            times.sort()
    found.migrations.sort(key=lambda migration: migration.time_ns)


class _Switches:
    # The sched_switch records of one CPU: who ran from when to when.

    __slots__ = ("_found", "_last", "_next")

    def __init__(self, found: Extract) -> None:
        self._found = found
        self._last = -1  # time of the last switch in the window
        self._next = 0  # who runs since

    def add(self, piece: Piece) -> None:
        indices = piece.select((SCHED_SWITCH,))
        if not indices:
            return
        times = piece.gather(COLUMN_TIME, indices)
        prevs = piece.gather(COLUMN_A, indices)
        nexts = piece.gather(COLUMN_D, indices)
        found = self._found
        found.switches += len(indices)
        found.idle_wakeups += prevs.count(0)
        if self._last < 0:
            found.cpu_ns[prevs[0]] += times[0] - found.start_ns
        else:
            self._run(prevs[0], times[0] - self._last)
        for (begun, ended), pid in zip(pairwise(times), nexts, strict=False):
            self._run(pid, ended - begun)
        for time_ns, prev, next_ in zip(times, prevs, nexts, strict=True):
            found.outs[prev].append(time_ns)
            found.ins[next_].append(time_ns)
        self._last = times[-1]
        self._next = nexts[-1]

    def _run(self, pid: int, length: int) -> None:
        self._found.runs[pid].append(length)
        self._found.cpu_ns[pid] += length

    # The last task ran to the end; without any switch, whoever ran before the window still does.
    def end_of_ring(self, reader: RingReader, start: int) -> None:
        found = self._found
        if self._last < 0:
            self._last, self._next = found.start_ns, _running_at(reader, start)
        found.cpu_ns[self._next] += found.end_ns - self._last
        window = found.end_ns - found.start_ns
        found.busy_ns[reader.number] = window - found.cpu_ns.pop(0, 0)
        for table in (found.runs, found.ins, found.outs):
            table.pop(0, None)


def _running_at(reader: RingReader, position: int) -> int:
    while position > reader.first:
        start = max(reader.first, position - BACKWARD_RECORDS)
        for piece in reversed(list(reader.pieces(start, position))):
            at = piece.events.rfind(SCHED_SWITCH)
            if at >= 0:
                return piece.gather(COLUMN_D, [at])[0]
        position = start
    return 0


class _WorkPairs:
    # workqueue_queue_work and workqueue_execute_start of the same work, paired.

    __slots__ = ("_orphans", "_pending", "_spilled", "_works")

    def __init__(self, works: defaultdict[str, Works]) -> None:
        self._works = works
        self._pending: dict[int, int] = {}  # work -> time queued on this ring's CPU
        self._spilled: defaultdict[int, list[int]] = defaultdict(list)
        self._orphans: list[tuple[int, int, str]] = []  # started where they were not queued

    def add(self, piece: Piece, names: list[str]) -> None:
        indices = piece.select((WORKQUEUE_QUEUE_WORK, WORKQUEUE_EXECUTE_START))
        columns = (COLUMN_TIME, COLUMN_A, COLUMN_B)
        rows = zip(indices, *(piece.gather(column, indices) for column in columns), strict=True)
        by_name: dict[int, Works] = {}
        events, pending = piece.events, self._pending
        for index, time_ns, work, function in rows:
            if events[index] == WORKQUEUE_QUEUE_WORK:
                if work in pending:
                    self._spilled[work].append(pending[work])
                pending[work] = time_ns
                continue
            works = by_name.get(function)
            if works is None:
                works = by_name[function] = self._works[names[function]]
            works.started += 1
            queued = pending.pop(work, None)
            if queued is None:
                self._orphans.append((time_ns, work, names[function]))
            else:
                works.delays.append(time_ns - queued)

    def end_of_ring(self) -> None:
        for work, queued in self._pending.items():
            self._spilled[work].append(queued)
        self._pending.clear()

    # A work is not queued again before it has started, so the k-th start takes the k-th queueing.
    def join(self) -> None:
        for times in self._spilled.values():
            times.sort(reverse=True)
        for time_ns, work, function in sorted(self._orphans):
            times = self._spilled.get(work, [])
            if times and times[-1] <= time_ns:
                self._works[function].delays.append(time_ns - times.pop())
