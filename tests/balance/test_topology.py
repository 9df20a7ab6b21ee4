"""Sched domains and groups: the tables of spec D.1 and D.2, hotplug, packing."""

from __future__ import annotations

import pytest

from emulator.balance.domain import (
    SD_BALANCE_EXEC,
    SD_NUMA,
    SD_PREFER_SIBLING,
    SD_SERIALIZE,
    SD_SHARE_CPUCAPACITY,
    SD_SHARE_PKG_RESOURCES,
    SD_WAKE_AFFINE,
    SchedDomain,
)
from emulator.balance.topology import (
    IntervalLimits,
    SchedDomains,
    domain_facts,
    get_sd_balance_interval,
    idle_next_balance,
    lowest_domain_spanning,
    max_load_balance_interval,
    sd_llc,
    unpack_sched_domains,
)
from emulator.topology import topology_levels
from emulator.types import NEVER, MachineSpec
from tests.balance.fakes import machine


def build(spec: MachineSpec, active: int | None = None) -> SchedDomains:
    return SchedDomains(spec, (1 << spec.nr_cpus) - 1 if active is None else active, 0)


def names(spec: MachineSpec, cpu: int = 0) -> list[tuple[str, int]]:
    return [(sd.name, sd.span_weight) for sd in build(spec).sd[cpu]]


@pytest.mark.parametrize(
    ("spec", "domains"),
    [
        (machine(4), [("MC", 4)]),
        (machine(16), [("MC", 16)]),
        (machine(16, llc=-1), [("DIE", 16)]),
        (machine(32, llc=16, core=2, node=16), [("SMT", 2), ("MC", 16), ("NUMA", 32)]),
        (machine(24, llc=12), [("MC", 12), ("DIE", 24)]),
        (machine(8, core=2, llc=8), [("SMT", 2), ("MC", 8)]),
        (machine(2, core=2, llc=2), [("SMT", 2)]),
        (machine(1), []),
    ],
)
def test_table_D_1_domains_per_cpu(spec: MachineSpec, domains: list[tuple[str, int]]) -> None:
    assert names(spec) == domains
    assert names(spec, spec.nr_cpus - 1) == domains


def test_table_D_1_levels() -> None:
    smt, mc, numa = build(machine(32, llc=16, core=2, node=16)).sd[5]
    (die,) = build(machine(16, llc=-1)).sd[5]
    assert [sd.imbalance_pct for sd in (smt, mc, die, numa)] == [110, 117, 125, 125]
    assert [sd.cache_nice_tries for sd in (smt, mc, die, numa)] == [0, 1, 1, 2]
    shares = SD_SHARE_CPUCAPACITY | SD_SHARE_PKG_RESOURCES
    assert [sd.flags & shares for sd in (smt, mc, die, numa)] == [
        shares,
        SD_SHARE_PKG_RESOURCES,
        0,
        0,
    ]
    assert all(sd.flags & SD_PREFER_SIBLING for sd in (smt, mc, die))
    assert numa.flags & SD_SERIALIZE
    assert numa.flags & SD_NUMA
    assert not numa.flags & SD_PREFER_SIBLING
    assert numa.flags & SD_BALANCE_EXEC
    assert (mc.min_interval, mc.balance_interval, mc.max_interval) == (16, 16, 32)
    assert mc.busy_factor == 32
    assert (smt.parent, mc.parent, mc.child, numa.child) == (mc, numa, smt, mc)


def test_D_1_far_nodes_lose_exec_fork_and_wake_affine() -> None:
    near = machine(8, llc=4, node=4)
    far = MachineSpec(
        near.nr_cpus,
        near.hz,
        near.core,
        near.llc,
        near.die,
        near.node,
        ((10, 31), (31, 10)),
    )
    flags = build(far).sd[0][-1].flags
    assert not flags & (SD_BALANCE_EXEC | SD_WAKE_AFFINE)
    assert build(near).sd[0][-1].flags & SD_WAKE_AFFINE


def test_D_1_a_dropped_parent_hands_on_prefer_sibling() -> None:
    spec = machine(32, llc=16, core=2, node=16)
    assert [level.name for level in topology_levels(spec)] == ["SMT", "MC", "DIE", "NODE", "NUMA"]
    mc = build(spec).sd[0][1]
    assert mc.name == "MC"
    assert mc.flags & SD_PREFER_SIBLING  # so the NUMA domain balances by task numbers too


def test_D_1_groups_start_local_and_go_on_ascending() -> None:
    domains = build(machine(4))
    assert [g.span for g in domains.sd[2][0].groups] == [4, 8, 1, 2]
    two = build(machine(24, llc=12))
    die = two.sd[13][1]
    low = (1 << 12) - 1
    assert [g.span for g in die.groups] == [low << 12, low]
    assert [g.weight for g in die.groups] == [12, 12]
    assert [g.capacity for g in die.groups] == [12 * 1024, 12 * 1024]
    assert die.groups[1].balance_mask == low


def test_D_1_a_group_is_shared_by_the_cpus_of_its_level() -> None:
    domains = build(machine(24, llc=12))
    domains.sd[3][1].groups[0].imbalance = 1
    assert domains.sd[20][1].groups[1].imbalance == 1
    assert domains.sd[20][1].groups[0].imbalance == 0


def test_D_1_ring_of_three_numa_nodes_overlaps() -> None:
    node = (0b000011, 0b000011, 0b001100, 0b001100, 0b110000, 0b110000)
    base = machine(6, llc=2)
    spec = MachineSpec(
        6, 1000, base.core, base.llc, node, node, ((10, 20, 30), (20, 10, 20), (30, 20, 10))
    )
    chain = build(spec).sd[0]
    assert [(sd.name, sd.span) for sd in chain] == [
        ("MC", 0b000011),
        ("NUMA", 0b001111),
        ("NUMA", 0b111111),
    ]
    # Node 2 is two hops away; its group at the top is what it sees at one hop.
    assert [g.span for g in chain[2].groups] == [0b001111, 0b111100]
    assert chain[2].groups[0].balance_mask == 0b000011
    assert chain[2].groups[1].balance_mask == 0b110000


def test_sd_llc_and_facts_for_cpus() -> None:
    domains = build(machine(24, llc=12))
    llc = sd_llc(domains.sd[0])
    assert llc is not None
    assert llc.span_weight == 12
    span, rows = domain_facts(domains.sd[13], 13)
    assert span == ((1 << 12) - 1) << 12
    assert [row[2:] for row in rows] == [[117, 1], [125, 1]]
    alone = build(machine(16, llc=-1))
    assert sd_llc(alone.sd[3]) is None
    assert domain_facts(alone.sd[3], 3)[0] == 1 << 3


def test_lowest_domain_spanning() -> None:
    chain = build(machine(24, llc=12)).sd[0]
    assert lowest_domain_spanning(chain, 11) is chain[0]
    assert lowest_domain_spanning(chain, 12) is chain[1]
    assert lowest_domain_spanning([], 1) is None


def test_hotplug_rebuild_leaves_the_cpu_out_and_starts_afresh() -> None:
    spec = machine(4)
    domains = SchedDomains(spec, 0b1011, 77)
    assert domains.sd[2] == []
    assert [(sd.span, sd.balance_interval, sd.last_balance) for sd in domains.sd[0]] == [
        (0b1011, 3, 77)
    ]
    assert [g.span for g in domains.sd[3][0].groups] == [8, 1, 2]
    assert SchedDomains(spec, 0b0010, 0).sd == [[], [], [], []]


@pytest.mark.parametrize(
    ("hz", "weight", "idle", "idle_twice", "busy", "limit"),
    [
        (250, 2, 1, 1, 16, 50),
        (250, 4, 1, 2, 32, 100),
        (250, 8, 2, 4, 64, 200),
        (250, 16, 4, 8, 128, 400),
        (250, 64, 16, 32, 512, 1600),
        (1000, 4, 4, 8, 128, 400),
        (1000, 8, 8, 16, 256, 800),
        (1000, 16, 16, 32, 512, 1600),
        (1000, 64, 64, 128, 2048, 6400),
    ],
)
def test_table_D_2_intervals(
    hz: int, weight: int, idle: int, idle_twice: int, busy: int, limit: int
) -> None:
    sd = SchedDomain(0, 0, "MC", (1 << weight) - 1, 0)
    limits = IntervalLimits(hz, weight)
    assert max_load_balance_interval(hz, weight) == limits.most == limit
    assert get_sd_balance_interval(sd, False, limits) == idle
    assert get_sd_balance_interval(sd, True, limits) == busy
    sd.balance_interval *= 2
    assert get_sd_balance_interval(sd, False, limits) == idle_twice
    sd.balance_interval = 1 << 20
    assert get_sd_balance_interval(sd, False, limits) == limit


def test_idle_next_balance() -> None:
    chain = SchedDomains(machine(4, hz=250), 15, 100).sd[0]
    assert idle_next_balance(chain, IntervalLimits(250, 4)) == 101
    assert idle_next_balance([], IntervalLimits(250, 4)) == NEVER


def test_domains_pack_and_unpack() -> None:
    spec = machine(8, llc=4)
    domains = SchedDomains(spec, 0b11101111, 9)
    domains.sd[0][1].groups[0].imbalance = 1
    domains.sd[5][0].nr_balance_failed = 3
    domains.sd[5][0].lb[2][4] = 17
    again = unpack_sched_domains(spec, domains.pack())
    assert again.pack() == domains.pack()
    assert again.sd[1][1].groups[0].imbalance == 1
    assert again.sd[5][0].nr_balance_failed == 3
