"""Estimated utilisation: the ``util_est`` half of ``kernel/sched/fair.c``, v5.4 to v6.12.

Theory of operation
-------------------
A task's ``util_avg`` decays while it sleeps, and takes long to come back.  So what it was when the
task last went to sleep is kept (``util_est_enqueued``), and a slow average of that
(``util_est_ewma``, a quarter of each change); the larger of the two is the task's *estimate*.  A
runqueue sums the estimates of its queued tasks, and its utilisation is the larger of that sum and
of its ``util_avg``.

Nothing is estimated while ``util_avg`` is still the one of the last estimate
(``util_est_unchanged``, which PELT clears when it recomputes), nor where the estimate would move by
less than 1 % of a CPU.

What changed by version:

* Up to v5.12 the *unchanged* flag is bit 0 of the estimate itself and counted with it, so that even a
  task without history adds 1.
* ``util_est_fastup`` (5.5): a utilisation above the average is taken over at once.
* ``util_est_last_value`` (5.13): near the average, the estimate is still stored if it differs from
  the last one.
* ``util_est_single`` (6.8): there is only the average.  It rises at once and falls by a quarter,
  except after a stretch in which the task had to wait.

Departures from the kernel: the flag is kept beside the estimate, in every version.
"""

from __future__ import annotations

from emulator.kernel.pelt import CAPACITY_SCALE
from emulator.kernel.sched import Rq, Task

#: Bit 0 of an estimate, up to v5.12.
UTIL_AVG_UNCHANGED = 1
#: An estimate that would change by less than 1 % of a CPU is left alone.
UTIL_EST_MARGIN = CAPACITY_SCALE // 100


def task_util_est_raw(rq: Rq, p: Task) -> int:
    """Return a task's estimate as it is summed (``_task_util_est()``)."""
    avg = p.avg
    ewma = avg.util_est_ewma
    enqueued = avg.util_est_enqueued
    estimate = ewma if ewma > enqueued else enqueued
    return estimate if rq.rules.util_est_flag_apart else estimate | UTIL_AVG_UNCHANGED


def task_util_est(rq: Rq, p: Task) -> int:
    """Return the larger of a task's utilisation and its estimate (``task_util_est()``)."""
    return max(p.avg.util_avg, task_util_est_raw(rq, p))


def util_est_enqueue(rq: Rq, p: Task) -> None:
    """Add a task to be queued to its runqueue's sum (``util_est_enqueue()``)."""
    rq.cfs.avg.util_est_enqueued += task_util_est_raw(rq, p)


def util_est_dequeue(rq: Rq, p: Task, sleeps: bool) -> None:
    """Take a dequeued task off the sum, then estimate anew if it sleeps (``util_est_dequeue()``)."""
    avg = rq.cfs.avg
    rest = avg.util_est_enqueued - task_util_est_raw(rq, p)
    avg.util_est_enqueued = rest if rest > 0 else 0
    if sleeps and not p.avg.util_est_unchanged:
        if rq.rules.util_est_single:
            _update_single(p)
        else:
            util_est_update(rq, p)


def util_est_update(rq: Rq, p: Task) -> None:
    """Take a new estimate of a task that goes to sleep (``util_est_update()``, ≤ 6.7)."""
    rules = rq.rules
    avg = p.avg
    last, ewma = avg.util_est_enqueued, avg.util_est_ewma
    enqueued = avg.util_avg
    if not rules.util_est_flag_apart:
        enqueued |= UTIL_AVG_UNCHANGED
    if rules.util_est_fastup and ewma < enqueued:
        ewma = enqueued
    else:
        diff = enqueued - ewma
        if -UTIL_EST_MARGIN < diff < UTIL_EST_MARGIN:
            moved = abs(last - enqueued) >= UTIL_EST_MARGIN
            if not (rules.util_est_last_value and moved):
                return
        elif avg.util_avg > CAPACITY_SCALE:
            return
        else:
            ewma = (4 * ewma + diff) >> 2
    avg.util_est_enqueued = enqueued
    avg.util_est_ewma = ewma
    avg.util_est_unchanged = 1


# v6.8: one value.  It is not lowered after a stretch in which the task was kept from running.
def _update_single(p: Task) -> None:
    avg = p.avg
    ewma, dequeued = avg.util_est_ewma, avg.util_avg
    if ewma <= dequeued:
        avg.util_est_ewma = dequeued
    else:
        diff = ewma - dequeued
        had_to_wait = dequeued + UTIL_EST_MARGIN < avg.runnable_avg
        if diff >= UTIL_EST_MARGIN and dequeued > CAPACITY_SCALE:
            return
        if diff >= UTIL_EST_MARGIN and not had_to_wait:
            avg.util_est_ewma = (4 * ewma - diff) >> 2
    avg.util_est_unchanged = 1
