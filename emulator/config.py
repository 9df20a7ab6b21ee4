"""A box file read, checked and resolved: every mistake at once, each with its line.

Theory of operation
-------------------
``yaml.compose()`` gives a tree of nodes with marks (:mod:`~emulator.boxfile.yaml_file`).  Walking it
(:mod:`~emulator.boxfile.reader`) yields plain data and, beside it, the place of every key and value;
what YAML 1.1 would silently misread (duplicate keys, ``no``, ``0777``, ``12:30:45``, ``1e3``) is
refused on the way.  Overrides from the command line are laid over the data and bring their own
places.  Pydantic checks the data against the models of :mod:`~emulator.boxfile.schema`; the other
modules of :mod:`emulator.boxfile` check what no single value shows (groups that do not partition,
events on CPUs that do not exist, job files) and resolve everything to a
:class:`~emulator.types.BoxSpec`.  A :class:`~emulator.boxfile.problems.BoxError` carries all problems.

``python -m emulator.config schema`` and ``… reference`` print what ``config/box.schema.json`` and
``config/README.md`` hold.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from emulator.added import bytes_on
from emulator.boxfile import reference
from emulator.boxfile.around import Surroundings
from emulator.boxfile.costs import preset_costs, resolve_costs
from emulator.boxfile.events import resolve_events
from emulator.boxfile.kernel import did_you_mean, resolve_kernel, sysctl_problem
from emulator.boxfile.likeness import LIKE, lay_over
from emulator.boxfile.machine import balanced_ago, resolve_machine
from emulator.boxfile.problems import BoxError, Path, Place, Problem, Report
from emulator.boxfile.reader import Reader
from emulator.boxfile.schema import BoxFile, check, keys_at
from emulator.boxfile.storage import resolve_disks, resolve_filesystems
from emulator.boxfile.validation import child_at, report_error
from emulator.boxfile.work import resolve_workloads
from emulator.boxfile.work_fio import JobText
from emulator.boxfile.yaml_file import compose
from emulator.tracepoints import BY_NAME
from emulator.types import NR_CPUS_MAX, NSEC_PER_SEC, BoxSpec, Costs, WorkloadSpec
from emulator.units import (
    duration_format,
)
from emulator.workload.fio_job import INCLUDES_MAX, included_name

__all__ = ["Box", "BoxError", "Expectation", "find_config_dir", "list_boxes", "load_box"]

# -- The box --------------------------------------------------------------------------------------


#: Largest file that is read as a box.
BOX_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Expectation:
    """One line of ``expect:``; see :class:`Expect`."""

    figure: str
    min: float | None
    max: float | None
    equals: float | None


@dataclass(frozen=True, slots=True)
class Box:
    """A checked box: what the nodes need is in :meth:`resolve`, the rest stands here."""

    spec: BoxSpec
    path: str
    description: str
    host_cpus: int | None  #: mask of host CPUs, None: all
    expect: tuple[Expectation, ...]

    def resolve(self) -> BoxSpec:
        """Return the box as the nodes are built from it."""
        return self.spec


def load_box(
    path: str | FilePath,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    duration: str | int | None = None,
) -> Box:
    """Read, check and resolve a box file; raise BoxError holding every problem.

    ``path`` is a file, or the name of a box that ships.  Overrides are ``key.path=value``;
    ``duration`` is text such as ``5s``, or ns.
    """
    file = _find_box(str(path))
    reader, data = _read_box(file)
    for override in overrides:
        reader.override(data, override, f"--set {override}")
    if seed is not None:
        reader.override(data, f"seed={seed}", f"--seed {seed}")
    if duration is not None:
        text = duration if isinstance(duration, str) else f"{duration}ns"
        reader.override(data, f"duration={text}", f"--for {text}")
    model, dirty = _validated(data, reader.report)
    box = _resolved(model, dirty, file, reader.report) if model is not None else None
    if reader.report.problems or box is None:
        raise BoxError(reader.report.problems)
    return box


def load_workloads(path: FilePath, spec: BoxSpec) -> tuple[WorkloadSpec, ...]:
    """Read workloads that are to be added to a box: a YAML file with ``workloads:``, or a job file.

    Their files and pipes are numbered from the beginning.  Raises BoxError holding every problem.
    """
    if path.suffix in (".fio", ".json"):
        reader = Reader(str(path), compose, Report(str(path)))
        data: Any = {
            "workloads": [{"rtapp" if path.suffix == ".json" else "fio": str(path.resolve())}]
        }
    else:
        reader, data = _read(path)
    report = reader.report
    if not isinstance(data, dict) or list(data) != ["workloads"]:
        if not report.problems:
            report.at((), "a file of workloads is a box with workloads: alone, or a .fio file")
        raise BoxError(report.problems)
    nr_cpus = spec.machine.nr_cpus
    whole = {
        "description": "added",
        "duration": f"{spec.duration_ns}ns",
        "machine": {"cpus": nr_cpus},
    }
    model, _ = _validated(whole | data, report)
    if report.problems or model is None:
        raise BoxError(report.problems)
    tick_ns = NSEC_PER_SEC // spec.machine.hz
    storage = (spec.disks, spec.filesystems)
    around = Surroundings(nr_cpus, *storage, spec.warmup_ns, tick_ns, spec.seed, report)
    around.bytes_on = bytes_on(spec)
    around.verify = tuple(spec.costs.verify_ps_per_byte)
    around.custom_slice = spec.kernel.rules.custom_slice
    found = resolve_workloads(model.workloads, _job_texts(model, path, report), around)
    if report.problems:
        raise BoxError(report.problems)
    return found


def list_boxes() -> list[tuple[str, str]]:
    """Return name and description of every box that ships, by name."""
    found: list[tuple[str, str]] = []
    for file in _shipped("boxes"):
        _, data = _read(file)
        description = data.get("description") if isinstance(data, dict) else None
        found.append((file.stem, str(description or "")))
    return found


def find_config_dir() -> FilePath:
    """Return the ``config`` directory: of the installed package, or of the checkout."""
    package = FilePath(__file__).resolve().parent
    installed = package / "_config"
    return installed if installed.is_dir() else package.parent / "config"


def load_plain(path: FilePath) -> Any:
    """Return any other YAML file of the project as plain data, read as strictly as a box."""
    reader, data = _read(path)
    if reader.report.problems:
        raise BoxError(reader.report.problems)
    return data


def load_costs(preset: str) -> Costs:
    """Return a cost preset of ``config/costs`` by name; raise BoxError."""
    report = Report(preset)
    costs = _costs(preset, {}, report)
    if costs is None:
        raise BoxError(report.problems)
    return costs


# A name that ships, or a path; a path that is not there is tried below config/.
def _find_box(name: str) -> FilePath:
    file = FilePath(name)
    config = find_config_dir()
    if _is_file(file):
        return file
    candidates = [config / name, config / f"{name}.yaml"]
    if file.name == name:
        candidates = [config / "boxes" / name, config / "boxes" / f"{name}.yaml"]
    for candidate in candidates:
        if _is_file(candidate):
            return candidate
    shipped = [one.stem for one in _shipped("boxes")]
    guess = did_you_mean(name, shipped) or "; `boxes` lists those that ship"
    message = f"there is no such box{guess}"
    raise BoxError([Problem(Place(name), "", message)])


# A name may be too long for any file, or have a character that none has.
def _is_file(path: FilePath) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


# The files of one kind that ship, by name.
def _shipped(kind: str) -> list[FilePath]:
    return sorted((find_config_dir() / kind).glob("*.yaml"), key=lambda file: file.stem)


def _shown(file: FilePath) -> str:
    try:
        return str(file.resolve().relative_to(FilePath.cwd()))
    except ValueError:
        return str(file)


#: Sections whose mistakes can be taken out one by one.
_PRUNED = ("machine", "kernel", "workloads")

#: What stands in for a needed section in which the schema found mistakes, so that the others can
#: still be checked: nothing that another section names lies outside of it.
_STAND_IN: dict[str, Any] = {
    "description": "?",
    "duration": "1000h",
    "machine": {"cpus": NR_CPUS_MAX},
    "workloads": [{"program": "hog"}],
}


# The box as far as the schema accepts it, and the sections in which it found mistakes.
def _validated(data: Any, report: Report) -> tuple[BoxFile | None, frozenset[str]]:
    if not isinstance(data, dict):
        if not report.problems:
            report.at((), "a box is a mapping of keys such as machine: and workloads:")
        return None, frozenset()
    checked = check(data)
    if isinstance(checked, BoxFile):
        return checked, frozenset()
    return _accepted(data, [report_error(one, data, keys_at, report) for one in checked])


# What the schema accepts of a box with mistakes at these places, and the sections they are in.  A
# value that may be left out goes alone, so that its section is still checked; else the section does.
def _accepted(data: dict[str, Any], paths: list[Path]) -> tuple[BoxFile | None, frozenset[str]]:
    kept = copy.deepcopy(data)
    for path in paths:
        parent = child_at(kept, path[:-1])
        if (
            path[0] in _PRUNED
            and isinstance(parent, dict)
            and path[-1] not in ("fio", "rtapp", "program")
        ):
            parent.pop(path[-1], None)
    checked = check(kept)
    if isinstance(checked, BoxFile):
        return checked, frozenset()
    dirty = frozenset(str(one["loc"][0]) for one in checked)
    for name in dirty:
        kept.pop(name, None)
    stand_ins = {name: value for name, value in _STAND_IN.items() if name in dirty}
    return BoxFile.model_validate(kept | stand_ins), dirty


def _resolved(model: BoxFile, dirty: frozenset[str], file: FilePath, report: Report) -> Box | None:
    machine = resolve_machine(model.machine, report)
    kernel = resolve_kernel(model.kernel, _presets(report), report)
    costs = _costs(model.costs.preset, model.costs.model_extra or {}, report)
    cpus = model.machine.cpus
    disks = resolve_disks(model, cpus, report, machine)
    no_storage = bool(dirty & {"disks", "filesystems"})
    filesystems = () if no_storage else resolve_filesystems(model, report)
    if model.warmup >= model.duration:
        ended = f"the run is over by then: it lasts {duration_format(model.duration)}"
        report.at(("warmup",), ended)
    tick_ns = NSEC_PER_SEC // model.machine.hz
    around = Surroundings(cpus, disks, filesystems, model.warmup, tick_ns, model.seed, report)
    around.verify = None if costs is None else tuple(costs.verify_ps_per_byte)
    around.any_mount = no_storage
    around.custom_slice = kernel is None or kernel.rules.custom_slice
    workloads = resolve_workloads(model.workloads, _job_texts(model, file, report), around)
    names = tuple(dict.fromkeys(one.name for one in workloads))
    driven = None if no_storage else {one.name: one for one in disks}
    events = resolve_events(
        model.events,
        cpus,
        names,
        model.duration,
        report,
        kernel,
        driven,
        model.kernel.threadirqs,
    )
    expect = tuple(_expectations(model, report))
    _check_trace(model, report)
    if report.problems or machine is None or kernel is None or costs is None:
        return None
    spec = BoxSpec(
        name=file.stem,
        seed=model.seed,
        duration_ns=model.duration,
        warmup_ns=model.warmup,
        machine=machine,
        kernel=kernel,
        costs=costs,
        disks=disks,
        filesystems=filesystems,
        workloads=workloads,
        events=events,
        trace_off=tuple(model.trace.off),
        ring_bytes_max=model.trace.ring,
        balanced_ago=balanced_ago(model.seed, cpus),
        on_crash=model.on_crash,
        checkpoint_ns=model.checkpoint,
    )
    return Box(spec, str(file), model.description, model.machine.host_cpus, expect)


def _expectations(model: BoxFile, report: Report) -> Iterator[Expectation]:
    for index, one in enumerate(model.expect):
        path: Path = ("expect", index)
        bounds = [bound for bound in (one.min, one.max) if bound is not None]
        if (one.equals is None) == (not bounds):
            report.at(path, "needs either equals, or min, max or both")
        elif len(bounds) == 2 and bounds[0] > bounds[1]:
            report.at((*path, "min"), f"{bounds[0]} is more than max: {bounds[1]}")
        yield Expectation(one.figure, one.min, one.max, one.equals)


def _check_trace(model: BoxFile, report: Report) -> None:
    for index, name in enumerate(model.trace.off):
        if name not in BY_NAME:
            report.at(("trace", "off", index), f"no such event{did_you_mean(name, BY_NAME)}")


# The job or task file of each workload that names one and whose file can be read.
def _job_texts(model: BoxFile, file: FilePath, report: Report) -> dict[int, JobText]:
    found: dict[int, JobText] = {}
    for index, workload in enumerate(model.workloads):
        key, ending = ("fio", "fio") if workload.fio is not None else ("rtapp", "json")
        name = workload.fio if workload.fio is not None else workload.rtapp
        if name is None:
            continue
        candidates = [file.parent / name, find_config_dir() / "jobs" / name]
        job = next((one for one in candidates if _is_file(one)), None)
        path: Path = ("workloads", index, key)
        if job is None:
            shipped = [one.name for one in (find_config_dir() / "jobs").glob(f"*.{ending}")]
            report.at(path, f"there is no such job file{did_you_mean(name, shipped)}")
            continue
        try:
            found[index] = JobText(_shown(job), job.read_text(encoding="utf-8"))
            if key == "fio":
                found[index].included = _included(job, INCLUDES_MAX)
        except (OSError, UnicodeDecodeError) as error:
            report.at(path, f"cannot be read: {error}")
    return found


# The files that a job file includes: they are looked for beside the one that does.
def _included(job: FilePath, depth: int) -> dict[tuple[str, str], JobText]:
    found: dict[tuple[str, str], JobText] = {}
    for line in job.read_text(encoding="utf-8").splitlines() if depth else ():
        name = included_name(line)
        file = job.parent / name if name else job
        if name and _is_file(file):
            found[_shown(job), name] = JobText(_shown(file), file.read_text(encoding="utf-8"))
            found |= _included(file, depth - 1)
    return found


def _presets(report: Report) -> dict[str, dict[str, int]]:
    presets: dict[str, dict[str, int]] = {}
    for file in _shipped("presets"):
        reader, data = _read(file)
        sysctls = data.get("sysctl", {}) if isinstance(data, dict) else {}
        for name, value in sysctls.items():
            problem = sysctl_problem(name, value) if type(value) is int else "not a whole number"
            if problem:
                reader.report.at(("sysctl", name), problem)
        report.problems.extend(reader.report.problems)
        presets[file.stem] = sysctls
    return presets


# A cost preset with a box's changes.
def _costs(preset: str, changes: Mapping[str, Any], report: Report) -> Costs | None:
    files = {file.stem: file for file in _shipped("costs")}
    if preset not in files:
        report.at(("costs", "preset"), f"no such preset; there are {', '.join(files)}")
        return None
    reader, data = _read(files[preset])
    values = preset_costs(data, reader.report)
    report.problems.extend(reader.report.problems)
    return None if values is None else resolve_costs(values, changes, report)


# A box file, laid over the box that it is like; without that one there is nothing to check.
def _read_box(file: FilePath, above: tuple[FilePath, ...] = ()) -> tuple[Reader, Any]:
    reader, data = _read(file)
    like = data.get(LIKE) if isinstance(data, dict) else None
    if not isinstance(like, str):
        return reader, data
    chain = (*above, file.resolve())
    beside = file.parent / like
    try:
        other = beside if _is_file(beside) else _find_box(like)
    except BoxError as error:
        reader.report.at((LIKE,), error.problems[0].message)
        raise BoxError(reader.report.problems) from None
    if other.resolve() in chain:
        reader.report.at((LIKE,), "is like itself")
        raise BoxError(reader.report.problems)
    base, below = _read_box(other, chain)
    if base.report.problems or not isinstance(below, dict):
        raise BoxError(base.report.problems or reader.report.problems)
    return reader, lay_over(reader, data, base, below)


# -- YAML -----------------------------------------------------------------------------------------


def _read(file: FilePath) -> tuple[Reader, Any]:
    source = _shown(file)
    reader = Reader(source, compose, Report(source))
    try:
        with file.open("rb") as opened:
            data = opened.read(BOX_BYTES_MAX + 1)
    except OSError as error:
        problem = Problem(Place(source), "", f"cannot be read: {error}")
        reader.report.problems.append(problem)
        return reader, None
    return reader, reader.read_bytes(data, BOX_BYTES_MAX)


def main(words: Sequence[str]) -> int:
    """Print what is generated from the schema: ``schema`` or ``reference``."""
    schema = BoxFile.model_json_schema()
    if list(words) == ["schema"]:
        sys.stdout.write(reference.schema_text(schema))
    elif list(words) == ["reference"]:
        presets = {
            kind: [
                (file.stem, str(load_plain(file).get("description", ""))) for file in _shipped(kind)
            ]
            for kind in ("costs", "presets")
        }
        sys.stdout.write(reference.reference_text(schema, presets, list_boxes()))
    else:
        sys.stderr.write("usage: python -m emulator.config schema|reference\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
