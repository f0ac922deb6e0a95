"""The stacks of one worker, from JSON or from faulthandler's text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torchctl.stacks import codepaths

SCHEMA = "torchctl.stacks/1"
MAIN_THREAD = "MainThread"
OWN_THREADS = "torchctl-"  # the names of the server's own threads begin so
MAX_THREADS = 100_000
MAX_FRAMES = 10_000  # of one thread

THREAD = re.compile(r"(?:Current thread|Thread) 0x([0-9a-fA-F]{1,16})(?: \[(.*)\])? \(most recent call first\):")
FRAME = re.compile(r'  File "(.*)", line (\d{1,9}|\?\?\?) in (.*)')


@dataclass(frozen=True, slots=True)
class StackFrame:
    """One call; `line` is 0 where it is not known."""

    file: str
    line: int
    function: str

    @property
    def origin(self) -> codepaths.Origin:
        """Whose code it is, by its path."""
        return codepaths.origin(self.file)


@dataclass(frozen=True, slots=True)
class ThreadStack:
    """One thread: its id, its name ("" unknown), whether it is the main one, its frames, innermost first.

    `complete` is False when the outermost frames were cut off.
    """

    ident: int
    name: str
    main: bool
    frames: tuple[StackFrame, ...]
    complete: bool = True

    @property
    def users_frame(self) -> int | None:
        """Index of the innermost frame of the user's own code, else of a library's; None when all is torch's."""
        for wanted in ("user", "library"):
            for index, frame in enumerate(self.frames):
                if frame.origin == wanted:
                    return index
        return None


@dataclass(frozen=True, slots=True)
class Stacks:
    """All threads of one worker; `truncated` when the writer left threads out, which may be the main one."""

    threads: tuple[ThreadStack, ...]
    truncated: bool = False

    @property
    def main(self) -> ThreadStack | None:
        """The main thread; None when it is not among the threads."""
        return next((thread for thread in self.threads if thread.main), None)


def parse_stacks(data: bytes) -> Stacks:
    """Return the stacks that a worker sent, as JSON (torchctl's server) or text (faulthandler's, torch's server).

    Raises:
        ValueError: neither; the message says what is wrong.
    """
    text = data.decode("utf-8", "replace")
    return _from_json(text) if text.lstrip().startswith("{") else parse_faulthandler(text)


def parse_faulthandler(text: str) -> Stacks:
    """Return the stacks in text as `faulthandler.dump_traceback` prints it; lines of other kinds are passed over.

    Only torchctl's server and Python 3.14 name the threads. Without names the main thread is the last: the
    interpreter lists the newest first. That fails when the writer stopped at its limit, which a final ``...`` says.

    Raises:
        ValueError: there is no thread in it.

    Source: CPython's Python/traceback.c, _Py_DumpTracebackThreads (3.11 to 3.14).
    """
    threads: list[tuple[int, str, list[StackFrame], bool]] = []
    truncated = False
    for line in text.splitlines():
        if match := THREAD.fullmatch(line):
            threads.append((int(match[1], 16), match[2] or "", [], True))
        elif (match := FRAME.fullmatch(line)) and threads and len(threads[-1][2]) < MAX_FRAMES:
            threads[-1][2].append(StackFrame(match[1], int(match[2]) if match[2] != "???" else 0, match[3]))
        elif line == "  ..." and threads:
            ident, name, frames, _ = threads[-1]
            threads[-1] = (ident, name, frames, False)
        elif line == "...":
            truncated = True
        if len(threads) > MAX_THREADS:
            raise ValueError(f"more than {MAX_THREADS} threads")
    if not threads:
        raise ValueError("no thread's stack is in it")
    main = main_at([name for _, name, _, _ in threads], truncated)
    return Stacks(
        tuple(
            ThreadStack(ident, name, index == main, tuple(frames), complete)
            for index, (ident, name, frames, complete) in enumerate(threads)
        ),
        truncated,
    )


def main_at(names: Sequence[str], truncated: bool) -> int:
    """Return the index of the main thread: the one of that name, else the last; -1 where that one was left out."""
    if MAIN_THREAD in names:
        return names.index(MAIN_THREAD)
    return -1 if truncated else len(names) - 1


def _from_json(text: str) -> Stacks:
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            raise ValueError(f"it is a {document['schema']!r}, not a {SCHEMA!r}")
        threads = document["threads"]
        if not isinstance(threads, list) or len(threads) > MAX_THREADS:
            raise ValueError("its threads are no list, or too many")
        return Stacks(tuple(_thread(thread) for thread in threads))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the JSON has not the form of {SCHEMA}: {type(error).__name__}") from error


def _thread(thread: Any) -> ThreadStack:
    frames = [
        StackFrame(_text(frame["file"]), _line(frame["line"]), _text(frame["function"]))
        for frame in thread["frames"][:MAX_FRAMES]
    ]
    return ThreadStack(
        _line(thread["id"]),
        _text(thread["name"]),
        thread["main"] is True,
        tuple(frames),
        thread["complete"] is True,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value[:4096]


def _line(value: Any) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or value < 0 or value >= 1 << 64:
        raise TypeError("no number")
    return value
