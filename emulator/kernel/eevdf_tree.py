"""Who is owed what on one runqueue: virtual time, lag, eligibility, the pick (``fair.c``, v6.6, v6.12).

Theory of operation
-------------------
The *virtual time* V of a runqueue is the average of its tasks' vruntimes, by weight.  A task to the
left of V has had less than its share, one to the right more: V minus its vruntime is its *lag*.  A
task whose lag is not negative is *eligible*, and of those the one with the earliest virtual
*deadline* runs.  The weighted lags of a queue add up to nothing, so somebody always is eligible.

To know V without a walk, two sums over the timeline are kept: ``cfs.avg_load``, the weights, and
``cfs.avg_vruntime``, the weights times the distances to ``cfs.min_vruntime``.  The running task is
not in the timeline; whoever asks adds it.  The distances stay small because both sums move along
when min_vruntime does.

Departures from the kernel: the timeline is the sorted list of :class:`~emulator.kernel.sched.CfsRq`,
by vruntime in both versions, and the pick walks it; v6.6 has a tree with the least deadline below
each node, v6.12 one by deadline with the least vruntime.  The decisions are the same; of equal
deadlines in the timeline v6.6 takes the leftmost (there it is up to the shape of the tree), v6.12
the one that was inserted first.
"""

from __future__ import annotations

from emulator.kernel.fair_entity import dequeue_entity_tree, enqueue_entity_tree
from emulator.kernel.fair_weight import calc_delta_fair
from emulator.kernel.sched import CfsRq, Rq, Task

#: What v6.6 prints when nobody is eligible.
PICK_FAILED = "EEVDF scheduling fail, picking leftmost"


def truncdiv(dividend: int, divisor: int) -> int:
    """Divide by a positive number, towards zero, as C does."""
    return dividend // divisor if dividend >= 0 else -(-dividend // divisor)


# -- Virtual time ----------------------------------------------------------------------------------


def sums(cfs: CfsRq) -> tuple[int, int]:
    """Return the two sums with the running task counted in, if it is runnable."""
    curr = cfs.curr
    if curr is None or not curr.on_rq:
        return cfs.avg_vruntime, cfs.avg_load
    weight = curr.weight >> 10
    key = curr.vruntime - cfs.min_vruntime
    return cfs.avg_vruntime + key * weight, cfs.avg_load + weight


def avg_vruntime(cfs: CfsRq) -> int:
    """Return V, in ns of virtual time, rounded down (``avg_vruntime()``)."""
    total, load = sums(cfs)
    return cfs.min_vruntime + (total // load if load else 0)


def vruntime_eligible(cfs: CfsRq, vruntime: int) -> bool:
    """Return whether a vruntime is not to the right of V, exactly (``vruntime_eligible()``)."""
    total, load = sums(cfs)
    return total >= (vruntime - cfs.min_vruntime) * load


def entity_eligible(cfs: CfsRq, p: Task) -> bool:
    """Return whether a queued task has not had more than its share (``entity_eligible()``)."""
    return vruntime_eligible(cfs, p.vruntime)


def lag_limit(rq: Rq, p: Task) -> int:
    """Return the greatest lag that a task may take along: two slices, or a tick, of vruntime."""
    return calc_delta_fair(max(2 * p.slice, rq.tick_ns), p)


def entity_lag(rq: Rq, p: Task, clamped: bool = True) -> int:
    """Return the lag of a queued task, by default within its limit (``entity_lag()``)."""
    vlag = avg_vruntime(rq.cfs) - p.vruntime
    if not clamped:
        return vlag
    limit = lag_limit(rq, p)
    return max(-limit, min(vlag, limit))


def update_min_vruntime(cfs: CfsRq) -> None:
    """Let min_vruntime follow the least vruntime, and the sums with it (``update_min_vruntime()``)."""
    curr = cfs.curr
    tree = cfs.tree
    if curr is not None and curr.on_rq:
        vruntime = curr.vruntime
        if tree and tree[0][0] < vruntime:
            vruntime = tree[0][0]
    elif tree:
        vruntime = tree[0][0]
    else:
        return
    delta = vruntime - cfs.min_vruntime
    if delta > 0:
        cfs.avg_vruntime -= cfs.avg_load * delta
        cfs.min_vruntime = vruntime


# -- Timeline --------------------------------------------------------------------------------------


def enqueue_entity(cfs: CfsRq, p: Task) -> None:
    """Put a task into the timeline and the sums (``__enqueue_entity()``)."""
    weight = p.weight >> 10
    cfs.avg_vruntime += (p.vruntime - cfs.min_vruntime) * weight
    cfs.avg_load += weight
    enqueue_entity_tree(cfs, p)


def dequeue_entity(cfs: CfsRq, p: Task) -> None:
    """Take a task out of the timeline and the sums (``__dequeue_entity()``)."""
    dequeue_entity_tree(cfs, p)
    weight = p.weight >> 10
    cfs.avg_vruntime -= (p.vruntime - cfs.min_vruntime) * weight
    cfs.avg_load -= weight


# -- The pick --------------------------------------------------------------------------------------


def pick_eevdf(rq: Rq) -> Task:
    """Return the eligible task with the earliest deadline (``pick_eevdf()``); changes nothing.

    With RUN_TO_PARITY an eligible running task that still has the deadline with which it was picked
    stays.  Of a running and a queued task with one deadline v6.6 takes the running one, v6.12
    (``eevdf_tie_to_tree``) the other.  If nobody is eligible, which no arithmetic allows, the
    leftmost task is taken and ``rq.on_warn`` is told.
    """
    cfs = rq.cfs
    rules = rq.rules
    curr = cfs.curr
    if curr is not None and not curr.on_rq:
        curr = None
    if rules.eevdf_pick_alone and cfs.nr_running == 1:
        return cfs.tree[0][2] if curr is None else curr
    total, load = sums(cfs)
    min_vruntime = cfs.min_vruntime
    if curr is not None and total < (curr.vruntime - min_vruntime) * load:
        curr = None
    if curr is not None and rq.tun.run_to_parity and curr.vlag == curr.deadline:
        return curr
    tie_to_tree = rules.eevdf_tie_to_tree
    best: Task | None = None
    for vruntime, order, p in cfs.tree:
        if total < (vruntime - min_vruntime) * load:
            break  # nor is anybody further to the right
        if (
            best is None
            or p.deadline < best.deadline
            or (tie_to_tree and p.deadline == best.deadline and order < best.tree_order)
        ):
            best = p
    if curr is not None and (
        best is None
        or curr.deadline < best.deadline
        or (curr.deadline == best.deadline and not tie_to_tree)
    ):
        best = curr
    return best if best is not None else _pick_leftmost(rq)


def _pick_leftmost(rq: Rq) -> Task:
    if rq.on_warn is not None:
        rq.on_warn(PICK_FAILED)
    left = rq.cfs.tree[0][2] if rq.cfs.tree else rq.cfs.curr
    assert left is not None, "pick from an empty queue"
    return left
