"""Refusals at a pace: who sends garbage must not take the interpreter from the training.

How this works: a number of requests is refused at once; beyond it each refusal waits for its moment, so that the whole
process refuses so many a second and no more. Who asks properly waits for nothing. In a crowd no one is kept waiting:
there the places are wanted more than the pace.
"""

from __future__ import annotations

import threading
import time

BURST = 50
PER_SECOND = 200.0  # at some 0.2 ms of the interpreter each
MAX_WAIT_S = 1.0


class Pace:
    """When the next of many may have its turn."""

    def __init__(self) -> None:
        self._free_at = float("-inf")
        self._lock = threading.Lock()

    def turn(self, now: float | None = None) -> float:
        """Take a turn.

        Args:
            now: `time.monotonic` seconds.

        Returns:
            The seconds to wait for it, at most MAX_WAIT_S.
        """
        now = time.monotonic() if now is None else now
        with self._lock:
            turn_at = max(self._free_at, now - BURST / PER_SECOND)
            wait_s = turn_at + 1 / PER_SECOND - now
            if wait_s <= MAX_WAIT_S:
                self._free_at = turn_at + 1 / PER_SECOND
            return min(max(0.0, wait_s), MAX_WAIT_S)


# Of the whole process: its listeners share one interpreter.
refusals = Pace()
