"""Where a woken or new task goes: ``select_task_rq_fair()`` of ``fair.c``, v5.4 and by rules later.

Theory of operation
-------------------
The choice is made by the waker's CPU, on its own runqueue exactly and on every other CPU as of the
coherence latency.  For a wakeup, first a target between the waker's CPU and the task's previous one
(``wake_affine()``), then an idle CPU near the target (:mod:`idle_sibling`).  Forks and execs take the
slow path (:mod:`idlest`).  What was chosen, from what and by which rule is recorded.

The sched domains that the path walks are the waker's CPU's (:mod:`emulator.topology`), for the
active CPUs that this CPU was last told of.

Departures from the kernel: where another CPU's context wakes a task that sleeps here, this CPU's
runqueue stands for what only the waker knows exactly (its current task, its idle average); the
stacking rule of 5.6 is not asked then.  ``wake_cap()`` of asymmetric machines is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator import tracepoints as tp
from emulator.kernel import affinity, fair, idle_sibling, idlest
from emulator.kernel.sched import RT_CLASS, Task
from emulator.topology import SD_BALANCE_EXEC, SD_BALANCE_FORK
from emulator.types import RQ_LOAD_AVG, RQ_NR_RUNNING, RQ_RUNNABLE_AVG, RQF_IDLE

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

SCHED_CAPACITY = 1024


# -- select_task_rq -----------------------------------------------------------------------------


def select_task_rq(cpu: Cpu, p: Task, prev: int, waker_cpu: int, waker_pid: int, sync: bool) -> int:
    """Choose the CPU for a waking task, as its waker on ``waker_cpu`` does."""
    if p.nr_cpus_allowed > 1 and p.sched_class == RT_CLASS:
        target, chosen, rule = prev, prev, tp.PLACE_PREV  # see the departures of rt.py
    elif p.nr_cpus_allowed > 1:
        target, chosen, rule = select_task_rq_fair(cpu, p, prev, waker_cpu, waker_pid, sync)
    else:
        target = chosen = p.cpus_mask.bit_length() - 1
        rule = tp.PLACE_PINNED
    return allowed_choice(cpu, p, prev, target, chosen, rule)


def allowed_choice(cpu: Cpu, p: Task, prev: int, target: int, chosen: int, rule: int) -> int:
    """Repair a choice that is not allowed, record it, and return it."""
    if not affinity.is_cpu_allowed(cpu, p, chosen):
        chosen = affinity.select_fallback_rq(cpu, p, p.cpu)
        rule = tp.PLACE_FALLBACK
    cpu.cause = cpu.emit(tp.BOX_SELECT_TASK_RQ, p.pid, prev, target, chosen, rule)
    return chosen


def select_task_rq_fair(
    cpu: Cpu, p: Task, prev: int, waker_cpu: int, waker_pid: int, sync: bool
) -> tuple[int, int, int]:
    """Return (target of the idle search, CPU chosen, rule) of a wakeup (C.2)."""
    record_wakee(cpu, p, waker_pid)
    want_affine = not wake_wide(cpu, p, waker_pid) and bool(p.cpus_mask >> waker_cpu & 1)
    target = prev
    if want_affine and waker_cpu != prev:
        sd = cpu.domains.wake_affine_domain(waker_cpu, prev)
        if sd is not None:
            target = wake_affine(cpu, p, waker_cpu, prev, sync, sd.imbalance_pct)
    chosen, rule = idle_sibling.select_idle_sibling(cpu, p, prev, target, waker_cpu)
    if want_affine and not cpu.rq.rules.recent_used_cpu_wakee_only:
        waker = cpu.tasks.get(waker_pid)
        if waker is not None:
            waker.recent_used_cpu = waker_cpu
    return target, chosen, rule


def select_task_rq_fork(cpu: Cpu, p: Task) -> int:
    """The CPU of a new task: ``find_idlest_cpu()`` from the highest domain down (C.5)."""
    here = cpu.node_id
    p.recent_used_cpu = here
    chosen = idlest.find_idlest_cpu(cpu, p, here, here, SD_BALANCE_FORK)
    return allowed_choice(cpu, p, here, here, chosen, tp.PLACE_IDLEST)


def select_task_rq_exec(cpu: Cpu, p: Task) -> int:
    """The CPU on which an exec goes on; unlike the others the caller looks whether it is active."""
    here = cpu.node_id
    chosen = idlest.find_idlest_cpu(cpu, p, here, here, SD_BALANCE_EXEC)
    cpu.cause = cpu.emit(tp.BOX_SELECT_TASK_RQ, p.pid, here, here, chosen, tp.PLACE_EXEC)
    return chosen


# -- Wakees: how many a waker has ---------------------------------------------------------------


def record_wakee(cpu: Cpu, p: Task, waker_pid: int) -> None:
    """Count how often the waker changes whom it wakes, halved about once a second."""
    waker = cpu.tasks.get(waker_pid, cpu.rq.idle if waker_pid == 0 else None)
    if waker is None:
        return
    jiffies = cpu.jiffies()
    if jiffies > waker.wakee_flip_decay_ts + cpu.hz:
        waker.wakee_flips >>= 1
        waker.wakee_flip_decay_ts = jiffies
    if waker.last_wakee != p.pid:
        waker.last_wakee = p.pid
        waker.wakee_flips += 1


def copy_wakees(parent: Task, child: Task) -> None:
    """``dup_task_struct()``: nothing resets what the parent counted of its wakees."""
    child.wakee_flips = parent.wakee_flips
    child.wakee_flip_decay_ts = parent.wakee_flip_decay_ts
    child.last_wakee = parent.last_wakee


def wake_wide(cpu: Cpu, p: Task, waker_pid: int) -> bool:
    """Whether waker and wakee flip so much that waking near the waker would crowd it."""
    waker = cpu.tasks.get(waker_pid, cpu.rq.idle if waker_pid == 0 else None)
    master = waker.wakee_flips if waker is not None else 0
    slave = p.wakee_flips
    # Factors are 1 at least, so most pairs need no look at the cache.
    if not master or not slave:
        return False
    return wake_wide_flips(master, slave, max(1, cpu.domains.llc(cpu.node_id).bit_count()))


def wake_wide_flips(master: int, slave: int, factor: int) -> bool:
    """The test itself: both flip at least ``factor`` times, one ``factor`` times the other (C.2)."""
    if master < slave:
        master, slave = slave, master
    return slave >= factor and master >= slave * factor


# -- wake_affine --------------------------------------------------------------------------------


def wake_affine(cpu: Cpu, p: Task, this_cpu: int, prev: int, sync: bool, pct: int) -> int:
    """Choose between the waker's CPU and the task's previous one (C.3).

    ``pct`` is the imbalance_pct of the domain that spans both.  Record the choice with its inputs.
    """
    tun = cpu.rq.tun
    rule = tp.WA_UNDECIDED
    sides = (0, 0)
    if tun.wa_idle:
        rule = wake_affine_idle(cpu, this_cpu, prev, sync)
    if rule == tp.WA_UNDECIDED and tun.wa_weight:
        this_wins, *sides_found = wake_affine_weight(cpu, p, this_cpu, prev, sync, pct)
        sides = (sides_found[0], sides_found[1])
        if this_wins:
            rule = tp.WA_WEIGHT
    target = this_cpu if rule in tp.WA_THIS else prev
    if rule != tp.WA_UNDECIDED and (target == this_cpu or not cpu.rq.rules.wake_affine_this_only):
        cpu.count("ttwu_move_affine")  # up to 6.2 a decision for prev counts too
    cpu.cause = cpu.emit(tp.BOX_WAKE_AFFINE, p.pid, *sides, target, rule)
    return target


def wake_affine_idle(cpu: Cpu, this_cpu: int, prev: int, sync: bool) -> int:
    """Return which rule about idle CPUs decides, WA_UNDECIDED if none does."""
    prev_idle = affinity.cpu_flags(cpu, prev) & RQF_IDLE
    if affinity.cpu_flags(cpu, this_cpu) & RQF_IDLE and cpu.domains.share_cache(this_cpu, prev):
        return tp.WA_BOTH_IDLE if prev_idle else tp.WA_THIS_IDLE
    if sync and nr_running(cpu, this_cpu) == 1:
        return tp.WA_SYNC
    if prev_idle and cpu.rq.rules.wake_affine_prev_idle:
        return tp.WA_PREV_IDLE
    return tp.WA_UNDECIDED


def wake_affine_weight(
    cpu: Cpu, p: Task, this_cpu: int, prev: int, sync: bool, pct: int
) -> tuple[bool, int, int]:
    """Compare the two CPUs' loads with the task moved; return whether this one wins, both sides."""
    current_load = -1
    jiffies = cpu.jiffies()
    if sync:
        curr = cpu.rq.curr
        current_load = fair.task_h_load(curr, cpu.rq, jiffies) if curr is not cpu.rq.idle else 0
    return wake_affine_loads(
        affine_load(cpu, this_cpu),
        affine_load(cpu, prev),
        fair.task_h_load(p, cpu.rq, jiffies),
        current_load,
        pct,
        cpu.rq.tun.wa_bias,
    )


def wake_affine_loads(
    this_load: int,
    prev_load: int,
    task_load: int,
    current_load: int,
    pct: int,
    bias: bool = True,
    this_capacity: int = SCHED_CAPACITY,
    prev_capacity: int = SCHED_CAPACITY,
) -> tuple[bool, int, int]:
    """Return whether this CPU wins, and both sides (C.3); ``current_load`` is -1 unless sync."""
    if current_load >= 0:
        if current_load > this_load:
            return True, this_load, current_load
        this_load -= current_load
    this_side = (this_load + task_load) * (100 if bias else 1) * prev_capacity
    prev_side = (prev_load - task_load) * (100 + (pct - 100) // 2 if bias else 1) * this_capacity
    if current_load >= 0:
        prev_side += 1
    return this_side < prev_side, this_side, prev_side


def affine_load(cpu: Cpu, other: int) -> int:
    """The load that wake_affine() weighs: of this CPU now, of another as it last published it."""
    if cpu.rq.rules.wake_affine_cpu_load:
        return cpu.rq.cfs.avg.load_avg if other == cpu.node_id else cpu.view(other)[RQ_LOAD_AVG]
    return runnable_load(cpu, other)


def runnable_load(cpu: Cpu, other: int) -> int:
    """``cpu_runnable_load()``: of this CPU now, of another as it last published it."""
    if other == cpu.node_id:
        return cpu.rq.cfs.avg.runnable_avg
    return cpu.view(other)[RQ_RUNNABLE_AVG]


def nr_running(cpu: Cpu, other: int) -> int:
    """``cpu_rq(other)->nr_running``: of this CPU now, of another as it last published it."""
    return cpu.rq.nr_running if other == cpu.node_id else cpu.view(other)[RQ_NR_RUNNING]
