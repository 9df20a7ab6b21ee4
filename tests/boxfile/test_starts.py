"""When workloads start: as the box file says, or else as the seed decides."""

from pathlib import Path

from emulator.boxfile.around import START_TICKS_MAX
from emulator.config import load_box

BOX = """
description: three programs
duration: 1s
machine: {cpus: 2, hz: 250}
workloads:
  - {program: hog}
  - {program: hog, start: 3ms}
  - {program: periodic, params: {run_ns: 1ms, period_ns: 5ms}, count: 2}
"""
TICK_NS = 4_000_000


def starts(tmp_path: Path, seed: int) -> list[int]:
    box = tmp_path / "box.yaml"
    box.write_text(BOX)
    return [one.start_ns for one in load_box(box, seed=seed).resolve().workloads]


def test_the_seed_says_when_a_workload_without_a_start_starts(tmp_path: Path) -> None:
    assert starts(tmp_path, 1) == starts(tmp_path, 1)
    first, second = starts(tmp_path, 1), starts(tmp_path, 2)
    assert first[0] != second[0]
    assert first[2] != second[2]
    assert first[0] != first[2]
    assert first[1] == second[1] == 3_000_000


def test_starts_lie_all_over_the_first_ticks(tmp_path: Path) -> None:
    found = [starts(tmp_path, seed)[0] for seed in range(64)]
    assert min(found) >= 0
    assert max(found) <= START_TICKS_MAX * TICK_NS
    assert {start // TICK_NS for start in found} >= set(range(START_TICKS_MAX))


def test_the_tasks_of_one_entry_start_together(tmp_path: Path) -> None:
    (tmp_path / "job.fio").write_text(
        "[global]\nioengine=libaio\ndirect=1\nrw=randwrite\nbs=4k\nsize=1m\ndirectory=/m\n"
        "[a]\nnumjobs=3\n[b]\nstartdelay=1s\n"
    )
    box = tmp_path / "box.yaml"
    box.write_text(
        "description: a job\nduration: 1s\nmachine: {cpus: 2}\n"
        "disks: {sda: {driver: scsi_debug}}\nfilesystems: {/m: {disk: sda}}\n"
        "workloads: [{fio: job.fio}]\n"
    )
    *jobs, late = [one.start_ns for one in load_box(box).resolve().workloads]
    assert len(jobs) == 3
    assert len(set(jobs)) == 1
    assert late == jobs[0] + 1_000_000_000
