"""CPU_INTENSIVE by itself and the watchdog, against io-and-workqueue.md F.12 and F.13."""

from __future__ import annotations

import pytest

from emulator.kernel import wq_pool, wq_state, wq_watch
from emulator.kernel.wq_table import WQ_DIO, WQ_EVENTS, WQ_EVENTS_UNBOUND, WQ_INTENSIVE
from emulator.rules import rules_of
from emulator.types import OP_BURN, WorkqueueSpec
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, script_work

SECOND = 1000 * MS
START = 10 * US


def printed(box: Box) -> list[str]:
    """Return the lines of the log."""
    return [str(e[2]["text"]) for e in box.events("printk")]


# -- F.12 -----------------------------------------------------------------------------------------


def hogged(version: str, wq: WorkqueueSpec = WorkqueueSpec()) -> tuple[Box, list[int]]:
    """Run an item of 25 ms and a short one behind it in the pool of one CPU."""
    box = Box(hz=1000, rules=rules_of(version), version=version, wq=wq).run(START)
    works = [script_work(box.cpus[0], WQ_EVENTS, [(25 * MS, 0)])]
    works.append(script_work(box.cpus[0], WQ_DIO, [(1 * MS, 0)]))
    return box.run(60 * MS), works


def test_F_12_up_to_6_1_an_item_holds_its_pool_up_as_long_as_it_runs() -> None:
    box, (long, short) = hogged("6.1")
    assert box.times("workqueue_execute_start", work=short) == box.times(
        "workqueue_execute_end", work=long
    )


def test_F_12_from_6_6_an_item_that_runs_for_10_ms_lets_the_next_one_start_beside_it() -> None:
    box, (long, short) = hogged("6.6")
    # The first tick at which it has run for 10 ms is the 11th; the next worker is woken there.
    next_worker = next(
        e[2]["current"] for e in box.events("workqueue_execute_start") if e[2]["work"] == short
    )
    assert box.times("sched_waking", pid=next_worker)[0] == 11 * MS
    # No preemption in the kernel: what it wins is that nr_running says so.
    assert box.cpus[0].counters["cpu_intensive.script_work"] == 1
    pool = box.cpus[0].pools[0]
    assert (pool.nr_running, pool.executing) == (0, {})
    assert len(box.times("workqueue_execute_end", work=long)) == 1


@pytest.mark.parametrize(("thresh_ns", "nr"), [(0, 0), (3 * MS, 1), (30 * MS, 0)])
def test_F_12_the_threshold_is_the_boxs(thresh_ns: int, nr: int) -> None:
    box, _works = hogged("6.12", WorkqueueSpec(cpu_intensive_ns=thresh_ns))
    assert box.cpus[0].counters.get("cpu_intensive.script_work", 0) == nr


def test_F_12_time_counts_from_the_items_last_wakeup_and_flagged_queues_count_once() -> None:
    box = Box(hz=1000, rules=rules_of("6.6"), version="6.6").run(START)
    script_work(box.cpus[0], WQ_EVENTS, [(8 * MS, 1 * MS), (8 * MS, 0)])
    script_work(box.cpus[0], WQ_INTENSIVE, [(30 * MS, 0)])
    box.run(100 * MS)
    assert "cpu_intensive.script_work" not in box.cpus[0].counters
    assert box.cpus[0].pools[0].nr_running == 0


def test_F_12_repeated_offences_are_reported_by_powers_of_two() -> None:
    box = Box(hz=1000, rules=rules_of("6.6"), version="6.6").run(START)
    for _ in range(9):
        script_work(box.cpus[0], WQ_EVENTS, [(12 * MS, 0)])
    box.run(300 * MS)
    lines = printed(box)
    assert lines == [
        "workqueue: script_work hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND",
        "workqueue: script_work hogged CPU for >10000us 8 times, consider switching to WQ_UNBOUND",
    ]


# -- F.13 -----------------------------------------------------------------------------------------


def starved(version: str, watchdog_ns: int) -> Box:
    """Run a task that keeps its CPU for 2 s while items wait for that CPU's worker."""

    def hog() -> Steps:
        yield (OP_BURN, 10 * SECOND)

    wq = WorkqueueSpec(watchdog_ns=watchdog_ns)
    sysctls = QUIET | {
        "kernel.sched_latency_ns": 1 * SECOND,
        "kernel.sched_min_granularity_ns": 1 * SECOND,
    }
    box = Box(
        Job(hog, nice=-20), hz=100, sysctls=sysctls, rules=rules_of(version), version=version, wq=wq
    ).run(500 * MS)
    script_work(box.cpus[0], WQ_DIO, [(US, 0)])
    script_work(box.cpus[0], WQ_DIO, [(US, 0)])
    script_work(box.cpus[0], WQ_EVENTS, [(US, 0)])
    return box.run(1900 * MS)


def test_F_13_the_starved_list_of_the_thread_is_reported() -> None:
    box = starved("5.4", 900 * MS)
    assert printed(box) == [
        "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 1s!",
        "Showing busy workqueues and worker pools:",
        "workqueue dio/none: flags=0x8",
        "  pwq 0: cpus=0 node=0 flags=0x0 nice=0 active=2/256",
        "    pending: script_work, script_work",
        "workqueue events: flags=0x0",
        "  pwq 0: cpus=0 node=0 flags=0x0 nice=0 active=1/256",
        "    pending: script_work",
    ]
    assert box.times("printk")[0] == 1800 * MS


def test_F_13_later_kernels_print_references() -> None:
    lines = printed(starved("5.6", 900 * MS))
    assert "  pwq 0: cpus=0 node=0 flags=0x0 nice=0 active=2/256 refcnt=3" in lines


def test_F_13_a_threshold_of_0_disables_it() -> None:
    assert printed(starved("5.4", 0)) == []


def test_F_13_what_is_in_flight_and_delayed_is_told() -> None:
    box = Box(hz=100).run(START)
    cpu = box.cpus[0]
    cpu.workqueues[WQ_EVENTS].max_active = 1
    script_work(cpu, WQ_EVENTS, [(US, 500 * MS), (US, 0)])
    script_work(cpu, WQ_EVENTS, [(US, 0)])
    box.run(100 * MS)
    views = wq_watch.own_views(cpu)
    wq_watch.say(cpu, wq_state.show_workqueue_state(views, cpu.workqueues, refs=False))
    worker = next(iter(cpu.pools[0].executing))
    (idle,) = cpu.pools[0].idle
    assert printed(box) == [
        "Showing busy workqueues and worker pools:",
        "workqueue events: flags=0x0",
        "  pwq 0: cpus=0 node=0 flags=0x0 nice=0 active=1/1",
        f"    in-flight: {worker}:script_work",
        "    delayed: script_work",
        f"pool 0: cpus=0 node=0 flags=0x0 nice=0 hung=0s workers=2 idle: {idle}",
    ]
    assert wq_pool.need_more_worker(cpu.pools[0]) is False


@pytest.mark.parametrize(
    ("version", "node"), [("5.4", ""), ("6.12", " node=0")], ids=["5.4", "6.12"]
)
def test_F_13_a_pool_of_no_cpu_is_watched_too(version: str, node: str) -> None:
    wq = WorkqueueSpec(watchdog_ns=900 * MS, unbound=("events_unbound",), cpumask=0b10)
    rules = rules_of(version)

    def hog() -> Steps:
        yield (OP_BURN, 10 * SECOND)  # the timer is deferrable: an idle CPU 0 would not look

    box = Box(Job(hog), nr_cpus=2, hz=100, rules=rules, version=version, wq=wq, sysctls=QUIET)
    box.run(500 * MS)
    for _ in range(3):
        script_work(box.cpus[1], WQ_EVENTS_UNBOUND, [(3 * SECOND, 0)])
    box.run(2 * SECOND)
    pool = f"cpus=1{node} flags=0x4 nice=0"
    refs = " refcnt=4" if version == "6.12" else ""
    lines = printed(box)
    (worker,) = [p.pid for p in box.cpus[1].tasks.values() if p.run.item]
    assert lines[:5] == [
        f"BUG: workqueue lockup - pool {pool} stuck for 1s!",
        "Showing busy workqueues and worker pools:",
        "workqueue events_unbound: flags=0x2",
        f"  pwq 4: {pool} active=3/512{refs}",
        f"    in-flight: {worker}:script_work",
    ]
    assert lines[5] == "    pending: script_work, script_work"
    assert lines[6].startswith(f"pool 4: {pool} hung=1s workers=")
    assert 1800 * MS < box.times("printk")[0] < 1801 * MS, "CPU 0 asks, and hears the answer"


def test_F_13_the_pool_of_an_offline_cpu_is_watched_too() -> None:
    """Its workers wait for the only CPU that is left, on which one keeps to its item."""
    wq = WorkqueueSpec(watchdog_ns=900 * MS)
    box = Box(nr_cpus=2, hz=100, wq=wq, sysctls=QUIET).run(START)
    for ns in (50 * MS, 3 * SECOND, 3 * SECOND):
        script_work(box.cpus[1], WQ_EVENTS, [(ns, 0)])
    box.command(20 * MS, 1, "cpu", "offline", 1)
    box.run(2 * SECOND)
    assert not box.cpus[1].online
    pool = "cpus=1 node=0 flags=0x4 nice=0"
    lines = [line for line in printed(box) if "offline" not in line]
    assert lines[:4] == [
        f"BUG: workqueue lockup - pool {pool} stuck for 1s!",
        "Showing busy workqueues and worker pools:",
        "workqueue events: flags=0x0",
        f"  pwq 2: {pool} active=3/256",  # the first has ended, its worker waits as well
    ]
