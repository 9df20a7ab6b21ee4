"""A CPU's side of a device's schedule: who computes a completion, when more is asked for."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from emulator import messages
from emulator.kernel import blk_queue, driver
from emulator.kernel.blk_queue import BlockQueue
from emulator.kernel.cpu import Cpu
from emulator.kernel.request import Request
from emulator.types import (
    DOORBELL_PERIOD_NS,
    NEVER,
    OP_RUN,
    OP_RW,
    SCHEDULE_REQUESTS,
    WRITE,
    DiskSpec,
)
from tests.kernel.box import MS, US, Box, Job, Steps, costs, lone_cpu, null_blk, scsi_debug


def issue(cpu: Cpu, nr: int = 1) -> Iterator[Request]:
    """Let the driver take so many requests, one per microsecond."""
    q = cpu.queues[0]
    for _ in range(nr):
        rq = Request()
        cpu.io_seq += 1
        rq.cookie = cpu.node_id << 40 | cpu.io_seq
        cpu.now += US
        driver.queue_rq(cpu, q, rq)
        yield rq


def cpu_with(disk: DiskSpec, left: int | None = None) -> tuple[Cpu, BlockQueue]:
    cpu, _board, _ring = lone_cpu(disk=disk, charges=costs(coherence_ns=100, ipi_ns=600))
    q = cpu.queues[0]
    if left is not None:
        q.announced = left
    cpu.outbox.clear()
    return cpu, q


def ops(cpu: Cpu) -> list[int]:
    return [message[4] for message in cpu.outbox]


def completions(cpu: Cpu) -> list[tuple[int, ...]]:
    return [(m[0], m[2]) for m in sorted(cpu.inbox) if m[4] == messages.COMPLETION]


def test_an_announced_completion_is_in_the_inbox_at_once() -> None:
    cpu, q = cpu_with(scsi_debug(41 * US))
    (rq,) = issue(cpu)
    assert completions(cpu) == [(42 * US, rq.cookie)]
    assert ops(cpu) == []
    assert q.announced == SCHEDULE_REQUESTS - 1


def test_half_of_a_schedule_used_asks_for_more_once_and_shows_all_doorbells() -> None:
    cpu, q = cpu_with(scsi_debug(41 * US), SCHEDULE_REQUESTS // 2 + 2)
    list(issue(cpu, 4))
    assert ops(cpu) == [messages.DOORBELLS, messages.SCHEDULE_REQUEST]
    shown, asked = cpu.outbox
    assert asked[5] == (2,)
    assert len(shown[5][0]) == 2
    assert shown[0] <= asked[0]
    driver.schedule_renewed(cpu, 0, 41 * US, SCHEDULE_REQUESTS // 2)
    assert q.announced == SCHEDULE_REQUESTS - 2
    assert not q.schedule_asked


def test_without_a_schedule_a_request_is_asked_and_more_is_not() -> None:
    cpu, q = cpu_with(scsi_debug(41 * US), 1)
    first, second = issue(cpu, 2)
    driver.schedule_renewed(cpu, 0, 41 * US, 0)
    (third,) = issue(cpu)
    assert completions(cpu) == [(first.done_ns, first.cookie)]
    asked = [m[5] for m in cpu.outbox if m[4] == messages.DOORBELL]
    assert asked == [(rq.cookie, rq.done_ns) for rq in (second, third)]
    assert ops(cpu).count(messages.SCHEDULE_REQUEST) == 1
    driver.schedule_renewed(cpu, 0, 41 * US, SCHEDULE_REQUESTS)
    (fourth,) = issue(cpu)
    assert (fourth.done_ns, fourth.cookie) in completions(cpu)
    assert q.rings == 4


def test_an_asked_request_lets_the_cpu_run_until_an_answer_may_come() -> None:
    """The completion, or a schedule that may be announced again."""
    cpu, _q = cpu_with(scsi_debug(41 * US), 0)
    cpu.limit = cpu.horizon = NEVER
    (rq,) = issue(cpu)
    assert cpu.limit == cpu.now + 200 < rq.done_ns
    assert cpu.outbox[0][0] == cpu.now + 100


@pytest.mark.parametrize(("service_ns", "asked"), [(699, False), (700, True)])
def test_a_service_shorter_than_question_and_answer_is_never_asked(
    service_ns: int, asked: bool
) -> None:
    charges = costs(coherence_ns=100, ipi_ns=600, ttwu_activate_ns=900)
    disk = replace(null_blk(2, completion_nsec=service_ns), schedules=False)
    cpu, _board, _ring = lone_cpu(disk=disk, charges=charges)
    cpu.outbox.clear()
    (rq,) = issue(cpu)
    assert ops(cpu) == ([messages.DOORBELL] if asked else [])
    assert completions(cpu) == ([] if asked else [(rq.done_ns, rq.cookie)])


def test_cpus_that_take_turns_never_ask() -> None:
    disk = replace(scsi_debug(41 * US), schedules=False)
    assert blk_queue.initial_schedule(disk, take_turns=True) == NEVER
    assert blk_queue.initial_schedule(disk, take_turns=False) == 0


@pytest.mark.parametrize("schedules", [True, False], ids=["on", "off"])
def test_doorbells_leave_at_the_end_of_their_period_whatever_the_cpu_does(schedules: bool) -> None:
    def write() -> Steps:
        yield (OP_RW, WRITE, 0, 0, 4096)
        yield (OP_RUN, 2 * MS)
        yield (OP_RW, WRITE, 0, 0, 4096)

    disk = replace(scsi_debug(41 * US), schedules=schedules)
    box = Box(Job(write, "writer", cpu=1, disk="/raw"), nr_cpus=2, disk=disk)
    box.run(DOORBELL_PERIOD_NS)
    assert len(box.cpus[1].queues[0].doorbells) == 2
    box.run(DOORBELL_PERIOD_NS + MS)
    assert box.cpus[1].queues[0].doorbells == []
    assert box.engine.books()[3]["rung"] == 2


def test_the_note_to_ring_doorbells_counts_for_a_cpu_that_only_ends_frames() -> None:
    cpu, q = cpu_with(scsi_debug(20 * MS))
    cpu.edge = 15 * MS
    list(issue(cpu))
    assert q.ring_at == DOORBELL_PERIOD_NS
    assert cpu.edge == DOORBELL_PERIOD_NS
