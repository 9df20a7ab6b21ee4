"""The workloads of a box: fio jobs and built-in programs, one WorkloadSpec per task kind.

What tasks share is shared explicitly or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emulator.boxfile.around import (
    REALTIME,
    Surroundings,
    comm_of,
    count_bytes,
    cpus_allowed_of,
    filesystem_of,
    pinned_to_of,
    policy_of,
    slice_ns_of,
    start_cpu_of,
    start_ns_of,
)
from emulator.boxfile.kernel import did_you_mean
from emulator.boxfile.problems import Path, Report
from emulator.boxfile.work_fio import JobText, fio_workloads
from emulator.boxfile.work_rtapp import rtapp_workloads
from emulator.kernel.wq_table import WQ_NAMES
from emulator.types import WorkloadSpec
from emulator.units import duration_parse, size_parse
from emulator.workload import PARAMS, TEAMS
from emulator.workload.works import queues_of
from emulator.workload.writer import LAYOUTS

if TYPE_CHECKING:
    from emulator.boxfile.schema import Workload

TASKS_MAX = 4096


@dataclass(frozen=True, slots=True)
class ProgramRule:
    """A built-in program: what its tasks are called, whether they are kthreads, what it does."""

    comm: str
    kthread: bool
    about: str


#: Programs that a box may name.  Parameters ending in ``_ns`` may be written as durations.
PROGRAMS: dict[str, ProgramRule] = {
    "hog": ProgramRule("hog", False, "burns CPU, for ever or for run_ns"),
    "execs": ProgramRule("sh", False, "burns run_ns, execs, and so on, for ever or times times"),
    "periodic": ProgramRule("periodic", False, "burns run_ns every period_ns"),
    "rcu_gp": ProgramRule("rcu_sched", True, "the kthread that drives RCU grace periods under IO"),
    "fio_main": ProgramRule("fio", False, "fio's main process, which looks every 10 ms"),
    "pingpong": ProgramRule("ping", False, "two tasks exchange a number through two pipes"),
    "xwake": ProgramRule("waker", False, "a task burns gap_ns, then wakes another by a pipe"),
    "fanout": ProgramRule(
        "messenger", False, "a task wakes workers each period_ns, one pipe each; they burn work_ns"
    ),
    "works": ProgramRule(
        "works",
        True,
        "queues works that run and sleep as items says, flushes, cancels; again each period_ns",
    ),
    "flusher": ProgramRule("kworker/u8:0", True, "writes a file back in plugged batches"),
    "writer": ProgramRule("writer", False, "writes a file through the page cache"),
    "aio_loop": ProgramRule(
        "aio_loop", False, "an event loop: AIO, a wait for it by an eventfd, work_ns for each IO"
    ),
    "dbench": ProgramRule(
        "dbench", False, "burns think_ns, writes bs bytes so many times, fsyncs, and so on"
    ),
}

#: Programs that have a file of their own on some file system.
OWN_FILE = ("flusher", "writer", "dbench", "aio_loop")

#: Parameters that are words, and which ones.
WORDS = {"layout": LAYOUTS}

#: Parameters that the box gives, never its author.
GIVEN = ("file", "filesystem", "stats_from_ns")
#: Parameters that are text.
TEXTS = ("items", "queue")


def program_params(program: str) -> dict[str, Any]:
    """Return the parameters that a box may give a program, with defaults; None: it must."""
    return {name: value for name, value in PARAMS[program].items() if name not in GIVEN}


def resolve_workloads(
    workloads: list[Workload], jobs: dict[int, JobText], around: Surroundings
) -> tuple[WorkloadSpec, ...]:
    """Return every workload; ``jobs`` holds the job file of the workloads that name one."""
    found: list[WorkloadSpec] = []
    for index, workload in enumerate(workloads):
        around.begun = {one.name: one.start_ns for one in reversed(found)}
        path: Path = ("workloads", index)
        kinds = (workload.fio, workload.rtapp, workload.program)
        if sum(kind is not None for kind in kinds) != 1:
            around.report.at(path, "needs either fio:, rtapp: or program:")
        elif workload.fio is not None:
            if index in jobs:
                found.extend(fio_workloads(workload, path, jobs[index], around))
        elif workload.rtapp is not None:
            if index in jobs:
                found.extend(rtapp_workloads(workload, path, jobs[index], around))
        else:
            found.extend(_program(workload, path, around))
    if sum(one.count for one in found) > TASKS_MAX:
        around.report.at(("workloads",), f"more than {TASKS_MAX} tasks")
    return tuple(found)


# -- Built-in programs --------------------------------------------------------------------------


def _program(workload: Workload, path: Path, around: Surroundings) -> Iterator[WorkloadSpec]:
    report = around.report
    assert workload.program is not None
    rule = PROGRAMS.get(workload.program)
    if rule is None:
        hint = did_you_mean(workload.program, PROGRAMS) or f"; there are {', '.join(PROGRAMS)}"
        report.at((*path, "program"), f"no such program{hint}")
        return
    if workload.env:
        report.at_key((*path, "env"), "belongs to fio: workloads")
    for key in ("section", "filesystem") if workload.program not in OWN_FILE else ("section",):
        if getattr(workload, key) is not None:
            report.at_key((*path, key), "belongs to fio: workloads")
    params = _params(workload, workload.program, path, report)
    if workload.program in TEAMS:
        yield from _team(workload, params, path, around)
        return
    if params.get("bind_cpu", -1) >= around.cpus:
        message = f"there is no CPU {params['bind_cpu']} (cpus: {around.cpus})"
        report.at((*path, "params", "bind_cpu"), message)
    own_file = workload.program in OWN_FILE
    if own_file:
        params["filesystem"] = filesystem_of(workload, path, "", around)
    if workload.program in ("writer", "dbench"):
        if workload.program == "dbench" and params.get("layout") == "written":
            params.setdefault("eof", -1)  # to its end
        params = program_params(workload.program) | params
    if "stats_from_ns" in PARAMS[workload.program]:
        params["stats_from_ns"] = around.warmup_ns
    if workload.program == "works" and "items" in params:
        params["workqueues"] = _queues(params, (*path, "params", "items"), report)
    slice_ns = slice_ns_of(workload, path, around)
    allowed = cpus_allowed_of(workload, path, around) or around.every
    policy, rt_priority = policy_of(workload, path, allowed, around)
    for _ in range(workload.count if own_file else 1):
        if own_file:
            around.files += 1
            params["file"] = around.files
            size = params.get("size", PARAMS[workload.program]["size"])
            count_bytes(params["filesystem"], size, path, around)
        yield WorkloadSpec(
            name=comm_of(workload.name or rule.comm, (*path, "name"), report),
            program=workload.program,
            params=dict(params),
            count=1 if own_file else workload.count,
            nice=workload.nice or 0,
            cpus_allowed=allowed,
            start_ns=start_ns_of(workload, path, around),
            start_cpu=start_cpu_of(workload, path, around),
            figure=bool(workload.figure),
            kthread=rule.kthread,
            policy=policy,
            rt_priority=rt_priority,
            slice_ns=slice_ns,
            pinned_to=pinned_to_of(workload, path, around),
        )


# Each task of a team is a workload of its own.
def _team(
    workload: Workload, params: dict[str, Any], path: Path, around: Surroundings
) -> Iterator[WorkloadSpec]:
    assert workload.program is not None
    for key in ("name", "cpus_allowed", "start_cpu"):
        if getattr(workload, key) is not None:
            around.report.at_key((*path, key), f"{workload.program} is several tasks")
    if workload.policy in REALTIME or workload.rt_priority:
        key = "policy" if workload.policy in REALTIME else "rt_priority"
        around.report.at_key((*path, key), f"{workload.program} is several tasks, none real-time")
    option = PARAMS[workload.program] | params
    if None in option.values():
        return
    for _ in range(workload.count):
        team = list(TEAMS[workload.program](option, around.pipes))
        for member in team:
            if member.cpu >= around.cpus:
                message = f"there is no CPU {member.cpu} (cpus: {around.cpus})"
                around.report.at((*path, "params"), message)
                return
            made = member.params() | {"stats_from_ns": around.warmup_ns}
            yield WorkloadSpec(
                name=member.comm,
                program="loop",
                params=made,
                count=1,
                nice=workload.nice or 0,
                cpus_allowed=around.every,
                start_ns=start_ns_of(workload, path, around),
                start_cpu=-1,
                figure=bool(workload.figure),
            )
        around.pipes += sum(len(member.params()["reads"]) for member in team)


def _params(workload: Workload, program: str, path: Path, report: Report) -> dict[str, Any]:
    known = program_params(program)
    params: dict[str, Any] = {}
    for name, value in workload.params.items():
        where = (*path, "params", name)
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has {', '.join(known) or 'none'}"
            report.at_key(where, f"{program} has no such parameter{hint}")
            continue
        try:
            params[name] = _param(name, value)
        except ValueError as error:
            report.at(where, str(error))
    for name, default in known.items():
        if default is None and name not in workload.params:
            report.at((*path, "params", name), f"{program} needs it")
    return params


# The workqueues that a program queues to; its items must be readable.
def _queues(params: dict[str, Any], path: Path, report: Report) -> list[str]:
    try:
        queues = queues_of(params)
    except ValueError as error:
        report.at(path, str(error))
        return []
    for name in queues:
        if name not in WQ_NAMES:
            report.at(path, f"no workqueue is called {name!r}{did_you_mean(name, WQ_NAMES)}")
    return queues


def _param(name: str, value: int | str) -> int | str:
    if name in WORDS:
        if value not in WORDS[name]:
            raise ValueError(f"{value!r} is none of {', '.join(WORDS[name])}")
        return value
    if isinstance(value, str) and name in TEXTS:
        return value
    if isinstance(value, str):
        return duration_parse(value) if name.endswith("_ns") else size_parse(value)
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value
