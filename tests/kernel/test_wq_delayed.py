"""Delayed works and works for a node, against io-and-workqueue.md F.4."""

from __future__ import annotations

from typing import Any

import pytest

from emulator.kernel import hrtimer, wq_delayed
from emulator.types import (
    OP_CANCEL_WORK,
    OP_FLUSH_WORKQUEUE,
    OP_QUEUE_WORK,
    OP_SLEEP,
    Op,
    WorkqueueSpec,
)
from tests.kernel.box import MS, US, Box, Job, Steps, costs, lone_cpu

BEGIN = 1 * MS
WQ = WorkqueueSpec(unbound=("events_unbound",))


def run_module(*ops: Op, node: int = 0, until_ns: int = 100 * MS, **box: Any) -> Box:
    """Run a module on CPU 0 of four, in nodes of so many CPUs; HZ 100."""

    def steps() -> Steps:
        for op in ops:  # noqa: UP028 - a tuple cannot be sent what an operation returned
            yield op
        yield (OP_SLEEP, 900 * MS)

    charges = costs(coherence_ns=100, ipi_ns=500, ttwu_activate_ns=300)
    job = Job(steps, name="module", mask=1, start_ns=BEGIN)
    return Box(job, nr_cpus=4, node=node, hz=100, charges=charges, wq=WQ, **box).run(until_ns)


def queue(name: str, delay_ns: int, node: int = -1) -> Op:
    """Return the operation that queues item 0."""
    return (OP_QUEUE_WORK, [[name, 0, [[US, 0]], delay_ns, node]])


@pytest.mark.parametrize(
    ("delay_ns", "tick"), [(1, 1), (10 * MS, 1), (10 * MS + 1, 2), (35 * MS, 4)]
)
@pytest.mark.parametrize("name", ["events", "events_unbound"])
def test_F_4_a_delayed_work_is_queued_by_its_timer(name: str, delay_ns: int, tick: int) -> None:
    box = run_module(queue(name, delay_ns))
    (queued,) = box.events("workqueue_queue_work")
    assert (queued[0], queued[2]["on"]) == (tick * 10 * MS, 0)
    assert len(box.times("workqueue_execute_end")) == 1


def test_F_4_without_a_delay_it_is_queued_now() -> None:
    (queued_ns,) = run_module(queue("events", 0)).times("workqueue_queue_work")
    assert BEGIN <= queued_ns < BEGIN + 10 * US


def test_F_9_a_flush_does_not_know_of_what_is_delayed() -> None:
    box = run_module(queue("events", 30 * MS), (OP_FLUSH_WORKQUEUE, "events"))
    assert box.script().calls[2][1] == 0
    assert box.times("workqueue_execute_end")


def test_F_9_cancel_takes_the_timer_back() -> None:
    box = run_module(queue("events", 30 * MS), (OP_CANCEL_WORK, 0))
    assert box.script().calls[2][1] == 1
    assert box.cpus[0].jiffy_timers == []
    assert box.times("workqueue_queue_work") == []


def test_F_11_the_timer_of_a_cpu_that_goes_is_another_ones() -> None:
    def steps() -> Steps:
        yield queue("events", 40 * MS)
        yield (OP_SLEEP, 900 * MS)

    job = Job(steps, name="module", cpu=1, start_ns=BEGIN)
    box = Box(job, nr_cpus=2, hz=100, charges=costs(coherence_ns=100, ipi_ns=500))
    box.command(15 * MS, 1, "cpu", "offline", 1)
    box.run(30 * MS)
    assert not box.cpus[1].online
    kinds = [timer[2] for timer in box.cpus[0].jiffy_timers]
    assert hrtimer.WHEEL_DELAYED_WORK in kinds
    box.run(100 * MS)
    (queued,) = box.events("workqueue_queue_work")
    assert (queued[0], queued[2]["on"], queued[2]["cpu"]) == (40 * MS, 0, 0)


@pytest.mark.parametrize(("node", "pool", "req_cpu"), [(0, 1, 0), (1, 2, 2), (7, 1, 8192)])
def test_F_4_a_work_for_a_node_goes_to_its_pool(node: int, pool: int, req_cpu: int) -> None:
    box = run_module(queue("events_unbound", 0, node), node=2)
    (queued,) = box.events("workqueue_queue_work")
    assert queued[2]["req_cpu"] == req_cpu
    (started,) = box.events("workqueue_execute_start")
    assert box.comm(started[2]["current"]).startswith(f"kworker/u{8 + pool}:")


def test_F_4_the_first_online_cpu_of_the_node() -> None:
    cpu, _board, _ring = lone_cpu(0, 6, node=2)
    assert [wq_delayed.select_numa_node_cpu(cpu, node) for node in range(4)] == [0, 2, 4, -1]
    cpu.domains.active_mask &= ~(1 << 2)
    assert wq_delayed.select_numa_node_cpu(cpu, 1) == 3
    cpu.domains.active_mask &= ~(1 << 3)
    assert wq_delayed.select_numa_node_cpu(cpu, 1) == -1


def test_F_4_on_a_machine_of_one_node_no_node_is_near() -> None:
    cpu, _board, _ring = lone_cpu(0, 4)
    assert wq_delayed.select_numa_node_cpu(cpu, 0) == -1
