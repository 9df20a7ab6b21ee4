"""Which CPUs a task may use, and where it goes when its choice is not allowed (F.3, F.6)."""

from __future__ import annotations

import pytest

from emulator.kernel.affinity import cpu_flags, is_cpu_allowed, select_fallback_rq
from emulator.kernel.cpu import Cpu
from emulator.kernel.placement import select_task_rq
from emulator.kernel.sched import PF_KTHREAD, Task
from emulator.rules import Rules, rules_of
from emulator.types import RQF_ACTIVE, RQF_IDLE, RQF_ONLINE, RQF_SCHED_IDLE
from tests.kernel.box import facts, lone_cpu, run_task, sleeping_task
from tests.kernel.crowds import busy_cpu, crowd, own_thread

DYING = facts(flags=RQF_ONLINE | RQF_IDLE)  # online, but not active

# -- F.3 ------------------------------------------------------------------------------------------


def test_F_3_is_cpu_allowed() -> None:
    cpu, board, p = busy_cpu(0)
    board.facts[5] = DYING
    assert not is_cpu_allowed(cpu, p, 5)
    bound = sleeping_task(cpu, 507, mask=1 << 5)
    bound.flags |= PF_KTHREAD
    assert is_cpu_allowed(cpu, bound, 5)
    assert not is_cpu_allowed(cpu, bound, 4)


def fallback_box(mask: int, kthread: bool = False) -> tuple[Cpu, Task, list[str]]:
    """Return CPU 0 of two nodes of four, CPU 2 down, and a task last on CPU 2."""
    cpu, board, ring = lone_cpu(0, 8, node=4)
    board.facts[2] = facts(flags=0)
    p = sleeping_task(cpu, 4321, mask=mask, prev=2)
    p.comm = "fio"
    if kthread:
        p.flags |= PF_KTHREAD
    ring.records.clear()

    return cpu, p, ring.names.names


def test_example_F_6_1_other_node_of_the_mask() -> None:
    cpu, p, names = fallback_box(1 << 2 | 1 << 6)
    assert select_fallback_rq(cpu, p, 2) == 6
    assert not any("no longer affine" in name for name in names)
    assert p.cpus_mask == 1 << 2 | 1 << 6


def test_example_F_6_2_affinity_is_broken_with_a_message() -> None:
    cpu, p, names = fallback_box(1 << 2)
    assert select_fallback_rq(cpu, p, 2) == 0
    assert "process 4321 (fio) no longer affine to cpu2" in names
    assert p.cpus_mask == 0xFF
    assert p.nr_cpus_allowed == 8


def test_example_F_6_3_same_node_of_the_mask() -> None:
    cpu, p, names = fallback_box(1 << 2 | 1 << 3)
    assert select_fallback_rq(cpu, p, 2) == 3
    assert not any("no longer affine" in name for name in names)
    assert p.cpus_mask == 1 << 2 | 1 << 3


def test_example_F_6_4_a_bound_kworker_moves_without_a_message() -> None:
    cpu, p, names = fallback_box(1 << 2, kthread=True)
    assert select_fallback_rq(cpu, p, 2) == 0
    assert not any("no longer affine" in name for name in names)


def test_F_6_select_task_rq_falls_back_when_the_choice_is_not_allowed() -> None:
    cpu, board, _ = busy_cpu(0)
    board.facts[5] = facts(flags=RQF_IDLE)  # idle by its facts, but neither active nor online
    p = sleeping_task(cpu, 508, mask=0b0110_0000, prev=5)
    assert select_task_rq(cpu, p, 5, 0, 400, sync=False) == 6


@pytest.mark.parametrize(("rules", "other_kthread"), [(Rules(), True), (rules_of("5.15"), False)])
def test_F_3_whose_a_dying_cpu_still_is(rules: Rules, other_kthread: bool) -> None:
    """Up to 5.10 any bound kthread's; from 5.11 on only of those that are its own by flag."""
    cpu, board, user = busy_cpu(0, rules=rules)
    board.facts[5] = DYING
    bound = sleeping_task(cpu, 507, mask=1 << 5)
    bound.flags |= PF_KTHREAD
    own = sleeping_task(cpu, 508, mask=1 << 5)
    own_thread(own)
    free = sleeping_task(cpu, 509)
    free.flags |= PF_KTHREAD
    assert [is_cpu_allowed(cpu, p, 5) for p in (user, bound, own, free)] == [
        False,
        other_kthread,
        True,
        False,
    ]


def test_bound_workers_are_their_cpus_own_by_flag_from_5_11() -> None:
    for version, flag in (("5.10", 0), ("5.15", 1)):
        cpu, _, _ = lone_cpu(0, 2, rules=rules_of(version), version=version)
        workers = [cpu.tasks[pid] for pool in cpu.pools for pid in pool.workers]
        assert {p.kthread_flags for p in workers} == {flag}
        assert {p.kthread_flags for p in (cpu.ksoftirqd, cpu.rq.stop) if p is not None} == {1}


def test_what_a_cpu_looks_like_to_itself() -> None:
    cpu, _, _ = lone_cpu(0, 2)
    assert cpu_flags(cpu, 0) == RQF_ONLINE | RQF_ACTIVE | RQF_IDLE
    cpu.wake_list.append([500, 1])
    assert not cpu_flags(cpu, 0) & RQF_IDLE
    cpu.wake_list.clear()
    p = sleeping_task(cpu, 500)
    run_task(cpu, p)
    assert cpu_flags(cpu, 0) == RQF_ONLINE | RQF_ACTIVE
    cpu.rq.cfs.idle_h_nr_running = 1
    assert cpu_flags(cpu, 0) == RQF_ONLINE | RQF_ACTIVE | RQF_SCHED_IDLE


# -- F.6, further versions -------------------------------------------------------------------------


def test_the_fallback_on_the_node_takes_an_online_cpu_for_its_own_thread_from_5_15() -> None:
    """Its CPU is online, not active: up to 5.14 step 2 finds it, only later than other nodes' CPUs."""
    for rules in (Rules(), Rules(fallback_allowed=True)):
        cpu, board, _ = lone_cpu(0, 8, node=4, rules=rules)
        board.facts[2] = DYING
        p = sleeping_task(cpu, 4321, mask=1 << 2, prev=2)
        own_thread(p)
        assert select_fallback_rq(cpu, p, 2) == 2
    cpu, board, _ = lone_cpu(0, 8, node=4, rules=rules_of("5.15"))
    board.facts[2] = DYING
    p = sleeping_task(cpu, 4322, mask=1 << 2 | 1 << 6, prev=2)
    own_thread(p)
    assert select_fallback_rq(cpu, p, 2) == 2
    cpu.rq.rules = Rules()
    assert select_fallback_rq(cpu, p, 2) == 6


@pytest.mark.parametrize("version", ["5.4", "5.15"])
def test_example_F_6_5_a_wakeup_while_the_previous_cpu_dies(version: str) -> None:
    cpu, board, _ = lone_cpu(0, 8, node=4, rules=rules_of(version), version=version)
    board.facts[2] = DYING
    run_task(cpu, sleeping_task(cpu, 400))
    p = sleeping_task(cpu, 500, prev=2)
    crowd(board, 2)
    board.facts[2] = DYING
    assert select_task_rq(cpu, p, 2, 0, 400, sync=False) in (0, 1)
