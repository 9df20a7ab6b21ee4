"""A writer: buffered ``write()`` after ``write()``, as ``dd`` or a logging program does.

Theory of operation
-------------------
Blocks of ``bs`` bytes go to a file of ``size`` bytes, in order or in an order that looks random, pass
after pass.  With ``rate`` (bytes per second) each write waits until it is due; without it they follow
one another.  After every ``fsync_every`` writes comes an ``fsync()``, with ``sync`` a ``sync()`` instead.
How long each of the two calls takes is measured: of a writer that dirties faster than its disk can
write, the pauses are in it.

``layout`` says what the file is before: ``written``, ``unwritten`` (allocated, as by ``fallocate()``)
or ``hole`` (nothing is allocated); ``eof`` says how long it is, -1: as its size.  So ``hole`` with an
``eof`` of 0 is an empty file, which every first write makes longer.
"""

from __future__ import annotations

from typing import Any

from emulator.types import (
    NSEC_PER_SEC,
    OP_EXIT,
    OP_FSYNC,
    OP_RUN,
    OP_SETAFFINITY,
    OP_SLEEP,
    OP_SYNC,
    OP_WRITE,
    Op,
)
from emulator.workload.params import Setting, check_params
from emulator.workload.random import seed_stream, shuffle_keys, shuffled, splitmix64
from emulator.workload.tally import Tallied

LAYOUTS = ("written", "unwritten", "hole")

#: ``passes``: how often the file is written, 0: for ever; ``cpu_ns``: CPU time before each write;
#: ``bind_cpu``: the CPU to which the task binds itself first, -1: none.
WRITER_PARAMS: dict[str, Any] = {
    "file": 0,
    "layout": "written",
    "eof": -1,
    "size": 64 << 20,
    "bs": 4096,
    "random": 0,
    "rate": 0,
    "passes": 0,
    "fsync_every": 0,
    "sync": 0,
    "cpu_ns": 0,
    "bind_cpu": -1,
    "stats_from_ns": 0,
}
#: What a writer is made of, in the order of its packed state.
CONFIG = (
    "file",
    "size",
    "bs",
    "random",
    "rate",
    "fsync_every",
    "sync",
    "cpu_ns",
    "stats_from_ns",
)

# What has just returned.
PC_START, PC_SLEPT, PC_RAN, PC_WROTE, PC_FSYNC, PC_SYNCED = range(6)


class WriterProgram(Tallied):
    """Writes a file through the page cache, flat out or at a rate."""

    name = "writer"
    counts = ("bytes", "errors")
    times = ("write_ns", "fsync_ns")
    aio_events = 0

    __slots__ = (
        "begun_ns",
        "bind_cpu",
        "block",
        "config",
        "keys",
        "passes_left",
        "pc",
        "seed",
        "since_ns",
        "writes",
    )

    def __init__(self, config: list[int], seed: int) -> None:
        self.config = dict(zip(CONFIG, config, strict=True))
        if self.config["bs"] <= 0 or self.config["size"] < self.config["bs"]:
            raise ValueError("writer needs bs > 0 and size >= bs")
        self.seed = seed
        self.keys: list[int] = []
        self.passes_left = -1  #: negative: no end
        self.bind_cpu = -1  #: -1: none, or done
        self.pc = PC_START
        self.block = 0  #: blocks of this pass
        self.writes = 0
        self.begun_ns = 0
        self.since_ns = 0  #: when the call under way began
        super().__init__()

    @classmethod
    def make(cls, params: dict[str, Any], setting: Setting) -> WriterProgram:
        """Build the writer from its parameters, :data:`WRITER_PARAMS`."""
        option = check_params(cls.name, params, WRITER_PARAMS)
        if option["layout"] not in LAYOUTS:
            raise ValueError(f"layout is one of {', '.join(LAYOUTS)}")
        writer = cls([option[name] for name in CONFIG], seed_stream(setting.seed, option["file"]))
        writer.passes_left = option["passes"] or -1
        writer.bind_cpu = option["bind_cpu"]
        return writer

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the next write with what comes before and after it."""
        config = self.config
        if self.bind_cpu >= 0:
            bind_cpu, self.bind_cpu = self.bind_cpu, -1
            return (OP_SETAFFINITY, bind_cpu)
        if self.pc == PC_START:
            self.begun_ns = now_ns
            self.pc = PC_SYNCED
        elif self.pc == PC_WROTE:
            self._record("write_ns", now_ns, config["bs"])
            if config["fsync_every"] and not self.writes % config["fsync_every"]:
                self.pc = PC_FSYNC
                self.since_ns = now_ns
                return (OP_SYNC,) if config["sync"] else (OP_FSYNC, config["file"], 0)
        elif self.pc == PC_FSYNC:
            self._record("fsync_ns", now_ns, 0)
            self.tally.counts["errors"] += result < 0
            self.pc = PC_SYNCED
        if self.pc in (PC_WROTE, PC_SYNCED):
            if self.block == config["size"] // config["bs"]:
                self.block = 0
                self.passes_left -= self.passes_left > 0
            if not self.passes_left:
                return (OP_EXIT,)
            self.pc = PC_SLEPT
            if config["rate"]:
                due = self.writes * config["bs"] * NSEC_PER_SEC // config["rate"]
                return (OP_SLEEP, self.begun_ns + due)
        if self.pc == PC_SLEPT:
            self.pc = PC_RAN
            if config["cpu_ns"]:
                return (OP_RUN, config["cpu_ns"])
        return self._write(now_ns)

    def _write(self, now_ns: int) -> Op:
        config = self.config
        block = self.block
        if config["random"]:
            blocks = config["size"] // config["bs"]
            if not block:
                self.seed, bits = splitmix64(self.seed)
                self.keys = shuffle_keys(blocks, bits)
            block = shuffled(block, blocks, self.keys)
        self.block += 1
        self.writes += 1
        self.pc = PC_WROTE
        self.since_ns = now_ns
        return (OP_WRITE, config["file"], block * config["bs"], config["bs"])

    def _record(self, what: str, now_ns: int, nr_bytes: int) -> None:
        if now_ns >= self.config["stats_from_ns"]:
            self.tally.stats[what].add(now_ns - self.since_ns)
            self.tally.counts["bytes"] += nr_bytes

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [
            self.name,
            [list(self.config.values()), self.seed],
            [
                self.keys,
                self.passes_left,
                self.bind_cpu,
                self.pc,
                self.block,
                self.writes,
                self.begun_ns,
                self.since_ns,
            ],
        ]

    @classmethod
    def unpack(cls, data: list[Any]) -> WriterProgram:
        """Rebuild what :meth:`pack` returned."""
        writer = cls(*data[1])
        (
            keys,
            writer.passes_left,
            writer.bind_cpu,
            writer.pc,
            writer.block,
            writer.writes,
            writer.begun_ns,
            writer.since_ns,
        ) = data[2]
        writer.keys = list(keys)
        return writer
