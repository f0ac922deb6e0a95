"""Stacks of a job in files: a folder with a file per rank, as ``torchctl collect`` and torch's tools leave them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torchctl.errors import TorchctlError
from torchctl.stacks.reader import StackReader
from torchctl.stacks.stack import Stacks

_MAX_BYTES = 256 << 20
# traceback_rank_3.txt, node7_pyspy_rank3.txt, stacks_rank_12.json ...
_NAME = re.compile(r"(?:.*[_.-])?(?:traceback|stacks?|pyspy|py-spy)[_.-]rank[_.-]?(\d{1,9})(?:[_.-].*)?\.(?:txt|json)")
_LOOSE = re.compile(r"(?:.*[_.-])?(?:traceback|stacks?|pyspy|py-spy)[_.-].*\.(?:txt|json)")


@dataclass(frozen=True, slots=True)
class FileStacks:
    """One file's stacks, or why there are none.

    Attributes:
        path: the file.
        rank: from its name; None where the name does not tell.
        reason: "" when there are stacks.
    """

    path: str
    rank: int | None
    stacks: Stacks | None
    reason: str = ""


def read_stack_files(paths: Sequence[str], reader: StackReader) -> Iterator[FileStacks]:
    """Yield what is in each file, and in each file of stacks of each folder, by rank.

    Raises:
        TorchctlError: a path does not exist, or a folder holds no file of stacks.
    """
    for path in paths:
        if not os.path.isdir(path):
            if not os.path.exists(path):
                raise TorchctlError(f"{path} does not exist")
            yield _read(path, reader)
            continue
        found = _files(path)
        if not found:
            raise TorchctlError(
                f"no file of stacks in {path}", hint="they are named traceback_rank_N.txt, as `torchctl collect` does"
            )
        for name in found:
            yield _read(os.path.join(path, name), reader)


def _files(folder: str) -> list[str]:
    try:
        names = [name for name in os.listdir(folder) if _LOOSE.fullmatch(name)]
    except OSError as error:
        raise TorchctlError(f"{folder} cannot be read: {error.strerror}") from error
    return sorted(names, key=lambda name: (_rank(name) is None, _rank(name) or 0, name))


def _rank(name: str) -> int | None:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def _read(path: str, reader: StackReader) -> FileStacks:
    rank = _rank(os.path.basename(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return FileStacks(path, rank, None, "no regular file")
            if status.st_size > _MAX_BYTES:
                return FileStacks(path, rank, None, f"larger than {_MAX_BYTES >> 20} MiB")
            return FileStacks(path, rank, reader.read(file.read(_MAX_BYTES)))
    except OSError as error:
        return FileStacks(path, rank, None, f"cannot be read: {error.strerror}")
    except ValueError as error:
        return FileStacks(path, rank, None, str(error))
