"""The shell of a running box: a line is a command to it, or a look at what it did; with completion.

Theory of operation
-------------------
What a line means is decided in :meth:`Shell.execute`, which prints nothing: it returns a status and a
text, so that it can be tried without a terminal.  What may come next in a line is decided by
:func:`candidates` from the table of :mod:`emulator.language` and from what the box is made of.
The terminal is Python's readline: history, and completion with the tabulator.

Without a terminal lines are read as they come, so that a script may be piped in; the status is then
that of the last line that went wrong.
"""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from os import environ
from pathlib import Path
from shutil import get_terminal_size

from emulator.attach import (
    AttachError,
    CatRequest,
    LogRequest,
    WhyRequest,
    box_spec,
    box_view,
    cat,
    last_lines,
    remote_spec,
    send_command,
    send_remote,
    why_lines,
)
from emulator.boxfile.kernel import SYSCTLS, has_sysctl
from emulator.completion import COMPLETIONS
from emulator.kernel.kthread import FIRST_USER_PID
from emulator.kernel.sched import POLICIES
from emulator.language import EXAMPLES, VERBS, help_lines
from emulator.report.procfs.files import list_files
from emulator.rundir import RunDirError, resolve_run
from emulator.trace.watch import NAMED
from emulator.tracepoints import BY_NAME
from emulator.types import NEVER, BoxSpec
from emulator.units import duration_parse

DONE, REFUSED, MISTAKE, LEAVE = 0, 1, 2, -1

#: Lines that are no commands to the box, as help shows them.
LOOKS = (
    ("cat [PATH]", "a file of /proc or /sys as the box has it; without PATH, which there are"),
    ("why TASK [TIME]", "why it was last moved, or had to wait; up to an emulated time"),
    ("logs N [COUNT] [EVENT...]", "the last lines of CPU N's log"),
    ("help", "this"),
    ("quit", "leave the shell; the box goes on as it is"),
)

#: So many lines of a log, if nothing is said.
LOG_LINES = 20

#: So many lines are remembered for the next time.
HISTORY_MAX = 1000


@dataclass
class Facts:
    """What there is in the box to be named in a line."""

    run: str
    runs: Path
    spec: BoxSpec

    @property
    def cpus(self) -> list[str]:
        """CPU numbers."""
        return [str(cpu) for cpu in range(self.spec.machine.nr_cpus)]

    @property
    def tasks(self) -> list[str]:
        """Names of tasks."""
        return list(dict.fromkeys(one.name for one in self.spec.workloads))

    @property
    def disks(self) -> list[str]:
        """Names of disks."""
        return [disk.name for disk in self.spec.disks]

    @property
    def sysctls(self) -> list[str]:
        """Sysctls that the box's kernel has, up to the value."""
        return [f"{name}=" for name in SYSCTLS if has_sysctl(name, self.spec.kernel.rules)]

    @property
    def pids(self) -> list[str]:
        """The first pid of each workload."""
        return [str(FIRST_USER_PID + 100 * at) for at in range(len(self.spec.workloads))]

    @cached_property
    def paths(self) -> list[str]:
        """Files of /proc and /sys, none of a box on another machine."""
        try:
            return [path for path, _ in list_files(box_view(self.run, None, self.runs))]
        except (AttachError, RunDirError):
            return []


def candidates(before: list[str], text: str, facts: Facts) -> list[str]:
    """Return what a word that begins with ``text`` may be after the words ``before`` it."""
    lines = [usage.split() for _, rows in VERBS for usage, _ in rows]
    lines += [usage.replace("[", "").replace("]", "").split() for usage, _ in LOOKS]
    lines += [example.split() for example in EXAMPLES]
    found: list[str] = []
    for line in lines:
        if len(line) > len(before) and all(map(_fits, line, before)):
            found += _words(line[len(before)], text, facts)
        elif (
            "EVENT" in "".join(line) and len(before) >= len(line) and all(map(_fits, line, before))
        ):
            found += _filters(before[len(line) - 1], line[0] == "logs")
    return sorted({word for word in found if word.startswith(text)})


def _fits(pattern: str, word: str) -> bool:
    return pattern == word or not pattern.islower() or pattern[0].isdecimal()


def _words(pattern: str, text: str, facts: Facts) -> list[str]:
    match pattern:
        case "N":
            return [*facts.cpus, *(f"of:{name}" for name in facts.tasks)]
        case "TASK":
            return [*facts.tasks, *facts.pids]
        case "NAME":
            return [*facts.tasks, *facts.disks]
        case "EVENT" | "EVENT...":
            return [*BY_NAME, *(name.split()[0] for name in NAMED)]
        case "PATH":
            return facts.paths
        case "FILE":
            return _files(text)
        case "NAME=VALUE":
            return facts.sysctls
        case "WHERE":
            return list(COMPLETIONS)
        case "POLICY":
            return list(POLICIES)
        case "OPTIONS":
            return ["sector=", "every=", "count="]
    return [pattern] if pattern.islower() and not pattern[0].isdecimal() else []


def _filters(event: str, plain: bool) -> list[str]:
    point = BY_NAME.get(event)
    if plain:
        return list(BY_NAME)
    fields = [] if point is None else [f"{name}=" for name, kind in point.fields if kind != "ptr"]
    return ["cpu=", "pid=", "task=", *fields]


def _files(text: str) -> list[str]:
    path = Path(text)
    folder = path if text.endswith("/") or not text else path.parent
    with suppress(OSError):
        shown = [folder / one.name for one in folder.iterdir()]
        return [f"{one}/" if one.is_dir() else str(one) for one in shown]
    return []


class Shell:
    """What lines mean for one run."""

    def __init__(self, run: str, runs: Path, key: Path | None = None) -> None:
        """Attach to a run, with a key to one on another machine, HOST:PORT.

        Raises RunDirError where there is no such run, AttachError where it cannot be read.
        """
        self.run, self.runs, self.key = run, runs, key
        if key is None:
            self.run = str(resolve_run(run, runs).path)  # `latest` may move on
            spec = box_spec(self.run, runs)
        else:
            spec = remote_spec(run, key)
        self.facts = Facts(self.run, runs, spec)
        self._looks: dict[str, Callable[[list[str]], str]] = {
            "cat": self._cat,
            "why": self._why,
            "logs": self._logs,
            "help": self._help,
        }

    def execute(self, line: str) -> tuple[int, str]:
        """Return what came of a line: a status, and what to print."""
        try:
            words = shlex.split(line, comments=True)
            if not words:
                return DONE, ""
            if words[0] in ("quit", "exit"):
                return LEAVE, ""
            look = self._looks.get(words[0])
            if look is not None:
                if self.key is not None and words[0] != "help":
                    raise ValueError(f"{words[0]} reads the run's rings, which are on its machine")
                return DONE, look(words[1:])
            answer = self._send(tuple(words))
        except (AttachError, RunDirError, ValueError) as error:
            return MISTAKE, str(error)
        if answer.startswith("error"):
            return MISTAKE, answer
        return REFUSED if answer.startswith("refused") else DONE, answer

    def _send(self, words: tuple[str, ...]) -> str:
        if self.key is not None:
            return send_remote(self.run, words, self.key)
        return send_command(self.run, words, self.runs)

    def complete(self, line: str, text: str) -> list[str]:
        """Return what the word ``text`` at the end of a line may become."""
        before = line[: len(line) - len(text)].split()
        return candidates(before, text, self.facts)

    def _cat(self, words: list[str]) -> str:
        request = CatRequest(self.run, words[0] if words else "")
        return cat(request, self.runs, get_terminal_size().columns).rstrip("\n")

    def _why(self, words: list[str]) -> str:
        if not 1 <= len(words) <= 2:
            raise ValueError("it is why TASK [TIME]")
        pid = int(words[0]) if words[0].isdecimal() else None
        at_ns = duration_parse(words[1]) if len(words) > 1 else None
        request = WhyRequest(self.run, pid, "" if pid is not None else words[0], at_ns)
        return "\n".join(why_lines(request, self.runs, get_terminal_size().columns))

    def _logs(self, words: list[str]) -> str:
        if not words or not words[0].isdecimal():
            raise ValueError("it is logs N [COUNT] [EVENT...]")
        counted = len(words) > 1 and words[1].isdecimal()
        count = int(words[1]) if counted else LOG_LINES
        events = tuple(words[2 if counted else 1 :])
        request = LogRequest(self.run, int(words[0]), events, 0, NEVER)
        return "\n".join(last_lines(request, count, self.runs))

    def _help(self, words: list[str]) -> str:
        width = get_terminal_size().columns
        lines = help_lines(width)
        wanted = [f"  {usage:<28}{about}" for usage, about in LOOKS]
        if words:
            chosen = [line for line in [*lines, *wanted] if line.split()[:1] == words[:1]]
            return "\n".join(chosen) or f"no line begins with {words[0]!r}; `help` shows them all"
        return "\n".join([*lines, "", "And in this shell:", *wanted])


# -- The terminal -------------------------------------------------------------------------------


def run_shell(run: str, runs: Path, key: Path | None = None) -> int:
    """Read lines from the terminal, or from a pipe, until they end; return the status.

    Raises RunDirError where there is no such run, AttachError where it cannot be read.
    """
    shell = Shell(run, runs, key)
    at_terminal = sys.stdin.isatty()
    prompt = f"{shell.facts.spec.name}> " if at_terminal else ""
    if at_terminal:
        _prepare(shell)
        print(f"{shell.run}: `help` says what there is, the tabulator completes, ^D leaves")
    status = DONE
    for line in _lines(prompt):
        came, text = shell.execute(line)
        if came == LEAVE:
            break
        if text:
            print(text, file=sys.stderr if came == MISTAKE else sys.stdout, flush=True)
        status = came or status
    return DONE if at_terminal else status


def _lines(prompt: str) -> Iterator[str]:
    while True:
        try:
            yield input(prompt)
        except EOFError:
            if prompt:
                print()
            return
        except KeyboardInterrupt:
            print()


def _prepare(shell: Shell) -> None:
    try:
        import readline
    except ImportError:  # a Python built without it has neither history nor completion
        return
    history = Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "smpbox/history"
    with suppress(OSError):
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        readline.read_history_file(history)
    readline.set_history_length(HISTORY_MAX)
    readline.set_completer_delims(" \t\n")
    found: list[str] = []

    def complete(text: str, state: int) -> str | None:
        if state == 0:
            found[:] = shell.complete(readline.get_line_buffer()[: readline.get_endidx()], text)
        if state >= len(found):
            return None
        # A word that is whole gets a space; one that goes on does not.
        return found[state] if found[state].endswith(("=", "/", ":")) else found[state] + " "

    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    import atexit

    def keep() -> None:
        with suppress(OSError):
            readline.write_history_file(history)

    atexit.register(keep)
