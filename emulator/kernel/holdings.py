"""What a CPU holds, for the books: tasks, outstanding IOs, requests, tags, AIO credits.

Theory of operation
-------------------
Nothing may be lost or done twice, so at any instant between two events, over all nodes:

* every task is on one CPU or in one message;
* every IO that a task waits for is carried by one request, work item or piece of mail, and each of
  those carries an IO that somebody waits for;
* every request made has been freed or is somewhere;
* every work item queued has ended or is on a list, with a worker or in a message;
* every driver tag is free at the device, leased, or held by a request;
* what was written to a pipe has been read, is in the pipe, or in a message;
* a context's credits are free, held by an IO or by an event that user space has not consumed.

A CPU says here what it has of each, its inbox included; the engine adds up
(:mod:`emulator.engine.conservation`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import blk_mq_hctx, frames, wq_pool, xfs_aops
from emulator.kernel.process import WAIT_TAG, unpack_task
from emulator.kernel.request import PAGES, WB_PAGES, Request
from emulator.kernel.sched import Task
from emulator.kernel.wq_pool import FETCHED_ITEM
from emulator.types import Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: An IO: pid and number of its iocb.
Io = list[int]


def holdings(cpu: Cpu) -> dict[str, Any]:
    """Return what this CPU holds, as plain data."""
    coming = [p for m in inbox(cpu) for p in tasks_in(cpu, m)]
    tasks = [*cpu.tasks.values(), *coming]
    requests = list(all_requests(cpu))
    return {
        "tasks": sorted(cpu.tasks),
        "exited": sorted(cpu.exited),
        "arriving": sorted(p.pid for p in coming),
        "waited_for": sorted(io for p in tasks for io in waited_for(p)),
        "carried": sorted([*carried(cpu, requests), *mail_ios(cpu)]),
        "requests": [cpu.io_seq, cpu.ended, len(requests)],
        "works": [*cpu.works, sum(1 for _ in all_items(cpu))],
        "tags": [tags(cpu, index, requests) for index in range(len(cpu.queues))],
        "allocated": [allocated(cpu, index, requests) for index in range(len(cpu.queues))],
        "tag_sleepers": sorted(p.pid for p in tasks if sleeps_for_tag(p)),
        "tag_waiters": sorted(tag_waiters(cpu)),
        "pipes": pipe_balance(cpu, tasks),
        "pages": pages_written(cpu, tasks, requests),
        "backing": []
        if cpu.backing is None
        else [cpu.backing.nr_writeback, cpu.backing.problems()],
        "credits": [[p.pid, missing] for p in tasks if (missing := credits_missing(p))],
    }


# -- Tasks --------------------------------------------------------------------------------------


def inbox(cpu: Cpu) -> list[Message]:
    """Return every message that this CPU has been handed and has not acted on."""
    held = [message for waiting in cpu.held.values() for message in waiting]
    return [*cpu.inbox, *cpu.mail, *held, *cpu.deferred]


def tasks_in(cpu: Cpu, message: Message) -> list[Task]:
    """Return the tasks in a message."""
    op, args = message[4], message[5]
    if op == messages.ACTIVATE:
        return [unpack_task(args[1], cpu.make_program)]
    if op in (messages.ATTACH, messages.ADOPT):
        return [unpack_task(data, cpu.make_program) for _pid, data in args[0]]
    return []


def waited_for(p: Task) -> Iterator[Io]:
    """Yield the IOs that a task has outstanding."""
    for iocb, state in p.run.iocbs.items():
        if state[3]:
            yield [p.pid, iocb]


def credits_missing(p: Task) -> int:
    """Return how many credits of a task's AIO context are unaccounted for.

    The io_submit() under way may hold one that is no iocb yet.
    """
    ctx = p.run.ctx
    if ctx is None or p.run.uring is not None:  # iocbs of an io_uring have no credits
        return 0
    iocbs = sum(iocb >= 0 for iocb in p.run.iocbs)
    known = ctx.reqs_available + sum(ctx.cpu_credits.values()) + iocbs + ctx.completed_events
    missing = ctx.nr_events - 1 - known
    return 0 if missing == 1 and p.run.submit else missing


def pipe_balance(cpu: Cpu, tasks: list[Task]) -> list[list[int]]:
    """Return, per pipe, the writes less the reads here, less what is in the pipe or on its way."""
    balance = dict(cpu.piped)
    for p in tasks:
        if p.run.pipes is not None:
            for pipe, unread in p.run.pipes.unread.items():
                balance[pipe] = balance.get(pipe, 0) - len(unread)
    on_the_way = [message[5][2] for message in inbox(cpu) if message[4] == messages.PIPE_DATA]
    for kind, arg in [(cpu.f_kind, cpu.f_arg), *((frame[0], frame[2]) for frame in cpu.stack)]:
        if kind == frames.PIPE_SELECT:
            on_the_way.append(arg[0])
    for pipe in on_the_way:
        balance[pipe] = balance.get(pipe, 0) - 1
    return [[pipe, nr] for pipe, nr in balance.items() if nr]


# -- Requests -----------------------------------------------------------------------------------


def all_requests(cpu: Cpu) -> Iterator[tuple[Request, bool]]:
    """Yield the requests that are not freed, and whether each holds a driver tag."""
    for p in cpu.tasks.values():
        for rq in p.run.plug:
            yield rq, cpu.queues[rq.queue].elevator is None
    for q in cpu.queues:
        yield from ((rq, q.elevator is None) for rq in q.waiting())
        if q.elevator is not None:
            for direction in q.elevator.sorted:
                yield from ((entry[2], False) for entry in direction)
    for box in (cpu.inflight.values(), cpu.sirq_block, cpu.done_list, cpu.call_done):
        yield from ((rq, True) for rq in box)
    for data in interrupting(cpu):
        yield Request.unpack(data), True
    for item in items(cpu):
        if item[1] == wq_pool.FN_REQUEUE:
            yield item[3], cpu.queues[item[3].queue].elevator is None
    for message in cpu.inbox:
        yield from requests_in(cpu, message)
    for message in inbox(cpu):
        if message[4] == messages.POLL_ENTRY:
            yield Request.unpack(message[5][2]), True
        elif message[4] == messages.RUN_HW_QUEUE:
            for rq in blk_mq_hctx.requests_in(message):
                yield rq, cpu.queues[rq.queue].elevator is None
    for p in (*cpu.tasks.values(), *(p for m in inbox(cpu) for p in tasks_in(cpu, m))):
        yield from ((Request.unpack(data), True) for data in p.run.polled)


def interrupting(cpu: Cpu) -> Iterator[list[Any]]:
    """Yield the requests of the devices' interrupts that have not been handled, packed."""
    kinds = [(kind, arg) for kind, arg, _ns in cpu.irqs]
    kinds += [(cpu.f_kind, cpu.f_arg), *((frame[0], frame[2]) for frame in cpu.stack)]
    for kind, arg in kinds:
        if kind in (frames.IRQ_VECTOR, frames.IRQ_THREAD_FN):
            yield from (data for data, _status in arg[2])
    for thread in cpu.irq_threads.values():
        yield from (data for data, _status in thread.entries)


def requests_in(cpu: Cpu, message: Message) -> Iterator[tuple[Request, bool]]:
    """Yield the requests in a message."""
    if message[4] == messages.CALL_COMPLETE:
        yield Request.unpack(message[5][0]), True
    elif message[4] == messages.INTERRUPT:
        yield from ((Request.unpack(data), True) for data, _status in message[5][2])
    elif message[4] == messages.DRIVER_EVENT:
        yield from ((Request.unpack(data), True) for data in message[5][1])
    elif message[4] == messages.ADOPT:
        _dead, _completions, inflight, _timers, _wheel, done, queues = message[5][1]
        yield from ((Request.unpack(data), True) for data in (*inflight, *done))
        for q, (busy, waiting, _tags, _waiters) in zip(cpu.queues, queues, strict=True):
            yield from ((Request.unpack(data), q.elevator is None) for data in busy)
            yield from ((Request.unpack(data), False) for data in waiting)


def tags(cpu: Cpu, index: int, requests: list[tuple[Request, bool]]) -> int:
    """Return how many of a disk's driver tags are here: leased, in use, or just granted."""
    used = sum(rq.queue == index for rq, tagged in requests if tagged)
    granted = sum(m[5][1] for m in inbox(cpu) if m[4] == messages.TAG_GRANT and m[5][0] == index)
    freed = sum(m[5][3] for m in inbox(cpu) if m[4] == messages.TAG_FREED and m[5][0] == index)
    lease: int = cpu.queues[index].lease
    return lease + used + int(granted) + int(freed)


# -- Pages under writeback ----------------------------------------------------------------------

#: Frames in which the current task has left what it does next in its ``run``.
SWITCHING = frozenset(
    (
        frames.SCHEDULE,
        frames.NEWIDLE,
        frames.NEWIDLE_WAIT,
        frames.NEWIDLE_PAY,
        frames.NEWIDLE_DONE,
    )
)


def pages_written(cpu: Cpu, tasks: list[Task], requests: list[tuple[Request, bool]]) -> int:
    """Return how many pages under writeback are here: in requests, ioends, messages, or to be sent."""
    if not cpu.buffered:
        return 0
    pages = sum(rq.nr_sector >> 3 for rq, _tagged in requests if rq.what == WB_PAGES)
    pages += sum(xfs_aops.pages_of_item(item) for item, _worker in all_items(cpu))
    for message in cpu.inbox:
        if message[4] == messages.WB_END:
            pages += message[5][2]
        elif message[4] == messages.WB_RUNS:
            pages += sum(run[1] for run in message[5][2])
    executed = [(cpu.f_kind, cpu.f_arg), *((frame[0], frame[2]) for frame in cpu.stack)]
    bottom = cpu.stack[0][0] if cpu.stack else cpu.f_kind
    executed += [
        (p.run.kind, p.run.arg) for p in tasks if p is not cpu.rq.curr or bottom in SWITCHING
    ]
    executed += [(q.tag_again[1], q.tag_again[2]) for q in cpu.queues if q.tag_again]
    return pages + sum(pages_in_frame(kind, arg) for kind, arg in executed)


def pages_in_frame(kind: int, arg: Any) -> int:
    """Return how many pages a task has been given and has not made requests of."""
    if kind == frames.WB_GOT:
        runs = arg[1][2]
    elif kind in (frames.WB_PREP, frames.WB_SUBMIT):
        runs = arg[4]
    elif kind in (frames.DISPATCH, frames.DISPATCHED, frames.DISPATCH_OVER) and arg[1] == "pages":
        runs = arg[2][4]
    else:
        return 0
    return sum(run[1] for run in runs)


def allocated(cpu: Cpu, index: int, requests: list[tuple[Request, bool]]) -> int:
    """Return by how much the requests counted as allocated here exceed a disk's requests here."""
    told = sum(m[5][4] for m in inbox(cpu) if m[4] == messages.TAG_FREED and m[5][0] == index)
    moved = sum(m[5][1][6][index][2] for m in cpu.inbox if m[4] == messages.ADOPT)
    here = sum(rq.queue == index for rq, _tagged in requests)
    counted: int = cpu.queues[index].allocated
    return counted + int(moved) - int(told) - here


def sleeps_for_tag(p: Task) -> bool:
    """Whether a task sleeps until a tag is free."""
    return p.run.wait == WAIT_TAG and p.state == tp.TASK_UNINTERRUPTIBLE


def tag_waiters(cpu: Cpu) -> Iterator[int]:
    """Yield the tasks that a free tag, or a wakeup that is under way, will wake from here."""
    for q in cpu.queues:
        for queue in q.sbq.waiters:
            yield from queue
    yield from (pid for pid, _sync in cpu.wakeups)
    for message in inbox(cpu):
        if message[4] == messages.TAG_WAKE:
            yield message[5][1]
        elif message[4] == messages.ADOPT:
            for _busy, _waiting, _moved, waiters in message[5][1][6]:
                yield from (pid for queue in waiters for pid in queue)


# -- IOs ----------------------------------------------------------------------------------------


def carried(cpu: Cpu, requests: list[tuple[Request, bool]]) -> Iterator[Io]:
    """Yield the IOs that requests and work items of this CPU will complete."""
    for rq, _tagged in requests:
        if rq.what not in (PAGES, WB_PAGES):
            yield [rq.pid, rq.iocb]
    for item in items(cpu):
        if wq_pool.carries_request(item[1]):
            yield [item[3].pid, item[3].iocb]


def items(cpu: Cpu) -> Iterator[list[Any]]:
    """Yield the work items that have not had their effect."""
    return (
        item for item, worker in all_items(cpu) if worker is None or not had_effect(cpu, worker)
    )


def all_items(cpu: Cpu) -> Iterator[tuple[list[Any], Task | None]]:
    """Yield the work items that have not ended, each with the worker that executes it."""
    for pool in cpu.pools:
        for item in pool.worklist:
            yield item, None
        for waiting in pool.delayed.values():
            for item in waiting:
                yield item, None
        for pid, item in pool.executing.items():
            yield item, cpu.tasks[pid]
    if cpu.asked is not None:
        for data in cpu.asked.waiting():
            yield wq_pool.unpack_item(data), None
    for worker in (*cpu.tasks.values(), *(p for m in inbox(cpu) for p in tasks_in(cpu, m))):
        if worker.run.item:
            yield wq_pool.unpack_item(worker.run.item), worker
    for message in (*cpu.inbox, *cpu.deferred):
        if message[4] == messages.QUEUE_WORK:
            yield wq_pool.unpack_item(message[5][0]), None
        elif message[4] == messages.RUN_HW_QUEUE:
            yield blk_mq_hctx.item_in(message), None
        elif message[4] == messages.WQ_WORK and message[5][1] == FETCHED_ITEM:
            yield wq_pool.unpack_item(message[5][2]), None


def had_effect(cpu: Cpu, worker: Task) -> bool:
    """Whether a worker has completed the IO of its item: it is in the tail, or gave way after it."""
    kind, arg = worker.run.kind, worker.run.arg
    if worker is cpu.rq.curr:
        bottom = cpu.stack[0] if cpu.stack else (cpu.f_kind, 0, cpu.f_arg)
        if bottom[0] != frames.SCHEDULE:
            kind, arg = bottom[0], bottom[2]
    return kind == frames.WORK_RESCHED or (kind == frames.WORK_TAIL and not arg)


def mail_ios(cpu: Cpu) -> Iterator[Io]:
    """Yield the IOs whose end is in the mail here."""
    for message in inbox(cpu):
        if message[4] == messages.DIO_DONE:
            yield [message[5][0], message[5][3]]
