"""A task that goes round a short list of steps: the tasks of ``pingpong``, ``xwake`` and ``fanout``.

Theory of operation
-------------------
The steps are ``[what, argument]``: burn CPU time, sleep until the next period, write to a pipe, read
from one.  What is written is the time of the write, so whoever reads it knows how long the way to
user space took it: its wake latency, if it had to wait.  The time of one round is kept too.  After
``rounds`` rounds the task exits; 0 means never.  It may bind itself to a CPU first (``bind_cpu``).  Three programs of a box consist of such tasks
(:data:`TEAMS`); they are the small programs of the measured cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from emulator.types import (
    OP_BURN,
    OP_EXIT,
    OP_PIPE_READ,
    OP_PIPE_WRITE,
    OP_SETAFFINITY,
    OP_SLEEP,
    Op,
)
from emulator.workload.params import Setting, check_params
from emulator.workload.tally import Tallied

RUN = "run"  #: burn so many ns
PERIOD = "period"  #: sleep until the next multiple of so many ns after the first round's begin
WRITE = "write"  #: write the time to this pipe
READ = "read"  #: read from this pipe

#: ``reads`` and ``writes`` are the pipes among the steps, for who makes them.
LOOP_PARAMS: dict[str, Any] = {
    "steps": None,
    "rounds": 0,
    "bind_cpu": -1,
    "reads": [],
    "writes": [],
    "stats_from_ns": 0,
}


class LoopProgram(Tallied):
    """Goes round its steps and keeps wake latencies and the time of a round."""

    name = "loop"
    counts = ("rounds",)
    times = ("wake_ns", "round_ns")
    aio_events = 0

    __slots__ = (
        "at",
        "begun_ns",
        "bind_cpu",
        "due_ns",
        "rounds_left",
        "stats_from_ns",
        "steps",
    )

    def __init__(
        self, steps: list[list[Any]], rounds: int, stats_from_ns: int, bind_cpu: int = -1
    ) -> None:
        if not steps:
            raise ValueError("loop needs steps")
        self.steps = steps
        self.rounds_left = rounds or -1  #: negative: no end
        self.stats_from_ns = stats_from_ns
        self.bind_cpu = bind_cpu  #: -1: none, or done
        self.at = -1  #: the step that returns next, -1: none has been taken
        self.begun_ns = 0  #: when this round began
        self.due_ns = -1  #: begin of the period under way
        super().__init__()

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> LoopProgram:
        """Build the task from its parameters, :data:`LOOP_PARAMS`."""
        option = check_params(cls.name, params, LOOP_PARAMS)
        steps = [list(step) for step in option["steps"]]
        return cls(steps, option["rounds"], option["stats_from_ns"], option["bind_cpu"])

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next step."""
        if self.bind_cpu >= 0:
            bind_cpu, self.bind_cpu = self.bind_cpu, -1
            return (OP_SETAFFINITY, 1 << bind_cpu)
        if self.at < 0:
            self.begun_ns = self.due_ns = now_ns
        else:
            if self.steps[self.at][0] == READ and now_ns >= self.stats_from_ns:
                self.tally.stats["wake_ns"].add(now_ns - result)
            if self.at == len(self.steps) - 1 and not self._next_round(now_ns):
                return (OP_EXIT,)
        self.at = (self.at + 1) % len(self.steps)
        what, argument = self.steps[self.at]
        if what == RUN:
            return (OP_BURN, argument)
        if what == PERIOD:
            self.due_ns += argument
            return (OP_SLEEP, self.due_ns)
        if what == WRITE:
            return (OP_PIPE_WRITE, argument, now_ns)
        assert what == READ, f"no step {what!r}"
        return (OP_PIPE_READ, argument)

    # Whether there is a further round.
    def _next_round(self, now_ns: int) -> bool:
        if now_ns >= self.stats_from_ns:
            self.tally.stats["round_ns"].add(now_ns - self.begun_ns)
            self.tally.counts["rounds"] += 1
        self.begun_ns = now_ns
        self.rounds_left -= self.rounds_left > 0
        return bool(self.rounds_left)

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        progress = [self.rounds_left, self.at, self.begun_ns, self.due_ns, self.bind_cpu]
        return [self.name, self.steps, self.stats_from_ns, progress]

    @classmethod
    def unpack(cls, data: list[Any]) -> LoopProgram:
        """Rebuild what :meth:`pack` returned."""
        _, steps, stats_from_ns, progress = data
        task = cls(steps, 0, stats_from_ns)
        task.rounds_left, task.at, task.begun_ns, task.due_ns, task.bind_cpu = progress
        return task


# -- Teams ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """One task of a team: its name, the CPU that it binds itself to (-1: none), what it does."""

    comm: str
    cpu: int
    steps: list[list[Any]]
    rounds: int = 0

    def params(self) -> dict[str, Any]:
        """Return the parameters of the member's program."""
        return {
            "steps": self.steps,
            "rounds": self.rounds,
            "bind_cpu": self.cpu,
            "reads": [argument for what, argument in self.steps if what == READ],
            "writes": [argument for what, argument in self.steps if what == WRITE],
        }


#: Parameters of the teams; CPUs: -1 is any.
PINGPONG_PARAMS: dict[str, Any] = {"rounds": 0, "ping_cpu": -1, "pong_cpu": -1}
XWAKE_PARAMS: dict[str, Any] = {"rounds": 0, "waker_cpu": -1, "wakee_cpu": -1, "gap_ns": None}
FANOUT_PARAMS: dict[str, Any] = {"workers": None, "period_ns": None, "work_ns": None}


def pingpong(option: dict[str, Any], pipe: int) -> Iterator[Member]:
    """Two tasks exchange a number through two pipes."""
    rounds, there, back = option["rounds"], pipe, pipe + 1
    yield Member("ping", option["ping_cpu"], [[WRITE, there], [READ, back]], rounds)
    yield Member("pong", option["pong_cpu"], [[READ, there], [WRITE, back]], rounds)


def xwake(option: dict[str, Any], pipe: int) -> Iterator[Member]:
    """One task burns ``gap_ns``, then wakes the other through a pipe."""
    steps = [[RUN, option["gap_ns"]], [WRITE, pipe]]
    yield Member("waker", option["waker_cpu"], steps, option["rounds"])
    yield Member("wakee", option["wakee_cpu"], [[READ, pipe]], option["rounds"])


def fanout(option: dict[str, Any], pipe: int) -> Iterator[Member]:
    """A messenger wakes every worker each ``period_ns``; a worker burns ``work_ns``."""
    pipes = range(pipe, pipe + option["workers"])
    yield Member("messenger", -1, [[PERIOD, option["period_ns"]], *([WRITE, one] for one in pipes)])
    for one in pipes:
        yield Member("worker", -1, [[READ, one], [RUN, option["work_ns"]]])


#: Programs of a box that are several tasks, and how many pipes they may need at most.
TEAMS = {"pingpong": pingpong, "xwake": xwake, "fanout": fanout}
