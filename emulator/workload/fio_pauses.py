"""When a fio job pauses of its own: thinktime, and the sleeps of a rate.

Theory of operation
-------------------
``handle_thinktime()``: after so many blocks (``thinktime_blocks``, counted when they are complete or
when they are issued), or after so long (``thinktime_iotime``), the job lets its queue run dry, spins
for ``thinktime_spin`` and sleeps for the rest of ``thinktime``.  Neither goes beyond the run time.

Departures from fio: the spin is of CPU time, not of time on the clock.
"""

from __future__ import annotations

from typing import Any

from emulator.workload.fio_params import FioJob


class Pauses:
    """What a job has done since it last paused, and until when it pauses."""

    __slots__ = ("ios", "job", "rate_until_ns", "spin_from_ns", "thought_ns")

    def __init__(self, job: FioJob) -> None:
        self.job = job
        self.ios = 0  #: IOs that count since the last thought
        self.thought_ns = 0  #: when it last thought
        self.spin_from_ns = 0
        self.rate_until_ns = 0  #: when the rate allows the next IO

    def thinks(self, now_ns: int) -> bool:
        """Whether it is time to think."""
        job = self.job
        if job.think_iotime_ns:
            if now_ns - self.thought_ns >= job.think_iotime_ns:
                return True
            if not job.think_blocks_set:
                return False
        return self.ios >= job.think_blocks

    def spin_ns(self, now_ns: int, debt_ns: int, deadline_ns: int) -> int:
        """Begin to spin once ``debt_ns`` of CPU time is paid; return for how long, debt included."""
        self.spin_from_ns = now_ns + debt_ns
        return debt_ns + min(self.job.think_spin_ns, max(0, deadline_ns - now_ns))

    def sleep_until(self, now_ns: int, deadline_ns: int) -> int:
        """Return until when the thought sleeps; not after ``now_ns`` if it is over."""
        left_ns = self.job.think_ns - (now_ns - self.spin_from_ns)
        left_ns = min(left_ns, deadline_ns - now_ns)
        self.thought_ns = now_ns + max(0, left_ns)
        return now_ns + left_ns

    def pack(self) -> list[Any]:
        """Return the whole state but the job as plain data."""
        return [self.ios, self.rate_until_ns, self.spin_from_ns, self.thought_ns]

    @classmethod
    def unpack(cls, job: FioJob, data: list[Any]) -> Pauses:
        """Rebuild what :meth:`pack` returned, for the same job."""
        pauses = cls(job)
        pauses.ios, pauses.rate_until_ns, pauses.spin_from_ns, pauses.thought_ns = data
        return pauses
