"""A pool whose CPU has gone: unbound workers, queueing there, the way home (F.11)."""

from __future__ import annotations

import pytest

from emulator import messages, wire
from emulator.kernel import snapshot
from emulator.kernel.wq_pool import (
    FN_SCRIPT,
    WORKER_NOT_RUNNING,
    WORKER_REBOUND,
    is_unbound,
)
from emulator.kernel.wq_table import WQ_DIO, WQ_EVENTS
from emulator.rules import rules_of
from emulator.types import WorkqueueSpec
from tests.kernel.box import MS, US, Box, costs, lone_cpu, script_work

CHARGES = {"ipi_ns": 1500, "ttwu_activate_ns": 500, "stopper_ns": 3000, "context_switch_ns": 1500}
START = 100 * US
DOWN = START + MS
VERSIONS = ["5.4", "5.15", "6.1", "6.12"]


def box_of(version: str, *items: list[tuple[int, int]], nr_cpus: int = 4) -> tuple[Box, list[int]]:
    """Return a box whose CPU 2 has items, and their works; it goes down at DOWN."""
    box = Box(
        nr_cpus=nr_cpus, charges=costs(**CHARGES), rules=rules_of(version), version=version
    ).run(START)
    works = [script_work(box.cpus[2], WQ_EVENTS, list(item)) for item in items]
    box.command(DOWN, 2, "cpu", "offline", 2)
    return box, works


def workers(box: Box, home: int) -> dict[int, tuple[int, int]]:
    """Return the workers of a CPU's normal pool: pid -> (where they are, their mask)."""
    return {
        pid: (cpu.node_id, p.cpus_mask)
        for cpu in box.cpus
        for pid, p in cpu.tasks.items()
        if p.comm.startswith(f"kworker/{home}:") and not p.comm.endswith("H")
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_F_11_pending_items_are_run_side_by_side_by_the_pools_own_workers(version: str) -> None:
    """Bound, one waits for the other; with the CPU gone each has a worker of its own."""
    box, works = box_of(version, *[[(4 * MS, 0)]] * 3)
    box.run(DOWN + 20 * MS)
    starts = box.events("workqueue_execute_start")
    assert [e[2]["work"] for e in starts] == works
    assert [e[2]["on"] == 2 for e in starts] == [True, False, False], "it stops between two items"
    ends = {e[2]["work"]: e for e in box.events("workqueue_execute_end")}
    assert ends.keys() == set(works)
    assert starts[2][0] < ends[works[1]][0], "concurrency is not managed any more"
    assert {box.comm(e[2]["current"])[:10] for e in ends.values()} == {"kworker/2:"}


@pytest.mark.parametrize(
    ("version", "asleep", "woken"),
    [("5.4", 0b0100, 0b1111), ("5.15", 0b1111, 0b1111), ("6.1", 0b1010, 0b1010)],
)
def test_F_11_what_the_workers_are_let_onto(version: str, asleep: int, woken: int) -> None:
    """Up to 5.10 the fallback breaks the mask of one that is woken; later all are let go at once."""
    box = Box(
        nr_cpus=4,
        charges=costs(**CHARGES),
        rules=rules_of(version),
        version=version,
        wq=WorkqueueSpec(cpumask=0b1010),
    ).run(START)
    box.command(DOWN, 2, "cpu", "offline", 2)
    box.run(DOWN + MS)
    cpu = box.cpus[2]
    assert {mask for _where, mask in workers(box, 2).values()} == {asleep}
    assert all(pool.disassociated and pool.nr_running == 0 for pool in cpu.pools)
    queue_there(box, 2, WQ_EVENTS, 10 * US)
    box.run(DOWN + 2 * MS)
    assert {mask for _where, mask in workers(box, 2).values()} == {asleep, woken}


def queue_there(box: Box, target: int, wq_id: int, burn_ns: int) -> int:
    """``queue_work_on()`` from CPU 0; return the work."""
    cpu = box.cpus[0]
    work = cpu.work_id()
    cpu.works[0] += 1
    item = [work, FN_SCRIPT, wq_id, [[burn_ns, 0]], 0]
    cpu.send(target, messages.QUEUE_WORK, (item, 0, 0), cpu.now + 2 * US, US)
    return work


def test_F_4_what_is_queued_for_a_dead_cpu_joins_its_pool() -> None:
    box, _works = box_of("5.4")
    box.run(DOWN + MS)
    work = queue_there(box, 2, WQ_DIO, 10 * US)
    box.run(DOWN + 2 * MS)
    ((_, _, end),) = box.events("workqueue_execute_end")
    assert (end["work"], end["on"]) == (work, 0)
    assert box.comm(end["current"]).startswith("kworker/2:")
    ((_, _, moved),) = [
        e for e in box.events("sched_migrate_task") if e[2]["pid"] == end["current"]
    ]
    assert (moved["orig_cpu"], moved["dest_cpu"]) == (2, 0)


@pytest.mark.parametrize("version", VERSIONS)
def test_F_11_the_workers_come_home_with_their_cpu(version: str) -> None:
    box, works = box_of(version, [(US, 30 * MS), (US, 0)], *[[(8 * MS, 0)]] * 3)
    box.run(DOWN + 9 * MS)
    cpu = box.cpus[2]
    assert cpu.asked is not None
    there = workers(box, 2)
    assert all(where != 2 for where, _mask in there.values())
    assert set(there) == set(cpu.asked.pools[cpu.first_disassociated + 4].places)
    box.command(DOWN + 10 * MS, 2, "cpu", "online", 2)
    box.run(DOWN + 11 * MS)
    # The idle ones are back; those that execute come after their items, or when they wake in one.
    pool = cpu.pools[0]
    assert not pool.disassociated
    away = {work for _where, _moves, _queue, work, _function in pool.away.values()}
    assert away == {works[0], *works[2:]}
    for pid, at in workers(box, 2).items():
        assert at[1] == 0b0100
        assert (at[0] == 2) == (pid not in pool.away)
    box.run(DOWN + 20 * MS)
    assert {work for _where, _moves, _queue, work, _function in pool.away.values()} == {works[0]}
    assert pool.nr_running == 0
    rebound = [pid for pid, flags in pool.workers.items() if flags & WORKER_REBOUND]
    assert rebound, "they count from their next cycle on"
    box.run(DOWN + 60 * MS)
    ends = {e[2]["work"]: e[2]["on"] for e in box.events("workqueue_execute_end")}
    assert [ends[work] == 2 for work in works] == [True, True, False, False]
    assert not pool.away
    new = script_work(cpu, WQ_EVENTS, [(10 * US, 0)])
    box.run(DOWN + 61 * MS)
    assert box.times("workqueue_execute_end", cpu=2, work=new)
    assert all(flags & WORKER_NOT_RUNNING for flags in pool.workers.values())


def test_F_11_a_worker_that_asks_when_its_cpu_is_back_is_sent_home() -> None:
    """Its item ends while the news that its CPU is back is on the way."""
    charges = costs(**{**CHARGES, "ipi_ns": 200 * US, "ttwu_activate_ns": 300 * US})

    def run(online_ns: int) -> tuple[Box, list[int]]:
        box = Box(nr_cpus=4, charges=charges).run(START)
        works = [script_work(box.cpus[2], WQ_EVENTS, [(3 * MS, 0)]) for _ in range(4)]
        box.command(START + MS, 2, "cpu", "offline", 2)
        if online_ns:
            box.command(online_ns, 2, "cpu", "online", 2)
        box.run(START + 30 * MS)
        return box, works

    ends = run(0)[0].events("workqueue_execute_end")
    assert [e[2]["on"] == 2 for e in ends] == [True, False, False, False]
    box, works = run(ends[1][0] - 100 * US)
    assert sorted(e[2]["work"] for e in box.events("workqueue_execute_end")) == sorted(works)
    assert all(at == (2, 0b0100) for at in workers(box, 2).values())
    pool = box.cpus[2].pools[0]
    assert (pool.active, pool.away) == ({WQ_EVENTS: 0}, {})
    assert sorted(pool.idle) == sorted(pool.workers)


def test_F_11_the_pool_of_a_dead_cpu_is_in_its_snapshot() -> None:
    box, _works = box_of("5.4", *[[(US, 9 * MS), (US, 0)]] * 4)
    box.run(DOWN + 2 * MS)
    cpu = box.cpus[2]
    assert cpu.asked is not None
    state = wire.pack(snapshot.pack(cpu))
    restored, _board, _ring = lone_cpu(2, 4, charges=costs(**CHARGES))
    snapshot.unpack(restored, wire.unpack(state))
    assert restored.asked is not None
    assert wire.pack(restored.asked.pack()) == wire.pack(cpu.asked.pack())
    executing = [p for one in box.cpus for p in one.tasks.values() if p.run.item]
    assert len(executing) == 4
    assert all(is_unbound(p) for p in executing)
