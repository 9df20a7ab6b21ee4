"""``fsync()`` of a file: ``fs/sync.c`` and ``xfs_file_fsync()`` of ``fs/xfs/xfs_file.c``, v5.4.

Theory of operation
-------------------
A file that is only overwritten leaves nothing in the log: ``fsync()`` forces nothing and flushes the
device's cache.  A device without a volatile cache has nothing to flush: the block layer ends the
empty flush at once, in the submitter.

Departures from the kernel: timestamps are not logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.kernel import frames, syscall

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def sys_fsync(cpu: Cpu, file: int) -> None:
    """Start ``fsync()`` or ``fdatasync()``: of files that are only overwritten they do the same."""
    cpu.start(frames.FSYNC, cpu.costs.syscall_ns + cpu.costs.fsync_ns, file)


def file_fsync(cpu: Cpu, _file: int) -> None:
    """``xfs_file_fsync()``: nothing is pinned by the log, and there is no cache to flush."""
    syscall.return_to_user(cpu, 0)
