"""A box of toy nodes with real rings: what the tests of the command line and the session run.

CPU 0 completes an IO of task 100 every 100 us; every millisecond the task moves to the other CPU
and back, in the records only.  ``cpu fail N`` makes a node fail; every other command is answered.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from emulator import tracepoints as tp
from emulator.config import Box, Expectation
from emulator.engine.board import HistoryBoard
from emulator.engine.plan import CommandError
from emulator.engines import Parts
from emulator.messages import COMMAND_DONE
from emulator.nodebase import NodeBase
from emulator.plain import spec_from_plain
from emulator.trace.ring import Ring
from emulator.types import (
    COORDINATOR,
    NEVER,
    NSEC_PER_MSEC,
    NSEC_PER_USEC,
    BoxEvent,
    BoxSpec,
    Costs,
    KernelSpec,
    Latencies,
    MachineSpec,
    Message,
    WorkloadSpec,
)

PARTS = Parts("tests.toybox:build_node", "tests.toybox:route", "tests.toybox:latencies")
IO_NS = 100 * NSEC_PER_USEC
FIO = 100


class ToyCpu(NodeBase):
    """A CPU that only writes records; CPU 0 alone has any to write."""

    __slots__ = ("_next_ns", "_ring")

    def __init__(self, node_id: int, nr_cpus: int, ring: Ring | None) -> None:
        super().__init__(node_id, nr_cpus)
        self._ring = ring
        self._next_ns = IO_NS if node_id == 0 else NEVER
        if ring is not None:
            ring.comm(FIO, "fio")

    def own_next_ns(self) -> int:
        """Return the time of the next IO."""
        return self._next_ns

    def fire(self, now_ns: int) -> None:
        """Complete an IO, and move the task now and then."""
        self._next_ns = now_ns + IO_NS
        assert self._ring is not None
        self._ring.emit(now_ns, tp.BOX_AIO_COMPLETE, 0, FIO, 0, FIO, now_ns, 4096, 0)
        if now_ns % NSEC_PER_MSEC == 0:
            why = tp.MIGRATE_WAKEUP
            self._ring.emit(now_ns, tp.SCHED_MIGRATE_TASK, 0, FIO, 0, FIO, 120, 0, 1, why)

    def handle(self, message: Message) -> None:
        """Answer a command."""
        words = list(message[5][0])
        if words[1] == "fail":
            raise RuntimeError(f"CPU {self.node_id} was told to fail")
        self.send(COORDINATOR, COMMAND_DONE, (words, "as you say"), self.clock_ns)

    def books(self) -> dict[str, Any]:
        """Return books without tasks."""
        return {"tasks": []}

    def snapshot(self) -> list[Any]:
        """Return what changes."""
        return [self._next_ns]


def build_node(node_id: int, spec_plain: Any, run_dir: str, board: HistoryBoard) -> ToyCpu:
    """Build a node of the toy box; the balancer does nothing and has no ring."""
    nr_cpus = spec_from_plain(spec_plain).machine.nr_cpus
    board.publish(node_id, 0, (0,))
    if node_id >= nr_cpus:
        return ToyCpu(node_id, nr_cpus, None)
    ring = Ring(Path(run_dir) / f"cpu{node_id}.ring", f"cpu{node_id}", node_id)
    return ToyCpu(node_id, nr_cpus, ring)


def route(words: list[str], _spec_plain: Any) -> list[int]:
    """Return the CPU that a command names; refuse what is not about a CPU."""
    if words[0] != "cpu":
        raise CommandError(f"{words[0]!r} is not a command")
    return [int(words[2])]


def latencies(_spec: BoxSpec) -> Latencies:
    """Return any latencies."""
    return Latencies(1000, 1000, 1000, 100)


def toy_box(
    duration_ms: int = 20,
    events: tuple[BoxEvent, ...] = (),
    expect: tuple[Expectation, ...] = (),
    *,
    take_turns: bool = False,
) -> Box:
    """Return a box of two toy CPUs."""
    values: dict[str, Any] = {one.name: 1 for one in fields(Costs)}
    costs = Costs(**{**values, "verify_ps_per_byte": {}})
    both = (3, 3)
    machine = MachineSpec(2, 1000, (1, 2), both, both, both, take_turns=take_turns)
    workload = WorkloadSpec("fio", "fio", {}, 1, 0, 3, 0, -1, True)
    spec = BoxSpec(
        name="toy",
        seed=1,
        duration_ns=duration_ms * NSEC_PER_MSEC,
        warmup_ns=0,
        machine=machine,
        kernel=KernelSpec("5.4", {"WA_IDLE": True}, {"kernel.sched_nr_migrate": 32}),
        costs=costs,
        disks=(),
        filesystems=(),
        workloads=(workload,),
        events=events,
    )
    return Box(spec, "toy.yaml", "two CPUs that do next to nothing", None, expect)
