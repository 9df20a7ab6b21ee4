"""What sysstat's tools print around their figures: the first line, times of day, the frame of JSON."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from emulator.report.procfs.view import View
from emulator.types import NSEC_PER_MSEC, NSEC_PER_SEC

DATE = "%m/%d/%y"

#: JSON is indented by tabs; a report's members stand at the fifth.
INDENT = "\t" * 5


def headline(view: View) -> str:
    """Return the first line: kernel, box, day, machine."""
    spec = view.spec
    cpus = f"({view.nr_cpus} CPU)"
    return f"Linux {spec.kernel.version} ({spec.name}) \t{_day()} \t_x86_64_\t{cpus}"


def time_of_day(now_ns: int) -> str:
    """Return the box's time of day; it was started at 0.  Parts of a second are shown if there are any."""
    seconds, rest = divmod(now_ns, NSEC_PER_SEC)
    parts = f".{rest // NSEC_PER_MSEC:03d}" if rest else ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S") + parts


def timestamp(now_ns: int) -> str:
    """Return day and time of day."""
    return f"{_day(now_ns)} {time_of_day(now_ns)}"


def _day(now_ns: int = 0) -> str:
    return datetime.fromtimestamp(now_ns // NSEC_PER_SEC, UTC).strftime(DATE)


def json_object(pairs: Mapping[str, str | float | int]) -> str:
    """Return an object on one line; floats have two decimals."""
    return "{" + ", ".join(f'"{key}": {_value(value)}' for key, value in pairs.items()) + "}"


def json_array(name: str, items: Iterable[str]) -> str:
    """Return an array of a report, an item a line."""
    return f'"{name}": [\n' + ",\n".join(f"{INDENT}\t{item}" for item in items) + f"\n{INDENT}]"


def json_frame(view: View, reports: Iterable[list[str]]) -> Iterator[str]:
    """Yield the text of reports, each a list of its members, in the frame that both tools have."""
    spec = view.spec
    yield '{"sysstat": {\n\t"hosts": [\n\t\t{\n'
    facts: dict[str, str | float | int] = {
        "nodename": spec.name,
        "sysname": "Linux",
        "release": spec.kernel.version,
        "machine": "x86_64",
        "number-of-cpus": view.nr_cpus,
        "date": _day(),
    }
    yield "".join(f'\t\t\t"{key}": {_value(value)},\n' for key, value in facts.items())
    yield '\t\t\t"statistics": ['
    comma = "\n"
    for members in reports:
        text = ",\n".join(INDENT + member for member in members)
        yield f"{comma}\t\t\t\t{{\n{text}\n\t\t\t\t}}"
        comma = ",\n"
    yield "\n\t\t\t]\n\t\t}\n\t]\n}}\n"


def _value(value: str | float | int) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return f'"{value}"' if isinstance(value, str) else str(value)
