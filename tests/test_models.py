"""Whole machines against models with known answers: shares, slices, policies.

The machines cost nothing (every cost is 0), so the answers follow from the scheduler's rules alone.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emulator.kernel.fair_weight import SCHED_PRIO_TO_WEIGHT, WEIGHT_IDLEPRIO
from emulator.rules import rules_of
from emulator.tracepoints import PREEMPT_TICK_SLICE
from emulator.types import OP_RUN, OP_SLEEP
from tests.kernel.box import MS, Box, Job, Steps

SEC = 1_000 * MS
CFS_VERSIONS = ("5.4", "5.10", "5.15", "6.1")


def hog() -> Steps:
    """Compute for ever."""
    while True:
        yield (OP_RUN, SEC)


def sleeper() -> Steps:
    """Run 1 ms every 50 ms."""
    for number in range(1, 1000):
        yield (OP_SLEEP, number * 50 * MS)
        yield (OP_RUN, MS)


def hogs(*nices: int, mask: int = 1, policy: str = "normal") -> list[Job]:
    """Return one hog per nice level, on the same CPUs, all started together."""
    return [
        Job(hog, name=f"hog{i}", nice=nice, mask=mask, policy=policy)
        for i, nice in enumerate(nices)
    ]


def run_times(box: Box) -> list[int]:
    """Return how long each job's task has run, ns, as the last update_curr() charged it."""
    return [box.task(index).sum_exec_runtime for index in range(len(box.jobs))]


def assert_shares(times: list[int], weights: list[int], bound_ns: int) -> None:
    """Each task has run its weight's part of the time, give or take ``bound_ns``."""
    total = sum(times)
    for ran, weight in zip(times, weights, strict=True):
        assert abs(ran - total * weight // sum(weights)) <= bound_ns, (times, weights)


def lag_bound_ns(nr_tasks: int, nr_cpus: int = 1) -> int:
    """Return by how much a share may be off: START_DEBIT, a period of waiting, an overrun.

    A task starts up to one period behind, waits up to one, and overruns its slice up to a tick of
    1 ms; of the others each may have done so.
    """
    latency = 6 * MS * nr_cpus.bit_length()
    period = max(latency, nr_tasks * latency // 8)
    return 2 * period + (nr_tasks + 1) * MS


NICES = st.lists(st.integers(-20, 19), min_size=2, max_size=6)


@settings(max_examples=12, deadline=None)
@given(nices=NICES, version=st.sampled_from(CFS_VERSIONS))
@example([0, 0], "5.4")
@example([-20, 19], "5.4")
@example([19, 19, 0, 0, -5], "6.1")
def test_shares_of_one_cpu_go_by_weight(nices: list[int], version: str) -> None:
    box = Box(*hogs(*nices), rules=rules_of(version), version=version).run(3 * SEC)
    times = run_times(box)
    assert sum(times) > 3 * SEC - 10 * MS, "the CPU is never idle"
    weights = [SCHED_PRIO_TO_WEIGHT[nice + 20] for nice in nices]
    assert_shares(times, weights, lag_bound_ns(len(nices)))


@pytest.mark.parametrize("version", CFS_VERSIONS)
def test_an_idle_policy_hog_beside_a_normal_one(version: str) -> None:
    jobs = [*hogs(0), *hogs(-20, policy="idle")]
    box = Box(*jobs, rules=rules_of(version), version=version).run(30 * SEC)
    times = run_times(box)
    assert_shares(times, [1024, WEIGHT_IDLEPRIO], lag_bound_ns(2))
    assert times[1] == pytest.approx(30 * SEC * 3 / 1027, rel=0.1)


def test_idle_policy_hogs_share_what_nobody_else_wants() -> None:
    box = Box(*hogs(19, -20, policy="idle")).run(3 * SEC)
    assert_shares(run_times(box), [3, 3], lag_bound_ns(2))


@pytest.mark.parametrize(
    ("nr_cpus", "hz", "slice_ns", "ticks"),
    [
        (1, 1000, 2_999_998, 3),  # half of 6 ms
        (1, 250, 2_999_998, 1),
        (4, 1000, 8_999_995, 9),  # half of 18 ms
        (4, 250, 8_999_995, 3),
        (8, 1000, 11_999_994, 12),  # half of 24 ms
        (8, 250, 11_999_994, 3),
        (8, 100, 11_999_994, 2),
    ],
)
def test_slices_end_at_the_first_tick_after_them(
    nr_cpus: int, hz: int, slice_ns: int, ticks: int
) -> None:
    box = Box(*hogs(0, 0), nr_cpus=nr_cpus, hz=hz).run(2 * SEC)
    tick_ns = SEC // hz
    switches = [t for t, prev, _next in box.switches() if prev.startswith("hog")]
    expired = box.times("box_check_preempt", why=PREEMPT_TICK_SLICE)
    lengths = []
    # The first slice began before the second hog came, the last one is not over.
    for picked in switches[1:-2]:
        due = ((picked + slice_ns) // tick_ns + 1) * tick_ns
        assert next(t for t in expired if t > picked) == due
        lengths.append(round((due - picked) / tick_ns))
    # After a balance pass, which takes some ns, a task is picked late and may need one tick more.
    assert set(lengths) <= {ticks, ticks + 1}
    assert lengths.count(ticks) > len(lengths) // 2 > 10


@pytest.mark.parametrize(("policy", "waits"), [("idle", False), ("normal", True), ("batch", True)])
def test_a_sleeper_behind_a_hog_of_each_policy(policy: str, waits: bool) -> None:
    # The granularity keeps it from preempting a hog, but not one of idle policy.
    jobs = [*hogs(0, policy=policy), Job(sleeper, name="sleeper", mask=1)]
    box = Box(*jobs, sysctls={"kernel.sched_wakeup_granularity_ns": SEC}).run(2 * SEC)
    delays = wake_delays(box, 1)
    assert len(delays) > 30
    assert (max(delays[1:]) > 0) is waits
    if waits:
        assert min(delays[1:]) > 0


@pytest.mark.parametrize(("policy", "waits"), [("normal", False), ("batch", True), ("idle", True)])
def test_a_sleeper_of_each_policy_behind_a_hog(policy: str, waits: bool) -> None:
    jobs = [*hogs(0), Job(sleeper, name="sleeper", mask=1, policy=policy)]
    box = Box(*jobs).run(2 * SEC)
    # At weight 3 it does not catch up with its times, and hardly sleeps.
    delays = wake_delays(box, 1)
    assert len(delays) > (0 if policy == "idle" else 20)
    assert (sum(delays) > 0) is waits


def wake_delays(box: Box, index: int) -> list[int]:
    """Return the ns from each wakeup of a job's task to its switch in."""
    pid = box.pid(index)
    woken = box.times("sched_wakeup", pid=pid)
    ran = box.times("sched_switch", next=pid)
    delays = []
    for at in woken:
        after = [t for t in ran if t >= at]
        if after:
            delays.append(after[0] - at)
    return delays


#: A busy CPU of two balances every 2 · 2 · 32 ms at most.  Then one of the two hogs that share moves
#: to the other CPU, and the one there is joined: a hog alone gains half of such a stretch on one
#: that shares, and over many stretches nobody is more than two of them ahead or behind.
PASS_NS = 128 * MS


@pytest.mark.parametrize("version", CFS_VERSIONS)
def test_three_hogs_on_two_cpus_get_two_thirds_each(version: str) -> None:
    # At 300 Hz slices of 6 ms and passes every 64 ms have no common multiple to lock to.
    three = hogs(0, 0, 0, mask=3)
    box = Box(*three, nr_cpus=2, hz=300, rules=rules_of(version), version=version).run(20 * SEC)
    times = run_times(box)
    assert sum(times) > 40 * SEC - 20 * MS
    assert max(abs(ran - 40 * SEC // 3) for ran in times) <= 2 * PASS_NS
    moves = box.times("sched_migrate_task")
    # A pass every 64 ms is one every 20 ticks; a hot task is taken at the third that fails.
    assert max(late - early for early, late in pairwise(moves)) <= 4 * 20 * (SEC // 300)


def test_three_hogs_on_two_cpus_lock_to_the_tick() -> None:
    # At 250 Hz slices are 2 ticks and passes 16.  Where every pass of a CPU then finds the same hog
    # waiting (the other runs, or has run within 500 us and is hot), that hog goes back and forth,
    # one stays alone and one shares for ever: nothing in v5.4 looks at what a hog had before.
    box = Box(*hogs(0, 0, 0, mask=3), nr_cpus=2, hz=250).run(20 * SEC)
    times = run_times(box)
    assert sum(times) > 40 * SEC - 20 * MS
    assert min(times) >= 10 * SEC - PASS_NS, "nobody gets less than half a CPU"
    settled = moves_by_pid(box, after_ns=10 * SEC)
    [(wanderer, moves)] = settled.items()
    assert moves > 40, "one hog makes all the moves"
    shares = {box.pid(index): ran for index, ran in enumerate(times)}
    assert shares.pop(wanderer) < 13 * SEC
    assert max(shares.values()) > 15 * SEC, "one of the others keeps a CPU for itself"


def moves_by_pid(box: Box, after_ns: int) -> dict[int, int]:
    """Return how often each task that moved after a time was moved."""
    pids = [box.pid(index) for index in range(len(box.jobs))]
    moves = {pid: box.times("sched_migrate_task", pid=pid) for pid in pids}
    late = {pid: sum(at > after_ns for at in times) for pid, times in moves.items()}
    return {pid: count for pid, count in late.items() if count}


def test_two_hogs_on_two_cpus_have_one_each() -> None:
    box = Box(*hogs(0, 0, mask=3), nr_cpus=2).run(2 * SEC)
    assert min(run_times(box)) > 2 * SEC - 20 * MS
