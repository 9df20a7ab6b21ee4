"""Group statistics, busiest group and queue, imbalance: spec D.7 and D.12."""

from __future__ import annotations

import pytest

from emulator.balance.busiest import (
    SgLbStats,
    check_cpu_capacity,
    find_busiest_group,
    find_busiest_queue,
    group_classify,
    group_has_capacity,
    group_is_overloaded,
    update_sd_lb_stats,
)
from emulator.balance.domain import SchedGroup
from emulator.balance.env import LbEnv
from emulator.balance.rqview import RqView
from emulator.balance.topology import SchedDomains
from emulator.tracepoints import GROUP_IMBALANCED, GROUP_OTHER, GROUP_OVERLOADED
from emulator.types import CPU_IDLE, CPU_NEWLY_IDLE, CPU_NOT_IDLE, MachineSpec
from tests.balance.fakes import FakeBoard, machine, rq_facts

Facts = tuple[int, ...]


class Scene:
    """A machine with given facts and one pass of CPU ``dst`` at a level."""

    def __init__(
        self, spec: MachineSpec, facts: dict[int, Facts], *, dst: int, idle: int, level: int = 0
    ) -> None:
        board = FakeBoard(spec.nr_cpus)
        board.facts |= facts
        self.view = RqView(board, spec.nr_cpus, util_est=True)
        self.view.seen_at(0)
        self.domains = SchedDomains(spec, (1 << spec.nr_cpus) - 1, 0)
        sd = self.domains.sd[dst][level]
        self.env = LbEnv(sd, dst, idle, sd.span, 0, 0)

    def imbalance(self) -> int | None:
        """The imbalance, or None if the domain is balanced."""
        group = find_busiest_group(self.env, self.view)
        return None if group is None else self.env.imbalance


X = rq_facts(2, 1084, 1000)  # T 1024 and K 60


def test_example_D_12_1_hog_and_waiting_kworker_on_4_and_16_cpus() -> None:
    assert Scene(machine(4), {0: X}, dst=1, idle=CPU_IDLE).imbalance() == 542
    assert Scene(machine(16), {0: X}, dst=1, idle=CPU_IDLE).imbalance() == 542


def test_example_D_12_1_average_and_raw_imbalance() -> None:
    scene = Scene(machine(4), {0: X}, dst=1, idle=CPU_IDLE)
    assert update_sd_lb_stats(scene.env, scene.view).avg_load == 271
    scene = Scene(machine(16), {0: X}, dst=1, idle=CPU_IDLE)
    assert update_sd_lb_stats(scene.env, scene.view).avg_load == 67


def test_example_D_12_2_below_the_utilisation_threshold() -> None:
    below = rq_facts(2, 1084, 875)
    assert Scene(machine(4), {0: below}, dst=1, idle=CPU_IDLE).imbalance() is None
    at = rq_facts(2, 1084, 876)
    assert Scene(machine(4), {0: at}, dst=1, idle=CPU_IDLE).imbalance() == 542


def test_example_D_12_2_hog_alone_and_two_hogs() -> None:
    alone = rq_facts(1, 1024, 1000)
    assert Scene(machine(4), {0: alone}, dst=1, idle=CPU_IDLE).imbalance() is None
    two = rq_facts(2, 2048, 1000)
    assert Scene(machine(4), {0: two}, dst=1, idle=CPU_IDLE).imbalance() == 1024
    light = rq_facts(2, 2048, 700)
    assert Scene(machine(4), {0: light}, dst=1, idle=CPU_IDLE).imbalance() is None
    assert Scene(machine(4), {0: light}, dst=1, idle=CPU_NEWLY_IDLE).imbalance() is not None


@pytest.mark.parametrize(
    ("here", "there", "imbalance"),
    [
        ((1, 1024), (3, 3072), 1024),
        ((1, 1024), (2, 1190), None),
        ((2, 2048), (4, 4096), 1024),
    ],
)
def test_example_D_12_3_not_idle_two_cpus(
    here: tuple[int, int], there: tuple[int, int], imbalance: int | None
) -> None:
    facts = {0: rq_facts(*here, 1000), 1: rq_facts(*there, 1000)}
    assert Scene(machine(2), facts, dst=0, idle=CPU_NOT_IDLE).imbalance() == imbalance


def test_example_D_12_4_prefer_sibling_moves_one_hog() -> None:
    hog = rq_facts(1, 1024, 1000)
    scene = Scene(machine(16, llc=8), {8: hog, 9: hog}, dst=0, idle=CPU_IDLE, level=1)
    sds = update_sd_lb_stats(scene.env, scene.view)
    assert sds.busiest is not None
    assert sds.busiest.group_no_capacity
    assert sds.avg_load == 128
    assert scene.imbalance() == 1024


def test_example_D_12_5_imbalanced_group() -> None:
    facts = {8: rq_facts(1, 1024, 1000), 9: rq_facts(1, 60, 40)}
    scene = Scene(machine(16, llc=8), facts, dst=0, idle=CPU_NOT_IDLE, level=1)
    # One task each on two CPUs, and the level below said that affinity was in the way.
    scene.env.sd.groups[1].imbalance = 1
    scene.env.sd.child = None  # the example leaves the sibling rule out
    sds = update_sd_lb_stats(scene.env, scene.view)
    assert sds.busiest is not None
    assert sds.busiest.group_type == GROUP_IMBALANCED
    assert sds.busiest.load_per_task == 542
    assert scene.imbalance() == 536


def stats(nr: int, weight: int, util: int) -> SgLbStats:
    sgs = SgLbStats(SchedGroup((1 << weight) - 1, (1 << weight) - 1), 1024 * weight)
    sgs.sum_nr_running = nr
    sgs.group_util = util
    return sgs


@pytest.mark.parametrize(
    ("nr", "weight", "util", "overloaded", "has_capacity"),
    [
        (2, 1, 876, True, False),
        (2, 1, 875, False, True),
        (1, 1, 1024, False, False),
        (1, 2, 2048, False, True),
        (0, 1, 1024, False, True),
        (9, 8, 7002, True, False),
        (9, 8, 7001, False, True),
    ],
)
def test_table_D_7_group_state(
    nr: int, weight: int, util: int, overloaded: bool, has_capacity: bool
) -> None:
    sd = SchedDomains(machine(8), 255, 0).sd[0][0]
    sgs = stats(nr, weight, util)
    assert group_is_overloaded(sd, sgs) is overloaded
    assert group_has_capacity(sd, sgs) is has_capacity


def test_D_7_types_in_order() -> None:
    sgs = stats(0, 1, 0)
    assert group_classify(sgs) == GROUP_OTHER
    sgs.group.imbalance = 1
    assert group_classify(sgs) == GROUP_IMBALANCED
    sgs.group_no_capacity = True
    assert group_classify(sgs) == GROUP_OVERLOADED


def test_D_7_busiest_is_by_type_and_then_by_load() -> None:
    facts = {1: rq_facts(1, 4000, 100), 2: rq_facts(2, 1500, 1000), 3: rq_facts(2, 1600, 1000)}
    scene = Scene(machine(4), facts, dst=0, idle=CPU_IDLE)
    sds = update_sd_lb_stats(scene.env, scene.view)
    assert sds.busiest is not None
    assert sds.busiest.group.span == 1 << 3


def test_D_7_overload_is_found_at_the_top_level_only() -> None:
    scene = Scene(machine(16, llc=8), {3: X}, dst=0, idle=CPU_IDLE, level=0)
    find_busiest_group(scene.env, scene.view)
    assert scene.env.overload is None
    scene = Scene(machine(16, llc=8), {3: X}, dst=0, idle=CPU_IDLE, level=1)
    find_busiest_group(scene.env, scene.view)
    assert scene.env.overload is True
    scene = Scene(machine(4), {3: rq_facts(1, 1024, 1000)}, dst=0, idle=CPU_IDLE)
    find_busiest_group(scene.env, scene.view)
    assert scene.env.overload is False


def test_D_7_both_overloaded_move_only_what_is_above_capacity() -> None:
    facts = {0: rq_facts(2, 100, 1000), 1: rq_facts(2, 9000, 1000)}
    scene = Scene(machine(2), facts, dst=0, idle=CPU_NOT_IDLE)
    # Two tasks of 1024 on a CPU of 1024: 1024 above, less than half of the difference; it is less
    # than one task, and one task is what is moved.
    assert scene.imbalance() == 4500


def test_find_busiest_queue_leaves_a_lone_task_alone() -> None:
    facts = {1: rq_facts(1, 1024, 1000), 2: rq_facts(2, 600, 500), 3: rq_facts(2, 700, 500)}
    scene = Scene(machine(4), facts, dst=0, idle=CPU_IDLE)
    everything = SchedGroup(15, 15)
    scene.env.imbalance = 500
    assert find_busiest_queue(scene.env, everything, scene.view) == 3
    scene.env.imbalance = 2000
    assert find_busiest_queue(scene.env, everything, scene.view) == 1
    scene.env.cpus = 0b0101
    assert find_busiest_queue(scene.env, everything, scene.view) == 2
    scene.env.cpus = 0b0001
    assert find_busiest_queue(scene.env, everything, scene.view) == -1


def test_check_cpu_capacity() -> None:
    sd = SchedDomains(machine(4), 15, 0).sd[0][0]
    assert not check_cpu_capacity(1024, sd)
    assert check_cpu_capacity(875, sd)
    assert not check_cpu_capacity(876, sd)
