"""A periodic task: sleeps until an absolute time, burns CPU time, sleeps until the next period.

Theory of operation
-------------------
Activation *n* is due at ``start + offset_ns + n * period_ns``.  The task sleeps until then, takes
the time between due and running (wake latency), burns ``run_ns`` of its own CPU time and takes the
time between due and done (response time).  Activations that have become due by then are skipped and
count as missed, as the ``periodic`` program of the measured cases does: beside a hog whose slice is
11 ms it runs every third period of 4 ms, not twice in a row.
"""

from __future__ import annotations

from typing import Any

from emulator.types import OP_BURN, OP_SETAFFINITY, OP_SLEEP, Op
from emulator.workload.params import Setting, check_params
from emulator.workload.tally import Tallied

#: ``bind_cpu``: the CPU to which the task binds itself first, -1: none.
PERIODIC_PARAMS: dict[str, Any] = {
    "period_ns": None,
    "run_ns": None,
    "offset_ns": 0,
    "bind_cpu": -1,
    "stats_from_ns": 0,
}

# What has just returned.
PC_START = 0
PC_WOKEN = 1
PC_RAN = 2


class PeriodicProgram(Tallied):
    """Burns ``run_ns`` every ``period_ns`` and keeps wake latencies and response times."""

    name = "periodic"
    counts = ("missed",)
    times = ("wake_ns", "response_ns")
    aio_events = 0

    __slots__ = (
        "bind_cpu",
        "due_ns",
        "offset_ns",
        "pc",
        "period_ns",
        "run_ns",
        "stats_from_ns",
    )

    def __init__(
        self, period_ns: int, run_ns: int, offset_ns: int, stats_from_ns: int, bind_cpu: int = -1
    ) -> None:
        if period_ns <= 0 or run_ns <= 0 or offset_ns < 0:
            raise ValueError("periodic needs period_ns > 0, run_ns > 0 and offset_ns >= 0")
        self.period_ns = period_ns
        self.run_ns = run_ns
        self.offset_ns = offset_ns
        self.stats_from_ns = stats_from_ns
        self.bind_cpu = bind_cpu  #: -1: none, or done
        self.pc = PC_START
        self.due_ns = 0
        super().__init__()

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> PeriodicProgram:
        """Build the task from its parameters, :data:`PERIODIC_PARAMS`."""
        option = check_params(cls.name, params, PERIODIC_PARAMS)
        return cls(
            option["period_ns"],
            option["run_ns"],
            option["offset_ns"],
            option["stats_from_ns"],
            option["bind_cpu"],
        )

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the sleep until the next activation, or the work of the one that is due."""
        if self.bind_cpu >= 0:
            bind_cpu, self.bind_cpu = self.bind_cpu, -1
            return (OP_SETAFFINITY, 1 << bind_cpu)
        if self.pc == PC_WOKEN:
            self._record("wake_ns", now_ns)
            self.pc = PC_RAN
            return (OP_BURN, self.run_ns)
        if self.pc == PC_START:
            self.due_ns = now_ns + self.offset_ns
        else:
            self._record("response_ns", now_ns)
            periods = max(1, -(-(now_ns - self.due_ns) // self.period_ns))
            self.tally.counts["missed"] += periods - 1
            self.due_ns += periods * self.period_ns
        self.pc = PC_WOKEN
        return (OP_SLEEP, self.due_ns)

    def _record(self, name: str, now_ns: int) -> None:
        if now_ns >= self.stats_from_ns:
            self.tally.stats[name].add(now_ns - self.due_ns)

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [
            self.name,
            [self.period_ns, self.run_ns, self.offset_ns, self.stats_from_ns, self.bind_cpu],
            [self.pc, self.due_ns],
        ]

    @classmethod
    def unpack(cls, data: list[Any]) -> PeriodicProgram:
        """Rebuild what :meth:`pack` returned."""
        _, config, progress = data
        task = cls(*config)
        task.pc, task.due_ns = progress
        return task
