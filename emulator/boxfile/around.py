"""What a workload must fit into, and the keys that workloads of all kinds have.

When a program starts within the first ticks of a real boot is chance.  Here the seed decides it, for
every workload of the box file that says no ``start``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emulator.boxfile.kernel import did_you_mean
from emulator.boxfile.problems import Path, Report
from emulator.boxfile.storage import disk_bytes
from emulator.types import DiskSpec, FilesystemSpec, cpulist_format
from emulator.units import duration_format
from emulator.workload import PARAMS
from emulator.workload.random import seed_stream, splitmix64

if TYPE_CHECKING:
    from emulator.boxfile.schema import Workload

COMM_LEN_MAX = 15
#: What ``sched_setattr()`` clamps a slice to.
SLICE_MIN_NS = 100_000
SLICE_MAX_NS = 100_000_000

#: Policies of real-time tasks, and what is asked of these.
REALTIME = ("fifo", "rr")
ONE_CPU = (
    "a real-time task needs cpus_allowed with one CPU (pushing and pulling them is not emulated)"
)

#: A workload without a ``start`` starts at most so many ticks after boot.
START_TICKS_MAX = 8
#: Name of the stream of random numbers that these starts are drawn from.
START_STREAM = 1


@dataclass(slots=True)
class NamedFile:
    """A file that jobs name, and may share: its number, how long it is, who writes it how."""

    number: int
    size: int
    unaligned: bool  #: somebody writes less than blocks of the file system


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
    named: dict[tuple[str, str], NamedFile] = field(default_factory=dict)  #: by mount and path
    begun: dict[str, int] = field(default_factory=dict)  #: tasks so far, and when they start

    @property
    def every(self) -> int:
        """Return the mask of all CPUs."""
        return (1 << self.cpus) - 1


def filesystem_of(workload: Workload, path: Path, file: str, around: Surroundings) -> str:
    """Return the file system that was named, else the one that a file lies under, else the only one."""
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


def cpus_allowed_of(workload: Workload, path: Path, around: Surroundings) -> int:
    """Return the CPU mask that a workload gives, 0 if it gives none."""
    mask = workload.cpus_allowed
    if mask is None or isinstance(mask, str):
        return 0
    outside = mask & ~around.every
    if outside:
        message = f"CPU {cpulist_format(outside)} is outside the machine (cpus: {around.cpus})"
        around.report.at((*path, "cpus_allowed"), message)
    return mask & around.every


def pinned_to_of(workload: Workload, path: Path, around: Surroundings) -> str:
    """Return the task to whose CPU a program binds itself when it starts: one that has started by then."""
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


def start_ns_of(workload: Workload, path: Path, around: Surroundings) -> int:
    """Return when it starts.  All tasks of one entry start together, as fio's jobs do."""
    if workload.start is not None:
        return workload.start
    _, bits = splitmix64(seed_stream(around.seed, START_STREAM, int(path[1])))
    return bits % (START_TICKS_MAX * around.tick_ns + 1)


def slice_ns_of(workload: Workload, path: Path, around: Surroundings) -> int:
    """Return the slice that its tasks ask for, 0 for none."""
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


def policy_of(workload: Workload, path: Path, mask: int, around: Surroundings) -> tuple[str, int]:
    """Return the policy and real-time priority of tasks that are allowed the CPUs of ``mask``."""
    policy, priority = workload.policy, workload.rt_priority
    if policy not in REALTIME:
        if priority is not None:
            around.report.at_key(
                (*path, "rt_priority"), f"policy {policy} has none; fifo and rr have"
            )
        return policy, 0
    if priority is None:
        around.report.at((*path, "policy"), f"{policy} needs a rt_priority, 1 to 99")
    elif mask.bit_count() != 1:
        around.report.at((*path, "policy"), f"{policy}: {ONE_CPU}")
    return policy, priority or 1


def start_cpu_of(workload: Workload, path: Path, around: Surroundings) -> int:
    """Return the CPU on which it starts, -1 for fork placement."""
    cpu = workload.start_cpu
    if cpu is None:
        return -1
    if cpu >= around.cpus:
        message = f"there is no CPU {cpu} (cpus: {around.cpus})"
        around.report.at((*path, "start_cpu"), message)
    elif isinstance(workload.cpus_allowed, int) and not workload.cpus_allowed >> cpu & 1:
        around.report.at((*path, "start_cpu"), f"CPU {cpu} is not in cpus_allowed")
    return cpu


def comm_of(name: str, path: Path, report: Report) -> str:
    """Return a name that tasks may have."""
    if not name.isprintable() or not name.isascii() or not 0 < len(name) <= COMM_LEN_MAX:
        report.at(path, f"{name!r} is no task name: 1 to {COMM_LEN_MAX} ASCII characters")
    return name


def count_bytes(mount: str, size: int, path: Path, around: Surroundings) -> None:
    """Take room on a file system; say so once if there is not enough."""
    disk = next((one.disk for one in around.filesystems if one.name == mount), None)
    room = next((disk_bytes(one) for one in around.disks if one.name == disk), None)
    used = around.bytes_on.get(mount, 0) + size
    around.bytes_on[mount] = used
    if room is not None and used > room >= used - size:
        message = f"its file does not fit on {disk}, which has {room >> 20} MiB"
        around.report.at(path, message)
