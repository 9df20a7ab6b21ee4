"""io_uring against io-and-workqueue.md D.2 (F24)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.kernel.process import Uring
from emulator.rules import Rules, rules_of
from emulator.types import (
    OP_RUN,
    OP_SLEEP,
    OP_URING_ENTER,
    OP_URING_REAP,
    READ,
    WRITE,
    DiskSpec,
    Op,
)
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, costs, null_blk, scsi_debug

BEGIN = 1 * MS
CALLER = Rules(uring_task_work=True, dio_caller_comp=True)


def uring_box(
    *ops: Op,
    rules: Rules = CALLER,
    disk: DiskSpec | None = None,
    file: dict[str, Any] | None = None,
    mount: str = "/xfs",
    **charges: int,
) -> Box:
    """Run operations of one fio."""

    def steps() -> Steps:
        yield from (op for op in ops)
        yield (OP_SLEEP, 1000 * MS)

    charged = {"dio_complete_ns": 400, "dio_tail_ns": 200, "task_work_ns": 300} | charges
    return Box(
        Job(steps, name="fio", disk=mount, start_ns=BEGIN, file=file or {}),
        hz=100,
        disk=disk or scsi_debug(41 * US),
        charges=costs(**charged),
        sysctls=QUIET,
        rules=rules,
    ).run(5 * MS)


def enter(rw: int, *offsets: int) -> Op:
    """Return io_uring_enter() of IOs of 4 KiB."""
    return (OP_URING_ENTER, [(n, rw, 0, offset, 4096) for n, offset in enumerate(offsets)])


def poster(box: Box) -> str:
    """Return in which context the entry was written."""
    (event,) = box.events("box_aio_complete")
    if event[2]["flags"] & 12:
        return "interrupt"
    return box.comm(event[2]["current"]).partition("/")[0]


def works(box: Box) -> int:
    """Return how many items were queued to the dio workqueue."""
    return len(box.times("workqueue_queue_work", workqueue="dio/sda"))


@pytest.mark.parametrize(
    ("version", "rw", "who", "items"),
    [
        ("5.4", WRITE, "kworker", 1),
        ("5.4", READ, "interrupt", 0),
        ("5.10", READ, "interrupt", 0),
        ("5.15", WRITE, "fio", 1),
        ("5.15", READ, "fio", 0),
        ("6.1", WRITE, "fio", 1),
        ("6.6", WRITE, "fio", 0),
        ("6.12", WRITE, "fio", 0),
        ("6.6", READ, "fio", 0),
    ],
)
def test_D_2_who_completes_by_version(version: str, rw: int, who: str, items: int) -> None:
    rules = rules_of(version)
    only = Rules(uring_task_work=rules.uring_task_work, dio_caller_comp=rules.dio_caller_comp)
    box = uring_box(enter(rw, 0), (OP_URING_REAP, 1, 1), rules=only)
    assert (poster(box), works(box)) == (who, items)
    assert box.script().calls[1][1] == 1
    assert box.script().calls[2][1] == [(0, 4096)]


def test_D_2_task_work_interrupts_user_code() -> None:
    """The interrupt returns to fio's own code: its completions come first, the rest goes on."""
    box = uring_box(enter(WRITE, 0), (OP_RUN, 100 * US), (OP_URING_REAP, 1, 1), aio_ring_ns=100)
    (done,) = box.times("box_aio_complete")
    assert done == BEGIN + 41 * US + 300 + 400
    assert box.times("sched_waking", pid=box.pid(0)) == []
    ran, reaped = box.script().calls[2:4]
    assert ran[0] == BEGIN + 100 * US + 700
    assert reaped == (ran[0] + 100, [(0, 4096)])


def test_D_2_the_wait_is_woken_and_runs_its_task_work() -> None:
    box = uring_box(enter(WRITE, 0), (OP_URING_REAP, 1, 1))
    (waking,) = [e for e in box.events("sched_waking") if e[2]["pid"] == box.pid(0)]
    assert waking[2]["flags"] & 8  # the BLOCK softirq
    assert box.script().calls[2] == (BEGIN + 41 * US + 700, [(0, 4096)])


@pytest.mark.parametrize(
    "file",
    [
        {"layout": "unwritten", "size": 1 << 20},
        {"layout": "written", "size": 1 << 20, "eof": 0},
        {"layout": "written", "size": 1 << 20, "open_sync": "sync"},
    ],
)
def test_D_2_what_is_no_pure_overwrite_still_goes_through_the_worker(file: dict[str, Any]) -> None:
    box = uring_box(enter(WRITE, 0), (OP_URING_REAP, 1, 1), file=file)
    assert (poster(box), works(box)) == ("fio", 1)


def test_D_2_a_bio_that_ends_at_once_is_completed_by_the_submission() -> None:
    box = uring_box(enter(WRITE, 0), (OP_URING_REAP, 1, 1), disk=null_blk(0))
    assert (poster(box), works(box)) == ("fio", 0)
    assert box.script().calls[2] == (BEGIN, [(0, 4096)])


def test_entries_are_taken_without_a_system_call_if_there_are_enough() -> None:
    """Five IOs, taken by 2: the system call is paid once, to wait."""
    box = uring_box(
        enter(READ, *(4096 * n for n in range(5))),
        *[(OP_URING_REAP, 2, 2)] * 2,
        (OP_URING_REAP, 0, 8),
        syscall_ns=1 * US,
        aio_ring_ns=100,
    )
    calls = box.script().calls
    taken = [data for _, result in calls[2:5] for data, _ in result]
    assert taken == list(range(5))
    assert [calls[n + 1][0] - calls[n][0] for n in (2, 3)] == [100, 100]


@settings(deadline=None, max_examples=25)
@given(
    batches=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 60)), min_size=1, max_size=6),
    version=st.sampled_from(["5.4", "5.15", "6.6"]),
    rw=st.sampled_from([READ, WRITE]),
)
def test_every_completion_is_delivered_once(
    batches: list[tuple[int, int]], version: str, rw: int
) -> None:
    seen: list[int] = []
    total = sum(nr for nr, _ in batches)

    def steps() -> Steps:
        number = 0
        for nr, run_us in batches:
            sqes = [(number + n, rw, 0, 4096 * (number + n), 4096) for n in range(nr)]
            number += nr
            assert (yield (OP_URING_ENTER, sqes)) == nr
            yield (OP_RUN, run_us * US)
            seen.extend(data for data, _ in (yield (OP_URING_REAP, 0, 3)))
        while len(seen) < total:
            seen.extend(data for data, _ in (yield (OP_URING_REAP, 1, 4)))
        yield (OP_SLEEP, 1000 * MS)

    rules = rules_of(version)
    box = Box(
        Job(steps, name="fio", disk="/xfs", start_ns=BEGIN),
        hz=100,
        disk=scsi_debug(41 * US),
        charges=costs(dio_complete_ns=400, task_work_ns=300, io_submit_ns=2000),
        sysctls=QUIET,
        rules=Rules(uring_task_work=rules.uring_task_work, dio_caller_comp=rules.dio_caller_comp),
    ).run(9 * MS)
    assert sorted(seen) == list(range(total))
    assert box.task().run.outstanding() == 0
    assert box.task().run.iocbs == {}


def test_a_ring_packs() -> None:
    ring = Uring()
    ring.cqes = [(1, 4096), (2, -5)]
    ring.works = [[0, 7, 0], [3, 4096, 2]]
    again = Uring.unpack(ring.pack())
    assert (again.cqes, again.works) == (ring.cqes, ring.works)
