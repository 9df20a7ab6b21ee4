"""Grace periods and the softirqs they make: ``kernel/rcu/tree.c``, v5.4.

Theory of operation
-------------------
Submitting an IO leaves callbacks that wait for a grace period, so at the next tick of that CPU
``rcu_pending()`` finds work and raises RCU.  The work itself is this CPU's alone and only takes
time (``rcu_softirq_ns``); ``kernel.rcu_callbacks`` switches that on.

A CPU that goes idle with callbacks keeps its tick (:func:`rcu_needs_cpu`): it balances for itself
at that tick, and the idle load balancer does not see it if it was busy before.  Those of IO count
only with ``kernel.rcu_needs_cpu``.

In a box with the kthread ``rcu_sched`` (the program ``rcu_gp``) grace periods follow each other.
Each CPU that ticks notices a new one in its RCU softirq; from then on a context switch, or a tick
that interrupts user space or the idle loop, is a quiescent state, which the softirq of the next tick
reports.  The kthread looks when its timeout has expired: CPUs that are idle then need not report
(``force_qs_rnp()``).  Whoever reports after that, and is the last, wakes it (``rcu_report_qs_rsp()``).

:func:`call_rcu` queues a callback on its CPU. It is given a grace period when the CPU notices a new one:
not that, which may have begun before, but the next; when the CPU notices that this has ended too,
its softirq invokes the callback.  So a CPU with one callback every 10 ms is never without.

Departures from the kernel: callbacks are pending if this CPU has made a request since its last
tick, whatever the state of the grace period, so a kept tick is kept for one period (on the measured
guest 512-byte IO shows kept ticks and a submitter bound to two of four CPUs shows none, so it is off
by default); what callbacks free is not modelled; :func:`call_rcu` does nothing in a box without the
kthread, and those of a CPU that goes offline stay there until it is back; a grace period is always wanted; the look counts CPUs that
are idle then, not those that were idle since the last look; a CPU sees the others' reports as of the coherence latency, so of two that report at once neither may take itself for the
last, and the kthread's timeout ends the grace period.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator import messages
from emulator import tracepoints as tp
from emulator.kernel import core, frames, softirq
from emulator.types import (
    RQ_FLAGS,
    RQ_GP_LEFT,
    RQ_GP_SEQ,
    RQ_QS_SEQ,
    RQF_IDLE,
    RQF_ONLINE,
    BoxSpec,
    Message,
    for_each_cpu,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task

RCU_GP_PROGRAM = "rcu_gp"


class RcuData:
    """One CPU's view of grace periods (``struct rcu_data``), and the kthread's if it was here."""

    __slots__ = (
        "cblist",
        "cbs_next",
        "cbs_ready",
        "driven",
        "gp_left",
        "gp_pid",
        "gp_seq",
        "io_seq",
        "quiescent",
        "reported",
        "seen",
    )

    def __init__(self, spec: BoxSpec) -> None:
        self.driven = any(w.program == RCU_GP_PROGRAM for w in spec.workloads)  # by rcu_sched
        self.io_seq = 0  # the CPU's requests when the last tick looked
        self.seen = 0  # the grace period noticed last
        self.reported = 0  # the one reported to last
        self.quiescent = False  # a quiescent state since it was noticed
        self.gp_seq = 0  # see RQ_GP_SEQ
        self.gp_left = 0  # see RQ_GP_LEFT
        self.gp_pid = -1  # the kthread's pid, once it was here
        #: ``rcu_segcblist``: callbacks without a grace period, those that wait for the end of one (its
        #: number and how many, oldest first), and those whose time has come.
        self.cbs_next = 0
        self.cblist: list[tuple[int, int]] = []
        self.cbs_ready = 0

    def pack(self) -> list[Any]:
        """Return the changing part."""
        return [
            self.io_seq,
            self.seen,
            self.reported,
            int(self.quiescent),
            self.gp_seq,
            self.gp_left,
            self.gp_pid,
            self.cbs_next,
            self.cblist,
            self.cbs_ready,
        ]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.io_seq, self.seen, self.reported = data[:3]
        self.quiescent = bool(data[3])
        self.gp_seq, self.gp_left, self.gp_pid, self.cbs_next = data[4:8]
        self.cblist = [(seq, count) for seq, count in data[8]]
        self.cbs_ready = data[9]


def rcu_sched_clock_irq(cpu: Cpu) -> None:
    """``rcu_sched_clock_irq()``: note a quiescent state; raise RCU if this CPU has work for it."""
    if cpu.stack[-1][0] == frames.USER or cpu.rq.curr is cpu.rq.idle:
        cpu.rcu.quiescent = True
    if rcu_pending(cpu):
        cpu.rcu.io_seq = cpu.io_seq
        softirq.raise_softirq(cpu, softirq.RCU)


def rcu_pending(cpu: Cpu) -> bool:
    """``rcu_pending()``: a report is due, callbacks wait, or a new grace period has begun."""
    rcu = cpu.rcu
    if rcu.cbs_ready or (rcu.quiescent and rcu.seen > rcu.reported):
        return True
    return callbacks_wait(cpu) or (rcu.driven and current_gp(cpu) > rcu.seen)


def callbacks_wait(cpu: Cpu) -> bool:
    """Whether an IO has been submitted here since the last tick."""
    return cpu.spec.kernel.rcu_callbacks and cpu.io_seq != cpu.rcu.io_seq


def rcu_needs_cpu(cpu: Cpu) -> bool:
    """``rcu_needs_cpu()``: whether an idle CPU keeps its tick for its callbacks."""
    rcu = cpu.rcu
    if rcu.cbs_next or rcu.cblist or rcu.cbs_ready:
        return True
    return cpu.spec.kernel.rcu_needs_cpu and callbacks_wait(cpu)


# -- Callbacks ----------------------------------------------------------------------------------


def call_rcu(cpu: Cpu) -> None:
    """``call_rcu()``: something is freed here when a grace period has gone by."""
    if cpu.rcu.driven:
        cpu.rcu.cbs_next += 1


def note_gp_changes(rcu: RcuData, seq: int) -> None:
    """``__note_gp_changes()``: all grace periods before ``seq`` are over, ``seq`` has begun.

    Callbacks that waited for one of them are ready (``rcu_advance_cbs()``); those without a grace period
    get the next one (``rcu_accelerate_cbs()``).
    """
    rcu.seen = seq
    rcu.quiescent = False
    while rcu.cblist and rcu.cblist[0][0] < seq:
        rcu.cbs_ready += rcu.cblist.pop(0)[1]
    if rcu.cbs_next:
        rcu.cblist.append((seq + 1, rcu.cbs_next))
        rcu.cbs_next = 0


def current_gp(cpu: Cpu) -> int:
    """Return ``rcu_state.gp_seq``: the newest grace period that this CPU can know of."""
    seq = cpu.rcu.gp_seq
    for other in range(cpu.nr_cpus):
        if other != cpu.node_id:
            seq = max(seq, cpu.view(other)[RQ_GP_SEQ])
    return seq


# -- The softirq --------------------------------------------------------------------------------


def rcu_core(cpu: Cpu) -> None:
    """The RCU vector: start its work."""
    cpu.start(frames.SOFTIRQ_RCU, cpu.costs.rcu_softirq_ns)


def rcu_core_done(cpu: Cpu, _arg: object) -> None:
    """``rcu_core()``: notice a new grace period, or report to the one noticed; invoke callbacks."""
    rcu = cpu.rcu
    cpu.start(frames.SOFTIRQ_RCU_END, 0)
    seq = current_gp(cpu) if rcu.driven else 0
    if seq > rcu.seen:
        note_gp_changes(rcu, seq)
    elif rcu.quiescent and rcu.seen > rcu.reported:
        rcu.reported = rcu.seen
        cpu.publish()
        rcu_report_qs_rsp(cpu)
    rcu.cbs_ready = 0  # rcu_do_batch()
    if cpu.f_kind == frames.SOFTIRQ_RCU_END and cpu.f_end == cpu.now:
        rcu_core_end(cpu, None)


def rcu_core_end(cpu: Cpu, _arg: object) -> None:
    """The end of the RCU vector."""
    softirq.vector_done(cpu, softirq.RCU)


def rcu_report_qs_rsp(cpu: Cpu) -> None:
    """``rcu_report_qs_rsp()``: wake ``rcu_sched`` if it has looked and waits for this CPU alone."""
    rcu = cpu.rcu
    if rcu.gp_seq == rcu.seen and rcu.gp_left:
        if last_to_report(cpu, rcu.gp_left):
            report(cpu, rcu.seen, None)
        return
    for other in range(cpu.nr_cpus):
        if other == cpu.node_id:
            continue
        facts = cpu.view(other)
        if facts[RQ_GP_SEQ] != rcu.seen or not facts[RQ_GP_LEFT]:
            continue
        if last_to_report(cpu, facts[RQ_GP_LEFT]):
            costs = cpu.costs
            # The wakeup is decided and paid for here, and takes effect there, no sooner than anything
            # that one CPU does to another.
            soonest_ns = max(costs.coherence_ns, min(costs.ttwu_activate_ns, costs.ipi_ns))
            cpu.f_end += costs.select_task_rq_ns + costs.ttwu_activate_ns
            cpu.send(
                other,
                messages.RCU_REPORT,
                (rcu.seen, cpu.rq.curr.pid, cpu.cause),
                cpu.now + max(soonest_ns, costs.select_task_rq_ns),
                0,
            )
        return


def last_to_report(cpu: Cpu, left: int) -> bool:
    """Whether all CPUs of a mask have reported to the grace period that this one has seen."""
    return all(
        cpu.view(other)[RQ_QS_SEQ] >= cpu.rcu.seen
        for other in for_each_cpu(left & ~(1 << cpu.node_id))
    )


def handle_report(cpu: Cpu, message: Message) -> None:
    """Another CPU's last report: its context wakes ``rcu_sched``, which slept here."""
    gp_seq, waker_pid, cause = message[5]
    p = cpu.tasks.get(cpu.rcu.gp_pid)
    if p is not None and p.on_cpu and not p.on_rq:
        cpu.deferred.append(message)  # its waker would spin until the switch is over
        return
    cpu.cause = cause
    report(cpu, gp_seq, (message[1], waker_pid))


def report(cpu: Cpu, gp_seq: int, waker: tuple[int, int] | None) -> None:
    """Wake the kthread before its timeout, if it is here, asleep, and in that grace period."""
    rcu = cpu.rcu
    p = cpu.tasks.get(rcu.gp_pid)
    if p is None or p.state != tp.TASK_IDLE or rcu.gp_seq != gp_seq or not rcu.gp_left:
        return
    if p.on_rq and not p.sched_delayed:
        return
    rcu.gp_left = 0
    p.run.arg = 1  # schedule_timeout() returns what was left
    core.try_to_wake_up(cpu, p, waker=waker)


# -- rcu_sched ----------------------------------------------------------------------------------


def rcu_gp_init(cpu: Cpu, p: Task, gp_seq: int) -> None:
    """``rcu_gp_init()``: a grace period begins; its own CPU notices at once."""
    rcu = cpu.rcu
    rcu.gp_pid = p.pid
    rcu.gp_seq = gp_seq
    rcu.gp_left = 0
    note_gp_changes(rcu, gp_seq)
    cpu.publish()


def rcu_gp_fqs(cpu: Cpu, gp_seq: int) -> bool:
    """``rcu_gp_fqs()``: whether all CPUs are idle or have reported; if not, who is left is told.

    This CPU has passed a quiescent state: the kthread has just been switched to.
    """
    rcu = cpu.rcu
    left = 0
    for other in range(cpu.nr_cpus):
        facts = cpu.view(other)
        if other == cpu.node_id or facts[RQ_FLAGS] & RQF_IDLE or not facts[RQ_FLAGS] & RQF_ONLINE:
            continue
        if facts[RQ_QS_SEQ] < gp_seq:
            left |= 1 << other
    rcu.gp_pid = cpu.rq.curr.pid
    rcu.gp_seq = gp_seq
    rcu.gp_left = left
    cpu.publish()
    return not left
