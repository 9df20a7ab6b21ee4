"""What a CPU executes: the frames on its stack, its timers, and the host taken away and given back."""

from __future__ import annotations

import heapq
from typing import Any

from emulator import messages
from emulator.kernel import frames
from emulator.kernel.record import Recorder
from emulator.messages import COMPLETION
from emulator.types import NEVER

#: Messages that are interrupts: whoever is sent one has something to execute.
INTERRUPTING = frozenset((messages.NOHZ_KICK, messages.CALL_COMPLETE))


class Execution(Recorder):
    """A CPU as far as it executes."""

    __slots__ = ()

    def start(self, kind: int, ns: int, arg: Any = None) -> None:
        """Start the next frame of the same context."""
        self.f_kind = kind
        self.f_end = self.now + ns
        self.f_arg = arg

    def wait(self, kind: int, arg: Any = None) -> None:
        """Start a frame that only a message or an interrupt ends."""
        self.f_kind = kind
        self.f_end = NEVER
        self.f_arg = arg

    def answered(self, waiting: int, kind: int, arg: Any, left: int = 0) -> None:
        """What a frame waited for has come: it goes on as ``kind``, now or when it is on top."""
        if self.f_kind == waiting:
            self.f_kind = kind
            self.f_arg = arg
            self.f_end = left if self.stalled else self.now + left
            return
        for index, frame in enumerate(self.stack):
            if frame[0] == waiting:
                self.stack[index] = (kind, left, arg, frame[3], frame[4])
                return
        raise AssertionError(self.story(f"an answer that no frame of kind {waiting} waits for"))

    def push(self, kind: int, ns: int, arg: Any, level: int, irqs_on: bool) -> None:
        """Interrupt or call: put a frame over what runs."""
        left = self.f_end - self.now if self.f_end < NEVER else NEVER
        self.stack.append((self.f_kind, left, self.f_arg, self.level, self.irqs_on))
        self.f_kind = kind
        self.f_end = self.now + ns
        self.f_arg = arg
        self.level = level
        self.irqs_on = irqs_on

    def pop(self) -> None:
        """Return to the frame below, which goes on with the time it had left."""
        kind, left, arg, self.level, self.irqs_on = self.stack.pop()
        self.f_kind = kind
        self.f_end = self.now + left if left < NEVER else NEVER
        self.f_arg = arg

    def halt(self) -> None:
        """Halt; on a machine that takes turns that gives the host up."""
        self.wait(frames.HALT)
        if self.timer_watch_ns >= 0:
            self.limit = 0

    def stall(self, now_ns: int) -> None:
        """Take the host away: nothing of this CPU's own goes on (machines that take turns)."""
        assert not self.stalled
        self.stalled = True
        self.stalled_at = now_ns
        if self.f_end < NEVER:
            self.f_end -= now_ns  # the time left, until resume()

    def resume(self, now_ns: int) -> None:
        """Give the host back: what ran goes on with the time it had left."""
        assert self.stalled
        self.stalled = False
        self.burnt(now_ns - self.stalled_at)
        if self.steal is not None and not (self.f_kind == frames.HALT and not self.stack):
            self.steal.taken(now_ns - self.stalled_at)
        if self.f_end < NEVER:
            self.f_end = max(self.f_end, 0) + now_ns
        if now_ns > self.now:
            self.now = now_ns

    def burnt(self, ns: int) -> None:
        """A task that watches its CPU clock notices that it went on without the host."""
        if not self.stack:
            if self.f_kind == frames.USER and self.f_arg == frames.BURNING:
                self.f_end -= ns
            return
        kind, left, arg, level, irqs_on = self.stack[0]
        if kind == frames.USER and arg == frames.BURNING:
            self.stack[0] = (kind, max(0, left - ns), arg, level, irqs_on)

    def is_halted(self) -> bool:
        """Whether the CPU sits in the idle loop's halt with nothing to do and no IPI on its way."""
        if self.f_kind != frames.HALT or self.irqs or self.ipis:
            return False
        return not (self.inbox and any(message[4] in INTERRUPTING for message in self.inbox))

    def next_timer_ns(self) -> int:
        """Return for when the CPU's timer is programmed, announced completions included, or NEVER.

        From when it fires until the end of its interrupt it is programmed for nothing.
        """
        if self.level == frames.LEVEL_HARDIRQ and (
            self.f_kind in frames.CLOCK_EVENTS
            or any(frame[0] in frames.CLOCK_EVENTS for frame in self.stack)
        ):
            return NEVER
        if self.irqs and any(irq[0] == frames.IRQ_DEVICE for irq in self.irqs):
            return NEVER
        return self._earliest_timer_ns()

    def _earliest_timer_ns(self) -> int:
        earliest = self.tick_at
        for timer in self.timers:
            if timer[0] < earliest and timer[2] != frames.IRQ_IPI:
                earliest = timer[0]
        for message in self.inbox:
            if message[0] < earliest and message[4] == COMPLETION:
                earliest = message[0]
        return earliest

    def add_timer(self, expiry_ns: int, kind: int, arg: Any = None) -> None:
        """Arm an hrtimer of this CPU."""
        self.timer_seq += 1
        heapq.heappush(self.timers, (expiry_ns, self.timer_seq, kind, arg))
        self.timer_armed(expiry_ns)

    def program_event(self) -> None:
        """``tick_program_event()``: the timer interrupt ends, the timer is set for what is next."""
        if self.timer_watch_ns >= 0:
            expiry_ns = self._earliest_timer_ns()
            if expiry_ns > self.now:
                self.timer_armed(expiry_ns)

    def timer_armed(self, expiry_ns: int) -> None:
        """Note a new timer; on a machine that takes turns, give the host up for an earlier one."""
        if expiry_ns < self.edge:
            self.edge = expiry_ns
        if expiry_ns < self.timer_watch_ns:
            self.limit = 0
