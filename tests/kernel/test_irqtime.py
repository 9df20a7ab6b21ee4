"""Time in interrupts that is no task's, against io-and-workqueue.md H.1 #16."""

from __future__ import annotations

from dataclasses import replace

import pytest

from emulator.kernel import frames, irqtime, saturation
from emulator.types import OP_RUN, OP_SLEEP, Costs
from tests.kernel.box import MS, US, Box, Job, Steps, costs, lone_cpu, machine, run_task

TICK_US = 40
SOFTIRQ_US = 10


def box_of(accounting: bool, **given: int) -> Box:
    """Return a CPU on which a task computes for a second while each ms has a tick of 50 us."""

    def steps() -> Steps:
        yield (OP_RUN, 1000 * MS)

    charges: Costs = costs(tick_ns=TICK_US * US, softirq_ns=SOFTIRQ_US * US, **given)
    topology = replace(machine(1), irq_time_accounting=accounting)
    return Box(Job(steps, name="hog"), charges=charges, topology=topology)


@pytest.mark.parametrize(("accounting", "ran_us"), [(False, 99_040), (True, 94_140)])
def test_ticks_and_their_softirqs_are_not_the_tasks_time(accounting: bool, ran_us: int) -> None:
    box = box_of(accounting).run(100 * MS - 10 * US)
    # The 99th tick charges the task before it is over itself.
    assert box.task().sum_exec_runtime == ran_us * US
    # 99 ticks, and the softirq that each raises.
    assert box.cpus[0].rq.irq_time == (99 * (TICK_US + SOFTIRQ_US) * US if accounting else 0)


def test_H_1_16_avg_irq_is_their_share_of_the_time() -> None:
    box = box_of(True).run(300 * MS)
    value, _ = saturation.irq(box.cpus[0], 50)
    assert value == pytest.approx(1024 * 0.05, abs=4)
    assert saturation.irq(box.cpus[0], 4)[1]
    assert not saturation.irq(box.cpus[0], 6)[1]


@pytest.mark.parametrize(
    ("level", "in_softirq", "of_ksoftirqd", "counts"),
    [
        (frames.LEVEL_TASK, False, False, False),
        (frames.LEVEL_HARDIRQ, False, False, True),
        (frames.LEVEL_HARDIRQ, True, True, True),
        (frames.LEVEL_SOFTIRQ, True, False, True),
        (frames.LEVEL_SOFTIRQ, True, True, False),
        (frames.LEVEL_SOFTIRQ, False, False, False),  # a task is about to serve them
    ],
)
def test_whose_time_it_is(level: int, in_softirq: bool, of_ksoftirqd: bool, counts: bool) -> None:
    cpu, _board, _ring = lone_cpu()
    cpu.level, cpu.in_softirq = level, in_softirq
    if of_ksoftirqd:
        run_task(cpu, cpu.ksoftirqd)
    cpu.now += 5 * US
    irqtime.account(cpu)
    assert cpu.rq.irq_time == (5 * US if counts else 0)
    assert cpu.irq_start_ns == cpu.now


def test_interrupts_of_an_idle_cpu_count_too() -> None:
    def steps() -> Steps:
        for n in range(1, 6):
            yield (OP_SLEEP, n * 10 * MS + MS // 2)

    topology = replace(machine(1), irq_time_accounting=True)
    box = Box(Job(steps), charges=costs(hrtimer_ns=7 * US), topology=topology).run(60 * MS)
    assert box.cpus[0].rq.irq_time == 5 * 7 * US
