"""One torchrun script, one fault per name in the environment variable SCENARIO; FOLDER holds its pipes and markers.

Every rank prints nothing and creates FOLDER/at-RANK when it comes to the end of what it can do by itself: the
test waits for these markers, never for a time.
"""

import collections
import itertools
import os
import queue
import threading
import time

import torch
import torch.distributed as dist

SCENARIO, FOLDER = os.environ["SCENARIO"], os.environ["FOLDER"]
RANK, WORLD = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
DAY_S = 86400.0


def mark() -> None:
    """Tell the test that this rank is now where its scenario wants it."""
    with open(os.path.join(FOLDER, f"at-{RANK}"), "w", encoding="utf-8"):
        pass


def step(group: "dist.ProcessGroup | None" = None, size: int = 8) -> None:
    dist.all_reduce(torch.ones(size), group=group)


def warm_up() -> None:
    for _ in range(3):
        step()
    dist.barrier()


def wait_for_ever() -> None:
    """Block in a way that each scenario chooses."""
    mark()
    if SCENARIO == "loop":
        for _ in itertools.count():
            pass
    elif SCENARIO == "lock":
        held = threading.Lock()
        held.acquire()
        held.acquire()
    elif SCENARIO == "file":
        os.mkfifo(os.path.join(FOLDER, "pipe"))
        with open(os.path.join(FOLDER, "pipe"), encoding="utf-8") as pipe:
            pipe.read()
    elif SCENARIO == "queue":
        queue.Queue[int]().get()
    else:
        time.sleep(DAY_S)


def one_rank_blocks(guilty: int) -> None:
    """sleep, loop, lock, file, queue: one rank never comes to the all_reduce."""
    warm_up()
    if guilty == RANK:
        wait_for_ever()
    mark()
    step()


def skipped_step() -> None:
    """Rank 2 swallows an error, leaves one all_reduce out, and comes too early to the barrier."""
    warm_up()
    for number in range(4):
        try:
            if RANK == 2 and number == 1:
                raise ValueError("a bad batch")
            if number == 3:
                mark()
            step()
        except ValueError:
            continue
    mark()
    dist.barrier()


def branch() -> None:
    """Rank 1 takes a branch of its own: no logging all_reduce there, but a look for a file."""
    warm_up()
    if RANK == 1:
        mark()
        while not os.path.exists(os.path.join(FOLDER, "never")):
            time.sleep(0.01)
    mark()
    step()


def opposite_order() -> None:
    """Ranks 0 and 1 use two groups of theirs in opposite order; 2 and 3 wait in the default group."""
    first, second = dist.new_group([0, 1]), dist.new_group([0, 1])
    warm_up()
    if RANK < 2:
        step(first)
        step(second)
        mark()
        for group in (first, second) if RANK == 0 else (second, first):
            step(group)
    mark()
    step()


def circle() -> None:
    """Three ranks, three groups of two, each rank waits in another one."""
    pairs = [(0, 1), (1, 2), (0, 2)]
    groups = [dist.new_group(list(pair)) for pair in pairs]
    warm_up()
    order = {0: (0, 2), 1: (1, 0), 2: (2, 1)}[RANK]
    for number, pair in enumerate(pairs):
        if RANK in pair:
            step(groups[number])
    mark()
    for number in order:
        step(groups[number])


def wrong_op() -> None:
    warm_up()
    mark()
    if RANK == 1:
        dist.all_gather([torch.ones(8) for _ in range(WORLD)], torch.ones(8))
    else:
        step()
    dist.barrier()


def wrong_shape() -> None:
    """Rank 3 expects more than comes: gloo takes it without a word, and the job goes on with wrong numbers."""
    warm_up()
    dist.broadcast(torch.ones(16 if RANK == 3 else 8), 0)
    mark()
    time.sleep(DAY_S)


def wrong_dtype() -> None:
    warm_up()
    dist.all_reduce(torch.ones(8, dtype=torch.int32 if RANK == 0 else torch.float32))
    mark()
    time.sleep(DAY_S)


def barrier_missed() -> None:
    warm_up()
    if RANK == 0:
        mark()
        time.sleep(DAY_S)
    mark()
    dist.barrier()


def monitored() -> None:
    """monitored_barrier leaves no entry: only the stacks tell."""
    warm_up()
    if RANK == 2:
        mark()
        time.sleep(DAY_S)
    mark()
    dist.monitored_barrier()


def mesh() -> None:
    """4 tensor-parallel pairs, 2 data-parallel groups of 4; rank 5 never comes to its pair's all_reduce."""
    tp = [dist.new_group([first, first + 1]) for first in range(0, 8, 2)][RANK // 2]
    dp = [dist.new_group(list(range(first, 8, 2))) for first in range(2)][RANK % 2]
    warm_up()
    for number in range(3):
        step(tp)
        if number < 2:
            step(dp)
    if RANK == 5:
        mark()
        time.sleep(DAY_S)
    mark()
    step(tp)
    step(dp)
    step()


def pipeline() -> None:
    """Stage 1 of 4 stops computing: the stages after it wait to receive, the one before it to send."""
    warm_up()
    for number in range(3):
        tensor = torch.ones(8)
        if RANK == 1 and number == 2:
            mark()
            time.sleep(DAY_S)
        if number == 2:
            mark()
        if RANK > 0:
            dist.recv(tensor, RANK - 1)
        if RANK < WORLD - 1:
            dist.send(tensor, RANK + 1)
        if RANK == 0 and number == 2:
            dist.recv(tensor, WORLD - 1)


def two_faults() -> None:
    group = [dist.new_group([0, 1]), dist.new_group([2, 3, 4])][RANK > 1]
    warm_up()
    step(group)
    if RANK in (0, 3):
        mark()
        time.sleep(DAY_S)
    mark()
    step(group)


def stopped() -> None:
    """The test stops or kills a rank that has come to its mark."""
    warm_up()
    if RANK == 1:
        mark()
        time.sleep(DAY_S)
    mark()
    try:
        step()
    except RuntimeError:
        time.sleep(DAY_S)  # gloo notices a dead peer at once


def early_exit() -> None:
    warm_up()
    if RANK == 1:
        mark()
        os._exit(0)
    mark()
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


def healthy_mid() -> None:
    warm_up()
    sizes = collections.deque([8, 16, 32])
    for number in itertools.count():
        sizes.rotate()
        step(size=sizes[0])
        time.sleep(0.002)
        if number == 40:
            mark()


def healthy_end() -> None:
    warm_up()
    mark()
    time.sleep(DAY_S)  # the last rank's server is still there to be asked


GUILTY = {"sleep": 2, "loop": 1, "lock": 0, "file": 3, "queue": 1}


def main() -> None:
    dist.init_process_group("gloo")
    if SCENARIO in GUILTY:
        one_rank_blocks(GUILTY[SCENARIO])
    else:
        globals()[SCENARIO]()


if __name__ == "__main__":
    main()
