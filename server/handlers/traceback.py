"""`dump_traceback`: the Python stack of every thread, as text or JSON.

How this works: we read the stacks in Python rather than with `faulthandler`, which prints at most 100 threads,
newest first, so that the main thread silently goes missing in a process with more; it also makes a separate
system call for each word. All frames are taken in one step under the interpreter lock. Walking them takes more
than one step: if a thread has moved in the meantime, we repeat the walk.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import FrameType
from typing import Any, NamedTuple

from torchctl.protocol import compact_json, stacktext
from torchctl.protocol.stacktext import CALLS_LINE, CALLS_PARAMETER
from torchctl.server.guest import identity
from torchctl.server.handlers import calls
from torchctl.server.refusal import Refusal
from torchctl.server.request import Request, Response

MAX_FRAMES = 1000  # per thread: Python's default recursion limit
_MAX_TEXT = 500  # characters of a file or function name, as in faulthandler
_TRIES = 3


class Frame(NamedTuple):
    """One frame; `line` is None if the interpreter does not know it."""

    file: str
    line: int | None
    function: str


class Stack(NamedTuple):
    """One thread: its ids, its name ("" if Python has none), and its frames, innermost first."""

    ident: int
    native_id: int | None
    name: str
    frames: list[Frame]
    complete: bool


def dump_traceback(request: Request, response: Response) -> None:
    """Answer with the stacks of all threads.

    Parameters: ``format``: ``text`` (faulthandler's) or ``json``; ``calls``: ``true`` to add what they are calling.
    """
    form = request.get_param("format") or "text"
    if form not in ("text", "json"):
        raise Refusal(400, f"format must be 'text' or 'json', not {form!r}")
    stacks = all_stacks()
    document = calls.if_wanted(request)
    if form == "json":
        response.set_content(_as_json(stacks, document), "application/json")
    else:
        added = "" if document is None else f"{CALLS_LINE}{compact_json(document)}\n"
        response.set_content(_as_text(stacks) + added, "text/plain")
    response.set_status(200)


def all_stacks() -> list[Stack]:
    """Return every thread's stack, in the interpreter's order: newest thread first, main thread last."""
    for attempt in range(_TRIES):
        frames = sys._current_frames()
        try:
            before = {ident: (frame, frame.f_lasti) for ident, frame in frames.items()}
            stacks = _walk(frames)
            if attempt == _TRIES - 1 or not _moved(before):
                return stacks
        finally:
            # Our own frame is among them: a cycle that would keep every thread's locals alive.
            frames.clear()
            before = {}
    raise AssertionError("unreachable")


def _moved(before: dict[int, tuple[FrameType, int]]) -> bool:
    now = sys._current_frames()
    me = threading.get_ident()
    try:
        return any(
            ident != me and (now.get(ident) is not frame or frame.f_lasti != position)
            for ident, (frame, position) in before.items()
        )
    finally:
        now.clear()


def _walk(frames: dict[int, FrameType]) -> list[Stack]:
    # Not threading.enumerate(): it takes a lock, and a debugger must not wait for the target's locks.
    threads = dict(threading._active)  # type: ignore[attr-defined]
    stacks = []
    for ident, top in frames.items():
        thread = threads.get(ident)
        name = str(getattr(thread, "name", ""))
        # After a fork, Python still has the parent's id for the main thread.
        native_id = os.getpid() if thread is threading.main_thread() else getattr(thread, "native_id", None)
        walked: list[Frame] = []
        frame: FrameType | None = top
        while frame is not None and len(walked) < MAX_FRAMES:
            code = frame.f_code
            walked.append(Frame(code.co_filename, frame.f_lineno, code.co_name))
            frame = frame.f_back
        stacks.append(Stack(ident, native_id, name, walked, frame is None))
    return stacks


def _as_text(stacks: list[Stack]) -> str:
    me = threading.get_ident()
    out: list[str] = []
    for stack in stacks:
        out.append(stacktext.heading(stack.ident, _ascii(stack.name), current=stack.ident == me))
        out += [stacktext.frame(_ascii(file), line, _ascii(function)) for file, line, function in stack.frames]
        if not stack.complete:
            out.append(stacktext.FRAMES_CUT)
        out.append("")
    return "\n".join(out)


def _as_json(stacks: list[Stack], document: dict[str, Any] | None) -> str:
    me = threading.get_ident()
    main = threading.main_thread().ident
    return compact_json(
        {
            "schema": stacktext.JSON_SCHEMA,
            "pid": os.getpid(),
            "rank": identity.place().rank,
            "time": time.time(),
            "threads": [
                {
                    "id": stack.ident,
                    "native_id": stack.native_id,
                    "name": stack.name,
                    "main": stack.ident == main,
                    "current": stack.ident == me,
                    "complete": stack.complete,
                    "frames": [frame._asdict() for frame in stack.frames],
                }
                for stack in stacks
            ],
            **({} if document is None else {CALLS_PARAMETER: document}),
        }
    )


def _ascii(text: str) -> str:
    """Return text as faulthandler writes it: ASCII, with everything else escaped, cut at 500 characters."""
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + "..."
    if text.isascii() and text.isprintable():
        return text
    return text.encode("unicode_escape").decode("ascii")
