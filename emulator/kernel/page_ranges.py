"""Sets of page numbers as sorted runs: what a mapping's tags say of a file, without a page each."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class PageRanges:
    """A set of non-negative integers, kept as disjoint runs [first, end) that do not touch."""

    __slots__ = ("_ends", "_firsts", "nr")

    def __init__(self, runs: list[list[int]] | None = None) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []
        self.nr = 0  #: how many numbers are in the set
        for first, end in runs or ():
            self.add(first, end)

    def __bool__(self) -> bool:
        return self.nr > 0

    def add(self, first: int, end: int) -> int:
        """Put [first, end) in; return how many numbers are new."""
        assert 0 <= first < end, f"no run: {first} to {end}"
        low = bisect_left(self._ends, first)  # the first run that reaches ours
        high = bisect_right(self._firsts, end)  # the first one beyond
        before = sum(self._ends[low:high]) - sum(self._firsts[low:high])
        if low < high:
            first = min(first, self._firsts[low])
            end = max(end, self._ends[high - 1])
        self._firsts[low:high] = [first]
        self._ends[low:high] = [end]
        new = end - first - before
        self.nr += new
        return new

    def remove(self, first: int, end: int) -> int:
        """Take [first, end) out; return how many numbers were in."""
        assert 0 <= first < end, f"no run: {first} to {end}"
        low = bisect_right(self._ends, first)
        high = bisect_left(self._firsts, end)
        if low >= high:
            return 0
        removed = sum(self._ends[low:high]) - sum(self._firsts[low:high])
        firsts: list[int] = []
        ends: list[int] = []
        if self._firsts[low] < first:
            firsts.append(self._firsts[low])
            ends.append(first)
        if self._ends[high - 1] > end:
            firsts.append(end)
            ends.append(self._ends[high - 1])
        self._firsts[low:high] = firsts
        self._ends[low:high] = ends
        removed -= sum(ends) - sum(firsts)
        self.nr -= removed
        return removed

    def run_at(self, page: int) -> tuple[int, int]:
        """Return the run that holds ``page`` or is the first one after it; (-1, -1) if none is.

        It begins at ``page`` at the earliest.
        """
        index = bisect_right(self._ends, page)
        if index == len(self._ends):
            return -1, -1
        return max(page, self._firsts[index]), self._ends[index]

    def __contains__(self, page: int) -> bool:
        return self.run_at(page)[0] == page

    def runs(self) -> list[list[int]]:
        """Return the set as a list of [first, end], in ascending order."""
        return [[first, end] for first, end in zip(self._firsts, self._ends, strict=True)]
