"""A permutation of small state, in plain integers, from the generator of :mod:`emulator.seeds`.

Theory of operation
-------------------
:func:`shuffle_keys` and :func:`shuffled` walk ``range(n)`` in an order that looks random, visits
every number exactly once and needs no table: a bijection on the next power of two (multiply by an
odd number, fold the high bits down), and numbers that fall outside are sent through it again until
they fall inside.  Fewer than two rounds are needed on average.
"""

from __future__ import annotations

from emulator.seeds import U64, seed_stream, splitmix64

__all__ = ["U64", "seed_stream", "shuffle_keys", "shuffled", "splitmix64"]


def shuffle_keys(count: int, bits: int) -> list[int]:
    """Return the five numbers that fix one order of ``range(count)``, drawn from 64 random bits."""
    assert count > 0, "an order of nothing"
    width = (count - 1).bit_length()
    mask = (1 << width) - 1
    fold = max(1, (width + 1) // 2)
    state, first = splitmix64(bits)
    state, second = splitmix64(state)
    state, offset = splitmix64(state)
    return [mask, fold, (first | 1) & mask, (second | 1) & mask, offset & mask]


def shuffled(step: int, count: int, keys: list[int]) -> int:
    """Return item ``step`` of the order of ``range(count)`` that ``keys`` stands for."""
    mask, fold, first, second, offset = keys
    while True:
        step = (step * first + offset) & mask
        step ^= step >> fold
        step = (step * second) & mask
        step ^= step >> fold
        if step < count:
            return step
