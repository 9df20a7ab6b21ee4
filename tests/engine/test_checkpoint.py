"""A box goes on from a checkpoint, and a node from its log, as if nothing had been."""

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import wire
from emulator.engine.board import HistoryBoard
from emulator.engine.checkpoint import Checkpoint, CheckpointError, NodeLog, checksum
from emulator.engine.commands import Commands
from emulator.engine.inline import run_inline
from emulator.engine.node import Node
from emulator.engine.plan import Plan
from emulator.engine.seat import take_over, take_state
from emulator.engine.toys import TICK_NS
from emulator.engine.windowbox import WindowBox
from tests.engine.test_windows import toy_plan


def boards_of(plan: Plan) -> list[HistoryBoard]:
    """Return a board per node; the balancer's collects nothing, being the coordinator's."""
    return [
        HistoryBoard(plan.nr_nodes, keep_fresh=node != plan.nr_cpus)
        for node in range(plan.nr_nodes)
    ]


def window_box(plan: Plan, order: int) -> tuple[WindowBox, list[Node], list[HistoryBoard]]:
    boards = boards_of(plan)
    nodes = [plan.build(node, boards[node]) for node in range(plan.nr_nodes)]
    pick = Random(order).randrange
    box = WindowBox(nodes, plan.nr_cpus, boards, plan.latencies, plan.until_ns, pick)
    return box, nodes, boards


def checkpoint_of(
    plan: Plan, box: WindowBox, nodes: list[Node], boards: list[HistoryBoard]
) -> bytes:
    """Return the checkpoint of a box that stands still, as bytes."""
    states = {
        node.node_id: take_state(node, None if node.node_id == plan.nr_cpus else board)
        for node, board in zip(nodes, boards, strict=True)
    }
    core = box.core
    at_ns, commands = core.floor_ns(), Commands()
    return Checkpoint(at_ns, core.pack(), commands.pack(), states, [plan.nr_cpus]).pack()


def resumed(plan: Plan, data: bytes, order: int) -> dict[int, dict[str, Any]]:
    """Return the books of a box that went on from a checkpoint to its end."""
    checkpoint = Checkpoint.unpack(data)
    box, nodes, boards = window_box(plan, order)
    box.core.unpack(checkpoint.windows)
    for node, board in zip(nodes, boards, strict=True):
        own = None if node.node_id == plan.nr_cpus else board
        take_over(node, own, checkpoint.states[node.node_id])
    box.run()
    return {node.node_id: node.books() for node in nodes}


@settings(max_examples=15, deadline=None)
@given(
    busy=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    orders=st.tuples(st.integers(0, 1 << 30), st.integers(0, 1 << 30)),
    at_ns=st.integers(1, 3 * TICK_NS - 1),
)
def test_a_box_goes_on_from_a_checkpoint_to_the_end_that_it_would_have_had(
    busy: list[int], orders: tuple[int, int], at_ns: int
) -> None:
    plan = toy_plan(busy, 23, 3 * TICK_NS)
    box, nodes, boards = window_box(plan, orders[0])
    box.run_to(at_ns)
    data = checkpoint_of(plan, box, nodes, boards)
    assert resumed(plan, data, orders[1]) == run_inline(plan).books


def test_a_checkpoint_is_exact() -> None:
    plan = toy_plan([2, 1, 2], 5, 3 * TICK_NS)
    box, nodes, boards = window_box(plan, 1)
    box.run_to(TICK_NS)
    data = checkpoint_of(plan, box, nodes, boards)
    again = Checkpoint.unpack(data)
    assert again.at_ns == TICK_NS
    assert again.pack() == data


@pytest.mark.parametrize(
    "data",
    [b"", b"\x00", b"\x93\x01\x02\x03", wire.pack([999, wire.PROTOCOL, wire.digest(), 0, 0])],
)
def test_what_is_no_checkpoint_is_said_so(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        Checkpoint.unpack(data)


def test_a_log_knows_what_is_not_answered() -> None:
    log = NodeLog()
    log.told(b"one")
    log.told(b"two")
    log.answered(b"answer")
    assert log.computing
    assert (log.nr_bytes, log.answers) == (6, [checksum(b"answer")])
    with pytest.raises(AssertionError):
        log.cut(b"state")
    log.answered(b"another")
    with pytest.raises(AssertionError):
        log.answered(b"a third")
    log.cut(b"state")
    assert (log.state, log.frames, log.answers, log.nr_bytes) == (b"state", [], [], 0)


def test_commands_that_a_checkpoint_does_not_know_are_found() -> None:
    commands = Commands()
    commands.give(5, [0], ["cpu", "load", 0])
    commands.give(5, [1], ["cpu", "load", 1], b"client")
    commands.give(5, [1], ["cpu", "load", 1])
    again = Commands()
    again.unpack(wire.unpack(wire.pack(commands.pack())))
    assert again.record(100) == commands.record(100)
    load_1 = ["cpu", "load", "1"]
    record: list[tuple[int, list[Any]]] = [(5, load_1), (5, load_1), (5, load_1), (7, load_1)]
    assert again.unknown(record) == [(5, load_1), (7, load_1)]
    assert [pending.client for pending in again.unanswered()] == [b"", b"", b""]
