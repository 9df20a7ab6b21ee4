"""Workloads that come while a box runs: as text, numbered behind those that there are, refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from emulator.added import shown, text_of, with_added, workloads_of
from emulator.boxfile.route import grown, route
from emulator.config import BoxError, load_box, load_workloads
from emulator.engine.plan import CommandError
from emulator.plain import spec_from_plain, spec_to_plain
from emulator.types import BoxSpec, WorkloadSpec

FIO = "workloads: [{fio: own.fio, count: 2}]"
JOB = "[own]\nrw=randwrite\nsize=1m\nioengine=libaio\ndirect=1\ndirectory=/mnt\n"
PLAYERS = "workloads: [{program: pingpong, params: {rounds: 10}}]"
HOG = "workloads: [{program: hog, name: burner, cpus_allowed: '0-1', nice: 3}]"


@pytest.fixture(scope="module")
def spec() -> BoxSpec:
    """A box with an fio job on a disk."""
    return load_box("xfs-aio-4k-tuned").resolve()


def read(tmp_path: Path, text: str, spec: BoxSpec) -> tuple[WorkloadSpec, ...]:
    (tmp_path / "own.fio").write_text(JOB)
    (tmp_path / "late.yaml").write_text(text)
    return load_workloads(tmp_path / "late.yaml", spec)


def test_text_holds_workloads_whole(tmp_path: Path, spec: BoxSpec) -> None:
    for text in (FIO, PLAYERS, HOG):
        workloads = read(tmp_path, text, spec)
        assert workloads_of(text_of(workloads)) == workloads
    assert shown(["workload", "add", text_of(workloads)]) == "workload add burner"
    assert shown(["cpu", "load", 3]) == "cpu load 3"


def test_a_job_file_and_a_yaml_file_that_names_it_say_the_same(
    tmp_path: Path, spec: BoxSpec
) -> None:
    named = read(tmp_path, "workloads: [{fio: own.fio}]", spec)
    assert load_workloads(tmp_path / "own.fio", spec) == named
    assert named[0].params["bs"] == 4096


def test_files_and_pipes_follow_those_that_there_are(tmp_path: Path, spec: BoxSpec) -> None:
    assert spec.workloads[0].params["file"] == 1
    fio, players = read(tmp_path, FIO, spec), read(tmp_path, PLAYERS, spec)
    whole = with_added(with_added(with_added(spec, fio), players), players)
    assert [one.params["file"] for one in whole.workloads[:3]] == [1, 2, 3]
    pipes = [one.params["reads"] + one.params["writes"] for one in whole.workloads[3:]]
    assert pipes[0] == pipes[1][::-1]
    assert not set(pipes[0]) & set(pipes[2])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "workloads: [{program: hogg}]",
            r"late.yaml:1:23: workloads\[0\].program: no such program",
        ),
        ("program: hog", "a file of workloads is a box with workloads: alone"),
        ("workloads: [{fio: xfs-aio-512.fio}]", "does not fit on sda, which has 6144 MiB"),
        ("workloads: [{fio: nope.fio}]", "there is no such job file"),
        ("workloads: [{program: hog, cpus_allowed: '99'}]", "outside the machine"),
    ],
)
def test_mistakes_in_the_file_are_told_with_their_place(
    tmp_path: Path, spec: BoxSpec, text: str, problem: str
) -> None:
    with pytest.raises(BoxError, match=problem):
        read(tmp_path, text, spec)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("workloads: [{program: writer}]", "built without writes through the page cache"),
        ("workloads: [{program: flusher}]", "kernel threads are there from the start"),
        (
            "workloads: [{program: hog, policy: fifo, rt_priority: 5, cpus_allowed: '1'}]",
            "built without real-time tasks; say it in the box file",
        ),
        ("workloads: [{fio: xfs-append.fio}]", "built without files that are not written in place"),
    ],
)
def test_what_the_box_was_not_built_for_is_refused(
    tmp_path: Path, spec: BoxSpec, text: str, problem: str
) -> None:
    words = ["workload", "add", text_of(read(tmp_path, text, spec))]
    with pytest.raises(CommandError, match=problem):
        route(words, spec_to_plain(spec))


def test_commands_after_it_know_what_was_added(tmp_path: Path, spec: BoxSpec) -> None:
    plain = spec_to_plain(spec)
    words = ["workload", "add", text_of(read(tmp_path, HOG, spec))]
    assert route(words, plain) == list(range(8))
    with pytest.raises(CommandError, match=r"no task is called 'burner'; there are fio$"):
        route(["renice", "burner", "3"], plain)
    later = grown(words, plain)
    assert route(["renice", "burner", "3"], later) == list(range(8))
    assert spec_from_plain(later) == with_added(spec, workloads_of(words[2]))
    assert grown(["cpu", "offline", "1"], plain) is plain


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '[{"name": "x"}]', '[{"cpus_allowed": "x"}]', "[[]]"]
)
def test_text_that_is_no_workload_is_refused(spec: BoxSpec, text: str) -> None:
    if text == "{}":
        assert workloads_of(text) == ()
        return
    with pytest.raises(CommandError, match="no workloads: "):
        route(["workload", "add", text], spec_to_plain(spec))


def test_cpus_that_there_are_not_are_refused(tmp_path: Path, spec: BoxSpec) -> None:
    (hog,) = read(tmp_path, HOG, spec)
    for mask in (0, 1 << 9):
        with pytest.raises(CommandError, match=r"no workloads|the machine has CPUs 0-7"):
            route(
                ["workload", "add", text_of([replace(hog, cpus_allowed=mask)])], spec_to_plain(spec)
            )
