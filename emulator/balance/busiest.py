"""Which group and which queue to pull from, and how much: ``kernel/sched/fair.c``, v5.4.

Theory of operation
-------------------
``find_busiest_group()`` sums the runqueues of each group of a domain into an :class:`SgLbStats`,
classifies the group, picks the busiest and decides whether it is busier than the local group by
enough to be worth moving anything.  The imbalance is a *load*; ``find_busiest_queue()`` then picks
the CPU of the group with the highest load per capacity.

:mod:`group_types` is what v5.5 put in its place.

Departures: no misfit, packing, NUMA-preferred or energy-aware rules (symmetric capacities, no NUMA
fault statistics); a CPU's capacity is what it published at its last tick, not what the last pass of
its own domain computed, and only interrupt time reduces it.
"""

from __future__ import annotations

from emulator.balance.domain import SCHED_CAPACITY_SCALE, SD_PREFER_SIBLING, SchedDomain, SchedGroup
from emulator.balance.env import LbEnv
from emulator.balance.rqview import RqView
from emulator.tracepoints import GROUP_IMBALANCED, GROUP_OTHER, GROUP_OVERLOADED
from emulator.types import (
    CPU_IDLE,
    CPU_NOT_IDLE,
    LBF_SMALL_IMBL,
    MIGRATION_LOAD,
    RQ_FLAGS,
    RQ_H_NR_RUNNING,
    RQ_LOAD_AVG,
    RQ_NR_RUNNING,
    RQ_RUNNABLE_AVG,
    RQ_UTIL_AVG,
    RQF_IDLE,
    for_each_cpu,
)


class SgLbStats:
    """``struct sg_lb_stats``: sums over the CPUs of one group that take part in the pass."""

    __slots__ = (
        "avg_load",
        "group",
        "group_capacity",
        "group_load",
        "group_no_capacity",
        "group_type",
        "group_util",
        "group_weight",
        "idle_cpus",
        "load_per_task",
        "sum_nr_running",
    )

    def __init__(self, group: SchedGroup, capacity: int) -> None:
        self.group = group
        self.group_capacity = capacity
        self.group_weight = group.weight
        self.group_load = 0
        self.group_util = 0
        self.sum_nr_running = 0
        self.idle_cpus = 0
        self.avg_load = 0
        self.load_per_task = 0
        self.group_no_capacity = False
        self.group_type = GROUP_OTHER


class SdLbStats:
    """``struct sd_lb_stats``: the whole domain, its local and its busiest group."""

    __slots__ = (
        "avg_load",
        "busiest",
        "local",
        "overload",
        "total_capacity",
        "total_load",
        "total_util",
    )

    def __init__(self) -> None:
        self.local: SgLbStats | None = None
        self.busiest: SgLbStats | None = None
        self.total_load = 0
        self.total_util = 0
        self.total_capacity = 0
        self.avg_load = 0
        self.overload = False  # a runqueue with more than one task was seen


def find_busiest_group(env: LbEnv, view: RqView) -> SchedGroup | None:
    """Return the group to pull from with ``env.imbalance`` set, or None if the domain is balanced.

    Kernel: ``find_busiest_group()``.
    """
    sds = update_sd_lb_stats(env, view)
    if env.sd.parent is None:
        env.overload = sds.overload
    env.sum_util = sds.total_util
    if not group_is_pullable(env, sds):
        return None
    assert sds.busiest is not None
    assert sds.local is not None
    env.busiest_type = sds.busiest.group_type
    env.local_type = sds.local.group_type
    env.migration_type = MIGRATION_LOAD
    calculate_imbalance(env, sds, view)
    return sds.busiest.group if env.imbalance > 0 else None


def update_sd_lb_stats(env: LbEnv, view: RqView) -> SdLbStats:
    """Sum up every group, the local one first, and pick the busiest (``update_sd_lb_stats()``)."""
    sds = SdLbStats()
    child = env.sd.child
    prefer_sibling = child is not None and bool(child.flags & SD_PREFER_SIBLING)
    for group in env.sd.groups:
        sgs = SgLbStats(group, view.group_capacity(group))
        sds.overload |= update_sg_lb_stats(env, sgs, view)
        sds.total_load += sgs.group_load
        sds.total_util += sgs.group_util
        sds.total_capacity += sgs.group_capacity
        if group.span >> env.dst_cpu & 1:
            sds.local = sgs
            continue
        if prefer_sibling and _has_one_more(env.sd, sgs, sds.local):
            sgs.group_no_capacity = True
            sgs.group_type = group_classify(sgs)
        if update_sd_pick_busiest(sds, sgs):
            sds.busiest = sgs
    sds.avg_load = SCHED_CAPACITY_SCALE * sds.total_load // sds.total_capacity
    return sds


def _has_one_more(sd: SchedDomain, sgs: SgLbStats, local: SgLbStats | None) -> bool:
    # The child prefers tasks on the sibling group: one task more than local is too many here.
    if local is None or not group_has_capacity(sd, local):
        return False
    return sgs.sum_nr_running > local.sum_nr_running + 1


def update_sg_lb_stats(env: LbEnv, sgs: SgLbStats, view: RqView) -> bool:
    """Fill one group's statistics; return whether a runqueue has more than one task.

    Kernel: ``update_sg_lb_stats()``.
    """
    # The hottest loop of the balancer: every runqueue of the domain, in every pass.
    overload = False
    mask = sgs.group.span & env.cpus
    while mask:
        cpu = mask.bit_length() - 1
        mask ^= 1 << cpu
        rq = view.rq(cpu)
        if not rq[RQ_NR_RUNNING]:
            if rq[RQ_FLAGS] & RQF_IDLE:
                sgs.idle_cpus += 1
            # Most CPUs add nothing: no task, and no blocked load left.
            if not rq[RQ_LOAD_AVG] and not rq[RQ_UTIL_AVG]:
                continue
        overload |= rq[RQ_NR_RUNNING] > 1
        sgs.sum_nr_running += rq[RQ_H_NR_RUNNING]
        sgs.group_load += rq[RQ_RUNNABLE_AVG]
        sgs.group_util += view.cpu_util(cpu)
    sgs.avg_load = sgs.group_load * SCHED_CAPACITY_SCALE // sgs.group_capacity
    if sgs.sum_nr_running:
        sgs.load_per_task = sgs.group_load // sgs.sum_nr_running
    sgs.group_no_capacity = group_is_overloaded(env.sd, sgs)
    sgs.group_type = group_classify(sgs)
    return overload


def group_is_overloaded(sd: SchedDomain, sgs: SgLbStats) -> bool:
    """Return whether a group has more tasks than CPUs and is used beyond its margin."""
    if sgs.sum_nr_running <= sgs.group_weight:
        return False
    return sgs.group_capacity * 100 < sgs.group_util * sd.imbalance_pct


def group_has_capacity(sd: SchedDomain, sgs: SgLbStats) -> bool:
    """Return whether a group could take another task."""
    if sgs.sum_nr_running < sgs.group_weight:
        return True
    return sgs.group_capacity * 100 > sgs.group_util * sd.imbalance_pct


def group_classify(sgs: SgLbStats) -> int:
    """Return the group's type (``group_classify()``)."""
    if sgs.group_no_capacity:
        return GROUP_OVERLOADED
    if sgs.group.imbalance:
        return GROUP_IMBALANCED
    return GROUP_OTHER


def update_sd_pick_busiest(sds: SdLbStats, sgs: SgLbStats) -> bool:
    """Return whether ``sgs`` is busier than the busiest so far (``update_sd_pick_busiest()``)."""
    busiest = sds.busiest
    best_type = busiest.group_type if busiest is not None else GROUP_OTHER
    best_load = busiest.avg_load if busiest is not None else 0
    if sgs.group_type != best_type:
        return sgs.group_type > best_type
    return sgs.avg_load > best_load


def group_is_pullable(env: LbEnv, sds: SdLbStats) -> bool:
    """Return whether the busiest group is so much busier than the local one that a move is tried.

    The decision part of ``find_busiest_group()``.
    """
    busiest, local = sds.busiest, sds.local
    if busiest is None or busiest.sum_nr_running == 0:
        return False
    # Averages of a group that met affinity, or of one that has too many tasks, prove nothing.
    if busiest.group_type == GROUP_IMBALANCED:
        return True
    assert local is not None
    idle = env.idle != CPU_NOT_IDLE
    if idle and group_has_capacity(env.sd, local) and busiest.group_no_capacity:
        return True
    if local.avg_load >= busiest.avg_load or local.avg_load >= sds.avg_load:
        return False
    if env.idle == CPU_IDLE:
        spread = local.idle_cpus > busiest.idle_cpus + 1
        return busiest.group_type == GROUP_OVERLOADED or spread
    return 100 * busiest.avg_load > env.sd.imbalance_pct * local.avg_load


def calculate_imbalance(env: LbEnv, sds: SdLbStats, view: RqView) -> None:
    """Set ``env.imbalance``, the load to move (``calculate_imbalance()``)."""
    local, busiest = sds.local, sds.busiest
    assert local is not None
    assert busiest is not None
    if busiest.group_type == GROUP_IMBALANCED:
        busiest.load_per_task = min(busiest.load_per_task, sds.avg_load)
    if busiest.avg_load <= sds.avg_load or local.avg_load >= sds.avg_load:
        env.imbalance = 0
        fix_small_imbalance(env, local, busiest, view)
        return
    pull = busiest.avg_load - sds.avg_load
    if busiest.group_type == GROUP_OVERLOADED and local.group_type == GROUP_OVERLOADED:
        pull = min(pull, _load_above_capacity(busiest, pull))
    push = (sds.avg_load - local.avg_load) * local.group_capacity
    env.imbalance = min(pull * busiest.group_capacity, push) // SCHED_CAPACITY_SCALE
    if env.imbalance < busiest.load_per_task:
        fix_small_imbalance(env, local, busiest, view)


def _load_above_capacity(busiest: SgLbStats, unlimited: int) -> int:
    # Two overloaded groups only exchange what is above the busiest group's own capacity.
    load = busiest.sum_nr_running * SCHED_CAPACITY_SCALE
    if load <= busiest.group_capacity:
        return unlimited
    return (load - busiest.group_capacity) * SCHED_CAPACITY_SCALE // busiest.group_capacity


def fix_small_imbalance(env: LbEnv, local: SgLbStats, busiest: SgLbStats, view: RqView) -> None:
    """Raise an imbalance below one task to one where that helps (``fix_small_imbalance()``)."""
    imbn = 2
    if local.sum_nr_running == 0:
        local.load_per_task = view.cpu_avg_load_per_task(env.dst_cpu)
    elif busiest.load_per_task > local.load_per_task:
        imbn = 1
    scaled = busiest.load_per_task * SCHED_CAPACITY_SCALE // busiest.group_capacity
    helps = busiest.avg_load + scaled >= local.avg_load + scaled * imbn
    if helps or _capacity_moved(local, busiest, scaled) > _capacity_now(local, busiest):
        env.imbalance = busiest.load_per_task
    elif env.rules.small_imbalance_guard and env.idle == CPU_NOT_IDLE:
        env.flags |= LBF_SMALL_IMBL


def _capacity_now(local: SgLbStats, busiest: SgLbStats) -> int:
    now = busiest.group_capacity * min(busiest.load_per_task, busiest.avg_load)
    now += local.group_capacity * min(local.load_per_task, local.avg_load)
    return now // SCHED_CAPACITY_SCALE


def _capacity_moved(local: SgLbStats, busiest: SgLbStats, scaled: int) -> int:
    # Capacity in use if one average task moved from the busiest group to the local one.
    moved = 0
    if busiest.avg_load > scaled:
        rest = min(busiest.load_per_task, busiest.avg_load - scaled)
        moved = busiest.group_capacity * rest
    load = min(
        busiest.avg_load * busiest.group_capacity, busiest.load_per_task * SCHED_CAPACITY_SCALE
    )
    gained = load // local.group_capacity
    moved += local.group_capacity * min(local.load_per_task, local.avg_load + gained)
    return moved // SCHED_CAPACITY_SCALE


def find_busiest_queue(env: LbEnv, group: SchedGroup, view: RqView) -> int:
    """Return the CPU of the group with the highest load per capacity, -1 if none counts.

    Kernel: ``find_busiest_queue()``.
    """
    busiest, busiest_load, busiest_capacity = -1, 0, 1
    for cpu in for_each_cpu(group.span & env.cpus):
        load = view.cpu_runnable_load(cpu)
        capacity = view.capacity_of(cpu)
        # One running task is more than asked for: it could only be pushed.
        alone = view.nr_running(cpu) == 1 and load > env.imbalance
        if alone and not check_cpu_capacity(capacity, env.sd):
            continue
        if load * busiest_capacity > busiest_load * capacity:
            busiest, busiest_load, busiest_capacity = cpu, load, capacity
    return busiest


def check_cpu_capacity(capacity: int, sd: SchedDomain) -> bool:
    """Return whether a CPU's capacity is reduced beyond the domain's margin."""
    return capacity * sd.imbalance_pct < SCHED_CAPACITY_SCALE * 100
