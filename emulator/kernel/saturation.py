"""Is this CPU saturated?  The signals that a CPU can read of itself when it queues a work.

Theory of operation
-------------------
Each function answers with the value that it read and whether that says saturated, given a limit.
It reads what the kernel has lying about, as old as the kernel leaves it: no clock is brought up to
date, no average is aged.  Only ``stint``, ``head_age_ns`` and ``preempt`` read a clock.  What each
costs and when it lags is in :data:`emulator.completion.SIGNALS`.

The decision is taken in the interrupt or softirq in which a bio ends, before the worker is woken: the
interrupted task is current.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator.kernel import fair_kthread
from emulator.kernel.fair_weight import calc_delta
from emulator.kernel.sched import FAIR_CLASS, NICE_0_LOAD, SCHED_IDLE, Rq, Task
from emulator.kernel.wq_table import WQ_DIO
from emulator.tracepoints import PREEMPT_KTHREAD_AHEAD, PREEMPT_KTHREAD_NVCSW

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

SCHED_CAPACITY = 1024
NICE_0_WEIGHT = 1024

Answer = tuple[int, bool]  #: (value read, saturated)

# -- The runqueue -------------------------------------------------------------------------------


def not_idle(cpu: Cpu, _limit: int) -> Answer:
    """#1: somebody runs here.  A task of 5 µs looks like one that computes for ever."""
    busy = cpu.rq.curr is not cpu.rq.idle
    return int(busy), busy


def nr_running(cpu: Cpu, limit: int) -> Answer:
    """#2: runnable tasks of all classes; the worker itself is one from its wakeup on."""
    nr = cpu.rq.nr_running
    return nr, nr >= limit


def stint(cpu: Cpu, limit: int) -> Answer:
    """#4: how long the current task has run since it was last picked, ns of task time."""
    rq = cpu.rq
    if rq.curr is rq.idle:
        return 0, False
    ran = rq.curr.sum_exec_runtime - rq.curr.prev_sum_exec_runtime + unaccounted(cpu)
    return ran, ran >= limit


def unaccounted(cpu: Cpu) -> int:
    """Return what the current task has run since ``update_curr()`` last charged it, ns."""
    rq = cpu.rq
    if rq.cfs.curr is not rq.curr:
        return 0
    return max(0, rq.clock_task + cpu.now - rq.clock - rq.curr.exec_start)


def util(cpu: Cpu, limit: int) -> Answer:
    """#8, #9: ``util_avg`` of the fair queue against so many percent of the capacity."""
    value = cpu.rq.cfs.avg.util_avg
    return value, value * 100 > cpu.rq.cpu_capacity * limit


def runnable(cpu: Cpu, limit: int) -> Answer:
    """#10: ``runnable_avg`` (5.7) against so many percent of 1024: more than one CPU can run."""
    value = cpu.rq.cfs.avg.runnable_avg
    return value, value * 100 > SCHED_CAPACITY * limit


def load(cpu: Cpu, limit: int) -> Answer:
    """#11: ``load_avg`` against so many percent of a nice-0 task's that always runs."""
    value = cpu.rq.cfs.avg.load_avg
    return value, value * 100 > NICE_0_WEIGHT * limit


def run_delay(cpu: Cpu, limit: int) -> Answer:
    """#14: how long who last began to run here had waited (``sched_info_arrive()``), ns."""
    assert cpu.sched_info is not None
    value = cpu.sched_info.last_ns
    return value, value >= limit


def steal(cpu: Cpu, limit: int) -> Answer:
    """#15: what the host took between the last two ticks (``steal_account_process_time()``), ns."""
    assert cpu.steal is not None
    value = cpu.steal.last_ns
    return value, value >= limit


def irq(cpu: Cpu, limit: int) -> Answer:
    """#16: the interrupts' part of the CPU's time, ``avg_irq``, against so many percent of 1024."""
    value = cpu.rq.avg_irq.util_avg
    return value, value * 100 > SCHED_CAPACITY * limit


def ksoftirqd(cpu: Cpu, _limit: int) -> Answer:
    """#17: softirqs have become too many for the interrupts' exits."""
    runs = bool(cpu.ksoftirqd.on_rq)
    return int(runs), runs


def avg_idle(cpu: Cpu, limit: int) -> Answer:
    """#12: the average idle period, ns; renewed only when the CPU leaves idle."""
    value = cpu.rq.avg_idle
    return value, value < limit


def psi(cpu: Cpu, limit: int) -> Answer:
    """#13: the share of time in which somebody waited, hundredths of a percent, renewed every 2 s."""
    assert cpu.psi is not None
    value = cpu.psi.some_avg10(cpu.now)
    return value, value > limit * 100


# -- The worker pool ----------------------------------------------------------------------------


def congested(cpu: Cpu, _limit: int) -> Answer:
    """#7: ``workqueue_congested()``: works of direct IO wait because too many are active."""
    nr = len(cpu.pools[0].delayed.get(WQ_DIO, ()))
    return nr, nr > 0


def worklist(cpu: Cpu, limit: int) -> Answer:
    """#6: works that wait in the pool."""
    nr = len(cpu.pools[0].worklist)
    return nr, nr >= limit


def head_age(cpu: Cpu, limit: int) -> Answer:
    """#5: how long the pool's first work has waited for a worker, in jiffies as ``watchdog_ts`` is."""
    pool = cpu.pools[0]
    if not pool.worklist or pool.nr_running:
        return 0, False
    age = (cpu.jiffies() - pool.watchdog_ns // cpu.tick_ns) * cpu.tick_ns
    return age, age >= max(limit, cpu.tick_ns)


def head_age_ns(cpu: Cpu, limit: int) -> Answer:
    """#5 with a finer stamp."""
    pool = cpu.pools[0]
    if not pool.worklist or pool.nr_running:
        return 0, False
    age = cpu.now - pool.watchdog_ns
    return age, age >= limit


# -- Would a worker preempt? --------------------------------------------------------------------


def preempt(cpu: Cpu, _limit: int) -> Answer:
    """#19, #18: whether a worker woken now would have to wait; the value is how far it is ahead, ns.

    One that is awake and waits already has been refused.
    """
    rq = cpu.rq
    pool = cpu.pools[0]
    curr = rq.curr
    if curr is rq.idle or rq.need_resched or pool.nr_running or not pool.idle:
        return 0, False
    p = cpu.tasks[pool.idle[-1]]
    if p.on_rq:
        return 0, p is not curr
    if curr.sched_class != FAIR_CLASS or p.sched_class != FAIR_CLASS:
        return 0, p.prio >= curr.prio
    vdiff = vruntime_of_curr(cpu, curr) - placed_vruntime(cpu, p, curr)
    return vdiff, not would_preempt(rq, curr, p, vdiff)


def would_preempt(rq: Rq, curr: Task, p: Task, vdiff: int) -> bool:
    """``check_preempt_wakeup()`` of a wakee so far ahead of ``curr``, ns of virtual time."""
    if not rq.tun.wakeup_preemption:
        return False
    if curr.policy == SCHED_IDLE or vdiff > fair_kthread.wakeup_gran(rq, p):
        return True
    if not rq.favours_kthreads:
        return False
    answer = fair_kthread.kthread_answer(rq, curr, p, vdiff)
    return answer in (PREEMPT_KTHREAD_AHEAD, PREEMPT_KTHREAD_NVCSW)


def vruntime_of_curr(cpu: Cpu, curr: Task) -> int:
    """Return the current task's vruntime as ``update_curr()`` would make it now."""
    delta = unaccounted(cpu)
    if curr.weight != NICE_0_LOAD:
        delta = calc_delta(delta, NICE_0_LOAD, curr.inv_weight)
    return curr.vruntime + delta


def placed_vruntime(cpu: Cpu, p: Task, curr: Task) -> int:
    """Return where ``place_entity()`` would put a waking worker now."""
    rq = cpu.rq
    cfs = rq.cfs
    earliest = vruntime_of_curr(cpu, curr)
    if cfs.tree:
        earliest = min(earliest, cfs.tree[0][0])
    min_vruntime = max(cfs.min_vruntime, earliest)
    credit = rq.tun.latency
    return max(p.vruntime, min_vruntime - (credit >> 1 if rq.tun.gentle_fair_sleepers else credit))


#: What each signal of a box reads; the names are those of ``completion.SIGNALS``.
SIGNALS: dict[str, Callable[[Cpu, int], Answer]] = {
    "not_idle": not_idle,
    "nr_running": nr_running,
    "stint": stint,
    "head_age": head_age,
    "head_age_ns": head_age_ns,
    "worklist": worklist,
    "congested": congested,
    "util": util,
    "runnable": runnable,
    "load": load,
    "avg_idle": avg_idle,
    "psi": psi,
    "run_delay": run_delay,
    "steal": steal,
    "irq": irq,
    "ksoftirqd": ksoftirqd,
    "preempt": preempt,
}
