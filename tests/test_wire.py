"""The wire: plain data as it was, tasks sealed for whoever only carries them."""

from typing import Any

from emulator import messages, wire
from emulator.messages import ACTIVATE


class Parcel:
    """Something that a message may carry besides plain data."""

    def __init__(self, content: list[Any]) -> None:
        self.content = content

    def pack(self) -> list[Any]:
        """Return the content."""
        return self.content


def test_plain_data_comes_back_with_lists_for_tuples() -> None:
    value = {"masks": ("ff", 1 << 63), 3: [None, True, -5, b"\x00\xff"]}
    assert wire.unpack(wire.pack(value)) == {
        "masks": ["ff", 1 << 63],
        3: [None, True, -5, b"\x00\xff"],
    }


def test_the_target_finds_the_content_of_what_travelled_sealed() -> None:
    sent = (10, 0, 1, 2, ACTIVATE, (7, Parcel([7, ["fio", {1: 2}]])))
    carried = wire.unpack_sealed(wire.pack([sent, sent]))
    for message in wire.unpack(wire.pack(carried)):
        assert messages.message_from_list(message) == (
            10,
            0,
            1,
            2,
            ACTIVATE,
            (7, [7, ["fio", {1: 2}]]),
        )


def test_a_carrier_does_not_open_what_is_sealed() -> None:
    (_, sealed), closed = wire.unpack_sealed(wire.pack([[7, Parcel(["inside"])], "outside"]))
    assert closed == "outside"
    assert sealed != ["inside"]
    assert wire.pack(sealed) == wire.pack(Parcel(["inside"]))


def test_packing_goes_on_after_what_cannot_be_packed() -> None:
    before = wire.pack([1, Parcel([2])])
    for odd in (Parcel([object()]), object()):
        try:
            wire.pack([1, odd])
        except AttributeError:
            assert wire.pack([1, Parcel([2])]) == before
        else:
            raise AssertionError(odd)


def test_masks_of_more_than_64_cpus_travel_in_the_open_and_under_a_seal() -> None:
    masks = [(1 << 64) - 1, 1 << 64, (1 << 1024) - 1, -1 << 70]
    data = wire.pack([masks, Parcel(masks)])
    assert wire.unpack(data) == [masks, masks]
    carried = wire.unpack_sealed(data)
    assert carried[0] == masks
    assert wire.pack(carried) == data
