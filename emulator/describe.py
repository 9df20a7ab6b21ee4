"""The resolved box as text: what a run is made from, with nothing left to default.

Sets of CPUs are written as cpulists.  Everything else stands as the nodes get it: times in ns,
sizes in bytes, so that a reader sees what the box file's presets and units came to.
"""

from dataclasses import asdict
from typing import Any

from emulator.config import Box, dump_plain
from emulator.types import cpulist_format

#: Per CPU, the mask of the CPUs that it shares something with.
_GROUPS = ("core", "llc", "die", "node")


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
