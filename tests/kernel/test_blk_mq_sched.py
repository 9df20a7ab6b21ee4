"""How busy a driver was, and what that decides: io-and-workqueue.md A.4 and A.5."""

from __future__ import annotations

from dataclasses import replace

import pytest

from emulator.kernel import blk_mq_sched
from emulator.kernel.request import Request
from emulator.rules import Rules
from emulator.types import OP_IO_SUBMIT, OP_SLEEP, WRITE
from tests.kernel.box import MS, US, Box, Event, Job, Steps, costs, lone_cpu, null_blk, scsi_debug

EVENTS = ("block_rq_insert", "block_rq_issue", "block_rq_requeue")


def average(refused: int, taken: int, scheduler: str = "none", rules: Rules = Rules()) -> list[int]:
    """Return ``dispatch_busy`` after each of so many refusals and then so many requests taken."""
    disk = scsi_debug(10 * US, scheduler=scheduler)
    cpu, _, _ = lone_cpu(0, 1, disk=disk, charges=costs(), rules=rules)
    q = cpu.queues[0]
    after = []
    for busy in [True] * refused + [False] * taken:
        blk_mq_sched.update_dispatch_busy(cpu, q, busy)
        after.append(q.dispatch_busy)
    return after


def test_A_4_dispatch_busy_goes_up_from_0() -> None:
    assert average(10, 0) == [2, 3, 4, 5, 6, 7, 8, 9, 9, 9]


def test_A_4_dispatch_busy_goes_down_from_9() -> None:
    assert average(8, 9)[7:] == [9, 7, 6, 5, 4, 3, 2, 1, 0, 0]


@pytest.mark.parametrize(("keeps", "after"), [(False, [0, 0]), (True, [2, 3])])
def test_A_4_an_elevator_keeps_the_average_from_5_14_on(keeps: bool, after: list[int]) -> None:
    assert average(2, 0, "mq-deadline", Rules(dispatch_busy_sched=keeps)) == after


def test_A_5_a_busy_queue_takes_one_request_of_each_ctx_in_turn() -> None:
    cpu, _, _ = lone_cpu(0, 4, disk=null_blk(2), charges=costs())
    q = cpu.queues[0]

    def order(dispatch_busy: int) -> list[tuple[int, int]]:
        """Put two requests of CPUs 2, 0 and 3 each; return (CPU, which) as they leave."""
        q.dispatch_busy = dispatch_busy
        for which in range(2):
            for ctx in (2, 0, 3):
                rq = Request()
                rq.ctx_cpu, rq.cookie = ctx, which
                q.ctx_list.append(rq)
        taken = [blk_mq_sched.dequeue(q) for _ in range(6)]
        assert not q.has_work()
        return [(rq.ctx_cpu, rq.cookie) for rq in taken]

    assert order(0) == [(0, 0), (0, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    assert order(3) == [(0, 0), (2, 0), (3, 0), (0, 1), (2, 1), (3, 1)]
    q.dispatch_from = 1  # the ctx of CPU 0 was last
    assert order(3) == [(2, 0), (3, 0), (0, 0), (2, 1), (3, 1), (0, 1)]


def busy_box(rules: Rules = Rules()) -> Box:
    """Submit batches of four 1 ms apart, from 10 ms on, to a device that is busy from 9 ms to 12.5 ms."""

    def steps() -> Steps:
        for number in range(12):
            yield (OP_SLEEP, (10 + number) * MS)
            numbers = range(number * 4, number * 4 + 4)
            yield (OP_IO_SUBMIT, [(n, WRITE, 0, n * 4096, 4096) for n in numbers])
        yield (OP_SLEEP, 50 * MS)

    disk = replace(scsi_debug(100 * US, scheduler="none"), carries=True)
    box = Box(Job(steps, name="fio", disk="/xfs"), disk=disk, rules=rules).run(9 * MS)
    box.cpus[0].queues[0].busy_until = 12 * MS + 500 * US
    return box.run(40 * MS)


def sectors(events: list[Event]) -> list[tuple[str, int]]:
    """Return what happened to which write of the test, by its number."""
    first = min(e[2]["sector"] for e in events)
    return [(e[1].removeprefix("block_rq_"), (e[2]["sector"] - first) // 8) for e in events]


def test_A_4_a_plug_is_issued_directly_unless_the_driver_was_busy() -> None:
    box = busy_box()
    story = sectors(box.events(*EVENTS))
    # The first is refused, the others of its plug wait in their ctx; the run tries the first again.
    assert story[:5] == [
        ("requeue", 0),
        ("insert", 1),
        ("insert", 2),
        ("insert", 3),
        ("requeue", 0),
    ]
    # The next plug is inserted, and the queue is run: only the leftover is tried.
    assert story[5:10] == [*(("insert", n) for n in (4, 5, 6, 7)), ("requeue", 0)]
    assert len(box.times("block_rq_complete")) == 48
    assert len(box.times("box_aio_complete")) == 48
    averages = [e[2]["busy"] for e in box.events("box_dispatch_busy")]
    most = max(averages)
    assert averages[:3] == [2, 3, 4]
    assert averages == [*range(2, most + 1), *range(7 * most // 8, -1, -1)]
    # Once it is 0 again nothing is inserted any more.
    down = box.events("box_dispatch_busy")[-1][0]
    assert [e for e in box.events("block_rq_insert") if e[0] > down] == []
    assert [e for e in box.events("block_rq_issue") if e[0] > down] != []
    assert not box.cpus[0].queues[0].has_work()


def test_A_4_a_plug_is_issued_directly_even_so_from_5_16_on() -> None:
    box = busy_box(Rules(plug_issue_direct=True))
    story = sectors(box.events(*EVENTS))
    assert story[5:10] == [
        ("requeue", 4),
        *(("insert", n) for n in (5, 6, 7)),
        ("requeue", 0),
    ]
    assert len(box.times("box_aio_complete")) == 48


def test_A_5_a_free_driver_never_inserts() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(n, WRITE, 0, n * 4096, 4096) for n in range(20)])
        yield (OP_SLEEP, 10 * MS)

    disk = scsi_debug(100 * US, scheduler="none")
    box = Box(Job(steps, name="fio", disk="/xfs"), disk=disk).run(8 * MS)
    assert box.times("block_rq_insert") == []
    assert box.times("box_dispatch_busy") == []
    assert [e[1] for e in box.events("block_rq_issue", "box_aio_complete")][:20] == [
        "block_rq_issue"
    ] * 20
