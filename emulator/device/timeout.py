"""The timer of a queue's requests: ``block/blk-timeout.c``, v5.4 (G.5).

One timer per queue serves all requests.  It is set to whole seconds, so that timers of many queues
expire together, and looks at least every five seconds; when it has expired, a work of kblockd walks
all requests and sets it to the earliest deadline that is left.
"""

from __future__ import annotations

from typing import Any

BLK_MAX_TIMEOUT_S = 5
CPU_SKEW_JIFFIES = 3


def round_jiffies_up(jiffy: int, cpu: int, hz: int) -> int:
    """Return the next full second after a jiffy, each CPU's 3 jiffies apart from its neighbour's."""
    skew = CPU_SKEW_JIFFIES * cpu
    return (jiffy + skew) // hz * hz + hz - skew


class RequestTimer:
    """A queue's timer, in jiffies; 0: it is not pending."""

    __slots__ = ("cpu", "expires", "hz")

    def __init__(self, hz: int) -> None:
        self.hz = hz
        self.expires = 0
        self.cpu = 0  #: where it was armed, so where it expires

    def add(self, now: int, deadline: int, cpu: int) -> None:
        """``blk_add_timer()`` of a request that starts on a CPU."""
        latest = round_jiffies_up(now + BLK_MAX_TIMEOUT_S * self.hz, cpu, self.hz)
        expires = min(round_jiffies_up(deadline, cpu, self.hz), latest)
        if not self.expires or self.expires - expires >= self.hz // 2:
            self.expires, self.cpu = expires, cpu

    def rearm(self, deadline: int, now: int, cpu: int) -> None:
        """The walk is over: the timer waits for the earliest deadline left."""
        self.expires, self.cpu = max(deadline, now + 1), cpu

    def pack(self) -> list[Any]:
        """Return the state."""
        return [self.expires, self.cpu]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.expires, self.cpu = data
