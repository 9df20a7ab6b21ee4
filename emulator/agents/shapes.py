"""What a frame must look like, and who may send it: nothing else is acted on.

Theory of operation
-------------------
:data:`SHAPES` declares every kind of frame of :mod:`emulator.agents.frames`: who sends it, and what
its items are.  :func:`admit` looks at a frame that has come before anybody evaluates it.  A message
between nodes is checked where it travels, in a grant or a reply: its op must be known and have as
many arguments as :data:`emulator.messages.OPS` says.

What does not fit is refused.  From a client or a stranger that is the end of it: it is counted and
written to ``refused.log`` of the run directory (:class:`Refusals`), and the run goes on.  An agent of
the run that sends such a frame is broken, and the run ends with its name.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from emulator import wire
from emulator.agents import frames
from emulator.messages import OPS

#: Who may send a frame.
AGENT = "agent"
COORDINATOR = "coordinator"
SUPERVISOR = "supervisor"
CLIENT = "client"

#: Largest frame that a client may send, and the most that its command may hold.
CLIENT_BYTES_MAX = 64 << 10
COMMAND_WORDS_MAX = 64
COMMAND_WORD_MAX = 48 << 10  # workloads are added as one

#: Lines that ``refused.log`` may have; further refusals are counted only.
REFUSALS_LOGGED_MAX = 1000

REFUSED_LOG = "refused.log"


class FrameError(wire.WireError):
    """A frame does not fit its shape; the text says how."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of frame: its name, who sends it, the types of its items after the kind."""

    name: str
    sender: str
    items: tuple[type, ...]


SHAPES: dict[int, Shape] = {
    frames.HELLO: Shape("HELLO", AGENT, (int, str, int, int, list, list)),
    frames.GRANT: Shape("GRANT", COORDINATOR, (int, int, int, int, int, list, list)),
    frames.REPLY: Shape("REPLY", AGENT, (list, list, list)),
    frames.FINISH: Shape("FINISH", COORDINATOR, (int, int, int, int, int, list, list)),
    frames.BOOKS: Shape("BOOKS", AGENT, (dict, dict)),
    frames.SNAPSHOT: Shape("SNAPSHOT", COORDINATOR, ()),
    frames.STATE: Shape("STATE", AGENT, (bytes,)),
    frames.FAILED: Shape("FAILED", AGENT, (str, str)),
    frames.QUIT: Shape("QUIT", COORDINATOR, ()),
    frames.WATCH: Shape("WATCH", SUPERVISOR, (int, str)),
    frames.STOP: Shape("STOP", SUPERVISOR, ()),
    frames.KILL: Shape("KILL", COORDINATOR, (int,)),
    frames.KILLED: Shape("KILLED", SUPERVISOR, (int,)),
    frames.PROGRESS: Shape("PROGRESS", COORDINATOR, (int, int, int, list)),
    frames.RECORD: Shape("RECORD", COORDINATOR, (list,)),
    frames.OUTCOME: Shape(
        "OUTCOME", COORDINATOR, (int, str, int, int, int, int, dict, list, dict, list, str)
    ),
    frames.COMMAND: Shape("COMMAND", CLIENT, (int, list)),
    frames.ANSWER: Shape("ANSWER", COORDINATOR, (str,)),
    frames.BACK: Shape("BACK", AGENT, (int, str, int, int, int, int)),
    frames.RESTORE: Shape("RESTORE", COORDINATOR, (bytes, list, list)),
    frames.REBUILT: Shape("REBUILT", AGENT, ()),
}

_PROMISE = [int, int, list, int, bool, bool, bool]
_MESSAGE = [int, int, int, int, int, list]
_NR_ARGS = {spec.code: len(spec.args) for spec in OPS.values()}


def admit(data: bytes, sender: str, *, sealed: bool = True) -> list[Any]:
    """Return the frame that bytes from a sender are; raise WireError where they do not fit.

    ``sealed``: what is sealed in it stays so.
    """
    if sender == CLIENT:
        if len(data) > CLIENT_BYTES_MAX:
            raise FrameError(f"a client's frame has {CLIENT_BYTES_MAX} bytes at most")
        return check(wire.unpack_plain(data), sender)
    return check(wire.unpack_sealed(data) if sealed else wire.unpack(data), sender)


def check(frame: Any, sender: str) -> list[Any]:
    """Return a frame that fits its shape; raise FrameError for any other."""
    if type(frame) is not list or not frame or type(frame[0]) is not int:
        raise FrameError("not a list that begins with a kind")
    kind = frame[0]
    shape = SHAPES.get(kind)
    if shape is None:
        raise FrameError(f"there is no frame of kind {kind}")
    if shape.sender != sender:
        raise FrameError(f"{shape.name} is not sent by a {sender}")
    if len(frame) != len(shape.items) + 1:
        raise FrameError(f"{shape.name} has {len(shape.items)} items, not {len(frame) - 1}")
    for place, kind_of_item in enumerate(shape.items, 1):
        if type(frame[place]) is not kind_of_item:
            raise FrameError(f"{shape.name}: item {place} is no {kind_of_item.__name__}")
    match kind:
        case frames.REPLY:
            _check_promise(frame[1])
            _check_messages(frame[2])
            _check_publications(frame[3])
        case frames.GRANT | frames.FINISH:
            _check_messages(frame[6])
            _check_views(frame[7])
        case frames.HELLO:
            _check_promise(frame[5])
            _check_publications(frame[6])
        case frames.COMMAND:
            _check_words(frame[2])
    return frame


def _check_promise(items: list[Any]) -> None:
    if list(map(type, items)) != _PROMISE:
        raise FrameError(f"a promise has {len(_PROMISE)} items, six of them plain numbers")


def _check_messages(messages: list[Any]) -> None:
    for message in messages:
        if type(message) is not list or list(map(type, message)) != _MESSAGE:
            raise FrameError("a message is five numbers and a list")
        nr_args = _NR_ARGS.get(message[4])
        if nr_args is None:
            raise FrameError(f"there is no message with op {message[4]}")
        if len(message[5]) > nr_args:
            raise FrameError(f"{OPS[message[4]].name} has {nr_args} arguments at most")


def _check_publications(entries: list[Any]) -> None:
    for entry in entries:
        if type(entry) is not list or list(map(type, entry)) != [int, list]:
            raise FrameError("a publication is a time and a list")


def _check_views(views: list[Any]) -> None:
    for view in views:
        if type(view) is not list or list(map(type, view)) != [int, list]:
            raise FrameError("a view is a node and a list")
        _check_publications(view[1])


def _check_words(words: list[Any]) -> None:
    if not 0 < len(words) <= COMMAND_WORDS_MAX:
        raise FrameError(f"a command has 1 to {COMMAND_WORDS_MAX} words")
    for word in words:
        if type(word) is not str or len(word) > COMMAND_WORD_MAX:
            raise FrameError(
                f"a word of a command is text of {COMMAND_WORD_MAX} characters at most"
            )


class Refusals:
    """The frames that were refused: how many, and from whom in ``refused.log``."""

    __slots__ = ("_path", "count")

    def __init__(self, run_dir: str) -> None:
        self.count = 0
        self._path = os.path.join(run_dir, REFUSED_LOG) if run_dir else ""

    def note(self, peer: str, nr_bytes: int, why: str) -> None:
        """Count a frame that was refused and say why in the log."""
        self.count += 1
        if not self._path or self.count > REFUSALS_LOGGED_MAX:
            return
        last = "; further ones are counted only" if self.count == REFUSALS_LOGGED_MAX else ""
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(f"{when} {peer}: {nr_bytes} bytes refused: {why}{last}\n")
        except OSError:
            # A full disk: the count stands.
            return
