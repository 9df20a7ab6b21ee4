"""Proposals for bound kthreads that wake (F13 to F17, F19, F20): each decision, and small machines."""

from __future__ import annotations

import pytest

from emulator import tracepoints as tp
from emulator.kernel import core, fair, placement
from emulator.kernel.cpu import Cpu
from emulator.kernel.fair_kthread import delays_wakeup
from emulator.kernel.sched import SCHED_IDLE, TASK_WAKING, Rq, Task
from emulator.kernel.wq_table import WQ_DIO
from emulator.rules import Rules, changed, policy_switches
from emulator.tracepoints import (
    PREEMPT_KTHREAD_AHEAD,
    PREEMPT_KTHREAD_BUDDY,
    PREEMPT_KTHREAD_NVCSW,
    PREEMPT_NO_GRANULARITY,
    PREEMPT_TICK_SLICE,
    PREEMPT_TICK_VRUNTIME,
    PREEMPT_WAKEUP,
    PREEMPT_WHYS,
)
from emulator.types import OP_IO_GETEVENTS, OP_IO_SUBMIT, OP_RUN, OP_SLEEP, WRITE
from tests.kernel.box import (
    US,
    Box,
    Job,
    Steps,
    costs,
    facts,
    lone_cpu,
    run_task,
    script_work,
    scsi_debug,
    sleeping_task,
)
from tests.kernel.fairqueue import (
    MS,
    asleep,
    make_kthread,
    make_task,
    policy_rq,
    queue,
    running,
    switch,
    tick,
    wake,
)


def thread_case(policy: str, nr_online: int = 8, slept_at: int = 900 * MS) -> tuple[Rq, Task, Task]:
    """The tuned thread: a hog at 1,000 ms of vruntime, a bound kworker long asleep beside it."""
    rq = policy_rq(policy, nr_online)
    hog, kworker = make_task(1), make_kthread(2)
    asleep(rq, kworker, slept_at)
    running(rq, hog, 1_000 * MS)
    return rq, hog, kworker


def test_without_a_proposal_the_kworker_waits() -> None:
    rq, _hog, kworker = thread_case("")
    assert wake(rq, kworker, 3 * MS) == PREEMPT_NO_GRANULARITY
    assert (rq.preempt_vdiff, rq.preempt_gran) == (12 * MS, 15 * MS)
    assert rq.cfs.next is None
    assert not rq.need_resched


# -- F13 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kworker_switches", "hog_switches", "preempts"),
    [
        ((100, 1), (10, 10), True),
        ((1, 1), (10, 10), True),
        ((1, 2), (10, 10), False),
        ((0, 0), (0, 0), True),
        ((10, 1), (100, 1), False),
    ],
)
def test_f13_compares_shares_of_voluntary_switches(
    kworker_switches: tuple[int, int], hog_switches: tuple[int, int], preempts: bool
) -> None:
    rq, hog, kworker = thread_case("preempt-kthread-nvcsw")
    kworker.nvcsw, kworker.nivcsw = kworker_switches
    hog.nvcsw, hog.nivcsw = hog_switches
    why = wake(rq, kworker, 3 * MS)
    assert why == (PREEMPT_KTHREAD_NVCSW if preempts else PREEMPT_NO_GRANULARITY)
    assert (rq.preempt_vdiff, rq.preempt_gran) == (12 * MS, 15 * MS)
    assert rq.need_resched is preempts
    assert (rq.cfs.next is kworker) is preempts


def test_f13_spares_a_pinned_task_and_a_longer_queue() -> None:
    rq, hog, kworker = thread_case("preempt-kthread-nvcsw")
    hog.nr_cpus_allowed = 1
    assert wake(rq, kworker, 3 * MS) == PREEMPT_NO_GRANULARITY
    rq, _hog, kworker = thread_case("preempt-kthread-nvcsw")
    queue(rq, make_task(3))
    assert wake(rq, kworker, 3 * MS) == PREEMPT_NO_GRANULARITY


def test_f13_also_lets_a_kthread_preempt_that_is_behind() -> None:
    rq, _hog, kworker = thread_case("preempt-kthread-nvcsw", slept_at=1_010 * MS)
    assert wake(rq, kworker, 3 * MS) == PREEMPT_KTHREAD_NVCSW
    assert rq.preempt_vdiff == -7 * MS
    assert switch(rq) is kworker, "as next buddy, within the granularity of the hog"


def test_f13_wins_over_the_last_buddy_of_a_short_nr_latency() -> None:
    rq, hog, kworker = thread_case("preempt-kthread-nvcsw", nr_online=4)
    assert rq.tun.nr_latency == 2
    assert wake(rq, kworker, 3 * MS) == PREEMPT_KTHREAD_NVCSW
    assert rq.cfs.last is hog
    assert switch(rq) is kworker


# -- F14 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slept_at", "why"),
    [
        (900, PREEMPT_KTHREAD_AHEAD),
        (1_002, PREEMPT_KTHREAD_AHEAD),
        (1_003, fair.NO_PREEMPT),
        (1_010, fair.NO_PREEMPT),
    ],
)
def test_f14_ahead_at_all_is_enough(slept_at: int, why: int) -> None:
    rq, _hog, kworker = thread_case("preempt-kthread", slept_at=slept_at * MS)
    assert wake(rq, kworker, 3 * MS) == why
    assert (rq.cfs.next is kworker) is rq.need_resched is (why >= 0)


def test_f14_leaves_other_tasks_alone() -> None:
    rq, _hog, _kworker = thread_case("preempt-kthread")
    other = make_task(3)
    asleep(rq, other, 0)
    assert wake(rq, other, 3 * MS) == PREEMPT_NO_GRANULARITY
    bound = make_task(4)
    bound.nr_cpus_allowed = 1
    asleep(rq, bound, 0)
    assert wake(rq, bound, 3 * MS) == PREEMPT_NO_GRANULARITY, "a pinned user task is no kthread"


def test_more_than_a_granularity_is_an_ordinary_preemption_whatever_the_proposal() -> None:
    for policy in ("preempt-kthread", "preempt-kthread-nvcsw", "next-buddy-kthread"):
        rq, _hog, kworker = thread_case(policy)
        rq.tun.wakeup_granularity = 4 * MS
        assert wake(rq, kworker, 3 * MS) == PREEMPT_WAKEUP


# -- F15, F16 --------------------------------------------------------------------------------------


def test_f15_a_heavier_kworker_needs_less() -> None:
    rq, _hog, _kworker = thread_case("")
    kworker = make_kthread(3, -5)
    asleep(rq, kworker, 0)
    assert wake(rq, kworker, 3 * MS) == PREEMPT_WAKEUP
    assert rq.preempt_gran == 4_921_499


def test_f15_normal_workers_have_the_nice_and_highpri_ones_their_own() -> None:
    box = Box(nr_cpus=1, rules=changed(Rules(), policy_switches("renice-kworkers=-7")))
    nices = {p.comm: p.nice for p in box.cpus[0].tasks.values() if "kworker" in p.comm}
    assert nices == {"kworker/0:0": -7, "kworker/0:1": -7, "kworker/0:0H": -20, "kworker/0:1H": -20}
    assert {p.prio for p in box.cpus[0].tasks.values() if p.comm == "kworker/0:1"} == {113}


@pytest.mark.parametrize(
    ("nr_online", "vdiff", "preempts"), [(8, 12 * MS, True), (4, 9 * MS, False)]
)
def test_f16_the_min_granularity_counts(nr_online: int, vdiff: int, preempts: bool) -> None:
    rq, _hog, kworker = thread_case("kthread-gran-min", nr_online)
    why = wake(rq, kworker, 3 * MS)
    assert (rq.preempt_vdiff, rq.preempt_gran) == (vdiff, 10 * MS)
    assert why == (PREEMPT_WAKEUP if preempts else PREEMPT_NO_GRANULARITY)


def test_f16_is_scaled_by_weight_and_holds_in_the_pick() -> None:
    rq, hog, _kworker = thread_case("kthread-gran-min")
    light = make_kthread(3, 5)
    asleep(rq, light, 0)
    assert wake(rq, light, 3 * MS) == PREEMPT_NO_GRANULARITY
    assert rq.preempt_gran == 30_567_164
    heavy = make_kthread(4, -5)
    heavy.vruntime = hog.vruntime - 4 * MS
    assert fair.wakeup_preempt_entity(rq, hog, heavy) == 1
    heavy.flags = 0
    assert fair.wakeup_preempt_entity(rq, hog, heavy) == 0


# -- F17 -------------------------------------------------------------------------------------------


def test_f17_marks_the_kthread_and_does_not_ask_for_a_reschedule() -> None:
    rq, _hog, kworker = thread_case("next-buddy-kthread")
    assert wake(rq, kworker, 3_200_000) == PREEMPT_KTHREAD_BUDDY
    assert rq.cfs.next is kworker
    assert not rq.need_resched


def test_f17_behind_is_no_buddy() -> None:
    rq, _hog, kworker = thread_case("next-buddy-kthread", slept_at=1_010 * MS)
    assert wake(rq, kworker, 3 * MS) == fair.NO_PREEMPT
    assert rq.cfs.next is None


@pytest.mark.parametrize("policy", ["", "next-buddy-kthread"])
def test_f17_preempts_at_the_same_tick_as_the_unpatched_kernel(policy: str) -> None:
    rq, _hog, kworker = thread_case(policy)
    tick(rq, 3 * MS)
    wake(rq, kworker, 3_200_000)
    whys = [tick(rq, ms * MS) for ms in range(4, 11)]
    assert whys == [fair.NO_PREEMPT] * 6 + [PREEMPT_TICK_VRUNTIME]
    assert (rq.preempt_vdiff, rq.preempt_gran) == (18_800_000, 11_999_994)
    assert switch(rq) is kworker


def test_f17_half_the_slice() -> None:
    rq, _hog, kworker = thread_case("next-buddy-kthread-half")
    wake(rq, kworker, 100_000)
    whys = [tick(rq, ms * MS) for ms in range(1, 7)]
    assert whys == [fair.NO_PREEMPT] * 5 + [PREEMPT_TICK_SLICE]
    assert rq.preempt_gran == 5_999_997


def test_f17_the_tick_compares_with_the_buddy_and_not_with_the_leftmost() -> None:
    rq, hog, kworker = thread_case("next-buddy-kthread", slept_at=998 * MS)
    left = make_task(3)
    asleep(rq, left, 900 * MS)
    wake(rq, left, 0)
    assert wake(rq, kworker, 1) == PREEMPT_KTHREAD_BUDDY
    rq.tun.latency = 60 * MS  # slices of 20 ms, so that the distance decides
    tick(rq, 10 * MS)
    assert rq.preempt_vdiff == hog.vruntime - kworker.vruntime == 12 * MS
    rq.cfs.next = None
    rq.need_resched = False
    tick(rq, 10 * MS + 1)
    assert rq.preempt_vdiff == hog.vruntime - left.vruntime


def test_f17_whole_slices_while_another_task_is_next() -> None:
    rq, _hog, _kworker = thread_case("next-buddy-kthread-half")
    other = make_task(3)
    asleep(rq, other, 900 * MS)
    wake(rq, other, 100_000)
    tick(rq, 6 * MS)
    assert rq.preempt_gran == 11_999_994


# -- F19 -------------------------------------------------------------------------------------------


def test_f19_delays_whom_the_granularity_keeps_from_preempting() -> None:
    rq, _hog, kworker = thread_case("delayed-wake-list")
    fair.update_rq_clock(rq, 3 * MS)
    before = kworker.vruntime
    assert delays_wakeup(rq, kworker)
    assert (rq.preempt_vdiff, rq.preempt_gran) == (12 * MS, 15 * MS)
    assert kworker.vruntime == before, "where it would be placed was only asked"
    rq.tun.wakeup_granularity = 4 * MS
    assert not delays_wakeup(rq, kworker)


def test_f19_delays_nobody_else() -> None:
    rq, hog, kworker = thread_case("delayed-wake-list")
    assert not delays_wakeup(rq, make_task(3))
    rq.need_resched = True
    assert not delays_wakeup(rq, kworker), "schedule() is near anyway"
    rq.need_resched = False
    hog.policy = SCHED_IDLE
    assert not delays_wakeup(rq, kworker), "it is preempted at once"
    rq.curr = rq.idle
    assert not delays_wakeup(rq, kworker)


def test_f19_delays_no_one_whom_another_proposal_lets_preempt() -> None:
    rq, _hog, kworker = thread_case("delayed-wake-list")
    rq.rules = changed(rq.rules, {"preempt_kthread_vdiff": True})
    assert not delays_wakeup(rq, kworker)


NEVER_PREEMPT = {"kernel.sched_wakeup_granularity_ns": 1_000_000_000}


def spin_then_sleep() -> Steps:
    """Compute 20 ms, sleep until 30 ms, compute on."""
    yield (OP_RUN, 20 * MS)
    yield (OP_SLEEP, 30 * MS)
    yield (OP_RUN, 20 * MS)


def delayed_box() -> Box:
    rules = changed(Rules(), policy_switches("delayed-wake-list"))
    job = Job(spin_then_sleep, name="hog", start_ns=MS)
    box = Box(job, nr_cpus=2, rules=rules, sysctls=NEVER_PREEMPT, charges=costs(ttwu_ns=1 * US))
    box.run(5 * MS)
    script_work(box.cpus[0], WQ_DIO, [(10 * US, 0)])
    return box


def test_f19_nobody_counts_the_kthread_until_the_next_schedule() -> None:
    box = delayed_box().run(15 * MS)
    cpu = box.cpus[0]
    (pid,) = cpu.delayed_wakes
    kworker = cpu.tasks[pid]
    assert (kworker.state, kworker.on_rq, cpu.rq.nr_running) == (TASK_WAKING, 0, 1)
    assert not cpu.idle_cpu(0)
    (decided,) = box.events("box_check_preempt")
    assert PREEMPT_WHYS[decided[2]["why"]] == "delayed"
    assert decided[2]["gran"] == 1_000_000_000
    assert box.times("sched_waking", pid=pid)
    assert not box.times("sched_wakeup", pid=pid)
    box.run(25 * MS)
    assert cpu.delayed_wakes == []
    assert box.times("sched_wakeup", pid=pid) == box.times("workqueue_execute_start")
    assert box.times("sched_wakeup", pid=pid)[0] == pytest.approx(21 * MS, abs=10 * US)


def test_f19_more_items_only_lengthen_the_list() -> None:
    box = delayed_box().run(10 * MS)
    script_work(box.cpus[0], WQ_DIO, [(10 * US, 0)])
    box.run(15 * MS)
    assert len(box.cpus[0].delayed_wakes) == 1
    assert len(box.times("sched_waking", cpu=0)) == 1
    box.run(25 * MS)
    assert len(box.times("workqueue_execute_end")) == 2


def test_f19_a_cpu_that_goes_down_queues_it_first() -> None:
    box = delayed_box()
    box.command(10 * MS, 1, "cpu", "offline", "1")
    box.run(29 * MS)
    assert len(box.times("workqueue_execute_end")) == 1
    rules = changed(Rules(), policy_switches("delayed-wake-list"))
    job = Job(spin_then_sleep, name="hog", start_ns=MS, cpu=1)
    box = Box(job, nr_cpus=2, rules=rules, sysctls=NEVER_PREEMPT).run(5 * MS)
    script_work(box.cpus[1], WQ_DIO, [(10 * US, 0)])
    box.command(10 * MS, 1, "cpu", "offline", "1")
    box.run(29 * MS)
    assert not box.cpus[1].online
    assert box.cpus[1].delayed_wakes == []
    assert len(box.times("workqueue_execute_end", cpu=0)) == 1, "the heir did the work"


# -- F20 and the trace -----------------------------------------------------------------------------


def one_write() -> Steps:
    """Wait for one write."""
    yield (OP_IO_SUBMIT, [(1, WRITE, 0, 0, 4096)])
    yield (OP_IO_GETEVENTS, 1, 1)


@pytest.mark.parametrize("hinted", [False, True])
def test_f20_the_worker_s_wakeup_is_sync(hinted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    ttwu = core.try_to_wake_up

    def watched(
        cpu: Cpu, p: Task, sync: bool = False, waker: tuple[int, int] | None = None
    ) -> bool:
        seen.append((p.comm, sync))
        return ttwu(cpu, p, sync, waker)

    monkeypatch.setattr(core, "try_to_wake_up", watched)
    rules = changed(Rules(), {"completion_sync_hint": hinted})
    job = Job(one_write, name="fio", disk="/xfs", start_ns=MS)
    Box(job, rules=rules, disk=scsi_debug(50 * US)).run(5 * MS)
    assert [sync for comm, sync in seen if comm == "fio"] == [hinted]
    assert all(not sync for comm, sync in seen if comm != "fio"), "others give no hint"


@pytest.mark.parametrize(("nr_running", "decided"), [(1, tp.WA_SYNC), (2, tp.WA_UNDECIDED)])
def test_f20_a_hint_from_afar_looks_at_the_waker_s_queue(nr_running: int, decided: int) -> None:
    cpu, board, _ring = lone_cpu(0, 2)
    board.facts[1] = facts(nr_running)
    run_task(cpu, sleeping_task(cpu, 501))
    assert placement.wake_affine_idle(cpu, 1, 0, True) == decided
    assert placement.wake_affine_idle(cpu, 1, 0, False) == tp.WA_UNDECIDED


def test_every_why_has_a_name() -> None:
    numbers = [value for name, value in vars(tp).items() if name.startswith("PREEMPT_")]
    assert sorted(n for n in numbers if isinstance(n, int)) == list(range(len(PREEMPT_WHYS)))
