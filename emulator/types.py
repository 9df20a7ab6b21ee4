"""The vocabulary that every room may import: ids, time, CPU sets, costs, the resolved box.

Theory of operation
-------------------
Time is integer nanoseconds of emulated time since boot.  A set of CPUs is an ``int`` bitmask
(bit *n* is CPU *n*), as in the kernel's ``cpumask``; people write and read it as a cpulist
(``0-3,8``).  Nothing in this module does I/O, reads a clock or knows another room but the
table of rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NewType, Protocol

from emulator.completion import CompletionSpec
from emulator.rules import Rules

CpuId = NewType("CpuId", int)
Pid = NewType("Pid", int)
Ns = NewType("Ns", int)

#: No event: later than every event of a run (4.6e18 ns, about 146 years).
NEVER: int = 1 << 62

#: The node id of the coordinator itself: source of commands, target of their answers.
COORDINATOR = -1

NSEC_PER_USEC = 1_000
NSEC_PER_MSEC = 1_000_000
NSEC_PER_SEC = 1_000_000_000


# -- CPU sets ---------------------------------------------------------------------------------


#: The most CPUs that a box may have.
NR_CPUS_MAX = 1024


#: Highest CPU that a cpulist may name: x86-64 kernels have 8192 at most.
CPULIST_MAX = 8191


def cpulist_parse(text: str) -> int:
    """Return the mask of a kernel cpulist such as ``0-3,8``; raise ValueError saying what is odd."""
    mask = 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part.strip()!r} is not a CPU number or a range like 0-3")
        low, high = int(first), int(last) if dash else int(first)
        if high > CPULIST_MAX:
            raise ValueError(f"{part.strip()!r}: no kernel has a CPU beyond {CPULIST_MAX}")
        if high < low:
            raise ValueError(f"the range {part.strip()!r} runs backwards")
        mask |= ((1 << (high - low + 1)) - 1) << low
    return mask


def cpulist_format(mask: int) -> str:
    """Return the kernel cpulist of a mask, the inverse of :func:`cpulist_parse`."""
    parts: list[str] = []
    cpu = 0
    while mask >> cpu:
        if mask >> cpu & 1:
            first = cpu
            while mask >> (cpu + 1) & 1:
                cpu += 1
            parts.append(f"{first}" if first == cpu else f"{first}-{cpu}")
        cpu += 1
    return ",".join(parts)


def for_each_cpu(mask: int) -> Iterator[int]:
    """Yield the CPUs of a mask in ascending order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def cpumask_first(mask: int) -> int:
    """Return the lowest CPU of a mask that must not be empty."""
    assert mask, "cpumask_first() of an empty mask"
    return (mask & -mask).bit_length() - 1


# -- Messages between nodes -------------------------------------------------------------------

#: (effect_ns, source node, sequence, target node, op, arguments).  The first three fields are the
#: total order, unique in a run, so messages compare and sort as plain tuples.
Message = tuple[int, int, int, int, int, tuple[Any, ...]]


class Board(Protocol):
    """What nodes publish.  A publication is a plain tuple of ints."""

    def publish(self, node: int, time_ns: int, facts: tuple[int, ...]) -> None:
        """Append facts of ``node`` that hold from ``time_ns`` on (times of one node never fall)."""
        ...

    def read(self, node: int, as_of_ns: int) -> tuple[int, ...]:
        """Return the newest facts of ``node`` published at or before ``as_of_ns``."""
        ...


class TraceSink(Protocol):
    """Where a node writes its trace events; see :mod:`emulator.tracepoints` for the events."""

    @property
    def position(self) -> int:
        """How many records have been written."""
        ...

    def truncate_to(self, position: int) -> None:
        """Take the ring back to ``position``: later records and names are as never written."""
        ...

    def emit(
        self,
        time_ns: int,
        event: int,
        flags: int,
        pid: int,
        cause: int,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        e: int = 0,
    ) -> int:
        """Append one record and return its position (records written before it in this ring)."""
        ...

    def comm(self, pid: int, name: str) -> None:
        """Tell the ring what a pid is called from now on."""
        ...

    def intern(self, text: str) -> int:
        """Return the id of a name in this ring's name table, adding it if it is new."""
        ...


# -- Classes of destination, for promises -------------------------------------------------------

TO_CPU = 0
TO_DEVICE = 1
TO_BALANCER = 2
CLASSES = 3


@dataclass(slots=True)
class Promise:
    """What a node promises about itself if it receives nothing more.

    ``next_ns`` is its next event (NEVER: it sleeps).  ``send_ns[c]`` is the earliest time at which
    it could *send* an active message to a node of class ``c``; the effect is at least the class's
    latency later.  ``mail_ns`` is the earliest time at which passive mail could make it send.
    """

    reached_ns: int = 0
    next_ns: int = NEVER
    send_ns: list[int] = field(default_factory=lambda: [NEVER] * CLASSES)
    mail_ns: int = NEVER
    #: The node stopped at ``next_ns`` because that event reads and the horizon was too near.
    wants_view: bool = False
    #: False: from ``mail_ns`` on mail makes the node publish, but never send.
    mail_sends: bool = True
    #: What it does at ``next_ns`` is felt by no CPU and not by the balancer; until a message comes
    #: it does nothing else.
    halted: bool = False


@dataclass(frozen=True, slots=True)
class Latencies:
    """The least time between the sending of a message and its effect, per class of destination."""

    cpu_ns: int  #: any CPU-bound active message from a CPU
    device_ns: int
    balancer_ns: int  #: a balance request
    coherence_ns: int  #: publications and passive mail
    from_balancer_ns: int = 0  #: the balancer acts on a CPU in the instant it decides


# -- Programs and the system calls they make --------------------------------------------------

#: What a program asks for: a tuple whose first item is one of the OP_* codes.
Op = tuple[Any, ...]

OP_RUN = 0  #: (OP_RUN, ns)                       burn user CPU time
OP_SLEEP = 1  #: (OP_SLEEP, until_ns)             clock_nanosleep(TIMER_ABSTIME); a past time returns at once
OP_IO_SUBMIT = (
    2  #: (OP_IO_SUBMIT, iocbs[, resfd])   io_submit(); iocb = (data, rw, file, offset, length)
)
OP_IO_GETEVENTS = 3  #: (OP_IO_GETEVENTS, min_nr, nr)   io_getevents(), no timeout
OP_RW = 4  #: (OP_RW, rw, file, offset, length[, hipri])   pread()/pwrite() with O_DIRECT
OP_YIELD = 5  #: (OP_YIELD,)                      sched_yield()
OP_EXIT = 6  #: (OP_EXIT,)                        exit()
OP_SLEEP_JIFFIES = (
    7  #: (OP_SLEEP_JIFFIES, n)    schedule_timeout(n): wakes in the tick of jiffy now + n
)
OP_WRITEBACK = (
    8  #: (OP_WRITEBACK, file, offset, length)   one plugged batch of asynchronous page writes
)

OP_RCU_FQS = 9  #: (OP_RCU_FQS, gp_seq)           whether the grace period is over: returns 0 or 1
OP_RCU_GP_INIT = 10  #: (OP_RCU_GP_INIT, gp_seq)      begin a grace period
OP_EXEC = (
    11  #: (OP_EXEC,)                       execve() of a program that goes on as this one does
)
OP_PIPE_READ = 12  #: (OP_PIPE_READ, pipe)          read() of one number; returns it
OP_PIPE_WRITE = 13  #: (OP_PIPE_WRITE, pipe, number)  write() of one number
OP_BURN = 15  #: (OP_BURN, ns)                    run until its own CPU clock has gone on so far
#: (OP_QUEUE_WORK, [[queue, number, [[running ns, sleeping ns], …]], …])   queue_work() of a module's
#: own items, one after the other; [queue, number, steps, delay ns, node] is queue_delayed_work(), or
#: queue_work_node() if there is no delay and a node, -1: none
OP_QUEUE_WORK = 30
#: (OP_FLUSH_WORKQUEUE, queue)   flush_workqueue(); returns how many items it has waited for
OP_FLUSH_WORKQUEUE = 31
#: (OP_CANCEL_WORK, number)   cancel_work_sync() of one of its own items; returns 1 if it had not begun
OP_CANCEL_WORK = 32
OP_SETAFFINITY = 14  #: (OP_SETAFFINITY, mask)       sched_setaffinity() of itself
#: (OP_FSYNC, file, datasync)   fsync(), or fdatasync() if ``datasync``; returns 0
OP_FSYNC = 17
#: (OP_URING_ENTER, sqes[, iopoll])   io_uring_enter() that submits; sqe = (data, rw, file, offset, length);
#: returns how many were submitted.  The ring is set up by the first one, with IORING_SETUP_IOPOLL or not.
OP_URING_ENTER = 18
#: (OP_URING_REAP, min_nr, nr)  take up to nr completions; enters the kernel only if fewer than min_nr
#: are there, and waits for them; returns a list of (data, res), as OP_IO_GETEVENTS
OP_URING_REAP = 19
#: (OP_PIPE_POLL, pipes)        read() of one number from the first of several pipes that has one;
#: returns it
OP_PIPE_POLL = 27

#: (OP_EVENTFD_READ,)   read() of the eventfd that AIO signals; returns its count
OP_EVENTFD_READ = 33
OP_IOPRIO_SET = 34  #: (OP_IOPRIO_SET, ioprio)   ioprio_set() of itself: class << 13 | level

#: (OP_STAT,)   stat() of a name that a RAM file system does not know; returns -ENOENT
OP_STAT = 35

OP_SYNC = 23  #: (OP_SYNC,)   sync(): all that is dirty is written; the log is not forced
OP_WRITE = 22  #: (OP_WRITE, file, offset, length)   write() through the page cache; returns length

READ = 0
WRITE = 1


class Books(Protocol):
    """What one program has measured on one CPU; it stays there when the task goes on elsewhere."""

    def pack(self) -> list[Any]:
        """Return all of it as msgpack-able data, the program's name first."""
        ...


class Program(Protocol):
    """What a task runs: a state machine whose whole state is plain data.

    The kernel calls :meth:`next` when the previous operation has returned.  What a program measures
    is no part of its state: it belongs to the CPU (:class:`Books`).
    """

    name: str  #: key of the program in ``workload.PROGRAMS``

    @property
    def aio_events(self) -> int:
        """What it calls io_setup() with when it starts; 0: it does no AIO."""
        ...

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next operation.

        ``result`` is what the previous one returned: for OP_IO_SUBMIT the number submitted (or a
        negative errno), for OP_IO_GETEVENTS a list of ``(data, res)``, else 0.  The first call
        gets ``None``.
        """
        ...

    def quiet_ns(self, ring_events: int) -> int:
        """Return a lower bound on the CPU time until this program can block or wake anybody.

        ``ring_events`` is the number of finished events in its AIO ring.  0 is always right.
        """
        ...

    def measure_in(self, books: Books | None) -> Books | None:
        """Count in ``books`` from now on, those of an earlier stay here, or in new ones if None.

        Return them; a program that measures nothing returns None.  One that was unpacked must be
        told before it goes on.
        """
        ...

    def pack(self) -> list[Any]:
        """Return the whole state as msgpack-able data, books left out."""
        ...


# -- The resolved box -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Costs:
    """What each act costs, in ns, charged to whoever the kernel charges.  Presets: ``config/costs``."""

    # System calls and user space.
    syscall_ns: int  #: entry and exit of a system call
    io_submit_ns: int  #: io_submit() of the first IO, from entry until its request is in the plug
    io_submit_more_ns: (
        int  #: each further IO of the same io_submit() call, end of the last included
    )
    dispatch_ns: int  #: per request, from the plug through the elevator until the device has it
    io_submit_exit_ns: int  #: from queue_rq to the end of io_submit(), IO lock dropped
    io_getevents_ns: int  #: io_getevents() that finds its events
    io_wait_ns: int  #: after the wakeup of a wait for IO, until the wait is over
    aio_ring_ns: int  #: one event written to the ring or read from it
    nanosleep_ns: int  #: clock_nanosleep() up to the switch
    # Interrupts.
    hardirq_ns: int  #: entry and exit of a hard interrupt
    hrtimer_ns: int  #: one expired hrtimer (scsi_debug: up to blk_mq_complete_request)
    tick_ns: int  #: the tick's own work, entry and exit included
    softirq_ns: int  #: entry and exit of a softirq round
    rcu_softirq_ns: int  #: the RCU softirq's work on one CPU's callbacks
    ipi_ns: int  #: from sending an IPI to the start of its handler on a running CPU
    ipi_handler_ns: int  #: body of the reschedule or call-function handler
    idle_exit_ns: int  #: from the end of the waking interrupt on a halted CPU to schedule()
    idle_entry_ns: int  #: from the switch to swapper until the CPU is halted
    # Block layer and completion work.
    blk_start_request_ns: int  #: BLOCK softirq per request: up to block_rq_complete
    blk_end_request_ns: int  #: from there to queue_work()
    blk_done_request_ns: int  #: after queue_work(): the request freed, its queue run
    queue_work_ns: int  #: queue_work() up to the wakeup of a worker, if one is due
    softirq_tail_ns: int  #: after the last request of a BLOCK round, exit of the interrupt included
    worker_start_ns: int  #: from the switch to a worker until its first execute_start
    work_next_ns: int  #: between two works of one worker
    worker_sleep_ns: int  #: from the last execute_end until schedule()
    dio_complete_ns: int  #: iomap_dio_complete_work() up to inode_dio_end()
    dio_tail_ns: int  #: the rest of it (ring write), nobody woken
    # Scheduler.
    ttwu_ns: int  #: wakeup of a bound task: waking to enqueued
    select_task_rq_ns: int  #: placement of a movable task: waking to the chosen CPU
    ttwu_activate_ns: int  #: from the chosen CPU to enqueued there, for the waker
    context_switch_ns: int  #: schedule(): pick and switch
    newidle_ns: int  #: newidle_balance() that returns early
    stopper_ns: int  #: a stop work that moves a task, up to set_task_cpu()
    stopper_tail_ns: int  #: the rest of it, until the task is enqueued elsewhere
    worker_create_ns: int  #: create_worker()
    balance_pass_ns: int  #: one load_balance() pass
    nohz_cpu_ns: int  #: visit of one idle CPU by the idle load balancer, pass not counted
    # Latencies between nodes.
    coherence_ns: int  #: age of what one CPU sees of another's runqueue
    request_ns: int  #: from a CPU's balance request to the balancer's decision
    # Caches.
    cache_refill_ns: int  #: after a move inside the LLC, spread over the next segment
    cache_refill_far_ns: int  #: after a move to another LLC
    # fio.
    fio_prep_ns: int  #: prepare one unit: offset, buffer fill without verify
    fio_reap_ns: int  #: account one reaped unit
    fio_fill_ps_per_byte: int  #: buffer fill, picoseconds per byte
    verify_ps_per_byte: dict[str, int] = field(default_factory=dict)  #: per verify= algorithm
    verify_base_ns: int = 0  #: per verified unit, whatever its size
    switch_from_user_ns: int = 0  #: further cost of the first switch away from a user task
    store_ps_per_byte: int = 0  #: scsi_debug: copy to its memory, inside queue_rq()
    pipe_read_ns: int = 0  #: read() of a pipe, system call not counted; again after it has slept
    pipe_write_ns: int = 0  #: write() to a pipe up to the wakeup, system call not counted
    pick_fair_ns: int = 0  #: schedule() that ends in a fair task, on top of context_switch_ns
    write_ns: int = 300  #: write() into the page cache, system call and pages not counted
    write_page_ns: int = 500  #: one page of it: looked up, copied into, made dirty
    writepage_ns: int = 250  #: the flusher's work on one page, up to the bio that has it
    delalloc_ns: int = 3_000  #: delayed allocation of one extent
    end_page_ns: int = 60  #: one page that is clean at the end of its bio
    fsync_ns: int = 500  #: fsync() with nothing to write, system call and device not counted
    #: a work that completes an IO of another CPU, whose cache lines it needs: the same LLC, another
    completion_refill_ns: int = 0
    completion_refill_far_ns: int = 0
    transaction_ns: int = (
        15_000  #: median of an XFS transaction that converts blocks or logs a size
    )
    transaction_spread_percent: int = 30  #: sigma of its lognormal distribution
    log_stall_ppm: int = 0  #: of a million transactions, how many find no space in the log
    log_stall_ns: int = 2_000_000  #: how long those sleep
    cil_push_ns: int = 5_000  #: a push of the log: a checkpoint formatted into a log buffer
    task_work_ns: int = 300  #: a completion handled by its submitter's task work, dio not counted
    xlog_ioend_ns: int = 2_000  #: the end of a log write, up to the wakeup of who waits for it
    blk_poll_ns: int = 100  #: one look into the completion queue of a polled hardware queue
    null_dispatch_ns: int = 700  #: as dispatch_ns, with null_blk
    memory_backed_ps_per_byte: int = 100  #: copy of null_blk with memory_backed, inside queue_rq()


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """The machine: how many CPUs, what they share, and how fast the tick is."""

    nr_cpus: int
    hz: int
    core: tuple[int, ...]  #: per CPU, the mask of its SMT siblings (itself included)
    llc: tuple[
        int, ...
    ]  #: per CPU, the mask of CPUs sharing its last-level cache; 0 if none shares
    die: tuple[int, ...]  #: per CPU, the mask of its die or package
    node: tuple[int, ...]  #: per CPU, the mask of its NUMA node
    node_distance: tuple[tuple[int, ...], ...] = ((10,),)
    memory: int = 4 << 30  #: bytes that could be dirty: free memory and file pages
    take_turns: bool = False  #: all CPUs share one host thread (inline engine only)
    idle_polls: bool = False  #: the idle loop polls need_resched instead of halting
    irq_time_accounting: bool = False  #: hard and soft interrupt time is not task time
    cluster: tuple[int, ...] = ()  #: per CPU, the mask of its cluster (a shared L2); empty: none
    turn_ns: int = (
        0  #: with take_turns: period of a timer that only makes the host look up, 0: none
    )


@dataclass(frozen=True, slots=True)
class WorkqueueSpec:
    """How the kernel's workqueues are set up (``kernel/wq_table.py``)."""

    unbound: tuple[str, ...] = ()  #: queues that are made WQ_UNBOUND, or used if they are
    affinity_scope: str = ""  #: cpu, smt, cache, numa or system; empty: the version's default
    affinity_strict: bool = False  #: workers may not leave their pod (from 6.6 on)
    cpumask: int = 0  #: CPUs that unbound work may use, 0: all
    max_active: tuple[tuple[str, int], ...] = ()  #: by queue, where it is not the kernel's
    power_efficient: bool = False  #: WQ_POWER_EFFICIENT queues are unbound
    cpu_intensive_ns: int = 10_000_000  #: items that run longer are CPU_INTENSIVE (6.5); 0: none
    create_delay_ns: int = 0  #: creating a worker of a bound pool blocks so long: memory is short
    watchdog_ns: int = 30_000_000_000  #: a list that does not move for longer is reported; 0: none
    create_failures: int = 0  #: of each CPU's bound pools, so many creations of a worker fail first
    idle_timeout_ns: int = 300_000_000_000  #: IDLE_WORKER_TIMEOUT: who idles longer may be too many


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """The emulated kernel: a version and every switch on top of it."""

    version: str
    features: dict[str, bool]  #: sched features by kernel name, complete
    sysctls: dict[str, int]  #: ``kernel.sched_…`` and others by kernel name, complete; ns
    policies: tuple[str, ...] = ()
    rules: Rules = Rules()  #: the version's, the policies' and the box's own switches together
    rcu_callbacks: bool = False  #: IO leaves RCU callbacks: the CPU's next tick raises RCU
    rcu_needs_cpu: bool = False  #: until then an idle CPU keeps its tick
    completion: CompletionSpec = field(
        default_factory=CompletionSpec
    )  #: where a finished direct write's work goes
    workqueue: WorkqueueSpec = WorkqueueSpec()
    threadirqs: bool = False  #: device interrupts and softirqs run in threads


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk: driver model, its parameters by the driver's own names, and queue settings."""

    name: str  #: sda, nullb0 …
    driver: str  #: scsi_debug, null_blk, nvme, virtio_blk, sata_ssd, hdd
    params: dict[str, int]  #: the driver's module parameters
    scheduler: str  #: mq-deadline or none
    rq_affinity: int
    nr_requests: int  #: scheduler tags, or driver tags without an elevator
    schedules: bool = True  #: announce service times ahead where the driver can
    vectors: tuple[int, ...] = ()  #: per interrupt vector the CPUs it may interrupt; none: timers
    managed: bool = False  #: vectors belong to hardware queues and are never moved
    preset: str = ""  #: latency profile or mechanics by name
    carries: bool = False  #: each request is asked for from the start, with all that it is
    on_crash: str = "continue"  #: when its process is killed: continue or reset


@dataclass(frozen=True, slots=True)
class FilesystemSpec:
    """One file system: a type, the disk it is on, its block size in bytes."""

    name: str  #: mount point
    type: str  #: xfs or none (raw block device)
    disk: str
    block_size: int


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """One program, ``count`` tasks of it."""

    name: str  #: comm of the tasks (15 characters at most)
    program: str  #: key of ``workload.PROGRAMS``: fio, hog, periodic, rcu_gp, fio_main, flusher …
    params: dict[str, Any]  #: the program's own, resolved (ns, bytes); for fio one job section
    count: int
    nice: int
    cpus_allowed: int  #: mask; all CPUs if nothing was said
    start_ns: int
    start_cpu: int  #: CPU on which the task is first enqueued, -1: fork placement
    figure: bool  #: counts as a submitter in the figures
    kthread: bool = False
    policy: str = "normal"  #: normal, batch, idle, fifo or rr: SCHED_OTHER, SCHED_BATCH …
    slice_ns: int = 0  #: slice that the task asks for (EEVDF), 0: none
    pinned_to: str = ""  #: name of a task: it binds itself to the CPU on which that one is then
    rt_priority: int = 0  #: 1 to 99 of fifo and rr, else 0

    @property
    def home(self) -> int:
        """Return the CPU on which its tasks are forked (unless ``pinned_to`` says where)."""
        return self.start_cpu if self.start_cpu >= 0 else cpumask_first(self.cpus_allowed)


@dataclass(frozen=True, slots=True)
class BoxEvent:
    """A command at an emulated time: ``do`` is a ctl command line such as ``cpu offline 3``."""

    at_ns: int
    do: str


@dataclass(frozen=True, slots=True)
class BoxSpec:
    """A box as the nodes are built from it: everything resolved, nothing left to default."""

    name: str
    seed: int
    duration_ns: int
    warmup_ns: int  #: figures are taken after this
    machine: MachineSpec
    kernel: KernelSpec
    costs: Costs
    disks: tuple[DiskSpec, ...]
    filesystems: tuple[FilesystemSpec, ...]
    workloads: tuple[WorkloadSpec, ...]
    events: tuple[BoxEvent, ...] = ()
    trace_off: tuple[str, ...] = ()  #: tracepoints that are not recorded
    ring_bytes_max: int = 1 << 30  #: per CPU; the oldest segments go beyond it
    #: Per CPU, how many jiffies before the start its domains were last balanced; empty: at the start.
    balanced_ago: tuple[int, ...] = ()
    on_crash: str = "offline"  #: when a CPU's process is killed: offline, respawn or abort
    checkpoint_ns: int = 100_000_000  #: emulated time between two checkpoints

    @property
    def realtime(self) -> bool:
        """Whether tasks of the box are real-time ones, so that CPUs have less for fair tasks."""
        irq_threads = self.kernel.threadirqs and any(disk.vectors for disk in self.disks)
        return irq_threads or any(one.rt_priority for one in self.workloads)

    @property
    def writes_buffered(self) -> bool:
        """Whether some program of the box writes through the page cache."""
        return any(
            one.program == "writer" or not one.params.get("direct", 1) for one in self.workloads
        )


# -- What a CPU publishes of its runqueue (RqFacts) ---------------------------------------------
# A plain tuple of ints, published at each change.  CPUs read it at coherence age, the balancer at
# zero age.

RQ_FLAGS = 0  #: RQF_* bits
RQ_NR_RUNNING = 1  #: rq.nr_running, all classes, a queued stopper included
RQ_H_NR_RUNNING = 2  #: cfs.h_nr_running
RQ_RUNNABLE_AVG = 3  #: cfs.avg as of its last update; without rules.runnable_avg, the runnable load
RQ_LOAD_AVG = 4
RQ_UTIL_AVG = 5
RQ_UTIL_EST_ENQUEUED = 6
RQ_LAST_UPDATE_TIME = 7  #: ns of clock_task
RQ_LOAD_SUM = 8
RQ_RUNNABLE_SUM = 9
RQ_UTIL_SUM = 10
RQ_PERIOD_CONTRIB = 11
RQ_LOAD_WEIGHT = 12  #: cfs.load.weight, full
RQ_OVERLOAD_NS = 13  #: when nr_running last rose above 1, -1 never; see BAL_OVERLOAD_NS
RQ_GP_SEQ = 14  #: the last grace period that rcu_sched began here
RQ_GP_LEFT = 15  #: CPUs that rcu_sched, asleep here, still waits for; 0 if it has not looked yet
RQ_QS_SEQ = 16  #: the last grace period to which this CPU reported a quiescent state
#: time in ns << 1 | value of what this CPU last wrote to sd_llc_shared->has_idle_cores; the newest
#: of an LLC's CPUs holds
RQ_IDLE_CORES = 17
RQ_CPU_CAPACITY = 18  #: what interrupts leave of 1024, as of the last tick
RQ_FACTS = 19

RQF_IDLE = 1  #: idle_cpu(): curr is the idle task, nothing queued, no wakeup pending
RQF_SCHED_IDLE = 2  #: sched_idle_cpu(): only SCHED_IDLE tasks
RQF_ONLINE = 4
RQF_ACTIVE = 8
RQF_NOHZ = 16  #: in nohz.idle_cpus_mask: tick stopped, no busy tick since
RQF_TTWU_PENDING = 32  #: something waits on the wake list
#: queueing a work here wakes the normal pool's worker (with a completion policy that asks)
RQF_KWORKER_ASLEEP = 64

# -- What the balancer publishes ------------------------------------------------------------------
# A plain tuple of ints: the header below, then BAL_COLUMNS columns of nr_cpus items; the item of a
# CPU in a column is at BAL_HEADER + column * nr_cpus + cpu.

#: rd.overload is set if any CPU's RQ_OVERLOAD_NS is at or after this: the last pass of a top-level
#: domain that found no runqueue with two tasks.
BAL_OVERLOAD_NS = 0
BAL_NOHZ_MASK = 1  #: nohz.idle_cpus_mask
BAL_NOHZ_NEXT_BALANCE = 2  #: jiffies
BAL_HAS_BLOCKED = 3
BAL_NEXT_BLOCKED = 4  #: jiffies
BAL_ACTIVE_MASK = 5  #: CPUs in sched domains; an LLC's nr_busy_cpus is LLC & active & ~nohz mask
BAL_NEEDS_UPDATE = 6  #: nohz.needs_update: a CPU has joined the mask since the last pass (≥ 5.16)
BAL_HEADER = 7
BAL_NEXT_BALANCE = 0  #: column: rq.next_balance, jiffies
BAL_IDLE_NEXT = 1  #: column: lowest domain's last_balance + idle interval, NEVER without domains
BAL_MAX_IDLE_COST = 2  #: column: rq.max_idle_balance_cost, ns
BAL_NR_IDLE_SCAN = 3  #: column: nr_idle_scan of the CPU's LLC (SIS_UTIL)
BAL_NEWIDLE_COST = 4  #: column: max_newidle_lb_cost of the CPU's lowest domain, ns
BAL_COLUMNS = 5

# -- What CPUs and the balancer or a device say to each other -------------------------------------------------

#: Requests for which a device announces its service time to a CPU at once.
SCHEDULE_REQUESTS = 1024
#: The doorbells of one such period, on a grid from boot, are logged together and in order.
DOORBELL_PERIOD_NS = 10 * NSEC_PER_MSEC

# enum cpu_idle_type
CPU_IDLE = 0
CPU_NOT_IDLE = 1
CPU_NEWLY_IDLE = 2

# BALANCE kind
BALANCE_PERIODIC = 0  #: value is the idle type
BALANCE_NEWIDLE = 1  #: avg_idle is the CPU's
BALANCE_NOHZ = 2  #: value is NOHZ_*_KICK flags, with NOHZ_NEED_RESCHED

NOHZ_BALANCE_KICK = 1
NOHZ_STATS_KICK = 2
NOHZ_NEED_RESCHED = 4  #: the ilb already has need_resched: its run ends before the first other CPU
NOHZ_NEWILB_KICK = 8  #: in a CPU's own flags: the idle loop shall age blocked load (≥ 5.12)
NOHZ_NEXT_KICK = 16  #: only collect nohz.next_balance anew (≥ 5.16)
NOHZ_KICK_MASK = NOHZ_BALANCE_KICK | NOHZ_STATS_KICK | NOHZ_NEXT_KICK

# NOHZ_UPDATE kind
NOHZ_ENTER = 0  #: nohz_balance_enter_idle(); due if not a member, or if has_blocked is seen clear
NOHZ_EXIT = 1  #: nohz_balance_exit_idle(): first busy tick of a member
NOHZ_KICKED = 2  #: kick_ilb(): nohz.next_balance += 1
NOHZ_NEWIDLE = 3  #: newidle_balance() returned early and would lower rq.next_balance
NOHZ_NEWIDLE_STATS = 4  #: a CPU going idle ages the other idle CPUs' blocked load if that is due
NOHZ_KICKED_FULL = 5  #: kick_ilb() with NOHZ_BALANCE_KICK (≥ 5.9): nohz.next_balance = jiffies + 1

# lb_env.flags
LBF_ALL_PINNED = 1
LBF_NEED_BREAK = 2
LBF_DST_PINNED = 4
LBF_SOME_PINNED = 8
LBF_ACTIVE_LB = 16  #: the stopper's push (≥ 5.13)
LBF_SMALL_IMBL = 64  #: fix_small_imbalance() found no gain for a busy CPU (F3)

# enum migration_type: what lb_env.imbalance counts (≥ 5.5; before, always load)
MIGRATION_LOAD = 0
MIGRATION_UTIL = 1
MIGRATION_TASK = 2
MIGRATION_MISFIT = 3

# lb_env as DETACH and STOP carry it: a plain list.  The source changes the items marked *.
ENV_DST_CPU = 0
ENV_SRC_CPU = 1
ENV_IDLE = 2  #: CPU_IDLE, CPU_NOT_IDLE, CPU_NEWLY_IDLE
ENV_IMBALANCE = 3  #: * still to move; 0 or less: detach nothing, only answer
ENV_LOOP = 4  #: * tasks looked at so far
ENV_LOOP_BREAK = 5  #: *
ENV_LOOP_MAX = 6
ENV_FLAGS = 7  #: * LBF_*
ENV_NEW_DST_CPU = 8  #: * set with LBF_DST_PINNED
ENV_NR_BALANCE_FAILED = 9
ENV_CACHE_NICE_TRIES = 10
ENV_DST_GRPMASK = 11  #: span of the destination's group
ENV_CPUS = 12  #: CPUs that take part in this pass
ENV_DST_NR_RUNNING = 13  #: dst_rq.nr_running, for task_hot()'s buddy test
ENV_THIS_CPU = 14  #: for whom the pass is; the first dst_cpu
ENV_WHY = 15  #: MIGRATE_* of the tasks moved
ENV_CAUSE = 16  #: record that led to the pass
ENV_HOT_GAINED = 17  #: * tasks detached although cache hot
ENV_CURR_ALLOWED = 18  #: * whether src's curr may run on this_cpu
ENV_MIGRATION_TYPE = 19  #: MIGRATION_*
ENV_SMT = 20  #: the domain's CPUs share one core (SD_SHARE_CPUCAPACITY)
ENV_OTHERS_BOUND = 21  #: * whether only per-CPU kthreads wait behind src's curr
ENV_FIELDS = 22

# STOPPED result
STOP_ABORTED = 0  #: active_load_balance_cpu_stop() found its conditions gone; nothing counted
STOP_FAILED = 1  #: no task could be detached
STOP_PUSHED = 2
