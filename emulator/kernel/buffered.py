"""Buffered writes on a CPU: ``write()``, the flusher's work and ``fsync()``; v5.4 (E.2, E.3).

Theory of operation
-------------------
``write()`` copies into the page cache and makes pages dirty, up to the page at which its task is due
to look (:func:`page_writeback.dirty_pause`); then it may sleep.  The flusher is a work item of the
workqueue ``writeback``: it asks for the next few runs of dirty pages, spends the time of preparing
them, submits each as one bio and asks again.  It never waits for a write.  ``fsync()`` of a file
writes its pages itself, in the same way, and then sleeps until they are clean.

What is dirty is one object (:mod:`fs_writeback`), kept by CPU 0, which cannot go offline.  Everybody
reaches it by messages, CPU 0 too, that take as long as another CPU's cache line does.  Whoever asks
waits for the answer in its frame, as it would for the lock and the counters.

Departures from the kernel: the limits are read as of one answer per stretch of a write, where the
kernel reads counters that each CPU adds to in batches; the timer of the delayed work is CPU 0's, whoever
armed it; a flusher whose work is queued again while it executes goes on at once, as one execution; it
may be preempted only between the runs that it asked for.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    backing_dev,
    blk_mq,
    blk_mq_tag,
    core,
    cpuhp,
    frames,
    fs_writeback,
    fsync,
    hrtimer,
    pipe,
    syscall,
    workqueue,
    wq_pool,
    wq_table,
)
from emulator.kernel import page_writeback as pw
from emulator.kernel.inode import PAGE_SHIFT, Inode
from emulator.kernel.process import WAIT_PAGES, WAIT_TIMER
from emulator.kernel.request import WB_PAGES
from emulator.kernel.sched import TASK_WAKING
from emulator.kernel.xfs_file import FileFacts, own_files
from emulator.types import WRITE

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task
    from emulator.types import BoxSpec, Message

#: The CPU that keeps what is dirty.
KEEPER = 0

# TaskRun.dirtier: a task's count of pages dirtied, and more.
D_NR, D_PAUSE, D_WHEN, D_LIMIT, D_WOKEN = range(5)
NEW_DIRTIER = (0, pw.DIRTY_POLL_THRESH, 0, pw.DIRTY_POLL_THRESH, 0)

# A write() under way: file, offset, bytes left, bytes of this stretch, bytes in all.
W_FILE, W_OFFSET, W_LEFT, W_BYTES, W_ALL = range(5)

# A task that writes pages back: disk, file (of fsync(), SYNC_ALL of sync(), else -1), whether it begins, the runs that are
# its to write and their file, and what fsync() does next ([]: it is the flusher's work).
SYNC_ALL = -2
F_DISK, F_SYNC, F_BEGIN, F_FILE, F_RUNS, F_THEN = range(6)


def new_backing(spec: BoxSpec, files: dict[int, FileFacts]) -> fs_writeback.Backing:
    """Return what the box begins with: every file of its programs, all pages clean."""
    inodes = {}
    for workload in spec.workloads:
        if workload.params.get("filesystem") is None:
            continue
        for file, _size in own_files(workload.params):
            facts = files[file]
            inodes[file] = Inode(file, facts.disk, facts.layout, facts.size, facts.eof)
    return fs_writeback.Backing(spec, inodes)


def post(cpu: Cpu, target: int, op: int, args: tuple[Any, ...]) -> None:
    """Send a message that may be to this CPU itself; that takes as long as to another one."""
    reply_ns = cpuhp.reply_ns(cpu)
    effect_ns = cpu.now + max(cpu.costs.coherence_ns, reply_ns)
    if target != cpu.node_id:
        cpu.send(target, op, args, effect_ns, reply_ns)
        return
    cpu.seq += 1
    heapq.heappush(cpu.inbox, (effect_ns, cpu.node_id, cpu.seq, target, op, args))
    cpu.edge = min(cpu.edge, effect_ns)


def waiting(cpu: Cpu, kind: int) -> Any:
    """Return the argument of the frame that waits for an answer."""
    if cpu.f_kind == kind:
        return cpu.f_arg
    return next(frame[2] for frame in cpu.stack if frame[0] == kind)


# -- write() ------------------------------------------------------------------------------------


def sys_write(cpu: Cpu, p: Task, file: int, offset: int, length: int) -> None:
    """Start ``write()`` of a file that is not open with O_DIRECT."""
    if not p.run.dirtier:
        p.run.dirtier = list(NEW_DIRTIER)
    if length <= 0:
        cpu.start(frames.RET_USER, cpu.costs.syscall_ns, 0)
        return
    costs = cpu.costs
    copy(cpu, p, [file, offset, length, 0, length], costs.syscall_ns + costs.write_ns)


def copy(cpu: Cpu, p: Task, state: list[int], ns: int) -> None:
    """``iomap_write_actor()``: copy up to the page at which the task is due to look."""
    offset = state[W_OFFSET]
    limit = min(p.run.dirtier[D_LIMIT], fs_writeback.BIO_MAX_PAGES)
    state[W_BYTES] = min(state[W_LEFT], (limit << PAGE_SHIFT) - offset % (1 << PAGE_SHIFT))
    last = (offset + state[W_BYTES] - 1) >> PAGE_SHIFT
    pages = last - (offset >> PAGE_SHIFT) + 1
    cpu.start(frames.WRITE_COPY, ns + pages * cpu.costs.write_page_ns, state)


def write_copied(cpu: Cpu, state: list[int]) -> None:
    """The pages are in the cache: make them dirty, ``balance_dirty_pages_ratelimited()``."""
    p = cpu.rq.curr
    args = (state[W_FILE], state[W_OFFSET], state[W_BYTES], p.run.dirtier[:D_LIMIT])
    post(cpu, KEEPER, messages.WB_WRITE, args)
    cpu.wait(frames.WRITE_WAIT, state)


def handle_write(cpu: Cpu, message: Message) -> None:
    """At the keeper: somebody has written, or looks again after a pause."""
    file, offset, length, counts = message[5]
    source = message[1]
    backing = keeper(cpu)
    task = pw.Dirtier(*counts)
    now = cpu.jiffies()
    disk = backing.disks[backing.inodes[file].disk]
    timer_at = disk.timer_at
    if length:
        answer = backing.write(file, offset, length, task, source, now)
    else:
        answer = backing.look_again(file, task, now)
    arm_timer(cpu, backing.inodes[file].disk, timer_at)
    if answer.new:
        record_state(cpu, backing)
    dirtier = [task.nr_dirtied, task.nr_dirtied_pause, task.paused_when, answer.limit]
    looked = [answer.dirty, backing.dirty_limit, answer.ratelimit, answer.rate]
    told = (dirtier, answer.pause, int(answer.again), int(answer.start), looked)
    post(cpu, source, messages.WB_WRITTEN, told)


def handle_written(cpu: Cpu, message: Message) -> None:
    """The answer: the write goes on."""
    state = waiting(cpu, frames.WRITE_WAIT)
    cpu.answered(frames.WRITE_WAIT, frames.WRITE_DONE, [state, list(message[5])])


def write_done(cpu: Cpu, arg: list[Any]) -> None:
    """What was copied is dirty; start the flusher if it is time, then sleep or go on."""
    state, (dirtier, pause, _again, start, looked) = arg
    p = cpu.rq.curr
    p.run.dirtier[:D_WOKEN] = dirtier
    state[W_OFFSET] += state[W_BYTES]
    state[W_LEFT] -= state[W_BYTES]
    if looked[3] or pause:
        dirty, limit, ratelimit, rate = looked
        kbps = pw.PAGE_SIZE >> 10
        ms = pause * 1000 // cpu.hz
        cpu.emit(tp.BALANCE_DIRTY_PAGES, dirty, limit, ratelimit * kbps, rate * kbps, ms)
    cpu.start(frames.WRITE_LOOKED, 0, arg)
    if start:
        queue_flusher(cpu, cpu.files[state[W_FILE]].disk)
    if cpu.f_kind == frames.WRITE_LOOKED:
        write_looked(cpu, arg)


def write_looked(cpu: Cpu, arg: list[Any]) -> None:
    """``io_schedule_timeout()`` of whoever dirties too fast, in jiffies."""
    state, (_dirtier, pause, again, _start, _looked) = arg
    if not pause:
        write_next(cpu, state)
        return
    p = cpu.rq.curr
    cpu.count("dirty_pauses")
    p.run.wait = WAIT_TIMER
    sleep = [p.pid, cpu.now]
    hrtimer.add_jiffy_timer(cpu, cpu.jiffies() + pause, hrtimer.WHEEL_SLEEP, sleep)
    core.block(cpu, p, tp.TASK_UNINTERRUPTIBLE, frames.WRITE_SLEPT, 0, [state, again])


def write_slept(cpu: Cpu, arg: list[Any]) -> None:
    """The pause is over: go on, or look again if the task had no rate at all."""
    state, again = arg
    if not again:
        write_next(cpu, state)
        return
    p = cpu.rq.curr
    state[W_BYTES] = 0
    post(cpu, KEEPER, messages.WB_WRITE, (state[W_FILE], 0, 0, p.run.dirtier[:D_LIMIT]))
    cpu.wait(frames.WRITE_WAIT, state)


def write_next(cpu: Cpu, state: list[int]) -> None:
    """The next stretch of the write, after ``cond_resched()``, or its end."""
    p = cpu.rq.curr
    if not state[W_LEFT]:
        syscall.return_to_user(cpu, state[W_ALL])
    elif cpu.rq.need_resched:
        give_way(cpu, p, frames.WRITE_NEXT, state)
    else:
        copy(cpu, p, state, 0)


def give_way(cpu: Cpu, p: Task, kind: int, arg: Any) -> None:
    """``cond_resched()`` that gives way; the task goes on with the given frame."""
    p.run.kind = kind
    p.run.left = 0
    p.run.arg = arg
    core.schedule(cpu)


# -- The keeper ---------------------------------------------------------------------------------


def keeper(cpu: Cpu) -> fs_writeback.Backing:
    """Return what is dirty, at the CPU that keeps it."""
    backing: fs_writeback.Backing | None = cpu.backing
    assert backing is not None, cpu.story("this CPU does not keep what is dirty")
    backing.cpus_online(cpu.domains.active_mask.bit_count())
    return backing


def record_state(cpu: Cpu, backing: fs_writeback.Backing) -> None:
    """Record how many pages are dirty and under writeback, from now on."""
    thresh, background = backing.limits()
    cpu.emit(
        tp.BOX_PAGE_STATE,
        backing.nr_dirty,
        backing.nr_writeback,
        backing.nr_written,
        thresh,
        background,
    )


def arm_timer(cpu: Cpu, index: int, before: int) -> None:
    """The delayed work of a disk's flusher may have got a time: put its timer on the wheel."""
    timer_at = keeper(cpu).disks[index].timer_at
    if timer_at >= 0 and timer_at != before:
        hrtimer.add_jiffy_timer(cpu, timer_at, hrtimer.WHEEL_WRITEBACK, index)


def delayed_work_timer_fn(cpu: Cpu, index: int) -> None:
    """``delayed_work_timer_fn()`` of the flusher's work, unless it was queued earlier."""
    backing = keeper(cpu)
    if backing.timer_expired(backing.disks[index], cpu.jiffies()):
        queue_flusher(cpu, index)


def queue_flusher(cpu: Cpu, index: int) -> None:
    """Queue ``wb_workfn()`` of a disk; the caller's frame is set, a wakeup goes over it."""
    work = FLUSHER_WORK + index
    if workqueue.queue_work(cpu, wq_table.WQ_WRITEBACK, wq_pool.FN_WB_WORKFN, index, work):
        workqueue.wake_up_worker(cpu, cpu.pools[0])


#: Identity of a disk's flusher work: one item per disk, whoever queues it.
FLUSHER_WORK = 1 << 60


# -- wb_workfn() and fsync() --------------------------------------------------------------------


def wb_workfn(cpu: Cpu, index: int) -> None:
    """The flusher's work begins."""
    ask(cpu, [index, -1, 1, -1, [], []])


def filemap_write_and_wait(cpu: Cpu, file: int, then: list[Any]) -> None:
    """Write a file's dirty pages and wait for all of them; ``fsync()`` goes on with ``then``."""
    p = cpu.rq.curr
    if not p.run.dirtier:
        p.run.dirtier = list(NEW_DIRTIER)
    ask(cpu, [cpu.files[file].disk, file, 1, -1, [], then])


def ask(cpu: Cpu, state: list[Any]) -> None:
    """Ask what to write next."""
    p = cpu.rq.curr
    question = (state[F_DISK], state[F_SYNC], state[F_BEGIN], p.pid, p.moves)
    post(cpu, KEEPER, messages.WB_ASK, question)
    state[F_BEGIN] = 0
    cpu.wait(frames.WB_WAIT, state)


def handle_ask(cpu: Cpu, message: Message) -> None:
    """At the keeper: the flusher, or a task in ``fsync()``, asks what to write next."""
    index, file, begin, pid, moves = message[5]
    source = message[1]
    backing = keeper(cpu)
    again: int = 0
    runs: list[list[int]] = []
    if file == SYNC_ALL:
        file = backing.sync() if begin else 0
        verdict = backing.sync_wait([pid, moves, source])
    elif file >= 0:
        verdict, runs = backing.sync_runs(file, [pid, moves, source], bool(begin))
        if verdict == fs_writeback.END:
            again = backing.take_outcome(file)
    else:
        disk = backing.disks[index]
        timer_at = disk.timer_at
        if begin:
            backing.begin(disk)
        file, runs = backing.next_runs(disk, cpu.jiffies())
        verdict = fs_writeback.MORE if runs else fs_writeback.END
        if not runs:
            again = int(backing.end(disk, cpu.jiffies()))
        arm_timer(cpu, index, timer_at)
    notes, backing.notes = backing.notes, []
    if runs:
        record_state(cpu, backing)
    post(cpu, source, messages.WB_RUNS, (verdict, file, runs, again, notes))
    wake(cpu, backing.take_sync_waiters(), cpu.rq.curr.pid, cpu.cause, source)


def handle_runs(cpu: Cpu, message: Message) -> None:
    """The answer: these runs are for the task that asked."""
    state = waiting(cpu, frames.WB_WAIT)
    cpu.answered(frames.WB_WAIT, frames.WB_GOT, [state, list(message[5])])


def wb_got(cpu: Cpu, arg: list[Any]) -> None:
    """Prepare the pages that were given, sleep until others are clean, or end."""
    state, (verdict, file, runs, again, notes) = arg
    if state[F_SYNC] == SYNC_ALL:
        sync_got(cpu, state, verdict, file)
        return
    costs = cpu.costs
    for over, pages, reason in notes:
        cpu.emit(
            tp.WRITEBACK_WRITTEN if over else tp.WRITEBACK_START,
            cpu.dev_numbers[state[F_DISK]],
            pages,
            int(reason == backing_dev.KUPDATE),
            int(reason == backing_dev.BACKGROUND),
            cpu.names[backing_dev.REASONS[reason]],
        )
    if runs:
        state[F_FILE], state[F_RUNS] = file, runs
        pages = sum(run[1] for run in runs)
        allocations = sum(run[3] for run in runs)
        ns = pages * costs.writepage_ns + allocations * costs.delalloc_ns
        cpu.emit(
            tp.BOX_WRITEBACK, cpu.dev_numbers[state[F_DISK]], file, runs[0][0], pages, len(runs)
        )
        cpu.start(frames.WB_PREP, ns, state)
    elif verdict == fs_writeback.WAIT:
        wait_on_page_writeback(cpu, state)
    elif state[F_THEN]:
        fsync.pages_written(cpu, state[F_THEN], again)
    elif again:
        state[F_BEGIN] = 1
        cpu.start(frames.WB_ASK, 0, state)
    else:
        cpu.start(frames.WORK_TAIL, costs.dio_tail_ns)


def sys_sync(cpu: Cpu, p: Task) -> None:
    """Start ``sync()``: every flusher has a work for all pages of its disk."""
    if not p.run.dirtier:
        p.run.dirtier = list(NEW_DIRTIER)
    ask(cpu, [0, SYNC_ALL, 1, -1, [], []])


def sync_got(cpu: Cpu, state: list[Any], verdict: int, disks: int) -> None:
    """``iterate_bdevs()``: queue the flushers of these disks, one by one, then wait or return."""
    if disks:
        index = (disks & -disks).bit_length() - 1
        cpu.start(frames.WB_GOT, 0, [state, [verdict, disks & disks - 1, [], 0, []]])
        queue_flusher(cpu, index)
        if cpu.f_kind == frames.WB_GOT:
            wb_got(cpu, cpu.f_arg)
    elif verdict == fs_writeback.WAIT:
        wait_on_page_writeback(cpu, state)
    else:
        cpu.start(frames.RET_USER, cpu.costs.syscall_ns, 0)


def wb_ask(cpu: Cpu, state: list[Any]) -> None:
    """Between two questions: ``cond_resched()``."""
    if cpu.rq.need_resched:
        give_way(cpu, cpu.rq.curr, frames.WB_ASK, state)
    else:
        ask(cpu, state)


def submit(cpu: Cpu, state: list[Any]) -> None:
    """``xfs_submit_ioend()``: one bio per run under a plug, then the next question."""
    p = cpu.rq.curr
    index = state[F_DISK]
    q = cpu.queues[index]
    facts = cpu.files[state[F_FILE]] if state[F_RUNS] else None
    while facts is not None and state[F_RUNS]:
        if blk_mq.plug_full(q, p.run.plug):
            break
        if not blk_mq_tag.get_tag(cpu, q):
            blk_mq_tag.wait_for_tag(cpu, q, p, frames.WB_SUBMIT, state)
            return
        first, nr, kind, _allocates = state[F_RUNS].pop(0)
        offset = facts.start + (first << PAGE_SHIFT)
        rq = blk_mq.new_request(cpu, p, index, WRITE, offset, nr << PAGE_SHIFT)
        rq.what = WB_PAGES
        rq.file = state[F_FILE]
        rq.iocb = kind
        p.run.plug.append(rq)
    if p.run.plug:
        blk_mq.flush_plug(cpu, p)
        blk_mq.dispatch_loop(cpu, [index, "pages", state])
    else:
        wb_ask(cpu, state)


def wait_on_page_writeback(cpu: Cpu, state: list[Any]) -> None:
    """Sleep until the file has no page under writeback; that may be so already."""
    p = cpu.rq.curr
    if p.run.dirtier[D_WOKEN]:
        p.run.dirtier[D_WOKEN] = 0
        ask(cpu, state)
        return
    p.run.wait = WAIT_PAGES
    p.run.wait_arg = state[F_SYNC]
    core.block(cpu, p, tp.TASK_UNINTERRUPTIBLE, frames.WB_WOKEN, 0, state)


def wb_woken(cpu: Cpu, state: list[Any]) -> None:
    """Woken: the pages are clean, unless they were written to again."""
    cpu.rq.curr.run.dirtier[D_WOKEN] = 0
    ask(cpu, state)


# -- Clean pages --------------------------------------------------------------------------------


def end_ioend(cpu: Cpu, file: int, ioend: list[int]) -> None:
    """``xfs_destroy_ioend()``: ``end_page_writeback()`` of every page of an ioend."""
    kind, first, nr, error = ioend
    args = (file, first, nr, kind, error, cpu.rq.curr.pid, cpu.cause)
    post(cpu, KEEPER, messages.WB_END, args)


def handle_end(cpu: Cpu, message: Message) -> None:
    """At the keeper: pages are clean; whoever waited for the last of a file is told."""
    file, first, nr, kind, error, waker_pid, cause = message[5]
    source = message[1]
    backing = keeper(cpu)
    woken = backing.end_page_writeback(file, first, nr, kind, cpu.jiffies(), bool(error))
    record_state(cpu, backing)
    wake(cpu, [*woken, *backing.take_sync_waiters()], waker_pid, cause, source)


def wake(cpu: Cpu, woken: list[list[int]], waker_pid: int, cause: int, waker_cpu: int) -> None:
    """Tell tasks that wait for pages that these are clean."""
    for pid, moves, where in woken:
        post(cpu, where, messages.WB_WAKE, (pid, moves, waker_cpu, waker_pid, cause))


def handle_wake(cpu: Cpu, message: Message) -> None:
    """The pages that a task here waits for are clean; it may be elsewhere by now."""
    pid, _moves, waker_cpu, waker_pid, cause = message[5]
    p = cpu.tasks.get(pid)
    if p is None:
        assert pid not in cpu.exited, cpu.story(f"task {pid} exits in fsync()")
        pipe.follow(cpu, message)
        return
    if p.on_cpu and not p.on_rq:
        cpu.deferred.append(message)  # its waker would spin until the switch is over
        return
    p.run.dirtier[D_WOKEN] = 1
    if p.run.wait == WAIT_PAGES and p.state not in (tp.TASK_RUNNING, TASK_WAKING):
        cpu.cause = cause
        core.try_to_wake_up(cpu, p, waker=(waker_cpu, waker_pid))
