"""One run from end to end: box file, run directory, engine, figures, verdict, result.

Theory of operation
-------------------
:func:`run_box` does, in this order: load and resolve the box (every mistake of the user ends here,
before anything exists on disk), make the run directory and write what is known before the run,
run the nodes in the engine asked for, and judge what they left.  What follows the engine is done
however the run ended, so that Ctrl-C and a fault leave results too; ``results.json`` is written
last.

The first Ctrl-C or SIGTERM asks the engine to stop where it is; the second one is Python's own.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from platform import python_version
from types import FrameType
from typing import Any

from rich.console import Console

from emulator import __version__, engines, wire
from emulator.added import shown, with_commands
from emulator.agents.host import host_facts
from emulator.build import figure_pids
from emulator.config import Box, load_box
from emulator.describe import describe, expectations
from emulator.engine.commands import commands_text
from emulator.engine.inline import RunOutcome
from emulator.engine.plan import CommandError
from emulator.engines import INLINE, PROCESSES
from emulator.hosterrors import ensure_descriptors, host_error, named_errors
from emulator.progress import ProgressLine
from emulator.report.figures import RunData, figures
from emulator.report.fio.jobs import fio_run, logged_jobs
from emulator.report.fio.json_output import json_text
from emulator.report.fio.logs import log_files
from emulator.report.render import render
from emulator.report.results import build_results, check_expectations, exit_status
from emulator.rundir import (
    BOX,
    CHECKPOINT,
    COMMANDS,
    FIO,
    PROGRAMS,
    RESULTS,
    RUN,
    RunDirectory,
    create_run_directory,
)
from emulator.trace.ftrace import TextStyle, write_log
from emulator.trace.reader import RingReader, open_rings
from emulator.types import NSEC_PER_SEC, BoxSpec

#: Distributions whose versions a result may depend on.
DISTRIBUTIONS = ("msgpack", "multiprocess", "psutil", "pyzmq")


#: What a person is told who asked for it: nothing else will move.
PAUSED = "the box stands still at 0 s: `smpbox ctl {0} step 10ms`, or `continue`, lets it go on"


class SessionError(Exception):
    """The box cannot be run as asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for on the command line."""

    box: str
    overrides: tuple[str, ...] = ()
    seed: int | None = None
    duration: str | None = None
    engine: str | None = None
    strict: bool = False
    out: Path | None = None
    quiet: bool = False
    logs: bool = True
    paused: bool = False
    parts: engines.Parts = engines.MACHINE
    listen: str = ""


@dataclass(slots=True)
class Clocked:
    """How an engine ended, and what it took of the host's time."""

    outcome: RunOutcome
    engine: str
    start_s: float = 0.0  #: until the first emulated event was over: the box was up
    wall_s: float = 0.0
    interrupted: bool = False


def load(request: Request) -> Box:
    """Return the checked box of a request; raise BoxError with all its mistakes."""
    return load_box(request.box, request.overrides, request.seed, request.duration)


def run_box(request: Request, runs: Path) -> int:
    """Run a box and return the exit status of its verdict.

    Raises BoxError, RunDirError or SessionError where it cannot be run as asked; then nothing is
    left behind.
    """
    box = load(request)
    spec = box.resolve()
    engine = choose_engine(request, spec)
    check_events(spec, request.parts)
    check_host(spec)
    check_listen(request, engine)
    directory = create_run_directory(spec.name, datetime.now(UTC), runs, request.out)
    with host_errors(directory.path):
        write_start(directory, request, box, spec, engine)
        directory.hold()
        try:
            clocked = run_engine(request, box, spec, directory, engine)
            spec = grown(spec, clocked)
            results = judge(box, spec, directory, clocked)
            finish(directory, spec, results, clocked, request)
        finally:
            directory.release()
    return status_of(results, clocked.outcome)


def choose_engine(request: Request, spec: BoxSpec) -> str:
    """Return the engine to run with; raise SessionError for one that cannot run this box."""
    engine = request.engine or (INLINE if spec.machine.take_turns or request.strict else PROCESSES)
    if engine == PROCESSES and spec.machine.take_turns:
        raise SessionError(
            f"{spec.name}: machine.take_turns is known to --engine inline alone: processes "
            "cannot slow each other down within nanoseconds"
        )
    if engine == INLINE and request.paused:
        raise SessionError("--paused is for --engine processes: only those take commands")
    if engine == PROCESSES and request.strict:
        raise SessionError("--strict is for --engine inline: processes are always strict")
    return engine


def check_events(spec: BoxSpec, parts: engines.Parts) -> None:
    """Raise SessionError for a timed event that no node of the box takes."""
    try:
        engines.commands_of(spec, parts)
    except CommandError as error:
        raise SessionError(f"{spec.name}: events: {error}") from error


def check_host(spec: BoxSpec) -> None:
    """Raise SessionError where the host's limits are too low for the box, before anything starts."""
    problem = ensure_descriptors(spec.machine.nr_cpus + len(spec.disks) + 2)
    if problem:
        raise SessionError(f"{spec.name}: {problem}")


def check_listen(request: Request, engine: str) -> None:
    """Raise SessionError where the box cannot listen as asked."""
    if not request.listen:
        return
    from emulator.agents.gate import listen_problem

    problem = listen_problem(request.listen)
    if engine == INLINE:
        problem = "it is for --engine processes: only those take commands"
    if problem:
        raise SessionError(f"--listen: {problem}")


@contextmanager
def host_errors(path: Path) -> Iterator[None]:
    # What the host refuses is one line, not a traceback; an engine tells of its own.
    try:
        yield
    except (OSError, MemoryError) as error:
        refused = host_error(error)
        if not refused:
            raise
        raise SessionError(f"{refused}; what was written before is in {path}") from error


def status_of(results: dict[str, Any], outcome: RunOutcome) -> int:
    """Return the exit status: the engine's where it failed, else the verdict's."""
    return outcome.status or exit_status(results["valid"])


# -- Before the run -----------------------------------------------------------------------------


def write_start(
    directory: RunDirectory, request: Request, box: Box, spec: BoxSpec, engine: str
) -> None:
    """Write what is known before the run: the resolved box, and what else decides its course."""
    directory.write_text(BOX, describe(box))
    facts = {
        "box": spec.name,
        "box_file": request.box,
        "overrides": list(request.overrides),
        "seed": spec.seed,
        "duration_ns": spec.duration_ns,
        "nr_cpus": spec.machine.nr_cpus,
        "kernel": spec.kernel.version,
        "policies": list(spec.kernel.policies),
        "rules": [name for name, value in spec.kernel.rules if value],
        "engine": engine,
        "strict": request.strict,
        "listen": request.listen,
        "versions": versions(),
        "host": host_facts(),
    }
    directory.write_json(RUN, facts)


def versions() -> dict[str, str]:
    """Return the versions of everything that a result may depend on."""
    found = {name: metadata.version(name) for name in DISTRIBUTIONS}
    return {"smpbox": __version__, "wire": wire.digest(), "python": python_version(), **found}


# -- The run ------------------------------------------------------------------------------------


def run_engine(
    request: Request,
    box: Box,
    spec: BoxSpec,
    directory: RunDirectory,
    engine: str,
    resume: engines.Resume | None = None,
) -> Clocked:
    """Run a box as it was asked for, until it ends or is told to."""

    def job(on_progress: engines.OnProgress) -> engines.Job:
        return engines.Job(
            spec,
            directory.path,
            on_progress,
            box.host_cpus,
            request.strict,
            request.paused,
            request.parts,
            resume=resume,
            listen=request.listen,
        )

    if request.paused and not request.quiet:
        console = Console(stderr=True, highlight=False)
        console.print(PAUSED.format(directory.path), markup=False, soft_wrap=True)
    return run_clocked(engine, spec, directory.path, job, shown=not request.quiet)


def run_clocked(
    engine: str,
    spec: BoxSpec,
    path: Path,
    job: Callable[[engines.OnProgress], engines.Job],
    *,
    shown: bool,
) -> Clocked:
    """Run a job with a progress line, until it ends or a signal ends it."""
    started_ns = time.monotonic_ns()
    clocked = Clocked(RunOutcome(), engine)
    with (
        ProgressLine(spec, path, Console(stderr=True), shown) as line,
        stop_signals() as stop_asked,
    ):

        def on_progress(now_ns: int, waiting_for: str = "") -> bool:
            host_ns = time.monotonic_ns()
            clocked.start_s = clocked.start_s or (host_ns - started_ns) / 1e9
            line.update(host_ns, now_ns, waiting_for)
            clocked.interrupted = stop_asked()
            return not clocked.interrupted

        clocked.outcome = engines.run(engine, job(on_progress))
    clocked.wall_s = (time.monotonic_ns() - started_ns) / 1e9
    return clocked


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into an answer to "shall I stop?"; the next one is fatal."""
    asked = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# -- After the run ------------------------------------------------------------------------------


def grown(spec: BoxSpec, clocked: Clocked) -> BoxSpec:
    """Return a box with the workloads that were added to it while it ran."""
    return with_commands(spec, (words for _at_ns, words, _answer in clocked.outcome.commands))


def judge(box: Box, spec: BoxSpec, directory: RunDirectory, clocked: Clocked) -> dict[str, Any]:
    """Return the whole of ``results.json``: figures from rings and books, checks, verdict."""
    outcome = clocked.outcome
    end_ns = min(outcome.reached_ns, spec.duration_ns)
    start_ns = spec.warmup_ns if spec.warmup_ns < end_ns else 0
    data = RunData(
        open_rings(directory.path),
        start_ns,
        max(end_ns, 1),
        figure_pids(spec),
        outcome.books,
        tick_ns=NSEC_PER_SEC // spec.machine.hz,
    )
    found = figures(data)
    checks = check_expectations(found, expectations(box))
    complete = outcome.status == 0 and outcome.reached_ns >= spec.duration_ns
    results = build_results(found, checks, spec.name, spec.seed, versions(), complete)
    if outcome.status:
        # An engine that says why it ended has the last word on the verdict.
        results["valid"] = False if outcome.status == 1 else None
        results["error"] = outcome.error
    results["interrupted"] = clocked.interrupted
    results["engine"] = engine_facts(clocked)
    results["commands"] = [
        {"at_ns": at_ns, "do": shown(words), "answer": answer}
        for at_ns, words, answer in outcome.commands
    ]
    results["faults"] = outcome.faults
    return results


def engine_facts(clocked: Clocked) -> dict[str, Any]:
    """Return what the run took: host seconds, windows, messages, and per agent its host facts."""
    outcome = clocked.outcome
    return {
        "name": clocked.engine,
        "reached_ns": outcome.reached_ns,
        "start_s": round(clocked.start_s, 3),
        "wall_s": round(clocked.wall_s, 3),
        "windows": outcome.windows,
        "messages": outcome.messages,
        "wire_bytes": outcome.wire_bytes,
        "unread_answers": sum(one.get("unread_answers", 0) for one in outcome.agents.values()),
        "refused_frames": sum(one.get("refused_frames", 0) for one in outcome.agents.values()),
        "agents": outcome.agents,
    }


def finish(
    directory: RunDirectory,
    spec: BoxSpec,
    results: dict[str, Any],
    clocked: Clocked,
    request: Request,
) -> None:
    """Write commands, logs and results, and show the result, also where the logs find no room."""
    try:
        write_commands(directory, clocked.outcome)
        write_programs(directory, spec, clocked.outcome)
        if request.logs:
            write_logs(directory, spec)
    finally:
        directory.write_json(RESULTS, results)
        if results["complete"]:
            directory.remove(CHECKPOINT)
        show(directory, results, clocked, request)


def show(
    directory: RunDirectory, results: dict[str, Any], clocked: Clocked, request: Request
) -> None:
    """Print the result and, behind it, why the engine ended if it failed."""
    if not request.quiet:
        render(results, Console(), directory.path)
    if clocked.outcome.error:
        # Last, so that it is what a person sees.
        console = Console(stderr=True)
        console.print(clocked.outcome.error, markup=False, highlight=False, soft_wrap=True)


def write_commands(directory: RunDirectory, outcome: RunOutcome) -> None:
    """Write every command with the emulated time at which it took effect; replays read this."""
    directory.write_text(COMMANDS, commands_text(outcome.commands))


def write_programs(directory: RunDirectory, spec: BoxSpec, outcome: RunOutcome) -> None:
    """Write what the programs measured, and what fio would have said of its jobs."""
    programs: dict[int, list[list[Any]]] = {}
    for _node, book in sorted(outcome.books.items()):
        for pid, part in book.get("programs", {}).items():
            programs.setdefault(int(pid), []).append(part)
    directory.write_json(PROGRAMS, {str(pid): programs[pid] for pid in sorted(programs)})
    run = fio_run(spec, programs, open_rings(directory.path))
    if run.jobs:
        directory.write_text(FIO, json_text(run))
    for name, text in log_files(logged_jobs(spec, programs)):
        directory.write_text(name, text)


def write_logs(directory: RunDirectory, spec: BoxSpec) -> None:
    """Render the ring of every CPU as ftrace text, in the dialect of the box's kernel."""
    nr_cpus = spec.machine.nr_cpus
    style = TextStyle.of_rules([name for name, value in spec.kernel.rules if value])
    for cpu in range(nr_cpus):
        ring = directory.cpu_ring(cpu)
        if ring.exists():
            log = directory.cpu_log(cpu)
            with named_errors(str(log)), log.open("w", encoding="utf-8") as file:
                write_log(RingReader(ring), file, nr_cpus, style)
