"""Which nodes a command line of a running box goes to, and what a step may go on until.

``cpu VERB N`` is CPU N's, a sysctl is every CPU's and the balancer's.  ``cpu VERB of:NAME`` goes to
every CPU, as ``task affine NAME``, ``taskset``, ``renice`` and ``chrt`` do: the one on which the named task then is acts, the others have
nothing to say
(:mod:`emulator.kernel.command`).  ``disk NAME …`` is the disk's and every CPU's.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from emulator.added import ADD, with_added, workloads_of
from emulator.boxfile.events import fault_problem, irq_problem, parse_command, policy_problem
from emulator.boxfile.kernel import sysctl_problem
from emulator.completion_word import live_problem
from emulator.engine.plan import CommandError
from emulator.faults import Fault
from emulator.irq_affinity import irq_disk
from emulator.kernel import late_work
from emulator.plain import spec_from_plain, spec_to_plain
from emulator.trace.ftrace import TextStyle
from emulator.trace.reader import RingError
from emulator.trace.watch import RingWatch, parse_condition
from emulator.types import BoxSpec


def route(words: list[Any], spec_plain: Any) -> list[int]:
    """Return the nodes that a command goes to; raise CommandError for one that cannot be done."""
    try:
        command = parse_command(shlex.join(map(str, words)))
    except ValueError as error:
        raise CommandError(str(error)) from None
    spec = spec_from_plain(spec_plain)
    nr_cpus = spec.machine.nr_cpus
    if command.fault is not None:
        return disk_nodes(command.fault, spec)
    if command.verb == "sysctl":
        problem = sysctl_problem(command.name, command.value, spec.kernel.rules)
        if problem:
            raise CommandError(f"{command.name}: {problem}")
        return list(range(nr_cpus + 1))
    if command.verb == "policy":
        problem = policy_problem(command.name, spec.kernel.rules)
        if problem:
            raise CommandError(problem)
        return list(range(nr_cpus))
    if command.verb == "completion":
        problem = live_problem(command.name, spec.kernel)
        if problem:
            raise CommandError(problem)
        return list(range(nr_cpus))
    if command.verb == "add":
        _check_workloads(command.name, spec)
        return list(range(nr_cpus))
    if command.mask >> nr_cpus:
        raise CommandError(f"the machine has CPUs 0-{nr_cpus - 1}")
    if command.verb == "irq":
        return irq_nodes(command.value, spec)
    if command.of:
        if (
            command.verb in ("offline", "online", "kill", "load", "stop")
            or not command.of.isdecimal()
        ):
            _check_task(command.of, spec)
        # The balancer looks at what real-time tasks leave of a CPU once there may be some.
        return list(range(nr_cpus + (command.verb == "chrt" and command.value > 0)))
    if command.cpu >= nr_cpus:
        raise CommandError(f"there is no CPU {command.cpu}: the machine has CPUs 0-{nr_cpus - 1}")
    return [command.cpu]


def grown(words: list[Any], spec_plain: Any) -> Any:
    """Return the box as it is for the commands that follow this one, which could be routed."""
    if words[:2] != ADD:
        return spec_plain
    return spec_to_plain(with_added(spec_from_plain(spec_plain), workloads_of(words[2])))


def watch(words: Sequence[str], spec_plain: Any, run_dir: str) -> RingWatch:
    """Start to watch the rings of a run for a condition; raise CommandError for words that are none."""
    spec = spec_from_plain(spec_plain)
    nr_cpus = spec.machine.nr_cpus
    style = TextStyle.of_rules([name for name, value in spec.kernel.rules if value])
    try:
        condition = parse_condition(words, spec.trace_off)
        if condition.cpu >= nr_cpus:
            raise CommandError(f"the machine has CPUs 0-{nr_cpus - 1}")
        recorders = condition.recorders(nr_cpus, nr_cpus + 1 + len(spec.disks))
        return RingWatch(run_dir, condition, style, recorders)
    except (OSError, RingError, ValueError) as error:
        raise CommandError(str(error)) from error


def disk_nodes(fault: Fault, spec: BoxSpec) -> list[int]:
    """Return the nodes that a fault concerns: the disk's, and every CPU, whose driver gives it all."""
    disks = {disk.name: disk for disk in spec.disks}
    problem = fault_problem(fault, disks)
    if problem:
        raise CommandError(problem)
    nr_cpus = spec.machine.nr_cpus
    return [*range(nr_cpus), nr_cpus + 1 + list(disks).index(fault.disk)]


def irq_nodes(number: int, spec: BoxSpec) -> list[int]:
    """Return the nodes that an interrupt's affinity concerns: its disk's, and CPU 0, which records it."""
    disks = {disk.name: disk for disk in spec.disks}
    problem = irq_problem(number, disks, spec.kernel.threadirqs)
    if problem:
        raise CommandError(problem)
    return [0, spec.machine.nr_cpus + 1 + irq_disk(number)[0]]


def _check_workloads(text: str, spec: BoxSpec) -> None:
    try:
        workloads = workloads_of(text)
    except ValueError as error:
        raise CommandError(str(error)) from None
    for one in workloads:
        if one.cpus_allowed >> spec.machine.nr_cpus or not one.cpus_allowed:
            raise CommandError(f"the machine has CPUs 0-{spec.machine.nr_cpus - 1}")
        if one.pinned_to:
            _check_task(one.pinned_to, with_added(spec, workloads))
    problem = late_work.problem(spec, workloads)
    if problem:
        raise CommandError(problem)


def _check_task(name: str, spec: BoxSpec) -> None:
    names = list(dict.fromkeys(workload.name for workload in spec.workloads))
    if name not in names:
        raise CommandError(f"no task is called {name!r}; there are {', '.join(names) or 'none'}")
