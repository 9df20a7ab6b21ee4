"""The box file: what it resolves to, and a test per class of mistake in it."""

import json
import textwrap
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.boxfile.events import parse_command
from emulator.config import (
    Box,
    BoxError,
    find_config_dir,
    list_boxes,
    load_box,
    load_costs,
    load_plain,
    main,
)
from emulator.plain import spec_from_plain, spec_to_plain
from emulator.types import BoxEvent, BoxSpec, cpulist_parse
from emulator.units import duration_format, duration_parse, size_parse

MINIMAL = """
description: a test
duration: 1s
machine: {cpus: 4}
workloads:
  - {program: hog}
"""

STORAGE = """
disks:
  sda: {driver: scsi_debug, ndelay: 41us, dev_size_mb: 128}
filesystems:
  /mnt: {type: xfs, disk: sda}
"""

JOB = "[job]\nioengine=libaio\ndirect=1\nrw=randwrite\nbs=4k\nsize=64m\niodepth=128\n"


def write(directory: Path, text: str, job: str = JOB) -> Path:
    file = directory / "box.yaml"
    file.write_text(textwrap.dedent(text), encoding="utf-8")
    (directory / "job.fio").write_text(job, encoding="utf-8")
    return file


def loaded(directory: Path, text: str, *overrides: str, job: str = JOB) -> BoxSpec:
    return load_box(write(directory, text, job), overrides).resolve()


def mistakes(directory: Path, text: str, *overrides: str, job: str = JOB) -> list[str]:
    with pytest.raises(BoxError) as caught:
        load_box(write(directory, text, job), overrides)
    assert str(caught.value) == "\n".join(str(one) for one in caught.value.problems)
    return [
        f"{one.place.line}:{one.place.column} {one.path}: {one.message}"
        for one in caught.value.problems
    ]


def fio_box(extra: str = "", work: str = "") -> str:
    return (
        "description: a test\nduration: 1s\nmachine: {cpus: 4}\n"
        f"workloads:\n  - fio: job.fio\n{work}{STORAGE}{extra}"
    )


# -- What a box resolves to -----------------------------------------------------------------------


def test_minimal_box(tmp_path: Path) -> None:
    box = load_box(write(tmp_path, MINIMAL))
    assert isinstance(box, Box)
    spec = box.resolve()
    assert (spec.name, spec.seed, spec.duration_ns, spec.warmup_ns) == ("box", 1, 10**9, 0)
    machine = spec.machine
    assert (machine.nr_cpus, machine.hz, machine.take_turns) == (4, 1000, False)
    assert machine.core == (1, 2, 4, 8)
    assert machine.llc == machine.die == machine.node == (15,) * 4
    assert spec.kernel.version == "5.4"
    assert spec.kernel.features["WA_BIAS"]
    assert spec.costs == load_costs("server")
    hog = spec.workloads[0]
    assert (hog.name, hog.program, hog.count, hog.nice) == ("hog", "hog", 1, 0)
    assert (hog.cpus_allowed, hog.start_cpu, hog.figure, hog.kthread) == (15, -1, False, False)
    assert hog.policy == "normal"
    assert box.host_cpus is None
    assert box.expect == ()


def test_smp_words(tmp_path: Path) -> None:
    text = MINIMAL.replace("{cpus: 4}", "{cpus: 16, smp: {sockets: 2, dies: 2, threads: 2}}")
    machine = loaded(tmp_path, text).machine
    assert machine.core[:4] == (0b11, 0b11, 0b1100, 0b1100)
    assert machine.die[0] == 0xF
    assert machine.die[15] == 0xF000
    assert machine.llc == machine.die


def test_llc_groups_and_none(tmp_path: Path) -> None:
    text = MINIMAL.replace("{cpus: 4}", "{cpus: 4, llc: [0-1, '2,3']}")
    assert loaded(tmp_path, text).machine.llc == (3, 3, 12, 12)
    text = MINIMAL.replace("{cpus: 4}", "{cpus: 4, llc: []}")
    assert loaded(tmp_path, text).machine.llc == (0, 0, 0, 0)


def test_nodes_and_distances(tmp_path: Path) -> None:
    smp = "{cpus: 4, smp: {sockets: 2}, nodes: [0-1, 2-3]"
    assert loaded(tmp_path, MINIMAL.replace("{cpus: 4", smp)).machine.node == (3, 3, 12, 12)
    spec = loaded(tmp_path, MINIMAL.replace("{cpus: 4", smp + ", node_distance: [[10,21],[21,10]]"))
    assert spec.machine.node_distance == ((10, 21), (21, 10))


def test_preset_then_own_sysctls(tmp_path: Path) -> None:
    text = MINIMAL + (
        "kernel:\n  preset: network-throughput\n  features: [NO_WA_BIAS, NEXT_BUDDY]\n"
        "  sysctl: {kernel.sched_wakeup_granularity_ns: 3000000}\n"
    )
    kernel = loaded(tmp_path, text).kernel
    assert kernel.sysctls["kernel.sched_min_granularity_ns"] == 10_000_000
    assert kernel.sysctls["kernel.sched_wakeup_granularity_ns"] == 3_000_000
    assert "kernel.sched_latency_ns" not in kernel.sysctls
    assert kernel.sysctls["kernel.sched_migration_cost_ns"] == 500_000
    assert not kernel.features["WA_BIAS"]
    assert kernel.features["NEXT_BUDDY"]


def test_features_of_5_4_are_the_specs_defaults(tmp_path: Path) -> None:
    features = loaded(tmp_path, MINIMAL).kernel.features
    off = {name for name, value in features.items() if not value}
    assert off == {
        "NEXT_BUDDY",
        "HRTICK",
        "DOUBLE_TICK",
        "SIS_AVG_CPU",
        "WARN_DOUBLE_CLOCK",
        "LB_MIN",
    }
    assert features["SIS_PROP"]
    assert features["RT_RUNTIME_SHARE"]
    assert "SIS_UTIL" not in features


def test_costs_by_name(tmp_path: Path) -> None:
    text = MINIMAL + "costs: {preset: icount, tick_ns: 5, verify_ps_per_byte: {md5: 7}}\n"
    costs = loaded(tmp_path, text).costs
    assert costs.tick_ns == 5
    assert costs.verify_ps_per_byte["md5"] == 7
    assert costs.verify_ps_per_byte["sha3-512"] == 97_656
    assert costs.softirq_ns == load_costs("icount").softirq_ns


def test_disk_defaults_are_the_drivers_and_the_block_layers(tmp_path: Path) -> None:
    text = MINIMAL + (
        "disks:\n  sda: {driver: scsi_debug, ndelay: 41us}\n"
        "  nullb0: {driver: null_blk, irqmode: 2, submit_queues: 4}\n"
        "  nullb1: {driver: null_blk, hw_queue_depth: 32}\n"
    )
    sda, null0, null1 = loaded(tmp_path, text).disks
    assert sda.params["ndelay"] == 41_000
    assert sda.params["max_queue"] == 192
    assert (sda.scheduler, sda.rq_affinity, sda.nr_requests) == ("mq-deadline", 1, 256)
    assert (null0.scheduler, null0.nr_requests) == ("none", 64)
    assert (null1.scheduler, null1.nr_requests) == ("mq-deadline", 64)


def test_fio_workload(tmp_path: Path) -> None:
    text = fio_box(work="    nice: 5\n    count: 2\n    start: 10ms\n")
    job = JOB + "numjobs=2\nstartdelay=5ms\nrandseed=7\niodepth_batch=0\ncpus_allowed=1-2\n"
    found = loaded(tmp_path, text.replace("dev_size_mb: 128", "dev_size_mb: 512"), job=job)
    assert len(found.workloads) == 4
    assert [one.params["file"] for one in found.workloads] == [1, 2, 3, 4]
    assert [one.params["randseed"] for one in found.workloads] == [7, 8, 9, 10]
    one = found.workloads[0]
    assert (one.name, one.program, one.count, one.nice, one.figure) == ("fio", "fio", 1, 5, True)
    assert one.cpus_allowed == 0b110
    assert one.start_ns == 15_000_000
    params = one.params
    assert (params["batch_submit"], params["batch_complete_max"]) == (128, 1)
    assert (params["iodepth_low"], params["verify"], params["filesystem"]) == (128, "none", "/mnt")


def test_one_section_of_a_job_file(tmp_path: Path) -> None:
    job = JOB + "[other]\ndirect=1\nsize=1m\nbs=512\n"
    found = loaded(tmp_path, fio_box(work="    section: other\n"), job=job)
    assert [one.params["bs"] for one in found.workloads] == [512]
    assert [one.params["ioengine"] for one in found.workloads] == ["psync"]


def test_programs_have_parameters(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        "{program: hog}",
        "{program: periodic, params: {period_ns: 4ms, run_ns: 1000000}, name: per, count: 3}",
    )
    one = loaded(tmp_path, text).workloads[0]
    assert one.params["period_ns"] == 4_000_000
    assert one.params["run_ns"] == 1_000_000
    assert (one.name, one.count) == ("per", 3)


@pytest.mark.parametrize("policy", ["normal", "batch", "idle"])
def test_a_policy_reaches_programs_and_jobs(tmp_path: Path, policy: str) -> None:
    text = MINIMAL.replace("{program: hog}", f"{{program: hog, policy: {policy}}}")
    spec = loaded(tmp_path, text)
    assert spec.workloads[0].policy == policy
    assert spec_from_plain(spec_to_plain(spec)) == spec
    found = loaded(tmp_path, fio_box(work=f"    policy: {policy}\n"))
    assert {one.policy for one in found.workloads} == {policy}


def test_events_are_sorted_by_time(tmp_path: Path) -> None:
    text = MINIMAL + (
        "events:\n  - {at: 500ms, do: cpu online 3}\n  - {at: 100ms, do: cpu offline 3}\n"
    )
    assert loaded(tmp_path, text).events == (
        BoxEvent(100_000_000, "cpu offline 3"),
        BoxEvent(500_000_000, "cpu online 3"),
    )


def test_expectations_and_host_cpus(tmp_path: Path) -> None:
    text = MINIMAL.replace("{cpus: 4}", "{cpus: 4, host_cpus: 0-1}") + (
        "expect:\n  - {figure: iops, min: 1, max: 2.5}\n  - {figure: a.b, equals: 0}\n"
    )
    box = load_box(write(tmp_path, text))
    assert box.host_cpus == 3
    assert [(one.figure, one.min, one.max, one.equals) for one in box.expect] == [
        ("iops", 1, 2.5, None),
        ("a.b", None, None, 0),
    ]


# -- Overrides --------------------------------------------------------------------------------------


def test_overrides(tmp_path: Path) -> None:
    spec = loaded(
        tmp_path,
        MINIMAL,
        "machine.cpus=8",
        "machine.llc=[0-3, 4-7]",
        "kernel.sysctl.kernel.sched_nr_migrate=8",
        "workloads.0.nice=-5",
        "costs.preset=icount",
    )
    assert spec.machine.llc[7] == 0xF0
    assert spec.kernel.sysctls["kernel.sched_nr_migrate"] == 8
    assert spec.workloads[0].nice == -5
    assert spec.costs == load_costs("icount")


def test_seed_and_duration(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL)
    assert load_box(file, seed=9, duration="2s").resolve().duration_ns == 2 * 10**9
    assert load_box(file, seed=9, duration=5).resolve().duration_ns == 5
    assert load_box(file, seed=9).resolve().seed == 9


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("machine.cpus=4x", "--set machine.cpus=4x: machine.cpus: '4x' is not a whole number"),
        ("machine.cpu=4", "--set machine.cpu=4: machine.cpu: no such key; did you mean cpus?"),
        ("machine.cpus", "--set machine.cpus: is not key.path=value"),
        ("machine.cpus=", "--set machine.cpus=: machine.cpus: has no value"),
        ("machine.cpus=[", "is not a YAML value"),
        ("workloads.7.nice=1", "there is no place for 7"),
        ("seed.x=1", "there is no place for 'x'"),
        ("machine.take_turns=no", "YAML reads no as a truth value"),
        ("seed=1e3", "YAML does not read 1e3 as a number"),
    ],
)
def test_wrong_overrides_are_located_as_options(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(BoxError) as caught:
        load_box(write(tmp_path, MINIMAL + "seed: 3\n"), [override])
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"--set {override}: ")


# -- Mistakes: YAML ---------------------------------------------------------------------------------


def test_a_problem_prints_with_its_line_and_a_caret(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL.replace("cpus: 4", "cpus: four"))
    with pytest.raises(BoxError) as caught:
        load_box(file)
    assert str(caught.value) == (
        f"{file}:4:17: machine.cpus: 'four' is not a whole number\n"
        "    machine: {cpus: four}\n"
        "                    ^"
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("seed: 1e3", "6:7 seed: YAML does not read 1e3 as a number: write its digits"),
        ("seed: 0777", "YAML reads 0777 as octal, 511"),
        ("seed: 12:30:45", "as a number to base 60"),
        ("seed: yes", "YAML reads yes as a truth value"),
        ("seed: 1.5", "1.5 is not a whole number"),
        ("seed: '5'", "'5' is not a whole number"),
        ("seed:", "has no value"),
        ("seed: ~", "has no value"),
        ("seed: -1", "should be greater than or equal to 0"),
        ("seed: 0x10", "is not a plain decimal number"),
        ("seed: !!python/name:os.system x", "the tag"),
        ("duration: 2s", "6:1 duration: the key comes twice (first in line 2)"),
        ("warmup: 5", "6:9 warmup: 5 has no unit: write a duration such as 15ms"),
        ("warmup: 5 s", "is not a duration"),
        ("warmup: 1.5ns", "not a whole number of nanoseconds"),
        ("warmup: 1s", "the run is over by then"),
        ("sed: 1", "6:1 sed: no such key; did you mean seed?"),
        ("trace: {off: [sched_swich]}", "did you mean sched_switch?"),
        ("kernel: &k {preset: none}\ncosts: *k", "anchors and aliases"),
        ("<<: {seed: 1}", "<<: no such key"),
        ("[a, b]: 1", "a key must be a plain word"),
    ],
)
def test_yaml_traps_are_refused(tmp_path: Path, line: str, says: str) -> None:
    text = MINIMAL.strip("\n").replace(
        "workloads:\n  - {program: hog}", "workloads: [{program: hog}]"
    )
    lines = text.splitlines()
    whole = "\n".join([*lines[:3], lines[3], "# filled up", line])
    found = mistakes(tmp_path, whole)
    assert any(says in one for one in found), found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is nothing in it"),
        ("# only a comment\n", "there is nothing in it"),
        ("- a\n- b\n", "a box is a mapping"),
        ("machine: [1\n", "not YAML"),
        ("a: b: c\n", "not YAML"),
        ("\tx: 1\n", "not YAML"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("[" * 3000, "not YAML"),
    ],
)
def test_what_is_no_box_at_all(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "box.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BoxError, match=says):
        load_box(file)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BoxError, match="no such box"):
        load_box(tmp_path / "nothing.yaml")
    with pytest.raises(BoxError, match="did you mean xfs-aio-4k-tuned"):
        load_box("xfs-aio-4k-tune")
    binary = tmp_path / "box.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BoxError, match=r"box\.yaml:1:1: not UTF-8"):
        load_box(binary)


# -- Mistakes: the schema and what no single value shows --------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("description: a test\n", "", "1:1 description: is missing"),
        ("{cpus: 4}", "{}", "machine.cpus: is missing"),
        ("{cpus: 4}", "{cpus: 0}", "machine.cpus: 0: should be greater than or equal to 1"),
        ("{cpus: 4}", "{cpus: 1025}", "machine.cpus: 1025: should be less than or equal to 1024"),
        ("{cpus: 4}", "{cpus: 4, hz: 500}", "machine.hz: 500: should be 100, 250, 300 or 1000"),
        ("{cpus: 4}", "{cpus: 4, idle: sleep}", "should be 'poll' or 'halt'"),
        ("{cpus: 4}", "{cpus: 6, smp: {sockets: 4}}", "make 4 CPUs, not cpus: 6"),
        ("{cpus: 4}", "{cpus: 4, smp: {cores: 3}}", "make 3 CPUs, not cpus: 4"),
        ("{cpus: 4}", "{cpus: 4, smp: {core: 4}}", "no such key; did you mean cores?"),
        ("{cpus: 4}", "{cpus: 4, llc: [0-1]}", "machine.llc: CPU 2-3 is in no group"),
        ("{cpus: 4}", "{cpus: 4, llc: [0-2, 2-3]}", "machine.llc[1]: CPU 2 is already in a group"),
        ("{cpus: 4}", "{cpus: 4, llc: [0-3, 4]}", "machine.llc[1]: CPU 4 is outside the machine"),
        ("{cpus: 4}", "{cpus: 4, llc: [a-3]}", "'a-3' is not a CPU number"),
        ("{cpus: 4}", "{cpus: 4, llc: [0-99999999999]}", "no more than 1024 CPUs"),
        (
            "{cpus: 4}",
            "{cpus: 4, smp: {threads: 2}, llc: ['0,2', '1,3']}",
            "the threads of one core",
        ),
        ("{cpus: 4}", "{cpus: 4, smp: {sockets: 2}, llc: [0-3]}", "one last-level cache"),
        ("{cpus: 4}", "{cpus: 4, nodes: [0, 1-3]}", "one last-level cache"),
        ("{cpus: 4}", "{cpus: 4, node_distance: [[10, 20]]}", "not a table of 1 by 1"),
        ("{cpus: 4}", "{cpus: 4, node_distance: [[11]]}", "distance 10 of itself"),
        ("{program: hog}", "{program: hogg}", "no such program; did you mean hog?"),
        ("{program: hog}", "{}", "needs either fio:, rtapp: or program:"),
        ("{program: hog}", "{program: hog, fio: job.fio}", "needs either fio:, rtapp: or program:"),
        ("{program: hog}", "{program: hog, nice: 20}", "workloads[0].nice: 20: should be less"),
        ("{program: hog}", "{program: hog, policy: deadline}", "workloads[0].policy: 'deadline'"),
        ("{program: hog}", "{program: hog, policy: fifo}", "fifo needs a rt_priority, 1 to 99"),
        ("{program: hog}", "{program: hog, rt_priority: 3}", "policy normal has none; fifo and rr"),
        (
            "{program: hog}",
            "{program: hog, policy: rr, rt_priority: 3}",
            "rr: a real-time task needs cpus_allowed with one CPU",
        ),
        (
            "{program: hog}",
            "{program: pingpong, policy: rr, rt_priority: 3, params: {ping_cpu: 0, pong_cpu: 1}}",
            "pingpong is several tasks, none real-time",
        ),
        ("{program: hog}", "{program: hog, cpus_allowed: 2-5}", "CPU 4-5 is outside the machine"),
        ("{program: hog}", "{program: hog, count: 0}", "greater than or equal to 1"),
        ("{program: hog}", "{program: hog, name: sixteen-letters-}", "at most 15"),
        ("{program: hog}", "{program: hog, name: häg}", "is no task name"),
        ("{program: hog}", "{program: hog, section: x}", "belongs to fio: workloads"),
        ("{program: hog}", "{program: hog, start_cpu: 4}", "there is no CPU 4"),
        ("{program: hog}", "{program: hog, start_cpu: 1, cpus_allowed: 2}", "not in cpus_allowed"),
        ("{program: hog}", "{program: hog, params: {runns: 1}}", "did you mean run_ns?"),
        ("{program: hog}", "{program: hog, params: {run_ns: 1x}}", "is not a duration"),
        ("{program: hog}", "{program: hog, params: {run_ns: -1}}", "-1 is negative"),
        ("{program: hog}", "{program: periodic, params: {run_ns: 1ms}}", "periodic needs it"),
        ("{program: hog}", "{program: flusher}", "needs filesystem: the box has none"),
        ("{program: hog}", "{fio: nosuch.fio}", "there is no such job file"),
    ],
)
def test_impossible_machines_and_workloads(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in MINIMAL
    found = mistakes(tmp_path, MINIMAL.lstrip("\n").replace(old, new))
    assert len(found) == 1, found
    assert says in found[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kernel: {version: 5.10}", 'quote the version: "5.1"'),
        ("kernel: {version: '4.9'}", "no such version; there are 5.4, 5.6"),
        ("kernel: {rules: {kthread_stak: true}}", "no such rule; did you mean kthread_stack?"),
        ("kernel: {rules: {kthread_stack: 5}}", "5 is not true or false"),
        ("kernel: {rules: {kworker_nice: true}}", "True is not a nice level"),
        ("kernel: {rules: {runnable_avg: true}}", "means nothing without lb_group_types"),
        ("kernel: {version: '6.6', sysctl: {kernel.sched_latency_ns: 1}}", "EEVDF has no latency"),
        ("kernel: {sysctl: {kernel.sched_base_slice_ns: 1}}", "only EEVDF has base_slice"),
        ("kernel: {preset: network}", "no such preset; there are"),
        ("kernel: {features: [NO_WA_BIASS]}", "5.4 has no feature WA_BIASS; did you mean WA_BIAS?"),
        ("kernel: {features: {SIS_UTIL: true}}", "kernel.features.SIS_UTIL: 5.4 has no feature"),
        ("kernel: {sysctl: {kernel.sched_latency: 1}}", "did you mean kernel.sched_latency_ns?"),
        (
            "kernel: {sysctl: {kernel.sched_rt_runtime_us: 1000001}}",
            "is more than sched_rt_period_us",
        ),
        ("kernel: {sysctl: {kernel.sched_latency_ns: 1}}", "1 is outside 100000..1000000000"),
        ("kernel: {sysctl: {kernel.sched_latency_ns: 6ms}}", "'6ms' is not a whole number"),
        ("kernel: {policies: [kthread-stak]}", "did you mean kthread-stack?"),
        ("kernel: {policies: [renice-kworkers=30]}", "'30' is not a nice level"),
        ("costs: {preset: laptop}", "no such preset; there are icount, icount-half, server"),
        ("costs: {context_switch: 5}", "no such cost; did you mean context_switch_ns?"),
        ("costs: {tick_ns: -5}", "-5 is not a whole number from 0"),
        ("costs: {tick_ns: 5us}", "'5us' is not a whole number"),
        ("costs: {verify_ps_per_byte: 5}", "a mapping of algorithms"),
        ("costs: {verify_ps_per_byte: {md5: a}}", "costs.verify_ps_per_byte.md5"),
        ("disks: {sda: {driver: scsi}}", "disks.sda.driver: no such driver 'scsi'"),
        ("disks: {sda: {ndelay: 5us}}", "disks.sda.driver: is missing"),
        ("disks: {sda: {driver: scsi_debug, nddelay: 1us}}", "did you mean ndelay?"),
        ("disks: {sda: {driver: null_blk, ndelay: 1us}}", "disks.sda.ndelay: no such key"),
        ("disks: {sda: {driver: null_blk, submit_queues: 5}}", "more queues than the machine has"),
        ("disks: {sda: {driver: scsi_debug, rq_affinity: 3}}", "should be 0, 1 or 2"),
        ("disks: {sda: {driver: null_blk, scheduler: none, nr_requests: 65}}", "64 tags"),
        ("filesystems: {/mnt: {disk: sda}}", "the box has no disk 'sda'"),
        ("filesystems: {/mnt: {type: ext4, disk: sda}}", "should be 'xfs' or 'none'"),
        (
            "disks: {sda: {driver: null_blk}}\nfilesystems: {/a: {disk: sda}, /b: {disk: sda}}",
            "sda already holds /a",
        ),
        (
            "disks: {sda: {driver: null_blk}}\nfilesystems: {/a: {disk: sda, block_size: 3k}}",
            "3072 is not one of 512",
        ),
        ("events: [{at: 1s, do: cpu offline 1}]", "events[0].at: the run is over by then"),
        ("events: [{at: 1ms, do: cpu offline 4}]", "there is no CPU 4"),
        ("events: [{at: 1ms, do: cpu offline 0}]", "CPU 0 cannot go offline"),
        ("events: [{at: 1ms, do: cpu online 1}]", "CPU 1 is online then"),
        (
            "events: [{at: 2ms, do: cpu kill 1}, {at: 1ms, do: cpu offline 1}]",
            "events[0].do: CPU 1 is offline then",
        ),
        ("events: [{at: 1ms, do: cpu load 1 --percent 101}]", "101 percent"),
        ("events: [{at: 1ms, do: cpu offlin 1}]", "no command 'cpu offlin'; did you mean offline?"),
        ("events: [{at: 1ms, do: reboot}]", "is not one of: cpu offline CPU"),
        ("events: [{at: 1ms, do: sysctl kernel.sched_nr=4}]", "no such sysctl"),
        ("events: [{at: 1ms, do: sysctl kernel.sched_nr_migrate}]", "is not NAME=VALUE"),
        ("events: [{at: 1ms}]", "events[0].do: is missing"),
        ("expect: [{figure: iops}]", "needs either equals, or min, max or both"),
        ("expect: [{figure: iops, min: 1, equals: 1}]", "needs either equals"),
        ("expect: [{figure: iops, min: 2, max: 1}]", "2 is more than max: 1"),
        ("expect: [{figure: iops, min: many}]", "'many'"),
    ],
)
def test_impossible_sections(tmp_path: Path, text: str, says: str) -> None:
    found = mistakes(tmp_path, MINIMAL + text + "\n")
    assert any(says in one for one in found), found
    assert len(found) <= 2, found


SLICE_500US = MINIMAL.replace("{program: hog}", "{program: hog, slice: 500us}")
V6_12 = "kernel: {version: '6.12'}\n"


def test_a_task_may_ask_for_a_slice(tmp_path: Path) -> None:
    def slices(text: str) -> list[int]:
        return [one.slice_ns for one in loaded(tmp_path, text).workloads]

    assert slices(SLICE_500US + V6_12) == [500_000]
    assert slices(MINIMAL + V6_12) == [0]
    spec = loaded(tmp_path, SLICE_500US + V6_12)
    assert spec_from_plain(spec_to_plain(spec)) == spec


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SLICE_500US, "5:20 workloads[0].slice: this kernel has no slices of a task's own"),
        (SLICE_500US + "kernel: {version: '6.6'}\n", "this kernel has no slices"),
        (SLICE_500US.replace("500us", "50us") + V6_12, "the kernel clamps it to 100us to 100ms"),
        (
            MINIMAL + V6_12 + "events: [{at: 1ms, do: sysctl kernel.sched_latency_ns=6000000}]\n",
            "events[0].do: kernel.sched_latency_ns: EEVDF has no latency",
        ),
        (
            MINIMAL + "events: [{at: 1ms, do: sysctl kernel.sched_base_slice_ns=3000000}]\n",
            "kernel.sched_base_slice_ns: only EEVDF has base_slice",
        ),
        (MINIMAL + "kernel: {rules: {custom_slice: true}}\n", "means nothing without eevdf"),
    ],
)
def test_what_this_kernel_s_scheduler_does_not_have(tmp_path: Path, text: str, says: str) -> None:
    found = mistakes(tmp_path, text.lstrip("\n"))
    assert len(found) == 1, found
    assert says in found[0]


@pytest.mark.parametrize(
    ("extra", "work", "job", "says"),
    [
        ("", "", JOB + "zonemode=zbd\n", "8:1 zonemode: is not emulated: all blocks"),
        ("", "", JOB + "verify=md6\n", "8:8 verify: the box's costs do not say what 'md6' costs"),
        ("", "", JOB + "cpus_allowed=4\n", "8:14 cpus_allowed: CPU 4 is outside the machine"),
        ("", "", JOB + "directory=/srv\n", "/srv lies on no file system of the box"),
        ("", "", JOB.replace("64m", "129m"), "does not fit on sda, which has 128 MiB"),
        ("", "    section: jib\n", JOB, "no such section; did you mean job?"),
        ("", "    filesystem: /mt\n", JOB, "no such file system; did you mean /mnt?"),
        ("", "    params: {a: 1}\n", JOB, "belongs to program: workloads"),
        ("", "    count: 2\n", JOB + "filename=/mnt/f\n", "the job names one file"),
        (
            *("", "  - fio: job.fio\n", JOB.replace("4k", "512") + "filename=/mnt/f\n"),
            "8:10 filename: another job has /mnt/f, and writes of less than 4096 bytes take turns",
        ),
    ],
)
def test_impossible_jobs(tmp_path: Path, extra: str, work: str, job: str, says: str) -> None:
    found = mistakes(tmp_path, fio_box(extra, work), job=job)
    assert len(found) == 1, found
    assert says in found[0]


def test_a_job_has_one_file_system(tmp_path: Path) -> None:
    disk = "disks:\n  sdb: {driver: null_blk}"
    text = fio_box("  /srv: {disk: sdb}\n").replace("disks:", disk)
    found = mistakes(tmp_path, text, job=JOB + "filename=/mnt/f:/srv/g\n")
    assert len(found) == 1, found
    assert "8:10 filename: /srv/g lies on /srv, not on /mnt" in found[0]


def test_an_error_in_a_job_file_shows_its_line(tmp_path: Path) -> None:
    file = write(tmp_path, fio_box(), JOB + "zonemode=zbd\n")
    with pytest.raises(BoxError) as caught:
        load_box(file)
    head, line, caret = str(caught.value).splitlines()
    assert head.startswith(f"{tmp_path / 'job.fio'}:8:1: zonemode: ")
    assert (line, caret) == ("    zonemode=zbd", "    ^")


def test_all_mistakes_at_once_in_order_of_lines(tmp_path: Path) -> None:
    text = """\
        description: a test
        seed: 1e3
        duration: 1s
        machin: 1
        machine: {cpus: 4, llc: [0-1], hz: 7}
        kernel: {version: 5.4, sysctl: {kernel.sched_latencyns: 5}}
        costs: {tick: 1}
        workloads:
          - {program: hogg}
          - {program: hog, nice: 44, cpus_allowed: 9}
          - fio: job.fio
        disks: {sda: {driver: scsi_debug}}
        filesystems: {/mnt: {disk: sdb}}
        events: [{at: 2s, do: cpu offline 99}]
        trace: {off: [sched_swich]}
        """
    found = mistakes(tmp_path, text, "foo=1", job=JOB + "zonemode=zbd\n")
    for says in (
        "2:7 seed: YAML",
        "4:1 machin: no such key",
        "5:25 machine.llc: CPU 2-3 is in no group",
        "5:36 machine.hz: 7",
        "6:19 kernel.version: quote",
        "6:33 kernel.sysctl.kernel.sched_latencyns: no such sysctl",
        "7:9 costs.tick: no such cost",
        "9:15 workloads[0].program: no such program",
        "10:26 workloads[1].nice: 44",
        "10:44 workloads[1].cpus_allowed: CPU 9",
        "13:28 filesystems./mnt.disk: the box has no disk 'sdb'",
        "14:15 events[0].at: the run is over",
        "14:23 events[0].do: there is no CPU 99",
        "15:15 trace.off[0]: no such event",
        "8:1 zonemode: is not emulated: all blocks",
        "0:0 foo: no such key",
    ):
        assert any(one.startswith(says) for one in found), (says, found)
    lines = [int(one.partition(":")[0]) for one in found if not one.startswith(("8:1 ", "0:0 "))]
    assert lines == sorted(lines)


# -- Words of commands ------------------------------------------------------------------------------


def test_commands() -> None:
    assert parse_command("cpu offline 3").cpu == 3
    assert parse_command("cpu kill of:fio").of == "fio"
    load = parse_command("cpu load 2 --percent 80")
    assert (load.verb, load.cpu, load.percent) == ("load", 2, 80)
    sysctl = parse_command("sysctl kernel.sched_nr_migrate=8")
    assert (sysctl.verb, sysctl.name, sysctl.value) == ("sysctl", "kernel.sched_nr_migrate", 8)
    for line in (
        "",
        "cpu",
        "cpu load 2",
        "cpu offline x",
        "cpu offline of:",
        "sysctl a b",
        "cpu '",
    ):
        with pytest.raises(ValueError, match=r"."):
            parse_command(line)


# -- Plain data ------------------------------------------------------------------------------------


def test_plain_round_trip_through_msgpack(tmp_path: Path) -> None:
    text = fio_box("events: [{at: 1ms, do: cpu offline 1}]\ntrace: {off: [cpu_idle]}\n")
    spec = loaded(tmp_path, text, "machine.cpus=100", "machine.smp={sockets: 2}")
    plain = spec_to_plain(spec)
    assert spec.machine.llc[99].bit_length() == 100
    assert spec_from_plain(msgpack.unpackb(msgpack.packb(plain))) == spec
    assert spec_from_plain(json.loads(json.dumps(plain))) == spec


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 2))
def test_any_smp_makes_groups_that_partition_and_nest(s: int, d: int, c: int, t: int) -> None:
    words = f"{{sockets: {s}, dies: {d}, cores: {c}, threads: {t}}}"
    box = load_box(
        "hotplug-and-load", [f"machine.cpus={s * d * c * t}", f"machine.smp={words}", "events=[]"]
    )
    machine = box.resolve().machine
    everybody = (1 << machine.nr_cpus) - 1
    for groups in (machine.core, machine.llc, machine.die, machine.node):
        assert sum(set(groups)) == everybody
        assert all(groups[cpu] >> cpu & 1 for cpu in range(machine.nr_cpus))
    for core, llc, die in zip(machine.core, machine.llc, machine.die, strict=True):
        assert core & llc == core
        assert llc & die == llc
    assert spec_from_plain(spec_to_plain(box.resolve())) == box.resolve()


# -- Units -----------------------------------------------------------------------------------------


def test_durations_and_sizes() -> None:
    assert duration_parse("15ms") == 15_000_000
    assert duration_parse("1.5us") == 1_500
    assert duration_parse("2m") == 120_000_000_000
    assert (size_parse("4k"), size_parse("64MiB"), size_parse("512")) == (4096, 64 << 20, 512)
    for text in ("4q", "-1", "k", "1.5k"):
        with pytest.raises(ValueError, match="not a size"):
            size_parse(text)


@given(st.integers(0, 1 << 62))
def test_durations_are_written_exactly(value_ns: int) -> None:
    assert duration_parse(duration_format(value_ns)) == value_ns


# -- What is generated, and where it lies -----------------------------------------------------------


def test_schema_has_not_drifted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    kept = (find_config_dir() / "box.schema.json").read_text(encoding="utf-8")
    assert capsys.readouterr().out == kept, "run `make schema`"


def test_reference_has_not_drifted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reference"]) == 0
    kept = (find_config_dir() / "README.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == kept, "run `make schema`"


def test_main_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "schema|reference" in capsys.readouterr().err


def test_the_schema_knows_how_values_are_written() -> None:
    schema = json.loads((find_config_dir() / "box.schema.json").read_text(encoding="utf-8"))
    assert schema["properties"]["duration"]["pattern"].endswith("(ns|us|ms|s|m|h)$")
    assert "tick_ns" in schema["$defs"]["CostsChoice"]["properties"]
    allowed = schema["$defs"]["Workload"]["properties"]["cpus_allowed"]["anyOf"]
    assert [one.get("type") for one in allowed] == ["string", "string", "integer", "null"]


def test_plain_files_are_read_as_strictly(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("a: 1\na: 2\n", encoding="utf-8")
    with pytest.raises(BoxError, match="comes twice"):
        load_plain(file)


def test_boxes_are_listed_with_descriptions() -> None:
    names = [name for name, _ in list_boxes()]
    assert names == sorted(names)
    assert "xfs-aio-4k-tuned" in names


def test_cpulists_are_the_kernels() -> None:
    assert cpulist_parse("0-3,8") == 0x10F
