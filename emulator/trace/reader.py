"""Reading rings: of a finished run, of a killed one, and of one that is being written.

Theory of operation
-------------------
A :class:`RingReader` maps a ring file and looks at records where they lie.  Records between
``first`` and ``position`` exist; :meth:`RingReader.refresh` looks again at a live ring.  Because
segments are reused in turn, the records of a range lie in at most a few contiguous pieces, which
:meth:`RingReader.pieces` hands out as plain memoryviews.

Figures need a few columns of millions of records.  :class:`Piece` therefore offers columns as
strided views, made and copied at C speed, and the event ids as ``bytes``, on which selection is a
``translate()`` and a ``compress()``; no object is made for a record that nobody asked for.

A reader of a live ring holds the newest record back until it has seen it twice: the writer may be
in the middle of it.
"""

import mmap
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import compress
from pathlib import Path

from emulator.trace.layout import (
    HEADER,
    LIVE,
    LIVE_OFFSET,
    MAGIC,
    NAMES_OFFSET,
    Record,
    schema_digest,
    split_cause,
    written_in,
)
from emulator.trace.memory import MemoryRing
from emulator.trace.names import NameTable
from emulator.tracepoints import RECORD, RECORD_SIZE

#: Records that one piece holds at most: bounds what the columns of a long run need in memory.
PIECE_RECORDS_MAX = 1 << 17

CAUSES_MAX = 64

# Columns of a piece by their place among the eight 64-bit words of a record.
COLUMN_TIME = 0
COLUMN_CAUSE = 2
COLUMN_A = 3
COLUMN_B = 4
COLUMN_C = 5
COLUMN_D = 6
COLUMN_E = 7


class RingError(Exception):
    """A file is not a ring, or one of another build; the text says which."""


class Piece:
    """Some consecutive records, from ring position ``start`` on."""

    __slots__ = ("events", "length", "start", "words")

    def __init__(self, view: memoryview, start: int) -> None:
        self.start = start
        self.length = len(view) // RECORD_SIZE
        self.words = view.cast("q")
        self.events = view[8::RECORD_SIZE].tobytes()  # ids are below 256: the low byte is all

    def column(self, column: int) -> memoryview:
        """Return one 64-bit column of all records as a strided view."""
        return self.words[column::8]

    def gather_pids(self, indices: list[int]) -> list[int]:
        """Return the pid of the task that was current at the records at ``indices``."""
        pids = self.words.cast("B").cast("I")[3::16]
        return list(map(pids.__getitem__, indices))

    def gather_flags(self, indices: list[int]) -> list[int]:
        """Return the context flags of the records at ``indices``."""
        flags = self.words.cast("B")[10::RECORD_SIZE]
        return list(map(flags.__getitem__, indices))

    def select(self, events: Iterable[int]) -> list[int]:
        """Return the indices of the records of the given events, ascending."""
        return list(compress(range(self.length), self.events.translate(selector(events))))

    def gather(self, column: int, indices: list[int]) -> list[int]:
        """Return one 64-bit column of the records at ``indices``."""
        return list(map(self.column(column).__getitem__, indices))


class RingReader:
    """One ring, open for reading.

    Raises OSError if the file cannot be read, RingError if it is no ring of this build.
    """

    __slots__ = (
        "_buffer",
        "_data_offset",
        "_live",
        "_names",
        "_path",
        "_per_segment",
        "_segment_bytes",
        "_segments_max",
        "first",
        "node_name",
        "number",
        "position",
    )

    def __init__(self, path: str | Path, image: bytes = b"") -> None:
        self._path = Path(path)
        self._buffer = memoryview(image)
        self._live = not image
        if self._live:
            self._map()
        self._open()

    @classmethod
    def from_memory(cls, ring: MemoryRing) -> "RingReader":
        """Read what a :class:`MemoryRing` holds now."""
        return cls(f"{ring.node_name}.ring", ring.image())

    @property
    def names(self) -> list[str]:
        """Return interned texts by id."""
        return self._names.names

    @property
    def comms(self) -> dict[int, str]:
        """Return comms by pid."""
        return self._names.comms

    @property
    def lost(self) -> int:
        """How many records went with the oldest segments."""
        return self.first

    @property
    def is_cpu(self) -> bool:
        """Whether this is the ring of a CPU."""
        return self.node_name.startswith("cpu")

    def refresh(self) -> int:
        """Look again at a ring that is being written, and return its position."""
        self.advance()
        self._names = NameTable(self._buffer[NAMES_OFFSET : self._data_offset])
        return self.position

    def advance(self) -> int:
        """Look for the new end alone, not for new names, and return the position."""
        if self._live and self._path.stat().st_size > len(self._buffer):
            self._map()
        self._find_end()
        return self.position

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[Piece]:
        """Yield the records of positions ``start`` to ``end`` that still exist, in order."""
        start = max(start, self.first)
        end = self.position if end is None else min(end, self.position)
        while start < end:
            most = min(end, start + PIECE_RECORDS_MAX)
            stop = (start // self._per_segment + 1) * self._per_segment
            # Segments follow each other in the file until its last slot.
            while stop < most and stop // self._per_segment % self._segments_max:
                stop += self._per_segment
            stop = min(stop, most)
            yield Piece(self._view(start, stop), start)
            start = stop

    def records(self, start: int = 0, end: int | None = None) -> Iterator[Record]:
        """Yield whole records as tuples, in the order of :data:`emulator.tracepoints.RECORD`."""
        for piece in self.pieces(start, end):
            yield from RECORD.iter_unpack(piece.words)

    def record(self, position: int) -> Record:
        """Return the record at a position that exists."""
        assert self.first <= position < self.position, (self.first, position, self.position)
        record: Record = RECORD.unpack(self._view(position, position + 1))
        return record

    def position_at(self, time_ns: int) -> int:
        """Return the position of the first record at or after ``time_ns``."""
        return bisect_left(_Times(self), time_ns, self.first, self.position)

    def time_at(self, position: int) -> int:
        """Return the time of the record at ``position``."""
        return int.from_bytes(self._view(position, position + 1)[:8], "little")

    def bytes(self) -> "bytes":
        """Return all records that exist, as :meth:`MemoryRing.bytes` does."""
        return b"".join(piece.words.tobytes() for piece in self.pieces())

    def _map(self) -> None:
        with self._path.open("rb") as file:
            try:
                self._buffer = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            except ValueError as error:
                raise RingError(f"{self._path}: an empty file is not a ring") from error

    def _open(self) -> None:
        if len(self._buffer) < NAMES_OFFSET or self._buffer[:8] != MAGIC:
            raise RingError(f"{self._path}: not a ring")
        header = HEADER.unpack_from(self._buffer)
        _magic, record_size, self._data_offset, self._segment_bytes, self._segments_max = header[:5]
        self.number: int = header[5]
        self.node_name: str = header[7].rstrip(b"\0").decode()
        if record_size != RECORD_SIZE or header[6] != schema_digest():
            raise RingError(f"{self._path}: written by another build, whose events differ")
        self._per_segment = self._segment_bytes // RECORD_SIZE
        self.first = self.position = 0
        self.refresh()

    def _find_end(self) -> None:
        segment, first = LIVE.unpack_from(self._buffer, LIVE_OFFSET)
        self.first = first * self._per_segment
        start = self._data_offset + segment % self._segments_max * self._segment_bytes
        tail = self._buffer[start : start + self._segment_bytes]
        self.position = segment * self._per_segment + written_in(tail)

    def _view(self, start: int, stop: int) -> memoryview:
        segment, index = divmod(start, self._per_segment)
        slot = self._data_offset + segment % self._segments_max * self._segment_bytes
        offset = slot + index * RECORD_SIZE
        return self._buffer[offset : offset + (stop - start) * RECORD_SIZE]


class _Times:
    # The times of a ring as a sequence, for bisect; times never fall within a ring.

    __slots__ = ("_reader",)

    def __init__(self, reader: RingReader) -> None:
        self._reader = reader

    def __len__(self) -> int:
        return self._reader.position

    def __getitem__(self, position: int) -> int:
        return self._reader.time_at(position)


def selector(events: Iterable[int]) -> bytes:
    """Return the translation table that marks the ids of the given events."""
    table = bytearray(256)
    for event in events:
        table[event] = 1
    return bytes(table)


def open_rings(directory: str | Path) -> list[RingReader]:
    """Open every ring of a run directory, by ring number: the CPUs first.

    Raises OSError or RingError where one cannot be read.
    """
    readers = [RingReader(path) for path in sorted(Path(directory).glob("*.ring"))]
    return sorted(readers, key=lambda reader: (reader.number, reader.node_name))


def cause_chain(
    readers: Iterable[RingReader], cause: int, limit: int = CAUSES_MAX
) -> list[tuple[RingReader, Record]]:
    """Return the records that led to an event, newest first, as far as they still exist."""
    by_number = {reader.number: reader for reader in readers}
    chain: list[tuple[RingReader, Record]] = []
    while cause and len(chain) < limit:
        number, position = split_cause(cause)
        reader = by_number.get(number)
        if reader is None or not reader.first <= position < reader.position:
            break
        record = reader.record(position)
        chain.append((reader, record))
        cause = record[5]
    return chain


def follow(
    reader: RingReader, start: int, wait: Callable[[], bool]
) -> Iterator[tuple[int, int, int]]:
    """Yield ``(start, end, lost)`` ranges of records as a live ring grows, from ``start`` on.

    ``lost`` counts records that went before they could be read.  ``wait`` is called whenever
    everything was read; it sleeps, and returns False when nothing more will be written.
    """
    done, seen, writing = start, -1, True
    while True:
        position = reader.refresh()
        end = position - 1 if writing and position != seen else position
        seen = position
        if done < reader.first:
            yield reader.first, reader.first, reader.first - done
            done = reader.first
        if done < end:
            yield done, end, 0
            done = end
        elif not writing:
            return
        else:
            writing = wait()
