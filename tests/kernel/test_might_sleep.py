"""Where the way into an IO gives way: ``might_sleep()`` under PREEMPT_VOLUNTARY."""

from __future__ import annotations

import pytest

from emulator.kernel.might_sleep import POINTS
from emulator.types import OP_IO_SUBMIT, OP_RUN, OP_RW, WRITE
from tests.kernel.box import MS, US, Box, Job, Steps, costs, scsi_debug

#: A point every microsecond.
CHARGES = costs(
    io_submit_ns=POINTS * US, io_submit_more_ns=POINTS * US, dispatch_ns=4 * US, context_switch_ns=1
)
DEVICE_NS = 100 * US


def interrupted_at(into_ns: int, *, batch: int = 1, sync: bool = False) -> tuple[Box, int]:
    """Let a preempting worker be woken so far into a submission; return when that begins, too."""
    apart_ns = DEVICE_NS - into_ns

    def steps() -> Steps:
        yield (OP_RUN, 20 * MS)
        yield (OP_IO_SUBMIT, [(0, WRITE, 0, 0, 4096)])
        yield (OP_RUN, apart_ns)
        if sync:
            yield (OP_RW, WRITE, 0, 4096, 4096)
        else:
            yield (OP_IO_SUBMIT, [(1 + n, WRITE, 0, 4096 * (1 + n), 4096) for n in range(batch)])
        yield (OP_RUN, 1 * MS)

    job = Job(steps, name="fio", disk="/xfs")
    box = Box(job, disk=scsi_debug(DEVICE_NS), charges=CHARGES).run(40 * MS)
    return box, box.times("block_rq_issue")[0] + apart_ns


def preempted(box: Box, begin_ns: int) -> int:
    """Return when the worker was switched to, from the beginning of the submission."""
    times = [t for t, old, new in box.switches() if old == "fio" and new.startswith("kworker")]
    return times[0] - begin_ns - 1


@pytest.mark.parametrize(
    ("into_ns", "switch_ns"),
    [(300, 1 * US), (1 * US, 1 * US), (2_500, 3 * US), (6_999, 7 * US)],
)
@pytest.mark.parametrize("sync", [False, True])
def test_a_submission_gives_way_at_the_next_might_sleep(
    into_ns: int, switch_ns: int, sync: bool
) -> None:
    box, begin_ns = interrupted_at(into_ns, sync=sync)
    assert preempted(box, begin_ns) == switch_ns
    # What was left of the way is gone afterwards, no more and no less.
    back = next(t for t, _, new in box.switches() if new == "fio" and t > begin_ns + switch_ns)
    issued = box.times("block_rq_issue")[1]
    assert issued - back == POINTS * US - switch_ns + 4 * US


def test_from_the_plug_to_user_space_nothing_gives_way() -> None:
    box, begin_ns = interrupted_at(8 * US)  # one microsecond into the dispatch
    assert box.times("block_rq_issue")[1] == begin_ns + 11 * US
    assert preempted(box, begin_ns) == 11 * US


def test_the_next_iocb_of_a_batch_gives_way_at_its_first_point() -> None:
    """A batch of two has no plug around it: the worker is woken in the dispatch of the first."""
    box, begin_ns = interrupted_at(8 * US, batch=2)
    assert box.times("block_rq_issue")[1] == begin_ns + 11 * US
    assert preempted(box, begin_ns) == 12 * US
