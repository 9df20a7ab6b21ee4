"""What a fresh machine gets: the lock, the Makefile's one-line complaints, the wheel."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


def _locked() -> dict[str, str]:
    text = (CHECKOUT / "requirements.lock").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", text, re.MULTILINE))


def _name(requirement: str) -> str:
    return re.split(r"[<>=\[;]", requirement)[0].strip().lower().replace("_", "-")


def test_every_dependency_is_locked_with_a_hash() -> None:
    locked = _locked()
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    assert {_name(requirement) for requirement in wanted} <= locked.keys()
    text = (CHECKOUT / "requirements.lock").read_text()
    for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        assert block.startswith("#") or not block or "--hash=sha256:" in block, block


def test_the_lock_names_no_host_and_no_other_platform() -> None:
    text = (CHECKOUT / "requirements.lock").read_text()
    assert "://" not in text
    assert "index" not in text
    assert ";" not in text


def _make(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make")
    assert make is not None
    environment = {"PATH": str(path), "HOME": os.environ.get("HOME", "/")}
    command = [make, "--no-print-directory", "-C", str(CHECKOUT), *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=60
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("tools", "script", "complaint"),
    [
        ({}, "", "git is missing: install it first (Debian: apt install git)"),
        ({"git"}, None, "python3 is missing: install Python 3.11 or newer"),
        ({"git"}, 'case "$2" in *version_info*) exit 1;; esac', "python3 is older than 3.11"),
        ({"git"}, 'case "$2" in *ensurepip*) exit 1;; esac', "Python's venv module is missing"),
        ({"git"}, "", None),
    ],
)
def test_a_missing_prerequisite_is_one_clear_line(
    tmp_path: Path, tools: set[str], script: str | None, complaint: str | None
) -> None:
    shell = shutil.which("sh")
    assert shell is not None
    (tmp_path / "sh").symlink_to(shell)
    fakes = dict.fromkeys(tools, "") | ({} if script is None else {"python3": script})
    for name, text in fakes.items():
        (tmp_path / name).write_text(f"#!{shell}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = _make(tmp_path, "prerequisites", "SHELL=" + shell)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
    if complaint is None:
        assert (done.returncode, lines) == (0, [])
    else:
        assert done.returncode != 0
        assert len(lines) == 1
        assert lines[0].startswith(complaint)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(not (CHECKOUT / "README.md").exists(), reason="no README yet")
def test_the_wheel_brings_its_boxes_and_its_command(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = "from hatchling.build import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=CHECKOUT, check=True)
    [wheel] = tmp_path.glob("smpbox-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (
        "smpbox = emulator.cli:main" in next(site.glob("*.dist-info/entry_points.txt")).read_text()
    )
    start = (
        "import emulator.cli, sys; assert 'site/emulator' in emulator.cli.__file__;"
        "emulator.cli.main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    for words in (["boxes"], ["check", "xfs-aio-4k-tuned"]):
        done = subprocess.run(
            [sys.executable, "-c", start, *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env=environment,
        )
        assert "xfs-aio-4k-tuned" in done.stdout
