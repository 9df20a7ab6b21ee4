"""The shell: what a line means, what may come next in it, and lines from a pipe."""

import io
import sys
from pathlib import Path

import pytest

from emulator.cli import cli
from emulator.rundir import RunDirError
from emulator.shell import DONE, LEAVE, MISTAKE, Shell, candidates, run_shell

BOX = ("xfs-aio-4k-tuned", "--for", "40ms", "--set", "warmup=10ms", "--engine", "inline")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell on a run that is over."""
    out = tmp_path_factory.mktemp("shell") / "run"
    with pytest.raises(SystemExit):
        cli.main(["run", *BOX, "--quiet", "--no-logs", "--out", str(out)])
    return Shell(str(out), out.parent)


# -- Completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "",
            [
                "cat",
                "chrt",
                "completion",
                "continue",
                "cpu",
                "disk",
                "help",
                "irq",
                "logs",
                "pause",
            ],
        ),
        ("st", ["status", "step"]),
        ("cpu ", ["kill", "load", "offline", "online"]),
        ("cpu offline of", ["of:fio"]),
        ("cpu load 3 ", ["--percent"]),
        ("cpu load 3 --percent ", []),
        ("disk s", ["sda"]),
        ("disk sda l", ["lose-irq"]),
        ("disk sda error e", ["every="]),
        ("sysctl kernel.sched_wake", ["kernel.sched_wakeup_granularity_ns="]),
        ("step ", ["to", "until"]),
        ("step until act", ["active"]),
        ("step until active ", ["balance", "cpu=", "pid=", "task="]),
        ("step until sched_migrate_task dest", ["dest_cpu="]),
        ("step until sched_switch cpu=1 ta", ["task="]),
        ("logs 1 20 sched_mig", ["sched_migrate_task"]),
        ("why ", ["10000", "fio"]),
        ("cat /proc/schedst", ["/proc/schedstat"]),
    ],
)
def test_what_may_come_next_in_a_line(shell: Shell, line: str, expected: list[str]) -> None:
    text = line.rpartition(" ")[2]
    found = shell.complete(line, text)
    assert found[: len(expected)] == expected if not line else found == expected


def test_files_are_completed_where_a_file_is_due(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "late.yaml").touch()
    (tmp_path / "more").mkdir()
    found = candidates(["workload", "add"], f"{tmp_path}/", shell.facts)
    assert found == [f"{tmp_path}/late.yaml", f"{tmp_path}/more/"]


# -- Lines --------------------------------------------------------------------------------------


def test_looks_work_on_a_run_that_is_over(shell: Shell) -> None:
    status, text = shell.execute("logs 1 3 sched_switch")
    assert (status, len(text.splitlines())) == (DONE, 3)
    assert all("sched_switch" in line for line in text.splitlines())
    assert "fio/10000" in shell.execute("why fio")[1]
    assert shell.execute("cat /proc/uptime # how long")[1].startswith("0.04 ")
    assert "/proc/schedstat" in shell.execute("cat")[1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cpu offline 3", "takes no commands: it is over"),
        ("logs", "it is logs N [COUNT] [EVENT...]"),
        ("logs 99", "the CPUs are 0-7"),
        ("logs 1 sched_swich", "sched_swich"),
        ("why", "it is why TASK [TIME]"),
        ("why nobody", "no task"),
        ("cat /proc/nonsense", "no such file"),
        ("say 'so", "No closing quotation"),
    ],
)
def test_a_mistake_gets_one_message(shell: Shell, line: str, said: str) -> None:
    status, text = shell.execute(line)
    assert status == MISTAKE
    assert said in text
    assert len(text.splitlines()) == 1


def test_help_tells_everything_or_one_verb(shell: Shell) -> None:
    whole = shell.execute("help")[1]
    for word in ("pause", "step until EVENT", "active balance", "cat [PATH]", "logs N", "quit"):
        assert word in whole
    assert [line.split()[:2] for line in shell.execute("help cpu")[1].splitlines()] == [
        ["cpu", verb] for verb in ("offline", "online", "kill", "load")
    ]
    assert "no line begins with 'dance'" in shell.execute("help dance")[1]
    assert shell.execute("  # nothing") == (DONE, "")
    assert shell.execute("quit") == (LEAVE, "")


def test_a_script_may_be_piped_in(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("cat /proc/loadavg\nlogs 99\nquit\ncat\n"))
    assert run_shell(shell.run, shell.runs) == MISTAKE
    said = capsys.readouterr()
    assert said.out.startswith("0.00 0.00")
    assert len(said.out.splitlines()) == 1
    assert said.err == "the CPUs are 0-7\n"


def test_a_run_that_there_is_not_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no run is called"):
        Shell("latest", tmp_path)
