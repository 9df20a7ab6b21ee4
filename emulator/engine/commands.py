"""Commands under way: each is messages to nodes at one emulated time, and their answers.

Timed commands are known before the run and live ones are stamped by the coordinator; from there on
both are the same.  A node tells what became of a command with COMMAND_DONE; when all nodes that it
went to have answered, it is done.  Every command is recorded, answered or not, so that the run can
be repeated.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from emulator.latency import COORDINATOR
from emulator.messages import COMMAND
from emulator.types import Message

#: Sequence numbers below are for what builders put into inboxes before the run.
FIRST_SEQ = 1 << 20


#: Commands of one run: each is kept for the record.
COMMANDS_MAX = 10_000


@dataclass(slots=True)
class Pending:
    """A command under way: when, what, for whom, and which nodes have yet to answer."""

    at_ns: int
    words: list[Any]
    waits: set[int]
    client: bytes = b""
    answers: list[str] = field(default_factory=list)

    def answer(self) -> str:
        """Return what the nodes have said so far, in an order that is not that of their processes."""
        if self.waits:
            return "no answer from nodes " + " ".join(map(str, sorted(self.waits)))
        return "\n".join(sorted(self.answers)) or "refused: there is no such task now"


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

    def full(self) -> bool:
        """Return whether the run can take no more commands."""
        return len(self._given) >= COMMANDS_MAX

    def given(self) -> list[Pending]:
        """Return every command, in the order in which they were given."""
        return list(self._given)

    def pack(self) -> list[Any]:
        """Return all commands as plain data; those who gave them and still wait are forgotten."""
        places = {id(one): place for place, one in enumerate(self._given)}
        return [
            self._seq,
            [[p.at_ns, p.words, sorted(p.waits), p.answers] for p in self._given],
            [places[id(one)] for one in self._pending],
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self._seq, given, pending = data
        self._given = [
            Pending(at_ns, words, set(waits), answers=answers)
            for at_ns, words, waits, answers in given
        ]
        self._pending = [self._given[place] for place in pending]

    def unknown(self, record: Iterable[tuple[int, list[Any]]]) -> list[tuple[int, list[Any]]]:
        """Return those of a record that have not been given here: (time, words) each."""
        known = Counter((p.at_ns, _line(p.words)) for p in self._given)
        found: list[tuple[int, list[Any]]] = []
        for at_ns, words in record:
            if known[at_ns, _line(words)] > 0:
                known[at_ns, _line(words)] -= 1
            else:
                found.append((at_ns, words))
        return found

    def unanswered(self) -> list[Pending]:
        """Return the commands that not all nodes have answered."""
        return list(self._pending)


def commands_text(record: Iterable[tuple[int, list[Any], Any]]) -> str:
    """Return commands as YAML: a list with the time, the line and the answer of each."""
    # A JSON list is a YAML list too, and each line is a command.
    lines = [
        json.dumps({"at": f"{at_ns}ns", "do": _line(words), "answer": answer})
        for at_ns, words, answer in record
    ]
    return "".join(f"- {line}\n" for line in lines) or "[]\n"


def _line(words: list[Any]) -> str:
    return shlex.join(map(str, words))


def answers_for(message: Message) -> int:
    """Return the node whose answer a COMMAND_DONE is: the sender, or who passed the command on."""
    place: int = message[5][2] if len(message[5]) > 2 else -1
    return place if place >= 0 else message[1]


def has_taken_down(message: Message) -> bool:
    """Return whether a COMMAND_DONE says that its sender went offline: a fault of the machine."""
    words, answer = message[5][:2]
    return words[:2] in (["cpu", "offline"], ["cpu", "kill"]) and str(answer).startswith("done")
