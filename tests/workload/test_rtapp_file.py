"""rt-app's task files: what becomes of each event, and what is refused where."""

from __future__ import annotations

import pytest

from emulator.config import find_config_dir
from emulator.workload.rtapp_file import EVENTS, RtappReader, event_kind
from emulator.workload.rtapp_meetings import RtTask


def read(tasks: str, cpus: int = 4, **options: bool) -> list[RtTask]:
    """Return the tasks of a file without mistakes."""
    reader = RtappReader(cpus, **options)
    reader.read(f'{{"tasks": {{{tasks}}}}}')
    assert not reader.problems
    return reader.tasks


def refused(tasks: str, **options: bool) -> list[str]:
    """Return the mistakes of a file as ``line:column: name: message``."""
    reader = RtappReader(4, **options)
    reader.read('{"tasks": {\n' + tasks + "\n}}")
    return [f"{one.line}:{one.column}: {one.option}: {one.message}" for one in reader.problems]


def test_events_are_told_apart_by_how_their_names_begin() -> None:
    kinds = [event_kind(name) for name in ("run", "run12", "runtime0", "timer", "sem_post1")]
    assert kinds == ["run", "run", "runtime", "timer", "sem_post"]
    assert event_kind("memrun") == "memrun"
    assert event_kind("iorun3") == "iorun"
    assert event_kind("exec") is None
    assert {event_kind(name) for name in EVENTS} == set(EVENTS)


def test_a_task_without_phases_has_one() -> None:
    (task,) = read(
        '"a": {"loop": 3, "run": 10, "sleep0": 20, "runtime": 30, "yield": "", "run": 5}'
    )
    assert task.loop == 3
    assert task.phases == [
        [1, [["run", 10_000], ["sleep", 20_000], ["runtime", 30_000], ["yield"], ["run", 5_000]]]
    ]


def test_instances_phases_and_keys_of_a_task() -> None:
    tasks = read(
        '"a": {"instance": 2, "policy": "SCHED_BATCH", "priority": -3, "cpus": [0, 2], "delay": 7,'
        ' "dl-runtime": 500, "phases": {"p": {"loop": 4, "run": 1}, "q": {"sleep": 2}}},'
        ' "b": {"instance": 0, "run": 1}'
    )
    assert len(tasks) == 2
    for task in tasks:
        assert (task.policy, task.nice, task.cpus) == ("batch", -3, 0b101)
        assert (task.delay_ns, task.slice_ns, task.loop) == (7_000, 500_000, -1)
        assert task.phases == [[4, [["run", 1_000]]], [1, [["sleep", 2_000]]]]


def test_a_phase_changes_the_affinity_only_where_it_differs_from_the_one_before() -> None:
    (task,) = read(
        '"a": {"cpus": [2], "phases": {"p": {"cpus": [0, 1], "run": 1}, "q": {"cpus": [1, 0],'
        ' "run": 2}, "r": {"run": 3}}}'
    )
    assert task.cpus == 0b11
    assert task.phases == [
        [1, [["affinity", 0b11]]],
        [1, [["run", 1_000]]],
        [1, [["run", 2_000]]],
        [1, [["affinity", 0b100]]],
        [1, [["run", 3_000]]],
    ]


def test_timers_that_are_unique_have_names_of_their_own_in_every_task() -> None:
    first, second = read(
        '"a": {"instance": 2, "phases": {'
        ' "p": {"timer": {"ref": "uniqueA", "period": 10}},'
        ' "q": {"timer": {"ref": "uniqueB", "period": 20, "mode": "absolute"}},'
        ' "r": {"timer": {"ref": "uniqueA", "period": 30}}}}'
    )
    assert first.phases == second.phases
    assert [steps[0] for _, steps in first.phases] == [
        ["timer", 0, 10_000, False],
        ["timer", 1, 20_000, True],
        ["timer", 0, 30_000, False],
    ]


def test_a_pipe_leads_from_each_who_wakes_to_each_who_waits() -> None:
    first, second, third = read(
        '"a": {"suspend": "", "run": 1, "resume": "b"}, "b": {"suspend", "resume": "a"},'
        ' "c": {"run": 1, "resume": "a", "resume": "b"}'
    )
    ((_, (wait_a, _, wake_b)),) = first.phases
    ((_, (wait_b, wake_a)),) = second.phases
    ((_, (_, third_a, third_b)),) = third.phases
    assert sorted(wait_a[1]) == sorted(wake_a[1] + third_a[1])
    assert sorted(wait_b[1]) == sorted(wake_b[1] + third_b[1])
    assert len({*wait_a[1], *wait_b[1]}) == 4
    assert (sorted(first.reads), first.writes) == (sorted(wait_a[1]), wake_b[1])


def test_who_signals_is_not_woken_by_it() -> None:
    """The usual pair of sync and wait, signal: each has exactly one other to wake."""
    first, second = read(
        '"a": {"run": 1, "lock": "m", "sync": {"ref": "q", "mutex": "m"}, "unlock": "m"},'
        ' "b": {"lock": "m", "wait": {"ref": "q", "mutex": "m"}, "unlock": "m", "run": 1,'
        ' "signal": "q"}'
    )
    ((_, (_, sync)),) = first.phases
    ((_, (wait, _, signal)),) = second.phases
    assert sync == ["sync", wait[1], signal[1]]
    assert wait[1] != signal[1]


def test_broad_and_resume_wake_all() -> None:
    tasks = read(
        '"w": {"instance": 3, "wait": {"ref": "q", "mutex": "m"}}, "k": {"run": 1, "broad": "q"}'
    )
    ((_, (_, broad)),) = tasks[3].phases
    assert sorted(broad[1]) == sorted(pipe for task in tasks[:3] for pipe in task.reads)
    assert len(broad[1]) == 3


def test_a_barrier_of_two_has_a_pipe_each_way() -> None:
    first, second = read('"a": {"run": 1, "barrier": "x"}, "b": {"barrier": "x", "run": 1}')
    ((_, (_, one)),) = first.phases
    ((_, (other, _)),) = second.phases
    assert one == ["barrier", other[2], other[1]]


@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        ('"a": {"run": 1, "exec": 2}', "2:17: exec: rt-app has no such event"),
        ('"a": {"mem": 1}', "2:7: mem: memory traffic is not emulated"),
        ('"a": {"run": "x"}', "2:14: run: 'x' is not a whole number"),
        ('"a": {"run": 0}', "2:14: run: 0 is outside 1.."),
        ('"a": {"run": 1.5}', "2:14: run: 1.5 is not a whole number"),
        ('"a": {"loop": 0, "run": 1}', "2:15: loop: 0 is neither"),
        ('"a": {"cpus": [7], "run": 1}', "2:16: cpus: there is no CPU 7"),
        ('"a": {"cpus": 1, "run": 1}', "2:15: cpus: needs a list of CPUs"),
        ('"a": {"policy": "SCHED_DEADLINE", "run": 1}', "2:17: policy: 'SCHED_DEADLINE' is not"),
        (
            '"a": {"policy": "SCHED_FIFO", "run": 1}',
            "2:1: policy: a real-time task needs cpus with",
        ),
        (
            '"a": {"policy": "SCHED_RR", "cpus": [0], "priority": 100, "run": 1}',
            "2:54: priority: 100 is outside 1..99",
        ),
        (
            '"a": {"policy": "SCHED_RR", "cpus": [0], "phases": {"p": {"cpus": [0, 1], "run": 1}}}',
            "2:1: policy: a real-time task needs cpus with one CPU",
        ),
        ('"a": {"priority": 30, "run": 1}', "2:19: priority: 30 is outside -20..19"),
        ('"a": {"loop": 1}', "2:1: a: has no events"),
        ('"a": {"cpus": [1], "broad": "q"}, "b": {"wait": {"ref": "q"}}', "2:1: a: the task never"),
        ('"a": {"phases": {"p": {"loop": 2}}}', "2:18: p: has no events"),
        ('"a": {"phases": {"p": {"run": 1}}, "run": 1}', "2:36: run: a task with phases"),
        ('"a": {"phases": {"p": {"priority": 1, "run": 1}}}', "2:24: priority: a phase with a"),
        ('"a": {"util_min": 9, "run": 1}', "2:7: util_min: utilization clamps"),
        ('"a": {"unlock": "m", "run": 1}', "2:7: unlock: the task does not hold m here"),
        ('"a": {"suspend": ""}', "2:7: suspension: nobody resumes a"),
        ('"a": {"run": 1, "resume": "b"}', "2:17: suspension: nobody waits for b"),
        ('"a": {"run": 1, "timer": {"ref": "t"}}', "2:26: timer: needs a period"),
        ('"a": {"timer": {"period": 1}}', "2:16: timer: needs a name here"),
        ('"a": {"timer": {"ref": "t", "period": 1, "mode": "x"}}', "2:50: timer: mode is"),
        ('"a": {"instance": 2, "timer": {"ref": "t", "period": 1}}', "2:22: timer: t: its instan"),
        ('"a": {"instance": 3, "barrier": "x"}', "2:22: barrier: x is named 3 times by 3 tasks"),
    ],
)
def test_what_is_refused_is_named_with_its_place(tasks: str, problem: str) -> None:
    (told,) = refused(tasks)
    assert told.startswith(problem)


def test_waking_one_of_several_is_refused() -> None:
    (told,) = refused('"w": {"instance": 2, "sem_wait": "s"}, "k": {"run": 1, "sem_post": "s"}')
    assert told.startswith("2:56: semaphore: wakes one of 2 tasks")


def test_a_mutex_held_over_a_run_is_refused_if_another_takes_it() -> None:
    alone = '"a": {"lock": "m", "run": 1, "unlock": "m"}'
    assert not refused(alone)
    (told,) = refused(alone + ', "b": {"lock": "m", "unlock": "m", "run": 1}')
    assert told.startswith("2:7: lock: m is held while the task runs")


def test_a_slice_needs_a_kernel_that_has_them() -> None:
    (told,) = refused('"a": {"run": 1, "dl-runtime": 900}', custom_slice=False)
    assert told == "2:17: dl-runtime: this kernel has no slices of a task's own"


def test_global_keys() -> None:
    reader = RtappReader(1)
    reader.read(
        '{"tasks": {"a": {"run": 1}}, "global": {"duration": 2, "default_policy": "SCHED_IDLE",'
        ' "calibration": 12, "durations": 1}}'
    )
    assert reader.duration_ns == 2_000_000_000
    assert reader.tasks[0].policy == "idle", "although it comes first in the file"
    (problem,) = reader.problems
    assert problem.message == "rt-app has no such global key"


def test_the_shipped_task_file_is_read() -> None:
    reader = RtappReader(4)
    reader.read((find_config_dir() / "jobs" / "player.json").read_text())
    assert not reader.problems
    assert [task.name for task in reader.tasks][-2:] == ["filler", "filler"]
    assert reader.pipes == 4
