"""The gate: how clients on other machines reach a box, over TCP and with keys alone.

Theory of operation
-------------------
``run --listen HOST:PORT`` opens two sockets: clients give commands at PORT, observers are told
at the next one how far the run is.  Both speak CURVE and nothing else: what passes is encrypted, a
client knows that it speaks to this box, and the box knows the client.  Keys are made for each run.
The box's secret never leaves this process; what a client needs is in ``client.key`` of the run
directory, 0600: who may read that file may command the box.  A handler of ZeroMQ's authentication
protocol (ZAP) admits that one key, and counts the others.

The gate is a thread of the process that runs the box, which otherwise waits; no client can keep the
coordinator from its work.  A frame that is no client's is refused here.  A command goes on to the
coordinator over a connection of the client's own, as if the client were on this machine, and that is
closed with its last answer.

Beside :mod:`emulator.agents.link` this is the only file that imports zmq.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, cast

import zmq
from zmq.utils import z85

from emulator import wire
from emulator.agents import frames, shapes
from emulator.agents.keys import CLIENT_KEY, TCP, ClientKey, with_scheme
from emulator.agents.link import peer_name
from emulator.agents.shapes import CLIENT, CLIENT_BYTES_MAX, Refusals
from emulator.engine.plan import COORDINATOR_NAME
from emulator.hosterrors import UnavailableError

#: Commands under way from all clients of the gate, at most; further ones are refused.
GATE_PENDING_MAX = 64

#: Frames that may wait for a client that does not read, or be on their way in; more are dropped.
GATE_QUEUE_MAX = 100

#: How long a client may take to say who it is.
HANDSHAKE_MS = 5_000

#: How long the gate may take to open and to close.
GATE_S = 5.0

_STOP = "inproc://stop"
_ZAP = "inproc://zeromq.zap.01"
_ZAP_DOMAIN = b"smpbox"

Socket = zmq.Socket[bytes]


class GateError(UnavailableError):
    """The gate cannot be opened; the text says why."""


def listen_problem(listen: str) -> str:
    """Return what is odd about an address to listen at, or ""."""
    address = with_scheme(listen)
    host, _, port = address.removeprefix(TCP).rpartition(":")
    if not address.startswith(TCP) or not host:
        return f"{address!r} is not HOST:PORT"
    if port != "*" and not (port.isascii() and port.isdigit() and 0 < int(port) < 65535):
        return f"{address!r}: the port is 1 to 65534, and the next one is the observers'"
    if not zmq.has("curve"):
        return "this libzmq has no CURVE (libsodium), and without it the box does not listen on TCP"
    return ""


class Gate:
    """The sockets for clients on other machines, and the thread that serves them."""

    __slots__ = (
        "_context",
        "_control",
        "_hub_address",
        "_key",
        "_observers",
        "_pending",
        "_progress",
        "_refusals",
        "_server_secret",
        "_stop",
        "_thread",
        "_zap",
    )

    def __init__(self, listen: str, hub_address: str, observer_address: str, run_dir: str) -> None:
        """Listen, and write ``client.key`` into the run directory; raise GateError."""
        problem = listen_problem(listen)
        if problem:
            raise GateError(problem)
        listen = with_scheme(listen)
        self._hub_address = hub_address
        self._refusals = Refusals(run_dir)
        self._pending: dict[Socket, bytes] = {}  # connection to the coordinator → client
        server_public, self._server_secret = zmq.curve_keypair()
        public, secret = zmq.curve_keypair()
        self._context: zmq.Context[Socket] = zmq.Context()
        try:
            # First of all: without a handler of ZAP every key would be admitted.
            self._zap = self._context.socket(zmq.REP)
            self._zap.bind(_ZAP)
            self._control = self._listening(zmq.ROUTER, listen)
            self._observers = self._listening(zmq.PUB, _next_port(listen))
        except zmq.ZMQError as error:
            self._context.destroy(0)
            raise GateError(f"cannot listen at {listen}: {error}") from error
        self._progress = self._context.socket(zmq.SUB)
        self._progress.set(zmq.SUBSCRIBE, b"")
        self._progress.connect(observer_address)
        self._stop = self._context.socket(zmq.PAIR)
        self._stop.bind(_STOP)
        self._key = ClientKey(
            _endpoint(self._control),
            _endpoint(self._observers),
            server_public.decode(),
            public.decode(),
            secret.decode(),
        )
        self._key.write(Path(run_dir) / CLIENT_KEY)
        self._thread = threading.Thread(target=self._serve, name="gate", daemon=True)
        self._thread.start()

    def tell_refused(self, agents: dict[str, dict[str, Any]]) -> None:
        """Add to the coordinator's facts how many frames and keys were refused here."""
        facts = agents.setdefault(COORDINATOR_NAME, {})
        facts["refused_frames"] = facts.get("refused_frames", 0) + self._refusals.count

    def close(self) -> None:
        """Take no more commands, and give up the sockets."""
        with self._context.socket(zmq.PAIR) as bell:
            bell.connect(_STOP)
            bell.send(b"")
            self._thread.join(GATE_S)
        self._context.destroy(0)

    def _listening(self, kind: int, address: str) -> Socket:
        socket = self._context.socket(kind)
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, self._server_secret)
        socket.set(zmq.ZAP_DOMAIN, _ZAP_DOMAIN)
        socket.set(zmq.MAXMSGSIZE, CLIENT_BYTES_MAX)
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        socket.set(zmq.SNDHWM, GATE_QUEUE_MAX)
        socket.set(zmq.RCVHWM, GATE_QUEUE_MAX)
        socket.set(zmq.LINGER, 0)
        socket.bind(address)
        return socket

    # -- the thread ------------------------------------------------------------------------------

    def _serve(self) -> None:
        always: dict[Any, Any] = {
            self._zap: self._admit,
            self._control: self._take_command,
            self._progress: self._pass_on,
        }
        while True:
            poller = zmq.Poller()
            for socket in (self._stop, *always, *self._pending):
                poller.register(socket, zmq.POLLIN)
            for socket, _ in poller.poll():
                if socket is self._stop:
                    return
                if socket in always:
                    always[socket]()
                else:
                    self._take_answer(socket)

    def _admit(self) -> None:
        # ZAP: version, request id, domain, address, identity, mechanism, the client's public key.
        request = self._zap.recv_multipart()
        key = request[6] if len(request) == 7 and request[5] == b"CURVE" else b""
        known = len(key) == 32 and z85.encode(key).decode() == self._key.public_key
        if not known:
            self._refusals.note(f"tcp {peer_name(request[3])}", 0, "its key is not this run's")
        status, text = (b"200", b"OK") if known else (b"400", b"unknown key")
        self._zap.send_multipart([b"1.0", request[1], status, text, b"", b""])

    def _take_command(self) -> None:
        client, *parts = self._control.recv_multipart()
        data = parts[0] if len(parts) == 1 else b""
        try:
            shapes.admit(data, CLIENT)
        except wire.WireError as error:
            self._refusals.note(f"tcp {peer_name(client)}", len(data), str(error))
            return
        if len(self._pending) >= GATE_PENDING_MAX:
            self._answer(
                client, wire.pack([frames.ANSWER, "error: too many commands are under way"])
            )
            return
        connection = self._context.socket(zmq.DEALER)
        connection.set(
            zmq.IDENTITY, b"tcp-%d.%s" % (len(self._pending), os.urandom(4).hex().encode())
        )
        connection.set(zmq.LINGER, 0)
        connection.connect(self._hub_address)
        connection.send(data)
        self._pending[connection] = client

    def _take_answer(self, connection: Socket) -> None:
        self._answer(self._pending.pop(connection), connection.recv())
        connection.close()

    def _answer(self, client: bytes, data: bytes) -> None:
        # Dropped if the client has gone, or does not read: then nobody waits for it.
        self._control.send_multipart([client, data])

    def _pass_on(self) -> None:
        self._observers.send(self._progress.recv())


def _endpoint(socket: Socket) -> str:
    return cast(bytes, socket.get(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()


def _next_port(address: str) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{port if port == '*' else int(port) + 1}"
