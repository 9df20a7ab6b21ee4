"""One pass of a fio job over its file: which block is next, in which direction, at what cost.

Theory of operation
-------------------
A *pass* visits every block of the file once: in order, or in the order of fio's random map, which
never repeats a block until all were visited.  The order is a keyed permutation, so its whole state
is a step count and five numbers.  A pass may be *rewound*, which keeps the order (to read back what
was written, in the order it was written, and because fio seeds its generators anew before a job
writes again: ``rand_repeatable``), or *continued* with a new order.
"""

from __future__ import annotations

from typing import Any

from emulator.types import READ
from emulator.workload.fio_params import FioJob
from emulator.workload.random import seed_stream, shuffle_keys, shuffled, splitmix64


class FilePass:
    """The pass in progress."""

    __slots__ = ("job", "keys", "prep_ns", "random", "reap_ns", "rw", "step", "verifying")

    def __init__(self, job: FioJob) -> None:
        self.job = job
        self.random = seed_stream(job.seed, job.file)
        self.keys: list[int] = []
        self.step = 0  #: blocks handed out in this pass
        self.verifying = False
        self.rw = job.rw
        self.prep_ns = 0  #: CPU time to prepare one unit
        self.reap_ns = 0  #: CPU time to account one, and to check it if it was read
        self.continue_in_new_order()
        self.rewind(verifying=False)

    def next_offset(self) -> int:
        """Return the offset of the next block in bytes, and step past it."""
        job = self.job
        step = self.step
        assert step < job.blocks, "a pass was asked for more blocks than the file has"
        self.step = step + 1
        return (step if job.sequential else shuffled(step, job.blocks, self.keys)) * job.bs

    def rewind(self, *, verifying: bool) -> None:
        """Begin again in the same order, writing what the job writes or reading it back."""
        job = self.job
        self.step = 0
        self.verifying = verifying
        self.rw = READ if verifying else job.rw
        reads = self.rw == READ
        self.prep_ns = job.read_prep_ns if reads else job.write_prep_ns
        self.reap_ns = job.read_reap_ns if reads else job.write_reap_ns

    def continue_in_new_order(self) -> None:
        """Begin again in an order of its own."""
        self.step = 0
        self.random, bits = splitmix64(self.random)
        self.keys = shuffle_keys(self.job.blocks, bits)

    def pack(self) -> list[Any]:
        """Return the whole state but the job as plain data."""
        return [self.random, self.step, self.verifying, list(self.keys)]

    @classmethod
    def unpack(cls, job: FioJob, data: list[Any]) -> FilePass:
        """Rebuild what :meth:`pack` returned, for the same job."""
        course = cls.__new__(cls)
        course.job = job
        course.random, step, verifying, keys = data
        course.rewind(verifying=verifying)
        course.step, course.keys = step, list(keys)
        return course
