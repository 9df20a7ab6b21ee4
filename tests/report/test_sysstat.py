"""iostat and mpstat to the letter, of the scene of the /proc files and of a whole run."""

import json
import shutil
from pathlib import Path

import pytest

from emulator.attach import AttachError, StatRequest, iostat_text, mpstat_text
from emulator.report.sysstat import iostat, mpstat
from emulator.report.sysstat.layout import time_of_day
from emulator.report.sysstat.samples import spans
from emulator.rundir import resolve_run
from emulator.session import Request, run_box
from emulator.tracepoints import BLOCK_RQ_COMPLETE, BLOCK_RQ_ISSUE
from tests.report.test_procfs import MS, Scene

SDA = 8 << 20


def scene_of_io() -> Scene:
    """Return the scene with eight writes in its first half and two reads in its second."""
    scene = Scene()
    scene.play()
    ring = scene.rings[0]
    write, read = ring.intern("WS"), ring.intern("R")
    for number in range(8):
        begin = 40 * MS + number * MS // 2
        scene.emit(0, begin, BLOCK_RQ_ISSUE, SDA, write, 8 * number, 8, pid=0)
        scene.emit(0, begin + MS // 4, BLOCK_RQ_COMPLETE, SDA, write, 8 * number, 8, pid=0)
    for number in range(2):
        begin = 60 * MS + number * 5 * MS
        scene.emit(0, begin, BLOCK_RQ_ISSUE, SDA, read, 800 + 64 * number, 64, pid=0)
        scene.emit(0, begin + 4 * MS, BLOCK_RQ_COMPLETE, SDA, read, 800 + 64 * number, 64, pid=0)
    return scene


def iostat_of(moments: tuple[int, ...], **shape: bool) -> str:
    view = scene_of_io().view(0)
    return "".join(iostat.iostat(view, spans(view, moments), iostat.Shape(**shape)))


def mpstat_of(
    moments: tuple[int, ...], cpus: str = "", interrupts: str | None = None, as_json: bool = False
) -> str:
    view = scene_of_io().view(0)
    shape = mpstat.Shape.of(cpus, interrupts, view.nr_cpus, as_json)
    return "".join(mpstat.mpstat(view, spans(view, moments), shape))


HEADLINE = "Linux 5.4 (xfs-aio-4k-tuned) \t01/01/70 \t_x86_64_\t(2 CPU)\n"


def test_iostat_to_the_letter() -> None:
    assert (
        iostat_of((0, 100 * MS))
        == HEADLINE
        + """
avg-cpu:  %user   %nice %system %iowait  %steal   %idle
           9.33    0.00    4.00    0.00    0.00   86.67

Device             tps    kB_read/s    kB_wrtn/s    kB_dscd/s    kB_read    kB_wrtn    kB_dscd
sda             100.00       640.00       320.00         0.00         64         32          0


"""
    )


def test_extended_iostat_to_the_letter() -> None:
    # Eight writes of 250 us in the first half, two reads of 4 ms in the second.
    assert (
        iostat_of((0, 50 * MS, 100 * MS), extended=True, cpu=False, stamped=True)
        == HEADLINE
        + """
01/01/70 00:00:00.050
Device            r/s     rkB/s   rrqm/s  %rrqm r_await rareq-sz     w/s     wkB/s   wrqm/s  %wrqm w_await wareq-sz     d/s     dkB/s   drqm/s  %drqm d_await dareq-sz     f/s f_await  aqu-sz  %util
sda              0.00      0.00     0.00   0.00    0.00     0.00  160.00    640.00     0.00   0.00    0.25     4.00    0.00      0.00     0.00   0.00    0.00     0.00    0.00    0.00    0.00   8.00


01/01/70 00:00:00.100
Device            r/s     rkB/s   rrqm/s  %rrqm r_await rareq-sz     w/s     wkB/s   wrqm/s  %wrqm w_await wareq-sz     d/s     dkB/s   drqm/s  %drqm d_await dareq-sz     f/s f_await  aqu-sz  %util
sda             40.00   1280.00     0.00   0.00    4.00    32.00    0.00      0.00     0.00   0.00    0.00     0.00    0.00      0.00     0.00   0.00    0.00     0.00    0.00    0.00    0.16   8.00


"""
    )


def test_json_of_iostat_has_the_figures_of_its_text() -> None:
    moments = (0, 50 * MS, 100 * MS)
    lines = [line.split() for line in iostat_of(moments, extended=True).splitlines()]
    heads = [line for line in lines if line[:1] == ["Device"]]
    rows = [line for line in lines if line[:1] == ["sda"]]
    host = json.loads(iostat_of(moments, extended=True, json=True))["sysstat"]["hosts"][0]
    assert (host["nodename"], host["number-of-cpus"]) == ("xfs-aio-4k-tuned", 2)
    disks = [report["disk"][0] for report in host["statistics"]]
    for head, row, disk in zip(heads, rows, disks, strict=True):
        assert disk.pop("disk_device") == "sda"
        names = [name.removeprefix("%") for name in head[1:]]
        assert disk == {name: float(text) for name, text in zip(names, row[1:], strict=True)}


# 14 ticks of user time, 5 of system, 1 of softirq in the first half on CPU 0, which idles 22 ms of it.
MPSTAT = """
00:00:00.050  CPU    %usr   %nice    %sys %iowait    %irq   %soft  %steal  %guest  %gnice   %idle
00:00:00.050  all   17.50    0.00    6.25    0.00    0.00    1.25    0.00    0.00    0.00   75.00
00:00:00.050    0   33.33    0.00   11.90    0.00    0.00    2.38    0.00    0.00    0.00   52.38
00:00:00.050    1    0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00  100.00

00:00:00.100  CPU    %usr   %nice    %sys %iowait    %irq   %soft  %steal  %guest  %gnice   %idle
00:00:00.100  all    0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00  100.00
00:00:00.100    0    0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00  100.00
00:00:00.100    1    0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00  100.00

Average:     CPU    %usr   %nice    %sys %iowait    %irq   %soft  %steal  %guest  %gnice   %idle
Average:     all    9.33    0.00    3.33    0.00    0.00    0.67    0.00    0.00    0.00   86.67
Average:       0   15.22    0.00    5.43    0.00    0.00    1.09    0.00    0.00    0.00   78.26
Average:       1    0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00    0.00  100.00
"""


def test_mpstat_to_the_letter() -> None:
    assert mpstat_of((0, 50 * MS, 100 * MS), "ALL") == HEADLINE + MPSTAT


def test_one_row_has_one_head() -> None:
    rows = [line.split()[:2] for line in mpstat_of((0, 50 * MS, 100 * MS)).splitlines()[2:]]
    assert rows == [
        ["00:00:00.050", "CPU"],
        ["00:00:00.050", "all"],
        ["00:00:00.100", "all"],
        ["Average:", "all"],
    ]


def test_interrupts_of_mpstat() -> None:
    # 20 ticks, one timer that expired, and of CPU 1 a sleep that ended; one IPI of each kind.
    text = mpstat_of((0, 100 * MS), "ALL", "ALL")
    assert (
        text
        == HEADLINE
        + """
00:00:00.100  CPU    intr/s
00:00:00.100  all    240.00
00:00:00.100    0    210.00
00:00:00.100    1     30.00

00:00:00.100  CPU      LOC/s      RES/s      CAL/s
00:00:00.100    0     210.00       0.00       0.00
00:00:00.100    1      10.00      10.00      10.00

00:00:00.100  CPU       HI/s    TIMER/s   NET_TX/s   NET_RX/s    BLOCK/s IRQ_POLL/s  TASKLET/s    SCHED/s  HRTIMER/s      RCU/s
00:00:00.100    0       0.00     200.00       0.00       0.00      10.00       0.00       0.00       0.00       0.00       0.00
00:00:00.100    1       0.00       0.00       0.00       0.00       0.00       0.00       0.00       0.00       0.00       0.00
"""
    )


def test_json_of_mpstat_has_the_figures_of_its_text() -> None:
    whole = json.loads(mpstat_of((0, 50 * MS, 100 * MS), "ALL", as_json=True))
    reports = whole["sysstat"]["hosts"][0]["statistics"]
    text = MPSTAT.split("\n\n")
    for report, table in zip(reports, text, strict=False):
        head, *rows = [line.split() for line in table.strip().splitlines()]
        names = [name.removeprefix("%") for name in head[2:]]
        assert report["timestamp"] == head[0]
        assert report["cpu-load"] == [
            {"cpu": row[1]} | dict(zip(names, map(float, row[2:]), strict=True)) for row in rows
        ]
    counts = json.loads(mpstat_of((0, 100 * MS), "1", "CPU", as_json=True))
    (report,) = counts["sysstat"]["hosts"][0]["statistics"]
    assert report["individual-interrupts"] == [
        {"cpu": "1", "intr": [{"name": name, "value": 10.0} for name in ("LOC", "RES", "CAL")]}
    ]


def test_a_cpu_that_is_not_there_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="there are the CPUs 0-1, not all of 1-2"):
        mpstat_of((0, MS), "1-2")


def test_a_time_of_day_shows_parts_of_a_second_if_there_are_any() -> None:
    assert time_of_day(3_725 * 1000 * MS) == "01:02:05"
    assert time_of_day(250 * MS) == "00:00:00.250"


# -- Whole runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("runs")
    words = ("warmup=50ms", "disks.nvme0n1={driver: nvme}", "filesystems./mnt.disk=nvme0n1")
    request = Request("xfs-aio-4k-tuned", words, duration="200ms", engine="inline", quiet=True)
    run_box(request, found)
    return found


def test_a_runs_disk_does_what_its_job_says(runs: Path) -> None:
    shape = iostat.Shape(extended=True, json=True)
    text = "".join(iostat_text(StatRequest("latest", 50 * MS), shape, runs))
    reports = json.loads(text)["sysstat"]["hosts"][0]["statistics"]
    assert len(reports) == 4
    results = json.loads((runs / "latest" / "results.json").read_text(encoding="utf-8"))
    writes = [report["disk"][1]["w/s"] * 0.05 for report in reports]
    assert sum(writes[1:]) == pytest.approx(results["figures"]["ios"], rel=0.02)
    assert all(report["disk"][1]["wareq-sz"] == 4.0 for report in reports)
    assert all(90 < report["disk"][1]["util"] <= 100 for report in reports)
    assert all(report["disk"][0]["w/s"] == 0 for report in reports)  # sda is not used


def test_a_runs_interrupts_are_where_its_completions_are(runs: Path) -> None:
    text = "".join(mpstat_text(StatRequest("latest"), "ALL", "CPU", True, runs))
    (report,) = json.loads(text)["sysstat"]["hosts"][0]["statistics"]
    results = json.loads((runs / "latest" / "results.json").read_text(encoding="utf-8"))
    for cpu, row in enumerate(report["individual-interrupts"]):
        rates = {one["name"]: one["value"] for one in row["intr"]}
        elsewhere = [rates[str(88 + queue)] for queue in range(8) if queue != cpu]
        assert not any(elsewhere), (cpu, rates)
    assert results["figures"]["ios"]


def test_a_running_box_is_told_of_up_to_where_it_is(runs: Path) -> None:
    directory = resolve_run("latest", runs)
    directory.hold()
    try:
        text = "".join(
            iostat_text(StatRequest("latest", 50 * MS, 0, 150 * MS), iostat.Shape(), runs)
        )
    finally:
        directory.release()
    assert text.count("avg-cpu") == 3


def test_a_box_that_is_only_just_starting_is_said_so(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(resolve_run("latest", runs).path, tmp_path / "begun")
    (tmp_path / "begun" / "cpu3.ring").write_bytes(bytes(4096))
    directory = resolve_run(str(tmp_path / "begun"), runs)
    directory.hold()
    try:
        with pytest.raises(
            AttachError, match=r"runs, but cannot be read yet: .*cpu3.ring: not a ring"
        ):
            iostat_text(StatRequest(str(directory.path)), iostat.Shape(), runs)
    finally:
        directory.release()


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (StatRequest("latest", 0, 300 * MS), "has got to 0.2 s"),
        (StatRequest("latest", 300 * MS), "the interval is longer than 0.2 s"),
    ],
)
def test_a_stretch_that_is_not_there_is_said(runs: Path, request_: StatRequest, text: str) -> None:
    with pytest.raises(AttachError, match=text):
        list(iostat_text(request_, iostat.Shape(), runs))
