"""The course of a fio job that reads and writes, has several files, a rate, a limit or fsync.

Theory of operation
-------------------
:class:`MixCourse` says, IO by IO, which file is next (``file_service_type``), in which direction, at
which offset and whether a sync is due; and when that may be (``rate``).  Everything it counts is
counted when an IO is handed to the engine, as fio's ``io_issues`` and ``io_issue_bytes``.

*Direction* (``get_rand_ddir()``).  Of every 100 IOs exactly ``rwmixread`` are reads, in an order of
their own.  Where a rate holds one direction back and the other is behind its own, the other goes.

*Offset.*  In order, per file and direction; or by a permutation per file, which visits every block
once before it starts anew: one for both directions, or one each if their block sizes differ; or at
random (``norandommap``).  With ``bssplit`` or ``bsrange`` each IO draws its size (:mod:`fio_sizes`).  A *round* is one visit of every file's bytes, reads and writes together.

*Rate* (``usec_for_io()``).  The next IO of a direction is due when all its bytes so far should have
been through, counted from the start of the job.  A job ahead of that lets its queue run dry and
sleeps.

*Sync.*  After every ``fsync``-th write the file that is next is synced, before anything else is issued:
to fio a sync is an IO like any other.  One that is due when a round ends comes twice, at its end and at
the begin of the next, since fio forgets that it has synced.

Departures from fio: the mix is exact where fio draws each direction anew; blocks of different size
have maps of their own instead of a common one; the sleep of a rate ends by its timer alone, where
fio spins the last microseconds; a mixed job may sync once after a write, never again after a read.
"""

from __future__ import annotations

from typing import Any

from emulator.types import NEVER, NSEC_PER_USEC, READ, WRITE
from emulator.workload.fio_params import (
    SERVICE_RANDOM,
    SERVICE_SEQUENTIAL,
    FioJob,
)
from emulator.workload.fio_sizes import get_next_buflen, mark_random_map
from emulator.workload.random import seed_stream, shuffle_keys, shuffled, splitmix64

PERCENT = 100

#: MixCourse.sync_due.
SYNC_NONE = -1
SYNC_FSYNC = 0
SYNC_FDATASYNC = 1


class Place:
    """Where a job is in one of its files."""

    __slots__ = ("closed", "keys", "left", "maps", "positions", "steps")

    def __init__(self, size: int) -> None:
        self.left = size  #: bytes of this round
        self.closed = False  #: fio has tried to go on with it, and found nothing left
        self.positions = [0, 0]  #: next byte of each direction, in order
        self.steps = [0, 0]  #: blocks taken of each map
        #: blocks visited in this pass, of jobs whose blocks have several sizes
        self.maps = [bytearray(), bytearray()]
        self.keys: list[list[int]] = [[], []]  #: the order of each map; empty: not drawn yet

    def pack(self) -> list[Any]:
        """Return the place as plain data."""
        keys = [list(one) for one in self.keys]
        maps = [bytes(one) for one in self.maps]
        return [self.left, self.closed, list(self.positions), list(self.steps), keys, maps]

    @classmethod
    def unpack(cls, data: list[Any]) -> Place:
        """Rebuild what :meth:`pack` returned."""
        place = cls(data[0])
        _, place.closed, positions, steps, keys, maps = data
        place.maps = [bytearray(one) for one in maps]
        place.positions, place.steps = list(positions), list(steps)
        place.keys = [list(one) for one in keys]
        return place


class MixCourse:
    """What comes next, and all that this depends on."""

    __slots__ = (
        "bytes_left",
        "chosen",
        "end",
        "file",
        "index",
        "ios_left",
        "issued_bytes",
        "job",
        "length",
        "offset",
        "places",
        "prep_ns",
        "random",
        "round_synced",
        "rw",
        "serviced",
        "sync_due",
        "ticket",
        "tickets",
        "verifying",
        "writes",
    )

    def __init__(self, job: FioJob) -> None:
        self.job = job
        self.random = seed_stream(job.seed, job.file)
        self.places = [Place(size) for _, _, size in job.files]
        self.index = -1  #: the file in use
        self.serviced = 0  #: IOs to it since it was chosen
        self.ticket = PERCENT  #: of 100 directions, how many are drawn
        self.tickets: list[int] = []
        self.chosen = -1  #: direction of the next IO, -1: not chosen yet
        self.issued_bytes = [0, 0]
        self.bytes_left = job.io_bytes  #: of the whole job
        self.ios_left = job.number_ios
        self.writes = 0  #: so far
        self.sync_due = SYNC_NONE
        self.round_synced = False  #: a sync that was due at the end of the round was done there
        # The IO that was taken last.
        self.rw = job.rw
        self.file = job.file
        self.offset = 0
        self.length = 0
        self.end = 0  #: where the engine's file position is
        self.prep_ns = 0  #: CPU time to prepare it
        self.verifying = False

    @property
    def finished(self) -> bool:
        """Whether the job has issued all that it shall."""
        return self.bytes_left <= 0 or self.ios_left <= 0

    @property
    def round_over(self) -> bool:
        """Whether every file was visited."""
        return all(place.left <= 0 for place in self.places)

    def next_round(self) -> None:
        """Begin to visit the files again; maps that are used up are drawn anew as they are asked."""
        for place, (_, _, size) in zip(self.places, self.job.files, strict=True):
            place.left = size
            place.closed = False

    def rewind(self, *, verifying: bool) -> None:
        """Begin again; a mixed job never verifies."""
        assert not verifying, "a mixed job was to verify"
        self.next_round()

    # -- Which direction, and when --

    def choose(self) -> None:
        """Choose the direction of the next IO."""
        mix = self.job.read_mix
        if mix in (0, PERCENT):
            self.chosen = READ if mix else WRITE
            return
        if self.ticket == PERCENT:
            self.random, bits = splitmix64(self.random)
            self.tickets = shuffle_keys(PERCENT, bits)
            self.ticket = 0
        read = shuffled(self.ticket, PERCENT, self.tickets) < mix
        self.ticket += 1
        self.chosen = READ if read else WRITE

    # rate_ddir().
    def held_back(self, since_ns: int) -> int:
        """Return when the next IO may go if that is later than ``since_ns``, else 0.

        Both are ns after the start of the job.  A direction that must wait lets the other go first.
        """
        due_ns = self._due_ns(self.chosen)
        if due_ns <= since_ns:
            return 0
        if 0 < self.job.read_mix < PERCENT:
            other_ns = self._due_ns(self.chosen ^ 1)
            if other_ns < due_ns:
                self.chosen ^= 1
                due_ns = other_ns
        return due_ns if due_ns > since_ns else 0

    # usec_for_io(): whole microseconds, as fio counts.
    def _due_ns(self, rw: int) -> int:
        rate = self.job.rate_read if rw == READ else self.job.rate_write
        return self.issued_bytes[rw] * 1_000_000 // rate * NSEC_PER_USEC if rate else 0

    # -- Which file and block --

    def take(self) -> None:
        """Take the next IO, in the direction chosen: file, offset, length and cost are set."""
        job = self.job
        self._next_file(syncs=False)
        place = self.places[self.index]
        file, start, size = job.files[self.index]
        rw = self.rw = self.chosen
        self.chosen = -1
        self.length = job.read_bs if rw == READ else job.write_bs
        ahead = self._sequential if job.sequential else self._random
        at = start + ahead(place, rw, size)
        length = self.length
        self.prep_ns = job.read_prep_ns if rw == READ else job.write_prep_ns
        if job.sized and rw == WRITE:
            self.prep_ns += length * job.fill_ps_per_byte // 1000
        if file != self.file or at != self.end:
            self.prep_ns += job.seek_ns
        self.file, self.offset, self.end = file, at, at + length
        self._count(place, rw, length)

    def _count(self, place: Place, rw: int, length: int) -> None:
        job = self.job
        place.left -= length
        self.issued_bytes[rw] += length
        if self.bytes_left < NEVER:
            self.bytes_left -= length
        if self.ios_left < NEVER:
            self.ios_left -= 1
        if rw == READ:
            return
        self.writes += 1
        if job.fsync_every and not self.writes % job.fsync_every:
            self.sync_due = SYNC_FSYNC
        elif job.fdatasync_every and not self.writes % job.fdatasync_every:
            self.sync_due = SYNC_FDATASYNC

    def take_sync(self) -> int:
        """Take the sync that is due: the file is set, and whether it is fdatasync() is returned.

        Like an IO it is of the next file, whose service it counts for.
        """
        datasync = self.sync_due
        if self.round_over and not self.round_synced:
            self.round_synced = True  # and is due again in the next round
        else:
            self.sync_due = SYNC_NONE
            self.round_synced = False
        self._next_file(syncs=True)
        self.file = self.job.files[self.index][0]
        return datasync

    # get_next_file(): files that were visited in this round wait for the next one.  A sync may be of a
    # file that has nothing left, as long as fio has not seen that.
    def _next_file(self, *, syncs: bool) -> None:
        job = self.job
        places = self.places
        current = self.index
        stays = job.service == SERVICE_SEQUENTIAL or self.serviced < job.service_nr
        if current >= 0 and self._serves(current, syncs=syncs) and stays:
            self.serviced += 1
            return
        waiting = [index for index in range(len(places)) if self._serves(index, syncs=syncs)]
        assert waiting, "a round was asked for more than its files have"
        if job.service == SERVICE_RANDOM:
            self.random, bits = splitmix64(self.random)
            self.index = waiting[bits % len(waiting)]
        else:
            later = [index for index in waiting if index > current]
            self.index = later[0] if later else waiting[0]
        self.serviced = 1
        # Those that were passed over are found to have nothing left.
        at = current if stays and current >= 0 else (current + 1) % len(places)
        while not syncs and at != self.index:
            places[at].closed = places[at].left <= 0
            at = (at + 1) % len(places)

    # Whether a file is there for a sync, or has bytes left for an IO.
    def _serves(self, index: int, *, syncs: bool) -> bool:
        place = self.places[index]
        return not place.closed if syncs else place.left > 0

    def _sequential(self, place: Place, rw: int, size: int) -> int:
        length = self.length
        at = place.positions[rw]
        if at + length > size:
            at = 0
        length = self._draw(rw, size - at)
        place.positions[rw] = at + length
        return at

    def _random(self, place: Place, rw: int, size: int) -> int:
        blocks = size // self.length
        if not self.job.random_map:
            self.random, bits = splitmix64(self.random)
            at = bits % blocks * self.length
            self._draw(rw, size - at)
            return at
        which = rw if self.job.read_bs != self.job.write_bs else 0
        if self.job.sized:
            return self._unvisited(place, rw, which, size)
        if not place.keys[which] or place.steps[which] == blocks:
            self.random, bits = splitmix64(self.random)
            place.keys[which] = shuffle_keys(blocks, bits)
            place.steps[which] = 0
        step = place.steps[which]
        place.steps[which] = step + 1
        return shuffled(step, blocks, place.keys[which]) * self.length

    # One of several sizes; self.length is the smallest.
    def _draw(self, rw: int, room: int) -> int:
        sizes = self.job.read_sizes if rw == READ else self.job.write_sizes
        if sizes:
            self.random, self.length = get_next_buflen(sizes, room, self.random)
        return self.length

    # get_next_rand_offset(): a block that this pass has not visited, where one that it has was drawn the
    # next such behind it; and as many as the size drawn asks for.
    def _unvisited(self, place: Place, rw: int, which: int, size: int) -> int:
        grain = self.length
        blocks = size // grain
        self.random, bits = splitmix64(self.random)
        visited = place.maps[which]
        block = visited.find(0, bits % blocks)
        if block < 0:
            block = visited.find(0)
        if block < 0:  # all have been, or this is the first pass
            visited = place.maps[which] = bytearray(blocks)
            block = bits % blocks
        length = self._draw(rw, size - block * grain)
        self.length = mark_random_map(visited, block, length, grain)
        return block * grain

    def pack(self) -> list[Any]:
        """Return the whole state but the job as plain data."""
        return [
            self.random,
            [place.pack() for place in self.places],
            [self.index, self.serviced, self.ticket, self.chosen],
            list(self.tickets),
            list(self.issued_bytes),
            [self.bytes_left, self.ios_left, self.writes, self.sync_due, self.round_synced],
            [self.rw, self.file, self.offset, self.end, self.length, self.prep_ns],
        ]

    @classmethod
    def unpack(cls, job: FioJob, data: list[Any]) -> MixCourse:
        """Rebuild what :meth:`pack` returned, for the same job."""
        course = cls.__new__(cls)
        course.job = job
        course.verifying = False
        course.random, places, numbers, tickets, issued, counts, last = data
        course.places = [Place.unpack(place) for place in places]
        course.index, course.serviced, course.ticket, course.chosen = numbers
        course.tickets, course.issued_bytes = list(tickets), list(issued)
        course.bytes_left, course.ios_left, course.writes, *syncs = counts
        course.sync_due, course.round_synced = syncs
        course.rw, course.file, course.offset, course.end, *rest = last
        course.length, course.prep_ns = rest
        return course
