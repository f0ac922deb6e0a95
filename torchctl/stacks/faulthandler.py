"""Stacks as `faulthandler` prints them, torch's server sends them, and ours does.

How this works: the text is cut at the threads' headings, whole lines, and what is below a heading is read by a function
that the caller gives. The dumps of a job are nearly all alike but for the threads' addresses, which are in the
headings, so that function can look up a text that it has read before.
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
    """Return the stacks in a text whose lines end in line feeds; other lines are skipped.

    Without names the main thread is the last: the interpreter lists the newest first. That fails when the writer
    stopped at its limit of threads, which a line below the last thread says.

    Args:
        read: `read_body`, or what does the same and remembers.

    Raises:
        ValueError: there is no thread in it, or there are too many.
    """
    parts = _HEADING.split(text)  # before, then (address, name, body) per thread
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
    """Return the index of the main thread: the one of that name, else the last; -1 where that one was left out."""
    if stacktext.MAIN_THREAD in names:
        return names.index(stacktext.MAIN_THREAD)
    return -1 if truncated else len(names) - 1
