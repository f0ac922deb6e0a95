"""Whether a thread that runs gets on with its work, by several samples of its stack.

How this works. A thread that polls (`while not ready(): pass`), or loops in one function, changes in its innermost
frames alone. One that works goes from call to call: a frame that has called something is at another instruction in
another sample, and has called something again; or it is at the same one, and has called another function.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torchctl.stacks.calls import calls_of
from torchctl.stacks.role import rank_thread
from torchctl.stacks.stack import Stacks


class Step(NamedTuple):
    """One frame; `offset` is its instruction, -1 if it is not known."""

    file: str
    function: str
    line: int
    offset: int


Path = tuple[Step, ...]


def path_of(stacks: Stacks) -> Path:
    """Return the frames of the rank's thread, outermost first; what Python's own library does inside is left out."""
    thread = rank_thread(stacks)
    if thread is None:
        return ()
    said = calls_of(stacks, thread)
    offsets = () if said is None or len(said.offsets) != len(thread.frames) else said.offsets
    steps = [
        Step(frame.file, frame.function, frame.line, offsets[at] if offsets else -1)
        for at, frame in enumerate(thread.frames)
    ]
    first = next((at for at, frame in enumerate(thread.frames) if frame.origin not in ("python", "native")), 0)
    return tuple(reversed(steps[first:]))


def goes_on(paths: Sequence[Path]) -> bool:
    """Whether a thread has gone from call to call between samples."""
    return any(_apart(before, after) for before, after in pairwise(paths))


def _apart(before: Path, after: Path) -> bool:
    """Whether two samples part in a frame that has called another in both."""
    for at, (one, other) in enumerate(zip(before, after, strict=False)):
        if (one.file, one.function) != (other.file, other.function):
            return at > 0
        known = -1 not in (one.offset, other.offset)
        if one.line != other.line or (known and one.offset != other.offset):
            return at + 1 < len(before) and at + 1 < len(after)
    return False
