"""Durations and sizes as people write them in a box file: ``15ms``, ``41us``, ``5s``, ``4k``.

Theory of operation
-------------------
YAML 1.1 has its own ideas about ``1e3`` and ``12:30``, so every quantity with a unit is a string
that is read here, exactly: no floats on the way, and a value that is not a whole number of
nanoseconds or bytes is refused instead of rounded.
"""

from __future__ import annotations

import re
from fractions import Fraction

#: How a duration looks; also the pattern of the editor schema.
DURATION_PATTERN = r"^[0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h)$"
#: How a size looks; also the pattern of the editor schema.
SIZE_PATTERN = r"^[0-9]+(b|B|[kKmMgGtT](i?[bB])?)?$"

_NS_PER = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_SHIFT = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|ms|s|m|h)", re.ASCII)
_SIZE = re.compile(r"([0-9]+)([a-z]*)", re.ASCII)


def duration_parse(text: str) -> int:
    """Return the nanoseconds of a duration such as ``15ms`` or ``1.5s``; raise ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: write a number and one of ns us ms s m h")
    value = Fraction(match[1]) * _NS_PER[match[2]]
    if value.denominator != 1:
        raise ValueError(f"{text!r} is not a whole number of nanoseconds")
    return int(value)


def duration_format(value_ns: int) -> str:
    """Return the shortest exact way to write a duration, the inverse of :func:`duration_parse`."""
    for unit in ("s", "ms", "us"):
        if value_ns and value_ns % _NS_PER[unit] == 0:
            return f"{value_ns // _NS_PER[unit]}{unit}"
    return f"{value_ns}ns" if value_ns else "0s"


def size_parse(text: str) -> int:
    """Return the bytes of a size such as ``4k`` or ``64MiB`` (powers of 1024); raise ValueError."""
    match = _SIZE.fullmatch(text.strip().lower())
    suffix = match[2].removesuffix("ib") if match else ""
    if match is None or (suffix.removesuffix("b") or suffix) not in _SHIFT:
        raise ValueError(f"{text!r} is not a size: write a number and, if need be, one of k m g t")
    return int(match[1]) << _SHIFT[suffix.removesuffix("b") or suffix]
