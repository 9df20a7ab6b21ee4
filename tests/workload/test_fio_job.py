"""Reading fio's job files: the ini syntax, units, defaults, and every way to be refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.workload.fio_groups import groups, unknown_waits, waits
from emulator.workload.fio_job import (
    FioJob,
    JobProblem,
    instance_cpus,
    parse_sections,
    read_job,
)
from emulator.workload.fio_options import ALIASES, IGNORED, OPTIONS, fio_bytes, fio_time_ns

MINIMAL = "ioengine=libaio\ndirect=1\nsize=64m\n"


def one_job(options: str) -> FioJob:
    sections, problems = parse_sections(f"[job]\n{MINIMAL}{options}")
    assert problems == []
    assert len(sections) == 1
    job, problems = read_job(sections[0])
    assert problems == []
    return job


def refusal(options: str) -> JobProblem:
    sections, problems = parse_sections(f"[job]\n{MINIMAL}{options}")
    for section in sections:
        problems += read_job(section)[1]
    assert len(problems) == 1, problems
    return problems[0]


def test_the_threads_job() -> None:
    job = one_job(
        "rw=randwrite\nbs=4k\niodepth=128\niodepth_batch_submit=1\n"
        "iodepth_batch_complete_min=1\nruntime=30s\ntime_based\nverify=sha3-512\noverwrite=1\n"
    )
    assert (job.rw, job.bs, job.iodepth, job.iodepth_batch) == ("randwrite", 4096, 128, 1)
    assert job.runtime_ns == 30_000_000_000
    assert job.time_based
    assert job.overwrite
    assert job.verify == "sha3-512"
    assert job.do_verify
    assert job.file_bytes == 64 << 20


def test_defaults_are_fios() -> None:
    job = one_job("")
    assert (job.rw, job.bs, job.iodepth, job.numjobs, job.nice) == ("read", 4096, 1, 1, 0)
    assert not job.time_based
    assert job.cpus_allowed == 0
    assert job.thinktime_blocks == 1


def test_global_holds_for_the_sections_below_it_and_may_come_again() -> None:
    text = "[global]\nbs=8k\n[a]\nsize=1m\n[global]\nbs=16k\n[b]\nsize=1m\n[b]\nbs=4k\n"
    sections, problems = parse_sections(text)
    assert problems == []
    assert [section.name for section in sections] == ["a", "b", "b"]
    assert [section.options["bs"].value for section in sections] == ["8k", "16k", "4k"]


def test_comments_and_blanks() -> None:
    text = "; one\n# two\n\n[a]  ; three\n  bs=8k   # four\n\tsize=1m;five\n"
    sections, problems = parse_sections(text)
    assert problems == []
    assert sections[0].options["bs"].value == "8k"
    assert sections[0].options["size"].value == "1m"
    assert (sections[0].options["bs"].line, sections[0].options["bs"].column) == (5, 3)
    assert sections[0].options["bs"].value_column == 6


def test_other_names_of_an_option_are_the_same_option() -> None:
    job = one_job("iodepth=8\niodepth_batch_submit=4\nblocksize=8k\nreadwrite=write\n")
    assert (job.iodepth_batch, job.bs, job.rw) == (4, 8192, "write")
    assert one_job("iodepth=8\niodepth_batch_complete=4\n").iodepth_batch_complete_min == 4


def test_the_last_of_two_equal_options_counts() -> None:
    assert one_job("bs=4k\nbs=8k\n").bs == 8192


# Every value here was read by fio 3.33 with --debug=parse.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4k", 4096),
        ("4K", 4096),
        ("4kb", 4096),
        ("4ki", 4096),
        ("4kib", 4000),
        ("1m", 1 << 20),
        ("1mib", 1_000_000),
        ("4096b", 4096),
        ("0x10", 16),
        ("010", 10),
        ("-1", -1),
    ],
)
def test_sizes_as_fio_reads_them(text: str, value: int) -> None:
    assert fio_bytes(text) == value


@pytest.mark.parametrize("text", ["4q", "1.5g", "1e3", "", "k", "4 k"])
def test_sizes_that_fio_misreads_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"whole number|no unit"):
        fio_bytes(text)


def test_times_as_fio_reads_them() -> None:
    second, microsecond = 1_000_000_000, 1_000
    assert fio_time_ns("30", second) == 30 * second
    assert fio_time_ns("100ms", second) == 100_000_000
    assert fio_time_ns("1m", second) == 60 * second
    assert fio_time_ns("10", microsecond) == 10_000
    assert fio_time_ns("10us", second) == 10_000
    for text in ("1h30", "1.5s", "2w", "10ns", "-1"):
        with pytest.raises(ValueError, match=r"not a time|no unit of time"):
            fio_time_ns(text, second)


def test_time_options_have_their_own_bare_units() -> None:
    job = one_job("runtime=2\nthinktime=10\nstartdelay=100ms\nramp_time=1\n")
    assert (job.runtime_ns, job.thinktime_ns) == (2_000_000_000, 10_000)
    assert (job.startdelay_ns, job.ramp_ns) == (100_000_000, 1_000_000_000)


@pytest.mark.parametrize(
    ("options", "name", "says"),
    [
        ("zonemode=zbd\n", "zonemode", "is not emulated: all blocks are equally likely"),
        ("iodpeth=4\n", "iodpeth", "did you mean iodepth?"),
        ("exitall\n", "exitall", "is not emulated: a job ends by its size"),
        ("stonewall=2\n", "stonewall", "neither 0 nor 1"),
        ("bs\n", "bs", "needs a value"),
        ("bs=\n", "bs", "no value"),
        ("bs = 4k\n", "bs", "misreads a space"),
        ("rw=trim\n", "rw", "not emulated"),
        ("rwmixread=101\n", "rwmixread", "outside 0..100"),
        ("rw=rw\nrwmixread=70\nrwmixwrite=20\n", "rwmixwrite", "do not make 100"),
        ("rw=write:4\n", "rw", "not emulated"),
        ("ioengine=mmap\n", "ioengine", "not emulated"),
        ("iodepth=0\n", "iodepth", "outside 1"),
        ("nice=20\n", "nice", "outside -20..19"),
        ("direct=0\n", "direct", "buffered reads"),
        ("direct=0\nrw=write\n", "direct", "buffered writes of libaio"),
        ("direct=0\nrw=write\nioengine=psync\nsync=1\n", "direct", "of O_SYNC files"),
        ("direct=true\n", "direct", "neither 0 nor 1"),
        ("overwrite=yes\n", "overwrite", "neither 0 nor 1"),
        ("bs=1000\n", "bs", "multiple of 512"),
        ("bs=4k,8k,4k,4k\n", "bs", "no pair"),
        ("bs=,\n", "bs", "no pair"),
        ("bs=4k,1000\nrw=rw\n", "bs", "1000 is not a multiple of 512"),
        ("bs=24k\n", "size", "multiple of bs"),
        ("size=10%\n", "size", "percentage"),
        ("time_based\n", "time_based", "needs a runtime"),
        ("sync=full\n", "sync", "none of none, 0, sync"),
        ("buffered=1\n", "buffered", "buffered reads"),
        ("clocksource=sundial\n", "clocksource", "known are gettimeofday"),
        ("invalidate=5\n", "invalidate", "neither 0 nor 1"),
        ("buffer_pattern=ab\n", "buffer_pattern", "no pattern"),
        ("rate=1m\nrate_iops=10\n", "rate_iops", "exclude"),
        ("rate_process=poisson\n", "rate_process", "not emulated"),
        ("filename=a:b\nnrfiles=4\n", "nrfiles", "filename names 2"),
        ("offset=1000\n", "offset", "multiple of bs"),
        ("offset=10%\n", "offset", "percentage"),
        ("stonewall\nwait_for=x\n", "wait_for", "already"),
        ("file_service_type=zipf\n", "file_service_type", "not emulated"),
        ("file_service_type=random:0\n", "file_service_type", "outside 1"),
        ("percentile_list=50:x\n", "percentile_list", "no percentage"),
        ("percentile_list=101\n", "percentile_list", "between 0 and 100"),
        ("thinktime=1ms\nthinktime_iotime=3\n", "thinktime_iotime", "say the unit"),
        ("thinktime_iotime=3s\n", "thinktime_iotime", "there is none"),
        ("random_distribution=zipf:1.2\n", "random_distribution", "not emulated"),
        ("numjobs=${N}\n", "numjobs", "say env: {N: …} in the box"),
        ("size=$mb_memory\n", "size", "not emulated"),
        ("include other.fio\n", "include other.fio", "no file 'other.fio'"),
        ("rw=randrw\nverify=md5\n", "rw", "verify together with rw"),
        ("verify=md5\nfsync=1\n", "fsync", "verify together with fsync"),
        ("cpus_allowed=0-99999\n", "cpus_allowed", "no machine has"),
        ("cpus_allowed=3-1\n", "cpus_allowed", "backwards"),
        ("cpus_allowed=a\n", "cpus_allowed", "not a CPU number"),
        ("thinktime=5\nthinktime_spin=10\n", "thinktime_spin", "longer"),
        ("filesize=1m\n", "filesize", "different filesize"),
        ("fallocate=foo\n", "fallocate", "not emulated"),
        ("[bad\n", "[bad", "not a section"),
    ],
)
def test_refused_by_name_and_line(options: str, name: str, says: str) -> None:
    problem = refusal(options)
    assert problem.option == name
    assert says in problem.message
    lines = f"[job]\n{MINIMAL}{options}".splitlines()
    assert lines[problem.line - 1].strip()
    assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1


def test_the_place_of_a_refused_value_is_the_value() -> None:
    problem = refusal("  iodepth=0\n")
    assert (problem.line, problem.column) == (5, 11)


def test_all_mistakes_at_once() -> None:
    sections, problems = parse_sections("[job]\nzonesize=1\nbs=4q\nfoo=2\nnice=99\n")
    problems += read_job(sections[0])[1]
    assert [problem.line for problem in problems] == [2, 4, 3, 5]


def test_no_job_and_no_section() -> None:
    assert parse_sections("; nothing\n")[1][0].message.startswith("there is no job")
    assert parse_sections("[global]\nbs=4k\n")[1][0].message.startswith("there is no job")
    problem = parse_sections("bs=4k\n[a]\n")[1][0]
    assert problem.line == 1
    assert "before the first" in problem.message


def test_cpus_allowed_policy() -> None:
    shared = one_job("cpus_allowed=1,3,5\nnumjobs=4\n")
    assert [instance_cpus(shared, one, 0xFF) for one in range(2)] == [0b101010, 0b101010]
    split = one_job("cpus_allowed=1,3,5\ncpus_allowed_policy=split\nnumjobs=4\n")
    assert [instance_cpus(split, one, 0xFF) for one in range(4)] == [2, 8, 32, 2]
    assert instance_cpus(one_job(""), 0, 0xF) == 0xF


def test_mixes_pairs_and_rates() -> None:
    job = one_job("rw=randrw\nrwmixread=70\nbs=4k,8k\nrate_iops=,200\nfsync=32\n")
    assert (job.bs, job.write_bs, job.read_mix, job.sequential) == (4096, 8192, 70, False)
    assert (job.rate_iops, job.fsync) == ((None, 200), 32)
    assert one_job("rw=rw\n").read_mix == 50
    assert one_job("rw=rw\nrwmixwrite=10\n").read_mix == 90
    assert (one_job("rate=1m\n").rate, one_job("bs=,8k\n").bs) == ((1 << 20, 1 << 20), 4096)
    assert one_job("file_service_type=random:3\n").service == ("random", 3)
    assert one_job("percentile_list=99.9:50\n").percentile_list == (50.0, 99.9)
    assert one_job("cpumask=6\n").cpus_allowed == 6


def test_files_share_the_size_of_the_job() -> None:
    job = one_job("nrfiles=4\n")
    assert (job.nr_files, job.file_bytes) == (4, 16 << 20)
    job = one_job("filename=/mnt/a:/mnt/b\n")
    assert (job.names, job.file_bytes) == (["/mnt/a", "/mnt/b"], 32 << 20)


def test_keywords_variables_and_includes() -> None:
    files = {"common.fio": "bs=${BS}\ninclude more.fio\n", "more.fio": "numjobs=2*$ncpus\n"}

    def include(source: str, name: str) -> tuple[str, str] | None:
        assert source in ("", "dir/common.fio")
        return (f"dir/{name}", files[name]) if name in files else None

    text = f"[global]\n{MINIMAL}[a]\ninclude common.fio\n[b]\nbs=4q\ninclude more.fio\n"
    sections, problems = parse_sections(text, include, {"BS": "8k"}, cpus=4)
    assert problems == []
    job, problems = read_job(sections[0])
    assert (problems, job.bs, job.numjobs) == ([], 8192, 8)
    assert sections[0].own() == {"bs": "8k", "numjobs": "8"}
    assert sections[0].inherited() == sections[1].inherited()
    files["more.fio"] = "[c]\niodepth=0\n"
    sections, problems = parse_sections(text, include, {"BS": "4q"})
    assert [(one.source, one.line) for one in problems] == [("dir/more.fio", 1)] * 2
    (problem,) = read_job(sections[0])[1]
    assert (problem.source, problem.line, problem.column) == ("dir/common.fio", 1, 4)


def test_a_file_that_includes_itself_is_refused() -> None:
    problems = parse_sections("[a]\ninclude a\n", lambda _source, name: (name, "include a\n"))[1]
    assert [one.message for one in problems] == ["more than 8 files deep"]


def jobs_of(text: str) -> list[FioJob]:
    sections, problems = parse_sections(text)
    assert problems == []
    return [read_job(section)[0] for section in sections]


def test_stonewall_holds_back_all_behind_it_and_wait_for_only_one() -> None:
    jobs = jobs_of("[a]\n[b]\n[c]\nstonewall\n[d]\n[e]\nwait_for=d\n[f]\nnew_group\n")
    assert waits(jobs) == [[], [], [0, 1], [0, 1], [0, 1, 3], [0, 1]]
    assert groups(jobs) == [0, 0, 1, 1, 1, 2]
    assert unknown_waits(jobs) == []
    assert unknown_waits(jobs_of("[a]\nwait_for=b\n[b]\nwait_for=b\n")) == [0, 1]


NAMES = st.sampled_from([*OPTIONS, *ALIASES, *IGNORED, "nosuch", "[job]", "[global]", "include"])
VALUES = st.sampled_from(
    [
        *("", "1", "0", "4k", "-1", "1:2", "4k,8k", "randrw", "libaio", "9" * 20, "0-3", "5s"),
        *("10%", "${A}", "$ncpus", "2*3", "nan", "²", "sync", ":", ",,,", "0x1f", "1e5"),
    ]
)
LINES = st.one_of(
    st.builds(lambda name, value: f"{name}={value}", NAMES, VALUES), NAMES, st.text(max_size=30)
)


@given(st.lists(LINES, max_size=25), st.dictionaries(st.just("A"), VALUES))
@settings(deadline=None, derandomize=True, max_examples=400)
def test_any_text_gives_jobs_or_a_list_of_problems(lines: list[str], env: dict[str, str]) -> None:
    text = "\n".join(lines)
    sections, problems = parse_sections(text, lambda _source, name: (name, text), env, 4)
    assert sections or problems
    height = len(text.splitlines()) or 1
    for section in sections:
        job, more = read_job(section)
        problems += more
        if not more:
            assert job.file_bytes > 0
            assert 0 <= job.read_mix <= 100
    assert all(1 <= one.line <= height and one.column >= 1 for one in problems)


@pytest.mark.parametrize(
    ("lines", "ioprio"),
    [
        ("", 0),
        ("prioclass=1\nprio=3\n", 1 << 13 | 3),
        ("prio=2\n", 2 << 13 | 2),  # no class: best effort
        ("prioclass=3\n", 3 << 13),
        ("prioclass=0\n", 2 << 13),
    ],
)
def test_prio_and_prioclass_are_an_ioprio(lines: str, ioprio: int) -> None:
    text = f"[j]\nioengine=libaio\ndirect=1\nrw=randread\nsize=1m\n{lines}"
    sections, problems = parse_sections(text)
    job, more = read_job(sections[0])
    assert not problems + more
    assert job.ioprio == ioprio
