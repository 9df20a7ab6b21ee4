"""``compare``: how axes are written, which runs they make, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from emulator import cli, compare
from emulator.apart import Errand, Report
from emulator.compare import CompareError, axis_of, setting
from emulator.completion import COMPLETIONS, SIGNALS

GRAN = "kernel.sysctl.kernel.sched_wakeup_granularity_ns"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def _invoke(*words: str) -> Result:
    return CliRunner().invoke(cli.cli, ["compare", *words], prog_name="smpbox")


# -- Axes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words", "numbers"),
    [
        ("machine.cpus=2,4,24", ("2", "4", "24"), (2, 4, 24)),
        ("machine.cpus=2..4", ("2", "3", "4"), (2, 3, 4)),
        ("machine.cpus=2..9:3", ("2", "5", "8"), (2, 5, 8)),
        (f"{GRAN}=1ms..3ms", ("1ms", "2ms", "3ms"), (1e6, 2e6, 3e6)),
        (f"{GRAN}=1ms..2ms:500us", ("1ms", "1500us", "2ms"), (1e6, 1.5e6, 2e6)),
        (f"{GRAN}=500us,1ms..2ms", ("500us", "1ms", "2ms"), (5e5, 1e6, 2e6)),
        ("kernel.version=5.4,5.10,6.1", ("5.4", "5.10", "6.1"), None),
        ("kernel.policies=none,a+b", ("none", "a+b"), None),
        ("kernel.features=[NO_WA_IDLE, NO_SIS_PROP],[]", ("[NO_WA_IDLE, NO_SIS_PROP]", "[]"), None),
    ],
)
def test_an_axis_as_people_write_it(
    text: str, words: tuple[str, ...], numbers: tuple[float, ...] | None
) -> None:
    axis = axis_of(text)
    assert (axis.words, axis.numbers) == (words, numbers)


@pytest.mark.parametrize(
    ("key", "word", "override"),
    [
        ("kernel.version", "5.10", 'kernel.version="5.10"'),
        ("kernel.version", '"5.10"', 'kernel.version="5.10"'),
        ("kernel.policies", "none", "kernel.policies=[]"),
        ("kernel.policies", "a+b", "kernel.policies=[a, b]"),
        (GRAN, "4ms", f"{GRAN}=4000000"),
        (GRAN, "4000000", f"{GRAN}=4000000"),
        ("machine.cpus", "4", "machine.cpus=4"),
    ],
)
def test_a_word_becomes_what_the_box_file_wants(key: str, word: str, override: str) -> None:
    assert setting(key, word) == override


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("machine.cpus", "write KEY=VALUE,VALUE"),
        ("machine.cpus=", "write KEY=VALUE,VALUE"),
        ("machine.cpus=4..2", "a range goes up"),
        ("machine.cpus=2..4:0", "a range goes up"),
        ("machine.cpus=1..9..2", "'9..2' is not a whole number"),
        ("machine.cpus=2..", "a range is LOW..HIGH"),
        ("machine.cpus=1..100000", "these are 100,000 values"),
        ("machine.cpus=2,2", "a value is there twice"),
        (f"{GRAN}=1ms..2days", "'2days' is not a duration"),
    ],
)
def test_an_axis_that_is_none_is_refused(text: str, mistake: str) -> None:
    with pytest.raises(CompareError) as refused:
        axis_of(text)
    assert mistake in str(refused.value)
    assert str(refused.value).startswith(f"--vary {text}: ")


# -- Commands -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (["xfs-aio-512"], "name two runs or more, or a box and what is varied by --vary"),
        (["a", "b", "--vary", "machine.cpus=2"], "a: there is no such box"),
        (["xfs-aio-512", "xfs-aio-512", "--vary", "machine.cpus=2"], "the same box is named twice"),
        (["a", "b", "--set", "machine.cpus=2"], "--set is for a box that is run"),
        (["a", "b", "--seeds", "2"], "--seeds is for a box that is run"),
        (["a", "b"], "no run is called 'a'"),
        (["no-box", "--vary", "machine.cpus=2"], "no-box: there is no such box"),
        (["xfs-aio-512", "--vary", "kernel.version=5.5"], "kernel.version: no such version"),
        (
            ["xfs-aio-512", "--vary", "kernel.policies=none,kthread-stak"],
            "did you mean kthread-sta",
        ),
        (["xfs-aio-512", "--vary", f"{GRAN}=4zs"], "'4zs' is not a duration"),
        (["xfs-aio-512", "--vary", "machine.cpus=2", "--vary", "machine.cpus=4"], "varied twice"),
        (["xfs-aio-512", "--vary", "seed=1..600", "--seeds", "2"], "too many runs"),
        (["xfs-aio-512", "--vary", "machine.cpus=2", "--for", "1ms"], "warmup: the run is over"),
    ],
)
def test_a_mistake_is_one_message_and_nothing_is_run(
    tmp_path: Path, words: list[str], mistake: str
) -> None:
    result = _invoke(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert mistake in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_variants_are_run_and_compared(tmp_path: Path) -> None:
    words = ["xfs-aio-4k-tuned", "--vary", "machine.cpus=2", "--vary", f"{GRAN}=4ms..8ms:4ms"]
    words += ["--for", "200ms", "--set", "warmup=50ms", "--seeds", "2", "--json", "out.json"]
    result = _invoke(*words, "--figures", "iops,migrations_per_s")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "migrations_per_s rises from 0 to " in result.stdout
    assert "between 4ms and 8ms (wakeup granularity)" in " ".join(result.stdout.split())
    plain = json.loads((tmp_path / "out.json").read_text())
    assert [column["set"][GRAN] for column in plain["columns"]] == ["4ms", "8ms"]
    assert list(plain["columns"][0]["figures"]) == ["iops", "migrations_per_s"]
    kept = [tmp_path / place for column in plain["columns"] for place in column["runs"]]
    assert len(kept) == 4
    for place in kept:
        # All but the rings is kept, under runs/.
        assert place.is_relative_to(tmp_path / "runs" / "compare")
        assert (place / "results.json").is_file()
        assert list(place.glob("*.ring")) == []
    # What was made can be compared again, as any runs.
    again = _invoke(*[str(place) for place in kept[::2]], "--figures", "iops")
    assert again.exit_code == 0
    assert again.stdout.startswith("2 runs side by side\n")
    refused = _invoke(*[str(place) for place in kept[:2]], "--figures", "nope")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "no run has a figure 'nope'" in refused.stderr


def test_every_completion_policy_is_a_word() -> None:
    words = axis_of("kernel.completion=all").words
    assert set(COMPLETIONS) <= set(words)
    assert len(words) == len(COMPLETIONS) + len(SIGNALS) - 2  # its own; not in every version
    assert [word for word in words if word.startswith("rescue")] == ["rescue"]
    assert "unless-saturated:head_age" in words


def test_several_boxes_are_an_axis(tmp_path: Path) -> None:
    words = ["xfs-aio-4k-tuned", "xfs-aio-512", "--vary", "kernel.completion=bound,next-online"]
    words += ["--for", "200ms", "--set", "warmup=50ms", "--set", "machine.cpus=2"]
    words += ["--json", "out.json", "--markdown", "out.md"]
    result = _invoke(*words, "--figures", "iops,migrations_per_s")
    assert (result.exit_code, result.stderr) == (0, "")
    plain = json.loads((tmp_path / "out.json").read_text())
    assert [axis["key"] for axis in plain["axes"]] == ["box", "kernel.completion"]
    assert [column["set"]["box"] for column in plain["columns"]] == [
        *["xfs-aio-4k-tuned"] * 2,
        *["xfs-aio-512"] * 2,
    ]
    assert plain["columns"][3]["figures"]["migrations_per_s"]["median"] == 0
    assert plain["columns"][2]["figures"]["iops"]["ratio"] == 1
    first = (tmp_path / "out.md").read_text().splitlines()[0]
    assert first == "| iops | xfs-aio-4k-tuned | xfs-aio-512 |"


def test_a_run_that_breaks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Errand] = []

    def run_apart(errands: list[Errand], *_: Any) -> list[Report]:
        seen.extend(errands)
        return [Report(errand, None, "the disk is full") for errand in errands]

    monkeypatch.setattr(compare, "run_apart", lambda *arguments: iter(run_apart(*arguments)))
    result = _invoke("xfs-aio-512", "--vary", "kernel.policies=none", "--set", "machine.cpus=2")
    assert result.exit_code == 2
    assert result.stderr == "xfs-aio-512 with none: the disk is full\n"
    assert seen[0].options == (
        *("--engine", "inline", "--seed", "1"),
        *("--set", "machine.cpus=2", "--set", "kernel.policies=[]"),
    )
