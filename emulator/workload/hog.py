"""A hog: a task that only burns CPU time.

Theory of operation
-------------------
One OP_RUN is a long segment, so that a stretch in which nothing else happens is one event.  The
segment's length has no effect on scheduling; with ``run_ns`` the hog ends after that much CPU time.

As the hogs of the measured cases, it may bind itself to a CPU first (``bind_cpu``), and wait for a
common start: until ``begin_ns`` it only looks every 100 us whether it is time.
"""

from __future__ import annotations

from typing import Any

from emulator.types import (
    NEVER,
    NSEC_PER_SEC,
    OP_EXIT,
    OP_RUN,
    OP_SETAFFINITY,
    OP_SLEEP,
    Books,
    Op,
)
from emulator.workload.params import Setting, check_params

#: ``segment_ns``: length of one stretch.  ``run_ns``: CPU time in all, 0 for no end.  ``bind_cpu``:
#: the CPU to bind itself to, -1: none.  ``begin_ns``: emulated time before which it does not burn.
HOG_PARAMS: dict[str, Any] = {
    "segment_ns": NSEC_PER_SEC,
    "run_ns": 0,
    "bind_cpu": -1,
    "begin_ns": 0,
}

#: How long a hog sleeps between two looks whether it is time to begin.
POLL_NS = 100_000


class HogProgram:
    """Burns CPU time for ever, or for ``run_ns``."""

    name = "hog"
    aio_events = 0

    __slots__ = ("begin_ns", "bind_cpu", "left_ns", "segment_ns")

    def __init__(
        self, segment_ns: int, left_ns: int, bind_cpu: int = -1, begin_ns: int = 0
    ) -> None:
        assert segment_ns > 0
        self.segment_ns = segment_ns
        self.bind_cpu = bind_cpu  #: -1: none, or done
        self.begin_ns = begin_ns
        self.left_ns = left_ns  #: CPU time not yet asked for, NEVER: no end

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> HogProgram:
        """Build a hog from its parameters, :data:`HOG_PARAMS`."""
        option = check_params(cls.name, params, HOG_PARAMS)
        left_ns = option["run_ns"] or NEVER
        return cls(option["segment_ns"], left_ns, option["bind_cpu"], option["begin_ns"])

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next stretch, or what comes before the first."""
        if self.bind_cpu >= 0:
            bind_cpu, self.bind_cpu = self.bind_cpu, -1
            return (OP_SETAFFINITY, 1 << bind_cpu)
        if now_ns < self.begin_ns:
            return (OP_SLEEP, now_ns + POLL_NS)
        if self.left_ns == NEVER:
            return (OP_RUN, self.segment_ns)
        run_ns = min(self.segment_ns, self.left_ns)
        self.left_ns -= run_ns
        return (OP_RUN, run_ns) if run_ns else (OP_EXIT,)

    def quiet_ns(self, ring_events: int) -> int:
        """Return the CPU time that is left after the stretch in progress; 0 before it begins."""
        return 0 if self.begin_ns or self.bind_cpu >= 0 else self.left_ns

    def measure_in(self, books: Books | None) -> None:
        """Return None: a hog's CPU time is in the scheduler's books."""

    def books(self) -> dict[str, Any]:
        """Return nothing: a hog's CPU time is in the scheduler's books."""
        return {}

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [self.name, self.segment_ns, self.left_ns, self.bind_cpu, self.begin_ns]

    @classmethod
    def unpack(cls, data: list[Any]) -> HogProgram:
        """Rebuild what :meth:`pack` returned."""
        return cls(*data[1:])
