"""``struct rt_rq``: the real-time tasks of one CPU, highest priority first.

The kernel has a list per priority and a bitmap of those that are not empty; here it is one list,
sorted by priority and, within one, by who is served first.  The running task stays in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulator.kernel.sched import Task


class RtRq:
    """``struct rt_rq``; ``rt_queued`` of the kernel is :meth:`runnable`."""

    __slots__ = ("period_active", "queue", "rt_throttled", "rt_time")

    def __init__(self) -> None:
        self.queue: list[Task] = []
        self.rt_time = 0  # ns that real-time tasks have run, less what periods have given back
        self.rt_throttled = False  # they have used up their part of the period
        self.period_active = False  # the period's timer is armed

    def runnable(self) -> bool:
        """``sched_rt_runnable()``: somebody is queued, and may run."""
        return bool(self.queue) and not self.rt_throttled

    def pack(self) -> list[Any]:
        """Return the queue as plain data, tasks by pid."""
        return [
            [p.pid for p in self.queue],
            self.rt_time,
            self.rt_throttled,
            self.period_active,
        ]

    def unpack(self, data: list[Any], tasks: Mapping[int, Task]) -> None:
        """Take over what :meth:`pack` returned; ``tasks`` maps every pid in it to its task."""
        pids, self.rt_time, self.rt_throttled, self.period_active = data
        self.queue = [tasks[pid] for pid in pids]
