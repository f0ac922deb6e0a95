"""Jobs in which nothing is wrong, though much looks like it."""

import collections
import itertools
import time

import torch
import torch.distributed as dist

from tests.live.scenarios.common import RANK, WORLD, block, mark, step, warm_up


def _compute(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        _forward(torch.ones(64, 64))


def _forward(batch: torch.Tensor) -> torch.Tensor:
    return _layer(_layer(batch))


def _layer(batch: torch.Tensor) -> torch.Tensor:
    return torch.relu(batch @ batch / 64)


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
    """All have come to the same end, and sleep."""
    warm_up()
    block()


def evaluation() -> None:
    """Rank 0 evaluates, and the others wait for it in a barrier."""
    warm_up()
    mark()
    if RANK == 0:
        _compute(3600)
    dist.barrier()


def rollout() -> None:
    """Ranks 0 and 1 generate; 2 and 3 wait to receive, several times a second."""
    warm_up()
    for number in itertools.count():
        batch = torch.ones(8)
        if RANK < 2:
            _compute(0.05)
            dist.send(batch, RANK + 2)
        else:
            dist.recv(batch, RANK - 2)
        if number == 4:
            mark()


def sends_only() -> None:
    """A ring of sends and receives, and no collective."""
    for number in itertools.count():
        requests = [dist.isend(torch.ones(8), (RANK + 1) % WORLD), dist.irecv(torch.ones(8), (RANK - 1) % WORLD)]
        for request in requests:
            assert request is not None
            request.wait()
        time.sleep(0.002)
        if number == 20:
            mark()


def no_collective() -> None:
    """Everybody computes alone."""
    mark()
    _compute(3600)


def slow_batches() -> None:
    """Every rank's batches come late, by other amounts each time."""
    warm_up()
    for number in itertools.count():
        time.sleep(0.05 + 0.03 * ((RANK + number) % WORLD))
        step()
        if number == 5:
            mark()


def some_have_ended() -> None:
    """Ranks 0 and 1 have finished their work and sleep, 2 and 3 go on in a group of theirs."""
    pair = dist.new_group([2, 3])
    warm_up()
    if RANK < 2:
        block()
    for number in itertools.count():
        step(pair)
        time.sleep(0.002)
        if number == 20:
            mark()


def rank0_logs() -> None:
    """Rank 0 writes its log after each tenth step, and is late for the next one."""
    warm_up()
    for number in itertools.count():
        step()
        if RANK == 0 and number % 10 == 0:
            time.sleep(0.05)
        else:
            time.sleep(0.005)
        if number == 30:
            mark()


def store_heartbeats() -> None:
    """Training, with a word at the store after each step."""
    warm_up()
    store = dist.distributed_c10d._get_default_store()
    for number in itertools.count():
        step()
        store.set(f"beat/{RANK}", str(number))
        store.get(f"beat/{RANK}")
        time.sleep(0.005)
        if number == 20:
            mark()


def checkpoints() -> None:
    """Training that saves a checkpoint beside it after each fifth step."""
    import os

    import torch.distributed.checkpoint as dcp

    from tests.live.scenarios.common import FOLDER

    warm_up()
    saved, group = None, dist.new_group()  # the writer's collectives would meet the training's
    for number in itertools.count():
        step()
        time.sleep(0.01)
        if number % 20 == 0:
            if saved is not None:
                saved.result()
            folder = os.path.join(FOLDER, f"at{number % 40}")
            saved = dcp.async_save({"weight": torch.ones(4)}, checkpoint_id=folder, process_group=group)
        if number == 30:
            mark()
