"""The supervisor: starts the processes of a box, watches them, and leaves none behind.

Theory of operation
-------------------
Processes start through a forkserver that has everything an agent needs imported already and that
never had a ZeroMQ context, so that a start costs a fork.  The supervisor waits for frames of the
coordinator and for the sentinels of all processes, in one call.  A node's process that a signal ends is
replaced at once, unless the plan says that a death ends the run; its successor is made what it was
(:mod:`emulator.agents.recovery`).  The coordinator's death ends the run with status 2: from its last
checkpoint it can be resumed.  A process that ends by its own exception ends the run with the traceback that
it sent and status 1.  Its connection may be lost before its end is seen: what counts is its death.
Silence ends nothing, since a stopped process is not dead.  Whatever happens,
at the end every process is gone: told to quit, or killed, and reaped.

Agents ignore SIGINT, which a terminal sends to all, and SIGTERM, which ``timeout`` and service managers do;
the run's end is the supervisor's to decide.
If the supervisor itself is killed, each agent sees its pipe close and ends.

This is the only file that imports multiprocess.
"""

from __future__ import annotations

import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import multiprocess
from multiprocess import process as multiprocess_process

from emulator import wire
from emulator.agents import coordinator, frames, host, node_agent, shapes
from emulator.agents.gate import Gate
from emulator.agents.link import Link
from emulator.agents.post import SUPERVISOR_NAME
from emulator.agents.sockets import SocketDirectory
from emulator.engine.inline import RunOutcome
from emulator.engine.plan import COORDINATOR_NAME, Plan
from emulator.types import NSEC_PER_SEC

#: Imported by the forkserver, once.
PRELOAD = ["zmq", "msgpack", "psutil", "emulator.agents.node_agent", "emulator.agents.coordinator"]

#: How often the caller's ``on_progress`` is asked whether to go on, at least.
ASK_MS = 250

#: How long processes that were told to quit may take, how long one to end whose connection is lost,
#: and how long an agent's last words.
QUIT_S = 5.0
LOST_S = 5.0
LAST_WORDS_MS = 2_000

#: The file of the run directory that holds the control socket's address while the run lasts.
CONTROL = "control"


class OnProgress(Protocol):
    """Told how far a run has come and who is waited for; answers False to end it there."""

    def __call__(self, now_ns: int, waiting_for: str = "") -> bool:
        """Return whether to go on."""
        ...


def run_processes(plan: Plan, on_progress: OnProgress | None = None) -> RunOutcome:
    """Run a box as processes and return how it ended; no process is left behind."""
    supervisor = Supervisor(plan, on_progress)
    gate = None
    try:
        gate = supervisor.gate()
        outcome = supervisor.run()
        if gate is not None:
            gate.tell_refused(outcome.agents)
        return outcome
    finally:
        if gate is not None:
            gate.close()
        supervisor.close()


class Supervisor:
    """The processes of one run."""

    __slots__ = (
        "_cpus",
        "_directory",
        "_expected",
        "_heirs",
        "_link",
        "_on_progress",
        "_plan",
        "_processes",
        "_progress",
        "_record",
        "_stopping",
    )

    #: What the coordinator's process runs.
    coordinator_main: ClassVar[Callable[..., int]] = staticmethod(coordinator.main)

    def __init__(self, plan: Plan, on_progress: OnProgress | None) -> None:
        self._plan, self._on_progress = plan, on_progress
        self._directory = SocketDirectory()
        self._processes: dict[str, Any] = {}
        self._expected: set[str] = set()  # names of processes that were killed by command
        # The next process that replaces another has this number, by which it is known to be ours.
        self._heirs = int.from_bytes(os.urandom(7)) + 2
        self._cpus: dict[str, tuple[int, ...]] = {}  # host CPUs of each process
        self._link: Link | None = None
        self._progress: tuple[int, str] = (0, "")
        self._record: list[Any] = []  # commands given so far
        self._stopping = False

    def run(self) -> RunOutcome:
        """Start everything, wait for the outcome, and see everything end."""
        self._start()
        link = self._link = Link(self._directory.hub(), SUPERVISOR_NAME, 1)
        link.send(wire.pack([frames.WATCH, wire.PROTOCOL, wire.digest()]))
        self._write_control()
        outcome = self._watch(link)
        if not outcome.status:
            self._join()
        return outcome

    def gate(self) -> Gate | None:
        """Open the box to clients on other machines, if it is to be; raise GateError."""
        plan = self._plan
        if not plan.listen:
            return None
        return Gate(plan.listen, self._directory.hub(), self._directory.observers(), plan.run_dir)

    def pids(self) -> dict[str, int]:
        """Return the host pids of the agents by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def close(self) -> None:
        """Kill and reap what is still there, and remove the sockets."""
        for process in self._processes.values():
            if process.is_alive():
                process.kill()
        for process in self._processes.values():
            process.join()
            process.close()
        self._processes.clear()
        if self._link is not None:
            self._link.close()
            self._link = None
        self._remove_control()
        self._directory.remove()

    # -- starting --------------------------------------------------------------------------------

    def _start(self) -> None:
        plan = self._plan
        cpus = host.choose_host_cpus(plan.host_cpus)
        context = multiprocess.get_context("forkserver")
        context.set_forkserver_preload([*PRELOAD, plan.factory.partition(":")[0]])
        hub, observers = self._directory.hub(), self._directory.observers()
        with _without_main():
            # The coordinator is not pinned to one CPU: it answers whoever is quickest.
            self._launch(
                context,
                COORDINATOR_NAME,
                self.coordinator_main,
                (plan, hub, observers, cpus, self._heirs),
            )
            for place, node_id in enumerate(plan.remote_nodes()):
                if node_id not in plan.retired:
                    self._cpus[plan.name(node_id)] = (cpus[place % len(cpus)],)
                    self._launch_node(node_id, node_agent.Birth(restored=bool(plan.resume)))

    def _launch_node(self, node_id: int, birth: node_agent.Birth) -> None:
        plan, name = self._plan, self._plan.name(node_id)
        arguments = (plan, node_id, self._directory.hub(), self._cpus[name], birth)
        self._launch(multiprocess.get_context("forkserver"), name, node_agent.main, arguments)

    def _launch(
        self, context: Any, name: str, target: Callable[..., int], arguments: tuple[Any, ...]
    ) -> None:
        everything = (target, arguments, self._directory)
        process = context.Process(target=child, args=everything, name=name, daemon=True)
        process.start()
        self._processes[name] = process

    # -- watching --------------------------------------------------------------------------------

    def _watch(self, link: Link) -> RunOutcome:
        while True:
            sentinels = {
                process.sentinel: name
                for name, process in self._processes.items()
                if name not in self._expected
            }
            fired = link.wait(sentinels, ASK_MS)
            noticed_ns = host.now_ns()
            outcome = self._drain(link, 0)
            for sentinel in fired:
                if outcome is None:
                    outcome = self._death(link, sentinels[sentinel], noticed_ns)
            if outcome is not None:
                return outcome
            self._ask(link)

    def _drain(self, link: Link, timeout_ms: int) -> RunOutcome | None:
        # Acts on the frames that are there; the outcome is the last.
        while (data := link.receive_within(timeout_ms)) is not None:
            frame = shapes.admit(data, shapes.COORDINATOR, sealed=False)
            if frame[0] == frames.OUTCOME:
                return self._ending(frame)
            if frame[0] == frames.PROGRESS:
                self._progress = (frame[1], " ".join(frame[4]))
            elif frame[0] == frames.RECORD:
                self._record = frame[1]
            elif frame[0] == frames.KILL:
                self._kill(link, frame[1])
        return None

    def _kill(self, link: Link, node_id: int) -> None:
        # A death that the coordinator has prepared.
        name = self._plan.name(node_id)
        self._expected.add(name)
        self._processes[name].kill()
        self._processes[name].join()
        link.send(wire.pack([frames.KILLED, node_id]))

    def _death(self, link: Link, name: str, noticed_ns: int) -> RunOutcome | None:
        # Somebody died unasked.  Last words may be under way if it was not a signal.
        if name in self._expected:
            return None
        process = self._processes[name]
        process.join()
        if process.exitcode >= 0:
            outcome = self._drain(link, LAST_WORDS_MS)
            if outcome is not None:
                return outcome
        elif name != COORDINATOR_NAME and self._plan.crash_commands:
            self._replace(name, noticed_ns)
            return None
        commands = [(at_ns, words, answer) for at_ns, words, answer in self._record]
        outcome = RunOutcome(reached_ns=self._progress[0], commands=commands)
        self._tell_death(outcome, name)
        return outcome

    def _replace(self, name: str, noticed_ns: int) -> None:
        # Somebody was killed by a signal; its successor is told what it was.
        process = self._processes[name]
        number, birth = -process.exitcode, self._heirs
        self._heirs += 1
        process.close()
        node_id = next(n for n in self._plan.remote_nodes() if self._plan.name(n) == name)
        with _without_main():
            self._launch_node(node_id, node_agent.Birth(birth, True, number, noticed_ns))

    def _tell_death(self, outcome: RunOutcome, name: str) -> None:
        process = self._processes[name]
        outcome.status = 1 if process.exitcode > 0 else 2
        outcome.error = (
            f"{name} (pid {process.pid}) {_manner(process.exitcode)} unasked, about "
            f"{self._progress[0] / NSEC_PER_SEC:.4g} s of emulated time; the run ends"
        )
        if name == COORDINATOR_NAME and process.exitcode < 0 and self._plan.run_dir:
            outcome.error += f".  To go on from its last checkpoint: resume {self._plan.run_dir}"

    def _ending(self, frame: list[Any]) -> RunOutcome:
        # The coordinator has the last word, but for how an agent died that it has only missed.
        *whole, lost = frame
        outcome = _outcome_of(whole)
        process = self._processes.get(lost)
        if process is not None:
            # Sockets close before the process can be reaped.
            process.join(LOST_S)
            if process.exitcode is not None:
                self._tell_death(outcome, lost)
        return outcome

    def _ask(self, link: Link) -> None:
        if self._on_progress is None or self._stopping:
            return
        if not self._on_progress(*self._progress):
            self._stopping = True
            link.send(wire.pack([frames.STOP]))

    # -- ending ----------------------------------------------------------------------------------

    def _join(self) -> None:
        for process in self._processes.values():
            process.join(QUIT_S)

    def _write_control(self) -> None:
        if self._plan.run_dir:
            path = os.path.join(self._plan.run_dir, CONTROL)
            # Whole or not at all: a client may look for it already.
            with open(f"{path}.new", "w", encoding="utf-8") as file:
                file.write(self._directory.hub() + "\n")
            os.replace(f"{path}.new", path)

    def _remove_control(self) -> None:
        if self._plan.run_dir:
            try:
                os.unlink(os.path.join(self._plan.run_dir, CONTROL))
            except FileNotFoundError:
                return


def child(
    target: Callable[..., int], arguments: tuple[Any, ...], directory: SocketDirectory
) -> None:
    """Be an agent: the first thing that every process of a box runs."""

    def leave() -> None:
        # The supervisor is gone and cannot tidy up: whoever comes first removes the sockets.
        directory.remove()
        os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocess_process.parent_process()
    assert parent is not None
    host.end_with(parent.sentinel, leave)
    sys.exit(target(*arguments))


@contextmanager
def _without_main() -> Iterator[None]:
    # multiprocess imports the caller's __main__ in every child.  Agents need nothing of it, and a
    # console script or a test runner there would cost each of them its imports.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _manner(exitcode: int) -> str:
    if exitcode < 0:
        try:
            return f"was killed by {signal.Signals(-exitcode).name}"
        except ValueError:
            return f"was killed by signal {-exitcode}"
    return f"exited with status {exitcode}"


def _outcome_of(frame: list[Any]) -> RunOutcome:
    _, status, error, reached, windows, messages, nr_bytes, books, commands, agents, faults = frame
    return RunOutcome(
        status=status,
        error=error,
        reached_ns=reached,
        windows=windows,
        messages=messages,
        wire_bytes=nr_bytes,
        books=books,
        commands=[(at_ns, words, answer) for at_ns, words, answer in commands],
        agents=agents,
        faults=faults,
    )
