"""RCU callbacks as far as they make softirqs: ``kernel/rcu/tree.c``, v5.4.

Theory of operation
-------------------
Submitting an IO leaves callbacks that wait for a grace period, so at the next tick of that CPU
``rcu_pending()`` finds work and raises RCU.  The work itself is this CPU's alone and only takes
time (``rcu_softirq_ns``).  Until then a CPU that goes idle keeps its tick (:func:`rcu_needs_cpu`): it
balances for itself at that tick, and the idle load balancer does not see it if it was busy before.
``kernel.rcu_callbacks`` switches the callbacks on, ``kernel.rcu_needs_cpu`` the kept tick off.

Departures from the kernel: callbacks are pending if this CPU has made a request since its last
tick, whatever the state of the grace period, so a kept tick is kept for one period; what they free
is not modelled; quiescent states are not, so no tick wakes ``rcu_sched`` (its own timeout does, see
the program ``rcu_gp``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.kernel import frames, softirq

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def rcu_sched_clock_irq(cpu: Cpu) -> None:
    """``rcu_sched_clock_irq()``: the tick raises RCU if this CPU has work for it."""
    if rcu_pending(cpu):
        cpu.rcu_io_seq = cpu.io_seq
        softirq.raise_softirq(cpu, softirq.RCU)


def rcu_pending(cpu: Cpu) -> bool:
    """Whether callbacks wait: an IO has been submitted here since the last tick."""
    return cpu.spec.kernel.rcu_callbacks and cpu.io_seq != cpu.rcu_io_seq


def rcu_needs_cpu(cpu: Cpu) -> bool:
    """``rcu_needs_cpu()``: whether an idle CPU keeps its tick for its callbacks."""
    return cpu.spec.kernel.rcu_needs_cpu and rcu_pending(cpu)


def rcu_core(cpu: Cpu) -> None:
    """The RCU vector: start its work."""
    cpu.start(frames.SOFTIRQ_RCU, cpu.costs.rcu_softirq_ns)


def rcu_core_done(cpu: Cpu, _arg: object) -> None:
    """The end of the RCU vector."""
    softirq.vector_done(cpu, softirq.RCU)
