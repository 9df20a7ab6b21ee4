"""Timed events of a box: which command lines there are, and which cannot work when they are due.

A command's CPU is a number, or ``of:NAME``: the CPU on which the first task of that name then is
(CPU 1 if that is CPU 0, which cannot go offline).  ``task affine``, ``taskset``, ``renice`` and ``chrt`` are about
one task, wherever it is: the first of a name, or that of a pid.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator import faults
from emulator.added import ADD
from emulator.boxfile.kernel import did_you_mean, sysctl_problem
from emulator.boxfile.problems import Path, Report
from emulator.completion import COMPLETIONS
from emulator.completion_word import live_problem
from emulator.irq_affinity import irq_number
from emulator.kernel.blk_queue import irq_names, service_time
from emulator.kernel.sched import POLICIES as SCHED_POLICIES
from emulator.rules import CFS_RULES, POLICIES, Rules, changed, live_switches, missing_needs
from emulator.types import BoxEvent, DiskSpec, KernelSpec, cpulist_format, cpulist_parse
from emulator.units import duration_format

if TYPE_CHECKING:
    from emulator.boxfile.schema import Event

#: Every command, as help shows it.
COMMANDS = (
    "cpu offline CPU",
    "cpu online CPU",
    "cpu kill CPU",
    "cpu load CPU --percent P",
    "sysctl NAME=VALUE",
    "task affine NAME CPULIST",
    "irq NUMBER affinity CPULIST",
    "taskset TASK CPULIST",
    "renice TASK NICE",
    "chrt TASK POLICY [PRIO]",
    "policy +NAME",
    "policy -NAME",
    "completion WHERE",
    "workload stop NAME",
    *faults.COMMANDS,
)
_CPU_VERBS = ("offline", "online", "kill", "load")


@dataclass(frozen=True, slots=True)
class Command:
    """A command line taken apart; ``cpu`` is -1 where it is named by a task or not at all."""

    verb: str  #: offline, online, kill, load, sysctl, affine, irq, renice, chrt, policy, completion, add …
    cpu: int = -1
    of: str = ""
    percent: int = 0
    name: str = ""
    value: int = 0
    mask: int = 0
    fault: faults.Fault | None = None  #: of the verb disk


def parse_command(line: str) -> Command:
    """Take a ctl command line apart; raise ValueError saying what is odd."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise ValueError(f"{line!r}: {error}") from None
    if words != line.split() and words[:2] != ADD:
        # They would be taken apart in another way by the CPUs.
        raise ValueError(f"{line!r}: a command is plain words, without quotes and backslashes")
    match words:
        case ["sysctl", assignment]:
            return _sysctl(assignment)
        case ["cpu", "load", cpu, "--percent", percent] if percent.isdecimal():
            if int(percent) > 100:
                raise ValueError(f"{percent} percent of a CPU is more than there is")
            number, of = _cpu(cpu)
            return Command("load", number, of, percent=int(percent))
        case ["cpu", ("offline" | "online" | "kill") as verb, cpu]:
            number, of = _cpu(cpu)
            return Command(verb, number, of)
        case ["workload", "add", text]:
            return Command("add", name=text)
        case ["workload", "stop", name]:
            return Command("stop", of=name)
        case ["policy", word]:
            return Command("policy", name=_policy(word))
        case ["completion", word]:
            return Command("completion", name=_completion(word))
        case [("task" | "taskset" | "renice" | "chrt"), *_] if found := _about_task(words):
            return found
        case ["irq", number, "affinity", cpulist] if number.isdecimal():
            return Command("irq", value=int(number), mask=cpulist_parse(cpulist))
        case ["disk", *_]:
            return Command("disk", fault=faults.parse_fault(words))
        case ["cpu", verb, *_] if verb not in _CPU_VERBS:
            raise ValueError(f"no command 'cpu {verb}'{did_you_mean(verb, _CPU_VERBS)}")
    alike = [command for command in COMMANDS if command.split()[0] == words[0]] if words else []
    raise ValueError(f"{line!r} is not one of: {'; '.join(alike or COMMANDS)}")


# A command about one task, wherever it is; None: it is none.
def _about_task(words: list[str]) -> Command | None:
    match words:
        case ["renice", task, nice]:
            return Command("renice", of=task, value=_nice(nice))
        case ["chrt", task, policy, *priority] if len(priority) < 2:
            return Command("chrt", of=task, value=_rt_priority(policy, priority))
        case ["task", "affine", name, cpulist] | ["taskset", name, cpulist]:
            return Command("affine", of=name, mask=cpulist_parse(cpulist))
    return None


def _cpu(word: str) -> tuple[int, str]:
    if word.startswith("of:") and len(word) > 3:
        return -1, word[3:]
    if not word.isdecimal():
        raise ValueError(f"{word!r} is not a CPU number")
    return int(word), ""


def _policy(word: str) -> str:
    try:
        live_switches(word)
    except ValueError as error:
        name = word.lstrip("+-").partition("=")[0]
        if name.partition(":")[0] in COMPLETIONS:
            raise ValueError(f"{name} is a completion policy: `completion {name}`") from None
        hint = did_you_mean(name, POLICIES) if name not in POLICIES else ""
        raise ValueError(f"{error}{hint}") from None
    return word


def _completion(word: str) -> str:
    name = word.partition(":")[0]
    if name not in COMPLETIONS:
        hint = did_you_mean(name, COMPLETIONS) or f"; there are {', '.join(COMPLETIONS)}"
        raise ValueError(f"no completion policy is called {name!r}{hint}")
    return word


def _nice(word: str) -> int:
    if not word.removeprefix("-").isdecimal() or not -20 <= int(word) <= 19:
        raise ValueError(f"{word!r} is no nice level: these go from -20 to 19")
    return int(word)


def _rt_priority(policy: str, words: list[str]) -> int:
    if policy not in SCHED_POLICIES:
        known = ", ".join(SCHED_POLICIES)
        raise ValueError(f"no scheduling policy is called {policy!r}; there are {known}")
    if policy not in ("fifo", "rr"):
        if words:
            raise ValueError(f"{policy} takes no priority: `renice` changes a fair task's weight")
        return 0
    if not words or not words[0].isdecimal() or not 1 <= int(words[0]) <= 99:
        raise ValueError(f"{policy} takes a priority, 1 to 99")
    return int(words[0])


def _sysctl(assignment: str) -> Command:
    name, equals, value = assignment.partition("=")
    if not equals or not value.isdecimal():
        raise ValueError(f"{assignment!r} is not NAME=VALUE with a whole number")
    return Command("sysctl", name=name, value=int(value))


@dataclass(slots=True)
class Expected:
    """What the events so far have made of the machine, as far as they named their CPUs."""

    tasks: tuple[str, ...]
    online: dict[int, bool]
    killed: set[int]
    threadirqs: bool = False
    kernel: KernelSpec | None = None  #: None where it is not known
    disks: Mapping[str, DiskSpec] | None = None  #: by name, None where they are not known

    @property
    def rules(self) -> Rules | None:
        """The kernel's rules, None where they are not known."""
        return None if self.kernel is None else self.kernel.rules


def resolve_events(
    events: list[Event],
    cpus: int,
    tasks: tuple[str, ...],
    duration_ns: int,
    report: Report,
    kernel: KernelSpec | None = None,
    disks: Mapping[str, DiskSpec] | None = None,
    threadirqs: bool = False,
) -> tuple[BoxEvent, ...]:
    """Return the events in order of time; refuse what cannot be done when it is due.

    ``tasks`` are the names that ``of:NAME`` may give, ``kernel`` says which sysctls and policies there
    are; None where it is not known.
    """
    order = sorted(range(len(events)), key=lambda index: events[index].at)
    expected = Expected(tasks, dict.fromkeys(range(cpus), True), set(), threadirqs, kernel, disks)
    for index in order:
        event, path = events[index], ("events", index)
        if event.at >= duration_ns:
            ended = f"the run is over by then: it lasts {duration_format(duration_ns)}"
            report.at((*path, "at"), ended)
        try:
            command = parse_command(event.do)
        except ValueError as error:
            report.at((*path, "do"), str(error))
            continue
        _check(command, expected, (*path, "do"), report)
    return tuple(BoxEvent(events[index].at, events[index].do) for index in order)


def _check(command: Command, expected: Expected, path: Path, report: Report) -> None:
    cpu, verb, online = command.cpu, command.verb, expected.online
    cpus = len(online)
    problem = _problem(command, expected)
    if problem:
        report.at(path, problem)
    if command.mask >> cpus:
        outside = cpulist_format(command.mask >> cpus << cpus)
        report.at(path, f"CPU {outside} is outside the machine (cpus: {cpus})")
    if cpu < 0:
        if not command.of:
            return
        by_pid = command.of.isdecimal() and verb != "stop"
        if expected.tasks and command.of not in expected.tasks and not by_pid:
            report.at(
                path, f"no task is called {command.of!r}{did_you_mean(command.of, expected.tasks)}"
            )
        return
    if cpu >= cpus:
        report.at(path, f"there is no CPU {cpu}: the machine has CPUs 0-{cpus - 1}")
        return
    if cpu == 0 and verb in ("offline", "kill"):
        report.at(path, "CPU 0 cannot go offline on x86")
    elif verb == "online" and cpu in expected.killed:
        report.at(path, f"CPU {cpu} was killed")
    elif verb == "online" and online[cpu]:
        report.at(path, f"CPU {cpu} is online then")
    elif verb != "online" and not online[cpu]:
        report.at(path, f"CPU {cpu} is offline then")
    if verb in ("offline", "kill", "online"):
        online[cpu] = verb == "online"
    if verb == "kill":
        expected.killed.add(cpu)


# What is wrong with a command that names neither a CPU nor a task; "": nothing, or nobody knows.
def _problem(command: Command, expected: Expected) -> str:
    if command.verb == "sysctl":
        problem = sysctl_problem(command.name, command.value, expected.rules)
        return f"{command.name}: {problem}" if problem else ""
    if command.fault is not None:
        return fault_problem(command.fault, expected.disks)
    if command.verb == "irq":
        return irq_problem(command.value, expected.disks, expected.threadirqs)
    if command.verb == "policy":
        return policy_problem(command.name, expected.rules)
    if command.verb == "completion":
        return "" if expected.kernel is None else live_problem(command.name, expected.kernel)
    if command.verb == "add":
        return "a workload of a box file begins when its start: says"
    return ""


def irq_problem(number: int, disks: Mapping[str, DiskSpec] | None, threadirqs: bool = False) -> str:
    """Return why an interrupt's affinity cannot be written, "" if it can or nobody knows."""
    if disks is None:
        return ""
    known: list[str] = []
    for index, disk in enumerate(disks.values()):
        for vector, name in enumerate(irq_names(disk)):
            known.append(f"{irq_number(index, vector)} ({name})")
            if irq_number(index, vector) != number:
                continue
            if disk.managed:
                return f"EIO: interrupt {number} ({name}) is managed, its CPUs are the queue's"
            if threadirqs:
                return "with kernel.threadirqs an interrupt cannot be moved here: its thread stays"
            return ""
    return f"there is no interrupt {number}; there are {', '.join(known) or 'none of a disk'}"


def policy_problem(word: str, rules: Rules | None) -> str:
    """Return why a policy means nothing to a kernel of these rules, "" if it does or they are not known."""
    if rules is None:
        return ""
    ignored = CFS_RULES & live_switches(word).keys() if rules.eevdf else ()
    for name in sorted(ignored):
        return f"EEVDF decides without {name}: {word[1:]} would change nothing"
    for name, needs in missing_needs(changed(rules, live_switches(word))).items():
        return f"the rule {name} means nothing without {', '.join(needs)}"
    return ""


def fault_problem(fault: faults.Fault, disks: Mapping[str, DiskSpec] | None) -> str:
    """Return why a disk cannot be struck by a fault, "" if it can or the disks are not known."""
    if disks is None:
        return ""
    disk = disks.get(fault.disk)
    if disk is None:
        return f"the box has no disk {fault.disk!r}{did_you_mean(fault.disk, disks)}"
    if not (disk.vectors or disk.carries) and service_time(disk.driver, disk.params) == 0:
        return f"{disk.name} ends requests inside queue_rq(): nothing can happen to them"
    return ""
