"""Running a hardware queue against io-and-workqueue.md A.5: what a completion finds pending, and when."""

from __future__ import annotations

import pytest

from emulator.rules import Rules, rules_of
from emulator.types import OP_IO_SUBMIT, OP_RUN, OP_SLEEP, WRITE
from tests.kernel.box import MS, US, Box, Job, Steps, costs, scsi_debug

CHARGES = costs(io_submit_ns=1 * US, dispatch_ns=4 * US)
RUN_WORK = "blk_mq_run_work_fn"


def two_writes(apart_ns: int, rules: Rules = Rules(), warm_ns: int = 20 * MS) -> Box:
    """Write twice; 41 us after the first issue, with the given time between, its timer expires."""

    def steps() -> Steps:
        yield (OP_RUN, warm_ns)
        yield (OP_IO_SUBMIT, [(0, WRITE, 0, 0, 4096)])
        yield (OP_RUN, apart_ns)
        yield (OP_IO_SUBMIT, [(1, WRITE, 0, 4096, 4096)])
        yield (OP_RUN, 1 * MS)

    job = Job(steps, name="fio", disk="/xfs")
    return Box(job, disk=scsi_debug(41 * US), charges=CHARGES, rules=rules).run(40 * MS)


def works(box: Box) -> list[str]:
    """Return the functions that were queued."""
    return [e[2]["function"] for e in box.events("workqueue_queue_work")]


def test_A_5_the_request_that_the_driver_has_in_hand_is_not_pending() -> None:
    """The first write ends while the second is on its way from the elevator to the device."""
    box = two_writes(38 * US)
    first, second = box.times("block_rq_issue")
    assert second - first == 38 * US + 5 * US
    [completed, _] = box.times("block_rq_complete")
    assert second - 4 * US < completed < second
    assert works(box) == ["iomap_dio_complete_work"] * 2


@pytest.mark.parametrize(("busy_only", "runs"), [(False, 1), (True, 0)])
def test_A_5_a_scsi_command_that_ends_runs_the_queues_up_to_5_9(busy_only: bool, runs: int) -> None:
    """The first of a plug of 16 ends while the elevator holds others of them."""

    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(n, WRITE, 0, n * 4096, 4096) for n in range(16)])
        yield (OP_SLEEP, 50 * MS)

    job = Job(steps, name="fio", disk="/xfs")
    rules = Rules(scsi_run_queue_busy=busy_only)
    box = Box(job, disk=scsi_debug(41 * US), charges=CHARGES, rules=rules).run(20 * MS)
    assert works(box).count(RUN_WORK) == runs
    assert len(box.times("box_aio_complete")) == 16


@pytest.mark.parametrize(("checks", "runs"), [(False, 0), (True, 1)])
def test_A_5_a_round_that_ends_with_need_resched_is_left_to_kblockd_from_5_18(
    checks: bool, runs: int
) -> None:
    """The first write's end wakes a worker that preempts, during the dispatch of the second."""
    box = two_writes(38 * US, Rules(scsi_run_queue_busy=True, dispatch_need_resched=checks))
    assert works(box).count(RUN_WORK) == runs
    issued = box.events("block_rq_issue")
    assert [box.comm(e[2]["current"]) for e in issued] == ["fio", "fio"]  # nothing is left for it
    if runs:
        [queued] = box.times("workqueue_queue_work", function=RUN_WORK)
        assert queued == issued[1][0]


def test_A_5_no_reschedule_pending_leaves_nothing_to_kblockd() -> None:
    box = two_writes(60 * US, Rules(scsi_run_queue_busy=True, dispatch_need_resched=True))
    assert RUN_WORK not in works(box)


def test_A_5_queue_work_of_run_work_takes_its_time_before_the_wakeup() -> None:
    """Three writes of one plug; the first ends while the third waits in the elevator."""

    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(n, WRITE, 0, n * 4096, 4096) for n in range(3)])
        yield (OP_SLEEP, 50 * MS)

    charges = costs(dispatch_ns=4 * US, queue_work_ns=700)
    job = Job(steps, name="fio", disk="/xfs")
    box = Box(job, disk=scsi_debug(3 * US), charges=charges).run(20 * MS)
    [queued, *_] = box.times("workqueue_queue_work", function=RUN_WORK)
    woken = [t for t in box.times("sched_waking") if t >= queued]
    assert woken[0] == queued + 700


def test_A_5_which_versions_go_by_which_rule() -> None:
    for version, busy_only, checks in (
        ("5.4", False, False),
        ("5.10", True, False),
        ("5.15", True, True),
        ("6.1", True, True),
    ):
        rules = rules_of(version)
        assert rules.scsi_run_queue_busy == busy_only
        assert rules.dispatch_need_resched == checks


def test_scsi_debug_copies_to_its_memory_inside_queue_rq() -> None:
    def issued(size: int) -> int:
        def steps() -> Steps:
            yield (OP_IO_SUBMIT, [(0, WRITE, 0, 0, size)])
            yield (OP_SLEEP, 50 * MS)

        charges = costs(dispatch_ns=4 * US, store_ps_per_byte=1000)
        job = Job(steps, name="fio", disk="/xfs")
        box = Box(job, disk=scsi_debug(41 * US), charges=charges).run(20 * MS)
        [insert], [issue] = box.times("block_rq_insert"), box.times("block_rq_issue")
        return issue - insert

    assert [issued(4096), issued(8192)] == [4 * US + 4096, 4 * US + 8192]
