"""What writeback keeps of a disk: ``include/linux/backing-dev-defs.h``, v5.4.

``struct bdi_writeback`` has the lists of inodes, the counts of pages, the rates, and whether the
flusher's one work item is queued.
"""

from __future__ import annotations

from typing import Any

from emulator.kernel import fields
from emulator.kernel import page_writeback as pw

# What the flusher works for.
EXPLICIT, KUPDATE, BACKGROUND = range(3)
REASONS = ("sync", "periodic", "background")

# Whether the flusher's work item is queued or executing.
IDLE, QUEUED, RUNNING, RUNNING_AGAIN = range(4)


class Disk:
    """``struct bdi_writeback``: one disk's lists, counters and rates."""

    __slots__ = (
        "b_dirty",
        "b_io",
        "b_more_io",
        "bandwidth",
        "completions",
        "dirtied",
        "dirty",
        "dirty_exceeded",
        "inode",
        "last_old_flush",
        "left",
        "phase",
        "state",
        "sync_target",
        "timer_at",
        "work",
        "works",
        "writeback",
        "written",
    )

    def __init__(self) -> None:
        self.b_dirty: list[int] = []  # files, the one dirtied first at the front
        self.b_io: list[int] = []
        self.b_more_io: list[int] = []
        self.dirty = 0  # WB_RECLAIMABLE
        self.writeback = 0  # WB_WRITEBACK
        self.dirtied = 0  # WB_DIRTIED, ever
        self.written = 0  # WB_WRITTEN, ever
        self.completions = 0  # of late
        self.dirty_exceeded = False
        self.bandwidth = pw.Bandwidth()
        self.last_old_flush = 0  # jiffies of the last periodic pass
        self.state = IDLE
        self.timer_at = -1  # jiffy at which the delayed work is due, -1: not armed
        #: sync works not begun: pages each
        self.works: list[int] = []
        #: of the last sync work that has ended: how many pages are to be written ever
        self.sync_target = 0
        # The run under way.
        self.phase = EXPLICIT
        #: [reason, pages left, oldest jiffy, start, progress of the round]
        self.work: list[int] = []
        self.inode = -1  # the file under I_SYNC
        self.left = 0  # pages left of its chunk

    def has_dirty_io(self) -> bool:
        """``wb_has_dirty_io()``."""
        return bool(self.b_dirty or self.b_io or self.b_more_io)

    def wakeup_delayed(self, now: int, interval: int) -> None:
        """``wb_wakeup_delayed()``: the work is due in an interval, unless it is pending already."""
        if interval and self.timer_at < 0 and self.state != QUEUED:
            self.timer_at = now + interval

    def wakeup(self) -> bool:
        """``wb_wakeup()``: the work is due now; return whether the caller is to queue it."""
        if self.state != IDLE:
            return False
        self.timer_at = -1
        self.state = QUEUED
        return True

    def pack(self) -> list[Any]:
        """Return all of it as plain data."""
        lists = [list(getattr(self, name)) for name in LISTS]
        return [fields.values(self, NUMBERS), lists, self.bandwidth.pack()]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        numbers, lists, bandwidth = data
        fields.assign(self, NUMBERS, numbers)
        fields.assign(self, LISTS, map(list, lists))
        self.bandwidth.unpack(bandwidth)


#: What of a disk are lists of numbers, and what are numbers.
LISTS = ("b_dirty", "b_io", "b_more_io", "works", "work")
NUMBERS = tuple(name for name in Disk.__slots__ if name not in (*LISTS, "bandwidth"))
