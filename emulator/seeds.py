"""A small seeded generator whose state is one plain integer.

A run is a pure function of its box file and seed, and a task may move between processes at any
event, so whatever is drawn must come from state that its owner carries.  :func:`splitmix64` is the
generator of Steele, Lea and Flood (2014): one 64-bit counter, one mixing function.
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
