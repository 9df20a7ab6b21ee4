"""How a ring lies in its file: the header, the live words, segments, causes.

Shared by the writers (:mod:`emulator.trace.ring`, :mod:`emulator.trace.memory`) and the reader
(:mod:`emulator.trace.reader`); :mod:`emulator.trace.ring` explains why it is as it is.
"""

import hashlib
import mmap
import struct
from collections.abc import Iterable

from emulator.tracepoints import BY_NAME, RECORD_SIZE, TRACEPOINTS

MAGIC = b"smpboxR1"
#: magic, record size, data offset, segment bytes, segments_max, ring number, schema, node name.
HEADER = struct.Struct("<8sIIIIi4x16s48s")
#: current segment, oldest segment kept.
LIVE = struct.Struct("<QQ")
LIVE_OFFSET = 128
NAMES_OFFSET = 4096

HEAD_BYTES = 1 << 18
SEGMENT_BYTES = 1 << 20
RING_BYTES_MAX = 1 << 30
EVENTS_MAX = 256

CAUSE_SHIFT = 40

assert HEADER.size <= LIVE_OFFSET
assert LIVE_OFFSET + LIVE.size <= NAMES_OFFSET < HEAD_BYTES
assert HEAD_BYTES % mmap.ALLOCATIONGRANULARITY == 0
assert SEGMENT_BYTES % mmap.ALLOCATIONGRANULARITY == 0
assert RECORD_SIZE == 1 << 6
assert max(TRACEPOINTS) < EVENTS_MAX
assert min(TRACEPOINTS) > 0

#: The bytes of a whole ring file.
Image = bytes

#: The fields of one record in the order of :data:`emulator.tracepoints.RECORD`, spare included.
Record = tuple[int, int, int, int, int, int, int, int, int, int, int]


def schema_digest() -> bytes:
    """Return 16 characters that change with any event's id, name, fields or format."""
    text = repr([(p.id, p.name, p.fields, p.print_format) for p in TRACEPOINTS.values()])
    return hashlib.sha256(text.encode()).hexdigest()[:16].encode()


def cause_of(number: int, position: int) -> int:
    """Return the ``cause`` that names record ``position`` of ring ``number``."""
    return number << CAUSE_SHIFT | (position + 1)


def split_cause(cause: int) -> tuple[int, int]:
    """Return ring number and position of a cause; the position is -1 where it names no record."""
    return cause >> CAUSE_SHIFT, (cause & (1 << CAUSE_SHIFT) - 1) - 1


def enabled_events(trace_off: Iterable[str]) -> list[bool]:
    """Return for every event id whether it is recorded; raise ValueError for an unknown name."""
    flags = [number in TRACEPOINTS for number in range(EVENTS_MAX)]
    for name in trace_off:
        if name not in BY_NAME:
            raise ValueError(f"{name!r} is not a tracepoint")
        flags[BY_NAME[name].id] = False
    return flags


def pack_header(number: int, node_name: str, segment_bytes: int, segments_max: int) -> bytes:
    """Return the part of the head that never changes."""
    name = node_name.encode()
    assert len(name) <= 48, node_name
    sizes = (RECORD_SIZE, HEAD_BYTES, segment_bytes, segments_max)
    return HEADER.pack(MAGIC, *sizes, number, schema_digest(), name)


def written_in(segment: memoryview) -> int:
    """Return how many records of a segment are written: those before its zero tail."""
    low, high = 0, len(segment) // RECORD_SIZE
    while low < high:
        middle = (low + high) // 2
        if segment[middle * RECORD_SIZE + 8] or segment[middle * RECORD_SIZE + 9]:
            low = middle + 1
        else:
            high = middle
    return low
