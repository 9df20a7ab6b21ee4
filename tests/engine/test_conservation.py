"""The books of tasks in flight refuse what cannot be, at once."""

import pytest

from emulator import messages
from emulator.engine.conservation import ConservationError, Ledger, audit_books, pids_owned
from emulator.types import Message


def attach(seq: int, source: int, target: int, *pids: int) -> Message:
    return (100 + seq, source, seq, target, messages.ATTACH, ([[pid, ""] for pid in pids], 0, 0))


def test_a_task_travels_and_is_found_at_its_target() -> None:
    ledger = Ledger()
    message = attach(1, 8, 2, 41, 42)
    ledger.sent(message)
    assert set(ledger.flights) == {41, 42}
    ledger.handed_over(message)
    assert ledger.owner == {41: 2, 42: 2}
    assert ledger.audit({1: [40], 2: [41, 42]}, 500) == []


def test_a_task_in_two_messages_is_refused() -> None:
    ledger = Ledger()
    ledger.sent(attach(1, 8, 2, 41))
    with pytest.raises(ConservationError, match="sent twice by node 8: task 41"):
        ledger.sent(attach(2, 8, 3, 41))


def test_a_task_sent_by_who_does_not_own_it_is_refused_with_its_story() -> None:
    ledger = Ledger()
    message = attach(1, 8, 2, 41)
    ledger.sent(message)
    ledger.handed_over(message)
    with pytest.raises(ConservationError, match=r"not its owner.*8->2 at 101"):
        ledger.sent(attach(2, 3, 4, 41))


def test_a_message_handed_over_twice_is_refused() -> None:
    ledger = Ledger()
    message = attach(1, 8, 2, 41)
    ledger.sent(message)
    ledger.handed_over(message)
    with pytest.raises(ConservationError, match="from nowhere"):
        ledger.handed_over(message)


def test_the_audit_names_what_is_lost_and_what_is_double() -> None:
    ledger = Ledger()
    message = attach(1, 8, 2, 41)
    ledger.sent(message)
    ledger.handed_over(message)
    problems = ledger.audit({1: [40], 3: [40]}, 500)
    assert problems[0] == "task 40 is on node 1 and on node 3"
    assert problems[1].startswith("task 41 should be on node 2, is on None")
    ledger.sent(attach(2, 2, 3, 41))
    assert ledger.audit({3: [41]}, 500) == ["task 41 is in a message and on a node"]


def test_a_task_in_an_inbox_at_the_end_is_on_no_node_yet() -> None:
    ledger = Ledger()
    message = attach(1, 8, 2, 41)
    ledger.sent(message)
    ledger.handed_over(message)
    assert ledger.audit({2: []}, message[0]) == []
    assert len(ledger.audit({2: []}, message[0] + 1)) == 1
    assert len(ledger.audit({2: [41]}, message[0])) == 1


def test_tasks_that_a_dead_cpu_leaves_travel_like_all_others() -> None:
    ledger = Ledger()
    first = attach(1, 8, 2, 41)
    ledger.sent(first)
    ledger.handed_over(first)
    handed_over: Message = (200, 2, 5, 3, messages.ADOPT, ([[41, ""]], []))
    ledger.sent(handed_over)
    assert set(ledger.flights) == {41}
    ledger.handed_over(handed_over)
    assert ledger.owner == {41: 3}


def test_exited_tasks_still_count_where_they_ended() -> None:
    assert pids_owned({0: {"tasks": [1], "exited": [2]}, 1: {}}) == {0: [1, 2], 1: []}


# -- All that the nodes hold ------------------------------------------------------------------------

CPU = {
    "tasks": [41],
    "waited_for": [[41, 1], [41, 2]],
    "carried": [[41, 1]],
    "requests": [5, 3, 1],
    "tags": [10],
    "allocated": [2],
    "tag_sleepers": [43],
    "tag_waiters": [],
    "works": [7, 6, 1],
}
OTHER = {"arriving": [42], "carried": [[41, 2]], "requests": [0, 0, 1], "tags": [4]}
OTHER |= {"allocated": [-2], "tag_waiters": [43]}
DISK = {"tags": 20, "free_tags": 6}


def test_books_that_add_up() -> None:
    assert audit_books({0: CPU, 1: OTHER, 2: {"balance": {}}, 3: DISK}) == []
    assert audit_books({0: {}, 1: {}}) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"arriving": [41, 42]}, "task 41 is on nodes [0, 1]"),
        ({"carried": []}, "IO (41, 2) is lost: its task waits for it"),
        ({"carried": [[41, 2], [41, 2]]}, "IO (41, 2) would complete twice, or unasked"),
        ({"requests": [1, 0, 1]}, "6 requests were made, 3 freed, and 2 are somewhere"),
        ({"allocated": [0]}, "disk 0: CPUs count 2 requests more than there are"),
        ({"tag_waiters": [41]}, "task 43 sleeps for a tag, and nobody will wake it"),
        ({"tags": [3]}, "disk 0 has 20 tags: 6 are free and 13 leased"),
        (
            {"disk_stats": [[[2, 3], [1, 3]]]},
            "disk statistics have 1 requests in flight, 2 are somewhere",
        ),
        ({"works": [3, 0, 2]}, "10 work items were queued, 6 have ended, and 3 are somewhere"),
        ({"credits": [[41, 2]]}, "the AIO context of task 41 lacks 2 credits"),
    ],
)
def test_books_that_do_not(change: dict[str, object], problem: str) -> None:
    assert audit_books({0: CPU, 1: {**OTHER, **change}, 3: DISK}) == [problem]
