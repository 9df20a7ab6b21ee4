"""What fio leaves of a file before a job, by its options, as fio 3.33 was seen to do with stat(1)."""

from pathlib import Path
from typing import Any

import pytest

from emulator.config import load_box

BOX = """
description: one job
duration: 1s
machine: {cpus: 2}
kernel: {version: "5.4"}
disks: {sda: {driver: scsi_debug}}
filesystems: {/mnt: {type: xfs, disk: sda}}
workloads: [{fio: job.fio}]
"""


@pytest.mark.parametrize(
    ("options", "layout", "eof"),
    [
        ("rw=randwrite overwrite=1", "written", -1),
        ("rw=randread", "written", -1),
        ("rw=rw", "written", -1),
        ("rw=write", "unwritten", -1),
        ("rw=write fallocate=native", "unwritten", -1),
        ("rw=write fallocate=keep", "unwritten", 0),
        ("rw=write fallocate=none", "hole", 0),
        ("rw=write fallocate=truncate", "hole", -1),
    ],
)
def test_a_file_before_the_job(options: str, layout: str, eof: int, tmp_path: Path) -> None:
    job = "[global]\nioengine=libaio\ndirect=1\nsize=1m\nbs=4k\n[w]\n"
    (tmp_path / "job.fio").write_text(job + options.replace(" ", "\n") + "\n", encoding="utf-8")
    (tmp_path / "box.yaml").write_text(BOX, encoding="utf-8")
    (workload,) = load_box(tmp_path / "box.yaml").resolve().workloads
    params: dict[str, Any] = workload.params
    assert (params.get("layout", "written"), params.get("eof", -1)) == (layout, eof)


@pytest.mark.parametrize("sync", ["none", "dsync", "sync"])
def test_how_a_file_is_opened(sync: str, tmp_path: Path) -> None:
    job = f"[w]\nioengine=libaio\ndirect=1\nrw=write\nsize=1m\nbs=4k\nsync={sync}\n"
    (tmp_path / "job.fio").write_text(job, encoding="utf-8")
    (tmp_path / "box.yaml").write_text(BOX, encoding="utf-8")
    (workload,) = load_box(tmp_path / "box.yaml").resolve().workloads
    assert workload.params.get("open_sync", "none") == sync
