"""Softirqs and ksoftirqd against io-and-workqueue.md B.2, B.3, B.7 and advice.md items 4 to 6."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulator import tracepoints as tp
from emulator.kernel import blk_softirq, frames, softirq
from emulator.kernel.cpu import Cpu
from emulator.rules import Rules
from emulator.types import NEVER, OP_IO_GETEVENTS, OP_IO_SUBMIT, OP_RUN, WRITE
from tests.kernel.box import MS, US, Box, Event, Job, Steps, costs, null_blk, scsi_debug

#: A woken ksoftirqd waits behind the hog.
NO_PREEMPT = {"kernel.sched_wakeup_granularity_ns": 1_000_000_000}

Handler = Callable[[Cpu], None]


def hog() -> Steps:
    """Burn CPU for ever."""
    while True:
        yield (OP_RUN, NEVER >> 1)


def names_of(events: list[Event]) -> list[str]:
    """Return the names of events."""
    return [event[1] for event in events]


def raise_in_interrupt(box: Box, at_ns: int, vec: int = softirq.BLOCK) -> None:
    """Raise a vector at a time in a hard interrupt of CPU 0, which costs nothing."""
    cpu = box.cpus[0]
    box.run(at_ns)
    cpu.now = at_ns
    cpu.push(frames.IRQ_DONE, 0, None, frames.LEVEL_HARDIRQ, False)
    softirq.raise_softirq(cpu, vec)


def block_handler(monkeypatch: pytest.MonkeyPatch, handler: Handler) -> None:
    """Let a test's own handler stand for the BLOCK vector's."""
    monkeypatch.setattr(blk_softirq, "blk_done_softirq", handler)


# -- B.7 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hz", "phi_us", "handler_us", "passes"),
    [
        (1000, 0, 100, 10),
        (1000, 0, 300, 7),
        (1000, 900, 300, 4),
        (250, 3900, 300, 1),
        (250, 0, 300, 10),
        (100, 0, 5000, 2),
    ],
)
def test_vector_B_7_handler_that_raises_itself_for_ever(
    monkeypatch: pytest.MonkeyPatch, hz: int, phi_us: int, handler_us: int, passes: int
) -> None:
    def handler(cpu: Cpu) -> None:
        cpu.start(frames.BLOCK_TAIL, handler_us * US)
        softirq.raise_softirq(cpu, softirq.BLOCK)

    block_handler(monkeypatch, handler)
    box = Box(hz=hz)
    start = 10 * box.cpus[0].tick_ns + phi_us * US
    raise_in_interrupt(box, start)
    box.run(start + (passes + 1) * handler_us * US - 1)
    waking = box.events("sched_waking")
    assert box.comm(waking[0][2]["pid"]) == "ksoftirqd/0"
    assert waking[0][0] == start + passes * handler_us * US
    before = [t for t in box.times("softirq_entry", vec=softirq.BLOCK) if t < waking[0][0]]
    assert before == [start + n * handler_us * US for n in range(passes)]


@pytest.mark.parametrize("rules", [Rules(), Rules(softirq_inline=True)])
def test_vector_B_7_need_resched_in_pass_1(monkeypatch: pytest.MonkeyPatch, rules: Rules) -> None:
    """What is left is ksoftirqd's, also from 6.5 on."""

    def handler(cpu: Cpu) -> None:
        cpu.start(frames.BLOCK_TAIL, 100 * US)
        cpu.rq.need_resched = True
        softirq.raise_softirq(cpu, softirq.BLOCK)

    block_handler(monkeypatch, handler)
    box = Box(Job(hog, name="hog"), rules=rules)
    start = 10 * MS
    raise_in_interrupt(box, start)
    box.run(start + 150 * US)
    first, *others = [e for e in box.events("softirq_entry") if e[2]["vec"] == softirq.BLOCK]
    assert first[0] == start
    assert {box.comm(e[2]["current"]) for e in others} <= {"ksoftirqd/0"}
    waking = box.events("sched_waking")
    assert [(e[0], box.comm(e[2]["pid"])) for e in waking] == [(start + 100 * US, "ksoftirqd/0")]


def test_vector_B_7_raise_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five requests complete in five interrupts while a softirq is served: one raise, one call."""

    def writer() -> Steps:
        for number in range(5):
            yield (OP_IO_SUBMIT, [(number, WRITE, 0, number * 4096, 4096)])
        yield (OP_RUN, 10 * MS)

    def long_tick(cpu: Cpu) -> None:
        cpu.start(frames.SOFTIRQ_TIMER, 500 * US)

    monkeypatch.setattr("emulator.kernel.tick.process_wheel", long_tick)
    box = Box(
        Job(writer, name="fio", disk="/xfs", start_ns=1 * MS + 100 * US),
        charges=costs(io_submit_ns=10 * US),
        disk=scsi_debug(60 * US),
    )
    raise_in_interrupt(box, 1 * MS + 155 * US, softirq.TIMER)
    box.run(2 * MS - 1)
    arrivals = box.times("hrtimer_expire_entry")
    # They were issued 10 µs apart, before the long softirq.
    assert arrivals == [1 * MS + (170 + 10 * n) * US for n in range(5)]
    assert box.times("softirq_raise", vec=softirq.BLOCK) == arrivals[:1]
    entries = box.times("softirq_entry", vec=softirq.BLOCK)
    assert entries == [1 * MS + 655 * US]
    done = box.events("block_rq_complete")
    assert [e[2]["sector"] for e in done] == [8 * n for n in range(5)]
    assert {e[0] for e in done} == set(entries)


@pytest.mark.parametrize(
    ("rules", "inline"), [(Rules(), False), (Rules(softirq_inline=True), True)]
)
def test_B_2_while_ksoftirqd_is_runnable(rules: Rules, inline: bool) -> None:
    """Up to 6.4 the exit of an interrupt leaves softirqs to it; from 6.5 on it serves them."""
    box = Box(Job(hog, name="hog"), rules=rules)
    box.cpus[0].ksoftirqd.state = tp.TASK_RUNNING
    raise_in_interrupt(box, 10 * MS + 10 * US)
    box.run(10 * MS + 20 * US)
    served = box.times("softirq_entry", vec=softirq.BLOCK)
    assert served == ([10 * MS + 10 * US] if inline else [])


# -- B.2 ------------------------------------------------------------------------------------------


def test_B_2_raised_in_hardirq_served_at_its_exit_before_idle() -> None:
    """The handler finds an empty list here, and returns."""
    box = Box()
    raise_in_interrupt(box, 1 * MS + 10)
    box.run(1 * MS + 11)
    assert names_of(box.events(since_ns=1 * MS + 10)) == [
        "softirq_raise",
        "softirq_entry",
        "softirq_exit",
    ]
    assert box.cpus[0].is_halted()


def test_B_2_raised_in_task_context_wakes_ksoftirqd() -> None:
    """null_blk of irqmode 1 with one queue completes from task context."""

    def writer() -> Steps:
        yield (OP_IO_SUBMIT, [(1, WRITE, 0, 0, 4096)])
        yield (OP_IO_GETEVENTS, 1, 1)

    box = Box(Job(writer, name="fio", disk="/xfs"), disk=null_blk(1)).run(1 * MS)
    raised = box.events("softirq_raise")[0]
    assert raised[2]["current"] == box.pid(0)
    woken = [e for e in box.events("sched_waking") if e[0] == raised[0]]
    assert box.comm(woken[0][2]["pid"]) == "ksoftirqd/0"
    entry = box.events("softirq_entry")[0]
    assert box.comm(entry[2]["current"]) == "ksoftirqd/0"
    assert len(box.times("box_aio_complete", data=1, res=4096)) == 1


def test_B_2_inline_service_is_left_to_a_runnable_ksoftirqd() -> None:
    box = Box(Job(hog, name="hog"), sysctls=NO_PREEMPT)
    box.run(10 * MS + 1)
    cpu = box.cpus[0]
    cpu.now = 10 * MS + 1
    softirq.wakeup_softirqd(cpu)
    raise_in_interrupt(box, 10 * MS + 5)
    box.run(10 * MS + 10)
    # Its state is running although it waits behind the hog: the interrupt's exit serves nothing.
    assert box.times("softirq_entry", vec=softirq.BLOCK) == []
    assert cpu.softirq_pending == 1 << softirq.BLOCK
    box.run(40 * MS)
    served = [e for e in box.events("softirq_entry") if e[2]["vec"] == softirq.BLOCK]
    assert [box.comm(e[2]["current"]) for e in served] == ["ksoftirqd/0"]


def test_advice_6_ksoftirqd_being_switched_out_does_not_keep_softirqs_from_the_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its state is sleep, it is still on the queue: inline service is allowed, no bit is lost."""

    def raise_block(cpu: Cpu, arg: object) -> None:
        if arg == "block":
            softirq.raise_softirq(cpu, softirq.BLOCK)

    monkeypatch.setattr("emulator.kernel.smp.handle_ipi", raise_block)
    box = Box(charges=costs(context_switch_ns=10 * US))
    cpu = box.cpus[0]
    box.run(1 * MS + 100)
    cpu.now = 1 * MS + 100
    softirq.wakeup_softirqd(cpu)
    cpu.irqs.append((frames.IRQ_IPI, None, 0))
    box.run(1 * MS + 100 + 15 * US)
    ksoftirqd = cpu.ksoftirqd
    assert cpu.f_kind == frames.SCHEDULE  # on its way out
    assert ksoftirqd.on_rq
    assert softirq.may_run_inline(cpu)
    cpu.irqs.append((frames.IRQ_IPI, "block", 0))  # waits until interrupts are on again
    box.run(1 * MS + 200 * US)
    entries = box.events("softirq_entry")
    assert [(e[0], e[2]["current"]) for e in entries] == [(1 * MS + 100 + 20 * US, 0)]
    assert cpu.softirq_pending == 0


# -- B.3 ------------------------------------------------------------------------------------------


def test_B_3_vectors_ascend_and_bits_raised_meanwhile_make_another_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def handler(cpu: Cpu) -> None:
        calls.append(cpu.now)
        cpu.start(frames.BLOCK_TAIL, 10 * US)
        if len(calls) == 1:
            softirq.raise_softirq(cpu, softirq.TIMER)
            softirq.raise_softirq(cpu, softirq.RCU)
            softirq.raise_softirq(cpu, softirq.RCU)  # twice is once

    block_handler(monkeypatch, handler)
    box = Box(charges=costs(softirq_ns=1 * US))
    box.run(10 * MS + 50)
    box.cpus[0].softirq_pending = 1 << softirq.RCU
    raise_in_interrupt(box, 10 * MS + 100)
    box.run(10 * MS + 100 * US)
    vectors = [e[2]["vec"] for e in box.events("softirq_entry")]
    assert vectors == [softirq.BLOCK, softirq.RCU, softirq.TIMER, softirq.RCU]
    # The entry is paid once per round, not per pass.
    assert box.events("softirq_entry")[0][0] == 10 * MS + 100 + 1 * US
    assert box.events("softirq_exit")[-1][0] == 10 * MS + 100 + 11 * US


def test_B_3_a_tick_inside_a_handler_starts_no_nested_loop_at_hz_250(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any tick inside a round makes jiffies reach the limit; what it raises is ksoftirqd's."""

    def handler(cpu: Cpu) -> None:
        cpu.start(frames.BLOCK_TAIL, 4 * US)

    block_handler(monkeypatch, handler)
    box = Box(
        Job(hog, name="hog"), nr_cpus=2, hz=250, charges=costs(tick_ns=1 * US), sysctls=NO_PREEMPT
    )
    tick = 4 * MS
    # The balancer's next pass of this CPU is due at the tick in question.
    due = 6
    box.run((due - 1) * tick + 100)
    cpu = box.cpus[0]
    monkeypatch.setattr("emulator.kernel.tick.next_balance", lambda _cpu, _facts: due)
    raise_in_interrupt(box, due * tick - 2 * US)
    box.run(due * tick + 4 * US)
    sched = [e for e in box.events("softirq_raise") if e[2]["vec"] == softirq.SCHED]
    assert sched[-1][0] == due * tick + 1 * US
    block_exit = box.times("softirq_exit", vec=softirq.BLOCK)[-1]
    assert block_exit == due * tick + 3 * US  # the tick took 1 µs of its time
    woken = box.events("sched_waking")[-1]
    assert (woken[0], box.comm(woken[2]["pid"])) == (block_exit, "ksoftirqd/0")
    assert cpu.softirq_pending >> softirq.SCHED & 1


def test_advice_4_hard_interrupts_come_before_the_softirq_round_they_interrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A tick due in the instant in which a handler ends is taken first, and jiffies with it."""

    def handler(cpu: Cpu) -> None:
        cpu.start(frames.BLOCK_TAIL, 100 * US)
        softirq.raise_softirq(cpu, softirq.BLOCK)

    block_handler(monkeypatch, handler)
    box = Box(Job(hog, name="hog"), hz=100, sysctls=NO_PREEMPT)
    raise_in_interrupt(box, 20 * MS - 100 * US)
    box.run(20 * MS + 1)
    assert box.times("softirq_entry", vec=softirq.BLOCK) == [20 * MS - 100 * US]
    assert box.comm(box.events("sched_waking")[-1][2]["pid"]) == "ksoftirqd/0"


def test_B_3_what_is_raised_on_the_way_into_the_round_waits_for_the_next_pass() -> None:
    """The mask is taken before interrupts are on; in one pass TIMER would run before BLOCK."""
    box = Box(charges=costs(softirq_ns=50 * US))
    raise_in_interrupt(box, 1 * MS + 10, softirq.BLOCK)
    raise_in_interrupt(box, 1 * MS + 20 * US, softirq.TIMER)
    box.run(1 * MS + 200 * US)
    entries = [e[2]["vec"] for e in box.events("softirq_entry") if e[0] > 1 * MS]
    assert entries == [softirq.BLOCK, softirq.TIMER]


def test_advice_5_a_round_is_interrupted_and_goes_on_with_the_time_it_had_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def handler(cpu: Cpu) -> None:
        cpu.start(frames.BLOCK_TAIL, 100 * US)

    block_handler(monkeypatch, handler)
    box = Box(Job(hog, name="hog"), charges=costs(tick_ns=7 * US))
    raise_in_interrupt(box, 2 * MS - 30 * US)
    box.run(2 * MS + 1)
    cpu = box.cpus[0]
    assert [frame[0] for frame in cpu.stack] == [frames.USER, frames.BLOCK_TAIL]
    assert cpu.level == frames.LEVEL_HARDIRQ
    box.run(3 * MS)
    assert box.times("softirq_exit", vec=softirq.BLOCK) == [2 * MS + 77 * US]


def test_advice_6_a_bit_raised_after_the_last_test_is_served_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def handler(cpu: Cpu) -> None:
        calls.append(cpu.now)
        cpu.start(frames.BLOCK_TAIL, 0)

    block_handler(monkeypatch, handler)
    box = Box()
    box.run(1 * MS + 5)
    cpu = box.cpus[0]
    cpu.now = 1 * MS + 5
    # The round's last test has been passed: SOFTIRQ_DONE is on top, the mask was empty.
    cpu.push(frames.SOFTIRQ_DONE, 0, None, frames.LEVEL_SOFTIRQ, False)
    cpu.in_softirq = True
    cpu.softirq_pending |= 1 << softirq.BLOCK
    box.run(1 * MS + 6)
    assert calls == [1 * MS + 5]
    assert cpu.softirq_pending == 0
    assert not cpu.in_softirq


def test_B_3_ksoftirqd_runs_rounds_until_nothing_is_pending_then_sleeps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = [12]

    def handler(cpu: Cpu) -> None:
        cpu.start(frames.BLOCK_TAIL, 10 * US)
        left[0] -= 1
        if left[0]:
            softirq.raise_softirq(cpu, softirq.BLOCK)

    block_handler(monkeypatch, handler)
    box = Box()
    raise_in_interrupt(box, 1 * MS + 1)
    box.run(2 * MS - 1)
    entries = box.events("softirq_entry")
    # Ten passes in the borrowed context, the other two in the thread's.
    assert [box.comm(e[2]["current"]) for e in entries] == ["idle"] * 10 + ["ksoftirqd/0"] * 2
    assert [s[1:] for s in box.switches()] == [("idle", "ksoftirqd/0"), ("ksoftirqd/0", "idle")]
