"""A box's block events as blktrace writes them, for ``blkparse``, ``btt`` and what reads their files.

Theory of operation
-------------------
A file per disk and CPU, ``DISK.blktrace.N``, of records of ``struct blk_io_trace`` (version 7): inserts
(I), issues (D) and completions (C), in the context in which the ring has them.  Before a task's first
record of a file stands a message with its name.

Departures: rings do not tell of bios and of getting a request; their records (Q, G) stand where the ring
first tells of the request, at its insert, or its issue.  Plugs are not told at all.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from emulator.report.procfs.disks import STAT_FLUSH, STAT_READ, stat_group
from emulator.report.procfs.view import disk_dev
from emulator.trace.reader import (
    COLUMN_A,
    COLUMN_B,
    COLUMN_C,
    COLUMN_D,
    COLUMN_E,
    COLUMN_TIME,
    RingReader,
)
from emulator.tracepoints import (
    BLOCK_RQ_COMPLETE,
    BLOCK_RQ_INSERT,
    BLOCK_RQ_ISSUE,
    BLOCK_RQ_REQUEUE,
)
from emulator.types import BoxSpec

#: magic and version, sequence, time, sector, bytes, action, pid, device, cpu, error, length of a pdu
RECORD = Struct("=IIQQIIIIIHH")
MAGIC = 0x65617407

COMM_LENGTH = 16

#: Actions, and the category that each belongs to.
QUEUE, GETRQ, REQUEUE, ISSUE, COMPLETE, INSERT = 1, 4, 6, 7, 8, 12
TC_READ, TC_WRITE, TC_FLUSH, TC_SYNC, TC_QUEUE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4
TC_REQUEUE, TC_ISSUE, TC_COMPLETE, TC_NOTIFY, TC_META, TC_FUA = (
    1 << 5,
    1 << 6,
    1 << 7,
    1 << 10,
    1 << 12,
    1 << 15,
)
TC_SHIFT = 16
TN_PROCESS = TC_NOTIFY << TC_SHIFT

ACTIONS = {
    BLOCK_RQ_INSERT: INSERT | TC_QUEUE << TC_SHIFT,
    BLOCK_RQ_REQUEUE: REQUEUE | TC_REQUEUE << TC_SHIFT,
    BLOCK_RQ_ISSUE: ISSUE | TC_ISSUE << TC_SHIFT,
    BLOCK_RQ_COMPLETE: COMPLETE | TC_COMPLETE << TC_SHIFT,
}
BIRTH = (QUEUE | TC_QUEUE << TC_SHIFT, GETRQ | TC_QUEUE << TC_SHIFT)
_COLUMNS = (COLUMN_TIME, COLUMN_A, COLUMN_B, COLUMN_C, COLUMN_D, COLUMN_E)


class _Event(NamedTuple):
    time_ns: int
    event: int
    pid: int
    dev: int
    rwbs: str
    sector: int
    nr_sector: int
    error: int
    cpu: int
    position: int


def write_traces(spec: BoxSpec, readers: Sequence[RingReader], target: Path) -> list[str]:
    """Write the files of all disks into a directory and return their names; raise OSError."""
    target.mkdir(parents=True, exist_ok=True)
    rings = [reader for reader in readers if reader.is_cpu]
    whole = [list(_events(reader, cpu)) for cpu, reader in enumerate(rings)]
    born = _births([event for events in whole for event in events])
    names: list[str] = []
    for cpu, reader in enumerate(rings):
        for index, disk in enumerate(spec.disks):
            own = [event for event in whole[cpu] if event.dev == disk_dev(index)]
            name = f"{disk.name}.blktrace.{cpu}"
            (target / name).write_bytes(b"".join(records(own, born, reader.comms)))
            names.append(name)
    return names


# (CPU, position) of the events in which the rings first tell of a request: an issue that follows an insert
# does not, nor does a device's refusal.  A flush is no bio.
def _births(events: list[_Event]) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    inserted: Counter[tuple[int, int, str]] = Counter()
    for event in sorted(events, key=attrgetter("time_ns", "cpu", "position")):
        key = (event.dev, event.sector, event.rwbs)
        if event.event == BLOCK_RQ_REQUEUE and inserted[key]:
            continue
        if event.event in (BLOCK_RQ_INSERT, BLOCK_RQ_REQUEUE):
            inserted[key] += 1
        elif event.event == BLOCK_RQ_ISSUE and inserted[key]:
            inserted[key] -= 1
            continue
        if event.event != BLOCK_RQ_COMPLETE and stat_group(event.rwbs) != STAT_FLUSH:
            found.add((event.cpu, event.position))
    return found


def _events(reader: RingReader, cpu: int) -> Iterator[_Event]:
    for piece in reader.pieces():
        indices = piece.select(ACTIONS)
        kinds = [piece.events[index] for index in indices]
        columns = [piece.gather(column, indices) for column in _COLUMNS]
        for index, kind, pid, time_ns, dev, rwbs, sector, nr_sector, last in zip(
            indices, kinds, piece.gather_pids(indices), *columns, strict=True
        ):
            error = last if kind == BLOCK_RQ_COMPLETE else 0
            name, place = reader.names[rwbs], piece.start + index
            yield _Event(time_ns, kind, pid, dev, name, sector, nr_sector, error, cpu, place)


def records(
    events: Sequence[_Event], born: set[tuple[int, int]], comms: dict[int, str]
) -> Iterator[bytes]:
    """Yield the records of one file; ``born``: before which events those of new requests stand."""
    told: set[int] = set()
    sequence = 0
    for event in events:
        if event.pid and event.pid not in told:
            told.add(event.pid)
            sequence += 1
            comm = (
                comms.get(event.pid, "<...>").encode()[: COMM_LENGTH - 1].ljust(COMM_LENGTH, b"\0")
            )
            head = (
                MAGIC,
                sequence,
                event.time_ns,
                0,
                0,
                TN_PROCESS,
                event.pid,
                event.dev,
                event.cpu,
                0,
            )
            yield RECORD.pack(*head, COMM_LENGTH) + comm
        before = BIRTH if (event.cpu, event.position) in born else ()
        for action in (*before, ACTIONS[event.event]):
            sequence += 1
            yield RECORD.pack(
                MAGIC,
                sequence,
                event.time_ns,
                event.sector,
                event.nr_sector * 512,
                action | categories(event.rwbs) << TC_SHIFT,
                event.pid,
                event.dev,  # of major and minor, as the kernel's MKDEV() has it
                event.cpu,
                event.error & 0xFFFF,
                0,
            )


def categories(rwbs: str) -> int:
    """Return the category bits that the letters of a request stand for."""
    group = stat_group(rwbs)
    found = TC_READ if group == STAT_READ else TC_WRITE if group != STAT_FLUSH else 0
    rest = rwbs
    if rwbs.startswith("F"):
        found |= TC_FLUSH
        rest = rwbs[1:]
    return (
        found
        | (TC_FUA if "F" in rest[1:] else 0)
        | (TC_SYNC if "S" in rest else 0)
        | (TC_META if "M" in rest else 0)
    )
