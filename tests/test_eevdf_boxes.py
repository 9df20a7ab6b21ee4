"""Whole boxes under EEVDF: the same rings however they are run, books that balance, no warnings.

The books are audited by every run as it goes; the runs here end with status 0 or fail the test.
"""

from collections import Counter
from pathlib import Path
from shutil import rmtree

import pytest

from emulator import tracepoints as tp
from emulator.config import find_config_dir
from emulator.trace.reader import open_rings
from tests.test_identity import INLINE, PROCESSES, STRICT, Way, assert_identical

VERSIONS = ["6.6", "6.12"]

JOB = """
[global]
ioengine=libaio
direct=1
size=16m
iodepth=16
bs=4k
time_based=1
runtime=10
[reader]
rw=randread
numjobs=2
[writer]
rw=randwrite
numjobs=2
"""

#: Everybody competes with hogs, so that sleepers are in debt; who runs a ms at nice 19 is so for long.
SLEEPERS = """
description: sleepers of all kinds beside hogs, on CPUs that come and go
duration: 400ms
machine: {cpus: 4, hz: 1000}
kernel: {version: "VERSION"}
disks: {sda: {driver: scsi_debug, scheduler: mq-deadline, ndelay: 41us, dev_size_mb: 256}}
filesystems: {/mnt: {type: xfs, disk: sda, block_size: 4k}}
workloads:
  - {fio: job.fio}
  - {program: rcu_gp}
  - {program: fio_main}
  - {program: hog, count: 4}
  - {program: hog, name: nice, nice: 5}
  - {program: periodic, params: {run_ns: 1500us, period_ns: 4ms}, count: 3, name: tick, nice: -3}
  - {program: periodic, params: {run_ns: 300us, period_ns: 1ms}, count: 3, name: shortSLICE}
  - {program: periodic, params: {run_ns: 1ms, period_ns: 25ms}, count: 4, name: lazy, nice: 19}
events:
  - {at: 100ms, do: cpu offline 1}
  - {at: 150ms, do: cpu load 2 --percent 50}
  - {at: 200ms, do: cpu online 1}
  - {at: 220ms, do: cpu offline of:short}
  - {at: 250ms, do: sysctl kernel.sched_base_slice_ns=1000000}
  - {at: 300ms, do: cpu kill 3}
  - {at: 350ms, do: task affine lazy 0}
"""


def write(scratch: Path, text: str) -> str:
    (scratch / "job.fio").write_text(JOB)
    box = scratch / "box.yaml"
    box.write_text(text)
    return str(box)


def answers(directory: Path) -> Counter[str]:
    """Return how often each preemption test answered what; fail if the kernel warned of anything."""
    found: Counter[str] = Counter()
    for reader in open_rings(directory):
        for record in reader.records():
            assert record[1] not in (tp.BOX_WARN, tp.BOX_BUG)
            if record[1] == tp.BOX_CHECK_PREEMPT:
                found[tp.PREEMPT_WHYS[record[10]]] += 1
    return found


def identical(box: str, version: str, duration: str, scratch: Path) -> tuple[Path, set[str]]:
    setting = (f'kernel.version="{version}"',)
    ways = [Way(one, setting) for one in (INLINE, PROCESSES, STRICT)]
    return assert_identical(box, duration, ways, scratch / "runs")


@pytest.mark.box
@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("box", ["xfs-aio-4k-tuned", "xfs-aio-512"])
def test_a_shipped_box_is_the_same_under_eevdf(box: str, version: str, tmp_path: Path) -> None:
    duration = "300ms" if box == "xfs-aio-4k-tuned" else "100ms"
    directory, _ = identical(box, version, duration, tmp_path)
    found = answers(directory)
    if box == "xfs-aio-4k-tuned":
        # The worker runs far less than its share, so it preempts at once.
        assert found["picked"] > 10 * found["not_eligible"]
        assert found["deadline"] > 0
    rmtree(directory)


@pytest.mark.box
@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("version", VERSIONS)
def test_cpus_that_come_and_go_are_the_same_under_eevdf(version: str, tmp_path: Path) -> None:
    config = find_config_dir()
    text = (config / "boxes" / "hotplug-and-load.yaml").read_text()
    text = text.replace("../jobs/", f"{config / 'jobs'}/")
    text = text.replace("sched_wakeup_granularity_ns", "sched_base_slice_ns")
    directory, held = identical(write(tmp_path, text), version, "2s", tmp_path)
    assert held >= {"cpu offline", "cpu kill", "cpu online", "cpu load", "sysctl"}
    assert answers(directory)["picked"] > 0
    rmtree(directory)


@pytest.mark.box
@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("version", VERSIONS)
def test_sleepers_of_all_kinds_are_the_same_under_eevdf(version: str, tmp_path: Path) -> None:
    own_slice = ", slice: 300us" if version == "6.12" else ""
    text = SLEEPERS.replace("VERSION", version).replace("SLICE", own_slice)
    directory, held = identical(write(tmp_path, text), version, "400ms", tmp_path)
    assert held >= {"hotplug", "wakeup", "cpu kill", "sysctl"}
    found = answers(directory)
    wanted = {"picked", "deadline", "not_eligible", "later_deadline"}
    wanted |= {"ineligible", "short_slice"} if version == "6.12" else {"protected"}
    assert set(found) >= wanted
    rmtree(directory)
