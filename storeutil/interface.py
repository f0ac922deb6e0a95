"""What a store must be able to do: the minimum that torch's own functions require, and more.

How this works: on the minimum, `Store`, we perform the same operations as torch, one for one. A store that also
has `check` answers "does this key exist?" without waiting; only on such a store can we wait in slices and look
around in between, so everything that goes beyond torch calls `can_look` first.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from functools import lru_cache
from typing import Any, Protocol, TypeGuard


class Store(Protocol):
    """The operations that torch's barrier and synchronize use.

    Source: torch.distributed.elastic.utils.store (2.13).
    """

    @property
    def timeout(self) -> timedelta: ...

    def set_timeout(self, timeout: timedelta, /) -> None: ...

    def set(self, key: str, value: Any, /) -> None: ...

    def get(self, key: str, /) -> bytes: ...

    def multi_get(self, keys: list[str], /) -> list[bytes]: ...

    def add(self, key: str, amount: int, /) -> int: ...

    def wait(self, keys: list[str], timeout: timedelta = ..., /) -> None: ...


class LookingStore(Store, Protocol):
    """A store that answers at once whether keys exist: HashStore, FileStore, TCPStore, PrefixStore."""

    def check(self, keys: list[str], /) -> bool: ...


class OperatorStore(LookingStore, Protocol):
    """What the commands also use: deleting keys, and listing them, which a store may refuse."""

    def delete_key(self, key: str, /) -> bool: ...

    def list_keys(self) -> list[str]: ...


def can_look(store: Store) -> TypeGuard[LookingStore]:
    """Return True if `store` has a `check` that works.

    A Python class derived from torch's bare `Store` inherits a `check` that only raises; it counts only if the
    class defines its own.
    """
    return _class_can_look(type(store))


def innermost(store: Store) -> Store:
    """Return the store below all PrefixStores: only it has a timeout, which they share."""
    prefixed = getattr(sys.modules.get("torch.distributed"), "PrefixStore", None)
    while prefixed is not None and isinstance(store, prefixed):
        store = store.underlying_store
    return store


@lru_cache(maxsize=64)
def _class_can_look(store_class: type) -> bool:
    if not callable(getattr(store_class, "check", None)):
        return False
    # If torch is not loaded, no class can derive from its stores.
    bare = getattr(sys.modules.get("torch.distributed"), "Store", None)
    if bare is None or not issubclass(store_class, bare):
        return True
    for cls in store_class.__mro__:
        if cls is bare:
            return False
        if "check" in vars(cls) or cls.__module__.startswith("torch."):
            return True
    return True
