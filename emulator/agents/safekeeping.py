"""Deaths and checkpoints: how a node's process, or the whole run, may be killed and go on.

Theory of operation
-------------------
A process that a signal ends is replaced and catches up; what may be needed for that is in
:class:`~emulator.agents.recovery.Recovery`.  Every now and then the box stands still for a checkpoint
(:mod:`emulator.engine.checkpoint`), which cuts those logs, and goes to the run directory, so that a run whose
coordinator died can be resumed.

States are asked of agents and come as frames: ``wait`` is how the coordinator takes its next one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emulator import wire
from emulator.agents import frames, host
from emulator.agents.desk import Desk
from emulator.agents.home import Home
from emulator.agents.post import Post, check_protocol, name_of
from emulator.agents.recovery import AgentFault, Recovery, signal_name
from emulator.agents.store import read_checkpoint, write_checkpoint
from emulator.engine.board import HistoryBoard
from emulator.engine.checkpoint import Checkpoint
from emulator.engine.plan import Plan
from emulator.engine.windows import Windows

#: Host seconds between two checkpoints on disk, at least.
STORE_EVERY_S = 1.0


class Safekeeping:
    """What a run keeps of its nodes so that any process may die."""

    __slots__ = (
        "_core",
        "_desk",
        "_home",
        "_plan",
        "_post",
        "_states",
        "_stored_s",
        "next_checkpoint_ns",
        "recovery",
    )

    def __init__(
        self, plan: Plan, core: Windows, post: Post, home: Home, desk: Desk, recovery: Recovery
    ) -> None:
        self._plan, self._core, self._post = plan, core, post
        self._home, self._desk, self.recovery = home, desk, recovery
        self._states: dict[int, bytes | None] = {}  # asked of nodes; None: not there yet
        self._stored_s = -STORE_EVERY_S
        self.next_checkpoint_ns = 0  #: the box is to stand still then

    def ask(self, node_id: int, frame: bytes) -> None:
        """Ask a node something: what its process does not live to answer, its successor will."""
        self.recovery.told(node_id, frame)
        self._post.send(node_id, frame)

    # -- states ----------------------------------------------------------------------------------

    def ask_states(self, nodes: list[int], wait: Callable[[], None]) -> dict[int, bytes]:
        """Return the states of nodes, none of which has a grant, nor is given one meanwhile."""
        for node_id in nodes:
            self._states[node_id] = None
            self._post.send(node_id, wire.pack([frames.SNAPSHOT]))
        while None in self._states.values():
            wait()
        states = {node: state for node, state in self._states.items() if state is not None}
        self._states.clear()
        return states

    def asked(self) -> list[int]:
        """Return the nodes whose states have not come yet."""
        return [node for node, state in self._states.items() if state is None]

    def state_came(self, node_id: int, state: bytes) -> None:
        """Note a node's state."""
        self._states[node_id] = state

    # -- checkpoints -----------------------------------------------------------------------------

    def checkpoint(self, wait: Callable[[], None]) -> None:
        """Take the box, which stands still: whatever happens from now on, it can go on from here."""
        core, logs = self._core, self.recovery.logs
        remote = [node for node in self._post.nodes() if node not in self._home]
        behind = [node for node in remote if not logs[node].state or logs[node].frames]
        for node_id, state in self.ask_states(behind, wait).items():
            logs[node_id].cut(state)
        self.next_checkpoint_ns = core.next_ns() + self._plan.checkpoint_ns
        if self._plan.run_dir and host.now_ns() / 1e9 - self._stored_s >= STORE_EVERY_S:
            self._store({node: logs[node].state for node in remote})

    def _store(self, remote: dict[int, bytes]) -> None:
        core = self._core
        states = {**remote, **self._home.states()}
        commands = self._desk.commands.pack()
        checkpoint = Checkpoint(core.floor_ns(), core.pack(), commands, states, sorted(self._home))
        write_checkpoint(self._plan.run_dir, checkpoint)
        host.trim_heap()
        self._stored_s = host.now_ns() / 1e9

    def go_on(self, board: HistoryBoard) -> None:
        """Make the box what it was; its agents are told when they say that they are back."""
        checkpoint = read_checkpoint(self._plan.resume)
        self._core.unpack(checkpoint.windows)
        board.started = True
        for node_id, state in checkpoint.states.items():
            if node_id in checkpoint.local:
                self._home.seat(node_id, state)
                if node_id in self.recovery.logs:
                    # Its process was killed by command: nobody will say BACK for it.
                    self.recovery.forget(node_id)
                    self._post.unheard.discard(node_id)
            else:
                self.recovery.logs[node_id].state = state
        self._desk.go_on(checkpoint.commands)

    # -- deaths ----------------------------------------------------------------------------------

    def take_back(self, identity: bytes, frame: list[Any]) -> None:
        """Take in a new process of a node: the old one was killed, or the whole run was."""
        _, protocol, digest, node_id, pid, signal, noticed_ns = frame
        check_protocol(identity, protocol, digest)
        if node_id in self._home:
            return  # it was to be killed anyway
        post, recovery = self._post, self.recovery
        post.succeed(node_id, identity)
        at_ns = self._core.stamp_ns()
        if signal:
            name = signal_name(signal)
            fault = AgentFault(name_of(identity), pid, name, at_ns, 0, False, noticed_ns)
            recovery.died(node_id, fault)
            self._suffer(node_id, fault)
        if recovery.logs[node_id].state:
            post.unheard.discard(node_id)
        post.restore(node_id, recovery.restore_frame(node_id))
        if node_id in self.asked():
            post.send(node_id, wire.pack([frames.SNAPSHOT]))

    def _suffer(self, node_id: int, fault: AgentFault) -> None:
        # What the machine feels of the death.
        words = list(self._plan.crash_command(node_id))
        if words and fault.at_ns < self._core.until_ns:
            fault.command = " ".join(words)
            self._desk.give(fault.at_ns, words)
