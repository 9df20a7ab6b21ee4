"""Disks and file systems of a box: driver parameters with their defaults, queue settings.

Parameter names and defaults are the drivers' own (scsi_debug and null_blk, v5.4).  What the block
layer derives from them when nothing is said (elevator, number of requests) is derived here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.boxfile.kernel import did_you_mean
from emulator.boxfile.problems import Report
from emulator.types import DiskSpec, FilesystemSpec

if TYPE_CHECKING:
    from emulator.config import BoxFile, NullBlk, ScsiDebug

_MIB = 1 << 20
_GIB = 1 << 30


def disk_params(disk: ScsiDebug | NullBlk) -> dict[str, int]:
    """Return the driver's module parameters, all of them."""
    if disk.driver == "scsi_debug":
        return {
            "delay": disk.delay,
            "ndelay": disk.ndelay,
            "submit_queues": disk.submit_queues,
            "max_queue": disk.max_queue,
            "dev_size_mb": disk.dev_size_mb,
            "sector_size": disk.sector_size,
            "dix": disk.dix,
            "dif": disk.dif,
        }
    return {
        "queue_mode": disk.queue_mode,
        "irqmode": disk.irqmode,
        "completion_nsec": disk.completion_nsec,
        "hw_queue_depth": disk.hw_queue_depth,
        "submit_queues": disk.submit_queues,
        "gb": disk.gb,
        "bs": disk.bs,
    }


def disk_bytes(disk: DiskSpec) -> int:
    """Return the size of a disk."""
    if disk.driver == "scsi_debug":
        return disk.params["dev_size_mb"] * _MIB
    return disk.params["gb"] * _GIB


def resolve_disks(box: BoxFile, cpus: int, report: Report) -> tuple[DiskSpec, ...]:
    """Return the disks in the order of the file, with what the block layer would choose."""
    disks: list[DiskSpec] = []
    for name, disk in box.disks.items():
        if disk.submit_queues > cpus:
            path = ("disks", name, "submit_queues")
            report.at(path, f"more queues than the machine has CPUs ({cpus})")
        depth = disk.max_queue if disk.driver == "scsi_debug" else disk.hw_queue_depth
        scheduler = disk.scheduler or ("mq-deadline" if disk.submit_queues == 1 else "none")
        default = depth if scheduler == "none" else 2 * min(depth, 128)
        requests = disk.nr_requests or default
        if scheduler == "none" and requests > depth:
            message = f"without an elevator there are no more than the driver's {depth} tags"
            report.at(("disks", name, "nr_requests"), message)
        disks.append(
            DiskSpec(
                name=name,
                driver=disk.driver,
                params=disk_params(disk),
                scheduler=scheduler,
                rq_affinity=disk.rq_affinity,
                nr_requests=requests,
                schedules=disk.schedules,
            )
        )
    return tuple(disks)


def resolve_filesystems(box: BoxFile, report: Report) -> tuple[FilesystemSpec, ...]:
    """Return the file systems; each must lie on a disk of the box, and on one of its own."""
    found: list[FilesystemSpec] = []
    used: dict[str, str] = {}
    for name, filesystem in box.filesystems.items():
        path = ("filesystems", name, "disk")
        disk = filesystem.disk
        if disk not in box.disks:
            report.at(path, f"the box has no disk {disk!r}{did_you_mean(disk, box.disks)}")
        elif disk in used:
            report.at(path, f"{disk} already holds {used[disk]}")
        used[disk] = name
        size = filesystem.block_size
        if size & (size - 1) or not 512 <= size <= 4096:
            message = f"{size} is not one of 512, 1024, 2048, 4096"
            report.at(("filesystems", name, "block_size"), message)
        found.append(FilesystemSpec(name, filesystem.type, disk, size))
    return tuple(found)
