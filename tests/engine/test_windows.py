"""One machine, three engines: plain time order, strict, and windows in any order of replies."""

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import messages
from emulator.engine.board import HistoryBoard
from emulator.engine.commands import Commands
from emulator.engine.conservation import pids_owned
from emulator.engine.inline import run_inline
from emulator.engine.node import TO_BALANCER, TO_CPU, TO_DEVICE, Promise
from emulator.engine.plan import Command, Plan
from emulator.engine.toys import LATENCIES, TICK_NS
from emulator.engine.windowbox import WindowBox
from emulator.engine.windows import StuckError, Windows
from emulator.latency import COORDINATOR, Lookahead
from emulator.types import NEVER

FACTORY = "emulator.engine.toys:build_node"


def toy_plan(
    busy: list[int],
    seed: int,
    until_ns: int,
    devices: int = 1,
    commands: list[Command] | None = None,
) -> Plan:
    spec = {"nr_cpus": len(busy), "nr_nodes": len(busy) + 1 + devices, "seed": seed, "busy": busy}
    names = tuple(f"sd{chr(97 + number)}" for number in range(devices))
    return Plan(
        len(busy), names, until_ns, LATENCIES, FACTORY, spec, "", commands=tuple(commands or ())
    )


def run_windows(
    plan: Plan, order: int, stops: Sequence[int] = ()
) -> tuple[dict[int, dict[str, Any]], Windows]:
    """Run a plan in windows; ``order`` seeds the order in which replies come.

    At each of ``stops`` the whole box stands still.
    """
    balancer = plan.nr_cpus
    boards = [HistoryBoard(plan.nr_nodes, keep_fresh=n != balancer) for n in range(plan.nr_nodes)]
    nodes = [plan.build(node, boards[node]) for node in range(plan.nr_nodes)]
    pick = Random(order).randrange
    box = WindowBox(nodes, plan.nr_cpus, boards, plan.latencies, plan.until_ns, pick)
    for message in Commands().give_timed(plan.commands):
        box.core.post(message)
    for stop_ns in stops:
        box.run_to(stop_ns)
        assert box.core.floor_ns() == stop_ns <= box.core.stamp_ns() - 1
    box.run()
    return {node.node_id: node.books() for node in nodes}, box.core


def inline_books(plan: Plan, *, strict: bool = False) -> dict[int, dict[str, Any]]:
    outcome = run_inline(plan, strict=strict)
    assert outcome.status == 0, outcome.error
    return outcome.books


@settings(max_examples=25, deadline=None)
@given(
    busy=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    seed=st.integers(0, 1 << 30),
    order=st.integers(0, 1 << 30),
    devices=st.integers(0, 2),
)
def test_windows_in_any_order_leave_the_traces_of_plain_time_order(
    busy: list[int], seed: int, order: int, devices: int
) -> None:
    plan = toy_plan(busy, seed, 3 * TICK_NS, devices)
    expected = inline_books(plan)
    assert inline_books(plan, strict=True) == expected
    books, core = run_windows(plan, order)
    assert books == expected
    assert core.ledger.audit(pids_owned(books), plan.until_ns) == []


@settings(max_examples=15, deadline=None)
@given(
    busy=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    order=st.integers(0, 1 << 30),
    stops=st.lists(st.integers(1, 3 * TICK_NS - 1), min_size=1, max_size=4).map(sorted),
)
def test_standing_still_on_the_way_changes_nothing(
    busy: list[int], order: int, stops: list[int]
) -> None:
    plan = toy_plan(busy, 11, 3 * TICK_NS)
    books, _ = run_windows(plan, order, stops)
    assert books == inline_books(plan)


def test_a_long_run_is_the_same_and_moves_tasks_and_mail() -> None:
    plan = toy_plan([2, 1, 0, 2], 7, 30 * TICK_NS)
    expected = inline_books(plan)
    books, core = run_windows(plan, 3)
    assert books == expected
    codes = {record[1] - 10 for book in expected.values() for record in book["trace"]}
    assert {
        messages.DETACH,
        messages.DETACHED,
        messages.ATTACH,
        messages.ACTIVATE,
        messages.DIO_DONE,
    } <= codes
    assert {messages.BALANCE, messages.DOORBELL, messages.COMPLETION} <= codes
    assert core.messages > 1000


def test_the_seed_decides_the_run() -> None:
    first = inline_books(toy_plan([2, 2], 1, 3 * TICK_NS))
    assert inline_books(toy_plan([2, 2], 1, 3 * TICK_NS)) == first
    assert inline_books(toy_plan([2, 2], 2, 3 * TICK_NS)) != first


def test_a_hog_alone_costs_one_window_per_span_however_many_events_it_has() -> None:
    plan = toy_plan([1], 1, 100 * TICK_NS, devices=0)
    books, core = run_windows(plan, 0)
    assert books[0]["events"] > 4000
    ticks = sum(record[1] == 2 for record in books[0]["trace"])
    assert core.windows <= 5 + ticks


def test_sleeping_cpus_cost_no_windows() -> None:
    few = windows_of(1, sends(100, cpu=5_000), Promise())
    many = windows_of(64, sends(100, cpu=5_000), *[Promise() for _ in range(64)])
    for core in (few, many):
        (grant,) = core.grants()
        core.reply(0, Promise(grant.bound_ns, NEVER), [], [])
        assert core.grants() == []
        assert core.at_rest()
        assert core.windows == 1


def test_timed_commands_are_handled_at_their_time_before_own_events() -> None:
    commands: list[Command] = [(5_000, 0, ["cpu", "load", 0]), (5_000, 1, ["cpu", "load", 1])]
    plan = toy_plan([2, 0], 5, TICK_NS, commands=commands)
    expected = inline_books(plan)
    assert any(
        r[:4] == [5_000, 10 + messages.COMMAND, 5_000, COORDINATOR] for r in expected[0]["trace"]
    )
    books, core = run_windows(plan, 1)
    assert books == expected
    assert [message[4] for message in core.answers] == [messages.COMMAND_DONE] * 2
    assert run_inline(plan).commands == [
        (5_000, ["cpu", "load", 0], "ok"),
        (5_000, ["cpu", "load", 1], "ok"),
    ]


def test_a_failing_node_ends_an_inline_run_with_its_traceback() -> None:
    outcome = run_inline(toy_plan([2], 1, TICK_NS, commands=[(9_000, 0, ["cpu", "fail", 0])]))
    assert outcome.status == 1
    assert "told to fail" in outcome.error


def test_on_progress_may_end_an_inline_run() -> None:
    seen: list[int] = []

    def on_progress(now_ns: int) -> bool:
        seen.append(now_ns)
        return len(seen) < 2

    outcome = run_inline(toy_plan([1], 1, 1000 * TICK_NS), on_progress)
    assert (outcome.status, outcome.reached_ns) == (0, seen[-1])
    assert len(seen) == 2
    whole = inline_books(toy_plan([1], 1, outcome.reached_ns))
    assert outcome.books == whole


# -- The protocol by hand ---------------------------------------------------------------------------


def windows_of(nr_cpus: int, *promises: Promise) -> Windows:
    core = Windows(nr_cpus, len(promises), LATENCIES, 10 * TICK_NS, HistoryBoard(len(promises)))
    core.patience_ns = 0
    for node, promise in enumerate(promises):
        core.hello(node, promise, [])
    return core


def sends(next_ns: int, **send_ns: int) -> Promise:
    places = {"cpu": TO_CPU, "device": TO_DEVICE, "balancer": TO_BALANCER}
    promise = Promise(next_ns=next_ns)
    for name, time_ns in send_ns.items():
        promise.send_ns[places[name]] = time_ns
    return promise


def test_a_bound_is_the_others_promise_plus_latency() -> None:
    core = windows_of(2, sends(100, cpu=5_000), sends(200, cpu=9_000), Promise())
    first, second = core.grants()
    assert (first.node, first.bound_ns) == (0, 9_000 + LATENCIES.cpu_ns)
    assert (second.node, second.bound_ns) == (1, 5_000 + LATENCIES.cpu_ns)
    assert first.horizon_ns == 200 + LATENCIES.coherence_ns
    assert second.horizon_ns == 100 + LATENCIES.coherence_ns


def test_a_cpu_is_bounded_through_the_balancer() -> None:
    core = windows_of(2, sends(100, balancer=5_000), sends(200), Promise())
    grant = next(grant for grant in core.grants() if grant.node == 1)
    assert grant.bound_ns == 5_000 + LATENCIES.balancer_ns


def test_a_promise_is_void_from_the_first_message_not_answered_for() -> None:
    core = windows_of(2, sends(100), sends(200), Promise())
    (grant,) = [grant for grant in core.grants() if grant.node == 0]
    assert grant.bound_ns == 10 * TICK_NS
    message = (3_000, 0, 1, 1, messages.NOHZ_KICK, (0, 0))
    core.reply(0, sends(3_500), [message], [])
    # Node 1 still runs and has not seen the message.
    (grant,) = core.grants()
    assert (grant.node, grant.bound_ns) == (0, 3_000 + LATENCIES.cpu_ns)
    core.reply(1, sends(NEVER), [], [])
    (grant,) = core.grants()
    assert (grant.node, grant.messages) == (1, [message])
    # Now it has, and until it replies the message counts.
    core.reply(0, sends(3_600), [], [])
    (grant,) = core.grants()
    assert (grant.node, grant.bound_ns) == (0, 3_000 + LATENCIES.cpu_ns)


def test_mail_wakes_only_a_node_that_it_matters_to() -> None:
    mail = (1_000, 0, 1, 1, messages.DIO_DONE, (0, 0))
    for mail_ns, woken in ((NEVER, False), (0, True)):
        core = windows_of(2, sends(100), Promise(mail_ns=mail_ns), Promise())
        core.grants()
        core.reply(0, Promise(2_000, NEVER), [mail], [])
        assert [grant.node for grant in core.grants()] == ([1] if woken else [])


def test_a_sleeper_that_mail_would_wake_bounds_the_others() -> None:
    core = windows_of(3, sends(100), sends(150), Promise(mail_ns=0), Promise())
    by_node = {grant.node: grant for grant in core.grants()}
    # The mail is node 0's, at 100 at the earliest; what the sleeper does then comes an IPI later.
    assert by_node[1].bound_ns == 100 + LATENCIES.coherence_ns + LATENCIES.cpu_ns
    assert by_node[0].mail_safe_ns == 0


def test_the_balancer_decides_when_all_have_come_so_far() -> None:
    core = windows_of(2, sends(100), sends(5_000, cpu=5_000), sends(2_000, cpu=2_000))
    by_node = {grant.node: grant for grant in core.grants()}
    assert by_node.keys() == {0}
    assert by_node[0].bound_ns == 2_000
    core.reply(0, Promise(2_000, 2_500, [NEVER] * 3), [], [])
    (grant,) = core.grants()
    assert (grant.node, grant.horizon_ns) == (2, 2_501)


def test_detach_is_answered_within_the_instant() -> None:
    core = windows_of(2, sends(2_000), sends(5_000), sends(2_000, cpu=2_000))
    (grant,) = core.grants()
    assert grant.node == 2
    core.reply(2, Promise(2_000, NEVER), [(2_000, 2, 1, 0, messages.DETACH, ([1],))], [])
    (grant,) = core.grants()
    assert (grant.node, grant.bound_ns) == (0, 2_001)
    assert core.grants() == []
    detached = (2_000, 0, 1, 2, messages.DETACHED, ([1], [[7, ""]], 0))
    core.reply(0, Promise(2_000, 2_000), [detached], [])
    (grant,) = core.grants()
    assert (grant.node, grant.messages) == (2, [detached])
    assert core.ledger.owner == {7: 2}


def test_a_live_command_is_stamped_after_every_grant_given() -> None:
    core = windows_of(2, sends(100, cpu=5_000), sends(200, cpu=9_000), Promise())
    core.grants()
    assert core.stamp_ns() == 9_000 + LATENCIES.cpu_ns + 1


def test_nobody_can_move_is_a_bug_and_tells_the_story() -> None:
    core = windows_of(1, sends(100), Promise())
    core.grants()
    core.reply(0, Promise(100, 100, [NEVER] * 3, wants_view=True), [], [])
    core._outlook.low[1] = -LATENCIES.coherence_ns  # the balancer lies
    with pytest.raises(StuckError, match=r"node 0: reached 100 next 100"):
        core.at_rest()


def test_lookahead_goes_the_shortest_way() -> None:
    look = Lookahead(LATENCIES)
    assert look.reply[TO_CPU][TO_BALANCER] == LATENCIES.from_balancer_ns == 0
    assert look.reply[TO_CPU][TO_CPU] == LATENCIES.cpu_ns
    assert look.reply[TO_DEVICE][TO_CPU] == LATENCIES.device_ns
    assert look.onward[TO_DEVICE][TO_CPU][TO_DEVICE] == LATENCIES.cpu_ns + LATENCIES.device_ns
