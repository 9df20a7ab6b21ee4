"""fio's log files, of jobs that ask for them: bandwidth, latencies and IOPS over time.

A line is time in ms, value, direction (0 read, 1 write), block size, and an offset that is 0 without
``log_offset``.  Values are KiB/s, ns, and IOs per second.  Without ``log_avg_msec`` a line is an IO, as
in fio; with it, latencies are means of the IOs since the last line, which comes with the first IO that
is late enough, and bandwidth and IOPS are those of each window.

Times count from where the figures of the job begin, as fio's do after its ``ramp_time``.

Departure: windows of bandwidth and IOPS end on the millisecond, fio's helper thread is a little late.
"""

from collections.abc import Iterator

from emulator.report.fio.jobs import LoggedJob
from emulator.types import NSEC_PER_MSEC, NSEC_PER_SEC

#: Time, latency from the engine's call on, latency from io_submit() on.
Entry = tuple[int, int, int]

_LATENCIES = ("slat", "clat", "lat")


def log_files(jobs: list[LoggedJob]) -> Iterator[tuple[str, str]]:
    """Yield name and text of each log file that the jobs of a run write."""
    for job in jobs:
        for kind, prefix in job.logs.items():
            name = prefix.rpartition("/")[2]
            if kind == "lat":
                for which in _LATENCIES:
                    yield f"{name}_{which}.{job.number}.log", _text(latency_lines(job, which))
            else:
                yield f"{name}_{kind}.{job.number}.log", _text(rate_lines(job, kind))


def entries(job: LoggedJob, way: int) -> list[Entry]:
    """Return the IOs of a direction in order of time, which counts from the job's begin."""
    log = (job.books.write if way else job.books.read).log or []
    begin_ns = job.books.begin_ns
    found = [(log[at] - begin_ns, log[at + 1], log[at + 2]) for at in range(0, len(log), 3)]
    return sorted(found, key=lambda entry: entry[0])


def block_size(job: LoggedJob, way: int) -> int:
    """Return the block size of a direction."""
    return (job.books.write if way else job.books.read).bs


# A line, and what it is sorted by.
Line = tuple[int, int, int, int]


def latency_lines(job: LoggedJob, which: str) -> list[Line]:
    """Return (ms, ns, direction, block size) of slat, clat or lat."""
    lines: list[Line] = []
    for way in (0, 1):
        values = [
            (time_ns // NSEC_PER_MSEC, {"slat": lat - clat, "clat": clat, "lat": lat}[which])
            for time_ns, lat, clat in entries(job, way)
        ]
        if job.log_avg_ms:
            lines += [(ms, value, way, 0) for ms, value in averaged(values, job.log_avg_ms)]
        else:
            lines += [(ms, value, way, block_size(job, way)) for ms, value in values]
    return sorted(lines, key=lambda line: line[0])


def averaged(values: list[tuple[int, int]], window_ms: int) -> Iterator[tuple[int, int]]:
    """Yield the mean of the values of each window, and when the IO came that ended it."""
    begin_ms, total, count, ms = 0, 0, 0, 0
    for ms, value in values:
        total, count = total + value, count + 1
        if ms - begin_ms >= window_ms:
            yield ms, round(total / count)
            begin_ms, total, count = ms - ms % window_ms, 0, 0
    if count:
        yield ms, round(total / count)


def rate_lines(job: LoggedJob, kind: str) -> list[Line]:
    """Return (ms, KiB/s or IOs per second, direction, block size)."""
    lines: list[Line] = []
    for way in (0, 1):
        bs = block_size(job, way)
        found = entries(job, way)
        if job.log_avg_ms:
            lines += _windows(job, kind, way, [time_ns for time_ns, _, _ in found])
        else:
            for time_ns, _lat, clat in found:
                value = bs * 1_000_000 // clat if kind == "bw" and clat else int(kind == "iops")
                lines.append((time_ns // NSEC_PER_MSEC, value, way, bs))
    return sorted(lines, key=lambda line: line[0])


def _windows(job: LoggedJob, kind: str, way: int, times: list[int]) -> Iterator[Line]:
    window_ns = job.log_avg_ms * NSEC_PER_MSEC
    counts = [0] * ((job.books.end_ns - job.books.begin_ns) // window_ns)
    for time_ns in times:
        if time_ns // window_ns < len(counts):
            counts[time_ns // window_ns] += 1
    for index, count in enumerate(counts if times else ()):
        iops = count * NSEC_PER_SEC // window_ns
        rate = count * block_size(job, way) * NSEC_PER_SEC // window_ns // 1024
        yield (index + 1) * job.log_avg_ms, rate if kind == "bw" else iops, way, 0


def _text(lines: list[Line]) -> str:
    return "".join(f"{ms}, {value}, {way}, {bs}, 0\n" for ms, value, way, bs in lines)
