"""Tests of the pass over the rings: what is paired, what lies at the edges of the window."""

from pathlib import Path

from emulator.report.extract import extract
from emulator.trace.reader import RingReader
from emulator.trace.ring import Ring
from emulator.tracepoints import (
    BOX_BUG,
    BOX_LOAD_BALANCE,
    BOX_WARN,
    SCHED_SWITCH,
    SOFTIRQ_ENTRY,
    WORKQUEUE_EXECUTE_START,
    WORKQUEUE_QUEUE_WORK,
)
from tests.report.rings import DIO_WORK, FIO, KWORKERS, new_rings, readers_of, switch


def test_runs_are_counted_from_switch_to_switch_inside_the_window() -> None:
    (ring,) = new_rings(1)
    switch(ring, 100, 0, FIO)
    switch(ring, 1_500, FIO, KWORKERS[0])
    switch(ring, 1_800, KWORKERS[0], FIO)
    found = extract(readers_of([ring]), 1_000, 2_000)
    assert dict(found.runs) == {KWORKERS[0]: [300]}
    assert found.switches == 2
    assert found.ins == {KWORKERS[0]: [1_500], FIO: [1_800]}


def test_cpu_time_is_exact_at_both_edges() -> None:
    (ring,) = new_rings(1)
    switch(ring, 100, 0, FIO)
    switch(ring, 1_500, FIO, 0)
    switch(ring, 1_900, 0, FIO)
    found = extract(readers_of([ring]), 1_000, 2_000)
    assert dict(found.cpu_ns) == {FIO: 600}
    assert found.busy_ns == {0: 600}


def test_whoever_ran_before_a_window_without_switches_still_runs() -> None:
    busy, idle, unused = new_rings(3)
    switch(busy, 100, 0, FIO)
    switch(idle, 100, FIO, 0)
    for ring in (busy, idle, unused):
        for _ in range(20_000):
            ring.emit(500, SOFTIRQ_ENTRY, 0, 0, 0, 4)
    found = extract(readers_of([busy, idle, unused]), 1_000, 2_000)
    assert found.busy_ns == {0: 1_000, 1: 0, 2: 0}
    assert dict(found.cpu_ns) == {FIO: 1_000}


def test_a_work_is_paired_on_its_cpu_and_across_cpus() -> None:
    rings = new_rings(2)
    names = [ring.intern(DIO_WORK) for ring in rings]
    rings[0].emit(10, WORKQUEUE_QUEUE_WORK, 0, 0, 0, 1, names[0])
    rings[0].emit(11, WORKQUEUE_QUEUE_WORK, 0, 0, 0, 2, names[0])
    rings[0].emit(15, WORKQUEUE_EXECUTE_START, 0, 0, 0, 1, names[0])
    rings[1].emit(31, WORKQUEUE_EXECUTE_START, 0, 0, 0, 2, names[1])
    works = extract(readers_of(rings), 0, 100).works[DIO_WORK]
    assert works.started == 2
    assert works.delays == [5, 20]


def test_a_work_queued_again_elsewhere_is_paired_in_order_of_time() -> None:
    rings = new_rings(2)
    names = [ring.intern(DIO_WORK) for ring in rings]
    for at in (10, 50):
        rings[0].emit(at, WORKQUEUE_QUEUE_WORK, 0, 0, 0, 1, names[0])
    for at in (17, 52):
        rings[1].emit(at, WORKQUEUE_EXECUTE_START, 0, 0, 0, 1, names[1])
    assert sorted(extract(readers_of(rings), 0, 100).works[DIO_WORK].delays) == [2, 7]


def test_a_work_queued_before_the_window_counts_as_started_alone() -> None:
    (ring,) = new_rings(1)
    name = ring.intern(DIO_WORK)
    ring.emit(10, WORKQUEUE_QUEUE_WORK, 0, 0, 0, 1, name)
    ring.emit(60, WORKQUEUE_EXECUTE_START, 0, 0, 0, 1, name)
    works = extract(readers_of([ring]), 50, 100).works[DIO_WORK]
    assert (works.started, works.delays) == (1, [])


def test_balance_passes_bugs_and_warnings_are_collected() -> None:
    (ring,) = new_rings(1)
    ring.emit(1, BOX_LOAD_BALANCE, 0, 0, 0, 1, 0, 2, 1, 0)
    ring.emit(2, BOX_BUG, 0, 0, 0, ring.intern("on two queues"))
    ring.emit(3, BOX_WARN, 0, 0, 0, ring.intern("late"))
    found = extract(readers_of([ring]), 0, 100)
    assert found.passes == [(2, 1)]
    assert (found.bugs, found.warnings) == (["on two queues"], ["late"])


def test_only_records_lost_inside_the_window_matter(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "r", "cpu0", 0, 2 * 4096, (), 4096)
    for at in range(200):
        ring.emit(at, SCHED_SWITCH, 0, 0, 0)
    reader = RingReader(tmp_path / "r")
    assert extract([reader], 0, 200).lost == 128
    assert extract([reader], 150, 200).lost == 0
    ring.close()


def test_kinds_lump_per_cpu_kthreads_together() -> None:
    (ring,) = new_rings(1)
    ring.comm(50, "migration/3")
    ring.comm(51, "xfsaild/sda")
    found = extract(readers_of([ring]), 0, 1)
    kinds = [found.kind(pid) for pid in (0, FIO, KWORKERS[0], 50, 51, 999)]
    assert kinds == ["swapper", "fio", "kworker", "migration", "xfsaild/sda", "<...>"]
