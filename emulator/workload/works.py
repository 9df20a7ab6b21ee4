"""A kernel module in outline: queues work items that run and sleep as a script says.

Theory of operation
-------------------
``items`` lists them, with semicolons between: durations, in turn how long the item's function runs and
how long it sleeps, as in ``5ms 10ms 5ms; 5ms 10ms``.  A name and a colon before them choose the
workqueue (``events_unbound: 1ms``), else it is ``queue``.  All are queued in one go where the task runs,
nothing preempts it between two, first when it starts and then every ``period_ns`` (0: only once).  Item *n* is called ``COMM.wn`` in the
figure ``items``, which says how long it took from when it was queued until it was done.
"""

from __future__ import annotations

from typing import Any

from emulator.types import OP_EXIT, OP_QUEUE_WORK, OP_SLEEP, Op
from emulator.units import duration_parse
from emulator.workload.params import Setting, check_params

WORKS_PARAMS: dict[str, Any] = {"items": None, "queue": "events", "period_ns": 0}

#: [running ns, sleeping ns] after each other.
Steps = list[list[int]]


def parse_items(text: str, queue: str) -> list[tuple[str, Steps]]:
    """Return the workqueue and the steps of every item; raise ValueError saying what is odd."""
    items: list[tuple[str, Steps]] = []
    for part in text.split(";"):
        name, colon, rest = part.rpartition(":")
        durations = [duration_parse(word) for word in rest.split()]
        if not durations:
            raise ValueError(
                f"{part.strip()!r} says no duration: write items such as '5ms 10ms 5ms'"
            )
        durations += [0] * (len(durations) % 2)
        steps = [list(pair) for pair in zip(durations[::2], durations[1::2], strict=True)]
        items.append((name.strip() if colon else queue, steps))
    return items


def queues_of(params: dict[str, Any]) -> list[str]:
    """Return the names of the workqueues that a program of these parameters queues to."""
    items = parse_items(params["items"], params.get("queue", WORKS_PARAMS["queue"]))
    return sorted({name for name, _steps in items})


class WorksProgram:
    """Queues its items, waits for the next period, queues them again."""

    name = "works"
    aio_events = 0

    __slots__ = ("begun_ns", "items", "period_ns")

    def __init__(self, items: list[tuple[str, Steps]], period_ns: int) -> None:
        self.items = items
        self.period_ns = period_ns
        self.begun_ns = -1  #: when this period's were queued, -1: they are not yet

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> WorksProgram:
        """Build the program from its parameters, :data:`WORKS_PARAMS`."""
        option = check_params(cls.name, params, WORKS_PARAMS)
        return cls(parse_items(option["items"], option["queue"]), option["period_ns"])

    def next(self, now_ns: int, result: Any) -> Op:
        """Return all items, then the sleep until the next period."""
        if self.begun_ns < 0:
            self.begun_ns = now_ns
            works = [
                [queue, number, [list(step) for step in steps]]
                for number, (queue, steps) in enumerate(self.items)
            ]
            return (OP_QUEUE_WORK, works)
        if not self.period_ns:
            return (OP_EXIT,)
        until_ns, self.begun_ns = self.begun_ns + self.period_ns, -1
        return (OP_SLEEP, until_ns)

    def quiet_ns(self, ring_events: int) -> int:
        """Return 0: it queues at once, and sleeps."""
        return 0

    def measure_in(self, books: Any) -> None:
        """Measure nothing: the items' times are the kernel's to tell."""

    def books(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [self.name, self.items, self.period_ns, self.begun_ns]

    @classmethod
    def unpack(cls, data: list[Any]) -> WorksProgram:
        """Rebuild what :meth:`pack` returned."""
        _, items, period_ns, begun_ns = data
        program = cls([(queue, steps) for queue, steps in items], period_ns)
        program.begun_ns = begun_ns
        return program
