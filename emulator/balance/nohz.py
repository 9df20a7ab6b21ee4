"""Idle CPUs without a tick: the ``nohz`` part of ``kernel/sched/fair.c``.

Theory of operation
-------------------
An idle CPU that stops its tick can no longer balance for itself.  It joins ``idle_cpus_mask``, and
a busy CPU's tick kicks one member (the ilb), which balances on behalf of all of them.  The mask,
the time of the next such balance and whether blocked load waits to be aged are kept here, once for
the box.  CPUs tell of their own steps by NOHZ_UPDATE and see this state late by the coherence
latency.

Whether to kick, and whom, is decided by the busy CPU at its tick (``kernel/tick.py``).

Departures: the mask and ``next_balance`` change one message latency after the step that changes
them.
"""

from __future__ import annotations

from typing import Any

from emulator.balance.pelt import LOAD_AVG_PERIOD, has_blocked
from emulator.balance.rqview import RqView
from emulator.balance.topology import msecs_to_jiffies
from emulator.types import for_each_cpu


class Nohz:
    """``struct nohz`` and ``rq->has_blocked_load`` of every CPU; times in jiffies."""

    __slots__ = (
        "has_blocked",
        "hz",
        "idle_cpus_mask",
        "needs_update",
        "next_balance",
        "next_blocked",
        "rq_has_blocked_mask",
    )

    def __init__(self, hz: int) -> None:
        self.hz = hz
        self.idle_cpus_mask = 0
        self.next_balance = 0
        self.has_blocked = 0
        self.next_blocked = 0
        self.needs_update = 0  # a CPU has joined since next_balance was collected (≥ 5.16)
        self.rq_has_blocked_mask = 0  # rq->has_blocked_load

    def pack(self) -> list[Any]:
        """Return the whole state."""
        return [
            self.idle_cpus_mask,
            self.next_balance,
            self.has_blocked,
            self.next_blocked,
            self.rq_has_blocked_mask,
            self.needs_update,
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        (
            self.idle_cpus_mask,
            self.next_balance,
            self.has_blocked,
            self.next_blocked,
            self.rq_has_blocked_mask,
            self.needs_update,
        ) = data

    def nohz_balance_enter_idle(self, cpu: int) -> None:
        """Take in an idle CPU that stopped its tick (``nohz_balance_enter_idle()``)."""
        if not self.idle_cpus_mask >> cpu & 1:
            self.needs_update = 1
        self.idle_cpus_mask |= 1 << cpu
        self.rq_has_blocked_mask |= 1 << cpu
        self.has_blocked = 1

    def nohz_balance_exit_idle(self, cpu: int) -> None:
        """Let a CPU leave at its first busy tick or when it goes offline."""
        self.idle_cpus_mask &= ~(1 << cpu)

    def kick_ilb(self) -> None:
        """Count a kick: the next one is due a jiffy later, found an ilb or not (≤ 5.8)."""
        self.next_balance += 1

    def kick_ilb_full(self, jiffies: int) -> None:
        """Note a kick to balance: the next one is due in the next jiffy (≥ 5.9)."""
        self.next_balance = jiffies + 1

    def update_nohz_stats(self, cpu: int, view: RqView) -> bool:
        """Age an idle CPU's blocked load; return whether some is left (``update_nohz_stats()``)."""
        if not (self.rq_has_blocked_mask & self.idle_cpus_mask) >> cpu & 1:
            return False
        return self.update_blocked_averages(cpu, view)

    def update_blocked_averages(self, cpu: int, view: RqView) -> bool:
        """Age a CPU's blocked load; return whether some is left.

        The ageing itself is done by the reader (:mod:`pelt`); this keeps ``has_blocked_load``.
        """
        if not self.rq_has_blocked_mask >> cpu & 1:
            return False
        if has_blocked(view.rq(cpu)):
            return True
        self.rq_has_blocked_mask &= ~(1 << cpu)
        return False

    def postpone_blocked(self, jiffies: int) -> None:
        """Let 32 ms go by until the next pass for blocked load alone."""
        self.next_blocked = jiffies + msecs_to_jiffies(LOAD_AVG_PERIOD, self.hz)

    def newidle_aged(self, span: int, jiffies: int, view: RqView) -> None:
        """Note that a newly idle CPU's pass aged the idle CPUs of ``span`` on its way.

        If it saw them all and blocked load is left, the next pass for it alone can wait.
        """
        if not self.has_blocked:
            return
        left = [c for c in for_each_cpu(span) if self.update_nohz_stats(c, view)]
        if left and not self.idle_cpus_mask & ~span:
            self.postpone_blocked(jiffies)

    def newidle_stats(self, this_cpu: int, jiffies: int, view: RqView) -> None:
        """Age all idle CPUs on behalf of a CPU going idle, if that is due.

        Kernel: ``nohz_newidle_balance()``; from 5.12 on ``nohz_run_idle_balance()``.
        """
        if not self.has_blocked or jiffies < self.next_blocked:
            return
        self.has_blocked = 0
        for cpu in for_each_cpu(self.idle_cpus_mask & ~(1 << this_cpu)):
            if view.idle_cpu(cpu) and self.update_nohz_stats(cpu, view):
                self.has_blocked = 1
        self.postpone_blocked(jiffies)
