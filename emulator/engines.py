"""The table of engines: from a resolved box to a plan, and from a plan to an outcome.

Theory of operation
-------------------
Whatever runs a box gets the same :class:`~emulator.engine.plan.Plan`: who there is, how far to go,
how to build a node, which commands come when.  The nodes are built by the functions that
:class:`Parts` names.  A new way to run a box is one line in :data:`ENGINES`.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from emulator.engine.inline import RunOutcome, run_inline
from emulator.engine.plan import Command, Plan, resolve
from emulator.engine.turns import run_turns
from emulator.plain import spec_to_plain
from emulator.types import BoxSpec, Latencies, for_each_cpu

PROCESSES = "processes"
INLINE = "inline"


class OnProgress(Protocol):
    """Told how far a run has come and who is waited for; answers False to end it there."""

    def __call__(self, now_ns: int, waiting_for: str = "") -> bool:
        """Return whether to go on."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a box is built from, as ``package.module:function``, so that agents can import it."""

    node: str = "emulator.build:build_node"  #: (node_id, spec_plain, run_dir, board) -> Node
    route: str = (
        "emulator.boxfile.route:route"  #: (words, spec_plain) -> ids of the nodes concerned
    )
    latencies: str = "emulator.build:latencies"  #: (spec) -> Latencies
    #: (spec) -> id of the node for the objects of no CPU, or -1
    shared: str = "emulator.build:shared_node"
    #: (words, spec_plain, run_dir) -> a watch for a condition
    watch: str = "emulator.boxfile.route:watch"
    grow: str = "emulator.boxfile.route:grown"  #: (words, spec_plain) -> spec_plain after that


#: The real machine.
MACHINE = Parts()


@dataclass(frozen=True, slots=True)
class Resume:
    """From where a killed run goes on."""

    checkpoint: str  #: path
    killed: tuple[int, ...]  #: nodes whose processes had been killed by command
    commands: tuple[tuple[int, list[Any]], ...]  #: that it had been given: (time, words)


@dataclass(frozen=True, slots=True)
class Job:
    """What to run, where its run directory is, and whom to tell how far it is."""

    spec: BoxSpec
    directory: Path
    on_progress: OnProgress
    host_cpus: int | None = None  #: mask, None: all there are
    strict: bool = False
    paused: bool = False  #: processes alone: stand still at 0 until a command lets it go on
    parts: Parts = MACHINE
    until_ns: int | None = None  #: end there, None: when the box's duration is over
    resume: Resume | None = None  #: None: from the start
    listen: str = ""  #: processes alone: tcp://HOST:PORT for clients with a key


def run(engine: str, job: Job) -> RunOutcome:
    """Run a job in an engine of :data:`ENGINES` and return how it ended."""
    return ENGINES[engine](job)


def plan_of(job: Job) -> Plan:
    """Return the plan of a job; raise CommandError for a timed event that no node takes."""
    spec = job.spec
    latencies: Callable[[BoxSpec], Latencies] = resolve(job.parts.latencies)
    return Plan(
        nr_cpus=spec.machine.nr_cpus,
        devices=tuple(disk.name for disk in spec.disks),
        until_ns=spec.duration_ns if job.until_ns is None else job.until_ns,
        latencies=latencies(spec),
        factory=job.parts.node,
        spec_plain=spec_to_plain(spec),
        run_dir=str(job.directory),
        host_cpus=tuple(for_each_cpu(job.host_cpus)) if job.host_cpus is not None else (),
        commands=commands_of(spec, job.parts),
        route=job.parts.route,
        watch=job.parts.watch,
        grow=job.parts.grow,
        paused=job.paused,
        listen=job.listen,
        shared=resolve(job.parts.shared)(spec) >= 0,
        checkpoint_ns=spec.checkpoint_ns,
        crash_commands=crash_commands(spec),
        resume=job.resume.checkpoint if job.resume else "",
        retired=job.resume.killed if job.resume else (),
        recorded=job.resume.commands if job.resume else (),
    )


def crash_commands(spec: BoxSpec) -> tuple[tuple[str, ...], ...]:
    """Return what a box is told when a process dies: for each CPU, then for each disk.

    () is nothing, for one; nothing at all where a death ends the run.
    """
    if spec.on_crash == "abort":
        return ()
    cpus = [
        ("cpu", "offline", str(cpu)) if spec.on_crash == "offline" else ()
        for cpu in range(spec.machine.nr_cpus)
    ]
    disks = [
        ("disk", disk.name, "reset") if disk.on_crash == "reset" else () for disk in spec.disks
    ]
    return (*cpus, *disks)


def commands_of(spec: BoxSpec, parts: Parts) -> tuple[Command, ...]:
    """Return a box's timed events as commands, one per node concerned, by time.

    Raise CommandError for an event that no node takes.
    """
    route: Callable[[list[str], Any], list[int]] = resolve(parts.route)
    grow: Callable[[list[str], Any], Any] = resolve(parts.grow)
    plain = spec_to_plain(spec)
    commands: list[Command] = []
    for event in sorted(spec.events, key=lambda event: event.at_ns):
        words = shlex.split(event.do)
        commands += [(event.at_ns, target, list(words)) for target in route(words, plain)]
        plain = grow(words, plain)
    return tuple(commands)


def _run_processes(job: Job) -> RunOutcome:
    # An inline run need not load zmq and what else the agents use.
    from emulator.agents.supervisor import run_processes

    return run_processes(plan_of(job), job.on_progress)


def _run_inline(job: Job) -> RunOutcome:
    machine = job.spec.machine
    if machine.take_turns:
        return run_turns(
            plan_of(job),
            job.on_progress,
            strict=job.strict,
            turn_ns=machine.turn_ns,
            seed=job.spec.seed,
        )
    return run_inline(plan_of(job), job.on_progress, strict=job.strict)


ENGINES: dict[str, Callable[[Job], RunOutcome]] = {
    PROCESSES: _run_processes,
    INLINE: _run_inline,
}
