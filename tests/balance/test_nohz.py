"""Nohz state: spec D.4; who kicks is in tests/kernel/test_tick.py."""

from __future__ import annotations

from emulator.balance.nohz import Nohz
from emulator.balance.rqview import RqView
from tests.balance.fakes import FakeBoard, rq_facts


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
    assert (nohz.has_blocked, nohz.next_blocked) == (0, 18)  # there was nothing left
    nohz.has_blocked = 1
    nohz.newidle_stats(0, 17, view_of({1: rq_facts(0, 0, 500)}))
    assert (nohz.has_blocked, nohz.next_blocked) == (1, 18)  # not due yet
    nohz.newidle_stats(0, 20, view_of({1: rq_facts(0, 0, 500)}))
    assert (nohz.has_blocked, nohz.next_blocked) == (1, 28)
