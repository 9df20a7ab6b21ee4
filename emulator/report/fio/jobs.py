"""The fio jobs of a run: what each has measured, what CPU time it took, how they are grouped.

Theory of operation
-------------------
A job's books (:mod:`emulator.workload.fio_books`) say what it measured; ``programs.json`` of the run
directory keeps them whole.  What they do not know is counted from the rings over the same stretch of
emulated time: CPU time and switches of the task, and what its disk did.  A job with ``group_reporting``
is one entry with the jobs of its group before it, as in fio: bandwidths and IOPS add up, with their
least, greatest and mean values.

The clock is the box's: it began at 0.

Departures: a job's CPU time is what ticks say (``getrusage()``); page faults are 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emulator.kernel.kthread import FIRST_USER_PID
from emulator.report.procfs.counts import Counter
from emulator.report.procfs.disks import STAT_READ, STAT_WRITE, DiskCounter
from emulator.report.procfs.view import disk_dev
from emulator.trace.reader import RingReader
from emulator.types import NSEC_PER_MSEC, NSEC_PER_SEC, BoxSpec
from emulator.workload.fio_books import FIO, FioBooks

#: The version whose output this is.
FIO_VERSION = "fio-3.33"

DIRECTIONS = ("read", "write", "trim")

#: A box's program books as they are kept: pid -> one packed book per CPU.
ProgramBooks = Mapping[int, Sequence[list[Any]]]


@dataclass(slots=True)
class DirectionResult:
    """One direction of a job, in fio's numbers; a direction without IO is all zeros."""

    ios: int = 0
    bytes: int = 0
    runtime_ms: int = 0
    short_ios: int = 0
    drop_ios: int = 0
    slat_ns: Mapping[str, Any] = field(default_factory=lambda: {"n": 0})
    clat_ns: Mapping[str, Any] = field(default_factory=lambda: {"n": 0})
    lat_ns: Mapping[str, Any] = field(default_factory=lambda: {"n": 0})
    clat_bins: Mapping[int, int] = field(default_factory=dict)
    bw: Mapping[str, float] = field(default_factory=dict)  #: min, max, mean, dev, samples; KiB/s
    iops_of: Mapping[str, float] = field(default_factory=dict)
    group_bw: int = 0  #: bytes per second of the group's direction

    @property
    def bw_bytes(self) -> int:
        """Return bytes per second."""
        return self.bytes * 1000 // self.runtime_ms if self.runtime_ms else 0

    @property
    def iops(self) -> float:
        """Return IOs per second."""
        return self.ios * 1000 / self.runtime_ms if self.runtime_ms else 0.0

    @property
    def bw_agg(self) -> float:
        """Return the mean bandwidth in percent of the group's, 100 at most."""
        mean = self.bw.get("mean", 0.0)
        return min(100.0, mean * 100 / (self.group_bw / 1024)) if self.group_bw else 0.0


@dataclass(slots=True)
class JobResult:
    """One entry of fio's output: a job, or the jobs of a group together."""

    name: str
    groupid: int
    pid: int
    jobs: int
    error: int
    iodepth: int
    options: Mapping[str, str]
    books: FioBooks
    by_direction: dict[str, DirectionResult]
    total_run_ms: int  #: of all its jobs
    user_ns: int
    system_ns: int
    switches: int

    @property
    def total_ios(self) -> int:
        """Return the IOs of all directions."""
        return sum(one.ios for one in self.by_direction.values())

    @property
    def usr_cpu(self) -> float:
        """Return user time in percent of the run time."""
        return self._percent(self.user_ns)

    @property
    def sys_cpu(self) -> float:
        """Return system time in percent of the run time."""
        return self._percent(self.system_ns)

    def _percent(self, ns: int) -> float:
        return ns * 100 / (self.total_run_ms * NSEC_PER_MSEC) if self.total_run_ms else 0.0


@dataclass(frozen=True, slots=True)
class DiskUtil:
    """What fio says of a disk: numbers of the stretch in which its jobs ran."""

    name: str
    ios: tuple[int, int]
    merges: tuple[int, int]
    ticks: tuple[int, int]  #: ms
    in_queue: int
    util: float


@dataclass(slots=True)
class FioRun:
    """All jobs of a run, and its disks."""

    jobs: list[JobResult]
    disks: list[DiskUtil]
    end_ns: int
    global_options: Mapping[str, str]

    @property
    def groups(self) -> list[int]:
        """Return the groups there are."""
        return sorted({job.groupid for job in self.jobs})


@dataclass(frozen=True, slots=True)
class LoggedJob:
    """One job that writes logs."""

    number: int  #: among all jobs of the run, from 1 on
    logs: Mapping[str, str]  #: bw, lat, iops: how the files' names begin
    log_avg_ms: int
    books: FioBooks


def logged_jobs(spec: BoxSpec, programs: ProgramBooks) -> list[LoggedJob]:
    """Return the jobs of a run that write logs; every task is one, ``group_reporting`` or not."""
    found: list[LoggedJob] = []
    for number, (pid, books) in enumerate(sorted(_whole(programs).items()), 1):
        job = spec.workloads[(pid - FIRST_USER_PID) // 100].params.get("job", {})
        if job.get("logs") and books.end_ns > books.begin_ns:
            found.append(LoggedJob(number, job["logs"], job.get("log_avg_msec", 0), books))
    return found


def fio_run(spec: BoxSpec, programs: ProgramBooks, readers: Sequence[RingReader]) -> FioRun:
    """Return the fio jobs of a run from its program books and its rings; it may have none."""
    members = [_member(spec, pid, books) for pid, books in sorted(_whole(programs).items())]
    members = [member for member in members if member.end_ns > 0]
    _count_cpu_time(members, readers, spec.machine.hz)
    jobs = [_entry(together) for together in _together(members)]
    for job in jobs:
        _share_group(job, jobs)
    end_ns = max((member.end_ns for member in members), default=0)
    begin_ns = min((member.begin_ns for member in members), default=0)
    disks = _disks(spec, readers, begin_ns, end_ns) if members else []
    return FioRun(jobs, disks, end_ns, members[0].global_options if members else {})


@dataclass(slots=True)
class _Member:
    # One job of one task.
    pid: int
    name: str
    group: int
    reporting: bool
    iodepth: int
    options: Mapping[str, str]
    global_options: Mapping[str, str]
    books: FioBooks
    user_ns: int = 0
    system_ns: int = 0
    switches: int = 0

    @property
    def begin_ns(self) -> int:
        return min(self.books.begin_ns, self.books.end_ns)

    @property
    def end_ns(self) -> int:
        return self.books.end_ns


def _whole(programs: ProgramBooks) -> dict[int, FioBooks]:
    found: dict[int, FioBooks] = {}
    for pid, parts in programs.items():
        packed = [part for part in parts if part[0] == FIO]
        if packed:
            found[pid] = FioBooks.unpack(packed[0])
            for other in packed[1:]:
                found[pid].merge(FioBooks.unpack(other))
    return found


def _member(spec: BoxSpec, pid: int, books: FioBooks) -> _Member:
    workload = spec.workloads[(pid - FIRST_USER_PID) // 100]
    params = workload.params
    job = params.get("job", {})
    return _Member(
        pid=pid,
        name=job.get("name", workload.name),
        group=job.get("group", 0),
        reporting=bool(job.get("group_reporting", False)),
        iodepth=params.get("iodepth", 1),
        options=_written(job.get("options", {})),
        global_options=_written(job.get("global", {})),
        books=books,
    )


# fio's JSON leaves out options that were written without a value.
def _written(options: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in options.items() if value is not None}


# Each member's own stretch of time; the rings are gone over once for all of them.
def _count_cpu_time(members: list[_Member], readers: Sequence[RingReader], hz: int) -> None:
    counter = Counter(readers, hz)
    marks = sorted(
        [(member.begin_ns, -1, index) for index, member in enumerate(members)]
        + [(member.end_ns, 1, index) for index, member in enumerate(members)]
    )
    for time_ns, sign, index in marks:
        counter.advance(time_ns)
        member = members[index]
        task = counter.tasks[member.pid]
        user_ns, system_ns = task.cputime(time_ns)
        member.user_ns += sign * user_ns
        member.system_ns += sign * system_ns
        member.switches += sign * (task.nvcsw + task.nivcsw)


# Whether a job has an entry of its own is for itself to say, not for the one before it.
def _together(members: list[_Member]) -> list[list[_Member]]:
    entries: list[list[_Member]] = []
    for member in members:
        if entries and member.reporting and entries[-1][0].group == member.group:
            entries[-1].append(member)
        else:
            entries.append([member])
    return entries


def _entry(together: list[_Member]) -> JobResult:
    first = together[0]
    books = first.books
    parts = [member.books.books() for member in together]
    for other in together[1:]:
        books.merge(other.books)
    whole = books.books()
    runtime_ms = whole["runtime_ns"] // NSEC_PER_MSEC
    return JobResult(
        name=first.name,
        groupid=first.group,
        pid=first.pid,
        jobs=len(together),
        error=max(0, -whole["error"]),  # a short IO is none
        iodepth=together[-1].iodepth,
        options=first.options,
        books=books,
        by_direction={
            "read": _direction(whole["read"], [part["read"] for part in parts], runtime_ms),
            "write": _direction(whole["write"], [part["write"] for part in parts], runtime_ms),
            "trim": DirectionResult(),
        },
        total_run_ms=runtime_ms * len(together),
        user_ns=sum(member.user_ns for member in together),
        system_ns=sum(member.system_ns for member in together),
        switches=sum(member.switches for member in together),
    )


# Jobs may differ in block size, so that bytes are the parts'.
def _direction(
    kept: Mapping[str, Any], parts: list[Mapping[str, Any]], runtime_ms: int
) -> DirectionResult:
    if not kept["ios"]:
        return DirectionResult()
    return DirectionResult(
        ios=kept["ios"],
        bytes=sum(part["bytes"] for part in parts),
        runtime_ms=runtime_ms,
        short_ios=kept["short_ios"],
        drop_ios=kept["drop_ios"],
        slat_ns=kept["slat_ns"],
        clat_ns=kept["clat_ns"],
        lat_ns=kept["lat_ns"],
        clat_bins=kept["clat_bins"],
        bw=_summed(parts, "bw"),
        iops_of=_summed(parts, "iops"),
    )


# fio's sum_stat() of jobs that run beside each other.
def _summed(parts: list[Mapping[str, Any]], name: str) -> dict[str, float]:
    with_samples = [part for part in parts if part[f"{name}_samples"]]
    total = {
        key: sum(part[f"{name}_{key}"] for part in with_samples)
        for key in ("min", "max", "mean", "samples")
    }
    squares = sum(part[f"{name}_dev"] ** 2 * (part[f"{name}_samples"] - 1) for part in with_samples)
    more = total["samples"] - 1
    return total | {"dev": (squares / more) ** 0.5 if more > 0 else 0.0}


def _share_group(job: JobResult, jobs: list[JobResult]) -> None:
    for name, one in job.by_direction.items():
        one.group_bw = group_bandwidth(jobs, job.groupid, name)


def of_group(jobs: Iterable[JobResult], group: int, direction: str) -> list[DirectionResult]:
    """Return a direction of all jobs of a group that have done anything in it."""
    found = [job.by_direction[direction] for job in jobs if job.groupid == group]
    return [one for one in found if one.runtime_ms]


def group_bandwidth(jobs: Iterable[JobResult], group: int, direction: str) -> int:
    """Return the bytes per second of a group: all its bytes over its longest run."""
    found = of_group(jobs, group, direction)
    longest = max((one.runtime_ms for one in found), default=0)
    return sum(one.bytes for one in found) * 1000 // longest if longest else 0


def _disks(
    spec: BoxSpec, readers: Sequence[RingReader], begin_ns: int, end_ns: int
) -> list[DiskUtil]:
    used = {one.disk for one in spec.filesystems}
    counter = DiskCounter(readers, spec.kernel.rules, spec.machine.hz)
    counter.advance(begin_ns)
    before = [_disk_numbers(counter, index) for index in range(len(spec.disks))]
    counter.advance(end_ns)
    found: list[DiskUtil] = []
    for index, disk in enumerate(spec.disks):
        if disk.name in used:
            after = _disk_numbers(counter, index)
            change = [late - early for late, early in zip(after, before[index], strict=True)]
            busy_ms = change.pop()
            length_ms = (end_ns - begin_ns) // NSEC_PER_MSEC
            util = min(100.0, 100 * busy_ms / length_ms) if length_ms else 0.0
            reads, writes, merged, merged_w, ticks, ticks_w, in_queue = change
            pairs = ((reads, writes), (merged, merged_w), (ticks, ticks_w))
            found.append(DiskUtil(disk.name, *pairs, in_queue, util))
    return found


def _disk_numbers(counter: DiskCounter, index: int) -> list[int]:
    counts = counter.disks[disk_dev(index)]
    both = [counts.groups[STAT_READ], counts.groups[STAT_WRITE]]
    return [
        *(group.ios for group in both),
        *(group.merges for group in both),
        *(group.ms for group in both),
        counter.queue_ms(counts),
        counter.io_ms(counts),
    ]


def seconds(ns: int) -> int:
    """Return whole seconds."""
    return ns // NSEC_PER_SEC
