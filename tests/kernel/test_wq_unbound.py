"""Unbound workqueues (io-and-workqueue.md F.2, F.4-F.10): pools of no CPU and their workers."""

from __future__ import annotations

from typing import Any

import pytest

from emulator import wire
from emulator.kernel import wq_table
from emulator.kernel.shared import WQ_DFL_MIN_ACTIVE, Shared, UnboundLimits
from emulator.kernel.wq_table import (
    WQ_EVENTS_UNBOUND,
    WQ_UNBOUND,
    Workqueue,
    boot_workers,
    unbound_pools,
    workqueues,
)
from emulator.rules import RULES, Rules, rules_of
from emulator.types import BoxSpec, WorkqueueSpec
from tests.kernel.box import MS, US, Box, box_spec, costs, machine, script_work

START = 10 * US
UNBOUND = WorkqueueSpec(unbound=("events_unbound",))
#: What the tests with times charge; all else is free.
CHARGES = {"coherence_ns": 100, "request_ns": 1, "ipi_ns": 500, "ttwu_activate_ns": 300}


def unbound_box(nr_cpus: int = 2, **kwargs: Any) -> Box:
    """Return an idle machine whose work items a test queues by hand."""
    wq = kwargs.pop("wq", UNBOUND)
    return Box(nr_cpus=nr_cpus, hz=100, wq=wq, **kwargs).run(START)


def node_of(box: Box) -> Shared:
    """Return the box's shared-state node."""
    assert box.shared is not None
    return box.shared


def comms(box: Box, event: str, field: str = "current") -> list[str]:
    """Return the names of the tasks of an event."""
    return [box.comm(e[2][field]) for e in box.events(event)]


def spec_of(
    nr_cpus: int, rules: Rules = Rules(), *, llc: int = 0, node: int = 0, **options: Any
) -> BoxSpec:
    """Return a box with an unbound queue in use."""
    wq = WorkqueueSpec(unbound=("events_unbound",), **options)
    return box_spec(machine(nr_cpus, llc=llc, node=node), costs(), [], rules=rules, wq=wq)


def pools_of(spec: BoxSpec) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Return (number, worker mask, pod) of every pool, and which one each CPU queues to."""
    pools, by_cpu = unbound_pools(spec, workqueues(spec))
    return [(p.name_id, p.mask, p.pod) for p in pools], by_cpu[WQ_EVENTS_UNBOUND]


# -- F.2, F.10: pools and pods ---------------------------------------------------------------------


def test_F_2_one_pool_per_numa_node_up_to_6_5() -> None:
    pools, by_cpu = pools_of(spec_of(8, node=4, llc=2))
    assert pools == [(16, 0xFF, 0xFF), (17, 0x0F, 0x0F), (18, 0xF0, 0xF0)]
    assert by_cpu == [1, 1, 1, 1, 2, 2, 2, 2]
    # On a machine of one node that is the pool of all CPUs: kworker/u16:N.
    assert pools_of(spec_of(8, llc=2)) == ([(16, 0xFF, 0xFF)], [0] * 8)


@pytest.mark.parametrize(
    ("scope", "pods"),
    [
        ("cpu", [1 << cpu for cpu in range(8)]),
        ("cache", [0x0F] * 4 + [0xF0] * 4),
        ("", [0x0F] * 4 + [0xF0] * 4),
        ("numa", [0xFF] * 8),
        ("system", [0xFF] * 8),
    ],
)
def test_F_10_affinity_scopes_of_6_6(scope: str, pods: list[int]) -> None:
    spec = spec_of(8, rules_of("6.6"), llc=4, affinity_scope=scope)
    pools, by_cpu = pools_of(spec)
    assert [pools[index][2] for index in by_cpu] == pods
    # Not strict: the workers may go anywhere.
    assert {pools[index][1] for index in by_cpu} == {0xFF}
    strict, by_cpu = pools_of(
        spec_of(8, rules_of("6.6"), llc=4, affinity_scope=scope, affinity_strict=True)
    )
    assert [strict[index][1] for index in by_cpu] == pods


def test_F_10_the_cpumask_restricts_all_unbound_work() -> None:
    pools, by_cpu = pools_of(spec_of(8, node=4, cpumask=0x06))
    # No CPU of the second node is left: its work goes to the pool of them all.
    assert pools == [(16, 0x06, 0x06)]
    assert by_cpu == [0] * 8


def test_F_4_without_a_cpu_of_the_mask_queueing_goes_round_it() -> None:
    box = unbound_box(4, wq=WorkqueueSpec(unbound=("events_unbound",), cpumask=0b0110))
    works = [script_work(box.cpus[0], WQ_EVENTS_UNBOUND, [(US, 0)]) for _ in range(1)]
    assert box.cpus[0].wq_rr_cpu == 1
    box.run(1 * MS)
    assert {e[2]["on"] for e in box.events("workqueue_execute_start")} <= {1, 2}
    assert len(box.events("workqueue_execute_end")) == len(works)


def test_F_8_an_unbound_queue_of_one_active_item_is_ordered() -> None:
    assert Workqueue("ext4-rsv-conversion", WQ_UNBOUND, 1).ordered
    assert not Workqueue("kintegrityd", 0, 1).ordered
    assert Workqueue("x", 0, 0).max_active == 256
    assert Workqueue("x", 0, 9999).max_active == 512


def test_F_1_unbound_queues_may_have_four_active_items_per_cpu() -> None:
    assert Workqueue("x", 0, 9999, 200).max_active == 512
    assert Workqueue("x", WQ_UNBOUND, 9999, 200).max_active == 800
    assert workqueues(spec_of(8))[WQ_EVENTS_UNBOUND].max_active == 512


# -- F.4, F.5: an item's life ----------------------------------------------------------------------


def test_F_4_an_item_is_queued_activated_and_its_worker_woken_by_the_cpu_that_queues() -> None:
    box = unbound_box(charges=costs(**CHARGES, queue_work_ns=200, select_task_rq_ns=700))
    work = script_work(box.cpus[1], WQ_EVENTS_UNBOUND, [(5 * US, 0)])
    box.run(1 * MS)
    seen = {e[1]: e for e in box.events() if e[0] >= START and e[1].startswith("workqueue")}
    queued = seen["workqueue_queue_work"]
    assert (queued[2]["on"], queued[2]["cpu"], queued[2]["work"]) == (1, -1, work)
    # One coherence latency to the pool, one back (no message between nodes is faster than a wakeup).
    assert seen["workqueue_activate_work"][0] == START + 100 + 300
    waking = next(e for e in box.events("sched_waking") if e[0] >= START)
    assert (waking[0], waking[2]["on"]) == (START + 400 + 200, 1)
    assert box.comm(waking[2]["pid"]) == "kworker/u4:1"
    chosen = next(e for e in box.events("box_select_task_rq") if e[0] >= START)
    assert (chosen[0], chosen[2]["on"]) == (START + 600 + 700, 1)
    start, end = seen["workqueue_execute_start"], seen["workqueue_execute_end"]
    assert start[2]["work"] == end[2]["work"] == work
    assert end[0] == start[0] + 5 * US


def test_F_5_one_worker_takes_all_items_in_order_and_then_idles() -> None:
    box = unbound_box(1, charges=costs(worker_start_ns=300, work_next_ns=100))
    cpu = box.cpus[0]
    works = [script_work(cpu, WQ_EVENTS_UNBOUND, [((n + 1) * US, 0)]) for n in range(3)]
    box.run(1 * MS)
    assert [e[2]["work"] for e in box.events("workqueue_execute_start")] == works
    pool = node_of(box).asked.pools[0]
    assert (pool.worklist, pool.executing, pool.manager) == ([], {}, 0)
    assert {idler.pid for idler in pool.idle} == {
        p.pid for p in cpu.tasks.values() if p.run.worker >= wq_table.UNBOUND_BASE
    }
    assert node_of(box).asked.active == {(WQ_EVENTS_UNBOUND, 0): 0}


def test_F_6_every_item_that_waits_gets_a_worker_although_others_run() -> None:
    box = unbound_box(4)
    for cpu in box.cpus:
        script_work(cpu, WQ_EVENTS_UNBOUND, [(1 * MS, 0)])
    box.run(START + 900 * US)
    started = box.events("workqueue_execute_start")
    assert len(started) == 4, "no item waits for another's end"
    assert len({e[2]["current"] for e in started}) == 4
    box.run(5 * MS)
    assert len(box.events("workqueue_execute_end")) == 4


def test_F_7_the_last_idle_worker_that_starts_creates_another_first() -> None:
    box = unbound_box(1, charges=costs(worker_create_ns=30 * US))
    cpu = box.cpus[0]
    script_work(cpu, WQ_EVENTS_UNBOUND, [(1 * US, 100 * US)])
    box.run(START + 20 * US)
    assert node_of(box).created == 0, "one is idle still"
    script_work(cpu, WQ_EVENTS_UNBOUND, [(1 * US, 0)])
    box.run(START + 25 * US)
    pool = node_of(box).asked.pools[0]
    assert (pool.manager != 0, pool.nr_workers) == (True, 3)
    box.run(1 * MS)
    assert comms(box, "sched_waking", "pid")[:3] == ["kworker/u2:1", "kworker/u2:0", "kworker/u2:2"]
    starts = box.times("workqueue_execute_start")
    assert starts[1] - starts[0] >= 50 * US
    assert (pool.manager, pool.nr_workers, len(pool.idle)) == (0, 3, 3)


# -- F.8 ------------------------------------------------------------------------------------------


def test_F_8_max_active_of_an_unbound_queue_counts_per_pool() -> None:
    box = unbound_box(2)
    node_of(box).workqueues[WQ_EVENTS_UNBOUND].max_active = 1
    cpu = box.cpus[0]
    x = script_work(cpu, WQ_EVENTS_UNBOUND, [(10 * US, 100 * US), (10 * US, 0)])
    y = script_work(cpu, WQ_EVENTS_UNBOUND, [(10 * US, 0)])
    box.run(START + 50 * US)
    assert [item[0] for _, _, item in node_of(box).asked.delayed[WQ_EVENTS_UNBOUND, 0]] == [y]
    box.run(1 * MS)
    (end_x,) = box.times("workqueue_execute_end", work=x)
    (active_y,) = box.times("workqueue_activate_work", work=y)
    (start_y,) = box.times("workqueue_execute_start", work=y)
    assert end_x < active_y <= start_y
    assert node_of(box).asked.active[WQ_EVENTS_UNBOUND, 0] == 0


def limits_of(version: str, nr_cpus: int, **options: Any) -> tuple[UnboundLimits, int]:
    """Return the limits of a box of nodes of two CPUs, and the index of the pool of its CPU 3."""
    spec = spec_of(nr_cpus, rules_of(version), llc=2, node=2, **options)
    pools = unbound_pools(spec, workqueues(spec))[1][WQ_EVENTS_UNBOUND]
    return Shared(spec).limits, pools[3]


def test_F_8_from_6_9_on_nodes_have_shares_of_max_active() -> None:
    limits, pool = limits_of("6.12", 8)
    key = limits.key(WQ_EVENTS_UNBOUND, pool, 3)
    assert key == (WQ_EVENTS_UNBOUND, 0b1100)
    assert limits.max_active(key) == 512 // 4
    limits.workqueues[WQ_EVENTS_UNBOUND].max_active = 16
    assert limits.max_active(key) == WQ_DFL_MIN_ACTIVE
    limits.workqueues[WQ_EVENTS_UNBOUND].max_active = 4
    assert limits.max_active(key) == 4
    # In 6.6 it is every CPU's.
    six_six, pool = limits_of("6.6", 8)
    assert six_six.key(WQ_EVENTS_UNBOUND, pool, 3)[1] == 3


def test_F_8_the_shares_go_by_the_cpus_that_are_online_and_allowed() -> None:
    limits, pool = limits_of("6.12", 8, cpumask=0b1111)
    key = limits.key(WQ_EVENTS_UNBOUND, pool, 3)
    assert limits.max_active(key) == 256
    limits.online = 0b1111_0111
    assert limits.max_active(key) == 171, "a third of it, rounded up"
    limits.online = 0b1111_0000
    assert limits.max_active(key) == WQ_DFL_MIN_ACTIVE, "no CPU of the queue's is left"


def test_F_8_pools_that_span_nodes_share_all_of_it() -> None:
    limits, pool = limits_of("6.12", 8, affinity_scope="system")
    key = limits.key(WQ_EVENTS_UNBOUND, pool, 3)
    assert key == (WQ_EVENTS_UNBOUND, 0)
    assert limits.max_active(key) == 512


@pytest.mark.parametrize("version", ["6.6", "6.12"])
def test_F_8_the_cpus_of_a_node_take_turns_with_what_waits(version: str) -> None:
    """CPU 0 queues four items, then CPU 1 two; two may be active: per node in 6.12, per CPU in 6.6."""
    box = unbound_box(2, rules=rules_of(version), version=version)
    node = node_of(box)
    node.workqueues[WQ_EVENTS_UNBOUND].max_active = 2
    works = [script_work(box.cpus[0], WQ_EVENTS_UNBOUND, [(US, MS), (US, 0)]) for _ in range(4)]
    box.run(START + 200 * US)
    works += [script_work(box.cpus[1], WQ_EVENTS_UNBOUND, [(US, MS), (US, 0)]) for _ in range(2)]
    box.run(START + 20 * MS)
    started = [e[2]["work"] for e in box.events("workqueue_execute_start")]
    first, second, third, fourth, others, last = works
    if version == "6.12":
        assert started == [first, second, third, others, fourth, last]
    else:
        assert started == [first, second, others, last, third, fourth]


def test_F_8_the_node_hears_of_cpus_that_go_and_come() -> None:
    box = unbound_box(4, node=2, rules=rules_of("6.12"), version="6.12")
    node = node_of(box)
    box.command(START + MS, 3, "cpu", "offline", 3)
    box.run(START + 3 * MS)
    assert node.limits.online == 0b0111
    box.command(START + 4 * MS, 3, "cpu", "online", 3)
    box.run(START + 6 * MS)
    assert node.limits.online == 0b1111


# -- F.10: where workers run -----------------------------------------------------------------------


def six_six(**options: Any) -> dict[str, Any]:
    """Return what makes a box one of 6.6 with two caches of two CPUs."""
    wq = WorkqueueSpec(unbound=("events_unbound",), **options)
    return {"llc": 2, "rules": rules_of("6.6"), "version": "6.6", "wq": wq}


def test_F_10_a_worker_outside_its_pod_is_brought_back_at_its_wakeup() -> None:
    box = unbound_box(4, **six_six())
    node = node_of(box)
    pool = node.asked.pools[by_cpu_of(box)[0]]
    worker = pool.idle[-1]
    owner = box.cpus[worker.cpu]
    p = owner.tasks[worker.pid]
    p.cpu = p.wake_cpu = p.recent_used_cpu = 3  # it last ran in the other cache
    worker.se = p.pack_se()
    script_work(box.cpus[1], WQ_EVENTS_UNBOUND, [(1 * US, 0)])
    box.run(1 * MS)
    (start,) = box.events("workqueue_execute_start")
    assert start[2]["on"] in (0, 1)
    assert node.asked.repatriated == 1
    assert p.cpus_mask == 0b1111, "only brought back: it may leave again"


def test_F_10_strict_workers_are_bound_to_their_pod() -> None:
    box = unbound_box(4, **six_six(affinity_strict=True))
    script_work(box.cpus[2], WQ_EVENTS_UNBOUND, [(1 * US, 0)])
    box.run(1 * MS)
    (start,) = box.events("workqueue_execute_start")
    assert start[2]["on"] in (2, 3)
    masks = {p.cpus_mask for c in box.cpus for p in c.tasks.values() if p.run.worker >= 2}
    assert masks == {0b0011, 0b1100}


def by_cpu_of(box: Box) -> list[int]:
    """Return which pool each CPU queues to."""
    return unbound_pools(box.spec, workqueues(box.spec))[1][WQ_EVENTS_UNBOUND]


# -- Hotplug ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5.4", "5.15", "6.12"])
def test_a_worker_whose_cpus_have_gone_serves_its_pool_elsewhere(version: str) -> None:
    """The last CPU of a node goes while an item sleeps on it and others wait (F.10)."""
    box = unbound_box(4, node=2, rules=rules_of(version), version=version)
    first = script_work(box.cpus[2], WQ_EVENTS_UNBOUND, [(10 * US, 2 * MS), (20 * US, 0)])
    box.command(START + 500 * US, 2, "cpu", "offline", 2)
    box.command(START + 800 * US, 3, "cpu", "offline", 3)
    box.run(START + 10 * MS)
    assert not box.cpus[2].online
    assert not box.cpus[3].online
    assert box.times("workqueue_execute_end", work=first)
    # The pool's workers are on the others now; a CPU that comes back has them queue to it again.
    box.command(START + 11 * MS, 2, "cpu", "online", 2)
    box.run(START + 12 * MS)
    again = script_work(box.cpus[2], WQ_EVENTS_UNBOUND, [(10 * US, 0)])
    box.run(START + 20 * MS)
    assert box.times("workqueue_execute_end", work=again)


# -- State ------------------------------------------------------------------------------------------


def test_the_shared_node_is_what_its_snapshot_says() -> None:
    box = unbound_box(2)
    node = node_of(box)
    node.workqueues[WQ_EVENTS_UNBOUND].max_active = 2
    for _ in range(4):
        script_work(box.cpus[0], WQ_EVENTS_UNBOUND, [(10 * US, 100 * US), (10 * US, 0)])
    box.run(START + 50 * US)
    assert node.asked.delayed[WQ_EVENTS_UNBOUND, 0]
    state = wire.pack(node.snapshot())
    restored = Shared(box.spec)
    restored.restore(wire.unpack(state))
    assert wire.pack(restored.snapshot()) == state


def test_a_box_without_unbound_work_has_no_shared_node() -> None:
    spec = box_spec(machine(2), costs(), [])
    assert wq_table.shared_node(spec) == -1
    assert unbound_pools(spec, workqueues(spec)) == ([], {})
    assert boot_workers(*unbound_pools(spec, workqueues(spec))) == []
    assert Box(nr_cpus=2).shared is None


def test_rules_of_workqueues_by_version() -> None:
    assert "6.6" in RULES["wq_affinity_scopes"].versions
    assert "6.1" not in RULES["wq_affinity_scopes"].versions
