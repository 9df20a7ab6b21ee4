"""The box in one process: all nodes in plain time order.  The reference for every other engine.

Theory of operation
-------------------
The node with the earliest event runs until the earliest event of any other, or until the effect
of a message that it sends, whichever comes first; so the events of all nodes happen in one order
of time.  At equal times the balancer is first, then the nodes by id, except that a node which must
answer the balancer within the instant (DETACH) goes before all.  As most events in a stretch of
time belong to one busy CPU, a node mostly runs long, and a change of node costs two scans of a
short list.

``strict`` gives each node a board of its own and packs and unpacks every message and publication,
as if the nodes were processes: what is not plain data, or is shared by accident, shows.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from emulator import messages, wire
from emulator.engine.board import HistoryBoard
from emulator.engine.commands import Commands, has_taken_down
from emulator.engine.conservation import ConservationError, Ledger, audit_books, pids_owned
from emulator.engine.node import TO_BALANCER, Latencies, Node
from emulator.engine.plan import Plan
from emulator.hosterrors import host_error
from emulator.latency import ANSWERED_AT_ONCE, COORDINATOR, class_of
from emulator.types import NEVER, NSEC_PER_MSEC, Message

#: Emulated time between two calls of ``on_progress``.
PROGRESS_NS = 20 * NSEC_PER_MSEC

#: (time reached) -> go on?  False ends the run there, cleanly.
OnProgress = Callable[[int], bool]


@dataclass(slots=True)
class RunOutcome:
    """How a run ended: 0 and the books, or 1 (a bug) or 2 (an operating error) and why."""

    status: int = 0
    reached_ns: int = 0
    books: dict[int, dict[str, Any]] = field(default_factory=dict)  #: by node id
    windows: int = 0  #: turns of a node inline, grants between processes
    messages: int = 0
    wire_bytes: int = 0
    error: str = ""
    #: (time, words, answer) of every command that was carried out.
    commands: list[tuple[int, list[Any], Any]] = field(default_factory=list)
    #: Per agent name: host CPU, real CPU seconds, involuntary switches.
    agents: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Processes that died unasked, and what came of each.
    faults: list[dict[str, Any]] = field(default_factory=list)


def run_inline(
    plan: Plan, on_progress: OnProgress | None = None, *, strict: bool = False
) -> RunOutcome:
    """Build and run a box in this process, and return how it ended.

    A node's own failure is status 1 with its traceback; ``on_progress`` may end the run.
    """
    return run_box(plan, InlineBox, on_progress, strict=strict)


def run_box(
    plan: Plan,
    make_box: Callable[[list[Node], int, list[HistoryBoard], Latencies], InlineBox],
    on_progress: OnProgress | None,
    *,
    strict: bool = False,
) -> RunOutcome:
    """Build the nodes of a plan, run them in the engine that ``make_box`` makes."""
    outcome = RunOutcome()
    try:
        box = make_box(*_build(plan, strict), plan.latencies)
        _run_plan(box, plan, on_progress, outcome)
    except Exception as error:
        # The host's doing; or a node's own failure or a broken invariant, reported like an agent's.
        outcome.error = host_error(error)
        outcome.status = 2 if outcome.error else 1
        outcome.error = outcome.error or traceback.format_exc()
    return outcome


def _build(plan: Plan, strict: bool) -> tuple[list[Node], int, list[HistoryBoard]]:
    nr_boards = plan.nr_nodes if strict else 1
    boards = [HistoryBoard(plan.nr_nodes, keep_fresh=strict) for _ in range(nr_boards)]
    nodes = [plan.build(n, boards[n if strict else 0]) for n in range(plan.nr_nodes)]
    return nodes, plan.nr_cpus, boards


def _run_plan(
    box: InlineBox, plan: Plan, on_progress: OnProgress | None, outcome: RunOutcome
) -> None:
    commands = Commands()
    for message in commands.give_timed(plan.commands):
        box.post(message)
    try:
        outcome.reached_ns = box.run(plan.until_ns, on_progress)
        outcome.books = box.check()
    finally:
        outcome.reached_ns = outcome.reached_ns or box.reached_ns()
        for message in box.answers:
            if message[4] == messages.COMMAND_DONE:
                commands.settle(message)
        outcome.commands = commands.record(box.reached_ns())
        outcome.windows, outcome.messages = box.turns, box.messages


class InlineBox:
    """All nodes of a box, advanced in one process.

    ``nodes`` are in order of id; ``boards`` is what they publish on, one shared board or, for
    ``strict``, one per node that keeps fresh publications.
    """

    __slots__ = (
        "_boards",
        "_coherence_ns",
        "_fault",
        "_nodes",
        "_position",
        "_shared",
        "_strict",
        "_times",
        "_urgent",
        "answers",
        "ledger",
        "messages",
        "now_ns",
        "turns",
    )

    def __init__(
        self,
        nodes: Sequence[Node],
        nr_cpus: int,
        boards: Sequence[HistoryBoard],
        latencies: Latencies,
    ) -> None:
        assert [node.node_id for node in nodes] == list(range(len(nodes)))
        self._strict = len(boards) > 1
        assert not self._strict or len(boards) == len(nodes)
        # In order of rank: the balancer, then by id.  A position in this list is a node's rank.
        self._nodes = sorted(nodes, key=lambda n: class_of(n.node_id, nr_cpus) != TO_BALANCER)
        self._position = {node.node_id: i for i, node in enumerate(self._nodes)}
        self._times = [NEVER] * len(nodes)
        self._boards = list(boards)
        self._shared = boards[0]
        self._coherence_ns = latencies.coherence_ns
        self._fault = False  # a CPU has gone offline since the last turn
        self._urgent = -1  # position of the node that owes an answer within this instant
        self.ledger = Ledger()
        self.answers: list[Message] = []  #: what nodes told the coordinator
        self.messages = 0
        self.turns = 0
        self.now_ns = 0
        self._start()

    def post(self, message: Message) -> None:
        """Give a node a message from outside: a command."""
        self._hand_over(message)

    def run(self, until_ns: int, on_progress: OnProgress | None = None) -> int:
        """Process every event earlier than ``until_ns`` and return the time reached.

        That is ``until_ns``, or less if ``on_progress`` said to stop.
        """
        step = PROGRESS_NS if on_progress is not None else NEVER
        while self.now_ns < until_ns:
            pause = min(until_ns, (self.now_ns // step + 1) * step)
            self._run_to(pause)
            self.now_ns = pause
            if on_progress is not None and not on_progress(pause):
                break
        self._settle()
        return self.now_ns

    def books(self) -> dict[int, dict[str, Any]]:
        """Return every node's books by id."""
        return {node.node_id: node.books() for node in self._by_id()}

    def check(self) -> dict[int, dict[str, Any]]:
        """Audit the books and return them; raise ConservationError on a difference."""
        books = self.books()
        problems = audit_books(books) + self.ledger.audit(pids_owned(books), self.now_ns)
        if problems:
            raise ConservationError("\n".join(problems))
        return books

    def reached_ns(self) -> int:
        """Return the time before which all is done, also where a run broke off."""
        return max(self.now_ns, min(node.next_event_ns() for node in self._nodes))

    # -- helpers, in call order ------------------------------------------------------------------

    def _start(self) -> None:
        # What was published while building is known to all before the first event.
        for publisher, _ in enumerate(self._boards):
            self._share_fresh(publisher)
        for board in self._boards:
            board.started = True
        for position, node in enumerate(self._nodes):
            self._collect(node)
            self._times[position] = node.next_event_ns()

    def _run_to(self, pause_ns: int) -> None:
        times, nodes = self._times, self._nodes
        while True:
            position = self._urgent
            if position < 0:
                now = min(times)
                position = times.index(now)
                if now >= pause_ns:
                    return
            else:
                now = times[position]
            times[position] = NEVER
            bound = min(times)
            # At a tie the lower rank is first: then this node's events at that time come before.
            if bound < pause_ns:
                if position < times.index(bound) or position == self._urgent:
                    bound += 1
            else:
                bound = pause_ns
            self._urgent = -1
            node = nodes[position]
            self._turn(node, now, bound)
            times[position] = node.next_event_ns()

    def _turn(self, node: Node, now_ns: int, bound_ns: int) -> None:
        self.turns += 1
        floor = now_ns - self._coherence_ns
        self._shared.floor_ns = floor
        node.advance(bound_ns, NEVER)
        if self._strict:
            for board in self._boards:
                board.floor_ns = floor
            self._share_fresh(node.node_id)
        if node.outbox:
            self._collect(node)
        if self._fault and self._urgent < 0:
            self._fault = False
            self._check_fault()

    def _check_fault(self) -> None:
        # All messages are handed over, so the books add up between any two turns.
        problems = audit_books(self.books())
        if problems:
            raise ConservationError("\n".join(problems))

    def _collect(self, node: Node) -> None:
        # Nodes may keep a reference to their outbox: it is emptied, not replaced.
        outbox = node.outbox
        for message in outbox:
            self.messages += 1
            self.ledger.sent(message)
            if message[3] == COORDINATOR:
                self.answers.append(message)
                self._fault |= message[4] == messages.COMMAND_DONE and has_taken_down(message)
            else:
                self._hand_over(message)
        outbox.clear()

    def _hand_over(self, message: Message) -> None:
        if self._strict:
            message = messages.message_from_list(wire.unpack(wire.pack(message)))
        self.ledger.handed_over(message)
        position = self._position[message[3]]
        node = self._nodes[position]
        node.deliver(message)
        self._times[position] = node.next_event_ns()
        if message[4] in ANSWERED_AT_ONCE:
            self._urgent = position

    def _share_fresh(self, publisher: int) -> None:
        if not self._strict:
            return
        fresh = self._boards[publisher].take_fresh()
        if fresh:
            _absorb_all(self._boards, publisher, wire.unpack(wire.pack(fresh)))

    def _settle(self) -> None:
        # Every node ends at the same time, with all its mail, as in the other engines.
        for node in self._nodes:
            node.advance(self.now_ns, NEVER)

    def _by_id(self) -> Iterable[Node]:
        return sorted(self._nodes, key=lambda node: node.node_id)


def _absorb_all(boards: Sequence[HistoryBoard], publisher: int, entries: list[Any]) -> None:
    publications = [(time_ns, tuple(facts)) for time_ns, facts in entries]
    for reader, board in enumerate(boards):
        if reader != publisher:
            board.absorb(publisher, publications)
