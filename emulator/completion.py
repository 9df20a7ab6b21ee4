"""Completion policies: where the work of a finished direct write goes, one row each.

Theory of operation
-------------------
A direct write that ended in an interrupt still needs a thread: its file system may have to run a
transaction.  Which thread, and on which CPU, is the *completion policy*.  The kernels up to 6.18 have
one, *bound*: the work goes to the worker pool of the CPU where the bio ended.  The thread argued
about others.  A box names one of :data:`COMPLETIONS` in ``kernel.completion``; what each does is in
:mod:`emulator.kernel.dio_completion`.

``unless-saturated`` leaves the work where it is unless that CPU is *saturated*, and asks the signals
of :data:`SIGNALS` whether it is, all of which must say so.  ``rescue`` asks them too, but later: at the
tick, of works that wait.
"""

from __future__ import annotations

from dataclasses import dataclass

#: The workqueues whose works policies send about, by their names without the disk.
COMPLETION_QUEUES = ("dio", "xfs-conv")

#: What a policy does in a box that says nothing.
BOUND = "bound"

#: What ``unless-saturated`` asks if it is not told.
DEFAULT_SIGNAL = "preempt"


@dataclass(frozen=True, slots=True)
class Completion:
    """One policy, as data."""

    name: str
    fix: str  #: its number among the proposals, or among the sketches (P…)
    who: str
    changes: str  #: what it decides
    outcome: str  #: what was reported, or expected
    takes: str = ""  #: what may follow its name: "" nothing, "batch" a number, "signals"
    signal: str = ""  #: what it asks if it takes signals and is told none
    unbound: bool = False  #: it makes the file systems' completion workqueues WQ_UNBOUND
    scope: str = ""  #: with this affinity scope; empty: as the box says
    strict: bool = False
    rules: tuple[str, ...] = ()  #: switches of the kernel's rules that it turns on


def _table(*rows: Completion) -> dict[str, Completion]:
    return {row.name: row for row in rows}


#: Every policy, the kernel's own first.
COMPLETIONS: dict[str, Completion] = _table(
    Completion(
        BOUND,
        "v5.4",
        "the kernel up to 6.18",
        "the worker pool of the CPU on which the bio ended, however busy",
        "the case of the thread",
    ),
    Completion(
        "submitter",
        "F5",
        "Ming Lei",
        "the pool of the CPU that submitted the write, wherever it ended, unless that CPU has died",
        "as bound where completions are steered to the submitter",
    ),
    Completion(
        "next-online",
        "F1",
        "Ming Lei",
        "the pool of the next online CPU after the one on which the bio ended",
        "the migrations vanish; it moves the problem, and was never meant to stay",
    ),
    Completion(
        "system-wq",
        "F8",
        "Hillf Danton",
        "the system workqueue instead of the file system's own, on the same CPU",
        "still bound: the same pool",
    ),
    Completion(
        "round-robin",
        "F10",
        "Hillf Danton",
        "CPUs that share the cache in turn, so many completions each (round-robin:BATCH, 8), "
        "by queue_work_on()",
        "rejected: the wrong layer, and it does not mend the scheduler",
        "batch",
    ),
    Completion(
        "wq-cache-bound",
        "F11",
        "Hillf Danton",
        "the same turns, taken inside __queue_work() of a workqueue that is marked so",
        "rejected: the worker is still pinned to one CPU",
        "batch",
    ),
    Completion(
        "inline-overwrite",
        "F2, P7",
        "Dave Chinner; merged in another form in 6.19",
        "no work at all: a pure overwrite without error is completed where its bio ends",
        "helped the 512-byte case; takes the worker away in this one case only",
    ),
    Completion(
        "caller",
        "F24, P6",
        "Jens Axboe; merged in 6.6 for io_uring",
        "no work at all: a pure overwrite without error is left to its submitter, who completes it in "
        "io_getevents(), or in task work if it has an io_uring",
        "takes the worker away; an IO is not over before its submitter looks",
        rules=("uring_task_work", "dio_caller_comp"),
    ),
    Completion(
        "unless-saturated",
        "F5, P3, P4",
        "Phil Auld, Ming Lei",
        "the CPU on which the bio ended, unless signals say that it is saturated and a CPU that "
        "shares its cache idles: then that one (unless-saturated:SIGNAL[=LIMIT][+SIGNAL…], "
        "preempt)",
        "the open question of the thread: can saturation be told simply and cheaply?",
        "signals",
        DEFAULT_SIGNAL,
    ),
    Completion(
        "rescue",
        "P5",
        "a sketch, after the workqueues' rescuers",
        "bound; but each tick looks at the works that still wait, and if signals say that the CPU is "
        "saturated and one that shares its cache idles, all of them go there "
        "(rescue:SIGNAL[=LIMIT][+SIGNAL…], head_age)",
        "costs nothing where no work waits; comes a tick late, when the worker has been woken already",
        "signals",
        "head_age",
    ),
    Completion(
        "wq-unbound",
        "F9",
        "Vincent Guittot, Ming Lei",
        "a worker that the scheduler places: the workqueue is WQ_UNBOUND, with the pools that this "
        "version has (up to 6.5 one per NUMA node)",
        "works: random overwrites +273 %; rejected: spreads work, bounces caches, fails under load",
        unbound=True,
    ),
    Completion(
        "cache-pool",
        "F12",
        "Dave Chinner, Vincent Guittot",
        "the same with a pool per last-level cache, to which workers are brought back when they are "
        "woken (affinity scope cache, 6.6)",
        "merged in 6.6 for unbound workqueues; the direct IO one was not converted",
        unbound=True,
        scope="cache",
    ),
    Completion(
        "cache-pool-strict",
        "F12",
        "Dave Chinner, Vincent Guittot",
        "the same, and the workers may not leave the cache",
        "can lose throughput where little runs",
        unbound=True,
        scope="cache",
        strict=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Signal:
    """One sign of saturation, as a CPU reads it of itself when it is about to queue a work."""

    name: str
    number: int  #: in the table of candidates
    asserted: str  #: when it says saturated
    limit: int  #: unless the box says otherwise: ns, a count, or percent, by ``unit``
    unit: str  #: "time", "count", "percent", or "" without a limit
    read_ns: int  #: what looking at it costs
    stale: str  #: how old what it reads may be
    rule: str = ""  #: the switch of the kernel's rules without which there is nothing to read


def _signals(*rows: Signal) -> dict[str, Signal]:
    return {row.name: row for row in rows}


#: Every signal, in the order of the table of candidates.
SIGNALS: dict[str, Signal] = _signals(
    Signal("not_idle", 1, "the current task is not the idle task", 0, "", 1, "never"),
    Signal("nr_running", 2, "rq->nr_running is at least", 2, "count", 1, "never"),
    Signal("stint", 4, "the current task has run for at least", 1_000_000, "time", 25, "never"),
    Signal(
        "head_age",
        5,
        "works wait, no worker runs, and the first has waited, in whole jiffies, for at least",
        1_000_000,
        "time",
        3,
        "a jiffy",
    ),
    Signal(
        "head_age_ns",
        5,
        "the same with a stamp in ns, which no kernel keeps: at least",
        1_000_000,
        "time",
        25,
        "never",
    ),
    Signal("worklist", 6, "the works that wait are at least", 16, "count", 1, "never"),
    Signal(
        "congested",
        7,
        "works of direct IO are delayed by max_active, as workqueue_congested() asks: 256 wait before",
        0,
        "",
        1,
        "never",
    ),
    Signal("util", 9, "the utilisation (PELT) is above", 80, "percent", 1, "a tick, and inertia"),
    Signal(
        "runnable",
        10,
        "running and waiting (runnable_avg, PELT) are above",
        100,
        "percent",
        1,
        "a tick, and inertia",
        "runnable_avg",
    ),
    Signal(
        "load",
        11,
        "the load by weight (load_avg, PELT; 1024 is a task of nice 0 that always runs) is above",
        80,
        "percent",
        1,
        "a tick, and inertia",
    ),
    Signal(
        "avg_idle",
        12,
        "the average idle period is below",
        500_000,
        "time",
        1,
        "without end: a CPU that never idles keeps its old value",
    ),
    Signal(
        "psi",
        13,
        "avg10 of PSI cpu some is above (its state of the moment is nr_running at least 2)",
        10,
        "percent",
        1,
        "2 s",
    ),
    Signal(
        "run_delay",
        14,
        "who last began to run here had waited for at least",
        1_000_000,
        "time",
        1,
        "a whole wait: it is known when that is over",
    ),
    Signal(
        "steal",
        15,
        "of the last tick's time the host took, while this CPU had something to run, at least",
        500_000,
        "time",
        1,
        "a tick",
    ),
    Signal(
        "irq",
        16,
        "the interrupts' share of the time (avg_irq, PELT; machine.irq_time_accounting) is above",
        50,
        "percent",
        1,
        "a tick, and inertia",
    ),
    Signal("ksoftirqd", 17, "ksoftirqd runs, or waits for the CPU", 0, "", 1, "never"),
    Signal(
        "preempt",
        19,
        "a worker that is woken would not preempt, or waits already, and no reschedule is pending "
        "(CFS only)",
        0,
        "",
        50,
        "never",
    ),
)

#: Candidates that are not offered, by their numbers, and why.
NOT_OFFERED: dict[int, str] = {
    3: "idle_cpu() chooses the CPU to go to; of the own CPU not_idle says the same",
    18: "need_resched is part of preempt",
    20: "a CPU that is offline has no bio end on it",
    21: "a pool without a CPU is that of one that is offline",
    22: "CPU_INTENSIVE by itself (6.5) tells of long works, not of long submitters",
    23: "the search for an idle CPU is the second half of every decision, not a signal",
}

#: Completions per CPU of the policies that go round.
DEFAULT_BATCH = 8


@dataclass(frozen=True, slots=True)
class CompletionSpec:
    """A box's policy with its parameters."""

    name: str = BOUND
    batch: int = 0  #: completions per CPU, of the policies that go round
    signals: tuple[tuple[str, int], ...] = ()  #: (name, limit), all of which must hold
