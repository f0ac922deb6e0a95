"""What an operator can do in an exchange: publish for a rank, see who has published, and get every rank's data."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from torchctl.errors import StoreError, StoreInterruptedError, StoreTimeoutError
from torchctl.ranks import fold_ranks
from torchctl.storeutil.barrier import arrive
from torchctl.storeutil.interface import OperatorStore
from torchctl.storeutil.keys import FINISHED, NUM_MEMBERS, data_keys
from torchctl.storeutil.operator.barrier import PROGRESS_S
from torchctl.storeutil.waiting import INTERRUPTIBLE_S, Deadline, absent_keys, read_all, read_counter, wait_slice
from torchctl.text import duration

# Ranks to check in one go: two requests per absent one, so about 20 ms of the store's time, twice a second.
_AT_ONCE = 256

Missing = Callable[[list[int], float], None]  # (ranks that have not published, elapsed seconds)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What all ranks have published.

    Attributes:
        data: one byte string per rank, in rank order.
        elapsed_s: how long it took.
        all_read: False if we are rank 0 and not every rank has read the data by the deadline.
    """

    data: list[bytes]
    elapsed_s: float
    all_read: bool


def join_exchange(
    store: OperatorStore,
    data: bytes,
    rank: int,
    world_size: int,
    key_prefix: str,
    *,
    timeout_s: float,
    stop: threading.Event,
    overwrite: bool = False,
    progress: Missing = lambda missing, elapsed_s: None,
) -> Exchange:
    """Publish `data` as `rank` and wait for the data of all ranks; uses the keys of torch's `synchronize`.

    Args:
        overwrite: publish even if there is already data under our rank.
        stop: set to end the wait; we then withdraw what we published unless another rank may have read it.
        progress: called about twice a second; with thousands of ranks it may lag by a few seconds.

    Raises:
        StoreError: there is already data under our rank.
        StoreTimeoutError: not every rank published; the message names those ranks, and our data stays for them.
        StoreInterruptedError: `stop` was set; the message says whether our data was withdrawn.
    """
    deadline = Deadline(timeout_s)
    keys = data_keys(key_prefix, world_size)
    if store.check([keys[rank]]) and not overwrite:
        raise StoreError(
            f"{keys[rank]} already has data: another exchange used this prefix, or rank {rank} has already published",
            hint="use another --key-prefix, or replace the data with --overwrite",
        )
    store.set(keys[rank], data)
    _wait_for_all(store, rank, keys, key_prefix, deadline, stop, progress)
    values = read_all(store, keys)
    finished_key = arrive(store, world_size, key_prefix + FINISHED)
    all_read = True
    if rank == 0:
        while not wait_slice(store, [finished_key], min(INTERRUPTIBLE_S, deadline.remaining_s)):
            if deadline.passed or stop.is_set():
                all_read = False
                break
    return Exchange(values, deadline.elapsed_s, all_read)


def _wait_for_all(
    store: OperatorStore,
    rank: int,
    keys: list[str],
    key_prefix: str,
    deadline: Deadline,
    stop: threading.Event,
    progress: Missing,
) -> None:
    rank_of = {key: index for index, key in enumerate(keys)}
    absent = _look(store, keys, len(keys), stop)
    shown_s = -PROGRESS_S
    while absent:
        if wait_slice(store, absent[:1], min(INTERRUPTIBLE_S, deadline.remaining_s)) and not stop.is_set():
            absent = _look(store, absent, _AT_ONCE, stop)
            continue
        if stop.is_set():
            fate = _take_back(store, keys[rank], key_prefix)
            raise StoreInterruptedError(f"interrupted after {duration(deadline.elapsed_s)}: {fate}")
        if deadline.elapsed_s - shown_s >= PROGRESS_S:
            absent = _look(store, absent, _AT_ONCE, stop)
            shown_s = deadline.elapsed_s
            progress(sorted(rank_of[key] for key in absent), shown_s)
        if deadline.passed:
            absent = _look(store, absent, len(absent), stop)
            missing = fold_ranks(rank_of[key] for key in absent)
            if missing and not stop.is_set():  # if `stop` cut the check short, we name no rank
                raise StoreTimeoutError(
                    f"exchange `{key_prefix}`: {len(keys) - len(absent)} of {len(keys)} published within "
                    f"{duration(deadline.timeout_s)}; missing: {missing}",
                    hint=f"our data stays under {keys[rank]}: publish again with --overwrite",
                )


def _look(store: OperatorStore, absent: list[str], count: int, stop: threading.Event) -> list[str]:
    """Check the first `count` of `absent`, in parts until `stop`; return which are absent now.

    The keys just checked go last, so that every key gets its turn.
    """
    count = min(count, len(absent))
    still: list[str] = []
    for start in range(0, count, _AT_ONCE):
        if stop.is_set():
            return absent[start:] + still
        still += absent_keys(store, absent[start : min(start + _AT_ONCE, count)])
    return absent[count:] + still


def _take_back(store: OperatorStore, key: str, key_prefix: str) -> str:
    """Delete what we published unless a rank has finished the exchange with it; return which, in words."""
    if read_counter(store, key_prefix + FINISHED + NUM_MEMBERS):
        return "our data stays because others have read it"
    store.delete_key(key)
    return "our data was withdrawn"
