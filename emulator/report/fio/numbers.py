"""How fio writes numbers: short with a unit, latencies in the unit that fits, shares of classes."""

from collections.abc import Mapping, Sequence

_SI = ("", "k", "M", "G", "T", "P")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi")


def num2str(number: int, digits: int, binary: bool = False, unit: str = "") -> str:
    """Return a number of at most ``digits`` characters before its unit, as fio's function does."""
    thousand, prefixes = (1024, _BINARY) if binary else (1000, _SI)
    power, rest = 0, -1
    while len(str(number)) > digits:
        number, rest = divmod(number, thousand)
        power += 1
    places = digits - len(str(number)) - 1
    if rest < 0:
        return f"{number}{prefixes[power]}{unit}"
    if places <= 0:
        return f"{number + (rest >= thousand // 2)}{prefixes[power]}{unit}"
    # The fraction is rounded by itself: 0.96 gives ".0".
    return f"{number}.{f'{rest / thousand:.{places}f}'[2:]}{prefixes[power]}{unit}"


def bandwidth(bytes_per_s: int) -> str:
    """Return a bandwidth as ``273MiB/s (286MB/s)``."""
    binary = num2str(bytes_per_s, 4, binary=True, unit="B/s")
    return f"{binary} ({num2str(bytes_per_s, 4, unit='B/s')})"


def scaled(low_ns: int, high_ns: int, deviation_ns: float) -> tuple[str, int]:
    """Return the unit of a line of latencies, and how many ns it has."""
    if low_ns > 2_000_000 and high_ns > 99_999_999 and deviation_ns > 1_000_000:
        return "msec", 1_000_000
    if low_ns > 2_000 and high_ns > 99_999 and deviation_ns > 1_000:
        return "usec", 1_000
    return "nsec", 1


def percentile_scale(low_ns: int, high_ns: int) -> tuple[str, int]:
    """Return the unit of a table of percentiles, and how many ns it has."""
    if low_ns > 2_000_000 and high_ns > 99_999_999:
        return "msec", 1_000_000
    if low_ns > 2_000 and high_ns > 99_999:
        return "usec", 1_000
    return "nsec", 1


def shares(counts: Sequence[int], total: int, least: float) -> list[float]:
    """Return counts in percent of a total; what is there at all is ``least`` at least."""
    if not total:
        return [0.0] * len(counts)
    return [max(100.0 * count / total, least) if count else 0.0 for count in counts]


def class_shares(classes: Mapping[str, int], total: int) -> dict[str, float]:
    """Return the classes of one unit of latency in percent."""
    return dict(zip(classes, shares(list(classes.values()), total, 0.01), strict=True))
