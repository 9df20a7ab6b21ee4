"""The fio job: prepare, submit, reap, verify, for ever, as fio 3.3x does with libaio or psync.

Theory of operation
-------------------
This is fio's main loop (``do_io()`` and ``do_verify()`` of its ``backend.c``) as a state machine.
``pc`` says which operation has just returned; :meth:`FioProgram.next` continues from there until
the next operation.  One iteration is::

    OP_RUN           account what was reaped, check it if it was a read, prepare one unit
    OP_IO_SUBMIT     once ``batch_submit`` units are queued
    OP_IO_GETEVENTS  once no unit is free (or always, if polling)

so in the steady state of the defaults, submit 1 and reap 1, an IO is three operations.  CPU time
that is owed but not yet spent is in ``debt_ns``; it goes into the next OP_RUN, which is inserted
where there would be none before a wait.

At the end of a pass over the file (:mod:`emulator.workload.fio_pass`) a job that verifies lets its
queue run dry, then (with ``do_verify``) reads all blocks back, runs dry again, and starts over.  A
time-based job without verify goes on with the next pass and never runs dry.

Timestamps are fio's: a unit *starts* when it is handed to the engine, is *issued* when the
io_submit() that took it has returned, and is *complete* when the io_getevents() that returned it
has returned.  Checksums are outside all three.

Departures from fio: the order of blocks is a keyed permutation instead of a generator with a
bitmap, so every pass is a permutation too but not the same one; the end of the run time is looked
at before the accounting of the last reaped unit, not after it; no fsync() before a verify phase;
files stay open between passes; thinktime spins CPU time, not wall time; the first failed IO ends
the job, as fio does without ``continue_on_error``.
"""

from __future__ import annotations

from typing import Any

from emulator.types import (
    NEVER,
    NSEC_PER_SEC,
    OP_EXIT,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_RW,
    OP_SLEEP,
    Books,
    Op,
)
from emulator.workload.fio_books import FIO, Direction, FioBooks, batch_class, depth_class
from emulator.workload.fio_params import FioJob, resolve_job
from emulator.workload.fio_pass import FilePass
from emulator.workload.fio_units import Units
from emulator.workload.latency import FRESH_MAX
from emulator.workload.params import Setting
from emulator.workload.random import seed_stream

EAGAIN = 11

#: fio sleeps this long when io_submit() has no room and nothing is in flight.
RETRY_NS = 10_000

# What has just returned: FioProgram.pc.
PC_START = 0
PC_PREPARED = 1  # the OP_RUN that ends with a unit ready
PC_SUBMITTED = 2
PC_REAPED = 3
PC_RW = 4  # pread() or pwrite()
PC_PAID = 5  # an OP_RUN for debt alone
PC_SPUN = 6  # thinktime_spin
PC_THOUGHT = 7  # the sleep of thinktime
PC_RETRY = 8  # the sleep after EAGAIN
PC_EXITED = 9

# Why the job waits for events: FioProgram.why.
WHY_FULL = 0  # no unit is free, or polling
WHY_DRAIN = 1  # the end of a pass or of the job
WHY_THINK = 2  # before thinktime
WHY_EXIT = 3  # nothing to wait for: pay and leave

#: Margin of quiet_ns() before the end of the run time: how late ``last_ns`` may be.
QUIET_MARGIN_NS = NSEC_PER_SEC


class FioProgram:
    """One fio job (one thread of one job section)."""

    name = FIO

    __slots__ = (
        "again",
        "begin_ns",
        "books_kept",
        "course",
        "deadline_ns",
        "debt_ns",
        "ending",
        "failed",
        "full",
        "job",
        "last_ns",
        "min_nr",
        "pc",
        "spin_from_ns",
        "thought_ios",
        "unit",
        "units",
        "waiting",
        "why",
    )

    def __init__(self, job: FioJob) -> None:
        self.job = job
        self.pc = PC_START
        self.last_ns = 0  # time of the last call of next()
        self.begin_ns = NEVER  # when what counts begins; set by the first call
        self.deadline_ns = NEVER  # end of the run time; likewise
        self.ending = False
        self.failed = False  # an IO has, the first of which is in the books
        self.course = FilePass(job)
        self.units = Units(job.iodepth)
        self.unit = 0  # being prepared
        # The wait.
        self.waiting = False  # a reap is due, whatever is done first
        self.why = WHY_FULL
        self.full = False
        self.min_nr = 0
        self.again = False  # this io_getevents() makes room for a refused io_submit()
        self.debt_ns = 0
        # Thinktime.
        self.thought_ios = 0  # IOs completed since the last thought
        self.spin_from_ns = 0
        self.books_kept = FioBooks(job.bs)

    @classmethod
    def make(cls, params: dict[str, Any], setting: Setting) -> FioProgram:
        """Build the job of one resolved section from :data:`fio_params.FIO_PARAMS`."""
        seed = seed_stream(setting.seed, params.get("randseed", 0))
        return cls(resolve_job(params, setting.costs, seed))

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next operation; see :class:`emulator.types.Program`."""
        self.last_ns = now_ns
        pc = self.pc
        if pc == PC_PREPARED:
            return self._queue(now_ns)
        if pc == PC_SUBMITTED:
            return self._submitted(now_ns, result)
        if pc == PC_REAPED:
            return self._reaped(now_ns, result)
        if pc == PC_RW:
            return self._rw_done(now_ns, result)
        return self._next_rare(now_ns)

    def _next_rare(self, now_ns: int) -> Op:
        if self.pc == PC_START:
            return self._begin(now_ns)
        if self.pc == PC_PAID:
            return self._exit() if self.why == WHY_EXIT else self._wait()
        if self.pc == PC_SPUN:
            return self._think_sleep(now_ns)
        if self.pc == PC_THOUGHT:
            return self._loop(now_ns)
        assert self.pc == PC_RETRY, "a job that has ended was asked to go on"
        return self._commit()

    def _begin(self, now_ns: int) -> Op:
        self.begin_ns = max(now_ns, self.job.stats_from_ns)
        self.books_kept.begin_ns = self.begin_ns
        self.deadline_ns = min(NEVER, now_ns + self.job.runtime_ns)
        return self._loop(now_ns)

    # The loop: one iteration from preparing a unit to the reap.

    def _loop(self, now_ns: int) -> Op:
        job = self.job
        if self.ending or now_ns >= self.deadline_ns:
            self.ending = True
            return self._drain(now_ns)
        course = self.course
        if course.step == job.blocks:
            if job.drains:
                return self._drain(now_ns)
            self.books_kept.passes += 1
            course.continue_in_new_order()
        self.unit = self.units.free.pop()
        run_ns = course.prep_ns + self.debt_ns
        self.debt_ns = 0
        self.pc = PC_PREPARED
        return (OP_RUN, run_ns)

    def _queue(self, now_ns: int) -> Op:
        job = self.job
        units = self.units
        rw = self.course.rw
        offset = self.course.next_offset()
        units.started[self.unit] = now_ns
        units.queued.append((self.unit, rw, job.file, offset, job.bs))
        if job.sync:
            # fio takes no slat of a synchronous engine, whose units are issued at once.
            self._issued(now_ns, 1, None)
            self.pc = PC_RW
            return (OP_RW, rw, job.file, offset, job.bs)
        if len(units.queued) >= job.batch_submit:
            return self._commit()
        return self._reap_if_full(now_ns)

    def _commit(self) -> Op:
        self.pc = PC_SUBMITTED
        return (OP_IO_SUBMIT, self.units.batch())

    def _submitted(self, now_ns: int, nr: int) -> Op:
        if nr < 0:
            return self._refused(now_ns, nr)
        assert nr > 0, "io_submit() took nothing and said nothing"
        self._issued(now_ns, nr, self._kept(now_ns))
        if self.units.queued:
            return self._commit()
        return self._wait() if self.waiting else self._reap_if_full(now_ns)

    def _issued(self, now_ns: int, nr: int, direction: Direction | None) -> None:
        books = self.books_kept
        books.submitted += nr
        books.submits[batch_class(nr)] += 1
        books.depths[depth_class(self.units.depth())] += nr
        self.units.issue(now_ns, nr, direction)

    def _kept(self, now_ns: int) -> Direction | None:
        # Where samples taken now go; none are kept during the warm-up.
        if now_ns < self.job.stats_from_ns:
            return None
        return self.books_kept.direction(self.course.rw)

    def _refused(self, now_ns: int, error: int) -> Op:
        # No credits: make room by reaping one, then try again with the same iocbs.
        assert error == -EAGAIN, f"io_submit() failed with {error}"
        self.books_kept.eagain += 1
        if not self.units.in_flight:
            self.pc = PC_RETRY
            return (OP_SLEEP, now_ns + RETRY_NS)
        self.again = True
        self.pc = PC_REAPED
        return (OP_IO_GETEVENTS, 1, 1)

    def _reap_if_full(self, now_ns: int) -> Op:
        job = self.job
        self.full = not self.units.free
        if not self.full and not job.polling:
            return self._end_iteration(now_ns)
        self.why = WHY_FULL
        self.min_nr = job.complete_min or int(self.full)
        return self._wait()

    def _end_iteration(self, now_ns: int) -> Op:
        job = self.job
        if (
            job.think_ns
            and self.thought_ios >= job.think_blocks
            and not self.course.verifying
            and not self.ending
        ):
            return self._quiesce(now_ns)
        return self._loop(now_ns)

    # Waiting for events.

    def _wait(self) -> Op:
        self.waiting = True
        if self.debt_ns:
            return self._pay()
        if self.units.queued and self.min_nr:
            return self._commit()
        depth = self.units.depth()
        min_nr = min(self.min_nr, depth)
        self.pc = PC_REAPED
        return (OP_IO_GETEVENTS, min_nr, max(min_nr, min(self.job.complete_max, depth)))

    def _pay(self) -> Op:
        run_ns = self.debt_ns
        self.debt_ns = 0
        self.pc = PC_PAID
        return (OP_RUN, run_ns)

    def _reaped(self, now_ns: int, events: list[tuple[int, int]]) -> Op:
        self._account(now_ns, events)
        units = self.units
        if self.again:
            self.again = False
            return self._commit()
        if self.why == WHY_FULL:
            if self.full and units.depth() > self.job.iodepth_low:
                return self._wait()
            self.waiting = False
            return self._end_iteration(now_ns)
        if units.in_flight or units.queued:
            return self._wait()
        self.waiting = False
        return self._think(now_ns) if self.why == WHY_THINK else self._end_pass(now_ns)

    def _account(self, now_ns: int, events: list[tuple[int, int]]) -> None:
        direction = self._kept(now_ns)
        if direction and now_ns >= direction.turn_ns:
            direction.turn(now_ns)
        for unit, res in events:
            self.units.complete(now_ns, unit, direction)
            if res != self.job.bs:
                self._fail(res, direction)
        if direction and len(direction.lat.fresh) >= FRESH_MAX:
            direction.settle()
        books = self.books_kept
        books.end_ns = now_ns
        books.completed += len(events)
        self.thought_ios += len(events)
        books.reaps[batch_class(len(events))] += 1
        self.debt_ns += len(events) * self.course.reap_ns

    def _rw_done(self, now_ns: int, result: Any) -> Op:
        self._account(now_ns, [(self.unit, result if result and result < 0 else self.job.bs)])
        return self._end_iteration(now_ns)

    def _fail(self, res: int, direction: Direction | None) -> None:
        if direction:
            direction.shorts += res > 0
            direction.drops += res == 0
        if not self.failed:
            self.books_kept.error = res or -1
        self.failed = self.ending = True

    # The end of a pass and of the job.

    def _drain(self, now_ns: int) -> Op:
        self.why = WHY_DRAIN
        self.min_nr = self.units.depth()
        return self._wait() if self.min_nr else self._end_pass(now_ns)

    def _end_pass(self, now_ns: int) -> Op:
        job = self.job
        if self.ending:
            return self._leave()
        self.books_kept.passes += 1
        verify_next = job.do_verify and not self.course.verifying
        if not verify_next and not job.time_based:
            return self._leave()
        self.course.rewind(verifying=verify_next)
        return self._loop(now_ns)

    def _leave(self) -> Op:
        self.why = WHY_EXIT
        return self._pay() if self.debt_ns else self._exit()

    def _exit(self) -> Op:
        self.pc = PC_EXITED
        return (OP_EXIT,)

    # Thinktime.

    def _quiesce(self, now_ns: int) -> Op:
        self.why = WHY_THINK
        self.min_nr = 1
        return self._wait() if self.units.depth() else self._think(now_ns)

    def _think(self, now_ns: int) -> Op:
        self.thought_ios = 0
        spin_ns = min(self.job.think_spin_ns, max(0, self.deadline_ns - now_ns))
        self.spin_from_ns = now_ns + self.debt_ns
        run_ns = self.debt_ns + spin_ns
        if not run_ns:
            return self._think_sleep(now_ns)
        self.debt_ns = 0
        self.pc = PC_SPUN
        return (OP_RUN, run_ns)

    def _think_sleep(self, now_ns: int) -> Op:
        left_ns = self.job.think_ns - (now_ns - self.spin_from_ns)
        left_ns = min(left_ns, self.deadline_ns - now_ns)
        if left_ns <= 0:
            return self._loop(now_ns)
        self.pc = PC_THOUGHT
        return (OP_SLEEP, now_ns + left_ns)

    @property
    def aio_events(self) -> int:
        """Return the depth: the libaio engine sets up its context for that many events."""
        return 0 if self.job.sync else self.job.iodepth

    def quiet_ns(self, ring_events: int) -> int:
        """Return a lower bound on the CPU time until the job can block in io_getevents().

        After the operation in progress (which counts as nothing) every free unit costs one
        preparation before the depth is reached; from there each event in the ring buys one more
        iteration, as long as the smallest reap is satisfied.  Waiting inside io_submit() is the
        kernel's to know.  Near the end of the run time, and whenever the job does anything else
        than write or read at its full depth, the answer is 0.
        """
        job = self.job
        course = self.course
        unsure = self.ending or self.again or (self.waiting and self.why != WHY_FULL)
        if unsure or job.sync or job.think_ns or not PC_PREPARED <= self.pc <= PC_REAPED:
            return 0
        filling = len(self.units.free)
        reaping = 0
        if job.iodepth_low != job.iodepth:
            # Being full may take several reaps in a row, the next one of which may wait.
            filling = 0 if self.waiting else filling
        elif not job.polling:
            reaping = max(0, ring_events - job.complete_min + 1)
        iterations = filling + reaping
        if job.drains:
            # The unit being prepared is not counted in ``step`` yet.
            left = job.blocks - course.step - int(self.pc == PC_PREPARED)
            iterations = min(iterations, left)
        quiet_ns = iterations * course.prep_ns + max(0, iterations - filling) * course.reap_ns
        return quiet_ns if self.last_ns + quiet_ns + QUIET_MARGIN_NS < self.deadline_ns else 0

    def measure_in(self, books: Books | None) -> Books:
        """Count in ``books`` from now on, or in new ones; return them."""
        assert books is None or isinstance(books, FioBooks)
        self.books_kept = books or FioBooks(self.job.bs)
        self.books_kept.begin_ns = self.begin_ns
        return self.books_kept

    def books(self) -> dict[str, Any]:
        """Return what the job has measured; latencies in ns, percentiles from fio's bins."""
        return self.books_kept.books()

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [
            FIO,
            self.job,
            self.pc,
            self.last_ns,
            self.begin_ns,
            self.deadline_ns,
            self.ending,
            self.failed,
            self.unit,
            self.waiting,
            self.why,
            self.full,
            self.min_nr,
            self.again,
            self.debt_ns,
            self.thought_ios,
            self.spin_from_ns,
            self.course.pack(),
            self.units.pack(),
        ]

    @classmethod
    def unpack(cls, data: list[Any]) -> FioProgram:
        """Rebuild what :meth:`pack` returned."""
        fio = cls.__new__(cls)
        (
            _,
            job,
            fio.pc,
            fio.last_ns,
            fio.begin_ns,
            fio.deadline_ns,
            fio.ending,
            fio.failed,
            fio.unit,
            fio.waiting,
            fio.why,
            fio.full,
            fio.min_nr,
            fio.again,
            fio.debt_ns,
            fio.thought_ios,
            fio.spin_from_ns,
            course,
            units,
        ) = data
        fio.job = FioJob._make(job)
        fio.course = FilePass.unpack(fio.job, course)
        fio.units = Units.unpack(units)
        return fio
