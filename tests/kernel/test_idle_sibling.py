"""The search for an idle CPU near the target against scheduler.md C.4 and C.6, in every version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from emulator import tracepoints as tp
from emulator.kernel import affinity, core, frames, idle_sibling
from emulator.kernel.cpu import Cpu
from emulator.kernel.idle_sibling import idle_cpu_budget, select_idle_cpu
from emulator.kernel.sched import Task
from emulator.rules import Rules, rules_of
from emulator.types import RQ_IDLE_CORES, MachineSpec
from tests.kernel.box import MS, balancer_facts, facts, lone_cpu, machine, run_task, sleeping_task
from tests.kernel.crowds import (
    BUSY,
    IDLE,
    SCHED_IDLE,
    SINGLE_PASS,
    V5_10,
    busy_cpu,
    crowd,
    kthread_cpu,
)

#: 2 sockets of 8 cores of 2 threads.
SMT_MACHINE = machine(32, llc=16, core=2, node=16)


def select_idle_sibling(cpu: Cpu, p: Task, prev: int, target: int) -> tuple[int, int]:
    """Search on behalf of this CPU's own context."""
    return idle_sibling.select_idle_sibling(cpu, p, prev, target, cpu.node_id)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that fills with the CPUs looked at."""
    looked_at: list[int] = []
    flags_of = affinity.cpu_flags

    def spy(this: Cpu, other: int) -> int:
        looked_at.append(other)
        return flags_of(this, other)

    monkeypatch.setattr(affinity, "cpu_flags", spy)
    return looked_at


# -- C.6 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("llc", "avg_idle", "scan_cost", "nr", "examined"),
    [
        (16, 500_000, 2000, 7, 6),
        (16, 1_000_000, 2000, 15, 14),
        (16, 1_000_000, 500, 62, 16),
        (16, 100_000, 2000, 4, 3),
        (4, 200_000, 1500, 4, 3),
        (64, 1_000_000, 8000, 15, 14),
    ],
)
def test_example_C_6_1_sis_prop(
    monkeypatch: pytest.MonkeyPatch,
    llc: int,
    avg_idle: int,
    scan_cost: int,
    nr: int,
    examined: int,
) -> None:
    assert idle_cpu_budget(llc, avg_idle // 512, scan_cost) == nr
    cpu, _, p = busy_cpu(0, llc)
    cpu.rq.avg_idle = avg_idle
    cpu.scan_cost = scan_cost
    looked_at = spied(monkeypatch)
    assert select_idle_cpu(cpu, p, 0, (1 << llc) - 1) == -1
    assert looked_at == list(range(examined))


# -- C.4 ------------------------------------------------------------------------------------------


def test_C_4_rule_order() -> None:
    cpu, board, p = busy_cpu(0)
    p.recent_used_cpu = 5
    crowd(board, 2, 3, 5, 6)
    assert select_idle_sibling(cpu, p, 2, 3) == (3, tp.PLACE_TARGET_IDLE)
    crowd(board, 2, 5, 6)
    assert select_idle_sibling(cpu, p, 2, 3) == (2, tp.PLACE_PREV_IDLE)
    crowd(board, 5, 6)
    assert select_idle_sibling(cpu, p, 2, 3) == (5, tp.PLACE_RECENT)
    assert p.recent_used_cpu == 2
    crowd(board, 6)
    assert select_idle_sibling(cpu, p, 2, 3) == (6, tp.PLACE_IDLE_CPU)
    crowd(board)
    assert select_idle_sibling(cpu, p, 2, 3) == (3, tp.PLACE_TARGET)


def test_C_4_a_sched_idle_cpu_counts_as_idle_in_the_first_rules() -> None:
    cpu, board, p = busy_cpu(0)
    p.recent_used_cpu = 5
    crowd(board, sched_idle=(3,))
    assert select_idle_sibling(cpu, p, 2, 3) == (3, tp.PLACE_TARGET_IDLE)
    crowd(board, sched_idle=(2,))
    assert select_idle_sibling(cpu, p, 2, 3) == (2, tp.PLACE_PREV_IDLE)
    crowd(board, sched_idle=(5,))
    assert select_idle_sibling(cpu, p, 2, 3) == (5, tp.PLACE_RECENT)


@pytest.mark.parametrize(
    ("prev", "target", "recent", "mask"),
    [(5, 3, 5, 0xFF), (2, 5, 5, 0xFF), (2, 3, 5, 0b11011111), (2, 3, 12, 0xFFFF)],
)
def test_C_4_when_recent_used_cpu_is_passed_over(
    prev: int, target: int, recent: int, mask: int
) -> None:
    """It is prev or target, is not allowed, or shares no cache with the target."""
    cpu, board, _ = busy_cpu(0, 16, llc=8)
    p = sleeping_task(cpu, 504, mask=mask, prev=prev)
    p.recent_used_cpu = recent
    crowd(board, *({recent} - {prev, target}))
    _, rule = select_idle_sibling(cpu, p, prev, target)
    assert rule == tp.PLACE_TARGET
    assert p.recent_used_cpu == recent


def test_C_4_prev_in_another_llc_is_passed_over() -> None:
    cpu, board, p = busy_cpu(0, 8, llc=4)
    crowd(board, 5)
    assert select_idle_sibling(cpu, p, 5, 1) == (1, tp.PLACE_TARGET)


def test_C_4_a_machine_without_a_shared_cache_ends_at_step_5() -> None:
    cpu, board, p = busy_cpu(0, 8, llc=-1)
    crowd(board, 1, 2, 3)
    assert select_idle_sibling(cpu, p, 0, 0) == (0, tp.PLACE_TARGET)


def test_C_4_idle_core_before_idle_cpu() -> None:
    """Cores (0,1) (2,3) …: CPU 3 is idle, but core (6,7) is whole."""
    cpu, board, p = busy_cpu(0, 8, core=2)
    crowd(board, 3, 6, 7)
    assert select_idle_sibling(cpu, p, 2, 2) == (6, tp.PLACE_IDLE_CORE)
    crowd(board, 3, 6)
    assert select_idle_sibling(cpu, p, 2, 2) == (3, tp.PLACE_IDLE_CPU)


def test_C_4_idle_core_iterates_over_allowed_cpus_only() -> None:
    cpu, board, _ = busy_cpu(0, 8, core=2)
    p = sleeping_task(cpu, 505, mask=0b10000101)
    crowd(board, 6, 7)
    assert select_idle_sibling(cpu, p, 2, 2) == (7, tp.PLACE_IDLE_CORE)


def test_C_4_idle_smt_when_the_budget_is_spent() -> None:
    cpu, board, p = busy_cpu(0, 64, core=2)
    cpu.rq.avg_idle, cpu.scan_cost = 0, 8000
    crowd(board, 9)
    # From 8 on, 3 CPUs are looked at: 8, 9: found.  From 9 on its sibling 8 comes last.
    assert select_idle_sibling(cpu, p, 8, 8) == (9, tp.PLACE_IDLE_CPU)
    crowd(board, 8)
    assert select_idle_sibling(cpu, p, 9, 9) == (8, tp.PLACE_IDLE_SMT)


def test_C_4_scan_cost_is_averaged_only_by_a_scan_within_its_budget() -> None:
    cpu, board, p = busy_cpu(0, 16)
    cpu.rq.avg_idle, cpu.scan_cost = 100_000, 2000
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == -1  # 3 looked at, out of budget
    assert cpu.scan_cost == 2000
    crowd(board, 1)
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == 1
    # (60 - 2000) / 8, truncated towards zero.
    assert cpu.scan_cost == 2000 - 242


# -- Version variants ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wake_avg_idle", "nr"), [(500_000, 3998), (4000, 31), (0, 4)], ids=["3998", "31", "4"]
)
def test_example_C_6_1_sis_prop_by_wake_avg_idle(wake_avg_idle: int, nr: int) -> None:
    assert idle_cpu_budget(16, wake_avg_idle, 2000) == nr


@pytest.mark.parametrize(("budget", "found"), [(0, -1), (3, -1), (4, 5), (15, 5)])
def test_example_C_6_2_sis_util_scans_as_many_cpus_as_the_balancer_says(
    budget: int, found: int
) -> None:
    """nr_idle_scan + 1 is counted down before a CPU is looked at; 0: no scan at all."""
    cpu, board, p = busy_cpu(0, 16, rules=rules_of("6.1"), version="6.1")
    board.facts[16] = balancer_facts(16, nr_idle_scan=budget)
    crowd(board, 5)
    chosen = select_idle_sibling(cpu, p, 1, 1)
    assert chosen == ((5, tp.PLACE_IDLE_CPU) if found >= 0 else (1, tp.PLACE_TARGET))


def test_before_the_first_periodic_balance_sis_util_scans_nothing() -> None:
    cpu, board, p = busy_cpu(0, 8, rules=rules_of("6.6"), version="6.6")
    board.facts[8] = balancer_facts(8, nr_idle_scan=0)
    crowd(board, 3, 4, 5)
    p.recent_used_cpu = 1
    assert select_idle_sibling(cpu, p, 1, 1) == (1, tp.PLACE_TARGET)
    cpu.rq.tun.sis_util = False
    assert select_idle_sibling(cpu, p, 1, 1) == (3, tp.PLACE_IDLE_CPU)


def test_sis_avg_cpu_gives_up_where_idling_is_shorter_than_a_scan() -> None:
    for on, found in ((True, -1), (False, 1)):
        cpu, board, p = busy_cpu(0, 16, features={"SIS_AVG_CPU": on})
        crowd(board, 1)
        cpu.rq.avg_idle, cpu.scan_cost = 512_000, 1000  # 1000 < 1001
        assert select_idle_cpu(cpu, p, 0, 0xFFFF) == found
    cpu.rq.tun.sis_avg_cpu, cpu.scan_cost = True, 999
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == 1


@pytest.mark.parametrize(("rules", "found"), [(Rules(), -1), (V5_10, 4)], ids=["5.4", "5.6"])
def test_the_budget_is_spent_on_allowed_cpus_only_from_5_6(rules: Rules, found: int) -> None:
    cpu, board, _ = busy_cpu(0, 16, rules=rules)
    cpu.rq.avg_idle, cpu.scan_cost = 100_000, 2000  # 3 CPUs
    p = sleeping_task(cpu, 506, mask=0b1111_0000)
    crowd(board, 4)
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == found


@pytest.mark.parametrize(
    ("rules", "exhausted", "to_the_end"), [(Rules(), 1, -1), (V5_10, 1, 1)], ids=["5.4", "5.6"]
)
def test_a_sched_idle_cpu_is_taken_at_once_from_5_6(
    rules: Rules, exhausted: int, to_the_end: int
) -> None:
    cpu, board, p = busy_cpu(0, 16, rules=rules)
    crowd(board, sched_idle=(1,))
    cpu.rq.avg_idle, cpu.scan_cost = 100_000, 2000
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == exhausted
    cpu.rq.avg_idle, cpu.scan_cost = 1_000_000, 100
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == to_the_end
    crowd(board, 3, sched_idle=(1,))
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == (1 if rules.idle_scan_sched_idle else 3)


@pytest.mark.parametrize(("rules", "found"), [(Rules(), 9), (V5_10, 8)], ids=["5.4", "5.6"])
def test_idle_smt_prefers_idle_to_sched_idle_up_to_5_5(rules: Rules, found: int) -> None:
    cpu, board, p = busy_cpu(0, topology=machine(16, core=4), rules=rules)
    crowd(board, 9, sched_idle=(8,))
    assert idle_sibling.select_idle_smt(cpu, p, 10) == found


@pytest.mark.parametrize(("shift", "cost"), [(False, 2000 - 242), (True, 2000 - 243)])
def test_the_scan_cost_is_rounded_towards_zero_or_down(shift: bool, cost: int) -> None:
    """(60 - 2000) / 8 is -242.5."""
    cpu, board, p = busy_cpu(0, 16, rules=Rules(scan_cost_shift=shift))
    cpu.scan_cost = 2000
    crowd(board, 1)
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == 1
    assert cpu.scan_cost == cost


def test_a_waker_without_a_cache_domain_scans_nothing() -> None:
    llc = (0, *[0xFE] * 7)
    cpu, board, p = busy_cpu(0, topology=replace(machine(8), llc=llc))
    crowd(board, 3)
    assert select_idle_cpu(cpu, p, 1, 0xFE) == -1


# -- The stacking rule -----------------------------------------------------------------------------

STACK = Rules(kthread_stack=True)


@pytest.mark.parametrize(("rules", "stays"), [(Rules(), False), (STACK, True)], ids=["5.4", "5.6"])
def test_a_task_woken_by_a_lone_per_cpu_kthread_stays_from_5_6(rules: Rules, stays: bool) -> None:
    cpu, board, p = kthread_cpu(rules=rules)
    crowd(board, 1, 6)
    p.recent_used_cpu = 6
    expected = (3, tp.PLACE_KTHREAD_STACK) if stays else (6, tp.PLACE_RECENT)
    assert select_idle_sibling(cpu, p, 3, 3) == expected


def test_when_the_stacking_rule_does_not_hold() -> None:
    """Another task is queued; prev is elsewhere; another CPU wakes; the waker may move."""
    cpu, board, p = kthread_cpu(rules=STACK)
    crowd(board, 6)
    scanned = (6, tp.PLACE_IDLE_CPU)
    assert select_idle_sibling(cpu, p, 2, 3) == scanned
    assert idle_sibling.select_idle_sibling(cpu, p, 3, 3, 2) == scanned
    cpu.rq.curr.nr_cpus_allowed = 2
    assert select_idle_sibling(cpu, p, 3, 3) == scanned
    cpu.rq.curr.nr_cpus_allowed = 1
    assert select_idle_sibling(cpu, p, 3, 3) == (3, tp.PLACE_KTHREAD_STACK)
    cpu.rq.nr_running = 2
    assert select_idle_sibling(cpu, p, 3, 3) == scanned


@pytest.mark.parametrize("in_task", [False, True], ids=["5.6", "5.17"])
@pytest.mark.parametrize("level", [frames.LEVEL_TASK, frames.LEVEL_SOFTIRQ, frames.LEVEL_HARDIRQ])
def test_an_interrupt_that_hits_the_kthread_stacks_too_up_to_5_16(
    in_task: bool, level: int
) -> None:
    cpu, board, p = kthread_cpu(rules=replace(STACK, kthread_stack_in_task=in_task))
    crowd(board, 6)
    cpu.level = level
    stacks = not in_task or level == frames.LEVEL_TASK
    assert select_idle_sibling(cpu, p, 3, 3)[0] == (3 if stacks else 6)


def test_the_late_form_asks_recent_used_cpu_first() -> None:
    for late in (False, True):
        cpu, board, p = kthread_cpu(rules=replace(STACK, kthread_stack_after_recent=late))
        crowd(board, 6)
        p.recent_used_cpu = 6
        assert select_idle_sibling(cpu, p, 3, 3)[0] == (6 if late else 3)
        p.recent_used_cpu = 3
        assert select_idle_sibling(cpu, p, 3, 3) == (3, tp.PLACE_KTHREAD_STACK)


# -- recent_used_cpu -------------------------------------------------------------------------------


@pytest.mark.parametrize("always", [False, True], ids=["5.4", "5.17"])
def test_prev_is_remembered_at_every_search_that_comes_so_far_from_5_17(always: bool) -> None:
    cpu, board, p = busy_cpu(0, rules=Rules(recent_used_cpu_always=always))
    p.recent_used_cpu = 5
    crowd(board, 6)
    assert select_idle_sibling(cpu, p, 2, 2) == (6, tp.PLACE_IDLE_CPU)
    assert p.recent_used_cpu == (2 if always else 5)
    crowd(board, 2)
    p.recent_used_cpu = 5
    assert select_idle_sibling(cpu, p, 2, 2) == (2, tp.PLACE_TARGET_IDLE)
    assert p.recent_used_cpu == 5


@pytest.mark.parametrize(("version", "quirk"), [("5.10", 0), ("5.15", 1), ("6.1", 1), ("6.6", 0)])
def test_from_5_17_to_6_4_a_disallowed_recent_cpu_is_returned(version: str, quirk: int) -> None:
    cpu, board, _ = busy_cpu(0, rules=rules_of(version), version=version)
    p = sleeping_task(cpu, 504, mask=0b1101_1111, prev=2)
    p.recent_used_cpu = 5
    crowd(board, 5)
    chosen = select_idle_sibling(cpu, p, 2, 3)
    assert chosen == ((5, tp.PLACE_RECENT) if quirk else (3, tp.PLACE_TARGET))


# -- One pass --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("next_one", "order"), [(False, [2, 3, 0, 1]), (True, [3, 0, 1, 2])])
def test_the_scan_starts_at_the_target_or_after_it(
    monkeypatch: pytest.MonkeyPatch, next_one: bool, order: list[int]
) -> None:
    rules = Rules(idle_scan_single_pass=True, idle_scan_from_next=next_one)
    cpu, _, p = busy_cpu(0, 4, rules=rules)
    p.recent_used_cpu = 2
    looked_at = spied(monkeypatch)
    assert select_idle_sibling(cpu, p, 2, 2) == (2, tp.PLACE_TARGET)
    assert looked_at[1:] == order


def smt_cpu(rules: Rules, idle_core: bool, *idle: int) -> tuple[Cpu, Task]:
    """Return CPU 0 of the SMT machine; whether a core was seen idle, and which CPUs are idle."""
    cpu, board, p = busy_cpu(0, topology=SMT_MACHINE, rules=rules)
    cpu.now = 1000
    crowd(board, *idle)
    cpu.idle_cores = int(idle_core)
    p.recent_used_cpu = 4
    return cpu, p


@pytest.mark.parametrize("rules", [Rules(), SINGLE_PASS], ids=["5.4", "5.14"])
def test_a_whole_idle_core_wins_while_the_flag_is_set(rules: Rules) -> None:
    cpu, p = smt_cpu(rules, True, 7, 10, 11)
    assert select_idle_sibling(cpu, p, 4, 4) == (10, tp.PLACE_IDLE_CORE)
    cpu, p = smt_cpu(rules, False, 7, 10, 11)
    assert select_idle_sibling(cpu, p, 4, 4) == (7, tp.PLACE_IDLE_CPU)


@pytest.mark.parametrize("rules", [Rules(), SINGLE_PASS], ids=["5.4", "5.14"])
def test_a_search_that_finds_no_core_clears_the_flag(rules: Rules) -> None:
    cpu, p = smt_cpu(rules, True, 7, 10)
    assert select_idle_sibling(cpu, p, 4, 4) == (7, tp.PLACE_IDLE_CPU)
    assert cpu.idle_cores == 1000 << 1
    assert not idle_sibling.test_idle_cores(cpu, 0xFFFF)


def test_the_core_search_starts_a_pass_in_which_the_first_idle_cpu_is_remembered() -> None:
    cpu, board, p = busy_cpu(0, topology=SMT_MACHINE, rules=SINGLE_PASS)
    crowd(board, 12, sched_idle=(9,))
    # 5, then 4's core is gone; (6,7), (8,9): 9 runs idle-policy tasks only: remembered.
    assert select_idle_sibling(cpu, p, 4, 4) == (9, tp.PLACE_IDLE_CPU)


def test_siblings_of_prev_come_before_the_scan_where_no_core_is_idle() -> None:
    """From 5.12 on; prev itself is left out from 6.1 on."""
    cpu, p = smt_cpu(SINGLE_PASS, False, 7, 11)
    assert select_idle_sibling(cpu, p, 10, 4) == (11, tp.PLACE_IDLE_SMT)
    cpu, p = smt_cpu(SINGLE_PASS, True, 7, 11)
    assert select_idle_sibling(cpu, p, 10, 4) == (7, tp.PLACE_IDLE_CPU)
    # An idle prev is found before; what is looked at later may have changed, as in this call.
    for not_prev, found in ((False, 10), (True, -1)):
        rules = replace(SINGLE_PASS, idle_smt_not_prev=not_prev)
        cpu, p = smt_cpu(rules, False, 10)
        assert idle_sibling.select_idle_smt_of_prev(cpu, p, 10, 0xFFFF) == found


def test_a_cpu_that_goes_idle_with_idle_siblings_sets_the_flag() -> None:
    for sibling, value in ((IDLE, 1), (BUSY, 0)):
        cpu, board, _ = lone_cpu(0, topology=SMT_MACHINE)
        crowd(board)
        cpu.idle_cores, cpu.now = 0, 5000
        board.facts[1] = sibling
        run_task(cpu, p := sleeping_task(cpu, 400))
        p.state = tp.TASK_INTERRUPTIBLE
        core.context_switch(cpu, p, cpu.rq.idle)
        assert cpu.idle_cores == (5000 << 1 | 1) * value
        assert board.facts[0][RQ_IDLE_CORES] == cpu.idle_cores


def test_the_newest_word_of_the_caches_cpus_holds() -> None:
    cpu, board, _ = lone_cpu(0, topology=SMT_MACHINE)
    cpu.idle_cores = 10 << 1 | 1
    board.facts[5] = facts(idle_cores=11 << 1)
    assert not idle_sibling.test_idle_cores(cpu, 0xFFFF)
    board.facts[6] = facts(idle_cores=11 << 1 | 1)
    assert idle_sibling.test_idle_cores(cpu, 0xFFFF)
    board.facts[20] = facts(idle_cores=12 << 1)  # another cache's
    assert idle_sibling.test_idle_cores(cpu, 0xFFFF)


def test_wake_avg_idle_is_halved_per_jiffy_and_used_up_by_scans() -> None:
    rules = replace(SINGLE_PASS, wake_avg_idle=True)
    cpu, board, p = busy_cpu(0, 16, rules=rules)
    cpu.rq.wake_avg_idle, cpu.rq.wake_stamp = 40_000, 0
    cpu.now = 3 * MS
    assert idle_sibling.wake_avg_idle(cpu) == 5000
    assert cpu.rq.wake_stamp == 3
    crowd(board, 4)
    p.recent_used_cpu = 2
    assert select_idle_sibling(cpu, p, 2, 2) == (4, tp.PLACE_IDLE_CPU)
    assert cpu.rq.wake_avg_idle == 5000 - 2 * idle_sibling.SCAN_NS
    # Averaged at the wakeup that ends an idle time, of which half counts.
    cpu.rq.idle_stamp, cpu.rq.clock, cpu.rq.avg_idle = 1 * MS, 3 * MS, 1 * MS
    core.update_avg_idle(cpu)
    assert (cpu.rq.avg_idle, cpu.rq.wake_avg_idle) == (1_000_000, 500_000)
    assert cpu.rq.wake_stamp == 3


def test_without_the_rule_the_budget_is_avg_idle_by_512() -> None:
    cpu, _, _ = busy_cpu(0, 16, rules=SINGLE_PASS)
    cpu.rq.avg_idle = 512_000
    assert idle_sibling.wake_avg_idle(cpu) == 1000


# -- Clusters --------------------------------------------------------------------------------------


def clusters() -> MachineSpec:
    """Return 8 CPUs of one cache, clusters of two."""
    return replace(machine(8), cluster=tuple(0b11 << c // 2 * 2 for c in range(8)))


def test_the_targets_cluster_is_scanned_first_in_6_12() -> None:
    for version, found in (("6.6", 4), ("6.12", 2)):
        cpu, board, p = busy_cpu(0, topology=clusters(), rules=rules_of(version), version=version)
        crowd(board, 2, 4)
        p.recent_used_cpu = 3
        assert select_idle_sibling(cpu, p, 3, 3) == (found, tp.PLACE_IDLE_CPU)


def test_an_idle_prev_of_another_cluster_is_the_last_resort_in_6_12() -> None:
    for version, first in (("6.6", (6, tp.PLACE_PREV_IDLE)), ("6.12", (2, tp.PLACE_IDLE_CPU))):
        cpu, board, p = busy_cpu(0, topology=clusters(), rules=rules_of(version), version=version)
        crowd(board, 2, 6)
        assert select_idle_sibling(cpu, p, 6, 3) == first
    board.facts[8] = balancer_facts(8, nr_idle_scan=0)
    assert select_idle_sibling(cpu, p, 6, 3) == (6, tp.PLACE_PREV_IDLE)
    crowd(board, 5)
    p.recent_used_cpu = 5
    assert select_idle_sibling(cpu, p, 6, 3) == (5, tp.PLACE_RECENT)


def test_sched_idle_counts_in_one_pass() -> None:
    cpu, board, p = busy_cpu(0, 8, rules=SINGLE_PASS)
    crowd(board)
    board.facts[6] = SCHED_IDLE
    p.recent_used_cpu = 2
    assert select_idle_sibling(cpu, p, 2, 2) == (6, tp.PLACE_IDLE_CPU)
