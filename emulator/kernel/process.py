"""What a task is doing: its place in a program, in a system call or in a kernel thread.

Theory of operation
-------------------
A task is always at the start of some execution frame (:mod:`emulator.kernel.frames`): a kind, the
time it still takes, and an argument.  While it runs, the CPU counts that down; when it is switched
out, the rest is kept here.  Everything a task owns besides its scheduling entity is here too: its
program, its AIO context (the ring of finished events and the credits), and the state of the inodes
that only it uses.  All of it travels with the task: a message carries the :class:`Task` itself, whose
sender has let go of it, and the wire packs it as plain data where the message leaves the process.
What its program has measured stays behind (:class:`emulator.types.Books`).

A task that sleeps says what it waits for in ``wait``.  Whoever completes an IO for a task that has
moved sends mail to its owner, stamped with the residence (``Task.moves``) it believes in.

Departures from the kernel: an inode is used by one task (the box file refuses two tasks on one
file), so its lock and its count of direct IOs in flight are the task's own; the per-CPU caches of
AIO credits are kept with the context, one number per CPU, instead of with the CPUs.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

from emulator.kernel.request import Request
from emulator.kernel.sched import Task
from emulator.kernel.xfs_file import Inode
from emulator.types import Program

if TYPE_CHECKING:
    from collections.abc import Callable

# What a sleeping task waits for: TaskRun.wait.
WAIT_NONE = 0
WAIT_RING = 1  # io_getevents(): wait_arg = min_nr
WAIT_DIO = 2  # inode_dio_wait(): wait_arg = file
WAIT_TIMER = 3  # clock_nanosleep(), schedule_timeout()
WAIT_TAG = 4  # blk_mq_get_tag()
WAIT_RW = 5  # pread()/pwrite(): the IO itself
WAIT_WORK = 6  # an idle worker, a parked thread
WAIT_PIPE = 7  # pipe_read(): arg = pipes
WAIT_PAGES = 8  # wait_on_page_writeback(): wait_arg = file
WAIT_FLUSH = 9  # flush_workqueue(): wait_arg = answers to come
WAIT_EVENTFD = 10  # eventfd_read()
#: Sleeps that mail can end.
MAIL_WAITS = frozenset((WAIT_RING, WAIT_DIO, WAIT_RW, WAIT_EVENTFD))
WAIT_NAMES = (
    "nothing",
    "aio ring",
    "inode dio",
    "timer",
    "tag",
    "io",
    "work",
    "pipe",
    "pages",
    "flush",
    "eventfd",
)


class PipeEnds:
    """A task's ends of pipes: what it has not read, what it has written, who waits for it.

    All by pipe.  ``peers`` is where the task at the other end was last: (residence, CPU).
    ``waiters`` are the wait queues: when the reader went to sleep, and what it looked like then.
    """

    __slots__ = ("next_read", "next_write", "peers", "unread", "waiters")

    def __init__(self) -> None:
        self.unread: dict[int, dict[int, int]] = {}  # number of the write -> what was written
        self.next_read: dict[int, int] = {}
        self.next_write: dict[int, int] = {}
        self.peers: dict[int, tuple[int, int]] = {}
        self.waiters: dict[int, list[Any]] = {}

    def pack(self) -> list[Any]:
        """Return the ends as plain data."""
        return [
            [[pipe, dict(unread)] for pipe, unread in self.unread.items()],
            dict(self.next_read),
            dict(self.next_write),
            [[pipe, *peer] for pipe, peer in self.peers.items()],
            [[pipe, list(entry)] for pipe, entry in self.waiters.items()],
        ]

    @classmethod
    def unpack(cls, data: list[Any]) -> PipeEnds:
        """Rebuild what :meth:`pack` returned."""
        ends = cls()
        unread, ends.next_read, ends.next_write, peers, waiters = data
        ends.unread = {pipe: dict(numbers) for pipe, numbers in unread}
        ends.peers = {pipe: (moves, cpu) for pipe, moves, cpu in peers}
        ends.waiters = {pipe: list(entry) for pipe, entry in waiters}
        return ends


class Kioctx:
    """``struct kioctx``: the ring of finished events and the credits of one AIO context."""

    __slots__ = (
        "completed_events",
        "cpu_credits",
        "eventfd",
        "nr_events",
        "req_batch",
        "reqs_available",
        "ring",
        "seen",
        "works",
    )

    def __init__(self, nr: int, possible_cpus: int) -> None:
        # aio_setup_ring() and ioctx_alloc(): sizes of io-and-workqueue.md C.1.
        n2 = 2 * max(nr, 4 * possible_cpus) + 2
        pages = -(-(32 + 32 * n2) // 4096)
        self.nr_events = (4096 * pages - 32) // 32
        self.reqs_available = self.nr_events - 1
        self.req_batch = max(1, self.reqs_available // (4 * possible_cpus))
        self.cpu_credits: dict[int, int] = {}
        self.ring: list[tuple[int, int]] = []
        self.completed_events = 0
        self.seen = 0  # events consumed by user space since the last refill
        #: [file, iocb] of dios that their submitter is to complete (the completion policy caller)
        self.works: list[list[int]] = []
        self.eventfd = -1  # count of the eventfd that its iocbs signal; -1: they signal none

    def get_reqs_available(self, cpu: int) -> bool:
        """Take one credit from ``cpu``'s cache, refilling it; False if there is none (EAGAIN)."""
        if self._get(cpu):
            return True
        self.user_refill_reqs_available(cpu)
        return self._get(cpu)

    def _get(self, cpu: int) -> bool:
        cached = self.cpu_credits.get(cpu, 0)
        if cached == 0:
            if self.reqs_available < self.req_batch:
                return False
            self.reqs_available -= self.req_batch
            cached = self.req_batch
        self.cpu_credits[cpu] = cached - 1
        return True

    def put_reqs_available(self, cpu: int, nr: int) -> None:
        """Return ``nr`` credits to ``cpu``'s cache, spilling whole batches to the common pool."""
        cached = self.cpu_credits.get(cpu, 0) + nr
        while cached >= 2 * self.req_batch:
            cached -= self.req_batch
            self.reqs_available += self.req_batch
        self.cpu_credits[cpu] = cached

    def refill_reqs_available(self, cpu: int) -> None:
        """Give back the credits of events that user space has consumed since the last time."""
        returned = min(self.completed_events, self.completed_events - len(self.ring))
        if returned > 0:
            self.completed_events -= returned
            self.put_reqs_available(cpu, returned)

    def user_refill_reqs_available(self, cpu: int) -> None:
        """The same, from io_submit() that ran out of credits."""
        if self.completed_events:
            self.refill_reqs_available(cpu)

    def complete(self, cpu: int, data: int, res: int) -> None:
        """Write one event at the tail and, with more than one outstanding, refill credits."""
        assert len(self.ring) < self.nr_events, "the AIO ring overflows"
        self.ring.append((data, res))
        self.completed_events += 1
        if self.completed_events > 1:
            self.refill_reqs_available(cpu)

    def pack(self) -> list[Any]:
        """Return the context as plain data."""
        return [
            self.nr_events,
            self.reqs_available,
            self.req_batch,
            dict(self.cpu_credits),
            pack_ring(self.ring),
            self.completed_events,
            self.seen,
            [list(work) for work in self.works],
            self.eventfd,
        ]

    @classmethod
    def unpack(cls, data: list[Any]) -> Kioctx:
        """Rebuild what :meth:`pack` returned."""
        ctx = cls.__new__(cls)
        (
            ctx.nr_events,
            ctx.reqs_available,
            ctx.req_batch,
            ctx.cpu_credits,
            ring,
            ctx.completed_events,
            ctx.seen,
            works,
            ctx.eventfd,
        ) = data
        ctx.ring = unpack_ring(ring)
        ctx.works = [list(work) for work in works]
        return ctx


def pack_ring(ring: list[tuple[int, int]]) -> list[Any]:
    """Return finished events as plain data: whose they are, and one result for all if it is one."""
    if not ring:
        return []
    data, results = zip(*ring, strict=True)
    return [data, results if results.count(results[0]) < len(ring) else results[:1]]


def unpack_ring(packed: list[Any]) -> list[tuple[int, int]]:
    """Rebuild what :func:`pack_ring` was given."""
    if not packed:
        return []
    data, results = packed
    return list(
        zip(data, results if len(results) == len(data) else repeat(results[0]), strict=False)
    )


class Uring:
    """An io_uring: entries that user space has not taken, and task work that is still to be run.

    A work is [file, iocb, 0], a dio to be completed, or [data, result, 1 + inline], an entry to be
    written.
    """

    __slots__ = ("cqes", "iopoll", "works")

    def __init__(self, iopoll: bool = False) -> None:
        self.iopoll = iopoll  # IORING_SETUP_IOPOLL
        self.cqes: list[tuple[int, int]] = []
        self.works: list[list[int]] = []

    def pack(self) -> list[Any]:
        """Return the ring as plain data."""
        return [pack_ring(self.cqes), [list(work) for work in self.works], self.iopoll]

    @classmethod
    def unpack(cls, data: list[Any]) -> Uring:
        """Rebuild what :meth:`pack` returned."""
        ring = cls(data[2])
        ring.cqes = unpack_ring(data[0])
        ring.works = [list(work) for work in data[1]]
        return ring


class TaskRun:
    """The execution state of one task: its next frame, its program, its IO."""

    __slots__ = (
        "arg",
        "cause",
        "ctx",
        "dio_count",
        "dirtier",
        "inode_io",
        "inodes",
        "iocb_seq",
        "iocbs",
        "ioprio",
        "item",
        "kind",
        "left",
        "pipes",
        "plug",
        "poll_list",
        "polled",
        "program",
        "refill_ns",
        "remote_ios",
        "submit",
        "tag_cpu",
        "timer",
        "unaligned",
        "uring",
        "wait",
        "wait_arg",
        "wait_since",
        "work_at",
        "worker",
    )

    def __init__(self, program: Program | None, kind: int) -> None:
        self.program = program
        self.kind = kind  # frames.* of the frame to go on with
        self.left = 0  # ns of it
        self.arg: Any = None
        self.wait = WAIT_NONE
        self.wait_arg = 0
        self.wait_since = 0
        self.cause = 0
        self.ctx: Kioctx | None = None
        #: file -> direct IOs in flight (inode->i_dio_count)
        self.dio_count: dict[int, int] = {}
        #: iocb number -> [references, data, result, 1 while its IO is outstanding (2: its
        #: entry is in ``polled``), 1 if it ended without a worker]; the number of pread()'s and pwrite()'s is -1
        self.iocbs: dict[int, list[int]] = {}
        #: file -> its inode, if it is not plain; iocb -> [file, flags, offset, length, flags of what
        #: its submitter has still to do] of writes that change one, or are to be synced
        self.inodes: dict[int, Inode] = {}
        self.inode_io: dict[int, list[int]] = {}
        self.iocb_seq = 0
        #: io_submit() under way: [iocbs, next index, submitted]
        self.submit: list[Any] = []
        #: requests (request.Request) collected under the plug; empty whenever the task is off its CPU
        self.plug: list[Request] = []
        self.worker = -1  # of a workqueue's worker: its pool here, or UNBOUND_BASE + index
        #: IOs outstanding that were submitted on other CPUs: their ends arrive as mail
        self.remote_ios = 0
        #: it writes less than a block at a time: each io_submit() waits for its own IO
        self.unaligned = False
        self.pipes: PipeEnds | None = None
        #: of a bound worker: its CPU time when its item started, or when it woke up last
        self.work_at = 0
        self.item: list[Any] = []  # of an unbound worker: the item it executes, packed
        self.uring: Uring | None = None
        #: polled requests that are not over: [cookie, disk, bucket, whether it has slept for it]; those
        #: of them, packed, whose completions are there to be found
        self.poll_list: list[list[int]] = []
        self.polled: list[list[int]] = []
        self.ioprio = 0  # class << 13 | level, as ioprio_set() takes it
        self.tag_cpu = -1  # where it last slept for a tag of one of several hardware queues
        #: what it has made dirty (buffered.D_*); [] until it first does
        self.dirtier: list[int] = []
        self.refill_ns = 0  # cache refill after a move, added to the next user segment
        #: while a delayed task is being moved, the timer that ends its sleep: [ns, 0] or [0, jiffy]
        self.timer: list[int] = []

    def outstanding(self) -> int:
        """Return how many IOs are outstanding that will end elsewhere once their task has moved."""
        return sum(state[3] == 1 for state in self.iocbs.values())

    def pack(self) -> list[Any]:
        """Return everything as plain data; the program packs itself."""
        return [
            None if self.program is None else self.program.pack(),
            self.kind,
            self.left,
            self.arg,
            self.wait,
            self.wait_arg,
            self.wait_since,
            self.cause,
            None if self.ctx is None else self.ctx.pack(),
            dict(self.dio_count),
            [[iocb, *state] for iocb, state in self.iocbs.items()],
            self.iocb_seq,
            self.submit,
            self.worker,
            self.refill_ns,
            self.remote_ios,
            [rq.pack() for rq in self.plug],
            self.timer,
            self.unaligned,
            None if self.pipes is None else self.pipes.pack(),
            self.item,
            [[file, inode.pack()] for file, inode in self.inodes.items()],
            [[iocb, *io] for iocb, io in self.inode_io.items()],
            None if self.uring is None else self.uring.pack(),
            self.work_at,
            self.tag_cpu,
            self.dirtier,
            [list(entry) for entry in self.poll_list],
            [list(data) for data in self.polled],
            self.ioprio,
        ]

    @classmethod
    def unpack(cls, data: list[Any], unpack_program: Callable[[list[Any]], Program]) -> TaskRun:
        """Rebuild what :meth:`pack` returned."""
        run = cls.__new__(cls)
        (
            program,
            run.kind,
            run.left,
            run.arg,
            run.wait,
            run.wait_arg,
            run.wait_since,
            run.cause,
            ctx,
            run.dio_count,
            iocbs,
            run.iocb_seq,
            run.submit,
            run.worker,
            run.refill_ns,
            run.remote_ios,
            plug,
            run.timer,
            run.unaligned,
            pipes,
            run.item,
            inodes,
            inode_io,
            uring,
            run.work_at,
            run.tag_cpu,
            run.dirtier,
            poll_list,
            polled,
            run.ioprio,
        ) = data
        run.poll_list = [list(entry) for entry in poll_list]
        run.polled = [list(packed) for packed in polled]
        run.uring = None if uring is None else Uring.unpack(uring)
        run.inodes = {file: Inode.unpack(inode) for file, inode in inodes}
        run.inode_io = {iocb: io for iocb, *io in inode_io}
        run.program = None if program is None else unpack_program(program)
        run.ctx = None if ctx is None else Kioctx.unpack(ctx)
        run.iocbs = {iocb: state for iocb, *state in iocbs}
        run.plug = [Request.unpack(rq) for rq in plug]
        run.pipes = None if pipes is None else PipeEnds.unpack(pipes)
        return run


def unpack_task(data: Task | list[Any], unpack_program: Callable[[list[Any]], Program]) -> Task:
    """Return the task of a message: itself, or rebuilt from what :meth:`Task.pack` returned."""
    if isinstance(data, Task):
        return data
    p = Task.__new__(Task)
    p.unpack_se(data[0])
    p.run = TaskRun.unpack(data[1], unpack_program)
    return p


def plain(value: Any) -> Any:
    """Return arguments of a message as plain data, the tasks among them packed."""
    if isinstance(value, Task):
        return value.pack()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
