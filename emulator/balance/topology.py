"""Sched domains and groups: ``kernel/sched/topology.c``.

Theory of operation
-------------------
A machine is described by masks (SMT siblings, shared cache, node).  Each topology level gives every
CPU one :class:`SchedDomain` whose span is that CPU's mask of the level, restricted to the active
CPUs.  The groups of a domain are the spans of the level below; a :class:`SchedGroup` is shared by
all CPUs that see it at that level, because its ``imbalance`` flag is how the level below tells the
level above that affinity was in the way.  Levels that add nothing are dropped, so that what is
left per CPU is a short list, lowest first: ``sd.parent`` is the next item.

Domains are a function of (machine, active CPUs, time of building).  A hotplug event builds new ones
and the old ones with their counters are gone, as in the kernel.

What a level's domains are, their flags, limits and groups, is in :mod:`emulator.topology`, which the
CPUs know too; here they get their state.

Departures: capacities are symmetric and constant (1024 per CPU), so ``update_group_capacity()`` is
left out; overlapping NUMA groups keep one ``imbalance`` flag per (level, span) and not one per
balance CPU.
"""

from __future__ import annotations

from typing import Any

from emulator.balance.domain import (
    SD_PREFER_SIBLING,
    SD_SHARE_PKG_RESOURCES,
    SchedDomain,
    SchedGroup,
)
from emulator.rules import Rules
from emulator.topology import (
    SD_NUMA,
    TopologyLevel,
    cache_nice_tries,
    domain_flags,
    group_spans,
    imbalance_pct,
    is_degenerate,
    is_degenerate_parent,
    topology_levels,
)
from emulator.types import NEVER, MachineSpec, cpumask_first, for_each_cpu


class SchedDomains:
    """All domains of a machine for one set of active CPUs."""

    __slots__ = ("active_mask", "groups", "jiffies", "rules", "sd")

    def __init__(
        self, machine: MachineSpec, active_mask: int, jiffies: int, rules: Rules = Rules()
    ) -> None:
        self.active_mask = active_mask
        self.jiffies = jiffies
        self.rules = rules
        self.groups: dict[tuple[int, int], SchedGroup] = {}  # by (level, span)
        #: Per CPU its domains, lowest first; empty for a CPU that never balances.
        self.sd: list[list[SchedDomain]] = build_sched_domains(self, machine)

    def pack(self) -> list[Any]:
        """Return the state that a rebuild from (machine, active_mask, jiffies) does not give."""
        return [
            self.active_mask,
            self.jiffies,
            [group.imbalance for group in self.groups.values()],
            [[sd.pack() for sd in chain] for chain in self.sd],
        ]


def unpack_sched_domains(
    machine: MachineSpec, data: list[Any], rules: Rules = Rules()
) -> SchedDomains:
    """Rebuild domains from :meth:`SchedDomains.pack`."""
    active_mask, jiffies, imbalances, chains = data
    domains = SchedDomains(machine, active_mask, jiffies, rules)
    for group, imbalance in zip(domains.groups.values(), imbalances, strict=True):
        group.imbalance = imbalance
    for chain, packed in zip(domains.sd, chains, strict=True):
        for sd, item in zip(chain, packed, strict=True):
            sd.unpack(item)
    return domains


def build_sched_domains(domains: SchedDomains, machine: MachineSpec) -> list[list[SchedDomain]]:
    """Build the domains of every active CPU and drop the degenerate ones.

    Kernel: ``build_sched_domains()``.  Inactive CPUs get none.
    """
    levels = topology_levels(machine, domains.rules)
    full: list[list[SchedDomain]] = [[] for _ in range(machine.nr_cpus)]
    for cpu in for_each_cpu(domains.active_mask):
        full[cpu] = _build_chain(levels, cpu, domains)
        set_imb_numa_nr(full[cpu])
    for cpu in for_each_cpu(domains.active_mask):
        for sd in full[cpu]:
            build_sched_groups(domains.groups, sd, full, machine.core)
    return [cpu_attach_domain(chain) for chain in full]


def _build_chain(levels: list[TopologyLevel], cpu: int, domains: SchedDomains) -> list[SchedDomain]:
    # One CPU's domains, up to the first that spans every active CPU.
    chain: list[SchedDomain] = []
    for number, level in enumerate(levels):
        sd = sd_init(level, number, cpu, domains)
        if chain:
            sd.child = chain[-1]
            chain[-1].parent = sd
            assert chain[-1].span & ~sd.span == 0, f"{sd.name} of CPU {cpu} cuts its child"
        chain.append(sd)
        if sd.span == domains.active_mask:
            break
    return chain


def sd_init(level: TopologyLevel, number: int, cpu: int, domains: SchedDomains) -> SchedDomain:
    """Return a new domain of ``cpu`` with the flags and limits of its level (``sd_init()``)."""
    span = level.masks[cpu] & domains.active_mask
    sd = SchedDomain(cpu, number, level.name, span, domains.jiffies)
    sd.flags = domain_flags(level)
    sd.imbalance_pct = imbalance_pct(level, domains.rules)
    sd.cache_nice_tries = cache_nice_tries(level)
    if domains.rules.lb_busy_factor_16:
        sd.busy_factor = 16
    return sd


def set_imb_numa_nr(chain: list[SchedDomain]) -> None:
    """Set how many tasks may run on one node before the others must help, per domain (≥ 5.18).

    An eighth of the first domain beyond one LLC if it holds only one, else one task per LLC; in
    wider domains in proportion to the first NUMA domain.  Kernel: ``build_sched_domains()``.
    """
    allowed, width = 0, 1
    for sd in chain:
        child = sd.child
        beyond = child is not None and bool(child.flags & SD_SHARE_PKG_RESOURCES)
        if child is not None and beyond and not sd.flags & SD_SHARE_PKG_RESOURCES:
            llcs = sd.span_weight // child.span_weight
            allowed = max(1, sd.span_weight >> 3 if llcs == 1 else llcs)
            sd.imb_numa_nr = allowed
            top = sd.parent
            while top is not None and not top.flags & SD_NUMA:
                top = top.parent
            width = top.span_weight if top is not None else sd.span_weight
        else:
            sd.imb_numa_nr = allowed * max(1, sd.span_weight // width)


def build_sched_groups(
    shared: dict[tuple[int, int], SchedGroup],
    sd: SchedDomain,
    full: list[list[SchedDomain]],
    core: tuple[int, ...],
) -> None:
    """Give a domain its ring of groups, shared by all CPUs that see them at this level."""
    for span in group_spans(sd.span, sd.cpu, lambda cpu: _child_span(full, cpu, sd.level)):
        key = (sd.level, span)
        if key not in shared:
            same = [c for c in for_each_cpu(span) if _child_span(full, c, sd.level) == span]
            cores = len({core[c] | 1 << c for c in for_each_cpu(span)})
            shared[key] = SchedGroup(span, sum(1 << c for c in same), cores)
        sd.groups.append(shared[key])


def _child_span(full: list[list[SchedDomain]], cpu: int, level: int) -> int:
    return full[cpu][level - 1].span if level else 1 << cpu


def cpu_attach_domain(chain: list[SchedDomain]) -> list[SchedDomain]:
    """Drop the degenerate domains of one CPU and return the rest (``cpu_attach_domain()``)."""
    kept: list[SchedDomain] = []
    for sd in chain:
        if kept and sd_parent_degenerate(kept[-1], sd):
            # The child now stands for the dropped level, also in what it prefers.
            kept[-1].flags |= sd.flags & SD_PREFER_SIBLING
            continue
        kept.append(sd)
    if kept and sd_degenerate(kept[0]):
        kept = kept[1:]
    for i, sd in enumerate(kept):
        sd.child = kept[i - 1] if i else None
        sd.parent = kept[i + 1] if i + 1 < len(kept) else None
    return kept


def sd_degenerate(sd: SchedDomain) -> bool:
    """Return whether a domain can do nothing: one CPU, or one group and no flag without groups."""
    return is_degenerate(sd.span, sd.flags, len(sd.groups))


def sd_parent_degenerate(sd: SchedDomain, parent: SchedDomain) -> bool:
    """Return whether a parent adds nothing to its child (``sd_parent_degenerate()``)."""
    nr_groups = len(parent.groups)
    return is_degenerate_parent(sd.span, sd.flags, parent.span, parent.flags, nr_groups)


def sd_llc(chain: list[SchedDomain]) -> SchedDomain | None:
    """Return the highest domain that shares the last-level cache (``per_cpu(sd_llc)``), if any."""
    found = None
    for sd in chain:
        if sd.flags & SD_SHARE_PKG_RESOURCES:
            found = sd
    return found


def domain_facts(chain: list[SchedDomain], cpu: int) -> list[Any]:
    """Return what a CPU must know of its domains: [LLC span, [[span, flags, pct, tries], …]].

    The payload of PUBLISH_DOMAINS; the LLC span is the CPU alone where no domain shares a cache.
    """
    llc = sd_llc(chain)
    rows = [[sd.span, sd.flags, sd.imbalance_pct, sd.cache_nice_tries] for sd in chain]
    return [llc.span if llc is not None else 1 << cpu, rows]


def lowest_domain_spanning(chain: list[SchedDomain], cpu: int) -> SchedDomain | None:
    """Return the lowest domain of a chain whose span holds ``cpu``, or None."""
    for sd in chain:
        if sd.span >> cpu & 1:
            return sd
    return None


def group_balance_cpu(group: SchedGroup) -> int:
    """Return the CPU that balances for a group when none of it is idle."""
    return cpumask_first(group.balance_mask)


def max_load_balance_interval(hz: int, nr_online: int) -> int:
    """Return the upper limit of a balance interval in jiffies (``update_max_interval()``)."""
    return hz * nr_online // 10


def msecs_to_jiffies(milliseconds: int, hz: int) -> int:
    """Return a span in jiffies, rounded up."""
    return -(-milliseconds * hz // 1000)


class IntervalLimits:
    """What bounds every balance interval of a box, in jiffies."""

    __slots__ = ("busy_less", "hz", "least", "most")

    def __init__(self, hz: int, nr_online: int, rules: Rules = Rules()) -> None:
        self.hz = hz
        self.least = 1
        self.most = max_load_balance_interval(hz, nr_online)
        self.busy_less = int(rules.lb_busy_interval_less_1)


def get_sd_balance_interval(sd: SchedDomain, busy: bool, limits: IntervalLimits) -> int:
    """Return the balance interval in jiffies, within the limits (``get_sd_balance_interval()``)."""
    interval = msecs_to_jiffies(sd.balance_interval * (sd.busy_factor if busy else 1), limits.hz)
    if busy:
        # So that the levels of one CPU do not come due at the same tick again and again.
        interval -= limits.busy_less
    return max(1, min(max(interval, limits.least), limits.most))


def idle_next_balance(chain: list[SchedDomain], limits: IntervalLimits) -> int:
    """Return when the lowest domain is due for an idle CPU, in jiffies; NEVER without domains."""
    if not chain:
        return NEVER
    return chain[0].last_balance + get_sd_balance_interval(chain[0], False, limits)
