"""The exchange: every rank publishes some bytes and gets those of all ranks, on torch's own keys."""

from __future__ import annotations

from torchctl.ranks import fold_ranks
from torchctl.storeutil.barrier import arrive
from torchctl.storeutil.errors import is_timeout, store_error
from torchctl.storeutil.interface import LookingStore, Store, can_look
from torchctl.storeutil.keys import FINISHED, data_keys
from torchctl.storeutil.waiting import (
    MIN_WAIT_S,
    SLICE_S,
    Deadline,
    absent_keys,
    own_timeout,
    read_all,
    store_timeout,
    wait_slice,
)

# The first attempt asks for everything at once and may be slow just because it is large: 1024 ranks that
# share two cores need 1.5 s.
FIRST_SLICE_PER_RANK_S = 0.005
LAST_READ_S = 1.0  # to read data that arrived just at the deadline


def synchronize(
    store: Store, data: bytes | str, rank: int, world_size: int, key_prefix: str, timeout: float = 300
) -> list[bytes]:
    """Publish `data` under our rank and return the data of all ranks, in rank order. O(N) per rank, O(N^2) in all.

    The keys stay in the store, so a prefix that was used before may return the old data.

    Args:
        timeout: seconds for the whole call.

    Returns:
        `world_size` byte strings.

    Raises:
        DistStoreError: the exchange timed out; the message names the ranks that have not published.
        DistNetworkError: the connection to the store was lost.

    Source: torch.distributed.elastic.utils.store.synchronize (2.13).
    """
    if not can_look(store):
        with store_timeout(store, timeout):
            store.set(f"{key_prefix}{rank}", data)
            return _least_get_all(store, rank, key_prefix, world_size)
    deadline = Deadline(timeout)
    keys = data_keys(key_prefix, world_size)
    with store_timeout(store, _first_slice_s(world_size, deadline.timeout_s)):
        store.set(keys[rank], data)
        return _finish(store, rank, key_prefix, keys, _read_at_once(store, keys), deadline)


def get_all(store: Store, rank: int, prefix: str, world_size: int) -> list[bytes]:
    """Return the data of all ranks, ``{prefix}{rank}``, waiting for it up to the store's own timeout.

    Rank 0 also waits until the others have read it, since it often hosts the store.

    Raises:
        DistStoreError: the wait timed out; the message names the ranks without data.
        DistNetworkError: the connection to the store was lost.

    Source: torch.distributed.elastic.utils.store.get_all (2.13).
    """
    if not can_look(store):
        return _least_get_all(store, rank, prefix, world_size)
    deadline = Deadline(own_timeout(store).total_seconds())
    keys = data_keys(prefix, world_size)
    with store_timeout(store, _first_slice_s(world_size, deadline.timeout_s)):
        return _finish(store, rank, prefix, keys, _read_at_once(store, keys), deadline)


def _first_slice_s(world_size: int, timeout_s: float) -> float:
    """Return how long the first attempt may take, for the read and again for rank 0's wait."""
    return max(MIN_WAIT_S, min(max(SLICE_S, FIRST_SLICE_PER_RANK_S * world_size), timeout_s / 2))


def _read_at_once(store: LookingStore, keys: list[str]) -> list[bytes] | None:
    """Return the values of all keys, or None if not all arrived within the store's timeout."""
    try:
        return read_all(store, keys)
    except (RuntimeError, TimeoutError) as error:
        if not is_timeout(error):
            raise
        return None


def _finish(
    store: LookingStore,
    rank: int,
    prefix: str,
    keys: list[str],
    values: list[bytes] | None,
    deadline: Deadline,
) -> list[bytes]:
    """Return the values, waiting for late ones; rank 0 then waits until the others have read them.

    Called inside `store_timeout`: the first wait uses that timeout, which saves computing one.
    """
    at_once = values is not None
    if values is None:
        _wait_for_each(store, rank, prefix, keys, deadline)
        with store_timeout(store, max(LAST_READ_S, deadline.remaining_s)):
            values = read_all(store, keys)
    world_size = len(keys)
    finished_key = arrive(store, world_size, prefix + FINISHED)
    if rank == 0 and not (at_once and wait_slice(store, [finished_key])):
        while not wait_slice(store, [finished_key], min(SLICE_S, deadline.remaining_s)):
            if deadline.passed and not store.check([finished_key]):
                raise store_error(
                    f"Timed out on rank 0, for key prefix: {prefix} (world_size={world_size}, "
                    f"timeout={deadline.timeout_s:g}): not every rank has read the data"
                )
    return values


def _wait_for_each(store: LookingStore, rank: int, prefix: str, keys: list[str], deadline: Deadline) -> None:
    """Wait for the absent `keys` one by one: one small request per slice, no matter how many ranks."""
    for key in absent_keys(store, keys):
        while not wait_slice(store, [key], min(SLICE_S, deadline.remaining_s)):
            if not deadline.passed:
                continue
            absent = set(absent_keys(store, keys))
            if not absent:
                return
            missing = fold_ranks(index for index, other in enumerate(keys) if other in absent)
            raise store_error(
                f"Timed out waiting for data on rank {rank}, for key prefix: {prefix} "
                f"(world_size={len(keys)}, missing_ranks=[{missing}], timeout={deadline.timeout_s:g})"
            )


def _least_get_all(store: Store, rank: int, prefix: str, world_size: int) -> list[bytes]:
    """Do `get_all` with torch's operations only, for a store without `check`."""
    values = store.multi_get(data_keys(prefix, world_size))
    finished_key = arrive(store, world_size, prefix + FINISHED)
    if rank == 0:
        store.wait([finished_key])
    return values
