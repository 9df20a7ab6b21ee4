"""The idle load balancer's round: ``_nohz_idle_balance()`` of ``kernel/sched/fair.c``.

Theory of operation
-------------------
One idle CPU, the ilb, was kicked to balance for every idle CPU without a tick.  It visits them in
turn, ages their blocked load, makes the passes of those that are due, and collects from all of them
when the next such round is due.  These are the steps of a :class:`Run` of that kind;
:mod:`rebalance` has the passes themselves.

Departure: of the idle CPUs that the ilb visits, those not due are looked at at once, together with
the next that is; their time goes by together, with that of the first pass there, and need_resched
is looked at before it, not within.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.balance.run import PH_NEXT_CPU, PH_OVER, Run
from emulator.types import (
    CPU_IDLE,
    NOHZ_BALANCE_KICK,
    NOHZ_NEXT_KICK,
    NOHZ_STATS_KICK,
    for_each_cpu,
)

if TYPE_CHECKING:
    from emulator.balance.rebalance import Rebalancer


def nohz_idle_balance(rb: Rebalancer, run: Run) -> None:
    """Begin a run for all idle CPUs without a tick (``_nohz_idle_balance()``)."""
    run.started = rb.jiffies()
    run.nohz_next = run.started + 60 * rb.hz
    if run.flags & NOHZ_STATS_KICK:
        rb.nohz.has_blocked = 0
    if run.flags & NOHZ_NEXT_KICK:
        rb.nohz.needs_update = 0
    run.phase = PH_NEXT_CPU


def _rest_of_round(rb: Rebalancer, run: Run) -> list[int]:
    # Up to 5.11 ascending, the ilb's own part apart; later from behind the ilb up to itself.
    mask = rb.nohz.idle_cpus_mask
    cursor = run.cursor
    if not rb.rules.nohz_ilb_last:
        return list(for_each_cpu((mask & ~(1 << run.cpu)) >> (cursor + 1) << (cursor + 1)))
    here = 1 << run.cpu
    before = mask & (here | here - 1)
    if 0 <= cursor <= run.cpu:
        return list(for_each_cpu(before >> (cursor + 1) << (cursor + 1)))
    first = max(cursor, run.cpu) + 1
    return [*for_each_cpu(mask >> first << first), *for_each_cpu(before)]


def next_cpu(rb: Rebalancer, run: Run) -> None:
    """Look at the idle CPUs up to the next that is due; their time goes by with its first pass."""
    jiffies = rb.jiffies()
    for cpu in _rest_of_round(rb, run):
        if not rb.view.idle_cpu(cpu):
            continue
        if run.abort:
            _abort(rb, run)
            return
        run.cursor = cpu
        run.owed_ns += rb.nohz_cpu_ns
        if run.flags & NOHZ_STATS_KICK:
            run.has_blocked |= rb.nohz.update_nohz_stats(cpu, rb.view)
        if run.flags & NOHZ_BALANCE_KICK and jiffies >= rb.next_balance[cpu]:
            rb.walk_domains(run, cpu, CPU_IDLE)
            return
        track_next(rb, run, cpu)
    if rb.rules.nohz_ilb_last:
        end_nohz(rb, run, whole=True)
    else:
        run.cursor = len(rb.next_balance)
        _own_part(rb, run)


def _abort(rb: Rebalancer, run: Run) -> None:
    run.has_blocked |= bool(run.flags & NOHZ_STATS_KICK)
    if run.flags & NOHZ_NEXT_KICK:
        rb.nohz.needs_update = 1
    end_nohz(rb, run, whole=False)


def track_next(rb: Rebalancer, run: Run, cpu: int) -> None:
    """Let a CPU of the round, due or not, set the time of the next nohz balance."""
    if rb.next_balance[cpu] < run.nohz_next:
        run.nohz_next = rb.next_balance[cpu]
        run.nohz_update = True
    run.phase = PH_NEXT_CPU


def _own_part(rb: Rebalancer, run: Run) -> None:
    if run.nohz_update and rb.rules.nohz_next_before_own:
        rb.nohz.next_balance = run.nohz_next
    run.has_blocked |= rb.nohz.update_blocked_averages(run.cpu, rb.view)
    if run.flags & NOHZ_BALANCE_KICK:
        rb.walk_domains(run, run.cpu, CPU_IDLE)
    else:
        end_nohz(rb, run, whole=True)


def end_nohz(rb: Rebalancer, run: Run, *, whole: bool) -> None:
    """End the round; ``whole`` says that no need_resched cut it short."""
    # Up to 5.11 the ilb's own due time does not enter nohz.next_balance.
    rules = rb.rules
    if whole and run.flags & NOHZ_STATS_KICK:
        rb.nohz.postpone_blocked(run.started)
    if run.has_blocked:
        rb.nohz.has_blocked = 1
    at_the_end = not rules.nohz_next_before_own or (rules.nohz_ilb_last and whole)
    if run.nohz_update and at_the_end:
        rb.nohz.next_balance = run.nohz_next
    run.phase = PH_OVER
