"""A disk with one arm: seek, rotation, transfer, and its own order (G.3)."""

from itertools import pairwise
from statistics import mean

import pytest

from emulator.device.hdd import MECHANICS, Hdd
from emulator.seeds import splitmix64
from emulator.types import NEVER, READ

MS = 1_000_000
GB = 1 << 30


def disk(preset: str = "7200", ncq: int = 1, gb: int = 256) -> Hdd:
    return Hdd(MECHANICS[preset], gb * GB, ncq)


def serve(one: Hdd, sectors: list[int]) -> list[tuple[int, int]]:
    """Give the disk commands at time 0 and return (time, serial) as they end."""
    for serial, sector in enumerate(sectors):
        one.start(0, serial, READ, sector, 8, 100)
    return [one.take() for _ in sectors]


def scattered(nr: int, gb: int = 256) -> list[int]:
    """Return random sectors over the whole disk."""
    state, found = 99, []
    for _ in range(nr):
        state, bits = splitmix64(state)
        found.append(bits % (gb * GB // 512 - 8))
    return found


@pytest.mark.parametrize(
    ("preset", "track_ms", "average_ms", "full_ms"), [("7200", 1, 8.5, 17), ("5400", 1, 12, 20)]
)
def test_seeks(preset: str, track_ms: float, average_ms: float, full_ms: float) -> None:
    one = disk(preset)
    assert one.seek_ns(0) == 0
    assert one.seek_ns(1) == pytest.approx(track_ms * MS, rel=0.06)
    assert one.seek_ns(one.cylinders // 3) == pytest.approx(average_ms * MS, rel=0.01)
    assert one.seek_ns(one.cylinders) <= full_ms * MS
    # By the formula a full stroke is sqrt(3) of the way from one track to the average, if less.
    assert one.seek_ns(one.cylinders) == pytest.approx(
        min(full_ms, track_ms + (average_ms - track_ms) * 3**0.5) * MS, rel=0.01
    )


@pytest.mark.parametrize(("preset", "iops"), [("7200", (70, 90)), ("5400", (50, 65))])
def test_random_commands_in_order_take_a_seek_and_half_a_turn(
    preset: str, iops: tuple[int, int]
) -> None:
    ended = serve(disk(preset), scattered(400))
    assert [serial for _, serial in ended] == list(range(400))
    assert iops[0] <= 400 / (ended[-1][0] / 1e9) <= iops[1]


def test_commands_that_follow_each_other_wait_for_no_turn() -> None:
    ended = serve(disk(), [8 * number for number in range(100)])
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(ended)]
    turn_ns = 60_000_000_000 // 7200
    assert mean(gaps) == pytest.approx(8 * turn_ns / 2048, rel=0.01)


def test_a_queue_is_served_in_the_order_that_the_arm_finds_quickest() -> None:
    sectors = scattered(320)
    alone = serve(disk(), sectors)[-1][0]
    queued = serve(disk(ncq=32), sectors)
    assert sorted(serial for _, serial in queued) == list(range(320))
    assert [serial for _, serial in queued] != list(range(320))
    assert queued[-1][0] < 0.6 * alone


def test_only_as_many_as_ncq_says_are_chosen_among() -> None:
    far, near = 200 * GB // 512, 1 * GB // 512
    sectors = [0, far, far + 80_000_000, near]
    assert [serial for _, serial in serve(disk(ncq=2), sectors)] == [0, 1, 2, 3]
    assert [serial for _, serial in serve(disk(ncq=4), sectors)][:2] == [0, 3]


def test_a_disk_without_commands_has_nothing_to_come() -> None:
    one = disk()
    assert one.next_ns() == NEVER
    one.start(5 * MS, 1, READ, 1000, 8, 100)
    assert 5 * MS < one.next_ns() < NEVER
    one.clear()
    assert one.next_ns() == NEVER
