"""A run whose coordinator was killed goes on from its last checkpoint, to the end that it would have had.

Theory of operation
-------------------
While a box runs as processes, its coordinator writes a checkpoint into the run directory about once a
second (:mod:`emulator.engine.checkpoint`), and every command as it is given.  A run is a function of its
box, its seed and its commands, so that what comes after the checkpoint comes again: the rings are taken
back to where they were, the commands given since are given at their times, and the run ends with the rings
and results of one that nobody disturbed.  One that listened on TCP does so again, with new keys.
"""

import shlex
from pathlib import Path
from typing import Any

from emulator import engines, session
from emulator.agents.store import read_checkpoint
from emulator.build import shared_node
from emulator.config import BoxError, load_plain
from emulator.describe import box_of
from emulator.engine.checkpoint import Checkpoint, CheckpointError
from emulator.rundir import BOX, CHECKPOINT, COMMANDS, RUN, RunDirectory, resolve_run
from emulator.types import BoxSpec
from emulator.units import duration_parse


class ResumeError(Exception):
    """The run cannot be resumed; the text says why."""


def resume_run(word: str, runs: Path, *, quiet: bool = False, logs: bool = True) -> int:
    """Let a killed run go on to its end and return the exit status of its verdict.

    Raises RunDirError where there is no such run, ResumeError where it cannot go on, SessionError
    where the host has no room for it.
    """
    directory = resolve_run(word, runs)
    facts = directory.read_json(RUN)
    _check(directory, facts)
    try:
        plain = load_plain(directory.path / BOX)
        box = box_of(plain, str(facts["box_file"]))
        checkpoint = read_checkpoint(str(directory.path / CHECKPOINT))
        commands = recorded_commands(directory)
    except (CheckpointError, BoxError) as error:
        raise ResumeError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"{directory.path}: written by another build ({error!r})") from error
    spec = box.resolve()
    resume = engines.Resume(
        str(directory.path / CHECKPOINT), killed_nodes(checkpoint, spec), tuple(commands)
    )
    listen = str(facts.get("listen", ""))
    request = session.Request(str(facts["box_file"]), quiet=quiet, logs=logs, listen=listen)
    session.check_listen(request, engines.PROCESSES)
    session.check_host(spec)
    with session.host_errors(directory.path):
        directory.hold()
        try:
            clocked = session.run_engine(request, box, spec, directory, engines.PROCESSES, resume)
            spec = session.grown(spec, clocked)
            results = session.judge(box, spec, directory, clocked)
            results["resumed_from_ns"] = checkpoint.at_ns
            session.finish(directory, spec, results, clocked, request)
        finally:
            directory.release()
    return session.status_of(results, clocked.outcome)


def _check(directory: RunDirectory, facts: dict[str, Any]) -> None:
    if directory.is_running():
        raise ResumeError(f"{directory.path} runs")
    if facts.get("engine") != engines.PROCESSES:
        raise ResumeError(f"{directory.path} ran with --engine inline, which keeps no checkpoints")
    if not (directory.path / CHECKPOINT).exists():
        raise ResumeError(f"{directory.path} has no checkpoint: it is complete, or never began")


def killed_nodes(checkpoint: Checkpoint, spec: BoxSpec) -> tuple[int, ...]:
    """Return the nodes whose processes had been killed by command: they live in the coordinator."""
    at_home = (spec.machine.nr_cpus, shared_node(spec))
    return tuple(node for node in checkpoint.local if node not in at_home)


def recorded_commands(directory: RunDirectory) -> list[tuple[int, list[Any]]]:
    """Return the commands that a run was given: (time, words) each; raise BoxError."""
    if not (directory.path / COMMANDS).exists():
        return []
    commands = load_plain(directory.path / COMMANDS)
    return [(duration_parse(one["at"]), shlex.split(str(one["do"]))) for one in commands]
