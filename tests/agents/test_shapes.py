"""Frames are looked at before they are acted on; what does not fit is refused, counted and told."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import wire
from emulator.agents import frames, shapes
from emulator.agents.link import peer_name
from emulator.agents.shapes import AGENT, CLIENT, COORDINATOR, SUPERVISOR, FrameError, Refusals
from emulator.engine.seat import Reply
from emulator.engine.windows import Grant
from emulator.messages import ACTIVATE, NOHZ_KICK
from emulator.types import Promise

GRANT = Grant(2, 10, 20, 30, 1, [(10, 0, 1, 2, ACTIVATE, (7, [1], 0, 0, 0))], [(0, [(5, (1, 2))])])
REPLY = Reply(Promise(3), [(10, 0, 1, 2, NOHZ_KICK, (7, 0))], [(5, (1, 2))])


class TestShapes:
    """The table and what it says of frames."""

    def test_every_kind_of_frame_has_a_shape(self) -> None:
        assert sorted(shapes.SHAPES) == list(range(frames.HELLO, max(shapes.SHAPES) + 1))
        assert all(kind == getattr(frames, shape.name) for kind, shape in shapes.SHAPES.items())
        kinds = [name for name, value in vars(frames).items() if type(value) is int]
        assert sorted(kinds) == sorted(shape.name for shape in shapes.SHAPES.values())

    def test_what_agents_and_the_coordinator_send_fits(self) -> None:
        for data, sender in (
            (frames.pack_grant(frames.GRANT, GRANT, 0), COORDINATOR),
            (frames.pack_grant(frames.FINISH, GRANT, 0), COORDINATOR),
            (frames.pack_reply(REPLY), AGENT),
        ):
            assert shapes.admit(data, sender) == wire.unpack(data)

    @pytest.mark.parametrize(
        ("frame", "sender", "why"),
        [
            ([], AGENT, "not a list that begins with a kind"),
            ({}, AGENT, "not a list that begins with a kind"),
            ([[1]], AGENT, "not a list that begins with a kind"),
            ([True], AGENT, "not a list that begins with a kind"),
            ([99], AGENT, "no frame of kind 99"),
            ([frames.QUIT], CLIENT, "QUIT is not sent by a client"),
            ([frames.STOP], CLIENT, "STOP is not sent by a client"),
            ([frames.WATCH, 1, ""], CLIENT, "WATCH is not sent by a client"),
            ([frames.COMMAND, 1, ["x"]], AGENT, "COMMAND is not sent by a agent"),
            ([frames.KILLED], SUPERVISOR, "KILLED has 1 items, not 0"),
            ([frames.KILLED, "1"], SUPERVISOR, "KILLED: item 1 is no int"),
            ([frames.KILLED, True], SUPERVISOR, "KILLED: item 1 is no int"),
            ([frames.COMMAND, 1, []], CLIENT, "1 to 64 words"),
            ([frames.COMMAND, 1, ["x"] * 65], CLIENT, "1 to 64 words"),
            ([frames.COMMAND, 1, ["x", 3]], CLIENT, "a word of a command is text"),
            (
                [frames.COMMAND, 1, ["x" * (shapes.COMMAND_WORD_MAX + 1)]],
                CLIENT,
                "a word of a command is text",
            ),
            ([frames.REPLY, [0], [], []], AGENT, "a promise has 7 items"),
        ],
    )
    def test_what_does_not_fit_is_refused_with_the_reason(
        self, frame: Any, sender: str, why: str
    ) -> None:
        with pytest.raises(FrameError, match=why):
            shapes.check(frame, sender)

    @pytest.mark.parametrize(
        ("message", "why"),
        [
            (7, "five numbers and a list"),
            ([1, 2, 3, 4, ACTIVATE], "five numbers and a list"),
            ([1, 2, 3, 4, "16", []], "five numbers and a list"),
            ([1, 2, 3, 4, 4000, []], "no message with op 4000"),
            ([1, 2, 3, 4, NOHZ_KICK, [1, 2, 3]], "nohz_kick has 2 arguments at most"),
        ],
    )
    def test_a_message_within_a_reply_is_looked_at_too(self, message: Any, why: str) -> None:
        frame = wire.unpack(frames.pack_reply(REPLY))
        frame[2].append(message)
        with pytest.raises(FrameError, match=why):
            shapes.check(frame, AGENT)

    def test_views_and_publications_are_looked_at_too(self) -> None:
        frame = wire.unpack(frames.pack_grant(frames.GRANT, GRANT, 0))
        for view in (3, [1], [1, [[1]]], ["0", []]):
            with pytest.raises(FrameError):
                shapes.check([*frame[:7], [view]], COORDINATOR)

    def test_a_clients_frame_has_a_greatest_size_and_no_seals(self) -> None:
        longest = wire.pack([frames.COMMAND, 1, ["x" * 1024] * 64])
        assert len(longest) > shapes.CLIENT_BYTES_MAX
        with pytest.raises(FrameError, match="bytes at most"):
            shapes.admit(longest, CLIENT)
        sealed = wire.pack([frames.COMMAND, 1, ["x", 1 << 70]])
        with pytest.raises(wire.WireError, match="extension"):
            shapes.admit(sealed, CLIENT)


class TestFuzz:
    """Whatever comes, it is a frame or a WireError."""

    @settings(max_examples=400, deadline=1000)
    @given(data=st.binary(max_size=200), sender=st.sampled_from([AGENT, CLIENT, COORDINATOR]))
    def test_random_bytes(self, data: bytes, sender: str) -> None:
        assert fits(data, sender) in (True, False)

    @settings(max_examples=400, deadline=1000)
    @given(st.data())
    def test_a_good_frame_with_some_bytes_changed(self, data: st.DataObject) -> None:
        good = data.draw(st.sampled_from(GOOD))
        spoilt = bytearray(good[0])
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(spoilt) - 1))
            match data.draw(st.integers(0, 2)):
                case 0:
                    spoilt[place] = data.draw(st.integers(0, 255))
                case 1:
                    del spoilt[place:]
                    spoilt += b"\xc0"
                case _:
                    spoilt[place:place] = data.draw(st.binary(min_size=1, max_size=5))
        assert fits(bytes(spoilt), good[1]) in (True, False)

    @settings(max_examples=400, deadline=1000)
    @given(st.data())
    def test_a_good_frame_with_an_item_changed(self, data: st.DataObject) -> None:
        packed, sender = data.draw(st.sampled_from(GOOD))
        frame = wire.unpack(packed)
        where = frame
        while True:
            place = data.draw(st.integers(0, len(where) - 1))
            inner = where[place]
            if not isinstance(inner, list) or not inner or data.draw(st.booleans()):
                break
            where = inner
        where[place] = data.draw(PLAIN)
        assert fits(wire.pack(frame), sender) in (True, False)

    def test_seals_in_seals_do_not_end_the_process(self) -> None:
        data = wire.pack(0)
        for _ in range(20_000):
            data = b"\xc9" + len(data).to_bytes(4) + bytes([wire.SEALED]) + data
        with pytest.raises(wire.WireError, match="seals"):
            wire.unpack(data)

    @pytest.mark.parametrize("data", [b"\x91" * 5000, b"\xdd\xff\xff\xff\xff", b"\x81\x90\x01"])
    def test_what_is_deep_or_claims_to_be_large_or_cannot_be_a_key(self, data: bytes) -> None:
        for unpack in (wire.unpack, wire.unpack_sealed, wire.unpack_plain):
            with pytest.raises(wire.WireError):
                unpack(data)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 80), 1 << 80)
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)

GOOD = [
    (frames.pack_grant(frames.GRANT, GRANT, 0), COORDINATOR),
    (frames.pack_reply(REPLY), AGENT),
    (wire.pack([frames.HELLO, 1, "x", 0, 5, frames.promise_items(Promise()), []]), AGENT),
    (wire.pack([frames.COMMAND, 1, ["cpu", "offline", "3"]]), CLIENT),
]


def fits(data: bytes, sender: str) -> bool:
    """Whether bytes are a frame of a sender; what fits can be evaluated."""
    try:
        frame = shapes.admit(data, sender)
    except wire.WireError:
        return False
    if frame[0] in (frames.GRANT, frames.FINISH):
        frames.grant_of(0, frame)
    elif frame[0] == frames.REPLY:
        frames.reply_of(frame)
    return True


class TestRefusals:
    """What is left of a frame that was refused."""

    def test_it_is_counted_and_written_down(self, tmp_path: Path) -> None:
        refusals = Refusals(str(tmp_path))
        refusals.note(peer_name(b"\x00k\xff\n"), 3, "not msgpack")
        assert refusals.count == 1
        log = (tmp_path / shapes.REFUSED_LOG).read_text(encoding="utf-8")
        assert log.endswith(r"Z \x00k\xff\x0a: 3 bytes refused: not msgpack" + "\n")

    def test_the_log_ends_and_the_count_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shapes, "REFUSALS_LOGGED_MAX", 3)
        refusals = Refusals(str(tmp_path))
        for _ in range(5):
            refusals.note("x", 3, "why")
        lines = (tmp_path / shapes.REFUSED_LOG).read_text(encoding="utf-8").splitlines()
        assert len(lines) == 3
        assert lines[-1].endswith("why; further ones are counted only")
        assert refusals.count == 5

    def test_without_a_place_to_write_they_are_counted(self, tmp_path: Path) -> None:
        for refusals in (Refusals(""), Refusals(str(tmp_path / "gone"))):
            refusals.note("x", 3, "why")
            assert refusals.count == 1
