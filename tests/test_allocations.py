"""Allocations per IO, counted by the C library."""

import pytest

from emulator import allocations

SUMMARY = """
\x1b[01;32mMemory usage summary:\x1b[0;0m heap total: 241881642, heap peak: 24714658, stack peak: 69920
\x1b[04;34m         total calls   total memory   failed calls\x1b[0m
\x1b[00;34m malloc|\x1b[0m    1863788      197999794              0
\x1b[00;34mrealloc|\x1b[0m     161975       16691748              0  (nomove:67922, dec:41957, free:0)
\x1b[00;34m calloc|\x1b[0m     334664       27190100              0
\x1b[00;34m   free|\x1b[0m    2214541      236413351
"""


def test_the_calls_that_allocate_are_added_up() -> None:
    assert allocations.calls_of(SUMMARY) == 1863788 + 161975 + 334664


def test_without_the_library_nothing_is_counted() -> None:
    text = "ERROR: ld.so: object 'libmemusage.so' from LD_PRELOAD cannot be preloaded: ignored."
    assert allocations.calls_of(text) is None


def test_the_difference_of_two_lengths_is_what_the_ios_between_them_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(allocations, "calls", lambda _box, ms: 1_000_000 + ms * 3_000)
    assert allocations.allocations_per_io("any", 10_000) == 300
    assert allocations.allocations_per_io("any", 0) is None
    monkeypatch.setattr(allocations, "calls", lambda _box, _ms: None)
    assert allocations.allocations_per_io("any", 10_000) is None


def test_the_engine_alone_is_counted_where_the_library_is() -> None:
    first, second = (allocations.calls("xfs-aio-4k-default", ms) for ms in (5, 25))
    if first is None or second is None:
        pytest.skip("no libmemusage.so: nothing counts allocations here")
    assert first < second
