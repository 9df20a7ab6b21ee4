"""``like:``: a box that says only in what it differs from another one.

The other box is read first and this one laid over it: mappings are merged key by key, everything
else is replaced.  Two things are each box's own and never taken over: its ``description`` and what it
``expect``-s.  A disk with another driver is another disk: nothing of the old one is kept.  Every value
keeps the place where it was written, so that a mistake is shown in the file that holds it.
"""

from __future__ import annotations

from typing import Any

from emulator.boxfile.problems import Path, Place
from emulator.boxfile.reader import Reader

LIKE = "like"
#: What a box says for itself alone.
OWN = ("description", "expect")


def lay_over(reader: Reader, data: dict[str, Any], base: Reader, below: dict[str, Any]) -> Any:
    """Return ``data`` laid over ``below``; the reader learns where the base's values stand."""
    for name in OWN:
        below.pop(name, None)
    data = {name: value for name, value in data.items() if name != LIKE}
    merged = _merge(data, below, ())
    values, keys = reader.report.values, reader.report.keys
    _take_places(base.report.values, values, data)
    _take_places(base.report.keys, keys, data)
    return merged


def _merge(data: dict[str, Any], below: dict[str, Any], path: Path) -> dict[str, Any]:
    merged = dict(below)
    for name, value in data.items():
        old = below.get(name)
        here = (*path, name)
        if isinstance(value, dict) and isinstance(old, dict) and not _other_disk(here, value, old):
            merged[name] = _merge(value, old, here)
        else:
            merged[name] = value
    return merged


def _other_disk(path: Path, value: dict[str, Any], old: dict[str, Any]) -> bool:
    if len(path) != 2 or path[0] != "disks":
        return False
    return "driver" in value and value["driver"] != old.get("driver")


# The base's places, but for those of what is not taken over and of values that are replaced: these lie
# below a value that is said here and is no mapping.
def _take_places(base: dict[Path, Place], own: dict[Path, Place], data: dict[str, Any]) -> None:
    for path, place in base.items():
        if path and path[0] not in OWN and path not in own and not _replaced(path, data):
            own[path] = place


def _replaced(path: Path, data: Any) -> bool:
    here = data
    for part in path:
        if not isinstance(here, dict):
            return True
        if part not in here:
            return False
        here = here[part]
    return True
