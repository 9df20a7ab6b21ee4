"""Commands under way: each is messages to nodes at one emulated time, and their answers.

Timed commands are known before the run and live ones are stamped by the coordinator; from there on
both are the same.  A node tells what became of a command with COMMAND_DONE; when all nodes that it
went to have answered, it is done.  Every command is recorded, answered or not, so that the run can
be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from emulator.latency import COORDINATOR
from emulator.messages import COMMAND
from emulator.types import Message

#: Sequence numbers below are for what builders put into inboxes before the run.
FIRST_SEQ = 1 << 20


@dataclass(slots=True)
class Pending:
    """A command under way: when, what, for whom, and which nodes have yet to answer."""

    at_ns: int
    words: list[Any]
    waits: set[int]
    client: bytes = b""
    answers: list[str] = field(default_factory=list)

    def answer(self) -> str:
        """Return what the nodes have said so far."""
        if self.waits:
            return "no answer from nodes " + " ".join(map(str, sorted(self.waits)))
        return "\n".join(self.answers) or "nobody had anything to do"


class Commands:
    """The commands of a run, in the order in which they were given."""

    __slots__ = ("_given", "_pending", "_seq")

    def __init__(self) -> None:
        self._pending: list[Pending] = []
        self._seq = FIRST_SEQ
        self._given: list[Pending] = []

    def give(
        self, at_ns: int, targets: list[int], words: list[Any], client: bytes = b""
    ) -> list[Message]:
        """Return the messages that carry a command to the nodes it concerns."""
        assert targets, words
        pending = Pending(at_ns, list(words), set(targets), client)
        self._pending.append(pending)
        self._given.append(pending)
        messages: list[Message] = []
        for target in targets:
            self._seq += 1
            messages.append((at_ns, COORDINATOR, self._seq, target, COMMAND, (list(words),)))
        return messages

    def give_timed(self, commands: Iterable[tuple[int, int, list[Any]]]) -> list[Message]:
        """Return the messages of commands known before the run, (time, target, words) each.

        Neighbours that differ in their target alone are one command; a target that comes again has
        it again.
        """
        messages: list[Message] = []
        for (at_ns, words), same in groupby(commands, key=lambda command: (command[0], command[2])):
            targets: list[int] = []
            for _, target, _ in same:
                if target in targets:
                    messages += self.give(at_ns, targets, words)
                    targets = []
                targets.append(target)
            messages += self.give(at_ns, targets, words)
        return messages

    def settle(self, message: Message) -> Pending | None:
        """Note a node's COMMAND_DONE and return its command if that was the last answer."""
        words, answer = message[5][:2]
        source = answers_for(message)
        pending = next(p for p in self._pending if source in p.waits and p.words == list(words))
        pending.waits.discard(source)
        if answer and answer not in pending.answers:
            pending.answers.append(str(answer))
        if pending.waits:
            return None
        self._pending.remove(pending)
        return pending

    def record(self, end_ns: int) -> list[tuple[int, list[Any], Any]]:
        """Return every command that took effect before ``end_ns``: (time, words, answer)."""
        return [(p.at_ns, p.words, p.answer()) for p in self._given if p.at_ns < end_ns]

    def given(self) -> list[Pending]:
        """Return every command, in the order in which they were given."""
        return list(self._given)

    def unanswered(self) -> list[Pending]:
        """Return the commands that not all nodes have answered."""
        return list(self._pending)


def answers_for(message: Message) -> int:
    """Return the node whose answer a COMMAND_DONE is: the sender, or who passed the command on."""
    place: int = message[5][2] if len(message[5]) > 2 else -1
    return place if place >= 0 else message[1]


def has_taken_down(message: Message) -> bool:
    """Return whether a COMMAND_DONE says that its sender went offline: a fault of the machine."""
    words, answer = message[5][:2]
    return words[:2] in (["cpu", "offline"], ["cpu", "kill"]) and str(answer).startswith("done")
