"""Parses stacks in the format of `faulthandler`, which torch's server and ours send too.

How this works: the text is split at the thread headings, which are whole lines, and a function that the caller passes
reads the text below each heading. The dumps of a job are nearly identical except for the thread addresses in the
headings, so that function can cache the texts that it has read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torchctl.protocol import stacktext
from torchctl.stacks.stack import MAX_FRAMES, MAX_THREADS, StackFrame, Stacks, ThreadStack

Body = tuple[tuple[StackFrame, ...], bool]  # the frames of a thread, and whether they are complete

_HEADING = re.compile(f"^{stacktext.HEADING}$", re.MULTILINE)
_FRAME = re.compile(stacktext.FRAME)
_THREADS_CUT = f"\n{stacktext.THREADS_CUT}\n"


def parse_faulthandler(text: str, read: Callable[[str], Body]) -> Stacks:
    """Return the stacks in a text with line feeds as line endings; unrelated lines are skipped.

    If the threads have no names, the main thread is the last: the interpreter lists the newest first. It is missing
    if the writer stopped at its thread limit, which a line below the last thread shows.

    Args:
        read: `read_body`, or a caching version of it.

    Raises:
        ValueError: the text holds no thread, or too many.
    """
    parts = _HEADING.split(text)  # the text before, then (address, name, body) per thread
    count = len(parts) // 3
    if count == 0:
        raise ValueError("it holds no thread's stack")
    if count > MAX_THREADS:
        raise ValueError(f"more than {MAX_THREADS} threads")
    truncated = _THREADS_CUT in parts[-1] + "\n"
    names = [name or "" for name in parts[2::3]]
    main = _main(names, truncated)
    threads = (
        ThreadStack(int(address, 16), name, index == main, *read(body))
        for index, (address, name, body) in enumerate(zip(parts[1::3], names, parts[3::3], strict=True))
    )
    return Stacks(tuple(threads), truncated)


def read_body(body: str) -> Body:
    """Return the frames in the lines below a heading, innermost first, and whether they are complete."""
    frames: list[StackFrame] = []
    complete = True
    for line in body.split("\n"):
        match = _FRAME.fullmatch(line)
        if match and len(frames) < MAX_FRAMES:
            frames.append(StackFrame(match[1], int(match[2]) if match[2] != "???" else 0, match[3]))
        elif line == stacktext.FRAMES_CUT:
            complete = False
    return tuple(frames), complete


def _main(names: Sequence[str], truncated: bool) -> int:
    """Return the index of the main thread: the one named so, else the last; -1 if the main thread was omitted."""
    if stacktext.MAIN_THREAD in names:
        return names.index(stacktext.MAIN_THREAD)
    return -1 if truncated else len(names) - 1
