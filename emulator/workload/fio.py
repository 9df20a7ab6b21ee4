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
files stay open between passes; io_uring syncs by a system call, not through its ring; thinktime spins CPU time, not wall time; the first failed IO ends
the job, as fio does without ``continue_on_error``.
"""

from __future__ import annotations

from typing import Any

from emulator.types import (
    NEVER,
    NSEC_PER_MSEC,
    NSEC_PER_SEC,
    OP_EXEC,
    OP_EXIT,
    OP_FSYNC,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_PIPE_READ,
    OP_PIPE_WRITE,
    OP_RUN,
    OP_RW,
    OP_SLEEP,
    OP_URING_ENTER,
    OP_URING_REAP,
    OP_WRITE,
    READ,
    WRITE,
    Books,
    Op,
)
from emulator.workload.fio_books import FIO, Direction, FioBooks, batch_class, depth_class
from emulator.workload.fio_mix import SYNC_NONE, MixCourse
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
PC_TOLD = 10  # an earlier job has ended
PC_LOOKED = 11  # fio's main process has seen that
PC_FORKED = 12  # and has started this one
PC_PACED = 13  # the sleep of a rate
PC_SYNCED = 14  # fsync() or fdatasync()
PC_ENDED = 15  # fsync() at the end of the job
PC_TELLING = 16  # a later job is told of the end

#: fio's main process looks this often whether jobs have ended.
REAP_PERIOD_NS = 10 * NSEC_PER_MSEC

# Why the job waits for events: FioProgram.why.
WHY_FULL = 0  # no unit is free, or polling
WHY_DRAIN = 1  # the end of a pass or of the job
WHY_THINK = 2  # before thinktime
WHY_EXIT = 3  # nothing to wait for: pay and leave
WHY_RATE = 4  # before the sleep of a rate
WHY_SYNC = 5  # nothing to wait for: pay and sync

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
        "loops_left",
        "min_nr",
        "pc",
        "rate_until_ns",
        "reached",
        "spin_from_ns",
        "started_ns",
        "sync_from_ns",
        "thought_ios",
        "thought_ns",
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
        # Thinktime.
        self.thought_ios = 0  # IOs completed since the last thought
        self.thought_ns = 0  # when it last thought
        self.spin_from_ns = 0
        # Rate and sync.
        self.rate_until_ns = 0
        self.sync_from_ns = 0
        self.reached = 0  # pipes read before the job, then files synced and pipes written after it
        self.books_kept = self._new_books()

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
        if self.pc <= PC_START or PC_TOLD <= self.pc <= PC_FORKED:
            return self._start(now_ns)
        if self.pc == PC_PAID:
            return self._paid(now_ns)
        if self.pc == PC_SPUN:
            return self._think_sleep(now_ns)
        if self.pc in (PC_THOUGHT, PC_PACED):
            return self._loop(now_ns)
        if self.pc == PC_SYNCED:
            return self._synced(now_ns)
        if self.pc in (PC_ENDED, PC_TELLING):
            return self._exit()
        assert self.pc == PC_RETRY, "a job that has ended was asked to go on"
        return self._commit()

    # Jobs that wait for others: each of these writes to a pipe when it ends.  fio's main process
    # looks for that every 10 ms and forks the job then, so it is placed anew, as by a fork.
    def _start(self, now_ns: int) -> Op:
        job = self.job
        if self.reached < len(job.reads):
            self.reached += 1
            self.pc = PC_TOLD
            return (OP_PIPE_READ, job.reads[self.reached - 1])
        if self.pc == PC_TOLD:
            self.pc = PC_LOOKED
            return (OP_SLEEP, (now_ns // REAP_PERIOD_NS + 1) * REAP_PERIOD_NS)
        if self.pc == PC_LOOKED:
            self.pc = PC_FORKED
            return (OP_EXEC,)
        self.reached = 0
        return self._begin(now_ns)

    def _begin(self, now_ns: int) -> Op:
        self.started_ns = self.thought_ns = now_ns
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
        if isinstance(course, MixCourse):
            return self._loop_mixed(now_ns, course)
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

    # The same with several files, both directions, a rate, a limit or syncs.
    def _loop_mixed(self, now_ns: int, course: MixCourse) -> Op:
        job = self.job
        if course.finished:
            self.ending = True
            return self._drain(now_ns)
        if course.round_over:
            if job.drains:
                return self._drain(now_ns)
            self.books_kept.passes += 1
            course.next_round()
        if course.sync_due != SYNC_NONE:
            return self._sync(now_ns, course)
        if course.chosen < 0:
            course.choose()
            due_ns = course.held_back(now_ns - self.started_ns)
            if due_ns:
                self.rate_until_ns = self.started_ns + due_ns
                return self._quiesce(now_ns, WHY_RATE)
        course.take()
        self.unit = self.units.free.pop()
        self.units.rws[self.unit] = course.rw
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
            self.thought_ios += 1
        units.started[self.unit] = now_ns
        units.queued.append((self.unit, rw, file, offset, length))
        if job.sync:
            # fio takes no slat of a synchronous engine, whose units are issued at once.
            self._issued(now_ns, 1)
            self.pc = PC_RW
            if job.buffered:
                return (OP_WRITE, file, offset, length)
            return (OP_RW, rw, file, offset, length)
        if len(units.queued) >= job.batch_submit:
            return self._commit()
        return self._reap_if_full(now_ns)

    def _commit(self) -> Op:
        self.pc = PC_SUBMITTED
        return (OP_URING_ENTER if self.job.uring else OP_IO_SUBMIT, self.units.batch())

    def _submitted(self, now_ns: int, nr: int) -> Op:
        if nr < 0:
            return self._refused(now_ns, nr)
        assert nr > 0, "io_submit() took nothing and said nothing"
        self._issued(now_ns, nr)
        if self.units.queued:
            return self._commit()
        return self._wait() if self.waiting else self._reap_if_full(now_ns)

    def _issued(self, now_ns: int, nr: int) -> None:
        books = self.books_kept
        units = self.units
        books.submitted += nr
        books.submits[batch_class(nr)] += 1
        books.depths[depth_class(units.depth())] += nr
        if self.job.sync:
            units.issue(now_ns, nr, None)
        elif self.job.mixed:
            for _ in range(nr):
                rw = units.rws[units.queued[0][0]]
                units.issue(now_ns, 1, self._kept(now_ns, rw))
        else:
            units.issue(now_ns, nr, self._kept(now_ns, self.course.rw))

    def _kept(self, now_ns: int, rw: int) -> Direction | None:
        # Where samples taken now go; none are kept during the warm-up.
        return None if now_ns < self.job.stats_from_ns else self.books_kept.direction(rw)

    def _refused(self, now_ns: int, error: int) -> Op:
        # No credits: make room by reaping one, then try again with the same iocbs.
        assert error == -EAGAIN, f"io_submit() failed with {error}"
        self.books_kept.eagain += 1
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
            and self._thinks(now_ns)
            and not self.course.verifying
            and not self.ending
        ):
            self.thought_ios = 0
            return self._quiesce(now_ns, WHY_THINK)
        return self._loop(now_ns)

    # handle_thinktime(): after so many blocks, or after so long.
    def _thinks(self, now_ns: int) -> bool:
        job = self.job
        if job.think_iotime_ns:
            if now_ns - self.thought_ns >= job.think_iotime_ns:
                return True
            if not job.think_blocks_set:
                return False
        return self.thought_ios >= job.think_blocks

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
        course = self.course
        if isinstance(course, MixCourse):
            for event in events:
                read = self.units.rws[event[0]] == READ
                self._account_all(now_ns, [event], READ if read else WRITE)
                self.debt_ns += self.job.read_reap_ns if read else self.job.write_reap_ns
        else:
            self._account_all(now_ns, events, course.rw)
            self.debt_ns += len(events) * course.reap_ns
        books = self.books_kept
        books.end_ns = now_ns
        books.completed += len(events)
        if not self.job.think_issued:
            self.thought_ios += len(events)
        books.reaps[batch_class(len(events))] += 1

    # All of one direction.
    def _account_all(self, now_ns: int, events: list[tuple[int, int]], rw: int) -> None:
        direction = self._kept(now_ns, rw)
        length = self.job.write_bs if rw == WRITE else self.job.read_bs
        if direction and now_ns >= direction.turn_ns:
            direction.turn(now_ns)
        for unit, res in events:
            self.units.complete(now_ns, unit, direction)
            if res != length:
                self._fail(res, direction)
        if direction and direction.log is not None:
            direction.note(now_ns, len(events))
        if direction and len(direction.lat.fresh) >= FRESH_MAX:
            direction.settle()

    def _rw_done(self, now_ns: int, result: Any) -> Op:
        job = self.job
        length = job.read_bs if self.course.rw == READ else job.write_bs
        self._account(now_ns, [(self.unit, result if result and result < 0 else length)])
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
        job = self.job
        index = self.reached
        self.reached = index + 1
        files = len(job.files) if job.end_fsync and not self.failed else 0
        if index < files:
            self.pc = PC_ENDED
            return (OP_FSYNC, job.files[index][0], 0)
        if index - files < len(job.writes):
            self.pc = PC_TELLING
            return (OP_PIPE_WRITE, job.writes[index - files], 0)
        self.pc = PC_EXITED
        return (OP_EXIT,)

    # Sync: the call is the submitter's own with every engine; what is queued goes out before it.

    def _sync(self, now_ns: int, course: MixCourse) -> Op:
        if self.units.queued:
            return self._commit()
        if self.debt_ns:
            self.why = WHY_SYNC
            return self._pay()
        self.sync_from_ns = now_ns
        self.pc = PC_SYNCED
        return (OP_FSYNC, course.file, course.sync_due)

    def _synced(self, now_ns: int) -> Op:
        assert isinstance(self.course, MixCourse)
        self.course.sync_due = SYNC_NONE
        if now_ns >= self.job.stats_from_ns:
            self.books_kept.sync.add(now_ns - self.sync_from_ns)
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
            return (OP_SLEEP, min(self.rate_until_ns, self.deadline_ns))
        return self._end_pass(now_ns)

    def _think(self, now_ns: int) -> Op:
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
        self.thought_ns = now_ns + max(0, left_ns)
        if left_ns <= 0:
            return self._loop(now_ns)
        self.pc = PC_THOUGHT
        return (OP_SLEEP, now_ns + left_ns)

    @property
    def aio_events(self) -> int:
        """Return the depth: the libaio engine sets up its context for that many events."""
        return 0 if self.job.sync or self.job.uring else self.job.iodepth

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
        if isinstance(course, MixCourse):
            return 0
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
        self.books_kept = books or self._new_books()
        self.books_kept.begin_ns = self.begin_ns
        return self.books_kept

    def _new_books(self) -> FioBooks:
        job = self.job
        return FioBooks(job.read_bs, job.write_bs, tuple(job.percentiles), job.logs)

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
            self.loops_left,
            self.started_ns,
            self.thought_ns,
            self.rate_until_ns,
            self.sync_from_ns,
            self.reached,
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
            fio.loops_left,
            fio.started_ns,
            fio.thought_ns,
            fio.rate_until_ns,
            fio.sync_from_ns,
            fio.reached,
            course,
            units,
        ) = data
        fio.job = FioJob._make(job)
        fio.course = (MixCourse if fio.job.mixed else FilePass).unpack(fio.job, course)
        fio.units = Units.unpack(units)
        return fio
