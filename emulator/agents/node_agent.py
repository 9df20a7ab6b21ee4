"""The process of one emulated CPU or device: it carries a node and does what it is granted.

It builds its node, says HELLO with the node's first promise and publications, and then waits for
frames, one grant at a time.  If anything goes wrong here, the traceback is the last thing that it
sends.
"""

from __future__ import annotations

import os
import traceback
from typing import Any

from emulator import wire
from emulator.agents import frames, host, shapes
from emulator.agents.link import Link
from emulator.engine.board import HistoryBoard
from emulator.engine.node import Node
from emulator.engine.plan import Plan
from emulator.engine.seat import finish, run_grant, settle_in
from emulator.hosterrors import host_error

#: Exit status of an agent that ended by its own exception.
EXIT_FAILED = 1


def main(plan: Plan, node_id: int, hub_address: str, cpus: tuple[int, ...]) -> int:
    """Carry ``node_id`` until told to quit and return the exit status."""
    name = plan.name(node_id)
    host.set_comm(name)
    cpus = host.pin(cpus)
    link = Link(hub_address, name, 1)
    try:
        _serve(plan, node_id, link, cpus)
        return 0
    except Exception as error:
        link.send(wire.pack([frames.FAILED, traceback.format_exc(), host_error(error)]))
        return EXIT_FAILED
    finally:
        link.close()


def _serve(plan: Plan, node_id: int, link: Link, cpus: tuple[int, ...]) -> None:
    board = HistoryBoard(plan.nr_nodes, keep_fresh=True)
    node = plan.build(node_id, board)
    settle_in(node, plan.latencies)
    link.send(hello(node, board))
    board.started = True
    while True:
        frame = shapes.admit(link.receive(), shapes.COORDINATOR, sealed=False)
        if frame[0] == frames.GRANT:
            grant, floor_ns = frames.grant_of(node_id, frame)
            link.send(frames.pack_reply(run_grant(node, board, grant, floor_ns)))
        elif frame[0] == frames.QUIT:
            return
        else:
            link.send(wire.pack(_answer(frame, node, board, cpus)))


def hello(node: Node, board: HistoryBoard) -> bytes:
    """Return the HELLO frame of a node that has just been built."""
    return wire.pack(
        [
            frames.HELLO,
            wire.PROTOCOL,
            wire.digest(),
            node.node_id,
            os.getpid(),
            frames.promise_items(node.promise()),
            board.take_fresh(),
        ]
    )


def _answer(frame: list[Any], node: Node, board: HistoryBoard, cpus: tuple[int, ...]) -> list[Any]:
    if frame[0] == frames.FINISH:
        finish(node, board, frames.grant_of(node.node_id, frame)[0])
        return [frames.BOOKS, node.books(), host.usage(cpus)]
    assert frame[0] == frames.SNAPSHOT, frame
    return [frames.STATE, node.snapshot()]
