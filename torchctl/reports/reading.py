"""Logs as streams of bytes: plain or compressed files, and standard input; of any size, and nothing is waited for."""

from __future__ import annotations

import gzip
import importlib
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from torchctl.diagnosis.evidence import NOT_READ, Unread
from torchctl.logs.facts import LogFacts
from torchctl.logs.reader import LogReader
from torchctl.logs.said import Log, Speaker
from torchctl.logs.together import facts_of
from torchctl.reports.content import is_packed
from torchctl.reports.stacknames import named_host, named_rank

STDIN = "-"
_PIECE = 4 << 20
_TORN = (EOFError, zlib.error, lzma.LZMAError, OSError)


def read_logs(paths: Iterable[str], root: str) -> tuple[LogFacts, list[Log], list[Unread]]:
    """Return what logs say, each log, and which could not be read.

    Args:
        paths: files; "-" is standard input.
        root: what the operator named; a folder below it may be named after a host.
    """
    logs: list[Log] = []
    unread: list[Unread] = []
    for path in paths:
        rank = None if path == STDIN else named_rank(_unpacked(path))
        host = "" if path == STDIN else named_host(_unpacked(path), root, None)
        reader = LogReader(Speaker(path if path != STDIN else "stdin", rank, host=host))
        try:
            with _opened(path) as file:
                while data := file.read(_PIECE):
                    if b"\0" in data[:512]:
                        raise OSError("is binary")
                    reader.feed(data)
        except _NotReadable as error:
            unread.append(Unread(path, rank, str(error), NOT_READ))
            continue
        except _TORN as error:
            reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
            if str(error) == "is binary":
                reason = "is not text"
            unread.append(Unread(path, rank, reason, NOT_READ))
        logs.append(reader.finish())
    return facts_of(logs), logs, unread


class _NotReadable(Exception):
    """Why a log cannot be opened, as the end of a sentence about it."""


def _unpacked(path: str) -> str:
    return os.path.splitext(path)[0] if is_packed(path) else path


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if path == STDIN:
        yield sys.stdin.buffer
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _NotReadable(f"cannot be read: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _NotReadable("is not a regular file")
        name = path.lower()
        if name.endswith(".gz"):
            with gzip.open(file) as unpacked:
                yield cast("IO[bytes]", unpacked)
        elif name.endswith(".xz"):
            with lzma.open(file) as text:
                yield cast("IO[bytes]", text)
        elif name.endswith(".zst"):
            yield _zstandard(file)
        else:
            yield file


def _zstandard(file: IO[bytes]) -> IO[bytes]:
    """Return the content of a file that zstd has compressed, by Python's own module (3.14) or the zstandard package."""
    try:
        made: Callable[..., Any] = importlib.import_module("compression.zstd").ZstdFile
    except ImportError:
        try:
            made = importlib.import_module("zstandard").open
        except ImportError:
            raise _NotReadable("cannot be read without `pip install zstandard` (or Python 3.14): unpack it") from None
    return cast("IO[bytes]", made(file, "rb"))
