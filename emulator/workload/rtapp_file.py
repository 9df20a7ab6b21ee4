"""Reads rt-app's task files: JSON in, the steps of each task out, or every mistake with its place.

Theory of operation
-------------------
A task is a list of phases, each repeated ``loop`` times, all of them repeated ``loop`` times; a phase
is a list of events, told apart by how their names begin (``run``, ``run0``, ``run1``), in the order of
the file.  An event becomes a step (:mod:`emulator.workload.rtapp`)::

    run, runtime         CPU time in us; time on the clock in us
    sleep, timer         a relative sleep; the next multiple of a period
    suspend              until somebody resumes the task (or the name that is given)
    resume               wake all that are suspended on that name
    wait                 until somebody signals the condition; its mutex is free meanwhile
    signal, broad        wake one, or all, who wait for the condition
    sync                 signal, then wait, in one
    sem_wait, sem_post   of a semaphore, which remembers
    lock, unlock         of a mutex
    barrier              until the other task is there too
    yield                sched_yield()

What cannot be emulated is refused by name and place.  That is, besides events of memory and devices:
waking one of several tasks (which one would be the kernel's to know), a barrier of more than two, a
mutex over which tasks would have to wait for each other, a timer shared by tasks, a
policy or priority of a phase, real-time tasks that are allowed several CPUs.

``suspend`` waits for the name it is given, as rt-app 1.0 does; later ones ignore it and wait for the
task's own.  ``global``: ``duration`` (seconds) ends all tasks, ``default_policy`` is theirs;
calibration, logs and memory locks say nothing that an emulated run could show.
"""

from __future__ import annotations

from typing import Any

from emulator.types import NSEC_PER_SEC, NSEC_PER_USEC
from emulator.workload.fio_job import JobProblem
from emulator.workload.located_json import JsonError, Located, parse_json
from emulator.workload.rtapp import (
    AFFINITY,
    BARRIER,
    RUN,
    RUNTIME,
    SIGNAL,
    SLEEP,
    SYNC,
    TAKE,
    TIMER,
    WAIT,
    YIELD,
)
from emulator.workload.rtapp_meetings import CONDITION, SEMAPHORE, SUSPENSION, Meetings, RtTask

RTAPP_POLICIES = {
    "SCHED_OTHER": "normal",
    "SCHED_BATCH": "batch",
    "SCHED_IDLE": "idle",
    "SCHED_FIFO": "fifo",
    "SCHED_RR": "rr",
}
#: Of them the real-time ones, and the priority that rt-app gives these if the file does not.
REALTIME = ("fifo", "rr")
DEFAULT_RT_PRIORITY = 10
#: Keys of ``global`` that change nothing that is emulated.
GLOBAL_IGNORED = frozenset(
    {"calibration", "pi_enabled", "lock_pages", "logdir", "log_basename", "log_size", "ftrace"}
    | {"gnuplot", "frag", "cumulative_slack", "mem_buffer_size", "io_device"}
)
#: Events by how their names begin; the longer ones first, as rt-app looks for them.
EVENTS = (
    *("lock", "unlock", "wait", "signal", "broad", "sync", "sleep", "runtime", "run", "timer"),
    *("suspend", "resume", "memrun", "mem", "iorun", "yield", "barrier", "fork"),
    *("sem_post", "sem_wait"),
)
#: What rt-app has and is refused, and why: events, then keys of tasks and phases.
REFUSED = {
    "mem": "memory traffic is not emulated",
    "memrun": "memory traffic is not emulated",
    "iorun": "writing to a device is not emulated: use a fio job",
    "fork": "tasks that start tasks are not emulated",
    "taskgroup": "task groups are not emulated",
    "nodes_membind": "memory is not emulated",
    "util_min": "utilization clamps are not emulated",
    "util_max": "utilization clamps are not emulated",
    "dl-period": "deadline scheduling is not emulated",
    "dl-deadline": "deadline scheduling is not emulated",
}
#: Keys that a phase cannot have here, although a task can.
OF_TASKS = ("policy", "priority", "dl-runtime")
INSTANCES_MAX = 1024
USEC_MAX = 10**12
#: Events during which time goes by.
BUSY = frozenset({"run", "runtime", "sleep", "timer", "suspend", "barrier", "sem_wait"})

Event = tuple[Located, Located]


class RtappReader:
    """Reads one file.

    ``pipes`` is the number of the first pipe that it may use; ``cpus_allowed`` is the mask of tasks
    that name no CPUs, 0: all; ``custom_slice`` says whether the kernel has slices of a task's own.
    """

    def __init__(
        self, cpus: int, pipes: int = 0, cpus_allowed: int = 0, *, custom_slice: bool = True
    ) -> None:
        self.custom_slice = custom_slice
        self.every = (1 << cpus) - 1
        self.cpus_allowed = cpus_allowed or self.every
        self.tasks: list[RtTask] = []
        self.problems: list[JobProblem] = []
        self.policy = "normal"
        self.duration_ns = 0  #: of all tasks, 0: no end
        self.meetings = Meetings(pipes, self.refuse)
        self.timers: dict[str, RtTask] = {}  #: who has each timer that is not unique

    @property
    def pipes(self) -> int:
        """Return the number of the first pipe that is free."""
        return self.meetings.pipes

    def refuse(self, place: Located, name: str, message: str) -> None:
        """Note a mistake, once where several instances of a task make it."""
        problem = JobProblem(place.line, place.column, name, message)
        if problem not in self.problems:
            self.problems.append(problem)

    def read(self, text: str) -> None:
        """Read a file's text."""
        try:
            whole = parse_json(text)
        except JsonError as error:
            self.problems.append(JobProblem(error.line, error.column, "", str(error)))
            return
        tasks = whole.get("tasks")
        if tasks is None or not tasks.pairs:
            self.refuse(tasks or whole, "tasks", "the file needs tasks")
            return
        for key, value in whole.pairs:
            if key.value == "global":
                self.read_global(value)
            elif key.value not in ("tasks", "resources"):
                self.refuse(key, str(key.value), "rt-app has tasks, resources and global here")
        for key, value in tasks.pairs:
            self.read_task(key, value)
        self.meetings.conclude()

    # -- Values --

    def number(self, place: Located, name: str, low: int, high: int) -> int:
        """Return a whole number within bounds; else note it, and return the lower one."""
        value = place.value
        if isinstance(value, bool) or not isinstance(value, int):
            shown = value if isinstance(value, (str, float)) else "this"
            self.refuse(place, name, f"{shown!r} is not a whole number")
        elif not low <= value <= high:
            self.refuse(place, name, f"{value} is outside {low}..{high}")
        else:
            return value
        return low

    def usec(self, place: Located, name: str, low: int = 1) -> int:
        """Return a time in ns."""
        return self.number(place, name, low, USEC_MAX) * NSEC_PER_USEC

    def loop(self, place: Located) -> int:
        """Return how often something is repeated, -1 for ever."""
        times = self.number(place, "loop", -1, 10**9)
        if not times:
            self.refuse(place, "loop", "0 is neither a number of times nor -1")
        return times

    def text(self, place: Located | None, at: Located, name: str) -> str:
        """Return a name; else note it."""
        if place is not None and isinstance(place.value, str) and place.value:
            return place.value
        self.refuse(place or at, name, "needs a name here")
        return ""

    def policy_of(self, place: Located) -> str:
        """Return the policy of tasks."""
        if isinstance(place.value, str) and place.value in RTAPP_POLICIES:
            return RTAPP_POLICIES[place.value]
        known = ", ".join(RTAPP_POLICIES)
        self.refuse(place, "policy", f"{place.value!r} is not emulated; there are {known}")
        return "normal"

    def cpus_of(self, place: Located) -> int:
        """Return a list of CPUs as a mask."""
        mask = 0
        for item in place.items:
            cpu = self.number(item, "cpus", 0, 1 << 16)
            if not self.every >> cpu & 1:
                self.refuse(item, "cpus", f"there is no CPU {cpu}")
                cpu = 0
            mask |= 1 << cpu
        if not mask:
            self.refuse(place, "cpus", "needs a list of CPUs, such as [0, 1]")
        return mask

    # -- The file --

    def read_global(self, place: Located) -> None:
        """Read what holds for all tasks."""
        for key, value in place.pairs:
            if key.value == "duration":
                seconds = self.number(value, "duration", -1, 10**6)
                if not seconds:
                    self.refuse(value, "duration", "0 is neither a time nor -1")
                self.duration_ns = max(0, seconds) * NSEC_PER_SEC
            elif key.value == "default_policy":
                self.policy = self.policy_of(value)
            elif key.value not in GLOBAL_IGNORED:
                self.refuse(key, str(key.value), "rt-app has no such global key")

    def read_task(self, key: Located, place: Located) -> None:
        """Read a task: one, or as many as it has instances."""
        found = place.get("instance")
        count = 1 if found is None else self.number(found, "instance", 0, INSTANCES_MAX)
        for _ in range(count):
            self.read_instance(key, place)

    def read_instance(self, key: Located, place: Located) -> None:
        """Read one instance of a task."""
        task = RtTask(self.text(key, key, "tasks"), key, policy=self.policy)
        priority: Located | None = None
        self.tasks.append(task)
        events: list[Event] = []
        for name, value in place.pairs:
            match name.value:
                case "instance" | "phases":
                    pass
                case "loop":
                    task.loop = self.loop(value)
                case "policy":
                    task.policy = self.policy_of(value)
                case "priority":
                    priority = value
                case "dl-runtime":
                    task.slice_ns = self.usec(value, "dl-runtime")
                    if not self.custom_slice:
                        self.refuse(name, "dl-runtime", "this kernel has no slices of a task's own")
                case "cpus":
                    task.cpus = self.cpus_of(value)
                case "delay":
                    task.delay_ns = self.usec(value, "delay", 0)
                case _:
                    events.append((name, value))
        self.set_priority(task, priority)
        phases = place.get("phases")
        if phases is None:
            self.read_phase(task, key, events, 1)
        elif events:
            name, _ = events[0]
            self.refuse(name, str(name.value), "a task with phases has its events in them")
        for name, value in phases.pairs if phases else ():
            self.read_phase_object(task, name, value)
        self.set_affinities(task)
        self.check_realtime(task)
        kinds = {step[0] for _, steps in task.phases for step in steps}
        if kinds and kinds <= {SIGNAL, AFFINITY}:
            self.refuse(key, task.name, "the task never runs, sleeps or waits")

    def set_priority(self, task: RtTask, place: Located | None) -> None:
        """Take a task's priority: its nice level or, of a real-time policy, 1 to 99."""
        if task.policy not in REALTIME:
            task.nice = 0 if place is None else self.number(place, "priority", -20, 19)
        elif place is None:
            task.rt_priority = DEFAULT_RT_PRIORITY
        else:
            task.rt_priority = self.number(place, "priority", 1, 99)

    def check_realtime(self, task: RtTask) -> None:
        """Refuse a real-time task that may use several CPUs, now or in a phase."""
        masks = [task.cpus or self.cpus_allowed, *filter(None, task.phase_cpus)]
        if task.policy in REALTIME and any(mask.bit_count() > 1 for mask in masks):
            text = "a real-time task needs cpus with one CPU (pushing and pulling is not emulated)"
            self.refuse(task.place, "policy", text)

    def read_phase_object(self, task: RtTask, key: Located, place: Located) -> None:
        """Read a phase of a task that has several."""
        loop, cpus = 1, 0
        events: list[Event] = []
        for name, value in place.pairs:
            if name.value == "loop":
                loop = self.loop(value)
            elif name.value == "cpus":
                cpus = self.cpus_of(value)
            elif name.value in OF_TASKS:
                message = f"a phase with a {name.value} of its own is not emulated"
                self.refuse(name, str(name.value), message)
            else:
                events.append((name, value))
        self.read_phase(task, key, events, loop, cpus)

    def read_phase(
        self, task: RtTask, place: Located, events: list[Event], loop: int, cpus: int = 0
    ) -> None:
        """Add one phase to a task."""
        steps: list[list[Any]] = []
        held: dict[str, Located] = {}
        for key, value in events:
            name = str(key.value)
            kind = event_kind(name)
            if (kind or name) in REFUSED:
                self.refuse(key, name, REFUSED[kind or name])
            elif kind is None:
                self.refuse(key, name, "rt-app has no such event, nor has a task or phase this key")
            elif kind in ("lock", "unlock"):
                self.read_lock(task, kind, key, value, held)
            else:
                steps.append(self.read_event(task, kind, key, value))
                for mutex, taken in held.items() if kind in BUSY else ():
                    self.meetings.lock(mutex, task, taken, busy=True)
        if not events:
            self.refuse(place, str(place.value), "has no events")
        task.phases.append([loop, steps])
        task.phase_cpus.append(cpus)

    # A phase that runs on other CPUs than the one before it begins with a system call of its own.
    def set_affinities(self, task: RtTask) -> None:
        """Insert the changes of affinity of a task whose phases have CPUs of their own."""
        if not any(task.phase_cpus):
            return
        phases: list[list[Any]] = []
        masks = [cpus or task.cpus or self.cpus_allowed for cpus in task.phase_cpus]
        for index, phase in enumerate(task.phases):
            if masks[index] != masks[index - 1]:
                phases.append([1, [[AFFINITY, masks[index]]]])
            phases.append(phase)
        task.phases = phases
        task.cpus = masks[0]

    def read_lock(
        self, task: RtTask, kind: str, key: Located, value: Located, held: dict[str, Located]
    ) -> None:
        """Note which mutexes a task holds."""
        mutex = self.text(value, key, kind)
        if kind == "lock":
            held[mutex] = key
            self.meetings.lock(mutex, task, key, busy=False)
        elif held.pop(mutex, None) is None:
            self.refuse(key, kind, f"the task does not hold {mutex} here")

    # -- Events --

    def read_event(self, task: RtTask, kind: str, key: Located, value: Located) -> list[Any]:
        """Return the step of one event."""
        match kind:
            case "run":
                return [RUN, self.usec(value, kind)]
            case "runtime":
                return [RUNTIME, self.usec(value, kind)]
            case "sleep":
                return [SLEEP, self.usec(value, kind, 0)]
            case "timer":
                return self.timer(task, key, value)
            case "yield":
                return [YIELD]
            case "barrier":
                step: list[Any] = [BARRIER]
                self.meetings.barrier(self.text(value, key, kind), task, key, step)
                return step
        return self.meet(task, kind, key, value)

    def meet(self, task: RtTask, kind: str, key: Located, value: Located) -> list[Any]:
        """Return the step of an event that waits for other tasks, or wakes them."""
        meetings = self.meetings
        if kind == "suspend":
            name = task.name if value.value == "" else self.text(value, key, kind)
            return [WAIT, meetings.waits(SUSPENSION, name, task, key)]
        if kind in ("wait", "sync"):
            name = self.text(value.get("ref"), value, kind)
            waits = meetings.waits(CONDITION, name, task, key)
            if kind == "wait":
                return [WAIT, waits]
            return [SYNC, meetings.wakes(CONDITION, name, task, key, one=True), waits]
        name = self.text(value, key, kind)
        if kind == "sem_wait":
            return [TAKE, meetings.waits(SEMAPHORE, name, task, key)]
        what = {"resume": SUSPENSION, "sem_post": SEMAPHORE}.get(kind, CONDITION)
        one = kind in ("signal", "sem_post")
        return [SIGNAL, meetings.wakes(what, name, task, key, one=one)]

    def timer(self, task: RtTask, key: Located, value: Located) -> list[Any]:
        """Return the step of a timer; one that is not ``unique…`` belongs to one task here."""
        period, mode = value.get("period"), value.get("mode")
        name = self.text(value.get("ref"), value, "timer")
        if period is None:
            self.refuse(value, "timer", "needs a period")
            return [TIMER, 0, 1, False]
        if mode is not None and mode.value not in ("absolute", "relative"):
            self.refuse(mode, "timer", "mode is absolute or relative")
        if not name.startswith("unique") and self.timers.setdefault(name, task) is not task:
            who = self.timers[name].name
            why = "its instances share it" if who == task.name else f"task {who} has it too"
            self.refuse(key, "timer", f'{name}: {why}, which is not emulated: say "ref": "unique"')
        slot = task.timers.setdefault(name, len(task.timers))
        absolute = mode is not None and mode.value == "absolute"
        return [TIMER, slot, self.usec(period, "timer"), absolute]


def event_kind(name: str) -> str | None:
    """Return which event a key begins with, as rt-app tells them apart; None if it is none."""
    return next((kind for kind in EVENTS if name.startswith(kind)), None)
