"""Host files: a worker per line, as ``torchctl ps --save`` writes them and people do.

A line holds an endpoint (``HOST:PORT``, a list of them, or a socket's absolute path) and, if it is known, a rank:
``node1:25000 rank=3`` or ``node1:25000 3``. ``#`` begins a comment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace

from torchctl.discovery.hostlist import parse_endpoints
from torchctl.endpoint import Endpoint
from torchctl.errors import TorchctlError

_MAX_BYTES = 64 << 20
_RANK = re.compile(r"(?:rank=)?(\d{1,9})")


def read_hostfile(path: str) -> list[Endpoint]:
    """Return the workers that a file names, in its order.

    Raises:
        TorchctlError: it cannot be read, or a line says nothing that can be an endpoint; the message has its number.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise TorchctlError(f"the host file {path} cannot be read: {error.strerror}") from error
    if len(text) > _MAX_BYTES:
        raise TorchctlError(f"the host file {path} is larger than {_MAX_BYTES >> 20} MiB")
    found: list[Endpoint] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if words:
            try:
                found += _of_line(words)
            except ValueError as error:
                raise TorchctlError(f"{path}, line {number}: {error}") from error
    if not found:
        raise TorchctlError(f"the host file {path} names nobody")
    return found


def hostfile_text(workers: Iterable[tuple[Endpoint, int | None]]) -> str:
    """Return a host file that names these workers, with the ranks that are known."""
    lines = ["# torchctl host file: HOST:PORT or a socket's path, and the rank"]
    lines += [f"{endpoint}" + ("" if rank is None else f" rank={rank}") for endpoint, rank in workers]
    return "\n".join(lines) + "\n"


def _of_line(words: list[str]) -> list[Endpoint]:
    address, *rest = words
    rank = None
    if rest:
        match = _RANK.fullmatch(rest[0])
        if match is None or len(rest) > 1:
            raise ValueError(f"{' '.join(rest)!r} is no rank; write `HOST:PORT rank=3`")
        rank = int(match[1])
    endpoints = [Endpoint(path=address)] if os.path.isabs(address) else parse_endpoints(address)
    if rank is not None and len(endpoints) > 1:
        raise ValueError("one rank for several hosts")
    return [replace(endpoint, rank=rank) for endpoint in endpoints]
