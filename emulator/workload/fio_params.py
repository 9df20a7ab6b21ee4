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
}

_DIRECTIONS = {
    "read": (READ, True),
    "write": (WRITE, True),
    "randread": (READ, False),
    "randwrite": (WRITE, False),
}
_NO_VERIFY = ("", "none", "0", None)


class FioJob(NamedTuple):
    """The resolved job; fixed for the life of the program, and plain data as a list."""

    rw: int  #: READ or WRITE, of the phase that is not verification
    sequential: bool
    bs: int
    blocks: int  #: units of one pass over the file
    file: int
    seed: int
    sync: bool  #: psync: one IO at a time through pread() and pwrite()
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


def resolve_job(params: dict[str, Any], costs: Costs, seed: int) -> FioJob:
    """Return the job of some resolved options; ValueError names the option that cannot be."""
    option = FIO_PARAMS | params
    rw, sequential = _direction(option["rw"])
    bs: int = option["bs"]
    if option["size"] // bs < 1:
        raise ValueError(f"size {option['size']} holds no block of {bs} bytes")
    sync = _engine_is_sync(option["ioengine"])
    iodepth = 1 if sync else option["iodepth"]
    if iodepth < 1:
        raise ValueError(f"iodepth {iodepth} leaves no unit to issue")
    complete_min = min(option["batch_complete_min"], iodepth)
    verify = option["verify"] not in _NO_VERIFY
    checksum_ns = verify_ns(option["verify"], bs, costs) if verify else 0
    fill_ns = bs * costs.fio_fill_ps_per_byte // 1000
    return FioJob(
        rw=rw,
        sequential=sequential,
        bs=bs,
        blocks=option["size"] // bs,
        file=option["file"],
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
        drains=verify or not option["time_based"],
        time_based=bool(option["time_based"]),
        runtime_ns=option["runtime_ns"] or NEVER,
        think_ns=option["thinktime_ns"],
        think_spin_ns=option["thinktime_spin_ns"],
        think_blocks=max(1, option["thinktime_blocks"]),
        stats_from_ns=option["stats_from_ns"],
        write_prep_ns=costs.fio_prep_ns + fill_ns + checksum_ns,
        write_reap_ns=costs.fio_reap_ns,
        read_prep_ns=costs.fio_prep_ns,
        read_reap_ns=costs.fio_reap_ns + checksum_ns,
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
    if ioengine not in ("libaio", "psync"):
        raise ValueError(f"ioengine={ioengine} is not one of libaio, psync")
    return ioengine == "psync"
