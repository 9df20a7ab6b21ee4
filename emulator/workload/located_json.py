"""JSON as rt-app's files have it, with the place of every key and value.

Theory of operation
-------------------
What rt-app's own tools accept is accepted: comments of both kinds of C, a comma after the last item,
a key of an object without a value (which is then empty), and one key several times, which matters
there because events are told apart by their keys and come in the order of the file.  An object is
therefore a list of pairs.  Everything else is JSON; the first mistake ends the reading.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: How deep objects may nest.
DEPTH_MAX = 32

_SPACE = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"((?:[^"\\\x00-\x1f]|\\["\\/bfnrt])*)"')
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?(?![0-9A-Za-z.])", re.ASCII)
_WORD = re.compile(r"[A-Za-z]+", re.ASCII)
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class JsonError(ValueError):
    """The text is no JSON: what is wrong, and where."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Located:
    """A value and its place: str, int, float, bool, None, a list of values, or an object's pairs."""

    value: str | int | float | bool | list[Located] | dict[int, tuple[Located, Located]] | None
    line: int
    column: int

    @property
    def pairs(self) -> list[tuple[Located, Located]]:
        """Return the keys and values of an object in the order of the file; of others, none."""
        return list(self.value.values()) if isinstance(self.value, dict) else []

    @property
    def items(self) -> list[Located]:
        """Return the items of a list; of others, none."""
        return self.value if isinstance(self.value, list) else []

    def get(self, name: str) -> Located | None:
        """Return the last value of a key, as other readers of JSON do."""
        found = [value for key, value in self.pairs if key.value == name]
        return found[-1] if found else None


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, message: str) -> JsonError:
        line = self.text.count("\n", 0, self.at) + 1
        return JsonError(message, line, self.at - self.text.rfind("\n", 0, self.at))

    def place(self) -> tuple[int, int]:
        return self.text.count("\n", 0, self.at) + 1, self.at - self.text.rfind("\n", 0, self.at)

    def skip(self) -> str:
        found = _SPACE.match(self.text, self.at)
        assert found is not None, "nothing is space too"
        self.at = found.end()
        if self.text.startswith("/*", self.at):
            raise self.fail("this comment does not end")
        return self.text[self.at : self.at + 1]

    def value(self, depth: int) -> Located:
        first = self.skip()
        if depth > DEPTH_MAX:
            raise self.fail(f"more than {DEPTH_MAX} levels deep")
        if first == "{":
            return self.object(depth)
        if first == "[":
            return self.list(depth)
        line, column = self.place()
        if first == '"':
            return Located(self.string(), line, column)
        if first == "-" or first.isdigit():
            return Located(self.number(), line, column)
        word = _WORD.match(self.text, self.at)
        if word is None or word[0] not in _WORDS:
            shown = word[0] if word else first or "the end of the file"
            raise self.fail(f"{shown} is no value")
        self.at = word.end()
        return Located(_WORDS[word[0]], line, column)

    def string(self) -> str:
        found = _STRING.match(self.text, self.at)
        if found is None:
            raise self.fail("this string does not end, or holds what a string may not")
        self.at = found.end()
        return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), found[1])

    def number(self) -> int | float:
        found = _NUMBER.match(self.text, self.at)
        if found is None:
            raise self.fail("not a number such as 5, -1 or 0.5")
        self.at = found.end()
        return float(found[0]) if found[1] else int(found[0])

    def list(self, depth: int) -> Located:
        line, column = self.place()
        items: list[Located] = []
        self.at += 1
        while self.skip() != "]":
            items.append(self.value(depth + 1))
            self.comma("]")
        self.at += 1
        return Located(items, line, column)

    def object(self, depth: int) -> Located:
        line, column = self.place()
        pairs: dict[int, tuple[Located, Located]] = {}
        self.at += 1
        while (first := self.skip()) != "}":
            if first != '"':
                raise self.fail('a key in quotes, or "}", should be here')
            key = Located(None, *self.place())
            key = Located(self.string(), key.line, key.column)
            follows = self.skip()
            if follows == ":":
                self.at += 1
                pairs[len(pairs)] = (key, self.value(depth + 1))
            elif follows in (",", "}"):
                pairs[len(pairs)] = (key, Located("", key.line, key.column))
            else:
                raise self.fail('":" should be here')
            self.comma("}")
        self.at += 1
        return Located(pairs, line, column)

    def comma(self, end: str) -> None:
        first = self.skip()
        if first == ",":
            self.at += 1
        elif first != end:
            raise self.fail(f'"," or "{end}" should be here')


def parse_json(text: str) -> Located:
    """Return the value of a whole text; JsonError says what is wrong where."""
    reader = _Reader(text)
    value = reader.value(0)
    if reader.skip():
        raise reader.fail("there is more after the end")
    return value
