"""A box that is like another one."""

from pathlib import Path

import pytest

from emulator.config import BoxError, load_box

BASE = """\
description: the base
duration: 1s
seed: 7
machine: {cpus: 4, hz: 250}
kernel: {version: "5.4", sysctl: {kernel.sched_nr_migrate: 8}}
disks:
  sda: {driver: scsi_debug, ndelay: 41us, max_queue: 8}
workloads:
  - {program: hog, name: one}
  - {program: hog, name: two}
expect:
  - {figure: iops, max: 1}
"""


def write(tmp_path: Path, name: str, text: str) -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def mistakes(file: Path) -> list[str]:
    with pytest.raises(BoxError) as caught:
        load_box(file)
    return [str(one).splitlines()[0] for one in caught.value.problems]


def test_what_is_said_wins_and_the_rest_is_taken_over(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    text = "description: mine\nlike: base.yaml\nmachine: {cpus: 2}\nworkloads: [{program: hog}]\n"
    box = load_box(write(tmp_path, "mine.yaml", text))
    spec = box.resolve()
    assert (spec.name, box.description, spec.seed) == ("mine", "mine", 7)
    assert (spec.machine.nr_cpus, spec.machine.hz) == (2, 250)
    assert [one.name for one in spec.workloads] == ["hog"]
    assert spec.kernel.sysctls["kernel.sched_nr_migrate"] == 8
    assert box.expect == ()


def test_a_box_that_ships_is_found_by_its_name(tmp_path: Path) -> None:
    text = "description: pinned\nlike: xfs-aio-512\nmachine: {llc: []}\n"
    spec = load_box(write(tmp_path, "mine.yaml", text)).resolve()
    assert spec.machine.nr_cpus == 8
    assert set(spec.machine.llc) == {0}
    assert [one.program for one in spec.workloads] == ["fio"]


def test_another_driver_is_another_disk(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    text = "description: d\nlike: base.yaml\ndisks: {sda: {driver: null_blk}, sdb: {driver: null_blk}}\n"
    spec = load_box(write(tmp_path, "mine.yaml", text)).resolve()
    assert [(one.name, one.driver) for one in spec.disks] == [
        ("sda", "null_blk"),
        ("sdb", "null_blk"),
    ]
    text = "description: d\nlike: base.yaml\ndisks: {sda: {ndelay: 5us}}\n"
    (disk,) = load_box(write(tmp_path, "mine.yaml", text)).resolve().disks
    assert (disk.params["ndelay"], disk.params["max_queue"]) == (5_000, 8)


def test_a_mistake_is_shown_where_it_was_written(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE.replace("program: hog, name: one", "program: hogg"))
    mine = write(tmp_path, "mine.yaml", "description: d\nlike: base.yaml\nseed: -1\n")
    found = mistakes(mine)
    assert any("mine.yaml:3:7: seed" in one for one in found)
    assert any("base.yaml:9:15: workloads[0].program" in one for one in found), found


def test_a_mistake_of_the_base_that_is_replaced_is_none(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE.replace("program: hog, name: one", "program: hogg"))
    text = "description: d\nlike: base.yaml\nworkloads: [{program: hog}]\n"
    assert load_box(write(tmp_path, "mine.yaml", text)).resolve().workloads


def test_a_description_is_missed_in_the_box_that_has_none(tmp_path: Path) -> None:
    mine = write(tmp_path, "mine.yaml", "like: xfs-aio-512\n")
    (found,) = mistakes(mine)
    assert "mine.yaml:1:1: description: is missing" in found


def test_likeness_must_end(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "description: a\nlike: b.yaml\n")
    b = write(tmp_path, "b.yaml", "description: b\nlike: a.yaml\n")
    (found,) = mistakes(b)
    assert "a.yaml:2:7: like: is like itself" in found


def test_a_box_that_is_like_nothing_known(tmp_path: Path) -> None:
    mine = write(tmp_path, "mine.yaml", "description: a\nlike: xfs-aio-51\n")
    (found,) = mistakes(mine)
    assert "mine.yaml:2:7: like: there is no such box; did you mean xfs-aio-512?" in found
