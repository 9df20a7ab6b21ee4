"""fio's normal output: what a person reads, in the words and columns of fio 3.33."""

from collections.abc import Iterable, Mapping
from math import log10
from os import strerror
from typing import Any

from emulator.report.fio.jobs import (
    DirectionResult,
    DiskUtil,
    FioRun,
    JobResult,
    group_bandwidth,
    of_group,
)
from emulator.report.fio.json_output import batch_shares, clock, depth_shares, latency_classes
from emulator.report.fio.numbers import (
    bandwidth,
    class_shares,
    num2str,
    percentile_scale,
    scaled,
)
from emulator.workload.fio_books import BATCH_NAMES, DEPTH_NAMES

#: Width of fio's tables of percentiles, and the decimals of a percentage.
WIDTH = 80
PRECISION = 2

UNIT_NAMES = {"ns": "nsec", "us": "usec", "ms": "msec"}


def normal_text(run: FioRun) -> str:
    """Return the output of a run."""
    lines = [line for job in run.jobs for line in _job_lines(job, run.end_ns)]
    for group in run.groups:
        lines += ["", f"Run status group {group} (all jobs):", *_group_lines(run.jobs, group)]
    if run.disks:
        lines += ["", "Disk stats (read/write):", *(_disk_line(disk) for disk in run.disks)]
    return "\n".join(lines) + "\n"


def _job_lines(job: JobResult, end_ns: int) -> list[str]:
    lines = [
        (
            f"{job.name}: (groupid={job.groupid}, jobs={job.jobs}): err={job.error:2d}"
            f"{_verror(job.error)}: pid={job.pid}: {clock(end_ns)}"
        )
    ]
    for name, one in job.by_direction.items():
        if one.runtime_ms:
            lines += direction_lines(name, one)
    classes = latency_classes(job)
    for unit in ("ns", "us", "ms"):
        lines += class_lines(UNIT_NAMES[unit], class_shares(classes[unit], job.total_ios))
    sync = job.books.books()["sync"]["lat_ns"]
    if sync["n"]:
        lines += ["  fsync/fdatasync/sync_file_range:", _latency_line("sync", sync)]
        lines += _percentile_lines("sync", sync["percentile"])
    return lines + _tail_lines(job, sync["n"])


# What fio 3.33 says of the first failed IO.
def _verror(error: int) -> str:
    if not error:
        return ""
    return f" (file:io_u.c:1876, func=io_u error, error={strerror(error)})"


def direction_lines(name: str, one: DirectionResult) -> list[str]:
    """Return what is said of one direction of a job."""
    zones = "; 0 zone resets" if name == "write" else ""
    size = num2str(one.bytes, 4, binary=True, unit="B")
    lines = [
        (
            f"  {name}: IOPS={num2str(int(one.iops), 4)}, BW={bandwidth(one.bw_bytes)}"
            f"({size}/{one.runtime_ms}msec){zones}"
        )
    ]
    if one.slat_ns["n"]:
        lines.append(_latency_line("slat", one.slat_ns))
    if one.clat_ns["n"]:
        lines.append(_latency_line("clat", one.clat_ns))
    if one.lat_ns["n"]:
        lines.append(_latency_line(" lat", one.lat_ns))
    if one.clat_ns["n"]:
        lines += _percentile_lines("clat", one.clat_ns["percentile"])
    if one.bw.get("samples"):
        lines += _sample_lines(one)
    return lines


def _latency_line(name: str, kept: Mapping[str, Any]) -> str:
    unit, ns = scaled(kept["min"], kept["max"], kept["stddev"])
    low, high = num2str(kept["min"] // ns, 6), num2str(kept["max"] // ns, 6)
    return (
        f"    {name} ({unit}): min={low}, max={high}, avg={kept['mean'] / ns:5.02f}, "
        f"stdev={kept['stddev'] / ns:5.02f}"
    )


def _percentile_lines(name: str, percentiles: Mapping[str, int]) -> list[str]:
    unit, ns = percentile_scale(min(percentiles.values()), max(percentiles.values()))
    width = max(5, int(log10(max(max(percentiles.values()) // ns, 1)) + 1))
    per_line = (WIDTH - 7) // (PRECISION + 10 + width)
    cells = [
        f" {float(percent):{PRECISION + 3}.{PRECISION}f}th=[{-(-value // ns):{width}d}]"
        for percent, value in percentiles.items()
    ]
    rows = [cells[at : at + per_line] for at in range(0, len(cells), per_line)]
    lines = ["     |" + ",".join(row) for row in rows]
    return [f"    {name} percentiles ({unit}):", *(line + "," for line in lines[:-1]), lines[-1]]


def _sample_lines(one: DirectionResult) -> list[str]:
    bw, iops = dict(one.bw), one.iops_of
    unit = "KiB"
    if bw["mean"] > 1024 * 1024:
        unit = "MiB"
        bw = {name: value / 1024 if name != "samples" else value for name, value in bw.items()}
    return [
        (
            f"   bw ({unit:>5s}/s): min={int(bw['min']):5d}, max={int(bw['max']):5d}, "
            f"per={one.bw_agg:3.2f}%, avg={bw['mean']:5.02f}, stdev={bw['dev']:5.02f}, "
            f"samples={int(bw['samples'])}"
        ),
        (
            f"   iops        : min={int(iops['min']):5d}, max={int(iops['max']):5d}, "
            f"avg={iops['mean']:5.02f}, stdev={iops['dev']:5.02f}, samples={int(iops['samples'])}"
        ),
    ]


def class_lines(unit: str, percents: Mapping[str, float]) -> list[str]:
    """Return the classes of one unit of latency, five to a line; empty ones are left out."""
    cells = [f"{name}={percent:3.2f}%" for name, percent in percents.items() if percent > 0]
    rows = [cells[at : at + 5] for at in range(0, len(cells), 5)]
    return [f"  lat ({unit})   : {', '.join(row)}" for row in rows]


def _tail_lines(job: JobResult, syncs: int) -> list[str]:
    directions = job.by_direction.values()
    totals = ",".join(str(one.ios) for one in directions)
    shorts = ",".join(str(one.short_ios) for one in directions)
    drops = ",".join(str(one.drop_ios) for one in directions)
    return [
        (
            f"  cpu          : usr={job.usr_cpu:3.2f}%, sys={job.sys_cpu:3.2f}%, ctx={job.switches}, "
            "majf=0, minf=0"
        ),
        f"  IO depths    : {_row(DEPTH_NAMES, depth_shares(job))}",
        f"     submit    : {_row(BATCH_NAMES, batch_shares(job.books.submits))}",
        f"     complete  : {_row(BATCH_NAMES, batch_shares(job.books.reaps))}",
        f"     issued rwts: total={totals},{syncs} short={shorts},0 dropped={drops},0",
        f"     latency   : target=0, window=0, percentile=100.00%, depth={job.iodepth}",
    ]


def _row(names: Iterable[str], percents: Iterable[float]) -> str:
    return ", ".join(
        f"{name}={percent:3.1f}%" for name, percent in zip(names, percents, strict=True)
    )


def _group_lines(jobs: list[JobResult], group: int) -> list[str]:
    lines: list[str] = []
    for name in ("read", "write", "trim"):
        found = of_group(jobs, group, name)
        if not found:
            continue
        total = sum(one.bytes for one in found)
        speeds = sorted(one.bw_bytes for one in found)
        times = sorted(one.runtime_ms for one in found)
        binary = "-".join(
            num2str(one, 4, binary=True, unit="B/s") for one in (speeds[0], speeds[-1])
        )
        decimal = "-".join(num2str(one, 4, unit="B/s") for one in (speeds[0], speeds[-1]))
        size = f"{num2str(total, 4, binary=True, unit='B')} ({num2str(total, 4, unit='B')})"
        whole = bandwidth(group_bandwidth(jobs, group, name))
        lines.append(
            f"{name.upper():>7s}: bw={whole}, {binary} ({decimal}), io={size}, "
            f"run={times[0]}-{times[-1]}msec"
        )
    return lines


def _disk_line(disk: DiskUtil) -> str:
    return (
        f"  {disk.name}: ios={disk.ios[0]}/{disk.ios[1]}, merge={disk.merges[0]}/{disk.merges[1]}, "
        f"ticks={disk.ticks[0]}/{disk.ticks[1]}, in_queue={disk.in_queue}, util={disk.util:3.2f}%"
    )
