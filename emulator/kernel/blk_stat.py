"""How long polled requests take, for those who sleep before they poll: ``block/blk-stat.c``, v5.4."""

from __future__ import annotations

from typing import Any

from emulator.kernel.request import Request
from emulator.types import NSEC_PER_MSEC

BLK_MQ_POLL_STATS_BKTS = 16
#: How long times are collected before one goes by them.
POLL_STATS_NS = 100 * NSEC_PER_MSEC


class PollStats:
    """``q->poll_stat``: mean times of polled requests, by direction and size, window by window."""

    __slots__ = ("ends_ns", "means", "window")

    def __init__(self) -> None:
        self.ends_ns = 0
        self.window: dict[int, list[int]] = {}  # bucket -> [sum, number]
        self.means: dict[int, int] = {}

    def add(self, bucket: int, took_ns: int, now_ns: int) -> None:
        """Count one request; the first after a window opens the next one."""
        self.close(now_ns)
        if not self.ends_ns:
            self.ends_ns = now_ns + POLL_STATS_NS
        total = self.window.setdefault(bucket, [0, 0])
        total[0] += took_ns
        total[1] += 1

    def close(self, now_ns: int) -> None:
        """``blk_mq_poll_stats_fn()``: what a window that is over has found is gone by."""
        if self.ends_ns and now_ns >= self.ends_ns:
            self.means |= {bucket: total // nr for bucket, (total, nr) in self.window.items()}
            self.window = {}
            self.ends_ns = 0

    def half_mean_ns(self, bucket: int, now_ns: int) -> int:
        """``blk_mq_poll_nsecs()``: half of the mean, 0 if nothing is known."""
        self.close(now_ns)
        return (self.means[bucket] + 1) // 2 if bucket in self.means else 0

    def pack(self) -> list[Any]:
        """Return the state as plain data."""
        window = [[bucket, *total] for bucket, total in self.window.items()]
        return [self.ends_ns, window, [list(mean) for mean in self.means.items()]]

    def unpack(self, data: list[Any]) -> None:
        """Take over what :meth:`pack` returned."""
        self.ends_ns, window, means = data
        self.window = {bucket: list(total) for bucket, *total in window}
        self.means = dict(means)


def poll_stats_bucket(rq: Request) -> int:
    """``blk_mq_poll_stats_bkt()``: direction, and the power of two of the size in sectors."""
    bucket = rq.rw + 2 * (max(rq.nr_sector, 1).bit_length() - 1)
    return min(bucket, rq.rw + BLK_MQ_POLL_STATS_BKTS - 2)
