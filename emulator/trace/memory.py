"""Rings without a file: one that keeps its records in a list, and one that only counts.

Both have the interface of :class:`emulator.trace.ring.Ring`, give the same positions and switch off
the same events, so a node cannot tell them apart.
"""

from collections.abc import Iterable

from emulator.trace.layout import (
    HEAD_BYTES,
    LIVE,
    LIVE_OFFSET,
    NAMES_OFFSET,
    RING_BYTES_MAX,
    SEGMENT_BYTES,
    Image,
    Record,
    enabled_events,
    pack_header,
)
from emulator.trace.names import NameTable
from emulator.tracepoints import RECORD


class MemoryRing:
    """A ring in memory with the interface of :class:`Ring`; ``records`` is a plain list.

    For tests and for boxes whose rings nobody keeps on disk; nothing is ever dropped.
    """

    __slots__ = ("_region", "enabled", "lost", "names", "node_name", "number", "records")

    def __init__(
        self, node_name: str = "cpu0", number: int = 0, trace_off: Iterable[str] = ()
    ) -> None:
        self.node_name = node_name
        self.number = number
        self.enabled = enabled_events(trace_off)
        self.lost = 0
        self.records: list[Record] = []
        self._region = bytearray(HEAD_BYTES - NAMES_OFFSET)
        self.names = NameTable(memoryview(self._region))

    @property
    def position(self) -> int:
        """How many records were written."""
        return len(self.records)

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
        self.records.append((time_ns, event, flags, 0, pid, cause, a, b, c, d, e))
        return len(self.records) - 1

    def intern(self, text: str) -> int:
        """Return the id of a name, adding it if it is new."""
        return self.names.intern(text, len(self.records))

    def comm(self, pid: int, name: str) -> None:
        """Say what the comm of ``pid`` is."""
        self.names.comm(pid, name, len(self.records))

    def truncate_to(self, position: int) -> None:
        """Take the ring back to ``position``."""
        assert 0 <= position <= len(self.records)
        del self.records[position:]
        self.names.rewind(position)

    def bytes(self) -> bytes:
        """Return the records as they would lie in a file, without head and zero tail."""
        return b"".join(RECORD.pack(*record) for record in self.records)

    def image(self, segment_bytes: int = SEGMENT_BYTES) -> Image:
        """Return the whole file that a :class:`Ring` of unlimited size would hold."""
        data = self.bytes()
        segments_max = RING_BYTES_MAX // segment_bytes
        head = bytearray(HEAD_BYTES)
        header = pack_header(self.number, self.node_name, segment_bytes, segments_max)
        head[: len(header)] = header
        LIVE.pack_into(head, LIVE_OFFSET, max(len(data) - 1, 0) // segment_bytes, 0)
        head[NAMES_OFFSET:] = self._region
        return bytes(head) + data + bytes(-len(data) % segment_bytes)

    def close(self) -> None:
        """Do nothing; the records stay readable."""


class NullRing:
    """A ring that only counts: positions are as in any other ring, nothing is kept."""

    __slots__ = ("enabled", "lost", "names", "node_name", "number", "position")

    def __init__(
        self, node_name: str = "cpu0", number: int = 0, trace_off: Iterable[str] = ()
    ) -> None:
        self.node_name = node_name
        self.number = number
        self.enabled = enabled_events(trace_off)
        self.lost = 0
        self.position = 0
        self.names = NameTable()

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
        """Count one record and return its position, or -1 if its event is switched off."""
        if not self.enabled[event]:
            return -1
        position = self.position
        self.position = position + 1
        return position

    def intern(self, text: str) -> int:
        """Return the id of a name, adding it if it is new."""
        return self.names.intern(text, self.position)

    def comm(self, pid: int, name: str) -> None:
        """Say what the comm of ``pid`` is."""
        self.names.comm(pid, name, self.position)

    def truncate_to(self, position: int) -> None:
        """Take the count back to ``position``."""
        assert 0 <= position <= self.position
        self.position = position

    def close(self) -> None:
        """Do nothing."""
