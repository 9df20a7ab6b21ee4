"""``bench``: how fast the shipped boxes run on this host, and what that costs.

Theory of operation
-------------------
Every figure is of a run in a process of its own, one at a time, taken from its ``results.json``:
emulated seconds per second of the host, windows and messages per emulated second (these are counts
and do not depend on the host), Python time and records per IO, the time until a box is up, memory
of a CPU's process; and allocations per IO (:mod:`emulator.allocations`).  A run that fails shows as a line without figures.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from emulator.allocations import LIBRARY, allocations_per_io
from emulator.apart import Errand, Report, run_apart
from emulator.types import NSEC_PER_SEC

THREE_BOXES = ("xfs-aio-4k-default", "xfs-aio-4k-tuned", "xfs-aio-512")
TUNED = "xfs-aio-4k-tuned"
LARGE = "xfs-aio-4k-tuned-24cpu"
ORACLE = "oracle/W30"

#: Sizes of the tuned box with one busy submitter: idle CPUs should cost nearly nothing.
SIZES = (4, 8, 24, 64)

#: Emulated time of each run, and of a quick look.
DURATION = "5s"
QUICK_DURATION = "1500ms"

COLUMNS = ("box", "engine", "speed", "win/s", "msg/s", "µs/IO", "rec/IO", "up in")


@dataclass(frozen=True, slots=True)
class Speed:
    """What one run says of the emulator's speed; see :data:`COLUMNS`."""

    emulated_s: float
    run_s: float  #: of the host, without the start
    start_s: float
    windows: int
    messages: int
    iops: float
    records_per_s: float  #: emulated, as all rates
    cpu_rss_bytes: tuple[int, ...]  #: of the CPUs' processes


def run_bench(quick: bool) -> int:
    """Run the benchmark, print its tables, return 0 if every run gave figures, else 2."""
    duration = QUICK_DURATION if quick else DURATION
    console = Console()
    reports: list[Report] = []
    for title, errands in plan(duration):
        table = _table(title)
        for report in run_apart(errands, at_once=1):
            table.add_row(*_row(report))
            reports.append(report)
        console.print(table, "")
    for line in [*failure_lines(reports), *memory_lines(reports), *allocation_lines(reports)]:
        console.print(line, highlight=False, markup=False)
    return 2 if any(speed_of(report) is None for report in reports) else 0


def plan(duration: str) -> Iterator[tuple[str, list[Errand]]]:
    """Yield the tables of the benchmark: a title and the runs that fill it."""
    length = ("--for", duration)
    yield (
        "Shipped boxes, 8 CPUs",
        [
            Errand(box, ("--engine", engine, *length))
            for box in THREE_BOXES
            for engine in ("inline", "processes")
        ],
    )
    yield "CPUs that take turns, 4 CPUs", [Errand(ORACLE, ("--engine", "inline", *length))]
    yield "24 CPUs up", [Errand(LARGE, ("--engine", "processes", *length))]
    yield (
        "One busy submitter among more and more CPUs",
        [
            Errand(TUNED, ("--set", f"machine.cpus={cpus}", "--engine", engine, *length))
            for cpus in SIZES
            for engine in ("inline", "processes")
        ],
    )


def speed_of(report: Report) -> Speed | None:
    """Return what a run says of speed, or None if it left no results or ended early."""
    results = report.results
    if results is None or not results["complete"]:
        return None
    engine, figures = results["engine"], results["figures"]
    return Speed(
        emulated_s=engine["reached_ns"] / NSEC_PER_SEC,
        run_s=engine["wall_s"] - engine["start_s"],
        start_s=engine["start_s"],
        windows=engine["windows"],
        messages=engine["messages"],
        iops=figures["iops"] or 0.0,
        records_per_s=figures["records"] / figures["window_s"],
        cpu_rss_bytes=_cpu_memory(engine["agents"]),
    )


def _cpu_memory(agents: dict[str, dict[str, Any]]) -> tuple[int, ...]:
    return tuple(
        int(facts["rss_bytes"]) for name, facts in agents.items() if name.startswith("emucpu/")
    )


def _table(title: str) -> Table:
    table = Table(
        *COLUMNS, title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[2:]:
        column.justify = "right"
    return table


def _row(report: Report) -> list[str]:
    options = report.errand.options
    engine = options[options.index("--engine") + 1]
    changes = [f"{word.partition('=')[2]} CPUs" for word in options if "machine.cpus=" in word]
    name = " ".join([report.errand.box, *changes])
    speed = speed_of(report)
    return [name, engine, *(_figures(speed, engine) if speed else ["failed"])]


def _figures(speed: Speed, engine: str) -> list[str]:
    host_us = speed.run_s * 1e6 / speed.emulated_s
    per_io = "-" if not speed.iops else f"{host_us / speed.iops:.0f}"
    records = "-" if not speed.iops else f"{speed.records_per_s / speed.iops:.1f}"
    return [
        f"{speed.emulated_s / speed.run_s:.2f}x",
        f"{speed.windows / speed.emulated_s:,.0f}",
        f"{speed.messages / speed.emulated_s:,.0f}",
        per_io,
        records,
        f"{speed.start_s:.2f} s" if engine == "processes" else "",
    ]


def failure_lines(reports: Iterable[Report]) -> Iterator[str]:
    """Yield why a run has no figures, for every run that has none."""
    for report in reports:
        if speed_of(report) is None:
            yield f"{report.errand.box} {' '.join(report.errand.options)}: {_reason(report)}"


# Of a traceback, the line that says what happened.
def _reason(report: Report) -> str:
    lines = report.error.splitlines() or ["no complete result"]
    telling = [line for line in lines if line[:1].strip() and "Error: " in line]
    return (telling or lines)[-1]


def memory_lines(reports: Iterable[Report]) -> Iterator[str]:
    """Yield what a CPU's process holds of the host's memory, for every run of processes."""
    for report in reports:
        speed = speed_of(report)
        if speed is not None and speed.cpu_rss_bytes:
            sizes = [size / (1 << 20) for size in speed.cpu_rss_bytes]
            mean = sum(sizes) / len(sizes)
            yield (
                f"{report.errand.box}: {len(sizes)} CPU processes, "
                f"{mean:.1f} MiB resident each, {max(sizes):.1f} MiB at most"
            )


def allocation_lines(reports: Iterable[Report]) -> Iterator[str]:
    """Yield the allocations per IO of the three boxes, counted in runs of their own."""
    for report in reports:
        errand, speed = report.errand, speed_of(report)
        if (
            errand.box not in THREE_BOXES
            or "inline" not in errand.options
            or "--set" in errand.options
        ):
            continue
        if speed is None:
            continue
        count = allocations_per_io(errand.box, speed.iops)
        if count is None:
            yield f"allocations per IO: not counted, there is no {LIBRARY} here"
            return
        yield f"{errand.box}: {count:,.0f} allocations per IO inline, free lists not counted"
