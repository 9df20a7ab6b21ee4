"""How long a fio job will surely not block, for the engines: ``quiet_ns`` of its program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.types import NSEC_PER_SEC
from emulator.workload.fio_mix import MixCourse

if TYPE_CHECKING:
    from emulator.workload.fio import FioProgram

#: Margin before the end of the run time: how late the program's ``last_ns`` may be.
QUIET_MARGIN_NS = NSEC_PER_SEC


def quiet_ns(fio: FioProgram, ring_events: int) -> int:
    """Return a lower bound on the CPU time until the job can block in io_getevents().

    After the operation in progress (which counts as nothing) every free unit costs one preparation
    before the depth is reached; from there each event in the ring buys one more iteration, as long as
    the smallest reap is satisfied.  Waiting inside io_submit() is the kernel's to know.  Near the end
    of the run time, and whenever the job does anything else than write or read at its full depth, the
    answer is 0.
    """
    job = fio.job
    course = fio.course
    if isinstance(course, MixCourse) or job.sync or job.think_ns or not fio.flows:
        return 0
    filling = len(fio.units.free)
    reaping = 0
    if job.iodepth_low != job.iodepth:
        # Being full may take several reaps in a row, the next one of which may wait.
        filling = 0 if fio.waiting else filling
    elif not job.polling:
        reaping = max(0, ring_events - job.complete_min + 1)
    iterations = filling + reaping
    if job.drains:
        # The unit being prepared is not counted in ``step`` yet.
        iterations = min(iterations, job.blocks - course.step - int(fio.prepares))
    bound_ns = iterations * course.prep_ns + max(0, iterations - filling) * course.reap_ns
    return bound_ns if fio.last_ns + bound_ns + QUIET_MARGIN_NS < fio.deadline_ns else 0
