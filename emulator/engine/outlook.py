"""What every node contributes to the bounds of the others, kept per node and compared in one scan.

Theory of operation
-------------------
A node is described by numbers that change only when it replies or is sent something:

* ``low``: the earliest event or message that it has;
* ``arrival[c]``: the earliest time at which something that it does could take effect at a node of
  class ``c``, straight or through others;
* ``mail``: from when on mail could make it send earlier than that.

The bound of node i is the least arrival at its class over all *other* nodes, so what is needed of
each list is the least, where it is, and the least of the rest: four scans in C, whatever changed.

Mail needs no promise of its sender: any node may send mail at its next event.  So a node that mail
would make send counts from ``max(mail, low of the others + coherence)``; those of all such nodes
are one number (:meth:`Outlook.bound`), save that the node with the least low of all sees the next:
what it sends itself limits it where it sends it.
"""

from __future__ import annotations

from emulator.engine.node import CLASSES, TO_BALANCER, TO_CPU, TO_DEVICE, Latencies, Promise
from emulator.latency import Lookahead, class_of
from emulator.types import NEVER

#: Two least times where there are none.
_NONE = (NEVER, 0, NEVER, 0)


class Outlook:
    """The numbers of all nodes, and the bounds that follow from them."""

    __slots__ = (
        "_arrival",
        "_balancer",
        "_coherence_ns",
        "_least",
        "_least_arrival",
        "_low_at",
        "_mail",
        "_mail_least",
        "_mail_low_ns",
        "_mail_onward",
        "_next_low_ns",
        "_onward",
        "_view_ns",
        "classes",
        "low",
        "low_ns",
    )

    def __init__(self, nr_cpus: int, nr_nodes: int, latencies: Latencies) -> None:
        # Only the balancer may act in the instant; the least event of all can always go on then.
        least = (latencies.cpu_ns, latencies.device_ns, latencies.balancer_ns)
        assert min(*least, latencies.coherence_ns) > 0, latencies
        self._balancer = nr_cpus
        self._coherence_ns = latencies.coherence_ns
        self._onward = Lookahead(latencies).onward
        # _least[s][c]: from a send by class s, to whomever, until an effect at class c.
        self._least = [
            [min(by_class[c] for by_class in onward) for c in range(CLASSES)]
            for onward in self._onward
        ]
        # The same for what mail makes a node do; [1] where the balancer is such a node.
        cpu, device, balancer = (self._least[s] for s in (TO_CPU, TO_DEVICE, TO_BALANCER))
        others = [min(pair) for pair in zip(cpu, device, strict=True)]
        self._mail_onward = (others, [min(p) for p in zip(others, balancer, strict=True)])
        self.classes = [class_of(node, nr_cpus) for node in range(nr_nodes)]
        self._view_ns = [1 if c == TO_BALANCER else latencies.coherence_ns for c in self.classes]
        self.low = [NEVER] * nr_nodes
        self._arrival = [[NEVER] * nr_nodes for _ in range(CLASSES)]
        self._mail = [NEVER] * nr_nodes
        # Of the last compare().
        self.low_ns = 0  #: the least low of all
        self._low_at = self._next_low_ns = 0
        self._mail_low_ns = NEVER
        self._mail_least = _NONE
        self._least_arrival = [_NONE] * CLASSES

    def set(self, node: int, promise: Promise, first_ns: int, low_ns: int) -> None:
        """Describe ``node``: it may send by its promise, or in answer to something at ``first_ns``.

        ``low_ns`` is the earliest thing that it has to do.
        """
        self.low[node] = low_ns
        send = promise.send_ns
        # Mail that makes it send only when it may send anyway makes no difference.
        counts = promise.mail_sends and promise.mail_ns < max(send)
        self._mail[node] = promise.mail_ns if counts else NEVER
        least = self._least[self.classes[node]]
        onward = self._onward[self.classes[node]]
        cpu_ns, device_ns, balancer_ns = send
        for c, times in enumerate(self._arrival):
            times[node] = min(
                first_ns + least[c],
                cpu_ns + onward[TO_CPU][c],
                device_ns + onward[TO_DEVICE][c],
                balancer_ns + onward[TO_BALANCER][c],
                NEVER,
            )

    def compare(self) -> None:
        """Find the least of everything; :meth:`bound` and :meth:`horizon` stand on it."""
        self.low_ns, self._low_at, self._next_low_ns, _ = two_least(self.low)
        self._least_arrival = [two_least(times) for times in self._arrival]
        mail = self._mail
        if min(mail) >= NEVER:
            self._mail_low_ns, self._mail_least = NEVER, _NONE
            return
        self._mail_low_ns, mail[self._low_at] = mail[self._low_at], NEVER
        self._mail_least = two_least(mail)
        mail[self._low_at] = self._mail_low_ns

    def bound(self, node: int) -> tuple[int, int]:
        """Return how far ``node`` may go, and the node that limits it (-1: mail does)."""
        kind = self.classes[node]
        bound, limiter, other, other_at = self._least_arrival[kind]
        if limiter == node:
            bound, limiter = other, other_at
        mail_ns = self._mail_comes_ns(node)
        if mail_ns < bound:
            mail_ns += self._mail_onward[self._mail[self._balancer] < NEVER][kind]
            if mail_ns < bound:
                return mail_ns, -1
        return bound, limiter

    def horizon(self, node: int) -> int:
        """Return the time before which ``node`` may read."""
        others = self._next_low_ns if self._low_at == node else self.low_ns
        return min(others + self._view_ns[node], NEVER)

    def mail_safe_ns(self, node: int) -> int:
        """Return from when on mail could make some other node send."""
        if min(self._mail) >= NEVER:
            return NEVER
        least, where, second, _ = two_least(self._mail)
        return second if where == node else least

    def arrivals(self, node: int) -> list[int]:
        """Return a node's arrivals by class, for error texts."""
        return [times[node] for times in self._arrival]

    def _mail_comes_ns(self, node: int) -> int:
        # When mail that is still to be sent could make some node other than this one send.
        least, where, second, _ = self._mail_least
        mail_ns = second if where == node else least
        low_ns = self._next_low_ns if self._low_at == node else self.low_ns
        comes = max(mail_ns, low_ns + self._coherence_ns) if mail_ns < NEVER else NEVER
        if self._mail_low_ns < NEVER and self._low_at != node:
            comes = min(comes, max(self._mail_low_ns, self._next_low_ns + self._coherence_ns))
        return comes


def two_least(times: list[int]) -> tuple[int, int, int, int]:
    """Return the least of a list and where it is, and the same of the rest."""
    first = min(times)
    where = times.index(first)
    times[where] = NEVER + 1
    second = min(times)
    second_where = times.index(second)
    times[where] = first
    return first, where, min(second, NEVER), second_where
