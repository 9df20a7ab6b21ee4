"""The programs that tasks run.  Sans I/O: no clock, no randomness but an explicit seeded state.

Theory of operation
-------------------
A program is a state machine that yields operations (:class:`emulator.types.Program`).  A new one is
a new file and one line in :data:`PROGRAMS`, with its parameters in :data:`PARAMS`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from emulator.types import Books, Costs, Program, WorkloadSpec
from emulator.workload.aio_loop import AIO_LOOP_PARAMS, AioLoopProgram
from emulator.workload.dbench import DBENCH_PARAMS, DbenchProgram
from emulator.workload.ended import EndedProgram
from emulator.workload.execs import EXECS_PARAMS, ExecsProgram
from emulator.workload.fio import FioProgram
from emulator.workload.fio_books import FIO, FioBooks
from emulator.workload.fio_main import FIO_MAIN_PARAMS, FioMainProgram
from emulator.workload.fio_params import FIO_PARAMS
from emulator.workload.flusher import FLUSHER_PARAMS, FlusherProgram
from emulator.workload.hog import HOG_PARAMS, HogProgram
from emulator.workload.load import LOAD_PARAMS, LoadProgram
from emulator.workload.loop import (
    FANOUT_PARAMS,
    LOOP_PARAMS,
    PINGPONG_PARAMS,
    TEAMS,
    XWAKE_PARAMS,
    LoopProgram,
    Member,
)
from emulator.workload.params import Setting
from emulator.workload.periodic import PERIODIC_PARAMS, PeriodicProgram
from emulator.workload.rcu_gp import RCU_GP_PARAMS, RcuGpProgram
from emulator.workload.rtapp import RTAPP_PARAMS, RtappProgram
from emulator.workload.tally import Tally
from emulator.workload.works import WORKS_PARAMS, WorksProgram
from emulator.workload.writer import WRITER_PARAMS, WriterProgram


class BookedProgram(Program, Protocol):
    """A program that says what it has measured; every program of this room does."""

    def books(self) -> dict[str, Any]:
        """Return what the program has measured here, for the results."""
        ...


class MergeableBooks(Books, Protocol):
    """The books of every program of this room: parts kept on several CPUs make one whole."""

    def merge(self, other: Any, /) -> None:
        """Count what other books of the same program have counted too."""
        ...

    def books(self) -> dict[str, Any]:
        """Return what was measured, for the results."""
        ...


class ProgramClass(Protocol):
    """How programs are built: from a box file, and from their packed state."""

    def make(self, params: dict[str, Any], setting: Setting, /) -> BookedProgram:
        """Build a program from its resolved parameters; ValueError says which one is wrong."""
        ...

    def unpack(self, data: list[Any]) -> BookedProgram:
        """Rebuild a program from what its ``pack()`` returned."""
        ...


PROGRAMS: dict[str, ProgramClass] = {
    "aio_loop": AioLoopProgram,
    "dbench": DbenchProgram,
    "execs": ExecsProgram,
    "fio": FioProgram,
    "fio_main": FioMainProgram,
    "flusher": FlusherProgram,
    "hog": HogProgram,
    "load": LoadProgram,
    "loop": LoopProgram,
    "periodic": PeriodicProgram,
    "rcu_gp": RcuGpProgram,
    "works": WorksProgram,
    "rtapp": RtappProgram,
    "writer": WriterProgram,
}

#: Per program (and per team of them), its parameters and their defaults; None: must be given.
PARAMS: dict[str, dict[str, Any]] = {
    "aio_loop": AIO_LOOP_PARAMS,
    "dbench": DBENCH_PARAMS,
    "execs": EXECS_PARAMS,
    "fio": FIO_PARAMS,
    "fio_main": FIO_MAIN_PARAMS,
    "flusher": FLUSHER_PARAMS,
    "hog": HOG_PARAMS,
    "load": LOAD_PARAMS,
    "loop": LOOP_PARAMS,
    "pingpong": PINGPONG_PARAMS,
    "xwake": XWAKE_PARAMS,
    "fanout": FANOUT_PARAMS,
    "periodic": PERIODIC_PARAMS,
    "rcu_gp": RCU_GP_PARAMS,
    "works": WORKS_PARAMS,
    "rtapp": RTAPP_PARAMS,
    "writer": WRITER_PARAMS,
}


def make_program(spec: WorkloadSpec, costs: Costs, seed: int, hz: int) -> BookedProgram:
    """Build the program of one task; ``seed`` should be of that task, ValueError names what is odd."""
    if spec.program not in PROGRAMS:
        raise ValueError(f"no program {spec.program!r}; there are {', '.join(PROGRAMS)}")
    return PROGRAMS[spec.program].make(spec.params, Setting(costs, seed, hz))


def unpack_program(data: list[Any]) -> BookedProgram:
    """Rebuild a program from what its ``pack()`` returned; its name comes first."""
    if data[0] == EndedProgram.name:
        return EndedProgram(unpack_program(data[1]))
    return PROGRAMS[data[0]].unpack(data)


def end_program(program: Any) -> Program:
    """Return the program that a task goes on with when it is told to end."""
    if isinstance(program, FioProgram):
        program.end()
        return program
    return program if isinstance(program, EndedProgram) else EndedProgram(program)


def unpack_books(data: list[Any]) -> MergeableBooks:
    """Rebuild books from what their ``pack()`` returned; the program's name comes first."""
    return FioBooks.unpack(data) if data[0] == FIO else Tally.unpack(data)


def merge_books(parts: Iterable[list[Any]]) -> dict[str, Any]:
    """Return the results of a program of which each CPU has packed its books, in any order."""
    whole, *others = (unpack_books(part) for part in parts)
    for other in others:
        whole.merge(other)
    return whole.books()


__all__ = [
    "PARAMS",
    "PROGRAMS",
    "TEAMS",
    "BookedProgram",
    "Member",
    "end_program",
    "make_program",
    "merge_books",
    "unpack_books",
    "unpack_program",
]
