"""Sets of pages as runs, against Python's own sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from emulator.kernel.page_ranges import PageRanges

STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(0, 40), st.integers(1, 12)), min_size=1, max_size=30
)


@given(STEPS)
def test_it_is_the_set_of_its_numbers(steps: list[tuple[bool, int, int]]) -> None:
    ranges, plain = PageRanges(), set[int]()
    for adds, first, nr in steps:
        run = set(range(first, first + nr))
        if adds:
            assert ranges.add(first, first + nr) == len(run - plain)
            plain |= run
        else:
            assert ranges.remove(first, first + nr) == len(run & plain)
            plain -= run
        runs = ranges.runs()
        assert ranges.nr == len(plain)
        assert {page for low, end in runs for page in range(low, end)} == plain
        assert all(one[1] < other[0] for one, other in pairwise(runs))
        assert PageRanges(runs).runs() == runs


@given(STEPS, st.integers(0, 60))
def test_the_run_at_a_page_is_the_first_that_holds_or_follows_it(
    steps: list[tuple[bool, int, int]], page: int
) -> None:
    ranges = PageRanges()
    for adds, first, nr in steps:
        (ranges.add if adds else ranges.remove)(first, first + nr)
    numbers = [one for low, end in ranges.runs() for one in range(low, end) if one >= page]
    first, end = ranges.run_at(page)
    if not numbers:
        assert (first, end) == (-1, -1)
    else:
        assert first == numbers[0]
        assert set(range(first, end)) <= set(numbers)
        assert end not in numbers
    assert (page in ranges) == (first == page)
