"""What another terminal does to a run: read a CPU's log or a file of /proc, ask why, send a command.

Theory of operation
-------------------
A run is found by its directory (:mod:`emulator.rundir`).  Its rings are mapped files and can be
read at any time; while it runs, its ``control`` file holds the address of the socket on which the
coordinator takes commands.  A reader of rings is not noticed by the run, and a command is stamped
after every grant that was given, so that neither disturbs what has been decided.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import wrap
from typing import TYPE_CHECKING

from emulator.added import ADD, text_of, with_commands
from emulator.rundir import BOX, COMMANDS, PROGRAMS, RESULTS, RUN, RunDirectory, resolve_run
from emulator.trace import ftrace
from emulator.trace.reader import RingError, RingReader, open_rings
from emulator.types import NEVER, NSEC_PER_SEC, BoxSpec

if TYPE_CHECKING:
    from emulator.report.procfs.view import View
    from emulator.report.sysstat.iostat import Shape as IostatShape
    from emulator.report.sysstat.samples import Span

#: How long a follower sleeps when it has read everything.
FOLLOW_SLEEP_S = 0.1

#: A record that is the newest for so long is whole.
SETTLE_SLEEP_S = 0.02

#: Emulated time by which one CPU's ring may be behind another's.
LIVE_MARGIN_NS = 10_000_000

#: A command is answered when it has taken effect; a box that stands still may take a while.
ANSWER_TIMEOUT_MS = 30_000

#: A box that runs says so twice a second, whatever it does: it is over, or its host is.
SILENCE_MS = 5_000

#: First words of commands that are answered when the box stands still.
STOPPING = ("pause", "step")


class AttachError(Exception):
    """The run cannot be read or commanded like that; the text says why."""


@dataclass(frozen=True, slots=True)
class LogRequest:
    """Which part of which CPU's log: events by name (none: all), times in emulated ns."""

    run: str
    cpu: int
    events: tuple[str, ...] = ()
    from_ns: int = 0
    to_ns: int = NEVER
    follow: bool = False
    flags: bool = False  #: with the flags column and the head that explains it


def log_lines(request: LogRequest, runs: Path) -> Iterator[str]:
    """Yield the ftrace text of one CPU of a run, header first; of a live run until it ends.

    Raises RunDirError where there is no such run, AttachError where the run has no such CPU or
    an event does not exist.
    """
    directory = resolve_run(request.run, runs)
    facts = directory.read_json(RUN)
    nr_cpus = int(facts["nr_cpus"])
    if request.cpu >= nr_cpus:
        raise AttachError(f"{directory.path} has the CPUs 0-{nr_cpus - 1}, not {request.cpu}")
    try:
        style = ftrace.TextStyle.of_rules(facts.get("rules", ()), request.flags)
        reader = RingReader(directory.cpu_ring(request.cpu))
        if request.flags:
            yield from ftrace.flags_header(reader, nr_cpus, style)
        else:
            yield ftrace.header(nr_cpus)
        yield from _lines(request, directory, reader, style)
    except (OSError, RingError, ValueError) as error:
        raise AttachError(str(error)) from error


def _lines(
    request: LogRequest, directory: RunDirectory, reader: RingReader, style: ftrace.TextStyle
) -> Iterator[str]:
    span = (request.events, request.from_ns, request.to_ns, style)
    if not (request.follow and directory.is_running()):
        return ftrace.cpu_lines(reader, *span)

    def wait() -> bool:
        running = directory.is_running()
        time.sleep(FOLLOW_SLEEP_S)
        return running

    return ftrace.follow_lines(reader, wait, *span)


def last_lines(request: LogRequest, count: int, runs: Path) -> list[str]:
    """Return the last lines of one CPU's log, of the events asked for, oldest first.

    Raises RunDirError where there is no such run, AttachError where the run has no such CPU or an
    event does not exist.
    """
    directory = resolve_run(request.run, runs)
    facts = directory.read_json(RUN)
    if request.cpu >= int(facts["nr_cpus"]):
        raise AttachError(f"the CPUs are 0-{facts['nr_cpus'] - 1}")
    try:
        reader = RingReader(directory.cpu_ring(request.cpu))
        if directory.is_running():
            _leave_half_written([reader])
        style = ftrace.TextStyle.of_rules(facts.get("rules", ()))
        return ftrace.last_lines(reader, count, request.events, style)
    except (OSError, RingError, ValueError) as error:
        raise AttachError(str(error)) from error


@dataclass(frozen=True, slots=True)
class WhyRequest:
    """Whose last move is to be explained: a pid, or a task's name; up to a time, or at all."""

    run: str
    pid: int | None = None
    task: str = ""
    at_ns: int | None = None


def why_lines(request: WhyRequest, runs: Path, width: int) -> Iterator[str]:
    """Yield why something was done to a task of a run, as text; of a live run, of what it did so far.

    Raises RunDirError where there is no such run, AttachError where there is nothing to explain.
    """
    from emulator.report.history import History
    from emulator.report.story import Teller
    from emulator.report.why import WhyError, answer_lines, explain, pid_of

    directory = resolve_run(request.run, runs)
    rules = frozenset(directory.read_json(RUN).get("rules", ()))
    try:
        readers = open_rings(directory.path)
        if directory.is_running():
            _leave_half_written(readers)
        history = History(readers)
        pid = pid_of(history, request.task) if request.pid is None else request.pid
        answer = explain(Teller(history, rules), pid, request.at_ns)
    except (OSError, RingError, WhyError) as error:
        raise AttachError(str(error)) from error
    yield from answer_lines(answer, width)


@dataclass(frozen=True, slots=True)
class CatRequest:
    """Which file of a box, as of which emulated time; no path: which files there are."""

    run: str
    path: str = ""
    at_ns: int | None = None


def cat(request: CatRequest, runs: Path, width: int) -> str:
    """Return a file of /proc or /sys as the box had it; of a running box, as it has it now.

    Without a path, the list of all files, wrapped at ``width``.

    Raises RunDirError where there is no such run, AttachError where the box has no such file.
    """
    from emulator.report.procfs.files import list_files, read_file
    from emulator.report.procfs.view import NoFileError

    view = box_view(request.run, request.at_ns, runs)
    try:
        if request.path:
            return read_file(view, request.path)
    except NoFileError as error:
        raise AttachError(str(error)) from error
    rows = list_files(view)
    column = max(len(path) for path, _ in rows) + 2
    lines = [
        line
        for path, about in rows
        for line in wrap(
            f"{path:<{column}}{about}", max(width, column + 20), subsequent_indent=" " * column
        )
    ]
    return "\n".join(lines) + "\n"


def copy_tree(request: CatRequest, runs: Path, target: Path) -> int:
    """Write all files of /proc and /sys of a box below a directory, for tools; return how many.

    Raises RunDirError where there is no such run, AttachError where they cannot be written.
    """
    from emulator.report.procfs.files import all_paths, read_file

    view = box_view(request.run, request.at_ns, runs)
    paths = list(all_paths(view))
    try:
        for path in paths:
            file = target / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(read_file(view, path), encoding="utf-8")
    except OSError as error:
        raise AttachError(str(error)) from error
    return len(paths)


def write_blktrace(run: str, target: Path, runs: Path) -> list[str]:
    """Write the block events of a run as blktrace does, a file per disk and CPU; return their names.

    Raises RunDirError where there is no such run, AttachError where they cannot be written.
    """
    from emulator.report.blktrace import write_traces

    view = box_view(run, None, runs)
    try:
        return write_traces(view.spec, view.readers, target)
    except OSError as error:
        raise AttachError(str(error)) from error


@dataclass(frozen=True, slots=True)
class FioRequest:
    """In which of fio's formats, of which job by name; no name: all."""

    run: str
    formats: tuple[str, ...] = ("normal",)
    job: str = ""


def fio_text(request: FioRequest, runs: Path) -> str:
    """Return what fio would have printed for the jobs of a run, in the order in which it prints.

    Raises RunDirError where there is no such run, AttachError where it has no such jobs or runs.
    """
    from emulator.report.fio.jobs import fio_run
    from emulator.report.fio.json_output import json_text
    from emulator.report.fio.normal import normal_text
    from emulator.report.fio.terse import terse_text

    directory = resolve_run(request.run, runs)
    if directory.is_running():
        raise AttachError(f"{directory.path} still runs: fio reports when its jobs are over")
    view = box_view(str(directory.path), None, runs)
    programs = {int(pid): parts for pid, parts in directory.read_json(PROGRAMS).items()}
    run = fio_run(view.spec, programs, view.readers)
    names = list(dict.fromkeys(job.name for job in run.jobs))
    run.jobs = [job for job in run.jobs if request.job in ("", job.name)]
    if not run.jobs:
        what = f"fio job {request.job!r}" if request.job else "fio job that began"
        raise AttachError(f"{directory.path} has no {what}; it has {', '.join(names) or 'none'}")
    texts: dict[str, Callable[[], str]] = {
        "terse": lambda: terse_text(run),
        "json": lambda: json_text(run),
        "json+": lambda: json_text(run, plus=True),
        "normal": lambda: ("\n" if len(request.formats) > 1 else "") + normal_text(run),
    }
    return "".join(text() for name, text in texts.items() if name in request.formats)


@dataclass(frozen=True, slots=True)
class StatRequest:
    """Which stretch of a run, in intervals of which length; 0: in one piece."""

    run: str
    interval_ns: int = 0
    from_ns: int = 0
    to_ns: int = NEVER


def iostat_text(request: StatRequest, shape: "IostatShape", runs: Path) -> Iterator[str]:
    """Yield what ``iostat`` would have printed; of a running box, until it ends.

    Raises RunDirError where there is no such run, AttachError where it cannot be told.
    """
    from emulator.report.sysstat.iostat import iostat

    view, intervals = _intervals(request, runs)
    return iostat(view, intervals, shape)


def mpstat_text(
    request: StatRequest, cpus: str, interrupts: str | None, json: bool, runs: Path
) -> Iterator[str]:
    """Yield what ``mpstat -P CPUS -I INTERRUPTS`` would have printed; of a running box, until it ends.

    Raises RunDirError where there is no such run, AttachError where it cannot be told.
    """
    from emulator.report.sysstat.mpstat import Shape, mpstat

    view, intervals = _intervals(request, runs)
    try:
        shape = Shape.of(cpus, interrupts, view.nr_cpus, json)
    except ValueError as error:
        raise AttachError(str(error)) from error
    return mpstat(view, intervals, shape)


def _intervals(request: StatRequest, runs: Path) -> "tuple[View, Iterator[Span]]":
    from emulator.report.sysstat.samples import spans

    directory = resolve_run(request.run, runs)
    view = box_view(str(directory.path), None, runs)
    end_ns = min(view.now_ns, request.to_ns)
    if request.from_ns >= end_ns:
        raise AttachError(f"{directory.path} has got to {end_ns / NSEC_PER_SEC:g} s")
    if request.interval_ns > end_ns - request.from_ns and not directory.is_running():
        raise AttachError(f"the interval is longer than {(end_ns - request.from_ns) / 1e9:g} s")
    if not request.interval_ns:
        return view, spans(view, (request.from_ns, end_ns))
    return view, spans(view, _moments(request, directory, view))


# Whole intervals only; those of a running box when they are over.
def _moments(request: StatRequest, directory: RunDirectory, view: "View") -> Iterator[int]:
    moment, reached_ns = request.from_ns, view.now_ns
    duration_ns = view.spec.duration_ns
    while moment <= min(request.to_ns, duration_ns):
        running = directory.is_running()
        while moment > reached_ns:
            if not running:
                return
            time.sleep(FOLLOW_SLEEP_S)
            running = directory.is_running()
            for reader in view.readers:
                reader.position = max(reader.first, reader.refresh() - running)  # as in box_view()
            margin_ns = LIVE_MARGIN_NS if running else 0
            reached_ns = _moment(directory, view.readers, None, duration_ns) - margin_ns
        yield moment
        moment += request.interval_ns


def box_view(run: str, at_ns: int | None, runs: Path) -> "View":
    """Return a box as of an emulated time, without one as of its end, or now if it runs.

    Raises RunDirError where there is no such run, AttachError where it cannot be read.
    """
    from emulator.config import BoxError, load_plain
    from emulator.describe import spec_of
    from emulator.report.procfs.view import View

    directory = resolve_run(run, runs)
    try:
        spec = spec_of(load_plain(directory.path / BOX))
        if (directory.path / COMMANDS).exists():
            commands = load_plain(directory.path / COMMANDS)
            spec = with_commands(spec, (shlex.split(one["do"]) for one in commands))
        readers = open_rings(directory.path)
        if directory.is_running():
            _leave_half_written(readers)
    except (OSError, RingError, BoxError) as error:
        if directory.is_running():
            raise AttachError(f"{directory.path} runs, but cannot be read yet: {error}") from error
        raise AttachError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        message = f"{directory.path / BOX}: written by another build, whose boxes differ ({error})"
        raise AttachError(message) from error
    return View(spec, readers, _moment(directory, readers, at_ns, spec.duration_ns))


# A command carries what is in the file, so that the record of the run needs no other one.
def _workloads(path: Path, spec: BoxSpec) -> str:
    from emulator.config import BoxError, load_workloads

    try:
        return text_of(load_workloads(path, spec))
    except BoxError as error:
        raise AttachError(str(error)) from error


def _spec_in(path: Path) -> BoxSpec:
    from emulator.config import BoxError, load_plain
    from emulator.describe import spec_of

    try:
        return spec_of(load_plain(path))
    except (BoxError, KeyError, TypeError, ValueError) as error:
        raise AttachError(f"{path}: no box of this build ({error})") from error


# The newest record may be half written, unless nothing has come after it for a while: the box may
# stand still there.
def _leave_half_written(readers: Sequence[RingReader]) -> None:
    seen = [reader.position for reader in readers]
    time.sleep(SETTLE_SLEEP_S)
    for reader, position in zip(readers, seen, strict=True):
        if reader.refresh() != position:
            reader.position = max(reader.first, reader.position - 1)


# All rings are known up to the least of their last times, but for CPUs that sleep: a run that is over
# has got as far as its results say, a box that runs as far as its busiest CPU has written.
def _moment(
    directory: RunDirectory, readers: Sequence[RingReader], at_ns: int | None, duration_ns: int
) -> int:
    ends = [reader.time_at(reader.position - 1) for reader in readers if reader.position]
    last_ns = min(max(ends, default=0) + 1, duration_ns)
    if not directory.is_running() and (directory.path / RESULTS).exists():
        reached_ns = directory.read_json(RESULTS).get("engine", {}).get("reached_ns", last_ns)
        last_ns = min(int(reached_ns), duration_ns)
    return last_ns if at_ns is None else min(at_ns, last_ns)


def send_remote(address: str, words: tuple[str, ...], key_file: Path | None) -> str:
    """Give a command to a box on another machine and return its answer; raise AttachError."""
    from emulator.agents.keys import ClientKey, with_scheme
    from emulator.agents.link import ask

    if key_file is None:
        raise AttachError(f"{address}: over TCP a box takes commands with a key alone: --key FILE")
    if len(words) == 3 and list(words[:2]) == ADD:
        words = (*ADD, _workloads(Path(words[2]), remote_spec(address, key_file)))
    try:
        key = ClientKey.read(key_file)
        wait_on = (lambda: True) if words[0] in STOPPING else None
        return ask(with_scheme(address), list(words), ANSWER_TIMEOUT_MS, wait_on, key)
    except OSError as error:
        raise AttachError(f"{address}: {error}") from error


def box_spec(run: str, runs: Path) -> BoxSpec:
    """Return the box of a run as it was resolved.

    Raises RunDirError where there is no such run, AttachError where another build has written it.
    """
    return _spec_in(resolve_run(run, runs).path / BOX)


def remote_spec(address: str, key_file: Path | None) -> BoxSpec:
    """Return the box that runs on another machine, as it says itself; raise AttachError."""
    text = send_remote(address, ("box",), key_file)
    if text.startswith("error"):
        raise AttachError(f"{address}: {text}")
    with TemporaryDirectory() as directory:
        path = Path(directory) / BOX
        path.write_text(text, encoding="utf-8")
        return _spec_in(path)


def observed_lines(run: str, key_file: Path | None, runs: Path) -> Iterator[str]:
    """Yield how far a running box is, a line when it has told so, until it is silent.

    Raises RunDirError where there is no such run or it runs no more, AttachError where nobody answers.
    """
    from emulator.agents.keys import ClientKey, with_scheme
    from emulator.agents.link import observe
    from emulator.agents.sockets import OBSERVER_SOCKET

    key = None
    heard = False
    try:
        if key_file is None:
            control = resolve_run(run, runs).control_address()
            address = f"{control.rpartition('/')[0]}/{OBSERVER_SOCKET}"
        else:
            key = ClientKey.read(key_file)
            host = with_scheme(run).rpartition(":")[0]
            address = f"{host}:{key.observers.rpartition(':')[2]}"
        for _, reached_ns, windows, messages, waits in observe(address, SILENCE_MS, key):
            heard = True
            waited = f", waits for {' '.join(waits)}" if waits else ""
            yield f"{reached_ns / NSEC_PER_SEC:.3f} s, {windows} windows, {messages} messages{waited}"
    except OSError as error:
        raise AttachError(f"{run}: {error}") from error
    if not heard:
        raise AttachError(f"{run}: nothing was heard within {SILENCE_MS} ms")


def send_command(run: str, words: tuple[str, ...], runs: Path) -> str:
    """Give a command to a running box and return its answer.

    Raises RunDirError where there is no such run or it takes no commands, AttachError where it
    does not answer.
    """
    from emulator.agents.link import ask
    from emulator.report.status import machine_lines

    directory = resolve_run(run, runs)
    address = directory.control_address()
    if len(words) == 3 and list(words[:2]) == ADD:
        words = (*ADD, _workloads(Path(words[2]), _spec_in(directory.path / BOX)))
    # A step takes as long as it takes.
    wait_on = directory.is_running if words[0] in STOPPING else None
    try:
        answer = ask(address, list(words), ANSWER_TIMEOUT_MS, wait_on)
    except KeyboardInterrupt:
        if not wait_on:
            raise
        answer = ask(address, ["pause"], ANSWER_TIMEOUT_MS)
    except OSError as error:
        raise AttachError(f"{directory.path} does not answer: {error}") from error
    if words == ("status",):
        answer = "\n".join([answer, *machine_lines(box_view(run, None, runs))])
    return answer
