"""Task files of rt-app in a box: what each task is, and how mistakes are told."""

from pathlib import Path

import pytest

from emulator.boxfile.problems import BoxError
from emulator.config import load_box
from emulator.types import BoxSpec, WorkloadSpec

TASKS = """{
  "tasks": {
    "waker": {"priority": -3, "cpus": [1], "run": 100, "resume": "sleeper",
              "timer": {"ref": "unique", "period": 1000}},
    "sleeper": {"suspend", "delay": 2000, "phases_of_it": 1, "run": 10}
  },
  "global": {"duration": 1}
}
"""
GOOD = TASKS.replace('"phases_of_it": 1, ', "")


def load(tmp_path: Path, tasks: str, workload: str = "start: 5ms") -> BoxSpec:
    (tmp_path / "tasks.json").write_text(tasks)
    box = tmp_path / "box.yaml"
    box.write_text(
        "description: tasks\nduration: 1s\nwarmup: 1ms\nmachine: {cpus: 2}\n"
        f"workloads: [{{rtapp: tasks.json, {workload}}}]\n"
    )
    return load_box(box).resolve()


def test_each_task_is_a_workload(tmp_path: Path) -> None:
    waker, sleeper = load(tmp_path, GOOD).workloads
    assert (waker.name, waker.nice, waker.cpus_allowed, waker.start_ns) == (
        "waker",
        -3,
        2,
        5_000_000,
    )
    assert (sleeper.nice, sleeper.cpus_allowed, sleeper.start_ns) == (0, 3, 7_000_000)
    assert waker.params["writes"] == sleeper.params["reads"]
    assert sleeper.params["begin_ns"] == 7_000_000
    ends = {one.params["end_ns"] for one in (waker, sleeper)}
    assert ends == {1_005_000_000}, "one second after they start, delayed or not"


def test_what_the_box_says_of_cpus_is_for_tasks_that_name_none(tmp_path: Path) -> None:
    waker, sleeper = load(tmp_path, GOOD, "cpus_allowed: 0, nice: 4").workloads
    assert (waker.cpus_allowed, sleeper.cpus_allowed) == (2, 1)
    assert (waker.nice, sleeper.nice) == (4, 4)


def test_copies_have_pipes_of_their_own(tmp_path: Path) -> None:
    def pipes(one: WorkloadSpec) -> list[int]:
        return [*one.params["reads"], *one.params["writes"]]

    first, _, second, _ = load(tmp_path, GOOD, "count: 2").workloads
    assert pipes(first) != pipes(second)


@pytest.mark.parametrize(
    ("tasks", "workload", "problem"),
    [
        (TASKS, "start: 0s", "tasks.json:5:43: phases_of_it: rt-app has no such event"),
        (GOOD[:-3], "start: 0s", 'tasks.json:7:28: "," or "}" should be here'),
        (GOOD, "policy: batch", "workloads[0].policy: the task file says it"),
        (GOOD, "section: a", "workloads[0].section: belongs to other workloads"),
        (GOOD, "program: hog", "needs either fio:, rtapp: or program:"),
        (GOOD.replace("100,", '100, "dl-runtime": 9,'), "start: 0s", "this kernel has no slices"),
    ],
)
def test_mistakes_are_told_with_their_place(
    tmp_path: Path, tasks: str, workload: str, problem: str
) -> None:
    with pytest.raises(BoxError) as told:
        load(tmp_path, tasks, workload)
    assert problem in str(told.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    box = tmp_path / "box.yaml"
    box.write_text(
        "description: t\nduration: 1s\nmachine: {cpus: 1}\nworkloads: [{rtapp: playr.json}]\n"
    )
    with pytest.raises(BoxError, match=r"no such job file; did you mean player\.json"):
        load_box(box)
