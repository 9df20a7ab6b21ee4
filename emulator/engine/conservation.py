"""The books of tasks in flight: every task is on exactly one node or in exactly one message.

Theory of operation
-------------------
Some messages carry a task (:data:`CARRIES`).  Its source gives the task up when it sends, its
target owns it from the moment the message is handed over.  The :class:`Ledger` sees every message
of a run and refuses at once what cannot be: a task sent by a node that does not own it, a task in
two messages, a message handed over twice.  At the end of a run (and at faults) :meth:`Ledger.audit`
compares the nodes' own lists with all that.

ACTIVATE begins with the pid; the balancer's messages hold pairs (pid, task).  ADOPT hands over all
that a dead CPU owned: from then on nothing is known about those tasks until they travel again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from emulator import wire
from emulator.types import Message


class ConservationError(AssertionError):
    """A task is owned by none or by two."""


def _activate_pids(args: tuple[Any, ...]) -> list[int]:
    return [args[0]]


def _detached_pids(args: tuple[Any, ...]) -> list[int]:
    return [_pid(task) for task in args[1]]


def _attach_pids(args: tuple[Any, ...]) -> list[int]:
    return [_pid(task) for task in args[0]]


def _pid(task: Any) -> int:
    pid = task[0]
    assert isinstance(pid, int), f"a packed task begins with its pid, not {pid!r}"
    return pid


#: The pids that a message of an op carries.
CARRIES: dict[int, Callable[[tuple[Any, ...]], list[int]]] = {
    wire.ACTIVATE: _activate_pids,
    wire.DETACHED: _detached_pids,
    wire.ATTACH: _attach_pids,
}


class Ledger:
    """Who owns each task that ever travelled, and which tasks are in which message."""

    __slots__ = ("_stories", "flights", "owner", "story_max")

    def __init__(self, story_max: int = 8) -> None:
        self.owner: dict[int, int] = {}  #: pid -> node; absent while in flight or never sent
        self.flights: dict[int, tuple[int, int]] = {}  #: pid -> (source, seq) of its message
        self.story_max = story_max
        self._stories: dict[int, list[Message]] = {}

    def sent(self, message: Message) -> None:
        """Note that a node gave ``message`` out."""
        if message[4] == wire.ADOPT:
            self._forget(message[1])
        pids_of = CARRIES.get(message[4])
        if pids_of is not None:
            for pid in pids_of(message[5]):
                self._depart(pid, message)

    def handed_over(self, message: Message) -> None:
        """Note that ``message`` is now in its target's hands."""
        pids_of = CARRIES.get(message[4])
        if pids_of is not None:
            for pid in pids_of(message[5]):
                self._arrive(pid, message)

    def audit(self, owned: Mapping[int, Iterable[int]], end_ns: int) -> list[str]:
        """Return what is wrong, given the pids that each node says it owns (exited ones too).

        Nodes have handled the messages with effect before ``end_ns`` and no others.
        """
        problems: list[str] = []
        holders: dict[int, int] = {}
        for node, pids in owned.items():
            for pid in pids:
                if pid in holders:
                    problems.append(f"task {pid} is on node {holders[pid]} and on node {node}")
                holders[pid] = node
        for pid, node in self.owner.items():
            if self._stories[pid][-1][0] >= end_ns:
                # Handed over, but still in the inbox when the run ended.
                if pid in holders:
                    problems.append(f"{pid} is in an inbox and on a node: {self.story(pid)}")
            elif holders.get(pid) != node:
                problems.append(
                    f"task {pid} should be on node {node}, is on {holders.get(pid)}: "
                    + self.story(pid)
                )
        problems += [
            f"task {pid} is in a message and on a node" for pid in self.flights if pid in holders
        ]
        return problems

    def story(self, pid: int) -> str:
        """Return the last journeys of a task, for error texts."""
        legs = [
            f"{wire.OPS[m[4]].name} {m[1]}->{m[3]} at {m[0]}" for m in self._stories.get(pid, [])
        ]
        return f"task {pid}: " + ("; ".join(legs) or "never travelled")

    def _depart(self, pid: int, message: Message) -> None:
        source = message[1]
        if pid in self.flights:
            raise ConservationError(f"sent twice by node {source}: {self.story(pid)}")
        if self.owner.pop(pid, source) != source:
            raise ConservationError(f"sent by node {source}, not its owner: {self.story(pid)}")
        self.flights[pid] = (source, message[2])
        legs = self._stories.setdefault(pid, [])
        legs.append((*message[:5], ()))
        del legs[: -self.story_max]

    def _forget(self, node: int) -> None:
        for pid in [pid for pid, owner in self.owner.items() if owner == node]:
            del self.owner[pid]

    def _arrive(self, pid: int, message: Message) -> None:
        if self.flights.pop(pid, None) != (message[1], message[2]):
            raise ConservationError(
                f"came to node {message[3]} from nowhere at {message[0]}: {self.story(pid)}"
            )
        self.owner[pid] = message[3]


def pids_owned(books: Mapping[int, Mapping[str, Any]]) -> dict[int, list[int]]:
    """Return each node's pids (live and exited) from the nodes' books."""
    return {node: [*book.get("tasks", ()), *book.get("exited", ())] for node, book in books.items()}
