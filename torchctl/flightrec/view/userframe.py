"""Which frame of a recorded stack is the user's code; see `stacks.codepaths`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torchctl.flightrec.decoding.dump import Frame
from torchctl.stacks import codepaths


def user_frame(frames: Sequence[Frame]) -> Frame | None:
    """Return the innermost frame in the user's code, or None if there is none; `frames` is innermost first."""
    return _at(frames, codepaths.users_frame)


def nearest_frame(frames: Sequence[Frame]) -> Frame | None:
    """Return the innermost frame in the user's code, else in an installed library; `frames` is innermost first."""
    return _at(frames, codepaths.nearest_frame)


def _at(frames: Sequence[Frame], choose: Callable[[list[str]], int | None]) -> Frame | None:
    index = choose([frame.filename for frame in frames])
    return None if index is None else frames[index]
