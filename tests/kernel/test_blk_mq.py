"""The block layer against io-and-workqueue.md A.2-A.7, G.8 and acceptance scenario K10."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import blk_mq, blk_mq_tag, blk_softirq
from emulator.kernel.blk_mq import plug_full
from emulator.kernel.blk_queue import BlockQueue
from emulator.kernel.blk_softirq import steer
from emulator.kernel.cpu import Cpu
from emulator.kernel.request import Request
from emulator.rules import Rules
from emulator.types import (
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_SLEEP,
    READ,
    RQF_ACTIVE,
    RQF_IDLE,
    RQF_ONLINE,
    WRITE,
    DiskSpec,
    Op,
)
from tests.kernel.box import (
    MS,
    US,
    Box,
    Job,
    Steps,
    box_spec,
    costs,
    facts,
    lone_cpu,
    machine,
    null_blk,
    run_task,
    scsi_debug,
    sleeping_task,
)


@pytest.mark.parametrize(
    ("rules", "queue_of"),
    [
        (Rules(), [0, 1, 2, 0, 1, 2, 0, 1]),
        (Rules(map_queues_evenly=True), [0, 0, 0, 1, 1, 1, 2, 2]),
    ],
)
def test_A_2_generic_map_by_version(rules: Rules, queue_of: list[int]) -> None:
    disk = null_blk(2, submit_queues=3)
    spec = box_spec(machine(8), costs(), [], disk, rules=rules)
    assert [BlockQueue(spec, 0, cpu).hctx for cpu in range(8)] == queue_of


# -- A.3 ------------------------------------------------------------------------------------------


class Waiters:
    """Tasks that wait for tags of a queue of the given depth, and who is woken by frees."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, depth: int) -> None:
        self.cpu, _, _ = lone_cpu(disk=scsi_debug(41 * US, depth=depth, scheduler="none"))
        self.queue = self.cpu.queues[0]
        self.woken: list[str] = []
        monkeypatch.setattr(
            "emulator.kernel.core.wake_up", lambda _cpu, p: self.woken.append(p.comm)
        )

    def wait(self, pid: int) -> None:
        """Let a new task wait."""
        self.queue.sbq.wait(sleeping_task(self.cpu, pid).pid)

    def free(self, nr: int = 1) -> list[str]:
        """Free tags; return who is woken."""
        self.woken.clear()
        for _ in range(nr):
            blk_mq_tag.wake_tag_waiter(self.cpu, self.queue)
        return list(self.woken)


def test_vector_A_3_depth_4_two_waiters(monkeypatch: pytest.MonkeyPatch) -> None:
    waiters = Waiters(monkeypatch, 4)
    waiters.wait(1)
    waiters.wait(2)
    assert [len(q) for q in waiters.queue.sbq.waiters[:3]] == [1, 1, 0]
    assert waiters.free() == ["task1"]
    assert waiters.queue.sbq.wake_index == 1
    assert waiters.free() == ["task2"]


def test_vector_A_3_depth_128_one_waiter(monkeypatch: pytest.MonkeyPatch) -> None:
    waiters = Waiters(monkeypatch, 128)
    waiters.wait(1)
    assert waiters.free(7) == []
    assert waiters.free() == ["task1"]


def test_vector_A_3_depth_16_three_waiters(monkeypatch: pytest.MonkeyPatch) -> None:
    waiters = Waiters(monkeypatch, 16)
    for pid in (1, 2, 3):
        waiters.wait(pid)
    assert [waiters.free() for _ in range(6)] == [[], ["task1"], [], ["task2"], [], ["task3"]]


def test_A_3_a_free_without_a_waiter_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    waiters = Waiters(monkeypatch, 128)
    assert waiters.free(20) == []
    waiters.wait(1)
    assert waiters.free(7) == []
    assert waiters.free() == ["task1"]


def test_A_3_an_elevator_waits_for_scheduler_tags() -> None:
    cpu, _, _ = lone_cpu(disk=scsi_debug(41 * US, depth=32))
    queue = cpu.queues[0]
    assert (queue.depth, queue.nr_requests) == (32, 64)
    assert queue.sbq.wait_cnt == [8] * 8  # of 64, not of 32
    taken = 0
    while blk_mq_tag.get_tag(cpu, queue):
        taken += 1
    assert taken == 64


def test_scenario_K_10_tag_exhaustion_wakes_every_4_frees() -> None:
    """Depth 32, iodepth 128, no elevator, one CPU: woken on the completion CPU every 4 frees."""

    def submitter() -> Steps:
        for number in range(128):
            yield (OP_RUN, 10 * US if number < 32 else 0)
            yield (OP_IO_SUBMIT, [(number, WRITE, 0, number * 4096, 4096)])
        reaped = 0
        while reaped < 128:
            reaped += len((yield (OP_IO_GETEVENTS, 1, 128)))

    box = Box(
        Job(submitter, name="fio", disk="/xfs"),
        charges=costs(io_submit_ns=100, blk_end_request_ns=100),
        disk=scsi_debug(1 * MS, depth=32, scheduler="none"),
        hz=100,
    ).run(9 * MS)
    issues = box.times("block_rq_issue")
    frees = [t + 100 for t in box.times("block_rq_complete")]
    waking = [e for e in box.events("sched_waking") if e[2]["pid"] == box.pid(0)]
    assert len([t for t in issues if t < 1 * MS]) == 32
    # Every fourth free wakes the submitter, which takes those four tags and sleeps again.
    assert [e[0] for e in waking[:8]] == frees[3:32:4]
    assert [sum(t < e[0] for t in issues) for e in waking[:8]] == [32 + 4 * n for n in range(8)]
    # Who frees wakes: the softirq of this CPU, whatever it has interrupted.
    assert all(e[2]["flags"] & 8 for e in waking[:8])
    assert len(issues) == len(box.times("box_aio_complete")) == 128


# -- A.4 ------------------------------------------------------------------------------------------


def requests(*sizes: int) -> list[Request]:
    """Return requests of so many bytes."""
    made = []
    for size in sizes:
        rq = Request()
        rq.nr_sector = size >> 9
        made.append(rq)
    return made


def a_queue(disk: DiskSpec | None = None, rules: Rules = Rules()) -> BlockQueue:
    """Return CPU 0's part of a disk's queue."""
    spec = Box(nr_cpus=4, disk=scsi_debug(41 * US), rules=rules).spec
    return BlockQueue(replace(spec, disks=(disk or spec.disks[0],)), 0, 0)


@pytest.mark.parametrize(("rules", "limit"), [(Rules(), 16), (Rules(plug_32=True), 32)])
def test_A_4_plug_is_full_at_16_requests_or_32(rules: Rules, limit: int) -> None:
    queue = a_queue(rules=rules)
    assert not plug_full(queue, requests(*[4096] * (limit - 1)))
    assert plug_full(queue, requests(*[4096] * limit))


@pytest.mark.parametrize(("rules", "limit"), [(Rules(), 16), (Rules(plug_32=True), 64)])
def test_A_4_a_plug_with_several_queues_holds_64_from_5_15(rules: Rules, limit: int) -> None:
    queue = a_queue(rules=rules)
    plug = requests(*[4096] * limit)
    plug[0].queue = 1
    assert not plug_full(queue, plug[: limit - 1])
    assert plug_full(queue, plug)


def test_A_4_plug_is_full_when_its_last_request_has_128_kib() -> None:
    queue = a_queue()
    assert plug_full(queue, requests(128 * 1024))
    assert not plug_full(queue, requests(128 * 1024 - 512))
    assert not plug_full(queue, requests(128 * 1024, 4096))
    assert not plug_full(queue, [])


def test_A_4_a_driver_with_commit_rqs_takes_whole_plugs() -> None:
    several = null_blk(2, submit_queues=4)
    assert a_queue(several).plug_max == 1
    nvme = replace(several, driver="nvme", vectors=(1, 2, 4, 8))
    assert a_queue(nvme).plug_max == 16


def issue_bursts(box: Box) -> list[int]:
    """Return how many requests were issued between one insert and the next."""
    bursts = [0]
    for _, name, _ in box.events("block_rq_insert", "block_rq_issue"):
        if name == "block_rq_issue":
            bursts[-1] += 1
        elif bursts[-1]:
            bursts.append(0)
    return bursts


def submit(nr: int, size: int = 4096, file: int = 0) -> Iterator[Op]:
    """Submit so many IOs with one io_submit()."""
    yield (OP_IO_SUBMIT, [(n, WRITE, file, n * size, size) for n in range(nr)])


def plug_box(nr: int, size: int = 4096, disk: DiskSpec | None = None) -> Box:
    """Run one io_submit() of ``nr`` IOs."""

    def steps() -> Steps:
        yield from submit(nr, size)
        yield (OP_SLEEP, 50 * MS)

    return Box(
        Job(steps, name="fio", disk="/xfs"),
        disk=disk or scsi_debug(1 * MS),
        charges=costs(
            io_submit_ns=1000, io_submit_more_ns=1000, dispatch_ns=100, null_dispatch_ns=100
        ),
    ).run(20 * MS)


def test_A_4_batch_of_32_flows_through_one_plug_in_two_flushes_of_16() -> None:
    box = plug_box(32)
    assert issue_bursts(box) == [16, 16]
    issued = box.times("block_rq_issue")
    first = box.times("block_rq_insert")[0]
    # The 17th IO is prepared, finds the plug full, and lets it go; 16 leave 100 ns apart.
    assert issued[:16] == [first + 100 * (n + 1) for n in range(16)]
    assert issued[16] == issued[15] + 15 * 1000 + 100


def test_A_4_io_submit_of_2_has_no_plug_of_its_own() -> None:
    assert issue_bursts(plug_box(1)) == [1]
    assert issue_bursts(plug_box(2)) == [1, 1]


def test_A_4_io_submit_of_3_plugs_around_the_plugs_of_iomap() -> None:
    assert issue_bursts(plug_box(3)) == [3]


def test_A_4_a_request_of_128_kib_lets_the_plug_go_before_the_next() -> None:
    assert issue_bursts(plug_box(3, 128 * 1024)) == [1, 1, 1]


def test_A_4_several_hardware_queues_keep_one_request_in_the_plug() -> None:
    box = plug_box(4, disk=null_blk(2, submit_queues=4))
    issued = box.times("block_rq_issue")
    # Each IO but the last is issued when the next one is prepared, the last at the end.
    start = issued[0] - 2100
    assert issued == [start + t for t in (2100, 3200, 4300, 4400)]


def test_A_4_a_failed_last_iocb_still_finishes_the_plug() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(n, WRITE, 0, n * 4096, 4096 if n < 3 else 100) for n in range(4)])
        yield (OP_RUN, 10 * MS)

    box = Box(Job(steps, name="fio", disk="/xfs"), disk=scsi_debug(1 * MS)).run(5 * MS)
    assert box.script().calls[1][1] == 4
    assert [(e[2]["data"], e[2]["res"]) for e in box.events("box_aio_complete")] == [
        (3, -22),
        (0, 4096),
        (1, 4096),
        (2, 4096),
    ]


def test_A_4_a_task_about_to_sleep_leaves_its_plug_to_kblockd() -> None:
    """A batch of unaligned writes: each sleeps inside io_submit() with its request in the plug."""

    def steps() -> Steps:
        yield from submit(3, 512)
        yield (OP_RUN, 10 * MS)

    box = Box(Job(steps, name="fio", disk="/xfs"), disk=scsi_debug(100 * US)).run(5 * MS)
    assert [box.comm(e[2]["current"]) for e in box.events("block_rq_insert")] == ["fio"] * 3
    issuers = [box.comm(e[2]["current"]) for e in box.events("block_rq_issue")]
    assert all(issuer.endswith("H") for issuer in issuers)
    assert len(issuers) == 3
    assert box.script().calls[1][1] == 3


def test_A_5_completion_runs_the_queue_by_kblockd_and_the_rest_of_a_burst_waits() -> None:
    """The first timer fires while the elevator still holds requests: kblockd takes them over."""

    def steps() -> Steps:
        yield from submit(16)
        yield (OP_RUN, 10 * MS)

    box = Box(
        Job(steps, name="fio", disk="/xfs"),
        disk=scsi_debug(41 * US),
        charges=costs(dispatch_ns=3500, blk_end_request_ns=4000),
    ).run(5 * MS)
    first_complete = box.events("block_rq_complete")[0]
    issued_before = [t for t in box.times("block_rq_issue") if t < first_complete[0]]
    assert len(issued_before) == 12  # 41 µs / 3.5 µs, and the one under way
    queued = box.events("workqueue_queue_work")
    assert queued[1][2]["workqueue"] == "kblockd"
    assert queued[1][2]["function"] == "blk_mq_run_work_fn"
    # need_resched of its wakeup ends the softirq loop after this request; ksoftirqd has the rest.
    ended_by = [box.comm(e[2]["current"]) for e in box.events("block_rq_complete")]
    assert ended_by == ["fio"] + ["ksoftirqd/0"] * 15
    assert len(box.times("box_aio_complete")) == 16


def test_A_5_a_busy_device_is_tried_again_at_once_and_then_after_3_ms() -> None:
    """BLK_STS_RESOURCE: the request is a leftover; nothing ends that could run the queue earlier."""
    box = plug_box(1, disk=replace(scsi_debug(1 * MS), carries=True))
    assert len(box.times("block_rq_complete")) == 1

    def steps() -> Steps:
        yield (OP_SLEEP, 10 * MS)
        yield from submit(2)
        yield (OP_SLEEP, 50 * MS)

    disk = replace(scsi_debug(100 * US), carries=True)
    box = Box(Job(steps, name="fio", disk="/xfs"), disk=disk).run(9 * MS)
    cpu = box.cpus[0]
    cpu.queues[0].busy_until = 18 * MS
    box.run(11 * MS)
    inserted = box.times("block_rq_insert")
    assert 10 * MS <= inserted[0] < 11 * MS
    assert [e for e in box.times("workqueue_queue_work") if e < 11 * MS] != []
    box.run(30 * MS)
    issued = box.times("block_rq_issue")
    assert len(issued) == 2
    # The timers of the wheel run at ticks 13, 16 and 19: the third finds the device idle again.
    assert 19 * MS <= issued[0] < 20 * MS
    assert cpu.counters["blk_sts_resource"] >= 4
    assert len(box.times("block_rq_complete")) == 2


# -- A.7 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rq_affinity", "same", "near", "far", "offline"),
    [(0, 1, 1, 1, 1), (1, 1, 1, 5, 1), (2, 1, 3, 5, 1)],
)
def test_A_7_steering_table_of_one_hardware_queue(
    rq_affinity: int, same: int, near: int, far: int, offline: int
) -> None:
    assert steer(1, 1, rq_affinity, 1, share_cache=True, online=True) == ("softirq", same)
    assert steer(1, 3, rq_affinity, 1, share_cache=True, online=True) == ("softirq", near)
    assert steer(1, 5, rq_affinity, 1, share_cache=False, online=True) == ("softirq", far)
    assert steer(1, 5, rq_affinity, 1, share_cache=False, online=False) == ("softirq", offline)


@pytest.mark.parametrize(
    ("rq_affinity", "same", "near", "far", "offline"),
    [(0, 1, 1, 1, 1), (1, 1, 1, 5, 1), (2, 1, 3, 5, 1)],
)
def test_A_7_steering_table_of_several_hardware_queues(
    rq_affinity: int, same: int, near: int, far: int, offline: int
) -> None:
    assert steer(1, 1, rq_affinity, 8, share_cache=True, online=True) == ("hardirq", same)
    assert steer(1, 3, rq_affinity, 8, share_cache=True, online=True) == ("hardirq", near)
    assert steer(1, 5, rq_affinity, 8, share_cache=False, online=True) == ("hardirq", far)
    assert steer(1, 5, rq_affinity, 8, share_cache=False, online=False) == ("hardirq", offline)


def complete_on(
    monkeypatch: pytest.MonkeyPatch,
    nr_hw_queues: int,
    rq_affinity: int,
    ctx_cpu: int,
    offline: int = -1,
    rules: Rules = Rules(),
) -> tuple[Cpu, list[int]]:
    """Complete a request on CPU 1 of two LLCs of four; return it and what it ended inline."""
    disk = null_blk(1, submit_queues=nr_hw_queues, rq_affinity=rq_affinity)
    cpu, board, _ = lone_cpu(1, 8, llc=4, disk=disk, charges=costs(ipi_ns=700), rules=rules)
    if offline >= 0:
        board.facts[offline] = facts(flags=0)
    assert board.facts[5][0] in (0, RQF_ONLINE | RQF_ACTIVE | RQF_IDLE)
    rq = Request()
    rq.cookie, rq.ctx_cpu, rq.rw = 77, ctx_cpu, READ
    cpu.inflight[77] = rq
    ended: list[int] = []
    monkeypatch.setattr(blk_mq, "end_request", lambda _cpu, one: ended.append(one.cookie))
    cpu.level = 2
    cpu.outbox.clear()
    blk_softirq.blk_mq_complete_request(cpu, rq)
    assert not cpu.inflight
    return cpu, ended


@pytest.mark.parametrize(
    ("nr_hw_queues", "rq_affinity", "ctx_cpu", "offline", "context", "where"),
    [
        (1, 1, 3, -1, "softirq", 1),
        (1, 1, 5, -1, "softirq", 5),
        (1, 2, 3, -1, "softirq", 3),
        (1, 0, 5, -1, "softirq", 1),
        (1, 2, 5, 5, "softirq", 1),
        (8, 1, 3, -1, "hardirq", 1),
        (8, 1, 5, -1, "hardirq", 5),
        (8, 2, 3, -1, "hardirq", 3),
    ],
)
def test_vector_A_7_two_llcs(
    monkeypatch: pytest.MonkeyPatch,
    nr_hw_queues: int,
    rq_affinity: int,
    ctx_cpu: int,
    offline: int,
    context: str,
    where: int,
) -> None:
    cpu, ended = complete_on(monkeypatch, nr_hw_queues, rq_affinity, ctx_cpu, offline)
    sent = [(m[0], m[3]) for m in cpu.outbox if m[4] == messages.CALL_COMPLETE]
    assert sent == ([(700, where)] if where != 1 else [])
    in_list = [rq.cookie for rq in cpu.done_list]
    if where != 1:
        assert (in_list, ended) == ([], [])
    elif context == "softirq":
        assert (in_list, ended) == ([77], [])
        assert cpu.softirq_pending == 1 << 4
    else:
        assert (in_list, ended) == ([], [77])
        assert cpu.softirq_pending == 0


REMOTE = Rules(complete_remote_softirq=True)
SINGLE = Rules(complete_remote_softirq=True, complete_single_ctx=True)
OWN = Rules(complete_remote_softirq=True, complete_single_ctx=True, complete_single_ctx_own=True)


@pytest.mark.parametrize(
    ("rules", "queues", "nr_ctx", "rq_affinity", "ctx_cpu", "result"),
    [
        # 5.12: what goes elsewhere ends in softirq there; what stays is as it was.
        (REMOTE, 1, 8, 1, 5, ("softirq", 5)),
        (REMOTE, 1, 8, 1, 3, ("softirq", 1)),
        (REMOTE, 8, 1, 1, 5, ("softirq", 5)),
        (REMOTE, 8, 1, 2, 3, ("softirq", 3)),
        (REMOTE, 8, 1, 1, 3, ("hardirq", 1)),
        # 6.1: a queue of one CPU is not steered at all, not even if it is the only one.
        (SINGLE, 8, 1, 1, 5, ("hardirq", 1)),
        (SINGLE, 8, 1, 2, 3, ("hardirq", 1)),
        (SINGLE, 4, 2, 2, 3, ("softirq", 3)),
        (SINGLE, 1, 1, 1, 1, ("hardirq", 1)),
        # 6.12: only on its own CPU.
        (OWN, 8, 1, 2, 1, ("hardirq", 1)),
        (OWN, 8, 1, 2, 3, ("softirq", 3)),
        (OWN, 8, 1, 1, 3, ("hardirq", 1)),
        (OWN, 8, 1, 1, 5, ("softirq", 5)),
    ],
)
def test_A_7_steering_by_version(
    rules: Rules,
    queues: int,
    nr_ctx: int,
    rq_affinity: int,
    ctx_cpu: int,
    result: tuple[str, int],
) -> None:
    near = ctx_cpu < 4
    assert steer(1, ctx_cpu, rq_affinity, queues, near, True, rules, nr_ctx) == result


def test_A_7_steering_asks_the_box_how_many_cpus_a_queue_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, ended = complete_on(monkeypatch, 8, 2, 3, rules=SINGLE)
    assert ended == [77]
    cpu, ended = complete_on(monkeypatch, 4, 2, 3, rules=SINGLE)
    assert (ended, [m[3] for m in cpu.outbox]) == ([], [3])


def test_A_7_remote_softirq_one_ipi_raises_block_for_the_whole_list() -> None:
    """5.12: three requests on one list, the oldest first; one IPI, one raise, one handler call."""
    cpu, _, ring = lone_cpu(
        disk=null_blk(1, submit_queues=1),
        charges=costs(ipi_handler_ns=300, blk_start_request_ns=US),
        rules=REMOTE,
    )
    run_task(cpu, sleeping_task(cpu))
    for number, rq in enumerate(requests(4096, 4096, 4096)):
        rq.cookie = number
        cpu.deliver((1000 + number, 1, number, 0, messages.CALL_COMPLETE, (rq.pack(), 0)))
    cpu.advance(2000, 1 << 62)
    names = {
        event: [r[0] for r in ring.records if r[1] == event]
        for event in (tp.CALL_FUNCTION_SINGLE_ENTRY, tp.SOFTIRQ_RAISE, tp.SOFTIRQ_ENTRY)
    }
    assert list(names.values()) == [[1300], [1300], [1300]]
    assert [rq.cookie for rq in cpu.sirq_block] == [0, 1, 2]
    assert cpu.done_list == []


def test_A_7_block_is_raised_only_if_the_done_list_was_empty() -> None:
    cpu, _, ring = lone_cpu(disk=scsi_debug(41 * US))
    cpu.level = 2
    for rq in requests(4096, 4096):
        blk_softirq.add_to_done_list(cpu, rq)
    assert len(ring.records) == 1
    assert len(cpu.done_list) == 2


def test_A_7_one_ipi_for_requests_steered_while_one_is_pending() -> None:
    cpu, _, ring = lone_cpu(
        disk=scsi_debug(41 * US), charges=costs(ipi_handler_ns=300, blk_end_request_ns=10 * US)
    )
    run_task(cpu, sleeping_task(cpu))
    for number, rq in enumerate(requests(4096, 4096, 4096)):
        rq.cookie = number
        cpu.deliver((1000, 1, number, 0, messages.CALL_COMPLETE, (rq.pack(), 0)))
    cpu.advance(5000, 1 << 62)
    ipis = [r for r in ring.records if r[1] == tp.CALL_FUNCTION_SINGLE_ENTRY]
    assert [r[0] for r in ipis] == [1300]
    assert cpu.call_done == []
    assert len(cpu.done_list) + len(cpu.sirq_block) == 3


# -- G.8 ------------------------------------------------------------------------------------------


def test_vector_G_8_1_scsi_debug_timers_on_the_submitting_cpu() -> None:
    def steps() -> Steps:
        yield from submit(1)
        yield (OP_RUN, 5 * US)
        yield from submit(1)
        yield (OP_RUN, 4 * US)
        yield from submit(1)
        yield (OP_RUN, 1 * MS)

    box = Box(
        Job(steps, name="fio", disk="/xfs", cpu=2, mask=1 << 2),
        nr_cpus=4,
        disk=scsi_debug(41 * US),
    ).run(200 * US)
    start = box.times("block_rq_issue")[0]
    assert [t - start for t in box.times("block_rq_issue", cpu=2)] == [0, 5 * US, 9 * US]
    expiries = box.events("hrtimer_expire_entry")
    assert [e[0] - start for e in expiries] == [41 * US, 46 * US, 50 * US]
    assert {e[2]["on"] for e in expiries} == {2}


@pytest.mark.parametrize("rw", [WRITE, READ])
def test_vector_G_8_2_null_blk_irqmode_0_completes_in_the_submitter(rw: int) -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(5, rw, 0, 0, 4096)])
        yield (OP_IO_GETEVENTS, 1, 1)
        yield (OP_RUN, 1 * MS)

    box = Box(Job(steps, name="fio", disk="/xfs"), disk=null_blk(0)).run(500 * US)
    done = box.events("box_aio_complete")
    assert [(e[2]["current"], e[2]["data"], e[2]["res"]) for e in done] == [(box.pid(0), 5, 4096)]
    assert box.times("workqueue_queue_work") == []
    assert box.times("softirq_raise", vec=4) == []
    assert [result for _, result in box.script().calls[1:3]] == [1, [(5, 4096)]]
    assert box.task().run.dio_count == {0: 0}


def test_null_blk_irqmode_2_ends_the_request_in_the_timer() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(5, READ, 0, 0, 4096)])
        yield (OP_RUN, 1 * MS)

    box = Box(Job(steps, name="fio", disk="/xfs"), disk=null_blk(2)).run(500 * US)
    issued = box.times("block_rq_issue")[0]
    done = box.events("box_aio_complete")[0]
    assert done[0] == issued + 10 * US
    assert done[2]["flags"] & 4  # hard interrupt
    assert box.times("softirq_raise", vec=4) == []


def test_queues_take_their_hardware_queue_from_the_map() -> None:
    cpu, _, _ = lone_cpu(6, 8, core=2, disk=null_blk(1, submit_queues=4))
    assert isinstance(cpu.queues[0], BlockQueue)
    assert cpu.queues[0].hctx == 1
