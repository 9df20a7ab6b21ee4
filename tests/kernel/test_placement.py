"""Wakeup and fork placement against scheduler.md C.2-C.6, F.3 and F.6."""

from __future__ import annotations

from typing import Any

import pytest

from emulator import tracepoints as tp
from emulator.kernel import fair, idle_sibling, placement
from emulator.kernel.cpu import Cpu
from emulator.kernel.placement import (
    select_task_rq,
    wake_affine,
    wake_affine_idle,
    wake_affine_loads,
    wake_wide_flips,
)
from emulator.kernel.sched import Task
from emulator.types import (
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    RQF_ACTIVE,
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
