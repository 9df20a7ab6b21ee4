"""How long tasks wait for one CPU, and what its host takes: ``kernel/sched/stats.h``, ``cputime.c``, v5.4.

Theory of operation
-------------------
``sched_info`` stamps a task when it begins to wait for the CPU, and knows how long that was when it runs
(``sched_info_queued()``, ``sched_info_arrive()``).  Steal time is what a hypervisor ran others in while this
CPU had something to do; each tick looks how much has come since the last one.

A CPU keeps either only if a completion policy of the box asks for it.

Departures from the kernel: only the last delay is kept.
"""

from __future__ import annotations

from typing import Any


class SchedInfo:
    """Who waits here since when, and how long the last one did that began to run."""

    __slots__ = ("last_ns", "queued")

    def __init__(self) -> None:
        self.queued: dict[int, int] = {}
        self.last_ns = 0

    def sched_info_queued(self, now_ns: int, pid: int) -> None:
        """A task waits from now on."""
        self.queued[pid] = now_ns

    def sched_info_switch(self, now_ns: int, prev_pid: int, waits: bool, next_pid: int) -> None:
        """One task gives way to another; the first may still be runnable."""
        if waits:
            self.queued[prev_pid] = now_ns
        since_ns = self.queued.pop(next_pid, -1)
        if since_ns >= 0:
            self.last_ns = now_ns - since_ns

    def pack(self) -> list[Any]:
        """Return it as plain data."""
        return [self.last_ns, [[pid, since] for pid, since in self.queued.items()]]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.last_ns, self.queued = data[0], dict(data[1])


class Steal:
    """What the host has taken, and what of it between the last two ticks."""

    __slots__ = ("last_ns", "seen_ns", "total_ns")

    def __init__(self) -> None:
        self.total_ns = self.seen_ns = self.last_ns = 0

    def taken(self, ns: int) -> None:
        """The host comes back after so long."""
        self.total_ns += ns

    def steal_account_process_time(self) -> None:
        """A tick looks what has come since the last one."""
        self.last_ns, self.seen_ns = self.total_ns - self.seen_ns, self.total_ns

    def pack(self) -> list[Any]:
        """Return it as plain data."""
        return [self.total_ns, self.seen_ns, self.last_ns]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.total_ns, self.seen_ns, self.last_ns = data
