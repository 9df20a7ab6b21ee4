"""Per-entity load tracking: ``kernel/sched/pelt.c`` and the PELT half of ``fair.c``, v5.4 to v6.12.

Theory of operation
-------------------
Time is cut into periods of 1024 units of 1024 ns.  Each sum counts the units in which something
held (queued, running), and what lies *n* periods back counts ``y**n`` of it, with ``y**32 = 1/2``.
An average is the sum over the largest sum possible at this phase of the period, times a weight.
Averages are recomputed only when a period boundary is crossed.

A task's ``load_avg`` follows the time it is queued, its ``util_avg`` the time it runs.  A runqueue
tracks the same of all its tasks together: it gains a task's values when the task is attached and
loses them when it is detached; a task that sleeps stays attached, as *blocked* load.

Up to v5.6 a runqueue's *runnable load* leaves the blocked tasks out: it is what v5.4 balances by,
and it gains a task's load at every enqueue and loses it at every dequeue.  Since v5.7
(``rules.runnable_avg``) the place is taken by ``runnable_avg``: how many tasks were queued, in
1024ths, whatever their weight; of a task, how much of the time it was.  It is attached and detached
like the other averages.

A task woken on another CPU cannot be detached at once, because the waker does not hold the old
runqueue's lock: its averages are parked in ``cfs.removed_*`` and leave at the next update.

The two updates (:func:`update_load_avg_se`, :func:`update_cfs_rq_load_avg`) run several times per
IO, so they are written flat and say the same thing twice.  What is estimated from the averages when
a task sleeps is in :mod:`emulator.kernel.util_est`.

Departures from the kernel
--------------------------
* ``clock_pelt`` is ``clock_task``: capacity and frequency are constant, so ``lost_idle_time`` is 0.
* Up to v5.6 a task entity's runnable load equals its load (both count queued time with one weight),
  so its ``load_avg`` stands for both; its ``runnable_avg`` is v5.7's in every version.  The same
  holds for the two weights of a flat runqueue: there is no ``cfs.runnable_weight``.
* A runqueue's first ``last_update_time`` is -1023 and not 0.  Updates advance it by multiples of
  1024, so no task's time is ever 0, which means *detached*; the kernel boots before its tasks do.
* No deadline signals (no such class) and no group propagation (one flat queue).
"""

from __future__ import annotations

from emulator.kernel.sched import FAIR_CLASS, RT_CLASS, CfsRq, Rq, SchedAvg, Task

LOAD_AVG_PERIOD = 32
LOAD_AVG_MAX = 47742
#: Divisor of an average at phase 0: the current period counts only as far as it has gone.
DIVIDER = LOAD_AVG_MAX - 1024
CAPACITY_SCALE = 1024

#: ``y**n * 2**32`` for n = 0…31.
RUNNABLE_AVG_Y_N_INV = (
    *(0xFFFFFFFF, 0xFA83B2DA, 0xF5257D14, 0xEFE4B99A, 0xEAC0C6E6, 0xE5B906E6, 0xE0CCDEEB),
    *(0xDBFBB796, 0xD744FCC9, 0xD2A81D91, 0xCE248C14, 0xC9B9BD85, 0xC5672A10, 0xC12C4CC9),
    *(0xBD08A39E, 0xB8FBAF46, 0xB504F333, 0xB123F581, 0xAD583EE9, 0xA9A15AB4, 0xA5FED6A9),
    *(0xA2704302, 0x9EF5325F, 0x9B8D39B9, 0x9837F050, 0x94F4EFA8, 0x91C3D373, 0x8EA4398A),
    *(0x8B95C1E3, 0x88980E80, 0x85AAC367, 0x82CD8698),
)
assert len(RUNNABLE_AVG_Y_N_INV) == LOAD_AVG_PERIOD

_Y = RUNNABLE_AVG_Y_N_INV


def decay_load(value: int, periods: int) -> int:
    """Return what is left of ``value`` after ``periods`` periods (``decay_load()``)."""
    # After 2016 periods the shift alone has emptied every 63-bit value, as the kernel's limit does.
    return ((value >> (periods >> 5)) * _Y[periods & 31]) >> 32


#: Contribution of the whole periods between the first and the current one, by their distance.
_SEGMENTS = tuple(DIVIDER - decay_load(LOAD_AVG_MAX, n) for n in range(512))
assert decay_load(LOAD_AVG_MAX, 512) == 0


def accumulate_pelt_segments(periods: int, first: int, last: int) -> int:
    """Return the units that an interval over ``periods`` boundaries adds now.

    ``first`` units lay before the first boundary, ``last`` after the last one
    (``__accumulate_pelt_segments()``).
    """
    middle = _SEGMENTS[periods] if periods < 512 else DIVIDER
    return decay_load(first, periods) + middle + last


# -- The two hot updates -------------------------------------------------------------------------


def update_load_avg_se(p: Task, now: int, running: bool) -> None:
    """Age a task's averages to ``now`` (``__update_load_avg_se()``); ns of ``clock_task``.

    What counts for the interval is the state *now*: ``p.on_rq``, and whether it is ``curr``.
    """
    avg = p.avg
    units = (now - avg.last_update_time) >> 10
    if units <= 0:
        if units:
            avg.last_update_time = now
        return
    avg.last_update_time += units << 10
    phase = avg.period_contrib
    total = phase + units
    if total < 1024:
        avg.period_contrib = total
        if p.on_rq:
            avg.load_sum += units
            units <<= 10
            avg.runnable_sum += units
            if running:
                avg.util_sum += units
        return
    periods = total >> 10
    total &= 1023
    avg.period_contrib = total
    shift = periods >> 5
    y = _Y[periods & 31]
    load_sum = ((avg.load_sum >> shift) * y) >> 32
    runnable_sum = ((avg.runnable_sum >> shift) * y) >> 32
    util_sum = ((avg.util_sum >> shift) * y) >> 32
    if p.on_rq:
        units = (((1024 - phase) >> shift) * y >> 32) + total
        units += _SEGMENTS[periods] if periods < 512 else DIVIDER
        load_sum += units
        units <<= 10
        runnable_sum += units
        if running:
            util_sum += units
    avg.load_sum = load_sum
    avg.runnable_sum = runnable_sum
    avg.util_sum = util_sum
    divider = DIVIDER + total
    avg.load_avg = (p.weight >> 10) * load_sum // divider
    avg.runnable_avg = runnable_sum // divider
    avg.util_avg = util_sum // divider
    avg.util_est_unchanged = 0


def update_cfs_rq_load_avg(cfs: CfsRq, now: int) -> None:
    """Drop removed load and age a runqueue to ``now`` (``update_cfs_rq_load_avg()``)."""
    if cfs.removed_nr:
        _subtract_removed(cfs)
    avg = cfs.avg
    units = (now - avg.last_update_time) >> 10
    if units <= 0:
        if units:
            avg.last_update_time = now
        return
    avg.last_update_time += units << 10
    phase = avg.period_contrib
    total = phase + units
    load = cfs.load_weight >> 10
    if total < 1024:
        avg.period_contrib = total
        if load:
            avg.load_sum += load * units
            if cfs.counts_tasks:
                avg.runnable_sum += cfs.nr_running * units << 10
            else:
                avg.runnable_sum += load * units
            if cfs.curr is not None:
                avg.util_sum += units << 10
        return
    periods = total >> 10
    total &= 1023
    avg.period_contrib = total
    shift = periods >> 5
    y = _Y[periods & 31]
    load_sum = ((avg.load_sum >> shift) * y) >> 32
    runnable_sum = ((avg.runnable_sum >> shift) * y) >> 32
    util_sum = ((avg.util_sum >> shift) * y) >> 32
    if load:
        units = (((1024 - phase) >> shift) * y >> 32) + total
        units += _SEGMENTS[periods] if periods < 512 else DIVIDER
        load_sum += load * units
        runnable_sum += cfs.nr_running * units << 10 if cfs.counts_tasks else load * units
        if cfs.curr is not None:
            util_sum += units << 10
    avg.load_sum = load_sum
    avg.runnable_sum = runnable_sum
    avg.util_sum = util_sum
    divider = DIVIDER + total
    avg.load_avg = load_sum // divider
    avg.runnable_avg = runnable_sum // divider
    avg.util_avg = util_sum // divider


def update_load_avg(cfs: CfsRq, p: Task, now: int) -> None:
    """Age an attached task, then its runqueue (``update_load_avg()``)."""
    update_load_avg_se(p, now, cfs.curr is p)
    update_cfs_rq_load_avg(cfs, now)


def _subtract_removed(cfs: CfsRq) -> None:
    # The runqueue has not been aged yet: the sums leave at the phase of its last update.
    avg = cfs.avg
    divider = DIVIDER + avg.period_contrib
    avg.load_avg = max(avg.load_avg - cfs.removed_load_avg, 0)
    avg.load_sum = max(avg.load_sum - cfs.removed_load_avg * divider, 0)
    avg.util_avg = max(avg.util_avg - cfs.removed_util_avg, 0)
    avg.util_sum = max(avg.util_sum - cfs.removed_util_avg * divider, 0)
    if cfs.counts_tasks:
        avg.runnable_avg = max(avg.runnable_avg - cfs.removed_runnable_avg, 0)
        avg.runnable_sum = max(avg.runnable_sum - cfs.removed_runnable_avg * divider, 0)
    cfs.removed_nr = 0
    cfs.removed_load_avg = 0
    cfs.removed_util_avg = 0
    cfs.removed_runnable_avg = 0


# -- Attach, detach, migration ---------------------------------------------------------------------


def enqueue_load_avg(cfs: CfsRq, p: Task) -> None:
    """Add a task's load to its runqueue's (``enqueue_load_avg()``)."""
    cfs.avg.load_avg += p.avg.load_avg
    cfs.avg.load_sum += (p.weight >> 10) * p.avg.load_sum


def dequeue_load_avg(cfs: CfsRq, p: Task) -> None:
    """Subtract a task's load from its runqueue's, never below 0 (``dequeue_load_avg()``)."""
    avg = cfs.avg
    avg.load_avg = max(avg.load_avg - p.avg.load_avg, 0)
    avg.load_sum = max(avg.load_sum - (p.weight >> 10) * p.avg.load_sum, 0)


def enqueue_runnable_load_avg(cfs: CfsRq, p: Task) -> None:
    """Add a task that is being queued to the runnable load (``enqueue_runnable_load_avg()``, ≤ 5.6)."""
    if cfs.counts_tasks:
        return
    cfs.avg.runnable_avg += p.avg.load_avg
    cfs.avg.runnable_sum += (p.weight >> 10) * p.avg.load_sum


def dequeue_runnable_load_avg(cfs: CfsRq, p: Task) -> None:
    """Take a task off the runnable load, never below 0 (``dequeue_runnable_load_avg()``, ≤ 5.6)."""
    if cfs.counts_tasks:
        return
    avg = cfs.avg
    own = p.avg
    rest = avg.runnable_avg - own.load_avg
    avg.runnable_avg = rest if rest > 0 else 0
    rest = avg.runnable_sum - (p.weight >> 10) * own.load_sum
    avg.runnable_sum = rest if rest > 0 else 0


def attach_entity_load_avg(cfs: CfsRq, p: Task) -> None:
    """Give a task's averages to an aged runqueue (``attach_entity_load_avg()``)."""
    avg = p.avg
    divider = DIVIDER + cfs.avg.period_contrib
    avg.last_update_time = cfs.avg.last_update_time
    assert avg.last_update_time, "0 means detached"
    avg.period_contrib = cfs.avg.period_contrib
    # The sums are rebuilt from the averages, because the phase of the old CPU was another one.
    weight = p.weight >> 10
    avg.util_sum = avg.util_avg * divider
    avg.load_sum = avg.load_avg * divider // weight if weight else divider
    avg.runnable_sum = avg.runnable_avg * divider
    enqueue_load_avg(cfs, p)
    cfs.avg.util_avg += avg.util_avg
    cfs.avg.util_sum += avg.util_sum
    if cfs.counts_tasks:
        cfs.avg.runnable_avg += avg.runnable_avg
        cfs.avg.runnable_sum += avg.runnable_sum


def detach_entity_load_avg(cfs: CfsRq, p: Task) -> None:
    """Take an aged task's averages from an aged runqueue (``detach_entity_load_avg()``)."""
    dequeue_load_avg(cfs, p)
    avg = cfs.avg
    avg.util_avg = max(avg.util_avg - p.avg.util_avg, 0)
    avg.util_sum = max(avg.util_sum - p.avg.util_sum, 0)
    if cfs.counts_tasks:
        avg.runnable_avg = max(avg.runnable_avg - p.avg.runnable_avg, 0)
        avg.runnable_sum = max(avg.runnable_sum - p.avg.runnable_sum, 0)


def attach_entity_cfs_rq(rq: Rq, p: Task) -> None:
    """Age a runqueue and attach a task to it (``attach_entity_cfs_rq()``)."""
    if p.avg.last_update_time:
        update_load_avg_se(p, rq.clock_task, rq.cfs.curr is p)
    update_cfs_rq_load_avg(rq.cfs, rq.clock_task)
    attach_entity_load_avg(rq.cfs, p)


def detach_entity_cfs_rq(rq: Rq, p: Task) -> None:
    """Age a task and its runqueue and detach it (``detach_entity_cfs_rq()``)."""
    assert p.avg.last_update_time, "detached twice"
    update_load_avg(rq.cfs, p, rq.clock_task)
    detach_entity_load_avg(rq.cfs, p)


def sync_entity_load_avg(cfs: CfsRq, p: Task) -> None:
    """Age a sleeping task to its runqueue's last update (``sync_entity_load_avg()``)."""
    assert not p.on_rq, "only a blocked task is aged this way"
    # The kernel's blocked update does not touch the estimate's unchanged flag.
    unchanged = p.avg.util_est_unchanged
    update_load_avg_se(p, cfs.avg.last_update_time, False)
    p.avg.util_est_unchanged = unchanged


def remove_entity_load_avg(cfs: CfsRq, p: Task) -> None:
    """Park a sleeping task's averages for subtraction later (``remove_entity_load_avg()``)."""
    if not p.avg.last_update_time:
        return  # A thread that was created asleep has never been attached.
    sync_entity_load_avg(cfs, p)
    cfs.removed_nr += 1
    cfs.removed_load_avg += p.avg.load_avg
    cfs.removed_util_avg += p.avg.util_avg
    cfs.removed_runnable_avg += p.avg.runnable_avg


# -- New tasks -------------------------------------------------------------------------------------


def init_entity_runnable_average(p: Task) -> None:
    """Give a new task its full load and no history (``init_entity_runnable_average()``)."""
    p.avg = SchedAvg()
    p.avg.load_avg = p.weight >> 10


def post_init_entity_util_avg(rq: Rq, p: Task) -> None:
    """Guess a new task's utilisation on the CPU chosen for it and attach it.

    Half of what the CPU has left at most (``post_init_entity_util_avg()``).
    """
    avg = rq.cfs.avg
    cap = (CAPACITY_SCALE - avg.util_avg) // 2
    if cap > 0:
        p.avg.util_avg = cap
        if avg.util_avg:
            # With the full weight, up to v6.6, nearly every task starts at cap.
            weight = p.weight >> 10 if rq.rules.new_task_util_scaled else p.weight
            p.avg.util_avg = min(avg.util_avg * weight // (avg.load_avg + 1), cap)
    p.avg.runnable_avg = p.avg.util_avg
    if p.sched_class == FAIR_CLASS:
        attach_entity_cfs_rq(rq, p)
    else:
        # As if it had been attached and had left: one day it may join (switched_to_fair()).
        p.avg.last_update_time = rq.cfs.avg.last_update_time


# -- What others read ------------------------------------------------------------------------------


def cpu_util(rq: Rq) -> int:
    """Return a CPU's utilisation, estimates included, 0…1024 (``cpu_util()``)."""
    avg = rq.cfs.avg
    util = avg.util_avg
    if rq.tun.util_est and avg.util_est_enqueued > util:
        util = avg.util_est_enqueued
    return min(util, CAPACITY_SCALE)


def cpu_runnable_load(rq: Rq) -> int:
    """Return a CPU's queued load, blocked tasks left out (``cpu_runnable_load()``, 5.4)."""
    return rq.cfs.avg.runnable_avg


def cpu_load(rq: Rq) -> int:
    """Return the load of a CPU, blocked tasks included (``cpu_load()``, since v5.5)."""
    return rq.cfs.avg.load_avg


def task_h_load(p: Task, rq: Rq | None = None, jiffies: int = 0) -> int:
    """Return a task's load as the balancer counts it (``task_h_load()``).

    With its runqueue, as a kernel with CONFIG_FAIR_GROUP_SCHED computes it: scaled by the
    runqueue's load as it was at the first use in this jiffy.  Without, as a flat kernel does.
    """
    if rq is None:
        return p.avg.load_avg
    cfs = rq.cfs
    if cfs.last_h_load_update != jiffies:
        cfs.last_h_load_update = jiffies
        cfs.h_load = cfs.avg.load_avg
    return p.avg.load_avg * cfs.h_load // (cfs.avg.load_avg + 1)


def update_blocked_averages(rq: Rq) -> None:
    """Age a runqueue whose tasks may all sleep, clock updated (``update_blocked_averages()``)."""
    update_cfs_rq_load_avg(rq.cfs, rq.clock_task)
    update_irq_load_avg(rq, 0)
    if rq.avg_rt.util_sum:
        update_rt_rq_load_avg(rq, rq.curr.sched_class == RT_CLASS)


# -- Interrupt and real time, and capacity ---------------------------------------------------------


def update_irq_load_avg(rq: Rq, irq_ns: int) -> None:
    """Count the last ``irq_ns`` before ``rq.clock`` as interrupt time (``update_irq_load_avg()``).

    Costs nothing and stays 0 as long as no interrupt time is accounted.
    """
    avg = rq.avg_irq
    if not irq_ns and not avg.util_sum:
        return
    crossed = _update_time_sum(avg, rq.clock - irq_ns, False)
    crossed |= _update_time_sum(avg, rq.clock, True)
    if crossed:
        avg.util_avg = avg.util_sum // (DIVIDER + avg.period_contrib)


def update_rt_rq_load_avg(rq: Rq, running: bool) -> None:
    """Age the real-time class's signal; ``running``: it ran since (``update_rt_rq_load_avg()``)."""
    avg = rq.avg_rt
    if _update_time_sum(avg, rq.clock_task, running):
        avg.util_avg = avg.util_sum // (DIVIDER + avg.period_contrib)


def _update_time_sum(avg: SchedAvg, now: int, running: bool) -> bool:
    units = (now - avg.last_update_time) >> 10
    if units <= 0:
        if units:
            avg.last_update_time = now
        return False
    avg.last_update_time += units << 10
    phase = avg.period_contrib
    periods, avg.period_contrib = divmod(phase + units, 1024)
    if periods:
        avg.util_sum = decay_load(avg.util_sum, periods)
        units = accumulate_pelt_segments(periods, 1024 - phase, avg.period_contrib)
    if running:
        avg.util_sum += units << 10
    return periods > 0


def scale_rt_capacity(rq: Rq) -> int:
    """Return what interrupts and real-time tasks leave for fair ones, 1…1024 (``scale_rt_capacity()``)."""
    free = max(CAPACITY_SCALE - rq.avg_rt.util_avg, 0)
    return max(free * (CAPACITY_SCALE - rq.avg_irq.util_avg) // CAPACITY_SCALE, 1)
