"""Flight-recorder dumps from bytes and files that no one vouches for."""

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
_PART_OF = "(?:local|node|group)[-_.]?"  # of the job: such a rank is not the job's
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
        guard: a child process to decode in, for more than one dump; None starts one for this dump alone.
        whole: False leaves out durations and threads, which the table of all ranks has no column for.
        members: of groups in other dumps, added to; equal ones are then one object.

    Raises:
        DumpError: the bytes are empty, cut, foreign or hostile, or take more than the limits allow.
    """
    if guard is None:
        with Guard() as own:
            return decode_dump(data, source, guard=own, whole=whole, members=members)
    payload = guard.ask(wire.DECODE_DUMP if whole else wire.DECODE_FOR_TABLE, data, source)
    # Only now, so that a caller that needs it can import it meanwhile in another thread.
    from torchctl.flightrec.decoding.entries import dump_of_columns

    return dump_of_columns(*wire.unpack(payload), source, {} if members is None else members)


def read_dump(path: str | os.PathLike[str], *, guard: Guard | None = None) -> Dump:
    """Decode the dump in a file; as `decode_dump`.

    Raises:
        DumpError: as `decode_dump`, or the file cannot be read.
    """
    limits = guard.limits if guard is not None else Limits()
    return decode_dump(read_file(path, limits), os.fspath(path), guard=guard)


def describe_pickle(data: bytes, *, source: str = "the pickle", guard: Guard | None = None) -> str:
    """Return one line of text that shows the structure of any pickle, without executing anything in it.

    What the pickle would import or call is shown by name: ``{'when': <datetime.datetime(b'...')>}``. The
    text may hold control characters of the pickle's own only as escapes; it is cut after 5000 values.

    Raises:
        DumpError: it is not a pickle, or takes more than the limits allow.
    """
    if guard is None:
        with Guard() as own:
            return describe_pickle(data, source=source, guard=own)
    return guard.ask(wire.DESCRIBE_PICKLE, data, source).decode("utf-8", "replace")


def read_file(path: str | os.PathLike[str], limits: Limits | None = None) -> bytes:
    """Return the bytes of a regular file of bearable size.

    Raises:
        DumpError: it is absent, not a regular file (a pipe could block forever), unreadable or too large.
    """
    source, limits = os.fspath(path), limits or Limits()
    try:
        # Looked at before it is opened for good: opening a pipe would wait for its writer.
        status = os.stat(source)
        if stat.S_ISDIR(status.st_mode):
            raise DumpError(f"{source} is a folder", hint="give the dumps in it")
        if not stat.S_ISREG(status.st_mode):
            raise DumpError(f"{source} is not a regular file", hint="copy its content into a file first")
        if status.st_size > limits.input_bytes:
            raise too_large(source, status.st_size, limits)
        with open(os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(limits.input_bytes + 1)  # a file that grows meanwhile is refused by the guard
    except ValueError:
        raise DumpError(f"{source!r} is not a file name") from None
    except FileNotFoundError:
        raise DumpError(f"{source} does not exist", hint="check the path") from None
    except OSError as error:
        raise DumpError(
            f"{source} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from error


def rank_from_name(path: str | os.PathLike[str]) -> int | None:
    """Return the rank that a dump's file name has, None if it has none.

    Understood: `rank_3` and the like anywhere (`nccl_fr_rank_3`, `host-12_rank3.json`), else a last number
    after an underscore (`trace_3`, `_dump_3`) or the whole name (`3.pkl`). A host's number (`node12`) or a
    date (`trace_2026-11-20`) is no rank: a wrong rank is worse than none.
    """
    stem = _EXTENSIONS.sub("", os.path.basename(os.fspath(path)))
    match = _NAMED_RANK.search(stem) or _LAST_NUMBER.search(stem)
    if match is None or len(match[1]) > MAX_RANK_DIGITS or not match[1].isascii():
        return None
    if re.match(_PART_OF, match[0], re.IGNORECASE) or _TIME.search(stem):
        return None
    return int(match[1])
