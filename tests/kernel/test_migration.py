"""Moves by a CPU's own stopper: exec, affinity (F.5), balance_push (5.11)."""

from __future__ import annotations

import pytest

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import frames, kthread, migration, stop_machine
from emulator.kernel.cpu import Cpu
from emulator.kernel.sched import PF_KTHREAD, PF_NO_SETAFFINITY, Task
from emulator.rules import VERSIONS, Rules, rules_of
from emulator.types import (
    ENV_CPUS,
    ENV_FIELDS,
    ENV_NR_BALANCE_FAILED,
    ENV_SRC_CPU,
    OP_EXEC,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_SLEEP,
    RQF_ACTIVE,
    RQF_ONLINE,
    STOP_ABORTED,
    STOP_PUSHED,
    WRITE,
)
from tests.kernel.box import (
    MS,
    US,
    Box,
    Job,
    Steps,
    costs,
    facts,
    lone_cpu,
    run_task,
    scsi_debug,
    sleeping_task,
)

CHARGES = {
    "ipi_ns": 1500,
    "ttwu_activate_ns": 500,
    "select_task_rq_ns": 600,
    "syscall_ns": 400,
    "stopper_ns": 3000,
    "stopper_tail_ns": 1000,
    "context_switch_ns": 1500,
    "coherence_ns": 100,
}


def hog() -> Steps:
    """Burn a second."""
    yield (OP_RUN, 1000 * MS)


def moves(box: Box, index: int = 0) -> list[tuple[int, int, int]]:
    """Return (from, to, why) of a task's moves."""
    return [
        (args["orig_cpu"], args["dest_cpu"], args["why"])
        for _, _, args in box.events("sched_migrate_task")
        if args["pid"] == box.pid(index)
    ]


def answers(box: Box) -> list[str]:
    """Return what commands were answered, where there was anything to say."""
    found = [m[5][1] for m in box.engine.answers if m[4] == messages.COMMAND_DONE]
    return [answer for answer in found if answer]


# -- exec ---------------------------------------------------------------------------------------


def execs() -> Steps:
    """Exec after 100 µs."""
    yield (OP_RUN, 100 * US)
    got = yield (OP_EXEC,)
    assert got == 0
    yield (OP_RUN, 1000 * MS)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_exec_leaves_a_crowded_cpu_through_the_stopper(version: str) -> None:
    """Two hogs pinned to CPU 0 keep it busy; the others idle."""
    box = Box(
        Job(execs, "sh", cpu=0),
        Job(hog, "one", cpu=0, mask=1, start_ns=50 * US),
        Job(hog, "two", cpu=0, mask=1, start_ns=50 * US),
        nr_cpus=4,
        charges=costs(**CHARGES),
        sysctls={"kernel.sched_migration_cost_ns": 1_000_000_000},
        rules=rules_of(version),
        version=version,
    ).run(40 * MS)
    ((origin, target, why), *_) = moves(box)
    assert (origin, why) == (0, tp.MIGRATE_EXEC)
    assert target != 0
    at_ns = box.times("sched_migrate_task", pid=box.pid(0))[0]
    (stopped_ns,) = [t for t, _, to in box.switches(0) if to == "migration/0" and t < at_ns][-1:]
    assert at_ns == stopped_ns + 3000
    (chosen,) = [a for _, _, a in box.events("box_select_task_rq") if a["rule"] == tp.PLACE_EXEC]
    assert (chosen["prev_cpu"], chosen["cpu"]) == (0, target)
    assert box.times("box_find_idlest", pid=box.pid(0))


def test_an_exec_on_a_cpu_of_its_own_stays() -> None:
    for version in VERSIONS:
        rules = rules_of(version)
        box = Box(Job(execs, "sh"), nr_cpus=4, charges=costs(**CHARGES), rules=rules).run(2 * MS)
        assert moves(box) == []
        assert box.script().calls[2] == (100 * US + 1000 + box.script().calls[0][0], 0)


def test_execs_of_a_task_with_io_under_way_lose_nothing() -> None:
    def writes() -> Steps:
        for number in range(20):
            yield (OP_IO_SUBMIT, [(number, WRITE, 0, 4096 * number, 4096)])
            yield (OP_EXEC,)
            events = yield (OP_IO_GETEVENTS, 1, 1)
            assert events == [(number, 4096)]

    box = Box(
        Job(writes, "sh", disk="/xfs"),
        *(Job(hog, f"hog{c}", cpu=c) for c in (0, 1)),
        nr_cpus=4,
        disk=scsi_debug(41 * US),
        charges=costs(**CHARGES),
    ).run(500 * MS)
    assert len(box.times("box_aio_complete")) == 20
    assert box.times("sched_process_exit", pid=box.pid(0))


# -- The stopper's half -------------------------------------------------------------------------


def test_the_stopper_only_aims_a_task_that_went_to_sleep_meanwhile() -> None:
    cpu, _, _ = lone_cpu(0, 4)
    p = sleeping_task(cpu, 500)
    migration.migration_cpu_stop(cpu, 500, 3, tp.MIGRATE_AFFINITY)
    assert (p.cpu, p.wake_cpu) == (0, 3)
    migration.migration_cpu_stop(cpu, 777, 3, tp.MIGRATE_AFFINITY)  # gone: nothing happens


def test_the_stopper_moves_a_queued_task_to_an_active_cpu_only() -> None:
    cpu, board, _ = lone_cpu(0, 4)
    p = sleeping_task(cpu, 500)
    run_task(cpu, p)
    cpu.rq.fair.put_prev_task(cpu.rq, p)
    cpu.rq.curr, p.on_cpu = cpu.rq.idle, 0
    board.facts[2] = facts(flags=RQF_ONLINE)
    migration.migration_cpu_stop(cpu, 500, 2, tp.MIGRATE_AFFINITY)
    assert 500 in cpu.tasks
    board.facts[2] = facts(flags=RQF_ONLINE | RQF_ACTIVE)
    migration.migration_cpu_stop(cpu, 500, 2, tp.MIGRATE_AFFINITY)
    assert 500 not in cpu.tasks
    assert [(m[3], m[4]) for m in cpu.outbox] == [(2, messages.ACTIVATE)]


# -- Affinity -----------------------------------------------------------------------------------


def affine_cpu() -> tuple[Cpu, Task]:
    cpu, _, _ = lone_cpu(0, 4)
    return cpu, sleeping_task(cpu, 500)


def test_F_5_who_may_not_be_given_a_mask() -> None:
    cpu, p = affine_cpu()
    p.flags |= PF_NO_SETAFFINITY
    assert "EINVAL" in migration.set_cpus_allowed_ptr(cpu, p, 0b10)
    p.flags = 0
    assert "EINVAL" in migration.set_cpus_allowed_ptr(cpu, p, 0)
    assert p.cpus_mask == 0b1111


def test_F_5_users_need_an_active_cpu_kthreads_an_online_one() -> None:
    cpu, board, _ = lone_cpu(0, 4)
    board.facts[2] = facts(flags=RQF_ONLINE)
    for flags, refused in ((0, True), (PF_KTHREAD, False)):
        p = sleeping_task(cpu, 500 + flags % 7)
        p.flags = flags
        assert bool(migration.set_cpus_allowed_ptr(cpu, p, 1 << 2)) is refused


def test_F_5_a_sleeper_only_gets_the_mask() -> None:
    cpu, p = affine_cpu()
    assert migration.set_cpus_allowed_ptr(cpu, p, 0b1100) == ""
    assert (p.cpu, p.cpus_mask, p.nr_cpus_allowed) == (0, 0b1100, 2)
    assert (cpu.outbox, cpu.stop_works) == ([], [])


def test_F_5_a_task_whose_cpu_stays_allowed_stays() -> None:
    cpu, p = affine_cpu()
    run_task(cpu, p)
    assert migration.set_cpus_allowed_ptr(cpu, p, 0b0101) == ""
    assert (cpu.outbox, cpu.stop_works) == ([], [])


def test_F_5_a_running_task_is_moved_by_the_stopper_a_queued_one_directly() -> None:
    box = Box(Job(hog, "one"), Job(hog, "two"), nr_cpus=4, charges=costs(**CHARGES))
    box.run(100 * US)
    running = 0 if box.task(0).on_cpu else 1
    for name in ("one", "two"):
        for cpu in range(4):
            box.command(200 * US, cpu, "task", "affine", name, "2-3")
            break
    box.run(MS)
    assert moves(box, running) == [(0, 2, tp.MIGRATE_AFFINITY)]
    assert moves(box, 1 - running) == [(0, 2, tp.MIGRATE_AFFINITY)]
    direct_ns = box.times("sched_migrate_task", pid=box.pid(1 - running))
    by_stopper_ns = box.times("sched_migrate_task", pid=box.pid(running))
    assert direct_ns == [200 * US]
    # The IPI, two switches' first, the stop work.
    assert by_stopper_ns == [200 * US + 1500 + 1500 + 3000]
    assert box.task(running).cpus_mask == 0b1100


def test_task_affine_finds_its_task_wherever_it_is() -> None:
    box = Box(Job(hog, "hog", cpu=3), nr_cpus=4, charges=costs(**CHARGES))
    for cpu in range(4):
        box.command(MS, cpu, "task", "affine", "hog", "1")
        box.command(2 * MS, cpu, "task", "affine", "hog", "0-3")
    box.command(3 * MS, 1, "cpu", "offline", "1")
    box.run(5 * MS)
    assert moves(box)[0] == (3, 1, tp.MIGRATE_AFFINITY)
    assert answers(box) == ["done on CPU 3", "done on CPU 1", "done"]
    assert moves(box)[1][2] == tp.MIGRATE_HOTPLUG


# -- balance_push -------------------------------------------------------------------------------

V5_11 = Rules(balance_push=True, kworker_per_cpu=True)


def test_a_cpu_that_goes_down_pushes_each_task_as_it_switches_to_it() -> None:
    jobs = [Job(hog, name, cpu=2) for name in ("one", "two", "three")]
    box = Box(*jobs, nr_cpus=4, charges=costs(**CHARGES), rules=V5_11)
    box.command(100 * US, 2, "cpu", "offline", "2")
    box.run(3 * MS)
    assert {moves(box, index)[0][0] for index in range(3)} == {2}
    assert {moves(box, index)[0][2] for index in range(3)} == {tp.MIGRATE_HOTPLUG}
    # Each has been switched to, and did not run: the stopper takes it at the next switch.
    names = [(a, b) for t, a, b in box.switches(2) if t > 100 * US]
    assert names[:2] == [(names[0][0], "migration/2"), ("migration/2", names[1][1])]
    assert [b for _, b in names].count("migration/2") == 4  # three pushes, one to take it down
    down_ns = box.times("cpuhp_enter", cpu=2)[-1]
    assert all(t < down_ns for t in box.times("sched_migrate_task", cpu=2))
    assert not box.cpus[2].online
    assert answers(box) == ["done"]


def test_an_idle_cpu_goes_down_at_once() -> None:
    box = Box(nr_cpus=4, charges=costs(**CHARGES), rules=V5_11)
    box.command(MS, 2, "cpu", "offline", "2")
    box.command(2 * MS, 2, "cpu", "online", "2")
    box.run(3 * MS)
    assert answers(box) == ["done", "done"]
    assert not box.cpus[2].pushing
    assert box.cpus[2].active


def test_a_task_that_is_pinned_to_it_loses_its_affinity_when_pushed() -> None:
    job = Job(hog, "pinned", cpu=2, mask=1 << 2)
    box = Box(job, nr_cpus=4, charges=costs(**CHARGES), rules=V5_11)
    box.command(MS, 2, "cpu", "offline", "2")
    box.run(2 * MS)
    texts = [args["text"] for _, _, args in box.events("printk", cpu=2)]
    assert texts == [f"process {box.pid(0)} (pinned) no longer affine to cpu2"]
    assert box.task().cpu == 0


def test_a_task_that_wakes_on_the_way_down_is_placed_elsewhere() -> None:
    def naps() -> Steps:
        yield (OP_RUN, 10 * US)
        yield (OP_SLEEP, MS + 5 * US)
        yield (OP_RUN, 1000 * MS)

    jobs = [Job(hog, "hog", cpu=2), Job(naps, "sleeper", cpu=2, mask=0b1100)]
    for rules in (Rules(), V5_11):
        box = Box(*jobs, nr_cpus=4, charges=costs(**CHARGES), rules=rules)
        box.command(MS, 2, "cpu", "offline", "2")
        box.run(2 * MS)
        assert not box.cpus[2].online
        assert box.task(1).cpu == 3


def test_io_of_a_task_that_is_pushed_completes() -> None:
    def writes() -> Steps:
        got = yield (OP_IO_SUBMIT, [(data, WRITE, 0, 4096 * data, 4096) for data in range(8)])
        assert got == 8
        events = yield (OP_IO_GETEVENTS, 8, 8)
        assert sorted(data for data, _ in events) == list(range(8))
        yield (OP_RUN, 1000 * MS)

    job = Job(writes, "aio", cpu=2, disk="/xfs")
    for version in ("5.15", "6.12"):
        box = Box(
            job,
            Job(hog, "hog", cpu=2),
            nr_cpus=4,
            disk=scsi_debug(5 * MS),
            charges=costs(**CHARGES, hardirq_ns=700, hrtimer_ns=1000, dio_complete_ns=300),
            rules=rules_of(version) if version == "5.15" else V5_11,
        )
        box.command(MS, 2, "cpu", "offline", "2")
        box.run(30 * MS)
        assert len(box.times("box_aio_complete")) == 8
        assert not box.cpus[2].online


def test_the_stopper_and_own_threads_are_not_pushed() -> None:
    cpu, _, _ = lone_cpu(2, 4, rules=V5_11)
    cpu.pushing = True
    stopper, worker = cpu.rq.stop, cpu.tasks[cpu.pools[0].idle[0]]
    assert stopper is not None
    assert not migration.balance_push(cpu, stopper)
    assert not migration.balance_push(cpu, worker)
    p = sleeping_task(cpu, 500)
    run_task(cpu, p)
    assert migration.balance_push(cpu, p)
    assert cpu.f_kind == frames.SCHEDULE
    assert cpu.stop_works[0][:2] == [migration.BALANCE_PUSH, [500]]


# -- F.6 ----------------------------------------------------------------------------------------


def test_example_F_6_6_active_load_balance_cpu_stop() -> None:
    """T, a bound K and the stopper make 3: T goes.  Alone the stopper aborts."""
    cpu, _, _ = lone_cpu(0, 4)
    bound = sleeping_task(cpu, 401, mask=1)
    bound.state = tp.TASK_RUNNING
    cpu.rq.fair.enqueue_task(cpu.rq, bound, 0)
    p = sleeping_task(cpu, 500)
    p.state = tp.TASK_RUNNING
    cpu.rq.fair.enqueue_task(cpu.rq, p, 0)
    stop_machine.enqueue_task_stop(cpu, cpu.tasks[kthread.stopper_pid(0)])
    assert cpu.rq.nr_running == 3
    env = [0] * ENV_FIELDS
    env[ENV_SRC_CPU], env[ENV_CPUS], env[ENV_NR_BALANCE_FAILED] = 0, 0b1111, 9
    assert stop_machine.active_load_balance_cpu_stop(cpu, 2, env)[0] == STOP_PUSHED
    assert [(m[3], m[5][0]) for m in cpu.outbox] == [(2, 500)]
    cpu.rq.fair.dequeue_task(cpu.rq, bound, 0)
    assert cpu.rq.nr_running == 1
    assert stop_machine.active_load_balance_cpu_stop(cpu, 2, env) == (STOP_ABORTED, 0)
