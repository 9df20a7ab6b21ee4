"""Rings as ftrace text: one CPU's log, all CPUs merged, and a live ring line by line.

Theory of operation
-------------------
The dialect is that of ``trace-cmd report``, as LISA, Perfetto and kernel people read it: a header
``cpus=N``, no flags column, and lines ::

    %16s-%-5d [%03d] sec.usec: event: body

The comm is ``<idle>`` for pid 0 before the colon and ``swapper/N`` inside a body; microseconds are
rounded as the kernel rounds them.  Bodies come from the print formats of
:mod:`emulator.tracepoints`: each is compiled once into a positional template and one printer per
field, so that a new event needs nothing here.

Pointers print as 16 hex digits, the same in every run: they are the box's own object numbers,
where a kernel would print a hash.  Lines of a device or of the coordinator bear its ring number in
the CPU column.  What went with the oldest segments is said by a first line ``box_lost``.

A :class:`TextStyle` says what differs between kernels: how wide pids are, and what
``sched_stat_runtime`` tells.  It also adds the flags column, if wanted, as
``/sys/kernel/tracing/trace`` shows it with its header: irqs off, need resched, hardirq or softirq,
preemption depth, and in later kernels the depth of migrate_disable().

Departures: depths are always 0 (a kernel without CONFIG_PREEMPT_COUNT shows the first as such),
and that softirqs are off (``b``, ``D``, from v5.17 on) is not told.
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from string import Formatter
from typing import TextIO

from emulator.trace.layout import EVENTS_MAX, Record
from emulator.trace.reader import RingReader, follow
from emulator.tracepoints import (
    BOX_LOST,
    BY_NAME,
    F_HARDIRQ,
    F_IRQS_OFF,
    F_NEED_RESCHED,
    F_SOFTIRQ,
    SCHED_STAT_RUNTIME,
    SOFTIRQ_NAMES,
    STATE_LETTERS,
    TRACEPOINTS,
    Tracepoint,
)
from emulator.types import NEVER

IDLE = "<idle>"
UNKNOWN = "<...>"

#: Where the arguments begin in a record, and the pid of the current task.
ARGUMENT = 6
PID = 4

FLAGS = 2

#: So many records are looked at together for the last lines of a ring.
LAST_RECORDS = 1024

#: Turns a record into one field of a body.
Printer = Callable[[Record], "int | str"]

#: Events that the kernel records with a runqueue locked, hence with interrupts off.
_UNDER_RQ_LOCK = frozenset(
    point.id for name, point in BY_NAME.items() if name.startswith("sched_") and "exit" not in name
)

_VRUNTIME = " vruntime={vruntime} [ns]"


@dataclass(frozen=True, slots=True)
class TextStyle:
    """What differs between the texts of kernels; without arguments that of v5.4, without flags."""

    pid_chars: int = 5
    flag_chars: int = 0  #: how many flags; 0: no such column
    runtime_bare: bool = False  #: sched_stat_runtime has no vruntime

    @classmethod
    def of_rules(cls, rules: Collection[str], flags: bool = False) -> "TextStyle":
        """Return the style of a kernel that goes by these rules, with the flags column or not."""
        return cls(
            pid_chars=7 if "trace_pid_wide" in rules else 5,
            flag_chars=(5 if "trace_migrate_disable" in rules else 4) if flags else 0,
            runtime_bare="trace_runtime_bare" in rules,
        )


V5_4 = TextStyle()

#: What explains the flags: four of them, and the five of later kernels with their wider pids.
HEAD_FOUR = (
    "#                              _-----=> irqs-off",
    "#                             / _----=> need-resched",
    "#                            | / _---=> hardirq/softirq",
    "#                            || / _--=> preempt-depth",
    "#                            ||| /     delay",
    "#           TASK-PID   CPU#  ||||    TIMESTAMP  FUNCTION",
    "#              | |       |   ||||       |         |",
)
HEAD_FIVE = (
    "#                                _-----=> irqs-off/BH-disabled",
    "#                               / _----=> need-resched",
    "#                              | / _---=> hardirq/softirq",
    "#                              || / _--=> preempt-depth",
    "#                              ||| / _-=> migrate-disable",
    "#                              |||| /     delay",
    "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION",
    "#              | |         |   |||||     |         |",
)
#: Where a head of four flags gets room for wider pids.
PID_END = 20


class Lines:
    """Prints the records of one ring."""

    __slots__ = ("_bodies", "_comms", "_names", "_number", "_prefixes", "_style")

    def __init__(self, reader: RingReader, style: TextStyle = V5_4) -> None:
        self._style = style
        self._number = reader.number
        self._names = reader.names
        self._comms = reader.comms
        self._prefixes: dict[int, str] = {}
        self._bodies = {number: self._compile(point) for number, point in TRACEPOINTS.items()}

    def line(self, record: Record) -> str:
        """Return one record as a line, without its newline."""
        point = TRACEPOINTS[record[1]]
        template, printers = self._bodies[point.id]
        body = template.format(*[printer(record) for printer in printers])
        seconds, micros = divmod((record[0] + 500) // 1000, 1_000_000)
        pid = record[PID]
        prefix = self._prefixes.get(pid)
        if prefix is None:
            prefix = self._prefixes[pid] = self._prefix(pid)
        if self._style.flag_chars:
            prefix += flag_letters(record, self._style.flag_chars) + " "
        return f"{prefix}{seconds:5d}.{micros:06d}: {point.name}: {body}"

    def comm(self, pid: int) -> str:
        """Return the comm of a pid as bodies print it."""
        return self._comms.get(pid, UNKNOWN) if pid else f"swapper/{self._number}"

    def _prefix(self, pid: int) -> str:
        comm = self._comms.get(pid, UNKNOWN) if pid else IDLE
        return f"{comm:>16s}-{pid:<{self._style.pid_chars}d} [{self._number:03d}] "

    # "pid={pid} comm={pid_comm}" becomes "pid={:} comm={:}" and the two printers of its fields.
    def _compile(self, point: Tracepoint) -> tuple[str, list[Printer]]:
        if self._style.runtime_bare and point.id == SCHED_STAT_RUNTIME:
            point = replace(point, print_format=point.print_format.replace(_VRUNTIME, ""))
        places = {name: (ARGUMENT + at, kind) for at, (name, kind) in enumerate(point.fields)}
        template = ""
        printers: list[Printer] = []
        for text, name, spec, _conversion in Formatter().parse(point.print_format):
            template += text
            if name is not None:
                template += f"{{:{spec}}}"
                printers.append(self._printer(name, places))
        return template, printers

    def _printer(self, name: str, places: dict[str, tuple[int, str]]) -> Printer:
        if name in places:
            return self._field_printer(*places[name])
        base, _, facet = name.rpartition("_")
        if name == "comm":
            return lambda record: self._comms.get(record[PID], UNKNOWN) if record[PID] else IDLE
        at, kind = places[base]
        if kind == "pid" and facet == "comm":
            return lambda record: self.comm(record[at])
        assert kind == "vec", name
        assert facet == "action", name
        return lambda record: SOFTIRQ_NAMES[record[at]]

    def _field_printer(self, at: int, kind: str) -> Printer:
        names = self._names
        match kind:
            case "str":
                return lambda record: names[record[at]] if record[at] < len(names) else UNKNOWN
            case "ptr":
                return lambda record: f"{record[at] & 0xFFFFFFFFFFFFFFFF:016x}"
            case "dev":
                return lambda record: f"{record[at] >> 20},{record[at] & 0xFFFFF}"
            case "bdi":
                return lambda record: f"{record[at] >> 20}:{record[at] & 0xFFFFF}"
            case "state":
                return lambda record: STATE_LETTERS.get(record[at], "?")
            case _:
                return lambda record: record[at]


def flag_letters(record: Record, chars: int) -> str:
    """Return the flags of a record as the kernel's column shows them."""
    flags = record[FLAGS]
    off = flags & F_IRQS_OFF or record[1] in _UNDER_RQ_LOCK
    hard, soft = flags & F_HARDIRQ, flags & F_SOFTIRQ
    context = "H" if hard and soft else "h" if hard else "s" if soft else "."
    letters = ("d" if off else ".") + ("N" if flags & F_NEED_RESCHED else ".") + context
    return letters.ljust(chars, ".")


def header(nr_cpus: int) -> str:
    """Return the first line of a text."""
    return f"cpus={nr_cpus}"


def flags_header(reader: RingReader, nr_cpus: int, style: TextStyle) -> list[str]:
    """Return the head of ``/sys/kernel/tracing/trace``, which explains the flags."""
    kept, written = reader.position - reader.first, reader.position
    lines = HEAD_FIVE if style.flag_chars == 5 else HEAD_FOUR
    wide = style.pid_chars == 7 and lines is HEAD_FOUR
    at = f"# entries-in-buffer/entries-written: {kept}/{written}   #P:{nr_cpus}"
    explained = [line[:PID_END] + "  " + line[PID_END:] if wide else line for line in lines]
    return ["# tracer: nop", "#", at, "#", *explained]


def cpu_lines(
    reader: RingReader,
    events: Collection[str] = (),
    from_ns: int = 0,
    to_ns: int = NEVER,
    style: TextStyle = V5_4,
) -> Iterator[str]:
    """Yield the lines of one ring in ``[from_ns, to_ns)``, of the named events or of all.

    Raises ValueError for an event that does not exist.
    """
    wanted = event_filter(events)
    start, end = reader.position_at(from_ns), reader.position_at(to_ns)
    return chain(_lost_line(reader, start, style), _range_lines(reader, wanted, start, end, style))


def last_lines(
    reader: RingReader, count: int, events: Collection[str] = (), style: TextStyle = V5_4
) -> list[str]:
    """Return the last lines of one ring, of the named events or of all, oldest first.

    Raises ValueError for an event that does not exist.
    """
    wanted = event_filter(events)
    found: list[str] = []
    end = reader.position
    while end > reader.first and len(found) < count:
        start = max(reader.first, end - LAST_RECORDS)
        lines = list(_range_lines(reader, wanted, start, end, style))
        found = (
            lines[len(found) - count :] + found
            if len(lines) > count - len(found)
            else lines + found
        )
        end = start
    return found


def merged_lines(
    readers: Iterable[RingReader],
    events: Collection[str] = (),
    from_ns: int = 0,
    to_ns: int = NEVER,
    style: TextStyle = V5_4,
) -> Iterator[str]:
    """Yield the lines of several rings by time; at equal times by ring number.

    Raises ValueError for an event that does not exist.
    """
    wanted = event_filter(events)
    ordered = sorted(readers, key=lambda reader: reader.number)
    spans = [(r, r.position_at(from_ns), r.position_at(to_ns)) for r in ordered]
    losses = [line for reader, start, _end in spans for line in _lost_line(reader, start, style)]
    streams = [_timed_lines(reader, wanted, start, end, style) for reader, start, end in spans]
    merged = heapq.merge(*streams, key=lambda item: item[0])
    return chain(losses, (line for _time, line in merged))


def follow_lines(
    reader: RingReader,
    wait: Callable[[], bool],
    events: Collection[str] = (),
    from_ns: int = 0,
    to_ns: int = NEVER,
    style: TextStyle = V5_4,
) -> Iterator[str]:
    """Yield the lines of a ring that is being written, until ``wait`` says that it has ended.

    ``wait`` is called whenever every line was yielded; it sleeps, and returns False at the end.
    """
    wanted = event_filter(events)
    for start, end, lost in follow(reader, reader.position_at(from_ns), wait):
        if lost:
            yield _lost_text(reader, start, lost, style)
        end_now = min(end, reader.position_at(to_ns))
        yield from _range_lines(reader, wanted, start, end_now, style)
        if end > start and reader.time_at(end - 1) >= to_ns:
            return


def write_log(reader: RingReader, file: TextIO, nr_cpus: int, style: TextStyle = V5_4) -> int:
    """Write the whole log of one ring, and return how many lines of events it has."""
    file.write(header(nr_cpus) + "\n")
    count = 0
    for line in cpu_lines(reader, style=style):
        file.write(line)
        file.write("\n")
        count += 1
    return count


def event_filter(events: Collection[str]) -> list[bool]:
    """Return for every event id whether it is wanted; no names mean all events."""
    for name in events:
        if name not in BY_NAME:
            raise ValueError(f"{name!r} is not a tracepoint")
    if not events:
        return [number in TRACEPOINTS for number in range(EVENTS_MAX)]
    ids = {BY_NAME[name].id for name in events}
    return [number in ids for number in range(EVENTS_MAX)]


def _range_lines(
    reader: RingReader, wanted: list[bool], start: int, end: int, style: TextStyle
) -> Iterator[str]:
    line = Lines(reader, style).line
    for record in reader.records(start, end):
        if wanted[record[1]]:
            yield line(record)


def _timed_lines(
    reader: RingReader, wanted: list[bool], start: int, end: int, style: TextStyle
) -> Iterator[tuple[int, str]]:
    line = Lines(reader, style).line
    for record in reader.records(start, end):
        if wanted[record[1]]:
            yield record[0], line(record)


# Whoever asks for the beginning of the run must learn that it is gone.
def _lost_line(reader: RingReader, start: int, style: TextStyle) -> list[str]:
    if not reader.lost or start > reader.first or reader.first == reader.position:
        return []
    return [_lost_text(reader, reader.first, reader.lost, style)]


def _lost_text(reader: RingReader, position: int, records: int, style: TextStyle) -> str:
    time_ns = reader.time_at(position) if position < reader.position else 0
    return Lines(reader, style).line((time_ns, BOX_LOST, 0, 0, 0, 0, records, 0, 0, 0, 0))
