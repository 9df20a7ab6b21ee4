"""``mpstat``: CPU time and interrupts of each CPU.

A CPU that went offline is not shown; the average at the end is of the whole stretch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from emulator.report.procfs.view import View
from emulator.report.sysstat.layout import (
    INDENT,
    headline,
    json_array,
    json_frame,
    json_object,
    time_of_day,
)
from emulator.report.sysstat.samples import Sample, Span
from emulator.tracepoints import SOFTIRQ_NAMES
from emulator.types import cpulist_parse

#: The columns, and where ``/proc/stat`` has them.
CPU_COLUMNS = {
    "usr": 0,
    "nice": 1,
    "sys": 2,
    "iowait": 4,
    "irq": 5,
    "soft": 6,
    "steal": 7,
    "guest": 8,
    "gnice": 9,
    "idle": 3,
}

ALL = "all"


@dataclass(frozen=True, slots=True)
class Shape:
    """Of which CPUs, what, and how; no CPUs: all of them together."""

    cpus: tuple[int, ...] = ()
    every: bool = False  #: all of them together besides
    load: bool = True
    sums: bool = False
    interrupts: bool = False
    softirqs: bool = False
    json: bool = False

    @classmethod
    def of(cls, cpus: str, interrupts: str | None, nr_cpus: int, json: bool) -> "Shape":
        """Return what ``-P`` and ``-I`` ask for; raise ValueError for CPUs that are not there."""
        chosen: tuple[int, ...] = ()
        if cpus.upper() == "ALL":
            chosen = tuple(range(nr_cpus))
        elif cpus:
            mask = cpulist_parse(cpus)
            if mask >> nr_cpus:
                raise ValueError(f"there are the CPUs 0-{nr_cpus - 1}, not all of {cpus}")
            chosen = tuple(cpu for cpu in range(nr_cpus) if mask >> cpu & 1)
        return cls(
            cpus=chosen,
            every=not cpus or cpus.upper() == "ALL",
            load=interrupts is None,
            sums=interrupts in ("SUM", "ALL"),
            interrupts=interrupts in ("CPU", "ALL"),
            softirqs=interrupts in ("SCPU", "ALL"),
            json=json,
        )

    def rows(self, span: Span) -> list[str]:
        """Return which rows a table of CPUs has."""
        return ([ALL] if self.every else []) + [str(cpu) for cpu in self.shown(span)]

    def shown(self, span: Span) -> list[int]:
        """Return which CPUs have a row."""
        return [cpu for cpu in self.cpus if cpu in span.online]


def mpstat(view: View, intervals: Iterable[Span], shape: Shape) -> Iterator[str]:
    """Yield the text of a report per interval, first line first."""
    if shape.json:
        yield from json_frame(view, (_members(span, shape) for span in intervals))
        return
    yield headline(view) + "\n"
    first: Sample | None = None
    last: Span | None = None
    nr_reports = 0
    for span in intervals:
        first, last = first or span.first, span
        yield _report(
            time_of_day(span.last.time_ns), span, shape, _repeats(shape) or not nr_reports
        )
        nr_reports += 1
    if first is not None and last is not None and nr_reports > 1:
        yield _report("Average:", Span(first, last.last), shape, _repeats(shape))


# A table of one row has one head for all its reports.
def _repeats(shape: Shape) -> bool:
    tables = shape.load + shape.sums + shape.interrupts + shape.softirqs
    return tables > 1 or bool(shape.cpus) or not (shape.load or shape.sums)


def load_percents(span: Span, row: str) -> dict[str, float]:
    """Return the shares of CPU time of a row."""
    times = span.cpu(span.online if row == ALL else (int(row),))
    total = sum(times[:8]) or 1
    return {name: 100 * times[at] / total for name, at in CPU_COLUMNS.items()}


def interrupts_per_s(span: Span, row: str) -> float:
    """Return the interrupts of a row per second."""
    cpus = range(len(span.last.cpus)) if row == ALL else (int(row),)
    return sum(sum(span.interrupts(cpu).values()) for cpu in cpus)


def softirqs_per_s(span: Span, cpu: int) -> dict[str, float]:
    """Return the softirqs of a CPU per second by name."""
    return dict(zip(SOFTIRQ_NAMES, span.softirqs(cpu), strict=True))


def _report(moment: str, span: Span, shape: Shape, with_head: bool) -> str:
    tables: list[list[str]] = []
    if shape.load:
        head = "".join(f" {'%' + name:>7s}" for name in CPU_COLUMNS)
        rows = {row: load_percents(span, row).values() for row in shape.rows(span)}
        tables.append(_table(moment, head, rows, 7))
    if shape.sums:
        tables.append(_table(moment, "    intr/s", _sums(span, shape), 9))
    if shape.interrupts:
        tables.append(
            _rate_table(moment, {cpu: span.interrupts(cpu) for cpu in _cpus(span, shape)})
        )
    if shape.softirqs:
        tables.append(
            _rate_table(moment, {cpu: softirqs_per_s(span, cpu) for cpu in _cpus(span, shape)})
        )
    if not with_head:
        return "".join(line + "\n" for table in tables for line in table[1:])
    return "".join("\n" + "\n".join(table) + "\n" for table in tables)


# Tables of single interrupts are of CPUs, all of them if none was asked for.
def _cpus(span: Span, shape: Shape) -> list[int]:
    return shape.shown(span) if shape.cpus else span.online


def _rate_table(moment: str, rates: dict[int, dict[str, float]]) -> list[str]:
    names = next(iter(rates.values()), {})
    head = "".join(f" {name:>8s}/s" for name in names)
    return _table(moment, head, {str(cpu): one.values() for cpu, one in rates.items()}, 10)


def _sums(span: Span, shape: Shape) -> dict[str, list[float]]:
    return {row: [interrupts_per_s(span, row)] for row in shape.rows(span)}


def _table(moment: str, head: str, rows: Mapping[str, Iterable[float]], width: int) -> list[str]:
    lines = [f"{moment:<11s}  CPU{head}"]
    for row, values in rows.items():
        lines.append(f"{moment:<11s} {row:>4s}" + "".join(f" {one:{width}.2f}" for one in values))
    return lines


def _members(span: Span, shape: Shape) -> list[str]:
    members = [f'"timestamp": "{time_of_day(span.last.time_ns)}"']
    rows = shape.rows(span)
    if shape.load:
        loads = [json_object({"cpu": row, **load_percents(span, row)}) for row in rows]
        members.append(json_array("cpu-load", loads))
    if shape.sums:
        sums = [json_object({"cpu": row, "intr": interrupts_per_s(span, row)}) for row in rows]
        members.append(json_array("sum-interrupts", sums))
    cpus = _cpus(span, shape)
    if shape.interrupts:
        lines = [_intr(cpu, span.interrupts(cpu)) for cpu in cpus]
        members.append(json_array("individual-interrupts", lines))
    if shape.softirqs:
        lines = [_intr(cpu, softirqs_per_s(span, cpu)) for cpu in cpus]
        members.append(json_array("soft-interrupts", lines))
    return members


def _intr(cpu: int, rates: dict[str, float]) -> str:
    lines = [f"{INDENT}\t\t{json_object({'name': name, 'value': rates[name]})}" for name in rates]
    return f'{{"cpu": "{cpu}", "intr": [\n' + ",\n".join(lines) + f"\n{INDENT}\t] }}"
