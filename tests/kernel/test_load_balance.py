"""The source's half of a pass, detach_tasks() and can_migrate_task() by version: scheduler.md D.8."""

from __future__ import annotations

from typing import Any

import pytest

from emulator import messages
from emulator.kernel import fair, load_balance, util_est
from emulator.kernel.cpu import Cpu
from emulator.kernel.load_balance import can_migrate_task, detach_one_task, detach_tasks
from emulator.kernel.sched import KTHREAD_IS_PER_CPU, PF_KTHREAD, Task
from emulator.kernel.stop_machine import active_load_balance_cpu_stop
from emulator.rules import Rules, changed, rules_of
from emulator.tracepoints import MIGRATE_ACTIVE, MIGRATE_PERIODIC
from emulator.types import (
    CPU_IDLE,
    CPU_NEWLY_IDLE,
    CPU_NOT_IDLE,
    ENV_CACHE_NICE_TRIES,
    ENV_CPUS,
    ENV_DST_CPU,
    ENV_DST_GRPMASK,
    ENV_FIELDS,
    ENV_FLAGS,
    ENV_HOT_GAINED,
    ENV_IDLE,
    ENV_IMBALANCE,
    ENV_LOOP,
    ENV_LOOP_BREAK,
    ENV_LOOP_MAX,
    ENV_MIGRATION_TYPE,
    ENV_NEW_DST_CPU,
    ENV_NR_BALANCE_FAILED,
    ENV_OTHERS_BOUND,
    ENV_SMT,
    ENV_SRC_CPU,
    ENV_THIS_CPU,
    ENV_WHY,
    LBF_ACTIVE_LB,
    LBF_ALL_PINNED,
    LBF_DST_PINNED,
    LBF_SOME_PINNED,
    MIGRATION_LOAD,
    MIGRATION_TASK,
    MIGRATION_UTIL,
    STOP_FAILED,
    STOP_PUSHED,
)
from tests.kernel.box import MS, lone_cpu, run_task, sleeping_task

V54, V56, V510, V515, V66, V612 = map(rules_of, ("5.4", "5.6", "5.10", "5.15", "6.6", "6.12"))


def source(rules: Rules = V54, *, loads: tuple[int, ...] = (1024,), cold: bool = True) -> Cpu:
    """Return CPU 0 of 4 that runs task 500; tasks 501… of these loads wait, the first at the tail."""
    cpu, _, _ = lone_cpu(0, 4, rules=rules)
    cpu.now = 100 * MS
    fair.update_rq_clock(cpu.rq, cpu.now)
    run_task(cpu, sleeping_task(cpu, 500))
    for number, load in enumerate(loads):
        p = sleeping_task(cpu, 501 + number)
        p.avg.load_avg = p.avg.runnable_avg = load
        p.avg.util_avg = load
        p.state = 0
        fair.enqueue_task_fair(cpu.rq, p, 0)
        p.exec_start = 0 if cold else cpu.rq.clock_task
    # h_load of this jiffy: so large that a task's share is its own load.
    cpu.rq.cfs.last_h_load_update = cpu.jiffies()
    cpu.rq.cfs.h_load = cpu.rq.cfs.avg.load_avg + 1
    return cpu


def env_for(dst: int = 1, **given: int) -> list[Any]:
    """Return an env of a pass for CPU ``dst``."""
    env: list[Any] = [0] * ENV_FIELDS
    values = {
        "dst_cpu": dst,
        "this_cpu": dst,
        "idle": CPU_IDLE,
        "imbalance": 10_000,
        "loop_break": 32,
        "loop_max": 32,
        "flags": LBF_ALL_PINNED,
        "new_dst_cpu": -1,
        "cache_nice_tries": 1,
        "dst_grpmask": 1 << dst,
        "cpus": 15,
        "why": MIGRATE_PERIODIC,
    } | given
    for name, value in values.items():
        env[INDEX[name]] = value
    return env


INDEX = {
    "dst_cpu": ENV_DST_CPU,
    "src_cpu": ENV_SRC_CPU,
    "this_cpu": ENV_THIS_CPU,
    "idle": ENV_IDLE,
    "imbalance": ENV_IMBALANCE,
    "loop": ENV_LOOP,
    "loop_break": ENV_LOOP_BREAK,
    "loop_max": ENV_LOOP_MAX,
    "flags": ENV_FLAGS,
    "new_dst_cpu": ENV_NEW_DST_CPU,
    "failed": ENV_NR_BALANCE_FAILED,
    "cache_nice_tries": ENV_CACHE_NICE_TRIES,
    "dst_grpmask": ENV_DST_GRPMASK,
    "cpus": ENV_CPUS,
    "why": ENV_WHY,
    "kind": ENV_MIGRATION_TYPE,
    "smt": ENV_SMT,
}


def pids(tasks: list[Task]) -> list[int]:
    return [p.pid for p in tasks]


def order(cpu: Cpu) -> list[int]:
    """Return the list that the balancer walks, its head first."""
    return pids(cpu.rq.cfs.cfs_tasks)


# -- How much of an imbalance a task is -----------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "failed", "load", "imbalance", "moved"),
    [
        (V54, 0, 1000, 500, True),  # half of it is not more than the imbalance
        (V54, 0, 1002, 500, False),
        (V54, 9, 1002, 500, False),
        (V56, 1, 1002, 500, False),  # until failures exceed the tries
        (V56, 2, 1002, 500, True),
        (V510, 0, 500, 500, True),
        (V510, 0, 501, 500, False),
        (V510, 1, 1001, 500, True),
        (V510, 1, 1002, 500, False),
        (V510, 2, 2003, 500, True),
        (V515, 70, 1 << 20, 1, True),  # shifted by 63 at most
    ],
)
def test_table_D_8_load(rules: Rules, failed: int, load: int, imbalance: int, moved: bool) -> None:
    cpu = source(rules, loads=(load,))
    env = env_for(imbalance=imbalance, failed=failed, kind=MIGRATION_LOAD)
    assert pids(detach_tasks(cpu, env)) == ([501] if moved else [])
    assert env[ENV_IMBALANCE] == (imbalance - load if moved else imbalance)


def test_table_D_8_a_load_is_at_least_1_from_5_10_on() -> None:
    for rules, moved in ((V56, [501, 502, 503]), (V510, [501, 502])):
        cpu = source(rules, loads=(0, 0, 0))
        env = env_for(imbalance=2, kind=MIGRATION_LOAD)
        assert pids(detach_tasks(cpu, env)) == moved


@pytest.mark.parametrize(
    ("rules", "failed", "moved"),
    [(V56, 0, False), (V56, 3, False), (V66, 3, False), (V612, 0, False), (V612, 1, True)],
)
def test_table_D_8_util(rules: Rules, failed: int, moved: bool) -> None:
    cpu = source(rules, loads=(401,))
    util = util_est.task_util_est(cpu.rq, cpu.tasks[501])
    assert util == 401
    env = env_for(imbalance=400, failed=failed, kind=MIGRATION_UTIL)
    assert bool(detach_tasks(cpu, env)) is moved
    cpu = source(rules, loads=(400 & ~1 | 1, 300))
    env = env_for(imbalance=450, kind=MIGRATION_UTIL)
    # 401 of 450 go; what is left is less than the next.
    assert pids(detach_tasks(cpu, env)) == [501]
    assert env[ENV_IMBALANCE] == 49


@pytest.mark.parametrize("rules", [V56, V510, V515, V612])
def test_table_D_8_a_task_is_one_whatever_its_load(rules: Rules) -> None:
    cpu = source(rules, loads=(88761, 15, 1024))
    env = env_for(imbalance=2, kind=MIGRATION_TASK)
    assert pids(detach_tasks(cpu, env)) == [501, 502]
    assert env[ENV_IMBALANCE] == 0
    assert cpu.rq.nr_running == 2


def test_D_8_a_refused_task_goes_to_the_head() -> None:
    cpu = source(V54, loads=(1024, 10))
    assert order(cpu) == [502, 501, 500]
    env = env_for(imbalance=100, loop_max=3)  # as many as there are
    assert pids(detach_tasks(cpu, env)) == [502]
    assert order(cpu) == [501, 500]


def test_D_8_an_idle_target_leaves_the_source_one_task() -> None:
    for idle, moved in ((CPU_NOT_IDLE, [501, 502]), (CPU_IDLE, [501])):
        cpu = source(V54, loads=(100, 100))
        running = cpu.tasks[500]
        fair.dequeue_task_fair(cpu.rq, running, 0)
        env = env_for(idle=idle)
        assert pids(detach_tasks(cpu, env)) == moved


def test_D_8_an_emptied_source_clears_all_pinned_from_5_14_on() -> None:
    for rules, flags in ((V510, LBF_ALL_PINNED), (V515, 0)):
        cpu = source(rules, loads=())
        env = env_for(kind=MIGRATION_TASK, imbalance=1)
        assert detach_tasks(cpu, env) == []
        assert env[ENV_FLAGS] == flags


# -- can_migrate_task() ---------------------------------------------------------------------------


def bound(cpu: Cpu, pid: int = 501) -> Task:
    """Make a waiting task a kthread of this CPU."""
    p = cpu.tasks[pid]
    p.cpus_mask, p.nr_cpus_allowed = 1, 1
    p.flags |= PF_KTHREAD
    p.kthread_flags = KTHREAD_IS_PER_CPU
    return p


def test_table_D_8_rule_2_per_cpu_kthreads_leave_no_mark_from_5_12_on() -> None:
    for rules, flags in ((V510, LBF_ALL_PINNED | LBF_SOME_PINNED), (V515, LBF_ALL_PINNED)):
        cpu = source(rules)
        env = env_for()
        assert not can_migrate_task(cpu, bound(cpu), env)
        assert env[ENV_FLAGS] == flags
    # A bound task that is no per-CPU kthread still marks.
    cpu = source(V515)
    p = bound(cpu)
    p.kthread_flags = 0
    env = env_for()
    assert not can_migrate_task(cpu, p, env)
    assert env[ENV_FLAGS] == LBF_ALL_PINNED | LBF_SOME_PINNED


def test_kworkers_are_per_cpu_kthreads_from_5_11_on() -> None:
    for rules, flag in ((V54, 0), (V510, 0), (V515, KTHREAD_IS_PER_CPU)):
        cpu, _, _ = lone_cpu(0, 4, rules=rules)
        for pool in cpu.pools:
            assert pool.workers
            assert {cpu.tasks[pid].kthread_flags for pid in pool.workers} == {flag}
        assert cpu.ksoftirqd.kthread_flags == KTHREAD_IS_PER_CPU


def test_table_D_8_rule_3_another_cpu_of_the_group_is_looked_for() -> None:
    cases = [
        (CPU_IDLE, LBF_ALL_PINNED, 2),
        (CPU_NEWLY_IDLE, LBF_ALL_PINNED, -1),
        (CPU_IDLE, LBF_DST_PINNED, -1),
        (CPU_IDLE, LBF_ACTIVE_LB, -1),
    ]
    for idle, flags, other in cases:
        cpu = source(V515)
        p = cpu.tasks[501]
        p.cpus_mask, p.nr_cpus_allowed = 0b1101, 3
        env = env_for(idle=idle, flags=flags, dst_grpmask=0b0110)
        assert not can_migrate_task(cpu, p, env)
        assert env[ENV_NEW_DST_CPU] == other
        found = LBF_DST_PINNED if other >= 0 else 0
        assert env[ENV_FLAGS] == flags | LBF_SOME_PINNED | found


def test_table_D_8_rule_5_the_running_task_stays_whatever_the_flags() -> None:
    for flags in (LBF_ALL_PINNED, LBF_ACTIVE_LB):
        cpu = source(V515)
        env = env_for(flags=flags)
        assert not can_migrate_task(cpu, cpu.tasks[500], env)
        assert env[ENV_FLAGS] & LBF_ALL_PINNED == 0
        assert cpu.counters["nr_failed_migrations_running"] == 1


def test_table_D_8_rules_6_and_7_a_hot_task() -> None:
    for rules, flags, failed, smt, moves, counted in [
        (V54, 0, 1, 0, False, 0),
        (V54, 0, 2, 0, True, 1),
        (V54, LBF_DST_PINNED, 1, 0, False, 0),
        (V510, 0, 1, 0, False, 0),
        (V510, 0, 1, 1, True, 0),  # siblings share the cache that counts
        (V56, 0, 1, 1, False, 0),
        (V515, LBF_ACTIVE_LB, 0, 0, True, 0),
    ]:
        cpu = source(rules, cold=False)
        env = env_for(flags=flags, failed=failed, smt=smt)
        assert can_migrate_task(cpu, cpu.tasks[501], env) is moves
        assert env[ENV_HOT_GAINED] == counted


# -- The stopper ----------------------------------------------------------------------------------


def stopped(rules: Rules, failed: int) -> tuple[int, int]:
    """Let the stopper of CPU 0 push task 501, which has just been taken off it."""
    cpu = source(rules, cold=False)
    cpu.tasks[500].on_cpu = 0
    bound(cpu, 500)
    env = env_for(failed=failed, idle=CPU_NOT_IDLE, flags=LBF_SOME_PINNED)
    result = active_load_balance_cpu_stop(cpu, 1, env)
    assert env[ENV_IDLE] == CPU_IDLE
    assert env[ENV_WHY] == MIGRATE_ACTIVE
    return result


def test_D_9_hotness_decides_in_5_4_and_not_from_5_13_on() -> None:
    # If a balanced pass clears the counter between kick and stop, the task is refused as hot.
    assert stopped(V54, 0) == (STOP_FAILED, 0)
    assert stopped(V54, 2) == (STOP_PUSHED, 1)
    assert stopped(V515, 0) == (STOP_PUSHED, 0)


def test_D_9_the_stopper_takes_the_first_that_may_go_from_the_tail() -> None:
    cpu = source(V54, loads=(1024, 15))
    env = env_for(flags=LBF_DST_PINNED)
    found = detach_one_task(cpu, env)
    assert found is not None
    assert (found[0].pid, found[1]) == (501, 0)  # behind 500, which runs


# -- F18 ------------------------------------------------------------------------------------------


def answer(cpu: Cpu) -> list[Any]:
    """Return the env that CPU 0 sends back without having had to move anything."""
    env = env_for(imbalance=0)
    load_balance.handle_detach(cpu, (cpu.now, 4, 1, 0, messages.DETACH, (env,)))
    (detached,) = [m for m in cpu.outbox if m[4] == messages.DETACHED]
    returned: list[Any] = detached[5][0]
    cpu.outbox.clear()
    return returned


def test_F18_the_source_says_whether_only_per_cpu_kthreads_wait() -> None:
    rules = changed(V54, {"no_push_for_kthreads": 1})
    cpu = source(rules, loads=(15, 15))
    assert answer(cpu)[ENV_OTHERS_BOUND] == 0
    bound(cpu, 501)
    assert answer(cpu)[ENV_OTHERS_BOUND] == 0
    bound(cpu, 502)
    assert answer(cpu)[ENV_OTHERS_BOUND] == 1
    cpu.tasks[502].flags &= ~PF_KTHREAD  # a pinned task of the user is somebody else's wish
    assert answer(cpu)[ENV_OTHERS_BOUND] == 0
    assert answer(source(rules, loads=()))[ENV_OTHERS_BOUND] == 0  # nobody waits
    cpu = source(V54, loads=(15,))
    bound(cpu, 501)
    assert answer(cpu)[ENV_OTHERS_BOUND] == 0  # the rule is off


def test_a_load_is_scaled_by_what_the_queue_carried_first_in_this_jiffy() -> None:
    cpu = source(Rules(), loads=(400, 400))
    cfs, p = cpu.rq.cfs, cpu.tasks[501]

    def load(carried: int) -> int:
        cfs.avg.load_avg = carried
        return fair.task_h_load(p, cpu.rq, cpu.jiffies())

    cpu.now += cpu.tick_ns
    assert load(800) == 400 * 800 // 801
    assert load(400) == 400 * 800 // 401, "the same jiffy: still 800"
    cpu.now += cpu.tick_ns
    assert load(400) == 400 * 400 // 401
    # detach_tasks() looks in its own jiffy, too.
    cpu.now += cpu.tick_ns
    detach_tasks(cpu, env_for(imbalance=500))
    assert cfs.last_h_load_update == cpu.jiffies()
