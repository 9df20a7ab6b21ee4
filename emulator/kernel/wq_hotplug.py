"""Workqueues and CPU hotplug: a pool whose CPU has gone, ``kernel/workqueue.c`` (F.11).

Theory of operation
-------------------
When a CPU goes down its two pools are *disassociated*: their workers are unbound, none counts as
running any more, and one is woken for what waits.  From then on such a pool is like one of no CPU:
every worker that takes an item wakes the next, wherever they run; what executes goes on, on another
CPU once this one stops; what is queued for the dead CPU joins the pool.  When the CPU comes back the
pool is its own again, and the workers are sent back to it (``rebind_workers()``); one counts as running
again from its next cycle on (``WORKER_REBOUND``).

The pool stays with the node of its CPU, whose ghost answers for it as the shared-state node does for
the pools of no CPU (:mod:`wq_asked`, :mod:`wq_unbound`).  Between going down and its stop the CPU asks
itself.

A worker is let onto all CPUs when its pool is disassociated (5.11; 6.0: those of unbound work), before
that when the fallback of its next wakeup breaks its affinity.

Departures from the kernel: a rescuer that executes an item when its CPU stops gives it back, and a
disassociated pool has none; the hotplug thread's way to each worker is ``ipi_ns``; a worker that is still away
when its CPU goes down once more keeps its mask until it is woken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    affinity,
    core,
    cpuhp,
    cpuhp_handover,
    dio_completion,
    frames,
    holdings,
    kthread,
    migration,
    pipe,
    wq_flush,
    wq_idle,
    wq_rescuer,
    wq_unbound,
    wq_worker,
)
from emulator.kernel.process import WAIT_WORK
from emulator.kernel.sched import KTHREAD_IS_PER_CPU, Task
from emulator.kernel.wq_asked import AskedPools, Idler, Key, Pool
from emulator.kernel.wq_pool import (
    AWAKE,
    FETCHED_HOME,
    WORKER_IDLE,
    WORKER_PREP,
    WORKER_REBOUND,
    WORKER_RESCUER,
    Wake,
    WorkerPool,
    carries_request,
    is_unbound,
    pack_item,
    pool_of,
    pwq_dec_nr_in_flight,
    unpack_item,
)
from emulator.kernel.wq_table import UNBOUND_BASE, Workqueue
from emulator.types import RQF_ONLINE, Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


class BoundLimits:
    """``max_active`` of bound queues: per queue and pool (F.8)."""

    __slots__ = ("workqueues",)

    def __init__(self, table: dict[int, Workqueue]) -> None:
        self.workqueues = table

    def key(self, wq_id: int, index: int, _cpu: int) -> Key:
        """Return what an item's ``nr_active`` is counted for."""
        return wq_id, index

    def pwq(self, index: int, _cpu: int) -> int:
        """Return the one part that there is."""
        return index

    def max_active(self, key: Key) -> int:
        """Return how many items of a key may be active."""
        return self.workqueues[key[0]].max_active


def asked_pools(cpu: Cpu) -> AskedPools:
    """Return this CPU's two pools as they are asked, with nothing in them yet."""
    first = pool_index(cpu, 0)
    facts = cpu.unbound_pools[first : first + 2]
    return AskedPools(facts, BoundLimits(cpu.workqueues), lambda: kthread.late_pid(cpu))


def pool_index(cpu: Cpu, nice: int) -> int:
    """Return the number under which this CPU's pool is asked: of nice 0, or (1) of nice -20."""
    return cpu.first_disassociated + 2 * cpu.node_id + nice


# -- Down ---------------------------------------------------------------------------------------


def unbind_workers(cpu: Cpu) -> None:
    """``unbind_workers()``: the pools have no CPU from here on, and their workers are free."""
    cpu.asked = asked_pools(cpu)
    for nice, pool in enumerate(cpu.pools):
        there = cpu.asked.pools[pool_index(cpu, nice)]
        disassociate(cpu, pool, there)
    for there in cpu.asked.pools.values():
        wake_for(cpu, cpu.asked.kick_pool(there), (cpu.node_id, cpu.rq.curr.pid))


def disassociate(cpu: Cpu, pool: WorkerPool, there: Pool) -> None:
    """``POOL_DISASSOCIATED``: what the pool has is asked for from here on.

    Rescuers stay with the CPU, and with them the items that they execute.
    """
    asked = cpu.asked
    assert asked is not None
    index = there.facts.index
    wq_rescuer.cancel_mayday(cpu, pool)
    wq_idle.stop_idle_timer(cpu, pool)
    pool.disassociated = True
    for item in pool.worklist:
        there.worklist.append(((item[2], index), sent_away(cpu, item)))
    for wq_id, items in pool.delayed.items():
        if items:
            for item in items:
                asked.delay((wq_id, index), index, index, sent_away(cpu, item))
    for pid, (where, moves, wq_id, work, function) in pool.away.items():
        there.places[pid] = (where, moves)
        if wq_id >= 0:
            there.executing[pid], there.works[pid] = (wq_id, index), (work, function)
    for pid in [one for one, flags in pool.workers.items() if not flags & WORKER_RESCUER]:
        unbind_worker(cpu, cpu.tasks[pid], pool, there)
    there.idle = [idler_of(cpu.tasks[pid]) for pid in pool.idle]
    there.nr_workers = len(there.places)
    there.next_id = pool.next_id
    there.watchdog_ns = pool.watchdog_ns
    if pool.manager in cpu.tasks:
        make_manager(cpu, pool.manager, there)
    else:
        there.manager = pool.manager  # none, or it is away since the last time
    pool.worklist.clear()
    pool.delayed.clear()
    pool.away.clear()
    pool.idle.clear()
    pool.manager = pool.nr_running = 0
    for key in [*(key for key, _item in there.worklist), *there.executing.values()]:
        asked.active[key] = asked.active.get(key, 0) + 1
    pool.active = {}
    for item in pool.executing.values():
        pool.active[item[2]] = pool.active.get(item[2], 0) + 1


def sent_away(cpu: Cpu, item: list[Any]) -> list[Any]:
    """Return an item packed; whoever waits for its IO has to expect that it ends elsewhere."""
    if carries_request(item[1]):
        dio_completion.send_away(cpu, item[3])
    return pack_item(item)


def unbind_worker(cpu: Cpu, p: Task, pool: WorkerPool, there: Pool) -> None:
    """``WORKER_UNBOUND``: the worker takes its item along, wherever it goes."""
    facts = there.facts
    run = p.run
    del pool.workers[p.pid]
    there.places[p.pid] = (cpu.node_id, p.moves)
    item = pool.executing.pop(p.pid, None)
    if item is not None:
        there.executing[p.pid] = (item[2], facts.index)
        there.works[p.pid] = (item[0], item[1])
        run.item = pack_item(item) if holdings.had_effect(cpu, p) else sent_away(cpu, item)
    run.worker = UNBOUND_BASE + facts.index
    run.submit = []  # worker->sleeping
    if cpu.rq.rules.balance_push:
        p.kthread_flags &= ~KTHREAD_IS_PER_CPU
        p.cpus_mask = facts.mask
        if not facts.mask & cpu.domains.active_mask & ~(1 << cpu.node_id):
            p.cpus_mask = (1 << cpu.nr_cpus) - 1
        p.nr_cpus_allowed = p.cpus_mask.bit_count()


def idler_of(p: Task) -> Idler:
    """Return an idle worker of this CPU as the pool knows it."""
    idler = Idler(p.pid, p.cpu, p.moves, p.run.wait_since, p.pack_se())
    idler.woken = p.state in AWAKE
    return idler


def make_manager(cpu: Cpu, pid: int, there: Pool) -> None:
    """The worker that creates another one goes on with that."""
    assert cpu.asked is not None
    creation = cpu.asked.manage_workers(there, pid)
    executed = cpu.tasks[pid] is cpu.rq.curr
    if executed and cpu.stack and cpu.stack[0][0] == frames.WORKER_CREATE:
        kind, left, _arg, level, irqs_on = cpu.stack[0]
        cpu.stack[0] = (kind, left, creation, level, irqs_on)
    elif executed and not cpu.stack and cpu.f_kind == frames.WORKER_CREATE:
        cpu.f_arg = creation
    else:
        cpu.tasks[pid].run.arg = creation


def park_rescuers(cpu: Cpu) -> None:
    """The CPU has stopped: its rescuers sleep, and what they executed others do."""
    for pool in cpu.pools:
        for pid in list(pool.executing):
            park_rescuer(cpu, cpu.tasks[pid])


def park_rescuer(cpu: Cpu, p: Task) -> None:
    """A rescuer of a CPU that stops goes back to sleep; its item is the pool's next."""
    asked = cpu.asked
    assert asked is not None
    pool = pool_of(cpu, p)
    if p.run.kind == frames.WORK_RESCHED:
        wq_worker.work_done(cpu, p, pool)
    kthread.park(cpu, p)
    p.state = tp.TASK_IDLE
    item = pool.executing.pop(p.pid, None)
    if item is not None:
        pool.active[item[2]] -= 1
        if -1 in p.run.iocbs:
            p.run.remote_ios += 1  # the sync that it sleeps for will end elsewhere
        if item[3]:
            there = asked.pools[pool_index(cpu, p.run.worker)]
            key = (item[2], there.facts.index)
            asked.active[key] = asked.active.get(key, 0) + 1
            there.worklist.insert(0, (key, sent_away(cpu, item)))
            wake_for(cpu, asked.kick_pool(there), (cpu.node_id, cpu.rq.curr.pid))
        else:
            cpu.works[1] += 1  # its last sleep was all that was left of it
    pool.workers[p.pid] = WORKER_RESCUER | WORKER_PREP
    p.run.kind, p.run.left, p.run.arg = frames.WORKER_START, cpu.costs.worker_start_ns, None
    p.run.wait = WAIT_WORK
    p.run.submit = []


def tell_unbound(cpu: Cpu, online: bool) -> None:
    """``wq_update_node_max_active()`` of unbound queues is for a node to do (6.9)."""
    if cpu.shared_node >= 0 and cpu.rq.rules.wq_node_nr_active:
        wq_unbound.ask(cpu, messages.WQ_CPU, (cpu.node_id, int(online)))


# -- While it is down ---------------------------------------------------------------------------


def wake_for(cpu: Cpu, wakes: list[Wake], waker: tuple[int, int]) -> None:
    """Have workers woken that the pool wants, where they sleep, in the place of ``waker``."""
    for pid, moves, where, _since, _se, _wake_cpu, cause in wakes:
        args: tuple[Any, ...] = (pid, moves, [], *waker, cause)
        if pid in cpu.tasks:
            message = (cpu.now, cpu.node_id, 0, cpu.node_id, messages.WQ_WAKE, args)
            wq_unbound.handle_wake(cpu, message)
        else:
            pipe.send(cpu, where, messages.WQ_WAKE, args, cpu.now + cpuhp.reply_ns(cpu))


def queue_work_here(cpu: Cpu, item: list[Any], waker: tuple[int, int]) -> None:
    """An item comes from another CPU for the pool of this one, which is offline or about to be."""
    assert cpu.asked is not None
    if carries_request(item[1]):
        cpuhp_handover.readdress(cpu, item[3])
    index = pool_index(cpu, cpu.workqueues[item[2]].pool)
    cpu.cause = item[4]
    activated, wakes = cpu.asked.queue(cpu.now, index, cpu.node_id, pack_item(item))
    if activated:
        cpu.emit(tp.WORKQUEUE_ACTIVATE_WORK, item[0])
    wake_for(cpu, wakes, waker)


def handle_fetch(cpu: Cpu, message: Message) -> None:
    """A worker of this CPU's pools, away from it, asks what comes next."""
    source = message[1]
    ticket, index, pid, starts, moves, since, se = message[5]
    asked = cpu.asked
    if asked is None:
        args: tuple[Any, ...] = (ticket, FETCHED_HOME, [], starts, [], [])
        wq_unbound.post(cpu, source, messages.WQ_WORK, args)
        ended_away(cpu, cpu.pools[index - pool_index(cpu, 0)], pid, source, moves)
        return
    there = asked.pools[index]
    ended, activated, wakes = asked.work_done(cpu.now, there, pid)
    what, given, more = asked.fetch(cpu.now, there, starts, Idler(pid, source, moves, since, se))
    args = (ticket, what, given, starts, activated, wakes + more)
    wq_unbound.post(cpu, source, messages.WQ_WORK, args)
    if ended and cpu.flushers:
        wq_flush.work_ended(cpu, ended)


# -- Up -----------------------------------------------------------------------------------------


def rebind_workers(cpu: Cpu) -> None:
    """``rebind_workers()``: the pools are this CPU's again, the workers are sent back to it."""
    asked = cpu.asked
    assert asked is not None
    cpu.asked = None
    for nice, pool in enumerate(cpu.pools):
        there = asked.pools[pool_index(cpu, nice)]
        index = there.facts.index
        pool.disassociated = False
        pool.watchdog_ns = there.watchdog_ns
        pool.worklist = [unpack_item(item) for _key, item in there.worklist]
        pool.next_id, pool.manager = there.next_id, there.manager
        for (wq_id, where), items in asked.delayed.items():
            if where == index and items:
                pool.delayed[wq_id] = [unpack_item(item) for _index, _pwq, item in items]
        for (wq_id, where), nr in asked.active.items():
            if where == index:
                pool.active[wq_id] = pool.active.get(wq_id, 0) + nr
        for pid, (last, moves) in there.places.items():
            wq_id = there.executing[pid][0] if pid in there.executing else -1
            pool.away[pid] = [last, moves, wq_id, *there.works.get(pid, (0, 0))]
            send_home(cpu, pid, last, moves)


def send_home(cpu: Cpu, pid: int, where: int, moves: int) -> None:
    """Tell a worker, where it is, that its CPU is back."""
    costs = cpu.costs
    way_ns = max(costs.ipi_ns, costs.coherence_ns, cpuhp.reply_ns(cpu))
    pipe.send(cpu, where, messages.WQ_REBIND, (pid, moves, cpu.node_id), cpu.now + way_ns)


def handle_rebind(cpu: Cpu, message: Message) -> None:
    """The CPU of a worker that is here is back: it may run on that one alone."""
    _pid, _moves, home = message[5]
    p = pipe.addressee(cpu, message)
    if p is None or not is_unbound(p):
        return  # it has come home before this
    if not affinity.cpu_flags(cpu, home) & RQF_ONLINE:
        return  # its CPU has gone once more
    idle = p.state == tp.TASK_IDLE
    if idle and p.on_rq:
        core.try_to_wake_up(cpu, p, waker=(home, 0))  # on its way to sleep it stays
    bind(cpu, p, home)
    if idle:
        core.try_to_wake_up(cpu, p, waker=(home, 0))


def bind(cpu: Cpu, p: Task, home: int) -> None:
    """Give a worker the mask of its pool; one that runs elsewhere is moved."""
    if cpu.rq.rules.kworker_per_cpu:
        p.kthread_flags |= KTHREAD_IS_PER_CPU
    migration.do_set_cpus_allowed(cpu, p, 1 << home, home)


def go_home(cpu: Cpu, p: Task) -> None:
    """A worker hears that its CPU is back when it asks: it goes there, or asks again if that has gone."""
    home = wq_unbound.pool_of(cpu, p).home
    if not affinity.cpu_flags(cpu, home) & RQF_ONLINE:
        wq_unbound.fetch(cpu, p)
        return
    bind(cpu, p, home)
    p.run.kind, p.run.left, p.run.arg = frames.WORKER_START, cpu.costs.worker_start_ns, None
    cpu.start(frames.WORKER_SLEEP, cpu.costs.worker_sleep_ns)


def ended_away(cpu: Cpu, pool: WorkerPool, pid: int, where: int, moves: int) -> None:
    """A worker that has not come back yet has ended its item, and hears that it is to come."""
    _where, _moves, wq_id, work, _function = pool.away.get(pid, [0, 0, -1, 0, 0])
    pool.away[pid] = [where, moves, -1, 0, 0]
    if pool.manager == pid:
        pool.manager = 0
    if wq_id >= 0:
        pwq_dec_nr_in_flight(cpu, pool, wq_id)
        wq_flush.work_ended(cpu, work)


def worker_arrives(cpu: Cpu, p: Task) -> None:
    """A worker comes to this CPU; if that is its own, it is one of its pool again."""
    if not is_unbound(p) or cpu.asked is not None:
        return
    facts = wq_unbound.pool_of(cpu, p)
    if facts.home != cpu.node_id:
        return
    nice = facts.index - pool_index(cpu, 0)
    pool = cpu.pools[nice]
    run = p.run
    run.worker = nice
    pool.away.pop(p.pid, None)
    pool.workers[p.pid] = WORKER_REBOUND
    if run.item:
        pool.executing[p.pid], run.item = unpack_item(run.item), []
    elif run.kind == frames.WORKER_START:
        pool.workers[p.pid] |= WORKER_IDLE | WORKER_PREP
        pool.idle.append(p.pid)
    if p.cpus_mask != 1 << cpu.node_id:  # it has come by itself
        p.cpus_mask, p.nr_cpus_allowed, p.affinity_broken = 1 << cpu.node_id, 1, 0
        if cpu.rq.rules.kworker_per_cpu:
            p.kthread_flags |= KTHREAD_IS_PER_CPU
