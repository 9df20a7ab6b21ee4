"""Reading fio's job files: the ini syntax, units, defaults, and every way to be refused."""

import pytest

from emulator.workload.fio_job import (
    FioJob,
    JobProblem,
    fio_bytes,
    fio_time_ns,
    instance_cpus,
    parse_sections,
    read_job,
)

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
        ("rate=1m\n", "rate", "does not know the option 'rate'"),
        ("iodpeth=4\n", "iodpeth", "did you mean iodepth?"),
        ("stonewall\n", "stonewall", "does not know"),
        ("bs\n", "bs", "needs a value"),
        ("bs=\n", "bs", "no value"),
        ("bs = 4k\n", "bs", "misreads a space"),
        ("rw=rw\n", "rw", "not emulated"),
        ("rw=write:4\n", "rw", "not emulated"),
        ("ioengine=io_uring\n", "ioengine", "not emulated"),
        ("iodepth=0\n", "iodepth", "outside 1"),
        ("nice=20\n", "nice", "outside -20..19"),
        ("direct=0\n", "direct", "buffered IO"),
        ("direct=true\n", "direct", "neither 0 nor 1"),
        ("overwrite=yes\n", "overwrite", "neither 0 nor 1"),
        ("bs=1000\n", "bs", "multiple of 512"),
        ("bs=4k,8k\n", "bs", "not emulated"),
        ("bs=24k\n", "size", "multiple of bs"),
        ("size=10%\n", "size", "percentage"),
        ("time_based\n", "time_based", "needs a runtime"),
        ("end_fsync=1\n", "end_fsync", "not emulated"),
        ("cpus_allowed=3-1\n", "cpus_allowed", "backwards"),
        ("cpus_allowed=a\n", "cpus_allowed", "not a CPU number"),
        ("thinktime=5\nthinktime_spin=10\n", "thinktime_spin", "longer"),
        ("filesize=1m\n", "filesize", "different filesize"),
        ("filename=/mnt/f\nnumjobs=2\n", "filename", "share one file"),
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
    sections, problems = parse_sections("[job]\nrate=1\nbs=4q\nfoo=2\nnice=99\n")
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
