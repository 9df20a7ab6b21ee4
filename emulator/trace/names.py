"""The name table of a ring: interned texts and the comm of every pid that its records mention.

Theory of operation
-------------------
Records hold numbers.  What the numbers stand for is appended once to a region in the head of the
ring file, as entries ``(kind, length, key, position) text``, padded to eight bytes.  The region
starts as zeros and kind 0 ends the table, so a reader of a live or killed run needs no count; the
kind is stored after the text it describes.  ``position`` is the number of records that the ring
held when the entry was added: a ring that is taken back to a snapshot drops the later entries.

The table is bounded by its region.  What no longer fits resolves to :data:`FULL`, and is counted.
"""

import struct
from collections.abc import Iterator

#: kind, length of the text in bytes, key (id of a name, or pid), records written before it.
ENTRY = struct.Struct("<BxHIQ")
KIND_NAME = 1
KIND_COMM = 2

TEXT_BYTES_MAX = 4096
COMM_CHARS_MAX = 15
FULL = "<full>"

#: A region of the mapped head, or of a test's memory.
Region = memoryview


class NameTable:
    """Texts by id and comms by pid; written through to ``region`` where there is one.

    Id 0 is the empty text, id 1 is :data:`FULL`; neither is stored.
    """

    __slots__ = ("_ids", "_region", "_used", "comms", "lost", "names")

    def __init__(self, region: Region | None = None) -> None:
        self.names: list[str] = ["", FULL]
        self.comms: dict[int, str] = {}
        self.lost = 0  # entries for which the region had no room
        self._ids: dict[str, int] = {"": 0, FULL: 1}
        self._region = region
        self._used = 0
        if region is not None:
            self.load()

    def intern(self, text: str, position: int) -> int:
        """Return the id of ``text``, adding it if it is new.

        A text over 4096 bytes is cut; one that finds the region full gets the id of ``<full>``.
        """
        number = self._ids.get(text)
        if number is not None:
            return number
        number = len(self.names)
        if not self._append(KIND_NAME, number, text, position):
            return 1
        self._ids[text] = number
        self.names.append(text)
        return number

    def comm(self, pid: int, name: str, position: int) -> None:
        """Say what the comm of ``pid`` is from now on; at most 15 characters of it are kept."""
        name = name[:COMM_CHARS_MAX]
        if self.comms.get(pid) != name and self._append(KIND_COMM, pid, name, position):
            self.comms[pid] = name

    def rewind(self, position: int) -> None:
        """Forget every entry that was added after ``position`` records."""
        assert self._region is not None
        keep = 0
        for offset, _kind, _key, added, text in entries(self._region):
            if added > position:
                break
            keep = offset + _entry_bytes(len(text))
        self._region[keep : self._used] = bytes(self._used - keep)
        self.load()

    def load(self) -> None:
        """Read the whole table again from its region."""
        assert self._region is not None
        del self.names[2:]
        self.comms.clear()
        self._ids = {"": 0, FULL: 1}
        self._used = 0
        for offset, kind, key, _added, text in entries(self._region):
            self._used = offset + _entry_bytes(len(text))
            self._take(kind, key, text.decode(errors="replace"))

    def _take(self, kind: int, key: int, text: str) -> None:
        if kind == KIND_COMM:
            self.comms[key] = text
            return
        assert key == len(self.names), "the ids of a name table count up"
        self.names.append(text)
        self._ids[text] = key

    def _append(self, kind: int, key: int, text: str, position: int) -> bool:
        region = self._region
        if region is None:
            return True
        data = text.encode()[:TEXT_BYTES_MAX]
        start = self._used
        end = start + _entry_bytes(len(data))
        if end > len(region):
            self.lost += 1
            return False
        ENTRY.pack_into(region, start, 0, len(data), key, position)
        region[start + ENTRY.size : start + ENTRY.size + len(data)] = data
        region[start] = kind  # last: from here on a reader sees the entry
        self._used = end
        return True


def entries(region: Region) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Yield ``(offset, kind, key, position, text)`` of every entry in a region."""
    offset = 0
    while offset + ENTRY.size <= len(region) and region[offset]:
        kind, length, key, position = ENTRY.unpack_from(region, offset)
        start = offset + ENTRY.size
        yield offset, kind, key, position, bytes(region[start : start + length])
        offset += _entry_bytes(length)


def _entry_bytes(length: int) -> int:
    return (ENTRY.size + length + 7) & ~7
