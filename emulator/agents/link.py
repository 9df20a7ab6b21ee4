"""The links between processes: ZeroMQ over ipc, with its silent losses switched off.

Theory of operation
-------------------
One ROUTER in the coordinator, bound in a directory that only its owner may enter
(:mod:`emulator.agents.sockets`); one DEALER in each agent, in the supervisor and in each client that
gives commands.  Clients on other machines come through the gate (:mod:`emulator.agents.gate`).  A PUB socket beside it tells observers how far
the run is; it alone may lose mail.

What ZeroMQ would do silently is an error here: the ROUTER refuses mail for a peer that is not
there (ROUTER_MANDATORY), and one whose queue is full is waited for (:meth:`Hub.send`), which an agent's never is: the
protocol has one grant and one reply in flight per node.  Only what a client is answered, and what says how far
the run is, is dropped where nobody reads it (:meth:`Hub.offer`).  A peer that sends too much waits.  An identity
carries an incarnation, so that a successor is never taken for its predecessor.

Beside the gate this is the only file that imports zmq.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import zmq

from emulator import wire
from emulator.agents import frames, shapes
from emulator.agents.keys import ClientKey

#: Frames of one peer that wait for the coordinator; further ones wait in the peer, so that nobody fills
#: its memory.  An agent has two under way at most.
HUB_QUEUE_MAX = 1000

#: Frames that wait for one peer of the coordinator to read them; further answers to a client are dropped.
UNREAD_MAX = 100

#: Progress frames an observer may lag behind before it loses some.
OBSERVER_QUEUE_MAX = 1000

#: A peer that is not bound yet is tried again soon: agents start before the coordinator listens.
RECONNECT_MS = 5

#: Largest frame on a link between processes of a box: a node's snapshot has some megabytes at most.
FRAME_BYTES_MAX = 256 << 20

#: This part of a frame is not the last: a plain number, since flags are looked at for each frame.
MORE = int(zmq.SNDMORE)

#: Refuse rather than wait for a peer whose queue is full.
AT_ONCE = int(zmq.DONTWAIT)

#: How long a closing link waits for its last frame to leave.
LINGER_MS = 2_000


class LinkError(OSError):
    """A peer is not there; ``peer`` is its identity where it is known."""

    peer = b""


class Hub:
    """The coordinator's end of every link."""

    __slots__ = ("_context", "_observers", "_router", "bytes")

    def __init__(self, hub_address: str, observer_address: str, quiet_ms: int) -> None:
        """Bind both sockets; :meth:`receive` returns None after ``quiet_ms`` without a frame."""
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.set(zmq.ROUTER_MANDATORY, 1)
        _without_limits(self._router)
        self._router.set(zmq.SNDHWM, UNREAD_MAX)
        self._router.set(zmq.RCVHWM, HUB_QUEUE_MAX)
        self._router.set(zmq.RCVTIMEO, quiet_ms)
        self._router.bind(hub_address)
        self._observers = self._context.socket(zmq.PUB)
        self._observers.set(zmq.SNDHWM, OBSERVER_QUEUE_MAX)
        self._observers.set(zmq.LINGER, 0)
        self._observers.bind(observer_address)
        self.bytes = 0  #: of frames in and out

    def receive(self) -> tuple[bytes, bytes] | None:
        """Return the next frame as (identity, bytes), or None if all was quiet for a while."""
        try:
            identity = self._router.recv()
        except zmq.Again:
            return None
        data = self._router.recv()  # the parts of one frame arrive together
        while self._router.get(zmq.RCVMORE):
            # No peer of ours sends several: what is left is no frame either.
            self._router.recv()
            data = b""
        self.bytes += len(data)
        return identity, data

    def send(self, identity: bytes, data: bytes) -> None:
        """Send one frame; raise LinkError if there is no such peer."""
        self._send(identity, data, MORE)

    def offer(self, identity: bytes, data: bytes) -> bool:
        """Send one frame unless the peer has left too many unread; return whether it was sent.

        Raise LinkError if there is no such peer.
        """
        try:
            self._send(identity, data, MORE | AT_ONCE)
        except LinkError as error:
            if error.errno == zmq.EAGAIN:
                return False
            raise
        return True

    def _send(self, identity: bytes, data: bytes, flags: int) -> None:
        try:
            self._router.send(identity, flags)
            self._router.send(data)
        except zmq.ZMQError as error:
            lost = LinkError(error.errno, f"no connection to {peer_name(identity)}")
            lost.peer = identity
            raise lost from error
        self.bytes += len(data)

    def publish(self, data: bytes) -> None:
        """Tell observers; nobody need be there."""
        self._observers.send(data)

    def close(self) -> None:
        """Send what is still to leave, and close."""
        self._router.close()
        self._observers.close()
        self._context.term()


class Link:
    """One agent's end of its link to the coordinator."""

    __slots__ = ("_context", "_socket")

    def __init__(
        self, hub_address: str, name: str, incarnation: int, key: ClientKey | None = None
    ) -> None:
        """Connect to the coordinator; with a key, to the gate of its box."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.IDENTITY, f"{name}.{incarnation}".encode())
        self._socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
        _without_limits(self._socket)
        if key is not None:
            try:
                _unlock(self._socket, key)
            except LinkError:
                self.close(0)
                raise
        self._socket.connect(hub_address)

    def send(self, data: bytes) -> None:
        """Send one frame."""
        self._socket.send(data)

    def receive(self) -> bytes:
        """Wait for the next frame."""
        return self._socket.recv()

    def receive_within(self, timeout_ms: int) -> bytes | None:
        """Return the next frame, or None if there is none in time."""
        return self._socket.recv() if self._socket.poll(timeout_ms) else None

    def wait(self, sentinels: Iterable[int], timeout_ms: int) -> list[int]:
        """Wait for a frame or a sentinel (a file descriptor) and return the sentinels that fired."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        for sentinel in sentinels:
            poller.register(sentinel, zmq.POLLIN)
        return [what for what, _ in poller.poll(timeout_ms) if isinstance(what, int)]

    def close(self, linger_ms: int = LINGER_MS) -> None:
        """Send what is still to leave, waiting ``linger_ms`` at most, and close."""
        self._socket.close(linger_ms)
        self._context.term()


def ask(
    address: str,
    words: list[str],
    timeout_ms: int,
    wait_on: Callable[[], bool] | None = None,
    key: ClientKey | None = None,
) -> str:
    """Give a running box a command and return its answer; raise OSError if it does not answer.

    Each time that so long has passed, ``wait_on`` says whether to wait on.
    """
    link = Link(address, f"ctl-{os.getpid()}", int.from_bytes(os.urandom(4)), key)
    try:
        link.send(wire.pack([frames.COMMAND, wire.PROTOCOL, words]))
        data = link.receive_within(timeout_ms)
        while data is None and wait_on is not None and wait_on():
            data = link.receive_within(timeout_ms)
    finally:
        link.close(0)
    if data is None:
        silence = f"no answer within {timeout_ms} ms"
        if key is not None:
            silence += ": nobody listens there, or the key is not this run's"
        raise LinkError("the run is over" if wait_on else silence)
    return str(shapes.admit(data, shapes.COORDINATOR)[1])


def observe(address: str, silence_ms: int, key: ClientKey | None = None) -> Iterator[list[Any]]:
    """Yield what a running box tells observers, PROGRESS frames, until it is silent for so long."""
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVHWM, OBSERVER_QUEUE_MAX)
        socket.set(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        socket.set(zmq.SUBSCRIBE, b"")
        if key is not None:
            _unlock(socket, key)
        socket.connect(address)
        while socket.poll(silence_ms):
            yield shapes.admit(socket.recv(), shapes.COORDINATOR)


def _unlock(socket: zmq.Socket[bytes], key: ClientKey) -> None:
    try:
        socket.set(zmq.CURVE_SERVERKEY, key.server_key.encode())
        socket.set(zmq.CURVE_PUBLICKEY, key.public_key.encode())
        socket.set(zmq.CURVE_SECRETKEY, key.secret_key.encode())
    except (ValueError, zmq.ZMQError) as error:
        raise LinkError(f"no key of CURVE: {error}") from error


def _without_limits(socket: zmq.Socket[bytes]) -> None:
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    socket.set(zmq.LINGER, LINGER_MS)
    socket.set(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)


def peer_name(identity: bytes) -> str:
    """Return the identity of a peer, who may be anybody, as text that can be printed."""
    text = identity.decode("ascii", "backslashreplace")
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
