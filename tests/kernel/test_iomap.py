"""Direct IO against io-and-workqueue.md 0.1, D.6 and D.7."""

from __future__ import annotations

import pytest

from emulator.kernel import wq_pool
from emulator.kernel.xfs_file import FileFacts, unaligned
from emulator.rules import Rules, rules_of
from emulator.types import (
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_RW,
    OP_SETAFFINITY,
    READ,
    WRITE,
    DiskSpec,
    Op,
)
from tests.kernel.box import (
    MS,
    QUIET,
    US,
    Box,
    Event,
    Job,
    Steps,
    costs,
    null_blk,
    scsi_debug,
)

BEGIN = 1 * MS
STORY = (
    "box_io_submit",
    "box_aio_complete",
    "block_rq_issue",
    "block_rq_complete",
    "hrtimer_expire_entry",
    "sched_switch",
    "sched_waking",
    "sched_migrate_task",
    "softirq_raise",
    "softirq_entry",
    "softirq_exit",
    "workqueue_queue_work",
    "workqueue_activate_work",
    "workqueue_execute_start",
    "workqueue_execute_end",
)


def one_io(
    op: Op,
    *,
    disk: DiskSpec | None = None,
    mount: str = "/xfs",
    block_size: int = 4096,
    nr_cpus: int = 1,
    spin: bool = False,
    cpu: int = 0,
    rules: Rules = Rules(),
) -> Box:
    """Run one IO on a quiet box; ``spin`` keeps the submitter busy instead of asleep."""

    # On another CPU fio starts later than the kworker needs for the rest of its item.
    remote = {"ttwu_activate_ns": 50, "ipi_ns": 50, "idle_exit_ns": 1000} if nr_cpus > 1 else {}

    def steps() -> Steps:
        yield op
        if op[0] == OP_IO_SUBMIT:
            if spin:
                yield (OP_RUN, 200 * US)
            yield (OP_IO_GETEVENTS, 1, 1)

    return Box(
        Job(steps, name="fio", disk=mount, start_ns=BEGIN, cpu=cpu),
        nr_cpus=nr_cpus,
        hz=100,
        disk=disk or scsi_debug(41 * US),
        block_size=block_size,
        charges=costs(dio_complete_ns=400, dio_tail_ns=200, worker_sleep_ns=500, **remote),
        sysctls=QUIET,
        rules=rules,
    ).run(3 * MS)


def submit(rw: int, offset: int, length: int) -> Op:
    """Return io_submit() of one IO."""
    return (OP_IO_SUBMIT, [(9, rw, 0, offset, length)])


def completer(box: Box) -> str:
    """Return in which context the ring's event was written."""
    (event,) = box.events("box_aio_complete")
    if event[2]["flags"] & 8:
        return "softirq"
    if event[2]["flags"] & 4:
        return "hardirq"
    return box.comm(event[2]["current"]).partition("/")[0]


def dio_works(box: Box) -> int:
    """Return how many items were queued to the dio workqueue."""
    return len(box.times("workqueue_queue_work", workqueue="dio/sda"))


def fio_slept_in_submit(box: Box) -> bool:
    """Whether fio slept uninterruptibly before io_submit() returned."""
    returned = box.times("box_io_submit")[0]
    return any(
        e[0] <= returned and e[2]["prev"] == box.pid(0) and e[2]["prev_state"] == 2
        for e in box.events("sched_switch")
    )


# -- D.7 ------------------------------------------------------------------------------------------


def test_vector_D_7_1_aio_read_of_one_hardware_queue() -> None:
    box = one_io(submit(READ, 0, 4096))
    assert (completer(box), dio_works(box)) == ("softirq", 0)


def test_vector_D_7_1_aio_read_of_several_hardware_queues() -> None:
    box = one_io(submit(READ, 0, 4096), disk=null_blk(2, submit_queues=4))
    assert (completer(box), dio_works(box)) == ("hardirq", 0)


def test_vector_D_7_2_aio_write_4k_aligned_overwrite() -> None:
    box = one_io(submit(WRITE, 4096, 4096))
    assert (completer(box), dio_works(box)) == ("kworker", 1)
    assert not fio_slept_in_submit(box)


@pytest.mark.parametrize("rw", [READ, WRITE])
def test_vector_D_7_3_pwrite_4k(rw: int) -> None:
    """The submitter completes it, woken by the softirq."""
    box = one_io((OP_RW, rw, 0, 0, 4096))
    assert dio_works(box) == 0
    assert box.events("box_aio_complete") == []
    (waking,) = [e for e in box.events("sched_waking") if e[2]["pid"] == box.pid(0)]
    assert waking[2]["flags"] & 8
    assert waking[0] == BEGIN + 41 * US
    assert box.script().calls[1] == (BEGIN + 41 * US, 0)


def test_vector_D_7_4_aio_write_512_on_4k_blocks() -> None:
    box = one_io(submit(WRITE, 512, 512))
    assert dio_works(box) == 1
    assert fio_slept_in_submit(box)
    # The kworker completes the dio and wakes fio; the last reference, and so the event, is fio's.
    (waking,) = [e for e in box.events("sched_waking") if e[2]["pid"] == box.pid(0)]
    assert box.comm(waking[2]["current"]).startswith("kworker/0:")
    assert completer(box) == "fio"


def test_vector_D_7_4_a_second_sleep_waits_for_ios_in_flight() -> None:
    """An aligned write is in flight when the unaligned one comes: it waits before it submits."""

    def steps() -> Steps:
        yield submit(WRITE, 0, 4096)
        yield (OP_IO_SUBMIT, [(1, WRITE, 0, 512, 512)])
        yield (OP_IO_GETEVENTS, 2, 2)

    box = Box(
        Job(steps, name="fio", disk="/xfs", start_ns=BEGIN),
        hz=100,
        disk=scsi_debug(41 * US),
        charges=costs(dio_complete_ns=400, dio_tail_ns=200),
        sysctls=QUIET,
    ).run(3 * MS)
    assert box.times("block_rq_issue") == [BEGIN, BEGIN + 41 * US + 600]
    sleeps = [
        e[0]
        for e in box.events("sched_switch")
        if e[2]["prev"] == box.pid(0) and e[2]["prev_state"] == 2
    ]
    assert sleeps == [BEGIN, BEGIN + 41 * US + 600]
    assert [result for _, result in box.script().calls[1:3]] == [1, 1]


def test_vector_D_7_5_aio_write_512_on_512_byte_blocks() -> None:
    box = one_io(submit(WRITE, 512, 512), block_size=512)
    assert (completer(box), dio_works(box)) == ("kworker", 1)
    assert not fio_slept_in_submit(box)


def test_vector_D_7_6_on_5_6_the_end_of_the_bio_wakes_the_submitter() -> None:
    box = one_io(submit(WRITE, 512, 512), rules=rules_of("5.6"))
    assert (completer(box), dio_works(box)) == ("fio", 0)
    assert fio_slept_in_submit(box)


@pytest.mark.parametrize("version", ["5.15", "6.1"])
def test_vector_D_7_7_on_5_14_an_overwrite_is_asynchronous(version: str) -> None:
    box = one_io(submit(WRITE, 512, 512), rules=rules_of(version))
    assert (completer(box), dio_works(box)) == ("kworker", 1)
    assert not fio_slept_in_submit(box)


def test_D_6_on_5_14_sub_block_writes_are_in_flight_together() -> None:
    def steps() -> Steps:
        for n in range(3):
            yield (OP_IO_SUBMIT, [(n, WRITE, 0, 512 * (n + 1), 512)])
        yield (OP_IO_GETEVENTS, 3, 3)

    box = Box(
        Job(steps, disk="/xfs", start_ns=BEGIN),
        hz=100,
        disk=scsi_debug(41 * US),
        charges=costs(io_submit_ns=1000),
        sysctls=QUIET,
        rules=rules_of("6.1"),
    ).run(3 * MS)
    assert max(box.times("block_rq_issue")) < min(box.times("block_rq_complete"))


def test_vector_D_7_9_aio_write_of_100_bytes() -> None:
    box = one_io(submit(WRITE, 0, 100))
    assert (completer(box), dio_works(box)) == ("fio", 0)
    assert box.script().calls[1][1] == 1
    assert box.script().calls[2][1] == [(9, -22)]
    assert box.times("block_rq_issue") == []


@pytest.mark.parametrize("length", [4096, 512])
def test_vector_D_7_10_device_done_before_iomap_drops_its_reference(length: int) -> None:
    box = one_io(submit(WRITE, 0, length), disk=null_blk(0))
    assert (completer(box), dio_works(box)) == ("fio", 0)
    assert not fio_slept_in_submit(box)
    assert box.script().calls[1:3] == [(BEGIN, 1), (BEGIN, [(9, length)])]


def test_D_7_10_several_hardware_queues_of_irqmode_1_end_in_the_submitter() -> None:
    box = one_io(submit(WRITE, 0, 4096), disk=null_blk(1, submit_queues=2))
    assert (completer(box), dio_works(box)) == ("fio", 0)


def test_D_7_10_under_the_plug_of_a_batch_the_reference_is_dropped_first() -> None:
    """io_submit() of 3: dispatch comes after iomap_dio_rw() has returned, so a worker completes."""

    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(n, WRITE, 0, n * 4096, 4096) for n in range(3)])
        yield (OP_IO_GETEVENTS, 3, 3)

    box = Box(Job(steps, name="fio", disk="/xfs", start_ns=BEGIN), disk=null_blk(0)).run(3 * MS)
    assert dio_works(box) == 3
    writers = {box.comm(e[2]["current"]) for e in box.events("box_aio_complete")}
    assert writers == {"kworker/0:1"}


def test_vector_D_7_11_raw_block_device_write() -> None:
    box = one_io(submit(WRITE, 0, 4096), mount="/raw")
    assert (completer(box), dio_works(box)) == ("softirq", 0)


# -- D.2 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beside_a_hog", "wakeup_ns"), [(False, 700), (True, 0)])
def test_D_2_a_worker_pays_for_waking_a_submitter_of_another_cpu_that_is_idle(
    beside_a_hog: bool, wakeup_ns: int
) -> None:
    """The submitter goes to CPU 1 while its IO is in flight, which ends on CPU 0."""

    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(0, WRITE, 0, 0, 4096)])
        yield (OP_SETAFFINITY, 2)
        yield (OP_IO_GETEVENTS, 1, 1)

    def burn() -> Steps:
        yield (OP_RUN, 20 * MS)

    hog = [Job(burn, name="hog", cpu=1, mask=2)] if beside_a_hog else []
    charges = costs(
        dio_complete_ns=400,
        dio_tail_ns=200,
        select_task_rq_ns=300,
        ttwu_activate_ns=400,
        ipi_ns=100,
        coherence_ns=20,
    )
    box = Box(
        Job(steps, name="fio", disk="/xfs", start_ns=BEGIN),
        *hog,
        nr_cpus=2,
        disk=scsi_debug(5 * MS),
        charges=charges,
    ).run(BEGIN + 15 * MS)
    assert len(box.times("box_aio_complete", cpu=1)) == 1
    [begin] = box.times("workqueue_execute_start", cpu=0)
    [end] = box.times("workqueue_execute_end", cpu=0)
    assert end - begin == 600 + wakeup_ns


@pytest.mark.parametrize(
    ("op", "mount", "by"),
    [
        (submit(WRITE, 4096, 4096), "/xfs", "softirq"),
        (submit(READ, 4096, 4096), "/xfs", "softirq"),
        (submit(WRITE, 4096, 4096), "/raw", "softirq"),
    ],
)
def test_D_2_from_6_19_a_pure_overwrite_is_completed_where_its_bio_ends(
    op: Op, mount: str, by: str
) -> None:
    box = one_io(op, mount=mount, rules=Rules(dio_overwrite_inline=True))
    assert (completer(box), dio_works(box)) == (by, 0)


# -- D.6 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fs", "block", "offset", "length", "serial"),
    [
        ("xfs", 4096, 0, 4096, False),
        ("xfs", 4096, 4096, 8192, False),
        ("xfs", 4096, 512, 512, True),
        ("xfs", 4096, 0, 512, True),
        ("xfs", 4096, 3584, 512, True),
        ("xfs", 4096, 3584, 4096, True),
        ("xfs", 512, 512, 512, False),
        ("none", 512, 512, 512, False),
    ],
)
def test_D_6_unaligned(fs: str, block: int, offset: int, length: int, serial: bool) -> None:
    assert unaligned(FileFacts(0, fs, block, 0, fs == "xfs"), offset, length) is serial


def story(box: Box) -> list[str]:
    """Return the life of one IO as lines: event, who, on which CPU."""
    issued = box.times("block_rq_issue")[0]
    return [line_of(box, event) for event in box.events(*STORY, since_ns=issued + 1)]


def line_of(box: Box, event: Event) -> str:
    """Return one event as a short line."""
    _, name, args = event
    current = box.comm(args["current"])
    where = f"{current}@{args['on']}"
    if name == "sched_switch":
        return f"switch {box.comm(args['prev'])}->{box.comm(args['next'])} @{args['on']}"
    if name == "sched_waking":
        return f"waking {box.comm(args['pid'])} by {where}"
    if name == "sched_migrate_task":
        return f"migrate {box.comm(args['pid'])} {args['orig_cpu']}->{args['dest_cpu']} by {where}"
    if name.startswith("softirq"):
        return f"{name} {args['vec']} on {where}"
    return f"{name} {where}"


def test_vector_D_6_event_order_of_a_512_byte_write() -> None:
    box = one_io(submit(WRITE, 512, 512), nr_cpus=4, cpu=3)
    (issue,) = box.events("block_rq_issue")
    assert (box.comm(issue[2]["current"]), issue[2]["on"]) == ("fio", 3)
    switch = next(
        e for e in box.events("sched_switch", since_ns=BEGIN) if e[2]["prev"] == box.pid(0)
    )
    assert (switch[2]["next"], switch[2]["prev_state"]) == (0, 2)
    queued = next(e for e in box.events("workqueue_queue_work") if e[2]["workqueue"] == "dio/sda")
    assert queued[2]["function"] == "iomap_dio_complete_work"
    assert (queued[2]["req_cpu"], queued[2]["cpu"]) == (wq_pool.WORK_CPU_UNBOUND, 3)
    target = next(e[2]["dest_cpu"] for e in box.events("sched_migrate_task"))
    assert target != 3
    assert story(box) == [
        "hrtimer_expire_entry idle@3",
        "softirq_raise 4 on idle@3",
        "softirq_entry 4 on idle@3",
        "block_rq_complete idle@3",
        "workqueue_queue_work idle@3",
        "workqueue_activate_work idle@3",
        "waking kworker/3:1 by idle@3",
        "softirq_exit 4 on idle@3",
        "switch idle->kworker/3:1 @3",
        "workqueue_execute_start kworker/3:1@3",
        "waking fio by kworker/3:1@3",
        f"migrate fio 3->{target} by kworker/3:1@3",
        "workqueue_execute_end kworker/3:1@3",
        "switch kworker/3:1->idle @3",
        f"switch idle->fio @{target}",
        f"box_aio_complete fio@{target}",
        f"box_io_submit fio@{target}",
        f"switch fio->idle @{target}",
    ]
    (returned,) = box.events("box_io_submit")
    assert returned[2]["ret"] == 1


def test_vector_0_1_chain_of_a_4k_write() -> None:
    """Step 2 of D.6 is absent, the interrupt hits fio, fio goes on, and the kworker has to wait."""
    box = one_io(submit(WRITE, 0, 4096), nr_cpus=1, spin=True)
    (issue,) = box.events("block_rq_issue")
    assert box.comm(issue[2]["current"]) == "fio"
    assert story(box) == [
        "hrtimer_expire_entry fio@0",
        "softirq_raise 4 on fio@0",
        "softirq_entry 4 on fio@0",
        "block_rq_complete fio@0",
        "workqueue_queue_work fio@0",
        "workqueue_activate_work fio@0",
        "waking kworker/0:1 by fio@0",
        "softirq_exit 4 on fio@0",
        "switch fio->kworker/0:1 @0",  # fio has nothing in its ring and sleeps
        "workqueue_execute_start kworker/0:1@0",
        "box_aio_complete kworker/0:1@0",
        "waking fio by kworker/0:1@0",
        "workqueue_execute_end kworker/0:1@0",
        "switch kworker/0:1->fio @0",
        "switch fio->idle @0",
    ]
    start = box.times("workqueue_execute_start", function="iomap_dio_complete_work")
    assert start == [BEGIN + 200 * US]
