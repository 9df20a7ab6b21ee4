"""The books of a run: nothing is lost, nothing is there twice.

Theory of operation
-------------------
Some messages carry a task (:data:`CARRIES`).  Its source gives the task up when it sends, its
target owns it from the moment the message is handed over.  The :class:`Ledger` sees every message
of a run and refuses at once what cannot be: a task sent by a node that does not own it, a task in
two messages, a message handed over twice.  At the end of a run (and at faults) :meth:`Ledger.audit`
compares the nodes' own lists with all that.

ACTIVATE begins with the pid; the balancer's messages and ADOPT hold pairs (pid, task).

:func:`audit_books` adds up what all nodes say that they hold at one instant, messages handed over
and not acted on included: tasks, the IOs that they wait for, requests, tags, credits.  A node's book
may lack any of its entries; what they are is said where they are made (``kernel/holdings.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from emulator import messages
from emulator.messages import message_from_list
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
    messages.ACTIVATE: _activate_pids,
    messages.DETACHED: _detached_pids,
    messages.ATTACH: _attach_pids,
    messages.ADOPT: _attach_pids,
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
            f"{messages.OPS[m[4]].name} {m[1]}->{m[3]} at {m[0]}"
            for m in self._stories.get(pid, [])
        ]
        return f"task {pid}: " + ("; ".join(legs) or "never travelled")

    def pack(self) -> list[Any]:
        """Return the ledger as plain data."""
        return [
            list(self.owner.items()),
            [[pid, list(flight)] for pid, flight in self.flights.items()],
            [[pid, [list(leg) for leg in legs]] for pid, legs in self._stories.items()],
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        owners, flights, stories = data
        self.owner = dict(owners)
        self.flights = {pid: (source, seq) for pid, (source, seq) in flights}
        self._stories = {pid: [message_from_list(leg) for leg in legs] for pid, legs in stories}

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

    def _arrive(self, pid: int, message: Message) -> None:
        if self.flights.pop(pid, None) != (message[1], message[2]):
            raise ConservationError(
                f"came to node {message[3]} from nowhere at {message[0]}: {self.story(pid)}"
            )
        self.owner[pid] = message[3]


def pids_owned(books: Mapping[int, Mapping[str, Any]]) -> dict[int, list[int]]:
    """Return each node's pids (live and exited) from the nodes' books."""
    return {node: [*book.get("tasks", ()), *book.get("exited", ())] for node, book in books.items()}


Books = Mapping[int, Mapping[str, Any]]


def audit_books(books: Books) -> list[str]:
    """Return what does not add up over all nodes' books."""
    return [
        *_audit_tasks(books),
        *_audit_ios(books),
        *_audit_requests(books),
        *_audit_works(books),
        *_audit_tags(books),
        *_audit_tag_waiters(books),
        *_audit_pipes(books),
        *_audit_pages(books),
        *(
            f"the AIO context of task {pid} lacks {missing} credits"
            for book in books.values()
            for pid, missing in book.get("credits", ())
        ),
    ]


def _audit_tasks(books: Books) -> list[str]:
    places: dict[int, list[int]] = {}
    for node, book in books.items():
        for pid in (*book.get("tasks", ()), *book.get("arriving", ())):
            places.setdefault(pid, []).append(node)
    return [f"task {pid} is on nodes {at}" for pid, at in places.items() if len(at) > 1]


def _audit_ios(books: Books) -> list[str]:
    waited_for = Counter(tuple(io) for book in books.values() for io in book.get("waited_for", ()))
    carried = Counter(tuple(io) for book in books.values() for io in book.get("carried", ()))
    return [
        *(f"IO {io} is lost: its task waits for it" for io in waited_for - carried),
        *(f"IO {io} would complete twice, or unasked" for io in carried - waited_for),
    ]


def _audit_requests(books: Books) -> list[str]:
    totals = [book["requests"] for book in books.values() if "requests" in book]
    made, freed, here = (
        (sum(column) for column in zip(*totals, strict=True)) if totals else (0,) * 3
    )
    here += sum(book.get("held", 0) for book in books.values())
    problems = []
    if made != freed + here:
        problems.append(f"{made} requests were made, {freed} freed, and {here} are somewhere")
    stats = [stat for book in books.values() for stat in book.get("disk_stats", ())]
    counted = sum(sum(started) - sum(ended) for started, ended, *_ in stats)
    counted += sum(book.get("counters", {}).get("bios", 0) for book in books.values())
    if stats and counted != here:
        problems.append(f"disk statistics have {counted} requests in flight, {here} are somewhere")
    return problems


def _audit_works(books: Books) -> list[str]:
    totals = [book["works"] for book in books.values() if "works" in book]
    queued, ended, here = (sum(one[index] for one in totals) for index in range(3))
    if queued == ended + here:
        return []
    return [f"{queued} work items were queued, {ended} have ended, and {here} are somewhere"]


def _audit_tags(books: Books) -> list[str]:
    disks = [book for _, book in sorted(books.items()) if "free_tags" in book]
    problems = []
    for index, disk in enumerate(disks):
        held = sum(book["tags"][index] for book in books.values() if "requests" in book)
        held += disk.get("held", 0)
        if held + disk["free_tags"] != disk["tags"]:
            problems.append(
                f"disk {index} has {disk['tags']} tags: {disk['free_tags']} are free and {held} leased"
            )
        excess = sum(book["allocated"][index] for book in books.values() if "allocated" in book)
        if excess != disk.get("held", 0):
            problems.append(
                f"disk {index}: CPUs count {excess - disk.get('held', 0)} requests more than there are"
            )
    return problems


def _audit_pages(books: Books) -> list[str]:
    problems: list[str] = []
    for book in books.values():
        if book.get("backing"):
            nr_writeback, found = book["backing"]
            problems += found
            here = sum(one.get("pages", 0) for one in books.values())
            if here != nr_writeback:
                problems.append(
                    f"{nr_writeback} pages are under writeback, {here} are on their way"
                )
    return problems


def _audit_tag_waiters(books: Books) -> list[str]:
    sleepers = [pid for book in books.values() for pid in book.get("tag_sleepers", ())]
    waiters = {pid for book in books.values() for pid in book.get("tag_waiters", ())}
    return [
        f"task {pid} sleeps for a tag, and nobody will wake it"
        for pid in sleepers
        if pid not in waiters
    ]


def _audit_pipes(books: Books) -> list[str]:
    missing: Counter[int] = Counter()
    for book in books.values():
        for pipe, nr in book.get("pipes", ()):
            missing[pipe] += nr
    return [f"pipe {pipe} has lost {nr} writes" for pipe, nr in missing.items() if nr]
