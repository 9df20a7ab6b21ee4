"""The wait queues of a tag bitmap against io-and-workqueue.md A.3."""

from __future__ import annotations

import pytest

from emulator.tags import SbitmapQueue, initial_lease, wake_batch


@pytest.mark.parametrize(
    ("depth", "batch"),
    [
        (1, 1),
        (2, 1),
        (4, 1),
        (8, 1),
        (16, 2),
        (31, 3),
        (32, 4),
        (64, 8),
        (128, 8),
        (192, 8),
        (256, 8),
        (1023, 8),
    ],
)
def test_vector_A_3_wake_batch(depth: int, batch: int) -> None:
    assert wake_batch(depth) == batch


def test_vector_A_3_depth_4_two_waiters() -> None:
    sbq = SbitmapQueue(4)
    sbq.wait("A")
    sbq.wait("B")
    assert [len(queue) for queue in sbq.waiters[:3]] == [1, 1, 0]
    assert sbq.free() == ["A"]
    assert sbq.wake_index == 1
    assert sbq.free() == ["B"]
    assert sbq.free() == []


@pytest.mark.parametrize("global_count", [False, True])
def test_vector_A_3_depth_128_one_waiter(global_count: bool) -> None:
    sbq = SbitmapQueue(128, global_count)
    assert sbq.free() == []  # nobody waits: nothing is counted
    sbq.wait("A")
    assert [sbq.free() for _ in range(8)] == [[]] * 7 + [["A"]]


def test_vector_A_3_depth_16_three_waiters() -> None:
    sbq = SbitmapQueue(16)
    for who in "ABC":
        sbq.wait(who)
    assert [sbq.free() for _ in range(6)] == [[], ["A"], [], ["B"], [], ["C"]]


def test_A_3_the_global_count_fills_its_batch_over_several_queues() -> None:
    """6.2: two frees wake two waiters, whichever queues they are in; 5.4 wakes one queue's only."""
    sbq = SbitmapQueue(16, global_count=True)
    for who in "ABC":
        sbq.wait(who)
    assert [sbq.free() for _ in range(4)] == [[], ["A", "B"], [], ["C"]]


def test_A_3_a_batch_is_of_one_queue_up_to_6_1() -> None:
    sbq = SbitmapQueue(16)
    for number in range(17):
        sbq.wait(number)
    assert [woken for _ in range(8) if (woken := sbq.free())] == [[0, 8], [1, 9], [2, 10], [3, 11]]


@pytest.mark.parametrize(
    ("depth", "cpus", "lease"),
    [(192, 8, 6), (32, 8, 1), (64, 24, 1), (8, 8, 0), (1, 1, 0), (2, 1, 1)],
)
def test_no_more_than_all_tags_are_leased_at_boot(depth: int, cpus: int, lease: int) -> None:
    assert initial_lease(depth, cpus) == lease
