"""fio's JSON: the keys of fio 3.33 in their order, and its way to write them.

Floats have six decimals, a key is followed by `` : ``, an empty object is two lines.  ``json+`` adds the
bins of each distribution.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from emulator.report.fio.jobs import (
    DIRECTIONS,
    FIO_VERSION,
    DirectionResult,
    DiskUtil,
    FioRun,
    JobResult,
    seconds,
)
from emulator.report.fio.numbers import class_shares, shares
from emulator.types import NSEC_PER_MSEC
from emulator.workload.fio_books import BATCH_NAMES, DEPTH_NAMES, histogram
from emulator.workload.latency import LatencyStat

Tree = dict[str, Any]


def json_text(run: FioRun, plus: bool = False) -> str:
    """Return the output of a run as fio prints it."""
    return _text(json_tree(run, plus), 0) + "\n"


def json_tree(run: FioRun, plus: bool = False) -> Tree:
    """Return the same as a tree."""
    tree: Tree = {
        "fio version": FIO_VERSION,
        "timestamp": seconds(run.end_ns),
        "timestamp_ms": run.end_ns // NSEC_PER_MSEC,
        "time": clock(run.end_ns),
    }
    if run.global_options:
        tree["global options"] = dict(run.global_options)
    tree["jobs"] = [_job(job, run.end_ns, plus) for job in run.jobs]
    if run.disks:
        tree["disk_util"] = [_disk(disk) for disk in run.disks]
    return tree


def clock(now_ns: int) -> str:
    """Return a moment as ``ctime()`` writes it."""
    return datetime.fromtimestamp(seconds(now_ns), UTC).strftime("%a %b %e %H:%M:%S %Y")


def _job(job: JobResult, end_ns: int, plus: bool) -> Tree:
    books = job.books.books()
    latency = latency_classes(job)
    return {
        "jobname": job.name,
        "groupid": job.groupid,
        "error": job.error,
        "eta": 0,
        "elapsed": seconds(end_ns) + 1,
        "job options": dict(job.options),
        **{name: _direction(job.by_direction[name], plus) for name in DIRECTIONS},
        "sync": _sync(job.books.sync, books["sync"]["lat_ns"], plus),
        "job_runtime": job.total_run_ms,
        "usr_cpu": job.usr_cpu,
        "sys_cpu": job.sys_cpu,
        "ctx": job.switches,
        "majf": 0,
        "minf": 0,
        "iodepth_level": dict(zip(DEPTH_NAMES, depth_shares(job), strict=True)),
        "iodepth_submit": dict(zip(BATCH_NAMES, batch_shares(job.books.submits), strict=True)),
        "iodepth_complete": dict(zip(BATCH_NAMES, batch_shares(job.books.reaps), strict=True)),
        **{f"latency_{unit}": class_shares(latency[unit], job.total_ios) for unit in latency},
        "latency_depth": job.iodepth,
        "latency_target": 0,
        "latency_percentile": 100.0,
        "latency_window": 0,
    }


def depth_shares(job: JobResult) -> list[float]:
    """Return how many percent of the IOs were issued at each depth."""
    return shares(job.books.depths, sum(job.books.depths), 0.1)


def batch_shares(calls: list[int]) -> list[float]:
    """Return how many percent of the calls had each size."""
    return shares(calls, sum(calls), 0.1)


def latency_classes(job: JobResult) -> dict[str, dict[str, int]]:
    """Return the IOs of all directions by class of their completion latency."""
    both = [one.clat.latency_classes() for one in (job.books.read, job.books.write)]
    return {
        unit: {name: sum(one[unit][name] for one in both) for name in both[0][unit]}
        for unit in ("ns", "us", "ms")
    }


def _direction(one: DirectionResult, plus: bool) -> Tree:
    bw, iops = one.bw, one.iops_of
    return {
        "io_bytes": one.bytes,
        "io_kbytes": one.bytes >> 10,
        "bw_bytes": one.bw_bytes,
        "bw": one.bw_bytes >> 10,
        "iops": float(one.iops),
        "runtime": one.runtime_ms,
        "total_ios": one.ios,
        "short_ios": one.short_ios,
        "drop_ios": one.drop_ios,
        "slat_ns": _latency(one.slat_ns),
        "clat_ns": _latency(one.clat_ns, percentiles=True, bins=one.clat_bins if plus else None),
        "lat_ns": _latency(one.lat_ns),
        "bw_min": int(bw.get("min", 0)),
        "bw_max": int(bw.get("max", 0)),
        "bw_agg": float(one.bw_agg),
        "bw_mean": float(bw.get("mean", 0)),
        "bw_dev": float(bw.get("dev", 0)),
        "bw_samples": int(bw.get("samples", 0)),
        "iops_min": int(iops.get("min", 0)),
        "iops_max": int(iops.get("max", 0)),
        "iops_mean": float(iops.get("mean", 0)),
        "iops_stddev": float(iops.get("dev", 0)),
        "iops_samples": int(iops.get("samples", 0)),
    }


def _latency(
    kept: Mapping[str, Any], percentiles: bool = False, bins: Mapping[int, int] | None = None
) -> Tree:
    tree: Tree = {
        "min": kept.get("min", 0),
        "max": kept.get("max", 0),
        "mean": float(kept.get("mean", 0)),
        "stddev": float(kept.get("stddev", 0)),
        "N": kept["n"],
    }
    if percentiles and kept["n"]:
        tree["percentile"] = dict(kept["percentile"])
        if bins is not None:
            tree["bins"] = {str(ns): count for ns, count in bins.items()}
    return tree


def _sync(stat: LatencyStat, kept: Mapping[str, Any], plus: bool) -> Tree:
    bins = histogram(stat) if plus else None
    return {"total_ios": kept["n"], "lat_ns": _latency(kept, percentiles=True, bins=bins)}


def _disk(disk: DiskUtil) -> Tree:
    return {
        "name": disk.name,
        "read_ios": disk.ios[0],
        "write_ios": disk.ios[1],
        "read_merges": disk.merges[0],
        "write_merges": disk.merges[1],
        "read_ticks": disk.ticks[0],
        "write_ticks": disk.ticks[1],
        "in_queue": disk.in_queue,
        "util": float(disk.util),
    }


# fio's own writer: an object's keys and an array's objects each on lines of their own.
def _text(value: Any, level: int) -> str:
    inner, outer = "  " * (level + 1), "  " * level
    if isinstance(value, dict):
        members = (
            f"{inner}{json.dumps(key)} : {_text(one, level + 1)}" for key, one in value.items()
        )
        return "{\n" + "".join(",\n".join(members) + "\n" if value else "") + outer + "}"
    if isinstance(value, list):
        items = (inner + _text(one, level + 1) for one in value)
        return "[\n" + ",\n".join(items) + f"\n{outer}]"
    return f"{value:f}" if isinstance(value, float) else json.dumps(value)
