"""fio workloads of a box: a job file, the jobs of it that run, their files and who waits for whom.

Every instance of a job (``numjobs`` times ``count``) becomes a workload of its own.  A job that names
no file has one of its own; a file that is named is the same file wherever the name is used, as with
fio.  Files of several jobs are refused only where their writes would have to take turns, which is not
emulated between tasks: where somebody writes less than blocks of XFS.

A job that waits for others (``stonewall``, ``wait_for``) reads from a pipe per task that it waits for.
fio's main process is no part of this; a box that wants it names the program ``fio_main``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emulator.boxfile.around import (
    NamedFile,
    Surroundings,
    comm_of,
    count_bytes,
    cpus_allowed_of,
    filesystem_of,
    policy_of,
    slice_ns_of,
    start_cpu_of,
    start_ns_of,
)
from emulator.boxfile.kernel import did_you_mean
from emulator.boxfile.problems import Path, Place, Problem, Report
from emulator.types import WorkloadSpec, cpulist_format
from emulator.workload.fio_groups import groups, unknown_waits, waits
from emulator.workload.fio_job import (
    FioJob,
    JobProblem,
    JobSection,
    instance_cpus,
    parse_sections,
    read_job,
)
from emulator.workload.latency import PERCENTILES

if TYPE_CHECKING:
    from emulator.boxfile.schema import Workload

#: Pipes between jobs that wait for each other, per workload of the box file.
PIPES_MAX = 4096


@dataclass(slots=True)
class JobText:
    """A job file as it was read; ``source`` is the name that errors show.

    ``included`` are the files it includes, by the file that does and the name written there.
    """

    source: str
    text: str
    included: dict[tuple[str, str], JobText] = field(default_factory=dict)

    def include(self, source: str, name: str) -> tuple[str, str] | None:
        """Return an included file's name and text, if it is there."""
        found = self.included.get((source or self.source, name))
        return (found.source, found.text) if found else None

    def report(self, problem: JobProblem, report: Report) -> None:
        """Add a problem with its line."""
        texts = {one.source: one.text for one in self.included.values()} | {"": self.text}
        lines = texts[problem.source].splitlines()
        line = lines[problem.line - 1] if 0 < problem.line <= len(lines) else ""
        place = Place(problem.source or self.source, problem.line, problem.column, line)
        report.problems.append(Problem(place, problem.option, problem.message))


def fio_workloads(
    workload: Workload, path: Path, text: JobText, around: Surroundings
) -> Iterator[WorkloadSpec]:
    """Yield the tasks of a job file."""
    if workload.params:
        around.report.at_key((*path, "params"), "belongs to program: workloads; edit the job file")
    sections, problems = parse_sections(text.text, text.include, workload.env, around.cpus)
    sections = _chosen(workload, path, sections, around.report)
    jobs: list[FioJob] = []
    for section in sections:
        job, more = read_job(section)
        problems += more + _unfit(job, around)
        jobs.append(job)
    for index in unknown_waits(jobs) if workload.section is None else ():
        message = f"no job before this one is called {jobs[index].wait_for!r}"
        problems.append(jobs[index].section.problem("wait_for", message))
    for problem in problems:
        text.report(problem, around.report)
    if problems:
        return
    made: list[list[WorkloadSpec]] = []
    for job, group, before in zip(jobs, groups(jobs), waits(jobs), strict=True):
        tasks = list(_instances(job, group, workload, path, text, around))
        earlier = [one for index in before for one in made[index]]
        _wait_for(tasks, earlier, workload, path, around)
        made.append(tasks)
        yield from tasks


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
    if known is not None and job.verifies and job.verify not in known:
        hint = did_you_mean(job.verify, known) or f"; there are {', '.join(known)}"
        message = f"the box's costs do not say what {job.verify!r} costs{hint}"
        found.append(job.section.problem("verify", message))
    if job.cpus_allowed & ~around.every:
        outside = cpulist_format(job.cpus_allowed & ~around.every)
        message = f"CPU {outside} is outside the machine (cpus: {around.cpus})"
        option = "cpus_allowed" if "cpus_allowed" in job.section.options else "cpumask"
        found.append(job.section.problem(option, message))
    return found


# Every task of a job reads from a pipe per earlier task, which writes to it when it ends.
def _wait_for(
    tasks: list[WorkloadSpec],
    earlier: list[WorkloadSpec],
    workload: Workload,
    path: Path,
    around: Surroundings,
) -> None:
    if earlier and workload.count > 1:
        around.report.at((*path, "count"), "its jobs wait for each other; name it several times")
        return
    if len(tasks) * len(earlier) > PIPES_MAX:
        around.report.at(path, f"more than {PIPES_MAX} pairs of tasks that wait for each other")
        return
    for task in tasks:
        for other in earlier:
            task.params.setdefault("reads", []).append(around.pipes)
            other.params.setdefault("writes", []).append(around.pipes)
            around.pipes += 1


def _instances(
    job: FioJob, group: int, workload: Workload, path: Path, text: JobText, around: Surroundings
) -> Iterator[WorkloadSpec]:
    under = job.names[0] if job.names and job.names[0].startswith("/") else job.directory
    mount = filesystem_of(workload, path, under, around)
    if workload.filesystem is None:
        _one_filesystem(job, mount, text, around)
    if isinstance(workload.cpus_allowed, str):
        around.report.at((*path, "cpus_allowed"), "of:NAME is for programs")
    allowed = cpus_allowed_of(workload, path, around)
    if workload.count > 1 and job.filename:
        around.report.at((*path, "count"), f"the job names one file, {job.filename}")
    start_cpu = start_cpu_of(workload, path, around)
    start_ns = start_ns_of(workload, path, around)
    slice_ns = slice_ns_of(workload, path, around)
    for instance in range(workload.count * job.numjobs):
        mask = allowed or instance_cpus(job, instance, around.every)
        policy, rt_priority = policy_of(workload, path, mask, around)
        offset = job.offset + instance * job.offset_increment
        files = _files(job, mount, offset, text, path, around)
        yield WorkloadSpec(
            name=comm_of(workload.name or "fio", (*path, "name"), around.report),
            program="fio",
            params=_job_params(job, mount, instance, files, around)
            | {"job": _description(job, group, instance)},
            count=1,
            nice=job.nice if workload.nice is None else workload.nice,
            cpus_allowed=mask,
            start_ns=start_ns + job.startdelay_ns,
            start_cpu=start_cpu,
            figure=workload.figure is not False,
            policy=policy,
            rt_priority=rt_priority,
            slice_ns=slice_ns,
        )


# A job's files lie on the file system of its first one; those that are named elsewhere are refused.
def _one_filesystem(job: FioJob, mount: str, text: JobText, around: Surroundings) -> None:
    names = [one.name for one in around.filesystems]
    for name in job.names[1:]:
        under = [one for one in names if name.startswith(one.rstrip("/") + "/")]
        other = max(under, key=len, default=mount)
        if name.startswith("/") and other != mount:
            message = f"{name} lies on {other}, not on {mount}: a job has one file system here"
            text.report(job.section.problem("filename", message), around.report)
            return


# [number, first byte used, bytes used] of each file of one task.
def _files(
    job: FioJob, mount: str, offset: int, text: JobText, path: Path, around: Surroundings
) -> list[list[int]]:
    size = offset + job.file_bytes
    block = next((one.block_size for one in around.filesystems if one.name == mount), 512)
    serialises = any(one.name == mount and one.type == "xfs" for one in around.filesystems)
    unaligned = (
        serialises and job.is_direct and job.writes and bool((job.write_bs | offset) % block)
    )
    found: list[list[int]] = []
    for name in job.names or [""] * job.nr_files:
        where = name if name.startswith("/") or not job.directory else f"{job.directory}/{name}"
        known = around.named.get((mount, where)) if name else None
        if known is None:
            around.files += 1
            known = NamedFile(around.files, 0, unaligned)
            if name:
                around.named[mount, where] = known
        elif known.unaligned or unaligned:
            message = f"another job has {name}, and writes of less than {block} bytes take turns"
            text.report(job.section.problem("filename", f"{message}: not emulated"), around.report)
        count_bytes(mount, max(0, size - known.size), path, around)
        known.size = max(known.size, size)
        found.append([known.number, offset, job.file_bytes])
    return found


def _job_params(
    job: FioJob, mount: str, instance: int, files: list[list[int]], around: Surroundings
) -> dict[str, Any]:
    depth = 1 if job.is_sync else job.iodepth
    complete_min = min(job.iodepth_batch_complete_min, depth)
    return {
        "rw": job.rw,
        "bs": job.bs if job.reads else job.write_bs,
        "size": job.file_bytes,
        "ioengine": job.ioengine,
        "iodepth": depth,
        "batch_submit": min(job.iodepth_batch or depth, depth),
        "batch_complete_min": complete_min,
        "batch_complete_max": max(job.iodepth_batch_complete_max, complete_min, 1),
        "iodepth_low": min(job.iodepth_low or depth, depth),
        "filesystem": mount,
        "file": files[0][0],
        "overwrite": job.overwrite,
        "verify": job.verify if job.verifies else "none",
        "do_verify": job.do_verify,
        "norandommap": job.norandommap,
        "randseed": job.randseed + instance,
        "runtime_ns": job.runtime_ns,
        "time_based": job.time_based,
        "thinktime_ns": job.thinktime_ns,
        "thinktime_spin_ns": job.thinktime_spin_ns,
        "thinktime_blocks": job.thinktime_blocks,
        "stats_from_ns": around.warmup_ns + job.ramp_ns,
        **_more_params(job, files),
    }


# What most jobs do not need; what has its default is left out.
def _more_params(job: FioJob, files: list[list[int]]) -> dict[str, Any]:
    read_rate, write_rate = (
        rate or (iops or 0) * bs
        for rate, iops, bs in zip(job.rate, job.rate_iops, (job.bs, job.write_bs), strict=True)
    )
    plain = len(files) == 1 and not files[0][1]
    layout, eof = _layout(job)
    found = {
        "read_sizes": (job.sizes(0) if job.reads else [], []),
        "write_sizes": (job.sizes(1) if job.writes else [], []),
        "write_bs": (job.write_bs if job.reads and job.write_bs != job.bs else 0, 0),
        "read_mix": (job.read_mix if job.rw in ("rw", "readwrite", "randrw") else 50, 50),
        "files": (None if plain else files, None),
        "service": (job.service[0], "roundrobin"),
        "service_nr": (job.service[1], 1),
        "random_map": (not job.norandommap or job.sequential, True),
        "io_size": (job.io_size, 0),
        "number_ios": (job.number_ios, 0),
        "loops": (job.loops, 1),
        "rate_read": (read_rate if job.reads else 0, 0),
        "rate_write": (write_rate if job.writes else 0, 0),
        "fsync": (job.fsync if job.writes else 0, 0),
        "fdatasync": (job.fdatasync if job.writes else 0, 0),
        "end_fsync": (job.end_fsync and job.writes, False),
        "thinktime_issued": (job.thinktime_blocks_type == "issue", False),
        "thinktime_iotime_ns": (job.thinktime_iotime_ns, 0),
        "thinktime_blocks_set": (
            not job.thinktime_iotime_ns or "thinktime_blocks" in job.section.options,
            True,
        ),
        "percentiles": (list(job.percentile_list), list(PERCENTILES)),
        "logs": (bool(job.logs), False),
        "layout": (layout, "written"),
        "eof": (eof, -1),
        "open_sync": (job.sync or "none", "none"),
        "direct": (int(job.is_direct), 1),
        "hipri": (job.hipri, False),
        "ioprio": (job.ioprio, 0),
    }
    return {name: value for name, (value, default) in found.items() if value != default}


# What fio leaves of a file before the job, and where it ends (-1: where the job ends).  A file that is read
# or overwritten it writes out; any other it makes anew, and asks for its blocks as fallocate= says.
def _layout(job: FioJob) -> tuple[str, int]:
    if job.overwrite or job.reads:
        return "written", -1
    if job.fallocate == "truncate":
        return "hole", -1
    if job.fallocate in ("none", "0"):
        return "hole", 0
    return "unwritten", 0 if job.fallocate == "keep" else -1


# What the job is called and what its author wrote, for outputs in fio's own form.
def _description(job: FioJob, group: int, instance: int) -> dict[str, Any]:
    return {
        "name": job.name,
        "group": group,
        "number": instance,
        "group_reporting": job.group_reporting,
        "logs": job.logs,
        "log_avg_msec": job.log_avg_msec,
        "options": job.section.own(),
        "global": job.section.inherited(),
    }
