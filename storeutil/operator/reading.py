"""Read a store without ever waiting for absent keys."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from torchctl.errors import StoreError, StoreInterruptedError, StoreTimeoutError
from torchctl.storeutil.errors import is_network_error, is_silence, is_timeout
from torchctl.storeutil.interface import OperatorStore
from torchctl.storeutil.patience import answers_within
from torchctl.storeutil.waiting import INTERRUPTIBLE_S, Deadline, absent_keys, read_all, store_timeout, wait_slice
from torchctl.text import duration

_VANISH_S = 1.0  # how long a read may wait for keys that existed a moment ago
_LIST_S = 5.0  # silence before or within the list of all keys; a store needs about a second for a million
_ATTEMPTS = 5
_OLD = "listing keys needs torch 2.11 or later on both sides; `torchctl store get KEY` works with older versions"
_BINARY = "`torchctl store get KEY` still works, and so does listing under another --prefix"


def read_values(store: OperatorStore, keys: Sequence[str]) -> dict[str, bytes]:
    """Return the values of the `keys` that exist.

    A store's read waits for absent keys, so we check for them first; a key that vanishes between the check and
    the read costs a second and counts as absent.

    Raises:
        StoreTimeoutError: keys vanish faster than they can be read.
    """
    present = list(keys)
    for _ in range(_ATTEMPTS):
        gone = set(absent_keys(store, present))
        present = [key for key in present if key not in gone]
        if not present:
            return {}
        try:
            with store_timeout(store, _VANISH_S):
                return dict(zip(present, read_all(store, present), strict=True))
        except (RuntimeError, TimeoutError) as error:
            if not is_timeout(error):
                raise
    raise StoreTimeoutError("keys disappear from the store faster than they can be read")


def list_keys(store: OperatorStore) -> list[str]:
    """Return all keys, sorted.

    Raises:
        StoreError: this store, or this torch, cannot list keys.
        DistNetworkError: the connection was lost, or the store was silent for 5 s.
    """
    if not hasattr(store, "list_keys"):
        raise StoreError("this torch cannot list a store's keys", hint=_OLD)
    try:
        with answers_within(store, _LIST_S):
            return sorted(store.list_keys())
    except UnicodeDecodeError as error:
        raise StoreError(
            "the store holds a key that is not UTF-8 text, so torch cannot list its keys", hint=_BINARY
        ) from error
    except NotImplementedError as error:
        raise StoreError("this store cannot list its keys", hint=_OLD) from error
    except RuntimeError as error:
        # A server that does not know the request silently closes the connection.
        if not is_network_error(error) or is_silence(error):
            raise
        raise StoreError("the store closed the connection when asked to list its keys", hint=_OLD) from error


def wait_for_keys(
    store: OperatorStore,
    keys: Sequence[str],
    *,
    timeout_s: float,
    stop: threading.Event,
    progress: Callable[[list[str], float], None] = lambda absent, elapsed_s: None,
) -> float:
    """Wait until all `keys` exist; return the seconds waited.

    Args:
        progress: called with the absent keys when they change.

    Raises:
        StoreTimeoutError: the deadline passed; the message names the absent keys.
        StoreInterruptedError: `stop` was set.
    """
    deadline = Deadline(timeout_s)
    shown: list[str] = []
    while absent := absent_keys(store, keys):
        if deadline.passed:
            raise StoreTimeoutError(f"still absent after {duration(timeout_s)}: {', '.join(absent)}")
        if stop.is_set():
            raise StoreInterruptedError(
                f"interrupted after {duration(deadline.elapsed_s)}; absent: {', '.join(absent)}"
            )
        if absent != shown:
            progress(absent, deadline.elapsed_s)
            shown = absent
        wait_slice(store, absent[:1], min(INTERRUPTIBLE_S, deadline.remaining_s))
    return deadline.elapsed_s
