"""Messages as bytes: the msgpack array of a message's items.

HELLO carries :data:`PROTOCOL` and :func:`digest`, so that two builds that disagree refuse each other
at once.  This is the only file that imports msgpack.
"""

from __future__ import annotations

import hashlib
from typing import Any, cast

import msgpack

from emulator.messages import (
    ACTIVATE,
    ADOPT,
    ATTACH,
    BALANCE,
    BALANCE_ABORT,
    BALANCE_DONE,
    CALL_COMPLETE,
    COMMAND,
    COMMAND_DONE,
    COMPLETION,
    DETACH,
    DETACHED,
    DIO_DONE,
    DOORBELL,
    DOORBELLS,
    NOHZ_KICK,
    NOHZ_UPDATE,
    PASSIVE_OPS_END,
    PUBLISH_DOMAINS,
    SCHEDULE,
    STOP,
    STOPPED,
    TAG_GRANT,
    TAG_REQUEST,
    OPS,
    OpSpec,
    is_passive,
    message_from_list,
)

PROTOCOL = 1


def pack(value: Any) -> bytes:
    """Return the msgpack bytes of plain data (ints, strings, lists, dicts; tuples become lists)."""
    return cast(bytes, msgpack.packb(value, use_bin_type=True))


def unpack(data: bytes) -> Any:
    """Return the plain data of msgpack bytes; arrays come back as lists."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False, use_list=True)


def digest() -> str:
    """Return a short hash of the schema, for HELLO."""
    text = repr([(s.code, s.name, s.source, s.target, s.args, s.passive) for s in OPS.values()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


__all__ = [
    "ACTIVATE",
    "ADOPT",
    "ATTACH",
    "BALANCE",
    "BALANCE_ABORT",
    "BALANCE_DONE",
    "CALL_COMPLETE",
    "COMMAND",
    "COMMAND_DONE",
    "COMPLETION",
    "DETACH",
    "DETACHED",
    "DIO_DONE",
    "DOORBELL",
    "DOORBELLS",
    "NOHZ_KICK",
    "NOHZ_UPDATE",
    "PASSIVE_OPS_END",
    "PUBLISH_DOMAINS",
    "SCHEDULE",
    "STOP",
    "STOPPED",
    "TAG_GRANT",
    "TAG_REQUEST",
    "PROTOCOL",
    "OPS",
    "OpSpec",
    "digest",
    "is_passive",
    "message_from_list",
    "pack",
    "unpack",
]
