"""How long devices take: the presets with their sources, and the distribution that a service is drawn from.

Theory of operation
-------------------
A service time is *median* times a factor of the lognormal distribution with the profile's sigma, by
one of its 256 equally likely quantiles (the middle of each 1/256, so from -2.9 to +2.9 sigma), or,
once in a million times ``tail_ppm``, uniform between the two ends of the tail.  With sigma 0 and no
tail it is the median, every time, and nothing is drawn.

Every device draws from one generator of its own (:mod:`emulator.seeds`), whose state is part of its
snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, exp, sqrt

from emulator.seeds import splitmix64

QUANTILES = 256
_UNIT = 1 << 12
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Profile:
    """Medians in ns of a 4 KiB request at queue depth 1; ``units`` requests are served at once."""

    about: str  #: one line with the source
    read_ns: int
    write_ns: int
    units: int
    seq_read_ns: int = 0  #: a read that goes on where the last one ended; 0: as any
    seq_write_ns: int = 0
    sigma_percent: int = 0  #: of the logarithm
    tail_ppm: int = 0
    tail_read_ns: tuple[int, int] = (0, 0)
    tail_write_ns: tuple[int, int] = (0, 0)
    mb_per_s: int = 0  #: what all units together transfer at most, 0: no limit


US = 1_000
MS = 1_000_000

#: By driver and preset name.  V: a vendor's data sheet or a paper; I: an estimate.
PROFILES: dict[str, dict[str, Profile]] = {
    "nvme": {
        "optane": Profile(
            "Optane gen 2: 3.2 us device time (V: XRP, OSDI '22), write 10 us; 10 at once",
            3_224, 10 * US, 10, mb_per_s=2400,
        ),
        "p4500": Profile(
            "P4500 NAND: random read 85-115 us, sequential 10, write 20 and 13 (V: data sheets)",
            98 * US, 20 * US, 128, seq_read_ns=10 * US, seq_write_ns=13 * US,
            sigma_percent=8, mb_per_s=3200,
        ),
        "generic": Profile(
            "lognormal, median read 80 us, write 20, sigma 0.3; 1 in 10,000 reads 1 ms, writes 2-10 ms (I)",
            80 * US, 20 * US, 64, sigma_percent=30, tail_ppm=100,
            tail_read_ns=(MS, MS), tail_write_ns=(2 * MS, 10 * MS), mb_per_s=3000,
        ),
    },
    "virtio_blk": {
        "host": Profile(
            "a host's page cache behind one IO thread: lognormal, median 30 us, sigma 0.3 (I)",
            30 * US, 30 * US, 1, sigma_percent=30,
        ),
        "fast": Profile(
            "a host that answers in 60 us, any number at once, for boxes about steering alone (I)",
            60 * US, 60 * US, 256,
        ),
    },
    "sata_ssd": {
        "generic": Profile(
            "lognormal, read 100-150 us, write 40-60, sigma 0.1; SATA's 550 MB/s (V, I)",
            120 * US, 50 * US, 32, sigma_percent=10, mb_per_s=550,
        ),
    },
}  # fmt: skip


def lognormal(sigma_percent: int) -> list[int]:
    """Return the factors of the distribution's quantiles, in units of 1/4096."""
    if not sigma_percent:
        return [_UNIT]
    sigma = sigma_percent / 100
    middles = ((2 * step + 1) / (2 * QUANTILES) for step in range(QUANTILES))
    return [round(_UNIT * exp(sigma * normal_quantile(middle))) for middle in middles]


def normal_quantile(share: float) -> float:
    """Return the z below which a standard normal variable lies with the given probability."""
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        if (1 + erf(middle / sqrt(2))) / 2 < share:
            low = middle
        else:
            high = middle
    return low


class Draw:
    """Draws service times of one profile; :attr:`state` is all that changes."""

    __slots__ = ("factors", "profile", "state")

    def __init__(self, profile: Profile, state: int) -> None:
        self.profile = profile
        self.factors = lognormal(profile.sigma_percent)
        self.state = state

    def service_ns(self, write: bool, sequential: bool) -> int:
        """Return the service time of the next request, its transfer not counted."""
        profile = self.profile
        median_ns = profile.write_ns if write else profile.read_ns
        if sequential:
            median_ns = (profile.seq_write_ns if write else profile.seq_read_ns) or median_ns
        if len(self.factors) == 1 and not profile.tail_ppm:
            return median_ns
        self.state, bits = splitmix64(self.state)
        if (bits >> 8) % _MILLION < profile.tail_ppm:
            low_ns, high_ns = profile.tail_write_ns if write else profile.tail_read_ns
            return low_ns + (bits >> 32) % (high_ns - low_ns + 1)
        return median_ns * self.factors[bits % len(self.factors)] // _UNIT
