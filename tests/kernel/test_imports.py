"""Every file of the kernel's room can be imported first: none needs another to have begun before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import emulator.kernel

PROBE = """
import importlib, sys
failed = []
for name in sys.argv[1:]:
    for loaded in [one for one in sys.modules if one.startswith("emulator")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except (AttributeError, ImportError) as error:
        failed.append(f"{name}: {error}")
print("\\n".join(failed))
"""


def test_every_module_can_be_imported_first() -> None:
    room = Path(next(iter(emulator.kernel.__path__)))
    names = [f"emulator.kernel.{path.stem}" for path in sorted(room.glob("[a-z]*.py"))]
    assert len(names) > 50
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *names], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
