"""Wakeup and fork placement against scheduler.md C.2-C.6, F.3 and F.6."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emulator import tracepoints as tp
from emulator.kernel import fair, placement
from emulator.kernel.cpu import Cpu
from emulator.kernel.placement import (
    select_task_rq,
    wake_affine,
    wake_affine_idle,
    wake_affine_loads,
    wake_wide_flips,
)
from emulator.kernel.sched import Task
from emulator.rules import Rules
from emulator.types import (
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    WRITE,
)
from tests.kernel.box import (
    MS,
    US,
    Box,
    Job,
    Steps,
    costs,
    facts,
    lone_cpu,
    machine,
    read_record,
    run_task,
    scsi_debug,
    sleeping_task,
)
from tests.kernel.crowds import busy_cpu, crowd


def wins(*args: Any, **options: Any) -> bool:
    """Return whether this CPU wins in wake_affine_weight()."""
    return wake_affine_loads(*args, **options)[0]


# -- C.6 ------------------------------------------------------------------------------------------


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
    cpu.rq.cfs.avg.runnable_avg = 1024
    board.facts[5] = facts(1, runnable_load=1024)
    assert wake_affine(cpu, p, 0, 5, False, 117) == 5
    board.facts[5] = facts(2, runnable_load=4096)
    assert wake_affine(cpu, p, 0, 5, False, 117) == 0


# -- wake_affine() in later versions ---------------------------------------------------------------


def affine(cpu: Cpu, p: Task, prev: int) -> int:
    """Choose between CPU 0 and ``prev`` in a domain of imbalance_pct 117."""
    return wake_affine(cpu, p, 0, prev, False, 117)


def test_an_idle_prev_wins_without_a_look_at_the_loads_from_5_11() -> None:
    for rules, target in ((Rules(), 0), (Rules(wake_affine_prev_idle=True), 5)):
        cpu, board, p = busy_cpu(0, rules=rules)
        p.avg.load_avg = 0
        cpu.rq.cfs.avg.runnable_avg = 0
        # Idle, but the load of what left has not decayed: by weight this CPU wins.
        board.facts[5] = facts(runnable_load=900)
        assert affine(cpu, p, 5) == target


def test_the_loads_are_load_avg_from_5_5() -> None:
    for rules, target in ((Rules(), 0), (Rules(wake_affine_cpu_load=True), 5)):
        cpu, board, p = busy_cpu(0, rules=rules)
        cpu.rq.cfs.avg.runnable_avg, cpu.rq.cfs.avg.load_avg = 0, 4000
        board.facts[5] = facts(2, runnable_load=4000, load=0)
        assert affine(cpu, p, 5) == target


def test_features_switch_the_halves_of_wake_affine() -> None:
    for features, target in (
        ({"WA_IDLE": False, "WA_WEIGHT": False}, 5),
        ({"WA_IDLE": False}, 0),
        ({"WA_IDLE": False, "WA_BIAS": False}, 5),
    ):
        cpu, board, p = busy_cpu(0, features=features)
        p.avg.load_avg = 0
        cpu.rq.cfs.avg.runnable_avg = 1024
        board.facts[5] = facts(1, runnable_load=1000)  # only the bias makes it heavier
        assert affine(cpu, p, 5) == target


def test_a_choice_for_prev_counts_as_a_move_up_to_6_2() -> None:
    for rules, counted in ((Rules(), 1), (Rules(wake_affine_this_only=True), 0)):
        cpu, board, _ = lone_cpu(0, 8, rules=rules)
        crowd(board, 0, 4)
        p = sleeping_task(cpu, 500)
        assert affine(cpu, p, 4) == 4  # both idle
        assert cpu.counters.get("ttwu_move_affine", 0) == counted
        crowd(board, 0)
        assert affine(cpu, p, 4) == 0
        assert cpu.counters["ttwu_move_affine"] == counted + 1


def test_the_choice_is_recorded_with_both_sides() -> None:
    cpu, board, ring = lone_cpu(0, 8)
    crowd(board)
    run_task(cpu, sleeping_task(cpu, 400))
    p = sleeping_task(cpu, 500, prev=5)
    p.avg.load_avg = 200
    cpu.rq.cfs.avg.load_avg = 200
    cpu.rq.cfs.avg.runnable_avg = 300
    board.facts[5] = facts(2, runnable_load=900)
    ring.records.clear()
    select_task_rq(cpu, p, 5, 0, 400, sync=False)
    found = [read_record(ring, record)[1:] for record in ring.records]
    ((_, args),) = [one for one in found if one[0] == "box_wake_affine"]
    load = fair.task_h_load(p, cpu.rq, cpu.jiffies())
    assert args["this"] == (300 + load) * 100 * 1024
    assert args["prev"] == (900 - load) * 108 * 1024
    assert (args["target"], args["rule"]) == (0, tp.WA_WEIGHT)
    ring.records.clear()
    select_task_rq(cpu, p, 0, 0, 400, sync=False)  # nothing to choose between
    assert {record[1] for record in ring.records} == {tp.BOX_SELECT_TASK_RQ}


def test_a_waker_no_longer_remembers_its_cpu_from_5_15() -> None:
    cpu, board, p = busy_cpu(2, rules=Rules(recent_used_cpu_wakee_only=True))
    crowd(board, 6)
    cpu.tasks[400].recent_used_cpu = 5
    select_task_rq(cpu, p, 2, 2, 400, sync=False)
    assert cpu.tasks[400].recent_used_cpu == 5


def test_beyond_the_reclaim_distance_nothing_is_pulled() -> None:
    spec = replace(machine(8, llc=4, node=4), node_distance=((10, 31), (31, 10)))
    for topology, affine_asked in ((spec, False), (machine(8, llc=4, node=4), True)):
        cpu, board, ring = lone_cpu(0, topology=topology)
        crowd(board)
        run_task(cpu, sleeping_task(cpu, 400))
        ring.records.clear()
        select_task_rq(cpu, sleeping_task(cpu, 500, prev=5), 5, 0, 400, sync=False)
        asked = tp.BOX_WAKE_AFFINE in {record[1] for record in ring.records}
        assert asked is affine_asked


def test_a_child_takes_over_what_its_parent_counted_of_its_wakees() -> None:
    cpu, _, _ = busy_cpu(0)
    parent, child = cpu.tasks[400], sleeping_task(cpu, 600)
    parent.wakee_flips, parent.wakee_flip_decay_ts, parent.last_wakee = 7, 3, 500
    placement.copy_wakees(parent, child)
    assert (child.wakee_flips, child.wakee_flip_decay_ts, child.last_wakee) == (7, 3, 500)


@pytest.mark.parametrize("hint", [False, True])
def test_F20_the_hint_makes_the_workers_wakeup_a_sync_one(
    monkeypatch: pytest.MonkeyPatch, hint: bool
) -> None:
    """On one CPU nobody asks wake_affine(), so the ping-pong is what it was."""

    def writer() -> Steps:
        for number in range(4):
            yield (OP_IO_SUBMIT, [(number, WRITE, 0, number * 4096, 4096)])
            yield (OP_IO_GETEVENTS, 1, 1)
        yield (OP_RUN, 1000 * MS)

    hints: list[bool] = []
    select = placement.select_task_rq_fair

    def spy(
        cpu: Cpu, p: Task, prev: int, waker_cpu: int, waker_pid: int, sync: bool
    ) -> tuple[int, int, int]:
        hints.append(sync)
        return select(cpu, p, prev, waker_cpu, waker_pid, sync)

    monkeypatch.setattr(placement, "select_task_rq_fair", spy)
    box = Box(
        Job(writer, name="fio", disk="/xfs", cpu=3),
        nr_cpus=4,
        disk=scsi_debug(41 * US),
        charges=costs(coherence_ns=100, dio_tail_ns=200, worker_sleep_ns=500, ipi_ns=100),
        rules=Rules(completion_sync_hint=hint),
    ).run(2 * MS)
    assert hints == [hint] * 4
    assert len(box.times("sched_migrate_task", pid=box.pid(0))) == 4
