"""One balance request under way, as plain data.

A run goes through phases (PH_*); :mod:`rebalance` has the steps.  It is packed whole into
snapshots, a pass that waits for its source included.
"""

from __future__ import annotations

from typing import Any

from emulator.balance.domain import SchedDomain
from emulator.balance.env import LbEnv, unpack_env
from emulator.rules import Rules
from emulator.types import BALANCE_NEWIDLE, BALANCE_NOHZ, CPU_NEWLY_IDLE, NOHZ_NEED_RESCHED

# Where a run stands.
PH_DOMAIN = 0  # look at the next domain of ``target``
PH_PASS = 1  # decide a pass in it
PH_WAIT = 2  # the source was asked
PH_NEXT_CPU = 3  # ilb: look for the next idle CPU
PH_OVER = 4  # tell the CPU, after it has spent what is owed


class Run:
    """One balance request under way; times of decisions in jiffies, all else in ns."""

    __slots__ = (
        "abort",
        "avg_idle",
        "busy",
        "cause",
        "cont",
        "cost",
        "cpu",
        "cursor",
        "env",
        "flags",
        "generation",
        "has_blocked",
        "idle",
        "kicked",
        "kind",
        "level",
        "max_cost",
        "need_decay",
        "next_balance",
        "nohz_next",
        "nohz_update",
        "owed_ns",
        "paid",
        "pay_ns",
        "phase",
        "pulled",
        "started",
        "target",
        "update_next",
    )

    def __init__(self, kind: int, cpu: int, value: int, avg_idle: int, cause: int) -> None:
        self.kind = kind
        self.cpu = cpu  # who asked
        self.flags = value if kind == BALANCE_NOHZ else 0
        self.avg_idle = avg_idle
        self.cause = cause
        self.phase = PH_DOMAIN
        self.pay_ns = 0  # what the CPU spends before the next step
        self.owed_ns = 0  # to be spent with the next payment
        self.paid = kind == BALANCE_NEWIDLE  # the CPU has spent the first pass's time
        self.pulled = 0  # tasks moved to ``cpu``
        self.kicked: list[int] = []  # CPUs whose stopper its passes woke
        self.abort = bool(self.flags & NOHZ_NEED_RESCHED)
        # The walk over the domains of one CPU.
        self.target = cpu
        self.level = 0
        self.generation = 0
        self.idle = CPU_NEWLY_IDLE if kind == BALANCE_NEWIDLE else value
        self.busy = False  # the intervals are those of a busy CPU
        self.cont = True  # continue_balancing
        self.next_balance = 0
        self.update_next = False
        self.need_decay = False
        self.max_cost = 0
        self.cost = 0  # newidle: curr_cost
        # The ilb's walk over the idle CPUs.
        self.cursor = -1
        self.started = 0  # jiffies
        self.nohz_next = 0
        self.nohz_update = False
        self.has_blocked = False
        self.env: LbEnv | None = None

    def pack(self) -> list[Any]:
        """Return the whole state; the env's domain is (target, level)."""
        return [
            self.kind,
            self.cpu,
            self.flags,
            self.avg_idle,
            self.cause,
            self.phase,
            self.pay_ns,
            self.owed_ns,
            self.paid,
            self.pulled,
            self.abort,
            self.target,
            self.level,
            self.generation,
            self.idle,
            self.cont,
            self.next_balance,
            self.update_next,
            self.need_decay,
            self.max_cost,
            self.cost,
            self.cursor,
            self.started,
            self.nohz_next,
            self.nohz_update,
            self.has_blocked,
            self.busy,
            list(self.kicked),
            None if self.env is None else self.env.pack(),
        ]


def unpack_run(data: list[Any], chains: list[list[SchedDomain]], rules: Rules = Rules()) -> Run:
    """Rebuild a run from :meth:`Run.pack`."""
    run = Run(data[0], data[1], 0, data[3], data[4])
    (
        _kind,
        _cpu,
        run.flags,
        _avg_idle,
        _cause,
        run.phase,
        run.pay_ns,
        run.owed_ns,
        run.paid,
        run.pulled,
        run.abort,
        run.target,
        run.level,
        run.generation,
        run.idle,
        run.cont,
        run.next_balance,
        run.update_next,
        run.need_decay,
        run.max_cost,
        run.cost,
        run.cursor,
        run.started,
        run.nohz_next,
        run.nohz_update,
        run.has_blocked,
        run.busy,
        kicked,
        env,
    ) = data
    run.kicked = list(kicked)
    if env is not None:
        run.env = unpack_env(chains[run.target][run.level], env, rules)
    return run
