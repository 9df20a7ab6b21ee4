"""The scheduler's shared structures: ``kernel/sched/sched.h`` and ``include/linux/sched.h``, v5.4.

Theory of operation
-------------------
One :class:`Task` is one schedulable entity: ``task_struct`` and its ``sched_entity`` in one object,
because every runqueue here is one flat root ``cfs_rq`` (autogroup and cgroup groups are left out).
One :class:`Rq` belongs to one CPU and is touched by nobody else.  All state is plain data, so that
a task can travel between CPUs and a whole CPU can be written to a snapshot: every class has
``pack()`` and ``unpack()``, exact inverses, made of ints, strings and lists only.

Departures from the kernel: no task groups; one CPU's structures are not read by another CPU, which
sees publications instead (:mod:`emulator.engine.node`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from emulator.kernel import fields
from emulator.kernel.rt_rq import RtRq
from emulator.rules import Rules

# Scheduling policies and their kernel numbers.
SCHED_NORMAL = 0
SCHED_FIFO = 1
SCHED_RR = 2
SCHED_BATCH = 3
SCHED_IDLE = 5
#: By their names in a box file.
POLICIES = {
    "normal": SCHED_NORMAL,
    "batch": SCHED_BATCH,
    "idle": SCHED_IDLE,
    "fifo": SCHED_FIFO,
    "rr": SCHED_RR,
}

# Classes in order of precedence; Task.sched_class.
STOP_CLASS = 0
RT_CLASS = 2
FAIR_CLASS = 3
IDLE_CLASS = 4

#: Task state between the waker's decision and the enqueue; never printed.
TASK_WAKING = 0x200

# p.flags
PF_KTHREAD = 0x200000
PF_WQ_WORKER = 0x20
PF_NO_SETAFFINITY = 0x4000000
KTHREAD_IS_PER_CPU = 0x1  # kept in p.kthread_flags

#: Answer of a preemption test that did not get as far as comparing, or found nothing ahead.
NO_PREEMPT = -1

NICE_0_LOAD = 1 << 20  # full weight of nice 0 on 64-bit
SCHED_FIXEDPOINT_SHIFT = 10

# enqueue/dequeue flags (kernel numbers)
DEQUEUE_SLEEP = 0x01
DEQUEUE_SAVE = 0x02
DEQUEUE_MOVE = 0x04
DEQUEUE_SPECIAL = 0x10  # its new state allows no spurious wakeup
DEQUEUE_DELAYED = 0x200  # EEVDF: it sleeps already, and leaves the queue now
ENQUEUE_WAKEUP = 0x01
ENQUEUE_RESTORE = 0x02
ENQUEUE_MOVE = 0x04
ENQUEUE_HEAD = 0x10  # of a real-time task: before others of its priority
ENQUEUE_MIGRATED = 0x40
ENQUEUE_INITIAL = 0x80
ENQUEUE_DELAYED = 0x200  # EEVDF: it sleeps, but is queued: wake it where it is
WF_SYNC = 0x01
WF_FORK = 0x02
WF_MIGRATED = 0x04

# rq.skip_clock_update (kernel numbers).  A request holds only for the first clock update of the next
# __schedule(), which shifts the flag left before that update and clears it after the pick.
RQCF_REQ_SKIP = 1
RQCF_ACT_SKIP = 2

U64 = (1 << 64) - 1


def s64(value: int) -> int:
    """Return the low 64 bits of ``value`` as a signed number, as the kernel compares vruntimes."""
    value &= U64
    return value - (1 << 64) if value >> 63 else value


class SchedAvg:
    """``struct sched_avg``: the PELT sums and averages of an entity or of a ``cfs_rq``.

    ``runnable_avg`` and ``runnable_sum`` are v5.7's.  Of a ``cfs_rq`` without
    ``rules.runnable_avg`` they hold what v5.6 calls ``runnable_load_avg`` and ``runnable_load_sum``.
    """

    __slots__ = (
        "last_update_time",
        "load_avg",
        "load_sum",
        "period_contrib",
        "runnable_avg",
        "runnable_sum",
        "util_avg",
        "util_est_enqueued",
        "util_est_ewma",
        "util_est_unchanged",
        "util_sum",
    )

    def __init__(self) -> None:
        self.last_update_time = 0
        self.load_sum = 0
        self.runnable_sum = 0
        self.util_sum = 0
        self.period_contrib = 0
        self.load_avg = 0
        self.runnable_avg = 0
        self.util_avg = 0
        self.util_est_enqueued = (
            0  # of a task, its last estimate; of a cfs_rq, the queued tasks' sum
        )
        self.util_est_ewma = 0  # with rules.util_est_single, the only estimate
        self.util_est_unchanged = 0  # util_avg has not been recomputed since the estimate was taken

    def pack(self) -> list[int]:
        """Return the eleven numbers, in the order of :meth:`unpack`."""
        return [
            self.last_update_time,
            self.load_sum,
            self.runnable_sum,
            self.util_sum,
            self.period_contrib,
            self.load_avg,
            self.runnable_avg,
            self.util_avg,
            self.util_est_enqueued,
            self.util_est_ewma,
            self.util_est_unchanged,
        ]

    def unpack(self, data: list[int]) -> None:
        """Take over what :meth:`pack` returned."""
        (
            self.last_update_time,
            self.load_sum,
            self.runnable_sum,
            self.util_sum,
            self.period_contrib,
            self.load_avg,
            self.runnable_avg,
            self.util_avg,
            self.util_est_enqueued,
            self.util_est_ewma,
            self.util_est_unchanged,
        ) = data


class Task:
    """``task_struct`` with its ``sched_entity``; what the task is doing is in ``kernel/process.py``."""

    __slots__ = (
        "affinity_broken",
        "avg",
        "comm",
        "cpu",
        "cpus_mask",
        "custom_slice",
        "deadline",
        "exec_start",
        "figure",
        "flags",
        "inv_weight",
        "kthread_flags",
        "last_wakee",
        "moves",
        "nice",
        "nivcsw",
        "nr_cpus_allowed",
        "nr_migrations",
        "nvcsw",
        "on_cpu",
        "on_rq",
        "pid",
        "policy",
        "prev_sum_exec_runtime",
        "prio",
        "recent_used_cpu",
        "rel_deadline",
        "run",
        "sched_class",
        "sched_delayed",
        "slice",
        "state",
        "sum_exec_runtime",
        "time_slice",
        "tree_order",
        "vlag",
        "vruntime",
        "wake_cpu",
        "wakee_flip_decay_ts",
        "wakee_flips",
        "weight",
    )

    def __init__(self, pid: int, comm: str, nice: int = 0) -> None:
        self.pid = pid
        self.comm = comm
        self.state = 0  # tracepoints.TASK_*
        self.flags = 0
        self.kthread_flags = 0
        self.policy = SCHED_NORMAL
        self.sched_class = FAIR_CLASS
        self.nice = nice
        self.prio = 120 + nice
        self.weight = 0  # load.weight, full (<< 10); fair.set_load_weight() sets both
        self.inv_weight = 0
        # sched_entity
        self.vruntime = 0
        self.tree_order = 0  # with vruntime, the key in CfsRq.tree
        self.exec_start = 0
        self.sum_exec_runtime = 0
        self.prev_sum_exec_runtime = 0
        self.on_rq = 0
        self.time_slice = 0  # sched_rt_entity, of SCHED_RR: ticks left
        # sched_entity under EEVDF (kernel/eevdf.py); ns of virtual time, the slice of real time
        self.deadline = 0
        self.slice = 0
        self.custom_slice = 0  # 1: slice was asked for
        self.vlag = 0  # while it does not run; of the running task, the protection stamp
        self.sched_delayed = 0  # asleep, but still queued until its lag is used up
        self.rel_deadline = 0  # deadline is relative to vruntime: the task is being moved
        self.avg = SchedAvg()
        # task_struct
        self.cpu = 0  # task_cpu(p)
        self.wake_cpu = 0
        self.on_cpu = 0
        self.cpus_mask = 0
        self.nr_cpus_allowed = 0
        self.affinity_broken = 0
        self.recent_used_cpu = 0
        self.wakee_flips = 0
        self.wakee_flip_decay_ts = 0  # jiffies
        self.last_wakee = 0  # pid
        self.nvcsw = 0
        self.nivcsw = 0
        self.nr_migrations = 0
        self.moves = 0  # residences so far: stamps mail for tasks that move
        self.figure = 0  # counts as a submitter in the figures
        #: What the task is doing (a kernel/process.py TaskRun); the scheduler never looks inside.
        self.run: Any = None

    def pack_se(self) -> list[Any]:
        """Return all that the scheduler knows of the task, ``run`` left out; pid and comm first."""
        return [*_task_fields(self), self.avg.pack()]

    def unpack_se(self, data: list[Any]) -> None:
        """Take over what :meth:`pack_se` returned."""
        *values, avg = data
        fields.assign(self, _TASK_FIELDS, values)
        self.avg = SchedAvg.__new__(SchedAvg)
        self.avg.unpack(avg)

    def pack(self) -> list[Any]:
        """Return the whole task as plain data, for the wire or a snapshot."""
        return [self.pack_se(), self.run.pack()]


def is_per_cpu_kthread(p: Task) -> bool:
    """Return whether a task is a kernel thread that may run on one CPU only."""
    return bool(p.flags & PF_KTHREAD) and p.nr_cpus_allowed == 1


class CfsRq:
    """``struct cfs_rq``: the root fair runqueue of one CPU.

    ``tree`` is the timeline: a list of ``(vruntime, order, task)`` kept sorted with ``bisect``, where
    ``order`` counts insertions so that equal vruntimes stay first in, first out.  ``vruntime`` in the
    key is unwrapped (:mod:`fair` keeps vruntimes as unbounded Python ints that never wrap: see its
    departures).  ``curr`` is never in the tree.
    """

    __slots__ = (
        "avg",
        "avg_load",
        "avg_vruntime",
        "cfs_tasks",
        "counts_tasks",
        "curr",
        "h_load",
        "idle_h_nr_running",
        "last",
        "last_h_load_update",
        "load_inv",
        "load_weight",
        "min_vruntime",
        "next",
        "nr_running",
        "removed_load_avg",
        "removed_nr",
        "removed_runnable_avg",
        "removed_util_avg",
        "skip",
        "tree",
        "tree_order",
    )

    def __init__(self) -> None:
        self.load_weight = 0  # cfs.load.weight, full
        self.load_inv = 0  # 0: recompute
        self.nr_running = 0  # also h_nr_running: one flat queue
        self.idle_h_nr_running = 0
        self.min_vruntime = -(1 << 20)
        self.avg_vruntime = 0  # EEVDF: sum of (vruntime - min_vruntime) * weight over the tree
        self.avg_load = 0  # EEVDF: sum of the scaled-down weights over the tree
        self.tree: list[tuple[int, int, Task]] = []
        self.tree_order = 0
        self.curr: Task | None = None
        self.next: Task | None = None
        self.last: Task | None = None
        self.skip: Task | None = None
        self.avg = SchedAvg()
        self.avg.last_update_time = -1023  # never 0 after it: see the departures of pelt.py
        self.counts_tasks = False  # rules.runnable_avg: its runnable sum counts tasks, not weight
        self.h_load = 0  # load_avg as task_h_load() first saw it in jiffy last_h_load_update
        self.last_h_load_update = -1
        self.removed_nr = 0
        self.removed_load_avg = 0
        self.removed_util_avg = 0
        self.removed_runnable_avg = 0
        #: The list the balancer walks, oldest pick last: index 0 is the head, [-1] the tail.
        self.cfs_tasks: list[Task] = []

    def pack(self) -> list[Any]:
        """Return the queue as plain data, tasks by pid (-1: none)."""
        return [
            *_cfs_fields(self),
            self.avg.pack(),
            [[vruntime, order, p.pid] for vruntime, order, p in self.tree],
            [p.pid for p in self.cfs_tasks],
            [_pid(p) for p in (self.curr, self.next, self.last, self.skip)],
        ]

    def unpack(self, data: list[Any], tasks: Mapping[int, Task]) -> None:
        """Take over what :meth:`pack` returned; ``tasks`` maps every pid in it to its task."""
        *values, avg, tree, cfs_tasks, pids = data
        fields.assign(self, _CFS_FIELDS, values)
        self.avg.unpack(avg)
        self.tree = [(vruntime, order, tasks[pid]) for vruntime, order, pid in tree]
        self.cfs_tasks = [tasks[pid] for pid in cfs_tasks]
        self.curr, self.next, self.last, self.skip = (_task(pid, tasks) for pid in pids)


#: Called as (task, delta_ns) when a task has been charged for running: sched_stat_runtime.
RuntimeHook = Callable[[Task, int], None]
#: Called as (who would run next, running task, vdiff, gran, why) when charging the running task made
#: it give way: box_check_preempt.
PreemptHook = Callable[[Task, Task, int, int, int], None]
#: Called with what a WARN or pr_err of the class would print.
WarnHook = Callable[[str], None]
#: Called when the real-time class has used up its time.
ThrottleHook = Callable[[], None]


class Rq:
    """``struct rq``: one CPU's runqueue, with the clock its scheduler reads."""

    __slots__ = (
        "active_balance",
        "avg_idle",
        "avg_irq",
        "avg_rt",
        "cfs",
        "clock",
        "clock_task",
        "cpu",
        "cpu_capacity",
        "curr",
        "fair",
        "favours_kthreads",
        "idle",
        "idle_balance",
        "idle_stamp",
        "irq_time",
        "max_idle_balance_cost",
        "need_resched",
        "next_balance",
        "nr_running",
        "nr_switches",
        "on_preempt",
        "on_runtime",
        "on_throttle",
        "on_warn",
        "online",
        "overload_ns",
        "preempt_gran",
        "preempt_vdiff",
        "prev_irq_time",
        "rt",
        "rules",
        "skip_clock_update",
        "stop",
        "stop_queued",
        "tick_ns",
        "tun",
        "wake_avg_idle",
        "wake_stamp",
    )

    def __init__(self, cpu: int, tun: Tunables, fair: SchedClass, rules: Rules = Rules()) -> None:
        self.cpu = cpu
        self.tun = tun
        self.fair = fair  # the fair class of these rules
        self.rules = rules
        self.favours_kthreads = False
        self.use_rules(rules)
        self.clock = 0  # rq_clock(); ns, set by update_rq_clock()
        self.clock_task = 0  # clock minus interrupt time, if that is accounted
        self.cfs = CfsRq()
        self.cfs.counts_tasks = rules.runnable_avg
        self.rt = RtRq()
        self.nr_running = 0  # all classes; the idle task does not count
        self.nr_switches = 0
        self.curr: Task = Task(0, f"swapper/{cpu}")
        self.idle: Task = self.curr
        self.idle.sched_class = IDLE_CLASS
        self.idle.on_rq = 1  # as init_idle() says of it: always there, in no queue
        self.stop: Task | None = None
        self.stop_queued = 0
        self.need_resched = False  # TIF_NEED_RESCHED of curr
        self.skip_clock_update = 0  # RQCF_*
        self.tick_ns = 4_000_000  # TICK_NSEC
        self.on_runtime: RuntimeHook | None = None  # set by the CPU, not part of pack()
        self.on_preempt: PreemptHook | None = None  # these too
        self.on_warn: WarnHook | None = None
        self.on_throttle: ThrottleHook | None = None
        self.preempt_vdiff = 0  # ns, the inputs of the last preemption test: see PREEMPT_*
        self.preempt_gran = 0
        self.irq_time = 0  # ns in interrupts so far, if that is accounted; the CPU adds to it
        self.prev_irq_time = 0  # of these, what clock_task has left out already
        self.avg_irq = SchedAvg()
        self.avg_rt = SchedAvg()  # time of the real-time class
        self.idle_stamp = 0
        self.avg_idle = 2 * 500_000
        self.max_idle_balance_cost = 500_000
        self.wake_avg_idle = self.avg_idle  # what SIS_PROP has left of it (from 5.13)
        self.wake_stamp = 0  # jiffies of its last update
        self.idle_balance = False
        self.next_balance = 0  # jiffies
        self.active_balance = False
        self.cpu_capacity = 1024
        self.online = True
        self.overload_ns = -1  # when nr_running last rose above 1; -1: never

    def use_rules(self, rules: Rules) -> None:
        """Decide by these rules from now on."""
        self.rules = rules
        #: Some proposal treats per-CPU kthreads that wake in its own way: see fair_kthread.py.
        self.favours_kthreads = not rules.eevdf and (
            rules.preempt_kthread_nvcsw
            or rules.preempt_kthread_vdiff
            or rules.kthread_gran_min
            or rules.kthread_next_buddy
            or rules.kthread_delayed_wake
        )

    def pack(self) -> list[Any]:
        """Return the runqueue as plain data: tasks by pid, its idle task whole.

        What the box gives it stays out: ``tun``, ``rules``, ``fair``, ``favours_kthreads``.
        """
        return [
            *_rq_fields(self),
            self.avg_irq.pack(),
            self.avg_rt.pack(),
            self.cfs.pack(),
            self.rt.pack(),
            self.idle.pack_se(),
            -1 if self.curr is self.idle else self.curr.pid,
            _pid(self.stop),
        ]

    def unpack(self, data: list[Any], tasks: Mapping[int, Task]) -> None:
        """Take over what :meth:`pack` returned; ``tasks`` maps every pid but 0 to its task."""
        *values, avg_irq, avg_rt, cfs, rt, idle, curr, stop = data
        fields.assign(self, _RQ_FIELDS, values)
        self.avg_irq.unpack(avg_irq)
        self.avg_rt.unpack(avg_rt)
        self.cfs.unpack(cfs, tasks)
        self.rt.unpack(rt, tasks)
        self.idle.unpack_se(idle)
        self.curr = _task(curr, tasks) or self.idle
        self.stop = _task(stop, tasks)


@dataclass(frozen=True, slots=True)
class SchedClass:
    """``struct sched_class``: CFS (:mod:`fair`), EEVDF (:mod:`eevdf`) or real time (:mod:`rt`).

    Every function is called with the clock up to date; what each does is told where CFS defines it.
    """

    enqueue_task: Callable[[Rq, Task, int], None]
    dequeue_task: Callable[[Rq, Task, int], None]
    check_preempt: Callable[[Rq, Task, int], int]  # answers PREEMPT_* or NO_PREEMPT
    pick_next_task: Callable[[Rq, Task | None], Task | None]
    put_prev_task: Callable[[Rq, Task], None]
    set_next_task: Callable[[Rq, Task], None]
    task_tick: Callable[[Rq, Task], int]  # answers PREEMPT_* or NO_PREEMPT
    yield_task: Callable[[Rq], None]
    yield_to_task: Callable[[Rq, Task], bool]
    task_fork: Callable[[Rq, Task | None, Task], None]
    set_user_nice: Callable[[Rq, Task, int], None]
    migrate_task_rq: Callable[[Rq, Task, bool], None]
    task_dead: Callable[[Rq, Task], None]
    update_curr: Callable[[Rq], None]


class Tunables:
    """The scheduler's sysctls and features as the code reads them; ns unless said.

    :func:`emulator.kernel.fair.sched_proc_update_handler` and
    :func:`emulator.kernel.fair.update_sysctl` are the only writers.
    """

    __slots__ = (
        "base_slice",
        "cache_hot_buddy",
        "child_runs_first",
        "delay_dequeue",
        "delay_zero",
        "gentle_fair_sleepers",
        "idle_min_granularity",
        "last_buddy",
        "latency",
        "migration_cost",
        "min_granularity",
        "next_buddy",
        "normalized_base_slice",
        "normalized_latency",
        "normalized_min_granularity",
        "normalized_wakeup_granularity",
        "nr_latency",
        "nr_migrate",
        "nr_online",
        "place_deadline_initial",
        "place_lag",
        "place_rel_deadline",
        "preempt_short",
        "rr_timeslice_ms",
        "rt_period_us",
        "rt_runtime_share",
        "rt_runtime_us",
        "run_to_parity",
        "sis_avg_cpu",
        "sis_prop",
        "sis_util",
        "start_debit",
        "sysctl_base_slice",
        "tunable_scaling",
        "util_est",
        "wa_bias",
        "wa_idle",
        "wa_weight",
        "wakeup_granularity",
        "wakeup_preemption",
    )

    def __init__(self) -> None:
        self.latency = 6_000_000
        self.min_granularity = 750_000
        self.wakeup_granularity = 1_000_000
        self.sysctl_base_slice = 750_000  # EEVDF
        self.normalized_base_slice = 750_000
        self.normalized_latency = 6_000_000
        self.normalized_min_granularity = 750_000
        self.normalized_wakeup_granularity = 1_000_000
        self.nr_latency = 8
        self.nr_online = 1  # online CPUs as of the last update_sysctl()
        self.idle_min_granularity = 750_000  # does not scale with the CPUs
        self.migration_cost = 500_000
        self.nr_migrate = 32
        self.child_runs_first = 0
        self.tunable_scaling = 1  # SCHED_TUNABLESCALING_LOG
        self.gentle_fair_sleepers = True
        self.start_debit = True
        self.next_buddy = False
        self.last_buddy = True
        self.cache_hot_buddy = True
        self.wakeup_preemption = True
        self.base_slice = False
        self.util_est = True
        self.wa_idle = True
        self.wa_weight = True
        self.wa_bias = True
        self.sis_prop = True
        # EEVDF: off unless the kernel's features say otherwise.
        self.place_lag = False
        self.place_deadline_initial = False
        self.place_rel_deadline = False
        self.run_to_parity = False
        self.preempt_short = False
        self.delay_dequeue = False
        self.delay_zero = False
        # Real time.
        self.rt_period_us = 1_000_000
        self.rt_runtime_us = 950_000  # of each period; -1: no limit
        self.rr_timeslice_ms = 100
        self.rt_runtime_share = False
        self.sis_avg_cpu = False
        self.sis_util = False

    def pack(self) -> list[Any]:
        """Return every tunable, in the order of the slots."""
        return list(_tunables_fields(self))

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        fields.assign(self, Tunables.__slots__, data)


# -- Packing: which plain fields make up each structure, in packed order ---------------------------

_TASK_FIELDS = (
    "pid",
    "comm",
    *(name for name in Task.__slots__ if name not in ("pid", "comm", "avg", "run")),
)
_CFS_FIELDS = tuple(
    name
    for name in CfsRq.__slots__
    if name not in ("avg", "tree", "cfs_tasks", "curr", "next", "last", "skip")
)
_RQ_ELSEWHERE = frozenset(
    [
        "avg_irq",
        "avg_rt",
        "cfs",
        "curr",
        "fair",
        "favours_kthreads",
        "idle",
        "on_preempt",
        "on_runtime",
        "on_throttle",
        "on_warn",
        "rt",
        "rules",
        "stop",
        "tun",
    ]
)
_RQ_FIELDS = tuple(name for name in Rq.__slots__ if name not in _RQ_ELSEWHERE)
_task_fields = attrgetter(*_TASK_FIELDS)
_cfs_fields = attrgetter(*_CFS_FIELDS)
_rq_fields = attrgetter(*_RQ_FIELDS)
_tunables_fields = attrgetter(*Tunables.__slots__)


def _pid(p: Task | None) -> int:
    return -1 if p is None else p.pid


def _task(pid: int, tasks: Mapping[int, Task]) -> Task | None:
    return None if pid < 0 else tasks[pid]
