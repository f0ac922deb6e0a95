"""Names of workers' socket files, in the runtime folder and at the path that the operator's variable gives.

The server composes these names and the command line parses them, so both are here.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torchctl.protocol.launchers import JobPlace

SUFFIX = ".sock"
_NAME = re.compile(r"(?:rank(\d{1,9})-)?(\d{1,9})\.sock")
_PLACEHOLDERS = ("{rank}", "{local_rank}", "{pid}")


class SocketName(NamedTuple):
    """What a socket's name says about its worker; None for anything it does not say."""

    rank: int | None = None
    pid: int | None = None


def compose(rank: int | None, pid: int) -> str:
    """Return a socket's name in the runtime folder: ``rank3-4711.sock``, or ``4711.sock`` if the rank is unknown."""
    return f"{'' if rank is None else f'rank{rank}-'}{pid}{SUFFIX}"


def parse(path: str) -> SocketName:
    """Return what a socket's name says: nothing if `compose` cannot have made it.

    A bare number counts as a pid, so pass only sockets in a runtime folder: elsewhere it may be a rank.
    """
    match = _NAME.fullmatch(os.path.basename(path))
    if match is None:
        return SocketName()
    return SocketName(None if match[1] is None else int(match[1]), int(match[2]) or None)


def filled_in(text: str, place: JobPlace, pid: int) -> str:
    """Return an address with ``{rank}``, ``{local_rank}`` and ``{pid}`` filled in, or "unknown" for missing values."""
    for name, number in zip(_PLACEHOLDERS, (place.rank, place.local_rank, pid), strict=True):
        text = text.replace(name, "unknown" if number is None else str(number))
    return text


def named_by_variable(value: str, place: JobPlace, pid: int) -> str:
    """Return the socket path of one process, from the variable's value.

    Local ranks that share a path without placeholders get ``PATH.<local_rank>``; local rank 0 gets the path itself.
    """
    path = filled_in(value, place, pid)
    return f"{value}.{place.local_rank}" if path == value and place.local_rank else path


def found_by_variable(value: str) -> list[str]:
    """Return the files on this host that `named_by_variable` may have named, in no particular order."""
    import glob  # takes 4 ms, which a `ping` that names its socket need not spend

    pattern = plain = glob.escape(value)
    for name in _PLACEHOLDERS:
        pattern = pattern.replace(name, "*")
    paths = set(glob.glob(pattern))
    if pattern == plain:
        paths.update(path for path in glob.glob(f"{plain}.*") if path[len(value) + 1 :].isdigit())
    return list(paths)
