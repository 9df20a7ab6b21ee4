"""What the host refuses: one line that names the file, status 2, and what was written is readable."""

import errno
import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from emulator import engines, session
from emulator.config import Box
from emulator.engines import Parts
from emulator.hosterrors import (
    DESCRIPTORS_BASE,
    DESCRIPTORS_PER_NODE,
    ensure_descriptors,
    host_error,
    named_errors,
)
from emulator.rundir import RESULTS, RUN, RunDirectory
from emulator.session import Request, SessionError, run_box
from emulator.trace.layout import HEAD_BYTES, SEGMENT_BYTES
from emulator.trace.reader import RingReader
from emulator.tracepoints import RECORD_SIZE
from tests import fulldisk
from tests.toybox import PARTS, toy_box

CHECKOUT = Path(__file__).parents[1]
FULL = Parts("tests.fulldisk:build_node", PARTS.route, PARTS.latencies)
REQUEST = Request("toy", engine="inline", quiet=True, parts=PARTS)

#: Records that the disk has room for, and emulated time in which the toy writes more.
ROOM_RECORDS = SEGMENT_BYTES // RECORD_SIZE
LONG_MS = 1700


class TestHostError:
    """Which errors are the host's doing, and what is said of them."""

    def test_a_refused_file_is_named_with_what_to_do(self) -> None:
        error = OSError(errno.ENOSPC, "No space left on device", "/run/cpu0.ring")
        text = (
            "/run/cpu0.ring: No space left on device (make room, or name another place with --out)"
        )
        assert host_error(error) == text

    def test_a_process_that_gets_no_more_names_no_file(self) -> None:
        assert host_error(OSError(errno.EMFILE, "Too many open files")).startswith("Too many open")
        assert host_error(MemoryError()).startswith("out of memory")

    @pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), OSError(errno.ENOSPC, "x")])
    def test_other_errors_are_mistakes_of_ours(self, error: Exception) -> None:
        assert host_error(error) == ""

    def test_an_error_of_a_write_gets_the_name_of_its_file(self) -> None:
        with pytest.raises(OSError, match=r"results\.json") as caught, named_errors("results.json"):
            raise OSError(errno.EFBIG, "File too large")
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, "results.json")


class TestDescriptors:
    """The limit of open files is looked at before anything starts."""

    def test_a_soft_limit_is_raised_as_far_as_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        limits = [(10, 5000)]
        monkeypatch.setattr(resource, "getrlimit", lambda _which: limits[-1])
        monkeypatch.setattr(resource, "setrlimit", lambda _which, pair: limits.append(pair))
        needed = DESCRIPTORS_BASE + 8 * DESCRIPTORS_PER_NODE
        assert ensure_descriptors(8) == ""
        assert limits == [(10, 5000), (needed, 5000)]
        assert ensure_descriptors(8) == ""
        assert len(limits) == 2

    def test_a_hard_limit_is_told_with_what_is_needed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _which: (60, 70))
        _use(monkeypatch, toy_box())
        with pytest.raises(SessionError, match=r"toy: .* RLIMIT_NOFILE allows 70: raise it with"):
            run_box(REQUEST, tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestFullDisk:
    """A ring that cannot grow ends the run; its records up to there are whole."""

    def test_inline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "posix_fallocate", fulldisk.allocate)
        _use(monkeypatch, toy_box(LONG_MS))
        assert run_box(_at(tmp_path / "run"), tmp_path) == 2
        _check(tmp_path / "run")

    @pytest.mark.box
    @pytest.mark.timeout(60)
    def test_processes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _use(monkeypatch, toy_box(LONG_MS))
        request = Request(
            "toy", engine=engines.PROCESSES, quiet=True, parts=FULL, out=tmp_path / "run"
        )
        assert run_box(request, tmp_path) == 2
        _check(tmp_path / "run")

    def test_results_that_find_no_room_are_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _use(monkeypatch, toy_box())
        whole = Path.write_text

        def write_text(path: Path, text: str, encoding: str | None = None) -> int:
            if RESULTS in path.name:
                whole(path, text[:5], encoding=encoding)
                raise OSError(errno.ENOSPC, "No space left on device")
            return whole(path, text, encoding=encoding)

        monkeypatch.setattr(Path, "write_text", write_text)
        with pytest.raises(SessionError, match=r"run/results\.json: No space left .*is in .*/run$"):
            run_box(_at(tmp_path / "run"), tmp_path)
        directory = RunDirectory(tmp_path / "run")
        assert not directory.is_running()
        assert directory.read_json(RUN)["box"] == "toy"
        assert not [name for name in os.listdir(directory) if "results" in name]
        assert RingReader(directory.cpu_ring(0)).position > 100


@pytest.mark.box
@pytest.mark.timeout(90)
def test_a_file_that_may_not_grow_ends_a_real_run_in_one_line(tmp_path: Path) -> None:
    limit = 3 * SEGMENT_BYTES

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    out = tmp_path / "run"
    words = ["launch.py", "run", "xfs-aio-4k-tuned", "--for", "2s", "--no-logs", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=CHECKOUT,
        preexec_fn=limited,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    ring = re.search(r"emucpu/\d+: (\S+\.ring): File too large \(`ulimit -f`", done.stderr)
    assert ring, done.stderr
    assert "Traceback" not in done.stderr
    results = RunDirectory(out).read_json(RESULTS)
    assert results["valid"] is None
    assert 0 < results["engine"]["reached_ns"] < 2_000_000_000
    reader = RingReader(ring[1])
    assert reader.position >= 2 * ROOM_RECORDS - HEAD_BYTES // RECORD_SIZE
    assert reader.record(reader.position - 1)[0] > 0


def _use(monkeypatch: pytest.MonkeyPatch, box: Box) -> None:
    def load_box(_path: str, _overrides: Sequence[str], _seed: int, _duration: str) -> Box:
        return box

    monkeypatch.setattr(session, "load_box", load_box)


def _at(out: Path) -> Request:
    return Request("toy", engine="inline", quiet=True, parts=PARTS, out=out)


def _check(path: Path) -> None:
    directory = RunDirectory(path)
    results = directory.read_json(RESULTS)
    assert results["valid"] is None
    assert f"{path}/cpu0.ring: No space left on device" in results["error"]
    assert "Traceback" not in results["error"]
    assert 0 < results["engine"]["reached_ns"] < LONG_MS * 1_000_000
    reader = RingReader(directory.cpu_ring(0))
    assert reader.position == ROOM_RECORDS
    times = [record[0] for record in reader.records()]
    assert len(times) == ROOM_RECORDS
    assert times == sorted(times)
    assert "sched_migrate_task" in directory.cpu_log(0).read_text(encoding="utf-8")
