"""Who dirties pages may go on, or pays: ``balance_dirty_pages()`` of ``mm/page-writeback.c``, v5.4 (E.2).

The arithmetic of limits and pauses is :mod:`page_writeback`'s.

Departure from the kernel: no task may go beyond the limits (there are no real-time tasks).
"""

from __future__ import annotations

from emulator.kernel import page_writeback as pw
from emulator.kernel.backing_dev import Disk
from emulator.kernel.dirty_pages import DirtyPages
from emulator.kernel.inode import CLEAN, PAGE_SHIFT


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


class DirtyThrottling(DirtyPages):
    """All dirty pages of a box, and what they cost those who dirty more."""

    __slots__ = ()

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
                answer.start = disk.wakeup()
            return
        answer.start = disk.wakeup()
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
