"""Runs in processes of their own: their results come back, their directories go."""

from pathlib import Path

import pytest

from emulator import apart
from emulator.apart import Errand, run_apart, scratch_directory


def test_reports_come_in_order_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Stands in for the command line: writes its own arguments as the results of a run.
    start = (
        "import json, pathlib, sys; out = pathlib.Path(sys.argv[6]); out.mkdir();"
        "(out / 'results.json').write_text(json.dumps({'words': sys.argv[1:]}))"
    )
    monkeypatch.setattr(apart, "_START", start)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    errands = [Errand("one", ("--seed", "1")), Errand("two")]
    reports = list(run_apart(errands, at_once=2))
    assert [report.errand for report in reports] == errands
    results = reports[0].results
    assert results is not None
    assert results["words"][:5] == ["run", "one", "--quiet", "--no-logs", "--out"]
    assert results["words"][6:] == ["--seed", "1"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_breaks_reports_what_it_said() -> None:
    [report] = run_apart([Errand("no-such-box")], at_once=1)
    assert report.results is None
    assert "no-such-box" in report.error
    assert "Traceback" not in report.error


def test_the_scratch_directory_goes_with_what_is_in_it() -> None:
    with scratch_directory() as path:
        (path / "file").write_text("")
    assert not path.exists()
