"""Plain data from a YAML tree, with the place of every key and value; YAML 1.1's traps refused.

YAML 1.1 keeps the last of two equal keys, and reads ``no`` as false, ``0777`` as 511, ``12:30:45`` as
45045 and ``1e3`` as text.  A box is no place for such surprises: each is reported, with what to
write instead.  Overrides from the command line are laid over the data and bring their own places.

The tree comes as :class:`Node` objects, so that only :mod:`emulator.boxfile.yaml_file` knows PyYAML.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from emulator.boxfile.problems import Path, Place, Problem, Report

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?[0-9][0-9_]*\.[0-9_]*", re.ASCII)
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+", re.ASCII)

#: Longest number of a box; 64 bits have 20 digits, and a mask of 1024 CPUs has 309.
DIGITS_MAX = 320

#: Keys whose children are names of others, dots included, in ``--set``.
_OPEN = (("kernel", "sysctl"), ("kernel", "features"))


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a YAML tree; line and column count from 0."""

    kind: str  #: mapping, sequence, scalar, alias
    line: int
    column: int
    tag: str = ""  #: without its prefix
    text: str = ""
    quoted: bool = False
    items: tuple[Node, ...] = ()
    pairs: tuple[tuple[Node, Node], ...] = ()


@dataclass(frozen=True, slots=True)
class NotYaml:
    """Why a text is not YAML; line -1: nobody knows where."""

    message: str
    line: int = -1
    column: int = 0


#: Parses a text; None: there is nothing in it.
Compose = Callable[[str], Node | NotYaml | None]


class Refused:
    """Stands for a value that was already reported; fits no type, and its error is dropped."""

    def __repr__(self) -> str:
        return "?"


REFUSED = Refused()


@dataclass(slots=True)
class Reader:
    """Reads one file to plain data; its report knows where everything stands."""

    source: str
    compose: Compose
    report: Report
    lines: list[str] = field(default_factory=list)
    option: Place | None = None  #: where values come from while an override is laid over

    def read_bytes(self, data: bytes, bytes_max: int) -> Any:
        """Return UTF-8 text as plain data; None if it is none or too long, which is then reported."""
        if len(data) > bytes_max:
            self.report.at((), f"longer than {bytes_max} bytes")
            return None
        try:
            return self.read(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8")
            line = before.count("\n")
            place = Place(self.source, line + 1, len(before) - before.rfind("\n"))
            problem = Problem(place, "", f"not UTF-8: {error.reason}")
            self.report.problems.append(problem)
            return None

    def read(self, text: str) -> Any:
        """Return the text as plain data; None if it is none, which is then reported."""
        self.lines = text.splitlines()
        node = self.compose(text)
        if isinstance(node, NotYaml):
            place = self._place(node.line, node.column) if node.line >= 0 else Place(self.source)
            self.report.problems.append(Problem(place, "", f"not YAML: {node.message}"))
            return None
        if node is None:
            self.report.at((), "there is nothing in it")
            return None
        return self._plain(node, ())

    def override(self, data: Any, assignment: str, option: str) -> None:
        """Lay ``key.path=value`` over the data; ``option`` is how errors name it."""
        name, equals, text = assignment.partition("=")
        self.option = Place(option)
        if not equals or not name:
            self._problem("", "is not key.path=value")
            return
        node = self.compose(text)
        path = _split(name, data)
        if node is None or isinstance(node, NotYaml):
            self._problem(name, f"{text!r} is not a YAML value" if node else "has no value")
        elif (parent := self._descend(data, path)) is not None:
            for known in [one for one in self.report.values if one[: len(path)] == path]:
                del self.report.values[known]
            parent[path[-1]] = self._plain(node, path)
            self.report.keys[path] = self.option

    def _problem(self, path: str, message: str) -> None:
        assert self.option is not None
        self.report.problems.append(Problem(self.option, path, message))

    def _place(self, line: int, column: int) -> Place:
        if self.option is not None:
            return self.option
        text = self.lines[line] if line < len(self.lines) else ""
        return Place(self.source, line + 1, column + 1, text)

    # A node as plain data; notes where it stands.
    def _plain(self, node: Node, path: Path) -> Any:
        if path or self.option is None:
            self.report.values[path] = self._place(node.line, node.column)
        if node.kind == "mapping":
            return self._mapping(node, path)
        if node.kind == "sequence":
            return [self._plain(one, (*path, index)) for index, one in enumerate(node.items)]
        return self._scalar(node, path)

    def _mapping(self, node: Node, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.pairs:
            place = self._place(key.line, key.column)
            where = (*path, key.text)
            if key.kind != "scalar":
                self.report.problems.append(Problem(place, "", "a key must be a plain word"))
            elif key.text in data:
                first = self.report.keys[where].line
                message = f"the key comes twice (first in line {first})"
                self.report.problems.append(Problem(place, key.text, message))
            else:
                self.report.keys[where] = place
                data[key.text] = self._plain(value, where)
        return data

    def _scalar(self, node: Node, path: Path) -> Any:
        text, tag = node.text, node.tag
        if tag == "str" and (node.quoted or not _EXPONENT.fullmatch(text)):
            return text
        if node.kind == "scalar" and not node.quoted:
            if tag in ("int", "float") and len(text) > DIGITS_MAX:
                self.report.at(path, f"a number of more than {DIGITS_MAX} digits")
                return REFUSED
            if tag == "int" and _INT.fullmatch(text):
                return int(text.replace("_", ""))
            if tag == "float" and _FLOAT.fullmatch(text):
                return float(text.replace("_", ""))
            if tag == "bool" and text.lower() in ("true", "false"):
                return text.lower() == "true"
            if tag == "timestamp":
                return text
        self.report.at(path, _trap(node))
        return REFUSED

    # The container of the last part of a path; mappings on the way are made where they lack.
    def _descend(self, data: Any, path: Path) -> Any:
        assert self.option is not None
        here = data
        for depth, part in enumerate(path):
            in_list = isinstance(here, list) and isinstance(part, int) and part < len(here)
            if not in_list and not (isinstance(here, dict) and isinstance(part, str)):
                self._problem(".".join(map(str, path)), f"there is no place for {part!r}")
                return None
            if depth == len(path) - 1:
                return here
            if isinstance(here, dict) and part not in here:
                here[part] = {}
                self.report.values[path[: depth + 1]] = self.option
                self.report.keys[path[: depth + 1]] = self.option
            here = here[part]
        return None


def child(here: Any, part: str | int) -> Any:
    """Return what lies under a key or a list position, None if nothing does."""
    if isinstance(here, dict) and isinstance(part, str):
        return here.get(part)
    if isinstance(here, list) and isinstance(part, int) and part < len(here):
        return here[part]
    return None


def _trap(node: Node) -> str:
    text = node.text
    match node.tag:
        case _ if node.kind == "alias":
            return "anchors and aliases are not for boxes: write it out"
        case "bool":
            return f"YAML reads {text} as a truth value: write true or false, or quote it"
        case "null":
            return "has no value"
        case "str":
            return f"YAML does not read {text} as a number: write its digits"
        case "int" if ":" in text:
            return f"YAML reads {text} as a number to base 60: quote it, or write a duration"
        case "int" if re.fullmatch(r"0[0-7]+", text):
            return f"YAML reads {text} as octal, {int(text, 8)}: write it without the leading 0"
        case "int" | "float":
            return f"{text} is not a plain decimal number"
    return f"the tag {node.tag} is not for boxes"


# `kernel.sysctl.kernel.sched_latency_ns` has three parts: sysctls have dots of their own.
def _split(name: str, data: Any) -> Path:
    words = name.split(".")
    for prefix in _OPEN:
        if tuple(words[: len(prefix)]) == prefix and len(words) > len(prefix):
            return (*prefix, ".".join(words[len(prefix) :]))
    path: list[str | int] = []
    here = data
    for word in words:
        part: str | int = int(word) if isinstance(here, list) and word.isdecimal() else word
        path.append(part)
        here = child(here, part)
    return tuple(path)
