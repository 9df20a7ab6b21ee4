"""The host that the box runs on: affinity, process names, what a process has cost.

This is the only file that imports psutil.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

#: Longest comm of a Linux process.
COMM_MAX = 15


def host_cpus() -> tuple[int, ...]:
    """Return the host CPUs that this process may use."""
    affinity: list[int] = psutil.Process().cpu_affinity() or []
    return tuple(affinity)


def choose_host_cpus(wanted: tuple[int, ...]) -> tuple[int, ...]:
    """Return the CPUs to place agents on: those wanted that there are, or all there are."""
    usable = host_cpus()
    return tuple(cpu for cpu in wanted if cpu in usable) or usable


def pin(cpus: tuple[int, ...]) -> tuple[int, ...]:
    """Bind this process to host CPUs and return what came of it (a host may refuse)."""
    try:
        psutil.Process().cpu_affinity(list(cpus))
    except (OSError, psutil.Error, ValueError):
        return host_cpus()
    return cpus


def now_ns() -> int:
    """Return the host's monotonic clock, the same for all processes of the host."""
    return time.monotonic_ns()


def set_comm(name: str) -> None:
    """Name this process for the host's tools, as far as the host lets us."""
    try:
        Path("/proc/self/comm").write_text(name[:COMM_MAX], encoding="ascii")
    except OSError:
        # Not Linux, or /proc is not there: the name is a convenience.
        return


def trim_heap() -> None:
    """Give free pages inside the C heap back to the host, as far as its C library can (glibc does).

    Messages of all sizes come and go, and what is kept between them until the next checkpoint leaves
    holes that the library would keep for ever: a process would grow by what it no longer uses.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def usage(cpus: tuple[int, ...]) -> dict[str, Any]:
    """Return what this process has cost the host so far."""
    process = psutil.Process()
    switches = process.num_ctx_switches()
    return {
        "pid": process.pid,
        "host_cpus": list(cpus),
        "cpu_s": time.process_time_ns() / 1e9,
        "voluntary_switches": switches.voluntary,
        "involuntary_switches": switches.involuntary,
        "rss_bytes": process.memory_info().rss,
    }


def host_facts() -> dict[str, Any]:
    """Return what may matter to a reader of a run's results about the host."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "cpus": psutil.cpu_count(),
        "usable_cpus": list(host_cpus()),
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
        "memory_bytes": psutil.virtual_memory().total,
    }


def end_with(sentinel: int, leave: Callable[[], None]) -> None:
    """Call ``leave`` in a thread of its own when ``sentinel``, a pipe's reading end, is closed.

    So an agent that waits for the coordinator ends when the supervisor is gone, without waking to
    look.
    """

    def watch() -> None:
        while os.read(sentinel, 1):
            pass
        leave()

    threading.Thread(target=watch, name="watch", daemon=True).start()
