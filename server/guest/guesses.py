"""How many wrong tokens this process has received, for `info`: it shows the operator that someone is guessing."""

from __future__ import annotations

import threading

total = 0
_lock = threading.Lock()


def note() -> None:
    """Count one wrong token."""
    global total
    with _lock:
        total += 1
