"""A machine whose CPUs take turns on one host thread, as under QEMU with instruction counting.

Theory of operation
-------------------
One CPU that is not halted holds the host and executes; time goes by for all, but a CPU without the
host makes no progress: what it was executing has as much left when it gets the host as when it
lost it, and its due timers wait.  The holder gives the host up

* when it halts,
* when a timer of any CPU expires,
* when it arms a timer earlier than all that are pending,
* when its slice is over: the time until the next timer of any CPU, divided by the number of CPUs.

The next holder is the next CPU in order that is not halted or has a timer due. The slice is
reckoned when a round begins, with the lowest CPU, and holds for the round. But a timer that
expires, or that is armed earlier than all, *kicks* every CPU: the kicked ones are not let in
without a new look at the clock, so for each of them, once, the slice is reckoned anew
(``_kicked``). So of CPUs whose ticks fall together each gets its slice of what is left until the
next tick, not of the instant in which no timer was pending. While nobody else wants the host,
giving it up at the end of a slice changes nothing, so the slices are counted only once somebody
does (:meth:`TurnsBox._count_slices`). A disk has no timers here: its completions are known ahead.

With ``turn_ns`` there is one timer more, which interrupts no CPU: it keeps the slices short where
several CPUs are busy. Some of the measurements had such a one.

The rules are those of ``rr_cpu_thread_fn()`` and ``icount_percpu_budget()``, QEMU 10.0. Departure:
timers expire at the very nanosecond. There each is rounded to a step of 16 ns of its CPU's local
timer, from when it was programmed; so of two for one instant the one armed later may be the earlier
one. Here :func:`timer_early_ns` says by how much a CPU's timer comes before what it is programmed
for, when such two are compared: a draw for each, since it hangs on the very instruction that armed it.

A message makes no turn.  What it does to a runqueue it does at its stamp, host or no host; an
interrupt that it raises waits for the host.

CPUs that can take turns offer a little more than other nodes: :class:`TurnCpu`.  This engine is for
comparison with measurements taken that way; no box of processes can do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

from emulator.engine.board import HistoryBoard
from emulator.engine.inline import InlineBox, OnProgress, RunOutcome, run_box
from emulator.engine.node import Latencies, Node
from emulator.engine.plan import Plan
from emulator.seeds import seed_stream
from emulator.types import NEVER

#: The longest time that the emulator lets pass until it looks again (``TCG_KICK_PERIOD``).
DEADLINE_MAX_NS = 100_000_000

#: A step of a CPU's local timer.
TIMER_STEP_NS = 16
TIMER_STREAM = 3


class TurnCpu(Node, Protocol):
    """A CPU that can be without the host."""

    now: int  #: the time of its last event
    #: Set by the engine while the CPU holds the host, else -1: arming a timer for an earlier time
    #: ends :meth:`advance` after that event, and so does halting (unless this is -1).
    timer_watch_ns: int

    def is_halted(self) -> bool:
        """Return whether it has nothing to execute: only a timer or a message will end that."""
        ...

    def next_timer_ns(self) -> int:
        """Return the expiry of its earliest timer, or NEVER."""
        ...

    def stall(self, now_ns: int) -> None:
        """Take the host away: only messages count in :meth:`next_event_ns` from now on."""
        ...

    def resume(self, now_ns: int) -> None:
        """Give the host back: what it executed goes on with the time it had left."""
        ...


def run_turns(
    plan: Plan,
    on_progress: OnProgress | None = None,
    *,
    strict: bool = False,
    turn_ns: int = 0,
    seed: int = 0,
) -> RunOutcome:
    """Build and run a box whose CPUs take turns, in this process."""

    def make_box(
        nodes: list[Node], nr_cpus: int, boards: list[HistoryBoard], latencies: Latencies
    ) -> TurnsBox:
        box = TurnsBox(nodes, nr_cpus, boards, latencies)
        box.turn_ns = turn_ns
        box.timer_seed = seed_stream(seed, TIMER_STREAM)
        return box

    return run_box(plan, make_box, on_progress, strict=strict)


def timer_early_ns(timer_seed: int, cpu: int, timer_ns: int) -> int:
    """Return by how much the rounding lets a CPU's timer for ``timer_ns`` expire early, in ns."""
    return seed_stream(timer_seed, cpu, timer_ns) % TIMER_STEP_NS


class TurnsBox(InlineBox):
    """The in-process box with one host thread for all CPUs."""

    __slots__ = (
        "_alone",
        "_cpus",
        "_deadline_cpu",
        "_deadline_ns",
        "_holder",
        "_kicked",
        "_last",
        "_round_ns",
        "_slice_end_ns",
        "_slice_ns",
        "handovers",
        "timer_seed",
        "turn_ns",
    )

    def __init__(
        self,
        nodes: Sequence[Node],
        nr_cpus: int,
        boards: Sequence[HistoryBoard],
        latencies: Latencies,
    ) -> None:
        self._cpus = [cast(TurnCpu, node) for node in nodes[:nr_cpus]]
        self._holder = -1  # the CPU that has the host
        self._last = nr_cpus - 1  # the one that had it last: the search begins after it
        self._kicked = 0  # CPUs for which the slice must be reckoned anew
        self._slice_end_ns = 0
        self._slice_ns = 1  # of this round, or since a kick
        self._round_ns = 0  # when that slice was reckoned
        self._alone = False  # nobody but the holder wants the host
        self._deadline_ns = 0
        self._deadline_cpu = -1  # whose timer that is, -1: no CPU's
        self.handovers = 0
        self.turn_ns = 0  #: period of a timer beside the CPUs' own, 0: none
        self.timer_seed = 0
        for cpu in self._cpus:
            cpu.timer_watch_ns = -1
            cpu.stall(0)
        super().__init__(nodes, nr_cpus, boards, latencies)

    def _run_to(self, pause_ns: int) -> None:
        now = self.now_ns
        while now < pause_ns:
            if self._holder < 0:
                self._take_host(now)
            now = self._run_some(now, pause_ns)

    def _run_some(self, now_ns: int, pause_ns: int) -> int:
        # One stretch until the host may have to change hands; returns the time then.
        times = self._times
        event_ns = min(times)
        stop_ns = self._stop_ns(now_ns)
        if min(event_ns, pause_ns) >= stop_ns:
            self._release_host(stop_ns)
            return stop_ns
        if event_ns >= pause_ns:
            return pause_ns
        position = self._urgent if self._urgent >= 0 else times.index(event_ns)
        urgent, self._urgent = position == self._urgent, -1
        times[position] = NEVER
        bound = min(times)
        if bound < stop_ns and (urgent or position < times.index(bound)):
            bound += 1
        node = self._nodes[position]
        # A message is handled by itself: it may make a halted CPU want the host.
        self._turn(node, event_ns, min(bound, stop_ns, pause_ns))
        times[position] = node.next_event_ns()
        return self._after(node, max(now_ns, event_ns))

    def _stop_ns(self, now_ns: int) -> int:
        # When the host changes hands at the latest.
        if self._holder >= 0:
            return min(self._slice_end_ns, self._deadline_ns)
        # Nobody wants it now; a timer will.
        return max(now_ns, min(cpu.next_timer_ns() for cpu in self._cpus))

    def _after(self, node: Node, now_ns: int) -> int:
        # The node has run: does it still want the host, and what time is it?
        holder = self._holder
        if holder < 0:
            return now_ns
        if node is not self._cpus[holder]:
            if self._alone and self._wants_host(node, now_ns):
                self._count_slices(now_ns)
            return now_ns
        cpu = self._cpus[holder]
        now_ns = max(now_ns, cpu.now)
        earlier = self._comes_first(holder, now_ns)
        if earlier:
            self._kicked = self._everybody() & ~(1 << holder)
        if earlier or cpu.is_halted():
            self._release_host(now_ns)
        return now_ns

    def _comes_first(self, holder: int, now_ns: int) -> bool:
        # Whether the holder has armed a timer that comes before all others.
        timer_ns = self._cpus[holder].next_timer_ns()
        if timer_ns == self._deadline_ns:
            return self._expires_before(holder, self._deadline_cpu, timer_ns)
        return now_ns < timer_ns < self._deadline_ns

    def _expires_before(self, cpu: int, other: int, timer_ns: int) -> bool:
        # Of two timers for the same instant; the one that interrupts no CPU is exact.
        early_ns = timer_early_ns(self.timer_seed, cpu, timer_ns)
        return early_ns > (timer_early_ns(self.timer_seed, other, timer_ns) if other >= 0 else 0)

    def _everybody(self) -> int:
        return (1 << len(self._cpus)) - 1

    def _take_host(self, now_ns: int) -> None:
        nr_cpus = len(self._cpus)
        timers = [cpu.next_timer_ns() for cpu in self._cpus]
        wants = [
            timer_ns <= now_ns or not cpu.is_halted()
            for cpu, timer_ns in zip(self._cpus, timers, strict=True)
        ]
        if True not in wants:
            self._last = nr_cpus - 1  # all have been asked in vain: a round is over
            return
        candidate = (self._last + 1) % nr_cpus
        asked = 1 << candidate
        while not wants[candidate]:
            candidate = (candidate + 1) % nr_cpus
            asked |= 1 << candidate
        cpu = self._cpus[candidate]
        self.handovers += candidate != self._last
        self._deadline_ns = self._next_deadline_ns(now_ns, timers)
        if self._alone and candidate > self._last:
            self._count_slices(now_ns - 1)  # the round goes on with the slices of its kind
        reckon = candidate <= self._last or bool(self._kicked & asked)
        if reckon:
            self._slice_ns = max((self._deadline_ns - now_ns) // nr_cpus, 1)
            self._round_ns = now_ns
        self._kicked &= ~asked
        self._alone = reckon and wants.count(True) == 1
        self._holder = self._last = candidate
        self._slice_end_ns = NEVER if self._alone else now_ns + self._slice_ns
        cpu.timer_watch_ns = self._deadline_ns + 1
        cpu.resume(now_ns)
        self._times[self._position[candidate]] = cpu.next_event_ns()

    def _wants_host(self, node: Node, now_ns: int) -> bool:
        if node.node_id >= len(self._cpus):
            return False
        cpu = self._cpus[node.node_id]
        return not cpu.is_halted() or cpu.next_timer_ns() <= now_ns

    def _count_slices(self, now_ns: int) -> None:
        # The holder was alone since the round began: rounds of one slice each, the last one goes on.
        end_ns = self._round_ns
        while end_ns <= now_ns:
            if end_ns > self._round_ns:
                self._kicked = 0  # a round has gone by
            self._slice_ns = max((self._deadline_ns - end_ns) // len(self._cpus), 1)
            end_ns += self._slice_ns
        self._slice_end_ns = end_ns
        self._alone = False

    def _release_host(self, now_ns: int) -> None:
        if self._holder < 0:
            self._kicked = self._everybody()
            return
        cpu = self._cpus[self._holder]
        cpu.timer_watch_ns = -1
        cpu.stall(now_ns)
        self._times[self._position[self._holder]] = cpu.next_event_ns()
        if now_ns >= self._deadline_ns:
            self._last = len(self._cpus) - 1  # expired timers are looked at between two rounds
            self._kicked = self._everybody()
        self._holder = -1

    def _next_deadline_ns(self, now_ns: int, timers: list[int]) -> int:
        # Timers that are due already have fired: they wait for their CPU to get the host.
        deadline, owner = now_ns + DEADLINE_MAX_NS, -1
        if self.turn_ns:
            deadline = (now_ns // self.turn_ns + 1) * self.turn_ns
        for cpu, timer_ns in enumerate(timers):
            if timer_ns <= now_ns or timer_ns > deadline:
                continue
            if timer_ns < deadline or self._expires_before(cpu, owner, timer_ns):
                deadline, owner = timer_ns, cpu
        self._deadline_cpu = owner
        return deadline
