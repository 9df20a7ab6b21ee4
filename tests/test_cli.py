"""The command line: what each command prints, what it refuses, with which status it ends."""

import dataclasses
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from emulator import attach, cli, config, session
from emulator.completion import COMPLETIONS
from emulator.config import Box, BoxError
from emulator.rules import POLICIES, RULES, VERSIONS
from emulator.session import Request
from tests.toybox import PARTS, toy_box

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def _invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.cli, list(words), prog_name="smpbox")


def _launch(*words: str, python: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, str(CHECKOUT / "launch.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# -- The launcher -------------------------------------------------------------------------------


def test_launch_works_from_any_directory() -> None:
    done = _launch("--version")
    assert (done.returncode, done.stdout) == (0, "smpbox, version 0.1.0\n")


def test_python_without_assertions_is_refused_in_one_line() -> None:
    done = _launch("boxes", python=["-O"])
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "smpbox: refuses to run under python -O: its checks are part of it\n"


def test_the_command_line_loads_nothing_heavy() -> None:
    code = (
        "import sys; import emulator.cli;"
        "heavy = {'pydantic', 'yaml', 'rich', 'zmq', 'msgpack', 'multiprocess', 'psutil'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    assert done.stdout == "[]\n"


def test_an_agent_loads_nothing_of_the_command_line() -> None:
    code = (
        "import sys; import emulator.agents.coordinator, emulator.agents.node_agent;"
        "banned = {'pydantic', 'yaml', 'rich', 'click', 'multiprocess', 'dill'};"
        "print(sorted(banned & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT
    )
    assert done.stdout == "[]\n"


# -- Mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "toy", "--engine", "threads"],
        ["run", "toy", "--seed", "-1"],
        ["logs", "toy"],
        ["logs", "toy", "--cpu", "0", "--from", "3"],
        ["logs", "toy", "--cpu", "0", "--from", "3s", "--to", "2s"],
        ["ctl", "toy"],
        ["why", "toy"],
        ["why", "toy", "--pid", "7", "--task", "fio"],
        ["why", "toy", "--pid", "0"],
        ["why", "toy", "--pid", "7", "--at", "3"],
        ["compare"],
        ["compare", "toy", "--seeds", "0"],
        ["validate", "--seeds", "0"],
        ["fly"],
    ],
)
def test_what_is_not_understood_is_status_2(words: list[str]) -> None:
    result = _invoke(*words)
    assert result.exit_code == 2
    assert "Usage: smpbox" in result.stderr


def test_a_run_that_is_not_there_is_status_2_without_a_traceback() -> None:
    for words in (
        ["logs", "toy", "--cpu", "0"],
        ["why", "toy", "--pid", "7"],
        ["ctl", "toy", "cpu", "load", "2", "--percent", "80"],
    ):
        result = _invoke(*words)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("no run is called 'toy': there are none in runs/ yet")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("done", 0),
        ("refused: CPU 3 is offline", 1),
        ("error: no command 'cpu fly'", 2),
    ],
)
def test_ctl_ends_with_the_status_of_its_answer(
    monkeypatch: pytest.MonkeyPatch, answer: str, status: int
) -> None:
    monkeypatch.setattr(attach, "send_command", lambda *_: answer)
    result = _invoke("ctl", "toy", "cpu", "offline", "3")
    assert (result.exit_code, result.output) == (status, answer + "\n")
    assert bool(result.stderr) == (status == 2)


def test_every_mistake_of_a_box_file_is_printed_and_nothing_is_left(tmp_path: Path) -> None:
    box = tmp_path / "bad.yaml"
    box.write_text("machine:\n  cpus: many\n  hz: 1000\n  hz: 250\nworkloadz: []\n")
    for command in ("check", "run"):
        result = _invoke(command, str(box))
        assert result.exit_code == 2
        assert result.stdout == ""
        assert "bad.yaml:2:9: machine.cpus: " in result.stderr
        assert "bad.yaml:4:3: " in result.stderr
        assert "workloadz" in result.stderr
        assert "Error" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


# -- Boxes --------------------------------------------------------------------------------------


def test_boxes_are_listed_one_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "list_boxes", lambda: [("one", "first"), ("second", "2nd")])
    assert _invoke("boxes").stdout == "one     first\nsecond  2nd\n"


def test_check_prints_the_resolved_box(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def load_box(*arguments: Any) -> Box:
        seen.append(arguments)
        return toy_box()

    monkeypatch.setattr(config, "load_box", load_box)
    result = _invoke("check", "toy", "--set", "machine.cpus=2", "--set", "seed=1")
    assert result.exit_code == 0
    assert seen == [("toy", ("machine.cpus=2", "seed=1"))]
    assert "description: two CPUs that do next to nothing\n" in result.stdout
    assert "duration_ns: 20000000\n" in result.stdout
    assert "cpus_allowed: 0-1\n" in result.stdout
    assert "kernel.sched_nr_migrate: 32\n" in result.stdout


def test_policies_say_what_they_change_and_versions_what_they_have() -> None:
    listed = _invoke("policies")
    assert listed.exit_code == 0
    heads = [line.partition("  (")[0] for line in listed.stdout.splitlines() if "  (F" in line]
    fixes = [name for name, row in COMPLETIONS.items() if row.fix.startswith("F")]
    assert heads == [*POLICIES, *fixes]
    text = " ".join(listed.stdout.split())
    for completion in COMPLETIONS.values():
        head = f"{completion.name} ({completion.fix}, {completion.who}) decides"
        assert f"{head} {completion.changes} reported {completion.outcome}" in text
    for policy in POLICIES.values():
        assert f"{policy.name} ({policy.fix}, {policy.who}) changes {policy.changes}" in text
        assert f"reported {policy.outcome}" in text
    assert "sets renice" not in text
    assert "sets kworker_nice=-5" in text
    assert max(map(len, listed.stdout.splitlines())) <= 80
    both = _invoke("policies", "--versions").stdout
    assert both.startswith(listed.stdout)
    table = both.removeprefix(listed.stdout).strip().splitlines()
    assert table[0].split() == ["rule", *VERSIONS]
    [row] = [line.split() for line in table if line.startswith("kthread_stack ")]
    assert row == ["kthread_stack", "·", *["x"] * 6]
    assert [line.split()[0] for line in table[1:] if not line.startswith(" ")][:-1] == list(RULES)


# -- Running ------------------------------------------------------------------------------------


def _use_toys(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    seen: list[Request] = []
    real = session.run_box

    def run_box(request: Request, runs: Path) -> int:
        seen.append(request)
        return real(dataclasses.replace(request, parts=PARTS), runs)

    monkeypatch.setattr(session, "run_box", run_box)
    monkeypatch.setattr(session, "load_box", lambda *_: toy_box())
    return seen


def test_run_passes_on_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = _use_toys(monkeypatch)
    words = "run toy --set a=1 --set b=2 --seed 7 --for 300ms --engine inline --strict --quiet"
    result = _invoke(*words.split(), "--no-logs", "--out", "here")
    assert (result.exit_code, result.output) == (0, "")
    assert seen == [
        Request("toy", ("a=1", "b=2"), 7, "300ms", "inline", True, Path("here"), True, False)
    ]
    assert (tmp_path / "here" / "results.json").is_file()
    assert not (tmp_path / "here" / "cpu0.log").exists()


def test_run_shows_the_result_and_logs_finds_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    _use_toys(monkeypatch)
    result = _invoke("run", "toy", "--engine", "inline")
    assert result.exit_code == 0
    assert "fio" in result.stdout
    assert "toy" in result.stdout
    words = "logs latest --cpu 0 --event sched_migrate_task --from 2ms --to 4ms"
    lines = _invoke(*words.split()).stdout.splitlines()
    assert lines[0] == "cpus=2"
    assert [line.split("] ")[1].split(": ")[:2] for line in lines[1:]] == [
        ["    0.002000", "sched_migrate_task"],
        ["    0.003000", "sched_migrate_task"],
    ]


def test_a_broken_box_is_told_by_its_own_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_box(*_: Any) -> Box:
        raise BoxError([])

    monkeypatch.setattr(session, "load_box", load_box)
    assert _invoke("run", "toy").exit_code == 2
