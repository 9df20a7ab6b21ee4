"""The balancer: the node that owns domains, failure counters and nohz state of the whole box.

Theory of operation
-------------------
CPUs decide when to ask (tick, going idle, nohz kick) and pay for it; the balancer decides what
happens.  It reads runqueues at zero age (:mod:`rqview`), walks domains and takes decisions
(:mod:`rebalance`, :mod:`fair`, :mod:`busiest`), and publishes what CPUs need to know for the next
time (BAL_* of :mod:`emulator.types`).

Messages, all from the emulated instant ``t`` of a decision::

    BALANCE          cpu -> balancer    start a run
    DETACH           balancer -> source, effect t: run detach_tasks() on live state
    DETACHED         source -> balancer, effect t: tasks, changed env, the source's facts
    ATTACH           balancer -> target, effect t + coherence
    STOP             balancer -> source, effect t + coherence: push your running task
    STOPPED          source -> balancer: the stopper is done
    BALANCE_DONE     balancer -> cpu, effect t + coherence, after the ATTACHes of the run
    BALANCE_PAY      balancer -> cpu: spend the time of the next pass or visit first
    BALANCE_PAID     cpu -> balancer: it is spent; with need_resched, an ilb's run ends
    NOHZ_UPDATE      cpu -> balancer, passive: what changed in the nohz state

While a source is asked, everything else waits: other messages (``held``) and due steps of other
runs are handled after the answer, at the same instant.  So each pass sees and changes one state, as
if the kernel's pass held its locks.  Mail is taken at its stamp, because what it changes is
published; it never makes this node send anything.

Departures: a pass cannot see tasks that another pass is moving for one coherence latency; the
stopper uses the failure counter of the kick, also if a balanced pass resets it in between.
"""

from __future__ import annotations

from typing import Any

from emulator import messages
from emulator.balance.books import BALANCE_FIGURES, add_rows, domain_books
from emulator.balance.domain import (
    LB_ACTIVE_FAILED,
    LB_ACTIVE_PUSHED,
    LB_COLUMNS,
    LB_GAINED,
    LB_HOT_GAINED,
)
from emulator.balance.env import LbEnv
from emulator.balance.rebalance import Rebalancer
from emulator.balance.rqview import RqView
from emulator.balance.run import PH_WAIT, Run, unpack_run
from emulator.balance.topology import (
    SchedDomains,
    domain_facts,
    lowest_domain_spanning,
    unpack_sched_domains,
)
from emulator.nodebase import NodeBase
from emulator.tracepoints import BOX_LB_IMBALANCE, BOX_LOAD_BALANCE, IDLE_TYPES
from emulator.types import (
    CLASSES,
    COORDINATOR,
    CPU_IDLE,
    NEVER,
    NOHZ_ENTER,
    NOHZ_EXIT,
    NOHZ_KICKED,
    NOHZ_KICKED_FULL,
    NOHZ_NEWIDLE,
    NOHZ_NEWIDLE_STATS,
    STOP_ABORTED,
    STOP_PUSHED,
    TO_CPU,
    Board,
    BoxSpec,
    Message,
    Promise,
    TraceSink,
)


class Balancer(NodeBase):
    """The load balancer's node; also the ``Effects`` of its runs."""

    __slots__ = (
        "asking",
        "board",
        "coherence_ns",
        "held",
        "machine",
        "published",
        "rb",
        "runs",
        "totals",
        "warm",
        "warmup",
        "warmup_ns",
    )

    def __init__(self, spec: BoxSpec, board: Board, sink: TraceSink) -> None:
        machine = spec.machine
        super().__init__(machine.nr_cpus, machine.nr_cpus)
        self.machine = machine
        self.board = board
        self.sink: TraceSink = sink
        self.coherence_ns = spec.costs.coherence_ns
        self.runs: dict[int, Run] = {}  # by the CPU that asked
        self.asking = -1  # whose run waits for a DETACHED, -1: none does
        self.held: list[Message] = []  # came while one was waited for
        self.totals = [[0] * LB_COLUMNS for _ in IDLE_TYPES]  # of domains that are gone
        self.warmup_ns = spec.warmup_ns
        self.warm = False
        self.warmup = [[0] * LB_COLUMNS for _ in IDLE_TYPES]  # what was counted before warmup_ns
        features, rules = spec.kernel.features, spec.kernel.rules
        view = RqView(
            board,
            machine.nr_cpus,
            util_est=features.get("UTIL_EST", True),
            core=machine.core,
            capacity_varies=spec.realtime
            or (machine.irq_time_accounting and features.get("NONTASK_CAPACITY", True)),
        )
        self.rb = Rebalancer(
            SchedDomains(machine, view.active_mask, 0, rules),
            view,
            machine.hz,
            spec.costs.balance_pass_ns,
            spec.costs.nohz_cpu_ns,
            rules,
            sis_util=features.get("SIS_UTIL", False),
        )
        self.rb.effects = self
        self.rb.came_from_boot(spec.balanced_ago)
        for name, value in spec.kernel.sysctls.items():
            self.set_sysctl(name, value)
        self.published: tuple[int, ...] = ()
        self._publish()

    # -- Node ------------------------------------------------------------------------------------

    def own_next_ns(self) -> int:
        """Return NEVER: time goes by on the CPUs that ask, not here."""
        return NEVER

    def reads(self, message: Message | None) -> bool:
        """Every event of this node looks at runqueues, at zero age."""
        return True

    def mail_matters(self) -> bool:
        """Mail changes what is published, so it is taken at its stamp."""
        return True

    def promise(self) -> Promise:
        """Return what this node promises: mail makes it publish, but not send."""
        active = self.inbox[0][0] if self.inbox else NEVER
        send_ns = [NEVER] * CLASSES
        send_ns[TO_CPU] = active
        return Promise(
            self.reached_ns,
            self.next_event_ns(),
            send_ns,
            self.reached_ns,
            self.wants_view,
            mail_sends=False,
        )

    def fire(self, now_ns: int) -> None:
        """Never called: the balancer only answers."""
        raise AssertionError(f"the balancer has no events of its own, but one at {now_ns}")

    def handle(self, message: Message) -> None:
        """Handle a message; all but the answer wait while a source is asked."""
        self.rb.view.seen_at(self.clock_ns)
        if not self.warm and self.clock_ns >= self.warmup_ns:
            self.warm = True
            self.warmup = self._counted()
        if message[4] == messages.DETACHED:
            self._detached(message)
        else:
            self.held.append(message)
        while self.held and self.asking < 0:
            self._receive(self.held.pop(0))
        self._publish()

    def books(self) -> dict[str, Any]:
        """Return the counters per CPU and domain, their totals, and what is under way.

        The counters of a domain count from when it was built, the totals from the warmup on.
        """
        return {
            "cpus": [[domain_books(sd) for sd in chain] for chain in self.rb.domains.sd],
            "balance": self._balance_figures(),
            "runs": len(self.runs),
            "active_balance": sum(r is not None for r in self.rb.view.active_balance),
            "arriving": [
                task[0]
                for message in (*self.inbox, *self.held)
                if message[4] == messages.DETACHED
                for task in message[5][1]
            ],
        }

    def snapshot(self) -> list[Any]:
        """Return the whole state."""
        rb, view = self.rb, self.rb.view
        return [
            [self.seq, self.clock_ns, self.read_ns, self.reached_ns, self.wants_view],
            [
                [list(m) for m in box]
                for box in (self.outbox, sorted(self.inbox), sorted(self.mail), self.held)
            ],
            self.asking,
            rb.domains.pack(),
            rb.generation,
            [run.pack() for run in self.runs.values()],
            rb.nohz.pack(),
            list(rb.next_balance),
            list(rb.max_idle_cost),
            list(rb.nr_idle_scan),
            list(rb.newidle_cost),
            [rb.overload_ns, rb.serialize_cpu, rb.migration_cost],
            [rb.limits.least, rb.limits.most],
            [view.now_ns, view.active_mask, view.nr_migrate, view.capacity_varies],
            [None if r is None else list(r) for r in view.active_balance],
            [[cpu, list(facts)] for cpu, facts in view.rqs.items()],
            [list(row) for row in self.totals],
            list(self.published),
            self.warm,
            [list(row) for row in self.warmup],
        ]

    def restore(self, state: list[Any]) -> None:
        """Take over a state that :meth:`snapshot` returned."""
        rb, view = self.rb, self.rb.view
        self.seq, self.clock_ns, self.read_ns, self.reached_ns, self.wants_view = state[0]
        boxes = [[messages.message_from_list(m) for m in box] for box in state[1]]
        self.outbox[:], self.inbox, self.mail, self.held = boxes
        self.asking = state[2]
        rb.domains = unpack_sched_domains(self.machine, state[3], rb.rules)
        rb.generation = state[4]
        runs = [unpack_run(item, rb.domains.sd, rb.rules) for item in state[5]]
        self.runs = {run.cpu: run for run in runs}
        rb.nohz.unpack(state[6])
        rb.next_balance, rb.max_idle_cost = list(state[7]), list(state[8])
        rb.nr_idle_scan, rb.newidle_cost = list(state[9]), list(state[10])
        rb.overload_ns, rb.serialize_cpu, rb.migration_cost = state[11]
        rb.limits.least, rb.limits.most = state[12]
        view.now_ns, view.active_mask, view.nr_migrate, view.capacity_varies = state[13]
        view.active_balance = [None if r is None else list(r) for r in state[14]]
        view.rqs = {cpu: tuple(facts) for cpu, facts in state[15]}
        rb.note_due(range(self.machine.nr_cpus))
        self.totals = [list(row) for row in state[16]]
        self.published = tuple(state[17])
        self.warm = state[18]
        self.warmup = [list(row) for row in state[19]]

    # -- Effects of runs -------------------------------------------------------------------------

    def ask(self, run: Run, env: LbEnv) -> None:
        """Send DETACH; nothing else is handled until the answer."""
        self.asking = run.cpu
        # The instant is given away: what is decided after the answer sees the state of before.
        self.rb.view.freeze((1 << self.machine.nr_cpus) - 1)
        self.send(env.src_cpu, messages.DETACH, (env.pack_env(),), self.clock_ns)

    def imbalance_found(self, run: Run, env: LbEnv) -> None:
        """Record the busiest group that a pass found: it is the cause of all that the pass does."""
        record = self.sink.emit(
            self.clock_ns,
            BOX_LB_IMBALANCE,
            0,
            0,
            env.cause,
            env.dst_cpu,
            env.sd.level,
            env.busiest_type << 4 | env.local_type,
            env.migration_type,
            env.imbalance,
        )
        if record >= 0:  # it is recorded at all
            env.cause = self.node_id << 40 | record + 1

    def pass_over(self, run: Run, env: LbEnv) -> None:
        """Record a pass, and kick the source's stopper if the pass ended so."""
        record = self.sink.emit(
            self.clock_ns,
            BOX_LOAD_BALANCE,
            0,
            0,
            env.cause,
            env.dst_cpu,
            env.src_cpu,
            env.idle,
            env.result,
            env.sd.nr_balance_failed,
        )
        if env.stop_cpu >= 0:
            run.kicked.append(env.stop_cpu)
            cause = self.node_id << 40 | record + 1 if record >= 0 else env.cause
            args = (env.this_cpu, env.pack_env(), cause)
            self.send(env.stop_cpu, messages.STOP, args, self.clock_ns + self.coherence_ns)

    def pay(self, run: Run, cost_ns: int) -> None:
        """Send BALANCE_PAY: the CPU spends the time, and says when it is over."""
        self.send(run.cpu, messages.BALANCE_PAY, (cost_ns,), self.clock_ns + self.coherence_ns)

    def run_over(self, run: Run) -> None:
        """Send BALANCE_DONE: tasks pulled, the CPU's new times and cost, stoppers woken for it."""
        del self.runs[run.cpu]
        facts = [
            self.rb.next_balance[run.cpu],
            self.rb.idle_next[run.cpu],
            self.rb.max_idle_cost[run.cpu],
        ]
        args = (run.kind, run.pulled, facts, run.kicked)
        self.send(run.cpu, messages.BALANCE_DONE, args, self.clock_ns + self.coherence_ns)

    # -- Events ----------------------------------------------------------------------------------

    def _receive(self, message: Message) -> None:
        _stamp, source, _seq, _target, op, args = message
        if op == messages.NOHZ_UPDATE:
            self._nohz_update(source, args[0], args[1])
        elif op == messages.BALANCE:
            self._balance(source, args)
        elif op == messages.BALANCE_PAID:
            run = self.runs[source]
            run.abort = bool(args[0])
            self.rb.step(run)
        elif op == messages.STOPPED:
            self._stopped(source, args[0], args[1], args[2])
        elif op == messages.COMMAND:
            self._command(args[0])
            if source == COORDINATOR:
                # It waits for all whom the command went to; there is nothing to add.
                self.send(source, messages.COMMAND_DONE, (args[0], ""), self.clock_ns)
        else:
            raise AssertionError(f"the balancer got op {op} from node {source}")

    def _balance(self, cpu: int, args: tuple[Any, ...]) -> None:
        assert cpu not in self.runs, f"CPU {cpu} asks again before it was answered"
        kind, value, avg_idle, cause = args
        run = Run(kind, cpu, value, avg_idle, cause)
        self.runs[cpu] = run
        self.rb.start(run)

    def _detached(self, message: Message) -> None:
        assert self.asking >= 0, "an answer that nobody asked for"
        source, (env_list, tasks, facts) = message[1], message[5]
        run = self.runs[self.asking]
        env = run.env
        assert env is not None
        assert run.phase == PH_WAIT
        assert source == env.src_cpu
        self.asking = -1
        self.rb.view.replace(source, tuple(facts))
        if tasks:
            # The last detached is attached first.
            args = (list(reversed(tasks)), env.why, env.cause)
            self.send(env.dst_cpu, messages.ATTACH, args, self.clock_ns + self.coherence_ns)
        self.rb.answered(run, list(env_list), len(tasks))

    def _nohz_update(self, cpu: int, kind: int, value: int) -> None:
        rb = self.rb
        if kind == NOHZ_ENTER:
            # A CPU without domains (inactive, or alone) takes no part.
            if rb.domains.sd[cpu]:
                rb.nohz.nohz_balance_enter_idle(cpu)
        elif kind == NOHZ_EXIT:
            rb.nohz.nohz_balance_exit_idle(cpu)
        elif kind == NOHZ_KICKED:
            rb.nohz.kick_ilb()
        elif kind == NOHZ_KICKED_FULL:
            rb.nohz.kick_ilb_full(value * self.machine.hz // 1_000_000_000)
        elif kind == NOHZ_NEWIDLE:
            rb.newidle_skipped(cpu)
        else:
            assert kind == NOHZ_NEWIDLE_STATS
            rb.nohz.newidle_stats(cpu, rb.jiffies(), rb.view)

    def _stopped(self, source: int, push_cpu: int, result: int, hot: int) -> None:
        # The kernel clears the flag and counts in the target's lowest domain with the source.
        record = self.rb.view.active_balance[source]
        self.rb.view.active_balance[source] = None
        sd = lowest_domain_spanning(self.rb.domains.sd[push_cpu], source)
        if result == STOP_ABORTED or sd is None:
            return
        idle = record[1] if record is not None else CPU_IDLE
        sd.alb_count += 1
        if result != STOP_PUSHED:
            sd.alb_failed += 1
            sd.lb[idle][LB_ACTIVE_FAILED] += 1
            return
        sd.alb_pushed += 1
        sd.nr_balance_failed = 0
        sd.lb[idle][LB_ACTIVE_PUSHED] += 1
        # detach_one_task() counts in the idle type of its own env.
        sd.lb[CPU_IDLE][LB_GAINED] += 1
        sd.lb[CPU_IDLE][LB_HOT_GAINED] += 1 if hot else 0

    # -- Commands --------------------------------------------------------------------------------

    def _command(self, words: list[Any]) -> None:
        if words[0] == "cpu_active":
            self.set_cpu_active(int(words[1]), bool(int(words[2])), self.clock_ns)
        elif words[0] == "cpu_dead":
            self.cpu_dead(int(words[1]))
        elif words[0] == "sysctl":
            name, _, value = str(words[1]).partition("=")
            self.set_sysctl(name, int(value))
        elif words[0] == "chrt":
            self.rb.view.capacity_varies = True  # there may be real-time tasks from now on
        else:
            raise AssertionError(f"the balancer does not know the command {words}")

    def set_sysctl(self, name: str, value: int) -> None:
        """Take over a sysctl that the balancer reads; others are not its own."""
        if name == "kernel.sched_nr_migrate":
            self.rb.view.nr_migrate = value
        elif name == "kernel.sched_migration_cost_ns":
            self.rb.migration_cost = value
        elif name == "kernel.sched_wakeup_granularity_ns":
            self.rb.set_least_interval(value)

    def set_cpu_active(self, cpu: int, active: bool, now_ns: int) -> None:
        """Put a CPU into the sched domains or take it out: all domains are built anew.

        Kernel: ``sched_cpu_activate()``, ``sched_cpu_deactivate()`` with
        ``partition_sched_domains()``.
        """
        assert self.asking < 0
        rb = self.rb
        rb.view.seen_at(now_ns)
        self._retire_counters()
        mask = rb.view.active_mask & ~(1 << cpu) | active << cpu
        rb.view.active_mask = mask
        rb.use_domains(SchedDomains(self.machine, mask, rb.jiffies(), rb.rules))
        if not active:
            rb.nohz.nohz_balance_exit_idle(cpu)
        self._publish_domains()
        self._publish()

    def cpu_dead(self, cpu: int) -> None:
        """Forget what a dead CPU had under way: its run and its stopper's work."""
        run = self.runs.pop(cpu, None)
        if run is not None:
            self.rb.drop(run)
        self.rb.view.active_balance[cpu] = None

    def _publish_domains(self) -> None:
        effect_ns = self.clock_ns + self.coherence_ns
        for cpu, chain in enumerate(self.rb.domains.sd):
            facts = [self.rb.view.active_mask, *domain_facts(chain, cpu)]
            self.send(cpu, messages.PUBLISH_DOMAINS, (facts,), effect_ns)

    # -- Sending, publishing, counting -----------------------------------------------------------

    def _publish(self) -> None:
        rb, nohz = self.rb, self.rb.nohz
        facts = (
            rb.overload_ns,
            nohz.idle_cpus_mask,
            nohz.next_balance,
            nohz.has_blocked,
            nohz.next_blocked,
            rb.view.active_mask,
            nohz.needs_update if rb.rules.nohz_next_kick else 0,
            *rb.next_balance,
            *rb.idle_next,
            *rb.max_idle_cost,
            *rb.nr_idle_scan,
            *rb.newidle_cost,
        )
        if facts != self.published:
            self.published = facts
            self.board.publish(self.node_id, max(self.clock_ns, 0), facts)

    def _retire_counters(self) -> None:
        for chain in self.rb.domains.sd:
            for sd in chain:
                add_rows(self.totals, sd.lb)

    def _balance_figures(self) -> dict[str, dict[str, int]]:
        if not self.warm and self.reached_ns >= self.warmup_ns:
            self.warm = True
            self.warmup = self._counted()
        return {
            kind: {name: row[column] - before[column] for name, column in BALANCE_FIGURES.items()}
            for kind, row, before in zip(IDLE_TYPES, self._counted(), self.warmup, strict=True)
        }

    def _counted(self) -> list[list[int]]:
        rows = [list(row) for row in self.totals]
        for chain in self.rb.domains.sd:
            for sd in chain:
                add_rows(rows, sd.lb)
        return rows
