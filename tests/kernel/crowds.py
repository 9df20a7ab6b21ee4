"""One CPU of a machine whose other CPUs a test makes busy or idle: for the tests of placement."""

from __future__ import annotations

from typing import Any

from emulator.kernel.cpu import Cpu
from emulator.kernel.sched import KTHREAD_IS_PER_CPU, PF_KTHREAD, Task
from emulator.rules import Rules
from emulator.types import RQF_ACTIVE, RQF_ONLINE, RQF_SCHED_IDLE
from tests.kernel.box import FixedBoard, facts, lone_cpu, run_task, sleeping_task

ALIVE = RQF_ONLINE | RQF_ACTIVE
BUSY = facts(1)
IDLE = facts()
SCHED_IDLE = facts(1, flags=ALIVE | RQF_SCHED_IDLE)

#: 5.4 and the two ways in which later kernels search.
V5_10 = Rules(idle_scan_allowed=True, idle_scan_sched_idle=True)
SINGLE_PASS = Rules(idle_scan_single_pass=True, idle_scan_from_next=True)


def crowd(board: FixedBoard, *idle: int, sched_idle: tuple[int, ...] = ()) -> None:
    """Let every CPU be busy but these."""
    for cpu in range(len(board.facts) - 1):
        board.facts[cpu] = IDLE if cpu in idle else SCHED_IDLE if cpu in sched_idle else BUSY


def busy_cpu(cpu: int = 0, nr_cpus: int = 8, **options: Any) -> tuple[Cpu, FixedBoard, Task]:
    """Return CPU ``cpu`` with a waker (pid 400) running, all others busy, and a sleeping wakee."""
    this, board, _ = lone_cpu(cpu, nr_cpus, **options)
    crowd(board)
    run_task(this, sleeping_task(this, 400))
    return this, board, sleeping_task(this, 500)


def kthread_cpu(cpu: int = 3, nr_cpus: int = 8, **options: Any) -> tuple[Cpu, FixedBoard, Task]:
    """Return CPU ``cpu`` where a bound kthread (pid 400) wakes a task that slept there."""
    this, board, _ = lone_cpu(cpu, nr_cpus, **options)
    crowd(board)
    waker = sleeping_task(this, 400, mask=1 << cpu)
    waker.flags |= PF_KTHREAD
    run_task(this, waker)
    return this, board, sleeping_task(this, 500, prev=cpu)


def own_thread(p: Task) -> None:
    """Make a task a thread of its one CPU, as smpboot threads are."""
    p.flags |= PF_KTHREAD
    p.kthread_flags |= KTHREAD_IS_PER_CPU
