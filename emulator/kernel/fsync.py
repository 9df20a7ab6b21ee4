"""``fsync()`` of a file: ``fs/sync.c`` and ``xfs_file_fsync()`` of ``fs/xfs/xfs_file.c``, v5.4.

Theory of operation
-------------------
Dirty pages of the file are written first, and waited for (:mod:`buffered`).  If the log holds changes
of the file, ``fsync()`` forces it (:mod:`xfs_log`); the log write flushes the device's cache before it.
A file that was only overwritten has none there: the device's cache is
flushed, and a device without a volatile cache has nothing to flush, so that the block layer ends the
empty flush at once, in the submitter.

The same steps follow a write of an O_DSYNC file (``generic_write_sync()``), in whichever task completes
the write.  They are one frame, FSYNC, whose argument says how far they are and who goes on then.

Departures from the kernel: timestamps are not logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.faults import EIO
from emulator.kernel import (
    aio,
    blk_flush,
    buffered,
    frames,
    fs_writeback,
    syscall,
    wq_functions,
    xfs_log,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task

# How far it is: the frame's argument is [this, file, whether the log is to be forced, who goes on].
START = 0
PUSHED = 1  # the push is queued
WRITING = 2  # the log is being written, or the device flushed
FAILED = 3  # a page could not be written


def sys_fsync(cpu: Cpu, p: Task, file: int) -> None:
    """Start ``fsync()`` or ``fdatasync()``: what is logged here, both need."""
    inode = p.run.inodes.get(file)
    forced = 0
    if inode is not None:
        forced, inode.logged = inode.logged, 0
    arg = [START, file, forced, "user"]
    if cpu.buffered:
        buffered.filemap_write_and_wait(cpu, file, arg)
    else:
        cpu.start(frames.FSYNC, cpu.costs.syscall_ns + cpu.costs.fsync_ns, arg)


def pages_written(cpu: Cpu, arg: list[Any], outcome: int) -> None:
    """All pages of the file are clean: a write has failed, or left changes in the log, or neither."""
    stage, file, _forced, then = arg
    if outcome == fs_writeback.FAILED:
        arg = [FAILED, file, 0, then]
    elif outcome == fs_writeback.LOGGED:
        arg = [stage, file, 1, then]
    cpu.start(frames.FSYNC, cpu.costs.syscall_ns + cpu.costs.fsync_ns, arg)


def generic_write_sync(cpu: Cpu, file: int, forced: bool, then: str) -> None:
    """Start the sync that follows a write, in the task that completes it."""
    cpu.start(frames.FSYNC, cpu.costs.fsync_ns, [START, file, int(forced), then])


def file_fsync(cpu: Cpu, arg: list[Any]) -> None:
    """``xfs_file_fsync()``: the next step, or the sleep for the one under way."""
    p = cpu.rq.curr
    stage, file, forced, then = arg
    if -1 in p.run.iocbs:
        xfs_log.io_wait(cpu, p, frames.FSYNC, arg)
    elif stage == START and forced:
        xfs_log.push(cpu, p, file, frames.FSYNC, [PUSHED, file, forced, then])
    elif stage == PUSHED:
        written = [WRITING, file, forced, then]
        xfs_log.write_log(cpu, p, file, frames.FSYNC, written, arg)
    elif stage == START and cpu.queues[cpu.files[file].disk].write_cache:
        flushed = [WRITING, file, forced, then]
        blk_flush.blkdev_issue_flush(cpu, p, file, frames.FSYNC, flushed, arg)
    elif stage == FAILED:
        syscall.return_to_user(cpu, EIO)
    else:
        synced(cpu, then)


def synced(cpu: Cpu, then: str) -> None:
    """All is on stable storage: whoever wanted that goes on."""
    if then == "user":
        syscall.return_to_user(cpu, 0)
    elif then == "work":
        wq_functions.work_body(cpu, None)
    else:
        cpu.start(aio.FINISH_FRAMES[then], 0)
