"""fio's main thread, which only waits for its job: sleeps 10 ms, looks around, sleeps again.

Theory of operation
-------------------
The sleep is relative (``usleep()``), so the period is 10 ms plus what the thread itself takes: about
98 wakeups a second.  Measured, one takes 16.2 us from switch to switch (``stint_ns``); the kernel's
way into the sleep is part of that and is charged by the kernel, so the program burns the rest.

While its jobs get ready it sleeps for 100 ms (``run_threads()`` of ``backend.c``), which is long enough
for its CPU to stop the tick and to join the idle CPUs.  Before it sleeps it looks for a file by which it could be asked for its figures (``check_status_file()``
of ``stat.c``, fio 3.33). It is not there, and ``/tmp`` is in memory, so each look leaves this CPU an RCU
callback, for which it keeps its tick.
"""

from __future__ import annotations

from typing import Any

from emulator.types import NSEC_PER_MSEC, OP_RUN, OP_SLEEP, OP_STAT, Books, Op
from emulator.workload.params import Setting, check_params

FIO_MAIN_PARAMS: dict[str, Any] = {"period_ns": 10 * NSEC_PER_MSEC, "stint_ns": 16_200}

# What the operation that returns was.
START = 0
SLEEP = 1
LOOK_AROUND = 2
LOOK_FOR_FILE = 3

#: The first sleep.
STARTUP_NS = 100 * NSEC_PER_MSEC

#: The least that a stint leaves for the program itself.
RUN_NS_MIN = 1_000


class FioMainProgram:
    """Sleeps 100 ms, then: burns ``run_ns``, looks for the file, sleeps ``period_ns``, for ever."""

    name = "fio_main"
    aio_events = 0

    __slots__ = ("period_ns", "run_ns", "step")

    def __init__(self, period_ns: int, run_ns: int) -> None:
        assert period_ns > 0
        assert run_ns > 0
        self.period_ns = period_ns
        self.run_ns = run_ns
        self.step = START  #: which operation returns

    @classmethod
    def make(cls, params: dict[str, Any], setting: Setting) -> FioMainProgram:
        """Build the thread from its parameters, :data:`FIO_MAIN_PARAMS`."""
        option = check_params(cls.name, params, FIO_MAIN_PARAMS)
        costs = setting.costs
        kernel_ns = 2 * costs.syscall_ns + costs.nanosleep_ns + costs.context_switch_ns
        return cls(option["period_ns"], max(RUN_NS_MIN, option["stint_ns"] - kernel_ns))

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the work after a sleep, the look for the file, or the next sleep."""
        if self.step == START:
            self.step = SLEEP
            return (OP_SLEEP, now_ns + STARTUP_NS)
        if self.step == SLEEP:
            self.step = LOOK_AROUND
            return (OP_RUN, self.run_ns)
        if self.step == LOOK_AROUND:
            self.step = LOOK_FOR_FILE
            return (OP_STAT,)
        self.step = SLEEP
        return (OP_SLEEP, now_ns + self.period_ns)

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
        return [self.name, self.period_ns, self.run_ns, self.step]

    @classmethod
    def unpack(cls, data: list[Any]) -> FioMainProgram:
        """Rebuild what :meth:`pack` returned."""
        thread = cls(data[1], data[2])
        thread.step = data[3]
        return thread
