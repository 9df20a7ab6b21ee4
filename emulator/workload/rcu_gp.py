"""``rcu_sched``: the kthread that drives grace periods, ``rcu_gp_kthread()`` of v5.4 in outline.

Theory of operation
-------------------
While IO runs, callbacks are always waiting, so one grace period follows another.  In each of them
the kthread sleeps interruptibly with a timeout (``jiffies_till_first_fqs``), looks for CPUs that are
idle when the timeout expires, and sleeps again; a CPU that reports the last missing quiescent state
from its tick wakes it early, and the next grace period begins at once.  The timeout is
1 + (HZ > 250) + (HZ > 500) jiffies, and the timer wheel adds one, because a timer never expires
early: 2 ticks at HZ 250, which is the 125 timer wakeups a second that a measured box with little
else to do shows.  A busy one shows 145: 85 from idle CPUs and 58 from the submitter's.  Of the 58,
35 move the kthread away, so it slept there and its timer ran there; that leaves some 23 reports.

A timeout is OP_SLEEP_JIFFIES.  Whoever models quiescent states may wake the task before it expires
and let the operation return the jiffies left (``schedule_timeout()`` returns them too); without
that, the program is a plain jiffy sleeper.  Either way one wakeup costs ``run_ns``: the measured
share of 0.34 % CPU over 142 wakeups a second is 23.9 us from switch to switch, of which about 4 us
are the scheduler's.

Departures from the kernel: whether a grace period is needed is not modelled, it always is; the
work of the scan does not depend on the number of CPUs.
"""

from __future__ import annotations

from typing import Any

from emulator.types import OP_RUN, OP_SLEEP_JIFFIES, Books, Op
from emulator.workload.params import Setting, check_params
from emulator.workload.tally import Tally

#: ``jiffies`` 0: computed from HZ as the kernel does, the timer wheel's extra jiffy included.
RCU_GP_PARAMS: dict[str, Any] = {"jiffies": 0, "run_ns": 20_000}


def fqs_jiffies(hz: int) -> int:
    """Return how many ticks a ``jiffies_till_first_fqs`` timeout takes at this HZ."""
    return 1 + (hz > 250) + (hz > 500) + 1


class RcuGpProgram:
    """Sleeps for some jiffies or until woken, scans, and sleeps again."""

    name = "rcu_gp"
    aio_events = 0

    __slots__ = ("jiffies", "run_ns", "slept", "tally")

    def __init__(self, jiffies: int, run_ns: int) -> None:
        assert jiffies > 0
        assert run_ns > 0
        self.jiffies = jiffies
        self.run_ns = run_ns
        self.slept = False  #: the operation that returns is the sleep
        self.tally = self._new_tally()

    @classmethod
    def make(cls, params: dict[str, Any], setting: Setting) -> RcuGpProgram:
        """Build the kthread from its parameters, :data:`RCU_GP_PARAMS`."""
        option = check_params(cls.name, params, RCU_GP_PARAMS)
        return cls(option["jiffies"] or fqs_jiffies(setting.hz), option["run_ns"])

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the scan after a wakeup, or the next sleep."""
        self.slept = not self.slept
        if self.slept:
            return (OP_SLEEP_JIFFIES, self.jiffies)
        self.tally.counts["reports" if result else "timeouts"] += 1
        return (OP_RUN, self.run_ns)

    def quiet_ns(self, ring_events: int) -> int:
        """Return 0: the kthread sleeps after each scan."""
        return 0

    def measure_in(self, books: Books | None) -> Books:
        """Count in ``books`` from now on, or in new ones; return them."""
        assert books is None or isinstance(books, Tally)
        self.tally = books or self._new_tally()
        return self.tally

    def _new_tally(self) -> Tally:
        return Tally(self.name, ("timeouts", "reports"))

    def books(self) -> dict[str, Any]:
        """Return the wakeups by cause."""
        return self.tally.books()

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [self.name, self.jiffies, self.run_ns, self.slept]

    @classmethod
    def unpack(cls, data: list[Any]) -> RcuGpProgram:
        """Rebuild what :meth:`pack` returned."""
        kthread = cls(data[1], data[2])
        kthread.slept = data[3]
        return kthread
