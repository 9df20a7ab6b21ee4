"""Objects as lists of their values, for snapshots: which names, in which order, is said where they are packed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def values(thing: object, names: Iterable[str]) -> list[Any]:
    """Return what an object has under some names."""
    return [getattr(thing, name) for name in names]


def assign(thing: object, names: Iterable[str], data: Iterable[Any]) -> None:
    """Put values, as :func:`values` returned them, back under their names."""
    for name, value in zip(names, data, strict=True):
        setattr(thing, name, value)
