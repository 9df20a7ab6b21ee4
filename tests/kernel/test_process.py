"""Tasks in messages: as they are within one process, as plain data between processes."""

from __future__ import annotations

import pytest

from emulator import wire
from emulator.kernel import frames
from emulator.kernel.process import (
    Kioctx,
    TaskRun,
    pack_ring,
    plain,
    unpack_ring,
    unpack_task,
)
from emulator.kernel.request import Request
from emulator.kernel.sched import Task
from emulator.workload import unpack_program
from emulator.workload.fio import FioProgram
from emulator.workload.fio_params import resolve_job
from tests.workload.fake_kernel import costs


def travelled(p: Task) -> Task:
    """Return a task as its target rebuilds it."""
    twin = unpack_task(wire.unpack(wire.pack(p)), unpack_program)
    if twin.run.program is not None:
        twin.run.program.measure_in(None)
    return twin


def submitter() -> Task:
    """Return a task in the middle of everything, every field of it different from a new one's."""
    p = Task(288, "fio", nice=-5)
    p.vruntime, p.cpu, p.moves, p.state = 1 << 61, 3, 17, 2
    p.avg.load_sum, p.avg.util_est_ewma = 47_742, 512
    program = FioProgram(
        resolve_job({"rw": "randwrite", "size": 1 << 20, "iodepth": 8}, costs(), 1)
    )
    program.next(100, None)
    program.next(200, 0)
    p.run = TaskRun(program, frames.GETEVENTS)
    p.run.left, p.run.arg, p.run.wait, p.run.wait_arg, p.run.wait_since = 5, [1, 8], 1, 1, 99
    p.run.cause, p.run.iocb_seq, p.run.refill_ns, p.run.remote_ios = 1 << 41, 12, 700, 1
    p.run.dio_count = {0: 2}
    p.run.iocbs = {11: [1, 4, 4096, 1, 0], 12: [2, 5, 4096, 1, 0]}
    p.run.submit = [[(5, 1, 0, 8192, 4096)], 0, 0]
    p.run.plug = [Request()]
    p.run.ctx = Kioctx(128, 4)
    for data in (1, 2, 3):
        assert p.run.ctx.get_reqs_available(3)
        p.run.ctx.complete(3, data, 4096)
    return p


def test_a_task_that_was_packed_is_the_same_task() -> None:
    p = submitter()
    twin = travelled(p)
    assert wire.pack(twin) == wire.pack(p)
    assert twin.run.ctx.ring == [(1, 4096), (2, 4096), (3, 4096)]
    assert twin.run.program.next(300, 1) == p.run.program.next(300, 1)


def test_a_task_without_program_or_context_travels_too() -> None:
    p = Task(12, "migration/0")
    p.run = TaskRun(None, frames.STOPPER)
    assert travelled(p).run.program is None
    assert wire.pack(travelled(p)) == wire.pack(p)


def test_within_a_process_the_task_itself_travels() -> None:
    p = submitter()
    assert unpack_task(p, unpack_program) is p


def test_what_was_measured_stays_behind() -> None:
    p = submitter()
    program = p.run.program
    assert program.books()["submitted"] == 0
    program.next(300, 1)
    assert program.books()["submitted"] == 1
    assert travelled(p).run.program.books()["submitted"] == 0


def test_plain_packs_the_tasks_of_a_message_wherever_they_are() -> None:
    p = submitter()
    assert plain((288, p, [[288, p]], "why")) == [288, p.pack(), [[288, p.pack()]], "why"]


@pytest.mark.parametrize(
    "ring", [[], [(7, 512)], [(7, 512), (1 << 40, 512)], [(1, 512), (2, -5), (3, 512)]]
)
def test_a_ring_is_unpacked_as_it_was(ring: list[tuple[int, int]]) -> None:
    assert unpack_ring(wire.unpack(wire.pack(pack_ring(ring)))) == ring


def test_a_ring_of_equal_results_states_the_result_once() -> None:
    assert len(wire.pack(pack_ring([(data, 4096) for data in range(127)]))) < 140
