"""Host files: one worker per line, written by ``torchctl ps --save`` or by hand.

A line holds an endpoint (``HOST:PORT``, a list of them, or a socket's absolute path) and optionally a rank:
``node1:25000 rank=3`` or ``node1:25000 3``. ``#`` starts a comment; after a path, it needs a space before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace

from torchctl.errors import TorchctlError
from torchctl.workers.endpoint import Endpoint
from torchctl.workers.find.hostlist import parse_endpoints

_MAX_BYTES = 64 << 20
_RANK = re.compile(r"(?:rank=)?(\d{1,9})")
_PATH = re.compile(r"(/.*?)(?:\s+rank=(\d{1,9}))?", re.DOTALL)  # a path with spaces in it


def read_hostfile(path: str) -> list[Endpoint]:
    """Return the workers that a file names, in its order.

    Raises:
        TorchctlError: the file cannot be read, or a line is not an endpoint; the message has the line number.
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
        if not line.isspace():
            try:
                found += _of_line(line)
            except ValueError as error:
                raise TorchctlError(f"{path}, line {number}: {error}") from error
    if not found:
        raise TorchctlError(f"the host file {path} has no addresses")
    return found


def hostfile_text(workers: Iterable[tuple[Endpoint, int | None]]) -> tuple[str, list[Endpoint]]:
    """Return a host file with these workers and their known ranks, and the workers that no line can name."""
    lines = ["# torchctl host file: HOST:PORT or a socket's path, and the rank"]
    left_out = []
    for endpoint, rank in workers:
        line = f"{endpoint}" + ("" if rank is None else f" rank={rank}")
        if _names(line, endpoint, rank):
            lines.append(line)
        else:
            left_out.append(endpoint)
    return "\n".join(lines) + "\n", left_out


def _names(line: str, endpoint: Endpoint, rank: int | None) -> bool:
    """Return whether a line reads back as the worker that it was written for."""
    if endpoint.node:
        return False
    try:
        (found,) = _of_line(line)
    except ValueError:
        return False
    where = (found.path, found.host, found.port, found.rank)
    return (
        len(line.splitlines()) == 1
        and not endpoint.node
        and where == (endpoint.path, endpoint.host, endpoint.port, rank)
    )


def _of_line(line: str) -> list[Endpoint]:
    if line.startswith("/"):
        text = re.split(r"\s#", line, maxsplit=1)[0].rstrip()
        words = text.split()
        if len(words) > 2 or (len(words) == 2 and not _RANK.fullmatch(words[1])):
            match = _PATH.fullmatch(text)
            assert match is not None
            words = [match[1], match[2]] if match[2] else [match[1]]
    else:
        words = line.partition("#")[0].split()
    if not words:
        return []
    address, *rest = words
    rank = None
    if rest:
        match = _RANK.fullmatch(rest[0])
        if match is None or len(rest) > 1:
            raise ValueError(f"{' '.join(rest)!r} is not a rank; write `HOST:PORT rank=3`")
        rank = int(match[1])
    endpoints = [Endpoint(path=address)] if os.path.isabs(address) else parse_endpoints(address)
    if rank is not None and len(endpoints) > 1:
        raise ValueError("one rank is given for several hosts")
    return [replace(endpoint, rank=rank) for endpoint in endpoints]
