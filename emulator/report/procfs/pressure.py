"""Pressure of the whole box: ``/proc/pressure/cpu``, counted from the rings (``kernel/sched/psi.c``, v5.4).

Theory of operation
-------------------
A CPU is under *some* pressure while a task waits for it.  Every two seconds and a jiffy that time of all CPUs is
added up, each weighted by how many jiffies it was not idle in, and its share of the period, in whole percents,
enters three averages (:func:`emulator.kernel.psi.calc_load`).  A read counts up to now; the averages are of the
last end of a period.

Departures from the kernel: periods end exactly when they are over, not with the next run of a delayed work.  What
:mod:`counts` says of who waits, and of who waits for IO, holds here too.
"""

from copy import deepcopy

from emulator.kernel.psi import EXP_10s, calc_load
from emulator.rules import VERSIONS

FSHIFT = 11
FIXED_1 = 1 << FSHIFT
#: Weights of the averages over 10, 60 and 300 s.
EXPONENTS = (EXP_10s, 1981, 2034)
#: From here on the file says of a CPU's ``full`` that it is nought.
FULL_FROM = "5.15"


class CpuPressure:
    """One CPU's part of a period."""

    __slots__ = ("nonidle_ns", "nr_iowait", "nr_running", "since_ns", "some_ns")

    def __init__(self) -> None:
        self.nr_running = 0
        self.nr_iowait = 0
        self.since_ns = 0  #: up to where the two below are counted
        self.some_ns = 0
        self.nonidle_ns = 0

    def settle(self, now_ns: int) -> None:
        """``record_times()``: count up to now."""
        if self.nr_running > 1:
            self.some_ns += now_ns - self.since_ns
        if self.nr_running or self.nr_iowait:
            self.nonidle_ns += now_ns - self.since_ns
        self.since_ns = now_ns


class Pressure:
    """``struct psi_group`` of the whole box."""

    __slots__ = (
        "averages",
        "cpus",
        "jiffy_ns",
        "next_ns",
        "period_ns",
        "total_ns",
        "total_then_ns",
    )

    def __init__(self, nr_cpus: int, hz: int) -> None:
        self.cpus = [CpuPressure() for _ in range(nr_cpus)]
        self.jiffy_ns = 1_000_000_000 // hz
        self.period_ns = 2_000_000_000 + self.jiffy_ns  # PSI_FREQ
        self.next_ns = self.period_ns
        self.averages = [0] * len(EXPONENTS)
        self.total_ns = 0
        self.total_then_ns = 0  #: when the averages were renewed last

    def change(self, now_ns: int, cpu: int, running: int, iowait: int = 0) -> None:
        """``psi_task_change()``: so many tasks more are runnable on a CPU, or wait for IO."""
        self.advance(now_ns)
        one = self.cpus[cpu]
        one.settle(now_ns)
        one.nr_running += running
        one.nr_iowait += iowait

    def advance(self, now_ns: int) -> None:
        """Renew the averages as often as it is due."""
        while now_ns >= self.next_ns:
            self.collect(self.next_ns)
            sample_ns = min(self.total_ns - self.total_then_ns, self.period_ns)
            self.total_then_ns = self.total_ns
            percent = sample_ns * 100 // self.period_ns * FIXED_1
            for index, exponent in enumerate(EXPONENTS):
                self.averages[index] = calc_load(self.averages[index], exponent, percent)
            self.next_ns += self.period_ns

    def collect(self, now_ns: int) -> None:
        """``collect_percpu_times()``: one time of all CPUs, weighted by the jiffies that each was busy."""
        weighted_ns = jiffies = 0
        for one in self.cpus:
            one.settle(now_ns)
            nonidle = one.nonidle_ns // self.jiffy_ns
            weighted_ns += one.some_ns * nonidle
            jiffies += nonidle
            one.some_ns = one.nonidle_ns = 0
        self.total_ns += weighted_ns // max(jiffies, 1)

    def lines(self, now_ns: int, version: str) -> list[str]:
        """``psi_show()``: the lines of the file."""
        now = deepcopy(self)
        now.advance(now_ns)
        now.collect(now_ns)
        found = [_line("some", now.averages, now.total_ns // 1000)]
        if VERSIONS.index(version) >= VERSIONS.index(FULL_FROM):
            found.append(_line("full", [0, 0, 0], 0))
        return found


def _line(kind: str, averages: list[int], total_us: int) -> str:
    shown = (
        f"avg{seconds}={average >> FSHIFT}.{(average & FIXED_1 - 1) * 100 >> FSHIFT:02}"
        for seconds, average in zip((10, 60, 300), averages, strict=True)
    )
    return f"{kind} {' '.join(shown)} total={total_us}"
