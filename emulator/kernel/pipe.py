"""Pipes: ``pipe_read()`` and ``pipe_write()`` of ``fs/pipe.c``, v5.4.

Theory of operation
-------------------
A pipe has one reader and one writer, both tasks of the box's workloads, and both move.  What is in
the pipe belongs to its reader and travels with it, as everything does that a task waits for.  Every
write has a number; the reader takes them in that order, whatever way they came.

A reader that finds its pipe empty sleeps, and leaves an entry in the wait queue: with the writer,
since it is the writer that looks there.  The entry is what ``try_to_wake_up()`` reads of a sleeper
(mask, previous CPU, load, flips), as of when it went to sleep.  So the writer's CPU takes the whole
decision, pays for it and records it; the wakeup is a synchronous one (WF_SYNC).  What was written
and what was decided go in one message (PIPE_DATA) to the CPU where the reader sleeps, and that hands
the task over.  Where both are on one CPU it is a wakeup like any other and no message at all.

The two know each other's residence (``Task.moves`` and the CPU) from the last message between them;
a message that comes too late follows the task, one that comes too early waits for it
(:mod:`emulator.kernel.mail`).

Departures from the kernel: a write is one number of 8 bytes; the writer never finds its pipe full
(8,192 of them); entry and data are ``min(ipi_ns, ttwu_activate_ns)`` late, so data may find the
reader asleep whose entry is still on its way: then the reader's CPU takes the decision on behalf of
the writer, who has paid nothing.  So it is for a reader that waits for several pipes at once: it
leaves no entry, which all but one of the writers would find when it sleeps no longer; and it pays for
one system call, not for poll() and read().  Data for a reader that has exited is dropped, nobody gets
SIGPIPE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import core, cpuhp, frames, placement, syscall
from emulator.kernel.process import WAIT_PIPE, PipeEnds
from emulator.kernel.sched import ENQUEUE_MIGRATED, ENQUEUE_WAKEUP, TASK_WAKING, WF_MIGRATED, Task

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.types import BoxSpec, Message

#: Writes that fit into a pipe: 16 pages of 8-byte numbers.
CAPACITY = 16 * 4096 // 8

#: Who reads and who writes a pipe: (pid, CPU on which it is forked) of both.
Pair = tuple[int, int, int, int]


def pipe_table(spec: BoxSpec, first_pid: int) -> dict[int, Pair]:
    """Return the two ends of every pipe that the box's programs name, by pipe."""
    readers: dict[int, tuple[int, int]] = {}
    writers: dict[int, tuple[int, int]] = {}
    for index, workload in enumerate(spec.workloads):
        end = (first_pid + 100 * index, workload.home)
        for pipe in workload.params.get("reads", ()):
            assert pipe not in readers, f"pipe {pipe} has two readers"
            readers[pipe] = end
        for pipe in workload.params.get("writes", ()):
            assert pipe not in writers, f"pipe {pipe} has two writers"
            writers[pipe] = end
    assert readers.keys() == writers.keys(), "a pipe lacks an end"
    return {pipe: (*readers[pipe], *writers[pipe]) for pipe in readers}


def open_pipes(cpu: Cpu, p: Task) -> None:
    """Give a new task its ends of the box's pipes, if it has any."""
    ends = PipeEnds()
    for pipe, (reader, reader_home, writer, writer_home) in cpu.pipes.items():
        if p.pid == reader:
            ends.unread[pipe] = {}
            ends.next_read[pipe] = 0
            ends.peers[pipe] = (0, writer_home)
        elif p.pid == writer:
            ends.next_write[pipe] = 0
            ends.peers[pipe] = (0, reader_home)
    if ends.peers:
        p.run.pipes = ends


def ends_of(p: Task) -> PipeEnds:
    """Return the pipe ends of a task that has some."""
    ends: PipeEnds | None = p.run.pipes
    assert ends is not None, f"{p.comm}/{p.pid} has no pipe"
    return ends


# -- read() -------------------------------------------------------------------------------------


def sys_read(cpu: Cpu, pipes: list[int]) -> None:
    """Start ``read()`` of one number from a pipe, or from the first of several that has one."""
    cpu.start(frames.PIPE_READ, cpu.costs.syscall_ns + cpu.costs.pipe_read_ns, pipes)


def pipe_read(cpu: Cpu, pipes: list[int]) -> None:
    """Take the next number out of a pipe, or sleep until there is one."""
    p = cpu.rq.curr
    ends = ends_of(p)
    for pipe in pipes:
        number = ends.next_read[pipe]
        if number in ends.unread[pipe]:
            ends.next_read[pipe] = number + 1
            cpu.piped[pipe] = cpu.piped.get(pipe, 0) - 1
            syscall.return_to_user(cpu, ends.unread[pipe].pop(number))
            return
    p.run.wait = WAIT_PIPE
    core.block(cpu, p, tp.TASK_INTERRUPTIBLE, frames.PIPE_READ, cpu.costs.pipe_read_ns, pipes)
    if len(pipes) == 1:
        prepare_to_wait(cpu, p, pipes[0])


def prepare_to_wait(cpu: Cpu, p: Task, pipe: int) -> None:
    """``prepare_to_wait()``: leave the entry of a reader that goes to sleep with its writer."""
    writer_pid = cpu.pipes[pipe][2]
    entry = [p.run.wait_since, p.pack_se()]
    writer = cpu.tasks.get(writer_pid)
    if writer is not None:
        keep_entry(writer, pipe, p.moves, cpu.node_id, entry)
        return
    moves, target = ends_of(p).peers[pipe]
    args = (writer_pid, moves, pipe, p.moves, cpu.node_id, *entry)
    send(cpu, target, messages.PIPE_WAIT, args, cpu.now + cpuhp.reply_ns(cpu))


def keep_entry(writer: Task, pipe: int, moves: int, reader_cpu: int, entry: list[Any]) -> None:
    """Take a reader's entry into the wait queue, unless one of a later sleep is there."""
    ends = ends_of(writer)
    if moves >= ends.peers[pipe][0]:
        ends.peers[pipe] = (moves, reader_cpu)
    if pipe not in ends.waiters or ends.waiters[pipe][0] < entry[0]:
        ends.waiters[pipe] = entry


def handle_wait(cpu: Cpu, message: Message) -> None:
    """The entry of a reader elsewhere arrives at its writer."""
    pid, _moves, pipe, reader_moves, reader_cpu, since, se = message[5]
    writer = cpu.tasks.get(pid)
    if writer is None:
        if pid not in cpu.exited:
            follow(cpu, message)
        return
    keep_entry(writer, pipe, reader_moves, reader_cpu, [since, se])


# -- write() ------------------------------------------------------------------------------------


def sys_write(cpu: Cpu, pipe: int, value: int) -> None:
    """Start ``write()`` of one number."""
    cpu.start(frames.PIPE_WRITE, cpu.costs.syscall_ns + cpu.costs.pipe_write_ns, [pipe, value])


def pipe_write(cpu: Cpu, arg: list[int]) -> None:
    """Put a number into the pipe; the reader, if it sleeps for that, is woken synchronously."""
    pipe, value = arg
    p = cpu.rq.curr
    ends = ends_of(p)
    number = ends.next_write[pipe]
    ends.next_write[pipe] = number + 1
    cpu.piped[pipe] = cpu.piped.get(pipe, 0) + 1
    cpu.start(frames.PIPE_WRITTEN, 0)
    reader = cpu.tasks.get(cpu.pipes[pipe][0])
    entry = ends.waiters.pop(pipe, None)
    if reader is not None:
        receive(reader, pipe, number, value)
        if waits_for(reader, pipe):
            core.wake_up(cpu, reader, sync=True)
    elif entry is not None:
        wake_elsewhere(cpu, [pipe, number, value, *entry])
    else:
        send_data(cpu, p, [pipe, number, value], [], cpu.now + cpuhp.reply_ns(cpu))
    if cpu.f_kind == frames.PIPE_WRITTEN:
        pipe_written(cpu, None)


def pipe_written(cpu: Cpu, _arg: object) -> None:
    """``write()`` returns."""
    syscall.return_to_user(cpu, 0)


def wake_elsewhere(cpu: Cpu, what: list[Any]) -> None:
    """``try_to_wake_up()`` of a reader that sleeps on another CPU, by its entry."""
    reader = sleeper(what[4])
    what.append(cpu.emit(tp.SCHED_WAKING, reader.pid, reader.prio, reader.cpu))
    ns = cpu.costs.select_task_rq_ns if reader.nr_cpus_allowed > 1 else 0
    cpu.waking = True
    cpu.push(frames.PIPE_SELECT, ns, what, cpu.level, False)


def select_end(cpu: Cpu, what: list[Any]) -> None:
    """The CPU of the reader is chosen: data and decision leave for where it sleeps."""
    pipe, number, value, since, se, waking = what
    p = cpu.rq.curr
    reader = sleeper(se)
    costs = cpu.costs
    cpu.cause = waking
    left = costs.ttwu_activate_ns if reader.nr_cpus_allowed > 1 else costs.ttwu_ns
    wake_cpu = reader.wake_cpu
    target = placement.select_task_rq(cpu, reader, wake_cpu, cpu.node_id, p.pid, True)
    if target != reader.cpu:
        cpu.cause = cpu.emit(
            tp.SCHED_MIGRATE_TASK, reader.pid, reader.prio, reader.cpu, target, tp.MIGRATE_WAKEUP
        )
    soonest = cpu.now + cpuhp.reply_ns(cpu)
    enqueue_ns = max(cpu.now + left, soonest)
    # Where it stays on its CPU the message is the enqueue; else that CPU has to let go of it first.
    effect_ns = enqueue_ns if target == reader.cpu else soonest
    decision = [since, target, reader.recent_used_cpu, enqueue_ns]
    send_data(cpu, p, [pipe, number, value], decision, effect_ns)
    cpu.start(frames.TTWU_ACTIVATE, left)


def sleeper(se: list[Any]) -> Task:
    """Return a sleeping task as its entry in the wait queue shows it."""
    p = Task.__new__(Task)
    p.unpack_se(se)
    return p


def send_data(cpu: Cpu, p: Task, data: list[int], decision: list[int], effect_ns: int) -> None:
    """Send what was written to where the reader is believed to be."""
    pipe = data[0]
    moves, target = ends_of(p).peers[pipe]
    args = (cpu.pipes[pipe][0], moves, *data, p.pid, p.moves, cpu.node_id, decision, cpu.cause)
    send(cpu, target, messages.PIPE_DATA, args, effect_ns)


def send(cpu: Cpu, target: int, op: int, args: tuple[Any, ...], effect_ns: int) -> None:
    """Send a message about a pipe; one for a task believed here, which has left, follows it."""
    if target != cpu.node_id:
        cpu.send(target, op, args, effect_ns, cpuhp.reply_ns(cpu))
        return
    follow(cpu, (effect_ns, cpu.node_id, 0, target, op, args))


# -- Arrival ------------------------------------------------------------------------------------


def handle_data(cpu: Cpu, message: Message) -> None:
    """What was written arrives where its reader is, was, or will be."""
    pid, _moves, pipe, number, value, writer_pid, writer_moves, writer_cpu, decision, cause = (
        message[5]
    )
    if pid in cpu.exited:
        cpu.piped[pipe] = cpu.piped.get(pipe, 0) - 1
        return
    reader = addressee(cpu, message)
    if reader is None:
        return
    ends = ends_of(reader)
    if writer_moves >= ends.peers[pipe][0]:
        ends.peers[pipe] = (writer_moves, writer_cpu)
    receive(reader, pipe, number, value)
    if not waits_for(reader, pipe):
        return
    cpu.cause = cause
    if still_holds(reader, decision):
        wake_as_decided(cpu, reader, decision, writer_cpu)
    else:
        core.try_to_wake_up(cpu, reader, sync=True, waker=(writer_cpu, writer_pid))


def follow(cpu: Cpu, message: Message) -> None:
    """Send a message on along the way that its task took, or keep it until the task arrives."""
    effect_ns, _source, _seq, _target, op, args = message
    where = cpu.forward.get(args[0])
    if where is not None and where[0] > args[1]:
        soonest = max(effect_ns, cpu.now + cpuhp.reply_ns(cpu))
        cpu.send(where[1], op, (args[0], where[0], *args[2:]), soonest, cpuhp.reply_ns(cpu))
    else:
        cpu.held.setdefault(args[0], []).append(message)


def addressee(cpu: Cpu, message: Message) -> Task | None:
    """Return the task that a message wakes; None: the message has gone after it, or has to wait."""
    p = cpu.tasks.get(message[5][0])
    if p is None:
        follow(cpu, message)
    elif p.on_cpu and not p.on_rq:
        cpu.deferred.append(message)  # its waker would spin until the switch is over
        return None
    return p


def receive(reader: Task, pipe: int, number: int, value: int) -> None:
    """Put a number into the pipe."""
    unread = ends_of(reader).unread[pipe]
    assert number not in unread, f"write {number} of pipe {pipe} arrives twice"
    assert len(unread) < CAPACITY, f"pipe {pipe} is full"
    unread[number] = value


def waits_for(reader: Task, pipe: int) -> bool:
    """Whether a task sleeps until this pipe has its next number, and it has."""
    run = reader.run
    if run.wait != WAIT_PIPE or reader.state in (tp.TASK_RUNNING, TASK_WAKING):
        return False
    if pipe not in run.arg:
        return False
    ends = ends_of(reader)
    return ends.next_read[pipe] in ends.unread[pipe]


def still_holds(reader: Task, decision: list[int]) -> bool:
    """Whether a wakeup was decided, for this very sleep, and for a CPU where the reader may run.

    Where all CPUs of its mask have gone offline its affinity must be broken, which is done here.
    """
    if not decision or decision[0] != reader.run.wait_since or reader.on_rq:
        return False
    return bool(reader.cpus_mask >> decision[1] & 1)


def wake_as_decided(cpu: Cpu, p: Task, decision: list[int], waker_cpu: int) -> None:
    """Let a wakeup that its waker's CPU has decided and recorded take effect."""
    _since, target, recent_used_cpu, enqueue_ns = decision
    p.state = TASK_WAKING
    p.run.cause = cpu.cause
    p.recent_used_cpu = recent_used_cpu
    flags = ENQUEUE_WAKEUP
    if target != p.cpu:
        cpu.rq.fair.migrate_task_rq(cpu.rq, p, True)
        core.change_task_cpu(cpu, p, target)
        flags |= ENQUEUE_MIGRATED
    if target == cpu.node_id:
        asked = cpu.rq.need_resched
        core.ttwu_do_activate(cpu, p, flags)
        core.smp_send_reschedule_here(cpu, asked)
        return
    soonest = max(enqueue_ns, cpu.now + cpuhp.reply_ns(cpu))
    core.send_task(cpu, p, target, soonest, WF_MIGRATED, waker_cpu)


def close_pipes(cpu: Cpu, p: Task) -> None:
    """An exiting task closes its ends: what it has not read is gone."""
    if p.run.pipes is not None:
        for pipe, unread in p.run.pipes.unread.items():
            cpu.piped[pipe] = cpu.piped.get(pipe, 0) - len(unread)
