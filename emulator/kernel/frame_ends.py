"""What happens at the end of each kind of frame; one line per kind of :mod:`frames`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emulator.kernel import (
    aio,
    blk_mq,
    blk_mq_tag,
    blk_poll,
    blk_softirq,
    buffered,
    core,
    dio_completion,
    eventfd,
    frames,
    fsync,
    hrtimer,
    idle,
    io_uring,
    iomap,
    irq_thread,
    might_sleep,
    migration,
    newidle,
    pipe,
    rcu,
    softirq,
    stop_machine,
    syscall,
    tick,
    wq_flush,
    wq_functions,
    wq_unbound,
    wq_worker,
)

if TYPE_CHECKING:
    from emulator.kernel.cpu import Cpu


def _ends() -> list[Callable[[Cpu, Any], None]]:
    def impossible(cpu: Cpu, _arg: Any) -> None:
        raise AssertionError(cpu.story(f"frame {cpu.f_kind} has no end"))

    table: list[Callable[[Cpu, Any], None]] = [impossible] * frames.NR_KINDS
    table[frames.USER] = syscall.user_end
    table[frames.RET_USER] = syscall.ret_user
    table[frames.IDLE_ENTRY] = idle.enter
    table[frames.IDLE_EXIT] = idle.idle_exit_end
    table[frames.SCHEDULE] = core.schedule_end
    table[frames.NEWIDLE] = newidle.newidle_end
    table[frames.NEWIDLE_PAY] = newidle.newidle_paid
    table[frames.NEWIDLE_DONE] = newidle.newidle_finished
    table[frames.SUBMIT_PREP] = aio.submit_prep_end
    table[frames.SUBMIT_LOCKED] = aio.submit_locked
    table[frames.DISPATCH] = blk_mq.dispatch_end
    table[frames.DISPATCH_OVER] = blk_mq.dispatch_over
    table[frames.QUEUE_RUN] = blk_mq.run_work_queued
    table[frames.SUBMIT_POINT] = might_sleep.point_reached
    table[frames.DISPATCHED] = blk_mq.dispatched
    table[frames.SUBMIT_EXIT] = aio.submit_exit
    table[frames.DIO_WAITED] = aio.dio_waited
    table[frames.GETEVENTS] = aio.getevents_end
    table[frames.NANOSLEEP] = syscall.nanosleep
    table[frames.RW_PREP] = aio.rw_prep_end
    table[frames.RW_EXIT] = aio.rw_exit
    table[frames.GET_TAG] = aio.submit_bio
    table[frames.TAG_ANSWERED] = blk_mq_tag.tag_answered
    table[frames.WORKER_START] = wq_worker.worker_start
    table[frames.WORK_BODY] = wq_functions.work_body
    table[frames.WORK_TAIL] = iomap.dio_tail_end
    table[frames.WORK_NEXT] = wq_worker.work_next
    table[frames.WORK_RESCHED] = wq_worker.after_cond_resched
    table[frames.WORKER_SLEEP] = wq_worker.worker_sleep
    table[frames.WORKER_CREATE] = wq_worker.worker_created
    table[frames.KSOFTIRQD] = softirq.run_ksoftirqd
    table[frames.STOPPER] = stop_machine.cpu_stopper_thread
    table[frames.STOPPER_WORK] = stop_machine.work_end
    table[frames.STOPPER_TAIL] = stop_machine.cpu_stopper_thread
    table[frames.TTWU] = core.ttwu_end
    table[frames.TTWU_SELECT] = core.ttwu_select_end
    table[frames.TTWU_ACTIVATE] = core.ttwu_activate_end
    table[frames.IRQ_HRTIMER] = hrtimer.hrtimer_end
    table[frames.IRQ_TICK] = tick.tick_sched_timer
    table[frames.IRQ_IPI] = hrtimer.ipi_end
    table[frames.IRQ_DEVICE] = hrtimer.device_end
    table[frames.IRQ_VECTOR] = hrtimer.vector_end
    table[frames.IRQ_EXITED] = hrtimer.irq_exited
    table[frames.IRQ_THREAD] = irq_thread.irq_thread
    table[frames.IRQ_THREAD_FN] = irq_thread.irq_forced_thread_fn
    table[frames.IRQ_THREAD_BH] = irq_thread.local_bh_enable
    table[frames.IRQ_QUEUE] = hrtimer.queue_end
    table[frames.IRQ_DONE] = hrtimer.interrupt_done
    table[frames.SOFTIRQ_ENTRY] = softirq.pass_begin
    table[frames.BLOCK_START] = blk_softirq.block_start
    table[frames.BLOCK_END] = blk_softirq.block_end
    table[frames.BLOCK_QUEUE] = blk_softirq.block_queue
    table[frames.BLOCK_QUEUED] = blk_softirq.block_queued
    table[frames.BLOCK_TAIL] = blk_softirq.block_tail
    table[frames.SOFTIRQ_TIMER] = softirq.timer_done
    table[frames.SOFTIRQ_SCHED] = softirq.ask_balancer
    table[frames.SOFTIRQ_SCHED_PAY] = softirq.balance_paid
    table[frames.SOFTIRQ_SCHED_DONE] = softirq.sched_done
    table[frames.SOFTIRQ_RCU] = rcu.rcu_core_done
    table[frames.SOFTIRQ_RCU_END] = rcu.rcu_core_end
    table[frames.RCU_FQS] = syscall.rcu_fqs_end
    table[frames.EXEC] = migration.sched_exec
    table[frames.SOFTIRQ_DONE] = softirq.round_done
    table[frames.SETAFFINITY] = syscall.setaffinity
    table[frames.URING_REAP] = io_uring.reap_end
    table[frames.EVENTFD_READ] = eventfd.eventfd_read
    table[frames.POLL_LOOK] = blk_poll.look
    table[frames.POLL_END] = blk_poll.end_entry
    table[frames.POLL_ENDED] = blk_poll.ended
    table[frames.TASK_WORK] = io_uring.task_work_end
    table[frames.SUBMIT_DONE] = aio.submit_done
    table[frames.FSYNC] = fsync.file_fsync
    table[frames.WRITE_COPY] = buffered.write_copied
    table[frames.WRITE_DONE] = buffered.write_done
    table[frames.WRITE_LOOKED] = buffered.write_looked
    table[frames.WRITE_SLEPT] = buffered.write_slept
    table[frames.WRITE_NEXT] = buffered.write_next
    table[frames.WB_ASK] = buffered.wb_ask
    table[frames.WB_GOT] = buffered.wb_got
    table[frames.WB_PREP] = buffered.submit
    table[frames.WB_SUBMIT] = buffered.submit
    table[frames.WB_WOKEN] = buffered.wb_woken
    table[frames.PIPE_READ] = pipe.pipe_read
    table[frames.PIPE_WRITE] = pipe.pipe_write
    table[frames.PIPE_WRITTEN] = pipe.pipe_written
    table[frames.PIPE_SELECT] = pipe.select_end
    table[frames.QUEUE_WORK_ON] = dio_completion.charged
    table[frames.WQ_ANSWER] = wq_unbound.answer_end
    table[frames.WQ_SELECT] = wq_unbound.select_end
    table[frames.FLUSH_WORKS] = wq_flush.flush
    table[frames.CANCEL_WORK] = wq_flush.cancel
    table[frames.QUEUE_WORKS] = syscall.queue_next_work
    return table


#: By frame kind: what is called at its end, with the CPU and the frame's argument.
ENDS = _ends()
