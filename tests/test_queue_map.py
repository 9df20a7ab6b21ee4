"""The map of CPUs to hardware queues against io-and-workqueue.md A.2."""

from __future__ import annotations

import pytest

from emulator.config import load_box
from emulator.queue_map import blk_mq_map_queues, poll_map, queue_map


def siblings(nr_cpus: int, groups: list[list[int]]) -> tuple[int, ...]:
    """Return the sibling mask of each CPU."""
    masks = [1 << cpu for cpu in range(nr_cpus)]
    for group in groups:
        for cpu in group:
            masks[cpu] = sum(1 << other for other in group)
    return tuple(masks)


APART = [[c, c + 4] for c in range(4)]
TOGETHER = [[2 * c, 2 * c + 1] for c in range(4)]


@pytest.mark.parametrize(
    ("groups", "nr_queues", "queue_of"),
    [
        ([], 1, [0, 0, 0, 0, 0, 0, 0, 0]),
        ([], 4, [0, 1, 2, 3, 0, 1, 2, 3]),
        ([], 3, [0, 1, 2, 0, 1, 2, 0, 1]),
        (APART, 4, [0, 1, 2, 3, 0, 1, 2, 3]),
        (APART, 2, [0, 1, 0, 1, 0, 1, 0, 1]),
        (APART, 3, [0, 1, 2, 0, 0, 1, 2, 0]),
        (APART, 6, [0, 1, 2, 3, 4, 5, 2, 3]),
        (TOGETHER, 4, [0, 1, 2, 3, 0, 0, 1, 1]),
    ],
)
def test_vector_A_2_generic_map(
    groups: list[list[int]], nr_queues: int, queue_of: list[int]
) -> None:
    assert blk_mq_map_queues(8, siblings(8, groups), nr_queues) == queue_of


def test_vector_A_2_generic_map_of_16_cpus_and_8_queues() -> None:
    assert blk_mq_map_queues(16, siblings(16, []), 8) == [*range(8), *range(8)]


def test_polled_queues_are_numbered_after_the_others() -> None:
    spec = load_box("polled-4k").resolve()
    assert queue_map(spec, 0) == (0, 1, 2, 3)
    assert poll_map(spec, 0) == (4, 5, 4, 5)
