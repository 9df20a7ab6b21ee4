"""What of the dirty pages is written next, and who waits for it: ``fs/fs-writeback.c``, v5.4.

Theory of operation
-------------------
Dirty pages are nobody's: tasks dirty them, the flusher of their disk cleans them, completions tell of
that from whatever CPU they end on, and all of them count against one limit.  So all of it is one
object, :class:`Backing`, of no CPU.  Everybody else speaks to it by messages: *these bytes were
written*, *what shall I write next*, *these pages are clean*.  :mod:`dirty_pages` counts,
:mod:`balance_dirty_pages` makes those wait who dirty too much.

Inodes with dirty pages wait on three lists of their disk: ``b_dirty`` in the order in which they
were dirtied, ``b_io`` (those of this pass) and ``b_more_io`` (whose turn was over before they were
clean).  The flusher's work is done in :meth:`Backing.next_runs`: explicit works first, then the
periodic pass (what is older than ``dirty_expire_centisecs``), then, while too much is dirty, what there
is; one inode at a time, a chunk of each.  It answers with the next few runs of pages, which are under
writeback from then on.

Departures from the kernel: what the flusher is given is decided for up to 256 pages or 16 runs at
once, and an ``fsync()`` writes what others make dirty while it waits; a page dirtied again before the
flusher has come to it within those is written again.  ``sync()`` counts the pages that are written, and
leaves those that were written to again under writeback to the next pass.  A work is recorded once at
its begin and once at its end.  Inodes have no dirty times or attributes, only pages.  A rescuer writes
as much as any worker.
"""

from __future__ import annotations

from emulator.kernel import page_writeback as pw
from emulator.kernel.backing_dev import (
    BACKGROUND,
    EXPLICIT,
    IDLE,
    KUPDATE,
    RUNNING,
    RUNNING_AGAIN,
    Disk,
)
from emulator.kernel.balance_dirty_pages import DirtyThrottling
from emulator.kernel.inode import B_DIRTY, B_IO, B_MORE_IO, CLEAN, I_SYNC, Inode

#: Pages of one bio (BIO_MAX_PAGES).
BIO_MAX_PAGES = 256

# Verdicts on a question for more to write.
MORE, END, WAIT = range(3)

# What an fsync() is told when its pages are clean.
LOGGED, FAILED = 1, 2


class Backing(DirtyThrottling):
    """All dirty pages of a box, and all that decides about them."""

    __slots__ = ()

    # -- When the flusher runs ----------------------------------------------------------------------

    def timer_expired(self, disk: Disk, now: int) -> bool:
        """The delayed work may be due; return whether it is to be queued."""
        if not 0 <= disk.timer_at <= now:
            return False
        disk.timer_at = -1
        if disk.state == RUNNING:
            disk.state = RUNNING_AGAIN
        return disk.wakeup()

    def sync(self) -> int:
        """``sync()``: a work for each disk with dirty pages; return whose flushers to queue, a mask."""
        return sum(
            1 << index
            for index, disk in enumerate(self.disks)
            if disk.has_dirty_io() and self.start_sync(disk)
        )

    def sync_wait(self, waiter: list[int]) -> int:
        """Return END if all that was dirty at the last ``sync()`` is written, else WAIT."""
        if not any(self.syncs(disk) for disk in self.disks):
            return END
        self.sync_waiters.append(waiter)
        return WAIT

    def syncs(self, disk: Disk) -> bool:
        """Whether a disk has a sync work that has not ended, or pages of one under writeback."""
        under_way = bool(disk.work) and disk.work[0] == EXPLICIT
        return under_way or bool(disk.works) or disk.written < disk.sync_target

    def take_sync_waiters(self) -> list[list[int]]:
        """Return who waits in ``sync()``, if they have to no longer."""
        if not self.sync_waiters or any(self.syncs(disk) for disk in self.disks):
            return []
        woken, self.sync_waiters = self.sync_waiters, []
        return woken

    def start_sync(self, disk: Disk) -> bool:
        """``bdi_split_work_to_wbs()``: a work for all pages; return whether to queue the flusher."""
        disk.works.append(self.nr_dirty)
        if disk.state == RUNNING:
            disk.state = RUNNING_AGAIN
        return disk.wakeup()

    # -- wb_workfn() (E.3) ------------------------------------------------------------------------

    def begin(self, disk: Disk) -> None:
        """The flusher's work item starts to execute."""
        disk.state = RUNNING
        disk.phase = EXPLICIT
        disk.work = []

    def next_runs(self, disk: Disk, now: int) -> tuple[int, list[list[int]]]:
        """Return (file, runs [first page, pages, ioend kind]) to write next; (-1, []) at the end."""
        while True:
            if disk.inode >= 0:
                inode = self.inodes[disk.inode]
                runs = self.write_cache_pages(inode, disk)
                if runs:
                    return inode.file, runs
                self.requeue_inode(inode, disk, now)
            elif not disk.work:
                if not self.next_work(disk, now):
                    return -1, []
            elif not self.work_goes_on(disk, now):
                self.notes.append([1, disk.work[1], disk.work[0]])
                if disk.work[0] == EXPLICIT:
                    disk.sync_target = disk.written + disk.writeback
                disk.work = []
            else:
                self.start_inode(disk)

    def end(self, disk: Disk, now: int) -> bool:
        """The work function returns; return whether the item is to be queued again at once."""
        again = disk.state == RUNNING_AGAIN or bool(disk.works)
        disk.state = IDLE
        if again:
            return disk.wakeup()
        if disk.has_dirty_io():
            disk.wakeup_delayed(now, self.interval())
        return False

    def next_work(self, disk: Disk, now: int) -> bool:
        """Begin the next work, if there is one."""
        if not self.find_work(disk, now):
            return False
        self.notes.append([0, disk.work[1], disk.work[0]])
        return True

    def find_work(self, disk: Disk, now: int) -> bool:
        """``wb_do_writeback()``: explicit works, then the periodic pass, then the background."""
        if disk.phase == EXPLICIT:
            if disk.works:
                disk.work = [EXPLICIT, disk.works.pop(0), now, now, 1]
                return True
            disk.phase = KUPDATE
        if disk.phase == KUPDATE:
            disk.phase = BACKGROUND
            if self.interval() and now >= disk.last_old_flush + self.interval():
                disk.last_old_flush = now
                disk.work = [KUPDATE, self.nr_dirty, self.expired_before(now), now, 1]
                return True
        if disk.phase == BACKGROUND:
            disk.phase = BACKGROUND + 1
            if self.over_bground_thresh(disk):
                disk.work = [BACKGROUND, pw.LONG_MAX, now, now, 1]
                return True
        return False

    def expired_before(self, now: int) -> int:
        """Return the jiffy before which inodes were dirtied that the periodic pass writes."""
        return now - self.settings.dirty_expire_centisecs * self.hz // 100

    def work_goes_on(self, disk: Disk, now: int) -> bool:
        """The head of ``wb_writeback()``'s loop: whether there is still something to do for a work."""
        reason, pages, _oldest, start, progress = disk.work
        if pages <= 0 or (reason != EXPLICIT and disk.works):
            return False
        if reason == BACKGROUND and not self.over_bground_thresh(disk):
            return False
        self.update_bandwidth(disk, None, start, now)
        if reason == KUPDATE:
            disk.work[2] = self.expired_before(now)
        elif reason == BACKGROUND:
            disk.work[2] = now
        if not disk.b_io:
            if not progress:
                return False  # a whole round has written nothing
            disk.work[4] = 0
            self.queue_io(disk, disk.work[2])
        return bool(disk.b_io)

    def queue_io(self, disk: Disk, oldest: int) -> None:
        """``queue_io()``: those whose turn was over, and those dirtied not after ``oldest``."""
        disk.b_io, disk.b_more_io = disk.b_more_io, []
        while disk.b_dirty and self.inodes[disk.b_dirty[0]].dirtied_when <= oldest:
            disk.b_io.append(disk.b_dirty.pop(0))
        for file in disk.b_io:
            self.inodes[file].on = B_IO

    def start_inode(self, disk: Disk) -> None:
        """``writeback_sb_inodes()``: the next inode's turn, and how long it is."""
        inode = self.inodes[disk.b_io.pop(0)]
        inode.on = I_SYNC
        disk.inode = inode.file
        disk.left = pw.writeback_chunk_size(
            disk.bandwidth.avg_write_bandwidth,
            self.dirty_limit,
            disk.work[1],
            disk.work[0] == EXPLICIT,
        )

    def write_cache_pages(self, inode: Inode, disk: Disk) -> list[list[int]]:
        """``write_cache_pages()`` of a cyclic writer: up to a bio's pages from where it was."""
        pages = min(disk.left, BIO_MAX_PAGES)
        if pages <= 0:
            return []
        runs = self.take(inode, inode.writeback_index, pages)
        taken = sum(run[1] for run in runs)
        disk.left -= taken
        disk.work[1] -= taken
        disk.work[4] += taken
        # At the end of the file the next pass begins at its start.
        inode.writeback_index = runs[-1][0] + runs[-1][1] if runs else 0
        return runs

    def requeue_inode(self, inode: Inode, disk: Disk, now: int) -> None:
        """``requeue_inode()``: an inode's turn is over; where does it go?"""
        disk.inode = -1
        if not inode.dirty:
            inode.on = CLEAN
            disk.work[4] += 1
        elif disk.left <= 0:
            inode.on = B_MORE_IO
            disk.b_more_io.append(inode.file)
        else:
            # redirty_tail(): what is left could not be written now.
            newest = self.inodes[disk.b_dirty[-1]].dirtied_when if disk.b_dirty else now
            if disk.b_dirty and inode.dirtied_when < newest:
                inode.dirtied_when = now
            inode.on = B_DIRTY
            disk.b_dirty.append(inode.file)

    # -- fsync() -----------------------------------------------------------------------------------

    def sync_runs(self, file: int, waiter: list[int], begin: bool) -> tuple[int, list[list[int]]]:
        """What an ``fsync()`` of a file writes itself: (MORE, runs), or (WAIT or END, [])."""
        inode = self.inodes[file]
        if begin:
            inode.sync_from = 0
        runs = self.take(inode, inode.sync_from, BIO_MAX_PAGES)
        if runs:
            inode.sync_from = runs[-1][0] + runs[-1][1]
            return MORE, runs
        if inode.writeback:
            inode.sync_from = 0  # what was dirty and under writeback is written after that
            inode.waiters.append(waiter)
            return WAIT, []
        return END, []

    def take_outcome(self, file: int) -> int:
        """Return FAILED if a write of the file's pages has, else LOGGED if the log has to be forced.

        Neither is told twice.
        """
        inode = self.inodes[file]
        if inode.error:
            inode.error = 0
            return FAILED
        logged, inode.logged = inode.logged, 0
        return LOGGED if logged else 0
