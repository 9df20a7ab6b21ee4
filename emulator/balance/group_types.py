"""Which group and which queue to pull from, and how much of what: ``kernel/sched/fair.c``, ≥ v5.5.

Theory of operation
-------------------
The rework of 5.5 gave every group a *type*, from has_spare to overloaded, and every imbalance a
*migration type*: load, utilisation, or a number of tasks.  ``update_sd_lb_stats()`` sums the
runqueues of each group into an :class:`SgLbStats` and classifies it; ``find_busiest_group()``
compares the types of the busiest and of the local group, and only for two overloaded groups their
loads; ``calculate_imbalance()`` says what is to move; ``find_busiest_queue()`` picks the CPU that
has most of it.  Loads are load_avg here, which blocked tasks are part of; :mod:`busiest` is v5.4's.

Departures: no misfit, packing or energy-aware rules (symmetric machines), no NUMA fault
statistics; capacities as in :mod:`busiest`; fully busy SMT groups of equal load keep their order.
"""

from __future__ import annotations

from emulator.balance.busiest import check_cpu_capacity
from emulator.balance.domain import (
    SCHED_CAPACITY_SCALE,
    SD_NUMA,
    SD_PREFER_SIBLING,
    SD_SHARE_PKG_RESOURCES,
    SchedGroup,
)
from emulator.balance.env import LbEnv
from emulator.balance.rqview import RqView
from emulator.tracepoints import (
    GROUP_FULLY_BUSY,
    GROUP_HAS_SPARE,
    GROUP_IMBALANCED,
    GROUP_OVERLOADED,
    GROUP_SMT_BALANCE,
)
from emulator.types import (
    CPU_NOT_IDLE,
    MIGRATION_LOAD,
    MIGRATION_TASK,
    MIGRATION_UTIL,
    RQ_FLAGS,
    RQ_H_NR_RUNNING,
    RQ_LOAD_AVG,
    RQ_NR_RUNNING,
    RQ_RUNNABLE_AVG,
    RQ_UTIL_AVG,
    RQF_IDLE,
    for_each_cpu,
)

#: An imbalance between NUMA nodes that a pair of communicating tasks may make.
NUMA_IMBALANCE_MIN = 2
U64 = (1 << 64) - 1


class SgLbStats:
    """``struct sg_lb_stats``: sums over the CPUs of one group that take part in the pass."""

    __slots__ = (
        "avg_load",
        "group",
        "group_capacity",
        "group_load",
        "group_runnable",
        "group_type",
        "group_util",
        "group_weight",
        "idle_cpus",
        "sum_h_nr_running",
        "sum_nr_running",
    )

    def __init__(self, group: SchedGroup, capacity: int) -> None:
        self.group = group
        self.group_capacity = capacity
        self.group_weight = group.weight
        self.group_load = 0
        self.group_util = 0
        self.group_runnable = 0
        self.sum_nr_running = 0
        self.sum_h_nr_running = 0
        self.idle_cpus = 0
        self.avg_load = 0  # of overloaded groups only
        self.group_type = GROUP_HAS_SPARE


class SdLbStats:
    """``struct sd_lb_stats``: the whole domain, its local and its busiest group."""

    __slots__ = (
        "busiest",
        "local",
        "overload",
        "prefer_sibling",
        "total_capacity",
        "total_load",
        "total_util",
    )

    def __init__(self, local: SgLbStats) -> None:
        self.local = local
        self.busiest: SgLbStats | None = None
        self.total_load = 0
        self.total_util = 0
        self.total_capacity = 0
        self.prefer_sibling = False
        self.overload = False  # a runqueue with more than one task was seen

    def avg_load(self) -> int:
        """Return the domain's load per capacity."""
        return self.total_load * SCHED_CAPACITY_SCALE // self.total_capacity


def find_busiest_group(env: LbEnv, view: RqView) -> SchedGroup | None:
    """Return the group to pull from, ``env.imbalance`` and ``migration_type`` set, or None.

    Kernel: ``find_busiest_group()``.
    """
    sds = update_sd_lb_stats(env, view)
    if env.sd.parent is None:
        env.overload = sds.overload
    env.sum_util = sds.total_util
    busiest = sds.busiest
    if busiest is None or not group_is_pullable(env, sds, busiest):
        return None
    env.busiest_type, env.local_type = busiest.group_type, sds.local.group_type
    calculate_imbalance(env, sds, busiest)
    return busiest.group if env.imbalance else None


def update_sd_lb_stats(env: LbEnv, view: RqView) -> SdLbStats:
    """Sum up every group, the local one first, and pick the busiest (``update_sd_lb_stats()``)."""
    groups = env.sd.groups
    assert groups[0].span & env.dst_grpmask
    child = env.sd.child
    sds = SdLbStats(SgLbStats(groups[0], view.group_capacity(groups[0])))
    sds.prefer_sibling = child is not None and bool(child.flags & SD_PREFER_SIBLING)
    for number, group in enumerate(groups):
        sgs = SgLbStats(group, view.group_capacity(group)) if number else sds.local
        sds.overload |= update_sg_lb_stats(env, sgs, view, local=not number)
        sds.total_load += sgs.group_load
        sds.total_util += sgs.group_util
        sds.total_capacity += sgs.group_capacity
        if number and update_sd_pick_busiest(sds, sgs):
            sds.busiest = sgs
    return sds


def update_sg_lb_stats(env: LbEnv, sgs: SgLbStats, view: RqView, *, local: bool) -> bool:
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
        nr_running = rq[RQ_NR_RUNNING]
        if not nr_running:
            if rq[RQ_FLAGS] & RQF_IDLE:
                sgs.idle_cpus += 1
            # Most CPUs add nothing: no task, and no blocked load left.
            if not rq[RQ_LOAD_AVG] and not rq[RQ_UTIL_AVG]:
                continue
        overload |= nr_running > 1
        sgs.sum_nr_running += nr_running
        sgs.sum_h_nr_running += rq[RQ_H_NR_RUNNING]
        sgs.group_load += rq[RQ_LOAD_AVG]
        sgs.group_runnable += rq[RQ_RUNNABLE_AVG]
        sgs.group_util += view.cpu_util(cpu)
    sgs.group_type = group_classify(env, sgs, local=local)
    if sgs.group_type == GROUP_OVERLOADED:
        sgs.avg_load = sgs.group_load * SCHED_CAPACITY_SCALE // sgs.group_capacity
    return overload


def group_classify(env: LbEnv, sgs: SgLbStats, *, local: bool) -> int:
    """Return the group's type (``group_classify()``)."""
    if group_is_overloaded(env, sgs):
        return GROUP_OVERLOADED
    if sgs.group.imbalance:
        return GROUP_IMBALANCED
    if not local and smt_balance(env, sgs):
        return GROUP_SMT_BALANCE
    return GROUP_HAS_SPARE if group_has_capacity(env, sgs) else GROUP_FULLY_BUSY


def group_is_overloaded(env: LbEnv, sgs: SgLbStats) -> bool:
    """Return whether a group has more tasks than CPUs, and they use it or wait beyond its margin."""
    if sgs.sum_nr_running <= sgs.group_weight:
        return False
    pct = env.sd.imbalance_pct
    if sgs.group_capacity * 100 < sgs.group_util * pct:
        return True
    return env.rules.runnable_avg and sgs.group_capacity * pct < sgs.group_runnable * 100


def group_has_capacity(env: LbEnv, sgs: SgLbStats) -> bool:
    """Return whether a group could take another task."""
    if sgs.sum_nr_running < sgs.group_weight:
        return True
    pct = env.sd.imbalance_pct
    if env.rules.runnable_avg and sgs.group_capacity * pct < sgs.group_runnable * 100:
        return False
    return sgs.group_capacity * 100 > sgs.group_util * pct


def smt_balance(env: LbEnv, sgs: SgLbStats) -> bool:
    """Return whether a core's siblings share it while an idle CPU looks for work (≥ 6.6)."""
    if not env.rules.lb_smt_balance or env.idle == CPU_NOT_IDLE:
        return False
    group = sgs.group
    return group.cores == 1 and group.weight > 1 and sgs.sum_h_nr_running > 1


def update_sd_pick_busiest(sds: SdLbStats, sgs: SgLbStats) -> bool:
    """Return whether ``sgs`` is busier than the busiest so far (``update_sd_pick_busiest()``)."""
    if not sgs.sum_h_nr_running:
        return False
    busiest = sds.busiest
    if busiest is None:
        return True
    kind = sgs.group_type
    if kind != busiest.group_type:
        return kind > busiest.group_type
    if kind == GROUP_IMBALANCED:
        return False
    if kind == GROUP_SMT_BALANCE:
        # Where siblings are left idle they decide, as among groups with spare CPUs.
        kind = GROUP_HAS_SPARE if sgs.idle_cpus or busiest.idle_cpus else GROUP_FULLY_BUSY
    if kind != GROUP_HAS_SPARE:
        return sgs.avg_load > busiest.avg_load
    if sgs.idle_cpus != busiest.idle_cpus:
        return sgs.idle_cpus < busiest.idle_cpus
    return sgs.sum_nr_running > busiest.sum_nr_running


def group_is_pullable(env: LbEnv, sds: SdLbStats, busiest: SgLbStats) -> bool:
    """Return whether the busiest group is so much busier than the local one that a move is tried.

    The decision part of ``find_busiest_group()``.
    """
    local = sds.local
    if busiest.group_type == GROUP_IMBALANCED:
        return True
    if local.group_type > busiest.group_type:
        return False
    if local.group_type == GROUP_OVERLOADED:
        if local.avg_load >= busiest.avg_load or local.avg_load >= sds.avg_load():
            return False
        if 100 * busiest.avg_load <= env.sd.imbalance_pct * local.avg_load:
            return False
    if sds.prefer_sibling and local.group_type == GROUP_HAS_SPARE:
        if env.rules.lb_sibling_imbalance:
            if sibling_imbalance(env, local, busiest) > 1:
                return True
        elif busiest.sum_nr_running > local.sum_nr_running + 1:
            return True
    if busiest.group_type == GROUP_OVERLOADED:
        return True
    if env.idle == CPU_NOT_IDLE:
        return False
    if busiest.group_weight > 1 and local.idle_cpus <= busiest.idle_cpus + 1:
        return False
    return busiest.sum_h_nr_running != 1


def sibling_imbalance(env: LbEnv, local: SgLbStats, busiest: SgLbStats) -> int:
    """Return how many tasks more than its cores' share the busiest group has (≥ 6.6).

    Kernel: ``sibling_imbalance()``; 0 for a CPU that is not idle.
    """
    if env.idle == CPU_NOT_IDLE or not busiest.sum_nr_running:
        return 0
    here, there = local.group.cores, busiest.group.cores
    if here == there:
        return max(busiest.sum_nr_running - local.sum_nr_running, 0)
    excess = max(here * busiest.sum_nr_running - there * local.sum_nr_running, 0)
    excess = (2 * excess + here + there) // (here + there)
    if excess <= 1 and local.sum_nr_running == 0 and busiest.sum_nr_running > 1:
        return 2  # an empty group is a resource of its own
    return excess


def calculate_imbalance(env: LbEnv, sds: SdLbStats, busiest: SgLbStats) -> None:
    """Set ``env.migration_type`` and ``env.imbalance`` (``calculate_imbalance()``)."""
    local = sds.local
    if busiest.group_type in (GROUP_IMBALANCED, GROUP_SMT_BALANCE):
        env.migration_type, env.imbalance = MIGRATION_TASK, 1
    elif local.group_type == GROUP_HAS_SPARE:
        _use_spare(env, sds, busiest)
    else:
        env.migration_type = MIGRATION_LOAD
        env.imbalance = load_imbalance(env, sds, busiest)


def _use_spare(env: LbEnv, sds: SdLbStats, busiest: SgLbStats) -> None:
    # The local group has CPUs to spare: fill them up with utilisation, or spread tasks.
    local, rules = sds.local, env.rules
    by_task = rules.lb_llc_migrate_task and env.sd.flags & SD_SHARE_PKG_RESOURCES
    if busiest.group_type > GROUP_FULLY_BUSY and not by_task:
        env.migration_type = MIGRATION_UTIL
        env.imbalance = max(local.group_capacity, local.group_util) - local.group_util
        # A group may be used up to its capacity by tasks that just left it: then take one task.
        if env.idle != CPU_NOT_IDLE and env.imbalance == 0:
            env.migration_type, env.imbalance = MIGRATION_TASK, 1
        return
    env.migration_type = MIGRATION_TASK
    if busiest.group_weight == 1 or sds.prefer_sibling:
        if rules.lb_sibling_imbalance:
            excess = sibling_imbalance(env, local, busiest)
        else:
            excess = busiest.sum_nr_running - local.sum_nr_running
    else:
        excess = local.idle_cpus - busiest.idle_cpus
    excess = max(excess, 0)
    if env.sd.flags & SD_NUMA and numa_imbalance_allowed(env, local, busiest, excess):
        excess = 0
    env.imbalance = excess >> 1


def numa_imbalance_allowed(env: LbEnv, local: SgLbStats, busiest: SgLbStats, excess: int) -> bool:
    """Return whether nodes may differ by so much (``adjust_numa_imbalance()``)."""
    if not env.rules.lb_numa_allowance:
        return busiest.sum_nr_running <= NUMA_IMBALANCE_MIN
    running = local.sum_nr_running + 1
    if env.rules.lb_imb_numa_nr:
        few = running <= env.sd.imb_numa_nr
    else:
        few = running < local.group_weight >> 2
    return few and excess <= NUMA_IMBALANCE_MIN


def load_imbalance(env: LbEnv, sds: SdLbStats, busiest: SgLbStats) -> int:
    """Return the load that would bring busiest and local group to the domain's average."""
    local, rules = sds.local, env.rules
    avg_load = sds.avg_load()
    if local.group_type != GROUP_OVERLOADED:
        local.avg_load = local.group_load * SCHED_CAPACITY_SCALE // local.group_capacity
        if rules.lb_avg_load_local and local.avg_load >= busiest.avg_load:
            return 0
        if rules.lb_avg_load_domain and local.avg_load >= avg_load:
            return 0
    # Unsigned in the kernel: what would be negative wraps and loses the comparison.
    pull = (busiest.avg_load - avg_load) * busiest.group_capacity & U64
    push = (avg_load - local.avg_load) * local.group_capacity & U64
    return min(pull, push) // SCHED_CAPACITY_SCALE


def find_busiest_queue(env: LbEnv, group: SchedGroup, view: RqView) -> int:
    """Return the CPU of the group that has most of what is to move, -1 if none counts.

    Kernel: ``find_busiest_queue()``.
    """
    if env.migration_type == MIGRATION_LOAD:
        return _most_loaded(env, group, view)
    busiest, most = -1, 0
    for cpu in for_each_cpu(group.span & env.cpus):
        tasks = view.rq(cpu)[RQ_H_NR_RUNNING]
        if env.migration_type == MIGRATION_TASK:
            amount = tasks
        else:
            # A lone task uses its CPU alone wherever it is.
            amount = view.cpu_util(cpu) if tasks > 1 else 0
        if amount > most:
            busiest, most = cpu, amount
    return busiest


def _most_loaded(env: LbEnv, group: SchedGroup, view: RqView) -> int:
    busiest, busiest_load, busiest_capacity = -1, 0, 1
    for cpu in for_each_cpu(group.span & env.cpus):
        tasks = view.rq(cpu)[RQ_H_NR_RUNNING]
        if not tasks and env.rules.lb_skip_empty_queue:
            continue
        load, capacity = view.cpu_load(cpu), view.capacity_of(cpu)
        # One running task is more than asked for: it could only be pushed.
        alone = tasks == 1 and load > env.imbalance
        if alone and not check_cpu_capacity(capacity, env.sd):
            continue
        if load * busiest_capacity > busiest_load * capacity:
            busiest, busiest_load, busiest_capacity = cpu, load, capacity
    return busiest
