"""Estimated utilisation, by version (B.5)."""

from __future__ import annotations

import pytest

from emulator.kernel import fair, pelt, util_est
from emulator.kernel.sched import DEQUEUE_SLEEP, ENQUEUE_WAKEUP, Rq, Task, Tunables
from emulator.rules import rules_of

PERIOD = 1024 * 1024


def make_rq(version: str = "5.4") -> Rq:
    tun = Tunables()
    fair.update_sysctl(tun, 8)
    return Rq(0, tun, fair.FAIR_SCHED_CLASS, rules_of(version))


def make_task() -> Task:
    p = Task(1, "task")
    fair.set_load_weight(p)
    fair.init_entity_runnable_average(p)
    return p


def start(rq: Rq, p: Task) -> None:
    fair.task_fork_fair(rq, None, p)
    fair.post_init_entity_util_avg(rq, p)
    fair.enqueue_task_fair(rq, p, 0)


def slept(version: str, enqueued: int, ewma: int, util: int, runnable: int = 0) -> tuple[int, int]:
    """Let a task with these averages go to sleep; return its estimate and the average of it."""
    rq = make_rq(version)
    p = make_task()
    start(rq, p)
    p.avg.util_est_enqueued, p.avg.util_est_ewma = enqueued, ewma
    p.avg.util_avg, p.avg.runnable_avg = util, runnable
    rq.cfs.avg.util_est_enqueued = util_est.task_util_est_raw(rq, p)
    fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
    assert rq.cfs.avg.util_est_enqueued == 0, "what was added has left"
    return p.avg.util_est_enqueued, p.avg.util_est_ewma


@pytest.mark.parametrize(
    ("version", "adds"), [("5.4", 1), ("5.6", 1), ("5.10", 1), ("5.15", 0), ("6.12", 0)]
)
def test_a_task_without_history_adds_the_flag_bit(version: str, adds: int) -> None:
    rq = make_rq(version)
    start(rq, make_task())
    assert rq.cfs.avg.util_est_enqueued == adds


def test_an_estimate_is_taken_at_sleep_and_not_while_unchanged() -> None:
    rq = make_rq()
    p = make_task()
    start(rq, p)
    p.avg.util_avg = 400
    fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
    assert (p.avg.util_est_enqueued, p.avg.util_est_ewma) == (401, 100)
    assert p.avg.util_est_unchanged
    fair.enqueue_task_fair(rq, p, ENQUEUE_WAKEUP)
    assert rq.cfs.avg.util_est_enqueued == 401
    assert fair.cpu_util(rq) == max(401, rq.cfs.avg.util_avg)
    p.avg.util_avg = 300
    fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
    assert p.avg.util_est_enqueued == 401, "PELT has not recomputed util_avg in between"


def test_no_estimate_of_a_task_that_is_only_moved() -> None:
    rq = make_rq()
    p = make_task()
    start(rq, p)
    p.avg.util_avg = 400
    fair.dequeue_task_fair(rq, p, 0)
    assert (p.avg.util_est_enqueued, p.avg.util_est_ewma) == (0, 0)


def test_recomputed_util_clears_the_unchanged_flag() -> None:
    p = make_task()
    p.avg.util_est_unchanged = 1
    pelt.update_load_avg_se(p, PERIOD - 1024, False)
    assert p.avg.util_est_unchanged
    pelt.update_load_avg_se(p, PERIOD, False)
    assert not p.avg.util_est_unchanged


def test_ageing_a_sleeper_for_a_move_leaves_the_flag() -> None:
    rq = make_rq()
    p = make_task()
    start(rq, p)
    fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
    assert p.avg.util_est_unchanged
    fair.update_rq_clock(rq, 10 * PERIOD)
    pelt.update_blocked_averages(rq)
    fair.migrate_task_rq_fair(rq, p, True)
    assert p.avg.util_est_unchanged


@pytest.mark.parametrize(
    ("util", "stored"), [(408, False), (409, False), (410, True), (390, False), (389, True)]
)
def test_an_estimate_moves_by_one_percent_or_not_at_all(util: int, stored: bool) -> None:
    # 400 - (390 | 1) is within the margin, 400 - (389 | 1) is not.
    enqueued, ewma = slept("5.4", 300, 400, util)
    assert (enqueued == (util | 1)) is stored
    assert (ewma != 400) is stored


@pytest.mark.parametrize(("version", "ewma"), [("5.4", 500), ("5.6", 801), ("5.15", 800)])
def test_fastup(version: str, ewma: int) -> None:
    assert slept(version, 400, 400, 800)[1] == ewma


@pytest.mark.parametrize("version", ["5.4", "5.6", "5.15", "6.6"])
def test_a_fall_is_averaged_in_every_version(version: str) -> None:
    assert slept(version, 800, 800, 400)[1] == 700


def test_a_lasting_estimate_near_the_average_is_refreshed() -> None:
    # 395 is near the average of 400, far from the last estimate of 600.
    assert slept("5.10", 600, 400, 395) == (600, 400)
    assert slept("5.15", 600, 400, 395) == (395, 400)


@pytest.mark.parametrize(
    ("util", "runnable", "estimate"),
    [
        (900, 900, 900),  # it rises at once
        (795, 795, 800),  # within 1 %
        (400, 400, 700),  # it falls by a quarter
        (400, 409, 700),
        (400, 411, 800),  # it had to wait
    ],
)
def test_single_value(util: int, runnable: int, estimate: int) -> None:
    assert slept("6.12", 0, 800, util, runnable) == (0, estimate)


def test_an_overloaded_cpu_gives_no_estimate() -> None:
    assert slept("5.4", 300, 400, 1030) == (300, 400)
    assert slept("6.12", 0, 1100, 1030) == (0, 1100)
