"""Flush, drain and cancel, against io-and-workqueue.md F.9."""

from __future__ import annotations

from typing import Any

import pytest

from emulator import wire
from emulator.kernel.shared import Shared
from emulator.types import (
    OP_CANCEL_WORK,
    OP_FLUSH_WORKQUEUE,
    OP_QUEUE_WORK,
    OP_SLEEP,
    Op,
    WorkqueueSpec,
)
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, costs

UNBOUND = WorkqueueSpec(unbound=("events_unbound",), max_active=(("xfs-sync", 1),))
BEGIN = 1 * MS


def run_module(
    *ops: Op, nr_cpus: int = 2, others: list[Op] | None = None, until_ns: int = 100 * MS
) -> tuple[Box, list[tuple[int, Any]]]:
    """Run a module on CPU 0 (and one on CPU 1); return the box and (time, result) of its acts."""

    def steps(acts: tuple[Op, ...] | list[Op]) -> Steps:
        for op in acts:  # noqa: UP028 - a tuple cannot be sent what an operation returned
            yield op

    jobs = [Job(lambda: steps(ops), name="module", mask=1, start_ns=BEGIN)]
    if others:
        jobs.append(Job(lambda: steps(others), name="other", cpu=1, mask=2, start_ns=BEGIN))
    charges = costs(coherence_ns=100, ipi_ns=500, ttwu_activate_ns=300)
    box = Box(*jobs, nr_cpus=nr_cpus, hz=100, charges=charges, wq=UNBOUND).run(until_ns)
    return box, box.script().calls[1:]


def works(*items: tuple[str, list[list[int]]]) -> Op:
    """Return the operation that queues items, numbered from 0."""
    numbered = enumerate(items)
    return (OP_QUEUE_WORK, [[queue, n, [list(s) for s in steps]] for n, (queue, steps) in numbered])


def last_end(box: Box) -> int:
    """Return when the last item ended."""
    return max(box.times("workqueue_execute_end"))


@pytest.mark.parametrize("queue", ["events", "xfs-sync", "cpu_intensive", "events_unbound"])
def test_F_9_a_flush_waits_for_all_items_active_and_delayed(queue: str) -> None:
    items = [(queue, [[1 * MS, 2 * MS], [US, 0]]) for _ in range(3)]
    box, calls = run_module(works(*items), (OP_FLUSH_WORKQUEUE, queue), (OP_SLEEP, 90 * MS))
    assert len(box.times("workqueue_execute_end")) == 3
    flushed_ns, nr = calls[1]
    assert nr == 3
    assert last_end(box) <= flushed_ns <= last_end(box) + 10 * US


def test_F_9_a_flush_waits_for_other_cpus_items_too() -> None:
    other = [works(("events", [[5 * MS, 0]]))]
    box, calls = run_module(
        (OP_SLEEP, BEGIN + MS),
        (OP_FLUSH_WORKQUEUE, "events"),
        (OP_FLUSH_WORKQUEUE, "events"),
        others=other,
    )
    (end_ns,) = box.times("workqueue_execute_end")
    (_slept, _), (flushed_ns, nr), (again_ns, none) = calls[:3]
    assert (nr, none) == (1, 0)
    assert end_ns < flushed_ns < end_ns + 10 * US
    # Nothing there: it asks, and all have answered.
    assert again_ns - flushed_ns < 5 * US


def test_F_9_a_flush_does_not_wait_for_what_comes_later() -> None:
    other: list[Op] = [
        works(("events", [[2 * MS, 0]])),
        (OP_SLEEP, BEGIN + MS + 500 * US),
        works(("events", [[20 * MS, 0]])),
    ]
    box, calls = run_module(
        (OP_SLEEP, BEGIN + MS), (OP_FLUSH_WORKQUEUE, "events"), (OP_SLEEP, 90 * MS), others=other
    )
    first, second = box.times("workqueue_execute_end")
    assert first < calls[1][0] < second
    assert calls[1][1] == 1


def test_F_9_cancel_takes_back_what_waits_and_waits_for_what_executes() -> None:
    box, calls = run_module(
        works(("events", [[US, 5 * MS], [US, 0]]), *[("xfs-sync", [[US, MS], [US, 0]])] * 3),
        (OP_SLEEP, BEGIN + 500 * US),
        (OP_CANCEL_WORK, 3),
        (OP_CANCEL_WORK, 0),
        (OP_CANCEL_WORK, 3),
        (OP_SLEEP, 90 * MS),
    )
    results = [result for _time, result in calls[2:5]]
    assert results == [1, 0, 0]
    ends = box.times("workqueue_execute_end")
    assert len(ends) == 3, "the last one of xfs-sync is gone"
    assert ends[-1] <= calls[3][0] <= ends[-1] + 10 * US
    assert box.cpus[0].pools[0].active == {3: 0, 14: 0}
    assert box.cpus[0].counters["item.module.w3.cancelled"] == 1


def test_F_9_cancelling_an_active_item_lets_a_delayed_one_take_its_place() -> None:
    def steps() -> Steps:
        yield works(("xfs-sync", [[US, 0]]), ("xfs-sync", [[US, 0]]))
        yield (OP_CANCEL_WORK, 0)

    # The worker does not preempt, so the module cancels before anything has begun.
    job = Job(steps, name="module", start_ns=BEGIN)
    box = Box(job, hz=100, wq=UNBOUND, sysctls=QUIET).run(10 * MS)
    started = box.events("workqueue_execute_start")
    queued = [e[2]["work"] for e in box.events("workqueue_queue_work")]
    assert box.script().calls[2][1] == 1
    assert [e[2]["work"] for e in started] == queued[1:]
    assert box.cpus[0].works == [2, 2]


def test_F_11_a_flush_survives_that_the_items_cpu_goes() -> None:
    def flusher() -> Steps:
        yield (OP_SLEEP, BEGIN + MS)
        yield (OP_FLUSH_WORKQUEUE, "events")

    def module() -> Steps:
        yield works(("events", [[US, 10 * MS], [US, 0]]))

    box = Box(
        Job(flusher, name="flusher", start_ns=BEGIN),
        Job(module, name="module", cpu=1, mask=2, start_ns=BEGIN),
        nr_cpus=2,
        hz=100,
    )
    box.command(5 * MS, 1, "cpu", "offline", 1)
    box.run(60 * MS)
    (end_ns,) = box.times("workqueue_execute_end")
    assert end_ns > 5 * MS
    assert box.script(0).calls[2][0] >= end_ns
    assert box.script(0).calls[2][1] == 1


def test_flushers_are_in_the_snapshots() -> None:
    queue = (OP_FLUSH_WORKQUEUE, "events_unbound")
    item = ("events_unbound", [[US, 20 * MS], [US, 0]])
    box, _calls = run_module(works(item), queue, until_ns=5 * MS)
    node = box.shared
    assert node is not None
    assert len(node.flushers) == 1
    restored = Shared(box.spec)
    restored.restore(wire.unpack(wire.pack(node.snapshot())))
    assert restored.flushers == node.flushers
    assert restored.asked.pools[0].works == node.asked.pools[0].works
