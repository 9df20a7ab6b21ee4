"""CPU hotplug: the fallback order (F.6), what a dying CPU leaves and who takes it (F.4, A.9, F.11)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import affinity, cpuhp, frames, wq_table
from emulator.kernel.cpu import Cpu
from emulator.kernel.sched import TASK_WAKING
from emulator.rules import Rules
from emulator.trace.memory import MemoryRing
from emulator.types import (
    BAL_NOHZ_MASK,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_RW,
    OP_SLEEP,
    READ,
    RQF_ACTIVE,
    RQF_ONLINE,
    STOP_ABORTED,
    WRITE,
    DiskSpec,
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
    null_blk,
    read_record,
    script_work,
    scsi_debug,
    sleeping_task,
)

CHARGES = {"ipi_ns": 1500, "ttwu_activate_ns": 500, "stopper_ns": 3000, "context_switch_ns": 1500}


def hog() -> Steps:
    """Burn a second."""
    yield (OP_RUN, 1000 * MS)


def nap(until_ns: int) -> Steps:
    """Sleep once, then burn."""
    yield (OP_RUN, 10 * US)
    yield (OP_SLEEP, until_ns)
    yield (OP_RUN, 1000 * MS)


def answers(box: Box) -> list[tuple[int, int, Any]]:
    """Return (time, CPU, answer) of what commands were answered."""
    return [(m[0], m[1], m[5][1]) for m in box.engine.answers if m[4] == messages.COMMAND_DONE]


def printed(box: Box, cpu: int) -> list[str]:
    """Return what a CPU wrote on the console."""
    return [args["text"] for _, _, args in box.events("printk", cpu=cpu)]


def ghost() -> tuple[Cpu, MemoryRing]:
    """Return CPU 2 of 4, offline, and its ring."""
    cpu, _board, ring = lone_cpu(2, 4, charges=costs(**CHARGES))
    cpu.active = cpu.online = cpu.irqs_on = False
    cpu.wait(frames.HALT)
    return cpu, ring


# -- select_fallback_rq() -----------------------------------------------------------------------


def fallback(pid: int, comm: str, mask: int) -> tuple[int, int, list[str]]:
    """Return where a task of CPU 2 goes when that goes down, its mask then, and the messages."""
    cpu, _board, ring = lone_cpu(2, 8, node=4)
    cpu.active = False
    p = sleeping_task(cpu, pid, mask)
    p.comm = comm
    target = affinity.select_fallback_rq(cpu, p, 2)
    events = [read_record(ring, record) for record in ring.records]
    return target, p.cpus_mask, [args["text"] for _, name, args in events if name == "printk"]


def test_example_F_6_1_another_node_before_the_mask_is_broken() -> None:
    assert fallback(4321, "fio", 1 << 2 | 1 << 6) == (6, 1 << 2 | 1 << 6, [])


def test_example_F_6_2_the_affinity_is_broken_with_a_message() -> None:
    assert fallback(4321, "fio", 1 << 2) == (
        0,
        0xFF,
        ["process 4321 (fio) no longer affine to cpu2"],
    )


def test_example_F_6_3_the_same_node_first_and_the_mask_stays() -> None:
    assert fallback(4321, "fio", 1 << 2 | 1 << 3) == (3, 1 << 2 | 1 << 3, [])


def test_example_F_6_4_a_bound_kworker_goes_without_a_message() -> None:
    cpu, _board, ring = lone_cpu(2, 8, node=4)
    cpu.active = cpu.online = False
    worker = cpu.tasks[cpu.pools[0].idle[0]]
    assert affinity.select_fallback_rq(cpu, worker, 2) == 0
    assert [record for record in ring.records if record[1] == tp.PRINTK] == []


def test_cpus_that_are_not_active_are_passed_over() -> None:
    cpu, board, _ring = lone_cpu(2, 8, node=4)
    cpu.active = False
    board.facts[0] = facts(flags=RQF_ONLINE)
    board.facts[1] = facts(flags=0)
    p = sleeping_task(cpu, 4321, 0xFF)
    assert affinity.select_fallback_rq(cpu, p, 2) == 3
    board.facts[1] = facts(flags=RQF_ONLINE | RQF_ACTIVE)
    assert affinity.select_fallback_rq(cpu, p, 2) == 1


# -- The walk down and up -----------------------------------------------------------------------


def test_the_states_go_down_in_descending_order_and_up_in_ascending() -> None:
    box = Box(nr_cpus=4, charges=costs(**CHARGES))
    box.command(MS, 2, "cpu", "offline", "2")
    box.command(2 * MS, 2, "cpu", "online", "2")
    box.run(3 * MS)
    steps = [args["step"] for _, _, args in box.events("cpuhp_enter", cpu=2)]
    states = [step[0] for step in cpuhp.STEPS]
    assert steps == [*reversed(states), *states]
    times = box.times("cpuhp_enter", cpu=2)
    assert times[:2] == [MS, MS]
    # The rest in the stopper: IPI, interrupt, switch, 3 us of work.
    assert times[2] == times[5] > MS + 3000
    assert box.cpus[2].online
    assert box.cpus[2].active
    assert printed(box, 0) == ["smpboot: CPU 2 is now offline"]


def test_down_is_answered_when_the_idle_task_finds_the_cpu_dead() -> None:
    box = Box(nr_cpus=2, charges=costs(**CHARGES, idle_entry_ns=1000))
    box.command(MS, 1, "cpu", "offline", "1")
    box.run(2 * MS)
    ((at_ns, cpu, answer),) = answers(box)
    last = box.times("sched_switch", cpu=1)[-1]
    assert (at_ns, cpu, answer) == (last + 1000, 1, "done")
    assert box.switches(1)[-1][1:] == ("migration/1", "idle")
    assert box.cpus[1].next_event_ns() > 1000 * MS


def test_refusals_say_why_and_change_nothing() -> None:
    box = Box(nr_cpus=2)
    for at, cpu, verb in (
        (1, 0, "offline"),
        (2, 1, "online"),
        (3, 1, "offline"),
        (4, 1, "offline"),
        (5, 0, "offline"),
        (6, 1, "kill"),
        (7, 1, "online"),
        (8, 1, "kill"),
    ):
        box.command(at * MS, cpu, "cpu", verb, str(cpu))
    box.run(10 * MS)
    assert [answer for _, _, answer in answers(box)] == [
        "refused: CPU 0 cannot go offline on x86",
        "refused: CPU 1 is online",
        "done",
        "refused: CPU 1 is offline",
        "refused: CPU 0 is the last one online",
        "done",
        "refused: CPU 1 was killed",
        "refused: CPU 1 was killed",
    ]


def test_a_cpu_that_is_going_down_refuses_other_commands() -> None:
    box = Box(nr_cpus=3, charges=costs(**CHARGES))
    box.command(MS, 1, "cpu", "offline", "1")
    box.command(MS + 1, 1, "cpu", "kill", "1")
    box.command(MS + 2, 1, "cpu", "online", "1")
    box.command(MS + 3, 1, "cpu", "load", "1", "--percent", "50")
    box.run(2 * MS)
    assert [answer for _, _, answer in answers(box)] == [
        "refused: CPU 1 is going down",
        "refused: CPU 1 is going down",
        "refused: CPU 1 is offline",
        "done",
    ]


def test_tunables_follow_the_number_of_online_cpus() -> None:
    box = Box(nr_cpus=8, charges=costs(**CHARGES))
    assert box.cpus[0].rq.tun.latency == 24 * MS  # 6 ms times 1 + log2(8)
    box.command(MS, 5, "cpu", "offline", "5")
    box.run(2 * MS)
    assert {cpu.rq.tun.latency for cpu in box.cpus} == {18 * MS}
    assert {cpu.rq.tun.wakeup_granularity for cpu in box.cpus} == {3 * MS}
    box.command(2 * MS, 5, "cpu", "online", "5")
    box.run(3 * MS)
    assert {cpu.rq.tun.latency for cpu in box.cpus} == {24 * MS}


def test_domains_are_rebuilt_and_the_nohz_mask_is_left() -> None:
    box = Box(nr_cpus=4, charges=costs(**CHARGES))
    box.run(10 * MS)
    read = box.balancer.board.read
    assert read(4, 10 * MS)[BAL_NOHZ_MASK] == 0b1111
    box.command(10 * MS, 2, "cpu", "offline", "2")
    box.run(20 * MS)
    assert read(4, 20 * MS)[BAL_NOHZ_MASK] == 0b1011
    assert not box.cpus[2].in_nohz_mask
    chains = box.balancer.rb.domains.sd
    assert chains[2] == []
    assert [sd.span for sd in chains[0]] == [0b1011]
    assert box.balancer.rb.limits.most == 1000 * 3 // 10
    box.command(20 * MS, 2, "cpu", "online", "2")
    box.run(30 * MS)
    assert [sd.span for sd in box.balancer.rb.domains.sd[2]] == [0b1111]
    assert read(4, 30 * MS)[BAL_NOHZ_MASK] == 0b1111


# -- Tasks --------------------------------------------------------------------------------------


def test_queued_tasks_are_moved_one_by_one_in_the_stopper() -> None:
    box = Box(Job(hog, "one", cpu=2), Job(hog, "two", cpu=2), nr_cpus=4, charges=costs(**CHARGES))
    box.command(200 * US, 2, "cpu", "offline", "2")
    box.run(3 * MS)
    moved = [
        (args["pid"], args["orig_cpu"], args["dest_cpu"])
        for _, _, args in box.events("sched_migrate_task", cpu=2)
        if args["why"] == tp.MIGRATE_HOTPLUG
    ]
    assert sorted(moved) == [(box.pid(0), 2, 0), (box.pid(1), 2, 0)]
    assert box.cpus[2].rq.nr_running == 0
    assert {box.task(0).cpu, box.task(1).cpu} <= {0, 1, 3}
    assert box.task(0).cpus_mask == 0b1111
    assert box.cpus[0].rq.cfs.nr_running == 2 or box.times("sched_migrate_task")[2:]


def test_broken_affinity_stays_broken_when_the_cpu_returns() -> None:
    box = Box(Job(hog, "pinned", cpu=2, mask=1 << 2), nr_cpus=4, charges=costs(**CHARGES))
    box.command(MS, 2, "cpu", "offline", "2")
    box.command(2 * MS, 2, "cpu", "online", "2")
    box.run(3 * MS)
    assert printed(box, 2) == [f"process {box.pid(0)} (pinned) no longer affine to cpu2"]
    p = box.task()
    assert (p.cpu, p.cpus_mask, p.nr_cpus_allowed) == (0, 0b1111, 4)


def test_a_sleeping_task_is_redirected_at_its_next_wakeup() -> None:
    box = Box(
        Job(lambda: nap(5 * MS), "sleeper", cpu=2, mask=1 << 2),
        nr_cpus=4,
        charges=costs(**CHARGES),
    )
    box.command(MS, 2, "cpu", "offline", "2")
    box.run(4 * MS)
    p = box.cpus[0].tasks[box.pid(0)]
    # It is the heir's to own, but where it last ran and may run is as it was.
    assert (p.cpu, p.wake_cpu, p.cpus_mask) == (2, 2, 1 << 2)
    assert box.times("sched_migrate_task") == []
    box.run(6 * MS)
    ((at_ns, _, args),) = box.events("sched_migrate_task")
    assert at_ns >= 5 * MS
    assert (args["orig_cpu"], args["dest_cpu"], args["why"]) == (2, 0, tp.MIGRATE_WAKEUP)
    ((_, _, chosen),) = box.events("box_select_task_rq")
    assert chosen["rule"] == tp.PLACE_FALLBACK
    assert printed(box, 0)[-1] == f"process {box.pid(0)} (sleeper) no longer affine to cpu2"


def test_a_sleeper_whose_mask_allows_more_keeps_it_and_may_come_back() -> None:
    box = Box(
        Job(lambda: nap(5 * MS), "sleeper", cpu=2, mask=0b1100), nr_cpus=4, charges=costs(**CHARGES)
    )
    box.command(MS, 2, "cpu", "offline", "2")
    box.command(2 * MS, 2, "cpu", "online", "2")
    box.run(6 * MS)
    p = box.task()
    assert (p.cpu, p.cpus_mask) == (2, 0b1100)
    assert box.times("printk", cpu=2) == []


def test_a_task_on_its_way_to_a_cpu_that_dies_is_sent_on() -> None:
    cpu, ring = ghost()
    other, _, _ = lone_cpu(1, 4)
    p = sleeping_task(other, 700)
    p.cpu = p.wake_cpu = 2
    p.state = TASK_WAKING
    other.depart(p, 2, 0)
    cpu.deliver((5 * US, 1, 1, 2, messages.ACTIVATE, (700, p, 0, 1, 0)))
    cpu.advance(6 * US, 6 * US)
    assert 700 not in cpu.tasks
    (sent,) = cpu.outbox
    assert (sent[0], sent[3], sent[4]) == (5 * US + 1500, 0, messages.ACTIVATE)
    assert (p.cpu, p.moves) == (0, 2)
    (record,) = [r for r in ring.records if r[1] == tp.SCHED_MIGRATE_TASK]
    assert record[6:] == (700, 120, 2, 0, tp.MIGRATE_HOTPLUG)


def test_the_ghost_answers_the_balancer_and_drops_kicks() -> None:
    cpu, _ring = ghost()
    cpu.deliver((US, 4, 1, 2, messages.STOP, (1, [], 0)))
    cpu.deliver((US, 4, 2, 2, messages.NOHZ_KICK, (3, 0)))
    cpu.advance(2 * US, 2 * US)
    assert [(m[3], m[4], m[5]) for m in cpu.outbox] == [(4, messages.STOPPED, (1, STOP_ABORTED, 0))]
    assert (cpu.irqs, cpu.nohz_flags) == ([], 0)


# -- IO -----------------------------------------------------------------------------------------


def io_costs() -> Any:
    return costs(**CHARGES, hardirq_ns=700, hrtimer_ns=1000, dio_complete_ns=300, dio_tail_ns=100)


@pytest.mark.parametrize("schedules", [True, False], ids=["announced", "asked"])
def test_a_request_in_flight_completes_on_another_cpu(schedules: bool) -> None:
    def write() -> Steps:
        got = yield (OP_RW, WRITE, 0, 0, 4096)
        assert got == 0
        yield (OP_RUN, 1000 * MS)

    disk = replace(scsi_debug(5 * MS), schedules=schedules)
    job = Job(write, "writer", cpu=2, mask=1 << 2, disk="/raw")
    box = Box(job, nr_cpus=4, disk=disk, charges=io_costs())
    box.command(MS, 2, "cpu", "offline", "2")
    box.run(20 * MS)
    assert box.times("block_rq_issue", cpu=2)
    assert box.times("block_rq_complete", cpu=2) == []
    (done_ns,) = box.times("block_rq_complete", cpu=0)
    assert 5 * MS < done_ns < 5 * MS + 10 * US
    assert box.task().cpu == 0
    assert box.cpus[2].queues[0].lease == 0
    box.command(20 * MS, 2, "cpu", "online", "2")
    box.run(21 * MS)
    assert box.cpus[2].queues[0].lease > 0


def test_aio_of_a_task_whose_cpu_dies_completes_once_and_all_credits_return() -> None:
    def submit() -> Steps:
        got = yield (OP_IO_SUBMIT, [(data, WRITE, 0, 4096 * data, 4096) for data in range(8)])
        assert got == 8
        events = yield (OP_IO_GETEVENTS, 8, 8)
        assert sorted(data for data, _res in events) == list(range(8))
        yield (OP_RUN, 1000 * MS)

    job = Job(submit, "aio", cpu=2, disk="/xfs")
    box = Box(job, nr_cpus=4, disk=scsi_debug(5 * MS), charges=io_costs())
    box.command(MS, 2, "cpu", "offline", "2")
    box.run(20 * MS)
    assert len(box.times("block_rq_complete", cpu=0)) == 8
    assert len(box.times("box_aio_complete")) == 8
    run = box.task().run
    assert run.ctx is not None
    assert run.remote_ios == 0
    free = run.ctx.reqs_available + sum(run.ctx.cpu_credits.values()) + run.ctx.completed_events
    assert free == run.ctx.nr_events - 1
    books = box.engine.books()
    disk = books[5]
    assert disk["tags"] == disk["free_tags"] + sum(books[c]["tags"][0] for c in range(4))
    assert all(books[c]["carried"] == [] for c in range(4))


def test_aio_that_ends_on_the_heir_for_a_task_elsewhere_reaches_it_there() -> None:
    def submit() -> Steps:
        yield (OP_IO_SUBMIT, [(0, WRITE, 0, 0, 4096)])
        yield (OP_RUN, 3 * MS)
        events = yield (OP_IO_GETEVENTS, 1, 1)
        assert events == [(0, 4096)]
        yield (OP_RUN, 1000 * MS)

    job = Job(submit, "aio", cpu=2, mask=0b1100, disk="/xfs")
    box = Box(job, nr_cpus=4, disk=scsi_debug(5 * MS), charges=io_costs())
    box.command(MS, 2, "cpu", "offline", "2")
    box.run(20 * MS)
    assert box.task().cpu == 3
    assert len(box.times("block_rq_complete", cpu=0)) == 1
    assert len(box.times("box_aio_complete", cpu=3)) == 1
    assert all(not cpu.expect and not cpu.held for cpu in box.cpus)


def test_requests_that_wait_for_a_tag_are_dispatched_by_the_heir() -> None:
    def submit() -> Steps:
        yield (OP_IO_SUBMIT, [(data, READ, 0, 4096 * data, 4096) for data in range(4)])
        events = yield (OP_IO_GETEVENTS, 4, 4)
        assert len(events) == 4
        yield (OP_RUN, 1000 * MS)

    job = Job(submit, "aio", cpu=2, disk="/raw")
    box = Box(job, nr_cpus=4, disk=scsi_debug(2 * MS, depth=1), charges=io_costs())
    box.command(MS, 2, "cpu", "offline", "2")
    box.run(20 * MS)
    assert len(box.times("block_rq_issue", cpu=2)) == 1
    assert len(box.times("block_rq_issue", cpu=0)) == 3
    assert len(box.times("block_rq_complete", cpu=0)) == 4


def test_a_cpu_that_returns_gets_a_tag_whatever_the_others_hold() -> None:
    def read() -> Steps:
        yield (OP_SLEEP, 10 * MS)
        got = yield (OP_RW, READ, 0, 0, 4096)
        assert got == 0
        yield (OP_RUN, 1000 * MS)

    job = Job(read, "reader", cpu=1, mask=1 << 1, disk="/raw")
    box = Box(job, nr_cpus=2, disk=scsi_debug(MS, depth=2), charges=io_costs())
    box.command(MS, 1, "cpu", "offline", "1")
    box.command(2 * MS, 1, "cpu", "online", "1")
    box.run(20 * MS)
    assert box.cpus[1].queues[0].lease + box.cpus[0].queues[0].lease == 2
    assert len(box.times("block_rq_complete")) == 1


# -- Work ---------------------------------------------------------------------------------------


def test_the_items_of_a_dead_cpus_pools_run_on_the_heir() -> None:
    box = Box(Job(hog, "hog", cpu=2, mask=0b1100), nr_cpus=4, charges=costs(**CHARGES))
    box.run(100 * US)
    cpu = box.cpus[2]
    # Its worker is behind the hog, which nothing preempts for so short a wait.
    works = [script_work(cpu, wq_table.WQ_EVENTS, [(10 * US, 0)]) for _ in range(3)]
    works.append(script_work(cpu, wq_table.WQ_KBLOCKD, [(10 * US, 0)]))
    box.command(101 * US, 2, "cpu", "offline", "2")
    box.run(3 * MS)
    ran = {args["work"]: args["on"] for _, _, args in box.events("workqueue_execute_end")}
    assert {work: on for work, on in ran.items() if work in works} == dict.fromkeys(works, 0)
    for pool in cpu.pools:
        assert (pool.worklist, pool.nr_running, pool.active) == ([], 0, {})
        assert sorted(pool.idle) == sorted(pool.workers)
        assert pool.disassociated


def test_an_item_whose_function_sleeps_goes_on_elsewhere() -> None:
    box = Box(nr_cpus=2, charges=costs(**CHARGES))
    box.run(100 * US)
    work = script_work(box.cpus[1], wq_table.WQ_EVENTS, [(10 * US, 2 * MS), (20 * US, 0)])
    box.command(MS, 1, "cpu", "offline", "1")
    box.run(5 * MS)
    assert len(box.times("workqueue_execute_start", cpu=1, work=work)) == 1
    assert not box.times("workqueue_execute_start", cpu=0, work=work), "it goes on, not again"
    (woken,) = [at for at in box.times("sched_wakeup", cpu=0) if at > 2 * MS]
    (end,) = box.times("workqueue_execute_end", cpu=0, work=work)
    assert woken + 20 * US <= end < woken + 30 * US


def test_the_pools_serve_again_when_the_cpu_returns() -> None:
    box = Box(nr_cpus=2, charges=costs(**CHARGES))
    box.command(MS, 1, "cpu", "offline", "1")
    box.command(2 * MS, 1, "cpu", "online", "1")
    box.run(3 * MS)
    work = script_work(box.cpus[1], wq_table.WQ_EVENTS, [(10 * US, 0)])
    box.run(4 * MS)
    assert len(box.times("workqueue_execute_end", cpu=1, work=work)) == 1


def test_a_dead_cpu_has_only_its_own_threads_all_asleep() -> None:
    box = Box(
        Job(hog, "a", cpu=1), Job(lambda: nap(8 * MS), "b", cpu=1), nr_cpus=2, charges=costs()
    )
    box.command(2 * MS, 1, "cpu", "kill", "1")
    box.run(3 * MS)
    cpu = box.cpus[1]
    assert all(cpuhp.is_own_thread(cpu, p) for p in cpu.tasks.values())
    assert all(p.state != tp.TASK_RUNNING and not p.on_rq for p in cpu.tasks.values())
    assert (cpu.timers, cpu.jiffy_timers, cpu.irqs, cpu.inflight) == ([], [], [], {})
    assert cpu.f_kind == frames.HALT


def test_a_sleeper_of_a_cpu_that_went_and_bound_since_to_its_heir_is_moved_at_its_wakeup() -> None:
    def steps() -> Steps:
        yield (OP_SLEEP, 5 * MS)
        while True:
            yield (OP_RUN, MS)

    box = Box(Job(steps, name="t", cpu=1, mask=0b10), nr_cpus=2, charges=costs(**CHARGES))
    box.command(MS, 1, "cpu", "offline", "1")
    for cpu in range(2):
        box.command(3 * MS, cpu, "task", "affine", "t", "0")
    box.run(6 * MS)
    ((_, _, moved),) = box.events("sched_migrate_task")
    assert (moved["orig_cpu"], moved["dest_cpu"]) == (1, 0)
    p = box.task()
    assert (p.cpu, p.nr_migrations) == (0, 1)
    assert abs(p.vruntime - box.cpus[0].rq.cfs.min_vruntime) < 24 * MS  # of this queue's time


# -- A.9: drain of a hardware queue (5.8) ----------------------------------------------------------


def queues_of_one_cpu(service_ns: int) -> DiskSpec:
    """Return a disk with a hardware queue for each of four CPUs."""
    return null_blk(2, submit_queues=4, completion_nsec=service_ns)


def reader_of_two() -> Steps:
    yield (OP_IO_SUBMIT, [(data, READ, 0, 4096 * data, 4096) for data in range(2)])
    events = yield (OP_IO_GETEVENTS, 2, 2)
    assert len(events) == 2
    yield (OP_RUN, 1000 * MS)


@pytest.mark.parametrize(("drain", "push"), [(True, True), (True, False), (False, True)])
def test_A_9_a_queue_that_loses_its_last_cpu_is_drained(drain: bool, push: bool) -> None:
    rules = Rules(hctx_drain=drain, balance_push=push, kworker_per_cpu=push)
    job = Job(reader_of_two, "aio", cpu=2, disk="/raw")
    disk = queues_of_one_cpu(12 * MS)
    box = Box(job, nr_cpus=4, disk=disk, charges=io_costs(), rules=rules)
    box.command(MS, 2, "cpu", "offline", "2")
    box.run(60 * MS)
    done = box.times("block_rq_complete", cpu=2) if drain else box.times("block_rq_complete", cpu=0)
    assert len(done) == 2
    (dying,) = box.times("cpuhp_enter", cpu=2, step=90)
    looked = box.times("cpuhp_enter", cpu=2, step=cpuhp.BLK_MQ_STATE)
    if drain:
        # It looks at 1 ms, 7 ms and 13 ms (msleep(5) takes a jiffy more); then all is done.
        assert looked == [MS]
        assert 13 * MS <= dying < 14 * MS
    else:
        assert looked == []
        assert dying < 2 * MS
    assert box.cpus[2].queues[0].allocated == 0


def test_A_9_who_submits_to_a_queue_that_is_drained_sleeps_3_ms() -> None:
    """It then goes on where it is woken: on the queue of another CPU."""

    def submit() -> Steps:
        yield (OP_IO_SUBMIT, [(0, READ, 0, 0, 4096)])
        yield (OP_RUN, 2 * MS)
        yield (OP_IO_SUBMIT, [(1, READ, 0, 4096, 4096)])
        yield (OP_IO_GETEVENTS, 2, 2)
        yield (OP_RUN, 1000 * MS)

    job = Job(submit, "aio", cpu=2, disk="/raw")
    rules = Rules(hctx_drain=True)  # without balance_push the task stays until it sleeps
    disk = queues_of_one_cpu(12 * MS)
    box = Box(job, nr_cpus=4, disk=disk, charges=io_costs(), rules=rules)
    box.command(MS, 2, "cpu", "offline", "2")
    box.run(60 * MS)
    assert box.cpus[2].counters["inactive_waits"] == 1
    first, second = box.events("block_rq_issue")
    assert first[0] < MS
    # 2 ms and a little, then msleep(3): the fourth tick from there.
    assert 6 * MS <= second[0] < 7 * MS
    assert len(box.times("block_rq_issue", cpu=2)) == 1
    assert len(box.times("block_rq_complete")) == 2


def test_A_9_a_queue_that_others_serve_is_not_drained() -> None:
    job = Job(reader_of_two, "aio", cpu=2, disk="/raw")
    rules = Rules(hctx_drain=True)
    disk = null_blk(2, submit_queues=2, completion_nsec=12 * MS)
    box = Box(job, nr_cpus=4, disk=disk, charges=io_costs(), rules=rules)
    box.command(MS, 2, "cpu", "offline", "2")
    box.run(60 * MS)
    (dying,) = box.times("cpuhp_enter", cpu=2, step=90)
    assert dying < 2 * MS
    assert len(box.times("block_rq_complete", cpu=0)) == 2
