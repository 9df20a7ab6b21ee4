"""Weights and slices of the fair class, from ``kernel/sched/fair.c``, v5.4 to v6.5.

Theory of operation
-------------------
A task's weight is its share of the CPU against the other tasks' weights.  Dividing by a weight
would be slow in the kernel, so it multiplies by a stored inverse, 2**32 / weight, and shifts; all
rounding comes from there and is kept to the bit.  A task's inverse is read from a table, a
runqueue's is computed, and the two differ by one at some nice levels: hence slices of
11,999,994 ns.

Departures from the kernel: none known.  Weights are "full" ones, ``weight << 10``, as on 64-bit.
The sched feature ALT_PERIOD (all tasks of the CPU share the period, those in groups too) changes
nothing here, because there is one flat queue.
"""

from __future__ import annotations

from emulator.kernel.sched import (
    NICE_0_LOAD,
    SCHED_FIXEDPOINT_SHIFT,
    SCHED_IDLE,
    Rq,
    Task,
    Tunables,
)

#: Weight by nice level, -20…19: one level is about 10 % of a CPU.
SCHED_PRIO_TO_WEIGHT = (
    *(88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916),
    *(9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991, 1586, 1277),
    *(1024, 820, 655, 526, 423, 335, 272, 215, 172, 137),
    *(110, 87, 70, 56, 45, 36, 29, 23, 18, 15),
)
#: 2**32 / weight, for the same levels.
SCHED_PRIO_TO_WMULT = (
    *(48388, 59856, 76040, 92818, 118348, 147320, 184698, 229616, 287308, 360437),
    *(449829, 563644, 704093, 875809, 1099582, 1376151, 1717300, 2157191, 2708050, 3363326),
    *(4194304, 5237765, 6557202, 8165337, 10153587, 12820798, 15790321, 19976592, 24970740),
    *(31350126, 39045157, 49367440, 61356676, 76695844, 95443717, 119304647, 148102320),
    *(186737708, 238609294, 286331153),
)
WEIGHT_IDLEPRIO = 3
WMULT_IDLEPRIO = 1431655765
WMULT_CONST = 0xFFFFFFFF
assert len(SCHED_PRIO_TO_WEIGHT) == len(SCHED_PRIO_TO_WMULT) == 40


def set_load_weight(p: Task) -> None:
    """Set a task's weight and inverse from its nice level and policy (``set_load_weight()``)."""
    if p.policy == SCHED_IDLE:
        p.weight = WEIGHT_IDLEPRIO << SCHED_FIXEDPOINT_SHIFT
        p.inv_weight = WMULT_IDLEPRIO
        return
    p.weight = SCHED_PRIO_TO_WEIGHT[p.nice + 20] << SCHED_FIXEDPOINT_SHIFT
    p.inv_weight = SCHED_PRIO_TO_WMULT[p.nice + 20]


def update_inv_weight(weight_full: int) -> int:
    """Return the inverse of a full weight that no table holds (``__update_inv_weight()``)."""
    weight = weight_full >> SCHED_FIXEDPOINT_SHIFT
    if not weight:
        return WMULT_CONST
    return max(WMULT_CONST // weight, 1)


def calc_delta(delta: int, weight_full: int, inv: int) -> int:
    """Return ``delta * weight / load``, ``inv`` being the inverse of load (``__calc_delta()``).

    The factor is cut to 32 bits before and after the inverse comes in, as the kernel does.
    """
    fact = weight_full >> SCHED_FIXEDPOINT_SHIFT
    shift = 32
    if fact > WMULT_CONST:
        excess = fact.bit_length() - 32
        fact >>= excess
        shift -= excess
    fact *= inv
    if fact > WMULT_CONST:
        excess = fact.bit_length() - 32
        fact >>= excess
        shift -= excess
    return (delta * fact) >> shift


def calc_delta_fair(delta: int, p: Task) -> int:
    """Return the vruntime that ``delta`` ns of running cost a task (``calc_delta_fair()``)."""
    if p.weight == NICE_0_LOAD:
        return delta
    return calc_delta(delta, NICE_0_LOAD, p.inv_weight)


def sched_period(tun: Tunables, nr_running: int) -> int:
    """Return the ns in which each of ``nr_running`` tasks should run (``__sched_period()``)."""
    if nr_running > tun.nr_latency:
        return nr_running * tun.min_granularity
    return tun.latency


def sched_slice(rq: Rq, p: Task) -> int:
    """Return a task's share of the period, in ns of wall time (``sched_slice()``).

    With the feature BASE_SLICE it is no less than the min granularity.
    """
    cfs = rq.cfs
    tun = rq.tun
    if p.on_rq:
        if not cfs.load_inv:
            cfs.load_inv = update_inv_weight(cfs.load_weight)
        part = calc_delta(sched_period(tun, cfs.nr_running), p.weight, cfs.load_inv)
    else:
        inv = update_inv_weight(cfs.load_weight + p.weight)
        part = calc_delta(sched_period(tun, cfs.nr_running + 1), p.weight, inv)
    return max(part, base_slice(rq, p)) if tun.base_slice else part


def base_slice(rq: Rq, p: Task) -> int:
    """Return the least slice of a task, ns: that of an idle-policy one beside others may be less."""
    cfs = rq.cfs
    if (
        p.policy == SCHED_IDLE
        and rq.rules.base_slice_idle_min
        and cfs.nr_running != cfs.idle_h_nr_running
    ):
        return rq.tun.idle_min_granularity
    return rq.tun.min_granularity


def sched_vslice(rq: Rq, p: Task) -> int:
    """Return a task's slice as vruntime (``sched_vslice()``)."""
    return calc_delta_fair(sched_slice(rq, p), p)
