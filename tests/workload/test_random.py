"""The seeded generator and the permutation of small state."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.workload.random import seed_stream, shuffle_keys, shuffled, splitmix64


def test_splitmix64_reference_values() -> None:
    # The first outputs for seed 0, as published with the algorithm.
    state, first = splitmix64(0)
    _, second = splitmix64(state)
    assert (first, second) == (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4)


@given(st.integers(1, 3000), st.integers(0, (1 << 64) - 1))
@settings(deadline=None, derandomize=True)
def test_shuffled_is_a_permutation(count: int, bits: int) -> None:
    keys = shuffle_keys(count, bits)
    assert sorted(shuffled(step, count, keys) for step in range(count)) == list(range(count))


def test_order_looks_random() -> None:
    count = 16384
    keys = shuffle_keys(count, 7919)
    order = [shuffled(step, count, keys) for step in range(count)]
    jumps = sorted(abs(a - b) for a, b in pairwise(order))
    assert count // 5 < jumps[len(jumps) // 2] < count // 2
    assert sum(jump == 1 for jump in jumps) < 50


def test_streams_differ_and_repeat() -> None:
    seeds = {seed_stream(run, stream) for run in range(20) for stream in range(20)}
    assert len(seeds) == 400
    assert seed_stream(3, 4) == seed_stream(3, 4)
