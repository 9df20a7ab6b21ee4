"""The frames between processes: what each is called, and how grants and replies are laid out.

A frame is one msgpack array whose first item is its kind.  Messages between nodes travel inside
grants and replies, as :mod:`emulator.wire` describes them; the coordinator leaves the tasks in them
sealed.

=========  ========================  ==============================================================
kind       from → to                 further items
=========  ========================  ==============================================================
HELLO      agent → coordinator       protocol, digest, node, pid, promise, publications
GRANT      coordinator → agent       bound, horizon, mail_safe, asleep, floor, messages, views
REPLY      agent → coordinator       promise, messages, publications
FINISH     coordinator → agent       as GRANT; nothing may come of it
BOOKS      agent → coordinator       the node's books, the agent's host facts
SNAPSHOT   coordinator → agent       -
STATE      agent → coordinator       the state of the node's seat, as bytes
BACK       agent → coordinator       protocol, digest, node, pid, signal that killed its predecessor
                                     (0: the run is resumed), host time at which that was noticed
RESTORE    coordinator → agent       state (b"": build it anew), frames since, sums of the answers
                                     that have come
REBUILT    agent → coordinator       -: the answers that were missing follow
FAILED     agent → coordinator       traceback, what the host refused it: an agent's last frame
QUIT       coordinator → agent       -
WATCH      supervisor → coordinator  protocol, digest: here I am
STOP       supervisor → coordinator  end the run soon, cleanly
KILL       coordinator → supervisor  node: its agent is to be killed
KILLED     supervisor → coordinator  node
PROGRESS   coordinator → all         reached, windows, messages, names of those waited for
RECORD     coordinator → supervisor  commands given so far, should the run end with nobody to tell
OUTCOME    coordinator → supervisor  status, error, reached, windows, messages, bytes, books,
                                     commands, host facts by agent, faults, name of an agent to
                                     which the connection is lost
COMMAND    client → coordinator      protocol, words
ANSWER     coordinator → client      text
=========  ========================  ==============================================================
"""

from __future__ import annotations

from typing import Any

from emulator import wire
from emulator.engine.board import Publication
from emulator.engine.node import Promise
from emulator.engine.seat import Reply
from emulator.engine.windows import Grant
from emulator.messages import message_from_list
from emulator.types import Message

(
    HELLO,
    GRANT,
    REPLY,
    FINISH,
    BOOKS,
    SNAPSHOT,
    STATE,
    FAILED,
    QUIT,
    WATCH,
    STOP,
    KILL,
    KILLED,
    PROGRESS,
    OUTCOME,
    COMMAND,
    ANSWER,
    RECORD,
    BACK,
    RESTORE,
    REBUILT,
) = range(1, 22)


def promise_items(promise: Promise) -> list[Any]:
    """Return a promise as plain data."""
    return [
        promise.reached_ns,
        promise.next_ns,
        promise.send_ns,
        promise.mail_ns,
        promise.wants_view,
        promise.mail_sends,
        promise.halted,
    ]


def promise_of(items: list[Any]) -> Promise:
    """Rebuild a promise, the inverse of :func:`promise_items`."""
    return Promise(*items)


def pack_grant(kind: int, grant: Grant, floor_ns: int) -> bytes:
    """Return a GRANT or FINISH frame."""
    return wire.pack(
        [
            kind,
            grant.bound_ns,
            grant.horizon_ns,
            grant.mail_safe_ns,
            grant.asleep,
            floor_ns,
            grant.messages,
            grant.views,
        ]
    )


def grant_of(node: int, frame: list[Any]) -> tuple[Grant, int]:
    """Return the grant of a GRANT or FINISH frame, and its floor."""
    _, bound, horizon, mail_safe, asleep, floor, messages, views = frame
    grant = Grant(
        node,
        bound,
        horizon,
        mail_safe,
        asleep,
        [message_from_list(message) for message in messages],
        [(publisher, _publications(entries)) for publisher, entries in views],
    )
    return grant, floor


def pack_reply(reply: Reply) -> bytes:
    """Return a REPLY frame."""
    return wire.pack([REPLY, promise_items(reply.promise), reply.outbox, reply.publications])


def reply_of(frame: list[Any]) -> Reply:
    """Return the reply of a REPLY frame."""
    _, promise, outbox, publications = frame
    return Reply(
        promise_of(promise),
        [message_from_list(message) for message in outbox],
        _publications(publications),
    )


def _publications(entries: list[Any]) -> list[Publication]:
    return [(time_ns, tuple(facts)) for time_ns, facts in entries]


def opened(message: Message) -> Message:
    """Return a message that came in a reply as its target takes it, what is sealed opened."""
    return message_from_list(wire.unpack(wire.pack(message)))
