"""Messages as bytes: the msgpack array of a message's items.

HELLO carries :data:`PROTOCOL` and :func:`digest`, so that two builds that disagree refuse each other
at once.  This is the only file that imports msgpack.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol, cast

import msgpack

from emulator.messages import (
    ACTIVATE,
    ADOPT,
    ATTACH,
    BALANCE,
    BALANCE_DONE,
    BALANCE_PAID,
    BALANCE_PAY,
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
    OPS,
    PASSIVE_OPS_END,
    PUBLISH_DOMAINS,
    SCHEDULE,
    STOP,
    STOPPED,
    TAG_GRANT,
    TAG_REQUEST,
    OpSpec,
    is_passive,
    message_from_list,
)

PROTOCOL = 1


#: The msgpack extension type of what travels sealed.
SEALED = 1

#: Packers keep their buffers: a new one for each frame would cost more than the packing.
_CONTENT = msgpack.Packer()


class Packable(Protocol):
    """What a message may carry besides plain data: a task."""

    def pack(self) -> list[Any]:
        """Return all of it as plain data."""
        ...


def pack(value: Any) -> bytes:
    """Return the msgpack bytes of plain data (ints, strings, lists, dicts; tuples become lists).

    Tasks in it are packed and sealed: who only carries them need not open them.
    """
    return cast(bytes, _FRAME.pack(value))


def unpack(data: bytes) -> Any:
    """Return the plain data of msgpack bytes; arrays come back as lists, seals are broken."""
    return msgpack.unpackb(data, strict_map_key=False, ext_hook=_open)


def unpack_sealed(data: bytes) -> Any:
    """Return the data of msgpack bytes as :func:`pack` takes it again, what is sealed unopened."""
    return msgpack.unpackb(data, strict_map_key=False)


def _seal(value: Packable) -> msgpack.ExtType:
    return msgpack.ExtType(SEALED, _CONTENT.pack(value.pack()))


_FRAME = msgpack.Packer(default=_seal)


def _open(code: int, data: bytes) -> Any:
    assert code == SEALED, f"msgpack extension {code}"
    return msgpack.unpackb(data, strict_map_key=False)


def digest() -> str:
    """Return a short hash of the schema, for HELLO."""
    text = repr([(s.code, s.name, s.source, s.target, s.args, s.passive) for s in OPS.values()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


__all__ = [
    "ACTIVATE",
    "ADOPT",
    "ATTACH",
    "BALANCE",
    "BALANCE_DONE",
    "BALANCE_PAID",
    "BALANCE_PAY",
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
    "OPS",
    "PASSIVE_OPS_END",
    "PROTOCOL",
    "PUBLISH_DOMAINS",
    "SCHEDULE",
    "STOP",
    "STOPPED",
    "TAG_GRANT",
    "TAG_REQUEST",
    "OpSpec",
    "digest",
    "is_passive",
    "message_from_list",
    "pack",
    "unpack",
]
