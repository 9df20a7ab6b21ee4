"""A tag map against any order of events: every tag comes back, no waiter is forgotten.

CPUs here are the least that the protocol allows: each has a lease, requests in flight, and tasks that
stand still or sleep; messages between a CPU and the map arrive in order, at any time.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emulator import messages
from emulator.device.tagmap import TagMap
from emulator.tags import ALONE, FREED, LEASED, RECALLED, SHARED, SbitmapQueue

#: (CPU, pid, cause) of who frees.
WAKER_PID = 7


class ModelCpu:
    """What a CPU keeps of a map."""

    def __init__(self, lease: int) -> None:
        self.lease = lease
        self.mode = LEASED
        self.in_flight = 0  # requests with a tag of this CPU's lease
        self.standing = 0  # the task that waits for the answer
        self.alone: list[int] = []  # tasks that sleep here
        self.early: list[int] = []  # woken before they slept


class TagMachine(RuleBasedStateMachine):
    """CPUs, the map, and the messages between them."""

    @initialize(depth=st.integers(1, 12), nr_cpus=st.integers(1, 4), new=st.booleans())
    def start(self, depth: int, nr_cpus: int, new: bool) -> None:
        self.depth = depth
        self.to_cpu: list[list[tuple[int, tuple[Any, ...]]]] = [[] for _ in range(nr_cpus)]
        self.to_map: list[list[tuple[Any, ...]]] = [[] for _ in range(nr_cpus)]
        self.map = TagMap(self.say, list(range(nr_cpus)), depth, new)
        self.cpus = [ModelCpu(self.map.leased[cpu]) for cpu in range(nr_cpus)]
        self.sbq = [SbitmapQueue(depth, new) for _ in self.cpus]
        self.asleep: dict[int, int] = {}  # pid -> CPU
        self.pids = 0

    def say(self, cpu: int, op: int, args: tuple[Any, ...]) -> None:
        self.to_cpu[cpu].append((op, args))

    def free_cpu(self, number: int) -> int | None:
        """Return a CPU on which no task stands still."""
        for step in range(len(self.cpus)):
            cpu = (number + step) % len(self.cpus)
            if not self.cpus[cpu].standing:
                return cpu
        return None

    # -- What CPUs do -----------------------------------------------------------------------------

    def attempt(self, cpu: int, pid: int) -> None:
        """A task tries to get a tag on a CPU."""
        one = self.cpus[cpu]
        if one.lease:
            one.lease -= 1
            one.in_flight += 1
        elif one.mode == ALONE:
            self.sleep(cpu, pid)
            self.sbq[cpu].wait(pid)
        else:
            one.standing = pid
            self.to_map[cpu].append(("request", 2, pid))

    def sleep(self, cpu: int, pid: int) -> None:
        one = self.cpus[cpu]
        if pid in one.early:
            one.early.remove(pid)
            self.attempt(cpu, pid)
        else:
            self.asleep[pid] = cpu

    @rule(number=st.integers(0, 3))
    def submit(self, number: int) -> None:
        """A new task wants a tag."""
        cpu = self.free_cpu(number)
        if cpu is not None:
            self.pids += 1
            self.attempt(cpu, self.pids)

    @rule(number=st.integers(0, 3))
    def complete(self, number: int) -> None:
        """A request ends on the CPU that it is of."""
        busy = [cpu for cpu, one in enumerate(self.cpus) if one.in_flight]
        if not busy:
            return
        cpu = busy[number % len(busy)]
        one = self.cpus[cpu]
        one.in_flight -= 1
        if one.mode == SHARED:
            self.give_back(cpu, 1, FREED)
            return
        one.lease += 1
        for pid in self.sbq[cpu].free():
            self.wake(cpu, pid)

    def give_back(self, cpu: int, nr: int, why: int, waiters: Any = ()) -> None:
        self.to_map[cpu].append(("return", nr, why, waiters))

    def wake(self, cpu: int, pid: int) -> None:
        """A task is woken and tries again where nobody stands still; else it is left asleep there."""
        if pid in self.asleep:
            del self.asleep[pid]
            self.ready(cpu, pid)
        else:
            self.cpus[cpu].early.append(pid)

    def ready(self, cpu: int, pid: int) -> None:
        place = self.free_cpu(cpu)
        if place is None:
            self.cpus[cpu].alone.append(pid)  # it runs when somebody has been answered
        else:
            self.attempt(place, pid)

    # -- Messages ---------------------------------------------------------------------------------

    @rule(number=st.integers(0, 3))
    def map_hears(self, number: int) -> None:
        """The oldest message of a CPU reaches the map."""
        waiting = [cpu for cpu, box in enumerate(self.to_map) if box]
        if not waiting:
            return
        cpu = waiting[number % len(waiting)]
        kind, *args = self.to_map[cpu].pop(0)
        if kind == "request":
            self.map.request(cpu, args[0], True, args[1])
        else:
            nr, why, waiters = args
            self.map.returned(nr, cpu, why, waiters, False, (cpu, WAKER_PID, 0))

    @rule(number=st.integers(0, 3))
    def cpu_hears(self, number: int) -> None:
        """The oldest message to a CPU reaches it."""
        waiting = [cpu for cpu, box in enumerate(self.to_cpu) if box]
        if not waiting:
            return
        cpu = waiting[number % len(waiting)]
        one = self.cpus[cpu]
        op, args = self.to_cpu[cpu].pop(0)
        if op == messages.TAG_RECALL:
            (one.mode,) = args
            nr, one.lease = one.lease, 0
            waiters = self.sbq[cpu].take() if self.sbq[cpu].ws_active else []
            self.give_back(cpu, nr, RECALLED, waiters)
        elif op == messages.TAG_WAKE:
            self.wake(cpu, args[0])
        else:
            self.granted(cpu, *args[:3])
        for other, one in enumerate(self.cpus):
            if one.alone and self.free_cpu(other) is not None:
                self.ready(other, one.alone.pop(0))

    def granted(self, cpu: int, nr: int, mode: int, must: int) -> None:
        one = self.cpus[cpu]
        one.lease += nr
        one.mode = mode
        if not must:
            self.give_up(cpu)
            return
        pid, one.standing = one.standing, 0
        assert pid, "an answer that nobody stands still for"
        if nr or mode == ALONE:
            self.attempt(cpu, pid)
        else:
            self.sleep(cpu, pid)

    def give_up(self, cpu: int) -> None:
        one = self.cpus[cpu]
        if one.mode == SHARED and one.lease:
            self.give_back(cpu, one.lease, FREED)
            one.lease = 0

    # -- What must hold ---------------------------------------------------------------------------

    @invariant()
    @precondition(lambda self: hasattr(self, "map"))
    def every_tag_is_somewhere(self) -> None:
        on_the_way = sum(m[1] for box in self.to_map for m in box if m[0] == "return")
        granted = sum(
            args[0] for box in self.to_cpu for op, args in box if op == messages.TAG_GRANT
        )
        held = sum(one.lease + one.in_flight for one in self.cpus)
        assert self.map.free + on_the_way + granted + held == self.depth

    def teardown(self) -> None:
        """Let everything end: then nobody is left waiting, and no tag is in use."""
        if not hasattr(self, "map"):
            return
        for _ in range(10_000):
            if any(self.to_map):
                self.map_hears(0)
            elif any(self.to_cpu):
                self.cpu_hears(0)
            elif any(one.in_flight for one in self.cpus):
                self.complete(0)
            else:
                break
        assert not self.asleep
        assert not any(one.standing or one.alone for one in self.cpus)
        assert self.map.free + sum(one.lease for one in self.cpus) == self.depth
        assert not self.map.sbq.ws_active


TagMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
TestTagMachine = TagMachine.TestCase
