"""Block events as blktrace writes them: byte for byte, and held against the ring of a whole run."""

import shutil
import subprocess
from pathlib import Path
from struct import unpack_from

import pytest

from emulator.attach import write_blktrace
from emulator.config import load_box
from emulator.report.blktrace import RECORD, categories, write_traces
from emulator.session import Request, run_box
from emulator.trace.reader import open_rings
from emulator.trace.ring import MemoryRing
from emulator.tracepoints import BLOCK_RQ_COMPLETE, BLOCK_RQ_INSERT, BLOCK_RQ_ISSUE
from tests.report.rings import readers_of

FIO = 10_000
SDA = 8 << 20
EVENTS = (BLOCK_RQ_INSERT, BLOCK_RQ_ISSUE, BLOCK_RQ_COMPLETE)


def fields_of(data: bytes) -> list[tuple[int, ...]]:
    """Return the records of a file, without the names that belong to some."""
    found: list[tuple[int, ...]] = []
    at = 0
    while at < len(data):
        found.append(unpack_from("=IIQQIIIIIHH", data, at))
        at += RECORD.size + found[-1][-1]
    return found


def test_records_to_the_byte(tmp_path: Path) -> None:
    rings = [MemoryRing(f"cpu{cpu}", cpu) for cpu in range(2)]
    rings[0].comm(FIO, "fio")
    name = rings[0].intern("WS")
    rings[0].emit(1000, BLOCK_RQ_INSERT, 0, FIO, 0, SDA, name, 64, 8, 4096)
    rings[0].emit(2000, BLOCK_RQ_ISSUE, 0, FIO, 0, SDA, name, 64, 8, 4096)
    rings[1].emit(45_000, BLOCK_RQ_COMPLETE, 0, 0, 0, SDA, rings[1].intern("WS"), 64, 8, -5)
    spec = load_box("xfs-aio-4k-tuned", ("machine.cpus=2",)).resolve()
    names = write_traces(spec, readers_of(rings), tmp_path / "new")
    assert names == ["sda.blktrace.0", "sda.blktrace.1"]
    first, second = ((tmp_path / "new" / name).read_bytes() for name in names)
    assert RECORD.size == 48
    magic = 0x65617407
    write_sync = 0b1010 << 16
    assert fields_of(first) == [
        (magic, 1, 1000, 0, 0, 1 << 26, FIO, SDA, 0, 0, 16),
        (magic, 2, 1000, 64, 4096, 1 | 1 << 20 | write_sync, FIO, SDA, 0, 0, 0),
        (magic, 3, 1000, 64, 4096, 4 | 1 << 20 | write_sync, FIO, SDA, 0, 0, 0),
        (magic, 4, 1000, 64, 4096, 12 | 1 << 20 | write_sync, FIO, SDA, 0, 0, 0),
        (magic, 5, 2000, 64, 4096, 7 | 1 << 22 | write_sync, FIO, SDA, 0, 0, 0),
    ]
    assert first[48:64] == b"fio".ljust(16, b"\0")
    assert fields_of(second) == [
        (magic, 1, 45_000, 64, 4096, 8 | 1 << 23 | write_sync, 0, SDA, 1, 0xFFFB, 0)
    ]


@pytest.mark.parametrize(
    ("rwbs", "bits"),
    [
        ("R", 0b1),
        ("W", 0b10),
        ("WS", 0b1010),
        ("FF", 0b100),
        ("WFSM", 1 << 15 | 1 << 12 | 0b1010),
        ("FWS", 0b1110),
    ],
)
def test_categories(rwbs: str, bits: int) -> None:
    assert categories(rwbs) == bits


def test_a_runs_files_have_what_its_rings_have(tmp_path: Path) -> None:
    request = Request(
        "xfs-aio-4k-tuned", ("warmup=10ms",), duration="50ms", engine="inline", quiet=True
    )
    run_box(request, tmp_path)
    names = write_blktrace("latest", tmp_path / "traces", tmp_path)
    assert len(names) == 8
    total = 0
    for reader, name in zip(open_rings(tmp_path / "latest"), names, strict=False):
        found = fields_of((tmp_path / "traces" / name).read_bytes())
        assert [one[1] for one in found] == list(range(1, len(found) + 1))
        count = sum(len(piece.select(EVENTS)) for piece in reader.pieces())
        told = [one for one in found if not one[-1]]
        assert len([one for one in told if one[5] & 0xFFFF not in (1, 4)]) == count
        total += len(told)
    assert total > 1000
    if shutil.which("blkparse"):
        words = ["blkparse", "-D", str(tmp_path / "traces"), "-i", "sda"]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        assert f"Events (sda): {total} entries" in done.stdout
        assert "Skips: 0 forward" in done.stdout
