"""What a CPU records: events for its ring, counters for the results, and what a BUG prints."""

from __future__ import annotations

from collections.abc import Callable

from emulator import tracepoints as tp
from emulator.kernel.percpu import PerCpu
from emulator.kernel.process import WAIT_NAMES
from emulator.kernel.sched import Task


class Recorder(PerCpu):
    """A CPU as far as it records."""

    __slots__ = ()

    def emit(self, event: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, e: int = 0) -> int:
        """Record an event of now, caused by ``self.cause``; return its global position."""
        if not self.enabled[event]:
            return self.cause
        rq = self.rq
        flags = 0 if self.irqs_on else 1
        if rq.need_resched:
            flags |= 2
        if self.level:
            flags |= 4 if self.level == 2 else 8
        return self.ring_base + self.sink.emit(
            self.now, event, flags, rq.curr.pid, self.cause, a, b, c, d, e
        )

    def count(self, name: str, nr: int = 1) -> None:
        """Add to a counter that goes into the results."""
        self.counters[name] = self.counters.get(name, 0) + nr

    def runtime_hook(self) -> Callable[[Task, int], None] | None:
        """Return what update_curr() calls, or None if nobody records it."""
        return self.trace_runtime if self.enabled[tp.SCHED_STAT_RUNTIME] else None

    def trace_runtime(self, p: Task, delta_ns: int) -> None:
        """Record ``sched_stat_runtime`` (called by update_curr)."""
        self.emit(tp.SCHED_STAT_RUNTIME, p.pid, delta_ns, p.vruntime)

    def trace_preempt(self, p: Task, curr: Task, vdiff: int, gran: int, why: int) -> None:
        """Record ``box_check_preempt`` (called by update_curr of EEVDF)."""
        self.emit(tp.BOX_CHECK_PREEMPT, p.pid, curr.pid, vdiff, gran, why)

    def warn(self, text: str) -> None:
        """Record what the kernel would warn of; a run with such a record fails."""
        self.emit(tp.BOX_WARN, self.sink.intern(text))

    def throttled(self) -> None:
        """Note that real-time tasks have used up their time (called by update_curr_rt)."""
        if not self.counters.get("rt_throttled"):
            self.emit(tp.PRINTK, self.sink.intern("sched: RT throttling activated"))
        self.count("rt_throttled")

    def story(self, what: str) -> str:
        """Return what a failed assertion prints: the fault, this CPU's state, its last events."""
        rq = self.rq
        lines = [
            f"BUG on CPU {self.node_id} at {self.now} ns: {what}",
            f"  frame {self.f_kind} until {self.f_end}, level {self.level}, stack {self.stack}",
            f"  curr {rq.curr.comm}/{rq.curr.pid} nr_running {rq.nr_running}",
        ]
        for pid, p in self.tasks.items():
            lines.append(
                f"  task {p.comm}/{pid} state {p.state} on_rq {p.on_rq} on_cpu {p.on_cpu} "
                f"wait {WAIT_NAMES[p.run.wait]} vruntime {p.vruntime} deadline {p.deadline} "
                f"delayed {p.sched_delayed} moves {p.moves}"
            )
        return "\n".join(lines)
