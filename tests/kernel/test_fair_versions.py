"""What later versions changed in CFS, each rule both ways (A.3 to A.11)."""

from __future__ import annotations

import pytest

from emulator.kernel import fair
from emulator.kernel.fair_entity import LONG_SLEEP_NS
from emulator.kernel.fair_tunables import sched_proc_update_handler
from emulator.kernel.sched import (
    ENQUEUE_MIGRATED,
    ENQUEUE_WAKEUP,
    SCHED_BATCH,
    SCHED_IDLE,
    SCHED_NORMAL,
)
from emulator.rules import FEATURES, rules_of
from emulator.tracepoints import (
    PREEMPT_IDLE_POLICY,
    PREEMPT_TICK_SLICE,
    PREEMPT_WAKEUP,
)
from emulator.types import KernelSpec
from tests.kernel.fairqueue import (
    MS,
    asleep,
    make_task,
    queue,
    running,
    switch,
    tick,
    version_rq,
    wake,
)

CFS_VERSIONS = ("5.4", "5.6", "5.10", "5.15", "6.1")

# -- Slices (A.4) ----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", CFS_VERSIONS)
def test_example_A_13_2_light_task_gets_a_base_slice(version: str) -> None:
    rq = version_rq(version)
    tasks = [make_task(1), make_task(2, 19)]
    queue(rq, *tasks)
    assert fair.sched_slice(rq, tasks[0]) == 23_653_512
    least = 3 * MS if version in ("5.15", "6.1") else 346_487
    assert fair.sched_slice(rq, tasks[1]) == least


@pytest.mark.parametrize(("version", "least"), [("5.15", 750_000), ("6.1", 750_000)])
def test_an_idle_task_beside_others_gets_a_shorter_base_slice(version: str, least: int) -> None:
    rq = version_rq(version)
    idle = make_task(2, policy=SCHED_IDLE)
    queue(rq, make_task(1), idle)
    assert fair.sched_slice(rq, idle) == least
    rq = version_rq(version, base_slice_idle_min=False)
    queue(rq, make_task(1), idle := make_task(2, policy=SCHED_IDLE))
    assert fair.sched_slice(rq, idle) == 3 * MS


def test_idle_tasks_among_themselves_get_the_common_base_slice() -> None:
    rq = version_rq("5.15")
    idle = [make_task(pid, policy=SCHED_IDLE) for pid in range(1, 30)]
    queue(rq, *idle)
    assert fair.sched_slice(rq, idle[0]) == 3 * MS


def test_a_new_task_s_slice_counts_itself() -> None:
    rq = version_rq("5.15")
    queue(rq, make_task(1))
    assert fair.sched_slice(rq, make_task(2, 19)) == 3 * MS
    rq = version_rq("5.4")
    queue(rq, make_task(1))
    assert fair.sched_slice(rq, make_task(2, 19)) == 346_487


def test_base_slice_can_be_switched_off() -> None:
    rq = version_rq("5.15")
    fair.sched_feat_set(rq.tun, "BASE_SLICE", False)
    tasks = [make_task(1), make_task(2, 19)]
    queue(rq, *tasks)
    assert fair.sched_slice(rq, tasks[1]) == 346_487


@pytest.mark.parametrize(("capped", "fires_at"), [(False, 50), (True, 25)])
def test_the_tick_caps_the_slice_by_the_latency(capped: bool, fires_at: int) -> None:
    # Twenty tasks share 60 ms, of which the heavy one has 88761 / 108217, or 49.2 ms.
    rq = version_rq("6.1", slice_latency_cap=capped)
    heavy = make_task(1, -20)
    running(rq, heavy, 0)
    others = [make_task(pid, 0) for pid in range(2, 21)]
    queue(rq, *others)
    for p in others:
        p.vruntime = 10**12  # far to the right: only the slice can end
    rq.cfs.tree[:] = sorted((p.vruntime, p.tree_order, p) for p in others)
    answers = {ms: tick(rq, ms * MS) for ms in range(1, 61) if not rq.need_resched}
    assert max(answers) == fires_at
    assert answers[fires_at] == PREEMPT_TICK_SLICE


# -- Placement (A.5) -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "policy", "credit"),
    [
        ("5.15", SCHED_IDLE, 12_000_000),
        ("6.1", SCHED_IDLE, 1_500_000),
        ("6.1", SCHED_NORMAL, 12_000_000),
        ("6.1", SCHED_BATCH, 12_000_000),
    ],
)
def test_credit_of_a_sleeper_by_policy(version: str, policy: int, credit: int) -> None:
    rq = version_rq(version)
    p = make_task(1, policy=policy)
    asleep(rq, p, 0)
    rq.cfs.min_vruntime = 100 * MS
    fair.enqueue_task_fair(rq, p, ENQUEUE_WAKEUP)
    assert p.vruntime == 100 * MS - credit


def test_credit_of_an_idle_sleeper_without_gentle_sleepers() -> None:
    rq = version_rq("6.1")
    rq.tun.gentle_fair_sleepers = False
    p = make_task(1, policy=SCHED_IDLE)
    rq.cfs.min_vruntime = 100 * MS
    fair.place_entity(rq, p, False)
    assert p.vruntime == 97 * MS


@pytest.mark.parametrize(
    ("rule", "slept_ns", "placed"),
    [
        (False, LONG_SLEEP_NS + 1, 900 * MS),
        (True, LONG_SLEEP_NS + 1, 88 * MS),
        (True, LONG_SLEEP_NS, 900 * MS),
    ],
)
def test_a_very_long_sleeper_is_placed_without_comparing(
    rule: bool, slept_ns: int, placed: int
) -> None:
    rq = version_rq("6.1", place_long_sleeper=rule)
    p = make_task(1)
    asleep(rq, p, 900 * MS)
    p.exec_start = 5
    rq.cfs.min_vruntime = 100 * MS
    rq.clock_task = 5 + slept_ns
    fair.place_entity(rq, p, False)
    assert p.vruntime == placed


def test_a_task_that_was_moved_is_no_long_sleeper() -> None:
    rq = version_rq("6.1", place_long_sleeper=True)
    p = make_task(1)
    rq.clock_task = LONG_SLEEP_NS * 2
    p.vruntime = 900 * MS
    fair.place_entity(rq, p, False)
    assert p.vruntime == 900 * MS, "its exec_start is 0"


@pytest.mark.parametrize(("version", "kept"), [("5.4", False), ("5.15", True), ("6.1", False)])
def test_exec_start_of_a_task_on_its_way(version: str, kept: bool) -> None:
    old, new = version_rq(version), version_rq(version, cpu=1)
    p = make_task(1)
    asleep(old, p, 0)
    p.exec_start = 7 * MS
    fair.migrate_task_rq_fair(old, p, True)
    assert bool(p.exec_start) is kept
    fair.update_rq_clock(new, 10 * MS)
    fair.enqueue_task_fair(new, p, ENQUEUE_WAKEUP | ENQUEUE_MIGRATED)
    assert p.exec_start == 0, "queued elsewhere it is not cache hot in any version"


def test_exec_start_survives_a_wakeup_at_home() -> None:
    rq = version_rq("5.15")
    p = make_task(1)
    asleep(rq, p, 0)
    p.exec_start = 7 * MS
    fair.enqueue_task_fair(rq, p, ENQUEUE_WAKEUP)
    assert p.exec_start == 7 * MS


# -- Tunables (A.3) --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "nr_latency", "after_hotplug"),
    [("5.4", 3, 7_500_000), ("5.10", 3, 7_500_000), ("5.15", 8, 2_250_000), ("6.1", 8, 2_250_000)],
)
def test_writing_a_granularity(version: str, nr_latency: int, after_hotplug: int) -> None:
    rules = rules_of(version)
    kernel = KernelSpec(
        version,
        FEATURES[version],
        {"kernel.sched_min_granularity_ns": 10 * MS, "kernel.sched_tunable_scaling": 1},
        rules=rules,
    )
    tun = fair.tunables(kernel, 8)
    assert (tun.min_granularity, tun.nr_latency) == (10 * MS, nr_latency)
    fair.update_sysctl(tun, 7)
    assert tun.min_granularity == after_hotplug


def test_a_write_to_tunable_scaling_recomputes_what_debugfs_left() -> None:
    tun = version_rq("5.15").tun
    sched_proc_update_handler(tun, "sched_min_granularity_ns", 10 * MS, by_scaling=True)
    assert tun.nr_latency == 8
    sched_proc_update_handler(tun, "sched_tunable_scaling", 1, by_scaling=True)
    assert (tun.nr_latency, tun.normalized_min_granularity) == (3, 2_500_000)


def test_a_granularity_of_5_15_does_not_shorten_the_period_of_three() -> None:
    slices = {}
    for version in ("5.10", "5.15"):
        rules = rules_of(version)
        kernel = KernelSpec(
            version,
            FEATURES[version],
            {"kernel.sched_min_granularity_ns": 10 * MS},
            rules=rules,
        )
        rq = version_rq(version)
        rq.tun = fair.tunables(kernel, 8)
        tasks = [make_task(pid) for pid in range(1, 5)]
        queue(rq, *tasks)
        slices[version] = fair.sched_slice(rq, tasks[0])
    # Four tasks are more than nr_latency only where the write made that 3.
    assert slices == {"5.10": pytest.approx(10 * MS, abs=10), "5.15": 10 * MS}
    assert slices["5.10"] < 10 * MS


# -- Picking and heat (A.8, A.11) ------------------------------------------------------------------


@pytest.mark.parametrize("version", CFS_VERSIONS)
def test_next_buddy_wins_over_last_buddy(version: str) -> None:
    rq = version_rq(version)
    a, b, c = (make_task(pid) for pid in (1, 2, 3))
    queue(rq, a, b, c)
    rq.cfs.next, rq.cfs.last = c, b
    assert switch(rq) is c
    assert rq.cfs.last is b, "only the winner is forgotten"


@pytest.mark.parametrize("version", CFS_VERSIONS)
def test_last_buddy_wins_if_the_next_one_is_too_far(version: str) -> None:
    rq = version_rq(version)
    a, b, c = (make_task(pid) for pid in (1, 2, 3))
    queue(rq, a, b, c)
    order = rq.cfs.tree[:]
    c.vruntime = a.vruntime + rq.tun.wakeup_granularity + 1
    rq.cfs.tree[:] = sorted((p.vruntime, order, p) for _v, order, p in order)
    rq.cfs.next, rq.cfs.last = c, b
    assert switch(rq) is b


@pytest.mark.parametrize(
    ("version", "smt", "hot"),
    [("5.4", True, True), ("5.6", True, True), ("5.10", True, False), ("5.10", False, True)],
)
def test_heat_between_smt_siblings(version: str, smt: bool, hot: bool) -> None:
    rq = version_rq(version)
    p = make_task(1)
    queue(rq, p)
    p.exec_start = 10 * MS
    assert fair.task_hot(rq, p, 10 * MS + 1, 0, smt) is hot


def test_migration_cost_minus_one_is_hot_but_not_between_siblings() -> None:
    rq = version_rq("5.10")
    rq.tun.migration_cost = -1
    p = make_task(1)
    queue(rq, p)
    assert fair.task_hot(rq, p, 900 * MS, 0)
    assert not fair.task_hot(rq, p, 900 * MS, 0, smt=True)


def test_buddies_are_hot_only_for_a_busy_destination() -> None:
    rq = version_rq("5.4")
    p = make_task(1)
    queue(rq, p, make_task(2))
    rq.cfs.next = p
    assert fair.task_hot(rq, p, 900 * MS, 1)
    assert not fair.task_hot(rq, p, 900 * MS, 0)


# -- Policies (A.10) -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", CFS_VERSIONS)
@pytest.mark.parametrize(
    ("curr", "wakee", "answer"),
    [
        (SCHED_NORMAL, SCHED_NORMAL, PREEMPT_WAKEUP),
        (SCHED_NORMAL, SCHED_BATCH, fair.NO_PREEMPT),
        (SCHED_NORMAL, SCHED_IDLE, fair.NO_PREEMPT),
        (SCHED_BATCH, SCHED_NORMAL, PREEMPT_WAKEUP),
        (SCHED_IDLE, SCHED_NORMAL, PREEMPT_IDLE_POLICY),
        (SCHED_IDLE, SCHED_BATCH, PREEMPT_IDLE_POLICY),
        (SCHED_IDLE, SCHED_IDLE, fair.NO_PREEMPT),
    ],
)
def test_who_preempts_whom_at_a_wakeup(version: str, curr: int, wakee: int, answer: int) -> None:
    rq = version_rq(version)
    running(rq, make_task(1, policy=curr), 100 * MS)
    p = make_task(2, policy=wakee)
    asleep(rq, p, 0)
    assert wake(rq, p, 0) == answer
    assert rq.need_resched is (answer >= 0)


def test_an_idle_task_is_no_buddy() -> None:
    rq = version_rq("5.4")
    p = make_task(1, policy=SCHED_IDLE)
    queue(rq, p)
    fair.set_next_buddy(rq.cfs, p)
    fair.set_last_buddy(rq.cfs, p)
    assert (rq.cfs.next, rq.cfs.last) == (None, None)


def test_a_cpu_of_idle_tasks_only() -> None:
    rq = version_rq("5.4")
    assert not fair.sched_idle_cpu(rq)
    queue(rq, make_task(1, policy=SCHED_IDLE), make_task(2, policy=SCHED_IDLE))
    assert fair.sched_idle_cpu(rq)
    queue(rq, make_task(3))
    assert not fair.sched_idle_cpu(rq)


def test_weight_of_an_idle_task_whatever_its_nice() -> None:
    rq = version_rq("5.4")
    p = make_task(1, -20, SCHED_IDLE)
    queue(rq, p)
    assert (p.weight >> 10, p.inv_weight) == (3, 1_431_655_765)
    fair.set_user_nice(rq, p, 19)
    assert (p.nice, p.weight >> 10, rq.cfs.load_weight >> 10) == (19, 3, 3)


def test_yield_of_a_batch_task_is_not_charged() -> None:
    for policy, charged in ((SCHED_NORMAL, 5 * MS), (SCHED_BATCH, 0)):
        rq = version_rq("5.4")
        p = make_task(1, policy=policy)
        running(rq, p, 0)
        queue(rq, make_task(2))
        fair.update_rq_clock(rq, 5 * MS)
        fair.yield_task_fair(rq)
        assert p.sum_exec_runtime == charged
        assert rq.cfs.skip is p


def test_tick_of_two_equal_tasks_in_every_version() -> None:
    for version in CFS_VERSIONS:
        rq = version_rq(version)
        a, b = make_task(1), make_task(2)
        running(rq, a, 0)
        queue(rq, b)
        b.vruntime = 0
        rq.cfs.tree[:] = [(0, b.tree_order, b)]
        whys = [tick(rq, ms * MS) for ms in range(1, 13)]
        assert whys[:11] == [fair.NO_PREEMPT] * 11, version
        assert whys[11] == PREEMPT_TICK_SLICE, version
