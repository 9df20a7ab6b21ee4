"""Driver tags among several CPUs: however few there are, they are one bitmap's (A.3)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.rules import Rules
from emulator.tags import ALONE, SHARED
from emulator.types import OP_IO_GETEVENTS, OP_IO_SUBMIT, OP_RUN, OP_RW, READ, WRITE, DiskSpec
from tests.kernel.box import MS, US, Box, Job, Steps, costs, scsi_debug

CHARGES = costs(
    io_submit_ns=1000,
    io_submit_more_ns=300,
    dispatch_ns=200,
    blk_end_request_ns=100,
    coherence_ns=50,
    ipi_ns=500,
    ttwu_activate_ns=200,
    context_switch_ns=300,
)


def writer(total: int, batch: int, rw: int = WRITE) -> Steps:
    """Submit so many IOs, a batch per io_submit(), and reap them all."""
    reaped = 0
    for first in range(0, total, batch):
        iocbs = [(n, rw, 0, n * 4096, 4096) for n in range(first, min(first + batch, total))]
        yield (OP_IO_SUBMIT, iocbs)
        yield (OP_RUN, 2 * US)
    while reaped < total:
        reaped += len((yield (OP_IO_GETEVENTS, 1, 128)))
    yield (OP_RUN, 1 * US)


def job(cpu: int, total: int, batch: int, mask: int = 0, rw: int = WRITE) -> Job:
    return Job(
        lambda: writer(total, batch, rw), f"fio{cpu}", cpu=cpu, mask=mask or 1 << cpu, disk="/raw"
    )


def in_flight_max(box: Box) -> int:
    """Return how many requests the device had at once, at most."""
    events = [
        *((t, 1) for t in box.times("block_rq_issue")),
        *((t, -1) for t in box.times("hrtimer_expire_entry")),
    ]
    level = most = 0
    for _, step in sorted(events):
        level += step
        most = max(most, level)
    return most


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("scheduler", ["none", "mq-deadline"])
def test_few_tags_and_many_cpus_all_take_their_turn(depth: int, scheduler: str) -> None:
    jobs = [job(cpu, 12, 4) for cpu in range(6)]
    disk = scsi_debug(100 * US, depth=depth, scheduler=scheduler)
    box = Box(*jobs, nr_cpus=6, disk=disk, charges=CHARGES).run(50 * MS)
    assert len(box.times("box_aio_complete")) == 6 * 12
    assert in_flight_max(box) == depth
    done = box.times("box_aio_complete")
    # 72 IOs of 100 µs, as many at once as there are tags, with what the CPUs need in between.
    assert done[-1] < 72 / depth * 130 * US + 1 * MS


def test_K_10_on_8_cpus_the_submitter_gets_all_32_tags() -> None:
    """The others' leases come back: it waits only when 32 are in flight, and wakes every 4 frees."""

    def submitter() -> Steps:
        for number in range(128):
            yield (OP_RUN, 10 * US if number < 32 else 0)
            yield (OP_IO_SUBMIT, [(number, WRITE, 0, number * 4096, 4096)])
        reaped = 0
        while reaped < 128:
            reaped += len((yield (OP_IO_GETEVENTS, 1, 128)))

    box = Box(
        Job(submitter, name="fio", disk="/xfs", mask=1),
        nr_cpus=8,
        charges=costs(io_submit_ns=100, blk_end_request_ns=100),
        disk=scsi_debug(1 * MS, depth=32, scheduler="none"),
        hz=100,
    ).run(9 * MS)
    issues = box.times("block_rq_issue")
    frees = [t + 100 for t in box.times("block_rq_complete")]
    waking = [e for e in box.events("sched_waking") if e[2]["pid"] == box.pid(0)]
    assert len([t for t in issues if t < 1 * MS]) == 32
    assert [e[0] for e in waking[:8]] == frees[3:32:4]
    assert box.cpus[0].queues[0].tag_mode == ALONE
    assert box.cpus[0].counters["tag_waits"] >= 8


def test_tags_that_lie_unused_elsewhere_are_found() -> None:
    """64 tags; each of 8 CPUs used 8 of them before: the ninth in a row on one CPU needs no sleep."""
    jobs = [job(cpu, 8, 8) for cpu in range(8)]
    late = replace(job(0, 60, 60), start_ns=5 * MS)
    disk = scsi_debug(1 * MS, depth=64, scheduler="none")
    box = Box(*jobs, late, nr_cpus=8, disk=disk, charges=CHARGES).run(20 * MS)
    assert len(box.times("box_aio_complete")) == 64 + 60
    assert sum(cpu.counters.get("tag_waits", 0) for cpu in box.cpus) == 0


def test_shared_tags_are_leased_again_when_the_rush_is_over() -> None:
    jobs = [job(cpu, 16, 16) for cpu in range(4)]
    late = [replace(job(cpu, 3, 1), start_ns=10 * MS + cpu * MS) for cpu in range(4)]
    disk = scsi_debug(100 * US, depth=8, scheduler="none")
    box = Box(*jobs, *late, nr_cpus=4, disk=disk, charges=CHARGES)
    box.run(300 * US)
    assert any(cpu.queues[0].tag_mode == SHARED for cpu in box.cpus)
    box.run(20 * MS)
    assert len(box.times("box_aio_complete")) == 64 + 12
    assert all(cpu.queues[0].tag_mode != SHARED for cpu in box.cpus)


def test_a_synchronous_reader_waits_for_a_tag_and_gets_it() -> None:
    def reader() -> Steps:
        for number in range(5):
            got = yield (OP_RW, READ, 1, number * 4096, 4096)
            assert got == 0

    jobs = [job(0, 30, 10), Job(reader, "reader", cpu=1, mask=2, disk="/raw")]
    disk = scsi_debug(100 * US, depth=2, scheduler="none")
    box = Box(*jobs, nr_cpus=2, disk=disk, charges=CHARGES).run(20 * MS)
    assert len(box.times("box_aio_complete")) == 30
    assert len(box.times("block_rq_complete")) == 35


@st.composite
def rushes(draw: st.DrawFn) -> tuple[list[Job], DiskSpec, int, Rules, list[tuple[int, int]]]:
    """Draw jobs, a disk with few tags, CPUs, rules, and when which CPU goes offline."""
    nr_cpus = draw(st.integers(1, 4))
    jobs = [
        replace(
            job(
                cpu := draw(st.integers(0, nr_cpus - 1)),
                draw(st.integers(1, 20)),
                draw(st.integers(1, 8)),
                draw(st.sampled_from([0, (1 << nr_cpus) - 1])),
                draw(st.sampled_from([READ, WRITE])),
            ),
            name=f"fio{number}",
            start_ns=draw(st.integers(0, 400)) * US,
        )
        for number in range(draw(st.integers(1, 5)))
    ]
    del cpu
    disk = scsi_debug(
        draw(st.sampled_from([3, 20, 100])) * US,
        depth=draw(st.integers(1, 10)),
        scheduler=draw(st.sampled_from(["none", "none", "mq-deadline"])),
        rq_affinity=draw(st.integers(0, 2)),
    )
    queues = draw(st.integers(1, nr_cpus))
    disk = replace(disk, params=disk.params | {"submit_queues": queues})
    rules = Rules(sbq_global_count=draw(st.booleans()))
    offline = [
        (draw(st.integers(1, 600)) * US, draw(st.integers(1, nr_cpus - 1)))
        for _ in range(draw(st.integers(0, 2)) if nr_cpus > 1 else 0)
    ]
    return jobs, disk, nr_cpus, rules, offline


@settings(max_examples=60, deadline=None)
@given(rushes())
def test_no_wakeup_is_lost_and_no_tag(
    rush: tuple[list[Job], DiskSpec, int, Rules, list[tuple[int, int]]],
) -> None:
    """Whoever waits for a tag gets one; the audit of every run counts tags and requests."""
    jobs, disk, nr_cpus, rules, offline = rush
    box = Box(*jobs, nr_cpus=nr_cpus, disk=disk, charges=CHARGES, rules=rules)
    for at_ns, cpu in offline:
        box.command(at_ns, cpu, "cpu", "offline", str(cpu))
        box.command(at_ns + 700 * US, cpu, "cpu", "online", str(cpu))
    box.run(30 * MS)
    assert all(pid not in cpu.tasks for cpu in box.cpus for pid in map(box.pid, range(len(jobs))))
    assert sum(cpu.ended for cpu in box.cpus) == sum(cpu.io_seq for cpu in box.cpus)
    assert in_flight_max(box) <= disk.params["max_queue"] * disk.params["submit_queues"]
    assert all(not cpu.queues[0].sbq.ws_active and not cpu.queues[0].tag_again for cpu in box.cpus)
