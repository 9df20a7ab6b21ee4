"""Waiting for a record: what conditions say, which records they mean, what a watch finds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator import tracepoints as tp
from emulator.trace.ftrace import V5_4
from emulator.trace.ring import Ring
from emulator.trace.watch import NAMED, Condition, RingWatch, parse_condition


@pytest.fixture
def rings(tmp_path: Path) -> Iterator[list[Ring]]:
    """Rings of two CPUs, on which task 7 is called fio."""
    rings = [Ring(tmp_path / f"cpu{cpu}.ring", f"cpu{cpu}", cpu) for cpu in range(2)]
    for ring in rings:
        ring.comm(7, "fio")
    yield rings
    for ring in rings:
        ring.close()


def watch_of(rings: list[Ring], words: str) -> RingWatch:
    condition = parse_condition(words.split())
    return RingWatch(Path(rings[0].path).parent, condition, V5_4, condition.recorders(2, 4))


@pytest.mark.parametrize("name", NAMED)
def test_every_name_stands_for_an_event_that_exists(name: str) -> None:
    assert parse_condition(name.split()) == parse_condition([name])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("sched_swich", "'sched_swich' is no event and none of: migration, active balance,"),
        ("sched_switch foo=3", "sched_switch has no 'foo' to ask for; it has prev, prev_prio"),
        ("sched_migrate_task why=wish", "why=wish: it is one of wakeup, active_balance,"),
        ("sched_switch next=fio", "next=fio: it is a number"),
        ("sched_switch cpu=x", "'cpu=x': it is a number"),
        ("cpu_idle", r"this box does not record cpu_idle \(trace.off\)"),
        ("", "'' is no event"),
    ],
)
def test_a_condition_that_is_none_is_said_why(words: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_condition(words.split(), ("cpu_idle",))


def test_words_of_fields_are_the_numbers_that_the_kernel_records() -> None:
    assert parse_condition(["active balance"]) == Condition(
        tp.BOX_LOAD_BALANCE, numbers=((9, tp.LB_ACTIVE),)
    )
    assert parse_condition(["softirq_entry", "vec=BLOCK"]).numbers == ((6, 4),)
    assert parse_condition(["sched_waking", "field.cpu=1"]).numbers == ((8, 1),)


def test_only_who_may_record_it_is_waited_for() -> None:
    assert list(parse_condition(["active balance"]).recorders(4, 6)) == [4]
    assert list(parse_condition(["box_doorbell"]).recorders(4, 6)) == [5]
    assert list(parse_condition(["sched_switch"]).recorders(4, 6)) == [0, 1, 2, 3]
    assert list(parse_condition(["sched_switch", "cpu=2"]).recorders(4, 6)) == [2]


def test_a_watch_sees_only_what_comes_after_it(rings: list[Ring]) -> None:
    rings[0].emit(10, tp.CPU_IDLE, 0, 0, 0, 1, 0)
    watch = watch_of(rings, "cpu_idle")
    assert watch.look() is None
    rings[1].emit(30, tp.CPU_IDLE, 0, 0, 0, 1, 1)
    rings[0].emit(20, tp.CPU_IDLE, 0, 0, 0, 1, 0)
    assert watch.look() == (20, "<idle>-0     [000]     0.000000: cpu_idle: state=1 cpu_id=0")
    assert watch.look() is None


@pytest.mark.parametrize(
    ("words", "found_ns"),
    [
        ("sched_migrate_task", 10),
        ("sched_migrate_task cpu=1", 20),
        ("sched_migrate_task pid=8", 20),
        ("sched_migrate_task task=fio why=nohz", 30),
        ("sched_migrate_task dest_cpu=5", None),
        ("cpu_idle task=fio", 40),
        ("box_warn text=odd", 50),
        ("warning text=even", None),
    ],
)
def test_filters_choose_by_cpu_task_and_field(
    rings: list[Ring], words: str, found_ns: int | None
) -> None:
    watch = watch_of(rings, words)
    rings[0].emit(10, tp.SCHED_MIGRATE_TASK, 0, 0, 0, 7, 120, 0, 1, tp.MIGRATE_WAKEUP)
    rings[1].emit(20, tp.SCHED_MIGRATE_TASK, 0, 7, 0, 8, 120, 1, 0, tp.MIGRATE_NOHZ)
    rings[0].emit(30, tp.SCHED_MIGRATE_TASK, 0, 0, 0, 7, 120, 0, 1, tp.MIGRATE_NOHZ)
    rings[1].emit(40, tp.CPU_IDLE, 0, 7, 0, 1, 1)  # names no task: the running one counts
    rings[1].emit(50, tp.BOX_WARN, 0, 0, 0, rings[1].intern("odd"))
    match = watch.look()
    assert (match[0] if match else None) == found_ns
