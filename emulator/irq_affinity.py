"""Numbers of interrupts, and the spread of managed ones: ``kernel/irq/affinity.c``, v5.4; ``lib/group_cpus.c`` from v6.3 (A.2).

CPUs are spread over interrupt vectors (or hardware queues) so that each gets as many as the others,
nodes are not mixed while there are vectors enough, and SMT siblings share one.

Departures from the kernel: nodes with equally many CPUs keep the order of their numbers, where the
kernel's sort promises none.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Number of the first disk's first vector, and how many numbers each disk has to itself.
FIRST_IRQ = 24
IRQS_PER_DISK = 64


def irq_number(index: int, vector: int) -> int:
    """Return the interrupt number of a disk's vector; ``index`` is the disk's."""
    return FIRST_IRQ + IRQS_PER_DISK * index + vector


def irq_disk(number: int) -> tuple[int, int]:
    """Return (index of the disk, vector) of an interrupt number, the inverse of that."""
    return divmod(number - FIRST_IRQ, IRQS_PER_DISK)


def group_cpus_evenly(
    vectors: int, nodes: Sequence[int], core_masks: Sequence[int], present: int = -1
) -> list[int]:
    """Return the CPU mask of each vector (``irq_create_affinity_masks()``).

    ``nodes`` are the masks of the NUMA nodes (a mask may be named more than once), ``core_masks``
    per possible CPU the mask of its SMT siblings, itself included; ``present`` the mask of the CPUs
    that are plugged in, -1 for all.  The others are spread after them, over the vectors that are
    left, or over all.  A vector without CPUs has the mask 0.
    """
    assert vectors > 0
    possible = (1 << len(core_masks)) - 1
    groups = [mask for mask in dict.fromkeys(nodes) if mask]
    masks = [0] * vectors
    used = spread_cpus(masks, 0, groups, core_masks, possible & present)
    start = used if used < vectors else 0
    spread_cpus(masks, start, groups, core_masks, possible & ~present)
    return masks


def spread_cpus(
    masks: list[int], start: int, nodes: Sequence[int], core_masks: Sequence[int], cpus: int
) -> int:
    """Spread a set of CPUs over the vectors from ``start`` on, around; return how many were used."""
    here = [node & cpus for node in nodes if node & cpus]
    if not here:
        return 0
    vectors = len(masks)
    if vectors <= len(here):
        for step, node in enumerate(here):
            masks[(start + step) % vectors] |= node
        return vectors
    used = 0
    for node, share in alloc_nodes_vectors(vectors, here):
        each, more = divmod(node.bit_count(), share)
        left = node
        for vector in range(share):
            mask = take_siblings(left, each + (vector < more), core_masks)
            left &= ~mask
            masks[(start + used) % vectors] |= mask
            used += 1
    return used


def alloc_nodes_vectors(vectors: int, nodes: Sequence[int]) -> list[tuple[int, int]]:
    """Return the nodes, those with fewest CPUs first, and the vectors of each (its share by CPUs)."""
    cpus = sum(node.bit_count() for node in nodes)
    vectors = min(vectors, cpus)
    found: list[tuple[int, int]] = []
    for node in sorted(nodes, key=int.bit_count):
        share = max(1, vectors * node.bit_count() // cpus)
        found.append((node, share))
        cpus -= node.bit_count()
        vectors -= share
    return found


def take_siblings(cpus: int, quota: int, core_masks: Sequence[int]) -> int:
    """Return ``quota`` CPUs of a set: the lowest, its siblings, the lowest of the rest, and so on."""
    taken = 0
    while quota > 0 and cpus:
        lowest = (cpus & -cpus).bit_length() - 1
        siblings = (core_masks[lowest] | 1 << lowest) & cpus
        core = 1 << lowest
        siblings ^= core
        while core.bit_count() < quota and siblings:
            core |= siblings & -siblings
            siblings &= siblings - 1
        taken |= core
        cpus &= ~core
        quota -= core.bit_count()
    return taken
