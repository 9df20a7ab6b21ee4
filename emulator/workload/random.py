"""A small seeded generator and a permutation of small state, both plain integers.

Theory of operation
-------------------
A run is a pure function of its box file and seed, and a task may move between processes at any
event, so whatever a program draws must come from state that it carries.  :func:`splitmix64` is the
generator of Steele, Lea and Flood (2014): one 64-bit counter, one mixing function.

:func:`shuffle_keys` and :func:`shuffled` walk ``range(n)`` in an order that looks random, visits
every number exactly once and needs no table: a bijection on the next power of two (multiply by an
odd number, fold the high bits down), and numbers that fall outside are sent through it again until
they fall inside.  Fewer than two rounds are needed on average.
"""

from __future__ import annotations

U64 = (1 << 64) - 1

_GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> tuple[int, int]:
    """Return ``(next state, 64 random bits)``."""
    state = (state + _GOLDEN) & U64
    bits = state
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & U64
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & U64
    return state, bits ^ (bits >> 31)


def seed_stream(*parts: int) -> int:
    """Return the start state of one stream, such as (run seed, job's randseed, file)."""
    state = 0
    for part in parts:
        state, bits = splitmix64((state ^ part) & U64)
        state ^= bits
    return state


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
