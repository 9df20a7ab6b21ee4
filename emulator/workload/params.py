"""What programs are built from: the box around them, and the check of their own parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

from emulator.types import Costs

#: Parameters that any program accepts because the box adds them to all.
COMMON = frozenset({"stats_from_ns", "filesystem", "file", "name", "workqueues"})


class Setting(NamedTuple):
    """What a program may know of the box it runs in, besides its own parameters."""

    costs: Costs
    seed: int  #: of this task
    hz: int


def check_params(program: str, params: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return all parameters with defaults filled in; ValueError names the odd or missing one.

    A default of None means that the parameter must be given.
    """
    for name in params:
        if name not in defaults and name not in COMMON:
            raise ValueError(f"{program} has no parameter {name!r}; it has {', '.join(defaults)}")
    option = defaults | params
    for name, value in option.items():
        if value is None:
            raise ValueError(f"{program} needs the parameter {name!r}")
    return option
