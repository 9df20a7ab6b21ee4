"""The balancer node: runs, timing, active balance, hotplug, snapshots, properties."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import messages, wire
from emulator.balance.balancer import Balancer
from emulator.balance.domain import (
    LB_BALANCED,
    LB_COUNT,
    LB_FAILED,
    LB_GAINED,
    LB_HOT_GAINED,
    LB_MOVED,
)
from emulator.tracepoints import (
    BOX_LB_IMBALANCE,
    BOX_LOAD_BALANCE,
    GROUP_OTHER,
    GROUP_OVERLOADED,
    LB_ACTIVE,
    LB_RESULTS,
    MIGRATE_NEWIDLE,
    MIGRATE_NOHZ,
    MIGRATE_PERIODIC,
)
from emulator.types import (
    BAL_ACTIVE_MASK,
    BAL_COLUMNS,
    BAL_HAS_BLOCKED,
    BAL_HEADER,
    BAL_IDLE_NEXT,
    BAL_MAX_IDLE_COST,
    BAL_NEXT_BALANCE,
    BAL_NOHZ_MASK,
    BAL_NOHZ_NEXT_BALANCE,
    BAL_OVERLOAD_NS,
    BALANCE_NEWIDLE,
    BALANCE_NOHZ,
    BALANCE_PERIODIC,
    COORDINATOR,
    CPU_IDLE,
    CPU_NEWLY_IDLE,
    CPU_NOT_IDLE,
    ENV_NR_BALANCE_FAILED,
    MIGRATION_LOAD,
    NEVER,
    NOHZ_BALANCE_KICK,
    NOHZ_ENTER,
    NOHZ_EXIT,
    NOHZ_KICKED,
    NOHZ_NEED_RESCHED,
    NOHZ_NEWIDLE,
    NOHZ_STATS_KICK,
    TO_CPU,
)
from tests.balance.fakes import FakeBox, FakeTask, box_spec, machine, rq_facts

MS = 1_000_000
FULL = NOHZ_BALANCE_KICK | NOHZ_STATS_KICK


def column(box: FakeBox, which: int) -> list[int]:
    nr = box.spec.nr_cpus
    facts = box.board.facts[nr]
    assert len(facts) == BAL_HEADER + BAL_COLUMNS * nr
    return list(facts[BAL_HEADER + which * nr : BAL_HEADER + (which + 1) * nr])


def ask(box: FakeBox, now: int, cpu: int, kind: int, value: int, avg_idle: int = 10**6) -> None:
    box.send(now, cpu, messages.BALANCE, kind, value, avg_idle, 7)


def enter(box: FakeBox, now: int, *cpus: int) -> None:
    for cpu in cpus:
        box.send(now, cpu, messages.NOHZ_UPDATE, NOHZ_ENTER, 0)


def hogs(nr: int, allowed: int = -1, first: int = 100) -> list[FakeTask]:
    return [FakeTask(first + i, allowed) for i in range(nr)]


# -- Periodic -------------------------------------------------------------------------------------


def test_a_periodic_pass_pulls_in_order_and_reports() -> None:
    box = FakeBox(machine(4), coherence_ns=100)
    box.put(0, *hogs(4))
    ask(box, 300 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.run(301 * MS)
    # Load 4096 on one of four CPUs: 1024 each is the goal, so one task moves... at 1024 * 3 above.
    (detach,) = [m for m in box.seen if m[4] == messages.DETACH]
    assert (detach[0], detach[3]) == (300 * MS, 0)
    (attach,) = [m for m in box.seen if m[4] == messages.ATTACH]
    assert (attach[0], attach[3]) == (300 * MS + 100, 1)
    # What the pass found is the cause of the move, and has the request's cause as its own.
    assert attach[5][1:] == (MIGRATE_PERIODIC, 4 << 40 | 1)
    types = GROUP_OVERLOADED << 4 | GROUP_OTHER
    (found,) = box.trace.imbalances
    assert found == (300 * MS, BOX_LB_IMBALANCE, 7, 1, 1, types, MIGRATION_LOAD, 1024)
    assert [r[2] for r in box.trace.records] == [4 << 40 | 1]
    order = [pid for _t, pid, _from, _to in box.moves]
    assert [pid for pid, _ in attach[5][0]] == list(reversed(order))
    ((effect, cpu, (kind, pulled, facts, _kicked)),) = box.done
    assert (effect, cpu, kind, pulled) == (300 * MS + 100, 1, BALANCE_PERIODIC, len(order))
    # It is busy now: 4 ms * 32.
    assert facts[0] == 428 == column(box, BAL_NEXT_BALANCE)[1]
    assert facts[1] == 304 == column(box, BAL_IDLE_NEXT)[1]
    assert box.seen.index(attach) < len(box.seen) - 1 or box.seen[-1][4] == messages.BALANCE_DONE


def test_a_pass_that_is_not_due_is_not_made() -> None:
    box = FakeBox(machine(4))
    ask(box, 2 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.run(3 * MS)
    assert box.trace.records == []
    assert column(box, BAL_NEXT_BALANCE)[1] == 4
    assert len(box.done) == 1


def test_the_second_domain_is_decided_one_pass_time_later_on_the_state_then() -> None:
    box = FakeBox(machine(8, llc=4), pass_ns=10_000, coherence_ns=100)
    ask(box, 100 * MS, 0, BALANCE_PERIODIC, CPU_IDLE)
    box.run(100 * MS + 15_000)
    assert [r[0] for r in box.trace.records] == [100 * MS + 10_100]
    assert box.pays == [(100 * MS + 100, 0, 10_000), (100 * MS + 10_200, 0, 10_000)]
    # Its only next event is the CPU's answer.
    promise = box.balancer.promise()
    assert promise.next_ns == promise.send_ns[TO_CPU] == 100 * MS + 20_200
    box.put(4, *hogs(8))  # comes up meanwhile
    box.run(101 * MS)
    assert [r[0] for r in box.trace.records] == [100 * MS + 10_100, 100 * MS + 20_200]
    assert box.moves
    assert box.done[0][0] == 100 * MS + 20_300


def test_an_interrupt_lengthens_a_pass_and_what_comes_up_then_is_still_seen() -> None:
    box = FakeBox(machine(8, llc=4), pass_ns=10_000)
    box.interrupted_ns[0] = 7_000
    ask(box, 100 * MS, 0, BALANCE_PERIODIC, CPU_IDLE)
    box.run(100 * MS + 32_000)
    assert len(box.trace.records) == 1
    box.put(4, *hogs(8))  # after the second pass's own time, before the CPU has spent it
    box.run(101 * MS)
    assert [r[0] for r in box.trace.records] == [100 * MS + 17_000, 100 * MS + 34_000]
    assert box.moves
    assert {now for now, *_rest in box.moves} == {100 * MS + 34_000}


def test_the_first_pass_of_a_newly_idle_run_is_paid_already() -> None:
    box = FakeBox(machine(4), pass_ns=10_000)
    ask(box, 100 * MS, 1, BALANCE_NEWIDLE, 0)
    box.run(101 * MS)
    assert box.pays == []
    assert [r[0] for r in box.trace.records] == [100 * MS]


def test_need_resched_does_not_end_a_periodic_run() -> None:
    box = FakeBox(machine(8, llc=4), pass_ns=10_000)
    box.resched_ns[0] = 100 * MS
    ask(box, 100 * MS, 0, BALANCE_PERIODIC, CPU_IDLE)
    box.run(101 * MS)
    assert len(box.trace.records) == 2


def test_the_balancer_has_no_events_of_its_own() -> None:
    box = FakeBox(machine(8, llc=4), pass_ns=10_000)
    ask(box, 100 * MS, 0, BALANCE_PERIODIC, CPU_IDLE)
    box.balancer.advance(100 * MS + 1, NEVER)
    assert [m[4] for m in box.balancer.outbox] == [messages.BALANCE_PAY]
    assert box.balancer.own_next_ns() == box.balancer.next_event_ns() == NEVER
    with pytest.raises(AssertionError, match="no events of its own"):
        box.balancer.fire(101 * MS)


def test_should_we_balance_no_ends_the_walk() -> None:
    box = FakeBox(machine(12, llc=6))
    ask(box, 100 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.run(101 * MS)
    # CPU 0 is the first idle CPU of its group: at the upper level CPU 1 is told no.
    lower, upper = box.balancer.rb.domains.sd[1]
    assert (lower.lb[CPU_IDLE][LB_COUNT], upper.lb[CPU_IDLE][LB_COUNT]) == (1, 1)
    assert upper.lb[CPU_IDLE][LB_BALANCED] == 1


def test_decay_of_the_newidle_cost_goes_on_after_a_no() -> None:
    box = FakeBox(machine(8, llc=4))
    for sd in box.balancer.rb.domains.sd[1]:
        sd.max_newidle_lb_cost = 256_000_000
    ask(box, 2000 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.run(2001 * MS)
    assert [sd.max_newidle_lb_cost for sd in box.balancer.rb.domains.sd[1]] == [253_000_000] * 2
    assert column(box, BAL_MAX_IDLE_COST)[1] == 506_000_000


def test_serialize_lets_one_cpu_at_a_time_look_at_far_nodes() -> None:
    box = FakeBox(machine(8, llc=4, node=4), pass_ns=10_000)
    ask(box, 100 * MS, 0, BALANCE_PERIODIC, CPU_IDLE)
    ask(box, 100 * MS + 1_000, 4, BALANCE_PERIODIC, CPU_IDLE)
    box.run(101 * MS)
    passes = [(r[0], r[3]) for r in box.trace.records]
    # CPU 4 comes to its far domain while CPU 0 holds the lock for a pass in its own.
    assert passes == [(100 * MS + 10_000, 0), (100 * MS + 11_000, 4), (100 * MS + 20_000, 0)]
    assert box.balancer.rb.serialize_cpu == -1


# -- Newidle --------------------------------------------------------------------------------------


def test_newidle_pulls_and_stops() -> None:
    box = FakeBox(machine(8, llc=4), pass_ns=10_000)
    box.put(1, *hogs(2))
    ask(box, 100 * MS, 0, BALANCE_NEWIDLE, 0)
    box.run(101 * MS)
    ((_effect, _cpu, (kind, pulled, facts, _kicked)),) = box.done
    assert (kind, pulled) == (BALANCE_NEWIDLE, 1)
    assert [m[5][1] for m in box.seen if m[4] == messages.ATTACH] == [MIGRATE_NEWIDLE]
    lower, upper = box.balancer.rb.domains.sd[0]
    assert lower.lb[CPU_NEWLY_IDLE][LB_MOVED] == 1
    assert upper.lb[CPU_NEWLY_IDLE][LB_COUNT] == 0
    assert lower.max_newidle_lb_cost == 10_000
    assert facts[0] == 0  # not later than it was


def test_newidle_stops_where_it_would_cost_more_than_the_idle_time() -> None:
    box = FakeBox(machine(8, llc=4), pass_ns=10_000)
    lower, upper = box.balancer.rb.domains.sd[0]
    upper.max_newidle_lb_cost = 600_000
    box.balancer.rb.next_balance[0] = 10**6
    ask(box, 100 * MS, 0, BALANCE_NEWIDLE, 0, 600_000)
    box.run(101 * MS)
    assert lower.lb[CPU_NEWLY_IDLE][LB_COUNT] == 1
    assert upper.lb[CPU_NEWLY_IDLE][LB_COUNT] == 0
    assert column(box, BAL_NEXT_BALANCE)[0] == 4  # lowered to what an idle CPU is due


def test_newidle_that_returned_early_lowers_next_balance() -> None:
    box = FakeBox(machine(4))
    box.balancer.rb.next_balance[2] = 10**6
    box.balancer.rb.domains.sd[2][0].last_balance = 95
    box.balancer.rb.note_due([2])
    box.send(100 * MS, 2, messages.NOHZ_UPDATE, NOHZ_NEWIDLE, 0)
    box.run(101 * MS)
    assert column(box, BAL_NEXT_BALANCE)[2] == 99


# -- Nohz -----------------------------------------------------------------------------------------


def test_mask_and_times_are_published() -> None:
    box = FakeBox(machine(4))
    enter(box, MS, 1, 3)
    box.send(MS, 0, messages.NOHZ_UPDATE, NOHZ_KICKED, 0)
    box.run(2 * MS)
    facts = box.board.facts[4]
    assert facts[BAL_NOHZ_MASK] == 0b1010
    assert facts[BAL_NOHZ_NEXT_BALANCE] == 1
    assert facts[BAL_HAS_BLOCKED] == 1
    box.send(3 * MS, 1, messages.NOHZ_UPDATE, NOHZ_EXIT, 0)
    box.run(4 * MS)
    assert box.board.facts[4][BAL_NOHZ_MASK] == 0b1000


def test_a_cpu_without_domains_does_not_enter() -> None:
    box = FakeBox(machine(1))
    enter(box, MS, 0)
    box.run(2 * MS)
    assert box.board.facts[1][BAL_NOHZ_MASK] == 0
    assert column(box, BAL_IDLE_NEXT) == [NEVER]


def test_the_ilb_balances_for_all_and_last_for_itself() -> None:
    box = FakeBox(machine(4), pass_ns=10_000, visit_ns=1_000)
    box.put(0, *hogs(1))
    enter(box, MS, 1, 2, 3)
    ask(box, 100 * MS, 1, BALANCE_NOHZ, FULL)
    box.run(101 * MS)
    passes = [(r[0] - 100 * MS, r[3]) for r in box.trace.records]
    assert passes == [(11_000, 2), (22_000, 3), (32_000, 1)]
    assert [cost for _now, _cpu, cost in box.pays] == [11_000, 11_000, 10_000]
    rb = box.balancer.rb
    # Balanced: the interval of 4 ms has doubled.
    assert rb.next_balance == [0, 108, 108, 108]
    assert rb.nohz.next_balance == 108
    assert rb.nohz.next_blocked == 132
    assert rb.nohz.has_blocked == 0
    assert [done[1] for done in box.done] == [1]


def test_D_4_the_ilbs_own_due_time_does_not_count() -> None:
    box = FakeBox(machine(4))
    enter(box, MS, 1, 2)
    rb = box.balancer.rb
    rb.next_balance[:] = [0, 105, 120, 0]
    rb.domains.sd[1][0].last_balance = 99
    rb.nohz.next_balance = 90
    ask(box, 100 * MS, 1, BALANCE_NOHZ, FULL)
    box.run(101 * MS)
    # Neither is due; only CPU 2's time is the next.
    assert box.trace.records == []
    assert rb.nohz.next_balance == 120


def test_visits_without_a_pass_are_paid_for_before_the_run_ends() -> None:
    box = FakeBox(machine(4), pass_ns=10_000, visit_ns=1_000)
    enter(box, MS, 1, 2, 3)
    box.balancer.rb.next_balance[:] = [0, 105, 120, 130]
    box.balancer.rb.domains.sd[1][0].last_balance = 99
    ask(box, 100 * MS, 1, BALANCE_NOHZ, FULL)
    box.run(101 * MS)
    assert box.trace.records == []
    assert [cost for _now, _cpu, cost in box.pays] == [2_000]
    assert [done[0] for done in box.done] == [100 * MS + 2_000]


def test_D_4_alone_the_ilb_leaves_next_balance_as_it_is() -> None:
    box = FakeBox(machine(2))
    enter(box, MS, 1)
    box.balancer.rb.nohz.next_balance = 50
    ask(box, 100 * MS, 1, BALANCE_NOHZ, FULL)
    box.run(101 * MS)
    assert box.balancer.rb.nohz.next_balance == 50


def test_a_stats_kick_ages_and_balances_nobody() -> None:
    box = FakeBox(machine(4))
    enter(box, MS, 1, 2)
    box.board.facts[2] = rq_facts(0, 0, 300)
    ask(box, 2 * MS, 1, BALANCE_NOHZ, NOHZ_STATS_KICK)
    box.run(3 * MS)
    assert box.trace.records == []
    assert box.balancer.rb.nohz.has_blocked == 1
    assert box.balancer.rb.nohz.next_blocked == 34


def test_need_resched_ends_the_run_before_the_first_cpu() -> None:
    box = FakeBox(machine(4), visit_ns=1_000)
    enter(box, MS, 1, 2, 3)
    ask(box, 100 * MS, 1, BALANCE_NOHZ, FULL | NOHZ_NEED_RESCHED)
    box.run(101 * MS)
    assert box.trace.records == []
    assert box.balancer.rb.nohz.has_blocked == 1
    assert box.balancer.rb.nohz.next_blocked == 0
    assert len(box.done) == 1


def test_need_resched_at_the_end_of_a_pass_ends_the_run_before_the_next_cpu() -> None:
    box = FakeBox(machine(4), pass_ns=10_000, visit_ns=1_000)
    enter(box, MS, 1, 2, 3)
    box.resched_ns[1] = 100 * MS + 5_000
    ask(box, 100 * MS, 1, BALANCE_NOHZ, FULL)
    box.run(101 * MS)
    assert [cost for _now, _cpu, cost in box.pays] == [11_000]
    assert [r[3] for r in box.trace.records] == [2]
    rb = box.balancer.rb
    assert (rb.nohz.has_blocked, rb.nohz.next_blocked) == (1, 0)
    assert rb.nohz.next_balance == 108  # CPU 2's, also after an abort
    assert box.done[0][0] == 100 * MS + 11_000


def test_pulls_on_behalf_of_another_cpu_go_there() -> None:
    box = FakeBox(machine(4))
    box.put(0, *hogs(3))
    enter(box, MS, 1, 2, 3)
    box.balancer.rb.next_balance[3] = 1000
    box.balancer.rb.domains.sd[1][0].last_balance = 100
    ask(box, 100 * MS, 1, BALANCE_NOHZ, FULL)
    box.run(101 * MS)
    assert {to for _t, _pid, _from, to in box.moves} == {2}
    assert {m[5][1] for m in box.seen if m[4] == messages.ATTACH} == {MIGRATE_NOHZ}
    assert box.done[0][2][1] == 0  # nothing came to the ilb itself


# -- Active balance -------------------------------------------------------------------------------


def starve(box: FakeBox, now: int, cpu: int) -> None:
    """One idle pass of ``cpu`` against a hog with a bound task waiting behind it."""
    ask(box, now, cpu, BALANCE_PERIODIC, CPU_IDLE)
    box.run(now + 1)


def bound_pair(box: FakeBox, *, hot: bool = False) -> tuple[FakeTask, FakeTask]:
    hog, bound = FakeTask(1, hot=hot), FakeTask(2, 1, 60)
    box.put(0, hog, bound)
    return hog, bound


def test_D_11_hog_and_bound_kworker_end_in_active_balance() -> None:
    box = FakeBox(machine(4), coherence_ns=100)
    bound_pair(box, hot=True)
    for i in range(4):
        assert box.moves == []
        starve(box, (100 + 8 * i) * MS, 3)
    box.run(200 * MS)
    assert box.moves == [(124 * MS + 100, 1, 0, 3)]
    (stop,) = [m for m in box.seen if m[4] == messages.STOP]
    push_cpu, env, cause = stop[5]
    assert push_cpu == 3
    assert env[ENV_NR_BALANCE_FAILED] == 2  # above the tries: hot tasks pass
    assert cause == 4 << 40 | 8  # of two records per pass, the fourth pass's second
    assert [LB_RESULTS[r[6]] for r in box.trace.records] == ["failed"] * 3 + ["active"]
    assert [done[2][3] for done in box.done] == [[], [], [], [0]]
    (sd,) = box.balancer.rb.domains.sd[3]
    assert (sd.alb_count, sd.alb_pushed, sd.alb_failed, sd.nr_balance_failed) == (1, 1, 0, 0)
    row = sd.lb[CPU_IDLE]
    # The push counts as gained of the idle type; no pass moved it.
    assert (row[LB_GAINED], row[LB_HOT_GAINED], row[LB_MOVED]) == (1, 1, 0)
    assert box.balancer.rb.view.active_balance[0] is None
    figures = box.balancer.books()["balance"]["idle"]
    assert (figures["calls"], figures["failed"], figures["pulled"]) == (4, 4, 0)
    assert (figures["active_kicked"], figures["active_pushed"]) == (1, 1)


def test_a_second_cpu_at_the_threshold_does_not_kick_twice() -> None:
    box = FakeBox(machine(4), coherence_ns=10 * MS)
    bound_pair(box)
    for sd in (box.balancer.rb.domains.sd[2][0], box.balancer.rb.domains.sd[3][0]):
        sd.nr_balance_failed = 3
    starve(box, 100 * MS, 2)
    starve(box, 101 * MS, 3)
    assert [r[6] for r in box.trace.records] == [LB_ACTIVE, 1]
    assert box.balancer.rb.domains.sd[3][0].nr_balance_failed == 2
    assert box.balancer.books()["active_balance"] == 1


def test_an_aborted_stop_counts_nothing() -> None:
    box = FakeBox(machine(4), coherence_ns=100)
    bound_pair(box)
    box.balancer.rb.domains.sd[2][0].nr_balance_failed = 3
    starve(box, 100 * MS, 2)
    box.running[0] = None
    box.run(200 * MS)
    (sd,) = box.balancer.rb.domains.sd[2]
    assert (sd.alb_count, sd.nr_balance_failed) == (0, 2)
    assert box.balancer.rb.view.active_balance[0] is None


def test_a_failed_stop_is_counted() -> None:
    box = FakeBox(machine(4), coherence_ns=100)
    hog, _ = bound_pair(box)
    box.balancer.rb.domains.sd[2][0].nr_balance_failed = 3
    starve(box, 100 * MS, 2)
    hog.allowed = 1
    box.run(200 * MS)
    (sd,) = box.balancer.rb.domains.sd[2]
    assert (sd.alb_count, sd.alb_failed, sd.alb_pushed) == (1, 1, 0)
    assert sd.nr_balance_failed == 2


class OneHog:
    """The model of D.11: T runs, a bound kworker of T's CPU always waits, one look per jiffy."""

    def __init__(self, nr_cpus: int, hz: int) -> None:
        self.box = FakeBox(machine(nr_cpus, hz=hz))
        self.hz = hz
        self.nr_cpus = nr_cpus
        self.hog = FakeTask(1)
        self.box.put(0, self.hog, self.bound(0))
        enter(self.box, 0, *range(1, nr_cpus))
        rb = self.box.balancer.rb
        for cpu in range(nr_cpus):
            (sd,) = rb.domains.sd[cpu]
            sd.last_balance = -cpu
        rb.note_due(range(nr_cpus))
        rb.next_balance[:] = rb.idle_next
        self.pushes: list[tuple[int, int, int]] = []

    def bound(self, cpu: int) -> FakeTask:
        return FakeTask(100 + cpu, 1 << cpu, 60)

    def run(self, jiffies: int) -> list[tuple[int, int, int]]:
        for jiffy in range(jiffies + 1):
            self.tick(jiffy)
        return self.pushes

    def tick(self, jiffy: int) -> None:
        box, nohz = self.box, self.box.balancer.rb.nohz
        now = -(-jiffy * 10**9 // self.hz)
        busy = next(c for c in range(self.nr_cpus) if self.hog in box.queues[c])
        if nohz.idle_cpus_mask >> busy & 1:
            box.send(now, busy, messages.NOHZ_UPDATE, NOHZ_EXIT, 0)
        if jiffy < nohz.next_balance:
            box.run(now + 1)
            return
        box.send(now, busy, messages.NOHZ_UPDATE, NOHZ_KICKED, 0)
        ilb = next(c for c in range(self.nr_cpus) if not box.queues[c])
        ask(box, now, ilb, BALANCE_NOHZ, FULL)
        box.run(now + 1)
        self.after_push(jiffy, now)

    def after_push(self, jiffy: int, now: int) -> None:
        box = self.box
        for _time, _pid, source, target in box.moves:
            self.pushes.append((jiffy, source, target))
            box.queues[source].clear()
            box.running[source] = None
            box.put(target, self.bound(target))
            box.publish(source)
            enter(box, now + 1, source)
        box.moves.clear()
        box.run(now + 2)


def test_example_D_12_7_push_times_16_cpus_hz_1000() -> None:
    pushes = OneHog(16, 1000).run(65)
    ladder = [(49 + i, (0, *range(15, 1, -1))[i], 15 - i) for i in range(14)]
    assert pushes == [*ladder, (65, 2, 1)]


def test_example_D_12_7_push_times_4_cpus_hz_250() -> None:
    pushes = OneHog(4, 250).run(11)
    assert pushes == [(3, 0, 2), (5, 2, 1), (7, 1, 3), (9, 3, 2), (11, 2, 1)]


# -- The node -------------------------------------------------------------------------------------


def test_overload_is_reset_by_a_top_level_pass_that_finds_none() -> None:
    box = FakeBox(machine(4))
    bound_pair(box)
    ask(box, 100 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.run(101 * MS)
    assert box.board.facts[4][BAL_OVERLOAD_NS] == 0
    box.queues[0].pop()
    box.publish(0)
    ask(box, 200 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.run(201 * MS)
    assert box.board.facts[4][BAL_OVERLOAD_NS] == 200 * MS


def test_everything_waits_while_a_source_is_asked() -> None:
    box = FakeBox(machine(4))
    box.put(0, *hogs(4))
    ask(box, 100 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    ask(box, 100 * MS, 2, BALANCE_PERIODIC, CPU_IDLE)
    balancer = box.balancer
    balancer.advance(100 * MS + 1, NEVER)
    assert [m[4] for m in balancer.outbox] == [messages.DETACH]
    assert balancer.asking == 1
    assert balancer.own_next_ns() == NEVER
    box.later += balancer.outbox
    balancer.outbox.clear()
    box.run(101 * MS)
    assert len(box.done) == 2
    moved = [pid for _t, pid, _f, _to in box.moves]
    assert len(moved) == len(set(moved))
    assert {to for *_rest, to in box.moves} <= {1, 2}


def test_hotplug_rebuilds_resets_and_tells() -> None:
    box = FakeBox(machine(4))
    box.put(0, *hogs(1))
    enter(box, MS, 1, 2, 3)
    ask(box, 100 * MS, 2, BALANCE_PERIODIC, CPU_IDLE)
    box.send(150 * MS, 3, messages.COMMAND, ["cpu_active", 3, 0])
    box.run(151 * MS)
    rb = box.balancer.rb
    assert rb.domains.sd[3] == []
    assert [(sd.span, sd.lb[CPU_IDLE][LB_COUNT]) for sd in rb.domains.sd[2]] == [(7, 0)]
    assert rb.limits.most == 300
    facts = box.board.facts[4]
    assert (facts[BAL_ACTIVE_MASK], facts[BAL_NOHZ_MASK]) == (0b0111, 0b0110)
    told = {m[3]: m[5][0] for m in box.seen if m[4] == messages.PUBLISH_DOMAINS}
    assert sorted(told) == [0, 1, 2, 3]
    assert told[0][:2] == [0b0111, 0b0111]
    assert told[3][1:] == [0b1000, []]
    # The totals of results.json survive.
    assert box.balancer.books()["balance"]["idle"]["calls"] == 1
    box.send(160 * MS, 3, messages.COMMAND, ["cpu_active", 3, 1])
    box.run(161 * MS)
    assert [sd.last_balance for sd in rb.domains.sd[3]] == [160]


def test_a_run_survives_a_rebuild_between_its_passes() -> None:
    box = FakeBox(machine(8, llc=4), pass_ns=10_000)
    ask(box, 100 * MS, 0, BALANCE_PERIODIC, CPU_IDLE)
    box.send(100 * MS + 11_000, 5, messages.COMMAND, ["cpu_active", 5, 0])
    box.run(101 * MS)
    assert len(box.done) == 1
    # The second pass is paid for, and not made.
    assert [r[0] for r in box.trace.records] == [100 * MS + 10_000]
    assert len(box.pays) == 2


def test_a_dead_cpu_is_forgotten() -> None:
    box = FakeBox(machine(8, llc=4, node=4), pass_ns=10_000)
    ask(box, 100 * MS, 0, BALANCE_PERIODIC, CPU_IDLE)
    balancer = box.balancer
    while balancer.rb.serialize_cpu < 0:
        now = balancer.next_event_ns()
        assert now < 101 * MS
        box.run(now + 1)
    # Its last payment dies with it.
    balancer.inbox.clear()
    box.later.clear()
    box.send(now + 1_000, 1, messages.COMMAND, ["cpu_dead", 0])
    box.run(101 * MS)
    assert box.done == []
    assert box.balancer.books()["runs"] == 0
    assert box.balancer.rb.serialize_cpu == -1


def test_sysctls_of_the_balancer() -> None:
    box = FakeBox(machine(4))
    box.put(0, *hogs(5))
    box.send(MS, 0, messages.COMMAND, ["sysctl", "kernel.sched_nr_migrate=2"])
    words = ["sysctl", "kernel.sched_latency_ns=2"]
    box.send(MS, COORDINATOR, messages.COMMAND, words)
    ask(box, 100 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.run(101 * MS)
    assert box.balancer.rb.view.nr_migrate == 2
    assert [m[5] for m in box.seen if m[4] == messages.COMMAND_DONE] == [(words, "")]
    assert len(box.moves) <= 2


def test_every_pass_is_recorded_with_its_cause() -> None:
    box = FakeBox(machine(4))
    ask(box, 100 * MS, 1, BALANCE_PERIODIC, CPU_NOT_IDLE)
    box.run(101 * MS)
    assert box.trace.records == []  # busy: not due for 128 jiffies
    ask(box, 200 * MS, 1, BALANCE_PERIODIC, CPU_NOT_IDLE)
    box.run(201 * MS)
    (record,) = box.trace.records
    assert record == (200 * MS, BOX_LOAD_BALANCE, 7, 1, -1, CPU_NOT_IDLE, 0, 0)


def test_promise_of_a_balancer_with_mail_only() -> None:
    box = FakeBox(machine(4))
    enter(box, 5 * MS, 1)
    promise = box.balancer.promise()
    assert promise.next_ns == 5 * MS
    assert promise.send_ns == [NEVER] * 3
    assert not promise.mail_sends
    ask(box, 6 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    assert box.balancer.promise().send_ns[TO_CPU] == 6 * MS


def test_it_stops_before_a_read_beyond_the_horizon() -> None:
    box = FakeBox(machine(4))
    ask(box, 6 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.balancer.advance(7 * MS, 6 * MS)
    assert box.balancer.promise().wants_view
    assert box.balancer.runs == {}
    box.balancer.advance(7 * MS, 6 * MS + 1)
    assert box.balancer.outbox


def twin(box: FakeBox) -> Balancer:
    spec = box_spec(box.spec, pass_ns=10_000, visit_ns=1_000, coherence_ns=100)
    return Balancer(spec, box.board, box.trace)


def test_snapshot_and_restore_in_the_middle_of_a_pass_and_of_a_run() -> None:
    box = FakeBox(machine(8, llc=4), pass_ns=10_000, visit_ns=1_000, coherence_ns=100)
    box.put(0, *hogs(4))
    enter(box, MS, *range(1, 8))
    ask(box, 100 * MS, 1, BALANCE_NOHZ, FULL)
    box.balancer.advance(100 * MS + 1, NEVER)
    asked = []
    while box.balancer.asking < 0:
        (message,) = box.balancer.outbox
        asked.append(message[4])
        box.balancer.outbox.clear()
        box.receive(message)
        box.balancer.advance(box.balancer.next_event_ns() + 1, NEVER)
        state = box.balancer.snapshot()
        other = twin(box)
        other.restore(wire.unpack(wire.pack(state)))
        assert other.snapshot() == state
    # A visit with its pass was paid for; it waits for the source of the pass now.
    assert asked == [messages.BALANCE_PAY]
    assert box.balancer.asking == 1
    assert [m[4] for m in box.balancer.outbox] == [messages.DETACH]


def test_the_totals_count_from_the_warmup_on_the_domains_from_boot() -> None:
    box = FakeBox(machine(4))
    box.balancer.warmup_ns = 50 * MS
    ask(box, 20 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.run(30 * MS)
    assert box.balancer.books()["balance"]["idle"]["calls"] == 1
    ask(box, 60 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.run(70 * MS)
    assert box.balancer.books()["balance"]["idle"]["calls"] == 1
    assert box.balancer.books()["cpus"][1][0]["idle"]["count"] == 2


# -- Properties -----------------------------------------------------------------------------------

TASKS = st.tuples(
    st.integers(0, 7),  # CPU
    st.integers(0, 255),  # allowed besides that CPU
    st.sampled_from([15, 60, 335, 1024, 9548, 88761]),
    st.booleans(),
)
REQUESTS = st.tuples(
    st.integers(1, 40),  # ms since the last
    st.integers(0, 7),
    st.sampled_from([BALANCE_PERIODIC, BALANCE_NEWIDLE, BALANCE_NOHZ]),
    st.integers(0, 1),
)
MACHINES = st.sampled_from(
    [machine(8), machine(8, llc=4), machine(8, llc=4, core=2, node=4), machine(8, llc=-1)]
)


def random_box(data: tuple[Any, ...]) -> FakeBox:
    spec, tasks, requests, inactive = data
    box = FakeBox(spec, pass_ns=10_000, visit_ns=1_000, coherence_ns=100)
    for number, (cpu, allowed, load, hot) in enumerate(tasks):
        box.put(cpu, FakeTask(number + 1, allowed | 1 << cpu, load, hot=hot))
    now = MS
    if inactive is not None:
        box.send(now, inactive, messages.COMMAND, ["cpu_active", inactive, 0])
    enter(box, now, *(c for c in range(8) if not box.queues[c] and c != inactive))
    for delta, cpu, kind, value in requests:
        now += delta * MS
        if kind == BALANCE_NOHZ:
            value = FULL
        ask(box, now, cpu, kind, value)
        box.run(now + MS - 1)
    box.run(now + 10 * MS)
    return box


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(
        MACHINES,
        st.lists(TASKS, max_size=12),
        st.lists(REQUESTS, max_size=12),
        st.none() | st.integers(0, 7),
    )
)
def test_property_no_task_goes_where_it_may_not_and_the_counters_add_up(
    data: tuple[Any, ...],
) -> None:
    box = random_box(data)
    _spec, tasks, requests, inactive = data
    for _time, pid, source, target in box.moves:
        cpu, allowed, _load, _hot = tasks[pid - 1]
        assert (allowed | 1 << cpu) >> target & 1
        assert source != target
        assert target != inactive
    assert sorted(t.pid for q in box.queues for t in q) == list(range(1, len(tasks) + 1))
    assert len(box.done) == len(requests)
    gained = pushed = 0
    for chain in box.balancer.rb.domains.sd:
        for sd in chain:
            pushed += sd.alb_pushed
            assert sd.alb_count == sd.alb_pushed + sd.alb_failed
            for row in sd.lb:
                assert row[LB_COUNT] == row[LB_BALANCED] + row[LB_FAILED] + row[LB_MOVED]
                gained += row[LB_GAINED]
    assert gained == len(box.moves)
    figures = box.balancer.books()["balance"].values()
    assert sum(f["pulled"] for f in figures) + pushed == len(box.moves)
    assert sum(f["calls"] for f in figures) == len(box.trace.records)


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(
        MACHINES,
        st.lists(TASKS, max_size=12),
        st.lists(REQUESTS, max_size=8),
        st.none() | st.integers(0, 7),
    )
)
def test_property_snapshot_round_trip_is_exact(data: tuple[Any, ...]) -> None:
    box = random_box(data)
    state = box.balancer.snapshot()
    other = twin(box)
    other.restore(wire.unpack(wire.pack(state)))
    assert other.snapshot() == state
    assert other.books() == box.balancer.books()
    assert other.next_event_ns() == box.balancer.next_event_ns()


def test_an_op_that_is_not_for_the_balancer_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="node 0"):
        FakeBox(machine(2)).balancer.handle((0, 0, 1, 2, messages.DETACH, ()))
