"""One rank is in code of its own, in the ways that code can wait."""

import fcntl
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import torch
import torch.distributed as dist

from tests.live.scenarios.common import DAY_S, FOLDER, RANK, block, mark, step, warm_up


def _meets(guilty: int) -> bool:
    """Go on together; return whether this is the rank that does not, and take the others into an all_reduce."""
    warm_up()
    mark()
    if guilty == RANK:
        return True
    step()
    return False


def sleep() -> None:
    if _meets(2):
        block()


def loop() -> None:
    if _meets(1):
        for _ in itertools.count():
            pass


def lock() -> None:
    if _meets(0):
        held = threading.Lock()
        held.acquire()
        held.acquire()


def file() -> None:
    if _meets(3):
        path = os.path.join(FOLDER, "pipe")
        os.mkfifo(path)
        with open(path, encoding="utf-8") as pipe:
            pipe.read()


def from_queue() -> None:
    if _meets(1):
        queue.Queue[int]().get()


def child_process() -> None:
    """Rank 2 waits for a tool that does not end."""
    if _meets(2):
        subprocess.run([sys.executable, "-S", "-c", "import signal; signal.pause()"], check=True)


def branch() -> None:
    """Rank 1 takes a branch of its own: no logging all_reduce there, but a look for a file."""
    if _meets(1):
        while not os.path.exists(os.path.join(FOLDER, "never")):
            time.sleep(0.01)


def barrier_missed() -> None:
    warm_up()
    mark()
    if RANK == 0:
        block()
    dist.barrier()


def monitored() -> None:
    """monitored_barrier leaves no entry: only the stacks show it."""
    warm_up()
    mark()
    if RANK == 2:
        block()
    dist.monitored_barrier()


def file_lock() -> None:
    """Nobody gets a file's lock: a process outside of the job has it."""
    warm_up()
    path = os.path.join(FOLDER, "lock")
    if RANK == 0 and os.fork() == 0:
        with open(path, "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            open(path + "ed", "w", encoding="utf-8").close()
            signal.pause()
    while not os.path.exists(path + "ed"):
        time.sleep(0.01)
    mark()
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def stopped() -> None:
    """The test stops or kills rank 1 at its mark."""
    warm_up()
    if RANK == 1:
        block()
    mark()
    try:
        step()
    except RuntimeError:
        time.sleep(DAY_S)  # gloo notices a dead peer at once


def early_exit() -> None:
    warm_up()
    mark()
    if RANK == 1:
        os._exit(0)
    try:
        step()
    except RuntimeError:
        time.sleep(DAY_S)


def straggler() -> None:
    """Rank 2 takes 40 ms longer for every step."""
    warm_up()
    for number in itertools.count():
        if RANK == 2:
            time.sleep(0.04)
        step()
        if number == 40:
            mark()


def slow_reader() -> None:
    """The root of a broadcast runs ahead of rank 3, which takes 20 ms for each."""
    warm_up()
    for number in itertools.count():
        dist.broadcast(torch.ones(8), src=0)
        if RANK == 3:
            time.sleep(0.02)
        if number % 8 == 0:
            step()
        if number == 24:
            mark()


def two_faults() -> None:
    group = [dist.new_group([0, 1]), dist.new_group([2, 3, 4])][RANK > 1]
    warm_up()
    step(group)
    mark()
    if RANK in (0, 3):
        block()
    step(group)


def lock_beside_a_heartbeat() -> None:
    """As `file_lock`, while side threads keep a group of their own moving."""
    beats = dist.new_group()

    def beat() -> None:
        while True:
            step(beats)
            time.sleep(0.01)

    threading.Thread(target=beat, daemon=True).start()
    file_lock()
