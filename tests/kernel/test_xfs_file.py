"""Files that are not pure overwrites, against io-and-workqueue.md D.4-D.7, W4 and chain C11."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emulator.kernel.xfs_file import (
    IOMAP_DIO_UNWRITTEN,
    FileFacts,
    Inode,
    blocks,
    has_all,
    set_all,
)
from emulator.kernel.xfs_log import durations
from emulator.rules import Rules, rules_of
from emulator.types import (
    OP_FSYNC,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_RW,
    OP_SLEEP,
    OP_URING_ENTER,
    OP_URING_REAP,
    WRITE,
    Op,
)
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, costs, scsi_debug

BEGIN = 1 * MS
MIB = 1 << 20
#: What an item of an unbound pool takes besides: it is asked three times, 1 ns there and 1 ns back.
POOL_NS = 6
UNWRITTEN = {"layout": "unwritten", "size": MIB}


def file_box(
    *ops: Op,
    file: dict[str, Any] | None = None,
    rules: Rules = Rules(),
    nr_cpus: int = 1,
    until: int = 9 * MS,
    mount: str = "/xfs",
    **charges: int,
) -> Box:
    """Run operations of one fio on a file; a transaction takes 15 µs, without any spread."""

    def steps() -> Steps:
        yield from (op for op in ops)
        yield (OP_SLEEP, 1000 * MS)

    charged = {"dio_complete_ns": 400, "dio_tail_ns": 200, "transaction_ns": 15 * US} | charges
    return Box(
        Job(steps, name="fio", disk=mount, start_ns=BEGIN, file=file or {}),
        nr_cpus=nr_cpus,
        hz=100,
        disk=scsi_debug(41 * US),
        charges=costs(**charged),
        sysctls=QUIET,
        rules=rules,
    ).run(until)


def aio(offset: int, length: int, data: int = 9) -> list[Op]:
    """Return io_submit() of one write, and the wait for it."""
    return [(OP_IO_SUBMIT, [(data, WRITE, 0, offset, length)]), (OP_IO_GETEVENTS, 1, 1)]


def stints(box: Box, function: str = "iomap_dio_complete_work") -> list[int]:
    """Return how long each work item of a function took."""
    starts = box.events("workqueue_execute_start")
    ends = {e[2]["work"]: e[0] for e in box.events("workqueue_execute_end")}
    return [ends[e[2]["work"]] - e[0] for e in starts if e[2]["function"] == function]


def inode(box: Box) -> Inode:
    """Return the inode of the box's only file."""
    found = box.task().run.inodes[0]
    assert isinstance(found, Inode)
    return found


# -- D.5 ------------------------------------------------------------------------------------------


def test_vector_D_7_8_aio_write_4k_into_an_unwritten_extent() -> None:
    """A kworker completes it, with a transaction; the next write of the block needs none."""
    box = file_box(*aio(4096, 4096), *aio(4096, 4096), file=UNWRITTEN)
    assert stints(box) == [15 * US + 600, 600]
    writers = {box.comm(e[2]["current"])[:9] for e in box.events("box_aio_complete")}
    assert writers == {"kworker/0"}
    assert has_all(inode(box).written, range(1, 2))
    assert not has_all(inode(box).written, range(2))


def test_D_5_a_pure_overwrite_has_no_transaction() -> None:
    assert stints(file_box(*aio(4096, 4096))) == [600]


def test_D_5_a_write_that_extends_the_file_logs_its_size() -> None:
    box = file_box(
        *aio(4096, 4096), *aio(0, 4096), file={"layout": "written", "size": MIB, "eof": 4096}
    )
    assert stints(box) == [15 * US + 600, 600]
    assert (inode(box).size, inode(box).disk_size, inode(box).logged) == (8192, 8192, 1)


def test_D_5_a_write_into_a_hole_allocates_in_the_submitter() -> None:
    """One transaction before the bio, one in the worker that converts."""
    box = file_box(*aio(0, 4096), file={"layout": "hole", "size": MIB})
    (issue,) = box.events("block_rq_issue")
    assert (issue[0], box.comm(issue[2]["current"])) == (BEGIN + 15 * US, "fio")
    assert stints(box) == [15 * US + 600]
    again = file_box(*aio(0, 4096), *aio(0, 4096), file={"layout": "hole", "size": MIB})
    assert stints(again) == [15 * US + 600, 600]


def test_D_5_pwrite_converts_in_the_submitter() -> None:
    box = file_box((OP_RW, WRITE, 0, 0, 4096), file=UNWRITTEN)
    assert box.times("workqueue_queue_work") == []
    assert box.script().calls[1] == (BEGIN + 41 * US + 15 * US, 0)
    assert has_all(inode(box).written, range(1))


def test_D_5_a_conversion_that_finds_no_log_space_sleeps_and_another_worker_goes_on() -> None:
    """W4: the second item does not wait for the first, whose worker sleeps in the middle of it."""
    box = file_box(
        (OP_IO_SUBMIT, [(n, WRITE, 0, 4096 * n, 4096) for n in range(2)]),
        (OP_IO_GETEVENTS, 2, 2),
        file=UNWRITTEN,
        log_stall_ppm=1_000_000,
        log_stall_ns=1 * MS,
    )
    starts = [
        (e[0], box.comm(e[2]["current"]))
        for e in box.events("workqueue_execute_start")
        if e[2]["function"] == "iomap_dio_complete_work"
    ]
    assert [t - BEGIN for t, _ in starts] == [41 * US, 41 * US]
    assert len({who for _, who in starts}) == 2
    assert min(stints(box)) >= 1 * MS + 15 * US
    assert box.cpus[0].counters["log_stalls"] == 2


def test_D_5_durations_are_lognormal_around_the_median() -> None:
    table = durations(15_000, 30)
    assert sorted(table) == list(table)
    assert abs(table[len(table) // 2] - 15_000) < 100
    # A sigma of 0.3: 84 of 100 take less than e^0.3 of the median.
    below = sum(ns < 15_000 * 1.35 for ns in table) / len(table)
    assert 0.82 < below < 0.86
    assert durations(15_000, 0) == (15_000,) * 256


# -- D.6 ------------------------------------------------------------------------------------------


def test_D_6_a_write_that_begins_beyond_the_end_waits_for_all_direct_io() -> None:
    box = file_box(
        (OP_IO_SUBMIT, [(0, WRITE, 0, 0, 4096)]),
        (OP_IO_SUBMIT, [(1, WRITE, 0, 65536, 4096)]),
        (OP_IO_GETEVENTS, 2, 2),
        file={"layout": "written", "size": MIB, "eof": 8192},
    )
    issues = box.times("block_rq_issue")
    assert issues == [BEGIN, BEGIN + 41 * US + 600]


def test_D_6_an_append_at_the_end_shares_the_lock() -> None:
    box = file_box(
        (OP_IO_SUBMIT, [(0, WRITE, 0, 0, 4096)]),
        (OP_IO_SUBMIT, [(1, WRITE, 0, 8192, 4096)]),
        (OP_IO_GETEVENTS, 2, 2),
        file={"layout": "written", "size": MIB, "eof": 8192},
    )
    assert box.times("block_rq_issue") == [BEGIN, BEGIN]


@pytest.mark.parametrize(("layout", "kworker"), [("written", True), ("unwritten", False)])
def test_vector_D_7_7_on_5_14_only_written_blocks_share_the_lock(
    layout: str, kworker: bool
) -> None:
    """Not written: the submitter waits, woken by the softirq, and converts itself."""
    box = file_box(
        *aio(512, 512),
        file={"layout": layout, "size": MIB, "open_sync": "none"},
        rules=rules_of("5.15"),
    )
    slept = any(
        e[2]["prev"] == box.pid(0) and e[2]["prev_state"] == 2 for e in box.events("sched_switch")
    )
    assert (len(stints(box)), slept) == (int(kworker), not kworker)
    if not kworker:
        assert box.times("box_aio_complete") == [BEGIN + 41 * US + 15 * US]
        assert has_all(inode(box).written, range(1))


# -- D.4: O_DSYNC, fsync() --------------------------------------------------------------------------


def test_D_4_o_dsync_of_an_overwrite_syncs_in_the_worker() -> None:
    """Up to 6.5 a device without a volatile cache has no FUA: the worker looks for what to force."""
    file = {"layout": "written", "size": MIB, "open_sync": "dsync"}
    box = file_box(*aio(0, 4096), file=file, fsync_ns=500)
    assert stints(box) == [1100]
    assert stints(file_box(*aio(0, 4096), file=file, fsync_ns=500, rules=rules_of("6.6"))) == [600]


def test_D_4_o_dsync_of_an_unwritten_block_forces_the_log_in_the_worker() -> None:
    """The push and the end of the log write are other items; the worker sleeps for both."""
    box = file_box(
        *aio(0, 4096),
        file=UNWRITTEN | {"open_sync": "dsync"},
        cil_push_ns=5 * US,
        xlog_ioend_ns=2 * US,
    )
    assert stints(box, "xlog_cil_push_work") == [5 * US + 200]
    assert stints(box, "xlog_ioend_work") == [2 * US + 200]
    (item,) = stints(box)
    # It is woken before the other works' tails, and goes on when they are over.
    others = 5 * US + 200 + POOL_NS + 41 * US + 2 * US + 200
    assert item == 400 + 15 * US + others + 200
    assert len(box.times("block_rq_issue")) == 2


def test_C11_fsync_pushes_writes_and_is_woken_by_the_log_s_kworker() -> None:
    box = file_box(
        *aio(0, 4096),
        (OP_FSYNC, 0, 0),
        (OP_FSYNC, 0, 0),
        (OP_RUN, US),
        file=UNWRITTEN,
        cil_push_ns=5 * US,
        xlog_ioend_ns=2 * US,
    )
    fio = box.pid(0)
    wakers = [
        box.comm(e[2]["current"])
        for e in box.events("sched_waking", since_ns=BEGIN + 1)
        if e[2]["pid"] == fio
    ]
    # The end of the write, of the push, of the log write.
    assert [waker.partition(":")[0] for waker in wakers] == ["kworker/0", "kworker/u2", "kworker/0"]
    assert [waker.endswith("H") for waker in wakers] == [False, False, True]
    assert stints(box, "xlog_cil_push_work") == [5 * US + 200]
    issues = [e for e in box.events("block_rq_issue") if e[2]["rwbs"] == "WSM"]
    assert [box.comm(e[2]["current"]) for e in issues] == ["fio"]
    # The second fsync() finds nothing in the log.
    done, first, second = (t for t, _ in box.script().calls[2:5])
    assert first - done == 5 * US + 200 + POOL_NS + 41 * US + 2 * US + 200
    assert second == first
    assert inode(box).logged == 0


# -- Any file -----------------------------------------------------------------------------------------

#: (block, number of blocks) of a write, or an fsync().
STEPS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=12)


@given(
    STEPS,
    st.sampled_from(["written", "unwritten", "hole"]),
    st.integers(0, 16),
    st.sampled_from(["none", "dsync", "sync"]),
    st.sampled_from([0, 300_000]),
    st.sampled_from([0, 70 * US]),
    st.booleans(),
    st.sampled_from(["5.4", "5.15", "6.12"]),
    st.sampled_from([1, 2]),
)
# One IO is left to the submitter, who waits for the other, which a worker ends.
@example([(0, 1), (0, 2), (2, 1)], "written", 1, "none", 0, 0, True, "6.12", 1)
@settings(max_examples=40, deadline=None)
def test_whatever_is_written_ends_once_and_the_inode_says_so(
    steps: list[tuple[int, int]],
    layout: str,
    eof: int,
    sync: str,
    stalls: int,
    flush_ns: int,
    uring: bool,
    version: str,
    nr_cpus: int,
) -> None:
    """Writes in flight together, syncs between them, a log that runs full, a cache or none."""
    submit, reap = (OP_URING_ENTER, OP_URING_REAP) if uring else (OP_IO_SUBMIT, OP_IO_GETEVENTS)
    writes = [(block * 4096, nr * 4096) for block, nr in steps if nr]
    seen: list[tuple[int, int]] = []

    def program() -> Steps:
        number = 0
        for block, nr in steps:
            if not nr:
                yield (OP_FSYNC, 0, 0)
                continue
            yield (submit, [(number, WRITE, 0, block * 4096, nr * 4096)])
            number += 1
        while len(seen) < number:
            seen.extend((yield (reap, 1, 8)))
        yield (OP_SLEEP, 1000 * MS)

    disk = scsi_debug(41 * US)
    cache = {"flush_ns": flush_ns} if flush_ns else {}
    file = {"size": 16 * 4096, "layout": layout, "eof": eof * 4096, "open_sync": sync}
    box = Box(
        Job(program, name="fio", disk="/xfs", start_ns=BEGIN, file=file),
        hz=100,
        disk=replace(disk, params=disk.params | cache),
        charges=costs(transaction_ns=15 * US, log_stall_ppm=stalls, log_stall_ns=90 * US),
        sysctls=QUIET,
        nr_cpus=nr_cpus,
        version=version,
        rules=rules_of(version),
    ).run(60 * MS)
    assert sorted(seen) == [(number, length) for number, (_, length) in enumerate(writes)]
    if not writes or layout == "written":
        return
    found = inode(box)
    assert found.size == found.disk_size == max(eof * 4096, *map(sum, writes))
    assert all(
        has_all(found.written, range(at // 4096, sum((at, nr)) // 4096)) for at, nr in writes
    )


# -- Maps of blocks ---------------------------------------------------------------------------------


def test_blocks_of_a_file() -> None:
    facts = FileFacts(0, "xfs", 4096, 0, True, size=40960, layout="unwritten")
    node = Inode(facts)
    assert list(blocks(facts, 512, 4096)) == [0, 1]
    set_all(node.written, blocks(facts, 512, 4096))
    assert has_all(node.written, range(2))
    assert not has_all(node.written, range(3))
    set_all(node.written, range(100, 101))  # the file has grown
    assert has_all(node.written, range(100, 101))
    assert not has_all(node.written, range(5000, 5001))
    assert Inode.unpack(node.pack()).pack() == node.pack()
    assert IOMAP_DIO_UNWRITTEN
