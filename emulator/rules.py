"""Which rules a kernel goes by: one switch per decision that versions or proposals changed.

Theory of operation
-------------------
:class:`Rules` is the switchboard.  The rooms that emulate the kernel ask it and nothing else: no
line of theirs knows a version.  A *version* is the set of switches that its source has
(:func:`rules_of`); a *policy* is a remedy that somebody proposed or merged, and sets switches on top
(:data:`POLICIES`); a box may set each switch by itself (``kernel.rules``).  What a kernel lets its
users switch too, the sched features, is in :data:`FEATURES`.

A version here is the tree that was read for the specification: 5.4 is 5.4.0, 5.6 is 5.6.4, 5.10 is
5.10.7, 5.15 is 5.15.135 with what stable backported to it, 6.1 is 6.1-rc7, 6.6 is 6.6.17.  Where a
rule came between two of them, its text says with which release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

#: Every version that a box can name, oldest first.
VERSIONS = ("5.4", "5.6", "5.10", "5.15", "6.1", "6.6", "6.12")


def _versions(words: str) -> frozenset[str]:
    # "5.6+" is 5.6 and all later ones, "5.15-6.1" a span, "" none; commas join.
    found: set[str] = set()
    for word in filter(None, words.split(",")):
        first, dash, last = word.strip().partition("-")
        low = VERSIONS.index(first.rstrip("+"))
        high = len(VERSIONS) - 1 if first.endswith("+") else VERSIONS.index(last if dash else first)
        found.update(VERSIONS[low : high + 1])
    return frozenset(found)


def _rule(versions: str, about: str, needs: str = "") -> Any:
    metadata = {"versions": _versions(versions), "about": about, "needs": tuple(needs.split())}
    return field(default=False, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Rules:
    """The switches; all off is v5.4.

    The first argument of each names the versions that go by it, the second what it is.
    """

    # -- Wakeups (try_to_wake_up) ------------------------------------------------------------------
    ttwu_pending: bool = _rule(
        "5.10+", "a CPU with a remote wakeup under way says so in rq->ttwu_pending (5.8)"
    )
    ttwu_queue_on_cpu: bool = _rule(
        "5.10+",
        "the wake list also takes a wakee that still leaves its CPU, if at most one runs there (5.8)",
    )
    wake_list_fifo: bool = _rule("5.10+", "the wake list is activated oldest first (5.8)")
    ttwu_queue_idle: bool = _rule(
        "6.1+",
        "wakeups of another CPU with nothing to run go through its wake list (f3dd3f674555, 6.0)",
        "ttwu_queue_on_cpu",
    )

    # -- Placement (select_task_rq_fair) -----------------------------------------------------------
    wake_affine_cpu_load: bool = _rule(
        "5.6+", "wake_affine_weight() weighs load_avg instead of the runnable load (5.5)"
    )
    wake_affine_prev_idle: bool = _rule(
        "5.15+", "wake_affine_idle() returns an idle previous CPU (5.11)"
    )
    wake_affine_this_only: bool = _rule(
        "5.15,6.6+", "only the waker's CPU counts as an answer of wake_affine() (6.3)"
    )
    kthread_stack: bool = _rule(
        "5.6+",
        "a task woken by a per-CPU kthread that is alone on the task's CPU stays there "
        "(52262ee567ad, 5.6)",
    )
    kthread_stack_in_task: bool = _rule(
        "5.15+", "the same only in task context, not from an interrupt (8b4e74ccb582, 5.17)"
    )
    kthread_stack_after_recent: bool = _rule(
        "", "the same test, but after recent_used_cpu instead of before it"
    )
    recent_used_cpu_wakee_only: bool = _rule(
        "5.15+", "a waker no longer remembers its own CPU as recently used (5.15)"
    )
    recent_used_cpu_always: bool = _rule(
        "5.15+", "p->recent_used_cpu becomes the previous CPU at every wakeup (5.17)"
    )
    recent_used_cpu_tests_prev: bool = _rule(
        "5.15-6.1", "so the affinity test of recent_used_cpu looks at the previous CPU (to 6.4)"
    )
    idle_scan_allowed: bool = _rule(
        "5.6+", "select_idle_cpu() spends its budget on allowed CPUs only (5.6)"
    )
    idle_scan_sched_idle: bool = _rule(
        "5.6+", "idle searches take a sched-idle CPU as readily as an idle one (5.6)"
    )
    scan_cost_shift: bool = _rule(
        "5.10+", "avg_scan_cost is averaged by a shift, which rounds down (5.7)"
    )
    idle_scan_single_pass: bool = _rule(
        "5.15+", "one scan looks for a core and for a CPU; SMT siblings of prev first (5.12)"
    )
    idle_scan_from_next: bool = _rule("5.15+", "the scan starts after the target (5.17)")
    wake_avg_idle: bool = _rule(
        "5.15+", "SIS_PROP's budget comes from wake_avg_idle, which scans use up (5.13)"
    )
    idle_smt_not_prev: bool = _rule("6.1+", "select_idle_smt() leaves prev itself out (6.1)")
    idle_scan_cluster: bool = _rule(
        "6.12", "the target's cluster is scanned first (6.12)", "sd_cluster idle_scan_single_pass"
    )
    sd_cluster: bool = _rule(
        "6.1+", "cores that share an L2 are a scheduling domain, CLS, below MC (5.16)"
    )
    idlest_group_types: bool = _rule(
        "5.6+", "find_idlest_group() goes by group types (the rework of 5.5)"
    )
    idlest_avg_load_inverted: bool = _rule(
        "5.6", "find_idlest_group() computes avg_load for the wrong types (5.5, 5.6)"
    )
    idlest_sched_idle_first: bool = _rule(
        "5.6+", "find_idlest_group_cpu() takes a sched-idle CPU at once (5.6)"
    )
    idlest_numa_quarter: bool = _rule(
        "5.15", "a fork stays on its node while a quarter of it runs (5.11)"
    )
    idlest_imb_numa_nr: bool = _rule(
        "6.1+", "a fork stays on its node up to sd->imb_numa_nr tasks (6.1)"
    )

    # -- Load tracking ----------------------------------------------------------------------------
    runnable_avg: bool = _rule(
        "5.10+",
        "runnable_avg replaces runnable_load_avg; groups are also overloaded by it (5.7)",
        "lb_group_types wake_affine_cpu_load idlest_group_types",
    )
    util_est_fastup: bool = _rule("5.6+", "an estimate that grew is taken at once (5.5)")
    util_est_flag_apart: bool = _rule(
        "5.15+", "an estimate's unchanged flag is no longer counted with it (68d7a190682a, 5.13)"
    )
    util_est_last_value: bool = _rule(
        "5.15-6.6",
        "an estimate near its average is stored if it left its last value (b89997aa88f0, 5.13)",
    )
    util_est_single: bool = _rule(
        "6.12",
        "util_est is one value, not lowered while the task had to wait (6.8)",
        "util_est_flag_apart",
    )
    new_task_util_scaled: bool = _rule(
        "6.12", "a new task's utilisation starts from the scaled-down weight (6.12)"
    )
    exec_start_at_enqueue: bool = _rule(
        "5.15,6.6+", "exec_start is cleared at the enqueue after a move, not before (6.3)"
    )

    # -- CFS ---------------------------------------------------------------------------------------
    smt_never_hot: bool = _rule("5.10+", "no task is cache hot between SMT siblings (5.10)")
    slice_latency_cap: bool = _rule(
        "", "check_preempt_tick() caps the slice by the latency (6.3 to 6.5)"
    )
    place_long_sleeper: bool = _rule(
        "", "a very long sleeper is placed without comparing vruntimes (6.3 to 6.5)"
    )
    place_idle_min_gran: bool = _rule(
        "6.1", "an idle-policy sleeper gets credit by min granularity, not latency (5.19)"
    )
    base_slice_idle_min: bool = _rule(
        "5.15,6.1", "BASE_SLICE gives idle entities beside others idle_min_granularity only (5.15)"
    )
    nr_latency_by_scaling: bool = _rule(
        "5.15,6.1",
        "writing a granularity leaves nr_latency and the unscaled values as they are (5.13)",
    )

    # -- EEVDF -------------------------------------------------------------------------------------
    eevdf: bool = _rule(
        "6.6+", "the fair class picks by eligibility and virtual deadline (6.6)", "runnable_avg"
    )
    eevdf_fork_twice: bool = _rule(
        "6.6",
        "a new task is placed at fork and again at its enqueue, as any other (6.6 to 6.8)",
        "eevdf",
    )
    eevdf_pick_alone: bool = _rule(
        "6.12", "pick_eevdf() of a lone entity looks no further (6.12)", "eevdf"
    )
    eevdf_tie_to_tree: bool = _rule(
        "6.12", "among equal deadlines the tree's entity wins over the running one (6.12)", "eevdf"
    )
    eevdf_reweight_clamped: bool = _rule(
        "6.12", "renicing clamps the lag before scaling (6.12)", "eevdf"
    )
    custom_slice: bool = _rule("6.12", "a task may ask for a slice of its own (6.12)", "eevdf")

    # -- Load balancing ----------------------------------------------------------------------------
    lb_group_types: bool = _rule(
        "5.6+", "load_balance() goes by group types and migration types (the rework of 5.5)"
    )
    lb_sched_idle_not_busy: bool = _rule(
        "5.6+", "a CPU of sched-idle tasks keeps the intervals of an idle one (5.6)"
    )
    lb_avg_load_local: bool = _rule(
        "5.10+", "nothing is pulled if the local group's load is not below the busiest's (5.7)"
    )
    lb_avg_load_domain: bool = _rule(
        "5.15,6.6+", "nor if it is not below the domain's average (6.2)"
    )
    lb_busy_factor_16: bool = _rule("5.10+", "busy CPUs balance 16 times as seldom, not 32 (5.10)")
    lb_imbalance_pct_117: bool = _rule(
        "5.10+", "imbalance_pct is 117 beyond the LLC, not 125 (5.10)"
    )
    lb_busy_interval_less_1: bool = _rule("5.10+", "a busy interval is one jiffy shorter (5.10)")
    lb_load_shift: bool = _rule(
        "5.10+",
        "detach_tasks() takes ever larger tasks as failures add up (5.10)",
        "lb_group_types",
    )
    lb_util_shift: bool = _rule("6.12", "the same for migrate_util (6.8)", "lb_group_types")
    lb_llc_migrate_task: bool = _rule(
        "5.10+", "inside an LLC tasks are counted, not utilisation (5.10)", "lb_group_types"
    )
    lb_numa_allowance: bool = _rule(
        "5.15+", "small NUMA imbalances are allowed by running tasks (5.11)", "lb_group_types"
    )
    lb_imb_numa_nr: bool = _rule(
        "6.1+", "up to sd->imb_numa_nr of them (5.18)", "lb_group_types lb_numa_allowance"
    )
    lb_skip_per_cpu_kthread: bool = _rule(
        "5.15+", "per-CPU kthreads are passed over without marking the group pinned (L1, 5.12)"
    )
    kworker_per_cpu: bool = _rule("5.15+", "bound kworkers are KTHREAD_IS_PER_CPU (5.11)")
    lbf_active_lb: bool = _rule(
        "5.15+", "a stopper's push passes over cache heat; LBF_ACTIVE_LB (5.13)"
    )
    active_balance_migrate_task: bool = _rule(
        "5.15+",
        "failures lead to an active balance only where tasks are counted (L2, 5.13)",
        "lb_group_types",
    )
    active_balance_keeps_count: bool = _rule(
        "5.15+",
        "a kicked stopper leaves nr_balance_failed and the interval as they are (5.13)",
        "lbf_active_lb",
    )
    lb_all_pinned_alone: bool = _rule(
        "5.15+", "ALL_PINNED is set before a lone task is looked at (5.13)"
    )
    swb_newidle_pending: bool = _rule(
        "6.1+", "a newly idle CPU gives up once something waits for it (6.0)"
    )
    swb_idle_core: bool = _rule(
        "6.6+", "above SMT level the first CPU of an idle core balances (6.6)"
    )
    lb_sibling_imbalance: bool = _rule(
        "6.6+", "prefer_sibling weighs tasks by the groups' cores (6.6)", "lb_group_types"
    )
    lb_smt_balance: bool = _rule(
        "6.6+", "a core whose siblings share it is of a type of its own (6.5)", "lb_group_types"
    )
    lb_skip_empty_queue: bool = _rule(
        "6.12", "find_busiest_queue() skips CPUs without fair tasks (6.12)", "lb_group_types"
    )
    nohz_kick_resets: bool = _rule(
        "5.10+", "a full kick sets nohz.next_balance to the next jiffy, other kicks nothing (5.9)"
    )
    nohz_next_before_own: bool = _rule(
        "5.10+", "nohz.next_balance is set before the ilb's own pass, not after an abort (5.9)"
    )
    nohz_ilb_last: bool = _rule(
        "5.15+",
        "the ilb's round starts behind it and ends with itself, its due time counting (5.12)",
    )
    nohz_next_not_lowered: bool = _rule(
        "5.15+", "an idle CPU's own pass no longer lowers nohz.next_balance (5.12)"
    )
    nohz_next_kick: bool = _rule(
        "6.1+", "a CPU that joins the mask has nohz.next_balance collected anew (5.16)"
    )
    newidle_pending: bool = _rule(
        "5.15+", "newidle_balance() gives up if a wakeup is under way (5.12)", "ttwu_pending"
    )
    newidle_domain_cost: bool = _rule(
        "6.1+", "it is skipped by the lowest domain's cost, not by 500 µs (5.17)"
    )
    newidle_blocked_later: bool = _rule(
        "5.15+", "blocked load is aged by the idle loop, not in newidle_balance() (5.12)"
    )

    # -- Hotplug -----------------------------------------------------------------------------------
    balance_push: bool = _rule(
        "5.15+",
        "a CPU going down pushes each task away as it is switched to (5.11)",
        "kworker_per_cpu",
    )
    fallback_allowed: bool = _rule(
        "5.15+", "the fallback on the same node asks is_cpu_allowed(), not cpu_active() (5.15)"
    )

    # -- Block layer -------------------------------------------------------------------------------
    map_queues_evenly: bool = _rule(
        "6.6+", "the generic CPU-to-queue map spreads as interrupt vectors are spread (6.3)"
    )
    sbq_global_count: bool = _rule(
        "6.6+", "waiters for tags are woken by one count of frees, across the wait queues (6.2)"
    )
    poll_async_only: bool = _rule(
        "6.1+", "preadv2() and pwritev2() with RWF_HIPRI are not polled (5.19)"
    )
    poll_inline_only: bool = _rule(
        "6.6+", "direct writes whose end needs a worker are not polled (6.6)"
    )
    poll_classic_only: bool = _rule("6.6+", "pollers spin from the start: no io_poll_delay (6.4)")
    poll_or_fail: bool = _rule(
        "6.12", "polled IO of a queue that cannot be polled fails with EOPNOTSUPP (6.11)"
    )
    null_blk_polls: bool = _rule("5.15+", "null_blk has poll_queues (5.14)")
    dd_per_prio: bool = _rule(
        "5.15+", "mq-deadline takes requests of a higher IO priority class first (5.14)"
    )
    dd_prio_aging: bool = _rule(
        "6.1+", "but none waits for more than prio_aging_expire, 10 s (5.16)", "dd_per_prio"
    )
    scsi_run_queue_busy: bool = _rule(
        "5.10+",
        "a SCSI command that ends runs its queues only if the disk was busy meanwhile (5.10)",
    )
    dispatch_need_resched: bool = _rule(
        "5.15+",
        "an elevator's round that ends with need_resched leaves the rest to kblockd (5.18; 5.15.y)",
    )
    dispatch_busy_sched: bool = _rule(
        "5.15+", "a queue with an elevator keeps the average of how busy its driver was too (5.14)"
    )
    plug_issue_direct: bool = _rule(
        "6.1+", "a plug of one queue without elevator is issued directly, busy as it may be (5.16)"
    )
    plug_32: bool = _rule("5.15+", "a plug holds 32 requests, 64 of several queues (5.15)")
    hctx_drain: bool = _rule(
        "5.10+", "hardware queues whose last CPU goes offline are drained first (5.8)"
    )
    softirq_inline: bool = _rule(
        "6.6+", "interrupts run softirqs at their exit also while ksoftirqd is runnable (6.5)"
    )
    complete_remote_softirq: bool = _rule(
        "5.15+",
        "a completion steered to another CPU always ends there in BLOCK; one IPI per list (5.12)",
    )
    complete_threaded_local: bool = _rule(
        "5.15+", "with threadirqs no completion is steered to another CPU (5.12)"
    )
    threaded_irqs_off: bool = _rule(
        "5.15+", "with threadirqs the threads run handlers with interrupts off (5.12)"
    )
    complete_single_ctx: bool = _rule(
        "6.1+", "a request of a hardware queue of one CPU ends in the interrupt, unsteered (6.1)"
    )
    complete_single_ctx_own: bool = _rule(
        "6.12", "only if that CPU is the one that was interrupted (6.12)", "complete_single_ctx"
    )
    io_ticks_gap_at_end: bool = _rule(
        "5.10+", "io_ticks grows by the whole gap when a request ends, not by one jiffy (5.7)"
    )
    io_ticks_in_flight: bool = _rule(
        "6.12",
        "and at a start if others are in flight, else by nothing (6.10)",
        "io_ticks_gap_at_end",
    )
    time_in_queue_summed: bool = _rule(
        "5.10+", "a disk's weighted time sums nanoseconds, not each request's whole jiffies (5.7)"
    )

    # -- AIO ---------------------------------------------------------------------------------------
    aio_wake_min_nr: bool = _rule(
        "6.12",
        "a waiter in io_getevents() is woken once as many events are there as it wants (6.8)",
    )

    # -- Workqueues --------------------------------------------------------------------------------
    wq_affinity_scopes: bool = _rule(
        "6.6+", "unbound workqueues have a pool per pod of their affinity scope (6.6)"
    )
    wq_rescuer_prefix: bool = _rule(
        "6.6+", "rescuers are called kworker/R- and their workqueue (6.6)"
    )
    wq_cpu_intensive_auto: bool = _rule(
        "6.6+", "a work item that runs for 10 ms in one go no longer holds its pool up (6.5)"
    )
    wq_unbind_cpumask: bool = _rule(
        "6.1+",
        "workers of a CPU that goes down are let onto the CPUs of unbound work, not onto all (6.0)",
        "balance_push",
    )
    wq_node_nr_active: bool = _rule(
        "6.12",
        "max_active of unbound workqueues holds for the system, by shares of the nodes (6.9)",
        "wq_affinity_scopes",
    )

    # -- Direct IO (XFS) ---------------------------------------------------------------------------
    uring_task_work: bool = _rule(
        "5.15+", "io_uring: a completion's entry is written by the submitter's task work (5.15)"
    )
    dio_caller_comp: bool = _rule(
        "6.6+",
        "io_uring: pure overwrites are completed there too, without a worker (F24, 6.6)",
        "uring_task_work",
    )
    dio_write_through_fua: bool = _rule(
        "6.6+", "O_DSYNC: a device without a volatile cache counts as one with FUA (6.6)"
    )
    dio_overwrite_inline: bool = _rule(
        "",
        "an asynchronous pure overwrite is completed where its bio ends, without a worker (6.19)",
    )
    xfs_unaligned_wait: bool = _rule(
        "5.6-5.10",
        "a sub-block write waits for its own IO, whose end wakes it without a worker (5.5)",
    )
    xfs_unaligned_overwrite: bool = _rule(
        "5.15+",
        "a sub-block write of written blocks shares the lock and is asynchronous as any other (5.12)",
    )

    # -- Buffered writeback (XFS) --------------------------------------------------------------------
    xfs_delalloc_unwritten: bool = _rule(
        "5.10+", "delayed allocation makes unwritten extents, converted when they are written (5.8)"
    )

    # -- Traces ------------------------------------------------------------------------------------
    trace_pid_wide: bool = _rule("5.10+", "ftrace prints pids seven wide (5.9)")
    trace_migrate_disable: bool = _rule("5.15+", "ftrace prints a fifth flag (5.15)")
    trace_wq_name: bool = _rule("5.15+", "workqueue_queue_work has the workqueue's name (5.14)")
    trace_end_function: bool = _rule("5.6+", "workqueue_execute_end has the work's function (5.6)")
    trace_activate_function: bool = _rule(
        "6.12", "workqueue_activate_work has the work's function (6.12)"
    )
    trace_ioprio: bool = _rule("6.12", "events of requests have their IO priority (6.12)")
    trace_runtime_bare: bool = _rule("6.12", "sched_stat_runtime has no vruntime (6.8)")

    # -- What files of /proc and /sys say (report only) ---------------------------------------------
    diskstats_flush: bool = _rule("5.6+", "diskstats count flushes in two more columns (5.5)")
    sched_debugfs: bool = _rule(
        "5.15+", "the scheduler's tunables are files of debugfs, not sysctls (5.13)"
    )

    # -- Proposals that no kernel has --------------------------------------------------------------
    small_imbalance_guard: bool = _rule(
        "", "no active balance where fix_small_imbalance() found no gain (F3)"
    )
    lb_interval_granularity: bool = _rule(
        "", "balance intervals are at least the wakeup granularity (F7)"
    )
    preempt_kthread_nvcsw: bool = _rule(
        "", "CFS: a per-CPU kthread that sleeps more readily than curr preempts it (F13)"
    )
    preempt_kthread_vdiff: bool = _rule(
        "", "CFS: a per-CPU kthread preempts as soon as it is ahead at all (F14)"
    )
    kthread_gran_min: bool = _rule(
        "", "CFS: the wakeup granularity of per-CPU kthreads is the min granularity (F16)"
    )
    kthread_next_buddy: bool = _rule(
        "",
        "CFS: a per-CPU kthread that is ahead but may not preempt is next buddy; the tick sees "
        "buddies (F17)",
    )
    kthread_half_slice: bool = _rule(
        "",
        "CFS: the tick halves curr's slice while a per-CPU kthread is next (F17)",
        "kthread_next_buddy",
    )
    no_push_for_kthreads: bool = _rule(
        "", "no active balance while only per-CPU kthreads wait (F18)"
    )
    kthread_delayed_wake: bool = _rule(
        "", "CFS: a per-CPU kthread that may not preempt is queued at the next schedule() (F19)"
    )
    completion_sync_hint: bool = _rule(
        "", "a worker's wakeup of the submitter says that the worker will sleep (F20)"
    )
    kworker_nice: int = field(
        default=0,
        metadata={
            "versions": frozenset(),
            "about": "nice of the normal bound workers (F15)",
            "needs": (),
        },
    )

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield every switch and its value, in the order of the table."""
        for one in fields(self):
            yield one.name, getattr(self, one.name)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table, as data."""

    name: str
    versions: frozenset[str]  #: those whose kernels go by it
    about: str
    needs: tuple[str, ...]  #: rules without which it has no meaning
    default: int


#: The table itself, by name.
RULES: dict[str, Rule] = {
    one.name: Rule(
        one.name,
        one.metadata["versions"],
        one.metadata["about"],
        one.metadata["needs"],
        one.default if isinstance(one.default, int) else 0,
    )
    for one in fields(Rules)
}


def rules_of(version: str) -> Rules:
    """Return the rules that a version's kernel goes by."""
    return Rules(**{name: True for name, rule in RULES.items() if version in rule.versions})


def changed(rules: Rules, switches: Mapping[str, int]) -> Rules:
    """Return rules with some switches set otherwise."""
    values: dict[str, Any] = {
        name: value if name == "kworker_nice" else bool(value) for name, value in switches.items()
    }
    return replace(rules, **values)


def missing_needs(rules: Rules) -> dict[str, list[str]]:
    """Return, per rule that is on and needs others that are off, those others."""
    found = {
        name: [need for need in rule.needs if not getattr(rules, need)]
        for name, rule in RULES.items()
        if getattr(rules, name)
    }
    return {name: needs for name, needs in found.items() if needs}


# -- Policies -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Policy:
    """A remedy of the thread as a set of switches on top of any version."""

    name: str
    fix: str  #: its number among the proposals
    who: str  #: who proposed it
    sets: dict[str, int]
    changes: str  #: which decision it changes
    outcome: str  #: what was reported


def _policies(*policies: Policy) -> dict[str, Policy]:
    return {one.name: one for one in policies}


#: Every remedy that touches the scheduler, in the order in which they were proposed.
POLICIES: dict[str, Policy] = _policies(
    Policy(
        "small-imbalance-guard",
        "F3",
        "Srikar Dronamraju",
        {"small_imbalance_guard": 1},
        "need_active_balance(): not after a pass in which fix_small_imbalance() found no gain for a "
        "busy CPU",
        "worse: about 2,000 migrations became 4,701",
    ),
    Policy(
        "lb-rework",
        "F4",
        "Vincent Guittot",
        {"lb_group_types": 1, "idlest_group_types": 1, "wake_affine_cpu_load": 1},
        "load_balance(): group types and migration types instead of loads (merged in 5.5)",
        "no change for the thread: 3,700 became 3,500",
    ),
    Policy(
        "lb-interval-granularity",
        "F7",
        "Peter Zijlstra",
        {"lb_interval_granularity": 1},
        "get_sd_balance_interval(): no shorter than the wakeup granularity",
        "only mentioned",
    ),
    Policy(
        "preempt-kthread-nvcsw",
        "F13",
        "Srikar Dronamraju",
        {"preempt_kthread_nvcsw": 1},
        "check_preempt_wakeup(): a per-CPU kthread preempts a movable task of a queue of two if its "
        "share of voluntary switches is the higher one",
        "works; the criteria were called arbitrary",
    ),
    Policy(
        "preempt-kthread",
        "F14",
        "Peter Zijlstra, Srikar Dronamraju",
        {"preempt_kthread_vdiff": 1},
        "check_preempt_wakeup(): a per-CPU kthread preempts whenever it is ahead",
        "active balances 1,740 became 4, elapsed 288 s became 72.7 s; doubles the switches",
    ),
    Policy(
        "renice-kworkers",
        "F15",
        "Vincent Guittot",
        {"kworker_nice": -5},
        "the wakeup granularity, which is scaled by the wakee's weight: bound workers at nice -5 "
        "(or as `renice-kworkers=NICE` says)",
        "works in his test; needs the administrator",
    ),
    Policy(
        "kthread-gran-min",
        "F16",
        "Vincent Guittot",
        {"kthread_gran_min": 1},
        "wakeup_gran(): the min granularity for per-CPU kthreads",
        "not tried: entities may be groups",
    ),
    Policy(
        "next-buddy-kthread",
        "F17",
        "Peter Zijlstra",
        {"kthread_next_buddy": 1},
        "check_preempt_wakeup(): a per-CPU kthread that is ahead becomes next buddy; "
        "check_preempt_tick() compares with the buddy",
        "identical to the unpatched kernel",
    ),
    Policy(
        "next-buddy-kthread-half",
        "F17",
        "Peter Zijlstra",
        {"kthread_next_buddy": 1, "kthread_half_slice": 1},
        "the same, and check_preempt_tick() halves the slice while a per-CPU kthread is next",
        "an option of the same mail",
    ),
    Policy(
        "no-push-for-kthreads",
        "F18",
        "Dave Chinner",
        {"no_push_for_kthreads": 1},
        "need_active_balance(): not while only per-CPU kthreads wait behind the running task",
        "not coded; should end the moves, not the waiting",
    ),
    Policy(
        "delayed-wake-list",
        "F19",
        "Srikar Dronamraju",
        {"kthread_delayed_wake": 1},
        "ttwu_do_activate(): a per-CPU kthread that may not preempt is counted and queued only at "
        "the next schedule(), so the balancer does not see it",
        "not coded",
    ),
    Policy(
        "completion-sync-hint",
        "F20",
        "Boaz Harrosh, Peter Zijlstra",
        {"completion_sync_hint": 1},
        "wake_affine(): the worker's wakeup of the submitter is a synchronous one",
        "not coded; hints of this kind are often wrong",
    ),
    Policy(
        "kthread-stack",
        "F21",
        "Mel Gorman",
        {"kthread_stack": 1},
        "select_idle_sibling(): a task woken by a per-CPU kthread alone on the task's CPU stays "
        "(merged in 5.6)",
        "ends the 512-byte ping-pong, not the pushes",
    ),
    Policy(
        "kthread-stack-late",
        "F21",
        "Mel Gorman",
        {"kthread_stack": 1, "kthread_stack_after_recent": 1},
        "the same test behind recent_used_cpu instead of before it",
        "an earlier form of it",
    ),
    Policy(
        "kthread-stack-in-task",
        "F22",
        "Vincent Donnefort",
        {"kthread_stack": 1, "kthread_stack_in_task": 1},
        "the same, not from an interrupt that hit the kthread (merged in 5.17)",
        "merged",
    ),
    Policy(
        "kthread-not-pinned",
        "F23",
        "Valentin Schneider",
        {"lb_skip_per_cpu_kthread": 1, "kworker_per_cpu": 1},
        "can_migrate_task(): per-CPU kthreads leave LBF_SOME_PINNED alone (merged in 5.12)",
        "merged; alone it does not stop the pushes",
    ),
    Policy(
        "push-by-task-count",
        "F23",
        "Vincent Guittot",
        {
            "active_balance_migrate_task": 1,
            "active_balance_keeps_count": 1,
            "lbf_active_lb": 1,
            "lb_group_types": 1,
            "lb_llc_migrate_task": 1,
        },
        "need_active_balance(): failures count only where tasks are to be moved (merged in 5.13)",
        "merged",
    ),
)


def policy_switches(word: str) -> dict[str, int]:
    """Return what a policy sets; ``word`` is its name, with ``=VALUE`` for the one that has a value.

    Raise ValueError saying what is odd.
    """
    name, equals, value = word.partition("=")
    policy = POLICIES.get(name)
    if policy is None:
        raise ValueError(f"no policy is called {name!r}")
    if not equals:
        return dict(policy.sets)
    if list(policy.sets) != ["kworker_nice"]:
        raise ValueError(f"{name} takes no value")
    if not value.lstrip("-").isdecimal() or not -20 <= int(value) <= 19:
        raise ValueError(f"{value!r} is not a nice level, -20 to 19")
    return {"kworker_nice": int(value)}


#: Rules that CFS alone looks up, when it decides whether to preempt.
CFS_RULES = frozenset(
    (
        *("preempt_kthread_nvcsw", "preempt_kthread_vdiff", "kthread_gran_min"),
        *("kthread_next_buddy", "kthread_half_slice"),
    )
)

#: Rules that a CPU may change its mind about while it runs: each is looked up when something is decided,
#: and decides nothing else.  The others say what is kept or how it is counted, or are the balancer's,
#: whose passes under way go by the rules with which they began.
LIVE_RULES = CFS_RULES | {
    *("kthread_stack", "kthread_stack_after_recent", "kthread_stack_in_task"),
    "completion_sync_hint",
}


def live_switches(word: str) -> dict[str, int]:
    """Return what ``+POLICY`` or ``-POLICY`` changes in a kernel that runs.

    Raise ValueError saying what is odd, or why that cannot be changed any more.
    """
    sign, name = word[:1], word[1:]
    if sign not in ("+", "-"):
        raise ValueError(f"{word!r}: it is +NAME or -NAME")
    sets = policy_switches(name)
    if "kworker_nice" in sets:
        raise ValueError(
            f"{name}: `renice` the workers themselves; `status` and `cat` say their pids"
        )
    kept = [rule for rule in sets if rule not in LIVE_RULES]
    if kept:
        raise ValueError(
            f"{name} is more than a decision of one CPU ({', '.join(kept)}): say it in the box file"
        )
    return sets if sign == "+" else dict.fromkeys(sets, 0)


# -- Sched features -------------------------------------------------------------------------------

#: Sched feature: versions that have it switched on, and all that know it.
_FEATURES: dict[str, tuple[str, str]] = {
    "GENTLE_FAIR_SLEEPERS": ("5.4-6.1", "5.4-6.1"),
    "START_DEBIT": ("5.4-6.1", "5.4-6.1"),
    "PLACE_LAG": ("6.6+", "6.6+"),
    "PLACE_DEADLINE_INITIAL": ("6.6+", "6.6+"),
    "PLACE_REL_DEADLINE": ("6.12", "6.12"),
    "RUN_TO_PARITY": ("6.6+", "6.6+"),
    "PREEMPT_SHORT": ("6.12", "6.12"),
    "NEXT_BUDDY": ("", "5.4+"),
    "LAST_BUDDY": ("5.4-6.1", "5.4-6.1"),
    "CACHE_HOT_BUDDY": ("5.4+", "5.4+"),
    "DELAY_DEQUEUE": ("6.12", "6.12"),
    "DELAY_ZERO": ("6.12", "6.12"),
    "WAKEUP_PREEMPTION": ("5.4+", "5.4+"),
    "HRTICK": ("", "5.4+"),
    "DOUBLE_TICK": ("", "5.4-5.15"),
    "NONTASK_CAPACITY": ("5.4+", "5.4+"),
    "TTWU_QUEUE": ("5.4+", "5.4+"),
    "SIS_AVG_CPU": ("", "5.4-5.10"),
    "SIS_PROP": ("5.4-5.10", "5.4-6.6"),
    "SIS_UTIL": ("5.15+", "5.15+"),
    "WARN_DOUBLE_CLOCK": ("", "5.4+"),
    "RT_PUSH_IPI": ("5.4+", "5.4+"),
    "RT_RUNTIME_SHARE": ("5.4-5.6", "5.4+"),
    "LB_MIN": ("", "5.4+"),
    "ATTACH_AGE_LOAD": ("5.4+", "5.4+"),
    "WA_IDLE": ("5.4+", "5.4+"),
    "WA_WEIGHT": ("5.4+", "5.4+"),
    "WA_BIAS": ("5.4+", "5.4+"),
    "UTIL_EST": ("5.4+", "5.4+"),
    "ALT_PERIOD": ("5.15-6.1", "5.15-6.1"),
    "BASE_SLICE": ("5.15-6.1", "5.15-6.1"),
}

#: Per version, every sched feature and its default.
FEATURES: dict[str, dict[str, bool]] = {
    version: {
        name: version in _versions(on)
        for name, (on, known) in _FEATURES.items()
        if version in _versions(known)
    }
    for version in VERSIONS
}
