"""The elevator against io-and-workqueue.md A.6."""

from __future__ import annotations

from emulator.kernel.mq_deadline import DeadlineQueue
from emulator.kernel.request import Request
from emulator.types import READ, WRITE


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
