"""Reads a fio job file: text in, jobs with checked options out.

Theory of operation
-------------------
The files are fio's own (``fio JOBFILE`` must accept them too): sections in brackets, ``key=value``
lines, ``;`` and ``#`` start a comment anywhere in a line, options of ``[global]`` hold for the
sections below it, a section name may come twice and then means two jobs.  Every option is kept
with its line and column, so that a mistake can be pointed at; all mistakes are found in one pass.

An option that fio has but this emulator does not act on is refused, never ignored: the result
would look like an answer.  Readings of fio that no author can have meant are refused as well:
``bs = 4k`` (fio reads 4), ``size=1.5g`` (1), ``bs=4q`` (4), ``runtime=1h30`` (one microsecond).

fio's units are kept as they are (3.33, ``kb_base=1024``): ``4k``, ``4kb`` and ``4ki`` are 4096, but
``4kib`` is 4000; a bare ``runtime`` is in seconds, a bare ``thinktime`` in microseconds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from emulator.types import NSEC_PER_SEC, NSEC_PER_USEC, cpulist_parse


@dataclass(frozen=True, slots=True)
class JobProblem:
    """One mistake in a job file; line and column count from 1."""

    line: int
    column: int
    option: str
    message: str


@dataclass(frozen=True, slots=True)
class JobOption:
    """One ``name=value`` line, under the option's main name."""

    name: str
    value: str | None  #: None: there was no ``=``
    line: int
    column: int
    value_column: int


@dataclass(slots=True)
class JobSection:
    """One job: its name and its options, those of ``[global]`` included."""

    name: str
    line: int
    options: dict[str, JobOption] = field(default_factory=dict)

    def line_of(self, option: str) -> tuple[int, int]:
        """Return line and column of an option's value, or of the section if it was not given."""
        found = self.options.get(option)
        return (found.line, found.value_column) if found else (self.line, 1)


@dataclass(slots=True)
class FioJob:
    """One job with every option read: ns, bytes, a CPU mask; defaults are fio's."""

    name: str
    section: JobSection
    ioengine: str = "psync"
    rw: str = "read"
    bs: int = 4096
    direct: bool = False
    iodepth: int = 1
    iodepth_batch: int = 1
    iodepth_batch_complete_min: int = 1
    iodepth_batch_complete_max: int = 0  #: 0: the same as the minimum
    iodepth_low: int = 0  #: 0: iodepth
    size: int = 0
    filesize: int = 0
    filename: str = ""
    directory: str = ""
    overwrite: bool = False
    fallocate: str = "native"
    norandommap: bool = False
    randseed: int = 0
    runtime_ns: int = 0
    ramp_ns: int = 0
    startdelay_ns: int = 0
    time_based: bool = False
    numjobs: int = 1
    thinktime_ns: int = 0
    thinktime_spin_ns: int = 0
    thinktime_blocks: int = 1
    verify: str = ""
    do_verify: bool = True
    verify_fatal: bool = False
    nice: int = 0
    cpus_allowed: int = 0  #: 0: all
    cpus_allowed_policy: str = "shared"
    end_fsync: bool = False

    @property
    def file_bytes(self) -> int:
        """Return the size of the job's file: ``size``, or ``filesize`` alone."""
        return self.size or self.filesize


# -- Values -------------------------------------------------------------------------------------

_NUMBER = re.compile(r"(-?)(0x[0-9a-f]+|[0-9]+)([a-z]*)", re.ASCII)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_TIME_USEC = {
    "us": 1,
    "usec": 1,
    "ms": 1_000,
    "msec": 1_000,
    "s": 1_000_000,
    "sec": 1_000_000,
    "m": 60_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "hour": 3_600_000_000,
    "d": 86_400_000_000,
    "day": 86_400_000_000,
}


def fio_bytes(text: str) -> int:
    """Return an integer as fio reads it, size suffix included; raise ValueError."""
    match = _NUMBER.fullmatch(text.lower())
    if match is None:
        raise ValueError(f"{text!r} is not a whole number such as 4096, 4k or 64m")
    value = int(match[2], 16 if match[2].startswith("0x") else 10)
    value = -value if match[1] else value
    suffix = match[3]
    if suffix in ("", "b"):
        return value
    if suffix[0] not in _POWERS or suffix[1:] not in ("", "b", "i", "ib"):
        raise ValueError(f"fio has no unit {suffix!r}; it has k, m, g and t")
    base = 1000 if suffix[1:] == "ib" else 1024
    return value * int(base ** _POWERS[suffix[0]])


def fio_time_ns(text: str, bare_ns: int) -> int:
    """Return a time as fio reads it, in ns; ``bare_ns`` is the unit of a bare number."""
    match = _NUMBER.fullmatch(text.lower())
    if match is None or match[1] or match[2].startswith("0x"):
        raise ValueError(f"{text!r} is not a time such as 30s, 100ms or 10us")
    value, suffix = int(match[2]), match[3]
    if not suffix:
        return value * bare_ns
    if suffix not in _TIME_USEC:
        raise ValueError(f"fio has no unit of time {suffix!r}; it has us, ms, s, m, h and d")
    return value * _TIME_USEC[suffix] * NSEC_PER_USEC


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = fio_bytes(text)
        if not low <= value <= high:
            raise ValueError(f"{text} is outside {low}..{high}")
        return value

    return read


def _boolean(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"{text!r} is neither 0 nor 1")
    return text == "1"


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not emulated; known are {', '.join(words)}")
        return text

    return read


def _block_size(text: str) -> int:
    if "," in text:
        raise ValueError("one block size for reads and another for writes is not emulated")
    return _integer(1, 1 << 30)(text)


def _seconds(text: str) -> int:
    return fio_time_ns(text, NSEC_PER_SEC)


def _microseconds(text: str) -> int:
    return fio_time_ns(text, NSEC_PER_USEC)


def _file_size(text: str) -> int:
    if text.endswith("%"):
        raise ValueError("a percentage needs a device to take it of; give the size in bytes")
    return _integer(1, 1 << 60)(text)


_BIG = (1 << 31) - 1
_depth = _integer(0, _BIG)

#: Every option that is acted upon: how its value is read, and the attribute of FioJob it sets.
#: The empty attribute: the option says nothing that an emulated run could show.
OPTIONS: dict[str, tuple[str, Callable[[str], object]]] = {
    "name": ("name", str),
    "description": ("", str),
    "ioengine": ("ioengine", _one_of("libaio", "psync")),
    "direct": ("direct", _boolean),
    "rw": ("rw", _one_of("read", "write", "randread", "randwrite")),
    "bs": ("bs", _block_size),
    "iodepth": ("iodepth", _integer(1, _BIG)),
    "iodepth_batch": ("iodepth_batch", _depth),
    "iodepth_batch_complete_min": ("iodepth_batch_complete_min", _depth),
    "iodepth_batch_complete_max": ("iodepth_batch_complete_max", _depth),
    "iodepth_low": ("iodepth_low", _depth),
    "size": ("size", _file_size),
    "filesize": ("filesize", _file_size),
    "filename": ("filename", str),
    "directory": ("directory", str),
    "overwrite": ("overwrite", _boolean),
    "fallocate": ("fallocate", _one_of("none", "native", "posix", "keep", "0", "1")),
    "norandommap": ("norandommap", _boolean),
    "randseed": ("randseed", _integer(0, (1 << 63) - 1)),
    "runtime": ("runtime_ns", _seconds),
    "ramp_time": ("ramp_ns", _seconds),
    "startdelay": ("startdelay_ns", _seconds),
    "time_based": ("time_based", _boolean),
    "numjobs": ("numjobs", _integer(1, 1024)),
    "group_reporting": ("", _boolean),
    "invalidate": ("", _boolean),
    "end_fsync": ("end_fsync", _boolean),
    "thinktime": ("thinktime_ns", _microseconds),
    "thinktime_spin": ("thinktime_spin_ns", _microseconds),
    "thinktime_blocks": ("thinktime_blocks", _integer(1, _BIG)),
    "verify": ("verify", str),
    "do_verify": ("do_verify", _boolean),
    "verify_fatal": ("verify_fatal", _boolean),
    "nice": ("nice", _integer(-20, 19)),
    "cpus_allowed": ("cpus_allowed", cpulist_parse),
    "cpus_allowed_policy": ("cpus_allowed_policy", _one_of("shared", "split")),
}

#: Options that mean yes when they stand alone in their line.
FLAGS = frozenset({"time_based", "norandommap", "group_reporting"})

#: fio's other names for the same option.
ALIASES = {
    "readwrite": "rw",
    "blocksize": "bs",
    "iodepth_batch_submit": "iodepth_batch",
    "iodepth_batch_complete": "iodepth_batch_complete_min",
    "start_delay": "startdelay",
}


# -- Lines --------------------------------------------------------------------------------------

_COMMENT = re.compile(r"[;#].*")
_HEADER = re.compile(r"\[([^\]]+)\]")


def parse_sections(text: str) -> tuple[list[JobSection], list[JobProblem]]:
    """Return the jobs of a job file, ``[global]`` merged into them, and what is odd in its lines."""
    sections: list[JobSection] = []
    problems: list[JobProblem] = []
    shared: dict[str, JobOption] = {}
    target: dict[str, JobOption] | None = None
    for number, raw in enumerate(text.splitlines(), start=1):
        line = _COMMENT.sub("", raw).rstrip()
        column = len(line) - len(line.lstrip()) + 1
        body = line.strip()
        if not body:
            continue
        if body.startswith("["):
            header = _HEADER.fullmatch(body)
            if header is None:
                problems.append(JobProblem(number, column, body, "not a section: write [name]"))
                target = {}  # Its options are still read, so that they are checked too.
            elif header[1] == "global":
                target = shared
            else:
                sections.append(JobSection(header[1], number, dict(shared)))
                target = sections[-1].options
            continue
        option, problem = _option(body, number, column)
        if problem is not None:
            problems.append(problem)
        elif target is None:
            problems.append(
                JobProblem(number, column, body, "an option before the first [section]")
            )
        elif option is not None:
            target[option.name] = option
    if not sections and not problems:
        problems.append(JobProblem(1, 1, "", "there is no job: fio needs a [section] of its own"))
    return sections, problems


# One line that is neither empty nor a header.
def _option(body: str, line: int, column: int) -> tuple[JobOption | None, JobProblem | None]:
    written, equals, value = body.partition("=")
    written = written.rstrip()
    name = ALIASES.get(written, written)
    value_column = column + body.find("=") + 1 if equals else column
    if name not in OPTIONS:
        return None, JobProblem(line, column, written, _unknown(written))
    if not equals and name not in FLAGS:
        return None, JobProblem(line, column, written, f"needs a value: {written}=…")
    if equals and not value:
        return None, JobProblem(line, value_column, written, "has no value after the =")
    if equals and value[0].isspace():
        message = f"fio misreads a space after the =: write {written}={value.strip()}"
        return None, JobProblem(line, value_column, written, message)
    return JobOption(name, value if equals else None, line, column, value_column), None


def _unknown(name: str) -> str:
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
            message = str(error)
            problems.append(JobProblem(option.line, option.value_column, option.name, message))
            continue
        if attribute:
            setattr(job, attribute, value)
    if not problems:
        problems = [
            JobProblem(*section.line_of(option), option, message)
            for option, message in _impossible(job)
        ]
    return job, problems


# What cannot be emulated, or not be at all, although every value alone is fine.
def _impossible(job: FioJob) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if not job.direct:
        found.append(("direct", "buffered IO is not emulated: the job needs direct=1"))
    if job.bs % 512:
        found.append(("bs", f"{job.bs} is not a multiple of 512, which direct IO needs"))
    if not job.file_bytes:
        found.append(("size", "the job needs a size (or filesize)"))
    elif job.size and job.filesize and job.size != job.filesize:
        found.append(("filesize", "a size and a different filesize are not emulated"))
    elif job.bs % 512 == 0 and job.file_bytes % job.bs:
        found.append(("size", f"{job.file_bytes} is not a multiple of bs={job.bs}"))
    if job.time_based and not job.runtime_ns:
        found.append(("time_based", "a time_based job needs a runtime"))
    if job.thinktime_spin_ns > job.thinktime_ns:
        found.append(("thinktime_spin", "longer than thinktime, of which it is a part"))
    if job.end_fsync:
        found.append(("end_fsync", "fsync is not emulated"))
    if job.numjobs > 1 and job.filename:
        found.append(("filename", "jobs that share one file are not emulated: leave filename out"))
    return found


def instance_cpus(job: FioJob, instance: int, every: int) -> int:
    """Return the CPU mask of one of the job's ``numjobs`` processes; ``every`` is all CPUs."""
    mask = job.cpus_allowed or every
    if job.cpus_allowed_policy == "shared" or not job.cpus_allowed:
        return mask
    for _ in range(instance % mask.bit_count()):
        mask &= mask - 1
    return mask & -mask
