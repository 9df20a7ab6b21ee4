"""The names in a CPU's ring: their ids, and which ones every run needs."""

from __future__ import annotations

from collections.abc import Iterable

from emulator.kernel import driver, wq_pool, wq_table
from emulator.kernel.blk_queue import irq_names
from emulator.types import BoxSpec, TraceSink


class Names(dict[str, int]):
    """The ids of the names in this CPU's ring; a name is interned when it is first asked for."""

    __slots__ = ("sink",)

    def __init__(self, sink: TraceSink, names: Iterable[str]) -> None:
        super().__init__({name: sink.intern(name) for name in names})
        self.sink = sink

    def __missing__(self, name: str) -> int:
        number = self[name] = self.sink.intern(name)
        return number


def traced_names(workqueues: dict[int, wq_table.Workqueue], spec: BoxSpec) -> list[str]:
    """Return every name that this CPU's records intern, in a fixed order."""
    return [
        *(wq.name for wq in workqueues.values()),
        *(name for number, name in wq_pool.FUNCTIONS.items() if number <= wq_pool.FN_SCRIPT),
        *driver.TIMER_FUNCTIONS.values(),
        "WS",
        "R",
        *(name for disk in spec.disks for name in irq_names(disk)),
        "WSM",
        "FF",
        "WFS",
        "WFSM",
    ]
