"""Which tasks of rt-app wake which: the pipes between those that name the same thing.

Theory of operation
-------------------
A name is a condition, a suspended task, a semaphore, a barrier or a mutex.  Steps that wait for a name
and steps that wake who waits for it are collected while the file is read; when all are known, there
is a pipe from every task that wakes to every other one that waits, and the steps get their pipes.

A mutex is taken without cost or contention.  So one that is held while its task runs or sleeps is
refused if another task takes it too; the usual use, around ``wait`` and ``signal``, is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from emulator.workload.located_json import Located

CONDITION = "condition"
SUSPENSION = "suspension"
SEMAPHORE = "semaphore"
#: How to say that somebody wakes.
_VERBS = {CONDITION: "signals", SUSPENSION: "resumes", SEMAPHORE: "posts"}


@dataclass(slots=True)
class RtTask:
    """One instance of a task: what it is called, where it may run, what it does."""

    name: str
    place: Located
    nice: int = 0
    policy: str = "normal"
    rt_priority: int = 0
    cpus: int = 0  #: mask, 0: those of the box's workload
    slice_ns: int = 0
    delay_ns: int = 0
    loop: int = -1
    #: [times, steps] of each phase; a step is [what, arguments …], see rtapp.
    phases: list[list[Any]] = field(default_factory=list)
    #: Mask of each phase, 0: the task's.
    phase_cpus: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    timers: dict[str, int] = field(default_factory=dict)  #: slots by name


@dataclass(frozen=True, slots=True)
class _Step:
    """A step that waits or wakes; ``pipes`` is what it lacks."""

    task: RtTask
    place: Located
    pipes: list[int]
    one: bool = False  #: it wakes one of those who wait, not all


@dataclass(slots=True)
class _Meeting:
    waits: list[_Step] = field(default_factory=list)
    wakes: list[_Step] = field(default_factory=list)


class Meetings:
    """All names of one file; ``pipes`` is the number of the next pipe."""

    def __init__(self, pipes: int, refuse: Callable[[Located, str, str], None]) -> None:
        self.pipes = pipes
        self.refuse = refuse
        self.met: dict[tuple[str, str], _Meeting] = {}
        self.barriers: dict[str, list[tuple[RtTask, list[Any], Located]]] = {}
        self.locks: dict[str, list[tuple[RtTask, Located, bool]]] = {}

    def waits(self, kind: str, name: str, task: RtTask, place: Located) -> list[int]:
        """Note that a task waits for a name; return the list that will be its pipes."""
        step = _Step(task, place, [])
        self.met.setdefault((kind, name), _Meeting()).waits.append(step)
        return step.pipes

    def wakes(self, kind: str, name: str, task: RtTask, place: Located, *, one: bool) -> list[int]:
        """Note that a task wakes one or all who wait for a name; return its pipes to be."""
        step = _Step(task, place, [], one)
        self.met.setdefault((kind, name), _Meeting()).wakes.append(step)
        return step.pipes

    def barrier(self, name: str, task: RtTask, place: Located, step: list[Any]) -> None:
        """Note that a task comes to a barrier; its step is completed later."""
        self.barriers.setdefault(name, []).append((task, step, place))

    def lock(self, name: str, task: RtTask, place: Located, *, busy: bool) -> None:
        """Note that a task takes a mutex, or that it runs or sleeps while it holds it."""
        self.locks.setdefault(name, []).append((task, place, busy))

    def conclude(self) -> None:
        """All tasks are known: make the pipes, or say what cannot be."""
        for (kind, name), meeting in self.met.items():
            self._connect(kind, name, meeting)
        for name, parties in self.barriers.items():
            self._join(name, parties)
        for name, holders in self.locks.items():
            self._check_lock(name, holders)

    def _connect(self, kind: str, name: str, meeting: _Meeting) -> None:
        waiters = _tasks([step.task for step in meeting.waits])
        wakers = _tasks([step.task for step in meeting.wakes])
        pipes: dict[tuple[int, int], int] = {}
        for step in meeting.wakes:
            others = [task for task in waiters if task is not step.task]
            if not others:
                who = "nobody else" if waiters else "nobody"
                self.refuse(step.place, kind, f"{who} waits for {name}")
            elif step.one and len(others) > 1:
                message = f"wakes one of {len(others)} tasks that wait for {name}: not emulated"
                self.refuse(step.place, kind, message)
            else:
                step.pipes.extend(self._pipe(pipes, step.task, task) for task in others)
        for step in meeting.waits:
            others = [task for task in wakers if task is not step.task]
            if not others:
                who = "nobody else" if wakers else "nobody"
                self.refuse(step.place, kind, f"{who} {_VERBS[kind]} {name}")
            else:
                step.pipes.extend(self._pipe(pipes, task, step.task) for task in others)

    # The pipe from one task to another, made if it is not there.
    def _pipe(self, pipes: dict[tuple[int, int], int], writer: RtTask, reader: RtTask) -> int:
        ends = (id(writer), id(reader))
        if ends not in pipes:
            pipes[ends] = self.pipes
            writer.writes.append(self.pipes)
            reader.reads.append(self.pipes)
            self.pipes += 1
        return pipes[ends]

    # A barrier: one pipe there, one back.
    def _join(self, name: str, parties: list[tuple[RtTask, list[Any], Located]]) -> None:
        tasks = _tasks([task for task, _, _ in parties])
        if len(tasks) != 2 or len(parties) != 2:
            many = f"{len(parties)} times by {len(tasks)} tasks"
            message = f"{name} is named {many}: only a barrier named once by two is emulated"
            self.refuse(parties[0][2], "barrier", message)
            return
        first, second = tasks
        pipes: dict[tuple[int, int], int] = {}
        there, back = self._pipe(pipes, first, second), self._pipe(pipes, second, first)
        for task, step, _ in parties:
            step += [there, back] if task is first else [back, there]

    def _check_lock(self, name: str, holders: list[tuple[RtTask, Located, bool]]) -> None:
        busy = [place for _, place, runs in holders if runs]
        if busy and len(_tasks([task for task, _, _ in holders])) > 1:
            message = f"{name} is held while the task runs or sleeps, and another takes it too"
            self.refuse(busy[0], "lock", f"{message}: not emulated")


def _tasks(tasks: list[RtTask]) -> list[RtTask]:
    return list({id(task): task for task in tasks}.values())
