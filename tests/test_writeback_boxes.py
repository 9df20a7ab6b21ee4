"""Buffered writes through box files: what is dirty is written, once, by whom and when E says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emulator import engines
from emulator import tracepoints as tp
from emulator.config import BoxError, load_box
from emulator.report.procfs.files import read_file
from emulator.report.procfs.view import View
from emulator.trace.layout import Record
from emulator.trace.reader import RingReader, open_rings
from emulator.workload.tally import Tally

MS = 1_000_000
NR_CPUS = 2
BOX = """\
description: a writer
duration: {duration}
machine: {{cpus: 2, memory: 64M}}
kernel:
  sysctl: {{{sysctl}}}
disks:
  sda: {{driver: scsi_debug, ndelay: {ndelay}, max_queue: 32, dev_size_mb: 256}}
filesystems:
  /mnt: {{disk: sda}}
workloads:
  - program: writer
    figure: true
    start: 0ms
    params: {{{params}}}
{more}
"""


class Run:
    """A run of a box, and what it left."""

    def __init__(
        self,
        place: Path,
        params: str,
        duration: str = "300ms",
        sysctl: str = "",
        ndelay: str = "200us",
        more: str = "",
    ) -> None:
        file = place / "writer.yaml"
        file.write_text(
            BOX.format(params=params, duration=duration, sysctl=sysctl, ndelay=ndelay, more=more)
        )
        self.spec = load_box(file).resolve()
        self.rings = place / "rings"
        self.rings.mkdir()
        job = engines.Job(self.spec, self.rings, lambda _ns, _who="": True)
        outcome = engines.run(engines.INLINE, job)
        assert (outcome.status, outcome.error) == (0, "")
        self.books = outcome.books

    def records(self, event: int) -> list[Record]:
        """Return the records of an event, in order of time."""
        readers = [RingReader(self.rings / f"cpu{cpu}.ring") for cpu in range(NR_CPUS)]
        return sorted(r for reader in readers for r in reader.records() if r[1] == event)

    def vmstat(self, at_ns: int) -> dict[str, int]:
        """Return ``/proc/vmstat`` as of an instant."""
        view = View(self.spec, open_rings(self.rings), at_ns)
        lines = read_file(view, "/proc/vmstat").splitlines()
        return {name: int(value) for name, value in map(str.split, lines)}

    def counter(self, name: str) -> int:
        """Return a counter, of all CPUs."""
        return sum(int(book.get("counters", {}).get(name, 0)) for book in self.books.values())


def args(record: Record) -> tuple[Any, ...]:
    """Return the arguments of a record."""
    return record[6:]


def test_fsync_leaves_no_page_dirty_and_writes_each_once(tmp_path: Path) -> None:
    run = Run(tmp_path, "size: 1M, bs: 16k, passes: 1, fsync_every: 64")
    assert run.vmstat(300 * MS) == {
        "nr_dirty": 0,
        "nr_writeback": 0,
        "nr_dirtied": 256,
        "nr_written": 256,
        "nr_dirty_threshold": 3276,
        "nr_dirty_background_threshold": 1636,
    }
    # The task writes them itself, one bio of a run; they end in the softirq, without a worker.
    assert [args(r)[1:] for r in run.records(tp.BOX_WRITEBACK)] == [(1, 0, 256, 1)]
    assert len(run.records(tp.BLOCK_RQ_ISSUE)) == 1
    assert not run.records(tp.WORKQUEUE_QUEUE_WORK)
    assert run.counter("cil_pushes") == 0


@pytest.mark.parametrize("layout", ["layout: hole, eof: 0", "layout: unwritten"])
def test_fsync_of_a_file_that_grows_or_is_converted_forces_the_log(
    tmp_path: Path, layout: str
) -> None:
    run = Run(tmp_path, f"{layout}, size: 1M, bs: 16k, passes: 1, fsync_every: 32")
    assert run.vmstat(300 * MS)["nr_written"] == 256
    assert run.counter("cil_pushes") == 2
    ring = RingReader(run.rings / "cpu0.ring")
    queues = [ring.names[args(r)[2]] for r in run.records(tp.WORKQUEUE_QUEUE_WORK)]
    assert [one.partition("/")[0] for one in queues if one.startswith("xfs-conv")] == [
        "xfs-conv"
    ] * 2


def test_E_5_3_the_periodic_pass_writes_what_is_old_enough(tmp_path: Path) -> None:
    sysctl = "vm.dirty_expire_centisecs: 30, vm.dirty_writeback_centisecs: 5"
    # Of a disk that has written nothing of late the background pass would take all.
    other = "  - {program: writer, start: 20ms, params: {size: 1M, bs: 1M, passes: 1}}"
    first = "size: 1M, bs: 1M, passes: 1, fsync_every: 1"
    run = Run(tmp_path, first, "500ms", sysctl, more=other)
    synced, given = run.records(tp.BOX_WRITEBACK)
    dirtied_ns = next(r[0] for r in run.records(tp.BOX_PAGE_STATE) if r[0] > 20 * MS)
    assert synced[0] < 20 * MS
    assert 300 * MS <= given[0] - dirtied_ns <= 351 * MS
    assert run.vmstat(given[0] - MS)["nr_dirty"] == 256
    assert run.vmstat(500 * MS)["nr_written"] == 512
    ring = RingReader(run.rings / "cpu0.ring")
    begun, over = run.records(tp.WRITEBACK_START)[-1], run.records(tp.WRITEBACK_WRITTEN)[-1]
    assert ring.names[args(begun)[4]] == "periodic"
    assert args(begun)[2:4] == (1, 0)
    assert args(begun)[1] - args(over)[1] == 256


def test_E_2_beyond_the_free_run_a_task_pauses_and_the_flusher_works(tmp_path: Path) -> None:
    run = Run(tmp_path, "size: 128M, bs: 64k", "200ms", ndelay="100ms")
    # The free run of 64 MiB is 2,456 pages: half way from the background limit to the other.
    states = [args(r) for r in run.records(tp.BOX_PAGE_STATE)]
    looks = [args(r) for r in run.records(tp.BALANCE_DIRTY_PAGES)]
    assert min(dirty for dirty, *_ in looks) > 2_456
    assert max(dirty + writeback for dirty, writeback, *_ in states) <= 3_276 + 32
    assert run.counter("dirty_pauses") == sum(look[4] > 0 for look in looks) > 0
    reasons = {args(r)[3] for r in run.records(tp.WRITEBACK_START)}
    assert reasons == {1}


def test_a_fio_job_writes_through_the_page_cache(tmp_path: Path) -> None:
    job = "[w]\nioengine=psync\nbuffered=1\nrw=write\nbs=8k\nsize=1m\nfsync=64\nend_fsync=1\nfallocate=none\n"
    (tmp_path / "w.fio").write_text(job)
    box = BOX.format(params="", duration="100ms", sysctl="", ndelay="200us", more="")
    (tmp_path / "box.yaml").write_text(
        box.partition("workloads:")[0] + "workloads:\n  - fio: w.fio\n"
    )
    spec = load_box(tmp_path / "box.yaml").resolve()
    outcome = engines.run(engines.INLINE, engines.Job(spec, tmp_path, lambda _ns, _who="": True))
    assert (outcome.status, outcome.error) == (0, "")
    lines = read_file(View(spec, open_rings(tmp_path), 100 * MS), "/proc/vmstat").splitlines()
    assert lines[:4] == ["nr_dirty 0", "nr_writeback 0", "nr_dirtied 256", "nr_written 256"]
    counters = [book.get("counters", {}) for book in outcome.books.values()]
    assert sum(one.get("cil_pushes", 0) for one in counters) == 2  # it becomes longer


def test_E_3_sync_is_a_work_of_the_flusher_and_waits_for_it(tmp_path: Path) -> None:
    other = "  - {program: writer, params: {size: 256k, bs: 64k, passes: 1}}"
    params = "size: 1M, bs: 16k, passes: 1, fsync_every: 64, sync: 1, cpu_ns: 200us"
    run = Run(tmp_path, params, "200ms", more=other)
    ring = RingReader(run.rings / "cpu0.ring")
    reasons = [ring.names[args(r)[4]] for r in run.records(tp.WRITEBACK_START)]
    assert "sync" in reasons
    assert run.vmstat(200 * MS)["nr_written"] == 256 + 64
    books = [part for book in run.books.values() for part in book.get("programs", {}).values()]
    assert sum(Tally.unpack(part).books()["fsync_ns"]["n"] for part in books) == 1


def test_a_page_that_cannot_be_written_fails_the_fsync(tmp_path: Path) -> None:
    fault = "events:\n  - {at: 1us, do: disk sda error sector=0-7}"
    params = "layout: unwritten, size: 64k, bs: 16k, passes: 1, fsync_every: 1"
    run = Run(tmp_path, params, "100ms", more=fault)
    books = [part for book in run.books.values() for part in book.get("programs", {}).values()]
    assert sum(part[1]["errors"] for part in books) == 1
    assert run.counter("cil_pushes") == 3
    assert run.vmstat(100 * MS)["nr_dirty"] == 0


def test_a_limit_written_while_the_box_runs_counts_from_then_on(tmp_path: Path) -> None:
    event = "events:\n  - {at: 50ms, do: sysctl vm.dirty_bytes=4194304}"
    run = Run(tmp_path, "size: 128M, bs: 64k", "100ms", more=event)
    spec, readers = run.spec, open_rings(run.rings)
    path = "/proc/sys/vm/dirty_bytes"
    assert read_file(View(spec, readers, 49 * MS), path) == "0\n"
    assert read_file(View(spec, readers, 51 * MS), path) == "4194304\n"
    assert "nr_dirty_threshold 3276\n" in read_file(View(spec, readers, 49 * MS), "/proc/vmstat")
    assert "nr_dirty_threshold 1024\n" in read_file(View(spec, readers, 99 * MS), "/proc/vmstat")
    assert read_file(View(spec, readers, 99 * MS), "/proc/meminfo").startswith("Dirty:   ")


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("workloads.0.params.layout=sparse", "none of written, unwritten, hole"),
        ("kernel.sysctl={vm.dirty_ratio: 101}", "outside 0..100"),
        ("kernel.sysctl={vm.dirty_bytes: 4096}", "outside 8192"),
        ("kernel.sysctl={vm.dirty_ration: 5}", "did you mean vm.dirty_ratio"),
    ],
)
def test_what_is_refused(setting: str, complaint: str) -> None:
    with pytest.raises(BoxError, match=complaint):
        load_box("writer-throttled", (setting,)).resolve()
