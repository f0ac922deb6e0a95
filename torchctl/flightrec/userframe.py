"""Which frame of a stack is the user's own: not torch's, not the standard library's, not C++.

Judged by the path alone, which is one of the worker's host and need not exist here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torchctl.flightrec.dump import Frame

_NOT_USERS = re.compile(
    r"""
    /(?:site-packages|dist-packages|pytorch)/torch/      # an installed torch, or a built one
    | /site-packages/torchctl/ | /torchctl/server/       # `python -m torchctl.server train.py`
    | /lib(?:64)?/python3\.\d+t?/(?!site-packages/|dist-packages/)
    | /python3\d+\.zip/ | \A<frozen
    | \A(?:\?\?)?\Z | \.(?:so[.\d]*|c|cc|cpp|cu|cuh|h|hpp|pyx)\Z
    """,
    re.VERBOSE,
)


def is_user_code(filename: str) -> bool:
    """Return whether a file is the user's own or a library of theirs, rather than torch's or Python's."""
    return _NOT_USERS.search(filename.replace("\\", "/")) is None


def user_frame(frames: Iterable[Frame]) -> Frame | None:
    """Return the innermost frame of the user's own code; frames come innermost first."""
    return next((frame for frame in frames if is_user_code(frame.filename)), None)
