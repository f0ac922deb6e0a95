"""Which frame of a recorded stack is the user's own."""

from __future__ import annotations

from collections.abc import Sequence

from torchctl.flightrec.decoding.dump import Frame
from torchctl.stacks import codepaths


def user_frame(frames: Sequence[Frame]) -> Frame | None:
    """Return the innermost frame of the user's own code, else of an installed library; frames innermost first."""
    for wanted in ("user", "library"):
        for frame in frames:
            if codepaths.origin(frame.filename) == wanted:
                return frame
    return None
