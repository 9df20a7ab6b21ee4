"""Any bytes at all as a box file: a box, or mistakes with file, line and column; nothing else.

The suite takes the same few hundred examples each time; `pytest --hypothesis-profile=default
tests/test_fuzz_config.py` searches for new ones.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.boxfile.events import parse_command
from emulator.boxfile.problems import Problem
from emulator.config import Box, BoxError, find_config_dir, load_box
from emulator.describe import describe

#: How long any box may take to be read, judged and printed; a hang is a failure too.
DEADLINE_MS = 5_000

#: In the suite, whose profile takes the same examples each time, and in a search.
EXAMPLES, SEARCHES = 60, 5_000

FUZZ = settings(
    deadline=DEADLINE_MS,
    max_examples=EXAMPLES if settings().derandomize else SEARCHES,
    suppress_health_check=[HealthCheck.too_slow],
)

HEAD = re.compile(r"\S[^\n]*?:\d+:\d+: \S")

#: What stands in for any value: traps of YAML, of numbers and of text.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.sampled_from(
        [
            "",
            "0",
            "-1",
            "1e9",
            "nan",
            "5s",
            "-5s",
            "1h",
            "0-3",
            "3-0",
            "0-99999999",
            "of:fio",
            "sda",
        ]
    ),
    st.sampled_from(["all", "4k", "${X}", "auto", "\x00", "\ud7ff", "²", "9" * 5000, "a" * 3000]),
    st.text(max_size=12),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["cpus", "driver", "name", "at", "do", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@cache
def shipped() -> list[Path]:
    """Return every box that ships."""
    return sorted((find_config_dir() / "boxes").glob("*.yaml"))


@cache
def plain(file: Path) -> Any:
    """Return a box as plain data."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def load(place: Path, data: bytes) -> Box | None:
    """Read bytes as a box file; None: it has mistakes, each with its place."""
    file = place / "fuzz.yaml"
    file.write_bytes(data)
    problems: Sequence[Problem] = ()
    box = None
    try:
        box = load_box(file)
    except BoxError as error:
        problems = error.problems
    assert [str(problem) for problem in problems if not HEAD.match(str(problem))] == []
    assert bool(box) != bool(problems)
    assert box is None or describe(box)
    return box


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the box files."""
    return tmp_path_factory.mktemp("fuzz")


@FUZZ
@given(data=st.binary(max_size=300))
def test_random_bytes(place: Path, data: bytes) -> None:
    load(place, data)


@FUZZ
@given(text=st.text(alphabet="ab01 :-[]{}&*!|>'\"#%@`,?\n\t.\x85\u2028é", max_size=80))
def test_random_text_of_yaml_signs(place: Path, text: str) -> None:
    load(place, text.encode())


@FUZZ
@given(data=st.data())
def test_a_shipped_box_with_some_bytes_changed(place: Path, data: st.DataObject) -> None:
    spoilt = bytearray(data.draw(st.sampled_from(shipped())).read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(spoilt) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                spoilt[start] = data.draw(st.integers(0, 255))
            case 1:
                del spoilt[start : start + data.draw(st.integers(1, 40))]
                spoilt = spoilt or bytearray(b"x")
            case 2:
                spoilt[start:start] = data.draw(
                    st.sampled_from(b"\t \n:-[]{}&*!|>'\"#0")
                ).to_bytes()
            case _:
                other = data.draw(st.integers(0, len(spoilt) - 1))
                spoilt[start:start] = spoilt[other : other + data.draw(st.integers(1, 60))]
    load(place, bytes(spoilt))


@FUZZ
@given(data=st.data())
def test_a_shipped_box_with_some_values_changed(place: Path, data: st.DataObject) -> None:
    box = copy.deepcopy(plain(data.draw(st.sampled_from(shipped()))))
    for _ in range(data.draw(st.integers(1, 3))):
        change(box, data)
    load(place, yaml.safe_dump(box, allow_unicode=True).encode("utf-8", "replace"))


@FUZZ
@given(data=st.data())
def test_a_shipped_job_with_some_bytes_changed(place: Path, data: st.DataObject) -> None:
    job = data.draw(st.sampled_from(jobs()))
    spoilt = bytearray(job.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(spoilt) - 1))
        match data.draw(st.integers(0, 2)):
            case 0:
                spoilt[start] = data.draw(st.integers(0, 255))
            case 1:
                spoilt[start:start] = data.draw(st.sampled_from(WORDS)).encode()
            case _:
                del spoilt[start : start + data.draw(st.integers(1, 20))]
                spoilt = spoilt or bytearray(b"x")
    (place / job.name).write_bytes(bytes(spoilt))
    key = "fio" if job.suffix == ".fio" else "rtapp"
    box = {"description": "x", "like": "xfs-aio-4k-tuned", "workloads": [{key: job.name}]}
    load(place, yaml.safe_dump(box).encode())


#: What is put into a job file.
WORDS = (
    "9" * 5000,
    "\n[x]\n",
    "=",
    "-1",
    "0",
    "{",
    "[",
    '"',
    "include y.fio\n",
    "${A}",
    "e9",
    "\x00",
)


@cache
def jobs() -> list[Path]:
    """Return every job and task file that ships."""
    return sorted(file for file in (find_config_dir() / "jobs").iterdir() if file.is_file())


def change(box: Any, data: st.DataObject) -> None:
    """Replace, remove or add something somewhere in a box."""
    parents = list(containers(box))
    parent = data.draw(st.sampled_from(parents))
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    what = data.draw(st.integers(0, 3)) if keys else 3
    if what < 3:
        key = data.draw(st.sampled_from(keys))
    if what == 2:
        del parent[key]
    elif what < 2:
        parent[key] = data.draw(VALUES)
    elif isinstance(parent, list):
        parent.append(data.draw(VALUES))
    else:
        parent[data.draw(st.text(max_size=5) | st.sampled_from(["like", "events", "expect"]))] = (
            data.draw(VALUES)
        )


def containers(value: Any) -> Iterator[Any]:
    """Yield every mapping and list in a value, the outermost first."""
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from containers(inner)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 5000,
        "a: " * 300,
        "{a: " * 900 + "1" + "}" * 900,
        "- " * 400 + "x",
        "&a [*a]",
        "? [a, b]\n: 1",
        "seed: " + "9" * 5000,
        "seed: 0x" + "f" * 5000,
        "warmup: " + "9" * 400 + ".0",
        "a: !!python/object/apply:os.system [ls]",
        "%YAML 9.9\n---\na: 1",
        "a: 1\n---\nb: 2",
        "\ufeffdescription: x",
        "description: 2026-13-45",
        "x" * 1_000_000,
        "a: 'unclosed",
    ],
)
def test_traps_of_yaml(place: Path, text: str) -> None:
    assert load(place, text.encode()) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"\x00", b"description: \xff", b"\xef\xbb\xbf"])
def test_bytes_that_are_no_text(place: Path, data: bytes) -> None:
    assert load(place, data) is None


#: Words of commands, and what looks like them.
COMMAND_WORDS = st.sampled_from(
    [
        *[
            "cpu",
            "offline",
            "online",
            "kill",
            "load",
            "--percent",
            "sysctl",
            "task",
            "affine",
            "disk",
            "sda",
            "error",
            "drop",
            "lose-irq",
        ],
        *[
            "busy",
            "slow",
            "reset",
            "fio",
            "of:fio",
            "of:",
            "0",
            "3",
            "-1",
            "100",
            "101",
            "²",
            "0-3",
            "3-0",
            "0-99999999999",
            "medium",
            "5ms",
            "1h",
        ],
        *[
            "sector=1-5",
            "sector=9-1",
            "every=0",
            "count=0",
            "nan",
            "1e400",
            "kernel.sched_latency_ns=0",
            "x=y",
            "=",
        ],
        *("", "'offline'", '"', "\\", "#", "\x00", "9" * 1000),
    ]
)


@FUZZ
@given(words=st.lists(COMMAND_WORDS | st.text(max_size=6), max_size=8))
def test_a_command_line_of_any_words(words: list[str]) -> None:
    line = " ".join(words)
    with suppress(ValueError):
        parse_command(line)
        # It is a command.  A CPU takes it apart at its blanks: both must see the same words.
        assert not set("'\"\\") & set(line)
