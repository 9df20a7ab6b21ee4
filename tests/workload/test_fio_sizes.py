"""Blocks of several sizes, against what fio itself does: its null engine and its iolog."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from emulator.config import load_box
from emulator.types import OP_RW
from emulator.workload import make_program
from emulator.workload.fio import FioProgram
from emulator.workload.fio_job import parse_sections, read_job
from emulator.workload.fio_sizes import Sizes, get_next_buflen, mark_random_map
from tests.workload.fake_kernel import FakeKernel, costs
from tests.workload.test_fio_order import BOX

#: 0 read, 1 write; offset; length.
Io = tuple[int, int, int]

KB = 1024
COMMON = "size=16m\nloops=1\n"
JOBS = [
    "rw=write\nbssplit=4k/25:16k/75",
    "rw=write\nbssplit=4k/20:16k/:64k/",
    "rw=write\nbssplit=4k/60:6k/40",  # 6k is no multiple of 4k
    "rw=write\nbsrange=4k-32k",
    "rw=read\nbsrange=512-5k",
    "rw=randwrite\nbssplit=4k/60:32k/30:128k/10",
    "rw=randread\nbsrange=4k-64k",
    "rw=randwrite\nnorandommap=1\nbssplit=8k/50:16k/50",
    "rw=randrw\nbssplit=4k/50:8k/50,16k/80:64k/20",
]


def program(tmp_path: Path, options: str) -> FioProgram:
    (tmp_path / "job.fio").write_text(
        f"[j]\nioengine=psync\ndirect=1\ndirectory=/m\n{COMMON}{options}\n"
    )
    (tmp_path / "box.yaml").write_text(BOX)
    (spec,) = load_box(tmp_path / "box.yaml").resolve().workloads
    made = make_program(spec, costs(), 1, 1000)
    assert isinstance(made, FioProgram)
    return made


def our_ios(tmp_path: Path, options: str) -> list[Io]:
    kernel = FakeKernel(program(tmp_path, options)).run(50_000)
    assert kernel.exited
    return [(op[1], op[3], op[4]) for _, op in kernel.log if op[0] == OP_RW]


def fios_ios(tmp_path: Path, options: str) -> list[Io]:
    job, log = tmp_path / "fio.fio", tmp_path / "iolog"
    job.write_text(f"[j]\nioengine=null\n{COMMON}{options}\nwrite_iolog={log}\n")
    subprocess.run(["fio", str(job)], capture_output=True, check=True, cwd=tmp_path, timeout=60)
    lines = [line.split() for line in log.read_text().splitlines()]
    return [
        (int(words[2] == "write"), int(words[3]), int(words[4]))
        for words in lines
        if len(words) == 5 and words[2] in ("read", "write")
    ]


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
@pytest.mark.parametrize("options", JOBS)
def test_sizes_are_as_frequent_as_fios(tmp_path: Path, options: str) -> None:
    theirs, ours = fios_ios(tmp_path, options), our_ios(tmp_path, options)
    for way in (0, 1):
        lengths = [Counter(length for rw, _, length in ios if rw == way) for ios in (theirs, ours)]
        counts = [found.total() for found in lengths]
        assert bool(counts[0]) == bool(counts[1])
        if not counts[0]:
            continue
        # Frequent sizes are the same ones, each as likely; five deviations of two samples.
        for length in {length for found in lengths for length in found}:
            shares = [found[length] / count for found, count in zip(lengths, counts, strict=True)]
            share = sum(shares) / 2
            deviation = (share * (1 - share) * (1 / counts[0] + 1 / counts[1])) ** 0.5
            assert abs(shares[0] - shares[1]) <= 5 * deviation, (way, length, shares)


@pytest.mark.parametrize("options", [job for job in JOBS if "norandommap" not in job])
def test_a_pass_visits_every_byte_once(tmp_path: Path, options: str) -> None:
    ios = our_ios(tmp_path, options)
    total = sum(length for _, _, length in ios)
    if "randrw" in options:
        # Two maps, as the smallest blocks differ: each visits a part, and the last IO may go beyond.
        assert 0 <= total - 16 * KB * KB < 64 * KB
        return
    assert total == 16 * KB * KB
    ends = 0
    for _, offset, length in sorted(ios, key=lambda io: io[1]):
        assert offset == ends
        ends = offset + length


def test_a_job_goes_on_as_it_was_packed(tmp_path: Path) -> None:
    options = "rw=randrw\nbssplit=4k/50:8k/50,4k/80:64k/20"
    whole = our_ios(tmp_path, options)
    begun = program(tmp_path, options)
    kernel = FakeKernel(begun).run(10)
    first = [(op[1], op[3], op[4]) for _, op in kernel.log if op[0] == OP_RW]
    assert first == whole[: len(first)]
    assert 0 < len(first) < len(whole)
    resumed = FioProgram.unpack(begun.pack())
    resumed.measure_in(begun.account.books)
    kernel.program = resumed
    kernel.run(50_000)
    assert [(op[1], op[3], op[4]) for _, op in kernel.log if op[0] == OP_RW] == whole
    books = resumed.books()
    assert books["read"]["bytes"] == sum(length for rw, _, length in whole if rw == 0)
    assert books["write"]["bytes"] == sum(length for rw, _, length in whole if rw == 1)


def drawn(sizes: Sizes, room: int, count: int) -> Counter[int]:
    found: Counter[int] = Counter()
    state = 1
    for _ in range(count):
        state, length = get_next_buflen(sizes, room, state)
        found[length] += 1
    return found


def test_only_what_fits_is_drawn() -> None:
    split = [[64 * KB, 10], [32 * KB, 30], [4 * KB, 60]]
    assert set(drawn(split, 64 * KB, 2000)) == {4 * KB, 32 * KB, 64 * KB}
    assert set(drawn(split, 63 * KB, 2000)) == {4 * KB, 32 * KB}
    assert set(drawn(split, 4 * KB, 2000)) == {4 * KB}
    assert set(drawn([[4 * KB, 0], [16 * KB, 0]], 12 * KB, 2000)) == {4 * KB, 8 * KB, 12 * KB}


def test_an_io_ends_where_the_pass_has_been() -> None:
    visited = bytearray(8)
    assert mark_random_map(visited, 3, 4096, 4096) == 4096
    assert mark_random_map(visited, 1, 16384, 4096) == 8192
    assert list(visited) == [0, 1, 1, 1, 0, 0, 0, 0]
    assert mark_random_map(visited, 6, 6144, 4096) == 6144  # part of the second block
    assert mark_random_map(visited, 4, 65536, 4096) == 8192
    assert list(visited) == [0, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("bssplit=4k/50:8k/40", "make 90, not 100"),
        ("bssplit=4k/50:8k/60", "make 110, not 100"),
        ("bssplit=4k/100:8k", "nothing is left of 100 %"),
        ("bssplit=4k/0:8k", "outside 1..100"),
        ("bsrange=4k", "no range such as 4k-64k"),
        ("bsrange=8k-4k", "ends before it begins"),
        ("bsrange=100-4k", "100 is not a multiple of 512"),
        ("bssplit=4k/50:8k/50\nbsrange=4k-8k", "exclude each other"),
        ("bssplit=4k/50:8k/50\nverify=md5", "verify together with bssplit"),
        ("bsrange=4k-8k\nwrite_bw_log=x", "several sizes is not emulated"),
        ("bsrange=4k-8k\nsize=10k", "10240 is not a multiple of bs=4096"),
    ],
)
def test_what_no_author_can_have_meant_is_refused(option: str, message: str) -> None:
    text = f"[j]\nioengine=libaio\ndirect=1\nrw=randwrite\nsize=1m\n{option}\n"
    sections, problems = parse_sections(text)
    assert not problems
    found = read_job(sections[0])[1]
    assert [problem for problem in found if message in problem.message], found


def test_rate_iops_counts_the_smallest_block(tmp_path: Path) -> None:
    job = program(tmp_path, "rw=write\nbssplit=4k/50:64k/50\nrate_iops=100").job
    assert (job.rate_write, job.write_bs) == (100 * 4096, 4096)
