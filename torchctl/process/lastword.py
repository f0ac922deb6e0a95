"""A worker's last word: when and how it died, and at which step, in a small file that outlives it.

How this works: the sentinel writes it, since a dead process cannot; a worker whose main function raises or returns
writes its own (see `server.guest.farewell`). It is written only to the runtime folder, which is ours and closed to
others, and only to a new file, never beside a socket elsewhere. The sentinel is not the worker's parent and cannot wait
for it: it can read the exit status from /proc until the parent reaps the dead process, and on kernel 6.15 and later
from the pidfd even afterwards. An orderly end has another file name, so that older versions of torchctl do not list it
among the dead. Older versions wrote fewer fields.

Source: proc(5), field 52 of stat; include/uapi/linux/pidfd.h, PIDFD_GET_INFO.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import time
from typing import Any, NamedTuple

from torchctl.errors import RuntimeDirError
from torchctl.process.samples import PROC, stat_fields
from torchctl.protocol import runtimedir

SCHEMA = "torchctl.last-word/1"
SUFFIX = ".died"
ORDERLY_SUFFIX = ".ended"
KEPT_S = 86400.0
MAX_MESSAGE = 400  # characters
MAX_FRAMES_BYTES = 4000
_MAX_BYTES = 16384
_MAX_CAUSE, _MAX_NOTE = 250, 2000  # characters shown of what a file holds
_BEING_WRITTEN_S = 60.0
_LAST_DATE = 4102444800.0  # 2100: anything later is not a real time of death
_MAX_NUMBER = 1 << 63
_MAX_FILES = 4096  # read at most, of each suffix; a crash loop must not make `ps` slow
_EXIT_STATUS = 49  # index of field 52 among those from the third on
_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info of 64 bytes)
_PIDFD_INFO_EXIT = 1 << 3
_INFO = struct.Struct("=Q52xi")  # mask, fields that we skip, exit code


class Raised(NamedTuple):
    """A frame that an exception passed through."""

    file: str
    line: int
    function: str


class LastWord(NamedTuple):
    """One death, or one orderly end.

    Attributes:
        died: seconds since the epoch, with milliseconds.
        cause: "SIGKILL", "exit code 3", "uncaught ValueError", or "" if it could not be seen.
        note: what was wrong before, or who killed it, if known.
        exit_code: None if a signal ended it, or if it could not be seen.
        signal: "SIGKILL"; "" if none ended it.
        exception: the type's name; "" if nothing was raised.
        message: the exception's, cut, without secrets; "" if it has none, or reading it would run the job's code.
        handled: type and message of the exceptions that were being handled when it was raised, latest first.
        frames: that the exception passed through, innermost first, as far as there was room.
        started: when the process was started, in seconds since the epoch.
        attempt: how often the launcher had restarted the job.
        out_of_memory: the kernel's out-of-memory killer ran in its control group while it was killed.
        orderly: its program ended with exit code 0.
        witness: who wrote it: the "worker" before its end, or its "sentinel" just after it.
        path: the file's path.
    """

    pid: int
    died: float
    cause: str
    rank: int | None = None
    world_size: int | None = None
    job_id: str | None = None
    host: str = ""
    step: int | None = None
    note: str = ""
    endpoint: str = ""
    path: str = ""
    exit_code: int | None = None
    signal: str = ""
    exception: str = ""
    message: str = ""
    handled: tuple[tuple[str, str], ...] = ()
    frames: tuple[Raised, ...] = ()
    started: float | None = None
    attempt: int | None = None
    out_of_memory: bool = False
    orderly: bool = False
    witness: str = ""


def write(folder: str, word: LastWord) -> None:
    """Save a last word in the runtime folder, creating the folder if needed.

    A full disk or an unwritable folder is not an error: the last word is just lost.
    """
    document = {"schema": SCHEMA, **word._asdict()}
    del document["path"]
    path = os.path.join(folder, name_of(word))
    try:
        runtimedir.make_runtime_dir(folder)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except (OSError, RuntimeDirError):
        return
    try:
        data = json.dumps(document, sort_keys=True).encode()
        whole = os.write(descriptor, data) == len(data)
    except OSError:
        whole = False
    finally:
        os.close(descriptor)
    if not whole:
        os.unlink(path)


def name_of(word: LastWord) -> str:
    """Return the name of a last word's file."""
    return f"{word.pid}-{int(word.died * 1000)}{ORDERLY_SUFFIX if word.orderly else SUFFIX}"


def is_named_so(path: str) -> bool:
    """Whether a file's name is that of a last word."""
    return path.endswith((SUFFIX, ORDERLY_SUFFIX))


def read_all(folder: str, *, now: float | None = None) -> list[LastWord]:
    """Return the last words in a runtime folder, latest first; remove those older than a day.

    Raises:
        RuntimeDirError: the folder cannot be trusted.
    """
    if not runtimedir.check_runtime_dir(folder):
        return []
    now = time.time() if now is None else now
    found = []
    for path in _files(folder):
        word = read(path)
        if word is None:
            if _is_settled(path, now):
                _remove(path)
        elif now - word.died > KEPT_S:
            _remove(path)
        else:
            found.append(word)
    return sorted(found, key=lambda word: -word.died)


def forget(folder: str) -> int:
    """Remove all last words in a folder and return how many there were.

    Raises:
        RuntimeDirError: the folder cannot be trusted.
    """
    return sum(_remove(path) for path in _files(folder)) if runtimedir.check_runtime_dir(folder) else 0


def exit_status(pid: int, pidfd: int | None, *, proc: str = PROC) -> int | None:
    """Return a dead process's status as `waitpid` would, or None if it is not visible (yet)."""
    fields = stat_fields(f"{proc}/{pid}/stat")
    if len(fields) > _EXIT_STATUS and fields[0] in ("Z", "X") and fields[_EXIT_STATUS].isdigit():
        return int(fields[_EXIT_STATUS])
    if pidfd is None:
        return None
    request = bytearray(64)
    struct.pack_into("=Q", request, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, request)
    except OSError:
        return None
    mask, status = _INFO.unpack_from(request)
    return status if mask & _PIDFD_INFO_EXIT else None


def in_words(status: int | None) -> str:
    """Return an exit status in words: ``SIGKILL``, ``exit code 3``, or "" for None."""
    name = signal_in(status)
    if not name:
        return "" if status is None else f"exit code {exit_code_in(status)}"
    return f"{name}, core dumped" if status is not None and status & 0x80 else name


def exit_code_in(status: int | None) -> int | None:
    """Return the exit code in a status, None if a signal ended the process."""
    return None if status is None or status & 0x7F else status >> 8 & 0xFF


def signal_in(status: int | None) -> str:
    """Return the name of the signal in a status, "" if none ended the process."""
    number = 0 if status is None else status & 0x7F
    try:
        return signal.Signals(number).name if number else ""
    except ValueError:
        return f"signal {number}"


def _files(folder: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    died, ended = ([name for name in names if name.endswith(suffix)] for suffix in (SUFFIX, ORDERLY_SUFFIX))
    return [os.path.join(folder, name) for name in died[:_MAX_FILES] + ended[:_MAX_FILES]]


def read(path: str) -> LastWord | None:
    """Return the last word in a file, None if the file holds none; fields of another type are left out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            document = json.loads(os.read(descriptor, _MAX_BYTES))
        finally:
            os.close(descriptor)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            return None
        died = float(_typed(document, "died", float) or 0.0)
        if not 0 <= died < _LAST_DATE:
            return None  # NaN too
        return LastWord(
            pid=_typed(document, "pid", int) or 0,
            died=died,
            cause=(_typed(document, "cause", str) or "")[:_MAX_CAUSE],
            rank=_typed(document, "rank", int),
            world_size=_typed(document, "world_size", int),
            job_id=_typed(document, "job_id", str),
            host=_typed(document, "host", str) or "",
            step=_typed(document, "step", int),
            note=(_typed(document, "note", str) or "")[:_MAX_NOTE],
            endpoint=_typed(document, "endpoint", str) or "",
            path=path,
            exit_code=_typed(document, "exit_code", int),
            signal=_typed(document, "signal", str) or "",
            exception=_typed(document, "exception", str) or "",
            message=(_typed(document, "message", str) or "")[:MAX_MESSAGE],
            handled=_handled(document.get("handled")),
            frames=_frames(document.get("frames")),
            started=_time(document.get("started")),
            attempt=_typed(document, "attempt", int),
            out_of_memory=_typed(document, "out_of_memory", bool) or False,
            orderly=path.endswith(ORDERLY_SUFFIX),
            witness=_typed(document, "witness", str) or "",
        )
    except (OSError, ValueError, RecursionError):
        return None


def _handled(value: object) -> tuple[tuple[str, str], ...]:
    pairs = [one for one in value if isinstance(one, list)] if isinstance(value, list) else []
    return tuple((one[0], one[1]) for one in pairs if [type(part) for part in one] == [str, str])


def _frames(value: object) -> tuple[Raised, ...]:
    if not isinstance(value, list):
        return ()
    kinds = [str, int, str]
    return tuple(Raised(*one) for one in value if isinstance(one, list) and [type(part) for part in one] == kinds)


def _time(value: object) -> float | None:
    return value if isinstance(value, float) and 0 <= value < _LAST_DATE else None


def _is_settled(path: str, now: float) -> bool:
    """Whether a file has not been written to for a while; one that is still being written is not broken."""
    try:
        return abs(now - os.lstat(path).st_mtime) > _BEING_WRITTEN_S
    except OSError:
        return False


def _typed(document: dict[str, Any], key: str, kind: type) -> Any:
    value = document.get(key)
    if isinstance(value, int) and abs(value) > _MAX_NUMBER:
        return None
    return value if type(value) is kind else None


def _remove(path: str) -> int:
    try:
        os.unlink(path)
        return 1
    except OSError:
        return 0
