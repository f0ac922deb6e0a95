"""Sends and receives, which gloo does not record."""

import torch
import torch.distributed as dist

from tests.live.scenarios.common import RANK, WORLD, block, mark, warm_up


def pipeline() -> None:
    """Stage 1 of 4 stops computing: the stages after it wait to receive, the one before it to send."""
    warm_up()
    for number in range(3):
        tensor = torch.ones(8)
        if number == 2:
            mark()
            if RANK == 1:
                block()
        if RANK > 0:
            dist.recv(tensor, RANK - 1)
        if RANK < WORLD - 1:
            dist.send(tensor, RANK + 1)
        if RANK == 0 and number == 2:
            dist.recv(tensor, WORLD - 1)


def megatron() -> None:
    """Stages that batch their sends and receives and wait for each; stage 2 never comes to its third batch."""
    warm_up()
    for number in range(3):
        if number == 2:
            mark()
            if RANK == 2:
                block()
        operations = []
        if RANK > 0:
            operations.append(dist.P2POp(dist.irecv, torch.ones(8), RANK - 1))
        if RANK < WORLD - 1:
            operations.append(dist.P2POp(dist.isend, torch.ones(8), RANK + 1))
        for request in dist.batch_isend_irecv(operations):
            request.wait()


def irecv_waits() -> None:
    """Rank 0 waits for a request from rank 2, which computes; rank 1 waits for rank 0."""
    warm_up()
    mark()
    if RANK == 2:
        block()
    request = dist.irecv(torch.ones(8), 2 if RANK == 0 else 0)
    assert request is not None
    request.wait()


def wrong_tag() -> None:
    """Rank 0 sends with one tag, rank 1 waits for another; 2 and 3 are idle by right."""
    warm_up()
    mark()
    if RANK > 1:
        block()
    if RANK == 0:
        dist.send(torch.ones(8), 1, tag=1)
        dist.recv(torch.ones(8), 1, tag=3)
    dist.recv(torch.ones(8), 0, tag=2)


def wrong_source() -> None:
    """Rank 0 sends to rank 1, which waits for rank 2; rank 2 is idle by right, and rank 3 too."""
    warm_up()
    mark()
    if RANK > 1:
        block()
    if RANK == 0:
        dist.recv(torch.ones(8), 1)
    dist.recv(torch.ones(8), 2)


def ring_of_receives() -> None:
    """Everybody receives first: nobody sends."""
    warm_up()
    mark()
    dist.recv(torch.ones(8), (RANK - 1) % WORLD)
    dist.send(torch.ones(8), (RANK + 1) % WORLD)
