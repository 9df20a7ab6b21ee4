"""JSON as rt-app's files have it: what is read, and where each value and mistake is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.workload.located_json import DEPTH_MAX, JsonError, Located, parse_json


def plain(value: Located) -> Any:
    """Return a value without its places."""
    if isinstance(value.value, dict):
        return {key.value: plain(item) for key, item in value.pairs}
    return [plain(item) for item in value.items] if isinstance(value.value, list) else value.value


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.text(st.characters(min_codepoint=32, exclude_characters='\\"', max_codepoint=0x7FF)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", min_size=1), inner),
    max_leaves=12,
)


@given(JSON, st.sampled_from([None, 1, "\t"]))
def test_what_json_writes_is_read(value: Any, indent: int | str | None) -> None:
    assert plain(parse_json(json.dumps(value, indent=indent, ensure_ascii=False))) == value


def test_what_rt_app_takes_besides_json() -> None:
    found = parse_json('/* a\n */ { "run": 1, // one\n "run": 2, "suspend", "cpus": [0, 1,], }')
    assert [(key.value, plain(value)) for key, value in found.pairs] == [
        ("run", 1),
        ("run", 2),
        ("suspend", ""),
        ("cpus", [0, 1]),
    ]
    (_, (second, _), *_) = found.pairs
    assert (second.line, second.column) == (3, 2)
    last = found.get("run")
    assert last is not None
    assert last.value == 2


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ('{"a": 1', 1, 8, '"," or "}" should be here'),
        ('{"a" 1}', 1, 6, '":" should be here'),
        ("{a: 1}", 1, 2, "a key in quotes"),
        ('{"a":\n tru}', 2, 2, "tru is no value"),
        ('{"a":\n "b}', 2, 2, "this string does not end"),
        ("[1.]", 1, 2, "not a number"),
        ("[1] 2", 1, 5, "there is more after the end"),
        ("[1 2]", 1, 4, '"," or "]" should be here'),
        ("{ /* x", 1, 3, "this comment does not end"),
        ("", 1, 1, "the end of the file is no value"),
        ("[" * (DEPTH_MAX + 2), 1, DEPTH_MAX + 2, "levels deep"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(JsonError, match=message.replace("?", r"\?")) as told:
        parse_json(text)
    assert (told.value.line, told.value.column) == (line, column)
