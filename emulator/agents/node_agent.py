"""The process of one emulated CPU or device: it carries a node and does what it is granted.

It builds its node, says HELLO with the node's first promise and publications, and then waits for
frames, one grant at a time.  If anything goes wrong here, the traceback is the last thing that it
sends.

The successor of a process that was killed says BACK instead, and is told what its predecessor was: the
state of the last checkpoint and every frame since.  It does all that again, which leaves the same ring and
the same answers (:class:`DivergedError` if not), and sends the answers that have not come yet.
"""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from typing import Any

from emulator import wire
from emulator.agents import frames, host, shapes
from emulator.agents.link import Link
from emulator.engine.board import HistoryBoard
from emulator.engine.checkpoint import checksum
from emulator.engine.node import Node
from emulator.engine.plan import Plan
from emulator.engine.seat import finish, run_grant, settle_in, take_over, take_state
from emulator.hosterrors import host_error

#: Exit status of an agent that ended by its own exception.
EXIT_FAILED = 1


class DivergedError(AssertionError):
    """A node that was made again does not do what it did."""


@dataclass(frozen=True, slots=True)
class Birth:
    """Which process of its node this is, and what became of the one before."""

    incarnation: int = 1
    restored: bool = False  #: it has a predecessor, in this run or in the one that is resumed
    signal: int = 0  #: that killed the predecessor; 0: the run is resumed
    noticed_ns: int = 0  #: host time (monotonic) at which its death was noticed


def main(
    plan: Plan, node_id: int, hub_address: str, cpus: tuple[int, ...], birth: Birth = Birth()
) -> int:
    """Carry ``node_id`` until told to quit and return the exit status."""
    name = plan.name(node_id)
    host.set_comm(name)
    cpus = host.pin(cpus)
    link = Link(hub_address, name, birth.incarnation)
    try:
        agent = NodeAgent(plan, node_id, link, cpus)
        if agent.come_back(birth) if birth.restored else agent.come():
            agent.serve()
        return 0
    except Exception as error:
        link.send(wire.pack([frames.FAILED, traceback.format_exc(), host_error(error)]))
        return EXIT_FAILED
    finally:
        link.close()


class NodeAgent:
    """A node in its process, with a board of its own."""

    __slots__ = ("_board", "_cpus", "_link", "_node", "_node_id", "_plan")

    _node: Node

    def __init__(self, plan: Plan, node_id: int, link: Link, cpus: tuple[int, ...]) -> None:
        self._plan, self._node_id, self._link, self._cpus = plan, node_id, link, cpus
        self._board = HistoryBoard(plan.nr_nodes, keep_fresh=True)

    def come(self) -> bool:
        """Build the node and say HELLO."""
        self._build()
        self._link.send(self._hello())
        self._board.started = True
        return True

    def come_back(self, birth: Birth) -> bool:
        """Make the node what it was and say what has not been heard of it; False: told to quit."""
        back = [frames.BACK, wire.PROTOCOL, wire.digest(), self._node_id, os.getpid()]
        self._link.send(wire.pack([*back, birth.signal, birth.noticed_ns]))
        frame = self._next_frame()
        if frame[0] == frames.QUIT:
            return False
        assert frame[0] == frames.RESTORE, frame
        _, state, told, answers = frame
        if not state:
            return self.come()
        self._board.muted = True
        self._build()
        self._board.muted = False
        take_over(self._node, self._board, state)
        self._board.started = True
        for place, data in enumerate(told):
            answer = self._answer(shapes.admit(data, shapes.COORDINATOR, sealed=False))
            if place >= len(answers):
                self._link.send(answer)
            elif checksum(answer) != answers[place]:
                raise DivergedError(
                    f"node {self._node_id} was made again and answers otherwise than it did, to frame "
                    f"{place} of {len(told)} since its last checkpoint"
                )
        self._link.send(wire.pack([frames.REBUILT]))
        return True

    def serve(self) -> None:
        """Do what the coordinator says until it says QUIT."""
        while True:
            frame = self._next_frame()
            if frame[0] == frames.QUIT:
                return
            self._link.send(self._answer(frame))

    def _next_frame(self) -> list[Any]:
        return shapes.admit(self._link.receive(), shapes.COORDINATOR, sealed=False)

    def _build(self) -> None:
        self._node = self._plan.build(self._node_id, self._board)
        settle_in(self._node, self._plan.latencies)

    def _hello(self) -> bytes:
        promise, publications = frames.promise_items(self._node.promise()), self._board.take_fresh()
        head = [frames.HELLO, wire.PROTOCOL, wire.digest(), self._node_id, os.getpid()]
        return wire.pack([*head, promise, publications])

    def _answer(self, frame: list[Any]) -> bytes:
        node, board = self._node, self._board
        match frame[0]:
            case frames.GRANT:
                grant, floor_ns = frames.grant_of(self._node_id, frame)
                return frames.pack_reply(run_grant(node, board, grant, floor_ns))
            case frames.FINISH:
                finish(node, board, frames.grant_of(self._node_id, frame)[0])
                return wire.pack([frames.BOOKS, node.books(), host.usage(self._cpus)])
        assert frame[0] == frames.SNAPSHOT, frame
        return wire.pack([frames.STATE, take_state(node, board)])
