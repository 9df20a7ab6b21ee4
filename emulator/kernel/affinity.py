"""Which CPUs a task may use, and what a CPU looks like to another: ``kernel/sched/core.c``.

Theory of operation
-------------------
Every choice of a CPU is checked (:func:`is_cpu_allowed`): it must be in the task's mask, and active,
or for a thread that belongs to it only online.  A choice that is not allowed is repaired
(:func:`select_fallback_rq`): the same node first, then the mask, and at last the mask is given up.
Models F.3 of v5.4 and, by rules, of later ones.

Departures from the kernel: cpusets are not in use, so their step of the fallback is the one that
allows every CPU; a CPU that is dying is one that is online but not active.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import tracepoints as tp
from emulator.kernel.sched import KTHREAD_IS_PER_CPU, PF_KTHREAD, Task
from emulator.types import (
    RQ_FLAGS,
    RQF_ACTIVE,
    RQF_IDLE,
    RQF_ONLINE,
    RQF_SCHED_IDLE,
    for_each_cpu,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def cpu_flags(cpu: Cpu, other: int) -> int:
    """Return the RQF_* facts of a CPU as this CPU can know them."""
    if other == cpu.node_id:
        rq = cpu.rq
        flags = (RQF_ONLINE if cpu.online else 0) | (RQF_ACTIVE if cpu.active else 0)
        if rq.nr_running == 0:
            if rq.curr is rq.idle and not cpu.wake_list:
                flags |= RQF_IDLE
        elif rq.nr_running == rq.cfs.idle_h_nr_running:
            flags |= RQF_SCHED_IDLE
        return flags
    return cpu.view(other)[RQ_FLAGS]


def is_per_cpu_kthread(p: Task) -> bool:
    """A kernel thread that may run on one CPU only."""
    return bool(p.flags & PF_KTHREAD) and p.nr_cpus_allowed == 1


def is_cpu_allowed(cpu: Cpu, p: Task, target: int) -> bool:
    """``is_cpu_allowed()``: in the mask, and online for a per-CPU kthread, else active (F.3).

    With the balance_push of 5.11 a thread is a CPU's own by its flag KTHREAD_IS_PER_CPU, and any other
    kthread may run wherever no CPU is dying.
    """
    if not p.cpus_mask >> target & 1:
        return False
    if cpu.rq.rules.balance_push:
        own = bool(p.kthread_flags & KTHREAD_IS_PER_CPU)
    else:
        own = is_per_cpu_kthread(p)
    return bool(cpu_flags(cpu, target) & (RQF_ONLINE if own else RQF_ACTIVE))


def select_fallback_rq(cpu: Cpu, p: Task, near: int) -> int:
    """Find a CPU for a task whose choice is not allowed; break its affinity if nothing else helps.

    ``near`` is the CPU whose node is tried first.
    """
    any_kind = cpu.rq.rules.fallback_allowed
    for other in for_each_cpu(cpu.spec.machine.node[near] & p.cpus_mask):
        if is_cpu_allowed(cpu, p, other) if any_kind else cpu_flags(cpu, other) & RQF_ACTIVE:
            return other
    for _attempt in range(2):
        for other in for_each_cpu(p.cpus_mask):
            if is_cpu_allowed(cpu, p, other):
                return other
        break_affinity(cpu, p, near)
    raise AssertionError(cpu.story(f"no CPU is left for {p.comm}/{p.pid}"))


def break_affinity(cpu: Cpu, p: Task, near: int) -> None:
    """The last steps of the fallback: every possible CPU; said on the console of a user task."""
    p.cpus_mask = (1 << cpu.nr_cpus) - 1
    p.nr_cpus_allowed = cpu.nr_cpus
    p.affinity_broken = 1
    if not p.flags & PF_KTHREAD:
        text = f"process {p.pid} ({p.comm}) no longer affine to cpu{near}"
        cpu.emit(tp.PRINTK, cpu.sink.intern(text))
