"""Pause, continue and step: where the box stands, who is told, and that nothing changes by it."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.agents.control import Control, moment
from emulator.engine.board import HistoryBoard
from emulator.engine.inline import run_inline
from emulator.engine.plan import Plan
from emulator.engine.toys import LATENCIES, TICK_NS, Toy
from emulator.engine.windowbox import WindowBox
from emulator.types import NEVER

ME, OTHER = b"me", b"other"
END_NS = 4 * TICK_NS


class ToyWatch:
    """Looks for a kind of record of some nodes."""

    def __init__(self, nodes: Sequence[Toy], kind: int, recorders: Sequence[int]) -> None:
        self.recorders = recorders
        self._nodes, self._kind = [nodes[node] for node in recorders], kind
        self._done = [len(node.trace) for node in self._nodes]

    def look(self) -> tuple[int, str] | None:
        found = [
            record[0]
            for node, done in zip(self._nodes, self._done, strict=True)
            for record in node.trace[done:]
            if record[1] == self._kind
        ]
        self._done = [len(node.trace) for node in self._nodes]
        return (min(found), "found") if found else None


class Stepped:
    """A box of toys in windows, replies in an order chosen by a seed, that obeys a Control."""

    def __init__(self, busy: list[int], order: int = 0, *, paused: bool = True) -> None:
        spec = {"nr_cpus": len(busy), "nr_nodes": len(busy) + 2, "seed": 11, "busy": busy}
        self.plan = Plan(
            len(busy), ("sda",), END_NS, LATENCIES, "emulator.engine.toys:build_node", spec, ""
        )
        boards = [
            HistoryBoard(len(busy) + 2, keep_fresh=n != len(busy)) for n in range(len(busy) + 2)
        ]
        self.nodes = [self.plan.build(node, board) for node, board in enumerate(boards)]
        pick = Random(order).randrange
        self.box = WindowBox(self.nodes, len(busy), boards, LATENCIES, END_NS, pick)
        self.control = Control(self.box.core, self.watch, paused)
        self.go()

    def watch(self, words: Sequence[str]) -> ToyWatch:
        if not words[0].isdecimal():
            raise ValueError(f"{words[0]!r} is no event")
        recorders = [int(word) for word in words[1:]] or range(self.plan.nr_cpus)
        return ToyWatch(self.nodes, int(words[0]), recorders)  # type: ignore[arg-type]

    def tell(self, line: str, client: bytes = ME) -> str:
        """Give a command, let the box go as far as it may, and return the client's answer."""
        self.control.command(client, line.split())
        self.go()
        texts = [text for whom, text in self.control.answers if whom == client]
        self.control.answers = [item for item in self.control.answers if item[0] != client]
        assert len(texts) <= 1
        return texts[0] if texts else ""

    def go(self) -> None:
        """Let the box run to where it is to stand still."""
        while self.control.limit_ns < END_NS:
            self.box.run_to(self.control.limit_ns)
            if not self.control.at_rest():
                return

    def last_ns(self) -> Any:
        """Return when the last thing was done by any node."""
        return max(node.books()["trace"][-1][0] for node in self.nodes if node.books()["trace"])


def test_a_step_ends_at_its_nanosecond() -> None:
    stepped = Stepped([2, 1, 0])
    assert stepped.tell("step 300us") == "stands still at 0.000300000 s"
    assert stepped.tell("step to 1.5ms") == "stands still at 0.001500000 s"
    assert stepped.tell("step 1ns") == "stands still at 0.001500001 s"
    assert stepped.tell("pause") == "stands still at 0.001500001 s"
    assert stepped.last_ns() <= 1_500_000


@settings(max_examples=25, deadline=None)
@given(
    busy=st.lists(st.integers(0, 2), min_size=2, max_size=4),
    order=st.integers(0, 1 << 30),
    kinds=st.lists(st.sampled_from(("2", "3", "1 0", "1 1", "5 N")), min_size=1, max_size=3),
)
def test_a_step_until_an_event_stands_right_behind_it_and_changes_nothing(
    busy: list[int], order: int, kinds: list[str]
) -> None:
    stepped = Stepped(busy, order)
    whole = run_inline(stepped.plan)
    for kind in kinds:
        event, *of = kind.replace("N", str(len(busy))).split()
        recorders = [int(node) for node in of] or range(len(busy))
        before_ns = stepped.control.limit_ns
        expected = min(
            (
                record[0]
                for node in recorders
                for record in whole.books[node]["trace"]
                if record[1] == int(event) and record[0] >= before_ns
            ),
            default=NEVER,
        )
        answer = stepped.tell(f"step until {event} {' '.join(of)}")
        if expected >= END_NS - 1:
            assert answer.startswith("refused: no such event until the end of the run")
        else:
            assert answer == f"stands still at {moment(expected + 1)}\nfound"
            assert stepped.last_ns() == expected
    stepped.control.end()
    stepped.box.run()
    assert {node.node_id: node.books() for node in stepped.nodes} == whole.books


@pytest.mark.parametrize("order", range(3))
def test_by_long_steps_the_event_is_found_and_the_box_stands_a_step_behind_at_most(
    order: int,
) -> None:
    stepped = Stepped([2, 1, 2], order)
    whole = run_inline(stepped.plan)
    times = sorted(r[0] for node in range(3) for r in whole.books[node]["trace"] if r[1] == 2)
    stands_ns = 0
    for _ in range(3):
        first_ns = next(time_ns for time_ns in times if time_ns >= stands_ns)
        answer = stepped.tell("step until 2 by=300us")
        stands_ns = stepped.control.limit_ns
        assert answer == f"stands still at {moment(stands_ns)}\nfound"
        assert first_ns < stands_ns
        assert stepped.last_ns() < stands_ns
        assert stands_ns <= first_ns + 600_000  # a look before it may have been just too early
    stepped.control.end()
    stepped.box.run()
    assert {node.node_id: node.books() for node in stepped.nodes} == whole.books


def test_no_step_ends_the_run() -> None:
    stepped = Stepped([2, 1])
    assert stepped.tell("step 1h") == "stands still at 0.003999999 s"
    assert stepped.tell("step until 1") == (
        "refused: no such event until the end of the run; the box stands still at 0.003999999 s"
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("step", "it is step TIME, step to TIME, step until EVENT"),
        ("step until", "it is step TIME"),
        ("step to", "it is step TIME"),
        ("step soon", "'soon' is not a duration"),
        ("step to 100us", "the box has come to 0.000200000 s already"),
        ("step until doomsday", "'doomsday' is no event"),
        ("step until 2 by=soon", "'soon' is not a duration"),
        ("pause now", "pause stands alone"),
    ],
)
def test_what_is_odd_about_a_step_is_said_and_moves_nothing(line: str, problem: str) -> None:
    stepped = Stepped([2, 1])
    stepped.tell("step 200us")
    with pytest.raises(ValueError, match=problem):
        stepped.control.command(ME, line.split())
    assert stepped.control.standing
    assert stepped.control.limit_ns == 200_000


def test_a_pause_comes_behind_what_was_granted() -> None:
    stepped = Stepped([2, 1], paused=False)
    core = stepped.box.core
    for grant in core.grants():
        stepped.box._open.append(grant)
    assert stepped.tell("pause") == f"stands still at {moment(core.granted_ns)}"
    assert stepped.control.standing


def test_who_waits_for_a_step_is_told_when_somebody_else_decides() -> None:
    stepped = Stepped([2, 1], paused=False)
    stepped.control.command(OTHER, ["step", "until", "2"])
    assert stepped.tell("continue").startswith("goes on from")
    assert stepped.control.answers == [(OTHER, "error: somebody let the box go on")]
    stepped.control.answers.clear()
    assert stepped.tell("continue") == "refused: the box runs already"
    stepped.control.command(OTHER, ["step", "1ms"])
    stepped.control.end()
    assert stepped.control.answers == [(OTHER, "error: the run is over")]
    assert stepped.control.limit_ns == NEVER


def test_status_says_where_the_box_is() -> None:
    stepped = Stepped([2, 1])
    stepped.tell("step 200us")
    first, commands = stepped.control.status([], ["emucpu/0"]).splitlines()
    assert first.startswith("stands still at 0.000200000 s of 0.004000000 s; while it ran, at ")
    assert commands == "commands: none"
