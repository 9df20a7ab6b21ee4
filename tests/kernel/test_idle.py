"""The idle loop and newidle accounting against scheduler.md D.4 and D.10."""

from __future__ import annotations

from typing import Any

from emulator import messages
from emulator.kernel import core, frames, hrtimer, idle, newidle, receive, softirq
from emulator.kernel.cpu import Cpu
from emulator.rules import Rules, rules_of
from emulator.types import (
    BAL_HEADER,
    BAL_NEWIDLE_COST,
    BALANCE_NEWIDLE,
    BALANCE_PERIODIC,
    CPU_IDLE,
    NEVER,
    NOHZ_ENTER,
    NOHZ_EXIT,
    NOHZ_NEWIDLE,
    NOHZ_NEWIDLE_STATS,
    NOHZ_NEWILB_KICK,
    NOHZ_STATS_KICK,
    OP_RUN,
    OP_SLEEP,
    OP_SLEEP_JIFFIES,
    RQ_FLAGS,
    RQ_NR_RUNNING,
    RQ_OVERLOAD_NS,
    RQF_IDLE,
    RQF_NOHZ,
    RQF_TTWU_PENDING,
)
from tests.kernel.box import MS, US, Box, Job, Steps, balancer_facts, costs, facts, lone_cpu


def sleeper(run_ns: int, until_ns: int) -> Steps:
    """Run, sleep until a time, run for long."""
    yield (OP_RUN, run_ns)
    yield (OP_SLEEP, until_ns)
    yield (OP_RUN, 1000 * MS)


def tick_stopped(cpu: Cpu) -> bool:
    """Whether a CPU's tick is stopped now."""
    return cpu.tick_stopped


def nohz_updates(cpu: Cpu) -> list[int]:
    """Return the kinds of nohz updates in an outbox."""
    return [m[5][0] for m in cpu.outbox if m[4] == messages.NOHZ_UPDATE]


# -- The tick stops and starts --------------------------------------------------------------------


def test_D_4_an_idle_cpu_stops_its_tick_and_joins_the_mask() -> None:
    cpu, board, _ = lone_cpu(0, 2)
    cpu.advance(10 * MS, 1 << 62)
    assert cpu.is_halted()
    assert tick_stopped(cpu)
    assert cpu.tick_at == NEVER
    assert nohz_updates(cpu) == [NOHZ_ENTER]
    assert board.facts[0][0] & RQF_NOHZ
    assert cpu.next_event_ns() == NEVER


def test_D_4_the_tick_restarts_on_the_grid_when_idle_ends() -> None:
    box = Box(Job(lambda: sleeper(100 * US, 5_300 * US), name="task", start_ns=1_700 * US))
    box.run(1_750 * US)
    assert box.cpus[0].tick_at == 2 * MS
    box.run(5_200 * US)
    assert tick_stopped(box.cpus[0])
    box.run(5_400 * US)
    assert box.cpus[0].tick_at == 6 * MS
    assert not tick_stopped(box.cpus[0])


def test_D_4_the_tick_is_kept_for_a_wheel_timer_one_tick_away() -> None:
    def steps() -> Steps:
        yield (OP_SLEEP_JIFFIES, 1)
        yield (OP_SLEEP_JIFFIES, 5)

    box = Box(Job(steps, name="rcu", start_ns=10 * MS + 300 * US))
    box.run(10 * MS + 400 * US)
    assert box.cpus[0].is_halted()
    assert not tick_stopped(box.cpus[0])
    box.run(11 * MS + 1)
    # It woke in the tick of jiffy 11 and sleeps until 16: now the tick stops, one timer is left.
    assert box.times("sched_waking", pid=box.pid(0)) == [11 * MS]
    box.run(11 * MS + 100)
    assert tick_stopped(box.cpus[0])
    assert box.cpus[0].tick_at == 16 * MS
    box.run(17 * MS)
    assert box.times("sched_waking", pid=box.pid(0)) == [11 * MS, 16 * MS]


def test_D_4_the_mask_is_left_at_the_first_busy_tick_not_at_the_wakeup() -> None:
    box = Box(
        Job(lambda: sleeper(100 * US, 5_300 * US), name="task", start_ns=1_700 * US), nr_cpus=2
    )
    box.run(5_200 * US)
    cpu = box.cpus[0]
    assert cpu.in_nohz_mask
    box.run(5_900 * US)
    assert not tick_stopped(cpu)  # busy for 0.6 ms
    assert cpu.in_nohz_mask
    box.run(6 * MS + 1)
    assert not cpu.in_nohz_mask


def test_D_4_a_cpu_back_to_idle_before_its_tick_enters_without_leaving() -> None:
    cpu, _, _ = lone_cpu(0, 2)
    cpu.advance(1, 1 << 62)
    assert nohz_updates(cpu) == [NOHZ_ENTER]
    hrtimer.add_jiffy_timer(cpu, 3, hrtimer.WHEEL_SLEEP, [0, 0])  # a timer that wakes nobody
    cpu.advance(10 * MS, 1 << 62)
    assert NOHZ_EXIT not in nohz_updates(cpu)


def test_D_3_a_wheel_timer_of_a_cpu_without_a_tick_makes_it_look_whether_a_pass_is_due() -> None:
    cpu, board, _ = lone_cpu(0, 2)
    cpu.advance(1, 1 << 62)
    assert tick_stopped(cpu)
    board.facts[2] = balancer_facts(2, next_balance=3)
    hrtimer.add_jiffy_timer(cpu, 3, hrtimer.WHEEL_SLEEP, [0, 0])  # a timer that wakes nobody
    cpu.advance(10 * MS, 1 << 62)
    assert [m[5][:2] for m in cpu.outbox if m[4] == messages.BALANCE] == [
        (BALANCE_PERIODIC, CPU_IDLE)
    ]
    assert tick_stopped(cpu)


def test_the_timer_interrupt_ends_by_programming_what_is_due_next() -> None:
    cpu, _, _ = lone_cpu(0, 2, charges=costs(hardirq_ns=300, hrtimer_ns=700, softirq_ns=500))
    cpu.advance(1, 1 << 62)
    for expiry in (2 * MS, 5 * MS):
        cpu.add_timer(expiry, hrtimer.TIMER_SLEEP, [0, 0])
    assert cpu.next_timer_ns() == 2 * MS
    cpu.advance(2 * MS + 1, 1 << 62)
    # Inside its interrupt the timer is programmed for nothing.
    assert cpu.next_timer_ns() == NEVER
    cpu.advance(2 * MS + 1_001, 1 << 62)
    assert cpu.next_timer_ns() == 5 * MS


def test_on_a_machine_that_takes_turns_the_end_of_a_timer_interrupt_may_give_the_host_up() -> None:
    def stops_at(watch_ns: int) -> int:
        cpu, _, _ = lone_cpu(0, 2, charges=costs(hardirq_ns=300, hrtimer_ns=700, softirq_ns=500))
        cpu.advance(1, 1 << 62)
        for expiry in (2 * MS, 5 * MS):
            cpu.add_timer(expiry, hrtimer.TIMER_SLEEP, [0, 0])
        cpu.timer_watch_ns = watch_ns
        cpu.softirq_pending = 1 << softirq.TIMER
        cpu.advance(4 * MS, 1 << 62)
        return cpu.now

    # Another CPU's timer is later than 5 ms: this one is the earliest; the softirq has to wait.
    assert stops_at(6 * MS) == 2 * MS + 1_000
    assert stops_at(4 * MS) > 2 * MS + 1_000


def test_a_cpu_that_is_kicked_has_something_to_execute_before_the_ipi_arrives() -> None:
    cpu, _, _ = lone_cpu(0, 2)
    cpu.advance(10 * MS, 1 << 62)
    assert cpu.is_halted()
    cpu.deliver((12 * MS, 1, 1, 0, messages.NOHZ_KICK, (NOHZ_STATS_KICK, 0)))
    assert not cpu.is_halted()


def test_of_several_interrupts_that_are_due_the_ipi_is_taken_before_the_timer() -> None:
    cpu, _, _ = lone_cpu(0, 2)
    cpu.advance(1, 1 << 62)
    cpu.add_timer(2 * MS, hrtimer.TIMER_SLEEP, [0, 0])
    cpu.add_timer(2 * MS + 10, frames.IRQ_IPI)
    cpu.ipis = 1
    cpu.now = 3 * MS
    taken = []
    for _ in range(2):
        hrtimer.take_interrupt(cpu)
        taken.append(cpu.f_kind)
        cpu.pop()
    assert taken[0] == frames.IRQ_IPI
    assert taken[1] != frames.IRQ_IPI
    assert cpu.ipis == 0


def test_one_timer_interrupt_serves_all_that_has_expired_the_tick_first() -> None:
    cpu, _, _ = lone_cpu(0, 2, charges=costs(hardirq_ns=300, hrtimer_ns=700, tick_ns=3_000))
    cpu.advance(1, 1 << 62)
    cpu.tick_at = NEVER
    for expiry in (2 * MS, 2 * MS + 500):
        cpu.add_timer(expiry, hrtimer.TIMER_SLEEP, [0, 0])
    cpu.tick_at = 2 * MS + 900
    kinds = []
    for at_ns in (1_000, 4_000, 4_700):  # without a second way in
        cpu.advance(2 * MS + at_ns, 1 << 62)
        kinds.append(cpu.f_kind)
    assert kinds == [frames.IRQ_HRTIMER, frames.IRQ_TICK, frames.IRQ_HRTIMER]


def test_interrupted_idle_goes_back_to_the_halt_without_a_switch() -> None:
    box = Box()
    box.run(5 * MS)
    box.cpus[0].irqs.append((frames.IRQ_IPI, None, 0))
    box.run(6 * MS)
    assert box.switches() == []
    assert len(box.times("cpu_idle", state=1)) == 1
    assert box.cpus[0].is_halted()


def test_idle_exit_and_entry_are_charged_around_a_task() -> None:
    box = Box(
        Job(lambda: iter_run(100 * US), name="task", start_ns=1 * MS),
        charges=costs(idle_exit_ns=5 * US, idle_entry_ns=3 * US, context_switch_ns=2 * US),
    ).run(3 * MS)
    leave, enter = 4294967295, 1
    assert [(e[0], e[2]["state"]) for e in box.events("cpu_idle") if e[0] >= 1 * MS] == [
        (1 * MS, leave),
        (1 * MS + (5 + 2 + 100 + 2 + 3) * US, enter),
    ]


def iter_run(ns: int) -> Steps:
    """Run once, and exit."""
    yield (OP_RUN, ns)


# -- D.10 -----------------------------------------------------------------------------------------


def woken_after(cpu: Cpu, avg_idle: int, idle_ns: int) -> int:
    """Return avg_idle after a wakeup that follows so much idling."""
    rq = cpu.rq
    rq.avg_idle = avg_idle
    rq.idle_stamp = 1000
    rq.clock = 1000 + idle_ns
    core.update_avg_idle(cpu)
    assert rq.idle_stamp == 0
    return rq.avg_idle


def test_D_10_avg_idle_moves_by_an_eighth_and_is_capped() -> None:
    cpu, _, _ = lone_cpu()
    assert cpu.rq.avg_idle == 1_000_000
    assert cpu.rq.max_idle_balance_cost == 500_000
    assert woken_after(cpu, 1_000_000, 200_000) == 900_000
    assert woken_after(cpu, 100_000, 100_007) == 100_000
    assert woken_after(cpu, 100_000, 99_999) == 99_999  # an arithmetic shift rounds down
    assert woken_after(cpu, 900_000, 100 * MS) == 1_000_000
    cpu.rq.max_idle_balance_cost = 700_000
    assert woken_after(cpu, 900_000, 100 * MS) == 1_400_000


def test_D_10_only_a_wakeup_ends_the_idle_span() -> None:
    """A task attached by fork leaves idle_stamp set; the next wakeup takes the whole span."""
    box = Box(
        Job(lambda: sleeper(100 * US, 2 * MS), name="first", start_ns=1 * MS),
        Job(lambda: iter_run(100 * US), name="forked", start_ns=1_500 * US),
    )
    box.run(1_400 * US)
    cpu = box.cpus[0]
    stamp = cpu.rq.idle_stamp
    assert stamp == 1_100 * US
    box.run(1_550 * US)
    assert cpu.rq.curr.comm == "forked"
    assert cpu.rq.idle_stamp == stamp
    box.run(1_900 * US)
    # Idle again since 1.6 ms: the stamp is that of the last time it went idle.
    assert cpu.rq.idle_stamp == 1_600 * US
    box.run(2_100 * US)
    assert cpu.rq.idle_stamp == 0
    assert cpu.rq.avg_idle == 1_000_000 + ((400 * US - 1_000_000) >> 3)


def newidle_cpu(
    avg_idle: int, overloaded: bool, rules: Rules = Rules(), *, cost: int = 0, **bal: int
) -> Cpu:
    """Return a CPU whose only task has just blocked; the newidle decision is taken."""
    charges = costs(newidle_ns=100, balance_pass_ns=10 * US)
    cpu, board, _ = lone_cpu(0, 2, charges=charges, rules=rules)
    published = [0, *balancer_facts(2, **bal)[1:]]
    published[BAL_HEADER + BAL_NEWIDLE_COST * 2] = cost
    board.facts[2] = tuple(published)
    busy = list(facts(2))
    busy[RQ_OVERLOAD_NS] = 5 if overloaded else -1
    board.facts[1] = tuple(busy)
    cpu.advance(1 * MS, 1 << 62)
    cpu.now = 1 * MS
    cpu.outbox.clear()
    cpu.rq.avg_idle = avg_idle
    return cpu


def block_once(cpu: Cpu) -> list[int]:
    """Let a task run and block; return what the CPU asked the balancer for meanwhile."""
    core.wake_up(cpu, cpu.ksoftirqd)
    cpu.irqs.append((frames.IRQ_IPI, None, 0))
    cpu.rq.idle_stamp = 0  # the wakeup itself must not change avg_idle
    cpu.advance(cpu.now + 50 * US, 1 << 62)
    return [m[4] for m in cpu.outbox if m[4] in (messages.BALANCE, messages.NOHZ_UPDATE)]


def test_D_10_newidle_returns_early_when_avg_idle_is_below_the_migration_cost() -> None:
    cpu = newidle_cpu(499_999, overloaded=True)
    assert messages.BALANCE not in block_once(cpu)
    assert cpu.rq.curr is cpu.rq.idle


def test_D_10_newidle_returns_early_when_nobody_is_overloaded() -> None:
    cpu = newidle_cpu(1_000_000, overloaded=False)
    assert messages.BALANCE not in block_once(cpu)
    assert cpu.rq.curr is cpu.rq.idle


def test_D_10_newidle_asks_while_the_blocked_task_is_still_current() -> None:
    cpu = newidle_cpu(500_000, overloaded=True)
    assert block_once(cpu).count(messages.BALANCE) == 1
    (ask,) = [m for m in cpu.outbox if m[4] == messages.BALANCE]
    # The look and the first pass have taken their time; the decision is taken after them.
    assert ask[0] == 1 * MS + 100 + 10 * US + cpu.costs.request_ns
    assert cpu.rq.curr is cpu.ksoftirqd
    assert not cpu.idle_cpu(0)
    assert cpu.rq.idle_stamp == 1 * MS
    # What passes see of it: nobody queued, and not idle yet.
    published = cpu.board.read(0, cpu.now)
    assert (published[RQ_NR_RUNNING], published[RQ_FLAGS] & RQF_IDLE) == (0, 0)


def test_D_10_only_the_first_early_return_after_a_busy_pass_is_told() -> None:
    cpu = newidle_cpu(0, overloaded=False)
    block_once(cpu)
    cpu.rq.avg_idle = 0
    block_once(cpu)
    assert nohz_updates(cpu).count(NOHZ_NEWIDLE) == 1


def test_D_10_from_5_17_on_the_lowest_domains_cost_decides_not_500_us() -> None:
    for avg_idle, cost, version, asks in [
        (499_999, 11_000, "5.15", 0),
        (499_999, 11_000, "6.1", 1),
        (11_000, 11_000, "6.1", 1),
        (10_999, 11_000, "6.1", 0),
        (500_000, 600_000, "5.15", 1),
        (500_000, 600_000, "6.1", 0),
    ]:
        cpu = newidle_cpu(avg_idle, True, rules_of(version), cost=cost)
        assert block_once(cpu).count(messages.BALANCE) == asks, (avg_idle, cost, version)
        # A skipped look is told as ever.
        assert nohz_updates(cpu).count(NOHZ_NEWIDLE) == 1 - asks
    cpu = newidle_cpu(1_000_000, False, rules_of("6.1"), cost=11_000)
    assert messages.BALANCE not in block_once(cpu)


def test_D_10_a_pending_wakeup_ends_it_before_the_idle_stamp_from_5_12_on() -> None:
    for version, stamp, looks in (("5.10", 1 * MS, True), ("5.15", 0, False)):
        cpu = newidle_cpu(1_000_000, True, rules_of(version))
        cpu.rq.clock = 1 * MS
        cpu.rq.idle_stamp = 0
        cpu.wake_list.append([77, 0])
        assert newidle.newidle_balance(cpu) is looks
        assert cpu.rq.idle_stamp == stamp
        cpu.publish()
        assert cpu.board.read(0, cpu.now)[RQ_FLAGS] & RQF_TTWU_PENDING


BLOCKED = {"has_blocked": 1, "next_blocked": 1}


def test_D_10_up_to_5_11_a_newidle_that_returns_early_ages_blocked_load_itself() -> None:
    for avg_idle, bal, told in [
        (500_000, BLOCKED, 1),
        (499_999, BLOCKED, 0),  # it will wake up very soon
        (500_000, {"has_blocked": 0, "next_blocked": 1}, 0),
        (500_000, {"has_blocked": 1, "next_blocked": 2}, 0),
    ]:
        cpu = newidle_cpu(avg_idle, False, rules_of("5.10"), **bal)
        block_once(cpu)
        assert nohz_updates(cpu).count(NOHZ_NEWIDLE_STATS) == told, (avg_idle, bal)


def test_D_10_from_5_12_on_the_idle_loop_does_so() -> None:
    cpu = newidle_cpu(500_000, False, rules_of("5.15"), **BLOCKED)
    block_once(cpu)
    order = [kind for kind in nohz_updates(cpu) if kind in (NOHZ_NEWIDLE_STATS, NOHZ_ENTER)]
    assert order == [NOHZ_NEWIDLE_STATS]  # before the tick stops; it is a member already
    assert cpu.nohz_flags == 0
    cpu = newidle_cpu(499_999, False, rules_of("5.15"), **BLOCKED)
    block_once(cpu)
    assert NOHZ_NEWIDLE_STATS not in nohz_updates(cpu)
    # A kick that is pending will do more than that.
    cpu.nohz_flags = NOHZ_NEWILB_KICK | NOHZ_STATS_KICK
    cpu.outbox.clear()
    idle.nohz_run_idle_balance(cpu)
    assert cpu.outbox == []
    assert cpu.nohz_flags == NOHZ_STATS_KICK


def test_a_flag_for_the_idle_loop_does_not_silence_a_kick() -> None:
    cpu = newidle_cpu(500_000, False, rules_of("5.15"))
    cpu.nohz_flags = NOHZ_NEWILB_KICK
    receive.handle(cpu, (1 * MS, 1, 1, 0, messages.NOHZ_KICK, (NOHZ_STATS_KICK, 0)))
    assert [irq[:2] for irq in cpu.irqs] == [(frames.IRQ_IPI, "kick")]


def test_the_balancers_answer_brings_the_cost_of_the_dearest_walk() -> None:
    cpu = newidle_cpu(500_000, True)
    block_once(cpu)
    done: tuple[Any, ...] = (BALANCE_NEWIDLE, 0, [10, 10, 600_000], [])
    receive.handle(cpu, (cpu.now, 2, 1, 0, messages.BALANCE_DONE, done))
    assert cpu.rq.max_idle_balance_cost == 600_000
