"""Files of stacks: those of `torchctl collect` and `diagnose --save`, of torch's tools, and of people.

A rank is taken from the manifest of the file's folder, else from a name that says it (``pyspy_rank_3.txt``). A number
alone may be a process id, so ``stacks_3.txt``, as an older `diagnose --save` wrote it, needs a ``stacks_0.txt`` beside
it: no process has that id.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torchctl.errors import TorchctlError
from torchctl.manifest import STACKS, Entry, entries_of, read_manifest
from torchctl.stacks.reader import StackReader
from torchctl.stacks.stack import Stacks

_MAX_BYTES = 256 << 20
# traceback_rank_3.txt, node7_pyspy_rank3.txt, stacks_rank_12.json ...
_NAME = re.compile(r"(?:.*[_.-])?(?:traceback|stacks?|pyspy|py-spy)[_.-]rank[_.-]?(\d{1,9})(?:[_.-].*)?\.(?:txt|json)")
_FORMER = re.compile(r"stacks_(\d{1,9})\.txt")
_LOOSE = re.compile(r"(?:.*[_.-])?(?:traceback|stacks?|pyspy|py-spy)[_.-].*\.(?:txt|json)")


@dataclass(frozen=True, slots=True)
class StackFile:
    """One file's stacks, or why there are none.

    Attributes:
        rank: from the manifest, else from the name; None where neither says.
        entry: of the manifest; None where there is none.
        reason: read after the path; "" when there are stacks.
    """

    path: str
    rank: int | None
    entry: Entry | None
    stacks: Stacks | None
    reason: str = ""


def read_stack_files(paths: Sequence[str], reader: StackReader) -> Iterator[StackFile]:
    """Yield what is in each file, and in each file of stacks of each folder, by rank.

    Raises:
        TorchctlError: a path does not exist, or a folder holds no file of stacks.
    """
    for path in paths:
        if not os.path.isdir(path):
            if not os.path.exists(path):
                raise TorchctlError(f"{path} does not exist", hint="check the path")
            yield read_stack_file(path, entries_of([path]).get(path), reader)
            continue
        found = _files(path)
        if not found:
            raise TorchctlError(
                f"no file of stacks in {path}", hint="`torchctl collect` names them traceback_rank_N.txt"
            )
        for name, entry in found:
            yield read_stack_file(os.path.join(path, name), entry, reader)


def is_stack_file(path: str, entry: Entry | None) -> bool:
    """Whether the manifest or the name says that a file holds stacks."""
    name = os.path.basename(path)
    return _LOOSE.fullmatch(name) is not None or (entry is not None and entry.files.get(STACKS) == name)


def named_rank(path: str) -> int | None:
    """Return the rank in the name of a file of stacks, None if there is none."""
    folder, name = os.path.split(path)
    match = _NAME.fullmatch(name)
    if match is None:
        match = _FORMER.fullmatch(name)
        if match is not None and not os.path.exists(os.path.join(folder, "stacks_0.txt")):
            match = None
    return int(match[1]) if match else None


def read_stack_file(path: str, entry: Entry | None, reader: StackReader) -> StackFile:
    """Return what is in a file; its rank is that of `entry`, if the manifest has one."""
    rank = named_rank(path) if entry is None else entry.rank
    try:
        return StackFile(path, rank, entry, reader.read(_content(path)))
    except OSError as error:
        return StackFile(path, rank, entry, None, f"cannot be read: {error.strerror or error}")
    except ValueError as error:
        return StackFile(path, rank, entry, None, f"has no stacks: {error}")


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        if status.st_size > _MAX_BYTES:
            raise OSError(f"larger than {_MAX_BYTES >> 20} MiB")
        return file.read(_MAX_BYTES)


def _files(folder: str) -> list[tuple[str, Entry | None]]:
    """Return the names of a folder's files of stacks, by rank, with what the manifest says of each."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise TorchctlError(f"{folder} cannot be read: {error.strerror}") from error
    manifest = read_manifest(folder)
    whose = {name: entry for entry in (manifest.entries if manifest else ()) for name in entry.files.values()}
    found = [(name, whose.get(name)) for name in names if is_stack_file(name, whose.get(name))]

    def order(one: tuple[str, Entry | None]) -> tuple[bool, int, str]:
        rank = named_rank(os.path.join(folder, one[0])) if one[1] is None else one[1].rank
        return rank is None, rank or 0, one[0]

    return sorted(found, key=order)
