"""How much may be dirty, and how long who dirties must pause: ``mm/page-writeback.c``, v5.4.

Theory of operation
-------------------
Two limits follow from the memory that could be dirty: above the *background* one the flusher writes,
towards the other one whoever dirties pages is slowed down.  Up to half way between the two nobody is
(the free run).  Beyond that a task sleeps from time to time, so long that it dirties at the rate at
which its disk writes, times a factor (the position ratio) that pulls the sum of dirty pages to a
setpoint between the free run's end and the limit.  The disk's rate is measured, and so is what the
tasks really dirtied: from both follows the *dirty ratelimit*, the rate that would be balanced.

Everything here is arithmetic on plain integers as the kernel does it, in pages, jiffies and pages per
second; :mod:`emulator.kernel.fs_writeback` keeps the counters.

Departures from the kernel: no memory cgroups, no strict limits (``BDI_CAP_STRICTLIMIT``), no
``min_ratio`` and ``max_ratio`` of a device, no ``dirty_throttle_leaks`` (tasks that exit within
their first pages); counters are exact, so nothing is added for the error of per-CPU counters.
"""

from __future__ import annotations

from emulator.kernel import fields

PAGE_SIZE = 4096
DIRTY_POLL_THRESH = 32  # pages: 128 KiB
INIT_BW = 100 << 8  # pages per second: 100 MB/s, what a disk is taken for at first
RATELIMIT_CALC_SHIFT = 10  # position ratios: 1024 is 1.0
MIN_WRITEBACK_PAGES = 1024
DIRTY_SCOPE = 8
#: With the limit exceeded, pages after which a task looks again: 32 KiB.
DIRTY_EXCEEDED_PAGES = 8
LONG_MAX = (1 << 63) - 1


def ilog2(value: int) -> int:
    """Return the number of the highest bit of a positive number."""
    assert value > 0, f"ilog2({value})"
    return value.bit_length() - 1


def roundup_pow_of_two(value: int) -> int:
    """Return the least power of two that is not below a positive number."""
    return 1 << (value - 1).bit_length()


# -- Limits (E.1) -------------------------------------------------------------------------------


class DirtySettings:
    """``vm.dirty_*``: what an administrator may say; bytes override a ratio unless they are 0."""

    __slots__ = (
        "dirty_background_bytes",
        "dirty_background_ratio",
        "dirty_bytes",
        "dirty_expire_centisecs",
        "dirty_ratio",
        "dirty_writeback_centisecs",
    )

    def __init__(self) -> None:
        self.dirty_background_ratio = 10  # percent of what could be dirty
        self.dirty_background_bytes = 0
        self.dirty_ratio = 20
        self.dirty_bytes = 0
        self.dirty_writeback_centisecs = 500  # the periodic pass; 0: none
        self.dirty_expire_centisecs = 3000  # the periodic pass takes what is older

    def pack(self) -> list[int]:
        """Return all values, in the order of the names."""
        return fields.values(self, self.__slots__)

    def unpack(self, data: list[int]) -> None:
        """Take over what :meth:`pack` returned."""
        fields.assign(self, self.__slots__, data)

    def write(self, name: str, value: int) -> None:
        """Write one sysctl by its kernel name; a ratio and its bytes unset each other.

        Raise ValueError if the name is unknown or the value out of bounds, as EINVAL.
        """
        field = name.removeprefix("vm.")
        if field not in self.__slots__:
            raise ValueError(f"there is no {name}")
        low, high = (0, 100) if field.endswith("_ratio") else (0, LONG_MAX)
        if field == "dirty_background_bytes":
            low = 1
        elif field == "dirty_bytes":
            low = 2 * PAGE_SIZE
        if not low <= value <= high:
            raise ValueError(f"{name} must be {low} to {high}, not {value}")
        setattr(self, field, value)
        if field.endswith("_ratio"):
            setattr(self, field.replace("_ratio", "_bytes"), 0)
        elif field.endswith("_bytes"):
            setattr(self, field.replace("_bytes", "_ratio"), 0)


def domain_dirty_limits(
    settings: DirtySettings, available: int, privileged: bool = False, dirty_limit: int = 0
) -> tuple[int, int]:
    """Return (thresh, background thresh) in pages, of ``available`` pages that could be dirty.

    ``privileged`` is a real-time task or one that is throttled less: it may go further, by a quarter
    and by 1/32 of the smoothed ``dirty_limit``.
    """
    if settings.dirty_bytes:
        thresh = -(-settings.dirty_bytes // PAGE_SIZE)
    else:
        thresh = settings.dirty_ratio * PAGE_SIZE // 100 * available // PAGE_SIZE
    if settings.dirty_background_bytes:
        background = -(-settings.dirty_background_bytes // PAGE_SIZE)
    else:
        background = settings.dirty_background_ratio * PAGE_SIZE // 100 * available // PAGE_SIZE
    if background >= thresh:
        background = thresh // 2
    if privileged:
        background += background // 4 + dirty_limit // 32
        thresh += thresh // 4 + dirty_limit // 32
    return thresh, background


def dirty_freerun_ceiling(thresh: int, background: int) -> int:
    """Return how many pages may be dirty before anybody is slowed down."""
    return (thresh + background) // 2


def hard_dirty_limit(thresh: int, dirty_limit: int) -> int:
    """Return the limit that counts: the smoothed one follows a sinking threshold slowly."""
    return max(thresh, dirty_limit)


def ratelimit_pages(thresh: int, nr_cpus: int) -> int:
    """``writeback_set_ratelimit()``: pages dirtied on a CPU after which its tasks must look."""
    return max(thresh // (nr_cpus * 32), 16)


def dirty_poll_interval(dirty: int, thresh: int) -> int:
    """Return after how many pages a task in the free run looks again."""
    return 1 << (ilog2(thresh - dirty) >> 1) if thresh > dirty else 1


# -- The position ratio (E.2, 3) ----------------------------------------------------------------


def pos_ratio_polynom(setpoint: int, dirty: int, limit: int) -> int:
    """Return the cubic control line: 2.0 far below the setpoint, 1.0 at it, 0 at the limit."""
    distance = (setpoint - dirty) << RATELIMIT_CALC_SHIFT
    divisor = (limit - setpoint) | 1
    # C divides towards zero.
    x = distance // divisor if distance >= 0 else -(-distance // divisor)
    ratio = x * x >> RATELIMIT_CALC_SHIFT
    ratio = (ratio * x >> RATELIMIT_CALC_SHIFT) + (1 << RATELIMIT_CALC_SHIFT)
    return min(max(ratio, 0), 2 << RATELIMIT_CALC_SHIFT)


class Throttle:
    """``struct dirty_throttle_control``: the figures of one look at a disk and at all of them."""

    __slots__ = ("background", "dirty", "dirty_limit", "thresh", "wb_dirty", "wb_thresh")

    def __init__(
        self,
        dirty: int,
        thresh: int,
        background: int,
        dirty_limit: int,
        wb_dirty: int,
        wb_thresh: int,
    ) -> None:
        self.dirty = dirty  # pages dirty or under writeback, of all disks
        self.thresh = thresh
        self.background = background
        self.dirty_limit = dirty_limit  # smoothed
        self.wb_dirty = wb_dirty  # the disk's part of ``dirty``
        self.wb_thresh = wb_thresh  # and of ``thresh``

    def setpoint(self) -> int:
        """Return where the control lines aim: half way from the free run's end to the limit."""
        limit = hard_dirty_limit(self.thresh, self.dirty_limit)
        return (dirty_freerun_ceiling(self.thresh, self.background) + limit) // 2


def wb_position_ratio(dtc: Throttle, write_bandwidth: int) -> int:
    """Return the position ratio: the common line times the disk's own."""
    limit = hard_dirty_limit(dtc.thresh, dtc.dirty_limit)
    if dtc.dirty >= limit:
        return 0
    setpoint = dtc.setpoint()
    ratio = pos_ratio_polynom(setpoint, dtc.dirty, limit)
    wb_thresh = max(min(dtc.wb_thresh, dtc.thresh), (limit - dtc.dirty) // 8)
    share = (wb_thresh << 16) // (dtc.thresh | 1)
    wb_setpoint = setpoint * share >> 16
    span = (dtc.thresh - wb_thresh + 8 * write_bandwidth) * share >> 16
    intercept = wb_setpoint + span
    if dtc.wb_dirty < intercept - span // 4:
        ratio = ratio * (intercept - dtc.wb_dirty) // ((intercept - wb_setpoint) | 1)
    else:
        ratio //= 4
    # A disk with nearly nothing to write is given something.
    reserve = wb_thresh // 2
    if dtc.wb_dirty < reserve:
        if dtc.wb_dirty > reserve // 8:
            ratio = ratio * reserve // dtc.wb_dirty
        else:
            ratio *= 8
    return ratio


def task_ratelimit(dirty_ratelimit: int, pos_ratio: int) -> int:
    """Return the pages per second at which each task may dirty now."""
    return dirty_ratelimit * pos_ratio >> RATELIMIT_CALC_SHIFT


# -- Pauses (E.2, 5 to 7) -----------------------------------------------------------------------


def wb_max_pause(wb_dirty: int, write_bandwidth: int, hz: int) -> int:
    """Return the longest pause, in jiffies: the disk must not run out of pages meanwhile."""
    jiffies = wb_dirty // (1 + write_bandwidth // roundup_pow_of_two(1 + hz // 8)) + 1
    return min(jiffies, max(hz // 5, 1))


def wb_min_pause(
    max_pause: int, write_bandwidth: int, dirty_ratelimit: int, task_rate: int, hz: int
) -> tuple[int, int]:
    """Return (the shortest pause worth sleeping, pages until the next look), in jiffies and pages."""
    target = max(1, hz // 100)
    high, low = ilog2(write_bandwidth), ilog2(dirty_ratelimit)
    if high > low:
        target += (high - low) * (10 * hz) // 1024
    target = min(target, 1 + max_pause // 2)
    per_second = roundup_pow_of_two(hz)
    pages = dirty_ratelimit * target // per_second
    if pages < DIRTY_POLL_THRESH:
        target = max_pause
        pages = dirty_ratelimit * target // per_second
        if pages > DIRTY_POLL_THRESH:
            pages = DIRTY_POLL_THRESH
            target = per_second * DIRTY_POLL_THRESH // dirty_ratelimit
    if hz * pages // (task_rate + 1) > max_pause:
        target = max_pause
        pages = task_rate * target // per_second
    return (1 + target // 2 if pages >= DIRTY_POLL_THRESH else target), pages


class Dirtier:
    """What a task carries: pages dirtied since its last look, when it is due, when it last paused."""

    __slots__ = ("nr_dirtied", "nr_dirtied_pause", "paused_when")

    def __init__(
        self,
        nr_dirtied: int = 0,
        nr_dirtied_pause: int = DIRTY_POLL_THRESH,
        paused_when: int = 0,
    ) -> None:
        self.nr_dirtied = nr_dirtied
        self.nr_dirtied_pause = nr_dirtied_pause
        self.paused_when = paused_when  # jiffies; 0: never


def in_free_run(task: Dirtier, dirty: int, thresh: int, now: int) -> None:
    """A look in the free run: nothing to pay, and the next look when that may have changed."""
    task.paused_when = now
    task.nr_dirtied = 0
    task.nr_dirtied_pause = dirty_poll_interval(dirty, thresh)


def dirty_pause(
    task: Dirtier, dtc: Throttle, write_bandwidth: int, dirty_ratelimit: int, now: int, hz: int
) -> tuple[int, int]:
    """One look beyond the free run: return (jiffies to sleep, 0: none; the task's rate).

    The task's counts are those that it will have after the sleep.  With a rate of 0 it has to look
    again then.
    """
    pos_ratio = wb_position_ratio(dtc, write_bandwidth)
    rate = task_ratelimit(dirty_ratelimit, pos_ratio)
    max_pause = wb_max_pause(dtc.wb_dirty, write_bandwidth, hz)
    min_pause, next_look = wb_min_pause(max_pause, write_bandwidth, dirty_ratelimit, rate, hz)
    pages = task.nr_dirtied
    if rate == 0:
        pause = max_pause
    else:
        period = hz * pages // rate
        pause = period
        if task.paused_when:
            pause -= now - task.paused_when
        if pause < min_pause:
            if pause < -hz:
                task.paused_when, task.nr_dirtied = now, 0
            elif period:
                task.paused_when += period
                task.nr_dirtied = 0
            elif task.nr_dirtied_pause <= pages:
                task.nr_dirtied_pause += pages
            return 0, rate
        if pause > max_pause:
            now += min(pause - max_pause, max_pause)
            pause = max_pause
    task.paused_when = now + pause
    task.nr_dirtied = 0
    task.nr_dirtied_pause = next_look
    return pause, rate


# -- What is measured ---------------------------------------------------------------------------


class Bandwidth:
    """What is known of a disk: what it writes, and which rate of dirtying would be balanced."""

    __slots__ = (
        "avg_write_bandwidth",
        "balanced_dirty_ratelimit",
        "bw_time_stamp",
        "dirtied_stamp",
        "dirty_ratelimit",
        "write_bandwidth",
        "written_stamp",
    )

    def __init__(self) -> None:
        self.write_bandwidth = INIT_BW
        self.avg_write_bandwidth = INIT_BW
        self.dirty_ratelimit = INIT_BW
        self.balanced_dirty_ratelimit = INIT_BW
        self.bw_time_stamp = 0  # jiffies of the last sample
        self.dirtied_stamp = 0
        self.written_stamp = 0

    def pack(self) -> list[int]:
        """Return all of it, in the order of the names."""
        return fields.values(self, self.__slots__)

    def unpack(self, data: list[int]) -> None:
        """Take over what :meth:`pack` returned."""
        fields.assign(self, self.__slots__, data)


def bandwidth_interval(hz: int) -> int:
    """Return how many jiffies two samples are apart: 200 ms."""
    return max(hz // 5, 1)


def update_bandwidth(
    wb: Bandwidth,
    dtc: Throttle | None,
    dirtied: int,
    written: int,
    start: int,
    now: int,
    hz: int,
) -> bool:
    """``__wb_update_bandwidth()``: take a sample if one is due; return whether it was.

    ``dtc`` is None for the flusher, which leaves the ratelimit alone.  After a second without a
    sample before ``start`` (the flusher's or the look's beginning) the disk was idle: the time
    does not count.
    """
    elapsed = now - wb.bw_time_stamp
    if elapsed < bandwidth_interval(hz):
        return False
    if not (elapsed > hz and wb.bw_time_stamp < start):
        if dtc is not None:
            wb_update_dirty_ratelimit(wb, dtc, dirtied, elapsed, hz)
        wb_update_write_bandwidth(wb, written, elapsed, hz)
    wb.dirtied_stamp = dirtied
    wb.written_stamp = written
    wb.bw_time_stamp = now
    return True


def wb_update_write_bandwidth(wb: Bandwidth, written: int, elapsed: int, hz: int) -> None:
    """Fold what was written in ``elapsed`` jiffies into the average of about three seconds."""
    period = roundup_pow_of_two(3 * hz)
    pages = (written - min(written, wb.written_stamp)) * hz
    if elapsed > period:
        rate = average = pages // elapsed
    else:
        rate = (pages + wb.write_bandwidth * (period - elapsed)) >> ilog2(period)
        average, old = wb.avg_write_bandwidth, wb.write_bandwidth
        if average > old >= rate:
            average -= (average - old) >> 3
        if average < old <= rate:
            average += (old - average) >> 3
    wb.write_bandwidth = rate
    wb.avg_write_bandwidth = max(average, 1)


def wb_update_dirty_ratelimit(
    wb: Bandwidth, dtc: Throttle, dirtied: int, elapsed: int, hz: int
) -> None:
    """Step towards the rate that would be balanced: what the disk writes, per what was dirtied."""
    ratelimit = wb.dirty_ratelimit
    write_bandwidth = wb.avg_write_bandwidth
    dirty_rate = (dirtied - wb.dirtied_stamp) * hz // elapsed
    rate = task_ratelimit(ratelimit, wb_position_ratio(dtc, write_bandwidth)) + 1
    balanced = min(rate * write_bandwidth // (dirty_rate | 1), write_bandwidth)
    step = 0
    # Only where all of them agree; on which side of the setpoint decides the direction.
    if dtc.dirty < dtc.setpoint():
        least = min(wb.balanced_dirty_ratelimit, balanced, rate)
        if ratelimit < least:
            step = least - ratelimit
    else:
        most = max(wb.balanced_dirty_ratelimit, balanced, rate)
        if ratelimit > most:
            step = ratelimit - most
    shift = ratelimit // (2 * step + 1)
    step = -(-(step >> shift) // 8) if shift < 64 else 0
    ratelimit += step if ratelimit < balanced else -step
    wb.dirty_ratelimit = max(ratelimit, 1)
    wb.balanced_dirty_ratelimit = balanced


def update_dirty_limit(dirty_limit: int, thresh: int, dirty: int) -> int:
    """Return the smoothed limit: it rises with the threshold at once, and sinks by 1/32 a sample."""
    if dirty_limit < thresh:
        return thresh
    floor = max(thresh, dirty)
    if dirty_limit > floor:
        return dirty_limit - ((dirty_limit - floor) >> 5)
    return dirty_limit


# -- The flusher's share (E.3) ------------------------------------------------------------------


def writeback_chunk_size(
    write_bandwidth: int, dirty_limit: int, nr_pages: int, sync_all: bool
) -> int:
    """Return how many pages of one inode are written before the next one's turn."""
    if sync_all:
        return LONG_MAX
    pages = min(write_bandwidth // 2, dirty_limit // DIRTY_SCOPE, nr_pages)
    return (pages + MIN_WRITEBACK_PAGES) // MIN_WRITEBACK_PAGES * MIN_WRITEBACK_PAGES
