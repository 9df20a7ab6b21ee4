"""Tests of reading rings: pieces, columns, time, chains of causes, and a ring that grows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.trace import reader as reader_module
from emulator.trace.layout import cause_of
from emulator.trace.reader import (
    COLUMN_A,
    COLUMN_TIME,
    RingError,
    RingReader,
    cause_chain,
    follow,
    open_rings,
)
from emulator.trace.ring import MemoryRing, Ring
from emulator.tracepoints import CPU_IDLE, RECORD_SIZE, SCHED_MIGRATE_TASK, SCHED_WAKING

SEGMENT = 4096
PER_SEGMENT = SEGMENT // RECORD_SIZE


def ring_of(path: Path, segments: int = 8) -> Ring:
    """Open a ring of one-page segments."""
    return Ring(path, "cpu0", 0, segments * SEGMENT, (), SEGMENT)


def write(ring: Ring | MemoryRing, count: int, start: int = 0) -> None:
    """Write alternating events whose time and first argument count up."""
    for at in range(start, start + count):
        ring.emit(10 * at, SCHED_WAKING if at % 2 else CPU_IDLE, 0, at, 0, at)


def test_pieces_cover_a_range_in_order_across_reused_slots(tmp_path: Path) -> None:
    ring = ring_of(tmp_path / "r", segments=3)
    count = 4 * PER_SEGMENT + 7
    write(ring, count)
    reader = RingReader(tmp_path / "r")
    assert reader.first == 2 * PER_SEGMENT
    numbers = [n for piece in reader.pieces() for n in piece.column(COLUMN_A).tolist()]
    assert numbers == list(range(reader.first, count))
    assert len(list(reader.pieces())) == 2
    inner = [n for piece in reader.pieces(200, 210) for n in piece.column(COLUMN_A).tolist()]
    assert inner == list(range(200, 210))
    ring.close()


def test_pieces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "PIECE_RECORDS_MAX", 10)
    ring = MemoryRing()
    write(ring, 35)
    pieces = list(RingReader.from_memory(ring).pieces())
    assert [(piece.start, piece.length) for piece in pieces] == [
        (0, 10),
        (10, 10),
        (20, 10),
        (30, 5),
    ]


def test_columns_of_selected_events() -> None:
    ring = MemoryRing()
    write(ring, 10)
    (piece,) = RingReader.from_memory(ring).pieces(2)
    indices = piece.select((SCHED_WAKING,))
    assert indices == [1, 3, 5, 7]
    assert piece.gather(COLUMN_TIME, indices) == [30, 50, 70, 90]
    assert piece.gather(COLUMN_A, indices) == piece.gather_pids(indices) == [3, 5, 7, 9]


def test_a_time_is_found_by_bisection() -> None:
    ring = MemoryRing()
    write(ring, 100)
    reader = RingReader.from_memory(ring)
    assert reader.position_at(0) == 0
    assert reader.position_at(501) == 51
    assert reader.position_at(10**9) == 100
    assert reader.time_at(51) == 510


def test_an_empty_ring_has_no_records(tmp_path: Path) -> None:
    ring = ring_of(tmp_path / "r")
    reader = RingReader(tmp_path / "r")
    assert reader.position == reader.first == reader.position_at(5) == 0
    assert list(reader.records()) == []
    ring.close()


def test_what_is_no_ring_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("cpus=4\n" * 1000)
    with pytest.raises(RingError, match="empty file"):
        RingReader(tmp_path / "empty")
    with pytest.raises(RingError, match="not a ring"):
        RingReader(tmp_path / "text")


def test_a_ring_of_another_build_is_refused(tmp_path: Path) -> None:
    image = bytearray(MemoryRing().image())
    image[36] ^= 1  # in the schema digest
    (tmp_path / "r").write_bytes(image)
    with pytest.raises(RingError, match="another build"):
        RingReader(tmp_path / "r")


def test_the_rings_of_a_directory_come_by_number(tmp_path: Path) -> None:
    names = [("cpu10", 10), ("cpu2", 2), ("dev-sda", 12), ("coordinator", 11)]
    for name, number in names:
        Ring(tmp_path / f"{name}.ring", name, number, 8 * SEGMENT, (), SEGMENT).close()
    readers = open_rings(tmp_path)
    assert [reader.node_name for reader in readers] == ["cpu2", "cpu10", "coordinator", "dev-sda"]
    assert [reader.is_cpu for reader in readers] == [True, True, False, False]


def test_a_chain_of_causes_crosses_rings_and_ends_where_records_are_gone() -> None:
    cpu, balancer = MemoryRing("cpu0", 0), MemoryRing("coordinator", 4)
    tick = cpu.emit(10, CPU_IDLE, 0, 0, cause_of(7, 3))
    request = balancer.emit(20, SCHED_WAKING, 0, 0, cause_of(0, tick))
    cpu.emit(30, SCHED_MIGRATE_TASK, 0, 0, cause_of(4, request))
    readers = [RingReader.from_memory(ring) for ring in (cpu, balancer)]
    chain = cause_chain(readers, cause_of(0, 1))
    assert [(reader.number, record[0]) for reader, record in chain] == [(0, 30), (4, 20), (0, 10)]
    assert len(cause_chain(readers, cause_of(0, 1), limit=2)) == 2
    assert cause_chain(readers, 0) == []


def steps(*actions: Callable[[], object]) -> Callable[[], bool]:
    """Return a ``wait`` that does one action per call and then says that nothing more comes."""
    remaining = list(actions)

    def wait() -> bool:
        if not remaining:
            return False
        remaining.pop(0)()
        return True

    return wait


def test_following_holds_the_newest_record_back_until_it_is_seen_twice(tmp_path: Path) -> None:
    ring = ring_of(tmp_path / "r")
    write(ring, 3)
    wait = steps(lambda: None, lambda: write(ring, 2, 3))
    ranges = list(follow(RingReader(tmp_path / "r"), 0, wait))
    assert ranges == [(0, 2, 0), (2, 3, 0), (3, 4, 0), (4, 5, 0)]
    ring.close()


def test_following_sees_the_file_grow_and_says_what_it_missed(tmp_path: Path) -> None:
    ring = ring_of(tmp_path / "r", segments=2)
    write(ring, 1)
    wait = steps(lambda: None, lambda: write(ring, 4 * PER_SEGMENT, 1))
    ranges = list(follow(RingReader(tmp_path / "r"), 0, wait))
    end = 4 * PER_SEGMENT + 1
    first = 3 * PER_SEGMENT
    assert ranges == [(0, 1, 0), (first, first, first - 1), (first, end - 1, 0), (end - 1, end, 0)]
    ring.close()
