"""Wake lists and their IPIs (C.1 step 7), the polling idle loop, in every version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import core, frames, smp
from emulator.kernel.cpu import Cpu
from emulator.kernel.sched import ENQUEUE_MIGRATED, ENQUEUE_WAKEUP, TASK_WAKING, Task
from emulator.rules import Rules, rules_of
from emulator.trace.memory import MemoryRing
from emulator.types import OP_RUN, OP_SLEEP, RQ_FLAGS, RQF_IDLE
from tests.kernel.box import (
    MS,
    US,
    Box,
    Job,
    Steps,
    costs,
    lone_cpu,
    machine,
    read_record,
    run_task,
    sleeping_task,
)

CHARGES = {
    "ipi_ns": 1500,
    "hardirq_ns": 300,
    "ipi_handler_ns": 200,
    "ttwu_activate_ns": 500,
    "context_switch_ns": 1000,
    "idle_exit_ns": 400,
}


def woken_here(
    *, waker: int = 1, nr: int = 1, llc: int = -1, polls: bool = False, rules: Rules = Rules()
) -> tuple[Cpu, MemoryRing, list[Task]]:
    """Return idle CPU 0 to which another CPU sends wakeups of so many tasks, at 10 µs and after."""
    spec = replace(machine(4, llc=llc), idle_polls=polls)
    cpu, _, ring = lone_cpu(0, topology=spec, rules=rules, charges=costs(**CHARGES))
    other, _, _ = lone_cpu(waker, topology=spec)
    tasks = []
    for index in range(nr):
        p = sleeping_task(other, 600 + index)
        p.state = TASK_WAKING
        p.run.kind, p.run.left = frames.USER, 1000 * MS
        p.cpu = p.wake_cpu = 0
        other.depart(p, 0, 0)
        args = (p.pid, p, 0, waker, 0)
        cpu.deliver((10 * US + index, waker, index, 0, messages.ACTIVATE, args))
        tasks.append(p)
    return cpu, ring, tasks


def events(ring: MemoryRing, *names: str) -> list[tuple[int, str, dict[str, Any]]]:
    """Return the records of these events."""
    return [event for r in ring.records if (event := read_record(ring, r))[1] in names]


def woken(ring: MemoryRing) -> list[tuple[int, int]]:
    """Return (time, pid) of every sched_wakeup."""
    return [(t, args["pid"]) for t, _, args in events(ring, "sched_wakeup")]


def test_without_a_shared_cache_the_target_wakes_the_task_in_the_ipi() -> None:
    cpu, ring, (p,) = woken_here()
    cpu.advance(11 * US, 11 * US)
    assert cpu.wake_list == [[600, ENQUEUE_WAKEUP | ENQUEUE_MIGRATED]]
    assert p.state == TASK_WAKING
    assert not p.on_rq
    assert cpu.rq.nr_running == 0
    assert not cpu.board.read(0, 0)[RQ_FLAGS] & RQF_IDLE
    cpu.advance(20 * US, 20 * US)
    assert woken(ring) == [(10 * US + 1500 + 300 + 200, 600)]
    assert len(events(ring, "reschedule_entry")) == 1


def test_with_a_shared_cache_the_waker_enqueues_itself() -> None:
    cpu, ring, _ = woken_here(llc=0)
    cpu.advance(11 * US, 11 * US)
    assert woken(ring) == [(10 * US, 600)]


def test_ttwu_queue_off_enqueues_at_once() -> None:
    cpu, ring, _ = woken_here()
    cpu.ttwu_queue = False
    cpu.advance(11 * US, 11 * US)
    assert woken(ring) == [(10 * US, 600)]


@pytest.mark.parametrize(
    ("version", "order"), [("5.6", [602, 601, 600]), ("5.10", [600, 601, 602])]
)
def test_the_list_is_worked_off_newest_first_up_to_5_7(version: str, order: list[int]) -> None:
    cpu, ring, _ = woken_here(nr=3, rules=rules_of(version))
    cpu.advance(20 * US, 20 * US)
    assert [pid for _, pid in woken(ring)] == order
    # Only the first entry costs an IPI; from 5.8 on it is a call-function one.
    late = version == "5.10"
    assert len(events(ring, "call_function_single_entry")) == int(late)
    assert len(events(ring, "reschedule_entry")) == int(not late)


@pytest.mark.parametrize(
    ("version", "idle_target", "listed"),
    [("5.15", True, False), ("6.1", True, True), ("6.12", True, True), ("6.12", False, False)],
)
def test_an_idle_target_in_the_same_cache_wakes_for_itself_from_6_0(
    version: str, idle_target: bool, listed: bool
) -> None:
    cpu, ring, _ = woken_here(llc=0, rules=rules_of(version))
    if not idle_target:
        run_task(cpu, sleeping_task(cpu, 400))
    cpu.advance(10 * US + 1, 10 * US + 1)
    assert bool(cpu.wake_list) is listed
    assert len(woken(ring)) == int(not listed)


def test_who_does_not_use_the_list_from_6_0() -> None:
    """The target is the waker's own CPU, or is going down."""
    cpu, _, _ = lone_cpu(0, 4, rules=rules_of("6.12"))
    assert smp.ttwu_queue_cond(cpu, 1)
    assert not smp.ttwu_queue_cond(cpu, 0)
    cpu.active = False
    assert not smp.ttwu_queue_cond(cpu, 1)


@pytest.mark.parametrize(
    ("version", "running", "takes"),
    [
        ("5.6", 0, False),
        ("5.10", 0, True),
        ("5.10", 1, True),
        ("5.10", 2, False),
        ("6.12", 0, True),
    ],
)
def test_a_task_that_still_leaves_its_cpu_is_put_on_the_list_from_5_8(
    version: str, running: int, takes: bool
) -> None:
    cpu, _, _ = lone_cpu(0, 4, rules=rules_of(version))
    cpu.rq.nr_running = running
    assert smp.takes_while_on_cpu(cpu, 1) is takes


def test_waking_on_cpu_stays_and_needs_no_choice() -> None:
    cpu, _, ring = lone_cpu(0, 4, rules=rules_of("5.10"), charges=costs(**CHARGES))
    p = sleeping_task(cpu, 500)
    p.run.kind, p.run.left = frames.USER, 1000 * MS
    p.on_cpu = 1  # off the queue, the switch is not over
    assert core.try_to_wake_up(cpu, p, waker=(2, 77))
    assert cpu.wake_list == [[500, ENQUEUE_WAKEUP]]
    ((_, _, args),) = events(ring, "box_select_task_rq")
    assert (args["cpu"], args["rule"]) == (0, tp.PLACE_ON_CPU)
    p.on_cpu = 0
    cpu.advance(20 * US, 20 * US)
    assert woken(ring) == [(2000, 500)]
    assert p.nr_migrations == 0


# -- idle=poll ----------------------------------------------------------------------------------


@pytest.mark.parametrize("llc", [-1, 0], ids=["wake list", "enqueued"])
def test_a_polling_idle_loop_needs_no_ipi(llc: int) -> None:
    cpu, ring, _ = woken_here(llc=llc, polls=True)
    cpu.advance(30 * US, 30 * US)
    assert events(ring, "reschedule_entry") == []
    ((at_ns, _, _),) = events(ring, "sched_wake_idle_without_ipi")
    assert at_ns == 10 * US
    # A wake list is drained when the loop is left, before __schedule().
    assert woken(ring) == [(10 * US + (400 if llc < 0 else 0), 600)]
    switched = [t for t, _, args in events(ring, "sched_switch") if args["next"] == 600]
    assert switched == [10 * US + 400 + 1000]


def test_a_polling_idle_loop_keeps_its_tick() -> None:
    for polls in (False, True):
        spec = replace(machine(2), idle_polls=polls)
        box = Box(topology=spec).run(20 * MS)
        assert all(bool(cpu.tick_stopped) is not polls for cpu in box.cpus)
        states = {args["state"] for _, _, args in box.events("cpu_idle")}
        assert states == ({0} if polls else {1})
        assert all((cpu.tick_at == 20 * MS) is polls for cpu in box.cpus)


def test_a_polling_machine_runs_tasks_that_sleep_and_wake() -> None:
    def naps() -> Steps:
        for number in range(1, 10):
            yield (OP_RUN, 50 * US)
            yield (OP_SLEEP, number * MS)
        yield (OP_RUN, 1000 * MS)

    for llc in (-1, 0):
        spec = replace(machine(4, llc=llc), idle_polls=True)
        box = Box(*(Job(naps, f"nap{c}", cpu=c) for c in range(4)), topology=spec).run(20 * MS)
        assert [len(box.script(index).calls) for index in range(4)] == [19] * 4
