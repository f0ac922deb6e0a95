"""The document of what all threads are calling, made in one pass; `torchctl.protocol.calls` describes its contents.

How this works: we take the frames of all threads in one step, then read one thread after another, without releasing the
interpreter lock unless another thread requests it. We keep nothing: the frames, which keep their variables alive, are
always released at the end. A thread that moved on while we read it has no `wait`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import FrameType
from typing import Any

from torchctl.protocol.calls import MAX_CALLS, MAX_OFFSETS, MAX_P2P, MAX_TEXT, MAX_THREADS, SCHEMA
from torchctl.protocol.stacktext import OWN_THREADS
from torchctl.server.guest import identity, outstanding
from torchctl.server.handlers.calling import threads, variables
from torchctl.server.handlers.calling.arguments import Arguments, inside
from torchctl.server.handlers.calling.groups import Groups
from torchctl.server.handlers.calling.objects import Kinds, attribute, text_of, whole_of
from torchctl.server.handlers.calling.waits import Waits

_MAX_FRAMES = 1000  # of one thread
_MAX_PATH = 1000  # characters


def calls_document() -> dict[str, Any]:
    """Return the document, ready for JSON."""
    kinds, groups = Kinds(), Groups()
    frames = sys._current_frames()
    waits, arguments = Waits(kinds, groups, frames), Arguments(kinds, groups)
    try:
        main = threading.main_thread().ident
        idents = sorted(frames, key=lambda ident: ident != main)
        found = [
            _thread(ident, name, frames[ident], ident == main, waits, arguments)
            for ident in idents[:MAX_THREADS]
            if not (name := _name(ident)).startswith(OWN_THREADS) and ident != threading.get_ident()
        ]
        return {
            "schema": SCHEMA,
            "pid": os.getpid(),
            "rank": identity.place().rank,
            "time": time.time(),
            "arguments": variables.readable(),
            "complete": groups.complete and len(idents) <= MAX_THREADS,
            "groups": groups.documents,
            "threads": found,
            "p2p": _outstanding(groups),
        }
    finally:
        frames.clear()
        groups.forget()


def _name(ident: int) -> str:
    # Not threading.enumerate(): it takes a lock, and a debugger must not wait for the target's locks.
    return text_of(attribute(threading._active.get(ident), "_name")) or ""  # type: ignore[attr-defined]


def _thread(ident: int, name: str, top: FrameType, main: bool, waits: Waits, arguments: Arguments) -> dict[str, Any]:
    if main:
        native_id: int | None = os.getpid()  # after a fork, Python still has the parent's
    else:
        native_id = whole_of(attribute(threading._active.get(ident), "_native_id"))  # type: ignore[attr-defined]
    code = top.f_code
    return {
        "id": ident,
        "native_id": native_id,
        "name": name,
        "main": main,
        "cpu_ns": None if native_id is None else threads.cpu_ns(native_id),
        "wchan": "" if native_id is None else threads.wait_channel(native_id),
        "frame": [code.co_filename[:_MAX_PATH], top.f_lineno or 0, code.co_name[:MAX_TEXT]],
        "offsets": _offsets(top) if main else [],
        "wait": waits.wait(top),
        "calls": _calls(top, arguments),
    }


def _offsets(top: FrameType) -> list[int]:
    """Return at which instruction each frame of a thread is, innermost first."""
    found: list[int] = []
    frame: FrameType | None = top
    while frame is not None and len(found) < MAX_OFFSETS:
        found.append(max(0, frame.f_lasti))
        frame = frame.f_back
    return found


def _calls(top: FrameType, arguments: Arguments) -> list[dict[str, Any]]:
    """Return a thread's calls into torch.distributed, outermost first; if too many, only the innermost ones."""
    found: list[dict[str, Any]] = []
    frame: FrameType | None = top
    depth = 0
    while frame is not None and depth < _MAX_FRAMES and len(found) < MAX_CALLS:
        if inside(frame.f_code.co_filename):
            call = arguments.call(frame, depth)
            if call is not None:
                found.append(call)
        frame, depth = frame.f_back, depth + 1
    found.reverse()
    return found


def _outstanding(groups: Groups) -> list[dict[str, Any]] | None:
    if not outstanding.is_recording():
        return None
    return [groups.sent_or_received(one) for one in outstanding.all_begun()[:MAX_P2P]]
