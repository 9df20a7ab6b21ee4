"""fio 3.33 itself as the judge: what is taken here it takes, and what it has is known here."""

import shutil
import subprocess
from pathlib import Path

import pytest

from emulator.workload.fio_job import parse_sections, read_job
from emulator.workload.fio_options import ALIASES, IGNORED, OPTIONS
from emulator.workload.fio_refused import REASONS, REFUSED

pytestmark = pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")

GLOBAL = "[global]\nioengine=libaio\ndirect=1\nrw=randwrite\nsize=1m\nfilename=f\n"
#: Values of every kind; each option is given each of them, and takes some.
VALUES = (
    *(
        "0",
        "1",
        "2",
        "7",
        "19",
        "64",
        "4k",
        "4K",
        "4kb",
        "4KiB",
        "1m",
        "8,16",
        "4k,8k",
        ",8k",
        "0x3",
    ),
    *("10s", "10ms", "5us", "1h", "25%", "none", "sync", "dsync", "read", "randrw", "readwrite"),
    *("libaio", "io_uring", "psync", "pvsync", "md5", "crc32c", "0-1", "0,1", "a:b", "50:99.9"),
    *("shared", "split", "complete", "issue", "roundrobin", "random:4", "sequential", "linear"),
    *("4k/50:8k/50", "4k/30:8k", "4k/10:8k/90,16k", "512-4k", "4k-64k,8k-8k"),
    *("native", "posix", "keep", "tausworthe", "lfsr", "malloc", "mmap", "cpu", "2*4", '"ab"'),
)


def accepted(name: str, value: str) -> bool:
    sections, problems = parse_sections(f"{GLOBAL}[j]\n{name}={value}\n", cpus=2)
    return not problems and not read_job(sections[0])[1]


def fio_refuses(tmp_path: Path, lines: list[str]) -> list[str]:
    """Return the lines that fio refuses, each as the only one of a job."""
    job = tmp_path / "all.fio"
    sections = "".join(f"[j{index}]\n{line}\n" for index, line in enumerate(lines))
    job.write_text(GLOBAL + sections)
    command = ["fio", "--parse-only", "--max-jobs=4096", str(job)]
    if not subprocess.run(command, capture_output=True, check=False, timeout=60).returncode:
        return []
    if len(lines) == 1:
        return lines
    middle = len(lines) // 2
    return fio_refuses(tmp_path, lines[:middle]) + fio_refuses(tmp_path, lines[middle:])


def test_fio_takes_every_option_and_value_that_is_taken_here(tmp_path: Path) -> None:
    # Which checksums there are is asked of the box's costs, later.
    names = [name for name in (*OPTIONS, *ALIASES, *IGNORED) if name not in ("verify", "filename")]
    lines = [f"{name}={value}" for name in names for value in VALUES if accepted(name, value)]
    assert len({line.partition("=")[0] for line in lines}) >= len(names) - 4
    assert fio_refuses(tmp_path, lines) == []


def test_every_option_of_fio_is_known_here() -> None:
    version = subprocess.run(["fio", "--version"], capture_output=True, text=True, check=True)
    if version.stdout.strip() != "fio-3.33":
        pytest.skip("the table is of fio 3.33")
    found = subprocess.run(
        ["fio", "--cmdhelp=all"], capture_output=True, text=True, check=True, timeout=60
    )
    theirs = {line.partition(":")[0].strip() for line in found.stdout.splitlines() if ":" in line}
    assert len(theirs) > 150
    assert theirs <= {*OPTIONS, *ALIASES, *IGNORED, *REFUSED}


def test_no_option_is_both_taken_and_refused() -> None:
    assert not set(REFUSED) & {*OPTIONS, *ALIASES, *IGNORED}
    assert len(REFUSED) == sum(len(names) for names in REASONS.values())
