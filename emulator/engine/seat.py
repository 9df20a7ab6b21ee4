"""A node in its seat: what happens between a grant and the reply to it, wherever the node lives.

The same few lines serve an agent process, the nodes in the coordinator, and the tests' box that
runs windows in one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from emulator import wire
from emulator.engine.board import HistoryBoard, Publication
from emulator.engine.node import Latencies, Node, Promise
from emulator.engine.windows import Grant, Windows
from emulator.nodebase import NodeBase
from emulator.types import Message


@dataclass(slots=True)
class Reply:
    """What a node did with a grant."""

    promise: Promise
    outbox: list[Message]
    publications: list[Publication]


def settle_in(node: Node, latencies: Latencies) -> None:
    """Tell a node built on :class:`~emulator.nodebase.NodeBase` that it runs in windows."""
    if isinstance(node, NodeBase):
        node.use_latencies(latencies)


def run_grant(node: Node, board: HistoryBoard, grant: Grant, floor_ns: int) -> Reply:
    """Carry out ``grant`` and return what comes of it.

    ``board`` is the node's own and keeps fresh publications; no read before ``floor_ns`` follows.
    """
    board.floor_ns = max(board.floor_ns, floor_ns)
    for publisher, publications in grant.views:
        board.absorb(publisher, publications)
    outbox = _advance(node, grant)
    return Reply(node.promise(), outbox, board.take_fresh())


def run_local(node: Node, core: Windows, grant: Grant) -> None:
    """Carry out ``grant`` for a node that shares the coordinator's board, and reply to ``core``."""
    published = core.board.count(node.node_id)
    outbox = _advance(node, grant)
    if core.board.count(node.node_id) != published:
        core.noted(node.node_id)
    core.reply(node.node_id, node.promise(), outbox, [])


def finish(node: Node, board: HistoryBoard, grant: Grant) -> None:
    """Hand a node its last messages and let its clock reach the end; nothing may come of it."""
    for publisher, publications in grant.views:
        board.absorb(publisher, publications)
    outbox = _advance(node, grant)
    assert not outbox, f"node {node.node_id} sends at the end of time: {outbox}"


def take_state(node: Node, board: HistoryBoard | None) -> bytes:
    """Return all that a successor of this node needs, between two grants.

    ``board`` is the node's own; None if it shares the coordinator's, which keeps that.
    """
    own = None if board is None else board.pack()
    return wire.pack([node.snapshot(), own, node.ring_position()])


def take_over(node: Node, board: HistoryBoard | None, state: bytes) -> None:
    """Make a newly built node what :func:`take_state` saw, and its ring what it was then.

    The node was built with a muted board; what its predecessor wrote since, it will write again.
    """
    own: list[Any]
    snapshot, own, position = wire.unpack(state)
    node.restore(snapshot)
    node.take_ring_back(position)
    if board is not None:
        board.unpack(own)


def _advance(node: Node, grant: Grant) -> list[Message]:
    node.mail_safe_ns = grant.mail_safe_ns
    node.asleep = grant.asleep
    for message in grant.messages:
        node.deliver(message)
    node.advance(grant.bound_ns, grant.horizon_ns)
    outbox = list(node.outbox)
    node.outbox.clear()
    return outbox
