"""fio's main thread, which only waits for its job: sleeps 10 ms, looks around, sleeps again.

Theory of operation
-------------------
The sleep is relative (``usleep()``), so the period is 10 ms plus what the thread itself takes: about
98 wakeups a second.  Measured, one takes 16.2 us from switch to switch (``stint_ns``); the kernel's
way into the sleep is part of that and is charged by the kernel, so the program burns the rest.
"""

from __future__ import annotations

from typing import Any

from emulator.types import NSEC_PER_MSEC, OP_RUN, OP_SLEEP, Books, Op
from emulator.workload.params import Setting, check_params

FIO_MAIN_PARAMS: dict[str, Any] = {"period_ns": 10 * NSEC_PER_MSEC, "stint_ns": 16_200}

#: The least that a stint leaves for the program itself.
RUN_NS_MIN = 1_000


class FioMainProgram:
    """Sleeps ``period_ns``, burns ``run_ns``, for ever."""

    name = "fio_main"
    aio_events = 0

    __slots__ = ("period_ns", "run_ns", "slept")

    def __init__(self, period_ns: int, run_ns: int) -> None:
        assert period_ns > 0
        assert run_ns > 0
        self.period_ns = period_ns
        self.run_ns = run_ns
        self.slept = False  #: the operation that returns is the sleep

    @classmethod
    def make(cls, params: dict[str, Any], setting: Setting) -> FioMainProgram:
        """Build the thread from its parameters, :data:`FIO_MAIN_PARAMS`."""
        option = check_params(cls.name, params, FIO_MAIN_PARAMS)
        costs = setting.costs
        kernel_ns = costs.syscall_ns + costs.nanosleep_ns + costs.context_switch_ns
        return cls(option["period_ns"], max(RUN_NS_MIN, option["stint_ns"] - kernel_ns))

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the work after a sleep, or the next sleep."""
        self.slept = not self.slept
        return (OP_SLEEP, now_ns + self.period_ns) if self.slept else (OP_RUN, self.run_ns)

    def quiet_ns(self, ring_events: int) -> int:
        """Return 0: the thread sleeps after each look."""
        return 0

    def measure_in(self, books: Books | None) -> None:
        """Return None: its wakeups are in the scheduler's books."""

    def books(self) -> dict[str, Any]:
        """Return nothing: its wakeups are in the scheduler's books."""
        return {}

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [self.name, self.period_ns, self.run_ns, self.slept]

    @classmethod
    def unpack(cls, data: list[Any]) -> FioMainProgram:
        """Rebuild what :meth:`pack` returned."""
        thread = cls(data[1], data[2])
        thread.slept = data[3]
        return thread
