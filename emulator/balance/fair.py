"""One load_balance() pass: ``kernel/sched/fair.c``.

Theory of operation
-------------------
A pass pulls load to one CPU from the busiest queue of the busiest group of one of its domains.
What only the source can do, walking its tasks (``detach_tasks()``), is done by the source, so a
pass is cut in two: :func:`load_balance` runs up to the first need of the source,
:func:`load_balance_detached` goes on with its answer, perhaps asks again, and ends.  Both return
whether the source (``env.src_cpu``) must be asked; when they return False the pass is over,
``env.ld_moved`` is its result and ``env.stop_cpu`` the CPU whose stopper must push, or -1.

A pass that moves nothing counts as a failure of this CPU at this domain; after
``cache_nice_tries + 2`` failures in a row the next one has the source's stopper push its running
task here (active balance).  Any pass that finds the domain balanced resets that counter.

Which group is busiest and what is to move is :mod:`busiest`'s answer up to 5.4 and
:mod:`group_types`' from 5.5 on; a pass asks one of them, by its rules.

Departures
* ``busiest->curr`` is at the source, which says in its answer whether ``curr`` may run here.  A
  source with a single task is asked only for that, with imbalance 0.
* ``voluntary_active_balance()`` knows the reduced-capacity case alone.
* ``rq->active_balance`` is kept here, set when the stopper is kicked and cleared when it reports.
"""

from __future__ import annotations

from emulator.balance import busiest, group_types
from emulator.balance.busiest import check_cpu_capacity
from emulator.balance.domain import (
    LB_ACTIVE_KICKED,
    LB_BALANCED,
    LB_COUNT,
    LB_FAILED,
    LB_GAINED,
    LB_HOT_GAINED,
    LB_IMBALANCE,
    LB_MOVED,
    LB_NOBUSYG,
    LB_NOBUSYQ,
    LB_PULLED,
    SD_SHARE_CPUCAPACITY,
    SchedGroup,
)
from emulator.balance.env import LbEnv
from emulator.balance.rqview import RqView
from emulator.balance.topology import group_balance_cpu
from emulator.tracepoints import LB_ACTIVE, LB_PINNED
from emulator.tracepoints import LB_BALANCED as RESULT_BALANCED
from emulator.tracepoints import LB_FAILED as RESULT_FAILED
from emulator.tracepoints import LB_MOVED as RESULT_MOVED
from emulator.types import (
    CPU_NEWLY_IDLE,
    CPU_NOT_IDLE,
    LBF_ALL_PINNED,
    LBF_DST_PINNED,
    LBF_NEED_BREAK,
    LBF_SMALL_IMBL,
    LBF_SOME_PINNED,
    MIGRATION_TASK,
    RQ_H_NR_RUNNING,
)

MAX_PINNED_INTERVAL = 512  # ms


def load_balance(env: LbEnv, view: RqView) -> bool:
    """Begin a pass; return whether ``env.src_cpu`` must be asked (``load_balance()``)."""
    env.sd.lb[env.idle][LB_COUNT] += 1
    return _redo(env, view)


def load_balance_detached(env: LbEnv, view: RqView, answer: list[int], nr_tasks: int) -> bool:
    """Go on after the source's answer; return whether it, or another source, must be asked.

    ``answer`` is the ENV_* list that came back, ``nr_tasks`` how many tasks came with it; they are
    attached to the ``dst_cpu`` of the question by the caller.
    """
    wanted = env.imbalance
    env.take_env(answer)
    if env.failing:
        assert nr_tasks == 0
        env.imbalance = wanted
        return _active_balance(env, view)
    _account_detached(env, nr_tasks)
    if env.flags & LBF_NEED_BREAK:
        env.flags &= ~LBF_NEED_BREAK
        return _ask(env, view)
    if env.flags & LBF_DST_PINNED and env.imbalance > 0:
        return _try_other_dst(env, view)
    parent = env.sd.parent
    if parent is not None and env.flags & LBF_SOME_PINNED and env.imbalance > 0:
        parent.groups[0].imbalance = 1
    if env.flags & LBF_ALL_PINNED:
        return _leave_out_busiest(env, view)
    return _end_of_moves(env, view)


def should_we_balance(env: LbEnv, view: RqView) -> bool:
    """Return whether this CPU is the one that balances for its group (``should_we_balance()``)."""
    if not env.cpus >> env.dst_cpu & 1:
        return False
    if env.idle == CPU_NEWLY_IDLE:
        if not env.rules.swb_newidle_pending:
            return True
        return not view.nr_running(env.dst_cpu) and not view.ttwu_pending(env.dst_cpu)
    group = env.sd.groups[0]
    chosen = _first_idle(env, group, view)
    return (chosen if chosen >= 0 else group_balance_cpu(group)) == env.dst_cpu


def _first_idle(env: LbEnv, group: SchedGroup, view: RqView) -> int:
    # Later kernels look for an idle core first, and then for an idle CPU with busy siblings.
    cores_first = env.rules.swb_idle_core and not env.sd.flags & SD_SHARE_CPUCAPACITY
    idle_smt = -1
    mask = group.balance_mask & env.cpus
    while mask:
        cpu = (mask & -mask).bit_length() - 1
        mask &= ~(1 << cpu)
        if not view.idle_cpu(cpu):
            continue
        if not cores_first or view.is_core_idle(cpu):
            return cpu
        if idle_smt < 0:
            idle_smt = cpu
        mask &= ~view.core[cpu]
    return idle_smt


def need_active_balance(env: LbEnv, view: RqView) -> bool:
    """Return whether the failed pass must push (``need_active_balance()``)."""
    rules = env.rules
    if voluntary_active_balance(env, view):
        return True
    if env.flags & LBF_SMALL_IMBL or (rules.no_push_for_kthreads and env.others_bound):
        return False
    if rules.active_balance_migrate_task and env.migration_type != MIGRATION_TASK:
        return False
    return env.sd.nr_balance_failed > env.sd.cache_nice_tries + 2


def voluntary_active_balance(env: LbEnv, view: RqView) -> bool:
    """Return whether a lone task would run better here, whatever the failures."""
    if env.idle == CPU_NOT_IDLE or view.rq(env.src_cpu)[RQ_H_NR_RUNNING] != 1:
        return False
    source, target = view.capacity_of(env.src_cpu), view.capacity_of(env.dst_cpu)
    reduced = check_cpu_capacity(source, env.sd)
    return reduced and source * env.sd.imbalance_pct < target * 100


def _redo(env: LbEnv, view: RqView) -> bool:
    row = env.sd.lb[env.idle]
    if not should_we_balance(env, view):
        env.refused = True
        return _out_balanced(env)
    group = _find_busiest_group(env, view)
    if group is None:
        row[LB_NOBUSYG] += 1
        return _out_balanced(env)
    env.found = True
    source = _find_busiest_queue(env, group, view)
    if source < 0:
        row[LB_NOBUSYQ] += 1
        return _out_balanced(env)
    assert source != env.dst_cpu
    env.src_cpu = source
    row[LB_IMBALANCE] += env.imbalance
    nr_running = view.nr_running(source)
    if nr_running > 1 or env.rules.lb_all_pinned_alone:
        env.flags |= LBF_ALL_PINNED
    if nr_running <= 1:
        return _end_of_moves(env, view)
    env.loop_max = min(view.nr_migrate, nr_running)
    return _ask(env, view)


def _find_busiest_group(env: LbEnv, view: RqView) -> SchedGroup | None:
    if env.rules.lb_group_types:
        return group_types.find_busiest_group(env, view)
    return busiest.find_busiest_group(env, view)


def _find_busiest_queue(env: LbEnv, group: SchedGroup, view: RqView) -> int:
    if env.rules.lb_group_types:
        return group_types.find_busiest_queue(env, group, view)
    return busiest.find_busiest_queue(env, group, view)


def _ask(env: LbEnv, view: RqView) -> bool:
    env.dst_nr_running = view.nr_running(env.dst_cpu)
    return True


def _account_detached(env: LbEnv, nr_tasks: int) -> None:
    row = env.sd.lb[env.idle]
    if nr_tasks and not env.ld_moved:
        row[LB_MOVED] += 1
    row[LB_GAINED] += nr_tasks
    row[LB_PULLED] += nr_tasks
    row[LB_HOT_GAINED] += env.hot_gained
    env.hot_gained = 0
    env.ld_moved += nr_tasks
    if env.dst_cpu == env.this_cpu:
        env.ld_moved_here += nr_tasks


def _try_other_dst(env: LbEnv, view: RqView) -> bool:
    # Some task may not come here but may go to another CPU of our group.
    assert env.new_dst_cpu >= 0
    assert (env.dst_grpmask & env.cpus) >> env.new_dst_cpu & 1
    env.cpus &= ~(1 << env.dst_cpu)
    env.dst_cpu = env.new_dst_cpu
    env.flags &= ~LBF_DST_PINNED
    env.restart_loop()
    return _ask(env, view)


def _leave_out_busiest(env: LbEnv, view: RqView) -> bool:
    # No task of the busiest CPU may come here: try without that CPU while others are left.
    env.cpus &= ~(1 << env.src_cpu)
    if env.cpus & ~env.dst_grpmask:
        env.restart_loop()
        return _redo(env, view)
    return _out_all_pinned(env, LB_PINNED)


def _end_of_moves(env: LbEnv, view: RqView) -> bool:
    sd = env.sd
    if env.ld_moved:
        sd.nr_balance_failed = 0
        return _finish(env, view, RESULT_MOVED)
    sd.lb[env.idle][LB_FAILED] += 1
    # A newly idle CPU asks often; its failures say nothing about lasting imbalance.
    if env.idle != CPU_NEWLY_IDLE:
        sd.nr_balance_failed += 1
    if not need_active_balance(env, view):
        return _finish(env, view, RESULT_FAILED)
    if view.nr_running(env.src_cpu) > 1:
        return _active_balance(env, view)
    env.failing = True
    return _ask(env, view)


def _active_balance(env: LbEnv, view: RqView) -> bool:
    rules = env.rules
    if not env.curr_allowed:
        if not rules.lb_all_pinned_alone:
            env.flags |= LBF_ALL_PINNED
        return _out_one_pinned(env, LB_PINNED)
    if rules.lb_all_pinned_alone:
        env.flags &= ~LBF_ALL_PINNED
    if not rules.active_balance_keeps_count:
        # One more than the tries: so the task just stopped is pushed although it is cache hot.
        env.sd.nr_balance_failed = env.sd.cache_nice_tries + 1
    if view.active_balance[env.src_cpu] is not None:
        return _finish(env, view, RESULT_FAILED)
    view.active_balance[env.src_cpu] = [env.this_cpu, env.idle]
    env.sd.lb[env.idle][LB_ACTIVE_KICKED] += 1
    env.stop_cpu = env.src_cpu
    return _finish(env, view, LB_ACTIVE)


def _finish(env: LbEnv, view: RqView, result: int) -> bool:
    sd = env.sd
    env.result = result
    if env.rules.active_balance_keeps_count:
        if env.stop_cpu < 0 or need_active_balance(env, view):
            sd.balance_interval = sd.min_interval
    elif env.stop_cpu < 0 or voluntary_active_balance(env, view):
        sd.balance_interval = sd.min_interval
    elif sd.balance_interval < sd.max_interval:
        sd.balance_interval *= 2
    return False


def _out_balanced(env: LbEnv) -> bool:
    # Clear the flag only if tasks other than the pinned ones could have moved.
    if env.sd.parent is not None and not env.flags & LBF_ALL_PINNED:
        env.sd.parent.groups[0].imbalance = 0
    return _out_all_pinned(env, RESULT_BALANCED)


def _out_all_pinned(env: LbEnv, result: int) -> bool:
    assert env.ld_moved == 0
    env.sd.lb[env.idle][LB_BALANCED] += 1
    env.sd.nr_balance_failed = 0
    return _out_one_pinned(env, result)


def _out_one_pinned(env: LbEnv, result: int) -> bool:
    env.result = result
    env.ld_moved = 0
    sd = env.sd
    if env.idle == CPU_NEWLY_IDLE:
        return False
    pinned = bool(env.flags & LBF_ALL_PINNED) and sd.balance_interval < MAX_PINNED_INTERVAL
    if pinned or sd.balance_interval < sd.max_interval:
        sd.balance_interval *= 2
    return False
