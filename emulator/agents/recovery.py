"""What the coordinator keeps so that a process may die: per node its log, per death what became of it.

Theory of operation
-------------------
A process that a signal ended is replaced by the supervisor at once.  Its successor says BACK and gets a
RESTORE: the node's state of the last checkpoint and every frame since
(:class:`~emulator.engine.checkpoint.NodeLog`).  What the dead one had not answered the new one answers;
nobody else notices anything.  A frame from a dead process that comes late is dropped, since the successor
says the same again.

What a machine would suffer from the death is a command of the box, given when the successor is back
(:attr:`~emulator.engine.plan.Plan.crash_commands`): a CPU goes offline, a disk is reset.  Commands are
recorded, so a replay needs no death.

A process that dies again before its node has got any further has been ended by what the node does, not
by a stranger: :class:`DiedTwiceError`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from emulator import wire
from emulator.agents import frames
from emulator.engine.checkpoint import NodeLog

#: Frames since the last checkpoint, of one node, after which the next one is due at once.
LOG_BYTES_MAX = 32 << 20


class DiedTwiceError(AssertionError):
    """A node's process died twice without getting any further."""


@dataclass(slots=True)
class AgentFault:
    """One death that nobody commanded, and what came of it."""

    agent: str
    pid: int  #: of the successor
    signal: str
    at_ns: int  #: emulated time at which the machine may feel it
    frames: int  #: that the successor did again
    computing: bool  #: the node had been asked something
    noticed_ns: int  #: host time (monotonic)
    back_ns: int = 0  #: host time at which the successor had caught up; 0: it has not
    command: str = ""  #: given for it

    def told(self) -> str:
        """Return the fault as a line."""
        return (
            f"{self.agent}, a process, was killed by {self.signal} at {self.at_ns / 1e9:.9f} s: "
            f"{self.command or 'nothing is felt of it'}"
        )

    def plain(self) -> dict[str, Any]:
        """Return the fault as plain data, with the host time that recovery took in ms."""
        facts = asdict(self)
        took_ns = self.back_ns - self.noticed_ns if self.back_ns else -1
        return {**facts, "recovered_ms": round(took_ns / 1e6, 3)}


@dataclass(slots=True)
class Recovery:
    """The logs of all nodes that have processes, and the deaths so far."""

    logs: dict[int, NodeLog]
    faults: list[AgentFault] = field(default_factory=list)
    _deaths: dict[int, int] = field(default_factory=dict)  # by node, since it last got further
    _open: dict[int, AgentFault] = field(default_factory=dict)  # by node, until it has caught up

    @classmethod
    def of(cls, nodes: Iterable[int]) -> Recovery:
        """Return the recovery of a box in which nobody has been told anything."""
        return cls({node: NodeLog() for node in nodes})

    def told(self, node: int, frame: bytes) -> None:
        """Note a frame that asks a node for something."""
        self.logs[node].told(frame)

    def answered(self, node: int, frame: bytes) -> None:
        """Note a node's answer."""
        self.logs[node].answered(frame)
        if self._deaths:
            self._deaths.pop(node, None)

    def overfull(self) -> bool:
        """Return whether some log has grown beyond what it may hold."""
        return any(log.nr_bytes > LOG_BYTES_MAX for log in self.logs.values())

    def died(self, node: int, fault: AgentFault) -> None:
        """Note that a node's process was ended by a signal; raise DiedTwiceError."""
        log = self.logs[node]
        fault.frames, fault.computing = len(log.frames), log.computing
        self.faults.append(fault)
        self._open[node] = fault
        deaths = self._deaths[node] = self._deaths.get(node, 0) + 1
        if deaths > 1:
            raise DiedTwiceError(
                f"{fault.agent} died twice at the same instant, about {fault.at_ns} ns, by "
                f"{fault.signal}; its node was {'computing' if fault.computing else 'idle'}, "
                f"{fault.frames} frames after its last checkpoint"
            )

    def struggling(self) -> set[int]:
        """Return the nodes that have died and have not got any further, or not caught up."""
        return {*self._deaths, *self._open}

    def restore_frame(self, node: int) -> bytes:
        """Return the RESTORE frame for a node's new process."""
        log = self.logs[node]
        return wire.pack([frames.RESTORE, log.state, log.frames, log.answers])

    def rebuilt(self, node: int, host_ns: int) -> None:
        """Note that a node's new process has caught up."""
        self._deaths.pop(node, None)
        fault = self._open.pop(node, None)
        if fault is not None:
            fault.back_ns = host_ns

    def forget(self, node: int) -> None:
        """Note that a node has no process any more."""
        del self.logs[node]
        self._deaths.pop(node, None)


def signal_name(number: int) -> str:
    """Return what a signal is called."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
