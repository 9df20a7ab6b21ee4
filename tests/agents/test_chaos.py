"""A few rounds of the chaos suite, and that it strikes as it says; ``make chaos`` plays hundreds."""

from collections import Counter
from pathlib import Path

import pytest

from emulator.types import NSEC_PER_MSEC
from tests.chaos import BEGIN, END, FILE, KILLS, STOPS, play, spec_of, table_of, with_table
from tests.chaos_aim import AIMS, HOTPLUG, KILL, STOP, rehearsal


def test_each_moment_is_aimed_at_as_often_as_any_other() -> None:
    blows = rehearsal(7, 100 * NSEC_PER_MSEC, kills=6, stops=2, hotplugs=3)
    assert blows == rehearsal(7, 100 * NSEC_PER_MSEC, kills=6, stops=2, hotplugs=3)
    assert Counter(blow.aim for blow in blows if blow.aim) == dict.fromkeys(AIMS, 2)
    assert Counter(blow.kind for blow in blows) == {KILL: 6, STOP: 2, HOTPLUG: 3}
    times = [blow.at_ns for blow in blows]
    assert times == sorted(times)


def test_rounds_are_of_both_loads_and_of_many_sizes() -> None:
    specs = [spec_of(seed) for seed in range(1, 41)]
    assert {spec.name for spec in specs} == {"xfs-aio-4k-tuned", "xfs-aio-512"}
    assert {spec.on_crash for spec in specs} == {"respawn", "offline"}
    sizes = {spec.machine.nr_cpus for spec in specs}
    assert min(sizes) == 2
    assert max(sizes) == 16


def test_the_document_has_a_table_of_enough_faults() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert with_table(text, text.partition(BEGIN)[2].partition(END)[0].strip("\n")) == text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    (injected,) = [[int(cell) for cell in row[1:]] for row in rows if row[0] == "all"]
    assert injected[0] >= 500
    assert injected[0] == injected[1]


@pytest.mark.box
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 4, 14])
def test_a_box_that_is_struck_from_all_sides_loses_nothing(seed: int, tmp_path: Path) -> None:
    one = play(seed, tmp_path)
    assert one.problem == "", f"again: python -m tests.chaos --rounds 1 --no-table --seed {seed}"
    assert sum(blow.kind in (KILL, STOP) for blow in one.blows) >= (KILLS + STOPS) // 2
    assert "| all |" in table_of([one])
