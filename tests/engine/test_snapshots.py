"""A snapshot is the whole of a node: a box whose nodes are replaced all the time notices nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from emulator import wire
from emulator.boxfile.route import route
from emulator.build import latencies, node_of, shared_node
from emulator.config import load_box
from emulator.engine.board import HistoryBoard
from emulator.engine.commands import Commands
from emulator.engine.inline import InlineBox
from emulator.engine.node import Node
from emulator.engine.turns import TurnsBox
from emulator.plain import spec_to_plain
from emulator.trace.ring import MemoryRing
from emulator.types import NSEC_PER_MSEC, BoxEvent, BoxSpec

HOTPLUG = (
    BoxEvent(5_000_000, "cpu load 2 --percent 80"),
    BoxEvent(8_000_000, "cpu offline of:fio"),
    BoxEvent(14_500_000, "sysctl kernel.sched_wakeup_granularity_ns=4000000"),
    BoxEvent(16_000_000, "cpu kill of:fio"),
    BoxEvent(21_000_000, "cpu online 1"),
    BoxEvent(22_000_000, "cpu offline 2"),
    BoxEvent(26_000_000, "cpu online 2"),
)


class Restored:
    """A box in one process whose nodes can be replaced by what their snapshots describe."""

    def __init__(self, spec: BoxSpec) -> None:
        self.spec = spec
        nr_cpus = spec.machine.nr_cpus
        self.nr_nodes = nr_cpus + 1 + len(spec.disks) + (shared_node(spec) >= 0)
        self.board = HistoryBoard(self.nr_nodes)
        self.rings = [MemoryRing(f"node{node}", node) for node in range(self.nr_nodes)]
        nodes = [self.build(node) for node in range(self.nr_nodes)]
        make = TurnsBox if spec.machine.take_turns else InlineBox
        self.box = make(nodes, nr_cpus, [self.board], latencies(spec))
        plain = spec_to_plain(spec)
        timed = [
            (event.at_ns, target, list(event.do.split()))
            for event in spec.events
            for target in route(event.do.split(), plain)
        ]
        for message in Commands().give_timed(timed):
            self.box.post(message)

    def build(self, node_id: int) -> Node:
        """Build a node on its ring."""
        return node_of(self.spec, node_id, self.board, self.rings[node_id])

    def run(self, end_ns: int, step_ns: int, between: Callable[[], None]) -> list[bytes]:
        """Run with a pause every ``step_ns`` and return the rings."""
        for pause in range(step_ns, end_ns + 1, step_ns):
            self.box._run_to(pause)
            self.box.now_ns = pause
            between()
        self.box.check()
        return [ring.image() for ring in self.rings]

    def replace_all(self) -> None:
        """Put every node's restored copy in its place."""
        for node_id in range(self.nr_nodes):
            self.replace(node_id)

    def replace(self, node_id: int) -> None:
        """Put a node's restored copy in its place, its ring taken back to where it was."""
        box, ring = self.box, self.rings[node_id]
        place = box._position[node_id]
        state = wire.pack(box._nodes[place].snapshot())
        position = ring.position
        ring.emit(0, 1, 0, 0, 0, 7)
        ring.intern("written by a node that is dead now")
        ring.truncate_to(position)
        self.board.muted = True
        node = self.build(node_id)
        self.board.muted = False
        node.restore(wire.unpack(state))
        assert wire.pack(node.snapshot()) == state
        box._nodes[place] = node
        box._times[place] = node.next_event_ns()
        if isinstance(box, TurnsBox):
            nodes: list[Any] = sorted(box._nodes, key=lambda one: one.node_id)
            nr_cpus = self.spec.machine.nr_cpus
            box._cpus = nodes[:nr_cpus]


def nothing() -> None:
    """Leave the box alone."""


def spec_of(box: str, events: tuple[BoxEvent, ...] = (), *settings: str) -> BoxSpec:
    return replace(load_box(box, settings).resolve(), events=events, warmup_ns=0)


UNBOUND = "kernel.workqueue.unbound=[dio]"
DELAYED = "kernel.policies=[delayed-wake-list]"


@pytest.mark.parametrize(
    ("box", "events", "end_ms", "settings"),
    [
        ("xfs-aio-4k-default", (), 30, ()),
        ("xfs-aio-4k-tuned", (), 30, ()),
        ("xfs-aio-512", (), 15, ()),
        ("xfs-aio-4k-tuned", HOTPLUG, 30, ()),
        ("xfs-aio-4k-tuned", HOTPLUG, 30, (DELAYED,)),
        ("oracle/W30", (), 60, ()),
        ("xfs-aio-512", HOTPLUG, 30, (UNBOUND,)),
    ],
    ids=["default", "tuned", "512", "hotplug", "delayed_wakes", "take_turns", "unbound"],
)
def test_a_box_whose_nodes_are_replaced_leaves_the_same_rings(
    box: str, events: tuple[BoxEvent, ...], end_ms: int, settings: tuple[str, ...]
) -> None:
    spec = spec_of(box, events, *settings)
    end_ns = end_ms * NSEC_PER_MSEC
    step_ns = end_ns // 250 + 137
    undisturbed = Restored(spec).run(end_ns, step_ns, nothing)
    disturbed = Restored(spec)
    assert disturbed.run(end_ns, step_ns, disturbed.replace_all) == undisturbed
    assert sum(map(len, undisturbed)) > 0
