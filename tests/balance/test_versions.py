"""What later kernels and proposals changed in passes, intervals and the ilb's round: spec D, F3, F7, F18."""

from __future__ import annotations

from typing import Any

import pytest

from emulator import messages
from emulator.balance.domain import SchedDomain
from emulator.balance.fair import need_active_balance, should_we_balance
from emulator.balance.topology import IntervalLimits, SchedDomains, get_sd_balance_interval
from emulator.rules import POLICIES, Rules, changed, rules_of
from emulator.tracepoints import LB_ACTIVE, LB_PINNED
from emulator.tracepoints import LB_FAILED as FAILED
from emulator.types import (
    BAL_HEADER,
    BAL_NEEDS_UPDATE,
    BAL_NEWIDLE_COST,
    BAL_NR_IDLE_SCAN,
    BALANCE_NEWIDLE,
    BALANCE_NOHZ,
    BALANCE_PERIODIC,
    CPU_IDLE,
    CPU_NEWLY_IDLE,
    CPU_NOT_IDLE,
    LBF_ALL_PINNED,
    LBF_SMALL_IMBL,
    LBF_SOME_PINNED,
    MIGRATION_TASK,
    MIGRATION_UTIL,
    NOHZ_BALANCE_KICK,
    NOHZ_ENTER,
    NOHZ_KICKED,
    NOHZ_KICKED_FULL,
    NOHZ_NEED_RESCHED,
    NOHZ_NEXT_KICK,
    NOHZ_STATS_KICK,
    RQ_FLAGS,
    RQF_SCHED_IDLE,
    RQF_TTWU_PENDING,
    MachineSpec,
)
from tests.balance.fakes import FakeBox, FakeTask, machine, rq_facts
from tests.balance.test_fair import Pass, X

MS = 1_000_000
FULL = NOHZ_BALANCE_KICK | NOHZ_STATS_KICK
V54, V56, V510, V515, V61, V66 = map(rules_of, ("5.4", "5.6", "5.10", "5.15", "6.1", "6.6"))


def policy(name: str) -> Rules:
    return changed(V54, POLICIES[name].sets)


class RulesPass(Pass):
    """A pass by given rules."""

    def __init__(self, rules: Rules, facts: dict[int, tuple[int, ...]], **given: Any) -> None:
        self.rules = rules
        super().__init__(facts, **given)
        spec: MachineSpec = given.get("spec") or machine(4)
        self.view.core = spec.core
        self.new_env()

    def new_env(self) -> Any:
        env = super().new_env()
        env.rules = self.rules
        return env

    def fail(self, failed: int, **changes: int) -> int:
        """Let a pass fail that comes after so many failures; return how it ended."""
        self.sd.nr_balance_failed = failed
        assert self.begin()
        flags = changes.pop("flags", LBF_SOME_PINNED)
        assert not self.answer(0, flags=flags, **changes)
        return self.env.result


# -- need_active_balance() and what follows -------------------------------------------------------


def test_D_9_failures_count_only_where_tasks_are_counted_from_5_13_on() -> None:
    for rules, kind, pushes in [
        (V510, MIGRATION_UTIL, True),
        (V510, MIGRATION_TASK, True),
        (V515, MIGRATION_UTIL, False),
        (V515, MIGRATION_TASK, True),
    ]:
        scene = RulesPass(rules, {0: X})
        scene.env.src_cpu, scene.env.migration_type = 0, kind
        scene.sd.nr_balance_failed = 4
        assert need_active_balance(scene.env, scene.view) is pushes


def test_D_11_8_active_balance_of_5_15_in_an_llc_and_without_one() -> None:
    assert RulesPass(V515, {0: X}).fail(3) == LB_ACTIVE
    assert RulesPass(V515, {0: X}, spec=machine(4, llc=-1)).fail(3) == FAILED
    assert RulesPass(V510, {0: X}, spec=machine(4, llc=-1)).fail(3) == LB_ACTIVE
    # Not overloaded, tasks are counted there too.
    light = {0: rq_facts(2, 600, 300)}
    assert RulesPass(V515, light, spec=machine(4, llc=-1)).fail(3) == LB_ACTIVE


@pytest.mark.parametrize(
    ("rules", "counter", "interval"), [(V54, 2, 8), (V510, 2, 8), (V515, 4, 4), (V66, 4, 4)]
)
def test_D_6_steps_8_and_10_after_a_kick(rules: Rules, counter: int, interval: int) -> None:
    scene = RulesPass(rules, {0: X})
    assert scene.fail(3) == LB_ACTIVE
    assert (scene.sd.nr_balance_failed, scene.sd.balance_interval) == (counter, interval)


def test_D_6_step_8_a_curr_that_may_not_come_backs_off_to_512_in_5_4_only() -> None:
    for rules, intervals in ((V54, [8, 16, 32]), (V510, [8, 16, 32]), (V515, [8, 8, 8])):
        scene = RulesPass(rules, {0: X})
        seen = []
        for failed in (4, 5, 6):
            assert scene.fail(failed, allowed=0) == LB_PINNED
            seen.append(scene.sd.balance_interval)
        assert seen == intervals


def test_D_6_step_3_all_pinned_before_a_lone_task_is_looked_at() -> None:
    facts = {2: rq_facts(1, 1024, 1000), 3: rq_facts(1, 1024, 1000)}
    for rules, flags in ((V54, 0), (V510, 0), (V515, LBF_ALL_PINNED)):
        scene = RulesPass(rules, facts, spec=machine(4, llc=2), dst=0, level=1)
        assert not scene.begin()
        assert scene.env.src_cpu == 2
        assert scene.env.flags == flags
        # A push clears it: one task at least may run here.
        scene.sd.nr_balance_failed = 3
        assert scene.begin()
        assert not scene.answer(0)
        assert (scene.env.result, scene.env.flags) == (LB_ACTIVE, 0)


# -- should_we_balance() --------------------------------------------------------------------------


def test_D_5_a_newly_idle_cpu_with_something_waiting_gives_up_from_6_0_on() -> None:
    pending = list(rq_facts())
    pending[RQ_FLAGS] |= RQF_TTWU_PENDING
    for facts in (tuple(pending), rq_facts(1, 1024, 0)):
        for rules, yes in ((V515, True), (V61, False)):
            scene = RulesPass(rules, {1: facts}, idle=CPU_NEWLY_IDLE)
            assert should_we_balance(scene.env, scene.view) is yes
    scene = RulesPass(V61, {}, idle=CPU_NEWLY_IDLE)
    assert should_we_balance(scene.env, scene.view)


def test_D_5_cpus_of_idle_cores_come_first_from_6_6_on() -> None:
    spec = machine(8, llc=4, core=2)
    busy = rq_facts(1, 1024, 1000)
    for facts, chosen in [
        ({}, (0, 0)),
        ({1: busy}, (0, 2)),
        ({0: busy}, (1, 2)),
        ({1: busy, 3: busy}, (0, 0)),  # no idle core: the first idle CPU with a busy sibling
        ({0: busy, 3: busy}, (1, 1)),
        (dict.fromkeys(range(4), busy), (0, 0)),
    ]:
        for rules, cpu in zip((V61, V66), chosen, strict=True):
            for dst in range(4):
                scene = RulesPass(rules, facts, spec=spec, dst=dst, level=2)
                assert should_we_balance(scene.env, scene.view) is (dst == cpu), (facts, dst)
    # Between the siblings of one core the first idle one balances, as ever.
    scene = RulesPass(V66, {1: busy}, spec=spec, dst=0)
    assert should_we_balance(scene.env, scene.view)


# -- Proposals ------------------------------------------------------------------------------------


def test_F3_the_flag_is_for_busy_cpus_without_a_gain_alone() -> None:
    rules = policy("small-imbalance-guard")
    # Four and two tasks of 100: less than one task is to be moved, and moving one gains nothing.
    facts = {0: rq_facts(2, 100, 1000), 1: rq_facts(1, 70, 1000)}
    for which, idle, flag in [
        (rules, CPU_NOT_IDLE, LBF_SMALL_IMBL),
        (rules, CPU_IDLE, 0),
        (V54, CPU_NOT_IDLE, 0),
    ]:
        scene = RulesPass(which, facts, spec=machine(2), dst=1, idle=idle)
        scene.begin()
        assert scene.env.flags & LBF_SMALL_IMBL == flag, (which, idle)
    scene = RulesPass(rules, {0: X})
    scene.env.src_cpu = 0
    scene.sd.nr_balance_failed = 4
    assert need_active_balance(scene.env, scene.view)
    scene.env.flags |= LBF_SMALL_IMBL
    assert not need_active_balance(scene.env, scene.view)


def test_F18_no_push_while_only_per_cpu_kthreads_wait() -> None:
    rules = policy("no-push-for-kthreads")
    assert RulesPass(rules, {0: X}).fail(3, others_bound=1) == FAILED
    assert RulesPass(rules, {0: X}).fail(3, others_bound=0) == LB_ACTIVE
    assert RulesPass(V54, {0: X}).fail(3, others_bound=1) == LB_ACTIVE


# -- Intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hz", "weight", "busy_5_4", "busy_5_10"),
    [
        (250, 2, 16, 7),
        (250, 4, 32, 15),
        (250, 8, 64, 31),
        (250, 16, 128, 63),
        (250, 64, 512, 255),
        (1000, 4, 128, 63),
        (1000, 8, 256, 127),
        (1000, 16, 512, 255),
        (1000, 64, 2048, 1023),
    ],
)
def test_table_D_2_busy_intervals(hz: int, weight: int, busy_5_4: int, busy_5_10: int) -> None:
    for rules, busy in ((V54, busy_5_4), (V56, busy_5_4), (V510, busy_5_10), (V66, busy_5_10)):
        (sd,) = SchedDomains(machine(weight, hz=hz), (1 << weight) - 1, 0, rules).sd[0]
        limits = IntervalLimits(hz, weight, rules)
        assert get_sd_balance_interval(sd, True, limits) == busy
        assert get_sd_balance_interval(sd, False, limits) == -(-weight * hz // 1000)


def test_D_1_imbalance_pct_by_version() -> None:
    spec = machine(16, llc=8, core=2)
    for rules, pcts in ((V54, [110, 117, 125]), (V510, [110, 117, 117])):
        assert [sd.imbalance_pct for sd in SchedDomains(spec, 65535, 0, rules).sd[0]] == pcts


def test_F7_no_interval_is_shorter_than_the_wakeup_granularity() -> None:
    sysctls = {"kernel.sched_wakeup_granularity_ns": 14_500_000}
    for rules, least in ((V54, 4), (policy("lb-interval-granularity"), 15)):
        box = FakeBox(machine(4), rules=rules, sysctls=sysctls)
        limits = box.balancer.rb.limits
        assert limits.least == (1 if least == 4 else 15)
        assert get_sd_balance_interval(box.balancer.rb.domains.sd[0][0], False, limits) == least
        assert box.balancer.rb.idle_next == [least] * 4
        box.balancer.set_sysctl("kernel.sched_wakeup_granularity_ns", 3 * MS)
        assert get_sd_balance_interval(box.balancer.rb.domains.sd[0][0], False, limits) == 4


def test_a_cpu_of_sched_idle_tasks_keeps_the_intervals_of_an_idle_one_from_5_6_on() -> None:
    for rules, due in ((V54, False), (V56, True)):
        box = FakeBox(machine(4), rules=rules)
        facts = list(rq_facts(1, 3, 1000))
        facts[RQ_FLAGS] |= RQF_SCHED_IDLE
        box.board.facts[1] = tuple(facts)
        ask(box, 20 * MS, 1, BALANCE_PERIODIC, CPU_NOT_IDLE)
        box.run(21 * MS)
        assert bool(box.trace.records) is due
        assert box.balancer.rb.next_balance[1] == (28 if due else 128)


# -- imb_numa_nr, cores ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        (machine(32, llc=16, node=16), [0, 2]),  # one LLC of 16 per node: an eighth of it
        (machine(32, llc=4, node=16), [0, 4, 4]),  # four LLCs per node: one task for each
        (machine(8, llc=4, node=4), [0, 1]),
        (machine(16, llc=8), [0, 2]),  # no NUMA: two LLCs in one package
    ],
)
def test_imb_numa_nr_as_5_18_sets_it(spec: MachineSpec, values: list[int]) -> None:
    domains = SchedDomains(spec, (1 << spec.nr_cpus) - 1, 0)
    assert [sd.imb_numa_nr for sd in domains.sd[0]] == values


def test_groups_know_how_many_cores_they_have() -> None:
    domains = SchedDomains(machine(16, llc=8, core=2), 0b1111111111111101, 0)
    chain: list[SchedDomain] = domains.sd[2]
    assert [[(g.weight, g.cores) for g in sd.groups] for sd in chain] == [
        [(1, 1), (1, 1)],
        [(2, 1), (2, 1), (2, 1), (1, 1)],
        [(7, 4), (8, 4)],
    ]


# -- nohz -----------------------------------------------------------------------------------------


def ask(box: FakeBox, now: int, cpu: int, kind: int, value: int) -> None:
    box.send(now, cpu, messages.BALANCE, kind, value, 10**6, 7)


def idle_box(rules: Rules, nr_cpus: int = 4, **given: Any) -> FakeBox:
    """Return a box whose CPU 0 has one hog; the others are in the mask."""
    box = FakeBox(machine(nr_cpus), rules=rules, **given)
    box.put(0, FakeTask(1))
    for cpu in range(1, nr_cpus):
        box.send(MS, cpu, messages.NOHZ_UPDATE, NOHZ_ENTER, 0)
    box.run(2 * MS)
    return box


def test_D_4_order_of_the_ilbs_round() -> None:
    for rules, order in ((V54, [1, 3, 4, 2]), (V510, [1, 3, 4, 2]), (V515, [3, 4, 1, 2])):
        box = idle_box(rules, 5)
        ask(box, 100 * MS, 2, BALANCE_NOHZ, FULL)
        box.run(101 * MS)
        assert [r[3] for r in box.trace.records] == order
        assert len(box.done) == 1


def test_D_4_the_ilbs_own_due_time_counts_from_5_12_on() -> None:
    for rules, due in ((V54, 120), (V510, 120), (V515, 105)):
        box = idle_box(rules, 3)
        rb = box.balancer.rb
        rb.next_balance[:] = [0, 105, 120]
        for cpu in (1, 2):
            rb.domains.sd[cpu][0].last_balance = 102
            rb.domains.sd[cpu][0].balance_interval = 3 if cpu == 1 else 18
        rb.nohz.next_balance = 90
        ask(box, 100 * MS, 1, BALANCE_NOHZ, FULL)
        box.run(101 * MS)
        assert box.trace.records == []
        # In 5.9 to 5.11 the ilb's own walk comes after the assignment, and lowers it.
        assert rb.nohz.next_balance == (105 if rules is V510 else due)


def test_D_4_an_aborted_round_leaves_next_balance_from_5_9_on() -> None:
    for rules, due in ((V54, 108), (V510, 90), (V515, 90)):
        box = idle_box(rules, pass_ns=10_000)
        rb = box.balancer.rb
        rb.next_balance[:] = [0, 50, 50, 50]
        rb.nohz.next_balance = 90
        box.resched_ns[1] = 100 * MS  # while it spends the time of CPU 2's pass
        ask(box, 100 * MS, 1, BALANCE_NOHZ, FULL)
        box.run(101 * MS)
        assert [r[3] for r in box.trace.records] == [2]
        assert rb.nohz.has_blocked == 1
        assert rb.nohz.next_blocked == 0
        assert rb.nohz.next_balance == due


def test_D_4_a_run_that_is_asked_to_reschedule_at_once_visits_nobody() -> None:
    for rules in (V54, V515):
        box = idle_box(rules)
        ask(box, 100 * MS, 2, BALANCE_NOHZ, FULL | NOHZ_NEED_RESCHED)
        box.run(101 * MS)
        assert box.trace.records == []
        assert box.balancer.rb.nohz.has_blocked == 1


def test_D_4_kick_ilb_by_version() -> None:
    box = idle_box(V54)
    nohz = box.balancer.rb.nohz
    nohz.next_balance = 50
    box.send(100 * MS, 0, messages.NOHZ_UPDATE, NOHZ_KICKED, 100 * MS)
    box.run(101 * MS)
    assert nohz.next_balance == 51
    box.send(102 * MS, 0, messages.NOHZ_UPDATE, NOHZ_KICKED_FULL, 102 * MS)
    box.run(103 * MS)
    assert nohz.next_balance == 103


def test_D_3_an_idle_cpus_own_pass_lowers_next_balance_up_to_5_11() -> None:
    for rules, due in ((V54, 108), (V510, 108), (V515, 500)):
        box = idle_box(rules)
        box.balancer.rb.nohz.next_balance = 500
        ask(box, 100 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
        box.run(101 * MS)
        assert box.balancer.rb.nohz.next_balance == due


def test_a_cpu_that_joins_has_next_balance_collected_from_5_16_on() -> None:
    for rules, published in ((V515, 0), (V61, 1)):
        box = idle_box(rules)
        assert box.board.facts[4][BAL_NEEDS_UPDATE] == published
    rb = box.balancer.rb
    rb.next_balance[:] = [0, 130, 125, 140]
    rb.nohz.next_balance = 500
    rb.nohz.has_blocked = 0
    ask(box, 100 * MS, 1, BALANCE_NOHZ, NOHZ_NEXT_KICK)
    box.run(101 * MS)
    assert box.trace.records == []  # it only looks
    assert rb.nohz.next_balance == 125
    assert rb.nohz.needs_update == box.board.facts[4][BAL_NEEDS_UPDATE] == 0
    assert rb.nohz.next_blocked == 0
    # Entering again as a member is nothing new.
    box.send(102 * MS, 3, messages.NOHZ_UPDATE, NOHZ_ENTER, 0)
    box.run(103 * MS)
    assert rb.nohz.needs_update == 0


# -- What CPUs need to know -----------------------------------------------------------------------


def column(box: FakeBox, which: int) -> list[int]:
    nr = box.spec.nr_cpus
    return list(box.board.facts[nr][BAL_HEADER + which * nr : BAL_HEADER + (which + 1) * nr])


@pytest.mark.parametrize(
    ("llc", "util", "scan"),
    [
        (16, 0, 16),
        (16, 1024, 15),
        (16, 4096, 14),
        (16, 8192, 10),
        (16, 12288, 3),
        (16, 14000, 0),
        (4, 1024, 3),
        (4, 2048, 2),
        (4, 3500, 0),
        (64, 32768, 42),
    ],
)
def test_example_C_6_2_nr_idle_scan(llc: int, util: int, scan: int) -> None:
    box = FakeBox(machine(2 * llc, llc=llc), rules=V61, features={"SIS_UTIL": True})
    for cpu in range(llc):
        box.board.facts[cpu] = rq_facts(1, 0, util // llc + (cpu < util % llc))
    ask(box, 5000 * MS, llc, BALANCE_PERIODIC, CPU_IDLE)
    box.run(5001 * MS)
    # The other LLC has nothing to do: only now does it know, and only of itself.
    assert column(box, BAL_NR_IDLE_SCAN) == [0] * llc + [llc] * llc
    ask(box, 9000 * MS, 0, BALANCE_PERIODIC, CPU_NOT_IDLE)
    box.run(9001 * MS)
    assert column(box, BAL_NR_IDLE_SCAN) == [scan] * llc + [llc] * llc


def test_nr_idle_scan_is_no_newly_idle_cpus_to_set_and_belongs_to_the_feature() -> None:
    for features, kind, scan in [
        ({"SIS_UTIL": True}, BALANCE_NEWIDLE, 0),
        ({"SIS_UTIL": False}, BALANCE_PERIODIC, 0),
        ({"SIS_UTIL": True}, BALANCE_PERIODIC, 4),
    ]:
        box = FakeBox(machine(4), rules=V61, features=features)
        ask(box, 100 * MS, 1, kind, CPU_IDLE)
        box.run(101 * MS)
        assert column(box, BAL_NR_IDLE_SCAN) == [scan] * 4
    # New domains start anew.
    box.send(200 * MS, 3, messages.COMMAND, ["cpu_active", 3, 0])
    box.run(201 * MS)
    assert column(box, BAL_NR_IDLE_SCAN) == [0] * 4


def test_nr_idle_scan_of_a_box_that_has_booted_is_that_of_an_idle_cache() -> None:
    for features, scan in [({"SIS_UTIL": True}, 4), ({"SIS_UTIL": False}, 0)]:
        box = FakeBox(machine(8, llc=4), rules=V61, features=features, balanced_ago=(0,) * 8)
        assert column(box, BAL_NR_IDLE_SCAN) == [scan] * 8


def test_the_cost_of_a_newly_idle_pass_is_published_and_decays() -> None:
    box = FakeBox(machine(4), pass_ns=12_000, rules=V61)
    ask(box, 100 * MS, 1, BALANCE_NEWIDLE, CPU_NEWLY_IDLE)
    box.run(101 * MS)
    assert column(box, BAL_NEWIDLE_COST) == [0, 12_000, 0, 0]
    ask(box, 2000 * MS, 1, BALANCE_PERIODIC, CPU_IDLE)
    box.run(2001 * MS)
    assert column(box, BAL_NEWIDLE_COST)[1] == 12_000 * 253 // 256


def test_D_10_a_wakeup_under_way_ends_a_newly_idle_walk_from_5_12_on() -> None:
    for rules, passes in ((V510, 2), (V515, 1)):
        box = FakeBox(machine(8, llc=4), rules=rules)
        pending = list(rq_facts())
        pending[RQ_FLAGS] |= RQF_TTWU_PENDING
        box.board.facts[1] = tuple(pending)
        ask(box, 100 * MS, 1, BALANCE_NEWIDLE, CPU_NEWLY_IDLE)
        box.run(101 * MS)
        assert len(box.trace.records) == passes
