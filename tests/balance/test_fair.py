"""The flow of one load_balance() pass, with the source's answers scripted: spec D.5, D.6, D.9."""

from __future__ import annotations

import pytest

from emulator.balance.domain import (
    LB_ACTIVE_KICKED,
    LB_BALANCED,
    LB_COUNT,
    LB_FAILED,
    LB_GAINED,
    LB_HOT_GAINED,
    LB_MOVED,
    LB_NOBUSYG,
    LB_NOBUSYQ,
    SchedDomain,
)
from emulator.balance.env import LbEnv, unpack_env
from emulator.balance.fair import (
    load_balance,
    load_balance_detached,
    need_active_balance,
    should_we_balance,
)
from emulator.balance.rqview import RqView
from emulator.balance.topology import SchedDomains
from emulator.tracepoints import LB_ACTIVE, LB_PINNED
from emulator.tracepoints import LB_BALANCED as BALANCED
from emulator.tracepoints import LB_FAILED as FAILED
from emulator.tracepoints import LB_MOVED as MOVED
from emulator.types import (
    CPU_IDLE,
    CPU_NEWLY_IDLE,
    CPU_NOT_IDLE,
    ENV_CURR_ALLOWED,
    ENV_FLAGS,
    ENV_HOT_GAINED,
    ENV_IMBALANCE,
    ENV_LOOP,
    ENV_LOOP_BREAK,
    ENV_LOOP_MAX,
    ENV_NEW_DST_CPU,
    ENV_OTHERS_BOUND,
    LBF_ALL_PINNED,
    LBF_DST_PINNED,
    LBF_NEED_BREAK,
    LBF_SOME_PINNED,
    MachineSpec,
)
from tests.balance.fakes import FakeBoard, machine, rq_facts

X = rq_facts(2, 1084, 1000)


class Pass:
    """Passes of one CPU in its lowest domain (or at ``level``), the source's answers scripted."""

    def __init__(
        self,
        facts: dict[int, tuple[int, ...]],
        *,
        spec: MachineSpec | None = None,
        dst: int = 1,
        idle: int = CPU_IDLE,
        level: int = 0,
    ) -> None:
        spec = spec or machine(4)
        self.board = FakeBoard(spec.nr_cpus)
        self.board.facts |= facts
        self.view = RqView(self.board, spec.nr_cpus, util_est=True)
        self.view.seen_at(0)
        self.domains = SchedDomains(spec, (1 << spec.nr_cpus) - 1, 0)
        self.sd: SchedDomain = self.domains.sd[dst][level]
        self.dst, self.idle = dst, idle
        self.env = self.new_env()

    def new_env(self) -> LbEnv:
        self.env = LbEnv(self.sd, self.dst, self.idle, self.sd.span & self.view.active_mask, 3, 99)
        return self.env

    def begin(self) -> bool:
        return load_balance(self.new_env(), self.view)

    def answer(self, nr_tasks: int = 0, **changes: int) -> bool:
        env = self.env.pack_env()
        for name, value in changes.items():
            env[FIELDS[name]] = value
        return load_balance_detached(self.env, self.view, env, nr_tasks)

    def row(self, column: int) -> int:
        return self.sd.lb[self.idle][column]


FIELDS = {
    "imbalance": ENV_IMBALANCE,
    "flags": ENV_FLAGS,
    "new_dst": ENV_NEW_DST_CPU,
    "hot": ENV_HOT_GAINED,
    "allowed": ENV_CURR_ALLOWED,
    "others_bound": ENV_OTHERS_BOUND,
    "loop": ENV_LOOP,
    "loop_break": ENV_LOOP_BREAK,
}


@pytest.mark.parametrize("idle", [CPU_IDLE, CPU_NOT_IDLE, CPU_NEWLY_IDLE])
def test_D_5_one_cpu_groups_always_balance(idle: int) -> None:
    scene = Pass({0: X}, idle=idle)
    assert should_we_balance(scene.env, scene.view)


def test_D_5_first_idle_cpu_of_the_group_balances() -> None:
    spec = machine(8, llc=4)
    busy = rq_facts(1, 1024, 1000)
    for dst, facts, yes in [
        (0, {}, True),
        (1, {}, False),
        (1, {0: busy}, True),
        (0, {0: busy}, False),
        (0, dict.fromkeys(range(4), busy), True),
        (1, dict.fromkeys(range(4), busy), False),
        (5, {4: busy}, True),
    ]:
        scene = Pass(facts, spec=spec, dst=dst, level=1)
        assert should_we_balance(scene.env, scene.view) is yes, (dst, facts)
    scene = Pass({}, spec=spec, dst=3, level=1, idle=CPU_NEWLY_IDLE)
    assert should_we_balance(scene.env, scene.view)


def test_D_5_an_inactive_cpu_never_balances() -> None:
    for idle in (CPU_IDLE, CPU_NOT_IDLE, CPU_NEWLY_IDLE):
        scene = Pass({0: X}, idle=idle)
        scene.view.active_mask = 0b1101
        assert not scene.begin()
        assert scene.env.refused
        assert scene.env.result == BALANCED


def test_D_6_a_move_resets_the_counter_and_the_interval() -> None:
    scene = Pass({0: X})
    scene.sd.nr_balance_failed = 2
    scene.sd.balance_interval = 8
    assert scene.begin()
    env = scene.env
    assert (env.src_cpu, env.imbalance, env.loop_max) == (0, 542, 2)
    assert env.flags == LBF_ALL_PINNED
    assert not scene.answer(1, imbalance=542 - 1024, flags=0, hot=1)
    assert (env.ld_moved, env.result) == (1, MOVED)
    assert (scene.sd.nr_balance_failed, scene.sd.balance_interval) == (0, 4)
    assert [scene.row(c) for c in (LB_COUNT, LB_MOVED, LB_GAINED, LB_HOT_GAINED)] == [1, 1, 1, 1]


def test_D_6_balanced_resets_the_counter_and_doubles_the_interval_once() -> None:
    scene = Pass({})
    scene.sd.nr_balance_failed = 3
    for interval in (8, 8):
        assert not scene.begin()
        assert scene.env.result == BALANCED
        assert scene.sd.balance_interval == interval
    assert scene.sd.nr_balance_failed == 0
    assert (scene.row(LB_BALANCED), scene.row(LB_NOBUSYG)) == (2, 2)


def test_D_6_no_busiest_queue_is_counted_and_balanced() -> None:
    # Two groups of two: the load of one remote task is more than the imbalance, the other has none.
    spec = machine(4, llc=2)
    facts = {2: rq_facts(1, 2000, 1000), 3: rq_facts(1, 0, 0)}
    scene = Pass(facts, spec=spec, dst=0, level=1)
    assert not scene.begin()
    assert (scene.row(LB_NOBUSYQ), scene.row(LB_NOBUSYG), scene.row(LB_BALANCED)) == (1, 0, 1)
    assert scene.env.result == BALANCED


def fail(scene: Pass, **changes: int) -> bool:
    """One pass in which the tail runs and the other task is pinned."""
    assert scene.begin()
    return scene.answer(0, flags=LBF_SOME_PINNED, **changes)


def test_D_9_the_fourth_failure_in_a_row_kicks_the_stopper() -> None:
    scene = Pass({0: X})
    for failures in (1, 2, 3):
        assert not fail(scene)
        assert (scene.sd.nr_balance_failed, scene.env.result) == (failures, FAILED)
        assert scene.sd.balance_interval == 4
    assert not fail(scene)
    assert (scene.env.result, scene.env.stop_cpu) == (LB_ACTIVE, 0)
    assert scene.view.active_balance[0] == [1, CPU_IDLE]
    assert scene.sd.nr_balance_failed == 2  # cache_nice_tries + 1
    assert scene.sd.balance_interval == 8
    assert scene.env.ld_moved == 0
    assert [scene.row(c) for c in (LB_COUNT, LB_FAILED, LB_ACTIVE_KICKED)] == [4, 4, 1]


@pytest.mark.parametrize(("core", "llc", "level", "threshold"), [(2, 4, 0, 3), (1, 4, 0, 4)])
def test_D_9_threshold_by_level(core: int, llc: int, level: int, threshold: int) -> None:
    scene = Pass({0: X}, spec=machine(4, core=core, llc=llc), level=level)
    scene.env.src_cpu = 0
    for failures in range(1, threshold + 1):
        scene.sd.nr_balance_failed = failures
        assert need_active_balance(scene.env, scene.view) is (failures == threshold)


def test_D_6_step_8_someone_else_pushes_already() -> None:
    scene = Pass({0: X})
    scene.view.active_balance[0] = [3, CPU_IDLE]
    scene.sd.nr_balance_failed = 3
    assert not fail(scene)
    assert (scene.env.result, scene.env.stop_cpu) == (FAILED, -1)
    assert scene.sd.nr_balance_failed == 2
    assert scene.view.active_balance[0] == [3, CPU_IDLE]
    assert scene.sd.balance_interval == 4


def test_D_11_5_curr_not_allowed_here_keeps_the_counter() -> None:
    scene = Pass({0: X})
    scene.sd.nr_balance_failed = 4
    assert not fail(scene, allowed=0)
    assert (scene.env.result, scene.env.stop_cpu) == (LB_PINNED, -1)
    assert scene.sd.nr_balance_failed == 5
    assert scene.sd.balance_interval == 8
    assert (scene.row(LB_FAILED), scene.row(LB_BALANCED)) == (1, 0)


def test_D_6_newly_idle_failures_are_not_counted_but_reset_when_balanced() -> None:
    scene = Pass({0: X}, idle=CPU_NEWLY_IDLE)
    scene.sd.nr_balance_failed = 3
    assert not fail(scene)
    assert (scene.sd.nr_balance_failed, scene.env.result) == (3, FAILED)
    scene.board.facts[0] = rq_facts()
    scene.view.rqs.clear()
    assert not scene.begin()
    assert (scene.sd.nr_balance_failed, scene.sd.balance_interval) == (0, 4)
    # The threshold is tested all the same.
    scene.board.facts[0] = X
    scene.view.rqs.clear()
    scene.sd.nr_balance_failed = 4
    assert not fail(scene)
    assert scene.env.result == LB_ACTIVE


def test_example_D_12_8_pinned_backoff() -> None:
    scene = Pass({0: X})
    intervals = []
    for _ in range(9):
        assert scene.begin()
        # All pinned: CPU 0 is left out; nothing else is busy, so the redo finds the rest balanced.
        assert not scene.answer(0, flags=LBF_ALL_PINNED | LBF_SOME_PINNED)
        intervals.append(scene.sd.balance_interval)
    assert intervals == [8, 16, 32, 64, 128, 256, 512, 512, 512]
    assert scene.row(LB_BALANCED) == 9
    scene = Pass({})
    for interval in (8, 8):
        scene.begin()
        assert scene.sd.balance_interval == interval


def test_D_6_step_7_redo_without_the_pinned_queue_finds_the_next() -> None:
    scene = Pass({0: rq_facts(3, 3000, 1000), 2: X})
    assert scene.begin()
    assert scene.env.src_cpu == 0
    assert scene.answer(0, flags=LBF_ALL_PINNED | LBF_SOME_PINNED, loop=3)
    assert scene.env.src_cpu == 2
    assert scene.env.cpus == 0b1110
    assert scene.env.loop == 0
    assert not scene.answer(1, imbalance=0, flags=LBF_SOME_PINNED)
    assert (scene.row(LB_COUNT), scene.row(LB_MOVED)) == (1, 1)


def test_D_6_step_7_all_pinned_with_two_cpus() -> None:
    scene = Pass({0: X}, spec=machine(2))
    scene.sd.nr_balance_failed = 3
    assert scene.begin()
    assert not scene.answer(0, flags=LBF_ALL_PINNED | LBF_SOME_PINNED)
    assert scene.env.result == LB_PINNED
    assert (scene.sd.nr_balance_failed, scene.sd.balance_interval) == (0, 4)
    assert (scene.row(LB_BALANCED), scene.row(LB_FAILED)) == (1, 0)


def test_D_6_step_4_break_and_again() -> None:
    scene = Pass({0: rq_facts(40, 40_000, 1000)})
    assert scene.begin()
    assert scene.env.pack_env()[ENV_LOOP_MAX] == 32
    assert scene.answer(30, imbalance=500, flags=LBF_NEED_BREAK, loop=33, loop_break=64)
    assert scene.env.flags == 0
    assert (scene.env.loop, scene.env.loop_break) == (33, 64)
    assert not scene.answer(2, imbalance=0)
    assert (scene.env.ld_moved, scene.row(LB_MOVED), scene.row(LB_GAINED)) == (32, 1, 32)


def test_D_6_step_5_another_cpu_of_the_group_takes_the_task() -> None:
    spec = machine(8, llc=4)
    scene = Pass({4: rq_facts(3, 3000, 1000)}, spec=spec, dst=0, level=1)
    assert scene.begin()
    flags = LBF_DST_PINNED | LBF_SOME_PINNED | LBF_ALL_PINNED
    assert scene.answer(0, flags=flags, new_dst=2, loop=3)
    assert (scene.env.dst_cpu, scene.env.cpus, scene.env.loop) == (2, 0b11111110, 0)
    assert scene.env.flags == LBF_SOME_PINNED | LBF_ALL_PINNED
    assert not scene.answer(1, imbalance=0, flags=LBF_SOME_PINNED)
    assert (scene.env.ld_moved, scene.env.ld_moved_here) == (1, 0)


def test_D_6_step_6_affinity_in_the_way_is_told_to_the_parent() -> None:
    spec = machine(8, llc=4)
    scene = Pass({0: X}, spec=spec, dst=1)
    assert not fail(scene)
    parent = scene.sd.parent
    assert parent is not None
    assert parent.groups[0].imbalance == 1
    assert scene.domains.sd[5][1].groups[1].imbalance == 1
    # A balanced pass in which others could have moved takes it back.
    scene.board.facts[0] = rq_facts()
    scene.view.rqs.clear()
    assert not scene.begin()
    assert parent.groups[0].imbalance == 0


def test_a_lone_task_is_pushed_only_after_its_cpu_was_asked() -> None:
    spec = machine(4, llc=2)
    facts = {2: rq_facts(1, 1024, 1000), 3: rq_facts(1, 1024, 1000)}
    for allowed, result in ((1, LB_ACTIVE), (0, LB_PINNED)):
        scene = Pass(facts, spec=spec, dst=0, level=1)
        scene.sd.nr_balance_failed = 3
        assert scene.begin()
        assert scene.env.failing
        assert scene.env.pack_env()[ENV_IMBALANCE] == 0
        imbalance = scene.env.imbalance
        assert not scene.answer(0, allowed=allowed)
        assert scene.env.result == result
        assert scene.env.imbalance == imbalance
        assert scene.row(LB_FAILED) == 1
    # Below the threshold nobody is asked.
    scene = Pass(facts, spec=spec, dst=0, level=1)
    assert not scene.begin()
    assert (scene.env.result, scene.sd.nr_balance_failed) == (FAILED, 1)


def test_a_waiting_pass_can_be_packed() -> None:
    scene = Pass({0: X})
    scene.begin()
    again = unpack_env(scene.sd, scene.env.pack())
    assert again.pack() == scene.env.pack()
    assert again.pack_env() == scene.env.pack_env()
