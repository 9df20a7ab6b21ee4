"""How soon one node can make itself felt at another: the lookahead that promises stand on.

Theory of operation
-------------------
A message from class *s* to class *t* takes effect at least ``direct[s][t]`` after it was sent.  The
receiver may send in the instant of the effect, so a node can reach a class it does not write to
directly: a CPU acts on another through the balancer, a device through a CPU.  ``relay[t][c]`` is
the least time from an effect at some node of class ``t`` until an effect at some node of class
``c`` that follows from it (0 for ``t == c``: the effect itself), the shortest path of all.

One exchange takes no time at all: the balancer's DETACH is answered within the instant
(:data:`ANSWERED_AT_ONCE`), so that what is detached fits what was decided.
"""

from __future__ import annotations

from emulator.messages import DETACH
from emulator.types import CLASSES, TO_BALANCER, TO_CPU, TO_DEVICE, Latencies

#: Ops whose receiver answers the balancer within the instant of their effect.
ANSWERED_AT_ONCE = frozenset({DETACH})

#: The node id of the coordinator itself: source of commands, target of their answers.
COORDINATOR = -1

Matrix = list[list[int]]


def class_of(node_id: int, nr_cpus: int) -> int:
    """Return the class of a node: CPUs come first, then the balancer, then the devices."""
    if node_id < nr_cpus:
        return TO_CPU
    return TO_BALANCER if node_id == nr_cpus else TO_DEVICE


class Lookahead:
    """The least times derived from a box's :class:`Latencies`."""

    __slots__ = ("direct", "onward", "relay", "reply")

    def __init__(self, latencies: Latencies) -> None:
        self.direct = _direct(latencies)
        self.relay = _relay(self.direct)
        #: onward[s][t][c]: from a send by class s to class t until an effect at class c.
        self.onward = [
            [
                [self.direct[source][target] + self.relay[target][c] for c in range(CLASSES)]
                for target in range(CLASSES)
            ]
            for source in range(CLASSES)
        ]
        #: reply[s][t]: from the effect at t of a message from s until something can come back.
        self.reply = [
            [
                min(self.relay[target][c] + self.direct[c][source] for c in range(CLASSES))
                for target in range(CLASSES)
            ]
            for source in range(CLASSES)
        ]


def _direct(latencies: Latencies) -> Matrix:
    direct = [[0] * CLASSES for _ in range(CLASSES)]
    for source in range(CLASSES):
        direct[source][TO_CPU] = latencies.cpu_ns
        direct[source][TO_DEVICE] = latencies.device_ns
        direct[source][TO_BALANCER] = latencies.balancer_ns
    direct[TO_BALANCER][TO_CPU] = latencies.from_balancer_ns
    return direct


def _relay(direct: Matrix) -> Matrix:
    relay = [[0 if s == t else direct[s][t] for t in range(CLASSES)] for s in range(CLASSES)]
    for via in range(CLASSES):
        for source in range(CLASSES):
            for target in range(CLASSES):
                path = relay[source][via] + relay[via][target]
                relay[source][target] = min(relay[source][target], path)
    return relay
