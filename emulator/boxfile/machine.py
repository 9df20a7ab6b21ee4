"""The machine of a box: QEMU's ``-smp`` words, cache groups and NUMA nodes as masks per CPU.

CPUs are numbered as QEMU numbers them on x86: threads of a core are neighbours, then the cores of
a die, then the dies of a socket.  Groups must nest as the kernel's sched domains do: a core within
one last-level cache, a cache within one die, a cache within one node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.boxfile.problems import Path, Report
from emulator.types import MachineSpec, cpulist_format
from emulator.workload.random import seed_stream, splitmix64

if TYPE_CHECKING:
    from emulator.boxfile.schema import Machine, Smp

#: Name of the stream of random numbers for what the boot left behind on each CPU.
BOOT_STREAM = 2
#: Longer than any balance interval, in jiffies.
BALANCED_AGO_MAX = 1 << 16


def balanced_ago(seed: int, cpus: int) -> tuple[int, ...]:
    """Return, per CPU, how many jiffies before the start its domains were last balanced.

    In a real boot that is chance, as the start of each program is; here the seed decides it.
    """
    draws = (splitmix64(seed_stream(seed, BOOT_STREAM, cpu)) for cpu in range(cpus))
    return tuple(bits % BALANCED_AGO_MAX for _state, bits in draws)


def resolve_machine(machine: Machine, report: Report) -> MachineSpec | None:
    """Return the machine with every group as one mask per CPU, or None if it cannot be."""
    before = len(report.problems)
    cpus = machine.cpus
    threads, cores = _smp(machine.smp, cpus, report)
    if len(report.problems) > before:
        return None
    core = _blocks(cpus, threads)
    die = _blocks(cpus, threads * cores)
    llc = _groups(machine.llc, cpus, ("machine", "llc"), report) or die
    if machine.llc == []:
        llc = (0,) * cpus
    everybody = (1 << cpus) - 1
    cluster = _groups(machine.clusters, cpus, ("machine", "clusters"), report) or ()
    node = _groups(machine.nodes, cpus, ("machine", "nodes"), report) or (everybody,) * cpus
    distance = _distance(machine, len(set(node)), report)
    if len(report.problems) == before and any(llc):
        _nested(core, llc, "the threads of one core", ("machine", "llc"), report)
        if cluster:
            _nested(core, cluster, "the threads of one core", ("machine", "clusters"), report)
            _nested(cluster, llc, "one cluster", ("machine", "clusters"), report)
        _nested(llc, die, "one last-level cache", ("machine", "llc"), report)
        _nested(llc, node, "one last-level cache", ("machine", "nodes"), report)
    if cluster and not any(llc):
        report.at(("machine", "clusters"), "a cluster lies within a last-level cache, none is here")
    if machine.idle == "poll" and machine.take_turns:
        report.at(("machine", "idle"), "a polling CPU would never give the host to the others")
    _host_cpus(machine, report)
    if machine.turn and not machine.take_turns:
        report.at(("machine", "turn"), "needs take_turns")
    if len(report.problems) > before:
        return None
    return MachineSpec(
        nr_cpus=cpus,
        hz=machine.hz,
        core=core,
        llc=llc,
        die=die,
        node=node,
        node_distance=distance,
        take_turns=machine.take_turns,
        idle_polls=machine.idle == "poll",
        irq_time_accounting=machine.irq_time_accounting,
        cluster=cluster,
        turn_ns=machine.turn,
        memory=machine.memory,
    )


# Threads per core, cores per die; what was not said is one, except that the cores fill up the CPUs.
def _smp(smp: Smp | None, cpus: int, report: Report) -> tuple[int, int]:
    if smp is None:
        return 1, cpus
    sockets, dies, threads = smp.sockets or 1, smp.dies or 1, smp.threads or 1
    rest = sockets * dies * threads
    cores = smp.cores or max(1, cpus // rest)
    if rest * cores != cpus:
        product = f"{sockets} sockets × {dies} dies × {cores} cores × {threads} threads"
        report.at(("machine", "smp"), f"{product} make {rest * cores} CPUs, not cpus: {cpus}")
    return threads, cores


# Per CPU, the mask of the run of `width` CPUs that it lies in.
def _blocks(cpus: int, width: int) -> tuple[int, ...]:
    block = (1 << width) - 1
    return tuple(block << cpu // width * width for cpu in range(cpus))


# Per CPU, the mask of its group; the groups must hold every CPU exactly once.
def _groups(
    masks: list[int] | None, cpus: int, path: Path, report: Report
) -> tuple[int, ...] | None:
    if not masks:
        return None
    before = len(report.problems)
    everybody = (1 << cpus) - 1
    seen = 0
    for index, mask in enumerate(masks):
        if mask & ~everybody:
            outside = cpulist_format(mask & ~everybody)
            report.at((*path, index), f"CPU {outside} is outside the machine (cpus: {cpus})")
        elif mask & seen:
            twice = cpulist_format(mask & seen)
            report.at((*path, index), f"CPU {twice} is already in a group before this one")
        seen |= mask
    if everybody & ~seen:
        report.at(path, f"CPU {cpulist_format(everybody & ~seen)} is in no group")
    if len(report.problems) > before:
        return (0,) * cpus
    return tuple(next(mask for mask in masks if mask >> cpu & 1) for cpu in range(cpus))


def _nested(
    inner: tuple[int, ...], outer: tuple[int, ...], what: str, path: Path, report: Report
) -> None:
    for small, large in zip(inner, outer, strict=True):
        if small & ~large:
            inside, outside = cpulist_format(small), cpulist_format(large)
            report.at(path, f"{what} (CPU {inside}) would not lie within CPU {outside}")
            return


def _distance(machine: Machine, nodes: int, report: Report) -> tuple[tuple[int, ...], ...]:
    path: Path = ("machine", "node_distance")
    table = machine.node_distance
    if table is None:
        return tuple(
            tuple(10 if row == column else 20 for column in range(nodes)) for row in range(nodes)
        )
    if len(table) != nodes or any(len(row) != nodes for row in table):
        report.at(path, f"is not a table of {nodes} by {nodes} (one row per node)")
        return ()
    for row in range(nodes):
        for column in range(nodes):
            value = table[row][column]
            if (value == 10) != (row == column) or not 10 <= value <= 254:
                report.at(
                    (*path, row, column), "a node is at distance 10 of itself, others at 11 to 254"
                )
            elif value != table[column][row] and row < column:
                report.at((*path, row, column), "differs from the way back")
    return tuple(tuple(row) for row in table)


# More emulated CPUs than host CPUs is normal; whether the host has them is found out at the start.
def _host_cpus(machine: Machine, report: Report) -> None:
    if machine.host_cpus == 0:
        report.at(("machine", "host_cpus"), "names no CPU")
