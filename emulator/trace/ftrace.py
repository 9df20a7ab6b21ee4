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
"""

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from string import Formatter
from typing import TextIO

from emulator.trace.layout import EVENTS_MAX, Record
from emulator.trace.reader import RingReader, follow
from emulator.tracepoints import (
    BOX_LOST,
    BY_NAME,
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

#: Turns a record into one field of a body.
Printer = Callable[[Record], "int | str"]


class Lines:
    """Prints the records of one ring."""

    __slots__ = ("_bodies", "_comms", "_names", "_number", "_prefixes")

    def __init__(self, reader: RingReader) -> None:
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
        return f"{prefix}{seconds:5d}.{micros:06d}: {point.name}: {body}"

    def comm(self, pid: int) -> str:
        """Return the comm of a pid as bodies print it."""
        return self._comms.get(pid, UNKNOWN) if pid else f"swapper/{self._number}"

    def _prefix(self, pid: int) -> str:
        comm = self._comms.get(pid, UNKNOWN) if pid else IDLE
        return f"{comm:>16s}-{pid:<5d} [{self._number:03d}] "

    # "pid={pid} comm={pid_comm}" becomes "pid={:} comm={:}" and the two printers of its fields.
    def _compile(self, point: Tracepoint) -> tuple[str, list[Printer]]:
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
            case "state":
                return lambda record: STATE_LETTERS.get(record[at], "?")
            case _:
                return lambda record: record[at]


def header(nr_cpus: int) -> str:
    """Return the first line of a text."""
    return f"cpus={nr_cpus}"


def cpu_lines(
    reader: RingReader,
    events: Collection[str] = (),
    from_ns: int = 0,
    to_ns: int = NEVER,
) -> Iterator[str]:
    """Yield the lines of one ring in ``[from_ns, to_ns)``, of the named events or of all.

    Raises ValueError for an event that does not exist.
    """
    wanted = event_filter(events)
    start, end = reader.position_at(from_ns), reader.position_at(to_ns)
    return chain(_lost_line(reader, start), _range_lines(reader, wanted, start, end))


def merged_lines(
    readers: Iterable[RingReader],
    events: Collection[str] = (),
    from_ns: int = 0,
    to_ns: int = NEVER,
) -> Iterator[str]:
    """Yield the lines of several rings by time; at equal times by ring number.

    Raises ValueError for an event that does not exist.
    """
    wanted = event_filter(events)
    ordered = sorted(readers, key=lambda reader: reader.number)
    spans = [(r, r.position_at(from_ns), r.position_at(to_ns)) for r in ordered]
    losses = [line for reader, start, _end in spans for line in _lost_line(reader, start)]
    streams = [_timed_lines(reader, wanted, start, end) for reader, start, end in spans]
    merged = heapq.merge(*streams, key=lambda item: item[0])
    return chain(losses, (line for _time, line in merged))


def follow_lines(
    reader: RingReader,
    wait: Callable[[], bool],
    events: Collection[str] = (),
    from_ns: int = 0,
    to_ns: int = NEVER,
) -> Iterator[str]:
    """Yield the lines of a ring that is being written, until ``wait`` says that it has ended.

    ``wait`` is called whenever every line was yielded; it sleeps, and returns False at the end.
    """
    wanted = event_filter(events)
    for start, end, lost in follow(reader, reader.position_at(from_ns), wait):
        if lost:
            yield _lost_text(reader, start, lost)
        yield from _range_lines(reader, wanted, start, min(end, reader.position_at(to_ns)))
        if end > start and reader.time_at(end - 1) >= to_ns:
            return


def write_log(reader: RingReader, file: TextIO, nr_cpus: int) -> int:
    """Write the whole log of one ring, and return how many lines of events it has."""
    file.write(header(nr_cpus) + "\n")
    count = 0
    for line in cpu_lines(reader):
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


def _range_lines(reader: RingReader, wanted: list[bool], start: int, end: int) -> Iterator[str]:
    line = Lines(reader).line
    for record in reader.records(start, end):
        if wanted[record[1]]:
            yield line(record)


def _timed_lines(
    reader: RingReader, wanted: list[bool], start: int, end: int
) -> Iterator[tuple[int, str]]:
    line = Lines(reader).line
    for record in reader.records(start, end):
        if wanted[record[1]]:
            yield record[0], line(record)


# Whoever asks for the beginning of the run must learn that it is gone.
def _lost_line(reader: RingReader, start: int) -> list[str]:
    if not reader.lost or start > reader.first or reader.first == reader.position:
        return []
    return [_lost_text(reader, reader.first, reader.lost)]


def _lost_text(reader: RingReader, position: int, records: int) -> str:
    time_ns = reader.time_at(position) if position < reader.position else 0
    return Lines(reader).line((time_ns, BOX_LOST, 0, 0, 0, 0, records, 0, 0, 0, 0))
