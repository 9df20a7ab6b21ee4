"""The coordinator's process: it keeps the clock and the balancer, and routes between the nodes.

Theory of operation
-------------------
:class:`~emulator.engine.windows.Windows` decides who may run how far; this file carries its
decisions to the agents and their replies back, runs the nodes that live here (the balancer, and
every node whose process was killed by command), and takes commands.  It waits in one place, for the
next frame of any peer, and sleeps there.

A command is stamped after every grant given, handed to the nodes that the plan's route names, and
answered to its client when all of them have answered.  ``cpu kill N`` ends, after node N has done
what the command asks of it, with :meth:`Coordinator.retire`: the node goes on here and its process
is killed.

A process that a signal ends is replaced and catches up (:mod:`emulator.agents.recovery`).  Every now
and then the box stands still for a checkpoint (:mod:`emulator.engine.checkpoint`), which cuts the logs that
this needs, and goes to the run directory, so that a run whose coordinator died can be resumed.

A run ends with an OUTCOME frame to the supervisor, whatever happened: books of all nodes, or the
text of what went wrong.  Where a death is to end the run, a lost connection is often its first sign;
the OUTCOME names it, and the supervisor, whose child it is, says how it died.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

from emulator import messages, wire
from emulator.agents import frames, host, shapes
from emulator.agents.control import VERBS, Control, moment
from emulator.agents.link import Hub, LinkError, peer_name
from emulator.agents.recovery import AgentFault, DiedTwiceError, Recovery, signal_name
from emulator.agents.shapes import AGENT, CLIENT, SUPERVISOR, Refusals
from emulator.agents.store import read_checkpoint, write_checkpoint, write_commands
from emulator.engine.board import HistoryBoard
from emulator.engine.checkpoint import Checkpoint, CheckpointError
from emulator.engine.commands import COMMANDS_MAX, Commands, has_taken_down
from emulator.engine.conservation import audit_books, pids_owned
from emulator.engine.inline import RunOutcome
from emulator.engine.node import Node
from emulator.engine.plan import COORDINATOR_NAME, CommandError, Plan
from emulator.engine.seat import finish, run_local, settle_in, take_over, take_state
from emulator.engine.windows import Grant, Windows
from emulator.hosterrors import host_error
from emulator.types import NSEC_PER_MSEC, Message

#: After so long without a frame, the supervisor is told who is waited for.
QUIET_MS = 500

#: Host seconds between two checkpoints on disk, at least.
STORE_EVERY_S = 1.0

#: Emulated time between two progress frames.
PROGRESS_NS = 20 * NSEC_PER_MSEC

SUPERVISOR_NAME = "emusuper"


class AgentFailedError(Exception):
    """An agent ended by its own exception; the text is its traceback."""


class HostError(Exception):
    """The host refused an agent what it needs; the text says what."""


class RefusedError(Exception):
    """A peer speaks another protocol."""


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
        "_agents",
        "_board",
        "_books",
        "_commands",
        "_control",
        "_core",
        "_cpus",
        "_dead",
        "_heirs_from",
        "_hub",
        "_killed",
        "_local",
        "_lost",
        "_names",
        "_next_checkpoint_ns",
        "_outcome",
        "_peers",
        "_plan",
        "_recovery",
        "_refusals",
        "_reported_ns",
        "_route",
        "_states",
        "_stored_s",
        "_supervisor",
        "_unheard",
    )

    def __init__(self, plan: Plan, hub: Hub, cpus: tuple[int, ...], heirs_from: int = 0) -> None:
        self._plan, self._hub, self._cpus = plan, hub, cpus
        self._route = plan  # with all that commands have added
        self._board = HistoryBoard(plan.nr_nodes)
        self._core = Windows(
            plan.nr_cpus, plan.nr_nodes, plan.latencies, plan.until_ns, self._board
        )
        self._local: dict[int, Node] = {}
        self._peers = {node: _identity(plan.name(node)) for node in plan.remote_nodes()}
        self._names = {identity: node for node, identity in self._peers.items()}
        self._unheard = set(self._peers)
        self._supervisor = b""
        self._commands = Commands()
        self._control = Control(self._core, plan.watch_for, plan.paused)
        self._heirs_from = heirs_from
        self._agents = {plan.name(node).encode() for node in plan.remote_nodes()}
        self._dead: set[bytes] = set()  # identities of processes that were replaced
        self._recovery = Recovery.of(self._peers)
        self._states: dict[int, bytes | None] = {}  # asked of nodes; None: not there yet
        self._next_checkpoint_ns = 0
        self._stored_s = -STORE_EVERY_S
        self._books: dict[int, dict[str, Any]] = {}
        self._killed: set[int] = set()
        self._lost = ""  # name of an agent that is not there any more
        self._reported_ns = -PROGRESS_NS
        self._outcome = RunOutcome()
        self._refusals = Refusals(plan.run_dir)

    def run(self) -> None:
        """Run the box to its end and tell the supervisor how that was."""
        outcome = self._outcome
        try:
            self._gather()
            self._checkpoint()
            self._simulate()
            self._close_books()
        except AgentFailedError as error:
            outcome.status, outcome.error = 1, str(error)
        except LinkError as error:
            outcome.status, outcome.error = 2, str(error)
            self._lost = _name(error.peer)
        except (CheckpointError, HostError, RefusedError) as error:
            outcome.status, outcome.error = 2, str(error)
        except DiedTwiceError as error:
            outcome.status, outcome.error = 1, f"{error}\n{self._core.story()}"
        except Exception as error:
            # Our own failure, a node's in this process, or a broken invariant of the engine.
            refused = host_error(error)
            outcome.status = 2 if refused else 1
            outcome.error = f"{COORDINATOR_NAME}: {refused or traceback.format_exc()}"
        self._send_outcome()

    def retire(self, node_id: int) -> None:
        """Take a node out of its process, kill that, and go on with the node here.

        The node must not have a grant.  Nothing that the nodes can notice happens.
        """
        state = self._ask_states([node_id])[node_id]
        # Dead before its successor is built, which takes over its ring.
        self._hub.send(self._supervisor, wire.pack([frames.KILL, node_id]))
        while node_id not in self._killed:
            self._take_next()
        self._seat(node_id, state)
        self._recovery.forget(node_id)

    def _seat(self, node_id: int, state: bytes) -> None:
        # Makes a node of a run that is under way one that lives here.
        self._board.muted = True
        node = self._plan.build(node_id, self._board)
        self._board.muted = False
        take_over(node, None, state)
        settle_in(node, self._plan.latencies)
        self._local[node_id] = node
        self._core.local.add(node_id)

    # -- from HELLO to the first grant -----------------------------------------------------------

    def _gather(self) -> None:
        if self._plan.resume:
            self._go_on(read_checkpoint(self._plan.resume))
        else:
            for node_id in self._plan.local_nodes():
                node = self._plan.build(node_id, self._board)
                settle_in(node, self._plan.latencies)
                self._local[node_id] = node
                self._core.local.add(node_id)
                self._core.hello(node_id, node.promise(), [])
                self._core.noted(node_id)
        while self._unheard or not self._supervisor:
            self._take_next()
        self._board.started = True
        if not self._plan.resume:
            for message in self._commands.give_timed(self._plan.commands):
                self._core.post(message)

    def _go_on(self, checkpoint: Checkpoint) -> None:
        # Makes the box what it was; its agents are told when they say that they are back.
        self._core.unpack(checkpoint.windows)
        self._commands.unpack(checkpoint.commands)
        self._board.started = True
        for node_id, state in checkpoint.states.items():
            if node_id in checkpoint.local:
                self._seat(node_id, state)
            else:
                self._recovery.logs[node_id].state = state
        for given in self._commands.given():
            self._route = self._route.after(given.words)
        for at_ns, words in self._commands.unknown(self._plan.recorded):
            for message in self._commands.give(at_ns, self._route.targets(words), words):
                self._core.post(message)
            self._route = self._route.after(words)

    def _hello(self, identity: bytes, frame: list[Any]) -> None:
        _, protocol, digest, node_id, _, promise, publications = frame
        _check_protocol(identity, protocol, digest)
        if node_id not in self._unheard and self._recovery.faults:
            return  # it had said so before it died
        if self._peers.get(node_id) != identity or node_id not in self._unheard:
            raise RefusedError(f"{peer_name(identity)} says that it is node {node_id}")
        self._unheard.discard(node_id)
        facts = [(time_ns, tuple(items)) for time_ns, items in publications]
        self._core.hello(node_id, frames.promise_of(promise), facts)

    # -- the run ---------------------------------------------------------------------------------

    def _simulate(self) -> None:
        core = self._core
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
                if core.limit_ns >= self._next_checkpoint_ns:
                    self._checkpoint()
                else:
                    self._stand_still()
            elif not any(grant.node in self._local for grant in granted):
                # All that can be given is given: only a frame changes that.
                self._take_next()
            self._report()

    def _stand_still(self) -> None:
        # The box has come to where it is to stand: it goes on when a client says so.
        control = self._control
        if control.at_rest():
            return
        for pending in self._commands.unanswered():
            client, pending.client = pending.client, b""
            self._answer(
                client, f"not over yet: the box stands still at {moment(control.limit_ns)}"
            )
        self._send_answers()
        self._send_progress()
        while control.standing:
            self._take_next()

    def _send_answers(self) -> None:
        answers, self._control.answers = self._control.answers, []
        for client, text in answers:
            self._answer(client, text)

    def _give(self, grant: Grant) -> None:
        node = self._local.get(grant.node)
        if node is not None:
            self._open(grant)
            run_local(node, self._core, grant)
        else:
            floor_ns = self._core.read_floor_ns()
            self._ask(grant.node, frames.pack_grant(frames.GRANT, grant, floor_ns))

    def _ask(self, node_id: int, frame: bytes) -> None:
        # What the node's process does not live to answer, its successor will.
        self._recovery.told(node_id, frame)
        self._send(node_id, frame)

    def _open(self, grant: Grant) -> None:
        # The balancer only passes tasks on; a node that has come here opens them.
        if grant.node != self._plan.nr_cpus:
            grant.messages = [frames.opened(message) for message in grant.messages]

    def _take_next(self) -> None:
        # Waits for one frame and acts on it; the only place where the coordinator sleeps.
        received = self._hub.receive()
        if received is None:
            self._send_progress()
            return
        identity, data = received
        if identity in self._dead:
            return
        frame = self._admit(identity, data)
        if frame is None:
            return
        if frame[0] == frames.REPLY:
            reply = frames.reply_of(frame)
            node_id = self._names[identity]
            self._recovery.answered(node_id, data)
            self._core.reply(node_id, reply.promise, reply.outbox, reply.publications)
        else:
            self._take_rare(identity, frame)

    def _admit(self, identity: bytes, data: bytes) -> list[Any] | None:
        sender = AGENT if identity in self._names or self._succeeds(identity) else CLIENT
        if identity == _identity(SUPERVISOR_NAME):
            sender = SUPERVISOR
        try:
            return shapes.admit(data, sender)
        except wire.WireError as error:
            self._refusals.note(peer_name(identity), len(data), str(error))
            if sender == CLIENT:
                return None
            raise AgentFailedError(f"{_name(identity)} sent what is no frame: {error}") from error

    def _take_rare(self, identity: bytes, frame: list[Any]) -> None:
        match frame[0]:
            case frames.HELLO:
                self._hello(identity, frame)
            case frames.WATCH:
                self._supervisor = identity
                _check_protocol(identity, frame[1], frame[2])
            case frames.COMMAND:
                self._take_command(identity, frame)
            case frames.BACK:
                self._take_back(identity, frame)
            case frames.REBUILT:
                self._recovery.rebuilt(self._names[identity], host.now_ns())
            case frames.STOP:
                self._stop()
            case frames.STATE:
                self._states[self._names[identity]] = frame[1]
            case frames.BOOKS:
                self._books[self._names[identity]] = frame[1]
                self._outcome.agents[_name(identity)] = frame[2]
            case frames.KILLED:
                self._killed.add(frame[1])
            case frames.FAILED if frame[2]:
                raise HostError(f"{_name(identity)}: {frame[2]}")
            case frames.FAILED:
                raise AgentFailedError(f"{peer_name(identity)} failed:\n{frame[1]}")
            case _:
                raise RefusedError(f"unknown frame {frame[0]} from {peer_name(identity)}")

    def _stop(self) -> None:
        self._control.end()
        self._core.until_ns = min(self._core.until_ns, self._core.stamp_ns())
        self._set_limit()

    # -- deaths and checkpoints ------------------------------------------------------------------

    def _succeeds(self, identity: bytes) -> bool:
        # Whether a peer is a further process of a node.
        name, _, number = identity.rpartition(b".")
        return number.isdigit() and int(number) >= self._heirs_from and name in self._agents

    def _take_back(self, identity: bytes, frame: list[Any]) -> None:
        # A new process of a node: the old one was killed, or the whole run was.
        _, protocol, digest, node_id, pid, signal, noticed_ns = frame
        _check_protocol(identity, protocol, digest)
        if node_id in self._local:
            return  # it was to be killed anyway
        before = self._peers[node_id]
        if before != identity:
            self._dead.add(before)
            self._names.pop(before, None)
        self._peers[node_id] = identity
        self._names[identity] = node_id
        at_ns = self._core.stamp_ns()
        if signal:
            name = signal_name(signal)
            fault = AgentFault(_name(identity), pid, name, at_ns, 0, False, noticed_ns)
            self._recovery.died(node_id, fault)
            self._suffer(node_id, fault)
        if self._recovery.logs[node_id].state:
            self._unheard.discard(node_id)
        self._hub.send(identity, self._recovery.restore_frame(node_id))
        if node_id in self._states and self._states[node_id] is None:
            self._send(node_id, wire.pack([frames.SNAPSHOT]))

    def _suffer(self, node_id: int, fault: AgentFault) -> None:
        # What the machine feels of the death.
        words = list(self._plan.crash_command(node_id))
        if not words or fault.at_ns >= self._core.until_ns:
            return
        fault.command = " ".join(words)
        for message in self._commands.give(fault.at_ns, self._plan.targets(words), words):
            self._core.post(message)
        self._tell_record()

    def _checkpoint(self) -> None:
        # The box stands still: whatever happens from now on, this is where it can go on.
        core = self._core
        remote = [node for node in self._peers if node not in self._local]
        states = self._ask_states(
            [node for node in remote if not (log := self._recovery.logs[node]).state or log.frames]
        )
        for node_id, state in states.items():
            self._recovery.logs[node_id].cut(state)
        self._next_checkpoint_ns = core.next_ns() + self._plan.checkpoint_ns
        if self._plan.run_dir and host.now_ns() / 1e9 - self._stored_s >= STORE_EVERY_S:
            for node_id in remote:
                states[node_id] = self._recovery.logs[node_id].state
            for node_id, node in self._local.items():
                states[node_id] = take_state(node, None)
            checkpoint = Checkpoint(
                core.floor_ns(), core.pack(), self._commands.pack(), states, sorted(self._local)
            )
            write_checkpoint(self._plan.run_dir, checkpoint)
            self._stored_s = host.now_ns() / 1e9

    def _set_limit(self) -> None:
        core = self._core
        core.limit_ns = min(core.until_ns, self._control.limit_ns, self._next_checkpoint_ns)

    def _ask_states(self, nodes: list[int]) -> dict[int, bytes]:
        # Nobody has a grant, and nobody is given one until all have answered.
        for node_id in nodes:
            self._states[node_id] = None
            self._send(node_id, wire.pack([frames.SNAPSHOT]))
        while None in self._states.values():
            self._take_next()
        states = {node: state for node, state in self._states.items() if state is not None}
        self._states.clear()
        return states

    # -- commands --------------------------------------------------------------------------------

    def _take_command(self, client: bytes, frame: list[Any]) -> None:
        _, protocol, given = frame
        words = " ".join(given).split()  # as the box file has it, and as nodes take it
        at_ns = self._core.stamp_ns()
        try:
            if protocol != wire.PROTOCOL:
                raise CommandError(f"the box speaks protocol {wire.PROTOCOL}, not {protocol}")
            if not self._board.started:
                raise CommandError("the box takes no commands now: it is about to start")
            if (
                words
                and words[0] in VERBS
                and (at_ns < self._core.until_ns or self._control.standing)
            ):
                self._take_control(client, words)
                return
            if at_ns >= self._core.until_ns:
                raise CommandError("the run is over")
            if self._commands.full():
                raise CommandError(f"a run takes {COMMANDS_MAX} commands, and has had them")
            targets = self._route.targets(words)
            self._route = self._route.after(words)
        except ValueError as error:
            # CommandError, or a number that is none.
            self._answer(client, f"error: {error}")
            return
        if self._control.standing:
            self._answer(client, f"takes effect at {moment(at_ns)}, when the box goes on")
            client = b""
        for message in self._commands.give(at_ns, targets, words, client):
            self._core.post(message)
        self._tell_record()

    def _take_control(self, client: bytes, words: list[Any]) -> None:
        if words[0] == "status":
            faults = [fault.told() for fault in self._recovery.faults]
            if self._refusals.count:
                faults.append(f"{self._refusals.count} frames refused: see {shapes.REFUSED_LOG}")
            given = self._commands.given()
            self._answer(client, self._control.status(given, self._waiting_for(), faults))
            return
        self._control.command(client, words)
        self._send_answers()

    def _settle_answers(self) -> None:
        answers, self._core.answers = self._core.answers, []
        for message in answers:
            if message[4] == messages.COMMAND_DONE:
                self._settle(message)

    def _settle(self, message: Message) -> None:
        source, words = message[1], message[5][0]
        if words[:2] == ["cpu", "kill"] and has_taken_down(message) and source not in self._local:
            self.retire(source)
        finished = self._commands.settle(message)
        if finished is not None:
            self._answer(finished.client, finished.answer())
            self._tell_record()

    def _tell_record(self) -> None:
        # The supervisor keeps it, and the run directory: a stranger's SIGKILL leaves no time to ask.
        record = self._commands.record(self._core.stamp_ns() + 1)
        if self._plan.run_dir:
            write_commands(self._plan.run_dir, record)
        self._try_send(self._supervisor, wire.pack([frames.RECORD, record]))

    def _answer(self, client: bytes, text: str) -> None:
        if not client:
            return
        try:
            self._hub.send(client, wire.pack([frames.ANSWER, text]))
        except LinkError:
            # The client did not wait; its command stands all the same.
            return

    # -- the end ---------------------------------------------------------------------------------

    def _close_books(self) -> None:
        core, outcome = self._core, self._outcome
        for node_id in range(self._plan.nr_nodes):
            grant = core.leftovers(node_id)
            node = self._local.get(node_id)
            if node is None:
                data = frames.pack_grant(frames.FINISH, grant, core.read_floor_ns())
                self._ask(node_id, data)
            else:
                self._open(grant)
                finish(node, self._board, grant)
                self._books[node_id] = node.books()
        while len(self._books) < self._plan.nr_nodes:
            self._take_next()
        outcome.books = self._books
        problems = audit_books(self._books)
        problems += core.ledger.audit(pids_owned(self._books), core.until_ns)
        if problems:
            outcome.status, outcome.error = 1, "\n".join(problems)
        for pending in self._commands.unanswered():
            self._answer(pending.client, "error: the run is over")
        self._control.end()
        self._send_answers()

    def _await_supervisor(self) -> None:
        # A node may have failed before the supervisor was heard; it ends us if it is gone itself.
        while not self._supervisor:
            received = self._hub.receive()
            if received is not None and received[0] == _identity(SUPERVISOR_NAME):
                self._supervisor = received[0]

    def _send_outcome(self) -> None:
        self._await_supervisor()
        outcome, core = self._outcome, self._core
        facts = host.usage(self._cpus) | {"refused_frames": self._refusals.count}
        outcome.agents[COORDINATOR_NAME] = facts
        data = wire.pack(
            [
                frames.OUTCOME,
                outcome.status,
                outcome.error,
                core.floor_ns(),
                core.windows,
                core.messages,
                self._hub.bytes,
                outcome.books,
                self._commands.record(core.until_ns),
                outcome.agents,
                [fault.plain() for fault in self._recovery.faults],
                self._lost,
            ]
        )
        for node_id, identity in self._peers.items():
            if node_id not in self._local:
                self._try_send(identity, wire.pack([frames.QUIT]))
        self._try_send(self._supervisor, data)

    def _report(self) -> None:
        if self._core.floor_ns() - self._reported_ns >= PROGRESS_NS:
            self._send_progress()
            if self._recovery.overfull():
                self._next_checkpoint_ns = self._core.stamp_ns()
                self._set_limit()

    def _send_progress(self) -> None:
        core = self._core
        self._reported_ns = core.floor_ns()
        waited = ["ctl continue"] if self._control.standing else self._waiting_for()
        data = wire.pack([frames.PROGRESS, self._reported_ns, core.windows, core.messages, waited])
        self._hub.publish(data)
        self._try_send(self._supervisor, data)

    def _waiting_for(self) -> list[str]:
        nodes = self._core.waiting_for() or sorted(self._unheard)
        return [self._plan.name(node) for node in nodes]

    def _send(self, node_id: int, frame: bytes) -> None:
        try:
            self._hub.send(self._peers[node_id], frame)
        except LinkError:
            if not self._plan.crash_commands:
                raise
            # It has died, and its successor will be told.

    def _try_send(self, identity: bytes, data: bytes) -> None:
        if not identity:
            return
        try:
            self._hub.send(identity, data)
        except LinkError:
            # The supervisor sees deaths by itself, and says so.
            return


def _identity(name: str) -> bytes:
    return f"{name}.1".encode()


def _name(identity: bytes) -> str:
    return peer_name(identity).rpartition(".")[0]


def _check_protocol(identity: bytes, protocol: int, digest: str) -> None:
    if (protocol, digest) != (wire.PROTOCOL, wire.digest()):
        raise RefusedError(
            f"{peer_name(identity)} speaks protocol {protocol} {digest}, "
            f"pid {os.getpid()} speaks {wire.PROTOCOL} {wire.digest()}"
        )
