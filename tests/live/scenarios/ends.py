"""The start and the end of a job."""

import atexit
import threading
import time

import torch.distributed as dist

from tests.live.scenarios.common import DAY_S, RANK, block, mark, step, warm_up


def missing_at_the_start() -> None:
    """Rank 2 never comes to init_process_group."""
    mark()
    if RANK == 2:
        block()
    dist.init_process_group("gloo")


def teardown() -> None:
    """Rank 1 destroys its groups and stays; the others are in one more step, which fails, and they keep their error."""
    warm_up()
    mark()
    if RANK == 1:
        dist.destroy_process_group()
        block()
    try:
        step()
    except RuntimeError:
        time.sleep(DAY_S)  # gloo notices that its peer is gone


def at_exit() -> None:
    """Rank 1 has come to the end of its program, and a function at its exit waits; the others are in a barrier."""
    warm_up()
    mark()
    if RANK == 1:
        atexit.register(threading.Event().wait, DAY_S)
        return
    dist.barrier()


def thread_outlives_main() -> None:
    """Rank 3's program has ended, and a thread that is no daemon keeps the process; the others are in a barrier."""
    warm_up()
    mark()
    if RANK == 3:
        threading.Thread(target=threading.Event().wait, args=(DAY_S,)).start()
        return
    dist.barrier()


def one_step_more() -> None:
    """Rank 0 had a batch more than the others, which have ended their loop and sleep."""
    warm_up()
    mark()
    if RANK:
        block()
    step()
