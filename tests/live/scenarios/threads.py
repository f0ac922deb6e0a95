"""Ranks whose main thread is not the one in torch.distributed."""

import queue
import threading
import time

import torch
import torch.distributed as dist

from tests.live.scenarios.common import RANK, block, mark, step, warm_up


def side_thread_waits() -> None:
    """Rank 1's side thread is in its metrics' all_reduce like the others'; its main thread never comes to the step."""
    metrics = dist.new_group()
    warm_up()
    if RANK == 2:
        mark()
        block()  # neither metrics nor step: both wait for it
    threading.Thread(target=step, args=(metrics,), daemon=True).start()
    time.sleep(0.1)
    mark()
    if RANK == 1:
        block()
    step()


def side_thread_alone() -> None:
    """Rank 1's main thread is in its own code while a side thread of it waits for rank 0's in a pair."""
    pair = dist.new_group([0, 1])
    warm_up()
    if RANK == 1:
        threading.Thread(target=step, args=(pair,), daemon=True).start()
        block()
    mark()
    step()


def helper_waits() -> None:
    """Every rank trains on a helper thread and joins it; rank 3's helper sleeps."""

    def train() -> None:
        if RANK == 3:
            block()
        mark()
        step()

    warm_up()
    helper = threading.Thread(target=train)
    helper.start()
    helper.join()


def work_on_a_helper() -> None:
    """The main threads wait at a queue for a helper that is in `work.wait()`; rank 1 never started its own."""
    done: queue.Queue[int] = queue.Queue()

    def wait() -> None:
        work = dist.all_reduce(torch.ones(8), async_op=True)
        assert work is not None
        mark()
        work.wait()
        done.put(1)

    warm_up()
    if RANK == 1:
        block()
    threading.Thread(target=wait, daemon=True).start()
    done.get()


def polls_for_a_helper() -> None:
    """As before, and the main threads poll."""
    done = threading.Event()

    def wait() -> None:
        work = dist.all_reduce(torch.ones(8), async_op=True)
        assert work is not None
        mark()
        work.wait()
        done.set()

    warm_up()
    if RANK == 2:
        block()
    threading.Thread(target=wait, daemon=True).start()
    while not done.is_set():
        time.sleep(0.01)


def heartbeat() -> None:
    """Side threads keep a group of their own moving; rank 2's main thread does not come to the step."""
    beats = dist.new_group()

    def beat() -> None:
        while True:
            step(beats)
            time.sleep(0.01)

    warm_up()
    threading.Thread(target=beat, daemon=True).start()
    mark()
    if RANK == 2:
        block()
    step()


def evaluation_moves() -> None:
    """Ranks 2 and 3 evaluate in a group of theirs without end; 0 and 1 train, and rank 1 hangs."""
    pair = [dist.new_group([0, 1]), dist.new_group([2, 3])][RANK > 1]
    warm_up()
    if RANK == 1:
        block()
    mark()
    while RANK > 1:
        step(pair)
        time.sleep(0.01)
    step(pair)
