"""The workloads of a box: fio jobs and built-in programs, one WorkloadSpec per task kind.

Every instance of a fio job (``numjobs`` times ``count``) becomes a workload of its own with a file
of its own: what tasks share is shared explicitly or not at all.  fio's main process is no part of
this; a box that wants it names the program ``fio_main``.

When a program starts within the first ticks of a real boot is chance.  Here the seed decides it, for
every workload of the box file that says no ``start``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emulator.boxfile.kernel import did_you_mean
from emulator.boxfile.problems import Path, Place, Problem, Report
from emulator.boxfile.storage import disk_bytes
from emulator.types import DiskSpec, FilesystemSpec, WorkloadSpec, cpulist_format
from emulator.units import duration_format, duration_parse, size_parse
from emulator.workload import PARAMS, TEAMS
from emulator.workload.fio_job import (
    FioJob,
    JobProblem,
    JobSection,
    instance_cpus,
    parse_sections,
    read_job,
)
from emulator.workload.random import seed_stream, splitmix64

if TYPE_CHECKING:
    from emulator.config import Workload

COMM_LEN_MAX = 15
TASKS_MAX = 4096
#: What ``sched_setattr()`` clamps a slice to.
SLICE_MIN_NS = 100_000
SLICE_MAX_NS = 100_000_000

#: A workload without a ``start`` starts at most so many ticks after boot.
START_TICKS_MAX = 8
#: Name of the stream of random numbers that these starts are drawn from.
START_STREAM = 1


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
    "flusher": ProgramRule("kworker/u8:0", True, "writes a file back in plugged batches"),
}

#: Parameters that the box gives, never its author.
GIVEN = ("file", "filesystem", "stats_from_ns")


def program_params(program: str) -> dict[str, Any]:
    """Return the parameters that a box may give a program, with defaults; None: it must."""
    return {name: value for name, value in PARAMS[program].items() if name not in GIVEN}


@dataclass(slots=True)
class JobText:
    """A job file as it was read; ``source`` is the name that errors show."""

    source: str
    text: str

    def report(self, problem: JobProblem, report: Report) -> None:
        """Add a problem with its line."""
        lines = self.text.splitlines()
        line = lines[problem.line - 1] if 0 < problem.line <= len(lines) else ""
        place = Place(self.source, problem.line, problem.column, line)
        report.problems.append(Problem(place, problem.option, problem.message))


@dataclass(slots=True)
class Surroundings:
    """What a workload must fit into."""

    cpus: int
    disks: tuple[DiskSpec, ...]
    filesystems: tuple[FilesystemSpec, ...]
    warmup_ns: int
    tick_ns: int
    seed: int
    report: Report
    verify: tuple[str, ...] | None = None  #: algorithms with a known cost, None: do not ask
    any_mount: bool = False  #: file systems are not known: take any
    custom_slice: bool = True  #: tasks may ask for slices
    files: int = 0  #: fio files so far; also the id of the last
    pipes: int = 0  #: pipes so far; also the id of the next
    bytes_on: dict[str, int] = field(default_factory=dict)  #: per file system, bytes of fio's files
    filenames: set[str] = field(default_factory=set)
    begun: dict[str, int] = field(default_factory=dict)  #: tasks so far, and when they start

    @property
    def every(self) -> int:
        """Return the mask of all CPUs."""
        return (1 << self.cpus) - 1


def resolve_workloads(
    workloads: list[Workload], jobs: dict[int, JobText], around: Surroundings
) -> tuple[WorkloadSpec, ...]:
    """Return every workload; ``jobs`` holds the job file of the workloads that name one."""
    found: list[WorkloadSpec] = []
    for index, workload in enumerate(workloads):
        around.begun = {one.name: one.start_ns for one in reversed(found)}
        path: Path = ("workloads", index)
        if (workload.fio is None) == (workload.program is None):
            around.report.at(path, "needs either fio: or program:")
        elif workload.fio is not None:
            if index in jobs:
                found.extend(_fio(workload, path, jobs[index], around))
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
    for key in ("section", "filesystem") if workload.program != "flusher" else ("section",):
        if getattr(workload, key) is not None:
            report.at_key((*path, key), "belongs to fio: workloads")
    params = _params(workload, workload.program, path, report)
    if workload.program in TEAMS:
        yield from _team(workload, params, path, around)
        return
    if params.get("bind_cpu", -1) >= around.cpus:
        message = f"there is no CPU {params['bind_cpu']} (cpus: {around.cpus})"
        report.at((*path, "params", "bind_cpu"), message)
    own_file = workload.program == "flusher"
    if own_file:
        params["filesystem"] = _filesystem(workload, path, "", around)
    if "stats_from_ns" in PARAMS[workload.program]:
        params["stats_from_ns"] = around.warmup_ns
    slice_ns = _slice_ns(workload, path, around)
    for _ in range(workload.count if own_file else 1):
        if own_file:
            around.files += 1
            params["file"] = around.files
        yield WorkloadSpec(
            name=_comm(workload.name or rule.comm, (*path, "name"), report),
            program=workload.program,
            params=dict(params),
            count=1 if own_file else workload.count,
            nice=workload.nice or 0,
            cpus_allowed=_cpus_allowed(workload, path, around) or around.every,
            start_ns=_start_ns(workload, path, around),
            start_cpu=_start_cpu(workload, path, around),
            figure=bool(workload.figure),
            kthread=rule.kthread,
            policy=workload.policy,
            slice_ns=slice_ns,
            pinned_to=_pinned_to(workload, path, around),
        )


# Each task of a team is a workload of its own.
def _team(
    workload: Workload, params: dict[str, Any], path: Path, around: Surroundings
) -> Iterator[WorkloadSpec]:
    assert workload.program is not None
    for key in ("name", "cpus_allowed", "start_cpu"):
        if getattr(workload, key) is not None:
            around.report.at_key((*path, key), f"{workload.program} is several tasks")
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
                start_ns=_start_ns(workload, path, around),
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


def _param(name: str, value: int | str) -> int:
    if isinstance(value, str):
        return duration_parse(value) if name.endswith("_ns") else size_parse(value)
    if value < 0:
        raise ValueError(f"{value} is negative")
    return value


# -- fio ----------------------------------------------------------------------------------------


def _fio(
    workload: Workload, path: Path, text: JobText, around: Surroundings
) -> Iterator[WorkloadSpec]:
    if workload.params:
        around.report.at_key((*path, "params"), "belongs to program: workloads; edit the job file")
    sections, problems = parse_sections(text.text)
    for problem in problems:
        text.report(problem, around.report)
    for section in _chosen(workload, path, sections, around.report):
        job, problems = read_job(section)
        problems += _unfit(job, around)
        for problem in problems:
            text.report(problem, around.report)
        if not problems:
            yield from _instances(job, workload, path, around)


def _chosen(
    workload: Workload, path: Path, sections: list[JobSection], report: Report
) -> list[JobSection]:
    if workload.section is None:
        return sections
    chosen = [section for section in sections if section.name == workload.section]
    if not chosen:
        names = [section.name for section in sections]
        hint = did_you_mean(workload.section, names) or f"; it has {', '.join(names) or 'none'}"
        report.at((*path, "section"), f"the job file has no such section{hint}")
    return chosen


# What is fine with fio but not in this box.
def _unfit(job: FioJob, around: Surroundings) -> list[JobProblem]:
    found: list[JobProblem] = []
    known = around.verify
    if known is not None and job.verify not in ("", "0", *known):
        hint = did_you_mean(job.verify, known) or f"; there are {', '.join(known)}"
        message = f"the box's costs do not say what {job.verify!r} costs{hint}"
        found.append(JobProblem(*job.section.line_of("verify"), "verify", message))
    if job.cpus_allowed & ~around.every:
        outside = cpulist_format(job.cpus_allowed & ~around.every)
        message = f"CPU {outside} is outside the machine (cpus: {around.cpus})"
        found.append(JobProblem(*job.section.line_of("cpus_allowed"), "cpus_allowed", message))
    if job.filename:
        if job.filename in around.filenames:
            message = "another job has this file; shared files are not emulated"
            found.append(JobProblem(*job.section.line_of("filename"), "filename", message))
        around.filenames.add(job.filename)
    return found


def _instances(
    job: FioJob, workload: Workload, path: Path, around: Surroundings
) -> Iterator[WorkloadSpec]:
    mount = _filesystem(workload, path, job.filename or job.directory, around)
    if isinstance(workload.cpus_allowed, str):
        around.report.at((*path, "cpus_allowed"), "of:NAME is for programs")
    allowed = _cpus_allowed(workload, path, around)
    if workload.count > 1 and job.filename:
        around.report.at((*path, "count"), f"the job names one file, {job.filename}")
    start_cpu = _start_cpu(workload, path, around)
    start_ns = _start_ns(workload, path, around)
    slice_ns = _slice_ns(workload, path, around)
    for instance in range(workload.count * job.numjobs):
        around.files += 1
        _count_bytes(mount, job.file_bytes, path, around)
        yield WorkloadSpec(
            name=_comm(workload.name or "fio", (*path, "name"), around.report),
            program="fio",
            params=_job_params(job, mount, instance, around),
            count=1,
            nice=job.nice if workload.nice is None else workload.nice,
            cpus_allowed=allowed or instance_cpus(job, instance, around.every),
            start_ns=start_ns + job.startdelay_ns,
            start_cpu=start_cpu,
            figure=workload.figure is not False,
            policy=workload.policy,
            slice_ns=slice_ns,
        )


def _job_params(job: FioJob, mount: str, instance: int, around: Surroundings) -> dict[str, Any]:
    depth = 1 if job.ioengine == "psync" else job.iodepth
    complete_min = min(job.iodepth_batch_complete_min, depth)
    return {
        "rw": job.rw,
        "bs": job.bs,
        "size": job.file_bytes,
        "ioengine": job.ioengine,
        "iodepth": depth,
        "batch_submit": min(job.iodepth_batch or depth, depth),
        "batch_complete_min": complete_min,
        "batch_complete_max": max(job.iodepth_batch_complete_max, complete_min, 1),
        "iodepth_low": min(job.iodepth_low or depth, depth),
        "filesystem": mount,
        "file": around.files,
        "overwrite": job.overwrite,
        "verify": "none" if job.verify in ("", "0") else job.verify,
        "do_verify": job.do_verify,
        "norandommap": job.norandommap,
        "randseed": job.randseed + instance,
        "runtime_ns": job.runtime_ns,
        "time_based": job.time_based,
        "thinktime_ns": job.thinktime_ns,
        "thinktime_spin_ns": job.thinktime_spin_ns,
        "thinktime_blocks": job.thinktime_blocks,
        "stats_from_ns": around.warmup_ns + job.ramp_ns,
    }


def _count_bytes(mount: str, size: int, path: Path, around: Surroundings) -> None:
    disk = next((one.disk for one in around.filesystems if one.name == mount), None)
    room = next((disk_bytes(one) for one in around.disks if one.name == disk), None)
    used = around.bytes_on.get(mount, 0) + size
    around.bytes_on[mount] = used
    if room is not None and used > room >= used - size:
        message = f"its file does not fit on {disk}, which has {room >> 20} MiB"
        around.report.at(path, message)


# -- Keys of both kinds -------------------------------------------------------------------------


# The file system that was named, else the one the job's file lies under, else the only one.
def _filesystem(workload: Workload, path: Path, file: str, around: Surroundings) -> str:
    names = [one.name for one in around.filesystems]
    if around.any_mount:
        return ""
    if workload.filesystem is not None:
        if workload.filesystem not in names:
            hint = did_you_mean(workload.filesystem, names)
            around.report.at((*path, "filesystem"), f"the box has no such file system{hint}")
        return workload.filesystem
    for name in sorted(names, key=len, reverse=True):
        if file == name or file.startswith(name.rstrip("/") + "/"):
            return name
    if file.startswith("/") and names:
        around.report.at(path, f"its file {file} lies on no file system of the box")
    elif len(names) != 1:
        around.report.at(path, f"needs filesystem: the box has {', '.join(names) or 'none'}")
    return names[0] if names else ""


def _cpus_allowed(workload: Workload, path: Path, around: Surroundings) -> int:
    mask = workload.cpus_allowed
    if mask is None or isinstance(mask, str):
        return 0
    outside = mask & ~around.every
    if outside:
        message = f"CPU {cpulist_format(outside)} is outside the machine (cpus: {around.cpus})"
        around.report.at((*path, "cpus_allowed"), message)
    return mask & around.every


# The task to whose CPU a program binds itself when it starts: one that has started by then.
def _pinned_to(workload: Workload, path: Path, around: Surroundings) -> str:
    if not isinstance(workload.cpus_allowed, str):
        return ""
    name = workload.cpus_allowed.removeprefix("of:")
    at = (*path, "cpus_allowed")
    begun = around.begun.get(name)
    if "bind_cpu" not in PARAMS[workload.program or ""]:
        around.report.at(at, f"{workload.program} cannot bind itself")
    if begun is None:
        hint = did_you_mean(name, around.begun) or "; the workloads before it count"
        around.report.at(at, f"no task is called {name!r}{hint}")
    elif workload.start is None or workload.start <= begun:
        around.report.at(at, f"needs a start later than that of {name}")
    if workload.start_cpu is not None:
        around.report.at_key((*path, "start_cpu"), "cpus_allowed says where it starts")
    return name


# All tasks of one entry of the box file start together, as fio's jobs do.
def _start_ns(workload: Workload, path: Path, around: Surroundings) -> int:
    if workload.start is not None:
        return workload.start
    _, bits = splitmix64(seed_stream(around.seed, START_STREAM, int(path[1])))
    return bits % (START_TICKS_MAX * around.tick_ns + 1)


def _slice_ns(workload: Workload, path: Path, around: Surroundings) -> int:
    slice_ns = workload.slice
    if slice_ns is None:
        return 0
    if not around.custom_slice:
        around.report.at_key((*path, "slice"), "this kernel has no slices of a task's own")
    elif slice_ns and not SLICE_MIN_NS <= slice_ns <= SLICE_MAX_NS:
        bounds = f"{duration_format(SLICE_MIN_NS)} to {duration_format(SLICE_MAX_NS)}"
        message = f"{duration_format(slice_ns)} is no slice: the kernel clamps it to {bounds}"
        around.report.at((*path, "slice"), message)
    return slice_ns


def _start_cpu(workload: Workload, path: Path, around: Surroundings) -> int:
    cpu = workload.start_cpu
    if cpu is None:
        return -1
    if cpu >= around.cpus:
        message = f"there is no CPU {cpu} (cpus: {around.cpus})"
        around.report.at((*path, "start_cpu"), message)
    elif isinstance(workload.cpus_allowed, int) and not workload.cpus_allowed >> cpu & 1:
        around.report.at((*path, "start_cpu"), f"CPU {cpu} is not in cpus_allowed")
    return cpu


def _comm(name: str, path: Path, report: Report) -> str:
    if not name.isprintable() or not name.isascii() or not 0 < len(name) <= COMM_LEN_MAX:
        report.at(path, f"{name!r} is no task name: 1 to {COMM_LEN_MAX} ASCII characters")
    return name
