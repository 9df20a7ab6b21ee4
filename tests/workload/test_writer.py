"""The writer: in which order it writes, when, and what it measures."""

from __future__ import annotations

from typing import Any

import pytest

from emulator.types import (
    NSEC_PER_SEC,
    OP_EXIT,
    OP_FSYNC,
    OP_RUN,
    OP_SETAFFINITY,
    OP_SLEEP,
    OP_WRITE,
    Op,
)
from tests.workload.test_programs import make

FILE = 3


def calls(now_ns: int = 1_000, step_ns: int = 10, **params: Any) -> list[tuple[int, Op]]:
    """Run a writer to its end, each operation taking ``step_ns``: (time of the call, operation)."""
    writer = make("writer", file=FILE, **params)
    made: list[tuple[int, Op]] = []
    result = 0
    for _ in range(1_000):
        op = writer.next(now_ns, result)
        made.append((now_ns, op))
        if op[0] == OP_EXIT:
            return made
        now_ns = max(now_ns, op[1]) if op[0] == OP_SLEEP else now_ns + step_ns
        result = op[3] if op[0] == OP_WRITE else 0
    raise AssertionError("the writer does not end")


def test_blocks_in_order_pass_after_pass() -> None:
    made = calls(size=10_000, bs=4096, passes=2)
    one_pass = [(OP_WRITE, FILE, 0, 4096), (OP_WRITE, FILE, 4096, 4096)]
    assert [op for _at, op in made] == [*one_pass, *one_pass, (OP_EXIT,)]


def test_random_order_is_another_in_each_pass_and_leaves_no_block_out() -> None:
    made = calls(size=64 * 512, bs=512, passes=2, random=1)
    offsets = [op[2] for _at, op in made[:-1]]
    first, second = offsets[:64], offsets[64:]
    assert sorted(first) == sorted(second) == list(range(0, 64 * 512, 512))
    assert first != second
    assert first != sorted(first)


def test_a_rate_says_when_each_write_is_due_whatever_the_last_one_took() -> None:
    made = calls(size=4 * 4096, bs=4096, passes=1, rate=4096 * 1_000, step_ns=400_000)
    due = [op[1] for _at, op in made if op[0] == OP_SLEEP]
    assert due == [1_000 + n * NSEC_PER_SEC // 1_000 for n in range(4)]
    assert [at for at, op in made if op[0] == OP_WRITE] == due


def test_cpu_time_before_each_write_and_an_fsync_after_every_so_many() -> None:
    made = calls(size=4 * 512, bs=512, passes=1, cpu_ns=70, fsync_every=2, bind_cpu=0)
    kinds = [op[0] for _at, op in made]
    pair = [OP_RUN, OP_WRITE, OP_RUN, OP_WRITE, OP_FSYNC]
    assert kinds == [OP_SETAFFINITY, *pair, *pair, OP_EXIT]
    assert made[5][1] == (OP_FSYNC, FILE, 0)


def test_an_fsync_that_fails_is_counted() -> None:
    writer = make("writer", file=FILE, size=4096, bs=4096, fsync_every=1)
    results = [0, 4096, -5, 4096, 0]
    kinds = [writer.next(100 * n, result)[0] for n, result in enumerate(results)]
    assert kinds == [OP_WRITE, OP_FSYNC, OP_WRITE, OP_FSYNC, OP_WRITE]
    assert writer.books()["errors"] == 1


def test_only_what_ends_after_the_warmup_counts() -> None:
    writer = make("writer", file=FILE, size=4096, bs=4096, stats_from_ns=200)
    for now_ns in (100, 150, 250, 350):
        assert writer.next(now_ns, 0)[0] == OP_WRITE
    books = writer.books()
    assert books["bytes"] == 2 * 4096
    assert (books["write_ns"]["n"], books["write_ns"]["max"]) == (2, 100)


@pytest.mark.parametrize(
    "params", [{"size": 511, "bs": 512}, {"bs": 0}, {"layout": "sparse"}], ids=str
)
def test_what_no_writer_can_do_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs|one of"):
        make("writer", **params)
