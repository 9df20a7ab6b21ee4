"""Ageing of blocked averages: the spec's worked examples."""

from __future__ import annotations

import pytest

from emulator.balance.pelt import age_blocked, decay_load, has_blocked
from emulator.types import RQ_LAST_UPDATE_TIME, RQ_LOAD_AVG, RQ_UTIL_AVG
from tests.balance.fakes import rq_facts


@pytest.mark.parametrize(
    ("value", "periods", "left"),
    [
        (47742, 1, 46718),
        (47742, 32, 23870),
        (1024, 1, 1002),
        (1000000, 33, 489286),
        (1024, 10, 824),
    ],
)
def test_example_B_7_1_decay(value: int, periods: int, left: int) -> None:
    assert decay_load(value, periods) == left
    assert decay_load(value, 2017) == 0


@pytest.mark.parametrize(
    ("ms", "util"),
    [(4, 943), (8, 868), (10, 833), (16, 736), (32, 528), (64, 273), (100, 129), (345, 0)],
)
def test_example_B_7_4_blocked_utilisation(ms: int, util: int) -> None:
    facts = list(rq_facts(0, 0, 1024))
    # The example starts from a full sum: the last period is complete.
    facts[10] = 1024 * 47742
    facts[11] = 1023
    aged = age_blocked(tuple(facts), ms * 1_000_000)
    assert abs(aged[RQ_UTIL_AVG] - util) <= 1


def test_a_queue_with_tasks_is_not_aged() -> None:
    facts = rq_facts(1, 1024, 1000)
    assert age_blocked(facts, 10**9) is facts


def test_ageing_twice_is_ageing_once() -> None:
    facts = rq_facts(0, 500, 700)
    twice = age_blocked(age_blocked(facts, 3 << 20), 40 << 20)
    once = age_blocked(facts, 40 << 20)
    assert abs(twice[RQ_UTIL_AVG] - once[RQ_UTIL_AVG]) <= 1
    assert twice[RQ_LAST_UPDATE_TIME] == once[RQ_LAST_UPDATE_TIME]


def test_nothing_is_left_in_the_end() -> None:
    aged = age_blocked(rq_facts(0, 500, 700), 10**12)
    assert not has_blocked(aged)
    assert aged[RQ_LOAD_AVG] == 0
    assert age_blocked(aged, 10**13) is aged
