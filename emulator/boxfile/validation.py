"""What the schema's validator found, in our words and at the right place in the file.

Pydantic says where in the *schema* an error is: its location holds tags of unions and names of
validators beside the keys of the data.  Following it through the data drops them.  An unknown key is
reported at the key, a wrong value at the value, a missing one at its parent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emulator.boxfile.kernel import did_you_mean
from emulator.boxfile.problems import Path, Report
from emulator.boxfile.reader import Refused, child

DRIVERS = ("scsi_debug", "null_blk")


def report_error(
    error: dict[str, Any], data: Any, keys_at: Callable[[Path, Any], list[str]], report: Report
) -> Path:
    """Report one error of pydantic's; return where in the data it is.

    ``keys_at`` tells which keys a mapping of the data may have.
    """
    kind: str = error["type"]
    path = _trimmed(error["loc"], data, kind in ("missing", "extra_forbidden"))
    if isinstance(error["input"], Refused) or isinstance(child_at(data, path), Refused):
        return path
    match kind:
        case "extra_forbidden":
            hint = did_you_mean(str(path[-1]), keys_at(path[:-1], data))
            report.at_key(path, f"no such key{hint}")
        case "missing":
            report.at(path, "is missing")
        case "union_tag_not_found":
            report.at((*path, "driver"), f"is missing; built: {', '.join(DRIVERS)}")
        case "union_tag_invalid":
            found = error["ctx"]["tag"]
            hint = did_you_mean(found, DRIVERS) or f"; built: {', '.join(DRIVERS)}"
            report.at((*path, "driver"), f"no such driver {found!r}{hint}")
        case _:
            report.at(path, _message(error))
    return path


def _message(error: dict[str, Any]) -> str:
    value = error["input"]
    match error["type"]:
        case "int_type" | "int_from_float":
            return f"{value!r} is not a whole number"
        case "bool_type":
            return f"{value!r} is neither true nor false"
        case "string_type":
            return f"{value!r} is not text: quote it"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"{value!r} is not a mapping of keys"
        case "list_type":
            return f"{value!r} is not a list"
        case "value_error":
            return str(error["msg"]).removeprefix("Value error, ")
    return f"{value!r}: {str(error['msg']).removeprefix('Input ')}"


# Pydantic's location without what is not in the data.
def _trimmed(loc: tuple[str | int, ...], data: Any, last_is_key: bool) -> Path:
    path: list[str | int] = []
    here = data
    for index, part in enumerate(loc):
        found = child(here, part) is not None or (isinstance(here, dict) and part in here)
        if found or (last_is_key and index == len(loc) - 1):
            path.append(part)
            here = child(here, part)
    return tuple(path)


def child_at(data: Any, path: Path) -> Any:
    """Return what lies at a path, None if nothing does."""
    for part in path:
        data = child(data, part)
    return data
