"""Ageing of an idle runqueue's blocked averages by who reads it: ``kernel/sched/pelt.c``, v5.4.

A CPU publishes its averages when they change.  While it idles nothing changes them but time, so the
balancer ages them itself, from the last publication, and needs no message for it.

Departures: the kernel leaves an idle CPU's averages stale until somebody calls
``update_blocked_averages()`` for it (every 32 ms, or at its own passes); here every reader sees
them aged to the instant of reading.  The clock is emulated time, not ``clock_pelt``: they are equal
on machines without interrupt time accounting.
"""

from __future__ import annotations

from emulator.types import (
    RQ_H_NR_RUNNING,
    RQ_LAST_UPDATE_TIME,
    RQ_LOAD_AVG,
    RQ_LOAD_SUM,
    RQ_PERIOD_CONTRIB,
    RQ_RUNNABLE_AVG,
    RQ_RUNNABLE_SUM,
    RQ_UTIL_AVG,
    RQ_UTIL_SUM,
)

LOAD_AVG_PERIOD = 32
LOAD_AVG_MAX = 47742

# y^n in 32-bit fixed point, y^32 = 1/2.
RUNNABLE_AVG_YN_INV = (
    0xFFFFFFFF, 0xFA83B2DA, 0xF5257D14, 0xEFE4B99A, 0xEAC0C6E6, 0xE5B906E6, 0xE0CCDEEB, 0xDBFBB796,
    0xD744FCC9, 0xD2A81D91, 0xCE248C14, 0xC9B9BD85, 0xC5672A10, 0xC12C4CC9, 0xBD08A39E, 0xB8FBAF46,
    0xB504F333, 0xB123F581, 0xAD583EE9, 0xA9A15AB4, 0xA5FED6A9, 0xA2704302, 0x9EF5325F, 0x9B8D39B9,
    0x9837F050, 0x94F4EFA8, 0x91C3D373, 0x8EA4398A, 0x8B95C1E3, 0x88980E80, 0x85AAC367, 0x82CD8698,
)  # fmt: skip


def decay_load(value: int, periods: int) -> int:
    """Return ``value`` decayed by whole periods (``decay_load()``)."""
    if periods > LOAD_AVG_PERIOD * 63:
        return 0
    value >>= periods // LOAD_AVG_PERIOD
    return (value * RUNNABLE_AVG_YN_INV[periods % LOAD_AVG_PERIOD]) >> 32


def age_blocked(facts: tuple[int, ...], now_ns: int) -> tuple[int, ...]:
    """Return the facts of a runqueue with an idle queue's averages aged to ``now_ns``.

    Facts of a queue that holds tasks come back as they are: the kernel's balancer does not update
    another CPU's averages.
    """
    if facts[RQ_H_NR_RUNNING] or not (has_blocked(facts) or facts[RQ_RUNNABLE_AVG]):
        return facts
    elapsed = (now_ns - facts[RQ_LAST_UPDATE_TIME]) >> 10
    contrib = elapsed + facts[RQ_PERIOD_CONTRIB]
    periods = contrib >> 10
    if elapsed <= 0 or not periods:
        return facts
    aged = list(facts)
    aged[RQ_LAST_UPDATE_TIME] += elapsed << 10
    aged[RQ_PERIOD_CONTRIB] = contrib & 1023
    divider = LOAD_AVG_MAX - 1024 + (contrib & 1023)
    for total, average in _SUMS:
        aged[total] = decay_load(facts[total], periods)
        aged[average] = aged[total] // divider
    return tuple(aged)


_SUMS = (
    (RQ_LOAD_SUM, RQ_LOAD_AVG),
    (RQ_RUNNABLE_SUM, RQ_RUNNABLE_AVG),
    (RQ_UTIL_SUM, RQ_UTIL_AVG),
)


def has_blocked(facts: tuple[int, ...]) -> bool:
    """Return whether load or utilisation is left to age (``cfs_rq_has_blocked()``)."""
    return bool(facts[RQ_LOAD_AVG] or facts[RQ_UTIL_AVG])
