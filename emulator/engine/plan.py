"""What a run needs to know, in one plain object that every process of it is given."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from emulator.engine.board import HistoryBoard
from emulator.engine.node import Latencies, Node
from emulator.types import NSEC_PER_MSEC

#: (emulated time, target node, words of the command line).
Command = tuple[int, int, list[Any]]

COORDINATOR_NAME = "emucoord"

#: Emulated time between two checkpoints, where a plan says nothing else.
CHECKPOINT_NS = 100 * NSEC_PER_MSEC


class CommandError(ValueError):
    """A command line that the box does not know; the text says what is odd."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One box as processes: who there is, how far to run, how to build a node.

    ``factory`` is ``package.module:function``, called as ``(node_id, spec_plain, run_dir, board)``
    in the process that is to carry the node.  ``route`` likewise, called as ``(words,
    spec_plain)``, returns the nodes that a command goes to and raises CommandError for one that it
    does not know.
    """

    nr_cpus: int
    devices: tuple[str, ...]
    until_ns: int
    latencies: Latencies
    factory: str
    spec_plain: Any
    run_dir: str
    host_cpus: tuple[int, ...] = ()  #: to pin CPU agents to, round robin; empty: all there are
    commands: tuple[Command, ...] = ()
    route: str = "emulator.engine.plan:route_by_cpu"
    #: Likewise ``(words, spec_plain, run_dir)``: starts to watch what the nodes record for a condition,
    #: raises ValueError for words that are none.  Empty: nothing can be waited for.
    watch: str = ""
    #: Likewise ``(words, spec_plain)``: the box as it is for commands that follow this one.
    grow: str = ""
    paused: bool = False  #: the box stands still at 0 until a client lets it go on
    listen: str = ""  #: tcp://HOST:PORT at which clients with a key are served; empty: nowhere
    shared: bool = False  #: there is a node for the objects of no CPU, after the devices
    checkpoint_ns: int = CHECKPOINT_NS  #: emulated time between two checkpoints
    #: Per remote node what the box is told when its process has died, () for nothing; none at all:
    #: a death ends the run.
    crash_commands: tuple[tuple[str, ...], ...] = ()
    resume: str = ""  #: path of the checkpoint to go on from, "": from the start
    retired: tuple[int, ...] = ()  #: nodes whose processes were killed by command before it
    recorded: tuple[tuple[int, list[Any]], ...] = ()  #: commands of the resumed run: (time, words)

    @property
    def nr_nodes(self) -> int:
        """CPUs, the balancer, devices, the shared-state node."""
        return self.nr_cpus + 1 + len(self.devices) + self.shared

    def name(self, node_id: int) -> str:
        """Return the agent's name of a node, which is also its process's comm."""
        if node_id in self.local_nodes():
            return COORDINATOR_NAME
        if node_id < self.nr_cpus:
            return f"emucpu/{node_id}"
        return f"emudev/{self.devices[node_id - self.nr_cpus - 1]}"

    def local_nodes(self) -> list[int]:
        """Return the nodes that live in the coordinator: the balancer, and the shared-state node."""
        return [self.nr_cpus, self.nr_nodes - 1] if self.shared else [self.nr_cpus]

    def crash_command(self, node_id: int) -> tuple[str, ...]:
        """Return what the box is told when the process of a node has died, () for nothing."""
        return self.crash_commands[self.remote_nodes().index(node_id)]

    def remote_nodes(self) -> list[int]:
        """Return the nodes that have a process of their own."""
        local = self.local_nodes()
        return [node for node in range(self.nr_nodes) if node not in local]

    def build(self, node_id: int, board: HistoryBoard) -> Node:
        """Build a node in this process."""
        node: Node = resolve(self.factory)(node_id, self.spec_plain, self.run_dir, board)
        assert node.node_id == node_id
        return node

    def targets(self, words: list[Any]) -> list[int]:
        """Return the nodes that a command goes to; raise CommandError."""
        targets: list[int] = resolve(self.route)(words, self.spec_plain)
        return targets

    def after(self, words: list[Any]) -> Plan:
        """Return the plan by which commands are routed that come after this one."""
        if not self.grow:
            return self
        return replace(self, spec_plain=resolve(self.grow)(words, self.spec_plain))

    def watch_for(self, words: Sequence[str]) -> Any:
        """Start to watch for a condition; raise ValueError for words that state none."""
        if not self.watch:
            raise CommandError("this box records nothing that could be waited for")
        return resolve(self.watch)(words, self.spec_plain, self.run_dir)


def resolve(path: str) -> Any:
    """Return the object that ``package.module:name`` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def route_by_cpu(words: list[Any], _spec_plain: Any) -> list[int]:
    """Return the CPU that ``cpu VERB N …`` names: the route of boxes that have no other."""
    if len(words) < 3 or words[0] != "cpu" or not str(words[2]).isdigit():
        raise CommandError(f"{' '.join(map(str, words))!r} is not a command: cpu VERB N")
    return [int(words[2])]
