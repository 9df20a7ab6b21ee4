"""`chrt` of a task that lives: between the fair policies, between the classes, in every state."""

from __future__ import annotations

from typing import Any

import pytest

from emulator import messages
from emulator.kernel.sched import FAIR_CLASS, RT_CLASS, TASK_WAKING, Rq
from emulator.rules import rules_of
from emulator.types import NEVER, OP_RUN, OP_SLEEP
from tests.kernel.box import MS, US, Box, Job, Steps

PID = 10_000  #: of a box's first task
VERSIONS = ("5.4", "5.10", "6.6", "6.12")


def hog() -> Steps:
    """Burn CPU for ever."""
    while True:
        yield (OP_RUN, NEVER >> 1)


def napper() -> Steps:
    """Run 1 ms, sleep until the next multiple of 10 ms."""
    for n in range(1, 1000):
        yield (OP_RUN, MS)
        yield (OP_SLEEP, 10 * n * MS)


def box_of(*jobs: Job, version: str = "5.4", nr_cpus: int = 1) -> Box:
    """Return a box of a version."""
    return Box(*jobs, nr_cpus=nr_cpus, rules=rules_of(version), version=version)


def chrt(box: Box, at_ns: int, *words: str) -> None:
    """Give every CPU the command."""
    for cpu in box.cpus:
        box.command(at_ns, cpu.node_id, "chrt", *words)


def said(box: Box) -> list[str]:
    """Return what was answered, by whoever had something to say."""
    done = [m for m in box.engine.answers if m[4] == messages.COMMAND_DONE]
    return [m[5][1] for m in done if m[5][1]]


def books(rq: Rq) -> tuple[Any, ...]:
    """Return what the fair queue counts."""
    cfs = rq.cfs
    return cfs.nr_running, cfs.load_weight, cfs.idle_h_nr_running, rq.nr_running


@pytest.mark.parametrize("version", VERSIONS)
def test_a_waiting_task_that_becomes_real_time_takes_the_cpu_at_once(version: str) -> None:
    box = box_of(Job(hog, "one"), Job(hog, "two"), version=version)
    box.run(50 * MS + 300 * US)
    rq = box.cpus[0].rq
    waits = next(p for p in box.cpus[0].tasks.values() if p.on_rq and p is not rq.curr)
    chrt(box, 50 * MS + 301 * US, waits.comm, "fifo", "10")
    box.run(80 * MS)
    assert [one[2] for one in box.switches() if one[0] > 50 * MS + 300 * US] == [waits.comm]
    assert (rq.curr, waits.sched_class, waits.prio) == (waits, RT_CLASS, 89)
    assert books(rq) == (1, 1 << 20, 0, 2)
    assert said(box) == ["done on CPU 0"]
    # And back: it is far behind nobody, and the two share again.
    chrt(box, 80 * MS, waits.comm, "normal")
    box.run(300 * MS)
    assert (waits.sched_class, waits.prio) == (FAIR_CLASS, 120)
    assert books(rq) == (2, 2 << 20, 0, 2)
    after = [p.sum_exec_runtime for p in box.cpus[0].tasks.values() if p.comm in ("one", "two")]
    assert 299 * MS <= sum(after) <= 300 * MS  # charged at the last tick
    since = [ran - 25 * MS for ran in after]
    assert abs(since[0] - since[1]) < 60 * MS  # 30 ms it was alone, and a slice or two


@pytest.mark.parametrize("version", VERSIONS)
def test_the_running_task_that_leaves_the_real_time_class_gives_way(version: str) -> None:
    rt = Job(hog, "rt", policy="rr", rt_priority=5)
    box = box_of(Job(hog, "fair"), rt, version=version)
    box.run(20 * MS)
    p = box.cpus[0].rq.curr
    assert p.comm == "rt"
    chrt(box, 20 * MS + 3, "rt", "idle")
    box.run(200 * MS)
    fair = next(one for one in box.cpus[0].tasks.values() if one.comm == "fair")
    assert p.weight == 3 << 10
    assert fair.sum_exec_runtime > 170 * MS  # 3 of 1027 parts are the other's
    assert books(box.cpus[0].rq) == (2, (1024 + 3) << 10, 1, 2)


@pytest.mark.parametrize("version", VERSIONS)
def test_load_leaves_with_the_class_and_comes_back(version: str) -> None:
    """A sleeper's averages are its CPU's too, and only while it is a fair task."""
    box = box_of(Job(napper, "nap"), version=version)
    box.run(405 * MS)  # it sleeps
    rq = box.cpus[0].rq
    p = next(one for one in box.cpus[0].tasks.values() if one.comm == "nap")
    assert not p.on_rq
    assert rq.cfs.avg.util_avg > 10
    chrt(box, 405 * MS, "nap", "fifo", "1")
    box.run(405 * MS + 1)
    assert rq.cfs.avg.util_avg == 0
    assert rq.cfs.avg.load_avg == 0
    chrt(box, 408 * MS, "nap", "normal")
    box.run(408 * MS + 1)
    assert rq.cfs.avg.util_avg == p.avg.util_avg > 0
    box.run(800 * MS)
    assert books(rq) == (0, 0, 0, 0)


def test_a_task_born_real_time_may_join_the_fair_ones_and_exit() -> None:
    def short() -> Steps:
        yield (OP_RUN, 30 * MS)

    box = box_of(Job(hog, "hog"), Job(short, "rt", policy="fifo", rt_priority=9))
    chrt(box, 10 * MS, "rt", "normal")
    box.run(200 * MS)
    assert box.cpus[0].exited == [box.pid(1)]
    assert books(box.cpus[0].rq) == (1, 1 << 20, 0, 1)
    assert box.cpus[0].rq.cfs.avg.util_avg <= 1024


def test_one_that_exits_as_a_real_time_task_takes_no_load_along() -> None:
    def short() -> Steps:
        yield (OP_RUN, 30 * MS)

    box = box_of(Job(hog, "hog"), Job(short, "turncoat"))
    chrt(box, 10 * MS, "turncoat", "fifo", "9")
    box.run(200 * MS)
    assert box.cpus[0].exited == [box.pid(1)]
    assert box.cpus[0].rq.cfs.removed_nr == 0
    assert box.cpus[0].rq.cfs.avg.load_avg > 1000


def test_whose_priority_falls_stands_first_in_its_new_line() -> None:
    """ENQUEUE_HEAD: of two equal ones behind the running task, the fallen one is next."""

    def burn() -> Steps:
        yield (OP_RUN, 20 * MS)

    jobs = [
        Job(burn, name, policy="fifo", rt_priority=priority, start_ns=start * MS)
        for name, priority, start in (("top", 30, 1), ("old", 10, 2), ("fallen", 20, 3))
    ]
    box = box_of(*jobs)
    chrt(box, 5 * MS, "fallen", "fifo", "10")
    box.run(70 * MS)
    assert [one[2] for one in box.switches()] == ["top", "fallen", "old", "idle"]


def test_the_running_real_time_task_that_falls_behind_another_gives_way() -> None:
    def burn() -> Steps:
        yield (OP_RUN, 20 * MS)

    jobs = [
        Job(burn, name, policy="fifo", rt_priority=priority, start_ns=start * MS)
        for name, priority, start in (("top", 30, 1), ("next", 10, 2))
    ]
    box = box_of(*jobs)
    chrt(box, 5 * MS, "top", "fifo", "9")
    chrt(box, 6 * MS, "top", "rr", "11")
    box.run(70 * MS)
    assert [(one[0] // MS, one[2]) for one in box.switches()][:3] == [
        (1, "top"),
        (5, "next"),
        (6, "top"),
    ]


def test_real_time_is_for_tasks_of_one_cpu_and_the_stopper_is_left_alone() -> None:
    box = box_of(Job(hog, "hog"), nr_cpus=2)
    stopper = next(p for p in box.cpus[0].tasks.values() if p.comm == "migration/0")
    chrt(box, MS, "hog", "fifo", "1")
    chrt(box, 2 * MS, str(stopper.pid), "normal")
    chrt(box, 3 * MS, "hog", "normal")
    box.run(4 * MS)
    assert said(box) == [
        f"refused: hog may run on 2 CPUs; a real-time task is allowed one here: `taskset {PID} CPU` first",
        "refused: migration/0 is the stopper, whose class is its own",
        "done on CPU 0",
    ]


def test_a_task_that_is_being_woken_is_asked_when_it_has_been() -> None:
    """The waker holds p->pi_lock."""
    box = box_of(Job(napper, "nap"))
    box.run(5 * MS)
    p = next(one for one in box.cpus[0].tasks.values() if one.comm == "nap")
    asleep, p.state = p.state, TASK_WAKING
    chrt(box, 6 * MS, "nap", "batch")
    box.run(6 * MS + 1)
    assert said(box) == []
    p.state = asleep
    box.run(6 * MS + 10 * US)
    assert said(box) == ["done on CPU 0"]
    assert p.policy == 3
