"""Tests of the ring file: what is in it after a run, after a SIGKILL, after a rebuild."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emulator.trace.layout import HEAD_BYTES, cause_of, split_cause
from emulator.trace.reader import RingReader
from emulator.trace.ring import MemoryRing, NullRing, Ring
from emulator.tracepoints import CPU_IDLE, RECORD_SIZE, SCHED_SWITCH, SCHED_WAKING

SEGMENT = 4096
PER_SEGMENT = SEGMENT // RECORD_SIZE


def small_ring(path: Path, segments: int = 4, *, again: bool = False) -> Ring:
    """Open a ring of a few one-page segments."""
    make = Ring.reopen if again else Ring
    return make(path, "cpu1", 1, segments * SEGMENT, (), SEGMENT)


def fill(ring: Ring | MemoryRing | NullRing, count: int, start: int = 0) -> None:
    """Write records that differ from each other in time and in every argument."""
    for at in range(start, start + count):
        ring.emit(1000 * at, SCHED_SWITCH, at & 0xF, at, at, -at, at + 1, at + 2, at + 3, at + 4)


def test_positions_count_records_from_the_beginning(tmp_path: Path) -> None:
    ring = small_ring(tmp_path / "r")
    assert [ring.emit(5, CPU_IDLE, 0, 0, 0) for _ in range(3)] == [0, 1, 2]
    assert ring.position == 3
    ring.close()


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    ring = small_ring(tmp_path / "r")
    big = (1 << 62) + 5
    ring.emit(big, SCHED_WAKING, 9, 0xFFFFFFFF, (1 << 63) + 1, -1, -big, 3, 4, 5)
    ring.close()
    record = RingReader(tmp_path / "r").record(0)
    assert record == (big, SCHED_WAKING, 9, 0, 0xFFFFFFFF, (1 << 63) + 1, -1, -big, 3, 4, 5)


def test_an_event_switched_off_leaves_nothing(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "r", "cpu0", 0, trace_off=("sched_waking",))
    assert not ring.enabled[SCHED_WAKING]
    assert ring.enabled[SCHED_SWITCH]
    assert ring.emit(1, SCHED_WAKING, 0, 0, 0) == -1
    assert ring.emit(1, SCHED_SWITCH, 0, 0, 0) == 0
    ring.close()


def test_an_unknown_event_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'sched_nap' is not a tracepoint"):
        Ring(tmp_path / "r", "cpu0", 0, trace_off=("sched_nap",))


def test_the_file_grows_by_segments_and_stays_at_its_maximum(tmp_path: Path) -> None:
    ring = small_ring(tmp_path / "r", segments=3)
    assert os.path.getsize(ring.path) == HEAD_BYTES
    sizes = []
    for _ in range(5):
        fill(ring, PER_SEGMENT)
        sizes.append((os.path.getsize(ring.path) - HEAD_BYTES) // SEGMENT)
    assert sizes == [1, 2, 3, 3, 3]
    assert ring.lost == 2 * PER_SEGMENT
    ring.close()


def test_the_oldest_segments_go_and_the_loss_is_counted(tmp_path: Path) -> None:
    ring = small_ring(tmp_path / "r", segments=3)
    whole = MemoryRing("cpu1", 1)
    count = 6 * PER_SEGMENT + 5
    fill(ring, count)
    fill(whole, count)
    reader = RingReader(tmp_path / "r")
    assert (reader.first, reader.position) == (4 * PER_SEGMENT, count)
    assert reader.lost == ring.lost == 4 * PER_SEGMENT
    assert reader.bytes() == whole.bytes()[reader.first * RECORD_SIZE :]
    ring.close()


def test_equal_runs_leave_equal_files_whether_closed_or_not(tmp_path: Path) -> None:
    rings = [small_ring(tmp_path / name) for name in ("a", "b")]
    for ring in rings:
        ring.comm(300, "fio")
        fill(ring, PER_SEGMENT + 3)
    rings[0].close()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    rings[1].close()


def test_a_memory_ring_has_the_same_image_as_a_file(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "r", "cpu1", 1, 1 << 30, (), SEGMENT)
    memory = MemoryRing("cpu1", 1)
    for one in (ring, memory):
        one.comm(300, "fio")
        one.intern("WS")
        fill(one, 2 * PER_SEGMENT + 1)
    assert (tmp_path / "r").read_bytes() == memory.image(SEGMENT)
    ring.close()


@given(
    counts=st.lists(st.integers(0, 3 * PER_SEGMENT), min_size=1, max_size=4),
    back=st.integers(0, 5 * PER_SEGMENT),
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_rebuilt_node_writes_the_same_bytes_again(
    tmp_path: Path, counts: list[int], back: int
) -> None:
    undisturbed = small_ring(tmp_path / "a")
    ring = small_ring(tmp_path / "b")
    for count in counts:
        fill(undisturbed, count, undisturbed.position)
        fill(ring, count, ring.position)
        position = max(ring.lost, ring.position - back)
        again, end = small_ring(tmp_path / "b", again=True), ring.position
        ring.close()
        assert again.position == end
        again.truncate_to(position)
        assert RingReader(tmp_path / "b").position == position
        fill(again, end - position, position)
        ring = again
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    undisturbed.close()
    ring.close()


def test_truncation_forgets_later_names(tmp_path: Path) -> None:
    ring = small_ring(tmp_path / "r")
    fill(ring, 2)
    ring.intern("kept")
    fill(ring, 2, 2)
    ring.intern("dropped")
    ring.truncate_to(2)
    assert RingReader(tmp_path / "r").names[2:] == ["kept"]
    assert ring.intern("new") == 3
    ring.close()


def test_a_ring_begun_otherwise_is_refused(tmp_path: Path) -> None:
    small_ring(tmp_path / "r").close()
    with pytest.raises(ValueError, match="not the ring that cpu2 began"):
        Ring.reopen(tmp_path / "r", "cpu2", 2, 4 * SEGMENT, (), SEGMENT)
    with pytest.raises(OSError, match="missing"):
        Ring.reopen(tmp_path / "missing", "cpu2", 2)


def test_causes_name_a_ring_and_a_position() -> None:
    assert cause_of(0, 0) == 1
    assert split_cause(cause_of(9, 123)) == (9, 123)
    assert split_cause(0) == (0, -1)


def test_a_null_ring_counts_as_the_others_do() -> None:
    ring = NullRing(trace_off=("cpu_idle",))
    fill(ring, 3)
    assert ring.emit(9, CPU_IDLE, 0, 0, 0) == -1
    assert ring.emit(9, SCHED_WAKING, 0, 0, 0) == 3
    ring.truncate_to(1)
    assert ring.position == 1
    assert ring.intern("a") == ring.intern("a") == 2


KILLED_WRITER = """
import os, signal, sys
from emulator.trace.ring import Ring
from emulator.tracepoints import SCHED_SWITCH
ring = Ring(sys.argv[1], "cpu0", 0)
ring.comm(300, "fio")
for at in range(40_000):
    ring.emit(at, SCHED_SWITCH, 0, 300, 0, at)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.box
@pytest.mark.timeout(30)
def test_nothing_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "cpu0.ring"
    writer = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], check=False)
    assert writer.returncode == -signal.SIGKILL
    reader = RingReader(path)
    assert reader.position == 40_000
    assert [record[6] for record in reader.records(39_990)] == list(range(39_990, 40_000))
    assert reader.comms == {300: "fio"}
