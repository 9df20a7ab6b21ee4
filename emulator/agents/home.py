"""The nodes that live in the coordinator's process: the balancer, and those whose process was killed.

Such a node is the same that an agent has; it is granted windows as all others are, and runs at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from emulator.agents import frames
from emulator.engine.board import HistoryBoard
from emulator.engine.node import Node
from emulator.engine.plan import Plan
from emulator.engine.seat import finish, run_local, settle_in, take_over, take_state
from emulator.engine.windows import Grant, Windows


class Home:
    """The nodes of this process."""

    __slots__ = ("_board", "_core", "_nodes", "_plan")

    def __init__(self, plan: Plan, core: Windows, board: HistoryBoard) -> None:
        self._plan, self._core, self._board = plan, core, board
        self._nodes: dict[int, Node] = {}

    def __contains__(self, node_id: int) -> bool:
        return node_id in self._nodes

    def __iter__(self) -> Iterator[int]:
        return iter(self._nodes)

    def begin(self, node_id: int) -> None:
        """Build a node of a run that begins."""
        node = self._plan.build(node_id, self._board)
        settle_in(node, self._plan.latencies)
        self._take_in(node_id, node)
        self._core.hello(node_id, node.promise(), [])
        self._core.noted(node_id)

    def seat(self, node_id: int, state: bytes) -> None:
        """Make a node of a run that is under way one that lives here."""
        self._board.muted = True
        node = self._plan.build(node_id, self._board)
        self._board.muted = False
        take_over(node, None, state)
        settle_in(node, self._plan.latencies)
        self._take_in(node_id, node)

    def run(self, grant: Grant) -> None:
        """Let a node run as far as it is granted."""
        self._open(grant)
        run_local(self._nodes[grant.node], self._core, grant)

    def finish(self, grant: Grant) -> dict[str, Any]:
        """Give a node what is left for it at the end of the run, and return its books."""
        node = self._nodes[grant.node]
        self._open(grant)
        finish(node, self._board, grant)
        return node.books()

    def states(self) -> dict[int, bytes]:
        """Return the states of all nodes here, while the box stands still."""
        return {node_id: take_state(node, None) for node_id, node in self._nodes.items()}

    def _take_in(self, node_id: int, node: Node) -> None:
        self._nodes[node_id] = node
        self._core.local.add(node_id)

    def _open(self, grant: Grant) -> None:
        # The balancer only passes tasks on; a node that has come here opens them.
        if grant.node != self._plan.nr_cpus:
            grant.messages = [frames.opened(message) for message in grant.messages]
