"""Which CPU runs a hardware queue: io-and-workqueue.md A.5."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest

from emulator.kernel.blk_mq_hctx import blk_mq_hctx_next_cpu
from emulator.types import OP_IO_SUBMIT, OP_SLEEP, WRITE
from tests.kernel.box import MS, US, Box, Job, Steps, costs, lone_cpu, null_blk, scsi_debug

ALL = 0b1111


def turns(chosen: list[int]) -> list[tuple[int, int]]:
    """Return CPU and number of each stretch of the same CPU."""
    return [(cpu, len(list(same))) for cpu, same in groupby(chosen)]


def test_A_5_kblockd_s_cpu_moves_on_at_every_eighth_run() -> None:
    cpu, _, _ = lone_cpu(2, 4, disk=null_blk(2, submit_queues=2), charges=costs())
    q = cpu.queues[0]
    assert q.hctx_mask == 0b0101
    chosen = [blk_mq_hctx_next_cpu(q, ALL, 2) for _ in range(7 + 8 + 8)]
    assert turns(chosen) == [(0, 7), (2, 8), (0, 8)]


def test_A_5_offline_cpus_are_left_out() -> None:
    cpu, _, _ = lone_cpu(3, 6, disk=null_blk(2, submit_queues=2), charges=costs())
    q = cpu.queues[0]
    assert q.hctx_mask == 0b101010

    def choose(online: int, times: int) -> list[tuple[int, int]]:
        return turns([blk_mq_hctx_next_cpu(q, online, 3) for _ in range(times)])

    assert choose(0b111111, 2) == [(1, 2)]
    assert choose(0b101000, 10) == [(3, 8), (5, 2)]  # CPU 1 has gone
    assert choose(0b010101, 5) == [(3, 5)]  # nobody: no preference, whoever asks
    assert choose(0b000010, 3) == [(1, 3)]  # one is back, and chosen at once


@pytest.mark.parametrize(("queues", "cpus"), [(1, 4), (4, 4)])
def test_A_5_one_queue_and_a_queue_of_one_cpu_are_run_here(queues: int, cpus: int) -> None:
    cpu, _, _ = lone_cpu(2, cpus, disk=null_blk(2, submit_queues=queues), charges=costs())
    assert {blk_mq_hctx_next_cpu(cpu.queues[0], ALL, 2) for _ in range(20)} == {2}


def sleepy_box(elevator: str) -> Box:
    """Unaligned writes, each of which sleeps with its request under the plug, on CPU 0 of {0, 2}."""

    def steps() -> Steps:
        for number in range(20):
            yield (OP_SLEEP, (10 + number) * MS)
            numbers = range(number * 3, number * 3 + 3)
            yield (OP_IO_SUBMIT, [(n, WRITE, 0, n * 512, 512) for n in numbers])
        yield (OP_SLEEP, 80 * MS)

    disk = scsi_debug(41 * US, scheduler=elevator)
    disk = replace(disk, params=disk.params | {"submit_queues": 2})
    job = Job(steps, name="fio", disk="/xfs", mask=0b0001)
    return Box(job, nr_cpus=4, disk=disk, charges=costs(ipi_ns=700)).run(60 * MS)


@pytest.mark.parametrize("elevator", ["none", "mq-deadline"])
def test_A_5_what_waits_goes_to_the_cpu_that_runs_the_queue(elevator: str) -> None:
    box = sleepy_box(elevator)
    queued = [
        e for e in box.events("workqueue_queue_work") if e[2]["function"] == "blk_mq_run_work_fn"
    ]
    runs = [e[2]["cpu"] for e in sorted(queued, key=lambda e: e[0])]
    assert turns(runs) == [(0, 7), (2, 8), (0, 8), (2, 8), (0, 8), (2, 8), (0, 8), (2, 5)]
    issued = [len(box.times("block_rq_issue", cpu=cpu)) for cpu in range(4)]
    assert issued == [runs.count(0), 0, runs.count(2), 0]
    assert len(box.times("box_aio_complete")) == 60
    assert box.cpus[0].counters["runs_queued_elsewhere"] == runs.count(2)
    assert [cpu.queues[0].allocated for cpu in box.cpus] == [0] * 4
    assert not any(cpu.queues[0].has_work() for cpu in box.cpus)
