"""The load of ``cpu load N --percent P``: a task that keeps one CPU busy P % of the time.

Theory of operation
-------------------
Every ``period_ns`` the task burns its percentage of it as its own CPU time, then sleeps until the
next period begins.  Unlike :mod:`emulator.workload.periodic` it skips the periods that it missed,
so that a CPU shared with others is never owed a backlog.  100 % never sleeps.  The command changes
a load that is there with :meth:`LoadProgram.set_percent`; 0 removes it at its next step.
"""

from __future__ import annotations

from typing import Any

from emulator.types import NEVER, NSEC_PER_MSEC, OP_EXIT, OP_RUN, OP_SLEEP, Books, Op
from emulator.workload.params import Setting, check_params

LOAD_PARAMS: dict[str, Any] = {"percent": None, "period_ns": 10 * NSEC_PER_MSEC}


class LoadProgram:
    """Burns ``percent`` % of each period."""

    name = "load"
    aio_events = 0

    __slots__ = ("due_ns", "percent", "period_ns", "ran")

    def __init__(self, percent: int, period_ns: int) -> None:
        assert period_ns > 0
        self.period_ns = period_ns
        self.percent = 0
        self.due_ns = -1  #: beginning of the current period
        self.ran = False  #: the work of the current period is done
        self.set_percent(percent)

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> LoadProgram:
        """Build the load from its parameters, :data:`LOAD_PARAMS`."""
        option = check_params(cls.name, params, LOAD_PARAMS)
        return cls(option["percent"], option["period_ns"])

    def set_percent(self, percent: int) -> None:
        """Change the load from its next step on; 0 ends it; ValueError beyond 0 to 100."""
        if not 0 <= percent <= 100:
            raise ValueError(f"a load of {percent} % is not between 0 and 100")
        self.percent = percent

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the work of this period, or the sleep until the next."""
        if not self.percent:
            return (OP_EXIT,)
        if self.due_ns < 0:
            self.due_ns = now_ns
        if self.ran and self.percent < 100:
            self.ran = False
            missed = max(0, now_ns - self.due_ns) // self.period_ns
            self.due_ns += (missed + 1) * self.period_ns
            return (OP_SLEEP, self.due_ns)
        self.ran = True
        return (OP_RUN, max(1, self.period_ns * self.percent // 100))

    def quiet_ns(self, ring_events: int) -> int:
        """Return 0 for a load that sleeps; one of 100 % never does."""
        return NEVER if self.percent == 100 else 0

    def measure_in(self, books: Books | None) -> None:
        """Return None: its CPU time is in the scheduler's books."""

    def books(self) -> dict[str, Any]:
        """Return the percentage in force."""
        return {"percent": self.percent}

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [self.name, self.percent, self.period_ns, self.due_ns, self.ran]

    @classmethod
    def unpack(cls, data: list[Any]) -> LoadProgram:
        """Rebuild what :meth:`pack` returned."""
        load = cls(data[1], data[2])
        load.due_ns = data[3]
        load.ran = data[4]
        return load
