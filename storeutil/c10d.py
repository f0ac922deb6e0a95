"""Create a TCPStore or connect to one, with a deadline that is kept."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from torchctl.storeutil.barrier import barrier
from torchctl.storeutil.errors import network_error
from torchctl.storeutil.logs import get_logger
from torchctl.storeutil.probe import probe_store
from torchctl.storeutil.sockets import get_free_port
from torchctl.storeutil.waiting import Deadline
from torchctl.text import duration

if TYPE_CHECKING:
    from torch.distributed import TCPStore

_FULL_RANK_PREFIX = "_tcp_store/num_members"  # torch's own, in the same place
_PICK_A_PORT = -1
_RETRY_PAUSE_S = 0.1
_PROBE_S = 5.0  # one attempt; a healthy store answers in under a millisecond plus the network's round trip


def create_c10d_store(
    is_server: bool,
    server_addr: str,
    server_port: int = _PICK_A_PORT,
    world_size: int = 1,
    timeout: float = 600,
    wait_for_workers: bool = True,
    retries: int = 3,
    use_libuv: bool | None = None,
) -> TCPStore:
    """Host a TCPStore or connect to one, and wait for all ranks to join.

    A client keeps trying until `timeout`: its server may start later. It probes for a TCPStore before it passes
    the address to torch, whose constructor waits for an answer without a limit.

    Args:
        server_port: -1 picks a free port, with `retries` attempts; only for a world size of 1.
        timeout: seconds for the whole call; afterwards the store's own timeout.
        wait_for_workers: return only once `world_size` ranks have joined.
        use_libuv: ignored, as in torch; the environment's ``USE_LIBUV=0`` selects the plain backend.

    Raises:
        DistNetworkError: no store answered before the deadline, or the port is taken.
        DistStoreError: not every rank joined before the deadline.
        ValueError: no port was given for a world size above 1.

    Source: torch.distributed.elastic.utils.distributed.create_c10d_store (2.13).
    """
    logger = get_logger(__name__)
    if use_libuv is not None:
        logger.warning("use_libuv is ignored; set USE_LIBUV=0 in the environment for the plain backend")
    if server_port == _PICK_A_PORT and world_size > 1:
        raise ValueError(
            f"server_port must be specified when world_size > 1, got server_port={server_port}, world_size={world_size}"
        )
    deadline = Deadline(timeout)
    attempts = retries if server_port == _PICK_A_PORT else 1
    for attempt in range(1, attempts + 1):
        port = get_free_port() if server_port == _PICK_A_PORT else server_port
        logger.info("store on %s:%s, world size %s, server %s", server_addr, port, world_size, is_server)
        try:
            return _create(is_server, server_addr, port, world_size, deadline, wait_for_workers)
        except RuntimeError as error:
            if attempt == attempts or "eaddrinuse" not in str(error).lower():
                raise
            logger.warning("port %s was taken, attempt %s of %s", port, attempt, attempts)
    raise ValueError(f"retries must be at least 1, got {retries}")


def _create(
    is_server: bool, host: str, port: int, world_size: int, deadline: Deadline, wait_for_workers: bool
) -> TCPStore:
    from torch.distributed import TCPStore

    address = host if is_server else _find(host, port, deadline)
    store = TCPStore(
        host_name=address,
        port=port,
        world_size=world_size,
        is_master=is_server,
        timeout=timedelta(seconds=max(deadline.remaining_s, 0.001)),
        wait_for_workers=wait_for_workers,
        use_libuv=os.environ.get("USE_LIBUV", "1") == "1",
    )
    store.set_timeout(timedelta(seconds=deadline.timeout_s))
    if wait_for_workers:
        barrier(store, world_size, _FULL_RANK_PREFIX, barrier_timeout=deadline.remaining_s)
    return store


def _find(host: str, port: int, deadline: Deadline) -> str:
    """Return the address at which a TCPStore answers, retrying until the deadline.

    Raises:
        DistNetworkError: none answered.
    """
    while True:
        try:
            return probe_store(host, port, min(_PROBE_S, max(deadline.remaining_s, 0.001)))
        except OSError as error:
            if deadline.remaining_s <= _RETRY_PAUSE_S:
                raise _network_error(host, port, deadline, error) from None
        time.sleep(_RETRY_PAUSE_S)


def _network_error(host: str, port: int, deadline: Deadline, error: OSError) -> RuntimeError:
    return network_error(
        f"no TCPStore at {host}:{port} within {duration(deadline.timeout_s)}: {error.strerror or error}"
    )
