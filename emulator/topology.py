"""What every room must know of the sched domains: levels, flags, who shares a cache.

Theory of operation
-------------------
A machine is described by masks (SMT siblings, cluster, shared cache, node).  Each topology level
(:func:`topology_levels`) gives a CPU one domain, whose span is that CPU's mask of the level among the
active CPUs.  Levels that add nothing are dropped (:func:`is_degenerate`,
:func:`is_degenerate_parent`).  All of this is a function of (machine, rules, active CPUs), so the
balancer, which owns the domains with their counters, and a CPU that places a task come to the same
domains without telling each other more than which CPUs are active: :class:`DomainMap` is what a CPU
knows.

Models ``kernel/sched/topology.c`` (``default_topology``, ``sched_init_numa()``, ``sd_init()``,
``sd_degenerate()``, ``build_sched_groups()``, ``update_top_cache_domain()``), v5.4 and by rules later
ones.

Departures: capacities are symmetric, so the asymmetric-capacity and packing flags are left out; the
DIE level spans the node, which is what ``cpu_cpu_mask()`` gives on x86, so ``MachineSpec.die`` is not
looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from emulator.rules import Rules
from emulator.types import MachineSpec, for_each_cpu

# sd.flags, kernel numbers of v5.4.
SD_LOAD_BALANCE = 0x0001
SD_BALANCE_NEWIDLE = 0x0002
SD_BALANCE_EXEC = 0x0004
SD_BALANCE_FORK = 0x0008
SD_BALANCE_WAKE = 0x0010  # asked for by a wakeup; no domain has it
SD_WAKE_AFFINE = 0x0020
SD_SHARE_CPUCAPACITY = 0x0080
SD_SHARE_PKG_RESOURCES = 0x0200
SD_SERIALIZE = 0x0400
SD_PREFER_SIBLING = 0x1000
SD_NUMA = 0x4000
SD_CLUSTER = 0x8000  # v6.12's; v5.4 has no such flag

# Flags that mean nothing in a domain of a single group.
SD_NEEDS_GROUPS = (
    SD_LOAD_BALANCE
    | SD_BALANCE_NEWIDLE
    | SD_BALANCE_EXEC
    | SD_BALANCE_FORK
    | SD_SHARE_CPUCAPACITY
    | SD_SHARE_PKG_RESOURCES
    | SD_CLUSTER
)

#: NUMA domains that reach further balance neither forks nor execs and pull no wakeups.
NODE_RECLAIM_DISTANCE = 30


class TopologyLevel:
    """``struct sched_domain_topology_level``: a name, a mask per CPU, flags, NUMA distance."""

    __slots__ = ("distance", "flags", "masks", "name")

    def __init__(self, name: str, masks: list[int], flags: int, distance: int = 0) -> None:
        self.name = name
        self.masks = masks
        self.flags = flags
        self.distance = distance


# -- Levels -------------------------------------------------------------------------------------


def topology_levels(machine: MachineSpec, rules: Rules = Rules()) -> list[TopologyLevel]:
    """Return a machine's levels, lowest first (``default_topology``, ``sched_init_numa()``)."""
    cpus = range(machine.nr_cpus)
    share = SD_SHARE_PKG_RESOURCES
    levels = [
        TopologyLevel("SMT", [machine.core[c] | 1 << c for c in cpus], share | SD_SHARE_CPUCAPACITY)
    ]
    if rules.sd_cluster and machine.cluster:
        levels.append(TopologyLevel("CLS", list(machine.cluster), share | SD_CLUSTER))
    # The threads of a core share its caches, whatever else does not.
    levels.append(
        TopologyLevel("MC", [machine.llc[c] | machine.core[c] | 1 << c for c in cpus], share)
    )
    levels.append(TopologyLevel("DIE", [machine.node[c] | 1 << c for c in cpus], 0))
    nodes = list(dict.fromkeys(machine.node))
    if len(nodes) > 1:
        levels.append(TopologyLevel("NODE", list(machine.node), 0))
        levels += [_numa_level(machine, nodes, d) for d in _numa_distances(machine, len(nodes))]
    return levels


def _numa_distances(machine: MachineSpec, nr_nodes: int) -> list[int]:
    rows = machine.node_distance[:nr_nodes]
    seen = {row[j] for i, row in enumerate(rows) for j in range(nr_nodes) if j != i}
    return sorted(seen)


def _numa_level(machine: MachineSpec, nodes: list[int], distance: int) -> TopologyLevel:
    masks = []
    for cpu in range(machine.nr_cpus):
        row = machine.node_distance[nodes.index(machine.node[cpu])]
        near = [n for j, n in enumerate(nodes) if row[j] <= distance or n >> cpu & 1]
        masks.append(sum(near))
    return TopologyLevel("NUMA", masks, SD_NUMA, distance)


def domain_flags(level: TopologyLevel) -> int:
    """Return the flags of a new domain of a level (``sd_init()``)."""
    flags = level.flags | SD_LOAD_BALANCE | SD_BALANCE_NEWIDLE | SD_BALANCE_EXEC
    flags |= SD_BALANCE_FORK | SD_WAKE_AFFINE | SD_PREFER_SIBLING
    if level.flags & SD_NUMA:
        flags = flags & ~SD_PREFER_SIBLING | SD_SERIALIZE
        if level.distance > NODE_RECLAIM_DISTANCE:
            flags &= ~(SD_BALANCE_EXEC | SD_BALANCE_FORK | SD_WAKE_AFFINE)
    return flags


def imbalance_pct(level: TopologyLevel, rules: Rules) -> int:
    """Return ``imbalance_pct`` of a level's domains, in percent of the local load."""
    if level.flags & SD_SHARE_CPUCAPACITY:
        return 110
    if level.flags & SD_SHARE_PKG_RESOURCES or rules.lb_imbalance_pct_117:
        return 117
    return 125


def cache_nice_tries(level: TopologyLevel) -> int:
    """Return after how many failed passes a level's domains move cache-hot tasks too."""
    if level.flags & SD_SHARE_CPUCAPACITY:
        return 0
    return 2 if level.flags & SD_NUMA and not level.flags & SD_SHARE_PKG_RESOURCES else 1


# -- Groups, degenerate levels ------------------------------------------------------------------


def group_spans(span: int, cpu: int, child: Callable[[int], int]) -> list[int]:
    """Return the spans of a domain's groups: the local one, then on in ascending CPU order.

    ``child`` gives the span of a CPU's domain one level below, before any was dropped.  Kernel:
    ``build_sched_groups()`` and ``build_overlap_sched_groups()``, which agree where groups do not
    overlap.
    """
    groups = []
    covered = 0
    for other in for_each_cpu_wrap(span, cpu):
        if not covered >> other & 1:
            groups.append(child(other))
            covered |= groups[-1]
    return groups


def for_each_cpu_wrap(mask: int, start: int) -> list[int]:
    """Return the CPUs of a mask in ascending order from ``start``, wrapping round."""
    below = mask & (1 << start) - 1
    return [*for_each_cpu(mask ^ below), *for_each_cpu(below)]


def is_degenerate(span: int, flags: int, nr_groups: int) -> bool:
    """Return whether a domain can do nothing: one CPU, or one group and no flag without groups."""
    if span & (span - 1) == 0:
        return True
    if nr_groups > 1 and flags & SD_NEEDS_GROUPS:
        return False
    return not flags & SD_WAKE_AFFINE


def is_degenerate_parent(
    child_span: int, child_flags: int, span: int, flags: int, nr_groups: int
) -> bool:
    """Return whether a domain adds nothing to its child (``sd_parent_degenerate()``)."""
    if is_degenerate(span, flags, nr_groups):
        return True
    if span != child_span:
        return False
    if nr_groups == 1:
        flags &= ~(SD_NEEDS_GROUPS | SD_PREFER_SIBLING)
    return not flags & ~child_flags


def imb_numa_nrs(spans: list[int], flags: list[int]) -> list[int]:
    """Return, per domain of an undropped chain, how many tasks may run on one NUMA node (≥ 5.18).

    An eighth of the first domain beyond one LLC if that holds no second one, else one task per LLC; in
    wider domains in proportion to the first NUMA domain.  Kernel: ``build_sched_domains()``.
    """
    found: list[int] = []
    allowed, width = 0, 1
    for number, (span, own) in enumerate(zip(spans, flags, strict=True)):
        if number and flags[number - 1] & ~own & SD_SHARE_PKG_RESOURCES:
            weight = span.bit_count()
            llcs = weight // spans[number - 1].bit_count()
            allowed = max(1, weight >> 3 if llcs == 1 else llcs)
            found.append(allowed)
            numa = (spans[k] for k in range(number + 1, len(spans)) if flags[k] & SD_NUMA)
            width = next(numa, span).bit_count()
        else:
            found.append(allowed * max(1, span.bit_count() // width))
    return found


# -- What a CPU knows of the domains ------------------------------------------------------------


class DomainFacts(NamedTuple):
    """One domain of one CPU, as placement needs it."""

    name: str
    span: int
    flags: int
    imbalance_pct: int
    imb_numa_nr: int
    groups: tuple[int, ...]  #: spans, the local one first


class DomainMap:
    """The domains of all CPUs for one set of active CPUs, each built when it is first asked for."""

    __slots__ = ("_chains", "_levels", "_llc", "_rules", "active_mask", "clusters")

    def __init__(self, machine: MachineSpec, rules: Rules, active_mask: int) -> None:
        self.active_mask = active_mask
        self._rules = rules
        self._levels = topology_levels(machine, rules)
        self._chains: list[tuple[DomainFacts, ...] | None] = [None] * machine.nr_cpus
        self._llc = [-1] * machine.nr_cpus
        #: Per CPU the mask of its cluster; empty if clusters are no domains.
        self.clusters = machine.cluster if rules.sd_cluster else ()

    def chain(self, cpu: int) -> tuple[DomainFacts, ...]:
        """Return a CPU's domains, lowest first; empty for a CPU that is in none."""
        found = self._chains[cpu]
        if found is None:
            found = self._chains[cpu] = self._build(cpu)
        return found

    def _build(self, cpu: int) -> tuple[DomainFacts, ...]:
        if not self.active_mask >> cpu & 1:
            return ()
        chain: list[DomainFacts] = []
        for sd in self._undropped(cpu):
            nr_groups = len(sd.groups)
            if chain and is_degenerate_parent(
                chain[-1].span, chain[-1].flags, sd.span, sd.flags, nr_groups
            ):
                # The child now stands for the dropped level, also in what it prefers.
                merged = chain[-1].flags | sd.flags & SD_PREFER_SIBLING
                chain[-1] = chain[-1]._replace(flags=merged)
            else:
                chain.append(sd)
        if chain and is_degenerate(chain[0].span, chain[0].flags, len(chain[0].groups)):
            del chain[0]
        return tuple(chain)

    # One domain per level, up to the first that spans every active CPU.
    def _undropped(self, cpu: int) -> list[DomainFacts]:
        levels: list[TopologyLevel] = []
        for level in self._levels:
            levels.append(level)
            if level.masks[cpu] & self.active_mask == self.active_mask:
                break
        spans = [level.masks[cpu] & self.active_mask for level in levels]
        flags = [domain_flags(level) for level in levels]
        allowed = imb_numa_nrs(spans, flags)
        return [
            DomainFacts(
                level.name,
                spans[number],
                flags[number],
                imbalance_pct(level, self._rules),
                allowed[number],
                tuple(group_spans(spans[number], cpu, partial(self._child, number))),
            )
            for number, level in enumerate(levels)
        ]

    def _child(self, level: int, cpu: int) -> int:
        return self._levels[level - 1].masks[cpu] & self.active_mask if level else 1 << cpu

    def llc(self, cpu: int) -> int:
        """Return the span of a CPU's highest domain that shares a cache (``sd_llc``); 0: none."""
        found = self._llc[cpu]
        if found < 0:
            found = 0
            for sd in self.chain(cpu):
                if sd.flags & SD_SHARE_PKG_RESOURCES:
                    found = sd.span
            self._llc[cpu] = found
        return found

    def share_cache(self, a: int, b: int) -> bool:
        """``cpus_share_cache()``: the same last-level cache, or the same CPU."""
        return a == b or bool(self.llc(a) >> b & 1)

    def share_resources(self, a: int, b: int) -> bool:
        """``cpus_share_resources()``: the same cluster, or without clusters the same cache."""
        if self.clusters:
            return bool(self.clusters[a] >> b & 1)
        return self.share_cache(a, b)

    def wake_affine_domain(self, here: int, prev: int) -> DomainFacts | None:
        """Return the lowest domain of ``here`` with WAKE_AFFINE that spans ``prev``, if any."""
        for sd in self.chain(here):
            if sd.flags & SD_WAKE_AFFINE and sd.span >> prev & 1:
                return sd
        return None

    def highest_with(self, cpu: int, flag: int, below_weight: int = 1 << 30) -> int:
        """Return the index of a CPU's largest domain smaller than that which has a flag; -1: none."""
        found = -1
        for index, sd in enumerate(self.chain(cpu)):
            if sd.span.bit_count() >= below_weight:
                break
            if sd.flags & flag:
                found = index
        return found
