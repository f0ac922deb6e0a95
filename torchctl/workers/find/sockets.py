"""Unix sockets on this host: from a path, a folder, TORCH_WORKER_SERVER_SOCKET, or the runtime folder."""

from __future__ import annotations

import os
import re
import stat

from torchctl import protocol
from torchctl.errors import NoWorkersError
from torchctl.protocol import runtimedir, socketnames
from torchctl.workers.endpoint import Endpoint


def named_socket(path: str) -> list[Endpoint]:
    """Return the worker at a path, or all sockets in a folder.

    Raises:
        NoWorkersError: the folder holds no socket.
    """
    if not os.path.isdir(path):
        return [Endpoint(path=path)]
    found = in_folder(path)
    if not found:
        raise NoWorkersError(f"there is no socket in {path}")
    return found


def in_folder(path: str, *, found: bool = False) -> list[Endpoint]:
    """Return the sockets in a folder, sorted by the rank in their names if there is one, then by name."""
    endpoints = []
    for entry in os.scandir(path):
        try:
            if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                endpoints.append(Endpoint(path=entry.path, rank=socketnames.parse(entry.name).rank, found=found))
        except FileNotFoundError:
            continue  # its worker has just exited
    return sorted(endpoints, key=_order)


def in_runtime_dir() -> list[Endpoint]:
    """Return the sockets in this user's runtime folder, of both live and dead workers.

    Raises:
        RuntimeDirError: the folder cannot be trusted.
    """
    path = runtimedir.runtime_dir()
    return in_folder(path, found=True) if runtimedir.check_runtime_dir(path) else []


def named_by_environment() -> list[Endpoint]:
    """Return the workers that TORCH_WORKER_SERVER_SOCKET names on this host, or none if it is not set."""
    value = os.environ.get(protocol.SOCKET_VARIABLE)
    if not value:
        return []
    endpoints = [Endpoint(path=path) for path in socketnames.found_by_variable(value)] or [Endpoint(path=value)]
    return sorted(endpoints, key=_order)


def _order(endpoint: Endpoint) -> tuple[int, list[tuple[int, str]]]:
    rank = -1 if endpoint.rank is None else endpoint.rank
    parts = re.split(r"(\d+)", endpoint.path)
    return rank, [(int(part) if part.isdigit() else -1, part) for part in parts]
