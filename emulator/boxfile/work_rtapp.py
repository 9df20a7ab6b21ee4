"""rt-app workloads of a box: a task file, one workload per instance of each of its tasks.

The tasks start together, as rt-app's threads do at its barrier.  What the box file says of CPUs is
for tasks that name none, as if rt-app had been started by ``taskset``; its ``nice`` wins.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from emulator.boxfile.around import (
    COMM_LEN_MAX,
    SLICE_MAX_NS,
    SLICE_MIN_NS,
    Surroundings,
    comm_of,
    cpus_allowed_of,
    slice_ns_of,
    start_cpu_of,
    start_ns_of,
)
from emulator.boxfile.problems import Path
from emulator.boxfile.work_fio import JobText
from emulator.types import WorkloadSpec
from emulator.workload.rtapp_file import RtappReader
from emulator.workload.rtapp_meetings import RtTask

if TYPE_CHECKING:
    from emulator.boxfile.schema import Workload

#: Keys of a workload that a task file has no use for.
_FOREIGN = ("section", "filesystem", "env", "params", "name", "rt_priority")


def rtapp_workloads(
    workload: Workload, path: Path, text: JobText, around: Surroundings
) -> Iterator[WorkloadSpec]:
    """Yield the tasks of a task file, ``count`` times."""
    for key in _FOREIGN:
        if getattr(workload, key):
            around.report.at_key((*path, key), "belongs to other workloads; edit the task file")
    if workload.policy != "normal":
        around.report.at_key((*path, "policy"), "the task file says it")
    if isinstance(workload.cpus_allowed, str):
        around.report.at((*path, "cpus_allowed"), "of:NAME is for programs")
    allowed = cpus_allowed_of(workload, path, around)
    start_cpu = start_cpu_of(workload, path, around)
    start_ns = start_ns_of(workload, path, around)
    slice_ns = slice_ns_of(workload, path, around)
    for _ in range(workload.count):
        reader = RtappReader(around.cpus, around.pipes, allowed, custom_slice=around.custom_slice)
        reader.read(text.text)
        around.pipes = reader.pipes
        for problem in reader.problems:
            text.report(problem, around.report)
        if reader.problems:
            return
        for task in reader.tasks:
            yield WorkloadSpec(
                name=comm_of(task.name[:COMM_LEN_MAX], (*path, "rtapp"), around.report),
                program="rtapp",
                params=_task_params(task, start_ns, reader.duration_ns, around),
                count=1,
                nice=task.nice if workload.nice is None else workload.nice,
                cpus_allowed=task.cpus or reader.cpus_allowed,
                start_ns=start_ns + task.delay_ns,
                start_cpu=start_cpu,
                figure=bool(workload.figure),
                policy=task.policy,
                rt_priority=task.rt_priority,
                slice_ns=slice_ns or _clamped(task.slice_ns),
            )


def _task_params(
    task: RtTask, start_ns: int, duration_ns: int, around: Surroundings
) -> dict[str, object]:
    return {
        "phases": task.phases,
        "loop": task.loop,
        "timers": len(task.timers),
        "begin_ns": start_ns + task.delay_ns,
        "end_ns": start_ns + duration_ns if duration_ns else 0,
        "reads": task.reads,
        "writes": task.writes,
        "stats_from_ns": around.warmup_ns,
    }


# sched_setattr() clamps the slice that it is asked for.
def _clamped(slice_ns: int) -> int:
    return min(max(slice_ns, SLICE_MIN_NS), SLICE_MAX_NS) if slice_ns else 0
