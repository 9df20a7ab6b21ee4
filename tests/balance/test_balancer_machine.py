"""The balancer against random machines, rules, loads, affinities and hotplug: what always holds.

The CPUs are real ones whose frames nobody runs: what a pass asks of its source is answered by the
real ``detach_tasks()`` on a real runqueue, and the stopper's push is the real one.  Everything else,
who runs, sleeps, asks and when a stopper gets its CPU, is drawn.
"""

from __future__ import annotations

from typing import Any

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emulator import messages, wire
from emulator.balance.balancer import Balancer
from emulator.balance.domain import (
    LB_ACTIVE_KICKED,
    LB_BALANCED,
    LB_COUNT,
    LB_FAILED,
    LB_MOVED,
    SD_SERIALIZE,
)
from emulator.balance.env import LbEnv
from emulator.balance.run import PH_PASS, PH_WAIT, Run
from emulator.kernel import fair, receive, stop_machine
from emulator.kernel.cpu import Cpu
from emulator.kernel.sched import (
    DEQUEUE_SLEEP,
    DEQUEUE_SPECIAL,
    KTHREAD_IS_PER_CPU,
    PF_KTHREAD,
    Task,
)
from emulator.rules import POLICIES, VERSIONS, changed, rules_of
from emulator.trace.memory import MemoryRing
from emulator.tracepoints import (
    LB_ACTIVE,
    LB_PINNED,
    MIGRATE_ACTIVE,
    MIGRATE_NEWIDLE,
    MIGRATE_NOHZ,
    MIGRATE_PERIODIC,
    SCHED_MIGRATE_TASK,
    TASK_INTERRUPTIBLE,
    TASK_RUNNING,
)
from emulator.tracepoints import LB_BALANCED as BALANCED
from emulator.tracepoints import LB_FAILED as FAILED
from emulator.tracepoints import LB_MOVED as MOVED
from emulator.types import (
    BALANCE_NEWIDLE,
    BALANCE_NOHZ,
    BALANCE_PERIODIC,
    CPU_IDLE,
    CPU_NEWLY_IDLE,
    CPU_NOT_IDLE,
    MIGRATION_LOAD,
    NEVER,
    NOHZ_BALANCE_KICK,
    NOHZ_ENTER,
    NOHZ_EXIT,
    NOHZ_NEED_RESCHED,
    NOHZ_NEXT_KICK,
    NOHZ_STATS_KICK,
    BoxSpec,
    Message,
)
from tests.kernel.box import Scripts, box_spec, costs, facts, machine, sleeping_task

MS = 1_000_000
MACHINES = (
    {"nr_cpus": 4},
    {"nr_cpus": 4, "llc": -1},
    {"nr_cpus": 8, "llc": 4},
    {"nr_cpus": 8, "core": 2},
    {"nr_cpus": 8, "core": 2, "llc": 4},
    {"nr_cpus": 8, "core": 2, "llc": 4, "node": 4},
    {"nr_cpus": 6, "llc": 2, "node": 2},
    {"nr_cpus": 8, "llc": 2, "node": 4, "hz": 250},
)
REMEDIES = (
    "small-imbalance-guard",
    "lb-rework",
    "lb-interval-granularity",
    "no-push-for-kthreads",
    "kthread-not-pinned",
    "push-by-task-count",
)
TASKS_MAX = 14
STEPS_MAX = 20_000
CPU = st.integers(0, 7)
TASK = st.tuples(
    st.just(255) | st.integers(0, 255),  # allowed besides the CPU it arrives on
    st.sampled_from([0, 30, 400, 900, 1024]),  # utilisation
    st.sampled_from([15, 60, 335, 1024, 9548]),  # load
    st.booleans(),  # a bound kthread
)
CAUSES = {
    BALANCE_PERIODIC: MIGRATE_PERIODIC,
    BALANCE_NEWIDLE: MIGRATE_NEWIDLE,
    BALANCE_NOHZ: MIGRATE_NOHZ,
}


class OneBoard:
    """The newest facts of every node."""

    def __init__(self, nr_cpus: int) -> None:
        self.facts: list[tuple[int, ...]] = [facts() for _ in range(nr_cpus + 1)]

    def publish(self, node: int, time_ns: int, facts: tuple[int, ...]) -> None:
        """Keep the newest facts of a node."""
        self.facts[node] = facts

    def read(self, node: int, as_of_ns: int) -> tuple[int, ...]:
        """Return the newest facts, whatever their age."""
        return self.facts[node]


class WatchedBalancer(Balancer):
    """A balancer that compares each pass's outcome with what the counter may have become."""

    def __init__(self, spec: BoxSpec, board: OneBoard, trace: MemoryRing) -> None:
        self.failed: dict[tuple[int, int], int] = {}
        super().__init__(spec, board, trace)

    def forget(self) -> None:
        """Take the counters as they are now for what they were."""
        for chain in self.rb.domains.sd:
            for sd in chain:
                self.failed[sd.cpu, sd.level] = sd.nr_balance_failed

    def imbalance_found(self, run: Run, env: LbEnv) -> None:
        """A pass has found a busiest group: there is something to move."""
        assert env.imbalance > 0
        assert env.busiest_type >= 0
        assert env.local_type >= 0
        assert env.rules.lb_group_types or env.migration_type == MIGRATION_LOAD
        super().imbalance_found(run, env)

    def pass_over(self, run: Run, env: LbEnv) -> None:
        """A pass has ended: the failure counter, the interval and the counters of the domain."""
        sd, rules = env.sd, env.rules
        before = self.failed.get((sd.cpu, sd.level), 0)
        after = sd.nr_balance_failed
        counted = before + (env.idle != CPU_NEWLY_IDLE)
        kicked = counted if rules.active_balance_keeps_count else sd.cache_nice_tries + 1
        if env.result in (BALANCED, MOVED):
            assert after == 0
        elif env.result == FAILED:
            # Somebody else may be pushing that queue's task already.
            assert after in (counted, kicked)
        elif env.result == LB_ACTIVE:
            assert after == kicked
            assert self.rb.view.active_balance[env.src_cpu] == [env.this_cpu, env.idle]
        else:
            assert env.result == LB_PINNED
            assert after in (0, counted)
        assert (env.stop_cpu >= 0) is (env.result == LB_ACTIVE)
        assert env.ld_moved_here <= env.ld_moved
        interval = sd.balance_interval
        assert interval % sd.min_interval == 0
        assert sd.min_interval <= interval
        assert interval <= sd.max_interval or interval < 1024
        assert self.rb.view.active_mask >> env.this_cpu & 1 or env.refused
        self.failed[sd.cpu, sd.level] = after
        super().pass_over(run, env)


class BalancerMachine(RuleBasedStateMachine):
    """A box whose time stands still unless a rule moves it."""

    @initialize(
        shape=st.sampled_from(MACHINES),
        version=st.sampled_from(VERSIONS),
        remedy=st.none() | st.sampled_from(REMEDIES),
        costs_time=st.booleans(),
        crowd=st.lists(TASK, min_size=2, max_size=8),
    )
    def build(
        self,
        shape: dict[str, int],
        version: str,
        remedy: str | None,
        costs_time: bool,
        crowd: list[tuple[int, int, int, bool]],
    ) -> None:
        """Boot a box and crowd two of its CPUs."""
        rules = rules_of(version)
        if remedy is not None:
            rules = changed(rules, POLICIES[remedy].sets)
        charges = costs()
        if costs_time:
            charges = costs(balance_pass_ns=9_000, nohz_cpu_ns=900, coherence_ns=100)
        topology = machine(**shape)
        self.spec = box_spec(
            topology,
            charges,
            [],
            rules=rules,
            version=version,
            sysctls={"kernel.sched_wakeup_granularity_ns": 3 * MS},
        )
        self.nr = topology.nr_cpus
        self.board = OneBoard(self.nr)
        self.trace = MemoryRing("coordinator", self.nr)
        self.rings = [MemoryRing(f"cpu{c}", c) for c in range(self.nr)]
        self.cpus = [
            Cpu(self.spec, c, self.board, self.rings[c], Scripts([])) for c in range(self.nr)
        ]
        self.balancer = WatchedBalancer(self.spec, self.board, self.trace)
        self.now = MS
        self.seq = 0
        self.pid = 20_000
        self.later: list[Message] = []
        self.stops: list[Message] = []
        self.resched = 0  # CPUs with need_resched while they spend a pass's time
        self.alive: dict[int, int] = {}  # pid -> allowed CPUs
        self.kicks = 0
        for cpu in self.cpus:
            cpu.now = self.now
        for number, task in enumerate(crowd):
            self.task_arrives(number % 2, task, True)
        for cpu in self.cpus:
            self.tick(cpu)

    # -- The box ----------------------------------------------------------------------------------

    def send(self, now: int, source: int, op: int, *args: Any) -> None:
        """Give the balancer a message."""
        self.seq += 1
        self.balancer.deliver((now, source, self.seq, self.nr, op, args))

    def collect(self) -> None:
        """Take what nodes have sent to where it waits."""
        for outbox in (self.balancer.outbox, *(cpu.outbox for cpu in self.cpus)):
            for message in outbox:
                if message[3] == self.nr:
                    self.balancer.deliver(message)
                elif message[3] >= 0:
                    self.later.append(message)
            outbox.clear()

    def pump(self) -> None:
        """Let all that is under way come to its end; stoppers wait."""
        for _ in range(STEPS_MAX):
            self.collect()
            asked = [m for m in self.later if m[4] == messages.DETACH]
            assert len(asked) <= 1, "two sources are asked at once"
            if asked:
                self.later.remove(asked[0])
                self.receive(asked[0])
                continue
            soonest = self.balancer.next_event_ns()
            if self.later and min(self.later)[0] <= soonest:
                message = min(self.later)
                self.later.remove(message)
                self.receive(message)
            elif soonest < NEVER:
                self.now = max(self.now, soonest)
                self.balancer.advance(soonest + 1, NEVER)
                self.serialized()
            else:
                break
        else:
            raise AssertionError(f"still under way: {self.balancer.books()['runs']} runs")
        assert not self.balancer.runs
        assert self.balancer.asking < 0
        assert not self.balancer.held
        self.now += 1_000  # what comes next comes later

    def serialized(self) -> None:
        """One pass at a time in domains that are balanced one CPU after the other."""
        rb = self.balancer.rb
        holders = []
        for run in self.balancer.runs.values():
            chain = rb.domains.sd[run.target]
            if run.phase not in (PH_PASS, PH_WAIT) or run.kind == BALANCE_NEWIDLE:
                continue
            at_level = run.generation == rb.generation and run.level < len(chain)
            if at_level and chain[run.level].flags & SD_SERIALIZE:
                holders.append(run.cpu)
        assert len(holders) <= 1
        assert not holders or rb.serialize_cpu == holders[0]

    def receive(self, message: Message) -> None:
        """Let a message take effect on a CPU."""
        effect, _source, _seq, target, op, args = message
        self.now = max(self.now, effect)
        cpu = self.cpus[target]
        cpu.now = self.now
        if op == messages.BALANCE_PAY:
            paid = self.now + args[0]
            self.send(paid, target, messages.BALANCE_PAID, self.resched >> target & 1)
        elif op == messages.BALANCE_DONE:
            cpu.balance_asked = -1
        elif op == messages.STOP:
            assert all(m[3] != target for m in self.stops), "a second push of one queue"
            self.kicks += 1
            self.stops.append(message)
        elif op != messages.PUBLISH_DOMAINS:
            receive.handle(cpu, message)

    def settle(self, cpu: Cpu) -> None:
        """Switch to whoever the class picks, as a reschedule would."""
        rq = cpu.rq
        cpu.now = self.now
        fair.update_rq_clock(rq, self.now)
        prev = rq.curr
        if rq.cfs.nr_running:
            following = rq.fair.pick_next_task(rq, prev)
            assert following is not None
        else:
            if prev is not rq.idle:
                rq.fair.put_prev_task(rq, prev)
            following = rq.idle
        prev.on_cpu = 0
        following.on_cpu = 1
        rq.curr = following
        rq.need_resched = False
        cpu.publish()

    # -- What happens -----------------------------------------------------------------------------

    @rule(ms=st.integers(1, 60))
    def time_goes_by(self, ms: int) -> None:
        """Nothing happens for a while."""
        self.now += ms * MS

    @precondition(lambda self: len(self.alive) < TASKS_MAX)
    @rule(where=CPU, task=TASK, runs=st.booleans())
    def task_arrives(self, where: int, task: tuple[int, int, int, bool], runs: bool) -> None:
        """A task is woken; it may be a bound kthread."""
        allowed, util, load, bound = task
        cpu = self.cpus[where % self.nr]
        here = 1 << cpu.node_id
        mask = here if bound else (allowed | here) & ((1 << self.nr) - 1)
        self.pid += 1
        cpu.now = self.now
        fair.update_rq_clock(cpu.rq, self.now)
        p = sleeping_task(cpu, self.pid, mask)
        if bound:
            p.flags |= PF_KTHREAD
            if cpu.rq.rules.kworker_per_cpu:
                p.kthread_flags = KTHREAD_IS_PER_CPU
        p.avg.load_avg = p.avg.runnable_avg = load
        p.avg.util_avg = util
        p.state = TASK_RUNNING
        cpu.rq.fair.enqueue_task(cpu.rq, p, 0)
        if cpu.rq.nr_running > 1:
            cpu.rq.overload_ns = self.now
        cpu.publish()
        self.alive[self.pid] = mask
        if runs:
            self.settle(cpu)

    @rule(where=CPU)
    def another_task_runs(self, where: int) -> None:
        """A CPU reschedules."""
        self.settle(self.cpus[where % self.nr])

    @rule(where=CPU)
    def current_task_sleeps(self, where: int) -> None:
        """The running task leaves the box."""
        cpu = self.cpus[where % self.nr]
        p: Task = cpu.rq.curr
        assume(p is not cpu.rq.idle)
        cpu.now = self.now
        fair.update_rq_clock(cpu.rq, self.now)
        p.state = TASK_INTERRUPTIBLE
        cpu.rq.fair.dequeue_task(cpu.rq, p, DEQUEUE_SLEEP | DEQUEUE_SPECIAL)
        self.settle(cpu)
        del cpu.tasks[p.pid]
        del self.alive[p.pid]

    @rule(where=CPU)
    def tick_of(self, where: int) -> None:
        """An idle CPU joins the mask, a busy one leaves it."""
        self.tick(self.cpus[where % self.nr])

    def tick(self, cpu: Cpu) -> None:
        """Tell the balancer whether a CPU idles without a tick."""
        idle = cpu.rq.curr is cpu.rq.idle and not cpu.rq.nr_running
        self.send(
            self.now, cpu.node_id, messages.NOHZ_UPDATE, NOHZ_ENTER if idle else NOHZ_EXIT, self.now
        )
        self.pump()

    @rule(
        who=st.lists(st.tuples(CPU, st.sampled_from(sorted(CAUSES))), min_size=1, max_size=4),
        flags=st.sampled_from(
            [
                NOHZ_BALANCE_KICK | NOHZ_STATS_KICK,
                NOHZ_STATS_KICK,
                NOHZ_NEXT_KICK,
                NOHZ_BALANCE_KICK | NOHZ_STATS_KICK | NOHZ_NEED_RESCHED,
            ]
        ),
        resched=st.integers(0, 255),
        times=st.integers(1, 6),
        gap=st.sampled_from([1, 9, 40, 300]),
    )
    def balance(
        self, who: list[tuple[int, int]], flags: int, resched: int, times: int, gap: int
    ) -> None:
        """Some CPUs balance, at the same time, again and again."""
        self.resched = resched
        for _ in range(times):
            self.now += gap * MS
            self.balance_once(who, flags)

    def balance_once(self, who: list[tuple[int, int]], flags: int) -> None:
        """Each CPU asks for its kind of balancing."""
        asked = set()
        for where, kind in who:
            cpu = self.cpus[where % self.nr]
            idle = cpu.rq.curr is cpu.rq.idle and not cpu.rq.nr_running
            if cpu.node_id in asked or not cpu.active or (kind != BALANCE_PERIODIC and not idle):
                continue
            asked.add(cpu.node_id)
            cpu.balance_asked = kind
            value = flags
            if kind != BALANCE_NOHZ:
                value = CPU_IDLE if idle else CPU_NOT_IDLE
            self.send(self.now, cpu.node_id, messages.BALANCE, kind, value, 10**6, 0)
        self.pump()

    @precondition(lambda self: len(self.alive) < TASKS_MAX - 1)
    @rule(
        where=CPU,
        who=CPU,
        times=st.integers(3, 6),
        allowed=st.just(255) | st.integers(0, 255),
        newly=st.booleans(),
    )
    def bound_kworker_waits(
        self, where: int, who: int, times: int, allowed: int, newly: bool
    ) -> None:
        """A hog runs, a bound kworker waits behind it, and an idle CPU looks again and again."""
        busy = self.cpus[where % self.nr]
        idle = [
            c.node_id
            for c in self.cpus
            if c.active and c is not busy and c.rq.curr is c.rq.idle and not c.rq.nr_running
        ]
        assume(busy.active and not busy.rq.nr_running and idle)
        self.task_arrives(where, (allowed, 1024, 1024, False), True)
        self.task_arrives(where, (0, 0, 60, True), False)
        looker = idle[who % len(idle)]
        self.resched = 0
        for _ in range(times):
            self.now += 40 * MS
            self.balance_once([(looker, BALANCE_PERIODIC)], 0)
        if newly:
            self.balance_once([(looker, BALANCE_NEWIDLE)], 0)

    @precondition(lambda self: self.stops)
    @rule(number=st.integers(0, 7))
    def stopper_runs(self, number: int) -> None:
        """One of the stoppers that were woken gets its CPU."""
        message = self.stops.pop(number % len(self.stops))
        target, (push_cpu, env, cause) = message[3], message[5]
        cpu = self.cpus[target]
        rq = cpu.rq
        cpu.now = self.now
        fair.update_rq_clock(rq, self.now)
        assert rq.stop is not None
        stop_machine.enqueue_task_stop(cpu, rq.stop)
        if rq.curr is not rq.idle:
            rq.fair.put_prev_task(rq, rq.curr)
        rq.curr.on_cpu = 0
        rq.curr = rq.stop
        cpu.cause = cause
        result, hot = stop_machine.active_load_balance_cpu_stop(cpu, push_cpu, list(env))
        stop_machine.dequeue_task_stop(cpu, rq.stop)
        rq.curr = rq.idle
        self.settle(cpu)
        self.send(self.now, target, messages.STOPPED, push_cpu, result, hot)
        self.pump()
        self.balancer.forget()

    @rule(where=CPU)
    def hotplug(self, where: int) -> None:
        """A CPU leaves the domains, or comes back to them."""
        cpu = self.cpus[where % self.nr]
        assume(not cpu.active or sum(c.active for c in self.cpus) > 1)
        cpu.now = self.now
        cpu.active = not cpu.active
        cpu.publish()
        words = ["cpu_active", cpu.node_id, int(cpu.active)]
        self.send(self.now, cpu.node_id, messages.COMMAND, words)
        self.pump()
        self.balancer.failed.clear()
        self.balancer.forget()

    @rule()
    def snapshot(self) -> None:
        """The balancer is written to a snapshot, and another goes on in its place."""
        state = self.balancer.snapshot()
        other = WatchedBalancer(self.spec, self.board, self.trace)
        other.restore(wire.unpack(wire.pack(state)))
        assert other.snapshot() == state
        other.forget()
        self.balancer = other

    # -- What always holds ------------------------------------------------------------------------

    @invariant()
    def no_task_is_lost_or_where_it_may_not_be(self) -> None:
        """Every task is on exactly one queue, one of those it may be on."""
        found: dict[int, int] = {}
        for cpu in self.cpus:
            for p in cpu.rq.cfs.cfs_tasks:
                assert p.pid not in found
                assert cpu.tasks[p.pid] is p
                found[p.pid] = cpu.node_id
                assert self.alive[p.pid] >> cpu.node_id & 1
            assert cpu.rq.nr_running == len(cpu.rq.cfs.cfs_tasks)
        assert sorted(found) == sorted(self.alive)

    @invariant()
    def moves_go_to_active_cpus_and_name_their_cause(self) -> None:
        """Every recorded move is a pass's or a stopper's."""
        for ring in self.rings:
            for record in ring.records:
                if record[1] == SCHED_MIGRATE_TASK:
                    assert record[8] != record[9]
                    assert record[10] in (*CAUSES.values(), MIGRATE_ACTIVE)
                    assert record[5], "a move without a cause"

    @invariant()
    def the_mask_is_of_active_cpus(self) -> None:
        """nohz.idle_cpus_mask holds CPUs of the domains only."""
        rb = self.balancer.rb
        assert not rb.nohz.idle_cpus_mask & ~rb.view.active_mask

    @invariant()
    def one_push_per_queue(self) -> None:
        """A queue's active_balance is set while its stopper waits, and only then."""
        waiting = sorted(message[3] for message in self.stops)
        view = self.balancer.rb.view
        assert waiting == [c for c in range(self.nr) if view.active_balance[c] is not None]
        assert self.balancer.rb.serialize_cpu < 0

    @invariant()
    def counters_add_up(self) -> None:
        """Each pass ended in one way; each kick was of a failed pass."""
        for chain in self.balancer.rb.domains.sd:
            for sd in chain:
                assert sd.alb_count == sd.alb_pushed + sd.alb_failed
                for row in sd.lb:
                    assert row[LB_COUNT] == row[LB_BALANCED] + row[LB_FAILED] + row[LB_MOVED]
                    assert row[LB_ACTIVE_KICKED] <= row[LB_FAILED]


BalancerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBalancerMachine = BalancerMachine.TestCase
