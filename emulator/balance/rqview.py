"""What the balancer sees of all runqueues at one instant.

Theory of operation
-------------------
The balancer decides on published facts, read at zero age.  Everything decided at one instant is
decided on one reading: the first look at a CPU is kept until the clock moves, so that the answer to
a DETACH (which comes back at the same instant) cannot mix two states.  :meth:`RqView.freeze` takes
the looks that are left before the instant is given away; the source's own answer replaces its
facts.
"""

from __future__ import annotations

from emulator.balance.domain import SCHED_CAPACITY_SCALE, SchedGroup
from emulator.balance.pelt import age_blocked
from emulator.types import (
    RQ_CPU_CAPACITY,
    RQ_FLAGS,
    RQ_H_NR_RUNNING,
    RQ_LOAD_AVG,
    RQ_NR_RUNNING,
    RQ_RUNNABLE_AVG,
    RQ_UTIL_AVG,
    RQ_UTIL_EST_ENQUEUED,
    RQF_IDLE,
    RQF_SCHED_IDLE,
    RQF_TTWU_PENDING,
    Board,
    for_each_cpu,
)


class RqView:
    """All runqueues as of ``now_ns``, and what else decisions look at besides domains."""

    __slots__ = (
        "active_balance",
        "active_mask",
        "board",
        "capacity_varies",
        "core",
        "now_ns",
        "nr_migrate",
        "rqs",
        "util_est",
    )

    def __init__(
        self,
        board: Board,
        nr_cpus: int,
        *,
        util_est: bool,
        core: tuple[int, ...] = (),
        capacity_varies: bool = False,
    ) -> None:
        self.board = board
        self.core = core or tuple(1 << c for c in range(nr_cpus))  # SMT siblings, per CPU
        self.capacity_varies = capacity_varies  # interrupt or real-time time is taken from it
        self.util_est = util_est  # sched feature UTIL_EST
        self.nr_migrate = 32  # sysctl_sched_nr_migrate
        self.active_mask = (1 << nr_cpus) - 1  # cpu_active_mask
        #: rq.active_balance per busiest CPU: [push_cpu, idle type of the pass], None if clear.
        self.active_balance: list[list[int] | None] = [None] * nr_cpus
        self.now_ns = -1
        self.rqs: dict[int, tuple[int, ...]] = {}

    def seen_at(self, now_ns: int) -> None:
        """Move to an instant; what was read at an earlier one is forgotten."""
        assert now_ns >= self.now_ns, "the balancer's clock runs backwards"
        if now_ns != self.now_ns:
            self.now_ns = now_ns
            self.rqs.clear()

    def rq(self, cpu: int) -> tuple[int, ...]:
        """Return the RqFacts of a CPU; an idle queue's averages are aged to now."""
        facts = self.rqs.get(cpu)
        if facts is None:
            facts = age_blocked(self.board.read(cpu, self.now_ns), self.now_ns)
            self.rqs[cpu] = facts
        return facts

    def freeze(self, mask: int) -> None:
        """Read every CPU of a mask that was not read at this instant."""
        for cpu in for_each_cpu(mask):
            self.rq(cpu)

    def replace(self, cpu: int, facts: tuple[int, ...]) -> None:
        """Take a CPU's own answer instead of what it had published."""
        self.rqs[cpu] = age_blocked(facts, self.now_ns)

    def idle_cpu(self, cpu: int) -> bool:
        """Return whether the CPU is idle (``idle_cpu()``)."""
        return bool(self.rq(cpu)[RQ_FLAGS] & RQF_IDLE)

    def sched_idle_cpu(self, cpu: int) -> bool:
        """Return whether the CPU has SCHED_IDLE tasks only (``sched_idle_cpu()``)."""
        return bool(self.rq(cpu)[RQ_FLAGS] & RQF_SCHED_IDLE)

    def is_core_idle(self, cpu: int) -> bool:
        """Return whether all other SMT siblings of the CPU are idle (``is_core_idle()``)."""
        return all(self.idle_cpu(c) for c in for_each_cpu(self.core[cpu] & ~(1 << cpu)))

    def ttwu_pending(self, cpu: int) -> bool:
        """Return whether a remote wakeup of the CPU is under way (``rq->ttwu_pending``)."""
        return bool(self.rq(cpu)[RQ_FLAGS] & RQF_TTWU_PENDING)

    def nr_running(self, cpu: int) -> int:
        """Return ``rq->nr_running``: tasks of all classes."""
        return self.rq(cpu)[RQ_NR_RUNNING]

    def cpu_runnable_load(self, cpu: int) -> int:
        """Return the load that the balancer weighs (``cpu_runnable_load()``, ≤ 5.4)."""
        return self.rq(cpu)[RQ_RUNNABLE_AVG]

    def cpu_load(self, cpu: int) -> int:
        """Return the load that the balancer weighs from 5.5 on, blocked tasks too (``cpu_load()``)."""
        return self.rq(cpu)[RQ_LOAD_AVG]

    def cpu_util(self, cpu: int) -> int:
        """Return the utilisation, at most the CPU's capacity (``cpu_util()``)."""
        facts = self.rq(cpu)
        util = facts[RQ_UTIL_AVG]
        if self.util_est:
            util = max(util, facts[RQ_UTIL_EST_ENQUEUED])
        return min(util, SCHED_CAPACITY_SCALE)

    def capacity_of(self, cpu: int) -> int:
        """Return the CPU's capacity: 1024, less what interrupts (if accounted) and real-time tasks use."""
        if self.capacity_varies:
            return self.rq(cpu)[RQ_CPU_CAPACITY]
        return SCHED_CAPACITY_SCALE

    def group_capacity(self, group: SchedGroup) -> int:
        """Return the capacity of a group's CPUs (``sgc->capacity``)."""
        if self.capacity_varies:
            return sum(self.capacity_of(cpu) for cpu in for_each_cpu(group.span))
        return group.capacity

    def cpu_avg_load_per_task(self, cpu: int) -> int:
        """Return the load per fair task of a CPU, 0 if it has none."""
        nr_running = self.rq(cpu)[RQ_H_NR_RUNNING]
        return self.cpu_runnable_load(cpu) // nr_running if nr_running else 0
