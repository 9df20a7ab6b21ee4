"""Clusters and polling idle loops in a box file; moves of a task's affinity as an event."""

from pathlib import Path

import pytest

from emulator.boxfile.events import parse_command
from emulator.boxfile.route import route
from emulator.config import BoxError, load_box
from emulator.engine.plan import CommandError
from emulator.plain import spec_from_plain, spec_to_plain
from emulator.types import BoxSpec

BOX = """
description: a machine
duration: 1s
machine: {cpus: 8}
workloads:
  - {program: hog}
"""


def box(tmp_path: Path, *settings: str) -> BoxSpec:
    file = tmp_path / "box.yaml"
    file.write_text(BOX)
    return load_box(file, settings).resolve()


def test_a_machine_has_no_clusters_unless_it_says_so(tmp_path: Path) -> None:
    assert box(tmp_path).machine.cluster == ()
    spec = box(tmp_path, "machine.clusters=[0-3, 4-7]")
    assert spec.machine.cluster == (0x0F,) * 4 + (0xF0,) * 4
    assert spec_from_plain(spec_to_plain(spec)) == spec


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        ("{cpus: 8, clusters: [0-3]}", "CPU 4-7 is in no group"),
        ("{cpus: 8, clusters: [0-7], llc: [0-3, 4-7]}", "one cluster"),
        ('{cpus: 8, smp: {threads: 2}, clusters: ["0", 1-7]}', "the threads of one core"),
        ("{cpus: 8, smp: {sockets: 8}, clusters: [0-3, 4-7], llc: []}", "none is here"),
        ("{cpus: 8, idle: poll, take_turns: true}", "would never give the host"),
    ],
)
def test_clusters_and_polling_that_cannot_be(tmp_path: Path, machine: str, why: str) -> None:
    with pytest.raises(BoxError) as caught:
        box(tmp_path, f"machine={machine}")
    assert why in str(caught.value)


def test_task_affine_is_an_event_and_a_command(tmp_path: Path) -> None:
    command = parse_command("task affine hog 1-2,4")
    assert (command.verb, command.of, command.mask) == ("affine", "hog", 0b10110)
    spec = box(tmp_path, 'events=[{at: 5ms, do: "task affine hog 0-3"}]')
    assert spec.events[0].do == "task affine hog 0-3"
    plain = spec_to_plain(spec)
    assert route(["task", "affine", "hog", "0-3"], plain) == list(range(8))
    with pytest.raises(CommandError, match="no task is called"):
        route(["task", "affine", "hogg", "0-3"], plain)
    with pytest.raises(CommandError, match="CPUs 0-7"):
        route(["task", "affine", "hog", "8"], plain)


@pytest.mark.parametrize(
    ("do", "why"),
    [
        ("task affine hog 4-9", "CPU 8-9 is outside the machine"),
        ("task affine hogg 1", "no task is called 'hogg'; did you mean hog?"),
        ("task affine hog one", "is not a CPU number"),
        ("task renice hog 5", "is not one of"),
    ],
)
def test_task_affine_that_cannot_be(tmp_path: Path, do: str, why: str) -> None:
    with pytest.raises(BoxError) as caught:
        box(tmp_path, f'events=[{{at: 5ms, do: "{do}"}}]')
    assert why in str(caught.value)
