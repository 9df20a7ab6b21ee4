"""What an agent asks of its host."""

from __future__ import annotations

import platform

import psutil
import pytest

from emulator.agents import host

MIB = 1 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can give holes back")
def test_holes_in_the_heap_go_back_to_the_host() -> None:
    blocks = [bytes(4_000) for _ in range(64 * MIB // 4_000)]
    kept = blocks[::16]  # so that the heap cannot shrink from its end
    blocks.clear()
    before = psutil.Process().memory_info().rss
    host.trim_heap()
    assert before - psutil.Process().memory_info().rss > 16 * MIB
    assert len(kept) > 1_000
