"""Rescuers, against io-and-workqueue.md F.7 and F.17 W5."""

from __future__ import annotations

import pytest

from emulator import wire
from emulator.kernel import hrtimer
from emulator.kernel.wq_pool import WorkerPool
from emulator.kernel.wq_table import WQ_DIO, WQ_EVENTS, WQ_INTENSIVE
from emulator.rules import rules_of
from emulator.types import WorkqueueSpec
from tests.kernel.box import MS, US, Box, script_work

START = 10 * US


def short_of_memory(delay_ns: int, version: str = "5.4", hz: int = 1000) -> Box:
    """Return a CPU whose two workers are taken at the start: an item sleeps, the other one creates."""
    wq = WorkqueueSpec(create_delay_ns=delay_ns)
    box = Box(hz=hz, rules=rules_of(version), version=version, wq=wq).run(START)
    script_work(box.cpus[0], WQ_EVENTS, [(US, 900 * MS), (US, 0)])
    return box


def rescuer_of(box: Box, wq_id: int) -> int:
    """Return the pid of a queue's rescuer."""
    return box.cpus[0].pools[0].rescuers[wq_id]


def test_example_F_17_W5_mayday() -> None:
    """HZ 1000: need_to_create at 0, creating blocks; rescuers are woken at 10, 110 and 210 ms."""
    box = short_of_memory(250 * MS)
    cpu = box.cpus[0]
    first = script_work(cpu, WQ_DIO, [(US, 0)])
    other = script_work(cpu, WQ_EVENTS, [(US, 0)])
    box.run(50 * MS)
    second = script_work(cpu, WQ_DIO, [(US, 0)])
    box.run(150 * MS)
    third = script_work(cpu, WQ_DIO, [(US, 0)])
    box.run(300 * MS)
    rescuer = rescuer_of(box, WQ_DIO)
    assert box.times("sched_waking", pid=rescuer) == [10 * MS, 110 * MS, 210 * MS]
    assert box.comm(rescuer) == "dio/none"
    assert cpu.tasks[rescuer].nice == -20
    starts = {e[2]["work"]: e for e in box.events("workqueue_execute_start")}
    for work, time_ns in ((first, 10 * MS), (second, 110 * MS), (third, 210 * MS)):
        assert starts[work][0] == time_ns
        assert starts[work][2]["current"] == rescuer
    # events has no rescuer: its item waits until there is a worker.
    assert WQ_EVENTS not in cpu.pools[0].rescuers
    assert starts[other][0] >= START + 250 * MS
    assert not cpu.jiffy_timers, "the timer is gone with the creation"


@pytest.mark.parametrize(("hz", "first_ms"), [(100, 20), (250, 8), (1000, 10)])
def test_F_1_the_first_mayday_by_hz(hz: int, first_ms: int) -> None:
    box = short_of_memory(60 * MS, hz=hz)
    script_work(box.cpus[0], WQ_DIO, [(US, 0)])
    box.run(100 * MS)
    assert box.times("sched_waking", pid=rescuer_of(box, WQ_DIO)) == [first_ms * MS]


def test_F_7_without_items_to_rescue_nobody_is_called() -> None:
    box = short_of_memory(60 * MS)
    script_work(box.cpus[0], WQ_EVENTS, [(US, 0)])
    box.run(100 * MS)
    assert box.cpus[0].pools[0].rescuers == {}


def test_F_7_a_rescuer_takes_all_items_of_its_queue_serially_and_is_not_counted() -> None:
    box = short_of_memory(60 * MS)
    cpu = box.cpus[0]
    works = [script_work(cpu, WQ_DIO, [(2 * MS, 1 * MS), (US, 0)]) for _ in range(3)]
    script_work(cpu, WQ_INTENSIVE, [(US, 0)])
    box.run(12 * MS)
    assert cpu.pools[0].nr_running == 0
    box.run(40 * MS)
    starts = [e[0] for e in box.events("workqueue_execute_start") if e[2]["work"] in works]
    assert starts == [10 * MS, 13 * MS + US, 16 * MS + 2 * US]
    # The state survives a snapshot.
    pool = cpu.pools[0]
    data = wire.unpack(wire.pack(pool.pack()))
    assert WorkerPool.unpack(data).rescuers == pool.rescuers == {WQ_DIO: rescuer_of(box, WQ_DIO)}


def test_F_14_later_rescuers_have_the_workers_prefix() -> None:
    box = short_of_memory(60 * MS, "6.6")
    script_work(box.cpus[0], WQ_DIO, [(US, 0)])
    box.run(100 * MS)
    assert box.comm(rescuer_of(box, WQ_DIO)) == "kworker/R-dio/n"


def test_F_11_a_cpu_may_go_while_its_manager_waits() -> None:
    wq = WorkqueueSpec(create_delay_ns=60 * MS)
    box = Box(nr_cpus=2, wq=wq).run(START)
    script_work(box.cpus[1], WQ_EVENTS, [(US, 50 * MS), (US, 0)])
    works = [script_work(box.cpus[1], WQ_DIO, [(US, 5 * MS), (US, 0)]) for _ in range(2)]
    box.command(12 * MS, 1, "cpu", "offline", 1)
    box.run(100 * MS)
    assert not box.cpus[1].online
    assert (box.cpus[1].pools[0].manager, box.cpus[1].jiffy_timers) == (0, [])
    for work in works:
        assert box.times("workqueue_execute_end", work=work)
    box.command(110 * MS, 1, "cpu", "online", 1)
    box.run(120 * MS)
    again = script_work(box.cpus[1], WQ_DIO, [(US, 0)])
    box.run(130 * MS)
    assert box.times("workqueue_execute_end", work=again)


def unlucky(nr: int) -> Box:
    """Return a CPU whose first attempts to create a worker fail, with an item that sleeps."""
    box = Box(wq=WorkqueueSpec(create_failures=nr)).run(START)
    script_work(box.cpus[0], WQ_EVENTS, [(US, 3900 * MS), (US, 0)])
    return box


@pytest.mark.parametrize("nr", [1, 2])
def test_F_7_an_attempt_that_fails_is_repeated_after_a_second(nr: int) -> None:
    box = unlucky(nr)
    cpu = box.cpus[0]
    rescued = script_work(cpu, WQ_DIO, [(US, 0)])
    waiting = script_work(cpu, WQ_EVENTS, [(US, 0)])
    box.run(3000 * MS)
    (start,) = box.times("workqueue_execute_start", work=waiting)
    assert nr * 1000 * MS <= start < nr * 1000 * MS + MS
    assert box.times("workqueue_execute_start", work=rescued) == [10 * MS]
    pool = cpu.pools[0]
    assert (pool.manager, len(pool.workers) - len(pool.rescuers), cpu.create_failed) == (0, 3, nr)
    assert not [timer for timer in cpu.jiffy_timers if timer[2] == hrtimer.WHEEL_MAYDAY]


def test_F_7_after_the_pause_nobody_may_be_wanted_any_more() -> None:
    box = unlucky(9)
    rescued = script_work(box.cpus[0], WQ_DIO, [(US, 0)])
    box.run(2000 * MS)
    pool = box.cpus[0].pools[0]
    assert box.times("workqueue_execute_end", work=rescued)
    assert (pool.manager, len(pool.workers) - len(pool.rescuers)) == (0, 2)
    assert box.cpus[0].create_failed == 1
    again = script_work(box.cpus[0], WQ_EVENTS, [(US, 0)])
    box.run(2010 * MS)
    assert not box.times("workqueue_execute_end", work=again), "the next attempt has failed too"
