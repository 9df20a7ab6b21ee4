"""The box file: one schema, every mistake at once, each with its line; the only YAML reader.

Theory of operation
-------------------
``yaml.compose()`` gives a tree of nodes with marks.  Walking it yields plain data and, beside it,
the place of every key and value; what YAML 1.1 would silently misread (duplicate keys, ``no``,
``0777``, ``12:30:45``, ``1e3``) is refused on the way.  Overrides from the command line are laid
over the data and bring their own places.  Pydantic checks the data against the models below,
:mod:`emulator.boxfile` checks what no single value shows (groups that do not partition, events on
CPUs that do not exist, job files) and resolves everything to a :class:`~emulator.types.BoxSpec`.
A :class:`~emulator.boxfile.problems.BoxError` carries all problems.

``python -m emulator.config schema`` and ``… reference`` print what ``config/box.schema.json`` and
``config/README.md`` hold.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from emulator.boxfile import reference
from emulator.boxfile.around import Surroundings
from emulator.boxfile.costs import COST_NAMES, VERIFY, preset_costs, resolve_costs
from emulator.boxfile.events import resolve_events
from emulator.boxfile.kernel import did_you_mean, resolve_kernel, sysctl_problem
from emulator.boxfile.likeness import LIKE, lay_over
from emulator.boxfile.machine import NR_CPUS_MAX, balanced_ago, resolve_machine
from emulator.boxfile.problems import BoxError, Path, Place, Problem, Report
from emulator.boxfile.reader import Node, NotYaml, Reader, child
from emulator.boxfile.storage import resolve_disks, resolve_filesystems
from emulator.boxfile.validation import child_at, report_error
from emulator.boxfile.work import resolve_workloads
from emulator.boxfile.work_fio import JobText
from emulator.tracepoints import BY_NAME
from emulator.types import NSEC_PER_SEC, BoxSpec, Costs, cpulist_parse
from emulator.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    duration_format,
    duration_parse,
    size_parse,
)
from emulator.workload.fio_job import INCLUDES_MAX, included_name

__all__ = ["Box", "BoxError", "Expectation", "find_config_dir", "list_boxes", "load_box"]

CPULIST_PATTERN = r"^[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*$"

# -- Values ---------------------------------------------------------------------------------------


def _duration(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} has no unit: write a duration such as 15ms")
    return duration_parse(value)


def _duration_or_ns(value: object) -> object:
    return duration_parse(value) if isinstance(value, str) else value


def _size(value: object) -> object:
    return size_parse(value) if isinstance(value, str) else value


def _cpulist(value: object) -> int:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str):
        raise ValueError(f"{value!r} is not a list of CPUs such as 0-3,8")
    for number in re.findall(r"[0-9]+", text):
        if int(number) >= NR_CPUS_MAX:
            raise ValueError(f"CPU {number}: there are no more than {NR_CPUS_MAX} CPUs")
    return cpulist_parse(text)


def _cpulist_or_task(value: object) -> int | str:
    if isinstance(value, str) and value.startswith("of:") and len(value) > 3:
        return value
    return _cpulist(value)


def _version(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f'quote the version: "{value}" (YAML reads 5.10 as the number 5.1)')
    return value


_DurationText = Annotated[str, Field(pattern=DURATION_PATTERN, title="duration")]
_SizeText = Annotated[str, Field(pattern=SIZE_PATTERN, title="size")]
_CpuListText = Annotated[str, Field(pattern=CPULIST_PATTERN, title="CPU list")]
_Count = Annotated[int, Field(ge=0)]

Duration = Annotated[int, BeforeValidator(_duration, json_schema_input_type=_DurationText)]
DurationOrNs = Annotated[
    int, Field(ge=0), BeforeValidator(_duration_or_ns, json_schema_input_type=_DurationText | int)
]
Size = Annotated[int, Field(gt=0), BeforeValidator(_size, json_schema_input_type=_SizeText | int)]
CpuList = Annotated[int, BeforeValidator(_cpulist, json_schema_input_type=_CpuListText | _Count)]
_TaskText = Annotated[str, Field(pattern="^of:.+$", title="`of:NAME`")]
CpuListOrTask = Annotated[
    int | str,
    BeforeValidator(_cpulist_or_task, json_schema_input_type=_CpuListText | _TaskText | _Count),
]
Version = Annotated[str, BeforeValidator(_version, json_schema_input_type=str)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# -- The schema -----------------------------------------------------------------------------------


class Smp(_Model):
    """QEMU's ``-smp`` words.  A word left out is 1, except that ``cores`` fills up the CPUs."""

    sockets: int | None = Field(None, ge=1, description="sockets of the machine")
    dies: int | None = Field(None, ge=1, description="dies per socket")
    cores: int | None = Field(None, ge=1, description="cores per die")
    threads: int | None = Field(None, ge=1, description="hardware threads per core")


class Machine(_Model):
    """The machine: CPUs, what they share, and the tick."""

    cpus: int = Field(ge=1, le=NR_CPUS_MAX, description="number of emulated CPUs")
    smp: Smp | None = Field(None, description="how the CPUs are arranged; one socket if left out")
    llc: list[CpuList] | None = Field(
        None,
        description="groups that share a last-level cache; left out: one per die; []: none share",
    )
    clusters: list[CpuList] | None = Field(
        None, description="groups of cores that share an L2 within their LLC; left out: none"
    )
    nodes: list[CpuList] | None = Field(None, description="NUMA nodes; left out: one")
    node_distance: list[list[int]] | None = Field(
        None, description="row per node, 10 on the diagonal; left out: 20 elsewhere"
    )
    hz: Literal[100, 250, 300, 1000] = Field(1000, description="ticks per second")
    memory: Size = Field(
        4 << 30, description="bytes that could be dirty: free memory and file pages"
    )
    host_cpus: CpuList | None = Field(
        None, description="host CPUs that carry the emulated ones, round robin; left out: all"
    )
    take_turns: bool = Field(
        False, description="all CPUs share one host thread, as in QEMU's TCG (inline engine only)"
    )
    turn: Duration = Field(
        0, description="with `take_turns`: a timer that serves nobody expires so often"
    )
    idle: Literal["poll", "halt"] = Field("halt", description="what the idle loop does")
    irq_time_accounting: bool = Field(
        False, description="hard and soft interrupt time is not task time"
    )


class WorkqueueOptions(_Model):
    """How the kernel's workqueues are set up."""

    unbound: list[str] = Field(
        default_factory=list,
        description="workqueues that are made WQ_UNBOUND, by their names without the disk: `[dio]`",
    )
    affinity_scope: Literal["cpu", "smt", "cache", "numa", "system"] | None = Field(
        None,
        description="pods of unbound workqueues, from 6.6 on; left out: cache (to 6.5 always numa)",
    )
    affinity_strict: bool | None = Field(
        None, description="workers may not leave their pod, from 6.6 on (to 6.5 they never may)"
    )
    cpumask: CpuList | None = Field(
        None, description="CPUs for unbound work, `/sys/devices/virtual/workqueue/cpumask`"
    )
    max_active: dict[str, int] = Field(
        default_factory=dict, description="items of a workqueue that may be active, by its name"
    )
    power_efficient: bool = Field(
        False, description="power-efficient workqueues are unbound, `workqueue.power_efficient`"
    )
    cpu_intensive_thresh: Duration | None = Field(
        None,
        description="an item that runs longer counts as CPU_INTENSIVE, from 6.6 on; 0: none does; "
        "left out: 10 ms",
    )
    create_delay: Duration = Field(
        0,
        description="creating a worker of a bound pool blocks so long, as where memory is short, and "
        "rescuers help out",
    )
    watchdog_thresh: Duration = Field(
        30_000_000_000,
        description="a work list that does not move for longer is reported in the log; 0: none is",
    )


class Kernel(_Model):
    """The emulated kernel: a version and every switch on top of it, by kernel names."""

    version: Version = Field(
        "5.4", description="kernel version, quoted: 5.4, 5.6, 5.10, 5.15, 6.1, 6.6 or 6.12"
    )
    preset: str | None = Field(None, description="sysctls by tuned profile name, `config/presets`")
    sysctl: dict[str, int] = Field(
        default_factory=dict, description="sysctls by full name, plain numbers (ns)"
    )
    features: dict[str, bool] | list[str] = Field(
        default_factory=dict, description="sched features: `{WA_BIAS: false}` or `[NO_WA_BIAS]`"
    )
    policies: list[str] = Field(
        default_factory=list, description="remedies of the thread by name, see below"
    )
    rules: dict[str, bool | int] = Field(
        default_factory=dict, description="single rules, whatever version and policies say"
    )
    completion: str = Field(
        "bound",
        description="where a finished direct write's work goes: a completion policy, see below",
    )
    rcu_callbacks: bool = Field(
        False, description="IO leaves RCU callbacks, so the next tick of its CPU raises RCU"
    )
    rcu_needs_cpu: bool = Field(
        False, description="with `rcu_callbacks`: a CPU that idles keeps its tick for them"
    )
    workqueue: WorkqueueOptions = Field(
        default_factory=lambda: WorkqueueOptions.model_validate({}),
        description="workqueues and their affinity",
    )


def _costs_schema(schema: dict[str, Any]) -> None:
    for name in COST_NAMES:
        per_name = name == VERIFY
        number = {"type": "integer", "minimum": 0}
        mapping = {"type": "object", "additionalProperties": number}
        schema["properties"][name] = mapping if per_name else number
    schema["additionalProperties"] = False


class CostsChoice(BaseModel):
    """What every act costs: a preset of ``config/costs`` and, by name, what differs from it."""

    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, json_schema_extra=_costs_schema
    )

    preset: str = Field("server", description="file name in `config/costs`")


class ScsiDebug(_Model):
    """A scsi_debug disk: RAM behind a timer on the submitting CPU; the module's parameter names."""

    driver: Literal["scsi_debug"]
    ndelay: DurationOrNs = Field(0, description="service time; 0: `delay` counts")
    delay: int = Field(1, ge=0, description="service time in jiffies; 0: inside queuecommand()")
    submit_queues: int = Field(1, ge=1, description="hardware queues")
    max_queue: int = Field(192, ge=1, le=192, description="commands in flight per queue")
    dev_size_mb: int = Field(8, ge=1, description="size in MiB")
    sector_size: Literal[512, 4096] = Field(512, description="bytes per sector")
    dix: Literal[0, 1] = Field(0, description="protection information in the host")
    dif: Literal[0, 1, 2, 3] = Field(0, description="protection type")
    opts: int = Field(
        0,
        ge=0,
        description="injections: 2 medium error at sector 0x1234, 4 lost, 16 transport error",
    )
    every_nth: int = Field(0, ge=0, description="with `opts` 4 or 16: every so manieth command")
    flush: Duration = Field(
        0, description="how long a flush of its volatile cache takes; 0: it has none"
    )
    fua: bool = Field(False, description="with such a cache: it can write past it")
    timeout: Duration = Field(30_000_000_000, description="of a request; whole milliseconds")
    scheduler: Literal["mq-deadline", "none"] | None = Field(
        None, description="elevator; left out: mq-deadline with one hardware queue, else none"
    )
    rq_affinity: Literal[0, 1, 2] = Field(1, description="steering of completions, as in sysfs")
    nr_requests: int | None = Field(
        None, ge=1, le=1024, description="requests; left out: what the block layer derives"
    )
    schedules: bool = Field(True, description="announce service times ahead; same results")


class NullBlk(_Model):
    """A null_blk disk; the module's parameter names."""

    driver: Literal["null_blk"]
    irqmode: Literal[0, 1, 2] = Field(1, description="0 in queue_rq, 1 softirq, 2 timer")
    completion_nsec: DurationOrNs = Field(10_000, description="service time with irqmode 2")
    hw_queue_depth: int = Field(64, ge=1, le=10240, description="tags per hardware queue")
    submit_queues: int = Field(1, ge=1, description="hardware queues")
    queue_mode: Literal[0, 2] = Field(2, description="0: bios, no block layer; 2: multi-queue")
    memory_backed: bool = Field(
        False,
        description="copy data in queue_rq(), which may sleep: an elevator's queue is kblockd's",
    )
    gb: int = Field(250, ge=1, description="size in GiB")
    timeout: Duration = Field(30_000_000_000, description="of a request; whole milliseconds")
    bs: Literal[512, 4096] = Field(512, description="bytes per sector")
    scheduler: Literal["mq-deadline", "none"] | None = Field(
        None, description="elevator; left out: mq-deadline with one hardware queue, else none"
    )
    rq_affinity: Literal[0, 1, 2] = Field(1, description="steering of completions, as in sysfs")
    nr_requests: int | None = Field(
        None, ge=1, le=1024, description="requests; left out: what the block layer derives"
    )
    schedules: bool = Field(True, description="announce service times ahead; same results")


class _VectorDisk(_Model):
    size_gb: int = Field(256, ge=1, description="size in GiB")
    scheduler: Literal["mq-deadline", "none"] | None = Field(
        None, description="elevator; left out: mq-deadline with one hardware queue, else none"
    )
    rq_affinity: Literal[0, 1, 2] = Field(1, description="steering of completions, as in sysfs")
    nr_requests: int | None = Field(
        None, ge=1, le=1024, description="requests; left out: what the block layer derives"
    )
    timeout: Duration = Field(
        30_000_000_000, description="of a request (`queue/io_timeout`); whole milliseconds"
    )
    reset_time: Duration = Field(100_000_000, description="how long a reset of the device takes")
    flush: Duration = Field(
        0, description="how long a flush of its volatile cache takes; 0: it has none"
    )
    fua: bool = Field(False, description="with such a cache: it can write past it")


class _FlashDisk(_VectorDisk):
    read: Duration | None = Field(
        None, description="median of a 4 KiB read; left out: the preset's"
    )
    write: Duration | None = Field(
        None, description="median of a 4 KiB write; left out: the preset's"
    )
    sigma: float | None = Field(
        None, ge=0, le=2, description="spread of the lognormal; left out: the preset's"
    )
    units: int | None = Field(
        None, ge=1, description="requests served at once; left out: the preset's"
    )


class Nvme(_FlashDisk):
    """An NVMe disk: queues with managed vectors, completions ended in the interrupt; its key is nvme0n1."""

    driver: Literal["nvme"]
    preset: Literal["optane", "p4500", "generic"] = Field(
        "generic", description="latency profile, see `emulator/device/latency.py`"
    )
    vectors: int | None = Field(
        None, ge=1, description="interrupt vectors for IO; left out: one per CPU"
    )
    depth: int = Field(1023, ge=2, le=4095, description="tags per queue")
    coalesce_threshold: int = Field(
        0, ge=0, le=255, description="feature 08h: completions that wait, less one"
    )
    coalesce_time: Duration = Field(0, description="feature 08h: how long they wait; 0: not at all")


class VirtioBlk(_FlashDisk):
    """A virtio_blk disk: one queue, whose interrupt has one CPU."""

    driver: Literal["virtio_blk"]
    preset: Literal["host", "fast"] = Field(
        "host", description="latency profile, see `emulator/device/latency.py`"
    )
    irq_cpu: int = Field(0, ge=0, description="the CPU that its interrupt comes to")
    depth: int = Field(128, ge=2, le=1024, description="requests in the ring")


class SataSsd(_FlashDisk):
    """A SATA SSD behind AHCI: one queue of 32 commands, whose interrupt has one CPU."""

    driver: Literal["sata_ssd"]
    preset: Literal["generic"] = Field(
        "generic", description="latency profile, see `emulator/device/latency.py`"
    )
    irq_cpu: int = Field(0, ge=0, description="the CPU that its interrupt comes to")
    depth: int = Field(32, ge=2, le=32, description="NCQ commands")


class HardDisk(_VectorDisk):
    """A disk that turns, behind AHCI: seek, rotation, transfer, NCQ; one interrupt with one CPU."""

    driver: Literal["hdd"]
    preset: Literal["7200", "5400"] = Field(
        "7200", description="mechanics, see `emulator/device/hdd.py`"
    )
    irq_cpu: int = Field(0, ge=0, description="the CPU that its interrupt comes to")
    ncq: int = Field(
        32, ge=1, le=32, description="commands that the disk chooses among; 1: in order"
    )


Disk = Annotated[
    ScsiDebug | NullBlk | Nvme | VirtioBlk | SataSsd | HardDisk, Field(discriminator="driver")
]

#: Driver name -> its part of the schema.
DISK_MODELS: dict[str, type[BaseModel]] = {
    "scsi_debug": ScsiDebug,
    "null_blk": NullBlk,
    "nvme": Nvme,
    "virtio_blk": VirtioBlk,
    "sata_ssd": SataSsd,
    "hdd": HardDisk,
}


class Filesystem(_Model):
    """A file system on a disk of its own; its key is the mount point."""

    type: Literal["xfs", "none"] = Field("xfs", description="none: the raw block device")
    disk: str = Field(description="a disk of the box")
    block_size: Size = Field(4096, description="bytes per block")


class Workload(_Model):
    """A fio job file, a task file of rt-app or a built-in program, and who runs it where."""

    fio: str | None = Field(
        None, description="a fio job file, beside the box file or in `config/jobs`"
    )
    rtapp: str | None = Field(
        None, description="a JSON file of rt-app, beside the box file or in `config/jobs`"
    )
    section: str | None = Field(None, description="one job of the file; left out: all")
    env: dict[str, str] = Field(
        default_factory=dict, description="what `${NAME}` stands for in the job file"
    )
    filesystem: str | None = Field(None, description="mount point; needed if there are several")
    program: str | None = Field(None, description="a built-in program, see below")
    params: dict[str, int | str] = Field(default_factory=dict, description="the program's own")
    name: str | None = Field(None, min_length=1, max_length=15, description="comm of the tasks")
    nice: int | None = Field(None, ge=-20, le=19, description="wins over the job file's")
    policy: Literal["normal", "batch", "idle"] = Field(
        "normal", description="scheduling policy, as chrt sets it"
    )
    cpus_allowed: CpuListOrTask | None = Field(
        None,
        description="wins over the job file's; `of:NAME`: the CPU on which that task is then "
        "(programs with a `start`)",
    )
    slice: Duration | None = Field(
        None,
        description="slice that its tasks ask for with `sched_setattr()`, 100us to 100ms, from 6.12 "
        "on; left out or 0: the base slice",
    )
    count: int = Field(1, ge=1, le=4096, description="how many of it")
    start: Duration | None = Field(
        None, description="when it starts; left out: the seed says, within 8 ticks of boot"
    )
    start_cpu: int | None = Field(None, ge=0, description="first CPU; left out: fork placement")
    figure: bool | None = Field(
        None, description="counts as a submitter in the figures; left out: fio does"
    )


class Event(_Model):
    """A command at an emulated time."""

    at: Duration = Field(description="when")
    do: str = Field(description="a command line of `ctl`, see below")


class Expect(_Model):
    """What a figure of the result must be: a value, or bounds (inclusive)."""

    figure: str = Field(min_length=1, description="path in results.json, dots between names")
    min: int | float | None = Field(None, description="least value")
    max: int | float | None = Field(None, description="greatest value")
    equals: int | float | None = Field(None, description="the value")


class Trace(_Model):
    """What is recorded."""

    off: list[str] = Field(default_factory=list, description="events that are not recorded")


class BoxFile(_Model):
    """A box: one emulated machine, what runs on it, what happens to it, what must come out."""

    description: str = Field(min_length=1, description="one line, shown by `boxes`")
    like: str | None = Field(
        None,
        description="a box that ships, or a file: what is not said here is taken from it, but for "
        "its `description` and `expect`",
    )
    seed: int = Field(
        1,
        ge=0,
        lt=1 << 63,
        description="of what is chance: when each workload without a `start` starts, "
        "within 8 ticks of boot, when each CPU was last balanced, and the order of fio's blocks",
    )
    duration: Duration = Field(description="emulated time of the run")
    warmup: Duration = Field(0, description="figures are taken after this")
    machine: Machine
    kernel: Kernel = Field(default_factory=lambda: Kernel.model_validate({}))
    costs: CostsChoice = Field(default_factory=lambda: CostsChoice.model_validate({}))
    disks: dict[str, Disk] = Field(default_factory=dict, description="disks by name")
    filesystems: dict[str, Filesystem] = Field(
        default_factory=dict, description="file systems by mount point"
    )
    workloads: list[Workload] = Field(min_length=1, description="what runs")
    events: list[Event] = Field(default_factory=list, description="what happens on the way")
    expect: list[Expect] = Field(default_factory=list, description="what must come out")
    trace: Trace = Field(default_factory=lambda: Trace.model_validate({}))


# -- The box --------------------------------------------------------------------------------------


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


def dump_plain(data: Any) -> str:
    """Return plain data as YAML text, keys in their own order."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)


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
    if file.is_file():
        return file
    candidates = [config / name, config / f"{name}.yaml"]
    if file.name == name:
        candidates = [config / "boxes" / name, config / "boxes" / f"{name}.yaml"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    shipped = [one.stem for one in _shipped("boxes")]
    guess = did_you_mean(name, shipped) or "; `boxes` lists those that ship"
    message = f"there is no such box{guess}"
    raise BoxError([Problem(Place(name), "", message)])


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
    try:
        return BoxFile.model_validate(data), frozenset()
    except ValidationError as error:
        paths = [report_error(dict(one), data, _keys_at, report) for one in error.errors()]
    return _accepted(data, paths)


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
    try:
        return BoxFile.model_validate(kept), frozenset()
    except ValidationError as error:
        dirty = frozenset(str(one["loc"][0]) for one in error.errors())
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
    rules = None if kernel is None else kernel.rules
    driven = None if no_storage else {one.name: one for one in disks}
    events = resolve_events(model.events, cpus, names, model.duration, report, rules, driven)
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
        balanced_ago=balanced_ago(model.seed, cpus),
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
        job = next((one for one in candidates if one.is_file()), None)
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
        if name and file.is_file():
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
        other = beside if beside.is_file() else _find_box(like)
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
    reader = Reader(source, _compose, Report(source))
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem(Place(source), "", f"cannot be read: {error}")
        reader.report.problems.append(problem)
        return reader, None
    return reader, reader.read(text)


def _compose(text: str) -> Node | NotYaml | None:
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        what = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        return NotYaml(what, mark.line, mark.column) if mark else NotYaml(what)
    except yaml.YAMLError as error:
        return NotYaml(" ".join(str(error).split()))
    except RecursionError:
        return NotYaml("nested too deeply")
    return None if tree is None else _node(tree, set())


# `seen` holds the nodes met so far: a node met again was written as an alias.
def _node(tree: yaml.Node, seen: set[int]) -> Node:
    line, column = tree.start_mark.line, tree.start_mark.column
    if id(tree) in seen:
        return Node("alias", line, column)
    seen.add(id(tree))
    tag = str(tree.tag).removeprefix("tag:yaml.org,2002:")
    if isinstance(tree, yaml.MappingNode):
        pairs = tuple((_node(key, seen), _node(value, seen)) for key, value in tree.value)
        return Node("mapping", line, column, tag, pairs=pairs)
    if isinstance(tree, yaml.SequenceNode):
        items = tuple(_node(one, seen) for one in tree.value)
        return Node("sequence", line, column, tag, items=items)
    assert isinstance(tree, yaml.ScalarNode)
    return Node("scalar", line, column, tag, str(tree.value), tree.style is not None)


_MODELS: dict[str, type[BaseModel]] = {
    "machine": Machine,
    "kernel": Kernel,
    "trace": Trace,
    "filesystems": Filesystem,
    "workloads": Workload,
    "events": Event,
    "expect": Expect,
}


# The keys that a mapping of the box may have.
def _keys_at(path: Path, data: Any) -> list[str]:
    if not path:
        return list(BoxFile.model_fields)
    if path == ("machine", "smp"):
        return list(Smp.model_fields)
    if path[0] == "disks":
        driver = child(child_at(data, path), "driver")
        return list(DISK_MODELS.get(str(driver), ScsiDebug).model_fields)
    model = _MODELS.get(str(path[0]))
    return list(model.model_fields) if model else []


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
