"""Waits at the job's store."""

import torch.distributed as dist
from torch.distributed.elastic.utils.store import barrier

from tests.live.scenarios.common import RANK, WORLD, block, mark, step, warm_up


def store() -> "dist.Store":
    return dist.distributed_c10d._get_default_store()


def absent_key() -> None:
    """Ranks 1 to 3 wait for a key that rank 0 sets after its batch, which never comes."""
    warm_up()
    mark()
    if RANK == 0:
        block()
    store().get("plan")
    step()


def key_of_nobody() -> None:
    """All wait for a key that no rank sets."""
    warm_up()
    mark()
    store().wait(["plan"])


def one_waits_at_the_store() -> None:
    """Rank 1 waits for a key that nobody sets; the others wait for rank 1."""
    warm_up()
    mark()
    if RANK == 1:
        store().wait(["plan"])
    step()


def elastic_barrier() -> None:
    warm_up()
    mark()
    if RANK == 2:
        block()
    barrier(store(), WORLD, "checkpoint", 600)
