"""The training step that this process last reported."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchctl.server.sentinel.page import Page

# (step, when in seconds since the epoch); replaced as a whole, so that a reader never sees half of it.
last: tuple[int, float] | None = None
# Where the sentinel reads it once this process cannot be asked, one for each server; replaced as a whole too.
pages: tuple[Page, ...] = ()


def report_step(step: int) -> None:
    """Tell the debug server which step the training is at; some stores, no lock, no check, no I/O.

    Args:
        step: shown by ``torchctl ps`` and `info`, with the time of this call.
    """
    global last
    now = time.time()
    last = (step, now)
    for page in pages:
        page.report(step, now)
