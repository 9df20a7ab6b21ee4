"""A box that listens, through the command line's own ways: shell, workloads, observers, and resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulator.agents.keys import CLIENT_KEY, ClientKey
from emulator.agents.link import LinkError, ask
from emulator.agents.store import CHECKPOINT
from emulator.attach import AttachError, observed_lines, send_remote
from emulator.shell import Shell
from tests.agents.test_launch import CHECKOUT, agents_of, assert_all_gone, running, wait_for

pytestmark = [pytest.mark.box, pytest.mark.timeout(120)]

BOX = ("xfs-aio-4k-tuned", "--for", "60s", "--paused", "--listen", "127.0.0.1:*")


@contextmanager
def resumed(out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Let a killed run go on, and see it gone at the end."""
    command = [sys.executable, str(CHECKOUT / "launch.py"), "resume", str(out), "--quiet"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def address_of(key: Path) -> str:
    """Return HOST:PORT of a box that listens."""
    return ClientKey.read(key).control.removeprefix("tcp://")


def test_a_box_is_shelled_observed_and_added_to_over_tcp_and_listens_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    key = out / CLIENT_KEY
    (tmp_path / "late.yaml").write_text("workloads:\n  - {program: hog, name: burner}\n")
    with running(out, *BOX) as process:
        wait_for(lambda: key.exists() and process.poll() is None)
        address = address_of(key)
        wait_for(lambda: "about to start" not in send_remote(address, ("step", "5ms"), key))
        agents = agents_of(process)
        shell = Shell(address, tmp_path, key)
        due = "takes effect at 0.005000001 s, when the box goes on"
        assert shell.execute(f"workload add {tmp_path / 'late.yaml'}") == (0, due)
        assert shell.execute("step 5ms") == (0, "stands still at 0.010000000 s")
        assert "workload add burner: added burner-10100" in shell.execute("status")[1]
        assert shell.complete("taskset f", "f") == ["fio"]
        assert shell.execute("cat /proc/stat")[0] == 2
        assert next(observed_lines(address, key, tmp_path)).startswith("0.010 s, ")
        assert next(observed_lines(str(out), None, tmp_path)).endswith("waits for ctl continue")
        assert (out / CHECKPOINT).exists()
        agents["emucoord"].kill()
        process.communicate(timeout=60)
    assert_all_gone(agents)
    before = ClientKey.read(key)
    with resumed(out) as again:
        wait_for(lambda: ClientKey.read(key) != before)
        address = address_of(key)
        wait_for(lambda: send_remote(address, ("status",), key).startswith("runs at"))
        with pytest.raises(LinkError, match="no answer"):
            ask(f"tcp://{address}", ["status"], 400, key=before)
        os.killpg(again.pid, signal.SIGINT)
        again.wait(60)
    with pytest.raises(AttachError, match="a key alone"):
        send_remote(address, ("status",), None)
