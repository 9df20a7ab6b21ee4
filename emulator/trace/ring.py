"""The event ring of one node: a memory-mapped file of 64-byte records.

Theory of operation
-------------------
A ring is to a node what the per-CPU ftrace buffer is to a CPU.  Its owner appends; anybody may
read, also while it is written and after its writer was killed: a store into a shared mapping is in
the page cache at once and survives the process.

The file is a head and then slots of one *segment* each::

    0      header: what never changes, then the current segment and the oldest one kept
    4096   name table (names.py)
    data   slot 0 | slot 1 | …          segment s lies in slot s mod segments_max

The file grows by one segment when the last is full, up to ``segments_max``; then the oldest
segment is zeroed and used again, and ``first`` counts what went.  Space is allocated before it is
mapped, so a full disk is an OSError here, which names the file, and not a SIGBUS at some later
record.  What was recorded before it stays as it is.

No count is kept per record.  An unwritten record is all zeros and event ids start at 1, so the end
of the ring is found by bisection in the current segment.  A ring is never trimmed and never marked
as closed: a ring whose writer was killed and one that was closed hold the same bytes, and since the
header names no pid, host or wall time, so do the rings of two equal runs.

A *position* is the number of records written before a record, from the beginning of the run.  It
is part of a node's snapshot; :meth:`Ring.truncate_to` takes the ring back to it, and the rebuilt
node writes the same bytes again.  A record of which the kernel stopped the writer halfway (one
SIGKILL in a hundred thousand) shows zeros in its last arguments.
"""

import errno
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

from emulator.hosterrors import named_errors
from emulator.trace.layout import (
    EVENTS_MAX,
    HEAD_BYTES,
    LIVE,
    LIVE_OFFSET,
    NAMES_OFFSET,
    RING_BYTES_MAX,
    SEGMENT_BYTES,
    enabled_events,
    pack_header,
    written_in,
)
from emulator.trace.memory import MemoryRing, NullRing
from emulator.trace.names import NameTable
from emulator.tracepoints import RECORD, RECORD_SIZE

__all__ = ["MemoryRing", "NullRing", "Ring"]

_PACK_INTO = RECORD.pack_into


class Ring:
    """The ring file of one node, for its writer (a ``TraceSink``).

    ``number`` is the CPU's, or ``nr_cpus`` and up for devices and the coordinator.  At most
    ``bytes_max`` bytes of records are kept (two segments at least).  Events named in ``trace_off``
    are not recorded; a caller that asks ``enabled[event]`` first is spared their cost.  Creating
    raises OSError where the file cannot be made; an existing file is replaced.
    """

    __slots__ = (
        "_fd",
        "_file_bytes",
        "_first",
        "_head",
        "_map",
        "_mask",
        "_segment_bytes",
        "_segments_max",
        "enabled",
        "names",
        "node_name",
        "number",
        "path",
        "position",
    )

    def __init__(
        self,
        path: str | Path,
        node_name: str,
        number: int,
        bytes_max: int = RING_BYTES_MAX,
        trace_off: Iterable[str] = (),
        segment_bytes: int = SEGMENT_BYTES,
        *,
        existing: bool = False,
    ) -> None:
        assert segment_bytes & (segment_bytes - 1) == 0
        assert segment_bytes % mmap.ALLOCATIONGRANULARITY == 0
        self.path = str(path)
        self.node_name = node_name
        self.number = number
        self.enabled = enabled_events(trace_off)
        self.position = 0
        self._mask = segment_bytes - 1
        self._segment_bytes = segment_bytes
        self._segments_max = max(2, bytes_max // segment_bytes)
        self._first = 0
        flags = os.O_RDWR if existing else os.O_RDWR | os.O_CREAT | os.O_TRUNC
        self._fd = os.open(self.path, flags | os.O_CLOEXEC, 0o644)
        self._file_bytes = os.fstat(self._fd).st_size
        self._grow(HEAD_BYTES)
        with named_errors(self.path):
            self._head = mmap.mmap(self._fd, HEAD_BYTES)
        self._map = self._head  # until the first segment begins
        header = pack_header(number, node_name, segment_bytes, self._segments_max)
        if existing:
            self._recover(header)
        else:
            self._head[: len(header)] = header
        self.names = NameTable(memoryview(self._head)[NAMES_OFFSET:])

    @classmethod
    def reopen(
        cls,
        path: str | Path,
        node_name: str,
        number: int,
        bytes_max: int = RING_BYTES_MAX,
        trace_off: Iterable[str] = (),
        segment_bytes: int = SEGMENT_BYTES,
    ) -> "Ring":
        """Open a ring that another process began, to write on after its last record.

        Raises OSError if there is none, ValueError if it was begun with other arguments.
        """
        return cls(path, node_name, number, bytes_max, trace_off, segment_bytes, existing=True)

    def emit(
        self,
        time_ns: int,
        event: int,
        flags: int,
        pid: int,
        cause: int,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        e: int = 0,
    ) -> int:
        """Append one record and return its position, or -1 if its event is switched off."""
        if not self.enabled[event]:
            return -1
        position = self.position
        offset = (position << 6) & self._mask
        if not offset:
            self._begin_segment(position)
        _PACK_INTO(self._map, offset, time_ns, event, flags, 0, pid, cause, a, b, c, d, e)
        self.position = position + 1
        return position

    def intern(self, text: str) -> int:
        """Return the id of a name in this ring's name table, adding it if it is new."""
        return self.names.intern(text, self.position)

    def comm(self, pid: int, name: str) -> None:
        """Say what the comm of ``pid`` is, for every reader of this ring."""
        self.names.comm(pid, name, self.position)

    @property
    def lost(self) -> int:
        """How many records went with the oldest segments."""
        return self._first * self._segment_bytes // RECORD_SIZE

    def truncate_to(self, position: int) -> None:
        """Take the ring back to ``position``: later records and names are as never written."""
        assert self.lost <= position <= self.position, (self.lost, position, self.position)
        per_segment = self._segment_bytes // RECORD_SIZE
        segment = max(position - 1, 0) // per_segment
        if position == self.lost:
            segment = self._first  # the slot of the one before it belongs to a later segment
        for later in range(segment + 1, (self.position - 1) // per_segment + 1):
            self._map_segment(later)
            self._map[:] = bytes(self._segment_bytes)
        if self.position:
            self._map_segment(segment)
            start = (position - segment * per_segment) * RECORD_SIZE
            self._map[start:] = bytes(self._segment_bytes - start)
        self.position = position
        self.names.rewind(position)
        LIVE.pack_into(self._head, LIVE_OFFSET, segment, self._first)

    def close(self) -> None:
        """Give up the file; the ring can no longer be written.  The bytes stay as they are."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self.enabled = [False] * EVENTS_MAX

    def _begin_segment(self, position: int) -> None:
        segment = position * RECORD_SIZE // self._segment_bytes
        used_again = segment >= self._segments_max
        if used_again:
            # First of all say that the oldest is gone: a reader may be in the middle of it.
            self._first = max(self._first, segment - self._segments_max + 1)
            LIVE.pack_into(self._head, LIVE_OFFSET, segment - 1, self._first)
        else:
            self._grow(HEAD_BYTES + (segment + 1) * self._segment_bytes)
        self._map_segment(segment)
        if used_again:
            self._map[:] = bytes(self._segment_bytes)
        LIVE.pack_into(self._head, LIVE_OFFSET, segment, self._first)

    def _map_segment(self, segment: int) -> None:
        offset = HEAD_BYTES + segment % self._segments_max * self._segment_bytes
        with named_errors(self.path):
            self._map = mmap.mmap(self._fd, self._segment_bytes, offset=offset)

    def _grow(self, size: int) -> None:
        if size <= self._file_bytes:
            return
        with named_errors(self.path):
            try:
                os.posix_fallocate(self._fd, self._file_bytes, size - self._file_bytes)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                os.ftruncate(self._fd, size)  # a file system that cannot promise space
        self._file_bytes = size

    # The writer before us may have died anywhere between two stores; the zero tail tells where.
    def _recover(self, header: bytes) -> None:
        if self._head[: len(header)] != header:
            raise ValueError(f"{self.path}: not the ring that {self.node_name} began")
        segment, self._first = LIVE.unpack_from(self._head, LIVE_OFFSET)
        if self._file_bytes == HEAD_BYTES:
            return
        self._map_segment(segment)
        with memoryview(self._map) as view:
            self.position = segment * (self._segment_bytes // RECORD_SIZE) + written_in(view)
