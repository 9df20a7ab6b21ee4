"""Messages as bytes: the msgpack array of a message's items.

HELLO carries :data:`PROTOCOL` and :func:`digest`, so that two builds that disagree refuse each other
at once.  This is the only file that imports msgpack.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol, cast

import msgpack

from emulator.messages import OPS

PROTOCOL = 1


#: msgpack extension types: what travels sealed, and masks of more than 64 CPUs.
SEALED = 1
WIDE_INT = 2

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
    return cast(bytes, msgpack.packb(value, default=_extend))


def unpack(data: bytes) -> Any:
    """Return the plain data of msgpack bytes; arrays come back as lists, seals are broken."""
    return msgpack.unpackb(data, strict_map_key=False, ext_hook=_open)


def unpack_sealed(data: bytes) -> Any:
    """Return the data of msgpack bytes as :func:`pack` takes it again, what is sealed unopened."""
    return msgpack.unpackb(data, strict_map_key=False, ext_hook=_keep_sealed)


# Called for what msgpack has no type for: tasks, and ints beyond 64 bits.
def _extend(value: int | Packable) -> msgpack.ExtType:
    if isinstance(value, int):
        length = value.bit_length() // 8 + 1
        return msgpack.ExtType(WIDE_INT, value.to_bytes(length, "little", signed=True))
    return msgpack.ExtType(SEALED, pack(value.pack()))


def _open(code: int, data: bytes) -> Any:
    return unpack(data) if code == SEALED else _wide_int(code, data)


def _keep_sealed(code: int, data: bytes) -> Any:
    return msgpack.ExtType(code, data) if code == SEALED else _wide_int(code, data)


def _wide_int(code: int, data: bytes) -> int:
    assert code == WIDE_INT, f"msgpack extension {code}"
    return int.from_bytes(data, "little", signed=True)


def digest() -> str:
    """Return a short hash of the schema, for HELLO."""
    text = repr([(s.code, s.name, s.source, s.target, s.args, s.passive) for s in OPS.values()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
