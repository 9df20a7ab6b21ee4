"""What a CPU can be executing: the kinds of execution frame, and what each allows.

Theory of operation
-------------------
A CPU executes one frame at a time: a kind, the time at which it ends, and an argument.  A hard
interrupt pushes a frame over whatever ran; so does a softirq round; so does a subroutine such as a
wakeup.  When a frame ends, the handler of its kind runs (:data:`emulator.kernel.frame_ends.ENDS`): it
has its effect, and either starts the next frame of the same context or returns to the frame below,
which goes on with the time it had left.  Frames are plain numbers, so that a CPU can be written to
a snapshot in the middle of anything.
"""

from __future__ import annotations

# Context levels.
LEVEL_TASK = 0
LEVEL_SOFTIRQ = 1
LEVEL_HARDIRQ = 2

# Task context: user space, system calls, kernel threads.
HALT = 0  # the idle loop, halted
USER = 1  # user code; preemptible
RET_USER = 2  # about to return to user space
IDLE_ENTRY = 3  # the idle loop, from the switch to the halt
IDLE_EXIT = 4  # the idle loop, from the wakeup to schedule()
SCHEDULE = 5  # __schedule() up to the switch
NEWIDLE = 6  # newidle_balance() before it knows whether to ask
NEWIDLE_WAIT = 7  # newidle_balance(), the balancer decides
NEWIDLE_PAY = 8  # newidle_balance(): the time of a further pass
NEWIDLE_DONE = 9  # newidle_balance(), the balancer has answered
SUBMIT_PREP = 10  # io_submit(): one iocb up to the plug
SUBMIT_LOCKED = 11  # io_submit(): an unaligned write holds the inode's lock alone
DISPATCH = 12  # blk_mq: one request from the plug to the device
DISPATCHED = 13  # blk_mq: after a request that ended in the submitter
SUBMIT_EXIT = 14  # io_submit(): from the last dispatch to the return
DIO_WAITED = 15  # io_submit(): after inode_dio_wait() of an unaligned write
GETEVENTS = 16  # io_getevents()
NANOSLEEP = 17  # clock_nanosleep() up to the switch
RW_PREP = 18  # pread()/pwrite(): up to the plug
RW_EXIT = 19  # pread()/pwrite(): after its IO
GET_TAG = 20  # blk_mq_get_tag() after a wakeup
WORKER_START = 21  # worker_thread() from the switch to its first work
WORK_BODY = 22  # a work item up to its effect
WORK_TAIL = 23  # a work item after its effect
WORK_NEXT = 24  # between two work items
WORK_RESCHED = 25  # a worker that gave way between two items
WORKER_SLEEP = 26  # worker_thread() from the last work to schedule()
WORKER_CREATE = 27  # maybe_create_worker()
KSOFTIRQD = 28  # run_ksoftirqd() between rounds
STOPPER = 29  # cpu_stopper_thread(): looks for work
STOPPER_TAIL = 30  # cpu_stopper_thread(): the rest of a stop work, after the task was moved
STOPPER_WORK = 31  # cpu_stopper_thread(): one stop work
HOTPLUG = 32  # cpuhp: one step
EXIT = 33  # do_exit()
# Subroutines: they run in the context of their caller, with interrupts off.
TTWU = 34  # try_to_wake_up() of a bound task, up to the enqueue
TTWU_SELECT = 35  # try_to_wake_up() of a movable task, up to select_task_rq()
TTWU_ACTIVATE = 36  # from the chosen CPU to the enqueue there
# Hard interrupts.
IRQ_HRTIMER = 37  # hrtimer_interrupt(): one expired timer
IRQ_TICK = 38  # tick_sched_timer()
IRQ_IPI = 39  # scheduler_ipi() and call-function interrupts
IRQ_DEVICE = 40  # a device's interrupt
IRQ_DONE = 41  # an interrupt that woke somebody, after the wakeup
# Softirqs.
SOFTIRQ_ENTRY = 42  # __do_softirq() up to the first handler
BLOCK_START = 43  # BLOCK: one request up to block_rq_complete
BLOCK_END = 44  # BLOCK: one request up to queue_work()
BLOCK_QUEUE = 45  # BLOCK: queue_work() up to the wakeup of a worker
BLOCK_QUEUED = 46  # BLOCK: after the wakeup of a worker
BLOCK_TAIL = 47  # BLOCK: after the last request
SOFTIRQ_TIMER = 48  # run_timer_softirq()
SOFTIRQ_SCHED = 49  # run_rebalance_domains() before the balancer is asked
SOFTIRQ_SCHED_WAIT = 50  # run_rebalance_domains(), the balancer decides
SOFTIRQ_SCHED_PAY = 51  # run_rebalance_domains(): the time of a further pass
SOFTIRQ_SCHED_DONE = 52  # run_rebalance_domains(), answered while interrupted
SOFTIRQ_RCU = 53  # rcu_core()
SOFTIRQ_DONE = 54  # the round is over, ksoftirqd has been woken
SOFTIRQ_RCU_END = 55  # rcu_core(), after the wakeup of rcu_sched
RCU_FQS = 56  # rcu_sched looks which CPUs are idle
EXEC = 57  # execve() up to sched_exec()
# Pipes.
PIPE_READ = 58  # read() of a pipe up to where it looks
PIPE_WRITE = 59  # write() to a pipe up to where the number is in it
PIPE_WRITTEN = 60  # write() after the wakeup of the reader
PIPE_SELECT = 61  # try_to_wake_up() of a reader elsewhere, up to select_task_rq()
SETAFFINITY = 62  # sched_setaffinity() of the current task
FSYNC = 63  # fsync() and what it waits for
# A completion policy: also a subroutine, with interrupts off.
QUEUE_WORK_ON = 64  # its decision, and queue_work_on() of another CPU's pool
# Unbound workqueues.
WQ_WAIT = 65  # queue_work() or worker_thread(), waits for the lock of an unbound pool
WQ_ANSWER = 66  # the same, from the answer on
WQ_SELECT = 67  # try_to_wake_up() of a worker elsewhere, up to select_task_rq()
# More hard interrupts.
IRQ_VECTOR = 68  # the interrupt of a device's vector, with its completions
IRQ_QUEUE = 69  # a hardware queue is to be run here, or its requests' timer has expired
# Program `works`.
QUEUE_WORKS = 70  # a module queues its items, one after the other
FLUSH_WORKS = 96  # flush_workqueue() up to where it asks the pools
CANCEL_WORK = 97  # cancel_work_sync() up to where it looks
# Direct IO, io_uring.
SUBMIT_DONE = 71  # io_submit(): after the transaction or the sync of a write that ended at once
URING_REAP = 72  # the completions of an io_uring: user space takes them, or the wait for more
TASK_WORK = 73  # task_work_run(): a completion that was left to its submitter
# Threaded interrupts.
IRQ_THREAD = 77  # irq_thread() between handlers
IRQ_THREAD_FN = 78  # irq_forced_thread_fn(): the handler, with its completions
IRQ_THREAD_BH = 79  # the same, after whom it woke, up to local_bh_enable()
IRQ_EXITED = 92  # irq_exit(), after the wakeup of ksoftirqd
# Tags of requests.
TAG_ASKED = 74  # blk_mq_get_tag(), the device says whether there is one
TAG_ANSWERED = 75  # blk_mq_get_tag(), the device has answered
DISPATCH_OVER = 76  # blk_mq: after a run of the queue that the device refused, or that gives way
QUEUE_RUN = 106  # blk_mq: queue_work() of run_work up to the wakeup of a worker
SUBMIT_POINT = 107  # io_submit(): a reschedule is pending, up to the next might_sleep()

# Buffered writes.
WRITE_COPY = 80  # write(): a stretch of pages up to where they are dirty
WRITE_WAIT = 81  # balance_dirty_pages_ratelimited(), before the answer
WRITE_DONE = 82  # the same, from the answer on
WRITE_LOOKED = 83  # the same, after the flusher was queued
WRITE_SLEPT = 84  # write() after a pause
WRITE_NEXT = 85  # write() that gave way between two stretches
WB_ASK = 86  # write_cache_pages(): about to look for dirty pages
WB_WAIT = 87  # the same, before the answer
WB_GOT = 88  # the same, with the answer
WB_PREP = 89  # write_cache_pages(): pages up to their bios
WB_SUBMIT = 90  # submit_bio() of them, after the wakeup with a tag
WB_WOKEN = 91  # fsync(): after the wakeup by the last page

# Polled IO.
POLL_LOOK = 98  # blk_poll(): one look into the completion queue
POLL_SPIN = 99  # blk_poll(): looks again and again
POLL_END = 100  # blk_poll(): one entry that was found, up to the end of its request
POLL_ENDED = 101  # the same, after the wakeups that made

EVENTFD_READ = 103  # read() of an eventfd up to where it looks

#: Argument of USER: the code watches its CPU clock, which goes on while the CPU is without the host.
BURNING = 1

#: Kinds of a task that has bottom halves disabled.
BH_DISABLED = frozenset((IRQ_THREAD_FN, IRQ_THREAD_BH))

#: Kinds in which a pending reschedule is acted on when an interrupt returns to them.
PREEMPTIBLE = frozenset((USER, HALT))

#: Kinds during which the CPU's timer has fired and is not programmed yet for what comes next.
CLOCK_EVENTS = frozenset((IRQ_HRTIMER, IRQ_TICK, IRQ_DEVICE, IRQ_DONE))

#: Kinds whose end may switch to the idle task, which on an SMT machine looks at the siblings.
SWITCHES = frozenset((SCHEDULE, NEWIDLE_DONE))

#: Kinds at whose end a bio may end, so that a completion policy looks at other CPUs.
COMPLETING = frozenset((DISPATCH, IRQ_HRTIMER, IRQ_IPI, IRQ_DEVICE, BLOCK_END, POLL_END))

#: Kinds whose end may look at what other nodes published.
READS = COMPLETING | frozenset(
    (
        NEWIDLE,
        TTWU_SELECT,
        IRQ_TICK,
        SUBMIT_LOCKED,
        DIO_WAITED,
        GETEVENTS,
        STOPPER_WORK,
        SOFTIRQ_RCU,
        RCU_FQS,
        SCHEDULE,
        NEWIDLE_DONE,
        EXEC,
        PIPE_SELECT,
        WQ_SELECT,
        IRQ_VECTOR,
        IRQ_THREAD_FN,
        URING_REAP,
        WORK_BODY,
        POLL_LOOK,
        EVENTFD_READ,
    )
)

#: One more than the highest number; some below it are free.
NR_KINDS = 108
