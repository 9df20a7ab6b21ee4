"""Completion policies at work: where the work runs, who is woken by whom, what is paid, who has died."""

from __future__ import annotations

import pytest

from emulator.completion import CompletionSpec
from emulator.kernel.wq_pool import WORK_CPU_UNBOUND
from emulator.types import OP_IO_GETEVENTS, OP_IO_SUBMIT, OP_RUN, WRITE, Costs
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, costs, null_blk, scsi_debug

START = 1 * MS
#: A queue_work_on() of 100 + 20, and 600 + 20 more where a worker is to be woken.
CHARGES: dict[str, int] = {
    "queue_work_ns": 100,
    "ttwu_ns": 600,
    "coherence_ns": 20,
    "request_ns": 20,
    "ipi_ns": 300,
    "ttwu_activate_ns": 300,
    "dio_complete_ns": 400,
    "dio_tail_ns": 100,
}


def writer(nr: int, spin_ns: int) -> Steps:
    """Submit so many 4 KiB writes at once, compute, and reap them one by one."""
    yield (OP_IO_SUBMIT, [(n, WRITE, 0, 4096 * n, 4096) for n in range(nr)])
    if spin_ns:
        yield (OP_RUN, spin_ns)
    for _ in range(nr):
        yield (OP_IO_GETEVENTS, 1, 1)


def box_of(
    completion: str,
    nr: int = 1,
    spin_ns: int = 0,
    *,
    cpu: int = 0,
    nr_cpus: int = 4,
    llc: int = 0,
    irqmode: int = -1,
    size: int = 4096,
    **given: int,
) -> Box:
    """Return a quiet box whose one writer submits so many writes on a CPU."""
    name, _colon, rest = completion.partition(":")
    signals = tuple((word, 0) for word in rest.split("+")) if name == "unless-saturated" else ()
    batch = int(rest) if rest.isdecimal() else 0

    def steps() -> Steps:
        if size == 4096:
            yield from writer(nr, spin_ns)
            return
        for n in range(nr):
            yield (OP_IO_SUBMIT, [(n, WRITE, 0, size * n, size)])
            yield (OP_IO_GETEVENTS, 1, 1)

    charges: Costs = costs(**(CHARGES | given))
    return Box(
        Job(steps, name="fio", disk="/xfs", start_ns=START, cpu=cpu),
        nr_cpus=nr_cpus,
        hz=100,
        llc=llc,
        charges=charges,
        disk=scsi_debug(41 * US) if irqmode < 0 else null_blk(irqmode),
        sysctls=QUIET,
        completion=CompletionSpec(name, batch, signals),
    )


def executed(box: Box) -> list[int]:
    """Return on which CPUs the works ran, in order."""
    starts = box.events("workqueue_execute_start")
    return [event[2]["on"] for event in starts if "dio" in event[2]["function"]]


def done(box: Box) -> list[int]:
    """Return the data of the AIOs that completed."""
    return [event[2]["data"] for event in box.events("box_aio_complete")]


def test_next_online_runs_the_work_beside_the_submitter() -> None:
    box = box_of("next-online", 3, 200 * US).run(START + 5 * MS)
    assert executed(box) == [1, 1, 1]
    assert sorted(done(box)) == [0, 1, 2]
    (first, *_) = box.events("box_completion")
    assert (first[2]["cpu"], first[2]["on"]) == (1, 0)
    queued = box.events("workqueue_queue_work")
    assert {(e[2]["on"], e[2]["cpu"], e[2]["req_cpu"]) for e in queued} == {(0, 1, 1)}
    assert box.cpus[1].completed[:3] == [0, 3, 0]


def test_a_work_for_another_cpu_costs_its_queuer_the_wakeup() -> None:
    box = box_of("next-online", 1, 200 * US).run(START + 5 * MS)
    (queued,) = box.times("workqueue_queue_work")
    (woken,) = box.times("sched_waking", cpu=1, pid=worker(box, 1))
    assert woken == queued + 100 + 20 + 600 + 20


def test_a_worker_that_is_awake_needs_no_wakeup() -> None:
    box = box_of("next-online", 2, 200 * US, dio_complete_ns=50_000).run(START + 5 * MS)
    first, second = box.times("workqueue_queue_work")
    arrived = box.times("workqueue_activate_work", cpu=1)
    # The second finds it under way: 120, but no message is faster than the least of all.
    assert [a - q for a, q in zip(arrived, (first, second), strict=True)] == [740, 300]
    assert len(box.times("sched_waking", cpu=1, pid=worker(box, 1))) == 1


def worker(box: Box, cpu: int) -> int:
    """Return the pid of the first idle worker of a CPU."""
    return box.cpus[cpu].pools[0].idle[-1]


def test_the_submitter_that_sleeps_is_woken_by_mail() -> None:
    box = box_of("next-online", 2).run(START + 5 * MS)
    assert done(box) == [0, 1]
    wakings = [e for e in box.events("sched_waking") if e[2]["pid"] == box.pid(0)]
    assert wakings
    assert {e[2]["on"] for e in wakings} == {0}


def test_a_sub_block_write_is_ended_by_another_cpus_worker() -> None:
    box = box_of("next-online", 5, size=512).run(START + 5 * MS)
    assert sorted(done(box)) == [0, 1, 2, 3, 4]
    runs = executed(box)
    ends = [e[2]["on"] for e in box.events("block_rq_complete")]
    assert runs == [(end + 1) % 4 for end in ends]


def test_turns_of_two_over_the_cache() -> None:
    box = box_of("round-robin:2", 6, 300 * US, cpu=1, llc=2).run(START + 5 * MS)
    assert sorted(done(box)) == list(range(6))
    targets = [e[2]["cpu"] for e in box.events("box_completion")]
    assert targets == [1, 1, 0, 0, 1, 1]


def test_f11_asks_for_no_cpu() -> None:
    box = box_of("wq-cache-bound:1", 2, 300 * US).run(START + 5 * MS)
    last = box.events("workqueue_queue_work")[-1]
    assert (last[2]["cpu"], last[2]["req_cpu"]) == (1, WORK_CPU_UNBOUND)


def test_the_system_workqueue_is_the_same_pool() -> None:
    box = box_of("system-wq", 3, 200 * US).run(START + 5 * MS)
    assert executed(box) == [0, 0, 0]
    assert {e[2]["workqueue"] for e in box.events("workqueue_queue_work")} == {"events"}


@pytest.mark.parametrize("irqmode", [-1, 0, 1, 2])
def test_an_overwrite_completes_where_its_bio_ends(irqmode: int) -> None:
    box = box_of("inline-overwrite", 3, irqmode=irqmode).run(START + 5 * MS)
    assert sorted(done(box)) == [0, 1, 2]
    assert executed(box) == []
    assert all(cpu.pools[0].watchdog_ns == 0 for cpu in box.cpus)


def test_an_inline_completion_takes_the_time_of_the_work() -> None:
    box = box_of("inline-overwrite", 1, 200 * US).run(START + 5 * MS)
    (completed,) = box.times("box_aio_complete")
    (exit_ns,) = [e[0] for e in box.events("softirq_exit", since_ns=completed) if e[2]["vec"] == 4]
    assert exit_ns - completed == 500


@pytest.mark.parametrize("irqmode", [0, 1, 2])
def test_works_leave_from_hard_interrupts_and_from_the_submitter_too(irqmode: int) -> None:
    box = box_of("next-online", 20, 50 * US, irqmode=irqmode).run(START + 5 * MS)
    assert sorted(done(box)) == list(range(20))
    assert set(executed(box)) <= {1}


def test_what_is_left_to_the_submitter_is_completed_in_io_getevents() -> None:
    box = box_of("caller", 3, 200 * US).run(START + 5 * MS)
    assert sorted(done(box)) == [0, 1, 2]
    assert executed(box) == []
    ends = box.times("block_rq_complete")
    completed = box.events("box_aio_complete")
    # All have ended during the 200 µs; the first io_getevents() completes them, for 3 * 500 ns more.
    assert max(ends) < START + 200 * US < completed[0][0]
    assert len({event[0] for event in completed}) == 1
    assert {event[2]["current"] for event in completed} == {box.pid(0)}
    assert box.cpus[0].completed == [3, 0, 0, 0]


def test_a_submitter_that_sleeps_is_woken_to_complete() -> None:
    box = box_of("caller", 2).run(START + 5 * MS)
    assert sorted(done(box)) == [0, 1]
    (end, *_) = box.times("block_rq_complete")
    (woken, *_) = [t for t in box.times("sched_waking", pid=box.pid(0)) if t >= end]
    assert end <= woken < box.times("box_aio_complete")[0]


@pytest.mark.parametrize("irqmode", [-1, 0, 1, 2])
def test_a_submitter_that_waits_in_io_submit_completes_there(irqmode: int) -> None:
    box = box_of("caller", 5, size=512, irqmode=irqmode).run(START + 5 * MS)
    assert sorted(done(box)) == [0, 1, 2, 3, 4]
    assert executed(box) == []


def test_what_is_left_follows_a_submitter_that_moved() -> None:
    box = box_of("caller", 6, 200 * US, cpu=1)
    box.command(START + 20 * US, 1, "task", "affine", "fio", "3")
    box.run(START + 5 * MS)
    assert sorted(done(box)) == list(range(6))
    assert {event[2]["on"] for event in box.events("block_rq_complete")} == {1}
    assert {event[2]["on"] for event in box.events("box_aio_complete")} == {3}
    assert executed(box) == []


def test_an_idle_cpu_is_no_reason_to_leave() -> None:
    box = box_of("unless-saturated:not_idle", 1).run(START + 5 * MS)
    assert executed(box) == [0]  # the submitter sleeps: nobody runs there
    (decision,) = box.events("box_completion")
    assert decision[2]["cpu"] == 0


def test_a_busy_cpu_is_and_the_record_says_what_was_read() -> None:
    box = box_of("unless-saturated:not_idle", 1, 200 * US).run(START + 5 * MS)
    assert executed(box) == [1]
    (read,) = box.events("box_saturation")
    assert (read[2]["value"], read[2]["saturated"]) == (1, 1)


def test_cache_lines_of_another_cpu_are_charged_to_the_worker() -> None:
    near = box_of("next-online", 2, 200 * US, completion_refill_ns=1000).run(START + 5 * MS)
    assert near.cpus[1].completed == [0, 2, 0, 2000]
    far = box_of("next-online", 2, 200 * US, cpu=1, llc=2, completion_refill_far_ns=3000).run(
        START + 5 * MS
    )
    assert far.cpus[2].completed == [0, 0, 2, 6000]
    (begin, *_), (end, *_) = (
        far.times(f"workqueue_execute_{edge}", cpu=2) for edge in ("start", "end")
    )
    assert end - begin == 400 + 3000 + 100


# -- Hotplug ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before_ns", [0, 300, 700, 1000, 2000, 10_000, 60_000])
def test_a_target_that_dies_on_the_way_loses_nothing(before_ns: int) -> None:
    box = box_of("next-online", 8, 400 * US, nr_cpus=3)
    # The works are queued from 41 µs after the start on; CPU 1 goes about then.
    box.command(START + 41_000 - 2000 + before_ns, 1, "cpu", "offline", "1")
    box.run(START + 20 * MS)
    assert sorted(done(box)) == list(range(8))
    assert not box.cpus[1].online
    assert not box.cpus[1].pools[0].worklist


@pytest.mark.parametrize("name", ["submitter", "next-online", "round-robin:1", "caller"])
@pytest.mark.parametrize("at_us", [5, 41, 42, 100])
def test_a_submitters_cpu_that_dies(name: str, at_us: int) -> None:
    box = box_of(name, 8, 400 * US, cpu=2)
    box.command(START + at_us * US, 2, "cpu", "offline", "2")
    box.run(START + 20 * MS)
    assert sorted(done(box)) == list(range(8))
    assert not box.cpus[2].online
    assert box.pid(0) not in box.cpus[2].tasks
