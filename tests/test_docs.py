"""What the READMEs say: their commands run, their samples look like that, their tables are in sync.

A sample is compared line by line with its figures masked: what a run prints may move with a cost,
what a reader is told about it may not.  A line ``…`` in a sample stands for lines left out.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from emulator.cli import cli
from emulator.kernel.cpuhp import STEPS
from emulator.messages import OPS
from emulator.tracepoints import BY_NAME
from emulator.types import Costs
from tests import completion_table, readme_tables

CHECKOUT = Path(__file__).parent.parent
TEXT = {
    name: (CHECKOUT / name).read_text(encoding="utf-8")
    for name in ("README.md", "emulator/README.md", "tests/README.md")
}
README = TEXT["README.md"]

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"[\d,]*\d(\.\d+)?( (ns|µs|ms|s)\b)?")
BAR = re.compile(r"[█·]{2,}")


@dataclass(frozen=True, slots=True)
class Sample:
    """A command of a README, and what it is said to print."""

    words: tuple[str, ...]
    lines: tuple[str, ...]

    def status(self) -> int:
        """Return the exit status that the sample implies."""
        return 1 if any(line.startswith("FAILED") for line in self.lines) else 0


def _samples() -> Iterator[Sample]:
    for kind, body in BLOCK.findall(README):
        if kind == "console":
            for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                command, *lines = part.splitlines()
                program, *words = shlex.split(command)
                assert program == "smpbox"
                yield Sample(tuple(words), tuple(lines))


SAMPLES = tuple(_samples())


def _run(words: tuple[str, ...], where: Path) -> subprocess.CompletedProcess[str]:
    # The engine makes no difference to what is printed, but inline is quicker to start.
    if words[0] == "run" and "--engine" not in words:
        words = (*words, "--engine", "inline")
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(CHECKOUT / "launch.py"), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=where, env=environment
    )


def _masked(text: str) -> list[str]:
    lines = (FIGURE.sub("#", BAR.sub("▒", line)) for line in text.splitlines())
    return [" ".join(line.split()) for line in lines]


# The lines of a sample are found in the output, in their order; without a gap where none is shown.
def _compare(sample: Sample, printed: str) -> None:
    left = _masked(printed)
    gap = False
    for line in sample.lines:
        if line == "…":
            gap = True
            continue
        wanted = _masked(line)[0] if line else ""
        assert wanted in left, f"{shlex.join(sample.words)} does not print {line!r}:\n{printed}"
        place = left.index(wanted)
        assert gap or place == 0, f"before {line!r} {shlex.join(sample.words)} prints {left[0]!r}"
        left, gap = left[place + 1 :], False


def check_sample(sample: Sample, where: Path) -> None:
    done = _run(sample.words, where)
    assert (done.returncode, done.stderr) == (sample.status(), "")
    _compare(sample, done.stdout)


def _sample(start: str) -> Sample:
    return next(one for one in SAMPLES if shlex.join(one.words).startswith(start))


# -- Commands -----------------------------------------------------------------------------------


def test_the_list_of_boxes_is_that_of_the_readme(tmp_path: Path) -> None:
    sample = _sample("boxes")
    check_sample(sample, tmp_path)


def test_the_box_of_the_readme_is_complete_and_leaves_what_it_says(tmp_path: Path) -> None:
    box = next(body for kind, body in BLOCK.findall(README) if kind == "yaml")
    (tmp_path / "mine.yaml").write_text(box, encoding="utf-8")
    check_sample(_sample("check mine.yaml"), tmp_path)
    check_sample(_sample("run mine.yaml"), tmp_path)
    left = {path.name for path in (tmp_path / "runs" / "latest").iterdir()}
    table = README.partition("## Where the results are")[2].partition("##")[0]
    named = re.findall(r"`([\w*-]+\.\w+)`", table.partition("|---|")[2])
    assert len(named) >= 8
    for name in named:
        pattern = name.replace("N.", r"\d+.").replace("*", r"\w+").replace(".", r"\.")
        assert any(re.fullmatch(pattern, one) for one in left), name


def test_a_mistake_is_shown_as_in_the_readme(tmp_path: Path) -> None:
    box = next(body for kind, body in BLOCK.findall(README) if kind == "yaml")
    (tmp_path / "mine.yaml").write_text(box.replace("cpus: 4,", "cpus: four,"), encoding="utf-8")
    done = _run(("check", "mine.yaml"), tmp_path)
    shown = re.search(r"^    mine\.yaml:.*\n.*\n.*\n", README, re.MULTILINE)
    assert shown is not None
    lines = [line.removeprefix("    ").rstrip() for line in shown[0].splitlines()]
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.rstrip() for line in done.stderr.splitlines()] == lines


@pytest.mark.slow
def test_the_ninety_seconds_print_what_the_readme_shows(tmp_path: Path) -> None:
    story = README.partition("## Commands")[0]
    shown = [one for one in SAMPLES if f"$ smpbox {shlex.join(one.words)}" in story]
    assert [one.words[0] for one in shown] == ["run", "logs", "mpstat", "fio", "why", "run"]
    for sample in shown:
        check_sample(sample, tmp_path)


@pytest.mark.slow
def test_validate_prints_what_the_readme_shows(tmp_path: Path) -> None:
    check_sample(_sample("validate"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compare xfs", "compare completion", "policies"])
def test_comparisons_and_the_policies_print_what_the_readme_shows(
    tmp_path: Path, command: str
) -> None:
    check_sample(_sample(command), tmp_path)


def test_every_command_is_in_the_table_of_commands() -> None:
    table = README.partition("## Commands")[2].partition("```")[0]
    assert set(re.findall(r"^\| `smpbox (\w+)", table, re.MULTILINE)) == set(cli.commands)


# -- Tables and names ---------------------------------------------------------------------------


def test_the_generated_tables_are_in_sync() -> None:
    assert readme_tables.readme() == TEXT["emulator/README.md"], (
        "write them again: python -m tests.readme_tables"
    )


def test_the_generated_tables_are_complete() -> None:
    head = 2
    assert len(readme_tables.frame_kinds().splitlines()) == head + readme_tables.frame_count()
    assert len(readme_tables.hotplug().splitlines()) == head + len(STEPS)
    assert len(readme_tables.messages().splitlines()) == head + len(OPS)
    kernel = re.findall(r"`kernel/(\w+\.py)`", readme_tables.files())
    assert set(kernel) == {
        path.name for path in (CHECKOUT / "emulator" / "kernel").glob("[!_]*.py")
    }


def test_the_table_of_completion_policies_is_complete() -> None:
    text = completion_table.FILE.read_text(encoding="utf-8")
    head, _begin, rest = text.partition(completion_table.BEGIN)
    shown = " ".join(head.partition("```sh\nsmpbox ")[2].partition("```")[0].split())
    assert shown.replace("\\ ", "") == shlex.join(completion_table.words())
    tables = [part for part in rest.strip().split("\n\n") if part.startswith("| ")]
    assert len(tables) == len(completion_table.FIGURES)
    for table in tables:
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        assert tuple(rows[0][1:]) == completion_table.BOXES
        assert [row[0].strip("`") for row in rows[2:]] == list(completion_table.policies())


def test_the_step_by_step_sequences_use_real_names() -> None:
    steps = TEXT["emulator/README.md"].partition("## One completion")[2].partition("## Messages")[0]
    known = {op.name for op in OPS.values()} | set(BY_NAME) | {one.name for one in fields(Costs)}
    names = re.findall(r"`([a-z]+(?:_[a-z]+)*)`", steps)
    assert set(names) - known - {"code", "lb_env"} == set()
    assert {"dio_done", "balance", "detach", "stop", "activate", "hardirq_ns"} <= set(names)


def test_the_emulators_own_events_are_explained() -> None:
    table = TEXT["tests/README.md"].partition("own events:")[2].partition("\n\n`rule`")[0]
    explained = set(re.findall(r"`(box_\w+)`", table))
    assert explained == {name for name in BY_NAME if name.startswith("box_")}


def test_the_markers_are_those_of_pytest() -> None:
    table = TEXT["tests/README.md"].partition("## Markers")[2].partition("##")[0]
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    markers = project["tool"]["pytest"]["markers"]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [
        marker.partition(":")[0] for marker in markers
    ]


def test_what_the_readmes_name_exists() -> None:
    words = [path for text in TEXT.values() for path in re.findall(r"`((?:\w+/)+[\w.]*)`", text)]
    ours = [word for word in words if word.startswith(("emulator/", "config/", "tests/"))]
    assert len(ours) > 20
    assert [word for word in ours if not (CHECKOUT / word).exists()] == []
    helpers = TEXT["tests/README.md"].partition("## Helpers")[2].partition("##")[0]
    for word in re.findall(r"^\| `([^`]+)`", helpers, re.MULTILINE):
        assert (CHECKOUT / "tests" / word).exists(), word
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|^ {4})make (\w+)", "\n".join(TEXT.values()), re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", TEXT)
def test_a_readme_names_no_machine_and_no_host(name: str) -> None:
    assert re.search(r"://|(?<![\w.])/(?:work|root|home|tmp)/", TEXT[name]) is None
