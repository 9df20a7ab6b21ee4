"""Run boxes in processes of their own, a few at a time, and collect their results.

For commands that run many boxes: each gets a fresh interpreter, so that no run sees what another
left behind, and as many run at once as the host has CPUs for them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from emulator.rundir import RESULTS

#: Started with -c, there is no main module that the agents' processes would import again.
_START = "from emulator.cli import main; main()"

#: How much of an errand's stderr is worth repeating.
ERROR_CHARS_MAX = 2000


@dataclass(frozen=True, slots=True)
class Errand:
    """One run: a box (name or file) and the options of ``run`` beyond it."""

    box: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What an errand came to: the run's ``results.json``, or None and what went wrong."""

    errand: Errand
    results: dict[str, Any] | None
    error: str = ""


def run_apart(
    errands: Sequence[Errand], at_once: int, keep: Path | None = None
) -> Iterator[Report]:
    """Yield a report per errand, in their order, running up to ``at_once`` of them together.

    With ``keep``, what a run leaves besides its rings stays there, in a directory per errand,
    numbered from 0.
    """
    with scratch_directory() as scratch, ThreadPoolExecutor(at_once) as pool:
        places = [(keep or scratch) / str(number) for number in range(len(errands))]
        yield from pool.map(_run, errands, places, [keep is not None] * len(errands))


def usable_cpus() -> int:
    """Return how many host CPUs this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Give a directory that is removed at the end, whatever it then holds."""
    path = Path(mkdtemp(prefix="smpbox-"))
    try:
        yield path
    finally:
        rmtree(path, ignore_errors=True)


def _run(errand: Errand, out: Path, keep: bool) -> Report:
    command = [sys.executable, "-c", _START, "run", errand.box, "--quiet", "--no-logs"]
    command += ["--out", str(out), *errand.options]
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, env=environment()
    )
    results = _results(out)
    # The rings of many runs would fill the disk; the figures are in the results already.
    if keep:
        for ring in out.glob("*.ring"):
            ring.unlink()
    else:
        rmtree(out, ignore_errors=True)
    return Report(errand, results, done.stderr.strip()[-ERROR_CHARS_MAX:])


def environment() -> dict[str, str]:
    """Return the environment of a run apart: a checkout is found wherever the command was given."""
    places = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}


def _results(out: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
