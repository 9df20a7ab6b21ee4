"""Fork and exec placement down the domains against scheduler.md C.5, in every version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emulator import tracepoints as tp
from emulator.kernel import idlest, placement
from emulator.kernel.cpu import Cpu
from emulator.kernel.idlest import GroupStats, find_idlest_group_by_type, find_idlest_group_cpu
from emulator.kernel.sched import Task
from emulator.rules import Rules, rules_of
from emulator.topology import SD_BALANCE_EXEC, SD_BALANCE_FORK, SD_NUMA, DomainFacts
from emulator.trace.memory import MemoryRing
from emulator.types import MachineSpec
from tests.kernel.box import (
    FixedBoard,
    facts,
    lone_cpu,
    machine,
    read_record,
    run_task,
    sleeping_task,
)
from tests.kernel.crowds import SCHED_IDLE, crowd

V5_5 = Rules(idlest_group_types=True)
V5_7 = Rules(idlest_group_types=True, runnable_avg=True)


def domain(*groups: int, pct: int = 117, numa: bool = False, imb_numa_nr: int = 0) -> DomainFacts:
    """Return a domain of these groups, the local one first."""
    flags = SD_BALANCE_FORK | SD_BALANCE_EXEC | (SD_NUMA if numa else 0)
    return DomainFacts("ANY", sum(groups), flags, pct, imb_numa_nr, groups)


def find_idlest_group(
    cpu: Cpu, p: Task, groups: list[int], pct: int, numa: bool = False, flag: int = SD_BALANCE_FORK
) -> int:
    """Return the group that v5.4 finds, or 0."""
    return idlest.find_idlest_group(cpu, p, domain(*groups, pct=pct, numa=numa), flag)[0]


def find_idlest_cpu(cpu: Cpu, p: Task, at: int) -> int:
    """Go down the domains for a fork."""
    return idlest.find_idlest_cpu(cpu, p, at, at, SD_BALANCE_FORK)


# -- C.5 ------------------------------------------------------------------------------------------


def load_facts(runnable: int, load: int | None = None) -> tuple[int, ...]:
    """Return the facts of a busy CPU with these loads."""
    return facts(1, runnable_load=runnable, load=runnable if load is None else load)


def group_box(nr_cpus: int, loads: list[int], **options: Any) -> tuple[Cpu, FixedBoard, Task]:
    """Return CPU 0, idle, and the given loads of the others (CPU 0's own comes first)."""
    cpu, board, _ = lone_cpu(0, nr_cpus, **options)
    p = sleeping_task(cpu, 500)
    for other, load in enumerate(loads):
        board.facts[other] = load_facts(load)
    cpu.rq.cfs.avg.runnable_avg = cpu.rq.cfs.avg.load_avg = loads[0]
    return cpu, board, p


@pytest.mark.parametrize(
    ("this", "other", "goes"),
    [
        (1024, 0, True),
        (173, 0, True),  # within the imbalance, but 100 * 173 < 108 * 0 is false
        (0, 0, True),  # 100 * 0 < 108 * 0 is false: neither test keeps it local
        (0, 174, False),
        (0, 175, False),  # min_runnable 175 > 0 + 174
        (1024, 1024, False),
        (1024, 949, False),  # 100 * 1024 < 108 * 949
        (1024, 948, True),  # 102 400 > 102 384
    ],
)
def test_C_5_find_idlest_group_pct_117(this: int, other: int, goes: bool) -> None:
    cpu, _, p = group_box(2, [this, other])
    assert find_idlest_group(cpu, p, [1, 2], 117) == (2 if goes else 0)


def test_C_5_first_of_equals_and_the_clearly_lower_average() -> None:
    cpu, _, p = group_box(4, [2048, 1024, 1024, 1024])
    assert find_idlest_group(cpu, p, [1, 2, 4, 8], 117) == 2
    cpu, board, p = group_box(4, [2048, 1024, 1024, 1024])
    # Within the imbalance of the least runnable load, 100 * min_avg > 108 * avg decides.
    board.facts[2] = load_facts(1100, load=500)
    assert find_idlest_group(cpu, p, [1, 2, 4, 8], 117) == 4


def test_C_5_groups_without_an_allowed_cpu_do_not_count() -> None:
    cpu, _, _ = group_box(4, [2048, 0, 0, 512])
    p = sleeping_task(cpu, 501, mask=0b1001)
    assert find_idlest_group(cpu, p, [1, 2, 4, 8], 117) == 8


def test_C_5_a_local_group_that_is_not_allowed_wraps_to_the_imbalance() -> None:
    """this_runnable is 2^64 - 1: plus the imbalance it is 173, which a loaded group exceeds."""
    cpu, board, _ = group_box(2, [0, 173])
    p = sleeping_task(cpu, 501, mask=0b10)
    assert find_idlest_group(cpu, p, [1, 2], 117) == 2
    board.facts[1] = load_facts(174)
    assert find_idlest_group(cpu, p, [1, 2], 117) == 0


def test_C_5_a_numa_domain_stays_local_within_the_imbalance() -> None:
    cpu, board, p = group_box(4, [300, 300, 0, 0], node=2)
    board.facts[1] = load_facts(300)
    # min 0 + 256 < 300: it goes.
    assert find_idlest_group(cpu, p, [0b0011, 0b1100], 125, numa=True) == 0b1100
    cpu, board, p = group_box(4, [256, 256, 0, 0], node=2)
    assert find_idlest_group(cpu, p, [0b0011, 0b1100], 125, numa=True) == 0
    assert find_idlest_group(cpu, p, [0b0011, 0b1100], 125, numa=False) == 0b1100


def test_C_5_find_idlest_group_cpu() -> None:
    cpu, board, p = group_box(8, [1024] * 8)
    assert find_idlest_group_cpu(cpu, p, 1 << 6, 0) == 6  # a group of one is not looked at
    for other, load in ((2, 900), (3, 700), (4, 700)):
        board.facts[other] = load_facts(load)
    assert find_idlest_group_cpu(cpu, p, 0xFE, 0) == 3  # the first of the least loaded
    board.facts[5] = SCHED_IDLE
    assert find_idlest_group_cpu(cpu, p, 0xFE, 0) == 5
    board.facts[6] = facts(idle_since=1000)
    board.facts[7] = facts(idle_since=2000)
    assert find_idlest_group_cpu(cpu, p, 0xFE, 0) == 7  # idle for the shortest time


def test_C_5_find_idlest_cpu_descends_into_the_idlest_llc() -> None:
    cpu, board, p = group_box(8, [1024] * 8, llc=4)
    for other in (4, 5, 6, 7):
        board.facts[other] = load_facts(100)
    board.facts[6] = load_facts(0)
    assert find_idlest_cpu(cpu, p, 0) == 6


def test_C_5_fork_sets_recent_used_cpu() -> None:
    cpu, _, p = group_box(2, [1024, 0])
    p.recent_used_cpu = 1
    assert placement.select_task_rq_fork(cpu, p) == 1
    assert p.recent_used_cpu == 0


# -- Exec: spare capacity (5.4) --------------------------------------------------------------------


def exec_box(utils: list[int], task_util: int) -> tuple[Cpu, Task, MemoryRing]:
    """Return CPU 0 running a task that execs; CPUs' utilisations without it, and its own."""
    cpu, board, ring = lone_cpu(0, len(utils))
    p = sleeping_task(cpu, 500)
    run_task(cpu, p)
    p.avg.util_avg = task_util
    p.avg.last_update_time = 1
    cpu.rq.cfs.avg.util_avg = utils[0] + task_util
    cpu.rq.cfs.avg.util_est_enqueued = 0
    for other, util in enumerate(utils[1:], 1):
        board.facts[other] = facts(int(util > 0), util=util)
    return cpu, p, ring


@pytest.mark.parametrize(
    ("utils", "task_util", "goes"),
    [
        ([0, 0], 400, False),  # 1024 > 200, and 108 * 1024 > 100 * 1024
        ([100, 0], 400, True),  # 108 * 924 = 99 792 < 102 400; 1024 > 200
        ([75, 0], 400, False),  # 108 * 949 = 102 492
        ([1024, 900], 400, False),  # 124 is not above 200, and the loads do not differ
        ([1024, 820], 400, True),
    ],
)
def test_an_exec_goes_by_spare_capacity_in_5_4(
    utils: list[int], task_util: int, goes: bool
) -> None:
    cpu, p, _ = exec_box(utils, task_util)
    cpu.rq.cfs.avg.runnable_avg = 0
    found = find_idlest_group(cpu, p, [1, 2], 117, flag=SD_BALANCE_EXEC)
    if utils == [1024, 900]:
        # Neither spare capacity decides, so the runnable loads do: none anywhere.
        assert found == 2
    else:
        assert found == (2 if goes else 0)


def test_the_utilisation_of_the_task_itself_does_not_count() -> None:
    cpu, p, _ = exec_box([300, 0], 400)
    facts_here = cpu.own_facts()
    assert idlest.cpu_util_without(cpu, p, 0, facts_here) == 300
    assert idlest.cpu_util_without(cpu, p, 1, facts_here) == 700
    cpu.rq.cfs.avg.util_est_enqueued = 900
    p.avg.util_est_enqueued = 500
    assert idlest.cpu_util_without(cpu, p, 0, cpu.own_facts()) == 400
    cpu.rq.tun.util_est = False
    assert idlest.cpu_util_without(cpu, p, 0, cpu.own_facts()) == 300


def test_what_was_compared_is_recorded_per_level() -> None:
    cpu, p, ring = exec_box([600, 0, 300, 300], 100)
    ring.records.clear()
    assert placement.select_task_rq_exec(cpu, p) == 1
    events = [read_record(ring, record)[1:] for record in ring.records]
    (found,) = [args for name, args in events if name == "box_find_idlest"]
    assert {k: found[k] for k in ("from_cpu", "cpu", "local", "idlest")} == {
        "from_cpu": 0,
        "cpu": 1,
        "local": 424,
        "idlest": 1024,
    }
    (chosen,) = [args for name, args in events if name == "box_select_task_rq"]
    assert (chosen["cpu"], chosen["rule"]) == (1, tp.PLACE_EXEC)


# -- Group types (5.5) -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nr", "util", "runnable", "kind"),
    [
        (1, 2048, 0, idlest.GROUP_HAS_SPARE),
        (2, 1751, 0, idlest.GROUP_FULLY_BUSY),
        (2, 1750, 0, idlest.GROUP_HAS_SPARE),
        (3, 1750, 0, idlest.GROUP_HAS_SPARE),
        (3, 1751, 0, idlest.GROUP_OVERLOADED),
        (3, 0, 2396, idlest.GROUP_HAS_SPARE),
        (3, 0, 2397, idlest.GROUP_OVERLOADED),
        (2, 0, 2397, idlest.GROUP_FULLY_BUSY),
    ],
)
def test_D_7_group_types_of_two_cpus_pct_117(nr: int, util: int, runnable: int, kind: int) -> None:
    stats = GroupStats(2, nr=nr, util=util, runnable=runnable)
    assert idlest.group_classify(stats, 117) == kind


def typed_box(
    rules: Rules, *cpus: tuple[int, int, int], spec: MachineSpec | None = None
) -> tuple[Cpu, Task]:
    """Return CPU 0, and (nr_running, utilisation, load) of all; CPU 0's queue is as told too."""
    cpu, board, _ = lone_cpu(0, len(cpus), rules=rules, topology=spec or machine(len(cpus)))
    p = sleeping_task(cpu, 500)
    for other, (nr, util, load) in enumerate(cpus):
        board.facts[other] = facts(nr, util=util, load=load)
    nr, util, load = cpus[0]
    if nr:
        run_task(cpu, sleeping_task(cpu, 400))
    cpu.rq.nr_running = nr
    cpu.rq.cfs.avg.util_avg, cpu.rq.cfs.avg.load_avg = util, load
    cpu.rq.cfs.avg.util_est_enqueued = 0
    return cpu, p


SPARE = (0, 0, 0)
BUSY = (1, 1000, 1000)
OVER = (2, 1000, 2000)


@pytest.mark.parametrize(
    ("local", "other", "goes"),
    [
        (SPARE, BUSY, False),  # a lower type stays
        (BUSY, SPARE, True),
        (OVER, BUSY, True),
        (BUSY, OVER, False),
        (SPARE, SPARE, False),  # as many idle CPUs
        ((1, 500, 500), SPARE, True),  # both have room: more idle CPUs there
        (OVER, (2, 1000, 1700), True),  # 200 000 > 198 900
        (OVER, (2, 1000, 1710), False),  # 200 000 < 200 070
        ((2, 1000, 400), (2, 1000, 342), False),  # 40 000 < 40 014
        ((2, 1000, 400), (2, 1000, 341), True),
    ],
)
def test_C_5_decision_of_5_5(
    local: tuple[int, int, int], other: tuple[int, int, int], goes: bool
) -> None:
    for rules in (V5_5, V5_7):
        cpu, p = typed_box(rules, local, other)
        found = find_idlest_group_by_type(cpu, p, domain(1, 2), SD_BALANCE_FORK)[0]
        assert found == (2 if goes else 0)


def test_an_inverted_test_leaves_busy_groups_without_a_load_in_5_5_and_5_6() -> None:
    for version, goes in (("5.6", False), ("5.10", True)):
        cpu, p = typed_box(rules_of(version), OVER, (2, 1000, 500))
        assert find_idlest_group_by_type(cpu, p, domain(1, 2), SD_BALANCE_FORK) == (
            2 if goes else 0,
            2000 if goes else 0,
            500 if goes else 0,
        )


def test_equally_many_idle_cpus_are_told_apart_by_utilisation_from_5_7() -> None:
    cpus = [(1, 500, 500), (1, 300, 300), (1, 200, 200)]
    for rules, found in ((V5_5, 2), (V5_7, 4)):
        stats = [GroupStats(1, nr=1, util=util) for _, util, _ in cpus]
        by_util = rules.runnable_avg
        assert idlest.update_pick_idlest(stats[1], stats[2], by_util) is (found == 4)
    assert idlest.update_pick_idlest(None, GroupStats(1, type=idlest.GROUP_OVERLOADED), False)
    better = GroupStats(1, type=idlest.GROUP_FULLY_BUSY, avg_load=10)
    assert idlest.update_pick_idlest(better, replace(better, avg_load=9), False)
    assert not idlest.update_pick_idlest(better, replace(better, avg_load=10), False)
    assert not idlest.update_pick_idlest(better, replace(better, type=5, avg_load=0), False)


def test_a_local_group_without_an_allowed_cpu_lets_the_task_go() -> None:
    cpu, _ = typed_box(V5_7, SPARE, OVER)
    p = sleeping_task(cpu, 501, mask=0b10)
    assert find_idlest_group_by_type(cpu, p, domain(1, 2), SD_BALANCE_FORK) == (2, -1, -7)
    p = sleeping_task(cpu, 502, mask=0b01)
    assert find_idlest_group_by_type(cpu, p, domain(1, 2), SD_BALANCE_FORK) == (0, -2, -1)


def test_the_task_that_execs_does_not_count() -> None:
    """Alone on its CPU, that CPU is idle without it."""
    for rules in (V5_5, V5_7):
        cpu, p = typed_box(rules, (0, 600, 700), SPARE)
        run_task(cpu, p)
        p.avg.last_update_time, p.avg.util_avg, p.avg.load_avg = 1, 600, 700
        cpu.rq.cfs.avg.util_avg, cpu.rq.cfs.avg.load_avg = 600, 700
        cpu.rq.cfs.avg.util_est_enqueued = 0
        stats = idlest.update_sg_wakeup_stats(cpu, p, 1, 117)
        assert (stats.nr, stats.util, stats.load, stats.idle_cpus) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("version", "running", "goes"),
    [
        # 16 CPUs per node.  5.6 and 5.10: stay while any CPU is idle here.
        ("5.6", 15, False),
        ("5.10", 15, False),
        # 5.15: while fewer than a quarter run, the new one included.
        ("5.15", 2, False),
        ("5.15", 3, True),
        # 6.1: while imb_numa_nr are not exceeded and idle CPUs differ by 2 at most.
        ("6.1", 1, False),
        ("6.1", 2, True),
        ("6.12", 1, False),
        ("6.12", 2, True),
    ],
)
def test_C_5_how_long_forks_stay_on_their_node(version: str, running: int, goes: bool) -> None:
    spec = machine(32, llc=16, core=2, node=16)
    cpus = [(1, 100, 100)] * running + [SPARE] * (32 - running)
    cpu, p = typed_box(rules_of(version), *cpus, spec=spec)
    sd = cpu.domains.chain(0)[-1]
    assert sd.flags & SD_NUMA
    assert bool(find_idlest_group_by_type(cpu, p, sd, SD_BALANCE_FORK)[0]) is goes


def test_a_mask_limits_how_many_may_stay_from_6_1() -> None:
    spec = machine(64, llc=32, node=32)
    cpus = [(1, 100, 100)] * 2 + [SPARE] * 62
    cpu, p = typed_box(rules_of("6.1"), *cpus, spec=spec)
    sd = cpu.domains.chain(0)[-1]._replace(imb_numa_nr=8)
    assert find_idlest_group_by_type(cpu, p, sd, SD_BALANCE_FORK)[0] == 0
    p = sleeping_task(cpu, 501, mask=(1 << 62) | 0b11)  # two of them here
    assert find_idlest_group_by_type(cpu, p, sd, SD_BALANCE_FORK)[0] == sd.groups[1]


def test_a_sched_idle_cpu_is_taken_when_met_from_5_6() -> None:
    for rules, found in ((Rules(), 6), (Rules(idlest_sched_idle_first=True), 3)):
        cpu, board, _ = lone_cpu(0, 8, rules=rules)
        crowd(board, 6)
        board.facts[3] = SCHED_IDLE
        p = sleeping_task(cpu, 500)
        assert find_idlest_group_cpu(cpu, p, 0xFE, 0) == found


def test_the_least_loaded_cpu_is_told_by_load_avg_from_5_5() -> None:
    for rules, found in ((Rules(), 3), (V5_5, 4)):
        cpu, board, _ = lone_cpu(0, 8, rules=rules)
        crowd(board)
        for other in range(8):
            board.facts[other] = facts(1, runnable_load=900, load=900)
        board.facts[3] = facts(1, runnable_load=100, load=800)
        board.facts[4] = facts(1, runnable_load=500, load=200)
        p = sleeping_task(cpu, 500)
        assert find_idlest_group_cpu(cpu, p, 0xFE, 0) == found


# -- The way down ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5.4", "5.6", "5.10", "5.15", "6.1", "6.6", "6.12"])
def test_a_fork_leaves_a_full_node_for_an_idle_core(version: str) -> None:
    """NUMA, then MC, then SMT: node 1's first CPU whose core is idle."""
    spec = machine(32, llc=16, core=2, node=16)
    cpu, board, ring = lone_cpu(0, topology=spec, rules=rules_of(version), version=version)
    for other in range(16):
        board.facts[other] = facts(2, load=2000, runnable_load=2000, util=1000)
    for other in (16, 18, 20):
        board.facts[other] = facts(1, load=1000, runnable_load=1000, util=1000)
    run_task(cpu, sleeping_task(cpu, 400))
    cpu.rq.nr_running = 2
    avg = cpu.rq.cfs.avg
    avg.load_avg, avg.runnable_avg, avg.util_avg = 2000, 2000, 1000
    p = sleeping_task(cpu, 500)
    ring.records.clear()
    chosen = placement.select_task_rq_fork(cpu, p)
    # v5.4 sees no reason to stay with two idle siblings either: see the (0, 0) above.
    assert chosen == (23 if version == "5.4" else 22)
    assert p.recent_used_cpu == 0
    events = [read_record(ring, record)[1:] for record in ring.records]
    ways = [(a["from_cpu"], a["cpu"]) for name, a in events if name == "box_find_idlest"]
    assert ways[0][0] == 0
    assert ways[-1][1] == chosen
    assert [a["rule"] for name, a in events if name == "box_select_task_rq"] == [tp.PLACE_IDLEST]


def test_a_fork_does_not_go_beyond_the_reclaim_distance() -> None:
    spec = replace(machine(8, llc=4, node=4), node_distance=((10, 31), (31, 10)))
    cpu, board, _ = lone_cpu(0, topology=spec)
    crowd(board, 5, 6, 7)
    for other in range(4):
        board.facts[other] = facts(1, load=1000, runnable_load=1000)
    cpu.rq.cfs.avg.load_avg = cpu.rq.cfs.avg.runnable_avg = 1000
    p = sleeping_task(cpu, 500)
    assert find_idlest_cpu(cpu, p, 0) < 4


def test_a_task_that_may_not_run_in_the_domain_keeps_its_cpu() -> None:
    spec = replace(machine(8, llc=4, node=4), node_distance=((10, 31), (31, 10)))
    cpu, _, _ = lone_cpu(0, topology=spec)
    p = sleeping_task(cpu, 500, mask=1 << 6)
    assert idlest.find_idlest_cpu(cpu, p, 0, 6, SD_BALANCE_FORK) == 6
    alone, _, _ = lone_cpu(0, 1)
    assert find_idlest_cpu(alone, sleeping_task(alone, 500), 0) == 0
