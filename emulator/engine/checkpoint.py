"""A checkpoint: the whole box at one instant, as bytes from which it goes on.

Theory of operation
-------------------
While the box stands still (:meth:`~emulator.engine.windows.Windows.at_rest`) nobody is under way: the
states of all nodes, what the coordinator knows of them with the messages that it holds, and the
commands so far are the box.  A node's state is that of its seat
(:meth:`emulator.engine.seat.Seat.snapshot`), as bytes: nobody but the successor looks into it.

:class:`NodeLog` is the same for one node alone: its state of the last checkpoint and every frame
that it was told since.  A node is a function of those, so that a process that dies can be made again;
what the dead one had answered, the new one must answer again, byte by byte.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

from emulator import wire

#: Changes with the layout below, or with that of anything inside.
FORMAT = 4


class CheckpointError(Exception):
    """These bytes are no checkpoint that this build can go on from; the text says why."""


@dataclass(slots=True)
class Checkpoint:
    """The box when all that comes before ``at_ns`` was over."""

    at_ns: int
    windows: list[Any]  #: of :meth:`Windows.pack`
    commands: list[Any]  #: of :meth:`Commands.pack`
    states: dict[int, bytes]  #: by node
    local: list[int]  #: nodes whose process is the coordinator's

    def pack(self) -> bytes:
        """Return the checkpoint as bytes."""
        head = [FORMAT, wire.PROTOCOL, wire.digest()]
        states = [[node, state] for node, state in sorted(self.states.items())]
        return wire.pack([*head, self.at_ns, self.windows, self.commands, states, self.local])

    @classmethod
    def unpack(cls, data: bytes) -> Checkpoint:
        """Rebuild what :meth:`pack` returned; raise CheckpointError for anything else."""
        try:
            layout, protocol, digest, *rest = wire.unpack_sealed(data)
        except (wire.WireError, ValueError, TypeError) as error:
            raise CheckpointError(f"not a checkpoint: {error}") from error
        if (layout, protocol, digest) != (FORMAT, wire.PROTOCOL, wire.digest()):
            raise CheckpointError("written by another build of the emulator")
        at_ns, windows, commands, states, local = rest
        return cls(at_ns, windows, commands, dict(states), local)


@dataclass(slots=True)
class NodeLog:
    """What the process of a node can be made again from."""

    state: bytes = b""  #: b"": there has been no checkpoint yet
    frames: list[bytes] = field(default_factory=list)  #: what it was told since, in order
    answers: list[int] = field(default_factory=list)  #: checksums of its answers to them so far
    nr_bytes: int = 0  #: of frames

    def told(self, frame: bytes) -> None:
        """Note what the node is told."""
        self.frames.append(frame)
        self.nr_bytes += len(frame)

    def answered(self, frame: bytes) -> None:
        """Note what the node has answered to the first frame that it had not answered."""
        assert len(self.answers) < len(self.frames)
        self.answers.append(checksum(frame))

    def cut(self, state: bytes) -> None:
        """Start anew from a state in which all is answered."""
        assert len(self.answers) == len(self.frames)
        self.state, self.nr_bytes = state, 0
        self.frames.clear()
        self.answers.clear()

    @property
    def computing(self) -> bool:
        """Whether an answer is outstanding."""
        return len(self.answers) < len(self.frames)


def checksum(frame: bytes) -> int:
    """Return a short sum of a frame, equal for equal frames."""
    return zlib.crc32(frame)
