"""Disk statistics against io-and-workqueue.md A.10."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.kernel.part_stat import DiskStats, PartStat, disk_stats, io_ticks, part_stat
from emulator.rules import Rules, rules_of
from emulator.types import OP_IO_GETEVENTS, OP_IO_SUBMIT, READ, WRITE
from tests.kernel.box import MS, US, Box, Job, Steps, costs, scsi_debug

GAP = Rules(io_ticks_gap_at_end=True)
EXACT = Rules(io_ticks_gap_at_end=True, io_ticks_in_flight=True)


@pytest.mark.parametrize(("rules", "busy"), [(Rules(), 2), (GAP, 1 + 5000), (EXACT, 5000)])
def test_A_10_a_lone_request_of_5_s(rules: Rules, busy: int) -> None:
    stat = PartStat(MS)
    stat.account_io_start(READ, 3 * MS)
    stat.account_io_done(READ, 8, 3 * MS, 5003 * MS)
    assert io_ticks([stat], rules) == busy


@pytest.mark.parametrize(("rules", "busy"), [(Rules(), 3), (GAP, 1 + 1 + 6), (EXACT, 4 + 6)])
def test_a_start_beside_one_in_flight(rules: Rules, busy: int) -> None:
    stat = PartStat(MS)
    stat.account_io_start(READ, 2 * MS)
    stat.account_io_start(READ, 6 * MS)
    stat.account_io_done(READ, 8, 2 * MS, 12 * MS)
    stat.account_io_done(READ, 8, 6 * MS, 12 * MS)
    assert io_ticks([stat], rules) == busy


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 20), st.integers(0, 20)),
        max_size=30,
    ),
    st.sampled_from(["5.4", "5.10", "6.6", "6.12"]),
)
def test_touches_of_all_cpus_make_the_one_stamp(
    requests: list[tuple[int, int, int, int]], version: str
) -> None:
    """What is put together afterwards is what one stamp and one counter would have come to."""
    rules = rules_of(version)
    tick = 4
    events: list[tuple[int, int, int, int]] = []
    for first, last, start, length in requests:
        events += [(start, 0, first, start), (start + length, 1, last, start)]
    cpus = [PartStat(tick, rows=not rules.io_ticks_in_flight) for _ in range(4)]
    stamp, ticks, in_flight = -1, 0, 0
    for now, end, cpu, start in sorted(events):
        if now // tick != stamp:
            gap, stamp = now // tick - stamp, now // tick
            if rules.io_ticks_in_flight:
                ticks += gap if end or in_flight else 0
            else:
                ticks += gap if end and rules.io_ticks_gap_at_end else 1
        if end:
            in_flight -= 1
            cpus[cpu].account_io_done(WRITE, 1, start, now)
        else:
            in_flight += 1
            cpus[cpu].account_io_start(WRITE, now)
    assert io_ticks(cpus, rules) == ticks
    assert io_ticks([part_stat(cpu.pack(), tick) for cpu in cpus], rules) == ticks


def test_what_is_kept_of_jiffies_in_a_row_does_not_grow() -> None:
    stat, each = PartStat(MS, rows=True), PartStat(MS)
    for one in (stat, each):
        for start in (*range(0, 500 * MS, MS), *range(700 * MS, 900 * MS, MS)):
            one.account_io_start(READ, start)
            one.account_io_done(READ, 8, start, start + 700 * US)
    assert stat.touches == [0, 0, 500, 700 * MS << 1, 0, 200]
    assert len(each.touches) == 3 * 700
    assert io_ticks([stat], GAP) == io_ticks([each], GAP) == 700


def test_counters_of_a_run() -> None:
    """Four 4 KiB writes and a 512-byte read, each 2 ms in the device: allocation to end."""

    def steps() -> Steps:
        iocbs = [(i, WRITE, 0, 4096 * i, 4096) for i in range(4)]
        yield (OP_IO_SUBMIT, [*iocbs, (4, READ, 0, 0, 512)])
        yield (OP_IO_GETEVENTS, 5, 5)

    box = Box(Job(steps, disk="/raw"), nr_cpus=2, charges=costs(), disk=scsi_debug(2 * MS))
    box.run(20 * MS)
    cpus = [q.stat for cpu in box.cpus for q in cpu.queues]
    assert disk_stats(cpus, Rules()) == DiskStats(
        ios=(1, 4),
        merges=(0, 0),
        sectors=(1, 32),
        ticks=(2, 8),
        in_flight=0,
        io_ticks=2,
        time_in_queue=10,
    )


def test_time_in_queue_of_short_requests_is_lost_up_to_5_6() -> None:
    stat = PartStat(MS)
    for start in range(0, 100 * MS, MS):
        stat.account_io_start(READ, start)
        stat.account_io_done(READ, 8, start, start + 700 * US)
    assert disk_stats([stat], Rules()).time_in_queue == 0
    assert disk_stats([stat], rules_of("5.10")).time_in_queue == 70
