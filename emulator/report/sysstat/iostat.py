"""``iostat``: CPU time of all CPUs together, and what each disk did.

Rates are per second of emulated time; waits are what the kernel adds up of finished requests, and go
from where a request is made to where it ends.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from emulator.report.procfs.view import View
from emulator.report.sysstat.layout import (
    headline,
    json_array,
    json_frame,
    json_object,
    timestamp,
)
from emulator.report.sysstat.samples import Span

CPU_COLUMNS = ("user", "nice", "system", "iowait", "steal", "idle")

#: Header, width, name in JSON.
PLAIN_COLUMNS = (
    ("tps", 8, "tps"),
    ("kB_read/s", 12, "kB_read/s"),
    ("kB_wrtn/s", 12, "kB_wrtn/s"),
    ("kB_dscd/s", 12, "kB_dscd/s"),
    ("kB_read", 10, "kB_read"),
    ("kB_wrtn", 10, "kB_wrtn"),
    ("kB_dscd", 10, "kB_dscd"),
)
_DIRECTION_COLUMNS = (
    ("{}/s", 7, "{}/s"),
    ("{}kB/s", 9, "{}kB/s"),
    ("{}rqm/s", 8, "{}rqm/s"),
    ("%{}rqm", 6, "{}rqm"),
    ("{}_await", 7, "{}_await"),
    ("{}areq-sz", 8, "{}areq-sz"),
)
EXTENDED_COLUMNS = (
    *(
        (header.format(way), width, name.format(way))
        for way in "rwd"
        for header, width, name in _DIRECTION_COLUMNS
    ),
    ("f/s", 7, "f/s"),
    ("f_await", 7, "f_await"),
    ("aqu-sz", 7, "aqu-sz"),
    ("%util", 6, "util"),
)

#: Where a direction begins among the numbers of a disk: IOs, merges, sectors, ms.
_FIRST = {"r": 0, "w": 4, "d": 11}
_IO_MS, _QUEUE_MS, _FLUSHES, _FLUSH_MS = 9, 10, 15, 16

Row = dict[str, float | int]


@dataclass(frozen=True, slots=True)
class Shape:
    """What is to be said of each interval, and how."""

    extended: bool = False
    cpu: bool = True
    disks: bool = True
    stamped: bool = False
    json: bool = False


def iostat(view: View, intervals: Iterable[Span], shape: Shape) -> Iterator[str]:
    """Yield the text of a report per interval, first line first."""
    if shape.json:
        yield from json_frame(view, (_members(view, span, shape) for span in intervals))
        return
    yield headline(view) + "\n\n"
    for span in intervals:
        yield "\n".join(_lines(view, span, shape)) + "\n\n\n"


def cpu_percents(span: Span) -> Row:
    """Return the shares of CPU time as ``iostat`` tells them: interrupts are system time."""
    user, nice, system, idle, iowait, irq, softirq, steal, _guest, _guest_nice = span.cpu(
        span.online
    )
    times = (user, nice, system + irq + softirq, iowait, steal, idle)
    total = sum(times) or 1
    return {name: 100 * time / total for name, time in zip(CPU_COLUMNS, times, strict=True)}


def plain_row(numbers: list[int], seconds: float) -> Row:
    """Return the figures of a disk in short: transfers and kB."""
    names = ("kB_read", "kB_wrtn", "kB_dscd")
    sectors = {name: numbers[first + 2] for name, first in zip(names, _FIRST.values(), strict=True)}
    return {
        "tps": sum(numbers[first] for first in _FIRST.values()) / seconds,
        **{f"{name}/s": count / 2 / seconds for name, count in sectors.items()},
        **{name: count // 2 for name, count in sectors.items()},
    }


def extended_row(numbers: list[int], seconds: float) -> Row:
    """Return the figures of ``-x``, in the order of JSON."""
    parts = {way: numbers[first : first + 4] for way, first in _FIRST.items()}
    flushes, flush_ms = numbers[_FLUSHES], numbers[_FLUSH_MS]
    row: Row = {f"{way}/s": parts[way][0] / seconds for way in parts}
    row["f/s"] = flushes / seconds
    row |= {f"{way}kB/s": parts[way][2] / 2 / seconds for way in parts}
    row |= {f"{way}rqm/s": parts[way][1] / seconds for way in parts}
    row |= {f"{way}rqm": 100 * _per(parts[way][1], sum(parts[way][:2])) for way in parts}
    row |= {f"{way}_await": _per(parts[way][3], parts[way][0]) for way in parts}
    row["f_await"] = _per(flush_ms, flushes)
    row |= {f"{way}areq-sz": _per(parts[way][2] / 2, parts[way][0]) for way in parts}
    row["aqu-sz"] = numbers[_QUEUE_MS] / 1000 / seconds
    row["util"] = numbers[_IO_MS] / 10 / seconds
    return row


def _per(amount: float, count: int) -> float:
    return amount / count if count else 0.0


def _rows(view: View, span: Span, shape: Shape) -> dict[str, Row]:
    row = extended_row if shape.extended else plain_row
    return {
        disk.name: row(span.disk(index), span.seconds) for index, disk in enumerate(view.spec.disks)
    }


def _lines(view: View, span: Span, shape: Shape) -> list[str]:
    lines: list[str] = []
    if shape.stamped:
        lines.append(timestamp(span.last.time_ns))
    if shape.cpu:
        percents = cpu_percents(span)
        lines.append("avg-cpu:  " + " ".join(f"{'%' + name:>7s}" for name in percents).lstrip())
        lines.append(" " * 7 + "".join(f" {value:7.2f}" for value in percents.values()))
        lines.append("")
    if shape.disks:
        columns = EXTENDED_COLUMNS if shape.extended else PLAIN_COLUMNS
        head = "".join(f" {header:>{width}s}" for header, width, _ in columns)
        lines.append(f"{'Device':<13s}{head}")
        for name, row in _rows(view, span, shape).items():
            cells = "".join(f" {_cell(row[key], width)}" for _, width, key in columns)
            lines.append(f"{name:<13s}{cells}")
        lines.append("")
    return lines[:-1]


def _cell(value: float | int, width: int) -> str:
    return f"{value:{width}.2f}" if isinstance(value, float) else f"{value:{width}d}"


def _members(view: View, span: Span, shape: Shape) -> list[str]:
    members: list[str] = []
    if shape.stamped:
        members.append(f'"timestamp": "{timestamp(span.last.time_ns)}"')
    if shape.cpu:
        members.append(f'"avg-cpu":  {json_object(cpu_percents(span))}')
    if shape.disks:
        rows = _rows(view, span, shape).items()
        members.append(
            json_array("disk", (json_object({"disk_device": name, **row}) for name, row in rows))
        )
    return members
