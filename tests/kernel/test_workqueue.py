"""The workqueue's rules against io-and-workqueue.md F.3-F.8 and the worked examples of F.17."""

from __future__ import annotations

import pytest

from emulator.kernel import wq_pool
from emulator.kernel.wq_pool import (
    WorkerPool,
    keep_working,
    need_more_worker,
    need_to_create_worker,
    too_many_workers,
)
from emulator.kernel.wq_table import WQ_DIO, WQ_EVENTS, WQ_INTENSIVE, WQ_KBLOCKD
from emulator.types import OP_RUN, OP_SLEEP, Costs
from tests.kernel.box import MS, US, Box, Event, Job, Steps, costs, script_work

#: Granularities so large that the fair class runs tasks first come, first served.
FIFO = {
    "kernel.sched_latency_ns": 1_000_000_000,
    "kernel.sched_min_granularity_ns": 1_000_000_000,
    "kernel.sched_wakeup_granularity_ns": 1_000_000_000,
}
#: The same, but a woken worker gets its turn between two items.  The documentation needs it where
#: w1 wakes in the instant in which w0 ends: a worker counts in nr_running only when it executes
#: (since v5.3), so that w0's worker would go on with w2.
TURNS = FIFO | {"kernel.sched_wakeup_granularity_ns": 1 * MS}
W0 = [(5 * MS, 10 * MS), (5 * MS, 0)]
W1 = [(5 * MS, 10 * MS)]
START = 10 * US


def pool_box(charges: Costs | None = None, sysctls: dict[str, int] | None = None) -> Box:
    """Return one idle CPU whose work items a test queues by hand."""
    return Box(hz=100, sysctls=sysctls or FIFO, charges=charges).run(START)


def finish_times_ms(box: Box, works: list[int]) -> list[float]:
    """Return when each work item ended, in ms since the start."""
    ends = {e[2]["work"]: e[0] for e in box.events("workqueue_execute_end")}
    return [(ends[work] - START) / MS for work in works]


def start_times_ms(box: Box, works: list[int]) -> list[float]:
    """Return when each work item started, in ms since the start."""
    starts = {e[2]["work"]: e[0] for e in box.events("workqueue_execute_start")}
    return [(starts[work] - START) / MS for work in works]


def queue_w0_w1_w2(box: Box, wq_w0: int, wq_others: int) -> list[int]:
    """Queue the documentation's three items at the start, and run them to their ends."""
    cpu = box.cpus[0]
    works = [script_work(cpu, wq_w0, W0)]
    works += [script_work(cpu, wq_others, W1) for _ in range(2)]
    box.run(100 * MS)
    return works


# -- F.3 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nr_workers", "nr_idle", "managing", "too_many"),
    [
        (3, 3, False, True),
        (4, 4, False, True),
        (5, 2, False, False),
        (8, 5, False, True),
        (10, 3, False, False),
        (11, 4, False, True),
        (12, 3, False, False),
        (12, 4, False, True),
        (13, 4, False, False),
        (16, 5, False, True),
        (9, 3, True, True),
    ],
)
def test_vector_F_3_too_many_workers(
    nr_workers: int, nr_idle: int, managing: bool, too_many: bool
) -> None:
    assert too_many_workers(nr_workers, nr_idle, managing) is too_many


def test_F_3_policy_functions() -> None:
    pool = WorkerPool(0, 0)
    assert not need_more_worker(pool)
    assert not keep_working(pool)
    pool.worklist.append([1, wq_pool.FN_SCRIPT, WQ_EVENTS, [], 0])
    assert need_more_worker(pool)
    assert need_to_create_worker(pool)
    assert keep_working(pool)
    pool.idle.append(99)
    assert not need_to_create_worker(pool)
    pool.nr_running = 1
    assert not need_more_worker(pool)
    assert keep_working(pool)
    pool.nr_running = 2
    assert not keep_working(pool)


# -- F.4 ------------------------------------------------------------------------------------------


def names_of(events: list[Event]) -> list[str]:
    """Return the names of events."""
    return [event[1] for event in events]


def test_F_4_queue_activate_and_wake_the_first_idle_worker_once() -> None:
    box = pool_box()
    cpu = box.cpus[0]
    first = script_work(cpu, WQ_DIO, [(US, 0)])
    second = script_work(cpu, WQ_DIO, [(US, 0)])
    queued = box.events("workqueue_queue_work", "workqueue_activate_work", "sched_waking")
    # The worker that is woken is still idle: the second wakeup would be of the same thread.
    assert names_of(queued) == [
        "workqueue_queue_work",
        "workqueue_activate_work",
        "sched_waking",
        "workqueue_queue_work",
        "workqueue_activate_work",
    ]
    assert [queued[0][2]["work"], queued[3][2]["work"]] == [first, second]
    assert queued[0][2]["function"] == "script_work"
    assert queued[0][2]["req_cpu"] == wq_pool.WORK_CPU_UNBOUND
    assert queued[0][2]["cpu"] == 0
    assert box.comm(queued[2][2]["pid"]) == "kworker/0:1"
    pool = cpu.pools[0]
    assert pool.nr_running == 0
    assert len(pool.idle) == 2


def test_F_4_a_highpri_queue_uses_the_nice_minus_20_pool() -> None:
    box = pool_box()
    cpu = box.cpus[0]
    script_work(cpu, WQ_KBLOCKD, [(US, 0)])
    waking = box.events("sched_waking")
    assert [box.comm(e[2]["pid"]) for e in waking] == ["kworker/0:1H"]
    assert waking[0][2]["prio"] == 100
    assert [len(pool.worklist) for pool in cpu.pools] == [0, 1]


# -- F.5 ------------------------------------------------------------------------------------------


def test_F_5_items_run_in_order_and_then_the_worker_idles() -> None:
    box = pool_box(costs(work_next_ns=100, worker_start_ns=300, worker_sleep_ns=200))
    cpu = box.cpus[0]
    works = [script_work(cpu, WQ_DIO, [(1000 * (n + 1), 0)]) for n in range(3)]
    box.run(1 * MS)
    start = box.times("workqueue_execute_start")
    end = box.times("workqueue_execute_end")
    assert [e[2]["work"] for e in box.events("workqueue_execute_start")] == works
    assert [t - start[0] for t in start] == [0, 1100, 3200]
    assert [t - start[0] for t in end] == [1000, 3100, 6200]
    assert start[0] == START + 300
    pool = cpu.pools[0]
    assert (pool.nr_running, pool.worklist, pool.executing) == (0, [], {})
    assert pool.active == {WQ_DIO: 0}
    assert len(pool.idle) == len(pool.workers) == 2


def test_F_7_the_last_idle_worker_creates_another_which_looks_for_itself() -> None:
    box = pool_box(costs(worker_create_ns=30 * US))
    cpu = box.cpus[0]
    script_work(cpu, WQ_DIO, [(1 * US, 100 * US)])
    script_work(cpu, WQ_DIO, [(1 * US, 0)])
    box.run(START + 90 * US)
    # The first item sleeps; the second one's worker is the last idle one.  The new worker is woken
    # at its creation, finds nothing to do, and goes to sleep.
    woken = [box.comm(e[2]["pid"]) for e in box.events("sched_waking")]
    assert woken == ["kworker/0:1", "kworker/0:0", "kworker/0:2"]
    assert box.times("workqueue_execute_start") == [START, START + 31 * US]
    assert [s[1:] for s in box.switches()] == [
        ("idle", "kworker/0:1"),
        ("kworker/0:1", "kworker/0:0"),
        ("kworker/0:0", "kworker/0:2"),
        ("kworker/0:2", "idle"),
    ]
    # Idle workers are last in, first out: the new one is woken next.
    script_work(cpu, WQ_DIO, [(1 * US, 0)])
    assert box.comm(box.events("sched_waking")[-1][2]["pid"]) == "kworker/0:2"


# -- F.8 ------------------------------------------------------------------------------------------


def test_F_8_the_257th_dio_item_is_delayed() -> None:
    box = pool_box()
    cpu = box.cpus[0]
    works = [script_work(cpu, WQ_DIO, [(US, 0)]) for _ in range(258)]
    pool = cpu.pools[0]
    assert len(pool.worklist) == 256
    assert pool.active == {WQ_DIO: 256}
    assert [item[0] for item in pool.delayed[WQ_DIO]] == works[256:]
    # Another queue of the same pool has a limit of its own.
    script_work(cpu, WQ_EVENTS, [(US, 0)])
    assert len(pool.worklist) == 257
    box.run(1 * MS)
    started = [e[2]["work"] for e in box.events("workqueue_execute_start")]
    # A delayed item takes its place at the end of the list when one of its queue has ended.
    assert started[:256] == works[:256]
    assert started[257:] == works[256:]
    activated = box.times("workqueue_activate_work", work=works[256])
    assert activated == box.times("workqueue_execute_end", work=works[0])


# -- F.17 -----------------------------------------------------------------------------------------


def test_example_F_17_W1_bound_max_active_1() -> None:
    box = pool_box(sysctls=TURNS)
    box.cpus[0].workqueues[WQ_EVENTS].max_active = 1
    works = queue_w0_w1_w2(box, WQ_EVENTS, WQ_EVENTS)
    assert start_times_ms(box, works) == [0, 20, 35]
    assert finish_times_ms(box, works) == [20, 35, 50]


def test_example_F_17_W1_bound_max_active_3() -> None:
    box = pool_box(sysctls=TURNS)
    box.cpus[0].workqueues[WQ_EVENTS].max_active = 3
    works = queue_w0_w1_w2(box, WQ_EVENTS, WQ_EVENTS)
    assert start_times_ms(box, works) == [0, 5, 10]
    assert finish_times_ms(box, works) == [20, 20, 25]


def test_example_F_17_W1_bound_max_active_2() -> None:
    box = pool_box(sysctls=TURNS)
    box.cpus[0].workqueues[WQ_EVENTS].max_active = 2
    works = queue_w0_w1_w2(box, WQ_EVENTS, WQ_EVENTS)
    assert start_times_ms(box, works) == [0, 5, 20]
    assert finish_times_ms(box, works) == [20, 20, 35]


def test_example_F_17_W1_cpu_intensive() -> None:
    box = pool_box(sysctls=TURNS)
    works = queue_w0_w1_w2(box, WQ_EVENTS, WQ_INTENSIVE)
    assert finish_times_ms(box, works) == [20, 20, 25]
    # w2's worker is runnable as soon as w1 has started, and gets the CPU when w1 sleeps.
    assert start_times_ms(box, works) == [0, 5, 10]
    third = next(
        e[2]["current"] for e in box.events("workqueue_execute_start") if e[2]["work"] == works[2]
    )
    assert box.times("sched_waking", pid=third)[0] == START + 5 * MS


def test_example_F_17_W4_blocking_item() -> None:
    """A blocks; an idle worker takes B and C; A resumes while C runs: one of the two goes idle."""
    box = pool_box()
    cpu = box.cpus[0]
    a = script_work(cpu, WQ_DIO, [(10 * US, 25 * US), (10 * US, 0)])
    b = script_work(cpu, WQ_DIO, [(20 * US, 0)])
    c = script_work(cpu, WQ_DIO, [(20 * US, 0)])
    d = script_work(cpu, WQ_DIO, [(20 * US, 0)])
    pool = cpu.pools[0]
    box.run(START + 5 * US)
    assert (pool.nr_running, len(pool.worklist)) == (1, 3)
    box.run(START + 30 * US)
    # nr_running went to 0 with items pending: the idle worker was woken, and created one more.
    assert (pool.nr_running, len(pool.worklist)) == (1, 2)
    assert len(pool.workers) == 3
    box.run(START + 200 * US)
    started = {e[2]["work"]: e[2]["current"] for e in box.events("workqueue_execute_start")}
    times = {
        name: [(e[0] - START) // US for e in box.events(name)]
        for name in ("workqueue_execute_start", "workqueue_execute_end")
    }
    # B runs 10-30, C 30-50 although A's sleep is over at 35 (preemption is off): nr_running is
    # still 1, for A counts again only when it executes.  A runs when its turn comes.
    assert started[b] == started[c] == started[d] != started[a]
    assert times["workqueue_execute_start"] == [0, 10, 30, 50]
    assert times["workqueue_execute_end"] == [30, 50, 70, 80]
    assert pool.nr_running == 0


def test_example_F_17_W4_two_running_workers_the_first_to_end_its_item_goes_idle() -> None:
    box = pool_box(sysctls=TURNS)
    cpu = box.cpus[0]
    a = script_work(cpu, WQ_DIO, [(10 * MS, 20 * MS), (10 * MS, 0)])
    others = [script_work(cpu, WQ_DIO, [(20 * MS, 0)]) for _ in range(3)]
    box.run(START + 35 * MS)
    # A was woken at 30, when B ended, and executes; B's worker gave way between two items.
    pool = cpu.pools[0]
    assert (pool.nr_running, len(pool.worklist)) == (2, 2)
    box.run(START + 45 * MS)
    assert pool.nr_running == 1
    box.run(START + 100 * MS)
    assert start_times_ms(box, [a, *others]) == [0, 10, 40, 60]
    assert finish_times_ms(box, [a, *others]) == [40, 30, 60, 80]
    workers = [e[2]["current"] for e in box.events("workqueue_execute_start")]
    assert workers[0] != workers[1] == workers[2] == workers[3]
    assert pool.nr_running == 0


def test_example_F_17_W2_the_list_grows_while_a_task_keeps_the_cpu() -> None:
    """A task keeps CPU 0 for 10 ms; items come every 80 us; its worker executes all in one stint."""

    def task() -> Steps:
        yield (OP_RUN, 10 * MS)
        yield (OP_SLEEP, 50 * MS)

    box = Box(Job(task, name="fio"), hz=100, sysctls=FIFO, charges=costs(work_next_ns=100))
    cpu = box.cpus[0]
    pool = cpu.pools[0]
    for n in range(120):
        box.run(100 * US + 80 * US * n)
        script_work(cpu, WQ_DIO, [(300, 0)])
        assert (pool.nr_running, len(pool.worklist)) == (0, n + 1)
        assert pool.active == {WQ_DIO: n + 1}
    # Only the first one has a worker to wake; it stays the first idle one until it executes.
    assert len(box.events("sched_waking")) == 1
    assert len(pool.idle) == 2
    box.run(20 * MS)
    starts = box.times("workqueue_execute_start")
    assert starts == [10 * MS + 400 * n for n in range(120)]
    stint = [s for s in box.switches() if s[1] == "kworker/0:1" or s[2] == "kworker/0:1"]
    assert [s[1:] for s in stint] == [("fio", "kworker/0:1"), ("kworker/0:1", "idle")]


def test_example_F_17_W6_a_cpu_goes_with_40_items_pending() -> None:
    """They complete elsewhere; a new item names the pool of the CPU that queues it."""
    box = Box(nr_cpus=4, hz=100, sysctls=FIFO).run(START)
    works = [script_work(box.cpus[3], WQ_DIO, [(MS, 0)]) for _ in range(40)]
    box.command(START + 5 * MS, 3, "cpu", "offline", 3)
    box.run(20 * MS)
    assert not box.cpus[3].online
    new = script_work(box.cpus[1], WQ_DIO, [(MS, 0)])
    box.run(80 * MS)
    ends = box.events("workqueue_execute_end")
    assert {e[2]["work"] for e in ends} == {*works, new}
    assert len(ends) == 41, "each once"
    elsewhere = {e[2]["work"]: e[2]["on"] for e in ends if e[2]["on"] != 3}
    assert elsewhere.keys() > set(works[6:])
    (queued,) = [e for e in box.events("workqueue_queue_work") if e[2]["work"] == new]
    assert queued[2]["cpu"] == 1 == elsewhere[new]


def test_example_F_17_W7_max_active_counts_a_sleeping_item() -> None:
    box = pool_box()
    cpu = box.cpus[0]
    cpu.workqueues[WQ_EVENTS].max_active = 1
    x = script_work(cpu, WQ_EVENTS, [(10 * US, 100 * US), (10 * US, 0)])
    y = script_work(cpu, WQ_EVENTS, [(10 * US, 0)])
    box.run(1 * MS)
    end_x = box.times("workqueue_execute_end", work=x)
    assert end_x == [START + 120 * US]
    assert box.times("workqueue_activate_work", work=y) == end_x
    assert box.times("workqueue_execute_start", work=y) == end_x
