"""A client of a file server's benchmark: writes a little, makes sure that it is on disk, answers.

Theory of operation
-------------------
One operation is ``think_ns`` of CPU time, then ``writes_per_fsync`` writes of ``bs`` bytes one behind
the other, then ``fsync()``.  The writes are direct, or with ``direct`` 0 go through the page cache.  By
default the file is empty at first (``layout`` and ``eof``, as of :mod:`emulator.workload.writer`), so
that each operation has a new size and an extent to log: the client sleeps for the work item that pushes
the log, then for the log write, whose end is a work item of the log's bound queue, and is woken from
there (chain C11).  When the file has come to ``size`` it begins anew; then, and in a file that is
``written`` to its end, nothing is logged, and fsync() only flushes the disk's cache.

Departures from dbench: it opens, reads, renames and deletes too; here is the part of its load that
waits.
"""

from __future__ import annotations

from typing import Any

from emulator.types import OP_EXIT, OP_FSYNC, OP_RUN, OP_RW, OP_WRITE, WRITE, Op
from emulator.workload.params import Setting, check_params
from emulator.workload.tally import Tallied

#: ``operations`` 0: no end.
DBENCH_PARAMS: dict[str, Any] = {
    "file": 0,
    "size": 16 << 20,
    "bs": 4096,
    "writes_per_fsync": 1,
    "direct": 1,
    "fsync": 1,
    "think_ns": 20_000,
    "operations": 0,
    "layout": "hole",
    "eof": 0,
    "stats_from_ns": 0,
}

# What has just returned.
PC_START = 0
PC_THOUGHT = 1
PC_WROTE = 2
PC_SYNCED = 3


class DbenchProgram(Tallied):
    """Thinks, writes, syncs; keeps how long writes, syncs and whole operations take."""

    name = "dbench"
    counts = ("operations", "errors")
    times = ("write_ns", "fsync_ns", "operation_ns")
    aio_events = 0

    __slots__ = ("config", "left", "offset", "pc", "since_ns", "thought_ns", "writes")

    def __init__(self, config: list[int]) -> None:
        #: file, size, bs, writes_per_fsync, fsync, think_ns, stats_from_ns, direct
        self.config = config
        _, size, bs, writes, _, think_ns, _, _ = config
        if bs <= 0 or bs % 512 or writes <= 0 or size < bs * writes:
            raise ValueError(
                "dbench needs bs of whole sectors, writes_per_fsync > 0 and size >= bs of all"
            )
        if think_ns <= 0:
            raise ValueError("dbench needs think_ns > 0")
        self.left = -1  #: operations, negative: no end
        self.offset = 0
        self.writes = 0  #: of this operation
        self.since_ns = 0  #: when the call in progress was made
        self.thought_ns = 0  #: when this operation had thought
        self.pc = PC_START
        super().__init__()

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> DbenchProgram:
        """Build the client from its parameters, :data:`DBENCH_PARAMS`."""
        option = check_params(cls.name, params, DBENCH_PARAMS)
        names = (
            "file",
            "size",
            "bs",
            "writes_per_fsync",
            "fsync",
            "think_ns",
            "stats_from_ns",
            "direct",
        )
        client = cls([option[name] for name in names])
        client.left = option["operations"] or -1
        return client

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next write or sync, or the thinking of the next operation."""
        file, size, bs, writes, fsync, _, _, direct = self.config
        if self.pc == PC_THOUGHT:
            self.thought_ns = now_ns
            self.writes = 0
        elif self.pc == PC_WROTE:
            self._record("write_ns", now_ns - self.since_ns, now_ns)
            self.tally.counts["errors"] += bool(result and result < 0)
            self.writes += 1
            if self.writes == writes and fsync:
                self.pc = PC_SYNCED
                self.since_ns = now_ns
                return (OP_FSYNC, file, 0)
        elif self.pc == PC_SYNCED:
            self._record("fsync_ns", now_ns - self.since_ns, now_ns)
            self.tally.counts["errors"] += bool(result and result < 0)
        if self.pc == PC_START or (self.pc != PC_THOUGHT and self.writes == writes):
            return self._think(now_ns)
        self.pc = PC_WROTE
        self.since_ns = now_ns
        if self.offset + bs > size:
            self.offset = 0
        offset = self.offset
        self.offset = offset + bs
        if direct:
            return (OP_RW, WRITE, file, offset, bs)
        return (OP_WRITE, file, offset, bs)

    def _think(self, now_ns: int) -> Op:
        if self.pc != PC_START:
            self._record("operation_ns", now_ns - self.thought_ns, now_ns)
            self.tally.counts["operations"] += 1
            self.left -= self.left > 0
            if not self.left:
                return (OP_EXIT,)
        self.pc = PC_THOUGHT
        return (OP_RUN, self.config[5])

    def _record(self, name: str, took_ns: int, now_ns: int) -> None:
        if now_ns >= self.config[6]:
            self.tally.stats[name].add(took_ns)

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        where = [self.left, self.offset, self.writes, self.since_ns, self.thought_ns, self.pc]
        return [self.name, list(self.config), where]

    @classmethod
    def unpack(cls, data: list[Any]) -> DbenchProgram:
        """Rebuild what :meth:`pack` returned."""
        _, config, where = data
        client = cls(config)
        client.left, client.offset, client.writes, client.since_ns, *rest = where
        client.thought_ns, client.pc = rest
        return client
