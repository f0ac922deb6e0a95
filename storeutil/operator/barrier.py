"""What an operator can do at a barrier: inspect it, join it for missing ranks, or release the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

from torchctl.errors import StoreError, StoreInterruptedError, StoreTimeoutError
from torchctl.ranks import fold_ranks
from torchctl.storeutil.interface import OperatorStore
from torchctl.storeutil.keys import (
    IGNORED,
    LAST_MEMBER,
    NUM_MEMBERS,
    REPORT,
    REPORTER,
    TRACE,
    WORLD_SIZE,
    trace_keys,
)
from torchctl.storeutil.operator.reading import list_keys, read_values
from torchctl.storeutil.tracing import MissingRanks, leave_trace, look
from torchctl.storeutil.waiting import INTERRUPTIBLE_S, MOST_KEYS, Deadline, absent_keys, read_counter, wait_slice
from torchctl.text import duration

PROGRESS_S = 0.5

OnArrival = Callable[[int, float], None]  # (arrived, elapsed seconds)


@dataclass(frozen=True, slots=True)
class BarrierState:
    """A barrier as its keys show it.

    Attributes:
        key_prefix: the barrier's own key.
        released: the waiting ranks are released, whether or not all have arrived.
        ranks: what the traces show.
    """

    key_prefix: str
    released: bool
    ranks: MissingRanks

    @property
    def traced(self) -> bool:
        """Whether any arrival has left its rank."""
        return len(self.ranks.untraced) < self.ranks.world_size

    @property
    def missing(self) -> list[int] | None:
        """The missing ranks, or None if some arrivals did not leave their rank."""
        return None if self.ranks.anonymous else list(self.ranks.untraced)

    def missing_sentence(self) -> str:
        """Return which ranks are missing by the traces, without naming any rank that may have arrived."""
        count = self.ranks.world_size - self.ranks.arrived
        if count <= 0:
            return "no rank is missing"
        if self.missing is not None:
            return f"missing: {_ranks(self.missing)}"
        if not self.traced:
            name = "it" if count == 1 else "they"
            return f"{count} missing; no rank left a trace, so {name} cannot be identified"
        arrived = self.ranks.anonymous
        return (
            f"{count} missing, out of {_ranks(self.ranks.untraced)}: {arrived} of these "
            f"{'has' if arrived == 1 else 'have'} arrived without leaving a trace of its rank"
        )


@dataclass(frozen=True, slots=True)
class _Arrival:
    """What an operator has left in the store.

    Attributes:
        rank: the rank that it represents, or None for any.
        count: how many ranks it represents.
        counter: the value of the barrier's counter then.
        stated: whether we wrote the world size, which an operator may get wrong.
    """

    rank: int | None
    count: int
    counter: int
    stated: bool


def look_at_barrier(store: OperatorStore, key_prefix: str, world_size: int) -> BarrierState:
    """Return the state of a barrier without joining it. At most O(world size); writes nothing."""
    if world_size > MOST_KEYS:  # rare; a request per rank would take too long, so list all keys at once
        listed = set(list_keys(store))
        untraced = [rank for rank, key in enumerate(trace_keys(key_prefix, world_size)) if key not in listed]
        ranks = MissingRanks(world_size, read_counter(store, key_prefix + NUM_MEMBERS), untraced)
    else:
        ranks = look(store, key_prefix, world_size)
    return BarrierState(key_prefix, store.check([key_prefix + LAST_MEMBER]), ranks)


def next_free_prefix(store: OperatorStore, key_prefix: str) -> str:
    """Return `key_prefix` with the smallest number, from 2 on, that no barrier has used.

    It ends in a slash: trace keys put the rank right after the prefix, so `b2` with rank 31 would be the same as
    `b23` with rank 1.
    """
    number = 2
    while True:
        candidate = f"{key_prefix}/{number}/"
        keys = [candidate + NUM_MEMBERS, candidate + LAST_MEMBER]
        if len(absent_keys(store, keys)) == len(keys):
            return candidate
        number += 1


def join_barrier(
    store: OperatorStore,
    world_size: int,
    key_prefix: str,
    *,
    timeout_s: float,
    stop: threading.Event,
    rank: int | None = None,
    count: int = 1,
    progress: OnArrival = lambda arrived, elapsed_s: None,
) -> float:
    """Arrive at a barrier for `count` ranks and wait until it is complete; return the seconds waited.

    Args:
        rank: which rank this arrival represents; only with a `count` of 1.
        stop: set to end the wait; the arrival is then withdrawn unless it has already released a rank.
        progress: called about twice a second with how many ranks have arrived.

    Raises:
        StoreError: the prefix has been used, more than `world_size` ranks would arrive, or the waiting ranks
            expect another number.
        StoreTimeoutError: not every rank arrived; our arrival was withdrawn.
        StoreInterruptedError: `stop` was set; the message says whether the arrival was withdrawn.
    """
    deadline = Deadline(timeout_s)
    last_key = key_prefix + LAST_MEMBER
    _refuse_used(store, world_size, key_prefix, rank, count)
    arrived = store.add(key_prefix + NUM_MEMBERS, count)
    if arrived > world_size:
        if store.add(key_prefix + NUM_MEMBERS, -count) == world_size:
            # The last rank arrived while we counted, found more than the world size, and released no one.
            store.set(last_key, IGNORED)
        raise _too_many(key_prefix, world_size, arrived - count, count)
    arrival = _Arrival(rank, count, arrived, stated=not store.check([key_prefix + WORLD_SIZE]))
    try:
        if arrival.stated:
            leave_trace(store, key_prefix, world_size, rank)
        elif rank is not None:
            store.set(f"{key_prefix}{rank}{TRACE}", IGNORED)
        if arrived == world_size:
            store.set(last_key, IGNORED)
        return _wait(store, world_size, key_prefix, arrival, deadline, stop, progress)
    except (StoreInterruptedError, StoreTimeoutError):
        raise
    except Exception:
        with contextlib.suppress(RuntimeError, StoreError):  # the store may be what failed
            _withdraw(store, world_size, key_prefix, arrival)
        raise


def _wait(
    store: OperatorStore,
    world_size: int,
    key_prefix: str,
    arrival: _Arrival,
    deadline: Deadline,
    stop: threading.Event,
    progress: OnArrival,
) -> float:
    """Wait until the barrier is complete; return the seconds since the deadline was set."""
    last_key = key_prefix + LAST_MEMBER
    shown_s = -PROGRESS_S
    while not wait_slice(store, [last_key], min(INTERRUPTIBLE_S, deadline.remaining_s)):
        if deadline.elapsed_s - shown_s >= PROGRESS_S:
            shown_s = deadline.elapsed_s
            progress(read_counter(store, key_prefix + NUM_MEMBERS), shown_s)
        if stop.is_set():
            fate = _withdraw(store, world_size, key_prefix, arrival)
            raise StoreInterruptedError(f"interrupted after {duration(deadline.elapsed_s)}: {fate}")
        if deadline.passed:
            state = look_at_barrier(store, key_prefix, world_size)
            if state.released:
                break
            fate = _withdraw(store, world_size, key_prefix, arrival)
            raise StoreTimeoutError(
                f"barrier `{key_prefix}`: {state.ranks.arrived} of {world_size} arrived within "
                f"{duration(deadline.timeout_s)}, including us; {state.missing_sentence()}",
                hint=f"{fate}; `torchctl barrier --release` releases the waiting ranks",
            )
    return deadline.elapsed_s


def release_barrier(store: OperatorStore, key_prefix: str) -> str:
    """Release every rank that waits at a barrier, and return the key that was written.

    Raises:
        StoreError: no rank has arrived there, or the barrier has already been released.
    """
    last_key = key_prefix + LAST_MEMBER
    if store.check([last_key]):
        raise StoreError(f"barrier `{key_prefix}` is already released: {last_key} exists; nothing was written")
    if read_counter(store, key_prefix + NUM_MEMBERS) == 0:
        raise StoreError(
            f"no rank has arrived at barrier `{key_prefix}`; nothing was written",
            hint="`torchctl store keys` names the barriers in the store",
        )
    store.set(last_key, IGNORED)
    return last_key


def _refuse_used(store: OperatorStore, world_size: int, key_prefix: str, rank: int | None, count: int) -> None:
    """Raise StoreError if joining would let the wrong ranks through."""
    if store.check([key_prefix + LAST_MEMBER]):
        free = next_free_prefix(store, key_prefix)
        raise StoreError(
            f"barrier `{key_prefix}` has already been used: every rank would pass at once",
            hint=f"the next free one is --key-prefix {free}",
        )
    arrived = read_counter(store, key_prefix + NUM_MEMBERS)
    if arrived + count > world_size:
        raise _too_many(key_prefix, world_size, arrived, count)
    expected = (
        read_values(store, [key_prefix + WORLD_SIZE]).get(key_prefix + WORLD_SIZE, b"").decode("utf-8", "replace")
    )
    if expected.isdecimal() and expected != str(world_size):
        raise StoreError(
            f"barrier `{key_prefix}`: the ranks waiting there expect {expected}, not {world_size}; "
            "joining would release no one",
            hint=f"join with --world-size {expected}; to undo an earlier operator's mistake: "
            f"`torchctl store delete {key_prefix}{WORLD_SIZE}`",
        )
    if rank is not None and store.check([f"{key_prefix}{rank}{TRACE}"]):
        raise StoreError(
            f"rank {rank} has already arrived at barrier `{key_prefix}`",
            hint="`torchctl barrier --status` says who is missing",
        )


def _too_many(key_prefix: str, world_size: int, arrived: int, count: int) -> StoreError:
    return StoreError(
        f"barrier `{key_prefix}`: {arrived} have already arrived; "
        f"there is no room for {count} more in a world of {world_size}",
        hint="check --world-size: it is the number of ranks that meet at this barrier",
    )


def _withdraw(store: OperatorStore, world_size: int, key_prefix: str, arrival: _Arrival) -> str:
    """Withdraw an arrival unless it has released a rank; return which, in words.

    The counter decides: if it was at `world_size` when we withdrew ours, the last rank has arrived and is about to
    release the others. The counter itself is never deleted: a rank could be adding to it.
    """
    count = arrival.count
    counter, last_key = key_prefix + NUM_MEMBERS, key_prefix + LAST_MEMBER
    if not store.check([last_key]):
        left = store.add(counter, -count)
        if left + count < world_size:
            # A report made while we were counted must not be taken for one about other ranks with the same count.
            numbers = {arrival.counter, left + count}
            stale = [f"{key_prefix}{kind}{number}" for kind in (REPORT, REPORTER) for number in numbers]
            if arrival.rank is not None:
                stale.append(f"{key_prefix}{arrival.rank}{TRACE}")
            if arrival.stated:
                stale.append(key_prefix + WORLD_SIZE)
            for key in stale:
                store.delete_key(key)
            return f"our arrival was withdrawn; {left} {'is' if left == 1 else 'are'} still waiting"
        store.add(counter, count)
        if not wait_slice(store, [last_key], INTERRUPTIBLE_S):
            return (
                f"our arrival stays: {left + count} of {world_size} have arrived, but no one has released them; "
                "check --world-size"
            )
    return "our arrival stays because it released others: the barrier is complete"


def _ranks(ranks: list[int]) -> str:
    return f"rank{'' if len(ranks) == 1 else 's'} {fold_ranks(ranks)}"
