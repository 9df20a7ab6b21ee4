"""The books of a fio job: what outputs are rendered from, whole or kept on several CPUs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import wire
from emulator.types import NSEC_PER_MSEC, READ, WRITE
from emulator.workload import merge_books
from emulator.workload.fio_books import SAMPLE_NS, FioBooks, histogram
from emulator.workload.latency import LATENCY_CLASSES, LatencyStat, plat_val_to_idx

MS = NSEC_PER_MSEC


def record(books: FioBooks, rw: int, when_ns: int, clat_ns: int) -> None:
    """Count one IO as the program does."""
    direction = books.direction(rw)
    if when_ns >= direction.turn_ns:
        direction.turn(when_ns)
    direction.slat.fresh.append(5_000)
    direction.clat.fresh.append(clat_ns)
    direction.lat.fresh.append(clat_ns + 5_000)
    books.end_ns = when_ns


def test_directions_are_kept_apart_with_their_own_block_sizes() -> None:
    books = FioBooks(4096, 8192)
    books.begin_ns = 0
    for index in range(10):
        record(books, READ, (index + 1) * 100 * MS, 41_000)
    for index in range(5):
        record(books, WRITE, (index + 1) * 200 * MS, 100_000)
    found = books.books()
    assert found["runtime_ns"] == 1_000 * MS
    assert (found["read"]["ios"], found["read"]["bytes"]) == (10, 10 * 4096)
    assert (found["write"]["ios"], found["write"]["bytes"]) == (5, 5 * 8192)
    assert (found["read"]["iops"], found["read"]["bw_bytes"]) == (10.0, 40_960.0)
    assert found["read"]["clat_bins"] == {41_216: 10}
    assert found["write"]["clat_bins"] == {99_840: 5}
    assert found["write"]["clat_ns"]["percentile"]["99.000000"] == 99_840
    assert found["sync"] == {"ios": 0, "lat_ns": {"n": 0}}


# The classes of io_u_mark_latency(): a value that reaches an end is in the next class.
@pytest.mark.parametrize(
    ("value", "unit", "name"),
    [
        (1, "ns", "2"),
        (2, "ns", "4"),
        (999, "ns", "1000"),
        (1_000, "us", "2"),
        (1_999, "us", "2"),
        (2_000, "us", "4"),
        (750_000, "us", "1000"),
        (1_000_000, "ms", "2"),
        (1_000_000_000, "ms", "2000"),
        (2_000_000_000, "ms", ">=2000"),
    ],
)
def test_latency_classes(value: int, unit: str, name: str) -> None:
    stat = LatencyStat(classes=True)
    stat.add(value)
    found = stat.latency_classes()
    assert found[unit].pop(name) == 1
    assert not any(count for classes in found.values() for count in classes.values())


@given(st.lists(st.integers(0, 1 << 33), min_size=1, max_size=200))
@settings(deadline=None, derandomize=True)
def test_classes_and_bins_count_every_value_where_it_lies(values: list[int]) -> None:
    stat = LatencyStat(classes=True)
    stat.fresh.extend(values)
    stat.settle()
    for index, count in stat.bins.items():
        assert count == sum(plat_val_to_idx(value) == index for value in values)
    begin = 0
    for (_, _, end), count in zip(LATENCY_CLASSES, stat.classes, strict=False):
        assert count == sum(begin <= value < end for value in values)
        begin = end
    assert sum(stat.classes) == len(values) == sum(histogram(stat).values())


def test_bandwidth_is_sampled_over_whole_half_seconds() -> None:
    books = FioBooks(4096)
    books.begin_ns = 250 * MS  # the half second that it lies in is no whole one
    for when_ms in (300, 499, 500, 600, 999, 1_000, 1_600):
        record(books, WRITE, when_ms * MS, 1_000)
    found = books.books()["write"]
    assert found["samples"] == [[3, SAMPLE_NS], [1, SAMPLE_NS]]
    assert (found["iops_min"], found["iops_max"], found["iops_mean"]) == (2.0, 6.0, 4.0)
    assert (found["bw_min"], found["bw_max"], found["bw_samples"]) == (8.0, 24.0, 2)
    assert found["bw_dev"] == pytest.approx(11.3137, abs=1e-4)


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 300))))
@settings(deadline=None, derandomize=True)
def test_books_of_three_cpus_are_those_of_one(ios: list[tuple[int, bool, int]]) -> None:
    whole = FioBooks(4096, 512)
    parts = [FioBooks(4096, 512) for _ in range(3)]
    for one in (whole, *parts):
        one.begin_ns = 100 * MS
    now = 100 * MS
    for cpu, write, gap_ms in ios:
        now += gap_ms * MS
        parts[cpu] = FioBooks.unpack(wire.unpack(wire.pack(parts[cpu].pack())))
        for one in (whole, parts[cpu]):
            record(one, WRITE if write else READ, now, gap_ms * 1_000)
            one.sync.add(gap_ms)
    assert merge_books([part.pack() for part in parts]) == whole.books()


def test_percentiles_are_those_of_the_jobs_list() -> None:
    books = FioBooks(512, 512, (50.0, 99.9))
    books.begin_ns = 0
    record(books, READ, MS, 100)
    found = FioBooks.unpack(books.pack()).books()["read"]
    assert found["clat_ns"]["percentile"] == {"50.000000": 100, "99.900000": 100}
