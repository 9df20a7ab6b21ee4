"""A task that execs again and again, as a build or a shell script does.

Theory of operation
-------------------
It burns ``run_ns``, execs, and so on.  An exec may move the task (``sched_exec()``); the program
behind it is always this one, so what follows goes on wherever the exec left it.
"""

from __future__ import annotations

from typing import Any

from emulator.types import OP_EXEC, OP_EXIT, OP_RUN, Books, Op
from emulator.workload.params import Setting, check_params

#: ``run_ns``: CPU time between two execs.  ``times``: execs in all, 0 for no end.
EXECS_PARAMS: dict[str, Any] = {"run_ns": 1_000_000, "times": 0}


class ExecsProgram:
    """Burns ``run_ns``, execs, and so on, for ever or ``times`` times."""

    name = "execs"
    aio_events = 0

    __slots__ = ("done", "ran", "run_ns", "times")

    def __init__(self, run_ns: int, times: int) -> None:
        if run_ns <= 0 or times < 0:
            raise ValueError("execs needs run_ns > 0 and times >= 0")
        self.run_ns = run_ns
        self.times = times
        self.done = 0  # execs so far
        self.ran = False  # since the last exec

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> ExecsProgram:
        """Build the task from its parameters, :data:`EXECS_PARAMS`."""
        option = check_params(cls.name, params, EXECS_PARAMS)
        return cls(option["run_ns"], option["times"])

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next stretch of work, or the exec after it."""
        self.ran = not self.ran
        if self.ran:
            return (OP_RUN, self.run_ns)
        if self.times and self.done == self.times:
            return (OP_EXIT,)
        self.done += 1
        return (OP_EXEC,)

    def quiet_ns(self, ring_events: int) -> int:
        """Return 0: an exec may come next."""
        return 0

    def measure_in(self, books: Books | None) -> None:
        """Return None: moves by exec are in the rings."""

    def books(self) -> dict[str, Any]:
        """Return nothing: moves by exec are in the rings."""
        return {}

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [self.name, self.run_ns, self.times, self.done, self.ran]

    @classmethod
    def unpack(cls, data: list[Any]) -> ExecsProgram:
        """Rebuild what :meth:`pack` returned."""
        program = cls(data[1], data[2])
        program.done, program.ran = data[3], bool(data[4])
        return program
