"""What a direct write finds in a file: ``fs/xfs/xfs_file.c``, ``xfs_iomap.c``, v5.4 (D.5, D.6).

Theory of operation
-------------------
A file whose blocks are all written and whose writes stay inside it is *plain*: nothing here is asked
for it.  Any other has an :class:`Inode`: its size, in memory and on disk, and which of its blocks are
allocated and written.  A write is classified when it is submitted, as iomap does (:func:`classify`),
and the flags travel with the request (:class:`~emulator.kernel.request.Request`): what its end has to
do, a transaction or a flush, is known wherever it ends.  What the end changes in the inode is applied
where the inode is (:func:`write_end`).

A write into a hole allocates in the submitter, one transaction, unwritten blocks.  The end of a write
to unwritten blocks converts them; the end of one beyond the file's size on disk logs the new size:
one transaction either way, in the worker (:mod:`xfs_log` says what it costs).  A write that begins
beyond the end of the file takes the inode's lock alone and waits until no direct IO is in flight.

Writes of a file opened with O_DSYNC or O_SYNC are followed by ``generic_write_sync()`` in the same
worker, unless they were sent with FUA.

Departures from the kernel: no file is shared, so there are no copy-on-write remaps; extents are not
merged or split, a transaction covers what one write touches; the check for privileges to strip, which
takes the lock alone, finds nobody who holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu
    from emulator.kernel.sched import Task
    from emulator.types import BoxSpec

# What the end of a write has to do: Request.dio, by iomap's names where it has them.
IOMAP_DIO_UNWRITTEN = 1  # convert
IOMAP_DIO_EXTENDS = 2  # log the new size
IOMAP_DIO_NEED_SYNC = 4  # generic_write_sync()
IOMAP_DIO_WRITE_FUA = 8  # the bios carry REQ_FUA
IOMAP_DIO_DIRTY = 16  # the log holds changes of the inode: a sync forces it (IOMAP_F_DIRTY)
IOMAP_DIO_WAIT = 32  # the submitter waits for it
IOMAP_DIO_URING = 64  # submitted through an io_uring that is not polled (IOCB_DIO_CALLER_COMP)
TRANSACTION = IOMAP_DIO_UNWRITTEN | IOMAP_DIO_EXTENDS
#: What keeps a write from being a pure overwrite, to be completed without a worker.
NOT_PURE = TRANSACTION | IOMAP_DIO_NEED_SYNC

#: File layouts, ``layout`` of a workload's parameters.
LAYOUTS = ("written", "unwritten", "hole")
#: How a file is opened, ``open_sync`` of a workload's parameters.
SYNCS = ("none", "dsync", "sync")


class FileFacts:
    """What a task's file is: its disk, its file system's type and block size, its first byte.

    ``serialises`` is whether writes of less than blocks take the inode's lock alone.  ``layout`` is
    what the file consists of at first, ``eof`` its size then, ``size`` what is set aside for it.
    """

    __slots__ = (
        "block_size",
        "disk",
        "eof",
        "fs",
        "layout",
        "plain",
        "serialises",
        "size",
        "start",
        "sync",
    )

    def __init__(
        self,
        disk: int,
        fs: str,
        block_size: int,
        start: int,
        serialises: bool,
        size: int = 0,
        layout: str = "written",
        eof: int = -1,
        sync: str = "none",
    ) -> None:
        assert layout in LAYOUTS, layout
        assert sync in SYNCS, sync
        self.disk = disk
        self.fs = fs
        self.block_size = block_size
        self.start = start
        self.serialises = serialises
        self.size = size
        self.layout = layout
        self.eof = size if eof < 0 else eof
        self.sync = sync
        written = fs == "none" or (layout == "written" and self.eof >= size)
        #: whether its direct writes are pure overwrites that nobody wants on stable storage
        self.plain = written and sync == "none"


def file_table(spec: BoxSpec) -> dict[int, FileFacts]:
    """Return the facts of every file that a workload of the box uses, by file number.

    Files lie one behind the other on their disk.
    """
    disks = {disk.name: index for index, disk in enumerate(spec.disks)}
    mounts = {mount.name: mount for mount in spec.filesystems}
    files: dict[int, FileFacts] = {}
    used = [0] * len(spec.disks)
    lengths: dict[int, int] = {}  # a file of several workloads is as long as the longest says
    for workload in spec.workloads:
        for file, size in own_files(workload.params) if "filesystem" in workload.params else ():
            lengths[file] = max(size, lengths.get(file, 0))
    for workload in spec.workloads:
        params = workload.params
        if params.get("filesystem") is None:
            continue
        mount = mounts[params["filesystem"]]
        disk = disks[mount.disk]
        serialises = mount.type == "xfs" and not spec.kernel.rules.xfs_unaligned_overwrite
        for file, _ in own_files(params):
            if file in files:
                continue
            files[file] = FileFacts(
                disk,
                mount.type,
                mount.block_size,
                used[disk],
                serialises,
                lengths[file],
                params.get("layout", "written"),
                params.get("eof", -1),
                params.get("open_sync", "none"),
            )
            used[disk] += lengths[file]
    return files


def own_files(params: dict[str, Any]) -> list[tuple[int, int]]:
    """Return number and length of every file that a workload's parameters name."""
    several = params.get("files")
    if several is None:
        return [(params["file"], params.get("size", 0))]
    return [(file, start + size) for file, start, size in several]


class Inode:
    """What changes of a file that is not plain.

    ``allocated`` and ``written`` hold a bit per block, empty if all blocks are.  ``logged`` is whether
    the log holds changes that no force has written yet.
    """

    __slots__ = ("allocated", "disk_size", "logged", "size", "written")

    def __init__(self, facts: FileFacts) -> None:
        octets = -(-facts.size // facts.block_size) // 8 + 1
        self.size = facts.eof
        self.disk_size = facts.eof
        self.logged = 0
        self.allocated = bytearray(octets if facts.layout == "hole" else 0)
        self.written = bytearray(0 if facts.layout == "written" else octets)

    def pack(self) -> list[Any]:
        """Return the inode as plain data."""
        return [self.size, self.disk_size, self.logged, bytes(self.allocated), bytes(self.written)]

    @classmethod
    def unpack(cls, data: list[Any]) -> Inode:
        """Rebuild what :meth:`pack` returned."""
        inode = cls.__new__(cls)
        inode.size, inode.disk_size, inode.logged, allocated, written = data
        inode.allocated = bytearray(allocated)
        inode.written = bytearray(written)
        return inode


def inode_of(p: Task, file: int, facts: FileFacts) -> Inode:
    """Return the inode of a task's file that is not plain, made at its first use."""
    inode: Inode | None = p.run.inodes.get(file)
    if inode is None:
        inode = p.run.inodes[file] = Inode(facts)
    return inode


def blocks(facts: FileFacts, offset: int, length: int) -> range:
    """Return the numbers of the blocks that a range of bytes touches."""
    return range(offset // facts.block_size, -(-(offset + length) // facts.block_size))


def has_all(bits: bytearray, numbers: range) -> bool:
    """Whether all these blocks are set; an empty map has every one, a block beyond it is not set."""
    return not bits or all(
        number >> 3 < len(bits) and bits[number >> 3] >> (number & 7) & 1 for number in numbers
    )


def set_all(bits: bytearray, numbers: range) -> None:
    """Set these blocks; the map grows as the file does."""
    if not bits:
        return
    if numbers.stop >> 3 >= len(bits):
        bits.extend(bytes((numbers.stop >> 3) + 1 - len(bits)))
    for number in numbers:
        bits[number >> 3] |= 1 << (number & 7)


# -- Submission ---------------------------------------------------------------------------------


def unaligned(facts: FileFacts, offset: int, length: int) -> bool:
    """Whether a write is of less than blocks where XFS lets no other be in flight (D.6)."""
    return facts.serialises and bool((offset | length) % facts.block_size)


def waits_alone(p: Task, facts: FileFacts, file: int, offset: int, length: int) -> bool:
    """Whether a write takes the lock alone and waits for its own end.

    From 5.12 on (no ``serialises``) a sub-block write does so only if its blocks are not all written.
    """
    if not (offset | length) % facts.block_size:
        return False
    if facts.plain or facts.serialises or facts.fs == "none":
        return facts.serialises
    inode = inode_of(p, file, facts)
    if offset + length > inode.size:
        return True
    return not has_all(inode.written, blocks(facts, offset, length))


def drains(p: Task, facts: FileFacts, file: int, offset: int, length: int) -> bool:
    """Whether a write has to wait until no direct IO of the inode is in flight, before it goes."""
    if waits_alone(p, facts, file, offset, length):
        return True
    # Beyond the end of the file: the gap is zeroed under the lock (xfs_file_aio_write_checks()).
    return not facts.plain and facts.fs != "none" and offset > inode_of(p, file, facts).size


def needs_blocks(p: Task, facts: FileFacts, file: int, offset: int, length: int) -> bool:
    """Whether a write maps to a hole: blocks are allocated in the submitter."""
    if facts.plain or facts.layout != "hole" or facts.fs == "none":
        return False
    return not has_all(inode_of(p, file, facts).allocated, blocks(facts, offset, length))


def allocate(p: Task, facts: FileFacts, file: int, offset: int, length: int) -> None:
    """``xfs_iomap_write_direct()`` has allocated the blocks of a write, unwritten."""
    inode = inode_of(p, file, facts)
    set_all(inode.allocated, blocks(facts, offset, length))
    inode.logged = 1


def classify(
    cpu: Cpu, p: Task, facts: FileFacts, file: int, iocb: int, offset: int, length: int
) -> int:
    """Return the flags of a write to a file that is not plain; note what its end will change."""
    fua = cpu.queues[facts.disk].write_cache and cpu.queues[facts.disk].fua
    if facts.fs == "none":
        # blkdev_direct_IO(): FUA spares it a work item, whatever the device makes of it.
        return IOMAP_DIO_WRITE_FUA if facts.sync != "none" else 0
    inode = inode_of(p, file, facts)
    flags = 0
    if not has_all(inode.written, blocks(facts, offset, length)):
        flags |= IOMAP_DIO_UNWRITTEN
    if offset + length > inode.size:
        flags |= IOMAP_DIO_EXTENDS
    if inode.logged or flags:
        flags |= IOMAP_DIO_DIRTY
    if facts.sync != "none":
        if facts.sync == "sync" or flags:
            flags |= IOMAP_DIO_NEED_SYNC
        elif fua:
            flags |= IOMAP_DIO_WRITE_FUA
        elif cpu.queues[facts.disk].write_cache or not cpu.rq.rules.dio_write_through_fua:
            flags |= IOMAP_DIO_NEED_SYNC
    if iocb >= 0 and waits_alone(p, facts, file, offset, length):
        flags |= IOMAP_DIO_WAIT
    if flags & NOT_PURE:
        p.run.inode_io[iocb] = [file, flags, offset, length, flags]
    return flags


# -- Completion ---------------------------------------------------------------------------------


def write_end(cpu: Cpu, owner: Task, iocb: int, error: int) -> None:
    """``xfs_dio_write_end_io()``'s effect on the inode, where that is."""
    io = owner.run.inode_io.pop(iocb, None)
    if io is None or error or not io[1] & TRANSACTION:
        return
    file, flags, offset, length, _todo = io
    facts = cpu.files[file]
    inode = inode_of(owner, file, facts)
    if flags & IOMAP_DIO_UNWRITTEN:
        set_all(inode.written, blocks(facts, offset, length))
    inode.size = max(inode.size, offset + length)
    inode.disk_size = inode.size
    inode.logged = 1
