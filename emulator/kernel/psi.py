"""Pressure stall information of one CPU: the ``cpu some`` half of ``kernel/sched/psi.c``, v5.4.

Theory of operation
-------------------
A CPU is *stalled* while a task waits for it (more than one is runnable).  How long it was is added up,
and every two seconds its share of them enters the average over ten seconds, in the load average's
fixed point.  Whether it is stalled now, which the kernel keeps as a bit of each CPU's state, is what the signal
``nr_running`` with its limit of 2 reads.

Departures from the kernel: the averages there are those of all CPUs weighted by their non-idle time;
here each CPU has its own, since a policy asks about one.
"""

from __future__ import annotations

from typing import Any

PSI_FREQ_NS = 2_000_000_000
FIXED_1 = 1 << 11
EXP_10s = 1677


def calc_load(load: int, exp: int, active: int) -> int:
    """Return an average moved towards ``active`` (``calc_load()``): fixed point, rounded up."""
    newload = load * exp + active * (FIXED_1 - exp)
    if active >= load:
        newload += FIXED_1 - 1
    return newload // FIXED_1


class Psi:
    """How long tasks have waited for one CPU, and the average of it."""

    __slots__ = ("avg10", "next_ns", "since_ns", "stalled", "time_ns")

    def __init__(self) -> None:
        self.stalled = False
        self.since_ns = 0  # up to where time_ns is counted
        self.time_ns = 0  # stalled in this period so far
        self.next_ns = PSI_FREQ_NS  # end of this period
        self.avg10 = 0  # percent << 11

    def change(self, now_ns: int, nr_running: int) -> None:
        """``psi_task_change()``: note whether somebody waits from now on."""
        self._account(now_ns)
        self.stalled = nr_running > 1

    def some_avg10(self, now_ns: int) -> int:
        """Return ``avg10`` as of the last end of a period, in hundredths of a percent."""
        self._account(now_ns)
        return self.avg10 * 100 // FIXED_1

    # Every period that has ended enters the average by itself, also one in which nothing changed.
    def _account(self, now_ns: int) -> None:
        while now_ns >= self.next_ns:
            if self.stalled:
                self.time_ns += self.next_ns - self.since_ns
            percent = self.time_ns * 100 // PSI_FREQ_NS * FIXED_1  # whole ones
            self.avg10 = calc_load(self.avg10, EXP_10s, percent)
            self.since_ns, self.time_ns = self.next_ns, 0
            self.next_ns += PSI_FREQ_NS
        if self.stalled:
            self.time_ns += now_ns - self.since_ns
        self.since_ns = now_ns

    def pack(self) -> list[Any]:
        """Return it as plain data."""
        return [self.stalled, self.since_ns, self.time_ns, self.next_ns, self.avg10]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.stalled, self.since_ns, self.time_ns, self.next_ns, self.avg10 = data
