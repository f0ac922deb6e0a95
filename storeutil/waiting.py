"""Waiting on a store without giving the thread away: deadlines, slices, and looking for what is absent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from threading import Lock

from torchctl.storeutil.errors import is_timeout
from torchctl.storeutil.interface import LookingStore, Store, can_look

# How long one wait on the store lasts in the library. torch's wait ignores signals until it ends, so this
# bounds the reaction to Ctrl-C; each slice costs a request per waiting rank, so it should not be short.
SLICE_S = 2.0
MIN_WAIT_S = 0.001  # the stores count in milliseconds, and take zero for "use your default"


class Deadline:
    """A point in time that a whole call shares.

    Args:
        timeout_s: seconds from now.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.start = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.start

    @property
    def remaining_s(self) -> float:
        return max(0.0, self.timeout_s - self.elapsed_s)

    @property
    def passed(self) -> bool:
        return self.remaining_s <= 0


class store_timeout:
    """Set the store's timeout for the length of a `with` block.

    The timeout is put back after a failure too where the store has `check`; on a lesser store only after
    success, as torch does it. Threads that share one store object may overlap in any order: the last to leave
    puts back the timeout that the first one found.

    Args:
        timeout: in seconds.

    Source: torch.distributed.elastic.utils.store.store_timeout (2.13).
    """

    __slots__ = ("_looking", "_store", "_wanted")

    def __init__(self, store: Store, timeout: float) -> None:
        self._store = store
        self._wanted = timedelta(seconds=timeout)
        self._looking = can_look(store)

    def __enter__(self) -> None:
        store = self._store
        if not self._looking:
            self._wanted, wanted = store.timeout, self._wanted
            store.set_timeout(wanted)
            return
        while True:
            inside = _inside.setdefault(id(store), _Inside())  # atomic
            with inside.lock:
                if inside.ended:
                    continue  # the last of the others has just left
                if inside.original is None:
                    inside.original = store.timeout
                inside.calls.append(self)
                store.set_timeout(self._wanted)
                return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        store = self._store
        if not self._looking:
            if kind is None:
                store.set_timeout(self._wanted)
            return
        inside = _inside[id(store)]
        with inside.lock:
            inside.calls.remove(self)
            if inside.calls:
                store.set_timeout(inside.calls[-1]._wanted)
                return
            assert inside.original is not None
            store.set_timeout(inside.original)
            inside.ended = True
            del _inside[id(store)]


class _Inside:
    """A store inside `store_timeout`: the timeout found first, and who is in, the latest last.

    A lock of its own: setting a timeout lets other threads run, and one lock for all stores would make a
    queue of a thousand ranks.
    """

    __slots__ = ("calls", "ended", "lock", "original")

    def __init__(self) -> None:
        self.lock = Lock()
        self.original: timedelta | None = None
        self.calls: list[store_timeout] = []
        self.ended = False


_inside: dict[int, _Inside] = {}  # by the store's id, while somebody is inside


def wait_slice(store: Store, keys: list[str], seconds: float) -> bool:
    """Wait for all of `keys` at most `seconds`; return whether they are there.

    FileStore rounds every wait up to a whole second.

    Raises:
        RuntimeError: whatever the store raises that is no timeout; DistNetworkError for a lost connection.
    """
    try:
        store.wait(keys, timedelta(seconds=max(seconds, MIN_WAIT_S)))
    except (RuntimeError, TimeoutError) as error:
        if not is_timeout(error):
            raise
        return False
    return True


def absent_keys(store: LookingStore, keys: Sequence[str]) -> list[str]:
    """Return those of `keys` that do not exist, in their order.

    `check` answers only "all of these exist", so the list is halved until the absent ones stand alone:
    about 2 k log2(n / k) questions for k absent of n keys, never more than 2 n. Nothing blocks.
    """
    absent: list[str] = []
    pending: list[Sequence[str]] = [keys] if keys else []
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
    """Return the counter at `key`, 0 where there is none, without creating it."""
    return store.add(key, 0) if store.check([key]) else 0
