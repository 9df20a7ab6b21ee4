"""``drivers/block/null_blk_main.c``, v5.4: a disk that does nothing, in three ways (G.1).

``irqmode`` 0 ends a request in the submitter, inside ``queue_rq``; 1 through the block layer's
completion, from task context; 2 by a timer of ``completion_nsec`` on the CPU that queued it.

With ``queue_mode`` 0 it takes bios: no plug, no elevator, no request in any record or statistic.  With
``memory_backed`` data is copied inside ``queue_rq()``, which may sleep, so that kblockd runs the queue of
an elevator.

Departures from the kernel: what takes a bio is a request here too, with a tag of the same map.  What is
copied before an elevator's choice is known is taken to be of the size that has waited longest.  Polled
requests never come here (:mod:`emulator.kernel.blk_poll`): errors, delays and lost requests spare them.
"""

from __future__ import annotations


def service_ns(params: dict[str, int]) -> int:
    """Return the time from ``queue_rq()`` to the timer, 0 in the modes without one."""
    return params.get("completion_nsec", 10_000) if params.get("irqmode", 1) == 2 else 0


def queue_depth(params: dict[str, int]) -> int:
    """Return the tags of a hardware queue."""
    return params.get("hw_queue_depth", 64)
