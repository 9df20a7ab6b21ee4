"""Mistakes in a box file, with the place of each: collected, sorted, printed all at once.

A problem prints as a compiler's does, ``file:line:col: path: message``, then the line and a caret.
A value that came from the command line has no line; its place is the option as it was typed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Where a value stands in a box: keys and list positions from the top.
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file (line and column from 1), or an option of the command line (line 0)."""

    source: str  #: file name, or ``--set key=value``
    line: int = 0
    column: int = 0
    text: str = ""  #: the whole line

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake."""

    place: Place
    path: str
    message: str

    def __str__(self) -> str:
        path = f"{self.path}: " if self.path else ""
        head = f"{self.place}: {path}{self.message}"
        if not self.place.line:
            return head
        line = self.place.text.replace("\t", " ")
        return f"{head}\n    {line}\n    {' ' * (self.place.column - 1)}^"


class BoxError(Exception):
    """A box that cannot be run; holds every problem found, printed by ``str()``."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(
            dict.fromkeys(problems),
            key=lambda one: (
                one.place.line == 0,
                one.place.source,
                one.place.line,
                one.place.column,
            ),
        )
        super().__init__("\n".join(str(one) for one in self.problems))


def path_text(path: Path) -> str:
    """Return a path as people read it: ``workloads[0].nice``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


class Report:
    """Collects problems; knows where every value and every key of the box stands."""

    def __init__(self, source: str) -> None:
        self.problems: list[Problem] = []
        self.values: dict[Path, Place] = {(): Place(source, 1, 1)}
        self.keys: dict[Path, Place] = {}

    def at(self, path: Path, message: str) -> None:
        """Report a problem with the value at ``path``, or with its nearest parent that is there."""
        self.problems.append(Problem(self.value_place(path), path_text(path), message))

    def at_key(self, path: Path, message: str) -> None:
        """Report a problem with the key itself."""
        place = self.keys.get(path) or self.value_place(path)
        self.problems.append(Problem(place, path_text(path), message))

    def value_place(self, path: Path) -> Place:
        """Return where a value stands, or where its nearest parent does."""
        while path not in self.values:
            # What is missing from a mapping is missed where the mapping is named.
            if path in self.keys:
                return self.keys[path]
            path = path[:-1]
            if path and path in self.keys:
                return self.keys[path]
        return self.values[path]
