"""Where the work of a finished direct write goes: ``iomap_dio_bio_end_io()`` and what was proposed.

Theory of operation
-------------------
A bio ends in a softirq, an interrupt, or in the submitter.  The policy (``kernel.completion``) decides
there, on what that CPU knows: :data:`TARGETS` has one function per policy, which returns the CPU whose
pool is to do the work, and why.  ``bound`` has none: the plain kernel does not decide.  Nor have those
that make the workqueue unbound: the waker places the worker as any task (:mod:`wq_unbound`).

A work for this CPU is queued as ever; ``rescue`` looks at it again at each tick
(:mod:`completion_rescue`).  One for another CPU is a ``queue_work_on()``: this CPU takes
that pool's lock, appends the work, and wakes the pool's worker if none runs, which it pays for.  Then
the work travels as a message and takes effect there when this CPU is done with it
(:func:`queue_work_here`): the worker is woken on behalf of this CPU, with a wake list or an IPI as any
wakeup from elsewhere.

The work needs cache lines that the submitter dirtied: whoever completes an IO of another CPU may be
charged for them (``completion_refill_ns``).

What is decided is recorded: ``box_completion`` with the CPU chosen and why, and, for each signal that
was asked, ``box_saturation`` with what it read.

A box may go over to another policy while it runs (:func:`change`): from then on each bio that ends goes by
the new one.  What has been queued, sent away or left to its submitter is completed there.

Departures from the kernel: an inline completion has its effect first and takes its time afterwards.
Whether a remote pool's worker has to be woken is known to its queuer as of the coherence latency.
A policy goes for buffered writeback's works too, which the proposals left alone.  ``caller`` leaves an
io_uring's writes to the submitter only by ``rules.dio_caller_comp``, which a box keeps as it was booted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.completion import SIGNALS, CompletionSpec
from emulator.completion_word import live_problem, resolve_completion
from emulator.kernel import (
    aio,
    core,
    frames,
    iomap,
    saturation,
    smp,
    workqueue,
    wq_hotplug,
    wq_pool,
    wq_table,
)
from emulator.kernel.process import MAIL_WAITS
from emulator.kernel.request import Request
from emulator.kernel.xfs_file import IOMAP_DIO_URING, NOT_PURE
from emulator.topology import for_each_cpu_wrap
from emulator.types import RQ_FLAGS, RQF_IDLE, RQF_KWORKER_ASLEEP, Message

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu

#: By name, its number in ``box_saturation``.
SIGNAL_NUMBERS = {name: number for number, name in enumerate(SIGNALS)}


class DioCompletion:
    """One CPU's part of a completion policy: its parameters, and where its turns have got to."""

    __slots__ = (
        "batch",
        "caller",
        "inline",
        "left",
        "name",
        "ns",
        "remote",
        "rescues",
        "signals",
        "spec",
        "target",
        "turn",
        "woken",
        "wq",
    )

    def __init__(self, spec: CompletionSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.target = TARGETS.get(spec.name)
        self.inline = spec.name == "inline-overwrite"
        self.caller = spec.name == "caller"
        self.rescues = spec.name == "rescue"  # works may leave at a tick
        self.remote = spec.name in REMOTE  # works may go to other CPUs
        self.wq = wq_table.WQ_EVENTS if spec.name == "system-wq" else -1
        self.batch = spec.batch
        self.signals = [
            (SIGNAL_NUMBERS[name], SIGNALS[name].read_ns, saturation.SIGNALS[name], limit)
            for name, limit in spec.signals
        ]
        self.turn = -1  # whose turn it is
        self.left = 0  # completions left of it
        self.ns = 0  # what the decision took
        self.woken = [-1, 0]  # whose worker was woken last, and when that is seen here

    def has_just_woken(self, cpu: Cpu, target: int) -> bool:
        """Whether the CPU knows that a worker is awake because it woke that worker itself."""
        return target == self.woken[0] and cpu.now <= self.woken[1]

    def pack(self) -> list[Any]:
        """Return the policy and where it has got to, as plain data."""
        spec = self.spec
        signals = [list(signal) for signal in spec.signals]
        return [spec.name, spec.batch, signals, self.turn, self.left, self.ns, *self.woken]

    @classmethod
    def unpack(cls, data: list[Any]) -> DioCompletion:
        """Rebuild what :meth:`pack` returned."""
        name, batch, signals, *changing = data
        policy = cls(CompletionSpec(name, batch, tuple((one, limit) for one, limit in signals)))
        policy.turn, policy.left, policy.ns, *policy.woken = changing
        return policy


def policy_of(spec: CompletionSpec) -> DioCompletion | None:
    """Return a CPU's part of a box's policy, None if the workqueue itself is all there is to it."""
    return DioCompletion(spec) if spec.name in TARGETS else None


def change(cpu: Cpu, word: str) -> str:
    """Go over to another policy; return "done", or why not."""
    problem = live_problem(word, cpu.spec.kernel)
    if problem:
        return f"refused: {problem}"
    asked = resolve_completion(word, cpu.rq.rules)
    if asked == (CompletionSpec() if cpu.completion is None else cpu.completion.spec):
        return f"refused: it is {word} already"
    cpu.completion = policy_of(asked)
    cpu.publish()  # whether a worker sleeps is published where somebody may ask
    return "done"


# -- Policies: which CPU, and why ---------------------------------------------------------------


def here(cpu: Cpu, _policy: DioCompletion, _rq: Request) -> tuple[int, int]:
    """The CPU on which the bio ended (F2, F8, F24)."""
    return cpu.node_id, tp.COMPLETION_RULE


def submitter(cpu: Cpu, _policy: DioCompletion, rq: Request) -> tuple[int, int]:
    """The CPU that submitted the IO, unless it has died."""
    if cpu.domains.active_mask >> rq.ctx_cpu & 1:
        return rq.ctx_cpu, tp.COMPLETION_RULE
    return cpu.node_id, tp.COMPLETION_DEAD


def next_online(cpu: Cpu, _policy: DioCompletion, _rq: Request) -> tuple[int, int]:
    """The next online CPU, after the last the first again (F1)."""
    online = for_each_cpu_wrap(cpu.domains.active_mask, cpu.node_id + 1)
    return online[0], tp.COMPLETION_RULE


def round_robin(cpu: Cpu, policy: DioCompletion, _rq: Request) -> tuple[int, int]:
    """CPUs of this CPU's cache in turn, a batch of completions each (F10, F11)."""
    llc = cpu.domains.llc(cpu.node_id)
    if not llc:
        return cpu.node_id, tp.COMPLETION_NO_CACHE
    if not policy.left or not llc >> policy.turn & 1:
        start = policy.turn + 1 if policy.turn >= 0 else cpu.node_id
        policy.turn = for_each_cpu_wrap(llc, start)[0]
        policy.left = policy.batch
        policy.ns += llc.bit_count()  # the search for it goes over the mask
    policy.left -= 1
    return policy.turn, tp.COMPLETION_RULE


def unless_saturated(cpu: Cpu, policy: DioCompletion, _rq: Request) -> tuple[int, int]:
    """This CPU, unless every signal says that it is saturated and a CPU of its cache idles (F5)."""
    for number, read_ns, read, limit in policy.signals:
        policy.ns += read_ns
        value, saturated = read(cpu, limit)
        cpu.cause = cpu.emit(tp.BOX_SATURATION, cpu.node_id, number, value, limit, int(saturated))
        if not saturated:
            return cpu.node_id, tp.COMPLETION_NOT_SATURATED
    found = idle_in_cache(cpu, policy)
    if found < 0:
        return cpu.node_id, tp.COMPLETION_NONE_IDLE
    return found, tp.COMPLETION_IDLE


def idle_in_cache(cpu: Cpu, policy: DioCompletion) -> int:
    """Return the first idle CPU after this one that shares its cache, -1 if there is none (#23)."""
    for other in for_each_cpu_wrap(cpu.domains.llc(cpu.node_id), cpu.node_id + 1):
        if other == cpu.node_id:
            continue
        policy.ns += cpu.costs.coherence_ns
        if cpu.view(other)[RQ_FLAGS] & RQF_IDLE:
            return other
    return -1


Target = Callable[["Cpu", DioCompletion, Request], tuple[int, int]]

#: By name, what the policy chooses.
TARGETS: dict[str, Target] = {
    "submitter": submitter,
    "next-online": next_online,
    "system-wq": here,
    "round-robin": round_robin,
    "wq-cache-bound": round_robin,
    "inline-overwrite": here,
    "caller": here,
    "unless-saturated": unless_saturated,
    "rescue": here,
}
#: Policies whose works may go to another CPU's pool when they are queued.
REMOTE = frozenset(TARGETS) - {"system-wq", "inline-overwrite", "caller", "rescue"}


# -- The end of a bio ---------------------------------------------------------------------------


def queue_write(cpu: Cpu, policy: DioCompletion, rq: Request) -> bool:
    """What the policy does with an asynchronous write; return whether a worker is to be woken."""
    if not (rq.error or rq.dio & NOT_PURE):
        if policy.inline:
            complete_inline(cpu, rq)
            return False
        if policy.caller and not rq.dio & IOMAP_DIO_URING:
            leave_to_submitter(cpu, rq)
            return False
    return queue(cpu, policy, wq_table.WQ_DIO, wq_pool.FN_DIO_COMPLETE, rq)


def complete_inline(cpu: Cpu, rq: Request) -> None:
    """``iomap_dio_complete()`` in the bio's end: the blocks are written already (P7)."""
    note(cpu, rq)
    work_ns = cpu.costs.dio_complete_ns + cpu.costs.dio_tail_ns
    cpu.cause = cpu.emit(tp.BOX_COMPLETION, 0, rq.pid, cpu.node_id, tp.COMPLETION_INLINE, work_ns)
    iomap.dio_complete(cpu, rq)
    charge(cpu, work_ns)


def leave_to_submitter(cpu: Cpu, rq: Request) -> None:
    """IOCB_DIO_CALLER_COMP as it would be for AIO: ``io_getevents()`` completes the dio (P6)."""
    cpu.cause = cpu.emit(tp.BOX_COMPLETION, 0, rq.pid, cpu.node_id, tp.COMPLETION_CALLER, 0)
    owner = cpu.tasks.get(rq.pid)
    if owner is None:
        iomap.send_dio_done(cpu, rq, deferred=True)
        return
    iomap.ended_here(cpu, owner, rq)
    aio.add_dio(cpu, owner, rq.file, rq.iocb)


def queue(cpu: Cpu, policy: DioCompletion, wq_id: int, function: int, rq: Request) -> bool:
    """Queue a completion's work where the policy says; return whether to wake this pool's worker.

    ``policy.ns`` then is what the caller charges besides, if one is to be woken.
    """
    policy.ns = 0
    assert policy.target is not None
    target, why = policy.target(cpu, policy, rq)
    work = cpu.work_id()
    cpu.cause = cpu.emit(tp.BOX_COMPLETION, work, rq.pid, target, why, policy.ns)
    if policy.wq >= 0:
        wq_id = policy.wq
    if target == cpu.node_id:
        wakes = workqueue.queue_work(cpu, wq_id, function, rq, work)
        if not wakes and policy.ns:
            charge(cpu, policy.ns)
        return wakes
    if function == wq_pool.FN_DIO_COMPLETE:
        send_away(cpu, rq)
    queue_work_on(cpu, policy, target, [work, function, wq_id, rq, 0])
    return False


def charge(cpu: Cpu, ns: int) -> None:
    """Let the context that ends the bio go on only after so many ns, with interrupts off."""
    cpu.push(frames.QUEUE_WORK_ON, ns, None, cpu.level, False)


def charged(cpu: Cpu, _arg: object) -> None:
    """The time is over."""
    cpu.pop()


def send_away(cpu: Cpu, rq: Request) -> None:
    """An IO will end elsewhere: its owner, if he is here, has to expect mail of it."""
    owner = cpu.tasks.get(rq.pid)
    if owner is None:
        moves, target = cpu.forward.get(rq.pid, (-1, -1))
        if moves > rq.moves:
            if rq.remote or moves - 1 != rq.moves:
                cpu.unexpect(rq.pid)
            rq.moves, rq.home = moves, target
    elif rq.moves == owner.moves and not rq.remote:
        owner.run.remote_ios += 1
        if owner.run.wait in MAIL_WAITS and owner.state != tp.TASK_RUNNING:
            cpu.mail_sleepers[owner.pid] = 1
    else:
        rq.moves, rq.home = owner.moves, cpu.node_id  # it was to come as mail in any case
    rq.remote = 1


def note(cpu: Cpu, rq: Request) -> int:
    """Count a completion by how far it is from its submitter; return what its cache lines cost."""
    costs = cpu.costs
    if rq.ctx_cpu == cpu.node_id:
        where, refill_ns = 0, 0
    elif cpu.llc_mask >> rq.ctx_cpu & 1:
        where, refill_ns = 1, costs.completion_refill_ns
    else:
        where, refill_ns = 2, costs.completion_refill_far_ns
    if cpu.now >= cpu.spec.warmup_ns:
        cpu.completed[where] += 1
        cpu.completed[3] += refill_ns
    return refill_ns


def note_own(cpu: Cpu, nr: int) -> None:
    """Count completions by their submitter itself: nobody else needs the lines."""
    if cpu.now >= cpu.spec.warmup_ns:
        cpu.completed[0] += nr


# -- queue_work_on() another CPU ----------------------------------------------------------------


def queue_work_on(cpu: Cpu, policy: DioCompletion, target: int, item: list[Any]) -> None:
    """``queue_work_on()`` of another CPU's pool: pay, and let the work take effect there."""
    requested = wq_pool.WORK_CPU_UNBOUND if policy.name == "wq-cache-bound" else target
    work, function, wq_id, _rq, _cause = item
    cpu.works[0] += 1
    item[4] = cpu.emit(
        tp.WORKQUEUE_QUEUE_WORK,
        work,
        cpu.names[wq_pool.FUNCTIONS[function]],
        cpu.names[cpu.workqueues[wq_id].name],
        requested,
        target,
    )
    ns = insert_there(cpu, policy, target, item, policy.ns + cpu.costs.coherence_ns)
    cpu.count("works_queued_elsewhere")
    charge(cpu, ns)


def insert_there(
    cpu: Cpu, policy: DioCompletion, target: int, item: list[Any], locked_ns: int
) -> int:
    """``__queue_work()`` of a pool elsewhere, whose lock is held in so many ns; return when it is over."""
    costs = cpu.costs
    ns = locked_ns + costs.queue_work_ns
    wakes = bool(cpu.view(target)[RQ_FLAGS] & RQF_KWORKER_ASLEEP)
    if wakes and not policy.has_just_woken(cpu, target):
        ns += costs.ttwu_ns + costs.coherence_ns  # its runqueue's lock
        policy.woken = [target, cpu.now + ns + costs.coherence_ns]
    asleep = cpu.asleep >> target & 1
    cpu.send(
        target,
        messages.QUEUE_WORK,
        (wq_pool.pack_item(item), cpu.node_id, cpu.rq.curr.pid),
        cpu.now + max(ns, min(costs.ipi_ns, costs.ttwu_activate_ns)),
        # A worker that runs may take it up at once, and wakes somebody when it has completed it.
        cpu.wake_reply_ns[1] if asleep else min(cpu.wake_reply_ns[0], costs.dio_complete_ns),
    )
    return ns


def queue_work_here(cpu: Cpu, message: Message) -> None:
    """A work from another CPU joins this pool's list; its queuer wakes the worker if none runs."""
    data, waker_cpu, waker_pid = message[5]
    pool = cpu.pools[cpu.workqueues[data[2]].pool]
    if pool.disassociated:
        wq_hotplug.queue_work_here(cpu, wq_pool.unpack_item(data), (waker_cpu, waker_pid))
        return
    worker = cpu.tasks[pool.idle[-1]] if pool.idle else None
    if smp.waker_spins(cpu, worker, waker_cpu):
        cpu.deferred.append(message)
        return
    item = wq_pool.unpack_item(data)
    cpu.cause = item[4]
    if workqueue.insert_work(cpu, pool, item) and worker is not None:
        core.try_to_wake_up(cpu, worker, waker=(waker_cpu, waker_pid))
