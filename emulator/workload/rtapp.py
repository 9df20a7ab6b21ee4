"""A task of rt-app: phases of runs, sleeps, timers and wakeups.

Theory of operation
-------------------
The task goes through its phases, each so many times, and through all of them so many times; -1 is for
ever.  What a step does:

``run`` burns CPU time of its own.  ``runtime`` burns pieces of :data:`RUNTIME_STEP_NS` until so much
time has passed on the clock, as rt-app does, so it may take one piece longer.  ``timer`` sleeps until
its next multiple, counted from the task's begin; one that has passed is skipped at once, and a
relative timer counts from then on.  ``wait`` sleeps until somebody who wakes it has written to one of
its pipes; what was written before it began to wait is lost, as with a condition variable, and is read
off without effect.  ``signal`` writes to each of its pipes; ``sync`` does both, and what comes back
after its signal is not lost.  ``take`` is the semaphore's wait: nothing is lost.  ``barrier`` writes
to one pipe and reads from another, so the first of two sleeps and the last wakes it.

The task ends after its loops, or when its time is over, also in its sleep.

Departures from rt-app: a signal that is lost costs the reader a system call; a wakeup ends the sleep
through a pipe, not through a futex, so it is a synchronous one (WF_SYNC), and each task that is woken
costs its own system call; a task that waits for others when its time is over waits on.
"""

from __future__ import annotations

from typing import Any

from emulator.types import (
    NEVER,
    OP_BURN,
    OP_EXIT,
    OP_PIPE_POLL,
    OP_PIPE_READ,
    OP_PIPE_WRITE,
    OP_SETAFFINITY,
    OP_SLEEP,
    OP_YIELD,
    Op,
)
from emulator.workload.params import Setting, check_params
from emulator.workload.tally import Tallied

RUN = "run"  #: ns
RUNTIME = "runtime"  #: ns
SLEEP = "sleep"  #: ns
TIMER = "timer"  #: timer, period, whether it is absolute
WAIT = "wait"  #: pipes to read from
SIGNAL = "signal"  #: pipes to write to
SYNC = "sync"  #: pipes to write to, pipes to read from
TAKE = "take"  #: pipes to read from
BARRIER = "barrier"  #: pipe to write to, pipe to read from
YIELD = "yield"
AFFINITY = "affinity"  #: mask

#: Times are of the box's clock; ``end_ns`` 0: never.  ``reads`` and ``writes`` are the pipes among the
#: steps, for who makes them.
RTAPP_PARAMS: dict[str, Any] = {
    "phases": None,
    "loop": -1,
    "timers": 0,
    "begin_ns": 0,
    "end_ns": 0,
    "reads": [],
    "writes": [],
    "stats_from_ns": 0,
}

#: Between two looks at the clock.
RUNTIME_STEP_NS = 32_000


class RtappProgram(Tallied):
    """Goes through its phases; keeps wake latencies of its timers and the time of a loop."""

    name = "rtapp"
    counts = ("rounds", "missed")
    times = ("wake_ns", "round_ns")
    aio_events = 0

    __slots__ = (
        "begin_ns",
        "begun_ns",
        "config",
        "due",
        "end_ns",
        "loops_left",
        "part",
        "phase",
        "phases",
        "rounds_left",
        "since_ns",
        "stats_from_ns",
        "step",
        "timers",
    )

    def __init__(self, config: list[Any]) -> None:
        self.config = config
        self.phases: list[list[Any]] = config[0]  #: [times, steps] each
        if not all(steps for _, steps in self.phases) or not self.phases:
            raise ValueError("rtapp needs phases with steps")
        _, self.loops_left, timers, self.begin_ns, end_ns, self.stats_from_ns = config
        self.end_ns = end_ns or NEVER
        self.begun_ns = -1  #: when this loop began; -1: no operation was asked for yet
        self.phase = 0
        self.rounds_left = self.phases[0][0]  #: of this phase, negative: no end
        self.step = -1  #: the one in progress, -1: none
        self.part = 0  #: of a step of several operations, how many are done
        self.since_ns = 0  #: when the step began
        self.due = -1  #: when the timer of the step in progress is due
        self.timers = [self.begin_ns] * timers  #: when each was due last
        super().__init__()

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> RtappProgram:
        """Build the task from its parameters, :data:`RTAPP_PARAMS`."""
        option = check_params(cls.name, params, RTAPP_PARAMS)
        names = ("phases", "loop", "timers", "begin_ns", "end_ns", "stats_from_ns")
        return cls([option[name] for name in names])

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next operation."""
        if self.begun_ns < 0:
            self.begun_ns = now_ns
        op = self._go_on(now_ns, result) if self.step >= 0 else None
        while op is None:
            if not self._next_step(now_ns):
                return (OP_EXIT,)
            op = self._go_on(now_ns, None)
        return op

    # The next operation of the step in progress, or None if it is over.
    def _go_on(self, now_ns: int, result: Any) -> Op | None:
        step = self.phases[self.phase][1][self.step]
        what = step[0]
        part = self.part
        self.part = part + 1
        if what == RUNTIME:
            return (OP_BURN, RUNTIME_STEP_NS) if now_ns < self.since_ns + step[1] else None
        if what in (SIGNAL, WAIT, SYNC, TAKE, BARRIER):
            return self._meet(now_ns, step, part, result)
        if what == TIMER:
            return self._timer(now_ns, step, part)
        if part:
            return None
        if what == RUN:
            return (OP_BURN, step[1])
        if what == SLEEP:
            return (OP_SLEEP, min(now_ns + step[1], self.end_ns))
        if what == YIELD:
            return (OP_YIELD,)
        assert what == AFFINITY, f"no step {what!r}"
        return (OP_SETAFFINITY, step[1])

    def _meet(self, now_ns: int, step: list[Any], part: int, result: Any) -> Op | None:
        what = step[0]
        if what in (SIGNAL, SYNC):
            if part < len(step[1]):
                return (OP_PIPE_WRITE, step[1][part], now_ns)
            if what == SIGNAL:
                return None
            part -= len(step[1])
        elif what == BARRIER:
            if not part:
                return (OP_PIPE_WRITE, step[1], now_ns)
            return (OP_PIPE_READ, step[2]) if part == 1 else None
        # What was written before the wait began was meant for nobody.
        if part and (what == TAKE or result >= self.since_ns):
            return None
        pipes = step[-1]
        return (OP_PIPE_READ, pipes[0]) if len(pipes) == 1 else (OP_PIPE_POLL, pipes)

    def _timer(self, now_ns: int, step: list[Any], part: int) -> Op | None:
        _, slot, period_ns, absolute = step
        if part:
            if self.stats_from_ns <= now_ns < self.end_ns:
                self.tally.stats["wake_ns"].add(now_ns - self.due)
            return None
        self.due = self.timers[slot] = self.timers[slot] + period_ns
        if self.due > now_ns:
            return (OP_SLEEP, min(self.due, self.end_ns))
        self.tally.counts["missed"] += 1
        if not absolute:
            self.timers[slot] = now_ns
        return None

    # Whether there is a next step; loops and phases that are over are left.
    def _next_step(self, now_ns: int) -> bool:
        self.part = 0
        self.since_ns = now_ns
        self.step += 1
        if self.step == len(self.phases[self.phase][1]):
            self.step = 0
            self.rounds_left -= self.rounds_left > 0
            if not self.rounds_left:
                self.phase += 1
                if self.phase == len(self.phases) and not self._next_loop(now_ns):
                    return False
                self.rounds_left = self.phases[self.phase][0]
        return now_ns < self.end_ns

    def _next_loop(self, now_ns: int) -> bool:
        if now_ns >= self.stats_from_ns:
            self.tally.stats["round_ns"].add(now_ns - self.begun_ns)
            self.tally.counts["rounds"] += 1
        self.begun_ns = now_ns
        self.phase = 0
        self.loops_left -= self.loops_left > 0
        return bool(self.loops_left)

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        where = [self.loops_left, self.phase, self.rounds_left, self.step, self.part]
        times = [self.begun_ns, self.since_ns, self.due, list(self.timers)]
        return [self.name, self.config, where, times]

    @classmethod
    def unpack(cls, data: list[Any]) -> RtappProgram:
        """Rebuild what :meth:`pack` returned."""
        _, config, where, times = data
        task = cls(list(config))
        task.loops_left, task.phase, task.rounds_left, task.step, task.part = where
        task.begun_ns, task.since_ns, task.due, timers = times
        task.timers = list(timers)
        return task
