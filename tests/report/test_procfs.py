"""Files of /proc and /sys, to the letter, of a scene written by hand; and of whole runs."""

from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator import engines
from emulator.attach import AttachError, CatRequest, cat, copy_tree
from emulator.config import load_box
from emulator.kernel.part_stat import disk_stats, part_stat
from emulator.report.procfs.counts import Counter
from emulator.report.procfs.disks import DiskCounter, stat_group
from emulator.report.procfs.files import FILES, list_files, read_file
from emulator.report.procfs.view import NoFileError, View
from emulator.rules import rules_of
from emulator.session import Request, run_box
from emulator.trace.reader import open_rings
from emulator.trace.ring import MemoryRing
from emulator.tracepoints import (
    BLOCK_RQ_COMPLETE,
    BLOCK_RQ_INSERT,
    BLOCK_RQ_ISSUE,
    BOX_COMMAND,
    BOX_DISPATCH_BUSY,
    CALL_FUNCTION_SINGLE_ENTRY,
    CPU_IDLE,
    CPUHP_ENTER,
    F_HARDIRQ,
    HRTIMER_EXPIRE_ENTRY,
    IRQ_HANDLER_ENTRY,
    RESCHEDULE_ENTRY,
    SCHED_MIGRATE_TASK,
    SCHED_SWITCH,
    SCHED_WAKEUP,
    SCHED_WAKEUP_NEW,
    SCHED_WAKING,
    SOFTIRQ_ENTRY,
    SOFTIRQ_RAISE,
    TASK_IDLE,
    TASK_INTERRUPTIBLE,
    TASK_UNINTERRUPTIBLE,
    TICK_SOFTIRQ,
    TICK_SYSTEM,
    TICK_USER,
    WORKQUEUE_EXECUTE_START,
)
from emulator.types import BoxSpec
from tests.report.rings import readers_of

FIO = 10_000
KWORKER = 16
MS = 1_000_000
BLOCK = 4
TIMER = 1
#: The second disk's second vector.
NVME0Q2 = 89
EXIT = 0xFFFFFFFF


class Scene:
    """Two CPUs: fio runs on CPU 0, waits for its kworker, and goes to CPU 1."""

    def __init__(self) -> None:
        self.rings = [MemoryRing(f"cpu{cpu}", cpu) for cpu in range(2)]
        for ring in self.rings:
            ring.comm(FIO, "fio")
        self.rings[0].comm(KWORKER, "kworker/0:1")

    def emit(self, cpu: int, time_ns: int, event: int, *args: int, **how: int) -> None:
        """Record an event in the context of ``pid``."""
        self.rings[cpu].emit(time_ns, event, how.get("flags", 0), how.get("pid", FIO), 0, *args)

    def switch(self, cpu: int, time_ns: int, prev: int, following: int, state: int = 0) -> None:
        """Record a switch."""
        self.emit(cpu, time_ns, SCHED_SWITCH, prev, 120, state, following, 120)

    def play(self) -> None:
        """Record the scene, 100 ms of it."""
        emit = self.emit
        emit(0, 0, CPU_IDLE, 1, 0, pid=0)
        emit(1, 0, CPU_IDLE, 1, 1, pid=0)
        emit(0, 10 * MS, CPU_IDLE, EXIT, 0, pid=0)
        emit(0, 10 * MS, SCHED_WAKEUP_NEW, FIO, 120, 0, pid=0)
        self.switch(0, 11 * MS, 0, FIO)
        for tick in range(12, 32):
            context = TICK_SYSTEM if tick % 4 == 0 else TICK_SOFTIRQ if tick == 13 else TICK_USER
            emit(0, tick * MS, SOFTIRQ_RAISE, TIMER, context)
            emit(0, tick * MS, SOFTIRQ_ENTRY, TIMER)
        emit(0, 32 * MS, HRTIMER_EXPIRE_ENTRY, 1, 0, 32 * MS)
        emit(0, 32 * MS, SOFTIRQ_ENTRY, BLOCK)
        emit(0, 32 * MS, SCHED_WAKING, KWORKER, 120, 0)
        emit(0, 32 * MS, SCHED_WAKEUP, KWORKER, 120, 0)
        self.switch(0, 36 * MS, FIO, KWORKER)
        emit(0, 37 * MS, SCHED_MIGRATE_TASK, FIO, 120, 0, 1, 2, pid=KWORKER)
        self.switch(0, 38 * MS, KWORKER, 0, TASK_IDLE)
        emit(0, 38 * MS, CPU_IDLE, 1, 0, pid=0)
        emit(1, 38 * MS, CPU_IDLE, EXIT, 1, pid=0)
        emit(1, 38 * MS, RESCHEDULE_ENTRY, 253, pid=0)
        self.switch(1, 39 * MS, 0, FIO)
        self.switch(1, 60 * MS, FIO, 0, TASK_INTERRUPTIBLE)
        emit(1, 60 * MS, CPU_IDLE, 1, 1, pid=0)
        emit(1, 80 * MS, SCHED_WAKING, FIO, 120, 1, pid=0, flags=F_HARDIRQ)
        emit(1, 80 * MS, SCHED_WAKEUP, FIO, 120, 1, pid=0, flags=F_HARDIRQ)
        emit(1, 80 * MS, CPU_IDLE, EXIT, 1, pid=0)
        self.switch(1, 81 * MS, 0, FIO)
        emit(1, 90 * MS, CALL_FUNCTION_SINGLE_ENTRY, 251)

    def view(self, now_ns: int = 100 * MS, *overrides: str) -> View:
        """Return the box at a time."""
        words = ("machine.cpus=2", *overrides)
        return View(load_box("xfs-aio-4k-tuned", words).resolve(), readers_of(self.rings), now_ns)


@pytest.fixture(scope="module")
def view() -> View:
    scene = Scene()
    scene.play()
    return scene.view()


TABLES = {
    "/proc/interrupts": """\
           CPU0       CPU1$
LOC:         21          1   Local timer interrupts
RES:          0          1   Rescheduling interrupts
CAL:          0          1   Function call interrupts
ERR:          0
MIS:          0
""",
    "/proc/softirqs": """\
                    CPU0       CPU1$
          HI:          0          0
       TIMER:         20          0
      NET_TX:          0          0
      NET_RX:          0          0
       BLOCK:          1          0
    IRQ_POLL:          0          0
     TASKLET:          0          0
       SCHED:          0          0
     HRTIMER:          0          0
         RCU:          0          0
""",
    "/proc/stat": """\
cpu  1 0 0 13 0 0 0 0 0 0
cpu0 1 0 0 7 0 0 0 0 0 0
cpu1 0 0 0 5 0 0 0 0 0 0
intr 24
ctxt 6
btime 0
processes 2
procs_running 1
procs_blocked 0
softirq 21 0 20 0 0 1 0 0 0 0 0
""",
    "/proc/schedstat": """\
version 15
timestamp 100
cpu0 0 0 3 1 1 1 27000000 6000000 2
cpu1 0 0 3 1 1 1 21000000 3000000 2
""",
    "/proc/loadavg": "0.00 0.00 0.00 1/2 10000\n",
    "/proc/uptime": "0.10 0.13\n",
    # fio waits from 32 to 37 ms on CPU 0, which is busy for 28 ms, CPU 1 for 43: 5 ms * 28 / 71.
    "/proc/pressure/cpu": "some avg10=0.00 avg60=0.00 avg300=0.00 total=1971\n",
    "/proc/10000/comm": "fio\n",
    "/proc/10000/schedstat": "65000000 5000000 3\n",
    "/proc/10000/stat": (
        "10000 (fio) R 1 10000 10000 0 -1 4194304 0 0 0 0 4 1 0 0 20 0 1 0 1 0 0 "
        "18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    ),
    "/proc/16/stat": (
        "16 (kworker/0:1) I 2 0 0 0 -1 69206048 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0 "
        "18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    ),
    "/proc/10000/status": """\
Name:	fio
State:	R (running)
Tgid:	10000
Ngid:	0
Pid:	10000
PPid:	1
TracerPid:	0
Threads:	1
Cpus_allowed:	3
Cpus_allowed_list:	0-1
voluntary_ctxt_switches:	1
nonvoluntary_ctxt_switches:	1
""",
    "/proc/10000/sched": """\
fio (10000, #threads: 1)
-------------------------------------------------------------------
se.exec_start                                :            81.000000
se.sum_exec_runtime                          :            65.000000
se.nr_migrations                             :                    1
se.statistics.sum_sleep_runtime              :            20.000000
se.statistics.wait_max                       :             2.000000
se.statistics.wait_sum                       :             5.000000
se.statistics.wait_count                     :                    3
se.statistics.nr_wakeups                     :                    1
nr_switches                                  :                    2
nr_voluntary_switches                        :                    1
nr_involuntary_switches                      :                    1
se.load.weight                               :              1048576
policy                                       :                    0
prio                                         :                  120
""",
    "/proc/sched_debug": """\
Sched Debug Version: v0.11, 5.4
ktime                                   : 100.000000
jiffies                                 : 100

cpu#0
  .nr_running                    : 0
  .nr_switches                   : 3
  .curr->pid                     : 0
  .clock                         : 100.000000
  .sched_goidle                  : 1
  .ttwu_count                    : 1
  .ttwu_local                    : 1

runnable tasks:
 S            task   PID         tree-key  switches  prio     wait-time             sum-exec        sum-sleep
-------------------------------------------------------------------------------------------------------------
 I     kworker/0:1    16         0.000000         1   120         4.000000         2.000000         0.000000

cpu#1
  .nr_running                    : 1
  .nr_switches                   : 3
  .curr->pid                     : 10000
  .clock                         : 100.000000
  .sched_goidle                  : 1
  .ttwu_count                    : 1
  .ttwu_local                    : 1

runnable tasks:
 S            task   PID         tree-key  switches  prio     wait-time             sum-exec        sum-sleep
-------------------------------------------------------------------------------------------------------------
>R             fio 10000         0.000000         2   120         5.000000        65.000000        20.000000

""",
    "/proc/diskstats": "   8       0 sda 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
    "/sys/block/sda/inflight": "       0        0\n",
    "/sys/block/sda/dev": "8:0\n",
    "/sys/block/sda/queue/scheduler": "[mq-deadline] none\n",
    "/sys/block/sda/queue/nr_requests": "256\n",
    "/sys/block/sda/queue/io_timeout": "30000\n",
    "/sys/block/sda/queue/write_cache": "write through\n",
    "/sys/block/sda/queue/physical_block_size": "512\n",
    "/sys/block/sda/queue/rotational": "0\n",
    "/sys/block/sda/mq/0/cpu_list": "0, 1\n",
    "/sys/block/sda/mq/0/nr_tags": "192\n",
    "/sys/kernel/debug/block/sda/hctx0/dispatch_busy": "0\n",
    "/sys/kernel/debug/block/sda/hctx0/type": "default\n",
    "/proc/sys/kernel/sched_wakeup_granularity_ns": "15000000\n",
    "/proc/sys/kernel/sched_latency_ns": "12000000\n",
    "/sys/devices/system/cpu/online": "0-1\n",
    "/sys/devices/system/cpu/offline": "\n",
    "/sys/devices/system/cpu/cpu1/online": "1\n",
    "/sys/devices/system/cpu/cpu1/topology/core_siblings_list": "0-1\n",
    "/sys/devices/system/cpu/cpu1/topology/core_id": "1\n",
    "/sys/devices/system/cpu/cpu1/cache/index3/shared_cpu_list": "0-1\n",
    "/sys/devices/virtual/workqueue/cpumask": "3\n",
}


@pytest.mark.parametrize("path", TABLES)
def test_a_file_to_the_letter(view: View, path: str) -> None:
    # The kernel pads the last column of a head; "$" stands for that here.
    assert read_file(view, path) == TABLES[path].replace("$", " " * 7)


def test_every_file_that_is_listed_can_be_read(view: View) -> None:
    words = {"pid": FIO, "cpu": 1, "hctx": 0, "node": 0, "disk": "sda"}
    for file in FILES:
        for name in file.names(view) if file.names is not None else [""]:
            if file.exists(view):
                assert isinstance(read_file(view, file.path.format(**words, name=name)), str)
    assert ("/proc/PID/sched", "its scheduling statistics") in list_files(view)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/proc/interupts", r"did you mean /proc/interrupts\?"),
        ("/proc/10000/shed", r"did you mean /proc/10000/sched\?"),
        ("/sys/block/sda/queue/schedule", r"did you mean /sys/block/sda/queue/scheduler\?"),
        ("/sys/block/sdb/stat", "no disk sdb; there are sda"),
        ("/sys/block/sda/mq/1/cpu_list", "sda has the hardware queues 0-0, not 1"),
        ("/proc/77/stat", r"no task 77; there are 10000 \(fio\), and kernel threads"),
        ("/sys/devices/system/cpu/cpu2/online", "there are the CPUs 0-1, not 2"),
        ("/sys/devices/system/node/node3/cpulist", "there are the nodes 0-0, not 3"),
        (
            "/sys/kernel/debug/sched/latency_ns",
            "5.4 has no such tunable there; it has /proc/sys/kernel/sched_latency_ns",
        ),
        ("/etc/passwd", "`cat RUN` lists what there is"),
    ],
)
def test_a_path_that_is_not_there_names_what_is(view: View, path: str, text: str) -> None:
    with pytest.raises(NoFileError, match=text):
        read_file(view, path)


def test_from_5_13_on_the_tunables_are_in_debugfs() -> None:
    later = Scene().view(100 * MS, "kernel.version='5.15'")
    assert read_file(later, "/sys/kernel/debug/sched/wakeup_granularity_ns") == "15000000\n"
    scaling = read_file(later, "/sys/kernel/debug/sched/tunable_scaling")
    assert scaling == "none (logarithmic) linear\n"
    with pytest.raises(NoFileError, match="it has /sys/kernel/debug/sched/latency_ns"):
        read_file(later, "/proc/sys/kernel/sched_latency_ns")
    with pytest.raises(NoFileError, match="no such file"):
        read_file(later, "/proc/sched_debug")


def test_a_sysctl_that_was_written_is_there_from_then_on() -> None:
    scene = Scene()
    for ring in scene.rings:
        text = ring.intern("sysctl kernel.sched_wakeup_granularity_ns=4000000")
        ring.emit(5 * MS, BOX_COMMAND, 0, 0, 0, text)
    path = "/proc/sys/kernel/sched_wakeup_granularity_ns"
    assert read_file(scene.view(5 * MS), path) == "15000000\n"
    assert read_file(scene.view(6 * MS), path) == "4000000\n"


def test_a_cpu_that_goes_offline_leaves_the_tables() -> None:
    scene = Scene()
    scene.emit(1, 5 * MS, CPUHP_ENTER, 1, 0, 194, 0)
    scene.emit(1, 6 * MS, CPUHP_ENTER, 1, 0, 90, 0)
    scene.emit(1, 9 * MS, CPUHP_ENTER, 1, 195, 194, 0)
    online = "/sys/devices/system/cpu/online"
    assert read_file(scene.view(6 * MS), online) == "0-1\n"
    away = scene.view(8 * MS)
    assert read_file(away, online) == "0\n"
    assert read_file(away, "/sys/devices/system/cpu/offline") == "1\n"
    assert read_file(away, "/proc/interrupts").splitlines()[0] == "           CPU0       "
    assert "CPU1" in read_file(away, "/proc/softirqs")
    assert "cpu1 " not in read_file(away, "/proc/stat")
    # The granularities follow the CPUs that are online.
    assert read_file(away, "/proc/sys/kernel/sched_latency_ns") == "6000000\n"
    assert read_file(scene.view(10 * MS), online) == "0-1\n"


def test_interrupts_of_a_device_have_a_row_each() -> None:
    scene = Scene()
    for _ in range(2):
        scene.emit(1, MS, IRQ_HANDLER_ENTRY, NVME0Q2, scene.rings[1].intern("nvme0q2"))
    view = scene.view(2 * MS, "disks.nvme0n1={driver: nvme}")
    assert read_file(view, "/proc/interrupts").splitlines()[1:3] == [
        " 88:          0          0   PCI-MSI   1-edge      nvme0q1",
        " 89:          0          2   PCI-MSI   2-edge      nvme0q2",
    ]
    assert "intr 2 0 0" in read_file(view, "/proc/stat")
    assert read_file(view, "/proc/irq/89/smp_affinity_list") == "1\n"
    assert read_file(view, "/proc/irq/89/effective_affinity_list") == "1\n"
    assert read_file(view, "/sys/block/nvme0n1/mq/1/cpu_list") == "1\n"
    with pytest.raises(NoFileError, match=r"no interrupt 9; there are 88 \(nvme0q1\), 89"):
        read_file(view, "/proc/irq/9/smp_affinity_list")


def test_a_managed_vector_is_shut_down_with_its_cpu() -> None:
    scene = Scene()
    scene.emit(1, 6 * MS, CPUHP_ENTER, 1, 0, 90, 0)
    view = scene.view(8 * MS, "disks.nvme0n1={driver: nvme}", "disks.vda={driver: virtio_blk}")
    assert read_file(view, "/proc/irq/89/effective_affinity_list") == "\n"
    assert read_file(view, "/proc/irq/152/effective_affinity_list") == "0\n"


def test_idle_time_is_iowait_while_a_task_waits_for_io() -> None:
    scene = Scene()
    scene.emit(0, 0, SCHED_WAKEUP_NEW, FIO, 120, 0)
    scene.switch(0, 1 * MS, 0, FIO)
    for begin, woken_on, waking, end in ((20, 0, 50, 50), (60, 1, 94, 95)):
        scene.switch(0, begin * MS, FIO, 0, TASK_UNINTERRUPTIBLE)
        scene.emit(0, begin * MS, CPU_IDLE, 1, 0, pid=0)
        scene.emit(woken_on, waking * MS, SCHED_WAKING, FIO, 120, 0, pid=0, flags=F_HARDIRQ)
        scene.emit(0, end * MS, CPU_IDLE, EXIT, 0, pid=0)
        scene.emit(0, end * MS, SCHED_WAKEUP, FIO, 120, 0, pid=0)
        scene.switch(0, end * MS, 0, FIO)
    waits = read_file(scene.view(40 * MS), "/proc/stat")
    assert "cpu0 0 0 0 0 2 0 0 0 0 0\n" in waits
    assert "procs_blocked 1\n" in waits
    # Woken from another CPU nobody waits any more when the stretch ends: the kernel calls all of it idle.
    after = read_file(scene.view(100 * MS), "/proc/stat")
    assert "cpu0 0 0 0 3 3 0 0 0 0 0\n" in after
    assert "procs_blocked 0\n" in after


def test_the_load_average_is_sampled_after_five_seconds() -> None:
    scene = Scene()
    scene.emit(0, MS, SCHED_WAKEUP_NEW, FIO, 120, 0)
    scene.switch(0, 2 * MS, 0, FIO)
    assert read_file(scene.view(5_001 * MS), "/proc/loadavg").startswith("0.00 0.00 0.00 1/")
    # One task: 0.08 = 1 - 1884 / 2048, as the kernel's tables have it.
    assert read_file(scene.view(5_002 * MS), "/proc/loadavg").startswith("0.08 0.02 0.01 1/")


def test_pressure_of_a_total_stall_as_psi_averages_it() -> None:
    """H.2: 100 % from 0 on are 18.1, 32.9, 45.1, 55.0 and 63.2 % after 2, 4, 6, 8 and 10 s."""
    scene = Scene()
    for pid in (FIO, KWORKER):
        scene.emit(0, 0, SCHED_WAKEUP, pid, 120, 0)
    scene.switch(0, 0, 0, FIO)
    found = []
    for period in range(1, 6):
        text = read_file(scene.view(period * 2001 * MS), "/proc/pressure/cpu")
        found.append(text.partition(" avg60")[0])
    tenths = ("18.11", "32.9", "45.0", "55.0", "63.1")
    assert all(one.startswith(f"some avg10={t}") for one, t in zip(found, tenths, strict=True)), (
        found
    )
    early = read_file(scene.view(2000 * MS), "/proc/pressure/cpu")
    assert early == "some avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\n"


def test_pressure_of_later_kernels_has_a_second_line() -> None:
    scene = Scene()
    scene.play()
    text = read_file(scene.view(100 * MS, 'kernel.version="6.1"'), "/proc/pressure/cpu")
    assert text.splitlines()[1] == "full avg10=0.00 avg60=0.00 avg300=0.00 total=0"


# -- Disks --------------------------------------------------------------------------------------


def io(scene: Scene, start_ns: int, end_ns: int, sector: int, rwbs: str = "WS") -> None:
    """Record a request of 8 sectors."""
    name = scene.rings[0].intern(rwbs)
    args = (8 << 20, name, sector, 8)
    scene.emit(0, start_ns, BLOCK_RQ_INSERT, *args, 4096)
    scene.emit(0, start_ns, BLOCK_RQ_ISSUE, *args, 4096)
    scene.emit(0, end_ns, BLOCK_RQ_COMPLETE, *args, 0)


def test_disk_statistics_to_the_letter() -> None:
    scene = Scene()
    io(scene, 10 * MS, 15 * MS, 100)
    io(scene, 20 * MS, 20 * MS + 400_000, 200, "R")
    io(scene, 30 * MS, 45 * MS, 300)
    view = scene.view(40 * MS)
    assert read_file(view, "/proc/diskstats") == (
        "   8       0 sda 1 0 8 0 1 0 8 5 1 4 5 0 0 0 0\n"
    )
    assert read_file(view, "/sys/block/sda/inflight") == "       0        1\n"
    assert read_file(view, "/sys/block/sda/stat") == (
        "       1        0        8        0        1        0        8        5        1        4"
        "        5        0        0        0        0\n"
    )


# A lone request of 5 s shows two jiffies of busy time in v5.4 (A.10).
@pytest.mark.parametrize(("version", "busy_ms"), [("5.4", 2), ("5.10", 5001), ("6.12", 5000)])
def test_busy_time_of_a_lone_slow_request(version: str, busy_ms: int) -> None:
    scene = Scene()
    io(scene, 1_000 * MS, 6_000 * MS, 100)
    counter = DiskCounter(readers_of(scene.rings), rules_of(version))
    counter.advance(7_000 * MS)
    assert counter.io_ms(counter.disks[8 << 20]) == busy_ms


@pytest.mark.parametrize(("version", "busy_ms"), [("5.4", 3), ("5.10", 1 + 1 + 6), ("6.12", 4 + 6)])
def test_A_10_a_start_beside_one_in_flight(version: str, busy_ms: int) -> None:
    scene = Scene()
    io(scene, 2 * MS, 12 * MS, 100)
    io(scene, 6 * MS, 12 * MS, 200)
    counter = DiskCounter(readers_of(scene.rings), rules_of(version))
    counter.advance(20 * MS)
    assert counter.io_ms(counter.disks[8 << 20]) == busy_ms


@given(
    requests=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=25),
    version=st.sampled_from(["5.4", "5.10", "6.6", "6.12"]),
)
@settings(max_examples=60, deadline=None)
def test_busy_time_is_what_one_stamp_comes_to(
    requests: list[tuple[int, int]], version: str
) -> None:
    """In 6.12 that is how often something is in flight as a jiffy begins, up to the last touch."""
    quarter = MS // 4
    events = sorted(
        (at * quarter, end, sector)
        for sector, (start, length) in enumerate(requests)
        for at, end in ((start, 0), (start + length, 1))
    )
    rules, stamp, ticks, in_flight, begins = rules_of(version), -1, 0, 0, 0
    for at, end, _sector in events:
        if at // MS != stamp:
            gap, stamp = at // MS - stamp, at // MS
            begins += gap if in_flight else 0
            ticks += gap if end and rules.io_ticks_gap_at_end else 1
        in_flight += -1 if end else 1
    scene = Scene()
    name = scene.rings[0].intern("WS")
    for at, end, sector in events:
        for event in (BLOCK_RQ_COMPLETE,) if end else (BLOCK_RQ_INSERT, BLOCK_RQ_ISSUE):
            scene.emit(0, at, event, 8 << 20, name, sector, 8, 0)
    counter = DiskCounter(readers_of(scene.rings), rules)
    counter.advance(50 * MS)
    busy_ms = counter.io_ms(counter.disks[8 << 20])
    assert busy_ms == (begins if rules.io_ticks_in_flight else ticks)


# In v5.4 each request adds its whole jiffies to the weighted time, later its exact time.
@pytest.mark.parametrize(("version", "queue_ms"), [("5.4", 0), ("5.10", 9)])
def test_weighted_time_of_short_requests(version: str, queue_ms: int) -> None:
    scene = Scene()
    for start in range(10):
        io(scene, start * MS, start * MS + 900_000, start)
    counter = DiskCounter(readers_of(scene.rings), rules_of(version))
    counter.advance(20 * MS)
    assert counter.queue_ms(counter.disks[8 << 20]) == queue_ms


@pytest.mark.parametrize(
    ("rwbs", "group"), [("R", 0), ("WS", 1), ("FWFSM", 1), ("D", 2), ("F", 3), ("FF", 3)]
)
def test_groups_of_requests(rwbs: str, group: int) -> None:
    assert stat_group(rwbs) == group


def test_flushes_have_columns_from_5_5_on() -> None:
    scene = Scene()
    io(scene, 10 * MS, 12 * MS, 0, "FF")
    later = scene.view(20 * MS, "kernel.version='5.6'")
    assert read_file(later, "/proc/diskstats").split()[3:] == (
        ["0", "0", "0", "0", "1", "0", "0", "2", "0", "2", "2", "0", "0", "0", "0", "1", "2"]
    )


def test_flushes_before_and_after_a_log_write_are_part_of_it() -> None:
    scene = Scene()
    io(scene, 10 * MS, 12 * MS, 0, "FF")
    io(scene, 12 * MS, 13 * MS, 8, "WSM")
    io(scene, 13 * MS, 15 * MS, 0, "FF")
    stat = read_file(scene.view(20 * MS), "/sys/block/sda/stat").split()
    assert stat[4:8] == ["1", "0", "8", "5"]
    io(scene, 16 * MS, 18 * MS, 0, "FF")  # one by itself
    assert read_file(scene.view(20 * MS), "/sys/block/sda/stat").split()[4] == "2"


# -- Whole runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    words = ("warmup=50ms",)
    run_box(Request("xfs-aio-4k-tuned", words, duration="200ms", engine="inline", quiet=True), runs)
    return runs


def table(runs: Path, path: str, at_ns: int | None = None) -> str:
    """Return a file of the run."""
    return cat(CatRequest("latest", path, at_ns), runs, 100)


def test_the_tables_of_a_run_agree_with_each_other(runs: Path) -> None:
    stat = dict(line.split(" ", 1) for line in table(runs, "/proc/stat").splitlines())
    fio = table(runs, "/proc/10000/stat").split()
    exec_ns, _delay_ns, slices = map(int, table(runs, "/proc/10000/schedstat").split())
    rows = [
        list(map(int, line.split()[1:]))
        for line in table(runs, "/proc/schedstat").splitlines()
        if line.startswith("cpu")
    ]
    assert int(stat["ctxt"]) == sum(row[2] for row in rows)
    assert slices <= sum(row[8] for row in rows)
    # What runs at the end is in no CPU's run time yet, and no stint is longer than 24 ms.
    assert exec_ns <= sum(row[6] for row in rows) + 24 * MS
    # utime and stime are the run time, cut to 10 ms.
    assert int(fio[13]) + int(fio[14]) in range(
        exec_ns // 10_000_000 - 1, exec_ns // 10_000_000 + 1
    )
    idle_and_busy = [sum(map(int, stat[f"cpu{cpu}"].split())) for cpu in range(8)]
    assert all(17 <= total <= 20 for total in idle_and_busy), idle_and_busy


def test_psutil_reads_a_box(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert copy_tree(CatRequest("latest"), runs, tmp_path) > 200
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    rows = [line.split() for line in table(runs, "/proc/stat").splitlines()]
    times = [row for row in rows if row[0].startswith("cpu")][1:]
    for one, row in zip(psutil.cpu_times(percpu=True), times, strict=True):
        assert (one.user, one.system, one.idle) == tuple(int(row[at]) / 100 for at in (1, 3, 4))
    stats = psutil.cpu_stats()
    named = {row[0]: int(row[1]) for row in rows}
    assert (stats.ctx_switches, stats.interrupts, stats.soft_interrupts) == (
        named["ctxt"],
        named["intr"],
        named["softirq"],
    )
    numbers = list(map(int, table(runs, "/proc/diskstats").split()[3:]))
    disk = psutil.disk_io_counters(perdisk=True)["sda"]
    assert (disk.write_count, disk.write_bytes, disk.busy_time) == (
        numbers[4],
        numbers[6] * 512,
        numbers[9],
    )
    fio = psutil.Process(FIO)
    assert (fio.name(), fio.cmdline(), fio.num_threads()) == ("fio", ["fio"], 1)
    utime, stime = map(int, table(runs, f"/proc/{FIO}/stat").split()[13:15])
    assert (fio.cpu_times().user, fio.cpu_times().system) == (utime / 100, stime / 100)
    assert FIO in psutil.pids()


def test_tables_grow_with_time(runs: Path) -> None:
    times = (50 * MS, 100 * MS, 150 * MS, 200 * MS)
    for path, column in (("/proc/diskstats", 7), ("/proc/10000/schedstat", 0)):
        values = [int(table(runs, path, at).split()[column]) for at in times]
        assert all(earlier < later for earlier, later in pairwise(values)), (path, values)


def test_counting_in_steps_is_counting_at_once(runs: Path) -> None:
    readers = open_rings(runs / "latest")
    whole, steps = Counter(readers), Counter(readers)
    whole.advance(200 * MS)
    for time_ns in range(7 * MS, 201 * MS, 7 * MS):
        steps.advance(time_ns)
    steps.advance(200 * MS)
    for one, other in zip(whole.cpus, steps.cpus, strict=True):
        assert all(getattr(one, slot) == getattr(other, slot) for slot in one.__slots__)
    assert whole.tasks.keys() == steps.tasks.keys()
    for pid, task in whole.tasks.items():
        assert all(
            getattr(task, slot) == getattr(steps.tasks[pid], slot) for slot in task.__slots__
        )


def test_a_typo_is_answered_with_the_nearest(runs: Path) -> None:
    with pytest.raises(AttachError, match=r"did you mean /proc/softirqs\?"):
        table(runs, "/proc/softirq")


def test_the_list_fits_its_width(runs: Path) -> None:
    lines = table(runs, "").splitlines()
    assert lines[0].split() == ["/proc/interrupts", "interrupts", "by", "CPU"]
    assert max(map(len, lines)) <= 100


# What the nodes count themselves, from where a request is allocated to where it is freed.
@pytest.mark.parametrize(
    ("name", "disk"),
    [
        ("xfs-aio-4k-tuned", ""),
        ("xfs-dsync", ""),
        ("xfs-fsync-log", "{driver: nvme, flush: 200us}"),
        ("xfs-fsync-log", "{driver: nvme, flush: 200us, fua: true}"),
    ],
)
def test_disk_statistics_agree_with_the_nodes_own(name: str, disk: str, tmp_path: Path) -> None:
    words = (f"disks.nvme0n1={disk}", "filesystems./mnt.disk=nvme0n1") if disk else ()
    spec = load_box(name, ("warmup=50ms", *words), None, "200ms").resolve()
    index = len(spec.disks) - 1
    outcome = engines.run(
        engines.INLINE, engines.Job(spec, tmp_path, lambda *_args: True, None, False)
    )
    counter = DiskCounter(open_rings(tmp_path), spec.kernel.rules)
    counter.advance(spec.duration_ns)
    parts = [
        part_stat(book["disk_stats"][index], counter.tick_ns)
        for book in outcome.books.values()
        if "disk_stats" in book
    ]
    kept = disk_stats(parts, spec.kernel.rules)
    counted = counter.disks[8 << 20 | 16 * index]
    assert abs(kept.ios[1] - counted.groups[1].ios) <= 1
    assert counted.groups[1].ms == pytest.approx(kept.ticks[1], rel=0.05)
    assert kept.ios[1] > 500


# -- Workqueues (io-and-workqueue.md F.14, F.15) -----------------------------------------------------


def works_box(tmp_path: Path) -> BoxSpec:
    """Run the box of affinity scopes for a while; return what it is."""
    settings = ("warmup=0ms", "expect=[]")
    spec = load_box("workqueue-scopes", settings, None, "60ms").resolve()
    outcome = engines.run(engines.INLINE, engines.Job(spec, tmp_path, lambda _ns, _who="": True))
    assert (outcome.status, outcome.error) == (0, "")
    return spec


def test_F_14_a_workers_name_says_what_it_executes_or_has_executed(tmp_path: Path) -> None:
    spec = works_box(tmp_path)
    readers = open_rings(tmp_path)
    worker, started_ns = next(
        (record[4], record[0])
        for record in readers[0].records()
        if record[1] == WORKQUEUE_EXECUTE_START
    )
    name = readers[0].comms[worker]
    assert name.startswith("kworker/u")
    names = {
        now_ns: read_file(View(spec, readers, now_ns), f"/proc/{worker}/comm")
        for now_ns in (started_ns, started_ns + MS, started_ns + 10 * MS)
    }
    assert list(names.values()) == [
        f"{name}\n",
        f"{name}+events_unbound\n",
        f"{name}-events_unbound\n",
    ]
    later = View(spec, readers, started_ns + MS)
    assert f"({name}+events_unbound)" in read_file(later, f"/proc/{worker}/stat")
    assert read_file(later, f"/proc/{worker}/status").startswith(f"Name:\t{name}+events_unbound\n")


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        (
            (),
            {
                "affinity_scope": "default (cache)",
                "affinity_strict": "0",
                "cpumask": "ff",
                "max_active": "256",
                "nice": "0",
                "per_cpu": "0",
            },
        ),
        (
            ('kernel.workqueue={affinity_scope: smt, affinity_strict: true, cpumask: "0-3"}',),
            {"affinity_scope": "smt", "affinity_strict": "1", "cpumask": "0f"},
        ),
        (
            ('kernel.version="5.4"', "machine.nodes=[0-3, 4-7]"),
            {"pool_ids": "0:17 1:18", "numa": "1", "per_cpu": "0", "max_active": "256"},
        ),
    ],
)
def test_F_15_attributes_of_a_sysfs_workqueue(
    settings: tuple[str, ...], files: dict[str, str]
) -> None:
    view = View(load_box("workqueue-scopes", settings).resolve(), [], 0)
    place = "/sys/bus/workqueue/devices/writeback"
    assert {name: read_file(view, f"{place}/{name}") for name in files} == {
        name: text + "\n" for name, text in files.items()
    }
    if "cpumask" in files:
        mask = read_file(view, "/sys/devices/virtual/workqueue/cpumask")
        assert mask == files["cpumask"] + "\n"
    missing = "pool_ids" if "affinity_scope" in files else "affinity_scope"
    with pytest.raises(NoFileError, match="writeback/ has"):
        read_file(view, f"{place}/{missing}")


def test_polled_queues_are_hardware_queues_too() -> None:
    view = View(load_box("polled-4k").resolve(), [], 0)
    place = "/sys/block/nvme0n1"
    assert read_file(view, f"{place}/queue/io_poll") == "1\n"
    assert read_file(view, f"{place}/queue/io_poll_delay") == "-1\n"
    assert read_file(view, f"{place}/mq/1/cpu_list") == "1\n"
    assert read_file(view, f"{place}/mq/5/cpu_list") == "1, 3\n"
    assert read_file(view, "/sys/kernel/debug/block/nvme0n1/hctx5/type") == "poll\n"


def test_A_4_dispatch_busy_is_that_of_the_cpu_that_found_the_driver_busiest() -> None:
    rings = [MemoryRing(f"cpu{cpu}", cpu) for cpu in range(4)]
    for at_ms, cpu, hctx, busy in [(10, 1, 1, 2), (12, 3, 3, 2), (13, 3, 3, 3), (20, 3, 3, 0)]:
        rings[cpu].emit(at_ms * MS, BOX_DISPATCH_BUSY, 0, FIO, 0, 8 << 20, hctx, busy)

    def averages(at_ms: int) -> list[str]:
        view = View(load_box("polled-4k").resolve(), readers_of(rings), at_ms * MS)
        place = "/sys/kernel/debug/block/nvme0n1"
        return [read_file(view, f"{place}/hctx{hctx}/dispatch_busy") for hctx in range(4)]

    assert averages(11) == ["0\n", "2\n", "0\n", "0\n"]
    assert averages(15) == ["0\n", "2\n", "0\n", "3\n"]
    assert averages(25) == ["0\n", "2\n", "0\n", "0\n"]


def test_an_interrupt_s_affinity_is_what_was_written_last() -> None:
    rings = [MemoryRing(f"cpu{cpu}", cpu) for cpu in range(8)]
    text = rings[0].intern("irq 24 affinity 5-6")
    rings[0].emit(10 * MS, BOX_COMMAND, 0, FIO, 0, text)
    view = View(load_box("irq-affinity").resolve(), readers_of(rings), 20 * MS)
    assert read_file(view, "/proc/irq/24/smp_affinity_list") == "5-6\n"
    assert read_file(view, "/proc/irq/24/effective_affinity_list") == "5\n"
    before = View(load_box("irq-affinity").resolve(), readers_of(rings), 5 * MS)
    assert read_file(before, "/proc/irq/24/smp_affinity_list") == "3\n"
