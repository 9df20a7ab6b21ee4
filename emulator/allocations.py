"""How many allocations an IO costs, counted by glibc's ``libmemusage.so``.

Theory of operation
-------------------
The engine alone runs a box inline, for two lengths, in processes of their own in which Python takes
every object from ``malloc()`` and the library counts the calls.  The difference is what the
emulated time between them cost; start, imports and figures cancel out.  What CPython takes from its
free lists is not counted.  Where the library is absent there is no count.
"""

import re
import subprocess
import sys

from emulator import engines
from emulator.apart import environment, scratch_directory
from emulator.config import load_box

LIBRARY = "libmemusage.so"
SHORT_MS, LONG_MS = 200, 400

_START = "from emulator.allocations import engine_alone; engine_alone({box!r}, {ms})"
_CALLS = re.compile(r"^\s*(?:malloc|realloc|calloc)\|\s*(\d+)", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def allocations_per_io(box: str, iops: float) -> float | None:
    """Return the allocations per IO of a box that does ``iops``, or None if nothing counts them."""
    short, long = calls(box, SHORT_MS), calls(box, LONG_MS)
    if short is None or long is None or not iops:
        return None
    return (long - short) * 1000 / (iops * (LONG_MS - SHORT_MS))


def calls(box: str, ms: int) -> int | None:
    """Return how often memory was allocated in a run of so many emulated ms, start included."""
    command = [sys.executable, "-c", _START.format(box=box, ms=ms)]
    counting = {**environment(), "PYTHONMALLOC": "malloc", "LD_PRELOAD": LIBRARY}
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=True, env=counting
    )
    return calls_of(done.stderr)


def calls_of(summary: str) -> int | None:
    """Return the calls that allocate, out of the library's summary; None if there is none."""
    found = _CALLS.findall(_COLOUR.sub("", summary))
    return sum(map(int, found)) if found else None


def engine_alone(box: str, ms: int) -> None:
    """Run a box inline for so many emulated ms, and keep nothing of it."""
    spec = load_box(box, ("warmup=0ms",), None, f"{ms}ms").resolve()
    with scratch_directory() as place:
        job = engines.Job(spec, place, lambda _now_ns, _who="": True)
        outcome = engines.run(engines.INLINE, job)
    if outcome.status:
        sys.exit(outcome.error)
