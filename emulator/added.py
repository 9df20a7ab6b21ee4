"""Workloads that are added to a box while it runs: as text, and the box with them.

A command carries them whole, so that the recorded run needs no other file.  Their files and pipes are
numbered from the beginning in the text; in the box they follow those that there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from emulator.types import BoxSpec, WorkloadSpec, cpulist_format, cpulist_parse

#: First words of the command.
ADD = ["workload", "add"]


def text_of(workloads: Iterable[WorkloadSpec]) -> str:
    """Return resolved workloads as one word of a command."""
    plain = [asdict(one) | {"cpus_allowed": cpulist_format(one.cpus_allowed)} for one in workloads]
    return json.dumps(plain, separators=(",", ":"))


def workloads_of(text: str) -> tuple[WorkloadSpec, ...]:
    """Return the workloads that :func:`text_of` wrote; raise ValueError for any other text."""
    try:
        return tuple(
            WorkloadSpec(**one | {"cpus_allowed": cpulist_parse(one["cpus_allowed"])})
            for one in json.loads(text)
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no workloads: {error}") from None


def with_added(spec: BoxSpec, workloads: Iterable[WorkloadSpec]) -> BoxSpec:
    """Return a box that has these workloads too."""
    files = max((number for one in spec.workloads for number in _files(one.params)), default=0)
    pipes = max((number for one in spec.workloads for number in _pipes(one.params)), default=-1)
    placed = [replace(one, params=_placed(one.params, files, pipes + 1)) for one in workloads]
    return replace(spec, workloads=(*spec.workloads, *placed))


def with_commands(spec: BoxSpec, commands: Iterable[list[Any]]) -> BoxSpec:
    """Return a box with all workloads that were added to it, from its commands as words."""
    for words in commands:
        if words[:2] == ADD:
            spec = with_added(spec, workloads_of(words[2]))
    return spec


def shown(words: Iterable[Any]) -> str:
    """Return a command as people read it: what was added by its names."""
    plain = [str(word) for word in words]
    if plain[:2] != ADD:
        return " ".join(plain)
    names = ",".join(dict.fromkeys(one.name for one in workloads_of(plain[2])))
    return " ".join([*ADD, names])


def bytes_on(spec: BoxSpec) -> dict[str, int]:
    """Return how many bytes the files of a box take, by file system."""
    ends: dict[tuple[str, int], int] = {}
    for one in spec.workloads:
        for number, end in _files(one.params).items():
            key = (one.params.get("filesystem", ""), number)
            ends[key] = max(end, ends.get(key, 0))
    used: dict[str, int] = {}
    for (mount, _number), end in ends.items():
        used[mount] = used.get(mount, 0) + end
    return used


# Number and length of every file.
def _files(params: dict[str, Any]) -> dict[int, int]:
    files = {number: first + length for number, first, length in params.get("files", ())}
    return files | ({params["file"]: params.get("size", 0)} if "file" in params else {})


def _pipes(params: dict[str, Any]) -> list[int]:
    return [*params.get("reads", ()), *params.get("writes", ())]


def _placed(params: dict[str, Any], files: int, pipes: int) -> dict[str, Any]:
    placed = dict(params)
    if "file" in placed:
        placed["file"] += files
    if "files" in placed:
        placed["files"] = [[number + files, *rest] for number, *rest in placed["files"]]
    for key in ("reads", "writes"):
        if key in placed:
            placed[key] = [number + pipes for number in placed[key]]
    return placed
