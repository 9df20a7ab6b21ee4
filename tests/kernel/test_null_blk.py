"""null_blk's and scsi_debug's modes as the submitter sees them (G.1, G.2)."""

from dataclasses import replace

import pytest

from emulator.config import load_box
from emulator.device import scsi_debug as scsi_debug_device
from emulator.kernel.blk_queue import service_time
from emulator.types import OP_IO_SUBMIT, OP_SLEEP, WRITE, DiskSpec
from tests.kernel.box import MS, US, Box, Job, Steps, costs, null_blk, scsi_debug

COSTS = costs(
    io_submit_ns=1000, null_dispatch_ns=300, dispatch_ns=900, memory_backed_ps_per_byte=1000
)


def disk(irqmode: int, *, queues: int = 1, scheduler: str = "none", **params: int) -> DiskSpec:
    """Return a null_blk disk with further module parameters."""
    plain = null_blk(irqmode, submit_queues=queues)
    return replace(plain, params=plain.params | params, scheduler=scheduler)


def one_write(disk: DiskSpec, size: int = 4096) -> Box:
    """Write once, submitted by io_submit()."""

    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(7, WRITE, 0, 0, size)])
        yield (OP_SLEEP, 50 * MS)

    return Box(Job(steps, name="fio", disk="/xfs"), disk=disk, charges=COSTS).run(20 * MS)


def issuers(box: Box) -> list[str]:
    return [box.comm(event[2]["current"]) for event in box.events("block_rq_issue")]


@pytest.mark.parametrize("scheduler", ["mq-deadline", "none"])
def test_memory_backed_with_one_queue_and_an_elevator_is_run_by_kblockd(scheduler: str) -> None:
    box = one_write(disk(2, scheduler=scheduler, memory_backed=1))
    assert [name.endswith("H") for name in issuers(box)] == [scheduler == "mq-deadline"]
    assert [event[2]["res"] for event in box.events("box_aio_complete")] == [4096]


def test_a_submitter_about_to_sleep_runs_no_memory_backed_queue_twice() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(n, WRITE, 0, n * 4096, 4096) for n in range(5)])
        yield (OP_SLEEP, 50 * MS)

    memory = disk(2, scheduler="mq-deadline", memory_backed=1)
    box = Box(Job(steps, name="fio", disk="/xfs"), disk=memory, charges=COSTS).run(20 * MS)
    started = [e[2]["function"] for e in box.events("workqueue_execute_start")]
    assert started.count("blk_mq_run_work_fn") == 1
    assert len(issuers(box)) == 5


def test_memory_backed_copies_inside_queue_rq() -> None:
    issued = [
        one_write(disk(2, memory_backed=memory), size).times("block_rq_issue")[0]
        for memory, size in ((0, 4096), (1, 4096), (1, 8192))
    ]
    assert [later - issued[0] for later in issued[1:]] == [4096, 8192]


def test_null_blk_dispatches_at_its_own_cost() -> None:
    null, scsi = one_write(disk(2)), one_write(scsi_debug(10 * US, scheduler="none"))
    assert scsi.times("block_rq_issue")[0] - null.times("block_rq_issue")[0] == 900 - 300


@pytest.mark.parametrize("irqmode", [0, 1])
def test_bios_end_inside_the_submitter_without_a_request(irqmode: int) -> None:
    box = one_write(disk(irqmode, queue_mode=0))
    assert not [name for name in ("insert", "issue", "complete") if box.events(f"block_rq_{name}")]
    [done] = box.events("box_aio_complete")
    assert (done[2]["res"], box.comm(done[2]["current"])) == (4096, "fio")
    assert not box.events("workqueue_queue_work")
    stat = box.cpus[0].queues[0].stat
    assert (stat.started, stat.ios) == ([0, 0], [0, 0])


def test_bios_end_in_the_timer_and_are_not_plugged() -> None:
    def steps() -> Steps:
        yield (OP_IO_SUBMIT, [(n, WRITE, 0, n * 4096, 4096) for n in range(3)])
        yield (OP_SLEEP, 50 * MS)

    charges = costs(io_submit_ns=1000, io_submit_more_ns=1000, null_dispatch_ns=300)
    box = Box(Job(steps, name="fio", disk="/xfs"), disk=disk(2, queue_mode=0), charges=charges).run(
        20 * MS
    )
    timers = box.times("hrtimer_expire_entry")
    assert [later - timers[0] for later in timers] == [0, 1300, 2600]
    assert len(box.events("box_aio_complete")) == 3


@pytest.mark.parametrize(
    ("params", "service_ns"),
    [
        ("ndelay: 41us, delay: 3", 41 * US),
        ("delay: 3", 12 * MS),
        ("", 4 * MS),
        ("delay: 0", 0),
    ],
)
def test_scsi_debug_waits_ndelay_or_else_delay_jiffies(params: str, service_ns: int) -> None:
    given = f"driver: scsi_debug, dev_size_mb: 6144{', ' * bool(params)}{params}"
    spec = load_box(
        "xfs-aio-4k-tuned",
        (f"disks={{sdb: {{{given}}}}}", "filesystems={/mnt: {disk: sdb}}", "machine.hz=250"),
    ).resolve()
    sdb = spec.disks[0]
    assert service_time(sdb.driver, sdb.params) == service_ns
    assert scsi_debug_device.service_ns(sdb.params) == service_ns


def test_scsi_debug_without_delay_completes_inside_queuecommand_and_wakes_ksoftirqd() -> None:
    box = one_write(scsi_debug(0))
    assert box.comm(box.events("sched_waking")[0][2]["pid"]) == "ksoftirqd/0"
    assert [event[2]["res"] for event in box.events("box_aio_complete")] == [4096]
