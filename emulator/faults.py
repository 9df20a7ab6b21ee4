"""What may happen to a disk by command: ``disk NAME VERB …`` taken apart, for all who must act on it.

A fault strikes the requests that are rung from its stamp on (an error, a drop, a slow stretch, a busy
one), the interrupts that the device sends from then on (lose-irq), or all that it holds (reset).
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.units import duration_parse

#: Errnos that requests end with, and what the log calls them (blk_errors[]).
EIO = -5
ENODATA = -61
ETIMEDOUT = -110
STATUS_WORDS = {EIO: "I/O", ENODATA: "critical medium", ETIMEDOUT: "timeout"}

#: Every command, as help shows it.
COMMANDS = (
    "disk NAME error [sector=A-B] [every=N] [count=K] [medium]",
    "disk NAME drop [sector=A-B] [every=N] [count=K]",
    "disk NAME lose-irq [every=N] [count=K]",
    "disk NAME busy DURATION",
    "disk NAME slow FACTOR DURATION",
    "disk NAME reset",
)
VERBS = ("error", "drop", "lose-irq", "busy", "slow", "reset")


@dataclass(frozen=True, slots=True)
class Fault:
    """One command: which disk, what, to which requests, how long."""

    disk: str
    verb: str
    first: int = 0  #: sectors touched
    last: int = 1 << 62
    every: int = 1  #: every so manieth of those
    count: int = 1  #: so many times
    status: int = EIO
    ns: int = 0
    percent: int = 100


def parse_fault(words: list[str]) -> Fault:
    """Take ``disk NAME VERB …`` apart; raise ValueError saying what is odd."""
    match words:
        case ["disk", disk, ("error" | "drop" | "lose-irq") as verb, *options]:
            return _selective(disk, verb, options)
        case ["disk", disk, "busy", duration]:
            return Fault(disk, "busy", ns=duration_parse(duration))
        case ["disk", disk, "slow", factor, duration]:
            return Fault(disk, "slow", ns=duration_parse(duration), percent=_percent(factor))
        case ["disk", disk, "reset"]:
            return Fault(disk, "reset")
    raise ValueError(f"{' '.join(words)!r} is not one of: {'; '.join(COMMANDS)}")


def _selective(disk: str, verb: str, options: list[str]) -> Fault:
    first, last, status = 0, 1 << 62, EIO
    numbers = {"every": 1, "count": 1}
    for option in options:
        name, equals, value = option.partition("=")
        if name == "sector" and equals and verb != "lose-irq":
            low, dash, high = value.partition("-")
            first, last = _number(low, option), _number(high if dash else low, option)
            if last < first:
                raise ValueError(f"{option!r} runs backwards")
        elif name in numbers and equals:
            numbers[name] = _number(value, option)
            if not numbers[name]:
                raise ValueError(f"{option!r} is never")
        elif option == "medium" and verb == "error":
            status = ENODATA
        else:
            raise ValueError(f"{option!r} means nothing to 'disk {verb}'")
    return Fault(disk, verb, first, last, numbers["every"], numbers["count"], status)


def _number(text: str, option: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{option!r} has no whole number")
    return int(text)


def _percent(text: str) -> int:
    whole, _dot, part = text.partition(".")
    if not whole.isdecimal() or (part and not part.isdecimal()) or len(part) > 2:
        raise ValueError(f"{text!r} is not a factor such as 4 or 1.5")
    return int(whole) * 100 + int((part + "00")[:2])
