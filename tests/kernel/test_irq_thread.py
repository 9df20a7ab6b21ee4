"""Threaded interrupts against io-and-workqueue.md A.7, A.8 and B.2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from emulator.engine.board import HistoryBoard
from emulator.kernel import frames, softirq
from emulator.kernel.cpu import Cpu
from emulator.kernel.irq_thread import FIRST_IRQ_PID
from emulator.kernel.sched import SCHED_FIFO
from emulator.rules import rules_of
from emulator.types import NEVER, OP_IO_GETEVENTS, OP_IO_SUBMIT, OP_RUN, OP_SLEEP, WRITE, DiskSpec
from tests.kernel.box import MS, US, Box, Event, Job, Scripts, Steps, costs, scsi_debug
from tests.kernel.test_blk_timeout import NVME

START = 10 * MS + 100 * US
SERVICE = 20 * US

#: Hard entry 1 us, handler 2, each request 0.5 more; a wakeup 0.1, a switch 0.4, a round 0.3.
CHARGES = {
    "coherence_ns": 100,
    "ipi_ns": 500,
    "ttwu_activate_ns": 500,
    "request_ns": 500,
    "hardirq_ns": 1_000,
    "hrtimer_ns": 2_000,
    "blk_end_request_ns": 500,
    "ttwu_ns": 100,
    "context_switch_ns": 400,
    "softirq_ns": 300,
}

#: One hardware queue, one vector, of CPU 0.
SATA = replace(
    NVME,
    driver="sata_ssd",
    preset="generic",
    params=NVME.params | {"submit_queues": 1},
    vectors=(1,),
    managed=False,
)


def writes(nr: int = 1) -> Steps:
    """Write so many blocks with one system call, then sleep."""
    yield (OP_SLEEP, START)
    yield (OP_IO_SUBMIT, [(n, WRITE, 0, n * 4096, 4096) for n in range(nr)])
    yield (OP_IO_GETEVENTS, nr, nr)
    yield (OP_SLEEP, 90_000 * MS)


def hog() -> Steps:
    """Burn CPU for ever."""
    while True:
        yield (OP_RUN, NEVER >> 1)


def a_box(
    disk: DiskSpec = NVME, *, cpu: int = 1, nr: int = 1, version: str = "5.4", **more: Any
) -> Box:
    """Return a box whose task on a CPU writes; NVME's second vector is CPU 1's."""
    jobs = [Job(lambda: writes(nr), "fio", cpu=cpu, mask=1 << cpu, disk="/raw")]
    if more.pop("hog", False):
        jobs.append(Job(hog, "hog", cpu=cpu, mask=1 << cpu))
    return Box(
        *jobs,
        nr_cpus=2,
        disk=disk,
        charges=costs(**CHARGES),
        version=version,
        rules=rules_of(version),
        threadirqs=True,
        **more,
    )


def run_until(box: Box, done: Callable[[], bool]) -> None:
    """Run in steps of 50 ns until something is so."""
    box.run(START)
    for step_ns in range(START, START + MS, 50):
        box.engine.run(step_ns)
        if done():
            return
    raise AssertionError("it has never been so")


def story(box: Box, cpu: int) -> Iterator[tuple[str, str]]:
    """Yield what happens on a CPU from the first vector's interrupt on: event, and who or what."""
    events = box.events(cpu=cpu, since_ns=START)
    first = next(n for n, event in enumerate(events) if event[1] == "irq_handler_entry")
    for event in events[first:]:
        yield event[1], of(box, event)


def of(box: Box, event: Event) -> str:
    """Return whom an event is about."""
    args = event[2]
    if event[1] == "sched_switch":
        return box.comm(args["next"])
    return box.comm(args["pid"]) if "pid" in args else ""


# -- Who is there --------------------------------------------------------------------------------


def test_every_vector_has_a_thread_on_the_cpu_that_it_interrupts() -> None:
    box = a_box().run(1 * MS)
    for vector, cpu in ((0, 0), (1, 1)):
        irq = 24 + vector
        p = box.cpus[cpu].tasks[FIRST_IRQ_PID + irq]
        assert p.comm == f"irq/{irq}-sdaq{vector + 1}"
        assert (p.policy, p.prio, p.cpus_mask) == (SCHED_FIFO, 49, 1 << cpu)


def test_disks_that_complete_in_timers_have_none() -> None:
    box = a_box(scsi_debug(SERVICE)).run(1 * MS)
    assert not box.cpus[0].irq_threads


# -- The handler ----------------------------------------------------------------------------------


def test_A_8_the_hard_part_only_wakes_the_thread_which_ends_the_request() -> None:
    """Several hardware queues: the request ends in the thread, and no softirq is raised."""
    box = a_box(hog=True).run(START + MS)
    kinds = {"irq_handler_entry", "irq_handler_exit", "sched_waking", "sched_switch"}
    kinds |= {"block_rq_complete", "box_aio_complete"}
    happened = [one for one in story(box, 1) if one[0] in kinds]
    thread = "irq/25-sdaq2"
    assert happened[:6] == [
        ("irq_handler_entry", ""),
        ("irq_handler_exit", ""),
        ("sched_waking", thread),
        ("sched_switch", thread),
        ("block_rq_complete", ""),
        ("box_aio_complete", "fio"),
    ]
    assert not box.times("softirq_raise", vec=softirq.BLOCK)


def test_A_8_what_each_part_costs() -> None:
    """Entry 1, wakeup 0.1, the switch 0.4, then the handler 2 and one request 0.5."""
    box = a_box(hog=True).run(START + MS)
    (entry,) = box.times("irq_handler_entry", cpu=1)
    thread = FIRST_IRQ_PID + 25
    (wakeup,) = box.times("sched_wakeup", cpu=1, pid=thread)
    switched = box.times("sched_switch", cpu=1, next=thread)[0]
    (complete,) = box.times("block_rq_complete", cpu=1)
    assert wakeup - entry == 100
    assert switched - wakeup == 400
    assert complete - switched == 2_500


def test_A_8_with_one_hardware_queue_the_softirq_runs_in_the_thread() -> None:
    """BLOCK is raised with bottom halves disabled, and served when they are enabled."""
    box = a_box(SATA, cpu=0).run(START + MS)
    thread = FIRST_IRQ_PID + 24
    (raised,) = box.times("softirq_raise", vec=softirq.BLOCK)
    entered = [e for e in box.events("softirq_entry", cpu=0) if e[2]["vec"] == softirq.BLOCK]
    assert [(t - raised, args["current"]) for t, _, args in entered] == [(300, thread)]
    assert not box.times("sched_waking", cpu=0, pid=box.cpus[0].ksoftirqd.pid)
    assert box.times("block_rq_complete")[0] >= raised + 300


def test_A_8_the_softirq_is_ksoftirqds_while_that_is_runnable() -> None:
    box = a_box(SATA, cpu=0)
    box.run(START + US)
    box.cpus[0].ksoftirqd.state = 0  # runnable, as far as the test of do_softirq() looks
    box.engine.run(START + MS)
    assert not [e for e in box.events("softirq_entry", since_ns=START) if e[2]["vec"] == 4]


def test_A_8_an_interrupt_while_the_thread_runs_makes_it_run_again() -> None:
    """The interrupt of the second write hits the handler of the first, which takes 10 us."""

    def two() -> Steps:
        yield (OP_SLEEP, START)
        yield (OP_IO_SUBMIT, [(0, WRITE, 0, 0, 4096)])
        yield (OP_IO_SUBMIT, [(1, WRITE, 0, 4096, 4096)])
        yield (OP_IO_GETEVENTS, 2, 2)
        yield (OP_SLEEP, 90_000 * MS)

    charges = costs(**CHARGES | {"hrtimer_ns": 10_000})
    box = Box(
        Job(two, "fio", cpu=1, mask=2, disk="/raw"),
        nr_cpus=2,
        disk=NVME,
        charges=charges,
        threadirqs=True,
    ).run(START + MS)
    thread = FIRST_IRQ_PID + 25
    assert len(box.times("irq_handler_entry", cpu=1)) == 2
    assert len(box.times("sched_waking", cpu=1, pid=thread)) == 1
    assert len(box.times("sched_switch", cpu=1, next=thread)) == 1
    assert len(box.times("block_rq_complete", cpu=1)) == 2


@pytest.mark.parametrize(("version", "waits"), [("5.4", False), ("5.10", False), ("5.15", True)])
def test_interrupts_wait_for_the_handler_from_5_12_on(version: str, waits: bool) -> None:
    box = a_box(hog=True, version=version)
    cpu = box.cpus[1]
    run_until(box, lambda: cpu.f_kind == frames.IRQ_THREAD_FN)
    assert cpu.irqs_on is not waits
    assert softirq.bh_disabled(cpu)


# -- Softirqs at the exit of interrupts --------------------------------------------------------------


def test_B_2_interrupts_leave_softirqs_to_ksoftirqd() -> None:
    """The timer of scsi_debug is no thread's, but BLOCK waits for ksoftirqd."""
    box = a_box(scsi_debug(SERVICE)).run(START + MS)
    (raised,) = box.times("softirq_raise", vec=softirq.BLOCK)
    (entered,) = [e for e in box.events("softirq_entry") if e[2]["vec"] == softirq.BLOCK]
    assert box.comm(entered[2]["current"]) == "ksoftirqd/1"
    assert entered[0] > raised


def test_B_2_behind_a_hog_they_wait_for_its_slice() -> None:
    no_preempt = {"kernel.sched_wakeup_granularity_ns": 1_000_000_000}
    box = a_box(scsi_debug(SERVICE), hog=True, sysctls=no_preempt).run(START + 20 * MS)
    (raised,) = box.times("softirq_raise", vec=softirq.BLOCK)
    (complete,) = box.times("block_rq_complete")
    assert complete - raised > MS // 2


def test_B_2_the_tick_wakes_ksoftirqd_too() -> None:
    box = a_box(hog=True).run(5 * MS + 500 * US)
    rounds = box.events("softirq_entry", cpu=1)
    assert rounds
    assert {box.comm(args["current"]) for _, _, args in rounds} == {"ksoftirqd/1"}


# -- Steering -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "ends_on"), [("5.4", 1), ("5.10", 1), ("5.15", 0), ("6.6", 0)])
def test_A_7_nothing_is_steered_elsewhere_from_5_12_on(version: str, ends_on: int) -> None:
    """The vector is CPU 0's, the submitter is on CPU 1, which shares no cache."""
    box = a_box(SATA, version=version, llc=-1).run(START + MS)
    (event,) = box.events("block_rq_complete")
    assert event[2]["on"] == ends_on


# -- Hotplug, snapshots -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5.4", "5.15"])
def test_a_vector_that_is_moved_has_a_thread_where_it_is_then(version: str) -> None:
    """CPU 1 goes away with the vector's interrupt pending; the next one is CPU 0's."""
    moved = replace(SATA, vectors=(2,))
    job = Job(lambda: writes(3), "fio", cpu=1, disk="/raw")
    box = Box(
        job,
        nr_cpus=2,
        disk=moved,
        charges=costs(**CHARGES),
        version=version,
        rules=rules_of(version),
        threadirqs=True,
    )
    box.command(START + 10 * US, 1, "cpu", "offline", 1)
    box.run(START + 50 * MS)
    assert not box.cpus[1].online
    assert len(box.times("box_aio_complete")) == 3
    (thread,) = box.cpus[0].irq_threads.values()
    assert box.cpus[0].tasks[thread.pid].comm == "irq/24-ahci"
    assert thread.pid != FIRST_IRQ_PID + 24


def test_a_cpu_is_packed_with_what_its_threads_have_to_handle() -> None:
    box = a_box(hog=True)
    cpu = box.cpus[1]
    run_until(box, lambda: any(thread.entries for thread in cpu.irq_threads.values()))
    box.engine.check()
    state = cpu.snapshot()
    other = Cpu(cpu.spec, 1, HistoryBoard(4), cpu.sink, Scripts(box.jobs))
    other.restore(state)
    assert other.snapshot() == state
