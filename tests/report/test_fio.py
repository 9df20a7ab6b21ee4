"""fio's output, to the letter: of books written by hand, and held against fio itself where it is."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from emulator.attach import AttachError, FioRequest, fio_text
from emulator.config import load_box
from emulator.report.fio.jobs import DirectionResult, FioRun, fio_run
from emulator.report.fio.json_output import json_text, json_tree
from emulator.report.fio.normal import class_lines, direction_lines, normal_text
from emulator.report.fio.numbers import bandwidth, num2str, scaled, shares
from emulator.report.fio.terse import terse_text
from emulator.session import Request, run_box
from emulator.trace.ring import MemoryRing
from emulator.tracepoints import (
    BLOCK_RQ_COMPLETE,
    BLOCK_RQ_INSERT,
    BLOCK_RQ_ISSUE,
    SCHED_SWITCH,
    SCHED_WAKEUP_NEW,
    SOFTIRQ_RAISE,
    TASK_INTERRUPTIBLE,
    TICK_SYSTEM,
    TICK_USER,
)
from emulator.workload.fio_books import FioBooks
from tests.report.rings import readers_of

MS = 1_000_000
FIO = 10_000
CLATS = (41_000, 86_000, 100_000, 1_000_000)  # worked examples of I.4


def books() -> FioBooks:
    """Return what a job of four writes measured, in 1.2 s."""
    kept = FioBooks(4096)
    kept.begin_ns, kept.end_ns = 0, 1200 * MS
    kept.submitted = kept.completed = 4
    for number, clat_ns in enumerate(CLATS):
        if number % 2 == 0:
            kept.write.turn(number * 300 * MS)
        kept.write.slat.add(5000)
        kept.write.clat.add(clat_ns)
        kept.write.lat.add(clat_ns + 5000)
    kept.depths = [3, 1, 0, 0, 0, 0, 0]
    kept.submits = [0, 4, 0, 0, 0, 0, 0]
    kept.reaps = [1, 3, 0, 0, 0, 0, 0]
    return kept


def rings() -> list[MemoryRing]:
    """Return rings in which the task runs for 100 ms, nine user ticks to one, and writes twice."""
    found = [MemoryRing(f"cpu{cpu}", cpu) for cpu in range(2)]
    ring = found[0]
    ring.comm(FIO, "fio")
    ring.emit(0, SCHED_WAKEUP_NEW, 0, 0, 0, FIO, 120, 0)
    ring.emit(10 * MS, SCHED_SWITCH, 0, 0, 0, 0, 120, 0, FIO, 120)
    for tick in range(10):
        what = TICK_SYSTEM if tick == 5 else TICK_USER
        ring.emit((11 + tick) * MS, SOFTIRQ_RAISE, 0, FIO, 0, 1, what)
    name = ring.intern("WS")
    for sector in (0, 8):
        ring.emit(30 * MS, BLOCK_RQ_INSERT, 0, FIO, 0, 8 << 20, name, sector, 8, 4096)
        ring.emit(30 * MS, BLOCK_RQ_ISSUE, 0, FIO, 0, 8 << 20, name, sector, 8, 4096)
    for sector in (0, 8):
        ring.emit(36 * MS, BLOCK_RQ_COMPLETE, 0, FIO, 0, 8 << 20, name, sector, 8, 0)
    ring.emit(110 * MS, SCHED_SWITCH, 0, FIO, 0, FIO, 120, TASK_INTERRUPTIBLE, 0, 120)
    return found


def run_of(*tasks: FioBooks, group_reporting: bool = False) -> FioRun:
    """Return the output's model of some tasks."""
    spec = load_box("xfs-aio-4k-tuned", ("machine.cpus=2",)).resolve()
    spec.workloads[0].params["job"]["group_reporting"] = group_reporting
    programs = {FIO + number: [one.pack()] for number, one in enumerate(tasks)}
    return fio_run(spec, programs, readers_of(rings()))


NORMAL = """\
NAME: (groupid=0, jobs=1): err= 0: pid=10000: Thu Jan  1 00:00:01 1970
  write: IOPS=3, BW=13.3KiB/s (13.7kB/s)(16.0KiB/1200msec); 0 zone resets
    slat (nsec): min=5000, max=5000, avg=5000.00, stdev= 0.00
    clat (usec): min=41, max=1000, avg=306.75, stdev=462.85
     lat (usec): min=46, max=1005, avg=311.75, stdev=462.85
    clat percentiles (usec):
     |  1.00th=[   42],  5.00th=[   42], 10.00th=[   42], 20.00th=[   42],
     | 30.00th=[   86], 40.00th=[   86], 50.00th=[   86], 60.00th=[  100],
     | 70.00th=[  100], 80.00th=[ 1004], 90.00th=[ 1004], 95.00th=[ 1004],
     | 99.00th=[ 1004], 99.50th=[ 1004], 99.90th=[ 1004], 99.95th=[ 1004],
     | 99.99th=[ 1004]
   bw (  KiB/s): min=   16, max=   16, per=100.00%, avg=16.00, stdev= 0.00, samples=2
   iops        : min=    4, max=    4, avg= 4.00, stdev= 0.00, samples=2
  lat (usec)   : 50=25.00%, 100=25.00%, 250=25.00%
  lat (msec)   : 2=25.00%
  cpu          : usr=7.50%, sys=0.83%, ctx=1, majf=0, minf=0
  IO depths    : 1=75.0%, 2=25.0%, 4=0.0%, 8=0.0%, 16=0.0%, 32=0.0%, >=64=0.0%
     submit    : 0=0.0%, 4=100.0%, 8=0.0%, 16=0.0%, 32=0.0%, 64=0.0%, >=64=0.0%
     complete  : 0=25.0%, 4=75.0%, 8=0.0%, 16=0.0%, 32=0.0%, 64=0.0%, >=64=0.0%
     issued rwts: total=0,4,0,0 short=0,0,0,0 dropped=0,0,0,0
     latency   : target=0, window=0, percentile=100.00%, depth=128

Run status group 0 (all jobs):
  WRITE: bw=13.3KiB/s (13.7kB/s), 13.3KiB/s-13.3KiB/s (13.7kB/s-13.7kB/s), io=16.0KiB (16.4kB), run=1200-1200msec

Disk stats (read/write):
  sda: ios=0/2, merge=0/0, ticks=0/12, in_queue=12, util=0.17%
"""


def test_normal_output_to_the_letter() -> None:
    run = run_of(books())
    assert normal_text(run) == NORMAL.replace("NAME", run.jobs[0].name)


TERSE_WRITE = (
    "16;13;3;1200;5;5;5.000000;0.000000;41;1000;306.750000;462.851578;"
    "1.000000%=41;5.000000%=41;10.000000%=41;20.000000%=41;30.000000%=85;40.000000%=85;"
    "50.000000%=85;60.000000%=99;70.000000%=99;80.000000%=1003;90.000000%=1003;95.000000%=1003;"
    "99.000000%=1003;99.500000%=1003;99.900000%=1003;99.950000%=1003;99.990000%=1003;"
    "0%=0;0%=0;0%=0;46;1005;311.750000;462.851578;16;16;100.000000%;16.000000;0.000000"
)


def test_terse_output_has_130_fields() -> None:
    run = run_of(books())
    fields = terse_text(run).rstrip("\n").split(";")
    assert len(fields) == 130
    assert fields[:9] == ["3", "fio-3.33", run.jobs[0].name, "0", "0", "0", "0", "0", "0"]
    assert fields[46:87] == TERSE_WRITE.split(";")
    assert fields[87:99] == (
        [
            "7.500000%",
            "0.833333%",
            "1",
            "0",
            "0",
            "75.0%",
            "25.0%",
            "0.0%",
            "0.0%",
            "0.0%",
            "0.0%",
            "0.0%",
        ]
    )
    # 2, 4, 10, 20, 50, 100, 250 us …; 2 ms is the eleventh.
    assert fields[99:111] == (
        [
            "0.00%",
            "0.00%",
            "0.00%",
            "0.00%",
            "25.00%",
            "25.00%",
            "25.00%",
            "0.00%",
            "0.00%",
            "0.00%",
            "25.00%",
            "0.00%",
        ]
    )
    assert fields[121:] == ["sda", "0", "2", "0", "0", "0", "12", "12", "0.17%"]


def test_json_is_written_as_fio_writes_it() -> None:
    text = json_text(run_of(books()))
    head = text.splitlines()[:12]
    assert head[:6] == [
        "{",
        '  "fio version" : "fio-3.33",',
        '  "timestamp" : 1,',
        '  "timestamp_ms" : 1200,',
        '  "time" : "Thu Jan  1 00:00:01 1970",',
        head[5],
    ]
    assert '        "iops" : 3.333333,' in text
    assert '            "99.000000" : 1003520,' in text
    assert '          "mean" : 306750.000000,' in text
    write = json.loads(text)["jobs"][0]["write"]
    assert (write["io_bytes"], write["bw_bytes"], write["bw"]) == (16384, 13653, 13)
    assert write["clat_ns"]["percentile"]["50.000000"] == 85_504


def test_json_plus_has_the_bins() -> None:
    clat = json_tree(run_of(books()), plus=True)["jobs"][0]["write"]["clat_ns"]
    assert clat["bins"] == {"41216": 1, "85504": 1, "99840": 1, "1003520": 1}
    assert list(clat) == ["min", "max", "mean", "stddev", "N", "percentile", "bins"]
    assert "bins" not in json_tree(run_of(books()))["jobs"][0]["write"]["clat_ns"]


def test_a_sync_has_lines_of_its_own() -> None:
    kept = books()
    kept.sync.add(150_000)
    run = run_of(kept)
    lines = normal_text(run).splitlines()
    at = lines.index("  fsync/fdatasync/sync_file_range:")
    assert lines[at + 1] == "    sync (nsec): min=150000, max=150000, avg=150000.00, stdev= 0.00"
    assert "total=0,4,0,1 " in normal_text(run)
    sync = json_tree(run)["jobs"][0]["sync"]
    assert (sync["total_ios"], sync["lat_ns"]["N"]) == (1, 1)


def test_a_failed_io_is_told_as_fio_tells_it() -> None:
    kept = books()
    kept.error = -5
    run = run_of(kept)
    told = "err= 5 (file:io_u.c:1876, func=io_u error, error=Input/output error): pid=10000:"
    assert told in normal_text(run).splitlines()[0]
    assert json_tree(run)["jobs"][0]["error"] == 5
    kept.error = 2048  # an IO that was short is tried again
    assert "err= 0: pid" in normal_text(run_of(kept))


def test_jobs_of_a_group_share_its_bandwidth() -> None:
    run = run_of(books(), books())
    assert [job.by_direction["write"].group_bw for job in run.jobs] == [27306, 27306]
    status = normal_text(run).splitlines()
    line = status[status.index("Run status group 0 (all jobs):") + 1]
    assert line.startswith("  WRITE: bw=26.7KiB/s (27.3kB/s), 13.3KiB/s-13.3KiB/s")


def test_group_reporting_adds_jobs_up() -> None:
    bigger = books()
    bigger.write.bs = 8192
    (job,) = run_of(books(), bigger, group_reporting=True).jobs
    write = job.by_direction["write"]
    assert (job.jobs, write.ios, write.bytes) == (2, 8, 4 * 4096 + 4 * 8192)
    # Each had two whole half seconds, two IOs in each; fio adds up what the jobs had at the same time.
    assert write.bw == {"min": 48, "max": 48, "mean": 48.0, "samples": 4, "dev": 0.0}
    assert write.iops_of == {"min": 8, "max": 8, "mean": 8.0, "samples": 4, "dev": 0.0}
    assert write.bw_agg == pytest.approx(100.0)


# -- Numbers ------------------------------------------------------------------------------------


# Of outputs of fio 3.33.
@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [
        (100_502, 4, "101k"),
        (69_813, 4, "69.8k"),
        (12_690, 4, "12.7k"),
        (341_333, 4, "341k"),
        (2_720_000, 4, "2720k"),
        (9_507, 4, "9507"),
        (18_671_560, 6, "18672k"),
        (1_365_500, 6, "1365.5k"),
        (4_145_000, 6, "4145.0k"),
        (8_040, 6, "8040"),
    ],
)
def test_numbers_are_cut_to_size(number: int, digits: int, text: str) -> None:
    assert num2str(number, digits) == text


@pytest.mark.parametrize(
    ("speed", "text"),
    [
        (285_954_303, "273MiB/s (286MB/s)"),
        (11_141_120_000, "10.4GiB/s (11.1GB/s)"),
        (1_048_576_000, "1000MiB/s (1049MB/s)"),
        (13_653, "13.3KiB/s (13.7kB/s)"),
    ],
)
def test_bandwidths(speed: int, text: str) -> None:
    assert bandwidth(speed) == text


def test_the_unit_of_a_line_needs_its_least_its_greatest_and_its_spread() -> None:
    assert scaled(3_245, 4_047_466, 25_629.9) == ("usec", 1_000)
    assert scaled(701, 18_672_000, 1_010_452.0) == ("nsec", 1)
    assert scaled(11_336_668, 46_435_501, 2_172_249.0) == ("usec", 1_000)
    assert scaled(11_336_668, 146_435_501, 2_172_249.0) == ("msec", 1_000_000)


def test_what_is_there_is_never_zero_percent() -> None:
    assert shares([0, 1, 99_999], 100_000, 0.01) == [0.0, 0.01, 99.999]
    assert shares([0, 0], 0, 0.1) == [0.0, 0.0]


def test_classes_come_five_to_a_line() -> None:
    percents = {
        "2": 0.0,
        "50": 0.01,
        "100": 33.63,
        "250": 42.73,
        "500": 21.01,
        "750": 0.23,
        "1000": 0.19,
    }
    assert class_lines("usec", percents) == [
        "  lat (usec)   : 50=0.01%, 100=33.63%, 250=42.73%, 500=21.01%, 750=0.23%",
        "  lat (usec)   : 1000=0.19%",
    ]


# -- Against fio itself -------------------------------------------------------------------------

needs_fio = pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed here")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """Return JSON and normal output of a small job of fio's own."""
    # What comes before the first name is global.
    words = ["--ioengine=null", "--rw=randrw", "--bs=4k", "--name=t", "--size=16m", "--iodepth=16"]
    done = subprocess.run(
        ["fio", *words, "--output-format=normal,json+"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=tmp_path_factory.mktemp("fio"),
    )
    start = done.stdout.index("{\n")
    end = done.stdout.index("\n}\n", start) + 3
    return json.loads(done.stdout[start:end]), done.stdout[end:].splitlines()


# Everything but what depends on the job file and on how fio was built.
def keys_of(tree: Any) -> Any:
    """Return the keys of a tree in their order, figures left out."""
    if isinstance(tree, dict):
        varied = ("job options", "percentile", "bins", "global options")
        return [(key, None if key in varied else keys_of(value)) for key, value in tree.items()]
    return [keys_of(one) for one in tree] if isinstance(tree, list) else type(tree).__name__


@needs_fio
def test_keys_and_kinds_of_values_are_fios(real: tuple[dict[str, Any], list[str]]) -> None:
    ours = json.loads(json_text(run_of(books()), plus=True))
    theirs = real[0]
    # The null engine has no disk.
    assert list(ours) == [*theirs, "disk_util"]
    # An empty distribution has no percentiles, and the job reads nothing.
    mine, other = ours["jobs"][0], theirs["jobs"][0]
    assert list(mine) == list(other)
    for key in set(mine) - {"read", "job options", "error", "eta"}:
        assert keys_of(mine[key]) == keys_of(other[key]), key
    assert keys_of(mine["trim"]) == keys_of(mine["read"])


@needs_fio
def test_fios_own_figures_give_fios_own_lines(real: tuple[dict[str, Any], list[str]]) -> None:
    tree, lines = real
    for name in ("read", "write"):
        figures = tree["jobs"][0][name]
        slat, clat, lat = (
            {**figures[key], "n": figures[key]["N"]} for key in ("slat_ns", "clat_ns", "lat_ns")
        )
        one = DirectionResult(
            ios=figures["total_ios"],
            bytes=figures["io_bytes"],
            runtime_ms=figures["runtime"],
            slat_ns=slat,
            clat_ns=clat,
            lat_ns=lat,
        )
        ours = direction_lines(name, one)
        at = lines.index(ours[0])
        assert lines[at : at + len(ours)] == ours
    unit_names = {"ns": "nsec", "us": "usec", "ms": "msec"}
    for unit, word in unit_names.items():
        for line in class_lines(word, tree["jobs"][0][f"latency_{unit}"]):
            assert line in lines


# -- Whole runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("runs")
    words = ("warmup=50ms",)
    request = Request("xfs-aio-4k-tuned", words, duration="200ms", engine="inline", quiet=True)
    run_box(request, found)
    return found


def test_a_run_leaves_fio_json(runs: Path) -> None:
    tree = json.loads((runs / "latest" / "fio.json").read_text(encoding="utf-8"))
    job = tree["jobs"][0]
    results = json.loads((runs / "latest" / "results.json").read_text(encoding="utf-8"))
    assert job["write"]["total_ios"] == pytest.approx(results["figures"]["ios"], rel=0.01)
    assert job["write"]["clat_ns"]["mean"] / 1000 == pytest.approx(
        results["figures"]["clat_us"]["mean"], abs=0.01
    )
    assert 90 < job["usr_cpu"] + job["sys_cpu"] <= 101
    assert tree["disk_util"][0]["name"] == "sda"


def test_the_command_prints_the_formats_in_fios_order(runs: Path) -> None:
    text = fio_text(FioRequest("latest", ("normal", "terse", "json")), runs)
    assert text.startswith("3;fio-3.33;")
    assert text.index("\n{\n") < text.index("\n}\n\n") < text.index("Run status group 0")
    stored = (runs / "latest" / "fio.json").read_text(encoding="utf-8")
    assert fio_text(FioRequest("latest", ("json",)), runs) == stored


def test_a_job_that_is_not_there_is_said(runs: Path) -> None:
    with pytest.raises(AttachError, match="has no fio job 'x'; it has "):
        fio_text(FioRequest("latest", ("normal",), "x"), runs)


@pytest.mark.skipif(
    shutil.which("fio_jsonplus_clat2csv") is None, reason="fio's tools are not here"
)
def test_fios_own_tool_takes_the_bins(runs: Path, tmp_path: Path) -> None:
    text = fio_text(FioRequest("latest", ("json+",)), runs)
    (tmp_path / "run.json").write_text(text, encoding="utf-8")
    for more in ([], ["--validate"]):
        words = ["fio_jsonplus_clat2csv", "run.json", "run.csv", *more]
        subprocess.run(words, capture_output=True, check=True, timeout=60, cwd=tmp_path)
    rows = (tmp_path / "run_job0.csv").read_text(encoding="utf-8").splitlines()
    column = rows[0].split(", ").index("write_clat_ns_cumulative")
    counts = [row.split(", ")[column] for row in rows[1:]]
    total = json.loads(text)["jobs"][0]["write"]["clat_ns"]["N"]
    assert max(int(count) for count in counts if count) == total
