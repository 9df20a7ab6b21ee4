"""A kernel module in outline: queues work items that run and sleep as a script says.

Theory of operation
-------------------
``items`` lists them, with semicolons between: durations, in turn how long the item's function runs and
how long it sleeps, as in ``5ms 10ms 5ms; 5ms 10ms``.  A name and a colon before them choose the
workqueue (``events_unbound: 1ms``), else it is ``queue``.  Items that follow each other are queued in
one go where the task runs, nothing preempts it between two, first when it starts and then every
``period_ns`` (0: only once).  Item *n* is called ``COMM.wn`` in the figure ``items``, which says how long
it took from when it was queued until it was done.

``after 5ms events: 1ms`` is a delayed work, whose timer is on the CPU that asks, and ``node 1 events_unbound: 1ms`` one
for a NUMA node.  What is delayed is not yet there for who flushes; ``cancel`` takes it back.

Between items the module may wait: ``flush NAME`` for all items of a workqueue that are there then,
``drain NAME`` until there are none.  ``cancel wN`` takes item *n* back if it waits on a list of this
CPU, and waits for it if it executes there.
"""

from __future__ import annotations

from typing import Any

from emulator.types import (
    OP_CANCEL_WORK,
    OP_EXIT,
    OP_FLUSH_WORKQUEUE,
    OP_QUEUE_WORK,
    OP_SLEEP,
    Op,
)
from emulator.units import duration_parse
from emulator.workload.params import Setting, check_params

WORKS_PARAMS: dict[str, Any] = {"items": None, "queue": "events", "period_ns": 0}

#: [running ns, sleeping ns] after each other.
Steps = list[list[int]]


#: What a module does: ["queue", workqueue, number, steps(, delay ns, node)], ["flush" or "drain", workqueue],
#: ["cancel", number].
Act = list[Any]


def parse_items(text: str, queue: str) -> list[Act]:
    """Return what the text has a module do; raise ValueError saying what is odd."""
    acts: list[Act] = []
    number = 0
    for part in text.split(";"):
        words = part.split()
        if words and words[0] in ("flush", "drain", "cancel"):
            acts.append(parse_wait(part, words, number))
            continue
        how, part = parse_how(part, words)
        name, colon, rest = part.rpartition(":")
        durations = [duration_parse(word) for word in rest.split()]
        if not durations:
            raise ValueError(
                f"{part.strip()!r} says no duration: write items such as '5ms 10ms 5ms'"
            )
        durations += [0] * (len(durations) % 2)
        steps = [list(pair) for pair in zip(durations[::2], durations[1::2], strict=True)]
        acts.append(["queue", name.strip() if colon else queue, number, steps, *how])
        number += 1
    return acts


def parse_how(part: str, words: list[str]) -> tuple[list[int], str]:
    """Take ``after TIME`` or ``node N`` off an item: [delay ns, node], if any, and the rest."""
    if not words or words[0] not in ("after", "node"):
        return [], part
    if len(words) < 3 or (words[0] == "node" and not words[1].isdigit()):
        raise ValueError(f"{part.strip()!r}: write 'after TIME NAME: …' or 'node N NAME: …'")
    rest = part.split(maxsplit=2)[2]
    return ([duration_parse(words[1]), -1] if words[0] == "after" else [0, int(words[1])]), rest


def parse_wait(part: str, words: list[str], number: int) -> Act:
    """Return what ``flush``, ``drain`` or ``cancel`` mean; ``number``: items before it."""
    if len(words) != 2:
        raise ValueError(f"{part.strip()!r}: write 'flush NAME', 'drain NAME' or 'cancel wN'")
    if words[0] != "cancel":
        return words
    digits = words[1].removeprefix("w")
    if not digits.isdigit() or int(digits) >= number:
        raise ValueError(f"{part.strip()!r}: no item before it is called {words[1]}")
    return ["cancel", int(digits)]


def queues_of(params: dict[str, Any]) -> list[str]:
    """Return the names of the workqueues that a program of these parameters queues to."""
    acts = parse_items(params["items"], params.get("queue", WORKS_PARAMS["queue"]))
    return sorted({act[1] for act in acts if act[0] != "cancel"})


class WorksProgram:
    """Does its acts, waits for the next period, does them again."""

    name = "works"
    aio_events = 0

    __slots__ = ("acts", "begun_ns", "period_ns", "position")

    def __init__(self, acts: list[Act], period_ns: int) -> None:
        self.acts = acts
        self.period_ns = period_ns
        self.position = 0  #: act to do next
        self.begun_ns = -1  #: when this period began

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> WorksProgram:
        """Build the program from its parameters, :data:`WORKS_PARAMS`."""
        option = check_params(cls.name, params, WORKS_PARAMS)
        return cls(parse_items(option["items"], option["queue"]), option["period_ns"])

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next act, items that follow each other as one, or the sleep."""
        if self.position == 0:
            self.begun_ns = now_ns
        elif self.acts[self.position - 1][0] == "drain" and result:
            self.position -= 1  # until nothing was there
        works: list[Act] = []
        while self.position < len(self.acts):
            kind, *what = self.acts[self.position]
            if kind != "queue" and works:
                break
            self.position += 1
            if kind == "cancel":
                return (OP_CANCEL_WORK, what[0])
            if kind != "queue":
                return (OP_FLUSH_WORKQUEUE, what[0])
            queue, number, steps, *how = what
            works.append([queue, number, [list(step) for step in steps], *how])
        if works:
            return (OP_QUEUE_WORK, works)
        if not self.period_ns:
            return (OP_EXIT,)
        self.position = 0
        return (OP_SLEEP, self.begun_ns + self.period_ns)

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
        return [self.name, self.acts, self.period_ns, self.position, self.begun_ns]

    @classmethod
    def unpack(cls, data: list[Any]) -> WorksProgram:
        """Rebuild what :meth:`pack` returned."""
        _, acts, period_ns, position, begun_ns = data
        program = cls(acts, period_ns)
        program.position, program.begun_ns = position, begun_ns
        return program
