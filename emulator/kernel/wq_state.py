"""What the kernel says of its workqueues in its log: ``show_workqueue_state()``, ``kernel/workqueue.c`` (F.13).

Theory of operation
-------------------
Whoever owns pools describes each by a :class:`PoolView`; the text is made of those alone, so that it is
the same for a CPU's own pools, for those of no CPU and for those of a CPU that is offline.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emulator.kernel.wq_asked import AskedPools, Pool
from emulator.kernel.wq_pool import FUNCTIONS, WorkerPool
from emulator.kernel.wq_table import Workqueue
from emulator.types import BoxSpec, cpulist_format

POOL_DISASSOCIATED = 4


@dataclass(slots=True)
class PwqView:
    """What a pool has of one queue."""

    active: int
    flying: list[tuple[int, str]] = field(default_factory=list)  #: (pid, function)
    pending: list[str] = field(default_factory=list)
    delayed: list[str] = field(default_factory=list)


@dataclass(slots=True)
class PoolView:
    """A pool as the log describes it."""

    number: int
    text: str  #: ``pr_cont_pool_info()``
    hung_ns: int  #: for how long its list has not moved; 0: nothing is on it
    workers: int
    manager: int
    idle: list[int]  #: the first idle worker first
    pwqs: dict[int, PwqView]


# -- Views --------------------------------------------------------------------------------------


def own_pool(spec: BoxSpec, table: dict[int, Workqueue], pool: WorkerPool, now_ns: int) -> PoolView:
    """Return the view of a CPU's own pool."""
    pwqs: dict[int, PwqView] = {}
    for wq_id, wq in table.items():
        if wq.unbound or wq.pool != (pool.nice < 0):
            continue
        pwqs[wq_id] = PwqView(
            pool.active.get(wq_id, 0),
            [(pid, FUNCTIONS[one[1]]) for pid, one in pool.executing.items() if one[2] == wq_id],
            [FUNCTIONS[item[1]] for item in pool.worklist if item[2] == wq_id],
            [FUNCTIONS[item[1]] for item in pool.delayed.get(wq_id, [])],
        )
    flags = POOL_DISASSOCIATED if pool.disassociated else 0
    return PoolView(
        2 * pool.cpu + (pool.nice < 0),
        pool_text(1 << pool.cpu, node_of(spec, 1 << pool.cpu), flags, pool.nice),
        now_ns - pool.watchdog_ns if pool.worklist else 0,
        len(pool.workers) - len(pool.rescuers),
        pool.manager,
        list(reversed(pool.idle)),
        pwqs,
    )


def asked_pools(
    spec: BoxSpec, table: dict[int, Workqueue], asked: AskedPools, now_ns: int
) -> list[PoolView]:
    """Return the views of pools that are asked."""
    return [asked_pool(spec, table, asked, pool, now_ns) for pool in asked.pools.values()]


def asked_pool(
    spec: BoxSpec, table: dict[int, Workqueue], asked: AskedPools, pool: Pool, now_ns: int
) -> PoolView:
    """Return the view of one of them; what is active in it is what is on its list and with workers."""
    pwqs: dict[int, PwqView] = {wq_id: PwqView(0) for wq_id in table}
    for pid, (wq_id, _place) in pool.executing.items():
        pwqs[wq_id].flying.append((pid, FUNCTIONS[pool.works[pid][1]]))
    for (wq_id, _place), item in pool.worklist:
        pwqs[wq_id].pending.append(FUNCTIONS[item[1]])
    for items in asked.delayed.values():
        for index, _pwq, item in items:
            if index == pool.facts.index:
                pwqs[item[2]].delayed.append(FUNCTIONS[item[1]])
    for pwq in pwqs.values():
        pwq.active = len(pwq.flying) + len(pwq.pending)
    facts = pool.facts
    mask, node = facts.mask, node_of(spec, facts.pod)
    if facts.home >= 0:
        mask, node = 1 << facts.home, node_of(spec, 1 << facts.home)
    elif not spec.kernel.rules.wq_affinity_scopes and len(set(spec.machine.node)) == 1:
        node = -1  # with one node nobody looks for it
    return PoolView(
        facts.name_id,
        pool_text(mask, node, POOL_DISASSOCIATED, facts.nice),
        now_ns - pool.watchdog_ns if pool.worklist else 0,
        pool.nr_workers,
        pool.manager,
        [idler.pid for idler in reversed(pool.idle)],
        pwqs,
    )


def node_of(spec: BoxSpec, mask: int) -> int:
    """Return the number of the node that has all these CPUs, -1: no node has."""
    nodes = sorted(set(spec.machine.node), key=lambda one: one & -one)
    return next((number for number, node in enumerate(nodes) if not mask & ~node), -1)


def pool_text(mask: int, node: int, flags: int, nice: int) -> str:
    """``pr_cont_pool_info()``."""
    where = f" node={node}" if node >= 0 else ""
    return f"cpus={cpulist_format(mask)}{where} flags={flags:#x} nice={nice}"


# -- Text ---------------------------------------------------------------------------------------


def stalls(
    views: list[PoolView], table: dict[int, Workqueue], limit_ns: int, refs: bool
) -> list[str]:
    """``wq_watchdog_timer_fn()``: the lines about pools whose list has not moved for too long, if any."""
    lines = [
        f"BUG: workqueue lockup - pool {view.text} stuck for {view.hung_ns // 1_000_000_000}s!"
        for view in views
        if view.hung_ns > limit_ns
    ]
    return lines + show_workqueue_state(views, table, refs) if lines else []


def show_workqueue_state(
    views: list[PoolView], table: dict[int, Workqueue], refs: bool
) -> list[str]:
    """``show_workqueue_state()``: the queues with items, then the pools with busy workers.

    ``refs``: with the references of each pwq, as from 5.6 on.
    """
    lines = ["Showing busy workqueues and worker pools:"]
    for wq_id, wq in table.items():
        busy = [view for view in views if wq_id in view.pwqs and is_busy(view.pwqs[wq_id])]
        if busy:
            lines.append(f"workqueue {wq.name}: flags={wq.flags:#x}")
        for view in busy:
            lines += show_pwq(view, view.pwqs[wq_id], wq, refs)
    for view in views:
        if len(view.idle) < view.workers:
            idle = "".join(f" {pid}" for pid in view.idle)
            manager = f" manager: {view.manager}" if view.manager else ""
            lines.append(
                f"pool {view.number}: {view.text} hung={view.hung_ns // 1_000_000_000}s "
                f"workers={view.workers}{manager}" + (f" idle:{idle}" if idle else "")
            )
    return lines


def is_busy(pwq: PwqView) -> bool:
    """Whether a pool has items of a queue."""
    return bool(pwq.flying or pwq.pending or pwq.delayed)


def show_pwq(view: PoolView, pwq: PwqView, wq: Workqueue, refs: bool) -> list[str]:
    """``show_pwq()``: what of a queue is in flight, pending and delayed in a pool."""
    held = 1 + len(pwq.flying) + len(pwq.pending) + len(pwq.delayed)
    lines = [
        f"  pwq {view.number}: {view.text} active={pwq.active}/{wq.max_active}"
        + (f" refcnt={held}" if refs else "")
    ]
    if pwq.flying:
        lines.append("    in-flight: " + ", ".join(f"{pid}:{name}" for pid, name in pwq.flying))
    for word, names in (("pending", pwq.pending), ("delayed", pwq.delayed)):
        if names:
            lines.append(f"    {word}: " + ", ".join(names))
    return lines
