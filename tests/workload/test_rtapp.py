"""A task of rt-app, step by step, on a clock of the test's own."""

from __future__ import annotations

from typing import Any

from emulator.types import (
    NSEC_PER_MSEC,
    NSEC_PER_USEC,
    OP_BURN,
    OP_EXIT,
    OP_PIPE_POLL,
    OP_PIPE_READ,
    OP_PIPE_WRITE,
    OP_SETAFFINITY,
    OP_SLEEP,
    OP_YIELD,
)
from emulator.workload.params import Setting
from emulator.workload.rtapp import RUNTIME_STEP_NS, RtappProgram
from tests.workload.fake_kernel import costs

MS, US = NSEC_PER_MSEC, NSEC_PER_USEC


def task(*phases: list[Any], **params: Any) -> RtappProgram:
    return RtappProgram.make({"phases": list(phases)} | params, Setting(costs(), 1, 1000))


def test_loops_of_phases_and_of_the_task() -> None:
    program = task([2, [["run", 5]]], [1, [["run", 7], ["yield"]]], loop=2)
    ops = [program.next(now, 0) for now in range(9)]
    once = [(OP_BURN, 5), (OP_BURN, 5), (OP_BURN, 7), (OP_YIELD,)]
    assert ops == [*once, *once, (OP_EXIT,)]
    assert program.books()["rounds"] == 2


def test_runtime_looks_at_the_clock_after_every_piece() -> None:
    program = task([1, [["runtime", 80 * US]]], loop=1)
    now = 1000
    pieces = 0
    while (op := program.next(now, 0)) != (OP_EXIT,):
        assert op == (OP_BURN, RUNTIME_STEP_NS)
        pieces += 1
        now += RUNTIME_STEP_NS
    assert pieces == 3, "80 us are three pieces of 32 us"
    # Preempted for longer than it has left, it does not make up for it.
    program = task([1, [["runtime", 80 * US]]], loop=1)
    assert program.next(0, 0) == (OP_BURN, RUNTIME_STEP_NS)
    assert program.next(200 * US, 0) == (OP_EXIT,)


def test_a_relative_timer_that_was_missed_starts_anew() -> None:
    """The drawing of the tutorial: 10 ms of work, a timer of 20 ms; the third work takes 30 ms."""
    program = task([1, [["run", 10 * MS], ["timer", 0, 20 * MS, False]]], timers=1)
    now = 0
    for work in (10, 10, 30):
        assert program.next(now, 0) == (OP_BURN, 10 * MS)
        now += work * MS
        if work == 10:
            op = program.next(now, 0)
            assert op == (OP_SLEEP, (now // (20 * MS) + 1) * 20 * MS)
            now = op[1]
    # Missed at 70: the next one counts from there.
    assert program.next(70 * MS, 0) == (OP_BURN, 10 * MS)
    assert program.next(80 * MS, 0) == (OP_SLEEP, 90 * MS)
    assert program.books()["missed"] == 1


def test_an_absolute_timer_keeps_its_grid() -> None:
    program = task([1, [["run", 10 * MS], ["timer", 0, 20 * MS, True]]], timers=1)
    assert program.next(40 * MS, 0) == (OP_BURN, 10 * MS), "begin: 40, grid: 20, 40, 60 …"
    assert program.next(70 * MS, 0) == (OP_BURN, 10 * MS), "20: missed"
    assert program.next(80 * MS, 0) == (OP_BURN, 10 * MS), "40: missed"
    assert program.next(90 * MS, 0) == (OP_BURN, 10 * MS), "60: missed"
    assert program.next(95 * MS, 0) == (OP_BURN, 10 * MS), "80: missed"
    assert program.next(99 * MS, 0) == (OP_SLEEP, 100 * MS)
    assert program.books()["missed"] == 4


def test_timers_count_from_the_begin_of_the_task() -> None:
    program = task([1, [["timer", 0, 20 * MS, False]]], timers=1, begin_ns=3 * MS)
    assert program.next(4 * MS, 0) == (OP_SLEEP, 23 * MS)
    assert program.next(24 * MS, 0) == (OP_SLEEP, 43 * MS)
    assert program.books()["wake_ns"]["max"] == MS


def test_a_signal_before_the_wait_is_lost() -> None:
    program = task([1, [["wait", [4]]]], loop=1)
    assert program.next(100, 0) == (OP_PIPE_READ, 4)
    assert program.next(110, 99) == (OP_PIPE_READ, 4), "written at 99, it was for nobody"
    assert program.next(130, 120) == (OP_EXIT,)


def test_an_answer_to_its_own_signal_is_not_lost() -> None:
    program = task([1, [["sync", [1, 2], [3, 4]]]], loop=1)
    assert program.next(100, 0) == (OP_PIPE_WRITE, 1, 100)
    assert program.next(105, 0) == (OP_PIPE_WRITE, 2, 105)
    # The first of them has answered already, at 103.
    assert program.next(110, 0) == (OP_PIPE_POLL, [3, 4])
    assert program.next(115, 103) == (OP_EXIT,)


def test_a_semaphore_loses_nothing() -> None:
    program = task([1, [["take", [4]]]], loop=1)
    assert program.next(100, 0) == (OP_PIPE_READ, 4)
    assert program.next(110, 7) == (OP_EXIT,)


def test_signals_barriers_and_affinity() -> None:
    program = task([1, [["affinity", 6], ["signal", [1, 2]], ["barrier", 8, 9]]], loop=1)
    ops = [program.next(now, 0) for now in range(100, 106)]
    assert ops == [
        (OP_SETAFFINITY, 6),
        (OP_PIPE_WRITE, 1, 101),
        (OP_PIPE_WRITE, 2, 102),
        (OP_PIPE_WRITE, 8, 103),
        (OP_PIPE_READ, 9),
        (OP_EXIT,),
    ]


def test_it_ends_with_its_time_and_in_its_sleep() -> None:
    program = task([1, [["run", MS], ["sleep", 10 * MS]]], end_ns=5 * MS)
    assert program.next(0, 0) == (OP_BURN, MS)
    assert program.next(MS, 0) == (OP_SLEEP, 5 * MS)
    assert program.next(5 * MS, 0) == (OP_EXIT,)
