"""Figures of devices: what went wrong at them, and whose interrupts came to which CPU.

They are made of the books, so they are of the whole run, its warm-up included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Books = Mapping[int, Mapping[str, Any]]

IRQ = "irq:"


def devices(books: Books) -> dict[str, dict[str, int]]:
    """Return the counters of each disk that its requests are given to; none where nothing happened."""
    found = (dict(book["device"]) for book in books.values() if "device" in book)
    return {str(one.pop("name")): one for one in found}


def interrupts(books: Books) -> dict[str, dict[str, int]]:
    """Return, per vector by its name in ``/proc/interrupts``, how often it came, and to how many CPUs."""
    counts: dict[str, list[int]] = {}
    for book in books.values():
        for name, nr in book.get("counters", {}).items():
            if name.startswith(IRQ):
                counts.setdefault(name.removeprefix(IRQ), []).append(nr)
    return {name: {"total": sum(nrs), "cpus": len(nrs)} for name, nrs in sorted(counts.items())}
