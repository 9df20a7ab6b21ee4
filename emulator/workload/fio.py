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
files stay open between passes; io_uring syncs by a system call, not through its ring; the first failed
IO ends the job, as fio does without ``continue_on_error``.
"""

from __future__ import annotations

from typing import Any

from emulator.types import (
    NEVER,
    OP_FSYNC,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_IOPRIO_SET,
    OP_RUN,
    OP_RW,
    OP_SLEEP,
    OP_URING_ENTER,
    OP_URING_REAP,
    OP_WRITE,
    Books,
    Op,
)
from emulator.workload.fio_account import Account
from emulator.workload.fio_books import FIO, FioBooks
from emulator.workload.fio_ends import Ends
from emulator.workload.fio_mix import SYNC_NONE, MixCourse
from emulator.workload.fio_params import FioJob, resolve_job
from emulator.workload.fio_pass import FilePass
from emulator.workload.fio_pauses import Pauses
from emulator.workload.fio_quiet import quiet_ns
from emulator.workload.fio_units import Units
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
PC_RW = 4  # pread(), pwrite() or write()
PC_PAID = 5  # an OP_RUN for debt alone
PC_SPUN = 6  # thinktime_spin
PC_THOUGHT = 7  # the sleep of thinktime
PC_RETRY = 8  # the sleep after EAGAIN
PC_LEAVING = 9  # what comes after the last IO
PC_PACED = 10  # the sleep of a rate
PC_SYNCED = 11  # fsync() or fdatasync()
PC_NEW = 12  # nothing yet: ioprio_set() comes first

# Why the job waits for events: FioProgram.why.
WHY_FULL = 0  # no unit is free, or polling
WHY_DRAIN = 1  # the end of a pass or of the job
WHY_THINK = 2  # before thinktime
WHY_EXIT = 3  # nothing to wait for: pay and leave
WHY_RATE = 4  # before the sleep of a rate
WHY_SYNC = 5  # nothing to wait for: pay and sync

#: Attributes that are plain numbers and truth values, in the order in which they are packed.
PACKED = (
    *("pc", "last_ns", "begin_ns", "deadline_ns", "started_ns", "ending", "loops_left"),
    *("unit", "waiting", "why", "full", "min_nr", "again", "debt_ns", "sync_from_ns"),
)


class FioProgram:
    """One fio job (one thread of one job section)."""

    name = FIO

    __slots__ = (
        "account",
        "again",
        "begin_ns",
        "course",
        "deadline_ns",
        "debt_ns",
        "ending",
        "ends",
        "full",
        "job",
        "last_ns",
        "loops_left",
        "min_nr",
        "pauses",
        "pc",
        "started_ns",
        "sync_from_ns",
        "unit",
        "units",
        "waiting",
        "why",
    )

    def __init__(self, job: FioJob) -> None:
        self.job = job
        self.pc = PC_NEW if job.ioprio else PC_START
        self.last_ns = 0  # time of the last call of next()
        self.begin_ns = NEVER  # when what counts begins; set by the first call
        self.deadline_ns = NEVER  # end of the run time; likewise
        self.ending = False
        self.course: FilePass | MixCourse = MixCourse(job) if job.mixed else FilePass(job)
        self.loops_left = job.loops
        self.started_ns = 0  # when the job itself did
        self.units = Units(job.iodepth)
        self.unit = 0  # being prepared
        # The wait.
        self.waiting = False  # a reap is due, whatever is done first
        self.why = WHY_FULL
        self.full = False
        self.min_nr = 0
        self.again = False  # this io_getevents() makes room for a refused io_submit()
        self.debt_ns = 0
        self.sync_from_ns = 0
        self.ends = Ends(job)
        self.pauses = Pauses(job)
        self.account = Account(job, self.units)

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

    def end(self) -> None:
        """Start no IO any more: what is under way is waited for, and the job ends (SIGTERM)."""
        self.ending = True

    def _next_rare(self, now_ns: int) -> Op:
        pc = self.pc
        if pc == PC_START:
            op = self.ends.begin(now_ns)
            return self._begin(now_ns) if op is None else op
        if pc == PC_NEW:
            self.pc = PC_START
            return (OP_IOPRIO_SET, self.job.ioprio)
        if pc == PC_PAID:
            return self._paid(now_ns)
        if pc == PC_SPUN:
            return self._think_sleep(now_ns)
        if pc in (PC_THOUGHT, PC_PACED):
            return self._loop(now_ns)
        if pc == PC_SYNCED:
            return self._synced(now_ns)
        if pc == PC_LEAVING:
            return self.ends.leave(failed=self.account.failed)
        assert pc == PC_RETRY, "a job that has ended was asked to go on"
        return self._commit()

    def _begin(self, now_ns: int) -> Op:
        self.started_ns = self.pauses.thought_ns = now_ns
        self.begin_ns = max(now_ns, self.job.stats_from_ns)
        self.account.books.begin_ns = self.begin_ns
        self.deadline_ns = min(NEVER, now_ns + self.job.runtime_ns)
        return self._loop(now_ns)

    # The loop: one iteration from preparing a unit to the reap.

    def _loop(self, now_ns: int) -> Op:
        job = self.job
        if self.ending or now_ns >= self.deadline_ns:
            self.ending = True
            return self._drain(now_ns)
        course = self.course
        if isinstance(course, MixCourse):
            return self._loop_mixed(now_ns, course)
        if course.step == job.blocks:
            if job.drains:
                return self._drain(now_ns)
            self.account.books.passes += 1
            course.continue_in_new_order()
        self.unit = self.units.free.pop()
        run_ns = course.prep_ns + self.debt_ns
        self.debt_ns = 0
        self.pc = PC_PREPARED
        return (OP_RUN, run_ns)

    # The same with several files, both directions, a rate, a limit or syncs.
    def _loop_mixed(self, now_ns: int, course: MixCourse) -> Op:
        job = self.job
        if course.finished:
            self.ending = True
            return self._drain(now_ns)
        syncs = course.sync_due != SYNC_NONE
        if course.round_over and not (syncs and not course.round_synced):
            if job.drains:
                return self._drain(now_ns)
            self.account.books.passes += 1
            course.next_round()
        if syncs:
            return self._sync(now_ns, course)
        if course.chosen < 0:
            course.choose()
            due_ns = course.held_back(now_ns - self.started_ns)
            if due_ns:
                self.pauses.rate_until_ns = self.started_ns + due_ns
                return self._quiesce(now_ns, WHY_RATE)
        course.take()
        self.unit = self.units.free.pop()
        self.units.rws[self.unit] = course.rw
        if job.sized:
            self.units.lengths[self.unit] = course.length
        run_ns = course.prep_ns + self.debt_ns
        self.debt_ns = 0
        self.pc = PC_PREPARED
        return (OP_RUN, run_ns)

    def _queue(self, now_ns: int) -> Op:
        job = self.job
        units = self.units
        course = self.course
        rw = course.rw
        if isinstance(course, MixCourse):
            file, offset, length = course.file, course.offset, course.length
        else:
            file, offset, length = job.file, course.next_offset(), job.bs
        if job.think_issued:
            self.pauses.ios += 1
        units.started[self.unit] = now_ns
        units.queued.append((self.unit, rw, file, offset, length))
        if job.sync:
            # fio takes no slat of a synchronous engine, whose units are issued at once.
            self.account.issued(now_ns, 1, rw)
            self.pc = PC_RW
            if job.buffered:
                return (OP_WRITE, file, offset, length)
            return (OP_RW, rw, file, offset, length, job.hipri)
        if len(units.queued) >= job.batch_submit:
            return self._commit()
        return self._reap_if_full(now_ns)

    def _commit(self) -> Op:
        self.pc = PC_SUBMITTED
        if self.job.uring:
            return (OP_URING_ENTER, self.units.batch(), self.job.hipri)
        return (OP_IO_SUBMIT, self.units.batch())

    def _submitted(self, now_ns: int, nr: int) -> Op:
        if nr < 0:
            return self._refused(now_ns, nr)
        assert nr > 0, "io_submit() took nothing and said nothing"
        self.account.issued(now_ns, nr, self.course.rw)
        if self.units.queued:
            return self._commit()
        return self._wait() if self.waiting else self._reap_if_full(now_ns)

    def _refused(self, now_ns: int, error: int) -> Op:
        # No credits: make room by reaping one, then try again with the same iocbs.
        assert error == -EAGAIN, f"io_submit() failed with {error}"
        self.account.books.eagain += 1
        if not self.units.in_flight:
            self.pc = PC_RETRY
            return (OP_SLEEP, now_ns + RETRY_NS)
        self.again = True
        self.pc = PC_REAPED
        return (OP_URING_REAP if self.job.uring else OP_IO_GETEVENTS, 1, 1)

    def _reap_if_full(self, now_ns: int) -> Op:
        job = self.job
        self.full = not self.units.free
        if not self.full and not job.polling:
            return self._end_iteration(now_ns)
        self.why = WHY_FULL
        self.min_nr = job.complete_min or int(self.full)
        return self._wait()

    def _end_iteration(self, now_ns: int) -> Op:
        if (
            self.job.think_ns
            and self.pauses.thinks(now_ns)
            and not self.course.verifying
            and not self.ending
        ):
            self.pauses.ios = 0
            return self._quiesce(now_ns, WHY_THINK)
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
        most = max(min_nr, min(self.job.complete_max, depth))
        return (OP_URING_REAP if self.job.uring else OP_IO_GETEVENTS, min_nr, most)

    def _pay(self) -> Op:
        run_ns = self.debt_ns
        self.debt_ns = 0
        self.pc = PC_PAID
        return (OP_RUN, run_ns)

    def _paid(self, now_ns: int) -> Op:
        if self.why == WHY_EXIT:
            return self._exit()
        return self._loop(now_ns) if self.why == WHY_SYNC else self._wait()

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
        return self._quiet(now_ns)

    def _account(self, now_ns: int, events: list[tuple[int, int]]) -> None:
        account = self.account
        self.debt_ns += account.reaped(now_ns, events, self.course)
        if account.failed:
            self.ending = True
        if not self.job.think_issued:
            self.pauses.ios += len(events)

    def _rw_done(self, now_ns: int, result: Any) -> Op:
        length = self.account.length_of(self.unit, self.course.rw)
        self._account(now_ns, [(self.unit, result if result and result < 0 else length)])
        return self._end_iteration(now_ns)

    # The end of a pass and of the job.

    def _drain(self, now_ns: int) -> Op:
        self.why = WHY_DRAIN
        self.min_nr = self.units.depth()
        return self._wait() if self.min_nr else self._end_pass(now_ns)

    def _end_pass(self, now_ns: int) -> Op:
        job = self.job
        if self.ending:
            return self._leave()
        self.account.books.passes += 1
        verify_next = job.do_verify and not self.course.verifying
        if not verify_next and not job.time_based and not self._again():
            return self._leave()
        self.course.rewind(verifying=verify_next)
        return self._loop(now_ns)

    # Whether the job goes over its files once more.
    def _again(self) -> bool:
        if isinstance(self.course, MixCourse):
            return not self.course.finished
        self.loops_left -= 1
        return self.loops_left > 0

    def _leave(self) -> Op:
        self.why = WHY_EXIT
        return self._pay() if self.debt_ns else self._exit()

    def _exit(self) -> Op:
        self.pc = PC_LEAVING
        return self.ends.leave(failed=self.account.failed)

    # Sync: the call is the submitter's own with every engine; what is queued goes out before it.

    def _sync(self, now_ns: int, course: MixCourse) -> Op:
        if self.units.queued:
            return self._commit()
        if self.debt_ns:
            self.why = WHY_SYNC
            return self._pay()
        self.sync_from_ns = now_ns
        self.pc = PC_SYNCED
        datasync = course.take_sync()
        return (OP_FSYNC, course.file, datasync)

    def _synced(self, now_ns: int) -> Op:
        if now_ns >= self.job.stats_from_ns:
            self.account.books.sync.add(now_ns - self.sync_from_ns)
        return self._loop(now_ns)

    # Thinktime and rate.

    def _quiesce(self, now_ns: int, why: int) -> Op:
        self.why = why
        self.min_nr = 1
        return self._wait() if self.units.depth() else self._quiet(now_ns)

    # Nothing is in flight any more.
    def _quiet(self, now_ns: int) -> Op:
        if self.why == WHY_THINK:
            return self._think(now_ns)
        if self.why == WHY_RATE:
            self.pc = PC_PACED
            return (OP_SLEEP, min(self.pauses.rate_until_ns, self.deadline_ns))
        return self._end_pass(now_ns)

    def _think(self, now_ns: int) -> Op:
        run_ns = self.pauses.spin_ns(now_ns, self.debt_ns, self.deadline_ns)
        if not run_ns:
            return self._think_sleep(now_ns)
        self.debt_ns = 0
        self.pc = PC_SPUN
        return (OP_RUN, run_ns)

    def _think_sleep(self, now_ns: int) -> Op:
        until_ns = self.pauses.sleep_until(now_ns, self.deadline_ns)
        if until_ns <= now_ns:
            return self._loop(now_ns)
        self.pc = PC_THOUGHT
        return (OP_SLEEP, until_ns)

    @property
    def aio_events(self) -> int:
        """Return the depth: the libaio engine sets up its context for that many events."""
        return 0 if self.job.sync or self.job.uring else self.job.iodepth

    @property
    def prepares(self) -> bool:
        """Whether the operation in progress prepares a unit."""
        return self.pc == PC_PREPARED

    @property
    def flows(self) -> bool:
        """Whether it is in the midst of preparing, submitting and reaping, and goes on so."""
        unsure = self.ending or self.again or (self.waiting and self.why != WHY_FULL)
        return not unsure and PC_PREPARED <= self.pc <= PC_REAPED

    def quiet_ns(self, ring_events: int) -> int:
        """Return a lower bound on the CPU time until the job can block; see fio_quiet."""
        return quiet_ns(self, ring_events)

    def measure_in(self, books: Books | None) -> Books:
        """Count in ``books`` from now on, or in new ones; return them."""
        assert books is None or isinstance(books, FioBooks)
        account = self.account
        account.books = books or account.new_books()
        account.books.begin_ns = self.begin_ns
        return account.books

    def books(self) -> dict[str, Any]:
        """Return what the job has measured; latencies in ns, percentiles from fio's bins."""
        return self.account.books.books()

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        plain = [getattr(self, name) for name in PACKED]
        parts = (self.course, self.units, self.ends, self.pauses)
        failed = self.account.failed
        return [FIO, self.job, plain, failed, *(part.pack() for part in parts)]

    @classmethod
    def unpack(cls, data: list[Any]) -> FioProgram:
        """Rebuild what :meth:`pack` returned."""
        _, values, plain, failed, course, units, ends, pauses = data
        job = FioJob._make(values)
        fio = cls.__new__(cls)
        fio.job = job
        for name, value in zip(PACKED, plain, strict=True):
            setattr(fio, name, value)
        fio.course = (MixCourse if job.mixed else FilePass).unpack(job, course)
        fio.units = Units.unpack(units)
        fio.account = Account(job, fio.units)
        fio.account.failed = failed
        fio.ends, fio.pauses = Ends.unpack(job, ends), Pauses.unpack(job, pauses)
        return fio
