"""Reads arbitrary files: whole, the start, or the end. Never waits for a pipe or a device."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

MAX_BYTES = 256 << 20
_HEAD_BYTES = 512
_PACKED = (".gz", ".xz", ".zst")
_PART_BYTES = 8 << 20


def whole(path: str) -> bytes:
    """Return a file's bytes.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is too large.
    """
    with _opened(path) as (file, size):
        if size > MAX_BYTES:
            raise OSError(f"larger than {MAX_BYTES >> 20} MiB")
        return file.read(MAX_BYTES)


def head(path: str) -> bytes | None:
    """Return the start of a file, or None if it cannot be read."""
    try:
        with _opened(path) as (file, _):
            return file.read(_HEAD_BYTES)
    except OSError:
        return None


def both_ends(path: str) -> bytes:
    """Return the first and last 8 MiB of a file, to see what it may be; empty if it cannot be read."""
    try:
        with _opened(path) as (file, size):
            data = file.read(_PART_BYTES)
            if size > 2 * _PART_BYTES:
                file.seek(-_PART_BYTES, os.SEEK_END)
            return data + file.read(_PART_BYTES)
    except OSError:
        return b""


def is_packed(path: str) -> bool:
    """Whether a file's name says that it is one compressed file, and not an archive of several."""
    name = path.lower()
    return name.endswith(_PACKED) and ".tar" not in name


@contextmanager
def _opened(path: str) -> Iterator[tuple[BinaryIO, int]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise OSError("Is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        yield file, status.st_size
