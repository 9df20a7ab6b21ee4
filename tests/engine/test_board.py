"""The board: facts as of an instant, what is forgotten, what a remote reader is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.engine.board import BOOT_NS, HISTORY_SOFT_MAX, HistoryBoard, ViewFeed


def started(nr_nodes: int, *, keep_fresh: bool = False) -> HistoryBoard:
    board = HistoryBoard(nr_nodes, keep_fresh=keep_fresh)
    board.started = True
    return board


def test_read_returns_the_newest_facts_at_or_before_an_instant() -> None:
    board = started(2)
    board.publish(0, 10, (1,))
    board.publish(0, 20, (2,))
    board.publish(0, 20, (3,))
    assert board.read(0, 9) == ()
    assert board.read(0, 10) == board.read(0, 19) == (1,)
    assert board.read(0, 20) == board.read(0, 99) == (3,)
    assert board.read(1, 99) == ()


def test_what_is_published_while_building_holds_since_ever() -> None:
    board = HistoryBoard(1, keep_fresh=True)
    board.publish(0, 0, (7,))
    board.started = True
    assert board.read(0, -120) == (7,)
    assert board.take_fresh() == [(BOOT_NS, (7,))]
    assert board.take_fresh() == []


def test_times_of_one_node_never_fall() -> None:
    board = started(1)
    board.publish(0, 10, (1,))
    with pytest.raises(AssertionError, match="publishes at 9 after 10"):
        board.publish(0, 9, (2,))


def test_a_muted_board_takes_nothing() -> None:
    board = started(1)
    board.muted = True
    board.publish(0, 1, (1,))
    assert board.read(0, 5) == ()


def test_history_is_bounded_by_the_floor_and_reading_the_forgotten_is_a_bug() -> None:
    board = started(1)
    for time_ns in range(10 * HISTORY_SOFT_MAX):
        board.floor_ns = time_ns - 3
        board.publish(0, time_ns, (time_ns,))
    newest = 10 * HISTORY_SOFT_MAX - 1
    assert board.count(0) == newest + 1
    assert board.read(0, newest - 3) == (newest - 3,)
    assert len(board.since(0, 0, BOOT_NS)) <= HISTORY_SOFT_MAX + 1
    with pytest.raises(AssertionError, match="already forgotten"):
        board.read(0, 3)


def test_a_reader_is_told_once_and_not_of_what_was_superseded() -> None:
    board = started(3)
    feed = ViewFeed(board, 3)
    for time_ns in (10, 20, 30):
        board.publish(0, time_ns, (time_ns,))
    board.publish(1, 15, (15,))
    feed.note(0)
    feed.note(1)
    assert sorted(feed.views_for(2, 25)) == [(0, [(20, (20,)), (30, (30,))]), (1, [(15, (15,))])]
    assert feed.views_for(2, 25) == []
    board.publish(1, 40, (40,))
    feed.note(1)
    assert feed.views_for(2, 25) == [(1, [(40, (40,))])]
    assert [publisher for publisher, _ in feed.views_for(1, 25)] == [0]


def test_facts_that_repeat_the_last_ones_are_no_publication() -> None:
    board = HistoryBoard(2, keep_fresh=True)
    board.started = True
    board.publish(0, 10, (1,))
    board.publish(0, 20, (1,))
    board.publish(0, 30, (2,))
    board.publish(0, 40, (1,))
    assert board.take_fresh() == [(10, (1,)), (30, (2,)), (40, (1,))]
    assert [board.read(0, as_of) for as_of in (10, 25, 35, 45)] == [(1,), (1,), (2,), (1,)]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=60), st.data())
def test_a_replica_fed_by_views_reads_like_the_original(
    steps: list[tuple[int, int]], data: st.DataObject
) -> None:
    board, replica = started(3), started(3)
    feed = ViewFeed(board, 3)
    now = need = 0
    for number, (node, gap) in enumerate(steps):
        now += gap
        board.publish(node, now, (number,))
        feed.note(node)
        if data.draw(st.booleans()):
            need = data.draw(st.integers(need, now))
            board.floor_ns = replica.floor_ns = need
            for publisher, publications in feed.views_for(2, need):
                replica.absorb(publisher, publications)
            for publisher in (0, 1):
                for as_of in range(need, now + 2):
                    assert replica.read(publisher, as_of) == board.read(publisher, as_of)
