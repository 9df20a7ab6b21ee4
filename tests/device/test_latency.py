"""How long devices take: the stated distributions (G.3)."""

from statistics import mean, median

import pytest

from emulator.device.latency import PROFILES, QUANTILES, Draw, Profile, lognormal, normal_quantile
from emulator.device.units import Units
from emulator.types import NEVER, READ, WRITE

US = 1_000
MS = 1_000_000


def drawn(profile: Profile, nr: int, *, write: bool = False, sequential: bool = False) -> list[int]:
    """Return so many service times."""
    draw = Draw(profile, 42)
    return [draw.service_ns(write, sequential) for _ in range(nr)]


@pytest.mark.parametrize(("share", "z"), [(0.5, 0.0), (0.8413, 1.0), (0.025, -1.96), (0.999, 3.09)])
def test_normal_quantiles(share: float, z: float) -> None:
    assert normal_quantile(share) == pytest.approx(z, abs=0.002)


def test_lognormal_factors_have_median_one_and_the_mean_of_their_sigma() -> None:
    factors = [factor / 4096 for factor in lognormal(30)]
    assert len(factors) == QUANTILES
    assert median(factors) == pytest.approx(1, abs=0.01)
    # exp(sigma^2 / 2), less what lies beyond the last of the 256 quantiles.
    assert mean(factors) == pytest.approx(1.046, abs=0.004)
    assert lognormal(0) == [4096]


@pytest.mark.parametrize(
    ("driver", "preset", "read_us", "write_us"),
    [
        ("nvme", "optane", 3.224, 10),
        ("nvme", "p4500", 98, 20),
        ("nvme", "generic", 80, 20),
        ("sata_ssd", "generic", 120, 50),
        ("virtio_blk", "host", 30, 30),
    ],
)
def test_medians_are_those_of_the_preset(
    driver: str, preset: str, read_us: float, write_us: float
) -> None:
    profile = PROFILES[driver][preset]
    for write, stated_us in ((False, read_us), (True, write_us)):
        assert median(drawn(profile, 4_000, write=write)) == pytest.approx(stated_us * US, rel=0.02)


def test_a_read_that_goes_on_where_the_last_one_ended_is_quick() -> None:
    profile = PROFILES["nvme"]["p4500"]
    assert median(drawn(profile, 2_000, sequential=True)) == pytest.approx(10 * US, rel=0.02)
    assert median(drawn(profile, 2_000, write=True, sequential=True)) == pytest.approx(
        13 * US, rel=0.02
    )


def test_the_tail_comes_once_in_ten_thousand_writes_and_lasts_2_to_10_ms() -> None:
    tail = [ns for ns in drawn(PROFILES["nvme"]["generic"], 200_000, write=True) if ns > MS]
    assert 8 <= len(tail) <= 36  # 20, and 3.5 sigma
    assert all(2 * MS <= ns <= 10 * MS for ns in tail)


def test_a_draw_goes_on_from_its_state() -> None:
    one = Draw(PROFILES["nvme"]["generic"], 7)
    for _ in range(5):
        one.service_ns(True, False)
    other = Draw(PROFILES["nvme"]["generic"], one.state)
    assert [one.service_ns(False, False) for _ in range(9)] == [
        other.service_ns(False, False) for _ in range(9)
    ]


# -- How many at once -------------------------------------------------------------------------------


def units(nr: int, mb_per_s: int = 0) -> Units:
    return Units(Draw(Profile("", 50 * US, 20 * US, nr, mb_per_s=mb_per_s), 1), nr)


def test_as_many_as_there_are_units_are_served_at_once_and_the_next_waits() -> None:
    device = units(2)
    done = [device.start(0, serial, READ, serial * 1000, 8, 100) for serial in range(5)]
    assert done == [50 * US, 50 * US, 100 * US, 100 * US, 150 * US]
    assert [device.take() for _ in range(5)] == list(zip(done, range(5), strict=True))
    assert device.next_ns() == NEVER


def test_a_unit_that_is_free_again_takes_the_next_at_once() -> None:
    device = units(1)
    assert device.start(0, 1, WRITE, 0, 8, 100) == 20 * US
    assert device.start(70 * US, 2, WRITE, 900, 8, 100) == 90 * US


def test_the_link_is_shared_and_only_more_than_4_kib_takes_longer_alone() -> None:
    device = units(64, mb_per_s=500)
    small = device.start(0, 1, READ, 0, 8, 100)
    assert small == 50 * US
    # 1 MiB after the 8.192 us of the first: 2.097 ms at 500 MB/s.
    large = device.start(0, 2, READ, 5000, 2048, 100)
    assert large == 50 * US + 4096 * 1000 // 500 + (2**20 - 4096) * 1000 // 500
    behind = device.start(0, 3, READ, 90_000, 8, 100)
    assert behind == 50 * US + (4096 + 2**20) * 1000 // 500
