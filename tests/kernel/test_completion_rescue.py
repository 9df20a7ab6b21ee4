"""P5 of io-and-workqueue.md H.4: works that wait are taken to another CPU at the tick."""

from __future__ import annotations

from itertools import pairwise

import pytest

from emulator.completion import SIGNALS, CompletionSpec
from emulator.kernel.wq_table import WQ_DIO, WQ_EVENTS
from emulator.types import OP_FLUSH_WORKQUEUE, OP_IO_GETEVENTS, OP_IO_SUBMIT, OP_RUN, WRITE, Costs
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, costs, script_work, scsi_debug
from tests.kernel.test_dio_completion import CHARGES, START, done, executed
from tests.kernel.test_workqueue import FIFO

TICK = 10 * MS


def box_of(
    nr: int = 8,
    spin_ns: int = 35 * MS,
    *others: Job,
    signals: tuple[tuple[str, int], ...] = (("head_age", 10 * MS),),
    llc: int = 0b1111,
) -> Box:
    """Return a box whose submitter writes, computes for some ticks, and then looks for its IOs."""

    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(n, WRITE, 0, 4096 * n, 4096) for n in range(nr)])
        yield (OP_RUN, spin_ns)
        yield (OP_IO_GETEVENTS, nr, nr)

    charges: Costs = costs(**CHARGES)
    return Box(
        Job(steps, name="fio", disk="/xfs", start_ns=START, mask=1),
        *others,
        nr_cpus=4,
        hz=100,
        llc=llc,
        charges=charges,
        disk=scsi_debug(41 * US),
        sysctls=QUIET | FIFO,
        completion=CompletionSpec("rescue", 0, signals),
    )


def test_H_4_P5_all_works_that_wait_go_at_the_tick() -> None:
    box = box_of().run(100 * MS)
    # They end at some 0.1 ms: at the first tick the first one has waited for a jiffy.
    assert executed(box) == [1] * 8
    assert all(TICK < t < TICK + 50 * US for t in box.times("workqueue_execute_start"))
    assert sorted(done(box)) == list(range(8))
    rescued = [e for e in box.events("box_completion") if e[2]["why"] == 8]
    assert [(e[2]["cpu"], e[2]["on"]) for e in rescued] == [(1, 0)] * 8
    assert [e[2]["cost"] > 0 for e in rescued] == [True] + [False] * 7, "one decision for all"
    assert [e[2]["cpu"] for e in box.events("workqueue_queue_work")] == [0] * 8, "queued once"
    assert box.cpus[0].pools[0].active == {WQ_DIO: 0}
    assert box.cpus[1].pools[0].active == {WQ_DIO: 0}
    assert box.cpus[0].counters["works_rescued"] == 8


def test_the_first_one_wakes_the_worker_there_and_all_are_paid_for() -> None:
    box = box_of().run(100 * MS)
    worker = box.events("workqueue_execute_start")[0][2]["current"]
    assert len(box.times("sched_waking", cpu=1, pid=worker)) == 1
    arrived = box.times("workqueue_activate_work", cpu=1)
    steps = [b - a for a, b in pairwise(arrived)]
    assert set(steps) == {CHARGES["queue_work_ns"]}


def test_who_is_not_saturated_keeps_them() -> None:
    box = box_of(signals=(("worklist", 9),)).run(100 * MS)
    assert executed(box) == [0] * 8


def test_without_an_idle_cpu_in_the_cache_they_stay() -> None:
    box = box_of(llc=0b1).run(100 * MS)
    assert executed(box) == [0] * 8
    assert {e[2]["why"] for e in box.events("box_completion")} == {0, 4}


@pytest.mark.parametrize("signal", ["not_idle", "nr_running", "stint", "preempt", "head_age_ns"])
def test_what_is_true_of_every_cpu_where_a_work_waits_takes_them_at_the_first_tick(
    signal: str,
) -> None:
    box = box_of(signals=((signal, SIGNALS[signal].limit),)).run(100 * MS)
    assert executed(box) == [1] * 8


def test_works_of_the_cpu_stay() -> None:
    box = box_of().run(START + MS)
    mine = script_work(box.cpus[0], WQ_EVENTS, [(US, 0)])
    box.run(100 * MS)
    starts = {e[2]["work"]: e[2]["on"] for e in box.events("workqueue_execute_start")}
    assert starts.pop(mine) == 0
    assert set(starts.values()) == {1}


def test_what_max_active_delays_becomes_active_and_goes_with_the_next_tick() -> None:
    box = box_of()
    for cpu in box.cpus:
        cpu.workqueues[WQ_DIO].max_active = 4
    box.run(100 * MS)
    starts = box.times("workqueue_execute_start")
    assert executed(box) == [1] * 8
    assert [t // TICK for t in starts] == [1] * 4 + [2] * 4
    assert all(cpu.pools[0].active.get(WQ_DIO, 0) == 0 for cpu in box.cpus)


def test_a_flush_finds_what_it_waits_for() -> None:
    def flusher() -> Steps:
        yield (OP_FLUSH_WORKQUEUE, "dio")

    box = box_of(8, 35 * MS, Job(flusher, name="umount", cpu=2, mask=4, start_ns=START + MS))
    box.run(100 * MS)
    # Whoever flushes has been promised that they end here: they wait for their own worker.
    assert executed(box) == [0] * 8
    last = box.times("workqueue_execute_end")[-1]
    (gone,) = box.times("sched_process_exit", pid=box.pid(1))
    assert last < gone < last + 50 * US


@pytest.mark.parametrize("before_ns", [0, 2 * US])
def test_a_target_that_dies_on_the_way_loses_nothing(before_ns: int) -> None:
    box = box_of()
    box.command(TICK - before_ns, 1, "cpu", "kill", 1)
    box.run(100 * MS)
    assert sorted(done(box)) == list(range(8))
    assert not box.cpus[1].online


def test_a_cpu_that_goes_down_rescues_nobody() -> None:
    box = box_of()
    box.command(TICK - 5 * US, 0, "cpu", "offline", 0)
    box.run(200 * MS)
    assert sorted(done(box)) == list(range(8))
