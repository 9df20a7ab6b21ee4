"""A fio job before its first IO and after its last: earlier jobs, the last syncs, later jobs.

Theory of operation
-------------------
A job that waits for others reads from a pipe per task of theirs, which writes to it when it ends.
fio's main process looks for that every 10 ms and forks the job then, so it is placed anew, as by a
fork.  With ``end_fsync`` a job syncs its files when all its IO is done, unless it has failed.
"""

from __future__ import annotations

from typing import Any

from emulator.types import (
    NSEC_PER_MSEC,
    OP_EXEC,
    OP_EXIT,
    OP_FSYNC,
    OP_PIPE_READ,
    OP_PIPE_WRITE,
    OP_SLEEP,
    Op,
)
from emulator.workload.fio_params import FioJob

#: fio's main process looks this often whether jobs have ended.
REAP_PERIOD_NS = 10 * NSEC_PER_MSEC

# What has been done: Ends.stage.
STAGE_NEW = 0
STAGE_TOLD = 1  # an earlier job has ended
STAGE_LOOKED = 2  # fio's main process has seen that
STAGE_FORKED = 3  # and has started this one


class Ends:
    """Where a job is outside its main loop."""

    __slots__ = ("job", "reached", "stage")

    def __init__(self, job: FioJob) -> None:
        self.job = job
        self.stage = STAGE_NEW
        self.reached = 0  #: pipes read before the job, then files synced and pipes written after it

    def begin(self, now_ns: int) -> Op | None:
        """Return what comes before the job's own first operation; None: it may begin."""
        job = self.job
        if self.stage <= STAGE_TOLD and self.reached < len(job.reads):
            self.reached += 1
            self.stage = STAGE_TOLD
            return (OP_PIPE_READ, job.reads[self.reached - 1])
        if self.stage == STAGE_TOLD:
            self.stage = STAGE_LOOKED
            return (OP_SLEEP, (now_ns // REAP_PERIOD_NS + 1) * REAP_PERIOD_NS)
        if self.stage == STAGE_LOOKED:
            self.stage = STAGE_FORKED
            return (OP_EXEC,)
        self.reached = 0
        return None

    def leave(self, *, failed: bool) -> Op:
        """Return what comes after the job's last operation, at last its exit."""
        job = self.job
        index = self.reached
        self.reached = index + 1
        files = len(job.files) if job.end_fsync and not failed else 0
        if index < files:
            return (OP_FSYNC, job.files[index][0], 0)
        if index - files < len(job.writes):
            return (OP_PIPE_WRITE, job.writes[index - files], 0)
        return (OP_EXIT,)

    def pack(self) -> list[Any]:
        """Return the whole state but the job as plain data."""
        return [self.stage, self.reached]

    @classmethod
    def unpack(cls, job: FioJob, data: list[Any]) -> Ends:
        """Rebuild what :meth:`pack` returned, for the same job."""
        ends = cls(job)
        ends.stage, ends.reached = data
        return ends
