"""The stacks of one worker: threads and frames, and the JSON in which torchctl's server sends them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from torchctl.protocol.stacktext import JSON_SCHEMA, OWN_THREADS
from torchctl.stacks import codepaths

MAX_THREADS = 100_000
MAX_FRAMES = 10_000  # of one thread


@dataclass(frozen=True, slots=True)
class StackFrame:
    """One call; `line` is 0 if it is not known."""

    file: str
    line: int
    function: str

    @property
    def origin(self) -> codepaths.Origin:
        """Whose code it is, by its path."""
        return codepaths.origin(self.file)

    @property
    def bare(self) -> str:
        """The function's own name, where py-spy prints `Queue._feed` or `_exception_logger.<locals>.wrapper`."""
        return self.function.rpartition(".")[2]


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
    def own(self) -> bool:
        """Whether it is a thread of torchctl's server, not of the job."""
        return self.name.startswith(OWN_THREADS)

    @property
    def users_frame(self) -> int | None:
        """Index of the innermost frame of the user's own code; None if there is none."""
        return codepaths.users_frame([frame.file for frame in self.frames])

    @property
    def nearest_frame(self) -> int | None:
        """As `users_frame`, and of a library's code where there is none of the user's."""
        return codepaths.nearest_frame([frame.file for frame in self.frames])


@dataclass(frozen=True, slots=True)
class Stacks:
    """All threads of one worker; `truncated` when the writer left threads out, which may be the main one."""

    threads: tuple[ThreadStack, ...]
    truncated: bool = False

    @property
    def main(self) -> ThreadStack | None:
        """The main thread; None when it is not among the threads."""
        return next((thread for thread in self.threads if thread.main), None)


def stacks_from_json(text: str) -> Stacks:
    """Return the stacks in the JSON of torchctl's server.

    Raises:
        ValueError: it is something else; the message says what is wrong.
    """
    try:
        document = json.loads(text)
        if document["schema"] != JSON_SCHEMA:
            raise ValueError(f"it is a {document['schema']!r}, not a {JSON_SCHEMA!r}")
        threads = document["threads"]
        if not isinstance(threads, list) or len(threads) > MAX_THREADS:
            raise ValueError("its threads are not a list, or there are too many")
        return Stacks(tuple(_thread(thread) for thread in threads))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the JSON is not in the {JSON_SCHEMA} format: {type(error).__name__}") from error


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
