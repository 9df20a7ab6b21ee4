"""``struct sched_domain`` and ``struct sched_group``, with their counters.

:mod:`topology` builds them; passes (:mod:`fair`, :mod:`rebalance`) change the failure counter, the
interval and the counters of the domain that they are made in.
"""

from __future__ import annotations

from typing import Any

# The flags of a domain are every room's.
from emulator.topology import SD_BALANCE_EXEC as SD_BALANCE_EXEC
from emulator.topology import SD_BALANCE_FORK as SD_BALANCE_FORK
from emulator.topology import SD_BALANCE_NEWIDLE as SD_BALANCE_NEWIDLE
from emulator.topology import SD_LOAD_BALANCE as SD_LOAD_BALANCE
from emulator.topology import SD_NEEDS_GROUPS as SD_NEEDS_GROUPS
from emulator.topology import SD_NUMA as SD_NUMA
from emulator.topology import SD_PREFER_SIBLING as SD_PREFER_SIBLING
from emulator.topology import SD_SERIALIZE as SD_SERIALIZE
from emulator.topology import SD_SHARE_CPUCAPACITY as SD_SHARE_CPUCAPACITY
from emulator.topology import SD_SHARE_PKG_RESOURCES as SD_SHARE_PKG_RESOURCES
from emulator.topology import SD_WAKE_AFFINE as SD_WAKE_AFFINE

SCHED_CAPACITY_SCALE = 1024

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
