"""The resolved box as text, and back: what a run is made from, with nothing left to default.

Sets of CPUs are written as cpulists.  Everything else stands as the nodes get it: times in ns,
sizes in bytes, so that a reader sees what the box file's presets and units came to.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, cast, get_args, get_origin, get_type_hints

from emulator.boxfile.yaml_file import dump_plain
from emulator.config import Box, Expectation
from emulator.types import BoxSpec, cpulist_format, cpulist_parse

#: Per CPU, the mask of the CPUs that it shares something with.
_GROUPS = ("core", "llc", "die", "node", "cluster")


def describe(box: Box) -> str:
    """Return the resolved box as YAML text."""
    plain: dict[str, Any] = {"description": box.description, **asdict(box.resolve())}
    machine = plain["machine"]
    for group in _GROUPS:
        machine[group] = [cpulist_format(mask) for mask in dict.fromkeys(machine[group])]
    if box.host_cpus is not None:
        machine["host_cpus"] = cpulist_format(box.host_cpus)
    for workload in plain["workloads"]:
        workload["cpus_allowed"] = cpulist_format(workload["cpus_allowed"])
    plain["expect"] = expectations(box)
    return dump_plain(_listed(plain))


def box_of(plain: Mapping[str, Any], path: str) -> Box:
    """Return the whole box of what :func:`describe` wrote, as :func:`spec_of` does its spec."""
    host_cpus = plain["machine"].get("host_cpus")
    limits = ("min", "max", "equals")
    expect = (
        Expectation(one["figure"], *(one.get(limit) for limit in limits)) for one in plain["expect"]
    )
    mask = None if host_cpus is None else cpulist_parse(str(host_cpus))
    return Box(spec_of(plain), path, plain["description"], mask, tuple(expect))


def spec_of(plain: Mapping[str, Any]) -> BoxSpec:
    """Return the resolved box of what :func:`describe` wrote, read as plain data.

    Raises KeyError or TypeError where another build wrote it.
    """
    machine = dict(plain["machine"])
    for group in _GROUPS:
        machine[group] = _masks(machine[group], machine["nr_cpus"])
    workloads = [
        one | {"cpus_allowed": cpulist_parse(str(one["cpus_allowed"]))}
        for one in plain["workloads"]
    ]
    whole = dict(plain) | {"machine": machine, "workloads": workloads}
    return cast(BoxSpec, _built(BoxSpec, whole))


# Groups of CPUs are one mask per CPU again; a CPU in no group shares nothing, with no groups nobody.
def _masks(groups: list[str], nr_cpus: int) -> tuple[int, ...]:
    masks = [cpulist_parse(str(group)) for group in groups if group]
    if not groups:
        return ()
    return tuple(next((mask for mask in masks if mask >> cpu & 1), 0) for cpu in range(nr_cpus))


def _built(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        kinds = get_type_hints(kind)
        return cast(Any, kind)(
            **{
                one.name: _built(kinds[one.name], value[one.name])
                for one in fields(kind)
                if one.name in value  # what an older box lacks has its default
            }
        )
    if get_origin(kind) is tuple:
        return tuple(_built(get_args(kind)[0], item) for item in value)
    return value


def expectations(box: Box) -> list[dict[str, Any]]:
    """Return what the box expects of its figures, without the limits that it leaves open."""
    return [
        {word: limit for word, limit in asdict(expectation).items() if limit is not None}
        for expectation in box.expect
    ]


# Tuples are Python's own; YAML has lists.
def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value
