"""Who may run how far: the coordinator's protocol of promises and grants, without any I/O.

Theory of operation
-------------------
Nodes run apart from each other (in processes, or in any order at all), one grant and one reply in
flight per node.  :class:`Windows` keeps for every node what it last promised and which messages
wait for it, and answers one question: who may be granted what now?

*bound(i)*: the earliest time at which a message that does not exist yet could take effect at node
i.  Each other node j can send to class t no earlier than its promise, and not before the first
message that it has not answered for yet; from there :class:`~emulator.latency.Lookahead`
gives the least time until an effect at i's class, also through third nodes.  A node whose promise
says that mail would make it send counts from the first mail that may come.

*horizon(i)*: the least next event of the others plus the coherence latency (plus 1 for the
balancer, which reads at zero age): all publications and mail stamped earlier have been delivered.

A node is granted if it has an event or message below its bound and, where that event reads, below
its horizon.  The node with the least event of all always has, since all latencies are positive;
where two are tied, one is the balancer, and it is first.  So either somebody runs, or all are done,
or it is a bug (:class:`StuckError`).  A node that holds the balancer's DETACH is granted that
instant whatever the balancer promised: the balancer waits for the answer.

What one reply changes is recomputed, no more: :class:`~emulator.engine.outlook.Outlook` keeps each
node's contribution.

A bound is at most :data:`SPAN_NS` beyond the least next event, so that commands given while the box
runs, which are stamped after every grant given, come soon.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from heapq import heappush
from typing import Any

from emulator import messages
from emulator.engine.board import BOOT_NS, HistoryBoard, Publication, View, ViewFeed
from emulator.engine.conservation import Ledger
from emulator.engine.node import TO_BALANCER, Latencies, Promise
from emulator.engine.outlook import Outlook
from emulator.latency import ANSWERED_AT_ONCE, COORDINATOR
from emulator.messages import message_from_list
from emulator.types import NEVER, NSEC_PER_MSEC, Message

#: How far a bound may lie beyond the least next event of all nodes.
SPAN_NS = 20 * NSEC_PER_MSEC

#: A window shorter than this is not worth an exchange while the node that limits it still runs.
PATIENCE_NS = 20_000

#: Replies between two rounds of pruning the coordinator's board.
PRUNE_EVERY = 512


class StuckError(AssertionError):
    """No node can be granted although events remain."""


@dataclass(slots=True)
class Grant:
    """What a node is woken with, in one frame."""

    node: int
    bound_ns: int
    horizon_ns: int
    mail_safe_ns: int
    asleep: int  #: mask of CPUs that do nothing until a message comes
    messages: list[Message]
    views: list[View]


class Windows:
    """The coordinator's knowledge of all nodes, from which grants follow."""

    __slots__ = (
        "_asleep",
        "_awake",
        "_coherence_ns",
        "_cpu_bit",
        "_feed",
        "_held",
        "_held_mail",
        "_outlook",
        "_promise",
        "_replies",
        "_running",
        "_urgent",
        "_urgent_running",
        "answers",
        "board",
        "granted_ns",
        "ledger",
        "limit_ns",
        "local",
        "messages",
        "patience_ns",
        "span_ns",
        "turns",
        "until_ns",
        "windows",
    )

    def __init__(
        self, nr_cpus: int, nr_nodes: int, latencies: Latencies, until_ns: int, board: HistoryBoard
    ) -> None:
        self.until_ns, self.board = until_ns, board
        #: Nobody runs beyond it for now: ``until_ns``, or where the box is to stand still before.
        self.limit_ns = until_ns
        self.span_ns, self.patience_ns = SPAN_NS, PATIENCE_NS
        self.windows = 0  #: grants to nodes that are elsewhere: what costs an exchange
        self.turns = 0  #: grants to nodes that are here
        self.messages = 0
        self.granted_ns = 0  #: the greatest bound given so far
        self.answers: list[Message] = []  #: what nodes told the coordinator
        self.ledger = Ledger()
        self.local: set[int] = set()  #: nodes that read the coordinator's board itself
        self._coherence_ns = latencies.coherence_ns
        self._outlook = Outlook(nr_cpus, nr_nodes, latencies)
        self._promise = [Promise() for _ in range(nr_nodes)]
        self._held: list[list[Message]] = [[] for _ in range(nr_nodes)]  # heaps, active
        self._held_mail: list[list[Message]] = [[] for _ in range(nr_nodes)]
        self._running: list[bool] = [False] * nr_nodes
        self._awake: set[int] = set()  # not running, with an event or message
        #: Mask of CPUs that do nothing until a message comes: not running, without message, and
        #: without an event that others would feel.
        self._asleep = 0
        self._cpu_bit = [1 << node if node < nr_cpus else 0 for node in range(nr_nodes)]
        self._urgent = -1  # the node that owes the balancer an answer within the instant
        self._urgent_running = False
        self._replies = 0
        self._feed = ViewFeed(board, nr_nodes)

    # -- what comes in ---------------------------------------------------------------------------

    def hello(self, node: int, promise: Promise, publications: list[Publication]) -> None:
        """Take over what a node said about itself before the first event."""
        self._publish(node, [(BOOT_NS, facts) for _, facts in publications])
        self._promise[node] = promise
        self._refresh(node)

    def reply(
        self,
        node: int,
        promise: Promise,
        outbox: list[Message],
        publications: list[Publication],
    ) -> None:
        """Take over what a node did with its grant."""
        assert self._running[node], f"node {node} replies without a grant"
        self._running[node] = self._urgent_running = False
        self._promise[node] = promise
        self._publish(node, publications)
        self._refresh(node)
        for message in outbox:
            assert message[1] == node, message
            self._route(message)
        self._replies += 1
        if self._replies % PRUNE_EVERY == 0:
            self._prune()

    def noted(self, node: int) -> None:
        """Note that ``node``, which shares the coordinator's board, has published on it."""
        self._feed.note(node)

    def post(self, message: Message) -> None:
        """Give a node a message from outside: a command, stamped by :meth:`stamp_ns` or known."""
        assert message[1] == COORDINATOR, message
        self._hold(message)

    def stamp_ns(self) -> int:
        """Return a time that lies after every grant given."""
        return max(self.granted_ns, self.floor_ns()) + 1

    # -- what follows ----------------------------------------------------------------------------

    def grants(self) -> list[Grant]:
        """Return the grants that can be given now; their nodes count as running."""
        if self._urgent >= 0:
            urgent, self._urgent = self._urgent, -1
            return [self._grant_instant(urgent)]
        if self._urgent_running or not self._awake:
            return []
        outlook = self._outlook
        outlook.compare()
        if outlook.low_ns >= self.limit_ns:
            return []
        cap = min(outlook.low_ns + self.span_ns, self.limit_ns)
        found: list[tuple[int, int, int]] = []
        for node in self._awake:
            bound, limiter = outlook.bound(node)
            if bound > cap:
                bound, limiter = cap, -1
            if outlook.low[node] < bound:
                horizon = outlook.horizon(node)
                if self._worthwhile(node, bound, horizon, limiter):
                    found.append((node, bound, horizon))
        return [self._grant(*item) for item in sorted(found)]

    def at_rest(self) -> bool:
        """Return whether nobody has anything left to do before ``limit_ns``.

        Call it when there is nothing to grant; raises StuckError if nobody runs and events remain.
        """
        if any(self._running):
            return False
        if min(self._outlook.low) < self.limit_ns:
            raise StuckError("nobody can be granted a window:\n" + self.story())
        return True

    def leftovers(self, node: int) -> Grant:
        """Return the last grant of a run: all messages still held, and no events to process."""
        assert not self._running[node]
        return self._hand_out(node, self.until_ns, self.until_ns)

    def floor_ns(self) -> int:
        """Return the time before which nothing is left to do.

        Not beyond ``limit_ns``: where the box stands still, a command may come.
        """
        low = min(self._outlook.low)
        return low if low < self.limit_ns else self.limit_ns

    def soonest_ns(self, nodes: Iterable[int]) -> int:
        """Return the time before which none of some nodes will do anything, or NEVER."""
        outlook = self._outlook
        outlook.compare()
        return min(min(outlook.low[node], outlook.bound(node)[0]) for node in nodes)

    def next_ns(self) -> int:
        """Return the time of the next thing that anybody has to do, ``until_ns`` at most."""
        return min(*self._outlook.low, self.until_ns)

    def read_floor_ns(self) -> int:
        """Return the time of which, or of a later one, every read to come will ask."""
        return self.floor_ns() - self._coherence_ns

    def waiting_for(self) -> list[int]:
        """Return the nodes that have a grant and have not replied yet."""
        return [node for node, running in enumerate(self._running) if running]

    def pack(self) -> list[Any]:
        """Return all that is known of the nodes as plain data, while the box stands still."""
        assert not self.answers
        assert not any(self._running)
        assert self._urgent < 0
        return [
            [
                [
                    p.reached_ns,
                    p.next_ns,
                    p.send_ns,
                    p.mail_ns,
                    p.wants_view,
                    p.mail_sends,
                    p.halted,
                ]
                for p in self._promise
            ],
            [[list(m) for m in held] for held in self._held],
            [[list(m) for m in held] for held in self._held_mail],
            [self.windows, self.turns, self.messages, self.granted_ns, self._replies],
            self.ledger.pack(),
            self.board.pack(),
            self._feed.pack(),
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned, the board included."""
        promises, held, mail, counts, ledger, board, feed = data
        self._promise = [Promise(*items) for items in promises]
        self._held = [[message_from_list(m) for m in box] for box in held]
        self._held_mail = [[message_from_list(m) for m in box] for box in mail]
        self.windows, self.turns, self.messages, self.granted_ns, self._replies = counts
        self.ledger.unpack(ledger)
        self.board.unpack(board)
        self._feed.unpack(feed)
        for node in range(len(self._promise)):
            self._refresh(node)

    def story(self) -> str:
        """Return one line per node: what it promised, what waits for it."""
        lines = []
        for node, promise in enumerate(self._promise):
            arrivals = self._outlook.arrivals(node)
            lines.append(
                f"node {node}: reached {promise.reached_ns} next {promise.next_ns} send "
                f"{promise.send_ns} mail {promise.mail_ns} view {promise.wants_view} low "
                f"{self._outlook.low[node]} arrivals {arrivals} holds {len(self._held[node])}"
                f"+{len(self._held_mail[node])} running {self._running[node]}"
            )
        return "\n".join(lines)

    # -- helpers: one node's contribution --------------------------------------------------------

    def _refresh(self, node: int) -> None:
        # Recomputes what the others must know of this node, from its promise and what it holds.
        promise = self._promise[node]
        held = self._held[node]
        first = held[0][0] if held else NEVER
        low = min(promise.next_ns, first)
        assert low >= promise.reached_ns, (node, low, promise)
        mail_wakes = self._mail_wakes_ns(node)
        low = min(low, mail_wakes)
        self._outlook.set(
            node, promise, min(first, mail_wakes) if promise.mail_sends else first, low
        )
        if self._running[node]:
            return
        if low < NEVER:
            self._awake.add(node)
        else:
            self._awake.discard(node)
        if low >= NEVER or (promise.halted and first >= NEVER and mail_wakes >= NEVER):
            self._asleep |= self._cpu_bit[node]
        else:
            self._asleep &= ~self._cpu_bit[node]

    def _mail_wakes_ns(self, node: int) -> int:
        # When the first piece of mail held for a node makes it do something, or NEVER.
        held, mail_ns = self._held_mail[node], self._promise[node].mail_ns
        return max(held[0][0], mail_ns) if held and mail_ns < NEVER else NEVER

    def _worthwhile(self, node: int, bound: int, horizon: int, limiter: int) -> bool:
        low = self._outlook.low[node]
        promise = self._promise[node]
        reads = self._outlook.classes[node] == TO_BALANCER or promise.mail_ns <= low
        reads = reads or (promise.wants_view and low == promise.next_ns)
        if reads and low >= horizon:
            return False
        # The node that limits this window is running and will allow more.
        hopes = limiter >= 0 and self._running[limiter]
        return not hopes or bound - low >= self.patience_ns

    # -- helpers: messages and grants ------------------------------------------------------------

    def _route(self, message: Message) -> None:
        self.messages += 1
        self.ledger.sent(message)
        if message[3] == COORDINATOR:
            self.answers.append(message)
            return
        self._hold(message)
        if message[4] in ANSWERED_AT_ONCE:
            assert self._urgent < 0, f"two answers owed within one instant: {message}"
            self._urgent = message[3]

    def _hold(self, message: Message) -> None:
        node = message[3]
        passive = message[4] < messages.PASSIVE_OPS_END
        held = (self._held_mail if passive else self._held)[node]
        heappush(held, message)
        # A later message changes nothing, nor does mail that would not make the node do anything.
        if held[0] is message and not (passive and self._promise[node].mail_ns >= NEVER):
            self._refresh(node)

    def _grant_instant(self, node: int) -> Grant:
        # The balancer has stopped at this instant until the answer comes, and all others are at it
        # or beyond: nothing else can reach this node before the instant is over.
        instant = next(m[0] for m in self._held[node] if m[4] in ANSWERED_AT_ONCE)
        assert not self._running[node], self.story()
        assert self._outlook.low[node] == instant, self.story()
        self._urgent_running = True
        self._outlook.compare()
        return self._grant(node, instant + 1, self._outlook.horizon(node))

    def _grant(self, node: int, bound: int, horizon: int) -> Grant:
        if node in self.local:
            self.turns += 1
        else:
            self.windows += 1
        self._running[node] = True
        self._awake.discard(node)
        self._asleep &= ~self._cpu_bit[node]
        if bound > self.granted_ns:
            self.granted_ns = bound
        return self._hand_out(node, bound, horizon)

    def _hand_out(self, node: int, bound: int, horizon: int) -> Grant:
        # The node answers for what it is handed only when it replies: until then the first message
        # counts as if it had not been delivered.
        messages = self._held[node] + self._held_mail[node]
        if messages:
            for message in messages:
                self.ledger.handed_over(message)
            self._assume(node)
            self._held[node] = []
            self._held_mail[node] = []
        need_ns = self._outlook.low[node] - self._coherence_ns
        views = [] if node in self.local else self._feed.views_for(node, need_ns)
        safe_ns = self._outlook.mail_safe_ns(node)
        return Grant(node, bound, horizon, safe_ns, self._asleep, messages, views)

    def _assume(self, node: int) -> None:
        # Lowers a running node's promise to what its messages may make it do.
        promise = self._promise[node]
        first = self._held[node][0][0] if self._held[node] else NEVER
        wakes = min(first, self._mail_wakes_ns(node))
        sends = wakes if promise.mail_sends else first
        self._promise[node] = Promise(
            promise.reached_ns,
            min(promise.next_ns, wakes),
            [min(time, sends) for time in promise.send_ns],
            min(promise.mail_ns, wakes),
            promise.wants_view,
            promise.mail_sends,
            promise.halted,
        )

    def _publish(self, node: int, publications: list[Publication]) -> None:
        if publications:
            self.board.absorb(node, publications)
            self._feed.note(node)

    def _prune(self) -> None:
        self.board.floor_ns = self.read_floor_ns()
