"""A file as the page cache and its writeback know it: ``struct inode`` of ``include/linux/fs.h``, v5.4.

An inode has the tags of its pages (``PAGECACHE_TAG_DIRTY``, ``_WRITEBACK``), says which of its blocks
are written, and is on at most one list of its disk.  What a stretch of dirty pages becomes on disk
(``xfs_map_blocks()``) is a question to the inode alone.
"""

from __future__ import annotations

from typing import Any

from emulator.kernel import fields
from emulator.kernel.page_ranges import PageRanges
from emulator.kernel.request import IOEND_APPEND, IOEND_OVERWRITE, IOEND_UNWRITTEN

PAGE_SHIFT = 12

# Lists that an inode may be on.
CLEAN, B_DIRTY, B_IO, B_MORE_IO, I_SYNC = range(5)


class Inode:
    """One file: its pages' tags, where its blocks are written, and the list it is on."""

    __slots__ = (
        "dirtied_when",
        "dirty",
        "disk",
        "disk_size",
        "error",
        "file",
        "logged",
        "on",
        "size",
        "sync_from",
        "unwritten",
        "waiters",
        "writeback",
        "writeback_index",
        "written",
    )

    def __init__(self, file: int, disk: int, layout: str, size: int, eof: int) -> None:
        self.file = file
        self.disk = disk
        self.dirty = PageRanges()
        self.writeback = PageRanges()
        pages = (size + 4095) >> PAGE_SHIFT
        blocks = [[0, pages]] if pages else []
        #: pages whose blocks are written, and those allocated and never written
        self.written = PageRanges(blocks if layout == "written" else [])
        self.unwritten = PageRanges(blocks if layout == "unwritten" else [])
        self.size = eof
        self.disk_size = self.size  # di_size: what a crash would leave
        self.error = 0  # a write of its pages has failed, and no fsync() was told yet (AS_EIO)
        self.logged = 0  # the log holds changes that no fsync() has forced
        self.dirtied_when = 0  # jiffies
        self.on = CLEAN
        self.writeback_index = 0  # where the next pass of a cyclic writer begins
        self.sync_from = 0
        self.waiters: list[list[int]] = []  # tasks in fsync(): [pid, residence, CPU]

    def map_blocks(self, first: int, end: int, unwritten_first: bool) -> tuple[int, int, bool]:
        """``xfs_map_blocks()``: what a write from ``first`` on is, up to where, and if it allocates.

        Delayed allocation takes the whole dirty stretch at once.
        """
        written, written_end = self.written.run_at(first)
        if written == first:
            end = min(end, written_end)
            return self.by_size(end), end, False
        unwritten, unwritten_end = self.unwritten.run_at(first)
        if unwritten == first:
            return IOEND_UNWRITTEN, min(end, unwritten_end), False
        hole_end = self.dirty.run_at(first)[1]
        for other in (written, unwritten):
            if other > 0:
                hole_end = min(hole_end, other)
        end = min(end, hole_end)
        self.logged = 1
        if unwritten_first:
            self.unwritten.add(first, hole_end)
            return IOEND_UNWRITTEN, end, True
        self.written.add(first, hole_end)
        return self.by_size(end), end, True

    def by_size(self, end: int) -> int:
        """``xfs_ioend_is_append()``: whether the file on disk becomes longer by this."""
        inside = (self.disk_size + 4095) >> PAGE_SHIFT
        return IOEND_OVERWRITE if end <= inside else IOEND_APPEND

    def pack(self) -> list[Any]:
        """Return the inode as plain data."""
        return [
            fields.values(self, NUMBERS),
            [pages.runs() for pages in fields.values(self, SETS)],
            [list(waiter) for waiter in self.waiters],
        ]

    @classmethod
    def unpack(cls, data: list[Any]) -> Inode:
        """Rebuild what :meth:`pack` returned."""
        numbers, sets, waiters = data
        inode = cls(0, 0, "hole", 0, 0)
        fields.assign(inode, NUMBERS, numbers)
        fields.assign(inode, SETS, map(PageRanges, sets))
        inode.waiters = [list(waiter) for waiter in waiters]
        return inode


#: What of an inode are sets of pages, and what are numbers.
SETS = ("dirty", "writeback", "written", "unwritten")
NUMBERS = tuple(name for name in Inode.__slots__ if name not in (*SETS, "waiters"))
