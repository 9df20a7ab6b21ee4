"""Toy nodes whose rings find no more room on the disk after their first segment."""

import errno
import os
from typing import Any

from emulator.engine.board import HistoryBoard
from emulator.trace.layout import HEAD_BYTES, SEGMENT_BYTES
from tests import toybox

ROOM = HEAD_BYTES + SEGMENT_BYTES
ALLOCATE = os.posix_fallocate


def allocate(fd: int, offset: int, length: int) -> None:
    """Be posix_fallocate() on a disk that holds so much of each file and no more."""
    if offset + length > ROOM:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    ALLOCATE(fd, offset, length)


def build_node(node_id: int, spec_plain: Any, run_dir: str, board: HistoryBoard) -> toybox.ToyCpu:
    """Build a node of the toy box, in a process of its own, whose disk is as good as full."""
    os.posix_fallocate = allocate
    return toybox.build_node(node_id, spec_plain, run_dir, board)
