"""Waiting for works, and taking them back: ``flush_workqueue()``, ``drain_workqueue()``, cancel (F.9).

Theory of operation
-------------------
A flush waits for all items of a queue that are there when it begins, wherever they are: on lists,
delayed, with workers.  Whoever flushes asks every other CPU, or the shared-state node for an unbound
queue, and sleeps.  Each pool notes which items are meant (:attr:`Cpu.flushers`) and answers when the
last of them has ended; the last answer wakes the task.  A drain is flushes until nothing is found.
Cancelling takes an item off this CPU's list; one that executes is waited for.

Departures from the kernel: colours and barrier items are one thing, a list of the items meant, so that
nothing limits how many flush at a time; an item that is on its way to a pool is not seen; a drained
queue refuses nobody, for only its own module queues to it; an item is cancelled where its module is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import (
    core,
    cpuhp,
    frames,
    pipe,
    syscall,
    wq_delayed,
    wq_pool,
    wq_unbound,
)
from emulator.kernel.process import WAIT_FLUSH
from emulator.kernel.wq_table import WQ_NAMES
from emulator.types import Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task

#: Somebody who waits: [queue, works meant, pid, moves, CPU, how many works were meant].
Flusher = list[Any]


def flush(cpu: Cpu, queue: str) -> None:
    """``flush_workqueue()`` of the current task; it returns how many items it has waited for."""
    p = cpu.rq.curr
    wq_id = WQ_NAMES.index(queue)
    here = works_here(cpu, wq_id)
    if cpu.workqueues[wq_id].unbound:
        wq_unbound.ask(cpu, messages.WQ_FLUSH, (p.pid, p.moves, wq_id))
        answers = 1
    else:
        others = [other for other in range(cpu.nr_cpus) if other != cpu.node_id]
        for other in others:
            effect_ns = cpu.now + cpuhp.reply_ns(cpu)
            args = (p.pid, p.moves, wq_id)
            cpu.send(other, messages.WQ_FLUSH, args, effect_ns, cpuhp.reply_ns(cpu))
        answers = len(others) + bool(here)
    wait(cpu, p, wq_id, here, len(here), answers)


def wait(cpu: Cpu, p: Task, wq_id: int, here: list[int], nr: int, answers: int) -> None:
    """Sleep until the works meant here have ended and all others have answered."""
    if not answers:
        syscall.return_to_user(cpu, 0)
        return
    if here:
        cpu.flushers.append([wq_id, here, p.pid, p.moves, cpu.node_id, nr])
    p.run.wait = WAIT_FLUSH
    p.run.wait_arg = answers
    core.block(cpu, p, tp.TASK_UNINTERRUPTIBLE, frames.RET_USER, 0, 0)


def works_here(cpu: Cpu, wq_id: int) -> list[int]:
    """Return a bound queue's works of this CPU's pool that have not ended."""
    pool = cpu.pools[cpu.workqueues[wq_id].pool]
    items = [*pool.executing.values(), *pool.worklist, *pool.delayed.get(wq_id, ())]
    works = [item[0] for item in items if item[2] == wq_id]
    works += [
        work for _where, _moves, queue, work, _function in pool.away.values() if queue == wq_id
    ]
    return works if cpu.asked is None else works + cpu.asked.works_of(wq_id)


def handle_flush(cpu: Cpu, message: Message) -> None:
    """Another CPU flushes a queue: answer now, or when the items that are here have ended."""
    source = message[1]
    pid, moves, wq_id = message[5]
    here = works_here(cpu, wq_id)
    flusher: Flusher = [wq_id, here, pid, moves, source, len(here)]
    if here:
        cpu.flushers.append(flusher)
    else:
        answer(cpu, flusher)


def answer(cpu: Cpu, flusher: Flusher) -> None:
    """All that a flusher meant here has ended: tell where it sleeps."""
    _wq_id, _here, pid, moves, where, nr = flusher
    p = cpu.tasks.get(pid)
    if p is not None:
        counted(cpu, p, nr)
        if not p.run.wait_arg:
            core.wake_up(cpu, p)
        return
    args = (pid, moves, nr, cpu.node_id, cpu.rq.curr.pid, cpu.cause)
    if where == cpu.node_id:  # it has left since
        pipe.follow(cpu, (cpu.now, cpu.node_id, 0, cpu.node_id, messages.WQ_FLUSHED, args))
        return
    effect_ns = cpu.now + cpuhp.reply_ns(cpu)
    cpu.send(where, messages.WQ_FLUSHED, args, effect_ns, cpuhp.reply_ns(cpu))


def counted(cpu: Cpu, p: Task, nr: int) -> None:
    """One answer more has come to a task that flushes; it is to return how many works there were."""
    assert p.run.wait == WAIT_FLUSH, cpu.story(f"{p.comm} does not flush")
    assert p.run.wait_arg > 0, cpu.story(f"{p.comm} has all answers to its flush")
    p.run.arg += nr
    p.run.wait_arg -= 1


def handle_flushed(cpu: Cpu, message: Message) -> None:
    """What a task here flushed has ended elsewhere."""
    _pid, _moves, nr, waker_cpu, waker_pid, cause = message[5]
    p = pipe.addressee(cpu, message)
    if p is None:
        return
    counted(cpu, p, nr)
    if not p.run.wait_arg:
        cpu.cause = cause
        core.try_to_wake_up(cpu, p, waker=(waker_cpu, waker_pid))


def work_ended(cpu: Cpu, work: int) -> None:
    """An item has ended here: whoever waited for it last is told, over the frame that goes on."""
    for flusher in list(cpu.flushers):
        if work in flusher[1]:
            flusher[1].remove(work)
            if not flusher[1]:
                cpu.flushers.remove(flusher)
                answer(cpu, flusher)


def cancel(cpu: Cpu, number: int) -> None:
    """``cancel_work_sync()`` of a module's item; it returns 1 if that had not begun."""
    p = cpu.rq.curr
    name = f"{p.comm}.w{number}"
    if wq_delayed.cancel_delayed_work(cpu, name):
        syscall.return_to_user(cpu, 1)
        return
    for pool in cpu.pools:
        for wq_id in {item[2] for item in pool.worklist} | pool.delayed.keys():
            for waiting in (pool.worklist, pool.delayed.get(wq_id, [])):
                item = next((one for one in waiting if is_item(one, wq_id, name)), None)
                if item is None:
                    continue
                waiting.remove(item)
                if waiting is pool.worklist:
                    wq_pool.pwq_dec_nr_in_flight(cpu, pool, wq_id)
                cpu.works[1] += 1
                cpu.count(f"item.{name}.cancelled")
                syscall.return_to_user(cpu, 1)
                work_ended(cpu, item[0])
                return
        for item in pool.executing.values():
            if is_item(item, item[2], name):
                wait(cpu, p, item[2], [item[0]], 0, 1)
                return
    syscall.return_to_user(cpu, 0)


def is_item(item: list[Any], wq_id: int, name: str) -> bool:
    """Whether an item is a module's of this name, on this queue."""
    return bool(
        item[2] == wq_id and item[1] == wq_pool.FN_MODULE and item[3] and item[3][0] == name
    )
