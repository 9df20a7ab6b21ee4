"""Which passes a balance request makes, in which order and when: ``kernel/sched/fair.c``.

Theory of operation
-------------------
A CPU asks for one of three things: ``rebalance_domains()`` for itself (periodic), a newly idle
balance, or the ilb's ``nohz_idle_balance()`` for itself and every idle CPU without a tick
(:mod:`ilb`).  Each is
a :class:`Run`: a small state machine, because passes take time, and that time is the asking CPU's:
interrupts lengthen it.  A pass is decided at the *end* of its time, on the state then; between two
steps of a run the box goes on.  :meth:`Rebalancer.step` takes a run as far as it can go at one
instant, that is until the CPU must spend time (``run.pay_ns``), a source must be asked (PH_WAIT) or
the run is over (PH_OVER).

The time of the first pass of a newly idle run was spent by the CPU before it asked.

Departures
* A hotplug rebuild does not wait for passes under way; a run that finds its domains gone ends its
  walk over them.
* The SERIALIZE lock is taken when a pass's time begins and held until it is decided.
* ``rq->max_idle_balance_cost`` and ``rq->next_balance`` of all CPUs are kept here and published.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from emulator.balance import ilb
from emulator.balance.domain import (
    SCHED_CAPACITY_SCALE,
    SD_BALANCE_NEWIDLE,
    SD_SERIALIZE,
    SchedDomain,
)
from emulator.balance.env import LbEnv
from emulator.balance.fair import load_balance, load_balance_detached
from emulator.balance.nohz import Nohz
from emulator.balance.rqview import RqView
from emulator.balance.run import (
    PH_DOMAIN,
    PH_NEXT_CPU,
    PH_OVER,
    PH_PASS,
    PH_WAIT,
    Run,
)
from emulator.balance.topology import (
    IntervalLimits,
    SchedDomains,
    get_sd_balance_interval,
    idle_next_balance,
    max_load_balance_interval,
    sd_llc,
)
from emulator.rules import Rules
from emulator.tracepoints import MIGRATE_NEWIDLE, MIGRATE_NOHZ, MIGRATE_PERIODIC
from emulator.types import (
    BALANCE_NEWIDLE,
    BALANCE_NOHZ,
    BALANCE_PERIODIC,
    CPU_IDLE,
    CPU_NEWLY_IDLE,
    CPU_NOT_IDLE,
    NEVER,
    for_each_cpu,
)

WHY = {
    BALANCE_PERIODIC: MIGRATE_PERIODIC,
    BALANCE_NEWIDLE: MIGRATE_NEWIDLE,
    BALANCE_NOHZ: MIGRATE_NOHZ,
}


class Effects(Protocol):
    """What a run does to the outside; the balancer node."""

    def imbalance_found(self, run: Run, env: LbEnv) -> None:
        """Record which group a pass found the busiest, and let what follows have that as cause."""
        ...

    def ask(self, run: Run, env: LbEnv) -> None:
        """Send the pass's question to ``env.src_cpu`` (DETACH)."""
        ...

    def pass_over(self, run: Run, env: LbEnv) -> None:
        """Record a pass that is over, and kick the stopper if the pass says so."""
        ...

    def pay(self, run: Run, cost_ns: int) -> None:
        """Let the CPU that asked spend time (BALANCE_PAY); it steps the run afterwards."""
        ...

    def run_over(self, run: Run) -> None:
        """Tell the CPU that asked that all passes are done (BALANCE_DONE)."""
        ...


class Rebalancer:
    """Domains, nohz state and per-CPU balance times of the box, and the steps of runs over them."""

    __slots__ = (
        "domains",
        "effects",
        "generation",
        "hz",
        "idle_next",
        "limits",
        "max_idle_cost",
        "migration_cost",
        "newidle_cost",
        "next_balance",
        "nohz",
        "nohz_cpu_ns",
        "nr_idle_scan",
        "overload_ns",
        "pass_ns",
        "rules",
        "serialize_cpu",
        "sis_util",
        "view",
    )

    def __init__(
        self,
        domains: SchedDomains,
        view: RqView,
        hz: int,
        pass_ns: int,
        nohz_cpu_ns: int,
        rules: Rules = Rules(),
        *,
        sis_util: bool = False,
    ) -> None:
        nr_cpus = len(domains.sd)
        self.effects: Effects
        self.domains = domains
        self.generation = 0  # of the domains
        self.rules = rules
        self.view = view
        self.nohz = Nohz(hz)
        self.hz = hz
        self.pass_ns = pass_ns
        self.nohz_cpu_ns = nohz_cpu_ns
        self.migration_cost = 500_000
        self.limits = IntervalLimits(hz, nr_cpus, rules)
        self.sis_util = sis_util  # sched feature SIS_UTIL
        self.next_balance = [0] * nr_cpus  # rq->next_balance, jiffies
        self.max_idle_cost = [500_000] * nr_cpus  # rq->max_idle_balance_cost
        self.nr_idle_scan = [0] * nr_cpus  # sd_llc_shared->nr_idle_scan, see BAL_NR_IDLE_SCAN
        self.newidle_cost = [0] * nr_cpus  # see BAL_NEWIDLE_COST
        self.idle_next: list[int] = []  # BAL_IDLE_NEXT
        self.note_due(range(nr_cpus))
        self.overload_ns = 0  # see BAL_OVERLOAD_NS
        self.serialize_cpu = -1  # whose run holds the SERIALIZE lock

    def jiffies(self) -> int:
        """Return the tick count now."""
        return self.view.now_ns * self.hz // 1_000_000_000

    def set_least_interval(self, granularity_ns: int) -> None:
        """Make the wakeup granularity the least interval, where the rules say so (F7)."""
        if self.rules.lb_interval_granularity:
            self.limits.least = max(1, -(-granularity_ns * self.hz // 1_000_000_000))
            self.note_due(range(len(self.next_balance)))

    def note_due(self, cpus: Iterable[int]) -> None:
        """Compute anew when the lowest domains of these CPUs are due for an idle CPU."""
        if not self.idle_next:
            self.idle_next = [NEVER] * len(self.next_balance)
        for cpu in cpus:
            chain = self.domains.sd[cpu]
            self.idle_next[cpu] = idle_next_balance(chain, self.limits)
            self.newidle_cost[cpu] = chain[0].max_newidle_lb_cost if chain else 0

    def came_from_boot(self, balanced_ago: Sequence[int]) -> None:
        """Let the domains have been balanced before the start, each CPU's at a time of its own.

        A box that has booted does not have all its CPUs due in one jiffy, as new domains have.  Its
        last pass at LLC level found CPUs with little to do, and let wakeups scan all of them.
        """
        for cpu, ago in enumerate(balanced_ago):
            for sd in self.domains.sd[cpu]:
                sd.last_balance -= ago % get_sd_balance_interval(sd, False, self.limits)
            llc = sd_llc(self.domains.sd[cpu])
            if self.sis_util and llc is not None:
                self.nr_idle_scan[cpu] = llc.span_weight
        self.note_due(range(len(balanced_ago)))

    def use_domains(self, domains: SchedDomains) -> None:
        """Put new domains in the place of the old ones (``partition_sched_domains()``)."""
        self.domains = domains
        self.generation += 1
        self.limits.most = max_load_balance_interval(self.hz, domains.active_mask.bit_count())
        self.nr_idle_scan = [0] * len(domains.sd)
        self.note_due(range(len(domains.sd)))

    # -- A run as a whole ------------------------------------------------------------------------

    def start(self, run: Run) -> None:
        """Begin a run and take it as far as it goes now."""
        if run.kind == BALANCE_NOHZ:
            ilb.nohz_idle_balance(self, run)
        else:
            self.walk_domains(run, run.cpu, run.idle)
        self.step(run)

    def step(self, run: Run) -> None:
        """Take a run as far as it goes now: until it must wait or is over."""
        run.pay_ns = 0
        while not run.pay_ns and run.phase != PH_WAIT:
            if run.phase == PH_DOMAIN:
                self._domain(run)
            elif run.phase == PH_PASS:
                self._pass(run)
            elif run.phase == PH_NEXT_CPU:
                ilb.next_cpu(self, run)
            else:
                assert run.phase == PH_OVER
                if run.owed_ns:
                    self._pay(run, 0)
                    break
                self.effects.run_over(run)
                return
        if run.pay_ns:
            self.effects.pay(run, run.pay_ns)

    def answered(self, run: Run, answer: list[int], nr_tasks: int) -> None:
        """Go on with the source's answer; the caller has sent the tasks on."""
        assert run.phase == PH_WAIT
        assert run.env is not None
        again = load_balance_detached(run.env, self.view, answer, nr_tasks)
        self._note_found(run, run.env)
        if again:
            self.effects.ask(run, run.env)
            return
        self._pass_over(run, run.env)
        self.step(run)

    def drop(self, run: Run) -> None:
        """Forget a run whose CPU is dead."""
        self._unlock(run)

    # -- One CPU's domains -----------------------------------------------------------------------

    def walk_domains(self, run: Run, cpu: int, idle: int) -> None:
        """Begin a walk over the domains of ``cpu``, for the CPU that asked."""
        run.target = cpu
        run.idle = idle
        run.busy = idle == CPU_NOT_IDLE and self._keeps_busy(cpu)
        run.level = 0
        run.generation = self.generation
        run.cont = True
        run.need_decay = False
        run.update_next = False
        run.max_cost = 0
        reach = self.hz if run.kind == BALANCE_NEWIDLE else 60 * self.hz
        run.next_balance = self.jiffies() + reach
        run.phase = PH_DOMAIN

    def _keeps_busy(self, cpu: int) -> bool:
        # A CPU that runs SCHED_IDLE tasks only can look for better ones as often as an idle one.
        return not (self.rules.lb_sched_idle_not_busy and self.view.sched_idle_cpu(cpu))

    def _current_sd(self, run: Run) -> SchedDomain | None:
        if run.generation != self.generation:
            return None
        chain = self.domains.sd[run.target]
        return chain[run.level] if run.level < len(chain) else None

    def _domain(self, run: Run) -> None:
        sd = self._current_sd(run)
        if run.kind == BALANCE_NEWIDLE:
            self.newidle_balance(run, sd)
        else:
            self.rebalance_domains(run, sd)

    def rebalance_domains(self, run: Run, sd: SchedDomain | None) -> None:
        """Look at one domain of ``rebalance_domains()``: decay, stop, start a pass or go on."""
        if sd is None:
            self._end_rebalance_domains(run)
            return
        self._decay_newidle_cost(run, sd)
        if not run.cont:
            # Only the decay of the upper domains is still of interest.
            run.level = run.level + 1 if run.need_decay else len(self.domains.sd[run.target])
            return
        interval = get_sd_balance_interval(sd, run.busy, self.limits)
        due = self.jiffies() >= sd.last_balance + interval
        if due and self._lock(run, sd):
            self._begin_pass(run)
        else:
            self._update_next_balance(run, sd)
            run.level += 1

    def newidle_balance(self, run: Run, sd: SchedDomain | None) -> None:
        """Look at one domain of ``newidle_balance()``."""
        if sd is None:
            self._end_newidle(run)
            return
        if run.avg_idle < run.cost + sd.max_newidle_lb_cost:
            self._update_next_balance(run, sd)
            self._end_newidle(run)
        elif sd.flags & SD_BALANCE_NEWIDLE:
            self._begin_pass(run)
        else:
            self._update_next_balance(run, sd)
            run.level += 1

    def _decay_newidle_cost(self, run: Run, sd: SchedDomain) -> None:
        # A cost measured once would otherwise keep newly idle CPUs from this domain for ever.
        jiffies = self.jiffies()
        if jiffies > sd.next_decay_max_lb_cost:
            sd.max_newidle_lb_cost = sd.max_newidle_lb_cost * 253 // 256
            sd.next_decay_max_lb_cost = jiffies + self.hz
            run.need_decay = True
            if sd.child is None:
                self.newidle_cost[run.target] = sd.max_newidle_lb_cost
        run.max_cost += sd.max_newidle_lb_cost

    def _update_next_balance(self, run: Run, sd: SchedDomain) -> None:
        interval = get_sd_balance_interval(sd, run.busy, self.limits)
        run.next_balance = min(run.next_balance, sd.last_balance + interval)
        run.update_next = True

    def _lock(self, run: Run, sd: SchedDomain) -> bool:
        if not sd.flags & SD_SERIALIZE:
            return True
        if self.serialize_cpu >= 0:
            return False
        self.serialize_cpu = run.cpu
        return True

    def _unlock(self, run: Run) -> None:
        if self.serialize_cpu == run.cpu:
            self.serialize_cpu = -1

    # -- One pass --------------------------------------------------------------------------------

    def _begin_pass(self, run: Run) -> None:
        run.phase = PH_PASS
        if run.paid:
            run.paid = False
        else:
            self._pay(run, self.pass_ns)

    def _pay(self, run: Run, cost_ns: int) -> None:
        run.pay_ns = run.owed_ns + cost_ns
        run.owed_ns = 0

    def _pass(self, run: Run) -> None:
        sd = self._current_sd(run)
        if sd is None:
            self._unlock(run)
            run.phase = PH_DOMAIN
            return
        cpus = sd.span & self.view.active_mask
        env = LbEnv(sd, run.target, run.idle, cpus, WHY[run.kind], run.cause, self.rules)
        run.env = env
        asks = load_balance(env, self.view)
        self._note_found(run, env)
        if env.sum_util >= 0 and self.sis_util:
            self.update_idle_cpu_scan(env)
        if asks:
            run.phase = PH_WAIT
            self.effects.ask(run, env)
        else:
            self._pass_over(run, env)

    def _note_found(self, run: Run, env: LbEnv) -> None:
        if env.found:
            env.found = False
            self.effects.imbalance_found(run, env)

    def update_idle_cpu_scan(self, env: LbEnv) -> None:
        """Let the wakeups of an LLC scan as far as its utilisation leaves idle CPUs to find.

        Kernel: ``update_idle_cpu_scan()``, in a pass at LLC level that is not a newly idle CPU's.
        """
        sd = env.sd
        llc = sd_llc(self.domains.sd[env.this_cpu])
        if env.idle == CPU_NEWLY_IDLE or llc is not sd:
            return
        pct = sd.imbalance_pct
        x = env.sum_util // sd.span_weight
        used = min(x * x * pct * pct // (10_000 * SCHED_CAPACITY_SCALE), SCHED_CAPACITY_SCALE)
        scan = (SCHED_CAPACITY_SCALE - used) * sd.span_weight // SCHED_CAPACITY_SCALE
        for cpu in for_each_cpu(sd.span):
            self.nr_idle_scan[cpu] = scan

    def _pass_over(self, run: Run, env: LbEnv) -> None:
        run.env = None
        run.phase = PH_DOMAIN
        if env.overload is False:
            self.overload_ns = self.view.now_ns
        self._unlock(run)
        self.effects.pass_over(run, env)
        if env.this_cpu == run.cpu:
            run.pulled += env.ld_moved_here
        if run.kind == BALANCE_NEWIDLE:
            self._newidle_pass_over(run, env)
        else:
            self._rebalance_pass_over(run, env)

    def _rebalance_pass_over(self, run: Run, env: LbEnv) -> None:
        if env.refused:
            run.cont = False
        if env.ld_moved:
            # The tasks moved here are still on their way, so the view does not show them yet.
            idle = not env.ld_moved_here and self.view.idle_cpu(run.target)
            run.idle = CPU_IDLE if idle else CPU_NOT_IDLE
            run.busy = not idle and (bool(env.ld_moved_here) or self._keeps_busy(run.target))
        env.sd.last_balance = self.jiffies()
        self._update_next_balance(run, env.sd)
        self.note_due((env.this_cpu,))
        run.level += 1

    def _newidle_pass_over(self, run: Run, env: LbEnv) -> None:
        env.sd.max_newidle_lb_cost = max(env.sd.max_newidle_lb_cost, self.pass_ns)
        run.cost += self.pass_ns
        self.nohz.newidle_aged(env.sd.span, self.jiffies(), self.view)
        self._update_next_balance(run, env.sd)
        self.note_due((env.this_cpu,))
        run.level += 1
        if env.ld_moved or self.view.nr_running(run.cpu) > 0 or self._pending(run.cpu):
            self._end_newidle(run)

    def _pending(self, cpu: int) -> bool:
        return self.rules.newidle_pending and self.view.ttwu_pending(cpu)

    # -- The end of a walk -----------------------------------------------------------------------

    def _end_rebalance_domains(self, run: Run) -> None:
        cpu = run.target
        if run.need_decay:
            self.max_idle_cost[cpu] = max(self.migration_cost, run.max_cost)
        if run.update_next:
            self.next_balance[cpu] = run.next_balance
            if run.idle == CPU_IDLE and not self.rules.nohz_next_not_lowered:
                self.nohz.next_balance = min(self.nohz.next_balance, run.next_balance)
        if run.kind != BALANCE_NOHZ:
            run.phase = PH_OVER
        elif cpu == run.cpu and not self.rules.nohz_ilb_last:
            ilb.end_nohz(self, run, whole=True)
        else:
            ilb.track_next(self, run, cpu)

    def _end_newidle(self, run: Run) -> None:
        cpu = run.cpu
        self.max_idle_cost[cpu] = max(self.max_idle_cost[cpu], run.cost)
        self.next_balance[cpu] = min(self.next_balance[cpu], run.next_balance)
        run.phase = PH_OVER

    def newidle_skipped(self, cpu: int) -> None:
        """Lower a CPU's next balance after a ``newidle_balance()`` that returned early."""
        jiffies = self.jiffies()
        due = min(jiffies + self.hz, self.idle_next[cpu])
        self.next_balance[cpu] = min(self.next_balance[cpu], due)
