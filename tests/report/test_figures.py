"""Tests of the figures, by the definitions of the oracle, on cycles taken from its timelines."""

import json

import pytest

from emulator.report.figures import RunData, figures, lookup
from emulator.tracepoints import (
    MIGRATE_ACTIVE,
    MIGRATE_NEWIDLE,
    MIGRATE_NOHZ,
    MIGRATE_PERIODIC,
    SCHED_WAKING,
)
from emulator.workload.fio_books import FioBooks
from emulator.workload.tally import Tally
from tests.report.rings import (
    FIO,
    KWORKERS,
    cycles_of_512,
    migrate,
    new_rings,
    readers_of,
    switch,
)

#: The names that results.json must have.
NAMES = [
    "iops",
    "migrations_per_s",
    "migrations_by_cause",
    "residence_us",
    "migration_gap_us",
    "switches_per_s",
    "works_per_kworker_run",
    "queue_to_start_us",
    "kworker_wake_to_run_us",
    "submitter_wake_to_run_us",
    "run_length_us",
    "inline_completion_fraction",
    "cpu_utilisation",
    "task_cpu_fraction",
    "balance",
    "slat_us",
    "clat_us",
]


def test_timeline_of_the_512_byte_case() -> None:
    rings, end = cycles_of_512(100)
    found = figures(RunData(readers_of(rings), 0, end))
    assert found["iops"] == round(1e9 / 77_690, 1)
    assert found["migrations_per_io"] == 1.0
    assert found["migrations_by_cause"]["wakeup"] == 100
    assert found["migrations_by_context"] == {"wakeup by kworker": 100}
    assert found["works_per_kworker_run"] == 1.0
    assert found["queue_to_start_us"]["p50"] == 6.78
    assert found["kworker_wake_to_run_us"]["p50"] == 4.96
    assert found["submitter_wake_to_run_us"]["p50"] == 10.96
    assert found["run_length_us"]["fio"]["p50"] == 17.85
    assert found["run_length_us"]["kworker"]["p50"] == 8.07
    assert found["migration_gap_us"]["p50"] == 77.69
    assert found["migration_gap_hist"] == {"64-128us": 99}
    assert found["residence_us"]["p50"] == round(77.69 - 10.07, 2)
    assert found["inline_completion_fraction"] == 0.0
    assert found["switches_per_s"] == round(399e9 / end, 1)  # the last one is at the end
    assert found["cpu_utilisation"]["0"] == pytest.approx((17.85 + 8.07) / 77.69 / 2, abs=1e-4)
    assert found["task_cpu_fraction"]["fio/288"] == pytest.approx(17.85 / 77.69, abs=1e-4)


def test_every_name_is_there_and_all_is_json_even_of_empty_rings() -> None:
    found = figures(RunData(readers_of(new_rings(2)), 0, 1_000))
    assert set(NAMES) <= set(found)
    assert found["iops"] == 0
    assert found["works_per_kworker_run"] is None
    assert json.loads(json.dumps(found)) == found


def test_a_window_counts_only_what_lies_in_it() -> None:
    rings, end = cycles_of_512(100)
    half = figures(RunData(readers_of(rings), end // 2, end))
    assert half["ios"] == 50
    assert half["migrations"] == 50


def test_causes_are_counted_for_submitters_alone_and_pull_is_their_sum() -> None:
    rings = new_rings(2)
    whys = (MIGRATE_ACTIVE, MIGRATE_PERIODIC, MIGRATE_NEWIDLE, MIGRATE_NOHZ, MIGRATE_NOHZ)
    for at, why in enumerate(whys):
        migrate(rings[0], 1_000 * at, 0, 0, 1, why)
    found = figures(RunData(readers_of(rings), 0, 10_000, submitters=(FIO,)))
    assert lookup(found, "migrations_by_cause.active_balance") == 1
    assert lookup(found, "migrations_by_cause.nohz") == 2
    assert lookup(found, "migrations_by_cause.pull") == 4
    nobody = figures(RunData(readers_of(rings), 0, 10_000, submitters=(1,)))
    assert nobody["migrations"] == 0
    assert lookup(nobody, "migrations_by_cause.pull") == 0
    assert lookup(found, "migrations_by_cause.earthquake") is None
    assert lookup({}, "migrations_by_cause.pull") is None


def test_migrations_are_counted_per_second() -> None:
    rings = new_rings(1)
    for at_ms in (0, 999, 1000, 2400):
        migrate(rings[0], at_ms * 1_000_000, 0, 0, 1, MIGRATE_ACTIVE)
    found = figures(RunData(readers_of(rings), 0, 2_500_000_000, (FIO,)))
    assert found["migrations_by_second"] == [2, 1, 1]
    assert found["migrations_per_s"] == 1.6


def test_a_stay_begins_when_the_task_runs_on_its_new_cpu() -> None:
    rings = new_rings(2)
    migrate(rings[0], 1_000, 0, 0, 1, MIGRATE_ACTIVE)
    switch(rings[1], 4_000, 0, FIO)
    migrate(rings[1], 9_000, 0, 1, 0, MIGRATE_ACTIVE)
    migrate(rings[1], 9_500, 0, 0, 1, MIGRATE_ACTIVE)
    found = figures(RunData(readers_of(rings), 0, 10_000, (FIO,)))
    assert found["residence_us"]["n"] == 1
    assert found["residence_us"]["p50"] == 5.0
    assert found["migration_gap_us"]["n"] == 2


def test_a_waking_of_a_running_task_is_no_wait_and_the_first_of_two_counts() -> None:
    (ring,) = new_rings(1)
    switch(ring, 1_000, 0, FIO)
    ring.emit(2_000, SCHED_WAKING, 0, 0, 0, FIO, 120, 0)
    switch(ring, 3_000, FIO, KWORKERS[0])
    switch(ring, 9_000, KWORKERS[0], FIO)
    switch(ring, 10_000, FIO, 0, 1)
    ring.emit(12_000, SCHED_WAKING, 0, 0, 0, FIO, 120, 0)
    ring.emit(13_000, SCHED_WAKING, 0, 0, 0, FIO, 120, 0)
    switch(ring, 17_000, 0, FIO)
    found = figures(RunData(readers_of([ring]), 0, 20_000, (FIO,)))
    assert found["submitter_wake_to_run_us"]["n"] == 1
    assert found["submitter_wake_to_run_us"]["p50"] == 5.0


def test_balance_counters_are_those_of_the_balancers_books() -> None:
    books = {4: {"balance": {"idle": {"calls": 100, "failed": 90}, "busy": {"calls": 7}}}}
    readers = readers_of(new_rings(1))
    assert figures(RunData(readers, 0, 1_000, (), books))["balance"] == books[4]["balance"]


def test_latencies_come_from_the_programs_own_books() -> None:
    here, there = FioBooks(4096), FioBooks(4096)
    here.write.slat.add(1_000)
    there.write.slat.add(9_000)
    books = {cpu: {"programs": {FIO: kept.pack()}} for cpu, kept in enumerate((here, there))}
    found = figures(RunData(readers_of(new_rings(1)), 0, 1_000, (FIO,), books))
    assert found["slat_us"]["n"] == 2
    assert found["slat_us"]["mean"] == 5.0
    assert found["clat_us"]["n"] == 0
    assert found["submitters"]["fio/288"]["slat_us"] == found["slat_us"]


def test_a_task_notices_moves_only_between_two_runs() -> None:
    rings = new_rings(2)
    switch(rings[0], 10_000, 0, FIO)
    switch(rings[0], 20_000, FIO, 0)
    migrate(rings[0], 21_000, 0, 0, 1, MIGRATE_NEWIDLE)
    migrate(rings[1], 22_000, 0, 1, 0, MIGRATE_NEWIDLE)  # back before it ran
    switch(rings[0], 30_000, 0, FIO)
    switch(rings[0], 40_000, FIO, 0)
    migrate(rings[0], 41_000, 0, 0, 1, MIGRATE_PERIODIC)
    switch(rings[1], 50_000, 0, FIO)
    switch(rings[1], 75_000, FIO, 0)
    found = figures(RunData(readers_of(rings), 0, 100_000, [FIO]))
    assert found["migrations"] == 3
    assert found["user_migrations"] == {"fio": {"total": 1, "max": 1}}
    assert found["task_cpu_share"]["fio"] == {"n": 1, "total": 0.45, "min": 0.45, "max": 0.45}


def test_what_programs_measured_is_told_by_comm_over_all_cpus() -> None:
    rings = new_rings(2)
    parts = []
    for wake_ns in (5_000, 7_000):
        tally = Tally("periodic", ("missed",), ("wake_ns", "response_ns"))
        tally.counts["missed"] = 2
        tally.stats["wake_ns"].add(wake_ns)
        parts.append(tally.pack())
    books = {cpu: {"programs": {FIO: part}} for cpu, part in enumerate(parts)}
    found = figures(RunData(readers_of(rings), 0, 1_000, [], books))["programs"]["fio"]
    assert (found["missed"], found["wake_us"]["n"], found["wake_us"]["mean"]) == (4, 2, 6.0)
    assert found["response_us"]["n"] == 0
    assert "round_us" not in found


def test_submitters_are_the_tasks_marked_even_without_io() -> None:
    rings = new_rings(2)
    switch(rings[0], 10_000, 0, FIO)
    found = figures(RunData(readers_of(rings), 0, 100_000, [FIO, 99]))
    assert list(found["submitters"]) == [f"fio/{FIO}"]
