"""The clients of dbench: what one operation is, what is measured of it, and the file's end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emulator.boxfile.problems import BoxError
from emulator.config import load_box
from emulator.types import OP_EXIT, OP_FSYNC, OP_RUN, OP_RW, OP_WRITE, WRITE, Op
from emulator.workload.dbench import DbenchProgram
from emulator.workload.params import Setting
from tests.workload.fake_kernel import costs


def client(**params: Any) -> DbenchProgram:
    return DbenchProgram.make({"file": 3} | params, Setting(costs(), 1, 1000))


def play(program: DbenchProgram, took_ns: int = 100) -> list[Op]:
    """Return all operations of a client; each takes so long."""
    ops: list[Op] = []
    now, result = 0, 0
    while (op := program.next(now, result)) != (OP_EXIT,):
        ops.append(op)
        now += op[1] if op[0] == OP_RUN else took_ns
        result = op[4] if op[0] == OP_RW else 0
    return ops


def test_an_operation_is_thought_writes_and_a_sync() -> None:
    program = client(writes_per_fsync=2, bs=512, think_ns=7, operations=1)
    assert play(program) == [
        (OP_RUN, 7),
        (OP_RW, WRITE, 3, 0, 512),
        (OP_RW, WRITE, 3, 512, 512),
        (OP_FSYNC, 3, 0),
    ]
    books = program.books()
    assert (books["operations"], books["errors"]) == (1, 0)
    assert (books["write_ns"]["n"], books["write_ns"]["max"]) == (2, 100)
    assert (books["fsync_ns"]["n"], books["fsync_ns"]["max"]) == (1, 100)
    assert (books["operation_ns"]["n"], books["operation_ns"]["max"]) == (1, 300)


def test_without_fsync_there_are_only_writes() -> None:
    ops = play(client(fsync=0, bs=512, think_ns=7, operations=2))
    assert ops == [(OP_RUN, 7), (OP_RW, WRITE, 3, 0, 512), (OP_RUN, 7), (OP_RW, WRITE, 3, 512, 512)]


def test_writes_may_go_through_the_page_cache() -> None:
    ops = play(client(direct=0, bs=512, think_ns=7, operations=1))
    assert ops == [(OP_RUN, 7), (OP_WRITE, 3, 0, 512), (OP_FSYNC, 3, 0)]


def test_at_the_end_of_its_file_it_begins_anew() -> None:
    ops = play(client(size=3 * 512, bs=512, operations=4))
    assert [op[3] for op in ops if op[0] == OP_RW] == [0, 512, 1024, 0]


def test_a_write_that_fails_is_counted() -> None:
    program = client(bs=512, operations=1)
    program.next(0, None)
    program.next(20_000, 0)
    program.next(20_100, -5)
    assert program.books()["errors"] == 1


@pytest.mark.parametrize(
    "params", [{"bs": 100}, {"writes_per_fsync": 0}, {"size": 1}, {"think_ns": 0}]
)
def test_impossible_clients(params: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="dbench needs"):
        client(**params)


BOX = """
description: clients
duration: 1s
machine: {cpus: 2}
disks: {sda: {driver: scsi_debug, dev_size_mb: 64}}
filesystems: {/m: {disk: sda}}
workloads:
  - {program: dbench, count: 2, params: {PARAMS}}
"""


def test_every_client_has_a_file_which_is_empty_at_first(tmp_path: Path) -> None:
    box = tmp_path / "box.yaml"
    box.write_text(BOX.replace("PARAMS", "size: 8m"))
    one, other = load_box(box).resolve().workloads
    assert one.params["file"] != other.params["file"]
    assert (one.params["layout"], one.params["eof"]) == ("hole", 0)
    box.write_text(BOX.replace("PARAMS", "size: 8m, layout: written"))
    written = load_box(box).resolve().workloads[0].params
    assert (written["layout"], written["eof"]) == ("written", -1)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    box = tmp_path / "box.yaml"
    box.write_text(BOX.replace("PARAMS", "size: 40m"))
    with pytest.raises(BoxError, match="its file does not fit on sda"):
        load_box(box)
