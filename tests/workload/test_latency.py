"""fio's latency bins and what is read from them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import wire
from emulator.workload.latency import (
    FRESH_MAX,
    PLAT_INDEX_MAX,
    LatencyStat,
    plat_idx_to_val,
    plat_val_to_idx,
)


@pytest.mark.parametrize(
    ("value", "index", "representative"),
    [
        (0, 0, 0),
        (63, 63, 63),
        (64, 64, 64),
        (127, 127, 127),
        (128, 128, 129),
        (129, 128, 129),
        (130, 129, 131),
        (255, 191, 255),
        (256, 192, 258),
        (1_000, 317, 1_004),
        (41_000, 656, 41_216),
        (86_000, 723, 85_504),
        (100_000, 737, 99_840),
        (1_000_000, 954, 1_003_520),
        (1_028_096, 957, 1_028_096),
    ],
)
def test_example_I_4_bins(value: int, index: int, representative: int) -> None:
    assert plat_val_to_idx(value) == index
    assert plat_idx_to_val(index) == representative


def test_the_last_bin_takes_the_rest() -> None:
    assert plat_val_to_idx(1 << 60) == PLAT_INDEX_MAX == 1855


@given(st.integers(0, 1 << 33))
@settings(deadline=None, derandomize=True)
def test_a_bin_is_within_one_percent(value: int) -> None:
    assert abs(plat_idx_to_val(plat_val_to_idx(value)) - value) * 100 <= value


def test_percentile_is_the_smallest_bin_that_reaches_it() -> None:
    stat = LatencyStat()
    for value in range(1, 101):
        stat.add(value)
    assert stat.percentiles((1.0, 50.0, 99.0, 99.5, 99.99)) == [1, 50, 99, 100, 100]


def test_moments_are_exact() -> None:
    stat = LatencyStat()
    for value in (2_000_000, 4_000_000, 9_000_000):
        stat.add(value)
    summary = stat.summary()
    assert (summary["n"], summary["min"], summary["max"]) == (3, 2_000_000, 9_000_000)
    assert summary["mean"] == 5_000_000
    assert summary["stddev"] == pytest.approx(3_605_551.275)
    assert LatencyStat().summary() == {"n": 0}


@given(st.lists(st.integers(0, 1 << 40), max_size=50), st.integers(0, 50))
@settings(deadline=None, derandomize=True)
def test_packing_changes_nothing(values: list[int], cut: int) -> None:
    straight = LatencyStat()
    packed = LatencyStat()
    for number, value in enumerate(values):
        straight.add(value)
        packed.add(value)
        if number == cut:
            packed = LatencyStat.unpack(wire.unpack(wire.pack(packed.pack())))
    assert packed.pack() == straight.pack()
    assert packed.summary() == straight.summary()


@given(st.lists(st.lists(st.integers(0, 1 << 40), max_size=20), min_size=1, max_size=4))
@settings(deadline=None, derandomize=True)
def test_merged_parts_are_the_whole(parts: list[list[int]]) -> None:
    whole, merged = LatencyStat(), LatencyStat()
    for values in parts:
        part = LatencyStat()
        for value in values:
            whole.add(value)
            part.add(value)
        merged.merge(part)
    assert merged.summary() == whole.summary()
    assert merged.squares == whole.squares


def test_sums_of_squares_beyond_64_bits_survive() -> None:
    stat = LatencyStat()
    for _ in range(3 * FRESH_MAX):
        stat.add(1 << 35)
    again = LatencyStat.unpack(wire.unpack(wire.pack(stat.pack())))
    assert again.squares == stat.squares == 3 * FRESH_MAX << 70
    assert again.summary()["stddev"] == 0.0
