"""A run's sockets: nobody else can reach them, and what dead runs left is removed by the next."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.agents import sockets
from emulator.agents.sockets import (
    OWNER,
    STALE_AFTER_S,
    SocketDirectory,
    SocketDirectoryError,
    remove_stale,
)


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short directory for the sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)


def age(path: Path) -> None:
    """Make a directory look older than any that is being made."""
    then = path.stat().st_mtime - 2 * STALE_AFTER_S
    os.utime(path, (then, then))


class TestAccess:
    """Only its owner may enter it."""

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o277, 0o777])
    def test_its_mode_is_0700_whatever_the_umask(self, base: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            directory = SocketDirectory()
        finally:
            os.umask(before)
        assert Path(directory.path).parent == base
        assert os.stat(directory.path).st_mode & 0o777 == 0o700
        directory.remove()
        assert list(base.iterdir()) == []

    def test_a_place_where_others_could_replace_it_is_not_taken(self, base: Path) -> None:
        base.chmod(0o777)
        directory = SocketDirectory()
        assert Path(directory.path).parent != base
        directory.remove()
        base.chmod(0o1777)
        directory = SocketDirectory()
        assert Path(directory.path).parent == base
        directory.remove()

    def test_a_place_that_belongs_to_another_is_not_taken(
        self, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stranger = os.geteuid() + 1
        mode = base.stat().st_mode
        found = os.stat_result((mode, 0, 0, 1, stranger, 0, 0, 0, 0, 0))
        assert sockets._is_safe(str(base))
        monkeypatch.setattr(os, "stat", lambda _path: found)
        assert not sockets._is_safe(str(base))

    def test_a_long_or_missing_place_is_passed_over(
        self, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deep = base / ("x" * 60)
        deep.mkdir()
        for place in (deep, base / "none"):
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
            directory = SocketDirectory()
            assert Path(directory.path).parent != place
            directory.remove()

    def test_without_any_place_it_is_said_so(
        self, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sockets, "_is_safe", lambda _base: False)
        with pytest.raises(SocketDirectoryError, match="no directory for the sockets"):
            SocketDirectory()


class TestStale:
    """A lock tells whose run is dead."""

    def test_a_live_one_stays_and_a_dead_one_goes(self, base: Path) -> None:
        live, dead = SocketDirectory(), SocketDirectory()
        os.close(dead._lock)
        dead._lock = -1
        for directory in (live, dead):
            age(Path(directory.path))
        assert remove_stale(str(base)) == [dead.path]
        assert Path(live.path).exists()
        live.remove()

    def test_the_next_start_removes_what_a_killed_process_left(self, base: Path) -> None:
        text = (
            "import os, signal; from emulator.agents.sockets import SocketDirectory\n"
            "print(SocketDirectory().path, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
        )
        done = subprocess.run(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, check=False
        )
        left = Path(done.stdout.strip())
        assert left.is_dir()
        age(left)
        directory = SocketDirectory()
        assert not left.exists()
        directory.remove()

    def test_one_that_is_just_being_made_stays(self, base: Path) -> None:
        (base / "smpbox-new").mkdir()
        assert remove_stale(str(base)) == []
        age(base / "smpbox-new")
        assert remove_stale(str(base)) == [str(base / "smpbox-new")]

    def test_links_files_and_strangers_are_left_alone(
        self, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (base / "kept").mkdir()
        (base / "smpbox-link").symlink_to(base / "kept")
        (base / "smpbox-file").write_text("")
        (base / "other").mkdir()
        linked = base / "smpbox-owner"
        linked.mkdir()
        (linked / OWNER).symlink_to(base / "smpbox-file")
        for path in base.iterdir():
            age(path)
        assert remove_stale(str(base)) == []
        dead = base / "smpbox-dead"
        dead.mkdir()
        age(dead)
        monkeypatch.setattr(os, "geteuid", lambda: dead.stat().st_uid + 1)
        assert remove_stale(str(base)) == []

    def test_an_agent_is_told_the_path_and_not_the_lock(self, base: Path) -> None:
        directory = SocketDirectory()
        told = pickle.loads(pickle.dumps(directory))
        assert (told.path, told._lock) == (directory.path, -1)
        assert told.hub() == directory.hub()
        told.remove()
        directory.remove()
        assert list(base.iterdir()) == []
