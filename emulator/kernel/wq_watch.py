"""Whom the tick looks after in the workqueues: items that hog a CPU, pools that do not get on.

Theory of operation
-------------------
*CPU_INTENSIVE by itself* (6.5, ``rules.wq_cpu_intensive_auto``): an item that has run for longer than
``workqueue.cpu_intensive_thresh_us`` in one go no longer counts in its pool's ``nr_running``, as if its
queue were CPU_INTENSIVE, and the pool's next item starts beside it.  Functions that do it often are
reported.

*The watchdog* (``workqueue.watchdog_thresh``): every so many seconds it looks for pools whose list has
not moved for longer than that, and says which, and what each worker of them is at.

Departures from the kernel: the threshold is not scaled on slow machines; offences are counted per CPU;
every CPU watches its own pools, in its first tick after the threshold, and CPU 0 those of no CPU and of
CPUs that are offline, whose nodes it asks; each reports what it owns alone, and what CPU 0 has asked for is
in the log a coherence latency later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import affinity, workqueue, wq_pool, wq_state, wq_unbound
from emulator.types import RQF_ACTIVE, Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task

#: The CPU on which the watchdog's timer is: it cannot go offline.
WATCHER = 0

#: wq_cpu_intensive_report() says nothing of fewer offences of a function.
REPORTED_FROM = 4


def wq_worker_tick(cpu: Cpu, p: Task) -> None:
    """``wq_worker_tick()``: an item that has run too long becomes CPU_INTENSIVE (6.5)."""
    limit_ns = cpu.spec.kernel.workqueue.cpu_intensive_ns
    if not limit_ns or wq_pool.is_unbound(p):
        return
    pool = wq_pool.pool_of(cpu, p)
    if pool.workers[p.pid] & wq_pool.WORKER_NOT_RUNNING or p.run.submit:
        return
    if p.sum_exec_runtime - p.run.work_at < limit_ns:
        return
    pool.workers[p.pid] |= wq_pool.WORKER_CPU_INTENSIVE
    pool.nr_running -= 1
    report_cpu_intensive(cpu, pool.executing[p.pid], limit_ns)
    if wq_pool.need_more_worker(pool):
        workqueue.wake_up_worker(cpu, pool)


def report_cpu_intensive(cpu: Cpu, item: list[Any], limit_ns: int) -> None:
    """``wq_cpu_intensive_report()``: a function offends for the 4th, 8th, 16th … time."""
    function = wq_pool.FUNCTIONS[item[1]]
    cpu.count(f"cpu_intensive.{function}")
    nr = cpu.counters[f"cpu_intensive.{function}"]
    if nr >= REPORTED_FROM and nr & (nr - 1) == 0:
        printk(
            cpu,
            f"workqueue: {function} hogged CPU for >{limit_ns // 1000}us {nr} times, "
            "consider switching to WQ_UNBOUND",
        )


def wq_watchdog(cpu: Cpu) -> None:
    """``wq_watchdog_timer_fn()``: report the pools whose list has not moved for too long."""
    limit_ns = cpu.spec.kernel.workqueue.watchdog_ns
    cpu.wq_watch_at = cpu.jiffies() + cpu.wq_watchdog
    if any(pool.worklist and cpu.now - pool.watchdog_ns > limit_ns for pool in cpu.pools):
        say(cpu, wq_state.stalls(own_views(cpu), cpu.workqueues, limit_ns, shows_references(cpu)))
    if cpu.node_id == WATCHER:
        if cpu.shared_node >= 0:
            wq_unbound.ask(cpu, messages.WQ_WATCH, ())
        for other in range(cpu.nr_cpus):
            if not affinity.cpu_flags(cpu, other) & RQF_ACTIVE:
                wq_unbound.post(cpu, other, messages.WQ_WATCH, ())


def own_views(cpu: Cpu) -> list[wq_state.PoolView]:
    """Return how the log describes this CPU's pools."""
    return [wq_state.own_pool(cpu.spec, cpu.workqueues, pool, cpu.now) for pool in cpu.pools]


def shows_references(cpu: Cpu) -> bool:
    """Whether the log has the references of a pwq (5.6)."""
    return cpu.rq.rules.trace_end_function


def handle_watch(cpu: Cpu, message: Message) -> None:
    """The watchdog looks after the pools of this CPU, which is offline."""
    if cpu.asked is None:
        return
    views = wq_state.asked_pools(cpu.spec, cpu.workqueues, cpu.asked, cpu.now)
    limit_ns = cpu.spec.kernel.workqueue.watchdog_ns
    lines = wq_state.stalls(views, cpu.workqueues, limit_ns, shows_references(cpu))
    if lines:
        wq_unbound.post(cpu, message[1], messages.WQ_STALLED, (lines,))


def handle_stalled(cpu: Cpu, message: Message) -> None:
    """The watchdog has found pools stuck that are not this CPU's."""
    say(cpu, message[5][0])


def say(cpu: Cpu, lines: list[str]) -> None:
    """Record lines of the kernel's log."""
    for line in lines:
        printk(cpu, line)


def printk(cpu: Cpu, text: str) -> None:
    """Record a line of the kernel's log."""
    cpu.emit(tp.PRINTK, cpu.sink.intern(text))
