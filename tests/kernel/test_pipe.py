"""Pipes: who is woken, by whom, at what price, and that nothing written is lost."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.kernel import pipe
from emulator.kernel.process import PipeEnds
from emulator.types import (
    OP_BURN,
    OP_PIPE_POLL,
    OP_PIPE_READ,
    OP_PIPE_WRITE,
    OP_RUN,
    OP_SETAFFINITY,
    OP_SLEEP,
    Costs,
)
from tests.kernel.box import MS, QUIET, US, Box, Job, Steps, costs

BEGIN = 1 * MS
WRITER, READER = 0, 1


def charges() -> Costs:
    """Return costs of which every part of a wakeup can be told apart."""
    return costs(
        syscall_ns=100,
        pipe_read_ns=30,
        pipe_write_ns=20,
        ttwu_ns=4000,
        select_task_rq_ns=1000,
        ttwu_activate_ns=2000,
        ipi_ns=500,
        idle_exit_ns=300,
        context_switch_ns=700,
        stopper_tail_ns=500,
    )


def write_after(ns: int, *values: int) -> Steps:
    for value in values:
        yield (OP_RUN, ns)
        yield (OP_PIPE_WRITE, 0, value)


def read(count: int, found: list[tuple[int, ...]]) -> Steps:
    for _ in range(count):
        value = yield (OP_PIPE_READ, 0)
        found.append((value,))


def pair(writer: Job, reader: Job, nr_cpus: int = 2) -> Box:
    """Return a box of a writer and a reader of pipe 0."""
    writer.writes, reader.reads = (0,), (0,)
    return Box(writer, reader, nr_cpus=nr_cpus, charges=charges(), sysctls=QUIET)


def wakings(box: Box) -> list[tuple[int, int]]:
    """Return (time, CPU) of every waking of the reader."""
    events = box.events("sched_waking")
    return [(t, args["on"]) for t, _, args in events if args["pid"] == box.pid(READER)]


def test_a_reader_on_the_same_cpu_is_woken_where_it_is() -> None:
    found: list[tuple[int, ...]] = []
    box = pair(
        Job(lambda: write_after(50 * US, 7), cpu=0, mask=1, start_ns=BEGIN),
        Job(lambda: read(1, found), cpu=0, mask=1),
    ).run(3 * MS)
    assert found == [(7,)]
    # The bound reader is enqueued ttwu_ns after the write; no message tells anybody anything.
    ((waking, on),) = wakings(box)
    assert on == 0
    assert waking >= BEGIN + 50 * US + 100 + 20
    assert box.times("sched_wakeup", pid=box.pid(READER)) == [waking + 4000]


def test_a_writer_on_another_cpu_decides_pays_and_records() -> None:
    found: list[tuple[int, ...]] = []
    box = pair(
        Job(lambda: write_after(50 * US, 7), cpu=0, mask=1, start_ns=BEGIN),
        Job(lambda: read(1, found), cpu=1),
    ).run(3 * MS)
    assert found == [(7,)]
    ((waking, on),) = wakings(box)
    assert on == 0
    (choice,) = [e for e in box.events("box_select_task_rq", cpu=0) if e[0] > BEGIN]
    assert choice[0] == waking + 1000
    assert choice[2]["cpu"] == 1
    assert box.times("sched_wakeup", cpu=1, pid=box.pid(READER)) == [waking + 1000 + 2000]
    # The writer goes on when it has enqueued the reader, and exits.
    (exit_ns,) = box.times("sched_process_exit", pid=box.pid(WRITER))
    assert exit_ns == waking + 3000


def test_the_wakeup_is_synchronous() -> None:
    """A lone waker draws a reader whose previous CPU has become busy to itself (C.3, sync)."""
    found: list[tuple[int, ...]] = []

    def hog() -> Steps:
        yield (OP_RUN, 100 * MS)

    writer = Job(lambda: write_after(50 * US, 7), cpu=0, mask=1, start_ns=2 * MS)
    reader = Job(lambda: read(1, found), cpu=1)
    writer.writes, reader.reads = (0,), (0,)
    box = Box(
        writer,
        reader,
        Job(hog, cpu=1, mask=2, start_ns=BEGIN),
        nr_cpus=2,
        charges=charges(),
        sysctls=QUIET,
    ).run(3 * MS)
    (choice,) = [e for e in box.events("box_select_task_rq", cpu=0) if e[0] > 2 * MS]
    assert (choice[2]["prev_cpu"], choice[2]["target"], choice[2]["cpu"]) == (1, 0, 0)
    (move,) = [e for e in box.events("sched_migrate_task") if e[2]["pid"] == box.pid(READER)]
    assert move[2]["on"] == 0
    assert found == [(7,)]


def test_a_reader_that_is_awake_is_not_woken() -> None:
    found: list[tuple[int, ...]] = []

    def late() -> Steps:
        yield (OP_RUN, 500 * US)
        yield from read(3, found)

    box = pair(
        Job(lambda: write_after(10 * US, 1, 2, 3), cpu=0, mask=1, start_ns=BEGIN),
        Job(late, cpu=1, start_ns=BEGIN),
    ).run(3 * MS)
    assert found == [(1,), (2,), (3,)]
    assert wakings(box) == []


def test_what_is_written_before_the_reader_is_born_waits_for_it() -> None:
    found: list[tuple[int, ...]] = []
    pair(
        Job(lambda: write_after(10 * US, 1, 2), cpu=0),
        Job(lambda: read(2, found), cpu=1, start_ns=BEGIN),
    ).run(3 * MS)
    assert found == [(1,), (2,)]


def test_an_exiting_reader_takes_along_what_it_has_not_read() -> None:
    found: list[tuple[int, ...]] = []
    box = pair(
        Job(lambda: write_after(300 * US, *range(9)), cpu=0, mask=1),
        Job(lambda: read(2, found), cpu=1),
    ).run(5 * MS)
    assert found == [(0,), (1,)]
    assert sum(nr for cpu in box.cpus for nr in cpu.piped.values()) == 0


def test_setaffinity_moves_the_task_by_its_stopper() -> None:
    def steps() -> Steps:
        yield (OP_RUN, 10 * US)
        yield (OP_SETAFFINITY, 2)
        yield (OP_RUN, 10 * US)
        yield (OP_SETAFFINITY, 2)
        yield (OP_SLEEP, 10 * MS)

    box = Box(Job(steps, start_ns=BEGIN), nr_cpus=2, charges=charges(), sysctls=QUIET).run(3 * MS)
    (move,) = box.events("sched_migrate_task")
    assert (move[2]["orig_cpu"], move[2]["dest_cpu"]) == (0, 1)
    assert box.comm(move[2]["current"]) == "migration/0"
    assert box.task().cpus_mask == 2
    assert box.task().cpu == 1


def test_ends_survive_packing() -> None:
    ends = PipeEnds()
    ends.unread, ends.next_read, ends.next_write = {3: {7: 9}}, {3: 7}, {4: 1}
    ends.peers, ends.waiters = {3: (2, 1), 4: (0, 0)}, {4: [17, [1, 2]]}
    again = PipeEnds.unpack(ends.pack())
    assert again.pack() == ends.pack()
    assert again.peers == ends.peers


def test_a_task_that_burns_watches_its_clock() -> None:
    def steps() -> Steps:
        yield (OP_BURN, 10 * US)

    box = Box(Job(steps, start_ns=BEGIN), charges=charges()).run(BEGIN + 5 * US)
    cpu = box.cpus[0]
    left = cpu.f_end - (BEGIN + 5 * US)
    assert 0 < left <= 10 * US
    cpu.stall(BEGIN + 5 * US)
    cpu.resume(BEGIN + 8 * US)
    assert cpu.f_end == BEGIN + 5 * US + left
    cpu.stall(BEGIN + 8 * US)
    cpu.resume(BEGIN + 80 * US)
    assert cpu.f_end == BEGIN + 80 * US


# -- Whatever the two do --------------------------------------------------------------------------

NR_CPUS = 3
WRITES = 30


def wander(random: Random, step: int) -> Steps:
    """Burn, sleep or move, or nothing."""
    match random.randrange(4):
        case 0:
            yield (OP_RUN, random.randrange(1, 20 * US))
        case 1:
            yield (OP_SETAFFINITY, 1 << random.randrange(NR_CPUS))
        case 2:
            yield (OP_SLEEP, step * 40 * US + random.randrange(20 * US))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 32), st.integers(0, 3 * US), st.booleans(), st.booleans())
def test_every_number_arrives_once_and_in_order(
    seed: int, ipi_ns: int, bound: bool, offline: bool
) -> None:
    random = Random(seed)
    found: list[tuple[int, ...]] = []

    def write() -> Steps:
        for number in range(WRITES):
            yield from wander(random, number)
            yield (OP_PIPE_WRITE, 0, number)

    def take() -> Steps:
        for number in range(WRITES):
            if not bound:
                yield from wander(random, number)
            yield from read(1, found)

    writer = Job(write, cpu=random.randrange(NR_CPUS), start_ns=random.randrange(50 * US))
    reader = Job(take, cpu=random.randrange(NR_CPUS), start_ns=random.randrange(50 * US))
    writer.writes, reader.reads = (0,), (0,)
    box = Box(
        writer,
        reader,
        nr_cpus=NR_CPUS,
        charges=costs(
            ttwu_ns=500, select_task_rq_ns=300, ttwu_activate_ns=400, ipi_ns=ipi_ns, syscall_ns=50
        ),
    )
    if offline:
        box.command(200 * US, 1, "cpu", "offline", 1)
    for until_us in range(100, 2000, 50):
        box.run(until_us * US)  # the books add up at any time
    assert found == [(number,) for number in range(WRITES)]
    pid = box.pid(READER)
    sleeps = sum(
        args["prev"] == pid and args["prev_state"] == 1 for _, _, args in box.events("sched_switch")
    )
    wakeups = len(box.times("sched_wakeup", pid=pid))
    assert wakeups >= sleeps
    for cpu in box.cpus:
        for p in cpu.tasks.values():
            assert not pipe.waits_for(p, 0)


# -- A reader of several pipes --------------------------------------------------------------------


def poll(count: int, pipes: list[int], found: list[int]) -> Steps:
    for _ in range(count):
        value = yield (OP_PIPE_POLL, pipes)
        found.append(value)


def test_a_reader_of_several_pipes_is_woken_by_the_first_and_its_own_cpu_decides() -> None:
    found: list[int] = []

    def write_to(pipe: int, ns: int) -> Steps:
        yield (OP_RUN, ns)
        yield (OP_PIPE_WRITE, pipe, pipe)

    late = Job(lambda: write_to(0, 90 * US), cpu=0, mask=1, start_ns=BEGIN)
    early = Job(lambda: write_to(1, 50 * US), cpu=1, mask=2, start_ns=BEGIN)
    reader = Job(lambda: poll(2, [0, 1], found), cpu=2)
    late.writes, early.writes, reader.reads = (0,), (1,), (0, 1)
    box = Box(late, early, reader, nr_cpus=3, charges=charges(), sysctls=QUIET).run(3 * MS)
    assert found == [1, 0]
    wakings = [(t, a["on"]) for t, _, a in box.events("sched_waking") if a["pid"] == box.pid(2)]
    assert [on for _, on in wakings] == [2, 2], "it had left no entry with the writers"
    first, second = (t - BEGIN for t, _ in wakings)
    assert 50 * US < first < 60 * US
    assert 90 * US < second < 100 * US


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1 << 32), st.integers(0, 3 * US))
def test_every_number_of_every_pipe_arrives_once(seed: int, ipi_ns: int) -> None:
    random = Random(seed)
    found: list[int] = []

    def write_to(pipe: int) -> Steps:
        for number in range(WRITES):
            yield from wander(random, number)
            yield (OP_PIPE_WRITE, pipe, pipe * 100 + number)

    def take() -> Steps:
        for number in range(2 * WRITES):
            yield from wander(random, number // 2)
            yield from poll(1, [0, 1], found)

    first, second = Job(lambda: write_to(0), cpu=0), Job(lambda: write_to(1), cpu=1)
    reader = Job(take, cpu=random.randrange(NR_CPUS))
    first.writes, second.writes, reader.reads = (0,), (1,), (0, 1)
    charged = costs(ttwu_ns=500, select_task_rq_ns=300, ttwu_activate_ns=400, ipi_ns=ipi_ns)
    box = Box(first, second, reader, nr_cpus=NR_CPUS, charges=charged)
    for until_us in range(100, 4000, 50):
        box.run(until_us * US)
    assert [number for number in found if number < 100] == list(range(WRITES))
    assert [number for number in found if number >= 100] == list(range(100, 100 + WRITES))


def test_a_task_may_bind_itself_to_several_cpus() -> None:
    def move() -> Steps:
        yield (OP_SETAFFINITY, 0b110)
        yield (OP_BURN, 50 * US)
        yield (OP_SETAFFINITY, 0b101)
        yield (OP_BURN, 50 * US)

    box = Box(Job(move, cpu=0, start_ns=BEGIN), nr_cpus=3, charges=charges(), sysctls=QUIET)
    box.run(3 * MS)
    moves = [e[2]["dest_cpu"] for e in box.events("sched_migrate_task")]
    assert moves == [1, 0]
