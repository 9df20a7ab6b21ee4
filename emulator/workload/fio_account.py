"""What a fio job books of its IOs, when they are issued and when they are reaped.

Theory of operation
-------------------
Counts go into the books from the first IO on, samples (latencies, bytes) only once the warm-up is over.
An IO that ends with an error, or short, makes the job fail; the first one's error is in the books.
"""

from __future__ import annotations

from emulator.types import READ, WRITE
from emulator.workload.fio_books import Direction, FioBooks, batch_class, depth_class
from emulator.workload.fio_mix import MixCourse
from emulator.workload.fio_params import FioJob
from emulator.workload.fio_pass import FilePass
from emulator.workload.fio_units import Units
from emulator.workload.latency import FRESH_MAX


class Account:
    """The books in use, and whether the job has failed."""

    __slots__ = ("books", "failed", "job", "units")

    def __init__(self, job: FioJob, units: Units) -> None:
        self.job = job
        self.units = units
        self.failed = False
        self.books = self.new_books()

    def new_books(self) -> FioBooks:
        """Return empty books for the job."""
        job = self.job
        return FioBooks(job.read_bs, job.write_bs, tuple(job.percentiles), job.logs, job.sized)

    def length_of(self, unit: int, rw: int) -> int:
        """Return how many bytes a unit under way moves."""
        if self.job.sized:
            return self.units.lengths[unit]
        return self.job.write_bs if rw == WRITE else self.job.read_bs

    def issued(self, now_ns: int, nr: int, rw: int) -> None:
        """Book the next ``nr`` queued units as issued; ``rw`` is theirs unless the job is mixed."""
        books = self.books
        units = self.units
        books.submitted += nr
        books.submits[batch_class(nr)] += 1
        books.depths[depth_class(units.depth())] += nr
        if self.job.sync:
            units.issue(now_ns, nr, None)
        elif self.job.mixed:
            for _ in range(nr):
                units.issue(now_ns, 1, self._kept(now_ns, units.rws[units.queued[0][0]]))
        else:
            units.issue(now_ns, nr, self._kept(now_ns, rw))

    # Where samples taken now go; none are kept during the warm-up.
    def _kept(self, now_ns: int, rw: int) -> Direction | None:
        return None if now_ns < self.job.stats_from_ns else self.books.direction(rw)

    def reaped(
        self, now_ns: int, events: list[tuple[int, int]], course: FilePass | MixCourse
    ) -> int:
        """Book the IOs that one call has returned; return the CPU time that they will cost."""
        cost_ns = 0
        if isinstance(course, MixCourse):
            for event in events:
                read = self.units.rws[event[0]] == READ
                self._complete(now_ns, [event], READ if read else WRITE)
                cost_ns += self.job.read_reap_ns if read else self.job.write_reap_ns
        else:
            self._complete(now_ns, events, course.rw)
            cost_ns = len(events) * course.reap_ns
        books = self.books
        books.end_ns = now_ns
        books.completed += len(events)
        books.reaps[batch_class(len(events))] += 1
        return cost_ns

    # All of one direction.
    def _complete(self, now_ns: int, events: list[tuple[int, int]], rw: int) -> None:
        direction = self._kept(now_ns, rw)
        length = self.length_of(events[0][0], rw) if events else 0
        if direction and now_ns >= direction.turn_ns:
            direction.turn(now_ns)
        for unit, res in events:
            self.units.complete(now_ns, unit, direction)
            if res != length:
                self._fail(res, direction)
            if direction and direction.sized:
                direction.bytes += length
        if direction and direction.log is not None:
            direction.note(now_ns, len(events))
        if direction and len(direction.lat.fresh) >= FRESH_MAX:
            direction.settle()

    def _fail(self, res: int, direction: Direction | None) -> None:
        if direction:
            direction.shorts += res > 0
            direction.drops += res == 0
        if not self.failed:
            self.books.error = res or -1
        self.failed = True
