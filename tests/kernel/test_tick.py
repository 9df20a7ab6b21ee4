"""The tick, the kick of the idle load balancer, need_resched: scheduler.md D.3 and D.4."""

from __future__ import annotations

from typing import Any

import pytest

from emulator import messages
from emulator.kernel import fair, frames, softirq
from emulator.kernel.cpu import Cpu
from emulator.kernel.tick import (
    kick_ilb,
    next_balance,
    nohz_balancer_kick,
    nohz_kick_needed,
    scheduler_tick,
)
from emulator.rules import Rules, rules_of
from emulator.trace.memory import MemoryRing
from emulator.tracepoints import (
    BOX_NOHZ_KICK,
    NOHZ_WHY_BLOCKED,
    NOHZ_WHY_CAPACITY,
    NOHZ_WHY_LLC_BUSY,
    NOHZ_WHY_NR_RUNNING,
)
from emulator.types import (
    NEVER,
    NOHZ_BALANCE_KICK,
    NOHZ_EXIT,
    NOHZ_KICKED,
    NOHZ_KICKED_FULL,
    NOHZ_NEXT_KICK,
    NOHZ_STATS_KICK,
    OP_IO_SUBMIT,
    OP_RUN,
    OP_SLEEP,
    RQ_CPU_CAPACITY,
    WRITE,
)
from tests.kernel.box import (
    MS,
    QUIET,
    US,
    Box,
    FixedBoard,
    Job,
    Steps,
    balancer_facts,
    costs,
    facts,
    lone_cpu,
    run_task,
    scsi_debug,
    sleeping_task,
)

JIFFIES = 100


def hog() -> Steps:
    """Burn CPU for ever."""
    while True:
        yield (OP_RUN, NEVER >> 1)


def kicker(
    nr_cpus: int = 4,
    *,
    tasks: int = 1,
    llc: int = 0,
    core: int = 1,
    rules: Rules = Rules(),
    **bal: Any,
) -> tuple[Cpu, FixedBoard]:
    """Return CPU 0, busy with so many tasks in jiffy 100, the others idle and in the nohz mask."""
    cpu, board, _ = lone_cpu(0, nr_cpus, llc=llc, core=core, charges=costs(ipi_ns=500), rules=rules)
    cpu.now = JIFFIES * MS
    run_task(cpu, sleeping_task(cpu, 500))
    for number in range(1, tasks):
        fair.enqueue_task_fair(cpu.rq, sleeping_task(cpu, 500 + number), 0)
    everyone_else = (1 << nr_cpus) - 2
    board.facts[nr_cpus] = balancer_facts(
        nr_cpus, **{"nohz_mask": everyone_else, "nohz_next": 0} | bal
    )
    cpu.outbox.clear()
    return cpu, board


def kicks(cpu: Cpu, board: FixedBoard, jiffies: int = JIFFIES) -> list[tuple[int, int, int]]:
    """Let a busy tick consider a kick; return (effect, CPU, flags) of those sent."""
    nohz_balancer_kick(cpu, board.facts[-1], jiffies)
    return [(m[0], m[3], m[5][0]) for m in cpu.outbox if m[4] == messages.NOHZ_KICK]


FULL = NOHZ_STATS_KICK | NOHZ_BALANCE_KICK
EFFECT = JIFFIES * MS + 500


# -- The grid -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hz", [100, 250, 1000])
def test_ticks_lie_on_the_common_grid(hz: int) -> None:
    charges = costs(tick_ns=3 * US)
    box = Box(
        Job(hog, name="a", cpu=0, mask=1),
        Job(hog, name="b", cpu=1, mask=2, start_ns=700 * US),
        nr_cpus=2,
        hz=hz,
        charges=charges,
    )
    period = 1_000_000_000 // hz
    for n in range(1, 4):
        box.run(n * period + 1 * US)
        for cpu in box.cpus:
            assert cpu.f_kind == frames.IRQ_TICK
            assert cpu.f_end == n * period + 3 * US
    assert box.cpus[0].jiffies() == 3


def test_a_tick_charges_the_task_and_stretches_its_work() -> None:
    def steps() -> Steps:
        yield (OP_RUN, 2500 * US)

    box = Box(Job(steps, name="task", start_ns=100), charges=costs(tick_ns=10 * US)).run(4 * MS)
    # Two ticks lie in it, and what they take makes room for no third.
    assert box.times("sched_process_exit") == [100 + 2500 * US + 2 * 10 * US]


def test_every_tick_raises_timer_whether_a_timer_is_due_or_not() -> None:
    box = Box(Job(hog, name="hog"), charges=costs(tick_ns=2 * US)).run(5 * MS)
    assert not box.cpus[0].jiffy_timers
    raised = box.times("softirq_raise", vec=softirq.TIMER)
    assert raised == [n * MS + 2 * US for n in range(1, 5)]
    assert box.times("softirq_exit", vec=softirq.TIMER) == raised


# -- D.3 ------------------------------------------------------------------------------------------


def test_D_3_sched_is_raised_when_next_balance_is_due() -> None:
    for due, raised in ((JIFFIES + 1, False), (JIFFIES, True), (0, True)):
        cpu, _ = kicker(nohz_mask=0, next_balance=due)
        cpu.level = frames.LEVEL_HARDIRQ
        scheduler_tick(cpu)
        assert bool(cpu.softirq_pending >> softirq.SCHED & 1) is raised


def test_D_1_a_cpu_without_domains_never_balances() -> None:
    cpu, board, _ = lone_cpu(0, 1)
    assert next_balance(cpu, board.facts[1]) == NEVER
    other, board, _ = lone_cpu(1, 4)
    outside = list(balancer_facts(4, next_balance=0))
    outside[5] = 0b1101  # CPU 1 is in no domain
    assert next_balance(other, tuple(outside)) == NEVER


# -- D.4 ------------------------------------------------------------------------------------------


def test_D_4_two_tasks_kick_the_first_idle_cpu_of_the_mask() -> None:
    cpu, board = kicker(tasks=2)
    board.facts[1] = facts(1)  # in the mask, but no longer idle
    assert kicks(cpu, board) == [(EFFECT, 2, FULL)]
    # kick_ilb() pushes nohz.next_balance one jiffy away, whoever is found.
    updates = [m[5][0] for m in cpu.outbox if m[4] == messages.NOHZ_UPDATE]
    assert updates == [NOHZ_KICKED]


def test_D_4_next_balance_is_pushed_away_even_if_no_ilb_is_found() -> None:
    cpu, board = kicker(tasks=2)
    for other in (1, 2, 3):
        board.facts[other] = facts(1)
    assert kicks(cpu, board) == []
    assert [m[5][0] for m in cpu.outbox if m[4] == messages.NOHZ_UPDATE] == [NOHZ_KICKED]


def test_D_4_one_task_on_one_busy_cpu_kicks_nobody() -> None:
    cpu, board = kicker(tasks=1)
    assert kicks(cpu, board) == []
    assert cpu.outbox == []


def test_D_4_a_second_busy_cpu_of_the_llc_makes_one_task_enough() -> None:
    cpu, board = kicker(tasks=1, nohz_mask=0b1010)
    assert kicks(cpu, board) == [(EFFECT, 1, FULL)]


def test_D_4_a_busy_cpu_of_another_llc_does_not_count() -> None:
    cpu, board = kicker(4, tasks=1, llc=2, nohz_mask=0b0110)
    assert kicks(cpu, board) == []


def test_D_4_nobody_in_the_mask_nobody_kicked() -> None:
    cpu, board = kicker(tasks=5, nohz_mask=0)
    assert kicks(cpu, board) == []
    assert cpu.outbox == []


def test_D_4_before_nohz_next_balance_only_statistics_are_kicked() -> None:
    cpu, board = kicker(tasks=2, nohz_next=JIFFIES + 1)
    assert kicks(cpu, board) == []
    cpu, board = kicker(tasks=2, nohz_next=JIFFIES + 1, has_blocked=1, next_blocked=JIFFIES)
    assert kicks(cpu, board) == []  # jiffies must be later than next_blocked
    cpu, board = kicker(tasks=2, nohz_next=JIFFIES + 1, has_blocked=1, next_blocked=JIFFIES - 1)
    assert kicks(cpu, board) == [(EFFECT, 1, NOHZ_STATS_KICK)]
    cpu, board = kicker(tasks=1, nohz_next=0, has_blocked=1, next_blocked=JIFFIES - 1)
    assert kicks(cpu, board) == [(EFFECT, 1, NOHZ_STATS_KICK)]


def test_D_4_reduced_capacity_is_measured_with_the_lowest_domain_s_pct() -> None:
    cpu, board = kicker(tasks=1)
    cpu.rq.cpu_capacity = 876  # 876 * 117 > 102 400
    assert not nohz_kick_needed(cpu, board.facts[-1])
    cpu.rq.cpu_capacity = 875
    assert nohz_kick_needed(cpu, board.facts[-1])
    smt, board = kicker(tasks=1, core=2)
    smt.rq.cpu_capacity = 931  # 931 * 110 > 102 400
    assert not nohz_kick_needed(smt, board.facts[-1])
    smt.rq.cpu_capacity = 930
    assert nohz_kick_needed(smt, board.facts[-1])
    apart, board = kicker(tasks=1, llc=-1)
    apart.rq.cpu_capacity = 820  # 820 * 125 > 102 400
    assert not nohz_kick_needed(apart, board.facts[-1])
    apart.rq.cpu_capacity = 819
    assert nohz_kick_needed(apart, board.facts[-1])


def test_D_4_the_first_busy_tick_leaves_the_mask_even_if_nothing_is_kicked() -> None:
    cpu, board = kicker(tasks=1)
    cpu.in_nohz_mask = True
    assert kicks(cpu, board) == []
    assert not cpu.in_nohz_mask
    assert [m[5][0] for m in cpu.outbox if m[4] == messages.NOHZ_UPDATE] == [NOHZ_EXIT]


def test_D_4_an_idle_tick_kicks_nobody_and_stays_in_the_mask() -> None:
    cpu, board, _ = lone_cpu(0, 4)
    board.facts[4] = balancer_facts(4, nohz_mask=0b1111, nohz_next=0)
    cpu.in_nohz_mask = True
    cpu.now = JIFFIES * MS
    cpu.outbox.clear()
    scheduler_tick(cpu)
    assert cpu.rq.idle_balance
    assert cpu.in_nohz_mask
    assert cpu.outbox == []


def test_D_4_the_kick_s_handler_raises_sched_on_an_idle_cpu() -> None:
    cpu, _, _ = lone_cpu(1, 4, charges=costs(balance_pass_ns=10 * US))
    cpu.advance(1 * MS, 1 << 62)
    cpu.deliver((1 * MS, 0, 1, 1, messages.NOHZ_KICK, (FULL, 0)))
    cpu.deliver((1 * MS, 0, 2, 1, messages.NOHZ_KICK, (NOHZ_STATS_KICK, 0)))
    cpu.advance(1 * MS + 20 * US, 1 << 62)
    asked = [m for m in cpu.outbox if m[4] == messages.BALANCE]
    # A second kick while one is pending adds its flags and no interrupt; one run answers both.
    assert [(m[5][0], m[5][1]) for m in asked] == [(2, FULL)]
    # The balancer says which passes are due and take time.
    assert asked[0][0] == 1 * MS + cpu.costs.request_ns
    assert cpu.nohz_flags == 0


def test_advice_8_a_busy_cpu_drops_the_kick_and_clears_its_flag() -> None:
    cpu, _, _ = lone_cpu(1, 4)
    cpu.advance(1 * MS, 1 << 62)
    run_task(cpu, sleeping_task(cpu))
    cpu.deliver((1 * MS, 0, 1, 1, messages.NOHZ_KICK, (FULL, 0)))
    cpu.advance(1 * MS + 1, 1 << 62)
    assert cpu.nohz_flags == 0
    assert cpu.softirq_pending == 0
    assert [m for m in cpu.outbox if m[4] == messages.BALANCE] == []


def test_kick_ilb_asks_nobody_outside_the_mask() -> None:
    cpu, _ = kicker(tasks=2)
    kick_ilb(cpu, FULL, 0b1000)
    assert [m[3] for m in cpu.outbox if m[4] == messages.NOHZ_KICK] == [3]


# -- need_resched ---------------------------------------------------------------------------------


def test_advice_11_need_resched_in_user_mode_is_acted_on_at_the_interrupt_s_return() -> None:
    def sleeper() -> Steps:
        yield (OP_SLEEP, 2_300 * US)
        yield (OP_RUN, 10 * US)

    box = Box(
        Job(hog, name="hog", start_ns=100 * US),
        Job(sleeper, name="sleeper"),
        charges=costs(hrtimer_ns=2 * US, context_switch_ns=1 * US),
        sysctls={"kernel.sched_wakeup_granularity_ns": 0},
    ).run(2_400 * US)
    assert (2_303 * US, "hog", "sleeper") in box.switches()


def test_advice_11_need_resched_in_kernel_mode_waits_for_the_end_of_the_system_call() -> None:
    """The sleeper's timer fires inside io_submit(), behind its last might_sleep(): it switches as it returns."""

    def writer() -> Steps:
        yield (OP_RUN, 2_200 * US)
        yield (OP_IO_SUBMIT, [(1, WRITE, 0, 0, 4096)])
        yield (OP_RUN, 1000 * MS)

    def sleeper() -> Steps:
        yield (OP_SLEEP, 2_750 * US)
        yield (OP_RUN, 10 * US)

    box = Box(
        Job(writer, name="writer", disk="/xfs"),
        Job(sleeper, name="sleeper"),
        charges=costs(io_submit_ns=500 * US, io_submit_exit_ns=100 * US),
        disk=scsi_debug(41 * US),
        sysctls=QUIET | {"kernel.sched_wakeup_granularity_ns": 0},
    ).run(4 * MS)
    assert box.times("sched_waking", pid=box.pid(1)) == [2_750 * US]
    returned = box.times("box_io_submit")[0]
    switch = next(t for t, _, following in box.switches() if following == "sleeper" and t > 2 * MS)
    assert switch == returned == 2_800 * US


def test_a_tick_that_ends_a_slice_switches_after_the_softirqs_of_its_exit() -> None:
    sysctls = QUIET | {
        "kernel.sched_latency_ns": 4 * MS,
        "kernel.sched_min_granularity_ns": 2 * MS,
    }
    box = Box(
        Job(hog, name="a"),
        Job(hog, name="b"),
        charges=costs(tick_ns=5 * US, softirq_ns=3 * US),
        sysctls=sysctls,
    ).run(20 * MS)
    switches = [t for t, previous, _ in box.switches() if previous != "idle"]
    assert switches
    assert {t % MS for t in switches} == {(5 + 3) * US}


# -- By version -----------------------------------------------------------------------------------


def updates(cpu: Cpu) -> list[int]:
    """Return the kinds of nohz updates that a CPU sent."""
    return [m[5][0] for m in cpu.outbox if m[4] == messages.NOHZ_UPDATE]


def test_D_4_from_5_9_on_only_a_full_kick_sets_nohz_next_balance() -> None:
    blocked: dict[str, Any] = {
        "nohz_next": JIFFIES + 1,
        "has_blocked": 1,
        "next_blocked": JIFFIES - 1,
    }
    for version, stats, full in (("5.6", NOHZ_KICKED, NOHZ_KICKED), ("5.10", 0, NOHZ_KICKED_FULL)):
        rules = rules_of(version)
        cpu, board = kicker(tasks=2, rules=rules, **blocked)
        assert kicks(cpu, board) == [(EFFECT, 1, NOHZ_STATS_KICK)]
        assert updates(cpu) == ([stats] if stats else [])
        cpu, board = kicker(tasks=2, rules=rules)
        assert kicks(cpu, board) == [(EFFECT, 1, FULL)]
        assert updates(cpu) == [full]


def test_from_5_16_on_a_cpu_that_has_joined_is_reason_enough() -> None:
    later = {"nohz_next": JIFFIES + 1, "needs_update": 1}
    cpu, board = kicker(tasks=2, rules=rules_of("5.15"), **later)
    assert kicks(cpu, board) == []
    cpu, board = kicker(tasks=2, rules=rules_of("6.1"), **later)
    assert kicks(cpu, board) == [(EFFECT, 1, NOHZ_NEXT_KICK)]
    assert updates(cpu) == []
    cpu, board = kicker(tasks=2, rules=rules_of("6.1"), needs_update=1)
    assert kicks(cpu, board) == [(EFFECT, 1, FULL | NOHZ_NEXT_KICK)]


def test_the_lowest_domains_pct_is_117_without_an_llc_from_5_10_on() -> None:
    for version, capacity in (("5.6", 819), ("5.10", 875)):
        cpu, board = kicker(tasks=1, llc=-1, rules=rules_of(version))
        cpu.rq.cpu_capacity = capacity
        assert nohz_kick_needed(cpu, board.facts[-1])
        cpu.rq.cpu_capacity = capacity + 1
        assert not nohz_kick_needed(cpu, board.facts[-1])


def test_a_kick_is_recorded_with_the_condition_that_held() -> None:
    blocked = {"nohz_next": JIFFIES + 1, "has_blocked": 1, "next_blocked": JIFFIES - 1}
    cases: list[tuple[int, int, dict[str, Any], int, int]] = [
        (1, 1024, blocked, NOHZ_WHY_BLOCKED, NOHZ_STATS_KICK),
        (2, 100, {}, NOHZ_WHY_NR_RUNNING, FULL),
        (1, 100, {}, NOHZ_WHY_CAPACITY, FULL),
        (1, 1024, {"nohz_mask": 0b1010}, NOHZ_WHY_LLC_BUSY, FULL),
    ]
    for tasks, capacity, bal, why, flags in cases:
        cpu, board = kicker(tasks=tasks, **bal)
        cpu.rq.cpu_capacity = capacity
        (kick,) = kicks(cpu, board)
        ring = cpu.sink
        assert isinstance(ring, MemoryRing)
        records = [record for record in ring.records if record[1] == BOX_NOHZ_KICK]
        assert [record[6:10] for record in records] == [(kick[1], tasks, why, flags)]


def test_B_6_capacity_is_what_interrupts_leave_as_of_the_last_tick() -> None:
    for accounting, capacity in ((False, 1024), (True, 724)):
        cpu, board = kicker(tasks=1)
        cpu.irqtime = accounting
        cpu.rq.avg_irq.util_avg = 300
        cpu.level = frames.LEVEL_HARDIRQ
        scheduler_tick(cpu)
        assert cpu.rq.cpu_capacity == capacity
        cpu.publish()
        assert board.facts[0][RQ_CPU_CAPACITY] == capacity
