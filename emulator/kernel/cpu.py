"""One emulated CPU: the node that owns a runqueue, its interrupts, its workers and its IO.

Theory of operation
-------------------
The CPU is a state machine over frames (:mod:`emulator.kernel.frames`).  At every step the earliest
of three things happens:

* a **message** takes effect: what another CPU does to this runqueue under its lock (a wakeup's
  enqueue, the balancer's detach and attach), whatever this CPU is executing, or an interrupt that
  it raises, which then waits until interrupts are on;
* a **hard interrupt** starts: an expired timer, an IPI, a device;
* the **frame** on top ends, and its handler runs.

At one instant messages come first, then hard interrupts, then the frame.  The mechanisms
themselves are in the files named after the kernel's; they are functions of a :class:`Cpu`, and
:data:`~emulator.kernel.frame_ends.ENDS` says which of them ends which frame.

Departures from the kernel: another CPU's operation on this runqueue takes effect at its stamp even
while this CPU would hold the lock (the lock's wait is not modelled); ``jiffies`` is the number of
whole ticks since boot for every CPU, not what the time-keeping CPU last wrote.
"""

from __future__ import annotations

import heapq
from typing import Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    aio,
    driver,
    frames,
    hrtimer,
    idle,
    io_uring,
    iomap,
    irq_thread,
    kthread,
    promises,
    receive,
    snapshot,
)
from emulator.kernel.execution import Execution
from emulator.kernel.frame_ends import ENDS
from emulator.kernel.percpu import Programs
from emulator.kernel.publication import Publisher
from emulator.kernel.sending import Sender
from emulator.types import NEVER, Board, BoxSpec, Message, Promise, TraceSink


class Cpu(Execution, Sender, Publisher):
    """The CPU node; implements ``engine.node.Node``."""

    __slots__ = ()

    def __init__(
        self, spec: BoxSpec, cpu: int, board: Board, sink: TraceSink, programs: Programs
    ) -> None:
        super().__init__(spec, cpu, board, sink, programs)
        self.rq.on_runtime = self.runtime_hook()
        if self.enabled[tp.BOX_CHECK_PREEMPT]:
            self.rq.on_preempt = self.trace_preempt
        self.rq.on_warn = self.warn
        self.rq.on_throttle = self.throttled
        kthread.boot(self)
        if self.threadirqs:
            irq_thread.boot(self)
        idle.boot(self)
        self.publish()

    # -- The node protocol ----------------------------------------------------------------------

    def next_event_ns(self) -> int:
        """Return the time of the next message, interrupt or frame end, or NEVER."""
        t = self.inbox[0][0] if self.inbox else NEVER
        if self.mail and self.mail[0][0] < t and (self.mail_sleepers or self.expect):
            t = self.mail[0][0]
        if not self.stalled:
            if self.f_end < t:
                t = self.f_end
            if self.irqs_on:
                if self.irqs:
                    return min(t, self.now)
                if self.timers and self.timers[0][0] < t:
                    t = self.timers[0][0]
                if self.tick_at < t:
                    t = self.tick_at
        return t if t > self.now else self.now if t < NEVER else NEVER

    def deliver(self, message: Message) -> None:
        """Put a message into the inbox or, if it is mail, into the mailbox."""
        if messages.is_passive(message[4]):
            heapq.heappush(self.mail, message)
            return
        assert message[0] >= self.now or self.stalled, self.story(f"message {message} in the past")
        heapq.heappush(self.inbox, message)
        if message[0] < self.edge:
            self.edge = message[0]

    def receive(self, message: Message) -> None:
        """Let a message that was held back take effect now."""
        receive.handle(self, message)

    def advance(self, bound_ns: int, horizon_ns: int) -> None:
        """Process every event < ``bound_ns``, stopping before a read at or after ``horizon_ns``."""
        self.limit = bound_ns
        self.horizon = horizon_ns
        self.wants_view = False
        stop = self.run()
        if stop > self.reached_ns:
            self.reached_ns = stop

    def run(self) -> int:  # noqa: C901 - the one hot loop: what is not called costs nothing
        """Process events until a limit; return the time before which all are processed."""
        handlers = ENDS
        reads = frames.READS
        inbox, mailbox, timers = self.inbox, self.mail, self.timers
        while True:
            t = self.f_end
            if t < self.edge and not (
                self.irqs or self.mail_sleepers or self.expect or self.stalled
            ):
                # Nothing but the frame on top can be next.
                if t >= self.limit:
                    return self.limit
                kind = self.f_kind
                if t >= self.horizon and kind in reads and self.reads_now(kind):
                    self.wants_view = True
                    return t
                self.now = t
                handlers[kind](self, self.f_arg)
                continue
            what = 0
            if self.stalled:
                t = NEVER
            elif self.irqs_on:
                if self.irqs:
                    t = self.now
                    what = 1
                else:
                    if timers and timers[0][0] <= t:
                        t = timers[0][0]
                        what = 1
                    if self.tick_at <= t:
                        t = self.tick_at
                        what = 1
            if inbox and inbox[0][0] <= t:
                t = inbox[0][0]
                what = 2
            if self.mail_sleepers or self.expect:
                if mailbox and mailbox[0][0] <= t:
                    t = mailbox[0][0]
                    what = 3
                if t >= self.horizon and self.horizon < self.limit:
                    self.wants_view = t < self.limit
                    return self.horizon  # mail of later than that may still come
            if t < self.now:
                t = self.now
            if t >= self.limit:
                return self.limit
            self.find_edge()
            if what == 0:
                kind = self.f_kind
                if t >= self.horizon and kind in reads and self.reads_now(kind):
                    self.wants_view = True
                    return t
                self.now = t
                handlers[kind](self, self.f_arg)
            elif what == 1:
                self.now = t
                hrtimer.take_interrupt(self)
            else:
                if (
                    t >= self.horizon
                    and what == 2
                    and (inbox[0][4] in receive.READING or not self.active)
                ):
                    self.wants_view = True
                    return t
                self.now = t
                receive.handle(self, heapq.heappop(mailbox if what == 3 else inbox))
                self.edge = 0

    def find_edge(self) -> None:
        """Find the earliest message, timer or tick: before it only frames end."""
        edge = self.tick_at
        if self.inbox and self.inbox[0][0] < edge:
            edge = self.inbox[0][0]
        if self.timers and self.timers[0][0] < edge:
            edge = self.timers[0][0]
        self.edge = edge

    def reads_now(self, kind: int) -> bool:
        """Whether the end of the frame on top will look at other nodes' publications or at mail."""
        if kind in frames.COMPLETING:
            return self.completion is not None and self.completion.remote
        if kind == frames.GETEVENTS:
            return aio.needs_mail(self)
        if kind == frames.URING_REAP:
            return io_uring.needs_mail(self)
        if kind in (frames.POLL_LOOK, frames.EVENTFD_READ):
            return bool(self.rq.curr.run.remote_ios)
        if kind == frames.WORK_BODY:
            return iomap.completes_elsewhere(self)
        if kind == frames.SOFTIRQ_RCU:
            return self.rcu.driven
        if kind in (frames.IRQ_VECTOR, frames.IRQ_THREAD_FN):
            if kind == frames.IRQ_VECTOR and driver.threaded(self, self.f_arg[0], self.f_arg[3]):
                return False
            leaves = self.completion is not None and self.completion.remote
            return leaves or driver.vector_reads(self, self.f_arg)
        if kind == frames.STOPPER_WORK:
            return bool(self.stop_works[0][0] < 0)  # no push: another CPU is looked for
        if kind in frames.SWITCHES:
            return bool(self.smt_siblings) and self.rq.nr_running <= 1
        return True

    def jiffies(self) -> int:
        """Return the number of whole ticks since boot."""
        return self.now // self.tick_ns

    def work_id(self) -> int:
        """Return the identity of a new work item, unique in the box."""
        self.work_seq += 1
        return self.node_id << 40 | self.work_seq

    # -- Promises, books, snapshots ---------------------------------------------------------------

    def promise(self) -> Promise:
        """Return what this node promises if it receives nothing more."""
        return promises.promise(self)

    def books(self) -> dict[str, Any]:
        """Return what this CPU owns and what it counted."""
        return snapshot.books(self)

    def snapshot(self) -> list[Any]:
        """Return the whole state as plain data."""
        return snapshot.pack(self)

    def restore(self, state: list[Any]) -> None:
        """Take over a state that :meth:`snapshot` returned."""
        snapshot.unpack(self, state)

    def ring_position(self) -> int:
        """Return how many records this CPU has written."""
        return self.sink.position

    def take_ring_back(self, position: int) -> None:
        """Make the ring what it was when it held ``position`` records."""
        self.sink.truncate_to(position)
