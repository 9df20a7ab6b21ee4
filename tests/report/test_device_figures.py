"""Figures of devices, from books."""

from typing import Any

from emulator.report.device_figures import devices, interrupts


def test_each_disk_has_its_counters_and_cpus_without_one_have_none() -> None:
    books: dict[int, dict[str, Any]] = {
        0: {"counters": {"irq:nvme0q1": 3}},
        3: {"device": {"name": "nvme0n1", "polled": 2, "timeouts": 2}},
        4: {"device": {"name": "sda"}},
    }
    assert devices(books) == {"nvme0n1": {"polled": 2, "timeouts": 2}, "sda": {}}
    assert books[3]["device"]["name"] == "nvme0n1"


def test_a_vectors_interrupts_are_added_up_over_cpus() -> None:
    books: dict[int, dict[str, Any]] = {
        0: {"counters": {"irq:virtio0-req.0": 3, "bios": 4}},
        1: {"counters": {"irq:virtio0-req.0": 2, "irq:nvme0q2": 1}},
        2: {},
    }
    assert interrupts(books) == {
        "nvme0q2": {"total": 1, "cpus": 1},
        "virtio0-req.0": {"total": 5, "cpus": 2},
    }
