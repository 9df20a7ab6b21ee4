"""Group types, migration types and imbalance from 5.5 on: spec D.7 and D.12-6."""

from __future__ import annotations

import pytest

from emulator.balance.domain import SD_NUMA, SD_SHARE_CPUCAPACITY, SchedGroup
from emulator.balance.env import LbEnv
from emulator.balance.group_types import (
    SdLbStats,
    SgLbStats,
    calculate_imbalance,
    find_busiest_group,
    find_busiest_queue,
    group_classify,
    group_is_pullable,
    load_imbalance,
    sibling_imbalance,
    update_sd_lb_stats,
    update_sd_pick_busiest,
)
from emulator.balance.rqview import RqView
from emulator.balance.topology import SchedDomains
from emulator.rules import Rules, changed, rules_of
from emulator.tracepoints import (
    GROUP_FULLY_BUSY,
    GROUP_HAS_SPARE,
    GROUP_IMBALANCED,
    GROUP_OVERLOADED,
    GROUP_SMT_BALANCE,
)
from emulator.types import (
    CPU_IDLE,
    CPU_NEWLY_IDLE,
    CPU_NOT_IDLE,
    MIGRATION_LOAD,
    MIGRATION_TASK,
    MIGRATION_UTIL,
    RQ_RUNNABLE_AVG,
    MachineSpec,
)
from tests.balance.fakes import FakeBoard, machine, rq_facts

Facts = tuple[int, ...]
V56, V510, V515, V61, V66, V612 = map(rules_of, ("5.6", "5.10", "5.15", "6.1", "6.6", "6.12"))


def waiting(nr: int, load: int, util: int, runnable: int) -> Facts:
    """Facts of a runqueue with a given runnable_avg."""
    facts = list(rq_facts(nr, load, util))
    facts[RQ_RUNNABLE_AVG] = runnable
    return tuple(facts)


class Scene:
    """A machine with given facts and one pass of CPU ``dst`` at a level."""

    def __init__(
        self,
        spec: MachineSpec,
        facts: dict[int, Facts],
        rules: Rules,
        *,
        dst: int = 0,
        idle: int = CPU_IDLE,
        level: int = 0,
    ) -> None:
        board = FakeBoard(spec.nr_cpus)
        board.facts |= facts
        self.view = RqView(board, spec.nr_cpus, util_est=True, core=spec.core)
        self.view.seen_at(0)
        self.domains = SchedDomains(spec, (1 << spec.nr_cpus) - 1, 0, rules)
        sd = self.domains.sd[dst][level]
        self.env = LbEnv(sd, dst, idle, sd.span, 0, 0, rules)

    def decide(self) -> tuple[int, int, int] | None:
        """Return (busiest's first CPU, migration type, imbalance), or None if it is balanced."""
        group = find_busiest_group(self.env, self.view)
        if group is None:
            return None
        first = (group.span & -group.span).bit_length() - 1
        return first, self.env.migration_type, self.env.imbalance

    def stats(self) -> SdLbStats:
        return update_sd_lb_stats(self.env, self.view)


def stats(kind: int, **values: int) -> SgLbStats:
    """Return the statistics of a group of that type."""
    weight = values.pop("weight", 1)
    cores = values.pop("cores", weight)
    group = SchedGroup((1 << weight) - 1, (1 << weight) - 1, cores)
    sgs = SgLbStats(group, 1024 * weight)
    sgs.group_type = kind
    for name, value in values.items():
        setattr(sgs, name, value)
    return sgs


def between(local: SgLbStats, busiest: SgLbStats, *, prefer_sibling: bool = False) -> SdLbStats:
    """Return a domain of these two groups."""
    sds = SdLbStats(local)
    sds.busiest = busiest
    sds.prefer_sibling = prefer_sibling
    for sgs in (local, busiest):
        sds.total_load += sgs.group_load
        sds.total_capacity += sgs.group_capacity
    return sds


def env_of(rules: Rules, idle: int = CPU_IDLE, *, llc: int = 0, node: int = 0) -> LbEnv:
    """Return a pass of CPU 0 of 8 in its highest domain."""
    sd = SchedDomains(machine(8, llc=llc, node=node), 255, 0, rules).sd[0][-1]
    return LbEnv(sd, 0, idle, 255, 0, 0, rules)


# -- Types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("core", "level", "llc", "util", "runnable"),
    [(1, 0, 0, 876, 1199), (1, 0, -1, 820, 1281), (2, 0, 0, 931, 1127)],
)
def test_D_7_thresholds_of_overloaded(
    core: int, level: int, llc: int, util: int, runnable: int
) -> None:
    # pct 117 in an LLC, 125 without one (before 5.10), 110 between siblings.
    rules = changed(V56, {"runnable_avg": 1})
    for facts, kind in [
        (waiting(2, 1084, util, 0), GROUP_OVERLOADED),
        (waiting(2, 1084, util - 1, 0), GROUP_HAS_SPARE),
        (waiting(2, 1084, 0, runnable), GROUP_OVERLOADED),
        (waiting(2, 1084, 0, runnable - 1), GROUP_HAS_SPARE),
    ]:
        scene = Scene(machine(4, core=core, llc=llc), {1: facts}, rules, level=level)
        sds = scene.stats()
        assert sds.busiest is not None
        assert sds.busiest.group_type == kind


def test_D_7_waiting_makes_overloaded_from_5_7_on_only() -> None:
    facts = {1: waiting(2, 1084, 100, 5000)}
    for rules, kind in ((V56, GROUP_HAS_SPARE), (V510, GROUP_OVERLOADED)):
        busiest = Scene(machine(4), facts, rules).stats().busiest
        assert busiest is not None
        assert busiest.group_type == kind


def test_D_7_a_full_group_without_too_many_tasks_is_fully_busy() -> None:
    env = env_of(V510)
    full = stats(GROUP_HAS_SPARE, sum_nr_running=1, sum_h_nr_running=1, group_util=1000)
    assert group_classify(env, full, local=False) == GROUP_FULLY_BUSY
    waits = stats(GROUP_HAS_SPARE, sum_nr_running=1, sum_h_nr_running=1, group_runnable=2000)
    assert group_classify(env, waits, local=False) == GROUP_FULLY_BUSY
    assert group_classify(env_of(V56), waits, local=False) == GROUP_HAS_SPARE
    full.group.imbalance = 1
    assert group_classify(env, full, local=False) == GROUP_IMBALANCED
    full.sum_nr_running = 2
    assert group_classify(env, full, local=False) == GROUP_OVERLOADED


def test_D_7_all_classes_count_but_the_busiest_needs_fair_tasks() -> None:
    facts = {1: rq_facts(2, 0, 1000, h_nr_running=0), 2: rq_facts(1, 1024, 1000)}
    sds = Scene(machine(4), facts, V56).stats()
    assert sds.busiest is not None
    assert sds.busiest.group.span == 1 << 2


def test_D_7_picking_the_busiest() -> None:
    def pick(first: SgLbStats, then: SgLbStats) -> bool:
        for sgs in (first, then):
            sgs.sum_h_nr_running = sgs.sum_h_nr_running or 1
        sds = between(stats(GROUP_HAS_SPARE), first)
        return update_sd_pick_busiest(sds, then)

    over, spare = GROUP_OVERLOADED, GROUP_HAS_SPARE
    assert pick(stats(spare), stats(over))
    assert not pick(stats(over), stats(spare))
    assert pick(stats(over, avg_load=5), stats(over, avg_load=6))
    assert not pick(stats(over, avg_load=5), stats(over, avg_load=5))
    assert not pick(stats(GROUP_FULLY_BUSY), stats(GROUP_FULLY_BUSY))  # both averages are 0
    assert not pick(stats(GROUP_IMBALANCED), stats(GROUP_IMBALANCED))
    assert pick(stats(spare, idle_cpus=3), stats(spare, idle_cpus=2))
    assert not pick(stats(spare, idle_cpus=2), stats(spare, idle_cpus=3))
    more = stats(spare, idle_cpus=2, sum_nr_running=3)
    assert pick(stats(spare, idle_cpus=2, sum_nr_running=2), more)
    assert not pick(more, stats(spare, idle_cpus=2, sum_nr_running=3))


# -- find_busiest_group ---------------------------------------------------------------------------

KINDS = (GROUP_HAS_SPARE, GROUP_FULLY_BUSY, GROUP_IMBALANCED, GROUP_OVERLOADED)


@pytest.mark.parametrize("busiest", KINDS)
@pytest.mark.parametrize("local", KINDS)
def test_table_D_7_local_against_busiest(busiest: int, local: int) -> None:
    env = env_of(V510)
    here = stats(local, weight=4, idle_cpus=0, sum_nr_running=9)
    there = stats(busiest, weight=4, idle_cpus=0, sum_nr_running=4, sum_h_nr_running=4)
    verdicts = []
    for idle_cpus in (1, 2):
        here.idle_cpus = idle_cpus
        verdicts.append(group_is_pullable(env, between(here, there), there))
    if busiest == GROUP_IMBALANCED or (busiest == GROUP_OVERLOADED and local != busiest):
        expected = [True, True]
    elif busiest == GROUP_OVERLOADED:
        expected = [False, False]  # the averages are equal
    elif local <= busiest:
        expected = [False, True]  # more than one idle CPU more than there
    else:
        expected = [False, False]
    assert verdicts == expected


@pytest.mark.parametrize(
    ("here", "there", "pullable"),
    [(1000, 1170, False), (1000, 1171, True), (1171, 1171, False), (1172, 1171, False)],
)
def test_D_7_two_overloaded_groups_compare_averages(here: int, there: int, pullable: bool) -> None:
    env = env_of(V510)
    local = stats(GROUP_OVERLOADED, avg_load=here, group_load=here)
    busiest = stats(GROUP_OVERLOADED, avg_load=there, group_load=there, sum_h_nr_running=2)
    assert group_is_pullable(env, between(local, busiest), busiest) is pullable


def test_D_7_a_busy_cpu_pulls_from_overloaded_groups_only_and_a_lone_task_stays() -> None:
    env = env_of(V510, CPU_NOT_IDLE)
    local = stats(GROUP_HAS_SPARE, idle_cpus=1)
    spare = stats(GROUP_HAS_SPARE, sum_nr_running=2, sum_h_nr_running=2)
    assert not group_is_pullable(env, between(local, spare), spare)
    over = stats(GROUP_OVERLOADED, sum_nr_running=2, sum_h_nr_running=2)
    assert group_is_pullable(env, between(local, over), over)
    env.idle = CPU_IDLE
    assert group_is_pullable(env, between(local, spare), spare)
    spare.sum_h_nr_running = 1
    assert not group_is_pullable(env, between(local, spare), spare)


def test_D_7_prefer_sibling_from_two_tasks_more_on() -> None:
    env = env_of(V510, CPU_NOT_IDLE)
    local = stats(GROUP_HAS_SPARE, weight=4, sum_nr_running=1)
    for nr, pullable in ((2, False), (3, True)):
        busiest = stats(GROUP_HAS_SPARE, weight=4, sum_nr_running=nr, sum_h_nr_running=nr)
        sds = between(local, busiest, prefer_sibling=True)
        assert group_is_pullable(env, sds, busiest) is pullable
    # From 6.6 on only an idle CPU spreads.
    env = env_of(V66, CPU_NOT_IDLE)
    assert not group_is_pullable(env, sds, busiest)
    env.idle = CPU_NEWLY_IDLE
    assert group_is_pullable(env, sds, busiest)


@pytest.mark.parametrize(
    ("cores", "running", "excess"),
    [
        ((4, 4), (1, 4), 3),
        ((4, 4), (4, 1), 0),
        # x = Lc*B.nr - Bc*L.nr; x = (2x + Lc + Bc) / (Lc + Bc)
        ((4, 2), (0, 2), 3),
        ((2, 4), (1, 3), 1),
        ((2, 4), (0, 2), 2),
        ((2, 6), (0, 2), 2),
        ((2, 6), (0, 1), 1),
        ((6, 2), (6, 2), 1),
    ],
)
def test_D_7_sibling_imbalance(
    cores: tuple[int, int], running: tuple[int, int], excess: int
) -> None:
    env = env_of(V66)
    local = stats(GROUP_HAS_SPARE, weight=2 * cores[0], cores=cores[0], sum_nr_running=running[0])
    busiest = stats(GROUP_HAS_SPARE, weight=2 * cores[1], cores=cores[1], sum_nr_running=running[1])
    assert sibling_imbalance(env, local, busiest) == excess
    env.idle = CPU_NOT_IDLE
    assert sibling_imbalance(env, local, busiest) == 0


def test_a_shared_core_is_smt_balance_from_6_6_on() -> None:
    # Two cores of two; both siblings of the other core have a task, ours are idle.
    hog = rq_facts(1, 1024, 400)
    spec = machine(4, core=2)
    for rules, kind in ((V61, GROUP_HAS_SPARE), (V66, GROUP_SMT_BALANCE)):
        scene = Scene(spec, {2: hog, 3: hog}, rules, level=1)
        busiest = scene.stats().busiest
        assert busiest is not None
        # Two tasks on two CPUs are no more than fit: without the type there is spare capacity,
        # or none if they use it up.
        assert busiest.group_type in (kind, GROUP_FULLY_BUSY if rules is V61 else kind)
        assert scene.decide() == (2, MIGRATION_TASK, 1)
    # Not for a busy CPU, and not for one task.
    scene = Scene(spec, {2: hog, 3: hog}, V66, level=1, idle=CPU_NOT_IDLE)
    busiest = scene.stats().busiest
    assert busiest is not None
    assert busiest.group_type < GROUP_SMT_BALANCE
    scene = Scene(spec, {2: hog}, V66, level=1)
    assert scene.decide() is None


# -- calculate_imbalance --------------------------------------------------------------------------


def test_example_D_12_6_hog_and_kworker_in_an_llc() -> None:
    # T+K, util 600, runnable 700: two groups with spare capacity, so a task is counted.
    light = {0: waiting(2, 1084, 600, 700)}
    for rules in (V510, V515, V61, V66, V612):
        assert Scene(machine(4), light, rules, dst=1).decide() == (0, MIGRATION_TASK, 1)
    heavy = {0: waiting(2, 1084, 1000, 700)}
    for rules in (V510, V515, V61, V66, V612):
        scene = Scene(machine(4), heavy, rules, dst=1)
        assert scene.decide() == (0, MIGRATION_TASK, 1)
        assert scene.env.busiest_type == GROUP_OVERLOADED
        assert scene.env.local_type == GROUP_HAS_SPARE
    # 5.6 in the same case fills the local group up with utilisation.
    assert Scene(machine(4), heavy, V56, dst=1).decide() == (0, MIGRATION_UTIL, 1024)
    used = heavy | {1: rq_facts(0, 100, 24)}
    assert Scene(machine(4), used, V56, dst=1).decide() == (0, MIGRATION_UTIL, 1000)
    assert Scene(machine(4), light, V56, dst=1).decide() == (0, MIGRATION_TASK, 1)


def test_D_11_8_beyond_an_llc_an_overloaded_group_still_means_utilisation() -> None:
    heavy = {0: waiting(2, 1084, 1000, 700)}
    for rules in (V510, V515, V66):
        decided = Scene(machine(4, llc=-1), heavy, rules, dst=1).decide()
        assert decided == (0, MIGRATION_UTIL, 1024)


def test_D_7_no_room_for_utilisation_moves_one_task_to_an_idle_cpu() -> None:
    full = {0: waiting(2, 1084, 1000, 700), 1: rq_facts(0, 1000, 1024)}
    assert Scene(machine(4), full, V56, dst=1).decide() == (0, MIGRATION_TASK, 1)
    busy = {0: waiting(2, 1084, 1000, 700), 1: rq_facts(1, 1000, 1024)}
    scene = Scene(machine(4), busy, V56, dst=1, idle=CPU_NOT_IDLE)
    local = scene.stats().local
    local.group_type = GROUP_HAS_SPARE
    over = stats(GROUP_OVERLOADED, sum_nr_running=2, sum_h_nr_running=2)
    calculate_imbalance(scene.env, between(local, over), over)
    assert (scene.env.migration_type, scene.env.imbalance) == (MIGRATION_UTIL, 0)


def test_D_7_imbalanced_moves_one_task() -> None:
    env = env_of(V510)
    busiest = stats(GROUP_IMBALANCED)
    calculate_imbalance(env, between(stats(GROUP_OVERLOADED), busiest), busiest)
    assert (env.migration_type, env.imbalance) == (MIGRATION_TASK, 1)


def test_D_7_larger_groups_even_out_idle_cpus() -> None:
    env = env_of(V510)
    local = stats(GROUP_HAS_SPARE, weight=8, idle_cpus=7, sum_nr_running=1)
    busiest = stats(GROUP_FULLY_BUSY, weight=8, idle_cpus=2, sum_nr_running=20)
    calculate_imbalance(env, between(local, busiest), busiest)
    assert (env.migration_type, env.imbalance) == (MIGRATION_TASK, 2)
    # Where siblings are preferred, tasks.
    calculate_imbalance(env, between(local, busiest, prefer_sibling=True), busiest)
    assert (env.migration_type, env.imbalance) == (MIGRATION_TASK, 9)


@pytest.mark.parametrize(
    ("rules", "here", "there", "weight", "moved"),
    [
        (V56, 0, 2, 8, 0),  # up to 5.10: two tasks on a node are a pair
        (V56, 0, 3, 8, 1),
        (V510, 0, 2, 8, 0),
        (V515, 0, 2, 8, 0),  # later: while fewer than a quarter of the CPUs run
        (V515, 0, 3, 8, 1),
        (V515, 1, 3, 8, 1),  # 2 is not below 8/4
        (V61, 0, 2, 8, 0),  # imb_numa_nr, here 1
        (V61, 1, 3, 8, 1),
    ],
)
def test_D_7_numa_allowances(rules: Rules, here: int, there: int, weight: int, moved: int) -> None:
    env = env_of(rules, llc=4, node=4)
    assert env.sd.flags & SD_NUMA
    local = stats(GROUP_HAS_SPARE, weight=weight, sum_nr_running=here, idle_cpus=weight - here)
    busiest = stats(GROUP_HAS_SPARE, weight=weight, sum_nr_running=there, idle_cpus=weight - there)
    calculate_imbalance(env, between(local, busiest), busiest)
    assert (env.migration_type, env.imbalance) == (MIGRATION_TASK, moved)


def test_D_7_the_local_load_stops_a_pull() -> None:
    # Busiest overloaded; local fully busy with a heavier task than all of that.
    busiest = stats(GROUP_OVERLOADED, avg_load=1500, group_load=1500)
    heavy = stats(GROUP_FULLY_BUSY, group_load=1600)
    assert load_imbalance(env_of(V510), between(heavy, busiest), busiest) == 0
    assert load_imbalance(env_of(V56), between(heavy, busiest), busiest) > 0
    # Below the busiest but not below the domain's average of 1400 (a third group is empty).
    middle = stats(GROUP_FULLY_BUSY, group_load=1450)
    for rules, wraps in ((V510, True), (V61, True), (V515, False), (V66, False)):
        sds = between(middle, busiest)
        sds.total_load, sds.total_capacity = 1400, 1024
        assert (load_imbalance(env_of(rules), sds, busiest) == 100) is wraps


def test_D_7_load_to_the_average_of_the_domain() -> None:
    env = env_of(V510)
    local = stats(GROUP_FULLY_BUSY, group_load=1000)
    busiest = stats(GROUP_OVERLOADED, avg_load=3000, group_load=3000)
    calculate_imbalance(env, between(local, busiest), busiest)
    assert (env.migration_type, env.imbalance) == (MIGRATION_LOAD, 1000)


# -- find_busiest_queue ---------------------------------------------------------------------------


def test_D_7_the_busiest_queue_has_most_of_what_is_to_move() -> None:
    facts = {
        1: rq_facts(1, 5000, 1024),
        2: rq_facts(2, 900, 700),
        3: rq_facts(4, 800, 600),
        4: rq_facts(2, 900, 700),
    }
    scene = Scene(machine(8), facts, V510)
    everything = SchedGroup(255, 255)
    env = scene.env
    env.imbalance = 500
    for kind, cpu in ((MIGRATION_LOAD, 2), (MIGRATION_UTIL, 2), (MIGRATION_TASK, 3)):
        env.migration_type = kind
        assert find_busiest_queue(env, everything, scene.view) == cpu
    env.migration_type, env.imbalance = MIGRATION_LOAD, 5000
    assert find_busiest_queue(env, everything, scene.view) == 1


def test_a_queue_without_fair_tasks_is_skipped_from_6_12_on() -> None:
    facts = {1: rq_facts(0, 900, 100), 2: rq_facts(2, 800, 700)}
    for rules, cpu in ((V66, 1), (V612, 2)):
        scene = Scene(machine(4), facts, rules)
        scene.env.migration_type, scene.env.imbalance = MIGRATION_LOAD, 500
        assert find_busiest_queue(scene.env, SchedGroup(15, 15), scene.view) == cpu


def test_the_utilisation_of_the_domain_is_summed_up_for_the_idle_scan() -> None:
    scene = Scene(machine(4), {1: rq_facts(1, 9, 300), 2: rq_facts(0, 0, 41)}, V61)
    scene.decide()
    assert scene.env.sum_util == 341
    assert scene.env.overload is False
    assert not scene.env.sd.flags & SD_SHARE_CPUCAPACITY
