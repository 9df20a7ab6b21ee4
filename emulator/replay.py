"""`replay`: a run made again with the commands that it was given, and its rings compared.

Theory of operation
-------------------
A run is a function of its box and of the commands with their times.  Both are in its run directory,
so it can be made again, in any engine, and must leave the same rings.  Commands given by hand come
back at the nanosecond at which they were stamped, in the order in which they were given.

A run that was ended early is made again up to where it ended.  One that broke off (a process was
killed) has rings that end here and there: of those, as far as they go.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from emulator import engines
from emulator.config import BoxError, load_plain
from emulator.describe import spec_of
from emulator.engine.plan import CommandError
from emulator.engines import INLINE
from emulator.rundir import BOX, COMMANDS, RESULTS, RUN, RunDirectory, resolve_run
from emulator.session import Clocked, run_clocked, versions, write_commands
from emulator.trace.ftrace import Lines, TextStyle
from emulator.trace.reader import RingError, RingReader
from emulator.tracepoints import RECORD_SIZE
from emulator.types import BoxEvent, BoxSpec
from emulator.units import duration_format, duration_parse

#: So many bytes of two rings are compared at once.
CHUNK = 1 << 20

SAME, DIFFERENT, UNKNOWN = 0, 1, 2


class ReplayError(Exception):
    """The run cannot be made again; the text says why."""


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """Which run, in which engine (none: the run's own), and where its repetition is left."""

    run: str
    engine: str | None
    strict: bool
    out: Path
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a run directory says about its run."""

    directory: RunDirectory
    spec: BoxSpec  #: its events are all commands that it was given, at their times
    facts: dict[str, Any]
    until_ns: int  #: how far it went
    whole: bool  #: it ended as a run ends: all nodes at one time

    @property
    def style(self) -> TextStyle:
        """How its kernel writes logs."""
        return TextStyle.of_rules(self.facts.get("rules", ()))


def replay(request: ReplayRequest, runs: Path) -> int:
    """Make a run again, say whether its rings are the same, and return 0 if they are, 1 if not.

    Raises RunDirError where there is no such run, ReplayError where it cannot be made again.
    """
    recorded = read_run(resolve_run(request.run, runs))
    engine = _engine(request, recorded)
    console = Console(highlight=False)
    clocked = _again(request, recorded, engine)
    if clocked.interrupted:
        raise ReplayError("interrupted: nothing was compared")
    if clocked.outcome.status:
        raise ReplayError(f"the repetition broke off: {clocked.outcome.error}")
    spec = recorded.spec
    if not request.quiet:
        console.print(
            f"{spec.name}: {recorded.until_ns / 1e9:g} s with "
            f"{_number(len(spec.events), 'command')}, made again in {clocked.wall_s:.1f} s ({engine})"
        )
    lines = list(differences(recorded, request.out))
    for line in lines or [_all_the_same(recorded)]:
        console.print(line, markup=False, soft_wrap=True)
    return DIFFERENT if lines else SAME


def read_run(directory: RunDirectory) -> Recorded:
    """Read what is needed to make a run again; raise ReplayError where it is not there."""
    if directory.is_running():
        raise ReplayError(f"{directory.path} still runs")
    facts = directory.read_json(RUN)
    built = {name: facts["versions"].get(name) for name in ("smpbox", "wire")}
    ours = {name: versions()[name] for name in built}
    if built != ours:
        raise ReplayError(f"{directory.path} was made by another build: {built}, this is {ours}")
    results = directory.read_json(RESULTS)
    try:
        spec = spec_of(load_plain(directory.path / BOX))
        events = tuple(
            BoxEvent(duration_parse(one["at"]), one["do"])
            for one in load_plain(directory.path / COMMANDS)
        )
    except (BoxError, KeyError, TypeError, ValueError) as error:
        raise ReplayError(f"{directory.path}: {error}") from error
    whole = "error" not in results
    until_ns = min(results["engine"]["reached_ns"], spec.duration_ns) if whole else spec.duration_ns
    return Recorded(directory, replace(spec, events=events), facts, until_ns, whole)


def _engine(request: ReplayRequest, recorded: Recorded) -> str:
    engine = request.engine or (INLINE if request.strict else str(recorded.facts["engine"]))
    if engine != INLINE and (request.strict or recorded.spec.machine.take_turns):
        raise ReplayError("--strict and machines that take turns are for --engine inline")
    return engine


def _again(request: ReplayRequest, recorded: Recorded, engine: str) -> Clocked:
    out, spec = request.out, recorded.spec
    for name in (BOX, RUN):
        (out / name).write_bytes((recorded.directory.path / name).read_bytes())

    def job(on_progress: engines.OnProgress) -> engines.Job:
        return engines.Job(
            spec, out, on_progress, strict=request.strict, until_ns=recorded.until_ns
        )

    try:
        clocked = run_clocked(engine, spec, out, job, shown=not request.quiet)
    except CommandError as error:
        raise ReplayError(f"{recorded.directory.path / COMMANDS}: {error}") from error
    write_commands(RunDirectory(out), clocked.outcome)
    return clocked


# -- Comparing ----------------------------------------------------------------------------------


def differences(recorded: Recorded, again: Path) -> Iterator[str]:
    """Yield what differs between the rings of a run and those of its repetition, as lines."""
    for path in sorted(recorded.directory.path.glob("*.ring")):
        other = again / path.name
        try:
            if recorded.whole and not _same_bytes(path, other):
                yield from _first_difference(path, other, recorded.style, to_the_end=True)
            elif not recorded.whole:
                yield from _first_difference(path, other, recorded.style, to_the_end=False)
        except (OSError, RingError) as error:
            yield f"{path.name}: {error}"


def _same_bytes(path: Path, other: Path) -> bool:
    if path.stat().st_size != other.stat().st_size:
        return False
    with path.open("rb") as one, other.open("rb") as two:
        while chunk := one.read(CHUNK):
            if chunk != two.read(CHUNK):
                return False
    return True


def _first_difference(
    path: Path, other: Path, style: TextStyle, *, to_the_end: bool
) -> Iterator[str]:
    then, now = RingReader(path), RingReader(other)
    start = max(then.first, now.first)
    end = min(then.position, now.position)
    one, two = _bytes(then, start, end), _bytes(now, start, end)
    if one != two:
        at = next(n for n in range(0, len(one), RECORD_SIZE) if _at(one, n) != _at(two, n))
        position = start + at // RECORD_SIZE
        yield f"{path.name} differs from record {position:,} on:"
        yield f"  then: {Lines(then, style).line(then.record(position)).lstrip()}"
        yield f"  now:  {Lines(now, style).line(now.record(position)).lstrip()}"
    elif then.position > now.position or (to_the_end and then.position != now.position):
        yield f"{path.name}: {then.position:,} records then, {now.position:,} now"
    elif to_the_end:
        yield f"{path.name}: the records are the same, but not the names in its head"


def _bytes(reader: RingReader, start: int, end: int) -> bytes:
    return b"".join(piece.words.tobytes() for piece in reader.pieces(start, end))


def _at(data: bytes, place: int) -> bytes:
    return data[place : place + RECORD_SIZE]


def _all_the_same(recorded: Recorded) -> str:
    readers = [RingReader(path) for path in recorded.directory.path.glob("*.ring")]
    records = sum(reader.position for reader in readers)
    text = f"{_number(len(readers), 'ring')}, {records:,} records: identical, byte for byte"
    if not recorded.whole:
        text += (
            f", as far as they go; the run broke off before {duration_format(recorded.until_ns)}"
        )
    return text


def _number(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
