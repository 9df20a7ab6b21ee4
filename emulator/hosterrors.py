"""What the host may refuse a run, told from our own mistakes: no room, no descriptors, no memory.

An operating error of the host is no verdict on the box: the run ends with one line that names the
file and the limit, and with status 2.  What was written before stays readable.
"""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager

#: What to do about it, by what the kernel says of a file.
HINTS: dict[int, str] = {
    errno.ENOSPC: "make room, or name another place with --out",
    errno.EDQUOT: "make room, or name another place with --out",
    errno.EFBIG: "`ulimit -f` or the file system allows no larger file",
    errno.EROFS: "name another place with --out",
    errno.EACCES: "name a place with --out that may be written",
    errno.EPERM: "name a place with --out that may be written",
    errno.ENOENT: "somebody removed it while the box ran",
    errno.EIO: "the disk failed",
    errno.EMFILE: "`ulimit -n` is the limit",
    errno.ENFILE: "the host has no more",
    errno.ENOMEM: "the host, or `ulimit -v`, gives no more memory",
    errno.EAGAIN: "`ulimit -u` or the host allows no more processes",
}

#: What the host refuses a process rather than a file.
_OF_PROCESSES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)

#: Open files of a process that carries or watches a box, at most: its own, and those per node (a
#: ring is a file and two mappings of it; an agent is a pipe, a sentinel and a connection).
DESCRIPTORS_BASE = 64
DESCRIPTORS_PER_NODE = 4


class UnavailableError(OSError):
    """What a run needs of the host cannot be had; the text says what."""


@contextmanager
def named_errors(path: str) -> Iterator[None]:
    """Let an OSError name the file: one of a write or a mapping does not do so by itself."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


def host_error(error: BaseException) -> str:
    """Return in one line what the host refused, or "" if the error is not of the host's making."""
    if isinstance(error, UnavailableError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"out of memory ({HINTS[errno.ENOMEM]})"
    if not isinstance(error, OSError) or error.errno not in HINTS:
        return ""
    text = f"{error.strerror} ({HINTS[error.errno]})"
    if error.filename is not None:
        return f"{error.filename}: {text}"
    return text if error.errno in _OF_PROCESSES else ""


def ensure_descriptors(nr_nodes: int) -> str:
    """Raise this process's limit of open files to what a box needs; return why it cannot be, or "".

    Processes started later inherit the limit.
    """
    needed = DESCRIPTORS_BASE + DESCRIPTORS_PER_NODE * nr_nodes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ""
    if hard != resource.RLIM_INFINITY and hard < needed:
        return (
            f"a box of {nr_nodes} nodes needs {needed} open files, and RLIMIT_NOFILE allows {hard}: "
            f"raise it with `ulimit -n {needed}`, or take a smaller box"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return ""
