"""A block request with the bio and the direct IO that it carries: ``struct request``, v5.4."""

from __future__ import annotations

# What a request does when it ends: Request.what.
DIO_ASYNC = 0
DIO_SYNC = 1
PAGES = 2  # a flusher's that is not given its pages by anybody
LOG_WRITE = 3  # a log buffer
#: No block request: who waits for a push of the log, as the argument of that work.
LOG_FORCE = 4
WB_PAGES = 5  # buffered writeback: pages of a file; ``iocb`` is the kind of ioend
FLUSH = 6  # blkdev_issue_flush()

# What is left to do of a request that flushes the device's cache (blk_flush), beside the bits of
# xfs_file in Request.dio.
REQ_PREFLUSH = 128
REQ_DATA = 256
REQ_POSTFLUSH = 512
#: It is out as a flush, without its data.
REQ_FLUSHING = 1024
#: It is for a polled queue (blk_poll).
REQ_HIPRI = 2048
#: Any of these.
SEQUENCED = REQ_PREFLUSH | REQ_DATA | REQ_POSTFLUSH | REQ_FLUSHING

# What the end of such a bio needs: its kind of ioend.
IOEND_OVERWRITE = 0  # nothing: written blocks within the size on disk
IOEND_UNWRITTEN = 1  # a transaction that converts unwritten extents
IOEND_APPEND = 2  # a transaction for the new size on disk


class Request:
    """``struct request`` with the bio and dio that it carries."""

    __slots__ = (
        "cause",
        "cookie",
        "ctx_cpu",
        "dio",
        "done_ns",
        "error",
        "file",
        "home",
        "iocb",
        "ioprio",
        "moves",
        "nr_sector",
        "pid",
        "queue",
        "remote",
        "rw",
        "sector",
        "start_ns",
        "tag_cpu",
        "what",
    )

    def __init__(self) -> None:
        self.cookie = 0
        self.queue = 0  # index of the disk
        self.home = 0  # the CPU that submitted it
        self.ctx_cpu = 0
        self.rw = 0
        self.sector = 0
        self.nr_sector = 0
        self.what = DIO_ASYNC
        self.pid = 0  # who waits for it or owns its iocb
        self.moves = 0  # the owner's residence when it was submitted
        self.file = 0
        self.iocb = -1
        self.error = 0
        self.dio = 0  # what the end of a write has to do: xfs_file.IOMAP_DIO_*
        self.cause = 0
        self.done_ns = 0  # when the device is done with it
        self.start_ns = 0  # when it was allocated: start_time_ns
        self.remote = 0  # 1: its end comes to the owner's residence ``moves`` as mail
        self.ioprio = 0  # of the task that made it
        self.tag_cpu = 0  # the CPU whose lease its driver tag is of

    def pack(self) -> list[int]:
        """Return the request as plain data."""
        return [
            self.cookie,
            self.queue,
            self.home,
            self.ctx_cpu,
            self.rw,
            self.sector,
            self.nr_sector,
            self.what,
            self.pid,
            self.moves,
            self.file,
            self.iocb,
            self.error,
            self.cause,
            self.done_ns,
            self.start_ns,
            self.remote,
            self.dio,
            self.tag_cpu,
            self.ioprio,
        ]

    @classmethod
    def unpack(cls, data: list[int]) -> Request:
        """Rebuild what :meth:`pack` returned."""
        rq = cls()
        (
            rq.cookie,
            rq.queue,
            rq.home,
            rq.ctx_cpu,
            rq.rw,
            rq.sector,
            rq.nr_sector,
            rq.what,
            rq.pid,
            rq.moves,
            rq.file,
            rq.iocb,
            rq.error,
            rq.cause,
            rq.done_ns,
            rq.start_ns,
            rq.remote,
            rq.dio,
            rq.tag_cpu,
            rq.ioprio,
        ) = data
        return rq
