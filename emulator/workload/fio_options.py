"""The options of a fio job file: which there are, how a value is read, what it sets.

Theory of operation
-------------------
:data:`OPTIONS` is the language.  An option that fio has but this emulator does not act on is refused,
never ignored: the result would look like an answer; :mod:`emulator.workload.fio_refused` says why.  The
exceptions are in :data:`IGNORED`, each with the reason why no emulated run could show it; their values
must be ones that fio takes, too.  Readings of fio that no author can have meant are
refused as well: ``bs = 4k`` (fio reads 4), ``size=1.5g`` (1), ``bs=4q`` (4), ``runtime=1h30`` (one
microsecond).

fio's units are kept as they are (3.33, ``kb_base=1024``): ``4k``, ``4kb`` and ``4ki`` are 4096, but
``4kib`` is 4000; a bare ``runtime`` is in seconds, a bare ``thinktime`` in microseconds.  A pair such
as ``bs=4k,8k`` is for reads and for writes; what is left out keeps its default.  Percentages of a
``bssplit`` that do not make 100 are refused, though fio takes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from emulator.types import NSEC_PER_SEC, NSEC_PER_USEC, cpulist_parse
from emulator.workload.fio_sizes import Sizes

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
#: fio's limit on the length of a ``percentile_list``.
PERCENTILES_MAX = 20

_BIG = (1 << 31) - 1
_HUGE = (1 << 60) - 1


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
    """Return a time as fio reads it, in ns; ``bare_ns`` is the unit of a bare number, 0: refuse it."""
    match = _NUMBER.fullmatch(text.lower())
    if match is None or match[1] or match[2].startswith("0x"):
        raise ValueError(f"{text!r} is not a time such as 30s, 100ms or 10us")
    value, suffix = int(match[2]), match[3]
    if not suffix:
        if not bare_ns:
            raise ValueError(f"say the unit of {text}, such as {text}ms")
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


_BLOCK = _integer(1, 1 << 30)


# One value for both directions, or one each; what is left out is None.  Trims have none.
def _pair(low: int, high: int) -> Callable[[str], tuple[int | None, int | None]]:
    read_one = _integer(low, high)

    def read(text: str) -> tuple[int | None, int | None]:
        parts = text.split(",")
        if len(parts) > 3 or not any(parts[:2]):
            raise ValueError(f"{text!r} is no pair such as 4k,8k: for reads, for writes")
        values = [read_one(part) if part else None for part in parts]
        return (values[0], values[0] if len(values) == 1 else values[1])

    return read


def _by_direction(
    text: str, what: str, read_one: Callable[[str], Sizes]
) -> tuple[Sizes | None, Sizes | None]:
    parts = text.split(",")
    if len(parts) > 3:
        raise ValueError(f"{text!r} has more {what} than for reads, writes and trims")
    found = [read_one(part) for part in parts]
    return (found[0], found[0] if len(found) == 1 else found[1])


# Sizes with their percentages, for both directions or one each: fio's bssplit_ddir().
def _bssplit(text: str) -> tuple[Sizes | None, Sizes | None]:
    return _by_direction(text, "lists", _split_of)


def _split_of(text: str) -> Sizes:
    sizes: Sizes = []
    for entry in text.split(":"):
        size, slash, percent = entry.partition("/")
        share = _integer(1, 100)(percent) if slash and percent else 0
        sizes.append([_BLOCK(size), share])
    given = sum(share for _, share in sizes)
    missing = sum(not share for _, share in sizes)
    if given > 100 or (given < 100 and not missing):
        raise ValueError(f"the percentages of {text!r} make {given}, not 100")
    for one in sizes:
        one[1] = one[1] or (100 - given) // missing
    if not all(share for _, share in sizes):
        raise ValueError(f"nothing is left of 100 % for a size of {text!r}")
    return sorted(sizes, key=lambda one: one[1])


def _bsrange(text: str) -> tuple[Sizes | None, Sizes | None]:
    return _by_direction(text, "ranges", _range_of)


def _range_of(text: str) -> Sizes:
    least, dash, most = text.partition("-")
    if not dash:
        raise ValueError(f"{text!r} is no range such as 4k-64k")
    ends = [_BLOCK(least), _BLOCK(most)]
    if ends[0] > ends[1]:
        raise ValueError(f"the range {text!r} ends before it begins")
    return [[end, 0] for end in ends]


def _seconds(text: str) -> int:
    return fio_time_ns(text, NSEC_PER_SEC)


def _microseconds(text: str) -> int:
    return fio_time_ns(text, NSEC_PER_USEC)


def _time_with_unit(text: str) -> int:
    return fio_time_ns(text, 0)


def _file_size(low: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text.endswith("%"):
            raise ValueError("a percentage needs a device to take it of; give the size in bytes")
        return _integer(low, _HUGE)(text)

    return read


def _service(text: str) -> tuple[str, int]:
    word, colon, count = text.partition(":")
    _one_of("roundrobin", "random", "sequential")(word)
    return word, _integer(1, _BIG)(count) if colon else 1


def _percentiles(text: str) -> tuple[float, ...]:
    values = []
    for part in text.split(":"):
        try:
            values.append(float(part))
        except ValueError:
            raise ValueError(f"{part!r} is no percentage such as 99.9") from None
        if not 0.0 < values[-1] <= 100.0:
            raise ValueError(f"{part} % is not between 0 and 100")
    if len(values) > PERCENTILES_MAX:
        raise ValueError(f"fio takes {PERCENTILES_MAX} percentiles at most")
    return tuple(sorted(set(values)))


def _cpulist(text: str) -> int:
    if re.search(r"[0-9]{5}", text):
        raise ValueError(f"{text!r} names CPUs that no machine has")
    return cpulist_parse(text)


def _cpumask(text: str) -> int:
    return _integer(1, _HUGE)(text)


def _sync(text: str) -> str:
    words = {"none": "", "0": "", "sync": "sync", "1": "sync", "dsync": "dsync"}
    if text not in words:
        raise ValueError(f"{text!r} is none of {', '.join(words)}")
    return words[text]


_RW = ("read", "write", "randread", "randwrite", "rw", "readwrite", "randrw")
_ENGINES = ("libaio", "io_uring", "psync", "sync", "pvsync", "pvsync2")
_FALLOCATE = ("none", "native", "posix", "keep", "truncate", "0", "1")

#: Every option that is acted upon: the attribute of FioJob that it sets, how its value is read.
#: The empty attribute: checked, but it says nothing more.
OPTIONS: dict[str, tuple[str, Callable[[str], object]]] = {
    "name": ("name", str),
    "ioengine": ("ioengine", _one_of(*_ENGINES)),
    "direct": ("direct", _boolean),
    "buffered": ("buffered", _boolean),
    "rw": ("rw", _one_of(*_RW)),
    "rwmixread": ("rwmixread", _integer(0, 100)),
    "rwmixwrite": ("rwmixwrite", _integer(0, 100)),
    "bs": ("block_sizes", _pair(1, 1 << 30)),
    "bssplit": ("bssplit", _bssplit),
    "bsrange": ("bsrange", _bsrange),
    "hipri": ("hipri", _boolean),
    "iodepth": ("iodepth", _integer(1, _BIG)),
    "iodepth_batch": ("iodepth_batch", _integer(0, _BIG)),
    "iodepth_batch_complete_min": ("iodepth_batch_complete_min", _integer(0, _BIG)),
    "iodepth_batch_complete_max": ("iodepth_batch_complete_max", _integer(0, _BIG)),
    "iodepth_low": ("iodepth_low", _integer(0, _BIG)),
    "size": ("size", _file_size(1)),
    "filesize": ("filesize", _file_size(1)),
    "io_size": ("io_size", _file_size(1)),
    "number_ios": ("number_ios", _integer(0, _BIG)),
    "loops": ("loops", _integer(1, _BIG)),
    "offset": ("offset", _file_size(0)),
    "offset_increment": ("offset_increment", _file_size(0)),
    "filename": ("filename", str),
    "directory": ("directory", str),
    "nrfiles": ("nrfiles", _integer(1, 1024)),
    "file_service_type": ("service", _service),
    "overwrite": ("overwrite", _boolean),
    "fallocate": ("fallocate", _one_of(*_FALLOCATE)),
    "norandommap": ("norandommap", _boolean),
    "random_distribution": ("", _one_of("random")),
    "randseed": ("randseed", _integer(0, (1 << 63) - 1)),
    "runtime": ("runtime_ns", _seconds),
    "ramp_time": ("ramp_ns", _seconds),
    "startdelay": ("startdelay_ns", _seconds),
    "time_based": ("time_based", _boolean),
    "numjobs": ("numjobs", _integer(1, 1024)),
    "group_reporting": ("group_reporting", _boolean),
    "new_group": ("new_group", _boolean),
    "stonewall": ("stonewall", _boolean),
    "wait_for": ("wait_for", str),
    "fsync": ("fsync", _integer(0, _BIG)),
    "fdatasync": ("fdatasync", _integer(0, _BIG)),
    "end_fsync": ("end_fsync", _boolean),
    "sync": ("sync", _sync),
    "rate": ("rate", _pair(1, _BIG)),
    "rate_iops": ("rate_iops", _pair(1, _BIG)),
    "rate_process": ("", _one_of("linear")),
    "thinktime": ("thinktime_ns", _microseconds),
    "thinktime_spin": ("thinktime_spin_ns", _microseconds),
    "thinktime_blocks": ("thinktime_blocks", _integer(1, _BIG)),
    "thinktime_blocks_type": ("thinktime_blocks_type", _one_of("complete", "issue")),
    "thinktime_iotime": ("thinktime_iotime_ns", _time_with_unit),
    "verify": ("verify", str),
    "do_verify": ("do_verify", _boolean),
    "verify_fatal": ("verify_fatal", _boolean),
    "percentile_list": ("percentile_list", _percentiles),
    "write_bw_log": ("", str),
    "write_lat_log": ("", str),
    "write_iops_log": ("", str),
    "log_avg_msec": ("log_avg_msec", _integer(0, _BIG)),
    "prio": ("prio", _integer(0, 7)),
    "prioclass": ("prioclass", _integer(0, 3)),
    "nice": ("nice", _integer(-20, 19)),
    "cpus_allowed": ("cpus_allowed", _cpulist),
    "cpumask": ("cpus_allowed", _cpumask),
    "cpus_allowed_policy": ("cpus_allowed_policy", _one_of("shared", "split")),
}

#: Options that are taken without effect, and why no emulated run could show one.
IGNORED: dict[str, str] = {
    "description": "is text",
    "thread": "threads and processes are tasks alike",
    "invalidate": "the page cache is cold when a box starts",
    "unlink": "files are gone when a box ends",
    "create_serialize": "files are there before a box starts",
    "create_fsync": "files are there before a box starts",
    "create_on_open": "files are there before a box starts",
    "randrepeat": "the box's seed decides",
    "allrandrepeat": "the box's seed decides",
    "random_generator": "the order of blocks is the emulator's own",
    "scramble_buffers": "contents are not modelled",
    "zero_buffers": "contents are not modelled",
    "buffer_pattern": "contents are not modelled",
    "mem": "memory is not modelled",
    "clocksource": "there is one clock",
    "disk_util": "is about the report",
    "clat_percentiles": "is about the report",
}

_MEMORY = ("malloc", "shm", "shmhuge", "mmap", "mmaphuge", "mmapshared")
_PATTERN = re.compile(r'("[^"]*"|0x[0-9a-f]+|-?[0-9]+)+', re.ASCII | re.IGNORECASE)


def _pattern(text: str) -> str:
    if _PATTERN.fullmatch(text) is None:
        raise ValueError(f'{text} is no pattern such as 0xdeadbeef or "abcd"')
    return text


#: How the values of those options are read that are taken without effect; the others are 0 or 1.
IGNORED_VALUES: dict[str, Callable[[str], object]] = {
    "description": str,
    "random_generator": _one_of("tausworthe", "lfsr", "tausworthe64"),
    "buffer_pattern": _pattern,
    "mem": _one_of(*_MEMORY),
    "clocksource": _one_of("gettimeofday", "clock_gettime", "cpu"),
}


def read_ignored(name: str, text: str) -> None:
    """Check the value of an option that is taken without effect; raise ValueError."""
    IGNORED_VALUES.get(name, _boolean)(text)


#: Options that mean yes when they stand alone in their line.
FLAGS = frozenset(
    {"time_based", "norandommap", "group_reporting", "stonewall", "new_group"}
    | {"hipri", "thread", "zero_buffers", "write_bw_log", "write_lat_log", "write_iops_log"}
)

#: fio's other names for the same option.
ALIASES = {
    "readwrite": "rw",
    "blocksize": "bs",
    "blocksize_range": "bsrange",
    "iodepth_batch_submit": "iodepth_batch",
    "iodepth_batch_complete": "iodepth_batch_complete_min",
    "wait_for_previous": "stonewall",
    "fileoffset": "offset",
    "io_limit": "io_size",
    "nr_files": "nrfiles",
}
