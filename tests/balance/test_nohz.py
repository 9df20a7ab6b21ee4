"""Nohz state and the kick: spec D.4."""

from __future__ import annotations

import pytest

from emulator.balance.nohz import Nohz, find_new_ilb, nohz_balancer_kick
from emulator.balance.rqview import RqView
from emulator.types import NOHZ_BALANCE_KICK, NOHZ_STATS_KICK
from tests.balance.fakes import FakeBoard, rq_facts

FULL = NOHZ_BALANCE_KICK | NOHZ_STATS_KICK


@pytest.mark.parametrize(
    ("nohz", "jiffies", "nr_running", "busy", "flags"),
    [
        ((0, 0, 1, 0), 100, 2, 2, 0),  # no idle CPU
        ((2, 0, 0, 0), 100, 2, 1, FULL),
        ((2, 100, 0, 0), 100, 2, 1, FULL),
        ((2, 101, 0, 0), 100, 2, 1, 0),  # not due
        ((2, 101, 1, 99), 100, 2, 1, NOHZ_STATS_KICK),
        ((2, 101, 1, 100), 100, 2, 1, 0),
        ((2, 0, 0, 0), 100, 1, 1, 0),  # one task, nobody else busy in the LLC
        ((2, 0, 0, 0), 100, 1, 2, FULL),
        ((2, 0, 1, 0), 100, 1, 1, NOHZ_STATS_KICK),
    ],
)
def test_D_4_kick_conditions(
    nohz: tuple[int, int, int, int], jiffies: int, nr_running: int, busy: int, flags: int
) -> None:
    assert nohz_balancer_kick(nohz, jiffies, nr_running, busy) == flags


def test_D_4_reduced_capacity_kicks() -> None:
    assert nohz_balancer_kick((2, 0, 0, 0), 1, 1, 1, reduced=True) == FULL


def test_D_4_the_ilb_is_the_first_idle_cpu_of_the_mask() -> None:
    assert find_new_ilb(0b11010, lambda cpu: cpu >= 3) == 3
    assert find_new_ilb(0b00010, lambda cpu: cpu > 1) == -1
    assert find_new_ilb(0, lambda cpu: cpu >= 0) == -1


def view_of(facts: dict[int, tuple[int, ...]]) -> RqView:
    board = FakeBoard(4)
    board.facts |= facts
    view = RqView(board, 4, util_est=True)
    view.seen_at(1000)
    return view


def test_enter_exit_and_kick() -> None:
    nohz = Nohz(1000)
    nohz.nohz_balance_enter_idle(2)
    assert (nohz.idle_cpus_mask, nohz.has_blocked) == (4, 1)
    nohz.next_balance = 50
    nohz.kick_ilb()
    assert nohz.next_balance == 51
    nohz.nohz_balance_exit_idle(2)
    assert nohz.idle_cpus_mask == 0
    other = Nohz(1000)
    other.unpack(nohz.pack())
    assert other.pack() == nohz.pack()


def test_blocked_load_is_left_until_it_has_decayed() -> None:
    nohz = Nohz(1000)
    nohz.nohz_balance_enter_idle(1)
    assert nohz.update_nohz_stats(1, view_of({1: rq_facts(0, 0, 500)}))
    assert not nohz.update_nohz_stats(2, view_of({2: rq_facts(0, 0, 500)}))  # not a member
    assert not nohz.update_nohz_stats(1, view_of({}))
    assert not nohz.update_nohz_stats(1, view_of({1: rq_facts(0, 0, 500)}))  # until it enters again


def test_newidle_passes_put_the_stats_kick_off() -> None:
    nohz = Nohz(250)
    nohz.nohz_balance_enter_idle(1)
    blocked = view_of({1: rq_facts(0, 0, 500)})
    nohz.newidle_aged(0b1100, 10, blocked)
    assert nohz.next_blocked == 0
    nohz.newidle_aged(0b1111, 10, blocked)
    assert nohz.next_blocked == 18  # 32 ms at HZ 250


def test_newidle_stats_age_everybody_but_the_asker() -> None:
    nohz = Nohz(250)
    nohz.nohz_balance_enter_idle(1)
    nohz.nohz_balance_enter_idle(2)
    nohz.newidle_stats(1, 10, view_of({1: rq_facts(0, 0, 500)}))
    assert (nohz.has_blocked, nohz.next_blocked) == (0, 18)
    nohz.newidle_stats(0, 20, view_of({1: rq_facts(0, 0, 500)}))
    assert (nohz.has_blocked, nohz.next_blocked) == (1, 28)
