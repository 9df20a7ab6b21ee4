"""Whom the coordinator exchanges frames with: agents, the supervisor, clients.

Theory of operation
-------------------
A node has one process at a time, and each process an identity of its own: what a dead one had still said
is dropped, since its successor says the same again (:mod:`emulator.agents.recovery`).  A frame that is
none is refused and counted where a client sent it, and ends the run where an agent did.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from emulator import wire
from emulator.agents import frames, shapes
from emulator.agents.link import Hub, LinkError, peer_name
from emulator.agents.shapes import AGENT, CLIENT, SUPERVISOR, Refusals
from emulator.engine.plan import Plan

SUPERVISOR_NAME = "emusuper"


class AgentFailedError(Exception):
    """An agent ended by its own exception; the text is its traceback."""


class RefusedError(Exception):
    """A peer speaks another protocol."""


class Post:
    """The peers of one run, and the frames to and from them."""

    __slots__ = (
        "_agents",
        "_dead",
        "_heirs_from",
        "_hub",
        "_identities",
        "_nodes",
        "_plan",
        "refusals",
        "supervisor",
        "unheard",
        "unread",
    )

    def __init__(self, plan: Plan, hub: Hub, heirs_from: int) -> None:
        self._plan, self._hub, self._heirs_from = plan, hub, heirs_from
        self._identities = {node: identity_of(plan.name(node)) for node in plan.remote_nodes()}
        self._nodes = {identity: node for node, identity in self._identities.items()}
        self._agents = {plan.name(node).encode() for node in plan.remote_nodes()}
        self._dead: set[bytes] = set()  # identities of processes that were replaced
        self.unheard = set(self._identities)  #: nodes whose process has not said HELLO or BACK
        self.supervisor = b""  #: its identity, b"" until it was heard
        self.refusals = Refusals(plan.run_dir)
        self.unread = 0  #: answers that were dropped, since their clients do not read

    # -- frames that come ------------------------------------------------------------------------

    def receive(self) -> tuple[bytes, bytes, list[Any] | None] | None:
        """Wait for a frame: identity, bytes, and what it says if that counts; None: all was quiet."""
        received = self._hub.receive()
        if received is None:
            return None
        identity, data = received
        return identity, data, None if identity in self._dead else self._admit(identity, data)

    def _admit(self, identity: bytes, data: bytes) -> list[Any] | None:
        sender = AGENT if identity in self._nodes or self._succeeds(identity) else CLIENT
        if identity == identity_of(SUPERVISOR_NAME):
            sender = SUPERVISOR
        try:
            return shapes.admit(data, sender)
        except wire.WireError as error:
            self.refusals.note(peer_name(identity), len(data), str(error))
            if sender == CLIENT:
                return None
            raise AgentFailedError(f"{name_of(identity)} sent what is no frame: {error}") from error

    def _succeeds(self, identity: bytes) -> bool:
        # Whether a peer is a further process of a node.
        name, _, number = identity.rpartition(b".")
        return number.isdigit() and int(number) >= self._heirs_from and name in self._agents

    def await_supervisor(self) -> None:
        """Wait until the supervisor was heard; it ends us if it is gone itself."""
        while not self.supervisor:
            received = self._hub.receive()
            if received is not None and received[0] == identity_of(SUPERVISOR_NAME):
                self.supervisor = received[0]

    # -- who is who ------------------------------------------------------------------------------

    def node_of(self, identity: bytes) -> int:
        """Return the node of an agent's process."""
        return self._nodes[identity]

    def nodes(self) -> list[int]:
        """Return all nodes that began with a process of their own."""
        return list(self._identities)

    def hello(self, identity: bytes, node_id: int) -> None:
        """Note that a node's first process is there; raise RefusedError if it cannot be."""
        if self._identities.get(node_id) != identity or node_id not in self.unheard:
            raise RefusedError(f"{peer_name(identity)} says that it is node {node_id}")
        self.unheard.discard(node_id)

    def succeed(self, node_id: int, identity: bytes) -> None:
        """Note that a node has a new process: nothing that the old one says counts any more."""
        before = self._identities[node_id]
        if before != identity:
            self._dead.add(before)
            self._nodes.pop(before, None)
        self._identities[node_id] = identity
        self._nodes[identity] = node_id

    # -- frames that go --------------------------------------------------------------------------

    def send(self, node_id: int, frame: bytes) -> None:
        """Send a frame to a node's process; one that has died has a successor, who will be told."""
        try:
            self._hub.send(self._identities[node_id], frame)
        except LinkError:
            if not self._plan.crash_commands:
                raise

    def restore(self, node_id: int, frame: bytes) -> None:
        """Send a frame to a process that has just been heard; raise LinkError if it is gone."""
        self._hub.send(self._identities[node_id], frame)

    def have_killed(self, node_id: int) -> None:
        """Ask the supervisor to kill a node's process."""
        self._hub.send(self.supervisor, wire.pack([frames.KILL, node_id]))

    def end(self, data: bytes) -> None:
        """Send the supervisor the last frame, waiting for it; it may be gone."""
        with suppress(LinkError):
            self._hub.send(self.supervisor, data)

    def tell_supervisor(self, data: bytes) -> None:
        """Tell the supervisor, if it is there and reads, what the next such frame says again."""
        if self.supervisor:
            with suppress(LinkError):
                self._hub.offer(self.supervisor, data)

    def publish(self, data: bytes) -> None:
        """Tell observers and the supervisor."""
        self._hub.publish(data)
        self.tell_supervisor(data)

    def dismiss(self, node_id: int) -> None:
        """Tell a node's process to quit, if it is there."""
        with suppress(LinkError):
            self._hub.send(self._identities[node_id], wire.pack([frames.QUIT]))

    def answer(self, client: bytes, text: str) -> None:
        """Answer a client; one that did not wait gets none, and its command stands all the same.

        Nor does one that has left too many answers unread.
        """
        if client:
            with suppress(LinkError):
                if not self._hub.offer(client, wire.pack([frames.ANSWER, text])):
                    self.unread += 1

    @property
    def nr_bytes(self) -> int:
        """Bytes of all frames so far, in and out."""
        return self._hub.bytes


def identity_of(name: str) -> bytes:
    """Return the identity of the first process of that name."""
    return f"{name}.1".encode()


def name_of(identity: bytes) -> str:
    """Return the name of a process, whichever incarnation it is."""
    return peer_name(identity).rpartition(".")[0]


def check_protocol(identity: bytes, protocol: int, digest: str) -> None:
    """Raise RefusedError if a peer was built from another protocol."""
    if (protocol, digest) != (wire.PROTOCOL, wire.digest()):
        raise RefusedError(
            f"{peer_name(identity)} speaks protocol {protocol} {digest}, "
            f"pid {os.getpid()} speaks {wire.PROTOCOL} {wire.digest()}"
        )
