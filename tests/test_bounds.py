"""Bounds: the table names every one by a constant, and what lies beyond it is refused or told."""

from pathlib import Path

import pytest

from emulator.engine import commands
from emulator.engine.commands import Commands
from emulator.trace.ring import Ring
from emulator.types import CPULIST_MAX, cpulist_parse
from tests import bounds_table


def test_every_row_has_a_value_and_says_what_happens() -> None:
    rows = bounds_table.rows()
    assert len({what for what, *_ in rows}) == len(rows)
    assert all(value and full for _, _, value, full in rows)
    assert ["`SEALS_MAX`", "8"] in [row[1:3] for row in rows]


def test_a_run_takes_so_many_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "COMMANDS_MAX", 2)
    given = Commands()
    for at_ns in (1, 2):
        assert not given.full()
        given.give(at_ns, [0], ["cpu", "offline", "0"])
    assert given.full()


def test_a_cpulist_of_astronomical_length_is_refused_at_once() -> None:
    assert cpulist_parse(f"{CPULIST_MAX}") == 1 << CPULIST_MAX
    for text in ("0-99999999999999", f"{CPULIST_MAX + 1}"):
        with pytest.raises(ValueError, match="no kernel has a CPU beyond 8191"):
            cpulist_parse(text)


def test_a_ring_that_is_full_says_how_many_records_went(tmp_path: Path) -> None:
    segment = 1 << 16
    ring = Ring(tmp_path / "x.ring", "x", 0, 2 * segment, segment_bytes=segment)
    for time_ns in range(4 * segment // 64):
        ring.emit(time_ns, 1, 0, 0, 0)
    assert ring.lost == 2 * segment // 64
