"""What a person waits for: the next record of an event, with filters, looked for in a run's rings.

Theory of operation
-------------------
A :class:`Condition` is read from words such as ``sched_migrate_task pid=1000 why=newidle`` or from
one of the names in :data:`NAMED` (``active balance``); it answers for one record.  A
:class:`RingWatch` keeps a place in each ring, and looks at what was written since; it must be asked
only while nobody writes, and then misses nothing.

Filters: ``cpu=N`` is the CPU in whose log the record is, ``pid=N`` and ``task=NAME`` are a task that
the event names, or, if it names none, the one that was running.  Every other word is a field of the
event; one that is called ``cpu``, ``pid`` or ``task`` is written ``field.cpu=N``.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.trace.ftrace import ARGUMENT, PID, UNKNOWN, Lines, TextStyle
from emulator.trace.layout import Record
from emulator.trace.reader import RingReader, open_rings
from emulator.tracepoints import (
    BOX_DOORBELL,
    BOX_LB_IMBALANCE,
    BOX_LOAD_BALANCE,
    BY_NAME,
    COMPLETION_WHYS,
    IDLE_TYPES,
    LB_RESULTS,
    MIGRATE_CAUSES,
    NOHZ_WHYS,
    PLACE_RULES,
    PREEMPT_WHYS,
    SOFTIRQ_NAMES,
    STATE_LETTERS,
    TRACEPOINTS,
    WA_RULES,
    Tracepoint,
)

#: Decisions and turns of events that have a name of their own, as words of a condition.
NAMED = {
    "migration": "sched_migrate_task",
    "active balance": "box_load_balance result=active",
    "balance move": "box_load_balance result=moved",
    "nohz kick": "box_nohz_kick",
    "newidle move": "sched_migrate_task why=newidle",
    "preemption": "box_check_preempt",
    "offline": "cpuhp_enter target=0 step=20",
    "online": "cpuhp_enter target=195 step=194",
    "exit": "sched_process_exit",
    "throttling": "balance_dirty_pages",
    "warning": "box_warn",
    "command": "box_command",
}

#: Fields whose numbers have words.
WORDS: dict[tuple[str, str], dict[str, int]] = {
    (event, field): {word: number for number, word in enumerate(words)}
    for event, field, words in (
        ("box_load_balance", "result", LB_RESULTS),
        ("box_load_balance", "idle", IDLE_TYPES),
        ("box_select_task_rq", "rule", PLACE_RULES),
        ("box_wake_affine", "rule", WA_RULES),
        ("box_check_preempt", "why", PREEMPT_WHYS),
        ("box_nohz_kick", "why", NOHZ_WHYS),
        ("box_completion", "why", COMPLETION_WHYS),
    )
} | {("sched_migrate_task", "why"): {word: number for number, word in MIGRATE_CAUSES.items()}}
_BY_KIND = {
    "vec": {word: number for number, word in enumerate(SOFTIRQ_NAMES)},
    "state": {letter: number for number, letter in STATE_LETTERS.items()},
}


#: Events of rings that are no CPU's: the balancer's and the disks'.
BALANCER_EVENTS = frozenset((BOX_LOAD_BALANCE, BOX_LB_IMBALANCE))
DISK_EVENTS = frozenset((BOX_DOORBELL,))


@dataclass(frozen=True, slots=True)
class Condition:
    """Which records of one event are meant."""

    event: int
    cpu: int = -1  #: number of the ring, -1: any
    pid: int = -1
    task: str = ""
    numbers: tuple[tuple[int, int], ...] = ()  #: (place in the record, value)
    texts: tuple[tuple[int, str], ...] = ()  #: (place in the record, interned text)

    def matches(self, record: Record, reader: RingReader) -> bool:
        """Return whether a record of this event is meant; its ring's names must be fresh."""
        if self.cpu not in (-1, reader.number):
            return False
        if any(record[place] != value for place, value in self.numbers):
            return False
        if any(_text(reader, record[place]) != text for place, text in self.texts):
            return False
        tasks = _tasks(record)
        if self.pid not in (-1, *tasks):
            return False
        return not self.task or self.task in [reader.comms.get(pid) for pid in tasks]

    def recorders(self, nr_cpus: int, nr_nodes: int) -> range:
        """Return the nodes that record such events."""
        if self.cpu >= 0:
            return range(self.cpu, self.cpu + 1)
        if self.event in BALANCER_EVENTS:
            return range(nr_cpus, nr_cpus + 1)
        return range(nr_cpus + 1, nr_nodes) if self.event in DISK_EVENTS else range(nr_cpus)


def parse_condition(words: Sequence[str], trace_off: Collection[str] = ()) -> Condition:
    """Return the condition that the words state; raise ValueError saying what is odd."""
    plain = [word for word in words if "=" not in word]
    filters = [word for word in words if "=" in word]
    named = NAMED.get(" ".join(plain))
    if named is not None:
        plain, filters = named.split()[:1], named.split()[1:] + filters
    point = BY_NAME.get(" ".join(plain))
    if point is None:
        raise ValueError(
            f"{' '.join(plain)!r} is no event and none of: {', '.join(NAMED)}; "
            "events are what `logs` shows, such as sched_switch"
        )
    if point.name in trace_off:
        raise ValueError(f"this box does not record {point.name} (trace.off)")
    return _filtered(point, filters)


def _filtered(point: Tracepoint, filters: Sequence[str]) -> Condition:
    cpu, pid, task = -1, -1, ""
    numbers: list[tuple[int, int]] = []
    texts: list[tuple[int, str]] = []
    for word in filters:
        name, _, value = word.partition("=")
        if name == "cpu":
            cpu = _number(value, word)
        elif name == "pid":
            pid = _number(value, word)
        elif name == "task":
            task = value
        else:
            place, kind = _place(point, name.removeprefix("field."))
            if kind == "str":
                texts.append((place, value))
            else:
                numbers.append((place, _value(point, name.removeprefix("field."), kind, value)))
    return Condition(point.id, cpu, pid, task, tuple(numbers), tuple(texts))


def _place(point: Tracepoint, name: str) -> tuple[int, str]:
    for at, (field, kind) in enumerate(point.fields):
        if field == name and kind not in ("ptr", "dev", "bdi"):
            return ARGUMENT + at, kind
    known = [field for field, kind in point.fields if kind not in ("ptr", "dev", "bdi")]
    raise ValueError(f"{point.name} has no {name!r} to ask for; it has {', '.join(known)}")


def _value(point: Tracepoint, name: str, kind: str, value: str) -> int:
    words = WORDS.get((point.name, name)) or _BY_KIND.get(kind, {})
    if value in words:
        return words[value]
    try:
        return int(value, 0)
    except ValueError:
        what = f"one of {', '.join(words)}" if words else "a number"
        raise ValueError(f"{name}={value}: it is {what}") from None


def _number(value: str, word: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"{word!r}: it is a number")
    return int(value)


def _text(reader: RingReader, number: int) -> str:
    return reader.names[number] if number < len(reader.names) else UNKNOWN


def _tasks(record: Record) -> list[int]:
    point = TRACEPOINTS[record[1]]
    pids = [record[ARGUMENT + at] for at, (_, kind) in enumerate(point.fields) if kind == "pid"]
    return pids or [record[PID]]


class RingWatch:
    """Looks for a condition in what is written to a run's rings from now on.

    Raises OSError or RingError where a ring cannot be read.
    """

    __slots__ = ("_condition", "_done", "_readers", "_style", "recorders")

    def __init__(
        self, directory: str | Path, condition: Condition, style: TextStyle, recorders: range
    ) -> None:
        self.recorders = recorders  #: nodes that may record what is waited for
        self._condition, self._style = condition, style
        self._readers = [
            reader for reader in open_rings(directory) if condition.cpu in (-1, reader.number)
        ]
        self._done = [reader.position for reader in self._readers]

    def look(self) -> tuple[int, str] | None:
        """Return the time and the line of the earliest new match, None if there is none yet."""
        found: list[tuple[int, int, str]] = []
        for place, reader in enumerate(self._readers):
            start, self._done[place] = self._done[place], reader.advance()
            record = self._first(reader, start)
            if record is not None:
                found.append(
                    (record[0], reader.number, Lines(reader, self._style).line(record).lstrip())
                )
        if not found:
            return None
        time_ns, _, line = min(found)
        return time_ns, line

    def _first(self, reader: RingReader, start: int) -> Record | None:
        fresh = False
        for piece in reader.pieces(start):
            for at in piece.select((self._condition.event,)):
                if not fresh:
                    reader.refresh()
                    fresh = True
                record = reader.record(piece.start + at)
                if self._condition.matches(record, reader):
                    return record
        return None
