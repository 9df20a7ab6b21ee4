"""Reads a fio job file: text in, jobs with checked options out.

Theory of operation
-------------------
The files are fio's own (``fio JOBFILE`` must accept them too): sections in brackets, ``key=value``
lines, ``;`` and ``#`` start a comment anywhere in a line, options of ``[global]`` hold for the
sections below it, a section name may come twice and then means two jobs.  ``include FILE`` takes
options from another file, which opens no sections of its own.  ``${NAME}`` stands for what the box
file says in ``env:`` (never for the environment of whoever runs it), ``$ncpus`` and ``$pagesize`` for
the emulated machine's; a number may be a product of them (``2*$ncpus``).

Every option is kept with its file, line and column, so that a mistake can be pointed at; all mistakes
are found in one pass.  What the options mean is in :mod:`emulator.workload.fio_options`, how jobs
wait for each other in :mod:`emulator.workload.fio_groups`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from emulator.workload.fio_options import ALIASES, FLAGS, IGNORED, OPTIONS, read_ignored
from emulator.workload.fio_refused import REFUSED
from emulator.workload.fio_sizes import Sizes
from emulator.workload.latency import PERCENTILES

PAGE_SIZE = 4096
#: How deep files may include files.
INCLUDES_MAX = 8

#: From the file that includes and the name written there: the file's own name, its text; or None.
Include = Callable[[str, str], tuple[str, str] | None]

READ_MIX_DEFAULT = 50
LOG_KINDS = ("bw", "lat", "iops")
SYNC_ENGINES = frozenset({"psync", "sync", "pvsync", "pvsync2"})
_DIRECTIONS = {
    "read": (100, True),
    "write": (0, True),
    "randread": (100, False),
    "randwrite": (0, False),
    "rw": (-1, True),
    "readwrite": (-1, True),
    "randrw": (-1, False),
}


@dataclass(frozen=True, slots=True)
class JobProblem:
    """One mistake in a job file; line and column count from 1."""

    line: int
    column: int
    option: str
    message: str
    source: str = ""  #: the included file that it is in; empty: the job file itself


@dataclass(frozen=True, slots=True)
class JobOption:
    """One ``name=value`` line, under the option's main name."""

    name: str
    value: str | None  #: None: there was no ``=``
    line: int
    column: int
    value_column: int
    source: str = ""

    def problem(self, message: str) -> JobProblem:
        """Return a mistake in the option's value."""
        return JobProblem(self.line, self.value_column, self.name, message, self.source)


@dataclass(slots=True)
class JobSection:
    """One job: its name and its options, those of ``[global]`` included."""

    name: str
    line: int
    options: dict[str, JobOption] = field(default_factory=dict)
    shared: dict[str, JobOption] = field(default_factory=dict)  #: those of ``[global]`` alone

    def problem(self, option: str, message: str) -> JobProblem:
        """Return a mistake that an option makes, at its value; at the section if it is not given."""
        found = self.options.get(option)
        return found.problem(message) if found else JobProblem(self.line, 1, option, message)

    def own(self) -> dict[str, str]:
        """Return what the section itself says, as written."""
        return {
            name: "1" if option.value is None else option.value
            for name, option in self.options.items()
            if self.shared.get(name) is not option
        }

    def inherited(self) -> dict[str, str]:
        """Return what ``[global]`` says, as written."""
        return {
            name: "1" if option.value is None else option.value
            for name, option in self.shared.items()
        }


@dataclass(slots=True)
class FioJob:
    """One job with every option read: ns, bytes, a CPU mask; defaults are fio's."""

    name: str
    section: JobSection
    ioengine: str = "psync"
    rw: str = "read"
    rwmixread: int = -1  #: -1: not given
    rwmixwrite: int = -1
    block_sizes: tuple[int | None, int | None] = (None, None)
    bssplit: tuple[Sizes | None, Sizes | None] = (None, None)
    bsrange: tuple[Sizes | None, Sizes | None] = (None, None)
    direct: bool = False
    buffered: bool | None = None
    hipri: bool = False
    iodepth: int = 1
    iodepth_batch: int = 1
    iodepth_batch_complete_min: int = 1
    iodepth_batch_complete_max: int = 0  #: 0: the same as the minimum
    iodepth_low: int = 0  #: 0: iodepth
    size: int = 0
    filesize: int = 0
    io_size: int = 0
    number_ios: int = 0
    loops: int = 1
    offset: int = 0
    offset_increment: int = 0
    filename: str = ""
    directory: str = ""
    nrfiles: int = 0  #: 0: one per filename
    service: tuple[str, int] = ("roundrobin", 1)
    overwrite: bool = False
    fallocate: str = "native"
    norandommap: bool = False
    randseed: int = 0
    runtime_ns: int = 0
    ramp_ns: int = 0
    startdelay_ns: int = 0
    time_based: bool = False
    numjobs: int = 1
    group_reporting: bool = False
    new_group: bool = False
    stonewall: bool = False
    wait_for: str = ""
    fsync: int = 0
    fdatasync: int = 0
    end_fsync: bool = False
    sync: str = ""
    rate: tuple[int | None, int | None] = (None, None)
    rate_iops: tuple[int | None, int | None] = (None, None)
    thinktime_ns: int = 0
    thinktime_spin_ns: int = 0
    thinktime_blocks: int = 1
    thinktime_blocks_type: str = "complete"
    thinktime_iotime_ns: int = 0
    verify: str = ""
    do_verify: bool = True
    verify_fatal: bool = False
    percentile_list: tuple[float, ...] = PERCENTILES
    log_avg_msec: int = 0  #: 0: logs have a line per IO
    nice: int = 0
    prio: int = 0
    prioclass: int = 0  #: 0: none
    cpus_allowed: int = 0  #: 0: all
    cpus_allowed_policy: str = "shared"

    @property
    def ioprio(self) -> int:
        """Return what fio calls ioprio_set() with; 0: it does not.  Without a class it is best effort."""
        given = {"prio", "prioclass"} & self.section.options.keys()
        return (self.prioclass or 2) << 13 | self.prio if given else 0

    @property
    def logs(self) -> dict[str, str]:
        """Return which logs it writes: bw, lat, iops, and how their files' names begin."""
        options = {kind: self.section.options.get(f"write_{kind}_log") for kind in LOG_KINDS}
        return {kind: option.value or self.name for kind, option in options.items() if option}

    @property
    def bs(self) -> int:
        """Return the block size of reads, of several the smallest."""
        return self._least(0)

    @property
    def write_bs(self) -> int:
        """Return the block size of writes, of several the smallest."""
        return self._least(1)

    def sizes(self, rw: int) -> Sizes:
        """Return the sizes of a direction's blocks; none if there is but one."""
        sizes = self.bssplit[rw] or self.bsrange[rw] or []
        return sizes if len({size for size, _ in sizes}) > 1 else []

    def _least(self, rw: int) -> int:
        sizes = self.bssplit[rw] or self.bsrange[rw]
        return min(size for size, _ in sizes) if sizes else self.block_sizes[rw] or 4096

    @property
    def sized(self) -> bool:
        """Whether the blocks of a direction in use have several sizes."""
        return bool((self.reads and self.sizes(0)) or (self.writes and self.sizes(1)))

    @property
    def read_mix(self) -> int:
        """Return the percentage of IOs that are reads."""
        percent, _ = _DIRECTIONS[self.rw]
        if percent >= 0:
            return percent
        if self.rwmixread >= 0:
            return self.rwmixread
        return 100 - self.rwmixwrite if self.rwmixwrite >= 0 else READ_MIX_DEFAULT

    @property
    def sequential(self) -> bool:
        """Whether blocks are taken in order."""
        return _DIRECTIONS[self.rw][1]

    @property
    def reads(self) -> bool:
        """Whether it reads."""
        return self.read_mix > 0

    @property
    def writes(self) -> bool:
        """Whether it writes."""
        return self.read_mix < 100

    @property
    def is_direct(self) -> bool:
        """Whether IO goes past the page cache."""
        return self.direct if self.buffered is None else not self.buffered

    @property
    def is_sync(self) -> bool:
        """Whether the engine does one IO at a time."""
        return self.ioengine in SYNC_ENGINES

    @property
    def names(self) -> list[str]:
        """Return the files that ``filename`` names."""
        return [name for name in self.filename.split(":") if name]

    @property
    def nr_files(self) -> int:
        """Return how many files one process of the job has."""
        return self.nrfiles or max(1, len(self.names))

    @property
    def file_bytes(self) -> int:
        """Return how much of each file the job uses: ``filesize``, or its share of ``size``."""
        return self.filesize or self.size // self.nr_files

    @property
    def verifies(self) -> bool:
        """Whether blocks carry checksums."""
        return self.verify not in ("", "0", "none")


# -- Lines --------------------------------------------------------------------------------------

_COMMENT = re.compile(r"[;#].*")
_HEADER = re.compile(r"\[([^\]]+)\]")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_INCLUDE = re.compile(r"include\s+(\S.*)")
_PRODUCT = re.compile(r"[0-9]{1,9}(?:\*[0-9]{1,9}){1,4}", re.ASCII)


def included_name(raw: str) -> str:
    """Return the file that a line includes, empty if it includes none."""
    found = _INCLUDE.fullmatch(_COMMENT.sub("", raw).strip())
    return found[1] if found else ""


class JobReader:
    """Reads one job file and what it includes."""

    def __init__(
        self,
        include: Include | None = None,
        env: Mapping[str, str] | None = None,
        cpus: int = 1,
    ) -> None:
        self.include = include
        self.env = env or {}
        self.keywords = {"$ncpus": str(cpus), "$pagesize": str(PAGE_SIZE)}
        self.sections: list[JobSection] = []
        self.problems: list[JobProblem] = []
        self.shared: dict[str, JobOption] = {}
        self.target: dict[str, JobOption] | None = None

    def read(self, text: str, source: str = "", depth: int = 0) -> None:
        """Read a file's lines; an included one adds options to the section that is open."""
        for number, raw in enumerate(text.splitlines(), start=1):
            line = _COMMENT.sub("", raw).rstrip()
            column = len(line) - len(line.lstrip()) + 1
            body = line.strip()
            if not body:
                continue
            place = (number, column, body, source)
            included = included_name(raw)
            if body.startswith("["):
                self._open(place, depth)
            elif included:
                self._include(place, included, depth)
            else:
                self._option(place)

    def _problem(self, place: tuple[int, int, str, str], message: str) -> None:
        line, column, body, source = place
        self.problems.append(JobProblem(line, column, body, message, source))

    def _open(self, place: tuple[int, int, str, str], depth: int) -> None:
        header = _HEADER.fullmatch(place[2])
        if header is None or depth:
            why = (
                "not a section: write [name]" if not header else "an included file has no sections"
            )
            self._problem(place, why)
            self.target = {}  # Its options are still read, so that they are checked too.
        elif header[1] == "global":
            self.target = self.shared
        else:
            section = JobSection(header[1], place[0], dict(self.shared), dict(self.shared))
            self.sections.append(section)
            self.target = section.options

    def _include(self, place: tuple[int, int, str, str], name: str, depth: int) -> None:
        found = self.include(place[3], name) if self.include is not None else None
        if depth >= INCLUDES_MAX:
            self._problem(place, f"more than {INCLUDES_MAX} files deep")
        elif found is None:
            self._problem(place, f"there is no file {name!r} beside this one")
        else:
            self.read(found[1], found[0], depth + 1)

    # One line that is neither empty nor a header.
    def _option(self, place: tuple[int, int, str, str]) -> None:
        line, column, body, source = place
        written, equals, value = body.partition("=")
        written = written.rstrip()
        name = ALIASES.get(written, written)
        value_column = column + body.find("=") + 1 if equals else column
        at_name, at_value = (line, column, written, source), (line, value_column, written, source)
        if name not in OPTIONS and name not in IGNORED:
            self._problem(at_name, _unknown(written))
        elif not equals and name not in FLAGS:
            self._problem(at_name, f"needs a value: {written}=…")
        elif equals and not value:
            self._problem(at_value, "has no value after the =")
        elif equals and value[0].isspace():
            message = f"fio misreads a space after the =: write {written}={value.strip()}"
            self._problem(at_value, message)
        elif self.target is None:
            self._problem(place, "an option before the first [section]")
        elif name in OPTIONS:
            text = self._substituted(at_value, value) if equals else None
            if text is not None or not equals:
                option = JobOption(name, text, line, column, value_column, source)
                self.target[option.name] = option
        elif equals:
            try:
                read_ignored(name, value)
            except ValueError as error:
                self._problem(at_value, str(error))

    # None if a variable is not known, which has been said then.
    def _substituted(self, place: tuple[int, int, str, str], value: str) -> str | None:
        for name in _VARIABLE.findall(value):
            if name not in self.env:
                self._problem(place, f"${{{name}}} is not known: say env: {{{name}: …}} in the box")
                return None
        value = _VARIABLE.sub(lambda match: self.env[match[1]], value)
        for keyword, number in self.keywords.items():
            value = value.replace(keyword, number)
        if "$" in value:
            self._problem(place, f"{value!r}: fio's $mb_memory and others are not emulated")
            return None
        if _PRODUCT.fullmatch(value):
            product = 1
            for factor in value.split("*"):
                product *= int(factor)
            return str(product)
        return value


def parse_sections(
    text: str,
    include: Include | None = None,
    env: Mapping[str, str] | None = None,
    cpus: int = 1,
) -> tuple[list[JobSection], list[JobProblem]]:
    """Return the jobs of a job file, ``[global]`` merged into them, and what is odd in its lines."""
    reader = JobReader(include, env, cpus)
    reader.read(text)
    if not reader.sections and not reader.problems:
        message = "there is no job: fio needs a [section] of its own"
        reader.problems.append(JobProblem(1, 1, "", message))
    return reader.sections, reader.problems


def _unknown(name: str) -> str:
    if name in REFUSED:
        return f"is not emulated: {REFUSED[name]}"
    close = difflib.get_close_matches(name, [*OPTIONS, *ALIASES], n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"the emulator does not know the option {name!r}{hint}"


# -- Jobs ---------------------------------------------------------------------------------------


def read_job(section: JobSection) -> tuple[FioJob, list[JobProblem]]:
    """Return a section as a job with fio's defaults, and every value or combination refused."""
    job = FioJob(section.name, section)
    problems: list[JobProblem] = []
    for option in section.options.values():
        attribute, read = OPTIONS[option.name]
        try:
            value = read("1" if option.value is None else option.value)
        except ValueError as error:
            problems.append(option.problem(str(error)))
            continue
        if attribute:
            setattr(job, attribute, value)
    if not problems:
        impossible = [*_impossible(job), *_sizes(job), *_verification(job)]
        problems = [section.problem(option, message) for option, message in impossible]
    return job, problems


# What cannot be emulated, or not be at all, although every value alone is fine.
def _impossible(job: FioJob) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if not job.is_direct:
        at = "direct" if job.buffered is None else "buffered"
        if job.reads or (job.verifies and job.do_verify):
            found.append((at, "buffered reads are not emulated: the job needs direct=1"))
        elif job.ioengine not in SYNC_ENGINES:
            found.append((at, f"buffered writes of {job.ioengine} are not emulated; psync's are"))
        elif job.sync:
            found.append((at, "buffered writes of O_SYNC files are not emulated"))
    if "hipri" in job.section.options and job.ioengine not in ("io_uring", "pvsync2"):
        found.append(("hipri", f"{job.ioengine} cannot poll: io_uring and pvsync2 can"))
    elif job.hipri and not job.is_direct:
        found.append(("hipri", "only direct IO is polled"))
    if job.time_based and not job.runtime_ns:
        found.append(("time_based", "a time_based job needs a runtime"))
    if job.thinktime_spin_ns > job.thinktime_ns:
        found.append(("thinktime_spin", "longer than thinktime, of which it is a part"))
    if job.thinktime_iotime_ns and not job.thinktime_ns:
        found.append(("thinktime_iotime", "says when thinktime comes, but there is none"))
    if job.rwmixread >= 0 and job.rwmixwrite >= 0 and job.rwmixread + job.rwmixwrite != 100:
        found.append(("rwmixwrite", "rwmixread and rwmixwrite do not make 100"))
    if any(job.rate) and any(job.rate_iops):
        found.append(("rate_iops", "rate and rate_iops exclude each other"))
    if job.bssplit[0] and job.bsrange[0]:
        found.append(("bssplit", "bssplit and bsrange exclude each other"))
    if job.sized and job.logs:
        kind = next(iter(job.logs))
        found.append((f"write_{kind}_log", "a log of blocks of several sizes is not emulated"))
    if job.nrfiles and job.names and job.nrfiles != len(job.names):
        found.append(("nrfiles", f"filename names {len(job.names)}"))
    if job.stonewall and job.wait_for:
        found.append(("wait_for", "stonewall waits for all jobs before already"))
    return found


def _sizes(job: FioJob) -> list[tuple[str, str]]:
    sizes = [bs for bs, used in ((job.bs, job.reads), (job.write_bs, job.writes)) if used]
    for bs in sizes:
        if bs % 512 and job.is_direct:
            option = next((name for name in ("bssplit", "bsrange") if getattr(job, name)[0]), "bs")
            return [(option, f"{bs} is not a multiple of 512, which direct IO needs")]
    if not job.file_bytes:
        return [("size", "the job needs a size (or filesize)")]
    if job.size and job.filesize and job.size != job.filesize * job.nr_files:
        return [("filesize", "a size and a different filesize are not emulated")]
    multiples = [("size", job.file_bytes, bs) for bs in dict.fromkeys(sizes)]
    multiples += [("offset", job.offset, min(sizes))]
    multiples += [("offset_increment", job.offset_increment, min(sizes))]
    return [
        (name, f"{value} is not a multiple of bs={bs}")
        for name, value, bs in multiples
        if value % bs
    ]


#: What a job that verifies may not have; it reads back, pass by pass, what it has written itself.
_UNVERIFIED: dict[str, Callable[[FioJob], object]] = {
    "rw": lambda job: job.reads and job.writes,
    "bssplit": lambda job: job.sized and job.bssplit[0],
    "bsrange": lambda job: job.sized and job.bsrange[0],
    "nrfiles": lambda job: job.nr_files > 1,
    "filename": lambda job: job.numjobs > 1 and job.filename,
    "norandommap": lambda job: job.norandommap,
    "io_size": lambda job: job.io_size,
    "number_ios": lambda job: job.number_ios,
    "offset": lambda job: job.offset or job.offset_increment,
    "rate": lambda job: any(job.rate) or any(job.rate_iops),
    "fsync": lambda job: job.fsync or job.fdatasync,
}


def _verification(job: FioJob) -> list[tuple[str, str]]:
    if not job.verifies:
        return []
    return [
        (option, f"verify together with {option} is not emulated")
        for option, given in _UNVERIFIED.items()
        if given(job)
    ]


def instance_cpus(job: FioJob, instance: int, every: int) -> int:
    """Return the CPU mask of one of the job's ``numjobs`` processes; ``every`` is all CPUs."""
    mask = job.cpus_allowed or every
    if job.cpus_allowed_policy == "shared" or not job.cpus_allowed:
        return mask
    for _ in range(instance % mask.bit_count()):
        mask &= mask - 1
    return mask & -mask
