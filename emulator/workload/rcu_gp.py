"""``rcu_sched``: the kthread that drives grace periods, ``rcu_gp_kthread()`` of v5.4 in outline.

Theory of operation
-------------------
While fio runs, callbacks are always waiting (IO leaves some, and so does its main process every 10 ms), so
one grace period follows another.  In each of them
the kthread sleeps with a timeout (``jiffies_till_first_fqs``), looks for CPUs that are idle when the
timeout expires, and sleeps again unless all have passed a quiescent state; a CPU that reports the
last missing one from its tick wakes it early (:mod:`emulator.kernel.rcu`), and the next grace period
begins at once.  The timeout is 1 + (HZ > 250) + (HZ > 500) jiffies, and the timer wheel adds one,
because a timer never expires early: 2 ticks at HZ 250.

One wakeup costs ``run_ns``: the measured share of 0.34 % CPU over 142 wakeups a second is 23.9 us
from switch to switch, of which about 4 us are the scheduler's.

Departures from the kernel: whether a grace period is needed is not modelled, it always is; a wakeup
is ``run_ns`` of work after the scan, however many CPUs there are and whether or not a grace period
ends.
"""

from __future__ import annotations

from typing import Any

from emulator.types import OP_RCU_FQS, OP_RCU_GP_INIT, OP_RUN, OP_SLEEP_JIFFIES, Op
from emulator.workload.params import Setting, check_params
from emulator.workload.tally import Tallied

#: ``jiffies`` 0: computed from HZ as the kernel does, the timer wheel's extra jiffy included.
RCU_GP_PARAMS: dict[str, Any] = {"jiffies": 0, "run_ns": 20_000}


def fqs_jiffies(hz: int) -> int:
    """Return how many ticks a ``jiffies_till_first_fqs`` timeout takes at this HZ."""
    return 1 + (hz > 250) + (hz > 500) + 1


# What the operation that returns was.
PC_START = 0
PC_SLEEP = 1
PC_FQS = 2
PC_RUN = 3
PC_RECHECK = 4
PC_INIT = 5


class RcuGpProgram(Tallied):
    """Sleeps for some jiffies or until woken, scans, and sleeps again."""

    name = "rcu_gp"
    counts = ("timeouts", "reports")
    aio_events = 0

    __slots__ = ("gp_seq", "jiffies", "over", "pc", "run_ns")

    def __init__(self, jiffies: int, run_ns: int) -> None:
        assert jiffies > 0
        assert run_ns > 0
        self.jiffies = jiffies
        self.run_ns = run_ns
        self.pc = PC_START
        self.gp_seq = 0  #: the grace period under way
        self.over = False  #: it is
        super().__init__()

    @classmethod
    def make(cls, params: dict[str, Any], setting: Setting) -> RcuGpProgram:
        """Build the kthread from its parameters, :data:`RCU_GP_PARAMS`."""
        option = check_params(cls.name, params, RCU_GP_PARAMS)
        return cls(option["jiffies"] or fqs_jiffies(setting.hz), option["run_ns"])

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next step of a grace period: sleep, look, work, and perhaps begin another."""
        if self.pc == PC_SLEEP:
            self.tally.counts["reports" if result else "timeouts"] += 1
            self.pc = PC_FQS
            return (OP_RCU_FQS, self.gp_seq)
        if self.pc == PC_FQS:
            self.over = bool(result)
            self.pc = PC_RUN
            return (OP_RUN, self.run_ns)
        if self.pc == PC_RUN and not self.over:
            # The condition it is about to wait for is looked at before it sleeps.
            self.pc = PC_RECHECK
            return (OP_RCU_FQS, self.gp_seq)
        if self.pc == PC_RECHECK:
            self.over = bool(result)
        if self.pc == PC_START or (self.pc in (PC_RUN, PC_RECHECK) and self.over):
            self.gp_seq += 1
            self.pc = PC_INIT
            return (OP_RCU_GP_INIT, self.gp_seq)
        self.pc = PC_SLEEP
        return (OP_SLEEP_JIFFIES, self.jiffies)

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [self.name, self.jiffies, self.run_ns, self.pc, self.gp_seq, self.over]

    @classmethod
    def unpack(cls, data: list[Any]) -> RcuGpProgram:
        """Rebuild what :meth:`pack` returned."""
        kthread = cls(data[1], data[2])
        kthread.pc, kthread.gp_seq, kthread.over = data[3:]
        return kthread
