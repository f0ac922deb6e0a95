"""Real stores and ranks in threads, for the tests of everything that speaks to a store."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

# Every connection to a TCPStore looks up the peer's name, even on loopback; no query may leave the machine.
os.environ.setdefault("RES_OPTIONS", "attempts:0")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")

T = TypeVar("T")
DEADLINE_S = 60.0
KINDS = ["hash", "file", "tcp", "tcp-plain", "prefix"]


def host_store(*, use_libuv: bool = True, host: str = "127.0.0.1") -> Any:
    """Return the server of a TCPStore on a free port."""
    from torch.distributed import TCPStore

    return TCPStore(host, 0, None, True, timedelta(seconds=60), wait_for_workers=False, use_libuv=use_libuv)


def connect(server: Any, host: str = "127.0.0.1") -> Any:
    """Return a client of `server`."""
    from torch.distributed import TCPStore

    return TCPStore(host, server.port, None, False, timedelta(seconds=60), wait_for_workers=False)


def open_stores(kind: str, count: int, folder: Path) -> list[Any]:
    """Return `count` views of one store of a kind; the first of a TCPStore is its server."""
    from torch.distributed import FileStore, HashStore, PrefixStore

    if kind == "hash":
        return [HashStore()] * count
    if kind == "file":
        return [FileStore(str(folder / "store"), count) for _ in range(count)]
    server = host_store(use_libuv=kind != "tcp-plain")
    stores = [server] + [connect(server) for _ in range(count - 1)]
    return [PrefixStore("job", store) for store in stores] if kind == "prefix" else stores


def in_threads(calls: Iterable[Callable[[], T]]) -> list[T | Exception]:
    """Run the calls at the same time, and return what each returned or raised, in their order."""
    results: dict[int, T | Exception] = {}

    def run(index: int, call: Callable[[], T]) -> None:
        try:
            results[index] = call()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index, call), daemon=True) for index, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "a call did not come back"
    return [results[index] for index in range(len(threads))]
