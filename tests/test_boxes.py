"""Everything under ``config/``: each box loads, each job is one that fio itself accepts.

What a box expects is tried with what it records, in ``test_identity.py``.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from emulator.config import find_config_dir, list_boxes, load_box, load_costs, load_plain
from emulator.plain import spec_from_plain, spec_to_plain
from emulator.report.validate import real_case
from emulator.types import Costs

CONFIG = find_config_dir()
BOXES = sorted(CONFIG.glob("boxes/*.yaml"))
ORACLE = [file for file in sorted(CONFIG.glob("oracle/*.yaml")) if file.stem != "figures"]
JOBS = sorted(CONFIG.glob("**/*.fio"))

REQUIRED = (
    "hotplug-and-load",
    "xfs-aio-4k-default",
    "xfs-aio-4k-default-24cpu",
    "xfs-aio-4k-tuned",
    "xfs-aio-4k-tuned-24cpu",
    "xfs-aio-512",
    "xfs-aio-512-24cpu",
)


@pytest.mark.parametrize("file", [*BOXES, *ORACLE], ids=lambda file: file.stem)
def test_box_loads_and_resolves(file: Path) -> None:
    box = load_box(file)
    spec = box.resolve()
    assert spec.name == file.stem
    assert box.description
    assert any(one.figure for one in spec.workloads)
    assert spec_from_plain(spec_to_plain(spec)) == spec


@pytest.mark.parametrize("file", [*BOXES, *ORACLE], ids=lambda file: file.stem)
def test_box_names_its_schema(file: Path) -> None:
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=../box.schema.json"
    assert (file.parent / "../box.schema.json").is_file()


def test_the_required_boxes_ship() -> None:
    assert set(REQUIRED) <= {name for name, _ in list_boxes()}
    assert all(description for _, description in list_boxes())


@pytest.mark.parametrize("name", REQUIRED)
def test_a_shipped_box_is_found_by_name(name: str) -> None:
    spec = load_box(name).resolve()
    machine = spec.machine
    assert machine.nr_cpus == (24 if name.endswith("24cpu") else 8)
    assert len(set(machine.llc)) == (2 if name.endswith("24cpu") else 1)
    assert machine.hz == 1000
    assert not machine.take_turns
    assert spec.disks[0].params["ndelay"] == 41_000
    assert spec.duration_ns >= 2_000_000_000


def test_a_stint_of_the_threads_job_lasts_well_over_ten_ms() -> None:
    spec = load_box("xfs-aio-4k-tuned").resolve()
    job, costs = spec.workloads[0].params, spec.costs
    assert (job["iodepth"], job["batch_submit"], job["verify"]) == (128, 1, "sha3-512")
    assert 13_000_000 < job["iodepth"] * io_cpu_ns(costs, "sha3-512", 4096) < 13_800_000


# CPU time of one IO that nobody waits for: the submitter's own, and what interrupts it.
def io_cpu_ns(costs: Costs, verify: str, size: int) -> int:
    own = 2 * costs.syscall_ns + costs.io_submit_ns + costs.dispatch_ns + costs.io_submit_exit_ns
    own += costs.io_getevents_ns + costs.fio_prep_ns + costs.fio_reap_ns
    own += size * (bytes_ps(costs) + costs.verify_ps_per_byte[verify]) // 1000
    return own + interrupt_ns(costs) + completed_ns(costs)


# Per byte of a scsi_debug write: filled by fio, copied by the device.
def bytes_ps(costs: Costs) -> int:
    return costs.fio_fill_ps_per_byte + costs.store_ps_per_byte


# From the device's interrupt to block_rq_complete.
def interrupt_ns(costs: Costs) -> int:
    way = costs.hardirq_ns + costs.hrtimer_ns + costs.softirq_ns
    return way + costs.blk_start_request_ns


# From block_rq_complete to the end of the interrupt, where no worker is woken.
def completed_ns(costs: Costs) -> int:
    return costs.blk_end_request_ns + costs.blk_done_request_ns + costs.softirq_tail_ns


def test_icount_reproduces_the_intervals_it_was_set_from() -> None:
    costs = load_costs("icount")
    switch = costs.context_switch_ns
    preempt = costs.ttwu_ns + costs.blk_done_request_ns + costs.softirq_tail_ns
    preempt += switch + costs.pick_fair_ns
    assert costs.blk_end_request_ns == 950
    assert costs.queue_work_ns == 715
    assert preempt == 4505
    assert preempt + costs.idle_exit_ns == 4960
    assert costs.worker_start_ns == 1095
    assert costs.worker_start_ns + costs.switch_from_user_ns == 1140
    assert costs.dio_complete_ns == 930
    assert costs.select_task_rq_ns == 890
    assert costs.ttwu_activate_ns + costs.dio_tail_ns == 2630
    assert costs.dio_complete_ns + costs.dio_tail_ns == 1170
    assert costs.worker_sleep_ns + switch == 2560
    assert costs.worker_sleep_ns + switch + costs.pick_fair_ns == 2720
    request = costs.blk_end_request_ns + costs.blk_done_request_ns + costs.blk_start_request_ns
    assert request == 3260
    interrupt = interrupt_ns(costs)
    assert 41_000 + interrupt - costs.io_submit_exit_ns - switch == pytest.approx(40_220, rel=0.01)
    loop = 2 * costs.syscall_ns + costs.io_submit_ns + costs.dispatch_ns + costs.io_submit_exit_ns
    loop += costs.io_getevents_ns + costs.fio_prep_ns + costs.fio_reap_ns
    assert 3584 * bytes_ps(costs) // 1000 == pytest.approx(21_590 - 17_860, rel=0.01)
    stint_512 = loop + costs.io_wait_ns + 512 * bytes_ps(costs) // 1000 + switch
    assert stint_512 == pytest.approx(17_850, rel=0.01)
    own_4k = loop + 4096 * bytes_ps(costs) // 1000
    assert own_4k + costs.io_wait_ns + switch == pytest.approx(21_590, rel=0.01)
    plain_4k = own_4k + interrupt
    assert plain_4k + 950 + 715 + preempt == pytest.approx(26_710, rel=0.01)
    md5 = 4096 * costs.verify_ps_per_byte["md5"] // 1000
    assert plain_4k + md5 == pytest.approx(61_100, rel=0.01)
    assert io_cpu_ns(costs, "md5", 4096) == pytest.approx(62_810, rel=0.01)


#: Sixty steps of the PC's timer.
PIT_60_NS = round(60 * 1e9 / 1_193_182)


def test_the_oracles_machine() -> None:
    for file in ORACLE:
        spec = load_box(file).resolve()
        batch = file.stem.partition("-")[0]
        nr_cpus = 2 if batch.endswith("s2") else 4
        assert (spec.machine.nr_cpus, spec.machine.hz) == (nr_cpus, 250)
        assert spec.machine.take_turns
        assert set(spec.machine.llc) == {(1 << nr_cpus) - 1}
        assert spec.costs == load_costs("icount-half" if batch == "WS1" else "icount")
        assert spec.kernel.version == ("6.1" if batch.endswith("61") else "5.4")
        # Those with a timer that keeps the turns short, and those without IO.
        short = batch in ("B2", "W2", "W2b", "W2c", "W2e") or batch.startswith(("DP", "DQ"))
        assert spec.machine.turn_ns == (PIT_60_NS if short else 0)
        if batch.startswith("D"):
            # What moves of a messenger and its workers does so as they start.
            assert spec.warmup_ns == (0 if "fanout" in file.stem else 50_000_000)
            assert any(one.figure for one in spec.workloads)
            continue
        assert spec.kernel.rcu_callbacks
        assert spec.warmup_ns == 1_000_000_000
        programs = [one.program for one in spec.workloads]
        assert "rcu_gp" in programs
        assert "fio_main" in programs
        kthreads = [one.name for one in spec.workloads if one.kthread]
        assert kthreads == ["rcu_sched"]


def test_every_case_has_a_box_and_every_oracle_box_a_case() -> None:
    cases = load_plain(CONFIG / "oracle" / "figures.yaml")["cases"]
    assert sorted(cases) == sorted(file.stem for file in ORACLE)
    for name, data in cases.items():
        case = real_case(name, data)
        spec = load_box(f"oracle/{name}").resolve()
        window_s = (spec.duration_ns - spec.warmup_ns) / 1e9
        assert case.window_s == pytest.approx(window_s, abs=0.01)
        assert case.figures


def test_oracle_jobs_are_the_measured_ones() -> None:
    job = load_box("oracle/W30").resolve().workloads[0].params
    assert (job["rw"], job["bs"], job["iodepth"], job["size"]) == ("randwrite", 4096, 128, 64 << 20)
    assert (job["verify"], job["do_verify"], job["overwrite"]) == ("md5", False, True)
    batch = load_box("oracle/W3b-qd32-batch16").resolve().workloads[0].params
    assert [batch[key] for key in ("iodepth", "batch_submit", "batch_complete_min")] == [32, 16, 16]
    pair = load_box("oracle/W3b-2jobs-1cpu").resolve().workloads[:2]
    assert [one.cpus_allowed for one in pair] == [4, 4]
    assert pair[0].params["file"] != pair[1].params["file"]


@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
@pytest.mark.parametrize("file", JOBS, ids=lambda file: file.stem)
def test_fio_accepts_the_job_file(file: Path) -> None:
    command = ["fio", "--parse-only", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
