"""The ends of buffered writes."""

from __future__ import annotations

from emulator.kernel.request import IOEND_APPEND, IOEND_UNWRITTEN
from emulator.kernel.xfs_aops import merge_ioends


def test_E_5_4_three_ioends_that_wait_are_one_transaction() -> None:
    waiting = [[IOEND_UNWRITTEN, 0, 1, 0], [IOEND_UNWRITTEN, 2, 1, 0], [IOEND_UNWRITTEN, 1, 1, 0]]
    assert merge_ioends(waiting) == [[IOEND_UNWRITTEN, 0, 3, 0]]


def test_neighbours_of_another_kind_and_gaps_stay_apart() -> None:
    waiting = [[IOEND_APPEND, 4, 4, 0], [IOEND_UNWRITTEN, 0, 4, 0], [IOEND_APPEND, 9, 1, 0]]
    assert merge_ioends(waiting) == [
        [IOEND_UNWRITTEN, 0, 4, 0],
        [IOEND_APPEND, 4, 4, 0],
        [IOEND_APPEND, 9, 1, 0],
    ]


def test_what_failed_is_not_merged_with_what_did_not() -> None:
    waiting = [[IOEND_APPEND, 4, 4, 0], [IOEND_APPEND, 0, 4, 1], [IOEND_APPEND, 8, 1, 0]]
    assert merge_ioends(waiting) == [[IOEND_APPEND, 0, 4, 1], [IOEND_APPEND, 4, 5, 0]]
