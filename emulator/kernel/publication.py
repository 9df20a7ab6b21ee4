"""What a CPU tells all others of its runqueue, and what it can know of theirs."""

from __future__ import annotations

from emulator.kernel import workqueue
from emulator.kernel.percpu import PerCpu
from emulator.types import (
    RQF_ACTIVE,
    RQF_IDLE,
    RQF_KWORKER_ASLEEP,
    RQF_NOHZ,
    RQF_ONLINE,
    RQF_SCHED_IDLE,
    RQF_TTWU_PENDING,
)


class Publisher(PerCpu):
    """A CPU as far as it publishes and reads what is published."""

    __slots__ = ()

    def publish(self) -> None:
        """Tell the other nodes what this runqueue looks like from now on."""
        rq = self.rq
        cfs = rq.cfs
        avg = cfs.avg
        self.published_nr = rq.nr_running
        flags = 0
        if self.online:
            flags = RQF_ONLINE
            if self.active:
                flags |= RQF_ACTIVE
            if rq.nr_running == 0:
                if rq.curr is rq.idle and not self.wake_list:
                    flags |= RQF_IDLE
            elif rq.nr_running == cfs.idle_h_nr_running:
                flags |= RQF_SCHED_IDLE
            if self.in_nohz_mask:
                flags |= RQF_NOHZ
            if self.wake_list:
                flags |= RQF_TTWU_PENDING
            if self.completion is not None and workqueue.wants_waking(self, self.pools[0]):
                flags |= RQF_KWORKER_ASLEEP
        if self.psi is not None:
            self.psi.change(self.now, rq.nr_running)
        self.board.publish(
            self.node_id,
            self.now,
            (
                flags,
                rq.nr_running,
                cfs.nr_running,
                avg.runnable_avg,
                avg.load_avg,
                avg.util_avg,
                avg.util_est_enqueued,
                avg.last_update_time,
                avg.load_sum,
                avg.runnable_sum,
                avg.util_sum,
                avg.period_contrib,
                cfs.load_weight,
                rq.overload_ns,
                self.rcu.gp_seq,
                self.rcu.gp_left,
                self.rcu.reported,
                self.idle_cores,
                rq.cpu_capacity,
            ),
        )

    def own_facts(self) -> tuple[int, ...]:
        """Publish and return this runqueue's facts of now."""
        self.publish()
        return self.board.read(self.node_id, self.now)

    def view(self, cpu: int) -> tuple[int, ...]:
        """Return another CPU's facts as this CPU can know them now."""
        return self.board.read(cpu, self.now - self.costs.coherence_ns)

    def idle_cpu(self, cpu: int) -> bool:
        """``available_idle_cpu()``: of this CPU exactly, of another as of the coherence latency."""
        if cpu == self.node_id:
            rq = self.rq
            return rq.curr is rq.idle and rq.nr_running == 0 and not self.wake_list
        return bool(self.view(cpu)[0] & RQF_IDLE)

    def cpu_online(self, cpu: int) -> bool:
        """``cpu_online()`` of another CPU, as this one can know it."""
        return bool(self.view(cpu)[0] & RQF_ONLINE)
