"""RCU: whom the tick raises it for and what that does (B.3 of the IO spec), grace periods."""

from __future__ import annotations

from collections.abc import Callable

from emulator.kernel import rcu, softirq
from emulator.types import (
    NEVER,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RCU_FQS,
    OP_RCU_GP_INIT,
    OP_RUN,
    OP_SLEEP,
    OP_SLEEP_JIFFIES,
    OP_STAT,
    WRITE,
)
from tests.kernel.box import MS, US, Box, Job, Script, Steps, costs, scsi_debug

#: A woken ksoftirqd waits behind whoever runs.
NO_PREEMPT = {"kernel.sched_wakeup_granularity_ns": 1_000_000_000}


def write(number: int) -> tuple[int, list[tuple[int, int, int, int, int]]]:
    """Return an io_submit() of one 4 KiB write."""
    return (OP_IO_SUBMIT, [(number, WRITE, 0, number * 4096, 4096)])


def one_write_then_burn() -> Steps:
    """Submit one IO, burn CPU for ever."""
    yield write(0)
    yield (OP_RUN, NEVER >> 1)


def rcu_box(
    steps: Callable[[], Steps],
    *,
    on: bool = True,
    needs_cpu: bool = False,
    hz: int = 1000,
    start_ns: int = 100 * US,
) -> Box:
    """Return a box of two CPUs and one task on CPU 0 that does IO; RCU's work takes 20 µs."""
    return Box(
        Job(steps, name="fio", disk="/xfs", start_ns=start_ns, mask=1),
        nr_cpus=2,
        hz=hz,
        charges=costs(io_submit_ns=1 * US, tick_ns=2 * US, rcu_softirq_ns=20 * US),
        disk=scsi_debug(41 * US),
        sysctls=NO_PREEMPT,
        rcu_callbacks=on,
        rcu_needs_cpu=needs_cpu,
    )


def test_the_tick_after_an_io_raises_rcu_once() -> None:
    box = rcu_box(one_write_then_burn).run(5 * MS)
    raised = box.events("softirq_raise")
    assert [(e[0], e[2]["on"]) for e in raised if e[2]["vec"] == softirq.RCU] == [
        (1 * MS + 2 * US, 0)
    ]
    assert not rcu.rcu_pending(box.cpus[0])


def test_its_work_takes_the_cpu_last_of_the_round() -> None:
    box = rcu_box(one_write_then_burn).run(1 * MS + 500 * US)
    entries = [e for e in box.events("softirq_entry", cpu=0) if e[0] >= 1 * MS]
    assert [e[2]["vec"] for e in entries] == [softirq.TIMER, softirq.SCHED, softirq.RCU]
    assert box.times("softirq_exit", vec=softirq.RCU) == [entries[-1][0] + 20 * US]


def test_without_the_option_rcu_is_never_raised() -> None:
    box = rcu_box(one_write_then_burn, on=False).run(5 * MS)
    assert box.times("block_rq_complete")
    assert box.times("softirq_raise", vec=softirq.RCU) == []


def test_another_cpu_has_no_callbacks_of_it() -> None:
    box = rcu_box(one_write_then_burn)
    box.run(900 * US)
    assert [rcu.rcu_pending(cpu) for cpu in box.cpus] == [True, False]


def write_and_sleep() -> Steps:
    """Submit one IO, wait for it, sleep, burn CPU for ever."""
    yield write(0)
    yield (OP_IO_GETEVENTS, 1, 1)
    yield (OP_SLEEP, 7_500 * US)
    yield (OP_RUN, NEVER >> 1)


def test_without_the_rule_an_idle_cpu_does_not_keep_its_tick_for_callbacks() -> None:
    box = rcu_box(write_and_sleep).run(7 * MS)
    cpu = box.cpus[0]
    assert cpu.tick_stopped
    assert rcu.rcu_pending(cpu)
    # They wait for the first tick that this CPU has again.
    box.run(9 * MS)
    assert box.times("softirq_raise", vec=softirq.RCU) == [8 * MS + 2 * US]


def test_D_4_the_tick_is_kept_while_rcu_needs_the_cpu() -> None:
    box = rcu_box(write_and_sleep, needs_cpu=True).run(900 * US)
    cpu = box.cpus[0]
    assert cpu.is_halted()
    assert not cpu.tick_stopped
    # The next tick serves them, and the tick stops.
    box.run(2 * MS)
    assert box.times("softirq_raise", vec=softirq.RCU) == [1 * MS + 2 * US]
    assert cpu.tick_stopped


def test_B_3_a_tick_inside_a_round_leaves_rcu_to_ksoftirqd_at_hz_250() -> None:
    """The write's completion is served when the tick comes: jiffies have reached the limit."""

    box = Box(
        Job(one_write_then_burn, name="fio", disk="/xfs", start_ns=4 * MS - 50 * US, mask=1),
        nr_cpus=2,
        hz=250,
        charges=costs(tick_ns=2 * US, blk_start_request_ns=20 * US),
        disk=scsi_debug(41 * US),
        sysctls=NO_PREEMPT,
        rcu_callbacks=True,
    ).run(4 * MS + 100 * US)
    # The round began at 3.991 ms, the tick took 2 µs of its 20.
    assert box.times("block_rq_complete") == [4 * MS + 13 * US]
    ksoftirqd = box.cpus[0].ksoftirqd
    assert ksoftirqd.pid in [e[2]["pid"] for e in box.events("sched_waking", cpu=0)]
    assert ksoftirqd.on_rq
    both = 1 << softirq.TIMER | 1 << softirq.RCU
    assert box.cpus[0].softirq_pending & both == both
    assert box.times("softirq_entry", vec=softirq.RCU) == []


def test_what_the_last_tick_saw_is_part_of_the_snapshot() -> None:
    box = rcu_box(one_write_then_burn).run(900 * US)
    cpu = box.cpus[0]
    state = cpu.snapshot()
    cpu.rcu.io_seq = cpu.io_seq
    cpu.restore(state)
    assert rcu.rcu_pending(cpu)


# -- Grace periods ----------------------------------------------------------------------------------


def one_grace_period() -> Steps:
    """What ``rcu_sched`` does: begin, sleep two jiffies, look, sleep two more, look again."""
    yield (OP_RCU_GP_INIT, 1)
    yield (OP_SLEEP_JIFFIES, 2)
    yield (OP_RCU_FQS, 1)
    yield (OP_SLEEP_JIFFIES, 2)
    yield (OP_RCU_FQS, 1)
    yield (OP_SLEEP, NEVER)


def hog() -> Steps:
    """Burn CPU for ever in user space."""
    yield (OP_RUN, NEVER >> 1)


def gp_box(*hogs: int) -> tuple[Box, Script]:
    """Return a box of four CPUs with hogs on some, ``rcu_sched`` on CPU 1, and its script.

    RCU's work takes 20 µs, on CPU 1 too, where it delays the kthread that its timer has woken.
    """
    kthread = Job(
        one_grace_period, name="rcu_sched", cpu=1, mask=2, start_ns=100 * US, kthread=True
    )
    jobs = [Job(hog, name=f"hog{cpu}", cpu=cpu, mask=1 << cpu) for cpu in hogs]
    box = Box(kthread, *jobs, nr_cpus=4, charges=costs(rcu_softirq_ns=20 * US))
    for cpu in box.cpus:
        cpu.rcu.driven = True
    box.run(150 * US)
    assert kthread.script is not None
    return box, kthread.script


def results(script: Script) -> list[tuple[int, int]]:
    """Return when the operations after the first two returned, in µs, and what."""
    return [(time_ns // US, result) for time_ns, result in script.calls[2:]]


def test_idle_cpus_need_not_report() -> None:
    box, script = gp_box()
    box.run(10 * MS)
    # Over at the first look; the second sleep is this test's.
    assert results(script)[:2] == [(2020, 0), (2020, 1)]


def test_a_cpu_notices_at_one_tick_and_reports_at_the_next() -> None:
    box, _ = gp_box(0)
    cpu = box.cpus[0]
    box.run(1 * MS + 21 * US)
    assert (cpu.rcu.seen, cpu.rcu.reported, cpu.rcu.quiescent) == (1, 0, False)
    box.run(2 * MS + 19 * US)
    assert cpu.rcu.quiescent  # the tick has interrupted user space
    assert cpu.rcu.reported == 0
    box.run(2 * MS + 21 * US)
    assert cpu.rcu.reported == 1


def test_the_last_report_after_the_look_wakes_rcu_sched_early() -> None:
    box, script = gp_box(0)
    box.run(1_500 * US)
    box.cpus[0].rcu.seen = 0  # it notices at tick 2 and reports at tick 3
    box.run(10 * MS)
    assert results(script) == [(2020, 0), (2020, 0), (3020, 1), (3020, 1)]
    assert [t // US for t in box.times("sched_waking", pid=box.pid(0))] == [2000, 3020]


def test_a_report_before_the_look_wakes_nobody() -> None:
    box, script = gp_box(0)
    box.cpus[0].rcu.seen = 1  # it has noticed at once, so tick 1 reports
    box.run(10 * MS)
    assert box.cpus[0].rcu.reported == 1
    assert results(script)[:2] == [(2020, 0), (2020, 1)]
    assert [t // US for t in box.times("sched_waking", pid=box.pid(0))] == [2000, 4000]


def test_of_two_that_report_at_once_neither_is_the_last() -> None:
    box, script = gp_box(0, 2)
    box.run(1_500 * US)
    for cpu in (0, 2):
        box.cpus[cpu].rcu.seen = 0  # both report at tick 3
    box.run(10 * MS)
    # The timeout ends the grace period.
    assert results(script) == [(2020, 0), (2020, 0), (4000, 0), (4000, 1)]


def test_the_last_is_who_sees_all_others_reports() -> None:
    box, _ = gp_box(0, 2)
    box.run(1_500 * US)
    assert not rcu.last_to_report(box.cpus[0], 0b101)
    assert rcu.last_to_report(box.cpus[0], 0b001)
    box.cpus[2].rcu.reported = 1
    box.cpus[2].publish()
    box.cpus[0].now = 1_600 * US
    assert rcu.last_to_report(box.cpus[0], 0b101)


def test_the_report_of_the_cpu_it_sleeps_on_wakes_it_there() -> None:
    box, _ = gp_box()
    cpu = box.cpus[1]
    box.run(1_500 * US)
    cpu.rcu.gp_left = 1 << 1
    before = box.times("sched_waking", pid=box.pid(0))
    rcu.rcu_report_qs_rsp(cpu)
    assert len(box.times("sched_waking", pid=box.pid(0))) == len(before) + 1
    assert cpu.rcu.gp_left == 0


def test_a_grace_period_is_part_of_the_snapshot() -> None:
    box, _ = gp_box(0)
    box.run(1_500 * US)
    for cpu in box.cpus[:2]:
        cpu.rcu.cblist.append((2, 3))
        state = cpu.snapshot()
        before = cpu.rcu.pack()
        cpu.rcu.unpack([0] * 8 + [[], 0])
        cpu.restore(state)
        assert cpu.rcu.pack() == before
        assert cpu.rcu.seen == 1


# -- Callbacks ----------------------------------------------------------------------------------


def test_a_callback_waits_for_a_grace_period_that_begins_after_it_was_noticed() -> None:
    """``rcu_seq_snap()``: the one under way may have begun before; only the next is sure to cover it."""
    box, _ = gp_box()
    data = box.cpus[0].rcu
    rcu.call_rcu(box.cpus[0])
    rcu.note_gp_changes(data, 5)
    assert (data.cbs_next, data.cblist, data.cbs_ready) == (0, [(6, 1)], 0)
    rcu.call_rcu(box.cpus[0])
    rcu.call_rcu(box.cpus[0])
    rcu.note_gp_changes(data, 6)
    assert (data.cbs_next, data.cblist, data.cbs_ready) == (0, [(6, 1), (7, 2)], 0)
    rcu.note_gp_changes(data, 7)  # so 6 is over
    assert (data.cblist, data.cbs_ready) == ([(7, 2)], 1)
    assert rcu.rcu_pending(box.cpus[0])


def test_without_grace_periods_nothing_is_freed_and_nothing_waits() -> None:
    box = rcu_box(one_write_then_burn)
    rcu.call_rcu(box.cpus[1])
    assert not rcu.rcu_needs_cpu(box.cpus[1])


def look_for_a_file() -> Steps:
    """Look for a file that is not there, then sleep for long."""
    yield (OP_RUN, 300 * US)
    yield (OP_STAT,)
    yield (OP_SLEEP, 500 * MS)


def three_grace_periods() -> Steps:
    """Drive three grace periods of two ticks each."""
    for number in (1, 2, 3):
        yield (OP_RCU_GP_INIT, number)
        yield (OP_SLEEP_JIFFIES, 2)
    yield (OP_SLEEP, 500 * MS)


def test_D_4_an_idle_cpu_ticks_until_its_callback_has_been_invoked() -> None:
    """Queued in the first grace period, given the next one at tick 1, noticed to be over at tick 5."""
    kthread = Job(
        three_grace_periods, name="rcu_sched", cpu=1, mask=2, start_ns=100 * US, kthread=True
    )
    looker = Job(look_for_a_file, name="looker", cpu=0, mask=1)
    box = Box(kthread, looker, nr_cpus=2, charges=costs(rcu_softirq_ns=20 * US))
    cpu = box.cpus[0]
    for each in box.cpus:
        each.rcu.driven = True
    box.run(900 * US)
    assert cpu.is_halted()
    assert not cpu.tick_stopped
    box.run(1_500 * US)
    assert cpu.rcu.cblist == [(2, 1)]
    box.run(4_500 * US)
    assert not cpu.tick_stopped
    box.run(5_500 * US)
    assert cpu.rcu.cblist == []
    assert cpu.tick_stopped
