"""The event loop over AIO: what it asks for, and what it counts."""

from __future__ import annotations

from typing import Any

import pytest

from emulator.types import (
    OP_EVENTFD_READ,
    OP_EXIT,
    OP_IO_GETEVENTS,
    OP_IO_SUBMIT,
    OP_RUN,
    READ,
    WRITE,
)
from emulator.workload.aio_loop import AioLoopProgram
from emulator.workload.params import Setting
from tests.workload.fake_kernel import costs


def loop(**params: Any) -> AioLoopProgram:
    return AioLoopProgram.make({"file": 3} | params, Setting(costs(), 1, 1000))


def test_it_waits_by_its_eventfd_and_submits_as_many_as_it_has_taken() -> None:
    program = loop(iodepth=3, size=4 * 512, bs=512, work_ns=7)
    ios = [(n, WRITE, 3, n * 512, 512) for n in range(3)]
    assert program.next(0, None) == (OP_IO_SUBMIT, ios, True)
    assert program.next(10, 3) == (OP_EVENTFD_READ,)
    assert program.next(20, 1) == (OP_IO_GETEVENTS, 0, 3)
    assert program.next(30, [(0, 512), (2, -5)]) == (OP_RUN, 14)
    again = AioLoopProgram.unpack(program.pack())
    again.measure_in(program.tally)
    # The file is used round and round.
    ios = [(0, WRITE, 3, 3 * 512, 512), (1, WRITE, 3, 0, 512)]
    assert again.next(44, None) == (OP_IO_SUBMIT, ios, True)
    books = again.books()
    assert (books["ios"], books["waits"], books["errors"]) == (2, 1, 1)
    assert books["wait_ns"]["max"] == 30


def test_signalled_for_what_it_has_taken_already_it_waits_again() -> None:
    program = loop(iodepth=1)
    program.next(0, None)
    program.next(0, 1)
    program.next(0, 1)
    assert program.next(0, []) == (OP_EVENTFD_READ,)


def test_without_an_eventfd_it_waits_in_io_getevents() -> None:
    program = loop(iodepth=2, eventfd=0, write=0, bs=512)
    op = program.next(0, None)
    assert op == (OP_IO_SUBMIT, [(n, READ, 3, n * 512, 512) for n in range(2)], False)
    assert program.next(0, 2) == (OP_IO_GETEVENTS, 1, 2)


def test_it_ends_when_all_its_ios_are_taken() -> None:
    program = loop(iodepth=2, ios=3)
    program.next(0, None)
    program.next(0, 2)
    program.next(0, 1)
    program.next(0, [(0, 4096)])
    assert len(program.next(0, None)[1]) == 1
    program.next(0, 1)
    program.next(0, 1)
    program.next(0, [(1, 4096)])
    assert program.next(0, None) == (OP_EVENTFD_READ,)
    program.next(0, 1)
    program.next(0, [(0, 4096)])
    assert program.next(0, None) == (OP_EXIT,)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="aio_loop needs"):
        loop(bs=100)
