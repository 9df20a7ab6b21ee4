"""The progress line: what it counts in the rings, what it shows, when it stays silent."""

import io
from pathlib import Path

from rich.console import Console

from emulator.progress import LOOK_INTERVAL_NS, ProgressLine, RingCounts
from emulator.trace.ring import Ring
from emulator.tracepoints import BOX_AIO_COMPLETE, SCHED_MIGRATE_TASK
from emulator.types import NSEC_PER_MSEC, NSEC_PER_SEC
from tests.toybox import toy_box

FIO, OTHER = 100, 200


def _ring(directory: Path, cpu: int) -> Ring:
    ring = Ring(directory / f"cpu{cpu}.ring", f"cpu{cpu}", cpu)
    ring.comm(FIO, "fio")
    ring.comm(OTHER, "rcu_sched")
    return ring


def _ios(ring: Ring, count: int) -> None:
    for _ in range(count):
        ring.emit(NSEC_PER_MSEC, BOX_AIO_COMPLETE, 0, FIO, 0, FIO)


def test_only_the_submitters_migrations_count(tmp_path: Path) -> None:
    counts = RingCounts(tmp_path, 1, frozenset({"fio"}))
    ring = _ring(tmp_path, 0)
    for pid in (FIO, OTHER, FIO, OTHER):
        ring.emit(NSEC_PER_MSEC, SCHED_MIGRATE_TASK, 0, pid, 0, pid)
    _ios(ring, 1)  # the newest record is left for the next look
    counts.look()
    assert (counts.ios, counts.migrations) == (0, 2)


def test_nothing_is_counted_twice_and_late_rings_are_found(tmp_path: Path) -> None:
    counts = RingCounts(tmp_path, 2, frozenset({"fio"}))
    counts.look()
    assert counts.ios == 0
    first = _ring(tmp_path, 0)
    _ios(first, 11)
    counts.look()
    counts.look()
    assert counts.ios == 10
    _ios(first, 40_000)  # over several segments
    _ios(_ring(tmp_path, 1), 6)
    counts.look()
    assert counts.ios == 40_010 + 5


def _shown(directory: Path, *, terminal: bool, shown: bool = True) -> str:
    ring = _ring(directory, 0)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with ProgressLine(toy_box(duration_ms=2000).resolve(), directory, console, shown) as line:
        line.update(NSEC_PER_SEC, 0)
        _ios(ring, 1001)
        line.update(NSEC_PER_SEC + LOOK_INTERVAL_NS, 100 * NSEC_PER_MSEC, "emucpu/1")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_line_says_how_far_how_fast_and_who_is_waited_for(tmp_path: Path) -> None:
    text = _shown(tmp_path, terminal=True)
    assert "0.10 of 2 s" in text
    assert "0.40x" in text
    assert "10,000 IOPS" in text
    assert "0 migrations" in text
    assert "waiting for emucpu/1" in text


def test_a_file_or_a_quiet_run_shows_no_line(tmp_path: Path) -> None:
    assert _shown(tmp_path, terminal=False) == ""
    assert _shown(tmp_path, terminal=True, shown=False) == ""
