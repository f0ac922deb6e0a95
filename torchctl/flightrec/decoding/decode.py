"""Decode flight-recorder dumps from untrusted bytes and files."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

from torchctl.errors import DumpError
from torchctl.flightrec.decoding import wire
from torchctl.flightrec.decoding.guard import Guard, Limits, too_large

if TYPE_CHECKING:
    from torchctl.flightrec.decoding.dump import Dump
    from torchctl.flightrec.decoding.entries import Members

MAX_RANK_DIGITS = 6
_EXTENSIONS = re.compile(r"\.(pkl|pickle|json|bin|dump|trace|txt)\Z", re.IGNORECASE)
_PART_OF = "(?:local|node|group)[-_.]?"  # a rank within a part of the job, not the global rank
_NAMED_RANK = re.compile(rf"(?:{_PART_OF})?rank[-_.]?(\d+)(?!.*rank[-_.]?\d)", re.IGNORECASE)
_TIME = re.compile(r"(?<!\d)20\d{6}_[0-2]\d[0-5]\d[0-6]\d\Z")  # trace_20261126_110807
_LAST_NUMBER = re.compile(r"(?:\A|_)(\d+)\Z")


def decode_dump(
    data: bytes, source: str, *, guard: Guard | None = None, whole: bool = True, members: Members | None = None
) -> Dump:
    """Decode one dump, pickle or JSON, of any backend and any version 2.x.

    Args:
        data: the untrusted bytes; nothing in them is executed.
        source: the file or endpoint they come from, named in errors and in the result.
        guard: a child process to decode several dumps in; None starts one for this dump only.
        whole: False omits durations and threads, for which the job's table has no columns.
        members: group members seen in other dumps; this dump's are added, and equal ones share one object.

    Raises:
        DumpError: the bytes are empty, truncated, foreign or hostile, or exceed the limits.
    """
    if guard is None:
        with Guard() as own:
            return decode_dump(data, source, guard=own, whole=whole, members=members)
    payload = guard.ask(wire.DECODE_DUMP if whole else wire.DECODE_FOR_TABLE, data, source)
    # Imported late, so that a caller can import it in another thread while the child works.
    from torchctl.flightrec.decoding.entries import dump_of_columns

    return dump_of_columns(*wire.unpack(payload), source, {} if members is None else members)


def read_dump(path: str | os.PathLike[str], *, guard: Guard | None = None) -> Dump:
    """Decode the dump in a file.

    Raises:
        DumpError: as for `decode_dump`, or the file cannot be read.
    """
    limits = guard.limits if guard is not None else Limits()
    return decode_dump(read_file(path, limits), os.fspath(path), guard=guard)


def describe_pickle(data: bytes, *, source: str = "the pickle", guard: Guard | None = None) -> str:
    """Return one line of text that shows the structure of any pickle, without executing anything in it.

    Whatever the pickle would import or call is shown by name: ``{'when': <datetime.datetime(b'...')>}``. Control
    characters in the pickle are escaped; the text is cut after 5000 values.

    Raises:
        DumpError: the data is not a pickle, or exceeds the limits.
    """
    if guard is None:
        with Guard() as own:
            return describe_pickle(data, source=source, guard=own)
    return guard.ask(wire.DESCRIBE_PICKLE, data, source).decode("utf-8", "replace")


def read_file(path: str | os.PathLike[str], limits: Limits | None = None) -> bytes:
    """Return the bytes of a regular file that is within the size limit.

    Raises:
        DumpError: the file is missing, not regular (a pipe could block forever), unreadable or too large.
    """
    source, limits = os.fspath(path), limits or Limits()
    try:
        # Check the type before opening: opening a pipe would wait for its writer.
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode):
            raise DumpError(f"{source} is a folder", hint="give the dumps in it")
        if not stat.S_ISREG(status.st_mode):
            raise DumpError(f"{source} is not a regular file", hint="copy its content into a file first")
        if status.st_size > limits.input_bytes:
            raise too_large(source, status.st_size, limits)
        with open(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(limits.input_bytes + 1)  # if the file grows in the meantime, the guard refuses it
    except ValueError:
        raise DumpError(f"{source!r} is not a file name") from None
    except FileNotFoundError:
        raise DumpError(f"{source} does not exist", hint="check the path") from None
    except OSError as error:
        raise DumpError(
            f"{source} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error


def rank_from_name(path: str | os.PathLike[str]) -> int | None:
    """Return the rank in a dump's file name, or None if it has none.

    Recognizes `rank_3` and the like anywhere (`nccl_fr_rank_3`, `host-12_rank3.json`), else a trailing number
    after an underscore (`trace_3`, `_dump_3`), or a name that is only a number (`3.pkl`). A host number (`node12`)
    or a date (`trace_2026-11-20`) does not count: a wrong rank is worse than none.
    """
    stem = _EXTENSIONS.sub("", os.path.basename(os.fspath(path)))
    match = _NAMED_RANK.search(stem) or _LAST_NUMBER.search(stem)
    if match is None or len(match[1]) > MAX_RANK_DIGITS or not match[1].isascii():
        return None
    if re.match(_PART_OF, match[0], re.IGNORECASE) or _TIME.search(stem):
        return None
    return int(match[1])
