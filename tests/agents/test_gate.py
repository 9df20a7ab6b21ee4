"""Clients on other machines: over TCP with the key of the run, and nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from emulator import wire
from emulator.agents import frames, shapes
from emulator.agents.gate import Gate, GateError, listen_problem
from emulator.agents.keys import CLIENT_KEY, ClientKey, KeyFileError
from emulator.agents.link import LinkError, ask
from emulator.agents.supervisor import run_processes
from emulator.attach import AttachError, send_remote
from emulator.engine.inline import RunOutcome
from emulator.engine.plan import COORDINATOR_NAME, Plan
from emulator.engine.toys import LATENCIES

pytestmark = [pytest.mark.box, pytest.mark.timeout(60)]

#: A run that ends when it has been visited.
FOREVER_NS = 1 << 50

#: How long a test waits for an answer that it does not expect.
SILENCE_MS = 400


def plan(run_dir: Path, listen: str) -> Plan:
    """Return a box of toys that listens."""
    spec = {"nr_cpus": 2, "nr_nodes": 4, "seed": 5, "busy": [2, 1]}
    factory = "emulator.engine.toys:build_node"
    return Plan(2, ("sda",), FOREVER_NS, LATENCIES, factory, spec, str(run_dir), listen=listen)


class Visited:
    """A box that listens and is visited once, when it is under way."""

    def __init__(self, run_dir: Path, visit: Callable[[ClientKey], None]) -> None:
        self._run_dir, self._visit = run_dir, visit
        self.visits = 0

    def run(self) -> RunOutcome:
        """Run it and return how it ended."""
        outcome = run_processes(plan(self._run_dir, "tcp://127.0.0.1:*"), self.on_progress)
        assert self.visits == 1
        return outcome

    def on_progress(self, now_ns: int, waiting_for: str = "") -> bool:
        """Visit it, from the supervisor's own thread."""
        if now_ns > 0 and not self.visits:
            self.visits += 1
            self._visit(ClientKey.read(self._run_dir / CLIENT_KEY))
        return not self.visits


def test_a_client_with_the_key_commands_the_box_and_observes_it(tmp_path: Path) -> None:
    told: dict[str, Any] = {}

    def visit(key: ClientKey) -> None:
        with zmq.Context() as context, with_key(context, zmq.SUB, key) as observer:
            observer.set(zmq.SUBSCRIBE, b"")
            observer.connect(key.observers)
            told["answer"] = ask(key.control, ["cpu", "count", "1"], 20_000, key=key)
            told["odd"] = ask(key.control, ["no", "such"], 20_000, key=key)
            observer.set(zmq.RCVTIMEO, 20_000)
            told["progress"] = wire.unpack(observer.recv())

    outcome = Visited(tmp_path, visit).run()
    assert (outcome.status, outcome.error) == (0, "")
    assert told["answer"] == "ok"
    assert told["odd"].startswith("error: 'no such' is not a command")
    assert told["progress"][0] == frames.PROGRESS
    assert [words for _, words, _ in outcome.commands] == [["cpu", "count", "1"]]
    assert outcome.agents[COORDINATOR_NAME]["refused_frames"] == 0


def test_whoever_has_no_key_or_another_is_refused_and_counted(tmp_path: Path) -> None:
    def visit(key: ClientKey) -> None:
        public, secret = (text.decode() for text in zmq.curve_keypair())
        stranger = replace(key, public_key=public, secret_key=secret)
        elsewhere = replace(key, server_key=public)
        for who in (stranger, elsewhere, None):
            with pytest.raises(LinkError, match="no answer"):
                ask(key.control, ["cpu", "count", "1"], SILENCE_MS, key=who)
        assert ask(key.control, ["cpu", "count", "1"], 20_000, key=key) == "ok"

    outcome = Visited(tmp_path, visit).run()
    assert outcome.status == 0
    assert len(outcome.commands) == 1
    assert outcome.agents[COORDINATOR_NAME]["refused_frames"] >= 1
    log = (tmp_path / shapes.REFUSED_LOG).read_text(encoding="utf-8")
    assert "tcp 127.0.0.1: 0 bytes refused: its key is not this run's" in log


def test_what_is_no_command_does_not_pass_the_gate(tmp_path: Path) -> None:
    garbage = [[b""], [b"\xc1"], [b"a", b"b"], [wire.pack([frames.STOP])], [b"x" * 5000]]

    def visit(key: ClientKey) -> None:
        with zmq.Context() as context, with_key(context, zmq.DEALER, key) as client:
            client.connect(key.control)
            for parts in garbage:
                client.send_multipart(parts)
            client.send(wire.pack([frames.COMMAND, wire.PROTOCOL, ["cpu", "count", "0"]]))
            client.set(zmq.RCVTIMEO, 20_000)
            assert wire.unpack(client.recv())[1] == "ok"
        with zmq.Context() as context, with_key(context, zmq.DEALER, key) as client:
            client.connect(key.control)
            client.send(b"x" * (shapes.CLIENT_BYTES_MAX + 1))  # ends this connection, no more
            assert not client.poll(SILENCE_MS)

    outcome = Visited(tmp_path, visit).run()
    assert (outcome.status, outcome.error) == (0, "")
    assert outcome.agents[COORDINATOR_NAME]["refused_frames"] == len(garbage)
    assert [words for _, words, _ in outcome.commands] == [["cpu", "count", "0"]]


def test_the_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    gate = Gate("tcp://127.0.0.1:*", "ipc:///tmp/none", "ipc:///tmp/none2", str(tmp_path))
    try:
        file = tmp_path / CLIENT_KEY
        assert file.stat().st_mode & 0o777 == 0o600
        secrets = json.loads(file.read_text(encoding="utf-8"))
        assert gate._server_secret.decode() not in secrets.values()
        taken = ClientKey.read(file).control
        with pytest.raises(GateError, match="cannot listen at"):
            Gate(taken, "ipc:///tmp/none", "ipc:///tmp/none2", str(tmp_path))
    finally:
        gate.close()


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("tcp://127.0.0.1:5555", ""),
        ("tcp://*:5555", ""),
        ("host:5555", ""),
        ("tcp://[::1]:*", ""),
        ("ipc:///tmp/x", "not HOST:PORT"),
        ("tcp://5555", "not HOST:PORT"),
        ("tcp://host:", "the port is 1 to 65534"),
        ("tcp://host:65535", "the port is 1 to 65534"),
        ("tcp://host:²", "the port is 1 to 65534"),
    ],
)
def test_where_a_box_may_listen(address: str, problem: str) -> None:
    found = listen_problem(address)
    assert problem in found
    assert bool(found) == bool(problem)


def test_without_curve_a_box_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda _what: False)
    assert "without it the box does not listen on TCP" in listen_problem("tcp://host:5555")


def test_a_client_without_a_good_key_file_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(AttachError, match="with a key alone: --key FILE"):
        send_remote("tcp://127.0.0.1:9", ("status",), None)
    file = tmp_path / "x.key"
    for text in (None, "", "[]", "{}", '{"control": 1}', "\x00"):
        if text is not None:
            file.write_text(text, encoding="utf-8")
        with pytest.raises(KeyFileError, match=r"x\.key is not the client\.key of a run"):
            ClientKey.read(file)
    ClientKey("a", "b", "c", "d", "e").write(tmp_path / "y.key")
    with pytest.raises(AttachError, match="no key of CURVE"):
        send_remote("tcp://127.0.0.1:9", ("status",), tmp_path / "y.key")


def with_key(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, key: ClientKey
) -> zmq.Socket[bytes]:
    """Return a client's socket that has a key and is not connected yet."""
    socket = context.socket(kind)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.CURVE_SERVERKEY, key.server_key.encode())
    socket.set(zmq.CURVE_PUBLICKEY, key.public_key.encode())
    socket.set(zmq.CURVE_SECRETKEY, key.secret_key.encode())
    return socket
