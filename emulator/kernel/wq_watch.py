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
every CPU watches its own pools, in the tick at a multiple of the threshold, and reports its own pools
alone; unbound pools are not watched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import tracepoints as tp
from emulator.kernel import workqueue, wq_pool

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task
    from emulator.kernel.wq_pool import WorkerPool

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
    stuck = [pool for pool in cpu.pools if pool.worklist and cpu.now - pool.watchdog_ns > limit_ns]
    for pool in stuck:
        age_s = (cpu.now - pool.watchdog_ns) // 1_000_000_000
        printk(cpu, f"BUG: workqueue lockup - pool {pool_text(cpu, pool)} stuck for {age_s}s!")
    if stuck:
        show_workqueue_state(cpu)


def show_workqueue_state(cpu: Cpu) -> None:
    """``show_workqueue_state()`` of this CPU's pools: the queues with items, the pools with some."""
    printk(cpu, "Showing busy workqueues and worker pools:")
    for wq_id, wq in cpu.workqueues.items():
        pool = cpu.pools[wq.pool]
        items = pwq_items(pool, wq_id)
        if wq.unbound or not any(items):
            continue
        printk(cpu, f"workqueue {wq.name}: flags={wq.flags:#x}")
        show_pwq(cpu, pool, wq_id, items)
    for pool in cpu.pools:
        workers = len(pool.workers) - len(pool.rescuers)
        if len(pool.idle) < workers:
            hung_s = (cpu.now - pool.watchdog_ns) // 1_000_000_000 if pool.worklist else 0
            idle = "".join(f" {pid}" for pid in reversed(pool.idle))
            manager = f" manager: {pool.manager}" if pool.manager else ""
            printk(
                cpu,
                f"pool {pool_id(pool)}: {pool_text(cpu, pool)} hung={hung_s}s "
                f"workers={workers}{manager}" + (f" idle:{idle}" if idle else ""),
            )


PwqItems = tuple[list[tuple[int, list[Any]]], list[list[Any]], list[list[Any]]]


def pwq_items(pool: WorkerPool, wq_id: int) -> PwqItems:
    """Return a queue's items of a pool: with their workers, pending, delayed."""
    return (
        [(pid, item) for pid, item in pool.executing.items() if item[2] == wq_id],
        [item for item in pool.worklist if item[2] == wq_id],
        pool.delayed.get(wq_id, []),
    )


def show_pwq(cpu: Cpu, pool: WorkerPool, wq_id: int, items: PwqItems) -> None:
    """``show_pwq()``: what of a queue is in flight, pending and delayed here."""
    flying, pending, delayed = items
    refs = ""
    if cpu.rq.rules.trace_end_function:
        refs = f" refcnt={1 + len(flying) + len(pending) + len(delayed)}"
    printk(
        cpu,
        f"  pwq {pool_id(pool)}: {pool_text(cpu, pool)} "
        f"active={pool.active.get(wq_id, 0)}/{cpu.workqueues[wq_id].max_active}{refs}",
    )
    if flying:
        texts = [f"{pid}:{wq_pool.FUNCTIONS[item[1]]}" for pid, item in flying]
        printk(cpu, "    in-flight: " + ", ".join(texts))
    for word, waiting in (("pending", pending), ("delayed", delayed)):
        if waiting:
            texts = [wq_pool.FUNCTIONS[item[1]] for item in waiting]
            printk(cpu, f"    {word}: " + ", ".join(texts))


def pool_id(pool: WorkerPool) -> int:
    """Return the number of a bound pool."""
    return 2 * pool.cpu + (pool.nice < 0)


def pool_text(cpu: Cpu, pool: WorkerPool) -> str:
    """``pr_cont_pool_info()``."""
    mask = cpu.spec.machine.node[pool.cpu]
    node = sorted(set(cpu.spec.machine.node), key=lambda one: one & -one).index(mask)
    flags = 4 if pool.disassociated else 0
    return f"cpus={pool.cpu} node={node} flags={flags:#x} nice={pool.nice}"


def printk(cpu: Cpu, text: str) -> None:
    """Record a line of the kernel's log."""
    cpu.emit(tp.PRINTK, cpu.sink.intern(text))
