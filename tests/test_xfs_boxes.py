"""Whole boxes whose writes are more than overwrites, or that use an io_uring, on CPUs that come and go.

The books are audited by every run as it goes; the runs here end with status 0 or fail the test.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from emulator import tracepoints as tp
from emulator.trace.reader import open_rings
from tests.test_identity import CPUS_GO, INLINE, PROCESSES, STRICT, Way, assert_identical

EVENTS = (f"events={CPUS_GO}",)
STALLS = ("costs={preset: server, log_stall_ppm: 20000, log_stall_ns: 3000000}",)

#: What must have run, by box: functions of works.
RUNS = {
    "xfs-append": {"iomap_dio_complete_work": 400},
    "xfs-unwritten": {"iomap_dio_complete_work": 400},
    "xfs-fsync-log": {"xlog_cil_push_work": 5, "xlog_ioend_work": 5},
    "io-uring-4k-5.15": {"iomap_dio_complete_work": 400},
    "io-uring-4k-6.12": {},
    "xfs-dsync": {"iomap_dio_complete_work": 200},
}

WIDE = "machine={cpus: 8, hz: 1000}"
#: A disk with an elevator and a cache.
CACHE = ("disks.sda.flush=200us", "disks.sda.fua=true")


def works(directory: Path) -> Counter[str]:
    """Return how often each function of a work was executed."""
    found: Counter[str] = Counter()
    for reader in open_rings(directory):
        for record in reader.records():
            if record[1] == tp.WORKQUEUE_EXECUTE_START:
                found[reader.names[record[7]]] += 1
    return found


@pytest.mark.box
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("box", "settings"),
    [
        ("xfs-append", ()),
        ("xfs-unwritten", STALLS),
        ("xfs-unwritten", (*STALLS, "kernel.workqueue.unbound=[dio]")),
        ("xfs-fsync-log", ()),
        ("xfs-fsync-log", CACHE),
        ("xfs-dsync", (WIDE,)),
        ("xfs-dsync", (WIDE, "disks.nvme0n1.fua=true")),
        ("io-uring-4k-5.15", ()),
        ("io-uring-4k-6.12", ()),
    ],
    ids=[
        "append",
        "unwritten",
        "unwritten-unbound",
        "fsync",
        "fsync-flush",
        "dsync",
        "fua",
        "io-uring-5.15",
        "io-uring-6.12",
    ],
)
def test_every_engine_leaves_the_same_rings_while_cpus_come_and_go(
    box: str, settings: tuple[str, ...], tmp_path: Path
) -> None:
    ways = [Way(how, (*EVENTS, *settings)) for how in (INLINE, STRICT, PROCESSES)]
    directory, held = assert_identical(box, "130ms", ways, tmp_path)
    assert held >= {"cpu kill", "cpu offline", "cpu online"}
    done = works(directory)
    for function, least in RUNS[box].items():
        assert done[function] >= least, done
