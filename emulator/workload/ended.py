"""A program that was told to end: it exits at its next operation.  What it has measured stays."""

from __future__ import annotations

from typing import Any, Protocol

from emulator.types import OP_EXIT, Books, Op


class Measured(Protocol):
    """A program, as far as its end has use for it."""

    name: str

    def measure_in(self, books: Books | None) -> Books | None:
        """Count in ``books`` from now on."""
        ...

    def books(self) -> dict[str, Any]:
        """Return what it has measured."""
        ...

    def pack(self) -> list[Any]:
        """Return the whole state."""
        ...


class EndedProgram:
    """Exits in the place of the program that it was."""

    name = "ended"
    aio_events = 0

    __slots__ = ("was",)

    def __init__(self, was: Measured) -> None:
        self.was = was

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the exit."""
        return (OP_EXIT,)

    def quiet_ns(self, ring_events: int) -> int:
        """Return 0: it exits as soon as it runs."""
        return 0

    def measure_in(self, books: Books | None) -> Books | None:
        """Keep the books of the program that it was."""
        return self.was.measure_in(books)

    def books(self) -> dict[str, Any]:
        """Return what the program has measured."""
        return self.was.books()

    def pack(self) -> list[Any]:
        """Return the name, and the program that it was."""
        return [self.name, self.was.pack()]
