"""A box that runs for long: does any of its processes grow, or lose descriptors?

``python -m tests.soak [SECONDS]`` (``make soak``) runs a box of 8 CPUs for so many seconds of wall time,
an hour without the argument, and looks at every process of it each ten seconds.  At the end it is
ended as by Ctrl-C, and the table tells of each process its resident memory after the warm-up and at
the end, and its descriptors.  Memory goes up and down with the segment of the ring that is mapped, so
it is a mean: over the first and over the last quarter of what follows the warm-up.

The exit status is 1 if a process grew by more than 5 %, kept more descriptors or threads, or if
anything was left behind.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import psutil

CHECKOUT = Path(__file__).parents[1]

#: IO and its completions on one CPU or another, and hogs that are balanced; nothing of it ends.  Rings
#: are short, so that they are used again, as those of any run that lasts are.
BOX = """\
description: the soak
like: xfs-aio-4k-tuned
duration: 1000h
trace: {ring: 8m}
workloads:
  - fio: soak.fio
  - {program: hog, count: 3}
  - {program: periodic, count: 4, params: {period_ns: 5000000, run_ns: 1000000}}
"""
JOB = "xfs-aio-4k.fio"
OPTIONS = ("--no-logs", "--quiet")

SECONDS = 3600.0
SAMPLE_S = 10.0
#: Part of the time after which a process has all that it will ever need.
WARMUP = 0.2
GROWTH_MAX = 0.05

#: How long the box may take to end when it is told to.
END_S = 60.0

MIB = 1 << 20

#: What Python starts to start processes, by whether it is the forkserver.
HELPERS = {True: "forkserver", False: "resource tracker"}


@dataclass
class Process:
    """What was seen of one process: resident bytes, descriptors, threads, sample by sample."""

    process: psutil.Process
    rss: list[int] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def sample(self) -> None:
        """Look at it now."""
        with self.process.oneshot():
            self.rss.append(self.process.memory_info().rss)
            self.fds.append(self.process.num_fds())
            self.threads.append(self.process.num_threads())

    def means(self) -> tuple[float, float]:
        """Return its resident memory after the warm-up and at the end."""
        quarter = max(1, len(self.rss) // 4)
        return fmean(self.rss[:quarter]), fmean(self.rss[-quarter:])

    def growth(self) -> float:
        """Return by which part it grew."""
        first, last = self.means()
        return last / first - 1

    def leaks(self) -> bool:
        """Whether it keeps more descriptors or threads than after the warm-up."""
        return self.fds[-1] > max(self.fds[:3]) or self.threads[-1] > max(self.threads[:3])


def soak(seconds: float, out: Path) -> int:
    """Run the box for so long, print what became of its processes, and return the exit status."""
    box = write_box(out.parent)
    words = [sys.executable, str(CHECKOUT / "launch.py"), "run", str(box), *OPTIONS]
    words += ["--out", str(out)]
    launcher = subprocess.Popen(words, cwd=CHECKOUT)
    try:
        warm = seconds * WARMUP
        wait(launcher, warm)
        everybody = find(launcher.pid)
        for _ in ticks(launcher, seconds - warm):
            for one in everybody.values():
                one.sample()
    finally:
        # As Ctrl-C does: the run ends with its results.
        launcher.send_signal(signal.SIGINT)
        status = launcher.wait(END_S)
    _, alive = psutil.wait_procs([one.process for one in everybody.values()], END_S)
    left = [name for name, one in everybody.items() if one.process in alive]
    return report(everybody, seconds, status, left)


def write_box(place: Path) -> Path:
    """Write the box and its job, which ships with an end, and return the box's file."""
    job = (CHECKOUT / "config" / "jobs" / JOB).read_text(encoding="utf-8")
    assert "runtime=30s" in job
    (place / "soak.fio").write_text(job.replace("runtime=30s", "runtime=3000000"), encoding="utf-8")
    box = place / "soak.yaml"
    box.write_text(BOX, encoding="utf-8")
    return box


def find(pid: int) -> dict[str, Process]:
    """Return the launcher and every process below it, by name."""
    launcher = psutil.Process(pid)
    found = {"launcher": Process(launcher)}
    for child in launcher.children(recursive=True):
        words = " ".join(child.cmdline())
        name = child.name() if child.name().startswith("emu") else HELPERS["forkserver" in words]
        found[name] = Process(child)
    return found


def ticks(launcher: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """Yield each ten seconds for so long."""
    for _ in range(max(1, int(seconds / SAMPLE_S))):
        wait(launcher, SAMPLE_S)
        yield


def wait(launcher: subprocess.Popen[bytes], seconds: float) -> None:
    """Let some time pass; a run that is over by itself is a failure."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            status = launcher.wait(left)
        except subprocess.TimeoutExpired:
            return
        raise SystemExit(f"the run ended by itself, with status {status}")


def report(everybody: dict[str, Process], seconds: float, status: int, left: list[str]) -> int:
    """Print the table and return 1 if something grew, leaked or was left."""
    samples = len(everybody["launcher"].rss)
    print(f"{seconds:.0f} s of wall time, {samples} samples after {seconds * WARMUP:.0f} s")
    print(
        f"{'process':<20}{'RSS MiB':>10}{'at end':>10}{'growth':>9}{'descriptors':>14}{'threads':>10}"
    )
    bad = []
    for name, one in everybody.items():
        first, last = (mean / MIB for mean in one.means())
        fds = f"{max(one.fds[:3])} → {one.fds[-1]}"
        threads = f"{max(one.threads[:3])} → {one.threads[-1]}"
        print(f"{name:<20}{first:>10.1f}{last:>10.1f}{one.growth():>9.1%}{fds:>14}{threads:>10}")
        if one.growth() > GROWTH_MAX or one.leaks():
            bad.append(name)
    print(f"exit status of the run: {status}; left behind: {', '.join(left) or 'nothing'}")
    print(f"grew or leaked: {', '.join(bad) or 'none'}")
    return 1 if bad or left else 0


def main() -> int:
    """Soak for the seconds that the first argument says."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory() as name:
        return soak(seconds, Path(name) / "run")


if __name__ == "__main__":
    sys.exit(main())
