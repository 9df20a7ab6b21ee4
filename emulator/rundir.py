"""The run directory: everything that a run leaves, in one place with fixed names.

Theory of operation
-------------------
A run of box ``B`` lives in ``runs/B/<utc>/``.  Two links are moved when a run *starts*, so that
they are useful while it runs: ``runs/B/latest`` and ``runs/latest``.  With ``--out DIR`` the
directory is ``DIR`` itself and no link is made: who names a place will find it again.

What lies inside:

=====================  ==========================================================================
``box.yaml``           the box as resolved: every default spelled out
``run.json``           seed, engine, versions, facts of the host; marks a directory as a run's
``cpuN.ring``          the events of CPU N (also ``dev-NAME.ring``, ``coordinator.ring``)
``cpuN.log``           the same as ftrace text, rendered at the end
``control``            address of the control socket, there only while the run takes commands
``refused.log``        frames that did not fit and were refused, if there were any
``commands.yaml``      commands with the emulated time at which they took effect
``programs.json``      what the programs measured, whole: per pid the books of each CPU
``fio.json``           what fio would have written of its jobs with ``--output-format=json``
``checkpoint``         from where the run can be resumed; there until it is complete
``results.json``       figures, checks and the verdict; written last, whole or not at all
=====================  ==========================================================================

The process that runs the box keeps a lock on ``run.json``, which ends with it however it ends; so
a run that was killed does not look as if it went on.

People name a run by its directory, by its box (then its latest run is meant) or as ``latest``.
"""

import fcntl
import json
import os
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from emulator.hosterrors import named_errors

BOX = "box.yaml"
RUN = "run.json"
COMMANDS = "commands.yaml"
PROGRAMS = "programs.json"
FIO = "fio.json"
RESULTS = "results.json"
CONTROL = "control"
CHECKPOINT = "checkpoint"
LATEST = "latest"

#: Runs of one box that start in the same second get a number; more than this is a mistake.
SAME_SECOND_MAX = 1000


class RunDirError(Exception):
    """A run directory cannot be made or found; the text says which and what to do."""


class RunDirectory:
    """One run's directory, which exists."""

    __slots__ = ("_lock", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def __fspath__(self) -> str:
        return str(self.path)

    def cpu_ring(self, cpu: int) -> Path:
        """Return where CPU ``cpu`` records its events."""
        return self.path / f"cpu{cpu}.ring"

    def cpu_log(self, cpu: int) -> Path:
        """Return where the ftrace text of CPU ``cpu`` goes."""
        return self.path / f"cpu{cpu}.log"

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all: a reader never sees half of it."""
        scratch = self.path / f".{name}.new"
        try:
            with named_errors(str(self.path / name)):
                scratch.write_text(text, encoding="utf-8")
                scratch.replace(self.path / name)
        except OSError:
            scratch.unlink(missing_ok=True)
            raise

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write plain data as indented JSON, whole or not at all."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the plain data of a JSON file; raise RunDirError if it is not there or broken."""
        try:
            return cast(dict[str, Any], json.loads((self.path / name).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise RunDirError(f"{self.path / name}: {_reason(error)}") from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def hold(self) -> None:
        """Say that this process runs the box, until :meth:`release` or its end."""
        assert self._lock < 0
        self._lock = os.open(self.path / RUN, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def release(self) -> None:
        """Say that the run is over."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def is_running(self) -> bool:
        """Return whether some process runs this box now."""
        try:
            look = os.open(self.path / RUN, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(look, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(look)
        return False

    def control_address(self) -> str:
        """Return the address of the control socket; raise RunDirError if the run takes no commands."""
        file = self.path / CONTROL
        try:
            address = file.read_text(encoding="utf-8").strip()
        except OSError:
            raise RunDirError(
                f"{self.path} takes no commands: it is over, or runs with --engine inline"
            ) from None
        if not self.is_running():
            # Of no use to anybody, and only its owner can take it away.
            with suppress(OSError):
                file.unlink()
            raise RunDirError(
                f"{self.path} takes no commands: the run ended without saying so (it was killed)"
            )
        return address


# -- Making one ---------------------------------------------------------------------------------


def create_run_directory(
    box_name: str, utc: datetime, runs: Path, out: Path | None = None
) -> RunDirectory:
    """Make the directory of a new run of ``box_name`` that starts at ``utc``, and move the links.

    ``out`` becomes the run directory itself.  Raise RunDirError where that cannot be done, and
    where ``out`` holds anything: results are never overwritten.
    """
    try:
        if out is not None:
            return _create_at(out)
        path = _create_new(runs / box_name, utc)
        _move_link(runs / box_name / LATEST, path.name)
        _move_link(runs / LATEST, f"{box_name}/{path.name}")
    except OSError as error:
        raise RunDirError(f"{error.filename or runs}: {_reason(error)}") from error
    return RunDirectory(path)


def create_stamped(parent: Path, utc: datetime) -> Path:
    """Make a directory named after a time, which no other process has; raise RunDirError if not."""
    try:
        return _create_new(parent, utc)
    except OSError as error:
        raise RunDirError(f"{error.filename or parent}: {_reason(error)}") from error


def _create_at(out: Path) -> RunDirectory:
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise RunDirError(f"{out} is not empty; name a new directory, or remove it first")
    return RunDirectory(out)


# mkdir() is the lock: of two runs that start in the same second, each gets its own.
def _create_new(parent: Path, utc: datetime) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stamp = utc.astimezone(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for number in range(SAME_SECOND_MAX):
        path = parent / (f"{stamp}.{number:03d}" if number else stamp)
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise RunDirError(f"{parent} holds {SAME_SECOND_MAX} runs of {stamp} already")


# A link is replaced, not removed and made: there is always one.
def _move_link(link: Path, target: str) -> None:
    scratch = link.with_name(f".{link.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target, target_is_directory=True)
    scratch.replace(link)


# -- Finding one --------------------------------------------------------------------------------


def resolve_run(word: str, runs: Path) -> RunDirectory:
    """Return the run that a person means by ``word``: a directory, a box's name or ``latest``.

    Raise RunDirError, which lists the boxes that have run, where there is none.
    """
    for path in _candidates(word, runs):
        if (path / RUN).is_file():
            # The link may move to a newer run while this one is read.
            return RunDirectory(path.resolve())
    raise RunDirError(f"no run is called {word!r}: {_what_there_is(runs)}")


def list_runs(runs: Path) -> list[tuple[Path, str]]:
    """Return every run below ``runs`` with how it goes or ended, by box and time."""
    found = sorted(
        {file.parent for file in runs.glob(f"*/*/{RUN}") if not file.parent.is_symlink()}
    )
    return [(path, _state(RunDirectory(path))) for path in found]


def _state(directory: RunDirectory) -> str:
    if directory.is_running():
        return "running"
    try:
        valid = directory.read_json(RESULTS)["valid"]
    except (KeyError, RunDirError):
        return "ended without saying so"
    return "no verdict" if valid is None else "passed" if valid else "failed"


def _candidates(word: str, runs: Path) -> list[Path]:
    stem = Path(word).stem if word.endswith((".yaml", ".yml")) else word
    return [Path(word), runs / LATEST if word == LATEST else runs / stem / LATEST]


def _what_there_is(runs: Path) -> str:
    names = sorted(path.name for path in runs.glob("*") if (path / LATEST).exists())
    if not names:
        return f"there are none in {runs}/ yet; name a run directory, or start one with `run`"
    return f"name a run directory, `latest`, or a box that has run: {', '.join(names)}"


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
