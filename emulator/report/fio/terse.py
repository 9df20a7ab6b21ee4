"""fio's terse output, version 3: a line of 130 fields per job.

Times are microseconds; the classes of latencies below one microsecond count as its first class.
"""

from collections.abc import Mapping
from typing import Any

from emulator.report.fio.jobs import FIO_VERSION, DirectionResult, FioRun, JobResult
from emulator.report.fio.json_output import depth_shares, latency_classes
from emulator.report.fio.numbers import shares
from emulator.workload.latency import PERCENTILES

#: How many percentiles there is room for.
PERCENTILES_MAX = 20


def terse_text(run: FioRun) -> str:
    """Return the output of a run, a line per job."""
    return "".join(";".join(_fields(job, run)) + "\n" for job in run.jobs)


def _fields(job: JobResult, run: FioRun) -> list[str]:
    fields = ["3", FIO_VERSION, job.name, str(job.groupid), str(job.error)]
    fields += _direction(job.by_direction["read"], job) + _direction(job.by_direction["write"], job)
    fields += [f"{job.usr_cpu:f}%", f"{job.sys_cpu:f}%", str(job.switches), "0", "0"]
    fields += [f"{percent:3.1f}%" for percent in depth_shares(job)]
    fields += _classes(job)
    for disk in run.disks:
        numbers = (*disk.ios, *disk.merges, *disk.ticks, disk.in_queue)
        fields += [disk.name, *map(str, numbers), f"{disk.util:3.2f}%"]
    return fields


def _direction(one: DirectionResult, job: JobResult) -> list[str]:
    bw = one.bw
    return [
        str(one.bytes >> 10),
        str(one.bw_bytes >> 10),
        str(int(one.iops)),
        str(one.runtime_ms),
        *_latency(one.slat_ns),
        *_latency(one.clat_ns),
        *_percentiles(one.clat_ns, job.books.percentiles),
        *_latency(one.lat_ns),
        str(int(bw.get("min", 0))),
        str(int(bw.get("max", 0))),
        f"{one.bw_agg:f}%",
        f"{bw.get('mean', 0.0):f}",
        f"{bw.get('dev', 0.0):f}",
    ]


def _latency(kept: Mapping[str, Any]) -> list[str]:
    low, high = kept.get("min", 0) // 1000, kept.get("max", 0) // 1000
    mean, deviation = kept.get("mean", 0.0) / 1000, kept.get("stddev", 0.0) / 1000
    return [str(low), str(high), f"{mean:f}", f"{deviation:f}"]


def _percentiles(kept: Mapping[str, Any], wanted: tuple[float, ...]) -> list[str]:
    found = kept.get("percentile") or {f"{one:f}": 0 for one in wanted or PERCENTILES}
    fields = [f"{percent}%={value // 1000}" for percent, value in found.items()]
    return fields + ["0%=0"] * (PERCENTILES_MAX - len(fields))


def _classes(job: JobResult) -> list[str]:
    classes = latency_classes(job)
    below_us = sum(classes["ns"].values())
    micros = list(classes["us"].values())
    micros[0] += below_us
    counts = micros + list(classes["ms"].values())
    return [f"{percent:3.2f}%" for percent in shares(counts, job.total_ios, 0.01)]
