"""What one fio job comes down to: sizes, depths and the CPU time of each act, all plain integers.

Theory of operation
-------------------
A job file is parsed elsewhere; here its resolved options meet the box's costs once, so that the
loop in :mod:`emulator.workload.fio` adds numbers and looks nothing up.  Corrections that fio makes
to its own options when it starts are made here too: a submit batch of 0 or above the depth is the
depth, a largest reap below the smallest is the smallest, synchronous engines have depth 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from emulator.types import NEVER, READ, WRITE, Costs
from emulator.workload.latency import PERCENTILES

#: Every option of a job that the program reads, with its default; None: must be given.
FIO_PARAMS: dict[str, Any] = {
    "rw": None,
    "bs": 4096,
    "size": None,
    "file": 0,
    "ioengine": "libaio",
    "iodepth": 1,
    "batch_submit": 1,
    "batch_complete_min": 1,
    "batch_complete_max": 0,
    "iodepth_low": 0,
    "verify": "none",
    "do_verify": True,
    "overwrite": False,
    "runtime_ns": 0,
    "time_based": False,
    "randseed": 0,
    "thinktime_ns": 0,
    "thinktime_spin_ns": 0,
    "thinktime_blocks": 1,
    "stats_from_ns": 0,
    # All below are left out of a job that does not need them.
    "write_bs": 0,
    "read_sizes": None,
    "write_sizes": None,
    "read_mix": 50,
    "files": None,
    "service": "roundrobin",
    "service_nr": 1,
    "random_map": True,
    "io_size": 0,
    "number_ios": 0,
    "loops": 1,
    "rate_read": 0,
    "rate_write": 0,
    "fsync": 0,
    "fdatasync": 0,
    "end_fsync": False,
    "layout": "written",
    "eof": -1,
    "open_sync": "none",
    "direct": 1,
    "hipri": False,
    "ioprio": 0,
    "thinktime_issued": False,
    "thinktime_iotime_ns": 0,
    "thinktime_blocks_set": True,
    "percentiles": None,
    "logs": False,
    "reads": [],
    "writes": [],
}

#: Per ``rw``: the percentage of reads, -1 if the mix says, and whether blocks come in order.
_DIRECTIONS = {
    "read": (100, True),
    "write": (0, True),
    "randread": (100, False),
    "randwrite": (0, False),
    "rw": (-1, True),
    "readwrite": (-1, True),
    "randrw": (-1, False),
}
_NO_VERIFY = ("", "none", "0", None)
SYNC_ENGINES = ("psync", "sync", "pvsync", "pvsync2")
ENGINES = ("libaio", "io_uring", *SYNC_ENGINES)

# How the next file of several is chosen: FioJob.service.
SERVICE_ROUNDROBIN = 0
SERVICE_RANDOM = 1
SERVICE_SEQUENTIAL = 2
SERVICES = ("roundrobin", "random", "sequential")


class FioJob(NamedTuple):
    """The resolved job; fixed for the life of the program, and plain data as a list."""

    rw: int  #: READ or WRITE, of the phase that is not verification; of a mix, WRITE
    sequential: bool
    bs: int
    blocks: int  #: units of one pass over the file
    file: int
    seed: int
    sync: bool  #: psync and its like: one IO at a time through pread() and pwrite()
    iodepth: int
    batch_submit: int
    complete_min: int
    complete_max: int
    iodepth_low: int
    polling: bool  #: reap after every unit, without waiting
    do_verify: bool  #: read every pass back
    drains: bool  #: a pass runs dry before the next one
    time_based: bool
    runtime_ns: int
    think_ns: int
    think_spin_ns: int
    think_blocks: int
    stats_from_ns: int
    write_prep_ns: int
    write_reap_ns: int
    read_prep_ns: int
    read_reap_ns: int
    #: The job needs :class:`emulator.workload.fio_mix.MixCourse`; see :func:`is_mixed`.
    mixed: bool
    read_bs: int
    write_bs: int
    read_sizes: list[list[int]]  #: fio_sizes.Sizes; read_bs and write_bs are the smallest then
    write_sizes: list[list[int]]
    sized: bool  #: either has several
    fill_ps_per_byte: int  #: of such writes, beside write_prep_ns
    read_mix: int  #: percentage of reads
    files: list[list[int]]  #: [file, first byte, bytes] each
    service: int
    service_nr: int  #: IOs to one file before the next
    random_map: bool  #: a pass visits every block once
    io_bytes: int  #: what the whole job moves, NEVER: no end
    number_ios: int  #: likewise, in IOs
    loops: int
    rate_read: int  #: bytes per second, 0: as fast as it goes
    rate_write: int
    fsync_every: int  #: writes between two fsync() calls, 0: none
    fdatasync_every: int
    end_fsync: bool
    think_issued: bool  #: thinktime counts IOs when they are issued
    think_iotime_ns: int  #: time of IO between two thoughts, 0: only blocks count
    think_blocks_set: bool
    seek_ns: int  #: lseek() before an IO that does not continue the last one
    uring: bool
    hipri: bool  #: its IO is polled
    ioprio: int  #: what it calls ioprio_set() with, 0: it does not
    buffered: bool  #: through write(), of files without O_DIRECT
    percentiles: list[float]
    logs: bool  #: each IO is kept for bandwidth and latency logs
    reads: list[int]  #: pipes on which the end of an earlier job is told
    writes: list[int]  #: pipes on which the end of this one is


def is_mixed(option: dict[str, Any]) -> bool:
    """Whether a job does more than go over one file in one direction as fast as it can."""
    mix, _ = _direction(option["rw"])
    several = option["files"] is not None and len(option["files"]) > 1
    region = option["files"] is not None and any(start for _, start, _ in option["files"])
    return bool(
        mix < 0
        or several
        or region
        or not option["random_map"]
        or option["read_sizes"]
        or option["write_sizes"]
        or option["io_size"]
        or option["number_ios"]
        or option["rate_read"]
        or option["rate_write"]
        or option["fsync"]
        or option["fdatasync"]
        or option["ioengine"] == "sync"
    )


def resolve_job(params: dict[str, Any], costs: Costs, seed: int) -> FioJob:
    """Return the job of some resolved options; ValueError names the option that cannot be."""
    option = FIO_PARAMS | params
    percent, sequential = _direction(option["rw"])
    read_mix = percent if percent >= 0 else option["read_mix"]
    rw = READ if read_mix == 100 else WRITE
    bs: int = option["bs"]
    write_bs: int = option["write_bs"] or bs
    files = option["files"] or [[option["file"], 0, option["size"]]]
    largest = max(bs if read_mix else 0, write_bs if read_mix < 100 else 0)
    if option["size"] < largest:
        raise ValueError(f"size {option['size']} holds no block of {largest} bytes")
    sync = _engine_is_sync(option["ioengine"])
    iodepth = 1 if sync else option["iodepth"]
    if iodepth < 1:
        raise ValueError(f"iodepth {iodepth} leaves no unit to issue")
    complete_min = min(option["batch_complete_min"], iodepth)
    verify = option["verify"] not in _NO_VERIFY
    read_sum_ns, write_sum_ns = (
        verify_ns(option["verify"], size, costs) if verify else 0 for size in (bs, write_bs)
    )
    sized = bool(option["read_sizes"] or option["write_sizes"])
    fill_ns = 0 if sized else write_bs * costs.fio_fill_ps_per_byte // 1000
    time_based = bool(option["time_based"])
    whole = option["io_size"] or sum(size for _, _, size in files)
    return FioJob(
        rw=rw,
        sequential=sequential,
        bs=bs if rw == READ else write_bs,
        blocks=option["size"] // (bs if rw == READ else write_bs),
        file=files[0][0],
        seed=seed,
        sync=sync,
        iodepth=iodepth,
        batch_submit=min(option["batch_submit"] or iodepth, iodepth),
        complete_min=complete_min,
        complete_max=max(option["batch_complete_max"], complete_min, 1),
        iodepth_low=min(option["iodepth_low"] or iodepth, iodepth),
        polling=complete_min == 0,
        do_verify=verify and bool(option["do_verify"]) and rw == WRITE,
        # fio lets the queue run dry at the end of every pass of a verifying job, also of one that
        # reads nothing back (do_verify=0).
        drains=verify or not time_based,
        time_based=time_based,
        runtime_ns=option["runtime_ns"] or NEVER,
        think_ns=option["thinktime_ns"],
        think_spin_ns=option["thinktime_spin_ns"],
        think_blocks=max(1, option["thinktime_blocks"]),
        stats_from_ns=option["stats_from_ns"],
        write_prep_ns=costs.fio_prep_ns + fill_ns + write_sum_ns,
        write_reap_ns=costs.fio_reap_ns,
        read_prep_ns=costs.fio_prep_ns,
        read_reap_ns=costs.fio_reap_ns + read_sum_ns,
        mixed=is_mixed(option),
        read_bs=bs,
        write_bs=write_bs,
        read_sizes=list(option["read_sizes"] or []),
        write_sizes=list(option["write_sizes"] or []),
        sized=sized,
        fill_ps_per_byte=costs.fio_fill_ps_per_byte,
        read_mix=read_mix,
        files=[list(file) for file in files],
        service=SERVICES.index(option["service"]),
        service_nr=option["service_nr"],
        random_map=bool(option["random_map"]),
        io_bytes=NEVER if time_based else whole * option["loops"],
        number_ios=option["number_ios"] * option["loops"] or NEVER,
        loops=option["loops"],
        rate_read=option["rate_read"],
        rate_write=option["rate_write"],
        fsync_every=option["fsync"],
        fdatasync_every=option["fdatasync"],
        end_fsync=bool(option["end_fsync"]) and read_mix < 100,
        think_issued=bool(option["thinktime_issued"]),
        think_iotime_ns=option["thinktime_iotime_ns"],
        think_blocks_set=bool(option["thinktime_blocks_set"]),
        seek_ns=costs.syscall_ns if option["ioengine"] == "sync" else 0,
        uring=option["ioengine"] == "io_uring",
        hipri=bool(option["hipri"]),
        ioprio=option["ioprio"],
        buffered=not option["direct"],
        percentiles=list(option["percentiles"] or PERCENTILES),
        logs=option["logs"],
        reads=list(option["reads"]),
        writes=list(option["writes"]),
    )


def verify_ns(algorithm: str, bs: int, costs: Costs) -> int:
    """Return the CPU time to fill in or check the checksum of one unit; ValueError if unknown."""
    if algorithm not in costs.verify_ps_per_byte:
        known = ", ".join(sorted(costs.verify_ps_per_byte)) or "none"
        raise ValueError(f"verify={algorithm} has no cost in this box; known: {known}")
    return costs.verify_base_ns + bs * costs.verify_ps_per_byte[algorithm] // 1000


def _direction(rw: str) -> tuple[int, bool]:
    if rw not in _DIRECTIONS:
        raise ValueError(f"rw={rw} is not one of {', '.join(_DIRECTIONS)}")
    return _DIRECTIONS[rw]


def _engine_is_sync(ioengine: str) -> bool:
    if ioengine not in ENGINES:
        raise ValueError(f"ioengine={ioengine} is not one of {', '.join(ENGINES)}")
    return ioengine in SYNC_ENGINES
