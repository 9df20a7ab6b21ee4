"""What every act costs: a preset's values, and by name what a box changes in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from emulator.boxfile.kernel import did_you_mean
from emulator.boxfile.problems import Path, Report
from emulator.types import Costs

#: The one cost that is a mapping: algorithm to picoseconds per byte.
VERIFY = "verify_ps_per_byte"

COST_NAMES = tuple(one.name for one in fields(Costs))
_NEEDED = tuple(
    one.name for one in fields(Costs) if one.default is MISSING and one.default_factory is MISSING
)


def preset_costs(data: Any, report: Report) -> dict[str, Any] | None:
    """Return a preset's values by name, checked; the report is the preset file's."""
    if not isinstance(data, dict):
        return None
    values = {name: value for name, value in data.items() if name != "description"}
    check_costs(values, (), report)
    for name in _NEEDED:
        if name not in values:
            report.at((), f"the preset lacks {name}")
    return None if report.problems else values


def resolve_costs(
    preset: Mapping[str, Any], changes: Mapping[str, Any], report: Report
) -> Costs | None:
    """Return the preset with a box's changes laid over it, or None if one of them is odd."""
    before = len(report.problems)
    check_costs(changes, ("costs",), report)
    if len(report.problems) > before:
        return None
    merged = {**preset, **changes}
    merged[VERIFY] = {**preset.get(VERIFY, {}), **changes.get(VERIFY, {})}
    return Costs(**merged)


def check_costs(values: Mapping[str, Any], path: Path, report: Report) -> None:
    """Report every unknown name and every value that is no cost."""
    for name, value in values.items():
        where = (*path, name)
        if name not in COST_NAMES:
            report.at_key(where, f"no such cost{did_you_mean(name, COST_NAMES)}")
        elif name != VERIFY:
            _check(value, where, report)
        elif isinstance(value, dict):
            for algorithm, cost in value.items():
                _check(cost, (*where, algorithm), report)
        else:
            report.at(where, "is a mapping of algorithms to picoseconds per byte")


def _check(value: object, path: Path, report: Report) -> None:
    if type(value) is not int or not 0 <= value <= 1_000_000_000:
        report.at(path, f"{value!r} is not a whole number from 0 to a billion")
