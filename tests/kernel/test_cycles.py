"""Whole machines against the deterministic vectors of io-and-workqueue.md K.13 and K.14.

Each constant of a vector is one cost; every other cost is 0.
"""

from __future__ import annotations

from emulator.types import OP_IO_GETEVENTS, OP_IO_SUBMIT, OP_RUN, WRITE
from tests.kernel.box import MS, US, Box, Job, Steps, costs, scsi_debug

#: io_submit 5 µs, device starts at its end; hardirq + softirq + queue_work 2 µs; switch 2 µs.
CYCLE = costs(io_submit_ns=5 * US, hardirq_ns=2 * US, context_switch_ns=2 * US, dio_complete_ns=400)
#: When fio starts: the pools have settled.
BEGIN = 1 * MS
#: "the woken kworker never preempts fio".
NEVER_PREEMPT = {"kernel.sched_wakeup_granularity_ns": 1_000_000_000}


def fio(iodepth: int, length: int, nr: int) -> Steps:
    """Compute 30 µs, submit one IO; at full depth, or when done, reap one."""
    in_flight = 0
    for number in range(nr):
        yield (OP_RUN, 30 * US)
        yield (OP_IO_SUBMIT, [(number, WRITE, 0, number * length, length)])
        in_flight += 1
        if in_flight == iodepth:
            in_flight -= len((yield (OP_IO_GETEVENTS, 1, 1)))
    while in_flight:
        in_flight -= len((yield (OP_IO_GETEVENTS, 1, 1)))


def first_switch_to_fio(box: Box) -> int:
    """Return when fio first got a CPU."""
    return next(t for t, _, following in box.switches() if following == "fio")


def us(*times: float) -> list[int]:
    """Return times given in µs as whole ns."""
    return [round(t * US) for t in times]


def test_vector_K_13_single_cpu_4k_path() -> None:
    box = Box(
        Job(lambda: fio(3, 4096, 5), name="fio", disk="/xfs", start_ns=BEGIN),
        hz=100,
        charges=CYCLE,
        disk=scsi_debug(60 * US),
        sysctls=NEVER_PREEMPT,
    ).run(2 * MS)
    start = first_switch_to_fio(box)

    def at(*times: float) -> list[int]:
        return [start + t for t in us(*times)]

    assert box.times("block_rq_issue") == at(35, 70, 107, 148.4, 189.8)
    assert box.times("workqueue_queue_work", workqueue="dio/sda")[:3] == at(97, 132, 169)
    # The worker is woken for #1 while fio runs, stays queued, and executes when fio blocks.
    worker = "kworker/0:1"
    kworker = next(p.pid for p in box.cpus[0].tasks.values() if p.comm == worker)
    waking = [t for t in box.times("sched_waking", pid=kworker) if t > start]
    assert waking[:2] == at(97, 132)
    assert box.times("workqueue_execute_start", function="iomap_dio_complete_work")[:3] == at(
        109, 150.4, 191.8
    )
    assert box.times("workqueue_execute_end")[:3] == at(109.4, 150.8, 192.2)
    # The worker writes the ring event; fio, asleep in io_getevents(), is woken at the item's end.
    assert box.times("box_aio_complete")[:3] == at(109.4, 150.8, 192.2)
    assert box.times("sched_waking", pid=box.pid(0))[:3] == at(109.4, 150.8, 192.2)
    assert {e[2]["current"] for e in box.events("box_aio_complete")} == {kworker}
    # clat: from the return of io_submit() to the return of io_getevents() with the event.
    calls = box.script().calls
    reaped = [t for t, result in calls if isinstance(result, list)]
    assert [reaped[0] - start - 35_000, reaped[1] - start - 70_000] == us(76.4, 82.8)
    assert reaped[2] - start - 107_000 == 87_200
    assert [s for s in box.switches() if start <= s[0] <= start + 195 * US] == [
        (start, "idle", "fio"),
        (start + 109_000, "fio", worker),
        (start + 111_400, worker, "fio"),
        (start + 150_400, "fio", worker),
        (start + 152_800, worker, "fio"),
        (start + 191_800, "fio", worker),
        (start + 194_200, worker, "fio"),
    ]


def test_vector_K_14_512_byte_path() -> None:
    nr = 6
    charges = costs(
        io_submit_ns=5 * US,
        hardirq_ns=2 * US,
        context_switch_ns=2 * US,
        dio_complete_ns=400,
        dio_tail_ns=200,
    )
    box = Box(
        Job(lambda: fio(2, 512, nr), name="fio", disk="/xfs", start_ns=BEGIN),
        hz=100,
        charges=charges,
        disk=scsi_debug(41 * US),
        sysctls=NEVER_PREEMPT,
    ).run(2 * MS)
    start = first_switch_to_fio(box)
    issued = box.times("block_rq_issue")
    assert issued == [start + 35 * US + n * 82_600 for n in range(nr)]
    # slat: from the call of io_submit() to its return.
    calls = box.script().calls
    assert [result for _, result in calls[1:5]] == [None, 1, None, 1]
    assert calls[2][0] - calls[1][0] == 52_600
    # clat: the event is there when io_submit() returns, written by fio itself.
    assert box.times("box_aio_complete")[0] == calls[2][0]
    assert [e[2]["current"] for e in box.events("box_aio_complete")] == [box.pid(0)] * nr


def test_vector_K_14_wakeup_migration_instead_of_waiting_for_the_kworker() -> None:
    """The last two terms become a remote idle wake of 5 µs: 85.4 µs, one migration per IO."""
    nr = 6
    charges = costs(
        io_submit_ns=5 * US,
        hrtimer_ns=2 * US,
        context_switch_ns=2 * US,
        dio_complete_ns=400,
        dio_tail_ns=200,
        select_task_rq_ns=500,
        ttwu_activate_ns=500,
        ipi_ns=1000,
        ipi_handler_ns=1000,
    )
    box = Box(
        Job(lambda: fio(2, 512, nr), name="fio", disk="/xfs", start_ns=BEGIN),
        nr_cpus=2,
        hz=100,
        charges=charges,
        disk=scsi_debug(41 * US),
        sysctls=NEVER_PREEMPT,
    ).run(2 * MS)
    start = first_switch_to_fio(box)
    assert box.times("block_rq_issue") == [start + 35 * US + n * 85_400 for n in range(nr)]
    moves = [e[2]["dest_cpu"] for e in box.events("sched_migrate_task")]
    assert moves == [1, 0, 1, 0, 1, 0]
