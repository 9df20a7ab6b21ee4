"""A node in its seat: what happens between a grant and the reply to it, wherever the node lives.

The same few lines serve an agent process, the balancer in the coordinator, and the tests' box that
runs windows in one process.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def _advance(node: Node, grant: Grant) -> list[Message]:
    node.mail_safe_ns = grant.mail_safe_ns
    node.asleep = grant.asleep
    for message in grant.messages:
        node.deliver(message)
    node.advance(grant.bound_ns, grant.horizon_ns)
    outbox = list(node.outbox)
    node.outbox.clear()
    return outbox
