"""The elevator against io-and-workqueue.md A.6."""

from __future__ import annotations

import pytest

from emulator.kernel.mq_deadline import IOPRIO_CLASS_SHIFT, PRIO_AGING_EXPIRE_NS, DeadlineQueue
from emulator.kernel.request import Request
from emulator.kernel.snapshot import pack_elevator, unpack_elevator
from emulator.rules import rules_of
from emulator.types import OP_IO_SUBMIT, OP_IOPRIO_SET, OP_SLEEP, READ, WRITE
from tests.kernel.box import MS, Box, Job, Steps, costs, scsi_debug


def request(rw: int, sector: int) -> Request:
    """Return a request of one sector."""
    rq = Request()
    rq.rw, rq.sector, rq.nr_sector = rw, sector, 8
    return rq


def dispatch(queue: DeadlineQueue, now_ns: int = 0) -> tuple[str, int]:
    """Dispatch one request; return its direction and sector."""
    rq = queue.dispatch(now_ns)
    assert rq is not None
    return "RW"[rq.rw], rq.sector


def test_vector_A_6_reads_then_writes_in_batches() -> None:
    queue = DeadlineQueue()
    for sector in (10, 20, 30):
        queue.insert(request(READ, sector), 0)
    for number in range(40):
        queue.insert(request(WRITE, 1000 + 8 * number), 0)
    assert [dispatch(queue) for _ in range(3)] == [("R", 10), ("R", 20), ("R", 30)]
    for number in range(40):
        assert dispatch(queue) == ("W", 1000 + 8 * number)
        assert queue.batching == number % 16 + 1
    assert queue.dispatch(0) is None
    assert not queue.has_work()


def test_vector_A_6_starvation_of_writes() -> None:
    """Reads at falling sectors leave next[READ] empty: R, R, then a batch of writes, and again."""
    queue = DeadlineQueue()
    for number in range(40):
        queue.insert(request(WRITE, 100_000 + 8 * number), 0)
    order = []
    sector = 90_000
    for _ in range(36):
        sector -= 100
        queue.insert(request(READ, sector), 0)
        order.append(dispatch(queue)[0])
    assert "".join(order) == "RR" + "W" * 16 + "RR" + "W" * 16


def test_A_6_starved_counts_only_while_writes_wait() -> None:
    queue = DeadlineQueue()
    for sector in (30, 20, 10):
        queue.insert(request(READ, sector), 0)
        dispatch(queue)
    assert queue.starved == 0
    queue.insert(request(WRITE, 5), 0)
    for sector, starved in ((9, 1), (8, 2)):
        queue.insert(request(READ, sector), 0)
        assert dispatch(queue) == ("R", sector)
        assert queue.starved == starved
    queue.insert(request(READ, 7), 0)
    assert dispatch(queue) == ("W", 5)
    assert queue.starved == 0


def test_A_6_an_expired_head_goes_before_the_next_sector() -> None:
    queue = DeadlineQueue()
    queue.insert(request(READ, 500), 0)
    for number in range(20):
        queue.insert(request(READ, 1000 + number), 100_000_000)
    # The head is taken first; its batch runs on by sector to 16.
    assert dispatch(queue, 100_000_000) == ("R", 500)
    for number in range(15):
        assert dispatch(queue, 100_000_000) == ("R", 1000 + number)
    queue.insert(request(READ, 1), 100_000_000)
    # Not expired: the new batch goes on from next[READ]; expired: from the FIFO's head.
    late = 600_000_000
    expired = DeadlineQueue()
    for sector in (700, 100, 900):
        expired.insert(request(READ, sector), 0)
    assert dispatch(expired, 0) == ("R", 700)
    expired.batching = 16
    assert dispatch(expired, late) == ("R", 100)
    assert dispatch(queue, 100_000_000) == ("R", 1015)


def test_A_6_a_batch_of_writes_goes_on_before_new_reads() -> None:
    queue = DeadlineQueue()
    for number in range(3):
        queue.insert(request(WRITE, 8 * number), 0)
    assert dispatch(queue) == ("W", 0)
    queue.insert(request(READ, 4), 0)
    assert [dispatch(queue) for _ in range(3)] == [("W", 8), ("W", 16), ("R", 4)]


# -- IO priorities (5.14) -----------------------------------------------------------------------------

RT, BE, IDLE = 1 << IOPRIO_CLASS_SHIFT, 2 << IOPRIO_CLASS_SHIFT, 3 << IOPRIO_CLASS_SHIFT


def prioritised(rw: int, sector: int, ioprio: int) -> Request:
    rq = request(rw, sector)
    rq.ioprio = ioprio
    return rq


def test_dd_dispatch_request_takes_the_highest_class_first() -> None:
    queue = DeadlineQueue(per_prio=True)
    for sector, ioprio in ((10, IDLE), (20, BE), (30, 0), (40, RT), (50, RT)):
        queue.insert(prioritised(WRITE, sector, ioprio), 0)
    # No class is best effort.
    assert [dispatch(queue)[1] for _ in range(5)] == [40, 50, 20, 30, 10]
    assert queue.dispatch(0) is None


def test_before_5_14_classes_are_not_looked_at() -> None:
    queue = DeadlineQueue.of_rules(rules_of("5.10"))
    for sector, ioprio in ((10, IDLE), (20, BE), (40, RT)):
        queue.insert(prioritised(READ, sector, ioprio), 0)
    assert [dispatch(queue)[1] for _ in range(3)] == [10, 20, 40]


def test_within_a_class_reads_are_preferred_and_writes_starve_twice() -> None:
    queue = DeadlineQueue(per_prio=True)
    for sector in (90, 80, 70):
        queue.insert(prioritised(READ, sector, RT), 0)
    queue.insert(prioritised(WRITE, 1000, RT), 0)
    queue.insert(prioritised(READ, 5, BE), 0)
    order = [dispatch(queue) for _ in range(5)]
    assert order == [("R", 90), ("R", 80), ("W", 1000), ("R", 70), ("R", 5)]


@pytest.mark.parametrize(("version", "first"), [("5.15", 40), ("6.1", 10)])
def test_prio_aging_expire_lets_what_has_waited_for_10_s_go_first(version: str, first: int) -> None:
    queue = DeadlineQueue.of_rules(rules_of(version))
    queue.insert(prioritised(WRITE, 10, IDLE), 0)
    queue.insert(prioritised(WRITE, 40, RT), PRIO_AGING_EXPIRE_NS)
    assert dispatch(queue, PRIO_AGING_EXPIRE_NS)[1] == first


def test_what_has_not_aged_waits() -> None:
    queue = DeadlineQueue(per_prio=True, aging=True)
    queue.insert(prioritised(WRITE, 10, IDLE), 1)
    queue.insert(prioritised(WRITE, 40, RT), 2)
    assert dispatch(queue, PRIO_AGING_EXPIRE_NS)[1] == 40


def test_an_elevator_with_priorities_survives_a_snapshot() -> None:
    queue = DeadlineQueue(per_prio=True, aging=True)
    for sector, ioprio in ((10, IDLE), (20, BE), (40, RT), (41, RT)):
        queue.insert(prioritised(WRITE, sector, ioprio), 0)
    dispatch(queue)
    again = unpack_elevator(pack_elevator(queue))
    assert [dispatch(again)[1] for _ in range(3)] == [41, 20, 10]
    assert (again.per_prio, again.aging) == (True, True)


def test_requests_have_the_ioprio_of_the_task_that_makes_them() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(0, READ, 0, 0, 4096)])
        yield (OP_IOPRIO_SET, RT | 3)
        yield (OP_IO_SUBMIT, [(1, READ, 0, 4096, 4096)])
        yield (OP_SLEEP, 1000 * MS)

    box = Box(Job(steps, disk="/raw"), disk=scsi_debug(1 * MS), charges=costs(syscall_ns=200))
    box.run(MS // 2)
    assert [rq.ioprio for rq in box.cpus[0].inflight.values()] == [0, RT | 3]
