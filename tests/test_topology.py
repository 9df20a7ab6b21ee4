"""What CPUs and the balancer must agree on: levels, flags, groups, who shares a cache (D.1)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.balance import topology as balance
from emulator.rules import VERSIONS, Rules, rules_of
from emulator.topology import (
    SD_BALANCE_FORK,
    SD_CLUSTER,
    SD_NUMA,
    SD_WAKE_AFFINE,
    DomainMap,
    for_each_cpu_wrap,
    group_spans,
    imb_numa_nrs,
)
from emulator.types import MachineSpec
from tests.kernel.box import machine


def names(domains: DomainMap, cpu: int) -> list[str]:
    """Return the levels of a CPU that were kept."""
    return [sd.name for sd in domains.chain(cpu)]


def everybody(spec: MachineSpec, rules: Rules = Rules()) -> DomainMap:
    """Return the domains with every CPU active."""
    return DomainMap(spec, rules, (1 << spec.nr_cpus) - 1)


def far_nodes(*distances: tuple[int, ...], cpus: int = 8) -> MachineSpec:
    """Return a machine of one node per row, an LLC each."""
    each = cpus // len(distances)
    return replace(machine(cpus, llc=each, node=each), node_distance=distances)


#: Four nodes: 0-1 and 2-3 are near, the pairs are far.
FOUR_NODES = far_nodes((10, 20, 40, 40), (20, 10, 40, 40), (40, 40, 10, 20), (40, 40, 20, 10))


# -- The table of D.1 ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "kept", "pct"),
    [
        (machine(4), ["MC"], [117]),
        (machine(16), ["MC"], [117]),
        (machine(16, llc=-1), ["DIE"], [125]),
        (machine(32, llc=16, core=2, node=16), ["SMT", "MC", "NUMA"], [110, 117, 125]),
        (machine(8, llc=4), ["MC", "DIE"], [117, 125]),
        (FOUR_NODES, ["MC", "NUMA", "NUMA"], [117, 125, 125]),
        (machine(1), [], []),
    ],
)
def test_the_domains_of_machines(spec: MachineSpec, kept: list[str], pct: list[int]) -> None:
    domains = everybody(spec)
    assert names(domains, 0) == kept
    assert [sd.imbalance_pct for sd in domains.chain(0)] == pct
    later = everybody(spec, Rules(lb_imbalance_pct_117=True))
    assert [sd.imbalance_pct for sd in later.chain(0)] == [min(one, 117) for one in pct]


def test_groups_are_the_domains_below_the_local_one_first() -> None:
    domains = everybody(machine(8, llc=4, node=4, core=2))
    assert [sd.groups for sd in domains.chain(5)] == [
        (0x20, 0x10),
        (0x30, 0xC0),
        (0xF0, 0x0F),
    ]


def test_beyond_the_reclaim_distance_nothing_is_forked_or_pulled() -> None:
    chain = everybody(FOUR_NODES).chain(0)
    assert [sd.span for sd in chain] == [0b11, 0b1111, 0xFF]
    assert [bool(sd.flags & SD_BALANCE_FORK) for sd in chain] == [True, True, False]
    assert [bool(sd.flags & SD_WAKE_AFFINE) for sd in chain] == [True, True, False]
    domains = everybody(FOUR_NODES)
    assert domains.highest_with(0, SD_BALANCE_FORK) == 1
    near = domains.wake_affine_domain(0, 3)
    assert near is not None
    assert near.flags & SD_NUMA
    assert domains.wake_affine_domain(0, 4) is None


def test_inactive_cpus_are_in_no_domain_and_share_no_cache() -> None:
    domains = DomainMap(machine(4), Rules(), 0b1011)
    assert domains.chain(2) == ()
    assert domains.llc(2) == 0
    assert domains.llc(0) == 0b1011
    assert not domains.share_cache(0, 2)
    assert domains.share_cache(2, 2)
    assert domains.chain(0)[0].groups == (0b1, 0b10, 0b1000)


def test_no_cache_is_shared_among_sixteen_sockets() -> None:
    domains = everybody(machine(16, llc=-1))
    assert [domains.llc(cpu) for cpu in range(16)] == [0] * 16
    assert not domains.share_cache(0, 1)


def test_clusters_are_a_level_from_5_16() -> None:
    spec = replace(machine(8), cluster=tuple(0b1111 << c // 4 * 4 for c in range(8)))
    assert names(everybody(spec, rules_of("5.15")), 0) == ["MC"]
    domains = everybody(spec, rules_of("6.1"))
    assert names(domains, 0) == ["CLS", "MC"]
    assert domains.chain(0)[0].flags & SD_CLUSTER
    assert domains.chain(0)[1].groups == (0x0F, 0xF0)
    assert domains.share_resources(0, 3)
    assert not domains.share_resources(0, 4)
    assert domains.share_cache(0, 4)
    assert everybody(spec, rules_of("5.15")).share_resources(0, 4)


def test_imb_numa_nr_is_an_eighth_of_a_node_with_one_cache_else_one_per_cache() -> None:
    chain = everybody(machine(32, llc=16, core=2, node=16)).chain(0)
    assert [sd.imb_numa_nr for sd in chain] == [0, 0, 2]
    chain = everybody(machine(16, llc=2, node=8)).chain(0)
    assert [sd.imb_numa_nr for sd in chain] == [0, 4, 4]
    assert imb_numa_nrs([0b1, 0xFF], [0, 0]) == [0, 0]


def test_for_each_cpu_wrap_wraps() -> None:
    assert for_each_cpu_wrap(0b1011, 1) == [1, 3, 0]
    assert for_each_cpu_wrap(0b1011, 4) == [0, 1, 3]
    assert group_spans(0b1111, 2, lambda cpu: 0b11 << cpu // 2 * 2) == [0b1100, 0b0011]


# -- Both rooms ------------------------------------------------------------------------------------


@st.composite
def machines(draw: st.DrawFn) -> MachineSpec:
    """Return machines whose groups nest: threads in clusters in caches in nodes."""
    threads = draw(st.sampled_from([1, 2]))
    cluster = threads * draw(st.sampled_from([1, 2]))
    llc = cluster * draw(st.sampled_from([1, 2, 3]))
    node = llc * draw(st.sampled_from([1, 2]))
    nodes = draw(st.integers(1, 4))
    spec = machine(node * nodes, llc=llc, core=threads, node=node)
    far = draw(st.sampled_from([20, 30, 40]))
    table = tuple(
        tuple(10 if i == j else 20 if i // 2 == j // 2 else far for j in range(nodes))
        for i in range(nodes)
    )
    groups = tuple(((1 << cluster) - 1) << c // cluster * cluster for c in range(spec.nr_cpus))
    shared = draw(st.booleans())
    return replace(
        spec,
        node_distance=table,
        llc=spec.llc if shared else (0,) * spec.nr_cpus,
        cluster=groups if shared and draw(st.booleans()) else (),
    )


@given(spec=machines(), version=st.sampled_from(VERSIONS), offline=st.integers(0, (1 << 48) - 1))
def test_a_cpu_and_the_balancer_know_the_same_domains(
    spec: MachineSpec, version: str, offline: int
) -> None:
    rules = rules_of(version)
    active = ((1 << spec.nr_cpus) - 1) & ~offline or 1
    owned = balance.SchedDomains(spec, active, 0, rules)
    known = DomainMap(spec, rules, active)
    for cpu in range(spec.nr_cpus):
        assert [
            (sd.name, sd.span, sd.flags, sd.imbalance_pct, [g.span for g in sd.groups])
            for sd in owned.sd[cpu]
        ] == [
            (sd.name, sd.span, sd.flags, sd.imbalance_pct, list(sd.groups))
            for sd in known.chain(cpu)
        ]
        assert balance.domain_facts(owned.sd[cpu], cpu)[0] == (known.llc(cpu) or 1 << cpu)
