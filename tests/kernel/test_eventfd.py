"""AIO that signals an eventfd (IOCB_FLAG_RESFD): who is woken when, and by whom."""

from __future__ import annotations

import pytest

from emulator.kernel.process import Kioctx
from emulator.rules import Rules, rules_of
from emulator.types import (
    OP_EVENTFD_READ,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_SLEEP,
    READ,
    WRITE,
    Op,
)
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, costs, scsi_debug

BEGIN = 1 * MS


def submit(rw: int, nr: int = 1, resfd: bool = True) -> Op:
    return (OP_IO_SUBMIT, [(n, rw, 0, n * 4096, 4096) for n in range(nr)], resfd)


def loop_box(*ops: Op, mount: str = "/raw", rules: Rules = Rules(), nr_cpus: int = 1) -> Box:
    """Run operations of one event loop on CPU 0."""

    def steps() -> Steps:
        yield from (op for op in ops)
        yield (OP_SLEEP, 1000 * MS)

    return Box(
        Job(steps, name="loop", disk=mount, start_ns=BEGIN),
        nr_cpus=nr_cpus,
        hz=100,
        disk=scsi_debug(41 * US),
        charges=costs(dispatch_ns=1 * US, coherence_ns=100, ipi_ns=500, ttwu_activate_ns=500),
        sysctls=QUIET,
        rules=rules,
    ).run(50 * MS)


def results(box: Box) -> list[object]:
    """Return what every operation returned, the first call's None left out."""
    return [result for _, result in box.script().calls[1:]]


@pytest.mark.parametrize(
    ("mount", "rw", "who"), [("/raw", READ, "interrupt"), ("/xfs", WRITE, "kworker")]
)
def test_eventfd_signal_wakes_the_reader_in_the_completer_s_context(
    mount: str, rw: int, who: str
) -> None:
    box = loop_box(submit(rw), (OP_EVENTFD_READ,), (OP_IO_GETEVENTS, 0, 8), mount=mount)
    assert results(box)[:3] == [1, 1, [(0, 4096)]]
    (done,) = box.events("box_aio_complete")
    woken = [e for e in box.events("sched_waking") if e[2]["pid"] == box.pid(0) and e[0] > BEGIN]
    assert [t for t, _, _ in woken] == [done[0]]
    waker = "interrupt" if woken[0][2]["flags"] & 12 else box.comm(woken[0][2]["current"])
    assert waker.partition("/")[0] == who


def test_the_count_is_read_and_cleared() -> None:
    box = loop_box(
        submit(READ, 3),
        (OP_RUN, 100 * US),
        (OP_EVENTFD_READ,),
        (OP_IO_GETEVENTS, 0, 8),
        submit(READ, 1),
        (OP_EVENTFD_READ,),
    )
    _, _, count, events, _, again = results(box)[:6]
    assert (count, again) == (3, 1)
    assert isinstance(events, list)
    assert len(events) == 3


@pytest.mark.parametrize("version", ["5.4", "6.12"])
def test_every_event_wakes_a_reader_whatever_6_8_changed_for_io_getevents(version: str) -> None:
    box = loop_box(submit(READ, 4), (OP_EVENTFD_READ,), rules=rules_of(version))
    first = min(box.times("box_aio_complete"))
    assert results(box)[1] == 1
    assert box.script().calls[2][0] == first


def test_without_resfd_nothing_is_signalled() -> None:
    box = loop_box(submit(READ, resfd=False), (OP_EVENTFD_READ,))
    assert len(results(box)) == 1  # it sleeps for ever
    assert box.task().run.ctx.eventfd == -1


def test_a_reader_that_was_moved_hears_of_its_io_by_mail() -> None:
    box = Box(
        Job(
            lambda: (op for op in (submit(WRITE), (OP_EVENTFD_READ,), (OP_SLEEP, 1000 * MS))),
            name="loop",
            disk="/xfs",
            start_ns=BEGIN,
        ),
        nr_cpus=2,
        hz=100,
        disk=scsi_debug(2 * MS),
        charges=costs(coherence_ns=100, ipi_ns=500, ttwu_activate_ns=500, io_submit_ns=1 * US),
        sysctls=QUIET,
    )
    box.command(BEGIN + 500, 0, "task", "affine", "loop", "1")
    box.run(10 * MS)
    assert [t[2]["on"] for t in box.events("box_aio_complete")] == [1]
    assert box.script().calls[-1][1] == 1


def test_the_count_survives_a_snapshot() -> None:
    ctx = Kioctx(8, 1)
    ctx.eventfd = 5
    assert Kioctx.unpack(ctx.pack()).eventfd == 5
