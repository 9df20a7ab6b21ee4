"""What nodes publish about themselves: a short history per node, read as of an instant.

Theory of operation
-------------------
Each node appends facts, stamped with the time from which they hold; a reader asks for the newest
facts at or before an instant.  Readers lag behind publishers by less than one grant, so a history
of a few entries per node is enough: :meth:`HistoryBoard.prune` forgets what no reader can still
ask for, which is everything older than the newest facts at the engine's floor.

What is published while the nodes are being built holds "since ever" (:data:`BOOT_NS`).  Otherwise
a read in the first instants would find nothing, or race with the events of time 0.

Facts that repeat the node's last ones tell nobody anything and are dropped where they are made.

In one process all nodes share one board.  Between processes each agent has its own: its node's
publications leave through :meth:`HistoryBoard.take_fresh`, those of the others come in through
:meth:`HistoryBoard.absorb`, and the coordinator's :class:`ViewFeed` knows what each reader lacks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import Any

from emulator.types import NEVER

#: Stamp of what holds since before the first event.
BOOT_NS = -NEVER

#: Entries of one node after which a publication looks for something to forget.
HISTORY_SOFT_MAX = 64

Facts = tuple[int, ...]
#: (time_ns, facts), as one node published them.
Publication = tuple[int, Facts]
#: (node, its publications), as a reader is told of them.
View = tuple[int, list[Publication]]


class HistoryBoard:
    """The :class:`~emulator.engine.node.Board` of one process, with bounded history per node."""

    __slots__ = ("_base", "_facts", "_fresh", "_times", "floor_ns", "muted", "started")

    def __init__(self, nr_nodes: int, *, keep_fresh: bool = False) -> None:
        """Make an empty board; ``keep_fresh`` collects publications for :meth:`take_fresh`."""
        self._times: list[list[int]] = [[] for _ in range(nr_nodes)]
        self._facts: list[list[Facts]] = [[] for _ in range(nr_nodes)]
        # How many entries of each node have been forgotten: entry k of all is at k - base.
        self._base = [0] * nr_nodes
        self._fresh: list[Publication] | None = [] if keep_fresh else None
        self.floor_ns = BOOT_NS  #: no reader will ask for an earlier instant
        self.started = False  #: set by the engine when all nodes are built
        #: Publications are dropped: a node is being built to be restored from a snapshot, as the
        #: successor of one that has run; a builder opens its ring accordingly.
        self.muted = False

    def publish(self, node: int, time_ns: int, facts: Facts) -> None:
        """Append facts of ``node`` that hold from ``time_ns`` on (times of one node never fall)."""
        known = self._facts[node]
        if self.muted or (known and known[-1] == facts):
            return
        if not self.started:
            time_ns = BOOT_NS
        self._make_room(node, time_ns)
        self._times[node].append(time_ns)
        known.append(facts)
        if self._fresh is not None:
            self._fresh.append((time_ns, facts))

    def read(self, node: int, as_of_ns: int) -> Facts:
        """Return the newest facts of ``node`` published at or before ``as_of_ns``, () if none."""
        times = self._times[node]
        if not times:
            return ()
        if times[-1] <= as_of_ns:
            return self._facts[node][-1]
        position = bisect_right(times, as_of_ns) - 1
        if position >= 0:
            return self._facts[node][position]
        assert not self._base[node], f"read of node {node} at {as_of_ns}: already forgotten"
        return ()

    def prune(self, node: int, before_ns: int) -> None:
        """Forget the facts of ``node`` that were no longer the newest at ``before_ns``."""
        drop = bisect_right(self._times[node], before_ns) - 1
        if drop > 0:
            del self._times[node][:drop]
            del self._facts[node][:drop]
            self._base[node] += drop

    def take_fresh(self) -> list[Publication]:
        """Return what was published here since the last call, oldest first."""
        fresh = self._fresh
        assert fresh is not None, "this board does not collect publications"
        if fresh:
            self._fresh = []
        return fresh

    def absorb(self, node: int, publications: list[Publication]) -> None:
        """Append what ``node`` published elsewhere, oldest first."""
        self._make_room(node, publications[0][0])
        times, known = self._times[node], self._facts[node]
        for time_ns, facts in publications:
            times.append(time_ns)
            known.append(facts)

    def pack(self) -> list[Any]:
        """Return the whole board as plain data; nothing on it may still be fresh."""
        assert not self._fresh, self._fresh
        facts = [[list(entry) for entry in known] for known in self._facts]
        return [self._times, facts, self._base, self.floor_ns]

    def unpack(self, data: list[Any]) -> None:
        """Make this board what :meth:`pack` saw."""
        self._times, facts, self._base, self.floor_ns = data
        self._facts = [[tuple(entry) for entry in known] for known in facts]

    def count(self, node: int) -> int:
        """Return how many publications of ``node`` there have been."""
        return self._base[node] + len(self._times[node])

    def since(self, node: int, index: int, need_ns: int) -> list[Publication]:
        """Return publications of ``node`` from number ``index`` on.

        Those that were superseded by ``need_ns``, before which the reader will not look, are left
        out.
        """
        times = self._times[node]
        first = max(index - self._base[node], bisect_right(times, need_ns) - 1, 0)
        return list(zip(times[first:], self._facts[node][first:], strict=True))

    def _make_room(self, node: int, time_ns: int) -> None:
        # Before facts that hold from ``time_ns`` on are appended.
        times = self._times[node]
        if times:
            assert times[-1] <= time_ns, f"node {node} publishes at {time_ns} after {times[-1]}"
            if len(times) >= HISTORY_SOFT_MAX and times[1] <= self.floor_ns:
                self.prune(node, self.floor_ns)


class ViewFeed:
    """Which publications each remote reader has not been told of yet.

    The cost of :meth:`views_for` is that of what changed since the reader's last call, not of the
    number of nodes: publishers are kept in the order of their last publication.
    """

    __slots__ = ("_board", "_changed", "_seen", "_told", "_turn")

    def __init__(self, board: HistoryBoard, nr_nodes: int) -> None:
        self._board = board
        self._turn = 0
        # Publisher -> turn of its last publication, most recent last.
        self._changed: OrderedDict[int, int] = OrderedDict()
        self._seen = [0] * nr_nodes  # per reader: the turn up to which it is told
        self._told = [[0] * nr_nodes for _ in range(nr_nodes)]  # per reader and publisher: count

    def pack(self) -> list[Any]:
        """Return what the readers have been told as plain data."""
        return [self._turn, [list(pair) for pair in self._changed.items()], self._seen, self._told]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned; the board is what it was then."""
        self._turn, changed, self._seen, self._told = data
        self._changed = OrderedDict((publisher, turn) for publisher, turn in changed)

    def note(self, node: int) -> None:
        """Remember that ``node`` has published."""
        self._turn += 1
        self._changed[node] = self._turn
        self._changed.move_to_end(node)

    def views_for(self, reader: int, need_ns: int) -> list[View]:
        """Return what ``reader`` has not been told and may read at or after ``need_ns``."""
        seen, told, board = self._seen[reader], self._told[reader], self._board
        views: list[View] = []
        for node in reversed(self._changed):
            if self._changed[node] <= seen:
                break
            if node != reader and (fresh := board.since(node, told[node], need_ns)):
                views.append((node, fresh))
                told[node] = board.count(node)
        self._seen[reader] = self._turn
        return views
