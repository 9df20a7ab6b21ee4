"""The run directory: where it is made, how it is found again, what is refused."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from emulator.rundir import (
    CONTROL,
    RUN,
    RunDirectory,
    RunDirError,
    create_run_directory,
    list_runs,
    resolve_run,
)

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


def _start(name: str, utc: datetime, runs: Path) -> RunDirectory:
    directory = create_run_directory(name, utc, runs)
    directory.write_json(RUN, {"seed": 1})
    return directory


def test_a_run_lives_under_its_box_and_its_time(tmp_path: Path) -> None:
    directory = _start("tuned", NOON, tmp_path)
    assert directory.path == tmp_path / "tuned" / "2026-11-24T12-00-00Z"
    assert directory.cpu_ring(3).name == "cpu3.ring"
    assert directory.cpu_log(3).name == "cpu3.log"


def test_local_time_is_written_as_utc(tmp_path: Path) -> None:
    east = NOON.astimezone(timezone(timedelta(hours=5)))
    assert create_run_directory("tuned", east, tmp_path).path.name == "2026-11-24T12-00-00Z"


def test_two_runs_in_one_second_do_not_share_a_directory(tmp_path: Path) -> None:
    names = [_start("tuned", NOON, tmp_path).path.name for _ in range(3)]
    assert names == sorted(names)
    assert len(set(names)) == 3


def test_latest_follows_the_newest_start(tmp_path: Path) -> None:
    first = _start("tuned", NOON, tmp_path)
    other = _start("default", NOON + timedelta(seconds=1), tmp_path)
    assert resolve_run("latest", tmp_path).path == other.path.resolve()
    assert resolve_run("tuned", tmp_path).path == first.path.resolve()
    second = _start("tuned", NOON + timedelta(seconds=2), tmp_path)
    assert resolve_run("tuned", tmp_path).path == second.path.resolve()
    assert resolve_run("latest", tmp_path).path == second.path.resolve()


@pytest.mark.parametrize("word", ["tuned.yaml", "config/boxes/tuned.yaml"])
def test_the_box_file_names_its_latest_run(tmp_path: Path, word: str) -> None:
    directory = _start("tuned", NOON, tmp_path)
    assert resolve_run(word, tmp_path).path == directory.path.resolve()


def test_a_directory_names_itself(tmp_path: Path) -> None:
    directory = _start("tuned", NOON, tmp_path)
    assert resolve_run(str(directory.path), tmp_path / "elsewhere").path == directory.path.resolve()


def test_out_is_the_run_directory_itself_and_leaves_no_link(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    directory = create_run_directory("tuned", NOON, tmp_path / "runs", out)
    assert directory.path == out
    assert not (tmp_path / "runs").exists()


def test_out_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(RunDirError, match="is not empty"):
        create_run_directory("tuned", NOON, tmp_path / "runs", tmp_path)
    assert not (tmp_path / "runs").exists()


def test_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="file"):
        create_run_directory("tuned", NOON, tmp_path / "runs", tmp_path / "file")


def test_an_unknown_run_names_the_boxes_that_have_run(tmp_path: Path) -> None:
    _start("tuned", NOON, tmp_path)
    _start("default", NOON, tmp_path)
    with pytest.raises(RunDirError, match=r"'tunde'.*default, tuned"):
        resolve_run("tunde", tmp_path)


def test_before_the_first_run_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="there are none"):
        resolve_run("latest", tmp_path / "runs")


def test_any_directory_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirError):
        resolve_run(str(tmp_path), tmp_path / "runs")


def test_files_are_written_whole(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write_json("results.json", {"valid": None, "rate": "½"})
    directory.write_json("results.json", {"valid": True})
    assert directory.read_json("results.json") == {"valid": True}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("text", [None, "{"])
def test_a_missing_or_broken_file_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(RunDirError, match=r"results\.json: "):
        RunDirectory(tmp_path).read_json("results.json")


def test_a_run_without_a_control_socket_takes_no_commands(tmp_path: Path) -> None:
    directory = _start("tuned", NOON, tmp_path)
    directory.hold()
    with pytest.raises(RunDirError, match="takes no commands: it is over"):
        directory.control_address()
    (directory.path / CONTROL).write_text("ipc:///tmp/x/ctl\n")
    assert directory.control_address() == "ipc:///tmp/x/ctl"
    directory.release()


def test_the_control_file_of_a_killed_run_is_known_for_what_it_is(tmp_path: Path) -> None:
    directory = _start("tuned", NOON, tmp_path)
    (directory.path / CONTROL).write_text("ipc:///tmp/x/ctl\n")
    with pytest.raises(RunDirError, match=r"the run ended without saying so \(it was killed\)"):
        directory.control_address()
    assert not (directory.path / CONTROL).exists()


def test_runs_are_listed_with_how_they_ended(tmp_path: Path) -> None:
    verdicts = {"a": True, "b": False, "c": None}
    for box, valid in verdicts.items():
        _start(box, NOON, tmp_path).write_json("results.json", {"valid": valid})
    _start("d", NOON, tmp_path)
    _start("e", NOON, tmp_path).write_text("results.json", "{")
    live = _start("f", NOON, tmp_path)
    live.hold()
    (tmp_path / "no-run").mkdir()
    states = {path.parent.name: state for path, state in list_runs(tmp_path)}
    assert states == {
        "a": "passed",
        "b": "failed",
        "c": "no verdict",
        "d": "ended without saying so",
        "e": "ended without saying so",
        "f": "running",
    }
    live.release()
    assert list_runs(tmp_path / "none") == []


def test_a_run_is_running_while_it_is_held(tmp_path: Path) -> None:
    directory = _start("tuned", NOON, tmp_path)
    assert not directory.is_running()
    directory.hold()
    assert resolve_run("tuned", tmp_path).is_running()
    directory.release()
    assert not directory.is_running()
