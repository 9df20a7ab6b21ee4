"""Messages as bytes: the msgpack array of a message's items.

HELLO carries :data:`PROTOCOL` and :func:`digest`, so that two builds that disagree refuse each other
at once.  Bytes that are no such array raise :class:`WireError` and nothing else, whatever they are.
This is the only file that imports msgpack.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgpack

from emulator.messages import OPS

PROTOCOL = 1

#: msgpack extension types: what travels sealed, and masks of more than 64 CPUs.
SEALED = 1
WIDE_INT = 2

#: Packers keep their buffers: a new one for each frame would cost more than the packing.
_CONTENT = msgpack.Packer()

#: How deep seals may lie in each other.  Each is opened on the C stack of the one around it, so that
#: some ten thousand of them would end the process.
SEALS_MAX = 8

#: What msgpack raises for bytes that it cannot read.
_UNREADABLE = (ValueError, TypeError, OverflowError, MemoryError, msgpack.UnpackException)

_Extend = Callable[[int, bytes], Any]


class WireError(ValueError):
    """Bytes that are not what :func:`pack` returns."""


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
    """Return the plain data of msgpack bytes; arrays come back as lists, seals are broken.

    Raises WireError for bytes that are none.
    """
    return _unpack(data, _OPENERS[SEALS_MAX])


def unpack_sealed(data: bytes) -> Any:
    """Return the data of msgpack bytes as :func:`pack` takes it again, what is sealed unopened."""
    return _unpack(data, _keep_sealed)


def unpack_plain(data: bytes) -> Any:
    """Return the data of msgpack bytes from a stranger, in which nothing may be sealed."""
    return _unpack(data, _refuse)


def _unpack(data: bytes, extend: _Extend) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=False, ext_hook=extend)
    except WireError:
        raise
    except _UNREADABLE as error:
        raise WireError(f"not msgpack: {str(error) or type(error).__name__}") from error


# Called for what msgpack has no type for: tasks, and ints beyond 64 bits.
def _extend(value: int | Packable) -> msgpack.ExtType:
    if isinstance(value, int):
        length = value.bit_length() // 8 + 1
        return msgpack.ExtType(WIDE_INT, value.to_bytes(length, "little", signed=True))
    return msgpack.ExtType(SEALED, pack(value.pack()))


def _opener(depth: int) -> _Extend:
    def extend(code: int, data: bytes) -> Any:
        if code != SEALED:
            return _wide_int(code, data)
        if not depth:
            raise WireError(f"more than {SEALS_MAX} seals in each other")
        return _unpack(data, _OPENERS[depth - 1])

    return extend


#: By how many seals may still be broken.
_OPENERS = [_opener(depth) for depth in range(SEALS_MAX + 1)]


def _keep_sealed(code: int, data: bytes) -> Any:
    return msgpack.ExtType(code, data) if code == SEALED else _wide_int(code, data)


def _refuse(code: int, _data: bytes) -> Any:
    raise WireError(f"extension {code}")


def _wide_int(code: int, data: bytes) -> int:
    if code != WIDE_INT:
        raise WireError(f"extension {code}")
    return int.from_bytes(data, "little", signed=True)


def digest() -> str:
    """Return a short hash of the schema, for HELLO."""
    text = repr([(s.code, s.name, s.source, s.target, s.args, s.passive) for s in OPS.values()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
