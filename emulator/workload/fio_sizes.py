"""Blocks of several sizes: fio's ``bssplit`` and ``bsrange`` (``get_next_buflen()`` of ``io_u.c``, 3.33).

Theory of operation
-------------------
The sizes of one direction are a list of [bytes, percent], fewer percent first, or for a range its two ends
with 0 percent.  Each IO draws one anew until it fits into what is left of the file.  A range is drawn as
its lower end plus a part of its upper end, so that the upper end, where all beyond it is cut, is as likely
as that makes it.  Every size is rounded down to a multiple of the smallest.

In random order the smallest block is the grain of the map: an IO begins at a block that this pass has not
visited, the next such behind the one drawn, and ends where one begins that it has (``mark_random_map()``).
"""

from __future__ import annotations

from emulator.workload.random import splitmix64

#: The greatest number that fio's generator draws.
FRAND_MAX = 0xFFFFFFFF

#: [bytes, percent] of each size, or the two ends of a range with 0 percent; empty: there is one size.
Sizes = list[list[int]]


def get_next_buflen(sizes: Sizes, room: int, state: int) -> tuple[int, int]:
    """Return the generator's next state and a size that fits into ``room`` bytes, as the least does."""
    least = min(size for size, _ in sizes)
    most = max(size for size, _ in sizes)
    assert least <= room, "not even the smallest block fits"
    while True:
        state, bits = splitmix64(state)
        drawn = bits >> 32
        length = _of_split(sizes, drawn, room) if sizes[0][1] else least + (most * drawn >> 32)
        length = min(length - length % least, most)
        if length <= room:
            return state, length


# The first size whose share the number falls into; fio passes over those that do not fit.
def _of_split(sizes: Sizes, drawn: int, room: int) -> int:
    percent = 0
    for size, share in sizes:
        percent += share
        if drawn // percent <= FRAND_MAX // 100 and size <= room:
            return size
    return sizes[-1][0]


def mark_random_map(visited: bytearray, block: int, length: int, grain: int) -> int:
    """Visit the blocks of an IO up to the first that was; return how long it is then."""
    end = min(block - (-length // grain), len(visited))
    known = visited.find(1, block, end)
    end = end if known < 0 else known
    visited[block:end] = b"\x01" * (end - block)
    return min(length, (end - block) * grain)
