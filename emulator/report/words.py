"""How figures are written in sentences: durations, moments, ordinals."""

import re

NSEC_PER_SEC = 1_000_000_000

#: A space at which a line is not wrapped; :func:`spaced` makes it one as any other.
NO_BREAK = "\u00a0"

_UNIT = re.compile(r"(?<=CPU) (?=\d)|(?<=\d) (?=(?:ns|µs|ms|s)\b)")


def duration(us: float) -> str:
    """Return microseconds with three digits in the unit that reads best."""
    # From here on three digits would round up to 1e+03.
    if abs(us) < 999.5:
        return f"{us:.3g} µs"
    return f"{us / 1000:.3g} ms" if abs(us) < 999_500 else f"{us / 1_000_000:.3g} s"


def duration_ns(ns: int) -> str:
    """Return nanoseconds with three digits in the unit that reads best."""
    return f"{ns} ns" if abs(ns) < 1000 else duration(ns / 1000)


def moment(time_ns: int) -> str:
    """Return an emulated time in seconds, to the microsecond, as logs show it."""
    seconds, micros = divmod((time_ns + 500) // 1000, 1_000_000)
    return f"{seconds}.{micros:06d} s"


def unbroken(text: str) -> str:
    """Return a text in which no line ends between ``CPU`` and its number, or a figure and its unit."""
    return _UNIT.sub(NO_BREAK, text)


def spaced(text: str) -> str:
    """Return a wrapped text with plain spaces again."""
    return text.replace(NO_BREAK, " ")
