"""Workers that end because too many idle, against io-and-workqueue.md F.1, F.3 and F.7."""

from __future__ import annotations

import pytest

from emulator import wire
from emulator.kernel import kthread
from emulator.kernel.wq_pool import WorkerPool
from emulator.kernel.wq_table import WQ_EVENTS
from emulator.types import NEVER, OP_RUN, OP_SLEEP, WorkqueueSpec
from tests.kernel.box import MS, US, Box, Job, Steps, script_work

SECOND = 1000 * MS
START = 10 * US
TIMEOUT = 300 * SECOND


def wakes_at(*seconds: int) -> Job:
    """Return a task that runs for two ticks in each of these seconds: a CPU that idles has no tick."""

    def steps() -> Steps:
        for second in seconds:
            yield (OP_SLEEP, second * SECOND)
            yield (OP_RUN, 20 * MS)
        yield (OP_SLEEP, NEVER)

    return Job(steps, name="task")


def five_workers(*seconds: int, wq: WorkqueueSpec = WorkqueueSpec()) -> Box:
    """Return a CPU of which five workers idle from 10, 20, 30, 40 ms and the start on."""
    box = Box(wakes_at(*seconds), hz=100, wq=wq).run(START)
    for n in range(4):
        script_work(box.cpus[0], WQ_EVENTS, [(US, 10 * MS * (n + 1)), (US, 0)])
    return box.run(SECOND)


def pool_of(box: Box) -> WorkerPool:
    """Return the pool of nice 0."""
    return box.cpus[0].pools[0]


def test_F_7_the_workers_that_idled_longest_end_after_300_s() -> None:
    box = five_workers(301)
    cpu, pool = box.cpus[0], pool_of(box)
    oldest = list(pool.idle[:3])
    assert len(pool.workers) == len(pool.idle) == 5
    assert pool.cull_at * 10 * MS == TIMEOUT + 20 * MS, "from when the third one idled"
    box.run(310 * SECOND)
    # 3 idle of 3 are too many, 2 of 2 are not.
    assert [e[2]["pid"] for e in box.events("sched_process_exit")] == oldest
    assert all(t // SECOND == 301 for t in box.times("sched_process_exit"))
    assert len(pool.workers) == len(pool.idle) == 2
    assert not set(oldest) & set(cpu.tasks)
    assert set(oldest) <= set(cpu.exited)
    assert pool.cull_at == cpu.wq_cull_at == NEVER


def test_F_7_a_cpu_that_idles_is_not_woken_for_the_timer() -> None:
    box = five_workers(500)
    woken = len(box.events("cpu_idle", since_ns=SECOND))
    box.run(499 * SECOND)
    assert len(box.events("cpu_idle", since_ns=SECOND)) == woken
    assert len(pool_of(box).workers) == 5
    box.run(510 * SECOND)
    assert len(pool_of(box).workers) == 2


def test_F_3_the_timer_runs_from_when_too_many_idle() -> None:
    box = Box(hz=100).run(START)
    pool = pool_of(box)
    box.cpus[0].wq_idle_timeout = 1
    for n in range(3):
        script_work(box.cpus[0], WQ_EVENTS, [(US, 10 * MS * (n + 1)), (US, 0)])
    box.run(11 * MS)
    assert (len(pool.workers), len(pool.idle), pool.cull_at) == (4, 2, NEVER)
    box.run(21 * MS)
    assert (len(pool.workers), len(pool.idle)) == (4, 3)
    assert pool.cull_at == 3, "3 idle of 4: (3 - 2) * 4 >= 1"


def test_F_7_one_that_has_not_idled_long_enough_lets_the_timer_run_on() -> None:
    box = five_workers(301)
    cpu, pool = box.cpus[0], pool_of(box)
    cpu.tasks[pool.idle[0]].run.wait_since = 5 * SECOND  # a wakeup without work
    box.run(310 * SECOND)
    assert (pool.cull_at, len(pool.workers)) == (30_500, 5)


def test_F_7_an_item_that_wakes_a_worker_makes_it_the_youngest() -> None:
    box = five_workers(200, 301)
    pool = pool_of(box)
    box.run(250 * SECOND)
    script_work(box.cpus[0], WQ_EVENTS, [(US, 0)])
    used = pool.idle[-1]
    box.run(310 * SECOND)
    assert used in pool.workers, "the first idle worker is the last one that would end"


def test_F_7_the_number_of_a_worker_that_has_ended_is_free() -> None:
    box = five_workers(301)
    pool = pool_of(box)
    numbers = sorted(int(box.comm(pid).partition(":")[2]) for pid in pool.idle[:3])
    box.run(310 * SECOND)
    assert pool.free_ids == numbers
    for _ in range(3):
        script_work(box.cpus[0], WQ_EVENTS, [(US, 10 * MS), (US, 0)])
    box.run(311 * SECOND)
    names = {box.comm(pid) for pid in pool.workers}
    assert {f"kworker/0:{numbers[0]}", f"kworker/0:{numbers[1]}"} <= names
    assert WorkerPool.unpack(wire.unpack(wire.pack(pool.pack()))).free_ids == pool.free_ids


def test_F_7_a_dying_worker_says_so() -> None:
    box = five_workers(301)
    cpu = box.cpus[0]
    dying = cpu.tasks[pool_of(box).idle[0]]
    box.run(310 * SECOND)
    assert dying.comm == "kworker/dying"
    assert dying.pid >= kthread.FIRST_BOOT_PID


@pytest.mark.parametrize("timeout_ms", [20, 100])
def test_the_timeout_is_the_boxs(timeout_ms: int) -> None:
    box = five_workers(2, wq=WorkqueueSpec(idle_timeout_ns=timeout_ms * MS))
    assert len(pool_of(box).workers) == 5, "nothing has ticked since"
    box.run(3 * SECOND)
    assert len(pool_of(box).workers) == 2


def test_F_11_a_worker_that_is_to_end_may_lose_its_cpu() -> None:
    wq = WorkqueueSpec(idle_timeout_ns=100 * MS)

    def hog() -> Steps:
        yield (OP_RUN, 600 * MS)

    box = Box(Job(hog, name="hog", cpu=1, mask=3), nr_cpus=2, hz=100, wq=wq).run(START)
    for n in range(4):
        script_work(box.cpus[1], WQ_EVENTS, [(US, 5 * MS * (n + 1)), (US, 0)])
    box.command(130 * MS, 1, "cpu", "offline", 1)
    box.run(600 * MS)
    assert not box.cpus[1].online
    assert box.cpus[1].wq_cull_at == NEVER
    box.command(600 * MS, 1, "cpu", "online", 1)
    box.run(SECOND)
    assert box.cpus[1].online
