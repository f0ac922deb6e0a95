"""Waits at the job's store."""

import os

from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.elastic.utils.store import barrier, synchronize

from tests.live.scenarios.common import FOLDER, RANK, WORLD, block, mark, step, warm_up


def absent_key() -> None:
    """Ranks 1 to 3 wait for a key that rank 0 sets after its batch, which never comes."""
    warm_up()
    mark()
    if RANK == 0:
        block()
    _get_default_store().get("plan")
    step()


def key_of_nobody() -> None:
    """All wait for a key that no rank sets."""
    warm_up()
    store = _get_default_store()
    mark()
    store.wait(["plan"])


def one_waits_at_the_store() -> None:
    """Rank 1 waits for a key that nobody sets; the others wait for rank 1."""
    warm_up()
    store = _get_default_store()
    mark()
    if RANK == 1:
        store.wait(["plan"])
    step()


def key_of_a_rank() -> None:
    """Rank 0 waits for the word of rank 2, which waits for its data; the others have nothing to do."""
    warm_up()
    store = _get_default_store()
    mark()
    if RANK == 0:
        store.get("done/rank2")
    block()


def elastic_barrier() -> None:
    warm_up()
    mark()
    if RANK == 2:
        block()
    barrier(_get_default_store(), WORLD, "checkpoint", 600)


def barrier_of_two() -> None:
    """Rank 0 waits for one of the others in a barrier of two, and nothing says for which."""
    warm_up()
    mark()
    if RANK:
        block()
    barrier(_get_default_store(), 2, "pair", 600)


def exchange() -> None:
    """Rank 1 never comes to an exchange of data through the store."""
    warm_up()
    mark()
    if RANK == 1:
        block()
    synchronize(_get_default_store(), b"data", RANK, WORLD, "shapes/", 600)


def silent_pipe() -> None:
    """All read what another program should have written: as from a file server that is gone."""
    warm_up()
    path = os.path.join(FOLDER, f"pipe-{RANK}")
    os.mkfifo(path)
    mark()
    with open(path, encoding="utf-8") as file:
        file.read()
