"""The training step that this process last reported."""

from __future__ import annotations

import time

# (step, when in seconds since the epoch); replaced as a whole, so that a reader never sees half of it.
last: tuple[int, float] | None = None


def report_step(step: int) -> None:
    """Tell the debug server which step the training is at; one store, no lock, no check, no I/O.

    Args:
        step: shown by ``torchctl ps`` and `info`, with the time of this call.
    """
    global last
    last = (step, time.time())
