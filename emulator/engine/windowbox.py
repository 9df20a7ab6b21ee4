"""Windows in one process: the coordinator's protocol with nodes that reply in any chosen order.

Theory of operation
-------------------
What :mod:`emulator.agents.coordinator` does over sockets happens here by function calls.  A granted
node does its work when its reply is asked for, and ``pick`` chooses whose reply that is, so that a
test can play every order in which real processes could answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emulator.engine.board import BOOT_NS, HistoryBoard
from emulator.engine.node import Latencies, Node
from emulator.engine.seat import finish, run_grant, run_local, settle_in
from emulator.engine.windows import Grant, Windows

#: Chooses one of so many outstanding grants.
Pick = Callable[[int], int]


class WindowBox:
    """All nodes of a box, each with a board of its own, driven by grants.

    ``boards`` has one board per node; that of the balancer is the coordinator's.
    """

    __slots__ = ("_balancer", "_boards", "_nodes", "_open", "_pick", "core")

    def __init__(
        self,
        nodes: Sequence[Node],
        nr_cpus: int,
        boards: Sequence[HistoryBoard],
        latencies: Latencies,
        until_ns: int,
        pick: Pick,
    ) -> None:
        self._nodes, self._boards, self._pick, self._balancer = nodes, boards, pick, nr_cpus
        self._open: list[Grant] = []
        self.core = Windows(nr_cpus, len(nodes), latencies, until_ns, boards[nr_cpus])
        self.core.local.add(nr_cpus)
        for node, board in zip(nodes, boards, strict=True):
            settle_in(node, latencies)
            board.started = True
        for node_id, node in enumerate(nodes):
            fresh = [] if node_id == nr_cpus else boards[node_id].take_fresh()
            assert all(time_ns == BOOT_NS for time_ns, _ in fresh)
            self.core.hello(node_id, node.promise(), fresh)
        self.core.noted(nr_cpus)

    def run(self) -> None:
        """Run to the end."""
        self.run_to(self.core.until_ns)
        for node_id, node in enumerate(self._nodes):
            finish(node, self._boards[node_id], self.core.leftovers(node_id))

    def run_to(self, limit_ns: int) -> None:
        """Run until every event before ``limit_ns`` is over, and stand still there."""
        self.core.limit_ns = limit_ns
        while True:
            granted = self.core.grants()
            self._open += granted
            if self._open:
                self._answer(self._open.pop(self._pick(len(self._open))))
            elif self.core.at_rest():
                return

    def _answer(self, grant: Grant) -> None:
        node = self._nodes[grant.node]
        if grant.node == self._balancer:
            run_local(node, self.core, grant)
        else:
            reply = run_grant(node, self._boards[grant.node], grant, self.core.read_floor_ns())
            self.core.reply(grant.node, reply.promise, reply.outbox, reply.publications)
