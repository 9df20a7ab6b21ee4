"""A writeback flusher that has more dirty pages than it can write: the task of ``wb_workfn()``.

Theory of operation
-------------------
The flusher walks a dirty file in order.  For each batch it burns the CPU time of delayed allocation
and page preparation, then submits the pages as one plugged batch of asynchronous writes
(OP_WRITEBACK).  It never waits for a write, so it keeps its CPU busy exactly as the AIO submitter
does, and its completions come back to the CPU that submitted them.  At the end of the file it starts
again, as if the pages had been dirtied meanwhile; ``passes`` ends it after so many.

Departures from the kernel: dirty limits, the periodic and background passes and the choice of
inodes are not modelled; the flusher is a task with its own name, not a work item of the unbound
``writeback`` workqueue.
"""

from __future__ import annotations

from typing import Any

from emulator.types import OP_EXIT, OP_RUN, OP_WRITEBACK, Op
from emulator.workload.params import Setting, check_params
from emulator.workload.tally import Tallied

#: ``bs``: bytes of a page.  ``pages_per_batch``: pages of one plugged batch (a plug holds 16).
FLUSHER_PARAMS: dict[str, Any] = {
    "file": 0,
    "size": 64 << 20,
    "bs": 4096,
    "pages_per_batch": 16,
    "cpu_per_page_ns": 2_000,
    "passes": 0,
}


class FlusherProgram(Tallied):
    """Writes a file back in plugged batches, for ever or ``passes`` times, and never waits."""

    name = "flusher"
    counts = ("batches",)
    aio_events = 0

    __slots__ = (
        "bs",
        "cpu_per_page_ns",
        "file",
        "page",
        "pages",
        "pages_per_batch",
        "passes_left",
        "ready",
    )

    def __init__(self, config: list[int]) -> None:
        self.file, self.pages, self.bs, self.pages_per_batch, self.cpu_per_page_ns = config
        if min(self.pages, self.pages_per_batch, self.cpu_per_page_ns) <= 0:
            raise ValueError("flusher needs size >= bs, pages_per_batch > 0, cpu_per_page_ns > 0")
        self.passes_left = -1  #: negative: no end
        self.page = 0  #: next page to write
        self.ready = False  #: the CPU time of the next batch is spent
        super().__init__()

    @classmethod
    def make(cls, params: dict[str, Any], _setting: Setting) -> FlusherProgram:
        """Build the flusher from its parameters, :data:`FLUSHER_PARAMS`."""
        option = check_params(cls.name, params, FLUSHER_PARAMS)
        pages = option["size"] // option["bs"]
        flusher = cls(
            [
                option["file"],
                pages,
                option["bs"],
                option["pages_per_batch"],
                option["cpu_per_page_ns"],
            ]
        )
        flusher.passes_left = option["passes"] or -1
        return flusher

    def next(self, now_ns: int, result: Any) -> Op:
        """Return the preparation of a batch, or its submission."""
        if self.page == self.pages:
            self.page = 0
            self.passes_left -= self.passes_left > 0
        if not self.passes_left:
            return (OP_EXIT,)
        count = min(self.pages_per_batch, self.pages - self.page)
        self.ready = not self.ready
        if self.ready:
            return (OP_RUN, count * self.cpu_per_page_ns)
        offset = self.page * self.bs
        self.page += count
        self.tally.counts["batches"] += 1
        return (OP_WRITEBACK, self.file, offset, count * self.bs)

    def pack(self) -> list[Any]:
        """Return the whole state as plain data."""
        return [
            self.name,
            [self.file, self.pages, self.bs, self.pages_per_batch, self.cpu_per_page_ns],
            [self.passes_left, self.page, self.ready],
        ]

    @classmethod
    def unpack(cls, data: list[Any]) -> FlusherProgram:
        """Rebuild what :meth:`pack` returned."""
        flusher = cls(data[1])
        flusher.passes_left, flusher.page, flusher.ready = data[2]
        return flusher
