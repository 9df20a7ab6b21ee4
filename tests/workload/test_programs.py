"""The table of programs, and the built-in ones other than fio."""

from __future__ import annotations

from errno import ENOENT
from typing import Any

import pytest

from emulator import wire
from emulator.types import (
    NEVER,
    NSEC_PER_MSEC,
    NSEC_PER_SEC,
    OP_BURN,
    OP_CANCEL_WORK,
    OP_EXIT,
    OP_FLUSH_WORKQUEUE,
    OP_PIPE_READ,
    OP_PIPE_WRITE,
    OP_QUEUE_WORK,
    OP_RCU_FQS,
    OP_RCU_GP_INIT,
    OP_RUN,
    OP_SETAFFINITY,
    OP_SLEEP,
    OP_SLEEP_JIFFIES,
    OP_STAT,
    OP_WRITEBACK,
    Books,
    Op,
    Program,
    WorkloadSpec,
)
from emulator.workload import (
    PARAMS,
    PROGRAMS,
    TEAMS,
    BookedProgram,
    make_program,
    merge_books,
    unpack_program,
)
from emulator.workload.flusher import FlusherProgram
from emulator.workload.load import LoadProgram
from emulator.workload.periodic import PeriodicProgram
from emulator.workload.rcu_gp import RcuGpProgram
from emulator.workload.works import parse_items
from tests.workload.fake_kernel import costs

MS = NSEC_PER_MSEC


def make(program: str, hz: int = 250, **params: Any) -> BookedProgram:
    spec = WorkloadSpec("task", program, params, 1, 0, 1, 0, -1, False)
    return make_program(spec, costs(syscall_ns=200, nanosleep_ns=800), 1, hz)


EXAMPLES: dict[str, dict[str, Any]] = {
    "aio_loop": {"size": 1 << 20, "iodepth": 2, "ios": 6},
    "dbench": {"size": 3 * 4096, "writes_per_fsync": 2, "operations": 4},
    "execs": {"run_ns": MS, "times": 3},
    "fio": {"rw": "randwrite", "size": 1 << 20, "iodepth": 4, "time_based": True},
    "fio_main": {},
    "flusher": {"size": 100 * 4096},
    "hog": {"run_ns": 5 * NSEC_PER_SEC // 2},
    "load": {"percent": 30},
    "loop": {"steps": [["run", MS], ["write", 0], ["period", 3 * MS], ["read", 1]], "rounds": 7},
    "periodic": {"period_ns": 4 * MS, "run_ns": MS, "offset_ns": 100},
    "rcu_gp": {},
    "works": {"items": "5ms 10ms 5ms; events_unbound: 1ms", "period_ns": 20 * MS},
    "rtapp": {
        "phases": [
            [1, [["affinity", 3], ["signal", [0, 1]], ["wait", [2, 3]]]],
            [2, [["run", MS], ["runtime", 90_000], ["timer", 0, MS, False], ["sleep", MS]]],
            [1, [["sync", [0], [2]], ["take", [4]], ["barrier", 5, 6], ["yield"]]],
        ],
        "timers": 1,
    },
    "writer": {"size": 5 * 4096, "random": 1, "rate": 1 << 20, "fsync_every": 3, "cpu_ns": 500},
}


def play(program: Program, now_ns: int, result: Any) -> tuple[Op, int, Any]:
    """Return the next operation, the time it ends and its result, on a CPU of its own."""
    op = program.next(now_ns, result)
    match op[0]:
        case 0:
            return op, now_ns + op[1], 0
        case 1:
            return op, max(now_ns, op[1]) + 40, 0
        case 2:
            return op, now_ns + 10, len(op[1])
        case 3:
            assert op[1] <= 1
            return op, now_ns + 10, [(now_ns % 4, 4096)]
        case 7:
            return op, now_ns + op[1] * 4 * MS, now_ns // MS % 3 // 2
    return op, now_ns + 10, 0


def test_tables_agree() -> None:
    assert set(PROGRAMS) == set(EXAMPLES)
    assert set(PROGRAMS) | set(TEAMS) == set(PARAMS)


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "fio"])
def test_packed_mid_run_it_goes_on_identically(name: str) -> None:
    straight = make(name, **EXAMPLES[name])
    packed = make(name, **EXAMPLES[name])
    assert straight.name == name
    kept: Books | None = None
    now: int = 1000
    result: Any = None
    for _ in range(40):
        packed = unpack_program(wire.unpack(wire.pack(packed.pack())))
        kept = packed.measure_in(kept)
        op, later, after = play(straight, now, result)
        assert packed.next(now, result) == op
        if op[0] == OP_EXIT:
            break
        now, result = later, after
    assert packed.pack() == straight.pack()
    assert packed.books() == straight.books()


@pytest.mark.parametrize("name", ["flusher", "periodic", "rcu_gp", "writer"])
def test_books_left_on_three_cpus_add_up(name: str) -> None:
    straight, roaming = make(name, **EXAMPLES[name]), make(name, **EXAMPLES[name])
    left: dict[int, Books | None] = {}
    now: int = 1000
    result: Any = None
    for step in range(60):
        left[step % 3] = roaming.measure_in(left.get(step % 3))
        op, later, after = play(straight, now, result)
        assert roaming.next(now, result) == op
        now, result = later, after
    assert merge_books([books.pack() for books in left.values() if books]) == straight.books()


def test_fio_is_unpacked_by_name() -> None:
    program = make("fio", **EXAMPLES["fio"])
    program.next(0, None)
    assert unpack_program(wire.unpack(wire.pack(program.pack()))).pack() == program.pack()


def test_unknown_programs_and_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="no program 'dd'"):
        make("dd")
    with pytest.raises(ValueError, match="hog has no parameter 'perod_ns'"):
        make("hog", perod_ns=1)
    with pytest.raises(ValueError, match="periodic needs the parameter 'run_ns'"):
        make("periodic", period_ns=1)


def test_hog_is_one_event_per_second() -> None:
    hog = make("hog")
    assert hog.next(0, None) == hog.next(NSEC_PER_SEC, 0) == (OP_RUN, NSEC_PER_SEC)
    assert hog.quiet_ns(0) == NEVER


def test_hog_ends_after_its_cpu_time() -> None:
    hog = make("hog", run_ns=2_500 * MS)
    assert [hog.next(0, None)[1] for _ in range(3)] == [1000 * MS, 1000 * MS, 500 * MS]
    assert hog.quiet_ns(0) == 0
    assert hog.next(0, 0) == (OP_EXIT,)


def test_periodic_keeps_wake_latency_and_response() -> None:
    task = make("periodic", period_ns=4 * MS, run_ns=MS, offset_ns=500)
    assert task.next(1000, None) == (OP_SLEEP, 1500)
    assert task.next(1700, 0) == (OP_BURN, MS)
    assert task.next(1700 + 2 * MS, 0) == (OP_SLEEP, 1500 + 4 * MS)
    books = task.books()
    assert (books["wake_ns"]["min"], books["wake_ns"]["max"]) == (200, 200)
    assert books["response_ns"]["max"] == 200 + 2 * MS
    assert books["missed"] == 0


def test_late_periodic_skips_what_has_become_due() -> None:
    task = make("periodic", period_ns=4 * MS, run_ns=MS)
    task.next(0, None)
    task.next(0, 0)
    assert task.next(9 * MS, 0) == (OP_SLEEP, 12 * MS)
    assert task.next(12 * MS, 0) == (OP_BURN, MS)
    assert task.next(16 * MS, 0) == (OP_SLEEP, 16 * MS), "due now: it starts at once"
    assert isinstance(task, PeriodicProgram)
    assert task.books()["missed"] == 2


def test_a_periodic_task_binds_itself_first() -> None:
    task = make("periodic", period_ns=4 * MS, run_ns=MS, bind_cpu=2)
    assert task.next(5, None) == (OP_SETAFFINITY, 1 << 2)
    assert task.next(10, 0) == (OP_SLEEP, 10)


def test_a_hog_waits_for_the_common_start() -> None:
    hog = make("hog", begin_ns=MS, bind_cpu=1)
    assert hog.quiet_ns(0) == 0
    assert hog.next(0, None) == (OP_SETAFFINITY, 1 << 1)
    assert hog.next(10, 0) == (OP_SLEEP, 100_010)
    assert hog.next(MS - 1, 0) == (OP_SLEEP, MS - 1 + 100_000)
    assert hog.next(MS, 0) == (OP_RUN, NSEC_PER_SEC)


def team(program: str, pipe: int = 0, **params: Any) -> dict[str, Any]:
    members = TEAMS[program](PARAMS[program] | params, pipe)
    return {member.comm: make("loop", **member.params()) for member in members}


def test_ping_writes_the_time_and_measures_a_round() -> None:
    tasks = team("pingpong", pipe=4, rounds=2, ping_cpu=3)
    ping, pong = tasks["ping"], tasks["pong"]
    assert ping.next(0, None) == (OP_SETAFFINITY, 1 << 3)
    assert ping.next(100, 0) == (OP_PIPE_WRITE, 4, 100)
    assert pong.next(0, None) == (OP_PIPE_READ, 4)
    assert pong.next(107, 100) == (OP_PIPE_WRITE, 5, 107)
    assert ping.next(103, 0) == (OP_PIPE_READ, 5)
    assert ping.next(116, 107) == (OP_PIPE_WRITE, 4, 116)
    assert ping.books()["round_ns"]["max"] == 16
    assert ping.books()["wake_ns"]["max"] == 9
    assert ping.next(120, 0) == (OP_PIPE_READ, 5)
    assert ping.next(140, 130) == (OP_EXIT,)
    assert ping.books()["rounds"] == 2


def test_a_messenger_keeps_its_periods_and_writes_to_all() -> None:
    messenger = team("fanout", workers=2, period_ns=MS, work_ns=300)["messenger"]
    assert messenger.next(50, None) == (OP_SLEEP, 50 + MS)
    assert messenger.next(60 + MS, 0) == (OP_PIPE_WRITE, 0, 60 + MS)
    assert messenger.next(70 + MS, 0) == (OP_PIPE_WRITE, 1, 70 + MS)
    assert messenger.next(80 + MS, 0) == (OP_SLEEP, 50 + 2 * MS)


def test_a_waker_burns_its_gap_between_writes() -> None:
    tasks = team("xwake", gap_ns=500)
    assert tasks["waker"].next(0, None) == (OP_BURN, 500)
    assert tasks["waker"].next(500, 0) == (OP_PIPE_WRITE, 0, 500)
    assert tasks["wakee"].next(0, None) == (OP_PIPE_READ, 0)
    assert tasks["wakee"].next(505, 500) == (OP_PIPE_READ, 0)
    assert tasks["wakee"].books()["wake_ns"]["max"] == 5


def test_periodic_leaves_out_its_warm_up() -> None:
    task = make("periodic", period_ns=MS, run_ns=100, stats_from_ns=10 * MS)
    now: int = 0
    result: Any = None
    for _ in range(60):
        _, now, result = play(task, now, result)
    assert task.books()["response_ns"]["n"] < task.books()["wake_ns"]["n"] <= 20


def test_load_runs_its_percentage_of_each_period() -> None:
    load = make("load", percent=80)
    assert load.next(5, None) == (OP_RUN, 8 * MS)
    assert load.next(5 + 8 * MS, 0) == (OP_SLEEP, 5 + 10 * MS)
    assert load.next(5 + 10 * MS, 0) == (OP_RUN, 8 * MS)
    # Kept off its CPU for two periods, it owes nothing.
    assert load.next(5 + 37 * MS, 0) == (OP_SLEEP, 5 + 40 * MS)


def test_load_can_be_changed_and_removed() -> None:
    load = make("load", percent=80)
    assert isinstance(load, LoadProgram)
    load.next(0, None)
    load.set_percent(100)
    assert load.next(8 * MS, 0) == load.next(18 * MS, 0) == (OP_RUN, 10 * MS)
    load.set_percent(0)
    assert load.next(28 * MS, 0) == (OP_EXIT,)
    with pytest.raises(ValueError, match="101 %"):
        load.set_percent(101)


@pytest.mark.parametrize(("hz", "jiffies"), [(100, 2), (250, 2), (300, 3), (1000, 4)])
def test_rcu_gp_begins_sleeps_the_kernels_timeout_looks_and_begins_again(
    hz: int, jiffies: int
) -> None:
    kthread = make("rcu_gp", hz)
    assert kthread.next(0, None) == (OP_RCU_GP_INIT, 1)
    assert kthread.next(0, 0) == (OP_SLEEP_JIFFIES, jiffies)
    assert kthread.next(0, 0) == (OP_RCU_FQS, 1)
    assert kthread.next(0, 1) == (OP_RUN, 20_000)
    assert kthread.next(0, 0) == (OP_RCU_GP_INIT, 2)
    assert kthread.next(0, 0) == (OP_SLEEP_JIFFIES, jiffies)


def test_rcu_gp_looks_again_before_it_goes_back_to_sleep() -> None:
    kthread = make("rcu_gp", jiffies=3)
    begun = [kthread.next(0, None), kthread.next(0, 0), kthread.next(0, 0)]
    assert begun[-1] == (OP_RCU_FQS, 1)
    assert kthread.next(0, 0) == (OP_RUN, 20_000)
    assert kthread.next(0, 0) == (OP_RCU_FQS, 1)
    assert kthread.next(0, 0) == (OP_SLEEP_JIFFIES, 3)  # still not over
    kthread.next(0, 0)
    kthread.next(0, 0)
    assert kthread.next(0, 0) == (OP_RCU_FQS, 1)
    assert kthread.next(0, 1) == (OP_RCU_GP_INIT, 2)  # a report came meanwhile


def test_rcu_gp_counts_reports_that_wake_it_early() -> None:
    kthread = make("rcu_gp", jiffies=3, run_ns=16_000)
    assert isinstance(kthread, RcuGpProgram)
    kthread.next(0, None)
    for left in (0, 2, 0, 1, 1):
        assert kthread.next(0, 0) == (OP_SLEEP_JIFFIES, 3)
        kthread.next(0, left)
        assert kthread.next(0, 1) == (OP_RUN, 16_000)
        kthread.next(0, 0)
    assert kthread.books() == {"timeouts": 2, "reports": 3}


def test_fio_main_sleeps_relative_and_burns_the_rest_of_its_stint() -> None:
    thread = make("fio_main")
    assert thread.next(77, None) == (OP_SLEEP, 77 + 100 * MS)
    for now in (100 * MS, 110 * MS):
        assert thread.next(now, 0) == (OP_RUN, 15_000)
        assert thread.next(now, None) == (OP_STAT,)
        assert thread.next(now + 7, -ENOENT) == (OP_SLEEP, now + 7 + 10 * MS)


def test_flusher_writes_the_file_in_order_and_never_waits() -> None:
    flusher = make("flusher", file=3, size=40 * 4096, pages_per_batch=16, passes=2)
    assert isinstance(flusher, FlusherProgram)
    ops = [flusher.next(0, 0) for _ in range(13)]
    assert ops[:6] == [
        (OP_RUN, 32_000),
        (OP_WRITEBACK, 3, 0, 65_536),
        (OP_RUN, 32_000),
        (OP_WRITEBACK, 3, 65_536, 65_536),
        (OP_RUN, 16_000),
        (OP_WRITEBACK, 3, 131_072, 32_768),
    ]
    assert ops[6:12] == ops[:6]
    assert ops[12] == (OP_EXIT,)
    assert flusher.books() == {"batches": 6}


def test_works_queues_all_its_items_at_once_and_again_each_period() -> None:
    program = make("works", items="5ms 10ms 5ms; xfs-sync: 1us", period_ns=20 * MS)
    works = [
        ["events", 0, [[5 * MS, 10 * MS], [5 * MS, 0]]],
        ["xfs-sync", 1, [[1000, 0]]],
    ]
    assert program.next(3 * MS, None) == (OP_QUEUE_WORK, works)
    assert program.next(4 * MS, 0) == (OP_SLEEP, 23 * MS)
    assert program.next(23 * MS, 0) == (OP_QUEUE_WORK, works)
    once = make("works", items="1ms", queue="events_long")
    assert once.next(0, None) == (OP_QUEUE_WORK, [["events_long", 0, [[MS, 0]]]])
    assert once.next(1, 0) == (OP_EXIT,)


def test_works_waits_between_its_items() -> None:
    program = make("works", items="1ms; 2ms; flush events; cancel w1; drain xfs-sync; 3ms")
    op = program.next(0, None)
    assert (op[0], [work[1] for work in op[1]]) == (OP_QUEUE_WORK, [0, 1])
    assert program.next(1, 0) == (OP_FLUSH_WORKQUEUE, "events")
    assert program.next(2, 2) == (OP_CANCEL_WORK, 1)
    # A drain is a flush until nothing was there.
    assert program.next(3, 1) == (OP_FLUSH_WORKQUEUE, "xfs-sync")
    assert program.next(4, 5) == (OP_FLUSH_WORKQUEUE, "xfs-sync")
    assert program.next(5, 0) == (OP_QUEUE_WORK, [["events", 2, [[3 * MS, 0]]]])
    assert program.next(6, 0) == (OP_EXIT,)


def test_items_may_be_queued_later_or_for_a_node() -> None:
    assert parse_items(
        "after 5ms events: 1ms; node 1 events_unbound: 1ms 2ms; 1ms", "xfs-sync"
    ) == [
        ["queue", "events", 0, [[MS, 0]], 5 * MS, -1],
        ["queue", "events_unbound", 1, [[MS, 2 * MS]], 0, 1],
        ["queue", "xfs-sync", 2, [[MS, 0]]],
    ]
    assert parse_items("after 5ms 1ms", "events") == [["queue", "events", 0, [[MS, 0]], 5 * MS, -1]]


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        ("1ms; events:", "says no duration"),
        ("1ms; flush", "write 'flush NAME'"),
        ("after 1ms", "write 'after TIME NAME"),
        ("node far events_unbound: 1ms", "or 'node N NAME"),
        ("after soon events: 1ms", "not a duration"),
        ("1ms; cancel w1; 1ms", "no item before it is called w1"),
        ("1ms; cancel events", "no item before it is called events"),
    ],
)
def test_items_that_say_nothing_are_refused(items: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_items(items, "events")
