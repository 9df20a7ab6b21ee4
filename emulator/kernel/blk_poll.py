"""Polled IO: ``blk_poll()`` of v5.4 to ``bio_poll()`` of v6.12, ``io_iopoll_check()`` (A.8).

Theory of operation
-------------------
A queue with polled hardware queues (``poll_queues``) takes a request that is sent with REQ_HIPRI there.
Its completion raises no interrupt: it is an entry of a completion queue in memory, and is found by
whoever looks.  That is the submitter, who *spins*: it looks again and again, in the kernel, until
there is something or it is asked to give way.  What it finds it ends itself, in its own context, on the
CPU where it then is.  So a read costs no interrupt, no softirq and no wakeup, and all of a CPU.

Who polls: a ring with IORING_SETUP_IOPOLL, in the ``io_uring_enter()`` that waits; up to v5.18 also
``preadv2()`` and ``pwritev2()`` with RWF_HIPRI (``rules.poll_async_only``).  libaio never does.  Asked to
give way, the former goes back to user space, which comes again; the latter calls ``io_schedule()``
without sleeping.

The end of a polled write on XFS still queues its work on this very CPU (:mod:`iomap`), and the worker
has to wait until the poller gives way.  From v6.6 on (``rules.poll_inline_only``) such a write is not
polled but interrupts; its ring spins all the same.  Synchronous IO needs no worker.

With ``io_poll_delay`` other than -1, up to v6.3 (``rules.poll_classic_only``), a poller sleeps once for
each request before it spins: so many microseconds, or with 0 half of the mean time that requests of
this kind took in the last 100 ms (``blk_mq_poll_nsecs()``).

Without polled queues REQ_HIPRI is dropped and the request interrupts; the ring spins, ``pwritev2()``
sleeps.  After v6.6 (``rules.poll_or_fail``) such a request of a ring fails with EOPNOTSUPP.

Departures from the kernel: a poller finds the entries of its own requests only, those of others in the
same queue are left to them; a polled request's tag is one of its CPU's default queue, and one that
finds none makes the poller poll, where the kernel hands it to a worker (REQ_NOWAIT); an entry of a CPU
that its owner has left is seen one coherence latency late; what a worker completes is in the ring at
once, not when the poller next looks; times for ``io_poll_delay`` 0 are kept per CPU.  Polled
requests of null_blk are done at once and never with the device, so of its faults only ``busy`` strikes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import blk_mq, core, frames, iomap, mail
from emulator.kernel.blk_queue import BlockQueue
from emulator.kernel.blk_stat import poll_stats_bucket
from emulator.kernel.request import REQ_HIPRI, Request
from emulator.types import READ, Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task
    from emulator.kernel.xfs_file import FileFacts

EOPNOTSUPP = 95
BLK_MQ_POLL_CLASSIC = -1

# What a poller polls for: the first item of its frames' argument.
REAP = 0  # [REAP, min_nr, nr]: entries of its ring
SYNC = 1  # [SYNC]: its pread() or pwrite()
ANY = 2  # [ANY, frame kind, ns]: any request of its own, then that frame tries again


# -- Submission ---------------------------------------------------------------------------------


def fails(cpu: Cpu, q: BlockQueue, facts: FileFacts, rw: int) -> bool:
    """Whether a polled IO fails because the queue has nothing to poll."""
    if q.poll_queues or not cpu.rq.rules.poll_or_fail:
        return False
    return may_poll(cpu, facts, rw)


def may_poll(cpu: Cpu, facts: FileFacts, rw: int) -> bool:
    """``iomap_dio_bio_iter()``: whether the end of such an IO needs no worker, where that is asked."""
    rules = cpu.rq.rules
    if rw == READ or facts.fs == "none" or not rules.poll_inline_only:
        return True
    return rules.dio_overwrite_inline


def bio_set_polled(cpu: Cpu, p: Task, q: BlockQueue, facts: FileFacts, rq: Request) -> None:
    """Send a request to a polled queue, if there is one: its completion is the submitter's to find."""
    if not q.poll_queues or not may_poll(cpu, facts, rq.rw):
        return
    rq.dio |= REQ_HIPRI
    p.run.poll_list.append([rq.iocb, rq.queue, poll_stats_bucket(rq), 0])


# -- Completion ---------------------------------------------------------------------------------


def posted(cpu: Cpu, rq: Request) -> None:
    """A completion is in the queue: its owner finds it, here or where he is."""
    owner = cpu.tasks.get(rq.pid)
    if owner is not None:
        iomap.ended_here(cpu, owner, rq)
        entry_arrives(cpu, owner, rq)
        return
    moves, target = iomap.way_to_owner(cpu, rq)
    cpu.send_mail(target, messages.POLL_ENTRY, (rq.pid, moves, rq.pack()))


def handle_entry(cpu: Cpu, message: Message) -> None:
    """An entry for a task that has come here meanwhile, or is on its way, or has gone on."""
    pid, moves, data = message[5]
    owner = cpu.tasks.get(pid)
    if owner is not None:
        owner.run.remote_ios -= 1
        assert owner.run.remote_ios >= 0, cpu.story(f"unexpected mail {message}")
        entry_arrives(cpu, owner, Request.unpack(data))
    else:
        mail.send_on(cpu, message, pid, moves)


def entry_arrives(cpu: Cpu, owner: Task, rq: Request) -> None:
    """The entry is where its owner is, and goes with him until he looks."""
    run = owner.run
    run.iocbs[rq.iocb][3] = 2
    run.polled.append(rq.pack())
    found(cpu, owner)


def found(cpu: Cpu, owner: Task) -> None:
    """If the owner spins here, the look that is under way finds something."""
    if owner is not cpu.rq.curr:
        return
    if cpu.f_kind == frames.POLL_SPIN:
        arg = cpu.f_arg
    else:
        arg = next((frame[2] for frame in cpu.stack if frame[0] == frames.POLL_SPIN), None)
    if arg is not None:
        cpu.mail_sleepers.pop(owner.pid, None)
        cpu.answered(frames.POLL_SPIN, frames.POLL_LOOK, arg, cpu.costs.blk_poll_ns)


# -- Polling ------------------------------------------------------------------------------------


def poll(cpu: Cpu, arg: list[Any]) -> None:
    """Start to poll: first one look."""
    cpu.start(frames.POLL_LOOK, cpu.costs.blk_poll_ns, arg)


def look(cpu: Cpu, arg: list[Any]) -> None:
    """``blk_poll()``: one look is over; end what was found, be done, give way, sleep, or spin."""
    p = cpu.rq.curr
    run = p.run
    if run.remote_ios:
        mail.drain(cpu)
    if run.polled:
        costs = cpu.costs
        each = costs.blk_start_request_ns + costs.blk_end_request_ns + costs.blk_done_request_ns
        cpu.start(frames.POLL_END, each, arg)
    elif is_done(p, arg):
        done(cpu, arg)
    elif cpu.rq.need_resched:
        give_way(cpu, p, arg)
    elif not hybrid_sleep(cpu, p, arg):
        cpu.wait(frames.POLL_SPIN, arg)
        if run.remote_ios:
            cpu.mail_sleepers[p.pid] = 1


def spin_interrupted(cpu: Cpu) -> None:
    """An interrupt returns to a spinning poller: it goes on unless it has to give way."""
    if cpu.rq.need_resched:
        cpu.mail_sleepers.pop(cpu.rq.curr.pid, None)
        poll(cpu, cpu.f_arg)


def is_done(p: Task, arg: list[Any]) -> bool:
    """Whether a poller has what it polls for."""
    if arg[0] == REAP:
        ring = p.run.uring
        return ring is not None and len(ring.cqes) >= arg[1]
    return -1 not in p.run.iocbs if arg[0] == SYNC else not in_flight(p)


def done(cpu: Cpu, arg: list[Any]) -> None:
    """Go on with what the polling was for."""
    if arg[0] == REAP:
        cpu.start(frames.URING_REAP, 0, [arg[1], arg[2], 1])
    elif arg[0] == SYNC:
        cpu.start(frames.RW_EXIT, cpu.costs.syscall_ns)
    else:
        cpu.start(arg[1], arg[2])


def give_way(cpu: Cpu, p: Task, arg: list[Any]) -> None:
    """``need_resched()`` ends the loop: back to user space and in again, or a ``schedule()``."""
    p.run.kind = frames.POLL_LOOK
    p.run.left = cpu.costs.blk_poll_ns
    if arg[0] == REAP:
        p.run.left += cpu.costs.syscall_ns + cpu.costs.io_getevents_ns
    p.run.arg = arg
    core.schedule(cpu)


def end_entry(cpu: Cpu, arg: list[Any]) -> None:
    """One entry has been worked off: its request ends here, in the poller."""
    p = cpu.rq.curr
    run = p.run
    rq = Request.unpack(run.polled.pop(0))
    run.iocbs[rq.iocb][3] = 1
    rq.moves, rq.remote = p.moves, 0
    cpu.cause = rq.cause
    poll_list_del(cpu, p, rq)
    cpu.count("polled_completions")
    cpu.start(frames.POLL_ENDED, 0, arg)
    blk_mq.end_request(cpu, rq)
    if cpu.f_kind == frames.POLL_ENDED:
        ended(cpu, arg)


def ended(cpu: Cpu, arg: list[Any]) -> None:
    """The next entry of the same look; else what was found is counted."""
    p = cpu.rq.curr
    if p.run.polled:
        look(cpu, arg)
    elif arg[0] == ANY:
        done(cpu, arg)
    else:
        look(cpu, arg)


def poll_list_del(cpu: Cpu, p: Task, rq: Request) -> None:
    """A polled request is over; its time counts for those to come."""
    p.run.poll_list = [entry for entry in p.run.poll_list if entry[0] != rq.iocb]
    q = cpu.queues[rq.queue]
    if q.poll_nsec == 0:
        q.poll_stats.add(poll_stats_bucket(rq), cpu.now - rq.start_ns, cpu.now)


def in_flight(p: Task) -> bool:
    """Whether a task has polled requests whose ends nobody else will see."""
    run = p.run
    if run.poll_list:
        # A timeout has ended some otherwise.
        run.poll_list = [entry for entry in run.poll_list if entry[0] in run.iocbs]
    return bool(run.poll_list)


def wait_any(cpu: Cpu, p: Task, kind: int, left: int) -> bool:
    """Poll, instead of a sleep that nobody would end, if a task has polled requests; else False.

    What is under the plug goes out first; a frame of ``kind`` tries again.
    """
    if not in_flight(p):
        return False
    arg = [ANY, kind, left]
    if p.run.plug:
        queue = p.run.plug[0].queue
        blk_mq.flush_plug(cpu, p)
        blk_mq.dispatch_loop(cpu, [queue, "frame", frames.POLL_LOOK, arg])
    else:
        poll(cpu, arg)
    return True


def rw_waits(cpu: Cpu, p: Task) -> bool:
    """``pwritev2()``: poll for its request if it is polled; else False."""
    if not in_flight(p):
        return False
    poll(cpu, [SYNC])
    return True


# -- Hybrid polling -----------------------------------------------------------------------------


def hybrid_sleep(cpu: Cpu, p: Task, arg: list[Any]) -> bool:
    """``blk_mq_poll_hybrid_sleep()``: sleep once for the oldest request; return whether it does."""
    if cpu.rq.rules.poll_classic_only or not in_flight(p):
        return False
    entry = p.run.poll_list[0]
    _iocb, queue, bucket, slept = entry
    q = cpu.queues[queue]
    if slept or q.poll_nsec == BLK_MQ_POLL_CLASSIC:
        return False
    nsecs = q.poll_nsec or q.poll_stats.half_mean_ns(bucket, cpu.now)
    if not nsecs:
        return False
    entry[3] = 1
    cpu.count("poll_sleeps")
    until_ns = cpu.now + nsecs
    again_ns = cpu.costs.blk_poll_ns
    core.sleep_on_timer(cpu, p, until_ns, tp.TASK_UNINTERRUPTIBLE, frames.POLL_LOOK, again_ns, arg)
    return True
