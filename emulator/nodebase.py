"""What every node needs: an inbox, mail, a sequence counter, and limits that its sends lower.

Theory of operation
-------------------
A concrete node says when its next own event is and handles events and messages; this base keeps
the order (message before own event; messages by stamp, source, sequence) and the two limits of
:mod:`emulator.engine.node`.  A node with a hot loop of its own overrides :meth:`NodeBase.advance`
and keeps the same rules:

* process while ``time < self.limit_ns``, looked up anew after every event, since a send lowers it;
* an event that reads, and any event while mail matters, only if ``time < self.horizon_ns``; else
  set ``wants_view`` and stop;
* mail (passive messages) is taken, all that is stamped ``<= now``, by events that read, and at its
  stamp, like any message, while :meth:`NodeBase.mail_matters`.

``reply_ns`` is how soon an effect elsewhere may come back, per class of target.  It is 0 in the
inline engine, where a node simply stops at the effect of what it sent.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from emulator.latency import ANSWERED_AT_ONCE, COORDINATOR, Lookahead, class_of
from emulator.messages import PASSIVE_OPS_END
from emulator.types import CLASSES, TO_BALANCER, Latencies, Message, Promise, TraceSink


class NodeBase:
    """Inbox, outbox and limits of one node."""

    __slots__ = (
        "asleep",
        "clock_ns",
        "horizon_ns",
        "inbox",
        "limit_ns",
        "mail",
        "mail_safe_ns",
        "node_id",
        "nr_cpus",
        "outbox",
        "reached_ns",
        "read_ns",
        "reply_ns",
        "seq",
        "sink",
        "view_ns",
        "wants_view",
    )

    def __init__(self, node_id: int, nr_cpus: int) -> None:
        self.node_id = node_id
        self.nr_cpus = nr_cpus
        self.inbox: list[Message] = []  #: heap of active messages
        self.mail: list[Message] = []  #: heap of passive messages
        self.outbox: list[Message] = []
        self.seq = 0
        self.limit_ns = 0
        self.horizon_ns = 0
        self.asleep = 0  #: mask of CPUs that do nothing until a message comes
        self.mail_safe_ns = 0  #: mail sent takes effect on what others send at this or later
        self.clock_ns = -1  #: time of the last event processed
        self.read_ns = -1  #: time of the last event that read
        self.reached_ns = 0  #: every event earlier than this is processed
        self.wants_view = False
        self.reply_ns = [0] * CLASSES
        self.view_ns = 0  #: from an effect elsewhere until it can be read here
        self.sink: TraceSink | None = None  #: its ring; None: what it does others record

    # -- what a concrete node says about itself --------------------------------------------------

    def own_next_ns(self) -> int:
        """Return the time of the earliest own event, or NEVER."""
        raise NotImplementedError

    def fire(self, now_ns: int) -> None:
        """Process the earliest own event, which is due at ``now_ns``."""
        raise NotImplementedError

    def handle(self, message: Message) -> None:
        """Process one message (or one piece of mail) at its time."""
        raise NotImplementedError

    def reads(self, message: Message | None) -> bool:
        """Return whether handling ``message`` (None: the earliest own event) reads the board.

        The balancer always does, as far as the engine is concerned.
        """
        return self.node_id == self.nr_cpus

    def mail_matters(self) -> bool:
        """Return whether a piece of mail would change what this node does when it arrives."""
        return False

    def promise(self) -> Promise:
        """Return what this node promises; here the least that is always right."""
        soonest = self.next_event_ns()
        mail = self.reached_ns if self.mail_matters() else soonest
        return Promise(self.reached_ns, soonest, [soonest] * CLASSES, mail, self.wants_view)

    # -- the protocol ----------------------------------------------------------------------------

    def use_latencies(self, latencies: Latencies) -> None:
        """Run in windows from now on: sends limit this node by when they can be answered."""
        own = class_of(self.node_id, self.nr_cpus)
        self.reply_ns = Lookahead(latencies).reply[own]
        # The balancer reads at zero age: an effect at t is seen by its event at t + 1.
        self.view_ns = 1 if own == TO_BALANCER else latencies.coherence_ns

    def next_event_ns(self) -> int:
        """Return the time of the earliest own event or message that counts, or NEVER."""
        soonest = self.own_next_ns()
        if self.inbox and self.inbox[0][0] < soonest:
            soonest = self.inbox[0][0]
        if self.mail and self.mail[0][0] < soonest and self.mail_matters():
            soonest = max(self.mail[0][0], self.clock_ns)
        return soonest

    def deliver(self, message: Message) -> None:
        """Put a message into the inbox.  Its stamp is not before the time reached (asserted)."""
        if message[4] < PASSIVE_OPS_END:
            assert message[0] > self.read_ns, f"late mail {message}, read at {self.read_ns}"
            heappush(self.mail, message)
        else:
            assert message[0] >= self.reached_ns, f"late {message}, reached {self.reached_ns}"
            heappush(self.inbox, message)

    def send(self, target: int, op: int, args: tuple[Any, ...], effect_ns: int) -> None:
        """Hand out a message that takes effect at ``effect_ns``, and lower the own limits by it."""
        assert effect_ns >= self.clock_ns, (effect_ns, self.clock_ns)
        self.seq += 1
        self.outbox.append((effect_ns, self.node_id, self.seq, target, op, args))
        if target == COORDINATOR:
            return
        if op < PASSIVE_OPS_END:
            effect_ns = max(effect_ns, self.mail_safe_ns)
        limit = effect_ns
        if op not in ANSWERED_AT_ONCE:
            limit += self.reply_ns[class_of(target, self.nr_cpus)]
        self.limit_ns = min(self.limit_ns, limit)
        self.horizon_ns = min(self.horizon_ns, effect_ns + self.view_ns)

    def advance(self, bound_ns: int, horizon_ns: int) -> None:
        """Process every event < ``bound_ns``, stopping before a read at or after ``horizon_ns``."""
        self.limit_ns = bound_ns
        self.horizon_ns = horizon_ns
        self.wants_view = False
        while (when := self.next_event_ns()) < self.limit_ns and self._step(when):
            pass
        stop = min(when, self.limit_ns)
        if self.mail_matters() and self.horizon_ns < stop:
            # Mail that is still to come may be due before what this node knows of.
            self.wants_view, stop = True, self.horizon_ns
        elif when < self.limit_ns:
            self.wants_view = True
        else:
            stop = self.limit_ns
        self.reached_ns = max(self.reached_ns, self.clock_ns, stop)

    def ring_position(self) -> int:
        """Return how many records the node has written."""
        return 0 if self.sink is None else self.sink.position

    def take_ring_back(self, position: int) -> None:
        """Make the ring what it was when it held ``position`` records."""
        if self.sink is not None:
            self.sink.truncate_to(position)

    def take_mail(self, now_ns: int) -> None:
        """Handle all mail stamped at or before ``now_ns``: an event that reads looks at it."""
        while self.mail and self.mail[0][0] <= now_ns:
            self.handle(heappop(self.mail))

    # -- helpers ---------------------------------------------------------------------------------

    def _step(self, when: int) -> bool:
        # Processes one event or message; False: it reads, and the horizon is too near.
        matters = self.mail_matters()
        message = self.inbox[0] if self.inbox and self.inbox[0][0] == when else None
        if matters or self.reads(message):
            if when >= self.horizon_ns:
                return False
            self.read_ns = when
            if self.mail and self.mail[0][0] <= when:
                self.clock_ns = when
                # Whatever mail changed, what comes next is looked up anew.
                self.take_mail(when)
                return True
        assert when >= self.clock_ns, f"node {self.node_id}: time runs backwards to {when}"
        self.clock_ns = when
        if message is not None:
            heappop(self.inbox)
            self.handle(message)
        else:
            self.fire(when)
        return True
