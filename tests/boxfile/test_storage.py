"""Polled queues of disks: what a box may say of them, and what is refused."""

from pathlib import Path

import pytest

from emulator.config import BoxError, load_box
from emulator.types import DiskSpec


def disk_of(text: str, version: str, tmp_path: Path) -> DiskSpec:
    """Return the only disk of a small box."""
    box = tmp_path / "box.yaml"
    box.write_text(
        f"description: one disk\nduration: 1ms\nmachine: {{cpus: 2}}\n"
        f'kernel: {{version: "{version}"}}\ndisks:\n  nvme0n1: {{{text}}}\n'
        "workloads: [{program: hog}]\n"
    )
    return load_box(str(box)).resolve().disks[0]


def test_polled_queues_and_their_delay(tmp_path: Path) -> None:
    params = disk_of("driver: nvme, poll_queues: 1, io_poll_delay: 20", "5.4", tmp_path).params
    assert (params["submit_queues"], params["poll_queues"]) == (2, 1)
    assert params["poll_nsec"] == 20_000
    assert disk_of("driver: nvme, poll_queues: 8", "6.6", tmp_path).params["poll_queues"] == 2
    assert disk_of("driver: null_blk, poll_queues: 1", "5.15", tmp_path).params["poll_nsec"] == -1
    assert "poll_queues" not in disk_of("driver: nvme", "5.4", tmp_path).params


@pytest.mark.parametrize(
    ("text", "version", "complaint"),
    [
        ("driver: nvme, io_poll_delay: 0", "5.4", "needs poll_queues"),
        ("driver: nvme, poll_queues: 1, io_poll_delay: 0", "6.6", "none since 6.4"),
        ("driver: null_blk, poll_queues: 1", "5.10", "none before 5.14"),
    ],
)
def test_what_is_refused(text: str, version: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(BoxError, match=complaint):
        disk_of(text, version, tmp_path)
