"""Disks and file systems of a box: driver parameters with their defaults, queue settings.

Parameter names and defaults are the drivers' own (scsi_debug and null_blk, v5.4).  What the block
layer derives from them when nothing is said (elevator, number of requests) is derived here too, and
which CPUs the interrupt vectors of the others have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.boxfile.kernel import did_you_mean
from emulator.boxfile.problems import Path, Report
from emulator.device.latency import PROFILES
from emulator.irq_affinity import group_cpus_evenly
from emulator.kernel.blk_queue import service_time
from emulator.rules import VERSIONS, rules_of
from emulator.types import NSEC_PER_MSEC, NSEC_PER_USEC, DiskSpec, FilesystemSpec, MachineSpec

if TYPE_CHECKING:
    from emulator.boxfile.schema import (
        BoxFile,
        HardDisk,
        NullBlk,
        Nvme,
        SataSsd,
        ScsiDebug,
        VirtioBlk,
    )

_MIB = 1 << 20
_GIB = 1 << 30


def disk_params(
    disk: ScsiDebug | NullBlk | Nvme | VirtioBlk | SataSsd | HardDisk, hz: int
) -> dict[str, int]:
    """Return the driver's parameters, all of them."""
    timeout_ms = disk.timeout // NSEC_PER_MSEC
    if disk.driver == "scsi_debug":
        return {
            "delay": disk.delay,
            "jiffy_ns": 1_000_000_000 // hz,
            "ndelay": disk.ndelay,
            "submit_queues": disk.submit_queues,
            "max_queue": disk.max_queue,
            "dev_size_mb": disk.dev_size_mb,
            "sector_size": disk.sector_size,
            "dix": disk.dix,
            "dif": disk.dif,
            "opts": disk.opts,
            "every_nth": disk.every_nth,
            "timeout_ms": timeout_ms,
        }
    if disk.driver == "null_blk":
        return {
            "queue_mode": disk.queue_mode,
            "irqmode": disk.irqmode,
            "completion_nsec": disk.completion_nsec,
            "hw_queue_depth": disk.hw_queue_depth,
            "submit_queues": disk.submit_queues,
            "memory_backed": int(disk.memory_backed),
            "gb": disk.gb,
            "bs": disk.bs,
            "timeout_ms": timeout_ms,
        }
    params = {
        "submit_queues": 1,
        "gb": disk.size_gb,
        "timeout_ms": timeout_ms,
        "reset_ns": disk.reset_time,
    }
    if disk.driver == "hdd":
        return params | {"hw_queue_depth": 32, "ncq": disk.ncq}
    profile = PROFILES[disk.driver][disk.preset]
    params |= {
        "hw_queue_depth": disk.depth,
        "read_ns": disk.read or profile.read_ns,
        "write_ns": disk.write or profile.write_ns,
        "units": disk.units or profile.units,
        "sigma_percent": profile.sigma_percent if disk.sigma is None else round(disk.sigma * 100),
        "tail_ppm": profile.tail_ppm,
    }
    if disk.driver == "nvme":
        params |= {
            "coalesce_threshold": disk.coalesce_threshold,
            "coalesce_time_ns": disk.coalesce_time,
        }
    return params


def disk_bytes(disk: DiskSpec) -> int:
    """Return the size of a disk."""
    if disk.driver == "scsi_debug":
        return disk.params["dev_size_mb"] * _MIB
    return disk.params["gb"] * _GIB


def resolve_disks(
    box: BoxFile, cpus: int, report: Report, machine: MachineSpec | None = None
) -> tuple[DiskSpec, ...]:
    """Return the disks in the order of the file, with what the block layer would choose.

    ``machine`` is None where the box's has mistakes; vectors are then not spread.
    """
    disks: list[DiskSpec] = []
    for name, disk in box.disks.items():
        params = disk_params(disk, box.machine.hz)
        if disk.driver in ("nvme", "null_blk"):
            params |= _polling(disk, ("disks", name), box, report)
        if disk.driver != "null_blk" and disk.flush:
            params |= {"flush_ns": disk.flush, "fua": int(disk.fua)}
        vectors: tuple[int, ...] = ()
        if disk.driver == "nvme":
            wanted = min(disk.vectors or cpus, cpus)
            if machine is not None:
                vectors = tuple(group_cpus_evenly(wanted, machine.node, machine.core))
            params["submit_queues"] = wanted
        elif disk.driver != "scsi_debug" and disk.driver != "null_blk":
            if disk.irq_cpu >= cpus:
                report.at(("disks", name, "irq_cpu"), f"the machine has CPUs 0-{cpus - 1}")
            vectors = (1 << disk.irq_cpu,)
        depth = params.get("max_queue") or params["hw_queue_depth"]
        queues = params["submit_queues"]
        path: Path = ("disks", name)
        if queues > cpus:
            message = f"more queues than the machine has CPUs ({cpus})"
            report.at((*path, "submit_queues"), message)
        if vectors and depth * queues < cpus:
            report.at(path, f"{depth} tags are not enough for {cpus} CPUs")
        bios = params.get("queue_mode") == 0
        if bios and disk.scheduler == "mq-deadline":
            report.at((*path, "scheduler"), "bios (queue_mode 0) have no elevator")
        scheduler = disk.scheduler or ("mq-deadline" if queues == 1 and not bios else "none")
        default = depth if scheduler == "none" else 2 * min(depth, 128)
        requests = disk.nr_requests or default
        if scheduler == "none" and requests > depth:
            message = f"without an elevator there are no more than the driver's {depth} tags"
            report.at((*path, "nr_requests"), message)
        timed = vectors or service_time(disk.driver, params)
        if disk.on_crash == "reset" and not timed:
            report.at(
                (*path, "on_crash"), "a disk that ends requests in queue_rq() has none to lose"
            )
        schedules, preset = False, ""
        if disk.driver == "scsi_debug" or disk.driver == "null_blk":
            schedules = disk.schedules
        else:
            preset = disk.preset
        disks.append(
            DiskSpec(
                name=name,
                driver=disk.driver,
                params=params,
                scheduler=scheduler,
                rq_affinity=disk.rq_affinity,
                nr_requests=requests,
                schedules=schedules,
                vectors=vectors,
                managed=disk.driver == "nvme",
                preset=preset,
                carries=bool(params.get("opts")),
                on_crash=disk.on_crash,
            )
        )
    return tuple(disks)


# What a disk's parameters are besides if it has polled queues.
def _polling(disk: Nvme | NullBlk, path: Path, box: BoxFile, report: Report) -> dict[str, int]:
    rules = rules_of(box.kernel.version) if box.kernel.version in VERSIONS else None
    if disk.io_poll_delay >= 0 and not disk.poll_queues:
        report.at((*path, "io_poll_delay"), "needs poll_queues")
    if disk.io_poll_delay >= 0 and rules is not None and rules.poll_classic_only:
        report.at((*path, "io_poll_delay"), "the kernel has none since 6.4: pollers spin")
    if not disk.poll_queues:
        return {}
    if disk.driver == "null_blk" and rules is not None and not rules.null_blk_polls:
        report.at((*path, "poll_queues"), "null_blk has none before 5.14")
    delay = disk.io_poll_delay
    return {
        "poll_queues": min(disk.poll_queues, box.machine.cpus),
        "poll_nsec": delay * NSEC_PER_USEC if delay >= 0 else -1,
    }


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
