"""The directory of a run's sockets: only its owner may enter, and what dead runs left is removed.

Theory of operation
-------------------
A Unix socket's name holds 107 characters, so the sockets of a run are not in its run directory but
in one of their own with a short path, whose name begins with ``smpbox-``.  Its mode is 0700, whatever
the umask; nobody else can then connect, whatever the modes of the sockets are.  The directory that
it is made in must not let others put something else into its place: it belongs to us or to root,
and if others may write there, it is sticky.

The process that runs the box holds a lock on the file ``owner`` in it, which ends with the process
however it ends.  So the next run knows which directories are left over from runs that were killed
with everything they had, and removes those that are its user's own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
import time

from emulator.hosterrors import UnavailableError

#: Longest path of a Unix socket on Linux, without its terminating zero.
SOCKET_PATH_MAX = 107

PREFIX = "smpbox-"
HUB_SOCKET = "hub"
OBSERVER_SOCKET = "pub"
OWNER = "owner"

#: A directory without a lock is left alone for so long: its owner may be about to take it.
STALE_AFTER_S = 60.0

#: Directories that a start looks at, at most; the next one looks at the rest.
STALE_LOOKS_MAX = 1000


class SocketDirectoryError(UnavailableError):
    """There is no place where only we could reach the sockets."""


class SocketDirectory:
    """The directory of one run's sockets, 0700 and with a short path."""

    __slots__ = ("_lock", "path")

    def __init__(self) -> None:
        base = _base()
        remove_stale(base)
        self.path = tempfile.mkdtemp(prefix=PREFIX, dir=base)
        os.chmod(self.path, 0o700)  # also where the umask takes something from its owner
        found = os.lstat(self.path)
        assert stat.S_ISDIR(found.st_mode), self.path
        assert (found.st_uid, found.st_mode & 0o777) == (os.geteuid(), 0o700), self.path
        assert len(os.fsencode(self.path)) + len(HUB_SOCKET) < SOCKET_PATH_MAX, self.path
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._lock = os.open(os.path.join(self.path, OWNER), flags, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    # An agent is told the path; the lock stays with the process that made the directory.
    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.path, self._lock = path, -1

    def hub(self) -> str:
        """Return the address of the coordinator's socket, for agents and clients."""
        return f"ipc://{self.path}/{HUB_SOCKET}"

    def observers(self) -> str:
        """Return the address at which progress is published."""
        return f"ipc://{self.path}/{OBSERVER_SOCKET}"

    def remove(self) -> None:
        """Remove the directory and what is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def remove_stale(base: str) -> list[str]:
    """Remove the socket directories in ``base`` that are ours and whose run is dead; return them."""
    removed = []
    with os.scandir(base) as entries:
        for looked, entry in enumerate(entry for entry in entries if entry.name.startswith(PREFIX)):
            if looked == STALE_LOOKS_MAX:
                break
            if _is_stale(entry):
                shutil.rmtree(entry.path, ignore_errors=True)
                removed.append(entry.path)
    return removed


def _is_stale(entry: os.DirEntry[str]) -> bool:
    try:
        found = entry.stat(follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            return False
        if time.time() - found.st_mtime < STALE_AFTER_S:
            return False
        owner = os.open(os.path.join(entry.path, OWNER), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        # Gone meanwhile, or made by a version that kept no lock, and old.
        return os.path.isdir(entry.path)
    except OSError:
        return False
    try:
        fcntl.flock(owner, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(owner)
    return True


def _base() -> str:
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if base and len(os.fsencode(base)) <= SOCKET_PATH_MAX // 2 and _is_safe(base):
            return base
    raise SocketDirectoryError(
        "no directory for the sockets: /tmp must be writable, and be sticky if others may write there"
    )


def _is_safe(base: str) -> bool:
    try:
        found = os.stat(base)
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or not os.access(base, os.W_OK | os.X_OK):
        return False
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid in (0, os.geteuid()) and bool(
        not others_write or found.st_mode & stat.S_ISVTX
    )
