"""The context of one load_balance() pass: ``struct lb_env`` and the variables around it.

A pass may wait for its source CPU (DETACH, DETACHED), so everything it knows is kept here as plain
data; :meth:`LbEnv.pack_env` is the part that the source is sent and gives back changed.
"""

from __future__ import annotations

from typing import Any

from emulator.balance.domain import SD_SHARE_CPUCAPACITY, SchedDomain
from emulator.rules import Rules
from emulator.types import (
    ENV_CURR_ALLOWED,
    ENV_FIELDS,
    ENV_FLAGS,
    ENV_HOT_GAINED,
    ENV_IMBALANCE,
    ENV_LOOP,
    ENV_LOOP_BREAK,
    ENV_NEW_DST_CPU,
    ENV_OTHERS_BOUND,
    ENV_SRC_CPU,
    MIGRATION_LOAD,
)

SCHED_NR_MIGRATE_BREAK = 32


class LbEnv:
    """``struct lb_env`` of one pass in domain ``sd``, on behalf of ``this_cpu``."""

    __slots__ = (
        "busiest_type",
        "cause",
        "cpus",
        "curr_allowed",
        "dst_cpu",
        "dst_grpmask",
        "dst_nr_running",
        "failing",
        "flags",
        "found",
        "hot_gained",
        "idle",
        "imbalance",
        "ld_moved",
        "ld_moved_here",
        "local_type",
        "loop",
        "loop_break",
        "loop_max",
        "migration_type",
        "new_dst_cpu",
        "others_bound",
        "overload",
        "refused",
        "result",
        "rules",
        "sd",
        "src_cpu",
        "stop_cpu",
        "sum_util",
        "this_cpu",
        "why",
    )

    def __init__(
        self,
        sd: SchedDomain,
        this_cpu: int,
        idle: int,
        cpus: int,
        why: int,
        cause: int,
        rules: Rules = Rules(),
    ) -> None:
        self.rules = rules
        self.sd = sd
        self.this_cpu = this_cpu
        self.dst_cpu = this_cpu
        self.dst_grpmask = sd.groups[0].span
        self.dst_nr_running = 0
        self.idle = idle
        self.cpus = cpus
        self.src_cpu = -1
        self.imbalance = 0
        self.migration_type = MIGRATION_LOAD  # what imbalance counts
        self.busiest_type = 0  # GROUP_* of the groups compared last
        self.local_type = 0
        self.found = False  # a busiest group was found that nobody has recorded yet
        self.sum_util = -1  # of the whole domain; -1: not summed up
        self.loop = 0
        self.loop_break = SCHED_NR_MIGRATE_BREAK
        self.loop_max = 0
        self.flags = 0
        self.new_dst_cpu = -1
        self.hot_gained = 0
        self.curr_allowed = 1
        self.others_bound = 0
        self.why = why
        self.cause = cause
        self.ld_moved = 0
        self.ld_moved_here = 0  # of these, moved to this_cpu
        self.failing = False  # nothing was moved; the source was asked about its curr only
        self.refused = False  # should_we_balance() said no: continue_balancing = 0
        self.overload: bool | None = None  # what a top-level pass found for rd.overload
        self.result = -1  # LB_* of the trace event, once the pass is over
        self.stop_cpu = -1  # CPU whose stopper is to push its running task here

    def pack_env(self) -> list[int]:
        """Return the ENV_* list for the source."""
        return [
            self.dst_cpu,
            self.src_cpu,
            self.idle,
            0 if self.failing else self.imbalance,
            self.loop,
            self.loop_break,
            self.loop_max,
            self.flags,
            self.new_dst_cpu,
            self.sd.nr_balance_failed,
            self.sd.cache_nice_tries,
            self.dst_grpmask,
            self.cpus,
            self.dst_nr_running,
            self.this_cpu,
            self.why,
            self.cause,
            0,
            self.curr_allowed,
            self.migration_type,
            int(bool(self.sd.flags & SD_SHARE_CPUCAPACITY)),
            self.others_bound,
        ]

    def take_env(self, env: list[int]) -> None:
        """Take over what ``detach_tasks()`` changed at the source."""
        assert len(env) == ENV_FIELDS
        assert env[ENV_SRC_CPU] == self.src_cpu
        self.imbalance = env[ENV_IMBALANCE]
        self.loop = env[ENV_LOOP]
        self.loop_break = env[ENV_LOOP_BREAK]
        self.flags = env[ENV_FLAGS]
        self.new_dst_cpu = env[ENV_NEW_DST_CPU]
        self.hot_gained += env[ENV_HOT_GAINED]
        self.curr_allowed = env[ENV_CURR_ALLOWED]
        self.others_bound = env[ENV_OTHERS_BOUND]

    def restart_loop(self) -> None:
        """Start the source's walk over its tasks afresh."""
        self.loop = 0
        self.loop_break = SCHED_NR_MIGRATE_BREAK

    def pack(self) -> list[Any]:
        """Return the whole pass for a snapshot; first the constructor's arguments but ``sd``."""
        return [
            self.this_cpu,
            self.idle,
            self.cpus,
            self.why,
            self.cause,
            self.dst_cpu,
            self.dst_grpmask,
            self.dst_nr_running,
            self.src_cpu,
            self.imbalance,
            self.loop,
            self.loop_break,
            self.loop_max,
            self.flags,
            self.new_dst_cpu,
            self.hot_gained,
            self.curr_allowed,
            self.ld_moved,
            self.ld_moved_here,
            self.failing,
            self.refused,
            self.overload,
            self.result,
            self.stop_cpu,
            self.migration_type,
            self.busiest_type,
            self.local_type,
            self.found,
            self.sum_util,
            self.others_bound,
        ]


def unpack_env(sd: SchedDomain, data: list[Any], rules: Rules = Rules()) -> LbEnv:
    """Rebuild a pass in domain ``sd`` from :meth:`LbEnv.pack`."""
    this_cpu, idle, cpus, why, cause = data[:5]
    env = LbEnv(sd, this_cpu, idle, cpus, why, cause, rules)
    (
        env.dst_cpu,
        env.dst_grpmask,
        env.dst_nr_running,
        env.src_cpu,
        env.imbalance,
        env.loop,
        env.loop_break,
        env.loop_max,
        env.flags,
        env.new_dst_cpu,
        env.hot_gained,
        env.curr_allowed,
        env.ld_moved,
        env.ld_moved_here,
        env.failing,
        env.refused,
        env.overload,
        env.result,
        env.stop_cpu,
        env.migration_type,
        env.busiest_type,
        env.local_type,
        env.found,
        env.sum_util,
        env.others_bound,
    ) = data[5:]
    return env
