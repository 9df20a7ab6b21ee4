"""Which jobs of a fio job file wait for which, and which are reported together.

Theory of operation
-------------------
fio starts jobs in the order of the file.  At one with ``stonewall`` it stops until everything before
it has ended, and so do all jobs behind it.  A job with ``wait_for`` lets others pass while it waits.
A group, which ``group_reporting`` sums up, ends where ``stonewall`` or ``new_group`` stands.
"""

from __future__ import annotations

from collections.abc import Sequence

from emulator.workload.fio_job import FioJob


def waits(jobs: Sequence[FioJob]) -> list[list[int]]:
    """Return per job, by position, the jobs before it that must have ended before it starts."""
    found: list[list[int]] = []
    wall = 0
    for index, job in enumerate(jobs):
        if job.stonewall:
            wall = index
        before = set(range(wall))
        if job.wait_for:
            before |= {other for other in range(index) if jobs[other].name == job.wait_for}
        found.append(sorted(before))
    return found


def unknown_waits(jobs: Sequence[FioJob]) -> list[int]:
    """Return the jobs, by position, whose ``wait_for`` names no job before them."""
    return [
        index
        for index, job in enumerate(jobs)
        if job.wait_for and job.wait_for not in [other.name for other in jobs[:index]]
    ]


def groups(jobs: Sequence[FioJob]) -> list[int]:
    """Return the ``groupid`` of each job."""
    found: list[int] = []
    for job in jobs:
        last = found[-1] if found else 0
        found.append(last + int(bool(found) and (job.stonewall or job.new_group)))
    return found
