"""What the rings of a run say about one moment: records by cause, the last of a kind, who waited.

Theory of operation
-------------------
Nothing is read before somebody asks.  The last record of a kind is searched backwards, a stretch of
the ring at a time, and selected at C speed; a cause names its record exactly.  Who waits on a CPU is
not recorded anywhere: it is found by going back to the last time at which that CPU had nothing to
do (its switch to idle), and by following switches, wakeups and moves from there on.

Rings may grow meanwhile: what is read is what they held when they were opened.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from emulator.report.extract import PER_CPU_KTHREADS
from emulator.trace.layout import Record, split_cause
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
    MIGRATE_WAKEUP,
    SCHED_MIGRATE_TASK,
    SCHED_SWITCH,
    SCHED_WAKEUP,
    SCHED_WAKEUP_NEW,
    TASK_PREEMPTED,
    TASK_RUNNING,
    TRACEPOINTS,
)
from emulator.types import NEVER, NSEC_PER_SEC

#: How many records are looked at in one step of a search backwards.
STEP_RECORDS = 1 << 14

#: How far back a CPU's queue is followed if it was never idle: longer than anybody waits.
QUEUE_NS_MAX = NSEC_PER_SEC

_WAKEUPS = (SCHED_WAKEUP, SCHED_WAKEUP_NEW)

#: Time, event and arguments of a record.
Row = tuple[int, int, int, int, int, int, int]

ARGUMENT_COLUMNS = (COLUMN_A, COLUMN_B, COLUMN_C, COLUMN_D, COLUMN_E)


class Entry(NamedTuple):
    """One record and where it stands."""

    reader: RingReader
    position: int
    record: Record

    @property
    def time_ns(self) -> int:
        """Return when it happened."""
        return self.record[0]

    @property
    def event(self) -> int:
        """Return the id of its event."""
        return self.record[1]

    @property
    def name(self) -> str:
        """Return the name of its event."""
        return TRACEPOINTS[self.record[1]].name

    @property
    def current(self) -> int:
        """Return the pid of the task that was current, 0 for the idle task."""
        return self.record[4]

    @property
    def cause(self) -> int:
        """Return the global position of what led to it, or 0."""
        return self.record[5]

    @property
    def args(self) -> tuple[int, int, int, int, int]:
        """Return its arguments."""
        return self.record[6:]

    @property
    def place(self) -> int:
        """Return the number of its ring: of a CPU, or of a node beyond them."""
        return self.reader.number


@dataclass(slots=True)
class Queue:
    """Who was on a CPU's runqueue at a moment: who ran, and who waited, each since when."""

    cpu: int
    current: int = 0  #: pid; 0: the CPU was idle
    since_ns: int = 0
    waiting: dict[int, int] = field(default_factory=dict)  #: pid -> waiting since


class History:
    """The rings of a run, to be asked about single moments."""

    __slots__ = ("comms", "cpus", "readers")

    def __init__(self, readers: Sequence[RingReader]) -> None:
        self.readers = {reader.number: reader for reader in readers}
        self.cpus = [reader for reader in readers if reader.is_cpu]
        self.comms: dict[int, str] = {}
        for reader in readers:
            self.comms.update(reader.comms)

    @property
    def end_ns(self) -> int:
        """Return the time of the last record of any ring."""
        ends = [r.time_at(r.position - 1) for r in self.readers.values() if r.position > r.first]
        return max(ends, default=0)

    def who(self, pid: int) -> str:
        """Return how a task is called in a sentence; a kernel thread's name says which it is."""
        comm = self.comms.get(pid, "<...>")
        return (comm if "/" in comm else f"{comm}/{pid}") if pid else "the idle task"

    def is_bound(self, pid: int) -> bool:
        """Whether a task is a kernel thread that exists once per CPU, and so cannot be moved."""
        head, slash, tail = self.comms.get(pid, "").partition("/")
        return bool(slash) and head in PER_CPU_KTHREADS and tail[:1].isdigit()

    def kind(self, pid: int) -> str:
        """Return the kind of a task: its comm, or the name that per-CPU threads share."""
        return self.comms.get(pid, "").partition("/")[0]

    # -- Records ---------------------------------------------------------------------------------

    def at(self, cause: int) -> Entry | None:
        """Return the record that a cause names, if it still exists."""
        number, position = split_cause(cause)
        reader = self.readers.get(number)
        if not cause or reader is None or not reader.first <= position < reader.position:
            return None
        return Entry(reader, position, reader.record(position))

    def last(
        self,
        events: Collection[int],
        where: dict[int, int],
        upto_ns: int = NEVER,
        readers: Sequence[RingReader] | None = None,
    ) -> Entry | None:
        """Return the newest record of the events whose columns have the values of ``where``.

        Only records of ``upto_ns`` and before count; without ``readers``, those of all CPUs.
        """
        found: Entry | None = None
        for reader in self.cpus if readers is None else readers:
            from_ns = found.time_ns if found is not None else 0
            one = _last_in(reader, events, where, upto_ns, from_ns)
            if one is not None and (found is None or one.time_ns >= found.time_ns):
                found = one
        return found

    def between(
        self, events: Collection[int], start_ns: int, end_ns: int, readers: Sequence[RingReader]
    ) -> Iterator[Entry]:
        """Yield the records of the events in ``[start_ns, end_ns)``, ring by ring."""
        for reader in readers:
            start, end = reader.position_at(start_ns), reader.position_at(end_ns)
            yield from _entries(reader, events, start, end)

    # -- Runqueues -------------------------------------------------------------------------------

    def queue_at(self, cpu: int, time_ns: int, end: int | None = None) -> Queue:
        """Return who was on a CPU's runqueue just before ``time_ns``.

        ``end`` is a position of that CPU's ring: only what was recorded before it counts.
        """
        reader = self.readers[cpu]
        end = reader.position_at(time_ns) if end is None else end
        start = _idle_before(reader, end, time_ns - QUEUE_NS_MAX)
        start_ns = reader.time_at(start) if start < reader.position else 0
        rows = _rows(reader, start, end)
        others = [other for other in self.cpus if other is not reader]
        arrivals = [
            (entry.time_ns, entry.event, *entry.args)
            for entry in self.between((SCHED_MIGRATE_TASK,), start_ns, time_ns, others)
            if entry.args[3] == cpu
        ]
        if arrivals:
            rows = sorted(rows + arrivals, key=lambda row: row[0])
        queue = Queue(cpu)
        for row in rows:
            _replay(queue, row)
        return queue


# A busy CPU that is never idle has many: columns are read at once, no object made per record.
def _rows(reader: RingReader, start: int, end: int) -> list[Row]:
    rows: list[Row] = []
    for piece in reader.pieces(start, end):
        indices = piece.select((SCHED_SWITCH, SCHED_MIGRATE_TASK, *_WAKEUPS))
        events = [piece.events[index] for index in indices]
        columns = [piece.gather(column, indices) for column in ARGUMENT_COLUMNS]
        times = piece.gather(COLUMN_TIME, indices)
        rows += zip(times, events, *columns, strict=True)
    return rows


def _replay(queue: Queue, row: Row) -> None:
    time_ns, event, *args = row
    if event == SCHED_SWITCH:
        prev, _prio, state, following = args[:4]
        queue.waiting.pop(prev, None)
        if prev and state in (TASK_RUNNING, TASK_PREEMPTED):
            queue.waiting[prev] = time_ns
        queue.waiting.pop(following, None)
        queue.current, queue.since_ns = following, time_ns
    elif event == SCHED_MIGRATE_TASK:
        pid, _prio, source, target, why = args
        if source == queue.cpu:
            queue.waiting.pop(pid, None)
        elif target == queue.cpu and why != MIGRATE_WAKEUP:
            queue.waiting[pid] = time_ns
    elif args[2] == queue.cpu and args[0] != queue.current:
        queue.waiting.setdefault(args[0], time_ns)


def _entries(reader: RingReader, events: Collection[int], start: int, end: int) -> Iterator[Entry]:
    for piece in reader.pieces(start, end):
        for index in piece.select(events):
            position = piece.start + index
            yield Entry(reader, position, reader.record(position))


def _idle_before(reader: RingReader, end: int, not_before_ns: int) -> int:
    # The position of the last switch to idle, or of the first record that is looked at at all.
    limit = max(reader.first, reader.position_at(max(not_before_ns, 0)))
    for piece in _backwards(reader, limit, end):
        indices = piece.select((SCHED_SWITCH,))
        followings = piece.gather(COLUMN_D, indices)
        for index, following in zip(reversed(indices), reversed(followings), strict=True):
            if not following:
                return piece.start + index
    return limit


def _last_in(
    reader: RingReader,
    events: Collection[int],
    where: dict[int, int],
    upto_ns: int,
    from_ns: int,
) -> Entry | None:
    end = reader.position if upto_ns >= NEVER else reader.position_at(upto_ns + 1)
    for piece in _backwards(reader, reader.first, end):
        indices = piece.select(events)
        for column, value in where.items():
            values = piece.gather(column, indices)
            indices = [index for index, one in zip(indices, values, strict=True) if one == value]
        if indices:
            position = piece.start + indices[-1]
            return Entry(reader, position, reader.record(position))
        if reader.time_at(piece.start) < from_ns:
            return None
    return None


def _backwards(reader: RingReader, start: int, end: int) -> Iterator[Piece]:
    while end > start:
        begin = max(start, end - STEP_RECORDS)
        yield from reversed(list(reader.pieces(begin, end)))
        end = begin


#: The column of the first argument: the pid, in most events.
PID_COLUMN = COLUMN_A
