"""A BoxSpec as plain data and back: what agents are given, so that they need not know the schema.

Plain data is what msgpack carries: ints of 64 bits, strings, bools, lists and dicts with string
keys.  CPU masks may be wider than 64 bits and travel as hexadecimal strings.  A dataclass becomes
the list of its fields in their order; both directions check the lengths, so that a field added to
:mod:`emulator.types` and forgotten here fails at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from emulator.completion import CompletionSpec
from emulator.rules import Rules
from emulator.types import (
    BoxEvent,
    BoxSpec,
    Costs,
    DiskSpec,
    FilesystemSpec,
    KernelSpec,
    MachineSpec,
    WorkloadSpec,
    WorkqueueSpec,
)


def spec_to_plain(spec: BoxSpec) -> list[Any]:
    """Return a box as msgpack-able data, the inverse of :func:`spec_from_plain`."""
    plain = [
        spec.name,
        spec.seed,
        spec.duration_ns,
        spec.warmup_ns,
        _machine_to_plain(spec.machine),
        _kernel_to_plain(spec.kernel),
        [_copy(getattr(spec.costs, one.name)) for one in fields(Costs)],
        [_disk_to_plain(disk) for disk in spec.disks],
        [[one.name, one.type, one.disk, one.block_size] for one in spec.filesystems],
        [_workload_to_plain(one) for one in spec.workloads],
        [[event.at_ns, event.do] for event in spec.events],
        list(spec.trace_off),
        spec.ring_bytes_max,
        list(spec.balanced_ago),
        spec.on_crash,
        spec.checkpoint_ns,
    ]
    assert len(plain) == len(fields(BoxSpec)), "BoxSpec has a field that plain.py forgets"
    return plain


def spec_from_plain(plain: list[Any]) -> BoxSpec:
    """Rebuild the box that :func:`spec_to_plain` was given."""
    assert len(plain) == len(fields(BoxSpec)), f"a box has {len(fields(BoxSpec))} fields"
    return BoxSpec(
        name=plain[0],
        seed=plain[1],
        duration_ns=plain[2],
        warmup_ns=plain[3],
        machine=_machine_from_plain(plain[4]),
        kernel=_kernel_from_plain(plain[5]),
        costs=Costs(*[_copy(value) for value in plain[6]]),
        disks=tuple(_disk_from_plain(disk) for disk in plain[7]),
        filesystems=tuple(FilesystemSpec(*one) for one in plain[8]),
        workloads=tuple(_workload_from_plain(one) for one in plain[9]),
        events=tuple(BoxEvent(*event) for event in plain[10]),
        trace_off=tuple(plain[11]),
        ring_bytes_max=plain[12],
        balanced_ago=tuple(plain[13]),
        on_crash=plain[14],
        checkpoint_ns=plain[15],
    )


# Mappings are copied, so that the plain data and the frozen spec share nothing that can change.
def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def _masks_to_plain(masks: Iterable[int]) -> list[str]:
    return [f"{mask:x}" for mask in masks]


def _masks_from_plain(plain: Iterable[str]) -> tuple[int, ...]:
    return tuple(int(text, 16) for text in plain)


def _machine_to_plain(machine: MachineSpec) -> list[Any]:
    plain = [
        machine.nr_cpus,
        machine.hz,
        _masks_to_plain(machine.core),
        _masks_to_plain(machine.llc),
        _masks_to_plain(machine.die),
        _masks_to_plain(machine.node),
        [list(row) for row in machine.node_distance],
        machine.take_turns,
        machine.idle_polls,
        machine.irq_time_accounting,
        _masks_to_plain(machine.cluster),
        machine.turn_ns,
        machine.memory,
    ]
    assert len(plain) == len(fields(MachineSpec)), "MachineSpec has a field that plain.py forgets"
    return plain


def _machine_from_plain(plain: list[Any]) -> MachineSpec:
    *first, cluster, turn, memory = plain
    nr_cpus, hz, core, llc, die, node, distance, take_turns, idle_polls, irq_time = first
    return MachineSpec(
        nr_cpus=nr_cpus,
        hz=hz,
        core=_masks_from_plain(core),
        llc=_masks_from_plain(llc),
        die=_masks_from_plain(die),
        node=_masks_from_plain(node),
        node_distance=tuple(tuple(row) for row in distance),
        take_turns=take_turns,
        idle_polls=idle_polls,
        irq_time_accounting=irq_time,
        cluster=_masks_from_plain(cluster),
        turn_ns=turn,
        memory=memory,
    )


def _kernel_to_plain(kernel: KernelSpec) -> list[Any]:
    plain = [
        kernel.version,
        dict(kernel.features),
        dict(kernel.sysctls),
        list(kernel.policies),
        [value for _name, value in kernel.rules],
        kernel.rcu_callbacks,
        kernel.rcu_needs_cpu,
        [
            kernel.completion.name,
            kernel.completion.batch,
            [list(signal) for signal in kernel.completion.signals],
        ],
        _workqueue_to_plain(kernel.workqueue),
        kernel.threadirqs,
    ]
    assert len(plain) == len(fields(KernelSpec)), "KernelSpec has a field that plain.py forgets"
    return plain


def _kernel_from_plain(plain: list[Any]) -> KernelSpec:
    version, features, sysctls, policies, rules, callbacks, needs_cpu, *rest = plain
    completion, workqueue, threadirqs = rest
    name, batch, signals = completion
    return KernelSpec(
        version,
        dict(features),
        dict(sysctls),
        tuple(policies),
        Rules(*rules),
        callbacks,
        needs_cpu,
        CompletionSpec(name, batch, tuple((signal, limit) for signal, limit in signals)),
        _workqueue_from_plain(workqueue),
        threadirqs,
    )


def _workqueue_to_plain(workqueue: WorkqueueSpec) -> list[Any]:
    plain = [
        list(workqueue.unbound),
        workqueue.affinity_scope,
        workqueue.affinity_strict,
        f"{workqueue.cpumask:x}",
        [list(one) for one in workqueue.max_active],
        workqueue.power_efficient,
        workqueue.cpu_intensive_ns,
        workqueue.create_delay_ns,
        workqueue.watchdog_ns,
        workqueue.create_failures,
        workqueue.idle_timeout_ns,
    ]
    assert len(plain) == len(fields(WorkqueueSpec)), (
        "WorkqueueSpec has a field that plain.py forgets"
    )
    return plain


def _workqueue_from_plain(plain: list[Any]) -> WorkqueueSpec:
    unbound, scope, strict, cpumask, max_active, *rest = plain
    limits = tuple((name, limit) for name, limit in max_active)
    return WorkqueueSpec(tuple(unbound), scope, strict, int(cpumask, 16), limits, *rest)


def _disk_to_plain(disk: DiskSpec) -> list[Any]:
    plain = [
        disk.name,
        disk.driver,
        dict(disk.params),
        disk.scheduler,
        disk.rq_affinity,
        disk.nr_requests,
        disk.schedules,
        _masks_to_plain(disk.vectors),
        disk.managed,
        disk.preset,
        disk.carries,
        disk.on_crash,
    ]
    assert len(plain) == len(fields(DiskSpec)), "DiskSpec has a field that plain.py forgets"
    return plain


def _disk_from_plain(plain: list[Any]) -> DiskSpec:
    name, driver, params, scheduler, affinity, requests, schedules, vectors, *rest = plain
    queue = (scheduler, affinity, requests, schedules)
    return DiskSpec(name, driver, dict(params), *queue, _masks_from_plain(vectors), *rest)


def _workload_to_plain(workload: WorkloadSpec) -> list[Any]:
    plain = [
        workload.name,
        workload.program,
        dict(workload.params),
        workload.count,
        workload.nice,
        f"{workload.cpus_allowed:x}",
        workload.start_ns,
        workload.start_cpu,
        workload.figure,
        workload.kthread,
        workload.policy,
        workload.slice_ns,
        workload.pinned_to,
        workload.rt_priority,
    ]
    assert len(plain) == len(fields(WorkloadSpec)), "WorkloadSpec has a field that plain.py forgets"
    return plain


def _workload_from_plain(plain: list[Any]) -> WorkloadSpec:
    name, program, params, count, nice, cpus_allowed, *rest = plain
    return WorkloadSpec(name, program, dict(params), count, nice, int(cpus_allowed, 16), *rest)
