"""CPUs come and go at random while IOs are in flight: windows, inline, schedules on and off agree.

Every way leaves the same rings, the books add up whenever a CPU has gone and at the end, and the IOs
go on.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from emulator import tracepoints as tp
from emulator.boxfile.route import route
from emulator.build import latencies, node_of
from emulator.config import load_box
from emulator.engine.board import HistoryBoard
from emulator.engine.commands import Commands
from emulator.engine.conservation import audit_books
from emulator.engine.inline import InlineBox
from emulator.engine.windowbox import WindowBox
from emulator.plain import spec_to_plain
from emulator.trace.ring import MemoryRing
from emulator.types import BoxEvent, BoxSpec, DiskSpec, Message

END_NS = 90_000_000

SLOW = {"ndelay": 3_000_000}
NULL_BLK = {
    "irqmode": 2,
    "submit_queues": 4,
    "hw_queue_depth": 64,
    "completion_nsec": 2_000_000,
}


def storm(seed: int, nr_cpus: int) -> tuple[BoxEvent, ...]:
    """Return random commands, one every millisecond or so."""
    draw = random.Random(seed)
    events: list[BoxEvent] = []
    at_ns = 3_000_000
    while at_ns < END_NS - 40_000_000:
        cpu = draw.randrange(1, nr_cpus)
        lines = ["cpu offline of:fio"] * 4 + [f"cpu online {cpu}"] * 8 + ["cpu kill of:fio"]
        lines += [f"cpu offline {cpu}", f"cpu load {cpu} --percent {draw.choice([0, 40, 100])}"]
        lines += [f"sysctl kernel.sched_wakeup_granularity_ns={draw.choice([0, 15_000_000])}"]
        events.append(BoxEvent(at_ns, draw.choice(lines)))
        at_ns += draw.randrange(1_000, 2_000_000)
    return tuple(events)


def spec_with(disk: DiskSpec, seed: int) -> BoxSpec:
    """Return the tuned box with another disk and a storm."""
    spec = load_box("xfs-aio-4k-tuned").resolve()
    events = storm(seed, spec.machine.nr_cpus)
    return replace(spec, disks=(disk,), events=events, duration_ns=END_NS, warmup_ns=0)


def timed(spec: BoxSpec) -> list[Message]:
    """Return a box's events as messages."""
    plain = spec_to_plain(spec)
    lines = [(event.at_ns, event.do.split()) for event in spec.events]
    return Commands().give_timed(
        (at_ns, target, list(words)) for at_ns, words in lines for target in route(words, plain)
    )


def rings_of(spec: BoxSpec) -> list[MemoryRing]:
    return [MemoryRing(f"node{n}", n) for n in range(spec.machine.nr_cpus + 1 + len(spec.disks))]


def run_inline(spec: BoxSpec) -> list[MemoryRing]:
    """Run in plain time order; the engine audits at every fault."""
    rings, nr_cpus = rings_of(spec), spec.machine.nr_cpus
    board = HistoryBoard(len(rings))
    nodes = [node_of(spec, n, board, ring) for n, ring in enumerate(rings)]
    box = InlineBox(nodes, nr_cpus, [board], latencies(spec))
    for message in timed(spec):
        box.post(message)
    box.run(END_NS)
    box.check()
    return rings


def run_windows(spec: BoxSpec, seed: int) -> list[MemoryRing]:
    """Run in windows whose replies come in random order."""
    rings, nr_cpus = rings_of(spec), spec.machine.nr_cpus
    boards = [HistoryBoard(len(rings), keep_fresh=n != nr_cpus) for n in range(len(rings))]
    nodes = [node_of(spec, n, boards[n], ring) for n, ring in enumerate(rings)]
    box = WindowBox(nodes, nr_cpus, boards, latencies(spec), END_NS, random.Random(seed).randrange)
    for message in timed(spec):
        box.core.post(message)
    box.run()
    assert audit_books({node.node_id: node.books() for node in nodes}) == []
    return rings


def assert_io_goes_on(rings: list[MemoryRing], service_ns: int) -> None:
    """What was issued in time has completed, and the submitter has submitted to the end."""
    issued = times(rings, tp.BLOCK_RQ_ISSUE)
    late_ns = END_NS - service_ns - 500_000
    assert len(times(rings, tp.BLOCK_RQ_COMPLETE)) >= sum(at_ns < late_ns for at_ns in issued)
    # A stint ends after 13 ms at most, and the kworker's turn after it.
    assert max(issued) > END_NS - 20_000_000
    assert max(times(rings, tp.BOX_AIO_COMPLETE)) > END_NS - 20_000_000


def times(rings: list[MemoryRing], event: int) -> list[int]:
    """Return the times of an event, of all rings."""
    return [record[0] for ring in rings for record in ring.records if record[1] == event]


def images(rings: list[MemoryRing]) -> list[bytes]:
    return [ring.image() for ring in rings]


@pytest.mark.parametrize("scheduler", ["mq-deadline", "none"])
@pytest.mark.parametrize("seed", [2, 3])
def test_scsi_debug(seed: int, scheduler: str) -> None:
    disk = load_box("xfs-aio-4k-tuned").resolve().disks[0]
    service_ns = SLOW["ndelay"]
    disk = replace(disk, params={**disk.params, **SLOW}, scheduler=scheduler, nr_requests=192)
    spec = spec_with(disk, seed)
    rings = run_inline(spec)
    assert images(run_windows(spec, seed)) == images(rings)
    asked = replace(spec, disks=(replace(disk, schedules=False),))
    assert images(run_inline(asked)) == images(rings)
    assert_io_goes_on(rings, service_ns)
    moves = [r for ring in rings for r in ring.records if r[1] == tp.SCHED_MIGRATE_TASK]
    assert sum(r[10] == tp.MIGRATE_HOTPLUG for r in moves) >= 2


@pytest.mark.parametrize("rq_affinity", [1, 2])
def test_null_blk_with_several_queues(rq_affinity: int) -> None:
    service_ns = NULL_BLK["completion_nsec"]
    disk = DiskSpec("sda", "null_blk", NULL_BLK, "none", rq_affinity, 64)
    spec = spec_with(disk, 3)
    rings = run_inline(spec)
    assert images(run_windows(spec, 4)) == images(rings)
    assert_io_goes_on(rings, service_ns)
