"""Tests of the name table that lies in the head of a ring."""

from emulator.trace.names import FULL, KIND_COMM, KIND_NAME, NameTable, entries


def test_ids_count_up_and_are_stable() -> None:
    table = NameTable(memoryview(bytearray(1024)))
    assert table.intern("dio/sda", 0) == 2
    assert table.intern("WS", 0) == 3
    assert table.intern("dio/sda", 9) == 2
    assert table.names == ["", FULL, "dio/sda", "WS"]


def test_the_empty_text_is_id_0_and_takes_no_room() -> None:
    region = bytearray(64)
    assert NameTable(memoryview(region)).intern("", 0) == 0
    assert region == bytes(64)


def test_another_table_reads_the_same_region() -> None:
    region = bytearray(1024)
    writer = NameTable(memoryview(region))
    writer.intern("iomap_dio_complete_work", 3)
    writer.comm(300, "fio", 4)
    reader = NameTable(memoryview(region).toreadonly())
    assert reader.names[2:] == ["iomap_dio_complete_work"]
    assert reader.comms == {300: "fio"}
    kinds = [
        (kind, key, position, text) for _, kind, key, position, text in entries(memoryview(region))
    ]
    assert kinds == [
        (KIND_NAME, 2, 3, b"iomap_dio_complete_work"),
        (KIND_COMM, 300, 4, b"fio"),
    ]


def test_an_entry_whose_kind_is_not_stored_yet_is_not_there() -> None:
    region = bytearray(1024)
    writer = NameTable(memoryview(region))
    writer.intern("one", 0)
    writer.intern("two", 0)
    second = [offset for offset, *_ in entries(memoryview(region))][1]
    region[second] = 0
    assert NameTable(memoryview(region)).names[2:] == ["one"]


def test_a_comm_has_15_characters_and_the_last_one_counts() -> None:
    table = NameTable(memoryview(bytearray(1024)))
    table.comm(7, "kworker/0:1-events-highpri", 0)
    assert table.comms[7] == "kworker/0:1-eve"
    table.comm(7, "kworker/0:1", 1)
    assert table.comms[7] == "kworker/0:1"


def test_rewind_forgets_what_came_after_a_position() -> None:
    region = bytearray(1024)
    table = NameTable(memoryview(region))
    table.intern("early", 5)
    before = bytes(region)
    table.intern("late", 6)
    table.comm(1, "late", 7)
    table.rewind(5)
    assert bytes(region) == before
    assert table.names[2:] == ["early"]
    assert table.intern("other", 6) == 3
    assert not table.comms


def test_what_does_not_fit_is_counted_and_resolves_to_full() -> None:
    table = NameTable(memoryview(bytearray(64)))
    assert table.intern("a" * 20, 0) == 2
    assert table.names[table.intern("b" * 40, 0)] == FULL
    table.comm(1, "c" * 15, 0)
    assert table.lost == 2
    assert table.intern("a" * 20, 0) == 2


def test_a_text_over_4096_bytes_is_cut() -> None:
    region = memoryview(bytearray(8192))
    NameTable(region).intern("x" * 5000, 0)
    assert NameTable(region).names[2] == "x" * 4096
