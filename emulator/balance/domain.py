"""``struct sched_domain`` and ``struct sched_group``, with their counters.

:mod:`topology` builds them; passes (:mod:`fair`, :mod:`rebalance`) change the failure counter, the
interval and the counters of the domain that they are made in.
"""

from __future__ import annotations

from typing import Any

SCHED_CAPACITY_SCALE = 1024

# sd.flags, kernel numbers.
SD_LOAD_BALANCE = 0x0001
SD_BALANCE_NEWIDLE = 0x0002
SD_BALANCE_EXEC = 0x0004
SD_BALANCE_FORK = 0x0008
SD_WAKE_AFFINE = 0x0020
SD_SHARE_CPUCAPACITY = 0x0080
SD_SHARE_PKG_RESOURCES = 0x0200
SD_SERIALIZE = 0x0400
SD_PREFER_SIBLING = 0x1000
SD_NUMA = 0x4000

# Flags that mean nothing in a domain of a single group.
SD_NEEDS_GROUPS = (
    SD_LOAD_BALANCE
    | SD_BALANCE_NEWIDLE
    | SD_BALANCE_EXEC
    | SD_BALANCE_FORK
    | SD_SHARE_CPUCAPACITY
    | SD_SHARE_PKG_RESOURCES
)

# Columns of SchedDomain.lb: first the eight of a schedstat line, in its order, then our own.
LB_COUNT = 0
LB_BALANCED = 1
LB_FAILED = 2
LB_IMBALANCE = 3
LB_GAINED = 4
LB_HOT_GAINED = 5
LB_NOBUSYQ = 6
LB_NOBUSYG = 7
LB_MOVED = 8  # passes that detached something
LB_PULLED = 9  # tasks that passes detached; LB_GAINED counts pushed ones too
LB_ACTIVE_KICKED = 10
LB_ACTIVE_PUSHED = 11
LB_ACTIVE_FAILED = 12
LB_COLUMNS = 13
LB_COLUMN_NAMES = (
    "count",
    "balanced",
    "failed",
    "imbalance",
    "gained",
    "hot_gained",
    "nobusyq",
    "nobusyg",
    "moved",
    "pulled",
    "active_kicked",
    "active_pushed",
    "active_failed",
)


class SchedGroup:
    """``struct sched_group`` with its ``sched_group_capacity``."""

    __slots__ = ("balance_mask", "capacity", "cores", "imbalance", "span", "weight")

    def __init__(self, span: int, balance_mask: int, cores: int = 0) -> None:
        self.span = span
        self.weight = span.bit_count()
        self.cores = cores or self.weight  # SMT siblings count once
        self.capacity = SCHED_CAPACITY_SCALE * self.weight
        self.balance_mask = balance_mask
        self.imbalance = 0  # sgc.imbalance: a pass of the level below met affinity


class SchedDomain:
    """``struct sched_domain`` of one CPU at one level; intervals in ms, last_balance in jiffies."""

    __slots__ = (
        "alb_count",
        "alb_failed",
        "alb_pushed",
        "balance_interval",
        "busy_factor",
        "cache_nice_tries",
        "child",
        "cpu",
        "flags",
        "groups",
        "imb_numa_nr",
        "imbalance_pct",
        "last_balance",
        "lb",
        "level",
        "max_interval",
        "max_newidle_lb_cost",
        "min_interval",
        "name",
        "next_decay_max_lb_cost",
        "nr_balance_failed",
        "parent",
        "span",
        "span_weight",
    )

    def __init__(self, cpu: int, level: int, name: str, span: int, jiffies: int) -> None:
        self.cpu = cpu
        self.level = level  # number of the topology level
        self.name = name
        self.span = span
        self.span_weight = span.bit_count()
        self.parent: SchedDomain | None = None
        self.child: SchedDomain | None = None
        self.groups: list[SchedGroup] = []  # the local one first
        self.flags = 0
        self.imbalance_pct = 125
        self.imb_numa_nr = 0  # tasks that may run on one NUMA node while others idle (≥ 5.18)
        self.cache_nice_tries = 0
        self.busy_factor = 32
        self.min_interval = self.span_weight
        self.max_interval = 2 * self.span_weight
        self.balance_interval = self.span_weight
        self.last_balance = jiffies
        self.nr_balance_failed = 0
        self.max_newidle_lb_cost = 0  # ns
        self.next_decay_max_lb_cost = jiffies
        self.lb = [[0] * LB_COLUMNS for _ in range(3)]  # per idle type
        self.alb_count = 0
        self.alb_failed = 0
        self.alb_pushed = 0

    def pack(self) -> list[Any]:
        """Return what changes after the domain is built."""
        return [
            self.balance_interval,
            self.last_balance,
            self.nr_balance_failed,
            self.max_newidle_lb_cost,
            self.next_decay_max_lb_cost,
            self.alb_count,
            self.alb_failed,
            self.alb_pushed,
            [list(row) for row in self.lb],
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        (
            self.balance_interval,
            self.last_balance,
            self.nr_balance_failed,
            self.max_newidle_lb_cost,
            self.next_decay_max_lb_cost,
            self.alb_count,
            self.alb_failed,
            self.alb_pushed,
            rows,
        ) = data
        self.lb = [list(row) for row in rows]
