"""Polled IO against io-and-workqueue.md A.8: who looks, when it gives way, what ends where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emulator.kernel.blk_stat import POLL_STATS_NS, PollStats, poll_stats_bucket
from emulator.kernel.request import Request
from emulator.rules import Rules, rules_of
from emulator.types import (
    OP_RUN,
    OP_RW,
    OP_SLEEP,
    OP_URING_ENTER,
    OP_URING_REAP,
    READ,
    WRITE,
    DiskSpec,
    Op,
)
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, costs, null_blk

BEGIN = 1 * MS
#: A flash disk with two queues that interrupt and one that is polled; every IO takes 80 µs.
PARAMS = {
    "gb": 4,
    "hw_queue_depth": 64,
    "read_ns": 80_000,
    "write_ns": 80_000,
    "units": 64,
    "sigma_percent": 0,
    "tail_ppm": 0,
    "timeout_ms": 30_000,
    "reset_ns": 100 * MS,
    "submit_queues": 2,
    "poll_queues": 1,
    "poll_nsec": -1,
}
NVME = DiskSpec("sda", "nvme", PARAMS, "none", 1, 64, vectors=(1, 2), managed=True, preset="p4500")
CHARGES = {"coherence_ns": 100, "ipi_ns": 500, "ttwu_activate_ns": 500, "blk_poll_ns": 200}


def disk(**params: int) -> DiskSpec:
    """Return the disk with other parameters."""
    return replace(NVME, params=PARAMS | params)


def poll_box(
    *ops: Op,
    others: tuple[Job, ...] = (),
    spec: DiskSpec = NVME,
    rules: Rules = Rules(),
    mount: str = "/raw",
    hz: int = 100,
    until_ns: int = 5 * MS,
    command: tuple[Any, ...] = (),
    **charges: int,
) -> Box:
    """Run operations of one fio on CPU 0, and perhaps other tasks."""

    def steps() -> Steps:
        yield from (op for op in ops)
        yield (OP_SLEEP, 10_000 * MS)

    box = Box(
        Job(steps, name="fio", disk=mount, start_ns=BEGIN),
        *others,
        nr_cpus=2,
        hz=hz,
        disk=spec,
        charges=costs(**(CHARGES | charges)),
        sysctls=QUIET,
        rules=rules,
    )
    if command:
        box.command(*command)
    return box.run(until_ns)


def enter(rw: int, nr: int = 1) -> Op:
    """Return io_uring_enter() of some IOs of 4 KiB, by a ring that is polled."""
    return (OP_URING_ENTER, [(n, rw, 0, n * 4096, 4096) for n in range(nr)], True)


def reap(nr: int = 1) -> Op:
    return (OP_URING_REAP, nr, nr)


def completions(box: Box) -> list[tuple[int, str, int]]:
    """Return when each request ended, in which task, on which CPU; "interrupt" if in none."""
    return [
        (
            t,
            "interrupt" if args["flags"] & 12 else box.comm(args["current"]).partition("/")[0],
            args["on"],
        )
        for t, _, args in box.events("block_rq_complete")
    ]


def interrupts(box: Box) -> int:
    """Return how often the device has interrupted."""
    return len(box.events("irq_handler_entry"))


def test_A_8_a_polled_read_ends_in_its_submitter_and_nothing_interrupts() -> None:
    box = poll_box(enter(READ), reap(), blk_end_request_ns=500)
    (issued,) = box.times("block_rq_issue")
    # It is there after 80 µs; the look that is then under way sees it, and its end takes 500 ns.
    assert completions(box) == [(issued + 80 * US + 200 + 500, "fio", 0)]
    assert interrupts(box) == 0
    assert box.script().calls[-1][1] == [(0, 4096)]
    assert not any(prev == "fio" and t < issued + 80 * US for t, prev, _ in box.switches())


def test_blk_poll_ends_everything_that_one_look_finds() -> None:
    box = poll_box(enter(READ, 3), (OP_RUN, 200 * US), reap(1), blk_end_request_ns=500)
    ends = [t for t, _, _ in completions(box)]
    assert [ends[1] - ends[0], ends[2] - ends[1]] == [500, 500]
    assert len(box.events("box_aio_complete")) == 3


def test_io_iopoll_check_gives_way_when_need_resched_and_comes_again() -> None:
    def hog() -> Steps:
        yield (OP_RUN, 60 * MS)

    other = Job(hog, name="hog", mask=1, start_ns=BEGIN)
    box = poll_box(
        *(step for _ in range(800) for step in (enter(READ), reap())),
        others=(other,),
        hz=1000,
        until_ns=200 * MS,
    )
    assert interrupts(box) == 0
    assert len(completions(box)) == 800
    # Both are on CPU 0 and neither sleeps: the tick makes the poller give way, in its loop.
    assert sum(prev == "fio" and following == "hog" for _, prev, following in box.switches()) >= 2
    # Then the balancer pushes it to the idle CPU, as any task that runs.
    assert {cpu for _, _, cpu in completions(box)} == {0, 1}


def test_the_worker_of_a_polled_write_waits_until_the_poller_gives_way() -> None:
    box = poll_box(enter(WRITE), reap(), mount="/xfs", until_ns=40 * MS)
    ((ended, who, _),) = completions(box)
    assert who == "fio"
    (queued,) = box.times("workqueue_queue_work", workqueue="dio/sda")
    assert queued == ended
    (started,) = box.times("workqueue_execute_start")
    # Wakeups preempt nobody here: the worker gets the CPU at a tick (every 10 ms).
    assert started - queued > 5 * MS
    assert any(prev == "fio" and t <= started for t, prev, _ in box.switches())
    assert interrupts(box) == 0


@pytest.mark.parametrize(
    ("version", "mount", "rw", "who"),
    [
        ("5.4", "/xfs", WRITE, "fio"),
        ("5.15", "/xfs", WRITE, "fio"),
        ("6.1", "/raw", WRITE, "fio"),
        ("6.6", "/xfs", WRITE, "interrupt"),  # its end needs a worker
        ("6.6", "/raw", WRITE, "fio"),
        ("6.12", "/xfs", READ, "fio"),
    ],
)
def test_which_ios_of_a_polled_ring_are_polled(version: str, mount: str, rw: int, who: str) -> None:
    box = poll_box(enter(rw), reap(), mount=mount, rules=rules_of(version), until_ns=40 * MS)
    assert [by for _, by, _ in completions(box)] == [who]
    assert interrupts(box) == (who == "interrupt")
    assert len(box.events("box_aio_complete")) == 1


@pytest.mark.parametrize(("version", "polls"), [("5.4", 1), ("5.15", 1), ("6.1", 0)])
def test_pwritev2_polls_up_to_5_18_and_needs_no_worker(version: str, polls: int) -> None:
    box = poll_box((OP_RW, WRITE, 0, 0, 4096, True), mount="/xfs", rules=rules_of(version))
    assert interrupts(box) == 1 - polls
    assert len(box.times("workqueue_queue_work", workqueue="dio/sda")) == 0
    (issued,) = box.times("block_rq_issue")
    slept = [t for t, prev, _ in box.switches() if prev == "fio" and t < issued + 80 * US]
    assert len(slept) == 1 - polls


def test_without_polled_queues_the_ring_spins_and_pwritev2_sleeps() -> None:
    box = poll_box(enter(READ), reap(), spec=disk(poll_queues=0))
    assert interrupts(box) == 1
    (done,) = box.times("box_aio_complete")
    assert not any(prev == "fio" and t < done for t, prev, _ in box.switches())
    box = poll_box((OP_RW, READ, 0, 0, 4096, True), spec=disk(poll_queues=0))
    assert interrupts(box) == 1
    assert [prev for _, prev, _ in box.switches()].count("fio") == 2


def test_without_polled_queues_6_12_fails_with_EOPNOTSUPP() -> None:
    box = poll_box(enter(READ), reap(), spec=disk(poll_queues=0), rules=rules_of("6.12"))
    assert box.script().calls[-1][1] == [(0, -95)]
    assert not box.events("block_rq_issue")


def test_null_blk_is_done_at_the_first_look() -> None:
    spec = null_blk(2, completion_nsec=50_000)
    spec = replace(spec, params=spec.params | {"poll_queues": 1})
    box = poll_box(enter(READ), (OP_RUN, 30 * US), reap(), spec=spec)
    ((ended, who, _),) = completions(box)
    (issued,) = box.times("block_rq_issue")
    assert who == "fio"
    assert ended - issued == 30 * US + 200


def test_a_poller_that_is_moved_finds_its_requests_where_it_is() -> None:
    box = poll_box(
        enter(READ, 2),
        reap(2),
        command=(BEGIN + 40 * US, 0, "task", "affine", "fio", "1"),
    )
    assert [(who, cpu) for _, who, cpu in completions(box)] == [("fio", 1), ("fio", 1)]
    (issued, _) = box.times("block_rq_issue")
    # The entry is seen one coherence latency late there.
    assert completions(box)[0][0] == issued + 80 * US + 100 + 200
    assert interrupts(box) == 0
    assert sum(cpu.counters.get("polled_completions", 0) for cpu in box.cpus) == 2


def test_a_poller_without_a_tag_polls_until_it_has_one() -> None:
    spec = replace(disk(hw_queue_depth=2), nr_requests=2)
    box = poll_box(enter(READ, 5), reap(5), spec=spec)
    assert [data for data, _ in box.script().calls[-1][1]] == [0, 1, 2, 3, 4]
    assert interrupts(box) == 0


# -- Hybrid polling -----------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "sleeps"), [("5.4", 1), ("6.1", 1), ("6.6", 0)])
def test_io_poll_delay_sleeps_once_before_it_polls(version: str, sleeps: int) -> None:
    spec = disk(poll_nsec=50 * US)
    box = poll_box(enter(READ), reap(), spec=spec, rules=rules_of(version))
    ((ended, who, _),) = completions(box)
    assert who == "fio"
    (issued,) = box.times("block_rq_issue")
    slept = [t for t, prev, _ in box.switches() if prev == "fio" and t < ended]
    assert len(slept) == sleeps
    woken = [t for t in box.times("sched_waking", pid=box.pid(0)) if issued < t < ended]
    assert woken == ([issued + 200 + 50 * US] if sleeps else [])


def test_io_poll_delay_0_sleeps_half_of_what_the_last_window_took() -> None:
    rounds = 3000
    box = poll_box(
        *(step for _ in range(rounds) for step in (enter(READ), reap())),
        spec=disk(poll_nsec=0),
        until_ns=300 * MS,
    )
    slept = [t for t, prev, _ in box.switches() if prev == "fio"]
    first = completions(box)[0][0]
    # The window opens with the first request that is over.
    assert slept[0] > first + POLL_STATS_NS
    (waking,) = [t for t in box.times("sched_waking", pid=box.pid(0)) if t > slept[0]][:1]
    # 80 µs, and the look that found it: half of that, one look after the issue.
    issued = max(t for t in box.times("block_rq_issue") if t <= slept[0])
    assert waking - issued == 200 + (80 * US + 200 + 1) // 2


def test_blk_mq_poll_stats_bkt() -> None:
    rq = Request()
    for rw, nr_sector, bucket in ((READ, 8, 6), (WRITE, 1, 1), (READ, 2048, 14), (WRITE, 256, 15)):
        rq.rw, rq.nr_sector = rw, nr_sector
        assert poll_stats_bucket(rq) == bucket


def test_poll_stats_go_by_whole_windows() -> None:
    stats = PollStats()
    stats.add(6, 80, 1_000)
    stats.add(6, 100, 2_000)
    assert stats.half_mean_ns(6, 3_000) == 0
    assert stats.half_mean_ns(6, 1_000 + POLL_STATS_NS) == 45
    again = PollStats()
    again.unpack(stats.pack())
    assert again.half_mean_ns(6, 2_000 + POLL_STATS_NS) == 45
    assert again.half_mean_ns(7, 2_000 + POLL_STATS_NS) == 0
