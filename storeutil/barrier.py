"""The barrier: every rank waits until `world_size` have arrived, on torch's own keys.

How this works: arriving is one `add` on a counter; the rank that brings it to `world_size` sets the key that all wait
for. On a store without `check` the operations are exactly torch's. On any other store we wait in slices; a rank still
waiting after the first slice leaves its trace, so that an operator can see during the wait who has arrived, and a
timeout produces one report for all ranks (`tracing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

from torchctl.storeutil.errors import is_timeout, store_error
from torchctl.storeutil.interface import LookingStore, Store, can_look
from torchctl.storeutil.keys import IGNORED, LAST_MEMBER, NUM_MEMBERS, TRACE, TRACING_GATE
from torchctl.storeutil.tracing import leave_trace, missing_ranks
from torchctl.storeutil.waiting import SLICE_S, Deadline, read_counter, store_timeout, wait_slice

Decoder = Callable[[int], str]


def barrier(
    store: Store,
    world_size: int,
    key_prefix: str,
    barrier_timeout: float = 300,
    rank: int | None = None,
    rank_tracing_decoder: Decoder | None = None,
    trace_timeout: float = 10,
) -> None:
    """Wait until `world_size` ranks have called this with the same prefix. O(1) per rank.

    The keys stay in the store, so use a prefix for only one barrier. Ranks here and ranks inside torch's `barrier`
    release each other.

    Args:
        barrier_timeout: seconds for the whole wait.
        rank: our rank; with it, the arrival is traceable and a timeout names the missing ranks.
        rank_tracing_decoder: turns a rank into a more informative text, such as a host name; requires `rank`.
        trace_timeout: seconds, after the timeout, to find out which ranks are missing. The report is ready sooner
            if every rank that has arrived has left its trace.

    Raises:
        DistStoreError: the barrier timed out; the message names the missing ranks if `rank` is given.
        DistNetworkError: the connection to the store was lost.
        ValueError: a decoder without a rank.

    Source: torch.distributed.elastic.utils.store.barrier (2.13).
    """
    if rank is None and rank_tracing_decoder is not None:
        raise ValueError("rank_tracing_decoder needs rank: this arrival cannot be traced without it")
    if not can_look(store):
        _least_barrier(store, world_size, key_prefix, barrier_timeout, rank, rank_tracing_decoder, trace_timeout)
        return
    deadline = Deadline(barrier_timeout)
    last_key = arrive(store, world_size, key_prefix)
    traced = False
    while not wait_slice(store, [last_key], min(SLICE_S, deadline.remaining_s)):
        if not traced:
            leave_trace(store, key_prefix, world_size, rank)
            traced = True
        if deadline.passed:
            if store.check([last_key]):
                return
            raise _timeout_error(
                store, world_size, key_prefix, barrier_timeout, rank, rank_tracing_decoder, trace_timeout
            )


def arrive(store: Store, world_size: int, key_prefix: str) -> str:
    """Count ourselves as arrived, release the others if we are the last, and return the key to wait for."""
    last_key = key_prefix + LAST_MEMBER
    if store.add(key_prefix + NUM_MEMBERS, 1) == world_size:
        store.set(last_key, IGNORED)
    return last_key


def _timeout_error(
    store: LookingStore,
    world_size: int,
    key_prefix: str,
    barrier_timeout: float,
    rank: int | None,
    decoder: Decoder | None,
    trace_timeout: float,
) -> RuntimeError:
    """Return the DistStoreError for a barrier that timed out, with everything we can find out."""
    head = f"for key prefix: {key_prefix} (world_size={world_size}"
    tail = f"timeout={barrier_timeout})"
    try:
        if rank is None:
            arrived = read_counter(store, key_prefix + NUM_MEMBERS)
            return store_error(f"Timed out waiting on barrier, {head}, arrived={arrived}, {tail}")
        report = missing_ranks(store, key_prefix, world_size, rank, trace_timeout)
    except (RuntimeError, ValueError) as error:
        return store_error(f"Timed out waiting on barrier, {head}, {tail}; the missing ranks: {error}")
    head = f"Timed out waiting on barrier on rank {rank}, {head}"
    if report is None:
        return store_error(f"{head}, {tail}; no waiting rank could determine which ranks are missing")
    folded = f" missing={report.names(None)}," if decoder is not None else ""
    text = f"{head}, arrived={report.arrived},{folded} missing_ranks=[{report.names(decoder)}], {tail}"
    if report.anonymous:
        text += f"; {report.anonymous} of these arrived without leaving a trace of their rank"
    if rank != 0 and 0 not in report.untraced:
        name = decoder(0) if decoder is not None else "0"
        text += f"; check rank 0 ({name}) for missing rank info"  # torch's wording, for people who search logs
    return store_error(text)


def _least_barrier(
    store: Store,
    world_size: int,
    key_prefix: str,
    barrier_timeout: float,
    rank: int | None,
    decoder: Decoder | None,
    trace_timeout: float,
) -> None:
    """Wait at the barrier with torch's operations only, for a store without `check`."""
    with store_timeout(store, barrier_timeout):
        last_key = arrive(store, world_size, key_prefix)
        try:
            store.wait([last_key])
        except (RuntimeError, TimeoutError) as error:
            if rank is None or not is_timeout(error):
                raise
            names = _trace_blindly(
                store, world_size, key_prefix, rank, decoder or str, timedelta(seconds=trace_timeout)
            )
            if names is None:
                raise
            raise store_error(
                f"Timed out waiting on barrier on rank {rank}, for key prefix: {key_prefix} "
                f"(world_size={world_size}, missing_ranks=[{', '.join(names)}], timeout={barrier_timeout})"
            ) from None


def _trace_blindly(
    store: Store, world_size: int, key_prefix: str, rank: int, decoder: Decoder, trace_timeout: timedelta
) -> Iterable[str] | None:
    """Return the missing ranks as rank 0 sees them; on other ranks a pointer to rank 0, or None if it is gone.

    Without `check` we can only wait: the first missing rank gets the whole `trace_timeout`, the others a
    millisecond each.
    """
    store.set(f"{key_prefix}{rank}{TRACE}", IGNORED)
    if rank != 0:
        try:
            store.wait([key_prefix + TRACING_GATE])
        except (RuntimeError, TimeoutError) as error:
            if not is_timeout(error):
                raise
            return None
        return [f"<check rank 0 ({decoder(0)}) for missing rank info>"]
    missing: list[str] = []
    for other in range(1, world_size):
        patience = timedelta(milliseconds=1) if missing else trace_timeout
        try:
            store.wait([f"{key_prefix}{other}{TRACE}"], patience)
        except (RuntimeError, TimeoutError) as error:
            if not is_timeout(error):
                raise
            missing.append(decoder(other))
    store.set(key_prefix + TRACING_GATE, IGNORED)
    return missing
