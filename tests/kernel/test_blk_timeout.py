"""Requests that take too long, fail, or find the device busy, from the submitter's side (G.5 to G.8)."""

from dataclasses import replace

import pytest

from emulator.faults import EIO, ENODATA
from emulator.types import OP_IO_GETEVENTS, OP_IO_SUBMIT, OP_SLEEP, WRITE, DiskSpec, Op
from tests.kernel.box import MS, US, Box, Job, Steps, costs, scsi_debug

S = 1_000_000_000
NR_CPUS = 2
DEVICE = NR_CPUS + 1
START = 2 * MS

NVME = DiskSpec(
    "sda",
    "nvme",
    {
        "gb": 4,
        "hw_queue_depth": 64,
        "read_ns": 80_000,
        "write_ns": 20_000,
        "units": 64,
        "sigma_percent": 0,
        "tail_ppm": 0,
        "timeout_ms": 30_000,
        "reset_ns": 100 * MS,
        "submit_queues": 2,
    },
    "none",
    1,
    64,
    vectors=(1, 2),
    managed=True,
    preset="p4500",
)


def box_of(disk: DiskSpec, nr: int = 1) -> Box:
    """Return a box whose task on CPU 1 writes so many blocks, a system call each, and reaps them."""

    def steps() -> Steps:
        yield (OP_SLEEP, START)
        for block in range(nr):
            yield write(block)
        yield (OP_IO_GETEVENTS, nr, nr)
        yield (OP_SLEEP, 90 * S)

    charges = costs(coherence_ns=100, ipi_ns=500, ttwu_activate_ns=500, request_ns=500)
    return Box(
        Job(steps, name="fio", cpu=1, mask=2, disk="/raw"),
        nr_cpus=NR_CPUS,
        disk=disk,
        charges=charges,
    )


def write(block: int) -> Op:
    return (OP_IO_SUBMIT, [(block, WRITE, 0, block * 4096, 4096)])


def strike(box: Box, at_ns: int, *words: str) -> None:
    for node in (*range(NR_CPUS), DEVICE):
        box.command(at_ns, node, "disk", "sda", *words)


def log(box: Box) -> list[str]:
    return [str(event[2]["text"]) for event in box.events("printk")]


def ends(box: Box) -> list[tuple[int, int]]:
    """Return (time, result) of every IO."""
    return [(at_ns, args["res"]) for at_ns, _, args in box.events("box_aio_complete")]


def test_g8_4_an_io_whose_interrupt_is_lost_succeeds_after_thirty_seconds() -> None:
    box = box_of(NVME)
    strike(box, 1 * MS, "lose-irq")
    box.run(40 * S)
    [(at_ns, res)] = ends(box)
    assert res == 4096
    assert 30 * S <= at_ns < 30 * S + 10 * MS
    assert log(box) == ["nvme sda: I/O 1 QID 2 timeout, completion polled"]
    works = [e[2]["function"] for e in box.events("workqueue_execute_start")]
    assert works.count("blk_mq_timeout_work") >= 2  # it looks every five seconds, then at 30


def test_k9_a_cpu_that_takes_its_managed_vector_along_leaves_its_io_to_the_timeout() -> None:
    slow = replace(NVME, params=NVME.params | {"write_ns": 5 * MS})
    box = box_of(slow)
    box.command(START + 1 * MS, 1, "cpu", "offline", "1")
    box.run(40 * S)
    [(at_ns, res)] = ends(box)
    assert res == 4096
    assert 30 * S <= at_ns < 30 * S + 10 * MS
    assert "nvme sda: I/O 1 QID 2 timeout, completion polled" in log(box)


def test_a_reset_sends_everything_again() -> None:
    slow = replace(NVME, params=NVME.params | {"write_ns": 5 * MS})
    box = box_of(slow, 3)
    strike(box, START + 1 * MS, "reset")
    box.run(1 * S)
    assert len(box.events("block_rq_issue")) == 6
    assert [res for _, res in ends(box)] == [4096] * 3
    # Up after 100 ms, then 5 ms each, all at once.
    assert {at_ns // MS for at_ns, _ in ends(box)} == {START // MS + 1 + 100 + 5}


@pytest.mark.parametrize(
    ("word", "res", "called"), [("", EIO, "I/O"), ("medium", ENODATA, "critical medium")]
)
def test_g6_errors_have_their_errno_and_their_word(word: str, res: int, called: str) -> None:
    box = box_of(scsi_debug(41 * US), 2)
    strike(box, 1 * MS, "error", "sector=8-15", *([word] if word else []))
    box.run(1 * S)
    assert [end for _, end in ends(box)] == [4096, res]
    [line] = log(box)
    assert line == (
        f"blk_update_request: {called} error, dev sda, sector 8 op 0x1:(WRITE) flags 0x8800 "
        "phys_seg 1 prio class 0"
    )


def test_g6_the_log_has_ten_lines_in_five_seconds_at_most() -> None:
    box = box_of(scsi_debug(41 * US), 14)
    strike(box, 1 * MS, "error", "count=14")
    box.run(1 * S)
    assert [res for _, res in ends(box)] == [EIO] * 14
    assert len(log(box)) == 10


def test_g6_a_busy_device_is_tried_again_every_three_ms() -> None:
    box = box_of(scsi_debug(41 * US))
    strike(box, 1 * MS, "busy", "10ms")
    box.run(1 * S)
    [issued] = box.times("block_rq_issue")
    assert 11 * MS <= issued < 11 * MS + 4 * MS
    works = [e[2]["function"] for e in box.events("workqueue_execute_start")]
    assert 2 <= works.count("blk_mq_run_work_fn") <= 5


def test_a_slow_device_is_slow_for_a_while() -> None:
    box = box_of(scsi_debug(100 * US), 1)
    strike(box, 1 * MS, "slow", "7.5", "50ms")
    box.run(1 * S)
    [expired] = box.times("hrtimer_expire_entry")
    assert expired - box.times("block_rq_issue")[0] == 750 * US


def test_a_disk_that_ends_requests_inside_queue_rq_refuses_faults() -> None:
    box = box_of(scsi_debug(0))
    strike(box, 1 * MS, "drop")
    box.run(1 * S)
    assert [res for _, res in ends(box)] == [4096]
    assert not any(cpu.queues[0].carries for cpu in box.cpus)
