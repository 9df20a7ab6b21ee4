"""An idle CPU near the target: ``select_idle_sibling()`` of ``fair.c``, v5.4 and by rules later ones.

Theory of operation
-------------------
A few CPUs are tried first because the task's data may be warm there: the target, the previous CPU,
the one used before that.  Then the target's last-level cache is searched, for a core whose SMT
siblings are all idle (only while somebody has seen one: ``has_idle_cores``), for any idle CPU within
a budget, for an idle sibling.  Up to 5.11 these are three searches (:func:`search_in_turn`), later one
pass does both (:func:`search_once`).

The budget comes from how long this CPU idles and what scans cost (SIS_PROP), or from the utilisation
of the cache's CPUs, which the balancer publishes (SIS_UTIL).

Departures from the kernel: a scan is charged a fixed cost per CPU looked at, so ``avg_scan_cost``
converges to that; where another CPU's context wakes a task that sleeps here, this CPU's idle average
and scan cost stand for the waker's.  A search of another cache that finds no idle core leaves that
cache's flag set: only its own CPUs write it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import tracepoints as tp
from emulator.kernel import affinity, frames
from emulator.kernel.sched import Task
from emulator.topology import for_each_cpu_wrap
from emulator.types import (
    BAL_HEADER,
    BAL_NR_IDLE_SCAN,
    RQ_FLAGS,
    RQ_IDLE_CORES,
    RQF_IDLE,
    RQF_SCHED_IDLE,
    for_each_cpu,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: What looking at one CPU in select_idle_cpu() costs; feeds the averages of scan costs only.
SCAN_NS = 30
#: No budget: more than any machine has CPUs.
UNLIMITED = 1 << 30

FREE = RQF_IDLE | RQF_SCHED_IDLE


def select_idle_sibling(
    cpu: Cpu, p: Task, prev: int, target: int, waker_cpu: int
) -> tuple[int, int]:
    """Look for an idle CPU near the target; return it with the rule that found it (C.4)."""
    rules, domains = cpu.rq.rules, cpu.domains
    if affinity.cpu_flags(cpu, target) & FREE:
        return target, tp.PLACE_TARGET_IDLE
    clustered = rules.idle_scan_cluster and bool(domains.clusters)
    later = []  # in another cluster than the target: taken if nothing else is found
    if (
        prev != target
        and domains.share_cache(prev, target)
        and affinity.cpu_flags(cpu, prev) & FREE
    ):
        if not clustered or domains.share_resources(prev, target):
            return prev, tp.PLACE_PREV_IDLE
        later.append((prev, tp.PLACE_PREV_IDLE))
    if (
        rules.kthread_stack
        and not rules.kthread_stack_after_recent
        and stacks_with_kthread(cpu, prev, waker_cpu)
    ):
        return prev, tp.PLACE_KTHREAD_STACK
    recent = recent_used_cpu(cpu, p, prev, target)
    if recent >= 0:
        if not clustered or domains.share_resources(recent, target):
            return recent, tp.PLACE_RECENT
        later.append((recent, tp.PLACE_RECENT))
    if (
        rules.kthread_stack
        and rules.kthread_stack_after_recent
        and stacks_with_kthread(cpu, prev, waker_cpu)
    ):
        return prev, tp.PLACE_KTHREAD_STACK
    llc = domains.llc(target)
    if not llc:
        return target, tp.PLACE_TARGET
    search = search_once if rules.idle_scan_single_pass else search_in_turn
    found = search(cpu, p, prev, target, llc)
    if found[0] >= 0:
        return found
    return later[0] if later else (target, tp.PLACE_TARGET)


def stacks_with_kthread(cpu: Cpu, prev: int, waker_cpu: int) -> bool:
    """Whether the waker is a per-CPU kthread alone on the task's CPU, about to make room (5.6).

    The test looks at ``current``: before 5.17 an interrupt that hit such a kthread passes it too.
    """
    if prev != cpu.node_id or waker_cpu != prev or cpu.rq.nr_running > 1:
        return False
    if cpu.rq.rules.kthread_stack_in_task and cpu.level != frames.LEVEL_TASK:
        return False
    return affinity.is_per_cpu_kthread(cpu.rq.curr)


def recent_used_cpu(cpu: Cpu, p: Task, prev: int, target: int) -> int:
    """Return the CPU that the task used before the previous one if it will do; -1: it will not."""
    rules = cpu.rq.rules
    recent = p.recent_used_cpu
    if rules.recent_used_cpu_always:
        p.recent_used_cpu = prev
    if (
        recent in (prev, target)
        or not cpu.domains.share_cache(recent, target)
        or not affinity.cpu_flags(cpu, recent) & FREE
    ):
        return -1
    tested = p.recent_used_cpu if rules.recent_used_cpu_tests_prev else recent
    if not p.cpus_mask >> tested & 1:
        return -1
    p.recent_used_cpu = prev
    return recent


# -- has_idle_cores -----------------------------------------------------------------------------


def test_idle_cores(cpu: Cpu, llc: int) -> bool:
    """``test_idle_cores()``: what the newest of a cache's CPUs has written, as this CPU knows it."""
    newest = 0
    for other in for_each_cpu(llc):
        written = cpu.idle_cores if other == cpu.node_id else cpu.view(other)[RQ_IDLE_CORES]
        newest = max(newest, written)
    return bool(newest & 1)


def set_idle_cores(cpu: Cpu, llc: int, value: int) -> None:
    """``set_idle_cores()`` of this CPU's own cache."""
    if llc >> cpu.node_id & 1:
        cpu.idle_cores = cpu.now << 1 | value
        cpu.publish()


def update_idle_core(cpu: Cpu) -> None:
    """``update_idle_core()``: this CPU goes idle; say so if its SMT siblings are idle too."""
    llc = cpu.domains.llc(cpu.node_id)
    if not llc or test_idle_cores(cpu, llc):
        return
    for sibling in for_each_cpu(cpu.smt_siblings):
        if not cpu.view(sibling)[RQ_FLAGS] & RQF_IDLE:
            return
    set_idle_cores(cpu, llc, 1)


# -- Three searches (up to 5.11) ----------------------------------------------------------------


def search_in_turn(cpu: Cpu, p: Task, prev: int, target: int, llc: int) -> tuple[int, int]:
    """An idle core, then an idle CPU, then an idle sibling of the target; (-1, …): none."""
    del prev
    found = select_idle_core(cpu, p, target, llc)
    if found >= 0:
        return found, tp.PLACE_IDLE_CORE
    found = select_idle_cpu(cpu, p, target, llc)
    if found >= 0:
        return found, tp.PLACE_IDLE_CPU
    return select_idle_smt(cpu, p, target), tp.PLACE_IDLE_SMT


def select_idle_core(cpu: Cpu, p: Task, target: int, llc: int) -> int:
    """A core whose siblings are all idle; SMT machines only, while there may be one."""
    core = cpu.spec.machine.core
    if core[target].bit_count() < 2 or not test_idle_cores(cpu, llc):
        return -1
    mask = llc & p.cpus_mask
    for other in for_each_cpu_wrap(mask, target):
        if not mask >> other & 1:
            continue
        mask &= ~core[other]
        if all(affinity.cpu_flags(cpu, c) & RQF_IDLE for c in for_each_cpu(core[other])):
            return other
    set_idle_cores(cpu, llc, 0)
    return -1


def idle_cpu_budget(span_weight: int, avg_idle: int, avg_scan_cost: int) -> int:
    """SIS_PROP: how far a scan counts down (C.6 example 1).

    ``avg_idle`` is this CPU's average divided by 512, or its ``wake_avg_idle``.
    """
    avg_cost = avg_scan_cost + 1
    span = span_weight * avg_idle
    return span // avg_cost if span > 4 * avg_cost else 4


def select_idle_cpu(cpu: Cpu, p: Task, target: int, llc: int) -> int:
    """The first idle allowed CPU of the LLC from the target on, within a budget; -1: none."""
    rules, tun = cpu.rq.rules, cpu.rq.tun
    if not cpu.domains.llc(cpu.node_id):
        return -1  # this_sd is missing
    avg_idle = cpu.rq.avg_idle // 512
    if tun.sis_avg_cpu and avg_idle < cpu.scan_cost + 1:
        return -1
    nr = idle_cpu_budget(llc.bit_count(), avg_idle, cpu.scan_cost) if tun.sis_prop else UNLIMITED
    accepted = FREE if rules.idle_scan_sched_idle else RQF_IDLE
    sched_idle = found = -1
    looked = 0
    for other in for_each_cpu_wrap(llc & p.cpus_mask if rules.idle_scan_allowed else llc, target):
        nr -= 1
        if nr == 0:
            return sched_idle  # before the cost is averaged in
        looked += 1
        if not p.cpus_mask >> other & 1:
            continue
        flags = affinity.cpu_flags(cpu, other)
        if flags & accepted:
            found = other
            break
        if sched_idle == -1 and flags & RQF_SCHED_IDLE:
            sched_idle = other
    update_scan_cost(cpu, looked * SCAN_NS)
    return found


def update_scan_cost(cpu: Cpu, time_ns: int) -> None:
    """Average the cost of a scan into ``avg_scan_cost``: an eighth of the difference."""
    delta = time_ns - cpu.scan_cost
    if delta >= 0 or cpu.rq.rules.scan_cost_shift:
        cpu.scan_cost += delta >> 3
    else:
        cpu.scan_cost -= -delta // 8


def select_idle_smt(cpu: Cpu, p: Task, target: int) -> int:
    """The first allowed sibling of the target that is idle, else (up to 5.5) a sched-idle one."""
    siblings = cpu.spec.machine.core[target]
    if siblings.bit_count() < 2:
        return -1
    accepted = FREE if cpu.rq.rules.idle_scan_sched_idle else RQF_IDLE
    sched_idle = -1
    for other in for_each_cpu(siblings & p.cpus_mask):
        flags = affinity.cpu_flags(cpu, other)
        if flags & accepted:
            return other
        if sched_idle == -1 and flags & RQF_SCHED_IDLE:
            sched_idle = other
    return sched_idle


# -- One pass (from 5.12) -----------------------------------------------------------------------


def search_once(cpu: Cpu, p: Task, prev: int, target: int, llc: int) -> tuple[int, int]:
    """Siblings of prev if there is no idle core, then one pass over the LLC; (-1, …): none."""
    has_idle_core = False
    if cpu.spec.machine.core[target].bit_count() > 1:
        has_idle_core = test_idle_cores(cpu, llc)
        if not has_idle_core and cpu.domains.share_cache(prev, target):
            found = select_idle_smt_of_prev(cpu, p, prev, llc)
            if found >= 0:
                return found, tp.PLACE_IDLE_SMT
    tun = cpu.rq.tun
    nr = UNLIMITED
    if tun.sis_prop and not has_idle_core:
        nr = idle_cpu_budget(llc.bit_count(), wake_avg_idle(cpu), cpu.scan_cost)
    if tun.sis_util:
        nr = nr_idle_scan(cpu, target) + 1
        if nr == 1:
            return -1, tp.PLACE_TARGET  # an overloaded cache is unlikely to have an idle CPU
    scan = Scan(cpu, p, llc, target, nr)
    if has_idle_core:
        found = scan.for_core()
        return found, tp.PLACE_IDLE_CORE if scan.whole else tp.PLACE_IDLE_CPU
    found = scan.for_cpu()
    if tun.sis_prop and not scan.exhausted:
        time_ns = scan.looked * SCAN_NS
        cpu.rq.wake_avg_idle -= min(cpu.rq.wake_avg_idle, time_ns)
        update_scan_cost(cpu, time_ns)
    return found, tp.PLACE_IDLE_CPU


def select_idle_smt_of_prev(cpu: Cpu, p: Task, prev: int, llc: int) -> int:
    """The first allowed sibling of prev that is idle or sched-idle; from 6.1 not prev itself."""
    siblings = cpu.spec.machine.core[prev] & llc & p.cpus_mask
    if cpu.rq.rules.idle_smt_not_prev:
        siblings &= ~(1 << prev)
    for other in for_each_cpu(siblings):
        if affinity.cpu_flags(cpu, other) & FREE:
            return other
    return -1


def wake_avg_idle(cpu: Cpu) -> int:
    """Return this CPU's idle average for SIS_PROP, halved per jiffy since it was last updated.

    Without the rule it is the one of before: avg_idle / 512.
    """
    rq = cpu.rq
    if not rq.rules.wake_avg_idle:
        return rq.avg_idle // 512
    now = cpu.jiffies()
    while rq.wake_stamp < now and rq.wake_avg_idle:
        rq.wake_stamp += 1
        rq.wake_avg_idle >>= 1
    return rq.wake_avg_idle


def nr_idle_scan(cpu: Cpu, target: int) -> int:
    """Return ``sd_llc_shared->nr_idle_scan`` of the target's cache as the balancer published it."""
    return cpu.view(cpu.bal_node)[BAL_HEADER + BAL_NR_IDLE_SCAN * cpu.nr_cpus + target]


class Scan:
    """One pass over the allowed CPUs of a cache: the target's cluster first, where there is one."""

    __slots__ = ("core", "cpu", "exhausted", "llc", "looked", "mask", "nr", "order", "p", "whole")

    def __init__(self, cpu: Cpu, p: Task, llc: int, target: int, nr: int) -> None:
        self.cpu = cpu
        self.p = p
        self.core = cpu.spec.machine.core
        self.llc = llc
        self.mask = llc & p.cpus_mask  # still to be looked at
        self.nr = nr
        self.looked = 0
        self.exhausted = False
        self.whole = False
        start = target + 1 if cpu.rq.rules.idle_scan_from_next else target
        near = 0
        if cpu.rq.rules.idle_scan_cluster and cpu.domains.clusters:
            near = cpu.domains.clusters[target] & self.mask
        self.order = [
            *for_each_cpu_wrap(near, start),
            *for_each_cpu_wrap(self.mask & ~near, start),
        ]

    def for_cpu(self) -> int:
        """Return the first idle or sched-idle CPU within the budget, or -1."""
        for other in self.order:
            self.nr -= 1
            if self.nr <= 0:
                self.exhausted = True
                return -1
            self.looked += 1
            if affinity.cpu_flags(self.cpu, other) & FREE:
                return other
        return -1

    def for_core(self) -> int:
        """Return the first CPU of a wholly idle core, else the first idle CPU met, or -1.

        Finding no core clears ``has_idle_cores``.
        """
        remembered = -1
        for other in self.order:
            if not self.mask >> other & 1:
                continue  # its core was looked at
            self.whole, met = self.look_at_core(other, remembered < 0)
            if self.whole:
                return other
            if remembered < 0:
                remembered = met
            self.mask &= ~self.core[other]
        set_idle_cores(self.cpu, self.llc, 0)
        return remembered

    def look_at_core(self, other: int, remember: bool) -> tuple[bool, int]:
        """Return whether a core is wholly idle, and its first allowed idle CPU if one is wanted."""
        whole, met = True, -1
        for sibling in for_each_cpu(self.core[other]):
            flags = affinity.cpu_flags(self.cpu, sibling)
            allowed = self.p.cpus_mask >> sibling & 1
            if not flags & RQF_IDLE:
                whole = False
                if not remember or met >= 0:
                    break
                if flags & RQF_SCHED_IDLE and allowed:
                    return False, sibling
            elif remember and met < 0 and allowed:
                met = sibling
        return whole, met
