"""fio's log files: of books written by hand, held against fio itself where it is, of a whole run."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from emulator.report.fio.jobs import LoggedJob
from emulator.report.fio.logs import averaged, latency_lines, log_files, rate_lines
from emulator.session import Request, run_box
from emulator.workload.fio_books import FioBooks

MS = 1_000_000

JOB_FILE = """\
[global]
ioengine=libaio
direct=1
filesize=64m
directory=/mnt
runtime=1s
time_based
write_bw_log=some/where/b
write_lat_log=l
write_iops_log
[mix]
rw=randrw
bs=4k,8k
iodepth=8
[steps]
rw=write
bs=16k
iodepth=2
log_avg_msec=20
"""


def job(average_ms: int = 0) -> LoggedJob:
    """Return a job that began at 100 ms: writes of 100 us every 10 ms, one read, parted in two books."""
    books = FioBooks(4096, 8192, logs=True)
    other = FioBooks(4096, 8192, logs=True)
    books.begin_ns, books.end_ns = 100 * MS, 150 * MS
    for number in range(5):
        direction = (other if number % 2 else books).write
        direction.lat.fresh.append(105_000 + number)
        direction.clat.fresh.append(100_000 + number)
        direction.note((101 + 10 * number) * MS, 1)
    books.read.lat.fresh.append(55_000)
    books.read.clat.fresh.append(50_000)
    books.read.note(125 * MS, 1)
    books.merge(FioBooks.unpack(other.pack()))
    return LoggedJob(3, {"bw": "x/name", "lat": "name", "iops": "name"}, average_ms, books)


def test_a_line_is_an_io() -> None:
    files = dict(log_files([job()]))
    assert sorted(files) == [f"name_{kind}.3.log" for kind in ("bw", "clat", "iops", "lat", "slat")]
    assert files["name_clat.3.log"] == (
        "1, 100000, 1, 8192, 0\n"
        "11, 100001, 1, 8192, 0\n"
        "21, 100002, 1, 8192, 0\n"
        "25, 50000, 0, 4096, 0\n"
        "31, 100003, 1, 8192, 0\n"
        "41, 100004, 1, 8192, 0\n"
    )
    assert files["name_slat.3.log"].splitlines()[0] == "1, 5000, 1, 8192, 0"
    assert files["name_lat.3.log"].splitlines()[3] == "25, 55000, 0, 4096, 0"
    assert files["name_bw.3.log"].splitlines()[0] == "1, 81920, 1, 8192, 0"  # 8 KiB in 100 us
    assert files["name_iops.3.log"].splitlines()[3] == "25, 1, 0, 4096, 0"


def test_log_avg_msec_averages() -> None:
    # The IO at 21 ms ends the first 20 ms, that at 41 ms the second; the read waits for the end.
    assert latency_lines(job(20), "clat") == [
        (21, 100_001, 1, 0),
        (25, 50_000, 0, 0),
        (41, 100_004, 1, 0),
    ]
    # Two writes of 8 KiB in each whole window of 20 ms, a read in the second.
    assert rate_lines(job(20), "bw") == [
        (20, 0, 0, 0),
        (20, 800, 1, 0),
        (40, 200, 0, 0),
        (40, 800, 1, 0),
    ]
    assert rate_lines(job(20), "iops") == [
        (20, 0, 0, 0),
        (20, 100, 1, 0),
        (40, 50, 0, 0),
        (40, 100, 1, 0),
    ]


def test_a_late_io_does_not_shift_the_windows() -> None:
    values = [(9, 10), (27, 20), (30, 30), (39, 50)]
    assert list(averaged(values, 10)) == [(27, 15), (30, 30), (39, 50)]


# -- Against fio itself -------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed here")
def test_the_figures_of_a_line_are_fios(tmp_path: Path) -> None:
    words = ["--name=t", "--ioengine=null", "--rw=randrw", "--bs=4k,8k", "--size=1m", "--iodepth=4"]
    logs = [f"--write_{kind}_log=x" for kind in ("bw", "lat", "iops")]
    subprocess.run(
        ["fio", *words, *logs], capture_output=True, check=True, timeout=60, cwd=tmp_path
    )
    theirs = {
        kind: [
            tuple(map(int, line.split(", ")))
            for line in (tmp_path / f"x_{kind}.1.log").read_text().splitlines()
        ]
        for kind in ("bw", "iops", "slat", "clat", "lat")
    }
    books = FioBooks(4096, 8192, logs=True)
    books.begin_ns, books.end_ns = 0, 10**9
    log = zip(theirs["slat"], theirs["clat"], theirs["lat"], strict=True)
    for slat, clat, lat in log:
        assert slat[1] + clat[1] == lat[1]
        direction = books.write if clat[2] else books.read
        assert direction.log is not None
        direction.log += (clat[0] * MS, lat[1], clat[1])
    ours = LoggedJob(1, {}, 0, books)
    for kind in ("bw", "iops"):
        assert sorted(rate_lines(ours, kind)) == sorted(line[:4] for line in theirs[kind])


# -- Whole runs ---------------------------------------------------------------------------------


def test_a_run_leaves_the_logs_that_its_jobs_ask_for(tmp_path: Path) -> None:
    (tmp_path / "logs.fio").write_text(JOB_FILE, encoding="utf-8")
    words = ("warmup=20ms", f'workloads=[{{fio: "{tmp_path}/logs.fio"}}]', "expect=[]")
    request = Request("xfs-aio-4k-default", words, duration="100ms", engine="inline", quiet=True)
    run_box(request, tmp_path / "runs")
    run = tmp_path / "runs" / "latest"
    names = {path.name for path in run.glob("*_*.log")}
    assert names == {
        f"{one}.{n}.log" for n in (1, 2) for one in ("b_bw", "l_clat", "l_lat", "l_slat")
    } | {
        "mix_iops.1.log",
        "steps_iops.2.log",
    }
    mix, steps = json.loads((run / "fio.json").read_text(encoding="utf-8"))["jobs"]
    lines = [line.split(", ") for line in (run / "l_clat.1.log").read_text().splitlines()]
    for way, direction in enumerate(("read", "write")):
        values = [int(line[1]) for line in lines if line[2] == str(way)]
        figures = mix[direction]["clat_ns"]
        assert (len(values), min(values), max(values)) == (
            figures["N"],
            figures["min"],
            figures["max"],
        )
    windows = [line.split(", ") for line in (run / "b_bw.2.log").read_text().splitlines()]
    assert [line[0] for line in windows] == ["20", "40", "60"]
    assert sum(int(line[1]) for line in windows) / 3 == pytest.approx(steps["write"]["bw"], rel=0.1)
