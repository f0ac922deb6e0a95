"""Groups: their order, their members, their roots."""

import contextlib
import itertools
import time

import torch
import torch.distributed as dist

from tests.live.scenarios.common import RANK, WORLD, block, mark, step, warm_up


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


def mesh() -> None:
    """4 tensor-parallel pairs, 2 data-parallel groups of 4; rank 5 never comes to its pair's all_reduce."""
    tp = [dist.new_group([first, first + 1]) for first in range(0, 8, 2)][RANK // 2]
    dp = [dist.new_group(list(range(first, 8, 2))) for first in range(2)][RANK % 2]
    warm_up()
    for number in range(3):
        step(tp)
        if number < 2:
            step(dp)
    mark()
    if RANK == 5:
        block()
    step(tp)
    step(dp)
    step()


def outsider_sleeps() -> None:
    """Ranks 0, 1 and 3 have a group; 3 never enters. Rank 2 is no member and idle by right."""
    group = dist.new_group([0, 1, 3])
    warm_up()
    if RANK != 2:
        step(group)
    mark()
    if RANK in (2, 3):
        block()
    step(group)


def monitored_in_a_group() -> None:
    """A monitored barrier of ranks 0 to 2 lacks rank 1; rank 3 is idle by right."""
    group = dist.new_group([0, 1, 2])
    warm_up()
    mark()
    if RANK in (1, 3):
        block()
    dist.monitored_barrier(group)


def broadcast_roots_differ() -> None:
    """Each half takes another rank for the root: nobody can finish."""
    warm_up()
    mark()
    dist.broadcast(torch.ones(8), src=0 if RANK < 2 else 2)
    step()


def one_gather_root_differs() -> None:
    """Rank 3 gathers to itself what the others gather to rank 0."""
    warm_up()
    mark()
    root = 3 if RANK == 3 else 0
    outputs = [torch.ones(8) for _ in range(WORLD)] if root == RANK else None
    dist.gather(torch.ones(8), outputs, dst=root)
    step()


def scatter_roots_differ() -> None:
    warm_up()
    mark()
    root = 1 if RANK == 2 else 0
    inputs = [torch.ones(8) for _ in range(WORLD)] if root == RANK else None
    dist.scatter(torch.ones(8), inputs, src=root)
    step()


def reduce_roots_differ() -> None:
    warm_up()
    mark()
    dist.reduce(torch.ones(8), dst=1 if RANK == 3 else 0)
    step()


def broadcast_without_its_root() -> None:
    warm_up()
    mark()
    if RANK == 0:
        block()
    dist.broadcast(torch.ones(8), src=0)


def root_went_on() -> None:
    """The root of a broadcast has sent and computes; rank 3 never comes to it: the others need neither."""
    warm_up()
    mark()
    if RANK == 3:
        block()
    dist.broadcast(torch.ones(8), src=0)
    step()


def member_makes_no_group() -> None:
    """Rank 2 does not call new_group, at whose end all ranks meet if they are told to."""
    warm_up()
    mark()
    if RANK == 2:
        block()
    dist.new_group([0, 1])


def survivors_retry() -> None:
    """Rank 2 sleeps; the others' step has failed, and two of them try a barrier again and again."""
    warm_up()
    if RANK == 2:
        block()
    with contextlib.suppress(RuntimeError):
        step()
    mark()
    if RANK == 3:
        block()
    while True:
        try:
            dist.barrier()
        except RuntimeError:
            time.sleep(0.2)


def extra_barrier() -> None:
    """A barrier in `if rank == 0`: one rank makes one collective too many."""
    warm_up()
    for number in range(3):
        step()
        if RANK == 0 and number == 2:
            mark()
            dist.barrier()
    mark()
    step(size=16)
    dist.barrier()


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
    block()


def wrong_dtype() -> None:
    warm_up()
    dist.all_reduce(torch.ones(8, dtype=torch.int32 if RANK == 0 else torch.float32))
    block()


def objects() -> None:
    """Each call on objects is two collectives; rank 1 is in its own code at the second call."""
    warm_up()
    dist.broadcast_object_list([{"epoch": RANK}], src=0)
    mark()
    if RANK == 1:
        block()
    dist.gather_object({"loss": RANK}, [None] * WORLD if RANK == 0 else None, dst=0)


def one_receives() -> None:
    """Rank 1 waits for the root of a broadcast, which sleeps; that the others sleep too holds up nobody."""
    warm_up()
    mark()
    if RANK != 1:
        block()
    dist.broadcast(torch.ones(2), src=0)


def _in_two_groups() -> dist.ProcessGroup:
    """Let ranks 0 and 1 reduce, 2 and 3 broadcast, in groups of theirs and each pair at its own pace."""
    group: dist.ProcessGroup = [dist.new_group([0, 1]), dist.new_group([2, 3])][RANK > 1]
    warm_up()
    for _ in range(4):
        step(group, 4) if RANK < 2 else dist.broadcast(torch.ones(2), src=2, group=group)
    return group


def two_groups_move() -> None:
    """Two groups that never meet again; under DETAIL the recorder knows neither by its name."""
    group = _in_two_groups()
    for number in itertools.count():
        step(group, 4) if RANK < 2 else dist.broadcast(torch.ones(2), src=2, group=group)
        if RANK > 1:
            dist.barrier(group)
        if number == 20:
            mark()


def sleep_in_one_of_two() -> None:
    """Rank 3 sleeps before an operation of its pair, and the other pair comes to one of all."""
    group = _in_two_groups()
    mark()
    if RANK == 3:
        block()
    if RANK == 2:
        dist.broadcast(torch.ones(2), src=3, group=group)
    step()
