"""``drivers/scsi/scsi_debug.c``, v5.4: a RAM disk whose commands complete by timer (G.2).

Each command starts a pinned timer on the CPU that queued it, for the full delay.  Commands do not
queue behind one another: any number up to ``max_queue`` are served at once.
"""

from __future__ import annotations


def service_ns(params: dict[str, int]) -> int:
    """Return the time from ``queuecommand()`` to the timer; ``ndelay`` overrides ``delay``."""
    return params.get("ndelay", 0) or params.get("delay", 0) * params.get("jiffy_ns", 0)


def queue_depth(params: dict[str, int]) -> int:
    """Return the host's commands per queue."""
    return params.get("max_queue", 192)
