"""Idle workers that end: ``idle_worker_timeout()``, ``destroy_worker()``, ``kernel/workqueue.c``, v5.4 (F.7).

Theory of operation
-------------------
A pool grows while its workers block, and each that has nothing to do any more idles.  When one goes idle
and too many do (``too_many_workers()``: more than two, and more than a quarter of the busy ones beyond
those), the pool's timer is started.  When it expires the one that has idled longest is looked at: has
it idled for 300 s, it ends, and the next one is looked at, while too many idle; else the timer is set to
when that one has.  A worker that is to end has left its pool at once; it is woken, calls itself
``kworker/dying``, and exits.  Its number is free for the next one.

The timer is deferrable: an idle CPU is not woken for it, it runs with the first tick after that.

Departures from the kernel: a worker's number is free when it leaves the pool, not when it has run once
more; its name changes where tasks are listed, not in the log.  A pool of no CPU, or of one that is
offline, keeps its workers (:mod:`wq_asked`).  From 6.3 on an item of ``events_unbound`` ends the workers
that the timer finds; here the timer does.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from emulator.kernel import core, kthread
from emulator.kernel.sched import PF_WQ_WORKER, Task
from emulator.kernel.wq_pool import WorkerPool, too_many_in
from emulator.types import NEVER

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def new_id(pool: WorkerPool) -> int:
    """``ida_simple_get(&pool->worker_ida)``: the lowest number that no worker of the pool has."""
    if pool.free_ids:
        return pool.free_ids.pop(0)
    pool.next_id += 1
    return pool.next_id - 1


def id_of(p: Task) -> int:
    """Return a worker's number in its pool, as its name has it."""
    return int(p.comm.partition(":")[2].rstrip("H"))


def start_idle_timer(cpu: Cpu, pool: WorkerPool) -> None:
    """The end of ``worker_enter_idle()``: the pool's timer runs from here if too many workers idle."""
    if pool.cull_at == NEVER and too_many_in(pool):
        set_idle_timer(cpu, pool, cpu.jiffies() + cpu.wq_idle_timeout)


def set_idle_timer(cpu: Cpu, pool: WorkerPool, jiffy: int) -> None:
    """``mod_timer(&pool->idle_timer)``."""
    pool.cull_at = jiffy
    cpu.wq_cull_at = min(one.cull_at for one in cpu.pools)


def stop_idle_timer(cpu: Cpu, pool: WorkerPool) -> None:
    """The pool's CPU goes: nobody looks after its workers."""
    set_idle_timer(cpu, pool, NEVER)


def idle_worker_timeout(cpu: Cpu) -> None:
    """``idle_worker_timeout()`` of the pools whose timer has expired."""
    jiffies = cpu.jiffies()
    for pool in cpu.pools:
        if pool.cull_at <= jiffies:
            set_idle_timer(cpu, pool, cull(cpu, pool, jiffies))


def cull(cpu: Cpu, pool: WorkerPool, jiffies: int) -> int:
    """End workers that have idled for too long; return when to look again, NEVER: too few idle."""
    while too_many_in(pool):
        oldest = cpu.tasks[pool.idle[0]]
        expires: int = oldest.run.wait_since // cpu.tick_ns + cpu.wq_idle_timeout
        if jiffies < expires:
            return expires
        destroy_worker(cpu, pool, oldest)
    return NEVER


def destroy_worker(cpu: Cpu, pool: WorkerPool, p: Task) -> None:
    """``destroy_worker()``: the worker leaves its pool, and is woken to end."""
    pool.idle.remove(p.pid)
    del pool.workers[p.pid]
    bisect.insort(pool.free_ids, id_of(p))
    p.flags &= ~PF_WQ_WORKER
    core.wake_up(cpu, p)


def die(cpu: Cpu, p: Task) -> None:
    """``worker_thread()`` of one that is to end (``WORKER_DIE``)."""
    p.comm = "kworker/dying"
    kthread.do_exit(cpu, None)
