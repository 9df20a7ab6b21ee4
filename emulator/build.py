"""From a resolved box to its nodes: what every agent calls in its own process.

Node ids: CPUs are 0 … N-1, the balancer is N, disks follow, and after them the shared-state node, if
the box has use for one.  Imports nothing but the rooms that the
nodes are made of.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from emulator.balance.balancer import Balancer
from emulator.device.disk import Disk
from emulator.engine.board import HistoryBoard
from emulator.engine.node import Node
from emulator.kernel.cpu import Cpu
from emulator.kernel.kthread import FIRST_USER_PID
from emulator.kernel.shared import Shared
from emulator.kernel.wq_table import shared_node
from emulator.messages import COMMAND, COORDINATOR
from emulator.plain import spec_from_plain
from emulator.trace.ring import Ring
from emulator.types import (
    Books,
    BoxSpec,
    Latencies,
    Program,
    TraceSink,
    WorkloadSpec,
)
from emulator.workload import end_program, make_program, unpack_books, unpack_program


class BoxPrograms:
    """The programs of one box: :class:`emulator.kernel.cpu.Programs`."""

    def __init__(self, spec: BoxSpec) -> None:
        self.spec = spec

    def unpack(self, data: list[Any]) -> Program:
        """Rebuild a program from its packed state."""
        return unpack_program(data)

    def unpack_books(self, data: list[Any]) -> Books:
        """Rebuild what a program has measured from its packed state."""
        return unpack_books(data)

    def make(self, workload: int) -> Program:
        """Build the program of a workload."""
        return self._make(self.spec.workloads[workload])

    def make_bound(self, workload: int, cpu: int) -> Program:
        """Build the program of a workload whose task first binds itself to a CPU."""
        one = self.spec.workloads[workload]
        return self._make(replace(one, params=one.params | {"bind_cpu": cpu}))

    def load(self, percent: int, now_ns: int) -> Program:
        """Build the program of ``cpu load``."""
        del now_ns  # its periods are counted from its first step
        return self._make(
            WorkloadSpec("load", "load", {"percent": percent}, 1, 0, 0, 0, -1, figure=False)
        )

    def know(self, spec: BoxSpec) -> None:
        """Take note that the box has more workloads."""
        self.spec = spec

    def ended(self, program: Program) -> Program:
        """Return what a task runs from now on whose program is told to end."""
        return end_program(program)

    def _make(self, workload: WorkloadSpec) -> Program:
        spec = self.spec
        return make_program(workload, spec.costs, spec.seed, spec.machine.hz)


def ring_file(spec: BoxSpec, node_id: int) -> str:
    """Return the file name of a node's ring in the run directory."""
    nr_cpus = spec.machine.nr_cpus
    if node_id < nr_cpus:
        return f"cpu{node_id}.ring"
    if node_id == nr_cpus:
        return "coordinator.ring"
    return f"dev-{spec.disks[node_id - nr_cpus - 1].name}.ring"


def build_node(node_id: int, spec_plain: Any, run_dir: str, board: HistoryBoard) -> Node:
    """Build one node with its ring in the run directory, its start-up commands in its inbox."""
    spec = spec_from_plain(spec_plain)
    if node_id == shared_node(spec):
        return Shared(spec)  # what is done to its objects is recorded by the CPUs that do it
    name = ring_file(spec, node_id)
    # A node that is the successor of one that has run writes on where that one ended.
    open_ring = Ring.reopen if board.muted else Ring
    ring = open_ring(
        Path(run_dir) / name,
        name.removesuffix(".ring"),
        node_id,
        bytes_max=spec.ring_bytes_max,
        trace_off=spec.trace_off,
    )
    return node_of(spec, node_id, board, ring)


def node_of(spec: BoxSpec, node_id: int, board: HistoryBoard, ring: TraceSink) -> Node:
    """Build one node on a given ring."""
    nr_cpus = spec.machine.nr_cpus
    if node_id == nr_cpus:
        return Balancer(spec, board, ring)
    if node_id == shared_node(spec):
        return Shared(spec)
    if node_id > nr_cpus:
        return Disk(spec, node_id - nr_cpus - 1, ring)
    cpu = Cpu(spec, node_id, board, ring, BoxPrograms(spec))
    for index, workload in enumerate(spec.workloads):
        if workload.pinned_to or node_id == workload.home:
            of = [f"of:{workload.pinned_to}"] if workload.pinned_to else []
            for copy in range(workload.count):
                words = ["spawn", index, *of, FIRST_USER_PID + 100 * index + copy]
                cpu.deliver((workload.start_ns, COORDINATOR, index, node_id, COMMAND, (words,)))
    return cpu


def figure_pids(spec: BoxSpec) -> list[int]:
    """Return the pids of the tasks that count as submitters in the figures."""
    return [
        FIRST_USER_PID + 100 * index + copy
        for index, workload in enumerate(spec.workloads)
        if workload.figure
        for copy in range(workload.count)
    ]


def latencies(spec: BoxSpec) -> Latencies:
    """Return the least times between a message's sending and its effect."""
    costs = spec.costs
    return Latencies(
        cpu_ns=min(costs.ttwu_activate_ns, costs.ipi_ns, costs.stopper_tail_ns),
        device_ns=costs.coherence_ns,
        balancer_ns=costs.request_ns,
        coherence_ns=costs.coherence_ns,
    )


__all__ = [
    "BoxPrograms",
    "build_node",
    "figure_pids",
    "latencies",
    "node_of",
    "ring_file",
    "shared_node",
]
