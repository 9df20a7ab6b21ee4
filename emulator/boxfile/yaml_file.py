"""YAML text to a tree of nodes with their places, and plain data to YAML text: all of PyYAML here.

``yaml.compose()`` gives a tree with marks; :mod:`emulator.boxfile.reader` makes data of it.
"""

from __future__ import annotations

from typing import Any

import yaml

from emulator.boxfile.reader import Node, NotYaml

#: How deep mappings and lists may lie in each other.
DEPTH_MAX = 64


def dump_plain(data: Any) -> str:
    """Return plain data as YAML text, keys in their own order."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


def compose(text: str) -> Node | NotYaml | None:
    """Return the tree of a YAML text, None if it is empty, or why it is not YAML."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        what = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        return NotYaml(what, mark.line, mark.column) if mark else NotYaml(what)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line = before.count("\n")
        what = f"the character {ord(text[error.position]):#x} may not be in it"
        return NotYaml(what, line, len(before) - before.rfind("\n") - 1)
    except yaml.YAMLError as error:
        return NotYaml(" ".join(str(error).split()), 0)
    except RecursionError:
        return NotYaml("nested too deeply", 0)
    try:
        return None if tree is None else _node(tree, set())
    except NestedTooDeeplyError as error:
        return NotYaml("nested too deeply", error.line, error.column)


class NestedTooDeeplyError(Exception):
    """A tree is deeper than any box needs to be."""

    def __init__(self, line: int, column: int) -> None:
        super().__init__(line, column)
        self.line, self.column = line, column


# `seen` holds the nodes met so far: a node met again was written as an alias.
def _node(tree: yaml.Node, seen: set[int], depth: int = 0) -> Node:
    line, column = tree.start_mark.line, tree.start_mark.column
    if depth > DEPTH_MAX:
        raise NestedTooDeeplyError(line, column)
    if id(tree) in seen:
        return Node("alias", line, column)
    seen.add(id(tree))
    tag = str(tree.tag).removeprefix("tag:yaml.org,2002:")
    if isinstance(tree, yaml.MappingNode):
        pairs = tuple(
            (_node(key, seen, depth + 1), _node(value, seen, depth + 1))
            for key, value in tree.value
        )
        return Node("mapping", line, column, tag, pairs=pairs)
    if isinstance(tree, yaml.SequenceNode):
        items = tuple(_node(one, seen, depth + 1) for one in tree.value)
        return Node("sequence", line, column, tag, items=items)
    assert isinstance(tree, yaml.ScalarNode)
    return Node("scalar", line, column, tag, str(tree.value), tree.style is not None)
