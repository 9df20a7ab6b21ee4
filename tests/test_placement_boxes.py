"""Where a whole box's tasks run: the thread's ping-pong by kernel, by policy and by machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from emulator import engines
from emulator import tracepoints as tp
from emulator.config import load_box
from emulator.rules import VERSIONS
from emulator.trace.reader import open_rings


def placed(directory: Path, *settings: str, duration: str = "100ms") -> tuple[float, Counter[str]]:
    """Run the 512-byte box inline; return wakeup migrations per IO and how often which rule chose."""
    words = (*settings, "warmup=0ms", "expect=[]")
    spec = load_box("xfs-aio-512", words, None, duration).resolve()
    outcome = engines.run(engines.INLINE, engines.Job(spec, directory, lambda _ns, _who="": True))
    assert (outcome.status, outcome.error) == (0, "")
    rules: Counter[str] = Counter()
    ios = moved = 0
    for reader in open_rings(directory):
        for record in reader.records():
            if record[1] == tp.BOX_AIO_COMPLETE:
                ios += 1
            elif record[1] == tp.SCHED_MIGRATE_TASK:
                moved += record[10] == tp.MIGRATE_WAKEUP
            elif record[1] == tp.BOX_SELECT_TASK_RQ:
                rules[tp.PLACE_RULES[record[10]]] += 1
    assert ios > 800
    return moved / ios, rules


@pytest.mark.parametrize("version", VERSIONS)
def test_a_migration_per_io_up_to_5_5_and_none_from_5_6(version: str, tmp_path: Path) -> None:
    per_io, rules = placed(tmp_path, f'kernel.version="{version}"')
    if version == "5.4":
        assert per_io == pytest.approx(1, abs=0.01)
        assert rules["recent_used_cpu"] > 800
    else:
        # The stacking rule; and later kernels complete such a write in other ways, see the IO rules.
        assert per_io == pytest.approx(0, abs=0.01)
        assert rules["recent_used_cpu"] < 100


@pytest.mark.parametrize(
    ("policy", "per_io"),
    [
        ("kthread-stack", 0),
        ("kthread-stack-in-task", 0),
        # recent_used_cpu is idle and comes first: the earlier form does not help.
        ("kthread-stack-late", 1),
        # Waker and wakee are on one CPU: wake_affine(), whom the hint is for, is not asked.
        ("completion-sync-hint", 1),
    ],
)
def test_what_the_policies_make_of_5_4(policy: str, per_io: int, tmp_path: Path) -> None:
    found, rules = placed(tmp_path, f"kernel.policies=[{policy}]")
    assert found == pytest.approx(per_io, abs=0.01)
    assert rules["recent_used_cpu" if per_io else "per_cpu_kthread"] > 800


def test_without_a_shared_cache_there_is_nowhere_to_go(tmp_path: Path) -> None:
    sockets = "machine={cpus: 16, smp: {sockets: 16, cores: 1}, llc: []}"
    per_io, rules = placed(tmp_path, sockets)
    assert per_io == 0
    assert rules["target"] > 800


def test_on_an_smt_machine_5_4_bounces_between_cores(tmp_path: Path) -> None:
    smt = "machine={cpus: 32, smp: {sockets: 2, cores: 8, threads: 2}, nodes: [0-15, 16-31]}"
    per_io, rules = placed(tmp_path, smt)
    assert per_io == pytest.approx(1, abs=0.01)
    assert rules["recent_used_cpu"] > 800
