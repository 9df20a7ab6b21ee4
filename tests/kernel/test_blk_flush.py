"""Flushes of a device's cache, against io-and-workqueue.md A.4 and G.7, and who asks for them (D.4)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.rules import Rules
from emulator.types import OP_FSYNC, OP_IO_GETEVENTS, OP_IO_SUBMIT, OP_RW, OP_SLEEP, WRITE, Op
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, costs, scsi_debug

BEGIN = 1 * MS
MIB = 1 << 20
WRITE_NS = 41 * US
FLUSH_NS = 500 * US
WRITTEN = {"layout": "written", "size": MIB}
LOGGED = {"layout": "unwritten", "size": MIB}
AIO: list[Op] = [(OP_IO_SUBMIT, [(9, WRITE, 0, 0, 4096)]), (OP_IO_GETEVENTS, 1, 1)]
PWRITE: list[Op] = [(OP_RW, WRITE, 0, 0, 4096)]


def flush_box(
    ops: list[Op],
    file: dict[str, Any],
    flush_ns: int = FLUSH_NS,
    fua: int = 0,
    depth: int = 192,
    scheduler: str = "mq-deadline",
    mount: str = "/xfs",
) -> Box:
    """Run operations of one fio on a disk with such a cache; only the device takes time."""

    def steps() -> Steps:
        yield from (op for op in ops)
        yield (OP_SLEEP, 1000 * MS)

    disk = scsi_debug(WRITE_NS, depth=depth, scheduler=scheduler)
    return Box(
        Job(steps, name="fio", disk=mount, start_ns=BEGIN, file=file),
        hz=100,
        disk=replace(disk, params=disk.params | {"flush_ns": flush_ns, "fua": fua}),
        charges=costs(),
        sysctls=QUIET,
        rules=Rules(),
    ).run(9 * MS)


def issued(box: Box) -> list[tuple[int, str, str, int]]:
    """Return (µs since the begin, what, by whom, sectors) of every request that the driver took."""
    return [
        (
            (e[0] - BEGIN) // US,
            e[2]["rwbs"],
            box.comm(e[2]["current"]).partition("/")[0],
            e[2]["nr_sector"],
        )
        for e in box.events("block_rq_issue")
    ]


def test_G_7_an_empty_flush_goes_to_a_device_with_a_cache() -> None:
    box = flush_box([(OP_FSYNC, 0, 0)], WRITTEN)
    assert issued(box) == [(0, "FF", "kworker", 0)]
    before, after = box.script().calls[:2]
    assert after[0] - before[0] == FLUSH_NS


def test_G_7_an_empty_flush_ends_at_once_without_a_cache() -> None:
    box = flush_box([(OP_FSYNC, 0, 0)], WRITTEN, flush_ns=0)
    assert issued(box) == []
    before, after = box.script().calls[:2]
    assert after[0] == before[0]


@pytest.mark.parametrize(
    ("flush_ns", "fua", "steps"),
    [
        (0, 0, ["WSM"]),
        (FLUSH_NS, 1, ["FF", "WFSM"]),
        (FLUSH_NS, 0, ["FF", "WSM", "FF"]),
    ],
    ids=["no-cache", "fua", "no-fua"],
)
@pytest.mark.parametrize("scheduler", ["mq-deadline", "none"])
def test_G_7_a_log_write_flushes_and_is_durable(
    flush_ns: int, fua: int, steps: list[str], scheduler: str
) -> None:
    """PREFLUSH and data, then a flush if the device has no FUA; kblockd issues each step."""
    box = flush_box([*PWRITE, (OP_FSYNC, 0, 0)], LOGGED, flush_ns, fua, scheduler=scheduler)
    log = [one for one in issued(box) if one[1] != "WS"]
    assert [one[1] for one in log] == steps
    by = ["fio"] if flush_ns == 0 else ["kworker"] * len(steps)
    assert [one[2] for one in log] == by
    took = [FLUSH_NS if step == "FF" else WRITE_NS for step in steps]
    starts = [one[0] for one in log]
    assert [b - a for a, b in pairwise(starts)] == [ns // US for ns in took[:-1]]
    # One request throughout, whose end is work of xfs-log.
    done = [e for e in box.events("workqueue_execute_start") if "xlog_ioend" in e[2]["function"]]
    assert len(done) == 1


@pytest.mark.parametrize(("fua", "steps"), [(1, ["WFS"]), (0, ["WS", "FF"])], ids=["fua", "no-fua"])
@pytest.mark.parametrize("ops", [AIO, PWRITE], ids=["aio", "pwrite"])
def test_D_4_an_overwrite_with_o_dsync(ops: list[Op], fua: int, steps: list[str]) -> None:
    """With FUA the bios carry it and no sync follows; without, the sync is a flush of its own."""
    box = flush_box(ops, WRITTEN | {"open_sync": "dsync"}, fua=fua)
    assert [one[1] for one in issued(box)] == steps
    calls = box.script().calls
    took = calls[len(ops)][0] - calls[0][0]
    assert took == WRITE_NS + (0 if fua else FLUSH_NS)


def test_D_4_a_raw_device_with_o_dsync_and_no_fua_is_a_sequence() -> None:
    """The block device's own direct IO asks for FUA; the flush machinery makes it write and flush."""
    box = flush_box(AIO, WRITTEN | {"open_sync": "dsync"}, mount="/raw")
    assert [(one[1], one[2]) for one in issued(box)] == [("WS", "kworker"), ("FF", "kworker")]
    (done,) = box.times("box_aio_complete")
    assert done == BEGIN + WRITE_NS + FLUSH_NS


def test_A_3_a_sequence_keeps_its_tag_and_syncs_wait_for_one() -> None:
    """Two tasks that sync, one tag: one after the other, and nothing is lost."""

    def steps() -> Steps:
        yield (OP_RW, WRITE, 0, 0, 4096)
        yield (OP_FSYNC, 0, 0)

    def others() -> Steps:
        yield (OP_RW, WRITE, 1, 0, 4096)
        yield (OP_FSYNC, 1, 0)

    disk = scsi_debug(WRITE_NS, depth=1, scheduler="none")
    disk = replace(disk, params=disk.params | {"flush_ns": FLUSH_NS, "fua": 1})
    jobs = [
        Job(one, name="fio", disk="/xfs", start_ns=BEGIN, file=LOGGED) for one in (steps, others)
    ]
    box = Box(*jobs, hz=100, disk=disk, charges=costs(), sysctls=QUIET).run(9 * MS)
    assert [job.script is not None and len(job.script.calls) for job in box.jobs] == [3, 3]
    log = [(what, sectors) for _, what, _, sectors in issued(box) if what != "WS"]
    assert sorted(log) == [("FF", 0), ("FF", 0), ("WFSM", 8), ("WFSM", 8)]
    in_flight = 0
    for _, event, _ in box.events("block_rq_issue", "block_rq_complete"):
        in_flight += 1 if event == "block_rq_issue" else -1
        assert in_flight in (0, 1)


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=4),
    st.sampled_from([1, 2, 8]),
    st.sampled_from(["mq-deadline", "none"]),
    st.sampled_from(["none", "dsync"]),
    st.booleans(),
    st.sampled_from([1, 2]),
)
@settings(max_examples=30, deadline=None)
def test_every_sync_ends_and_every_tag_is_given_back(
    tasks: list[list[bool]], depth: int, scheduler: str, sync: str, fua: bool, nr_cpus: int
) -> None:
    """Tasks that write and sync, each a file of its own, with few tags."""

    def program(number: int, steps: list[bool]) -> Steps:
        for block, syncs in enumerate(steps):
            yield (OP_FSYNC, number, 0) if syncs else (OP_RW, WRITE, number, block * 4096, 4096)

    disk = scsi_debug(WRITE_NS, depth=max(depth, nr_cpus), scheduler=scheduler)
    disk = replace(disk, params=disk.params | {"flush_ns": 90 * US, "fua": int(fua)})
    jobs = [
        Job(
            partial(program, number, steps),
            name=f"task{number}",
            cpu=number % nr_cpus,
            disk="/xfs",
            start_ns=BEGIN,
            file=LOGGED | {"open_sync": sync},
        )
        for number, steps in enumerate(tasks)
    ]
    box = Box(*jobs, nr_cpus=nr_cpus, hz=100, disk=disk, charges=costs(), sysctls=QUIET)
    box.run(40 * MS)
    assert [job.script is not None and len(job.script.calls) for job in box.jobs] == [
        len(steps) + 1 for steps in tasks
    ]
    assert len(box.times("block_rq_issue")) == len(box.times("block_rq_complete"))
