"""Loops by name: each pattern in a scene written by hand, and in whole runs."""

from pathlib import Path

import pytest

from emulator.report.extract import extract
from emulator.report.history import History
from emulator.report.loops import SENTENCES, Loop, loops, sentence
from emulator.report.results import Check
from emulator.rundir import RESULTS, RunDirectory
from emulator.session import Request, run_box
from emulator.tracepoints import MIGRATE_ACTIVE, MIGRATE_HOTPLUG, MIGRATE_NOHZ, MIGRATE_WAKEUP
from tests.report.rings import readers_of
from tests.report.scenes import FIO, MS, Scene, follow, kworker, pull, push


def found(scene: Scene, end_ns: int, tick_ns: int = 0) -> list[Loop]:
    """Return the loops of fio from 0 to a time."""
    readers = readers_of(scene.rings)
    return loops(extract(readers, 0, end_ns), [FIO], History(readers), tick_ns)


def test_a_task_that_follows_its_completions_to_and_fro() -> None:
    scene, now = Scene(), MS
    for cycle in range(40):
        now = follow(scene, now, 1 + cycle % 2, 2 - cycle % 2)
    [loop] = found(scene, 4 * MS)
    assert loop == {
        "pattern": "follows_completions",
        "task": "fio/100",
        "rate_per_s": 10_000.0,
        "cpus": [1, 2],
        "share": 1.0,
    }
    assert sentence(loop) == (
        "fio/100 follows its completions to and fro between CPUs 1 and 2: 10,000.0/s, "
        "100% of its moves"
    )


def test_a_task_that_drifts_round_the_cache_does_not_go_to_and_fro() -> None:
    scene, now = Scene(), MS
    for cycle in range(30):
        now = follow(scene, now, cycle % 3, (cycle + 1) % 3)
    [loop] = found(scene, 4 * MS)
    assert (loop["pattern"], loop["cpus"]) == ("drifts_after_completions", [0, 1, 2])


def test_a_wakeup_without_a_completion_behind_it_is_none() -> None:
    scene = Scene()
    for cycle in range(10):
        scene.migrate(1 + cycle % 2, (1 + cycle) * MS, 11, 2 - cycle % 2, MIGRATE_WAKEUP, 0)
    [loop] = found(scene, 20 * MS)
    assert loop["pattern"] == "woken_elsewhere"


def test_a_push_counts_as_the_bound_workers_only_if_it_waited() -> None:
    scene, now = Scene(), MS
    for cycle in range(10):
        now = push(scene, now, 1 + cycle % 2, 2 - cycle % 2)
    [loop] = found(scene, 100 * MS)
    assert (loop["pattern"], loop["rate_per_s"]) == ("pushed_from_bound_kthread", 100.0)
    served = Scene()
    for cpu, ring in enumerate(served.rings[:-1]):
        ring.comm(kworker(cpu), f"ksoftirqd/{cpu}")
    now = MS
    for cycle in range(10):
        now = push(served, now, 1 + cycle % 2, 2 - cycle % 2)
    [loop] = found(served, 100 * MS)
    assert loop["pattern"] == "pushed_from_ksoftirqd"
    bare = Scene()
    for cycle in range(10):
        bare.migrate(1 + cycle % 2, (1 + cycle) * MS, 21, 2 - cycle % 2, MIGRATE_ACTIVE, 0)
    [loop] = found(bare, 20 * MS)
    assert loop["pattern"] == "pushed"


def test_a_pull_counts_as_the_workers_only_if_it_ran() -> None:
    scene, now = Scene(), MS
    for cycle in range(10):
        now = pull(scene, now, 1 + cycle % 2, 2 - cycle % 2)
    [loop] = found(scene, 200 * MS)
    assert loop["pattern"] == "pulled_while_kworker_runs"
    bare = Scene()
    for cycle in range(10):
        bare.migrate(1 + cycle % 2, (1 + cycle) * MS, 0, 2 - cycle % 2, MIGRATE_NOHZ, 0)
    [loop] = found(bare, 20 * MS)
    assert loop["pattern"] == "pulled"


def test_moves_in_time_with_the_tick_are_told_with_their_gap() -> None:
    scene, late = Scene(), Scene()
    for cycle in range(12):
        args = (21, 2 - cycle % 2, MIGRATE_ACTIVE, 0)
        scene.migrate(1 + cycle % 2, (1 + 4 * cycle) * MS + 10_000, *args)
        late.migrate(1 + cycle % 2, (1 + 4 * cycle) * MS + cycle * 300_000, *args)
    pushed, locked = found(scene, 60 * MS, tick_ns=MS)
    assert pushed["pattern"] == "pushed"
    assert (locked["pattern"], locked["gap_ns"], locked["share"]) == ("tick_locked", 4 * MS, 1.0)
    assert sentence(locked).startswith(
        "fio/100 is moved in time with the tick, most often every 4 ms"
    )
    assert [loop["pattern"] for loop in found(late, 60 * MS, tick_ns=MS)] == ["pushed"]
    assert [loop["pattern"] for loop in found(scene, 60 * MS)] == ["pushed"]


def test_what_happens_now_and_then_is_no_loop() -> None:
    scene = Scene()
    push(scene, MS, 1, 2)
    assert found(scene, 20 * MS) == []
    for cycle in range(10):
        scene.migrate(1, (100 + cycle) * MS, 0, 2, MIGRATE_HOTPLUG, 0)
    assert [loop["pattern"] for loop in found(scene, 10_000 * MS)] == []


def test_every_pattern_has_a_sentence() -> None:
    for pattern in [*SENTENCES, "something_new"]:
        loop = {"pattern": pattern, "task": "fio/1", "rate_per_s": 3, "cpus": [0, 2, 3], "share": 1}
        text = sentence({**loop, "gap_ns": MS})
        assert text.startswith("fio/1")
        assert "{" not in text
    assert sentence({**loop, "gap_ns": MS}) == "fio/1: something_new: 3.0/s, 100% of its moves"


@pytest.mark.parametrize(
    ("box", "duration", "patterns"),
    [
        (
            "xfs-aio-4k-tuned",
            "1500ms",
            ["pushed_from_bound_kthread", "tick_locked"],
        ),
        ("xfs-aio-512", "600ms", ["follows_completions"]),
        ("xfs-aio-4k-default", "600ms", []),
    ],
)
def test_the_loops_of_the_shipped_boxes(
    tmp_path: Path, box: str, duration: str, patterns: list[str]
) -> None:
    request = Request(box, (), None, duration, "inline", False, tmp_path / "run", True, False)
    run_box(request, tmp_path)
    figures: Check = RunDirectory(tmp_path / "run").read_json(RESULTS)["figures"]
    assert [loop["pattern"] for loop in figures["loops"]] == patterns
