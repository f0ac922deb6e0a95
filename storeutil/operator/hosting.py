"""A store in this process, hosted for as long as a client is connected to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from torchctl.errors import StoreError
from torchctl.storeutil.errors import is_network_error

if TYPE_CHECKING:
    from torch.distributed import TCPStore

_ESTABLISHED = "01"  # Source: include/net/tcp_states.h of Linux
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_LOOK_S = 0.2


def host_store(port: int, timeout_s: float) -> TCPStore:
    """Return a TCPStore whose server is in this process, on all interfaces.

    Args:
        port: 0 picks a free one, which the store's `port` then holds.

    Raises:
        StoreError: the port is taken.
    """
    from torch.distributed import TCPStore

    try:
        return TCPStore(
            host_name="localhost",
            port=port,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
        )
    except RuntimeError as error:
        if not is_network_error(error):
            raise
        raise StoreError(f"cannot serve on port {port}: {str(error).splitlines()[0]}") from error


def count_peers(port: int) -> int:
    """Return how many connections to `port` on this host are open, from the kernel's table.

    The store does not report them. Its connection to itself counts too.
    """
    wanted = f"{port:04X}"
    peers = 0
    for table in _TABLES:
        try:
            with open(table) as lines:
                next(lines)
                for line in lines:
                    fields = line.split()
                    if fields[3] == _ESTABLISHED and fields[1].rpartition(":")[2] == wanted:
                        peers += 1
        except OSError:
            continue  # no IPv6
    return peers


def stay_until_left(port: int, progress: Callable[[int], None]) -> None:
    """Wait until only this process is connected to its store.

    Args:
        progress: called with the number of other connections whenever it changes.
    """
    shown = 0
    pause = threading.Event()
    while (others := count_peers(port) - 1) > 0:
        if others != shown:
            progress(others)
            shown = others
        pause.wait(_LOOK_S)
