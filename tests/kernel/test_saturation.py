"""The signals of saturation against io-and-workqueue.md H.1 to H.3, and the policies' decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator import tracepoints as tp
from emulator.completion import COMPLETIONS, SIGNALS, CompletionSpec
from emulator.kernel import core, dio_completion, saturation, wq_table
from emulator.kernel.cpu import Cpu
from emulator.kernel.dio_completion import DioCompletion
from emulator.kernel.psi import PSI_FREQ_NS, Psi
from emulator.kernel.request import Request
from emulator.kernel.sched_info import SchedInfo, Steal
from emulator.rules import rules_of
from emulator.topology import DomainMap
from emulator.types import OP_RUN
from tests.kernel.box import (
    MS,
    QUIET,
    Box,
    FixedBoard,
    Job,
    Steps,
    facts,
    lone_cpu,
    run_task,
    script_work,
    sleeping_task,
)

# -- H.3: a hog starts at 0, the first completion is at 1 ms, then one every 0.1 ms -------------------

HOG_NS = 13_500_000
START = 10 * MS
#: Nobody takes the CPU from the hog, at wakeups or ticks.
UNDISTURBED = QUIET | {
    "kernel.sched_latency_ns": 1000 * MS,
    "kernel.sched_min_granularity_ns": 1000 * MS,
}


def hog() -> Steps:
    yield (OP_RUN, HOG_NS)


# When each signal, with its limit, first says saturated, in units of 0.1 ms; -1: never.
@pytest.fixture(scope="module")
def first_asserted() -> dict[tuple[str, int], int]:
    asked = [
        ("not_idle", 0),
        ("nr_running", 2),
        ("stint", 1 * MS),
        ("stint", 4 * MS),
        ("head_age", 1 * MS),
        ("head_age_ns", 1 * MS),
        ("worklist", 16),
        ("util", 80),
        ("avg_idle", 500_000),
        ("congested", 0),
        ("runnable", 100),
        ("run_delay", 1 * MS),
        ("steal", 500_000),
        ("irq", 50),
        ("ksoftirqd", 0),
        ("preempt", 0),
    ]
    found = dict.fromkeys(asked, -1)
    signals = tuple((name, 0) for name in ("run_delay", "steal"))
    completion = CompletionSpec("unless-saturated", signals=signals)
    box = Box(Job(hog, start_ns=START), hz=1000, sysctls=UNDISTURBED, completion=completion)
    cpu = box.cpus[0]
    box.run(START + 1)
    for avg in (box.task().avg, cpu.rq.cfs.avg):  # a new task starts from a guess
        avg.util_avg = avg.util_sum = avg.load_avg = avg.load_sum = 0
    for tenth in range(1, HOG_NS * 10 // MS):
        box.run(START + tenth * MS // 10)
        cpu.now = START + tenth * MS // 10
        if tenth >= 10:
            script_work(cpu, wq_table.WQ_DIO, [(1, 0)])
            box.run(cpu.now + 1)  # the worker's wakeup
            cpu.now = START + tenth * MS // 10
        for signal, limit in asked:
            value, saturated = saturation.SIGNALS[signal](cpu, limit)
            assert value >= 0
            if saturated and found[signal, limit] < 0:
                found[signal, limit] = tenth
    # 254 at 13.5 ms; what is read is as of the tick at 13 ms.
    assert cpu.rq.cfs.avg.util_avg == pytest.approx(246, abs=6)
    # 13.5 ms after the fact: the worker runs, and only then is known how long it waited.
    assert saturation.run_delay(cpu, 1 * MS) == (0, False)
    box.run(START + 20 * MS)
    delay, saturated = saturation.run_delay(cpu, 1 * MS)
    assert saturated
    assert delay == pytest.approx(HOG_NS - 1 * MS, abs=MS // 10)
    return found


@pytest.mark.parametrize(
    ("signal", "limit", "tenths"),
    [
        ("not_idle", 0, 1),
        ("nr_running", 2, 10),
        ("stint", 1 * MS, 10),
        ("stint", 4 * MS, 40),
        ("head_age", 1 * MS, 20),
        ("head_age_ns", 1 * MS, 20),
        ("worklist", 16, 25),
        ("util", 80, -1),
        ("avg_idle", 500_000, -1),
        ("congested", 0, -1),
        ("run_delay", 1 * MS, -1),
        ("steal", 500_000, -1),
        ("irq", 50, -1),
        ("ksoftirqd", 0, -1),
        ("preempt", 0, 1),
    ],
)
def test_example_H_3_first_asserted(
    first_asserted: dict[tuple[str, int], int], signal: str, limit: int, tenths: int
) -> None:
    assert first_asserted[signal, limit] == tenths


def test_example_H_2_psi_avg10_of_a_total_stall() -> None:
    psi = Psi()
    psi.change(0, 2)
    found: list[int] = []
    for period in range(1, 6):
        assert psi.some_avg10(period * PSI_FREQ_NS - 1) == (found[-1] if found else 0)
        found.append(psi.some_avg10(period * PSI_FREQ_NS))
    assert [round(value / 100, 1) for value in found] == [18.1, 32.9, 45.1, 55.0, 63.2]


def test_example_H_3_psi_says_so_at_the_next_boundary_of_two_seconds() -> None:
    psi = Psi()
    psi.change(100 * MS, 2)  # somebody waits from then on
    asserted = [at for at in range(0, 5000, 50) if psi.some_avg10(at * MS) > 10 * 100]
    assert asserted[0] == 2000


def test_psi_counts_what_is_stalled_between_two_changes() -> None:
    psi = Psi()
    psi.change(0, 1)
    psi.change(500 * MS, 2)
    psi.change(1500 * MS, 0)  # half of the period
    assert psi.some_avg10(PSI_FREQ_NS) == pytest.approx(1811 / 2, abs=3)
    rebuilt = Psi()
    rebuilt.unpack(psi.pack())
    assert rebuilt.pack() == psi.pack()
    assert rebuilt.some_avg10(9 * PSI_FREQ_NS) == psi.some_avg10(9 * PSI_FREQ_NS) > 0


def test_the_table_of_signals_is_the_one_that_is_read() -> None:
    assert list(SIGNALS) == list(saturation.SIGNALS)
    unbound = {name for name, row in COMPLETIONS.items() if row.unbound}
    assert set(COMPLETIONS) == {"bound", *dio_completion.TARGETS, *unbound}


def test_H_1_congested_needs_256_works_of_direct_io() -> None:
    box = Box(Job(hog, start_ns=START), hz=1000, sysctls=UNDISTURBED).run(START + 1)
    cpu = box.cpus[0]
    for _ in range(256):
        script_work(cpu, wq_table.WQ_DIO, [(1, 0)])
    assert saturation.congested(cpu, 0) == (0, False)
    script_work(cpu, wq_table.WQ_DIO, [(1, 0)])
    assert saturation.congested(cpu, 0) == (1, True)


def test_H_1_runnable_is_above_util_while_a_worker_waits() -> None:
    """From 5.7 on: two tasks that always want the CPU make it twice what it can do."""

    def forever() -> Steps:
        yield (OP_RUN, 1000 * MS)

    box = Box(Job(forever), Job(forever), hz=1000, rules=rules_of("5.10"), version="5.10")
    box.run(300 * MS)
    util, _ = saturation.util(box.cpus[0], 80)
    value, saturated = saturation.runnable(box.cpus[0], 100)
    assert saturated
    assert util < 1030 < 1900 < value
    alone = Box(Job(forever), hz=1000, rules=rules_of("5.10"), version="5.10").run(300 * MS)
    assert not saturation.runnable(alone.cpus[0], 100)[1]


@pytest.mark.parametrize(("nice", "load"), [(0, 1024), (-20, 88761), (19, 15)])
def test_H_1_load_goes_by_weight(nice: int, load: int) -> None:
    def forever() -> Steps:
        yield (OP_RUN, 1000 * MS)

    box = Box(Job(forever, nice=nice), hz=1000).run(500 * MS)
    value, saturated = saturation.load(box.cpus[0], 80)
    assert value == pytest.approx(load, rel=0.08)
    assert saturated == (load >= 1024)


def test_H_1_steal_is_what_came_between_two_ticks() -> None:
    steal = Steal()
    steal.taken(300_000)
    steal.taken(250_000)
    steal.steal_account_process_time()
    assert steal.last_ns == 550_000
    steal.steal_account_process_time()
    assert steal.last_ns == 0
    rebuilt = Steal()
    rebuilt.unpack(steal.pack())
    assert rebuilt.pack() == steal.pack()


def test_H_1_a_cpu_that_loses_its_host_at_work_has_steal_time_and_an_idle_one_has_not() -> None:
    completion = CompletionSpec("unless-saturated", signals=(("steal", 500_000),))
    box = Box(Job(hog, start_ns=START), nr_cpus=2, hz=1000, completion=completion).run(START + MS)
    for cpu in box.cpus:
        cpu.stall(cpu.now)
        cpu.resume(cpu.now + 700_000)
        assert cpu.steal is not None
        cpu.steal.steal_account_process_time()
    assert saturation.steal(box.cpus[0], 500_000) == (700_000, True)
    assert saturation.steal(box.cpus[1], 500_000) == (0, False)


def test_H_1_interrupts_are_a_share_of_the_time() -> None:
    cpu, _board = cpu_of(0, 2)
    cpu.rq.avg_irq.util_avg = 512
    assert saturation.irq(cpu, 50) == (512, False)
    cpu.rq.avg_irq.util_avg = 513
    assert saturation.irq(cpu, 50) == (513, True)


def test_H_1_ksoftirqd_is_runnable_when_softirqs_are_too_many() -> None:
    cpu, _board = cpu_of(0, 2)
    assert saturation.ksoftirqd(cpu, 0) == (0, False)
    core.wake_up(cpu, cpu.ksoftirqd)
    cpu.advance(cpu.now + MS, cpu.now + MS)
    queued = [cpu.ksoftirqd.on_rq, *saturation.ksoftirqd(cpu, 0)]
    assert queued in ([1, 1, True], [0, 0, False])


def test_run_delay_is_of_who_began_last_and_is_in_snapshots() -> None:
    info = SchedInfo()
    info.sched_info_queued(100, 7)
    info.sched_info_switch(400, 5, True, 7)
    assert info.last_ns == 300
    info.sched_info_switch(900, 7, False, 5)  # 5 was preempted at 400
    assert info.last_ns == 500
    rebuilt = SchedInfo()
    rebuilt.unpack(info.pack())
    assert rebuilt.pack() == info.pack() == [500, []]


# -- preempt against the kernel's own test ----------------------------------------------------------


WHEN = START + 8_500_000  # between two ticks


@pytest.mark.parametrize("granularity_ms", [0, 1, 2, 3, 4, 8, 15])
def test_preempt_predicts_what_the_wakeup_then_does(granularity_ms: int) -> None:
    sysctls = {
        "kernel.sched_latency_ns": 6 * MS,
        "kernel.sched_wakeup_granularity_ns": granularity_ms * MS,
        "kernel.sched_tunable_scaling": 0,
    }
    box = Box(Job(hog, start_ns=START), hz=1000, sysctls=sysctls).run(WHEN)
    cpu = box.cpus[0]
    cpu.now = WHEN
    vdiff, saturated = saturation.preempt(cpu, 0)
    script_work(cpu, wq_table.WQ_DIO, [(1, 0)])
    box.run(WHEN + 2)
    (event,) = box.events("box_check_preempt", since_ns=WHEN)
    assert event[2]["vdiff"] == vdiff
    preempted = tp.PREEMPT_WHYS[event[2]["why"]] == "wakeup"
    assert preempted != saturated


def test_a_worker_that_waits_already_has_been_refused() -> None:
    box = Box(Job(hog, start_ns=START), hz=1000, sysctls=UNDISTURBED).run(START + 2 * MS)
    cpu = box.cpus[0]
    cpu.now = START + 2 * MS
    script_work(cpu, wq_table.WQ_DIO, [(1, 0)])
    box.run(START + 2 * MS + 2)
    assert cpu.rq.nr_running == 2
    assert saturation.preempt(cpu, 0) == (0, True)
    cpu.rq.need_resched = True  # it will run soon: #18
    assert saturation.preempt(cpu, 0) == (0, False)


# -- Where a work goes ------------------------------------------------------------------------------


def cpu_of(number: int, nr_cpus: int, llc: int = 0) -> tuple[Cpu, FixedBoard]:
    cpu, board, _ring = lone_cpu(number, nr_cpus, llc=llc)
    return cpu, board


def choose(cpu: Cpu, policy: DioCompletion, ctx_cpu: int = 0) -> tuple[int, str]:
    rq = Request()
    rq.ctx_cpu = ctx_cpu
    assert policy.target is not None
    target, why = policy.target(cpu, policy, rq)
    return target, tp.COMPLETION_WHYS[why]


def offline(cpu: Cpu, *numbers: int) -> None:
    mask = cpu.domains.active_mask
    for number in numbers:
        mask &= ~(1 << number)
    cpu.domains = DomainMap(cpu.spec.machine, cpu.rq.rules, mask)


def test_bound_decides_nothing() -> None:
    assert dio_completion.policy_of(CompletionSpec()) is None


@pytest.mark.parametrize("name", ["system-wq", "inline-overwrite", "caller"])
def test_those_that_stay_on_the_cpu(name: str) -> None:
    cpu, _board = cpu_of(2, 4)
    assert choose(cpu, DioCompletion(CompletionSpec(name)), ctx_cpu=1) == (2, "rule")


@pytest.mark.parametrize(
    ("here", "dead", "target"), [(0, (), 1), (3, (), 0), (1, (2,), 3), (2, (3, 0), 1)]
)
def test_next_online_goes_round(here: int, dead: tuple[int, ...], target: int) -> None:
    cpu, _board = cpu_of(here, 4)
    offline(cpu, *dead)
    assert choose(cpu, DioCompletion(CompletionSpec("next-online"))) == (target, "rule")


def test_the_submitters_cpu_unless_it_died() -> None:
    cpu, _board = cpu_of(1, 4)
    policy = DioCompletion(CompletionSpec("submitter"))
    assert choose(cpu, policy, ctx_cpu=3) == (3, "rule")
    offline(cpu, 3)
    assert choose(cpu, policy, ctx_cpu=3) == (1, "dead")


@given(here=st.integers(0, 7), batch=st.integers(1, 9), nr=st.integers(1, 60))
def test_turns_go_over_the_cache_in_batches(here: int, batch: int, nr: int) -> None:
    cpu, _board = cpu_of(here, 8, llc=4)
    policy = DioCompletion(CompletionSpec("round-robin", batch=batch))
    first = here // 4 * 4
    expected = [first + (here + n // batch) % 4 for n in range(nr)]
    assert [choose(cpu, policy)[0] for _ in range(nr)] == expected


def test_turns_leave_a_dead_cpu_out() -> None:
    cpu, _board = cpu_of(0, 4)
    policy = DioCompletion(CompletionSpec("round-robin", batch=2))
    assert [choose(cpu, policy)[0] for _ in range(3)] == [0, 0, 1]
    offline(cpu, 1, 2)
    assert [choose(cpu, policy)[0] for _ in range(4)] == [3, 3, 0, 0]


def test_without_a_shared_cache_turns_stay() -> None:
    cpu, _board = cpu_of(1, 4, llc=-1)
    policy = DioCompletion(CompletionSpec("wq-cache-bound", batch=1))
    assert choose(cpu, policy) == (1, "no_cache")


def busy_cpu(signals: tuple[tuple[str, int], ...]) -> tuple[Cpu, FixedBoard, DioCompletion]:
    cpu, board = cpu_of(1, 8, llc=4)
    run_task(cpu, sleeping_task(cpu))
    return cpu, board, DioCompletion(CompletionSpec("unless-saturated", signals=signals))


def test_all_signals_must_say_so() -> None:
    cpu, _board, policy = busy_cpu((("not_idle", 0), ("nr_running", 2)))
    assert choose(cpu, policy) == (1, "not_saturated")
    cpu, _board, policy = busy_cpu((("not_idle", 0), ("nr_running", 1)))
    assert choose(cpu, policy) == (2, "idle")


def test_a_saturated_cpu_gives_to_the_first_idle_one_of_its_cache() -> None:
    cpu, board, policy = busy_cpu((("not_idle", 0),))
    board.facts[2] = facts(1)
    board.facts[3] = facts(2)
    assert choose(cpu, policy) == (0, "idle")
    board.facts[0] = facts(1)
    assert choose(cpu, policy) == (1, "none_idle")  # CPUs 4 to 7 idle, but in another cache


def test_a_decision_costs_what_it_reads() -> None:
    cpu, board, policy = busy_cpu((("not_idle", 0), ("preempt", 0)))
    read_ns = SIGNALS["not_idle"].read_ns + SIGNALS["preempt"].read_ns
    board.facts[2] = facts(1)
    choose(cpu, policy)
    assert policy.ns == read_ns + 2 * cpu.costs.coherence_ns


def test_what_a_signal_read_is_recorded() -> None:
    cpu, _board, ring = lone_cpu(1, 4)
    run_task(cpu, sleeping_task(cpu))
    signals = (("nr_running", 1), ("worklist", 16))
    policy = DioCompletion(CompletionSpec("unless-saturated", signals=signals))
    choose(cpu, policy)
    records = [record[6:] for record in ring.records if record[1] == tp.BOX_SATURATION]
    numbers = [list(SIGNALS).index(name) for name, _limit in signals]
    assert records == [(1, numbers[0], 1, 1, 1), (1, numbers[1], 0, 16, 0)]
