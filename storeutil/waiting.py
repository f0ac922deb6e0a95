"""Waiting on a store without blocking the thread for long: deadlines, slices, and finding absent keys."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from threading import Lock

from torchctl.errors import NotACounterError
from torchctl.storeutil.errors import is_timeout
from torchctl.storeutil.interface import LookingStore, Store, can_look, innermost
from torchctl.storeutil.operator.values import as_counter, preview

# How long the library waits on the store at a time. torch's wait ignores signals until it ends, so this
# bounds the reaction to Ctrl-C; each slice costs a request per waiting rank, so it should not be short.
SLICE_S = 2.0
# In one request. Source: torch/csrc/distributed/c10d/TCPStoreLibUvBackend.cpp (2.13): 128 * 1024 keys, 8 MiB.
MOST_KEYS = 1 << 15
INTERRUPTIBLE_S = 0.2  # the slice of an operator's wait: Ctrl-C must be acted on within half a second
MIN_WAIT_S = 0.001  # stores count in milliseconds, and treat zero as "use the default"


class Deadline:
    """A deadline shared by a whole call.

    Args:
        timeout_s: seconds from now.
    """

    __slots__ = ("_end", "timeout_s")

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._end + self.timeout_s

    @property
    def remaining_s(self) -> float:
        left = self._end - time.monotonic()
        return left if left > 0.0 else 0.0

    @property
    def passed(self) -> bool:
        return self._end <= time.monotonic()


class store_timeout:
    """Set the store's timeout for the duration of a `with` block.

    If the store has `check`, the timeout is restored even after a failure; on a simpler store only after
    success, as in torch. Threads that share a store, directly or through PrefixStores, may overlap in any
    order: the last to leave restores the timeout that the first one found.

    Args:
        timeout: in seconds.

    Source: torch.distributed.elastic.utils.store.store_timeout (2.13).
    """

    __slots__ = ("_key", "_shared", "_store", "_wanted")

    def __init__(self, store: Store, timeout: float) -> None:
        self._store = store
        self._wanted = timedelta(seconds=timeout)
        self._shared: Store | None = None

    def __enter__(self) -> None:
        store = self._store
        if not can_look(store):
            self._wanted, wanted = store.timeout, self._wanted
            store.set_timeout(wanted)
            return
        self._shared = innermost(store)  # kept alive: its identity is the key of `_inside`
        self._key = key = id(self._shared)
        with _LOCKS[key % len(_LOCKS)]:
            inside = _inside.get(key)
            if inside is None:
                _inside[key] = store.timeout, [self]
            else:
                inside[1].append(self)
            store.set_timeout(self._wanted)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        store = self._store
        if self._shared is None:
            if kind is None:
                store.set_timeout(self._wanted)
            return
        key = self._key
        with _LOCKS[key % len(_LOCKS)]:
            original, calls = _inside[key]
            calls.remove(self)
            if not calls:
                del _inside[key]
            store.set_timeout(calls[-1]._wanted if calls else original)


# By the id of the innermost store, while in use: the original timeout, and the active blocks, latest last.
_inside: dict[int, tuple[timedelta, list[store_timeout]]] = {}
# Setting a timeout lets other threads run, so a single lock would make a thousand ranks queue; a new lock per
# call slows a small exchange by several percent. So all stores share a pool of locks, a prime number of them.
_LOCKS = tuple(Lock() for _ in range(1021))


def own_timeout(store: Store) -> timedelta:
    """Return the store's timeout, or the one to restore if a thread is inside `store_timeout`."""
    inside = _inside.get(id(innermost(store)))
    return store.timeout if inside is None else inside[0]


def wait_slice(store: Store, keys: list[str], seconds: float | None = None) -> bool:
    """Wait for all `keys` for at most `seconds` (None: the store's timeout); return whether they exist.

    FileStore rounds every wait up to a whole second.

    Raises:
        RuntimeError: any store error that is not a timeout; DistNetworkError if the connection was lost.
    """
    try:
        if seconds is None:
            store.wait(keys)
        else:
            store.wait(keys, timedelta(seconds=max(seconds, MIN_WAIT_S)))
    except (RuntimeError, TimeoutError) as error:
        if not is_timeout(error):
            raise
        return False
    return True


def absent_keys(store: LookingStore, keys: Sequence[str]) -> list[str]:
    """Return the `keys` that do not exist, in order.

    `check` answers only whether all keys exist, so we halve the list until the absent ones are isolated:
    about 2 k log2(n / k) requests for k absent of n keys, never more than 2 n. Nothing blocks.
    """
    absent: list[str] = []
    pending: list[Sequence[str]] = [keys[start : start + MOST_KEYS] for start in range(0, len(keys), MOST_KEYS)]
    pending.reverse()
    while pending:
        part = pending.pop()
        if store.check(list(part)):
            continue
        if len(part) == 1:
            absent.append(part[0])
        else:
            middle = len(part) // 2
            pending += [part[middle:], part[:middle]]
    return absent


def read_counter(store: LookingStore, key: str) -> int:
    """Return the counter at `key`, or 0 if it does not exist, without creating it.

    We read it instead of adding 0: a TCPStore closes the connection if asked to add to a value that is not a number.

    Raises:
        NotACounterError: the value is not a number.
    """
    if not store.check([key]):
        return 0
    value = store.get(key)
    number = as_counter(value)
    if number is None:
        raise NotACounterError(f"{key} is not a counter: {preview(value)}")
    return number


def read_all(store: Store, keys: Sequence[str]) -> list[bytes]:
    """Return the values of all `keys`, waiting for absent ones up to the store's timeout."""
    if len(keys) <= MOST_KEYS:
        return store.multi_get(keys if isinstance(keys, list) else list(keys))
    parts = [keys[start : start + MOST_KEYS] for start in range(0, len(keys), MOST_KEYS)]
    return [value for part in parts for value in store.multi_get(list(part))]
