"""PELT: the worked examples of the spec, the flat updates against its pseudo-code, the moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.kernel import fair, pelt
from emulator.kernel.sched import (
    DEQUEUE_SLEEP,
    ENQUEUE_MIGRATED,
    ENQUEUE_WAKEUP,
    NICE_0_LOAD,
    Rq,
    SchedAvg,
    Task,
    Tunables,
)
from emulator.rules import rules_of

MS = 1_000_000
PERIOD = 1024 * 1024


def make_rq(cpu: int = 0, version: str = "5.4") -> Rq:
    tun = Tunables()
    fair.update_sysctl(tun, 8)
    return Rq(cpu, tun, fair.FAIR_SCHED_CLASS, rules_of(version))


def make_task(pid: int = 1, nice: int = 0) -> Task:
    p = Task(pid, f"task{pid}", nice)
    fair.set_load_weight(p)
    fair.init_entity_runnable_average(p)
    return p


def blank_task() -> Task:
    """A nice-0 task without load, util or history."""
    p = make_task()
    p.avg = SchedAvg()
    return p


def start(rq: Rq, p: Task, now_ns: int = 0) -> None:
    fair.update_rq_clock(rq, now_ns)
    fair.task_fork_fair(rq, None, p)
    fair.post_init_entity_util_avg(rq, p)
    fair.enqueue_task_fair(rq, p, 0)


# -- B.7 -------------------------------------------------------------------------------------------


def test_example_B_7_1_decay() -> None:
    assert pelt.decay_load(47742, 1) == 46718
    assert pelt.decay_load(47742, 32) == 23870
    assert pelt.decay_load(1024, 1) == 1002
    assert pelt.decay_load(1000000, 33) == 489286
    assert pelt.decay_load(1024, 10) == 824
    assert pelt.decay_load(1 << 62, 2017) == 0


def test_example_B_7_2_segments() -> None:
    assert pelt.accumulate_pelt_segments(1, 512, 100) == 601
    assert pelt.accumulate_pelt_segments(5, 512, 100) == 4436


def ramp(tick_ns: int, until_ms: int) -> dict[int, int]:
    p = blank_task()
    p.on_rq = 1
    utils: dict[int, int] = {}
    for now in range(tick_ns, until_ms * MS + 1, tick_ns):
        pelt.update_load_avg_se(p, now, True)
        assert abs(p.avg.util_avg - p.avg.load_avg) <= 1
        utils[now // MS] = p.avg.util_avg
    return utils


RAMP_MS = (4, 8, 16, 20, 32, 64, 100, 128, 200, 300, 500)
RAMP_1000 = (81, 156, 288, 346, 495, 751, 894, 951, 1008, 1022, 1024)
RAMP_250 = (81, 156, 288, 346, 495, 751, 894, 951, 1007, 1021, 1023)


@pytest.mark.parametrize(("tick_ns", "expected"), [(MS, RAMP_1000), (4 * MS, RAMP_250)])
def test_example_B_7_3_ramp(tick_ns: int, expected: tuple[int, ...]) -> None:
    utils = ramp(tick_ns, 500)
    assert tuple(utils[ms] for ms in RAMP_MS) == expected


def test_example_B_7_3_overload_threshold() -> None:
    utils = ramp(MS, 100)
    assert min(ms for ms, util in utils.items() if util >= 876) == 94


def full_task(phase: int) -> Task:
    p = blank_task()
    p.avg.period_contrib = phase
    p.avg.util_sum = 1024 * (46718 + phase)
    p.avg.util_avg = 1024
    return p


@pytest.mark.parametrize(
    ("ms", "util"),
    [
        (1, 1003),
        (4, 943),
        (8, 868),
        (10, 833),
        (16, 736),
        (32, 528),
        (64, 273),
        (100, 129),
        (345, 0),
    ],
)
def test_example_B_7_4_decay_after_blocking(ms: int, util: int) -> None:
    p = blank_task()
    p.on_rq = 1
    for now in range(MS, 500 * MS + 1, MS):
        pelt.update_load_avg_se(p, now, True)
    assert p.avg.util_avg == 1024
    p.on_rq = 0
    pelt.update_load_avg_se(p, (500 + ms) * MS, False)
    assert p.avg.util_avg == util


def test_example_B_7_4_no_boundary_no_change() -> None:
    p = full_task(phase=0)
    pelt.update_load_avg_se(p, MS, False)
    assert p.avg.util_avg == 1024


def test_example_B_7_5_on_off() -> None:
    p = blank_task()
    ends: list[tuple[int, int]] = []
    for cycle in range(100):
        for ms in range(1, 5):
            p.on_rq = 1
            pelt.update_load_avg_se(p, (cycle * 10 + ms) * MS, True)
        on = p.avg.util_avg
        p.on_rq = 0
        pelt.update_load_avg_se(p, (cycle * 10 + 10) * MS, False)
        ends.append((on, p.avg.util_avg))
    # Where a period boundary falls next to an end of a phase, single cycles differ.
    assert ends.count((435, 384)) > 60
    assert ends[-1] == (435, 384)


@pytest.mark.parametrize(
    ("util", "load", "expected"),
    [
        (0, 0, 512),
        (10, 1000, 507),
        (200, 300, 412),
        (512, 1024, 256),
        (1000, 1024, 12),
        (1024, 1024, 0),
        (1024, 0, 0),
    ],
)
def test_example_B_7_6_initial_util(util: int, load: int, expected: int) -> None:
    rq = make_rq()
    rq.cfs.avg.util_avg = util
    rq.cfs.avg.load_avg = load
    p = make_task()
    pelt.post_init_entity_util_avg(rq, p)
    assert p.avg.util_avg == expected
    assert p.avg.load_avg == 1024


@pytest.mark.parametrize(("version", "expected"), [("5.4", 507), ("6.6", 507), ("6.12", 10)])
def test_example_B_7_6_initial_util_by_version(version: str, expected: int) -> None:
    rq = make_rq(version=version)
    rq.cfs.avg.util_avg = 10
    rq.cfs.avg.load_avg = 1000
    p = make_task()
    pelt.post_init_entity_util_avg(rq, p)
    assert p.avg.util_avg == p.avg.runnable_avg == expected
    gained = expected if rq.rules.runnable_avg else 0
    assert rq.cfs.avg.runnable_avg == gained


# -- The flat updates against the pseudo-code of B.2 --------------------------------------------


def reference_update(
    avg: SchedAvg,
    now: int,
    weight: int,
    load: int,
    runnable: int,
    running: int,
    counts: bool = True,
) -> None:
    """B.2, written as the spec writes it; ``counts``: the runnable sum is that of v5.7 and later."""
    delta = now - avg.last_update_time
    if delta < 0:
        avg.last_update_time = now
        return
    delta >>= 10
    if delta == 0:
        return
    avg.last_update_time += delta << 10
    if load == 0:
        runnable = running = 0
    contrib = delta
    phase = avg.period_contrib
    delta += phase
    periods = delta // 1024
    if periods:
        avg.load_sum = pelt.decay_load(avg.load_sum, periods)
        avg.runnable_sum = pelt.decay_load(avg.runnable_sum, periods)
        avg.util_sum = pelt.decay_load(avg.util_sum, periods)
        delta %= 1024
        first = 1024 - phase
        middle = 47742 - pelt.decay_load(47742, periods) - 1024
        contrib = pelt.decay_load(first, periods) + middle + delta
    avg.period_contrib = delta
    avg.load_sum += load * contrib
    avg.runnable_sum += (runnable * contrib) << (10 if counts else 0)
    if running:
        avg.util_sum += contrib << 10
    if periods:
        divider = 46718 + avg.period_contrib
        avg.load_avg = weight * avg.load_sum // divider
        avg.runnable_avg = avg.runnable_sum // divider
        avg.util_avg = avg.util_sum // divider


INTERVALS = st.one_of(
    st.integers(0, 3 * 1024), st.integers(0, 5 * PERIOD), st.integers(0, 3000 * PERIOD)
)
STEPS = st.lists(st.tuples(INTERVALS, st.sampled_from([0, 1, 2])), max_size=30)


@given(steps=STEPS, nice=st.integers(-20, 19))
def test_entity_update_is_that_of_the_spec(steps: list[tuple[int, int]], nice: int) -> None:
    p = make_task(nice=nice)
    p.avg = SchedAvg()
    reference = SchedAvg()
    now = 0
    for interval, state in steps:
        now += interval
        p.on_rq = int(state > 0)
        pelt.update_load_avg_se(p, now, state == 2)
        reference_update(reference, now, p.weight >> 10, p.on_rq, p.on_rq, int(state == 2))
        assert p.avg.pack() == reference.pack()


@given(
    steps=STEPS,
    weight=st.integers(3, 100_000),
    tasks=st.integers(1, 9),
    version=st.sampled_from(["5.4", "5.10"]),
)
def test_cfs_update_is_that_of_the_spec(
    steps: list[tuple[int, int]], weight: int, tasks: int, version: str
) -> None:
    rules = rules_of(version)
    cfs = make_rq(version=version).cfs
    reference = SchedAvg()
    reference.unpack(cfs.avg.pack())
    now = 0
    for interval, state in steps:
        now += interval
        cfs.load_weight = (weight << 10) if state else 0
        cfs.nr_running = tasks if state else 0
        cfs.curr = make_task() if state == 2 else None
        pelt.update_cfs_rq_load_avg(cfs, now)
        load = cfs.load_weight >> 10
        runnable = cfs.nr_running if rules.runnable_avg else load
        running = int(state == 2)
        reference_update(reference, now, 1, load, runnable, running, rules.runnable_avg)
        assert cfs.avg.pack() == reference.pack()


def test_time_that_runs_backwards_only_resets_the_time() -> None:
    p = full_task(phase=100)
    p.avg.last_update_time = 10 * MS
    pelt.update_load_avg_se(p, 9 * MS, False)
    assert p.avg.last_update_time == 9 * MS
    assert (p.avg.util_avg, p.avg.period_contrib) == (1024, 100)


def test_less_than_one_unit_is_left_for_later() -> None:
    p = full_task(phase=100)
    pelt.update_load_avg_se(p, 1023, True)
    assert p.avg.last_update_time == 0
    pelt.update_load_avg_se(p, 1024, True)
    assert p.avg.last_update_time == 1024


# -- Attach, detach, migration -------------------------------------------------------------------


def test_attach_at_time_zero_counts_once() -> None:
    rq = make_rq()
    p = make_task()
    start(rq, p, 0)
    assert p.avg.last_update_time != 0
    assert rq.cfs.avg.load_avg == 1024
    assert rq.cfs.avg.runnable_avg == 1024


def test_blocked_task_stays_attached_but_not_runnable() -> None:
    rq = make_rq()
    p = make_task()
    start(rq, p)
    fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
    assert rq.cfs.avg.load_avg == 1024
    assert rq.cfs.avg.runnable_avg == 0
    fair.update_rq_clock(rq, 32 * PERIOD + 1024)
    pelt.update_blocked_averages(rq)
    assert rq.cfs.avg.load_avg == pytest.approx(512, abs=2)


def test_wakeup_migration_parks_the_load_until_the_next_update() -> None:
    old, new = make_rq(0), make_rq(1)
    p = make_task()
    start(old, p)
    fair.dequeue_task_fair(old, p, DEQUEUE_SLEEP)
    fair.update_rq_clock(old, 10 * MS)
    fair.migrate_task_rq_fair(old, p, True)
    assert p.avg.last_update_time == 0
    assert p.exec_start == 0
    assert (old.cfs.removed_nr, old.cfs.removed_load_avg) == (1, p.avg.load_avg)
    assert old.cfs.avg.load_avg == 1024, "the old CPU has not looked yet"
    fair.update_rq_clock(new, 10 * MS)
    fair.enqueue_task_fair(new, p, ENQUEUE_WAKEUP | ENQUEUE_MIGRATED)
    assert new.cfs.avg.load_avg == p.avg.load_avg
    pelt.update_blocked_averages(old)
    assert (old.cfs.avg.load_avg, old.cfs.avg.util_avg) == (0, 0)
    assert old.cfs.removed_nr == 0


def test_wakeup_migration_ages_to_the_last_update_of_the_old_cpu() -> None:
    rq = make_rq()
    p, other = make_task(1), make_task(2)
    start(rq, p)
    start(rq, other)
    fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
    fair.update_rq_clock(rq, 32 * PERIOD)
    fair.dequeue_task_fair(rq, other, DEQUEUE_SLEEP)  # updates the runqueue, not p
    fair.update_rq_clock(rq, 64 * PERIOD)
    fair.migrate_task_rq_fair(rq, p, True)
    assert p.avg.load_avg == pytest.approx(512, abs=2)


def test_a_thread_created_asleep_has_no_load_to_leave_behind() -> None:
    rq = make_rq()
    p = make_task()
    fair.migrate_task_rq_fair(rq, p, True)
    assert rq.cfs.removed_nr == 0
    assert p.avg.load_avg == 1024
    fair.reweight_task(rq, p, -20)
    assert (p.avg.load_avg, rq.cfs.avg.load_avg) == (88761, 0)


def test_a_dead_task_leaves_no_load() -> None:
    rq = make_rq()
    p = make_task()
    start(rq, p)
    fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
    fair.task_dead_fair(rq, p)
    pelt.update_blocked_averages(rq)
    assert (rq.cfs.avg.load_avg, rq.cfs.avg.util_avg) == (0, 0)


def test_balance_migration_detaches_at_once() -> None:
    rq = make_rq()
    p = make_task()
    start(rq, p)
    fair.update_rq_clock(rq, 5 * MS)
    fair.dequeue_task_fair(rq, p, 0)
    fair.migrate_task_rq_fair(rq, p, False)
    assert rq.cfs.removed_nr == 0
    assert (rq.cfs.avg.load_avg, rq.cfs.avg.util_avg) == (0, 0)
    assert p.avg.last_update_time == 0


def test_runnable_avg_counts_waiting_tasks_whatever_their_weight() -> None:
    rq = make_rq(version="5.10")
    tasks = [make_task(1, 19), make_task(2, 0), make_task(3, -20)]
    for p in tasks:
        start(rq, p)
    for ms in range(1, 500):
        fair.update_rq_clock(rq, ms * MS)
        pelt.update_blocked_averages(rq)
        for p in tasks:
            pelt.update_load_avg_se(p, rq.clock_task, False)
    assert rq.cfs.avg.runnable_avg == pytest.approx(3 * 1024, abs=4)
    assert [p.avg.runnable_avg for p in tasks] == pytest.approx([1024] * 3, abs=2)
    assert rq.cfs.avg.util_avg == 0


def test_runnable_avg_keeps_a_sleeper_and_leaves_with_it() -> None:
    old, new = make_rq(0, "5.10"), make_rq(1, "5.10")
    p = make_task()
    start(old, p)
    fair.update_rq_clock(old, 100 * MS)
    fair.dequeue_task_fair(old, p, DEQUEUE_SLEEP)
    assert old.cfs.avg.runnable_avg == pytest.approx(p.avg.runnable_avg, abs=2)
    assert p.avg.runnable_avg > 800
    fair.migrate_task_rq_fair(old, p, True)
    assert old.cfs.removed_runnable_avg == p.avg.runnable_avg
    pelt.update_blocked_averages(old)
    assert old.cfs.avg.runnable_avg <= 2
    fair.update_rq_clock(new, 100 * MS)
    fair.enqueue_task_fair(new, p, ENQUEUE_WAKEUP | ENQUEUE_MIGRATED)
    assert new.cfs.avg.runnable_avg == p.avg.runnable_avg
    assert p.avg.runnable_sum == p.avg.runnable_avg * (46718 + new.cfs.avg.period_contrib)


def test_runnable_avg_of_a_balance_migration_leaves_at_once() -> None:
    rq = make_rq(version="5.10")
    p = make_task()
    start(rq, p)
    fair.update_rq_clock(rq, 50 * MS)
    fair.dequeue_task_fair(rq, p, 0)
    fair.migrate_task_rq_fair(rq, p, False)
    assert rq.cfs.avg.runnable_avg <= 1
    assert rq.cfs.removed_nr == 0


@pytest.mark.parametrize(("version", "blocked"), [("5.4", 0), ("5.6", 0), ("5.10", 512)])
def test_what_the_runnable_average_of_a_sleepers_queue_is(version: str, blocked: int) -> None:
    rq = make_rq(version=version)
    p = make_task()
    start(rq, p)
    fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
    assert rq.cfs.avg.runnable_avg == blocked
    assert fair.cpu_load(rq) == 1024, "cpu_load() includes blocked tasks"


# -- Update points of B.2 --------------------------------------------------------------------------


def test_a_switch_ages_prev_as_running_and_next_as_waiting() -> None:
    rq = make_rq()
    b, a = make_task(1), make_task(2)
    start(rq, b)
    start(rq, a)
    # The second is to the left: a slice of two is shorter than a slice of one.
    assert fair.pick_next_task_fair(rq, rq.idle) is a
    rq.curr = a
    util_a, util_b = a.avg.util_avg, b.avg.util_avg
    fair.update_rq_clock(rq, 20 * MS)
    fair.update_curr(rq)
    assert a.avg.util_avg == util_a, "charging alone does not age"
    assert fair.pick_next_task_fair(rq, a) is b
    assert a.avg.last_update_time == b.avg.last_update_time == rq.cfs.avg.last_update_time > 19 * MS
    assert a.avg.util_avg > util_a
    assert b.avg.util_avg < util_b
    assert b.avg.load_avg >= 1022, "it waited, which is load"


def test_an_enqueue_ages_the_past_interval_as_blocked() -> None:
    rq = make_rq()
    p = make_task()
    start(rq, p)
    fair.dequeue_task_fair(rq, p, DEQUEUE_SLEEP)
    fair.update_rq_clock(rq, 32 * PERIOD)
    fair.enqueue_task_fair(rq, p, ENQUEUE_WAKEUP)
    assert p.avg.load_avg == pytest.approx(512, abs=2)
    assert rq.cfs.avg.load_avg == pytest.approx(512, abs=2)
    assert rq.cfs.avg.runnable_avg == p.avg.load_avg


# -- What others read ------------------------------------------------------------------------------


def test_cpu_util_is_at_most_the_capacity() -> None:
    rq = make_rq()
    rq.cfs.avg.util_est_enqueued = 3000
    assert fair.cpu_util(rq) == 1024
    rq.tun.util_est = False
    assert fair.cpu_util(rq) == 0


def test_h_load_of_a_lone_task_counts_1023() -> None:
    rq = make_rq()
    p = make_task()
    start(rq, p)
    assert fair.task_h_load(p) == 1024
    assert fair.task_h_load(p, rq) == 1023


def test_h_load_is_sampled_once_per_jiffy() -> None:
    rq = make_rq()
    p = make_task()
    assert fair.task_h_load(p, rq) == 0, "sampled on an empty queue"
    start(rq, p)
    assert fair.task_h_load(p, rq) == 0
    assert fair.task_h_load(p, rq, 1) == 1023


def test_interrupt_time_is_not_task_time_and_lowers_the_capacity() -> None:
    rq = make_rq()
    for ms in range(1, 401):
        rq.irq_time += MS // 2
        fair.update_rq_clock(rq, ms * MS)
    assert rq.clock_task == 200 * MS
    assert rq.avg_irq.util_avg == pytest.approx(512, abs=15)
    assert pelt.scale_rt_capacity(rq) == 1024 - rq.avg_irq.util_avg


def test_nice_0_load_tops_out_at_its_weight() -> None:
    assert make_task().weight == NICE_0_LOAD
    p = make_task(nice=-20)
    p.avg = SchedAvg()
    p.on_rq = 1
    loads: list[int] = []
    for ms in range(1, 1001):
        pelt.update_load_avg_se(p, ms * MS, False)
        loads.append(p.avg.load_avg)
    # 88,760 within the rounding of one phase.
    assert max(loads) in (88759, 88760, 88761)
    assert min(loads[900:]) >= 88759
    assert p.avg.util_avg == 0
