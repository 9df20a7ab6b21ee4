"""Where a woken or new task goes: the ``select_task_rq_fair()`` half of ``fair.c``, v5.4.

Theory of operation
-------------------
The choice is made by the waker's CPU, on its own runqueue exactly and on every other CPU as of the
coherence latency.  First a target between the waker's CPU and the task's previous one
(``wake_affine()``), then an idle CPU near the target (``select_idle_sibling()``).  Forks take the
slow path (``find_idlest_cpu()``).  What was chosen and by which rule is recorded.

Departures from the kernel: ``select_idle_cpu()`` charges its scan a fixed cost per CPU looked at,
so ``avg_scan_cost`` converges to that; ``has_idle_cores`` is always looked up afresh; cpuidle exit
latencies are equal for all CPUs, and how long a CPU has been idle is told by the last update of its
averages, made when its last task left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import tracepoints as tp
from emulator.kernel import fair
from emulator.kernel.sched import PF_KTHREAD, Task, is_per_cpu_kthread
from emulator.types import (
    RQ_FLAGS,
    RQ_LAST_UPDATE_TIME,
    RQ_LOAD_AVG,
    RQ_NR_RUNNING,
    RQ_RUNNABLE_AVG,
    RQF_ACTIVE,
    RQF_IDLE,
    RQF_ONLINE,
    RQF_SCHED_IDLE,
    for_each_cpu,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: What looking at one CPU in select_idle_cpu() costs; feeds avg_scan_cost only.
SCAN_NS = 30
SCHED_CAPACITY = 1024
#: Domains that reach further balance no forks and pull no wakeups.
NODE_RECLAIM_DISTANCE = 30


# -- What may run where -------------------------------------------------------------------------


def cpu_flags(cpu: Cpu, other: int) -> int:
    """Return the RQF_* facts of a CPU as this CPU can know them."""
    if other == cpu.node_id:
        rq = cpu.rq
        flags = (RQF_ONLINE if cpu.online else 0) | (RQF_ACTIVE if cpu.active else 0)
        if rq.nr_running == 0:
            if rq.curr is rq.idle and not cpu.wake_list:
                flags |= RQF_IDLE
        elif rq.nr_running == rq.cfs.idle_h_nr_running:
            flags |= RQF_SCHED_IDLE
        return flags
    return cpu.view(other)[RQ_FLAGS]


def nr_running(cpu: Cpu, other: int) -> int:
    """``cpu_rq(other)->nr_running``: of this CPU now, of another as it last published it."""
    return cpu.rq.nr_running if other == cpu.node_id else cpu.view(other)[RQ_NR_RUNNING]


def is_cpu_allowed(cpu: Cpu, p: Task, target: int) -> bool:
    """``is_cpu_allowed()``: in the mask, and online for a per-CPU kthread, else active (F.3)."""
    if not p.cpus_mask >> target & 1:
        return False
    needed = RQF_ONLINE if is_per_cpu_kthread(p) else RQF_ACTIVE
    return bool(cpu_flags(cpu, target) & needed)


def select_fallback_rq(cpu: Cpu, p: Task, near: int) -> int:
    """Find a CPU for a task whose choice is not allowed; break its affinity if nothing else helps."""
    node = cpu.spec.machine.node[near]
    for other in for_each_cpu(node & p.cpus_mask):
        if cpu_flags(cpu, other) & RQF_ACTIVE:
            return other
    for _attempt in range(2):
        for other in for_each_cpu(p.cpus_mask):
            if is_cpu_allowed(cpu, p, other):
                return other
        break_affinity(cpu, p, near)
    raise AssertionError(cpu.story(f"no CPU is left for {p.comm}/{p.pid}"))


def break_affinity(cpu: Cpu, p: Task, near: int) -> None:
    """The cpuset step of the fallback (v1, no cpusets in use): every possible CPU."""
    p.cpus_mask = (1 << cpu.nr_cpus) - 1
    p.nr_cpus_allowed = cpu.nr_cpus
    p.affinity_broken = 1
    if not p.flags & PF_KTHREAD:
        text = f"process {p.pid} ({p.comm}) no longer affine to cpu{near}"
        cpu.emit(tp.PRINTK, cpu.sink.intern(text))


# -- select_task_rq -----------------------------------------------------------------------------


def select_task_rq(cpu: Cpu, p: Task, prev: int, waker_cpu: int, waker_pid: int, sync: bool) -> int:
    """Choose the CPU for a waking task, as its waker on ``waker_cpu`` does."""
    if p.nr_cpus_allowed > 1:
        target, chosen, rule = select_task_rq_fair(cpu, p, prev, waker_cpu, waker_pid, sync)
    else:
        target = chosen = p.cpus_mask.bit_length() - 1
        rule = tp.PLACE_PINNED
    if not is_cpu_allowed(cpu, p, chosen):
        chosen = select_fallback_rq(cpu, p, p.cpu)
        rule = tp.PLACE_FALLBACK
    cpu.cause = cpu.emit(tp.BOX_SELECT_TASK_RQ, p.pid, prev, target, chosen, rule)
    return chosen


def select_task_rq_fair(
    cpu: Cpu, p: Task, prev: int, waker_cpu: int, waker_pid: int, sync: bool
) -> tuple[int, int, int]:
    """Return (target of the idle search, CPU chosen, rule) of a wakeup (C.2)."""
    record_wakee(cpu, p, waker_pid)
    want_affine = not wake_wide(cpu, p, waker_pid) and bool(p.cpus_mask >> waker_cpu & 1)
    target = prev
    if want_affine and waker_cpu != prev and in_same_domain(cpu, waker_cpu, prev):
        target = wake_affine(cpu, p, waker_cpu, prev, sync)
    chosen, rule = select_idle_sibling(cpu, p, prev, target)
    if want_affine:
        waker = cpu.tasks.get(waker_pid)
        if waker is not None:
            waker.recent_used_cpu = waker_cpu
    return target, chosen, rule


def in_same_domain(cpu: Cpu, here: int, prev: int) -> bool:
    """Whether some scheduling domain with WAKE_AFFINE spans both (all do, unless far NUMA)."""
    machine = cpu.spec.machine
    if machine.node[here] == machine.node[prev]:
        return True
    return node_distance(cpu, here, prev) <= NODE_RECLAIM_DISTANCE


def node_distance(cpu: Cpu, a: int, b: int) -> int:
    """Return the NUMA distance between the nodes of two CPUs."""
    machine = cpu.spec.machine
    nodes = sorted(set(machine.node), key=lambda mask: mask & -mask)
    return machine.node_distance[nodes.index(machine.node[a])][nodes.index(machine.node[b])]


def record_wakee(cpu: Cpu, p: Task, waker_pid: int) -> None:
    """Count how often the waker changes whom it wakes, halved about once a second."""
    waker = cpu.tasks.get(waker_pid, cpu.rq.idle if waker_pid == 0 else None)
    if waker is None:
        return
    jiffies = cpu.jiffies()
    if jiffies > waker.wakee_flip_decay_ts + cpu.hz:
        waker.wakee_flips >>= 1
        waker.wakee_flip_decay_ts = jiffies
    if waker.last_wakee != p.pid:
        waker.last_wakee = p.pid
        waker.wakee_flips += 1


def wake_wide(cpu: Cpu, p: Task, waker_pid: int) -> bool:
    """Whether waker and wakee flip so much that waking near the waker would crowd it."""
    waker = cpu.tasks.get(waker_pid, cpu.rq.idle if waker_pid == 0 else None)
    master = waker.wakee_flips if waker is not None else 0
    return wake_wide_flips(master, p.wakee_flips, max(1, cpu.llc_mask.bit_count()))


def wake_wide_flips(master: int, slave: int, factor: int) -> bool:
    """The test itself: both flip at least ``factor`` times, one ``factor`` times the other (C.2)."""
    if master < slave:
        master, slave = slave, master
    return slave >= factor and master >= slave * factor


# -- wake_affine --------------------------------------------------------------------------------


def wake_affine(cpu: Cpu, p: Task, this_cpu: int, prev: int, sync: bool) -> int:
    """Choose between the waker's CPU and the task's previous one (C.3)."""
    tun = cpu.rq.tun
    target = -1
    if tun.wa_idle:
        target = wake_affine_idle(cpu, this_cpu, prev, sync)
    if target < 0 and tun.wa_weight:
        target = wake_affine_weight(cpu, p, this_cpu, prev, sync)
    return prev if target < 0 else target


def wake_affine_idle(cpu: Cpu, this_cpu: int, prev: int, sync: bool) -> int:
    """This CPU is idle and shares the cache, or a sync waker is alone on it; -1: undecided."""
    if cpu_flags(cpu, this_cpu) & RQF_IDLE and shares_cache(cpu, this_cpu, prev):
        return prev if cpu_flags(cpu, prev) & RQF_IDLE else this_cpu
    if sync and nr_running(cpu, this_cpu) == 1:
        return this_cpu
    return -1


def wake_affine_weight(cpu: Cpu, p: Task, this_cpu: int, prev: int, sync: bool) -> int:
    """Compare the two CPUs' loads with the task moved; -1: undecided."""
    task_load = fair.task_h_load(p, cpu.rq)
    current_load = (
        fair.task_h_load(cpu.rq.curr, cpu.rq) if sync and cpu.rq.curr is not cpu.rq.idle else 0
    )
    this = wake_affine_loads(
        runnable_load(cpu, this_cpu),
        runnable_load(cpu, prev),
        task_load,
        current_load if sync else -1,
        domain_imbalance_pct(cpu, this_cpu, prev),
        cpu.rq.tun.wa_bias,
    )
    return this_cpu if this else -1


def wake_affine_loads(
    this_load: int,
    prev_load: int,
    task_load: int,
    current_load: int,
    pct: int,
    bias: bool = True,
    this_capacity: int = SCHED_CAPACITY,
    prev_capacity: int = SCHED_CAPACITY,
) -> bool:
    """Whether this CPU wins (C.3); ``current_load`` is -1 unless the wakeup is sync."""
    if current_load >= 0:
        if current_load > this_load:
            return True
        this_load -= current_load
    this_side = (this_load + task_load) * (100 if bias else 1) * prev_capacity
    prev_side = (prev_load - task_load) * (100 + (pct - 100) // 2 if bias else 1) * this_capacity
    if current_load >= 0:
        prev_side += 1
    return this_side < prev_side


def domain_imbalance_pct(cpu: Cpu, a: int, b: int) -> int:
    """Return ``imbalance_pct`` of the lowest domain that spans both CPUs (D.1)."""
    machine = cpu.spec.machine
    if machine.core[a] >> b & 1:
        return 110
    return 117 if machine.llc[a] >> b & 1 else 125


def runnable_load(cpu: Cpu, other: int) -> int:
    """``cpu_runnable_load()``: of this CPU now, of another as it last published it."""
    if other == cpu.node_id:
        return cpu.rq.cfs.avg.runnable_avg
    return cpu.view(other)[RQ_RUNNABLE_AVG]


# -- select_idle_sibling ------------------------------------------------------------------------


def shares_cache(cpu: Cpu, a: int, b: int) -> bool:
    """``cpus_share_cache()``: the same last-level cache, or the same CPU."""
    return a == b or bool(cpu.spec.machine.llc[a] >> b & 1)


def select_idle_sibling(cpu: Cpu, p: Task, prev: int, target: int) -> tuple[int, int]:
    """Look for an idle CPU near the target; return it with the rule that found it (C.4)."""
    free = RQF_IDLE | RQF_SCHED_IDLE
    if cpu_flags(cpu, target) & free:
        return target, tp.PLACE_TARGET_IDLE
    if prev != target and shares_cache(cpu, prev, target) and cpu_flags(cpu, prev) & free:
        return prev, tp.PLACE_PREV_IDLE
    recent = p.recent_used_cpu
    if (
        recent not in (prev, target)
        and shares_cache(cpu, recent, target)
        and cpu_flags(cpu, recent) & free
        and p.cpus_mask >> recent & 1
    ):
        p.recent_used_cpu = prev
        return recent, tp.PLACE_RECENT
    llc = cpu.spec.machine.llc[target]
    if not llc:
        return target, tp.PLACE_TARGET
    found = select_idle_core(cpu, p, target, llc)
    if found >= 0:
        return found, tp.PLACE_IDLE_CORE
    found = select_idle_cpu(cpu, p, target, llc)
    if found >= 0:
        return found, tp.PLACE_IDLE_CPU
    found = select_idle_smt(cpu, p, target)
    if found >= 0:
        return found, tp.PLACE_IDLE_SMT
    return target, tp.PLACE_TARGET


def for_each_cpu_wrap(mask: int, start: int) -> list[int]:
    """Return the CPUs of a mask in ascending order from ``start``, wrapping round."""
    cpus = list(for_each_cpu(mask))
    return [c for c in cpus if c >= start] + [c for c in cpus if c < start]


def select_idle_core(cpu: Cpu, p: Task, target: int, llc: int) -> int:
    """A core whose siblings are all idle; SMT machines only."""
    core = cpu.spec.machine.core
    if core[target].bit_count() < 2:
        return -1
    mask = llc & p.cpus_mask
    for other in for_each_cpu_wrap(mask, target):
        if not mask >> other & 1:
            continue
        mask &= ~core[other]
        if all(cpu_flags(cpu, sibling) & RQF_IDLE for sibling in for_each_cpu(core[other])):
            return other
    return -1


def idle_cpu_budget(span_weight: int, avg_idle: int, avg_scan_cost: int) -> int:
    """SIS_PROP: how far ``select_idle_cpu()`` counts down (C.4, C.6 example 1)."""
    avg_cost = avg_scan_cost + 1
    span = span_weight * (avg_idle // 512)
    return span // avg_cost if span > 4 * avg_cost else 4


def select_idle_cpu(cpu: Cpu, p: Task, target: int, llc: int) -> int:
    """The first idle allowed CPU of the LLC from the target on, within a budget; -1: none."""
    cpus = for_each_cpu_wrap(llc, target)
    nr = len(cpus) + 1
    if cpu.rq.tun.sis_prop:
        nr = idle_cpu_budget(len(cpus), cpu.rq.avg_idle, cpu.scan_cost)
    sched_idle = -1
    looked = 0
    found = -1
    for other in cpus:
        nr -= 1
        if nr == 0:
            return sched_idle  # before the cost is averaged in, as v5.4 does
        looked += 1
        if not p.cpus_mask >> other & 1:
            continue
        flags = cpu_flags(cpu, other)
        if flags & RQF_IDLE:
            found = other
            break
        if sched_idle == -1 and flags & RQF_SCHED_IDLE:
            sched_idle = other
    delta = looked * SCAN_NS - cpu.scan_cost
    cpu.scan_cost += delta // 8 if delta >= 0 else -(-delta // 8)
    return found


def select_idle_smt(cpu: Cpu, p: Task, target: int) -> int:
    """The first allowed sibling of the target that is idle, else a sched-idle one."""
    siblings = cpu.spec.machine.core[target]
    if siblings.bit_count() < 2:
        return -1
    sched_idle = -1
    for other in for_each_cpu(siblings & p.cpus_mask):
        flags = cpu_flags(cpu, other)
        if flags & RQF_IDLE:
            return other
        if sched_idle == -1 and flags & RQF_SCHED_IDLE:
            sched_idle = other
    return sched_idle


# -- The slow path ------------------------------------------------------------------------------


def select_task_rq_fork(cpu: Cpu, p: Task) -> int:
    """The CPU of a new task: ``find_idlest_cpu()`` from the highest domain down (C.5)."""
    p.recent_used_cpu = cpu.node_id
    chosen = find_idlest_cpu(cpu, p, cpu.node_id)
    if not is_cpu_allowed(cpu, p, chosen):
        chosen = select_fallback_rq(cpu, p, cpu.node_id)
    return chosen


def fork_domains(cpu: Cpu, at: int) -> list[tuple[list[int], int, bool]]:
    """Return ``at``'s domains that balance forks, highest first: (groups, imbalance_pct, NUMA)."""
    machine = cpu.spec.machine
    levels: list[tuple[int, tuple[int, ...], int, bool]] = []
    below: tuple[int, ...] = tuple(1 << c for c in range(machine.nr_cpus))
    for masks, pct, numa in (
        (machine.core, 110, False),
        (tuple(m or 1 << c for c, m in enumerate(machine.llc)), 117, False),
        (machine.die, 125, False),
        (machine.node, 125, False),
        *((masks, 125, True) for masks in near_numa_spans(cpu)),
    ):
        if masks[at] != below[at]:
            levels.append((masks[at], below, pct, numa))
            below = masks
    domains = []
    for span, groups, pct, numa in reversed(levels):
        ring: list[int] = []
        for member in for_each_cpu(span):
            if groups[member] not in ring:
                ring.append(groups[member])
        local = groups[at]
        at_index = ring.index(local)
        domains.append((ring[at_index:] + ring[:at_index], pct, numa))
    return domains


def near_numa_spans(cpu: Cpu) -> list[tuple[int, ...]]:
    """Return, per NUMA level that balances forks, the span of each CPU: the nodes that near."""
    machine = cpu.spec.machine
    nodes = sorted(set(machine.node), key=lambda mask: mask & -mask)
    distances = {d for row in machine.node_distance for d in row if 10 < d <= NODE_RECLAIM_DISTANCE}
    spans = []
    for reach in sorted(distances):
        span = [
            sum(other for other, d in zip(nodes, row, strict=True) if d <= reach)
            for row in machine.node_distance
        ]
        spans.append(tuple(span[nodes.index(mask)] for mask in machine.node))
    return spans


def find_idlest_cpu(cpu: Cpu, p: Task, at: int) -> int:
    """Descend the domains, each time into the idlest group (C.5)."""
    domains = fork_domains(cpu, at)
    while domains:
        groups, pct, numa = domains.pop(0)
        group = find_idlest_group(cpu, p, groups, pct, numa)
        if not group:
            continue
        new = find_idlest_group_cpu(cpu, p, group, at)
        if new != at:
            at = new
            size = sum(g.bit_count() for g in groups)
            domains = [d for d in fork_domains(cpu, at) if sum(g.bit_count() for g in d[0]) < size]
    return at


def find_idlest_group(cpu: Cpu, p: Task, groups: list[int], pct: int, numa: bool = False) -> int:
    """Return the mask of a group clearly idler than the local one (the first), or 0."""
    imbalance = SCHED_CAPACITY * (pct - 100) // 100
    scale = 100 + (pct - 100) // 2
    huge = (1 << 64) - 1
    this_runnable = this_avg = min_runnable = min_avg = huge
    idlest = 0
    for index, group in enumerate(groups):
        if not group & p.cpus_mask:
            continue
        runnable = avg = 0
        for other in for_each_cpu(group):
            facts = cpu.view(other) if other != cpu.node_id else cpu.own_facts()
            runnable += facts[RQ_RUNNABLE_AVG]
            avg += facts[RQ_LOAD_AVG]
        weight = group.bit_count()
        runnable //= weight
        avg //= weight
        if index == 0:
            this_runnable, this_avg = runnable, avg
            continue
        if min_runnable > runnable + imbalance:
            min_runnable, min_avg, idlest = runnable, avg, group
        elif runnable < min_runnable + imbalance and 100 * min_avg > scale * avg:
            min_avg, idlest = avg, group
    # A fork does not look at spare capacity.
    if not idlest:
        return 0
    if numa and min_runnable + imbalance >= this_runnable:
        return 0
    if min_runnable > (this_runnable + imbalance) & huge:
        return 0
    if this_runnable < min_runnable + imbalance and 100 * this_avg < scale * min_avg:
        return 0
    return idlest


def find_idlest_group_cpu(cpu: Cpu, p: Task, group: int, this_cpu: int) -> int:
    """The CPU of the group that has been idle for the shortest time, else the least loaded one."""
    if group.bit_count() == 1:
        return group.bit_length() - 1
    best_idle = sched_idle = -1
    least_loaded = this_cpu
    min_load = (1 << 64) - 1
    latest = -1
    for other in for_each_cpu(group & p.cpus_mask):
        flags = cpu_flags(cpu, other)
        if flags & RQF_IDLE:
            stamp = cpu.view(other)[RQ_LAST_UPDATE_TIME] if other != cpu.node_id else cpu.now
            if stamp > latest:
                latest, best_idle = stamp, other
        elif best_idle < 0:
            if flags & RQF_SCHED_IDLE:
                if sched_idle < 0:
                    sched_idle = other
            elif sched_idle < 0 and runnable_load(cpu, other) < min_load:
                min_load, least_loaded = runnable_load(cpu, other), other
    if best_idle >= 0:
        return best_idle
    return sched_idle if sched_idle >= 0 else least_loaded
