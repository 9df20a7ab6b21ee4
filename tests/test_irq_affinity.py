"""The spread of interrupt vectors against io-and-workqueue.md A.2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.irq_affinity import group_cpus_evenly

APART = tuple(0b00010001 << c % 4 for c in range(8))  # siblings (c, c+4)
ALONE = tuple(1 << c for c in range(8))
ONE_NODE = [0xFF]


def mask(*cpus: int) -> int:
    """Return the mask of some CPUs."""
    return sum(1 << cpu for cpu in cpus)


@pytest.mark.parametrize(
    ("nodes", "core_masks", "vectors", "spread"),
    [
        (ONE_NODE, APART, 4, [mask(0, 4), mask(1, 5), mask(2, 6), mask(3, 7)]),
        (ONE_NODE, ALONE, 3, [mask(0, 1, 2), mask(3, 4, 5), mask(6, 7)]),
        ([0x0F, 0xF0], ALONE, 3, [0x0F, mask(4, 5), mask(6, 7)]),
        ([0x0F, 0xF0], ALONE, 2, [0x0F, 0xF0]),
        ([0x03, 0xFC], ALONE, 4, [mask(0, 1), mask(2, 3), mask(4, 5), mask(6, 7)]),
    ],
)
def test_vector_A_2_managed_spread(
    nodes: list[int], core_masks: tuple[int, ...], vectors: int, spread: list[int]
) -> None:
    assert group_cpus_evenly(vectors, nodes, core_masks) == spread


def test_the_node_with_fewer_cpus_is_numbered_first() -> None:
    assert group_cpus_evenly(4, [0xFC, 0x03], ALONE) == [mask(0, 1), mask(2, 3), 0x30, 0xC0]


def test_fewer_vectors_than_nodes_wrap_around() -> None:
    assert group_cpus_evenly(2, [0x03, 0x0C, 0xF0], ALONE) == [0xF3, 0x0C]


def test_absent_cpus_take_the_vectors_left_or_all_again() -> None:
    assert group_cpus_evenly(8, ONE_NODE, ALONE, present=0x0F) == [1 << cpu for cpu in range(8)]
    assert group_cpus_evenly(4, ONE_NODE, ALONE, present=0x0F) == [
        0b00010001 << cpu for cpu in range(4)
    ]


@given(
    cores=st.lists(st.integers(1, 4), min_size=1, max_size=12),
    vectors=st.integers(1, 40),
    split=st.integers(0, 12),
)
def test_every_cpu_has_one_vector_and_shares_are_even(
    cores: list[int], vectors: int, split: int
) -> None:
    core_masks: list[int] = []
    for size in cores:
        first = len(core_masks)
        core_masks += [((1 << size) - 1) << first] * size
    cut = sum(cores[:split])
    everyone = (1 << len(core_masks)) - 1
    nodes = [everyone & ((1 << cut) - 1), everyone & ~((1 << cut) - 1)]
    masks = group_cpus_evenly(vectors, nodes, core_masks)
    assert sum(m.bit_count() for m in masks) == len(core_masks)
    together = 0
    for m in masks:
        together |= m
    assert together == everyone
    assert sum(m != 0 for m in masks) == min(vectors, len(core_masks))
    if vectors >= sum(node != 0 for node in nodes):
        for node in nodes:
            sizes = [m.bit_count() for m in masks if m & node]
            assert not sizes or max(sizes) - min(sizes) <= 1
            assert all(m & node in (0, m) for m in masks)
