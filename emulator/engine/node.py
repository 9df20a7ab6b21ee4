"""The node protocol: what owns state and emulated time, and how nodes affect each other.

Theory of operation
-------------------
A node is a state machine.  It holds its own future events and an inbox of messages; it is told how
far it may run and runs there, handing out messages, publications and trace records.  It reads no
clock.  Everything a node may learn of another arrives in one of two ways:

* **Messages** change what the receiver does.  A message takes effect at its stamp; a node handles
  all messages stamped ``t`` before its own events at ``t``, in the order (stamp, source, sequence).
* **Publications** are facts about the publisher, each with the time from which it holds.  A reader
  at ``t`` sees what was published up to ``t - coherence`` (its own facts are not read this way).
  The *balancer* reads at zero age: a publication stamped ``t`` was made by the events before ``t``.

*Passive* messages (ops below :data:`PASSIVE_OPS_END`) are mail that a running receiver need not
see before it looks for it: they do not bound its window, they wait in the inbox until the node's
clock passes their stamp **or** an event of the node looks at them.  A node that has a task
sleeping on such mail treats it as active; it says so with :meth:`Node.mail_matters`.

How far a node may run is two numbers.  No message stamped earlier than ``bound`` is still to come
(passive mail excepted): the node may process every event < ``bound``.  Every publication and every
passive message stamped earlier than ``horizon`` has been delivered: an event that *reads* (see
:meth:`Node.reads`) may be processed only at times < ``horizon``; at such an event the node stops
and says so.

While it runs, a node's own messages limit it further, because they may be answered: after an
active message with stamp ``e`` it may not pass ``e + reply_min`` (:data:`REPLY_MIN` rules), nor
read at or after ``e + coherence``.
"""

from __future__ import annotations

from typing import Any, Protocol

from emulator.types import (
    CLASSES,
    TO_BALANCER,
    TO_CPU,
    TO_DEVICE,
    Board,
    Latencies,
    Message,
    Promise,
    TraceSink,
)


class Node(Protocol):
    """One owner of state and time: a CPU, a device, the balancer."""

    node_id: int
    outbox: list[Message]  #: messages handed out since the engine last emptied it
    #: Set before each advance: mail takes effect on what others send at this time or later, so a
    #: node that sends mail with stamp ``e`` may be answered at ``max(e, mail_safe_ns)`` plus reply.
    mail_safe_ns: int
    #: Set before each advance: mask of CPUs that will do nothing until a message reaches them; what
    #: wakes such a CPU is answered later than what reaches a running one.
    asleep: int

    def next_event_ns(self) -> int:
        """Return the time of the earliest own event or undelivered inbox message, or NEVER."""
        ...

    def deliver(self, message: Message) -> None:
        """Put a message into the inbox.  Its stamp is not before the time reached (asserted)."""
        ...

    def advance(self, bound_ns: int, horizon_ns: int) -> None:
        """Process every event < ``bound_ns``, stopping before a read at or after ``horizon_ns``."""
        ...

    def promise(self) -> Promise:
        """Return what this node promises, from its state now."""
        ...

    def snapshot(self) -> list[Any]:
        """Return the whole state as msgpack-able data, exact."""
        ...

    def restore(self, state: list[Any]) -> None:
        """Take over a state that :meth:`snapshot` returned, replacing what was there."""
        ...

    def ring_position(self) -> int:
        """Return how many records the node has written into its ring."""
        ...

    def take_ring_back(self, position: int) -> None:
        """Make the ring what it was when it held ``position`` records."""
        ...

    def books(self) -> dict[str, Any]:
        """Return what this node owns (tasks, IOs, tags) and its counters, for checks and results."""
        ...


__all__ = [
    "CLASSES",
    "TO_BALANCER",
    "TO_CPU",
    "TO_DEVICE",
    "Board",
    "Latencies",
    "Message",
    "Node",
    "Promise",
    "TraceSink",
]
