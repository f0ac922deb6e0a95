"""Which frame of a recorded stack is the user's own; see `stacks.codepaths`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torchctl.flightrec.decoding.dump import Frame
from torchctl.stacks import codepaths


def user_frame(frames: Sequence[Frame]) -> Frame | None:
    """Return the innermost frame of the user's own code, None if there is none; frames innermost first."""
    return _at(frames, codepaths.users_frame)


def nearest_frame(frames: Sequence[Frame]) -> Frame | None:
    """Return the innermost frame of the user's own code, else of an installed library; frames innermost first."""
    return _at(frames, codepaths.nearest_frame)


def _at(frames: Sequence[Frame], choose: Callable[[list[str]], int | None]) -> Frame | None:
    index = choose([frame.filename for frame in frames])
    return None if index is None else frames[index]
