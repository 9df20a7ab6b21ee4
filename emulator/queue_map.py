"""Which hardware queue a CPU submits to: ``block/blk-mq-cpumap.c``, v5.4 and v6.3 (A.2).

Both sides know the map: the CPUs' block layer and the device, which keeps each queue's tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from emulator.irq_affinity import group_cpus_evenly
from emulator.types import BoxSpec


def blk_mq_map_queues(nr_cpus: int, core_masks: Sequence[int], nr_queues: int) -> list[int]:
    """Return the hardware queue of each CPU by the generic map of v5.4 (A.2); all CPUs present."""
    queue_of = [-1] * nr_cpus
    k = 0
    for cpu in range(nr_cpus):
        if k >= nr_queues:
            break
        queue_of[cpu] = k % nr_queues
        k += 1
    for cpu in range(nr_cpus):
        if queue_of[cpu] >= 0:
            continue
        first = (core_masks[cpu] & -core_masks[cpu]).bit_length() - 1
        if k < nr_queues or first == cpu:
            queue_of[cpu] = k % nr_queues
            k += 1
        else:
            queue_of[cpu] = queue_of[first]
    return queue_of


def map_queues_evenly(
    nr_cpus: int, core_masks: Sequence[int], nodes: Sequence[int], nr_queues: int
) -> list[int]:
    """Return the hardware queue of each CPU by the generic map of v6.3 (A.2): vectors' spread."""
    return of_masks(group_cpus_evenly(nr_queues, nodes, core_masks), nr_cpus)


def of_masks(masks: Sequence[int], nr_cpus: int) -> list[int]:
    """Return the queue of each CPU where each queue has a mask of CPUs; 0 for one in none."""
    queue_of = [0] * nr_cpus
    for queue, mask in enumerate(masks):
        while mask:
            queue_of[(mask & -mask).bit_length() - 1] = queue
            mask &= mask - 1
    return queue_of


def queue_map(spec: BoxSpec, index: int) -> tuple[int, ...]:
    """Return the hardware queue of each CPU for a disk, as the box's kernel maps them.

    Where each queue has a managed vector, the vector's CPUs are the queue's.
    """
    machine = spec.machine
    disk = spec.disks[index]
    if disk.managed:
        return tuple(of_masks(disk.vectors, machine.nr_cpus))
    nr_queues = disk.params.get("submit_queues", 1)
    evenly = spec.kernel.rules.map_queues_evenly
    return _generic_map(machine.core, machine.node, nr_queues, evenly)


def poll_map(spec: BoxSpec, index: int) -> tuple[int, ...]:
    """Return the polled hardware queue of each CPU (HCTX_TYPE_POLL): they follow the others."""
    machine = spec.machine
    params = spec.disks[index].params
    evenly = spec.kernel.rules.map_queues_evenly
    mapped = _generic_map(machine.core, machine.node, params["poll_queues"], evenly)
    return tuple(params["submit_queues"] + queue for queue in mapped)


@lru_cache(maxsize=16)  # every CPU of a box asks, and the device
def _generic_map(
    core_masks: tuple[int, ...], nodes: tuple[int, ...], nr_queues: int, evenly: bool
) -> tuple[int, ...]:
    nr_cpus = len(core_masks)
    if evenly:
        return tuple(map_queues_evenly(nr_cpus, core_masks, nodes, nr_queues))
    return tuple(blk_mq_map_queues(nr_cpus, core_masks, nr_queues))
