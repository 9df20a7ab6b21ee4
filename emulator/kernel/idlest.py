"""The slow path: ``find_idlest_cpu()`` of ``fair.c``, for forks and execs, v5.4 and the rework of 5.5.

Theory of operation
-------------------
From the highest domain that has the flag asked for, the path goes down: in each domain it looks for a
group clearly idler than the local one, in that for the best CPU, and goes on in that CPU's smaller
domains.  v5.4 compares groups by runnable load, and where an exec allows it by spare capacity
(:func:`find_idlest_group`); from 5.5 on groups have a type, and only groups of one type are compared
by figures (:func:`find_idlest_group_by_type`).  Every level's choice is recorded with both figures.

Departures from the kernel: cpuidle exit latencies are equal for all CPUs, and how long a CPU has been
idle is told by the last update of its averages, made when its last task left; capacities are
symmetric, so misfit and asym-packing groups do not occur, and no group is known to be imbalanced
(that flag is the balancer's); no task has a preferred node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator import tracepoints as tp
from emulator.kernel import affinity
from emulator.kernel.sched import Task
from emulator.topology import SD_BALANCE_FORK, SD_NUMA, DomainFacts
from emulator.types import (
    RQ_FLAGS,
    RQ_LAST_UPDATE_TIME,
    RQ_LOAD_AVG,
    RQ_NR_RUNNING,
    RQ_RUNNABLE_AVG,
    RQ_UTIL_AVG,
    RQ_UTIL_EST_ENQUEUED,
    RQF_IDLE,
    RQF_SCHED_IDLE,
    for_each_cpu,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

SCHED_CAPACITY = 1024
U64_MAX = (1 << 64) - 1

# enum group_type of v5.5, as far as it occurs here.
GROUP_HAS_SPARE = 0
GROUP_FULLY_BUSY = 1
GROUP_OVERLOADED = 5

#: Idle CPUs by which two nodes may differ before a fork leaves its own (NUMA_IMBALANCE_MIN).
NUMA_IMBALANCE_MIN = 2


def find_idlest_cpu(cpu: Cpu, p: Task, at: int, prev: int, flag: int) -> int:
    """Descend the domains of ``at`` that have a flag, each time into the idlest group (C.5).

    Return the CPU found; ``prev`` where no domain has the flag or an allowed CPU.
    """
    domains = cpu.domains
    index = domains.highest_with(at, flag)
    if index < 0:
        return prev
    chain = domains.chain(at)
    if not chain[index].span & p.cpus_mask:
        return prev
    choose = find_idlest_group
    if cpu.rq.rules.idlest_group_types:
        choose = find_idlest_group_by_type
    while index >= 0:
        sd = chain[index]
        if not sd.flags & flag:
            index -= 1
            continue
        group, local, idlest = choose(cpu, p, sd, flag)
        new = find_idlest_group_cpu(cpu, p, group, at) if group else at
        cpu.cause = cpu.emit(tp.BOX_FIND_IDLEST, p.pid, at, new, local, idlest)
        if new == at:
            index -= 1
            continue
        at = new
        index = domains.highest_with(at, flag, sd.span.bit_count())
        chain = domains.chain(at)
    return at


# -- find_idlest_group() of v5.4 ----------------------------------------------------------------


def find_idlest_group(cpu: Cpu, p: Task, sd: DomainFacts, flag: int) -> tuple[int, int, int]:
    """Return (group clearly idler than the local one or 0, local figure, idlest figure), v5.4.

    The figures are the ones that decided: runnable loads per 1024 of capacity, or spare capacities.
    A local group without an allowed CPU has the figure -1.
    """
    imbalance = SCHED_CAPACITY * (sd.imbalance_pct - 100) // 100
    scale = 100 + (sd.imbalance_pct - 100) // 2
    this_runnable = this_avg = min_runnable = min_avg = U64_MAX
    this_spare = most_spare = most_spare_group = idlest = 0
    for index, group in enumerate(sd.groups):
        if not group & p.cpus_mask:
            continue
        runnable, avg, spare = group_loads(cpu, p, group)
        if index == 0:
            this_runnable, this_avg, this_spare = runnable, avg, spare
            continue
        if min_runnable > runnable + imbalance:
            min_runnable, min_avg, idlest = runnable, avg, group
        elif runnable < min_runnable + imbalance and 100 * min_avg > scale * avg:
            min_avg, idlest = avg, group
        if spare > most_spare:
            most_spare, most_spare_group = spare, group
    if flag != SD_BALANCE_FORK:
        half_util = p.avg.util_avg // 2
        if this_spare > half_util and scale * this_spare > 100 * most_spare:
            return 0, this_spare, most_spare
        if most_spare > half_util:
            return most_spare_group, this_spare, most_spare
    figures = (_figure(this_runnable), _figure(min_runnable))
    if (
        not idlest
        or (sd.flags & SD_NUMA and min_runnable + imbalance >= this_runnable)
        or min_runnable > (this_runnable + imbalance) & U64_MAX
        or (this_runnable < min_runnable + imbalance and 100 * this_avg < scale * min_avg)
    ):
        idlest = 0
    return idlest, *figures


# What no group gave is 2^64 - 1 there, which no record holds.
def _figure(load: int) -> int:
    return -1 if load == U64_MAX else load


def group_loads(cpu: Cpu, p: Task, group: int) -> tuple[int, int, int]:
    """Return a group's runnable load and load per 1024 of capacity, and its largest spare capacity."""
    runnable = avg = spare = 0
    for other in for_each_cpu(group):
        facts = facts_of(cpu, other)
        runnable += facts[RQ_RUNNABLE_AVG]
        avg += facts[RQ_LOAD_AVG]
        spare = max(spare, SCHED_CAPACITY - cpu_util_without(cpu, p, other, facts))
    weight = group.bit_count()
    return runnable // weight, avg // weight, spare


def facts_of(cpu: Cpu, other: int) -> tuple[int, ...]:
    """Return a CPU's facts: of this one now, of another at coherence age."""
    return cpu.own_facts() if other == cpu.node_id else cpu.view(other)


def cpu_util_without(cpu: Cpu, p: Task, other: int, facts: tuple[int, ...]) -> int:
    """``cpu_util_without()``: the utilisation of a CPU were the task not there."""
    there = p.cpu == other and bool(p.avg.last_update_time)
    util = facts[RQ_UTIL_AVG]
    if there:
        util = max(util - p.avg.util_avg, 0)
    if cpu.rq.tun.util_est:
        estimated = facts[RQ_UTIL_EST_ENQUEUED]
        if there and (p.on_rq or cpu.rq.curr is p):
            estimated = max(estimated - task_util_est(p), 0)
        util = max(util, estimated)
    return min(util, SCHED_CAPACITY)


def task_util_est(p: Task) -> int:
    """``_task_util_est()``: what a task adds to its queue's estimate."""
    return max(p.avg.util_est_ewma, p.avg.util_est_enqueued)


# -- find_idlest_group() of v5.5 ----------------------------------------------------------------


@dataclass(slots=True)
class GroupStats:
    """``struct sg_lb_stats`` of a group without the task that is placed."""

    weight: int
    load: int = 0
    util: int = 0
    runnable: int = 0
    nr: int = 0
    idle_cpus: int = 0
    type: int = GROUP_HAS_SPARE
    avg_load: int = 0


def update_sg_wakeup_stats(cpu: Cpu, p: Task, group: int, pct: int) -> GroupStats:
    """Sum up a group's CPUs, classify it, and say how loaded it is if its type is told so."""
    stats = GroupStats(group.bit_count())
    for other in for_each_cpu(group):
        facts = facts_of(cpu, other)
        there = p.cpu == other and bool(p.avg.last_update_time)
        queued = int(p.cpu == other and bool(p.on_rq))
        stats.load += max(facts[RQ_LOAD_AVG] - (p.avg.load_avg if there else 0), 0)
        stats.util += cpu_util_without(cpu, p, other, facts)
        if cpu.rq.rules.runnable_avg:
            runnable_avg = facts[RQ_RUNNABLE_AVG]
            stats.runnable += max(runnable_avg - (p.avg.runnable_avg if there else 0), 0)
        nr = facts[RQ_NR_RUNNING] - queued
        stats.nr += nr
        stats.idle_cpus += not nr and bool(facts[RQ_FLAGS] & RQF_IDLE or queued)
    stats.type = group_classify(stats, pct)
    inverted = cpu.rq.rules.idlest_avg_load_inverted
    if (stats.type < GROUP_FULLY_BUSY) if inverted else (stats.type >= GROUP_FULLY_BUSY):
        stats.avg_load = stats.load // stats.weight
    return stats


def group_classify(stats: GroupStats, pct: int) -> int:
    """Return the type of a group (D.7); ``runnable`` is 0 before 5.7."""
    capacity = SCHED_CAPACITY * stats.weight
    late = capacity * pct < stats.runnable * 100
    if stats.nr > stats.weight and (capacity * 100 < stats.util * pct or late):
        return GROUP_OVERLOADED
    if stats.nr < stats.weight or (not late and capacity * 100 > stats.util * pct):
        return GROUP_HAS_SPARE
    return GROUP_FULLY_BUSY


def update_pick_idlest(best: GroupStats | None, stats: GroupStats, by_util: bool) -> bool:
    """Whether a group is idler than the idlest so far; ``by_util`` breaks ties of idle CPUs (5.7)."""
    if best is None or stats.type != best.type:
        return best is None or stats.type < best.type
    if stats.type != GROUP_HAS_SPARE:
        return stats.avg_load < best.avg_load
    if stats.idle_cpus == best.idle_cpus:
        return by_util and stats.util < best.util
    return stats.idle_cpus > best.idle_cpus


def find_idlest_group_by_type(
    cpu: Cpu, p: Task, sd: DomainFacts, flag: int
) -> tuple[int, int, int]:
    """Return (group clearly idler than the local one or 0, local figure, idlest figure), from 5.5.

    Of groups of one type the figures are idle CPUs (has_spare) or loads per 1024 of capacity; of
    different types they are -2 - type.  A group that is none has the figure -1.
    """
    del flag
    local: GroupStats | None = None
    best: GroupStats | None = None
    idlest = 0
    for index, group in enumerate(sd.groups):
        if not group & p.cpus_mask:
            continue
        stats = update_sg_wakeup_stats(cpu, p, group, sd.imbalance_pct)
        if index == 0:
            local = stats
        elif update_pick_idlest(best, stats, cpu.rq.rules.runnable_avg):
            best, idlest = stats, group
    if best is None:
        return 0, -1 if local is None else -2 - local.type, -1
    if local is None:
        return idlest, -1, -2 - best.type
    if local.type != best.type:
        return idlest if local.type > best.type else 0, -2 - local.type, -2 - best.type
    if local.type != GROUP_HAS_SPARE:
        goes = idler_by_load(local, best, sd)
        return idlest if goes else 0, local.avg_load, best.avg_load
    stays = stays_on_node(cpu, p, sd, local, best) or local.idle_cpus >= best.idle_cpus
    return 0 if stays else idlest, local.idle_cpus, best.idle_cpus


def idler_by_load(local: GroupStats, best: GroupStats, sd: DomainFacts) -> bool:
    """Whether the idlest of two busy groups is clearly less loaded than the local one."""
    imbalance = 1024 * (sd.imbalance_pct - 100) // 100
    if sd.flags & SD_NUMA and best.avg_load + imbalance >= local.avg_load:
        return False
    if best.avg_load >= local.avg_load + imbalance:
        return False
    return 100 * local.avg_load > sd.imbalance_pct * best.avg_load


def stays_on_node(cpu: Cpu, p: Task, sd: DomainFacts, local: GroupStats, best: GroupStats) -> bool:
    """Whether a node with room keeps a new task, to stay near its parent (NUMA, both have spare)."""
    rules = cpu.rq.rules
    if not sd.flags & SD_NUMA:
        return False
    if rules.idlest_imb_numa_nr:
        allowed = sd.imb_numa_nr
        if p.nr_cpus_allowed != cpu.nr_cpus:
            allowed = min((sd.groups[0] & p.cpus_mask).bit_count(), allowed)
        near = abs(local.idle_cpus - best.idle_cpus) <= NUMA_IMBALANCE_MIN
        return local.nr + 1 <= allowed and near
    if rules.idlest_numa_quarter:
        return local.nr + 1 < local.weight >> 2
    return local.idle_cpus > 0


# -- find_idlest_group_cpu() --------------------------------------------------------------------


def find_idlest_group_cpu(cpu: Cpu, p: Task, group: int, this_cpu: int) -> int:
    """The CPU of the group that has been idle for the shortest time, else the least loaded one."""
    if group.bit_count() == 1:
        return group.bit_length() - 1
    rules = cpu.rq.rules
    load_fact = RQ_LOAD_AVG if rules.idlest_group_types else RQ_RUNNABLE_AVG
    best_idle = sched_idle = -1
    least_loaded = this_cpu
    min_load = U64_MAX
    latest = -1
    for other in for_each_cpu(group & p.cpus_mask):
        flags = affinity.cpu_flags(cpu, other)
        if flags & RQF_SCHED_IDLE and rules.idlest_sched_idle_first:
            return other
        if flags & RQF_IDLE:
            stamp = cpu.view(other)[RQ_LAST_UPDATE_TIME] if other != cpu.node_id else cpu.now
            if stamp > latest:
                latest, best_idle = stamp, other
        elif best_idle < 0:
            if flags & RQF_SCHED_IDLE:
                if sched_idle < 0:
                    sched_idle = other
            elif sched_idle < 0 and (load := facts_of(cpu, other)[load_fact]) < min_load:
                min_load, least_loaded = load, other
    if best_idle >= 0:
        return best_idle
    return sched_idle if sched_idle >= 0 else least_loaded
