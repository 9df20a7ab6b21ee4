"""What is dirty and what is written next: examples of io-and-workqueue.md E, and the books."""

from __future__ import annotations

from itertools import groupby

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from emulator.kernel import backing_dev
from emulator.kernel import fs_writeback as fw
from emulator.kernel import page_writeback as pw
from emulator.kernel.balance_dirty_pages import Answer
from emulator.kernel.inode import CLEAN, Inode
from emulator.kernel.request import IOEND_APPEND, IOEND_OVERWRITE, IOEND_UNWRITTEN
from emulator.rules import rules_of
from tests.kernel.box import Job, Steps, box_spec, costs, machine, scsi_debug

MIB = 1 << 20
HZ = 1000


def nothing() -> Steps:
    """A program that does nothing."""
    yield from ()


def backing(
    files: dict[int, tuple[str, int]], version: str = "5.4", memory: int = 4 << 30
) -> fw.Backing:
    """Return a box with one disk and files of (layout, bytes)."""
    spec = box_spec(
        machine(4, hz=HZ),
        costs(),
        [Job(nothing)],
        scsi_debug(41_000),
        rules=rules_of(version),
        version=version,
    )
    inodes = {file: Inode(file, 0, *one, one[1]) for file, one in files.items()}
    made = fw.Backing(spec, inodes)
    made.memory = memory >> 12
    made.writeback_set_ratelimit()
    return made


def write(box: fw.Backing, file: int, first: int, nr: int, now: int = 0) -> Answer:
    """Write whole pages of a file by a task that never has to look."""
    task = pw.Dirtier(nr_dirtied_pause=1 << 40)
    return box.write(file, first << 12, nr << 12, task, 0, now)


def run_flusher(box: fw.Backing, now: int) -> list[tuple[int, list[list[int]]]]:
    """Execute the flusher's work at one instant; return what it was given."""
    disk = box.disks[0]
    box.begin(disk)
    given = []
    while True:
        file, runs = box.next_runs(disk, now)
        if not runs:
            break
        given.append((file, runs))
    box.end(disk, now)
    return given


def test_E_5_2_a_dirtier_above_the_background_limit_requests_writeback() -> None:
    box = backing({1: ("written", 1 << 30)})
    task = pw.Dirtier()
    assert not box.write(1, 0, 104_704 << 12, task, 0, 0).start
    task.nr_dirtied = task.nr_dirtied_pause
    answer = box.write(1, 104_704 << 12, 4096, task, 0, 0)
    assert answer.dirty == 104_705
    assert (answer.start, answer.pause) == (True, 0)
    assert not box.disks[0].wakeup()  # one item per disk


def test_E_5_2_the_flusher_finds_it_by_its_own_test_too() -> None:
    box = backing({1: ("written", 1 << 30)})
    box.disks[0].completions = box.completions = 1 << 30  # all that is written, this disk writes
    write(box, 1, 0, 104_704)
    assert run_flusher(box, 100) == []
    write(box, 1, 104_704, 1)
    given = run_flusher(box, 100)
    # It stops as soon as no more than the background limit is dirty, a chunk at a time.
    assert sum(run[1] for _file, runs in given for run in runs) == 13_312


def test_a_disk_that_has_written_nothing_of_late_has_no_part_of_the_background_limit() -> None:
    box = backing({1: ("written", 1 << 30)})
    write(box, 1, 0, 1_000)
    given = run_flusher(box, 100)
    assert sum(run[1] for _file, runs in given for run in runs) == 1_000


def test_E_5_3_a_file_dirtied_at_0_is_written_between_30_and_35_s() -> None:
    box = backing({1: ("written", MIB)})
    disk = box.disks[0]
    disk.completions = box.completions = 1 << 30  # the disk has the whole background limit
    write(box, 1, 0, 256)
    wakeups = []
    now = 0
    while disk.timer_at >= 0:
        now = disk.timer_at
        assert box.timer_expired(disk, now)
        given = run_flusher(box, now)
        wakeups.append((now, sum(run[1] for _file, runs in given for run in runs)))
    assert wakeups == [(5_000 * n, 0) for n in range(1, 6)] + [(30_000, 256)]


def test_the_first_multiple_after_the_age_is_35_s_for_a_file_dirtied_a_little_later() -> None:
    box = backing({1: ("written", MIB), 2: ("written", MIB)})
    disk = box.disks[0]
    disk.completions = box.completions = 1 << 30
    write(box, 2, 0, 1)
    write(box, 1, 0, 256, now=10)
    times = []
    while disk.timer_at >= 0:
        now = disk.timer_at
        box.timer_expired(disk, now)
        times += [(now, file) for file, _runs in run_flusher(box, now)]
    assert times == [(30_000, 2), (35_000, 1)]


def test_E_3_sync_works_come_before_the_periodic_pass_and_interrupt_it() -> None:
    box = backing({1: ("written", 64 * MIB), 2: ("written", 64 * MIB)})
    disk = box.disks[0]
    disk.completions = box.completions = 1 << 30
    write(box, 1, 0, 16_384)
    write(box, 2, 0, 16_384)
    assert box.timer_expired(disk, 40_000)
    box.begin(disk)
    assert box.next_runs(disk, 40_000)[0] == 1
    assert disk.work[0] == backing_dev.KUPDATE
    assert not box.start_sync(disk)  # it executes: it goes on with that
    seen = []
    while True:
        file, runs = box.next_runs(disk, 40_000)
        if not runs:
            break
        seen.append((backing_dev.REASONS[disk.work[0]], file))
    # The periodic pass ends with the chunk that it has begun.
    assert set(seen) == {("periodic", 1)}
    assert len(seen) == 13_312 // 256 - 1
    assert box.end(disk, 40_000)
    assert sum(run[1] for _f, runs in run_flusher(box, 40_001) for run in runs) == 32_768 - 13_312
    assert box.nr_dirty == 0


def test_E_3_a_chunk_of_one_inode_then_the_next_ones_turn() -> None:
    box = backing({1: ("written", 1 << 30), 2: ("written", 1 << 30)})
    write(box, 1, 0, 100_000)
    write(box, 2, 0, 100_000)
    disk = box.disks[0]
    box.begin(disk)
    files = [box.next_runs(disk, 10)[0] for _ in range(5 * 13_312 // 256)]
    assert [file for file, _turn in groupby(files)] == [1, 2, 1, 2, 1]


def test_runs_are_contiguous_and_hold_a_bio_at_most() -> None:
    box = backing({1: ("written", 64 * MIB)})
    write(box, 1, 0, 300)
    write(box, 1, 1_000, 1)
    write(box, 1, 1_002, 1)
    inode = box.inodes[1]
    assert box.take(inode, 0, 256) == [[0, 256, IOEND_OVERWRITE, 0]]
    assert [run[:2] for run in box.take(inode, 256, 256)] == [[256, 44], [1_000, 1], [1_002, 1]]


def test_E_4_a_longer_file_is_an_append_and_its_end_moves_the_size_on_disk() -> None:
    box = backing({1: ("hole", 0)})
    write(box, 1, 0, 512)
    inode = box.inodes[1]
    first = box.take(inode, 0, 256)
    assert first == [[0, 256, IOEND_APPEND, 1]]  # allocates the whole dirty stretch
    second = box.take(inode, 256, 256)
    assert second == [[256, 256, IOEND_APPEND, 0]]
    box.end_page_writeback(1, 0, 256, IOEND_APPEND, 0)
    assert inode.disk_size == MIB
    write(box, 1, 0, 256)
    assert box.take(inode, 0, 256) == [[0, 256, IOEND_OVERWRITE, 0]]


def test_E_4_an_allocated_file_is_converted_once() -> None:
    box = backing({1: ("unwritten", MIB)})
    write(box, 1, 10, 10)
    inode = box.inodes[1]
    assert box.take(inode, 0, 256) == [[10, 10, IOEND_UNWRITTEN, 0]]
    box.end_page_writeback(1, 10, 10, IOEND_UNWRITTEN, 0)
    write(box, 1, 5, 10)
    runs = box.take(inode, 0, 256)
    assert runs == [[5, 5, IOEND_UNWRITTEN, 0], [10, 5, IOEND_OVERWRITE, 0]]


def test_from_5_8_on_delayed_allocation_leaves_unwritten_extents() -> None:
    assert not rules_of("5.4").xfs_delalloc_unwritten
    box = backing({1: ("hole", 0)}, version="5.10")
    write(box, 1, 0, 256)
    assert box.take(box.inodes[1], 0, 256) == [[0, 256, IOEND_UNWRITTEN, 1]]


def test_a_page_written_to_again_under_writeback_is_both_and_is_written_again() -> None:
    box = backing({1: ("written", MIB)})
    write(box, 1, 0, 4)
    inode = box.inodes[1]
    box.take(inode, 0, 256)
    assert write(box, 1, 1, 1).new == 1
    assert (box.nr_dirty, box.nr_writeback) == (1, 4)
    assert box.take(inode, 0, 256) == []  # not before it is clean
    box.end_page_writeback(1, 0, 4, IOEND_OVERWRITE, 0)
    assert box.take(inode, 0, 256) == [[1, 1, IOEND_OVERWRITE, 0]]


def test_a_cpu_whose_tasks_dirtied_its_share_must_look() -> None:
    box = backing({1: ("written", 1 << 30)}, memory=64 * MIB)
    assert box.ratelimit_pages == 3_264 // (4 * 32)
    task = pw.Dirtier(nr_dirtied_pause=1_000)
    assert box.write(1, 0, 24 << 12, task, 2, 7).dirty == 0
    answer = box.write(1, 24 << 12, 4096, task, 2, 8)
    assert answer.dirty == 25
    assert (task.paused_when, task.nr_dirtied) == (8, 0)


def test_with_fewer_cpus_each_may_dirty_more_before_it_looks() -> None:
    box = backing({1: ("written", MIB)}, memory=64 * MIB)
    pages = box.ratelimit_pages
    box.cpus_online(2)
    assert box.ratelimit_pages == 2 * pages + 1  # 3276 // 64
    other = backing({1: ("written", MIB)}, memory=64 * MIB)
    other.unpack(box.pack())
    assert other.nr_cpus == 2


def test_fsync_writes_what_is_dirty_and_waits_for_all() -> None:
    box = backing({1: ("written", MIB)})
    write(box, 1, 0, 8)
    box.take(box.inodes[1], 0, 4)
    waiter = [500, 0, 2]
    assert box.sync_runs(1, waiter, True) == (fw.MORE, [[4, 4, IOEND_OVERWRITE, 0]])
    assert box.sync_runs(1, waiter, False) == (fw.WAIT, [])
    assert box.end_page_writeback(1, 4, 4, IOEND_OVERWRITE, 0) == []
    assert box.end_page_writeback(1, 0, 4, IOEND_OVERWRITE, 0) == [waiter]
    assert box.sync_runs(1, waiter, False) == (fw.END, [])


def test_a_write_that_fails_is_told_to_one_fsync_and_converts_nothing() -> None:
    box = backing({1: ("unwritten", MIB)})
    write(box, 1, 0, 8)
    box.take(box.inodes[1], 0, 4)
    box.take(box.inodes[1], 4, 4)
    box.end_page_writeback(1, 0, 4, IOEND_UNWRITTEN, 0, error=True)
    box.end_page_writeback(1, 4, 4, IOEND_UNWRITTEN, 0)
    assert box.inodes[1].written.runs() == [[4, 8]]
    assert [box.take_outcome(1) for _ in range(3)] == [fw.FAILED, fw.LOGGED, 0]


def test_sync_waits_for_what_was_dirty_and_for_no_more() -> None:
    box = backing({1: ("written", MIB)})
    write(box, 1, 0, 8)
    disk = box.disks[0]
    waiter = [500, 0, 2]
    assert box.sync() == 1  # disk 0's flusher is to be queued
    assert box.sync_wait(waiter) == fw.WAIT
    assert run_flusher(box, 0) == [(1, [[0, 8, IOEND_OVERWRITE, 0]])]
    write(box, 1, 100, 8)
    box.take(box.inodes[1], 100, 8)
    box.end_page_writeback(1, 0, 4, IOEND_OVERWRITE, 0)
    assert box.take_sync_waiters() == []
    box.end_page_writeback(1, 4, 4, IOEND_OVERWRITE, 0)
    assert box.take_sync_waiters() == [waiter]
    assert box.sync_wait(waiter) == fw.END
    assert disk.writeback == 8


class Pages(RuleBasedStateMachine):
    """Tasks write, the flusher and fsync() write back, bios end: no page is lost, no count is off."""

    def __init__(self) -> None:
        super().__init__()
        self.box = backing(
            {1: ("written", 64 << 12), 2: ("hole", 0), 3: ("unwritten", 64 << 12)}, memory=MIB
        )
        self.now = 0
        self.under_way: list[tuple[int, list[int]]] = []
        self.task = pw.Dirtier()
        self.unclean: dict[int, set[int]] = {1: set(), 2: set(), 3: set()}
        self.written = 0
        self.runs = False

    @rule(file=st.sampled_from((1, 2, 3)), first=st.integers(0, 63), nr=st.integers(1, 32))
    def write(self, file: int, first: int, nr: int) -> None:
        pages = set(range(first, first + nr))
        answer = self.box.write(file, first << 12, nr << 12, self.task, 1, self.now)
        assert answer.limit >= 1
        self.unclean[file] |= pages
        self.now += answer.pause

    @rule(jiffies=st.integers(1, 6_000))
    def time_passes(self, jiffies: int) -> None:
        self.now += jiffies
        self.box.timer_expired(self.box.disks[0], self.now)

    @precondition(lambda self: not self.runs and self.box.disks[0].state == backing_dev.QUEUED)
    @rule()
    def flusher_begins(self) -> None:
        self.box.begin(self.box.disks[0])
        self.runs = True

    @precondition(lambda self: self.runs)
    @rule()
    def flusher_asks(self) -> None:
        file, runs = self.box.next_runs(self.box.disks[0], self.now)
        assert sum(run[1] for run in runs) <= fw.BIO_MAX_PAGES
        self.under_way += [(file, run) for run in runs]
        if not runs:
            self.runs = False
            self.box.end(self.box.disks[0], self.now)

    @rule(file=st.sampled_from((1, 2, 3)))
    def fsync_asks(self, file: int) -> None:
        verdict, runs = self.box.sync_runs(file, [7, 0, 0], True)
        self.under_way += [(file, run) for run in runs]
        inode = self.box.inodes[file]
        assert (verdict == fw.END) == (not runs and not inode.writeback and not inode.dirty)

    @rule()
    def sync(self) -> None:
        self.box.start_sync(self.box.disks[0])

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def bio_ends(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.under_way) - 1))
        file, (first, nr, kind, _allocates) = self.under_way.pop(which)
        woken = self.box.end_page_writeback(file, first, nr, kind, self.now)
        inode = self.box.inodes[file]
        assert not woken or not inode.writeback
        self.unclean[file] -= {page for page in range(first, first + nr) if page not in inode.dirty}
        self.written += nr

    @rule()
    def snapshot(self) -> None:
        packed = self.box.pack()
        self.box.unpack(packed)
        assert self.box.pack() == packed

    @invariant()
    def every_page_that_is_not_clean_is_dirty_or_on_its_way(self) -> None:
        for file, inode in self.box.inodes.items():
            for page in self.unclean[file]:
                assert page in inode.dirty or page in inode.writeback
        flying = {
            (file, page)
            for file, (first, nr, _kind, _allocates) in self.under_way
            for page in range(first, first + nr)
        }
        tagged = {
            (inode.file, page)
            for inode in self.box.inodes.values()
            for first, end in inode.writeback.runs()
            for page in range(first, end)
        }
        assert flying == tagged

    @invariant()
    def the_counters_are_exact(self) -> None:
        assert self.box.problems() == []
        box = self.box
        assert box.nr_written == self.written
        assert box.nr_dirtied == box.nr_written + box.nr_writeback + box.nr_dirty

    @invariant()
    def each_inode_is_on_the_list_that_it_says(self) -> None:
        disk = self.box.disks[0]
        for file, inode in self.box.inodes.items():
            places = [
                file in disk.b_dirty,
                file in disk.b_io,
                file in disk.b_more_io,
                file == disk.inode,
            ]
            assert sum(places) == (inode.on != CLEAN)


TestPages = Pages.TestCase
