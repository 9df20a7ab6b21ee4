"""Whoever can reach a box's sockets may send what they like: it is refused, and the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import zmq

from emulator import wire
from emulator.agents import frames, shapes
from emulator.agents.link import UNREAD_MAX, ask
from emulator.agents.supervisor import CONTROL, run_processes
from emulator.engine.inline import run_inline
from emulator.engine.plan import COORDINATOR_NAME, Plan
from emulator.engine.toys import LATENCIES, TICK_NS

pytestmark = [pytest.mark.box, pytest.mark.timeout(60)]

#: What strangers send: bytes, and frames that are not theirs to send.
GARBAGE: list[list[bytes]] = [
    [b""],
    [b"\xc1"],
    [b"GET / HTTP/1.1\r\n\r\n"],
    [b"", wire.pack([frames.COMMAND, wire.PROTOCOL, ["cpu", "count", "0"]])],
    [b"a", b"b", b"c"],
    [b"\x91" * 5000],
    [b"\xdd\xff\xff\xff\xff"],
    [b"x" * (shapes.CLIENT_BYTES_MAX + 1)],
    [wire.pack(None)],
    [wire.pack([])],
    [wire.pack([[frames.STOP]])],
    [wire.pack([frames.STOP])],
    [wire.pack([frames.QUIT])],
    [wire.pack([frames.WATCH, wire.PROTOCOL, wire.digest()])],
    [wire.pack([frames.KILLED, 0])],
    [wire.pack([frames.FAILED, "a stranger says so"])],
    [wire.pack([frames.HELLO, wire.PROTOCOL, wire.digest(), 0, 1, [], []])],
    [wire.pack([frames.REPLY, [], [], []])],
    [wire.pack([frames.COMMAND, wire.PROTOCOL])],
    [wire.pack([frames.COMMAND, wire.PROTOCOL, "cpu"])],
    [wire.pack([frames.COMMAND, wire.PROTOCOL, [1 << 70]])],
]

#: Names under which they come: none, one of an agent's successor, one that is no text.
IDENTITIES = [b"", b"emucpu/0.2", b"emusuper.2", b"\xff\xfe", b"\x01" * 255]


def plan(run_dir: Path, ticks: int) -> Plan:
    """Return a box of toys."""
    busy = [2, 1, 2]
    spec = {"nr_cpus": 3, "nr_nodes": 5, "seed": 5, "busy": busy}
    factory = "emulator.engine.toys:build_node"
    return Plan(3, ("sda",), ticks * TICK_NS, LATENCIES, factory, spec, str(run_dir))


class Strangers:
    """What is done to a run once it is under way, from the supervisor's own thread."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self.sent = 0
        self.answer = ""

    def on_progress(self, now_ns: int, waiting_for: str = "") -> bool:
        """Send everything once, and a command behind it."""
        if now_ns > 0 and not self.sent:
            address = (self._run_dir / CONTROL).read_text(encoding="utf-8").strip()
            with zmq.Context() as context:
                for identity in IDENTITIES:
                    self._send_all(context, address, identity)
                # Answered behind all that came before it.
                self.answer = ask(address, ["no", "such", "command"], 20_000)
        return True

    def _send_all(self, context: zmq.Context[zmq.Socket[bytes]], address: str, name: bytes) -> None:
        with context.socket(zmq.DEALER) as socket:
            if name:
                socket.set(zmq.IDENTITY, name)
            socket.set(zmq.LINGER, 5_000)
            socket.connect(address)
            for parts in GARBAGE:
                socket.send_multipart(parts)
                self.sent += 1


def test_garbage_from_strangers_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    strangers = Strangers(tmp_path)
    outcome = run_processes(plan(tmp_path, 60), strangers.on_progress)
    assert (outcome.status, outcome.error) == (0, "")
    assert strangers.answer.startswith("error: 'no such command' is not a command")
    assert outcome.books == run_inline(plan(tmp_path, 60)).books
    assert strangers.sent == len(GARBAGE) * len(IDENTITIES)
    assert outcome.agents[COORDINATOR_NAME]["refused_frames"] == strangers.sent
    log = (tmp_path / shapes.REFUSED_LOG).read_text(encoding="utf-8")
    assert log.count("\n") == strangers.sent
    assert r"\xff\xfe: 1 bytes refused: not msgpack" in log
    assert "emusuper.2: " in log
    assert "STOP is not sent by a client" in log


class Deaf:
    """A client that asks and asks, and never reads."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.RCVHWM, 1)
        self._socket.set(zmq.LINGER, 0)
        self.sent = 0
        self.status = ""

    def on_progress(self, now_ns: int, waiting_for: str = "") -> bool:
        """Ask for what is answered at length, as often as it fits, and how the box is."""
        if now_ns > 0 and not self.sent:
            address = (self._run_dir / CONTROL).read_text(encoding="utf-8").strip()
            self._socket.connect(address)
            for _ in range(5 * UNREAD_MAX):
                self._socket.send(wire.pack([frames.COMMAND, wire.PROTOCOL, ["x" * 40_000]]))
                self.sent += 1
            while "dropped" not in self.status:
                self.status = ask(address, ["status"], 20_000)
        return True

    def close(self) -> None:
        """Go away."""
        self._socket.close()
        self._context.term()


def test_what_a_client_never_reads_is_bounded_and_counted(tmp_path: Path) -> None:
    deaf = Deaf(tmp_path)
    try:
        outcome = run_processes(plan(tmp_path, 60), deaf.on_progress)
    finally:
        deaf.close()
    assert (outcome.status, outcome.error) == (0, "")
    assert "answers dropped: those who asked do not read" in deaf.status
    unread = outcome.agents[COORDINATOR_NAME]["unread_answers"]
    assert 0 < unread <= deaf.sent - UNREAD_MAX
    assert outcome.books == run_inline(plan(tmp_path, 60)).books
