"""Where commands are taken, carried to the nodes that they concern, and answered.

Theory of operation
-------------------
A command is stamped after every grant given, handed to the nodes that the plan's route names, and
answered to its client when all of them have answered.  Words about how far the box runs are for
:class:`~emulator.agents.control.Control`; it hands out its answers here.  Every command goes to the run
directory and to the supervisor when it is given, and again with its answer: a stranger's SIGKILL leaves no
time to ask.
"""

from __future__ import annotations

from typing import Any

from emulator import messages, wire
from emulator.agents import frames, shapes
from emulator.agents.control import VERBS, Control, moment
from emulator.agents.post import Post
from emulator.agents.recovery import Recovery
from emulator.agents.store import read_box, write_commands
from emulator.engine.commands import COMMANDS_MAX, Commands
from emulator.engine.plan import CommandError, Plan
from emulator.engine.windows import Windows
from emulator.types import Message


class Desk:
    """The commands of one run, and those who gave them."""

    __slots__ = ("_core", "_plan", "_post", "_recovery", "_route", "commands", "control")

    def __init__(self, plan: Plan, core: Windows, post: Post, recovery: Recovery) -> None:
        self._plan, self._core, self._post, self._recovery = plan, core, post, recovery
        self._route = plan  # with all that commands have added
        self.commands = Commands()
        self.control = Control(core, plan.watch_for, plan.paused)

    # -- giving ----------------------------------------------------------------------------------

    def give_timed(self) -> None:
        """Give the commands of the box file."""
        for message in self.commands.give_timed(self._plan.commands):
            self._core.post(message)

    def go_on(self, packed: list[Any]) -> None:
        """Take over the commands of a checkpoint, and give those again that came later."""
        self.commands.unpack(packed)
        for given in self.commands.given():
            self._route = self._route.after(given.words)
        for at_ns, words in self.commands.unknown(self._plan.recorded):
            self._post_to_nodes(at_ns, words)
            self._route = self._route.after(words)

    def give(self, at_ns: int, words: list[Any]) -> None:
        """Give a command that no client gave."""
        self._post_to_nodes(at_ns, words)
        self.tell_record()

    def _post_to_nodes(self, at_ns: int, words: list[Any], client: bytes = b"") -> None:
        for message in self.commands.give(at_ns, self._route.targets(words), words, client):
            self._core.post(message)

    # -- from clients ----------------------------------------------------------------------------

    def take(self, client: bytes, frame: list[Any], started: bool) -> None:
        """Take a COMMAND frame: carry it out here, give it to its nodes, or say why not."""
        _, protocol, given = frame
        words = " ".join(given).split()  # as the box file has it, and as nodes take it
        at_ns = self._core.stamp_ns()
        try:
            if protocol != wire.PROTOCOL:
                raise CommandError(f"the box speaks protocol {wire.PROTOCOL}, not {protocol}")
            if not started:
                raise CommandError("the box takes no commands now: it is about to start")
            if (
                words
                and words[0] in VERBS
                and (at_ns < self._core.until_ns or self.control.standing)
            ):
                self._take_control(client, words)
                return
            if at_ns >= self._core.until_ns:
                raise CommandError("the run is over")
            if self.commands.full():
                raise CommandError(f"a run takes {COMMANDS_MAX} commands, and has had them")
            targets = self._route.targets(words)
            self._route = self._route.after(words)
        except ValueError as error:
            # CommandError, or a number that is none.
            self._post.answer(client, f"error: {error}")
            return
        standing = self.control.standing
        for message in self.commands.give(at_ns, targets, words, b"" if standing else client):
            self._core.post(message)
        self.tell_record()
        if standing:
            # Not before it is recorded: what is answered outlives this process.
            self._post.answer(client, f"takes effect at {moment(at_ns)}, when the box goes on")

    def _take_control(self, client: bytes, words: list[Any]) -> None:
        if words[0] == "status":
            faults = [fault.told() for fault in self._recovery.faults]
            refused = self._post.refusals.count
            if refused:
                faults.append(f"{refused} frames refused: see {shapes.REFUSED_LOG}")
            unread = self._post.unread
            if unread:
                faults.append(f"{unread} answers dropped: those who asked do not read")
            given = self.commands.given()
            self._post.answer(client, self.control.status(given, self.waiting_for(), faults))
            return
        if words == ["box"]:
            self._post.answer(client, self._box())
            return
        self.control.command(client, words)
        self.send_answers()

    def _box(self) -> str:
        # What a client on another machine must know to say what is meant for this box.
        try:
            return read_box(self._plan.run_dir)
        except OSError as error:
            return f"error: {error}"

    # -- answers ---------------------------------------------------------------------------------

    def answers(self) -> list[Message]:
        """Return what nodes have said of commands since the last call."""
        answers, self._core.answers = self._core.answers, []
        return [message for message in answers if message[4] == messages.COMMAND_DONE]

    def settle(self, message: Message) -> None:
        """Note a node's COMMAND_DONE; tell the client if it was the last."""
        finished = self.commands.settle(message)
        if finished is not None:
            self._post.answer(finished.client, finished.answer())
            self.tell_record()

    def stand(self) -> None:
        """Tell everybody who waits that the box stands still."""
        for pending in self.commands.unanswered():
            client, pending.client = pending.client, b""
            place = moment(self.control.limit_ns)
            self._post.answer(client, f"not over yet: the box stands still at {place}")
        self.send_answers()

    def close(self) -> None:
        """Tell everybody who waits that the run is over."""
        for pending in self.commands.unanswered():
            self._post.answer(pending.client, "error: the run is over")
        self.control.end()
        self.send_answers()

    def send_answers(self) -> None:
        """Send what :class:`Control` has to say."""
        answers, self.control.answers = self.control.answers, []
        for client, text in answers:
            self._post.answer(client, text)

    def tell_record(self) -> None:
        """Put all commands so far where they outlive this process."""
        record = self.commands.record(self._core.stamp_ns() + 1)
        if self._plan.run_dir:
            write_commands(self._plan.run_dir, record)
        self._post.tell_supervisor(wire.pack([frames.RECORD, record]))

    def waiting_for(self) -> list[str]:
        """Return the names of those who are computing, or have yet to say that they are there."""
        nodes = self._core.waiting_for() or sorted(self._post.unheard)
        return [self._plan.name(node) for node in nodes]
