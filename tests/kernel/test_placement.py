"""Wakeup and fork placement against scheduler.md C.2-C.6, F.3 and F.6."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emulator import tracepoints as tp
from emulator.kernel import affinity, fair, idle_sibling, placement
from emulator.kernel.affinity import is_cpu_allowed, select_fallback_rq
from emulator.kernel.cpu import Cpu
from emulator.kernel.idle_sibling import idle_cpu_budget, select_idle_cpu
from emulator.kernel.idlest import find_idlest_cpu, find_idlest_group, find_idlest_group_cpu
from emulator.kernel.placement import (
    select_task_rq,
    wake_affine,
    wake_affine_idle,
    wake_affine_loads,
    wake_wide_flips,
)
from emulator.kernel.sched import PF_KTHREAD, Task
from emulator.types import (
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    RQF_ACTIVE,
    RQF_IDLE,
    RQF_ONLINE,
    RQF_SCHED_IDLE,
    WRITE,
)
from tests.kernel.box import (
    MS,
    US,
    Box,
    FixedBoard,
    Job,
    Steps,
    costs,
    facts,
    lone_cpu,
    run_task,
    scsi_debug,
    sleeping_task,
)

ALIVE = RQF_ONLINE | RQF_ACTIVE
BUSY = facts(1)
IDLE = facts()
SCHED_IDLE = facts(1, flags=ALIVE | RQF_SCHED_IDLE)


def crowd(board: FixedBoard, *idle: int, sched_idle: tuple[int, ...] = ()) -> None:
    """Let every CPU be busy but these."""
    for cpu in range(len(board.facts) - 1):
        board.facts[cpu] = IDLE if cpu in idle else SCHED_IDLE if cpu in sched_idle else BUSY


def wins(*args: Any, **options: Any) -> bool:
    """Return whether this CPU wins in wake_affine_weight()."""
    return wake_affine_loads(*args, **options)[0]


def select_idle_sibling(cpu: Cpu, p: Task, prev: int, target: int) -> tuple[int, int]:
    """Search on behalf of this CPU's own context."""
    return idle_sibling.select_idle_sibling(cpu, p, prev, target, cpu.node_id)


def busy_cpu(
    cpu: int = 0, nr_cpus: int = 8, *, llc: int = 0, core: int = 1, node: int = 0
) -> tuple[Cpu, FixedBoard, Task]:
    """Return CPU ``cpu`` with a waker (pid 400) running, all others busy, and a sleeping wakee."""
    this, board, _ = lone_cpu(cpu, nr_cpus, llc=llc, core=core, node=node)
    crowd(board)
    run_task(this, sleeping_task(this, 400))
    return this, board, sleeping_task(this, 500)


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
    looked_at: list[int] = []
    flags_of = affinity.cpu_flags

    def spy(this: Cpu, other: int) -> int:
        looked_at.append(other)
        return flags_of(this, other)

    monkeypatch.setattr(affinity, "cpu_flags", spy)
    assert select_idle_cpu(cpu, p, 0, (1 << llc) - 1) == -1
    assert looked_at == list(range(examined))


def test_example_C_6_3_wake_affine_weight() -> None:
    # Not sync: 209 715 200 against 113 246 208.
    assert not wins(1024, 2048, 1024, -1, 117)
    # Sync with current load 1024: 104 857 600 < 113 246 209.
    assert wins(1024, 2048, 1024, 1024, 117)
    # 51 200 000 < 77 414 400.
    assert wins(300, 900, 200, -1, 117)
    # 93 388 800 against 60 652 800.
    assert not wins(512, 1024, 400, -1, 117, this_capacity=900)
    # Prev side -55 296 000.
    assert not wins(0, 0, 500, -1, 117)


def test_C_3_sync_waker_lighter_than_its_own_load_wins() -> None:
    assert wins(100, 0, 500, 101, 117)


@pytest.mark.parametrize(
    ("master", "slave", "factor", "wide"),
    [
        (40, 2, 16, False),
        (255, 16, 16, False),
        (256, 16, 16, True),
        (1000, 3, 4, False),
        (16, 4, 4, True),
        (4, 16, 4, True),
    ],
)
def test_example_C_6_4_wake_wide(master: int, slave: int, factor: int, wide: bool) -> None:
    assert wake_wide_flips(master, slave, factor) is wide


def test_example_C_6_5_thread_wakeup_bounce() -> None:
    """Two CPUs, ping and pong, one migration per completion, by recent_used_cpu."""

    def writer() -> Steps:
        for number in range(8):
            yield (OP_IO_SUBMIT, [(number, WRITE, 0, number * 4096, 4096)])
            yield (OP_IO_GETEVENTS, 1, 1)
            yield (OP_RUN, 5 * US)
        yield (OP_RUN, 1000 * MS)

    # The worker still runs (its item's tail, its way to sleep) when it wakes the writer.
    box = Box(
        Job(writer, name="fio", disk="/xfs", cpu=3),
        nr_cpus=16,
        disk=scsi_debug(41 * US),
        charges=costs(coherence_ns=100, dio_tail_ns=200, worker_sleep_ns=500, ipi_ns=100),
    ).run(2 * MS)
    choices = [
        (e[2]["prev_cpu"], e[2]["cpu"], tp.PLACE_RULES[e[2]["rule"]])
        for e in box.events("box_select_task_rq")
        if e[2]["pid"] == box.pid(0)
    ]
    # recent_used_cpu is its own CPU at first: the first bounce is a search from the target on.
    assert choices[0] == (3, 4, "idle_cpu")
    assert choices[1] == (4, 3, "recent_used_cpu")
    assert choices[2:8] == [(3, 4, "recent_used_cpu"), (4, 3, "recent_used_cpu")] * 3
    moves = box.times("sched_migrate_task", pid=box.pid(0))
    assert len(moves) == 8
    wakers = [
        box.comm(e[2]["current"])[:9]
        for e in box.events("sched_waking")
        if e[2]["pid"] == box.pid(0)
    ]
    assert wakers == ["kworker/3", "kworker/4"] * 4


def test_example_C_6_6_woken_from_an_interrupt_of_the_idle_cpu() -> None:
    cpu, board, _ = lone_cpu(3, 16)
    p = sleeping_task(cpu, 500, prev=3)
    crowd(board, 7)
    p.recent_used_cpu = 7
    assert select_task_rq(cpu, p, 3, 3, 0, sync=False) == 3


# -- C.2 ------------------------------------------------------------------------------------------


def test_C_2_waker_remembers_its_cpu_as_recently_used() -> None:
    cpu, board, p = busy_cpu(2)
    waker = cpu.tasks[400]
    waker.recent_used_cpu = 5
    crowd(board, 6)
    p.cpu = p.wake_cpu = 2
    select_task_rq(cpu, p, 2, 2, 400, sync=False)
    assert waker.recent_used_cpu == 2


def test_C_2_a_waker_outside_the_mask_pulls_nothing() -> None:
    cpu, board, _ = busy_cpu(0)
    p = sleeping_task(cpu, 501, mask=0b11110000, prev=5)
    crowd(board, 6)
    waker = cpu.tasks[400]
    waker.recent_used_cpu = 3
    assert select_task_rq(cpu, p, 5, 0, 400, sync=False) == 6
    assert waker.recent_used_cpu == 3


def test_C_2_record_wakee_counts_flips_and_halves_them_once_a_second() -> None:
    cpu, _, p = busy_cpu(0)
    waker = cpu.tasks[400]
    other = sleeping_task(cpu, 502)
    for woken in (p, p, other, p):
        placement.record_wakee(cpu, woken, 400)
    assert waker.wakee_flips == 3
    cpu.now = 1000 * MS
    placement.record_wakee(cpu, p, 400)
    assert waker.wakee_flips == 3  # jiffies must be later than ts + HZ
    cpu.now = 1001 * MS
    placement.record_wakee(cpu, p, 400)
    assert waker.wakee_flips == 1
    assert waker.wakee_flip_decay_ts == 1001


def test_C_1_a_bound_task_is_not_placed() -> None:
    cpu, board, _ = busy_cpu(0)
    crowd(board, 1, 2)
    p = sleeping_task(cpu, 503, mask=1 << 5, prev=5)
    assert select_task_rq(cpu, p, 5, 0, 400, sync=False) == 5
    assert p.wakee_flips == 0
    assert cpu.tasks[400].last_wakee == 0


# -- C.3 ------------------------------------------------------------------------------------------


def test_C_3_idle_this_cpu_yields_to_an_idle_prev() -> None:
    cpu, board, _ = lone_cpu(0, 8)
    crowd(board, 0, 4)
    assert wake_affine_idle(cpu, 0, 4, sync=False) == tp.WA_BOTH_IDLE
    assert wake_affine_idle(cpu, 0, 5, sync=False) == tp.WA_THIS_IDLE


def test_C_3_idle_this_cpu_without_a_shared_cache_is_undecided() -> None:
    cpu, board, _ = lone_cpu(0, 8, llc=4)
    crowd(board, 0)
    assert wake_affine_idle(cpu, 0, 5, sync=False) == tp.WA_UNDECIDED


def test_C_3_sync_waker_alone_on_its_cpu() -> None:
    cpu, _, _ = busy_cpu(0)
    assert wake_affine_idle(cpu, 0, 5, sync=True) == tp.WA_SYNC
    assert wake_affine_idle(cpu, 0, 5, sync=False) == tp.WA_UNDECIDED
    run_again = sleeping_task(cpu, 600)
    fair.enqueue_task_fair(cpu.rq, run_again, 0)
    assert wake_affine_idle(cpu, 0, 5, sync=True) == tp.WA_UNDECIDED


def test_C_3_undecided_is_prev() -> None:
    cpu, board, p = busy_cpu(0)
    cpu.rq.cfs.avg.runnable_load_avg = 1024
    board.facts[5] = facts(1, runnable_load=1024)
    assert wake_affine(cpu, p, 0, 5, False, 117) == 5
    board.facts[5] = facts(2, runnable_load=4096)
    assert wake_affine(cpu, p, 0, 5, False, 117) == 0


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


def test_C_4_cpus_outside_the_mask_consume_budget() -> None:
    cpu, board, _ = busy_cpu(0, 16)
    cpu.rq.avg_idle, cpu.scan_cost = 100_000, 2000
    p = sleeping_task(cpu, 506, mask=0b1111_0000)
    crowd(board, 4)
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == -1


def test_C_4_a_sched_idle_cpu_is_lost_when_the_loop_runs_to_its_end() -> None:
    """The quirk of v5.4: it is returned only when the budget ends the scan."""
    cpu, board, p = busy_cpu(0, 16)
    crowd(board, sched_idle=(1,))
    cpu.rq.avg_idle, cpu.scan_cost = 100_000, 2000
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == 1
    cpu.rq.avg_idle, cpu.scan_cost = 1_000_000, 100
    assert select_idle_cpu(cpu, p, 0, 0xFFFF) == -1


# -- F.3, F.6 -------------------------------------------------------------------------------------


def test_F_3_is_cpu_allowed() -> None:
    cpu, board, p = busy_cpu(0)
    board.facts[5] = facts(flags=RQF_ONLINE | RQF_IDLE)  # inactive but online
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


# -- C.5 ------------------------------------------------------------------------------------------


def load_facts(runnable: int, load: int | None = None) -> tuple[int, ...]:
    """Return the facts of a busy CPU with these loads."""
    return facts(1, runnable_load=runnable, load=runnable if load is None else load)


def group_box(
    nr_cpus: int, loads: list[int], *, llc: int = 0, node: int = 0
) -> tuple[Cpu, FixedBoard, Task]:
    """Return CPU 0, idle, and the given loads of the others (CPU 0's own comes first)."""
    cpu, board, _ = lone_cpu(0, nr_cpus, llc=llc, node=node)
    p = sleeping_task(cpu, 500)
    for other, load in enumerate(loads):
        board.facts[other] = load_facts(load)
    cpu.rq.cfs.avg.runnable_load_avg = cpu.rq.cfs.avg.load_avg = loads[0]
    return cpu, board, p


def test_C_5_fork_domains_of_two_llcs_on_two_nodes() -> None:
    cpu, _, _ = lone_cpu(0, 8, llc=4, node=4, core=2)
    spans = [(groups, pct, numa) for groups, pct, numa in fork_domains(cpu, 5)]
    assert spans == [
        ([0xF0, 0x0F], 125, True),
        ([0x30, 0xC0], 117, False),
        ([0x20, 0x10], 110, False),
    ]


def test_C_5_domains_beyond_the_reclaim_distance_balance_no_forks() -> None:
    cpu, _, _ = lone_cpu(0, 8, llc=4, node=4)
    far = replace(cpu.spec.machine, node_distance=((10, 31), (31, 10)))
    cpu.spec = replace(cpu.spec, machine=far)
    assert [groups for groups, _, _ in fork_domains(cpu, 0)] == [[1, 2, 4, 8]]


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
