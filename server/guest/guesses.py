"""How many wrong tokens have been sent to this process, for `info`: an operator sees that someone guesses."""

from __future__ import annotations

import threading

total = 0
_lock = threading.Lock()


def note() -> None:
    """Count one."""
    global total
    with _lock:
        total += 1
