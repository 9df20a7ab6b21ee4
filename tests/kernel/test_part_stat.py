"""Disk statistics against io-and-workqueue.md A.10."""

from __future__ import annotations

from emulator.kernel.part_stat import DiskStats, PartStat, disk_stats, part_stat
from emulator.rules import Rules, rules_of
from emulator.types import OP_IO_GETEVENTS, OP_IO_SUBMIT, READ, WRITE
from tests.kernel.box import MS, US, Box, Job, Steps, costs, scsi_debug


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
        time_in_queue=10,
    )


def test_time_in_queue_of_short_requests_is_lost_up_to_5_6() -> None:
    stat = PartStat(MS)
    for start in range(0, 100 * MS, MS):
        stat.account_io_start(READ)
        stat.account_io_done(READ, 8, start, start + 700 * US)
    assert disk_stats([stat], Rules()).time_in_queue == 0
    assert disk_stats([stat], rules_of("5.10")).time_in_queue == 70


def test_what_is_kept_does_not_grow() -> None:
    stat = PartStat(MS)
    for start in range(0, 900 * MS, MS):
        stat.account_io_start(WRITE)
        stat.account_io_done(WRITE, 8, start, start + 700 * US)
    assert sum(len(one) for one in stat.pack()[:5]) == 10
    again = part_stat(stat.pack(), MS)
    assert disk_stats([again], Rules()) == disk_stats([stat], Rules())
    assert again.ios == [0, 900]
