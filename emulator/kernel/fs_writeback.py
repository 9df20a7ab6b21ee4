"""Which pages are dirty, which are being written, and what is written next: ``fs/fs-writeback.c``, v5.4.

Theory of operation
-------------------
Dirty pages are nobody's: tasks dirty them, the flusher of their disk cleans them, completions tell of
that from whatever CPU they end on, and all of them count against one limit.  So all of it is one
object, :class:`Backing`, of no CPU.  Everybody else speaks to it by messages: *these bytes were
written*, *what shall I write next*, *these pages are clean*.  At any instant a page is dirty, or
under writeback, or both (written to again meanwhile), or clean, here and nowhere else.

Inodes with dirty pages wait on three lists of their disk: ``b_dirty`` in the order in which they
were dirtied, ``b_io`` (those of this pass) and ``b_more_io`` (whose turn was over before they were
clean).  The flusher's work is done in :meth:`Backing.next_runs`: explicit works first, then the
periodic pass (what is older than ``dirty_expire_centisecs``), then, while too much is dirty, what there
is; one inode at a time, a chunk of each.  It answers with the next few runs of pages, which are under
writeback from then on.

Limits, pauses and rates are :mod:`page_writeback`'s.

Departures from the kernel: what the flusher is given is decided for up to 256 pages or 16 runs at
once, and an ``fsync()`` writes what others make dirty while it waits; a page dirtied again before the
flusher has come to it within those is written again.  Free and file pages are one number,
``machine.memory``, whatever else uses memory.  No task may go beyond the limits (there are no
real-time tasks).  ``sync()`` counts the pages that are written, and leaves those that were written to
again under writeback to the next pass.  A work is recorded once at its begin and once at its end.
Inodes have no dirty times or attributes, only pages; a disk's share of the limit halves old
completions every three seconds.  A rescuer writes as much as any worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.kernel import page_writeback as pw
from emulator.kernel.page_ranges import PageRanges
from emulator.kernel.request import IOEND_APPEND, IOEND_OVERWRITE, IOEND_UNWRITTEN
from emulator.types import NSEC_PER_MSEC

if TYPE_CHECKING:
    from emulator.types import BoxSpec

PAGE_SHIFT = 12
#: Pages of one bio (BIO_MAX_PAGES), and runs that a plug holds.
BIO_MAX_PAGES = 256
RUNS_MAX = 16
#: Completions count half after so long (VM_COMPLETIONS_PERIOD_LEN).
COMPLETIONS_PERIOD_MS = 3_000

# Lists that an inode may be on.
CLEAN, B_DIRTY, B_IO, B_MORE_IO, I_SYNC = range(5)

# What the flusher works for.
EXPLICIT, KUPDATE, BACKGROUND = range(3)
REASONS = ("sync", "periodic", "background")

# Whether the flusher's work item is queued or executing.
IDLE, QUEUED, RUNNING, RUNNING_AGAIN = range(4)

# Verdicts on a question for more to write.
MORE, END, WAIT = range(3)

# What an fsync() is told when its pages are clean.
LOGGED, FAILED = 1, 2


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

    def pack(self) -> list[Any]:
        """Return the inode as plain data."""
        return [
            [
                self.file,
                self.disk,
                self.size,
                self.disk_size,
                self.dirtied_when,
                self.on,
                self.writeback_index,
                self.sync_from,
                self.logged,
                self.error,
            ],
            [one.runs() for one in (self.dirty, self.writeback, self.written, self.unwritten)],
            [list(waiter) for waiter in self.waiters],
        ]

    @classmethod
    def unpack(cls, data: list[Any]) -> Inode:
        """Rebuild what :meth:`pack` returned."""
        numbers, sets, waiters = data
        inode = cls(numbers[0], numbers[1], "hole", 0, 0)
        inode.size, inode.disk_size, inode.dirtied_when, inode.on = numbers[2:6]
        inode.writeback_index, inode.sync_from, inode.logged, inode.error = numbers[6:]
        inode.dirty, inode.writeback, inode.written, inode.unwritten = map(PageRanges, sets)
        inode.waiters = [list(waiter) for waiter in waiters]
        return inode


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
        self.work: list[
            int
        ] = []  # [reason, pages left, oldest jiffy, start, progress of the round]
        self.inode = -1  # the file under I_SYNC
        self.left = 0  # pages left of its chunk

    def pack(self) -> list[Any]:
        """Return all of it as plain data."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["bandwidth"] = self.bandwidth.pack()
        return [values[name] for name in self.__slots__]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        for name, value in zip(self.__slots__, data, strict=True):
            if name == "bandwidth":
                self.bandwidth.unpack(value)
            else:
                setattr(self, name, list(value) if isinstance(value, (list, tuple)) else value)


class Answer:
    """What a task is told that has written, or that asks again after a pause."""

    __slots__ = ("again", "dirty", "limit", "new", "pause", "rate", "ratelimit", "start")

    def __init__(self) -> None:
        self.new = 0  # pages that this write made dirty
        self.pause = 0  # jiffies to sleep
        self.again = False  # and then to look again
        self.start = False  # queue the flusher's work first
        self.limit = pw.DIRTY_POLL_THRESH  # pages until its next look
        # For the record: what was looked at, 0 where nobody looked.
        self.dirty = 0
        self.rate = 0
        self.ratelimit = 0


class Backing:
    """All dirty pages of a box, and all that decides about them."""

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

    # -- Limits -------------------------------------------------------------------------------

    def limits(self) -> tuple[int, int]:
        """Return (thresh, background thresh) in pages."""
        return pw.domain_dirty_limits(self.settings, self.memory)

    def writeback_set_ratelimit(self) -> None:
        """The limits have changed, or the CPUs: so does how often each CPU must look."""
        self.dirty_limit = self.limits()[0]
        self.ratelimit_pages = pw.ratelimit_pages(self.dirty_limit, self.nr_cpus)

    def cpus_online(self, nr_cpus: int) -> None:
        """``page_writeback_cpu_online()``: this many are."""
        if nr_cpus != self.nr_cpus:
            self.nr_cpus = nr_cpus
            self.writeback_set_ratelimit()

    def write_sysctl(self, name: str, value: int) -> None:
        """Write one of ``vm.dirty_*``; raise ValueError if it is out of bounds."""
        self.settings.write(name, value)
        self.writeback_set_ratelimit()

    def share(self, disk: Disk, thresh: int) -> int:
        """``__wb_calc_thresh()``: a disk's part of a limit is its part of the pages written of late."""
        return thresh * disk.completions // self.completions if self.completions else 0

    def throttle(self, disk: Disk) -> pw.Throttle:
        """Return what there is to look at before a task may go on dirtying pages of a disk."""
        thresh, background = self.limits()
        return pw.Throttle(
            self.nr_dirty + self.nr_writeback,
            thresh,
            background,
            self.dirty_limit,
            disk.dirty + disk.writeback,
            self.share(disk, thresh),
        )

    def over_bground_thresh(self, disk: Disk) -> bool:
        """``wb_over_bg_thresh()``: whether the background pass is to go on."""
        background = self.limits()[1]
        return self.nr_dirty > background or disk.dirty > self.share(disk, background)

    # -- Who dirties (E.2) ----------------------------------------------------------------------

    def write(
        self,
        file: int,
        offset: int,
        length: int,
        task: pw.Dirtier,
        cpu: int,
        now: int,
    ) -> Answer:
        """Bytes of a file were written: its pages are dirty, and the task pays if it must.

        ``now`` is in jiffies, here as everywhere below.
        """
        inode = self.inodes[file]
        disk = self.disks[inode.disk]
        answer = Answer()
        answer.new = inode.dirty.add(offset >> PAGE_SHIFT, (offset + length + 4095) >> PAGE_SHIFT)
        inode.size = max(inode.size, offset + length)
        self.nr_dirty += answer.new
        self.nr_dirtied += answer.new
        disk.dirty += answer.new
        disk.dirtied += answer.new
        if inode.on == CLEAN:
            self.mark_inode_dirty(inode, disk, now)
        task.nr_dirtied += answer.new
        self.bdp_ratelimits[cpu] += answer.new
        if self.must_look(disk, task, cpu):
            self.balance_dirty_pages(disk, task, now, answer)
        self.set_limit(disk, task, answer)
        return answer

    def look_again(self, file: int, task: pw.Dirtier, now: int) -> Answer:
        """A task whose rate was 0 has slept the longest pause: it looks again."""
        disk = self.disks[self.inodes[file].disk]
        answer = Answer()
        self.balance_dirty_pages(disk, task, now, answer)
        self.set_limit(disk, task, answer)
        return answer

    def set_limit(self, disk: Disk, task: pw.Dirtier, answer: Answer) -> None:
        """Tell the task after how many more pages it is to look."""
        limit = task.nr_dirtied_pause
        if disk.dirty_exceeded:
            limit = min(limit, pw.DIRTY_EXCEEDED_PAGES)
        answer.limit = max(limit - task.nr_dirtied, 1)

    def must_look(self, disk: Disk, task: pw.Dirtier, cpu: int) -> bool:
        """``balance_dirty_pages_ratelimited()``: by the task's count, or by its CPU's."""
        limit = task.nr_dirtied_pause
        if disk.dirty_exceeded:
            limit = min(limit, pw.DIRTY_EXCEEDED_PAGES)
        if task.nr_dirtied >= limit:
            self.bdp_ratelimits[cpu] = 0
            return True
        if self.bdp_ratelimits[cpu] >= self.ratelimit_pages:
            self.bdp_ratelimits[cpu] = 0
            return True
        return False

    def balance_dirty_pages(self, disk: Disk, task: pw.Dirtier, now: int, answer: Answer) -> None:
        """``balance_dirty_pages()``: one look, up to the sleep."""
        dtc = self.throttle(disk)
        answer.dirty = dtc.dirty
        if dtc.dirty <= pw.dirty_freerun_ceiling(dtc.thresh, dtc.background):
            disk.dirty_exceeded = False
            pw.in_free_run(task, dtc.dirty, dtc.thresh, now)
            if self.nr_dirty > dtc.background:
                answer.start = self.wakeup(disk)
            return
        answer.start = self.wakeup(disk)
        exceeded = dtc.wb_dirty > dtc.wb_thresh and dtc.dirty > dtc.thresh
        disk.dirty_exceeded = exceeded
        self.update_bandwidth(disk, dtc, now, now)
        wb = disk.bandwidth
        dtc.dirty_limit = self.dirty_limit
        pause, rate = pw.dirty_pause(
            task, dtc, wb.avg_write_bandwidth, wb.dirty_ratelimit, now, self.hz
        )
        answer.pause = pause
        answer.rate = rate
        answer.ratelimit = wb.dirty_ratelimit
        answer.again = bool(pause) and not rate

    def update_bandwidth(self, disk: Disk, dtc: pw.Throttle | None, start: int, now: int) -> None:
        """``__wb_update_bandwidth()`` of one disk, and the smoothed limit that all have in common."""
        interval = pw.bandwidth_interval(self.hz)
        if now - disk.bandwidth.bw_time_stamp < interval:
            return
        idle = now - disk.bandwidth.bw_time_stamp > self.hz and disk.bandwidth.bw_time_stamp < start
        if dtc is not None and not idle and now - self.dirty_limit_tstamp >= interval:
            self.dirty_limit = pw.update_dirty_limit(self.dirty_limit, dtc.thresh, dtc.dirty)
            self.dirty_limit_tstamp = now
            dtc.dirty_limit = self.dirty_limit
        pw.update_bandwidth(disk.bandwidth, dtc, disk.dirtied, disk.written, start, now, self.hz)

    # -- Inodes and the flusher's work item ------------------------------------------------------

    def mark_inode_dirty(self, inode: Inode, disk: Disk, now: int) -> None:
        """``__mark_inode_dirty()`` of a clean inode; the first one arms the periodic pass."""
        first = not self.has_dirty_io(disk)
        inode.dirtied_when = now
        inode.on = B_DIRTY
        disk.b_dirty.append(inode.file)
        if first:
            self.wakeup_delayed(disk, now)

    def has_dirty_io(self, disk: Disk) -> bool:
        """``wb_has_dirty_io()``."""
        return bool(disk.b_dirty or disk.b_io or disk.b_more_io)

    def interval(self) -> int:
        """Return how often the periodic pass runs, in jiffies; 0: never."""
        return self.settings.dirty_writeback_centisecs * self.hz // 100

    def wakeup_delayed(self, disk: Disk, now: int) -> None:
        """``wb_wakeup_delayed()``: the work is due in an interval, unless it is pending already."""
        if self.interval() and disk.timer_at < 0 and disk.state != QUEUED:
            disk.timer_at = now + self.interval()

    def wakeup(self, disk: Disk) -> bool:
        """``wb_wakeup()``: the work is due now; return whether the caller is to queue it."""
        if disk.state != IDLE:
            return False
        disk.timer_at = -1
        disk.state = QUEUED
        return True

    def timer_expired(self, disk: Disk, now: int) -> bool:
        """The delayed work may be due; return whether it is to be queued."""
        if not 0 <= disk.timer_at <= now:
            return False
        disk.timer_at = -1
        if disk.state == RUNNING:
            disk.state = RUNNING_AGAIN
        return self.wakeup(disk)

    def sync(self) -> int:
        """``sync()``: a work for each disk with dirty pages; return whose flushers to queue, a mask."""
        return sum(
            1 << index
            for index, disk in enumerate(self.disks)
            if self.has_dirty_io(disk) and self.start_sync(disk)
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
        return self.wakeup(disk)

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
            return self.wakeup(disk)
        if self.has_dirty_io(disk):
            self.wakeup_delayed(disk, now)
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

    # -- Pages -----------------------------------------------------------------------------------

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
            kind, end, allocates = self.map_blocks(inode, first, end)
            runs.append([first, end - first, kind, int(allocates)])
            self.set_page_writeback(inode, first, end)
            pages -= end - first
            page = end
        return runs

    def map_blocks(self, inode: Inode, first: int, end: int) -> tuple[int, int, bool]:
        """``xfs_map_blocks()``: what a write from ``first`` on is, up to where, and if it allocates.

        Delayed allocation takes the whole dirty stretch at once.
        """
        written, written_end = inode.written.run_at(first)
        if written == first:
            end = min(end, written_end)
            return self.by_size(inode, end), end, False
        unwritten, unwritten_end = inode.unwritten.run_at(first)
        if unwritten == first:
            return IOEND_UNWRITTEN, min(end, unwritten_end), False
        hole_end = inode.dirty.run_at(first)[1]
        for other in (written, unwritten):
            if other > 0:
                hole_end = min(hole_end, other)
        end = min(end, hole_end)
        inode.logged = 1
        if self.unwritten_first:
            inode.unwritten.add(first, hole_end)
            return IOEND_UNWRITTEN, end, True
        inode.written.add(first, hole_end)
        return self.by_size(inode, end), end, True

    def by_size(self, inode: Inode, end: int) -> int:
        """``xfs_ioend_is_append()``: whether the file on disk becomes longer by this."""
        inside = (inode.disk_size + 4095) >> PAGE_SHIFT
        return IOEND_OVERWRITE if end <= inside else IOEND_APPEND

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

    # -- Books and snapshots -----------------------------------------------------------------------

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
            [
                self.nr_dirty,
                self.nr_writeback,
                self.nr_dirtied,
                self.nr_written,
                self.completions,
                self.completions_period,
                self.dirty_limit,
                self.dirty_limit_tstamp,
                self.ratelimit_pages,
                self.nr_cpus,
            ],
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
        (
            self.nr_dirty,
            self.nr_writeback,
            self.nr_dirtied,
            self.nr_written,
            self.completions,
            self.completions_period,
            self.dirty_limit,
            self.dirty_limit_tstamp,
            self.ratelimit_pages,
            self.nr_cpus,
        ) = numbers
        self.bdp_ratelimits = list(ratelimits)
        self.sync_waiters = [list(waiter) for waiter in waiters]
