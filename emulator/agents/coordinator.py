"""The coordinator's process: it keeps the clock and the balancer, and routes between the nodes.

Theory of operation
-------------------
:class:`~emulator.engine.windows.Windows` decides who may run how far; this file carries its
decisions to the agents and their replies back, and runs the nodes that live here
(:mod:`emulator.agents.home`).  It waits in one place, for the next frame of any peer, and sleeps there.

The rest is by topic, each knowing only what stands before it here: :mod:`emulator.agents.post` (peers and
frames), :mod:`~emulator.agents.home`, :mod:`~emulator.agents.desk` (commands and answers),
:mod:`~emulator.agents.safekeeping` (deaths and checkpoints), :mod:`~emulator.agents.closing` (books and
outcome).

``cpu kill N`` ends, after node N has done what the command asks of it, with :meth:`Coordinator.retire`: the
node goes on here and its process is killed.

A run ends with an OUTCOME frame to the supervisor, whatever happened: books of all nodes, or the
text of what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emulator import wire
from emulator.agents import frames, host
from emulator.agents.closing import Closing, HostError
from emulator.agents.desk import Desk
from emulator.agents.home import Home
from emulator.agents.link import Hub, peer_name
from emulator.agents.post import AgentFailedError, Post, RefusedError, check_protocol, name_of
from emulator.agents.recovery import Recovery
from emulator.agents.safekeeping import Safekeeping
from emulator.engine.board import HistoryBoard
from emulator.engine.commands import has_taken_down
from emulator.engine.plan import COORDINATOR_NAME, Plan
from emulator.engine.windows import Grant, Windows
from emulator.types import NSEC_PER_MSEC, Message

#: After so long without a frame, the supervisor is told who is waited for.
QUIET_MS = 500

#: Emulated time between two progress frames.
PROGRESS_NS = 20 * NSEC_PER_MSEC


def main(
    plan: Plan,
    hub_address: str,
    observer_address: str,
    cpus: tuple[int, ...],
    heirs_from: int = 0,
    make: Callable[[Plan, Hub, tuple[int, ...], int], Coordinator] | None = None,
) -> int:
    """Run the box and return the exit status.

    Processes that replace killed ones are numbered from ``heirs_from`` on, which strangers cannot know.
    ``make`` builds the coordinator, where it is to be another one.
    """
    host.set_comm(COORDINATOR_NAME)
    cpus = host.pin(cpus)
    hub = Hub(hub_address, observer_address, QUIET_MS)
    coordinator = (make or Coordinator)(plan, hub, cpus, heirs_from)
    try:
        coordinator.run()
        return 0
    finally:
        hub.close()


class Coordinator:
    """One run, from the first HELLO to the OUTCOME."""

    __slots__ = (
        "_board",
        "_closing",
        "_core",
        "_desk",
        "_home",
        "_keeping",
        "_killed",
        "_plan",
        "_post",
        "_reported_ns",
    )

    def __init__(self, plan: Plan, hub: Hub, cpus: tuple[int, ...], heirs_from: int = 0) -> None:
        self._plan = plan
        self._board = board = HistoryBoard(plan.nr_nodes)
        self._core = core = Windows(
            plan.nr_cpus, plan.nr_nodes, plan.latencies, plan.until_ns, board
        )
        self._post = post = Post(plan, hub, heirs_from)
        self._home = home = Home(plan, core, board)
        recovery = Recovery.of(post.nodes())
        self._desk = desk = Desk(plan, core, post, recovery)
        self._keeping = Safekeeping(plan, core, post, home, desk, recovery)
        self._closing = Closing(plan, core, post, cpus)
        self._killed: set[int] = set()
        self._reported_ns = -PROGRESS_NS

    def run(self) -> None:
        """Run the box to its end and tell the supervisor how that was."""
        closing = self._closing
        try:
            self._gather()
            self._keeping.checkpoint(self._take_next)
            self._simulate()
            closing.close_books(self._home, self._keeping, self._take_next)
            self._desk.close()
        except Exception as error:
            closing.blame(error)
        closing.send_outcome(self._home, self._keeping, self._desk)

    def retire(self, node_id: int) -> None:
        """Take a node out of its process, kill that, and go on with the node here.

        The node must not have a grant.  Nothing that the nodes can notice happens.
        """
        state = self._keeping.ask_states([node_id], self._take_next)[node_id]
        # Dead before its successor is built, which takes over its ring.
        self._post.have_killed(node_id)
        while node_id not in self._killed:
            self._take_next()
        self._home.seat(node_id, state)
        self._keeping.recovery.forget(node_id)

    # -- from HELLO to the first grant -----------------------------------------------------------

    def _gather(self) -> None:
        if self._plan.resume:
            self._keeping.go_on(self._board)
        else:
            for node_id in self._plan.local_nodes():
                self._home.begin(node_id)
        while self._post.unheard or not self._post.supervisor:
            self._take_next()
        self._board.started = True
        if not self._plan.resume:
            self._desk.give_timed()

    def _hello(self, identity: bytes, frame: list[Any]) -> None:
        _, protocol, digest, node_id, _, promise, publications = frame
        check_protocol(identity, protocol, digest)
        if node_id not in self._post.unheard and self._keeping.recovery.faults:
            return  # it had said so before it died
        self._post.hello(identity, node_id)
        facts = [(time_ns, tuple(items)) for time_ns, items in publications]
        self._core.hello(node_id, frames.promise_of(promise), facts)

    # -- the run ---------------------------------------------------------------------------------

    def _simulate(self) -> None:
        core, keeping = self._core, self._keeping
        while True:
            self._set_limit()
            granted = core.grants()
            for grant in granted:
                self._give(grant)
            if core.answers:
                self._settle_answers()
            elif not granted and core.at_rest():
                if core.limit_ns >= core.until_ns:
                    return
                if core.limit_ns >= keeping.next_checkpoint_ns:
                    keeping.checkpoint(self._take_next)
                else:
                    self._stand_still()
            elif not any(grant.node in self._home for grant in granted):
                # All that can be given is given: only a frame changes that.
                self._take_next()
            self._report()

    def _set_limit(self) -> None:
        core = self._core
        core.limit_ns = min(
            core.until_ns, self._desk.control.limit_ns, self._keeping.next_checkpoint_ns
        )

    def _stand_still(self) -> None:
        # The box has come to where it is to stand: it goes on when a client says so.
        control = self._desk.control
        if control.at_rest():
            return
        self._desk.stand()
        self._send_progress()
        while control.standing:
            self._take_next()

    def _give(self, grant: Grant) -> None:
        if grant.node in self._home:
            self._home.run(grant)
        else:
            floor_ns = self._core.read_floor_ns()
            self._keeping.ask(grant.node, frames.pack_grant(frames.GRANT, grant, floor_ns))

    def _settle_answers(self) -> None:
        for message in self._desk.answers():
            if self._retires(message):
                self.retire(message[1])
            self._desk.settle(message)

    def _retires(self, message: Message) -> bool:
        # Whether a node has done what has to be done before its process is killed by command.
        words = message[5][0]
        return (
            words[:2] == ["cpu", "kill"]
            and has_taken_down(message)
            and message[1] not in self._home
        )

    # -- frames ----------------------------------------------------------------------------------

    def _take_next(self) -> None:
        # Waits for one frame and acts on it; the only place where the coordinator sleeps.
        received = self._post.receive()
        if received is None:
            self._send_progress()
            return
        identity, data, frame = received
        if frame is None:
            return
        if frame[0] == frames.REPLY:
            reply = frames.reply_of(frame)
            node_id = self._post.node_of(identity)
            self._keeping.recovery.answered(node_id, data)
            self._core.reply(node_id, reply.promise, reply.outbox, reply.publications)
        else:
            self._take_rare(identity, frame)

    def _take_rare(self, identity: bytes, frame: list[Any]) -> None:
        post, keeping = self._post, self._keeping
        match frame[0]:
            case frames.HELLO:
                self._hello(identity, frame)
            case frames.WATCH:
                post.supervisor = identity
                check_protocol(identity, frame[1], frame[2])
            case frames.COMMAND:
                self._desk.take(identity, frame, self._board.started)
            case frames.BACK:
                self._take_back(identity, frame)
            case frames.REBUILT:
                keeping.recovery.rebuilt(post.node_of(identity), host.now_ns())
            case frames.STOP:
                self._stop()
            case frames.STATE:
                keeping.state_came(post.node_of(identity), frame[1])
            case frames.BOOKS:
                self._closing.books_came(identity, frame[1], frame[2])
            case frames.KILLED:
                self._killed.add(frame[1])
            case frames.FAILED if frame[2]:
                raise HostError(f"{name_of(identity)}: {frame[2]}")
            case frames.FAILED:
                raise AgentFailedError(f"{peer_name(identity)} failed:\n{frame[1]}")
            case _:
                raise RefusedError(f"unknown frame {frame[0]} from {peer_name(identity)}")

    def _take_back(self, identity: bytes, frame: list[Any]) -> None:
        self._keeping.take_back(identity, frame)

    def _stop(self) -> None:
        self._desk.control.end()
        self._core.until_ns = min(self._core.until_ns, self._core.stamp_ns())
        self._set_limit()

    # -- progress --------------------------------------------------------------------------------

    def _report(self) -> None:
        if self._core.floor_ns() - self._reported_ns >= PROGRESS_NS:
            self._send_progress()
            if self._keeping.recovery.overfull():
                self._keeping.next_checkpoint_ns = self._core.stamp_ns()
                self._set_limit()

    def _send_progress(self) -> None:
        core, desk = self._core, self._desk
        self._reported_ns = core.floor_ns()
        waited = ["ctl continue"] if desk.control.standing else desk.waiting_for()
        self._post.publish(
            wire.pack([frames.PROGRESS, self._reported_ns, core.windows, core.messages, waited])
        )
