"""Which files in a folder are dumps, and which rank each one belongs to.

The rank comes from the folder's manifest, else from the file name, but only if the name is clear: a wrong rank is
worse than none. For other file names the operator can give a pattern.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torchctl.errors import DumpError
from torchctl.flightrec.decoding.decode import rank_from_name
from torchctl.manifest import Entry, entries_of

MAX_DEPTH = 4
MAX_FILES = 200_000
# Files that people keep beside dumps; never a dump.
_OTHER = re.compile(
    r"\.(log|md|rst|ya?ml|toml|cfg|ini|py|sh|csv|html?|err|out|gz|xz|zst|zip|tar|svg|png|lock|died|ended)\Z", re.I
)
_STACKS = re.compile(r"(?:\A|[-_.])(?:traceback|stacks?|py-?spy|info)(?:[-_.]|\Z)", re.IGNORECASE)
_NUMBERS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Found:
    """One file that may be a dump.

    Attributes:
        rank: from the folder's manifest or the file name, None if neither has it.
        claimed: the name says that it is a dump, or the operator named it, so report it if it is not one.
    """

    path: str
    rank: int | None
    claimed: bool


def find_files(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Found], list[str]]:
    """Return the files under `paths` that may be dumps, and all others (stacks, logs, archives and so on).

    Raises:
        DumpError: a path does not exist.
    """
    dumps: list[Found] = []
    others: list[str] = []
    for given in paths:
        path = os.fspath(given)
        if not os.path.lexists(path):
            raise DumpError(f"{path} does not exist", hint="check the path")
        if not os.path.isdir(path):
            if _STACKS.search(os.path.basename(path)) or _OTHER.search(path):
                others.append(path)
            else:
                dumps.append(Found(path, _rank(path, entries_of([path])), True))
            continue
        files = list(_walk(path, 0))
        whose = entries_of(files)
        for file in files:
            name = os.path.basename(file)
            if name.startswith("."):
                continue
            if _STACKS.search(name) or _OTHER.search(name):
                others.append(file)
            else:
                rank = _rank(file, whose)
                claimed = rank is not None or not name.lower().endswith((".json", ".txt", ".jsonl"))
                dumps.append(Found(file, rank, claimed))
    return _with_ranks(dumps), others


def rank_by_pattern(path: str, pattern: re.Pattern[str]) -> int | None:
    """Return the rank that the operator's pattern finds in a path: its first group, else the whole match.

    Raises:
        DumpError: the match is not a number.
    """
    match = pattern.search(path)
    if match is None:
        return None
    text = match[1] if match.re.groups else match[0]
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise DumpError(f"--rank-from finds {text!r} in {path}, which is not a rank", hint="write it like 'gpu(\\d+)'")
    return int(text)


def _rank(path: str, whose: Mapping[str, Entry]) -> int | None:
    entry = whose.get(path)
    return rank_from_name(path) if entry is None else entry.rank


def _walk(folder: str, depth: int) -> Iterator[str]:
    """Yield the files below a folder in order, without following links to folders."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DumpError(f"{folder} cannot be read: {error.strerror}") from error
    for entry in entries[:MAX_FILES]:
        if entry.is_dir(follow_symlinks=False):
            if depth < MAX_DEPTH:
                yield from _walk(entry.path, depth + 1)
        elif entry.is_file():
            yield entry.path


def _with_ranks(files: Sequence[Found]) -> list[Found]:
    """Give files without a rank the one number in which their names differ, if it is separate.

    ``dump.0, dump.1`` qualify; ``node01, node02`` do not, because a number attached to a word may name a host.
    """
    nameless: dict[tuple[str, ...], list[Found]] = {}
    for file in files:
        if file.rank is None:
            skeleton = (os.path.dirname(file.path), *_NUMBERS.split(os.path.basename(file.path)))
            nameless.setdefault(skeleton, []).append(file)
    ranks: dict[str, int] = {}
    for skeleton, same in nameless.items():
        columns = list(zip(*(_NUMBERS.findall(os.path.basename(file.path)) for file in same), strict=True))
        varying = [at for at, column in enumerate(columns) if len(set(column)) > 1]
        if len(same) < 2 or len(varying) != 1:
            continue
        numbers = columns[varying[0]]
        before = skeleton[varying[0] + 1]
        if before[-1:].isalpha() or len(set(numbers)) != len(same) or any(len(text) > 6 for text in numbers):
            continue
        if set(map(int, numbers)) == set(range(len(same))):
            ranks.update({file.path: int(text) for file, text in zip(same, numbers, strict=True)})
    return [Found(file.path, ranks.get(file.path, file.rank), file.claimed) for file in files]
