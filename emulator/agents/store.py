"""What a run keeps in its directory while it runs, so that it can be resumed: checkpoint, commands.

Every file is written whole or not at all, by one rename.
"""

from __future__ import annotations

import os
from typing import Any

from emulator.engine.checkpoint import Checkpoint, CheckpointError
from emulator.engine.commands import commands_text
from emulator.hosterrors import named_errors

#: The newest checkpoint, there until the run is complete.
CHECKPOINT = "checkpoint"

#: The box as it was resolved.
BOX = "box.yaml"

#: Commands with the time at which they took effect.
COMMANDS = "commands.yaml"


def write_checkpoint(run_dir: str, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a run; raise OSError."""
    _write(run_dir, CHECKPOINT, checkpoint.pack())


def read_checkpoint(path: str) -> Checkpoint:
    """Return the checkpoint in a file; raise CheckpointError where there is none."""
    try:
        with open(path, "rb") as file:
            return Checkpoint.unpack(file.read())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def write_commands(run_dir: str, record: list[tuple[int, list[Any], Any]]) -> None:
    """Replace the list of commands given so far; raise OSError."""
    _write(run_dir, COMMANDS, commands_text(record).encode())


def read_box(run_dir: str) -> str:
    """Return the text of the box of a run; raise OSError."""
    with open(os.path.join(run_dir, BOX), encoding="utf-8") as file:
        return file.read()


def _write(run_dir: str, name: str, data: bytes) -> None:
    path, scratch = os.path.join(run_dir, name), os.path.join(run_dir, f".{name}.new")
    with named_errors(path):
        with open(scratch, "wb") as file:
            file.write(data)
        os.replace(scratch, path)
