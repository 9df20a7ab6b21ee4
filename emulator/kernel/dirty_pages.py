"""How many pages are dirty and under writeback, of each disk and in all, and the inodes that have them.

The counters and tags of ``mm/page-writeback.c``, v5.4: ``account_page_dirtied()`` and the like.  At any
instant a page is dirty, or under writeback, or both (written to again meanwhile), or clean, here and
nowhere else; :meth:`DirtyPages.problems` says what does not add up.

Departures from the kernel: free and file pages are one number, ``machine.memory``, whatever else uses
memory; a disk's share of the limit halves old completions every three seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.kernel import fields
from emulator.kernel import page_writeback as pw
from emulator.kernel.backing_dev import Disk
from emulator.kernel.inode import B_DIRTY, CLEAN, PAGE_SHIFT, Inode
from emulator.kernel.request import IOEND_OVERWRITE
from emulator.types import NSEC_PER_MSEC

if TYPE_CHECKING:
    from emulator.types import BoxSpec

#: Runs that a plug holds.
RUNS_MAX = 16
#: Completions count half after so long (VM_COMPLETIONS_PERIOD_LEN).
COMPLETIONS_PERIOD_MS = 3_000
#: What of it are numbers.
NUMBERS = (
    "nr_dirty",
    "nr_writeback",
    "nr_dirtied",
    "nr_written",
    "completions",
    "completions_period",
    "dirty_limit",
    "dirty_limit_tstamp",
    "ratelimit_pages",
    "nr_cpus",
)


class DirtyPages:
    """All dirty pages of a box."""

    __slots__ = (
        "bdp_ratelimits",
        "completions",
        "completions_period",
        "dirty_limit",
        "dirty_limit_tstamp",
        "disks",
        "hz",
        "inodes",
        "memory",
        "notes",
        "nr_cpus",
        "nr_dirtied",
        "nr_dirty",
        "nr_writeback",
        "nr_written",
        "ratelimit_pages",
        "settings",
        "sync_waiters",
        "unwritten_first",
    )

    def __init__(self, spec: BoxSpec, inodes: dict[int, Inode]) -> None:
        self.hz = spec.machine.hz
        self.nr_cpus = spec.machine.nr_cpus  # online
        self.memory = spec.machine.memory >> PAGE_SHIFT  # pages that could be dirty
        self.unwritten_first = spec.kernel.rules.xfs_delalloc_unwritten
        self.settings = pw.DirtySettings()
        for name, value in spec.kernel.sysctls.items():
            if name.startswith("vm.") and value != getattr(self.settings, name[3:]):
                self.settings.write(name, value)
        self.disks = [Disk() for _ in spec.disks]
        self.inodes = inodes
        self.sync_waiters: list[list[int]] = []  # tasks in sync(): [pid, residence, CPU]
        self.nr_dirty = 0  # NR_FILE_DIRTY
        self.nr_writeback = 0  # NR_WRITEBACK
        self.nr_dirtied = 0
        self.nr_written = 0
        self.completions = 0
        self.completions_period = 0
        #: for the record, what became of the flusher's works: [over, pages left, reason]
        self.notes: list[list[int]] = []
        self.bdp_ratelimits = [0] * self.nr_cpus
        self.dirty_limit = 0
        self.dirty_limit_tstamp = 0
        self.ratelimit_pages = 0
        self.writeback_set_ratelimit()

    def limits(self) -> tuple[int, int]:
        """Return (thresh, background thresh) in pages."""
        return pw.domain_dirty_limits(self.settings, self.memory)

    def writeback_set_ratelimit(self) -> None:
        """The limits have changed, or the CPUs: so does how often each CPU must look."""
        self.dirty_limit = self.limits()[0]
        self.ratelimit_pages = pw.ratelimit_pages(self.dirty_limit, self.nr_cpus)

    def interval(self) -> int:
        """Return how often the periodic pass runs, in jiffies; 0: never."""
        return self.settings.dirty_writeback_centisecs * self.hz // 100

    def mark_inode_dirty(self, inode: Inode, disk: Disk, now: int) -> None:
        """``__mark_inode_dirty()`` of a clean inode; the first one arms the periodic pass."""
        first = not disk.has_dirty_io()
        inode.dirtied_when = now
        inode.on = B_DIRTY
        disk.b_dirty.append(inode.file)
        if first:
            disk.wakeup_delayed(now, self.interval())

    def take(self, inode: Inode, page: int, pages: int) -> list[list[int]]:
        """Put dirty pages from ``page`` on under writeback: runs [first, pages, kind, allocates].

        Pages that are under writeback already are passed over.
        """
        runs: list[list[int]] = []
        while pages > 0 and len(runs) < RUNS_MAX:
            first, end = inode.dirty.run_at(page)
            if first < 0:
                break
            busy, busy_end = inode.writeback.run_at(first)
            if busy == first:
                page = busy_end
                continue
            end = min(end, first + pages)
            if busy > 0:
                end = min(end, busy)
            kind, end, allocates = inode.map_blocks(first, end, self.unwritten_first)
            runs.append([first, end - first, kind, int(allocates)])
            self.set_page_writeback(inode, first, end)
            pages -= end - first
            page = end
        return runs

    def set_page_writeback(self, inode: Inode, first: int, end: int) -> None:
        """``clear_page_dirty_for_io()`` and ``set_page_writeback()`` of a run."""
        disk = self.disks[inode.disk]
        nr = inode.dirty.remove(first, end)
        assert nr == end - first, f"file {inode.file}: pages {first}-{end} are not all dirty"
        new = inode.writeback.add(first, end)
        assert new == nr, f"file {inode.file}: pages {first}-{end} are under writeback twice"
        self.nr_dirty -= nr
        disk.dirty -= nr
        self.nr_writeback += nr
        disk.writeback += nr

    def end_page_writeback(
        self, file: int, first: int, nr: int, kind: int, now: int, error: bool = False
    ) -> list[list[int]]:
        """A run is clean as far as it has not been dirtied again; return the tasks to be woken.

        With an error too; the next ``fsync()`` is told.
        """
        inode = self.inodes[file]
        disk = self.disks[inode.disk]
        ended = inode.writeback.remove(first, first + nr)
        assert ended == nr, f"file {file}: pages {first}-{first + nr} were not under writeback"
        self.nr_writeback -= nr
        disk.writeback -= nr
        self.nr_written += nr
        disk.written += nr
        self.count_completions(disk, nr, now)
        if error:
            inode.error = 1
        elif kind != IOEND_OVERWRITE:
            inode.logged = 1
            inode.unwritten.remove(first, first + nr)
            inode.written.add(first, first + nr)
            inode.disk_size = max(inode.disk_size, min(inode.size, (first + nr) << PAGE_SHIFT))
        if inode.writeback:
            return []
        woken, inode.waiters = inode.waiters, []
        return woken

    def count_completions(self, disk: Disk, nr: int, now: int) -> None:
        """``__wb_writeout_inc()``: whose pages were written of late decides who may dirty how many."""
        period_ns = COMPLETIONS_PERIOD_MS * NSEC_PER_MSEC
        period = now * (1_000_000_000 // self.hz) // period_ns
        for _ in range(min(period - self.completions_period, 64)):
            for one in self.disks:
                one.completions //= 2
        self.completions_period = period
        disk.completions += nr
        self.completions = sum(one.completions for one in self.disks)

    def problems(self) -> list[str]:
        """Return what does not add up."""
        found = []
        for index, disk in enumerate(self.disks):
            inodes = [inode for inode in self.inodes.values() if inode.disk == index]
            tags = (sum(i.dirty.nr for i in inodes), sum(i.writeback.nr for i in inodes))
            if tags != (disk.dirty, disk.writeback):
                found.append(
                    f"disk {index} counts {disk.dirty} dirty pages and {disk.writeback} under "
                    f"writeback, its files have {tags[0]} and {tags[1]}"
                )
        sums = [
            sum(getattr(disk, name) for disk in self.disks)
            for name in ("dirty", "writeback", "dirtied", "written")
        ]
        if sums != [self.nr_dirty, self.nr_writeback, self.nr_dirtied, self.nr_written]:
            found.append(f"the disks' page counts {sums} are not the box's")
        found += [
            f"file {inode.file} has dirty pages and is on no list"
            for inode in self.inodes.values()
            if inode.dirty and inode.on == CLEAN
        ]
        return found

    def pack(self) -> list[Any]:
        """Return all of it as plain data."""
        return [
            self.settings.pack(),
            [disk.pack() for disk in self.disks],
            [inode.pack() for inode in self.inodes.values()],
            fields.values(self, NUMBERS),
            list(self.bdp_ratelimits),
            [list(waiter) for waiter in self.sync_waiters],
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        settings, disks, inodes, numbers, ratelimits, waiters = data
        self.settings.unpack(settings)
        for disk, one in zip(self.disks, disks, strict=True):
            disk.unpack(one)
        unpacked = [Inode.unpack(one) for one in inodes]
        self.inodes = {inode.file: inode for inode in unpacked}
        fields.assign(self, NUMBERS, numbers)
        self.bdp_ratelimits = list(ratelimits)
        self.sync_waiters = [list(waiter) for waiter in waiters]
