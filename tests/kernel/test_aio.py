"""AIO against io-and-workqueue.md C.1-C.6."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.kernel.process import Kioctx
from emulator.rules import VERSIONS, Rules, rules_of
from emulator.types import (
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_SETAFFINITY,
    OP_SLEEP,
    OP_URING_ENTER,
    OP_URING_REAP,
    READ,
    WRITE,
)
from tests.kernel.box import (
    MS,
    QUIET,
    US,
    Box,
    Job,
    Steps,
    costs,
    null_blk,
    scsi_debug,
)

BEGIN = 1 * MS


def fio_box(steps: Steps, device_ns: int = 100 * US, rules: Rules = Rules(), **charges: int) -> Box:
    """Return one CPU whose fio runs these steps after boot."""
    return Box(
        Job(lambda: steps, name="fio", disk="/xfs", start_ns=BEGIN),
        hz=100,
        disk=scsi_debug(device_ns),
        charges=costs(**charges),
        sysctls=QUIET,
        rules=rules,
    )


def write(number: int, length: int = 4096) -> tuple[int, int, int, int, int]:
    """Return the iocb of one sequential write."""
    return (number, WRITE, 0, number * length, length)


# -- C.1 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nr", "cpus", "nr_events", "credits", "req_batch"),
    [
        (128, 8, 383, 382, 11),
        (1, 8, 127, 126, 3),
        (256, 2, 639, 638, 79),
        (128, 16, 383, 382, 5),
        (64, 64, 639, 638, 2),
    ],
)
def test_vector_C_1_context_setup(
    nr: int, cpus: int, nr_events: int, credits: int, req_batch: int
) -> None:
    ctx = Kioctx(nr, cpus)
    assert (ctx.nr_events, ctx.reqs_available, ctx.req_batch) == (nr_events, credits, req_batch)


# -- C.2 ------------------------------------------------------------------------------------------


def test_vector_C_2_credits() -> None:
    ctx = Kioctx(128, 8)
    assert ctx.get_reqs_available(0)
    assert (ctx.reqs_available, ctx.cpu_credits[0]) == (371, 10)
    for _ in range(10):
        assert ctx.get_reqs_available(0)
    assert ctx.cpu_credits[0] == 0
    assert ctx.get_reqs_available(0)
    assert (ctx.reqs_available, ctx.cpu_credits[0]) == (360, 10)
    for _ in range(374 - 12):
        assert ctx.get_reqs_available(0)
    assert (ctx.reqs_available, ctx.cpu_credits[0]) == (8, 0)
    assert not ctx.get_reqs_available(0)
    # Events that user space has consumed give their credits back.
    ctx.complete(0, 1, 0)
    ctx.ring.clear()
    assert ctx.get_reqs_available(0)
    assert not ctx.get_reqs_available(0)


def test_C_2_put_spills_whole_batches_above_two() -> None:
    ctx = Kioctx(128, 8)
    ctx.put_reqs_available(3, 21)
    assert (ctx.cpu_credits[3], ctx.reqs_available) == (21, 382)
    ctx.put_reqs_available(3, 1)
    assert (ctx.cpu_credits[3], ctx.reqs_available) == (11, 393)


def test_C_2_events_are_credited_on_the_completing_cpu_when_consumed() -> None:
    ctx = Kioctx(128, 8)
    for _ in range(3):
        ctx.get_reqs_available(0)
    ctx.complete(5, 1, 0)
    assert ctx.completed_events == 1
    assert 5 not in ctx.cpu_credits
    ctx.ring.clear()  # consumed
    ctx.complete(5, 2, 0)  # more than one outstanding: one of the two is still in the ring
    assert ctx.cpu_credits[5] == 1
    assert ctx.completed_events == 1


def test_C_2_io_submit_without_credits_is_eagain() -> None:
    def steps() -> Steps:
        # Four CPUs' worth of credits on one: 382 of them in batches of 95.
        submitted = 0
        while True:
            result = yield (OP_IO_SUBMIT, [write(submitted)])
            if result < 0:
                break
            submitted += 1
        yield (OP_IO_GETEVENTS, 1, 64)
        yield (OP_IO_SUBMIT, [write(submitted)])
        yield (OP_SLEEP, 1000 * MS)

    box = Box(
        Job(steps, name="fio", disk="/xfs"),
        nr_cpus=8,
        hz=100,
        disk=scsi_debug(5 * MS, depth=1000),
        charges=costs(io_submit_ns=1 * US),
    ).run(9 * MS)
    results = [result for _, result in box.script().calls[1:]]
    assert results[:374] == [1] * 374
    assert results[374] == -11
    assert len(results[375]) >= 1
    assert results[376] == 1


@given(
    nr=st.integers(1, 40),
    cpus=st.integers(1, 16),
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 15), st.integers(1, 30))),
)
def test_C_2_events_are_delivered_once_and_credits_return_to_full(
    nr: int, cpus: int, steps: list[tuple[int, int, int]]
) -> None:
    """Whoever submits, completes and consumes where: nothing is lost, and nothing is there twice."""
    ctx = Kioctx(nr, cpus)
    total = ctx.reqs_available
    in_flight: list[int] = []
    consumed: list[int] = []
    submitted = 0
    for what, cpu, amount in steps:
        for _ in range(amount):
            if what == 0 and ctx.get_reqs_available(cpu % cpus):
                in_flight.append(submitted)
                submitted += 1
            elif what == 1 and in_flight:
                ctx.complete(cpu % cpus, in_flight.pop(amount % len(in_flight)), 0)
            elif what == 2 and ctx.ring:
                consumed.append(ctx.ring.pop(0)[0])
        held = ctx.reqs_available + sum(ctx.cpu_credits.values())
        assert held + len(in_flight) + ctx.completed_events == total
        assert ctx.completed_events >= len(ctx.ring)
    for data in in_flight:
        ctx.complete(0, data, 0)
    consumed += [data for data, _ in ctx.ring]
    ctx.ring.clear()
    ctx.refill_reqs_available(0)
    assert sorted(consumed) == list(range(submitted))
    assert ctx.reqs_available + sum(ctx.cpu_credits.values()) == total


# -- C.3 ------------------------------------------------------------------------------------------


def test_C_3_a_4k_write_s_event_is_written_by_the_kworker() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [write(0)])
        yield (OP_IO_GETEVENTS, 1, 1)

    box = fio_box(steps(), dio_complete_ns=400).run(2 * MS)
    done = box.events("box_aio_complete")
    assert [box.comm(e[2]["current"])[:9] for e in done] == ["kworker/0"]
    assert done[0][2]["inline"] == 0


def test_C_3_a_read_s_event_is_written_by_the_softirq() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(7, READ, 0, 0, 4096)])
        yield (OP_SLEEP, 1000 * MS)

    box = fio_box(steps()).run(3 * MS)
    done = box.events("box_aio_complete")
    assert [(e[2]["data"], e[2]["res"], e[2]["inline"]) for e in done] == [(7, 4096, 1)]
    assert done[0][2]["flags"] & 8
    assert box.times("workqueue_queue_work", workqueue="dio/sda") == []


def test_C_3_a_512_byte_write_s_event_is_written_by_the_submitter() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [write(1, 512)])
        yield (OP_IO_GETEVENTS, 1, 1)

    box = fio_box(steps(), dio_complete_ns=400, dio_tail_ns=200).run(2 * MS)
    done = box.events("box_aio_complete")
    assert [e[2]["current"] for e in done] == [box.pid(0)]
    returned = box.script().calls[1]
    assert (returned[0], returned[1]) == (done[0][0], 1)
    # The event is there: io_getevents() neither sleeps nor is woken.
    assert len(box.times("sched_waking", pid=box.pid(0))) == 1


def test_C_3_io_submit_stops_at_the_first_error_and_returns_what_was_submitted() -> None:
    """Credits end in the middle of a batch: 374 on one CPU of eight."""

    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [write(n) for n in range(380)])
        yield (OP_IO_SUBMIT, [write(380)])
        yield (OP_SLEEP, 1000 * MS)

    box = Box(
        Job(steps, name="fio", disk="/xfs"),
        nr_cpus=8,
        hz=100,
        disk=scsi_debug(5 * MS, depth=1000),
        charges=costs(),
    ).run(4 * MS)
    assert [result for _, result in box.script().calls[1:3]] == [374, -11]


# -- C.4, C.5 -------------------------------------------------------------------------------------


def test_C_4_every_event_wakes_the_waiter_whatever_it_asked_for() -> None:
    """Up to v6.7: three events, three wakeups of one who wants three."""

    def steps() -> Steps:
        for number in range(3):
            yield (OP_RUN, 20 * US)
            yield (OP_IO_SUBMIT, [write(number)])
        yield (OP_IO_GETEVENTS, 3, 8)
        yield (OP_SLEEP, 1000 * MS)

    box = fio_box(steps()).run(3 * MS)
    events = box.times("box_aio_complete")
    assert box.times("sched_waking", pid=box.pid(0)) == events
    reaped = box.script().calls[-1]
    assert reaped == (events[2], [(0, 4096), (1, 4096), (2, 4096)])


def test_C_4_from_6_8_the_event_that_makes_enough_wakes_the_waiter() -> None:
    """Three events, one wakeup of one who wants three."""

    def steps() -> Steps:
        for number in range(3):
            yield (OP_RUN, 20 * US)
            yield (OP_IO_SUBMIT, [write(number)])
        yield (OP_IO_GETEVENTS, 3, 8)
        yield (OP_SLEEP, 1000 * MS)

    box = fio_box(steps(), rules=Rules(aio_wake_min_nr=True)).run(3 * MS)
    events = box.times("box_aio_complete")
    assert box.times("sched_waking", pid=box.pid(0)) == [events[2]]
    assert box.script().calls[-1] == (events[2], [(0, 4096), (1, 4096), (2, 4096)])


@pytest.mark.parametrize("version", VERSIONS)
def test_C_4_by_version(version: str) -> None:
    assert rules_of(version).aio_wake_min_nr is (version == "6.12")


@pytest.mark.parametrize(
    ("submit", "reap"),
    [(OP_IO_SUBMIT, OP_IO_GETEVENTS), (OP_URING_ENTER, OP_URING_REAP)],
    ids=["libaio", "io_uring"],
)
def test_C_4_an_event_from_another_cpu_is_in_the_ring_at_the_next_look(
    submit: int, reap: int
) -> None:
    """However many events of this CPU's own there are: a look at the ring takes in all that has ended."""

    def steps() -> Steps:
        yield (submit, [(0, READ, 0, 0, 4096)])
        yield (OP_SETAFFINITY, 0b10)
        yield (OP_RUN, 10 * US)
        yield (submit, [(1, READ, 0, 4096, 4096)])
        yield (OP_RUN, 500 * US)
        yield (reap, 1, 1)
        yield (submit, [(2, READ, 0, 8192, 4096)])
        yield (OP_RUN, 500 * US)
        yield (reap, 1, 1)
        yield (reap, 1, 1)
        yield (OP_SLEEP, 1000 * MS)

    box = Box(
        Job(steps, name="fio", disk="/xfs", start_ns=BEGIN),
        nr_cpus=2,
        hz=100,
        disk=scsi_debug(100 * US),
        charges=costs(),
        sysctls=QUIET,
    ).run(3 * MS)
    assert len(box.times("block_rq_complete")) == 3
    reaped = [result[0][0] for _, result in box.script().calls[1:] if isinstance(result, list)]
    assert reaped == [1, 0, 2]


def test_C_4_nobody_is_woken_while_nobody_waits() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [write(0)])
        yield (OP_SLEEP, BEGIN + 500 * US)
        yield (OP_IO_GETEVENTS, 1, 1)
        yield (OP_SLEEP, 1000 * MS)

    box = fio_box(steps()).run(3 * MS)
    assert box.times("sched_waking", pid=box.pid(0)) == [BEGIN + 500 * US]
    assert box.script().calls[-1][1] == [(0, 4096)]


@pytest.mark.parametrize(("min_nr", "nr", "first"), [(0, 8, 0), (1, 2, 2), (2, 8, 5)])
def test_C_5_io_getevents_copies_up_to_nr_if_it_has_min_nr(
    min_nr: int, nr: int, first: int
) -> None:
    def steps() -> Steps:
        if min_nr:
            yield (OP_IO_SUBMIT, [write(n) for n in range(5)])
            yield (OP_SLEEP, BEGIN + 500 * US)
        yield (OP_IO_GETEVENTS, min_nr, nr)
        yield (OP_SLEEP, 1000 * MS)

    box = fio_box(steps()).run(3 * MS)
    reaped = next(result for _, result in box.script().calls if isinstance(result, list))
    assert [data for data, _ in reaped] == list(range(first))


# -- C.6 ------------------------------------------------------------------------------------------


def test_vector_C_6_iodepth_4_batch_1() -> None:
    """Device 100 µs, submit cost 5: submits at 0, 5, 10, 15; full; first completion at 105."""

    def steps() -> Steps:
        for number in range(4):
            yield (OP_IO_SUBMIT, [write(number)])
        yield (OP_IO_GETEVENTS, 1, 1)
        yield (OP_IO_SUBMIT, [write(4)])
        yield (OP_SLEEP, 1000 * MS)

    box = fio_box(steps(), io_submit_ns=5 * US).run(3 * MS)
    calls = box.script().calls
    start = calls[0][0]
    assert [t - start for t, _ in calls[:5]] == [0, 5 * US, 10 * US, 15 * US, 20 * US]
    assert box.times("hrtimer_expire_entry")[0] - start == 105 * US
    assert calls[5][0] - start == 105 * US
    assert calls[6][0] - start == 110 * US


def test_vector_C_6_batch_4_iodepth_4() -> None:
    """One io_submit(4) at 0; a reap of 1 at 100; the next when 4 are queued again."""

    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [write(n) for n in range(4)])
        reaped = 0
        while reaped < 4:
            reaped += len((yield (OP_IO_GETEVENTS, 1, 1)))
        yield (OP_IO_SUBMIT, [write(4 + n) for n in range(4)])
        yield (OP_SLEEP, 1000 * MS)

    box = fio_box(steps()).run(3 * MS)
    start = box.script().calls[0][0]
    assert [t - start for t in box.times("block_rq_issue")] == [0] * 4 + [100 * US] * 4
    assert box.script().calls[2] == (start + 100 * US, [(0, 4096)])


def test_null_blk_reads_end_inline_in_any_order_of_references() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(n, READ, 0, n * 4096, 4096) for n in range(5)])
        yield (OP_IO_GETEVENTS, 5, 5)
        yield (OP_SLEEP, 1000 * MS)

    box = Box(Job(steps, name="fio", disk="/xfs"), disk=null_blk(0)).run(500 * US)
    assert [result for _, result in box.script().calls[1:3]] == [5, [(n, 4096) for n in range(5)]]
