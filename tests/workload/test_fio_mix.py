"""Jobs that mix directions, use several files, keep a rate, sync, or wait for each other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import wire
from emulator.types import (
    NSEC_PER_MSEC,
    NSEC_PER_SEC,
    OP_EXEC,
    OP_EXIT,
    OP_FSYNC,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_PIPE_READ,
    OP_PIPE_WRITE,
    OP_RUN,
    OP_RW,
    OP_SLEEP,
    OP_URING_ENTER,
    OP_URING_REAP,
    READ,
    WRITE,
    Books,
)
from emulator.workload.fio import FioProgram
from emulator.workload.params import Setting
from tests.workload.fake_kernel import FakeKernel, costs

US, MS = 1_000, NSEC_PER_MSEC
BLOCKS = 64


def job(seed: int = 1, **params: Any) -> FioProgram:
    """Return a job of 4 KiB random IO over 64 blocks unless something else is said."""
    option = {"rw": "randrw", "bs": 4096, "size": BLOCKS * 4096, "iodepth": 4} | params
    return FioProgram.make(option, Setting(costs(syscall_ns=200), seed, 1000))


def finished(program: FioProgram, device_ns: int = 1_000, **given: Any) -> FakeKernel:
    kernel = FakeKernel(program, device_ns=device_ns, **given).run(100_000)
    assert kernel.exited
    assert not kernel.outstanding
    return kernel


def endless(program: FioProgram, ios: int, **given: Any) -> FakeKernel:
    kernel = FakeKernel(program, **{"device_ns": 1_000, **given})
    while len(kernel.iocbs) < ios:
        kernel.step()
    return kernel


def test_a_mixed_job_visits_the_file_once_reads_and_writes_together() -> None:
    program = job()
    kernel = finished(program)
    assert sorted(iocb[3] // 4096 for iocb in kernel.iocbs) == list(range(BLOCKS))
    books = program.books()
    assert books["read"]["ios"] + books["write"]["ios"] == BLOCKS
    assert books["read"]["ios"] == sum(iocb[1] == READ for iocb in kernel.iocbs) > 0
    assert books["read"]["slat_ns"]["n"] == books["read"]["ios"]


@given(mix=st.integers(0, 100), seed=st.integers(0, 9), hundreds=st.integers(1, 6))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_a_mix_hits_its_ratio_exactly(mix: int, seed: int, hundreds: int) -> None:
    program = job(seed, read_mix=mix, time_based=True, iodepth=1)
    kernel = endless(program, 100 * hundreds)
    reads = [iocb[1] for iocb in kernel.iocbs[: 100 * hundreds]].count(READ)
    assert reads == mix * hundreds


def test_each_direction_of_a_sequential_mix_goes_its_own_way() -> None:
    kernel = finished(job(rw="rw", read_mix=30))
    for rw in (READ, WRITE):
        offsets = [iocb[3] for iocb in kernel.iocbs if iocb[1] == rw]
        assert offsets == [index * 4096 for index in range(len(offsets))]
        assert offsets


@given(
    rw=st.sampled_from(["rw", "randrw", "randwrite", "read"]),
    sizes=st.sampled_from([(4096, 4096), (4096, 8192), (8192, 512)]),
    starts=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    service=st.sampled_from(["roundrobin", "random", "sequential"]),
    service_nr=st.integers(1, 3),
    random_map=st.booleans(),
    io_size=st.sampled_from([0, 10 * 4096, 500 * 4096]),
    seed=st.integers(0, 5),
)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_offsets_stay_in_the_jobs_part_of_its_files(
    rw: str,
    sizes: tuple[int, int],
    starts: list[int],
    service: str,
    service_nr: int,
    random_map: bool,
    io_size: int,
    seed: int,
) -> None:
    files = [[10 + index, start * 8192, 8 * 8192] for index, start in enumerate(starts)]
    program = job(
        seed,
        rw=rw,
        bs=sizes[0],
        write_bs=sizes[1],
        size=8 * 8192,
        files=files,
        service=service,
        service_nr=service_nr,
        random_map=random_map,
        io_size=io_size,
    )
    kernel = finished(program)
    ends = {file: (start, start + size) for file, start, size in files}
    for _, direction, file, offset, length in kernel.iocbs:
        assert length == sizes[direction]
        begin, end = ends[file]
        assert begin <= offset <= end - length
        assert not (offset - begin) % length
    moved = sum(iocb[4] for iocb in kernel.iocbs)
    wanted = io_size or len(files) * 8 * 8192
    assert wanted <= moved < wanted + len(files) * max(sizes)


@pytest.mark.parametrize(
    ("service", "nr", "order"),
    [
        ("roundrobin", 1, [1, 2, 3, 1, 2, 3]),
        ("roundrobin", 2, [1, 1, 2, 2, 3, 3]),
        ("sequential", 1, [1] * 6),
    ],
)
def test_file_service(service: str, nr: int, order: list[int]) -> None:
    files = [[number, 0, 8 * 4096] for number in (1, 2, 3)]
    program = job(rw="write", size=8 * 4096, files=files, service=service, service_nr=nr)
    kernel = finished(program)
    assert [iocb[2] for iocb in kernel.iocbs[:6]] == order
    assert sorted((iocb[2], iocb[3]) for iocb in kernel.iocbs) == [
        (file, block * 4096) for file in (1, 2, 3) for block in range(8)
    ]


def test_fewer_and_more_than_the_file() -> None:
    assert len(finished(job(number_ios=10, time_based=True)).iocbs) == 10
    assert len(finished(job(io_size=10 * 4096)).iocbs) == 10
    assert len(finished(job(io_size=100 * 4096)).iocbs) == 100
    assert len(finished(job(loops=3)).iocbs) == 3 * BLOCKS
    assert len(finished(job(rw="randwrite", loops=3)).iocbs) == 3 * BLOCKS


def test_a_rate_is_kept_and_the_queue_runs_dry_before_each_sleep() -> None:
    # 1000 IOs a second: one is due each ms, and it takes 10 us.
    program = job(rw="randread", rate_read=1000 * 4096, time_based=True)
    kernel = endless(program, 50, device_ns=10 * US)
    submits = [when for when, op in kernel.log if op[0] == OP_IO_SUBMIT]
    assert submits[:50] == [index * MS for index in range(50)]
    sleeps = [when for when, op in kernel.log if op[0] == OP_SLEEP]
    assert all(when == done + 10 * US for when, done in zip(sleeps, submits, strict=False))


def test_a_slow_device_makes_a_rated_job_catch_up() -> None:
    program = job(rw="randwrite", rate_write=1000 * 4096, time_based=True, iodepth=1)
    kernel = FakeKernel(program, device_ns=5 * MS)
    while len(kernel.iocbs) < 3:
        kernel.step()
    kernel.device_ns = 100 * US
    while len(kernel.iocbs) < 40:
        kernel.step()
    submits = [when for when, op in kernel.log if op[0] == OP_IO_SUBMIT]
    assert submits[3] == 15 * MS  # behind its rate: at once
    assert submits[4] - submits[3] == 100 * US
    assert submits[-1] == 39 * MS  # back on it


def test_a_direction_ahead_of_its_rate_lets_the_other_go() -> None:
    program = job(rate_read=100 * 4096, rate_write=300 * 4096, time_based=True, iodepth=1)
    kernel = FakeKernel(program, device_ns=10 * US)
    while kernel.now_ns < NSEC_PER_SEC:
        kernel.step()
    counts = [sum(iocb[1] == rw for iocb in kernel.iocbs) for rw in (READ, WRITE)]
    assert abs(counts[READ] - 100) <= 1
    assert abs(counts[WRITE] - 300) <= 1


def test_a_sync_comes_after_every_nth_write_and_before_anything_else() -> None:
    program = job(rw="write", fsync=8, iodepth=4)
    kernel = finished(program, fsync_ns=500 * US)
    ops = [op for _, op in kernel.log if op[0] in (OP_IO_SUBMIT, OP_FSYNC)]
    syncs = [index for index, op in enumerate(ops) if op[0] == OP_FSYNC]
    assert syncs == [8, 17, 26, 35, 44, 53, 62]  # none once all is written
    assert {op for op in ops if op[0] == OP_FSYNC} == {(OP_FSYNC, 0, 0)}
    books = program.books()["sync"]
    assert (books["ios"], books["lat_ns"]["min"], books["lat_ns"]["max"]) == (7, 500 * US, 500 * US)


def test_what_is_queued_goes_out_before_a_sync() -> None:
    program = job(rw="write", fdatasync=3, iodepth=8, batch_submit=8)
    kernel = finished(program)
    ops = [op for _, op in kernel.log if op[0] in (OP_IO_SUBMIT, OP_FSYNC)]
    assert [len(op[1]) if op[0] == OP_IO_SUBMIT else op[2] for op in ops[:4]] == [3, 1, 3, 1]


def test_reads_are_not_synced() -> None:
    kernel = finished(job(read_mix=80, fsync=1, iodepth=1))
    writes = sum(iocb[1] == WRITE for iocb in kernel.iocbs)
    last_writes = kernel.iocbs[-1][1] == WRITE
    assert len(kernel.calls(OP_FSYNC)) == writes - last_writes


def test_end_fsync_syncs_each_file_once_everything_is_written() -> None:
    files = [[number, 0, 4 * 4096] for number in (7, 8)]
    kernel = finished(job(rw="write", size=4 * 4096, files=files, end_fsync=True))
    assert [op for _, op in kernel.log[-3:]] == [(OP_FSYNC, 7, 0), (OP_FSYNC, 8, 0), (OP_EXIT,)]
    assert len(kernel.calls(OP_FSYNC)) == 2
    plain = finished(job(rw="randwrite", end_fsync=True))
    assert [op[0] for _, op in plain.log[-2:]] == [OP_FSYNC, OP_EXIT]
    assert not finished(job(rw="randread", end_fsync=True)).calls(OP_FSYNC)


def test_a_job_waits_for_others_and_tells_others() -> None:
    program = job(rw="randwrite", reads=[3, 5], writes=[7, 8])
    kernel = FakeKernel(program, device_ns=10)
    kernel.now_ns = 3 * MS
    while not kernel.exited:
        kernel.step()
    begin = [op for _, op in kernel.log[:4]]
    assert begin == [(OP_PIPE_READ, 3), (OP_PIPE_READ, 5), (OP_SLEEP, 10 * MS), (OP_EXEC,)]
    assert kernel.log[4][1][0] == OP_RUN
    assert program.books()["begin_ns"] == 10 * MS
    assert [op[:2] for _, op in kernel.log[-3:-1]] == [(OP_PIPE_WRITE, 7), (OP_PIPE_WRITE, 8)]


def test_thinktime_by_issues_and_by_time() -> None:
    think: dict[str, Any] = {"thinktime_ns": 100 * US, "time_based": True, "rw": "randwrite"}
    kernel = endless(job(**think, thinktime_blocks=4, thinktime_issued=True, iodepth=8), 16)
    sleeps = [index for index, (_, op) in enumerate(kernel.log) if op[0] == OP_SLEEP]
    before = [op for _, op in kernel.log[: sleeps[0]]]
    assert sum(op[0] == OP_IO_SUBMIT for op in before) == 4
    program = job(**think, thinktime_iotime_ns=MS, thinktime_blocks_set=False, iodepth=1)
    kernel = endless(program, 100, device_ns=100 * US)
    thoughts = [when for when, op in kernel.log if op[0] == OP_SLEEP]
    assert thoughts[0] == MS
    assert {later - sooner for sooner, later in pairwise(thoughts)} == {MS + 100 * US}


def test_the_sync_engine_seeks_where_it_does_not_go_on() -> None:
    def runs(rw: str, ioengine: str) -> set[int]:
        program = FioProgram.make(
            {"rw": rw, "size": 16 * 4096, "ioengine": ioengine},
            Setting(costs(syscall_ns=200, fio_prep_ns=1000), 1, 1000),
        )
        kernel = finished(program)
        assert len(kernel.calls(OP_RW)) == 16
        return {op[1] for _, op in kernel.calls(OP_RUN)}

    assert runs("read", "sync") == runs("read", "psync") == {1000}
    assert runs("randread", "psync") == {1000}
    assert 1200 in runs("randread", "sync")


def test_io_uring_submits_and_reaps_through_its_ring() -> None:
    program = job(rw="randwrite", ioengine="io_uring")
    kernel = finished(program)
    assert len(kernel.calls(OP_URING_ENTER)) == BLOCKS
    assert kernel.calls(OP_URING_REAP)
    assert not kernel.calls(OP_IO_SUBMIT, OP_IO_GETEVENTS)
    assert program.aio_events == 0


RICH: dict[str, dict[str, Any]] = {
    "mix": {"read_mix": 30, "write_bs": 8192, "time_based": True, "iodepth": 8},
    "files": {"files": [[1, 0, 64 * 4096], [2, 4096, 64 * 4096]], "service": "random", "fsync": 3},
    "rate": {"rate_read": 5000 * 4096, "rate_write": 1000 * 4096, "time_based": True},
    "sync": {"ioengine": "sync", "rw": "rw", "fdatasync": 2, "loops": 4, "end_fsync": True},
    "think": {"thinktime_ns": 50 * US, "thinktime_iotime_ns": MS, "time_based": True},
    "waits": {"reads": [1], "writes": [2], "rw": "randwrite", "loops": 2},
}


@pytest.mark.parametrize("name", RICH)
def test_packed_at_every_step_it_goes_on_identically(name: str) -> None:
    straight, packed = job(**RICH[name]), job(**RICH[name])
    one = FakeKernel(straight, device_ns=30 * US, submit_ns=US, fsync_ns=MS)
    other = FakeKernel(packed, device_ns=30 * US, submit_ns=US, fsync_ns=MS)
    kept: Books | None = None
    for _ in range(700):
        program = FioProgram.unpack(wire.unpack(wire.pack(other.program.pack())))
        kept = program.measure_in(kept)
        other.program = program
        one.step()
        other.step()
        assert one.log[-1] == other.log[-1]
        if one.exited:
            break
    assert isinstance(other.program, FioProgram)
    assert other.program.books() == straight.books()
    assert straight.books()["completed"] > 0
