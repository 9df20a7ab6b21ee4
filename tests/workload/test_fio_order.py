"""The order of a job's IOs and syncs, against what fio itself does: its null engine and its iolog."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from emulator.config import load_box
from emulator.types import OP_FSYNC, OP_RW
from emulator.workload import make_program
from tests.workload.fake_kernel import FakeKernel, costs

pytestmark = pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")

BOX = """
description: a job
duration: 1s
machine: {cpus: 1}
disks: {nullb0: {driver: null_blk}}
filesystems: {/m: {disk: nullb0}}
workloads: [{fio: job.fio}]
"""
#: Number of the file (in the order of the job's), what is done to it, and where.
Act = tuple[int, str, str]


def acts_of_fio(tmp_path: Path, options: str) -> list[Act]:
    job, log = tmp_path / "fio.fio", tmp_path / "iolog"
    job.write_text(f"[j]\nioengine=null\nbs=4k\n{options}\nwrite_iolog={log}\n")
    subprocess.run(["fio", str(job)], capture_output=True, check=True, cwd=tmp_path, timeout=60)
    found: list[Act] = []
    for line in log.read_text().splitlines():
        _, name, what, *where = (*line.split(), "", "")[:5]
        if what in ("read", "write", "sync", "datasync"):
            found.append((int(name.split(".")[2]), what, "" if "sync" in what else where[0]))
    return found


def acts_of_ours(tmp_path: Path, options: str) -> list[Act]:
    (tmp_path / "job.fio").write_text(
        f"[j]\nioengine=psync\ndirect=1\ndirectory=/m\nbs=4k\n{options}\n"
    )
    (tmp_path / "box.yaml").write_text(BOX)
    (spec,) = load_box(tmp_path / "box.yaml").resolve().workloads
    first = spec.params["files"][0][0] if "files" in spec.params else spec.params["file"]
    kernel = FakeKernel(make_program(spec, costs(), 1, 1000)).run(1000)
    assert kernel.exited
    found: list[Act] = []
    for _, op in kernel.log:
        if op[0] == OP_RW:
            found.append((op[2] - first, ("read", "write")[op[1]], str(op[3])))
        elif op[0] == OP_FSYNC:
            found.append((op[1] - first, ("sync", "datasync")[op[2]], ""))
    return found


@pytest.mark.parametrize(
    "options",
    [
        "rw=write\nsize=32k\nfsync=3",
        "rw=write\nsize=32k\nfsync=4",  # none is due at the job's end
        "rw=write\nsize=16k\nloops=2\nfsync=4",  # twice where two rounds meet
        "rw=write\nsize=16k\nloops=2\nfsync=2\nfdatasync=3",
        "rw=write\nsize=16k\nnrfiles=2\nloops=3\nfsync=4",
        "rw=write\nsize=24k\nnrfiles=3\nio_size=36k\nfsync=2",
        "rw=write\nfilesize=16k\nnrfiles=3\nfile_service_type=roundrobin:2\nfsync=4",
        "rw=write\nfilesize=16k\nnrfiles=3\nfile_service_type=sequential\nfdatasync=3",
        "rw=read\nfilesize=16k\nnrfiles=2\nfile_service_type=roundrobin:3",
        "rw=write\nsize=32k\nio_size=48k",
        "rw=write\nsize=32k\nnrfiles=2\nio_size=20k",
        "rw=write\nsize=32k\noffset=8k",
        "rw=write\nsize=16k\nnumber_ios=6\nloops=2",
    ],
)
def test_ios_and_syncs_come_in_fios_order(tmp_path: Path, options: str) -> None:
    theirs = acts_of_fio(tmp_path, options)
    assert theirs
    assert acts_of_ours(tmp_path, options) == theirs
