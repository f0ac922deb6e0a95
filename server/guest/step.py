"""The training step that this process last reported."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchctl.server.sentinel.page import Page

# (step, time in seconds since the epoch); replaced as a whole, so that a reader never sees half of it.
last: tuple[int, float] | None = None
# Where the sentinel reads it while this process cannot answer, one per server; replaced as a whole too.
pages: tuple[Page, ...] = ()


def report_step(step: int) -> None:
    """Report the current training step to the debug server; a few stores, no lock, no check, no I/O.

    Args:
        step: shown by ``torchctl ps`` and `info`, with the time of this call.
    """
    global last
    now = time.time()
    last = (step, now)
    for page in pages:
        page.report(step, now)
