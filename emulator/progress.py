"""The progress line of a run: emulated time, speed, IOPS, migrations, and who is waited for.

Theory of operation
-------------------
The engine says only how far it has come and who is waited for.  What happened until then is read
from the rings of the run, which are mapped files: the counting costs the run nothing, and it is
the same for both engines.  A ring that is not there yet counts as empty.

The line goes to stderr, and only to a terminal: a file or a pipe gets the result alone.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from emulator.trace.reader import COLUMN_A, Piece, RingError, RingReader
from emulator.tracepoints import BOX_AIO_COMPLETE, SCHED_MIGRATE_TASK
from emulator.types import NSEC_PER_SEC, BoxSpec

#: The counts are looked up at most this often, in host time.
LOOK_INTERVAL_NS = NSEC_PER_SEC // 4


class RingCounts:
    """What the CPUs' rings of a live run hold so far: finished IOs, migrations of the submitters."""

    __slots__ = ("_comms", "_done", "_paths", "_readers", "ios", "migrations")

    def __init__(self, directory: Path, nr_cpus: int, comms: frozenset[str]) -> None:
        self._paths = [directory / f"cpu{cpu}.ring" for cpu in range(nr_cpus)]
        self._readers: dict[Path, RingReader] = {}
        self._done = dict.fromkeys(self._paths, 0)
        self._comms = comms
        self.ios = 0
        self.migrations = 0

    def look(self) -> None:
        """Count what was written since the last look."""
        for path in self._paths:
            reader = self._reader(path)
            if reader is None:
                continue
            # The newest record may be half written; it is counted at the next look.
            end = reader.refresh() - 1
            for piece in reader.pieces(self._done[path], end):
                self._count(reader, piece)
            self._done[path] = max(self._done[path], end)

    def _reader(self, path: Path) -> RingReader | None:
        if path not in self._readers:
            try:
                self._readers[path] = RingReader(path)
            except (OSError, RingError):
                return None
        return self._readers[path]

    def _count(self, reader: RingReader, piece: Piece) -> None:
        self.ios += piece.events.count(BOX_AIO_COMPLETE)
        moves = piece.select((SCHED_MIGRATE_TASK,))
        pids = piece.gather(COLUMN_A, moves)
        self.migrations += sum(1 for pid in pids if reader.comms.get(pid) in self._comms)


class ProgressLine:
    """The line on the terminal; use as a context manager and call :meth:`update`."""

    __slots__ = ("_counts", "_duration_ns", "_last", "_looked_ns", "_progress", "_task")

    def __init__(self, spec: BoxSpec, directory: Path, console: Console, shown: bool) -> None:
        comms = frozenset(workload.name for workload in spec.workloads if workload.figure)
        self._counts = RingCounts(directory, spec.machine.nr_cpus, comms)
        self._duration_ns = spec.duration_ns
        self._looked_ns = 0
        self._last = (0, 0, 0)  # host time, emulated time, IOs of the last look
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not (shown and console.is_terminal),
            transient=True,
        )
        self._task = self._progress.add_task(spec.name, total=spec.duration_ns, text="starting")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, host_ns: int, now_ns: int, waiting_for: str = "") -> None:
        """Show that the run has come to ``now_ns``; ``host_ns`` is the host's monotonic clock."""
        if self._progress.disable or host_ns - self._looked_ns < LOOK_INTERVAL_NS:
            return
        self._looked_ns = host_ns
        self._counts.look()
        text = self._text(host_ns, now_ns)
        if waiting_for:
            text += f"  waiting for {waiting_for}"
        self._progress.update(self._task, completed=min(now_ns, self._duration_ns), text=text)

    def _text(self, host_ns: int, now_ns: int) -> str:
        last_host_ns, last_now_ns, last_ios = self._last
        self._last = (host_ns, now_ns, self._counts.ios)
        total_s = self._duration_ns / NSEC_PER_SEC
        text = f"{now_ns / NSEC_PER_SEC:.2f} of {total_s:g} s"
        emulated_ns = now_ns - last_now_ns
        if not last_host_ns or emulated_ns <= 0:
            return text
        speed = emulated_ns / (host_ns - last_host_ns)
        iops = (self._counts.ios - last_ios) * NSEC_PER_SEC // emulated_ns
        return f"{text}  {speed:.2f}x  {iops:,} IOPS  {self._counts.migrations:,} migrations"
